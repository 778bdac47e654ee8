"""Stage `finish`: what needs no gradient. Kinds get their directions, coordinates their order, and the whole becomes a checkpoint.

The instruction of a query says which kind of item it looks for, that of an item says what it is; both shift the vector by the same direction, in which
contents do not differ at all. So an instruction's kind is told exactly: noise there would drown differences of content.
The basis turns so that the first coordinates tell the kind and the rest are the widest axes of what texts say: a vector may be cut off.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from mmsearch import prompts
from mmsearch.embedders.compact_vlm import CompactVlmEmbedder
from mmsearch.embedders.compact_vlm_model import CompactVlm
from mmsearch.items import KINDS, Kind
from mmsearch.training.assembly.join import Sequences
from mmsearch.training.assembly.settings import Assembly
from mmsearch.training.kind_axes import kind_axes, principal_basis

log = logging.getLogger(__name__)

RIDGE = 1e-4
"""So that instructions nobody named here are shifted moderately."""


@torch.no_grad()
def turn(model: CompactVlm, vectors: Tensor) -> Tensor:
    """Turn what a model reads and sees into a basis of its own, in place; before `join`, whose gate works on coordinates.

    Args:
        vectors: float32 [n, hidden], what texts of all sorts say.

    Returns:
        the same texts in the new basis, unit length. Their first coordinates, left to kinds, are zero.
    """
    axes = kind_axes(vectors.numpy())
    kept = torch.from_numpy(principal_basis(vectors.numpy(), axes))
    kept[: len(axes)] = 0
    for layer in (model.out, model.seeing.linear, model.seeing.deep):
        layer.weight.copy_(kept @ layer.weight)
        layer.bias.copy_(kept @ layer.bias)
    return F.normalize(vectors @ kept.T, dim=1)


@torch.no_grad()
def finish(model: CompactVlm, tokenizer: Tokenizer, config: Mapping[str, Any], recipe: Assembly) -> CompactVlmEmbedder:
    """Give kinds their directions, in place, and make an embedder of the model."""
    sequences = Sequences(model, tokenizer)
    tell_kinds(model, sequences, recipe.kind_strength)
    log.info("kinds are told to within %.4f", largest_shift_error(model, sequences, recipe.kind_strength))
    return CompactVlmEmbedder(
        model,
        tokenizer,
        config,
        name=recipe.name,
        sidecar={"page_text_tokens": recipe.page_text_tokens, "query_text_tokens": recipe.query_text_tokens},
        max_pixels=recipe.max_pixels,  # type: ignore[arg-type]
    )


def tell_kinds(model: CompactVlm, sequences: Sequences, strength: float) -> None:
    """Set `shift` so that each known instruction moves a vector by `strength` along its kind's coordinate."""
    told, wanted = [], []
    for number, kind in enumerate(KINDS):
        for instruction in _instructions(kind):
            told.append(sequences.told(instruction))
            wanted.append(strength * torch.eye(model.out.out_features)[number])
    known, shifts = torch.stack(told).double(), torch.stack(wanted).double()
    mean = known.mean(0)
    centred = known - mean
    gram = centred @ centred.T
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.double)
    middle = shifts.mean(0)
    weight = (torch.linalg.solve(gram + ridge, shifts - middle)).T @ centred
    model.shift.weight.copy_(weight.float())
    model.shift.bias.copy_((middle - weight @ mean).float())


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
            wanted = strength * torch.eye(model.out.out_features)[number]
            errors.append(float((model.shift(sequences.told(instruction)) - wanted).norm()))
    return float(np.max(errors))
