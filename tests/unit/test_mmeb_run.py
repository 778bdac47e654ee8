"""A benchmark run over a few made tasks: what is encoded, what is kept, what is done again, and what several processes share."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmsearch.embedders.families.qwen3vl_embedding import Qwen3VLEmbedder
from mmsearch.embedders.families.toy import COLOURS, ToyEmbedder
from mmsearch.errors import DatasetError
from mmsearch.evaluation.mmeb.data import Side, TaskData, TaskQuery
from mmsearch.evaluation.mmeb.encode import Input, SideEncoder, groups_of, share_by_cost, windows_of
from mmsearch.evaluation.mmeb.run import Outcome, as_asked, evaluate, with_frames
from mmsearch.evaluation.mmeb.tasks import TASKS, Task
from mmsearch.evaluation.vector_cache import VectorCache
from mmsearch.items import EmbedInput
from mmsearch.media.pictures import BytesPicture, FilePicture
from mmsearch.training.parallel.processes import Processes
from tests.processes import run_processes


def encoded(colour: str, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (30, 40), colour).save(file, kind)
    return file.getvalue()


def seen(colour: str, words: str = "Represent the given image.") -> Side:
    return Side(f"<|image_pad|>\n{words}\n", words, "", (BytesPicture(encoded(colour)),))


def asked(words: str) -> Side:
    return Side(f"Find {words}", "Find", words)


def query(key: str, side: Side, *labels: str, **more: Any) -> TaskQuery:
    return TaskQuery(key, side, labels, **more)


WIDE = TASKS["ViDoRe_arxivqa"]
NARROW = TASKS["HatefulMemes"]


def pages(task: Task = WIDE) -> TaskData:
    """Global; "red" is a page of the wrong colour too, so one of three queries has its label second."""
    candidates = {"p-blue": seen("blue"), "p-red": seen("red"), "p-green": seen("lime")}
    queries = [
        query("0", asked("red"), "p-red"),
        query("1", asked("blue"), "p-blue"),
        query("2", asked("red blue blue"), "p-red"),
    ]
    return TaskData(task, queries, candidates)


def answers(task: Task = NARROW) -> TaskData:
    """Local; the query's picture is one of the pages."""
    candidates = {word: Side(word, "", word) for word in ("red", "green", "blue", "unseen")}
    queries = [
        query("0", seen("red", "What colour is it?"), "red", candidates=("blue", "red", "blue")),
        query("1", seen("blue", "What colour is it?"), "red", candidates=("blue", "red")),
    ]
    return TaskData(task, queries, candidates, unread=("row 7: no picture at x.png",))


class Counting(ToyEmbedder):
    """Remembers every input that it was given."""

    def __init__(self) -> None:
        self.given: list[EmbedInput] = []

    def _encode(self, inputs: Sequence[EmbedInput]) -> np.ndarray:
        self.given += inputs
        return super()._encode(inputs)


def loader(*loaded: TaskData) -> Any:
    by_name = {data.task.name: data for data in loaded}

    def load(task: Task) -> TaskData:
        if task.name not in by_name:
            raise DatasetError(f"{task.name}: not here")
        return by_name[task.name]

    return load


def run(
    out: Path, *loaded: TaskData, embedder: Any = None, tasks: Sequence[Task] = (), processes: Processes | None = None, **options: Any
) -> list[Outcome]:  # fmt: skip
    processes = processes or Processes()
    with VectorCache(out / "vectors", processes.rank) as cache:
        encoder = SideEncoder(embedder or ToyEmbedder(), cache, processes, precision="cpu")
        tasks = tasks or [data.task for data in loaded]
        return evaluate(tasks, loader(*loaded), encoder, out, precision="cpu", **options)


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_scores_and_files_as_the_leaderboard_takes_them(tmp_path):
    wide, narrow = run(tmp_path, pages(), answers())

    score = json.loads((tmp_path / "visdoc" / "ViDoRe_arxivqa_score.json").read_text())
    second = 1 / np.log2(3)
    assert score["ndcg_linear@5"] == pytest.approx((2 + second) / 3)
    assert (score["hit@1"], score["hit@5"], score["mrr@5"]) == pytest.approx((2 / 3, 1, 2.5 / 3))
    assert (score["num_pred"], score["num_data"]) == (3, 3)
    assert wide.scores == {name: value for name, value in score.items() if not name.startswith("num_")}
    assert rows(tmp_path / "visdoc" / "ViDoRe_arxivqa_pred.jsonl")[2] == {
        "prediction": ["p-blue", "p-red", "p-green"],
        "label": ["p-red"],
        "rel_scores": None,
    }

    # The row that could not be read finds nothing; the repeated candidate is ranked once.
    assert narrow.scores is not None and narrow.scores["hit@1"] == pytest.approx(1 / 3)
    assert json.loads((tmp_path / "image" / "HatefulMemes_score.json").read_text())["num_data"] == 3
    assert [row["prediction"] for row in rows(tmp_path / "image" / "HatefulMemes_pred.jsonl")] == [["red", "blue"], ["blue", "red"]]  # fmt: skip
    assert rows(tmp_path / "image" / "HatefulMemes_info.jsonl")[0]["cand_names"] == ["blue", "red", "blue"]


