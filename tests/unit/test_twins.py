"""Which files count as one answer: copies, the photo and the video of one moment, a photo and its RAW file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event

from mmsearch.catalog import Catalog
from mmsearch.items import KINDS, ItemDraft, Kind, Source

KEY = "model-a"
NOON_NS = 1_700_000_000_000_000_000
UUID, OTHER_UUID = "6A0C3F7D-0000-4B1A-9C1E-AAAAAAAAAAAA", "6A0C3F7D-0000-4B1A-9C1E-BBBBBBBBBBBB"


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog.open(tmp_path / "library", create=True) as opened:
        yield opened


def add(
    catalog: Catalog,
    path: str,
    kind: Kind = "image",
    *,
    content: str = "",
    at_s: float = 0.0,
    count: int = 1,
    **meta: Any,
) -> list[int]:
    """Index a file; the ids of its items. `at_s`: its own time, from noon on."""
    sha256 = hashlib.sha256((content or path).encode("utf-8", "surrogateescape")).hexdigest()
    source = Source(Path(path), sha256, 1, NOON_NS + round(at_s * 1e9))
    drafts = [
        ItemDraft(
            source,
            kind,
            n,
            page_number=n + 1 if kind == "page" else None,
            start_s=2.0 * n if kind == "clip" else None,
            end_s=2.0 * n + 2 if kind == "clip" else None,
            meta=meta,
        )
        for n in range(count)
    ]
    source_id = catalog.sources.begin(source, model_key=KEY)
    ids = catalog.items.save(source_id, drafts, np.tile(np.eye(1, 4, dtype=np.float32), (count, 1)), KEY)
    catalog.sources.finish(source_id)
    return ids


def others(catalog: Catalog, item_id: int) -> list[str]:
    return [str(path) for path in catalog.items.also_at([catalog.items.get(item_id)]).get(item_id, ())]


def are_one(catalog: Catalog, *ids: int) -> bool:
    """Whether items count as one answer; the answer and "also at" must agree."""
    is_one = len(set(catalog.items.answers(ids).tolist())) == 1
    paths = {str(item.path) for item in catalog.items.of(ids)}
    for item in catalog.items.of(ids) if is_one else ():
        assert {*others(catalog, item.id), str(item.path)} >= paths
    return is_one


TAKEN = {"captured_at": "2024-05-06T07:08:09", "date_source": "original"}
ZONED = {"captured_at": "2024-05-06T07:08:09+02:00", "date_source": "original"}
FILMED = {"captured_at": "2024-05-06T07:08:08+02:00", "date_source": "creationdate"}
IN_UTC = {"captured_at": "2024-05-06T05:08:10+00:00", "date_source": "creation_time"}
UNDATED = {"date_source": "file"}


@pytest.mark.parametrize(
    ("photo", "taken", "film", "filmed", "is_one"),
    [
        ("/a/IMG_1.HEIC", TAKEN, "/a/IMG_1.MOV", FILMED, True),
        ("/a/IMG_1.jpg", ZONED, "/a/IMG_1.mp4", FILMED, True),
        ("/a/IMG_1.HEIC", ZONED, "/a/IMG_1.MOV", IN_UTC, True),
        ("/a/IMG_1.HEIC", TAKEN, "/a/IMG_1.MOV", IN_UTC, True),
        ("/a/IMG_1.HEIC", TAKEN, "/a/IMG_1.MOV", UNDATED, True),
        ("/a/IMG_1.HEIC", TAKEN, "/a/IMG_1.MOV", UNDATED | {"at_s": 3600.0}, False),
        ("/a/IMG_1.HEIC", UNDATED, "/a/IMG_1.MOV", UNDATED, False),
        ("/a/IMG_1.HEIC", TAKEN, "/a/IMG_1.MOV", FILMED | {"captured_at": "2024-05-07T07:08:08+02:00"}, False),
        ("/a/IMG_1.HEIC", TAKEN, "/a/IMG_1.MOV", IN_UTC | {"captured_at": "2024-05-06T05:03:10+00:00"}, False),
        ("/a/IMG_1.HEIC", TAKEN, "/a/IMG_1.MOV", FILMED | {"duration_s": 3.4}, True),
        ("/a/IMG_1.HEIC", TAKEN, "/a/IMG_1.MOV", FILMED | {"duration_s": 3.6}, False),
        ("/a/IMG_1.HEIC", TAKEN, "/a/IMG_10.MOV", FILMED, False),
        ("/a/IMG_1.HEIC", TAKEN, "/a/IMG_1.x.MOV", FILMED, False),
        ("/a/IMG_1.HEIC", TAKEN, "/b/IMG_1.MOV", FILMED, False),
        ("/a/IMG_1.HEIC", TAKEN, "/a/IMG_1.d/x.MOV", FILMED, False),
        ("/a/IMG_1.png", TAKEN, "/a/IMG_1.MOV", FILMED, False),
        ("/a/IMG_1.HEIC", TAKEN, "/a/IMG_1.gif", FILMED, False),
        ("/a/2024-05-06.HEIC", TAKEN, "/a/2024-05-06.MOV", {"captured_at": "2024-05-06", "date_source": "name"}, True),
        ("/a/x.HEIC", {"content_identifier": UUID}, "/b/y.MOV", {"content_identifier": UUID, "duration_s": 5.0}, True),
        ("/a/x.HEIC", TAKEN | {"content_identifier": UUID}, "/a/x.MOV", FILMED | {"content_identifier": OTHER_UUID}, False),
        ("/a/x.HEIC", TAKEN | {"content_identifier": UUID}, "/a/x.MOV", FILMED, True),
    ],
)  # fmt: skip
def test_a_photo_and_its_video(
    catalog: Catalog, photo: str, taken: dict[str, Any], film: str, filmed: dict[str, Any], is_one: bool
) -> None:
    (photo_id,) = add(catalog, photo, **taken)
    (clip_id,) = add(catalog, film, "clip", **{"duration_s": 2.8, **filmed})
    assert are_one(catalog, photo_id, clip_id) == is_one
    assert is_one or others(catalog, photo_id) == others(catalog, clip_id) == []


def test_all_clips_of_a_moment_are_one_answer_with_its_photo(catalog: Catalog) -> None:
    (photo,) = add(catalog, "/a/IMG_1.HEIC", **TAKEN)
    clips = add(catalog, "/a/IMG_1.MOV", "clip", count=2, duration_s=3.0, **FILMED)
    assert len(set(catalog.items.answers([photo, *clips]).tolist())) == 1
    long = add(catalog, "/a/long.MOV", "clip", count=2, duration_s=4.0)
    assert len(set(catalog.items.answers(long).tolist())) == 2


def test_a_video_belongs_to_one_photo(catalog: Catalog) -> None:
    """An edited photo bears the identifier of the original: it is another picture."""
    (original,) = add(catalog, "/a/IMG_1.HEIC", content_identifier=UUID)
    (edited,) = add(catalog, "/a/IMG_E1.HEIC", content_identifier=UUID)
    (clip,) = add(catalog, "/a/IMG_1.MOV", "clip", content_identifier=UUID)
    assert are_one(catalog, original, clip) and not are_one(catalog, original, edited)
    assert others(catalog, edited) == []


@pytest.mark.parametrize("kind", KINDS)
def test_copies_are_one_answer_part_by_part(catalog: Catalog, kind: Kind) -> None:
    count = 1 if kind == "image" else 2
    here = add(catalog, "/a/file", kind, content="same", count=count)
    there = add(catalog, "/b/other", kind, content="same", count=count)
    again = add(catalog, "/a/also", kind, content="same", count=count)
    for n in range(count):
        assert are_one(catalog, here[n], there[n], again[n])
        assert others(catalog, here[n]) == ["/a/also", "/b/other"], "those in the same folder first"
    if count == 2:
        assert not are_one(catalog, here[0], here[1]) and not are_one(catalog, here[0], there[1])
    (different,) = add(catalog, "/c/file", kind)
    assert not are_one(catalog, here[0], different)


def test_copies_of_a_moment_without_its_photo_beside_them(catalog: Catalog) -> None:
    (photo,) = add(catalog, "/a/IMG_1.HEIC", content="photo", **TAKEN)
    (photo_copy,) = add(catalog, "/b/renamed.HEIC", content="photo", **TAKEN)
    (clip,) = add(catalog, "/a/IMG_1.MOV", "clip", content="film", duration_s=2.0, **FILMED)
    (clip_copy,) = add(catalog, "/c/film.MOV", "clip", content="film", duration_s=2.0, **FILMED)
    assert are_one(catalog, photo, photo_copy, clip, clip_copy)


def test_what_is_away_is_not_named(catalog: Catalog) -> None:
    (here,) = add(catalog, "/a/1.jpg", content="same")
    (there,) = add(catalog, "/disk/1.jpg", content="same")
    catalog.sources.retire([catalog.items.get(there).source_id], offline=True)
    assert others(catalog, here) == []
    catalog.sources.bring_back([1, 2])
    assert others(catalog, here) == ["/disk/1.jpg"]


@pytest.mark.parametrize("kind", ["image", "page"])
def test_a_raw_file_that_is_read_as_a_tiff_belongs_to_its_photo(catalog: Catalog, kind: Kind) -> None:
    (photo,) = add(catalog, "/a/DSC_1.JPG")
    raw = add(catalog, "/a/DSC_1.NEF", kind, count=2 if kind == "page" else 1)
    (alone,) = add(catalog, "/a/DSC_2.NEF", kind)
    assert are_one(catalog, photo, *raw) and not are_one(catalog, photo, alone)
    assert others(catalog, alone) == []


def test_names_that_are_not_utf8_and_damaged_facts(catalog: Catalog) -> None:
    (photo,) = add(catalog, "/a/caf\udce9.HEIC", **TAKEN)
    (clip,) = add(catalog, "/a/caf\udce9.MOV", "clip", duration_s=2.0, **FILMED)
    assert are_one(catalog, photo, clip)
    with catalog.transaction() as c:
        c.exec_driver_sql("UPDATE items SET meta = substr(meta, 3) WHERE id = ?", (clip,))
    assert not are_one(catalog, photo, clip)


def test_browsing_shows_an_answer_once_and_of_a_moment_the_photo(catalog: Catalog) -> None:
    add(catalog, "/a/1.jpg", content="same")
    (photo,) = add(catalog, "/a/IMG_1.HEIC", **TAKEN)
    add(catalog, "/a/IMG_1.MOV", "clip", duration_s=2.0, **FILMED)
    (copy,) = add(catalog, "/b/1.jpg", content="same")

    def shown(**asked: Any) -> list[int]:
        return [item.id for item in catalog.items.first(KINDS, **{"limit": 10, **asked})]

    assert shown() == [copy, photo]
    assert shown(limit=1, offset=1) == [photo] and shown(offset=2) == []
    assert shown(all_copies=True) == [4, 3, 2, 1]


def test_neither_looks_at_all_files(catalog: Catalog) -> None:
    (photo,) = add(catalog, "/a/IMG_1.HEIC", content_identifier=UUID, **TAKEN)
    (clip,) = add(catalog, "/a/IMG_1.MOV", "clip", duration_s=2.0, content_identifier=UUID, **FILMED)
    plans: list[str] = []

    @event.listens_for(catalog.engine, "before_cursor_execute")
    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT") and "sources" in statement:
            raw = connection.connection.driver_connection
            plans.extend(row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))

    assert are_one(catalog, photo, clip)
    (beside,) = {plan for plan in plans if "sources_holder" in plan}
    assert "path=?" in beside
    assert {"sources_content", "sources_moment"} <= {word for plan in plans for word in plan.split()}
    assert not [plan for plan in plans if "sources_state" in plan]
    assert not {"SCAN s", "SCAN i"} & {plan[:6] for plan in plans}
