"""The demo's PDFs: slide decks, a report, a paper, a manual, an invoice, recipes, a map, and scans without a text layer.

What is in them stands in `decks.py` and `prose.py`; this module lays it out. Only PDF's built-in fonts are used, so that the
files look the same on every machine.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pymupdf
from PIL import Image

from tests.demo import pictures, prose
from tests.demo.decks import DECKS, Chart, Deck, Slide, Table

Rgb = tuple[float, float, float]
INK: Rgb = (0.13, 0.14, 0.17)
GREY: Rgb = (0.45, 0.47, 0.52)
PALE: Rgb = (0.88, 0.89, 0.91)
WHITE: Rgb = (1, 1, 1)
SERIES: tuple[Rgb, ...] = (
    (0.13, 0.42, 0.71),
    (0.93, 0.52, 0.14),
    (0.24, 0.6, 0.36),
    (0.76, 0.22, 0.27),
    (0.5, 0.38, 0.66),
)
A4 = (595.0, 842.0)
SLIDE = (960.0, 540.0)


class Sheet:
    """A page being laid out: points, origin top left. Text positions are baselines."""

    def __init__(self, document: pymupdf.Document, size: tuple[float, float], paper: Rgb | None = None) -> None:
        self.page = document.new_page(width=size[0], height=size[1])
        self.width, self.height = size
        if paper:
            self.box(0, 0, *size, paper)

    def box(self, x: float, y: float, width: float, height: float, fill: Rgb | None, edge: Rgb | None = None) -> None:
        self.page.draw_rect(pymupdf.Rect(x, y, x + width, y + height), color=edge, fill=fill, width=0.7)

    def line(
        self, points: Sequence[tuple[float, float]], colour: Rgb = INK, width: float = 1, dashes: str | None = None
    ) -> None:
        self.page.draw_polyline([pymupdf.Point(*p) for p in points], color=colour, width=width, dashes=dashes)

    def polygon(self, points: Sequence[tuple[float, float]], fill: Rgb, edge: Rgb | None = None) -> None:
        self.page.draw_polyline([pymupdf.Point(*p) for p in points], color=edge, fill=fill, width=0.7, closePath=True)

    def circle(
        self, x: float, y: float, radius: float, fill: Rgb | None, edge: Rgb | None = None, width: float = 1
    ) -> None:
        self.page.draw_circle(pymupdf.Point(x, y), radius, color=edge, fill=fill, width=width)

    def arrow(self, x0: float, y0: float, x1: float, y1: float, colour: Rgb = GREY, width: float = 1.5) -> None:
        self.line([(x0, y0), (x1, y1)], colour, width)
        angle, size = math.atan2(y1 - y0, x1 - x0), 3 + 2 * width
        tips = [(x1 - size * math.cos(angle + turn), y1 - size * math.sin(angle + turn)) for turn in (-0.45, 0.45)]
        self.polygon([(x1, y1), *tips], colour)

    def text(
        self, x: float, y: float, words: str, size: float = 11, font: str = "helv", colour: Rgb = INK, align: float = 0
    ) -> None:
        """One line; `align` is the share of its width that lies left of x (0 left, 0.5 centred, 1 right)."""
        if align:
            x -= align * pymupdf.get_text_length(words, font, size)
        self.page.insert_text(pymupdf.Point(x, y), words, fontsize=size, fontname=font, color=colour)

    def wrapped(
        self,
        x: float,
        y: float,
        width: float,
        words: str,
        size: float = 11,
        font: str = "helv",
        colour: Rgb = INK,
        leading: float = 1.4,
    ) -> float:
        """Lines broken at `width`; returns the baseline after the last one."""
        for line in wrap(words, width, size, font):
            self.text(x, y, line, size, font, colour)
            y += size * leading
        return y

    def image(self, x: float, y: float, width: float, height: float, picture: Image.Image) -> None:
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=85)
        self.page.insert_image(pymupdf.Rect(x, y, x + width, y + height), stream=data.getvalue())

    def table(self, x: float, y: float, width: float, table: Table, size: float = 10, head: Rgb = SERIES[0]) -> float:
        """A ruled table, its first column wider; returns the y of its lower edge."""
        row = size * 2.1
        first = width * max(0.28, 1.3 / len(table.head))
        rest = (width - first) / max(1, len(table.head) - 1)
        for r, cells in enumerate((table.head, *table.rows)):
            top = y + r * row
            self.box(x, top, width, row, head if r == 0 else (0.955, 0.96, 0.97) if r % 2 else WHITE)
            for c, cell in enumerate(cells):
                right = x + first + c * rest - 8
                font, colour = ("hebo", WHITE) if r == 0 else ("helv", INK)
                if c == 0:
                    self.text(x + 8, top + row * 0.68, cell, size, font, colour)
                else:
                    self.text(right, top + row * 0.68, cell, size, font, colour, align=1)
        bottom = y + (1 + len(table.rows)) * row
        self.line([(x, bottom), (x + width, bottom)], head, 1)
        return bottom

    def chart(self, x: float, y: float, width: float, height: float, chart: Chart, size: float = 11) -> None:
        """A titled chart inside the given rectangle."""
        self.text(x, y + size, chart.title, size * 1.1, "hebo")
        after = x + pymupdf.get_text_length(chart.title, "hebo", size * 1.1) + size * 0.8
        self.text(after, y + size, chart.unit, size * 0.9, "heit", GREY)
        top, bottom = y + size * 2.4, y + height
        if chart.kind == "pie":
            self._pie(x, top, width, bottom - top, chart, size)
            return
        legend = [(name, SERIES[i % len(SERIES)]) for i, name in enumerate(chart.series)]
        if len(legend) > 1:
            at = x
            for name, colour in legend:
                self.box(at, top - size * 0.1, size * 0.8, size * 0.8, colour)
                self.text(at + size * 1.2, top + size * 0.65, name, size * 0.9, colour=GREY)
                at += size * 2.6 + pymupdf.get_text_length(name, "helv", size * 0.9)
            top += size * 1.8
        values = [v for series in chart.series.values() for v in series]
        ticks = nice_ticks(min(0.0, min(values)) if chart.kind == "bar" else min(values), max(values))
        left, floor = x + size * 3.6, bottom - size * 1.9

        def level(value: float) -> float:
            return floor - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (floor - top)

        for tick in ticks:
            self.line([(left, level(tick)), (x + width, level(tick))], PALE, 0.7)
            self.text(left - size * 0.5, level(tick) + size * 0.35, f"{tick:g}", size * 0.85, colour=GREY, align=1)
        slot = (x + width - left) / len(chart.labels)
        every = max(1, round(len(chart.labels) / (width / (size * 4.5))))
        for i, label in enumerate(chart.labels):
            if i % every == 0:
                self.text(left + slot * (i + 0.5), bottom - size * 0.5, label, size * 0.85, colour=GREY, align=0.5)
        for s, series in enumerate(chart.series.values()):
            colour = SERIES[s % len(SERIES)]
            if chart.kind == "bar":
                bar = slot * 0.72 / len(chart.series)
                for i, value in enumerate(series):
                    at = left + slot * (i + 0.14) + s * bar
                    self.box(at, min(level(value), level(0)), bar * 0.92, abs(level(value) - level(0)), colour)
                    if bar > size * 1.6:
                        self.text(
                            at + bar * 0.46,
                            level(max(value, 0)) - size * 0.35,
                            f"{value:g}",
                            size * 0.8,
                            "hebo",
                            align=0.5,
                        )
            else:
                points = [(left + slot * (i + 0.5), level(value)) for i, value in enumerate(series)]
                self.line(points, colour, 2.2)
                if len(points) <= 16:
                    for px, py in points:
                        self.circle(px, py, 2.6, WHITE, colour, 1.6)
        self.line([(left, level(max(ticks[0], 0.0))), (x + width, level(max(ticks[0], 0.0)))], GREY, 1)

    def _pie(self, x: float, y: float, width: float, height: float, chart: Chart, size: float) -> None:
        radius = min(height / 2, width / 4)
        middle = pymupdf.Point(x + radius * 1.1, y + height / 2)
        series = next(iter(chart.series.values()))
        total, start = sum(series), -90.0
        for i, (label, value) in enumerate(zip(chart.labels, series, strict=True)):
            sweep, colour = 360 * value / total, SERIES[i % len(SERIES)]
            arc = [math.radians(start + sweep * k / 40) for k in range(41)]
            rim = [(middle.x + radius * math.cos(a), middle.y + radius * math.sin(a)) for a in arc]
            self.polygon([(middle.x, middle.y), *rim], colour, WHITE)
            line = y + height / 2 - len(series) * size + i * size * 2 + size
            self.box(x + radius * 2.5, line - size * 0.8, size, size, colour)
            self.text(x + radius * 2.5 + size * 1.6, line, f"{label}  {100 * value / total:.0f} %", size)
            start += sweep


def wrap(words: str, width: float, size: float, font: str) -> list[str]:
    """Greedy line breaking by the font's real widths."""
    lines, line = [], ""
    for word in words.split():
        longer = f"{line} {word}".strip()
        if line and pymupdf.get_text_length(longer, font, size) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line] if line else lines


