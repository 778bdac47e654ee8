"""Subtitles beside a video: found under every name that players know, and read again when they appear or change."""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmsearch.library
from ingest import readers, subtitles
from ingest.pipeline import Run, ingest_paths
from ingest.readers import KnownClip, Rewording
from ingest.readers.clips import Cue
from ingest.scan import hash_file
from mmsearch import media
from mmsearch.catalog import Catalog
from mmsearch.embedders.families.toy import ToyEmbedder
from mmsearch.items import EmbedInput
from mmsearch.library import Library
from tests import samples

CASES = Path("/work/shared/cases/sub")


def srt(words: str) -> str:
    return f"1\n00:00:00,500 --> 00:00:03,500\n{words}\n"


def ass(*lines: str, fields: str = "Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text") -> str:
    return "\n".join(["[Script Info]", "Title: x", "", "[Events]", f"Format: {fields}", *lines])


# Names


@pytest.mark.parametrize(
    ("video", "name"),
    [
        ("x.mp4", "x.srt"),
        ("DJI_0001.mp4", "DJI_0001.SRT"),
        ("dji_0001.MP4", "DJI_0001.srt"),
        ("x.mp4", "x.vtt"),
        ("x.mp4", "x.ass"),
        ("x.mp4", "x.ssa"),
        ("x.mp4", "x.en.srt"),
        ("x.mp4", "x.EN-us.vtt"),
        ("x.mp4", "x.zh-Hans.srt"),
        ("x.mp4", "x.English.srt"),
        ("x.mp4", "x.en.forced.srt"),
        ("x.mp4", "x.en.sdh.srt"),
        ("x.mp4", "x.2.en.srt"),
        ("x.mp4", "x.mp4.srt"),
        ("x.mp4", "x.mp4.en.srt"),
        ("x.mov", "x.mov.srt"),
        ("x.mp4", "Subs/x.srt"),
        ("x.mp4", "subs/x.en.srt"),
        ("x.mp4", "Subtitles/x.ass"),
        ("S01.E02.mp4", "S01.E02.srt"),
        ("caf\u00e9.mp4", unicodedata.normalize("NFD", "caf\u00e9.srt")),
        (os.fsdecode(b"odd\xff.mp4"), os.fsdecode(b"odd\xff.srt")),
    ],
)
def test_names_that_belong_to_a_video(tmp_path: Path, video: str, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(srt("hello"))
    assert [file.name for file in subtitles.SubtitleFolder(tmp_path).beside(tmp_path / video)] == [name]


@pytest.mark.parametrize(
    ("video", "others", "name"),
    [
        ("x.mp4", (), "xy.srt"),
        ("x.mp4", (), "x.txt"),
        ("x.mp4", (), "x.part2.srt"),
        ("x.mp4", (), "x final.srt"),
        ("x.mp4", ("x.mov",), "x.mov.srt"),
        ("talk.mp4", ("talk.en.mp4",), "talk.en.srt"),
        ("talk.mp4", ("talk.en.mp4",), "talk.en.forced.srt"),
        ("x.mp4", (), "more/x.srt"),
        ("x.mp4", (), "._x.srt"),
    ],
)
def test_names_that_do_not(tmp_path: Path, video: str, others: tuple[str, ...], name: str) -> None:
    for one in (*others, name):
        (tmp_path / one).parent.mkdir(exist_ok=True)
        (tmp_path / one).write_text(srt("hello"))
    assert subtitles.SubtitleFolder(tmp_path).beside(tmp_path / video) == []


def test_the_best_comes_first(tmp_path: Path) -> None:
    right = ["x.mp4.srt", "x.srt", "x.ass", "x.de.srt", "x.en.srt", "x.en.sdh.srt", "x.en.forced.srt", "Subs/x.srt"]
    (tmp_path / "Subs").mkdir()
    for name in reversed(right):
        (tmp_path / name).write_text(srt("hello"))
    assert [file.name for file in subtitles.SubtitleFolder(tmp_path).beside(tmp_path / "x.mp4")] == right


def test_a_folder_that_is_not_there_holds_none(tmp_path: Path) -> None:
    assert subtitles.SubtitleFolder(tmp_path / "nowhere").beside(tmp_path / "nowhere/x.mp4") == []


# Formats


def test_ass() -> None:
    text = ass(
        "Dialogue: 0,0:00:03.00,0:00:04.50,Default,,0,0,0,,{\\i1}Second,{\\i0} with a comma\\Nand a line",
        "Dialogue: 0,0:00:00.50,0:00:02.00,Default,,0,0,0,,First",
        "Comment: 0,0:00:05.00,0:00:06.00,Default,,0,0,0,,a remark",
        "Dialogue: 0,0:00:05.00,0:00:06.00,Default,,0,0,0,,{\\p1}m 0 0 l 100 0 100 100",
        "Dialogue: 0,soon,later,Default,,0,0,0,,no times",
        "Dialogue: 0,0:00:05.00",
    )
    right = [Cue(0.5, 2.0, "First"), Cue(3.0, 4.5, "Second, with a comma and a line")]
    assert subtitles.parse_subtitles(text) == right == subtitles.parse_subtitles(text.replace("\n", "\r\n"))


def test_ass_in_another_order_of_fields() -> None:
    text = ass("Dialogue: 0:00:01.00,0:00:02.00,Words, words", fields="Start, End, Text")
    assert subtitles.parse_subtitles(text) == [Cue(1.0, 2.0, "Words, words")]


def test_webvtt_with_notes_and_entities() -> None:
    text = "WEBVTT\n\nNOTE a remark\n\nid\n00:01.000 --> 00:02.000 align:start\n<v Ann>Salt &amp; pepper</v>\n"
    assert subtitles.parse_subtitles(text) == [Cue(1.0, 2.0, "Salt & pepper")]


def test_a_drones_telemetry_is_no_speech() -> None:
    frame = (
        '<font size="28">FrameCnt: 1, DiffTime: 33ms\n2021-05-01 10:00:00.000\n[iso: 100] [shutter: 1/500.0] </font>'
    )
    assert subtitles.parse_subtitles(srt(frame)) == []


# What a library holds


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with mmsearch.library.open(tmp_path / "library", create=True, model="toy", store="exact") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    samples.scenes(folder / "x.mp4", [4.0])
    return folder


def said(catalog: Catalog) -> dict[str, list[tuple[int, str]]]:
    """{file name: (item id, text) of each clip}."""
    return {
        row.path.name: [(i.id, i.text) for i in catalog.items.of_source(row.id)]
        for row in catalog.sources.rows(states=("indexed",))
    }


def test_subtitles_that_appear_change_and_go_are_read_at_the_next_run(library: Library, folder: Path) -> None:
    ingest_paths(library, [folder])
    assert said(library.catalog) == {"x.mp4": [(1, "")]}
    assert ingest_paths(library, [folder]).sentence().startswith("nothing to do")
    (folder / "x.srt").write_text(srt("we whittle a spoon"))
    assert ingest_paths(library, [folder], dry_run=True).plan.changed == 1
    report = ingest_paths(library, [folder])
    assert (report.files, report.unchanged) == (1, 0)
    assert said(library.catalog) == {"x.mp4": [(1, "we whittle a spoon")]}  # the same item
    assert library.search("spoon", min_relevance=0)[0].matched_by[-1] == "text"
    assert ingest_paths(library, [folder]).files == 0
    (folder / "x.srt").write_text(srt("we roast a pumpkin"))
    ingest_paths(library, [folder])
    assert said(library.catalog) == {"x.mp4": [(1, "we roast a pumpkin")]}
    (folder / "x.mp4.srt").write_text(srt("we tune a harpsichord"))  # a better name
    ingest_paths(library, [folder])
    assert said(library.catalog) == {"x.mp4": [(1, "we tune a harpsichord")]}
    for name in ("x.mp4.srt", "x.srt"):
        (folder / name).unlink()
    ingest_paths(library, [folder])
    assert said(library.catalog) == {"x.mp4": [(1, "")]}
    assert library.catalog.counts()["items"] == library.catalog.counts()["vectors"] == {"clip": 1}


def test_copies_and_moved_films_have_the_subtitles_of_their_own_place(library: Library, folder: Path) -> None:
    (folder / "x.srt").write_text(srt("we whittle a spoon"))
    ingest_paths(library, [folder])
    shutil.copy(folder / "x.mp4", folder / "y.mp4")
    (folder / "y.srt").write_text(srt("we roast a pumpkin"))
    ingest_paths(library, [folder])
    assert {name: text for name, [(_, text)] in said(library.catalog).items()} == {
        "x.mp4": "we whittle a spoon",
        "y.mp4": "we roast a pumpkin",
    }
    (folder / "x.mp4").rename(folder / "z.mp4")
    ingest_paths(library, [folder])
    assert {name: text for name, [(_, text)] in said(library.catalog).items()} == {
        "y.mp4": "we roast a pumpkin",
        "z.mp4": "",
    }


def test_copies_that_come_with_the_film_have_the_subtitles_of_their_own_place(library: Library, folder: Path) -> None:
    (folder / "x.srt").write_text(srt("we whittle a spoon"))
    for name in ("y.mp4", "z.mp4"):
        shutil.copy(folder / "x.mp4", folder / name)
    (folder / "y.srt").write_text(srt("we roast a pumpkin"))
    report = ingest_paths(library, [folder])
    assert report.copied == 2 and {name: text for name, [(_, text)] in said(library.catalog).items()} == {
        "x.mp4": "we whittle a spoon",
        "y.mp4": "we roast a pumpkin",
        "z.mp4": "",
    }
    assert ingest_paths(library, [folder]).files == 0


# What is decoded again for them

THREE = [4.0, 4.0, 4.0]


def cues(*words: str) -> str:
    """One cue in each scene of `THREE`."""
    times = [f"00:00:{4 * n + 1:02},000 --> 00:00:{4 * n + 2:02},000" for n in range(len(words))]
    return "\n".join(f"{n}\n{at}\n{one}\n" for n, (at, one) in enumerate(zip(times, words, strict=True), 1))


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    return folder


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(text, number of frames) of everything that the model was given."""
    given: list[tuple[str, int]] = []
    real = ToyEmbedder.encode_documents

    def spy(self: ToyEmbedder, inputs: Sequence[EmbedInput]) -> Any:
        given.extend((one.text, len(one.images)) for one in inputs)
        return real(self, inputs)

    monkeypatch.setattr(ToyEmbedder, "encode_documents", spy)
    return given


def stored(library: Library) -> np.ndarray:
    """The vectors of all clips, in the order of the video."""
    (row,) = library.catalog.sources.rows(states=("indexed",))
    _, vectors = library.catalog.vectors.of([item.id for item in library.catalog.items.of_source(row.id)], "toy-1")
    return vectors


def test_clips_that_say_the_same_are_not_embedded_again(
    library: Library, films: Path, tmp_path: Path, encoded: list[tuple[str, int]]
) -> None:
    film, srt_file = samples.scenes(films / "x.mp4", THREE), films / "x.srt"
    srt_file.write_text(cues("spoon", "pumpkin", "chisel"))
    ingest_paths(library, [film.parent])
    before = stored(library)
    assert [text for text, _ in encoded] == ["spoon", "pumpkin", "chisel"]
    encoded.clear()
    srt_file.write_text(cues("spoon", "melon", "chisel"))
    report = ingest_paths(library, [film.parent])
    assert encoded == [("melon", 8)] and (report.files, report.reworded, sum(report.items.values())) == (1, 1, 0)
    assert "subtitles and words of 1 video read again" in report.sentence()
    assert [text for _, text in said(library.catalog)["x.mp4"]] == ["spoon", "melon", "chisel"]
    assert (stored(library) == before).all(axis=1).tolist() == [True, False, True]
    os.utime(srt_file, (1, 1))
    encoded.clear()
    assert ingest_paths(library, [film.parent]).reworded == 1 and not encoded
    assert ingest_paths(library, [film.parent]).files == 0
    with mmsearch.library.open(tmp_path / "other", create=True, model="toy", store="exact") as other:
        ingest_paths(other, [film.parent])
        assert np.array_equal(stored(library), stored(other)), "as if it had been read as a whole"


def test_a_model_that_reads_no_text_is_given_nothing_again(
    library: Library, films: Path, encoded: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToyEmbedder, "page_text", False)
    film = samples.scenes(films / "x.mp4", THREE)
    ingest_paths(library, [film.parent])
    encoded.clear()
    (film.parent / "x.srt").write_text(cues("spoon", "pumpkin", "chisel"))
    assert ingest_paths(library, [film.parent]).reworded == 1 and not encoded
    assert [text for _, text in said(library.catalog)["x.mp4"]] == ["spoon", "pumpkin", "chisel"]


def test_only_the_frames_of_clips_that_say_something_else_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = hash_file(samples.scenes(tmp_path / "x.mp4", [*THREE, 20.0]))
    assert film is not None
    reading = readers.Reading({"page": 0, "image": 0, "clip": 112 * 112})
    whole = list(readers.read_items(film, reading.budget, reading=reading))
    known = tuple(
        readers.KnownClip(draft.ordinal, draft.start_s or 0.0, draft.end_s or 0.0, readers.text_digest(draft.text))
        for draft in whole
    )
    (tmp_path / "x.srt").write_text(cues("", "pumpkin", "", "spoon"))
    decoded: list[int] = []
    real = media.iter_frames

    def spy(path: Path, indices: Sequence[int], **options: Any) -> Any:
        decoded.extend(indices)
        return real(path, indices, **options)

    monkeypatch.setattr(media, "iter_frames", spy)
    again = list(readers.read_words(film, reading, readers.Rewording(24.0, known, with_frames=True)))
    assert [draft.text for draft in again] == ["", "pumpkin", "", "spoon"]
    assert [len(draft.images) for draft in again] == [0, 8, 0, 8] and len(decoded) == 16
    for draft, former in ((again[1], whole[1]), (again[3], whole[3])):
        assert draft.images == former.images and replace(draft, images=()) == replace(
            former, images=(), preview=None, text=draft.text, text_source="subtitle", meta=draft.meta
        )
    decoded.clear()
    reading.first_ordinal = 2  # the worker died on the third clip
    assert [draft.ordinal for draft in readers.read_words(film, reading, readers.Rewording(24.0, known, True))] == [
        2,
        3,
    ]
    assert len(decoded) == 8


def test_a_video_whose_frames_are_gone_is_read_as_a_whole(
    library: Library, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = samples.scenes(films / "x.mp4", THREE)
    ingest_paths(library, [film.parent])
    (film.parent / "x.srt").write_text(cues("spoon", "pumpkin", "chisel"))
    beyond = KnownClip(0, 90.0, 94.0, "")  # a clip that the file does not hold
    monkeypatch.setattr(Run, "rewording", lambda *_: Rewording(12.0, (beyond,), with_frames=True))
    report = ingest_paths(library, [film.parent])
    assert (report.reworded, report.files, report.failures) == (0, 1, [])
    assert [text for _, text in said(library.catalog)["x.mp4"]] == ["spoon", "pumpkin", "chisel"]


def test_an_unreadable_file_gives_way_to_the_next(library: Library, folder: Path) -> None:
    (folder / "x.mp4.srt").write_text("nothing that is a subtitle")
    (folder / "x.en.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\nwe sharpen a chisel\n")
    ingest_paths(library, [folder])
    assert said(library.catalog) == {"x.mp4": [(1, "we sharpen a chisel")]}
    assert ingest_paths(library, [folder]).files == 0


def test_a_library_of_an_older_version_reads_what_it_missed(library: Library, folder: Path) -> None:
    """Its clips remember no files: those without text are read again where subtitles lie, the others once these change."""
    (folder / "x.srt").write_text(srt("we whittle a spoon"))
    ingest_paths(library, [folder])
    forget = "UPDATE items SET meta = json_remove(meta, '$.subtitles')"
    with library.catalog.transaction() as c:
        c.exec_driver_sql(forget)
    assert ingest_paths(library, [folder]).files == 0
    with library.catalog.transaction() as c:
        c.exec_driver_sql(f"{forget}, text = '', text_source = NULL")
    assert ingest_paths(library, [folder]).files == 1
    assert said(library.catalog) == {"x.mp4": [(1, "we whittle a spoon")]}


@pytest.mark.skipif(not CASES.is_dir(), reason="no shared/cases on this machine")
def test_the_cases(tmp_path: Path, library: Library) -> None:
    right = {"DJI_0001.mp4": "pumpkin", "forced.mp4": "gearbox", "double.mp4": "harpsichord", "plain.mp4": "chisel"}
    folder = tmp_path / "sub"
    shutil.copytree(CASES, folder, ignore=shutil.ignore_patterns("late.srt"))
    folder.chmod(0o755)  # the cases lie in a folder that nobody may write
    ingest_paths(library, [folder])

    def found() -> dict[str, str]:
        return {name: text.split()[-1] for name, [(_, text)] in said(library.catalog).items() if text}

    assert found() == right
    shutil.copy(CASES / "late.srt", folder)
    ingest_paths(library, [folder])
    assert found() == right | {"late.mp4": "spoon"}
