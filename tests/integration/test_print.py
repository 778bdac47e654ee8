"""Print is read: scans and screenshots are found by their words, nothing is read twice, and nothing is lost on the way."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import mmsearch
from ingest import print_pass
from ingest.pipeline import Progress, ingest_paths
from mmsearch.errors import ConfigError
from mmsearch.items import ItemDraft
from mmsearch.library import Library
from mmsearch.media import load_pymupdf
from tests import samples
from tests.integration.test_migrations import lay_out

pytest.importorskip("pymupdf")
LINES = (
    "Quarterly dredging budget of the harbour office",
    "The committee replaced the eastern lighthouse lamp",
    "Invoice for seventeen copper kettles",
)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("MMSEARCH_OCR", "true")
    with mmsearch.open(tmp_path / "library", create=True, model="toy") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "files"
    made.mkdir()
    return made


def printed(*lines: str, size: tuple[int, int] = (1240, 1754), ground: int = 250, ink: int = 20) -> Image.Image:
    image = Image.new("L", size, ground)
    draw = ImageDraw.Draw(image)
    for n, line in enumerate(lines * (6 if size[1] > size[0] else 1)):
        draw.text((100, 120 + n * 80), line, font=ImageFont.load_default(38), fill=ink)
    return image.convert("RGB")


def scan(path: Path, *lines: str, pages: int = 1) -> Path:
    """A PDF of pictures: no text layer. Each page after the first has a number of its own in words."""
    numbers = ("", "alpha", "bravo", "charlie", "delta", "echo", "foxtrot")
    first, *others = [printed(*lines, *([f"page {numbers[n]}"] if n else [])) for n in range(pages)]
    first.save(path, "PDF", resolution=150, save_all=True, append_images=others)
    return path


def words_found(library: Library, query: str) -> list[str]:
    ids = library.catalog.text.match(query, 10, mmsearch.items.KINDS).ids
    return sorted(item.path.name for item in library.catalog.items.of(ids))


def read_count(library: Library) -> int:
    with closing(sqlite3.connect(library.folder / "catalog.sqlite3")) as database:
        return database.execute("SELECT count(*) FROM recognised").fetchone()[0]


def test_a_scan_is_found_by_its_print_and_its_vector_holds_it(library: Library, folder: Path) -> None:
    scan(folder / "scan.pdf", *LINES)
    blind = ingest_paths(library, [folder], ocr=False)
    assert not blind.print_read and words_found(library, "lighthouse") == []
    (before,) = [item for item, _ in all_items(library)]
    _, former = library.catalog.vectors.of([before.id], library.model_key)

    stages: list[str] = []
    report = ingest_paths(library, [folder], progress=lambda now: stages.append(now.stage))
    assert report.print_read == {"page": 1} and report.print_left == 0 and "print of 1 page read" in report.sentence()
    assert "print" in stages
    (hit,) = library.search("lighthouse lamp", k=1, min_relevance=0)
    assert hit.item.id == before.id and hit.item.text_source == "ocr" and "text" in hit.matched_by
    assert hit.record()["meta"]["text_source"] == "ocr"
    assert words_found(library, "ighthous") == ["scan.pdf"], "the trigrams hold it too"

    read = library.catalog.print.of(hit.item)
    assert read is not None and read.engine == "tesseract" and read.languages == "eng" and read.version
    line = next(line for line in read.lines or () if "lighthouse" in line.text)
    word = next(word for word in line.words if word.text == "lighthouse")
    left, top, right, bottom = line.box
    assert 0.05 < left < word.left < word.right < right < 1 and 0 < top < bottom < 1
    assert (top + bottom) / 2 == pytest.approx((120 + 80 + 20) / 1754, abs=0.02), "the second line of the page"

    _, now = library.catalog.vectors.of([before.id], library.model_key)
    assert not np.allclose(former, now), "computed again from picture and text"
    assert library.stores.of("page").vectors(np.array([before.id])) == pytest.approx(now, abs=1e-3), (
        "the store followed"
    )
    again = ingest_paths(library, [folder])
    assert not again.print_read and not again.without_print and "nothing to do" in again.sentence()


def all_items(library: Library) -> list[tuple[mmsearch.items.Item, str]]:
    return [
        (item, source.path.name)
        for source in library.catalog.sources.rows()
        for item in library.catalog.items.of_source(source.id)
    ]


def test_a_screenshot_is_read_and_a_photo_is_not(library: Library, folder: Path) -> None:
    printed("Deployment dashboard", "rollout failed", "retry budget", size=(1280, 720), ground=30, ink=235).save(
        folder / "screen.png"
    )
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (60, 80, 3), np.uint8)).resize((800, 600)).save(folder / "photo.jpg")
    report = ingest_paths(library, [folder])
    assert report.print_read == {"image": 1} and not report.without_print, "the photo is not even looked at twice"
    assert words_found(library, "rollout") == ["screen.png"]


def test_a_text_layer_is_never_replaced(library: Library, folder: Path) -> None:
    words = "This page has a text layer of its own\nabout penguins and their\nlong way to the open sea"
    samples.pdf(folder / "layer.pdf", [words])
    stamped = scan(folder / "stamped.pdf", *LINES)
    with load_pymupdf().open(stamped) as document:
        document[0].insert_text((20, 20), "Received 4711", fontsize=8)
        document.save(folder / "stamped2.pdf")
    stamped.unlink()
    ingest_paths(library, [folder])
    texts = {name: item for item, name in all_items(library)}
    assert texts["layer.pdf"].text.split() == words.split() and texts["layer.pdf"].text_source == "layer"
    stamp = texts["stamped2.pdf"].text.removeprefix("stamped\n")  # the title that Pillow gave it
    assert stamp.startswith("Received 4711\n") and "lighthouse" in stamp
    assert texts["stamped2.pdf"].text.count("Received") == 1


def test_nothing_is_read_twice_wherever_it_lies(library: Library, folder: Path) -> None:
    scan(folder / "scan.pdf", *LINES)
    assert ingest_paths(library, [folder]).print_read == {"page": 1}
    (folder / "sub").mkdir()
    shutil.move(folder / "scan.pdf", folder / "sub" / "renamed.pdf")
    shutil.copy(folder / "sub" / "renamed.pdf", folder / "copy.pdf")
    report = ingest_paths(library, [folder])
    assert not report.print_read and read_count(library) == 1
    assert words_found(library, "lighthouse") == ["copy.pdf", "renamed.pdf"]
    for name in ("copy.pdf", "sub/renamed.pdf"):
        (folder / name).unlink()
    ingest_paths(library, [folder], prune=True)
    library.compact()
    assert read_count(library) == 0, "what was read in a file that is gone for good goes with it"


def test_another_model_gets_the_text_that_was_read(library: Library, folder: Path, tmp_path: Path) -> None:
    scan(folder / "scan.pdf", *LINES)
    ingest_paths(library, [folder])
    with closing(sqlite3.connect(library.folder / "catalog.sqlite3")) as database:
        database.execute("UPDATE sources SET state = 'removed'")
        database.execute("DELETE FROM items")
        database.commit()
    report = ingest_paths(library, [folder])
    assert report.items == {"page": 1} and not report.print_read and read_count(library) == 1
    assert words_found(library, "lighthouse") == ["scan.pdf"]


def test_an_interrupted_pass_goes_on(library: Library, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan(folder / "scan.pdf", *LINES, pages=4)
    monkeypatch.setattr(print_pass, "BATCH_ITEMS", 1)

    def stop(now: Progress) -> None:
        if now.stage == "print" and now.print_done >= 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("ingest.pipeline.PROGRESS_INTERVAL_S", 0.0)
    monkeypatch.setattr("ingest.pipeline.PROGRESS_SHARE", 1.0)
    first = ingest_paths(library, [folder], progress=stop)
    assert first.interrupted and first.items == {"page": 4}, "all pages can be found by sight"
    done = first.print_read["page"]
    assert 1 <= done < 4 and first.print_left == 4 - done == 4 - read_count(library)
    assert "still to be read" in first.sentence()
    second = ingest_paths(library, [folder])
    assert second.print_read == {"page": 4 - done} and words_found(library, "charlie") == ["scan.pdf"]


def test_what_cannot_be_read_is_noted_and_tried_again_when_asked(
    library: Library, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan(folder / "scan.pdf", *LINES)
    shorten_deadline(monkeypatch, 0.05)
    report = ingest_paths(library, [folder])
    assert report.items == {"page": 1} and not report.failures, "the page itself is sound"
    (failure,) = report.print_failures
    assert failure.path.name == "scan.pdf" and failure.type == "DecodeTimeout" and "page 1" in failure.reason
    (row,) = library.catalog.print.errors()
    assert row.path.name == "scan.pdf" and row.reason.startswith("the print of page 1 was not read")
    monkeypatch.undo()
    monkeypatch.setenv("MMSEARCH_OCR", "true")
    assert not ingest_paths(library, [folder]).print_read, "not tried again by itself"
    assert ingest_paths(library, [folder], retry_failed=True).print_read == {"page": 1}
    assert library.catalog.print.errors() == [] and read_count(library) == 1


def shorten_deadline(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Of tasks that read print."""
    from ingest.decode import Task

    real: Callable = Task.deadline_s
    monkeypatch.setattr(Task, "deadline_s", lambda task, limits: seconds if task.is_print else real(task, limits))


