"""Late interaction: every token of an input is a vector of its own, compared by MaxSim. What ColPali and ColQwen2 share.

An item is float32 [tokens, dim], rows of unit length, padding left out. The published processors take a text or a picture, never
both, so an input is cut into its texts and pictures, each is embedded alone, and their tokens lie one after the other: of several
frames or pictures every query token takes the best patch of any. The instruction is dropped: these models were trained without.

Source: illuin-tech/colpali `colpali_engine/models` and transformers' `ColPaliForRetrieval`, `ColQwen2ForRetrieval`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer

from mmsearch.embedders.checkpoints.checkpoint import SIDECAR, load_tokenizer
from mmsearch.embedders.checkpoints.opening import Opened, OpensCheckpoints, match_scales, model_key
from mmsearch.embedders.checkpoints.pretrained import pretrained
from mmsearch.embedders.forward.batching import batches_by_cost, made_ahead
from mmsearch.embedders.forward.packed import POSITIONS_PER_BATCH
from mmsearch.embedders.forward.qwen2vl_inputs import first_tokens
from mmsearch.embedders.forward.token_pooling import pooled
from mmsearch.errors import EmbedderError
from mmsearch.items import EmbedInput, Kind, MatchScale

AUGMENTATION = 10
"""Padding tokens behind a query, which the model may use to ask for more than the words say."""
TEXT_TOKENS = 1024
"""Tokens of a text that the model is given at most."""

Piece = str | Image.Image
"""What goes through the model as one sequence: a complete text prompt, or a picture."""


class LateInteractionEmbedder(OpensCheckpoints):
    """Multi-vector embedders of one projection over a vision-language model; `mmsearch.embedders.Embedder` but for lists.

    Attributes:
        is_multi_vector: `encode_queries` and `encode_documents` give a list of float32 [tokens, dim].
        pool_factor: from the sidecar: of a document every so many tokens are joined to one; 1: none are. See `token_pooling`.
    """

    is_multi_vector = True
    page_text = False
    is_padded: ClassVar[bool]
    """Whether sequences of other lengths may share a batch: true where attention looks back only."""
    preprocessing_version: ClassVar[int] = 1
    """Goes into the model key: raise it whenever the same input would give other ids or pixels."""

    def __init__(
        self,
        opened: Opened,
        model: Any,
        tokenizer: Tokenizer,
        *,
        visual_prompt: str,
        query_prefix: str,
        pad_token: str,
        min_pixels: int,
        max_pixels: Mapping[Kind, int],
    ) -> None:
        """Use `load`."""
        self.model = model
        self.tokenizer = tokenizer
        self.name = opened.name
        self.dim = int(model.config.embedding_dim)
        self.max_pixels: Mapping[Kind, int] = dict(max_pixels)
        self.match_scale: Mapping[str, MatchScale] = match_scales(opened.sidecar)
        self.pool_factor = _pool_factor(opened)
        self.device = str(model.device)
        self.visual_prompt = visual_prompt
        self.query_prefix = query_prefix
        self.query_suffix = pad_token * AUGMENTATION + "\n"
        decisive = {
            "checkpoint": opened.checkpoint.sha256(),
            "prompt": visual_prompt,
            "preprocessing": self.preprocessing_version,
            "min_pixels": min_pixels,
            "max_pixels": self.max_pixels,
            "pool_factor": self.pool_factor,
        }
        self.model_key = model_key(self.name, decisive)

    def encode_queries(self, inputs: Sequence[EmbedInput]) -> list[np.ndarray]:
        """float32 [tokens, dim] each, rows of unit length, finite, in the order given."""
        return self._encode(inputs, with_text=True)

    def encode_documents(self, inputs: Sequence[EmbedInput]) -> list[np.ndarray]:
        """float32 [tokens, dim] each, rows of unit length, finite, in the order given. The text beside a picture is dropped."""
        documents = self._encode(inputs, with_text=False)
        return documents if self.pool_factor == 1 else [pooled(tokens, self.pool_factor) for tokens in documents]

    def _encode(self, inputs: Sequence[EmbedInput], *, with_text: bool) -> list[np.ndarray]:
        pieces: list[Piece] = []
        counts = []
        for item in inputs:
            own: list[Piece] = [image.convert("RGB") for image in item.images]
            if item.text and (with_text or not own):
                own.append(self._query_prompt(item.text))
            if not own:
                raise EmbedderError(f"{self.name} cannot embed an input without text and picture")
            pieces += own
            counts.append(len(own))
        embedded = iter(self.embed_pieces(pieces))
        return [np.concatenate([next(embedded) for _ in range(count)]) for count in counts]

    def _query_prompt(self, text: str) -> str:
        return f"{self.query_prefix}{first_tokens(self.tokenizer, text, TEXT_TOKENS)}{self.query_suffix}"

    def embed_pieces(self, pieces: Sequence[Piece]) -> list[np.ndarray]:
        """Complete prompts and RGB pictures, each float32 [tokens, dim], in the order given.

        Raises:
            EmbedderError: the model's output is not finite; an input does not fit into the accelerator's memory.
        """
        vectors: list[np.ndarray] = [np.empty((0, self.dim), np.float32)] * len(pieces)
        batches = self._batches(pieces)
        prepared = made_ahead(lambda rows: self._prepare([pieces[row] for row in rows]), batches)
        for rows, batch in zip(batches, prepared, strict=True):
            for row, tokens in zip(rows, self._embed([pieces[row] for row in rows], batch), strict=True):
                if not np.isfinite(tokens).all():
                    raise EmbedderError(f"the model's output for input {row} is not finite")
                vectors[row] = tokens
        return vectors

    def _batches(self, pieces: Sequence[Piece]) -> list[list[int]]:
        """Rows of like cost; where nothing may be padded, of the same length."""
        costs = [self._cost(piece) for piece in pieces]
        budget = POSITIONS_PER_BATCH["cuda" if self.device.startswith("cuda") else "cpu"]
        if self.is_padded:
            return batches_by_cost(costs, budget)
        alike: dict[tuple[int, int], list[int]] = {}
        for row, cost in enumerate(costs):
            alike.setdefault(cost, []).append(row)
        return [
            [rows[place] for place in batch]
            for cost, rows in alike.items()
            for batch in batches_by_cost([cost] * len(rows), budget)
        ]

    @torch.no_grad()
    def _embed(self, pieces: Sequence[Piece], prepared: Any) -> list[np.ndarray]:
        """What does not fit into the accelerator's memory is tried in halves."""
        try:
            return [F.normalize(tokens.float(), dim=-1).cpu().numpy() for tokens in self._forward(prepared)]
        except torch.OutOfMemoryError as error:
            if len(pieces) == 1:
                raise EmbedderError(f"an input does not fit into the memory of {self.device}") from error
        torch.cuda.empty_cache()
        half = len(pieces) // 2
        halves = (pieces[:half], pieces[half:])
        return [tokens for some in halves for tokens in self._embed(some, self._prepare(some))]

    @abstractmethod
    def _cost(self, piece: Piece) -> tuple[int, int]:
        """(patches, tokens) of a piece; exact where `is_padded` is false."""

    @abstractmethod
    def _prepare(self, pieces: Sequence[Piece]) -> Any:
        """What `_forward` takes, on the CPU; may run in another thread."""

    @abstractmethod
    def _forward(self, prepared: Any) -> list[torch.Tensor]:
        """[tokens, dim] of each piece, not yet of unit length."""


