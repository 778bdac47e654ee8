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

from mmsearch.embedders.encoder import vision_features
from mmsearch.embedders.qwen2vl_inputs import MERGE, PATCH_VALUES, Batch
from mmsearch.embedders.vlm2vec import Vlm2VecEmbedder
from mmsearch.training.adapters import add_adapter
from mmsearch.training.features import VisionCache, precision_of
from mmsearch.training.recipe_fields import Recipe, Stage

log = logging.getLogger(__name__)


class Trainee(nn.Module):
    """An embedder's model as one module: `trainee(batch)` are its embeddings, float32 [len(batch), dim], unit length.

    Attributes:
        is_sharded: its layers are shared out over processes (FSDP), so every process must run every layer, whatever its rows are.
    """

    def __init__(self, embedder: Vlm2VecEmbedder, recipe: Recipe, *, cache: VisionCache | None = None) -> None:
        """Puts the recipe's adapter into the model and freezes what it never trains."""
        super().__init__()
        self._recipe = recipe
        self._embedder = [embedder]  # in a list: no module of this one
        self.model: nn.Module = embedder.model
        self.cache = cache
        self.is_sharded = False
        self.stage_trains = "all"
        self.kept_tokens = 1.0
        self.precision = precision_of(recipe, str(embedder.device))
        if recipe.adapter is not None:
            add_adapter(self.model, recipe.adapter, seed=recipe.seed)
        elif recipe.vision_tower == "frozen":
            self.visual.requires_grad_(False)
        self._trainable = {name for name, weight in self.model.named_parameters() if weight.requires_grad}
        if self.precision != torch.float32 and recipe.parallel == "ddp":
            for weight in self.model.parameters():  # what never moves needs no more digits than it is computed with
                if not weight.requires_grad:
                    weight.data = weight.data.to(self.precision)
        if recipe.gradient_checkpointing:
            # Its name before transformers 5.20 was another.
            names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
            enable: Any = next(getattr(self.model, name) for name in names if hasattr(self.model, name))
            enable({"use_reentrant": False})
        self.train()

    @property
    def embedder(self) -> Vlm2VecEmbedder:
        return self._embedder[0]

    @property
    def visual(self) -> nn.Module:
        return self.model.visual  # type: ignore[return-value]

    @property
    def layers(self) -> list[nn.Module]:
        """Blocks of the vision tower, then layers of the language model."""
        return [*self.visual.blocks, *self.model.language_model.layers]  # type: ignore[union-attr, misc, list-item]

    def weights(self) -> dict[str, Tensor]:
        """Every weight that the recipe can train, in whichever stage, by its name in the model."""
        return {name: weight for name, weight in self.model.named_parameters() if name in self._trainable}

    def begin(self, stage: Stage) -> None:
        """Train what the stage trains."""
        self.stage_trains = stage.trains
        self.kept_tokens = stage.kept_tokens
        for name, weight in self.model.named_parameters():
            is_visual = name.startswith("visual.")
            wanted = stage.trains == "all" or (stage.trains == "vision") == is_visual
            weight.requires_grad_(wanted and name in self._trainable)

    def forward(self, batch: Batch | None) -> Tensor:
        """Embeddings of a batch; of None a zero that depends on every trained weight (see `processes`)."""
        if batch is None:
            return torch.stack([weight.sum() * 0 for weight in self.parameters() if weight.requires_grad]).sum()
        device = torch.device(self.embedder.device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16):
            if self.stage_trains == "vision":
                return self._picture_embeddings(batch.to(device))
            features = self._features(batch, device)
            if features is not None:
                batch = replace(batch, pixels=batch.pixels[:0])
            return self.embedder.forward(batch, features)

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
