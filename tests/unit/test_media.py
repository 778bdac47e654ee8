"""Pixels: sizes, modes, orientation, pages and frames, each against what was drawn or against the reference's formula."""

from __future__ import annotations

import io
import math
import os
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmsearch import media
from mmsearch.errors import CorruptFile, EncryptedFile, FileTooLarge, SourceError, UnsupportedFile
from mmsearch.media import cut
from tests import poison, samples

BUDGET = 200_704


def reference_size(height: int, width: int, max_pixels: int) -> tuple[int, int]:
    """The published rule, as its formula is stated (REFERENCE §1.6), in (width, height)."""
    if height < 28 or width < 28 or max(height, width) / min(height, width) > 200:
        height = width = max(28, height, width)
    h, w = round(height / 28) * 28, round(width / 28) * 28
    if h * w > max_pixels:
        beta = math.sqrt(height * width / max_pixels)
        h, w = (math.floor(side / beta / 28) * 28 for side in (height, width))
    elif h * w < 3136:
        beta = math.sqrt(3136 / (height * width))
        h, w = (math.ceil(side * beta / 28) * 28 for side in (height, width))
    return w, h


def test_smart_resize_agrees_with_the_reference_wherever_that_gives_a_size():
    rng = random.Random(7)
    for _ in range(20_000):
        width, height = (int(2 ** rng.uniform(0, 13)) for _ in range(2))
        max_pixels = rng.choice([12_544, 50_176, 200_704, 1_003_520])
        size = media.smart_resize(width, height, max_pixels=max_pixels)
        assert size[0] * size[1] <= max_pixels and size[0] % 28 == size[1] % 28 == 0 and min(size) >= 28
        expected = reference_size(height, width, max_pixels)
        assert size == expected or min(expected) == 0


@pytest.mark.parametrize(
    ("size", "max_pixels", "expected"),
    [
        ((640, 480), 1_003_520, (644, 476)),
        ((70, 98), 1_003_520, (56, 112)),  # 2.5 and 3.5: half to even, both
        ((4000, 3000), 200_704, (504, 364)),
        ((10, 10), 1_003_520, (56, 56)),
        ((28, 6000), 1_003_520, (980, 980)),  # an aspect above 200 becomes a square
    ],
)
def test_smart_resize_by_hand(size, max_pixels, expected):
    assert media.smart_resize(*size, max_pixels=max_pixels) == expected


def test_fit_leaves_small_images_and_makes_the_models_own_resize_the_identity():
    small = Image.new("RGB", (300, 200))
    assert media.fit(small, max_pixels=BUDGET) is small
    rng = random.Random(3)
    for _ in range(60):
        image = Image.new("RGB", (rng.randint(28, 900), rng.randint(28, 900)))
        fitted = media.fit(image, max_pixels=50_176)
        assert media.fit(fitted, max_pixels=50_176) is fitted
        if fitted is not image:
            assert media.smart_resize(*fitted.size, max_pixels=50_176) == fitted.size


def test_page_size_uses_the_whole_budget_whatever_the_unit():
    assert (
        media.page_size(595, 842, BUDGET)
        == media.page_size(59_500, 84_200, BUDGET)
        == media.page_size(0.595, 0.842, BUDGET)
    )
    for shape in ((595, 842), (842, 595), (1, 1), (16, 9), (3, 20)):
        width, height = media.page_size(*shape, BUDGET)
        assert 0.5 * BUDGET < width * height <= BUDGET
    with pytest.raises(ValueError):
        media.page_size(0, 100, BUDGET)
    with pytest.raises(ValueError):
        media.page_size(float("inf"), 100, BUDGET)


