"""The vectors as the catalog keeps them: float16 on disk, float32 of unit length for everybody else."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import text
from sqlalchemy.engine import Connection

from mmsearch.catalog.connections import Database
from mmsearch.catalog.connections import generation as current_generation
from mmsearch.catalog.dialect import sqlite
from mmsearch.catalog.dialect.sqlite import listed, members
from mmsearch.catalog.filters import read_ids
from mmsearch.catalog.models import model_id, shape_of
from mmsearch.catalog.tables import calibrations
from mmsearch.items import Kind, Vectors

UNIT_TOLERANCE = 1e-3
"""How far from 1 the length of a vector may be when it is saved."""
STORED_TOLERANCE = 2e-3
"""The same once it is stored: float16 rounds its length too."""
NO_IDS = np.empty(0, np.int64)

_OF_KIND = (
    " FROM items i JOIN vectors v ON v.item_id = i.id AND v.model_id = (SELECT id FROM models WHERE key = :key)"
    " WHERE i.kind = :kind AND i.visible = 1"
)


@dataclass(frozen=True, slots=True)
class Tail:
    """What changed for one model and kind since a generation.

    Attributes:
        generation: the one that a store has reached with this.
        added: int64 [n], new or changed; `vectors`: float16 [n, dim], or None for a multi-vector model, whose are too large to be read
            at once: `StoredVectors.of` gives them in blocks.
        removed: int64, no longer visible.
        is_whole: `added` is everything there is; whatever else a store holds must go.
    """

    generation: int
    added: np.ndarray
    vectors: np.ndarray | None
    removed: np.ndarray
    is_whole: bool = False


class StoredVectors:
    """`Catalog.vectors`: vectors per model, a generation each."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def blocks(
        self, model_key: str, kind: Kind, *, after_id: int = 0, block: int = 4096
    ) -> Iterator[tuple[np.ndarray, Vectors]]:
        """Blocks of (ids int64 [n] ascending, their `Vectors`) of the visible items of a kind."""
        while True:
            with self._db.reading() as c:
                ids, vectors = block_after(c, model_key, kind, after_id, block)
            if not len(ids):
                return
            yield ids, vectors
            after_id = int(ids[-1])

    def tail(self, model_key: str, kind: Kind, since: int) -> Tail:
        """What a vector store that has caught up with generation `since` lacks, read in one transaction."""
        with self._db.reading() as c:
            numbers: dict[str, str] = dict(
                c.execute(text("SELECT key, value FROM meta WHERE key IN ('generation', 'compacted')")).all()
            )
            generation, compacted = int(numbers["generation"]), int(numbers.get("compacted", 0))
            if generation == since:
                return Tail(generation, NO_IDS, np.empty((0, 0), np.float16), NO_IDS)
            parameters: dict[str, Any] = {"key": model_key, "kind": kind, "since": since}
            changed, removed = "", NO_IDS
            is_whole = since < max(1, compacted)  # what was deleted for good before that left no trace to follow
            if not is_whole:
                # Two indexed look-ups, not one scan over everything.
                changed = (
                    " AND i.id IN (SELECT id FROM items WHERE generation > :since"
                    " UNION SELECT item_id FROM vectors WHERE generation > :since"
                    " AND model_id = (SELECT id FROM models WHERE key = :key))"
                )
                gone = "SELECT id FROM items WHERE generation > :since AND kind = :kind AND visible = 0"
                removed = read_ids(c, gone, parameters)
            dim, is_multi = shape_of(c, model_key)
            columns = "i.id" if is_multi else "i.id, v.data, v.checksum"
            rows = c.execute(text(f"SELECT {columns}{_OF_KIND}{changed} ORDER BY i.id"), parameters).all()
            return Tail(generation, _ids(rows), None if is_multi else _halves(rows, dim), removed, is_whole)

    def sums(self, model_key: str, kind: Kind, generation: int) -> tuple[int, int] | None:
        """Number and sum of the ids that a store at this generation must hold; None if the catalog has gone on since."""
        with self._db.reading() as c:
            if current_generation(c) != generation:
                return None
            row = c.execute(text(f"SELECT count(*), total(i.id){_OF_KIND}"), {"key": model_key, "kind": kind}).one()
            return row[0], int(row[1])

    def of(self, ids: Sequence[int] | np.ndarray, model_key: str) -> tuple[np.ndarray, Vectors]:
        """The ids (int64, ascending) among `ids` that are visible and have vectors of this model, and those `Vectors`."""
        with self._db.reading() as c:
            rows = c.execute(
                text(
                    "SELECT v.item_id, v.data, v.checksum FROM vectors v JOIN items i ON i.id = v.item_id"
                    " WHERE v.model_id = (SELECT id FROM models WHERE key = :key) AND i.visible = 1"
                    f" AND v.item_id IN {members('ids')} ORDER BY v.item_id"
                ),
                {"key": model_key, "ids": listed(ids)},
            ).all()
            return _ids(rows), _vectors(c, rows, model_key)

    def counts(self, model_key: str) -> dict[str, int]:
        """How many visible items of each kind have vectors of this model."""
        query = (
            "SELECT i.kind, count(*) FROM vectors v JOIN items i ON i.id = v.item_id WHERE i.visible = 1"
            " AND v.model_id = (SELECT id FROM models WHERE key = :key) GROUP BY i.kind"
        )
        with self._db.reading() as c:
            return dict(c.execute(text(query), {"key": model_key}).all())

    def byte_count(self, model_key: str) -> int:
        """What a model's vectors of visible items take in the catalog."""
        with self._db.reading() as c:
            query = (
                "SELECT coalesce(sum(length(v.data)), 0) FROM vectors v JOIN items i ON i.id = v.item_id"
                " WHERE i.visible = 1 AND v.model_id = (SELECT id FROM models WHERE key = :key)"
            )
            return c.execute(text(query), {"key": model_key}).scalar_one()

    def generic_queries(self, model_key: str, kind: Kind, version: str) -> Vectors | None:
        """The encoded generic queries that `save_generic_queries` stored; None if absent, outdated or damaged."""
        with self._db.reading() as c:
            row = c.execute(
                text(
                    "SELECT data, dim, is_multi_vector FROM calibrations JOIN models ON models.id = model_id"
                    " WHERE key = :key AND kind = :kind AND version = :version"
                ),
                {"key": model_key, "kind": kind, "version": version},
            ).first()
        if row is None:
            return None
        if row.is_multi_vector:
            return many_from_blob(row.data, row.dim) if are_sound(row.data, row.dim) else None
        return from_blob(row.data, row.dim) if is_sound(row.data, row.dim) else None

    def save_generic_queries(self, model_key: str, kind: Kind, version: str, encoded: Vectors) -> None:
        """Keep what calibration needs of a known model, the queries' `Vectors`, so that no later search encodes it again."""
        checked = checked_items(list(encoded))
        is_multi = checked[0].ndim == 2
        data = many_to_blob(checked) if is_multi else to_blob(np.stack(checked))
        values = {"version": version, "data": data}
        with self._db.transaction() as c:
            if not shape_of(c, model_key)[0]:
                return  # it was removed while a search was at work
            model = model_id(c, model_key, checked[0].shape[-1], is_multi_vector=is_multi)
            new = sqlite.upsert(calibrations).values(model_id=model, kind=kind, **values)
            c.execute(new.on_conflict_do_update(index_elements=["model_id", "kind"], set_=values))


