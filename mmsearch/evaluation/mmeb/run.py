"""A benchmark run: task by task encode, rank, write; whatever was finished with equal means is not done again.

Files of a task, in `<out>/<modality>/`, each replaced as a whole: `<task>_score.json`, `<task>_pred.jsonl` (the best 100 candidates of
each query), `<task>_info.jsonl`, in the reference's formats; and last `<task>_run.json`, which says from what they were made. A run
over the first N queries goes to `<out>/first-N/`, so that nobody takes it for a whole one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from mmsearch import __version__
from mmsearch.disk.replace import replace_file
from mmsearch.embedders import Embedder, load_embedder
from mmsearch.embedders.checkpoints.device import default_dtype
from mmsearch.errors import ConfigError, DatasetError, MMSearchError
from mmsearch.evaluation.mmeb.encode import Encoded, Input, SideEncoder
from mmsearch.evaluation.mmeb.tasks import Task, in_protocol
from mmsearch.evaluation.ranking import Ranked, mean_values
from mmsearch.evaluation.scoring import Best, best
from mmsearch.evaluation.vector_cache import VectorCache
from mmsearch.media.pictures import Decoding
from mmsearch.training.parallel.processes import started

if TYPE_CHECKING:
    from mmsearch.evaluation.mmeb.data import TaskData, TaskQuery

PROTOCOL_VERSION = 1
"""Raise it whenever the same vectors would give another score."""
PREDICTIONS_KEPT = 100
MODALITIES = ("image", "video", "visdoc")

Load = Callable[["Task"], "TaskData"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task.

    Attributes:
        scores: every metric, 0…1; None if it failed.
        failure: why, in one sentence.
        was_done: whether an earlier run had done it already.
        record: what `<task>_run.json` says.
    """

    task: Task
    scores: dict[str, float] | None
    failure: str | None = None
    was_done: bool = False
    record: dict[str, Any] | None = None


class Watcher(Protocol):
    """Told of the run's progress, in the first process."""

    def task_begins(self, task: Task, number: int, of: int) -> None: ...

    def encoding(self, done: int, of: int) -> None: ...

    def task_ends(self, outcome: Outcome) -> None: ...


@dataclass(frozen=True, slots=True)
class Finished:
    """A benchmark run that has ended.

    Attributes:
        is_first: whether this is the process that has the scores.
    """

    outcomes: list[Outcome]
    model_key: str
    dim: int
    is_first: bool

    @property
    def failures(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.failure is not None]


def run_benchmark(
    tasks: Sequence[Task],
    load: Load,
    model: str | Path,
    out: Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    limit: int | None = None,
    cache: Path | None = None,
    frames: int | None = None,
    decoding: Decoding | None = None,
    watcher: Watcher | None = None,
) -> Finished:
    """`evaluate` with a checkpoint, in this process or in all that `torchrun` started.

    Args:
        model, device, dtype: as for `mmsearch.embedders.load_embedder`; each process has a GPU of its own where there are any.
        cache: folder of the vectors, `<out>/vectors` if None; several benchmarks may share it.
        frames: of a video, instead of the model's own number (`embedder.frames`, where it has one) or the task's.
        decoding: of pictures, instead of the way of the evaluation whose words the embedder is asked in.

    Raises:
        ModelNotFound, EmbedderError, ConfigError: before anything is evaluated.
    """
    with started(device) as processes:
        place = torch.device(processes.device).type
        precision = f"{place} {dtype or str(default_dtype(place)).removeprefix('torch.')}"
        embedder = load_embedder(model, device=processes.device, dtype=dtype)
        tasks = [as_asked(task, embedder, frames) for task in tasks]
        tasks = [task if decoding is None else replace(task, decoding=decoding) for task in tasks]
        with VectorCache(cache or out / "vectors", processes.rank) as vectors:
            encoder = SideEncoder(embedder, vectors, processes, precision=precision)
            outcomes = evaluate(tasks, load, encoder, out, precision=precision, limit=limit, watcher=watcher)
        processes.wait()
        return Finished(outcomes, embedder.model_key, embedder.dim, processes.is_first)


def as_asked(task: Task, embedder: Embedder, frames: int | None = None) -> Task:
    """The task in the words of the embedder's own evaluation, where it has one (`embedder.protocol`), with the frames that it was made for."""
    protocol = getattr(embedder, "protocol", None)
    worded = task if protocol is None else in_protocol(task, protocol)
    return with_frames(worded, frames or getattr(embedder, "frames", None))


def with_frames(task: Task, frames: int | None) -> Task:
    """The task with so many frames of a video; one that takes all that there are stays as it is.

    Candidate clips of a video are shown with as many as before, or fewer if so few are asked for: they are short.
    """
    if frames is None or task.frames is None:
        return task
    return replace(task, frames=frames, clip_frames=task.clip_frames and min(task.clip_frames, frames))


