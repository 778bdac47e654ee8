"""Whether the catalog's rows agree with each other. Each function works inside a transaction of the `Catalog` method of its name."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from sqlalchemy import text
from sqlalchemy.engine import Connection

from mmsearch.catalog.stored_vectors import are_sound, is_intact, is_sound
from mmsearch.items import KINDS

LEXICAL_TABLES = {"words": "text, name, spellings", "trigrams": "text, name"}
"""The full-text tables and their columns, which are columns of `items`."""
FAULTS_NAMED = 5
BLOCK = 4096
PREVIEWS_NAME = "previews"
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


def faults(c: Connection) -> list[str]:
    """What SQLite itself finds wrong with the file and its keys; [] if nothing."""
    rows = [str(row[0]) for row in c.execute(text(f"PRAGMA integrity_check({FAULTS_NAMED})"))]
    return [row for row in rows if row != "ok" and "FTS5" not in row]  # those are derived: see `lexical_faults`


Objects = dict[str, tuple[str, str]]


def odd_objects(found: Objects, expected: Objects) -> list[str]:
    """Names of indexes and triggers that are missing or changed, and of triggers and views that are not mmsearch's."""
    wrong = {name for name, made in expected.items() if found.get(name) != made}
    return sorted(wrong | {name for name, (kind, _) in found.items() if kind != "index" and name not in expected})


def mend_objects(c: Connection, names: list[str], found: Objects, expected: Objects) -> None:
    """Make these indexes and triggers as they were made, and drop what is not mmsearch's. Raises IntegrityError for an index that
    would be unique over rows that are not."""
    for name in names:
        if name in found:
            c.exec_driver_sql(f'DROP {found[name][0]} "{name.replace(chr(34), chr(34) * 2)}"')
        if name in expected:
            c.exec_driver_sql(expected[name][1])


def meta_faults(c: Connection) -> list[str]:
    """What is wrong with the few facts about the whole library, which `mend_meta` finds again from the rows."""
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


def mend_meta(c: Connection) -> None:
    """The id anew (so snapshots are built anew), the generation after all that is used, and the model that embedded most."""
    c.execute(text("INSERT OR IGNORE INTO meta VALUES ('id', lower(hex(randomblob(8))))"))
    c.execute(
        text(
            f"INSERT INTO meta VALUES ('generation', ({_LARGEST}) + 1) ON CONFLICT (key) DO UPDATE"
            " SET value = max(CAST(value AS INTEGER), CAST(excluded.value AS INTEGER))"
        )
    )
    c.execute(text("DELETE FROM meta WHERE key = 'active_model' AND value NOT IN (SELECT id FROM models)"))
    c.execute(text(f"INSERT OR IGNORE INTO meta SELECT 'active_model', model_id FROM ({_MOST_VECTORS})"))


def orphans(c: Connection) -> dict[str, int]:
    """How many rows of which table belong to nothing."""
    found = {
        table: c.execute(text(f"SELECT count(*) FROM {table} WHERE {condition}")).scalar_one()
        for table, condition in _ORPHANS.items()
    }
    return {table: count for table, count in found.items() if count}


def delete_orphans(c: Connection) -> None:
    for table, condition in _ORPHANS.items():
        c.execute(text(f"DELETE FROM {table} WHERE {condition}"))


def misplaced(c: Connection) -> dict[str, int]:
    """How many items are shown though they are deleted or offline, hidden though indexed, or kept though their file is removed."""
    of = "SELECT count(*) FROM items i JOIN sources s ON s.id = i.source_id WHERE"
    found = {name: c.execute(text(f"{of} {condition}")).scalar_one() for name, condition in _WRONGLY.items()}
    return {name: count for name, count in found.items() if count}


def place(c: Connection, generation: int, now_s: float) -> None:
    """Show and hide items as their sources' states say."""
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


@dataclass(slots=True)
class Unreadable:
    """Items whose text, name or facts are damaged (`items`), their sources, and previews that are none of the library's."""

    items: list[int] = field(default_factory=list)
    sources: set[int] = field(default_factory=set)
    previews: list[int] = field(default_factory=list)


