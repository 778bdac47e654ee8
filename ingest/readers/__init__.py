"""From one source to its item drafts: the type is found by content, then one module per type reads it.

To add a file type: a module with `read_items(source, reading)`, `count_items(path)` and `is_described(path)`, its signature in `sniff`,
and a line in `READERS`.
Runs inside the worker processes of `ingest.workers`; only `sniff` is called elsewhere.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmsearch.errors import CorruptFile, FileTooLarge, SourceError, UnsupportedFile
from mmsearch.items import ItemDraft, Kind, Source
from mmsearch.media.dates import BELOW_NAME, Dated, date_in_name
from mmsearch.plain_text import LONGEST_EXPANSION, described, readable

READERS: Mapping[str, str] = {
    "pdf": "ingest.pdf",
    "epub": "ingest.pdf",
    "xps": "ingest.pdf",
    "cbz": "ingest.pdf",
    "svg": "ingest.pdf",
    "jpeg": "ingest.image",
    "png": "ingest.image",
    "webp": "ingest.image",
    "tiff": "ingest.image",
    "bmp": "ingest.image",
    "gif": "ingest.image",
    "heic": "ingest.image",
    "avif": "ingest.image",
    "jpeg2000": "ingest.image",
    "video": "ingest.video",
}
"""The module that reads each type that `sniff` tells apart."""

SUFFIX_TYPES: Mapping[str, str] = {
    ".pdf": "pdf", ".epub": "epub", ".xps": "xps", ".oxps": "xps", ".cbz": "cbz", ".svg": "svg",
    ".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".apng": "png", ".webp": "webp", ".tif": "tiff", ".tiff": "tiff",
    ".bmp": "bmp", ".gif": "gif", ".heic": "heic", ".heif": "heic", ".avif": "avif", ".jp2": "jpeg2000",
    ".mp4": "video", ".m4v": "video", ".mov": "video", ".mkv": "video", ".webm": "video", ".avi": "video",
    ".wmv": "video", ".flv": "video", ".mpg": "video", ".mpeg": "video", ".m2ts": "video", ".ogv": "video", ".3gp": "video",
}  # fmt: skip
"""What a name promises. It decides nothing but this: a promise that the content breaks is an error, not a shrug."""

READER_VERSION = 1
"""Grows when readers tell other facts of a file (`Facts`), or give the model another picture of it, than before. The next ingest of an
older library then reads the facts again, and embeds again only what is another picture now."""

HEAD_BYTES = 4096
TAIL_BYTES = 65_536

MAX_TEXT_CHARS = 100_000
"""An item's text beyond this is cut: no page for people holds more, machine-made ones do."""
MAX_ITEMS = 20_000
"""Of one file: clips of a day with a cut every four seconds. Documents have their own limit, see `Reading.max_pages`."""


def max_file_text_chars(size_bytes: int) -> int:
    """How much text of all its items is kept of a file of so many bytes: pages may share what they show, and it may be compressed.

    A long novel whatever the size, and beyond it what text of people compresses to at the utmost; eleven bibles at most.
    """
    return min(2_000_000 + 8 * size_bytes, 50_000_000)


def max_file_preview_bytes(size_bytes: int) -> int:
    """How much the previews of a file may take together; the items beyond it have none."""
    return 100_000_000 + 2 * size_bytes


