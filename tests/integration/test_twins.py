"""Copies and the files of one moment are one answer: from files on disk to the library, the command and the page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streamlit as st
from PIL import ExifTags, Image
from streamlit.testing.v1 import AppTest

import mmsearch
from ingest.pipeline import ingest_paths
from mmsearch import prompts
from mmsearch.items import Item, ItemDraft, Source
from mmsearch.library import Library
from mmsearch.library.view import DEPTH_FLOOR
from tests import samples
from tests.e2e.test_cli import run
from ui import gallery
from ui.gallery import Card, also_at_line
from ui.gate import Gate

UUID = "6A0C3F7D-1234-4B1A-9C1E-0123456789AB"


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL", "LIBRARY", "STORE", "DEVICE"):
        monkeypatch.delenv(f"MMSEARCH_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def apple_note(identifier: str, *, order: str = ">") -> bytes:
    """A MakerNote as an iPhone writes it: two entries, the second one the content identifier."""
    text = identifier.encode() + b"\0"
    entries = [(0x0001, 9, 1, 14), (0x0011, 2, len(text), 14 + 2 + 2 * 12 + 4)]
    directory = b"".join(
        tag.to_bytes(2, _byte_order(order))
        + kind.to_bytes(2, _byte_order(order))
        + count.to_bytes(4, _byte_order(order))
        + value.to_bytes(4, _byte_order(order))
        for tag, kind, count, value in entries
    )
    mark = b"MM" if order == ">" else b"II"
    return (
        b"Apple iOS\0\0\1" + mark + len(entries).to_bytes(2, _byte_order(order)) + directory + bytes(4) + text
    )  # fmt: skip


def _byte_order(order: str) -> Any:
    return "big" if order == ">" else "little"


def live_photo(path: Path, colour: str, *, identifier: str | None = UUID, taken: str = "2024:05:06 07:08:09") -> Path:
    exif = Image.Exif()
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.DateTimeOriginal] = taken
    if identifier is not None:
        details[ExifTags.Base.MakerNote] = apple_note(identifier)
    if path.suffix.lower() == ".heic":
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.new("RGB", (320, 240), colour).save(path, exif=exif)
    return path


def live_video(
    path: Path, *, identifier: str | None = UUID, taken: str = "2024-05-06T07:08:08+0200", seconds: float = 2.0
) -> Path:
    """Blue, with the metadata that an iPhone gives the video of a Live Photo."""
    import av

    plain = samples.scenes(path.with_name("plain.mp4"), [0.0, seconds])
    tags = {"com.apple.quicktime.creationdate": taken}
    if identifier is not None:
        tags["com.apple.quicktime.content.identifier"] = identifier
    with av.open(str(plain)) as one, av.open(str(path), "w", options={"movflags": "use_metadata_tags"}) as out:
        out.metadata.update(tags)
        stream = out.add_stream_from_template(one.streams.video[0])
        for packet in one.demux(one.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    plain.unlink()
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two Live Photos, one known by its identifier and one by its name, a photo thrice, and a longer video."""
    folder = tmp_path_factory.mktemp("camera")
    for name in ("a", "b", "copies/deep"):
        (folder / name).mkdir(parents=True)
    live_photo(folder / "a" / "IMG_1.HEIC", "blue")
    live_video(folder / "b" / "moved.MOV")
    live_photo(folder / "a" / "IMG_2.JPG", "red", identifier=None)
    live_video(folder / "a" / "IMG_2.MOV", identifier=None)
    live_photo(folder / "a" / "IMG_3.JPG", "red", identifier=None, taken="2020:01:01 10:00:00")
    live_video(folder / "a" / "IMG_3.MOV", identifier=None, seconds=5.0)
    samples.photo(folder / "a" / "green.png", samples.GREEN)
    shutil.copy(folder / "a" / "green.png", folder / "copies" / "renamed.png")
    shutil.copy(folder / "a" / "green.png", folder / "copies" / "deep" / "green.png")
    return folder


@pytest.fixture(scope="module")
def library_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("library") / "index_data"
    with mmsearch.open(place, create=True, model="toy") as opened:
        report = ingest_paths(opened, [folder], jobs=1)
        assert not report.failures
    return place


@pytest.fixture
def library(library_folder: Path) -> Iterator[Library]:
    with mmsearch.open(library_folder, model="toy") as opened:
        yield opened


def test_photo_and_video_bear_apples_identifier(library: Library, folder: Path) -> None:
    items = {item.path.relative_to(folder).as_posix(): item for item in library.catalog.items.of(range(1, 30))}
    for name in ("a/IMG_1.HEIC", "b/moved.MOV"):
        assert items[name].meta["content_identifier"] == UUID
    assert "content_identifier" not in items["a/IMG_2.JPG"].meta


