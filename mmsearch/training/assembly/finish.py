"""Stage `finish`: what needs no gradient. Kinds get their directions, coordinates their order, and the whole becomes a checkpoint.

The instruction of a query says which kind of item it looks for, that of an item says what it is; both shift the vector by the same direction, in which
contents do not differ at all. So an instruction's kind is told exactly: noise there would drown differences of content.
The basis turns so that the first coordinates tell the kind and the rest are the widest axes of what texts say: a vector may be cut off.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from mmsearch import prompts
from mmsearch.embedders.families.compact_vlm import CompactVlmEmbedder
from mmsearch.embedders.forward.compact_vlm_model import CompactVlm
from mmsearch.items import KINDS, Kind
from mmsearch.training.assembly.join import Sequences
from mmsearch.training.assembly.settings import Assembly
from mmsearch.training.objective.kind_axes import kind_axes, principal_basis

PICTURES: tuple[Kind, ...] = ("image", "clip")

log = logging.getLogger(__name__)

RIDGE = 1e-4
"""So that instructions nobody named here are shifted moderately."""


@torch.no_grad()
def turned_basis(vectors: Tensor) -> Tensor:
    """float32 [size, size]: rows that take texts `vectors` [n, size] into a basis of their own. The first rows, left to kinds, are zero."""
    axes = kind_axes(vectors.numpy())
    basis = torch.from_numpy(principal_basis(vectors.numpy(), axes))
    basis[: len(axes)] = 0
    return basis


@torch.no_grad()
def leave_to_kinds(layers: Sequence[nn.Linear | None]) -> None:
    """Whatever these layers (those that there are) say along the coordinates of kinds is taken out."""
    for layer in layers:
        if layer is None:
            continue
        layer.weight[: len(KINDS)] = 0
        if layer.bias is not None:
            layer.bias[: len(KINDS)] = 0


@torch.no_grad()
def finish(
    model: CompactVlm,
    tokenizer: Tokenizer,
    english_tokenizer: Tokenizer,
    config: Mapping[str, Any],
    recipe: Assembly,
    gate: Tensor,
) -> CompactVlmEmbedder:
    """Give kinds their directions and queries for pictures their `gate`, in place, and make an embedder of the model."""
    sequences = Sequences(model, tokenizer)
    tell_gates(model, sequences, gate)
    tell_kinds(model, sequences, recipe.kind_strength)
    log.info("kinds are told to within %.4f", largest_shift_error(model, sequences, recipe.kind_strength))
    return CompactVlmEmbedder(
        model,
        tokenizer,
        config,
        name=recipe.name,
        sidecar={"page_text_tokens": recipe.page_text_tokens, "query_text_tokens": recipe.query_text_tokens},
        max_pixels=recipe.max_pixels,  # type: ignore[arg-type]
        english_tokenizer=english_tokenizer,
    )


@torch.no_grad()
def tell_kinds(model: CompactVlm, sequences: Sequences, strength: float) -> None:
    """Set `shift` so that each known instruction moves a vector by `strength` along its kind's coordinate."""
    wanted = {
        instruction: strength * torch.eye(model.size)[number]
        for number, kind in enumerate(KINDS)
        for instruction in _instructions(kind)
    }
    fit(model.shift, sequences, wanted)


@torch.no_grad()
def tell_gates(model: CompactVlm, sequences: Sequences, gate: Tensor) -> None:
    """Set the model's gate to `gate` [size] for texts that look for pictures or clips; for other known instructions it stays."""
    wanted = {
        instruction: model.gate(sequences.told(instruction)) for kind in KINDS for instruction in _instructions(kind)
    }
    for kind in PICTURES:
        wanted[prompts.TEXT_QUERY_INSTRUCTIONS[kind]] = gate
    fit(model.gate, sequences, wanted)


def fit(layer: nn.Linear, sequences: Sequences, wanted: Mapping[str, Tensor]) -> None:
    """Set a layer so that of each instruction it makes the vector `wanted`, with the smallest weights that do."""
    known = torch.stack([sequences.told(instruction) for instruction in wanted]).double()
    targets = torch.stack(list(wanted.values())).double()
    mean, middle = known.mean(0), targets.mean(0)
    centred = known - mean
    gram = centred @ centred.T
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.double)
    weight = torch.linalg.solve(gram + ridge, targets - middle).T @ centred
    layer.weight.copy_(weight.float())
    layer.bias.copy_((middle - weight @ mean).float())


def _instructions(kind: Kind) -> list[str]:
    tables = (
        prompts.DOCUMENT_INSTRUCTIONS,
        prompts.TEXT_QUERY_INSTRUCTIONS,
        prompts.IMAGE_QUERY_INSTRUCTIONS,
        prompts.COMPOSED_QUERY_INSTRUCTIONS,
    )
    return list(dict.fromkeys(table[kind] for table in tables))


def largest_shift_error(model: CompactVlm, sequences: Sequences, strength: float) -> float:
    """How far a known instruction's shift is from what it should be, at most."""
    errors = []
    for number, kind in enumerate(KINDS):
        for instruction in _instructions(kind):
            wanted = strength * torch.eye(model.size)[number]
            errors.append(float((model.shift(sequences.told(instruction)) - wanted).norm()))
    return float(np.max(errors))