@dataclass(slots=True)
class Reading:
    """What a reader is told, and where it tells what is no item.

    Attributes:
        budget: pixels of one image (page, image) or frame (clip) at most.
        max_image_pixels: a header that announces more is refused. max_pages: likewise for documents.
        first_ordinal: items before it are known already and need not be read again.
        notes: counts for the report: `blank_pages`, `damaged_pages`, `damaged_photos`, `merged_clips`, `cut_texts` (items).
        on_progress: called whenever work advanced without giving an item; keeps the deadline away.
    """

    budget: Mapping[Kind, int]
    max_image_pixels: int = 400_000_000
    max_pages: int = 5000
    first_ordinal: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    on_progress: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file's header tells, read without its pixels.

    Attributes:
        metas: entries of `ItemDraft.meta` for all items, or one after the other for each.
        is_redrawn: an older reader gave the model another picture of the file, as far as can be told.
    """

    metas: tuple[Mapping[str, Any], ...]
    is_redrawn: bool = False


def read_items(source: Source, budget: Mapping[Kind, int], *, reading: Reading | None = None) -> Iterator[ItemDraft]:
    """Decode a source into drafts, in order, one at a time.

    Args:
        budget: see `Reading.budget`. `reading` holds the other terms; its budget counts, if given.

    An item's text is cut at `MAX_TEXT_CHARS`, that of the file at `max_file_text_chars`; `meta["text_cut"]` says so.

    Raises:
        SourceError: any of its kinds; drafts given before it stay good. FileTooLarge also where there are more than `MAX_ITEMS`.
    """
    reading = reading or Reading(budget)
    file_type = demand_type(source.path)
    allowance, dated = _Allowance(source, reading), dating(source.path)
    for draft in importlib.import_module(READERS[file_type]).read_items(source, reading):
        allowance.demand_room(draft)
        yield allowance.cut(replace(draft, meta=dated(draft.meta)))


class _Allowance:
    """What the items of one file may take together: in number, text and previews."""

    def __init__(self, source: Source, reading: Reading) -> None:
        self.source, self.reading = source, reading
        self.max_items = max(MAX_ITEMS, reading.max_pages)
        self.max_chars = self.chars_left = max_file_text_chars(source.size_bytes)
        self.preview_bytes_left = max_file_preview_bytes(source.size_bytes)

    def demand_room(self, draft: ItemDraft) -> None:
        """Raises FileTooLarge."""
        if draft.ordinal >= self.max_items:
            raise FileTooLarge(self.source.path, f"more than {self.max_items:,} items; those before stay")

    def cut(self, draft: ItemDraft) -> ItemDraft:
        """The draft with as much text, and a preview, as there is room for."""
        text = draft.text
        if len(text) > MAX_TEXT_CHARS // LONGEST_EXPANSION and len(shown := readable(text)) > MAX_TEXT_CHARS:
            text = shown  # one character may stand for eighteen
        room = min(MAX_TEXT_CHARS, self.chars_left)
        # Notes and embedded files may be those of all pages, too, though they stand in the file once.
        said_room = max(0, self.chars_left - min(len(text), room))
        is_beyond = len(text) > room or len(draft.description) > said_room
        if is_beyond or "text_cut" in draft.meta:
            self.reading.notes["cut_texts"] += 1
        if is_beyond:
            is_item = len(text) > room and room == MAX_TEXT_CHARS
            of, limit = ("item", MAX_TEXT_CHARS) if is_item else ("file", self.max_chars)
            draft = replace(
                draft,
                text=text[:room],
                text_source=draft.text_source if room else None,
                description=draft.description[:said_room],
                meta={**draft.meta, "text_cut": f"beyond {limit:,} characters of the {of}"},
            )
        self.chars_left -= len(draft.text) + len(draft.description)
        if draft.preview is not None:
            if len(draft.preview) > self.preview_bytes_left:
                return replace(draft, preview=None)
            self.preview_bytes_left -= len(draft.preview)
        return draft


@dataclass(frozen=True, slots=True)
class KnownClip:
    """A clip that the catalog holds: [`start_s`, `end_s`) of its video, and the digest of its text (`text_digest`)."""

    ordinal: int
    start_s: float
    end_s: float
    digest: str


@dataclass(frozen=True, slots=True)
class Rewording:
    """A video whose clips are known, and whose words are to be read again.

    Attributes:
        duration_s: of the video. clips: all of them, by ordinal.
        with_frames: whether the model needs the frames of clips that say something else now.
    """

    duration_s: float
    clips: tuple[KnownClip, ...]
    with_frames: bool


def text_digest(text: str) -> str:
    """Of an item's text as the catalog holds it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_words(source: Source, reading: Reading, rewording: Rewording) -> Iterator[ItemDraft]:
    """The known clips of a video with what is said in and beside it now, in order; nothing is decoded but the frames of those clips
    whose text differs, where the model needs them. Drafts have no preview, and without frames the clip's vector stays.

    Raises:
        SourceError: words or frames cannot be read; then the file is to be read as a whole.
    """
    from ingest import video

    if READERS[demand_type(source.path)] != "ingest.video":
        raise CorruptFile(source.path, "is no video any longer")
    allowance, dated = _Allowance(source, reading), dating(source.path)
    drafts = [
        allowance.cut(replace(draft, meta=dated(draft.meta)))
        for draft in video.read_words(source, rewording.duration_s, rewording.clips)
    ]
    changed = {
        clip
        for draft, clip in zip(drafts, rewording.clips, strict=True)
        if rewording.with_frames
        and clip.ordinal >= reading.first_ordinal
        and text_digest(readable(described(draft.text, readable(draft.description)))) != clip.digest
    }
    frames = video.frames_of(source.path, reading, [clip for clip in rewording.clips if clip in changed])
    for draft, clip in zip(drafts, rewording.clips, strict=True):
        if clip.ordinal >= reading.first_ordinal:
            yield replace(draft, images=next(frames)) if clip in changed else draft


