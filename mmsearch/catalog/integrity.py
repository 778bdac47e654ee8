"""Whether the catalog's rows agree with each other, and mending them where they do not."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from mmsearch.catalog.connections import Database, next_generation
from mmsearch.catalog.dialect import sqlite
from mmsearch.catalog.dialect.sqlite import listed, members
from mmsearch.catalog.previews import is_preview
from mmsearch.catalog.vectors import are_sound, is_intact, is_sound
from mmsearch.errors import CorruptIndex
from mmsearch.items import KINDS

LEXICAL_TABLES = {"words": "text, name, spellings", "trigrams": "text, name"}
"""The full-text tables and their columns, which are columns of `items`."""
FAULTS_NAMED = 5
BLOCK = 4096
READ_AGAIN = "read again"
"""In the place of a source's SHA-256: whatever the file holds now is something else."""

_ORPHANS = {
    "items": "source_id NOT IN (SELECT id FROM sources)",
    "vectors": "item_id NOT IN (SELECT id FROM items) OR model_id NOT IN (SELECT id FROM models)",
    "embedded": "source_id NOT IN (SELECT id FROM sources) OR model_id NOT IN (SELECT id FROM models)",
    "calibrations": "model_id NOT IN (SELECT id FROM models)",
}
_LARGEST = (
    "SELECT max(coalesce((SELECT max(generation) FROM items), 0), coalesce((SELECT max(generation) FROM vectors), 0))"
)
_MOST_VECTORS = "SELECT model_id FROM vectors GROUP BY model_id ORDER BY count(*) DESC, model_id LIMIT 1"
_WRONGLY = {
    "shown": "i.visible = 1 AND (i.deleted_at IS NOT NULL OR s.state IN ('removed', 'offline'))",
    "hidden": "i.visible = 0 AND i.deleted_at IS NULL AND s.state = 'indexed'",
    "kept": "i.deleted_at IS NULL AND s.state = 'removed'",
}
"""Items whose `visible` and `deleted_at` are not what their source's state makes them."""


@dataclass(frozen=True, slots=True)
class Gaps:
    """Items and sources whose rows are not complete.

    Attributes:
        without_vector: ids of items, offline ones too, that the model has no vector of. odd_vectors: ids whose vector has a wrong length, is not
            finite or not of unit length, or is not what its checksum says.
        miscounted: ids of indexed and offline sources with another number of items than they say.
    """

    without_vector: list[int]
    odd_vectors: list[int]
    miscounted: list[int]


@dataclass(slots=True)
class Unreadable:
    """Items whose text, name or facts are damaged (`items`), their sources, and previews that are none of the library's."""

    items: list[int] = field(default_factory=list)
    sources: set[int] = field(default_factory=set)
    previews: list[int] = field(default_factory=list)


Objects = dict[str, tuple[str, str]]


