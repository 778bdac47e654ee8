"""Files in the catalog: begun, finished or failed; moved, copied, hidden, shown again; and what a scan is compared with."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.engine import Connection

from mmsearch.catalog import left_out
from mmsearch.catalog.compare import HOLDERS, KnownFile, Plan, Row, make_plan
from mmsearch.catalog.connections import Database, next_generation, put
from mmsearch.catalog.dialect.sqlite import listed, members
from mmsearch.catalog.filters import absolute, under_any
from mmsearch.catalog.items import BEING_INDEXED, LIVE, date_of, redate, tombstone
from mmsearch.catalog.names import display_name, lexical_name, rename, root_paths, storable
from mmsearch.catalog.rows import ErrorRow, SidecarsRead, SourceRow, VideoRead
from mmsearch.catalog.tables import embedded, items, roots, sources
from mmsearch.errors import CatalogError, SourceError
from mmsearch.items import Source

FACTS = ("captured_at", "date_source", "content_identifier", "width", "height")
"""Entries of an item's metadata that go when a file's header no longer tells them; `Sources.save_facts` puts in whatever it tells, the others stay."""
HELD = """(
    s.state IN ('indexed', 'offline') AND EXISTS (SELECT 1 FROM embedded e WHERE e.source_id = s.id AND e.model_id = m.id)
    OR s.state = 'removed' AND s.item_count > 0 AND (
        SELECT count(*) = s.item_count AND count(v.id) = s.item_count
        FROM items i LEFT JOIN vectors v ON v.item_id = i.id AND v.model_id = m.id
        WHERE i.source_id = s.id AND i.deleted_at IS NOT NULL
        AND i.generation = (SELECT max(generation) FROM items WHERE source_id = s.id)))"""
"""An SQL condition: the source `s` has all its items and their vectors of the model `m`. One that was removed has its last ones, which
went together, until `compact`."""


class Sources:
    """`Catalog.sources`."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # ---- what a run is planned with

    def known_files(self, roots: Sequence[Path]) -> dict[bytes, KnownFile]:
        """What is known of every path under `roots` (`os.fsencode`d): a file with this size and these times need not be opened."""
        known: dict[bytes, KnownFile] = {}
        columns = "path, id, sha256, size_bytes, modified_ns, ctime_ns, state"
        condition, parameters = under_any(roots)
        with self._db.reading() as c:
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

    def compare(
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
        """Compare a scan with what is known; changes nothing. See `Plan` and `mmsearch.catalog.compare.make_plan`."""
        condition, parameters = under_any([*roots, *elsewhere])
        with self._db.reading() as c:
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
                    f" WHERE s.sha256 IN {members('hashes')} AND {HELD}"
                ),
                {"key": model_key, "hashes": listed(sorted(sought))},
            ).scalars()
            return make_plan(
                sources,
                rows,
                [*roots, *(root for root in root_paths(c) if not {*root.parents}.isdisjoint(roots))],
                held=set(held),
                seen_unreadable=seen_unreadable,
                emptied=emptied,
                elsewhere=elsewhere,
                retry_failed=retry_failed,
                prune=prune,
            )

    def settle(self, plan: Plan, scanned: Sequence[Path] = (), gone: Sequence[Path] = ()) -> None:
        """Do what a plan asks for without a model, in one transaction: touched, moved, returned, offline and missing sources.

        `scanned` are remembered as scanned now. `gone` are not there: such a root is forgotten once no file is known under it.
        """
        with self._db.transaction() as c:
            _restamp(c, plan.touched)
            known = root_paths(c)
            if plan.moved or plan.returned or plan.outdated or plan.offline or plan.missing:
                generation = next_generation(c)
                for source_id, source in plan.moved:
                    move(c, source_id, source, generation)
                show(c, plan.returned, generation)
                hide(c, plan.offline, generation, state="offline")
                hide(c, [*plan.outdated, *plan.missing], generation, state="removed")
            for root in scanned:
                put(c, roots, {"path": os.fsencode(root)}, {"scanned_at": time.time()})
            for root in gone:
                condition, parameters = under_any([root])
                held = text(f"SELECT 1 FROM sources WHERE state != 'removed' AND ({condition}) LIMIT 1")
                if c.execute(held, parameters).first() is None:
                    c.execute(delete(roots).where(roots.c.path == os.fsencode(root)))
            rename(c, known, root_paths(c))

    def videos_read(self) -> list[VideoRead]:
        """What the clips of each indexed video remember of its subtitle files, one row for each different memory."""
        query = (
            "SELECT s.id, s.path, s.sha256, s.changed_at, json_extract(i.meta, '$.subtitles'),"
            " max(i.text_source IS 'subtitle')"
            " FROM sources s JOIN items i ON i.source_id = s.id AND i.deleted_at IS NULL AND i.kind = 'clip'"
            " WHERE s.state = 'indexed' GROUP BY s.id, 5"
        )
        with self._db.reading() as c:
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
        with self._db.reading() as c:
            rows = c.execute(text(f"SELECT id, path, sha256, sidecars FROM sources WHERE state = 'indexed'{only}"))
            return [SidecarsRead(row[0], Path(os.fsdecode(row[1])), row[2], row[3]) for row in rows]

    def note_sidecars(self, stamps: Mapping[int, str]) -> None:
        """Remember for sources, by id, that their metadata were looked at, and the stamp of their sidecars then."""
        if stamps:
            with self._db.transaction() as c:
                rows = [{"id": source_id, "stamp": stamp} for source_id, stamp in stamps.items()]
                c.execute(text("UPDATE sources SET sidecars = :stamp WHERE id = :id"), rows)

    def read_by_older(self, reader_version: int) -> dict[bytes, int]:
        """The indexed files of which something was read by older readers than these: the source's id by its path."""
        query = "SELECT path, id FROM sources WHERE state = 'indexed' AND coalesce(reader_version, 0) < :version"
        with self._db.reading() as c:
            return dict(c.execute(text(query), {"version": reader_version}).all())

    # ---- the life of one

    def begin(self, source: Source, *, model_key: str, replaces: int | None = None) -> int:
        """Announce that items of `source` follow. Returns its id.

        A source that holds the same content already keeps its id and its items (they get vectors of another model); an
        interrupted or failed attempt at the same content is taken up again, see `saved_ordinals`. With `replaces`, or where the
        path has items of other content, the new items stay out of sight until `finish_source`.
        """
        with self._db.transaction() as c:
            holder, attempt = _standing(c, os.fsencode(source.path))
            is_held = holder is not None and holder.sha256 == source.sha256
            if attempt is not None and (is_held or attempt.sha256 != source.sha256):
                hide(c, [attempt.id], next_generation(c), state="removed")
                attempt = None
            if holder is not None and is_held:
                _set(c, holder.id, model_key=model_key)
                return holder.id
            values = {
                **_file(source),
                "state": "pending",
                "replaces": holder.id if replaces is None and holder is not None else replaces,
                "error_type": None,
                "error_reason": None,
                "model_key": model_key,
                "changed_at": time.time(),
            }
            if attempt is None:
                return _add(c, values)
            _set(c, attempt.id, **values)
            return attempt.id

    def finish(self, source_id: int, *, sidecars: str | None = None, reader_version: int | None = None) -> None:
        """The last item of a source is saved: it counts as indexed; the source that it replaces gives way in the same commit.

        Args:
            sidecars: their stamp when they were read; None leaves it as it is.
            reader_version: of the readers that told all its items, see `read_by_older`.
        """
        with self._db.transaction() as c:
            row = c.execute(select(sources).where(sources.c.id == source_id)).one()
            if row.state not in BEING_INDEXED:
                raise CatalogError(f"source {source_id} is {row.state}, not being indexed")
            generation = next_generation(c)
            if row.state == "pending":
                holder, _ = _standing(c, row.path)
                former = {*([holder.id] if holder else []), *([row.replaces] if row.replaces else [])}
                hide(c, former, generation, state="removed")
            count = c.execute(
                text("SELECT count(*) FROM items WHERE source_id = :id AND deleted_at IS NULL"), {"id": source_id}
            ).scalar_one()
            state = "indexed" if row.state == "pending" else row.state
            read_by: dict[str, int | str] = {"reader_version": reader_version} if reader_version is not None else {}
            if sidecars is not None:
                read_by["sidecars"] = sidecars
            _set(c, source_id, state=state, replaces=None, item_count=count, changed_at=time.time(), **read_by)
            if state == "indexed":
                show(c, [source_id], generation)
            c.execute(
                text("INSERT OR IGNORE INTO embedded SELECT :source, id FROM models WHERE key = :key"),
                {"source": source_id, "key": row.model_key},
            )

    def save_facts(self, source_id: int, facts: Sequence[Mapping[str, Any]], reader_version: int) -> None:
        """Put what a file's header tells in the place of what an older reader told; texts and vectors stay.

        Args:
            facts: metadata of all items of the source, or one for each by ordinal; empty to keep what is known.
        """
        with self._db.transaction() as c:
            source = c.execute(select(sources).where(sources.c.id == source_id)).one()
            rows = c.execute(
                select(items.c.id, items.c.ordinal, items.c.meta).where(items.c.source_id == source_id, LIVE)
            )
            changed = []
            for row in rows.all() if facts else ():
                try:
                    known = dict(json.loads(row.meta))
                except (ValueError, TypeError):  # damaged
                    known = {}
                told = facts[min(row.ordinal, len(facts) - 1)]
                new = {**{name: value for name, value in known.items() if name not in FACTS}, **told}
                if new != known:
                    date_s = date_of(new, source.modified_ns)
                    changed.append({"id": row.id, "meta": json.dumps(new, ensure_ascii=True), "date_s": date_s})
            if changed:
                next_generation(c)
                c.execute(text("UPDATE items SET meta = :meta, date_s = :date_s WHERE id = :id"), changed)
            identifier = facts[0].get("content_identifier") if facts else source.content_identifier
            _set(c, source_id, content_identifier=identifier, reader_version=reader_version)

    def fail(self, source: Source | Path, error: SourceError, *, replaces: int | None = None) -> int:
        """Remember that a file could not be indexed, and why. Former items of that path stay searchable.

        Give a `Source` where the content was hashed, else its path. Items that were saved before the failure stay searchable
        too, unless they were meant to replace others. Returns the id of the error row.
        """
        with self._db.transaction() as c:
            values = {
                **_file(source),
                "state": "failed",
                "replaces": replaces,
                "error_type": type(error).__name__,
                "error_reason": storable(error.reason),
                "changed_at": time.time(),
            }
            _, attempt = _standing(c, values["path"])
            if attempt is None:
                return _add(c, values)
            if attempt.replaces is not None or replaces is not None:
                tombstone(c, items.c.source_id == attempt.id, next_generation(c))
            _set(c, attempt.id, **values)
            return attempt.id

    def move(self, source_id: int, source: Source) -> None:
        """The same content now lies elsewhere: items, ids and vectors stay."""
        with self._db.transaction() as c:
            move(c, source_id, source, next_generation(c))

    def find_content(self, source: Source, model_key: str) -> int | None:
        """A source that has items of the same content, complete with vectors of this model: best what stood at this path before,
        then one that is searchable, one that was removed, one that is offline."""
        with self._db.reading() as c:
            same = (
                "SELECT s.id FROM sources s JOIN models m ON m.key = :key"
                f" WHERE s.sha256 = :sha256 AND {HELD}"
                " ORDER BY s.state = 'removed' AND s.path = :path DESC, s.state = 'indexed' DESC, s.state = 'removed' DESC, s.id DESC"
            )
            parameters = {"key": model_key, "sha256": source.sha256, "path": os.fsencode(source.path)}
            return c.execute(text(f"{same} LIMIT 1"), parameters).scalar()

    def copy(self, from_id: int, source: Source) -> int:
        """Index `source` by the items, texts and vectors of a source with the same content, without the model. Returns its id.

        A source that was removed comes back itself, and its items with their ids; of another one they are copied. What stood at
        this path gives way in the same commit.

        Raises:
            CatalogError: `from_id` holds other content, or none.
        """
        with self._db.transaction() as c:
            original = c.execute(select(sources).where(sources.c.id == from_id)).one()
            if original.state not in (*HOLDERS, "removed") or original.sha256 != source.sha256:
                raise CatalogError(f"source {from_id} does not hold the content of {source.path}")
            generation = next_generation(c)
            _clear(c, source.path, generation, but=from_id)
            if original.state == "removed":
                _revive(c, from_id, generation)
                move(c, from_id, source, generation)
                return from_id
            copy_id = _add(
                c,
                {
                    **_file(source),
                    "modified_ns": original.modified_ns,  # until `_restamp`
                    "state": "indexed",
                    "item_count": original.item_count,
                    "content_identifier": original.content_identifier,
                    "reader_version": original.reader_version,
                    "model_key": original.model_key,
                    "sidecars": original.sidecars,
                    "changed_at": time.time(),
                },
            )
            place = "kind, ordinal, page_number, start_s, end_s, date_s, preview, meta, text, spellings, text_source, description, has_print"
            of_items = (
                f"INSERT INTO items (source_id, visible, generation, name, {place})"
                f" SELECT :copy, 1, :generation, :name, {place} FROM items WHERE source_id = :original AND deleted_at IS NULL ORDER BY ordinal"
            )
            of_vectors = (
                "INSERT INTO vectors (model_id, item_id, generation, data, checksum)"
                " SELECT v.model_id, new.id, :generation, v.data, v.checksum"
                " FROM items old JOIN items new ON new.source_id = :copy AND new.ordinal = old.ordinal"
                " JOIN vectors v ON v.item_id = old.id WHERE old.source_id = :original AND old.deleted_at IS NULL"
            )
            of_models = "INSERT INTO embedded SELECT :copy, model_id FROM embedded WHERE source_id = :original"
            parameters = {
                "copy": copy_id,
                "original": from_id,
                "generation": generation,
                "name": lexical_name(source.path, root_paths(c)),
            }
            for statement in (of_items, of_vectors, of_models):
                c.execute(text(statement), parameters)
            _restamp(c, [(copy_id, source)])
            redate(c, copy_id, source.path)
            return copy_id

    def retire(self, source_ids: Collection[int], *, offline: bool = False) -> None:
        """Take sources out of sight: tombstones, or with `offline` only hidden until `bring_back`."""
        if source_ids:
            with self._db.transaction() as c:
                state = "offline" if offline else "removed"
                hide(c, source_ids, next_generation(c), state=state)

    def bring_back(self, source_ids: Collection[int]) -> None:
        """Offline sources are there again."""
        if source_ids:
            with self._db.transaction() as c:
                show(c, source_ids, next_generation(c))

    # ---- what is there

    def rows(self, *, under: Path | None = None, states: Collection[str] = ("indexed", "offline")) -> list[SourceRow]:
        """The files held, by path."""
        condition, parameters = under_any([under] if under is not None else [])
        with self._db.reading() as c:
            rows = c.execute(
                text(
                    "SELECT id, path, sha256, size_bytes, modified_ns, state, item_count, changed_at, ctime_ns FROM sources"
                    f" WHERE ({condition}) AND state IN {members('states')} ORDER BY path"
                ),
                {**parameters, "states": listed(sorted(states))},
            )
            return [SourceRow(row[0], Path(os.fsdecode(row[1])), *row[2:]) for row in rows]

    def roots(self) -> dict[Path, float]:
        """The folders ever ingested, with the time of their last scan in seconds since the epoch."""
        with self._db.reading() as c:
            rows = c.execute(select(roots).order_by(roots.c.path))
            return {Path(os.fsdecode(path)): at for path, at in rows}

    def errors(self) -> list[ErrorRow]:
        """What could not be indexed, by path."""
        with self._db.reading() as c:
            rows = c.execute(select(sources).where(sources.c.state == "failed").order_by(sources.c.path))
            return [
                ErrorRow(row.id, Path(os.fsdecode(row.path)), row.error_type, row.error_reason, row.changed_at)
                for row in rows
            ]

    def clear_errors(self, source_ids: Collection[int] | None = None) -> int:
        """Forget failures (all, or these), so that the next run tries those files again. Returns how many."""
        with self._db.transaction() as c:
            failed = set(c.execute(select(sources.c.id).where(sources.c.state == "failed")).scalars())
            chosen = failed if source_ids is None else failed & set(source_ids)
            if chosen:
                hide(c, chosen, next_generation(c), state="removed")
            return len(chosen)

    def counts(self) -> dict[str, int]:
        """How many files there are in each state, removed ones apart."""
        with self._db.reading() as c:
            return dict(
                c.execute(text("SELECT state, count(*) FROM sources WHERE state != 'removed' GROUP BY state")).all()
            )

    def offline_count(self) -> int:
        """How many files are kept out of sight until their disk is back."""
        with self._db.reading() as c:
            return c.execute(text("SELECT count(*) FROM sources WHERE state = 'offline'")).scalar_one()

    def offline_files(self) -> dict[bytes, KnownFile]:
        """Files that are kept out of sight, by path, as far as the active model has embedded them: they need only be shown."""
        query = (
            "SELECT s.path, s.id, s.sha256, s.size_bytes, s.modified_ns, s.ctime_ns, s.state FROM sources s"
            " JOIN embedded e ON e.source_id = s.id AND e.model_id = (SELECT value FROM meta WHERE key = 'active_model')"
            " WHERE s.state = 'offline'"
        )
        with self._db.reading() as c:
            return {path: KnownFile(*rest) for path, *rest in c.execute(text(query))}

    def note_left_out(self, roots: Sequence[Path], found: left_out.LeftOuts) -> None:
        """Remember what the last look at `roots` passed over, in the place of what was known of them."""
        if roots:
            with self._db.transaction() as c:
                left_out.replace(c, roots, found)

    def left_out(self) -> left_out.LeftOuts:
        """What the last look at each folder passed over, and why."""
        with self._db.reading() as c:
            return left_out.load(c)