def read_facts(path: Path) -> Facts:
    """The facts of a file that was read by an older reader. Raises SourceError."""
    found: Facts = importlib.import_module(READERS[demand_type(path)]).read_facts(path)
    return replace(found, metas=tuple(map(dating(path), found.metas)))


def dating(path: Path) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """What gives an item's metadata the date in a sidecar or in its file's name, where nothing better is known, and marks what has no
    date to bear its file's time."""
    in_name = date_in_name(path.name)
    beside = functools.cache(lambda: _date_beside(path))

    def dated(meta: Mapping[str, Any]) -> dict[str, Any]:
        known = meta.get("date_source", "file")
        if known in BELOW_NAME:
            if (found := beside()) is not None and (
                found.source not in BELOW_NAME or (known == "file" and not in_name)
            ):
                return {**meta, **found.meta()}
            if in_name:
                return {**meta, **Dated(in_name, "name").meta()}
        return {**meta, "date_source": known}

    return dated


def _date_beside(path: Path) -> Dated | None:
    """The date in the sidecars of a photo or video."""
    if READERS[demand_type(path)] == "ingest.pdf":
        return None
    from ingest.sidecars import date_beside

    return date_beside(path)


def count_items(path: Path) -> tuple[Kind, int, float]:
    """For the plan, without decoding pixels: (kind, items expected, seconds of video).

    Raises:
        SourceError: the file cannot be read.
    """
    file_type = demand_type(path)
    return importlib.import_module(READERS[file_type]).count_items(path)


def is_described(path: Path) -> bool:
    """Whether the metadata inside a file say anything in words, without decoding more than they need.

    Raises:
        SourceError: the file cannot be read.
    """
    return bool(importlib.import_module(READERS[demand_type(path)]).is_described(path))


def demand_type(path: Path) -> str:
    """The type by content.

    Raises:
        UnsupportedFile: no reader. CorruptFile: unreadable, empty, or not what its name promises.
    """
    try:
        file_type = sniff(path)
        is_empty = file_type is None and path.stat().st_size == 0
    except OSError as error:
        raise CorruptFile(path, f"cannot be read: {error.strerror or error}") from error
    if file_type is not None:
        return file_type
    if is_empty:
        raise CorruptFile(path, "the file is empty")
    promised = SUFFIX_TYPES.get(path.suffix.lower())
    if promised is not None:
        raise CorruptFile(path, f"the content is not what the name {path.suffix} promises")
    raise UnsupportedFile(path, "no reader takes this content")


