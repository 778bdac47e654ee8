"""What Qwen2-VL and its kin read: token ids and pixel patches, from final prompts and PIL images. CPU only, no model.

Source: TIGER-AI-Lab/VLM2Vec@6e1e1d4 `src/model/processor.py` (`Qwen2_VL_process_fn`) and
`src/model/vlm_backbone/qwen2_vl/image_processing_qwen2_vl.py`; recorded numbers in `tests/parity`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer

from mmsearch.errors import EmbedderError
from mmsearch.media import MAX_ASPECT, smart_resize

PREPROCESSING_VERSION = 1
"""Goes into the model key: raise it whenever the same input would give other ids or pixels."""

PATCH = 14
MERGE = 2
TEMPORAL = 2
PATCH_VALUES = 3 * TEMPORAL * PATCH * PATCH
MIN_PIXELS = 56 * 56
MAX_PIXELS = 1280 * 28 * 28

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Grid = tuple[int, int, int]
"""(frame pairs, patch rows, patch columns) of one image or video."""


@dataclass(frozen=True)
class Batch:
    """Prompts ready for the model, without padding: all sequences lie one after the other.

    Attributes:
        input_ids: int64 [tokens]; a visual's token is repeated once per merged patch.
        lengths: tokens of each prompt; they add up to len(input_ids).
        pixels: uint8 [patches, 1176] (Qwen3-VL: 1536), channel by frame by row by column, the four patches of a 2x2 block adjacent.
        grids: one per image or video, in the order of the prompts.
        visual_index: int64 [patches / 4], where in `input_ids` each merged patch belongs.
    """

    input_ids: torch.Tensor
    lengths: tuple[int, ...]
    pixels: torch.Tensor
    grids: tuple[Grid, ...]
    visual_index: torch.Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def patches(self) -> int:
        return len(self.pixels)

    @property
    def tokens(self) -> int:
        return len(self.input_ids)

    @property
    def cost(self) -> int:
        """What it costs: patches of the vision tower and tokens of the language model together."""
        return self.patches + self.tokens

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            input_ids=self.input_ids.to(device, non_blocking=non_blocking),
            pixels=self.pixels.to(device, non_blocking=non_blocking),
            visual_index=self.visual_index.to(device, non_blocking=non_blocking),
        )

    def pixel_values(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Normalised patches [patches, 1176], as the reference's image processor returns them."""
        return normalise(self.pixels).to(dtype)

    @classmethod
    def joined(cls, batches: Sequence[Batch]) -> Batch:
        """Several batches as one, in their order."""
        starts = np.cumsum([0, *(len(batch.input_ids) for batch in batches)])[:-1].tolist()
        return Batch(
            torch.cat([batch.input_ids for batch in batches]),
            tuple(length for batch in batches for length in batch.lengths),
            torch.cat([batch.pixels for batch in batches]),
            tuple(grid for batch in batches for grid in batch.grids),
            torch.cat([batch.visual_index + start for batch, start in zip(batches, starts, strict=True)]),
        )

    def separated(self) -> list[Batch]:
        """A batch per prompt; the inverse of `joined`."""
        rows = []
        start = patch = grid = visual = 0
        for length in self.lengths:
            last_visual = int(torch.searchsorted(self.visual_index, start + length))
            last_patch, last_grid = patch + MERGE**2 * (last_visual - visual), grid
            while sum(t * h * w for t, h, w in self.grids[grid:last_grid]) < last_patch - patch:
                last_grid += 1
            rows.append(
                Batch(
                    self.input_ids[start : start + length],
                    (length,),
                    self.pixels[patch:last_patch],
                    self.grids[grid:last_grid],
                    self.visual_index[visual:last_visual] - start,
                )
            )
            start, patch, grid, visual = start + length, last_patch, last_grid, last_visual
        return rows