def nice_ticks(low: float, high: float) -> list[float]:
    """About five round numbers that span `low` … `high`."""
    raw = (high - low or 1.0) / 4
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw)
    first = math.floor(low / step)
    return [round(step * i, 10) for i in range(first, math.ceil(high / step - 1e-9) + 1)]


# Slide decks


def deck_pdf(deck: Deck) -> pymupdf.Document:
    """A title slide, then one page per slide in the deck's colours."""
    document = pymupdf.open()
    cover = Sheet(document, SLIDE, deck.colour)
    cover.polygon([(0, 540), (0, 430), (960, 330), (960, 540)], tuple(0.82 * c for c in deck.colour))  # type: ignore[arg-type]
    cover.box(70, 178, 90, 6, deck.accent)
    y = cover.wrapped(70, 240, 780, deck.title, 46, "hebo", WHITE, leading=1.15)
    cover.wrapped(70, y + 4, 760, deck.subtitle, 21, "helv", (0.93, 0.94, 0.97))
    cover.text(70, 500, deck.footer, 13, "helv", (0.85, 0.87, 0.92))
    for number, slide in enumerate(deck.slides, start=2):
        _lay_slide(Sheet(document, SLIDE, WHITE), deck, slide, number)
    return document


def _lay_slide(sheet: Sheet, deck: Deck, slide: Slide, number: int) -> None:
    sheet.box(0, 0, 960, 8, deck.colour)
    sheet.text(56, 72, slide.title, 31, "hebo", deck.colour)
    sheet.line([(56, 88), (904, 88)], deck.accent, 2)
    sheet.text(56, 520, deck.footer, 11, "helv", GREY)
    sheet.text(904, 520, str(number), 11, "helv", GREY, align=1)
    has_figure = bool(slide.chart or slide.table or slide.draw or slide.picture)
    width, size, y = (380.0, 19.0, 136.0) if has_figure else (826.0, 25.0, 150.0)
    for bullet in slide.bullets:
        sheet.circle(63, y - size * 0.32, size * 0.19, deck.accent)
        y = sheet.wrapped(78, y, width - 24, bullet, size) + size * 0.7
    left, wide = (470.0, 434.0) if slide.bullets else (70.0, 820.0)
    if slide.chart:
        sheet.chart(left, 112, wide, 345 if slide.note else 372, slide.chart, 13)
    elif slide.table:
        sheet.table(left, 122, wide, slide.table, 13 if slide.bullets else 15, deck.colour)
    elif slide.picture:
        picture = getattr(pictures, slide.picture)()
        share = picture.height / picture.width
        height = min(360.0, wide * share)
        sheet.image(left, 118, height / share, height, picture)
    elif slide.draw:
        DRAWINGS[slide.draw](sheet, left, 118, wide, 360, deck.colour)
    if slide.note:
        sheet.wrapped(56, 490, 840, slide.note, 13, "heit", GREY)


