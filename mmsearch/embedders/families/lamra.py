"""LamRA-Ret: Qwen2-VL-7B (or Qwen2.5-VL-7B) that sums up its input "in one word". The state before that word is the vector.

It takes an instruction (queries only; documents have none), a text and images together; of a video its middle frame, as in
VLM2Vec's comparisons. A text is tidied as for its training: first letter large, a full stop at its end. Its published code asks
for the answer `<emb>.` and reads the state of the token before `<emb>`; since a token sees none behind it, our prompt ends there.
Positions are one-dimensional, as in its published code (embeddings alone are given to the language model).

Source: Code-kunkun/LamRA `models/qwen2_vl.py`, `dataset/datasets_mbeir.py`, `demo.py` (read in public copies); arXiv 2412.01720.
Doubts: whether the Qwen2.5 version was trained with one-dimensional positions was not to be read; its pictures are unbounded,
ours have at most 1280 tokens, as in VLM2Vec's harness. That harness (TIGER-AI-Lab/VLM2Vec@787a763 `lamra_inference.py`) reads the
last token behind `<emb>.` instead and leaves out "Summarize above sentence", so its numbers for LamRA are of something else.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from mmsearch.embedders.families.gme import INSTRUCTION, PICTURE, middle_frame
from mmsearch.embedders.forward.packed import PackedEmbedder, Side
from mmsearch.embedders.forward.qwen2vl_inputs import ChatPreparation, Preparation
from mmsearch.items import EmbedInput


def lamra_prompt(text: str, *, image_count: int) -> str:
    """The exact string that the model reads, up to where it would answer."""
    what = "image and sentence" if image_count and text else "image" if image_count else "sentence"
    system = f"<|im_start|>system\n{INSTRUCTION}<|im_end|>\n"
    question = f"{PICTURE * image_count}{text}\nSummarize above {what} in one word: "
    return f"{system}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def tidied(text: str) -> str:
    """As LamRA's `format_string`: stripped, without outer quotes, a capital first, a stop last."""
    text = text.replace("\r", "").strip().strip('"')
    if not text:
        return ""
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".?!" else f"{text}."


class LamraEmbedder(PackedEmbedder):
    """See the module and `PackedEmbedder`."""

    def preparation_of(self, image_id: int, video_id: int) -> Preparation:
        return ChatPreparation(self.tokenizer, image_id, video_id, self.min_pixels)

    def final_input(self, item: EmbedInput, side: Side) -> tuple[str, Sequence[Image.Image], bool]:
        images = middle_frame(item)
        instruction = tidied(item.instruction) if side == "query" else ""
        return lamra_prompt(tidied(f"{instruction} {item.text}"), image_count=len(images)), images, False
