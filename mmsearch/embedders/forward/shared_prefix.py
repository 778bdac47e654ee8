"""Several prompts on the same pictures: the pictures' part of the forward pass is done once.

A prompt that begins with its visual tokens has, in a causal model with one-dimensional positions, the same hidden states there as
every other prompt on the same picture or video. So one sequence holds them once (the trunk) and then the rest of every
prompt (the branches): a branch's tokens see the trunk and their own branch, and are at the positions that they would have
had alone. Results are those of the prompts one by one, up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmsearch.embedders.forward.qwen2vl_inputs import Batch, Preparation, token_ids
from mmsearch.embedders.forward.qwen_vl import states_at
from mmsearch.prompts import IMAGE_TOKEN, VIDEO_TOKEN

ATTENDING_TOKENS = 1024
"""Tokens of branches that attend at once: the mask is as large as their number times theirs and the trunk's."""


@dataclass(frozen=True)
class BranchedBatch(Batch):
    """A batch whose sequences are trees: a trunk of visual tokens, then all branches one after the other.

    Attributes:
        branches: per sequence the tokens of each branch, at least 1.
    """

    branches: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return sum(map(len, self.branches))


def rows_on_same_visuals(
    prompts: Sequence[str], images: Sequence[Sequence[Image.Image] | None], is_video: Sequence[bool], budgets: Sequence[int]
) -> list[list[int]]:  # fmt: skip
    """Rows that can be embedded as branches of one trunk, where there are several: given the same `images` object, and with
    one visual (an image or a video), which the prompt begins with."""
    groups: dict[tuple[int, bool, int], list[int]] = {}
    for row, (prompt, visuals, video, budget) in enumerate(zip(prompts, images, is_video, budgets, strict=True)):
        token = VIDEO_TOKEN if video else IMAGE_TOKEN
        if visuals and (video or len(visuals) == 1) and prompt.startswith(token) and len(prompt) > len(token):
            groups.setdefault((id(visuals), video, budget), []).append(row)
    return [rows for rows in groups.values() if len(rows) > 1]


def branched_batch(
    preparation: Preparation,
    prompts: Sequence[Sequence[str]],
    images: Sequence[Sequence[Image.Image] | None],
    is_video: Sequence[bool],
    max_pixels: Sequence[int],
) -> BranchedBatch:
    """One tree per visual.

    Args:
        prompts: of each visual; every one begins with its visual token and has more after it.
        images, is_video, max_pixels: of each visual, as for `Preparation.batch`.
    """
    firsts = preparation.batch([own[0] for own in prompts], images, is_video, max_pixels)
    ids: list[Tensor] = []
    visual_index: list[Tensor] = []
    branches = []
    start = 0
    for first, own in zip(firsts.separated(), prompts, strict=True):
        trunk = len(first.visual_index)
        tails = [first.input_ids[trunk:]]
        tails += [torch.tensor(token_ids(preparation.tokenizer, prompt)[1:], dtype=torch.int64) for prompt in own[1:]]
        ids += [first.input_ids[:trunk], *tails]
        visual_index.append(start + first.visual_index)
        branches.append(tuple(map(len, tails)))
        start += trunk + sum(branches[-1])
    lengths = tuple(len(index) + sum(own) for index, own in zip(visual_index, branches, strict=True))
    return BranchedBatch(
        torch.cat(ids), lengths, firsts.pixels, firsts.grids, torch.cat(visual_index), tuple(branches)
    )  # fmt: skip


def branch_states(language_model: Any, tokens: Tensor, batch: BranchedBatch, *, deep: Sequence[Tensor] = ()) -> Tensor:
    """The final hidden state of each branch's last token: [branches, hidden], in the order of the batch.

    Args:
        tokens: [tokens, hidden], input embeddings.
        deep: see `mmsearch.embedders.forward.qwen_vl.last_states`.
    """
    device = tokens.device
    trees = [_Tree.of(length, own, device) for length, own in zip(batch.lengths, batch.branches, strict=True)]
    positions: list[Tensor] = []
    ends: list[int] = []
    start = 0
    for tree in trees:
        positions += [torch.arange(tree.trunk), *(tree.trunk + torch.arange(size) for size in tree.branches)]
        ends += (start + tree.trunk + torch.tensor(tree.branches).cumsum(0) - 1).tolist()
        start += tree.tokens
    position = torch.cat(positions).to(device)
    angles = position[:, None] * language_model.rotary_emb.inv_freq.float()
    return states_at(
        language_model, tokens, angles, trees, torch.tensor(ends, device=device), deep=deep, visual_index=batch.visual_index
    )  # fmt: skip


@dataclass(frozen=True)
class _Part:
    """Some branches of a tree, which attend together.

    Attributes:
        start, end: their tokens, counted from the tree's first.
        mask: bool [their tokens, trunk + their tokens], true where one may look.
        rows: which of the tree's branches they are.
        lasts: int64, their last tokens, counted from `start`.
    """

    start: int
    end: int
    mask: Tensor
    rows: slice
    lasts: Tensor


@dataclass(frozen=True)
class _Tree:
    """A span of tokens for `states_at`."""

    trunk: int
    branches: tuple[int, ...]
    parts: tuple[_Part, ...]

    @classmethod
    def of(cls, tokens: int, branches: tuple[int, ...], device: torch.device) -> _Tree:
        trunk = tokens - sum(branches)
        parts = []
        first = place = 0
        for last in range(1, len(branches) + 1):
            size = sum(branches[first:last])
            if last < len(branches) and size + branches[last] <= ATTENDING_TOKENS:
                continue
            which = torch.arange(last - first, device=device).repeat_interleave(
                torch.tensor(branches[first:last], device=device)
            )
            is_seen = (which[:, None] == which) & torch.ones(size, size, dtype=torch.bool, device=device).tril()
            mask = torch.cat([torch.ones(size, trunk, dtype=torch.bool, device=device), is_seen], 1)
            lasts = torch.tensor(branches[first:last], device=device).cumsum(0) - 1
            parts.append(_Part(trunk + place, trunk + place + size, mask, slice(first, last), lasts))
            first, place = last, place + size
        return cls(trunk, branches, tuple(parts))

    @property
    def tokens(self) -> int:
        return self.trunk + sum(self.branches)

    @property
    def rows(self) -> int:
        return len(self.branches)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[tokens, heads, head_dim] each to [tokens, heads * head_dim]."""
        is_grouped = query.shape[1] != key.shape[1]
        q, k, v = (x[: self.trunk].transpose(0, 1)[None] for x in (query, key, value))
        own = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=is_grouped)
        outputs = [own[0].transpose(0, 1).flatten(1)]
        outputs += [self._part(query[part.start : part.end], key, value, part, part.mask) for part in self.parts]
        return torch.cat(outputs)

    def attend_last(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Of each branch's last token: query [branches, heads, head_dim] to [branches, heads * head_dim]."""
        outputs = [self._part(query[part.rows], key, value, part, part.mask[part.lasts]) for part in self.parts]
        return torch.cat(outputs)

    def _part(self, query: Tensor, key: Tensor, value: Tensor, part: _Part, mask: Tensor) -> Tensor:
        k, v = (torch.cat([x[: self.trunk], x[part.start : part.end]]).transpose(0, 1)[None] for x in (key, value))
        q = query.transpose(0, 1)[None]
        output = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
        return output[0].transpose(0, 1).flatten(1)
