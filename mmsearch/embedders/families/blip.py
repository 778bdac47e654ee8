"""BLIP: the contrastive (ITC) side of `BlipForImageTextRetrieval` (Salesforce/blip-itm-*), a baseline of VLM2Vec's paper.

Takes text (35 tokens, as it was trained and evaluated), pictures (squeezed to a square) and both; the instruction is dropped; of a
clip the mean over frames. See `two_towers`. The matching head, which reads picture and text together, gives no vectors and is left
out. arXiv 2201.12086; salesforce/BLIP@470b41e `train_retrieval.py`.
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

TEXT_TOKENS = 35
DEFAULT = PictureRule((384, 384), None, Image.Resampling.BICUBIC, CLIP_MEAN, CLIP_STD)


class BlipEmbedder(TwoTowerEmbedder):
    @staticmethod
    def architecture() -> Any:
        from transformers.models.blip.modeling_blip import BlipForImageTextRetrieval

        return BlipForImageTextRetrieval

    def _describe(self, opened: Opened, max_pixels: int | None) -> tuple[int, int, int, Any]:
        self.rule = PictureRule.of(picture_fields(opened), DEFAULT)
        self.rule.check_side(self.model.config.vision_config.image_size)
        self.tokenizer.enable_truncation(TEXT_TOKENS)
        vision = self.model.config.vision_config
        width, height = self.rule.size
        return (
            self.model.config.image_text_hidden_size,
            (vision.image_size // vision.patch_size) ** 2 + 1,
            width * height,
            asdict(self.rule),
        )

    def token_ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids

    def text_features(self, ids: Sequence[list[int]]) -> torch.Tensor:
        rows, is_token = (values.to(self.device) for values in padded(ids, 0))
        states = self.model.text_encoder(rows, attention_mask=is_token.long()).last_hidden_state
        return self.model.text_proj(states[:, 0])

    def prepared(self, shot: Shot) -> np.ndarray:
        return self.rule.pixels(shot[0])

    def picture_features(self, prepared: Sequence[np.ndarray]) -> torch.Tensor:
        pixels = self.rule.normalised(torch.from_numpy(np.stack(prepared)).to(self.device))
        return self.model.vision_proj(self.model.vision_model(self._to_model(pixels)).last_hidden_state[:, 0])
