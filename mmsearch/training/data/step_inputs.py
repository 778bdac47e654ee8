"""What every step is given: pairs from their mixture and teacher-vector groups, prepared ahead of time.

All of it follows from the recipe's seed, the stage and the step, so a run that is resumed is given what it would have been.
"""

from __future__ import annotations

import contextlib
import queue
import random
import threading
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmsearch.embedders.trainable import Preparing, PromptBatch
from mmsearch.errors import ConfigError
from mmsearch.training.data import pair_loader
from mmsearch.training.data.mixture import Mixture
from mmsearch.training.data.pair_loader import Example, LoadedStep, SkipReport
from mmsearch.training.data.teacher_groups import Group, SubBatch, load_groups
from mmsearch.training.data.text_teacher import Teacher
from mmsearch.training.datasets import PairSource, open_sources
from mmsearch.training.datasets.dataset_folders import DatasetFolders
from mmsearch.training.objective.kind_axes import aimed, kind_axes, principal_basis
from mmsearch.training.objective.loss import hash_key
from mmsearch.training.objective.step_loss import GroupRows, PairRows, StepInputs
from mmsearch.training.parallel.processes import Processes
from mmsearch.training.recipe.fields import Recipe

CARD_FIELD = "licence"
"""A field of a source that no parser reads: it goes into the model card."""
AHEAD = 3
"""Steps that are ready before they are asked for."""


@dataclass
class Material:
    """The opened data of a recipe.

    Attributes:
        sources: of pairs, by name. groups: teacher-vector groups, by name. teacher: None where nothing needs it.
        held_out: pairs to evaluate with, by name.
        report: bad records that were met so far. axes: of kinds, float32 [kinds, dim]; None where they play no part.
        basis: float32 [dim, dim], the teacher's directions that the model's coordinates stand for; None: the teacher's own.
    """

    recipe: Recipe
    sources: dict[str, PairSource] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    teacher: Teacher | None = None
    held_out: dict[str, PairSource] = field(default_factory=dict)
    report: SkipReport = field(default_factory=SkipReport)
    axes: np.ndarray | None = None
    basis: np.ndarray | None = None

    def mixture(self, number: int) -> Mixture | None:
        """How a stage mixes its sources; None without pairs. Stages draw differently, by the recipe's seed and their number."""
        batch = self.recipe.stages[number].pairs
        if batch is None:
            return None
        names = batch.sources or tuple(self.sources)
        weights = {
            source["name"]: source.get("weight", 1.0) for source in self.recipe.sources if source["name"] in names
        }
        return Mixture(
            sizes={name: len(self.sources[name]) for name in weights},
            weights=weights,
            global_batch=batch.batch_size_global,
            sub_batch=batch.sub_batch_size,
            seed=self.recipe.seed + number,
        )


def open_material(recipe: Recipe, data: Path | None, work: Path, groups: Mapping[str, Group] | None = None) -> Material:
    """Open what the recipe's stages draw from; `groups` are the caller's own teacher-vector groups, instead of the material's.

    Raises: DatasetError, ConfigError, MissingExtra (the teacher).
    """
    material = Material(recipe)
    if any(stage.pairs for stage in recipe.stages):
        material.sources = open_pairs(recipe.sources, data, work)
    if recipe.evaluation is not None:
        material.held_out = open_pairs(recipe.evaluation.sources, data, work)
    if groups is not None:
        missing = {name for stage in recipe.stages for name in stage.mixture} - set(groups)
        if missing:
            raise ConfigError(f"the stages draw from groups that were not given: {', '.join(sorted(missing))}")
        material.groups = dict(groups)
    elif any(stage.mixture for stage in recipe.stages) or (
        recipe.model.initial == "teacher" and not recipe.model.checkpoint
    ):
        material.teacher = Teacher(
            work / "teacher", max_tokens=recipe.teacher_text_tokens or recipe.page_text_tokens or 256
        )
        material.groups = load_groups(recipe.record(), work, material.teacher, data)
    if recipe.loss.kind_strength or recipe.loss.principal_order:
        if "text" not in material.groups:
            option = "kind_strength" if recipe.loss.kind_strength else "principal_order"
            raise ConfigError(
                f"loss.{option} needs the group 'text' in a stage's mixture: its vectors give the directions of kinds and the principal axes"
            )
        vectors = material.groups["text"].bank
        material.axes = kind_axes(vectors) if recipe.loss.kind_strength else None
        material.basis = principal_basis(vectors, material.axes) if recipe.loss.principal_order else None
    return material


def open_pairs(specs: tuple[dict[str, Any], ...], data: Path | None, work: Path) -> dict[str, PairSource]:
    """Sources of pairs by name. Raises: ConfigError, DatasetError."""
    unnamed = [number for number, spec in enumerate(specs) if not spec.get("name")]
    if unnamed:
        raise ConfigError(f"sources.{unnamed[0]} has no `name`")
    folders = DatasetFolders(root=data or Path("data"), cache=work / "datasets")
    read = {spec["name"]: {field: value for field, value in spec.items() if field != CARD_FIELD} for spec in specs}
    return open_sources(read, folders=folders)


@dataclass(frozen=True)
class PreparedPairs:
    """Some pairs ready for the model.

    Attributes:
        batch: all sides, pair by pair: query, target, then negatives.
        sides: how many each pair has. scores: a teacher's, of each pair's targets; None without.
    """

    batch: PromptBatch
    sides: tuple[int, ...]
    scores: tuple[tuple[float, ...] | None, ...]


