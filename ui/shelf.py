"""What the page asks of the library, cached: resources once, answers per (generation, question)."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import streamlit as st
from PIL import Image

import mmsearch
from mmsearch import config
from mmsearch.catalog import Filters
from mmsearch.disk.faults import disk_faults
from mmsearch.errors import FileTooLarge, LibraryMissing, LibraryReplaced
from mmsearch.items import KINDS, Item, Kind
from mmsearch.library import Library, examples
from mmsearch.search import Hits
from mmsearch.words import items_sentence
from ui.plain_text import displayable
from ui.view import View

UPLOAD_BYTES = 32 << 20
HITS_AT_MOST = 240
"""Hits kept of an answer: ten pages of cards."""

_searching = threading.Lock()  # one model, many sessions


def library_folder() -> Path:
    return config.find_library_folder(None)


def open_library() -> Library | None:
    """The library of this page, opened once for all sessions; None while there is none yet.

    One that was deleted or replaced since is closed, and the one in its place opened.
    """
    folder = str(library_folder())
    try:
        library = _open(folder)
        try:
            library.catalog.refuse_if_replaced()
        except LibraryReplaced:
            _open.clear()
            st.cache_data.clear()
            library.close()
            library = _open(folder)
    except LibraryMissing:
        return None
    return library


@st.cache_resource(show_spinner=False)
def _open(folder: str) -> Library:
    return mmsearch.open(Path(folder))


def is_another(library: Library | None) -> bool:
    """Whether this session was shown another library last time, or one where there is none now; told once."""
    shown = st.session_state.get("shown_library")
    st.session_state["shown_library"] = now = None if library is None else library.catalog.identity
    return shown is not None and shown != now


def _version(library: Library) -> tuple[object, ...]:
    """What an answer that is kept is true of."""
    return (str(library.folder), *library.catalog.identity, library.catalog.generation())


def item_count(library: Library) -> int:
    return sum(library.catalog.items.counts().values())


def item(library: Library, item_id: int) -> Item | None:
    """The item, or None if it is gone."""
    found = library.catalog.items.of([item_id])
    return found[0] if found else None


# ---------------------------------------------------------------- asking


@dataclass(frozen=True)
class Picture:
    """A picture to search with. `digest` names its pixels."""

    image: Image.Image
    digest: str


def decode_picture(library: Library, content: bytes) -> Picture:
    """Read an uploaded file, whatever it claims to be, in a child process.

    Raises SourceError, and DiskFull or DiskFailed where the folder for temporary files takes nothing.
    """
    if len(content) > UPLOAD_BYTES:  # Streamlit refuses it too, before it is here
        raise FileTooLarge("upload", f"it has more than {UPLOAD_BYTES >> 20} MB")
    with disk_faults(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory(prefix="mmsearch-") as folder:
        file = Path(folder) / "upload"
        file.write_bytes(content)
        image = library.picture(file)
    return Picture(image, hashlib.sha256(image.tobytes()).hexdigest())


def find(library: Library, view: View, picture: Picture | None) -> Hits:
    """The answer to the question in the address and the picture; from the cache if nothing has changed since."""
    question = (view.query, view.kinds, view.path, view.after, view.before, view.like, view.weaker, view.copies)
    return _find(library, view, picture, (*_version(library), question, picture and picture.digest))


@st.cache_data(max_entries=64, show_spinner=False)
def _find(_library: Library, _view: View, _picture: Picture | None, key: tuple[object, ...]) -> Hits:
    with _searching:
        return _library.search(
            _view.query,
            k=HITS_AT_MOST,
            kinds=_view.kinds or None,
            image=_picture.image if _picture else None,
            like=_view.like,
            path=_view.path or None,
            after=_view.after,
            before=_view.before,
            min_relevance=0.0 if _view.weaker else None,
            all_copies=_view.copies,
        )


def newest(library: Library, view: View, *, offset: int, count: int) -> list[Item]:
    """The first item of each file that passes the filters, what was added last first; copies once, unless the view asks for each."""
    key = (*_version(library), view.kinds, view.path, view.after, view.before, view.copies)
    return _newest(library, view, offset, count, key)


@st.cache_data(max_entries=64, show_spinner=False)
def _newest(_library: Library, _view: View, offset: int, count: int, key: tuple[object, ...]) -> list[Item]:
    kinds = _view.kinds or KINDS
    globs = (_view.path,) if _view.path else ()
    allowed = _library.catalog.items.allowed_ids(Filters(kinds, globs, _view.after, _view.before), kinds)
    return _library.catalog.items.first(kinds, allowed, limit=count, offset=offset, all_copies=_view.copies)


def suggestions(library: Library) -> list[str]:
    """A few queries that this library can answer."""
    return _suggestions(library, _version(library))


@st.cache_data(max_entries=4, show_spinner=False)
def _suggestions(_library: Library, key: tuple[object, ...]) -> list[str]:
    return examples.example_queries(_library.catalog)


# ---------------------------------------------------------------- one item


def also_at(library: Library, item: Item) -> tuple[Path, ...]:
    """The other files that count as the same answer."""
    return library.catalog.items.also_at([item]).get(item.id, ())


@dataclass(frozen=True)
class Neighbours:
    """The items around one in its file; `position` counts from 1."""

    before: int | None
    after: int | None
    position: int
    count: int


def neighbours(library: Library, item: Item) -> Neighbours:
    ids = [other.id for other in library.catalog.items.of_source(item.source_id)]
    at = ids.index(item.id) if item.id in ids else 0
    return Neighbours(
        before=ids[at - 1] if at > 0 else None,
        after=ids[at + 1] if at + 1 < len(ids) else None,
        position=at + 1,
        count=len(ids),
    )


def viewable_file(library: Library, item: Item) -> Path | None:
    """The item's file if it may be read for the page: it exists, and lies, links resolved, inside a folder that was added.

    Catalogs hold folders with their links resolved: one that is a link now was swapped since.
    """
    file = Path(os.path.realpath(item.path))  # resolve() raises on loops
    if not file.is_file():
        return None
    if file == item.path:
        return file
    return (
        file
        if any(file.is_relative_to(root) and item.path.is_relative_to(root) for root in library.catalog.sources.roots())
        else None
    )


# ---------------------------------------------------------------- what is covered


@dataclass(frozen=True)
class Coverage:
    """What can be found, and what cannot: items per kind, files that failed, files on an absent disk; and by which model.

    `models` are those that have vectors here: what they are called, and of how many items; the first one answers.
    """

    items: Mapping[Kind, int]
    failed: int
    offline: int
    models: tuple[tuple[str, int], ...] = ()

    def sentence(self) -> str:
        return items_sentence(self.items)

    def model_sentence(self) -> str:
        """ "Answered by mini. Being built beside it, or kept: tiny, 31 of 51 items." """
        if not self.models:
            return ""
        total = sum(self.items.values())
        (active, _), *others = self.models
        beside = "; ".join(f"{name}, {count:,} of {total:,} items" for name, count in others)
        return f"Answered by {active}." + (f" Being built beside it, or kept: {beside}." if beside else "")


def coverage(library: Library) -> Coverage:
    catalog = library.catalog
    sources = catalog.counts()["sources"]
    active = library.model_key
    keys = sorted(catalog.models.dims(), key=lambda key: (key != active, key))
    models = [
        (displayable(Path(catalog.models.name(key) or key).name), sum(catalog.counts(key)["vectors"].values()))
        for key in keys
        if active is not None
    ]
    return Coverage(catalog.items.counts(), sources.get("failed", 0), sources.get("offline", 0), tuple(models))


def failures(library: Library) -> list[dict[str, str]]:
    """A row per file that failed, for a table."""
    return [
        {"File": displayable(str(row.path)), "Why": displayable(row.reason)} for row in library.catalog.sources.errors()
    ]
