"""A library in one file and back: the catalog, the previews, and models that lie inside the library.

The file is a ZIP archive without compression: `catalog.sqlite3` as SQLite's online backup gives it while others read and write,
`previews/…`, `adapted/…`, and `manifest.json` with the size and SHA-256 of each, written last. Vectors are in the catalog; FAISS
snapshots are made from it and are left out.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import struct
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mmsearch import __version__
from mmsearch.catalog import Catalog
from mmsearch.catalog.copies import faults
from mmsearch.catalog.dialect.sqlite import CATALOG_NAME, open_database, translate_error
from mmsearch.catalog.filters import absolute
from mmsearch.catalog.integrity import Integrity, is_preview
from mmsearch.catalog.recorded import RECORDED_NAME
from mmsearch.disk.faults import disk_faults
from mmsearch.disk.lock import locked
from mmsearch.disk.presence import is_empty
from mmsearch.disk.replace import SUFFIX, replace_file, sync
from mmsearch.errors import CatalogError, CorruptIndex

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT = 1
BLOCK = 1 << 20
UNLIKE_OURS = (
    zipfile.BadZipFile, EOFError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, struct.error, RuntimeError,
    IsADirectoryError, NotADirectoryError, FileExistsError,
)  # fmt: skip
"""What reading an archive can end in that is damaged, or was not made by `backup`."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup holds. `missing`: previews that the catalog names and that were not there."""

    file: Path
    bytes: int
    items: int
    previews: int
    missing: int


def backup(library: Path, file: Path, *, overwrite: bool = False) -> Backup:
    """Write the library in folder `library` to `file`, whole or not at all; others may go on reading and writing it.

    Raises:
        CatalogError: no library there; `file` exists and `overwrite` is false. CorruptIndex: the catalog is damaged.
        DiskFull, DiskFailed: no room beside `file`.
    """
    file = absolute(file)
    if file.exists() and not overwrite:
        raise CatalogError(f"{file} exists already: give another name, or --overwrite")
    with (
        disk_faults(file.parent),
        tempfile.TemporaryDirectory(prefix=f".{file.name}.", suffix=SUFFIX, dir=file.parent) as folder,
        replace_file(file) as temporary,
    ):
        copy = Path(folder) / CATALOG_NAME
        with Catalog.open(library, read_only=True) as catalog:
            library = catalog.folder
            catalog.copy_to(copy)
        try:
            items, previews, models = _contents(copy, library)
        except sqlite3.Error as error:
            translate_error(error, copy)
            raise
        present = 0
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            listed = {CATALOG_NAME: _put(archive, CATALOG_NAME, copy)}
            for name in previews:
                try:
                    listed[name] = _put(archive, name, library / name)
                    present += 1
                except FileNotFoundError:  # lost before, or taken away by `compact` meanwhile
                    continue
            for name in models:
                listed[name] = _put(archive, name, library / name)
            manifest = {
                "format": FORMAT,
                "mmsearch": __version__,
                "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "library": os.fsencode(library).decode("utf-8", "replace"),
                "items": items,
                "files": listed,
            }
            archive.writestr(MANIFEST, json.dumps(manifest, indent=1))
        size = temporary.stat().st_size
    return Backup(file, size, items, present, len(previews) - present)


def restore(file: Path, library: Path) -> Backup:
    """Make the library of a backup in folder `library`, which must hold none. The catalog comes last: until then there is no library.

    Raises:
        CatalogError: a library is there already; `file` is no backup. CorruptIndex: the backup is damaged. NewerSchema.
    """
    library = absolute(library)
    _refuse_existing(library)
    with disk_faults(library):
        return _restore(file, library)


def _restore(file: Path, library: Path) -> Backup:
    library.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".restoring-", dir=library) as folder:
        try:
            with zipfile.ZipFile(file) as archive:
                manifest = _manifest(archive, file)
                items = int(manifest["items"])
                for name, listed in manifest["files"].items():
                    _take(archive, name, listed, Path(folder), file)
        except UNLIKE_OURS as error:
            raise CorruptIndex(
                f"{file} is no backup of mmsearch, or a damaged one ({error}); nothing was restored"
            ) from error
        except FileNotFoundError as error:
            raise CatalogError(f"no backup at {file}") from error
        catalog = Path(folder) / CATALOG_NAME
        try:
            _check(catalog, file)
            _refuse_strangers(catalog, manifest, file)
            _move_models(catalog, manifest.get("library", ""), library)
            # An older schema is brought up to date here, a newer one refused. The backup itself is the copy to go back to.
            engine, _ = open_database(Path(folder), create=False, read_only=False, keep_former=False)
            with Catalog(Path(folder), engine, read_only=False) as opened:
                _take_out(opened, file)
            with closing(sqlite3.connect(catalog)) as database:
                database.execute("PRAGMA journal_mode = WAL").close()  # archives of 0.3 hold it in another mode
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
        except sqlite3.Error as error:
            translate_error(error, catalog)
            raise
        names = [name for name in manifest["files"] if name != CATALOG_NAME]
        with locked(library):
            _refuse_existing(library)  # somebody else may have made one meanwhile
            for name in names:
                target = library / name
                target.parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / name).replace(target)
            sync(catalog)
            for leftover in (f"{CATALOG_NAME}-wal", f"{CATALOG_NAME}-shm", RECORDED_NAME):
                (library / leftover).unlink(missing_ok=True)
            catalog.replace(library / CATALOG_NAME)
            sync(library)
    previews = sum(name.startswith("previews/") for name in names)
    return Backup(file, file.stat().st_size, items, previews, 0)


