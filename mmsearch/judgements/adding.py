"""Growing a file of judged queries: one query at a time, merged with what is there, whole or not at all; and taking back."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmsearch.disk.faults import disk_faults
from mmsearch.disk.replace import replace_file
from mmsearch.errors import DatasetError
from mmsearch.items import Item
from mmsearch.judgements.queries import JudgedQuery, parse_query, read_queries
from mmsearch.words import to_json


@dataclass(frozen=True, slots=True)
class Added:
    """What an addition changed: whether the query is new, and how many right answers are."""

    is_new: bool
    answers: int


def add_query(path: Path, judged: JudgedQuery) -> Added:
    """Add a query to the file at `path`, which is made if need be.

    A query that is there already (`JudgedQuery.key`) gets the right answers that it lacks; nothing is ever written twice, and what
    else its line holds stays. Other lines are kept byte for byte.

    Raises:
        DatasetError: a line of the file cannot be read, or the query has right answers there and none now.
        DiskFull, DiskFailed: no room for the file, which stays as it was.
    """
    path = path.resolve()  # a link stays a link
    with _one_at_a_time(path.parent):
        lines = _lines(path)
        found = _lines_that_ask(lines, path.parent, judged)
        if found:
            line, added = _merged(lines[found[0]], judged, path, found[0] + 1)
            if added == Added(is_new=False, answers=0):
                return added
            lines[found[0]] = line
        else:
            added = Added(is_new=True, answers=len(judged.relevant))
            lines[-1:] = [*filter(None, lines[-1:]), to_json(_row(judged, path.parent)), ""]
        _replace(path, "\n".join(lines))
    return added


def take_back(path: Path, judged: JudgedQuery, item: Item | None) -> bool:
    """Take back that `item` answers a query, or, with None, that nothing does. A query of which nothing is left said goes with it.

    Returns:
        Whether the file said so. Raises DatasetError: a line of the file cannot be read.
    """
    path = path.resolve()
    with _one_at_a_time(path.parent):
        lines = _lines(path)
        is_changed = False
        for n in reversed(_lines_that_ask(lines, path.parent, judged)):
            said = parse_query(lines[n], path.parent).relevant
            left = [place for place in said if item is None or not place.holds(item)]
            if left:
                lines[n] = to_json({**json.loads(lines[n]), "relevant": [place.record() for place in left]})
            elif said or item is None:
                del lines[n]
            is_changed |= len(left) < len(said) or (item is None and not said)
        if is_changed:
            _replace(path, "\n".join(lines))
    return is_changed


def _lines(path: Path) -> list[str]:
    """Of the file, "" behind the last; a broken line is named before the file is touched."""
    if not path.exists():
        return [""]
    read_queries(path)
    return path.read_bytes().decode("utf-8-sig").split("\n")


def _lines_that_ask(lines: list[str], folder: Path, judged: JudgedQuery) -> list[int]:
    return [n for n, line in enumerate(lines) if line.strip() and _asks(line, folder, judged)]


def _asks(line: str, folder: Path, judged: JudgedQuery) -> bool:
    other = parse_query(line, folder)
    same_picture = other.image == judged.image or (
        other.image is not None and judged.image is not None and other.image.samefile(judged.image)
    )
    return same_picture and (other.query, other.kind, other.instruction) == (
        judged.query,
        judged.kind,
        judged.instruction,
    )


def _merged(line: str, judged: JudgedQuery, path: Path, number: int) -> tuple[str, Added]:
    row = json.loads(line)
    known = parse_query(line, path.parent).relevant
    if known and not judged.relevant:
        raise DatasetError(
            f"{path}, line {number}: {judged} has right answers there; take them out before saying that it has none"
        )
    new = [place for place in judged.relevant if place not in known]
    is_styled = bool(judged.style) and not row.get("style")
    if not new and not is_styled:
        return line, Added(is_new=False, answers=0)
    row["relevant"] += [place.record() for place in new]
    if is_styled:
        row["style"] = judged.style
    return to_json(row), Added(is_new=False, answers=len(new))


def _row(judged: JudgedQuery, folder: Path) -> dict[str, Any]:
    image = None if judged.image is None else Path(os.path.relpath(judged.image, folder))
    if judged.image is not None and image is not None and ".." in image.parts:
        image = judged.image.absolute()
    fields = {
        "query": judged.query,
        "kind": judged.kind,
        "image": None if image is None else str(image),
        "instruction": judged.instruction,
        "relevant": [place.record() for place in judged.relevant],
        "style": judged.style or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Processes and threads that add to files of one folder wait for each other."""
    with disk_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, text: str) -> None:
    with replace_file(path) as temporary, disk_faults(path):  # a message names the file, not its folder
        temporary.touch(0o600)  # until it has the rights of the former file
        temporary.write_text(text, encoding="utf-8")
        if path.exists():
            shutil.copymode(path, temporary)
        else:
            temporary.chmod(0o644)