@pytest.mark.parametrize("asked", ["search", "like"])
def test_an_answer_stands_once_and_names_the_other_files(library: Library, folder: Path, asked: str) -> None:
    def found(**options: Any) -> dict[str, list[str]]:
        options |= {"text": "green blue red", "k": 50, "min_relevance": 0.0}
        if asked == "like":
            (like,) = [one.id for one in library.catalog.items.of(range(1, 30)) if one.path.name == "IMG_3.JPG"]
            options |= {"like": like, "kinds": ["image", "clip"]}
        return {
            hit.path.relative_to(folder).as_posix(): [path.relative_to(folder).as_posix() for path in hit.also_at]
            for hit in library.search(**options)
        }

    once = found()
    moments = [{"a/IMG_1.HEIC", "b/moved.MOV"}, {"a/IMG_2.JPG", "a/IMG_2.MOV"}]
    copies = {"a/green.png", "copies/renamed.png", "copies/deep/green.png"}
    expected = [{"a/IMG_3.MOV"}, *([] if asked == "like" else [{"a/IMG_3.JPG"}]), *moments, copies]
    assert sorted(map(sorted, expected)) == sorted(sorted({name, *others}) for name, others in once.items())
    each = found(all_copies=True)
    assert set(each) == set().union(*expected) and not any(each.values())


def test_a_raw_file_is_named_beside_its_photo_if_it_is_read(tmp_path: Path) -> None:
    """What no reader takes is no item: what was left out names it, the photo does not."""
    place = tmp_path / "photos"
    place.mkdir()
    samples.photo(place / "read.jpg", samples.GREEN)
    samples.photo(place / "unread.jpg", samples.BLUE)
    samples.photo(place / "read.DNG", samples.GREEN, format="TIFF")  # a RAW file whose first picture Pillow reads
    (place / "unread.RAF").write_bytes(b"FUJIFILMCCD-RAW " + bytes(2000))
    with mmsearch.open(tmp_path / "index_data", create=True, model="toy") as opened:
        report = ingest_paths(opened, [place], jobs=1)
        hits = opened.search("green blue", min_relevance=0.0)
        answers = sorted(sorted([hit.path.name, *(path.name for path in hit.also_at)]) for hit in hits)
        assert [one.path.name for one in opened.catalog.sources.left_out().listed] == ["unread.RAF"]
    assert report.items == {"image": 3}
    assert answers == [["read.DNG", "read.jpg"], ["unread.jpg"]]


def test_a_copy_of_what_is_asked_for_is_nothing_like_it(library: Library) -> None:
    copies = [one.id for one in library.catalog.items.of(range(1, 30)) if one.path.suffix == ".png"]
    assert len(copies) == 3
    assert not set(copies) & {hit.item.id for hit in library.search(like=copies[1], min_relevance=0.0)}
    each = {hit.item.id for hit in library.search(like=copies[1], min_relevance=0.0, all_copies=True)}
    assert {copies[0], copies[2]} <= each and copies[1] not in each


def test_filters_choose_which_file_stands_for_the_answer(library: Library, folder: Path) -> None:
    (hit,) = library.search("blue", kinds=["video"], path="moved.MOV", min_relevance=0.0)
    assert hit.item.kind == "clip" and hit.also_at == (folder / "a" / "IMG_1.HEIC",)


@pytest.mark.parametrize("mode", ["dense", "text"])
def test_copies_do_not_crowd_out_other_answers(tmp_path: Path, mode: str) -> None:
    """More copies of two files than candidates are looked at, all nearer than the third."""
    with mmsearch.open(tmp_path / "library", create=True, model="toy") as library, library.lock():
        green, darker = (Image.new("RGB", (28, 28), colour) for colour in ((0, 255, 0), (10, 220, 30)))
        words = "the harbour in the morning"
        for n in range(2 * DEPTH_FLOOR + 1):
            content = f"{n % 2}" if n < 2 * DEPTH_FLOOR else "other"
            source = Source(Path(f"/copies/{n}.jpg"), content.ljust(64, "0"), 1, 1_700_000_000_000_000_000)
            text = words if content != "other" else f"{words} and, long after, so many other things besides"
            draft = ItemDraft(source, "image", 0, images=(green if content != "other" else darker,), text=text)
            vector = library.embedder.encode_documents([prompts.document_input(draft)])
            source_id = library.catalog.sources.begin(source, model_key="toy-1")
            library.catalog.items.save(source_id, [draft], vector, "toy-1")
            library.catalog.sources.finish(source_id)
        asked = {"dense": "green", "text": "harbour"}[mode]
        hits = library.search(asked, k=3, mode=mode, min_relevance=0.0)
        assert [len(hit.also_at) for hit in hits] == [99, 99, 0]
        assert hits[2].path == Path(f"/copies/{2 * DEPTH_FLOOR}.jpg")
        like = library.search(like=1, k=3, min_relevance=0.0)
        assert [len(hit.also_at) for hit in like] == [99, 0]


