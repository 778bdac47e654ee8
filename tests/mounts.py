"""A disk that is soon full: a tmpfs of a few kilobytes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A tmpfs at `place`, which is made; `size` as mount(8) takes it, as "640k". Skips the test where nobody may mount."""
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill(place: Path, *, leave_bytes: int = 0) -> Path:
    """Take all room but `leave_bytes`; returns the ballast."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as target, pytest.raises(OSError, match="No space"):
        while True:
            target.write(bytes(4096))
    if leave_bytes:
        with ballast.open("r+b") as target:
            target.truncate(ballast.stat().st_size - leave_bytes)
    return ballast
