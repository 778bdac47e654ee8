"""Items: pages, photos and clips, saved with their text and vectors, and read back."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert, select, text, update
from sqlalchemy.engine import Connection

from mmsearch.catalog import twins
from mmsearch.catalog.connections import Database, next_generation
from mmsearch.catalog.dialect.sqlite import listed, members
from mmsearch.catalog.filters import Filters, allowed_ids, read_ids
from mmsearch.catalog.models import model_id
from mmsearch.catalog.names import lexical_name, root_paths
from mmsearch.catalog.previews import is_preview
from mmsearch.catalog.tables import items, sources
from mmsearch.catalog.vectors import checked_items, checksum, to_blob
from mmsearch.errors import CatalogError
from mmsearch.items import Item, ItemDraft, Kind
from mmsearch.media.dates import BELOW_NAME, date_in_name, wall_s
from mmsearch.plain_text import described, normalised, readable

LITTLE_TEXT_CHARS = 60
"""A page with less text than this counts as a picture."""
BROWSED_AT_ONCE = 100
"""Files looked at together for `Items.first`."""
BEING_INDEXED = ("pending", "indexed", "offline")

LIVE = items.c.deleted_at.is_(None)
_COUNTS = "SELECT kind, count(*) FROM items WHERE visible = 1 GROUP BY kind"


class Items:
    """`Catalog.items`."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def counts(self) -> dict[Kind, int]:
        """How many items of each kind can be found."""
        with self._db.reading() as c:
            return dict(c.execute(text(_COUNTS)).all())

    def get(self, item_id: int) -> Item:
        """Raises KeyError if no visible item has this id."""
        found = self.of([item_id])
        if not found:
            raise KeyError(item_id)
        return found[0]

    def of(self, ids: Sequence[int] | np.ndarray) -> list[Item]:
        """The visible items among `ids`, in the order asked for."""
        with self._db.reading() as c:
            rows = c.execute(
                text(
                    "SELECT i.id, i.source_id, s.path, i.kind, i.ordinal, i.page_number, i.start_s, i.end_s, i.text, i.meta,"
                    " i.preview, i.text_source, i.description FROM items i JOIN sources s ON s.id = i.source_id"
                    f" WHERE i.visible = 1 AND i.id IN {members('ids')}"
                ),
                {"ids": listed(ids)},
            )
            found = {row.id: self._item(row) for row in rows}
        return [found[i] for i in map(int, ids) if i in found]

    def of_source(self, source_id: int) -> list[Item]:
        """The visible items of a source, by ordinal: the pages around a hit."""
        with self._db.reading() as c:
            of_source = text("SELECT id FROM items WHERE source_id = :id AND visible = 1 ORDER BY ordinal")
            ids = c.execute(of_source, {"id": source_id}).scalars().all()
        return self.of(ids)

    def first(
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
        among = "" if allowed is None else f" AND id IN {members('allowed')}"
        newest = text(
            f"SELECT source_id, min(id), kind FROM items WHERE visible = 1 AND kind IN {members('kinds')}"
            f"{among} AND source_id < :below GROUP BY source_id ORDER BY source_id DESC LIMIT :count"
        )
        parameters = {"kinds": listed(kinds), "allowed": None if allowed is None else listed(allowed)}
        shown: dict[Any, tuple[int, Kind]] = {}
        below, wanted = 2**63 - 1, offset + limit
        with self._db.reading() as c:
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
        return self.of([item_id for item_id, _ in shown.values()][offset:wanted])

    def answers(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """int64 [n], a number for each of `ids`: items of one number count as one answer, see `twins`. What is not visible stands alone."""
        with self._db.reading() as c:
            of_item = twins.keys(c, ids)
        numbers: dict[Any, int] = {}
        return np.array([numbers.setdefault(of_item.get(int(one), int(one)), len(numbers)) for one in ids], np.int64)

    def also_at(self, items: Sequence[Item]) -> dict[int, tuple[Path, ...]]:
        """For items by their ids: the other files that count as the same answer, those in the same folder first."""
        with self._db.reading() as c:
            return twins.also_at(c, items)

    def pages_without_text(self) -> np.ndarray:
        """int64, ascending: visible pages of which hardly more than the picture is known (a page number, a footer)."""
        with self._db.reading() as c:
            query = "SELECT id FROM items WHERE visible = 1 AND kind = 'page' AND length(text) < :least"
            return read_ids(c, query, {"least": LITTLE_TEXT_CHARS})

    def visible_ids(self, kinds: Sequence[Kind]) -> np.ndarray:
        """int64, ascending: all items of these kinds that can be found."""
        with self._db.reading() as c:
            of_kinds = f"SELECT id FROM items WHERE visible = 1 AND kind IN {members('kinds')}"
            return read_ids(c, of_kinds, {"kinds": listed(kinds)})

    def allowed_ids(self, filters: Filters, kinds: Sequence[Kind]) -> np.ndarray | None:
        """The visible items (int64, ascending) of these kinds that pass the filters; None if nothing but kinds is asked for."""
        with self._db.reading() as c:
            return allowed_ids(c, filters, kinds)

    def with_previews(self, names: Collection[str]) -> list[Item]:
        """The visible items that have one of these previews."""
        with self._db.reading() as c:
            query = f"SELECT id FROM items WHERE visible = 1 AND preview IN {members('names')}"
            ids = read_ids(c, query, {"names": listed(sorted(names))})
        return self.of(ids)

    def saved_ordinals(self, source_id: int, model_key: str) -> tuple[set[int], int]:
        """Which items of a source have their vector of this model already, so that a resumed run need not embed them again; and
        from which ordinal on it must read: the first item that lacks its vector, else the one after the last."""
        with self._db.reading() as c:
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
        with self._db.transaction() as c:
            new = [row[2] for row in rows if row[2] is not None]
            checked = checked_items(new) if new else []
            generation = next_generation(c)
            begun = _begun(c, {row[0] for row in rows})
            known_roots = root_paths(c)
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
                    c.execute(update(sources).where(sources.c.id == source_id).values(content_identifier=identifier))
            return ids

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
            preview=self._db.folder / row.preview if row.preview and is_preview(row.preview) else None,
            text_source=row.text_source,
            description=row.description,
        )


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


def _demand_vectors(c: Connection, ids: Collection[int], model_key: str) -> None:
    """Raises CatalogError where an item has no vector of the model to keep."""
    query = (
        "SELECT count(*) FROM vectors v JOIN models m ON m.id = v.model_id WHERE m.key = :key"
        f" AND v.item_id IN {members('ids')}"
    )
    if c.execute(text(query), {"key": model_key, "ids": listed(sorted(ids))}).scalar_one() != len(ids):
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
        tombstone(c, items.c.id == former.id, generation)  # the file is cut in another way than before
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


def tombstone(c: Connection, which: Any, generation: int) -> None:
    c.execute(update(items).where(which, LIVE).values(visible=0, deleted_at=time.time(), generation=generation))


def _date_s(draft: ItemDraft) -> float:
    return date_of(draft.meta, draft.source.modified_ns)


def date_of(facts: Mapping[str, Any], modified_ns: int) -> float:
    """Of a date: seconds on the clock of the place where it was taken (`dates.wall_s`). Without one: the file's time."""
    captured = facts.get("captured_at")
    seconds = wall_s(captured) if isinstance(captured, str) else None
    return modified_ns / 1e9 if seconds is None else seconds


def redate(c: Connection, source_id: int, path: Path) -> None:
    """Give a file's items the date in its new name, unless they know a better one."""
    if (in_name := date_in_name(path.name)) is None:
        return
    c.execute(
        text(
            "UPDATE items SET date_s = :date_s, meta = json_set(meta, '$.captured_at', :date, '$.date_source', 'name')"
            " WHERE source_id = :id AND deleted_at IS NULL"
            " AND coalesce(json_extract(meta, '$.date_source'), iif(json_extract(meta, '$.captured_at') IS NULL, 'file', 'exif'))"
            f" IN {members('below')}"
        ),
        {"id": source_id, "date": in_name, "date_s": wall_s(in_name), "below": listed(["name", *BELOW_NAME])},
    )


def _facts(meta: str) -> dict[str, Any]:
    """`items.meta`; {} where it was damaged, which `mmsearch doctor` finds."""
    try:
        found = json.loads(meta)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
