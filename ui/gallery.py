"""The grid of cards: thumbnails by item id, a click opens an item."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import streamlit as st

from mmsearch.items import Item, Kind
from ui.guard import guarded
from ui.plain_text import displayable
from ui.view import View

KIND_NAMES: dict[Kind, str] = {"page": "Page", "image": "Photo", "clip": "Clip"}


@dataclass(frozen=True)
class Card:
    """One item in the grid; `relevance` None where it is not the answer to a query. `opened`: the view that shows it, `also_at`: its copies."""

    item: Item
    opened: View
    relevance: float | None = None
    snippet: str = ""
    also_at: tuple[Path, ...] = ()


def show(cards: Sequence[Card], *, on_open: Callable[[View], None], key: str) -> None:
    """Draw the cards; `on_open(view)` runs before the page does when one is clicked, with the view that the card leads to."""

    def opened() -> None:
        chosen = st.session_state[key].get("open")
        if chosen is not None:
            on_open(View.from_href(str(chosen)))

    _component()(key=key, data={"cards": [_card_data(card) for card in cards]}, on_open_change=guarded(opened))


def _card_data(card: Card) -> dict[str, object]:
    item = card.item
    return {
        "id": item.id,
        "kind": item.kind,
        "badge": KIND_NAMES[item.kind],
        "place": item.place,
        "name": displayable(item.path.name),
        "folder": displayable(str(item.path.parent)),
        "path": displayable(str(item.path)),
        "relevance": card.relevance,
        "snippet": displayable(card.snippet),
        "also_at": displayable(also_at_line(item, card.also_at)),
        "copies": [displayable(str(path)) for path in card.also_at],
        "href": card.opened.href(),
        "preview": preview(item),
    }


def also_at_line(item: Item, paths: Sequence[Path]) -> str:
    """`also at IMG_1.MOV` in the item's folder, else the whole path; of several how many."""
    if not paths:
        return ""
    if len(paths) > 1:
        return f"also at {len(paths):,} other places"
    return f"also at {paths[0].name if paths[0].parent == item.path.parent else paths[0]}"


def preview(item: Item) -> str | None:
    """The item's small WebP as a data URI; None where there is none."""
    try:
        return None if item.preview is None else _data_uri(item.id, str(item.preview), item.preview.stat().st_mtime_ns)
    except OSError:
        return None


@st.cache_data(max_entries=4096, show_spinner=False)
def _data_uri(item_id: int, file: str, changed_ns: int) -> str | None:  # another library has the same ids
    try:
        return "data:image/webp;base64," + base64.b64encode(Path(file).read_bytes()).decode()
    except OSError:
        return None


@st.cache_resource(show_spinner=False)
def _component() -> Callable[..., object]:
    folder = files("ui")
    return st.components.v2.component(
        "mmsearch.gallery",
        html='<div class="grid"></div>',
        css=folder.joinpath("gallery.css").read_text(),
        js=folder.joinpath("gallery.js").read_text(),
    )
