"""VLM2Vec-V1 on Qwen2-VL (2B, 7B; LoRA adapters): V2's forward pass, V1's prompts, and every picture a square of 1344 pixels.

It takes instructions and an image. It was not trained on video: a clip is given as V2's, as its makers did when they compared
the two. Of the prompts that the application gives, those of pages are replaced by what V1 was trained with; a user's own stay.

Source: TIGER-AI-Lab/VLM2Vec@6e1e1d4 `experiments/public/eval/eval_vlm2vecv1_8gpu.sh` (`--resize_use_processor false
--image_resolution high`) and the strings of TIGER-Lab/MMEB-eval. An honest doubt: at that commit the
processor shrinks the squares again, to 980 pixels; V1's own code and paper give the model all 1344 (arXiv 2410.05160), as here.
`max_pixels=980 * 980` gives the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from mmsearch.embedders.families.vlm2vec import Vlm2VecEmbedder, first_tokens
from mmsearch.embedders.forward.packed import Side
from mmsearch.embedders.forward.qwen2vl_inputs import (
    MERGE,
    PATCH,
    TEMPORAL,
    Grid,
    Preparation,
    as_rgb,
    cut_into_patches,
    resized,
)
from mmsearch.items import EmbedInput
from mmsearch.prompts import DOCUMENT_INSTRUCTIONS, IMAGE_TOKEN, TEXT_QUERY_INSTRUCTIONS, final_prompt

SIDE_PX = 1344

AS_TRAINED: dict[str, str] = {
    DOCUMENT_INSTRUCTIONS["page"]: "Represent the given image",
    TEXT_QUERY_INSTRUCTIONS["page"]: "Find the document image that can answer the given query:",
}
"""The application's instruction: V1's for the same (Wiki-SS-NQ's, the one set of pages that it knew). The others are the same."""


@dataclass(frozen=True)
class SquarePreparation(Preparation):
    """Every picture becomes a square, of `SIDE_PX` or as large as the budget allows."""

    def visuals(
        self, images: Sequence[Image.Image], *, is_video: bool, max_pixels: int
    ) -> Iterator[tuple[np.ndarray, Grid]]:
        side = square_side(max_pixels)
        squares = [resized(as_rgb(image), side, side) for image in images]
        for frames in [squares] if is_video else [[square] for square in squares]:
            yield cut_into_patches(frames)

    def patch_count(self, images: Sequence[Image.Image], *, is_video: bool, max_pixels: int) -> int:
        return len(images) * (square_side(max_pixels) // PATCH) ** 2 // (TEMPORAL if is_video else 1)


def square_side(max_pixels: int) -> int:
    """A multiple of 28, at least 28 and at most `SIDE_PX`."""
    factor = MERGE * PATCH
    return max(factor, min(SIDE_PX, math.isqrt(max_pixels) // factor * factor))


def v1_prompt(instruction: str, text: str, *, image_count: int) -> str:
    """`<|image_pad|>⏎instruction text⏎`; a text alone stays as it is, like MMEB's answers and class names."""
    if not instruction and not image_count:
        return text
    words = " ".join(part for part in (instruction, text) if part)
    return f"{IMAGE_TOKEN}\n" * image_count + (f"{words}\n" if words else "")


class Vlm2VecV1Embedder(Vlm2VecEmbedder):
    """See the module and `Vlm2VecEmbedder`."""

    family: ClassVar[str] = "vlm2vec_v1"
    default_max_pixels: ClassVar[int] = SIDE_PX * SIDE_PX

    def decisive(self) -> Mapping[str, Any]:
        return {**super().decisive(), "as_trained": AS_TRAINED, "side": SIDE_PX}

    def preparation_of(self, image_id: int, video_id: int) -> Preparation:
        return SquarePreparation(self.tokenizer, image_id, video_id, self.min_pixels)

    def final_input(self, item: EmbedInput, side: Side) -> tuple[str, Sequence[Image.Image], bool]:
        most = self.query_text_tokens if side == "query" else self.page_text_tokens
        text = first_tokens(self.tokenizer, item.text, most) if item.text else ""
        if item.is_video:
            return final_prompt(item.instruction, text, is_video=True), item.images, True
        instruction = AS_TRAINED.get(item.instruction, item.instruction)
        return v1_prompt(instruction, text, image_count=len(item.images)), item.images, False


def v1_final_prompt(item: EmbedInput) -> str:
    """VLM2Vec-V1's final string, with the placeholders of `mmsearch.prompts`; for frames, which it never saw, V2's."""
    if item.is_video:
        return final_prompt(item.instruction, item.text, is_video=True)
    return v1_prompt(AS_TRAINED.get(item.instruction, item.instruction), item.text, image_count=len(item.images))
