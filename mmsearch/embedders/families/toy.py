"""An embedder without a model, so simple that a test's expected answer is mental arithmetic.

A vector is the sum of: one axis per colour for the mean colour of the pixels, and hashed axes for the words.
A text query "red" meets a red picture, because colour words point along the colour axes.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from mmsearch.items import EmbedInput, Kind, MatchScale

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255), "black": (0, 0, 0)}


class ToyEmbedder:
    """5 colour axes and 59 word axes."""

    model_key = "toy-1"
    dim = 64
    max_pixels: Mapping[Kind, int] = {"page": 224 * 224, "image": 112 * 112, "clip": 112 * 112}
    page_text = True
    match_scale: Mapping[str, MatchScale] = MappingProxyType({})
    device = "cpu"

    def encode_queries(self, inputs: Sequence[EmbedInput]) -> np.ndarray:
        return self._encode(inputs)

    def encode_documents(self, inputs: Sequence[EmbedInput]) -> np.ndarray:
        return self._encode(inputs)

    def _encode(self, inputs: Sequence[EmbedInput]) -> np.ndarray:
        vectors = np.zeros((len(inputs), self.dim), np.float32)
        for row, item in zip(vectors, inputs, strict=True):
            for image in item.images:
                mean = np.asarray(image.convert("RGB").resize((8, 8)), np.float32).reshape(-1, 3).mean(0)
                for axis, rgb in enumerate(COLOURS.values()):
                    row[axis] += max(0.0, 1.0 - float(np.abs(mean - rgb).mean()) / 128) / len(item.images)
            for word in item.text.lower().split():
                word = word.strip(".,;:!?\"'()")
                if word in COLOURS:
                    row[list(COLOURS).index(word)] += 1.0
                elif word:
                    row[5 + zlib.crc32(word.encode()) % (self.dim - 5)] += 0.5
            if not row.any():
                row[:] = 1.0
            row /= np.linalg.norm(row)
        return vectors
