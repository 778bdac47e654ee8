"""M-BEIR's scores of a model: each task over its own pool and over the union of all pools, and the mean of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmsearch.evaluation.mbeir.tasks import LOCAL, TASKS, UNION
from mmsearch.evaluation.mmeb.report import Mean, called, markdown_table, mean_of, metadata_of, percent
from mmsearch.evaluation.mmeb.run import TaskFiles, read_json, write_lines

POOLS = {"local": LOCAL, "union": UNION}
"""What a pool is called on the command line: its group of tasks."""


@dataclass(frozen=True)
class Report:
    """Attributes:
    files: the score files of the tasks that have one.
    limit: so many queries of each task were asked; None: all.
    """

    model: str
    metadata: Mapping[str, Any]
    files: Mapping[str, dict[str, Any]]
    limit: int | None = None

    @property
    def scores(self) -> dict[str, float]:
        """In per cent, by task."""
        return {name: 100 * content[TASKS[name].metric] for name, content in self.files.items()}

    def means(self) -> dict[str, Mean]:
        """Over each kind of pool."""
        return {
            pool: mean_of(self.scores, [task for task in TASKS.values() if task.group == group])
            for pool, group in POOLS.items()
        }

    def warnings(self) -> list[str]:
        """What keeps these numbers from being the benchmark's."""
        found = []
        if self.limit is not None:
            found.append(f"only the first {self.limit} queries of each task: not the benchmark's numbers")
        for pool, mean in self.means().items():
            if 0 < mean.tasks < mean.of:
                found.append(f"{pool} pools: {mean.tasks} of {mean.of} tasks: the mean is over these")
        return found

    def table(self) -> list[list[str]]:
        """Rows of cells, the head first: a task, its metric, over its own pool, over the union; the means last."""
        scores = self.scores
        rows = [["task", "metric", *POOLS]]
        for task in TASKS.values():
            values = [scores.get(task.name), scores.get(f"{task.name}_union")]
            if task.group == LOCAL and values != [None, None]:
                rows.append([task.name, task.metric, *map(percent, values)])
        return [*rows, ["mean", "", *(percent(mean.value) for mean in self.means().values())]]

    def record(self) -> dict[str, Any]:
        """JSON values."""
        means = {pool: {"percent": m.value, "tasks": m.tasks, "of": m.of} for pool, m in self.means().items()}
        return {"metadata": dict(self.metadata), "means": means, "metrics": dict(self.files)}

    def markdown(self) -> str:
        parts = [f"# M-BEIR: {self.model}", ""]
        parts += [f"**{words[0].upper()}{words[1:]}.**\n" for words in self.warnings()]
        return "\n".join([*parts, "Per cent.", "", *markdown_table(self.table())]) + "\n"


def read_report(out: Path, model: str, *, dim: int | None = None, limit: int | None = None) -> Report:
    """The score files of a run's folder; with `limit` those of the run over the first queries."""
    place = out if limit is None else out / f"first-{limit}"
    read = {name: read_json(TaskFiles(place, task).path("score.json")) for name, task in TASKS.items()}
    files = {name: content for name, content in read.items() if content is not None}
    return Report(called(model), metadata_of(model, dim=dim, limit=limit), files, limit)


def write_report(report: Report, out: Path) -> list[Path]:
    """`<model>.json` and `<model>.md`."""
    place = out if report.limit is None else out / f"first-{report.limit}"
    place.mkdir(parents=True, exist_ok=True)
    written = [place / f"{report.metadata['model_name']}.{suffix}" for suffix in ("json", "md")]
    write_lines(written[0], [json.dumps(report.record(), indent=1)])
    write_lines(written[1], [report.markdown()])
    return written
