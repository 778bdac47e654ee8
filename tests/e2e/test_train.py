"""`mmsearch train` as a user runs it: 24 made pairs, two processes, a kill, the same run in one process, export, a better model."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml

from mmsearch.cli import app
from mmsearch.cli.shared import INTERRUPTED, SOME_FAILED
from mmsearch.embedders import load_embedder
from mmsearch.errors import LibraryLocked
from mmsearch.training.objective.step_loss import compute_gradients
from mmsearch.training.run.metrics_log import read_metrics
from mmsearch.training.run.saved_state import states
from tests.tiny_training import COLOURS, SHAPES, picture, recipe_over, write_checkpoint, write_pairs

STEPS = 30


def mmsearch(*arguments: object) -> int:
    """The command in this process; its exit code."""
    return app([*map(str, arguments)], prog_name="mmsearch", standalone_mode=False) or 0


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with checkpoint, pairs and recipe, from which the commands are called."""
    write_checkpoint(tmp_path / "start")
    write_pairs(tmp_path / "pairs")
    recipe = recipe_over(tmp_path / "start", tmp_path / "pairs/pairs.jsonl", chunk_positions=1000)
    recipe["stages"][0]["pairs"] = {"batch_size_global": 24, "sub_batch_size": 24}
    recipe["saving"] = {"every_steps": 2, "every_s": None}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


def mean_reciprocal_rank(folder: Path) -> float:
    from mmsearch.prompts import DOCUMENT_INSTRUCTIONS, TEXT_QUERY_INSTRUCTIONS, final_prompt

    embedder = load_embedder(folder, device="cpu", dtype="float32")
    pairs = [
        (f"a {shape} {name} picture", picture(colour, shape)) for name, colour in COLOURS.items() for shape in SHAPES
    ]
    queries = [final_prompt(TEXT_QUERY_INSTRUCTIONS["image"], text) for text, _ in pairs]
    targets = [final_prompt(DOCUMENT_INSTRUCTIONS["image"], image_count=1)] * len(pairs)
    vectors = embedder.embed_prompts(
        [*queries, *targets], [*[None] * 24, *[[image] for _, image in pairs]], [False] * 48, max_pixels=[3136] * 48
    )
    scores = vectors[:24] @ vectors[24:].T
    ranks = 1 + (scores > scores.diagonal()[:, None]).sum(1)
    return float(np.mean(1 / ranks))


def interrupted_at(step: int) -> Any:
    """`compute_gradients`, ended by force in that step."""
    count = itertools.count()

    def computed(*arguments: Any, **options: Any) -> dict[str, float]:
        if next(count) == step:
            raise KeyboardInterrupt
        return compute_gradients(*arguments, **options)

    return computed


@pytest.mark.slow
def test_train_kill_resume_export(place, capsys, monkeypatch):
    command = [
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--master-port=29571",
        "-m",
        "--",
        "mmsearch",
        "train",
    ]
    options = ["--recipe", "tiny.yaml", "--steps", str(STEPS), "--run", "run"]
    log = place / "log"
    with log.open("w") as stderr:
        started = subprocess.Popen(
            [sys.executable, *command, *options, "--device", "cpu"],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
    deadline = time.monotonic() + 240
    while len(read_metrics(place / "run")) < 5 and started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert started.poll() is None, log.read_text()
    with pytest.raises(LibraryLocked, match=r"process \d+ is writing to run: wait for it"):
        mmsearch("train", *options, "--device", "cpu")
    workers = psutil.Process(started.pid).children(recursive=True)  # torchrun starts them in groups of their own
    for process in (*workers, started):
        process.kill()
    started.wait()
    psutil.wait_procs(workers)
    assert states(place / "run") and not (place / "run/checkpoint").exists()

    assert mmsearch("train", *options, "--device", "cpu") == 0
    assert "the checkpoint is in run/checkpoint" in capsys.readouterr().err
    assert [row["step"] for row in read_metrics(place / "run")] == list(range(STEPS))
    monkeypatch.setattr("mmsearch.training.run.session.compute_gradients", interrupted_at(3))
    assert mmsearch("train", *options[:-1], "alone", "--device", "cpu") == INTERRUPTED
    losses = [[row["loss"] for row in read_metrics(place / name)][:3] for name in ("run", "alone")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)  # two processes under torchrun, and one
    assert (place / "run/metrics.png").stat().st_size > 10_000

    assert mmsearch("train", "export", "run", "--to", "out", "--state", STEPS, "--dtype", "float32") == 0
    before, after = mean_reciprocal_rank(place / "start"), mean_reciprocal_rank(place / "out")
    assert after > before + 0.2, (before, after)
    assert json.loads((place / "out/mmsearch.json").read_text())["name"] == "tiny"
    assert f"{STEPS} of {STEPS} steps" in (place / "out/README.md").read_text()


def test_check_and_recipes_say_what_there_is(place, capsys):
    assert mmsearch("train", "recipes") == 0
    assert "vlm2vec_v2_qwen2vl_2b" in capsys.readouterr().out
    assert mmsearch("train", "check", "--recipe", "tiny.yaml", "--device", "cpu") == 0
    said = capsys.readouterr().out
    assert "made: 24 records, 16 patches and" in said and "0.2M parameters" in said and "s a step" in said
    lost = yaml.safe_load((place / "tiny.yaml").read_text())
    lost["sources"].append({"name": "lost", "parser": "jsonl", "dataset_path": "nowhere.jsonl"})
    (place / "lost.yaml").write_text(yaml.safe_dump(lost))
    assert mmsearch("train", "check", "--recipe", "lost.yaml", "--device", "cpu") == SOME_FAILED
    assert "lost: " in capsys.readouterr().out


def test_a_recipe_is_asked_for(place):
    with pytest.raises(Exception, match="--recipe is missing; there are from_nothing, mini, "):
        mmsearch("train")