def test_graded_labels_ties_and_queries_without_a_right_candidate_are_told(tmp_path):
    data = pages()
    twins = {**data.candidates, "p-red-again": seen("red")}
    queries = [query("0", asked("red"), "p-red-again", "p-red", gains=(2.0, 1.0)), query("1", asked("red"), "lost")]
    (outcome,) = run(tmp_path, replace(data, queries=queries, candidates=twins))
    assert outcome.scores is not None and outcome.record is not None
    graded = (1 + 2 / np.log2(3)) / (2 + 1 / np.log2(3))
    assert outcome.scores["ndcg_linear@5"] == pytest.approx(graded / 2)
    assert outcome.record["tied_at_the_top"] == 2
    assert outcome.record["without_a_right_candidate"] == 1
    assert outcome.record["inputs"] == {"computed": 4, "reused": 0}


def test_what_is_finished_is_not_done_again_and_what_changed_is(tmp_path):
    first = run(tmp_path, pages(), answers())
    assert not any(outcome.was_done for outcome in first)
    embedder = Counting()
    again = run(tmp_path, pages(), answers(), embedder=embedder)
    assert all(outcome.was_done for outcome in again) and embedder.given == []
    assert [outcome.scores for outcome in again] == [outcome.scores for outcome in first]

    # The same picture in other bytes, another label, another prompt of the task, a lost score file: that task alone.
    other = dict(pages().candidates, **{"p-red": Side(*_with_bytes(seen("red"), encoded("red", "BMP")))})
    assert [o.was_done for o in run(tmp_path, replace(pages(), candidates=other), answers(), embedder=embedder)] == [False, True]  # fmt: skip
    assert len(embedder.given) == 1
    relabelled = replace(answers(), queries=[replace(one, labels=("blue",)) for one in answers().queries])
    assert [o.was_done for o in run(tmp_path, relabelled, embedder=embedder)] == [False]
    assert len(embedder.given) == 1
    assert [o.was_done for o in run(tmp_path, answers(replace(NARROW, metric="hit@5")))] == [False]
    (tmp_path / "image" / "HatefulMemes_score.json").write_text("{}")
    assert [o.was_done for o in run(tmp_path, answers(replace(NARROW, metric="hit@5")))] == [False]


def _with_bytes(side: Side, content: bytes) -> tuple[Any, ...]:
    return side.prompt, side.instruction, side.text, (BytesPicture(content),)


def test_another_model_or_precision_takes_nothing_from_the_cache(tmp_path):
    run(tmp_path, pages())
    embedder = Counting()
    embedder.model_key = "toy-2"
    assert not run(tmp_path, pages(), embedder=embedder)[0].was_done
    assert len(embedder.given) == 6


def test_a_task_that_fails_is_named_and_the_others_go_on(tmp_path):
    blind = Side("<|image_pad|>\n", pictures=(FilePicture(tmp_path / "gone.png"),))
    broken = replace(pages(TASKS["ViDoRe_docvqa"]), candidates={"p-blue": blind})
    tasks = [TASKS["K700"], broken.task, NARROW]
    missing, unreadable, fine = run(tmp_path, broken, answers(), tasks=tasks)
    assert missing.failure == "K700: not here"
    assert unreadable.failure is not None and "gone.png" in unreadable.failure
    assert fine.failure is None and fine.scores is not None
    assert not (tmp_path / "visdoc").exists()


def test_a_limit_stays_apart(tmp_path):
    (outcome,) = run(tmp_path, pages(), limit=1)
    assert outcome.scores is not None and outcome.scores["hit@1"] == 1
    assert not (tmp_path / "visdoc").exists()
    assert (tmp_path / "first-1" / "visdoc" / "ViDoRe_arxivqa_score.json").exists()
    embedder = Counting()
    run(tmp_path, answers(), limit=1, embedder=embedder)
    assert sorted(one.text for one in embedder.given) == ["", "blue", "red"], "only the listed candidates"


