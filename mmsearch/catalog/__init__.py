"""The catalog: what is indexed, where it lies, its text, its vectors, and what failed. The only truth of a library.

An item, its vectors and its text become visible in one transaction. Nothing here knows models, files' content or FAISS.

The door is `Catalog`; what it holds is asked of its parts: `sources`, `items`, `vectors`, `models`, `text`, `print`. `dialect` has what
is SQLite's own, `compare` what a scan means, `integrity` what only `mmsearch doctor` asks.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from mmsearch.catalog import copies
from mmsearch.catalog.compare import KnownFile, Plan
from mmsearch.catalog.connections import Database, generation
from mmsearch.catalog.dialect import sqlite
from mmsearch.catalog.filters import Filters, absolute
from mmsearch.catalog.items import Items
from mmsearch.catalog.models import Models, note_compacted
from mmsearch.catalog.previews import is_preview
from mmsearch.catalog.recognised import Print
from mmsearch.catalog.rows import ErrorRow, SourceRow
from mmsearch.catalog.sources import Sources
from mmsearch.catalog.text import Text
from mmsearch.catalog.vectors import StoredVectors, Tail

__all__ = ["Catalog", "ErrorRow", "Filters", "KnownFile", "Plan", "SourceRow", "Tail"]


class Catalog(Database):
    """An opened catalog; safe to use from several threads, and from several processes at once.

    Attributes:
        sources: files. items: pages, photos, clips. vectors: per model. models: whose vectors there are. text: search by words.
        print: what was read in pictures.
    """

    def __init__(self, folder: Path, engine: Engine, *, read_only: bool) -> None:
        super().__init__(folder, engine, read_only=read_only)
        self.sources = Sources(self)
        self.items = Items(self)
        self.vectors = StoredVectors(self)
        self.models = Models(self)
        self.text = Text(self)
        self.print = Print(self)

    @classmethod
    def open(cls, folder: Path, *, create: bool = False, read_only: bool = False) -> Catalog:
        """Open the catalog in `folder`, migrating an older one; `read_only` becomes true by itself where it must.

        Raises:
            LibraryMissing, NewerSchema, CorruptIndex, CatalogError: see `mmsearch.catalog.dialect.sqlite.open_database`.
        """
        folder = absolute(folder)
        engine, read_only = sqlite.open_database(folder, create=create, read_only=read_only)
        return cls(folder, engine, read_only=read_only)

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def generation(self) -> int:
        """Grows with every commit that alters what can be found."""
        with self.reading() as c:
            return generation(c)

    def state(self) -> tuple[int, str | None]:
        """The generation and the active model key. Raises LibraryReplaced."""
        with self.reading() as c:
            row = c.execute(
                sa.text(
                    "SELECT generation.value, models.key, id.value FROM meta generation"
                    " LEFT JOIN meta id ON id.key = 'id' LEFT JOIN meta active ON active.key = 'active_model' LEFT JOIN models ON models.id = active.value"
                    " WHERE generation.key = 'generation'"
                )
            ).first()
            if row is None:
                self.lacks("generation")
            self.refuse_other(row[2])
            return int(row[0]), row[1]

    def counts(self, model_key: str | None = None) -> dict[str, dict[str, int]]:
        """{"items": per kind, visible; "vectors": per kind, of this model (default: the active one); "sources": per state}, of one moment."""
        with self.snapshot():
            key = model_key or self.models.active_key()
            return {
                "items": {str(kind): count for kind, count in self.items.counts().items()},
                "vectors": self.vectors.counts(key) if key is not None else {},
                "sources": self.sources.counts(),
            }

    def copy_to(self, file: Path) -> None:
        """Write a consistent copy of the database as it is now, while others go on reading and writing.

        Raises:
            CorruptIndex: the copy is not sound, so the catalog is damaged; the copy is removed.
        """
        with self.connect() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            try:
                copies.copy_database(raw, self.file, file)
            except sqlite3.Error as error:
                sqlite.translate_error(error, file)
                raise

    def compact(self) -> list[str]:
        """Delete tombstones and vectors of other models for good; `vacuum` gives their space back.

        Returns:
            Preview paths (relative to the library) that no item uses any longer.
        """
        with self.transaction() as c:
            before = set(c.execute(sa.text("SELECT DISTINCT preview FROM items WHERE preview IS NOT NULL")).scalars())
            note_compacted(c)
            c.execute(sa.text("DELETE FROM items WHERE deleted_at IS NOT NULL"))
            c.execute(sa.text("DELETE FROM sources WHERE state = 'removed'"))
            c.execute(sa.text("DELETE FROM recognised WHERE sha256 NOT IN (SELECT sha256 FROM sources)"))
            c.execute(
                sa.text(
                    "DELETE FROM models WHERE key != (SELECT models.key FROM meta JOIN models ON models.id = meta.value"
                    " WHERE meta.key = 'active_model')"
                )
            )
            after = set(c.execute(sa.text("SELECT DISTINCT preview FROM items WHERE preview IS NOT NULL")).scalars())
            for table in ("words", "trigrams"):
                c.execute(sa.text(f"INSERT INTO {table}({table}) VALUES ('optimize')"))
        return sorted(filter(is_preview, before - after))

    def vacuum(self) -> None:
        """Write the file again without its empty pages. Raises DiskFull: there must be room for it twice more."""
        sqlite.vacuum(self.engine, self.file)