def _refuse_existing(library: Path) -> None:
    if not is_empty(library / CATALOG_NAME):
        raise CatalogError(
            f"there is a library at {library} already: move it away, or restore to another --library DIR"
        )


def _contents(catalog: Path, library: Path) -> tuple[int, list[str], list[str]]:
    """From the copied catalog: how many items, their previews, and the files of models that lie inside the library."""
    with closing(sqlite3.connect(catalog)) as database:
        (items,) = database.execute("SELECT count(*) FROM items WHERE deleted_at IS NULL").fetchone()
        used = database.execute(
            "SELECT DISTINCT preview FROM items WHERE preview IS NOT NULL AND deleted_at IS NULL ORDER BY preview"
        )
        previews = [name for (name,) in used if is_preview(name)]
        folders = [Path(name) for (name,) in database.execute("SELECT name FROM models WHERE name IS NOT NULL")]
    inside = [
        folder for folder in folders if folder.is_absolute() and folder.is_relative_to(library) and folder.is_dir()
    ]
    files = {path for folder in inside for path in folder.rglob("*") if path.is_file()}
    return items, previews, sorted(path.relative_to(library).as_posix() for path in files)


def _put(archive: zipfile.ZipFile, name: str, source: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with (
        source.open("rb") as stream,
        archive.open(zipfile.ZipInfo.from_file(source, name), "w", force_zip64=True) as target,
    ):
        size = 0
        for block in _blocks(stream):
            digest.update(block)
            target.write(block)
            size += len(block)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _take(archive: zipfile.ZipFile, name: str, listed: Mapping[str, Any], folder: Path, file: Path) -> None:
    """Unpack one entry under `folder`, held against the manifest."""
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts or "\\" in name or str(place) != name:
        raise CorruptIndex(f"{file} names a file outside of the library ({name!r}); nothing was restored")
    if len(place.parts) == 1 and name != CATALOG_NAME:  # config.toml, lock, another catalog's log
        raise CorruptIndex(f"{file} holds a file that no backup holds ({name!r}); nothing was restored")
    target = folder / place
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with archive.open(name) as stream, target.open("wb") as out:
        for block in _blocks(stream):
            digest.update(block)
            size += len(block)
            if size > listed["bytes"]:
                break
            out.write(block)
    if size != listed["bytes"] or digest.hexdigest() != listed["sha256"]:
        raise CorruptIndex(f"{file} is damaged: {name} is not what was written; nothing was restored")


def _manifest(archive: zipfile.ZipFile, file: Path) -> dict[str, Any]:
    # All that `backup` writes is stored as it is, so nothing can grow beyond the archive when it is unpacked.
    packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise ValueError(f"{packed[0]!r} is compressed")
    manifest = json.loads(archive.read(MANIFEST))
    if manifest.get("format") != FORMAT:
        raise CatalogError(f"{file} has backup format {manifest.get('format')!r}, this mmsearch knows {FORMAT}")
    if CATALOG_NAME not in manifest["files"]:
        raise KeyError(CATALOG_NAME)
    if sum(listed["bytes"] for listed in manifest["files"].values()) > file.stat().st_size:
        raise ValueError("its files are larger than the archive")
    return manifest


def _refuse_strangers(catalog: Path, manifest: Mapping[str, Any], file: Path) -> None:
    """Nothing is unpacked but the catalog, previews, and models that the catalog names; no snapshots: FAISS reads only what was made here."""
    former = manifest.get("library", "")
    with closing(sqlite3.connect(catalog)) as database:
        models = database.execute("SELECT key, name FROM models").fetchall()
    folders = [
        PurePosixPath(name).relative_to(former)
        for _, name in models
        if name and former and PurePosixPath(name).is_absolute() and PurePosixPath(name).is_relative_to(former)
    ]
    stores = {key for key, _ in models}
    for name in manifest["files"]:
        place = PurePosixPath(name)
        is_of_model = any(
            folder.parts and place.is_relative_to(folder) and place.parts[0] not in stores for folder in folders
        )
        if name != CATALOG_NAME and not is_preview(name) and not is_of_model:
            raise CorruptIndex(f"{file} holds a file that no backup holds ({name!r}); nothing was restored")


def _take_out(catalog: Catalog, file: Path) -> None:
    """Triggers, views and previews' names that mmsearch never makes."""
    if odd := Integrity(catalog).odd_objects():
        log.warning(
            "%s: indexes or triggers were missing or not mmsearch's, and are made again: %s", file, ", ".join(odd)
        )
        Integrity(catalog).mend_objects(odd)
    if previews := Integrity(catalog).unreadable().previews:
        log.warning("%s: %d items named a file as their preview that is none; forgotten", file, len(previews))
        Integrity(catalog).forget_previews(previews)


def _check(catalog: Path, file: Path) -> None:
    with closing(sqlite3.connect(catalog)) as database:
        said = faults(database)
    if said:
        raise CorruptIndex(f"{file}: its catalog is damaged ({said[0]}); nothing was restored")


def _move_models(catalog: Path, former: str, library: Path) -> None:
    """Models that lay inside the former library lie inside the new one."""
    with closing(sqlite3.connect(catalog, isolation_level=None)) as database:
        for number, name in database.execute("SELECT id, name FROM models WHERE name IS NOT NULL").fetchall():
            if former and Path(name).is_absolute() and Path(name).is_relative_to(former):
                moved = str(library / Path(name).relative_to(former))
                database.execute("UPDATE models SET name = ? WHERE id = ?", (moved, number))


def _blocks(stream: Any) -> Iterator[bytes]:
    while block := stream.read(BLOCK):
        yield block
