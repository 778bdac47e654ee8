"""Marking hits as right: kept as judged queries in the library's folder, for `mmsearch eval run` and for adapting the model."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from mmsearch.errors import MMSearchError
from mmsearch.items import Item
from mmsearch.judgements.adding import add_query, take_back
from mmsearch.judgements.places import Place, place_of
from mmsearch.judgements.queries import JudgedQuery, read_queries
from mmsearch.library import Library
from ui.guard import guarded
from ui.plain_text import plain
from ui.view import View

FILE_NAME = "judged.jsonl"


def judged_file(library: Library) -> Path:
    return library.folder / FILE_NAME


def asked(library: Library, view: View, *, has_picture: bool) -> JudgedQuery | None:
    """The question of this view as a file can keep it; None where it cannot (pictures, "more like this", a library that is only read).

    Filters are not part of it: a right answer is one without them, too.
    """
    if not view.query or view.like or has_picture or library.catalog.read_only:
        return None
    return JudgedQuery(" ".join(view.query.split()), kind=view.kinds[0] if len(view.kinds) == 1 else None)


def mark_hit(library: Library, judged: JudgedQuery, item: Item) -> None:
    """A button under a hit: whether it is a right answer."""
    is_right = any(place.holds(item) for place in _answers(library, judged) or ())
    st.button(
        "Right answer",
        key="mark-right",
        icon=":material/check_circle:" if is_right else ":material/radio_button_unchecked:",
        type="secondary" if is_right else "tertiary",
        help=f"Click to take it back: it is kept in {FILE_NAME}" if is_right else _help(judged),
        on_click=guarded(_mark_hit),
        args=(library, judged, item, not is_right),
    )
    _tell_problem()


def mark_none(library: Library, judged: JudgedQuery) -> None:
    """A button under the hits: whether nothing answers the question. Not there while one is marked as right."""
    answers = _answers(library, judged)
    if answers:
        return
    is_none = answers == ()
    st.button(
        "Nothing answers this",
        key="mark-none",
        icon=":material/check_circle:" if is_none else None,
        type="tertiary",
        help=f"Click to take it back: it is kept in {FILE_NAME}" if is_none else _help(judged),
        on_click=guarded(_mark_none),
        args=(library, judged, not is_none),
    )
    _tell_problem()


def _help(judged: JudgedQuery) -> str:
    return f"Keep this in {FILE_NAME} of the library: `mmsearch eval run` measures with it how well queries such as “{plain(judged.query)}” are answered"


def _mark_hit(library: Library, judged: JudgedQuery, item: Item, is_right: bool) -> None:
    try:
        library.catalog.refuse_if_replaced()
        if is_right:
            answer = place_of(item, library.catalog)
            add_query(judged_file(library), JudgedQuery(judged.query, (answer,), judged.kind))
        else:
            take_back(judged_file(library), judged, item)
    except (MMSearchError, OSError) as error:
        st.session_state["judging_problem"] = str(error)


def _mark_none(library: Library, judged: JudgedQuery, is_none: bool) -> None:
    try:
        library.catalog.refuse_if_replaced()
        if is_none:
            add_query(judged_file(library), judged)
        else:
            take_back(judged_file(library), judged, None)
    except (MMSearchError, OSError) as error:
        st.session_state["judging_problem"] = str(error)


def _tell_problem() -> None:
    if problem := st.session_state.pop("judging_problem", None):
        st.error(f"That could not be kept: {plain(problem)}", icon=":material/error:")


def _answers(library: Library, judged: JudgedQuery) -> tuple[Place, ...] | None:
    """What the file says of the question: its right answers, () where nothing is, None where it says nothing."""
    file = judged_file(library)
    try:
        changed_ns = file.stat().st_mtime_ns
    except OSError:
        return None
    return _read(str(file), changed_ns).get(judged.key)


@st.cache_data(max_entries=4, show_spinner=False)
def _read(file: str, changed_ns: int) -> dict[object, tuple[Place, ...]]:
    try:
        return {one.key: one.relevant for one in read_queries(Path(file), on_bad=lambda _: None)}
    except MMSearchError:
        return {}
