"""Which items a search may return: kinds, paths and dates, turned into allowed ids before the search starts."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import text
from sqlalchemy.engine import Connection

from mmsearch.catalog.dialect.sqlite import listed, members
from mmsearch.errors import ConfigError
from mmsearch.items import Kind
from mmsearch.media.dates import instant_s, wall_text


@dataclass(frozen=True, slots=True)
class Filters:
    """Conditions that an item must meet.

    Attributes:
        kinds: only these; empty means all.
        path_globs: any of these must match: `*.pdf`, `talks/**`, `/abs/talks`. A pattern may begin at any folder, a pattern
            that matches a folder takes all in it, and letter case does not matter.
        after: from this day (or moment) on. before: earlier than this day (or moment). Compared with the time that the clock showed
            where a photo was taken, whatever zone that was. Moments known in UTC only (most videos, some documents) and file
            times are compared as the asker's clock shows them.
        under: only files at or below this path.
    """

    kinds: tuple[Kind, ...] = ()
    path_globs: tuple[str, ...] = ()
    after: date | datetime | None = None
    before: date | datetime | None = None
    under: Path | None = None

    def restricts_items(self) -> bool:
        """Whether anything but the kind is asked for."""
        return bool(self.path_globs) or self.after is not None or self.before is not None or self.under is not None


ZONES_S = 2 * 86400.0
"""Further apart than this, no time zones change what comes first."""
_CAPTURED = "json_extract(meta, '$.captured_at')"
_DATED = (
    "(date_s {sign} :{name}_low AND date_s {sign} :{name}_high OR (date_s BETWEEN :{name}_low AND :{name}_high AND CASE"
    f" WHEN {_CAPTURED} GLOB '[0-9][0-9][0-9][0-9]*' AND (kind = 'image' OR {_CAPTURED} NOT LIKE '%+00:00')"
    f" THEN substr({_CAPTURED} || substr('0000-01-01T00:00:00', length({_CAPTURED}) + 1), 1, 19) {{sign}} :{{name}}_wall"
    " ELSE date_s {sign} :{name}_s END))"
)
"""Whether an item's date is on the asked side of a bound. Its metadata are read only where time zones can matter. A photo's date
counts as it is written; UTC in another item's date says which clock it was read from, not which one the camera's owner had."""


def allowed_ids(c: Connection, filters: Filters, kinds: Sequence[Kind]) -> np.ndarray | None:
    """The visible items (int64, ascending) of these kinds that pass the filters; None if nothing but kinds is asked for."""
    if not filters.restricts_items():
        return None
    conditions = ["visible = 1", f"kind IN {members('kinds')}"]
    parameters: dict[str, Any] = {"kinds": listed(kinds)}
    for name, sign, bound in (("after", ">=", filters.after), ("before", "<", filters.before)):
        if bound is not None:
            conditions.append(_DATED.format(name=name, sign=sign))
            seconds = instant_s(bound)
            parameters[f"{name}_s"], parameters[f"{name}_wall"] = seconds, wall_text(bound)
            parameters[f"{name}_low"], parameters[f"{name}_high"] = seconds - ZONES_S, seconds + ZONES_S
    if filters.path_globs or filters.under is not None:
        conditions.append(f"source_id IN {members('sources')}")
        parameters["sources"] = listed(_sources(c, filters))
    return read_ids(c, f"SELECT id FROM items WHERE {' AND '.join(conditions)}", parameters)


def read_ids(c: Connection, statement: str, parameters: dict[str, Any]) -> np.ndarray:
    """The column `id` that a statement selects, int64, ascending. As one string: several times faster than as rows."""
    joined = c.execute(text(f"SELECT group_concat(id) FROM ({statement})"), parameters).scalar()
    return np.sort(np.fromstring(joined, np.int64, sep=",")) if joined else np.empty(0, np.int64)


def under_any(folders: Sequence[Path]) -> tuple[str, dict[str, Any]]:
    """An SQL condition on `path` for files at or below any of `folders` (all, if there are none), and its parameters."""
    parts: list[str] = []
    parameters: dict[str, Any] = {}
    for n, folder in enumerate(folders):
        prefix = os.fsencode(absolute(folder)).rstrip(b"/")
        parts.append(f"path = :exact{n} OR (path > :low{n} AND path < :high{n})")
        # "0" follows "/" in every encoding that a file system uses.
        parameters |= {f"exact{n}": prefix, f"low{n}": prefix + b"/", f"high{n}": prefix + b"0"}
    return " OR ".join(parts) or "1", parameters


def absolute(path: Path) -> Path:
    """The absolute path without `..`, links left as they are (`Path.resolve` would follow them)."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def glob_pattern(glob: str) -> re.Pattern[str]:
    """A matcher for whole paths: `**` crosses folders, `*` and `?` do not, `[…]` is a set. See `Filters.path_globs`.

    It does not backtrack: what follows a wildcard is taken where it fits first, in an atomic group, since a later place leaves
    less of the path to the rest of the glob.

    Raises:
        ConfigError: the glob has more than `GLOB_CHARS` characters.
    """
    if len(glob) > GLOB_CHARS:
        raise ConfigError(f"a path filter of {len(glob):,} characters is too long; the limit is {GLOB_CHARS:,}")
    glob = glob.removeprefix("./").rstrip("/")
    start = "" if glob.startswith("/") else _ANY_FOLDERS
    try:
        chunks = _chunks(start, glob)
    except ValueError:  # an odd set such as [z-a]: take the characters as they stand
        chunks = [(start, [re.escape(glob)])]
    chunks[-1][1][-1] += r"(?=/|\Z)"  # a folder that matches takes all in it
    body = (f"(?>{skipped}{first}{''.join(f'(?>[^/]*?{one})' for one in rest)})" for skipped, (first, *rest) in chunks)
    return re.compile("".join(body), re.IGNORECASE | re.DOTALL)


