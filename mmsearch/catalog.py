"""The catalog: what is indexed, where it lies, its text, its vectors, and what failed. The only truth of a library.

An item, its vectors and its text become visible in one transaction. Nothing here knows models, files' content or FAISS.
`schema` opens the database, `plan` compares it with a scan, `indexing` writes, `lexical`, `filters` and `stored_vectors` read.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from sqlalchemy import delete, select, text, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from mmsearch import copies, indexing, integrity, left_out, lexical, recognised, schema, stored_vectors, twins
from mmsearch.errors import CatalogError, CorruptIndex, LibraryReplaced, SourceError
from mmsearch.filters import Filters, absolute, allowed_ids, read_ids, under_any
from mmsearch.items import Item, ItemDraft, Kind, Source, Vectors
from mmsearch.plan import KnownFile, Plan, Row, make_plan
from mmsearch.ranking.rank import TextMatches
from mmsearch.stored_vectors import Tail

__all__ = ["Catalog", "ErrorRow", "Filters", "KnownFile", "Plan", "SourceRow", "Tail"]

LITTLE_TEXT_CHARS = 60
"""A page with less text than this counts as a picture."""
LOG_BYTES, LOG_WAIT_S = 16 << 20, 1.0
"""A write-ahead log of this size is emptied after a commit; readers that are in the middle of something are waited for so long."""

BROWSED_AT_ONCE = 100
"""Files looked at together for `Catalog.first_items`."""

_ID = "SELECT value FROM meta WHERE key = 'id'"


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """A file that could not be indexed. `at` is in seconds since the epoch."""

    source_id: int
    path: Path
    type: str
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A file as the catalog holds it. `changed_at` is when `state` was last set, in seconds since the epoch; `ctime_ns`: see `Source`."""

    id: int
    path: Path
    sha256: str
    size_bytes: int
    modified_ns: int
    state: str
    item_count: int
    changed_at: float
    ctime_ns: int | None


@dataclass(frozen=True, slots=True)
class VideoRead:
    """An indexed video and what its clips remember of its subtitle files; see `ingest.subtitles.is_current`."""

    source_id: int
    path: Path
    sha256: str
    changed_at: float
    subtitles: dict[str, Any] | None
    has_text: bool


@dataclass(frozen=True, slots=True)
class SidecarsRead:
    """An indexed file and the stamp of its sidecars when its metadata were read (`ingest.sidecars`); None: they were not yet."""

    source_id: int
    path: Path
    sha256: str
    stamp: str | None


