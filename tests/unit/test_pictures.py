"""Keys of pictures: equal for equal bytes wherever they lie, other for other bytes, and nothing is decoded."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmsearch.errors import DatasetError, SourceError, UnsupportedFile
from mmsearch.media.pictures import (
    DECODINGS,
    BytesPicture,
    Decoding,
    FilePicture,
    MadePicture,
    Picture,
    TarMember,
    TarPicture,
    file_key,
)
from tests.tiny_models import picture

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


# ---- decoding


def as_saved(image: Image.Image, suffix: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, Image.registered_extensions()[suffix], **options)
    return file.getvalue()


def turned_jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    return as_saved(picture(24, 10), ".jpg", exif=exif, quality=90)


def see_through() -> Image.Image:
    """Half of it is transparent over black."""
    image = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
    image.paste((200, 30, 60, 255), (0, 0, 3, 4))
    return image


def deep_grey() -> Image.Image:
    return Image.fromarray(np.linspace(0, 65535, 60).astype(np.uint16).reshape(6, 10))


ENCODED = {
    "EXIF": turned_jpeg(),
    "alpha": as_saved(see_through(), ".png"),
    "grey with alpha": as_saved(see_through().convert("LA"), ".png"),
    "palette": as_saved(see_through().quantize(8), ".gif", transparency=0),
    "16 bit": as_saved(deep_grey(), ".png"),
    "a transparent colour": as_saved(Image.new("RGB", (4, 3), (1, 2, 3)), ".png", transparency=(1, 2, 3)),
}


@pytest.mark.parametrize("data", ENCODED.values(), ids=ENCODED)
def test_plain_is_what_the_references_line_gives(data: bytes, tmp_path: Path) -> None:
    """`Image.open(…).convert("RGB")` is the oracle; the application's own decoding differs for each of these files."""
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    (tmp_path / "picture").write_bytes(data)
    for plain in (BytesPicture(data, decoding="plain"), FilePicture(tmp_path / "picture", "plain")):
        assert plain.open().size == expected.size and plain.open().tobytes() == expected.tobytes()
    upright = BytesPicture(data).open()
    assert (upright.size, upright.tobytes()) != (expected.size, expected.tobytes())


def test_plain_values() -> None:
    assert BytesPicture(ENCODED["EXIF"]).open().size == (10, 24)
    assert BytesPicture(ENCODED["EXIF"], decoding="plain").open().size == (24, 10)
    corners = [BytesPicture(ENCODED["alpha"], decoding=decoding).open().getpixel((5, 0)) for decoding in DECODINGS]
    assert corners == [(255, 255, 255), (0, 0, 0), (255, 255, 255)]
    assert BytesPicture(ENCODED["EXIF"], decoding="plain_on_white").open().size == (24, 10)


def test_another_decoding_is_another_key(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(DATA)
    files = {FilePicture(tmp_path / "a.png", decoding).content_key() for decoding in DECODINGS}
    assert files == {BytesPicture(DATA, "b", decoding).content_key() for decoding in DECODINGS} and len(files) == 3
    assert FilePicture(tmp_path / "a.png").content_key() == hashlib.sha1(DATA).hexdigest()


@pytest.mark.parametrize("decoding", DECODINGS)
def test_what_is_no_picture_is_refused_however_it_is_decoded(decoding: Decoding) -> None:
    with pytest.raises(UnsupportedFile, match="not a picture"):
        BytesPicture(DATA, decoding=decoding).open()
    with pytest.raises(SourceError):
        BytesPicture(ENCODED["EXIF"][:200], decoding=decoding).open()
