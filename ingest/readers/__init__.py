"""From one source to its item drafts: the type is found by content, then one module per type reads it.

To add a file type: a module that reads it (`FileType.reader` says what it holds), and a row in `FILE_TYPES`. A package that is installed
beside mmsearch adds a row through the entry point group `mmsearch.readers`.
Files are read inside the processes of `ingest.decode`; elsewhere only their types are looked up.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ingest.readers import signatures
from ingest.readers.signatures import Beginning, Signature, beginning_of, begins_with
from mmsearch.errors import ConfigError, CorruptFile, FileTooLarge, SourceError, UnsupportedFile
from mmsearch.items import KINDS, ItemDraft, Kind, Source
from mmsearch.media.dates import BELOW_NAME, Dated, date_in_name
from mmsearch.plain_text import LONGEST_EXPANSION, described, readable


@dataclass(frozen=True, slots=True)
class FileType:
    """A row of the table.

    Attributes:
        name: what reports call it. kind: of the items in such a file, as a rule: an animated picture gives clips.
        suffixes: lower case with the dot. A name that ends so promises the type; content that breaks the promise is an error. A name
            decides nothing else.
        is_signature: whether a file begins as one of this type. The first row that says so has the file.
        reader: the module with `read_items(source, reading)`, `count_items(path)`, `read_facts(path)` and `is_described(path)`, and where
            it wants them `load_decoders()` and a video's `read_words` and `frames_of`. It is imported in worker processes only.
        drawn_by: which part of `mmsearch.media` draws an item again later, for a screen or to read its print; None: nothing does, so that
            its preview is all there is to see.
        needs_suffix: whether a file must have one of the suffixes, too, because others begin in the same way.
        max_bytes: a larger file is refused. Further limits are those of `Reading`, and `MAX_ITEMS`.
    """

    name: str
    kind: Kind
    suffixes: tuple[str, ...]
    is_signature: Signature
    reader: str
    drawn_by: Literal["document", "picture", "video"] | None = None
    needs_suffix: bool = False
    max_bytes: int | None = None

    def is_type_of(self, file: Beginning) -> bool:
        return self.is_signature(file) and (not self.needs_suffix or file.suffix in self.suffixes)

    def load(self) -> Any:
        """The reader's module."""
        return importlib.import_module(self.reader)


def _picture(name: str, suffixes: tuple[str, ...], is_signature: Signature) -> FileType:
    return FileType(name, "image", suffixes, is_signature, "ingest.readers.image", "picture")


def _document(name: str, suffixes: tuple[str, ...], is_signature: Signature, *, needs_suffix: bool = False) -> FileType:
    return FileType(name, "page", suffixes, is_signature, "ingest.readers.document", "document", needs_suffix)


VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".wmv", ".flv", ".mpg", ".mpeg", ".m2ts", ".ogv", ".3gp",
)  # fmt: skip

