"""The types that travel through mmsearch: from a file to an item, from a query to its hits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmsearch.media.ocr import Recognised

Kind = Literal["page", "image", "clip"]
KINDS: tuple[Kind, ...] = get_args(Kind)

TextSource = Literal["layer", "ocr", "subtitle", "speech", "metadata"]
"""Where an item's text comes from: the document's own text layer, recognised print, subtitles, recognised speech, the file's metadata."""
TEXT_SOURCES: tuple[TextSource, ...] = get_args(TextSource)

Vectors = Any
"""Of n inputs or items float32 [n, dim]; of a multi-vector model a list of n float32 [tokens, dim]. All rows have unit length."""

KIND_ALIASES: Mapping[str, Kind] = {
    "page": "page", "pages": "page", "pdf": "page", "document": "page", "slide": "page",
    "image": "image", "images": "image", "photo": "image", "photos": "image", "picture": "image",
    "clip": "clip", "clips": "clip", "video": "clip", "videos": "clip", "moment": "clip",
}  # fmt: skip
"""What users may type for a kind."""


UNSETTLED = -1
"""Instead of a `Source.ctime_ns`: equal to that of no file, so that the next scan reads the file once more."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file on disk, as it was when it was read.

    `path` is absolute and may hold surrogate escapes; `sha256` is the hex digest of the whole content. `ctime_ns` is when the
    file system last saw the file change in any way (content, name, rights): nobody can set it back, unlike `modified_ns`. None:
    not known; `UNSETTLED`: the file was changed so shortly before it was hashed that a later edit might bear the same time.
    """

    path: Path
    sha256: str
    size_bytes: int
    modified_ns: int
    ctime_ns: int | None = None

    @property
    def suffix(self) -> str:
        """The lower-case extension with its dot; a hint only, the type is decided by content."""
        return self.path.suffix.lower()


@dataclass(frozen=True, slots=True)
class ItemDraft:
    """A decoded page, photo or clip that has no id yet.

    `ordinal` counts the items of a source from 0; `page_number` counts from 1. A clip spans the half-open
    interval [`start_s`, `end_s`) in seconds. `images` are RGB: one for a page or an image, the frames in
    order for a clip, already within the model's pixel budget. `preview` is a small WebP file's bytes.
    `meta` holds JSON values only (`captured_at` ISO 8601, `date_source`, `camera`, `gps` [lat, lon], `page_label`, `width`, `height`,
    `content_identifier`, …).
    `has_print`: whether the picture shows print that `text` lacks; None where nobody looked. `recognised`: what was read in it,
    as `mmsearch.media.ocr.Recognised`; `text` then holds both, the layer in front.
    `description`: what the file's metadata say in words, see `plain_text.described`; it belongs to the first item of a file.
    """

    source: Source
    kind: Kind
    ordinal: int
    page_number: int | None = None
    start_s: float | None = None
    end_s: float | None = None
    text: str = ""
    images: tuple[Image, ...] = ()
    preview: bytes | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    text_source: TextSource | None = None
    has_print: bool | None = None
    recognised: Recognised | None = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """What is embedded and returned: a row of the catalog. `id` is never reused. `text_source` is None without text.

    `text` holds what is in the item and its `description`, what metadata say of it."""

    id: int
    source_id: int
    path: Path
    kind: Kind
    ordinal: int
    page_number: int | None
    start_s: float | None
    end_s: float | None
    text: str
    meta: Mapping[str, Any]
    preview: Path | None
    text_source: TextSource | None = None
    description: str = ""

    @property
    def place(self) -> str:
        """Where in its file the item lies, for people: "p.12", "00:12:04–00:12:18", or "" for a photo."""
        if self.page_number is not None:
            return f"p.{self.page_number}"
        if self.start_s is not None and self.end_s is not None:
            return f"{clock(self.start_s)}–{clock(self.end_s)}"
        return ""


