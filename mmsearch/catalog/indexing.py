"""A source's life in the catalog: begun, its items saved, finished or failed; moved, copied, hidden, shown again.

Each function works inside the transaction of the `Catalog` method that calls it and bears the same name there.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.engine import Connection

from mmsearch.catalog.compare import HOLDERS, Plan
from mmsearch.catalog.filters import absolute, under_any
from mmsearch.catalog.stored_vectors import checked_items, checksum, to_blob
from mmsearch.catalog.tables import embedded, items, meta, models, roots, sources
from mmsearch.errors import CatalogError, DimensionMismatch, SourceError
from mmsearch.items import ItemDraft, Source
from mmsearch.media.dates import BELOW_NAME, date_in_name, wall_s
from mmsearch.plain_text import described, normalised, readable, spellings

ATTEMPTS = ("pending", "failed")
BEING_INDEXED = ("pending", "indexed", "offline")
NORMALISED_AT_ONCE = 500
"""Items whose text is in memory while an older library is migrated."""

_LIVE = items.c.deleted_at.is_(None)


def next_generation(c: Connection) -> int:
    """Count this transaction as one that alters what can be found."""
    counted = text("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'generation' RETURNING value")
    return int(c.execute(counted).scalar_one())


def model_id(c: Connection, model_key: str, dim: int, *, is_multi_vector: bool = False) -> int:
    """The id of a model, made known if it is new; the first one becomes the active one.

    Raises:
        DimensionMismatch: known with another dim. CatalogError: known with one vector per item instead of many, or the reverse.
    """
    columns = (models.c.id, models.c.dim, models.c.is_multi_vector)
    row = c.execute(select(*columns).where(models.c.key == model_key)).first()
    if row is not None:
        if row.dim != dim:
            raise DimensionMismatch(row.dim, dim)
        if row.is_multi_vector != is_multi_vector:
            stored = "many vectors" if row.is_multi_vector else "one vector"
            raise CatalogError(f"the items of model {model_key} have {stored} each here; give it another name")
        return row.id
    values = {"key": model_key, "dim": dim, "is_multi_vector": int(is_multi_vector)}
    new = c.execute(insert(models).values(**values).returning(models.c.id)).scalar_one()
    if c.execute(select(meta.c.value).where(meta.c.key == "active_model")).scalar() is None:
        set_active(c, new)
    return new


def set_active(c: Connection, active: int) -> None:
    _put(c, meta, {"key": "active_model"}, {"value": str(active)})


def note_compacted(c: Connection) -> None:
    """From this generation on, a store that is older must be compared as a whole (see `stored_vectors.tail`)."""
    _put(c, meta, {"key": "compacted"}, {"value": str(next_generation(c))})


def settle(c: Connection, plan: Plan, scanned: Sequence[Path], gone: Sequence[Path] = ()) -> None:
    _restamp(c, plan.touched)
    known = _roots(c)
    if plan.moved or plan.returned or plan.outdated or plan.offline or plan.missing:
        generation = next_generation(c)
        for source_id, source in plan.moved:
            move(c, source_id, source, generation)
        show(c, plan.returned, generation)
        hide(c, plan.offline, generation, state="offline")
        hide(c, [*plan.outdated, *plan.missing], generation, state="removed")
    for root in scanned:
        _put(c, roots, {"path": os.fsencode(root)}, {"scanned_at": time.time()})
    for root in gone:
        condition, parameters = under_any([root])
        held = text(f"SELECT 1 FROM sources WHERE state != 'removed' AND ({condition}) LIMIT 1")
        if c.execute(held, parameters).first() is None:
            c.execute(delete(roots).where(roots.c.path == os.fsencode(root)))
    _rename(c, known, _roots(c))


def begin_source(c: Connection, source: Source, *, model_key: str, replaces: int | None) -> int:
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


def save_batch(
    c: Connection, rows: Sequence[tuple[int, ItemDraft, np.ndarray | None, str | None]], model_key: str
) -> list[int]:
    new = [row[2] for row in rows if row[2] is not None]
    checked = checked_items(new) if new else []
    generation = next_generation(c)
    begun = _begun(c, {row[0] for row in rows})
    known_roots = _roots(c)
    names = {source_id: lexical_name(path, known_roots) for source_id, (_, _, path) in begun.items()}
    ids = [
        _save_item(c, begun[source_id], names[source_id], draft, preview, generation)
        for source_id, draft, _, preview in rows
    ]
    embedded_ids = [item_id for item_id, row in zip(ids, rows, strict=True) if row[2] is not None]
    if kept := set(ids) - set(embedded_ids):
        _demand_vectors(c, kept, model_key)
    if checked:
        model = model_id(c, model_key, checked[0].shape[-1], is_multi_vector=checked[0].ndim == 2)
        _save_vectors(c, model, dict(zip(embedded_ids, checked, strict=True)), generation)
    for source_id, identifier in {row[0]: row[1].meta.get("content_identifier") for row in rows}.items():
        if identifier is not None:
            _set(c, source_id, content_identifier=identifier)
    return ids


def _demand_vectors(c: Connection, ids: Collection[int], model_key: str) -> None:
    """Raises CatalogError where an item has no vector of the model to keep."""
    query = (
        "SELECT count(*) FROM vectors v JOIN models m ON m.id = v.model_id WHERE m.key = :key"
        " AND v.item_id IN (SELECT value FROM json_each(:ids))"
    )
    if c.execute(text(query), {"key": model_key, "ids": json.dumps(sorted(ids))}).scalar_one() != len(ids):
        raise CatalogError(f"items without vectors of model {model_key} need them")


def _save_vectors(c: Connection, model: int, vectors: Mapping[int, np.ndarray], generation: int) -> None:
    """Set the vectors of items, by their ids."""
    c.execute(
        text(
            "INSERT INTO vectors (model_id, item_id, data, checksum, generation) VALUES (:model, :item, :data, :checksum, :generation)"
            " ON CONFLICT (model_id, item_id) DO UPDATE"
            " SET data = excluded.data, checksum = excluded.checksum, generation = excluded.generation"
        ),
        [
            {"model": model, "item": item_id, "data": data, "checksum": checksum(data), "generation": generation}
            for item_id, data in ((item_id, to_blob(vector)) for item_id, vector in vectors.items())
        ],
    )


def finish_source(
    c: Connection, source_id: int, *, sidecars: str | None = None, reader_version: int | None = None
) -> None:
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


FACTS = ("captured_at", "date_source", "content_identifier", "width", "height")
"""Entries of an item's metadata that go when a file's header no longer tells them; `save_facts` puts in whatever it tells, the others stay."""


def save_facts(c: Connection, source_id: int, facts: Sequence[Mapping[str, Any]], reader_version: int) -> None:
    source = c.execute(select(sources).where(sources.c.id == source_id)).one()
    rows = c.execute(select(items.c.id, items.c.ordinal, items.c.meta).where(items.c.source_id == source_id, _LIVE))
    changed = []
    for row in rows.all() if facts else ():
        try:
            known = dict(json.loads(row.meta))
        except (ValueError, TypeError):  # damaged
            known = {}
        told = facts[min(row.ordinal, len(facts) - 1)]
        new = {**{name: value for name, value in known.items() if name not in FACTS}, **told}
        if new != known:
            date_s = _date_of(new, source.modified_ns)
            changed.append({"id": row.id, "meta": json.dumps(new, ensure_ascii=True), "date_s": date_s})
    if changed:
        next_generation(c)
        c.execute(text("UPDATE items SET meta = :meta, date_s = :date_s WHERE id = :id"), changed)
    identifier = facts[0].get("content_identifier") if facts else source.content_identifier
    _set(c, source_id, content_identifier=identifier, reader_version=reader_version)


def fail_source(c: Connection, source: Source | Path, error: SourceError, *, replaces: int | None) -> int:
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
        _tombstone(c, items.c.source_id == attempt.id, next_generation(c))
    _set(c, attempt.id, **values)
    return attempt.id


def move(c: Connection, source_id: int, source: Source, generation: int) -> None:
    """Another path for the same content; what stood there gives way."""
    _clear(c, source.path, generation, but=source_id)
    _restamp(c, [(source_id, source)])
    _set(c, source_id, **_file(source), state="indexed", changed_at=time.time())
    c.execute(
        update(items).where(items.c.source_id == source_id, _LIVE).values(name=lexical_name(source.path, _roots(c)))
    )
    _redate(c, source_id, source.path)
    show(c, [source_id], generation)


HELD = """(
    s.state IN ('indexed', 'offline') AND EXISTS (SELECT 1 FROM embedded e WHERE e.source_id = s.id AND e.model_id = m.id)
    OR s.state = 'removed' AND s.item_count > 0 AND (
        SELECT count(*) = s.item_count AND count(v.id) = s.item_count
        FROM items i LEFT JOIN vectors v ON v.item_id = i.id AND v.model_id = m.id
        WHERE i.source_id = s.id AND i.deleted_at IS NOT NULL
        AND i.generation = (SELECT max(generation) FROM items WHERE source_id = s.id)))"""
"""An SQL condition: the source `s` has all its items and their vectors of the model `m`. One that was removed has its last ones, which
went together, until `compact`."""


def copy_source(c: Connection, from_id: int, source: Source) -> int:
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
        "name": lexical_name(source.path, _roots(c)),
    }
    for statement in (of_items, of_vectors, of_models):
        c.execute(text(statement), parameters)
    _restamp(c, [(copy_id, source)])
    _redate(c, copy_id, source.path)
    return copy_id


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
    """Remember the size and the times of files as they are now; items that bear their file's time, for want of their own, follow."""
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
            _tombstone(c, items.c.source_id == source_id, generation)
            c.execute(delete(embedded).where(embedded.c.source_id == source_id))
        else:
            seen = (items.c.source_id == source_id, items.c.visible == 1, _LIVE)
            c.execute(update(items).where(*seen).values(visible=0, generation=generation))
        _set(c, source_id, state=state, changed_at=time.time())


