"""Whether folders and files that were ingested are still there. Looks at names, sizes and times, and opens nothing."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

ANSWER_S = 3.0
"""So long a file server that is away is waited for; what lies on it is then left as it is."""


class Stamped(Protocol):
    """What is remembered of a file: a `Source`, or a row of the catalog."""

    @property
    def size_bytes(self) -> int: ...
    @property
    def modified_ns(self) -> int: ...
    @property
    def ctime_ns(self) -> int | None: ...


def look_for(folders: Iterable[Path], *, within_s: float = ANSWER_S) -> dict[Path, bool | None]:
    """Whether something is where each folder was: False where it is not there, or holds nothing, as a mount point without its disk.

    None where that cannot be told: it may not be read, or the server that it lies on does not answer. All are asked at once.
    """
    found: dict[Path, bool | None] = dict.fromkeys(folders)

    def look(folder: Path) -> None:
        with suppress(OSError):
            found[folder] = _holds_something(folder)

    asking = [threading.Thread(target=look, args=(folder,), daemon=True) for folder in found]
    for thread in asking:
        thread.start()
    until = time.monotonic() + within_s
    for thread in asking:
        thread.join(max(0.0, until - time.monotonic()))
    return dict(found)


def _holds_something(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except (FileNotFoundError, NotADirectoryError):
        return False


def place_of(file: Path) -> tuple[int, int] | None:
    """Device and inode of what lies at `file`; None where there is nothing. Raises OSError if that cannot be told."""
    try:
        status = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def is_empty(file: Path) -> bool:
    """Whether there is nothing: no file, or one without a byte."""
    try:
        return file.stat().st_size == 0
    except FileNotFoundError:
        return True


def has_stamps(known: Stamped, status: os.stat_result) -> bool:
    """Whether size and times are those remembered; a change time that is not known is no objection."""
    if (known.size_bytes, known.modified_ns) != (status.st_size, status.st_mtime_ns):
        return False
    return known.ctime_ns in (None, status.st_ctime_ns)


def is_as_known(path: bytes, known: Stamped) -> bool:
    """Whether a file with these stamps lies at `path`."""
    try:
        status = os.stat(path)  # noqa: PTH116 (a path that need not be UTF-8)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and has_stamps(known, status)