def move(c: Connection, source_id: int, source: Source, generation: int) -> None:
    """Another path for the same content; what stood there gives way."""
    _clear(c, source.path, generation, but=source_id)
    _restamp(c, [(source_id, source)])
    _set(c, source_id, **_file(source), state="indexed", changed_at=time.time())
    c.execute(
        update(items).where(items.c.source_id == source_id, LIVE).values(name=lexical_name(source.path, root_paths(c)))
    )
    redate(c, source_id, source.path)
    show(c, [source_id], generation)


def _revive(c: Connection, source_id: int, generation: int) -> None:
    """Undo a removal: the items that went with it (see `HELD`) are live again, not yet visible."""
    last = "(SELECT max(generation) FROM items WHERE source_id = :id)"
    gone = f"source_id = :id AND deleted_at IS NOT NULL AND generation = {last}"
    c.execute(
        text(f"UPDATE items SET deleted_at = NULL, generation = :generation WHERE {gone}"),
        {"id": source_id, "generation": generation},
    )
    of_models = (
        "INSERT INTO embedded SELECT :id, v.model_id FROM items i JOIN vectors v ON v.item_id = i.id"
        " WHERE i.source_id = :id AND i.deleted_at IS NULL GROUP BY v.model_id"
        " HAVING count(*) = (SELECT item_count FROM sources WHERE id = :id)"
    )
    c.execute(text(of_models), {"id": source_id})


