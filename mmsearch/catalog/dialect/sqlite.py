"""How a catalog in SQLite is opened: pragmas, schema version, migrations, damage; and how its file is copied and made smaller."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn
from urllib.parse import quote

import numpy as np
from sqlalchemy import (
    Engine,
    create_engine,
    event,
    text,
)
from sqlalchemy.dialects.sqlite import insert as upsert  # noqa: F401 (of this dialect)
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.pool import QueuePool

from mmsearch.catalog import copies
from mmsearch.catalog.previews import PREVIEWS_NAME
from mmsearch.disk import faults as disk
from mmsearch.disk.lock import lock_holder
from mmsearch.disk.presence import is_empty
from mmsearch.errors import CatalogError, CorruptIndex, DiskFull, LibraryLocked, LibraryMissing, NewerSchema
from mmsearch.words import size

log = logging.getLogger(__name__)

CATALOG_NAME = "catalog.sqlite3"
SCHEMA_REVISION = "0008"
"""The newest revision in `migrations/versions`; revisions are numbered so that older and newer can be told apart."""
WORDS_REVISION = "0005"
"""The newest revision that indexes the words of all items again."""

LOG_BYTES, LOG_WAIT_S = 16 << 20, 1.0
"""A write-ahead log of this size is emptied after a commit; readers that are in the middle of something are waited for so long."""
BUSY_TIMEOUT_S = 30.0
MIGRATION_TIMEOUT_S = 600.0
"""How long another process's migration is waited for; it copies the whole catalog first."""


def open_database(folder: Path, *, create: bool, read_only: bool, keep_former: bool = True) -> tuple[Engine, bool]:
    """Open, and where needed create or migrate, the catalog of a library.

    Args:
        keep_former: copy the catalog as it is before it is migrated, see `mmsearch.catalog.copies`.

    Returns:
        The engine, and whether it can only read (asked for, or because the folder cannot be written).

    Raises:
        LibraryMissing: nothing there and `create` is false. NewerSchema: written by a newer mmsearch.
        CorruptIndex: not a catalog, damaged, or gone from beside its previews and snapshots; what is there is left as it is.
        DiskFull, DiskFailed: no room to make it, or to migrate it and keep a copy first; or its disk fails.
        CatalogError: older schema in a read-only library.
        LibraryLocked: older schema, and an older mmsearch is writing.
    """
    file = folder / CATALOG_NAME
    was_empty = is_empty(file)
    if was_empty:
        refuse_lost(folder)
    if not file.exists():
        if not create or read_only:
            raise LibraryMissing(f"no library at {folder}: `mmsearch ingest FOLDER` makes one")
        with disk.disk_faults(folder):
            # It holds the text of files that others may not read.
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    can_write = os.access(folder, os.W_OK) and (not file.exists() or os.access(file, os.W_OK))
    read_only = read_only or not can_write
    engine = _engine(file, read_only=read_only, can_write=can_write)
    try:
        revision = _revision(engine, file)
        if revision != SCHEMA_REVISION:
            _refuse_newer(revision, file)
            if not revision and not was_empty:
                refuse_lost(folder)
            if read_only:
                raise CatalogError(
                    f"{file} has schema {revision or 'none'} and is read-only; "
                    f"this mmsearch needs {SCHEMA_REVISION}: open it once where it can be written"
                )
            if not create and not revision:
                raise LibraryMissing(f"{file} is empty: `mmsearch ingest FOLDER` fills it")
            _migrate(engine, file, keep_former=keep_former)
    except BaseException:
        engine.dispose()
        raise
    return engine, read_only


def refuse_lost(folder: Path) -> None:
    """Raise CorruptIndex where a library's catalog is gone, or empty, while what only a filled one leaves is still there.

    A first ingest that was killed left at most an empty catalog: that one is made again without a word.
    """
    file = folder / CATALOG_NAME
    log_name = f"{CATALOG_NAME}-wal"
    traces = [log_name] if is_empty(file) and not is_empty(folder / log_name) else []
    traces += [PREVIEWS_NAME] if next(folder.glob(f"{PREVIEWS_NAME}/??/*.webp"), None) is not None else []
    traces += sorted(path.parent.name for path in folder.glob("*/.writing"))
    if traces:
        raise CorruptIndex(
            f"{file} is {'empty' if file.exists() else 'gone'}, but what belongs to it is still there ({', '.join(traces)}); nothing "
            f"was altered: bring a backup back (`mmsearch restore FILE --library {folder}`), or move the folder away to begin again"
        )


