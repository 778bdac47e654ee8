"""X-CLIP: CLIP for video, `XCLIPModel` of transformers (microsoft/xclip-*). The line of VideoCLIP.

Takes text (77 tokens), pictures, clips, and both; the instruction is dropped. A clip is brought to the model's
number of frames (8, mostly), spread evenly, some of them twice where there are fewer; its frames talk to each other in the vision tower and through the
multi-frame integration transformer (MIT) on top. A photo or a page is a clip that stands still: one frame, repeated.

The published score does one thing more: a "prompt generator" moves every text towards each video before they are compared, so a text has
another vector for every video. That cannot be stored or searched. It is left out here: texts are what the text projection gives, and
scores are not those of the paper's zero-shot tables. How much is lost has not been measured (no weights here).

Source: arXiv 2208.02816; transformers' `XCLIPModel.get_text_features`, `get_video_features`.
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
from mmsearch.embedders.forward.fixed_pictures import IMAGENET_MEAN, IMAGENET_STD, PictureRule
from mmsearch.embedders.forward.two_towers import Shot, TwoTowerEmbedder
from mmsearch.items import EmbedInput

DEFAULT = PictureRule((224, 224), 224, Image.Resampling.BILINEAR, IMAGENET_MEAN, IMAGENET_STD)


class XClipEmbedder(TwoTowerEmbedder):
    """A shot is a whole clip, or a picture standing still.

    Attributes:
        frame_count: of every clip that the model sees.
    """

    @staticmethod
    def architecture() -> Any:
        from transformers.models.x_clip.modeling_x_clip import XCLIPModel

        return XCLIPModel

    def _describe(self, opened: Opened, max_pixels: int | None) -> tuple[int, int, int, Any]:
        self.rule = PictureRule.of(picture_fields(opened), DEFAULT)
        self.rule.check_side(self.model.config.vision_config.image_size)
        self.tokenizer.enable_truncation(self.model.config.text_config.max_position_embeddings)
        vision = self.model.config.vision_config
        self.frame_count = vision.num_frames
        patches = (vision.image_size // vision.patch_size) ** 2 + 2
        width, height = self.rule.size
        return self.model.config.projection_dim, patches * self.frame_count, width * height, asdict(self.rule)

    def token_ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids

    def text_features(self, ids: Sequence[list[int]]) -> torch.Tensor:
        # Padding behind the end token, where attention looks back only, changes nothing: no mask.
        return self.model.get_text_features(padded(ids, 0)[0].to(self.device)).pooler_output

    def shots(self, item: EmbedInput) -> list[Shot]:
        if item.is_video and item.images:
            return [tuple(item.images[place] for place in spread(len(item.images), self.frame_count))]
        return super().shots(item)

    def prepared(self, shot: Shot) -> np.ndarray:
        """uint8 [frames, height, width, 3]; one frame if it stands still."""
        return np.stack([self.rule.pixels(frame) for frame in shot])

    def picture_features(self, prepared: Sequence[np.ndarray]) -> torch.Tensor:
        clips = []
        for frames in prepared:
            pixels = self.rule.normalised(torch.from_numpy(frames).to(self.device))
            clips.append(pixels.expand(self.frame_count, -1, -1, -1))
        return self.model.get_video_features(self._to_model(torch.stack(clips))).pooler_output


def spread(have: int, want: int) -> list[int]:
    """`want` places spread evenly over 0…have-1, ends included; where there are fewer some come twice."""
    return [round(place * (have - 1) / max(1, want - 1)) for place in range(want)]
