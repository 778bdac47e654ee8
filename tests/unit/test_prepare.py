"""What training prepares: frames of clips come by the way on which every video is looked at before a decoder gets it."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from mmsearch import media
from mmsearch.errors import SourceError
from mmsearch.media.pictures import TarMember
from mmsearch.training.datasets.rendered_material import FRAMES, _eight_frames
from mmsearch.training.datasets.shared_material import FileRecord
from tests import samples


def record(path: Path) -> FileRecord:
    """A video of the training material: a member of a tar."""
    tar = path.with_suffix(".tar")
    with tarfile.open(tar, "w") as archive:
        archive.add(path, path.name)
    with tarfile.open(tar) as archive:
        (member,) = archive.getmembers()
    return FileRecord(path.name, TarMember(tar, member.offset_data, member.size), "", (), "", "", "")


def test_eight_frames_from_the_first_to_the_last(tmp_path: Path):
    path = samples.video(tmp_path / "a.mp4", samples.numbered, range(0, 1000, 40))
    found = _eight_frames(record(path))
    expected = media.sample_frames(path, indices=np.linspace(0, 24, FRAMES).round().astype(int))
    assert len(found) == FRAMES
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(found, expected, strict=True))


def test_a_playlist_gets_to_no_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It names other files, which decord would open."""
    pytest.importorskip("av")  # before decord, see `mmsearch.media`
    decord = pytest.importorskip("decord")
    opened: list[str] = []
    monkeypatch.setattr(decord, "VideoReader", lambda path, **_: opened.append(path))
    path = tmp_path / "a.mp4"
    path.write_text("#EXTM3U\n#EXTINF:10,\n/etc/hostname\n#EXT-X-ENDLIST\n")
    with pytest.raises(SourceError):
        _eight_frames(record(path))
    assert opened == []
