"""Clips made from photos: the camera pans or zooms, and the picture may cut from one photo to the next."""

from __future__ import annotations

import random
from collections.abc import Sequence

from PIL import Image

MOVES = ("pan", "zoom in", "zoom out")
CLOSEST, WIDEST = 0.55, 0.8
"""Sides of the crops, as shares of the photo's sides. A zoom starts or ends at the whole photo."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom; each 0…1."""


def frames_in_motion(
    images: Sequence[Image.Image], rng: random.Random, frames: int = 8, *, size: tuple[int, int] | None = None
) -> list[Image.Image]:
    """A clip of `frames` pictures of one `size` (width, height; by default that of the first image).

    Each image is shown in its own shot with its own camera move, in the order given, with a hard cut between two shots. The first
    shot is never shorter than another one. The same images and the same state of `rng` give the same clip.

    Raises:
        ValueError: no image, or more images than frames.
    """
    if not 1 <= len(images) <= frames:
        raise ValueError(f"{len(images)} images for a clip of {frames} frames: at least one, and no more than frames")
    size = size or images[0].size
    lengths = [frames // len(images) + (shot < frames % len(images)) for shot in range(len(images))]
    if len(lengths) > 1:
        longer = rng.randint(0, lengths[-1] // 2)
        lengths[0], lengths[-1] = lengths[0] + longer, lengths[-1] - longer
    return [frame for image, length in zip(images, lengths, strict=True) for frame in _shot(image, rng, length, size)]


def _shot(image: Image.Image, rng: random.Random, frames: int, size: tuple[int, int]) -> list[Image.Image]:
    first, last = camera_path(rng)
    shown = []
    for number in range(frames):
        at = number / (frames - 1) if frames > 1 else 0.0
        left, top, right, bottom = (a + (b - a) * at for a, b in zip(first, last, strict=True))
        box = (left * image.width, top * image.height, right * image.width, bottom * image.height)
        shown.append(image.resize(size, Image.Resampling.BICUBIC, box=box))
    return shown


def camera_path(rng: random.Random) -> tuple[Box, Box]:
    """What the camera sees in the first and in the last frame of a shot."""
    move = rng.choice(MOVES)
    if move == "pan":
        side = rng.uniform(CLOSEST, WIDEST)
        along, across = (0.0, 1 - side), rng.uniform(0, 1 - side)
        start, end = along if rng.random() < 0.5 else along[::-1]
        corners = [(start, across), (end, across)] if rng.random() < 0.5 else [(across, start), (across, end)]
        first, last = ((left, top, left + side, top + side) for left, top in corners)
        return first, last
    side = rng.uniform(CLOSEST, WIDEST)
    left, top = rng.uniform(0, 1 - side), rng.uniform(0, 1 - side)
    near, whole = (left, top, left + side, top + side), (0.0, 0.0, 1.0, 1.0)
    return (whole, near) if move == "zoom in" else (near, whole)
