"""The vectors as the catalog keeps them: float16 on disk, float32 of unit length for everybody else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import text
from sqlalchemy.engine import Connection

from mmsearch.filters import read_ids
from mmsearch.items import Kind

UNIT_TOLERANCE = 1e-3
"""How far from 1 the length of a vector may be when it is saved."""
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
        added: int64 [n], new or changed; `vectors`: float16 [n, dim].
        removed: int64, no longer visible.
        is_whole: `added` is everything there is; whatever else a store holds must go.
    """

    generation: int
    added: np.ndarray
    vectors: np.ndarray
    removed: np.ndarray
    is_whole: bool = False


def block_after(c: Connection, model_key: str, kind: Kind, after_id: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """The next `limit` visible items of a kind: ids int64 [n] ascending, float32 [n, dim] of unit length."""
    rows = c.execute(
        text(f"SELECT i.id, v.data{_OF_KIND} AND i.id > :after ORDER BY i.id LIMIT :limit"),
        {"key": model_key, "kind": kind, "after": after_id, "limit": limit},
    ).all()
    return _ids(rows), unit(_halves(rows))


def tail(c: Connection, model_key: str, kind: Kind, since: int) -> Tail:
    """What a vector store that has caught up with generation `since` (0: an empty one) lacks."""
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
    rows = c.execute(text(f"SELECT i.id, v.data{_OF_KIND}{changed} ORDER BY i.id"), parameters).all()
    return Tail(generation, _ids(rows), _halves(rows), removed, is_whole)


def sums(c: Connection, model_key: str, kind: Kind) -> tuple[int, int]:
    """Number and sum of the ids that a store of this kind must hold."""
    row = c.execute(text(f"SELECT count(*), total(i.id){_OF_KIND}"), {"key": model_key, "kind": kind}).one()
    return row[0], int(row[1])


def vectors_of(c: Connection, ids: Sequence[int] | np.ndarray, model_key: str) -> tuple[np.ndarray, np.ndarray]:
    """The ids (int64, ascending) among `ids` that are visible and have a vector of this model, and float32 [n, dim]."""
    rows = c.execute(
        text(
            "SELECT v.item_id, v.data FROM vectors v JOIN items i ON i.id = v.item_id"
            " WHERE v.model_id = (SELECT id FROM models WHERE key = :key) AND i.visible = 1"
            " AND v.item_id IN (SELECT value FROM json_each(:ids)) ORDER BY v.item_id"
        ),
        {"key": model_key, "ids": json.dumps([int(i) for i in ids])},
    ).all()
    return _ids(rows), unit(_halves(rows))


def to_blob(vector: np.ndarray) -> bytes:
    """One or more vectors as the database stores them."""
    return vector.astype("<f2").tobytes()


def from_blob(data: bytes, dim: int) -> np.ndarray:
    """float32 [n, dim] of unit length."""
    return unit(np.frombuffer(data, "<f2").reshape(-1, dim))


def unit(vectors: np.ndarray) -> np.ndarray:
    """float32 [n, dim] of unit length from float16 [n, dim]: rounding bent the lengths by some 1e-4."""
    wide = vectors.astype(np.float32)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True) if len(wide) else wide


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


def _ids(rows: Sequence[Any]) -> np.ndarray:
    return np.array([row[0] for row in rows], np.int64)


def _halves(rows: Sequence[Any]) -> np.ndarray:
    """float16 [n, dim] from (id, blob) rows."""
    if not rows:
        return np.empty((0, 0), np.float16)
    return np.frombuffer(b"".join(row[1] for row in rows), "<f2").reshape(len(rows), -1)