def objects(connection: Connection) -> dict[str, tuple[str, str]]:
    """The indexes, triggers and views of a catalog: their type and SQL by name."""
    rows = connection.execute(
        text("SELECT name, type, sql FROM sqlite_master WHERE type IN ('index', 'trigger', 'view') AND sql IS NOT NULL")
    )
    return {row.name: (row.type, row.sql) for row in rows}


def new_objects() -> dict[str, tuple[str, str]]:
    """The `objects` of a catalog just made."""
    with TemporaryDirectory(prefix="mmsearch-") as folder:
        engine, _ = open_database(Path(folder), create=True, read_only=False)
        try:
            with engine.connect() as connection:
                return objects(connection)
        finally:
            engine.dispose()


def id_in_file(file: Path) -> str | None:
    """The catalog's id as the file itself has it, whatever the log and open connections hold; None if it does not tell.

    Through SQLite: to open and close the file otherwise would take this process's locks on it away.
    """
    address = f"file:{quote(os.fsencode(file))}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(address, uri=True)) as connection:
            row = connection.execute("SELECT value FROM meta WHERE key = 'id'").fetchone()
    except (sqlite3.Error, UnicodeError):  # not written yet, or just being written
        return None
    return str(row[0]) if row else None


def _engine(file: Path, *, read_only: bool, can_write: bool) -> Engine:
    of_thread = threading.local()  # `alone`: whether it holds an `_Alone`, for which another one would wait in vain

    def connect() -> sqlite3.Connection:
        if getattr(of_thread, "alone", False):
            raise disk.full(file.parent)
        connection = _connect(file, read_only=read_only, can_write=can_write)
        of_thread.alone = isinstance(connection, _Alone)
        return connection

    engine = create_engine(
        "sqlite://",
        creator=connect,
        poolclass=QueuePool,
        pool_size=4,
        max_overflow=16,
        hide_parameters=True,  # queries and texts of files do not get into the words of an error
    )

    @event.listens_for(engine, "checkin")
    def _release(connection: sqlite3.Connection | None, record: Any) -> None:
        if isinstance(connection, _Alone):  # others wait for it, and the next one may find room
            of_thread.alone = False
            record.invalidate()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A deferred transaction that turns into a writer fails at once when another one wrote meanwhile; this one waits.
        immediate = connection.get_execution_options().get("immediate", False)
        if immediate and isinstance(connection.connection.driver_connection, _Alone):
            raise disk.full(file.parent)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    @event.listens_for(engine, "handle_error")
    def _translate(context: ExceptionContext) -> None:
        translate_error(context.original_exception, file)

    return engine


class _Alone(sqlite3.Connection):
    """One that keeps the index of the write-ahead log in memory, since the disk has no room for the file that processes share.

    While it lives it locks all others out, so it is closed after each transaction.
    """


def _connect(file: Path, *, read_only: bool, can_write: bool) -> sqlite3.Connection:
    """A connection that can be read from, however little its disk allows; raises as `translate_error` does."""
    attempts: list[tuple[str, type[sqlite3.Connection]]]
    is_logged = not is_empty(file.with_name(f"{file.name}-wal"))
    try:
        return _opened(file, "mode=ro" if read_only else "mode=rwc")
    except sqlite3.Error as error:
        code = _primary_code(error)
        if can_write and code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and disk.is_full(file.parent):
            # Where not even an empty log can be made, nobody writes at this moment.
            attempts = [("mode=rw", _Alone), *([] if is_logged else [("mode=ro&immutable=1", _Alone)])]
        elif code != sqlite3.SQLITE_NOTADB and not os.access(file.parent, os.W_OK):
            # In a folder that can only be read the log's shared index cannot be made, but nobody writes either: what is in the log
            # is read without locks and with an index in memory, and by `immutable`, which knows no log, where there is none.
            attempts = [("mode=ro&vfs=unix-none", _Alone) if is_logged else ("mode=ro&immutable=1", sqlite3.Connection)]
        else:
            translate_error(error, file)
            raise
    while True:
        options, kind = attempts.pop(0)
        try:
            return _opened(file, options, kind, read_only=read_only)
        except sqlite3.Error as error:
            if not attempts:
                translate_error(error, file)
                raise


