"""One writer per library: a lock file that the kernel releases when its process dies, and that names who holds it."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmsearch.disk.faults import disk_faults
from mmsearch.errors import CatalogError, LibraryLocked

log = logging.getLogger(__name__)

LOCK_NAME = "lock"
POLL_S = 0.1
NOTE_S = 1.0
"""Who has just taken the lock is given so long to write down who it is."""


@contextmanager
def locked(folder: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the library's writer lock. What a dead process, or one from before a reboot, left behind is taken over.

    Args:
        wait_s: so long another writer is given to end.

    Raises:
        LibraryLocked: another process, or another `Library` or thread of this one, is writing; the message names its pid.
        DiskFull, DiskFailed: there is no room for the note. CatalogError: what is called `lock` there is no file that can be written.
    """
    file = folder / LOCK_NAME
    try:
        with disk_faults(folder):
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except (IsADirectoryError, PermissionError) as error:
        raise CatalogError(
            f"{file}, the library's lock, cannot be written ({error.strerror}): move it away, or see whose it is"
        ) from error
    try:
        began, is_told = time.monotonic(), False
        while (holder := _other(descriptor)) is not None:
            waited_s = time.monotonic() - began
            if waited_s >= max(wait_s, 0.0 if "pid" in holder else NOTE_S):
                raise LibraryLocked(_refusal(folder, holder))
            if wait_s and "pid" in holder and not is_told:
                log.warning("process %s is writing to %s; waiting for %.0f s at most", holder["pid"], folder, wait_s)
                is_told = True
            time.sleep(POLL_S)
        with disk_faults(folder):
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
    with disk_faults(folder):
        for place, is_wrong in ((folder, folder.is_file()), (folder / ".writing", (folder / ".writing").is_dir())):
            if is_wrong:  # made by nobody here; whatever it is, it is not deleted
                aside = place.rename(place.with_name(f"{place.name}.corrupt-{time.time_ns()}"))
                log.warning("%s is not what belongs there; set aside as %s", place, aside.name)
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


def _other(descriptor: int) -> dict | None:
    """What is known of the process that holds the lock ({}: nothing yet); None if it is ours now."""
    is_free = _try_lock(descriptor)
    holder = _read(descriptor)  # only now: whoever held it before has wiped out its note
    if not is_free:
        return holder
    # The note is asked as well, for file systems on which the kernel's lock does not reach other processes.
    if not _is_alive(holder):
        return None
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return holder


def _refusal(folder: Path, holder: dict) -> str:
    pid, host = holder.get("pid"), holder.get("host", socket.gethostname())
    if not isinstance(pid, int):
        return f"another process is writing to {folder}: wait for it"
    if host != socket.gethostname():
        return f"process {pid} of the machine {host} is writing to {folder}: wait for it, or stop it there"
    if _stat(pid)[:1] in (["T"], ["t"]):
        return (
            f"process {pid} is writing to {folder}, but is suspended: let it go on with `kill -CONT {pid}`, or end it with "
            f"`kill -KILL {pid}`; what it has saved is kept"
        )
    return f"process {pid} is writing to {folder}: wait for it, or stop it with `kill {pid}`"


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
    if _stat(pid)[:1] in (["Z"], ["X"]):
        return False  # dead; only its parent has not asked yet how it ended
    return holder.get("started") in (None, _started(pid))  # else the number was given to another process since


def _started(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None where the system does not say."""
    try:
        return int(_stat(pid)[19])
    except (IndexError, ValueError):
        return None


def _stat(pid: int) -> list[str]:
    """What Linux tells of a process, from its state ("R", "T" for suspended, "Z" for dead) on; [] where it does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


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
