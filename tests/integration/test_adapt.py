"""Adapting to a library, whole: real files through the real ingestion, a tiny model, real training; and its parts by mental arithmetic."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmsearch
from ingest.decode.again import decoded, is_unchanged
from ingest.pipeline import ingest_paths
from mmsearch.adapt import judge, material, words
from mmsearch.adapt import plan as planning
from mmsearch.adapt import run as running
from mmsearch.adapt.budget import Budget, by_file, thinned
from mmsearch.adapt.judge import Asked
from mmsearch.adapt.mixing import SHARES, Mixer
from mmsearch.adapt.pictures import Pictures
from mmsearch.adapt.plan import Plan, Question, make_plan
from mmsearch.adapt.run import Adaptation, adapt_to_library
from mmsearch.adapt.split import File, Look, split_files
from mmsearch.disk.lock import locked
from mmsearch.errors import ConfigError, DatasetError, LibraryLocked
from mmsearch.items import EmbedInput, Item, Source
from mmsearch.library import Library
from mmsearch.training.run.saved_state import states
from mmsearch.training.run.session import Session
from tests import samples, tiny_training
from tests.tiny_models import random_compact
from tests.unit.test_vlm2vec import random_embedder

STEPS = 40
CHANGES = {
    "stages.0.learning_rate": 0.004,
    "stages.0.pairs": {"batch_size_global": 16, "sub_batch_size": 16},
    "stages.0.mixture": {"text": {"batch": 4, "weight": 0.05}},
    "precision": "float32",
    "saving.every_steps": 5,
}
VARIANTS = 4
TOPICS = ("harbour", "glacier", "orchestra", "pharmacy", "volcano", "railway")


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL", "LIBRARY", "STORE", "DEVICE"):
        monkeypatch.delenv(f"MMSEARCH_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 pictures named by what they show, a copy of one under another name, six documents of a page each."""
    folder = tmp_path_factory.mktemp("files")
    for colour, rgb in tiny_training.COLOURS.items():
        for shape in tiny_training.SHAPES:
            for number in range(VARIANTS):
                darker = tuple(channel - 3 * number for channel in rgb)
                tiny_training.picture(darker, shape).save(folder / f"{shape}_{colour}_{number}.png")
    shutil.copyfile(folder / "plain_red_0.png", folder / "holiday.png")
    for topic in TOPICS:
        lines = [f"What we know of the {topic}", *(" ".join([f"{topic}{line}"] * 4) for line in range(6))]
        samples.pdf(folder / f"{topic}.pdf", ["\n".join(lines)])
    return folder