GLOB_CHARS = 1024
_ANY_FOLDERS, _ANYTHING = "(?:.*?/)??", ".*?"
_GLOB_PART = re.compile(r"\*\*+/|\*\*+|\*|\?|\[[!^]?\]?[^\]]*\]|.", re.DOTALL)


def _chunks(start: str, glob: str) -> list[tuple[str, list[str]]]:
    """What lies between the `**` of a glob: the expression for what may come before it, and its parts between single `*`.

    Each part has a fixed length. Raises ValueError if a set has a range that is empty.
    """
    chunks = [(start, [""])]
    is_at_folder = True
    for part in _GLOB_PART.findall(glob):
        if not part.startswith("*"):
            chunks[-1][1][-1] += _one_character(part)
        elif part == "*":
            chunks[-1][1].append("")
        elif part.endswith("/"):
            chunks.append((_ANY_FOLDERS, [""]) if is_at_folder else (_ANYTHING, ["/"]))
        else:
            chunks.append((_ANYTHING, [""]))
        is_at_folder = part.endswith("/")
    return chunks


def _one_character(part: str) -> str:
    """The expression for a character, a `?` or a set of a glob. Neither of the latter takes a "/"."""
    if part == "?":
        return "[^/]"
    if len(part) < 3 or part in ("[!]", "[^]"):
        return re.escape(part)
    is_without = part[1] in "!^"
    members = re.findall(r".-.|.", part[2 if is_without else 1 : -1], re.DOTALL)
    if any(one[0] > one[-1] for one in members):
        raise ValueError(part)
    inside = "".join(f"{re.escape(one[0])}-{re.escape(one[-1])}" for one in members)
    return f"[^/{inside}]" if is_without else f"(?!/)[{inside}]"


def _sources(c: Connection, filters: Filters) -> list[int]:
    condition, parameters = under_any([filters.under] if filters.under is not None else [])
    rows = c.execute(text(f"SELECT id, path FROM sources WHERE state != 'removed' AND ({condition})"), parameters).all()
    if not filters.path_globs:
        return [source_id for source_id, _ in rows]
    patterns = [glob_pattern(glob) for glob in filters.path_globs]
    return [source_id for source_id, path in rows if any(pattern.match(os.fsdecode(path)) for pattern in patterns)]