def chosen(tasks: Iterable[Task], names: Sequence[str] = (), groups: Sequence[str] = ()) -> list[Task]:
    """Those that count and whose name fits one of the patterns and whose group or modality is among `groups`; by its full name any task.

    Raises: ConfigError: a pattern or group that fits none.
    """
    everything = list(tasks)
    counted = [task for task in everything if task.counts]
    known = {word for task in counted for word in (task.group, task.modality)}
    if strangers := [group for group in groups if group not in known]:
        raise ConfigError(f"no group {strangers[0]!r}; there are {', '.join(dict.fromkeys(sorted(known)))}")
    for name in names:
        if not any(_fits(task, name) for task in everything):
            raise ConfigError(f"no task is called {name!r}; there are {', '.join(task.name for task in everything)}")
    return [
        task
        for task in everything
        if (any(_fits(task, name) for name in names) if names else task.counts)
        and (not groups or {task.group, task.modality} & set(groups))
    ]


def _fits(task: Task, name: str) -> bool:
    return task.name.lower() == name.lower() or (task.counts and fnmatch(task.name.lower(), name.lower()))


def evaluate(
    tasks: Sequence[Task],
    load: Load,
    encoder: SideEncoder,
    out: Path,
    *,
    precision: str,
    limit: int | None = None,
    watcher: Watcher | None = None,
) -> list[Outcome]:
    """Run tasks one after the other; one that fails is named and the others go on. A collective of all processes.

    Args:
        load: reads a task's data; the same in every process.
        precision: see `SideEncoder`.
        limit: so many queries of each task.

    Returns:
        An outcome per task, in order; scores in the first process only.
    """
    watcher = watcher if encoder.processes.is_first else None
    place = out if limit is None else out / f"first-{limit}"
    outcomes = []
    for number, task in enumerate(tasks, 1):
        if watcher is not None:
            watcher.task_begins(task, number, len(tasks))
        try:
            outcome = _one(task, load, encoder, place, precision, limit, watcher)
        except (MMSearchError, OSError) as error:
            outcome = Outcome(task, None, failure=str(error))
        if watcher is not None:
            watcher.task_ends(outcome)
        outcomes.append(outcome)
    return outcomes


def _one(
    task: Task, load: Load, encoder: SideEncoder, out: Path, precision: str, limit: int | None, watcher: Watcher | None
) -> Outcome:
    started = time.perf_counter()
    found: list[TaskData] = []
    is_first = encoder.processes.is_first
    # The first process before the others: what is unpacked or sampled when first read is then there.
    encoder.together(lambda: found.append(load(task)) if is_first else None)
    encoder.together(lambda: None if is_first else found.append(load(task)))
    data = found[0] if limit is None else limited(found[0], limit)
    queries = encoder.inputs([query.side for query in data.queries], "query")
    candidates = encoder.inputs(list(data.candidates.values()), "document")
    made_from = {
        "protocol": PROTOCOL_VERSION,
        "model_key": encoder.embedder.model_key,
        "precision": precision,
        "task": digest([json.dumps(asdict(task), sort_keys=True, default=str)]),
        "data": data_digest(data, queries, candidates),
        "limit": limit,
    }
    files = TaskFiles(out, task)
    done = encoder.together(lambda: files.finished(made_from) if is_first else None)[0]
    if done is not None:
        return Outcome(task, done["scores"], was_done=True, record=done)
    loaded = time.perf_counter()
    encoded = encoder.encode([*queries, *candidates], watcher.encoding if watcher is not None else None)
    encoded_at = time.perf_counter()
    outcome = Outcome(task, None)
    if is_first:
        answers = ranked(data, queries, candidates, encoded, device=encoder.processes.device)
        record: dict[str, Any] = {
            "schema": 1,
            "task": task.name,
            "made_from": made_from,
            "mmsearch": __version__,
            "model": getattr(encoder.embedder, "name", encoder.embedder.model_key),
            "dim": encoder.embedder.dim,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "queries": len(queries),
            "unread": list(data.unread),
            "candidates": len(candidates),
            "inputs": {"computed": encoded.computed, "reused": encoded.reused},
            "seconds": {
                "load": round(loaded - started, 3),
                "encode": round(encoded_at - loaded, 3),
                "rank": round(time.perf_counter() - encoded_at, 3),
            },
            "tied_at_the_top": sum(one.is_tied for one in answers.best),
            "without_a_right_candidate": answers.unanswerable,
            "scores": mean_values([*answers.ranked, *(Ranked((), ()) for _ in data.unread)]),
        }
        files.write(data, answers, record)
        outcome = Outcome(task, record["scores"], record=record)
    return outcome


@dataclass(frozen=True, slots=True)
class Answers:
    """All queries answered.

    Attributes:
        ranked: the best candidates' names beside the labels, a row per query.
        unanswerable: queries none of whose labels is among its candidates.
    """

    ranked: list[Ranked]
    best: list[Best]
    unanswerable: int


