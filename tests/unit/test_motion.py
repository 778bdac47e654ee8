"""Clips made from photos: what is shown when, and that a seed gives the same clip again."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from mmsearch.training.data.photos_in_motion import CLOSEST, WIDEST, camera_path, frames_in_motion

RED, BLUE = Image.new("RGB", (40, 30), (255, 0, 0)), Image.new("RGB", (20, 20), (0, 0, 255))


def ramp() -> Image.Image:
    """Brighter to the right and, in another channel, downwards: every crop has colours of its own."""
    across, down = np.meshgrid(np.arange(64) * 4, np.arange(48) * 5)
    return Image.fromarray(np.stack([across, down, np.zeros_like(across)], -1).astype(np.uint8))


def test_a_photo_gives_frames_of_its_size_that_differ():
    frames = frames_in_motion([ramp()], random.Random(1))
    assert [frame.size for frame in frames] == [(64, 48)] * 8
    assert len({frame.tobytes() for frame in frames}) == 8
    assert frames_in_motion([ramp()], random.Random(1), 3, size=(10, 20))[0].size == (10, 20)


def test_a_seed_gives_the_same_clip():
    first, again, other = (
        [frame.tobytes() for frame in frames_in_motion([ramp(), RED], random.Random(seed))] for seed in (7, 7, 8)
    )
    assert first == again != other


@pytest.mark.parametrize("seed", range(8))
def test_a_cut_shows_the_first_photo_for_half_of_the_clip_or_longer(seed: int):
    frames = frames_in_motion([RED, BLUE], random.Random(seed))
    shown = [frame.getpixel((5, 5)) for frame in frames]
    red = shown.count((255, 0, 0))
    assert 4 <= red <= 6 and shown == [(255, 0, 0)] * red + [(0, 0, 255)] * (8 - red)


def test_every_photo_has_a_shot():
    frames = frames_in_motion([RED] * 7 + [BLUE], random.Random(3))
    assert [frame.getpixel((0, 0)) for frame in frames][-1] == (0, 0, 255)


@pytest.mark.parametrize("count", [0, 9])
def test_too_few_or_too_many_photos_are_refused(count: int):
    with pytest.raises(ValueError, match=f"{count} images for a clip of 8 frames"):
        frames_in_motion([RED] * count, random.Random(0))


def test_the_camera_stays_inside_and_pans_or_zooms():
    rng = random.Random(0)
    whole = (0.0, 0.0, 1.0, 1.0)
    moves = set()
    for _ in range(200):
        path = first, last = camera_path(rng)
        for left, top, right, bottom in path:
            assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
            assert right - left == pytest.approx(bottom - top)
        sides = [box[2] - box[0] for box in path]
        assert CLOSEST <= min(sides) <= WIDEST
        if whole in path:
            moves.add("zoom in" if first == whole else "zoom out")
        else:
            assert sides[0] == pytest.approx(sides[1]) and first != last
            moves.add("across" if first[1] == last[1] else "along")
    assert moves == {"zoom in", "zoom out", "across", "along"}
