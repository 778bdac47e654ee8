"""Which files the page may read for a browser."""

from __future__ import annotations

import string
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmsearch.errors import DiskFull, SourceError
from mmsearch.items import Item
from mmsearch.media import isolated as sandbox
from tests import mounts
from ui.plain_text import displayable, plain
from ui.shelf import UPLOAD_BYTES, decode_picture, viewable_file


def library_of(*roots: Path) -> SimpleNamespace:
    return SimpleNamespace(catalog=SimpleNamespace(sources=SimpleNamespace(roots=lambda: dict.fromkeys(roots, 0.0))))


def item_at(path: Path) -> Item:
    return Item(1, 1, path, "image", 0, None, None, None, "", {}, None)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header announces this size."""
    parts = (b"IHDR" + struct.pack(">II5B", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(bytes(64)))
    chunks = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("root", "rootless", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"a")
    return tmp_path / "root"


def test_a_file_in_an_added_folder(root: Path):
    assert viewable_file(library_of(root), item_at(root / "a.png")) == root / "a.png"


def test_a_folder_that_was_swapped_for_a_link(root: Path, tmp_path: Path):
    """Folders are kept with their links resolved: `link` was a folder when it was added."""
    (tmp_path / "link").symlink_to(root)
    assert viewable_file(library_of(tmp_path / "link"), item_at(tmp_path / "link" / "a.png")) is None
    assert (
        viewable_file(library_of(), item_at(tmp_path / "link" / "a.png")) is None
    )  # of a file that was added by itself


def test_a_file_that_was_added_by_itself(root: Path, tmp_path: Path):
    alone = tmp_path / "rootless" / "a.png"
    assert viewable_file(library_of(root), item_at(alone)) == alone


def test_a_file_that_is_gone_or_no_file(root: Path):
    assert viewable_file(library_of(root), item_at(root / "b.png")) is None
    assert viewable_file(library_of(root), item_at(root)) is None


def test_links_do_not_lead_out(root: Path, tmp_path: Path):
    """A file that was swapped for a link after it was indexed."""
    (root / "out.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "rootless" / "out.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    assert viewable_file(library_of(root), item_at(root / "out.png")) is None
    assert viewable_file(library_of(root), item_at(root / "folder" / "a.png")) is None
    assert viewable_file(library_of(root), item_at(root / ".." / "elsewhere" / "a.png")) is None
    (root / "within.png").symlink_to(root / "a.png")
    assert viewable_file(library_of(root), item_at(root / "within.png")) == root / "a.png"
    (root / "loop.png").symlink_to(root / "loop.png")
    assert viewable_file(library_of(root), item_at(root / "loop.png")) is None
    assert viewable_file(library_of(root), item_at(tmp_path / "rootless" / "out.png")) is None


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "not a picture"),  # Pillow would start Ghostscript
        (b"<svg onload=alert(1)>", "not a picture"),
        (b"P6 8 8 255 " + bytes(192), "not a picture"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "damaged"),
        (bomb(60_000, 60_000), "pixels"),
        (bytes(UPLOAD_BYTES + 1), "32 MB"),
    ],
    ids=["eps", "svg", "ppm", "damaged", "bomb", "large"],
)
def test_an_upload_is_read_like_any_untrusted_file(content: bytes, error: str):
    library = SimpleNamespace(picture=lambda file: sandbox.query_image(file, max_pixels=1024))
    with pytest.raises(SourceError, match=error):
        decode_picture(library, content)


def test_an_upload_that_finds_no_room_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with mounts.small_disk(tmp_path / "disk", "64k") as place:
        mounts.fill(place)
        monkeypatch.setattr("tempfile.tempdir", str(place))
        with pytest.raises(DiskFull, match=f"no room is left on the disk of {place}"):
            decode_picture(SimpleNamespace(picture=lambda _: pytest.fail("read before it was written")), bomb(9, 9))
        assert [path.name for path in place.iterdir()] == ["ballast"]


def test_names_cannot_steer_markdown_or_break_the_transport():
    assert plain("**a** [b](c) <d> _e_\n    f") == "\\*\\*a\\*\\* \\[b\\]\\(c\\) \\<d\u2060\\> \\_e\\_ f"
    assert plain(":smile: a@b.c ->") == "\u2060\\:smile\u2060\\: a\u2060\\@b\u2060\\.c \u2060\\-\u2060\\>"
    assert plain("60 × 60 – “é”") == "60 × 60 – “é”"
    assert plain("".join(map(chr, range(33, 127)))).count("\\") == 1 + len(string.punctuation)
    assert displayable("caf\udce9") == "caf\ufffd"
    displayable("\ud800").encode()


def test_the_page_says_which_model_answers_and_which_is_being_built(tmp_path: Path):
    from mmsearch.catalog import Catalog
    from ui.shelf import coverage

    with Catalog.open(tmp_path, create=True) as catalog:
        library = SimpleNamespace(catalog=catalog, model_key=None)
        assert coverage(library).model_sentence() == ""
        catalog.models.register("old-1", 4, "mini")
        library.model_key = catalog.models.active_key()
        assert coverage(library).model_sentence() == "Answered by mini."
        catalog.models.register("another-1", 4, "/models/tiny")
        expected = "Answered by mini. Being built beside it, or kept: tiny, 0 of 0 items."
        assert coverage(library).model_sentence() == expected