# Photos


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff", "bmp", "gif", "jpg", "jp2"])
def test_formats_give_the_picture(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    samples.corners().save(path, **({"lossless": True} if suffix == "webp" else {}))
    image = media.open_image(path)
    assert image.mode == "RGB" and image.size == (64, 48)
    assert samples.corner_colours(image) == ["red", "green", "blue", "white"]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_is_applied_also_to_draft_decoding(tmp_path, orientation):
    path = samples.camera_photo(tmp_path / "a.jpg", orientation=orientation)
    for max_pixels in (None, 12_544):
        image = media.open_image(path, max_pixels=max_pixels)
        assert image.width > image.height
        assert samples.corner_colours(image) == ["red", "green", "blue", "white"]
    with media.open_header(path) as header:
        meta = media.image_meta(header)
    assert (meta["width"], meta["height"]) == (640, 480)
    assert meta["captured_at"] == "2024-05-06T07:08:09+02:00"
    assert meta["camera"] == "Canon EOS R6"
    assert meta["gps"] == [52.52, 13.405]


def test_damaged_exif_costs_entries_not_the_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0132] = "yesterday"
    exif.get_ifd(0x8825)[2] = (1.0, 2.0)
    samples.corners().save(tmp_path / "a.jpg", exif=exif)
    with media.open_header(tmp_path / "a.jpg") as header:
        assert media.image_meta(header) == {"width": 64, "height": 48}


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK", "YCbCr", "I;16", "I;16B", "I", "F", "PA"])
def test_every_mode_keeps_its_brightness(tmp_path, mode):
    """A picture that is black on the left and white on the right stays so."""
    ramp = np.zeros((48, 64), np.uint8)
    ramp[:, 32:] = 255
    grey = Image.fromarray(ramp)
    if mode.startswith("I;16"):
        image = Image.fromarray(ramp.astype(">u2" if mode == "I;16B" else "<u2") * 257)
    elif mode in {"I", "F"}:
        image = Image.fromarray(ramp.astype(np.int32 if mode == "I" else np.float32) * 1000)
    elif mode in {"RGBA", "LA", "PA"}:
        image = grey.convert("LA" if mode != "RGBA" else "RGBA").convert(mode)
    else:
        image = grey.convert("RGB").convert(mode) if mode in {"CMYK", "YCbCr"} else grey.convert(mode)
    rgb = media.to_rgb(image)
    assert rgb.mode == "RGB"
    assert rgb.getpixel((5, 5)) == (0, 0, 0)
    assert min(rgb.getpixel((60, 5))) >= 254


def test_sixteen_bit_files_are_scaled_not_clipped(tmp_path):
    values = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (48, 1))
    for suffix in ("png", "tiff"):
        Image.fromarray(values).save(tmp_path / f"a.{suffix}")
        image = media.open_image(tmp_path / f"a.{suffix}")
        assert np.abs(np.asarray(image)[0, :, 0] - values[0] / 257).max() <= 1
    Image.fromarray((values // 16).astype(np.uint16)).save(tmp_path / "twelve.tiff")  # 12 bits in 16
    assert media.open_image(tmp_path / "twelve.tiff").getpixel((63, 0)) == (255, 255, 255)


def test_alpha_lies_over_white(tmp_path):
    image = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 20, 40))
    image.save(tmp_path / "a.png")
    opened = media.open_image(tmp_path / "a.png")
    assert opened.getpixel((5, 5)) == (0, 0, 255) and opened.getpixel((35, 5)) == (255, 255, 255)
    palette = Image.new("P", (40, 40), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.paste(1, (0, 0, 20, 40))
    palette.save(tmp_path / "p.png", transparency=0)
    opened = media.open_image(tmp_path / "p.png")
    assert opened.getpixel((5, 5)) == (0, 0, 255) and opened.getpixel((35, 5)) == (255, 255, 255)


def test_cmyk_jpeg_has_its_colours(tmp_path):
    samples.corners(320, 240).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    for max_pixels in (None, 12_544):
        image = media.open_image(tmp_path / "a.jpg", max_pixels=max_pixels)
        assert samples.corner_colours(image) == ["red", "green", "blue", "white"]


def test_heic_is_read_with_the_extra(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif", reason="the heic extra is not installed")
    pillow_heif.from_pillow(samples.corners()).save(tmp_path / "a.heic", quality=100)
    assert samples.corner_colours(media.open_image(tmp_path / "a.heic")) == ["red", "green", "blue", "white"]


def test_draft_decoding_is_close_to_full_decoding(tmp_path):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8)).resize((2400, 1800), Image.Resampling.BICUBIC)
    noise.save(tmp_path / "a.jpg", quality=95)
    fast = np.asarray(media.open_image(tmp_path / "a.jpg", max_pixels=50_176), int)
    full = np.asarray(media.fit(media.open_image(tmp_path / "a.jpg"), max_pixels=50_176), int)
    assert fast.shape == full.shape
    assert np.abs(fast - full).mean() < 2.0


def test_a_header_above_the_limit_is_refused_before_decoding(tmp_path):
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(FileTooLarge, match="100000 × 100000"):
        media.open_image(tmp_path / "bomb.png")
    samples.photo(tmp_path / "a.png", size=(100, 100))
    with pytest.raises(FileTooLarge):
        media.open_image(tmp_path / "a.png", header_limit_pixels=9_999)
    assert media.open_image(tmp_path / "a.png", header_limit_pixels=10_000).size == (100, 100)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tiff", "bmp"])