def unreadable(c: Connection) -> Unreadable:
    """Look at what SQLite takes as it comes: bytes that are no UTF-8, JSON that is none, kinds and previews that cannot be."""
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


def is_preview(name: str) -> bool:
    """Whether `items.preview` names a file among the library's previews, and no other."""
    place = PurePosixPath(name)
    return len(place.parts) > 1 and place.parts[0] == PREVIEWS_NAME and not {"..", "\0"} & {*place.parts, *name}


def read_again(c: Connection, source_ids: set[int]) -> None:
    """Let the next ingest read these files as if they had changed; until then their items stay as they are."""
    for source_id in sorted(source_ids):
        again = {"id": source_id, "none": f"{READ_AGAIN} {source_id}"}
        c.execute(text("UPDATE sources SET sha256 = :none, size_bytes = -1, modified_ns = -1 WHERE id = :id"), again)


def forget_previews(c: Connection, item_ids: list[int]) -> None:
    for item_id in item_ids:
        c.execute(text("UPDATE items SET preview = NULL WHERE id = :id"), {"id": item_id})


def odd_calibrations(c: Connection) -> list[tuple[int, str]]:
    """(model id, kind) of encoded generic queries that cannot be what was saved."""
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


def forget_calibrations(c: Connection, which: list[tuple[int, str]]) -> None:
    for model, kind in which:
        c.execute(
            text("DELETE FROM calibrations WHERE model_id = :model AND kind = :kind"), {"model": model, "kind": kind}
        )


def lexical_faults(c: Connection) -> list[str]:
    """What is wrong with the full-text tables: damaged, or not exactly the visible items. Needs a connection that may write."""
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
            said.append(f"the full-text table {table} lacks {gap[0]:,} items and holds {gap[1]:,} that are gone")
    return said


def rebuild_lexical(c: Connection) -> None:
    """Fill the full-text tables anew from the visible items."""
    for table, columns in LEXICAL_TABLES.items():
        c.execute(text(f"INSERT INTO {table}({table}) VALUES ('delete-all')"))
        c.execute(text(f"INSERT INTO {table}(rowid, {columns}) SELECT id, {columns} FROM items WHERE visible = 1"))


def gaps(c: Connection, model_key: str) -> Gaps:
    """What the generation of a model lacks, offline files included. Items of sources that still wait for this model do not count."""
    model = c.execute(text("SELECT id, dim, is_multi_vector FROM models WHERE key = :key"), {"key": model_key}).one()
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


def forget_embedded(c: Connection, item_ids: list[int], model_key: str) -> int:
    """Drop these items' vectors of a model and let their sources wait for it again: the next ingest embeds them.

    Returns:
        How many sources wait.
    """
    ids = {"key": model_key, "ids": f"[{','.join(map(str, item_ids))}]"}
    model = "(SELECT id FROM models WHERE key = :key)"
    chosen = "(SELECT value FROM json_each(:ids))"
    c.execute(text(f"DELETE FROM vectors WHERE model_id = {model} AND item_id IN {chosen}"), ids)
    of_sources = f"(SELECT DISTINCT source_id FROM items WHERE id IN {chosen})"
    gone = c.execute(text(f"DELETE FROM embedded WHERE model_id = {model} AND source_id IN {of_sources}"), ids)
    return gone.rowcount


def recount(c: Connection, source_ids: list[int]) -> None:
    """Set how many items these sources have."""
    for source_id in source_ids:
        c.execute(
            text(
                "UPDATE sources SET item_count ="
                " (SELECT count(*) FROM items WHERE source_id = :id AND deleted_at IS NULL) WHERE id = :id"
            ),
            {"id": source_id},
        )


def used_previews(c: Connection) -> set[str]:
    """Paths, relative to the library, of the previews of all items that are not deleted for good."""
    return set(c.execute(text("SELECT DISTINCT preview FROM items WHERE preview IS NOT NULL")).scalars())
