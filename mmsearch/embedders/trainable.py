"""What training asks of a model beyond `Embedder`: one contract for the families that `mmsearch train` trains.

The engine hands over final prompts (`mmsearch.prompts.final_prompt`) with their pictures; a family prepares them in its own way, and gives
embeddings with gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar, cast

import torch
from PIL import Image
from tokenizers import Tokenizer

from mmsearch.embedders import Embedder
from mmsearch.embedders.checkpoints.checkpoint import Checkpoint, Tensors
from mmsearch.embedders.families import family_class
from mmsearch.embedders.families.choice import family_of
from mmsearch.items import Kind


class PromptBatch(Protocol):
    """Prompts with their pictures, ready for the model; can be sent to another process.

    Attributes:
        patches: what the pictures cost, in the family's own unit of sight (patches, cells).
        tokens: of text and, where they are read with it, of pictures.
        cost: of all of it, for chunks of like cost.
    """

    @property
    def patches(self) -> int: ...

    @property
    def tokens(self) -> int: ...

    @property
    def cost(self) -> int: ...

    def __len__(self) -> int: ...

    def to(self, device: torch.device | str) -> Self:
        """The same batch on `device`, as far as the family does not move it later."""
        ...

    def separated(self) -> list[Self]:
        """A batch per prompt."""
        ...

    @classmethod
    def joined(cls, batches: Sequence[Self]) -> Self:
        """Several batches as one, in their order: the inverse of `separated`."""
        ...


class Preparing(Protocol):
    """From final prompts and pictures to a `PromptBatch`. It holds no model and can be sent to another process."""

    def batch(
        self,
        prompts: Sequence[str],
        images: Sequence[Sequence[Image.Image] | None],
        is_video: Sequence[bool],
        max_pixels: Sequence[int],
    ) -> PromptBatch:
        """Arguments as in `mmsearch.embedders.forward.qwen2vl_inputs.Preparation.batch`."""
        ...


class Trainable(Embedder, Protocol):
    """A model that can be trained, saved and opened again.

    Attributes:
        model: its named parameters are what training changes; a buffer is never trained.
        vision_weights: how the names of the weights that see begin: all that a stage with `trains: vision` trains.
        tower_weights: the same of those that `vision_tower: frozen` keeps.
        about: what it is and how it embeds, for a model card; `tags` too.
    """

    family: ClassVar[str]
    vision_weights: ClassVar[tuple[str, ...]]
    tower_weights: ClassVar[tuple[str, ...]]
    about: ClassVar[Mapping[str, Any]]

    name: str
    tokenizer: Tokenizer
    min_pixels: int
    page_text_tokens: int
    query_text_tokens: int

    @property
    def model(self) -> Any: ...

    @property
    def preparation(self) -> Preparing: ...

    @classmethod
    def load(cls, name_or_folder: str | Path, *, device: str | None = None, dtype: str | None = None) -> Self: ...

    def with_budgets(
        self,
        *,
        name: str,
        min_pixels: int,
        max_pixels: Mapping[Kind, int],
        page_text_tokens: int,
        query_text_tokens: int,
    ) -> Trainable:
        """The same model, not copied, under another name; it looks and reads as told. What was measured of it (`match_scale`) is gone."""
        ...

    def forward(self, batch: Any) -> torch.Tensor:
        """Embeddings of a `PromptBatch` that its preparation made: float32 [len(batch), dim], unit length, with gradients if enabled."""
        ...

    def weights_changed(self) -> None:
        """Forget what was computed with the weights as they were before."""
        ...

    def save(self, folder: str | Path, *, dtype: torch.dtype = ...) -> None:
        """Write a checkpoint, weights last; `load` opens it."""
        ...

    def save_without_weights(self, folder: str | Path) -> None:
        """Everything of a checkpoint but its weights."""
        ...

    @staticmethod
    def read_weights(checkpoint: Checkpoint) -> Tensors:
        """Every tensor under its name in `model`, parameters and stored buffers; on the CPU. Raises: EmbedderError."""
        ...

    @staticmethod
    def write_weights(folder: Path, tensors: Tensors, dtype: torch.dtype) -> None:
        """The inverse: beside what `save_without_weights` wrote. Raises: EmbedderError: not the tensors of that configuration."""
        ...


TRAINED = ("vlm2vec", "vlm2vec_v1", "compact_vlm")
"""Families whose embedders are `Trainable`."""

Batched = TypeVar("Batched", bound=PromptBatch)


def joined(batches: Sequence[Batched]) -> Batched:
    """Several batches of one family as one, in their order."""
    return type(batches[0]).joined(batches)


def trainable(embedder: Embedder) -> Trainable | None:
    """The embedder, if its family can be trained."""
    return cast(Trainable, embedder) if getattr(embedder, "family", None) in TRAINED else None


def trainable_class(checkpoint: Checkpoint) -> type[Trainable]:
    """The class that trains a checkpoint.

    Any other family's checkpoint is opened as `vlm2vec`, which takes every Qwen2-VL, whatever it was trained for before, and refuses the
    rest.
    """
    return family_class("compact_vlm" if family_of(checkpoint) == "compact_vlm" else "vlm2vec")