def sniff(path: Path) -> str | None:
    """The type of a file by its first bytes (ZIP families: its directory and name too), or None. Raises OSError.

    Reads at most 68 KB and interprets none of it: safe in the parent process.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    with os.fdopen(descriptor, "rb", buffering=0) as handle:
        head = handle.read(HEAD_BYTES) or b""
        if head[:4] == b"PK\x03\x04":
            size = os.fstat(descriptor).st_size
            handle.seek(max(0, size - TAIL_BYTES))
            return _zip_type(head, handle.read(TAIL_BYTES) or b"", path.suffix.lower())
    return type_of_head(head)


def _zip_type(head: bytes, tail: bytes, suffix: str) -> str | None:
    if head[30:].startswith(b"mimetypeapplication/epub+zip"):
        return "epub"
    if b".fdseq" in head or b".fdseq" in tail:
        return "xps"
    return "cbz" if suffix == ".cbz" else None


HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
VIDEO_BRAND_EXCEPTIONS = {b"M4A ", b"M4B ", b"M4P ", b"crx "}
"""Relatives of MP4 that hold sound or raw photos."""


SVG_BEGINNING = re.compile(
    rb"(?:\s*(?><\?.*?\?>|<!--.*?-->|<!DOCTYPE[^>\[]*(?:\[.*?\]\s*)?>))*+\s*<(?:\w{1,20}:)?svg[\s/>]", re.DOTALL
)
"""The root is an `svg`: many a web page has one further down. What was matched is not tried otherwise: the head may mean harm."""


def type_of_head(head: bytes) -> str | None:
    """The type that the first bytes (4096, or all of a shorter file) tell; not for ZIP families."""
    if head[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if head[:6] in {b"GIF87a", b"GIF89a"}:
        return "gif"
    if head[:4] == b"RIFF":
        return {b"WEBP": "webp", b"AVI ": "video"}.get(head[8:12])
    if head[:4] in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}:
        return "tiff"
    if (
        head[:2] == b"BM"
        and head[6:10] == b"\0\0\0\0"
        and head[14:15] in {b"\x0c", b"\x28", b"\x34", b"\x38", b"\x6c", b"\x7c"}
    ):
        return "bmp"
    if head[:8] == b"\0\0\0\x0cjP  ":
        return "jpeg2000"
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in HEIF_BRANDS:
            # mif1 is the general picture brand; AVIF files may lead with it.
            return "avif" if brand == b"mif1" and b"avif" in head[16:64] and b"heic" not in head[16:64] else "heic"
        if brand in {b"avif", b"avis"}:
            return "avif"
        return None if brand in VIDEO_BRAND_EXCEPTIONS else "video"
    if head[4:8] in {b"moov", b"mdat", b"wide", b"pnot"} or head[:4] == b"\x1aE\xdf\xa3":
        return "video"  # old QuickTime; Matroska and WebM
    if head[:4] in {b"FLV\x01", b"\0\0\x01\xba", b"\0\0\x01\xb3"} or head[:8] == b"0&\xb2u\x8ef\xcf\x11":
        return "video"  # Flash, MPEG program and elementary streams, ASF (WMV)
    if head[:4] == b"OggS" and b"theora" in head:
        return "video"
    for start, step in ((0, 188), (4, 192)):  # MPEG transport stream, Blu-ray's variant
        if len(head) > start + 4 * step and all(head[start + n * step] == 0x47 for n in range(5)):
            return "video"
    if b"%PDF-" in head[:1024]:
        return "pdf"
    return "svg" if SVG_BEGINNING.match(head.removeprefix(b"\xef\xbb\xbf")) else None


__all__ = ["READERS", "Reading", "SourceError", "count_items", "demand_type", "read_items", "sniff", "type_of_head"]
