"""What a picture looks like before it is read: whether it shows print at all, dark on light or light on dark, a page or a screen.

All of it is measured on a small grey copy (320 pixels), which takes one to two milliseconds.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

LOOK_SIDE_PX = 320
MAX_SOFT_STEP = 16
"""Grey levels between neighbours: from 4 up to here lie shading, blur and noise."""
MIN_STROKE_STEP = 24
BLOCK_PX = 8
MIN_STROKES = 0.004
"""A smaller share of blocks with strokes is a blank picture, or a plain drawing."""

# Logistic regression, 5-fold, on 3,889 photos (Flickr8k, COCO, food) against 699 rasterised pages (a quarter each clean, skewed by 2°, on
# tinted and noisy paper, inverted; JPEG 75) and 88 screenshots. At 0: 0.1 % of the photos, 99.7 % of the pages, 92 % of the screenshots.
BIAS, SOFT_WEIGHT, STROKE_WEIGHT, ENTROPY_WEIGHT = 5.2, -13.7, 64.0, -3.45

DARK_GROUND = 110
"""Below this median grey the ground is dark and the print light."""
LIGHT_GROUND = 150
DENSE_STROKES = 0.22
"""Share of blocks with strokes on flat ground above which a picture is a full page of text, whatever its shape."""


def small_grey(image: Image.Image) -> np.ndarray:
    """uint8 [height, width], the longer side at most `LOOK_SIDE_PX`."""
    image = image.convert("L")  # first: one channel is scaled in a third of the time
    scale = LOOK_SIDE_PX / max(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(image)


def print_score(image: Image.Image) -> float:
    """How much a picture looks printed; above 0 it is worth reading. Text is strokes on flat ground with few grey levels between."""
    grey = small_grey(image).astype(np.int16)
    if min(grey.shape) <= BLOCK_PX:
        return float("-inf")
    steps = _steps(grey)
    strokes = stroke_share(steps)
    if strokes < MIN_STROKES:
        return float("-inf")
    soft = float(((steps > 3) & (steps < MAX_SOFT_STEP)).mean())
    levels = np.bincount((grey >> 3).ravel(), minlength=32) / grey.size
    entropy = float(-(levels[levels > 0] * np.log(levels[levels > 0])).sum())
    return BIAS + SOFT_WEIGHT * soft + STROKE_WEIGHT * strokes + ENTROPY_WEIGHT * entropy


def has_print(image: Image.Image) -> bool:
    """Whether a photo, a screenshot or a scan is worth reading."""
    return print_score(image) > 0


def _steps(grey: np.ndarray) -> np.ndarray:
    """int16 [height - 1, width - 1]: the larger of the steps to the right and down."""
    return np.maximum(np.abs(np.diff(grey, axis=1)[:-1]), np.abs(np.diff(grey, axis=0)[:, :-1]))


def stroke_share(steps: np.ndarray) -> float:
    """The share of 8 × 8 blocks in which strong edges stand on flat ground."""
    height, width = (side // BLOCK_PX for side in steps.shape)
    if not height or not width:
        return 0.0
    blocks = steps[: height * BLOCK_PX, : width * BLOCK_PX].reshape(height, BLOCK_PX, width, BLOCK_PX)
    has_strokes = (blocks >= MIN_STROKE_STEP).mean((1, 3)) > 0.15
    is_flat = (blocks <= 3).mean((1, 3)) > 0.25
    return float((has_strokes & is_flat).mean())


def is_light_on_dark(image: Image.Image) -> bool:
    return float(np.median(small_grey(image))) < DARK_GROUND


def choose_engine(image: Image.Image) -> str:
    """The engine that reads such a picture best: "tesseract" for dark print on light paper, "rapidocr" for slides, screens and signs.

    Paper is light all over, and either upright or full of text.
    """
    grey = small_grey(image)
    if float(np.median(grey)) < LIGHT_GROUND:
        return "rapidocr"
    is_upright = grey.shape[0] > grey.shape[1]
    if is_upright or stroke_share(_steps(grey.astype(np.int16))) > DENSE_STROKES:
        return "tesseract"
    return "rapidocr"
