"""Decodes pixels: the only place where they are, for ingestion, queries, training and evaluation alike."""

from __future__ import annotations

import math

FACTOR = 28
"""Side in pixels of one visual token: a 2x2 block of 14-pixel patches."""


def smart_resize(
    width: int, height: int, *, min_pixels: int = 3136, max_pixels: int, factor: int = FACTOR
) -> tuple[int, int]:
    """The size at which Qwen2-VL reads an image: multiples of `factor`, within the bounds, near the same shape.

    A side below `factor`, or a side 200 times the other, makes it a square of the longer side first. Both sides stay at
    least `factor` whatever the bounds (the reference can round one down to nothing there).

    Returns:
        (width, height) in pixels.

    Source: TIGER-AI-Lab/VLM2Vec@6e1e1d4 `src/model/vlm_backbone/qwen2_vl/image_processing_qwen2_vl.py`.
    """
    longer, shorter = max(width, height), min(width, height)
    if shorter < factor or longer / shorter > 200:
        width = height = max(factor, longer)
    new_width = round(width / factor) * factor  # Python's round: halves go to the even neighbour
    new_height = round(height / factor) * factor
    if new_width * new_height > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
    elif new_width * new_height < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        new_width = math.ceil(width * grow / factor) * factor
        new_height = math.ceil(height * grow / factor) * factor
    return new_width, new_height
