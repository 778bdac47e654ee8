"""Reading print: what is worth reading, by which engine, and what the engines make of print that is known."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from ingest.printed import with_print
from ingest.text_layer import has_enough_text, is_broken
from mmsearch.catalog import recognised
from mmsearch.errors import ConfigError
from mmsearch.media import ocr
from mmsearch.media.ocr import Line, Reader, Terms, Word, looks, rapid, spaces, tesseract

LINES = ("Quarterly dredging budget", "The eastern lighthouse lamp", "Invoice for seventeen kettles")
DATA = Path(__file__).parents[3] / "shared" / "data" / "photos"


def printed(*lines: str, size: tuple[int, int], ground: int = 250, ink: int = 20) -> Image.Image:
    image = Image.new("L", size, ground)
    draw = ImageDraw.Draw(image)
    for n, line in enumerate(lines):
        draw.text((60, 60 + n * 70), line, font=ImageFont.load_default(36), fill=ink)
    return image.convert("RGB")


PAGE = printed(*LINES * 5, size=(900, 1273))
SLIDE = printed(*LINES, size=(1280, 720), ground=30, ink=235)


@pytest.fixture(scope="module")
def terms(tmp_path_factory: pytest.TempPathFactory) -> Terms:
    return ocr.find_terms("eng", folder=tmp_path_factory.mktemp("tessdata"))


def noise(seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (PAGE, True), (SLIDE, True), (printed(*LINES, size=(640, 360)), True), (noise(), False),
        (Image.new("RGB", (600, 400), (90, 140, 220)), False), (Image.new("RGB", (4, 4)), False),
        (Image.fromarray(np.tile(np.linspace(0, 255, 640, dtype=np.uint8), (480, 1))).convert("RGB"), False),
    ],
    ids=["page", "slide", "light slide", "texture", "sky", "tiny", "gradient"],
)  # fmt: skip
def test_what_looks_printed(image: Image.Image, expected: bool) -> None:
    assert looks.has_print(image) is expected


@pytest.mark.parametrize(("name", "least", "most"), [("flickr8k-01", 0.0, 0.005), ("screens-00", 0.85, 1.0)])
def test_photos_are_left_alone_and_screenshots_are_not(name: str, least: float, most: float) -> None:
    if not (DATA / f"{name}.tar").exists():
        pytest.skip("../shared/data is not here")
    with tarfile.open(DATA / f"{name}.tar") as archive:
        seen = [looks.has_print(Image.open(archive.extractfile(member)).convert("RGB")) for member in archive]  # type: ignore[arg-type]
    assert least <= np.mean(seen) <= most


def test_each_picture_goes_to_the_engine_that_reads_it_best() -> None:
    assert looks.choose_engine(PAGE) == "tesseract" and looks.choose_engine(SLIDE) == "rapidocr"
    assert looks.choose_engine(printed(*LINES, size=(1280, 720))) == "rapidocr", "a light slide"
    assert looks.choose_engine(Image.fromarray(255 - np.asarray(PAGE))) == "rapidocr", "light on dark"
    assert looks.is_light_on_dark(SLIDE) and not looks.is_light_on_dark(PAGE)


def engines() -> list[str]:
    return list(ocr.ENGINES)


@pytest.mark.parametrize("engine", engines())
@pytest.mark.parametrize("image", [PAGE, SLIDE], ids=["page", "slide"])
def test_an_engine_reads_known_print_with_its_place(engine: str, image: Image.Image, terms: Terms) -> None:
    """One suite for every engine: the same words, boxes where they were drawn."""
    if engine not in terms.engines:
        pytest.skip(f"{engine} is not installed")
    read = Reader(Terms(terms.languages, terms.tessdata, (engine,))).read(image)
    assert (read.engine, read.languages) == (engine, "eng") and read.version
    assert read.preferred == looks.choose_engine(image)
    lines = [line for line in read.lines if line.text == LINES[1]]
    assert lines, f"read {read.text!r}"
    left, top, right, bottom = lines[0].box
    assert left == pytest.approx(60 / image.width, abs=0.02) and 0.25 < right < 1
    assert (top + bottom) / 2 == pytest.approx((60 + 70 + 20) / image.height, abs=0.03)
    words = lines[0].words
    assert [word.text for word in words] == LINES[1].split()
    edges = [edge for word in words for edge in (word.left, word.right)]
    assert all(a <= b + 0.01 for a, b in itertools.pairwise(edges))
    assert (lines[0].confidence is None) == (engine == "tesseract")


@pytest.mark.parametrize("engine", engines())
def test_a_picture_without_print_gives_no_lines(engine: str, terms: Terms) -> None:
    if engine not in terms.engines:
        pytest.skip(f"{engine} is not installed")
    reader = Reader(Terms(terms.languages, terms.tessdata, (engine,)))
    assert reader.read(noise()).lines == () and reader.read(Image.new("RGB", (300, 300), "white")).lines == ()


def test_the_other_engine_stands_in_where_one_is_missing(terms: Terms) -> None:
    read = Reader(Terms(terms.languages, terms.tessdata, ("tesseract",))).read(SLIDE)
    assert (read.engine, read.preferred) == ("tesseract", "rapidocr")


def test_english_comes_with_the_package(terms: Terms) -> None:
    assert importlib.metadata.version(tesseract.PACKAGE)
    assert (Path(terms.tessdata) / "eng.traineddata").stat().st_size > 1_000_000


@pytest.mark.parametrize("languages", ["xxq", "eng+xxq", "", "../eng", "eng+"])
def test_a_language_that_is_not_there_is_refused(languages: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"xxq|no language of Tesseract"):
        ocr.find_terms(languages, folder=tmp_path)


def test_languages_of_several_folders_are_brought_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terms: Terms
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "deu.traineddata").write_bytes((Path(terms.tessdata) / "eng.traineddata").read_bytes())
    monkeypatch.setenv("TESSDATA_PREFIX", str(own))
    found = ocr.find_terms("eng+deu", folder=tmp_path / "links")
    assert {file.name for file in Path(found.tessdata).iterdir()} == {"eng.traineddata", "deu.traineddata"}
    assert LINES[1] in Reader(Terms(found.languages, found.tessdata, ("tesseract",))).read(PAGE).text


def test_lost_spaces_are_found_in_the_gaps_between_letters() -> None:
    grey = np.full((20, 100), 255, np.uint8)
    spans = []
    for n, letter in enumerate("redcar"):
        left = 5 + n * 10 + (10 if n >= 3 else 0)  # ten columns of ground between "red" and "car"
        grey[4:16, left : left + 8] = 0
        spans.append((letter, float(left), float(left + 8)))
    box = (0.0, 0.0, 100.0, 20.0)
    assert [word for word, *_ in spaces.split_words("redcar", spans, grey, box)] == ["red", "car"]
    assert spaces.split_words("redcar", spans, grey, box)[1][1:] == (45.0, 73.0)
    assert [word for word, *_ in spaces.split_words("red car", spans[:4], grey, box)] == ["red", "car"], (
        "no places known"
    )
    closed = np.where(np.arange(100) % 10 < 8, 0, 255).astype(np.uint8)[None].repeat(20, 0)
    even = [(letter, n * 10.0, n * 10.0 + 8) for n, letter in enumerate("redcar")]
    assert [word for word, *_ in spaces.split_words("redcar", even, closed, box)] == ["redcar"]


def test_what_engines_make_of_textures_is_no_text() -> None:
    def line(text: str, confidence: float | None = None) -> Line:
        return Line(tuple(Word(word, 0, 1) for word in text.split()), (0, 0, 1, 1), confidence)

    assert ocr.legible([line("~ | _ ="), line("ae"), line("— — ii")]) == ()
    assert [one.text for one in ocr.legible([line("lighthouse 42"), line("|||"), line("sure", 0.2)])] == [
        "lighthouse 42"
    ]


@pytest.mark.parametrize(
    ("layer", "is_bad"),
    [("", False), ("Ordinary words, 42 of them.", False), ("\ufffd\ufffd\ufffd a", True), ("\ue001\ue002 \ue003x", True),
     ("Grüße, 東京, שלום", False), ("\x01\x02\x03ab", True)],
)  # fmt: skip
def test_a_broken_layer_is_told_from_a_foreign_one(layer: str, is_bad: bool) -> None:
    assert is_broken(layer) is is_bad


def test_a_layer_stays_in_front_and_is_not_repeated() -> None:
    assert with_print("Page 7", "PAGE 7\nThe lamp") == "Page 7\nThe lamp"
    assert with_print("", "The lamp") == "The lamp"
    assert with_print("\ufffd\ufffd\ufffd", "The lamp") == "The lamp"
    assert has_enough_text("x" * 60) and not has_enough_text("x" * 59) and not has_enough_text("\ufffd" * 80)


def test_lines_come_back_from_the_catalog_as_they_were() -> None:
    line = Line((Word("Grüße", 0.1, 0.25), Word("東京", 0.3, 0.4)), (0.1, 0.2, 0.4, 0.25), 0.987)
    assert recognised.from_bytes(recognised.to_bytes([line])) == [line]
    assert recognised.from_bytes(recognised.to_bytes([])) == []
    assert recognised.from_bytes(b"damaged") is None
    json.dumps(recognised.RecognisedText("tesseract", "1", "eng", line.text, [line]).record())


def test_rapidocr_is_asked_for_by_files_alone() -> None:
    import sys

    before = set(sys.modules)
    rapid.is_installed()
    assert "rapidocr" not in set(sys.modules) - before


def test_onnx_runtime_reports_nothing(tmp_path):
    """Its telemetry begins with a session file in the temporary folder, written when it is imported."""
    pytest.importorskip("rapidocr")
    code = "from mmsearch.media.ocr.rapid import RapidOCR; RapidOCR()"
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)
    assert not (tmp_path / ".ses").exists()
