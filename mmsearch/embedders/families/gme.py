"""GME: Qwen2-VL (2B, 7B) trained on texts, pictures and both together. Its chat string ends in `<|endoftext|>`, which is pooled.

It takes an instruction (queries only; documents have its default one), a text and images together; of a video its middle frame,
as in VLM2Vec's comparisons. Positions are one-dimensional: its published code gives the language model embeddings alone, and
that counts tokens one by one. An input longer than 1800 tokens loses the end of its text, not (as published) its last tokens.

Source: `gme_inference.py` of Alibaba-NLP/gme-Qwen2-VL-2B-Instruct (its copy in TIGER-AI-Lab/VLM2Vec@28fdca8
`src/model/baseline_backbone/gme/`); arXiv 2412.16855. In VLM2Vec's own harness the instruction is part of the text, the system
turn stays the default, and pictures have 4 tokens at least instead of 256: an `EmbedInput` without instruction and
`min_pixels=3136` give that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from PIL import Image

from mmsearch.embedders.forward.packed import PackedEmbedder, Side
from mmsearch.embedders.forward.qwen2vl_inputs import ChatPreparation, Preparation
from mmsearch.items import EmbedInput

INSTRUCTION = "You are a helpful assistant."
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
TAIL = "<|im_end|>\n<|im_start|>assistant\n<|endoftext|>"
MAX_TOKENS = 1800


def gme_prompt(instruction: str, text: str, *, image_count: int) -> str:
    """The exact string that the model reads."""
    system = f"<|im_start|>system\n{instruction or INSTRUCTION}<|im_end|>\n"
    return f"{system}<|im_start|>user\n{PICTURE * image_count}{text}{TAIL}"


class GmeEmbedder(PackedEmbedder):
    """See the module and `PackedEmbedder`."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl",)
    default_min_pixels: ClassVar[int] = 256 * 28 * 28
    default_max_pixels: ClassVar[int] = 1280 * 28 * 28

    def preparation_of(self, image_id: int, video_id: int) -> Preparation:
        return ChatPreparation(self.tokenizer, image_id, video_id, self.min_pixels, MAX_TOKENS, TAIL)

    def final_input(self, item: EmbedInput, side: Side) -> tuple[str, Sequence[Image.Image], bool]:
        images = middle_frame(item)
        instruction = item.instruction if side == "query" else ""
        return gme_prompt(instruction, item.text, image_count=len(images)), images, False


def middle_frame(item: EmbedInput) -> Sequence[Image.Image]:
    """The images of an input, or of a video's frames the middle one alone."""
    return item.images[len(item.images) // 2 :][:1] if item.is_video else item.images