FILE_TYPES: tuple[FileType, ...] = (
    _picture("jpeg", (".jpg", ".jpeg"), begins_with(b"\xff\xd8\xff")),
    _picture("png", (".png", ".apng"), begins_with(b"\x89PNG\r\n\x1a\n")),
    _picture("webp", (".webp",), signatures.is_webp),
    _picture("tiff", (".tif", ".tiff"), begins_with(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    _picture("bmp", (".bmp",), signatures.is_bmp),
    _picture("gif", (".gif",), begins_with(b"GIF87a", b"GIF89a")),
    _picture("heic", (".heic", ".heif"), signatures.is_heic),
    _picture("avif", (".avif",), signatures.is_avif),
    _picture("jpeg2000", (".jp2",), begins_with(b"\0\0\0\x0cjP  ")),
    FileType("video", "clip", VIDEO_SUFFIXES, signatures.is_video, "ingest.readers.video", "video"),
    _document("epub", (".epub",), signatures.is_epub),
    _document("xps", (".xps", ".oxps"), signatures.is_xps),
    _document("cbz", (".cbz",), begins_with(signatures.ZIP), needs_suffix=True),
    _document("pdf", (".pdf",), signatures.is_pdf),
    _document("svg", (".svg",), signatures.is_svg),
    FileType(
        "text",
        "page",
        (".txt", ".md", ".markdown"),
        signatures.is_text,
        "ingest.readers.text",
        needs_suffix=True,
        max_bytes=20_000_000,  # a long novel has a tenth of it
    ),
)
"""What is read without further packages, in the order in which signatures are tried."""

ENTRY_POINTS = "mmsearch.readers"


@functools.cache
def file_types() -> tuple[FileType, ...]:
    """`FILE_TYPES`, then the rows that installed packages add: each entry point of the group `mmsearch.readers` names a `FileType`.

    Raises:
        ConfigError: an entry point is no row, or its name or one of its suffixes is taken.
    """
    from importlib.metadata import entry_points

    rows = list(FILE_TYPES)
    for entry in entry_points(group=ENTRY_POINTS):
        row, package = entry.load(), entry.dist.name if entry.dist else entry.value
        if not isinstance(row, FileType):
            raise ConfigError(f"the reader {entry.name!r} of the package {package} is no FileType: uninstall it")
        for other in rows:
            taken = [suffix for suffix in row.suffixes if suffix in other.suffixes]
            if row.name == other.name:
                taken.append(f"the name {row.name!r}")
            if taken:
                raise ConfigError(
                    f"the reader {entry.name!r} of the package {package} wants {', '.join(taken)}, which {other.reader} reads: "
                    "uninstall one of them"
                )
        rows.append(row)
    return tuple(rows)


@functools.cache
def _by_suffix() -> Mapping[str, FileType]:
    return {suffix: row for row in file_types() for suffix in row.suffixes}


def promised_type(suffix: str) -> FileType | None:
    """The type that a name with this suffix (lower case with the dot) promises, or None. Raises ConfigError."""
    return _by_suffix().get(suffix)


def load_decoders(kinds: Collection[Kind] = KINDS) -> None:
    """Import the readers of these kinds and what they decode with, which takes a second on a busy machine."""
    for reader in dict.fromkeys(row.reader for row in file_types() if row.kind in kinds):
        with contextlib.suppress(ImportError):  # its files fail, and say why
            getattr(importlib.import_module(reader), "load_decoders", lambda: None)()


READER_VERSION = 1
"""Grows when readers tell other facts of a file (`Facts`), or give the model another picture of it, than before. The next ingest of an
older library then reads the facts again, and embeds again only what is another picture now."""

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
    for draft in file_type.load().read_items(source, reading):
        allowance.demand_room(draft)
        if file_type.drawn_by is None:  # its print cannot be read later
            draft = replace(draft, has_print=False)
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
    reader = demand_type(source.path).load()
    if not hasattr(reader, "read_words"):
        raise CorruptFile(source.path, "is no video any longer")
    allowance, dated = _Allowance(source, reading), dating(source.path)
    drafts = [
        allowance.cut(replace(draft, meta=dated(draft.meta)))
        for draft in reader.read_words(source, rewording.duration_s, rewording.clips)
    ]
    changed = {
        clip
        for draft, clip in zip(drafts, rewording.clips, strict=True)
        if rewording.with_frames
        and clip.ordinal >= reading.first_ordinal
        and text_digest(readable(described(draft.text, readable(draft.description)))) != clip.digest
    }
    frames = reader.frames_of(source.path, reading, [clip for clip in rewording.clips if clip in changed])
    for draft, clip in zip(drafts, rewording.clips, strict=True):
        if clip.ordinal >= reading.first_ordinal:
            yield replace(draft, images=next(frames)) if clip in changed else draft


def read_facts(path: Path) -> Facts:
    """The facts of a file that was read by an older reader. Raises SourceError."""
    found: Facts = demand_type(path).load().read_facts(path)
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
    if demand_type(path).kind == "page":
        return None
    from ingest.sidecars import date_beside

    return date_beside(path)


def count_items(path: Path) -> tuple[Kind, int, float]:
    """For the plan, without decoding pixels: (kind, items expected, seconds of video).

    Raises:
        SourceError: the file cannot be read.
    """
    counted: tuple[Kind, int, float] = demand_type(path).load().count_items(path)
    return counted


def is_described(path: Path) -> bool:
    """Whether the metadata inside a file say anything in words, without decoding more than they need.

    Raises:
        SourceError: the file cannot be read.
    """
    return bool(demand_type(path).load().is_described(path))


def demand_type(path: Path) -> FileType:
    """The type by content.

    Raises:
        UnsupportedFile: no reader. CorruptFile: unreadable, empty, or not what its name promises. FileTooLarge: see `FileType.max_bytes`.
    """
    try:
        file_type, size_bytes = sniff(path), path.stat().st_size
    except OSError as error:
        raise CorruptFile(path, f"cannot be read: {error.strerror or error}") from error
    if file_type is not None:
        limit = file_type.max_bytes
        if limit is not None and size_bytes > limit:
            raise FileTooLarge(path, f"{size_bytes:,} bytes; the limit for {file_type.name} is {limit:,}")
        return file_type
    if size_bytes == 0:
        raise CorruptFile(path, "the file is empty")
    if promised_type(path.suffix.lower()) is not None:
        raise CorruptFile(path, f"the content is not what the name {path.suffix} promises")
    raise UnsupportedFile(path, "no reader takes this content")


def sniff(path: Path) -> FileType | None:
    """The type of a file by its first bytes (ZIP families: its directory and name too), or None. Raises OSError.

    Interprets nothing: safe in the parent process.
    """
    return type_of(beginning_of(path))


def type_of(file: Beginning) -> FileType | None:
    """The first row whose signature it is."""
    return next((row for row in file_types() if row.is_type_of(file)), None)


def known_type(path: Path) -> FileType | None:
    """The type by content, or else the one that the name promises; nothing is refused. Raises nothing for files that cannot be read."""
    try:
        found = sniff(path)
    except OSError:
        found = None
    return found or promised_type(path.suffix.lower())


__all__ = [
    "FILE_TYPES", "FileType", "Reading", "SourceError", "count_items", "demand_type", "file_types", "known_type", "promised_type",
    "read_items", "sniff", "type_of",
]  # fmt: skip
