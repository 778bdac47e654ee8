"""Single decodes in a child process: the same pixels as in this one, and whatever happens there is a named error here."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import av
import numpy as np
import pymupdf
import pytest
from PIL import Image

from mmsearch import media
from mmsearch.errors import CorruptFile, DecodeTimeout, EncryptedFile, FileTooLarge, UnsupportedFile
from mmsearch.media import isolated as sandbox
from tests import samples


def decoded(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def write_video(path: Path, codec: str) -> None:
    """Two seconds of red, two of blue."""
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for colour in ("red", "blue"):
            frame = av.VideoFrame.from_image(Image.new("RGB", (160, 120), colour))
            for _ in range(20):
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_a_query_picture_has_the_pixels_that_ingestion_sees(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 420, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.jpg")
    here = media.open_image(tmp_path / "noise.jpg", max_pixels=112 * 112)
    there = sandbox.query_image(tmp_path / "noise.jpg", max_pixels=112 * 112)
    np.testing.assert_array_equal(np.asarray(there), np.asarray(here))


def test_a_page_is_drawn_for_a_screen(tmp_path: Path):
    with pymupdf.open() as document:
        document.new_page(width=200, height=100)
        document.new_page(width=200, height=100).draw_rect((0, 0, 200, 100), fill=(0, 0, 1))
        document.save(tmp_path / "a.pdf")
    page = decoded(sandbox.page(tmp_path / "a.pdf", 2, dpi=144))
    assert page.size == (400, 200)
    assert np.abs(np.asarray(page)[100, 200].astype(int) - (0, 0, 255)).max() < 12
    with pytest.raises(CorruptFile, match="no longer has that place"):
        sandbox.page(tmp_path / "a.pdf", 3)


def test_a_browser_gets_its_own_formats_whole_and_others_as_an_excerpt(tmp_path: Path):
    write_video(tmp_path / "a.mp4", "libx264")
    assert sandbox.video(tmp_path / "a.mp4", 2.0, 4.0) == ((tmp_path / "a.mp4").read_bytes(), 2.0)
    write_video(tmp_path / "a.avi", "mpeg4")
    content, start_s = sandbox.video(tmp_path / "a.avi", 2.0, 4.0)
    assert start_s == 0.0
    (tmp_path / "excerpt.mp4").write_bytes(content)
    info = media.probe_video(tmp_path / "excerpt.mp4")
    assert info.codec == "h264" and info.duration_s == pytest.approx(2.0, abs=0.1)
    (middle,) = media.sample_frames(tmp_path / "excerpt.mp4", [1.0])
    assert np.asarray(middle)[60, 80].argmax() == 2  # blue


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"\xff\xd8\xff\xe0 no jpeg", CorruptFile),
        (b"plain words", UnsupportedFile),
        (b"", (CorruptFile, UnsupportedFile)),
    ],
    ids=["damaged", "other", "empty"],
)
def test_what_is_no_picture_is_named(content: bytes, error, tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(error) as raised:
        sandbox.photo(tmp_path / "a.jpg")
    assert raised.value.path == str(tmp_path / "a.jpg")


def test_a_bomb_is_refused_by_its_header(tmp_path: Path):
    Image.new("1", (8, 8)).save(tmp_path / "bomb.png")
    content = bytearray((tmp_path / "bomb.png").read_bytes())
    content[16:24] = struct.pack(">II", 30_000, 30_000)  # the header's width and height
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "bomb.png").write_bytes(content)
    with pytest.raises(FileTooLarge):
        sandbox.photo(tmp_path / "bomb.png")


def test_a_locked_document(tmp_path: Path):
    with pymupdf.open() as document:
        document.new_page()
        document.save(tmp_path / "a.pdf", encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="x", owner_pw="y")
    with pytest.raises(EncryptedFile):
        sandbox.page(tmp_path / "a.pdf", 1)


def test_the_deadline_and_what_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(CorruptFile, match="No such file"):
        sandbox.photo(tmp_path / "none.png")
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path, Path("/dev/zero")):
        with pytest.raises(
            CorruptFile, match="not a regular file"
        ):  # a pipe that is waited for would end in DecodeTimeout
            sandbox.photo(path)
    monkeypatch.setattr(sandbox, "TIMEOUT_S", 0.01)
    with pytest.raises(DecodeTimeout):
        sandbox.photo(samples.photo(tmp_path / "a.png"))


BEHAVIOUR = """
import os, sys, time
if "mmsearch.media.isolated" in sys.orig_argv:
    import mmsearch.media as media
    honest = media.open_image

    def open_image(path, **terms):
        os.write(1, b"printed by a decoder\\n")
        os.write(2, b"complained by a decoder\\n" * 10_000)
        if "dies" in path.name:
            os._exit(1)
        if "hang" in str(path):
            open(f"{path}.begun", "w").close()
            time.sleep(1000)
        return honest(path, **terms)

    media.open_image = open_image
"""


@pytest.fixture
def chatty_decoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "patch").mkdir()
    (tmp_path / "patch" / "sitecustomize.py").write_text(BEHAVIOUR)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "patch"), str(Path(__file__).parents[2])]))


def test_a_decoder_that_dies_is_a_damaged_file(chatty_decoders: None, tmp_path: Path):
    with pytest.raises(CorruptFile, match="died"):
        sandbox.photo(samples.photo(tmp_path / "dies.png"))


def test_what_a_decoder_prints_does_not_get_into_the_picture(chatty_decoders: None, tmp_path: Path):
    path = samples.photo(tmp_path / "red.png", samples.RED, (40, 30))
    assert sandbox.query_image(path, max_pixels=10_000).getpixel((5, 5)) == samples.RED
    (tmp_path / "words.png").write_text("no picture")
    with pytest.raises(UnsupportedFile, match="not a picture"):
        sandbox.query_image(tmp_path / "words.png", max_pixels=10_000)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_a_decoder_that_hangs_ends_with_the_process_that_asked(chatty_decoders: None, tmp_path: Path):
    psutil = pytest.importorskip("psutil")
    path = samples.photo(tmp_path / "hang.png")
    asking = subprocess.Popen(
        [sys.executable, "-P", "-c", f"from mmsearch.media import isolated; isolated.photo({str(path)!r})"]
    )
    try:
        begun = tmp_path / "hang.png.begun"
        until = time.monotonic() + 120
        while not begun.exists() and time.monotonic() < until:
            time.sleep(0.02)
        (child,) = psutil.Process(asking.pid).children()
        assert child.rlimit(psutil.RLIMIT_CORE) == (0, 0) and child.rlimit(psutil.RLIMIT_AS)[0] == sandbox.MEMORY_BYTES
    finally:
        asking.kill()
        asking.wait()
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running()
