"""Pages made by code, in any number, with their text known: slides and text pages in varied layouts and colours."""

from __future__ import annotations

import random

import pymupdf
from PIL import Image

SIZES = ((595, 842), (612, 792), (720, 540), (720, 405), (842, 595))
"""Page sizes in points: A4, US letter, 4:3 and 16:9 slides, A4 landscape."""

FONTS = ("helv", "tiro", "cour", "hebo", "tibo")
PALETTES = (
    ((1, 1, 1), (0, 0, 0), (0.1, 0.2, 0.5)),
    ((1, 1, 1), (0.15, 0.15, 0.15), (0.6, 0.1, 0.1)),
    ((0.97, 0.95, 0.9), (0.2, 0.15, 0.1), (0.3, 0.2, 0.1)),
    ((0.08, 0.1, 0.2), (0.95, 0.95, 0.95), (0.5, 0.8, 1.0)),
    ((0.93, 0.96, 1.0), (0.1, 0.1, 0.3), (0.0, 0.4, 0.4)),
)
"""(background, text, accent), each RGB in 0…1."""


def render_text_page(title: str, body: str, rng: random.Random, *, max_pixels: int) -> Image.Image:
    """A page that shows `title` over `body`; what does not fit is left out. RGB, about `max_pixels` pixels."""
    width, height = rng.choice(SIZES)
    background, ink, accent = rng.choice(PALETTES)
    is_slide = width > height
    margin = width * rng.uniform(0.06, 0.12)
    with pymupdf.open() as document:
        page = document.new_page(width=width, height=height)
        page.draw_rect(page.rect, color=None, fill=background)
        top = margin
        title_size = rng.uniform(24, 40) if is_slide else rng.uniform(14, 26)
        if rng.random() < 0.4:
            page.draw_rect((0, 0, width, top + title_size * 2.2), color=None, fill=accent)
        title_box = pymupdf.Rect(margin, top * 0.7, width - margin, top + title_size * 3)
        page.insert_textbox(
            title_box,
            _latin(title),
            fontsize=title_size,
            fontname=rng.choice(("hebo", "tibo", "helv")),
            color=ink if rng.random() < 0.7 else accent,
            align=rng.choice((0, 1)),
        )
        body_size = rng.uniform(13, 22) if is_slide else rng.uniform(8, 13)
        if is_slide:
            body = "\n".join(f"\u2022 {part.strip()}" for part in body.split(". ") if part.strip())
        columns = 2 if not is_slide and rng.random() < 0.3 else 1
        column_width = (width - 2 * margin) / columns
        words = body.split(" ")
        share = -(-len(words) // columns)
        for column in range(columns):
            left = margin + column * column_width
            box = pymupdf.Rect(left, title_box.y1, left + column_width - 8 * (columns - 1), height - margin / 2)
            text = _latin(" ".join(words[column * share : (column + 1) * share]))
            # insert_textbox writes nothing at all when the text is too long: shorten until it fits.
            while (
                text and page.insert_textbox(box, text, fontsize=body_size, fontname=rng.choice(FONTS), color=ink) < 0
            ):
                text = text[: len(text) * 2 // 3]
        zoom = (max_pixels / (width * height)) ** 0.5
        pixmap = page.get_pixmap(matrix=pymupdf.Matrix(zoom, zoom), alpha=False, colorspace=pymupdf.csRGB)
        return Image.frombytes("RGB", (pixmap.width, pixmap.height), pixmap.samples)


def _latin(text: str) -> str:
    """The built-in fonts hold Latin-1 only."""
    return text.encode("latin-1", "replace").decode("latin-1")