def test_a_query_whose_own_list_names_a_stranger_is_refused(tmp_path):
    queries = [query("7", asked("red"), "red", candidates=("red", "stranger"))]
    (outcome,) = run(tmp_path, replace(answers(), queries=queries))
    assert outcome.failure == "query 7 names a candidate that the task does not have: stranger"
    (outcome,) = run(tmp_path, replace(answers(), queries=[query("8", asked("red"), "red", candidates=())]))
    assert outcome.failure == "query 8 has an empty list of candidates"
    (outcome,) = run(tmp_path, replace(pages(), candidates={}))
    assert outcome.failure == "ViDoRe_arxivqa has no candidates"


class Prompted(Counting):
    """A VLM2Vec-like embedder: it takes final strings."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[list[str], list[Any], list[int]]] = []

    def embed_prompts(
        self, prompts: list[str], images: list[Any], is_video: list[bool], *, max_pixels: list[int]
    ) -> np.ndarray:
        self.calls.append((prompts, images, max_pixels))
        inputs = [EmbedInput("", text, tuple(shown or ())) for text, shown in zip(prompts, images, strict=True)]
        return self._encode(inputs)


def test_exact_prompts_and_one_list_of_pictures_for_all_questions_on_them(tmp_path):
    embedder = Prompted()
    candidates = {word: Side(word, "", word) for word in ("red", "blue")}
    sides = [seen("red", "What colour?"), seen("red", "What shape?"), seen("blue", "What colour?")]
    queries = [query(str(place), side, "red", candidates=("red", "blue")) for place, side in enumerate(sides)]
    run(tmp_path, TaskData(NARROW, queries, candidates), embedder=embedder)
    ((prompts, images, budgets),) = embedder.calls
    by_prompt = {
        (prompt, None if shown is None else shown[0].getpixel((0, 0))): shown
        for prompt, shown in zip(prompts, images, strict=True)
    }
    assert {prompt for prompt, _ in by_prompt} == {"red", "blue", "<|image_pad|>\nWhat colour?\n", "<|image_pad|>\nWhat shape?\n"}  # fmt: skip
    red = COLOURS["red"]
    assert by_prompt["<|image_pad|>\nWhat colour?\n", red] is by_prompt["<|image_pad|>\nWhat shape?\n", red]
    assert by_prompt["red", None] is None
    assert set(budgets) == {embedder.max_pixels["image"]}


class Late(ToyEmbedder):
    """A vector per word and picture."""

    is_multi_vector = True

    def _encode(self, inputs: Sequence[EmbedInput]) -> Any:
        parts = [
            [EmbedInput("", word) for word in item.text.split()] + [EmbedInput("", images=(i,)) for i in item.images]
            for item in inputs
        ]
        return [super(Late, self)._encode(own) for own in parts]


def test_late_interaction_and_its_cache(tmp_path):
    found = [run(tmp_path / name, pages(), embedder=Late())[0].scores for name in ("a", "a", "b")]
    assert found[0] == found[1] == found[2]
    assert found[0] is not None and found[0]["hit@1"] == pytest.approx(
        2 / 3
    )  # "red blue blue": 1 + 0 + 0 against 0 + 1 + 1
    with VectorCache(tmp_path / "a" / "vectors") as cache:
        keys = [row[0] for row in cache._own.execute("SELECT key FROM vectors")]
        assert sorted(len(vector) for vector in cache.get(keys).values()) == [1, 1, 1, 1, 1, 3]


def test_two_processes_find_what_one_finds(tmp_path):
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    alone = run(tmp_path / "alone", pages(), answers())
    first, second = run_processes(in_a_process, 2, meeting, tmp_path / "shared")
    assert first["scores"] == [outcome.scores for outcome in alone] + [None]
    assert second["scores"] == [None, None, None]
    assert first["loaded_at"] < second["loaded_at"], "what loading unpacks is there when the second process comes"
    assert first["failures"] == second["failures"] == [None, None, "ViDoRe_docvqa: not here"]
    assert first["encoded"] + second["encoded"] == 6 + 6 and min(first["encoded"], second["encoded"]) > 2
    for file in sorted((tmp_path / "alone").glob("*/*_*.json*")):
        other = tmp_path / "shared" / file.relative_to(tmp_path / "alone")
        assert file.name.endswith("_run.json") or file.read_text() == other.read_text()


def in_a_process(out: Path) -> dict[str, Any]:
    import torch.distributed as dist

    embedder = Counting()
    processes = Processes(dist.get_rank(), dist.get_world_size())
    tasks = [WIDE, NARROW, TASKS["ViDoRe_docvqa"]]
    loaded_at = []

    def load(task: Task) -> TaskData:
        loaded_at.append(time.monotonic())
        return loader(pages(), answers())(task)

    with VectorCache(out / "vectors", processes.rank) as cache:
        encoder = SideEncoder(embedder, cache, processes, precision="cpu")
        outcomes = evaluate(tasks, load, encoder, out, precision="cpu")
    return {
        "loaded_at": loaded_at[0],
        "scores": [outcome.scores for outcome in outcomes],
        "failures": [outcome.failure for outcome in outcomes],
        "encoded": len(embedder.given),
    }


def test_the_watcher_hears_of_every_task(tmp_path):
    heard: list[Any] = []

    class Ear:
        def task_begins(self, task: Task, number: int, of: int) -> None:
            heard.append((task.name, number, of))

        def encoding(self, done: int, of: int) -> None:
            heard.append((done, of))

        def task_ends(self, outcome: Outcome) -> None:
            heard.append(outcome.was_done)

    run(tmp_path, pages(), watcher=Ear())
    run(tmp_path, pages(), watcher=Ear())
    assert heard == [("ViDoRe_arxivqa", 1, 1), (6, 6), False, ("ViDoRe_arxivqa", 1, 1), True]


def inputs_of(costs: Mapping[str, tuple[int, int]]) -> list[Input]:
    """By medium ("" without): pictures and characters."""
    return [
        Input(Side("x" * characters, pictures=(BytesPicture(b""),) * pictures), "query", medium.rstrip("'").encode(), medium.encode())
        for medium, (pictures, characters) in costs.items()
    ]  # fmt: skip


def test_groups_shares_and_windows():
    inputs = inputs_of({"a": (8, 40), "": (0, 4000), "a'": (8, 400), "b": (1, 40)})
    groups = groups_of(inputs)
    assert [[one.key for one in group] for group in groups] == [[b"a", b"a'"], [b""], [b"b"]]
    shares = share_by_cost(groups, 2)
    assert [[group[0].key for group in share] for share in shares] == [[b"a"], [b"b", b""]]
    many = groups_of(inputs_of({f"m{place}": (8, 4) for place in range(20)}))
    assert [len(window) for window in windows_of(many)] == [8, 8, 4]
    assert [len(group) for group in groups_of([inputs[0]] * 150)] == [64, 64, 22]


def test_a_damaged_cache_is_named(tmp_path):
    (tmp_path / "vectors-0.sqlite3").write_bytes(b"no database" * 100)
    with pytest.raises(DatasetError, match=r"vectors-0\.sqlite3.*remove the file"):
        VectorCache(tmp_path)


def test_the_cache_reads_what_other_processes_wrote_and_keeps_the_first(tmp_path):
    with VectorCache(tmp_path, 0) as first, VectorCache(tmp_path, 1) as second:
        first.put({b"a": np.float32([1, 2]), b"m": np.float32([[1, 2], [3, 4], [5, 6]])})
        second.put({b"b": np.float32([3, 4]), b"a": np.float32([9, 9])})
        found = first.get([b"a", b"b", b"m", b"none"])
        assert {key: vector.tolist() for key, vector in found.items()} == {
            b"a": [1, 2],
            b"b": [3, 4],
            b"m": [[1, 2], [3, 4], [5, 6]],
        }
        assert second.get([b"m"])[b"m"].dtype == np.float32


def test_a_model_made_for_more_frames_is_given_them():
    video, moments = (replace(TASKS[name], frames=frames) for name, frames in (("MSR-VTT", 8), ("MomentSeeker", None)))
    assert with_frames(video, None) is video and with_frames(moments, 64) is moments, "None takes all that there are"
    assert with_frames(video, 64) == replace(video, frames=64)
    clips = TASKS["QVHighlight"]
    assert with_frames(clips, 64) == replace(clips, frames=64) and with_frames(clips, 4).clip_frames == 4
    assert Qwen3VLEmbedder.frames == 64


def test_a_model_is_asked_in_the_words_of_its_own_evaluation():
    qwen, other = object.__new__(Qwen3VLEmbedder), ToyEmbedder()
    asked = as_asked(TASKS["QVHighlight"], qwen)
    assert (asked.protocol, asked.frames, asked.clip_frames) == ("qwen3vl_embedding", 64, 8)
    assert asked.instruction == "Find the clip that corresponds to the described scene in the given video."
    assert as_asked(TASKS["QVHighlight"], qwen, frames=4).frames == 4
    assert as_asked(TASKS["QVHighlight"], other) is TASKS["QVHighlight"]
