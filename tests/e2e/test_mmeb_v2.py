"""`mmsearch eval mmeb-v2` on a miniature of all 78 tasks with the shipped checkpoint: every loader, every file, killed and resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from mmsearch.cli import app
from mmsearch.embedders import load_embedder
from mmsearch.evaluation.mmeb.data import Side, load_task
from mmsearch.evaluation.mmeb.loaders import LOADERS
from mmsearch.evaluation.mmeb.tasks import COUNTED, TASKS, Task
from mmsearch.items import EmbedInput
from tests.mmeb_sets import build

FAMILIES = {task.family: task for task in COUNTED}
SOME = ("ImageNet-1K", "K700", "MVBench", "MSR-VTT", "ViDoRe_biomedical_lectures_v2_multilingual", "VisRAG_ChartQA")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("data"))


def evaluate(data: Path, out: Path, *options: str) -> Result:
    fixed = ("--model", "mini", "--device", "cpu", "--dtype", "float32")
    return CliRunner().invoke(app, ["eval", "mmeb-v2", *fixed, "--data", str(data), "--out", str(out), *options])


@pytest.fixture(scope="module")
def out(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 78, once."""
    place = tmp_path_factory.mktemp("run")
    result = evaluate(data, place)
    assert result.exit_code == 0, result.stderr
    assert "[78/78] MMLongBench-doc: ndcg_linear@5" in result.stderr
    assert result.stdout.splitlines()[1].split()[:2] == ["all", "78"]
    return place


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_every_task_is_scored_and_the_report_says_that_it_is_a_miniature(out):
    report = read(out / "mini.json")
    for task in COUNTED:
        assert report["metrics"][task.modality][task.name] == read(out / task.modality / f"{task.name}_score.json")
    assert len(list(out.glob("*/*_pred.jsonl"))) == len(list(out.glob("*/*_info.jsonl"))) == 78
    assert "another number of queries than the benchmark" in (out / "mini.md").read_text()
    about = read(out / "video" / "NExTQA_run.json")
    assert about["made_from"]["precision"] == "cpu float32" and about["made_from"]["model_key"].startswith(
        "mmsearch-mini-"
    )


@pytest.fixture(scope="module")
def embedder() -> Any:
    return load_embedder("mini", device="cpu", dtype="float32")


def vectors_one_by_one(encode: Callable[[list[EmbedInput]], np.ndarray], sides: list[Side]) -> np.ndarray:
    """The shipped model takes instruction and text apart, so each side is an input of its own."""
    inputs = [
        EmbedInput(
            side.instruction, side.text, tuple(picture.open() for picture in side.pictures), side.is_video, side.kind
        )
        for side in sides
    ]
    return np.concatenate([encode([one]) for one in inputs])


@pytest.mark.parametrize("task", FAMILIES.values(), ids=FAMILIES)
def test_predictions_are_those_of_plain_products(task: Task, embedder, out, data):
    """Every loader family against each side embedded by itself, and each query compared with its candidates by itself."""
    loaded = load_task(task, data)
    names = list(loaded.candidates)[:60]  # of 700 classes the first must do: their order among each other is compared
    candidates = dict(
        zip(names, vectors_one_by_one(embedder.encode_documents, [loaded.candidates[n] for n in names]), strict=True)
    )
    queries = vectors_one_by_one(embedder.encode_queries, [query.side for query in loaded.queries])
    written = (out / task.modality / f"{task.name}_pred.jsonl").read_text().splitlines()
    hits = []
    for query, vector, line in zip(loaded.queries, queries, written, strict=True):
        own = [name for name in dict.fromkeys(query.candidates or names) if name in candidates]
        scores = np.array([candidates[name] @ vector for name in own])
        predicted = json.loads(line)
        assert predicted["label"] == list(query.labels)
        order = [own.index(name) for name in predicted["prediction"] if name in own]
        assert len(order) == len(own) or len(predicted["prediction"]) == 100
        assert (np.diff(scores[order]) <= 2e-6).all(), "best first"
        hits.append(predicted["prediction"][0] in query.labels)
    assert read(out / task.modality / f"{task.name}_score.json")["hit@1"] == pytest.approx(np.mean(hits))


