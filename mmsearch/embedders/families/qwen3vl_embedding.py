"""Qwen3-VL-Embedding (2B, 8B): the instruction in the system turn, a final `<|endoftext|>` that is pooled after the last norm.

It takes an instruction (queries; documents have the default one, as its makers evaluate), a text, images and a video of up to 64
frames together. Each pair of frames is preceded by its time, two frames a second, as where frames alone are given to the
published code. Positions are Qwen3-VL's own: time, height and width, interleaved. What follows 8192 tokens of text is left out.

Source: QwenLM/Qwen3-VL-Embedding `src/models/qwen3_vl_embedding.py` and README (read in public copies), with qwen-vl-utils 0.0.14
(sizes, times) and transformers 4.57 `Qwen3VLProcessor` (its string for a video); arXiv 2601.04720. Differences: fewer than 64
frames stay as many as they are (the published code repeats them up to 64, which costs eight times as much for the same eight
frames); frames are resized with Pillow, not torchvision (at most one level of 255 apart); a long input loses the end of its text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from mmsearch.embedders.checkpoints import checkpoint as files
from mmsearch.embedders.forward.packed import PackedEmbedder, Side
from mmsearch.embedders.forward.qwen2vl_inputs import (
    MERGE,
    TEMPORAL,
    Batch,
    Grid,
    Preparation,
    as_rgb,
    chat_size,
    cut_into_patches,
    normalise,
    resized,
)
from mmsearch.items import EmbedInput

INSTRUCTION = "Represent the user's input."
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
FRAMES = "<|vision_start|><|video_pad|><|vision_end|>"
TAIL = "<|im_end|>\n<|im_start|>assistant\n<|endoftext|>"
NOTHING = "NULL"
MAX_TOKENS = 8192

PATCH = 16
FACTOR = MERGE * PATCH
MIN_PIXELS = 4 * FACTOR**2
MAX_PIXELS = 1800 * FACTOR**2
HANDED_OVER_PIXELS = 16384 * FACTOR**2
"""Of a frame, before the video's own size is chosen."""
FRAME_MIN_PIXELS, FRAME_MAX_PIXELS = 128 * FACTOR**2, 768 * FACTOR**2
VIDEO_PIXELS = 10 * FRAME_MAX_PIXELS
"""Of all pairs of frames of a video together."""
MAX_FRAMES = 64
FRAMES_PER_SECOND = 2.0

MEAN = DEVIATION = (0.5, 0.5, 0.5)


def qwen3_prompt(instruction: str, text: str, *, image_count: int = 0, frame_count: int = 0) -> str:
    """The exact string that the model reads: one image token per image, one video token per pair of frames."""
    instruction = instruction.strip()
    if instruction and not unicodedata.category(instruction[-1]).startswith("P"):
        instruction += "."
    pairs = range(0, frame_count, TEMPORAL)
    video = "".join(f"<{(first + 0.5) / FRAMES_PER_SECOND:.1f} seconds>{FRAMES}" for first in pairs)
    content = f"{video}{IMAGE * image_count}{text}" or NOTHING
    system = f"<|im_start|>system\n{instruction or INSTRUCTION}<|im_end|>\n"
    return f"{system}<|im_start|>user\n{content}{TAIL}"


def sampled(frames: Sequence[Image.Image]) -> Sequence[Image.Image]:
    """At most `MAX_FRAMES` frames, evenly spread, the first and the last among them."""
    if len(frames) <= MAX_FRAMES:
        return frames
    return [frames[index] for index in np.linspace(0, len(frames) - 1, MAX_FRAMES, dtype=int)]


@dataclass(frozen=True)
class PlacedBatch(Batch):
    """A batch whose tokens have places in time, height and width.

    Attributes:
        positions: int64 [3, tokens], from 0 in each prompt.
    """

    positions: torch.Tensor

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> PlacedBatch:
        moved = super().to(device, non_blocking=non_blocking)
        assert isinstance(moved, PlacedBatch)
        return replace(moved, positions=self.positions.to(device, non_blocking=non_blocking))


def positions_of(batch: Batch) -> torch.Tensor:
    """int64 [3, tokens]: words count on in all three; a picture's tokens keep its time and spread over rows and columns."""
    visual_index = batch.visual_index.numpy()
    places = np.empty((3, len(batch.input_ids)), np.int64)
    grids = iter(batch.grids)
    start = used = 0
    for length in batch.lengths:
        cursor, end, place = start, start + length, 0
        while used < len(visual_index) and visual_index[used] < end:
            first = int(visual_index[used])
            _, rows, columns = next(grids)
            height, width = rows // MERGE, columns // MERGE
            places[:, cursor:first] = np.arange(place, place + first - cursor)
            place += first - cursor
            cursor = first + height * width
            picture = places[:, first:cursor]
            picture[0] = place
            picture[1] = place + np.arange(height).repeat(width)
            picture[2] = place + np.tile(np.arange(width), height)
            place += max(height, width)
            used += height * width
        places[:, cursor:end] = np.arange(place, place + end - cursor)
        start = end
    return torch.from_numpy(places)


