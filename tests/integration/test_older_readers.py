"""Files that an older mmsearch read: the next ingest reads their facts again, and embeds again only what is another picture now."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmsearch
from ingest.decode import Event, Task
from ingest.decode.pool import WorkerPool
from ingest.pipeline import ingest_paths
from mmsearch.catalog.dialect.sqlite import CATALOG_NAME
from mmsearch.embedders.families.toy import ToyEmbedder
from mmsearch.errors import CorruptFile
from mmsearch.items import ItemDraft, Source
from mmsearch.library import Library
from tests import samples
from tests.unit.test_pixel_shape import ANAMORPHIC, fax


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL", "LIBRARY", "STORE", "DEVICE"):
        monkeypatch.delenv(f"MMSEARCH_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dated photo, one dated by its name, a document, two TIFFs (of square pixels and not), and an anamorphic video."""
    folder = tmp_path / "data"
    folder.mkdir()
    samples.camera_photo(folder / "camera.jpg")
    samples.photo(folder / "IMG-20190305-WA0001.jpg", samples.BLUE)
    samples.pdf(folder / "report.pdf", ["revenue grew", "costs fell"])
    fax(folder / "scan.tif", dpi=(300, 300), pages=2)
    fax(folder / "fax.tif", pages=2)
    shutil.copy(ANAMORPHIC, folder / "wide.mp4")
    return folder


@pytest.fixture
def library(tmp_path: Path, folder: Path) -> Iterator[Library]:
    with mmsearch.open(tmp_path / "library", create=True, model="toy", store="exact") as opened:
        assert not ingest_paths(opened, [folder], jobs=1).failures
        yield opened


def rows(library: Library) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(library.folder / CATALOG_NAME)) as database:
        query = (
            "SELECT s.name, i.id, i.ordinal, i.meta, i.date_s, i.text, v.data FROM items i JOIN sources s ON s.id = i.source_id"
            " JOIN vectors v ON v.item_id = i.id WHERE i.visible = 1 ORDER BY 1, 3"
        )
        return [(*row[:3], json.loads(row[3]), *row[4:]) for row in database.execute(query)]


def make_older(library: Library) -> None:
    """As an mmsearch before `READER_VERSION` left it: no dates, no sizes, and other vectors of what it took for another picture."""
    vector = np.eye(1, 64, 63, dtype="<f2").tobytes()
    with closing(sqlite3.connect(library.folder / CATALOG_NAME)) as database, database:
        database.execute("UPDATE sources SET reader_version = NULL, content_identifier = NULL")
        told = ", ".join(f"'$.{name}'" for name in ("captured_at", "date_source", "width", "height", "camera", "gps"))
        database.execute(f"UPDATE items SET meta = json_remove(meta, {told}), date_s = 0")
        database.execute(
            "UPDATE vectors SET data = ? WHERE item_id IN (SELECT i.id FROM items i JOIN sources s ON s.id = i.source_id"
            " WHERE s.name LIKE '%fax.tif' OR s.name LIKE '%wide.mp4')",
            (vector,),
        )


