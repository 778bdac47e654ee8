"""Whether folders and files that were ingested are still there. Looks at names, sizes and times, and opens nothing."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Protocol


class Stamped(Protocol):
    """What is remembered of a file: a `Source`, or a row of the catalog."""

    @property
    def size_bytes(self) -> int: ...
    @property
    def modified_ns(self) -> int: ...
    @property
    def ctime_ns(self) -> int | None: ...


def is_away(folder: Path) -> bool:
    """Whether nothing is where `folder` was: it is not there, or holds nothing, as a mount point without its disk."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # there, but not to be read
        return False


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
