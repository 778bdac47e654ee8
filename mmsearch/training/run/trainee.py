"""The model under training: what it starts from, what of it is trained, and its forward pass over a batch."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsearch.embedders.families.vlm2vec import Vlm2VecEmbedder
from mmsearch.embedders.forward.qwen2vl_inputs import MERGE, PATCH_VALUES, Batch
from mmsearch.embedders.forward.qwen_vl import vision_features
from mmsearch.embedders.trainable import PromptBatch, Trainable
from mmsearch.training.data.teacher_groups import SubBatch
from mmsearch.training.recipe.fields import Recipe, Stage
from mmsearch.training.run.adapters import add_adapter
from mmsearch.training.run.vision_cache import VisionCache, precision_of

log = logging.getLogger(__name__)


class Trainee(nn.Module):
    """An embedder's model as one module: `trainee(batch)` are its embeddings, float32 [len(batch), dim], unit length.

    A family whose engine does more (adapters, shared-out layers, features computed once) extends it.

    Attributes:
        is_sharded: its layers are shared out over processes (FSDP), so every process must run every layer, whatever its rows are.
    """

    def __init__(self, embedder: Trainable, recipe: Recipe) -> None:
        """Freezes what the recipe never trains."""
        super().__init__()
        self._recipe = recipe
        self._embedder = [embedder]  # in a list: no module of this one
        self.model: nn.Module = embedder.model
        self.is_sharded = False
        self.stage_trains = "all"
        self.precision = precision_of(recipe, str(embedder.device))
        self._freeze()
        self._trainable = {name for name, weight in self.model.named_parameters() if weight.requires_grad}
        self.train()

    def _freeze(self) -> None:
        """Every parameter is trained, but those of a frozen tower."""
        for name, weight in self.model.named_parameters():
            is_frozen = self._recipe.vision_tower == "frozen" and name.startswith(self.embedder.tower_weights)
            weight.requires_grad_(not is_frozen)

    @property
    def embedder(self) -> Trainable:
        return self._embedder[0]

    @property
    def layers(self) -> list[nn.Module]:
        """What FSDP shares out one by one."""
        return []

    def weights(self) -> dict[str, Tensor]:
        """Every weight that the recipe can train, in whichever stage, by its name in the model."""
        return {name: weight for name, weight in self.model.named_parameters() if name in self._trainable}

    def begin(self, stage: Stage) -> None:
        """Train what the stage trains."""
        self.stage_trains = stage.trains
        for name, weight in self.model.named_parameters():
            is_visual = name.startswith(self.embedder.vision_weights)
            wanted = stage.trains == "all" or (stage.trains == "vision") == is_visual
            weight.requires_grad_(wanted and name in self._trainable)

    def forward(self, batch: PromptBatch | None) -> Tensor:
        """Embeddings of a batch; of None a zero that depends on every trained weight (see `processes`)."""
        if batch is None:
            return torch.stack([weight.sum() * 0 for weight in self.parameters() if weight.requires_grad]).sum()
        device = torch.device(self.embedder.device)
        self.embedder.weights_changed()  # by the step before
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16):
            return self._embeddings(batch, device)

    def _embeddings(self, batch: Any, device: torch.device) -> Tensor:
        return self.embedder.forward(batch)


def trainee_of(embedder: Trainable, recipe: Recipe, *, cache: VisionCache | None = None) -> Trainee:
    """The trainee of the embedder's family."""
    if isinstance(embedder, Vlm2VecEmbedder):
        return Qwen2VLTrainee(embedder, recipe, cache=cache)
    return Trainee(embedder, recipe)