def _standing(c: Connection, path: bytes) -> tuple[Any, Any]:
    """Of a path the source that holds its items, and the attempt beside it; None where there is none."""
    # A partial index serves a statement only if its condition stands there word for word; without it every file reads the whole table.
    columns = "SELECT id, state, sha256, replaces FROM sources WHERE path = :path AND"
    holder = c.execute(text(f"{columns} state IN ('indexed', 'offline')"), {"path": path}).first()
    attempt = c.execute(text(f"{columns} state IN ('pending', 'failed')"), {"path": path}).first()
    return holder, attempt


def _clear(c: Connection, path: Path, generation: int, *, but: int) -> None:
    """Remove what stands at a path, except the source `but`."""
    standing = [row.id for row in _standing(c, os.fsencode(path)) if row is not None and row.id != but]
    hide(c, standing, generation, state="removed")


def _restamp(c: Connection, files: Sequence[tuple[int, Source]]) -> None:
    """Store the size and the times of files as they are now. Items without a date of their own have their file's time: it is set, too."""
    dates = (
        "UPDATE items SET date_s = :modified_ns / 1e9 WHERE source_id = :id AND deleted_at IS NULL"
        " AND date_s = (SELECT modified_ns / 1e9 FROM sources WHERE id = :id AND modified_ns != :modified_ns)"
    )
    stamps = (
        "UPDATE sources SET size_bytes = :size_bytes, modified_ns = :modified_ns, ctime_ns = :ctime_ns WHERE id = :id"
    )
    if files:
        names = ("size_bytes", "modified_ns", "ctime_ns")
        values = [{"id": one, **{name: getattr(source, name) for name in names}} for one, source in files]
        c.execute(text(dates), values)
        c.execute(text(stamps), values)


