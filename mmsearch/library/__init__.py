"""A library: an opened `index_data/` = catalog + vector stores + embedder, each loaded when it is first needed."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmsearch import prompts
from mmsearch.catalog import Catalog, Filters
from mmsearch.catalog.compare import Plan, is_under
from mmsearch.catalog.copies import former_copies
from mmsearch.catalog.dialect.sqlite import CATALOG_NAME
from mmsearch.catalog.integrity import PREVIEWS_NAME
from mmsearch.catalog.recorded import find_loss, record
from mmsearch.catalog.stored_vectors import is_unit, unit
from mmsearch.config import Settings, find_library_folder, load_settings
from mmsearch.disk.lock import lock_holder, locked, snapshot_lock
from mmsearch.disk.presence import is_as_known, look_for
from mmsearch.errors import CatalogError, DiskFailed, LibraryLocked, ModelMismatch
from mmsearch.items import KIND_ALIASES, KINDS, EmbedInput, Kind, MatchScale, Query, Vectors
from mmsearch.ranking import relevance
from mmsearch.vectors import VectorStore, maxsim, open_store

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmsearch.embedders import Embedder
    from mmsearch.search import Hits

log = logging.getLogger(__name__)

FILL_BLOCK = 8192
SAVE_WHEN_BEHIND_SHARE = 0.1
"""A reader that had to add more than this share of a store writes the snapshot, so that the next one need not."""
SAMPLE_DRIFT_SHARE = 0.05
"""Backgrounds are taken anew once a store has grown or shrunk by more than this."""
RETURN_INTERVAL_S = 5.0
"""Not more often than this does a search look whether files that were offline are there again."""
BACKGROUND_QUERIES = 200
FILL_BLOCK_MANY, MANY_SAMPLE_SIZE, BACKGROUND_QUERIES_MANY, GENERIC_STEP_MANY = 64, 100, 8, 3
"""The same for items of many vectors (a page of ColPali has 1,030), of which less must do; of the generic queries every third."""
QUERY_CACHE_SIZE = 256


def open(
    folder: str | os.PathLike[str] | None = None,
    *,
    create: bool = False,
    read_only: bool = False,
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    store: str | None = None,
) -> Library:
    """Open the library in `folder` (default: see `find_library_folder`); nothing heavy is loaded yet.

    Args:
        model, device, dtype, store: over the settings. A library remembers its model, so none need be named for a query.

    Raises:
        LibraryMissing, NewerSchema, CorruptIndex, CatalogError: the catalog cannot be used. ConfigError: a setting cannot.
    """
    path = find_library_folder(None if folder is None else Path(folder))
    settings = load_settings(path, model=model, device=device, dtype=dtype, store=store)
    return Library(Catalog.open(path, create=create, read_only=read_only), settings)


class Library:
    """What searches and ingestion work with. Threads may share one; only one process at a time may hold `lock()`.

    Attributes:
        folder: where it lies. previews: the folder of preview pictures.
        catalog: the truth. settings: gathered when it was opened.
    """

    def __init__(self, catalog: Catalog, settings: Settings, *, model_key: str | None = None) -> None:
        self.folder = catalog.folder
        self._asked_key = model_key  # None: whichever generation answers queries
        self.previews = self.folder / PREVIEWS_NAME
        self.catalog = catalog
        self.settings = settings
        self._embedder: Embedder | None = None
        self._stores: dict[tuple[str, Kind], _OpenedStore] = {}
        self._samples: dict[tuple[str, Kind], tuple[int, Vectors]] = {}
        self._backgrounds: dict[tuple[str, Kind, bool], relevance.Background] = {}
        self._generic: dict[tuple[str, Kind], Vectors] = {}
        self._queries: OrderedDict[tuple[str, str, str | None, Kind], np.ndarray] = OrderedDict()
        self._guard = threading.RLock()  # stores, and what is derived from them, are not safe to change while read
        self._of_thread = threading.local()  # `state`: the one of `steady`
        self._textless: tuple[int, np.ndarray] | None = None
        self._counts: tuple[int, dict[Kind, int]] | None = None
        self._loading = threading.Lock()
        self._locked = 0
        self._locking_thread = 0
        self._looked_for_returned = float("-inf")

    def close(self) -> None:
        """Close the catalog and let go of vectors and model."""
        with self._guard:
            self._stores.clear()
            self._samples.clear()
            self._embedder = None
            self.catalog.close()

    def __enter__(self) -> Library:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- the model

    @property
    def model_key(self) -> str | None:
        """The model key of the generation that answers queries, known without loading the model; None while empty."""
        return self.state()[1]

    def state(self) -> tuple[int, str | None]:
        """The catalog's generation, and the model key that answers queries."""
        if (steady := getattr(self._of_thread, "state", None)) is not None:
            return steady
        generation, active = self.catalog.state()
        return generation, self._asked_key or active

    def of_model(self, model: str) -> Library:
        """The same library, answering by the vectors of another of its models; for searching only. The catalog is shared.

        Args:
            model: its name, or its model key.

        Raises:
            CatalogError: the library holds no vectors of it, or of several models of that name.
        """
        names = {key: self.catalog.model_name(key) for key in self.catalog.model_keys()}
        keys = [key for key, name in names.items() if model in (key, name)]
        if not keys:
            raise CatalogError(
                f"the library at {self.folder} holds no vectors of model {model!r}; it holds "
                f"{', '.join(f'{name} ({key})' for key, name in names.items()) or 'none'}"
            )
        if len(keys) > 1:
            raise CatalogError(
                f"several models of the library are called {model!r}: name one by its key, {' or '.join(keys)}"
            )
        settings = self.settings.model_copy(update={"model": names[keys[0]] or model})
        return Library(self.catalog, settings, model_key=keys[0])

    @contextmanager
    def steady(self, kinds: Sequence[Kind] = ()) -> Iterator[None]:
        """Inside, this thread sees the library at one generation, the catalog and the vectors of `kinds` alike.

        Whatever takes long is done before: meanwhile no other thread gets at the vectors, and the catalog's log grows.
        """
        with self._guard:
            if getattr(self._of_thread, "state", None) is not None:
                yield
                return
            if self.model_key is not None:
                for kind in kinds:
                    self.store(kind)  # opened now, since a snapshot on disk may be newer than what is seen inside
            with self.catalog.steady():
                self._of_thread.state = self.state()
                try:
                    yield
                finally:
                    self._of_thread.state = None

    @property
    def model_name(self) -> str:
        """What `embedder` loads: the model asked for, else the one that the library remembers, else the default."""
        if self._follows_library and (key := self.model_key) is not None:
            return self.catalog.model_name(key) or self.settings.model
        return self.settings.model

    @property
    def _follows_library(self) -> bool:
        """Whether the library's own model is used, since none was asked for."""
        return "model" not in self.settings.model_fields_set

    @property
    def embedder_loaded(self) -> bool:
        return self._embedder is not None

    @property
    def embedder(self) -> Embedder:
        """The model, loaded on first use. Raises EmbedderError."""
        with self._loading:
            if self._embedder is None:
                from mmsearch.embedders import load_embedder

                self._embedder = load_embedder(self.model_name, device=self.settings.device, dtype=self.settings.dtype)
                if self._locked:
                    self._remember_model()
            return self._embedder

    def _remember_model(self) -> None:
        if self._embedder is not None and not self.catalog.read_only:
            self.catalog.register_model(
                self._embedder.model_key,
                self._embedder.dim,
                self.model_name,
                is_multi_vector=is_multi_vector(self._embedder),
            )

    def encode(self, query: Query, kinds: Sequence[Kind]) -> dict[Kind, np.ndarray]:
        """The query as float32 [dim] (of a multi-vector model [tokens, dim]) for each kind, in one call of the model; texts are
        remembered.

        If the library was switched to another model since the last query, by whomever, that one is loaded.

        Raises:
            ModelMismatch: the model is not the one whose vectors answer queries.
        """
        embedder = self.embedder
        while (active := self.model_key) not in (None, embedder.model_key) and self._follows_library:
            with self._guard, self._loading:  # nobody is in the middle of a search with the former one
                if self._embedder is embedder:
                    self._embedder = None
            former, embedder = embedder, self.embedder
            if former.model_key == embedder.model_key:
                break
        if (active := self.model_key) not in (None, embedder.model_key):
            raise ModelMismatch(
                f"the library holds vectors of model {active} ({self.catalog.model_name(active or '') or 'no name'}), not of"
                f" {self.model_name!r} ({embedder.model_key}): switch to it with `mmsearch models use`, or ask with the library's own"
            )
        is_text = not (query.images or query.frames)
        keys = {kind: (embedder.model_key, query.text, query.instruction, kind) for kind in kinds}
        with self._guard:
            known = {kind: self._queries[key] for kind, key in keys.items() if is_text and key in self._queries}
        wanted = [kind for kind in kinds if kind not in known]
        if wanted:
            encoded = embedder.encode_queries([prompts.query_input(query, kind) for kind in wanted])
            known |= dict(zip(wanted, encoded, strict=True))
            with self._guard:
                for kind in wanted if is_text else ():
                    self._queries[keys[kind]] = known[kind]
                while len(self._queries) > QUERY_CACHE_SIZE:
                    self._queries.popitem(last=False)
        return {kind: known[kind] for kind in kinds}

    # ---- vectors

    def item_counts(self) -> dict[Kind, int]:
        """How many items of each kind can be found; counted once per generation."""
        counts = self._counts
        if counts is None or counts[0] != self.state()[0]:
            with self.catalog.steady():
                self._counts = counts = self.catalog.generation(), self.catalog.item_counts()
        return counts[1]

    def store(self, kind: Kind) -> VectorStore:
        """The vectors of a kind, of the active model, up to the catalog's present generation."""
        key = self.model_key
        if key is None:
            raise CatalogError(f"the library at {self.folder} is empty: `mmsearch ingest FOLDER` fills it")
        with self._guard:
            opened = self._stores.get((key, kind))
            if opened is None:
                opened = self._stores[key, kind] = self._open_store(key, kind)
            else:
                self._catch_up(opened.store, key, kind)
            return opened.store

    def nearest(
        self, kind: Kind, vector: np.ndarray, k: int, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The `k` nearest items of a kind to a query as `encode` gives it: ids int64, cosines (or MaxSim scores) float32."""
        with self._guard:
            ids, scores = self.store(kind).search(vector[None], k, allowed)
            return ids[0], scores[0]

    def cosines(self, kind: Kind, vector: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those of `ids` that are of this kind, and their cosines or MaxSim scores (float32) with a query as `encode` gives it."""
        with self._guard:
            store = self.store(kind)
            ids = ids[np.isin(ids, store.ids())]
            return ids, dot(store.vectors(ids), vector)

    def sync_vectors(self) -> None:
        """Bring the snapshots on disk up to the catalog and, while the model is loaded, keep what calibration needs of it."""
        key = self.model_key
        if key is None or self.catalog.read_only:
            return
        self._remember_model()
        kinds = [kind for kind in KINDS if self.item_counts().get(kind)]
        if self._embedder is not None and self._embedder.model_key == key:
            self._generic_queries(key, kinds)
        with snapshot_lock(self.folder / key, wait=True), self._guard:
            for kind in KINDS:
                if kind in kinds or (key, kind) in self._stores or self._snapshot(key, kind).exists():
                    self.store(kind)
                    self._stores[key, kind].save()
        if self._locked:
            record(self.catalog)

    def _open_store(self, key: str, kind: Kind) -> _OpenedStore:
        self._dim(key)  # before a folder is made for it
        if self.catalog.read_only:
            return self._load_store(key, kind, read_only=True)
        opened = None
        try:
            with snapshot_lock(self.folder / key, wait=False) as is_ours:
                opened = self._load_store(key, kind, read_only=not is_ours)
                if is_ours and opened.added > SAVE_WHEN_BEHIND_SHARE * len(opened.store):
                    opened.save()
        except DiskFailed as reason:  # who only searches needs no snapshot on disk
            log.info("the snapshot of %ss is not written: %s", kind, reason)
        return opened or self._load_store(key, kind, read_only=True)

    def _dim(self, key: str) -> int:
        """The length of a model's vectors. Raises CatalogError if the model was removed meanwhile."""
        dim = self.catalog.model_keys().get(key)
        if dim is None:
            raise CatalogError(
                f"the library at {self.folder} holds no vectors of {key} any longer: ask again, without that model"
            )
        return dim

    def _load_store(self, key: str, kind: Kind, *, read_only: bool) -> _OpenedStore:
        store = open_store(
            "maxsim" if self.catalog.is_multi_vector(key) else self.settings.store,
            self.folder / key,
            self._dim(key),
            model_key=key,
            label=kind,
            catalog_id=self.catalog.id,
            read_only=read_only,
        )
        saved = store.generation
        is_ahead = saved > self.state()[0]  # the catalog is an older one, restored from a backup
        added = 0 if is_ahead else self._catch_up(store, key, kind)
        sums = len(store), int(store.ids().sum())
        if is_ahead or (saved and self.catalog.vector_sums(key, kind, store.generation) not in (None, sums)):
            log.warning("%s: does not hold what the catalog holds; built anew", self._snapshot(key, kind))
            store.remove(store.ids())
            store.generation = saved = 0
            added = self._catch_up(store, key, kind)
        return _OpenedStore(store, saved, added)

    def _catch_up(self, store: VectorStore, key: str, kind: Kind) -> int:
        """Bring a store to the catalog's present generation. Returns how many vectors were added."""
        if store.generation >= self.state()[0]:
            return 0
        tail = self.catalog.tail(key, kind, store.generation)
        store.remove(np.setdiff1d(store.ids(), tail.added) if tail.is_whole else tail.removed)
        if tail.vectors is None:
            for start in range(0, len(tail.added), FILL_BLOCK_MANY):
                _add_sound(store, *self.catalog.vectors_of(tail.added[start : start + FILL_BLOCK_MANY], key))
            store.generation = tail.generation
            return len(tail.added)
        for start in range(0, len(tail.added), FILL_BLOCK):
            block = slice(start, start + FILL_BLOCK)
            _add_sound(store, tail.added[block], unit(tail.vectors[block]))
        store.generation = tail.generation
        return len(tail.added)

    def has_snapshot(self, kind: Kind) -> bool:
        """Whether the active model's vectors of a kind have a snapshot on disk."""
        key = self.model_key
        return key is not None and self._snapshot(key, kind).exists()

    def rebuild_store(self, kind: Kind) -> None:
        """Forget the vector store of a kind, snapshot included, and fill and save it anew from the catalog."""
        key = self.model_key
        if key is None:
            return
        with snapshot_lock(self.folder / key, wait=True), self._guard:
            self._stores.pop((key, kind), None)
            self._snapshot(key, kind).unlink(missing_ok=True)
            opened = self._stores[key, kind] = self._load_store(key, kind, read_only=False)
            opened.save()

    def _snapshot(self, key: str, kind: Kind) -> Path:
        return self.folder / key / f"{kind}.json"

    # ---- what calibration needs

    def background(self, kind: Kind, *, is_text: bool) -> tuple[Vectors, relevance.Background]:
        """A random sample of the stored vectors of a kind, and how irrelevant queries score on it.

        With `is_text` the irrelevant queries are generic texts (the model encodes them, unless the catalog has them); else they
        are stored vectors.
        """
        with self._guard:
            key, store = self.model_key, self.store(kind)
            assert key is not None
            size, sample = self._samples.get((key, kind), (0, None))
            if sample is None or abs(len(store) - size) > SAMPLE_DRIFT_SHARE * size:
                is_many = self.catalog.is_multi_vector(key)
                size = MANY_SAMPLE_SIZE if is_many else relevance.SAMPLE_SIZE
                chosen = np.random.default_rng(0).permutation(len(store))[:size]
                sample = store.vectors(store.ids()[np.sort(chosen)])
                self._samples[key, kind] = len(store), sample
                self._backgrounds.pop((key, kind, True), None)
                self._backgrounds.pop((key, kind, False), None)
            prior = self._backgrounds.get((key, kind, is_text))
            if prior is None:
                generic = self._generic_queries(key, [kind])[kind] if is_text else None
                if isinstance(sample, list):
                    prior = _background_of_many(generic, sample)
                elif generic is not None:
                    prior = relevance.background(generic, sample)
                else:
                    some = sample[np.random.default_rng(1).permutation(len(sample))[:BACKGROUND_QUERIES]]
                    prior = relevance.background(some, sample, is_same_set=True)
                self._backgrounds[key, kind, is_text] = prior
            return sample, prior

    def match_scale(self, name: str) -> MatchScale | None:
        """What the loaded model's scores are worth in a kind (or `WITHOUT_TEXT`), if that was measured."""
        return self._embedder.match_scale.get(name) if self._embedder is not None else None

    def knows_word(self, word: str) -> bool:
        """Whether the loaded model reads a word as a word; True of a model that cannot tell."""
        if self._embedder is None:
            return True
        from mmsearch.embedders.forward.vocabulary import has_word

        tokenizer = getattr(self._embedder, "tokenizer", None)
        return tokenizer is None or has_word(tokenizer, word)

    def pages_without_text(self) -> np.ndarray:
        """int64, ascending: visible pages that have next to no text."""
        generation = self.catalog.generation()
        with self._guard:
            if self._textless is None or self._textless[0] != generation:
                self._textless = generation, self.catalog.pages_without_text()
            return self._textless[1]

    def _generic_queries(self, key: str, kinds: Sequence[Kind]) -> dict[Kind, Vectors]:
        """The generic queries encoded for each kind: from memory, the catalog, or the model."""
        inputs = {
            kind: [prompts.query_input(Query(text=words), kind) for words in relevance.GENERIC_QUERIES]
            for kind in kinds
        }
        for kind in kinds:
            if (key, kind) not in self._generic:
                stored = self.catalog.generic_queries(key, kind, _version(inputs[kind]))
                if stored is not None:
                    self._generic[key, kind] = stored
        missing = [kind for kind in kinds if (key, kind) not in self._generic]
        if missing:
            embedder = self.embedder
            if embedder.model_key != key:
                raise ModelMismatch(f"{self.model_name!r} is not the model {key} that answers queries: ask again")
            encoded = embedder.encode_queries([one for kind in missing for one in inputs[kind]])
            count, is_kept = len(relevance.GENERIC_QUERIES), not self.catalog.read_only
            for place, kind in enumerate(missing):
                vectors = encoded[place * count : (place + 1) * count]
                self._generic[key, kind] = vectors
                if is_kept:
                    try:
                        self.catalog.save_generic_queries(key, kind, _version(inputs[kind]), vectors)
                    except (DiskFailed, LibraryLocked) as reason:  # a search needs them only once
                        is_kept = False
                        log.info("the generic queries of %ss are not kept: %s", kind, reason)
        return {kind: self._generic[key, kind] for kind in kinds}

    # ---- searching

    def search(
        self,
        text: str = "",
        *,
        k: int = 10,
        kinds: Sequence[str] | None = None,
        image: Path | str | Image | None = None,
        images: Sequence[Path | str | Image] = (),
        like: int | None = None,
        instruction: str | None = None,
        path: str | Sequence[str] | None = None,
        after: date | datetime | None = None,
        before: date | datetime | None = None,
        under: Path | None = None,
        min_relevance: float | None = None,
        offset: int = 0,
        mode: str = "fused",
        exclude: str | Sequence[str] = (),
        all_copies: bool = False,
    ) -> Hits:
        """Find items. See `mmsearch.search.search`; this only puts the query and the filters together.

        Args:
            kinds: "page", "image", "clip" or what users call them ("pdf", "photo", "video").
            image, images: files or PIL images to search with, beside or instead of `text`.
            like: the id of an item; finds more like it, `text` and images are ignored.
            path: one glob or several, see `Filters.path_globs`.
            min_relevance: the cut-off, 0…1; None for the default, 0 for everything.
            exclude: one text or several, as `-word` in `text`: what holds its words is left out, what is near in meaning comes later.
            all_copies: show copies of a file, and files of one moment, each; else the best stands for all (`Hit.also_at`).

        Raises:
            ValueError: an unknown kind or mode, or nothing to search for. KeyError: no item `like`.
            SourceError: a picture cannot be read. EmbedderError, CatalogError: as the model or the catalog raise them.
        """
        from mmsearch import search as searching  # the sugar's only look upwards

        self.show_returned()
        filters = Filters(
            kinds=tuple(_kind(name) for name in kinds or ()),
            path_globs=(path,) if isinstance(path, str) else tuple(path or ()),
            after=after,
            before=before,
            under=under,
        )
        chosen = filters.kinds or None
        if like is not None:
            return searching.more_like(
                self,
                like,
                k=k,
                kinds=chosen,
                filters=filters,
                min_relevance=min_relevance,
                offset=offset,
                all_copies=all_copies,
            )
        pictures = [*images] if image is None else [image, *images]
        query = Query(
            text=text,
            images=tuple(map(self.picture, pictures)),
            instruction=instruction,
            excluded=(exclude,) if isinstance(exclude, str) else tuple(exclude),
        )
        return searching.search(
            self,
            query,
            k=k,
            kinds=chosen,
            filters=filters,
            min_relevance=min_relevance,
            offset=offset,
            mode=mode,
            all_copies=all_copies,
        )

    def picture(self, picture: Path | str | Image) -> Image:
        """A query picture. A file is decoded apart from this process, as ingestion would, and as large as the model takes it.

        Raises:
            SourceError: it cannot be read.
        """
        if not isinstance(picture, str | Path):
            return picture
        from mmsearch.media import isolated as sandbox

        return sandbox.query_image(picture, max_pixels=max(self.embedder.max_pixels.values()))

    # ---- upkeep

    def show_returned(self) -> int:
        """Let files be found again that were offline and lie where they lay, with the size and the times they had.

        Costs a look at each of them, but not more than every few seconds, and none while their folder is away. What changed
        meanwhile, or has no vectors of the active model, waits for the next ingestion.

        Returns:
            How many came back; 0 where the library can only be read, and while another process writes.
        """
        now = time.monotonic()
        if (
            self.catalog.read_only
            or now - self._looked_for_returned < RETURN_INTERVAL_S
            or not self.catalog.offline_count()
        ):
            return 0
        self._looked_for_returned = now
        lost = [root for root, is_there in look_for(self.catalog.roots()).items() if not is_there]

        def back() -> list[int]:
            files = self.catalog.offline_files().items()
            there = ((path, file) for path, file in files if not any(is_under(path, root) for root in lost))
            return [file.source_id for path, file in there if is_as_known(path, file)]

        if not back():
            return 0
        try:
            with self.lock():
                returned = back()
                self.catalog.settle(Plan(returned=returned))
        except CatalogError as reason:  # the search itself goes on
            log.debug("files that are there again stay offline for now: %s", reason)
            return 0
        return len(returned)

    @contextmanager
    def lock(self, *, wait_s: float = 0.0) -> Iterator[None]:
        """Be the one writer, once another one has ended, or within `wait_s`. May be nested in one thread.

        Raises:
            LibraryLocked: somebody else is writing; the message names its pid. CatalogError: the library can only be read.
        """
        self.catalog.refuse_if_read_only()
        if self._locked and self._locking_thread == threading.get_ident():
            self._locked += 1
            try:
                yield
            finally:
                self._locked -= 1
            return
        with locked(self.folder, wait_s=wait_s):
            self._locked, self._locking_thread = 1, threading.get_ident()
            try:
                self._note_loss()
                self._remember_model()
                yield
                record(self.catalog)
            finally:
                self._locked = 0

    def _note_loss(self) -> None:
        """Say, and keep on record, what was lost: what is written from here on would hide it."""
        try:
            loss = find_loss(self.catalog)
        except CatalogError:
            return  # whoever reads on says what it is
        if loss is not None:
            log.warning("%s: %s; `mmsearch doctor` says what to do", self.catalog.folder, loss.sentence())
            record(self.catalog)

    def status(self) -> dict[str, Any]:
        """Facts for people and scripts: where, which model, what is in it, what failed, who writes. Loads nothing."""
        key = self.model_key
        counts = self.catalog.counts(key)
        roots = self.catalog.roots()
        return {
            "library": str(self.folder),
            "read_only": self.catalog.read_only,
            "generation": self.catalog.generation(),
            "model": self.model_name,
            "model_key": key,
            "models": self.catalog.model_keys(),
            "items": {kind: counts["items"].get(kind, 0) for kind in KINDS},
            "vectors": {kind: counts["vectors"].get(kind, 0) for kind in KINDS},
            "sources": {
                state: counts["sources"].get(state, 0) for state in ("indexed", "pending", "offline", "failed")
            },
            "left_out": self.catalog.left_out().record(),
            "sources_to_embed": 0 if key is None else self.catalog.sources_to_embed(key),
            "roots": {str(root): at for root, at in roots.items()},
            "roots_away": [str(root) for root, is_there in look_for(roots).items() if is_there is False],
            "writer_pid": lock_holder(self.folder),
            "bytes": sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file()),
        }

    def remove_model(self, model_key: str) -> None:
        """Delete the vectors of a model that does not answer queries. Raises CatalogError as `Catalog.remove_model`."""
        with self.lock():
            self.catalog.remove_model(model_key)
            shutil.rmtree(self.folder / model_key, ignore_errors=True)

    def compact(self) -> list[Path]:
        """Delete for good what is only marked as deleted, with its previews and the snapshots of models no longer used.

        Returns:
            The copies of the catalog that were kept when its schema was changed, deleted too.
        """
        with self.lock():
            former = set(self.catalog.model_keys())
            for preview in self.catalog.compact():
                (self.folder / preview).unlink(missing_ok=True)
            for key in former - set(self.catalog.model_keys()):
                shutil.rmtree(self.folder / key, ignore_errors=True)
            self.catalog.vacuum()  # last: it needs room, and what is deleted above makes some
            self.sync_vectors()
            kept = list(former_copies(self.folder / CATALOG_NAME))
            for copy in kept:
                copy.unlink(missing_ok=True)
            return kept


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
        log.warning("%d stored vectors are damaged; `mmsearch doctor --repair` has them made anew", (~sound).sum())
    store.upsert(ids[sound], chosen)


