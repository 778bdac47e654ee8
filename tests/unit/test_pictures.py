"""Keys of pictures: equal for equal bytes wherever they lie, other for other bytes, and nothing is decoded."""

from __future__ import annotations

import hashlib
import os
import pickle
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from mmsearch.errors import DatasetError
from mmsearch.pictures import BytesPicture, FilePicture, MadePicture, Picture, TarMember, TarPicture, file_key

DATA = b"not a picture at all"


def opened(path: Path, colour: str) -> Image.Image:
    assert path.is_file()
    return Image.new("RGB", (4, 4), colour)


def tar_picture(folder: Path) -> TarPicture:
    (folder / "one").write_bytes(DATA)
    with tarfile.open(folder / "a.tar", "w") as archive:
        archive.add(folder / "one", "one")
    with tarfile.open(folder / "a.tar") as archive:
        return TarPicture(TarMember(folder / "a.tar", archive.getmember("one").offset_data, len(DATA)), "one")


def test_equal_bytes_have_equal_keys_wherever_they_lie(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(DATA)
    (tmp_path / "b.png").write_bytes(DATA)
    pictures: list[Picture] = [
        FilePicture(tmp_path / "a.jpg"),
        FilePicture(tmp_path / "b.png"),
        BytesPicture(DATA, "c"),
        tar_picture(tmp_path),
    ]
    assert {picture.content_key() for picture in pictures} == {hashlib.sha1(DATA).hexdigest()}
    assert {pickle.loads(pickle.dumps(picture)).content_key() for picture in pictures} == {
        hashlib.sha1(DATA).hexdigest()
    }
    assert BytesPicture(DATA + b".").content_key() != pictures[0].content_key()


def test_a_changed_file_has_another_key(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(b"one")
    before = FilePicture(file).content_key()
    status = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert FilePicture(file).content_key() == hashlib.sha1(b"two").hexdigest() != before
    with pytest.raises(DatasetError, match="no file at"):
        file_key(tmp_path / "none")


def test_a_made_picture_has_the_key_of_the_files_that_it_is_made_from(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    keys = {
        MadePicture(opened, (tmp_path / name, colour), f"drawn in {colour}").content_key()
        for name in "ab"
        for colour in ("red", "blue")
    }
    assert len(keys) == 4
    (tmp_path / "b").unlink()
    with pytest.raises(DatasetError):
        MadePicture(opened, (tmp_path / "b", "red"), "red").content_key()