def block_after(c: Connection, model_key: str, kind: Kind, after_id: int, limit: int) -> tuple[np.ndarray, Vectors]:
    """The next `limit` visible items of a kind: ids int64 [n] ascending, and their `Vectors`."""
    rows = c.execute(
        text(f"SELECT i.id, v.data, v.checksum{_OF_KIND} AND i.id > :after ORDER BY i.id LIMIT :limit"),
        {"key": model_key, "kind": kind, "after": after_id, "limit": limit},
    ).all()
    return _ids(rows), _vectors(c, rows, model_key)


def to_blob(vector: np.ndarray) -> bytes:
    """One or more vectors as the database stores them."""
    return vector.astype("<f2").tobytes()


def checksum(data: bytes) -> int:
    """CRC-32 of what `to_blob` made: a flipped bit may leave a vector of unit length, and only its answers wrong."""
    return zlib.crc32(data)


def is_intact(data: object, stored: int | None) -> bool:
    """Whether `vectors.data` is what it was when `vectors.checksum` was stored, as far as one was."""
    return isinstance(data, bytes) and (stored is None or checksum(data) == stored)


def from_blob(data: bytes, dim: int) -> np.ndarray:
    """float32 [n, dim] of unit length."""
    return unit(np.frombuffer(data, "<f2").reshape(-1, dim))


def many_to_blob(items: Sequence[np.ndarray]) -> bytes:
    """Several items of many vectors: their number, the number of vectors of each (int32), then all vectors."""
    counts = np.array([len(items), *map(len, items)], "<i4")
    return counts.tobytes() + b"".join(map(to_blob, items))


