"""Spaces that RapidOCR loses between Latin words, found again in the picture: a gap in the ink as wide as a space.

The model's characters have rough places, so a gap is looked for between the middles of two neighbours. A library's vocabulary
would also do, but names and numbers are in none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

GAP_SHARE = 0.28
"""A gap without ink this wide, as a share of the line's height, parts two words. Letters stand closer than 0.15."""
INK_CONTRAST = 0.35
"""Ink differs from the ground by this share of the line's range of grey."""

Span = tuple[str, float, float]


def split_words(
    text: str, characters: Sequence[Span], grey: np.ndarray, box: tuple[float, float, float, float]
) -> list[Span]:
    """The words of a line with their left and right edge in pixels.

    Args:
        characters: the line's characters without spaces, with their edges; may be fewer than in `text`, then no space is added.
        grey: uint8 [height, width], the whole picture. box: the line's left, top, right, bottom in pixels.
    """
    words = text.split()
    joined = "".join(words)
    if len(characters) != len(joined):
        return _evenly(words, box)
    ink = _ink_columns(grey, box)
    least = GAP_SHARE * (box[3] - box[1])
    found: list[Span] = []
    at = 0
    for word in words:
        spans = characters[at : at + len(word)]
        at += len(word)
        start = 0
        for n in range(1, len(word)):
            if _may_part(word[n - 1], word[n]) and _widest_gap(ink, spans[n - 1], spans[n], box[0]) > least:
                found.append((word[start:n], spans[start][1], spans[n - 1][2]))
                start = n
        found.append((word[start:], spans[start][1], spans[-1][2]))
    return found


def _may_part(left: str, right: str) -> bool:
    """Only Latin letters and digits are parted: other scripts have no spaces, and punctuation stands apart by itself."""
    return left.isascii() and right.isascii() and right.isalnum() and (left.isalnum() or left in ".,:;!?)")


def _ink_columns(grey: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """bool [columns of the box]: whether a column holds ink."""
    left, top, right, bottom = (max(0, round(value)) for value in box)
    line = grey[top : max(bottom, top + 1), left : max(right, left + 1)]
    if not line.size:
        return np.zeros(0, bool)
    ground = float(np.median(line))
    span = float(line.max()) - float(line.min())
    ink = np.abs(line.astype(np.float32) - ground) > max(INK_CONTRAST * span, 1.0)
    return ink.sum(0) > max(1, 0.04 * len(line))


def _widest_gap(ink: np.ndarray, before: Span, after: Span, left: float) -> int:
    """Columns of the widest gap between the middles of two characters."""
    start, end = (round((span[1] + span[2]) / 2 - left) for span in (before, after))
    widest = run = 0
    for is_ink in ink[max(0, start) : max(0, end)]:
        run = 0 if is_ink else run + 1
        widest = max(widest, run)
    return widest


def _evenly(words: Sequence[str], box: tuple[float, float, float, float]) -> list[Span]:
    """Places of words where those of the characters are not known: by their share of the line's length."""
    total = max(1, sum(map(len, words)) + len(words) - 1)
    found, at = [], 0
    for word in words:
        edges = [box[0] + (box[2] - box[0]) * share / total for share in (at, at + len(word))]
        found.append((word, edges[0], edges[1]))
        at += len(word) + 1
    return found
