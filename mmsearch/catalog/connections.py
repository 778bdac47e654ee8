"""The connections of an opened catalog: transactions that read one generation, transactions that write, and whose file it still is."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from mmsearch.catalog.dialect import sqlite
from mmsearch.disk.presence import place_of
from mmsearch.errors import CatalogError, CorruptIndex, LibraryReplaced

_ID = "SELECT value FROM meta WHERE key = 'id'"


class Database:
    """What the parts of a catalog read and write through; safe to use from several threads.

    Attributes:
        folder: the library's. file: the database. read_only: whether `transaction` refuses.
    """

    def __init__(self, folder: Path, engine: Engine, *, read_only: bool) -> None:
        self.folder, self.file, self.read_only = folder, folder / sqlite.CATALOG_NAME, read_only
        self.engine = engine
        self._of_thread = threading.local()  # `reading`: the connection of `snapshot`; `writing`: of `transaction`
        self._log_limit = sqlite.LOG_BYTES
        self._place = place_of(self.file)
        self._written: tuple[int, int] | None = None  # the file's time and size when its id was looked at
        self._id: str | None = None
        with suppress(CatalogError, SQLAlchemyError), engine.connect() as c:  # a damaged one is opened still
            self._id = c.execute(text(_ID)).scalar()
        # The pool keeps that connection open, so that no other file gets the inode.

    @property
    def id(self) -> str:
        """Tells this catalog from every other: a snapshot of another one's vectors must not answer for it."""
        with self.reading() as c:
            return c.execute(text(_ID)).scalar() or self.lacks("id")

    @property
    def identity(self) -> tuple[object, ...]:
        """The id, device and inode of the catalog that was opened: differs for a copy that was put in its place, too."""
        return (self._id, *(self._place or ()))

    def refuse_if_replaced(self) -> None:
        """Raises LibraryReplaced if another file, or none, is where the opened one was, or another one was copied into it.

        SQLite would go on with the unlinked file, and mix what it holds in memory with what it reads from the other one.
        """
        try:
            status = self.file.stat()
        except (FileNotFoundError, NotADirectoryError):
            self._refuse_replaced()
        except OSError:
            return  # a disk that fails: SQLite says what it is
        if (status.st_dev, status.st_ino) != self._place:
            self._refuse_replaced()
        if (written := (status.st_mtime_ns, status.st_size)) != self._written:
            self.refuse_other(sqlite.id_in_file(self.file))
            self._written = written

    def refuse_other(self, catalog_id: str | None) -> None:
        """Raises LibraryReplaced if what was read is of a catalog with another id."""
        if None not in (self._id, catalog_id) and catalog_id != self._id:
            self._refuse_replaced()

    def _refuse_replaced(self) -> NoReturn:
        raise LibraryReplaced(
            f"the library at {self.folder} was deleted, or replaced by another one, while it was open: open it again"
        )

    def connect(self) -> Connection:
        """A connection to the catalog that was opened. Raises LibraryReplaced."""
        self.refuse_if_replaced()  # a new connection would create the file again
        connection = self.engine.connect()
        try:
            self.refuse_if_replaced()  # or be one to the other file
        except LibraryReplaced:
            connection.invalidate()
            connection.close()
            raise
        return connection

    def close(self) -> None:
        self.engine.dispose()

    def lacks(self, what: str) -> NoReturn:
        raise CorruptIndex(f"{self.file} is damaged (its {what} is gone): `mmsearch doctor --repair` mends it")

    def refuse_if_read_only(self) -> None:
        """Raises CatalogError."""
        if self.read_only:
            why = "" if os.access(self.folder, os.W_OK) else ", since its folder, or the disk, cannot be written"
            raise CatalogError(f"the library at {self.folder} is open for reading only{why}")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Inside, this thread reads one generation, whatever others commit. Keep it short: the log cannot be cut meanwhile."""
        if getattr(self._of_thread, "reading", None) is not None:
            yield
            return
        with self.connect() as connection:
            generation(connection)  # a transaction sees what is there when it first reads
            self._of_thread.reading = connection
            try:
                yield
            finally:
                self._of_thread.reading = None

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """The connection of this thread's transaction or snapshot, else one of its own."""
        for kind in ("writing", "reading"):
            if (connection := getattr(self._of_thread, kind, None)) is not None:
                yield connection
                return
        with self.connect() as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Inside, all that this thread reads and writes is one transaction, which holds the write lock from its beginning.

        Keep it short: a commit waits for the disk, and other writers wait. Raises CatalogError: the library is open for reading only.
        """
        if (writing := getattr(self._of_thread, "writing", None)) is not None:
            yield writing
            return
        self.refuse_if_read_only()
        with self.connect().execution_options(immediate=True) as connection, connection.begin():
            self._of_thread.writing = connection
            try:
                yield connection
            finally:
                self._of_thread.writing = None
        if getattr(self._of_thread, "reading", None) is None:
            self._cut_log()

    def _cut_log(self) -> None:
        """Empty the log if it is large. SQLite does so by itself only at a moment without readers, which need never come."""
        try:
            size = self.file.with_name(f"{self.file.name}-wal").stat().st_size
        except OSError:
            return
        if size < self._log_limit:
            return
        with self.connect() as connection:
            is_empty = sqlite.empty_log(connection)
        self._log_limit = sqlite.LOG_BYTES if is_empty else size + sqlite.LOG_BYTES


def generation(c: Connection) -> int:
    """Raises CatalogError where the catalog does not say it."""
    if (found := c.execute(text("SELECT value FROM meta WHERE key = 'generation'")).scalar()) is None:
        raise CatalogError("the catalog does not say its generation: `mmsearch doctor --repair` puts it back")
    return int(found)


def next_generation(c: Connection) -> int:
    """Count this transaction as one that alters what can be found."""
    counted = text("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'generation' RETURNING value")
    return int(c.execute(counted).scalar_one())


def put(c: Connection, table: Any, key: dict[str, Any], values: dict[str, Any]) -> None:
    """Insert a row, or set its values if the key is taken."""
    new = sqlite.upsert(table).values(**key, **values)
    kept = {name: new.excluded[name] for name in values}
    c.execute(new.on_conflict_do_update(index_elements=list(key), set_=kept))
