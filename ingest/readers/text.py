"""Plain text and Markdown: items of a page's size, cut at headings and paragraphs.

The model is given a picture of each: a white page with the words on it, drawn from a copy without any markup of its own.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from ingest.readers import Facts, Reading
from ingest.text_layer import clean_text
from mmsearch import media
from mmsearch.errors import CorruptFile, FileTooLarge
from mmsearch.items import ItemDraft, Kind, Source

PAGE_CHARS = 3000
"""A page holds no more: what fits on a sheet of A4 in a legible size."""
LINE_CHARS = 60
"""A shorter line takes as much room, and so does the space between two blocks."""
EARLY_CHARS = 1200
"""A heading begins a new page once so much stands on the one before."""
SHEET_PT = (595.0, 842.0)
FONT_PT = 12.0

UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_MARKED_HEADING = re.compile(r" {0,3}#{1,6}(?=[ \t]|$)")
_UNDERLINE = re.compile(r" {0,3}(?:=+|-+)[ \t]*")


class Block(NamedTuple):
    """A heading, or a paragraph: lines without a blank one between them."""

    text: str
    is_heading: bool = False


class Decoded(NamedTuple):
    """A file's text. `encoding`: of it, if it is neither UTF-8 nor UTF-16. `damaged_chars`: how many places hold no character."""

    text: str
    encoding: str | None = None
    damaged_chars: int = 0


def read_items(source: Source, reading: Reading) -> Iterator[ItemDraft]:
    """One draft per page; of a file without any words one blank page, which is found by the file's name.

    Raises:
        CorruptFile: it holds no text. FileTooLarge: more pages than allowed.
    """
    decoded = _read(source.path)
    pages = _pages_of(decoded.text, source.path)
    if len(pages) > reading.max_pages:
        raise FileTooLarge(source.path, f"{len(pages):,} pages; the limit is {reading.max_pages:,} (setting max_pages)")
    meta: dict[str, Any] = {"page_count": len(pages)}
    if decoded.encoding:
        meta["encoding"] = decoded.encoding
    if decoded.damaged_chars:
        meta["damaged"] = f"{decoded.damaged_chars:,} characters cannot be read"
    for ordinal in range(reading.first_ordinal, len(pages)):
        reading.on_progress()
        blocks = pages[ordinal]
        image = _draw(blocks, max_pixels=reading.budget["page"])
        text = clean_text("\n".join(block.text for block in blocks))
        yield ItemDraft(
            source=source,
            kind="page",
            ordinal=ordinal,
            page_number=ordinal + 1,
            text=text,
            images=(image,),
            preview=media.webp_preview(image),
            meta=meta,
            text_source="layer" if text else None,
            has_print=False,
        )


def count_items(path: Path) -> tuple[Kind, int, float]:
    return "page", len(_pages_of(_read(path).text, path)), 0.0


def read_facts(path: Path) -> Facts:
    return Facts(({},))


def is_described(path: Path) -> bool:
    return False


def _read(path: Path) -> Decoded:
    decoded = decode(path.read_bytes())
    if "\0" in decoded.text:  # beyond the beginning that was looked at
        raise CorruptFile(path, f"the content is not what the name {path.suffix} promises")
    return decoded


def decode(raw: bytes) -> Decoded:
    """Text of an unknown encoding: a byte order mark decides, else it is UTF-8, else Windows' western one."""
    if raw.startswith(UTF_16_MARKS):
        text = raw.decode("utf-16", "replace")
        return Decoded(text, None, text.count("\ufffd"))
    try:
        return Decoded(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        text = raw.decode("cp1252", "replace")
        return Decoded(text, "windows-1252", text.count("\ufffd"))


def _pages_of(text: str, path: Path) -> list[list[Block]]:
    return pages_of(blocks_of(text, with_headings=path.suffix.lower() != ".txt"))


def blocks_of(text: str, *, with_headings: bool) -> Iterator[Block]:
    """The paragraphs of a text, in order; with `with_headings` Markdown's headings apart, without their marks.

    A form feed ends a paragraph, as a blank line does. In a fenced block of code nothing is a heading.
    """
    paragraph: list[str] = []
    fence = ""
    for line, following in pairwise([*text.replace("\f", "\n\n").splitlines(), "", ""]):
        mark = _FENCE.match(line) if with_headings else None
        is_prose = with_headings and not fence and not mark
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence) and not line[mark.end() :].strip():
            fence = ""
        heading = _heading(line, following, is_first=not paragraph) if is_prose else None
        if heading is None and line.strip():
            paragraph.append(line)
            continue
        if paragraph:
            yield Block("\n".join(paragraph))
            paragraph = []
        if heading:
            yield Block(heading, is_heading=True)


