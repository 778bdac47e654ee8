"""What was read in pages and pictures: kept by content, so that nothing is read twice, and put into the items that show it.

A result belongs to a file's SHA-256 and an ordinal. Copies of the file, and the file at another place, share it.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sqlalchemy import text
from sqlalchemy.engine import Connection

from mmsearch.catalog.connections import Database, next_generation
from mmsearch.catalog.dialect.sqlite import listed, members
from mmsearch.catalog.filters import under_any
from mmsearch.catalog.rows import ErrorRow
from mmsearch.catalog.vectors import checked_items, checksum, to_blob
from mmsearch.items import Item, Kind
from mmsearch.plain_text import described, normalised, readable

if TYPE_CHECKING:
    from mmsearch.media.ocr import Line, Recognised

SCALE = 10_000
"""Places are stored as whole numbers of this fraction of the picture's side."""


class Place(NamedTuple):
    """A page or picture by content."""

    sha256: str
    ordinal: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """An item whose print was not read yet. `has_print` is None where a reader has still to look whether there is any."""

    path: Path
    sha256: str
    kind: Kind
    ordinal: int
    has_print: bool | None
    description: str = ""

    @property
    def place(self) -> Place:
        return Place(self.sha256, self.ordinal)


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of reading a place, to be saved.

    Attributes:
        recognised: None where there is nothing to read, or where it failed.
        text: the items' text from now on, but for their descriptions, which stay. None leaves it as it is.
        vector: of the picture with that text, float32 [dim] or [tokens, dim]. None leaves the stored one.
        error: type and reason, where it could not be read.
    """

    place: Place
    recognised: Recognised | None = None
    text: str | None = None
    vector: np.ndarray | None = None
    error: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class RecognisedText:
    """A stored result. `lines` are None where the row is damaged."""

    engine: str
    version: str
    languages: str
    text: str
    lines: list[Line] | None

    def record(self) -> dict[str, Any]:
        """JSON values: the engine, and each line with its box (shares of the picture's sides) and its words' edges."""
        return {
            "engine": self.engine,
            "version": self.version,
            "languages": self.languages,
            "lines": [
                {
                    "text": line.text,
                    "box": list(line.box),
                    "confidence": line.confidence,
                    "words": [{"text": word.text, "left": word.left, "right": word.right} for word in line.words],
                }
                for line in self.lines or ()
            ],
        }


_CURRENT = f"r.languages = :languages AND (r.engine = r.preferred OR r.preferred NOT IN {members('engines')})"
"""A result that stands: of the languages asked for, by the engine that suits the picture or while that one is not installed."""


class Print:
    """`Catalog.print`: which pages and pictures wait for being read, and what was read in them."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def waiting(
        self, roots: Sequence[Path], *, languages: str, engines: Sequence[str], retry_failed: bool = False
    ) -> list[Waiting]:
        """The pages and pictures under `roots` whose print is still to be read, in order of worth. What shows print comes before what must be looked at,
        first pages before later ones, pages before pictures."""
        condition, parameters = under_any(roots)
        with self._db.reading() as c:
            rows = c.execute(
                text(
                    "SELECT s.path, s.sha256, i.kind, i.ordinal, i.has_print, i.description FROM items i JOIN sources s ON s.id = i.source_id"
                    f" WHERE i.visible = 1 AND s.state = 'indexed' AND i.kind IN ('page', 'image') AND ({condition})"
                    " AND coalesce(i.has_print, 1) = 1 AND s.sha256 != ''"
                    " AND NOT EXISTS (SELECT 1 FROM recognised r WHERE r.sha256 = s.sha256 AND r.ordinal = i.ordinal"
                    f" AND {_CURRENT} AND (r.error_type IS NULL OR NOT :retry))"
                    " ORDER BY i.has_print IS NULL, i.ordinal, i.kind = 'image', i.id"
                ),
                {
                    **parameters,
                    "languages": languages,
                    "engines": listed(engines),
                    "retry": int(retry_failed),
                },
            )
            return [
                Waiting(
                    Path(os.fsdecode(path)),
                    sha256,
                    kind,
                    ordinal,
                    None if has_print is None else bool(has_print),
                    description,
                )
                for path, sha256, kind, ordinal, has_print, description in rows
            ]

    def unjudged_pages(self, roots: Sequence[Path], *, after_id: int = 0, count: int = 1000) -> list[tuple[int, str]]:
        """(id, text) of pages of which nobody has said yet whether their print must be read, by id; for `mark`."""
        condition, parameters = under_any(roots)
        with self._db.reading() as c:
            return list(
                c.execute(
                    text(
                        "SELECT i.id, i.text FROM items i JOIN sources s ON s.id = i.source_id WHERE i.visible = 1 AND i.kind = 'page'"
                        f" AND i.has_print IS NULL AND i.id > :after AND ({condition}) ORDER BY i.id LIMIT :count"
                    ),
                    {**parameters, "after": after_id, "count": count},
                ).all()
            )

    def mark(self, ids: Collection[int], *, has_print: bool) -> None:
        """Say whether items show print that their text lacks."""
        if not ids:
            return
        with self._db.transaction() as c:
            c.execute(
                text(f"UPDATE items SET has_print = :value WHERE id IN {members('ids')}"),
                {"value": int(has_print), "ids": listed(ids)},
            )

    def save(self, readings: Sequence[Reading], languages: str, model_key: str) -> int:
        """Save what was read. In one transaction the results are kept, and the items of that content get their text and vector.

        Only vectors that `model_key` has of these items already are replaced; those of other models stay.

        Returns:
            How many items changed their text.

        Raises:
            ValueError: a vector is not finite or not of unit length.
        """
        if not readings:
            return 0
        with self._db.transaction() as c:
            generation = next_generation(c)
            return sum(_save(c, one, languages, model_key, generation) for one in readings)

    def texts(self, places: Collection[Place]) -> dict[Place, str]:
        """What was read in these places before, where any text was found."""
        if not places:
            return {}
        with self._db.reading() as c:
            return _texts(c, places)

    def of(self, item: Item) -> RecognisedText | None:
        """What was read in an item, with the places of its lines and words; None where nothing was read."""
        with self._db.reading() as c:
            sha256 = c.execute(text("SELECT sha256 FROM sources WHERE id = :id"), {"id": item.source_id}).scalar()
            return None if sha256 is None else _of_place(c, Place(sha256, item.ordinal))

    def errors(self) -> list[ErrorRow]:
        """Pages and pictures whose print could not be read, by path; they stay searchable by sight."""
        with self._db.reading() as c:
            return [
                ErrorRow(source_id, Path(os.fsdecode(path)), type_, _unread(kind, page_number, reason), at)
                for source_id, path, kind, page_number, type_, reason, at in _errors(c)
            ]


