"""`mmsearch eval m-beir` on a miniature of its 16 tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mmsearch.cli import app
from mmsearch.evaluation.mbeir.tasks import TASKS
from tests.mbeir_sets import build


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("data"))


def evaluate(data: Path, out: Path, *options: str) -> Result:
    fixed = ("--model", "toy", "--device", "cpu", "--data", str(data), "--out", str(out))
    return CliRunner().invoke(app, ["eval", "m-beir", *fixed, *options])


def test_every_task_over_its_own_pool_and_the_union(data, tmp_path):
    result = evaluate(data, tmp_path, "--pool", "both", "--json")
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert list(record["metrics"]) == list(TASKS) and record["failed"] == {} and record["warnings"] == []
    own = [100 * record["metrics"][name][task.metric] for name, task in TASKS.items() if not name.endswith("_union")]
    assert own == [100.0] * 16, "a pool of three is found whole among the first five"
    union = [100 * record["metrics"][name][task.metric] for name, task in TASKS.items() if name.endswith("_union")]
    assert record["means"]["union"] == {"percent": pytest.approx(sum(union) / 16), "tasks": 16, "of": 16}
    assert 0 < record["means"]["union"]["percent"] < 100
    assert "nights_task4" in (tmp_path / "toy.md").read_text()


def test_some_tasks_are_told_to_be_some(data, tmp_path):
    result = evaluate(data, tmp_path, "--tasks", "nights*", "--tasks", "cirr_task7")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["task", "nights_task4", "cirr_task7", "mean"]
    assert "local pools: 2 of 16 tasks: the mean is over these" in result.stderr
    assert evaluate(data / "nowhere", tmp_path / "none", "--tasks", "nights*").exit_code == 2
