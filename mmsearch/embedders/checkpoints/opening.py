"""A checkpoint opened: what every family begins with, and the key that its vectors are stored under."""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from mmsearch.embedders.checkpoints.checkpoint import SIDECAR, Checkpoint, Tensors, find_checkpoint
from mmsearch.embedders.checkpoints.device import DTYPES, default_device, default_dtype, demand_device
from mmsearch.errors import EmbedderError
from mmsearch.items import KINDS, Kind, MatchScale


@dataclass(frozen=True)
class Opened:
    """Where a checkpoint lies, what its JSON files say, and where it shall run.

    Attributes:
        config: `config.json`.
        sidecar: `mmsearch.json`, {} if there is none.
        device: as torch names it.
    """

    checkpoint: Checkpoint
    config: Mapping[str, Any]
    sidecar: Mapping[str, Any]
    device: str
    dtype: torch.dtype

    @property
    def name(self) -> str:
        """For people, and the beginning of the model key."""
        return str(self.sidecar.get("name", self.checkpoint.name))

    def placed(self, tensors: Mapping[str, torch.Tensor]) -> Tensors:
        """The tensors on the device, in the dtype.

        Raises: EmbedderError: there is no such device, or no room on it.
        """
        try:
            return {key: tensor.to(device=self.device, dtype=self.dtype) for key, tensor in tensors.items()}
        except (RuntimeError, AssertionError) as error:
            raise EmbedderError(f"the model cannot be placed on device {self.device!r}: {error}") from error

    def max_pixels(self, given: int | None, otherwise: int) -> dict[Kind, int]:
        """The budget of each kind: `given` for all, else the sidecar's, else `otherwise`."""
        budgets = self.sidecar.get("max_pixels", {})
        return {kind: given or budgets.get(kind, otherwise) for kind in KINDS}


def open_checkpoint(name_or_folder: str | Path, *, device: str | None = None, dtype: str | None = None) -> Opened:
    """Find a checkpoint and read its JSON files; no tensor is read.

    Args as in `mmsearch.embedders.load_embedder`.

    Raises:
        ModelNotFound: no checkpoint there. EmbedderError: an unreadable file, an unknown dtype, no such device here.
    """
    device = device or default_device()
    demand_device(device)
    torch_dtype = default_dtype(device) if dtype is None else DTYPES.get(dtype)
    if torch_dtype is None:
        raise EmbedderError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    found = find_checkpoint(name_or_folder)
    return Opened(found, found.json("config.json"), found.json(SIDECAR), device, torch_dtype)


class OpensCheckpoints(ABC):
    """Base of the embedders that a checkpoint is opened with. A family says what it makes of what was found."""

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path,
        *,
        device: str | None = None,
        dtype: str | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
    ) -> Self:
        """Open a checkpoint; arguments and errors as in `mmsearch.embedders.load_embedder`."""
        opened = open_checkpoint(name_or_folder, device=device, dtype=dtype)
        return cls.of_checkpoint(opened, min_pixels=min_pixels, max_pixels=max_pixels)

    @classmethod
    @abstractmethod
    def of_checkpoint(cls, opened: Opened, *, min_pixels: int | None, max_pixels: int | None) -> Self:
        """The embedder over an opened checkpoint; what of the budgets is None follows from its files.

        Raises:
            ModelNotFound: no weights, or no tokenizer. EmbedderError: tensors missing or odd, or no room on the device.
        """


def model_key(name: str, decisive: Mapping[str, Any]) -> str:
    """A folder's name that changes with anything in `decisive` (JSON values): "<name>-<12 hex digits>"."""
    short = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]
    name = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:32]
    return f"{name}-{short}" if name else short


def match_scales(sidecar: Mapping[str, Any]) -> dict[str, MatchScale]:
    """From the sidecar's `match_scale`. Raises: EmbedderError naming what is odd."""
    scales: dict[str, MatchScale] = {}
    for name, numbers in sidecar.get("match_scale", {}).items():
        if not isinstance(numbers, list) or len(numbers) not in (3, len(MatchScale._fields)):
            raise EmbedderError(
                f"{SIDECAR}: match_scale of {name!r} is {numbers!r}, not [low, middle, reliability] or [{', '.join(MatchScale._fields)}]"
            )
        scales[name] = MatchScale(*map(float, numbers))
    return scales
