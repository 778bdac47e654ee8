"""Queries that a library can answer, drawn from its own titles, captions and names: what to try first."""

from __future__ import annotations

import re
from itertools import zip_longest

from mmsearch.catalog import Catalog
from mmsearch.items import KINDS, Item, Kind

LOOKED_AT = 60
"""Files per kind that are looked at, the newest first."""
CAMERA_NAME = re.compile(
    r"^(img|dsc|dscn|dscf|pxl|vid|mov|mvi|scan|photo|image|screenshot|untitled|document)?[\W_\d]*$", re.I
)


def example_queries(catalog: Catalog, count: int = 3) -> list[str]:
    """Up to `count` different queries, taken from the kinds in turn."""
    by_kind = [_of_kind(catalog, kind, count) for kind in KINDS]
    mixed = [query for row in zip_longest(*by_kind) for query in row if query]
    return list(dict.fromkeys(mixed))[:count]


def _of_kind(catalog: Catalog, kind: Kind, count: int) -> list[str]:
    found: dict[str, None] = {}
    for item in catalog.first_items([kind], limit=LOOKED_AT):
        if (words := _words(item)) is not None:
            found[words.lower()] = None
        if len(found) == count:
            break
    return list(found)


def _words(item: Item) -> str | None:
    """What somebody might type to find this item: its title, its caption, its first line, or its file's name."""
    for text in (item.meta.get("title"), item.meta.get("caption"), *item.text.strip().splitlines()[:3], item.path.stem):
        if not isinstance(text, str) or CAMERA_NAME.match(text.strip()):
            continue
        words = re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", text.replace("_", " "))
        if 2 <= len(words) <= 12 and sum(len(word) for word in words) >= 8:
            return " ".join(words[:6])
    return None