def test_the_command_says_it_in_every_format(library_folder: Path, folder: Path) -> None:
    asked = ("query", "green", "--kind", "photo", "--path", "copies/*.png", "--min-relevance", 0)
    done = run(*asked, "--format", "jsonl", library=library_folder)
    (record,) = map(json.loads, done.stdout.splitlines())
    places = [str(folder / "a" / "green.png"), str(folder / "copies" / "deep" / "green.png")]
    assert record["path"] == str(folder / "copies" / "renamed.png") and record["also_at"] == places
    table = run(*asked, library=library_folder)
    assert table.stdout.splitlines()[1].strip() == f"also at {', '.join(places)}"
    shown = json.loads(run("show", record["id"], "--json", library=library_folder).stdout)
    assert shown["also_at"] == places
    everywhere = ("query", "green", "--kind", "photo", "--min-relevance", 0, "--format", "paths")
    counts = [
        len([line for line in run(*everywhere, *option, library=library_folder).stdout.splitlines() if "png" in line])
        for option in ((), ("--all-copies",))
    ]
    assert counts == [1, 3]


def test_a_makers_note_that_is_none_of_apples_or_damaged_costs_nothing() -> None:
    from mmsearch.media.apple import identifier_of_note

    note = apple_note(UUID)
    assert identifier_of_note(note) == identifier_of_note(apple_note(UUID, order="<")) == UUID
    assert identifier_of_note(b"Nikon\0" + note) is None and identifier_of_note("Apple iOS") is None
    for length in range(len(note) - 1):
        assert identifier_of_note(note[:length]) in (None, *(UUID[:n] for n in range(8, 37)))
    rng = np.random.default_rng(0)
    for _ in range(200):
        odd = bytearray(note)
        odd[int(rng.integers(12, 45))] = int(rng.integers(256))
        found = identifier_of_note(bytes(odd))
        assert found is None or len(found) <= 100


def test_the_page_shows_an_answer_once_or_each_copy(
    library_folder: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gate, "stands", True)
    monkeypatch.setenv("MMSEARCH_MODEL", "toy")
    monkeypatch.setenv("MMSEARCH_LIBRARY", str(library_folder))
    drawn: list[Card] = []
    monkeypatch.setattr(gallery, "show", lambda cards, **_: drawn.extend(cards))
    st.cache_data.clear()
    st.cache_resource.clear()
    page = AppTest.from_file(Path(gallery.__file__).with_name("app.py"), default_timeout=120)

    def shown(**address: str) -> list[tuple[str, int]]:
        drawn.clear()
        page.query_params.clear()
        page.query_params.update(address)
        assert not page.run().exception
        assert page.checkbox(key="copies").value == ("copies" in address)
        return sorted((card.item.path.name, len(card.also_at)) for card in drawn if card.item.path.suffix == ".png")

    assert shown(q="green", weaker="1") in ([(name, 2)] for name in ("green.png", "renamed.png"))
    assert shown(q="green", weaker="1", copies="1") == [("green.png", 0), ("green.png", 0), ("renamed.png", 0)]
    assert len(shown()) == 1 and len(shown(copies="1")) == 3
    shown(copies="1")
    page.checkbox(key="copies").uncheck()
    drawn.clear()
    page.run()
    assert page.query_params.get("copies") is None and len(drawn) == 5
    (item,) = {card.item.id for card in drawn if card.item.path.suffix == ".png"}
    shown(item=str(item))
    assert str(folder / "a" / "green.png") in "\n".join(block.value for block in page.code)
    st.cache_data.clear()
    st.cache_resource.clear()


def test_the_grid_says_where_else_an_answer_lies() -> None:
    item = Item(1, 1, Path("/a/IMG_1.HEIC"), "image", 0, None, None, None, "", {}, None)
    assert also_at_line(item, ()) == ""
    assert also_at_line(item, (Path("/a/IMG_1.MOV"),)) == "also at IMG_1.MOV"
    assert also_at_line(item, (Path("/b/IMG_1.HEIC"),)) == "also at /b/IMG_1.HEIC"
    assert also_at_line(item, (Path("/b/1"), Path("/b/2"))) == "also at 2 other places"
