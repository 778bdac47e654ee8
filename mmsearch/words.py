"""How numbers, sizes, durations, names and records are written, wherever they are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mmsearch.items import Kind

KIND_NOUNS: Mapping[Kind, str] = {"page": "page", "image": "photo", "clip": "clip"}


def size(byte_count: int) -> str:
    """ "812 kB", "3.4 GB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if byte_count >= factor:
            return f"{byte_count / factor:.1f} {unit}"
    return f"{byte_count / 1e3:.0f} kB"


def count_of(number: int, noun: str) -> str:
    """ "1 photo", "1,204 photos"."""
    return f"{number:,} {noun if number == 1 else noun + 's'}"


def duration(seconds: float) -> str:
    """About how long, in the words of a person: "8 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min"


def items_sentence(items: Mapping[Kind, int]) -> str:
    """ "1,204 pages · 3,120 photos · 1 clip"; kinds without items are left out."""
    return " · ".join(count_of(items[kind], noun) for kind, noun in KIND_NOUNS.items() if items.get(kind)) or "no items"


def printable(text: str) -> str:
    """`text` on one line, without anything that a terminal would obey: control characters become `\\x1b`-like escapes."""
    return "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else ascii(c)[1:-1] for c in text)


_OBEYED = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Beyond ASCII: control characters and turns of the direction of writing."""


def to_json(record: Any, *, indent: int | None = None) -> str:
    """One JSON text. A name that is not UTF-8 is written as `\\udcXX` escapes, which Python's reader turns back into the name.

    So are characters that a terminal would obey: JSON itself escapes those of ASCII only.
    """
    text = json.dumps(record, ensure_ascii=False, indent=indent, default=str)
    text = _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(record, ensure_ascii=True, indent=indent, default=str)
    return text