def test_all_families_are_there():
    assert set(FAMILIES) == set(LOADERS) - {"mbeir"}


DIES_AFTER_A_TASK = """
import os, signal
from mmsearch.cli import main
from mmsearch.evaluation.mmeb.run import TaskFiles

write = TaskFiles.write

def write_and_die(files, *parts):
    write(files, *parts)
    if files.name == "ImageNet-1K":
        os.kill(os.getpid(), signal.SIGKILL)

TaskFiles.write = write_and_die
main()
"""


def test_killed_and_resumed_gives_equal_files(data, out, tmp_path):
    command = [
        sys.executable,
        "-P",
        "-c",
        DIES_AFTER_A_TASK,
        "eval",
        "mmeb-v2",
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    options = [word for name in SOME for word in ("--tasks", name)]
    process = subprocess.Popen(
        [*command, "--data", str(data), "--out", str(tmp_path), *options],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    assert process.wait() == -signal.SIGKILL
    assert (tmp_path / "image" / "ImageNet-1K_run.json").exists()
    assert len(list(tmp_path.glob("*/*_run.json"))) < len(SOME), "it was killed in the middle"

    result = evaluate(data, tmp_path, *options)
    assert result.exit_code == 0 and "done before" in result.stderr
    for name in SOME:
        for what in ("score.json", "pred.jsonl", "info.jsonl"):
            file = f"{TASKS[name].modality}/{name}_{what}"
            assert (tmp_path / file).read_bytes() == (out / file).read_bytes()


def test_again_and_in_part(data, out, tmp_path):
    """Nothing is encoded again; a missing data set is named and the others go on."""
    again = evaluate(data, out, "--group", "D-V2", "--json")
    assert again.exit_code == 0 and again.stderr.count("done before") == 4
    record = json.loads(again.stdout)
    assert record["means"]["D-V2"]["tasks"] == 4 and record["failed"] == {}

    partial = tmp_path / "data"
    hub = TASKS["MSR-VTT"].hub
    shutil.copytree(data / hub, partial / hub)
    shutil.copytree(data / "TIGER-Lab" / "MMEB-V2" / TASKS["MSR-VTT"].media, partial / "TIGER-Lab" / "MMEB-V2" / TASKS["MSR-VTT"].media)  # fmt: skip
    result = evaluate(partial, tmp_path / "out", "--tasks", "MS*VTT", "--tasks", "VATEX", "--limit", "2", "--json")
    assert result.exit_code == 4
    record = json.loads(result.stdout)
    assert list(record["failed"]) == ["VATEX"] and "VATEX" in record["failed"]["VATEX"]
    assert list(record["tasks"]) == ["MSR-VTT"] and record["limit"] == 2
    assert record["means"]["video"] == {"percent": record["tasks"]["MSR-VTT"], "tasks": 1, "of": 18}
    assert read(tmp_path / "out" / "first-2" / "video" / "MSR-VTT_score.json")["num_data"] == 2


def test_a_name_that_is_no_task_is_refused(data, tmp_path):
    result = evaluate(data, tmp_path, "--tasks", "ImageNet-2K")
    assert result.exit_code != 0 and "no task is called 'ImageNet-2K'" in str(result.exception)
    result = evaluate(data, tmp_path, "--group", "I-XYZ")
    assert "no group 'I-XYZ'" in str(result.exception)
    assert not any(tmp_path.iterdir())


def test_the_report_again_from_the_files_alone(out):
    result = CliRunner().invoke(app, ["eval", "mmeb-report", str(out), "--model", "mini"])
    assert result.exit_code == 0 and result.stdout.splitlines()[1].split()[:2] == ["all", "78"]