@dataclass(frozen=True)
class PreparePairs:
    """Examples to `PreparedPairs`; can be sent to another process.

    Attributes:
        max_pixels: budgets for "image" and "clip" where a side has none of its own.
    """

    preparation: Preparing
    max_pixels: dict[str, int]

    def __call__(self, examples: list[Example]) -> PreparedPairs:
        sides = [side for example in examples for side in example.pair.sides()]
        images = [shown for example in examples for shown in example.images]
        batch = self.preparation.batch(
            [side.prompt for side in sides],
            images,
            [side.is_video for side in sides],
            [side.max_pixels or self.max_pixels["clip" if side.is_video else "image"] for side in sides],
        )
        counts = tuple(len(example.pair.sides()) for example in examples)
        return PreparedPairs(batch, counts, tuple(example.pair.teacher_scores for example in examples))


def steps_of_stage(
    material: Material, preparation: Preparing, number: int, first: int, processes: Processes
) -> Generator[StepInputs, None, None]:
    """This process's inputs for the steps of stage `number` from `first` on, made ahead in a thread (and loader workers)."""
    return ahead(_steps(material, preparation, number, first, processes))


def _steps(
    material: Material, preparation: Preparing, number: int, first: int, processes: Processes
) -> Generator[StepInputs, None, None]:
    recipe, stage = material.recipe, material.recipe.stages[number]
    budgets: dict[str, int] = {str(kind): pixels for kind, pixels in recipe.max_pixels.items()} | stage.max_pixels
    mixture = material.mixture(number)
    pairs: Iterator[LoadedStep[PreparedPairs]] | None = None
    if mixture is not None:
        pairs = pair_loader.batches(
            mixture,
            {name: material.sources[name] for name in mixture.names},
            PreparePairs(preparation, budgets),
            rank=processes.rank,
            world_size=processes.count,
            workers=recipe.workers,
            threads=recipe.workers_are == "threads",
            first_step=first,
            last_step=stage.steps,
            report=material.report,
        )
    indices = {name: index for index, name in enumerate(material.sources)}
    with contextlib.closing(pairs) if pairs is not None else contextlib.nullcontext():  # type: ignore[type-var]
        for step in range(first, stage.steps):
            rows: list[PromptBatch] = []
            contrast = None
            if pairs is not None:
                rows, contrast = pair_rows(next(pairs), indices)
            groups = []
            for name, share in stage.mixture.items():
                rng = random.Random(f"{recipe.seed}:{stage.name}:{step}:{name}")
                drawn = material.groups[name].draw(share.batch, rng, stage.sizes)
                own, group = group_rows(
                    drawn,
                    preparation,
                    budgets,
                    processes,
                    material.axes if share.kinds else None,
                    recipe.loss.kind_strength,
                    material.basis,
                )
                rows += own
                groups.append(group)
            yield StepInputs(rows, contrast, groups, sum(material.report.counts().values()))


def pair_rows(loaded: LoadedStep[PreparedPairs], indices: dict[str, int]) -> tuple[list[PromptBatch], PairRows]:
    """Queries, then targets in the order of their queries, and what is known of them."""
    queries: list[PromptBatch] = []
    targets: list[PromptBatch] = []
    counts: list[int] = []
    keys: list[int] = []
    scores: list[float] = []
    sources: list[int] = []
    for portion in loaded.portions:
        sides = iter(portion.made.batch.separated())
        for source, key, count, known in zip(
            portion.sources, portion.target_keys, portion.made.sides, portion.made.scores, strict=True
        ):
            queries.append(next(sides))
            targets += [next(sides) for _ in range(count - 1)]
            counts.append(count - 1)
            keys += [hash_key(key), *[hash_key(None)] * (count - 2)]
            scores += known or [float("nan")] * (count - 1)
            sources.append(indices[source])
    has_scores = any(score == score for score in scores)
    return [*queries, *targets], PairRows(
        torch.tensor(counts),
        torch.tensor(sources),
        torch.tensor(keys),
        torch.tensor(scores) if has_scores else None,
    )


def group_rows(
    drawn: SubBatch,
    preparation: Preparing,
    budgets: dict[str, int],
    processes: Processes,
    axes: np.ndarray | None = None,
    strength: float = 0.0,
    basis: np.ndarray | None = None,
) -> tuple[list[PromptBatch], GroupRows]:
    """This process's prompts of a sub-batch that every process draws alike."""
    shares = [range(rank, len(drawn.prompts), processes.count) for rank in range(processes.count)]
    own = shares[processes.rank]
    kind = {"photo": "image", "text": "image"}.get(drawn.group, drawn.group)
    budget = [budgets.get(kind, budgets["image"])] * len(own)
    batch = preparation.batch(
        [drawn.prompts[row] for row in own],
        [drawn.images[row] for row in own],
        [drawn.is_video[row] for row in own],
        budget,
    )
    order = [row for share in shares for row in share]
    targets, bank = torch.from_numpy(drawn.targets[order]), torch.from_numpy(drawn.bank)
    turn = None if basis is None else torch.from_numpy(basis)
    if axes is None or not any(drawn.kinds):
        return batch.separated(), GroupRows(drawn.group, len(own), targets, bank, basis=turn)
    aims = torch.from_numpy(aimed(drawn.targets, drawn.kinds, axes, strength)[order])
    return batch.separated(), GroupRows(drawn.group, len(own), targets, bank, aims, torch.from_numpy(axes), turn)


def ahead(steps: Generator[StepInputs, None, None], depth: int = AHEAD) -> Generator[StepInputs, None, None]:
    """The same, at most `depth` of them made before they are asked for, in a thread."""
    ready: queue.Queue[StepInputs | BaseException | None] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(item: StepInputs | BaseException | None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put(item, timeout=0.2)

    def work() -> None:
        try:
            for item in steps:
                put(item)
                if stopped.is_set():
                    break
            put(None)
        except BaseException as error:
            put(error)
        finally:
            steps.close()

    thread = threading.Thread(target=work, name="draw", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join(timeout=10)