def _draw_network(sheet: Sheet, x: float, y: float, width: float, height: float, colour: Rgb) -> None:
    layers = (4, 6, 6, 3)
    at = [
        [(x + 30 + i * (width - 60) / 3, y + 20 + height * 0.8 * (k + 0.5) / n) for k in range(n)]
        for i, n in enumerate(layers)
    ]
    for left, right in pairwise(at):
        for a in left:
            for b in right:
                sheet.line([a, b], (0.8, 0.82, 0.86), 0.8)
    for column, name in zip(at, ("input", "hidden 1", "hidden 2", "output"), strict=True):
        for px, py in column:
            sheet.circle(px, py, 14, colour, WHITE, 2)
        sheet.text(column[0][0], y + height - 10, name, 13, "helv", GREY, align=0.5)


def _draw_valley(sheet: Sheet, x: float, y: float, width: float, height: float, colour: Rgb) -> None:
    def curve(t: float) -> tuple[float, float]:
        loss = 0.9 * (t - 0.62) ** 2 * 2.2 + 0.08 * math.sin(14 * t) + 0.12
        return x + 30 + t * (width - 50), y + height - 40 - loss * (height - 90)

    sheet.line([(x + 30, y), (x + 30, y + height - 30), (x + width, y + height - 30)], GREY, 1.2)
    sheet.line([curve(i / 120) for i in range(121)], colour, 3)
    steps = (0.04, 0.14, 0.24, 0.34, 0.43, 0.5, 0.55)
    for a, b in pairwise(steps):
        (x0, y0), (x1, y1) = curve(a), curve(b)
        sheet.arrow(x0, y0 - 10, x1, y1 - 10, SERIES[1])
        sheet.circle(x0, y0 - 10, 5, SERIES[1])
    sheet.text(x + width / 2, y + height - 8, "weight", 14, "heit", GREY, align=0.5)
    sheet.text(x + 38, y + 14, "loss", 14, "heit", GREY)