def _heading(line: str, following: str, *, is_first: bool) -> str | None:
    """The words of a line of Markdown that is a heading, "" for a line that only marks one, None for any other."""
    if mark := _MARKED_HEADING.match(line):
        words = line[mark.end() :].strip()
        bare = words.rstrip("#")
        return bare.rstrip() if not bare or bare[-1].isspace() else words
    if is_first and _UNDERLINE.fullmatch(line):
        return ""
    return line.strip() if is_first and line.strip() and _UNDERLINE.fullmatch(following) else None


def pages_of(blocks: Iterable[Block]) -> list[list[Block]]:
    """Fill pages with blocks: at least one, which is empty where there are no blocks.

    A heading stays with what follows it, and begins a page where the one before is no longer nearly empty. A block that is longer than a
    page is cut at the end of a line, a sentence or a word.
    """
    pages: list[list[Block]] = []
    page: list[Block] = []
    taken = 0
    for block in blocks:
        for part in _parts(block, PAGE_CHARS - taken):
            room = _room(part)
            headings = next((n for n, one in enumerate(page[:-4:-1]) if not one.is_heading), len(page[-3:]))
            is_full = taken + room > PAGE_CHARS or (part.is_heading and taken >= EARLY_CHARS)
            if is_full and len(page) > headings:
                pages.append(page[: len(page) - headings])
                page = page[len(page) - headings :]
                taken = sum(map(_room, page))
            page.append(part)
            taken += room
    return [*pages, page]


def _room(block: Block) -> int:
    """What a block takes of the `PAGE_CHARS` of a page."""
    return LINE_CHARS + sum(max(len(line), LINE_CHARS) for line in block.text.split("\n"))


def _parts(block: Block, left: int) -> Iterator[Block]:
    """The block in pieces that are no longer than a page; the first one fills what is `left` of one that is nearly empty."""
    text, start = block.text, 0
    size = left - LINE_CHARS if left > PAGE_CHARS // 2 else PAGE_CHARS - LINE_CHARS
    while len(text) - start > PAGE_CHARS - LINE_CHARS:
        middle, end = start + size // 2, start + size
        sentence = max(text.rfind(mark, middle, end) for mark in (". ", "! ", "? ", "。"))
        cuts = (text.rfind("\n", middle, end), sentence, text.rfind(" ", middle, end))
        cut = next((cut + 1 for cut in cuts if cut >= 0), end)
        yield Block(text[start:cut], block.is_heading)
        start, size = cut, PAGE_CHARS - LINE_CHARS
    yield Block(text[start:], block.is_heading)


def _draw(blocks: list[Block], *, max_pixels: int) -> Any:
    """A sheet of paper with the blocks on it; what does not fit is not shown. Fonts are MuPDF's own: every machine draws the same."""
    body = "".join(
        f"<h3>{html.escape(block.text)}</h3>"
        if block.is_heading
        else f"<p>{html.escape(clean_text(block.text)).replace(chr(10), '<br/>')}</p>"
        for block in blocks
    )
    sheet = f'<html><body style="font-family: sans-serif">{body or "<p> </p>"}</body></html>'
    with media.load_pymupdf().open(stream=sheet.encode("utf-8", "replace"), filetype="html") as document:
        document.layout(width=SHEET_PT[0], height=SHEET_PT[1], fontsize=FONT_PT)
        return media.draw_page(document[0], max_pixels=max_pixels)
