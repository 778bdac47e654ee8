"""The vector stores of an opened library: filled from the catalog, kept up with it, their snapshots written."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmsearch.catalog.vectors import is_unit, unit
from mmsearch.config import Settings
from mmsearch.disk.lock import snapshot_lock
from mmsearch.errors import CatalogError, DiskFailed
from mmsearch.items import KINDS, Kind, Vectors
from mmsearch.library.current import Current
from mmsearch.vectors import VectorStore, maxsim, open_store

log = logging.getLogger(__name__)

FILL_BLOCK = 8192
SAVE_WHEN_BEHIND_SHARE = 0.1
"""A reader that had to add more than this share of a store writes the snapshot, so that the next one need not."""
FILL_BLOCK_MANY = 64
"""The same for items of many vectors (a page of ColPali has 1,030)."""


class Stores:
    """A store per model and kind, opened on first use."""

    def __init__(self, current: Current, settings: Settings) -> None:
        self._current, self._settings = current, settings
        self._catalog = current.catalog
        self._opened: dict[tuple[str, Kind], _OpenedStore] = {}

    def close(self) -> None:
        self._opened.clear()

    def of(self, kind: Kind) -> VectorStore:
        """The vectors of a kind, of the model that answers, up to the catalog's present generation. Raises CatalogError: the library is empty."""
        key = self._current.needed_key()
        with self._current.guard:
            opened = self._opened.get((key, kind))
            if opened is None:
                opened = self._opened[key, kind] = self._open(key, kind)
            else:
                self._catch_up(opened.store, key, kind)
            return opened.store

    def nearest(
        self, kind: Kind, vector: np.ndarray, k: int, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The `k` nearest items of a kind to a query as `encode` gives it: ids int64, cosines (or MaxSim scores) float32."""
        with self._current.guard:
            ids, scores = self.of(kind).search(vector[None], k, allowed)
            return ids[0], scores[0]

    def cosines(self, kind: Kind, vector: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those of `ids` that are of this kind, and their cosines or MaxSim scores (float32) with a query as `encode` gives it."""
        with self._current.guard:
            store = self.of(kind)
            ids = ids[np.isin(ids, store.ids())]
            return ids, dot(store.vectors(ids), vector)

    def save(self, counts: dict[Kind, int]) -> None:
        """Bring the snapshots on disk up to the catalog; `counts`: how many items of each kind there are."""
        key = self._current.needed_key()
        with snapshot_lock(self._current.folder / key, wait=True), self._current.guard:
            for kind in KINDS:
                if counts.get(kind) or (key, kind) in self._opened or self._snapshot(key, kind).exists():
                    self.of(kind)
                    self._opened[key, kind].save()

    def has_snapshot(self, kind: Kind) -> bool:
        """Whether the active model's vectors of a kind have a snapshot on disk."""
        key = self._current.key
        return key is not None and self._snapshot(key, kind).exists()

    def rebuild(self, kind: Kind) -> None:
        """Forget the vector store of a kind, snapshot included, and fill and save it again from the catalog."""
        key = self._current.key
        if key is None:
            return
        with snapshot_lock(self._current.folder / key, wait=True), self._current.guard:
            self._opened.pop((key, kind), None)
            self._snapshot(key, kind).unlink(missing_ok=True)
            opened = self._opened[key, kind] = self._load(key, kind, read_only=False)
            opened.save()

    def _open(self, key: str, kind: Kind) -> _OpenedStore:
        self._dim(key)  # before a folder is made for it
        if self._catalog.read_only:
            return self._load(key, kind, read_only=True)
        opened = None
        try:
            with snapshot_lock(self._current.folder / key, wait=False) as is_ours:
                opened = self._load(key, kind, read_only=not is_ours)
                if is_ours and opened.added > SAVE_WHEN_BEHIND_SHARE * len(opened.store):
                    opened.save()
        except DiskFailed as reason:  # who only searches needs no snapshot on disk
            log.info("the snapshot of %ss is not written: %s", kind, reason)
        return opened or self._load(key, kind, read_only=True)

    def _dim(self, key: str) -> int:
        """The length of a model's vectors. Raises CatalogError if the model was removed meanwhile."""
        dim = self._catalog.models.dims().get(key)
        if dim is None:
            raise CatalogError(
                f"the library at {self._current.folder} holds no vectors of {key} any longer: ask again, without that model"
            )
        return dim

    def _load(self, key: str, kind: Kind, *, read_only: bool) -> _OpenedStore:
        store = open_store(
            "maxsim" if self._catalog.models.is_multi_vector(key) else self._settings.store,
            self._current.folder / key,
            self._dim(key),
            model_key=key,
            label=kind,
            catalog_id=self._catalog.id,
            read_only=read_only,
        )
        saved = store.generation
        is_ahead = saved > self._current.state()[0]  # the catalog is an older one, restored from a backup
        added = 0 if is_ahead else self._catch_up(store, key, kind)
        sums = len(store), int(store.ids().sum())
        if is_ahead or (saved and self._catalog.vectors.sums(key, kind, store.generation) not in (None, sums)):
            log.warning("%s: does not hold what the catalog holds; rebuilt", self._snapshot(key, kind))
            store.remove(store.ids())
            store.generation = saved = 0
            added = self._catch_up(store, key, kind)
        return _OpenedStore(store, saved, added)

    def _catch_up(self, store: VectorStore, key: str, kind: Kind) -> int:
        """Bring a store to the catalog's present generation. Returns how many vectors were added."""
        if store.generation >= self._current.state()[0]:
            return 0
        tail = self._catalog.vectors.tail(key, kind, store.generation)
        store.remove(np.setdiff1d(store.ids(), tail.added) if tail.is_whole else tail.removed)
        if tail.vectors is None:
            for start in range(0, len(tail.added), FILL_BLOCK_MANY):
                _add_sound(store, *self._catalog.vectors.of(tail.added[start : start + FILL_BLOCK_MANY], key))
            store.generation = tail.generation
            return len(tail.added)
        for start in range(0, len(tail.added), FILL_BLOCK):
            block = slice(start, start + FILL_BLOCK)
            _add_sound(store, tail.added[block], unit(tail.vectors[block]))
        store.generation = tail.generation
        return len(tail.added)

    def _snapshot(self, key: str, kind: Kind) -> Path:
        return self._current.folder / key / f"{kind}.json"


@dataclass
class _OpenedStore:
    """A store, the generation of its snapshot on disk, and how many vectors it lacked when it was opened."""

    store: VectorStore
    saved_generation: int
    added: int

    def save(self) -> None:
        """Write the snapshot, unless it stands at this generation already."""
        if self.saved_generation != self.store.generation:
            self.store.save()
            self.saved_generation = self.store.generation


def _add_sound(store: VectorStore, ids: np.ndarray, vectors: Vectors) -> None:
    """Add what is not damaged, and say how many are."""
    if isinstance(vectors, list):
        sound = np.array([bool(is_unit(tokens).all()) for tokens in vectors], bool)
        chosen: Vectors = [tokens for tokens, is_sound in zip(vectors, sound, strict=True) if is_sound]
    else:
        sound = is_unit(vectors)
        chosen = vectors[sound]
    if not sound.all():
        log.warning("%d stored vectors are damaged; `mmsearch doctor --repair` has them made again", (~sound).sum())
    store.upsert(ids[sound], chosen)


def dot(vectors: Vectors, vector: np.ndarray) -> np.ndarray:
    """float32 [n]: cosines of [n, dim] and [dim], or the MaxSim scores of n items of many vectors and [tokens, dim].

    For a few thousand rows quicker than waking BLAS's threads, the more on busy cores.
    """
    return maxsim.scores(vectors, vector) if isinstance(vectors, list) else np.einsum("nd,d->n", vectors, vector)
