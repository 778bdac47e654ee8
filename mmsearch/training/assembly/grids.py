"""What the convolutional network sees in every picture, computed once and kept on disk as float16; and how pictures are varied for training."""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance
from torch import Tensor

from mmsearch.disk.replace import remove_leftovers, replace_file
from mmsearch.embedders.checkpoints.device import default_dtype
from mmsearch.embedders.forward.compact_vlm_inputs import grid_size
from mmsearch.embedders.forward.compact_vlm_model import HEAD, EfficientNetLite
from mmsearch.training.assembly.material import Material

log = logging.getLogger(__name__)

SIDE = 288
"""Pixels of a photo's side in training. The material has 224, the network learnt from 260: shown larger, captions find photos more often
(R@10 by a head on frozen features 0.607 at 224, 0.634 at 256, 0.648 at 288)."""
FRAME_SIDE = 224
PAGE_PIXELS = 49_152
POOLED = 2
"""Cells along each side that become one, as in the checkpoint (`vision_config.side`)."""
MOST_PAGE_CELLS = 24


def varied(image: Image.Image, rng: random.Random) -> Image.Image:
    """A part of a photo, 45 % of it at least, perhaps mirrored, its colours changed; SIDE x SIDE."""
    width, height = image.size
    area, aspect = rng.uniform(0.45, 1.0), math.exp(rng.uniform(-0.25, 0.25))
    wide, high = min(width, width * math.sqrt(area * aspect)), min(height, height * math.sqrt(area / aspect))
    left, top = rng.uniform(0, width - wide), rng.uniform(0, height - high)
    image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=(left, top, left + wide, top + high))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.8:
        for enhancer, least, most in (
            (ImageEnhance.Color, 0.5, 1.4),
            (ImageEnhance.Brightness, 0.7, 1.3),
            (ImageEnhance.Contrast, 0.7, 1.3),
        ):
            image = enhancer(image).enhance(rng.uniform(least, most))
    return image


def viewed(image: Image.Image, view: int, rng: random.Random) -> Image.Image:
    """View 0 is the photo as it is, the others are `varied`."""
    image = image.convert("RGB")
    return image.resize((SIDE, SIDE), Image.Resampling.BICUBIC) if view == 0 else varied(image, rng)


def pixels(images: Sequence[Image.Image]) -> Tensor:
    """float32 [n, 3, height, width] of pictures of one size, as the network takes them."""
    values = np.stack([np.asarray(image) for image in images])
    tensor = torch.from_numpy(values).permute(0, 3, 1, 2).float()
    return ((tensor - 127) / 128).contiguous(memory_format=torch.channels_last)


def cells_of(features: Tensor) -> Tensor:
    """float32 [n, cells, 1280] of the network's features [n, 1280, rows, columns]."""
    pooled = F.avg_pool2d(features.float(), POOLED, POOLED, ceil_mode=True, count_include_pad=False)
    return pooled.flatten(2).transpose(1, 2)


class Grids:
    """Cells of all photos (in views), pages and clips, by the number of the record.

    Attributes:
        folder: where they lie; a file appears when it is whole.
    """

    def __init__(self, folder: Path, network: EfficientNetLite, material: Material, views: int) -> None:
        self.folder = folder
        self._material = material
        self._views = views
        self._network = network

    def compute(self) -> None:
        """Whatever is not there yet: 11 ms a picture on one core with bfloat16, 20 ms without."""
        self.folder.mkdir(parents=True, exist_ok=True)
        dtype = default_dtype("cpu")
        network = self._network.to(dtype=dtype)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        @torch.inference_mode()
        def cells(images: Sequence[Image.Image]) -> np.ndarray:
            values = pixels(images).to(dtype)
            return cells_of(torch.cat([network(part) for part in values.split(1)])).half().numpy()

        for view in range(self._views):
            self._write(f"photos-{view}", self._photos(view, cells))
        self._write("pages", self._pages(cells))
        self._write("clips", (cells(_squared(clip.frames())) for clip in self._material.clips))
        self._network.float()

    def photos(self, view: int) -> np.ndarray:
        """float16 [photos, cells, 1280]."""
        side = math.ceil(SIDE // 32 / POOLED)
        return self._open(f"photos-{view}", (side * side,))

    def clips(self) -> np.ndarray:
        """float16 [clips, frames, cells, 1280]."""
        side = math.ceil(FRAME_SIDE // 32 / POOLED)
        return self._open("clips", (8, side * side))

    def page(self, number: int) -> Tensor:
        """float32 [1, rows, columns, 1280]."""
        rows, columns = self._shapes[number]
        cells = self._open("pages", (MOST_PAGE_CELLS,))[number, : rows * columns]
        return torch.from_numpy(cells.astype(np.float32)).view(1, rows, columns, HEAD)

    def _photos(self, view: int, cells: Callable[[Sequence[Image.Image]], np.ndarray]) -> Iterator[np.ndarray]:
        for number, photo in enumerate(self._material.photos):
            yield cells([viewed(photo.member.image(), view, random.Random(view * 1_000_003 + number))])

    def _pages(self, cells: Callable[[Sequence[Image.Image]], np.ndarray]) -> Iterator[np.ndarray]:
        for page, (rows, columns) in zip(self._material.pages, self._shapes, strict=True):
            image = page.member.image().convert("RGB")
            size = grid_size(*image.size, PAGE_PIXELS)
            found = cells([image.resize(size, Image.Resampling.BICUBIC)])
            padded = np.zeros((1, MOST_PAGE_CELLS, HEAD), np.float16)
            padded[:, : rows * columns] = found
            yield padded

    @cached_property
    def _shapes(self) -> list[tuple[int, int]]:
        """(rows, columns) of each page's cells."""
        file = self.folder / "pages.json"
        if not file.exists():
            shapes = []
            for page in self._material.pages:
                width, height = grid_size(*page.member.image().size, PAGE_PIXELS)
                shapes.append((math.ceil(height // 32 / POOLED), math.ceil(width // 32 / POOLED)))
            file.write_text(json.dumps(shapes))
        return [(rows, columns) for rows, columns in json.loads(file.read_text())]

    def _write(self, name: str, parts: Iterable[np.ndarray]) -> None:
        file = self.folder / f"{name}.f16"
        if file.exists():
            return
        log.info("grids of %s", name)
        remove_leftovers(file)
        with replace_file(file, durable=False) as temporary, temporary.open("wb") as stream:
            for cells in parts:
                stream.write(cells.tobytes())

    def _open(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        values = np.memmap(self.folder / f"{name}.f16", np.float16, "r")
        return values.reshape(-1, *shape, HEAD)


def _squared(frames: Sequence[Image.Image]) -> list[Image.Image]:
    return [frame.resize((FRAME_SIDE, FRAME_SIDE), Image.Resampling.BICUBIC) for frame in frames]
