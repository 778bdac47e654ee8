"""The models whose vectors a catalog holds, and the one that answers queries."""

from __future__ import annotations

from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.engine import Connection

from mmsearch.catalog.connections import Database, next_generation, put
from mmsearch.catalog.tables import meta, models
from mmsearch.errors import CatalogError, DimensionMismatch

_ACTIVE = "SELECT models.key FROM meta JOIN models ON models.id = meta.value WHERE meta.key = 'active_model'"


class Models:
    """`Catalog.models`."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def active_key(self) -> str | None:
        """The model key whose vectors answer queries; None in a library without items."""
        with self._db.reading() as c:
            return c.execute(text(_ACTIVE)).scalar()

    def activate(self, model_key: str) -> None:
        """Switch the generation that answers queries. Raises CatalogError if nothing was ever embedded with it."""
        with self._db.transaction() as c:
            model = c.execute(select(models.c.id).where(models.c.key == model_key)).scalar()
            if model is None:
                raise CatalogError(f"no vectors of model {model_key} in {self._db.folder}")
            set_active(c, model)
            next_generation(c)

    def activate_if_complete(self, model_key: str) -> bool:
        """Switch to `model_key` if every indexed source that can be read is embedded by it. Returns whether it is active."""
        if self.active_key() == model_key:
            return True
        if self.sources_to_embed(model_key):
            return False
        self.activate(model_key)
        return True

    def sources_to_embed(self, model_key: str) -> int:
        """How many indexed sources lack vectors of this model, leaving out those whose last reading failed."""
        with self._db.reading() as c:
            return c.execute(
                text(
                    "SELECT count(*) FROM sources s WHERE s.state = 'indexed'"
                    " AND NOT EXISTS (SELECT 1 FROM embedded e JOIN models m ON m.id = e.model_id"
                    "                 WHERE e.source_id = s.id AND m.key = :key)"
                    " AND NOT EXISTS (SELECT 1 FROM sources f WHERE f.path = s.path AND f.state = 'failed')"
                ),
                {"key": model_key},
            ).scalar_one()

    def dims(self) -> dict[str, int]:
        """Every model key that has vectors here, with its dim."""
        with self._db.reading() as c:
            return dict(c.execute(select(models.c.key, models.c.dim)).all())

    def is_multi_vector(self, model_key: str) -> bool:
        """Whether each item has many vectors of this model, one per token."""
        with self._db.reading() as c:
            return shape_of(c, model_key)[1]

    def register(self, model_key: str, dim: int, name: str | None = None, *, is_multi_vector: bool = False) -> None:
        """Make a model known before its first vector; `name` is what `load_embedder` takes.

        Raises:
            DimensionMismatch: known with another dim. CatalogError: known with another number of vectors per item.
        """
        with self._db.transaction() as c:
            known = model_id(c, model_key, dim, is_multi_vector=is_multi_vector)
            if name is not None:
                c.execute(update(models).where(models.c.id == known).values(name=name))

    def name(self, model_key: str) -> str | None:
        """What `load_embedder` was given when this model was registered."""
        with self._db.reading() as c:
            return c.execute(select(models.c.name).where(models.c.key == model_key)).scalar()

    def remove(self, model_key: str) -> None:
        """Delete a model's vectors for good. Raises CatalogError if it answers queries, or is not known here."""
        with self._db.transaction() as c:
            if model_key == c.execute(text(_ACTIVE)).scalar():
                raise CatalogError(
                    f"{model_key} answers queries: switch to another model first (`mmsearch models use`)"
                )
            gone = c.execute(delete(models).where(models.c.key == model_key))
            if not gone.rowcount:
                raise CatalogError(f"no vectors of model {model_key} in {self._db.folder}")


def shape_of(c: Connection, model_key: str) -> tuple[int, bool]:
    """The dim of a model, and whether its items have many vectors each; (0, False) if it is unknown."""
    query = text("SELECT dim, is_multi_vector FROM models WHERE key = :key")
    row = c.execute(query, {"key": model_key}).first()
    return (0, False) if row is None else (row.dim, bool(row.is_multi_vector))


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
    put(c, meta, {"key": "active_model"}, {"value": str(active)})


def note_compacted(c: Connection) -> None:
    """From this generation on, a store that is older must be compared as a whole (see `Vectors.tail`)."""
    put(c, meta, {"key": "compacted"}, {"value": str(next_generation(c))})
