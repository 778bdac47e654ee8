"""The engine on a tiny model: killed and resumed, two processes as one, adapters, frozen towers, all published sets in one mixture."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmsearch.embedders import load_embedder
from mmsearch.embedders.checkpoints.checkpoint import find_checkpoint
from mmsearch.embedders.forward.qwen2vl_inputs import Batch
from mmsearch.embedders.trainable import trainable_class
from mmsearch.errors import ConfigError
from mmsearch.training.data.step_inputs import open_material
from mmsearch.training.recipe import change_recipe, load_recipe, parse_recipe
from mmsearch.training.recipe.fields import Recipe
from mmsearch.training.run.export import export_run
from mmsearch.training.run.metrics_log import read_metrics
from mmsearch.training.run.saved_state import load_state, states
from mmsearch.training.run.starting_model import start_model
from mmsearch.training.run.trainee import trainee_of
from mmsearch.training.run.vision_cache import VisionCache
from mmsearch.training.train import train
from tests.processes import PRELOADED, run_processes
from tests.tiny_training import FAMILIES, PUBLISHED, recipe_over, write_checkpoint, write_pairs, write_published_sets
from tests.unit.test_vlm2vec import IMAGES, IS_VIDEO, PROMPTS, random_embedder

CURVE = ("stage", "step", "loss", "hit@1", "grad_norm", "lr")
LORA = {"rank": 4, "alpha": 8, "dropout": 0.3, "dora": True}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_plot(monkeypatch) -> None:
    """Drawn in test_training_state.py and in the end-to-end test: it takes longer than these runs."""
    monkeypatch.setattr("mmsearch.training.train.plot_metrics", lambda run: None)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a checkpoint and 24 pairs, two further lines of which are bad."""
    folder = tmp_path_factory.mktemp("training")
    write_checkpoint(folder / "checkpoint")
    write_pairs(folder / "pairs", bad=2)
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def either(request, place, tmp_path_factory) -> Path:
    """The same with a checkpoint of one family and of the other."""
    if request.param == "vlm2vec":
        return place
    folder = tmp_path_factory.mktemp("compact")
    write_checkpoint(folder / "checkpoint", request.param)
    (folder / "pairs").symlink_to(place / "pairs")
    return folder


def is_compact(place: Path) -> bool:
    return "compact_vlm" in (place / "checkpoint/config.json").read_text()


def recipe(place: Path, **changes: Any) -> Recipe:
    made = parse_recipe(recipe_over(place / "checkpoint", place / "pairs/pairs.jsonl", chunk_positions=400), "tiny")
    return change_recipe(made, {name.replace("__", "."): value for name, value in changes.items()})


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """float32, under their names in the model."""
    found = find_checkpoint(folder)
    return {name: tensor.float() for name, tensor in trainable_class(found).read_weights(found).items()}


def curve(run: Path) -> list[tuple[Any, ...]]:
    return [tuple(row.get(name) for name in CURVE) for row in read_metrics(run)]


def assert_same_curve(one: Path, other: Path, tolerance: float = 1e-4) -> None:
    first, second = curve(one), curve(other)
    assert [row[:2] for row in first] == [row[:2] for row in second]
    for a, b in zip(first, second, strict=True):
        assert a[2:] == pytest.approx(b[2:], rel=tolerance), f"step {a[1]}"


# Killed


def train_and_die(record: dict[str, Any], run: Path, work: Path, moment: str, rows: int) -> None:
    """In a process of its own, which is killed at a moment of its saving, once there are so many rows of metrics."""
    torch.set_num_threads(1)
    import mmsearch.training.train as module
    from mmsearch.disk import replace

    sync, sync_named = os.fsync, replace.sync

    def die() -> None:
        if len(read_metrics(run)) >= rows:
            os.kill(os.getpid(), signal.SIGKILL)

    def fsync(file: int) -> None:
        if moment == "while a state is written" and list(run.glob(".state-*.tmp")):
            die()
        sync(file)

    def synced(path: Path) -> None:
        sync_named(path)
        if moment == "after a step" and path == run:
            die()

    os.fsync, replace.sync = fsync, synced
    module.plot_metrics = lambda run: None
    train(parse_recipe(record, "tiny"), run, work=work)


