"""What an ingest saw and did not take in, and why: kept in the catalog for `status` and `errors --skipped`.

It is no failure: nothing is wrong with these files. The rows are those of the last look at each folder.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

Reason = Literal["unsupported", "link", "ignored", "hidden", "own", "library", "special"]
REASONS: Mapping[Reason, tuple[str, str, str]] = {
    "unsupported": ("file of a type that is not read", "files of types that are not read", "no reader takes this type"),
    "link": ("link", "links", "a link to a folder, to nothing, or to a file that is searched anyway"),
    "ignored": ("ignored path", "ignored paths", "ruled out by .mmsearchignore, --exclude or --include"),
    "hidden": ("hidden or system file", "hidden or system files", "hidden, or a file of the operating system"),
    "own": ("folder of the library itself", "folders of the library itself", "the library that is being filled"),
    "library": (
        "folder that looks like a library of mmsearch",
        "folders that look like libraries of mmsearch",
        "it holds a catalog.sqlite3, as a library of mmsearch does: if it is none, rename that file to have the folder read",
    ),
    "special": ("pipe, socket or device", "pipes, sockets and devices", "no regular file"),
}
"""One of them, many of them, and why."""

MAX_LISTED = 10_000
"""Beyond this many paths only their number is kept."""
MAX_SUFFIXES = 6
"""So many are named in a sentence."""
KEY = "left_out"
"""Of the table `meta`."""


class LeftOut(NamedTuple):
    """One path. `suffix`: of an unsupported file, lower case with its dot, "" if it has none."""

    path: Path
    reason: Reason
    suffix: str = ""


@dataclass(slots=True)
class LeftOuts:
    """Paths, at most `MAX_LISTED`, and how many there are.

    Attributes:
        listed: by the order in which they were met. reasons: all, by reason. suffixes: the unsupported ones, by suffix.
    """

    listed: list[LeftOut] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    suffixes: Counter[str] = field(default_factory=Counter)

    def add(self, path: str | Path, reason: Reason, suffix: str = "") -> None:
        self.reasons[reason] += 1
        if reason == "unsupported":
            self.suffixes[suffix] += 1
        if len(self.listed) < MAX_LISTED:
            self.listed.append(LeftOut(Path(path), reason, suffix))

    def record(self) -> dict[str, Any]:
        """JSON values: numbers only."""
        return {"reasons": dict(self.reasons), "suffixes": dict(self.suffixes)}


def sentence(reasons: Mapping[str, int], suffixes: Mapping[str, int]) -> str:
    """`3 files of types that are not read (2 .docx, 1 .jxl), 1 link`; "" where nothing was left out."""
    parts = []
    for reason, (one, many, _) in REASONS.items():
        if number := reasons.get(reason, 0):
            kinds = sorted(suffixes.items(), key=lambda pair: (-pair[1], pair[0])) if reason == "unsupported" else []
            shown = kinds[: MAX_SUFFIXES if len(kinds) <= MAX_SUFFIXES else MAX_SUFFIXES - 1]
            named = [f"{count:,} {suffix or 'without a suffix'}" for suffix, count in shown]
            others = sum(count for _, count in kinds[len(shown) :])
            more = [f"{others:,} others"] if others else []
            inside = f" ({', '.join([*named, *more])})" if named else ""
            parts.append(f"{number:,} {one if number == 1 else many}{inside}")
    return ", ".join(parts)


def load(c: Connection) -> LeftOuts:
    """What is kept of all folders."""
    found = LeftOuts()
    for folder in _stored(c):
        found.listed += [LeftOut(Path(path), reason, suffix) for path, reason, suffix in folder["listed"]]
        found.reasons.update(folder["reasons"])
        found.suffixes.update(folder["suffixes"])
    return found


def replace(c: Connection, roots: Sequence[Path], found: LeftOuts) -> None:
    """Put what a look at `roots` left out in the place of what was kept of them and of what lies below; nothing is written without need."""
    before = _stored(c)
    after = [kept for folder in before if (kept := _without(folder, roots)) is not None]
    if found.reasons:
        listed = [[os.fspath(path), reason, suffix] for path, reason, suffix in found.listed]
        after.append({"roots": [os.fspath(root) for root in roots], "listed": listed, **found.record()})
    if after != before:
        put = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        c.exec_driver_sql(put, (KEY, json.dumps(after)))


def _without(folder: dict[str, Any], roots: Sequence[Path]) -> dict[str, Any] | None:
    """A stored look without what lies at or below `roots`; None if nothing is left. What is not listed goes with its roots."""
    if all(any(Path(own).is_relative_to(root) for root in roots) for own in folder["roots"]):
        return None
    kept_rows: list[list[str]] = []
    gone: list[list[str]] = []
    for row in folder["listed"]:
        is_gone = any(Path(row[0]).is_relative_to(root) for root in roots)
        (gone if is_gone else kept_rows).append(row)
    reasons, suffixes = Counter(folder["reasons"]), Counter(folder["suffixes"])
    reasons.subtract(row[1] for row in gone)
    suffixes.subtract(row[2] for row in gone if row[1] == "unsupported")
    kept = {
        "roots": folder["roots"],
        "listed": kept_rows,
        "reasons": dict(+reasons),
        "suffixes": dict(+suffixes),
    }
    return kept if kept["reasons"] else None


def _stored(c: Connection) -> list[dict[str, Any]]:
    """A record of each look; [] where there is nothing, or nothing that can be read."""
    value = c.exec_driver_sql("SELECT value FROM meta WHERE key = ?", (KEY,)).scalar()
    try:
        return [look for look in json.loads(value or "[]") if {"roots", "listed", "reasons", "suffixes"} <= set(look)]
    except (ValueError, TypeError):
        return []
