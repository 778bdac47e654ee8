"""Training: a recipe in, a checkpoint out. `python -m mmsearch.training.train --recipe from_nothing --run runs/from_nothing`

The same under `torchrun --nproc-per-node=8 -m -- mmsearch.training.train …` (without `--` torchrun takes `--run` for its own): N
processes compute what one would. A run may be killed at any moment and started again; it goes on from its newest state as if nothing
had happened.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import yaml

from mmsearch.disk.lock import locked
from mmsearch.embedders.trainable import Trainable
from mmsearch.errors import ConfigError
from mmsearch.training.data.step_inputs import open_material
from mmsearch.training.data.teacher_groups import Group
from mmsearch.training.parallel.processes import Processes, shard, started
from mmsearch.training.recipe import change_recipe, load_recipe, parse_changes
from mmsearch.training.recipe.fields import Recipe
from mmsearch.training.run import export
from mmsearch.training.run.metrics_log import METRICS, PLOT, plot_metrics
from mmsearch.training.run.saved_state import State, check_state, load_state, remove_parts, states
from mmsearch.training.run.session import Session
from mmsearch.training.run.starting_model import start_model
from mmsearch.training.run.trainee import Trainee, trainee_of
from mmsearch.training.run.vision_cache import open_cache

log = logging.getLogger(__name__)

WORK = Path("runs/work")
"""Rendered pages, teacher vectors, visual features: made once, used by many runs."""

Evaluate = Callable[[Trainable], dict[str, float]]


def train(
    recipe: Recipe,
    run: Path,
    *,
    data: Path | None = None,
    work: Path = WORK,
    fresh: bool = False,
    device: str | None = None,
    evaluate: Evaluate | None = None,
    groups: Mapping[str, Group] | None = None,
    ends_at: float | None = None,
) -> Path:
    """Run a recipe to its end, or on from where it was interrupted.

    Ctrl-C and SIGTERM end the step, save a state and raise KeyboardInterrupt; after any other end the newest state counts.

    Args:
        run: folder for everything of this run: `recipe.yaml`, `model/` (configuration and tokenizer), `state-*.pt`, `metrics.jsonl`,
            `metrics.png` and, at the end, `checkpoint/` in the layout of the model's family.
        data: folder of the training data: where sources of pairs are looked for by name, and the material of teacher-vector groups;
            `data/` and the repository's shared material if None.
        work: folder of what is made from the data once, shared by runs.
        fresh: forget what an earlier run left in `run`.
        device: "cpu", "cuda"; the GPUs if there are any.
        evaluate: called every `evaluation.every_steps` steps, in the first process, with the model as it is; its numbers go into
            `metrics.jsonl`. None: the held-out pairs of the recipe's `evaluation` are ranked.
        groups: teacher-vector groups by name that the stages' `mixture` draws from, instead of those of the repository's material.
        ends_at: the moment (`time.monotonic`) after which no step begins but the first, whatever the recipe says; the schedule of the learning rate
            ends with it. The weights as they are then make the checkpoint.

    Returns: the checkpoint folder.

    Raises:
        ConfigError: a recipe that contradicts itself or the machine; a state of another recipe or model.
        DatasetError: data that is not there. EmbedderError: a model that cannot be opened.
        LibraryLocked: another training writes into `run`, as the workers do when only their `torchrun` was killed.
    """
    with started(device) as processes, _held(run, processes):
        state = _open_run(run, recipe, fresh, processes)
        material = open_material(recipe, data, work, groups)
        embedder, base = start_model(recipe, material, processes.device, will_be_filled=state is not None)
        if state is not None:
            check_state(state, recipe.record(), base, run)
        elif processes.is_first:
            embedder.save_without_weights(run / export.FRAME)
        trainee = trainee_of(embedder, recipe, cache=open_cache(recipe, embedder, work))
        log.info("%s", _parameters_sentence(trainee))
        if recipe.parallel == "fsdp" and processes.count > 1:
            shard(trainee, trainee.layers, trainee.precision)
            trainee.is_sharded = True
        session = Session(recipe, run, trainee, material, processes, base=base, evaluate=evaluate, ends_at=ends_at)
        session.run(state)
        folder = run / "checkpoint"
        if processes.is_first:
            plot_metrics(run)
            export.export_run(run, folder)
        processes.wait()
    return folder


@contextlib.contextmanager
def _held(run: Path, processes: Processes) -> Iterator[None]:
    """The folder of the run, made where it is missing, for this training alone."""
    with contextlib.ExitStack() as stack:
        if processes.is_first:
            run.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(run))
        yield


def _open_run(run: Path, recipe: Recipe, fresh: bool, processes: Processes) -> State | None:
    """The folder made ready, and the newest state in it."""
    if processes.is_first:
        remove_parts(run)
        if fresh:
            for path in [*states(run), run / METRICS, run / PLOT]:
                path.unlink(missing_ok=True)
            for folder in (run / export.FRAME, run / "checkpoint"):
                shutil.rmtree(folder, ignore_errors=True)
        if not states(run):
            text = yaml.safe_dump(recipe.record(), sort_keys=False, allow_unicode=True)
            (run / "recipe.yaml").write_text(text, encoding="utf-8")
    processes.wait()
    found = states(run)
    return load_state(found[-1]) if found else None


def _parameters_sentence(trainee: Trainee) -> str:
    total = sum(weight.numel() for weight in trainee.parameters())
    trained = sum(weight.numel() for weight in trainee.weights().values())
    return f"{total / 1e6:.1f}M parameters, {trained / 1e6:.1f}M of them trained"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="from_nothing", help="a name or a YAML file")
    parser.add_argument("--run", type=Path, help="folder of the run [default: runs/<recipe>]")
    parser.add_argument("--data", type=Path, help="folder of the training data")
    parser.add_argument("--work", type=Path, default=WORK, help="rendered pages, teacher vectors, visual features")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change the recipe: stages.0.steps=10"
    )
    parser.add_argument("--fresh", action="store_true", help="start again, whatever is in the run's folder")
    parser.add_argument("--device", help="cpu, cuda")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    recipe = change_recipe(load_recipe(arguments.recipe), parse_changes(arguments.set))
    run = arguments.run or Path("runs") / Path(arguments.recipe).stem
    try:
        folder = train(
            recipe, run, data=arguments.data, work=arguments.work, fresh=arguments.fresh, device=arguments.device
        )
    except ConfigError as error:
        parser.error(str(error))
    log.info("checkpoint in %s", folder)


if __name__ == "__main__":
    main()
