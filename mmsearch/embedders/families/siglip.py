"""SigLIP and SigLIP 2: `SiglipModel` at one fixed size, `Siglip2Model` (NaFlex) at each picture's own proportions.

google/siglip2-*-patch16-224 and its like are of model type "siglip" with SigLIP 2's tokenizer; google/siglip2-*-naflex of "siglip2".
Takes text (64 tokens), pictures and both; the instruction is dropped; of a clip the mean over frames. See `two_towers`.

Texts are always padded to 64 tokens and the padding is attended to, as in training: the last position is what is read off. Upper case
becomes lower; for SigLIP 1 punctuation is taken out too. A NaFlex picture is resized, proportions all but kept, to as many patches
as the budget allows: `max_pixels` is a true budget there, 256 patches if not given.

Source: arXiv 2303.15343, 2502.14786; transformers' `Siglip2ImageProcessorPil`, `SiglipTokenizer`, `convert_siglip_to_hf.py`.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer

from mmsearch.embedders.checkpoints.opening import Opened
from mmsearch.embedders.checkpoints.pretrained import picture_fields
from mmsearch.embedders.forward.batching import padded
from mmsearch.embedders.forward.fixed_pictures import HALF, PictureRule, normalised, resized
from mmsearch.embedders.forward.two_towers import Shot, TwoTowerEmbedder
from mmsearch.errors import EmbedderError

DEFAULT = PictureRule((224, 224), None, Image.Resampling.BICUBIC, HALF, HALF)
NAFLEX_PATCHES = 256
PUNCTUATION = str.maketrans("", "", string.punctuation)


class SiglipEmbedder(TwoTowerEmbedder):
    """One fixed size: pictures are squeezed to a square. `load` opens NaFlex checkpoints too."""

    @classmethod
    def of_checkpoint(cls, opened: Opened, *, min_pixels: int | None, max_pixels: int | None) -> SiglipEmbedder:
        kind = NaFlexEmbedder if opened.config.get("model_type") == "siglip2" else SiglipEmbedder
        return kind(opened, max_pixels=max_pixels)

    @staticmethod
    def architecture() -> Any:
        from transformers.models.siglip.modeling_siglip import SiglipModel

        return SiglipModel

    def _describe(self, opened: Opened, max_pixels: int | None) -> tuple[int, int, int, Any]:
        self._set_up_text(opened)
        self.rule = PictureRule.of(picture_fields(opened), DEFAULT)
        self.rule.check_side(self.model.config.vision_config.image_size)
        vision = self.model.config.vision_config
        width, height = self.rule.size
        return vision.hidden_size, (vision.image_size // vision.patch_size) ** 2, width * height, asdict(self.rule)

    def _set_up_text(self, opened: Opened) -> None:
        told = opened.checkpoint.json("tokenizer_config.json")
        self.length = self.model.config.text_config.max_position_embeddings
        self.tokenizer.enable_truncation(self.length)
        self.pad_id = special_id(self.tokenizer, told.get("pad_token"))
        self.is_first = told.get("tokenizer_class", "").startswith("SiglipTokenizer")

    def token_ids(self, text: str) -> list[int]:
        text = text.lower()
        if self.is_first:
            text = " ".join(text.translate(PUNCTUATION).split())
        return self.tokenizer.encode(text).ids

    def text_features(self, ids: Sequence[list[int]]) -> torch.Tensor:
        rows, _ = padded(ids, self.pad_id, self.length)
        return self.model.get_text_features(rows.to(self.device)).pooler_output

    def prepared(self, shot: Shot) -> Any:
        return self.rule.pixels(shot[0])

    def picture_features(self, prepared: Sequence[Any]) -> torch.Tensor:
        pixels = self.rule.normalised(torch.from_numpy(np.stack(prepared)).to(self.device))
        return self.model.get_image_features(self._to_model(pixels)).pooler_output


class NaFlexEmbedder(SiglipEmbedder):
    """Siglip2Model: any proportions, at most so many patches."""

    @staticmethod
    def architecture() -> Any:
        from transformers.models.siglip2.modeling_siglip2 import Siglip2Model

        return Siglip2Model

    def _describe(self, opened: Opened, max_pixels: int | None) -> tuple[int, int, int, Any]:
        self._set_up_text(opened)
        fields = picture_fields(opened)
        self.side = self.model.config.vision_config.patch_size
        count = fields.get("max_num_patches", NAFLEX_PATCHES) if max_pixels is None else max_pixels // self.side**2
        self.most_patches = max(1, int(count))
        self.resample = int(fields.get("resample", Image.Resampling.BILINEAR))
        self.mean, self.std = (tuple(fields.get(f"image_{part}", HALF)) for part in ("mean", "std"))
        decisive = [self.most_patches, self.resample, self.mean, self.std]
        return (
            self.model.config.vision_config.hidden_size,
            self.most_patches,
            self.most_patches * self.side**2,
            decisive,
        )

    def prepared(self, shot: Shot) -> np.ndarray:
        """uint8 [rows, columns, side * side * 3], row by row."""
        image = shot[0].convert("RGB")
        rows, columns = patch_grid(image.size, self.side, self.most_patches)
        pixels = np.array(resized(image, (columns * self.side, rows * self.side), self.resample))
        return (
            pixels.reshape(rows, self.side, columns, self.side, 3).transpose(0, 2, 1, 3, 4).reshape(rows, columns, -1)
        )

    def picture_features(self, prepared: Sequence[np.ndarray]) -> torch.Tensor:
        grids = [patches.shape[:2] for patches in prepared]
        most = max(rows * columns for rows, columns in grids)
        pixels = torch.zeros(len(prepared), most, self.side**2 * 3)
        mask = torch.zeros(len(prepared), most, dtype=torch.int32)
        for place, patches in enumerate(prepared):
            own = torch.from_numpy(patches).view(-1, self.side, self.side, 3)
            values = normalised(own, self.mean, self.std).permute(0, 2, 3, 1)
            pixels[place, : len(own)] = values.reshape(len(own), -1)
            mask[place, : len(own)] = 1
        return self.model.get_image_features(
            self._to_model(pixels), mask.to(self.device), torch.tensor(grids, device=self.device)
        ).pooler_output


def patch_grid(size: tuple[int, int], side: int, most: int) -> tuple[int, int]:
    """(rows, columns) of patches for a picture of `size` (width, height): the largest scale that keeps within `most`.

    The scale is found by halving an interval, to 1e-5, as the published processor does, so that the same rounding comes out.
    """

    def grid(scale: float) -> tuple[int, int]:
        columns, rows = (max(1, math.ceil(length * scale / side)) for length in size)
        return rows, columns

    low, high, precision = 1e-6, 100.0, 1e-5
    while high - low >= precision:
        middle = (low + high) / 2
        if math.prod(grid(middle)) <= most:
            low = middle
        else:
            high = middle
    return grid(low)


def special_id(tokenizer: Tokenizer, token: Any) -> int:
    """The id of a token as tokenizer_config.json names it: a string, or an object with `content`.

    Raises: EmbedderError: the tokenizer has no such token.
    """
    name = token["content"] if isinstance(token, dict) else token
    found = None if name is None else tokenizer.token_to_id(name)
    if found is None:
        raise EmbedderError(f"the tokenizer has no padding token {name!r}; tokenizer_config.json should name it")
    return found
