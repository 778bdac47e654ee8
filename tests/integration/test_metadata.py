"""From a file's metadata to the hit: what people wrote of it is found by words, given to the model, and shown."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from typer.testing import CliRunner

import mmsearch
from ingest import readers
from ingest.pipeline import ingest_paths
from ingest.readers import Reading
from mmsearch.cli import app
from mmsearch.items import EmbedInput, Item, Source
from mmsearch.library import Library
from mmsearch.media import load_pymupdf
from tests import samples
from tests.integration.test_print import LINES, printed
from tests.integration.test_text_layer import CASES
from tests.unit.test_descriptions import bag, packet
from tests.unit.test_readers import BUDGET
from ui import detail


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with mmsearch.open(tmp_path / "library", create=True, model="toy") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "files"
    made.mkdir()
    return made


@pytest.fixture
def embedded(library: Library, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that the model is given, in order."""
    texts: list[str] = []
    real = library.embedder.encode_documents

    def encode(inputs: Sequence[EmbedInput]) -> np.ndarray:
        texts.extend(one.text for one in inputs)
        return real(inputs)

    monkeypatch.setattr(library.embedder, "encode_documents", encode)
    return texts


def ingest(library: Library, *paths: Path, **options: object) -> mmsearch.IngestReport:
    return ingest_paths(library, paths, jobs=1, **{"ocr": False, **options})  # type: ignore[arg-type]


def found(library: Library, query: str) -> list[tuple[str, str]]:
    """(name and place, snippet) of what is found by words."""
    hits = library.search(query, mode="text", min_relevance=0)
    return [(f"{hit.path.name} {hit.item.place}".strip(), hit.snippet) for hit in hits]


def items(library: Library) -> list[Item]:
    return [item for row in library.catalog.sources.rows() for item in library.catalog.items.of_source(row.id)]


def captioned(path: Path, caption: str, *, colour: tuple[int, int, int] = samples.RED, **save: object) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = caption.encode()
    return samples.photo(path, colour, exif=exif, **save)


# Pictures


def test_a_photo_is_found_by_what_was_written_of_it(library: Library, folder: Path, embedded: list[str]) -> None:
    xmp = packet(
        bag("dc:subject", "tomato") + bag("Iptc4xmpExt:PersonInImage", "Hilde Braun"),
        "xmp:Rating='4' photoshop:City='Lisboa' aux:Lens='EF-S18-55mm'",
    )
    captioned(folder / "IMG_1.jpg", "Möwen über dem Hafen", xmp=xmp)
    captioned(folder / "IMG_2.jpg", "OLYMPUS DIGITAL CAMERA", colour=samples.BLUE)
    ingest(library, folder)
    for query in ("mowen hafen", "tomatoes", "Hilde Braun", "Lisboa"):
        ((name, snippet),) = found(library, query)
        assert name == "IMG_1.jpg" and snippet.startswith("Möwen über dem Hafen tomato Hilde Braun"), query
    assert found(library, "olympus") == []
    assert sorted(embedded) == ["", "Möwen über dem Hafen tomato Hilde Braun Lisboa"]
    one = next(item for item in items(library) if item.path.name == "IMG_1.jpg")
    assert one.text_source == "metadata" and one.description == one.text
    wanted = {
        "caption": "Möwen über dem Hafen",
        "keywords": ["tomato"],
        "people": ["Hilde Braun"],
        "rating": 4,
        "lens": "EF-S18-55mm",
    }
    assert wanted.items() <= one.meta.items() and one.meta["place"] == "Lisboa"