def _draw_confusion(sheet: Sheet, x: float, y: float, width: float, height: float, colour: Rgb) -> None:
    names = ("cat", "dog", "bird", "fish")
    counts = ((46, 3, 1, 0), (4, 44, 2, 0), (1, 2, 45, 2), (0, 0, 3, 47))
    side = min(width - 80, height - 60) / 4
    for r, row in enumerate(counts):
        sheet.text(x + 60, y + 36 + side * (r + 0.55), names[r], 14, align=1)
        sheet.text(x + 70 + side * (r + 0.5), y + 20, names[r], 14, align=0.5)
        for c, count in enumerate(row):
            depth = count / 50
            fill = (1 - depth * (1 - colour[0]), 1 - depth * (1 - colour[1]), 1 - depth * (1 - colour[2]))
            sheet.box(x + 70 + side * c, y + 30 + side * r, side, side, fill, WHITE)
            ink = WHITE if depth > 0.5 else INK
            sheet.text(x + 70 + side * (c + 0.5), y + 36 + side * (r + 0.5), str(count), 17, "hebo", ink, align=0.5)
    sheet.text(x + 70 + side * 2, y + 52 + side * 4, "predicted class (rows: true class)", 13, "heit", GREY, align=0.5)


def _draw_timeline(sheet: Sheet, x: float, y: float, width: float, height: float, colour: Rgb) -> None:
    rows = (
        ("Search in photos", 0.0, 0.3), ("Mobile app, beta", 0.12, 0.5), ("Offline mode", 0.3, 0.62),
        ("Team libraries", 0.45, 0.85), ("Mobile app, release", 0.55, 0.8), ("Public API", 0.7, 1.0),
    )  # fmt: skip
    left = x + 170
    for i, month in enumerate(("Jan", "Mar", "May", "Jul", "Sep", "Nov")):
        at = left + (width - 170) * i / 6
        sheet.line([(at, y + 24), (at, y + height - 20)], PALE, 1)
        sheet.text(at + 4, y + 16, month, 13, colour=GREY)
    for i, (name, start, end) in enumerate(rows):
        top = y + 40 + i * 48
        sheet.text(x, top + 20, name, 15)
        sheet.box(left + (width - 170) * start, top, (width - 170) * (end - start), 28, SERIES[i % 5])
    today = left + (width - 170) * 0.4
    sheet.line([(today, y + 24), (today, y + height - 20)], (0.8, 0.1, 0.1), 2)
    sheet.text(today + 5, y + height - 22, "today", 12, "hebo", (0.8, 0.1, 0.1))


def _draw_organisation(sheet: Sheet, x: float, y: float, width: float, height: float, colour: Rgb) -> None:
    def card(cx: float, cy: float, name: str, role: str, fill: Rgb, ink: Rgb) -> None:
        sheet.box(cx - 76, cy - 26, 152, 52, fill, colour)
        sheet.text(cx, cy - 3, name, 14, "hebo", ink, align=0.5)
        sheet.text(cx, cy + 15, role, 11, "helv", ink, align=0.5)

    top, middle = x + width / 2, y + 130
    for i, (name, role, people) in enumerate(prose.TEAM):
        cx = x + width * (i + 0.5) / len(prose.TEAM)
        sheet.line([(top, y + 56), (top, y + 80), (cx, y + 80), (cx, middle - 26)], GREY, 1.2)
        sheet.line([(cx, middle), (cx, y + 208 + (len(people) - 1) * 62)], GREY, 1.2)
        card(cx, middle, name, role, (0.92, 0.94, 0.97), INK)
        for k, person in enumerate(people):
            card(cx, y + 208 + k * 62, person, "engineer" if i == 0 else "specialist", WHITE, INK)
    card(top, y + 30, "Amara Osei", "managing director", colour, WHITE)


def _draw_greenhouse(sheet: Sheet, x: float, y: float, width: float, height: float, colour: Rgb) -> None:
    sheet.box(x, y, width, height, (0.1, 0.14, 0.3))
    sheet.circle(x + 50, y + 46, 30, (1, 0.86, 0.35))
    sheet.page.draw_oval(
        pymupdf.Rect(x + 20, y + height - 90, x + width - 20, y + height + 150), color=None, fill=(0.24, 0.52, 0.34)
    )
    sheet.box(x, y + height, width, 160, WHITE)
    sheet.page.draw_oval(
        pymupdf.Rect(x + 40, y + 120, x + width - 40, y + 168),
        color=(0.75, 0.85, 1),
        fill=None,
        width=6,
        dashes="[9 5]",
    )
    sheet.arrow(x + 78, y + 70, x + width * 0.42, y + height - 100, (1, 0.86, 0.35), 4)
    sheet.arrow(x + width * 0.52, y + height - 100, x + width * 0.6, y + 30, (1, 0.5, 0.3), 3)
    sheet.arrow(x + width * 0.68, y + height - 95, x + width * 0.74, y + 170, (1, 0.5, 0.3), 4)
    sheet.arrow(x + width * 0.76, y + 170, x + width * 0.84, y + height - 80, (1, 0.5, 0.3), 4)
    sheet.text(x + 96, y + 50, "sunlight", 14, "hebo", WHITE)
    sheet.text(x + width * 0.5, y + 24, "heat to space", 13, "hebo", WHITE, align=1)
    sheet.text(x + width * 0.5, y + 148, "greenhouse gases", 14, "hebo", WHITE, align=0.5)
    sheet.text(x + width * 0.62, y + height - 54, "heat sent back", 13, "hebo", WHITE)


