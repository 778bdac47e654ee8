"""From a mixture and its sources to prepared examples, step by step, made ahead by worker processes.

What is yielded depends on the mixture, the step, the rank and the number of processes, never on the number of workers: they
only compute what the main process has asked for, and it takes their results in order. A bad record is replaced by the next
row of its source, which needs no agreement between processes.
"""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from PIL import Image

from mmsearch.errors import ConfigError, DatasetError, SourceError
from mmsearch.training.data.mixture import Mixture
from mmsearch.training.datasets import PairSource
from mmsearch.training.datasets.pairs import Pair

log = logging.getLogger(__name__)

Made = TypeVar("Made")

NAMED_PER_SOURCE = 5
"""Bad records of a source that are named in the log; all are counted."""
BAD_IN_A_ROW = 1000
"""So many bad records next to each other mean that the source is bad, not its records."""
TASKS_PER_WORKER = 2


@dataclass(frozen=True, slots=True)
class Example:
    """A pair with its pictures decoded.

    Attributes:
        row: of the source; not the one drawn if that is bad.
        images: RGB, for the query, the target and each negative, in the order of `pair.sides()`.
    """

    source: str
    row: int
    pair: Pair
    images: tuple[list[Image.Image], ...]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A bad record."""

    source: str
    row: int
    reason: str


@dataclass(frozen=True, slots=True)
class Portion(Generic[Made]):
    """Examples next to each other in a batch that were prepared together.

    Attributes:
        sources: of each; one and the same unless a sub-batch ends within.
        rows: of each, after bad ones were replaced. keys: `Pair.key` of each. target_keys: `Pair.target_key` of each.
        made: what `prepare` returned.
    """

    sources: tuple[str, ...]
    rows: tuple[int, ...]
    keys: tuple[str, ...]
    target_keys: tuple[str | None, ...]
    made: Made


@dataclass(frozen=True, slots=True)
class LoadedStep(Generic[Made]):
    """One process's share of a step's global batch, in order."""

    step: int
    portions: list[Portion[Made]]


@dataclass
class SkipReport:
    """Bad records so far, each counted once however often it is drawn.

    Attributes:
        named: the first few of each source, with the reason.
    """

    rows: dict[str, set[int]] = field(default_factory=dict)
    named: dict[str, list[str]] = field(default_factory=dict)

    def add(self, skipped: Sequence[Skipped]) -> None:
        """Count records, and log those that are named."""
        for record in skipped:
            rows = self.rows.setdefault(record.source, set())
            if record.row in rows:
                continue
            rows.add(record.row)
            named = self.named.setdefault(record.source, [])
            if len(named) < NAMED_PER_SOURCE:
                named.append(record.reason)
                more = " (further ones are only counted)" if len(named) == NAMED_PER_SOURCE else ""
                log.warning("skipped a record of %s: %s%s", record.source, record.reason, more)

    def counts(self) -> dict[str, int]:
        """Bad records per source."""
        return {source: len(rows) for source, rows in self.rows.items()}


def load_example(source: PairSource, row: int) -> tuple[Example, list[Skipped]]:
    """The example at `row`, or at the first row after it (from the start again after the last) that is not bad.

    Raises:
        DatasetError: all of them are, or `BAD_IN_A_ROW` in a row.
    """
    skipped: list[Skipped] = []
    size = len(source)
    for distance in range(min(size, BAD_IN_A_ROW)):
        tried = (row + distance) % size
        try:
            pair = source.pair(tried)
            try:
                images = tuple(side.images() for side in pair.sides())
            except (SourceError, OSError) as error:
                raise DatasetError(f"{pair.key}: {error}") from error
            return Example(source.name, tried, pair, images), skipped
        except DatasetError as error:
            skipped.append(Skipped(source.name, tried, str(error)))
    reasons = Counter(record.reason for record in skipped)
    raise DatasetError(
        f"nothing usable in {source.name}: {len(skipped)} of its {size} records were tried and all are bad; "
        f"the first: {next(iter(reasons))}"
    )


def check_sources(sources: Mapping[str, PairSource], *, sample: int = 8) -> SkipReport:
    """Load a few examples spread over each source, so that a wrong folder is noticed before a model is loaded.

    Raises:
        DatasetError: all tried records of a source are bad.
    """
    report = SkipReport()
    for name, source in sources.items():
        count = min(sample, len(source))
        rows = [i * len(source) // count for i in range(count)]
        bad: list[Skipped] = []
        for row in rows:
            try:
                for side in source.pair(row).sides():
                    side.images()
            except (DatasetError, SourceError, OSError) as error:
                bad.append(Skipped(name, row, str(error)))
        if len(bad) == count:
            raise DatasetError(
                f"nothing usable in {name}: {count} of its {len(source)} records were tried and all are bad; "
                f"the first: {bad[0].reason}"
            )
        report.add(bad)
    return report


def batches(
    mixture: Mixture,
    sources: Mapping[str, PairSource],
    prepare: Callable[[list[Example]], Made],
    *,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    threads: bool = False,
    first_step: int = 0,
    last_step: int | None = None,
    portion: int = 16,
    report: SkipReport | None = None,
) -> Iterator[LoadedStep[Made]]:
    """The share of `rank` in the steps from `first_step` on, prepared, in order.

    Args:
        sources: by the names in the mixture, each of the size it has there.
        prepare: makes what the model needs (tokens, patches) from at most `portion` examples. Runs in the workers: with processes, it and its results must be picklable, and it must not hold a model.
        workers: how many make examples ahead, two portions each; 0: each step is made when it is asked for.
        threads: workers are threads, not processes: for small models and for text.
        last_step: the first step not to be made; None: never ends.
        report: bad records are added to it.

    Yields:
        One `LoadedStep` per step. Closing the iterator ends the workers.

    Raises:
        ConfigError: the sources are not those of the mixture.
        DatasetError: an example could not be made (with the step, the source and the rows), or a worker died.
    """
    if {name: len(source) for name, source in sources.items()} != dict(mixture.sizes):
        raise ConfigError(
            f"the mixture was made for {dict(mixture.sizes)}, the sources have "
            f"{ {name: len(source) for name, source in sources.items()} }"
        )
    if other := [f"{name} is called {source.name}" for name, source in sources.items() if source.name != name]:
        raise ConfigError(f"sources under other names than their own: {'; '.join(other)}")
    if workers < 0 or portion < 1:
        raise ConfigError(f"workers is {workers} and portion {portion}; at least 0 and 1")
    return _batches(
        mixture, sources, prepare, rank, world_size, workers, threads, first_step, last_step, portion,
        report if report is not None else SkipReport(),
    )  # fmt: skip


def _batches(
    mixture: Mixture,
    sources: Mapping[str, PairSource],
    prepare: Callable[[list[Example]], Made],
    rank: int,
    world_size: int,
    workers: int,
    threads: bool,
    first_step: int,
    last_step: int | None,
    portion: int,
    report: SkipReport,
) -> Iterator[LoadedStep[Made]]:
    tasks = _tasks(mixture, rank, world_size, first_step, last_step, portion)
    waiting: deque[tuple[_Task, Future[_Result]]] = deque()
    pool = _pool(workers, threads, sources, prepare)
    portions: list[Portion[Made]] = []
    try:
        while True:
            while len(waiting) <= TASKS_PER_WORKER * workers and (task := next(tasks, None)) is not None:
                waiting.append((task, pool.submit(_make, task)))
            if not waiting:
                return
            task, future = waiting.popleft()
            made, skipped = _result(task, future)
            report.add(skipped)
            portions.append(made)
            if task.is_last:
                yield LoadedStep(task.step, portions)
                portions = []
    finally:
        for _, future in waiting:
            future.cancel()
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Task:
    step: int
    drawn: tuple[tuple[str, int], ...]
    is_last: bool

    def __str__(self) -> str:
        named = ", ".join(f"{source} {row}" for source, row in self.drawn[:4])
        return f"step {self.step}, rows {named}{' …' if len(self.drawn) > 4 else ''}"


_Result = tuple[Portion[Any], list[Skipped]]


def _tasks(
    mixture: Mixture, rank: int, world_size: int, first_step: int, last_step: int | None, portion: int
) -> Iterator[_Task]:
    step = first_step
    while last_step is None or step < last_step:
        drawn = [(part.source, row) for part in mixture.share(step, rank, world_size) for row in part.rows]
        for start in range(0, len(drawn), portion):
            yield _Task(step, tuple(drawn[start : start + portion]), start + portion >= len(drawn))
        step += 1


def _result(task: _Task, future: Future[_Result]) -> _Result:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise DatasetError(
            f"a loader process died at {task}, probably out of memory: use fewer workers or smaller portions"
        ) from error
    except DatasetError:
        raise
    except Exception as error:
        raise DatasetError(f"{task}: {type(error).__name__}: {error}") from error


# In the workers

_worker = threading.local()
"""What a worker makes examples from: `sources` and `prepare`."""


def _start(sources: Mapping[str, PairSource], prepare: Callable[[list[Example]], Any]) -> None:
    _worker.sources, _worker.prepare = sources, prepare


def _start_process(sources: Mapping[str, PairSource], prepare: Callable[[list[Example]], Any]) -> None:
    """A worker process ends with its parent, even one that is killed, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), name="parent", daemon=True).start()
    _start(sources, prepare)


