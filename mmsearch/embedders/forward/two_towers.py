"""Two towers, one for texts and one for pictures, into one space: what CLIP, SigLIP, BLIP and X-CLIP share.

They were trained on captions and pictures as they are, so the instruction is dropped. An input with text and pictures (a composed
query, a target with its caption) is the sum of both unit vectors, made a unit vector again: the cosine to it is the mean of both
cosines but for a factor (UniIR's score fusion, arXiv 2311.17136). `page_text` is False: pages and clips are given as pixels alone, since
their text rarely fits the text tower.

Several pictures, and the frames of a clip where the vision tower knows single pictures only, are the mean of their unit vectors,
made a unit vector again: the mean pooling over frames that CLIP4Clip (arXiv 2104.08860) found hard to beat without training on
video, and the baseline of VideoCoCa (arXiv 2212.04979).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from mmsearch.embedders.checkpoints.checkpoint import load_tokenizer
from mmsearch.embedders.checkpoints.opening import Opened, OpensCheckpoints, match_scales, model_key
from mmsearch.embedders.checkpoints.pretrained import pretrained
from mmsearch.embedders.forward.batching import batches_by_cost, in_halves, made_ahead
from mmsearch.errors import EmbedderError
from mmsearch.items import EmbedInput, Kind, MatchScale

POSITIONS_PER_BATCH = {"cpu": 4096, "cuda": 65536}
"""Patches, or tokens, that go through a tower together."""
WIDEST = 9
"""Pictures are handed over with at most so many times the pixels that the tower sees, for those up to so many times as wide as high."""

Shot = tuple[Image.Image, ...]
"""What the vision tower sees as one: a picture, or the frames of a clip where it knows clips."""


class TwoTowerEmbedder(OpensCheckpoints):
    """An embedder over a dual encoder of transformers; implements `mmsearch.embedders.Embedder`.

    A subclass says which model it is, how text becomes ids and how pictures become pixels, and reads the features off.

    Attributes:
        patches: positions of one shot in the vision tower.
    """

    page_text = False
    preprocessing_version: ClassVar[int] = 1
    """Goes into the model key: raise it whenever the same input would give other ids or pixels."""

    model_key: str
    max_pixels: Mapping[Kind, int]
    match_scale: Mapping[str, MatchScale]

    def __init__(self, opened: Opened, *, max_pixels: int | None) -> None:
        """Use `load`."""
        self.model = pretrained(self.architecture(), opened)
        self.tokenizer = load_tokenizer(opened.checkpoint)
        self.name = opened.name
        self.device = opened.device
        self.match_scale = match_scales(opened.sidecar)
        self.dim, self.patches, side_pixels, decisive = self._describe(opened, max_pixels)
        self.max_pixels = opened.max_pixels(max_pixels, WIDEST * side_pixels)
        self.model_key = model_key(
            self.name,
            {
                "checkpoint": opened.checkpoint.sha256(),
                "family": type(self).__name__,
                "preprocessing": self.preprocessing_version,
                "pictures": decisive,
                "max_pixels": self.max_pixels,
            },
        )

    @classmethod
    def of_checkpoint(cls, opened: Opened, *, min_pixels: int | None, max_pixels: int | None) -> Self:
        """A tower with one fixed size makes its pictures that size: `max_pixels` bounds only what is handed over to it, and `min_pixels`
        has no effect.
        """
        return cls(opened, max_pixels=max_pixels)

    @staticmethod
    @abstractmethod
    def architecture() -> Any:
        """The class of transformers."""

    @abstractmethod
    def _describe(self, opened: Opened, max_pixels: int | None) -> tuple[int, int, int, Any]:
        """Set up, and tell: the dimension, the patches of a shot, the pixels of a picture as seen, and what decides them (JSON)."""

    @abstractmethod
    def token_ids(self, text: str) -> list[int]:
        """As the text tower reads them, with its special tokens, cut to its length."""

    @abstractmethod
    def text_features(self, ids: Sequence[list[int]]) -> torch.Tensor:
        """[n, dim], any length."""

    def shots(self, item: EmbedInput) -> list[Shot]:
        """What of an input goes through the vision tower as one each."""
        return [(image,) for image in item.images]

    @abstractmethod
    def prepared(self, shot: Shot) -> Any:
        """Pixels of a shot, on the CPU; may run in another thread."""

    @abstractmethod
    def picture_features(self, prepared: Sequence[Any]) -> torch.Tensor:
        """[n, dim], any length."""

    def encode_queries(self, inputs: Sequence[EmbedInput]) -> np.ndarray:
        """float32 [len(inputs), dim], unit length, finite, in the order given."""
        return self._encode(inputs)

    def encode_documents(self, inputs: Sequence[EmbedInput]) -> np.ndarray:
        """float32 [len(inputs), dim], unit length, finite, in the order given. The towers know no sides."""
        return self._encode(inputs)

    def _encode(self, inputs: Sequence[EmbedInput]) -> np.ndarray:
        with_text = [row for row, item in enumerate(inputs) if item.text or not item.images]
        shots = [(row, shot) for row, item in enumerate(inputs) for shot in self.shots(item)]
        seen = np.zeros((len(inputs), self.dim), np.float32)
        np.add.at(seen, [row for row, _ in shots], self.embed_shots([shot for _, shot in shots]))
        vectors = unit(seen)
        vectors[with_text] += self.embed_texts([inputs[row].text for row in with_text])
        vectors = unit(vectors)
        finite = np.isfinite(vectors).all(1) & vectors.any(1)
        if not finite.all():
            raise EmbedderError(f"the model's output for input {int(np.flatnonzero(~finite)[0])} is not finite")
        return vectors

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [len(texts), dim], unit length."""
        ids = [self.token_ids(text) for text in texts]
        return self._in_batches([len(row) for row in ids], ids.__getitem__, self.text_features)

    def embed_shots(self, shots: Sequence[Shot]) -> np.ndarray:
        """float32 [len(shots), dim], unit length."""
        return self._in_batches(
            [self.patches] * len(shots), lambda row: self.prepared(shots[row]), self.picture_features
        )

    def _in_batches(
        self, costs: Sequence[int], prepare: Callable[[int], Any], features: Callable[[Sequence[Any]], torch.Tensor]
    ) -> np.ndarray:
        vectors = np.empty((len(costs), self.dim), np.float32)
        budget = POSITIONS_PER_BATCH["cuda" if self.device.startswith("cuda") else "cpu"]
        batches = batches_by_cost([(0, cost) for cost in costs], budget)

        def prepare_all(rows: list[int]) -> dict[int, Any]:
            return {row: prepare(row) for row in rows}

        for rows, ready in zip(batches, made_ahead(prepare_all, batches), strict=True):

            @torch.no_grad()
            def compute(some: Sequence[int], ready: dict[int, Any] = ready) -> np.ndarray:
                return F.normalize(features([ready[row] for row in some]).float(), dim=-1).cpu().numpy()

            vectors[rows] = in_halves(compute, rows, device=self.device)
        return vectors

    def _to_model(self, values: torch.Tensor) -> torch.Tensor:
        """On its device; numbers with a fraction in its dtype."""
        values = values.to(self.device)
        return values.to(self.model.dtype) if values.is_floating_point() else values


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of unit length; zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)