@pytest.fixture(scope="module", params=tiny_training.FAMILIES)
def template(request, files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files embedded by a random model of each family that can be trained, once: tests take copies."""
    place = tmp_path_factory.mktemp("template")
    tiny_training.write_checkpoint(place / "model", request.param, page_text_tokens=24)
    with mmsearch.open(place / "library", create=True, model=str(place / "model"), store="exact") as library:
        report = ingest_paths(library, [files])
        assert report.items == {"image": 96, "page": 6} and report.copied == 1 and not report.failures
    return place / "library"


@pytest.fixture
def library(template: Path, tmp_path: Path) -> Iterator[Library]:
    shutil.copytree(template, tmp_path / "library")
    with mmsearch.open(tmp_path / "library", store="exact") as opened:
        yield opened


def adapted(library: Library, **options: Any) -> Adaptation:
    return adapt_to_library(library, **{"steps": STEPS, "changes": CHANGES, **options})


def answers(library: Library) -> list[Any]:
    return [
        [(hit.path.name, hit.score) for hit in library.search(query, k=5, min_relevance=0, mode="dense")]
        for query in ("striped red", "framed", "the harbour")
    ]


def untouched(folder: Path) -> dict[str, bytes]:
    """All files of a library but those of the adaptation (and SQLite's bookkeeping of readers)."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "adapted" not in path.parts and not path.name.endswith(("-shm", "-wal"))
    }


# The whole


@pytest.fixture(scope="module")
def better(template: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Adaptation, Plan]:
    """A library that was adapted: its folder, what came of it, and the plan."""
    folder = tmp_path_factory.mktemp("better") / "library"
    shutil.copytree(template, folder)
    with mmsearch.open(folder, store="exact") as library:
        before, files_before = answers(library), untouched(folder)
        found = adapted(library)
        assert answers(library) == before
    assert untouched(folder) == files_before
    plan = Plan.load(folder / "adapted" / "plan.json")
    assert plan is not None
    return folder, found, plan


def test_a_better_model_is_kept_beside_the_old_one(better):
    folder, found, _ = better
    assert found.checkpoint is not None and found.checkpoint.parent == folder / "adapted"
    (row,) = [row for row in found.verdict.rows if row.kind == "image"]
    assert row.decides and row.interval[0] > 0
    assert row.after["R@10"] > row.before["R@10"] + 0.2
    assert found.validation[found.share] > found.validation[0.0]
    assert Adaptation.of(json.loads((folder / "adapted" / "report.json").read_text())) == found
    lines = "\n".join(found.lines())
    assert "| image | " in lines and str(found.checkpoint) in lines
    assert sorted(path.name for path in (folder / "adapted").iterdir() if path.is_dir()) == [found.checkpoint.name]


@pytest.fixture(scope="module")
def switched(better, files: Path) -> Path:
    """The adapted library after `mmsearch ingest … --model` with the kept checkpoint."""
    folder, found, _ = better
    copy = folder.parent / "switched"
    shutil.copytree(folder, copy)
    with mmsearch.open(copy, model=str(found.checkpoint), store="exact") as library:
        ingest_paths(library, [files])
        assert library.model_key == library.embedder.model_key
    return copy


def test_what_was_measured_is_what_is_kept(better, switched):
    """The oracle: the library that was embedded again answers the held-out queries as often as the report says."""
    _, found, plan = better
    with mmsearch.open(switched, store="exact") as library:
        hits = 0
        questions = [question for question in plan.held_out if question.kind == "image"]
        for question in questions:
            skipped = set(question.ignored)
            ranked = [
                hit.item.id
                for hit in library.search(
                    question.query, k=100, kinds=["image"], min_relevance=0, mode="dense", all_copies=True
                )
                if hit.item.id not in skipped
            ]
            hits += bool(set(ranked[:10]) & set(question.relevant))
    (row,) = [row for row in found.verdict.rows if row.kind == "image"]
    assert row.after["R@10"] == pytest.approx(hits / len(questions))


def test_nothing_held_out_is_trained_on(better, template):
    _, _, plan = better
    with mmsearch.open(template, store="exact") as library:
        rows = {row.id: row for row in library.catalog.sources.rows()}
        sha = {item.id: rows[item.source_id].sha256 for item in library.catalog.items.of(plan.ids("train", "held out"))}
    trained = {sha[pair.item_id] for pair in plan.pairs}
    asked = {sha[item_id] for question in plan.held_out for item_id in question.relevant}
    assert trained and asked and not trained & asked
    assert {plan.files[sha256] for sha256 in trained} == {"train"}
    assert {plan.files[sha256] for sha256 in asked} == {"held out"}
    groups: dict[str, set[str]] = {}
    for item in plan.items:
        groups.setdefault(item.group, set()).add(item.part)
    assert all(len(parts) == 1 for parts in groups.values())
    parts = Counter(plan.files.values())
    assert parts["held out"] >= 0.15 * len(plan.files)


@pytest.mark.slow
def test_a_worse_model_is_not_kept(better, switched, tmp_path, monkeypatch):
    """From the good model, trained on words that belong to other pictures; what it was adapted to before is not held out."""
    _, _, former = better
    shutil.copytree(switched, tmp_path / "library")
    shutil.rmtree(tmp_path / "library" / "adapted")

    def shuffled(*arguments: Any, **options: Any) -> Plan:
        plan = make_plan(*arguments, **options)
        queries = [pair.query for pair in plan.pairs]
        random.Random(1).shuffle(queries)
        plan.pairs = [replace(pair, query=query) for pair, query in zip(plan.pairs, queries, strict=True)]
        return plan

    monkeypatch.setattr(running, "make_plan", shuffled)
    monkeypatch.setattr(running, "SHARES", (1.0,))  # else a little of it would be taken, and do no harm
    with mmsearch.open(tmp_path / "library", store="exact") as library:
        before = answers(library)
        found = adapted(library)
        assert answers(library) == before
    assert found.checkpoint is None
    assert any("image became worse" in reason for reason in found.verdict.reasons)
    assert "the old model stays" in list(found.lines())[-1]
    assert not list((tmp_path / "library" / "adapted").glob("model-*"))
    plan = Plan.load(tmp_path / "library" / "adapted" / "plan.json")
    held = {sha256 for sha256, part in plan.files.items() if part == "held out"}
    assert held and all(former.files[sha256] == "held out" for sha256 in held)


DIES_AFTER_A_STATE = """
import os, signal
from mmsearch.cli import main
from mmsearch.disk import replace

sync = replace.sync

def dies(path):
    sync(path)
    if list(path.glob("state-*.pt")):
        os.kill(os.getpid(), signal.SIGKILL)

replace.sync = dies
main()
"""


@pytest.mark.slow
def test_killed_in_the_middle_nothing_has_changed_and_the_same_command_goes_on(library, better):
    before, files_before, folder = answers(library), untouched(library.folder), library.folder / "adapted"
    command = [
        sys.executable, "-c", DIES_AFTER_A_STATE, "train", "--from-library", "--library", str(library.folder), "--steps", str(STEPS),
        *(f"--set={name}={json.dumps(value)}" for name, value in CHANGES.items()),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said.decode()
    first = states(folder / "training")[-1].name
    assert first < f"state-0-{STEPS:07d}.pt"
    assert untouched(library.folder) == files_before and answers(library) == before
    plan = (folder / "plan.json").read_bytes()

    found = adapted(library)
    _, never_killed, _ = better
    assert found.verdict == never_killed.verdict and found.checkpoint.name == never_killed.checkpoint.name
    assert (folder / "plan.json").read_bytes() == plan
    assert untouched(library.folder) == files_before
    assert adapted(library) == found  # told again, not done again


@pytest.mark.slow
def test_the_whole_ends_in_its_time_though_steps_are_slower_than_the_probe_said(library, monkeypatch):
    minutes, slow_s = 0.5, 1.0
    real = Session._step

    def slow(self: Session, *arguments: Any) -> dict[str, Any]:
        if self.run_folder.name == "training":
            time.sleep(slow_s)
        return real(self, *arguments)

    monkeypatch.setattr(Session, "_step", slow)
    monkeypatch.setattr(material, "PASSES", 1000)  # as many steps as there is time for
    told: list[str] = []
    found = adapted(library, steps=None, minutes=minutes, tell=told.append)
    planned = int(next(line for line in told if " step" in line and "measuring" in line).split()[0].replace(",", ""))
    assert found.steps < planned and found.steps * slow_s < 60 * minutes
    assert found.seconds <= 1.1 * 60 * minutes
    assert {row.pool for row in found.verdict.rows} == {97, 6} or found.notes


@pytest.mark.slow
def test_time_for_the_queries_is_not_spent_on_training(library, monkeypatch):
    """All queries are asked, of the old and the new weights: what cannot be left out must fit beside the steps."""
    asking_s = 120.0
    real = running._encoded
    plan = make_plan(library.catalog, {}, reads_text=True)
    asked = (1 + len(SHARES)) * len(plan.validation) + 2 * len(plan.held_out)

    def slow(questions: Sequence[Question], embedder: Any) -> np.ndarray:
        assert len(questions) <= running.ASKED_TO_TIME, "asked in earnest"
        time.sleep(asking_s / asked * len(questions))
        return real(questions, embedder)

    monkeypatch.setattr(running, "_encoded", slow)
    with pytest.raises(ConfigError, match="give --minutes") as refused:
        adapted(library, steps=None, minutes=1)
    assert int(str(refused.value).rpartition("--minutes ")[2].split()[0]) * 60 > asking_s


@pytest.mark.slow
def test_in_no_time_nothing_is_decoded_and_the_way_out_is_named(library):
    with pytest.raises(ConfigError, match="--minutes"):
        adapted(library, steps=None, minutes=0.001)


def test_judged_hits_are_trained_on_or_asked(library, tmp_path):
    judged = tmp_path / "judged.jsonl"
    rows = [
        {
            "query": f"number {n} of all {colour} {shape}",
            "kind": "photo",
            "relevant": [{"path": f"{shape}_{colour}_{n}.png"}],
        }
        for colour in tiny_training.COLOURS
        for shape in tiny_training.SHAPES
        for n in range(VARIANTS)
    ]
    rows += [{"query": "what is a harbour", "relevant": [{"path": "harbour.pdf", "page": 1}]}]
    rows += [{"query": "lost", "relevant": [{"path": "nowhere.pdf"}]}]
    judged.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = make_plan(library.catalog, {}, judged=judged)
    asked = {question.query for question in plan.held_out if question.style == "judged"}
    validated = {question.query for question in plan.validation if question.style == "judged"}
    trained = {pair.query for pair in plan.pairs if pair.query.startswith(("number", "what"))}
    assert asked and trained and not trained & asked and not trained & validated
    assert len(asked | validated | trained) == len(rows) - 1
    assert plan.notes == ["1 judged queries name nothing that is in the library"]
    judged.write_text('{"query": "x", "relevant": ["a.pdf"]}\n')
    with pytest.raises(DatasetError, match="line 1"):
        make_plan(library.catalog, {}, judged=judged)


def test_small_libraries_busy_folders_and_other_settings_are_refused(library, tmp_path):
    with (
        mmsearch.open(tmp_path / "toy", create=True, model="toy") as toy,
        pytest.raises(ConfigError, match="toy cannot"),
    ):
        adapted(toy)
    with (
        mmsearch.open(tmp_path / "empty", create=True, model=library.model.name) as empty,
        pytest.raises(ConfigError, match="is empty"),
    ):
        adapted(empty)
    folder = library.folder / "adapted"
    folder.mkdir()
    make_plan(library.catalog, {"model_key": "another"}).save(folder / "plan.json")
    with pytest.raises(ConfigError, match="--fresh"):
        adapted(library)
    with locked(folder), pytest.raises(LibraryLocked):
        adapted(library)
    library.catalog.sources.retire([row.id for row in library.catalog.sources.rows()][20:])
    with pytest.raises(DatasetError, match="at least 50 are needed"):
        adapted(library, fresh=True)
    assert not list(folder.glob("*.json"))


# Its parts


def items_of(*counts: int) -> list[Item]:
    """Photos of files with so many of them each, numbered from 1."""
    places = [(file, ordinal) for file, count in enumerate(counts, 1) for ordinal in range(count)]
    return [
        Item(number, file, Path(f"{file}.png"), "image", ordinal, None, None, None, "", {}, None)
        for number, (file, ordinal) in enumerate(places, 1)
    ]


def test_a_budget_keeps_time_for_what_follows_training():
    budget = Budget(100.0, began=1000.0)
    assert (budget.ends_at, budget.at(0.25)) == (1100.0, 1025.0)
    assert budget.training_ends_at(20.0, 5.0) == 1075.0
    assert budget.training_ends_at(1000.0, 5.0) == pytest.approx(1050.0)  # at most 45 of the 100 s
    assert budget.training_ends_at(1000.0, 5.0, 30.0) == pytest.approx(1050.0)
    assert budget.training_ends_at(1000.0, 5.0, 70.0) == pytest.approx(1025.0)  # but the queries, which are all asked
    endless = Budget()
    assert not endless.is_limited and endless.at(0.25) == endless.ends_at == float("inf")


def test_what_fits_is_drawn_from_all():
    items = items_of(*[1] * 100)
    few = thinned(items, {"image": 1.0}, 20.0)
    assert len(few) == 20 and few == [item for item in items if item in few] != items[:20]
    assert few == thinned(items, {"image": 1.0}, 20.0)
    assert thinned(items, {"image": 1.0}, 1000.0) == items and thinned(items, {}, 0.0) == items
    assert thinned(items, {"image": 1.0}, 0.0) == []


def test_files_stay_together_and_those_asked_for_come_first():
    items = items_of(2, 1, 3, 1, 1)
    ordered = by_file(items, first={5})
    assert [item.id for item in ordered[:3]] == [4, 5, 6] and sorted(item.id for item in ordered) == [*range(1, 9)]
    files = [item.source_id for item in ordered]
    assert [file for n, file in enumerate(files) if n == 0 or files[n - 1] != file] == list(dict.fromkeys(files))


def test_decoding_ends_in_its_time(library):
    items = library.catalog.items.of(library.catalog.items.visible_ids(["image"]))
    assert len(list(decoded(library, library.embedder, items, until=time.monotonic()))) < len(items) / 2


def test_near_copies_share_a_side_and_shares_are_kept():
    def file(number: int, **facts: Any) -> File:
        return File(number, f"{number:064x}", Counter({"page": 1}), **facts)

    alone = [file(n, texts=(f"text {n}",)) for n in range(100)]
    same = [file(n, texts=("shared", *(f"own {n} {i}" for i in range(3)))) for n in range(100, 102)]  # a quarter
    cover = [file(n, texts=("cover", *(f"own {n} {i}" for i in range(9)))) for n in range(102, 104)]  # a tenth
    look = Look(0b1011, bytes([100] * 48))
    pictures = [file(n, looks=(replace(look, bits=look.bits ^ flipped),)) for n, flipped in ((104, 0), (105, 0b111100))]
    other = file(106, looks=(replace(look, colours=bytes([130] * 48)),))
    files = [*alone, *same, *cover, *pictures, other]
    parts, groups = split_files(files)
    assert groups[100] == groups[101] and groups[104] == groups[105]
    assert len(set(groups.values())) == len(files) - 2
    assert parts[100] == parts[101] and parts[104] == parts[105]
    assert 0.15 * len(files) <= Counter(parts.values())["held out"] <= 0.3 * len(files)
    assert Counter(parts.values())["validation"] >= 0.1 * len(files)
    assert split_files(files[::-1])[0] == parts
    held = {file.sha256 for file in files if parts[file.id] == "held out"}
    again, _ = split_files(files, trained={file.sha256 for file in files} - held)
    assert {file.sha256 for file in files if again[file.id] == "held out"} <= held


def test_words_of_pages_names_and_captions():
    text = "Revenue by quarter\n" + " ".join(f"word{n}" for n in range(30))
    rarity = words.Rarity([text, "Thank you all\nquestions", "Thank you all\nanswers"])
    drawn = [{one.style: one for one in words.page_words(text, rarity, random.Random(seed))} for seed in range(50)]
    whole = " ".join(text.split())
    for style, least, most in (("title", 3, 3), ("passage", 6, 16)):
        found = [one[style] for one in drawn]
        assert all(one.text in whole and least <= len(one.text.split()) <= most for one in found)
        gone = [one for one in found if one.rest is not None]
        assert 5 < len(gone) < 45
        assert all(sorted(f"{one.rest} {one.text}".split()) == sorted(whole.split()) for one in gone)
    assert not [
        one for one in words.page_words("Thank you all\nquestions", rarity, random.Random(0)) if one.style == "title"
    ]

    def photo(number: int, path: str, **facts: Any) -> Item:
        return Item(number, number, Path(path), "image", 0, None, None, None, "", facts, None)

    photos = [
        photo(1, "/home/me/Pictures/2024 Portugal/IMG_4021.jpg"),
        photo(2, "/home/me/Pictures/2024 Portugal/LighthouseAtDawn2.jpg"),
        photo(3, "/home/me/Pictures/DSC00012.jpg"),
        photo(4, "/home/me/Pictures/Alps/hut.jpg"),
    ]
    named = words.names(photos, {Path("/home/me/Pictures")})
    assert {number: [(one.style, one.text) for one in found] for number, found in named.items()} == {
        1: [("folder", "portugal")],
        2: [("name", "lighthouse at dawn"), ("folder", "portugal")],
        4: [("name", "hut"), ("folder", "alps")],
    }
    assert [
        one.text for one in words.caption_words(photo(5, "/a.jpg", caption="A hut in the snow", title="IMG_0001"))
    ] == ["A hut in the snow"]


def question(group: str, *relevant: int, ignored: tuple[int, ...] = ()) -> Question:
    return Question("q", "image", "name", relevant, ignored, group)


def one_hot(place: int, dim: int = 24) -> np.ndarray:
    return np.eye(dim, dtype=np.float32)[place]


def test_scores_by_mental_arithmetic():
    """Twelve items; the query scores item n as 12 - n, so that ranks are item numbers."""
    vectors = {n: np.array([12 - n, n], np.float32) for n in range(1, 13)}
    query = np.array([1, 0], np.float32)

    def of(*relevant: int, ignored: tuple[int, ...] = ()) -> tuple[float, float]:
        found = judge.scores([question("f", *relevant, ignored=ignored)], [query], vectors, sorted(vectors))
        return tuple(float(found[name][0]) for name in judge.METRICS)

    assert of(1) == (1.0, 1.0)
    assert of(3) == (1.0, pytest.approx(0.5))
    assert of(11) == (0.0, 0.0)
    assert of(11, ignored=(1,)) == (1.0, 0.0)
    assert of(2, ignored=(1,)) == (1.0, 1.0)


def asked_of(right_before: Sequence[bool], right_after: Sequence[bool], kind: str = "image") -> list[Asked]:
    """One question per item; a right encoding is the item's own vector, a wrong one points away from it."""
    return [
        Asked(question(f"file {n}", n), kind, one_hot(n) * (1 if old else -1), one_hot(n) * (1 if new else -1))
        for n, (old, new) in enumerate(zip(right_before, right_after, strict=True))
    ]


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ([False] * 20, [True] * 20, None),
        ([True] * 10 + [False] * 10, [True] * 10 + [False] * 9 + [True], "not better beyond noise"),
        ([True] * 20, [True] * 20, "not better beyond noise"),
        ([True] * 20, [False] * 10 + [True] * 10, "image became worse"),
        ([False] * 7, [True] * 7, "too few"),
    ],
    ids=["better", "one more of twenty", "the same", "worse", "too few"],
)
def test_only_a_difference_beyond_noise_counts(before, after, reason):
    vectors = {"image": {n: one_hot(n) for n in range(20)}}
    verdict = judge.judge(asked_of(before, after), vectors, vectors)
    assert verdict.is_better == (reason is None)
    assert reason is None or reason in "; ".join(verdict.reasons)


