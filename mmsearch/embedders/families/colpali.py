"""ColPali: PaliGemma with every token projected to 128 numbers; pictures squeezed to one fixed square, 1,024 patches of it.

Takes text, pictures, or frames (each frame a picture). Drops the instruction. Source: transformers' `ColPaliProcessor` and
`ColPaliForRetrieval` (vidore/colpali-v1.2-hf, -v1.3-hf); arXiv 2407.01449.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer

from mmsearch.embedders.checkpoints.opening import Opened
from mmsearch.embedders.forward.late_interaction import (
    LateInteractionEmbedder,
    Piece,
    merged_model,
    processor_fields,
    special_token,
)
from mmsearch.embedders.forward.qwen2vl_inputs import token_ids
from mmsearch.errors import EmbedderError

VISUAL_PROMPT = "Describe the image."
QUERY_PREFIX = "Question: "
SHRUNK_FROM = 2
"""Pictures are handed over with so many times the side that the model sees, since it squeezes them itself."""


class ColPaliEmbedder(LateInteractionEmbedder):
    """Every token sees every other, so a batch holds sequences of one length and nothing is padded or masked.

    Attributes:
        size: (width, height) of the picture that the model sees.
    """

    is_padded = False

    def __init__(
        self,
        opened: Opened,
        model: Any,
        tokenizer: Tokenizer,
        *,
        bos_token: str,
        picture: Mapping[str, Any],
        **common: Any,
    ) -> None:
        """Use `load`. `picture`: the fields of preprocessor_config.json."""
        super().__init__(opened, model, tokenizer, **common)
        vlm = model.config.vlm_config
        self.query_prefix = bos_token + self.query_prefix
        side = vlm.vision_config.image_size
        size = picture.get("size") or {"height": side, "width": side}
        self.size = (int(size["width"]), int(size["height"]))
        self._resample = Image.Resampling(picture.get("resample", Image.Resampling.BICUBIC))
        self._mean = np.asarray(picture.get("image_mean", (0.5, 0.5, 0.5)), np.float32)
        self._std = np.asarray(picture.get("image_std", (0.5, 0.5, 0.5)), np.float32)
        self._patches = (side // vlm.vision_config.patch_size) ** 2
        if self.size != (side, side):
            raise EmbedderError(
                f"preprocessor_config.json makes pictures of {self.size}, the model takes {side} pixels"
            )
        after = token_ids(tokenizer, f"{bos_token}{self.visual_prompt}\n")
        self._picture_ids = [vlm.image_token_id] * self._patches + after

    @classmethod
    def of_checkpoint(cls, opened: Opened, *, min_pixels: int | None, max_pixels: int | None) -> Self:
        """The model sees squares of one size; `max_pixels` bounds only what is handed over to be squeezed."""
        from transformers.models.colpali.modeling_colpali import ColPaliForRetrieval

        model, tokenizer = merged_model(ColPaliForRetrieval, opened)
        told, picture = processor_fields(opened)
        side = SHRUNK_FROM * model.config.vlm_config.vision_config.image_size
        return cls(
            opened,
            model,
            tokenizer,
            visual_prompt=told.get("visual_prompt_prefix") or VISUAL_PROMPT,
            query_prefix=told.get("query_prefix") or QUERY_PREFIX,
            bos_token=special_token(opened, "bos_token", "<bos>"),
            pad_token=special_token(opened, "pad_token", "<pad>"),
            picture=picture,
            min_pixels=0,
            max_pixels=opened.max_pixels(max_pixels, side * side),
        )

    def _cost(self, piece: Piece) -> tuple[int, int]:
        if isinstance(piece, str):
            return 0, len(token_ids(self.tokenizer, piece))
        return self._patches, len(self._picture_ids)

    def _prepare(self, pieces: Sequence[Piece]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Ids int64 [n, tokens] and pixels float32 [n, 3, height, width], None for texts."""
        ids = [token_ids(self.tokenizer, one) if isinstance(one, str) else self._picture_ids for one in pieces]
        pixels = [self._pixels(one) for one in pieces if not isinstance(one, str)]
        return torch.tensor(ids), torch.from_numpy(np.stack(pixels)) if pixels else None

    def _pixels(self, image: Image.Image) -> np.ndarray:
        """float32 [3, height, width]"""
        squeezed = np.asarray(image.resize(self.size, self._resample), np.float32)
        return ((squeezed / 255 - self._mean) / self._std).transpose(2, 0, 1)

    def _forward(self, prepared: tuple[torch.Tensor, torch.Tensor | None]) -> list[torch.Tensor]:
        ids, pixels = prepared
        output = self.model(
            input_ids=ids.to(self.device),
            pixel_values=None if pixels is None else pixels.to(self.device),
            token_type_ids=torch.zeros_like(ids, device=self.device),  # all of it is prefix: attention both ways
            use_cache=False,
        )
        return list(output.embeddings)
