"""The demo folder that ships: what it promises to hold is in it, readable, findable by its text; and it is what `tests.demo` makes."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import av
import numpy as np
import pymupdf
import pytest
from PIL import Image

from mmsearch import media
from mmsearch.cli.demo_folder import ARCHIVE, write_demo_folder
from mmsearch.errors import DiskFull
from mmsearch.items import KINDS
from tests.demo import DEMO_QUERIES, make_demo_folder
from tests.demo.documents import DOCUMENTS, nice_ticks, wrap
from tests.demo.pictures import PICTURES
from tests.demo.videos import FILMS, FPS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    written = write_demo_folder(folder)
    assert sorted(written) == sorted(p for p in folder.rglob("*") if p.is_file()), (
        "it names what it writes, and no scratch stays"
    )
    return folder


def pages(demo: Path, name: str) -> list[str]:
    with pymupdf.open(demo / name) as document:
        return [page.get_text() for page in document.pages()]


def test_it_is_small_and_varied(demo: Path):
    counts = {suffix: len(list(demo.rglob(f"*{suffix}"))) for suffix in (".pdf", ".jpg", ".png", ".mp4", ".srt")}
    assert counts == {".pdf": len(DOCUMENTS), ".jpg": 31, ".png": 2, ".mp4": len(FILMS), ".srt": 1}
    assert 60 <= sum(len(pages(demo, name)) for name in DOCUMENTS) <= 90
    assert sum(p.stat().st_size for p in demo.rglob("*") if p.is_file()) < 15e6


def test_a_second_call_changes_nothing(demo: Path):
    before = {p: p.stat().st_mtime_ns for p in demo.rglob("*")}
    assert write_demo_folder(demo) == []
    assert {p: p.stat().st_mtime_ns for p in demo.rglob("*")} == before


def test_what_is_missing_comes_back_and_what_was_changed_stays(tmp_path: Path):
    write_demo_folder(tmp_path)
    missing, changed = tmp_path / "talks/q3-2025.pdf", tmp_path / "videos/lesson.srt"
    before = missing.read_bytes()
    missing.unlink()
    changed.write_text("mine")
    assert write_demo_folder(tmp_path) == [missing]
    assert missing.read_bytes() == before and changed.read_text() == "mine"


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write_half(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "no space", str(path))

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(DiskFull):
        write_demo_folder(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_archive_is_what_the_generator_makes(demo: Path, tmp_path: Path):
    """Byte for byte, or what it decodes to: other versions of the encoders write other bytes. `python -m tests.demo` writes it again."""
    names = make_demo_folder(tmp_path)
    with ZipFile(ARCHIVE) as archive:
        assert archive.namelist() == names
    for name in names:
        ours, theirs = tmp_path / name, demo / name
        if ours.read_bytes() == theirs.read_bytes():
            continue
        suffix = ours.suffix
        assert suffix in {".pdf", ".jpg", ".png", ".mp4"}, f"{name} is text: its bytes must agree"
        if suffix == ".pdf":
            assert pages(tmp_path, name) == pages(demo, name), name
        for made, shipped in zip(pictures_of(ours), pictures_of(theirs), strict=True):
            assert made.shape == shipped.shape and np.abs(made - shipped).mean() < 3, name


def pictures_of(path: Path) -> Iterator[np.ndarray]:
    """What is to be seen in a file of the demo: every page, the picture, every frame; float [h, w, 3]."""
    if path.suffix == ".pdf":
        with pymupdf.open(path) as document:
            yield from (np.asarray(media.draw_page(page, max_pixels=200_000), float) for page in document)
    elif path.suffix == ".mp4":
        with av.open(str(path)) as container:
            yield from (frame.to_ndarray(format="rgb24").astype(float) for frame in container.decode(video=0))
    else:
        yield np.asarray(media.open_image(path).convert("RGB"), float)


@pytest.mark.parametrize("query", DEMO_QUERIES, ids=lambda query: query.text)
def test_answers_exist_and_are_of_the_kind_asked_for(demo: Path, query):
    assert all((demo / answer).is_file() for answer in query.answers)
    suffixes = {"image": {".jpg", ".png"}, "page": {".pdf"}, "clip": {".mp4"}}
    assert query.kind is None or {Path(answer).suffix for answer in query.answers} <= suffixes[query.kind]


def test_queries_ask_for_every_kind():
    suffix_kinds = {".pdf": "page", ".jpg": "image", ".mp4": "clip"}
    asked = {suffix_kinds[Path(answer).suffix] for query in DEMO_QUERIES for answer in query.answers}
    assert asked == set(KINDS)
    assert sum(not query.answers for query in DEMO_QUERIES) == 1, "one query that nothing answers"


def test_revenue_is_in_one_deck_and_in_the_report_only(demo: Path):
    holding = {name for name in DOCUMENTS if any("revenue" in page.lower() for page in pages(demo, name))}
    assert holding == {"talks/q3-2025.pdf", "reports/annual-report-2024.pdf"}


@pytest.mark.parametrize("name", ["household/scan0007.pdf", "household/scan0012.pdf"])
def test_scans_have_pixels_and_no_text(demo: Path, name: str):
    assert not any(page.strip() for page in pages(demo, name))
    page = np.asarray(media.render_page(demo / name, 0, dpi=110).convert("L"), float)
    assert 150 < page.mean() < 235, "grey paper"
    assert (page < 100).mean() > 0.004, "with ink on it"


def test_no_page_is_blank(demo: Path):
    for name in DOCUMENTS:
        for number in range(len(pages(demo, name))):
            pixels = np.asarray(media.render_page(demo / name, number, max_pixels=60_000), float)
            assert pixels.std() > 4, f"{name}, page {number + 1}"


def test_text_stays_on_the_paper(demo: Path):
    """Catches a line that runs over the edge: the layout has no scissors."""
    for name in DOCUMENTS:
        with pymupdf.open(demo / name) as document:
            for page in document.pages():
                for x0, y0, x1, y1, word, *_ in page.get_text("words"):
                    assert page.rect.contains(pymupdf.Rect(x0, y0, x1, y1) & page.rect) and x1 <= page.rect.width + 1, (
                        name,
                        word,
                    )
                    assert y1 <= page.rect.height + 1 and x0 >= -1 and y0 >= -1, (name, page.number + 1, word)


@pytest.mark.parametrize("picture", [p for p in PICTURES if p.captured_at], ids=lambda picture: picture.paint.__name__)
def test_photos_carry_what_a_camera_writes(demo: Path, picture):
    with Image.open(demo / picture.path) as image:
        meta = media.image_meta(image)
        is_stored_sideways = image.getexif().get(0x0112, 1) == 6
    day, clock = picture.captured_at.split(" ")
    assert meta["captured_at"].startswith(f"{day.replace(':', '-')}T{clock}")
    if picture.camera:
        assert picture.camera[1] in meta["camera"]
    if picture.gps:
        assert meta["gps"] == pytest.approx(picture.gps, abs=1e-4)
    assert is_stored_sideways == picture.sideways
    if picture.sideways:
        upright = media.open_image(demo / picture.path)
        assert upright.height > upright.width
        assert np.asarray(upright, float)[:40].mean() > np.asarray(upright, float)[-200:].mean(), (
            "sky above, ground below"
        )


@pytest.mark.parametrize("film", FILMS, ids=lambda film: film.path)
def test_films_cut_where_they_say(demo: Path, film):
    with av.open(str(demo / film.path)) as container:
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == FPS
    lengths = [round(scene.duration_s * FPS) for scene in film.scenes]
    assert len(frames) == sum(lengths)
    change = np.array([np.abs(a.astype(float) - b).mean() for a, b in zip(frames[1:], frames, strict=False)])
    cuts = set(np.cumsum(lengths[:-1]) - 1)
    calm = max(value for index, value in enumerate(change) if index not in cuts)
    assert all(change[cut] > 2 * calm for cut in cuts), "a cut stands out from the movement around it"


def test_subtitles_follow_the_scenes(demo: Path):
    text = (demo / "videos/lesson.srt").read_text()
    starts = [int(m[1]) * 60 + int(m[2]) for m in re.finditer(r"00:(\d\d):(\d\d),\d{3} -->", text)]
    assert starts == [0, 3, 8, 13]
    assert "pendulum" in text


def test_lines_are_broken_at_the_width():
    lines = wrap("the quick brown fox jumps over the lazy dog " * 4, 120, 11, "helv")
    assert " ".join(lines) == ("the quick brown fox jumps over the lazy dog " * 4).strip()
    assert all(pymupdf.get_text_length(line, "helv", 11) <= 120 for line in lines)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 51, [0, 20, 40, 60]),
        (0, 9, [0, 2.5, 5, 7.5, 10]),
        (77, 96, [75, 80, 85, 90, 95, 100]),
        (0, 1.01, [0, 0.5, 1, 1.5]),
    ],
)
def test_axes_get_round_numbers(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks)
