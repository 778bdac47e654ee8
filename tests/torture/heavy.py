"""The files of tests/poison.py that take long or much, through the real readers in the real worker processes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ingest.decode import Event, Limits, Task
from ingest.decode.pool import WorkerPool
from ingest.scan import hash_file
from tests import poison

BUDGET = {"page": 200_704, "image": 50_176, "clip": 12_544}
LIMITS = Limits()


@dataclass(frozen=True)
class Ending:
    """How a file ended, and what it should have done otherwise."""

    name: str
    items: int
    said: str
    seconds: float
    problem: str = ""


def read_all(*, say: Callable[[str], object] = lambda _: None) -> list[Ending]:
    """Each file marked `is_heavy`, one after the other."""
    endings = []
    with (
        tempfile.TemporaryDirectory(prefix="mmsearch-poison-") as folder,
        WorkerPool(BUDGET, jobs=1, limits=LIMITS) as pool,
    ):
        for one in poison.POISON:
            if one.is_heavy:
                path = Path(folder) / one.name
                one.make(path)
                endings.append(read(pool, one, path))
                path.unlink()
                say(
                    f"{one.name}: {endings[-1].items} items {endings[-1].said}, {endings[-1].seconds:.1f} s {endings[-1].problem}"
                )
    return endings


def read(pool: WorkerPool, one: poison.Poison, path: Path) -> Ending:
    source = hash_file(path)
    assert source is not None
    began = time.monotonic()
    events = [event for event in pool.read([Task(0, source)]) if isinstance(event, Event)]
    seconds, error = time.monotonic() - began, events[-1].error
    items = sum(event.type == "draft" for event in events)
    problem = ""
    if not one.ends(items, error):
        problem = f"expected {one.items} items {one.error.__name__ if one.error else ''} {one.word}"
    return Ending(one.name, items, f"{type(error).__name__}: {error.reason}" if error else "", seconds, problem)


def summary(endings: list[Ending]) -> dict[str, object]:
    """For the table in SECURITY.md."""
    return {
        "files": len(endings),
        "problems": sum(bool(ending.problem) for ending in endings),
        "longest seconds": round(max(ending.seconds for ending in endings)),
    }
