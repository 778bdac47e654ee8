"""Copies of a catalog's database file: whole or not at all, durable, and looked at before they count."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from mmsearch.disk.replace import remove_leftovers, replace_file, sync
from mmsearch.errors import CorruptIndex

FORMER = ".before-"
"""`catalog.sqlite3.before-0003`: the catalog as it was before its schema was brought to 0003."""


def copy_database(source: sqlite3.Connection, file: Path, target: Path) -> None:
    """Write what `source` (a connection to `file`) holds now to the new file `target`, while others go on reading and writing.

    Raises:
        CorruptIndex: the copy is not sound, so the catalog is damaged; the copy is removed.
        sqlite3.Error: no room, or no right to write; the copy is removed.
    """
    try:
        with closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE").close()  # while it is looked at, it stays one file
            said = faults(copy)
            copy.execute("PRAGMA journal_mode = WAL").close()  # as a library needs it
        if said:
            raise CorruptIndex(f"{file} is damaged ({said[0]}): `mmsearch doctor` says more")
        sync(target)
    except BaseException:
        for name in ("", "-journal", "-wal", "-shm"):
            target.with_name(f"{target.name}{name}").unlink(missing_ok=True)
        raise


def faults(database: sqlite3.Connection) -> list[str]:
    """What SQLite finds wrong at a quick look, the full-text tables left out: they are derived, and can be refilled."""
    try:
        rows = [str(row[0]) for row in database.execute("PRAGMA quick_check(20)")]
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return [str(error)]  # too damaged to be looked at
        raise
    return [row for row in rows if row != "ok" and "FTS5" not in row]


def keep_former(source: sqlite3.Connection, file: Path, revision: str) -> Path:
    """Copy the catalog `file`, as it is before its schema becomes `revision`, to a file beside it; returns that.

    To be called under the catalog's write lock, from a second connection: half a copy that is found there was left by a dead process.
    Errors as `copy_database`; DiskFull, DiskFailed, OSError.
    """
    kept = file.with_name(f"{file.name}{FORMER}{revision}")
    remove_leftovers(kept)
    with replace_file(kept) as temporary:
        copy_database(source, file, temporary)
    return kept


def former_copies(file: Path) -> Iterator[Path]:
    """The copies of a catalog that were kept when its schema was changed."""
    for kept in sorted(file.parent.glob(f"{file.name}{FORMER}*")):
        if kept.name.rpartition("-")[2].isdigit():
            yield kept
