"""The catalog's tables and how its SQLite file is opened: pragmas, schema version, migrations, damage.

`migrations/` holds the frozen history that builds these tables (and the FTS5 tables and triggers, which SQLAlchemy cannot
describe); a test compares the two.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn
from urllib.parse import quote

from sqlalchemy import (
    Column,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    create_engine,
    event,
    text,
)
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.pool import QueuePool

from mmsearch import copies, disk
from mmsearch.errors import CatalogError, CorruptIndex, DiskFull, LibraryLocked, LibraryMissing, NewerSchema
from mmsearch.integrity import PREVIEWS_NAME
from mmsearch.lock import lock_holder
from mmsearch.terminal import size

log = logging.getLogger(__name__)

CATALOG_NAME = "catalog.sqlite3"
SCHEMA_REVISION = "0008"
"""The newest revision in `migrations/versions`; revisions are numbered so that older and newer can be told apart."""
WORDS_REVISION = "0005"
"""The newest revision that indexes the words of all items again."""

BUSY_TIMEOUT_S = 30.0
MIGRATION_TIMEOUT_S = 600.0
"""How long another process's migration is waited for; it copies the whole catalog first."""

metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
"""`id`: random, tells catalogs apart; `generation`: counts the commits that altered visible items; `compacted`: the generation of
the last compaction; `active_model`: the id of the model that answers queries."""

models = Table(
    "models",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", Text, nullable=False, unique=True),
    Column("dim", Integer, nullable=False),
    Column("name", Text),  # what the user called it ("mini", a folder): lets a query load the right model by itself
    Column("is_multi_vector", Integer, nullable=False, server_default=text("0")),  # 1: an item has a vector per token
)

roots = Table(
    "roots",
    metadata,
    Column("path", LargeBinary, primary_key=True),
    Column("scanned_at", Float, nullable=False),
)

