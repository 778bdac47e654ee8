"""Whether the catalog's rows agree with each other. Each function works inside a transaction of the `Catalog` method of its name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sqlalchemy import text
from sqlalchemy.engine import Connection

LEXICAL_TABLES = ("words", "trigrams")
FAULTS_NAMED = 5
UNIT_TOLERANCE = 2e-3
"""float16 rounds a unit vector's length by so much at most."""
BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Gaps:
    """Items and sources whose rows are not complete.

    Attributes:
        without_vector: ids of visible items that the model has no vector of. odd_vectors: ids whose vector has a wrong length, is not
            finite or not of unit length.
        miscounted: ids of indexed sources with another number of items than they say.
    """

    without_vector: list[int]
    odd_vectors: list[int]
    miscounted: list[int]


def faults(c: Connection) -> list[str]:
    """What SQLite itself finds wrong with the file and its keys; [] if nothing."""
    rows = [str(row[0]) for row in c.execute(text(f"PRAGMA integrity_check({FAULTS_NAMED})"))]
    said = [row for row in rows if row != "ok" and "FTS5" not in row]  # those are derived: see `lexical_faults`
    for row in c.execute(text("PRAGMA foreign_key_check")).fetchmany(FAULTS_NAMED):
        said.append(f"row {row[1]} of {row[0]} belongs to nothing in {row[2]}")
    return said


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
    for table in LEXICAL_TABLES:
        c.execute(text(f"INSERT INTO {table}({table}) VALUES ('delete-all')"))
        c.execute(text(f"INSERT INTO {table}(rowid, text, name) SELECT id, text, name FROM items WHERE visible = 1"))


def gaps(c: Connection, model_key: str) -> Gaps:
    """What the generation of a model lacks. Visible items of sources that still wait for this model do not count."""
    model = c.execute(text("SELECT id, dim FROM models WHERE key = :key"), {"key": model_key}).one()
    missing = text(
        "SELECT items.id FROM items JOIN embedded e ON e.source_id = items.source_id AND e.model_id = :model"
        " WHERE items.visible = 1 AND NOT EXISTS"
        " (SELECT 1 FROM vectors WHERE vectors.item_id = items.id AND vectors.model_id = :model) ORDER BY items.id"
    )
    without = list(c.execute(missing, {"model": model.id}).scalars())
    miscounted = text(
        "SELECT s.id FROM sources s WHERE s.state = 'indexed' AND s.item_count !="
        " (SELECT count(*) FROM items WHERE items.source_id = s.id AND items.deleted_at IS NULL) ORDER BY s.id"
    )
    return Gaps(without, _odd_vectors(c, model.id, model.dim), list(c.execute(miscounted).scalars()))


def _odd_vectors(c: Connection, model_id: int, dim: int) -> list[int]:
    odd: list[int] = []
    rows = c.execute(text("SELECT item_id, data FROM vectors WHERE model_id = :model"), {"model": model_id})
    while block := rows.fetchmany(BLOCK):
        for item_id, data in block:
            if not data or len(data) % (2 * dim):
                odd.append(item_id)
                continue
            lengths = np.linalg.norm(np.frombuffer(data, "<f2").reshape(-1, dim).astype(np.float32), axis=1)
            if not (np.abs(lengths - 1) <= UNIT_TOLERANCE).all():  # NaN is not within either
                odd.append(item_id)
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
