"""Files that are written whole or not at all: a temporary file beside them, renamed when it is complete."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmsearch.disk.faults import disk_faults

SUFFIX = ".tmp"
"""Of temporary files. What a killed process leaves behind is found by it (`remove_leftovers`, `mmsearch doctor`)."""


@contextmanager
def replace_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Write to the yielded temporary file (or make a folder of that name); it then takes the place of `path`.

    If the block raises, the temporary file is removed and `path` stays as it was.

    Args:
        durable: the content, then the new name are on the disk before the call returns (fsync of the file and of its folder). Leave it
            out for what can be made again.

    Raises:
        DiskFull, DiskFailed: the disk refuses it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{SUFFIX}")
    with disk_faults(path.parent):
        _remove(temporary)  # of a killed process that had this number
        try:
            yield temporary
            if durable:
                sync(temporary)
            temporary.replace(path)
        finally:
            _remove(temporary)
        if durable:
            sync(path.parent)


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes, also of older releases, left of writing `path`. Nobody else may be writing it now."""
    name = re.escape(path.name)
    leftover = re.compile(rf"(\.{name}\.\d+{re.escape(SUFFIX)}|{name}\.part(ial)?)(-journal|-wal|-shm)?")
    for other in path.parent.iterdir():
        if leftover.fullmatch(other.name):
            _remove(other)


def _remove(temporary: Path) -> None:
    if temporary.is_dir():
        shutil.rmtree(temporary, ignore_errors=True)
    elif os.path.lexists(temporary):  # a read-only disk refuses to remove what is not there
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