def _save(c: Connection, reading: Reading, languages: str, model_key: str, generation: int) -> int:
    """Store a result and put it into every item of that content. Returns how many items changed their text."""
    parameters: dict[str, Any] = {"sha256": reading.place.sha256, "ordinal": reading.place.ordinal}
    ids = (
        "(SELECT i.id FROM items i JOIN sources s ON s.id = i.source_id WHERE s.sha256 = :sha256 AND s.state IN ('indexed', 'offline')"
        " AND i.ordinal = :ordinal AND i.kind IN ('page', 'image') AND i.deleted_at IS NULL)"
    )
    c.execute(
        text("DELETE FROM recognised WHERE sha256 = :sha256 AND ordinal = :ordinal AND error_type IS NOT NULL"),
        parameters,
    )
    if reading.recognised is None and reading.error is None:  # there is no print in it
        c.execute(text(f"UPDATE items SET has_print = 0 WHERE id IN {ids}"), parameters)
        return 0
    read, (error_type, error_reason) = reading.recognised, reading.error or (None, None)
    row = {
        **parameters,
        "engine": read.engine if read else "",
        "version": read.version if read else "",
        "preferred": read.preferred if read else "",
        "languages": languages,
        "text": readable(read.text) if read else "",
        "lines": to_bytes(read.lines if read else ()),
        "error_type": error_type,
        "error_reason": error_reason,
        "read_at": time.time(),
    }
    names = ", ".join(row)
    kept = ", ".join(f"{name} = excluded.{name}" for name in row if name not in parameters)
    c.execute(
        text(
            f"INSERT INTO recognised ({names}) VALUES ({', '.join(f':{name}' for name in row)})"
            f" ON CONFLICT (sha256, ordinal, engine, version, languages) DO UPDATE SET {kept}"
        ),
        row,
    )
    if reading.text is None:
        return 0
    rows = c.execute(text(f"SELECT id, description FROM items WHERE id IN {ids}"), parameters).all()
    for item_id, description in rows:
        c.execute(
            text(
                "UPDATE items SET text = :text, spellings = :spellings, text_source = 'ocr', has_print = 1 WHERE id = :id"
            ),
            {"id": item_id, **normalised(described(reading.text, description))._asdict()},
        )
    if reading.vector is not None:
        (vector,) = checked_items([reading.vector])
        data = to_blob(vector)
        c.execute(
            text(
                "UPDATE vectors SET data = :data, checksum = :checksum, generation = :generation"
                f" WHERE model_id = (SELECT id FROM models WHERE key = :key) AND item_id IN {ids}"
            ),
            {**parameters, "data": data, "checksum": checksum(data), "generation": generation, "key": model_key},
        )
    return len(rows)