def _opened(
    file: Path, options: str, kind: type[sqlite3.Connection] = sqlite3.Connection, *, read_only: bool = False
) -> sqlite3.Connection:
    location = f"file:{quote(os.fsencode(file.absolute()))}?{options}"
    # isolation_level=None: the driver starts no transactions of its own; `_begin` does.
    connection = sqlite3.connect(
        location, uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None, factory=kind
    )
    connection.text_factory = _text  # a damaged byte in one item's text must not fail every answer that it is in
    try:
        for pragma in (
            *(["locking_mode = EXCLUSIVE"] if kind is _Alone else []),  # first: others look at the file
            f"busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}",
            "foreign_keys = ON",
            "synchronous = FULL",  # a commit outlives a power cut: the log is on the disk before it counts
            "temp_store = MEMORY",
            "cache_size = -32768",
            *(["query_only = ON"] if read_only else []),
        ):
            connection.execute(f"PRAGMA {pragma}").close()
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()  # only now the files are opened
    except BaseException:
        connection.close()
        raise
    return connection


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def translate_error(error: BaseException, file: Path) -> None:
    """Raise our own error for what SQLite says of a file that is damaged, busy, without room or out of reach; else return."""
    if not isinstance(error, sqlite3.Error):
        return
    said, code = str(error), _primary_code(error)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "malformed" in said:
        _corrupt(file, said, error)
    if said.startswith("Could not decode to UTF-8"):  # the driver's own; what it goes on to say is the text itself
        _corrupt(file, "a text in it is no UTF-8", error)
    if code == sqlite3.SQLITE_FULL or (
        code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and disk.is_full(file.parent)
    ):
        raise disk.full(file.parent) from error
    if code == sqlite3.SQLITE_IOERR:
        raise disk.failing(file.parent, getattr(error, "sqlite_errorname", said)) from error
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        raise CatalogError(
            f"{file} cannot be opened or written ({said}): see whose it is, whether it is a file, and whether its disk is sound"
        ) from error
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL):
        raise LibraryLocked(f"{file} was kept busy by another process for {BUSY_TIMEOUT_S:.0f} s; try again") from error


def members(name: str | None = None) -> str:
    """SQL for "the members of a list" behind `IN`: of the parameter `:name` (by default of `?`), which `listed` makes."""
    return f"(SELECT value FROM json_each({f':{name}' if name else '?'}))"


def listed(values: Iterable[Any]) -> str:
    """A list as one parameter, however long: SQLite takes a limited number of them."""
    if isinstance(values, np.ndarray):
        return json.dumps(values.tolist())
    return json.dumps([one.item() if isinstance(one, np.generic) else one for one in values])


def empty_log(connection: Connection) -> bool:
    """Write the log into the database file and cut it; false if readers are in the way. What was committed stands either way."""
    raw = _driver(connection)
    raw.execute(f"PRAGMA busy_timeout = {int(LOG_WAIT_S * 1000)}").close()
    try:
        (is_busy, *_) = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.OperationalError:
        is_busy = True
    finally:
        raw.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}").close()
    return not is_busy


def vacuum(engine: Engine, file: Path) -> None:
    """Write the file again without its empty pages, by way of a copy beside it. Raises as `translate_error`."""
    with engine.connect() as connection:
        driver = _driver(connection)

        def run(statement: str) -> None:
            try:
                driver.execute(statement).close()
            except sqlite3.Error as error:
                translate_error(error, file)
                raise

        try:
            # In memory, where temporary tables are, the copy would take as much of it as the library has bytes.
            run("PRAGMA temp_store = FILE")
            with suppress(UnicodeEncodeError):  # else the copy lies where the system has its temporary files
                run(f"""PRAGMA temp_store_directory = '{str(file.parent).replace("'", "''")}'""")
            run("VACUUM")
            run("PRAGMA wal_checkpoint(TRUNCATE)")  # it has gone through the log as a whole
        finally:
            run("PRAGMA temp_store_directory = ''")
            run("PRAGMA temp_store = MEMORY")


