"""What the model must not forget: its own vectors of everyday queries and of items that nothing is said about, as training targets."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from mmsearch.embedders import Embedder
from mmsearch.items import KINDS, EmbedInput
from mmsearch.prompts import DOCUMENT_INSTRUCTIONS, TEXT_QUERY_INSTRUCTIONS, final_prompt, split_prompt
from mmsearch.ranking.relevance import GENERIC_QUERIES
from mmsearch.training.data.teacher_groups import SubBatch

COMPOSED = 120
"""Queries made of two generic ones, beside those themselves."""


@dataclass(frozen=True)
class Kept:
    """A group of teacher vectors (`mmsearch.training.data.teacher_groups.Group`) whose teacher is the model before training.

    Attributes:
        pictures: files per prompt: none, one picture, or a clip's frames.
        bank: float32 [n, dim], the former vectors, by prompt.
    """

    name: str
    prompts: Sequence[str]
    bank: np.ndarray
    pictures: Sequence[Sequence[Path]] = field(default_factory=tuple)
    is_video: bool = False

    def draw(self, count: int, rng: random.Random, sizes: Sequence[Sequence[int]]) -> SubBatch:
        """Pictures come in their own size, not in one of `sizes`: as the library's items are embedded."""
        rows = rng.sample(range(len(self.prompts)), min(count, len(self.prompts)))
        images = [[_opened(file) for file in self.pictures[row]] if self.pictures else [] for row in rows]
        return SubBatch(
            self.name,
            [self.prompts[row] for row in rows],
            images,
            [self.is_video] * len(rows),
            self.bank[rows].copy(),
            self.bank,
        )


def everyday_prompts() -> list[str]:
    """Query prompts of every kind, and the same words as texts."""
    rng = random.Random(0)
    words = list(GENERIC_QUERIES)
    words += [f"{a}, {b}" for a, b in (rng.sample(GENERIC_QUERIES, 2) for _ in range(COMPOSED))]
    prompts = [final_prompt(TEXT_QUERY_INSTRUCTIONS[kind], text) for kind in KINDS for text in words]
    return list(dict.fromkeys([*prompts, *words, *DOCUMENT_INSTRUCTIONS.values()]))


def everyday_queries(embedder: Embedder) -> Kept:
    """The model's own vectors of `everyday_prompts`."""
    prompts = everyday_prompts()
    return Kept("text", prompts, vectors_of(embedder, prompts))


def vectors_of(embedder: Embedder, prompts: Sequence[str]) -> np.ndarray:
    """float32 [n, dim] of prompts without pictures."""
    return np.asarray(embedder.encode_queries([EmbedInput(*split_prompt(prompt)) for prompt in prompts]))


def _opened(file: Path) -> Image.Image:
    with Image.open(file, formats=("PNG",)) as image:
        return image.convert("RGB")