def test_a_picture_that_kills_the_engine_costs_only_itself(
    library: Library, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that fails in the worker: here because its data are missing."""
    scan(folder / "scan.pdf", *LINES)
    from mmsearch.media.ocr import Terms

    monkeypatch.setattr(
        "ingest.pipeline.find_terms", lambda languages, folder: Terms(languages, "/nowhere", ("tesseract",))
    )
    report = ingest_paths(library, [folder])
    (failure,) = report.print_failures
    assert failure.type == "CorruptFile" and "text recognition failed" in failure.reason
    assert report.items == {"page": 1} and words_found(library, "scan") == ["scan.pdf"]


def test_a_language_without_data_is_named_before_anything_is_done(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("MMSEARCH_OCR", "true")
    monkeypatch.setenv("MMSEARCH_OCR_LANGUAGES", "eng+xxz")
    scan(folder / "scan.pdf", *LINES)
    with (
        mmsearch.open(tmp_path / "library", create=True, model="toy") as library,
        pytest.raises(ConfigError, match=r"'xxz'.*apt-get install tesseract-ocr-xxz.*--no-ocr"),
    ):
        ingest_paths(library, [folder])


def test_an_older_library_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fixtures.libraries import record

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("MMSEARCH_OCR", "true")
    former = lay_out(sorted(Path(record.__file__).parent.glob("*.zip"))[0], tmp_path)
    files = former.folder / "files"
    with mmsearch.open(former.library, model="toy") as library:
        sources = {item.text_source for item, _ in all_items(library) if item.text}
        assert sources <= {"layer", "subtitle"} and sources
        held = {item.id: item.text for item, _ in all_items(library)}
        ingest_paths(library, [files])
        kept = {item.id: item.text for item, _ in all_items(library) if item.id in held and item.text_source != "ocr"}
        assert kept.items() <= held.items() and len(kept) > len(held) / 2
        assert library.catalog.print.waiting([], languages="eng", engines=("tesseract", "rapidocr")) == []


def test_what_nobody_judged_is_looked_at(library: Library, folder: Path) -> None:
    """As a migration leaves it: a scan, a page with text, a photo and a screenshot of which nothing is known."""
    scan(folder / "scan.pdf", *LINES)
    samples.pdf(
        folder / "typed.pdf", ["Revenue grew\nin the third quarter\nby a fifth, and so did the\ncosts of the harbour"]
    )
    Image.new("RGB", (640, 480), (200, 30, 30)).save(folder / "red.png")
    printed("Deployment dashboard", "rollout failed", size=(1280, 720)).save(folder / "screen.png")
    ingest_paths(library, [folder], ocr=False)
    with closing(sqlite3.connect(library.folder / "catalog.sqlite3")) as database:
        database.execute("UPDATE items SET has_print = NULL")
        database.commit()
    report = ingest_paths(library, [folder])
    assert report.print_read == {"page": 1, "image": 1} and report.without_print == 1, "the red picture"
    assert not report.items and "1 more holds no print" in report.sentence()
    assert words_found(library, "rollout") == ["screen.png"] and words_found(library, "quarterly") == ["scan.pdf"]


def test_the_commands_say_what_was_recognised(tmp_path: Path, folder: Path) -> None:
    scan(folder / "scan.pdf", *LINES)
    environment = os.environ | {
        "MMSEARCH_MODEL": "toy",
        "MMSEARCH_OCR": "true",
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }
    environment["MMSEARCH_LIBRARY"] = str(tmp_path / "library")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "mmsearch", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)

    assert "print" not in run("ingest", str(folder), "--no-ocr").stderr
    ingested = run("ingest", str(folder))
    assert ingested.returncode == 0 and "print of 1 page read" in ingested.stderr
    (hit,) = json.loads(run("query", "lighthouse", "--format", "json").stdout)
    assert hit["meta"]["text_source"] == "ocr" and "lighthouse" in hit["snippet"]
    shown = run("show", str(hit["id"])).stdout
    assert "recognised by tesseract" in shown and LINES[1] in shown
    record = json.loads(run("show", str(hit["id"]), "--json").stdout)
    assert record["text_source"] == "ocr" and len(record["recognised"]["lines"][0]["box"]) == 4


def test_no_reader_starts_recognition_by_itself(tmp_path: Path) -> None:
    """PyMuPDF 2.0 can recognise text by itself in some calls; what reads text layers must not."""
    from ingest import readers

    source = mmsearch.items.Source(scan(tmp_path / "scan.pdf", *LINES), "0" * 64, 1, 1)
    budget = {"page": 31_360, "image": 15_680, "clip": 12_544}
    (draft,) = readers.read_items(source, budget)  # type: ignore[arg-type]
    assert isinstance(draft, ItemDraft) and draft.text == "" and draft.text_source is None and draft.has_print