class Catalog:
    """An opened catalog; safe to use from several threads, and from several processes at once."""

    def __init__(self, folder: Path, engine: Engine, *, read_only: bool) -> None:
        self.folder = folder
        self.read_only = read_only
        self._engine = engine
        self._of_thread = threading.local()  # `connection`: the one of `steady`; `writing`: of `together`
        self._log_limit = LOG_BYTES
        self._place = schema.place_of(folder / schema.CATALOG_NAME)
        self._written: tuple[int, int] | None = (
            None  # when the file was last written to, and its size, when its id was looked at
        )
        self._id: str | None = None
        with suppress(CatalogError, SQLAlchemyError), engine.connect() as c:  # a damaged one is opened still
            self._id = c.execute(text(_ID)).scalar()
        # The pool keeps that connection open, so that no other file gets the inode.

    @classmethod
    def open(cls, folder: Path, *, create: bool = False, read_only: bool = False) -> Catalog:
        """Open the catalog in `folder`, migrating an older one; `read_only` becomes true by itself where it must.

        Raises:
            LibraryMissing, NewerSchema, CorruptIndex, CatalogError: see `mmsearch.schema.open_database`.
        """
        folder = absolute(folder)
        engine, read_only = schema.open_database(folder, create=create, read_only=read_only)
        return cls(folder, engine, read_only=read_only)

    @property
    def id(self) -> str:
        """Tells this catalog from every other: a snapshot of another one's vectors must not answer for it."""
        with self._reading() as c:
            return c.execute(text(_ID)).scalar() or self._lacks("id")

    @property
    def identity(self) -> tuple[object, ...]:
        """The id, device and inode of the catalog that was opened: differs for a copy that was put in its place, too."""
        return (self._id, *(self._place or ()))

    def refuse_if_replaced(self) -> None:
        """Raises LibraryReplaced if another file, or none, is where the opened one was, or another one was copied into it.

        SQLite would go on with the unlinked file, and mix what it holds in memory with what it reads from the other one.
        """
        file = self.folder / schema.CATALOG_NAME
        try:
            if schema.place_of(file) != self._place:
                self._replaced()
            status = file.stat()
        except OSError:
            return  # a disk that fails: SQLite says what it is
        if (written := (status.st_mtime_ns, status.st_size)) != self._written:
            if None not in (self._id, found := schema.id_in_file(file)) and found != self._id:
                self._replaced()
            self._written = written

    def _replaced(self) -> NoReturn:
        raise LibraryReplaced(
            f"the library at {self.folder} was deleted, or replaced by another one, while it was open: open it again"
        )

    def _connect(self) -> Connection:
        """A connection to the catalog that was opened. Raises LibraryReplaced."""
        self.refuse_if_replaced()  # a new connection would create the file again
        connection = self._engine.connect()
        try:
            self.refuse_if_replaced()  # or be one to the other file
        except LibraryReplaced:
            connection.invalidate()
            connection.close()
            raise
        return connection

    def _lacks(self, what: str) -> NoReturn:
        raise CorruptIndex(
            f"{self.folder / schema.CATALOG_NAME} is damaged (its {what} is gone): `mmsearch doctor --repair` mends it"
        )

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Inside, this thread reads the catalog as it is now, whatever others commit. To be short: the log cannot be cut meanwhile."""
        if getattr(self._of_thread, "connection", None) is not None:
            yield
            return
        with self._connect() as connection:
            _generation(connection)  # a transaction sees what is there when it first reads
            self._of_thread.connection = connection
            try:
                yield
            finally:
                self._of_thread.connection = None

    @contextmanager
    def together(self) -> Iterator[None]:
        """Inside, all that this thread writes is one transaction: a commit waits for the disk. To be short: other writers wait."""
        with self._writing() as connection:
            self._of_thread.writing = connection
            try:
                yield
            finally:
                self._of_thread.writing = None

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        if (writing := getattr(self._of_thread, "writing", None)) is not None:
            yield writing
            return
        if (steady := getattr(self._of_thread, "connection", None)) is not None:
            yield steady
            return
        with self._connect() as connection:
            yield connection

    def refuse_if_read_only(self) -> None:
        """Raises CatalogError."""
        if self.read_only:
            why = "" if os.access(self.folder, os.W_OK) else ", since its folder, or the disk, cannot be written"
            raise CatalogError(f"the library at {self.folder} is open for reading only{why}")

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """One transaction that holds SQLite's write lock from its beginning, or the one of `together`."""
        if (writing := getattr(self._of_thread, "writing", None)) is not None:
            yield writing
            return
        self.refuse_if_read_only()
        with self._connect().execution_options(immediate=True) as connection, connection.begin():
            yield connection
        if getattr(self._of_thread, "connection", None) is None:
            self._cut_log()

    def _cut_log(self) -> None:
        """Empty the log if it is large. SQLite does so by itself only at a moment without readers, which need never come."""
        try:
            size = (self.folder / f"{schema.CATALOG_NAME}-wal").stat().st_size
        except OSError:
            return
        if size < self._log_limit:
            return
        with self._connect() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            raw.execute(f"PRAGMA busy_timeout = {int(LOG_WAIT_S * 1000)}").close()
            try:
                (is_busy, *_) = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.OperationalError:  # what was committed stands
                is_busy = True
            finally:
                raw.execute(f"PRAGMA busy_timeout = {int(schema.BUSY_TIMEOUT_S * 1000)}").close()
        self._log_limit = size + LOG_BYTES if is_busy else LOG_BYTES

    # ---- models and generations

    def generation(self) -> int:
        """Grows with every commit that alters what can be found."""
        with self._reading() as c:
            return _generation(c)

    def state(self) -> tuple[int, str | None]:
        """The generation and the active model key. Raises LibraryReplaced."""
        with self._reading() as c:
            row = c.execute(
                text(
                    "SELECT generation.value, models.key, id.value FROM meta generation"
                    " LEFT JOIN meta id ON id.key = 'id' LEFT JOIN meta active ON active.key = 'active_model' LEFT JOIN models ON models.id = active.value"
                    " WHERE generation.key = 'generation'"
                )
            ).first()
            if row is None:
                self._lacks("generation")
            if None not in (self._id, row[2]) and row[2] != self._id:
                self._replaced()
            return int(row[0]), row[1]

    def active_model_key(self) -> str | None:
        """The model key whose vectors answer queries; None in a library without items."""
        with self._reading() as c:
            return c.execute(
                text(
                    "SELECT models.key FROM meta JOIN models ON models.id = meta.value WHERE meta.key = 'active_model'"
                )
            ).scalar()

    def set_active_model_key(self, model_key: str) -> None:
        """Switch the generation that answers queries. Raises CatalogError if nothing was ever embedded with it."""
        with self._writing() as c:
            model = c.execute(select(schema.models.c.id).where(schema.models.c.key == model_key)).scalar()
            if model is None:
                raise CatalogError(f"no vectors of model {model_key} in {self.folder}")
            indexing.set_active(c, model)
            indexing.next_generation(c)

    def activate_if_complete(self, model_key: str) -> bool:
        """Switch to `model_key` if every indexed source that can be read is embedded by it. Returns whether it is active."""
        if self.active_model_key() == model_key:
            return True
        if self.sources_to_embed(model_key):
            return False
        self.set_active_model_key(model_key)
        return True

    def offline_count(self) -> int:
        """How many files are kept out of sight until their disk is back."""
        with self._reading() as c:
            return c.execute(text("SELECT count(*) FROM sources WHERE state = 'offline'")).scalar_one()

    def offline_files(self) -> dict[bytes, KnownFile]:
        """Files that are kept out of sight, by path, as far as the active model has embedded them: they need only be shown."""
        query = (
            "SELECT s.path, s.id, s.sha256, s.size_bytes, s.modified_ns, s.ctime_ns, s.state FROM sources s"
            " JOIN embedded e ON e.source_id = s.id AND e.model_id = (SELECT value FROM meta WHERE key = 'active_model')"
            " WHERE s.state = 'offline'"
        )
        with self._reading() as c:
            return {path: KnownFile(*rest) for path, *rest in c.execute(text(query))}

    def sources_to_embed(self, model_key: str) -> int:
        """How many indexed sources lack vectors of this model, leaving out those whose last reading failed."""
        with self._reading() as c:
            return c.execute(
                text(
                    "SELECT count(*) FROM sources s WHERE s.state = 'indexed'"
                    " AND NOT EXISTS (SELECT 1 FROM embedded e JOIN models m ON m.id = e.model_id"
                    "                 WHERE e.source_id = s.id AND m.key = :key)"
                    " AND NOT EXISTS (SELECT 1 FROM sources f WHERE f.path = s.path AND f.state = 'failed')"
                ),
                {"key": model_key},
            ).scalar_one()

    def model_keys(self) -> dict[str, int]:
        """Every model key that has vectors here, with its dim."""
        with self._reading() as c:
            return dict(c.execute(select(schema.models.c.key, schema.models.c.dim)).all())

    def is_multi_vector(self, model_key: str) -> bool:
        """Whether each item has many vectors of this model, one per token."""
        with self._reading() as c:
            return stored_vectors.shape_of(c, model_key)[1]

    def register_model(
        self, model_key: str, dim: int, name: str | None = None, *, is_multi_vector: bool = False
    ) -> None:
        """Make a model known before its first vector; `name` is what `load_embedder` takes.

        Raises:
            DimensionMismatch: known with another dim. CatalogError: known with another number of vectors per item.
        """
        with self._writing() as c:
            model_id = indexing.model_id(c, model_key, dim, is_multi_vector=is_multi_vector)
            if name is not None:
                c.execute(update(schema.models).where(schema.models.c.id == model_id).values(name=name))

    def model_name(self, model_key: str) -> str | None:
        """What `load_embedder` was given when this model was registered."""
        with self._reading() as c:
            return c.execute(select(schema.models.c.name).where(schema.models.c.key == model_key)).scalar()

    def vector_bytes(self, model_key: str) -> int:
        """What a model's vectors of visible items take in the catalog."""
        with self._reading() as c:
            query = (
                "SELECT coalesce(sum(length(v.data)), 0) FROM vectors v JOIN items i ON i.id = v.item_id"
                " WHERE i.visible = 1 AND v.model_id = (SELECT id FROM models WHERE key = :key)"
            )
            return c.execute(text(query), {"key": model_key}).scalar_one()

    def remove_model(self, model_key: str) -> None:
        """Delete a model's vectors for good. Raises CatalogError if it answers queries, or is not known here."""
        with self._writing() as c:
            active = "SELECT models.key FROM meta JOIN models ON models.id = meta.value WHERE meta.key = 'active_model'"
            if model_key == c.execute(text(active)).scalar():
                raise CatalogError(
                    f"{model_key} answers queries: switch to another model first (`mmsearch models use`)"
                )
            gone = c.execute(delete(schema.models).where(schema.models.c.key == model_key))
            if not gone.rowcount:
                raise CatalogError(f"no vectors of model {model_key} in {self.folder}")

    # ---- planning a run

    def videos_read(self) -> list[VideoRead]:
        """What the clips of each indexed video remember of its subtitle files, one row for each different memory."""
        query = (
            "SELECT s.id, s.path, s.sha256, s.changed_at, json_extract(i.meta, '$.subtitles'),"
            " max(i.text_source IS 'subtitle')"
            " FROM sources s JOIN items i ON i.source_id = s.id AND i.deleted_at IS NULL AND i.kind = 'clip'"
            " WHERE s.state = 'indexed' GROUP BY s.id, 5"
        )
        with self._reading() as c:
            return [
                VideoRead(
                    row[0],
                    Path(os.fsdecode(row[1])),
                    row[2],
                    row[3],
                    json.loads(row[4]) if row[4] else None,
                    bool(row[5]),
                )
                for row in c.execute(text(query))
            ]

    def sidecars_read(self, *, unread: bool = False) -> list[SidecarsRead]:
        """The stamp of the sidecars that were read of each indexed source; `unread`: only of sources whose metadata were not read."""
        only = " AND sidecars IS NULL" if unread else ""
        with self._reading() as c:
            rows = c.execute(text(f"SELECT id, path, sha256, sidecars FROM sources WHERE state = 'indexed'{only}"))
            return [SidecarsRead(row[0], Path(os.fsdecode(row[1])), row[2], row[3]) for row in rows]

    def note_sidecars(self, stamps: Mapping[int, str]) -> None:
        """Remember for sources, by id, that their metadata were looked at, and the stamp of their sidecars then."""
        if stamps:
            with self._writing() as c:
                rows = [{"id": source_id, "stamp": stamp} for source_id, stamp in stamps.items()]
                c.execute(text("UPDATE sources SET sidecars = :stamp WHERE id = :id"), rows)

    def known_files(self, roots: Sequence[Path]) -> dict[bytes, KnownFile]:
        """What is known of every path under `roots` (`os.fsencode`d): a file with this size and these times need not be opened."""
        known: dict[bytes, KnownFile] = {}
        columns = "path, id, sha256, size_bytes, modified_ns, ctime_ns, state"
        condition, parameters = under_any(roots)
        with self._reading() as c:
            # Failed last: what failed is the newest that is known of a path.
            rows = c.execute(
                text(
                    f"SELECT {columns} FROM sources WHERE state IN ('indexed', 'offline', 'failed') AND ({condition})"
                    " ORDER BY state = 'failed'"
                ),
                parameters,
            )
            for path, *rest in rows.all():
                known[path] = KnownFile(*rest)
        return known

    def plan(
        self,
        sources: Sequence[Source],
        roots: Sequence[Path],
        model_key: str,
        *,
        seen_unreadable: Collection[Path] = (),
        emptied: Collection[Path] = (),
        elsewhere: Collection[Path] = (),
        retry_failed: bool = False,
        prune: bool = False,
    ) -> Plan:
        """Compare a scan with what is known; changes nothing. See `Plan` and `mmsearch.plan.make_plan`."""
        condition, parameters = under_any([*roots, *elsewhere])
        with self._reading() as c:
            rows = [
                Row(*row)
                for row in c.execute(
                    text(
                        "SELECT s.id, s.path, s.sha256, s.size_bytes, s.modified_ns, s.ctime_ns, s.state,"
                        " e.source_id IS NOT NULL"
                        " FROM sources s LEFT JOIN models m ON m.key = :key"
                        " LEFT JOIN embedded e ON e.source_id = s.id AND e.model_id = m.id"
                        f" WHERE s.state IN ('indexed', 'offline', 'failed', 'pending') AND ({condition})"
                    ),
                    {"key": model_key, **parameters},
                ).all()
            ]
            stands = {(row.path, row.sha256) for row in rows}
            sought = {one.sha256 for one in sources if (os.fsencode(one.path), one.sha256) not in stands}
            held = c.execute(
                text(
                    "SELECT DISTINCT s.sha256 FROM sources s JOIN models m ON m.key = :key"
                    f" WHERE s.sha256 IN (SELECT value FROM json_each(:hashes)) AND {indexing.HELD}"
                ),
                {"key": model_key, "hashes": json.dumps(sorted(sought))},
            ).scalars()
            return make_plan(
                sources,
                rows,
                [*roots, *(root for root in _roots(c) if not {*root.parents}.isdisjoint(roots))],
                held=set(held),
                seen_unreadable=seen_unreadable,
                emptied=emptied,
                elsewhere=elsewhere,
                retry_failed=retry_failed,
                prune=prune,
            )

    def settle(self, plan: Plan, roots: Sequence[Path] = (), gone: Sequence[Path] = ()) -> None:
        """Do what a plan asks for without a model, in one transaction: touched, moved, returned, offline and missing sources.

        `roots` are remembered as scanned now. `gone` are not there: such a root is forgotten once no file is known under it.
        """
        with self._writing() as c:
            indexing.settle(c, plan, roots, gone)

    # ---- one source's life

    def begin_source(self, source: Source, *, model_key: str, replaces: int | None = None) -> int:
        """Announce that items of `source` follow. Returns its id.

        A source that holds the same content already keeps its id and its items (they get vectors of another model); an
        interrupted or failed attempt at the same content is taken up again, see `saved_ordinals`. With `replaces`, or where the
        path has items of other content, the new items stay out of sight until `finish_source`.
        """
        with self._writing() as c:
            return indexing.begin_source(c, source, model_key=model_key, replaces=replaces)

    def saved_ordinals(self, source_id: int, model_key: str) -> tuple[set[int], int]:
        """Which items of a source have their vector of this model already, so that a resumed run need not embed them again; and
        from which ordinal on it must read: the first item that lacks its vector, else the one after the last."""
        with self._reading() as c:
            ordinals = c.execute(
                text(
                    "SELECT i.ordinal, v.id IS NOT NULL FROM items i JOIN models m ON m.key = :key"
                    " LEFT JOIN vectors v ON v.item_id = i.id AND v.model_id = m.id"
                    " WHERE i.source_id = :source AND i.deleted_at IS NULL"
                ),
                {"source": source_id, "key": model_key},
            ).all()
        saved = {ordinal for ordinal, is_saved in ordinals if is_saved}
        lacking = [ordinal for ordinal, is_saved in ordinals if not is_saved]
        return saved, min(lacking, default=max(saved, default=-1) + 1)

    def save(
        self,
        source_id: int,
        drafts: Sequence[ItemDraft],
        vectors: np.ndarray | Sequence[np.ndarray],
        model_key: str,
        *,
        previews: Sequence[str | None] = (),
    ) -> list[int]:
        """`save_batch` for items of one source; `previews` may be empty. `vectors` is float32 [len(drafts), dim], or
        for a multi-vector model float32 [tokens, dim] of each."""
        rows = zip([source_id] * len(drafts), drafts, vectors, previews or [None] * len(drafts), strict=True)
        return self.save_batch(list(rows), model_key)

    def save_batch(
        self, rows: Sequence[tuple[int, ItemDraft, np.ndarray | None, str | None]], model_key: str
    ) -> list[int]:
        """Save (source id, draft, vector, preview path relative to the library) rows in one transaction.

        An item that stands at that place already keeps its id; its vector, its text and its metadata are set. Where the vector is None
        it keeps the one that it has, too.

        Returns:
            The items' ids, in order.

        Raises:
            DimensionMismatch: another dim than this model's other vectors.
            ValueError: a vector is not finite or not of unit length. CatalogError: a source is not being indexed; an item has no
                vector to keep.
        """
        if not rows:
            return []
        with self._writing() as c:
            return indexing.save_batch(c, rows, model_key)

    def finish_source(self, source_id: int, *, sidecars: str | None = None, reader_version: int | None = None) -> None:
        """The last item of a source is saved: it counts as indexed; the source that it replaces gives way in the same commit.

        Args:
            sidecars: their stamp when they were read; None leaves it as it is.
            reader_version: of the readers that told all its items, see `read_by_older`.
        """
        with self._writing() as c:
            indexing.finish_source(c, source_id, sidecars=sidecars, reader_version=reader_version)

    def read_by_older(self, reader_version: int) -> dict[bytes, int]:
        """The indexed files of which something was read by older readers than these: the source's id by its path."""
        query = "SELECT path, id FROM sources WHERE state = 'indexed' AND coalesce(reader_version, 0) < :version"
        with self._reading() as c:
            return dict(c.execute(text(query), {"version": reader_version}).all())

    def save_facts(self, source_id: int, facts: Sequence[Mapping[str, Any]], reader_version: int) -> None:
        """Put what a file's header tells in the place of what an older reader told; texts and vectors stay.

        Args:
            facts: metadata of all items of the source, or one for each by ordinal; empty to keep what is known.
        """
        with self._writing() as c:
            indexing.save_facts(c, source_id, facts, reader_version)

    def fail_source(self, source: Source | Path, error: SourceError, *, replaces: int | None = None) -> int:
        """Remember that a file could not be indexed, and why. Former items of that path stay searchable.

        Give a `Source` where the content was hashed, else its path. Items that were saved before the failure stay searchable
        too, unless they were meant to replace others. Returns the id of the error row.
        """
        with self._writing() as c:
            return indexing.fail_source(c, source, error, replaces=replaces)

    def move_source(self, source_id: int, source: Source) -> None:
        """The same content now lies elsewhere: items, ids and vectors stay."""
        with self._writing() as c:
            indexing.move(c, source_id, source, indexing.next_generation(c))

    def find_content(self, source: Source, model_key: str) -> int | None:
        """A source that has items of the same content, complete with vectors of this model: best what stood at this path before,
        then one that is searchable, one that was removed, one that is offline."""
        with self._reading() as c:
            same = (
                "SELECT s.id FROM sources s JOIN models m ON m.key = :key"
                f" WHERE s.sha256 = :sha256 AND {indexing.HELD}"
                " ORDER BY s.state = 'removed' AND s.path = :path DESC, s.state = 'indexed' DESC, s.state = 'removed' DESC, s.id DESC"
            )
            parameters = {"key": model_key, "sha256": source.sha256, "path": os.fsencode(source.path)}
            return c.execute(text(f"{same} LIMIT 1"), parameters).scalar()

    def copy_source(self, from_id: int, source: Source) -> int:
        """Index `source` by the items, texts and vectors of a source with the same content, without the model. Returns its id.

        A source that was removed comes back itself, and its items with their ids; of another one they are copied. What stood at
        this path gives way in the same commit.

        Raises:
            CatalogError: `from_id` holds other content, or none.
        """
        with self._writing() as c:
            return indexing.copy_source(c, from_id, source)

    def retire(self, source_ids: Collection[int], *, offline: bool = False) -> None:
        """Take sources out of sight: tombstones, or with `offline` only hidden until `bring_back`."""
        if source_ids:
            with self._writing() as c:
                state = "offline" if offline else "removed"
                indexing.hide(c, source_ids, indexing.next_generation(c), state=state)

    def bring_back(self, source_ids: Collection[int]) -> None:
        """Offline sources are there again."""
        if source_ids:
            with self._writing() as c:
                indexing.show(c, source_ids, indexing.next_generation(c))

    # ---- recognised print

    def waiting_print(
        self, roots: Sequence[Path], *, languages: str, engines: Sequence[str], retry_failed: bool = False
    ) -> list[recognised.Waiting]:
        """The pages and pictures under `roots` whose print is still to be read, in order of worth. See `recognised.waiting`."""
        condition, parameters = under_any(roots)
        with self._reading() as c:
            return recognised.waiting(
                c, condition, parameters, languages=languages, engines=engines, retry_failed=retry_failed
            )

    def unjudged_pages(self, roots: Sequence[Path], *, after_id: int = 0, count: int = 1000) -> list[tuple[int, str]]:
        """(id, text) of pages of which nobody has said yet whether their print must be read, by id; for `mark_print`."""
        condition, parameters = under_any(roots)
        with self._reading() as c:
            return [(row[0], row[1]) for row in recognised.unjudged_pages(c, condition, parameters, after_id, count)]

    def mark_print(self, ids: Collection[int], *, has_print: bool) -> None:
        """Say whether items show print that their text lacks."""
        if ids:
            with self._writing() as c:
                recognised.mark(c, ids, has_print)

    def save_print(self, readings: Sequence[recognised.Reading], languages: str, model_key: str) -> int:
        """Save what was read. In one transaction the results are kept, and the items of that content get their text and vector.

        Only vectors that `model_key` has of these items already are replaced; those of other models stay.

        Returns:
            How many items changed their text.

        Raises:
            ValueError: a vector is not finite or not of unit length.
        """
        if not readings:
            return 0
        with self._writing() as c:
            generation = indexing.next_generation(c)
            return sum(recognised.save(c, one, languages, model_key, generation) for one in readings)

    def recognised_texts(self, places: Collection[recognised.Place]) -> dict[recognised.Place, str]:
        """What was read in these places before, where any text was found."""
        if not places:
            return {}
        with self._reading() as c:
            return recognised.texts(c, places)

    def recognised_in(self, item: Item) -> recognised.RecognisedText | None:
        """What was read in an item, with the places of its lines and words; None where nothing was read."""
        with self._reading() as c:
            sha256 = c.execute(text("SELECT sha256 FROM sources WHERE id = :id"), {"id": item.source_id}).scalar()
            return None if sha256 is None else recognised.of_place(c, recognised.Place(sha256, item.ordinal))

    def print_errors(self) -> list[ErrorRow]:
        """Pages and pictures whose print could not be read, by path; they stay searchable by sight."""
        with self._reading() as c:
            return [
                ErrorRow(source_id, Path(os.fsdecode(path)), type_, _unread(kind, page_number, reason), at)
                for source_id, path, kind, page_number, type_, reason, at in recognised.errors(c)
            ]

    # ---- what is there

    def note_left_out(self, roots: Sequence[Path], found: left_out.LeftOuts) -> None:
        """Remember what the last look at `roots` passed over, in the place of what was known of them."""
        if roots:
            with self._writing() as c:
                left_out.replace(c, roots, found)

    def left_out(self) -> left_out.LeftOuts:
        """What the last look at each folder passed over, and why."""
        with self._reading() as c:
            return left_out.load(c)

    def errors(self) -> list[ErrorRow]:
        """What could not be indexed, by path."""
        with self._reading() as c:
            rows = c.execute(
                select(schema.sources).where(schema.sources.c.state == "failed").order_by(schema.sources.c.path)
            )
            return [
                ErrorRow(row.id, Path(os.fsdecode(row.path)), row.error_type, row.error_reason, row.changed_at)
                for row in rows
            ]

    def clear_errors(self, source_ids: Collection[int] | None = None) -> int:
        """Forget failures (all, or these), so that the next run tries those files again. Returns how many."""
        with self._writing() as c:
            failed = set(c.execute(select(schema.sources.c.id).where(schema.sources.c.state == "failed")).scalars())
            chosen = failed if source_ids is None else failed & set(source_ids)
            if chosen:
                indexing.hide(c, chosen, indexing.next_generation(c), state="removed")
            return len(chosen)

    def sources(
        self, *, under: Path | None = None, states: Collection[str] = ("indexed", "offline")
    ) -> list[SourceRow]:
        """The files held, by path."""
        condition, parameters = under_any([under] if under is not None else [])
        with self._reading() as c:
            rows = c.execute(
                text(
                    "SELECT id, path, sha256, size_bytes, modified_ns, state, item_count, changed_at, ctime_ns FROM sources"
                    f" WHERE ({condition}) AND state IN (SELECT value FROM json_each(:states)) ORDER BY path"
                ),
                {**parameters, "states": json.dumps(sorted(states))},
            )
            return [SourceRow(row[0], Path(os.fsdecode(row[1])), *row[2:]) for row in rows]

    def roots(self) -> dict[Path, float]:
        """The folders ever ingested, with the time of their last scan in seconds since the epoch."""
        with self._reading() as c:
            return _roots(c)

    def counts(self, model_key: str | None = None) -> dict[str, dict[str, int]]:
        """{"items": per kind, visible; "vectors": per kind, of this model (default: the active one); "sources": per state}."""
        model_key = model_key or self.active_model_key()
        vectors = (
            "SELECT i.kind, count(*) FROM vectors v JOIN items i ON i.id = v.item_id WHERE i.visible = 1"
            " AND v.model_id = (SELECT id FROM models WHERE key = :key) GROUP BY i.kind"
        )
        states = "SELECT state, count(*) FROM sources WHERE state != 'removed' GROUP BY state"
        with self._reading() as c:
            return {
                "items": dict(c.execute(text(_ITEM_COUNTS)).all()),
                "vectors": dict(c.execute(text(vectors), {"key": model_key}).all()),
                "sources": dict(c.execute(text(states)).all()),
            }

    def pages_without_text(self) -> np.ndarray:
        """int64, ascending: visible pages of which hardly more than the picture is known (a page number, a footer)."""
        with self._reading() as c:
            query = "SELECT id FROM items WHERE visible = 1 AND kind = 'page' AND length(text) < :least"
            return read_ids(c, query, {"least": LITTLE_TEXT_CHARS})

    def item_counts(self) -> dict[Kind, int]:
        """How many items of each kind can be found."""
        with self._reading() as c:
            return dict(c.execute(text(_ITEM_COUNTS)).all())

    def item(self, item_id: int) -> Item:
        """Raises KeyError if no visible item has this id."""
        found = self.items([item_id])
        if not found:
            raise KeyError(item_id)
        return found[0]

    def items(self, ids: Sequence[int] | np.ndarray) -> list[Item]:
        """The visible items among `ids`, in the order asked for."""
        with self._reading() as c:
            rows = c.execute(
                text(
                    "SELECT i.id, i.source_id, s.path, i.kind, i.ordinal, i.page_number, i.start_s, i.end_s, i.text, i.meta,"
                    " i.preview, i.text_source, i.description FROM items i JOIN sources s ON s.id = i.source_id"
                    " WHERE i.visible = 1 AND i.id IN (SELECT value FROM json_each(:ids))"
                ),
                {"ids": _json_ids(ids)},
            )
            found = {row.id: self._item(row) for row in rows}
        return [found[i] for i in map(int, ids) if i in found]

    def first_items(
        self,
        kinds: Sequence[Kind],
        allowed: np.ndarray | None = None,
        *,
        limit: int,
        offset: int = 0,
        all_copies: bool = False,
    ) -> list[Item]:
        """One visible item (its first) of each source, what was added last first: for browsing without a query.

        Sources that count as one answer (`twins`) give one item, of a Live Photo the photo; with `all_copies` each gives its own.
        """
        among = "" if allowed is None else " AND id IN (SELECT value FROM json_each(:allowed))"
        newest = text(
            "SELECT source_id, min(id), kind FROM items WHERE visible = 1 AND kind IN (SELECT value FROM json_each(:kinds))"
            f"{among} AND source_id < :below GROUP BY source_id ORDER BY source_id DESC LIMIT :count"
        )
        parameters = {"kinds": json.dumps(list(kinds)), "allowed": None if allowed is None else _json_ids(allowed)}
        shown: dict[Any, tuple[int, Kind]] = {}
        below, wanted = 2**63 - 1, offset + limit
        with self._reading() as c:
            while len(shown) < wanted:
                count = max(BROWSED_AT_ONCE, wanted - len(shown))
                rows = c.execute(newest, {**parameters, "below": below, "count": count}).all()
                of_item = {} if all_copies else twins.keys(c, [item_id for _, item_id, _ in rows])
                for _, item_id, kind in rows:
                    key = of_item.get(item_id, item_id)
                    if key not in shown or (kind == "image" and shown[key][1] != "image"):
                        shown[key] = item_id, kind
                if len(rows) < count:
                    break
                below = rows[-1][0]
        return self.items([item_id for item_id, _ in shown.values()][offset:wanted])

    def answers(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """int64 [n], a number for each of `ids`: items of one number count as one answer, see `twins`. What is not visible stands alone."""
        with self._reading() as c:
            of_item = twins.keys(c, ids)
        numbers: dict[Any, int] = {}
        return np.array([numbers.setdefault(of_item.get(int(one), int(one)), len(numbers)) for one in ids], np.int64)

    def also_at(self, items: Sequence[Item]) -> dict[int, tuple[Path, ...]]:
        """For items by their ids: the other files that count as the same answer, those in the same folder first."""
        with self._reading() as c:
            return twins.also_at(c, items)

    def items_of(self, source_id: int) -> list[Item]:
        """The visible items of a source, by ordinal: the pages around a hit."""
        with self._reading() as c:
            of_source = text("SELECT id FROM items WHERE source_id = :id AND visible = 1 ORDER BY ordinal")
            ids = c.execute(of_source, {"id": source_id}).scalars().all()
        return self.items(ids)

    def _item(self, row: Any) -> Item:
        return Item(
            id=row.id,
            source_id=row.source_id,
            path=Path(os.fsdecode(row.path)),
            kind=row.kind,
            ordinal=row.ordinal,
            page_number=row.page_number,
            start_s=row.start_s,
            end_s=row.end_s,
            text=row.text,
            meta=_facts(row.meta),
            preview=self.folder / row.preview if row.preview and integrity.is_preview(row.preview) else None,
            text_source=row.text_source,
            description=row.description,
        )

    # ---- vectors

    def iter_vectors(
        self, model_key: str, kind: Kind, *, after_id: int = 0, block: int = 4096
    ) -> Iterator[tuple[np.ndarray, Vectors]]:
        """Blocks of (ids int64 [n] ascending, their `Vectors`) of the visible items of a kind."""
        while True:
            with self._reading() as c:
                ids, vectors = stored_vectors.block_after(c, model_key, kind, after_id, block)
            if not len(ids):
                return
            yield ids, vectors
            after_id = int(ids[-1])

    def tail(self, model_key: str, kind: Kind, since: int) -> Tail:
        """What a vector store that has caught up with generation `since` lacks, read in one transaction."""
        with self._reading() as c:
            return stored_vectors.tail(c, model_key, kind, since)

    def vector_sums(self, model_key: str, kind: Kind, generation: int) -> tuple[int, int] | None:
        """Number and sum of the ids that a store at this generation must hold; None if the catalog has gone on since."""
        with self._reading() as c:
            if _generation(c) != generation:
                return None
            return stored_vectors.sums(c, model_key, kind)

    def vectors_of(self, ids: Sequence[int] | np.ndarray, model_key: str) -> tuple[np.ndarray, Vectors]:
        """The ids (int64, ascending) among `ids` that are visible and have vectors of this model, and those `Vectors`."""
        with self._reading() as c:
            return stored_vectors.vectors_of(c, ids, model_key)

    def generic_queries(self, model_key: str, kind: Kind, version: str) -> Vectors | None:
        """The encoded generic queries that `save_generic_queries` stored; None if absent, outdated or damaged."""
        with self._reading() as c:
            row = c.execute(
                text(
                    "SELECT data, dim, is_multi_vector FROM calibrations JOIN models ON models.id = model_id"
                    " WHERE key = :key AND kind = :kind AND version = :version"
                ),
                {"key": model_key, "kind": kind, "version": version},
            ).first()
        is_sound = stored_vectors.are_sound if row is not None and row.is_multi_vector else stored_vectors.is_sound
        if row is None or not is_sound(row.data, row.dim):
            return None
        from_blob = stored_vectors.many_from_blob if row.is_multi_vector else stored_vectors.from_blob
        return from_blob(row.data, row.dim)

    def save_generic_queries(self, model_key: str, kind: Kind, version: str, encoded: Vectors) -> None:
        """Keep what calibration needs of a known model, the queries' `Vectors`, so that no later search encodes it again."""
        checked = stored_vectors.checked_items(list(encoded))
        is_multi = checked[0].ndim == 2
        data = stored_vectors.many_to_blob(checked) if is_multi else stored_vectors.to_blob(np.stack(checked))
        values = {"version": version, "data": data}
        with self._writing() as c:
            if not stored_vectors.shape_of(c, model_key)[0]:
                return  # it was removed while a search was at work
            model = indexing.model_id(c, model_key, checked[0].shape[-1], is_multi_vector=is_multi)
            new = upsert(schema.calibrations).values(model_id=model, kind=kind, **values)
            c.execute(new.on_conflict_do_update(index_elements=["model_id", "kind"], set_=values))

    # ---- searching

    def allowed_ids(self, filters: Filters, kinds: Sequence[Kind]) -> np.ndarray | None:
        """The visible items (int64, ascending) of these kinds that pass the filters; None if nothing but kinds is asked for."""
        with self._reading() as c:
            return allowed_ids(c, filters, kinds)

    def match_text(
        self, query: str, k: int, kinds: Sequence[Kind], allowed: np.ndarray | None = None, *, total: int | None = None
    ) -> TextMatches:
        """Items whose text or file name holds words of `query`; see `mmsearch.lexical.match`."""
        with self._reading() as c:
            return lexical.match(c, query, k, kinds, allowed, total)

    def holding(self, words: str) -> np.ndarray:
        """int64, ascending: the items whose text or file name holds all of some words."""
        with self._reading() as c:
            return lexical.holding(c, words)

    def known_words(self, words: Sequence[str]) -> set[str]:
        """Those of `words` that at least one item holds."""
        with self._reading() as c:
            return lexical.known_words(c, words)

    def visible_ids(self, kinds: Sequence[Kind]) -> np.ndarray:
        """int64, ascending: all items of these kinds that can be found."""
        with self._reading() as c:
            of_kinds = "SELECT id FROM items WHERE visible = 1 AND kind IN (SELECT value FROM json_each(:kinds))"
            return read_ids(c, of_kinds, {"kinds": json.dumps(list(kinds))})

    def snippets(self, query: str, ids: Sequence[int]) -> dict[int, str]:
        """For each of `ids` the passage of its text that holds most words of `query`, if any."""
        with self._reading() as c:
            return lexical.snippets(c, query, ids)

    # ---- upkeep

    def faults(self) -> list[str]:
        """What is wrong with the database itself: nothing derived, and nothing that could be mended here."""
        with self._reading() as c:
            return integrity.faults(c)

    def odd_objects(self) -> list[str]:
        """Names of indexes and triggers that are missing or changed, and of triggers and views that are not mmsearch's."""
        with self._reading() as c:
            return integrity.odd_objects(schema.objects(c), schema.new_objects())

    def mend_objects(self, names: list[str]) -> None:
        """Make them anew, or drop them. Raises CorruptIndex where rows stand against it."""
        try:
            with self._writing() as c:
                integrity.mend_objects(c, names, schema.objects(c), schema.new_objects())
        except IntegrityError as error:
            raise CorruptIndex(
                f"{self.folder / schema.CATALOG_NAME} holds rows twice that must be there once ({error.orig}): restore a backup, "
                "or move it away and ingest again"
            ) from error

    def meta_faults(self) -> list[str]:
        """What is wrong with the catalog's id, its generation or its active model, which `mend_meta` finds again."""
        with self._reading() as c:
            return integrity.meta_faults(c)

    def mend_meta(self) -> None:
        with self._writing() as c:
            integrity.mend_meta(c)

    def orphans(self) -> dict[str, int]:
        """How many rows of which table belong to nothing."""
        with self._reading() as c:
            return integrity.orphans(c)

    def delete_orphans(self) -> None:
        with self._writing() as c:
            integrity.delete_orphans(c)
            indexing.next_generation(c)

    def misplaced(self) -> dict[str, int]:
        """How many items are shown, hidden or kept though their file's state says otherwise."""
        with self._reading() as c:
            return integrity.misplaced(c)

    def place_items(self) -> None:
        """Show and hide items as their files' states say."""
        with self._writing() as c:
            integrity.place(c, indexing.next_generation(c), time.time())

    def unreadable(self) -> integrity.Unreadable:
        """Items whose text or facts are damaged, and previews that are none of the library's."""
        with self._reading() as c:
            return integrity.unreadable(c)

    def read_again(self, source_ids: set[int]) -> None:
        """Let the next ingest read these files as if they had changed; until then their items stay."""
        with self._writing() as c:
            integrity.read_again(c, source_ids)

    def forget_previews(self, item_ids: list[int]) -> None:
        with self._writing() as c:
            integrity.forget_previews(c, item_ids)

    def odd_calibrations(self) -> list[tuple[int, str]]:
        """(model id, kind) of damaged `generic_queries`."""
        with self._reading() as c:
            return integrity.odd_calibrations(c)

    def forget_calibrations(self, which: list[tuple[int, str]]) -> None:
        """They are encoded anew when they are next needed."""
        with self._writing() as c:
            integrity.forget_calibrations(c, which)

    def items_with_previews(self, names: Collection[str]) -> list[Item]:
        """The visible items that have one of these previews."""
        with self._reading() as c:
            query = "SELECT id FROM items WHERE visible = 1 AND preview IN (SELECT value FROM json_each(:names))"
            ids = read_ids(c, query, {"names": json.dumps(sorted(names))})
        return self.items(ids)

    def lexical_faults(self) -> list[str]:
        """What is wrong with the full-text tables, which `rebuild_lexical` fills anew."""
        with self._writing() as c:
            return integrity.lexical_faults(c)

    def rebuild_lexical(self) -> None:
        with self._writing() as c:
            integrity.rebuild_lexical(c)

    def gaps(self, model_key: str) -> integrity.Gaps:
        """Items without a sound vector of a model, and sources that count their items wrongly."""
        with self._reading() as c:
            return integrity.gaps(c, model_key)

    def forget_embedded(self, item_ids: Sequence[int], model_key: str) -> int:
        """Let the sources of these items wait for the model again. Returns how many they are."""
        with self._writing() as c:
            indexing.next_generation(c)
            return integrity.forget_embedded(c, list(item_ids), model_key)

    def recount(self, source_ids: Sequence[int]) -> None:
        with self._writing() as c:
            integrity.recount(c, list(source_ids))

    def used_previews(self) -> set[str]:
        """The previews of all items, deleted ones included until `compact`, relative to the library."""
        with self._reading() as c:
            return integrity.used_previews(c)

    def copy_to(self, file: Path) -> None:
        """Write a consistent copy of the database as it is now, while others go on reading and writing.

        Raises:
            CorruptIndex: the copy is not sound, so the catalog is damaged; the copy is removed.
        """
        with self._connect() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            try:
                copies.copy_database(raw, self.folder / schema.CATALOG_NAME, file)
            except sqlite3.Error as error:
                schema.translate_error(error, file)
                raise

    def compact(self) -> list[str]:
        """Delete tombstones and vectors of other models for good; `vacuum` gives their space back.

        Returns:
            Preview paths (relative to the library) that no item uses any longer.
        """
        with self._writing() as c:
            before = set(c.execute(text("SELECT DISTINCT preview FROM items WHERE preview IS NOT NULL")).scalars())
            indexing.note_compacted(c)
            c.execute(text("DELETE FROM items WHERE deleted_at IS NOT NULL"))
            c.execute(text("DELETE FROM sources WHERE state = 'removed'"))
            c.execute(text("DELETE FROM recognised WHERE sha256 NOT IN (SELECT sha256 FROM sources)"))
            c.execute(
                text(
                    "DELETE FROM models WHERE key != (SELECT models.key FROM meta JOIN models ON models.id = meta.value"
                    " WHERE meta.key = 'active_model')"
                )
            )
            after = set(c.execute(text("SELECT DISTINCT preview FROM items WHERE preview IS NOT NULL")).scalars())
            for table in ("words", "trigrams"):
                c.execute(text(f"INSERT INTO {table}({table}) VALUES ('optimize')"))
        return sorted(filter(integrity.is_preview, before - after))

    def vacuum(self) -> None:
        """Write the file anew without its empty pages. Raises DiskFull: there must be room for it twice more."""
        schema.vacuum(self._engine, self.folder / schema.CATALOG_NAME)


_ITEM_COUNTS = "SELECT kind, count(*) FROM items WHERE visible = 1 GROUP BY kind"


def _unread(kind: Kind, page_number: int | None, reason: str) -> str:
    where = f"the print of page {page_number}" if kind == "page" else "its print"
    return f"{where} was not read: {reason}"


def _roots(c: Connection) -> dict[Path, float]:
    rows = c.execute(select(schema.roots).order_by(schema.roots.c.path))
    return {Path(os.fsdecode(path)): at for path, at in rows}


def _generation(c: Connection) -> int:
    if (found := c.execute(text("SELECT value FROM meta WHERE key = 'generation'")).scalar()) is None:
        raise CatalogError("the catalog does not say its generation: `mmsearch doctor --repair` puts it back")
    return int(found)


def _facts(meta: str) -> dict[str, Any]:
    """`items.meta`; {} where it was damaged, which `mmsearch doctor` finds."""
    try:
        found = json.loads(meta)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _json_ids(ids: Sequence[int] | np.ndarray) -> str:
    return json.dumps([int(i) for i in ids])