def test_a_picture_without_its_last_bytes_is_shown_as_far_as_it_goes(tmp_path, suffix):
    rng = np.random.default_rng(0)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(rng.integers(0, 255, (120, 160, 3), np.uint8)).save(path)
    assert media.decode_picture(path).is_whole
    whole = np.asarray(media.open_image(path), int)
    samples.cut_short(path, 0.7)
    with pytest.raises(CorruptFile) as caught:
        media.decode_image(path)
    assert caught.value.path == str(path)
    for given in (path, io.BytesIO(path.read_bytes())):
        part, is_whole = media.decode_picture(given)
        assert part.size == (160, 120) and not is_whole
        same = (np.abs(np.asarray(part, int) - whole).max(2) == 0).mean(1) > 0.95  # per row
        assert 0.4 < same.mean() < 0.95
        assert same[:40].all() != same[-40:].all()  # a BMP begins at the bottom
    with pytest.raises(CorruptFile):
        media.decode_image(path)  # the switch is back
    samples.cut_short(path, 0.001)
    with pytest.raises(SourceError):
        media.decode_picture(path)


def gradient() -> Image.Image:
    """Every row another colour, with a fine grain, so that each takes its bytes."""
    grain = np.random.default_rng(0).integers(0, 12, (384, 256))
    return Image.fromarray(
        np.stack([grain + np.linspace(0, 240, 384)[:, None], grain + 100, 240 - grain], 2).astype(np.uint8)
    )


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("a.webp", {"quality": 90}),
        ("lossless.webp", {"lossless": True}),
        ("exif.webp", {"quality": 90, "exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"}),
        ("a.heic", {"quality": 90}),
        ("a.avif", {"quality": 90}),
    ],
)
@pytest.mark.parametrize("share", [0.6, 0.8, 0.97])
def test_decoders_that_refuse_a_file_without_its_last_bytes_show_the_rest_too(tmp_path, name, save, share):
    path = tmp_path / name
    if path.suffix == ".heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    gradient().save(path, **save)
    whole = np.asarray(media.open_image(path), int)
    assert media.decode_picture(path).is_whole
    samples.cut_short(path, share)
    with pytest.raises(CorruptFile, match="truncated"):
        media.decode_image(path)
    for given in (path, io.BytesIO(path.read_bytes())):
        part, is_whole = media.decode_picture(given)
        assert part.size == (256, 384) and not is_whole
        apart = np.abs(np.asarray(part, int) - whole).mean((1, 2))
        assert apart[: int(384 * share * 0.6)].max() < 4 < 1000 * apart[int(384 * share) :].max()
    samples.cut_short(path, 0.01)
    with pytest.raises(SourceError):
        media.decode_picture(path)


def test_what_a_small_file_announces_takes_no_memory(tmp_path):
    """Nobody fills up 4 GB."""
    for name, content in {
        "a.webp": b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff" + bytes(1000),
        "a.heic": b"\0\0\0\x18ftypheic" + bytes(12) + b"\0\0\0\1mdat" + b"\x7f" * 8 + bytes(1000),
        "b.heic": b"\0\0\0\x18ftypheic" + bytes(12) + b"\0\0\0\0mdat" + bytes(1000),
    }.items():
        (tmp_path / name).write_bytes(content)
        with (tmp_path / name).open("rb") as handle:
            assert cut.filled(handle) is None
        with pytest.raises(CorruptFile):
            media.decode_picture(tmp_path / name)


@pytest.mark.parametrize("suffix", ["jp2"])
def test_a_truncated_picture_of_which_nothing_decodes_is_corrupt(tmp_path, suffix):
    rng = np.random.default_rng(0)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(rng.integers(0, 255, (120, 160, 3), np.uint8)).save(path)
    samples.cut_short(path, 0.5)
    with pytest.raises(CorruptFile) as caught:
        media.open_image(path)
    assert caught.value.path == str(path)


def test_a_header_without_a_picture_is_corrupt(tmp_path):
    Image.effect_noise((160, 800), 90).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: content.index(b"\xff\xda") + 10])
    with pytest.raises(CorruptFile, match="truncated"):
        media.decode_picture(tmp_path / "a.jpg")


