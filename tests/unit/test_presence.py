from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmsearch.disk import presence


def test_folders_are_there_away_or_do_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("full", "empty", "silent", "secret"):
        (tmp_path / name).mkdir()
    (tmp_path / "full/file").touch()
    answer = threading.Event()
    real = os.scandir

    def scandir(folder: Path):
        if folder.name == "silent":  # as on a file server that is switched off
            answer.wait(60)
        if folder.name == "secret":
            raise PermissionError
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    names = ("full", "empty", "secret", "missing", "full/file", "silent")
    asked_at = iter(
        [0.0] * len(names) + [59.9]
    )  # by its own clock all others have a minute, and the last one the rest of it
    monkeypatch.setattr(presence, "time", SimpleNamespace(monotonic=lambda: next(asked_at)))
    found = presence.look_for([tmp_path / name for name in names], within_s=60.0)
    answer.set()
    assert found == dict(zip((tmp_path / name for name in names), (True, False, None, False, False, None), strict=True))


def test_a_file_is_as_known_by_size_and_times(tmp_path: Path):
    file = tmp_path / "caf\udce9"
    file.write_bytes(b"12345")
    status = file.stat()

    def is_as_known(size: int = 5, modified: int = 0, ctime: int | None = 0, path: Path = file) -> bool:
        changed_ns = None if ctime is None else status.st_ctime_ns + ctime
        known = SimpleNamespace(size_bytes=size, modified_ns=status.st_mtime_ns + modified, ctime_ns=changed_ns)
        return presence.is_as_known(os.fsencode(path), known)

    assert is_as_known() and is_as_known(ctime=None)
    assert not is_as_known(size=6) and not is_as_known(modified=1) and not is_as_known(ctime=1)
    assert not is_as_known(path=tmp_path / "other")
    file.unlink()
    file.mkdir()
    status = file.stat()
    assert not is_as_known(size=status.st_size), "a folder of that name"