DRAWINGS: Mapping[str, Callable[[Sheet, float, float, float, float, Rgb], None]] = {
    "network": _draw_network,
    "valley": _draw_valley,
    "confusion": _draw_confusion,
    "timeline": _draw_timeline,
    "organisation": _draw_organisation,
    "greenhouse": _draw_greenhouse,
}


# Flowing text


@dataclass
class Flow:
    """Paragraphs, tables and charts one below the other over as many A4 pages (and columns) as they need."""

    document: pymupdf.Document
    columns: int = 1
    font: str = "tiro"
    bold: str = "tibo"
    size: float = 11
    running_head: str = ""
    chapters: bool = False
    """Whether a heading begins a new page."""

    def __post_init__(self) -> None:
        self.margin, self.gap = 62.0, 22.0
        self.width = (A4[0] - 2 * self.margin - (self.columns - 1) * self.gap) / self.columns
        self.column = self.columns
        self.top = self.y = 0.0
        self.sheet: Sheet | None = None

    def _place(self, height: float) -> tuple[Sheet, float, float]:
        """Room for `height` points: the sheet, x and y to begin at."""
        if self.sheet is None or self.y + height > A4[1] - 70:
            self.column += 1
            self.top = 70.0 if self.column >= self.columns else self.top
            self.y = self.top
            if self.sheet is None or self.column >= self.columns:
                self.sheet, self.column = Sheet(self.document, A4), 0
                number = self.document.page_count
                self.sheet.text(A4[0] / 2, A4[1] - 36, str(number), 9.5, self.font, GREY, align=0.5)
                self.sheet.text(self.margin, 44, self.running_head, 9, self.font, GREY)
        return self.sheet, self.margin + self.column * (self.width + self.gap), self.y

    def heading(self, words: str, size: float = 17, *, keep: float = 60) -> None:
        """`keep` points below it must fit onto the same page."""
        sheet, x, y = self._place(A4[1] if self.chapters else size * 2 + keep)
        self.y = (
            sheet.wrapped(x, y + size * 1.3, self.width, words, size, self.bold, SERIES[0], leading=1.2) + size * 0.25
        )

    def paragraph(self, words: str) -> None:
        for line in wrap(words, self.width, self.size, self.font):
            sheet, x, y = self._place(self.size * 1.4)
            sheet.text(x, y + self.size, line, self.size, self.font)
            self.y += self.size * 1.4
        self.y += self.size * 0.6

    def table(self, table: Table) -> None:
        size = 9.5 if self.columns == 1 else 8
        sheet, x, y = self._place(size * 2.1 * (len(table.rows) + 1) + 34)
        self.y = sheet.table(x, y + 6, self.width, table, size) + 18

    def chart(self, chart: Chart, height: float = 210) -> None:
        sheet, x, y = self._place(height + 24)
        sheet.chart(x, y + 4, self.width, height, chart, 9 if self.columns == 1 else 7.5)
        self.y += height + 24

    def blocks(self, blocks: Sequence[prose.Block]) -> None:
        """A string is a paragraph, a string that begins with `# ` a heading."""
        for block, following in zip(blocks, [*blocks[1:], ""], strict=True):
            if isinstance(block, Chart):
                self.chart(block, 210 if self.columns == 1 else 160)
            elif isinstance(block, Table):
                self.table(block)
            elif block.startswith("# "):
                keep = 60 if isinstance(following, str) else 240
                self.heading(block[2:], 17 if self.columns == 1 else 12.5, keep=keep)
            else:
                self.paragraph(block)


def annual_report() -> pymupdf.Document:
    document = pymupdf.open()
    cover = Sheet(document, A4, (0.09, 0.22, 0.36))
    for i in range(14):
        height = 60 + 22 * i + 30 * math.sin(i * 1.3)
        cover.box(62 + i * 34, 640 - height, 24, height, (0.16 + 0.03 * i, 0.4 + 0.02 * i, 0.62))
    cover.text(62, 150, "Annual Report", 50, "tibo", WHITE)
    cover.text(62, 206, "2024", 50, "tibo", (0.96, 0.7, 0.25))
    cover.text(62, 740, "Northwind Instruments Ltd", 20, "helv", WHITE)
    flow = Flow(document, running_head="Northwind Instruments Ltd - Annual Report 2024", chapters=True)
    flow.blocks(prose.ANNUAL_REPORT)
    return document