def ranked(
    data: TaskData, queries: Sequence[Input], candidates: Sequence[Input], encoded: Encoded, *, device: str
) -> Answers:
    """Every query's best candidates: of all (global scope) or of its own list (local).

    Raises: DatasetError: no candidates, or a list names one that is not there.
    """
    names = list(data.candidates)
    if not names:
        raise DatasetError(f"{data.task.name} has no candidates")
    lists = None
    if data.task.scope == "local":
        column = {name: place for place, name in enumerate(names)}
        lists = [[column[name] for name in own_names(query, column)] for query in data.queries]
    found = best(encoded.of(queries), encoded.of(candidates), PREDICTIONS_KEPT, lists=lists, device=device)
    answers = [
        Ranked([names[place] for place in one.columns], query.labels, query.gains)
        for query, one in zip(data.queries, found, strict=True)
    ]
    everyone = set(names)
    unanswerable = sum(
        not set(query.labels) & (everyone if lists is None else set(query.candidates or ())) for query in data.queries
    )
    return Answers(answers, found, unanswerable)


def own_names(query: TaskQuery, known: Iterable[str]) -> list[str]:
    """The query's own candidates, each once, in order."""
    if query.candidates is None:
        raise DatasetError(f"query {query.key} has no candidates of its own, but its task's scope is local")
    if not query.candidates:
        raise DatasetError(f"query {query.key} has an empty list of candidates")
    if unknown := [name for name in query.candidates if name not in known]:
        raise DatasetError(f"query {query.key} names a candidate that the task does not have: {unknown[0]}")
    return list(dict.fromkeys(query.candidates))


def limited(data: TaskData, queries: int) -> TaskData:
    """The first queries that could be read, with all candidates that they may find: those of their lists, or everyone."""
    first = data.queries[:queries]
    if data.task.scope != "local":
        return replace(data, queries=first, unread=())
    listed = {name for query in first for name in query.candidates or ()}
    kept = {name: side for name, side in data.candidates.items() if name in listed}
    return replace(data, queries=first, candidates=kept, unread=())


def data_digest(data: TaskData, queries: Sequence[Input], candidates: Sequence[Input]) -> str:
    """Of everything that is compared: inputs to the byte, names, labels, gains, lists."""

    def lines() -> Iterable[str]:
        for query, one in zip(data.queries, queries, strict=True):
            yield json.dumps([one.key.hex(), query.key, query.labels, query.gains, query.candidates])
        for name, one in zip(data.candidates, candidates, strict=True):
            yield json.dumps([one.key.hex(), name])
        yield json.dumps(data.unread)

    return digest(lines())


def digest(lines: Iterable[str]) -> str:
    found = hashlib.sha256()
    for line in lines:
        found.update(line.encode("utf-8", "surrogatepass") + b"\n")
    return found.hexdigest()


class TaskFiles:
    """The files of a task in a run's folder."""

    def __init__(self, out: Path, task: Task) -> None:
        self.folder = out / task.modality
        self.name = task.name

    def path(self, what: str) -> Path:
        return self.folder / f"{self.name}_{what}"

    def finished(self, made_from: dict[str, Any]) -> dict[str, Any] | None:
        """The record of an earlier run, if it was made from the same and its score file is there still as it was."""
        record, score = read_json(self.path("run.json")), read_json(self.path("score.json"))
        if record is None or score is None or record.get("made_from") != made_from:
            return None
        return record if score == _score_file(record) else None

    def write(self, data: TaskData, answers: Answers, record: dict[str, Any]) -> None:
        """All files, the record last."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path("run.json").unlink(missing_ok=True)
        predictions = (
            {"prediction": one.prediction, "label": list(one.labels), "rel_scores": list(one.gains) if one.gains else None}
            for one in answers.ranked
        )  # fmt: skip
        infos = (
            {
                "key": query.key,
                "label_name": list(query.labels),
                "rel_scores": list(query.gains) if query.gains else None,
                "cand_names": None if query.candidates is None else list(query.candidates),
            }
            for query in data.queries
        )
        write_lines(self.path("pred.jsonl"), (json.dumps(row) + "\n" for row in predictions))
        write_lines(self.path("info.jsonl"), (json.dumps(row) + "\n" for row in infos))
        write_lines(self.path("score.json"), [json.dumps(_score_file(record), indent=4)])
        write_lines(self.path("run.json"), [json.dumps(record, indent=1)])


def _score_file(record: dict[str, Any]) -> dict[str, float]:
    asked = record["queries"]
    return {**record["scores"], "num_pred": asked, "num_data": asked + len(record["unread"])}


def read_json(path: Path) -> dict[str, Any] | None:
    """None if it is not there or was cut short."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write it whole or not at all."""
    with replace_file(path) as temporary, temporary.open("w", encoding="utf-8", errors="surrogateescape") as file:
        file.writelines(lines)
