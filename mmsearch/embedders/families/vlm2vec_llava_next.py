"""VLM2Vec-V1 on LLaVA-NeXT (TIGER-Lab/VLM2Vec-LLaVa-Next, Mistral-7B inside; Vicuna ones too): `LlavaNextModel` of transformers.

Takes instructions, text, several pictures, with V1's prompts (`vlm2vec_v1`); it was not trained on video: of a clip every frame is
one tile. V1 made every picture a square of 1344 pixels first (`--image_resolution high`, its default). A checkpoint that was trained
on pictures as they are says so in its mmsearch.json: `{"square_px": null}`.

Then a picture is scaled into the best of a few formats of two to four tiles, centred on black, and preceded by the whole of it
squeezed into one; features of the black borders are left out, and a learned vector ends every row of the others. `max_pixels` rules
larger formats out.

Source: transformers' `LlavaNextImageProcessorPil` and `LlavaNextModel` (same tiles, same features; tested); TIGER-AI-Lab/VLM2Vec
`src/model/processor.py` (`<image>`, `Llava_NEXT_process_fn`), `src/data/dataset/mmeb_dataset.py` (`process_image`),
`examples/llava_next/run_eval.sh`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmsearch.embedders.families.vlm2vec_v1 import SIDE_PX, v1_final_prompt
from mmsearch.embedders.forward.fixed_pictures import CLIP_MEAN, CLIP_STD, resized
from mmsearch.embedders.forward.vlm import Layout, VlmEmbedder
from mmsearch.errors import EmbedderError
from mmsearch.items import EmbedInput

TRAINED_TEXT_TOKENS = 256
"""`--max_len 256` of V1's scripts."""

Format = tuple[int, int]
"""(width, height) that a picture is scaled into, multiples of a tile."""


class LlavaNextEmbedder(VlmEmbedder):
    """Attributes:
    square_px: side of the square that every picture becomes first; None: its proportions are kept.
    """

    text_tokens = TRAINED_TEXT_TOKENS

    @staticmethod
    def architecture(config: Mapping[str, Any]) -> Any:
        from transformers import LlavaNextModel

        return LlavaNextModel

    @property
    def language_model(self) -> Any:
        return self.model.language_model

    def set_up(self, fields: Mapping[str, Any]) -> Any:
        config = self.model.config
        if not isinstance(config.vision_feature_layer, int):
            raise EmbedderError(
                f"vision_feature_layer {config.vision_feature_layer!r}: only a single layer is supported"
            )
        self.image_id = config.image_token_id
        self.tile_px = config.vision_config.image_size
        self.side = self.tile_px // config.vision_config.patch_size
        self.tile_patches = self.side**2 + 1
        pinpoints = fields.get("image_grid_pinpoints") or config.image_grid_pinpoints
        self.formats: list[Format] = [(width, height) for height, width in pinpoints]
        self.most_pixels = max(width * height for width, height in self.formats)
        self.resample = fields.get("resample", Image.Resampling.BICUBIC)
        self.mean = tuple(fields.get("image_mean", CLIP_MEAN))
        self.std = tuple(fields.get("image_std", CLIP_STD))
        self.square_px: int | None = self.sidecar.get("square_px", SIDE_PX)
        return [self.formats, self.resample, self.square_px]

    def prompt(self, item: EmbedInput) -> str:
        return v1_final_prompt(item)

    def layout(self, size: tuple[int, int], max_pixels: int) -> Layout:
        """The plan is the format and the picture's size in it; None if there is but one tile."""
        allowed = [format for format in self.formats if format[0] * format[1] <= max_pixels]
        if not allowed:
            return Layout(1, self.image_token * (self.side**2 + 1))
        if self.square_px is not None:
            size = (self.square_px, self.square_px)
        best = best_format(size, allowed)
        kept_rows, kept_columns = (len(range(*span)) for span in self._kept(size, best))
        count = best[0] * best[1] // self.tile_px**2
        return Layout(count + 1, self.image_token * (self.side**2 + kept_rows * (kept_columns + 1)), (size, best))

    def _kept(self, size: tuple[int, int], best: Format) -> tuple[tuple[int, int], tuple[int, int]]:
        """Of the format's features, the (first, end) row and column that are not border."""
        columns, rows = (length // self.tile_px * self.side for length in best)
        width, height = size
        if width / height > columns / rows:
            border = (rows - int(round(height * (columns / width), 7))) // 2
            return (border, rows - border), (0, columns)
        border = (columns - int(round(width * (rows / height), 7))) // 2
        return (0, rows), (border, columns - border)

    def tiles(self, image: Image.Image, layout: Layout) -> np.ndarray:
        tile = self.tile_px
        if self.square_px is not None:
            image = resized(image, (self.square_px, self.square_px), Image.Resampling.BICUBIC)
        whole = np.asarray(resized(image, (tile, tile), self.resample))[None]
        if layout.plan is None:
            return whole
        _, (width, height) = layout.plan
        inner = size_within(image.size, (width, height))
        canvas = Image.new("RGB", (width, height))
        canvas.paste(resized(image, inner, self.resample), ((width - inner[0]) // 2, (height - inner[1]) // 2))
        cut = np.asarray(canvas).reshape(height // tile, tile, width // tile, tile, 3).swapaxes(1, 2)
        return np.concatenate([whole, cut.reshape(-1, tile, tile, 3)])

    def features(self, pixels: torch.Tensor, layouts: Sequence[Layout]) -> torch.Tensor:
        model = self.model
        states = model.vision_tower(pixels, output_hidden_states=True).hidden_states[model.config.vision_feature_layer]
        if model.config.vision_feature_select_strategy == "default":
            states = states[:, 1:]  # the class token
        by_picture = model.multi_modal_projector(states).split([layout.tiles for layout in layouts])
        newline = model.image_newline
        packed = []
        for layout, (whole, *tiles) in zip(layouts, by_picture, strict=True):
            if layout.plan is None:
                packed += [whole, newline[None]]
                continue
            size, best = layout.plan
            columns = best[0] // self.tile_px
            grid = torch.stack(tiles).view(-1, columns, self.side, self.side, newline.shape[0])
            grid = grid.transpose(1, 2).reshape(-1, columns * self.side, newline.shape[0])
            (top, bottom), (left, right) = self._kept(size, best)
            grid = grid[top:bottom, left:right]
            packed += [whole, torch.cat([grid, newline.expand(len(grid), 1, -1)], 1).flatten(0, 1)]
        return torch.cat(packed)


def best_format(size: tuple[int, int], formats: Sequence[Format]) -> Format:
    """The one in which most of the picture's own pixels survive; of several the one with the least border."""
    width, height = size

    def merit(format: Format) -> tuple[int, int]:
        scale = min(format[0] / width, format[1] / height)
        used = min(int(width * scale) * int(height * scale), width * height)
        return used, used - format[0] * format[1]

    return max(formats, key=merit)


def size_within(size: tuple[int, int], format: Format) -> tuple[int, int]:
    """The picture's (width, height) when scaled into a format."""
    across, down = (want / have for want, have in zip(format, size, strict=True))
    if across < down:
        return format[0], min(math.ceil(size[1] * across), format[1])
    return min(math.ceil(size[0] * down), format[0]), format[1]