def bee_paper() -> pymupdf.Document:
    document = pymupdf.open()
    flow = Flow(document, columns=2, size=9.6, running_head="Proceedings of the Urban Ecology Workshop, 2023")
    sheet, x, _ = flow._place(10)
    y = sheet.wrapped(x, 86, A4[0] - 2 * flow.margin, prose.BEE_TITLE, 20, "tibo", leading=1.2)
    sheet.text(x, y + 4, prose.BEE_AUTHORS, 11, "tiit", GREY)
    y = sheet.wrapped(x + 24, y + 30, A4[0] - 2 * flow.margin - 48, prose.BEE_ABSTRACT, 9.6, "tiit")
    flow.top = flow.y = y + 12
    flow.blocks(prose.BEE_PAPER)
    return document


def coffee_manual() -> pymupdf.Document:
    document = pymupdf.open()
    cover = Sheet(document, A4, (0.97, 0.95, 0.92))
    _draw_machine(cover, 190, 300, 1.5, callouts=False)
    cover.text(297, 150, "BARISTA ONE", 40, "hebo", (0.3, 0.18, 0.1), align=0.5)
    cover.text(297, 185, "Espresso machine - instruction manual", 16, "helv", GREY, align=0.5)
    parts = Sheet(document, A4)
    parts.text(62, 90, "Parts of the machine", 20, "hebo", SERIES[0])
    _draw_machine(parts, 190, 160, 1.5, callouts=True)
    y = 600.0
    for i, part in enumerate(prose.MACHINE_PARTS, start=1):
        parts.text(62 + 240 * ((i - 1) % 2), y + 24 * ((i - 1) // 2), f"{i}  {part}", 12)
    flow = Flow(document, font="helv", bold="hebo", running_head="Barista One - instruction manual")
    flow.blocks(prose.COFFEE_MANUAL)
    return document


def _draw_machine(sheet: Sheet, x: float, y: float, s: float, *, callouts: bool) -> None:
    body, dark = (0.82, 0.83, 0.85), (0.2, 0.2, 0.23)
    sheet.box(x, y, 140 * s, 60 * s, body, dark)
    sheet.box(x, y + 60 * s, 46 * s, 120 * s, body, dark)
    sheet.box(x - 8 * s, y + 180 * s, 160 * s, 22 * s, dark, dark)
    for k in range(12):
        sheet.line([(x + (52 + 8 * k) * s, y + 182 * s), (x + (52 + 8 * k) * s, y + 188 * s)], body, 1)
    sheet.circle(x + 30 * s, y + 30 * s, 15 * s, WHITE, dark)
    sheet.line([(x + 30 * s, y + 30 * s), (x + 38 * s, y + 20 * s)], (0.8, 0.1, 0.1), 2)
    for k in range(3):
        sheet.circle(x + (66 + 24 * k) * s, y + 30 * s, 8 * s, dark)
    sheet.box(x + 72 * s, y + 60 * s, 44 * s, 12 * s, dark)
    sheet.box(x + 78 * s, y + 72 * s, 32 * s, 10 * s, (0.4, 0.4, 0.44))
    sheet.polygon(
        [(x + 110 * s, y + 74 * s), (x + 156 * s, y + 84 * s), (x + 154 * s, y + 91 * s), (x + 110 * s, y + 81 * s)],
        (0.3, 0.18, 0.1),
    )
    sheet.line([(x + 134 * s, y + 60 * s), (x + 142 * s, y + 120 * s)], dark, 4)
    sheet.polygon(
        [(x + 80 * s, y + 140 * s), (x + 108 * s, y + 140 * s), (x + 103 * s, y + 176 * s), (x + 85 * s, y + 176 * s)],
        WHITE,
        dark,
    )
    sheet.line([(x + 91 * s, y + 84 * s), (x + 91 * s, y + 140 * s)], (0.35, 0.18, 0.08), 1.4)
    sheet.line([(x + 97 * s, y + 84 * s), (x + 97 * s, y + 140 * s)], (0.35, 0.18, 0.08), 1.4)
    if not callouts:
        return
    spots = (
        (30, 30, -50, 10),
        (90, 30, 90, -30),
        (94, 66, 190, 50),
        (140, 86, 200, 90),
        (141, 112, 200, 130),
        (94, 160, 190, 165),
        (70, 191, 60, 235),
        (20, 110, -50, 120),
    )
    for number, (px, py, tx, ty) in enumerate(spots, start=1):
        sheet.line([(x + px * s, y + py * s), (x + tx * s, y + ty * s)], GREY, 0.8)
        sheet.circle(x + tx * s, y + ty * s, 11, WHITE, SERIES[0])
        sheet.text(x + tx * s, y + ty * s + 4.5, str(number), 12, "hebo", SERIES[0], align=0.5)


def invoice() -> pymupdf.Document:
    document = pymupdf.open()
    sheet = Sheet(document, A4)
    sheet.circle(90, 92, 26, None, SERIES[2], 5)
    sheet.circle(90, 92, 5, SERIES[2])
    for k in range(8):
        a = k * math.pi / 4
        sheet.line([(90, 92), (90 + 26 * math.cos(a), 92 + 26 * math.sin(a))], SERIES[2], 1.2)
    sheet.text(130, 88, "Spoke & Chain", 22, "hebo")
    sheet.text(130, 106, "bicycle workshop - 14 Mill Street, Riverton", 10, colour=GREY)
    sheet.text(533, 92, "INVOICE", 26, "hebo", SERIES[2], align=1)
    for i, words in enumerate(("Invoice no. 2025-0317", "Date: 17 March 2025", "Due: 31 March 2025")):
        sheet.text(533, 116 + 15 * i, words, 10, align=1)
    for i, words in enumerate(("Bill to", "Ms Lena Hartwig", "8 Harbour Road", "Riverton RV3 2LT")):
        sheet.text(62, 170 + 15 * i, words, 11, "hebo" if i == 0 else "helv")
    bottom = sheet.table(62, 260, 471, prose.INVOICE, 10.5, SERIES[2])
    for i, (name, amount) in enumerate((("Subtotal", "263.50"), ("VAT 20 %", "52.70"), ("Total due (EUR)", "316.20"))):
        font = "hebo" if i == 2 else "helv"
        sheet.text(430, bottom + 28 + 20 * i, name, 11, font, align=1)
        sheet.text(525, bottom + 28 + 20 * i, amount, 11, font, align=1)
    sheet.wrapped(62, bottom + 130, 470, prose.INVOICE_NOTE, 10.5, "helv", GREY)
    return document


def recipes() -> pymupdf.Document:
    document = pymupdf.open()
    for title, serves, picture, ingredients, steps in prose.RECIPES:
        sheet = Sheet(document, A4, (1, 0.99, 0.96))
        sheet.text(62, 92, title, 30, "tibo", (0.55, 0.2, 0.1))
        sheet.text(62, 114, serves, 12, "tiit", GREY)
        sheet.image(62, 132, 471, 353 * 0.86, getattr(pictures, picture)().crop((0, 54, 1024, 714)))
        sheet.text(62, 476, "Ingredients", 15, "tibo", (0.55, 0.2, 0.1))
        for i, line in enumerate(ingredients):
            sheet.text(66, 498 + 17 * i, f"\u2022 {line}", 11, "tiro")
        sheet.text(260, 476, "Method", 15, "tibo", (0.55, 0.2, 0.1))
        y = 498.0
        for i, step in enumerate(steps, start=1):
            sheet.text(260, y, f"{i}.", 11, "tibo")
            y = sheet.wrapped(278, y, 255, step, 11, "tiro") + 5
    return document


def treasure_map() -> pymupdf.Document:
    document = pymupdf.open()
    size = (842.0, 595.0)
    sheet = Sheet(document, size, (0.75, 0.86, 0.93))
    rng = np.random.default_rng(7)
    coast = []
    for i in range(120):
        a = 2 * math.pi * i / 120
        far = 1 + 0.12 * math.sin(3 * a + 1) + 0.07 * math.sin(7 * a) + float(rng.normal(0, 0.012))
        coast.append((421 + 330 * far * math.cos(a) * 0.98, 300 + 215 * far * math.sin(a)))
    sheet.polygon(coast, (0.93, 0.9, 0.78), (0.5, 0.42, 0.3))
    for cx, cy in ((300, 200), (330, 185), (362, 204), (395, 180)):
        sheet.polygon([(cx - 26, cy + 24), (cx, cy - 22), (cx + 26, cy + 24)], (0.66, 0.6, 0.52), (0.4, 0.35, 0.3))
        sheet.polygon([(cx - 9, cy - 6), (cx, cy - 22), (cx + 9, cy - 6), (cx, cy - 10)], WHITE)
    for _ in range(90):
        tx, ty = rng.uniform(480, 640), rng.uniform(300, 420)
        sheet.polygon([(tx - 6, ty + 8), (tx, ty - 9), (tx + 6, ty + 8)], (0.3, 0.52, 0.34))
    sheet.line([(380, 210), (400, 260), (370, 310), (390, 370), (350, 430), (360, 505)], (0.35, 0.6, 0.82), 5)
    sheet.line([(190, 330), (260, 300), (390, 330), (470, 260), (560, 250), (640, 210)], (0.75, 0.3, 0.2), 2.2, "[8 5]")
    for px, py, name in (
        (190, 330, "Ferry harbour"),
        (390, 330, "Stone bridge"),
        (560, 250, "Old mill"),
        (640, 210, "Lighthouse"),
    ):
        sheet.circle(px, py, 5, (0.75, 0.2, 0.15), WHITE)
        sheet.text(px + 9, py - 7, name, 12, "tibo")
    for px, py, name in (
        (330, 152, "North Hills"),
        (560, 436, "Whispering Wood"),
        (262, 470, "Salt Marsh"),
        (700, 520, "Southern Sea"),
    ):
        sheet.text(px, py, name, 16, "tiit", (0.3, 0.32, 0.36), align=0.5)
    sheet.text(421, 48, "Heron Island - walking map", 26, "tibo", align=0.5)
    for i in range(4):
        a = i * math.pi / 2
        tip = (760 + 34 * math.sin(a), 110 - 34 * math.cos(a))
        sheet.polygon(
            [tip, (760 + 8 * math.cos(a), 110 + 8 * math.sin(a)), (760 - 8 * math.cos(a), 110 - 8 * math.sin(a))],
            INK if i % 2 else (0.75, 0.2, 0.15),
        )
    sheet.text(760, 70, "N", 15, "tibo", align=0.5)
    for i in range(4):
        sheet.box(60 + 40 * i, 550, 40, 7, INK if i % 2 else WHITE, INK)
    sheet.text(60, 544, "0", 10)
    sheet.text(220, 544, "4 km", 10, align=0.5)
    return document


# Scans


def scanned(lay: Callable[[pymupdf.Document], None], seed: int) -> pymupdf.Document:
    """The pages that `lay` makes, as a poor scanner gives them back: grey pixels, askew, noisy, no text layer."""
    clean, document = pymupdf.open(), pymupdf.open()
    lay(clean)
    rng = np.random.default_rng(seed)
    for page in clean.pages():
        pixels = page.get_pixmap(dpi=110, colorspace=pymupdf.csGRAY)
        image = Image.frombytes("L", (pixels.width, pixels.height), pixels.samples)
        image = image.rotate(float(rng.uniform(-1.6, 1.6)), Image.Resampling.BICUBIC, fillcolor=214)
        grey = np.asarray(image, np.float32)
        height, width = grey.shape
        light = 0.86 + 0.12 * np.linspace(0, 1, width)[None, :] - 0.05 * np.linspace(0, 1, height)[:, None]
        edge = np.exp(-np.arange(width) / 14)[None, :] * 70
        grey = 18 + grey * 0.9 * light - edge + rng.normal(0, 7, grey.shape)
        specks = rng.random(grey.shape) < 0.0004
        grey[specks] = 60
        sheet = Sheet(document, (page.rect.width, page.rect.height))
        data = io.BytesIO()
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(data, "JPEG", quality=55)
        sheet.page.insert_image(sheet.page.rect, stream=data.getvalue())
    return document


def _lay_contract(document: pymupdf.Document) -> None:
    flow = Flow(document, size=12.5, font="tiro", bold="tibo")
    flow.blocks(prose.RENTAL_AGREEMENT)
    sheet, x, y = flow._place(120)
    for i, (name, wave) in enumerate((("Landlord", 0.7), ("Tenant", 1.1))):
        left = x + 250 * i
        scrawl = [
            (left + 10 + t * 1.2, y + 50 + 11 * math.sin(t * 0.35 * wave) * math.cos(t * 0.11)) for t in range(90)
        ]
        sheet.line(scrawl, (0.15, 0.15, 0.35), 1.5)
        sheet.line([(left, y + 70), (left + 170, y + 70)], INK, 0.8)
        sheet.text(left, y + 86, name, 11, "tiro")


def _lay_letter(document: pymupdf.Document) -> None:
    sheet = Sheet(document, A4)
    y = 110.0
    for line in prose.TYPED_LETTER:
        y = sheet.wrapped(74, y, 450, line, 12, "cour", leading=1.5) if line else y + 18


DOCUMENTS: Mapping[str, Callable[[], pymupdf.Document]] = {
    **{deck.path: (lambda deck=deck: deck_pdf(deck)) for deck in DECKS},  # type: ignore[misc]
    "reports/annual-report-2024.pdf": annual_report,
    "reports/urban-ecology-2023.pdf": bee_paper,
    "manuals/barista-one.pdf": coffee_manual,
    "household/2025-0317.pdf": invoice,
    "household/recipes.pdf": recipes,
    "household/scan0007.pdf": lambda: scanned(_lay_contract, 7),
    "household/scan0012.pdf": lambda: scanned(_lay_letter, 12),
    "maps/heron-island.pdf": treasure_map,
}
"""Path inside the demo folder → who makes it."""


def write_document(make: Callable[[], pymupdf.Document], path: Path) -> None:
    """Save what `make` returns; the same bytes every time (fixed dates, no random file id)."""
    with make() as document:
        when = "D:20250301120000Z"
        document.set_metadata({"producer": "mmsearch demo", "creationDate": when, "modDate": when})
        document.save(path, garbage=3, deflate=True, no_new_id=True)