def _texts(c: Connection, places: Iterable[Place]) -> dict[Place, str]:
    """What was read in these places, where it was and anything was found; of several results the one read last."""
    hashes = listed(sorted({place.sha256 for place in places}))
    rows = c.execute(
        text(
            f"SELECT sha256, ordinal, text FROM recognised WHERE sha256 IN {members('hashes')} AND text != ''"
            " ORDER BY read_at"
        ),
        {"hashes": hashes},
    )
    return {Place(row[0], row[1]): row[2] for row in rows}


def _of_place(c: Connection, place: Place) -> RecognisedText | None:
    """The result read last in a place, with its lines."""
    row = c.execute(
        text(
            "SELECT engine, version, languages, text, lines FROM recognised WHERE sha256 = :sha256 AND ordinal = :ordinal"
            " AND error_type IS NULL ORDER BY text = '', read_at DESC LIMIT 1"
        ),
        place._asdict(),
    ).first()
    return None if row is None else RecognisedText(row[0], row[1], row[2], row[3], from_bytes(row[4]))


def _errors(c: Connection) -> list[Any]:
    """Rows (source id, path, kind, page number, type, reason, at) of what could not be read, of files that are held."""
    return list(
        c.execute(
            text(
                "SELECT s.id, s.path, i.kind, i.page_number, r.error_type, r.error_reason, r.read_at FROM recognised r"
                " JOIN sources s ON s.sha256 = r.sha256 AND s.state = 'indexed'"
                " JOIN items i ON i.source_id = s.id AND i.ordinal = r.ordinal AND i.deleted_at IS NULL"
                " WHERE r.error_type IS NOT NULL ORDER BY s.path, r.ordinal"
            )
        ).all()
    )


def to_bytes(lines: Sequence[Line]) -> bytes:
    """Lines as the database holds them: compressed JSON, places as whole numbers of 1 / `SCALE`."""
    rows = [
        [
            [round(value * SCALE) for value in line.box],
            line.confidence,
            [[word.text, round(word.left * SCALE), round(word.right * SCALE)] for word in line.words],
        ]
        for line in lines
    ]
    return zlib.compress(json.dumps(rows, ensure_ascii=True, separators=(",", ":")).encode("ascii"))


def from_bytes(data: bytes) -> list[Line] | None:
    """The reverse; None for damaged bytes."""
    from mmsearch.media.ocr import Line, Word

    try:
        return [
            Line(
                tuple(Word(word, left / SCALE, right / SCALE) for word, left, right in words),
                tuple(value / SCALE for value in box),  # type: ignore[arg-type]
                confidence,
            )
            for box, confidence, words in json.loads(zlib.decompress(data))
        ]
    except (zlib.error, ValueError, TypeError):
        return None


def _unread(kind: Kind, page_number: int | None, reason: str) -> str:
    where = f"the print of page {page_number}" if kind == "page" else "its print"
    return f"{where} was not read: {reason}"
