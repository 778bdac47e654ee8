"""What a disk refuses, because it is full, read-only or failing: told with the place and the way out, and never taken for damage."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmsearch.errors import CatalogError, DiskFailed, DiskFull

FULL = {errno.ENOSPC, errno.EDQUOT}
LEAST_BYTES = 64 << 10
"""With less room than this a disk counts as full where the system only says that something went wrong."""


@contextmanager
def disk_faults(place: Path) -> Iterator[None]:
    """Around what writes at `place`, a folder or a file: raises DiskFull or DiskFailed for what its disk refuses.

    Every other OSError passes as it is.
    """
    try:
        yield
    except OSError as error:
        if (fault := disk_fault(error, place)) is not None:
            raise fault from error
        raise


def disk_fault(error: OSError, place: Path | None) -> CatalogError | None:
    """The error to raise in the place of `error`; None where it says nothing of a disk."""
    if error.errno in FULL:
        return full(place, is_quota=error.errno == errno.EDQUOT)
    where = f"{place}" if place is not None else "what was to be written"
    if error.errno == errno.EROFS:
        return DiskFailed(f"{where} lies on a disk that can only be read: mount it writable, or take another folder")
    if error.errno == errno.EIO:
        return failing(place, os.strerror(error.errno))
    return None


def full(place: Path | None, *, is_quota: bool = False) -> DiskFull:
    """`place`: the folder or file that there is no room for."""
    what = "the quota is used up" if is_quota else "no room is left"
    where = f" on the disk of {place}" if place is not None else " on the disk that was written to"
    return DiskFull(
        f"{what}{where}: make room and give the same command again, it goes on from there; nothing that was saved is lost"
    )


def failing(place: Path | None, said: str) -> DiskFailed:
    where = f"the disk of {place}" if place is not None else "a disk"
    return DiskFailed(
        f"{where} cannot be read or written ({said}): see whether it is connected, sound and within its quota; "
        "nothing was altered"
    )


def is_full(folder: Path) -> bool:
    """Whether hardly any room is left there for this user, as far as the system says."""
    try:
        stat = os.statvfs(folder)
    except OSError:
        return False
    return stat.f_bavail * stat.f_frsize < LEAST_BYTES or (stat.f_files > 0 and stat.f_favail == 0)
