"""A page's text layer: made fit to be stored, and whether it says what the page shows."""

from __future__ import annotations

from typing import Any

from ingest.readers import MAX_TEXT_CHARS

LITTLE_TEXT_CHARS = 60
"""A layer below this is a page number, a stamp or a footer: the page is read too where a picture covers it."""
COVERED_SHARE = 0.4
"""Of the page that its pictures must cover, for a page with little text."""
BROKEN_SHARE = 0.3
"""A layer with more than this share of characters that stand for no letter is broken: fonts without a way back to Unicode."""


def clean_text(text: str) -> str:
    """Text that any store takes: no NUL, no lone surrogates, no endless runs of blanks."""
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\0", " ")
    lines = (" ".join(line.split()) for line in text[: 4 * MAX_TEXT_CHARS].splitlines())
    return "\n".join(line for line in lines if line)[: MAX_TEXT_CHARS + 1]  # the one more tells that it was cut


def is_broken(text: str) -> bool:
    """Whether a text layer holds mostly replacement and private-use characters, or control codes."""
    letters = [c for c in text if not c.isspace()]
    return bool(letters) and sum(map(_is_no_letter, letters)) > BROKEN_SHARE * len(letters)


def _is_no_letter(c: str) -> bool:
    return (
        c == "\ufffd"
        or c < " "
        or "\x7f" <= c < "\xa0"
        or "\ue000" <= c <= "\uf8ff"
        or "\U000f0000" <= c <= "\U0010ffff"
    )


def has_enough_text(text: str) -> bool:
    """Whether a page's layer alone says that it need not be read."""
    return len(text) >= LITTLE_TEXT_CHARS and not is_broken(text)


def page_needs_reading(page: Any, layer: str) -> bool:
    """Whether a page, open in PyMuPDF, shows print that its layer lacks: no layer, a broken one, or a stamp on a scan."""
    if has_enough_text(layer):
        return False
    return not layer or is_broken(layer) or _covered_share(page) >= COVERED_SHARE


def _covered_share(page: Any) -> float:
    """How much of a page its largest picture covers, 0…1."""
    area = abs(page.rect.width * page.rect.height) or 1.0
    boxes = (info["bbox"] for info in page.get_image_info())
    return max((abs((x1 - x0) * (y1 - y0)) / area for x0, y0, x1, y1 in boxes), default=0.0)