def many_from_blob(data: bytes, dim: int) -> list[np.ndarray]:
    """The inverse of `many_to_blob`: float32 [tokens, dim] each, of unit length."""
    (number,) = np.frombuffer(data, "<i4", 1)
    counts = np.frombuffer(data, "<i4", int(number), offset=4)
    return np.split(from_blob(data[4 * (1 + int(number)) :], dim), np.cumsum(counts)[:-1])


def is_sound(data: bytes, dim: int, *, is_one: bool = False) -> bool:
    """Whether a blob can be what `to_blob` made: whole vectors (or just one), finite and of unit length."""
    if is_one and len(data) != 2 * dim:
        return False
    if not isinstance(data, bytes) or not data or len(data) % (2 * dim):
        return False
    vectors = np.frombuffer(data, "<f2").reshape(-1, dim).astype(np.float32)
    # Sums of squares: no overflow, and NaN is not within either.
    return bool((np.abs(np.sqrt(np.einsum("nd,nd->n", vectors, vectors)) - 1) <= STORED_TOLERANCE).all())


def are_sound(data: bytes, dim: int) -> bool:
    """Whether a blob can be what `many_to_blob` made."""
    if not isinstance(data, bytes) or len(data) < 4:
        return False
    number = int(np.frombuffer(data, "<i4", 1)[0])
    if number < 1 or len(data) < 4 * (1 + number):
        return False
    counts = np.frombuffer(data, "<i4", number, offset=4).astype(np.int64)
    vectors = data[4 * (1 + number) :]
    return bool((counts > 0).all()) and len(vectors) == 2 * dim * int(counts.sum()) and is_sound(vectors, dim)


def unit(vectors: np.ndarray) -> np.ndarray:
    """float32 [n, dim] of unit length from float16 [n, dim]: rounding bent the lengths by some 1e-4."""
    wide = vectors.astype(np.float32)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    # What only damage can make stays what it is: zero, infinite, no number.
    return wide / np.where((lengths > 0) & np.isfinite(lengths), lengths, 1)


def is_unit(vectors: np.ndarray) -> np.ndarray:
    """bool [n]: which of [n, dim] are finite and of unit length."""
    return np.abs(np.linalg.norm(vectors.astype(np.float32), axis=1) - 1) <= UNIT_TOLERANCE


def checked_vectors(vectors: np.ndarray) -> np.ndarray:
    """float32 [n, dim]; raises ValueError for NaN, infinite, zero and non-unit rows."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    if vectors.ndim != 2:
        raise ValueError(f"vectors must be [n, dim], not of shape {vectors.shape}")
    lengths = np.linalg.norm(vectors, axis=1)
    bad = np.flatnonzero(~(np.abs(lengths - 1) <= UNIT_TOLERANCE))
    if len(bad):
        raise ValueError(f"vector {bad[0]} of {len(vectors)} has length {lengths[bad[0]]:.4g}, not 1")
    return vectors


def checked_items(items: Sequence[np.ndarray]) -> list[np.ndarray]:
    """One vector [dim] or several [tokens, dim] per item, as float32; raises ValueError as `checked_vectors` does."""
    if all(one.ndim == 1 for one in items):
        return list(checked_vectors(np.stack(items)))
    if any(one.ndim != 2 or not len(one) or one.shape[1] != items[0].shape[-1] for one in items):
        shapes = ", ".join(str(one.shape) for one in items[:5])
        raise ValueError(f"items of one model have vectors [dim] or [tokens, dim] of one dim, not of shapes {shapes}")
    return [checked_vectors(one) for one in items]


def _vectors(c: Connection, rows: Sequence[Any], model_key: str) -> Vectors:
    """Of (id, blob, checksum) rows: float32 [n, dim], or a list of [tokens, dim], as the model has it."""
    dim, is_multi = shape_of(c, model_key)
    return [from_blob(_whole(row, dim), dim) for row in rows] if is_multi else unit(_halves(rows, dim))


def _ids(rows: Sequence[Any]) -> np.ndarray:
    return np.array([row[0] for row in rows], np.int64)


def _halves(rows: Sequence[Any], dim: int) -> np.ndarray:
    """float16 [n, dim] from (id, blob, checksum) rows; a blob that was damaged gives zeros, which no store takes."""
    if not rows:
        return np.empty((0, 0), np.float16)
    blobs = [row[1] if is_intact(row[1], row[2]) and len(row[1]) == 2 * dim else bytes(2 * dim) for row in rows]
    return np.frombuffer(b"".join(blobs), "<f2").reshape(len(rows), dim)


def _whole(row: Any, dim: int) -> bytes:
    """The vectors of an item by its (id, blob, checksum), or a zero one where the blob was damaged."""
    _, data, stored = row
    return data if data and is_intact(data, stored) and len(data) % (2 * dim) == 0 else bytes(2 * dim)