sources = Table(
    "sources",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("path", LargeBinary, nullable=False),  # os.fsencode: any name a file system allows
    Column("name", Text, nullable=False),  # for people: undecodable bytes replaced
    Column("sha256", Text, nullable=False),  # "" where the file could not be read
    Column("size_bytes", Integer, nullable=False),
    Column("modified_ns", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("replaces", Integer),  # pending only: the source whose items this one supersedes when it is finished
    Column("error_type", Text),
    Column("error_reason", Text),
    Column("item_count", Integer, nullable=False, default=0),
    Column("model_key", Text),  # the model of the latest run that worked on it
    Column("changed_at", Float, nullable=False),  # seconds since the epoch: when `state` was last set
    Column("ctime_ns", Integer),  # NULL: not known; see `items.Source`
    Column("content_identifier", Text),  # Apple's name of a moment, see `twins`; NULL without one
    Column("reader_version", Integer),  # see `ingest.readers`; NULL: some item was read by an older mmsearch
    Column("sidecars", Text),  # the stamp of the XMP files that were read beside it; NULL: no metadata were read yet
    # A path has at most one source that holds its items, and at most one attempt beside it.
    Index("sources_holder", "path", unique=True, sqlite_where=text("state IN ('indexed', 'offline')")),
    Index("sources_attempt", "path", unique=True, sqlite_where=text("state IN ('pending', 'failed')")),
    Index("sources_content", "sha256"),
    Index("sources_state", "state"),
    Index("sources_moment", "content_identifier", sqlite_where=text("content_identifier IS NOT NULL")),
    sqlite_autoincrement=True,
)

embedded = Table(
    "embedded",
    metadata,
    Column("source_id", ForeignKey("sources.id", ondelete="CASCADE"), primary_key=True),
    Column("model_id", ForeignKey("models.id", ondelete="CASCADE"), primary_key=True),
    sqlite_with_rowid=False,
)
"""Which sources are completely embedded by which model."""

items = Table(
    "items",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("source_id", ForeignKey("sources.id", ondelete="CASCADE"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("visible", Integer, nullable=False),  # 1: searchable. 0: not finished yet, offline, or a tombstone
    Column("deleted_at", Float),  # a tombstone since then
    Column("generation", Integer, nullable=False),  # when `visible` last changed
    Column("ordinal", Integer, nullable=False),
    Column("page_number", Integer),
    Column("start_s", Float),
    Column("end_s", Float),
    Column(
        "date_s", Float, nullable=False
    ),  # captured_at by the clock of its place, else the file's time; see `filters`
    Column("preview", Text),  # relative to the library's folder
    Column("meta", Text, nullable=False),  # JSON
    Column("name", Text, nullable=False),  # for the lexical search, see `indexing.lexical_name`
    Column("text", Text, nullable=False),
    Column("text_source", Text),  # see `items.TextSource`; NULL without text
    Column("has_print", Integer),  # 1: shows print that `text` lacks until it is read. 0: does not. NULL: nobody looked
    Column("spellings", Text, nullable=False, server_default=text("''")),  # for the lexical search, see `plain_text`
    Column("description", Text, nullable=False, server_default=text("''")),  # what metadata say; `text` holds it too
    Index("items_place", "source_id", "ordinal", unique=True, sqlite_where=text("deleted_at IS NULL")),
    Index("items_source", "source_id"),
    Index("items_visible", "kind", "visible", "id"),
    Index("items_generation", "generation"),
    sqlite_autoincrement=True,
)

recognised = Table(
    "recognised",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sha256", Text, nullable=False),  # of the file: a copy, and a file that moved, are not read again
    Column("ordinal", Integer, nullable=False),
    Column("engine", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("languages", Text, nullable=False),
    Column("preferred", Text, nullable=False),  # the engine that suits the picture, installed or not
    Column("text", Text, nullable=False),  # "" where no print was found
    Column("lines", LargeBinary, nullable=False),  # see `mmsearch.print_rows`
    Column("error_type", Text),  # it could not be read
    Column("error_reason", Text),
    Column("read_at", Float, nullable=False),  # seconds since the epoch
    Index("recognised_once", "sha256", "ordinal", "engine", "version", "languages", unique=True),
)
"""What was read in pages and pictures, by content."""

vectors = Table(
    "vectors",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("model_id", ForeignKey("models.id", ondelete="CASCADE"), nullable=False),
    Column("item_id", ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),  # little-endian float16 [dim], or [tokens, dim]
    Column("checksum", Integer),  # of `data`, see `stored_vectors.checksum`; NULL: not known
    Index("vectors_item", "model_id", "item_id", unique=True),
    Index("vectors_by_item", "item_id"),
    Index("vectors_generation", "model_id", "generation"),
)

calibrations = Table(
    "calibrations",
    metadata,
    Column("model_id", ForeignKey("models.id", ondelete="CASCADE"), primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("version", Text, nullable=False),  # of the list of generic queries
    Column("data", LargeBinary, nullable=False),  # the generic queries, encoded: `to_blob`, `many_to_blob`
)


def open_database(folder: Path, *, create: bool, read_only: bool, keep_former: bool = True) -> tuple[Engine, bool]:
    """Open, and where needed create or migrate, the catalog of a library.

    Args:
        keep_former: copy the catalog as it is before it is migrated, see `mmsearch.copies`.

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

    A first ingest that was killed left at most an empty catalog: that one is made anew without a word.
    """
    file = folder / CATALOG_NAME
    log_name = f"{CATALOG_NAME}-wal"
    traces = [log_name] if is_empty(file) and not is_empty(folder / log_name) else []
    traces += [PREVIEWS_NAME] if next(folder.glob(f"{PREVIEWS_NAME}/??/*.webp"), None) is not None else []
    traces += sorted(path.parent.name for path in folder.glob("*/.writing"))
    if traces:
        raise CorruptIndex(
            f"{file} is {'empty' if file.exists() else 'gone'}, but what belongs to it is still there ({', '.join(traces)}); nothing "
            f"was altered: bring a backup back (`mmsearch restore FILE --library {folder}`), or move the folder away to begin anew"
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


def place_of(file: Path) -> tuple[int, int] | None:
    """Device and inode of what lies at `file`; None where there is nothing. Raises OSError if that cannot be told."""
    try:
        status = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


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


def is_empty(file: Path) -> bool:
    """Whether there is nothing: no file, or one without a byte."""
    try:
        return file.stat().st_size == 0
    except FileNotFoundError:
        return True


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


def vacuum(engine: Engine, file: Path) -> None:
    """Write the file anew without its empty pages, by way of a copy beside it. Raises as `translate_error`."""
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
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
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