class Integrity:
    """Whether an opened catalog's rows agree with each other, and mending them: for `mmsearch doctor`."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def faults(self) -> list[str]:
        """What is wrong with the database itself: nothing derived, and nothing that could be mended here."""
        with self._db.reading() as c:
            rows = [str(row[0]) for row in c.execute(text(f"PRAGMA integrity_check({FAULTS_NAMED})"))]
            return [row for row in rows if row != "ok" and "FTS5" not in row]  # those are derived: see `lexical_faults`

    def odd_objects(self) -> list[str]:
        """Names of indexes and triggers that are missing or changed, and of triggers and views that are not mmsearch's."""
        with self._db.reading() as c:
            return _odd(sqlite.objects(c), sqlite.new_objects())

    def mend_objects(self, names: list[str]) -> None:
        """Make them again, or drop them. Raises CorruptIndex where rows stand against it."""
        try:
            with self._db.transaction() as c:
                _mend(c, names, sqlite.objects(c), sqlite.new_objects())
        except IntegrityError as error:
            raise CorruptIndex(
                f"{self._db.file} holds rows twice that must be there once ({error.orig}): restore a backup, "
                "or move it away and ingest again"
            ) from error

    def meta_faults(self) -> list[str]:
        """What is wrong with the catalog's id, its generation or its active model, which `mend_meta` finds again."""
        with self._db.reading() as c:
            values: dict[str, str] = dict(c.execute(text("SELECT key, value FROM meta")).all())
            largest = int(c.execute(text(_LARGEST)).scalar_one())
            said = [] if values.get("id") else ["the catalog has no id"]
            generation = values.get("generation", "")
            if not generation.isdigit():
                said.append(f"the generation is {generation or 'missing'}")
            elif int(generation) < largest:
                said.append(f"the generation is {generation}, but rows are of {largest}")
            has_vectors = c.execute(text("SELECT 1 FROM vectors LIMIT 1")).first() is not None
            active = c.execute(text("SELECT 1 FROM models WHERE id = :id"), {"id": values.get("active_model")}).first()
            if active is None and (has_vectors or "active_model" in values):
                said.append("no model answers queries")
            return said

    def mend_meta(self) -> None:
        """The id again (so snapshots are rebuilt), the generation after all that is used, and the model that embedded most."""
        with self._db.transaction() as c:
            c.execute(text("INSERT OR IGNORE INTO meta VALUES ('id', lower(hex(randomblob(8))))"))
            c.execute(
                text(
                    f"INSERT INTO meta VALUES ('generation', ({_LARGEST}) + 1) ON CONFLICT (key) DO UPDATE"
                    " SET value = max(CAST(value AS INTEGER), CAST(excluded.value AS INTEGER))"
                )
            )
            c.execute(text("DELETE FROM meta WHERE key = 'active_model' AND value NOT IN (SELECT id FROM models)"))
            c.execute(text(f"INSERT OR IGNORE INTO meta SELECT 'active_model', model_id FROM ({_MOST_VECTORS})"))

    def orphans(self) -> dict[str, int]:
        """How many rows of which table belong to nothing."""
        with self._db.reading() as c:
            found = {
                table: c.execute(text(f"SELECT count(*) FROM {table} WHERE {condition}")).scalar_one()
                for table, condition in _ORPHANS.items()
            }
            return {table: count for table, count in found.items() if count}

    def delete_orphans(self) -> None:
        with self._db.transaction() as c:
            next_generation(c)
            for table, condition in _ORPHANS.items():
                c.execute(text(f"DELETE FROM {table} WHERE {condition}"))

    def misplaced(self) -> dict[str, int]:
        """How many items are shown, hidden or kept though their file's state says otherwise."""
        with self._db.reading() as c:
            of = "SELECT count(*) FROM items i JOIN sources s ON s.id = i.source_id WHERE"
            found = {name: c.execute(text(f"{of} {condition}")).scalar_one() for name, condition in _WRONGLY.items()}
            return {name: count for name, count in found.items() if count}

    def place_items(self) -> None:
        """Show and hide items as their files' states say."""
        with self._db.transaction() as c:
            generation, now_s = next_generation(c), time.time()
            for name, change in (
                ("kept", "visible = 0, deleted_at = :now"),
                ("shown", "visible = 0"),
                ("hidden", "visible = 1"),
            ):
                c.execute(
                    text(
                        f"UPDATE items SET {change}, generation = :generation WHERE id IN"
                        f" (SELECT i.id FROM items i JOIN sources s ON s.id = i.source_id WHERE {_WRONGLY[name]})"
                    ),
                    {"now": now_s, "generation": generation},
                )

    def unreadable(self) -> Unreadable:
        """Items whose text or facts are damaged, and previews that are none of the library's."""
        with self._db.reading() as c:
            found = Unreadable()
            rows = c.execute(
                text(
                    "SELECT id, source_id, kind, preview, CAST(text AS BLOB), CAST(name AS BLOB), CAST(meta AS BLOB),"
                    " CAST(spellings AS BLOB) FROM items"
                    " WHERE deleted_at IS NULL"
                )
            )
            while block := rows.fetchmany(BLOCK):
                for item_id, source_id, kind, preview, *words in block:
                    if kind not in KINDS or not all(map(_is_text, words)) or not _is_facts(words[2]):
                        found.items.append(item_id)
                        found.sources.add(source_id)
                    if preview is not None and not is_preview(preview):
                        found.previews.append(item_id)
            return found

    def read_again(self, source_ids: set[int]) -> None:
        """Let the next ingest read these files as if they had changed; until then their items stay."""
        with self._db.transaction() as c:
            for source_id in sorted(source_ids):
                again = {"id": source_id, "none": f"{READ_AGAIN} {source_id}"}
                c.execute(
                    text("UPDATE sources SET sha256 = :none, size_bytes = -1, modified_ns = -1 WHERE id = :id"), again
                )

    def forget_previews(self, item_ids: list[int]) -> None:
        with self._db.transaction() as c:
            for item_id in item_ids:
                c.execute(text("UPDATE items SET preview = NULL WHERE id = :id"), {"id": item_id})

    def odd_calibrations(self) -> list[tuple[int, str]]:
        """(model id, kind) of damaged `generic_queries`."""
        with self._db.reading() as c:
            rows = c.execute(
                text(
                    "SELECT model_id, kind, data, dim, is_multi_vector FROM calibrations JOIN models ON models.id = model_id"
                    " ORDER BY model_id, kind"
                )
            )
            return [
                (row.model_id, row.kind)
                for row in rows
                if not (are_sound if row.is_multi_vector else is_sound)(row.data, row.dim)
            ]

    def forget_calibrations(self, which: list[tuple[int, str]]) -> None:
        """They are encoded again when they are next needed."""
        with self._db.transaction() as c:
            for model, kind in which:
                c.execute(
                    text("DELETE FROM calibrations WHERE model_id = :model AND kind = :kind"),
                    {"model": model, "kind": kind},
                )

    def lexical_faults(self) -> list[str]:
        """What is wrong with the full-text tables, which `rebuild_lexical` fills again."""
        with self._db.transaction() as c:
            said = []
            for table in LEXICAL_TABLES:
                try:
                    c.execute(text(f"INSERT INTO {table}({table}) VALUES ('integrity-check')"))
                except Exception as error:  # SQLite's own, or what `schema` makes of it
                    said.append(f"the full-text table {table} is damaged ({str(error).splitlines()[0]})")
                    continue
                held = f"SELECT id FROM {table}_docsize"
                gap = c.execute(
                    text(
                        f"SELECT (SELECT count(*) FROM items WHERE visible = 1 AND id NOT IN ({held})),"
                        f" (SELECT count(*) FROM {table}_docsize WHERE id NOT IN (SELECT id FROM items WHERE visible = 1))"
                    )
                ).one()
                if any(gap):
                    said.append(
                        f"the full-text table {table} lacks {gap[0]:,} items and holds {gap[1]:,} that are gone"
                    )
            return said

    def rebuild_lexical(self) -> None:
        """Fill the full-text tables again from the visible items."""
        with self._db.transaction() as c:
            for table, columns in LEXICAL_TABLES.items():
                c.execute(text(f"INSERT INTO {table}({table}) VALUES ('delete-all')"))
                c.execute(
                    text(f"INSERT INTO {table}(rowid, {columns}) SELECT id, {columns} FROM items WHERE visible = 1")
                )

    def gaps(self, model_key: str) -> Gaps:
        """Items without a sound vector of a model, and sources that count their items wrongly."""
        with self._db.reading() as c:
            model = c.execute(
                text("SELECT id, dim, is_multi_vector FROM models WHERE key = :key"), {"key": model_key}
            ).one()
            missing = text(
                "SELECT items.id FROM items JOIN embedded e ON e.source_id = items.source_id AND e.model_id = :model"
                " WHERE items.deleted_at IS NULL AND NOT EXISTS"
                " (SELECT 1 FROM vectors WHERE vectors.item_id = items.id AND vectors.model_id = :model) ORDER BY items.id"
            )
            without = list(c.execute(missing, {"model": model.id}).scalars())
            miscounted = text(
                "SELECT s.id FROM sources s WHERE s.state IN ('indexed', 'offline') AND s.item_count !="
                " (SELECT count(*) FROM items WHERE items.source_id = s.id AND items.deleted_at IS NULL) ORDER BY s.id"
            )
            return Gaps(
                without,
                _odd_vectors(c, model.id, model.dim, is_one=not model.is_multi_vector),
                list(c.execute(miscounted).scalars()),
            )

    def forget_embedded(self, item_ids: Sequence[int], model_key: str) -> int:
        """Let the sources of these items wait for the model again. Returns how many they are."""
        with self._db.transaction() as c:
            next_generation(c)
            ids = {"key": model_key, "ids": listed(item_ids)}
            model = "(SELECT id FROM models WHERE key = :key)"
            chosen = members("ids")
            c.execute(text(f"DELETE FROM vectors WHERE model_id = {model} AND item_id IN {chosen}"), ids)
            of_sources = f"(SELECT DISTINCT source_id FROM items WHERE id IN {chosen})"
            gone = c.execute(text(f"DELETE FROM embedded WHERE model_id = {model} AND source_id IN {of_sources}"), ids)
            return gone.rowcount

    def recount(self, source_ids: Sequence[int]) -> None:
        """Set how many items these sources have."""
        with self._db.transaction() as c:
            for source_id in source_ids:
                c.execute(
                    text(
                        "UPDATE sources SET item_count ="
                        " (SELECT count(*) FROM items WHERE source_id = :id AND deleted_at IS NULL) WHERE id = :id"
                    ),
                    {"id": source_id},
                )

    def used_previews(self) -> set[str]:
        """The previews of all items, deleted ones included until `compact`, relative to the library."""
        with self._db.reading() as c:
            return set(c.execute(text("SELECT DISTINCT preview FROM items WHERE preview IS NOT NULL")).scalars())


