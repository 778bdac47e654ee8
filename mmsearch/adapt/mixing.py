"""Between the old weights and the new: their weighted mean often knows what both know.

Source: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (WiSE-FT).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from mmsearch.embedders.checkpoints import checkpoint as files
from mmsearch.embedders.trainable import Trainable, trainable_class

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the new weights."""


class Mixer:
    """An embedder whose weights are set to (1 - share) · old + share · new.

    Attributes:
        embedder: the old checkpoint's, with its budgets and texts.
    """

    def __init__(self, old: str, trained: Path, *, device: str | None = None) -> None:
        """`trained` is a checkpoint folder of the same shape."""
        found = files.find_checkpoint(old)
        family = trainable_class(found)
        self.embedder: Trainable = family.load(old, device=device, dtype="float32")  # bfloat16 would round every mean
        stored = found.json("config.json")
        name = stored.get("torch_dtype") or stored.get("dtype")
        self._dtype = {"float32": torch.float32, "float16": torch.float16}.get(str(name), torch.bfloat16)
        self._weights = dict(self.embedder.model.named_parameters())
        self._old = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._new: Mapping[str, torch.Tensor] = family.read_weights(files.find_checkpoint(trained))

    @torch.no_grad()
    def set_share(self, share: float) -> Trainable:
        for name, weight in self._weights.items():
            new = self._new[name].to(weight.device, torch.float32)
            weight.copy_(self._old[name].float().lerp(new, share))
        self.embedder.weights_changed()
        return self.embedder

    def save(self, folder: Path, *, name: str) -> None:
        """The weights as they are set, in the old checkpoint's precision, in its family's layout; weights last."""
        self.embedder.name = name
        self.embedder.save(folder, dtype=self._dtype)