def test_print_that_is_read_later_stands_beside_the_caption(
    library: Library, folder: Path, embedded: list[str]
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "Slide about the harbour master"
    printed(*LINES).save(folder / "slide.jpg", exif=exif)
    ingest(library, folder)
    ingest(library, folder, ocr=True)
    (item,) = items(library)
    assert item.text.startswith("Slide about the harbour master\n") and "lighthouse" in item.text
    assert item.text_source == "ocr" and item.description == "Slide about the harbour master"
    assert embedded[-1].startswith("Slide about the harbour master ") and "lighthouse" in embedded[-1]
    assert [name for name, _ in found(library, "harbour master lighthouse")] == ["slide.jpg"]


def test_a_multi_page_tiff_has_its_words_once(library: Library, folder: Path) -> None:
    pages = [Image.new("RGB", (64, 48), colour) for colour in (samples.RED, samples.GREEN)]
    pages[0].save(folder / "fax.tiff", save_all=True, append_images=pages[1:], description="Order of ladders")
    ingest(library, folder)
    assert [name for name, _ in found(library, "ladders")] == ["fax.tiff p.1"]


def test_an_animation_has_its_words_at_its_first_clip(library: Library, folder: Path) -> None:
    frames = [Image.new("RGB", (64, 48), colour) for colour in (samples.RED, samples.GREEN, samples.BLUE)]
    frames[0].save(
        folder / "a.gif", save_all=True, append_images=frames[1:], duration=4000, comment=b"The last steam train"
    )
    ingest(library, folder)
    assert len(items(library)) > 1
    ((name, _),) = found(library, "steam train")
    assert name.startswith("a.gif 00:00:00–")


def test_megabytes_of_metadata_do_not_blow_up_the_library(library: Library, folder: Path) -> None:
    many = bag("dc:subject", *(f"keyword{n} {'x' * 60}" for n in range(30_000)))
    Image.new("RGB", (64, 48), samples.RED).save(folder / "p.webp", xmp=packet(many))
    assert (folder / "p.webp").stat().st_size > 2_000_000
    before = (library.folder / "catalog.sqlite3").stat().st_size
    assert not ingest(library, folder).failures
    (item,) = items(library)
    assert len(item.text) < 20_000 and len(json.dumps(dict(item.meta))) < 20_000
    assert (library.folder / "catalog.sqlite3").stat().st_size - before < 200_000


# Sidecars


def sidecar(path: Path, *keywords: str) -> Path:
    path.write_bytes(packet(bag("dc:subject", *keywords)))
    return path


def test_sidecars_are_read_and_read_again_when_they_change(library: Library, folder: Path, embedded: list[str]) -> None:
    for name, colour in (("a.jpg", samples.RED), ("b.png", samples.GREEN), ("c.jpg", samples.BLUE)):
        samples.photo(folder / name, colour)
    captioned(folder / "a.jpg", "A boat")
    sidecar(folder / "a.jpg.xmp", "harbour")
    sidecar(folder / "B.XMP", "lighthouse")
    sidecar(folder / "another.xmp", "nothing")
    ingest(library, folder)
    assert found(library, "harbour") == [("a.jpg", "A boat harbour")]
    assert [name for name, _ in found(library, "lighthouse")] == ["b.png"]
    assert found(library, "nothing") == []
    ids = {item.path.name: item.id for item in items(library)}
    assert ingest(library, folder).unchanged == 3

    sidecar(folder / "c.xmp", "pumpkin")
    sidecar(folder / "a.jpg.xmp", "sunset")
    (folder / "B.XMP").unlink()
    embedded.clear()
    report = ingest(library, folder)
    assert (report.unchanged, report.items, report.failures) == (0, {"image": 3}, [])
    assert [name for name, _ in found(library, "pumpkin")] == ["c.jpg"]
    assert [name for name, _ in found(library, "sunset boat")] == ["a.jpg"]
    assert found(library, "harbour") == [] and found(library, "lighthouse") == []
    assert {item.path.name: item.id for item in items(library)} == ids
    assert sorted(embedded) == ["", "A boat sunset", "pumpkin"]
    assert ingest(library, folder).unchanged == 3


def test_a_copy_has_its_own_sidecar(library: Library, folder: Path) -> None:
    samples.photo(folder / "a.jpg")
    sidecar(folder / "a.xmp", "harbour")
    ingest(library, folder)
    (folder / "copies").mkdir()
    (folder / "copies" / "b.jpg").write_bytes((folder / "a.jpg").read_bytes())
    sidecar(folder / "copies" / "b.xmp", "pumpkin")
    ingest(library, folder)
    assert [name for name, _ in found(library, "pumpkin")] == ["b.jpg"]
    assert [name for name, _ in found(library, "harbour")] == ["a.jpg"]
    assert ingest(library, folder).unchanged == 2


def test_a_sidecar_that_cannot_be_read_costs_nothing(library: Library, folder: Path) -> None:
    samples.photo(folder / "a.jpg")
    (folder / "a.xmp").mkdir()
    (folder / "a.jpg.xmp").write_bytes(b"<x:xmpmeta")
    assert not ingest(library, folder).failures and len(items(library)) == 1


def takeout(path: Path, caption: str, taken: datetime = datetime(2015, 6, 1, 10, tzinfo=UTC), **more: object) -> Path:
    told = {
        "title": "IMG.jpg",
        "description": caption,
        "creationTime": {"timestamp": "1600000000"},
        "photoTakenTime": {"timestamp": str(round(taken.timestamp()))},
        "geoData": {"latitude": 0.0, "longitude": 0.0},
    }
    path.write_text(json.dumps({**told, **more}), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("photo", "name"),
    [
        ("a.jpg", "a.jpg.json"),
        ("a.jpg", "a.jpg.supplemental-metadata.json"),
        ("a.jpg", "a.jpg.supple.json"),
        ("a.JPG", "A.jpg.s.json"),
        ("a(1).jpg", "a.jpg(1).json"),
        ("a(1).jpg", "a.jpg.supplemental-metadata(1).json"),
        ("a-edited.jpg", "a.jpg.json"),
        ("a" * 60 + ".jpg", "a" * 46 + ".json"),
        ("clip.mp4", "clip.mp4.supplemental-metadata.json"),
    ],
)
def test_what_google_takeout_writes_is_read(library: Library, folder: Path, photo: str, name: str) -> None:
    if photo.endswith(".mp4"):
        samples.film(folder / photo, "libx264")
    else:
        samples.photo(folder / photo)
    geo = {"latitude": 50.08, "longitude": 14.42}
    takeout(folder / name, "Akkordeon unter der Brücke", people=[{"name": "Wenzel Novak"}], geoData=geo)
    ingest(library, folder)
    (item, *_) = items(library)
    assert item.text.splitlines() == ["Akkordeon unter der Brücke", "Wenzel Novak"]
    assert (item.meta["people"], item.meta["gps"]) == (["Wenzel Novak"], [50.08, 14.42])
    assert (item.meta["captured_at"], item.meta["date_source"]) == ("2015-06-01T10:00:00+00:00", "takeout")
    assert ingest(library, folder).unchanged == 1

    takeout(folder / name, "", datetime(2016, 1, 2, tzinfo=UTC))
    ingest(library, folder)
    (item, *_) = items(library)
    assert (item.text, item.meta["captured_at"]) == ("", "2016-01-02T00:00:00+00:00")


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "{",
        "[]",
        '"photoTakenTime"',
        '{"photoTakenTime": 3, "people": [3], "geoData": "x"}',
        "[" * 100_000,
        '{"photoTakenTime": {"timestamp": "1e400"}, "description": {"a": 1}, "geoData": {"latitude": NaN, "longitude": 1}}',
    ],
    ids=["empty", "cut", "list", "text", "other types", "nested", "other values"],
)
def test_other_and_damaged_json_costs_nothing(library: Library, folder: Path, broken: str) -> None:
    samples.photo(folder / "a.jpg")
    (folder / "a.jpg.json").write_text(broken)
    assert not ingest(library, folder).failures
    (item,) = items(library)
    assert (item.text, item.meta["date_source"]) == ("", "file")


