"""States appear whole or not at all, and are taken up by the same run alone; metrics have each step once; plots."""

from __future__ import annotations

import json
import os
import pickle

import pytest
import torch

from mmsearch.errors import ConfigError
from mmsearch.training.recipe.fields import Average
from mmsearch.training.run import metrics_log as metrics
from mmsearch.training.run import saved_state as state
from mmsearch.training.run.metrics_log import MetricsLog, plot_metrics, read_metrics
from mmsearch.training.run.optimizer import WeightAverage, learning_rate_factor
from mmsearch.training.run.saved_state import (
    State,
    check_state,
    find_state,
    load_state,
    remove_parts,
    save_state,
    states,
)

RECIPE = {"name": "r", "stages": [{"steps": 10}], "saving": {"keep": 2}}


def at(step: int, stage: int = 0) -> State:
    return State(RECIPE, "abc", stage, step, {"w": torch.tensor([float(step)])}, random=[state.random_state()])


def test_a_state_comes_back_as_it_was_and_only_the_newest_stay(tmp_path):
    for step in (1, 2, 3):
        save_state(tmp_path, at(step), keep=2)
    assert [path.name for path in states(tmp_path)] == ["state-0-0000002.pt", "state-0-0000003.pt"]
    found = load_state(find_state(tmp_path))
    assert (found.stage, found.step, found.base, found.recipe) == (0, 3, "abc", RECIPE)
    assert found.model["w"].item() == 3 and found.weights is found.model
    assert torch.equal(found.random[0]["cpu"], state.random_state()["cpu"])


def test_states_are_found_by_step(tmp_path):
    for stage, step in ((0, 5), (1, 5), (1, 12)):
        save_state(tmp_path, at(step, stage), keep=9)
    assert load_state(find_state(tmp_path, "12")).stage == 1
    assert load_state(find_state(tmp_path, "0-5")).stage == 0
    for which, message in (("5", "more than one"), ("7", "no state"), ("x", "no state")):
        with pytest.raises(ConfigError, match=f"{message}.*0-5, 1-5, 1-12"):
            find_state(tmp_path, which)
    with pytest.raises(ConfigError, match="nothing was trained"):
        find_state(tmp_path / "elsewhere")


@pytest.mark.parametrize("step", ["save", "flush", "replace"])
def test_a_save_that_is_cut_short_leaves_the_state_before(tmp_path, monkeypatch, step):
    save_state(tmp_path, at(1))

    class Killed(Exception):
        pass

    def killed(*_: object) -> None:
        raise Killed

    if step == "save":
        monkeypatch.setattr(torch, "save", lambda content, file: (file.write(b"half"), killed()))
    elif step == "flush":
        monkeypatch.setattr(os, "fsync", killed)
    else:
        monkeypatch.setattr("pathlib.Path.replace", killed)
    with pytest.raises(Killed):
        save_state(tmp_path, at(2))
    assert load_state(find_state(tmp_path)).step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["state-0-0000001.pt"]


@pytest.mark.parametrize("name", [".state-0-0000002.pt.4711.tmp", ".metrics.jsonl.4711.tmp", "state-0-0000002.pt.part"])
def test_what_a_killed_process_left_is_removed(tmp_path, name):
    save_state(tmp_path, at(1))
    (tmp_path / name).write_bytes(b"half")
    assert load_state(find_state(tmp_path)).step == 1
    remove_parts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["state-0-0000001.pt"]


def test_a_state_of_another_recipe_or_model_is_refused_by_what_differs(tmp_path):
    other = json.loads(json.dumps(RECIPE))
    other["stages"][0]["steps"] = 20
    with pytest.raises(ConfigError, match=r"stages\.0\.steps was 10, now 20.*--fresh"):
        check_state(at(1), other, "abc", tmp_path)
    with pytest.raises(ConfigError, match="another checkpoint"):
        check_state(at(1), RECIPE, "xyz", tmp_path)
    check_state(at(1), RECIPE | {"saving": {"keep": 7}}, "abc", tmp_path)  # how it is saved may change