def show(c: Connection, source_ids: Collection[int], generation: int) -> None:
    """Make every live item of these sources findable; offline sources count as indexed again."""
    for source_id in source_ids:
        unseen = (items.c.source_id == source_id, items.c.visible == 0, _LIVE)
        c.execute(update(items).where(*unseen).values(visible=1, generation=generation))
        was_offline = (sources.c.id == source_id, sources.c.state == "offline")
        c.execute(update(sources).where(*was_offline).values(state="indexed", changed_at=time.time()))


def _begun(c: Connection, source_ids: Collection[int]) -> dict[int, tuple[int, bool, Path]]:
    """For each source being indexed: its id, whether its new items are seen at once, and its path."""
    columns = (sources.c.id, sources.c.state, sources.c.replaces, sources.c.path)
    rows = c.execute(select(*columns).where(sources.c.id.in_(list(source_ids)), sources.c.state.in_(BEING_INDEXED)))
    begun = {
        row.id: (row.id, row.replaces is None and row.state != "offline", Path(os.fsdecode(row.path))) for row in rows
    }
    if missing := set(source_ids) - set(begun):
        raise CatalogError(f"source {min(missing)} is not being indexed: call begin_source first")
    return begun


def _save_item(
    c: Connection, begun: tuple[int, bool, Path], name: str, draft: ItemDraft, preview: str | None, generation: int
) -> int:
    """The id of the item at this place of its source: the one that stands there, or a new one."""
    source_id, is_visible, _ = begun
    description = readable(draft.description)
    said = {
        **normalised(described(draft.text, description))._asdict(),
        "text_source": (draft.text_source if draft.text else None) or ("metadata" if description else None),
        "description": description,
        "meta": json.dumps(dict(draft.meta), ensure_ascii=True),
        "date_s": _date_s(draft),
    }
    former = c.execute(
        text(
            "SELECT id, kind, page_number, start_s, end_s, text, spellings, text_source, description, meta, date_s FROM items"
            " WHERE source_id = :source AND ordinal = :ordinal AND deleted_at IS NULL"
        ),
        {"source": source_id, "ordinal": draft.ordinal},
    ).first()
    if former is not None:
        if tuple(former[1:5]) == (draft.kind, draft.page_number, draft.start_s, draft.end_s):
            changed = {name: value for name, value in said.items() if getattr(former, name) != value}
            if changed:  # subtitles or sidecars changed, or an older mmsearch read less
                c.execute(update(items).where(items.c.id == former.id).values(**changed))
            return former.id
        _tombstone(c, items.c.id == former.id, generation)  # the file is cut in another way than before
    new = {
        "source_id": source_id,
        "kind": draft.kind,
        "visible": int(is_visible),
        "generation": generation,
        "ordinal": draft.ordinal,
        "page_number": draft.page_number,
        "start_s": draft.start_s,
        "end_s": draft.end_s,
        "preview": preview,
        "name": name,
        **said,
        "has_print": None if draft.has_print is None else int(draft.has_print),
    }
    return c.execute(insert(items).returning(items.c.id), new).scalar_one()