def test_the_date_in_a_sidecar(library: Library, folder: Path) -> None:
    """An XMP sidecar is as good as XMP in the file; what Takeout says counts where nothing else does."""
    dated = packet("<exif:DateTimeOriginal>2012-03-04T05:06:07</exif:DateTimeOriginal>")
    for name in ("a.jpg", "IMG-20190305-WA0001.jpg", "IMG-20190306-WA0002.jpg"):
        samples.photo(folder / name)
    samples.camera_photo(folder / "own.jpg")
    for name in ("a.xmp", "IMG-20190305-WA0001.xmp", "own.xmp"):
        (folder / name).write_bytes(dated)
    takeout(folder / "IMG-20190306-WA0002.jpg.json", "")
    ingest(library, folder)
    assert {item.path.name: (item.meta["captured_at"], item.meta["date_source"]) for item in items(library)} == {
        "a.jpg": ("2012-03-04T05:06:07", "xmp"),
        "IMG-20190305-WA0001.jpg": ("2012-03-04T05:06:07", "xmp"),
        "IMG-20190306-WA0002.jpg": ("2019-03-06", "name"),
        "own.jpg": ("2024-05-06T07:08:09+02:00", "original"),
    }
    assert ingest(library, folder).unchanged == 4


# Videos


def test_a_video_is_found_by_its_title_and_comment(library: Library, folder: Path, embedded: list[str]) -> None:
    tags = {
        "title": "Grandma turns eighty",
        "comment": "Filmed at the lake",
        "keywords": "birthday; cake",
        "com.apple.quicktime.location.ISO6709": "+27.5916+086.5640+8850/",
        "com.apple.quicktime.make": "Apple",
        "com.apple.quicktime.model": "iPhone 12",
        "encoder": "HandBrake",
    }
    samples.tagged_video(folder / "a.mp4", samples.scenes(folder / "plain.mp4", [2.0, 2.0, 2.0]), tags)
    (folder / "plain.mp4").unlink()
    ingest(library, folder)
    clips = items(library)
    assert len(clips) > 1
    for query in ("grandma eighty", "filmed lake", "birthday"):
        ((name, _),) = found(library, query)
        assert name.startswith("a.mp4 00:00:00"), query
    assert embedded[0] == "Grandma turns eighty Filmed at the lake birthday, cake" and set(embedded[1:]) == {""}
    first, later = clips[0].meta, clips[-1].meta
    assert first["gps"] == later["gps"] == [27.5916, 86.564] and later["camera"] == "Apple iPhone 12"
    assert (
        first["caption"] == "Filmed at the lake" and "caption" not in later and later["title"] == "Grandma turns eighty"
    )


