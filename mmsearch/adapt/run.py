"""An adaptation from beginning to end: plan, decode, train, mix old and new weights, measure on held-out files, keep it only if better.

The library is only read: its vectors and answers stay what they are, whatever happens here. Everything lies in `adapted/` inside the
library's folder, where ingestion does not look for files. Stopped at any moment, the same call goes on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ingest.decode.again import decoded
from ingest.estimate import DECODE_S, measure_costs
from mmsearch import prompts
from mmsearch.adapt import judge, material
from mmsearch.adapt.budget import (
    AFTERWARDS_SHARE,
    CHOOSING_SHARE,
    DECODING_SHARE,
    PROBING_SHARE,
    Budget,
    by_file,
    thinned,
)
from mmsearch.adapt.judge import PICTURE_ALONE, Asked, Verdict
from mmsearch.adapt.kept import vectors_of
from mmsearch.adapt.mixing import SHARES, Mixer
from mmsearch.adapt.pictures import Pictures
from mmsearch.adapt.plan import Plan, Question, make_plan
from mmsearch.catalog.vectors import unit
from mmsearch.disk.lock import locked
from mmsearch.disk.replace import replace_file
from mmsearch.embedders import Embedder, load_embedder
from mmsearch.embedders.checkpoints import checkpoint as files
from mmsearch.embedders.trainable import Trainable, trainable
from mmsearch.errors import ConfigError, ModelMismatch
from mmsearch.items import KINDS, WITHOUT_TEXT, EmbedInput, Item, ItemDraft, Kind, Query, Source
from mmsearch.library import Library
from mmsearch.training.recipe import change_recipe, parse_recipe
from mmsearch.training.recipe.fields import Recipe
from mmsearch.training.run.export import export_run
from mmsearch.training.run.metrics_log import read_metrics
from mmsearch.training.train import train
from mmsearch.words import count_of, duration

log = logging.getLogger(__name__)

FOLDER_NAME = "adapted"
PLAN, RECIPE, REPORT = "plan.json", "recipe.json", "report.json"
MARK = "adapted.json"
"""In a kept checkpoint: the sha256 of the files that it was adapted to."""
SCRATCH = ("pictures", "pairs", "probe", "training", "trained", "work", "candidate")
DEFAULT_MINUTES = 10.0
PROBE_STEPS = 4
VALIDATION_POOL = 300
"""Trained items per kind among which validation queries look for theirs."""
ALONE_POOL = 400
"""Pages that are also embedded by their pictures alone."""
EMBED_BATCH = 32
ASKED_TO_TIME = 16
LIMITED_BATCH = 8
"""Where there is a time to end at: a batch is finished beyond it."""
MODELS_LOADED, MODELS_TRAINED = 3, 2
"""After the last step models are opened so often, and so often they are written as the probe writes its states and checkpoint; each takes
what the first one took."""
TOLD_EVERY_S = 10.0
READS_FROM = 0.2
"""Reliability of a model on pages without text from which on their pictures alone are trained and asked for."""
MEASURED_SHARE_LEAST = 0.002
"""A larger share of the new weights must gain this much on validation queries."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Adaptation:
    """What came of it.

    Attributes:
        checkpoint: the new model, kept because it is better; None: the old one stays.
        share: of the trained weights in what was measured.
        validation: scores of each share on validation queries, 0 being the old model.
        forgot: mean of 1 - cosine between old and new vectors of everyday queries.
    """

    checkpoint: Path | None
    verdict: Verdict
    share: float
    validation: Mapping[float, float]
    forgot: float
    pairs: Mapping[str, int]
    steps: int
    seconds: float
    notes: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """For people: the tables, and what was decided."""
        trained = ", ".join(f"{count:,} {source}" for source, count in self.pairs.items())
        yield f"trained on {trained} pairs, {count_of(self.steps, 'step')}; measured on files that were kept out of training:"
        yield from self.verdict.table()
        yield (
            f"{self.share:.0%} of the new weights, chosen on other files than these; everyday queries moved by {self.forgot:.3f} (1 - cosine)"
        )
        yield from self.notes
        if self.checkpoint is not None:
            yield f"better: the new model is kept in {self.checkpoint}; the library still uses the old one"
        else:
            yield f"the old model stays: {'; '.join(self.verdict.reasons)}"

    def record(self) -> dict[str, Any]:
        return {
            "checkpoint": None if self.checkpoint is None else str(self.checkpoint),
            "verdict": self.verdict.record(),
            "share": self.share,
            "validation": {str(share): score for share, score in self.validation.items()},
            "forgot": self.forgot,
            "pairs": dict(self.pairs),
            "steps": self.steps,
            "seconds": self.seconds,
            "notes": list(self.notes),
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Adaptation:
        """The inverse of `record`."""
        return cls(
            **{
                **record,
                "checkpoint": None if record["checkpoint"] is None else Path(record["checkpoint"]),
                "verdict": Verdict.of(record["verdict"]),
                "validation": {float(share): score for share, score in record["validation"].items()},
                "notes": tuple(record["notes"]),
            }
        )


def adapt_to_library(
    library: Library,
    *,
    run: Path | None = None,
    judged: Path | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    changes: Mapping[str, Any] | None = None,
    fresh: bool = False,
    tell: Tell = log.info,
) -> Adaptation:
    """Adapt the library's model to its files and measure it; see the module.

    Args:
        run: folder of the run; `adapted/` in the library's folder if None. Kept models lie in it as `model-…`.
        judged: queries with right answers, see `mmsearch.judgements.queries`.
        minutes: for everything, from this call to its end; `DEFAULT_MINUTES` if None. Training is never more than a few passes over the
            pairs. What does not fit, is left out: pictures that would have to be decoded, and items of the pool that is searched.
        steps: of training, instead of `minutes`: then nothing limits the time.
        changes: to the recipe, see `mmsearch.training.recipe.change_recipe`.
        fresh: begin again; else a run that was stopped goes on, and a finished one is told again.
        tell: is given lines for people as it goes.

    Raises:
        DatasetError: the library is too small. ConfigError: a model that cannot be trained; a run of other settings in that folder.
        ModelMismatch: the library was embedded by another model. LibraryLocked: another adaptation is at work in that folder.
    """
    run = run or library.folder / FOLDER_NAME
    run.mkdir(parents=True, exist_ok=True)
    with locked(run):
        if fresh:
            _forget(run)
        limit_s = math.inf if steps is not None else 60 * (minutes or DEFAULT_MINUTES)
        return _Run(library, run, judged, tell, Budget(limit_s)).through(steps, changes or {})


class _Run:
    """One call: its steps in order, and what they share."""

    def __init__(self, library: Library, run: Path, judged: Path | None, tell: Tell, budget: Budget) -> None:
        self.library = library
        self.folder = run
        self.judged = judged
        self.tell = tell
        self.budget = budget
        self.start = _checkpoint_of(library.model.name)
        began = time.monotonic()
        self.embedder = _trainable(library)
        self.loading_s = MODELS_LOADED * (time.monotonic() - began)
        self.asking_s = 0.0
        self.costs: dict[Kind, float] = {}
        self.pictures = Pictures(run / "pictures")
        measured = self.embedder.match_scale.get(WITHOUT_TEXT)
        self.reads_print = measured is None or measured.reliability >= READS_FROM

    def through(self, steps: int | None, changes: Mapping[str, Any]) -> Adaptation:
        plan = self.plan()
        if (self.folder / REPORT).exists():
            self.tell("this run is finished; --fresh begins another")
            return Adaptation.of(_read(self.folder / REPORT))
        items = self.library.catalog.items.of(plan.ids("train", "validation", "held out"))
        self.decode(plan, items)
        recipe, groups = self.recipe(plan, items, steps, changes)
        trained, steps_done = self.train(recipe, groups, items)
        mixer = Mixer(self.start, trained, device=self.library.settings.device)
        share, validation = self.choose_share(mixer, plan, items)
        candidate = self.folder / "candidate"
        forgot = self.save_candidate(mixer, share, candidate, groups)
        del mixer
        verdict = self.measure(candidate, plan, items)
        if verdict.is_better and validation and max(validation, key=validation.__getitem__) == 0.0:
            verdict = Verdict(
                verdict.rows, verdict.gain, verdict.interval, ("on the validation files the old model is better",)
            )
        found = Adaptation(
            checkpoint=None, verdict=verdict, share=share, validation=validation, forgot=forgot, pairs=plan.pair_counts(),
            steps=steps_done, seconds=time.monotonic() - self.budget.began, notes=tuple(plan.notes),
        )  # fmt: skip
        return self.finish(found, candidate, plan)

    # ---- before training

    def plan(self) -> Plan:
        """That of the run's folder, or a new one."""
        settings = {
            "model_key": self.embedder.model_key,
            "judged": None if self.judged is None else hashlib.sha256(_bytes_of(self.judged)).hexdigest(),
        }
        path = self.folder / PLAN
        plan = Plan.load(path)
        if plan is not None and plan.settings != settings:
            raise ConfigError(
                f"{self.folder} holds a run with another model or other judged queries; begin again with --fresh"
            )
        if plan is None:
            _forget(self.folder)
            mark = files.find_checkpoint(self.start).file(MARK)
            former = set(_read(mark)["files"]) if mark is not None else set()
            plan = make_plan(
                self.library.catalog,
                settings,
                trained=former,
                judged=self.judged,
                reads_text=self.embedder.page_text,
                reads_print=self.reads_print,
            )
            plan.save(path)
        parts = [f"{sum(part == wanted for part in plan.files.values()):,} {word}" for wanted, word in _PARTS.items()]
        self.tell(f"{count_of(len(plan.files), 'file')}: {', '.join(parts)}")
        self.tell(f"{len(plan.pairs):,} pairs: {', '.join(f'{n:,} {name}' for name, n in plan.pair_counts().items())}")
        return plan

    def decode(self, plan: Plan, items: Sequence[Item]) -> None:
        """Pictures of what is trained on and chosen by."""
        said = {pair.item_id for pair in plan.pairs}
        validates = set(plan.ids("validation"))
        needed = [item for item in items if item.id in said or item.id in validates] + material.unsaid(plan, items)
        needed = by_file(needed)
        told = _Told(self.tell, "decoded", sum(not self.pictures.has(item) for item in needed))
        until = self.budget.at(DECODING_SHARE)
        self.pictures.fill(self.library, self.embedder, needed, until=until, on_item=told.one)
        if time.monotonic() > until:
            self.tell(f"decoded {told.done:,} of {told.total:,} items in the time for it: the others are left out")

    def recipe(
        self, plan: Plan, items: Sequence[Item], steps: int | None, changes: Mapping[str, Any]
    ) -> tuple[Recipe, dict[str, Any]]:
        """The recipe, decided once per run, and the groups that hold the model to what it knew."""
        written = material.write_pairs(plan, self.pictures, self.embedder, self.folder / "pairs")
        if not written:
            hint = ", or is there too little time (--minutes)" if self.budget.is_limited else ""
            raise ConfigError(
                f"hardly any of the library's files could be read again; are they still where they were{hint}?"
            )
        trains = set(plan.ids("train"))
        vectors = self.stored([item for item in items if item.id in trains])
        own = [item for item in items if item.id in trains]
        groups: dict[str, Any] = dict(material.kept_groups(plan, own, vectors, self.pictures, self.embedder))
        if self.budget.is_limited:
            kinds = [kind for kind in KINDS if any(item.kind == kind for item in items)]
            self.costs = measure_costs(self.embedder, kinds)
            some = plan.held_out[:ASKED_TO_TIME]
            began = time.monotonic()
            _encoded(some, self.embedder)
            times_asked = (1 + len(SHARES)) * len(plan.validation) + 2 * len(plan.held_out)
            self.asking_s = (time.monotonic() - began) / len(some) * times_asked
        path = self.folder / RECIPE
        if path.exists():
            return parse_recipe(_read(path), "the run's recipe"), groups
        recipe = change_recipe(material.make_recipe(self.embedder, self.start, written, groups, steps=steps), changes)
        if self.budget.is_limited:
            recipe = self.within(recipe, groups, items)
        _write(path, recipe.record())
        return recipe, groups

    def afterwards_s(self, items: Sequence[Item]) -> float:
        """What choosing and measuring would take if nothing were left out."""
        measured_s = sum(max(self.costs.get(item.kind, 0.0), DECODE_S[item.kind]) for item in items)
        return 1.5 * measured_s + self.asking_s

    def within(self, recipe: Recipe, groups: dict[str, Any], items: Sequence[Item]) -> Recipe:
        """The recipe with as many steps as fit into the time, by timing a few of them."""
        probe = change_recipe(recipe, {"stages.0.steps": PROBE_STEPS, "stages.0.warmup": 1})
        folder = self.folder / "probe"
        until = self.budget.at(PROBING_SHARE)
        began = time.monotonic()
        train(probe, folder, data=self.folder, work=self.folder / "work", fresh=True, groups=groups,
              device=self.library.settings.device, ends_at=until)  # fmt: skip
        rows = read_metrics(folder)
        self.loading_s += MODELS_TRAINED * (time.monotonic() - began - sum(row["seconds"] for row in rows))
        step_s = median(row["seconds"] for row in rows[1:] or rows)
        shutil.rmtree(folder, ignore_errors=True)
        wanted = recipe.stages[0].steps
        ends_at = self.budget.training_ends_at(self.afterwards_s(items), self.loading_s, self.asking_s)
        training_s = ends_at - time.monotonic()
        possible = max(0, int(training_s / step_s))
        if possible < material.LEAST_STEPS:
            lacks_s = (material.LEAST_STEPS * step_s - training_s) / (1 - AFTERWARDS_SHARE)
            raise ConfigError(
                f"a training step takes {step_s:.1f} s here: beside decoding and measuring, {self.budget.seconds / 60:g} minutes hold "
                f"{possible} of them, at least {material.LEAST_STEPS} are needed; "
                f"give --minutes {math.ceil((self.budget.seconds + lacks_s) / 60)} or more"
            )
        steps = min(wanted, possible)
        after_s = min(self.budget.ends_at - ends_at, self.afterwards_s(items) + self.loading_s)
        self.tell(
            f"{count_of(steps, 'step')} of {step_s:.1f} s, about {duration(steps * step_s)}; "
            f"then measuring, about {duration(after_s)}"
        )
        return change_recipe(recipe, {"stages.0.steps": steps, "stages.0.warmup": max(2, steps // 10)})

    # ---- training

    def train(self, recipe: Recipe, groups: dict[str, Any], items: Sequence[Item]) -> tuple[Path, int]:
        """The trained weights, in float32, and the number of steps that made them."""
        trained, folder = self.folder / "trained", self.folder / "training"
        if not (trained / "model.safetensors").exists():
            ends_at = self.budget.training_ends_at(self.afterwards_s(items), self.loading_s, self.asking_s)
            train(recipe, folder, data=self.folder, work=self.folder / "work", groups=groups,
                  device=self.library.settings.device, ends_at=ends_at if self.budget.is_limited else None)  # fmt: skip
            export_run(folder, trained, dtype="float32")
        return trained, len(read_metrics(folder))

    def choose_share(self, mixer: Mixer, plan: Plan, items: Sequence[Item]) -> tuple[float, dict[float, float]]:
        """The share of the new weights that answers the validation queries best, and every share's score."""
        pool = self.validation_pool(plan, items)
        if len(plan.validation) < judge.LEAST_QUERIES:
            self.tell("too few validation queries: half of the new weights are taken")
            return 0.5, {}
        scored: dict[float, float] = {}
        if self.budget.is_limited:
            allowed_s = CHOOSING_SHARE * max(0.0, self.budget.left_s() - self.loading_s / 2 - self.asking_s)
            pool = thinned(pool, self.costs, allowed_s / (1 + len(SHARES)))
            if not pool:
                self.tell("too little time to choose: half of the new weights are taken")
                return 0.5, {}
        for share in (0.0, *SHARES):
            embedder = mixer.set_share(share)
            vectors = _pool_of(pool, _embedded(embedder, ((item, self.pictures.images(item)) for item in pool)))
            alone = [i for i in pool if i.kind == "page" and i.text.strip() and embedder.page_text and self.reads_print]
            shown = ((item, self.pictures.images(item)) for item in alone)
            vectors[PICTURE_ALONE] = _embedded(embedder, shown, with_text=False)
            by_kind = _kind_scores(plan.validation, vectors, embedder)
            scored[share] = float(np.mean(list(by_kind.values()))) if by_kind else 0.0
            told = ", ".join(f"{kind} {score:.3f}" for kind, score in by_kind.items())
            self.tell(f"{share:.0%} of the new weights: {scored[share]:.3f} on validation queries ({told})")
        best = SHARES[0]
        for share in SHARES[1:]:
            if scored[share] > scored[best] + MEASURED_SHARE_LEAST:
                best = share
        return best, scored

    def validation_pool(self, plan: Plan, items: Sequence[Item]) -> list[Item]:
        validates, trains = set(plan.ids("validation")), set(plan.ids("train"))
        pool = [item for item in items if item.id in validates and self.pictures.has(item)]
        for kind in KINDS:
            others = (i for i in items if i.kind == kind and i.id in trains and self.pictures.has(i))
            pool += [item for item, _ in zip(others, range(VALIDATION_POOL), strict=False)]
        return pool

    def save_candidate(self, mixer: Mixer, share: float, folder: Path, groups: Mapping[str, Any]) -> float:
        """Write what is to be measured; returns how far everyday queries moved."""
        shutil.rmtree(folder, ignore_errors=True)
        mixer.set_share(share)
        name = self.embedder.name.removesuffix("-adapted")
        mixer.save(folder, name=f"{name}-adapted")
        everyday = groups["text"]
        moved = vectors_of(mixer.embedder, everyday.prompts)
        return float(np.mean(1 - np.einsum("nd,nd->n", moved, everyday.bank)))

    # ---- judging

    def measure(self, candidate: Path, plan: Plan, items: Sequence[Item]) -> Verdict:
        """Both models on the held-out queries, among all items. The old vectors are the library's own."""
        settings = self.library.settings
        new = load_embedder(candidate, device=settings.device, dtype=settings.dtype)
        asked_for = {item_id for question in plan.held_out for item_id in question.relevant}
        alone = self.alone_pool(items, asked_for) if new.page_text and self.reads_print else set()
        asked = _asked(plan.held_out, alone, self.embedder, new)
        after: dict[int, np.ndarray] = {}
        before_alone: dict[int, np.ndarray] = {}
        after_alone: dict[int, np.ndarray] = {}
        told = _Told(self.tell, "measured", len(items))
        until = self.budget.ends_at
        shown = decoded(self.library, new, by_file(items, first=asked_for), until=until)
        for batch in _batches(shown, EMBED_BATCH if not self.budget.is_limited else LIMITED_BATCH):
            if time.monotonic() > until:
                break
            after |= _rounded(batch, new.encode_documents([_input(item, draft.images, new) for item, draft in batch]))
            some = [(item, draft) for item, draft in batch if item.id in alone]
            if some:
                blind = [_input(item, draft.images, new, with_text=False) for item, draft in some]
                before_alone |= _rounded(some, self.embedder.encode_documents(blind))
                after_alone |= _rounded(some, new.encode_documents(blind))
            for _ in batch:
                told.one()
        if time.monotonic() > until:
            note = f"the time was over when {len(after):,} of {count_of(len(items), 'item')} were measured: queries were asked among these"
            plan.notes.append(note)
        before = _pool_of(items, self.stored(items)) | {PICTURE_ALONE: before_alone}
        return judge.judge(asked, before, _pool_of(items, after) | {PICTURE_ALONE: after_alone})

    def alone_pool(self, items: Sequence[Item], asked_for: set[int]) -> set[int]:
        pages = [item.id for item in items if item.kind == "page" and item.text.strip()]
        others = [item_id for item_id in pages if item_id not in asked_for]
        step = max(1, len(others) // ALONE_POOL)
        return {item_id for item_id in pages if item_id in asked_for} | set(others[::step][:ALONE_POOL])

    def stored(self, items: Iterable[Item]) -> dict[int, np.ndarray]:
        """The library's vectors, by item."""
        ids, vectors = self.library.catalog.vectors.of([item.id for item in items], self.embedder.model_key)
        return dict(zip(ids.tolist(), vectors, strict=True))

    def finish(self, found: Adaptation, candidate: Path, plan: Plan) -> Adaptation:
        """Keep the model if it is better, write the report, tidy up."""
        if found.verdict.is_better:
            digest = files.find_checkpoint(candidate).sha256()
            folder = self.folder / f"model-{digest[:8]}"
            found = Adaptation.of({**found.record(), "checkpoint": str(folder)})
            mark = files.find_checkpoint(self.start).file(MARK)
            former = _read(mark)["files"] if mark is not None else []
            own = [sha256 for sha256, part in plan.files.items() if part != "held out"]
            _write(candidate / MARK, {"from": self.start, "files": sorted({*former, *own})})
            (candidate / "README.md").write_text(_card(found, self.start), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            candidate.rename(folder)
        _write(self.folder / REPORT, found.record())
        for name in SCRATCH:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        return found


_PARTS = {"train": "to train on", "validation": "to choose by", "held out": "held out"}


def _checkpoint_of(name: str) -> str:
    """The model as it can be opened from any working folder."""
    if name == "toy":
        raise ConfigError("the model toy cannot be trained; ingest with another one first")
    found = files.find_checkpoint(name)
    place = found.adapter or found.base
    return name if place.is_relative_to(files.SHIPPED) else str(place)


def _trainable(library: Library) -> Trainable:
    if (active := library.model_key) is None:
        raise ConfigError(f"the library at {library.folder} is empty: `mmsearch ingest FOLDER` fills it")
    embedder = trainable(library.embedder)
    if embedder is None:
        raise ConfigError(
            f"the model {library.model.name} cannot be trained; ingest with a Qwen2-VL or compact_vlm checkpoint first"
        )
    if embedder.model_key != active:
        raise ModelMismatch(
            f"the library holds vectors of model {active}, not of {library.model.name!r} ({embedder.model_key}): ingest first"
        )
    return embedder


def _forget(run: Path) -> None:
    """All of a run but kept models."""
    for name in SCRATCH:
        shutil.rmtree(run / name, ignore_errors=True)
    for name in (PLAN, RECIPE, REPORT):
        (run / name).unlink(missing_ok=True)


def _input(item: Item, images: Sequence[Any], embedder: Embedder, *, with_text: bool = True) -> EmbedInput:
    """As ingestion would embed it, with the text that the catalog has."""
    source = Source(item.path, "", 0, 0)
    draft = ItemDraft(source, item.kind, item.ordinal, text=item.text, images=tuple(images))
    return prompts.document_input(draft, with_text=with_text and embedder.page_text)


def _embedded(
    embedder: Embedder, shown: Iterable[tuple[Item, Sequence[Any]]], *, with_text: bool = True
) -> dict[int, np.ndarray]:
    vectors: dict[int, np.ndarray] = {}
    for batch in _batches(shown, EMBED_BATCH):
        inputs = [_input(item, images, embedder, with_text=with_text) for item, images in batch]
        vectors |= _rounded(batch, embedder.encode_documents(inputs))
    return vectors


def _rounded(batch: Sequence[tuple[Item, Any]], vectors: np.ndarray) -> dict[int, np.ndarray]:
    """By item, with the digits that the catalog would keep."""
    return dict(zip((item.id for item, _ in batch), unit(vectors.astype(np.float16)), strict=True))


def _batches(things: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch = []
    for thing in things:
        batch.append(thing)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _pool_of(items: Sequence[Item], vectors: Mapping[int, np.ndarray]) -> dict[str, dict[int, np.ndarray]]:
    return {kind: {i.id: vectors[i.id] for i in items if i.kind == kind and i.id in vectors} for kind in KINDS}


def _encoded(questions: Sequence[Question], embedder: Embedder) -> np.ndarray:
    inputs = [prompts.query_input(Query(text=q.query, instruction=q.instruction), q.kind) for q in questions]
    return embedder.encode_queries(inputs)


def _asked(questions: Sequence[Question], alone: Collection[int], old: Embedder, new: Embedder) -> list[Asked]:
    """`alone`: the items that are embedded by their pictures alone, too."""
    before, after = _encoded(questions, old), _encoded(questions, new)
    return [
        Asked(question, kind, before[row], after[row])
        for row, question in enumerate(questions)
        for kind in judge.row_kinds(question, alone)
    ]


def _kind_scores(
    questions: Sequence[Question], vectors: Mapping[str, judge.Vectors], embedder: Embedder
) -> dict[str, float]:
    """By kind with enough questions the mean of R@10 and nDCG@5."""
    encoded = _encoded(questions, embedder)
    means = {}
    for kind, pool in vectors.items():
        rows = [
            row
            for row, question in enumerate(questions)
            if kind in judge.row_kinds(question, vectors[PICTURE_ALONE]) and any(i in pool for i in question.relevant)
        ]
        if len(rows) >= judge.LEAST_QUERIES:
            found = judge.scores([questions[row] for row in rows], [encoded[row] for row in rows], pool, sorted(pool))
            means[kind] = float(np.mean([values.mean() for values in found.values()]))
    return means


class _Told:
    """Progress over items, a line now and then."""

    def __init__(self, tell: Tell, verb: str, total: int) -> None:
        self.tell, self.verb, self.total = tell, verb, total
        self.done = 0
        self.told_at = time.monotonic()

    def one(self) -> None:
        self.done += 1
        if time.monotonic() - self.told_at >= TOLD_EVERY_S:
            self.told_at = time.monotonic()
            self.tell(f"{self.verb} {self.done:,} of {self.total:,} items")


def _card(found: Adaptation, start: str) -> str:
    lines = [
        f"# Adapted to a library ({date.today().isoformat()})",
        "",
        f"From {start}. Made of the user's own files; keep it private.",
        "",
    ]
    return "\n".join([*lines, *found.lines(), ""])


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, record: Mapping[str, Any]) -> None:
    with replace_file(path, durable=False) as temporary:
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