def dot(vectors: Vectors, vector: np.ndarray) -> np.ndarray:
    """float32 [n]: cosines of [n, dim] and [dim], or the MaxSim scores of n items of many vectors and [tokens, dim].

    For a few thousand rows quicker than waking BLAS's threads, the more on busy cores.
    """
    return maxsim.scores(vectors, vector) if isinstance(vectors, list) else np.einsum("nd,d->n", vectors, vector)


def is_multi_vector(embedder: Embedder) -> bool:
    """Whether a model gives each item many vectors."""
    return bool(getattr(embedder, "is_multi_vector", False))


def _background_of_many(generic: Vectors | None, sample: list[np.ndarray]) -> relevance.Background:
    """How irrelevant queries score on items of many vectors: some of the generic ones, else some of the items themselves."""
    if generic is not None:
        found = [maxsim.scores(sample, query) for query in generic[::GENERIC_STEP_MANY]]
    else:
        others = ((query, sample[:n] + sample[n + 1 :]) for n, query in enumerate(sample[:BACKGROUND_QUERIES_MANY]))
        found = [maxsim.scores(items, query) for query, items in others]
    return relevance.background_of(np.concatenate([*found, np.empty(0, np.float32)]))


def _kind(name: str) -> Kind:
    try:
        return KIND_ALIASES[name.lower()]
    except KeyError:
        raise ValueError(f"unknown kind {name!r}; known: {', '.join(sorted(KIND_ALIASES))}") from None


def _version(inputs: Sequence[EmbedInput]) -> str:
    """Names the generic queries as the model reads them; vectors of another version are encoded anew."""
    strings = "\n".join(prompts.final_prompt(one.instruction, one.text) for one in inputs)
    return f"{len(inputs)}-{zlib.crc32(strings.encode()):08x}"
