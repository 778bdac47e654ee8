"""What a run tells while it goes: `metrics.jsonl`, a bar or lines on stderr, and a plot.

A row per step: `stage`, `step`, `loss`, its parts (`contrastive/<source>`, `<group>_loss`, …), `hit@1` (queries whose own target ranks first among
all of the step's), `lr` (share of the stage's rate), `grad_norm`, `chunks`, `replay_error` (see `gradcache`), `skipped` (bad records so
far), `seconds`, and `evaluation` (scores on held-out pairs) where the run evaluated after the step.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from mmsearch.disk.replace import replace_file

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
PLOT = "metrics.png"
LINE_INTERVAL_S = 10.0

Row = Mapping[str, Any]


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All whole rows; a last line that a kill cut short is left out."""
    path = run / METRICS
    return list(_whole_rows(path)) if path.exists() else []


def _whole_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)


class MetricsLog:
    """Appends rows to a run's `metrics.jsonl`.

    Args:
        stages: names in order. first: (number of the stage, step) where the run goes on: rows from there on, which an interrupted run
            wrote after its last state, are taken out first, since they will come again.
    """

    def __init__(self, run: Path, stages: Sequence[str], first: tuple[int, int]) -> None:
        self.path = run / METRICS
        rows = read_metrics(run)
        kept = [row for row in rows if (stages.index(row["stage"]), row["step"]) < first]
        with replace_file(self.path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in kept)
        self._file = self.path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, row: Row) -> None:
        self._file.write(json.dumps({name: _rounded(value) for name, value in row.items()}) + "\n")
        self._file.flush()


def _rounded(value: Any) -> Any:
    """Six significant digits; what is not finite becomes null, which JSON has."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


class ProgressBar:
    """A bar on a terminal, else a log line every ten seconds. Silent on all processes but the first."""

    def __init__(self, total: int, done: int, *, silent: bool = False) -> None:
        self.total = total
        self.done = done
        self.silent = silent
        self._bar: Any = None
        self._told_at = -math.inf
        if not silent and sys.stderr.isatty():
            try:
                from rich.console import Console
                from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
            except ImportError:
                return
            columns = (
                BarColumn(24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}", markup=False),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.add_task("", total=total, completed=done)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, row: Row) -> None:
        """One more step is done."""
        self.done += 1
        if self.silent:
            return
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done, description=sentence(row))
        elif time.monotonic() - self._told_at >= LINE_INTERVAL_S or self.done == self.total:
            self._told_at = time.monotonic()
            log.info("%d of %d: %s", self.done, self.total, sentence(row))


def sentence(row: Row) -> str:
    """ "join 120 · loss 2.31 · hit@1 0.44 · 1.6 s" """
    parts = [f"{row['stage']} {row['step']}", f"loss {row['loss']:.3f}"]
    if "hit@1" in row:
        parts.append(f"hit@1 {row['hit@1']:.2f}")
    if "seconds" in row:
        parts.append(f"{row['seconds']:.2g} s")
    return " · ".join(parts)


def plot_metrics(run: Path) -> Path | None:
    """Draw loss, in-batch retrieval and learning rate over the steps into `metrics.png`; None without matplotlib or rows."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        log.info("no plot: matplotlib is not installed (`make install EXTRAS=train`)")
        return None
    rows = read_metrics(run)
    steps = [row for row in rows if "loss" in row]
    if not steps:
        return None
    numbers = range(1, len(steps) + 1)
    # Figures by themselves need neither a screen nor matplotlib's global state.
    figure = Figure(figsize=(9, 8), layout="constrained")
    loss, retrieval, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1))
    for name, axes in (("loss", loss), ("hit@1", retrieval)):
        for key in _series(steps, name):
            points = [
                (number, row[key]) for number, row in zip(numbers, steps, strict=True) if row.get(key) is not None
            ]
            _draw(axes, points, key, is_total=key == name)
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small", ncols=3)
    places = {(row["stage"], row["step"]): number for number, row in zip(numbers, steps, strict=True)}
    scores: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name, score in row.get("evaluation", {}).items():
            scores.setdefault(name, []).append((places.get((row["stage"], row["step"]), 0), score))
    for name, points in scores.items():
        retrieval.plot(*zip(*points, strict=True), marker="o", linestyle=":", label=f"held out: {name}")
    if scores:
        retrieval.legend(fontsize="small", ncols=3)
    retrieval.set_ylim(0, 1)
    rate.plot(numbers, [row["lr"] for row in steps], color="black", linewidth=1)
    rate.set_ylabel("lr (share)")
    rate.set_xlabel("step")
    for number in range(1, len(steps)):
        if steps[number]["stage"] != steps[number - 1]["stage"]:
            for axes in (loss, retrieval, rate):
                axes.axvline(number + 0.5, color="grey", linewidth=0.8, linestyle="--")
    figure.suptitle(run.name)
    path = run / PLOT
    with replace_file(path, durable=False) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return path


def _series(rows: Sequence[Row], name: str) -> list[str]:
    """The keys of a panel, the whole first; eight at most."""
    parts = {"loss": ("contrastive/", "_loss"), "hit@1": ("hit@1/", "_hit@1")}[name]
    keys = dict.fromkeys(key for row in rows for key in row)
    return [key for key in keys if key == name] + [
        key for key in keys if key.startswith(parts[0]) or key.endswith(parts[1])
    ][:7]


def _draw(axes: Any, points: Sequence[tuple[int, float]], label: str, *, is_total: bool) -> None:
    """Points faintly and their running mean over a fiftieth of them."""
    places, values = zip(*points, strict=True)
    (line,) = axes.plot(places, values, alpha=0.25 if len(values) > 50 else 1.0, linewidth=1.5 if is_total else 0.8)
    width = len(values) // 50
    if width > 1:
        sums = [0.0]
        for value in values:
            sums.append(sums[-1] + value)
        means = [(sums[i + 1] - sums[max(0, i + 1 - width)]) / min(width, i + 1) for i in range(len(values))]
        axes.plot(places, means, color=line.get_color(), linewidth=2.0 if is_total else 1.2, label=label)
    else:
        line.set_label(label)
