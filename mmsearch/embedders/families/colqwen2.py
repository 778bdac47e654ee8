"""ColQwen2: Qwen2-VL with every token projected to 128 numbers; pictures keep their shape, 768 merged patches at most.

Takes text, pictures, or frames (each frame a picture). Drops the instruction. Positions are three-dimensional for visual tokens, as
the model was trained (illuin-tech/colpali `models/qwen2/colqwen2`, transformers up to 4.57); transformers 5's own forward has lost
them (it counts visual tokens one by one unless it is given positions). Source: transformers' `ColQwen2Processor`,
`ColQwen2ForRetrieval` (vidore/colqwen2-v1.0-hf); arXiv 2407.01449.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from tokenizers import Tokenizer

from mmsearch.embedders.checkpoints.opening import Opened
from mmsearch.embedders.forward.late_interaction import (
    LateInteractionEmbedder,
    Piece,
    merged_model,
    processor_fields,
    special_token,
)
from mmsearch.embedders.forward.qwen2vl_inputs import MERGE, PATCH, Batch, Grid, Preparation
from mmsearch.embedders.forward.qwen_vl import vision_features

VISUAL_PROMPT = (
    "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Describe the image.<|im_end|><|endoftext|>"
)
QUERY_PREFIX = "Query: "
MIN_PIXELS, MAX_PIXELS = 4 * 28 * 28, 768 * 28 * 28


class ColQwen2Embedder(LateInteractionEmbedder):
    """No token sees a later one, so shorter sequences are padded behind their end and no mask is needed."""

    is_padded = True

    def __init__(self, opened: Opened, model: Any, tokenizer: Tokenizer, *, min_pixels: int, **common: Any) -> None:
        """Use `load`."""
        super().__init__(opened, model, tokenizer, min_pixels=min_pixels, **common)
        vlm = model.config.vlm_config
        self.preparation = Preparation(tokenizer, vlm.image_token_id, vlm.video_token_id, min_pixels)

    @classmethod
    def of_checkpoint(cls, opened: Opened, *, min_pixels: int | None, max_pixels: int | None) -> Self:
        from transformers.models.colqwen2.modeling_colqwen2 import ColQwen2ForRetrieval

        model, tokenizer = merged_model(ColQwen2ForRetrieval, opened)
        told, picture = processor_fields(opened)
        size = picture.get("size") or {}
        lowest = min_pixels or picture.get("min_pixels") or size.get("shortest_edge") or MIN_PIXELS
        highest = picture.get("max_pixels") or size.get("longest_edge") or MAX_PIXELS
        return cls(
            opened,
            model,
            tokenizer,
            visual_prompt=told.get("visual_prompt_prefix") or VISUAL_PROMPT,
            query_prefix=told.get("query_prefix") or QUERY_PREFIX,
            pad_token=special_token(opened, "pad_token", "<|endoftext|>"),
            min_pixels=int(lowest),
            max_pixels=opened.max_pixels(max_pixels, int(highest)),
        )

    def _cost(self, piece: Piece) -> tuple[int, int]:
        if isinstance(piece, str):
            return 0, len(piece) // 4 + 1
        budget = max(self.max_pixels.values())
        pixels = min(max(piece.width * piece.height, self.preparation.min_pixels), budget)
        return pixels // PATCH**2, pixels // (PATCH * MERGE) ** 2

    def _prepare(self, pieces: Sequence[Piece]) -> Batch:
        budget = max(self.max_pixels.values())
        return self.preparation.batch(
            [one if isinstance(one, str) else self.visual_prompt for one in pieces],
            [None if isinstance(one, str) else [one] for one in pieces],
            [False] * len(pieces),
            [budget] * len(pieces),
        )

    def _forward(self, prepared: Batch) -> list[torch.Tensor]:
        batch = prepared.to(self.device)
        vlm = self.model.vlm
        tokens = vlm.language_model.embed_tokens(batch.input_ids)
        if batch.grids:
            pixels = batch.pixel_values(tokens.dtype)
            tokens = tokens.index_copy(0, batch.visual_index, vision_features(vlm.visual, pixels, batch.grids))
        states = vlm.language_model(
            inputs_embeds=torch.nn.utils.rnn.pad_sequence(tokens.split(batch.lengths), batch_first=True),
            position_ids=torch.nn.utils.rnn.pad_sequence(
                list(positions(batch).to(self.device).T.split(batch.lengths)), batch_first=True
            ).permute(2, 0, 1),
            use_cache=False,
        ).last_hidden_state
        real = torch.cat([row[:length] for row, length in zip(states, batch.lengths, strict=True)])
        return list(self.model.embedding_proj_layer(real).split(batch.lengths))


def positions(batch: Batch) -> torch.Tensor:
    """int64 [3, tokens]: time, row and column of every token of sequences that have one image each at most, or none.

    Words count on in all three; a picture's tokens take its place in time and their own in the grid, and what follows counts on from
    the longer side. Source: arXiv 2409.12191 §2.1; transformers `Qwen2VLModel.get_rope_index`.
    """
    found = []
    grids = iter(batch.grids)
    visual = batch.visual_index.cpu()
    start = 0
    for length in batch.lengths:
        own = visual[(visual >= start) & (visual < start + length)] - start
        found.append(_with_image(length, int(own[0]), next(grids)) if len(own) else torch.arange(length).expand(3, -1))
        start += length
    return torch.cat(found, dim=1)


def _with_image(length: int, first: int, grid: Grid) -> torch.Tensor:
    rows, columns = grid[1] // MERGE, grid[2] // MERGE
    before = torch.arange(first).expand(3, -1)
    inside = torch.stack(
        (
            torch.zeros(rows * columns, dtype=torch.int64),
            torch.arange(rows).repeat_interleave(columns),
            torch.arange(columns).repeat(rows),
        )
    )
    after = torch.arange(length - first - rows * columns).expand(3, -1)
    return torch.cat((before, first + inside, first + max(rows, columns) + after), dim=1)
