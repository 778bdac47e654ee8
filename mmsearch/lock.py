"""One writer per library: a lock file that the kernel releases when its process dies, and that names who holds it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmsearch.errors import LibraryLocked

LOCK_NAME = "lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the library's writer lock. What a dead process, or one from before a reboot, left behind is taken over.

    Raises:
        LibraryLocked: another process, or another `Library` of this one, is writing; the message names its pid.
    """
    file = folder / LOCK_NAME
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        holder = _read(descriptor)
        is_free = _try_lock(descriptor)
        # The note is asked as well, for file systems on which the kernel's lock does not reach other processes.
        if not is_free or _is_alive(holder):
            pid = holder.get("pid", "unknown")
            raise LibraryLocked(f"process {pid} is writing to {folder}: wait for it, or stop it with `kill {pid}`")
        _write(descriptor, _self())
        try:
            yield
        finally:
            _write(descriptor, {})
    finally:
        os.close(descriptor)


@contextmanager
def snapshot_lock(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Whether this process may write snapshots in `folder` now; without `wait`, False if another one is at it."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".writing", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield _try_lock(descriptor, wait=wait)
    finally:
        os.close(descriptor)


def lock_holder(folder: Path) -> int | None:
    """The pid that is writing to the library, or None."""
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        holder = _read(descriptor)
    finally:
        os.close(descriptor)
    return int(holder["pid"]) if holder.get("pid") == os.getpid() or _is_alive(holder) else None


def _try_lock(descriptor: int, *, wait: bool = False) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks: the note must do
    return True


def _self() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "boot": _boot_id(),
        "host": socket.gethostname(),
        "since": time.time(),
    }


def _is_alive(holder: dict) -> bool:
    """Whether the process that a note names still runs. Only processes of this machine since its last boot can be asked."""
    pid = holder.get("pid")
    if not isinstance(pid, int) or pid <= 0 or pid == os.getpid():
        return False
    if holder.get("boot") != _boot_id() or holder.get("host") != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # alive, another user's
    return holder.get("started") in (None, _started(pid))  # else the number was given to another process since


def _started(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None where the system does not say."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _read(descriptor: int) -> dict:
    try:
        note = json.loads(os.pread(descriptor, 4096, 0))
    except (ValueError, OSError):
        return {}
    return note if isinstance(note, dict) else {}


def _write(descriptor: int, note: dict) -> None:
    os.ftruncate(descriptor, 0)
    if note:
        os.pwrite(descriptor, json.dumps(note).encode(), 0)
