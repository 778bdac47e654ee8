"""M-BEIR's tasks, and their loader on a miniature in the published layout."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from mmsearch.errors import DatasetError
from mmsearch.evaluation.mbeir.loader import sentence
from mmsearch.evaluation.mbeir.tasks import HUB, LOCAL, TASKS, UNION, rows
from mmsearch.evaluation.mmeb.data import load_task
from mmsearch.evaluation.mmeb.tasks import Task
from tests import mbeir_sets
from tests.mbeir_sets import CANDIDATES, QUERIES
from tests.training_sets import number_of

MODALITIES = {
    0: ("text", "image"), 1: ("text", "text"), 2: ("text", "image,text"), 3: ("image", "text"), 4: ("image", "image"),
    6: ("image,text", "text"), 7: ("image,text", "image"), 8: ("image,text", "image,text"),
}  # fmt: skip
"""By the number at the end of a task's name."""
DATA_SETS = {
    "visualnews": 0, "fashion200k": 1, "webqa": 2, "edis": 3, "nights": 4, "oven": 5, "infoseek": 6, "fashioniq": 7,
    "cirr": 8, "mscoco": 9,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mbeir_sets.build(tmp_path_factory.mktemp("mbeir"))


@pytest.mark.parametrize("name", rows())
def test_a_task_is_what_its_name_says(name: str) -> None:
    row = rows()[name]
    assert (row["query"], row["target"]) == MODALITIES[int(name[-1])]
    assert row["data_set"] == DATA_SETS[name.partition("_")[0]]
    assert row["metric"] == ("hit@10" if name.startswith("fashion") else "hit@5")


def test_every_task_is_asked_of_two_pools() -> None:
    assert len(rows()) == 16
    assert Counter(task.group for task in TASKS.values()) == {LOCAL: 16, UNION: 16}
    assert TASKS["mscoco_task0"].config == "mscoco_task0_test" and TASKS["cirr_task7"].config == "cirr_task7"
    assert {task.config for task in TASKS.values() if task.group == UNION} == {"union_test"}


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_every_task_loads_from_its_published_layout(task: Task, data: Path) -> None:
    loaded = load_task(task, data)
    assert len(loaded.queries) == QUERIES and loaded.unread == ()
    assert len(loaded.candidates) == (CANDIDATES * 16 if task.group == UNION else CANDIDATES)
    asks, seeks = MODALITIES[int(task.name.removesuffix("_union")[-1])]
    for i, query in enumerate(loaded.queries):
        assert query.candidates is None and query.gains is None
        (label,) = query.labels
        assert label.endswith(f"{i}")
        right = loaded.candidates[label]
        for side, modality in ((query.side, asks), (right, seeks)):
            assert len(side.pictures) == ("image" in modality) == side.prompt.count("<|image_pad|>")
            assert bool(side.text) == ("text" in modality)
        if right.pictures:
            assert number_of(right.pictures[0].open()) % 8 == i
        if query.side.pictures:
            assert number_of(query.side.pictures[0].open()) % 8 == CANDIDATES + i


def test_prompts_are_instruction_and_sentence(data: Path) -> None:
    text = load_task(TASKS["webqa_task1"], data)
    assert text.queries[0].side.prompt == "Find the text in webqa. who made 0.\n"
    assert (text.queries[0].side.instruction, text.queries[0].side.text) == ("Find the text in webqa.", "who made 0.")
    assert [side.prompt for side in text.candidates.values()] == [f"Candidate {k} of webqa_task1." for k in range(3)]
    both = load_task(TASKS["oven_task8_union"], data)
    assert both.queries[1].side.prompt == "<|image_pad|>\nFind the image,text in oven. who made 1.\n"
    assert both.candidates[both.queries[1].labels[0]].prompt == (
        "<|image_pad|>\nRepresent the given image with related text information: Candidate 1 of oven_task8.\n"
    )
    shown = load_task(TASKS["nights_task4"], data)
    assert shown.queries[0].side.prompt == "<|image_pad|>\nFind the image in nights.\n"
    assert {side.prompt for side in shown.candidates.values()} == {"<|image_pad|>\nRepresent the given image.\n"}


def test_sentences() -> None:
    assert [sentence(text) for text in ('"a dog"', " Who? ", "", "x!\r", "é")] == ["A dog.", "Who?", "", "X!", "É."]


def test_modalities_may_be_given_in_any_order(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / HUB, tmp_path / HUB)
    for path in (tmp_path / HUB).rglob("*oven_task8*.jsonl"):
        path.write_text(path.read_text().replace('"image,text"', '"text,image"'))
    turned, plain = load_task(TASKS["oven_task8"], tmp_path), load_task(TASKS["oven_task8"], data)
    assert [query.side.prompt for query in turned.queries] == [query.side.prompt for query in plain.queries]
    prompts = [side.prompt for side in turned.candidates.values()]
    assert prompts == [side.prompt for side in plain.candidates.values()]


def test_what_is_missing_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"cirr_task7: no file .*hf download TIGER-Lab/M-BEIR --repo-type dataset"):
        load_task(TASKS["cirr_task7"], tmp_path)
    shutil.copytree(data / HUB, tmp_path / HUB)
    (tmp_path / HUB / "mbeir_images/cirr_task7/4.jpg").unlink()
    loaded = load_task(TASKS["cirr_task7"], tmp_path)
    assert len(loaded.queries) == 1 and "row 1: no picture at" in loaded.unread[0]
    (tmp_path / HUB / "mbeir_images/cirr_task7/2.jpg").unlink()  # a pool is whole or of no use
    with pytest.raises(DatasetError, match=r"no picture at .*2\.jpg; .*cat mbeir_images\.tar\.gz\.part-\* \| tar -xz"):
        load_task(TASKS["cirr_task7"], tmp_path)
    (tmp_path / HUB / "qrels/test/mbeir_edis_task2_test_qrels.txt").write_text("3:400 0 3:999 1 2\n3:401 0 3:401 1 2\n")
    loaded = load_task(TASKS["edis_task2"], tmp_path)
    assert [query.labels for query in loaded.queries] == [("3:401",)]
    assert "no candidate of the pool answers query 3:400" in loaded.unread[0]
    (tmp_path / HUB / "cand_pool/local/mbeir_edis_task2_cand_pool.jsonl").write_text('{"did": "3:401", "txt": "a"}')
    with pytest.raises(DatasetError, match="row 0 has no field img_path, modality; it has did, txt"):
        load_task(TASKS["edis_task2"], tmp_path)
    (tmp_path / HUB / "instructions/query_instructions.tsv").write_text("query_modality\n")
    with pytest.raises(DatasetError, match="no instruction from text to image,text for data set 3"):
        load_task(TASKS["edis_task2"], tmp_path)
