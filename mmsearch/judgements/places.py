"""Where a right answer lies: a file, a page of it, or a span of time in it, and which items of a library that is."""

from __future__ import annotations

import json
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from mmsearch.catalog import Catalog
from mmsearch.items import Item, Kind

FIELDS = ("path", "page", "start_s", "end_s")
SEARCHABLE_STATES = ("indexed", "pending", "offline", "failed")
"""States of files that may have visible items."""


@dataclass(frozen=True, slots=True)
class Place:
    """A file or a part of it.

    Attributes:
        path: whole, or the end of it in whole components: "q3.pdf" and "talks/q3.pdf" mean "/home/me/talks/q3.pdf", "3.pdf" does not.
        page: counts from 1; None means any page.
        start_s, end_s: a span [start_s, end_s) of a video; without `end_s` the moment `start_s`, without both any clip.
    """

    path: str
    page: int | None = None
    start_s: float | None = None
    end_s: float | None = None

    def holds(self, item: Item) -> bool:
        """Whether `item` lies here: it is that page, or a clip that overlaps that span."""
        wanted, own = _parts(self.path), _parts(str(item.path))
        if own[-len(wanted) :] != wanted:
            return False
        if self.page is not None and item.page_number != self.page:
            return False
        if self.start_s is None and self.end_s is None:
            return True
        if item.start_s is None or item.end_s is None:
            return False
        start_s = self.start_s or 0.0
        if self.end_s is None or self.end_s <= start_s:
            return item.start_s <= start_s < item.end_s
        return item.start_s < self.end_s and start_s < item.end_s

    def record(self) -> dict[str, Any]:
        """As in a file of judged queries; what is not set is left out."""
        return {name: value for name in FIELDS if (value := getattr(self, name)) is not None}

    def __str__(self) -> str:
        page = "" if self.page is None else f" p.{self.page}"
        span = "" if self.start_s is None else f" {self.start_s:g} s"
        return f"{self.path}{page}{span}" + ("" if self.end_s is None else f" … {self.end_s:g} s")


def parse_place(fields: Any) -> Place:
    """A place from its JSON object. Raises ValueError saying what is wrong."""
    if not isinstance(fields, Mapping) or not isinstance(fields.get("path"), str) or not fields["path"].strip("/. "):
        raise ValueError('a right answer is {"path": …, "page"?, "start_s"?, "end_s"?}')
    if unknown := set(fields) - set(FIELDS):
        raise ValueError(f"unknown field {', '.join(sorted(unknown))} of a right answer; known: {', '.join(FIELDS)}")
    page, start_s, end_s = (fields.get(name) for name in FIELDS[1:])
    if page is not None and (type(page) is not int or page < 1):
        raise ValueError(f"page {json.dumps(page)}: pages are whole numbers from 1")
    for name, moment in (("start_s", start_s), ("end_s", end_s)):
        if moment is not None and (type(moment) not in (int, float) or not 0 <= moment < float("inf")):
            raise ValueError(f"{name} {json.dumps(moment)}: times are seconds from 0")
    if end_s is not None and end_s < (start_s or 0):
        raise ValueError(f"end_s {end_s:g} lies before start_s {start_s:g}")
    return Place(fields["path"], page, start_s, end_s)


class ItemsByName:
    """Items, found by the place where they lie."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._by_name: dict[str, list[Item]] = defaultdict(list)
        for item in items:
            self._by_name[_name(item.path)].append(item)

    @classmethod
    def of_catalog(cls, catalog: Catalog, places: Iterable[Place]) -> ItemsByName:
        """The visible items of those files only that `places` may mean."""
        names = {_name(PurePath(place.path)) for place in places}
        files = [row.id for row in catalog.sources.rows(states=SEARCHABLE_STATES) if _name(row.path) in names]
        return cls(item for source_id in files for item in catalog.items.of_source(source_id))

    def at(self, place: Place, kinds: Collection[Kind] | None = None) -> list[Item]:
        """The items that lie at `place`, of these kinds if any are named."""
        of_name = self._by_name.get(_name(PurePath(place.path)), ())
        return [item for item in of_name if (kinds is None or item.kind in kinds) and place.holds(item)]


def place_of(item: Item, catalog: Catalog) -> Place:
    """How a file of judged queries names `item`: by its path below the folder that was ingested where that says which file is meant,
    else by its whole path."""
    path = item.path
    roots = [root for root in catalog.sources.roots() if item.path.is_relative_to(root) and item.path != root]
    if roots:
        short = item.path.relative_to(max(roots, key=lambda root: len(root.parts)))
        wanted = _parts(str(short))
        meant = {row.path for row in catalog.sources.rows(states=SEARCHABLE_STATES)}
        if sum(_parts(str(one))[-len(wanted) :] == wanted for one in meant if _name(one) == _name(short)) == 1:
            path = short
    return Place(str(path), item.page_number, item.start_s, item.end_s)


def _name(path: PurePath) -> str:
    return unicodedata.normalize("NFC", path.name)


def _parts(path: str) -> tuple[str, ...]:
    """The components; names that a Mac writes in pieces (NFD) equal what people type."""
    return Path(unicodedata.normalize("NFC", path)).parts
