"""One item, large: the page with its neighbours, the photo, or the clip playing from its second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import streamlit as st

from ingest.readers import known_type
from mmsearch.errors import SourceError, WorkerFailed
from mmsearch.items import Item
from mmsearch.judgements.queries import JudgedQuery
from mmsearch.library import Library
from mmsearch.media import isolated as sandbox
from ui import judging, shelf
from ui.gallery import KIND_NAMES
from ui.guard import guarded
from ui.plain_text import displayable
from ui.view import View

Go = Callable[[View], None]


def show(library: Library, item: Item, view: View, go: Go, *, asked: JudgedQuery | None = None) -> None:
    """Draw `item`; `go` changes the view. `asked` is the question that it answers, if it can be marked as right."""
    neighbours = shelf.neighbours(library, item)
    with st.container(key="detail-bar", horizontal=True, vertical_alignment="center"):
        st.button(
            "Results",
            icon=":material/arrow_back:",
            on_click=guarded(go),
            args=(replace(view, item=None),),
            shortcut="Escape",
        )
        st.space("stretch")
        if neighbours.count > 1:
            _step("Previous", neighbours.before, view, go, shortcut="Left")
            st.text(f"{neighbours.position} of {neighbours.count}", width="content")
            _step("Next", neighbours.after, view, go, shortcut="Right")
            st.space("stretch")
        if asked is not None:
            judging.mark_hit(library, asked, item)
        st.button(
            "More like this",
            icon=":material/auto_awesome_motion:",
            type="primary",
            on_click=guarded(go),
            args=(View(like=item.id),),
        )

    picture, words = st.columns([2.1, 1], gap="large")
    with words:
        _words(item, shelf.also_at(library, item))
    with picture:
        _picture(library, item)


def _step(label: str, item_id: int | None, view: View, go: Go, *, shortcut: str) -> None:
    st.button(
        label,
        type="tertiary",
        disabled=item_id is None,
        on_click=guarded(go),
        args=(replace(view, item=item_id or view.item),),
        shortcut=shortcut,
    )


def _picture(library: Library, item: Item) -> None:
    """The thing itself, decoded apart from this process; its preview until it is there, and where it cannot be shown."""
    file = shelf.viewable_file(library, item)
    slot = st.empty()
    if item.preview is not None:
        with suppress(OSError):  # the item may just have been deleted for good
            slot.image(item.preview.read_bytes(), width="stretch")
    changed_ns = _changed_ns(file)
    if file is None or changed_ns is None:
        st.caption("The file is not there now, or lies outside the folders that were added: this is its preview.")
        return
    file_type = known_type(file)
    if file_type is not None and file_type.drawn_by is None:
        return  # a page that its reader made, as of a text file: the preview and the text are all there is
    try:
        if item.kind == "page":
            slot.image(_page(str(file), changed_ns, item.page_number or 1), width="stretch")
        elif item.kind == "image":
            slot.image(_photo(str(file), changed_ns), width="stretch")
        else:
            content, start_s = _video(str(file), changed_ns, item.start_s or 0.0, item.end_s or 0.0)
            slot.video(content, start_time=start_s, autoplay=True, muted=True)
            if start_s == 0.0 and (item.start_s or 0.0) > 0.0:
                st.caption("A silent excerpt: browsers do not play this file as it is.")
    except SourceError as error:
        st.text(f"This is its preview; the file cannot be shown now: {displayable(error.reason)}.")
    except WorkerFailed as error:
        st.text(f"This is its preview; the file cannot be shown now: {displayable(str(error))}.")


def _changed_ns(file: Path | None) -> int | None:
    try:
        return None if file is None else file.stat().st_mtime_ns
    except OSError:
        return None


# Keyed on the file and its time of change, so that a changed file is drawn again.
@st.cache_data(max_entries=64, show_spinner=False)
def _page(file: str, changed_ns: int, page_number: int) -> bytes:
    return sandbox.page(file, page_number)


@st.cache_data(max_entries=64, show_spinner=False)
def _photo(file: str, changed_ns: int) -> bytes:
    return sandbox.photo(file)


@st.cache_data(max_entries=4, show_spinner=False)
def _video(file: str, changed_ns: int, start_s: float, end_s: float) -> tuple[bytes, float]:
    return sandbox.video(file, start_s, end_s)


def _words(item: Item, also_at: Sequence[Path]) -> None:
    """What is known of the item. Everything here comes from users' files: it is shown as text, never as Markdown or HTML."""
    with st.container(key="detail-name"):
        st.text(displayable(item.path.name))
    st.text(" · ".join(filter(None, [KIND_NAMES[item.kind], item.place])))
    st.code(displayable(str(item.path)), language=None, wrap_lines=True)
    if also_at:
        st.text("Also at")
        st.code("\n".join(displayable(str(path)) for path in also_at), language=None, wrap_lines=True)
    with st.container(key="detail-facts", gap=None):
        for name, value in _facts(item).items():
            with st.container(horizontal=True, gap="small"):
                st.text(name, width=90)
                st.text(value)
    if text := displayable(item.text.strip()):
        with st.container(key="detail-text", height=360 if len(text) > 700 else "content", border=True):
            st.text(text)


LABELS = {
    "title": "Title", "caption": "Caption", "people": "People", "keywords": "Keywords", "place": "Place", "author": "Author",
    "camera": "Camera", "lens": "Lens", "page_label": "Label", "attachments": "Attached",
}  # fmt: skip
"""Of the metadata that are shown as they are, in order."""


def _facts(item: Item) -> dict[str, str]:
    """The metadata worth showing, by name."""
    meta = item.meta
    facts = {"Number": str(item.id)}
    if meta.get("captured_at"):
        label = "Created" if item.kind == "page" else "Taken"
        by_name = " (by its name)" if meta.get("date_source") == "name" else ""
        facts[label] = str(meta["captured_at"]).replace("T", " ") + by_name
    if meta.get("width") and meta.get("height"):
        facts["Size"] = f"{meta['width']} × {meta['height']}"
    for name, label in LABELS.items():
        if value := meta.get(name):
            facts[label] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    if isinstance(meta.get("rating"), int):
        facts["Rating"] = "★" * min(meta["rating"], 5)
    if meta.get("gps"):
        facts["Position"] = ", ".join(f"{float(angle):.5f}" for angle in meta["gps"])
    if (changed := _changed(item.path)) is not None:
        facts["Changed"] = f"{changed:%Y-%m-%d %H:%M}"
    return {name: displayable(value) for name, value in facts.items()}


def _changed(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime)
    except OSError:
        return None