def test_a_kind_that_loses_stops_what_the_average_gains():
    vectors = {kind: {n: one_hot(n) for n in range(20)} for kind in ("image", "page")}
    asked = asked_of([False] * 20, [True] * 20) + asked_of([True] * 20, [True] * 16 + [False] * 4, "page")
    verdict = judge.judge(asked, vectors, vectors)
    assert verdict.interval[0] > 0 and [reason[:4] for reason in verdict.reasons] == ["page"]


def test_queries_about_one_file_do_not_count_as_many():
    """Eighteen of twenty questions are about one file that happens to be found now: no proof."""
    vectors = {"image": {n: one_hot(n) for n in range(20)}}
    asked = asked_of([False] * 18 + [True, True], [True] * 18 + [True, True])
    asked = [
        replace(one, question=replace(one.question, group=one.question.group if n >= 18 else "f"))
        for n, one in enumerate(asked)
    ]
    assert not judge.judge(asked, vectors, vectors).is_better


@pytest.mark.parametrize("make", [random_embedder, random_compact], ids=tiny_training.FAMILIES)
def test_mixed_weights_are_the_weighted_mean(tmp_path, make):
    for name, factor in (("old", 1.0), ("new", 3.0)):
        embedder = make()
        with torch.no_grad():
            for weight in embedder.model.parameters():
                weight.mul_(factor)
        embedder.save(tmp_path / name, dtype=torch.float32)
        config = json.loads((tmp_path / name / "config.json").read_text())
        (tmp_path / name / "config.json").write_text(json.dumps(config | {"torch_dtype": "float32"}))
    mixer = Mixer(str(tmp_path / "old"), tmp_path / "new")
    old = {name: weight.clone() for name, weight in mixer.embedder.model.named_parameters()}
    for share in (1.0, 0.25, 0.0):
        mixed = dict(mixer.set_share(share).model.named_parameters())
        for name, weight in old.items():
            torch.testing.assert_close(mixed[name], weight * (1 + 2 * share))
    mixer.save(tmp_path / "mixed", name="mixed")
    mixed = mmsearch.embedders.load_embedder(tmp_path / "mixed", dtype="float32")
    assert mixer.embedder.encode_queries([EmbedInput("", "a")]) == pytest.approx(
        mixed.encode_queries([EmbedInput("", "a")]), abs=1e-6
    )


