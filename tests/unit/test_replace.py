"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mmsearch.disk import replace
from mmsearch.disk.replace import remove_leftovers, replace_file
from mmsearch.errors import DiskFull


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_is_there_once_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("old")
    with replace_file(file) as temporary:
        assert temporary.name == f".a.json.{os.getpid()}.tmp"
        temporary.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new" and names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("is_folder", [False, True], ids=["file", "folder"])
def test_a_failure_leaves_what_was_there(tmp_path: Path, is_folder: bool) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(DiskFull), replace_file(tmp_path / "a") as temporary:
        (temporary.mkdir if is_folder else temporary.touch)()
        raise OSError(errno.ENOSPC, "no space")
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


def test_a_folder_takes_its_place_and_a_dead_process_of_the_same_number_is_no_hindrance(tmp_path: Path) -> None:
    left = tmp_path / f".frames.{os.getpid()}.tmp"
    left.mkdir()
    (left / "half.jpg").touch()
    with replace_file(tmp_path / "frames", durable=False) as temporary:
        temporary.mkdir()
        (temporary / "0.jpg").touch()
    assert names(tmp_path) == ["frames"] and names(tmp_path / "frames") == ["0.jpg"]


@pytest.mark.parametrize("durable", [True, False])
def test_durable_means_the_content_then_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    synced = []
    monkeypatch.setattr(replace, "sync", lambda path: synced.append((path.name, (tmp_path / "a").exists())))
    with replace_file(tmp_path / "a", durable=durable) as temporary:
        temporary.touch()
    assert synced == ([(temporary.name, False), (tmp_path.name, True)] if durable else [])


def test_leftovers_of_one_file_are_removed(tmp_path: Path) -> None:
    left = [".a.f16.1.tmp", ".a.f16.99.tmp", ".a.f16.1.tmp-wal", "a.f16.part", "a.f16.partial", "a.f16.partial-journal"]
    others = ["a.f16", ".b.f16.1.tmp", ".a.f16.x.tmp", ".aaf16.1.tmp", "a.f16.parts"]
    for name in (*left, *others):
        (tmp_path / name).touch()
    (tmp_path / ".a.f16.7.tmp").mkdir()
    remove_leftovers(tmp_path / "a.f16")
    assert names(tmp_path) == sorted(others)