def _primary_code(error: sqlite3.Error) -> int:
    """SQLite's result code without its finer distinctions; 0 for an error of the driver."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _corrupt(file: Path, said: str, error: BaseException | None = None) -> NoReturn:
    raise CorruptIndex(
        f"{file} is damaged ({said}); it was left as it is: restore a backup, or move it away and ingest again"
    ) from error


def _revision(engine: Engine, file: Path) -> str:
    """The schema revision of the file, "" for an empty one."""
    with engine.connect() as connection:
        return _revision_seen(connection, file)


def _revision_seen(connection: Connection, file: Path) -> str:
    tables = set(connection.execute(text("SELECT name FROM sqlite_master")).scalars())
    if not tables:
        return ""
    if "alembic_version" not in tables:
        _corrupt(file, "an SQLite file, but not a catalog of mmsearch")
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or ""


def _refuse_newer(revision: str, file: Path) -> None:
    if revision and (not revision.isdigit() or int(revision) > int(SCHEMA_REVISION)):
        raise NewerSchema(
            f"{file} has schema {revision}, this mmsearch knows up to {SCHEMA_REVISION}: use the newer mmsearch"
        )


def _migrate(engine: Engine, file: Path, *, keep_former: bool) -> None:
    """Bring the file to `SCHEMA_REVISION` in one transaction, once a copy of it as it is lies beside it.

    Another process that is at it is waited for; alembic is imported only here.
    """
    from alembic import command
    from alembic.config import Config

    if (writer := lock_holder(file.parent)) is not None:
        raise LibraryLocked(
            f"process {writer}, of another version of mmsearch, is writing to {file.parent}, whose schema must be brought to "
            f"{SCHEMA_REVISION} first: wait for it, or stop it with `kill {writer}`"
        )
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[1] / "migrations").replace("%", "%%"))
    kept, again = None, ""
    with engine.connect().execution_options(immediate=True) as connection:
        raw = _driver(connection)
        connection.detach()  # a connection with that much patience serves nothing else
        try:
            raw.execute("PRAGMA journal_mode = WAL").close()  # kept in the file; not possible inside a transaction
            raw.execute(f"PRAGMA busy_timeout = {int(MIGRATION_TIMEOUT_S * 1000)}").close()
        except sqlite3.Error as error:
            translate_error(error, file)
            raise
        with connection.begin():
            former = _revision_seen(connection, file)
            _refuse_newer(former, file)
            if former == SCHEMA_REVISION:  # another process was quicker
                return
            if keep_former and former and connection.execute(text("SELECT 1 FROM sources LIMIT 1")).first():
                kept = _keep_former(engine, file, former)
            config.attributes["connection"] = connection
            command.upgrade(config, SCHEMA_REVISION)
            if former and former < WORDS_REVISION:
                count = connection.execute(text("SELECT count(*) FROM items WHERE visible = 1")).scalar_one()
                again = f", and the words of {count:,} items indexed again from their stored text, without the model"
    if kept is None:
        log.info("%s: schema brought to %s%s", file, SCHEMA_REVISION, again)
        return
    for older in copies.former_copies(file):
        if older != kept:
            older.unlink(missing_ok=True)
    log.warning(
        "%s: schema %s brought to %s%s. As it was it is kept in %s (%s, until `mmsearch compact`): to go back to the older mmsearch, "
        "delete %s, %s-wal and %s-shm and give that file the name %s",
        *(file, former, SCHEMA_REVISION, again, kept.name, size(kept.stat().st_size), *[file.name] * 4),
    )


def _keep_former(engine: Engine, file: Path, former: str) -> Path:
    """Copy the catalog through a second connection, while the first holds the write lock. Raises DiskFull, DiskFailed."""
    try:
        with disk.disk_faults(file.parent), engine.connect() as reader:
            try:
                return copies.keep_former(_driver(reader), file, SCHEMA_REVISION)
            except sqlite3.Error as error:
                translate_error(error, file)
                raise
    except DiskFull as error:
        raise DiskFull(
            f"no room is left on the disk of {file.parent}: {file.name} has schema {former} and must be brought to {SCHEMA_REVISION}, "
            f"and a copy of it as it is is kept first: make {size(file.stat().st_size)} free; nothing was changed"
        ) from error


def _driver(connection: Connection) -> sqlite3.Connection:
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw
