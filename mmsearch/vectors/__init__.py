"""Vector stores: find the nearest vectors by cosine. To add one: a module here and a branch in `open_store`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from mmsearch.items import Vectors


@runtime_checkable
class VectorStore(Protocol):
    """Vectors by id. A store is a cache: it is filled from the catalog and may be deleted at any time.

    Contract, tested for every store against `exact.py`, ids and scores:
      * the score is the cosine, higher is better; rows are sorted by falling score, ties by smaller id;
      * fewer than `k` vectors give fewer results, never padding: a row has `min(k, len(allowed & stored))` entries;
      * `upsert` replaces the vector of a known id; removing an unknown id is no error;
      * a vector of another length raises `DimensionMismatch`; NaN, infinite, zero and non-unit (1e-3) vectors raise ValueError;
      * `allowed` restricts the search before it starts; an empty `allowed` gives empty results.
    """

    dim: int
    generation: int
    """The catalog's generation that the store has caught up with; set by who fills it, kept by `save`."""

    def __len__(self) -> int: ...

    def ids(self) -> np.ndarray:
        """int64 [n], ascending."""
        ...

    def vectors(self, ids: Sequence[int] | np.ndarray) -> Vectors:
        """float32 [n, dim] in the order of `ids`; raises KeyError for an unknown id."""
        ...

    def upsert(self, ids: Sequence[int] | np.ndarray, vectors: Vectors) -> None:
        """Store float32 [n, dim] under int64 ids [n]."""
        ...

    def remove(self, ids: Sequence[int] | np.ndarray) -> None: ...

    def search(
        self, queries: Vectors, k: int, allowed: Sequence[int] | np.ndarray | None = None
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """For float32 [q, dim] the ids (int64) and scores (float32) per query, at most k each."""
        ...

    def save(self) -> None:
        """Make the present state durable, all or nothing. In-memory stores do nothing."""
        ...


def open_store(
    name: str,
    folder: Path,
    dim: int,
    *,
    model_key: str,
    label: str = "items",
    catalog_id: str = "",
    read_only: bool = False,
) -> VectorStore:
    """The store `name` ("faiss" or "exact"; for items of many vectors "maxsim") whose files `<label>.*` lie in `folder`.

    A snapshot that is unreadable, of another model key, dim or catalog is set aside (`*.corrupt-<ns>`; with `read_only` left
    where it is), said in the log, and an empty store of generation 0 is returned: the caller fills it from the catalog.
    """
    if name == "exact":
        from mmsearch.vectors.exact import ExactStore

        return ExactStore(dim)
    if name == "faiss":
        from mmsearch.vectors.faiss import FaissStore

        return FaissStore.open(
            folder, dim, model_key=model_key, label=label, catalog_id=catalog_id, read_only=read_only
        )
    if name == "maxsim":
        from mmsearch.vectors.maxsim import MaxSimStore

        return MaxSimStore.open(
            folder, dim, model_key=model_key, label=label, catalog_id=catalog_id, read_only=read_only
        )
    raise ValueError(f"unknown vector store {name!r}; known: faiss, exact, maxsim")