@dataclass(frozen=True)
class Preparation:
    """From final prompts and pictures to a `Batch`. It holds no model and can be sent to another process.

    Families that size or cut their pictures in another way extend it.

    Attributes:
        image_id, video_id: ids of `<|image_pad|>` and `<|video_pad|>`.
        max_tokens: of a prompt, visual ones included; what is more is cut out before `tail`.
        tail: how prompts end.
    """

    tokenizer: Tokenizer
    image_id: int
    video_id: int
    min_pixels: int
    max_tokens: int | None = None
    tail: str = ""

    def batch(
        self,
        prompts: Sequence[str],
        images: Sequence[Sequence[Image.Image] | None],
        is_video: Sequence[bool],
        max_pixels: Sequence[int],
    ) -> Batch:
        """Tokenise and cut into patches.

        Args:
            prompts: complete, with one visual token per image, or one per video.
            images: per prompt its images in order, or the frames of its video, or None.
            max_pixels: budget of each image or frame, per prompt.

        Raises:
            EmbedderError: more images than visual tokens, or than `max_tokens` has room for; an empty prompt.
        """
        ids: list[int] = []
        lengths: list[int] = []
        visual_index: list[int] = []
        patches: list[np.ndarray] = []
        grids: list[Grid] = []
        for prompt, visuals, video, budget in zip(prompts, images, is_video, max_pixels, strict=True):
            counts = []
            for rows, grid in self.visuals(visuals, is_video=video, max_pixels=budget) if visuals else ():
                patches.append(rows)
                grids.append(grid)
                counts.append(len(rows) // MERGE**2)
            visual_id = self.video_id if video else self.image_id
            found, positions = expand(token_ids(self.tokenizer, prompt), visual_id, counts)
            if not found:
                raise EmbedderError("an empty prompt cannot be embedded")
            found = self._shortened(found, positions)
            visual_index.extend(len(ids) + position for position in positions)
            ids.extend(found)
            lengths.append(len(found))
        pixels = np.concatenate(patches) if patches else np.empty((0, PATCH_VALUES), np.uint8)
        return Batch(
            torch.tensor(ids, dtype=torch.int64),
            tuple(lengths),
            torch.from_numpy(pixels),
            tuple(grids),
            torch.tensor(visual_index, dtype=torch.int64),
        )

    def visuals(
        self, images: Sequence[Image.Image], *, is_video: bool, max_pixels: int
    ) -> Iterator[tuple[np.ndarray, Grid]]:
        """Patches and grid of each visual token of a prompt, as `patches_of` gives them."""
        for frames in [list(images)] if is_video else [[image] for image in images]:
            yield patches_of(frames, min_pixels=self.min_pixels, max_pixels=max_pixels)

    def patch_count(self, images: Sequence[Image.Image], *, is_video: bool, max_pixels: int) -> int:
        """About how many patches these images, or frames, become."""
        pixels = sum(min(max(image.width * image.height, self.min_pixels), max_pixels) for image in images)
        return pixels // PATCH**2 // (TEMPORAL if is_video else 1)

    def _shortened(self, ids: list[int], visual_positions: Sequence[int]) -> list[int]:
        if self.max_tokens is None or len(ids) <= self.max_tokens:
            return ids
        tail = token_ids(self.tokenizer, self.tail)
        kept = self.max_tokens - len(tail)
        if visual_positions and visual_positions[-1] >= kept:
            raise EmbedderError(
                f"the pictures of one input are {len(visual_positions)} tokens of at most {self.max_tokens}; "
                "give fewer, or a smaller max_pixels"
            )
        return ids[:kept] + ids[len(ids) - len(tail) :]


CHAT_LARGEST = 16384 * 28 * 28


@dataclass(frozen=True)
class ChatPreparation(Preparation):
    """Pictures as Qwen's own tools hand them over: sized to multiples of 28 pixels first, then within the budget.

    So a picture is resized twice where the budget is not its own size's. Source: see `chat_size`.
    """

    def visuals(
        self, images: Sequence[Image.Image], *, is_video: bool, max_pixels: int
    ) -> Iterator[tuple[np.ndarray, Grid]]:
        handed_over = []
        for image in map(as_rgb, images):
            size = chat_size(*image.size, min_pixels=MIN_PIXELS, max_pixels=CHAT_LARGEST)
            handed_over.append(resized(image, *size))
        floor = min(self.min_pixels, max_pixels)
        for frames in [handed_over] if is_video else [[image] for image in handed_over]:
            yield patches_of(frames, min_pixels=floor, max_pixels=max_pixels)


def normalise(
    pixels: torch.Tensor, mean: Sequence[float] = CLIP_MEAN, deviation: Sequence[float] = CLIP_STD
) -> torch.Tensor:
    """uint8 patches [n, values] to float32 with a mean and a deviation per channel."""
    middle = torch.tensor(mean, device=pixels.device)[:, None]
    scale = torch.tensor(deviation, device=pixels.device)[:, None]
    values = pixels.view(-1, 3, pixels.shape[1] // 3).float()
    return values.mul_(1 / (255 * scale)).sub_(middle / scale).view(pixels.shape)


def patches_of(frames: Sequence[Image.Image], *, min_pixels: int, max_pixels: int) -> tuple[np.ndarray, Grid]:
    """One image (a single frame) or one video (frames in order) as patches.

    All frames take the size computed from the first; an odd one out is followed by itself, as is a single image.
    A frame with a side under 28 pixels becomes 56x56 first.

    Returns:
        uint8 [t * h * w, 1176] and the grid (t, h, w).
    """
    frames = [_usable(frame) for frame in frames]
    width, height = smart_resize(*frames[0].size, min_pixels=min_pixels, max_pixels=max_pixels)
    return cut_into_patches([resized(frame, width, height) for frame in frames])


def cut_into_patches(frames: Sequence[Image.Image], patch: int = PATCH) -> tuple[np.ndarray, Grid]:
    """Frames of one size, whose sides are multiples of two patches; the last one is repeated if their number is odd.

    Returns:
        uint8 [t * h * w, 3 * 2 * patch * patch] and the grid (t, h, w).
    """
    width, height = frames[0].size
    stack = [np.asarray(frame) for frame in frames]
    if len(stack) % TEMPORAL:
        stack.append(stack[-1])
    rows, columns, pairs = height // patch, width // patch, len(stack) // TEMPORAL
    blocks = np.stack(stack).reshape(
        pairs, TEMPORAL, rows // MERGE, MERGE, patch, columns // MERGE, MERGE, patch, 3
    )  # pair, frame in pair, block row, row in block, y, block column, column in block, x, channel
    ordered = blocks.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return ordered.reshape(pairs * rows * columns, -1), (pairs, rows, columns)


def _usable(frame: Image.Image) -> Image.Image:
    frame = as_rgb(frame)
    return frame.resize((56, 56)) if min(frame.size) < 28 else frame


def as_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def resized(image: Image.Image, width: int, height: int) -> Image.Image:
    """Bicubic; the image itself if it has that size already."""
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)


def chat_size(
    width: int, height: int, *, min_pixels: int, max_pixels: int, factor: int = MERGE * PATCH
) -> tuple[int, int]:
    """The size (width, height) that Qwen's own tools give an image before the model's processor sees it.

    As `smart_resize`, but a side below `factor` becomes `factor`, and an aspect above 200 becomes 200.

    Source: QwenLM/Qwen2-VL `qwen-vl-utils/src/qwen_vl_utils/vision_process.py` and its copy in GME's `gme_inference.py`
    (`smart_resize`; the former refuses an aspect above 200).
    """
    w, h = max(factor, round(width / factor) * factor), max(factor, round(height / factor) * factor)
    if w * h > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        w, h = (max(factor, math.floor(side / shrink / factor) * factor) for side in (width, height))
    elif w * h < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        w, h = (math.ceil(side * grow / factor) * factor for side in (width, height))
    return min(w, h * MAX_ASPECT), min(h, w * MAX_ASPECT)


def token_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Ids of a final prompt, one per visual token; nothing is added before or after it."""
    return tokenizer.encode(prompt, add_special_tokens=False).ids


def first_tokens(tokenizer: Tokenizer, text: str, count: int) -> str:
    """The beginning of `text` that has at most `count` tokens ("" if count is 0)."""
    if count <= 0:
        return ""
    text = text[: count * 32]  # so that a book's text is not tokenised for its first sentence
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    return text if len(offsets) <= count else text[: offsets[count - 1][1]].rstrip()


def expand(ids: Sequence[int], visual_id: int, counts: Sequence[int]) -> tuple[list[int], list[int]]:
    """Repeat each of the first len(counts) visual tokens as often as its image has merged patches.

    Further visual tokens have no image: they stay as they are and keep their own embedding.

    Returns:
        The longer ids, and the positions in them that take visual features, in order.

    Raises:
        EmbedderError: fewer visual tokens than images.
    """
    expanded: list[int] = []
    positions: list[int] = []
    pending = iter(counts)
    for token in ids:
        count = next(pending, None) if token == visual_id else None
        if count is None:
            expanded.append(token)
        else:
            positions.extend(range(len(expanded), len(expanded) + count))
            expanded.extend([token] * count)
    if left := sum(1 for _ in pending):
        raise EmbedderError(f"a prompt has {len(counts)} visuals but only {len(counts) - left} visual tokens")
    return expanded, positions