def test_subtitles_that_come_later_stand_beside_the_title(library: Library, folder: Path) -> None:
    samples.tagged_video(folder / "a.mkv", samples.scenes(folder / "b.mp4", [2.5]), {"title": "Grandma turns eighty"})
    (folder / "b.mp4").unlink()
    ingest(library, folder)
    (folder / "a.srt").write_text("1\n00:00:00,000 --> 00:00:02,000\nBlow out the candles\n")
    ingest(library, folder)
    (item,) = items(library)
    assert item.text == "Grandma turns eighty\nBlow out the candles" and item.text_source == "subtitle"
    assert [name for name, _ in found(library, "grandma candles")] == ["a.mkv 00:00:00–00:00:02"]


# Documents


def form(path: Path) -> Path:
    pymupdf = load_pymupdf()
    with pymupdf.open() as document:
        for words in (None, "Application form", "Second page"):
            page = document.new_page(width=300, height=200)
            if words is None:
                continue
            page.insert_text((20, 40), words)
            field = pymupdf.Widget()
            field.field_type, field.field_name = pymupdf.PDF_WIDGET_TYPE_TEXT, f"name on {words}"
            field.field_value, field.rect = "Rumpelstiltskin", pymupdf.Rect(20, 60, 200, 80)
            page.add_widget(field)
            document.xref_set_key(field.xref, "AP", "null")  # as in forms that leave drawing the values to the viewer
        document[2].add_text_annot((200, 20), "Ask the notary about clause seven")
        document.set_metadata(
            {
                "title": "Microsoft Word - x.doc",
                "author": "Ada Lovelace",
                "subject": "Leasing a lighthouse",
                "keywords": "rent, deposit",
                "producer": "Acrobat Distiller",
            }
        )
        document.save(path)
    return path


