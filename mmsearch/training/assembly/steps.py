"""What the stages share: the learning rate's course, averaged weights, files that appear whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmsearch.disk.replace import replace_file


def rate(step: int, steps: int, *, warmup: int) -> float:
    """The share of the learning rate at `step` (from 1): it rises over `warmup` steps and falls in a straight line to a fiftieth."""
    return min(1.0, step / warmup) * max(0.02, 1 - step / steps)


class Averaged:
    """An exponential moving average of weights, of about the last hundred steps."""

    def __init__(self, weights: Sequence[Tensor], decay: float = 0.99) -> None:
        self._weights = list(weights)
        self._decay = decay
        self._average = [weight.detach().clone() for weight in self._weights]

    def update(self, step: int) -> None:
        share = 1 - min(self._decay, (step + 1) / (step + 10))
        with torch.no_grad():
            for average, weight in zip(self._average, self._weights, strict=True):
                average.lerp_(weight, share)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The weights are their averages for a while."""
        newest = [weight.detach().clone() for weight in self._weights]
        self.keep()
        try:
            yield
        finally:
            for weight, own in zip(self._weights, newest, strict=True):
                weight.data.copy_(own)

    def keep(self) -> None:
        """The weights become their averages."""
        for weight, average in zip(self._weights, self._average, strict=True):
            weight.data.copy_(average)


def saved(content: Mapping[str, Any], file: Path) -> None:
    """Write with torch.save; the file appears whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(file, durable=False) as temporary:
        torch.save(dict(content), temporary)


def loaded(file: Path) -> dict[str, Any]:
    """What `saved` wrote; tensors and plain values only."""
    return torch.load(file, map_location="cpu", weights_only=True)