def test_training_sees_an_item_as_ingestion_does(library, tmp_path):
    """A pair's target, embedded as training does it, is the vector that the library stores."""
    from mmsearch.training.data.pair_loader import load_example
    from mmsearch.training.data.step_inputs import PreparePairs
    from mmsearch.training.datasets import open_source

    plan = make_plan(library.catalog, {})
    embedder = library.embedder
    rounding = (
        1e-5 if next(embedder.model.parameters()).dtype == torch.float32 else 1e-2
    )  # the processor may have bfloat16
    items = library.catalog.items.of([pair.item_id for pair in plan.pairs])
    pictures = Pictures(tmp_path / "pictures")
    pictures.fill(library, embedder, items)
    whole = [replace(pair, target_text=next(i.text for i in items if i.id == pair.item_id)) for pair in plan.pairs]
    plan.pairs = [pair for pair in whole if pair.source in ("page", "image name")]
    material.LEAST_OF_SOURCE, least = 1, material.LEAST_OF_SOURCE
    try:
        written = material.write_pairs(plan, pictures, embedder, tmp_path / "pairs")
    finally:
        material.LEAST_OF_SOURCE = least
    assert set(written) == {"page", "image name"}
    for name, path in written.items():
        kind = name.split()[0]
        spec = {"name": name, "parser": "jsonl", "dataset_path": str(path), "max_pixels": embedder.max_pixels[kind]}
        source = open_source(spec)
        own = [pair for pair in plan.pairs if pair.source == name]
        assert len(source) == len(own)
        example, skipped = load_example(source, 0)
        assert not skipped and example.pair.target_key == own[0].key
        batch = PreparePairs(embedder.preparation, {"image": 1, "clip": 1})([example]).batch
        with torch.no_grad():
            query, target = embedder.forward(batch).numpy()
        _, (stored,) = library.catalog.vectors.of([own[0].item_id], embedder.model_key)
        np.testing.assert_allclose(target, stored, atol=2e-3 + rounding)  # float16
        asked = running._encoded([Question(own[0].query, own[0].kind, "", (), (), "")], embedder)
        np.testing.assert_allclose(query, asked[0], atol=rounding)


def test_plans_survive_the_disk(library, tmp_path):
    plan = make_plan(library.catalog, {"model_key": "k"})
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    assert Plan.load(tmp_path / "none.json") is None
    assert plan == make_plan(library.catalog, {"model_key": "k"})
    assert len(plan.pairs) >= planning.LEAST_PAIRS


def test_files_that_changed_since_are_left_out(tmp_path):
    path = samples.photo(tmp_path / "a.png")
    stat = path.stat()
    source = Source(path, "0" * 64, stat.st_size, stat.st_mtime_ns)
    assert is_unchanged(source)
    assert not is_unchanged(replace(source, size_bytes=stat.st_size + 1))
    os.utime(path, ns=(0, 0))
    assert not is_unchanged(source)
    path.unlink()
    assert not is_unchanged(source)