def _tombstone(c: Connection, which: Any, generation: int) -> None:
    c.execute(update(items).where(which, _LIVE).values(visible=0, deleted_at=time.time(), generation=generation))


def _add(c: Connection, values: Mapping[str, Any]) -> int:
    return c.execute(insert(sources).returning(sources.c.id), {"item_count": 0, **values}).scalar_one()


def _set(c: Connection, source_id: int, **values: Any) -> None:
    c.execute(update(sources).where(sources.c.id == source_id).values(**values))


def _put(c: Connection, table: Any, key: dict[str, Any], values: dict[str, Any]) -> None:
    """Insert a row, or set its values if the key is taken."""
    new = upsert(table).values(**key, **values)
    kept = {name: new.excluded[name] for name in values}
    c.execute(new.on_conflict_do_update(index_elements=list(key), set_=kept))


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
    return {"path": os.fsencode(path), "name": _display(path), **columns}


def _date_s(draft: ItemDraft) -> float:
    return _date_of(draft.meta, draft.source.modified_ns)


def _date_of(facts: Mapping[str, Any], modified_ns: int) -> float:
    """Of a date: seconds on the clock of the place where it was taken (`dates.wall_s`). Without one: the file's time."""
    captured = facts.get("captured_at")
    seconds = wall_s(captured) if isinstance(captured, str) else None
    return modified_ns / 1e9 if seconds is None else seconds


