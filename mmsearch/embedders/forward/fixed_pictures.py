"""Pictures of one fixed size, as CLIP, SigLIP, BLIP and X-CLIP see them: resized, cropped, normalised. PIL and numpy only.

Source: the `*ImageProcessorPil` classes of transformers 5 (same pixels; tested against them), configured by a checkpoint's
preprocessor_config.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmsearch.errors import EmbedderError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
NARROWEST = 32
"""Of a picture more than so many times as long as wide the ends are cut off before it is resized."""


@dataclass(frozen=True)
class PictureRule:
    """How a picture becomes what a vision tower sees.

    Attributes:
        shorter_side: resize so that the shorter side has so many pixels; None: squeeze to `size` whatever the proportions.
        size: (width, height) in the end; with `shorter_side` the centre is cut out.
        resample: a filter of PIL.
    """

    size: tuple[int, int]
    shorter_side: int | None
    resample: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, fields: Mapping[str, Any], default: PictureRule) -> PictureRule:
        """From preprocessor_config.json, in the spellings of all releases (`"size": 224`, `{"shortest_edge": 224}`, …).

        Raises: EmbedderError: a step that is switched off, or a size that is none.
        """
        for step in ("do_resize", "do_rescale", "do_normalize"):
            if fields.get(step) is False:
                raise EmbedderError(f"preprocessor_config.json: {step} is false, which is not supported")
        size, crop = fields.get("size"), fields.get("crop_size")
        shorter = default.shorter_side
        is_cropped = fields.get("do_center_crop", shorter is not None)
        width, height = default.size
        try:
            if isinstance(size, Mapping):
                shorter = size.get("shortest_edge")
                width, height = (shorter, shorter) if shorter else (size["width"], size["height"])
            elif size is not None:
                width = height = int(size)
                shorter = height if is_cropped else None
            if shorter is not None and not is_cropped:
                raise ValueError("a shorter side without do_center_crop")
            if is_cropped and isinstance(crop, Mapping):
                width, height = crop["width"], crop["height"]
            elif is_cropped and crop is not None:
                width = height = int(crop)
        except (KeyError, TypeError, ValueError) as error:
            raise EmbedderError(f"preprocessor_config.json: size {size!r}, crop_size {crop!r}: {error}") from error
        return cls(
            (int(width), int(height)),
            None if shorter is None else int(shorter),
            int(fields.get("resample", default.resample)),
            tuple(fields.get("image_mean", default.mean)),
            tuple(fields.get("image_std", default.std)),
        )

    def check_side(self, side: int) -> None:
        """Raises: EmbedderError: the vision tower takes squares of another side."""
        if self.size != (side, side):
            width, height = self.size
            raise EmbedderError(
                f"preprocessor_config.json makes pictures of {width}x{height}, the model takes {side}x{side}"
            )

    def pixels(self, image: Image.Image) -> np.ndarray:
        """uint8 [height, width, 3]"""
        image = image.convert("RGB")
        if self.shorter_side is None:
            return np.asarray(resized(image, self.size, self.resample))
        scale_to = self.shorter_side
        width, height = image.size
        most = NARROWEST * min(width, height)
        if max(width, height) > most:  # only the centre is seen; the whole would be enlarged to millions of pixels
            left, top = (max(0, length - most) // 2 for length in image.size)
            image = image.crop((left, top, left + min(width, most), top + min(height, most)))
            width, height = image.size
        longer = int(scale_to * max(width, height) / min(width, height))
        image = resized(image, (scale_to, longer) if width <= height else (longer, scale_to), self.resample)
        left, top = ((have - want) // 2 for have, want in zip(image.size, self.size, strict=True))
        return np.asarray(image.crop((left, top, left + self.size[0], top + self.size[1])))

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """[n, height, width, 3] of 0…255 to float32 [n, 3, height, width]."""
        return normalised(pixels, self.mean, self.std)


def resized(image: Image.Image, size: tuple[int, int], resample: int) -> Image.Image:
    """An image of `size` (width, height); itself if it has it."""
    return image if image.size == size else image.resize(size, Image.Resampling(resample))


def normalised(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """[n, height, width, 3] of 0…255 to float32 [n, 3, height, width], less the mean, over the deviation, by channel."""
    values = pixels.permute(0, 3, 1, 2).float() / 255
    mean_of, std_of = (torch.tensor(tuple(numbers), device=pixels.device)[:, None, None] for numbers in (mean, std))
    return (values - mean_of) / std_of
