"""Features of a frozen vision tower, kept on disk: a picture is seen once per run of the tower, not once per pass over the data.

An entry is named by what decides it: the picture's patches (its pixels at the size that the budgets gave it), the tower's weights, and
the arithmetic. A folder may be shared by runs and processes; files appear whole.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmsearch.disk.replace import replace_file
from mmsearch.embedders.checkpoints.opening import default_dtype
from mmsearch.embedders.forward.qwen2vl_inputs import MERGE, Batch, Grid
from mmsearch.embedders.trainable import Trainable
from mmsearch.training.recipe.fields import Recipe

log = logging.getLogger(__name__)


def open_cache(recipe: Recipe, embedder: Trainable, work: Path) -> VisionCache | None:
    """The cache that a recipe asks for, in `work/features`; None if it does not."""
    if not recipe.vision_cache_gb:
        return None
    digest = tower_digest(dict(embedder.model.visual.named_parameters()), precision_of(recipe, embedder.device))
    return VisionCache(work / "features", digest, limit_bytes=recipe.vision_cache_gb * 1e9)


def precision_of(recipe: Recipe, device: str) -> torch.dtype:
    """What the recipe computes with on this device."""
    if recipe.precision == "auto":
        return default_dtype(device)
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[recipe.precision]


def tower_digest(weights: Mapping[str, Tensor], precision: torch.dtype) -> str:
    """Hex digest of a vision tower's weights and the arithmetic it runs in."""
    digest = hashlib.sha256(str(precision).encode())
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class VisionCache:
    """Visual features by picture.

    Attributes:
        limit_bytes: beyond this nothing more is kept.
        hits, misses: pictures found and computed so far.
    """

    def __init__(self, folder: Path, tower: str, *, limit_bytes: float) -> None:
        """`tower` is a `tower_digest`."""
        self.folder = folder / tower[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.limit_bytes = limit_bytes
        self.hits = self.misses = 0
        self._used_bytes = sum(file.stat().st_size for file in self.folder.glob("*/*.safetensors"))
        self._is_full = False

    def features(self, batch: Batch, compute: Callable[[Batch], Tensor]) -> Tensor:
        """[len(batch.visual_index), hidden] for the pictures of a batch; those that are not known go through `compute` together.

        Args:
            compute: features of a batch's pictures in order; it is given one with `pixels` and `grids` of the unknown pictures alone.
        """
        counts = [t * rows * columns for t, rows, columns in batch.grids]
        pixels = batch.pixels.split(counts)
        keys = [_key(part, grid) for part, grid in zip(pixels, batch.grids, strict=True)]
        found = {key: kept for key in dict.fromkeys(keys) if (kept := self._read(key)) is not None}
        unknown = {key: place for place, key in enumerate(keys) if key not in found}
        self.hits += len(keys) - len(unknown)
        self.misses += len(unknown)
        computed: dict[str, Tensor] = {}
        if unknown:
            places = list(unknown.values())
            part = replace(
                batch,
                pixels=torch.cat([pixels[place] for place in places]),
                grids=tuple(batch.grids[place] for place in places),
            )
            pieces = compute(part).split([counts[place] // MERGE**2 for place in places])
            for key, piece in zip(unknown, pieces, strict=True):
                computed[key] = piece
                self._write(key, piece)
        device = next(iter(computed.values())).device if computed else None
        return torch.cat([computed[key] if key in computed else found[key].to(device or "cpu") for key in keys])

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _read(self, key: str) -> Tensor | None:
        path = self._path(key)
        if not path.exists():
            return None
        try:
            return load_file(path)["features"]
        except (SafetensorError, OSError, KeyError) as error:
            log.warning("%s cannot be read and is computed again: %s", path, error)
            return None

    def _write(self, key: str, features: Tensor) -> None:
        size = features.numel() * features.element_size()
        if self._used_bytes + size > self.limit_bytes:
            if not self._is_full:
                self._is_full = True
                log.warning(
                    "the cache of visual features is full (%.1f GB): further pictures are computed each time",
                    self.limit_bytes / 1e9,
                )
            return
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        with replace_file(path, durable=False) as temporary:
            save_file({"features": features.detach().cpu().contiguous()}, temporary)
        self._used_bytes += size


def _key(patches: Tensor, grid: Grid) -> str:
    digest = hashlib.blake2b(str(grid).encode(), digest_size=16)
    digest.update(patches.contiguous().numpy().data)
    return digest.hexdigest()
