"""The oracle: every vector in one array, every score computed. Also what other stores use to rank their candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmsearch.errors import DimensionMismatch

UNIT_TOLERANCE = 1e-3
ROUNDING = 1e-5
"""Two float32 sums of the same products, added in another order, differ by less than this for unit vectors."""


class ExactStore:
    """Vectors in memory, ascending by id; nothing is written to disk."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.generation = 0
        self._ids = np.empty(0, np.int64)
        self._vectors = np.empty((0, dim), np.float32)

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self) -> np.ndarray:
        return self._ids

    def vectors(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        ids = np.asarray(ids, np.int64)
        places = np.searchsorted(self._ids, ids)
        known = places < len(self._ids)
        known[known] = self._ids[places[known]] == ids[known]
        if not known.all():
            raise KeyError(int(ids[~known][0]))
        return self._vectors[places]

    def upsert(self, ids: Sequence[int] | np.ndarray, vectors: np.ndarray) -> None:
        ids, vectors = checked(ids, vectors, self.dim)
        keep = ~np.isin(self._ids, ids)
        merged = np.concatenate([self._ids[keep], ids])
        order = np.argsort(merged)
        self._ids = merged[order]
        self._vectors = np.concatenate([self._vectors[keep], vectors])[order]

    def remove(self, ids: Sequence[int] | np.ndarray) -> None:
        keep = ~np.isin(self._ids, np.asarray(ids, np.int64))
        self._ids, self._vectors = self._ids[keep], self._vectors[keep]

    def search(
        self, queries: np.ndarray, k: int, allowed: Sequence[int] | np.ndarray | None = None
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        queries = checked_queries(queries, self.dim)
        ids, vectors = self._ids, self._vectors
        if allowed is not None:
            keep = np.isin(ids, np.asarray(allowed, np.int64))
            ids, vectors = ids[keep], vectors[keep]
        found = []
        for query, rough in zip(queries, queries @ vectors.T, strict=True):
            near = np.arange(len(ids))
            if 0 < k < len(ids):
                kth = np.partition(rough, len(ids) - k)[len(ids) - k]
                near = np.flatnonzero(rough >= kth - 2 * ROUNDING)
            found.append(ranked(ids[near], vectors[near], query, k))
        return [ids for ids, _ in found], [scores for _, scores in found]

    def save(self) -> None:
        """Nothing: the catalog fills it again."""


def ranked(ids: np.ndarray, vectors: np.ndarray, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` best of some candidates: ids int64, cosines float32, falling, ties by smaller id.

    Summed in float64 and rounded once, so that every store gives the same score for the same vector wherever it lies.
    """
    scores = np.einsum("nd,d->n", vectors.astype(np.float64), query.astype(np.float64)).astype(np.float32)
    order = np.lexsort((ids, -scores))[: max(k, 0)]
    return ids[order], scores[order]


def checked(ids: Sequence[int] | np.ndarray, vectors: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 [n] and float32 [n, dim] as the contract wants them; of an id given twice the last vector counts."""
    ids = np.asarray(ids, np.int64)
    vectors = np.ascontiguousarray(vectors, np.float32)
    if ids.ndim != 1 or vectors.ndim != 2 or len(ids) != len(vectors):
        raise ValueError(f"ids of shape {ids.shape} do not go with vectors of shape {vectors.shape}")
    if len(vectors) and vectors.shape[1] != dim:
        raise DimensionMismatch(dim, vectors.shape[1])
    lengths = np.linalg.norm(vectors, axis=1)
    bad = np.flatnonzero(~(np.abs(lengths - 1) <= UNIT_TOLERANCE))
    if len(bad):
        raise ValueError(f"the vector of id {ids[bad[0]]} has length {lengths[bad[0]]:.4g}, not 1")
    if len(ids) and ids.min() < 0:
        raise ValueError(f"ids count from 0, not {ids.min()}")
    unique, last = np.unique(ids[::-1], return_index=True)
    if len(unique) < len(ids):
        ids, vectors = unique, vectors[::-1][last]
    return ids, vectors.reshape(len(ids), dim)


def checked_queries(queries: np.ndarray, dim: int) -> np.ndarray:
    """float32 [q, dim]; raises DimensionMismatch or ValueError as `checked` does."""
    queries = np.ascontiguousarray(queries, np.float32)
    return checked(np.arange(len(queries)), queries, dim)[1]