def _end_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def _make(task: _Task) -> _Result:
    examples, skipped = [], []
    for source, row in task.drawn:
        example, bad = load_example(_worker.sources[source], row)
        examples.append(example)
        skipped += bad
    made = Portion(
        tuple(example.source for example in examples),
        tuple(example.row for example in examples),
        tuple(example.pair.key for example in examples),
        tuple(example.pair.target_key for example in examples),
        _worker.prepare(examples),
    )
    return made, skipped


class _Here(Executor):
    """Makes an example in the calling thread, when its result is asked for."""

    def __init__(self, sources: Mapping[str, PairSource], prepare: Callable[[list[Example]], Any]) -> None:
        self.start = (sources, prepare)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        _start(*self.start)
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def _pool(
    workers: int, threads: bool, sources: Mapping[str, PairSource], prepare: Callable[[list[Example]], Any]
) -> Executor:
    if not workers:
        return _Here(sources, prepare)
    if threads:
        return ThreadPoolExecutor(workers, thread_name_prefix="load", initializer=_start, initargs=(sources, prepare))
    # Not plain forks: the main process has threads and maybe a GPU.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        # Imported once, not by every worker: torch takes seconds.
        context.set_forkserver_preload([__name__, *(name for name in ("torch",) if name in sys.modules)])
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_process, initargs=(sources, prepare))