def _redate(c: Connection, source_id: int, path: Path) -> None:
    """Give a file's items the date in its new name, unless they know a better one."""
    if (in_name := date_in_name(path.name)) is None:
        return
    c.execute(
        text(
            "UPDATE items SET date_s = :date_s, meta = json_set(meta, '$.captured_at', :date, '$.date_source', 'name')"
            " WHERE source_id = :id AND deleted_at IS NULL"
            " AND coalesce(json_extract(meta, '$.date_source'), iif(json_extract(meta, '$.captured_at') IS NULL, 'file', 'exif'))"
            " IN (SELECT value FROM json_each(:below))"
        ),
        {"id": source_id, "date": in_name, "date_s": wall_s(in_name), "below": json.dumps(["name", *BELOW_NAME])},
    )


def _display(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "replace")


def _roots(c: Connection) -> list[Path]:
    return [Path(os.fsdecode(path)) for path in c.execute(select(roots.c.path)).scalars()]


def _rename(c: Connection, former: Sequence[Path], now: Sequence[Path]) -> None:
    """The names of items again whose outermost root is another one since a scan."""
    changed = set(former) ^ set(now)
    if not changed:
        return
    condition, parameters = under_any(sorted(changed))
    found = c.execute(
        text(
            "SELECT s.id, s.path, min(i.name) AS name FROM sources s JOIN items i ON i.source_id = s.id AND i.deleted_at IS NULL"
            f" WHERE {condition} GROUP BY s.id"
        ),
        parameters,
    ).all()
    names = [(row.id, row.name, lexical_name(Path(os.fsdecode(row.path)), now)) for row in found]
    new = [{"id": source_id, "name": name} for source_id, before, name in names if name != before]
    if new:
        c.execute(text("UPDATE items SET name = :name WHERE source_id = :id AND deleted_at IS NULL"), new)
        next_generation(c)


def normalise_items(c: Connection) -> None:
    """Bring text, spellings and names of all items to what they would be if they were saved now, from what is stored. The full-text
    tables and their triggers must be out of the way."""
    known_roots = _roots(c)
    page = text(
        "SELECT i.id, i.text, i.name, s.path FROM items i JOIN sources s ON s.id = i.source_id WHERE i.id > :after"
        " ORDER BY i.id LIMIT :count"
    )
    after_id = 0
    while rows := c.execute(page, {"after": after_id, "count": NORMALISED_AT_ONCE}).all():
        after_id = rows[-1].id
        changed = []
        for row in rows:
            new, name = normalised(row.text), lexical_name(Path(os.fsdecode(row.path)), known_roots)
            if (*new, name) != (row.text, "", row.name):
                changed.append({"id": row.id, "name": name, **new._asdict()})
        if changed:
            c.execute(
                text("UPDATE items SET text = :text, spellings = :spellings, name = :name WHERE id = :id"), changed
            )


def lexical_name(path: Path, known_roots: Sequence[Path] = ()) -> str:
    """What the lexical search knows of a file: its folder and its own name on the first line, then the folders above, the nearest
    first, up to the outermost of `known_roots` that it lies in. `Q3Report_final` is opened into words; other spellings follow."""
    near = Path(*path.parts[-2:]) if len(path.parts) > 2 else Path(path.name)
    root = min((root for root in known_roots if root in path.parents), key=lambda root: len(root.parts), default=None)
    above = path.parts[max(1, len(root.parts) - 1) : -2] if root is not None else ()
    return "\n".join(_in_words(_display(Path(part))) for part in (os.fspath(near), *reversed(above)))


def _in_words(name: str) -> str:
    name = " ".join(readable(name).split("\n"))
    opened = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])", " ", name)
    return " ".join(filter(None, [name, opened if opened != name else "", spellings(name)]))


def storable(words: str) -> str:
    """A message that SQLite can hold: no lone surrogates, no NUL."""
    return words.encode("utf-8", "replace").decode().replace("\0", " ")
