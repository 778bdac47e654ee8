"""The catalog: what is indexed, where it lies, its text, its vectors, and what failed. The only truth of a library.

An item, its vectors and its text become visible in one transaction. Nothing here knows models, files' content or FAISS.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from datetime import time as time_of_day
from pathlib import Path
from typing import Any, cast

import numpy as np
from sqlalchemy import bindparam, delete, insert, select, text, update
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import Connection, Engine

from mmsearch import lexical
from mmsearch.errors import CatalogError, DimensionMismatch, SourceError
from mmsearch.items import Item, ItemDraft, Kind, Source
from mmsearch.lexical import TextMatches
from mmsearch.plan import KnownFile, Plan, Row, make_plan
from mmsearch.schema import (
    calibrations,
    embedded,
    items,
    meta,
    models,
    open_database,
    roots,
    sources,
    vectors,
)

__all__ = ["Catalog", "ErrorRow", "Filters", "KnownFile", "Plan", "SourceRow", "Tail"]

UNIT_TOLERANCE = 1e-3
"""How far from 1 the length of a vector may be when it is saved."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Which items a search may return; applied before the search.

    Attributes:
        kinds: only these; empty means all.
        path_globs: any of these must match: `*.pdf`, `talks/**`, `/abs/talks`. A pattern may begin at any folder, a pattern
            that matches a folder takes all in it, and letter case does not matter.
        after: from this day (or moment) on. before: earlier than this day (or moment). By capture time, else file time;
            without a time zone they are local time.
        under: only files at or below this path.
    """

    kinds: tuple[Kind, ...] = ()
    path_globs: tuple[str, ...] = ()
    after: date | datetime | None = None
    before: date | datetime | None = None
    under: Path | None = None

    def restricts_items(self) -> bool:
        """Whether anything but the kind is asked for."""
        return bool(self.path_globs) or self.after is not None or self.before is not None or self.under is not None


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
    """A file as the catalog holds it. `changed_at` is in seconds since the epoch."""

    id: int
    path: Path
    sha256: str
    size_bytes: int
    modified_ns: int
    state: str
    item_count: int
    changed_at: float


@dataclass(frozen=True, slots=True)
class Tail:
    """What changed for one model and kind since a generation: `added` int64 [n] with `vectors` float16 [n, dim]; `removed`."""

    generation: int
    added: np.ndarray
    vectors: np.ndarray
    removed: np.ndarray


class Catalog:
    """An opened catalog; safe to use from several threads, and from several processes at once."""

    def __init__(self, folder: Path, engine: Engine, *, read_only: bool) -> None:
        self.folder = folder
        self.read_only = read_only
        self._engine = engine

    @classmethod
    def open(cls, folder: Path, *, create: bool = False, read_only: bool = False) -> Catalog:
        """Open the catalog in `folder`, migrating an older one; `read_only` becomes true by itself where it must.

        Raises:
            LibraryMissing, NewerSchema, CorruptIndex, CatalogError: see `mmsearch.schema.open_database`.
        """
        folder = Path(os.path.abspath(folder))
        engine, read_only = open_database(folder, create=create, read_only=read_only)
        return cls(folder, engine, read_only=read_only)

    @property
    def id(self) -> str:
        """Tells this catalog from every other: a snapshot of another one's vectors must not answer for it."""
        with self._reading() as c:
            return c.execute(text("SELECT value FROM meta WHERE key = 'id'")).scalar_one()

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """One transaction that holds SQLite's write lock from its beginning."""
        if self.read_only:
            raise CatalogError(f"the library at {self.folder} is open for reading only")
        with self._engine.connect().execution_options(immediate=True) as connection, connection.begin():
            yield connection

    # ---- models and generations

    def generation(self) -> int:
        """Grows with every commit that alters what can be found."""
        with self._reading() as c:
            return int(c.execute(text("SELECT value FROM meta WHERE key = 'generation'")).scalar_one())

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
            model_id = c.execute(select(models.c.id).where(models.c.key == model_key)).scalar()
            if model_id is None:
                raise CatalogError(f"no vectors of model {model_key} in {self.folder}")
            _set_active(c, model_id)
            _next_generation(c)

    def activate_if_complete(self, model_key: str) -> bool:
        """Switch to `model_key` if every indexed source that can be read is embedded by it. Returns whether it is active."""
        if self.active_model_key() == model_key:
            return True
        if self.sources_to_embed(model_key):
            return False
        self.set_active_model_key(model_key)
        return True

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
            return {key: dim for key, dim in c.execute(select(models.c.key, models.c.dim))}

    def register_model(self, model_key: str, dim: int, name: str | None = None) -> None:
        """Make a model known before its first vector; `name` is what `load_embedder` takes.

        Raises:
            DimensionMismatch: known with another dim.
        """
        with self._writing() as c:
            model_id = _model_id(c, model_key, dim)
            if name is not None:
                c.execute(update(models).where(models.c.id == model_id).values(name=name))

    def model_name(self, model_key: str) -> str | None:
        """What `load_embedder` was given when this model was registered."""
        with self._reading() as c:
            return c.execute(select(models.c.name).where(models.c.key == model_key)).scalar()

    # ---- planning a run

    def known_files(self, roots: Sequence[Path]) -> dict[bytes, KnownFile]:
        """What is known of every path under `roots` (`os.fsencode`d): a file with this size and time need not be opened."""
        known: dict[bytes, KnownFile] = {}
        columns = "path, id, sha256, size_bytes, modified_ns, state"
        condition, parameters = _under_any(roots)
        with self._reading() as c:
            # Failed last: what failed is the newest that is known of a path.
            rows = c.execute(
                text(
                    f"SELECT {columns} FROM sources WHERE state IN ('indexed', 'offline', 'failed') AND ({condition})"
                    " ORDER BY state = 'failed'"
                ),
                parameters,
            )
            for path, *rest in rows:
                known[path] = KnownFile(*rest)
        return known

    def plan(
        self,
        sources: Sequence[Source],
        roots: Sequence[Path],
        model_key: str,
        *,
        seen_unreadable: Collection[Path] = (),
        retry_failed: bool = False,
        prune: bool = False,
    ) -> Plan:
        """Compare a scan with what is known; changes nothing. See `Plan` and `mmsearch.plan.make_plan`."""
        condition, parameters = _under_any(roots)
        with self._reading() as c:
            rows = [
                Row(*row)
                for row in c.execute(
                    text(
                        "SELECT s.id, s.path, s.sha256, s.size_bytes, s.modified_ns, s.state, e.source_id IS NOT NULL"
                        " FROM sources s LEFT JOIN models m ON m.key = :key"
                        " LEFT JOIN embedded e ON e.source_id = s.id AND e.model_id = m.id"
                        f" WHERE s.state IN ('indexed', 'offline', 'failed') AND ({condition})"
                    ),
                    {"key": model_key, **parameters},
                )
            ]
            elsewhere = c.execute(
                text(f"SELECT sha256 FROM sources WHERE state = 'indexed' AND NOT ({condition})"), parameters
            ).scalars()
            return make_plan(
                sources,
                rows,
                roots,
                elsewhere=set(elsewhere),
                seen_unreadable=seen_unreadable,
                retry_failed=retry_failed,
                prune=prune,
            )

    def settle(self, plan: Plan, roots: Sequence[Path] = ()) -> None:
        """Do what a plan asks for without a model, in one transaction: touched, moved, returned, offline and missing sources."""
        with self._writing() as c:
            for source_id, source in plan.touched:
                c.execute(
                    update(_sources)
                    .where(_sources.c.id == source_id)
                    .values(size_bytes=source.size_bytes, modified_ns=source.modified_ns)
                )
            for source_id, source in plan.moved:
                self._move(c, source_id, source)
            if plan.moved or plan.returned or plan.offline or plan.missing:
                generation = _next_generation(c)
                self._show(c, [*plan.returned, *(source_id for source_id, _ in plan.moved)], generation)
                self._hide(c, plan.offline, generation, state="offline")
                self._hide(c, plan.missing, generation, state="removed")
            now = time.time()
            for root in roots:
                c.execute(
                    sqlite_insert(_roots)
                    .values(path=os.fsencode(root), scanned_at=now)
                    .on_conflict_do_update(index_elements=["path"], set_={"scanned_at": now})
                )

    # ---- one source's life

    def begin_source(self, source: Source, *, model_key: str, replaces: int | None = None) -> int:
        """Announce that items of `source` follow. Returns its id.

        A source that holds the same content already keeps its id and its items (they get vectors of another model); an
        interrupted or failed attempt at the same content is taken up again, see `saved_ordinals`. With `replaces` the new
        items stay out of sight until `finish_source`.
        """
        path = os.fsencode(source.path)
        with self._writing() as c:
            live = {
                row.state: row
                for row in c.execute(
                    select(_sources.c.id, _sources.c.state, _sources.c.sha256, _sources.c.replaces).where(
                        _sources.c.path == path, _sources.c.state.in_(("indexed", "offline", "pending", "failed"))
                    )
                )
            }
            holder = live.get("indexed") or live.get("offline")
            attempt = live.get("pending") or live.get("failed")
            is_resumed = attempt is not None and attempt.sha256 == source.sha256
            if attempt is not None and not is_resumed:
                self._hide(c, [attempt.id], _next_generation(c), state="removed")
            if holder is not None and holder.sha256 == source.sha256:
                if is_resumed and attempt is not None:
                    self._hide(c, [attempt.id], _next_generation(c), state="removed")
                c.execute(update(_sources).where(_sources.c.id == holder.id).values(model_key=model_key))
                return holder.id
            if holder is not None and replaces is None:
                replaces = holder.id
            values = {
                "path": path,
                "name": _display(source.path),
                "sha256": source.sha256,
                "size_bytes": source.size_bytes,
                "modified_ns": source.modified_ns,
                "state": "pending",
                "replaces": replaces,
                "error_type": None,
                "error_reason": None,
                "model_key": model_key,
                "changed_at": time.time(),
            }
            if is_resumed and attempt is not None:
                c.execute(update(_sources).where(_sources.c.id == attempt.id).values(**values))
                return attempt.id
            return _inserted(c, values)

    def saved_ordinals(self, source_id: int, model_key: str) -> set[int]:
        """Which items of a source have their vector of this model already: a resumed run need not embed them again."""
        with self._reading() as c:
            return set(
                c.execute(
                    text(
                        "SELECT i.ordinal FROM items i JOIN vectors v ON v.item_id = i.id JOIN models m ON m.id = v.model_id"
                        " WHERE i.source_id = :source AND i.deleted_at IS NULL AND m.key = :key"
                    ),
                    {"source": source_id, "key": model_key},
                ).scalars()
            )

    def save(
        self,
        source_id: int,
        drafts: Sequence[ItemDraft],
        vectors: np.ndarray,
        model_key: str,
        *,
        previews: Sequence[str | None] = (),
    ) -> list[int]:
        """`save_batch` for items of one source; `previews` may be empty. `vectors` is float32 [len(drafts), dim]."""
        previews = previews or [None] * len(drafts)
        rows = zip([source_id] * len(drafts), drafts, vectors, previews, strict=True)
        return self.save_batch(list(rows), model_key)

    def save_batch(self, rows: Sequence[tuple[int, ItemDraft, np.ndarray, str | None]], model_key: str) -> list[int]:
        """Save (source id, draft, vector, preview path relative to the library) rows in one transaction.

        An item that stands at that place already keeps its id, and only its vector is set.

        Returns:
            The items' ids, in order.

        Raises:
            DimensionMismatch: another dim than this model's other vectors.
            ValueError: a vector is not finite or not of unit length. CatalogError: a source is not being indexed.
        """
        if not rows:
            return []
        data = checked_vectors(np.stack([row[2] for row in rows])).astype("<f2")
        with self._writing() as c:
            model_id = _model_id(c, model_key, data.shape[1])
            generation = _next_generation(c)
            begun = self._begun(c, {row[0] for row in rows})
            ids = []
            for (source_id, draft, _, preview), vector in zip(rows, data, strict=True):
                item_id = self._save_item(c, source_id, draft, preview, begun[source_id], generation)
                new = sqlite_insert(_vectors).values(
                    model_id=model_id, item_id=item_id, generation=generation, data=vector.tobytes()
                )
                c.execute(
                    new.on_conflict_do_update(
                        index_elements=["model_id", "item_id"],
                        set_={"data": new.excluded.data, "generation": generation},
                    )
                )
                ids.append(item_id)
            return ids

    def _begun(self, c: Connection, source_ids: Collection[int]) -> dict[int, tuple[bool, Path]]:
        """For each source being indexed whether its new items are seen at once, and its path."""
        rows = c.execute(
            select(_sources.c.id, _sources.c.state, _sources.c.replaces, _sources.c.path).where(
                _sources.c.id.in_(list(source_ids))
            )
        )
        begun = {
            row.id: (row.replaces is None and row.state != "offline", Path(os.fsdecode(row.path)))
            for row in rows
            if row.state in ("pending", "indexed", "offline")
        }
        if missing := set(source_ids) - set(begun):
            raise CatalogError(f"source {min(missing)} is not being indexed: call begin_source first")
        return begun

    def _save_item(
        self,
        c: Connection,
        source_id: int,
        draft: ItemDraft,
        preview: str | None,
        begun: tuple[bool, Path],
        generation: int,
    ) -> int:
        is_visible, path = begun
        place = (draft.kind, draft.page_number, draft.start_s, draft.end_s)
        former = c.execute(
            text(
                "SELECT id, kind, page_number, start_s, end_s FROM items"
                " WHERE source_id = :source AND ordinal = :ordinal AND deleted_at IS NULL"
            ),
            {"source": source_id, "ordinal": draft.ordinal},
        ).first()
        if former is not None:
            if tuple(former[1:]) == place:
                return former.id
            _tombstone(c, items.c.id == former.id, generation)  # the file is cut in another way than before
        return c.execute(
            insert(items)
            .values(
                source_id=source_id,
                kind=draft.kind,
                visible=int(is_visible),
                generation=generation,
                ordinal=draft.ordinal,
                page_number=draft.page_number,
                start_s=draft.start_s,
                end_s=draft.end_s,
                date_s=_date_s(draft),
                preview=preview,
                meta=json.dumps(dict(draft.meta), ensure_ascii=False),
                name=_lexical_name(path),
                text=_storable(draft.text),
            )
            .returning(items.c.id)
        ).scalar_one()

    def finish_source(self, source_id: int) -> None:
        """The last item of a source is saved: it counts as indexed; the source that it replaces gives way in the same commit."""
        with self._writing() as c:
            row = c.execute(select(_sources).where(_sources.c.id == source_id)).one()
            if row.state not in ("pending", "indexed", "offline"):
                raise CatalogError(f"source {source_id} is {row.state}, not being indexed")
            generation = _next_generation(c)
            if row.state == "pending":
                holders = c.execute(
                    select(_sources.c.id).where(
                        _sources.c.path == row.path, _sources.c.state.in_(("indexed", "offline"))
                    )
                ).scalars()
                self._hide(c, {*holders, *([row.replaces] if row.replaces else [])}, generation, state="removed")
            count = c.execute(
                text("SELECT count(*) FROM items WHERE source_id = :id AND deleted_at IS NULL"), {"id": source_id}
            ).scalar_one()
            state = "indexed" if row.state == "pending" else row.state
            c.execute(
                update(_sources)
                .where(_sources.c.id == source_id)
                .values(state=state, replaces=None, item_count=count, changed_at=time.time())
            )
            if state == "indexed":
                self._show(c, [source_id], generation)
            if row.model_key is not None:
                model_id = c.execute(select(models.c.id).where(models.c.key == row.model_key)).scalar()
                if model_id is not None:
                    c.execute(
                        sqlite_insert(embedded).values(source_id=source_id, model_id=model_id).on_conflict_do_nothing()
                    )

    def fail_source(self, source: Source | Path, error: SourceError, *, replaces: int | None = None) -> int:
        """Remember that a file could not be indexed, and why. Former items of that path stay searchable.

        Give a `Source` where the content was hashed, else its path. Items that were saved before the failure stay searchable
        too, unless they were meant to replace others. Returns the id of the error row.
        """
        path = source.path if isinstance(source, Source) else Path(os.path.abspath(source))
        values: dict[str, Any] = {
            "path": os.fsencode(path),
            "name": _display(path),
            "state": "failed",
            "error_type": type(error).__name__,
            "error_reason": _storable(error.reason),
            "changed_at": time.time(),
            **_content(source),
        }
        with self._writing() as c:
            attempt = c.execute(
                select(_sources).where(_sources.c.path == values["path"], _sources.c.state.in_(("pending", "failed")))
            ).first()
            if attempt is None:
                return _inserted(c, {**values, "replaces": replaces})
            if attempt.replaces is not None or replaces is not None:
                _tombstone(c, items.c.source_id == attempt.id, _next_generation(c))
            c.execute(update(_sources).where(_sources.c.id == attempt.id).values(**values, replaces=replaces))
            return attempt.id

    def move_source(self, source_id: int, source: Source) -> None:
        """The same content now lies elsewhere: items, ids and vectors stay."""
        with self._writing() as c:
            self._move(c, source_id, source)
            self._show(c, [source_id], _next_generation(c))

    def _move(self, c: Connection, source_id: int, source: Source) -> None:
        c.execute(
            update(_sources)
            .where(_sources.c.id == source_id)
            .values(
                path=os.fsencode(source.path),
                name=_display(source.path),
                size_bytes=source.size_bytes,
                modified_ns=source.modified_ns,
                state="indexed",
                changed_at=time.time(),
            )
        )
        c.execute(update(items).where(items.c.source_id == source_id).values(name=_lexical_name(source.path)))

    def find_indexed(self, sha256: str) -> int | None:
        """A source with this content whose items are complete and searchable."""
        with self._reading() as c:
            return c.execute(
                select(_sources.c.id).where(_sources.c.sha256 == sha256, _sources.c.state == "indexed").limit(1)
            ).scalar()

    def copy_source(self, from_id: int, source: Source) -> int:
        """Index `source` by copying the items, texts and vectors of a source with the same content. Returns its id."""
        with self._writing() as c:
            original = c.execute(select(_sources).where(_sources.c.id == from_id)).one()
            if original.state != "indexed" or original.sha256 != source.sha256:
                raise CatalogError(f"source {from_id} does not hold the content of {source.path}")
            generation = _next_generation(c)
            path = os.fsencode(source.path)
            former = c.execute(
                select(_sources.c.id).where(_sources.c.path == path, _sources.c.state != "removed")
            ).scalars()
            self._hide(c, list(former), generation, state="removed")
            copy_id = _inserted(
                c,
                {
                    "path": path,
                    "name": _display(source.path),
                    "sha256": source.sha256,
                    "size_bytes": source.size_bytes,
                    "modified_ns": source.modified_ns,
                    "state": "indexed",
                    "item_count": original.item_count,
                    "model_key": original.model_key,
                    "changed_at": time.time(),
                },
            )
            place = "kind, ordinal, page_number, start_s, end_s, date_s, preview, meta, text"
            c.execute(
                text(
                    f"INSERT INTO items (source_id, visible, generation, name, {place})"
                    f" SELECT :copy, 1, :generation, :name, {place} FROM items"
                    " WHERE source_id = :original AND visible = 1 ORDER BY ordinal"
                ),
                {
                    "copy": copy_id,
                    "original": from_id,
                    "generation": generation,
                    "name": _lexical_name(source.path),
                },
            )
            c.execute(
                text(
                    "INSERT INTO vectors (model_id, item_id, generation, data)"
                    " SELECT v.model_id, new.id, :generation, v.data FROM items old"
                    " JOIN items new ON new.source_id = :copy AND new.ordinal = old.ordinal"
                    " JOIN vectors v ON v.item_id = old.id WHERE old.source_id = :original AND old.visible = 1"
                ),
                {"copy": copy_id, "original": from_id, "generation": generation},
            )
            c.execute(
                text("INSERT INTO embedded SELECT :copy, model_id FROM embedded WHERE source_id = :original"),
                {"copy": copy_id, "original": from_id},
            )
            return copy_id

    def retire(self, source_ids: Collection[int], *, offline: bool = False) -> None:
        """Take sources out of sight: tombstones, or with `offline` only hidden until `bring_back`."""
        if source_ids:
            with self._writing() as c:
                self._hide(c, source_ids, _next_generation(c), state="offline" if offline else "removed")

    def bring_back(self, source_ids: Collection[int]) -> None:
        """Offline sources are there again."""
        if source_ids:
            with self._writing() as c:
                self._show(c, source_ids, _next_generation(c))

    def _hide(self, c: Connection, source_ids: Collection[int], generation: int, *, state: str) -> None:
        for source_id in source_ids:
            if state == "removed":
                _tombstone(c, items.c.source_id == source_id, generation)
                c.execute(delete(embedded).where(embedded.c.source_id == source_id))
            else:
                c.execute(
                    update(items)
                    .where(items.c.source_id == source_id, items.c.visible == 1)
                    .values(visible=0, generation=generation)
                )
            c.execute(update(_sources).where(_sources.c.id == source_id).values(state=state, changed_at=time.time()))

    def _show(self, c: Connection, source_ids: Collection[int], generation: int) -> None:
        for source_id in source_ids:
            c.execute(
                update(items)
                .where(items.c.source_id == source_id, items.c.visible == 0, items.c.deleted_at.is_(None))
                .values(visible=1, generation=generation)
            )
            c.execute(
                update(_sources)
                .where(_sources.c.id == source_id, _sources.c.state == "offline")
                .values(state="indexed", changed_at=time.time())
            )

    # ---- what is there

    def errors(self) -> list[ErrorRow]:
        """What could not be indexed, by path."""
        with self._reading() as c:
            rows = c.execute(select(_sources).where(_sources.c.state == "failed").order_by(_sources.c.path))
            return [
                ErrorRow(row.id, Path(os.fsdecode(row.path)), row.error_type, row.error_reason, row.changed_at)
                for row in rows
            ]

    def clear_errors(self, source_ids: Collection[int] | None = None) -> int:
        """Forget failures (all, or these), so that the next run tries those files again. Returns how many."""
        with self._writing() as c:
            failed = set(c.execute(select(_sources.c.id).where(_sources.c.state == "failed")).scalars())
            chosen = failed if source_ids is None else failed & set(source_ids)
            if chosen:
                self._hide(c, chosen, _next_generation(c), state="removed")
            return len(chosen)

    def sources(
        self, *, under: Path | None = None, states: Collection[str] = ("indexed", "offline")
    ) -> list[SourceRow]:
        """The files held, by path."""
        condition, parameters = _under_any([under] if under is not None else [])
        with self._reading() as c:
            rows = c.execute(
                text(
                    "SELECT id, path, sha256, size_bytes, modified_ns, state, item_count, changed_at FROM sources"
                    f" WHERE ({condition}) AND state IN (SELECT value FROM json_each(:states)) ORDER BY path"
                ),
                {**parameters, "states": json.dumps(sorted(states))},
            )
            return [SourceRow(row[0], Path(os.fsdecode(row[1])), *row[2:]) for row in rows]

    def roots(self) -> dict[Path, float]:
        """The folders ever ingested, with the time of their last scan in seconds since the epoch."""
        with self._reading() as c:
            return {Path(os.fsdecode(path)): at for path, at in c.execute(select(_roots).order_by(_roots.c.path))}

    def counts(self, model_key: str | None = None) -> dict[str, dict[str, int]]:
        """{"items": per kind, visible; "vectors": per kind, of this model (default: the active one); "sources": per state}."""
        model_key = model_key or self.active_model_key()
        with self._reading() as c:
            item_counts = c.execute(text("SELECT kind, count(*) FROM items WHERE visible = 1 GROUP BY kind")).all()
            vector_counts = c.execute(
                text(
                    "SELECT i.kind, count(*) FROM vectors v JOIN items i ON i.id = v.item_id"
                    " WHERE i.visible = 1 AND v.model_id = (SELECT id FROM models WHERE key = :key) GROUP BY i.kind"
                ),
                {"key": model_key},
            ).all()
            states = c.execute(
                text("SELECT state, count(*) FROM sources WHERE state != 'removed' GROUP BY state")
            ).all()
        return {
            "items": {kind: n for kind, n in item_counts},
            "vectors": {kind: n for kind, n in vector_counts},
            "sources": {state: n for state, n in states},
        }

    def item_counts(self) -> dict[Kind, int]:
        """How many items of each kind can be found."""
        with self._reading() as c:
            rows = c.execute(text("SELECT kind, count(*) FROM items WHERE visible = 1 GROUP BY kind"))
            return {cast(Kind, kind): n for kind, n in rows}

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
                    " i.preview FROM items i JOIN sources s ON s.id = i.source_id"
                    " WHERE i.visible = 1 AND i.id IN (SELECT value FROM json_each(:ids))"
                ),
                {"ids": _json_ids(ids)},
            )
            found = {row.id: self._item(row) for row in rows}
        return [found[i] for i in map(int, ids) if i in found]

    def first_items(
        self, kinds: Sequence[Kind], allowed: np.ndarray | None = None, *, limit: int, offset: int = 0
    ) -> list[Item]:
        """One visible item (its first) of each source, what was added last first: for browsing without a query."""
        among = "" if allowed is None else " AND id IN (SELECT value FROM json_each(:allowed))"
        with self._reading() as c:
            rows = c.execute(
                text(
                    "SELECT min(id) FROM items WHERE visible = 1 AND kind IN (SELECT value FROM json_each(:kinds))"
                    f"{among} GROUP BY source_id ORDER BY source_id DESC LIMIT :limit OFFSET :offset"
                ),
                {
                    "kinds": json.dumps(list(kinds)),
                    "allowed": None if allowed is None else _json_ids(allowed),
                    "limit": limit,
                    "offset": offset,
                },
            )
            ids = [row[0] for row in rows]
        return self.items(ids)

    def items_of(self, source_id: int) -> list[Item]:
        """The visible items of a source, by ordinal: the pages around a hit."""
        with self._reading() as c:
            ids = c.execute(
                text("SELECT id FROM items WHERE source_id = :id AND visible = 1 ORDER BY ordinal"), {"id": source_id}
            ).scalars()
            ids = list(ids)
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
            meta=json.loads(row.meta),
            preview=self.folder / row.preview if row.preview else None,
        )

    # ---- vectors

    def iter_vectors(
        self, model_key: str, kind: Kind, *, after_id: int = 0, block: int = 4096
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Blocks of (ids int64 [n] ascending, float32 [n, dim] of unit length) of the visible items of a kind."""
        while True:
            with self._reading() as c:
                rows = c.execute(
                    text(
                        "SELECT i.id, v.data FROM items i JOIN vectors v ON v.item_id = i.id"
                        " AND v.model_id = (SELECT id FROM models WHERE key = :key)"
                        " WHERE i.kind = :kind AND i.visible = 1 AND i.id > :after ORDER BY i.id LIMIT :block"
                    ),
                    {"key": model_key, "kind": kind, "after": after_id, "block": block},
                ).all()
            if not rows:
                return
            ids = np.array([row[0] for row in rows], np.int64)
            yield ids, unit(_halves(rows))
            after_id = int(ids[-1])

    def tail(self, model_key: str, kind: Kind, since: int) -> Tail:
        """What a vector store that has caught up with generation `since` lacks, read in one transaction."""
        condition = "" if since == 0 else " AND (i.generation > :since OR v.generation > :since)"
        with self._reading() as c:
            generation = int(c.execute(text("SELECT value FROM meta WHERE key = 'generation'")).scalar_one())
            if generation == since:
                return Tail(generation, _NO_IDS, np.empty((0, 0), np.float16), _NO_IDS)
            parameters = {"key": model_key, "kind": kind, "since": since}
            if since:
                # Two indexed look-ups instead of one scan over everything.
                changed = (
                    "SELECT id FROM items WHERE generation > :since UNION SELECT item_id FROM vectors WHERE generation > :since"
                    " AND model_id = (SELECT id FROM models WHERE key = :key)"
                )
                condition = f" AND i.id IN ({changed})"
            rows = c.execute(
                text(
                    "SELECT i.id, v.data FROM items i JOIN vectors v ON v.item_id = i.id"
                    " AND v.model_id = (SELECT id FROM models WHERE key = :key)"
                    f" WHERE i.kind = :kind AND i.visible = 1{condition} ORDER BY i.id"
                ),
                parameters,
            ).all()
            removed = (
                c.execute(
                    text("SELECT id FROM items WHERE kind = :kind AND visible = 0 AND generation > :since ORDER BY id"),
                    parameters,
                ).scalars()
                if since
                else ()
            )
            return Tail(
                generation,
                np.array([row[0] for row in rows], np.int64),
                _halves(rows),
                np.fromiter(removed, np.int64),
            )

    def vector_sums(self, model_key: str, kind: Kind, generation: int) -> tuple[int, int] | None:
        """Number and sum of the ids that a store at this generation must hold; None if the catalog has gone on since."""
        with self._reading() as c:
            if int(c.execute(text("SELECT value FROM meta WHERE key = 'generation'")).scalar_one()) != generation:
                return None
            row = c.execute(
                text(
                    "SELECT count(*), total(i.id) FROM items i JOIN vectors v ON v.item_id = i.id"
                    " AND v.model_id = (SELECT id FROM models WHERE key = :key) WHERE i.kind = :kind AND i.visible = 1"
                ),
                {"key": model_key, "kind": kind},
            ).one()
            return row[0], int(row[1])

    def vectors_of(self, ids: Sequence[int] | np.ndarray, model_key: str) -> tuple[np.ndarray, np.ndarray]:
        """The ids (int64, ascending) among `ids` that are visible and have a vector of this model, and float32 [n, dim]."""
        with self._reading() as c:
            rows = c.execute(
                text(
                    "SELECT v.item_id, v.data FROM vectors v JOIN items i ON i.id = v.item_id"
                    " WHERE v.model_id = (SELECT id FROM models WHERE key = :key) AND i.visible = 1"
                    " AND v.item_id IN (SELECT value FROM json_each(:ids)) ORDER BY v.item_id"
                ),
                {"key": model_key, "ids": _json_ids(ids)},
            ).all()
        return np.array([row[0] for row in rows], np.int64), unit(_halves(rows))

    def generic_queries(self, model_key: str, kind: Kind, version: str) -> np.ndarray | None:
        """The encoded generic queries that `save_generic_queries` stored, float32 [n, dim]; None if absent or outdated."""
        with self._reading() as c:
            row = c.execute(
                select(calibrations.c.data, models.c.dim)
                .join(models, models.c.id == calibrations.c.model_id)
                .where(models.c.key == model_key, calibrations.c.kind == kind, calibrations.c.version == version)
            ).first()
        return None if row is None else unit(np.frombuffer(row.data, "<f2").reshape(-1, row.dim))

    def save_generic_queries(self, model_key: str, kind: Kind, version: str, encoded: np.ndarray) -> None:
        """Keep what calibration needs of the model, float32 [n, dim], so that no later search encodes it again."""
        data = checked_vectors(encoded).astype("<f2")
        with self._writing() as c:
            model_id = _model_id(c, model_key, data.shape[1])
            values = {"version": version, "data": data.tobytes()}
            c.execute(
                sqlite_insert(calibrations)
                .values(model_id=model_id, kind=kind, **values)
                .on_conflict_do_update(index_elements=["model_id", "kind"], set_=values)
            )

    # ---- searching

    def allowed_ids(self, filters: Filters, kinds: Sequence[Kind]) -> np.ndarray | None:
        """The visible items (int64, ascending) of these kinds that pass the filters; None if nothing but kinds is asked for."""
        if not filters.restricts_items():
            return None
        conditions = ["visible = 1", "kind IN (SELECT value FROM json_each(:kinds))"]
        parameters: dict[str, Any] = {"kinds": json.dumps(list(kinds))}
        if filters.after is not None:
            conditions.append("date_s >= :after")
            parameters["after"] = _moment_s(filters.after)
        if filters.before is not None:
            conditions.append("date_s < :before")
            parameters["before"] = _moment_s(filters.before)
        with self._reading() as c:
            if filters.path_globs or filters.under is not None:
                where, under = _under_any([filters.under] if filters.under is not None else [])
                rows = c.execute(text(f"SELECT id, path FROM sources WHERE state != 'removed' AND ({where})"), under)
                patterns = [glob_pattern(glob) for glob in filters.path_globs]
                chosen = [
                    source_id
                    for source_id, path in rows
                    if not patterns or any(pattern.match(os.fsdecode(path)) for pattern in patterns)
                ]
                conditions.append("source_id IN (SELECT value FROM json_each(:sources))")
                parameters["sources"] = json.dumps(chosen)
            ids = c.execute(text(f"SELECT id FROM items WHERE {' AND '.join(conditions)} ORDER BY id"), parameters)
            return np.fromiter(ids.scalars(), np.int64)

    def match_text(self, query: str, k: int, kinds: Sequence[Kind], allowed: np.ndarray | None = None) -> TextMatches:
        """Items whose text or file name holds words of `query`; see `mmsearch.lexical.match`."""
        with self._reading() as c:
            return lexical.match(c, query, k, kinds, allowed)

    def snippets(self, query: str, ids: Sequence[int]) -> dict[int, str]:
        """For each of `ids` the passage of its text that holds most words of `query`, if any."""
        with self._reading() as c:
            return lexical.snippets(c, query, ids)

    # ---- upkeep

    def compact(self) -> list[str]:
        """Delete tombstones and vectors of other models for good, and give their space back.

        Returns:
            Preview paths (relative to the library) that no item uses any longer.
        """
        with self._writing() as c:
            before = set(c.execute(text("SELECT DISTINCT preview FROM items WHERE preview IS NOT NULL")).scalars())
            c.execute(text("DELETE FROM items WHERE deleted_at IS NOT NULL"))
            c.execute(text("DELETE FROM sources WHERE state = 'removed'"))
            c.execute(
                text(
                    "DELETE FROM models WHERE key != (SELECT models.key FROM meta JOIN models ON models.id = meta.value"
                    " WHERE meta.key = 'active_model')"
                )
            )
            after = set(c.execute(text("SELECT DISTINCT preview FROM items WHERE preview IS NOT NULL")).scalars())
            for table in ("words", "trigrams"):
                c.execute(text(f"INSERT INTO {table}({table}) VALUES ('optimize')"))
        with self._engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            raw.execute("VACUUM").close()
        return sorted(before - after)


_sources, _roots, _vectors = sources, roots, vectors  # methods of the same names hide them inside the class's arguments
_NO_IDS = np.empty(0, np.int64)


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


def glob_pattern(glob: str) -> re.Pattern[str]:
    """A matcher for whole paths: `**` crosses folders, `*` and `?` do not, `[…]` is a set. See `Filters.path_globs`."""
    glob = glob.removeprefix("./").rstrip("/")
    out, i = [], 0
    while i < len(glob):
        if glob.startswith("**/", i):
            out.append("(?:.*/)?")
            i += 3
        elif glob.startswith("**", i):
            out.append(".*")
            i += 2
        elif glob[i] == "*":
            out.append("[^/]*")
            i += 1
        elif glob[i] == "?":
            out.append("[^/]")
            i += 1
        elif glob[i] == "[" and (end := glob.find("]", i + 2)) > 0:
            inside = glob[i + 1 : end].replace("\\", "\\\\")
            out.append(f"[^{inside[1:]}]" if inside[0] in "!^" else f"[{inside}]")
            i = end + 1
        else:
            out.append(re.escape(glob[i]))
            i += 1
    start = "" if glob.startswith("/") else "(?:.*/)?"
    try:
        return re.compile(f"{start}{''.join(out)}(?:/.*)?\\Z", re.IGNORECASE | re.DOTALL)
    except re.error:  # an odd set such as [z-a]: take the letters as they stand
        return re.compile(f"{start}{re.escape(glob)}(?:/.*)?\\Z", re.IGNORECASE | re.DOTALL)


def _next_generation(c: Connection) -> int:
    return int(
        c.execute(
            text("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'generation' RETURNING value")
        ).scalar_one()
    )


def _model_id(c: Connection, model_key: str, dim: int) -> int:
    """The id of a model, made known if it is new; the first one becomes the active one."""
    row = c.execute(select(models.c.id, models.c.dim).where(models.c.key == model_key)).first()
    if row is not None:
        if row.dim != dim:
            raise DimensionMismatch(row.dim, dim)
        return row.id
    model_id = c.execute(insert(models).values(key=model_key, dim=dim).returning(models.c.id)).scalar_one()
    if c.execute(select(meta.c.value).where(meta.c.key == "active_model")).scalar() is None:
        _set_active(c, model_id)
    return model_id


def _set_active(c: Connection, model_id: int) -> None:
    c.execute(
        sqlite_insert(meta)
        .values(key="active_model", value=str(model_id))
        .on_conflict_do_update(index_elements=["key"], set_={"value": str(model_id)})
    )


def _inserted(c: Connection, values: Mapping[str, Any]) -> int:
    return c.execute(insert(sources).values({"item_count": 0, **values}).returning(sources.c.id)).scalar_one()


def _tombstone(c: Connection, which: Any, generation: int) -> None:
    c.execute(
        update(items)
        .where(which, items.c.deleted_at.is_(None))
        .values(visible=0, deleted_at=bindparam("now"), generation=generation),
        {"now": time.time()},
    )


def _content(source: Source | Path) -> dict[str, Any]:
    """The columns by which a later scan sees that a file has changed."""
    if isinstance(source, Source):
        return {"sha256": source.sha256, "size_bytes": source.size_bytes, "modified_ns": source.modified_ns}
    try:
        stat = os.stat(source)
    except OSError:
        return {"sha256": "", "size_bytes": -1, "modified_ns": -1}
    return {"sha256": "", "size_bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}


def _under_any(folders: Sequence[Path]) -> tuple[str, dict[str, bytes]]:
    """An SQL condition on `path` for files at or below any of `folders` (all, if there are none), and its parameters."""
    parts: list[str] = []
    parameters: dict[str, bytes] = {}
    for n, folder in enumerate(folders):
        prefix = os.fsencode(os.path.abspath(folder)).rstrip(b"/")
        parts.append(f"path = :exact{n} OR (path > :low{n} AND path < :high{n})")
        # "0" follows "/" in every encoding that a file system uses.
        parameters |= {f"exact{n}": prefix, f"low{n}": prefix + b"/", f"high{n}": prefix + b"0"}
    return " OR ".join(parts) or "1", parameters


def _date_s(draft: ItemDraft) -> float:
    captured = draft.meta.get("captured_at")
    if isinstance(captured, str):
        try:
            return datetime.fromisoformat(captured).timestamp()
        except (ValueError, OverflowError, OSError):
            pass  # a camera's nonsense date
    return draft.source.modified_ns / 1e9


def _moment_s(moment: date | datetime) -> float:
    if not isinstance(moment, datetime):
        moment = datetime.combine(moment, time_of_day.min)
    return moment.timestamp()


def _display(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "replace")


def _lexical_name(path: Path) -> str:
    """What the lexical search knows of a file: the name of its folder and its own, `Q3Report_final` opened into words."""
    name = _display(Path(*path.parts[-2:]) if len(path.parts) > 2 else Path(path.name))
    opened = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])", " ", name)
    return name if opened == name else f"{name} {opened}"


def _storable(words: str) -> str:
    """Text that SQLite can hold: no lone surrogates, no NUL."""
    return words.encode("utf-8", "replace").decode().replace("\0", " ")


def _json_ids(ids: Sequence[int] | np.ndarray) -> str:
    return json.dumps([int(i) for i in ids])


def _halves(rows: Sequence[Any]) -> np.ndarray:
    """float16 [n, dim] from (id, blob) rows."""
    if not rows:
        return np.empty((0, 0), np.float16)
    return np.frombuffer(b"".join(row[1] for row in rows), "<f2").reshape(len(rows), -1)