def test_facts_are_read_again_and_only_other_pictures_embedded(
    library: Library, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows(library)
    make_older(library)
    assert rows(library) != expected
    given: list[str] = []
    encode = ToyEmbedder.encode_documents

    def counted(self: ToyEmbedder, inputs: Any) -> Any:
        given.extend(one.kind for one in inputs)
        return encode(self, inputs)

    monkeypatch.setattr(ToyEmbedder, "encode_documents", counted)
    report = ingest_paths(library, [folder], jobs=1)
    assert rows(library) == expected
    assert report.refreshed == 4 and "dates and facts of 4 files read again" in report.sentence()
    clips = sum(name.endswith("wide.mp4") for name, *_ in expected)
    assert sorted(given) == sorted(["page", "page", *["clip"] * clips])
    found = library.search("blue", kinds=["photo"], after=date(2019, 3, 5), before=date(2019, 3, 6), min_relevance=0)
    assert [hit.path.name for hit in found] == ["IMG-20190305-WA0001.jpg"]
    given.clear()
    again = ingest_paths(library, [folder], jobs=1)
    assert (again.refreshed, again.files, given) == (0, 0, []) and "nothing to do" in again.sentence()


def test_a_file_that_cannot_be_read_now_keeps_what_is_known(
    library: Library, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_older(library)
    before = rows(library)
    asked: list[str] = []

    def refusing(_: WorkerPool, tasks: list[Task]) -> Iterator[Event]:
        for task in tasks:
            asked.append(task.source.path.name)
            yield Event("failed", task, error=CorruptFile(task.source.path, "an older reader took it"))

    monkeypatch.setattr(WorkerPool, "read", refusing)
    report = ingest_paths(library, [folder / "report.pdf", folder / "camera.jpg"], jobs=1, ocr=False)
    assert sorted(asked) == ["camera.jpg", "report.pdf"]
    assert (report.refreshed, report.failures, rows(library)) == (0, [], before)
    ingest_paths(library, [folder / "report.pdf"], jobs=1, ocr=False)
    assert len(asked) == 2, "not tried again by the same reader"


def test_a_file_that_moved_has_its_turn_later(library: Library, folder: Path) -> None:
    make_older(library)
    (folder / "camera.jpg").rename(folder / "moved.jpg")
    found = [ingest_paths(library, [folder], jobs=1, ocr=False) for _ in range(3)]
    assert [(report.moved, report.refreshed) for report in found] == [(1, 3), (0, 1), (0, 0)]


def test_what_is_embedded_by_another_model_gets_its_facts_too(tmp_path: Path) -> None:
    from mmsearch.catalog import Catalog

    source = Source(Path("/a/1.pdf"), "0" * 64, 1, 1_700_000_000_000_000_000)
    vector = np.eye(1, 4, dtype=np.float32)
    with Catalog.open(tmp_path / "catalog", create=True) as catalog:
        # The text too is what the reader gives now; recognised print is put into the draft before (`Run.with_known_print`).
        for key, meta, words in (
            ("old", {}, "as read"),
            ("new", {"captured_at": "2015-06-01"}, "as read with its notes"),
        ):
            source_id = catalog.sources.begin(source, model_key=key)
            (item_id,) = catalog.items.save(
                source_id, [ItemDraft(source, "page", 0, 1, text=words, meta=meta)], vector, key
            )
            catalog.sources.finish(source_id)
            item = catalog.items.get(item_id)
            assert (item.meta, item.text) == (meta, words)


def make_unread(library: Library) -> None:
    """As an mmsearch that read neither facts nor metadata left it."""
    make_older(library)
    with closing(sqlite3.connect(library.folder / CATALOG_NAME)) as database, database:
        database.execute("UPDATE sources SET sidecars = NULL")


def test_the_plan_says_that_older_files_are_looked_at_again(library: Library, folder: Path) -> None:
    make_unread(library)
    planned = ingest_paths(library, [folder], jobs=1, dry_run=True)
    assert planned.sentence() == "6 files of an older mmsearch to look at again"
    assert (planned.plan.older, planned.plan.is_empty()) == (6, False)

    shutil.copy(ANAMORPHIC, folder / "new.mp4")
    with (folder / "new.mp4").open("ab") as file:
        file.write(b"\0\0\0\x08free")  # no copy of the other
    told: list[str] = []
    ingest_paths(library, [folder], jobs=1, progress=lambda now: told.append(f"{now.stage}: {now.plan.sentence()}"))
    assert next(one for one in told if one.startswith("read: ")) == "read: 1 photo, 2 videos (6 s)"

    second = ingest_paths(library, [folder], jobs=1)
    assert second.sentence() == second.plan.sentence() == "nothing to do: 7 files unchanged"


def test_a_file_with_words_and_another_picture_is_embedded_once(
    library: Library, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its metadata call for it, and so does its shape."""
    (folder / "fax.tif.xmp").write_text(
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/">'
        "<dc:title>a fax from Oslo</dc:title></rdf:Description></rdf:RDF>"
    )
    make_unread(library)
    embedded: list[int] = []
    encode = ToyEmbedder.encode_documents
    monkeypatch.setattr(
        ToyEmbedder, "encode_documents", lambda self, items: (embedded.append(len(items)), encode(self, items))[1]
    )
    report = ingest_paths(library, [folder / "fax.tif"], jobs=1)
    assert sum(embedded) == report.items["page"] == 2 and report.files == 1
    assert library.search("Oslo", mode="text")[0].path == folder / "fax.tif"
    assert ingest_paths(library, [folder / "fax.tif"], jobs=1).files == 0
