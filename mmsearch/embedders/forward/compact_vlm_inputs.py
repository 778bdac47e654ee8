"""What the compact model reads: token ids of both text encoders, and resized pictures. CPU only, no model; may run in another process."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer

from mmsearch.embedders.forward.compact_vlm_model import STRIDE
from mmsearch.embedders.forward.qwen2vl_inputs import as_rgb, first_tokens, token_ids
from mmsearch.errors import EmbedderError
from mmsearch.items import EmbedInput
from mmsearch.prompts import split_prompt

PREFIX = "query: "
ENGLISH_TOKENIZER = "english_tokenizer.json"

MOST_ASPECT = 6
"""Longer pictures are squeezed to this."""

CELL_COST = 12
"""What a cell costs beside a token, for batches of like cost."""


@dataclass(frozen=True)
class Ready:
    """An input as the model takes it.

    Attributes:
        ids: of the text with its special tokens; [] where there is no text.
        english_ids: of the same text for the English encoder; [] where there is none.
        pixels: uint8 [frames, height, width, 3] of each picture; a clip is one picture of several frames.
    """

    ids: list[int]
    english_ids: list[int]
    pixels: tuple[np.ndarray, ...]
    instruction: str


@dataclass(frozen=True)
class Tokens:
    """From texts to the ids that the encoders read.

    Attributes:
        around: ids before and behind a text, the prefix among them. english: the English encoder's tokenizer, and `english_around` its ids around a text.
    """

    tokenizer: Tokenizer
    around: tuple[list[int], list[int]]
    english: Tokenizer | None = None
    english_around: tuple[Sequence[int], Sequence[int]] = ((), ())

    @classmethod
    def of(cls, config: Mapping[str, Any], tokenizer: Tokenizer, english: Tokenizer | None = None) -> Self:
        """As a checkpoint's `config.json` tells. Raises: EmbedderError: it tells of an English encoder, whose tokenizer is missing."""
        prefix = tokenizer.encode(PREFIX.rstrip(), add_special_tokens=False).ids
        around = [int(config["bos_token_id"]), *prefix], [int(config["eos_token_id"])]
        second = config.get("english_config")
        if not second:
            return cls(tokenizer, around)
        if english is None:
            raise EmbedderError(f"the configuration tells of an English encoder, but there is no {ENGLISH_TOKENIZER}")
        return cls(tokenizer, around, english, ([int(second["bos_token_id"])], [int(second["eos_token_id"])]))

    def ids(self, text: str) -> list[int]:
        before, behind = self.around
        return [*before, *token_ids(self.tokenizer, text), *behind]

    def english_ids(self, text: str, most: int) -> list[int]:
        """[] without an English encoder. `most`: tokens, without those around them."""
        if self.english is None:
            return []
        before, behind = self.english_around
        return [*before, *token_ids(self.english, text)[:most], *behind]


class ReadyBatch(tuple[Ready, ...]):
    """Inputs for `CompactVlmEmbedder.forward`: a `mmsearch.embedders.trainable.PromptBatch`."""

    __slots__ = ()

    @property
    def patches(self) -> int:
        """Cells of the network."""
        return sum(pixels[..., 0].size // STRIDE**2 for one in self for pixels in one.pixels)

    @property
    def tokens(self) -> int:
        """Of text."""
        return sum(len(one.ids) for one in self)

    @property
    def cost(self) -> int:
        return self.patches * CELL_COST + self.tokens

    def to(self, device: torch.device | str) -> ReadyBatch:
        """Itself: a picture is moved when it is looked at."""
        return self

    def separated(self) -> list[ReadyBatch]:
        return [ReadyBatch((one,)) for one in self]

    @classmethod
    def joined(cls, batches: Sequence[ReadyBatch]) -> ReadyBatch:
        return cls(one for batch in batches for one in batch)


@dataclass(frozen=True)
class Preparation:
    """From final prompts and pictures to a `ReadyBatch`. It holds no model and can be sent to another process."""

    tokens: Tokens
    most_text_tokens: int

    def batch(
        self,
        prompts: Sequence[str],
        images: Sequence[Sequence[Image.Image] | None],
        is_video: Sequence[bool],
        max_pixels: Sequence[int],
    ) -> ReadyBatch:
        """Split into instruction and text, tokenise, resize; `max_pixels` is of each picture or frame, per prompt."""
        rows = zip(prompts, images, is_video, max_pixels, strict=True)
        return ReadyBatch(
            ready_input(self.tokens, prompt_input(prompt, shown, video), self.most_text_tokens, budget)
            for prompt, shown, video, budget in rows
        )


def prompt_input(prompt: str, images: Sequence[Image.Image] | None, is_video: bool) -> EmbedInput:
    """A final prompt and its pictures as an input, its instruction found by `mmsearch.prompts.split_prompt`."""
    instruction, text = split_prompt(prompt)
    return EmbedInput(instruction, text, tuple(images or ()), is_video, "clip" if is_video else "image")


def ready_input(tokens: Tokens, item: EmbedInput, most_text_tokens: int, budget: int) -> Ready:
    """Tokenise and resize. `budget`: pixels of each picture or frame."""
    text = first_tokens(tokens.tokenizer, item.text, most_text_tokens) if item.text.strip() else ""
    is_read = bool(text) or not item.images  # nothing at all: what the encoders make of an empty text
    ids = tokens.ids(text) if is_read else []
    english_ids = tokens.english_ids(text, most_text_tokens) if is_read else []
    shots = [item.images] if item.is_video else [(image,) for image in item.images]
    return Ready(ids, english_ids, tuple(_pixels(shot, budget) for shot in shots), item.instruction)


def grid_size(width: int, height: int, budget: int) -> tuple[int, int]:
    """(width, height) in pixels, multiples of 32 with about `budget` pixels in the picture's own proportions, as far as these go."""
    aspect = min(MOST_ASPECT, max(1 / MOST_ASPECT, width / height))
    cells = max(1.0, budget / STRIDE**2)
    rows = max(1, round(math.sqrt(cells / aspect)))
    columns = max(1, min(round(math.sqrt(cells * aspect)), int(cells // rows) or 1))
    return columns * STRIDE, rows * STRIDE


def _pixels(frames: Sequence[Image.Image], budget: int) -> np.ndarray:
    """uint8 [frames, height, width, 3]; all frames in the size of the first."""
    size = grid_size(*frames[0].size, budget)
    return np.stack([np.asarray(as_rgb(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames])
