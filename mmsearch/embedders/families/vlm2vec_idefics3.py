"""Idefics3 and SmolVLM under VLM2Vec's recipe: `Idefics3Model`, `SmolVLMModel` of transformers, any folder of those types.

The example of a backbone in one small file. Takes instructions, text, several pictures; of a clip every frame is one
tile. A picture is enlarged or shrunk to a longest side of four or so tiles, cut into them row by row, and followed by the whole of
it squeezed into one; `max_pixels` bounds that longest side.

Source: transformers' `Idefics3ImageProcessorPil` and `Idefics3Processor` (same tiles, same ids; tested); arXiv 2408.12637.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmsearch.embedders.forward.fixed_pictures import HALF, resized
from mmsearch.embedders.forward.vlm import Layout, VlmEmbedder

LARGEST_PX = 4096
AROUND = "<fake_token_around_image>"


class Idefics3Embedder(VlmEmbedder):
    @staticmethod
    def architecture(config: Mapping[str, Any]) -> Any:
        from transformers import Idefics3Model, SmolVLMModel

        return SmolVLMModel if config.get("model_type") == "smolvlm" else Idefics3Model

    @property
    def language_model(self) -> Any:
        return self.model.text_model

    def set_up(self, fields: Mapping[str, Any]) -> Any:
        config = self.model.config
        self.image_id = config.image_token_id
        self.tile_px = fields.get("max_image_size", {}).get("longest_edge", config.vision_config.image_size)
        self.tile_patches = (self.tile_px // config.vision_config.patch_size) ** 2
        self.longest_px = min(LARGEST_PX, fields.get("size", {}).get("longest_edge", 4 * self.tile_px))
        self.most_pixels = self.longest_px**2
        self.is_split = fields.get("do_image_splitting", True)
        self.resample = fields.get("resample", Image.Resampling.LANCZOS)
        self.mean, self.std = (tuple(fields.get(f"image_{part}", HALF)) for part in ("mean", "std"))
        return [self.tile_px, self.longest_px, self.is_split, self.resample]

    def layout(self, size: tuple[int, int], max_pixels: int) -> Layout:
        tile = self.tile_px
        longest = max(tile, min(self.longest_px, math.isqrt(max_pixels) // tile * tile))
        first = with_longest_side(size, longest)
        ratio = first[0] / first[1]
        width, height = first
        if width >= height:
            width = math.ceil(width / tile) * tile
            height = math.ceil(int(width / ratio) / tile) * tile
        else:
            height = math.ceil(height / tile) * tile
            width = math.ceil(int(height * ratio) / tile) * tile
        rows, columns = (height // tile, width // tile) if self.is_split else (1, 1)
        seen = self.image_token * (self.tile_patches // self.model.config.scale_factor**2)
        whole = f"{AROUND}<global-img>{seen}{AROUND}"
        if rows * columns == 1:
            return Layout(1, whole, (first, 1, 1))
        lines = [
            "".join(f"{AROUND}<row_{row}_col_{column}>{seen}" for column in range(1, columns + 1)) + "\n"
            for row in range(1, rows + 1)
        ]
        return Layout(rows * columns + 1, "".join(lines) + "\n" + whole, (first, rows, columns))

    def tiles(self, image: Image.Image, layout: Layout) -> np.ndarray:
        first, rows, columns = layout.plan
        tile = self.tile_px
        image = resized(resized(image, first, self.resample), (columns * tile, rows * tile), self.resample)
        cut = np.asarray(image).reshape(rows, tile, columns, tile, 3).swapaxes(1, 2).reshape(-1, tile, tile, 3)
        if layout.tiles == 1:
            return cut
        return np.concatenate([cut, np.asarray(resized(image, (tile, tile), self.resample))[None]])

    def features(self, pixels: torch.Tensor, layouts: Sequence[Layout]) -> torch.Tensor:
        return self.model.connector(self.model.vision_model(pixel_values=pixels).last_hidden_state).flatten(0, 1)


def with_longest_side(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """(width, height) of about the same proportions; the shorter side is made even, as the published processor does."""
    width, height = size
    ratio = width / height
    shorter = int(longest / ratio) if width >= height else int(longest * ratio)
    shorter = max(1, shorter + shorter % 2)
    return (longest, shorter) if width >= height else (shorter, longest)