def everything(place: Path) -> Recipe:
    """With all that a state has to carry: dropout (where there is any), moving average, learnt temperatures, two stages, momentum."""
    stage = recipe(place).record()["stages"][0]
    return recipe(
        place,
        adapter=None if is_compact(place) else LORA,
        average={"decay": 0.9},
        loss__learnable_temperature=True,
        saving={"every_steps": 1, "every_s": None, "keep": 2},
        stages=[stage | {"name": "first", "steps": 3}, stage | {"name": "second", "steps": 5, "learning_rate": 0.001}],
    )


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_as_if_it_never_was(either, tmp_path):
    chosen = everything(either)
    train(chosen, tmp_path / "whole", work=tmp_path)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    run = tmp_path / "killed"
    for moment in ("while a state is written", "after a step"):
        rows = len(read_metrics(run)) + 2
        process = context.Process(target=train_and_die, args=(chosen.record(), run, tmp_path, moment, rows))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, moment
        assert bool(list(run.glob(".state-*.tmp"))) == (moment == "while a state is written")
    train(chosen, run, work=tmp_path)
    assert_same_curve(tmp_path / "whole", run, 1e-6)
    assert [row[1] for row in curve(run)] == [*range(3), *range(5)]
    assert not list(run.glob("*.tmp")) and len(states(run)) == 2
    whole, killed = (load_state(states(folder)[-1]) for folder in (tmp_path / "whole", run))
    assert all(torch.equal(whole.average[name], killed.average[name]) for name in whole.average)
    if not is_compact(either):
        adapted = whole.average["language_model.layers.0.mlp.up_proj.lora_B.default.weight"]
        assert not torch.equal(adapted, torch.zeros(96, 4))
    assert (tmp_path / "whole/checkpoint/model.safetensors").read_bytes() == (
        run / "checkpoint/model.safetensors"
    ).read_bytes()


def test_a_run_stopped_between_two_stages_goes_on_with_the_same_dropout(either, tmp_path, monkeypatch):
    chosen, run = everything(either), tmp_path / "parts"
    train(chosen, tmp_path / "whole", work=tmp_path)
    import mmsearch.training.run.session as session

    begin = session.Session._run_stage

    def killed(self: Any, number: int, *arguments: Any) -> None:
        if number == 1:
            raise InterruptedError
        begin(self, number, *arguments)

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(session.Session, "_run_stage", killed)
        train(chosen, run, work=tmp_path)
    assert states(run)[-1].name == "state-0-0000003.pt"
    torch.manual_seed(99)
    train(chosen, run, work=tmp_path)
    assert_same_curve(tmp_path / "whole", run, 1e-6)


