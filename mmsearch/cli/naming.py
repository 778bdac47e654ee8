"""How a command names an item: by its id, or by its file, with a page or a second where the file holds several items."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.cli.shared import NO_HIT, fail

if TYPE_CHECKING:
    from mmsearch.catalog import Catalog
    from mmsearch.items import Item

ITEM_METAVAR = "ID|FILE[:PAGE|@TIME]"
_PAGE = re.compile(r"(.+):(\d{1,9})", re.DOTALL)
_TIME = re.compile(r"(.+)@(?:(?:(\d{1,4}):)?(\d{1,4}):)?(\d{1,9}(?:\.\d{1,9})?)", re.DOTALL)


def item_named(catalog: Catalog, named: str) -> Item:
    """The first of `items_named`; where there is none the command ends, with the exit code of a search without a hit."""
    found = items_named(catalog, named)
    if not found:
        fail(
            f"no item {named}: say its id, as `mmsearch query` shows it, or an indexed file, as report.pdf:12 or film.mp4@75",
            NO_HIT,
        )
    return found[0]


def items_named(catalog: Catalog, named: str) -> list[Item]:
    """The items that somebody means, in the order of their file; [] if there is none.

    `4711` is an id, `talk.pdf` the whole file, `talk.pdf:12` a page, `film.mp4@75` or `film.mp4@0:01:15` the clip at that time.
    A file that is named like this itself comes first, one whose name is a number as `./4711`.
    """
    if named.isascii() and named.isdigit():
        return catalog.items.of([int(named)]) if int(named) < 1 << 63 else []
    if whole := _items_of_file(catalog, named):
        return whole
    if (page := _PAGE.fullmatch(named)) is not None:
        return [item for item in _items_of_file(catalog, page[1]) if item.page_number == int(page[2])]
    if (time := _TIME.fullmatch(named)) is not None:
        at_s = int(time[2] or 0) * 3600 + int(time[3] or 0) * 60 + float(time[4])
        items = _items_of_file(catalog, time[1])
        return [item for item in items if item.start_s is not None and item.start_s <= at_s < (item.end_s or 0.0)]
    return []


def file_of(path: Path) -> list[Path]:
    """Where the catalog may hold a path: as it was given, and with the links in its folder resolved, as an ingest does."""
    given = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100  (resolve() would follow a link that is the file itself)
    return list(
        dict.fromkeys([given, Path(os.path.realpath(given.parent)) / given.name, Path(os.path.realpath(given))])
    )


def _items_of_file(catalog: Catalog, named: str) -> list[Item]:
    if "\0" in named:
        return []
    for path in file_of(Path(named)):
        for source in catalog.sources.rows(under=path, states=("indexed",)):
            if source.path == path and (items := catalog.items.of_source(source.id)):
                return items
    return []
