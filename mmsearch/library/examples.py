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

MADE_BY = re.compile(
    r"^(Microsoft (Word|PowerPoint|Excel)|PowerPoint Presentation|Untitled|Slide)\s*[-–:]?\s*|\.\w{2,5}$", re.I
)
"""What programs put around a title."""
NO_PHRASE = re.compile(r"https?:|www\.|\w@\w|[{}<>\\|=]|arXiv:|\bdoi\b", re.I)
PAUSE = re.compile(r"[.:;,!?()\[\]/•·–—\"“”]+|\s-+\s|\s{2,}")
"""Between phrases."""
LINKING = {
    "a", "an", "and", "are", "as", "at", "by", "for", "from", "in", "into", "is", "it", "its", "of", "on", "or",
    "our", "that", "the", "their", "this", "to", "was", "we", "were", "with", "das", "dem", "den", "der", "des",
    "die", "ein", "eine", "für", "im", "mit", "und", "von", "zu", "zum", "zur", "de", "del", "du", "el", "en",
    "et", "la", "las", "le", "les", "los", "y",
}  # fmt: skip
"""With none of these a question ends."""
PLAIN_FOLDERS = {
    "camera", "dcim", "desktop", "documents", "downloads", "films", "images", "movies", "photos", "pictures",
    "screenshots", "videos", "whatsapp",
}  # fmt: skip
"""Folder names that say nothing."""


def example_queries(catalog: Catalog, count: int = 3) -> list[str]:
    """Up to `count` different queries, taken from the kinds in turn."""
    by_kind = [_of_kind(catalog, kind, count) for kind in KINDS]
    mixed = [query for row in zip_longest(*by_kind) for query in row if query]
    return list(dict.fromkeys(mixed))[:count]


def _of_kind(catalog: Catalog, kind: Kind, count: int) -> list[str]:
    found: dict[str, None] = {}
    for item in catalog.items.first([kind], limit=LOOKED_AT):
        if (words := _words(item)) is not None:
            found[words] = None
        if len(found) == count:
            break
    return list(found)


def _words(item: Item) -> str | None:
    """What somebody might type to find this item: from its title, its caption, its file's name, its first lines, or its folder's name."""
    told = (item.meta.get("title"), item.meta.get("caption"))
    for text in (*told, *item.text.strip().splitlines()[:3], item.path.stem):
        if isinstance(text, str) and not CAMERA_NAME.match(text.strip()) and (words := asked(text)) is not None:
            return words
    if item.kind != "page" and item.path.parent.name.lower() not in PLAIN_FOLDERS:
        return asked(item.path.parent.name, least=1)
    return None


def asked(text: str, *, least: int = 2) -> str | None:
    """The first phrase of `text` as a person would ask for it: `least` to six words in lower case, names of months included.

    None where that is no phrase: an address, a heading of numbers, single letters of a table, a file's name that a program made.
    """
    if NO_PHRASE.search(text):
        return None
    for part in PAUSE.split(MADE_BY.sub("", text).replace("_", " ")):
        words = re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", part)
        if len(re.findall(r"\d", part)) > sum(map(len, words)):
            continue
        while words and words[0].lower() in LINKING:
            words.pop(0)
        words = words[:6]
        while words and words[-1].lower() in LINKING:
            words.pop()
        telling = [word for word in words if len(word) > 2 and word.lower() not in LINKING]
        if len(telling) >= least and sum(map(len, words)) >= (8 if least > 1 else 4) and 2 * len(telling) >= len(words):
            return " ".join(words).lower()
    return None