def test_a_pdf_is_found_by_author_subject_keywords_notes_and_form(
    library: Library, folder: Path, embedded: list[str]
) -> None:
    form(folder / "form.pdf")
    ingest(library, folder)
    for query, place in (
        ("lovelace", "p.2"),
        ("leasing lighthouse", "p.2"),
        ("deposit", "p.2"),
        ("notary clause", "p.3"),
    ):
        assert [name for name, _ in found(library, query)] == [f"form.pdf {place}"], query
    assert {name for name, _ in found(library, "rumpelstiltskin")} == {"form.pdf p.2", "form.pdf p.3"}
    assert found(library, "distiller") == found(library, "microsoft") == []
    assert embedded == [
        "Leasing a lighthouse rent, deposit Ada Lovelace Application form Rumpelstiltskin",
        "Second page Rumpelstiltskin Ask the notary about clause seven",
    ]
    first, second = items(library)
    assert first.meta["author"] == second.meta["author"] == "Ada Lovelace"
    assert (
        first.meta["keywords"] == ["rent", "deposit"] and "keywords" not in second.meta and "title" not in second.meta
    )


def test_a_document_that_is_read_from_its_second_page_on_keeps_its_words_where_they_are(folder: Path) -> None:
    path = form(folder / "form.pdf")
    status = path.stat()
    source = Source(path, "0" * 64, status.st_size, status.st_mtime_ns)
    said = {
        first: [
            draft.description for draft in readers.read_items(source, {}, reading=Reading(BUDGET, first_ordinal=first))
        ]
        for first in (0, 1, 2)
    }
    assert said[0] == said[1] and said[0][0].startswith("Leasing a lighthouse\n")
    assert said[2] == said[0][1:]


def test_xmp_of_a_pdf(library: Library, folder: Path) -> None:
    with load_pymupdf().open() as document:
        document.new_page().insert_text((20, 40), "A page")
        document.set_xml_metadata(
            packet(bag("dc:title", "The lease", kind="Alt") + bag("dc:subject", "lighthouse")).decode()
        )
        document.save(folder / "a.pdf")
    ingest(library, folder)
    assert [name for name, _ in found(library, "lease lighthouse")] == ["a.pdf p.1"]


