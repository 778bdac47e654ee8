"""CLIP: `CLIPModel` of transformers (openai/clip-vit-*, LAION's and MetaCLIP's in that layout).

Takes text (77 tokens, the rest cut off), pictures (shorter side resized, centre cut out: what lies outside the centre square is not
seen) and both; the instruction is dropped; of a clip the mean over frames. See `two_towers`. arXiv 2103.00020.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmsearch.embedders.checkpoints.opening import Opened
from mmsearch.embedders.checkpoints.pretrained import picture_fields
from mmsearch.embedders.forward.batching import padded
from mmsearch.embedders.forward.fixed_pictures import CLIP_MEAN, CLIP_STD, PictureRule
from mmsearch.embedders.forward.two_towers import Shot, TwoTowerEmbedder

DEFAULT = PictureRule((224, 224), 224, Image.Resampling.BICUBIC, CLIP_MEAN, CLIP_STD)


class ClipEmbedder(TwoTowerEmbedder):
    @staticmethod
    def architecture() -> Any:
        from transformers.models.clip.modeling_clip import CLIPModel

        return CLIPModel

    def _describe(self, opened: Opened, max_pixels: int | None) -> tuple[int, int, int, Any]:
        self.rule = PictureRule.of(picture_fields(opened), DEFAULT)
        self.rule.check_side(self.model.config.vision_config.image_size)
        self.tokenizer.enable_truncation(self.model.config.text_config.max_position_embeddings)
        vision = self.model.config.vision_config
        width, height = self.rule.size
        return (
            self.model.config.projection_dim,
            (vision.image_size // vision.patch_size) ** 2 + 1,
            width * height,
            asdict(self.rule),
        )

    def token_ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids

    def text_features(self, ids: Sequence[list[int]]) -> torch.Tensor:
        # Padding behind the end token, where attention looks back only, changes nothing: no mask.
        return self.model.get_text_features(padded(ids, 0)[0].to(self.device)).pooler_output

    def prepared(self, shot: Shot) -> np.ndarray:
        return self.rule.pixels(shot[0])

    def picture_features(self, prepared: Sequence[np.ndarray]) -> torch.Tensor:
        pixels = self.rule.normalised(torch.from_numpy(np.stack(prepared)).to(self.device))
        return self.model.get_image_features(self._to_model(pixels)).pooler_output