def hide(c: Connection, source_ids: Collection[int], generation: int, *, state: str) -> None:
    """Take sources out of sight. State "removed" makes tombstones of their items, "offline" keeps them."""
    for source_id in source_ids:
        if state == "removed":
            tombstone(c, items.c.source_id == source_id, generation)
            c.execute(delete(embedded).where(embedded.c.source_id == source_id))
        else:
            seen = (items.c.source_id == source_id, items.c.visible == 1, LIVE)
            c.execute(update(items).where(*seen).values(visible=0, generation=generation))
        _set(c, source_id, state=state, changed_at=time.time())


def show(c: Connection, source_ids: Collection[int], generation: int) -> None:
    """Make every live item of these sources findable; offline sources count as indexed again."""
    for source_id in source_ids:
        unseen = (items.c.source_id == source_id, items.c.visible == 0, LIVE)
        c.execute(update(items).where(*unseen).values(visible=1, generation=generation))
        was_offline = (sources.c.id == source_id, sources.c.state == "offline")
        c.execute(update(sources).where(*was_offline).values(state="indexed", changed_at=time.time()))


def _add(c: Connection, values: Mapping[str, Any]) -> int:
    return c.execute(insert(sources).returning(sources.c.id), {"item_count": 0, **values}).scalar_one()


def _set(c: Connection, source_id: int, **values: Any) -> None:
    c.execute(update(sources).where(sources.c.id == source_id).values(**values))


def _file(source: Source | Path) -> dict[str, Any]:
    """The columns that name a file, and those by which a later scan sees that it has changed."""
    if isinstance(source, Source):
        path = source.path
        content = (source.sha256, source.size_bytes, source.modified_ns, source.ctime_ns)
    else:
        path = absolute(source)
        try:
            stat = path.stat()
            content = ("", stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        except OSError:
            content = ("", -1, -1, None)
    columns = dict(zip(("sha256", "size_bytes", "modified_ns", "ctime_ns"), content, strict=True))
    return {"path": os.fsencode(path), "name": display_name(path), **columns}
