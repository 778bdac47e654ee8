"""Text layers as real files have them, from the file to the hit and its snippet."""

from __future__ import annotations

from pathlib import Path

import pymupdf
import pytest

import mmsearch
from ingest.pipeline import ingest_paths

CASES = Path(__file__).parents[3] / "shared" / "cases"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with mmsearch.open(tmp_path / "library", create=True, model="toy") as opened:
        yield opened


def found(library: mmsearch.Library, query: str, **options: object) -> dict[str, str]:
    """File name and snippet of what is found by words."""
    return {hit.path.name: hit.snippet for hit in library.search(query, mode="text", **options)}


def test_text_layers_of_real_files(library: mmsearch.Library) -> None:
    names = ["letter.pdf", "ArabicCIDTrueType.pdf", "issue15690.pdf", "XiaoBiaoSong.pdf"]
    if not all((CASES / name).exists() for name in names):
        pytest.skip(f"the sample files are not in {CASES}")
    report = ingest_paths(library, [CASES / name for name in names], jobs=1, ocr=False)
    assert report.files == 4 and not report.failures
    for query, name, shown in (
        ("employees", "letter.pdf", "All of the employees attended"),
        ("scientific", "letter.pdf", "The scientific office"),
        ("difficult scientific", "letter.pdf", "scientific office"),
        ('"flood insurance"', "letter.pdf", "flood insurance"),
        ('"information evening"', "letter.pdf", "information evening"),
        ("الخطوط العربية", "ArabicCIDTrueType.pdf", "انواع الخطوط العربية"),
        ("polysaccharide", "issue15690.pdf", "Hedysari polysaccharide by"),
        ("ｐｏｌｙｓａｃｃｈａｒｉｄｅ", "issue15690.pdf", "polysaccharide"),
        ("红军", "XiaoBiaoSong.pdf", "关于红军作战的原则"),
    ):
        hits = found(library, query, min_relevance=0)
        assert list(hits) == [name], query
        assert shown in hits[name], query
    for query in ("天气", "🍕"):
        assert found(library, query) == {}, query
    assert "letter.pdf" not in found(library, "office -employees", min_relevance=0)
    assert "letter.pdf" not in found(library, "office -“flood insurance”", min_relevance=0)


def test_names_and_pages_in_other_spellings(library: mmsearch.Library, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    for name, words in (
        ("日本 旅行.pdf", "tickets"),
        ("cafe\u0301.pdf", "menu"),
        ("street.pdf", "Hauptstraße 5, well-\nknown"),
    ):
        document = pymupdf.open()
        document.new_page(width=300, height=200).insert_text((20, 60), words)
        document.save(files / name)
    ingest_paths(library, [files], jobs=1, ocr=False)
    assert list(found(library, "日本旅行")) == ["日本 旅行.pdf"]
    assert list(found(library, "cafe")) == list(found(library, "café")) == ["cafe\u0301.pdf"]
    assert found(library, "hauptstrasse") == {"street.pdf": "Hauptstraße 5, well-known"}
    assert list(found(library, "wellknown")) == list(found(library, "well-known")) == ["street.pdf"]


def test_a_document_of_blank_pages_is_found_by_its_name(library: mmsearch.Library, tmp_path: Path) -> None:
    document = pymupdf.open()
    document.new_page()
    document.new_page()
    document.save(tmp_path / "empty ledger.pdf")
    report = ingest_paths(library, [tmp_path / "empty ledger.pdf"], jobs=1, ocr=False)
    assert dict(report.items) == {"page": 1} and "1 page added" in report.sentence()
    assert found(library, "ledger") == {"empty ledger.pdf": ""}
    assert ingest_paths(library, [tmp_path / "empty ledger.pdf"], jobs=1, ocr=False).unchanged == 1


def test_folders_below_the_ingested_one_are_found(library: mmsearch.Library, tmp_path: Path) -> None:
    for folder in ("2019 Lisbon/day 1", "Porto", "Porto/Lisbon/a/b/c"):
        (tmp_path / "files" / folder).mkdir(parents=True)
        document = pymupdf.open()
        document.new_page().insert_text((20, 60), f"ticket {folder}".split("/")[0][:6])
        document.save(tmp_path / "files" / folder / f"scan {folder.count('/')}.pdf")
    ingest_paths(library, [tmp_path / "files"], jobs=1, ocr=False)
    assert list(found(library, "Lisbon", min_relevance=0)) == ["scan 1.pdf", "scan 4.pdf"], "the nearer folder first"
    assert list(found(library, "Porto", min_relevance=0)) == ["scan 0.pdf", "scan 4.pdf"]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ('"die strasse nach koln"', "road.pdf"),
        ('"Straße nach Köln"', "road.pdf"),
        ('"wellknown plants"', "plants.pdf"),
        ('"lodz fabryczna"', "station.pdf"),
        ('"nach die strasse"', None),
        ('"fabryczna lodz"', None),
    ],
)
def test_phrases_in_other_spellings(library: mmsearch.Library, tmp_path: Path, query: str, name: str | None) -> None:
    (tmp_path / "files").mkdir()
    for file, words in (
        ("road.pdf", "Die Straße nach Köln ist gesperrt"),
        ("plants.pdf", "of well-known plants"),
        ("station.pdf", "Łódź Fabryczna"),
    ):
        document_of(tmp_path / "files" / file, words)
    ingest_paths(library, [tmp_path / "files"], jobs=1, ocr=False)
    assert list(found(library, query)) == ([] if name is None else [name])


def document_of(path: Path, words: str) -> None:
    import pymupdf

    with pymupdf.open() as document:
        document.new_page().insert_htmlbox((50, 50, 500, 200), words)
        document.save(path)