def clock(seconds: float) -> str:
    """`seconds` as hh:mm:ss, rounded down."""
    minutes, second = divmod(int(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02}:{minute:02}:{second:02}"


@dataclass(frozen=True, slots=True)
class EmbedInput:
    """Exactly what the model is given: see `mmsearch.prompts` for who builds it.

    `images` are RGB; with `is_video` they are the frames of one video, else single images.
    `kind` is the kind of the item (document side) or of the items sought (query side); it selects the pixel budget.
    """

    instruction: str
    text: str = ""
    images: tuple[Image, ...] = ()
    is_video: bool = False
    kind: Kind = "image"


@dataclass(frozen=True, slots=True)
class Query:
    """What a user asks: text, picture(s) or both, before it is turned into one input per kind.

    `frames` is a video as the query; `instruction` replaces the built-in one. Each of `excluded` is a text: items that hold all of its words
    are left out, items near it in meaning are pushed down. A `-word` in `text` does the same.
    """

    text: str = ""
    images: tuple[Image, ...] = ()
    frames: tuple[Image, ...] = ()
    instruction: str | None = None
    excluded: tuple[str, ...] = ()

    def is_empty(self) -> bool:
        return not (self.text.strip() or self.images or self.frames)


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer. `rank` counts from 1, `score` is the raw cosine (None for a purely lexical hit),
    `relevance` is calibrated to 0…1 and comparable between kinds, `matched_by` holds "dense" and/or "text".
    `also_at`: other files that count as the same answer, see `mmsearch.catalog.twins`."""

    rank: int
    score: float | None
    relevance: float
    matched_by: tuple[str, ...]
    item: Item
    snippet: str = ""
    also_at: tuple[Path, ...] = ()

    @property
    def path(self) -> Path:
        return self.item.path

    def record(self) -> dict[str, Any]:
        """The stable JSON record (schema 1) that the command line and scripts get."""
        item = self.item
        return {
            "schema": 1,
            "rank": self.rank,
            "id": item.id,
            "kind": item.kind,
            "path": str(item.path),
            "page": item.page_number,
            "start_s": item.start_s,
            "end_s": item.end_s,
            "score": None if self.score is None else round(self.score, 6),
            "relevance": round(self.relevance, 4),
            "matched_by": list(self.matched_by),
            "snippet": self.snippet,
            "also_at": [str(path) for path in self.also_at],
            "meta": {**item.meta, **({"text_source": item.text_source} if item.text_source else {})},
        }


class Hits(list[Hit]):
    """Hits by falling relevance, and what is worth knowing beside them.

    Attributes:
        took_ms: the whole search. model_ms: the part of it spent encoding the query.
        searched: how many items passed the filters.
        total: how many candidates lie above the cut-off, this page of them included.
        hidden: how many candidates lie below it. best_below: the best of those.
    """

    def __init__(
        self,
        hits: Iterable[Hit] = (),
        *,
        took_ms: float = 0.0,
        model_ms: float = 0.0,
        searched: int = 0,
        total: int = 0,
        hidden: int = 0,
        best_below: Hit | None = None,
    ) -> None:
        super().__init__(hits)
        self.took_ms = took_ms
        self.model_ms = model_ms
        self.searched = searched
        self.total = total
        self.hidden = hidden
        self.best_below = best_below


class MatchScale(NamedTuple):
    """How right answers score in one kind, as measured for a checkpoint.

    Attributes:
        low, middle: 30 % quantile and median of the right answer's cosine above the query's median cosine in the pool.
        reliability: 2 AUC - 1: 1 if the right answer always outranks a random item, 0 if it does as often as not.
        bias, per_z, per_level, per_gap: what makes the log-odds that an item answers, see `mmsearch.ranking.relevance`; all 0 where they
            were not fitted.
    """

    low: float
    middle: float
    reliability: float
    bias: float = 0.0
    per_z: float = 0.0
    per_level: float = 0.0
    per_gap: float = 0.0

    @property
    def is_fitted(self) -> bool:
        return any(self[3:])


WITHOUT_TEXT = "page without text"
"""Key of `match_scale` for pages that the model is given as a picture alone."""
