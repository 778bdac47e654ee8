"""Pictures and videos whose pixels are no squares: shown and embedded in their true shape, by every way that decodes them."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ingest import printed, readers
from mmsearch import media
from mmsearch.items import KINDS, Source
from mmsearch.media import isolated as sandbox
from tests import samples

ANAMORPHIC = Path("/work/shared/cases/anamorphic_64_45.mp4")
BUDGET = dict.fromkeys(KINDS, 50_176)


def source(path: Path) -> Source:
    status = path.stat()
    return Source(path, "0", status.st_size, status.st_mtime_ns)


def fax(path: Path, *, dpi: tuple[float, float] = (204, 98), pages: int = 1, **save: object) -> Path:
    """Pages of 400 × 200 stored pixels: at 204 × 98 dpi about square on paper."""
    first, *rest = [samples.corners(400, 200) for _ in range(pages)]
    first.save(path, save_all=pages > 1, append_images=rest, dpi=dpi, **save)
    return path


def shape(image: Image.Image) -> float:
    return image.width / image.height


@pytest.mark.parametrize(
    ("dpi", "size"),
    [
        ((204, 98), (400, 416)),
        ((204, 196), (400, 208)),
        ((204, 391), (767, 200)),
        ((300, 300), (400, 200)),
        ((300, 299), (400, 200)),
        ((300, 1), (400, 200)),
        ((0, 98), (400, 200)),
    ],
)
def test_a_fax_has_the_shape_of_its_paper(tmp_path: Path, dpi: tuple[float, float], size: tuple[int, int]) -> None:
    path = fax(tmp_path / "fax.tif", dpi=dpi)
    image = media.open_image(path)
    assert image.size == size
    assert samples.corner_colours(image) == ["red", "green", "blue", "white"]
    with media.open_header(path) as header:
        meta = media.image_meta(header)
    assert (meta["width"], meta["height"]) == size


def test_resolutions_without_a_unit_are_a_shape_too(tmp_path: Path) -> None:
    samples.corners(400, 200).save(tmp_path / "fax.tif", tiffinfo={282: 2.0, 283: 1.0, 296: 1})
    assert media.open_image(tmp_path / "fax.tif").size == (400, 400)


def test_only_tiff_is_believed(tmp_path: Path) -> None:
    for suffix in ("jpg", "png"):
        assert media.open_image(fax(tmp_path / f"a.{suffix}")).size == (400, 200)


def test_a_turned_fax(tmp_path: Path) -> None:
    """Stored lying on its side: resolutions belong to the stored rows and columns."""
    turned = samples.corners(200, 400).rotate(90, expand=True)  # 400 × 200
    turned.save(tmp_path / "fax.tif", dpi=(204, 98), tiffinfo={274: 6})
    image = media.open_image(tmp_path / "fax.tif")
    assert image.size == (416, 400)
    assert samples.corner_colours(image) == ["red", "green", "blue", "white"]
    with media.open_header(tmp_path / "fax.tif") as header:
        meta = media.image_meta(header)
    assert (meta["width"], meta["height"]) == (416, 400)


def test_a_large_picture_is_squeezed_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "STRETCHED_LIMIT_PIXELS", 100_000)
    assert media.in_true_shape(Image.new("RGB", (400, 200)), 0.5).size == (200, 200)
    assert media.in_true_shape(Image.new("RGB", (400, 200)), 2.0).size == (400, 100)


@pytest.mark.parametrize("pages", [1, 2])
def test_a_fax_is_embedded_previewed_read_and_shown_in_its_shape(tmp_path: Path, pages: int) -> None:
    path = fax(tmp_path / "fax.tif", pages=pages)
    *_, draft = readers.read_items(source(path), BUDGET)
    with Image.open(io.BytesIO(draft.preview or b"")) as preview:
        assert shape(preview) == pytest.approx(400 / 416, abs=0.01)
    assert shape(draft.images[0]) == pytest.approx(1, abs=0.15)  # the model's sides are multiples of 28
    _, to_read = printed._decode(path, pages - 1, readers.Reading(BUDGET))
    assert to_read.size == (400, 416)
    shown = sandbox.photo(path) if pages == 1 else sandbox.page(path, pages)
    with Image.open(io.BytesIO(shown)) as image:
        assert image.size == (400, 416)
        assert samples.corner_colours(image.convert("RGB")) == ["red", "green", "blue", "white"]


# Videos


def film(path: Path, pixel: Fraction) -> Path:
    """Fifty frames of 160 × 96 stored pixels of this shape."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.codec_context.sample_aspect_ratio = pixel
        for _ in range(50):
            container.mux(stream.encode(av.VideoFrame.from_image(samples.corners(160, 96))))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
@pytest.mark.parametrize(
    ("pixel", "size"), [("64/45", (228, 96)), ("1/2", (160, 192)), ("1/1", (160, 96)), ("30/1", (160, 96))]
)
def test_an_anamorphic_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: str, pixel: str, size: tuple[int, int]
) -> None:
    path = film(tmp_path / "film.mp4", Fraction(pixel))
    if decoder == "pyav":
        monkeypatch.setattr(media, "_open_decord", lambda *_: None)
    info = media.probe_video(path)
    assert (info.width, info.height) == size
    (shown,) = media.sample_frames(path, indices=[7], true_shape=True)
    assert shown.size == size
    assert samples.corner_colours(shown) == ["red", "green", "blue", "white"]
    (for_model,) = media.sample_frames(path, indices=[7], true_shape=True, max_pixels=7000)
    assert for_model.size == media.fitted_size(*size, 7000)
    (stored,) = media.sample_frames(path, indices=[7])
    assert stored.size == (160, 96)
    (draft,) = readers.read_items(source(path), BUDGET)
    assert (draft.meta["width"], draft.meta["height"]) == size
    with Image.open(io.BytesIO(draft.preview or b"")) as preview:
        assert shape(preview) == pytest.approx(size[0] / size[1], rel=0.02)


def test_an_excerpt_for_the_browser_has_the_true_shape(tmp_path: Path) -> None:
    film(tmp_path / "film.mp4", Fraction(2)).rename(tmp_path / "film.mkv")
    content, _ = sandbox.video(tmp_path / "film.mkv", 0.0, 1.0)
    (tmp_path / "excerpt.mp4").write_bytes(content)
    info = media.probe_video(tmp_path / "excerpt.mp4")
    assert (info.width, info.height, info.pixel_shape) == (320, 96, 1.0)


@pytest.mark.skipif(not ANAMORPHIC.is_file(), reason="no shared/cases on this machine")
def test_the_case() -> None:
    info = media.probe_video(ANAMORPHIC)
    assert (info.width, info.height) == (1024, 576)
    frame = np.asarray(media.sample_frames(ANAMORPHIC, indices=[0], true_shape=True)[0])
    assert frame.shape == (576, 1024, 3)
    draft = next(iter(readers.read_items(source(ANAMORPHIC), BUDGET)))
    assert shape(draft.images[0]) == pytest.approx(16 / 9, rel=0.1)