def merged_model(architecture: Any, opened: Opened) -> tuple[Any, Tokenizer]:
    """transformers' model of a checkpoint in evaluation mode on its device, and its tokenizer.

    Raises:
        ModelNotFound: no weights, or no tokenizer. EmbedderError: an adapter; otherwise as `pretrained`.
    """
    if (adapter := opened.checkpoint.adapter) is not None:
        raise EmbedderError(
            f"{adapter} is an adapter; this family opens merged checkpoints, such as vidore/colpali-v1.3-hf"
        )
    return pretrained(architecture, opened), load_tokenizer(opened.checkpoint)


def processor_fields(opened: Opened) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What the processor's files say of prompts and of pictures, wherever this release of transformers wrote it."""
    told = opened.checkpoint.json("processor_config.json")
    return told, opened.checkpoint.json("preprocessor_config.json") or told.get("image_processor") or {}


def special_token(opened: Opened, role: str, default: str) -> str:
    """A special token as tokenizer_config.json has it: a string, or the content of a described token."""
    told = opened.checkpoint.json("tokenizer_config.json").get(role, default)
    return str(told["content"] if isinstance(told, dict) else told or default)


def _pool_factor(opened: Opened) -> int:
    factor = opened.sidecar.get("pool_factor", 1)
    if not isinstance(factor, int) or factor < 1:
        raise EmbedderError(f"{SIDECAR}: pool_factor is {factor!r}, not a whole number from 1 on")
    return factor
