"""What the search by words knows of a file's name, and the text of items brought to today's form."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import select, text
from sqlalchemy.engine import Connection

from mmsearch.catalog.connections import next_generation
from mmsearch.catalog.filters import under_any
from mmsearch.catalog.tables import roots
from mmsearch.plain_text import normalised, readable, spellings

NORMALISED_AT_ONCE = 500
"""Items whose text is in memory while an older library is migrated."""


def lexical_name(path: Path, known_roots: Sequence[Path] = ()) -> str:
    """What the lexical search knows of a file: its folder and its own name on the first line, then the folders above, the nearest
    first, up to the outermost of `known_roots` that it lies in. `Q3Report_final` is opened into words; other spellings follow."""
    near = Path(*path.parts[-2:]) if len(path.parts) > 2 else Path(path.name)
    root = min((root for root in known_roots if root in path.parents), key=lambda root: len(root.parts), default=None)
    above = path.parts[max(1, len(root.parts) - 1) : -2] if root is not None else ()
    return "\n".join(_in_words(display_name(Path(part))) for part in (os.fspath(near), *reversed(above)))


def _in_words(name: str) -> str:
    name = " ".join(readable(name).split("\n"))
    opened = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])", " ", name)
    return " ".join(filter(None, [name, opened if opened != name else "", spellings(name)]))


def display_name(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "replace")


def root_paths(c: Connection) -> list[Path]:
    return [Path(os.fsdecode(path)) for path in c.execute(select(roots.c.path)).scalars()]


def rename(c: Connection, former: Sequence[Path], now: Sequence[Path]) -> None:
    """The names of items again whose outermost root is another one since a scan."""
    changed = set(former) ^ set(now)
    if not changed:
        return
    condition, parameters = under_any(sorted(changed))
    found = c.execute(
        text(
            "SELECT s.id, s.path, min(i.name) AS name FROM sources s JOIN items i ON i.source_id = s.id AND i.deleted_at IS NULL"
            f" WHERE {condition} GROUP BY s.id"
        ),
        parameters,
    ).all()
    names = [(row.id, row.name, lexical_name(Path(os.fsdecode(row.path)), now)) for row in found]
    new = [{"id": source_id, "name": name} for source_id, before, name in names if name != before]
    if new:
        c.execute(text("UPDATE items SET name = :name WHERE source_id = :id AND deleted_at IS NULL"), new)
        next_generation(c)


def normalise_items(c: Connection) -> None:
    """Bring text, spellings and names of all items to what they would be if they were saved now, from what is stored. The full-text
    tables and their triggers must be out of the way."""
    known_roots = root_paths(c)
    page = text(
        "SELECT i.id, i.text, i.name, s.path FROM items i JOIN sources s ON s.id = i.source_id WHERE i.id > :after"
        " ORDER BY i.id LIMIT :count"
    )
    after_id = 0
    while rows := c.execute(page, {"after": after_id, "count": NORMALISED_AT_ONCE}).all():
        after_id = rows[-1].id
        changed = []
        for row in rows:
            new, name = normalised(row.text), lexical_name(Path(os.fsdecode(row.path)), known_roots)
            if (*new, name) != (row.text, "", row.name):
                changed.append({"id": row.id, "name": name, **new._asdict()})
        if changed:
            c.execute(
                text("UPDATE items SET text = :text, spellings = :spellings, name = :name WHERE id = :id"), changed
            )


def storable(words: str) -> str:
    """A message that SQLite can hold: no lone surrogates, no NUL."""
    return words.encode("utf-8", "replace").decode().replace("\0", " ")
