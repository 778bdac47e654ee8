"""Quick looks at the development split while a stage goes on; the numbers that count are `mmsearch.evaluation.development`'s."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmsearch.embedders.forward.compact_vlm_model import EfficientNetLite
from mmsearch.evaluation.metrics import measure
from mmsearch.evaluation.split import Split
from mmsearch.training.assembly.grids import Grids, cells_of, pixels, viewed
from mmsearch.training.assembly.material import WRITTEN_LANGUAGES, Material
from mmsearch.training.assembly.seeing import Head
from mmsearch.training.assembly.text_encoder import in_turn

Encode = Callable[[Sequence[str], int], Tensor]
"""Texts and the most tokens of each that are read -> unit vectors [n, size]."""
PAGE_TOKENS, QUERY_TOKENS = 160, 48


class Pages:
    """nDCG@5 of pages by their text alone: questions by hand, 200 queries in words of the pages, paraphrases, and questions in other languages."""

    def __init__(self, material: Material) -> None:
        split = Split(material.data, material.work)
        self._texts = split.page_texts
        self._queries: dict[str, Sequence[tuple[str, Any]]] = {
            "questions": split.natural_queries,
            "words": split.page_queries[:200],
            "paraphrases": split.paraphrases,
            **split.translated_queries,
        }

    def __call__(self, encode: Encode) -> dict[str, float]:
        found = in_turn(lambda some: encode(some, PAGE_TOKENS), self._texts)
        numbers: dict[str, float] = {}
        foreign: list[float] = []
        for name, queries in self._queries.items():
            asked = in_turn(lambda some: encode(some, QUERY_TOKENS), [query for query, _ in queries])
            number = measure((asked @ found.T).numpy(), [right for _, right in queries])["nDCG@5"]
            if name in WRITTEN_LANGUAGES:
                foreign.append(number)
            else:
                numbers[name] = round(number, 3)
        numbers["other languages"] = round(float(np.mean(foreign)), 3)
        return numbers


def photos(material: Material, texts: Tensor) -> Callable[[Head, EfficientNetLite], str]:
    """Recall of captions on the split's photos, by a network under training."""
    held = [n for n, photo in enumerate(material.photos) if photo.set_name == "flickr8k" and photo.development]

    @torch.no_grad()
    def look(head: Head, network: EfficientNetLite) -> str:
        network.eval()
        cells = []
        for at in range(0, len(held), 16):
            images = [viewed(material.photos[n].member.image(), 0, random.Random(0)) for n in held[at : at + 16]]
            cells.append(cells_of(network(pixels(images))))
        head.eval()
        told = _recalls(head(head.seeing.pooled(torch.cat(cells))), material, head.told(texts), held)
        head.train()
        return told

    return look


@torch.no_grad()
def seen(material: Material, texts: Tensor, grids: Grids, head: Head) -> str:
    """Captions to photos in each language, and texts to clips."""
    held = [n for n, photo in enumerate(material.photos) if photo.set_name == "flickr8k" and photo.development]
    cells = torch.from_numpy(grids.photos(0)[held].astype(np.float32))
    told = _recalls(head(head.seeing.pooled(cells)), material, head.told(texts), held)
    kept = [n for n, clip in enumerate(material.clips) if clip.development]
    frames = torch.from_numpy(grids.clips()[kept].astype(np.float32))
    pooled = head.seeing.pooled(frames.flatten(0, 1)).view(len(kept), frames.shape[1], -1).mean(1)
    asked = head.told(texts)[[material.said.clips[n][0].row for n in kept]]
    found = measure((asked @ head(pooled).T).numpy(), range(len(kept)))
    return f"{told}, clips R@10 {found['R@10']:.3f}"


def _recalls(vectors: Tensor, material: Material, texts: Tensor, held: Sequence[int]) -> str:
    told = []
    for language in ("en", "de", "fr", "cs"):
        asked = [
            (one.row, at) for at, n in enumerate(held) for one in material.said.photos[n] if one.language == language
        ]
        scores = texts[[row for row, _ in asked]] @ vectors.T
        found = measure(scores.numpy(), [at for _, at in asked])
        told.append(f"{language} R@1 {found['R@1']:.3f} R@10 {found['R@10']:.3f}")
    return ", ".join(told)