def test_one_limit_counts_whatever_pillows_own(tmp_path, monkeypatch):
    """Pillow asks for its own limit again when it decodes a TIFF."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    path = samples.photo(tmp_path / "a.tiff", size=(100, 100))
    with media.open_header(path) as outer:
        assert media.open_image(path).size == outer.size == (100, 100)
        assert Image.MAX_IMAGE_PIXELS is None
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_a_broken_promise_of_the_first_bytes_is_damage(tmp_path):
    """Not a file of another kind, as Pillow has it."""
    for magic in (b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\0\1\0WEBP", b"II*\0\x08\0\0\0", b"\0\0\0\x18ftypavif"):
        (tmp_path / "a").write_bytes(magic + b"\xfe" * 500)
        with pytest.raises(CorruptFile, match="damaged picture"):
            media.open_image(tmp_path / "a")


def test_text_is_no_picture(tmp_path):
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(UnsupportedFile):
        media.open_image(tmp_path / "a.jpg")


def test_preview_is_small_webp(tmp_path):
    import io

    data = media.webp_preview(samples.corners(1600, 900))
    preview = Image.open(io.BytesIO(data))
    assert preview.format == "WEBP" and preview.size == (320, 180)
    assert samples.corner_colours(preview.convert("RGB")) == ["red", "green", "blue", "white"]


# Pages


def test_a_page_is_drawn_at_the_models_size_and_the_right_way_up(tmp_path):
    path = samples.pdf_with_boxes(tmp_path / "a.pdf", [(400, 300)])
    image = media.render_page(path, 0, max_pixels=BUDGET)
    assert image.size == media.page_size(400, 300, BUDGET)
    assert samples.corner_colours(image) == ["red", "white", "white", "white"]
    assert media.render_page(path, 0, dpi=72).size == (400, 300)
    with pytest.raises(IndexError):
        media.render_page(path, 1, max_pixels=BUDGET)


@pytest.mark.parametrize("box", [(2_000_000, 2_000_000), (14_400, 14_400), (1, 5000), (7, 7)])
def test_odd_page_boxes_stay_within_the_budget(tmp_path, box):
    image = media.render_page(samples.pdf_with_boxes(tmp_path / "a.pdf", [box]), 0, max_pixels=BUDGET)
    assert image.width * image.height <= BUDGET
    assert max(media.render_page(tmp_path / "a.pdf", 0, dpi=600).size) <= 4000


def test_a_page_box_that_starts_elsewhere_is_drawn_from_its_corner(tmp_path):
    pymupdf = media.load_pymupdf()

    document = pymupdf.open()
    page = document.new_page(width=400, height=400)
    page.draw_rect((200, 200, 300, 300), color=None, fill=(1, 0, 0))
    page.set_cropbox(pymupdf.Rect(200, 200, 400, 400))
    document.save(tmp_path / "a.pdf")
    image = media.render_page(tmp_path / "a.pdf", 0, max_pixels=BUDGET)
    assert samples.corner_colours(image) == ["red", "white", "white", "white"]


def test_document_errors_have_names(tmp_path):
    with pytest.raises(EncryptedFile):
        media.render_page(samples.encrypted_pdf(tmp_path / "e.pdf"), 0, max_pixels=BUDGET)
    (tmp_path / "g.pdf").write_bytes(b"%PDF-1.7\n" + bytes(range(256)) * 8)
    with pytest.raises(CorruptFile):
        media.render_page(tmp_path / "g.pdf", 0, max_pixels=BUDGET)


def test_documents_are_recognised_by_content(tmp_path):
    path = samples.pdf(tmp_path / "report.txt")
    assert media.render_page(path, 0, max_pixels=BUDGET).size == media.page_size(595, 842, BUDGET)


# Videos

VARIABLE_MS = [0]
for _step in range(119):
    VARIABLE_MS.append(VARIABLE_MS[-1] + (20 if _step % 2 else 70))


@pytest.fixture(scope="module")
def variable(tmp_path_factory) -> Path:
    """120 numbered frames, 70 and 20 ms apart in turn."""
    return samples.video(tmp_path_factory.mktemp("video") / "v.mp4", samples.numbered, VARIABLE_MS)


def test_frame_times_are_exact_at_a_variable_rate(variable):
    times_s = media.frame_times(variable)
    assert times_s.dtype == np.float64
    assert np.abs(times_s - np.array(VARIABLE_MS) / 1000).max() < 1e-9
    info = media.probe_video(variable)
    assert (info.width, info.height, info.codec, info.rotation, info.has_video) == (160, 96, "h264", 0, True)
    assert info.duration_s == pytest.approx(media.index_frames(variable).end_s, abs=0.05)


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_frames_by_index_are_the_frames(variable, decoder, monkeypatch):
    if decoder == "decord":
        pytest.importorskip("decord", reason="no decord on this platform")
        assert media._open_decord(variable, 120, None) is not None
    else:
        monkeypatch.setattr(media, "_open_decord", lambda *_: None)
    order = [0, 119, 3, 3, 60, 61, 17, 118]
    assert [samples.read_number(image) for image in media.sample_frames(variable, indices=order)] == order
    assert [i for i, _ in media.iter_frames(variable, range(40, 80))] == list(range(40, 80))
    with pytest.raises(IndexError):
        media.sample_frames(variable, indices=[120])


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_frames_by_time_are_those_on_the_screen(variable, decoder, monkeypatch):
    if decoder == "pyav":
        monkeypatch.setattr(media, "_open_decord", lambda *_: None)
    wanted_s = [-1.0, 0.0, 0.0699, 0.07, 0.0899, 0.09, 99.0]
    shown = [samples.read_number(image) for image in media.sample_frames(variable, wanted_s)]
    assert shown == [0, 0, 0, 1, 1, 2, 119]


def test_frames_come_at_the_models_size(variable):
    images = media.sample_frames(variable, indices=[5, 50], max_pixels=7000)
    assert [image.size for image in images] == [media.smart_resize(160, 96, max_pixels=7000)] * 2
    assert [samples.read_number(image) for image in images] == [5, 50]


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_rotation_is_applied(tmp_path, rotation):
    def upright(_: int) -> Image.Image:
        return samples.corners(96, 160) if rotation % 180 else samples.corners(160, 96)

    # Stored turned against the sense in which the player will turn it.
    path = samples.video(
        tmp_path / "v.mp4", lambda n: upright(n).rotate(-rotation, expand=True), range(0, 1000, 50), rotation=rotation
    )
    info = media.probe_video(path)
    assert info.rotation == rotation % 360 and (info.width, info.height) == upright(0).size
    for max_pixels in (None, 7000):
        (image,) = media.sample_frames(path, indices=[7], max_pixels=max_pixels)
        assert samples.corner_colours(image) == ["red", "green", "blue", "white"]


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("libx264", "mkv"), ("libx264", "ts"), ("mpeg4", "avi"), ("libvpx-vp9", "webm"), ("libsvtav1", "mp4")],
)
def test_containers_and_codecs(tmp_path, codec, suffix):
    import av

    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    path = samples.video(tmp_path / f"v.{suffix}", samples.numbered, range(0, 2000, 40), codec=codec)
    times_s = media.frame_times(path)
    assert np.abs(times_s - np.arange(50) * 0.04).max() < 2e-3
    assert [samples.read_number(i) for i in media.sample_frames(path, indices=[0, 25, 49])] == [0, 25, 49]


@pytest.mark.parametrize(
    ("codec", "suffix", "sound", "is_decord"),
    [
        ("libx264", "mp4", None, True),
        ("libx264", "mkv", "aac", True),
        ("libvpx-vp9", "webm", None, True),
        ("libx264", "ts", None, False),
        ("mpeg4", "mp4", None, False),
        ("mpeg4", "avi", None, False),
        ("libx264", "mkv", "pcm_s16le", False),
    ],
)
def test_decord_gets_what_a_list_names(tmp_path, monkeypatch, codec, suffix, sound, is_decord):
    import av

    decord = pytest.importorskip("decord", reason="no decord on this platform")
    opened: list[str] = []
    reader = decord.VideoReader
    monkeypatch.setattr(decord, "VideoReader", lambda path, **given: opened.append(path) or reader(path, **given))
    path = tmp_path / f"v.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        track = container.add_stream(sound, rate=48_000) if sound else None
        for number in range(8):
            container.mux(
                stream.encode(av.VideoFrame.from_image(Image.fromarray(np.asarray(samples.numbered(number)))))
            )
        container.mux(stream.encode())
        if track is not None:
            heard = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), format="s16", layout="mono")
            heard.sample_rate = 48_000
            container.mux(track.encode(heard))
            container.mux(track.encode())
    assert [samples.read_number(image) for image in media.sample_frames(path, indices=[0, 7])] == [0, 7]
    assert bool(opened) is is_decord


DECODES_WITH_KNOWN_TIMES = """
import sys
import numpy as np
from mmsearch import media
next(media.iter_frames(sys.argv[1], [0], shown_at=np.arange(50) / 25))
names = list(sys.modules)
print(names.index("av") < names.index("decord"))
"""


def test_pyav_is_loaded_before_decord(tmp_path):
    """The other way round PyAV gets decord's old codec libraries, and fails with VP9."""
    pytest.importorskip("decord", reason="no decord on this platform")
    command = [sys.executable, "-c", DECODES_WITH_KNOWN_TIMES, str(samples.film(tmp_path / "film.mp4", "libx264"))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"


def test_decord_is_not_asked_what_a_playlist_is(tmp_path, monkeypatch):
    """A reader that PyAV takes for a film, with a playlist's beginning: FFmpeg of 2018 knows more formats than one."""
    monkeypatch.setattr(media, "probe_video", lambda _: pytest.fail("asked after the signature"))
    description = b"aaaaftypjp2 \nv=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"  # FFmpeg takes it for SDP
    playlists = {"a": b"#EXTM3U\n", "b": b"ffconcat version 1.0\n", "c": b"", "d": b"\0\0\0\x18moov", "e": description}
    for name, begin in playlists.items():
        (tmp_path / f"{name}.mp4").write_bytes(begin + bytes(64))
        assert media._open_decord(tmp_path / f"{name}.mp4", 8, None) is None


def test_broken_videos_are_corrupt(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x18ftypisom" + b"\0" * 500)
    with pytest.raises(CorruptFile):
        media.frame_times(tmp_path / "a.mp4")
    path = samples.cut_short(samples.scenes(tmp_path / "b.mp4", [2.0]), 0.5)  # its index lay at the end
    with pytest.raises(CorruptFile) as caught:
        media.probe_video(path)
    assert caught.value.reason == "damaged video (Invalid data found when processing input)"
    (tmp_path / "c.avi").write_bytes(b"RIFF\0\0\1\0AVI " + b"\xfe" * 500)
    with pytest.raises(CorruptFile, match="neither pictures nor sound"):
        media.probe_video(tmp_path / "c.avi")


def test_a_damaged_stretch_costs_its_frames_only(tmp_path):
    path = samples.video(tmp_path / "v.mkv", samples.numbered, range(0, 4000, 40), options={"g": "10"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200] = b"\xff" * 200
    path.write_bytes(data)
    images = media.sample_frames(path, indices=[0, 5])
    assert [samples.read_number(image) for image in images] == [0, 5]


def test_names_that_are_not_utf8_are_read(tmp_path):
    folder = os.fsencode(tmp_path)
    odd_video = Path(os.fsdecode(folder + b"/v\xff.mp4"))
    odd_pdf = Path(os.fsdecode(folder + b"/d\xff.pdf"))
    samples.video(tmp_path / "v.mp4", samples.numbered, range(0, 400, 40)).rename(odd_video)
    samples.pdf(tmp_path / "d.pdf").rename(odd_pdf)
    assert samples.read_number(media.sample_frames(odd_video, indices=[3])[0]) == 3
    assert media.render_page(odd_pdf, 0, max_pixels=BUDGET).size == media.page_size(595, 842, BUDGET)


def test_a_list_of_videos_is_no_video(tmp_path):
    """FFmpeg would open the files and addresses that stand in it."""
    samples.film(tmp_path / "other.mp4", "libx264")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile other.mp4\n")
    (tmp_path / "playlist.mp4").write_text(f"#EXTM3U\n#EXTINF:2,\n{tmp_path}/other.mp4\n#EXT-X-ENDLIST\n")
    for name in ("list.mp4", "playlist.mp4"):
        with pytest.raises(CorruptFile, match="damaged video"):
            media.probe_video(tmp_path / name)


def test_a_web_page_is_no_document(tmp_path):
    (tmp_path / "a.html").write_text("<html><body>hello</body></html>")
    with pytest.raises(UnsupportedFile, match="HTML"), media.open_document(tmp_path / "a.html"):
        pass


def test_sixteen_bits_of_colour_become_eight(tmp_path):
    image = media.decode_image(poison.deep_colour_png(tmp_path / "deep.png"))
    expected = np.linspace(0, 65535, 64 * 3).reshape(64, 3) / 257
    assert np.abs(np.asarray(image)[7] - expected).max() <= 1  # the low byte is left out