@dataclass(frozen=True)
class Qwen3Preparation(Preparation):
    """Patches of 16 pixels; each pair of a video's frames is a picture of its own, with its own visual token."""

    def batch(
        self,
        prompts: Sequence[str],
        images: Sequence[Sequence[Image.Image] | None],
        is_video: Sequence[bool],
        max_pixels: Sequence[int],
    ) -> PlacedBatch:
        batch = super().batch(prompts, images, is_video, max_pixels)
        parts = {field.name: getattr(batch, field.name) for field in fields(batch)}
        return PlacedBatch(**parts, positions=positions_of(batch))

    def visuals(
        self, images: Sequence[Image.Image], *, is_video: bool, max_pixels: int
    ) -> Iterator[tuple[np.ndarray, Grid]]:
        if not is_video:
            floor = min(self.min_pixels, max_pixels)
            for image in map(as_rgb, images):
                size = chat_size(*image.size, min_pixels=floor, max_pixels=max_pixels, factor=FACTOR)
                yield cut_into_patches([resized(image, *size)], PATCH)
            return
        frames: list[Image.Image] = []
        for frame in map(as_rgb, images):
            size = chat_size(*frame.size, min_pixels=MIN_PIXELS, max_pixels=HANDED_OVER_PIXELS, factor=FACTOR)
            frames.append(resized(frame, *(frames[0].size if frames else size)))
        budget = frame_budget(len(frames), max_pixels)
        floor = FRAME_MIN_PIXELS if budget > FRAME_MIN_PIXELS else MIN_PIXELS
        size = chat_size(*frames[0].size, min_pixels=floor, max_pixels=budget, factor=FACTOR)
        for first in range(0, len(frames), TEMPORAL):
            yield cut_into_patches([resized(frame, *size) for frame in frames[first : first + TEMPORAL]], PATCH)

    def patch_count(self, images: Sequence[Image.Image], *, is_video: bool, max_pixels: int) -> int:
        floor, budget = self.min_pixels, max_pixels
        if is_video:
            floor, budget = FRAME_MIN_PIXELS, frame_budget(len(images), max_pixels)
        pixels = sum(min(max(image.width * image.height, floor), budget) for image in images)
        return pixels // PATCH**2 // (TEMPORAL if is_video else 1)


def frame_budget(frame_count: int, max_pixels: int) -> int:
    """Pixels of each frame of a video at most: the more frames, the fewer."""
    share = VIDEO_PIXELS * TEMPORAL // (frame_count + frame_count % TEMPORAL)
    return min(max_pixels, max(min(FRAME_MAX_PIXELS, share), int(FRAME_MIN_PIXELS * 1.05)))


class Qwen3VLEmbedder(PackedEmbedder):
    """See the module and `PackedEmbedder`.

    Attributes:
        frames: of a video that it was evaluated with; it takes fewer.
        protocol: whose words benchmarks ask it with, see `mmsearch.evaluation.mmeb.tasks.in_protocol`.
    """

    model_types: ClassVar[tuple[str, ...]] = ("qwen3_vl",)
    default_min_pixels: ClassVar[int] = MIN_PIXELS
    default_max_pixels: ClassVar[int] = MAX_PIXELS
    frames: ClassVar[int] = MAX_FRAMES
    protocol: ClassVar[str] = "qwen3vl_embedding"

    def preparation_of(self, image_id: int, video_id: int) -> Preparation:
        return Qwen3Preparation(self.tokenizer, image_id, video_id, self.min_pixels, MAX_TOKENS, TAIL)

    def decisive(self) -> Mapping[str, Any]:
        video = EmbedInput("", "", (Image.new("RGB", (56, 56)),) * 4, is_video=True)
        return {**super().decisive(), "video": self.final_input(video, "document")[0]}

    def final_input(self, item: EmbedInput, side: Side) -> tuple[str, Sequence[Image.Image], bool]:
        instruction = item.instruction if side == "query" else ""
        if item.is_video and item.images:
            frames = sampled(item.images)
            return qwen3_prompt(instruction, item.text, frame_count=len(frames)), frames, True
        return qwen3_prompt(instruction, item.text, image_count=len(item.images)), item.images, False

    def pixel_values(self, batch: Batch) -> torch.Tensor:
        return normalise(batch.pixels, MEAN, DEVIATION)

    def angles(self, batch: Batch, language_model: Any) -> torch.Tensor:
        assert isinstance(batch, PlacedBatch)
        frequencies = language_model.rotary_emb.inv_freq.float()
        axis = frequency_axes(mrope_section(self._config), len(frequencies)).to(frequencies.device)
        return batch.positions[axis].T * frequencies


def mrope_section(config: Mapping[str, Any]) -> Sequence[int]:
    """How many frequencies turn with time, height and width."""
    text = files.text_fields(config)
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    return rope.get("mrope_section", (24, 20, 20))


def frequency_axes(section: Sequence[int], count: int) -> torch.Tensor:
    """int64 [count]: 0, 1 or 2 (time, height, width) for each frequency: every third one in turn, as far as the sections reach."""
    axes = torch.zeros(count, dtype=torch.int64)
    for axis in (1, 2):
        axes[axis : section[axis] * 3 : 3] = axis
    return axes