def test_a_state_runs_no_code_and_a_damaged_one_is_named(tmp_path):
    class Harmful:
        def __reduce__(self):
            return print, ("harm",)

    bad = tmp_path / "state-0-0000001.pt"
    torch.save({"format": 2, "model": Harmful()}, bad)
    with pytest.raises(ConfigError, match=r"state-0-0000001\.pt cannot be read"):
        load_state(bad)
    bad.write_bytes(pickle.dumps({"format": 2})[:5])
    with pytest.raises(ConfigError, match="cannot be read"):
        load_state(bad)
    torch.save({"model": {}}, bad)
    with pytest.raises(ConfigError, match="another version"):
        load_state(bad)


def row(step: int, stage: str = "a") -> dict[str, object]:
    return {"stage": stage, "step": step, "loss": 1.0 / (step + 1), "hit@1": 0.5, "lr": 1.0, "seconds": 0.1}


def test_rows_behind_the_state_are_taken_out_since_they_come_again(tmp_path):
    with MetricsLog(tmp_path, ["a", "b"], (0, 0)) as log:
        for step in range(3):
            log.write(row(step))
        log.write(row(0, "b"))
    with (tmp_path / metrics.METRICS).open("a") as file:
        file.write('{"stage": "b", "st')  # killed while writing
    with MetricsLog(tmp_path, ["a", "b"], (0, 2)) as log:
        log.write(row(2))
    assert [(entry["stage"], entry["step"]) for entry in read_metrics(tmp_path)] == [("a", 0), ("a", 1), ("a", 2)]
    with MetricsLog(tmp_path, ["a", "b"], (0, 0)):
        assert read_metrics(tmp_path) == []


def test_numbers_that_are_none_are_null_in_json(tmp_path):
    with MetricsLog(tmp_path, ["a"], (0, 0)) as log:
        log.write(row(0) | {"loss": float("nan"), "grad_norm": 0.123456789})
    (found,) = read_metrics(tmp_path)
    assert found["loss"] is None and found["grad_norm"] == 0.123457


def test_a_plot_is_drawn_of_all_stages(tmp_path):
    pytest.importorskip("matplotlib", reason="plots are part of the [train] and [test] extras")
    from PIL import Image

    assert plot_metrics(tmp_path) is None
    with MetricsLog(tmp_path, ["a", "b"], (0, 0)) as log:
        for step in range(60):
            log.write(row(step) | {"contrastive/x": 2.0, "evaluation": {"x hit@1": 0.3}})
        log.write(row(0, "b") | {"photo_loss": 3.0})
    path = plot_metrics(tmp_path)
    assert path is not None
    with Image.open(path) as image:
        assert len(set(image.convert("L").resize((100, 100)).tobytes())) > 20
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    ("schedule", "step", "factor"),
    [
        ("linear", 0, 0.1), ("linear", 9, 1.0), ("linear", 10, 1.0), ("linear", 55, 0.5), ("linear", 100, 0.0),
        ("cosine", 10, 1.0), ("cosine", 55, 0.5), ("cosine", 100, 0.0), ("plateau", 99, 1.0),
    ],
)  # fmt: skip
def test_learning_rates(schedule, step, factor):
    assert learning_rate_factor(step, 100, warmup=10, schedule=schedule) == pytest.approx(factor)


def test_the_average_of_weights_is_the_sum_of_their_past():
    weights = {"w": torch.tensor([1.0])}
    average = WeightAverage(weights, Average(decay=0.2))
    expected = 1.0
    for step, value in enumerate((2.0, 3.0, 5.0)):
        keep = min(0.2, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * value
        average.update({"w": torch.tensor([value])})
    assert average.values["w"].item() == pytest.approx(expected)