def test_show_names_what_is_known(library: Library, folder: Path) -> None:
    xmp = packet(bag("dc:subject", "tomato", "boat"), "xmp:Rating='4' photoshop:City='Lisboa' aux:Lens='EF-S18-55mm'")
    captioned(folder / "a.jpg", "A boat", xmp=xmp)
    ingest(library, folder)
    (item,) = items(library)
    command = [sys.executable, "-P", "-m", "mmsearch", "show", str(item.id), "--library", str(library.folder)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout.splitlines()
    for line in ("caption: A boat", "keywords: tomato, boat", "place: Lisboa", "rating: 4", "lens: EF-S18-55mm"):
        assert line in said
    facts = detail._facts(item)
    wanted = {
        "Caption": "A boat",
        "Keywords": "tomato, boat",
        "Place": "Lisboa",
        "Rating": "★★★★",
        "Lens": "EF-S18-55mm",
    }
    assert wanted.items() <= facts.items()


# Attachments

INVOICE = b"""<?xml version="1.0"?><!-- draft --><Invoice><Item>aluminium ladder</Item><Note>fish &amp; chips</Note></Invoice>"""


def with_attachments(path: Path, files: dict[str, bytes], pinned: dict[str, bytes] | None = None) -> Path:
    with load_pymupdf().open() as document:
        for number in range(2):
            document.new_page(width=300, height=200).insert_text((20, 40), f"Cover {number}")
        for name, content in files.items():
            document.embfile_add(name, content, filename=name, desc="")
        for name, content in (pinned or {}).items():
            document[1].add_file_annot((250, 20), content, name)
        document.save(path)
    return path


def test_what_is_embedded_in_a_pdf_is_found(library: Library, folder: Path, embedded: list[str]) -> None:
    inner = samples.pdf(folder / "inner.pdf", ["Warranty of the espresso machine"]).read_bytes()
    (folder / "inner.pdf").unlink()
    files = {
        "factur-x.xml": INVOICE,
        "warranty.pdf": inner,
        "floorplan.dwg": b"\0\1\2 unreadable",
        "locked.pdf": samples.encrypted_pdf(folder / "locked.pdf").read_bytes(),
    }
    (folder / "locked.pdf").unlink()
    with_attachments(folder / "a.pdf", files, {"remark.txt": "Zwei Möwen".encode()})
    ingest(library, folder)
    for query, page in (
        ("aluminium ladder", 1),
        ("espresso warranty", 1),
        ("floorplan", 1),
        ("locked", 1),
        ("fish chips", 1),
        ("Möwen", 2),
        ("remark", 2),
    ):
        assert [name for name, _ in found(library, query)] == [f"a.pdf p.{page}"], query
    assert found(library, "unreadable") == found(library, "draft") == []
    first, second = items(library)
    assert first.meta["attachments"] == list(files) and second.meta["attachments"] == ["remark.txt"]
    assert first.text.startswith("Cover 0\n") and embedded[0].startswith("Cover 0 "), "the page itself comes first"


def test_the_portfolio_of_the_cases(library: Library) -> None:
    portfolio = CASES / "portfolio.pdf"
    if not portfolio.exists():
        pytest.skip(f"the sample files are not in {CASES}")
    ingest(library, portfolio)
    assert [name for name, _ in found(library, "aluminium ladder")] == ["portfolio.pdf p.1"]


def test_embedded_bombs_are_bounded(library: Library, folder: Path) -> None:
    words = b"<a>many words</a> " * 4_000_000
    with_attachments(folder / "a.pdf", {"a.xml": words, **{f"b{n}.txt": words[:900_000] for n in range(30)}})
    assert not ingest(library, folder).failures
    first, _ = items(library)
    assert len(first.text) < 70_000 and "a.xml" in first.meta["attachments"]


def test_damage_in_an_attachment_costs_the_attachment_alone(library: Library, folder: Path) -> None:
    with_attachments(folder / "a.pdf", {"broken.pdf": b"%PDF-1.7 nonsense", "factur-x.xml": INVOICE})
    assert not ingest(library, folder).failures
    assert [name for name, _ in found(library, "aluminium broken")] == ["a.pdf p.1"]


# Older libraries


def test_metadata_of_an_older_library_are_read_once(library: Library, folder: Path, embedded: list[str]) -> None:
    captioned(folder / "a.jpg", "A boat")
    samples.photo(folder / "b.jpg", samples.BLUE)
    samples.photo(folder / "c.jpg", samples.GREEN)
    sidecar(folder / "c.xmp", "pumpkin")
    with_attachments(folder / "d.pdf", {"factur-x.xml": INVOICE})
    samples.pdf(folder / "e.pdf", ["Nothing else"])
    ingest(library, folder)
    ids = {item.path.name: item.id for item in items(library)}
    with closing(sqlite3.connect(library.folder / "catalog.sqlite3")) as database, database:
        database.execute("UPDATE sources SET sidecars = NULL")
        database.execute("UPDATE items SET text = replace(text, description, ''), description = '', text_source = NULL")
    assert found(library, "boat") == found(library, "pumpkin") == []
    embedded.clear()
    report = ingest(library, folder)
    assert (report.unchanged, report.failures) == (2, []) and len(embedded) == 4
    assert [name for name, _ in found(library, "boat")] == ["a.jpg"]
    assert [name for name, _ in found(library, "pumpkin")] == ["c.jpg"]
    assert [name for name, _ in found(library, "ladder")] == ["d.pdf p.1"]
    assert {item.path.name: item.id for item in items(library)} == ids
    assert ingest(library, folder).unchanged == 5 and len(embedded) == 4


def test_show_leaves_out_what_the_library_remembers_for_itself(library: Library, folder: Path) -> None:
    samples.film(folder / "a.mp4", "libx264")
    (folder / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,500\nTune the harpsichord\n")
    ingest(library, folder)
    (item, *_) = items(library)
    assert "stamp" in item.meta["subtitles"]
    done = CliRunner().invoke(app, ["show", str(item.id), "-L", str(library.folder)], catch_exceptions=False)
    assert "Tune the harpsichord" in done.stdout and "stamp" not in done.stdout
