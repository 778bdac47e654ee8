"""Files of a store that another process may be reading: replaced as a whole, or set aside."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mmsearch.disk import disk_faults

PATIENCE_S = (0.05, 0.2, 1.0)
"""After so many seconds each, a reader looks again at a snapshot that another process may be replacing at this moment."""


class Outdated(Exception):
    """A snapshot in a form that this version does not read."""


def replace(file: Path, write: Callable[[Any], object]) -> None:
    """Replace a file as a whole: temporary file, fsync, rename, fsync of the folder. Raises DiskFull, DiskFailed."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    with disk_faults(file.parent):
        try:
            with temporary.open("wb") as target:
                write(target)
                target.flush()
                os.fsync(target.fileno())
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def set_aside(files: Iterable[Path]) -> None:
    """Rename files to `*.corrupt-<ns>`."""
    stamp = time.time_ns()
    for file in files:
        try:
            file.replace(file.with_name(f"{file.name}.corrupt-{stamp}"))
        except FileNotFoundError:
            continue  # another process was quicker
