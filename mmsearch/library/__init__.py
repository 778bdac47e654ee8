"""A library: an opened `index_data/` = catalog + vector stores + model, each loaded when it is first needed.

`Library` locks, opens views and closes; `view` is what a query sees, `model`, `stores` and `calibration` are its parts.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.catalog import Catalog, Filters
from mmsearch.catalog.compare import Plan, is_under
from mmsearch.catalog.copies import former_copies
from mmsearch.catalog.dialect.sqlite import CATALOG_NAME
from mmsearch.catalog.previews import PREVIEWS_NAME
from mmsearch.catalog.recorded import find_loss, record
from mmsearch.config import Settings, find_library_folder, load_settings
from mmsearch.disk.lock import lock_holder, locked
from mmsearch.disk.presence import is_as_known, look_for
from mmsearch.errors import CatalogError
from mmsearch.items import KIND_ALIASES, KINDS, Hits, Kind, Query
from mmsearch.library.calibration import Calibrations
from mmsearch.library.current import Current
from mmsearch.library.model import Model, is_multi_vector
from mmsearch.library.stores import Stores
from mmsearch.library.view import Question, View
from mmsearch.ranking.rank import rank

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmsearch.embedders import Embedder

__all__ = ["Library", "is_multi_vector", "open"]

log = logging.getLogger(__name__)

RETURN_INTERVAL_S = 5.0
"""Not more often than this does a search look whether files that were offline are there again."""


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
        model: the one that answers. stores: its vectors. calibration: what relevance is measured by.
    """

    def __init__(self, catalog: Catalog, settings: Settings, *, model_key: str | None = None) -> None:
        self.catalog, self.settings = catalog, settings
        self.folder = catalog.folder
        self.previews = self.folder / PREVIEWS_NAME
        self.current = Current(catalog, model_key)
        self.model = Model(self.current, settings)
        self.stores = Stores(self.current, settings)
        self.calibration = Calibrations(self.current, self.model, self.stores)
        self._counts: tuple[int, dict[Kind, int]] | None = None
        self._locked = 0
        self._locking_thread = 0
        self._looked_for_returned = float("-inf")

    def close(self) -> None:
        """Close the catalog and let go of vectors and model."""
        with self.current.guard:
            self.stores.close()
            self.calibration.close()
            self.model.close()
            self.catalog.close()

    def __enter__(self) -> Library:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- what answers

    @property
    def model_key(self) -> str | None:
        """The model key of the generation that answers queries, known without loading the model; None while empty."""
        return self.current.key

    @property
    def embedder(self) -> Embedder:
        """The model, loaded on first use. Raises EmbedderError."""
        is_new = not self.model.is_loaded
        embedder = self.model.embedder
        if is_new and self._locked:
            self.model.remember()
        return embedder

    def of_model(self, model: str) -> Library:
        """The same library, answering by the vectors of another of its models; for searching only. The catalog is shared.

        Args:
            model: its name, or its model key.

        Raises:
            CatalogError: the library holds no vectors of it, or of several models of that name.
        """
        names = {key: self.catalog.models.name(key) for key in self.catalog.models.dims()}
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

    def item_counts(self) -> dict[Kind, int]:
        """How many items of each kind can be found; counted once per generation."""
        counts = self._counts
        if counts is None or counts[0] != self.current.state()[0]:
            with self.catalog.snapshot():
                self._counts = counts = self.catalog.generation(), self.catalog.items.counts()
        return counts[1]

    @contextmanager
    def view(self, question: Question) -> Iterator[View]:
        """What a question finds, in one generation and by one model, the catalog and the vectors alike.

        The model encodes the question before: inside, no other thread gets at the vectors, and the catalog's log grows.

        Raises:
            KeyError: the item that others are to be like is not there. ModelMismatch, EmbedderError, CatalogError.
        """
        while True:
            view = View(self, question)
            with self.current.guard:
                if not self.current.is_held() and self.current.key is not None:
                    for kind in view.queries:  # opened now: a snapshot on disk may be newer than what is seen inside
                        self.stores.of(kind)
                with self.current.held():
                    if view.is_of_now():
                        yield view
                        return
            # Switched to another model, or filled for the first time, since the question was encoded.

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
        """Find items. See `mmsearch.search`; this only puts the query and the filters together.

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
        self.show_returned()
        filters = Filters(
            kinds=tuple(_kind(name) for name in kinds or ()),
            path_globs=(path,) if isinstance(path, str) else tuple(path or ()),
            after=after,
            before=before,
            under=under,
        )
        pictures = [*images] if image is None else [image, *images]
        wanted: Query | int = Query(
            text=text,
            images=tuple(map(self.picture, pictures)) if like is None else (),
            instruction=instruction,
            excluded=(exclude,) if isinstance(exclude, str) else tuple(exclude),
        )
        if like is not None:
            wanted = like
        question = Question.of(wanted, filters=filters, wanted=k + offset, mode=mode, all_copies=all_copies)
        return self.answer(question, k=k, offset=offset, min_relevance=min_relevance)

    def answer(self, question: Question, *, k: int = 10, offset: int = 0, min_relevance: float | None = None) -> Hits:
        """The `k` best answers from `offset` on, see `mmsearch.search`."""
        started = time.perf_counter()
        with self.view(question) as view:
            order = rank(view.near, view.words, view.calibration, view.asked)
            hits = view.hits(order, k, offset, min_relevance)
        hits.took_ms = 1e3 * (time.perf_counter() - started)
        return hits

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
            or not self.catalog.sources.offline_count()
        ):
            return 0
        self._looked_for_returned = now
        lost = [root for root, is_there in look_for(self.catalog.sources.roots()).items() if not is_there]

        def back() -> list[int]:
            files = self.catalog.sources.offline_files().items()
            there = ((path, file) for path, file in files if not any(is_under(path, root) for root in lost))
            return [file.source_id for path, file in there if is_as_known(path, file)]

        if not back():
            return 0
        try:
            with self.lock():
                returned = back()
                self.catalog.sources.settle(Plan(returned=returned))
        except CatalogError as reason:  # the search itself goes on
            log.debug("files that are there again stay offline for now: %s", reason)
            return 0
        return len(returned)

    def sync_vectors(self) -> None:
        """Bring the snapshots on disk up to the catalog and, while the model is loaded, keep what calibration needs of it."""
        key = self.model_key
        if key is None or self.catalog.read_only:
            return
        self.model.remember()
        counts = self.item_counts()
        if self.model.loaded_for(key):
            self.calibration.generic_queries(key, [kind for kind in KINDS if counts.get(kind)])
        self.stores.save(counts)
        if self._locked:
            record(self.catalog)

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
                self.model.remember()
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
        roots = self.catalog.sources.roots()
        return {
            "library": str(self.folder),
            "read_only": self.catalog.read_only,
            "generation": self.catalog.generation(),
            "model": self.model.name,
            "model_key": key,
            "models": self.catalog.models.dims(),
            "items": {kind: counts["items"].get(kind, 0) for kind in KINDS},
            "vectors": {kind: counts["vectors"].get(kind, 0) for kind in KINDS},
            "sources": {
                state: counts["sources"].get(state, 0) for state in ("indexed", "pending", "offline", "failed")
            },
            "left_out": self.catalog.sources.left_out().record(),
            "sources_to_embed": 0 if key is None else self.catalog.models.sources_to_embed(key),
            "roots": {str(root): at for root, at in roots.items()},
            "roots_away": [str(root) for root, is_there in look_for(roots).items() if is_there is False],
            "writer_pid": lock_holder(self.folder),
            "bytes": sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file()),
        }

    def remove_model(self, model_key: str) -> None:
        """Delete the vectors of a model that does not answer queries. Raises CatalogError as `Catalog.remove_model`."""
        with self.lock():
            self.catalog.models.remove(model_key)
            shutil.rmtree(self.folder / model_key, ignore_errors=True)

    def compact(self) -> list[Path]:
        """Delete for good what is only marked as deleted, with its previews and the snapshots of models no longer used.

        Returns:
            The copies of the catalog that were kept when its schema was changed, deleted too.
        """
        with self.lock():
            former = set(self.catalog.models.dims())
            for preview in self.catalog.compact():
                (self.folder / preview).unlink(missing_ok=True)
            for key in former - set(self.catalog.models.dims()):
                shutil.rmtree(self.folder / key, ignore_errors=True)
            self.catalog.vacuum()  # last: it needs room, and what is deleted above makes some
            self.sync_vectors()
            kept = list(former_copies(self.folder / CATALOG_NAME))
            for copy in kept:
                copy.unlink(missing_ok=True)
            return kept


def _kind(name: str) -> Kind:
    try:
        return KIND_ALIASES[name.lower()]
    except KeyError:
        raise ValueError(f"unknown kind {name!r}; known: {', '.join(sorted(KIND_ALIASES))}") from None