def test_an_asked_stop_saves_and_goes_on(either, tmp_path, monkeypatch):
    """Ctrl-C ends the step at hand, saves, and leaves; another recipe is then refused, the same one goes on."""
    import mmsearch.training.run.session as session

    chosen, run, step = recipe(either, stages__0__steps=4), tmp_path / "run", session.compute_gradients

    def stopped(*arguments: Any, **options: Any) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGINT)
        return step(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(session, "compute_gradients", stopped)
        train(chosen, run, work=tmp_path)
    assert [path.name for path in states(run)] == ["state-0-0000001.pt"]
    with pytest.raises(ConfigError, match=r"stages\.0\.learning_rate was 0\.003, now 1"):
        train(change_recipe(chosen, {"stages.0.learning_rate": 1.0}), run, work=tmp_path)
    train(chosen, run, work=tmp_path)
    assert [row[1] for row in curve(run)] == [0, 1, 2, 3]
    assert read_metrics(run)[-1]["skipped"] <= 2
    train(chosen, run, work=tmp_path, fresh=True)
    assert [row[1] for row in curve(run)] == [0, 1, 2, 3]


# Many processes


def train_both_ways(place: Path, folder: Path) -> dict[str, Any]:
    import mmsearch.training.train as module

    module.plot_metrics = lambda run: None
    for parallel in ("ddp",) if is_compact(place) else ("ddp", "fsdp"):
        chosen = recipe(place, stages__0__steps=3, parallel=parallel, saving={"every_steps": 2, "every_s": None})
        train(chosen, folder / parallel, work=folder)
        if parallel == "fsdp":  # its state was put together from the parts of both, and is taken apart again
            for late in (folder / parallel / "state-0-0000003.pt",):
                if torch.distributed.get_rank() == 0:
                    late.unlink()
            torch.distributed.barrier()
            train(chosen, folder / parallel, work=folder)
    return {}


@pytest.mark.slow
def test_two_processes_train_as_one_whether_they_hold_or_share_the_model(either, tmp_path):
    """Words and pictures fall unevenly on the processes, and their chunks differ in number."""
    train(recipe(either, stages__0__steps=3), tmp_path / "one", work=tmp_path)
    (tmp_path / "meeting").mkdir()
    run_processes(train_both_ways, 2, tmp_path / "meeting", either, tmp_path)
    one = load_state(states(tmp_path / "one")[-1]).model
    for parallel in ("ddp",) if is_compact(either) else ("ddp", "fsdp"):
        assert_same_curve(tmp_path / "one", tmp_path / parallel)
        other = load_state(states(tmp_path / parallel)[-1]).model
        for name in one:
            assert torch.allclose(one[name], other[name], atol=2e-2), name


# The model


@pytest.mark.parametrize("dora", [True, False], ids=["dora", "lora"])
def test_a_merged_adapter_embeds_as_the_unmerged_one(place, tmp_path, dora):
    chosen = recipe(place, adapter=LORA | {"dora": dora}, stages__0__steps=3, stages__0__learning_rate=0.05)
    train(chosen, tmp_path / "run", work=tmp_path)
    folder = export_run(tmp_path / "run", tmp_path / "out", dtype="float32")
    embedder, _ = start_model(chosen, open_material(chosen, None, tmp_path), "cpu")
    plain = embedder.embed_prompts(PROMPTS, IMAGES, IS_VIDEO)
    trainee = trainee_of(embedder, chosen).eval()
    state = load_state(states(tmp_path / "run")[-1])
    with torch.no_grad():
        for name, weight in trainee.weights().items():
            weight.copy_(state.model[name])
        unmerged = trainee(embedder.prepare(PROMPTS, IMAGES, IS_VIDEO)).numpy()
    merged = load_embedder(folder, device="cpu", dtype="float32")
    assert np.allclose(merged.embed_prompts(PROMPTS, IMAGES, IS_VIDEO), unmerged, atol=2e-5)
    assert np.abs(unmerged - plain).max() > 0.01
    names = {name.split(".lora_")[0].rpartition(".")[2] for name in state.model}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert "base_model: " in (folder / "README.md").read_text()


def test_only_what_a_stage_trains_moves(either, tmp_path):
    stage = recipe(either).record()["stages"][0] | {"steps": 1}
    run = tmp_path / "run"
    train(recipe(either, stages=[stage | {"trains": "language"}]), run, work=tmp_path)
    before, after = weights_of(either / "checkpoint"), load_state(states(run)[-1]).model
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved and not any(name.startswith(("visual.", "vision.", "seeing.")) for name in moved)
    train(recipe(either, stages=[stage], vision_tower="frozen"), tmp_path / "frozen", work=tmp_path)
    kept = load_state(states(tmp_path / "frozen")[-1]).model
    assert not any(name.startswith(("visual.", "vision.", "text.tokens.")) for name in kept)
    assert not is_compact(either) or {"seeing.linear.weight", "projector.weight", "shift.bias"} <= set(kept)


def test_muon_and_the_average_train(either, tmp_path):
    chosen = recipe(either, optimizer__name="muon", average={"decay": 0.5}, stages__0__steps=2)
    run = tmp_path / "run"
    train(chosen, run, work=tmp_path)
    state = load_state(states(run)[-1])
    assert len(state.optimizers) == 2 and state.average_steps == 2
    name = "vision.head.weight" if is_compact(either) else "language_model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(state.average[name], state.model[name])
    assert torch.equal(weights_of(run / "checkpoint")[name], state.average[name].bfloat16().float())
    newest = export_run(run, tmp_path / "newest", average=False, dtype="float32")
    assert torch.equal(weights_of(newest)[name], state.model[name])


def test_checkpointed_and_chunked_steps_are_the_same_steps(either, tmp_path):
    for name, changes in {
        "plain": {"chunk_positions": 10**6},
        "thrifty": {"chunk_rows": 3, "gradient_checkpointing": not is_compact(either)},
    }.items():
        train(recipe(either, stages__0__steps=2, **changes), tmp_path / name, work=tmp_path)
    assert_same_curve(tmp_path / "plain", tmp_path / "thrifty")
    assert [row["chunks"] for row in read_metrics(tmp_path / "plain")] == [1, 1]
    assert [row["chunks"] for row in read_metrics(tmp_path / "thrifty")] == [6 if is_compact(either) else 7] * 2


def test_features_of_a_frozen_tower_are_computed_once(place, tmp_path):
    embedder = random_embedder()
    batch = embedder.prepare(PROMPTS, IMAGES, IS_VIDEO)
    computed: list[int] = []

    def compute(part: Batch) -> torch.Tensor:
        computed.append(len(part.grids))
        from mmsearch.embedders.forward.qwen_vl import vision_features

        return vision_features(embedder.model.visual, part.pixel_values(), part.grids)

    with torch.no_grad():
        expected = compute(batch)
        for _ in range(2):
            cache = VisionCache(tmp_path, "tower", limit_bytes=1e6)
            assert torch.allclose(cache.features(batch, compute), expected, atol=1e-5)
        assert computed == [5, 5] and (cache.hits, cache.misses) == (5, 0)
        next((tmp_path / "tower").glob("*/*.safetensors")).write_bytes(b"broken")
        assert torch.allclose(cache.features(batch, compute), expected, atol=1e-5)
        assert computed == [5, 5, 1]
        full = VisionCache(tmp_path / "other", "tower", limit_bytes=0)
        assert torch.allclose(full.features(batch, compute), expected, atol=1e-5)
    assert not list((tmp_path / "other").rglob("*.safetensors"))
    chosen = {"vision_tower": "frozen", "stages__0__steps": 2}
    train(recipe(place, **chosen), tmp_path / "plain", work=tmp_path)
    train(recipe(place, **chosen, vision_cache_gb=1), tmp_path / "cached", work=tmp_path)
    assert_same_curve(tmp_path / "plain", tmp_path / "cached")


def test_batches_are_taken_apart_and_put_together_again():
    batch = random_embedder().prepare(PROMPTS, IMAGES, IS_VIDEO)
    rows = batch.separated()
    assert [row.lengths[0] for row in rows] == list(batch.lengths)
    assert [len(row.grids) for row in rows] == [1, 0, 1, 0, 2, 1, 0]
    again = Batch.joined(rows)
    assert again.lengths == batch.lengths and again.grids == batch.grids
    for name in ("input_ids", "pixels", "visual_index"):
        assert torch.equal(getattr(again, name), getattr(batch, name))


# The data


def test_the_published_recipe_runs_over_all_its_families(either, tmp_path):
    """V2's recipe, shrunk by changes alone, over miniature sets in the public layouts."""
    data = tmp_path / "data"
    write_published_sets(data)
    changes: dict[str, Any] = {
        "model.from": str(either / "checkpoint"),
        **({"adapter": None, "gradient_checkpointing": False} if is_compact(either) else {"adapter.rank": 2}),
        "min_pixels": 784,
        "max_pixels": {"page": 3136, "image": 3136, "clip": 3136},
        "precision": "float32",
        "workers": 0,
        "stages.0.steps": 2,
        "stages.0.pairs.batch_size_global": 32,
        "stages.0.pairs.sub_batch_size": 4,
        "saving.every_steps": None,
    }
    shrunk = load_recipe("vlm2vec_v2_qwen2vl_2b")
    kept = [source for source in shrunk.record()["sources"] if source["name"] in PUBLISHED]
    shrunk = change_recipe(shrunk, changes | {"sources": kept, "evaluation": {"every_steps": 2, "sources": kept[:1]}})
    train(shrunk, tmp_path / "run", data=data, work=tmp_path / "work")
    rows = read_metrics(tmp_path / "run")
    seen = {name.removeprefix("contrastive/") for row in rows for name in row if name.startswith("contrastive/")}
    assert seen <= set(PUBLISHED) and len(seen) >= 4
    assert all(np.isfinite(row["loss"]) and row["replay_error"] < 1e-4 for row in rows)
    assert 0 <= rows[-1]["evaluation"][f"{kept[0]['name']} hit@1"] <= 1