def _odd(found: Objects, expected: Objects) -> list[str]:
    """Names of indexes and triggers that are missing or changed, and of triggers and views that are not mmsearch's."""
    wrong = {name for name, made in expected.items() if found.get(name) != made}
    return sorted(wrong | {name for name, (kind, _) in found.items() if kind != "index" and name not in expected})


def _mend(c: Connection, names: list[str], found: Objects, expected: Objects) -> None:
    """Make these indexes and triggers as they were made, and drop what is not mmsearch's. Raises IntegrityError for an index that
    would be unique over rows that are not."""
    for name in names:
        if name in found:
            c.exec_driver_sql(f'DROP {found[name][0]} "{name.replace(chr(34), chr(34) * 2)}"')
        if name in expected:
            c.exec_driver_sql(expected[name][1])


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode()
    except UnicodeDecodeError:
        return False


def _is_facts(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except ValueError:
        return False


def _odd_vectors(c: Connection, model_id: int, dim: int, *, is_one: bool) -> list[int]:
    odd: list[int] = []
    rows = c.execute(text("SELECT item_id, data, checksum FROM vectors WHERE model_id = :model"), {"model": model_id})
    while block := rows.fetchmany(BLOCK):
        odd += [
            item_id
            for item_id, data, stored in block
            if not (is_intact(data, stored) and is_sound(data, dim, is_one=is_one))
        ]
    return odd