class Qwen2VLTrainee(Trainee):
    """A Qwen2-VL: with adapters, layers that can be shared out, and visual features that are computed once where its tower is frozen."""

    def __init__(self, embedder: Vlm2VecEmbedder, recipe: Recipe, *, cache: VisionCache | None = None) -> None:
        """Puts the recipe's adapter into the model and freezes what it never trains."""
        super().__init__(embedder, recipe)
        self.cache = cache
        self.kept_tokens = 1.0
        if self.precision != torch.float32 and recipe.parallel == "ddp":
            for weight in self.model.parameters():  # what never moves needs no more digits than it is computed with
                if not weight.requires_grad:
                    weight.data = weight.data.to(self.precision)
        if recipe.gradient_checkpointing:
            # Its name before transformers 5.20 was another.
            names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
            enable: Any = next(getattr(self.model, name) for name in names if hasattr(self.model, name))
            enable({"use_reentrant": False})

    def _freeze(self) -> None:
        if self._recipe.adapter is not None:
            add_adapter(self.model, self._recipe.adapter, seed=self._recipe.seed)
        else:
            super()._freeze()

    @property
    def visual(self) -> nn.Module:
        return self.model.visual  # type: ignore[return-value]

    @property
    def layers(self) -> list[nn.Module]:
        """Blocks of the vision tower, then layers of the language model."""
        return [*self.visual.blocks, *self.model.language_model.layers]  # type: ignore[union-attr, misc, list-item]

    def begin(self, stage: Stage) -> None:
        super().begin(stage)
        self.kept_tokens = stage.kept_tokens

    def level_visual_tokens(self, photos: SubBatch, averaged: dict[str, Tensor]) -> None:
        """Scale visual tokens to the size of words, in the weights and in their average."""
        from mmsearch.training.run.untrained_qwen2vl import visual_token_scale

        embedder = self.embedder
        assert isinstance(embedder, Vlm2VecEmbedder)
        batch = embedder.prepare(photos.prompts, photos.images, photos.is_video).to(embedder.device)
        scale = visual_token_scale(embedder.model, vision_features(self.visual, batch.pixel_values(), batch.grids))
        for name, weight in self.weights().items():
            if name.startswith("visual.merger.mlp.2."):
                weight.mul_(scale)
                if name in averaged:
                    averaged[name].mul_(scale)

    def _embeddings(self, batch: Batch, device: torch.device) -> Tensor:
        embedder = self.embedder
        assert isinstance(embedder, Vlm2VecEmbedder)
        if self.stage_trains == "vision":
            return self._picture_embeddings(batch.to(device))
        features = self._features(batch, device)
        if features is not None:
            batch = replace(batch, pixels=batch.pixels[:0])
        return embedder.forward(batch, features)

    def _features(self, batch: Batch, device: torch.device) -> Tensor | None:
        """Visual features where they are not to be computed by the embedder itself."""
        if not batch.grids:
            if not self.is_sharded:
                return None
            blank = torch.zeros(MERGE**2, PATCH_VALUES, device=device)
            return vision_features(self.visual, blank, [(1, MERGE, MERGE)])[:0]
        if any(weight.requires_grad for weight in self.visual.parameters()):
            return None
        with torch.no_grad():
            if self.cache is None:
                moved = batch.to(device)
                return vision_features(self.visual, moved.pixel_values(), moved.grids)
            known = self.cache.features(
                batch, lambda part: vision_features(self.visual, part.to(device).pixel_values(), part.grids)
            )
            return known.to(device)

    def _picture_embeddings(self, batch: Batch) -> Tensor:
        """Mean direction of each prompt's visual tokens, without the language model; of some of them, where the stage says so."""
        counts = [t * rows * columns // MERGE**2 for t, rows, columns in batch.grids]
        if len(counts) != len(batch):
            raise ValueError(
                f"{len(counts)} pictures for {len(batch)} prompts: a stage that trains vision needs one each"
            )
        pixels, blocks = batch.pixel_values(), None
        if self.training and self.kept_tokens < 1:
            blocks = [torch.randperm(count)[: max(1, round(self.kept_tokens * count))] for count in counts]
            own = torch.cat([start + kept for start, kept in zip(_starts(counts), blocks, strict=True)])
            pixels = pixels.view(-1, MERGE**2, pixels.shape[-1])[own.to(pixels.device)].flatten(0, 1)
            counts = [len(kept) for kept in blocks]
        features = F.normalize(vision_features(self.visual, pixels, batch.grids, blocks).float(), dim=-1)
        return F.normalize(torch.stack([part.mean(0) for part in features.split(counts)]), dim=-1)


def _starts(counts: Sequence[int]) -> list[int]:
    return [0, *itertools.accumulate(counts)][:-1]
