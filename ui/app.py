"""The page: a query box, a grid of answers, one item large. Started by `mmsearch ui`.

The address bar holds the whole state (`ui.view.View`): callbacks change the address, a run draws what it says.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path

import streamlit as st

from ingest.readers import FILE_TYPES
from mmsearch.errors import MMSearchError, SourceError
from mmsearch.items import KINDS
from mmsearch.judgements.queries import JudgedQuery
from mmsearch.library import Library
from mmsearch.search import Hits
from mmsearch.words import count_of
from ui import adding, detail, gallery, judging, shelf
from ui.gallery import Card
from ui.gate import Gate, is_local
from ui.guard import guard, guarded, show_problem
from ui.plain_text import displayable, plain
from ui.view import FIRST_DAY, LAST_DAY, View

PER_PAGE = 24
KIND_CHOICES = {
    "page": ":material/description: Pages",
    "image": ":material/image: Photos",
    "clip": ":material/movie: Clips",
}
PICTURE_TYPES = [suffix[1:] for row in FILE_TYPES if row.kind == "image" for suffix in row.suffixes]


def main() -> None:
    # A named Material icon would be fetched from Google's servers; nothing here leaves the machine.
    st.set_page_config(page_title="mmsearch", page_icon=files("ui").joinpath("icon.svg").read_text(), layout="wide")
    st.html(f"<style>{files('ui').joinpath('page.css').read_text()}</style>")
    if not Gate.stands and not is_local(st.get_option("server.address") or "0.0.0.0"):
        st.error(
            "Anybody on the network could search here. Start the page with `mmsearch ui`.", icon=":material/error:"
        )
        return
    with guard():
        show_problem()
        _draw(View.from_url(st.query_params))


def _draw(view: View) -> None:
    library = shelf.open_library()
    if shelf.is_another(library):
        view = replace(view, page=1, item=None, like=None)  # numbers of the former one
        go(view)
        st.warning(
            f"The library at {plain(str(shelf.library_folder()))} was deleted while this page was open."
            if library is None
            else f"Another library lies at {plain(str(shelf.library_folder()))} since this page was last drawn; this is the new one.",
            icon=":material/swap_horiz:",
        )
    if library is not None:
        library.show_returned()
    is_empty = library is None or not shelf.item_count(library)
    _header(library)
    _progress(is_empty=is_empty)
    if library is None or is_empty:
        _first_step()
        return
    _controls(library, view)
    if view.held:
        st.info("A link from elsewhere filled this in. Press Enter in the query box to run it.", icon=":material/link:")
        return
    item = shelf.item(library, view.item) if view.item else None
    if item is not None:
        detail.show(library, item, view, go, asked=_asked_question(library, view))
    else:
        if view.item:
            st.caption(f"Item {view.item} is not in the library any longer.")
        _results(library, view)


def go(view: View) -> None:
    """Change the view; called before a run, so that the run draws it."""
    st.query_params.from_dict(view.parameters())


# ---------------------------------------------------------------- the top of the page


def _header(library: Library | None) -> None:
    with st.container(key="header", horizontal=True, vertical_alignment="center"):
        st.button("mmsearch", key="home", type="tertiary", on_click=guarded(_go_home), help="Start again")
        st.space("stretch")
        if library is not None:
            _coverage(library)
        if st.button("Add a folder", icon=":material/create_new_folder:", key="add"):
            _add_dialog()


def _go_home() -> None:
    _drop_picture()
    go(View())


def _coverage(library: Library) -> None:
    """What can be found at all: "1,204 pages · 3,120 photos · 56 clips", and what cannot."""
    coverage = shelf.coverage(library)
    st.caption(coverage.sentence(), width="content", help=plain(coverage.model_sentence()) or None)
    if coverage.offline:
        st.badge(
            f"{coverage.offline:,} offline",
            icon=":material/cloud_off:",
            color="orange",
            help="Files on a disk or in a folder that is not there now, or of which much is gone. They come back with it; what "
            "changed there meanwhile, at the next `mmsearch ingest`. `mmsearch ingest FOLDER --prune` forgets them.",
        )
    if coverage.failed:
        with st.popover(f"{coverage.failed:,} failed", icon=":material/warning:", type="tertiary"):
            st.text(
                "These files could not be read. They are tried again when they change, or with: mmsearch errors --retry"
            )
            st.dataframe(shelf.failures(library), hide_index=True, width=640)


# ---------------------------------------------------------------- adding folders


@st.dialog("Add a folder")
def _add_dialog() -> None:
    with guard():
        _draw_add_dialog()


def _draw_add_dialog() -> None:
    st.caption("Its PDF pages, photos and video moments become searchable. Files are only read, never changed or sent.")
    with st.form("add-form", border=False):
        folder = st.text_input("Folder on this machine", placeholder=str(Path.home() / "Documents"))
        started = st.form_submit_button("Start", type="primary", icon=":material/play_arrow:")
    if started and _start(folder):
        st.rerun()


def _start(folder: str) -> bool:
    """Begin to ingest what the user typed; says what is wrong with it otherwise."""
    path = adding.typed_path(folder)
    if path is None:
        st.error("Write the whole path, from the root.", icon=":material/error:")
    elif not adding.is_there(path):
        st.error("There is no such folder.", icon=":material/error:")
    elif adding.ingest_run().is_running():
        st.error("Another folder is being added; wait for it or stop it.", icon=":material/error:")
    else:
        adding.ingest_run().start(str(path), library=shelf.library_folder())
        return True
    return False


def _progress(*, is_empty: bool) -> None:
    run = adding.ingest_run()
    if run.is_running():
        _live_progress(is_empty)
    elif run.exit_code is not None:
        _outcome(run)


@st.fragment(run_every=1.0)
def _live_progress(is_empty: bool) -> None:
    with guard():
        _draw_progress(is_empty)


def _draw_progress(is_empty: bool) -> None:
    run = adding.ingest_run()
    has_first_items = is_empty and (library := shelf.open_library()) is not None and shelf.item_count(library)
    if has_first_items or not run.is_running():
        st.rerun()  # the whole page
    with st.container(key="progress", horizontal=True, vertical_alignment="center", border=True):
        st.progress(run.fraction(), text=None, width="stretch")
        st.text(displayable(run.sentence()), width="content")
        st.button("Stop", icon=":material/stop:", on_click=guarded(run.stop), help="What is done is kept")


def _outcome(run: adding.IngestRun) -> None:
    with st.container(key="outcome", horizontal=True, vertical_alignment="center", border=True):
        st.text(displayable(run.sentence()))
        st.space("stretch")
        st.button("Close", type="tertiary", icon=":material/close:", on_click=guarded(run.forget))


def _first_step() -> None:
    """The page of a library without items."""
    if adding.ingest_run().is_running():
        st.subheader("The first items appear here in a moment", anchor=False)
        return
    with st.container(key="first-step"):
        st.title("Find anything you have seen", anchor=False)
        st.markdown(
            "Pages of documents, photos and moments of videos, by what is in them. Everything stays on this machine: "
            "name a folder, and search while it is being read."
        )
        with st.form("first-form", border=False):
            folder = st.text_input("Folder", placeholder=str(Path.home() / "Documents"), label_visibility="collapsed")
            started = st.form_submit_button("Add this folder", type="primary", icon=":material/create_new_folder:")
        if started and _start(folder):
            st.rerun()
        st.caption(
            "No folder at hand? `mmsearch demo-folder demo` writes a small one with slides, pictures and videos."
        )


# ---------------------------------------------------------------- asking


def _controls(library: Library, view: View) -> None:
    """The query box, the picture, the kinds and the filters. The address leads; widgets follow it."""
    _follow(view)
    with st.container(key="ask", horizontal=True, vertical_alignment="center", gap="small"):
        _query_box(view)
        with st.popover("Picture", icon=":material/add_photo_alternate:"):
            st.file_uploader(
                "Drop a picture here; words in the query box refine it",
                type=PICTURE_TYPES,
                key=f"picture-{st.session_state.setdefault('uploads', 0)}",
                on_change=guarded(_picture_dropped),
                args=(library,),
                max_upload_size=shelf.UPLOAD_BYTES >> 20,
            )
    with st.container(key="narrow", horizontal=True, vertical_alignment="center", gap="small"):
        st.pills(
            "Kinds",
            list(KINDS),
            format_func=KIND_CHOICES.__getitem__,
            selection_mode="multi",
            key="kinds",
            label_visibility="collapsed",
            on_change=guarded(_asked),
            args=("kinds",),
        )
        label = "Filters" if not view.has_filters() else "Filters on"
        with st.popover(label, icon=":material/tune:", type="tertiary"):
            st.text_input(
                "Path", key="path", placeholder="talks/** or *.pdf", on_change=guarded(_asked), args=("path",)
            )
            for label, key in (("From this day on", "after"), ("Before this day", "before")):
                st.date_input(
                    label,
                    key=key,
                    format="YYYY-MM-DD",
                    min_value=FIRST_DAY,
                    max_value=LAST_DAY,
                    on_change=guarded(_asked),
                    args=(key,),
                )
            st.checkbox(
                "Each copy by itself",
                key="copies",
                help="Else copies of a file, and photo and video of a Live Photo, are one answer.",
                on_change=guarded(_asked),
                args=("copies",),
            )
    if not view.held:
        _asked_with(view)


def _query_box(view: View) -> None:
    box = partial(
        st.text_input,
        "What are you looking for?",
        key="q",
        placeholder="A page, a photo, a moment: say what is in it",
        label_visibility="collapsed",
        icon=":material/search:",
    )
    if not view.held:
        box(on_change=guarded(_asked), args=("q",))
        return
    with st.form("held-form", border=False):  # Enter in a form counts without a change, too
        box()
        st.form_submit_button("Search", type="primary", on_click=guarded(_released))


def _released() -> None:
    """A person has seen what a link from elsewhere asks for, and wants it."""
    view = View.from_url(st.query_params)
    query = st.session_state["q"].strip()
    is_same = query == view.query
    go(replace(view, query=query, held=False, item=view.item if is_same else None, like=view.like if is_same else None))


def _follow(view: View) -> None:
    """Give the widgets what the address says, where it differs (a bookmark, the browser's back button)."""
    told = {
        "q": view.query,
        "kinds": list(view.kinds),
        "path": view.path,
        "after": view.after,
        "before": view.before,
        "copies": view.copies,
    }
    for key, value in told.items():
        if key not in st.session_state or st.session_state[key] != value:
            st.session_state[key] = value


def _asked(key: str) -> None:
    """One of the widgets was changed. What the others hold stands in the address: only a person's own change leads away from it."""
    view = replace(View.from_url(st.query_params), page=1, item=None, weaker=False)
    value = st.session_state[key]
    if key == "q":
        query = value.strip()
        view = replace(view, query=query, like=view.like if query == view.query else None)
    elif key == "kinds":
        view = replace(view, kinds=tuple(kind for kind in KINDS if kind in value))
    else:
        view = replace(view, **{key: value.strip() if key == "path" else value})
    go(view)


def _picture_dropped(library: Library) -> None:
    upload = st.session_state[f"picture-{st.session_state['uploads']}"]
    if upload is None:
        return
    st.session_state.pop("picture_problem", None)
    try:
        st.session_state["picture"] = shelf.decode_picture(library, upload.getvalue())
        go(replace(View.from_url(st.query_params), page=1, item=None, like=None))
    except SourceError as error:
        st.session_state["picture_problem"] = f"That file is no picture that can be read: {error.reason}"
    except MMSearchError as error:
        st.session_state["picture_problem"] = str(error)
    st.session_state["uploads"] += 1  # a fresh, empty drop area


def _drop_picture() -> None:
    st.session_state.pop("picture", None)


def _asked_with(view: View) -> None:
    """The picture or the item that the query starts from, with a way to let go of it."""
    if problem := st.session_state.pop("picture_problem", None):
        st.error(plain(problem), icon=":material/broken_image:")
    picture = st.session_state.get("picture")
    if picture is not None:
        with st.container(key="with-picture", horizontal=True, vertical_alignment="center", gap="small"):
            st.image(picture.image, width=72)
            st.text("Searching with this picture" + (" and your words" if view.query else ""), width="content")
            st.button("Remove", icon=":material/close:", type="tertiary", on_click=guarded(_drop_picture))
    elif view.like:
        with st.container(key="with-like", horizontal=True, vertical_alignment="center", gap="small"):
            st.text(f"More like item {view.like}", width="content")
            st.button("Open it", type="tertiary", on_click=guarded(go), args=(replace(view, item=view.like),))
            st.button(
                "Clear",
                icon=":material/close:",
                type="tertiary",
                on_click=guarded(go),
                args=(replace(view, like=None),),
            )


# ---------------------------------------------------------------- answers


def _results(library: Library, view: View) -> None:
    picture = st.session_state.get("picture")
    if not (view.query or view.like or picture):
        _browse(library, view)
        return
    try:
        hits = shelf.find(library, view, picture)
    except KeyError:
        st.caption(f"Item {view.like} is not in the library any longer.")
        return
    except ValueError:  # nothing but `-word`
        st.caption("Say what you look for beside what is to be left out.")
        return
    question = _asked_question(library, view)
    if not hits:
        _no_good_match(library, view, hits, question)
        return
    view = replace(view, page=min(view.page, -(-len(hits) // PER_PAGE)))
    first = (view.page - 1) * PER_PAGE
    shown = hits[first : first + PER_PAGE]
    _grid([Card(hit.item, replace(view, item=hit.item.id), hit.relevance, hit.snippet, hit.also_at) for hit in shown])
    _turn_pages(view, has_next=len(hits) > first + PER_PAGE)
    with st.container(key="footer", horizontal=True, horizontal_alignment="center", vertical_alignment="center"):
        st.caption(
            f"{len(hits):,} of {hits.searched:,} items · {hits.took_ms:.0f} ms (model {hits.model_ms:.0f} ms)",
            width="content",
        )
        if view.weaker:
            st.button(
                "Hide weaker hits", type="tertiary", on_click=guarded(go), args=(replace(view, weaker=False, page=1),)
            )
        elif hits.hidden:
            st.button(
                f"Show {hits.hidden:,} weaker hits",
                type="tertiary",
                on_click=guarded(go),
                args=(replace(view, weaker=True, page=1),),
            )
        if question is not None:
            judging.mark_none(library, question)


def _asked_question(library: Library, view: View) -> JudgedQuery | None:
    return judging.asked(library, view, has_picture=st.session_state.get("picture") is not None)


def _no_good_match(library: Library, view: View, hits: Hits, question: JudgedQuery | None) -> None:
    with st.container(key="no-match", horizontal_alignment="center"):
        st.subheader("No good match", anchor=False, text_alignment="center")
        st.caption(
            f"Nothing among {count_of(hits.searched, 'item')} is close enough. Other words may do better: say what is to be seen."
            if hits.searched
            else "No item passes the filters.",
            text_alignment="center",
        )
        if hits.searched and not view.weaker:
            st.button(
                "Show the closest",
                icon=":material/expand_more:",
                on_click=guarded(go),
                args=(replace(view, weaker=True, page=1),),
            )
        if hits.searched and question is not None:
            judging.mark_none(library, question)


def _browse(library: Library, view: View) -> None:
    """No query: the newest items."""
    items = shelf.newest(library, view, offset=(view.page - 1) * PER_PAGE, count=PER_PAGE + 1)
    if not items and view.page > 1:  # behind the last one
        _browse(library, replace(view, page=1))
        return
    if not items:
        st.caption("Nothing passes the filters.")
        return
    if view.page == 1 and not view.kinds and not view.has_filters():
        _suggest(library)
    st.caption("Added last")
    _grid([Card(item, replace(view, item=item.id), snippet=item.text[:160]) for item in items[:PER_PAGE]])
    _turn_pages(view, has_next=len(items) > PER_PAGE)


def _suggest(library: Library) -> None:
    suggestions = shelf.suggestions(library)
    if suggestions:
        with st.container(key="suggestions", horizontal=True, vertical_alignment="center", gap="small"):
            st.caption("Try", width="content")
            for number, query in enumerate(suggestions):
                st.button(plain(query), key=f"try-{number}", on_click=guarded(go), args=(View(query=query),))


def _grid(cards: list[Card]) -> None:
    gallery.show(cards, on_open=go, key="gallery")


def _turn_pages(view: View, *, has_next: bool) -> None:
    if view.page == 1 and not has_next:
        return
    with st.container(key="pages", horizontal=True, horizontal_alignment="center", vertical_alignment="center"):
        st.button(
            "Previous",
            icon=":material/chevron_left:",
            disabled=view.page == 1,
            on_click=guarded(go),
            args=(replace(view, page=view.page - 1),),
        )
        st.text(f"Page {view.page}", width="content")
        st.button(
            "Next",
            icon=":material/chevron_right:",
            icon_position="right",
            disabled=not has_next,
            on_click=guarded(go),
            args=(replace(view, page=view.page + 1),),
        )


main()
