"""What a run's scores say: means as published ones are made, beside published ones over the same tasks, and the leaderboard's JSON.

A score is the plain mean over data sets, not over groups. Where data sets are missing, every number says over how many it is, and
others are averaged over the same ones, so that like is compared with like.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mmsearch.disk.replace import replace_file
from mmsearch.embedders.published.known_models import known_model
from mmsearch.evaluation.mmeb.published import published_averages, published_scores
from mmsearch.evaluation.mmeb.run import MODALITIES, TaskFiles, read_json, write_lines
from mmsearch.evaluation.mmeb.tasks import COUNTED, META_TASKS, TASKS, Task

log = logging.getLogger(__name__)

Scores = Mapping[str, float]
"""Data set: its main metric in per cent."""

COMPARED = ("VLM2Vec-V2.0 (re-run)", "VLM2Vec-V1 2B", "GME 2B", "ColPali v1.3")
"""Published models that stand beside one's own in the terminal and the plot; the Markdown file has all."""
ALL = "all"
MISSING_FILE, MISSING_FOLDER, UNREADABLE = "FILE_N/A", "DIR_N/A", "JSON_ERROR"
"""What the leaderboard's JSON says of a task without scores."""


@dataclass(frozen=True, slots=True)
class Block:
    """Tasks that are averaged."""

    name: str
    words: str
    tasks: tuple[Task, ...]


BLOCKS: tuple[Block, ...] = (
    Block(ALL, "all", COUNTED),
    *(
        block
        for modality in MODALITIES
        for block in (
            Block(modality, modality, tuple(task for task in COUNTED if task.modality == modality)),
            *(
                Block(group, words, tuple(task for task in COUNTED if task.group == group))
                for group, words in META_TASKS.items()
                if any(task.group == group and task.modality == modality for task in COUNTED)
            ),
        )
    ),
)
"""Of all tasks, of each modality, and of its groups."""


@dataclass(frozen=True, slots=True)
class Mean:
    """Over the tasks of a block that have scores; None where none has."""

    value: float | None
    tasks: int
    of: int

    @property
    def is_whole(self) -> bool:
        return self.tasks == self.of


def mean_of(scores: Scores, tasks: Sequence[Task], over: Scores | None = None) -> Mean:
    """The mean of `scores` over the tasks; with `over`, over those of them that are in `over` as well."""
    names = [task.name for task in tasks if task.name in scores and (over is None or task.name in over)]
    value = sum(scores[name] for name in names) / len(names) if names else None
    return Mean(value, len(names), len(tasks))


@dataclass(frozen=True)
class Report:
    """A model's scores.

    Attributes:
        files: every task of the benchmark (and variants that were run): its score file, or a word that says why there is none.
        limit: so many queries of each task were asked; None: all.
    """

    model: str
    metadata: Mapping[str, Any]
    files: Mapping[str, dict[str, Any] | str]
    limit: int | None = None

    @property
    def scores(self) -> dict[str, float]:
        """Of every task that has some, variants too, in per cent."""
        return {
            name: 100 * content[TASKS[name].metric]
            for name, content in self.files.items()
            if isinstance(content, dict) and TASKS[name].metric in content
        }

    def means(self) -> dict[str, Mean]:
        """By the name of the block."""
        scores = self.scores
        return {block.name: mean_of(scores, block.tasks) for block in BLOCKS}

    def warnings(self) -> list[str]:
        """What keeps these numbers from being the benchmark's."""
        found = []
        done = mean_of(self.scores, COUNTED)
        if self.limit is not None:
            found.append(f"only the first {self.limit} queries of each task: not the benchmark's numbers")
        if not done.is_whole:
            found.append(f"{done.tasks} of {done.of} tasks: means are over these, and published means over the same")
        if self.limit is None and (odd := self.other_sizes()):
            name, (asked, wanted) = next(iter(odd.items()))
            found.append(
                f"{len(odd)} tasks have another number of queries than the benchmark ({name}: {asked:,} for {wanted:,}): not its numbers"
            )
        return found

    def other_sizes(self) -> dict[str, tuple[int, int]]:
        """Counted tasks whose number of queries is not the benchmark's: that number, and the benchmark's."""
        found = {}
        for task in COUNTED:
            content = self.files.get(task.name)
            asked = content.get("num_data") if isinstance(content, dict) else None
            if asked is not None and task.queries is not None and asked != task.queries:
                found[task.name] = (asked, task.queries)
        return found

    def record(self) -> dict[str, Any]:
        """The leaderboard's JSON, as the reference's `report_score_v2.py` writes it."""
        metrics: dict[str, dict[str, Any]] = {modality: {} for modality in MODALITIES}
        for name, content in self.files.items():
            metrics[TASKS[name].modality][name] = content
        return {"metadata": dict(self.metadata), "metrics": metrics}

    def table(self, others: Mapping[str, Scores]) -> list[list[str]]:
        """Rows of cells, the head first: a block, its tasks, one's own mean, others' means over the same tasks."""
        own = self.scores
        rows = [["mean of", "tasks", self.model, *others]]
        for block in BLOCKS:
            mean = mean_of(own, block.tasks)
            if mean.value is None:
                continue
            done = str(mean.of) if mean.is_whole else f"{mean.tasks} of {mean.of}"
            beside = [mean_of(scores, block.tasks, own) for scores in others.values()]
            rows.append(
                [block.words, done, percent(mean.value)]
                + [percent(m.value) + ("" if m.tasks in (0, mean.tasks) else f" ({m.tasks})") for m in beside]
            )
        return rows

    def task_table(self, others: Mapping[str, Scores]) -> list[list[str]]:
        """Rows of cells, the head first: a data set, its metric, one's own score, others'."""
        rows = [["data set", "metric", self.model, *others]]
        for name, score in self.scores.items():
            task = TASKS[name]
            noted = name if task.counts else f"{name} (not in the means)"
            beside = [percent(scores.get(name)) for scores in others.values()]
            rows.append([noted, task.metric, percent(score), *beside])
        return rows

    def markdown(self) -> str:
        """Means, every data set, and published means; what is missing first."""
        published = published_scores()
        parts = [f"# MMEB-V2: {self.model}", ""]
        parts += [f"**{words[0].upper()}{words[1:]}.**\n" for words in self.warnings()]
        parts += [
            "Per cent; means over data sets, others over the same ones.",
            "",
            *markdown_table(self.table(published)),
        ]
        parts += ["", "## Data sets", "", *markdown_table(self.task_table(published))]
        if missing := [task.name for task in COUNTED if task.name not in self.scores]:
            parts += ["", f"Without scores: {', '.join(missing)}."]
        parts += [
            "",
            "## Published means, document sets as repaired in 2025-11",
            "",
            *markdown_table(self._leaderboard()),
        ]
        return "\n".join(parts) + "\n"

    def _leaderboard(self) -> list[list[str]]:
        """Published means, best first, with one's own among them where it is whole."""
        columns = (ALL, *MODALITIES)
        rows = [
            (entry[ALL], model, entry, str(entry.get("source", "")))
            for model, entry in published_averages("after_repair").items()
        ]
        means = self.means()
        if means[ALL].is_whole and not self.warnings():
            own = {name: means[name].value for name in columns}
            rows.append((own[ALL], f"**{self.model}**", own, "this run"))
        ordered = sorted(rows, key=lambda row: -row[0])
        return [["model", *columns, "source"]] + [
            [model, *(percent(entry.get(name)) for name in columns), source] for _, model, entry, source in ordered
        ]


def read_report(out: Path, model: str, *, dim: int | None = None, limit: int | None = None) -> Report:
    """The score files of a run's folder, whether we wrote them or the reference did.

    Args:
        limit: reads the run over the first queries, in `<out>/first-<limit>`.
    """
    place = out if limit is None else out / f"first-{limit}"
    files: dict[str, dict[str, Any] | str] = {}
    for task in TASKS.values():
        path = TaskFiles(place, task).path("score.json")
        content = read_json(path)
        if content is not None:
            files[task.name] = content
        elif task.counts:
            files[task.name] = UNREADABLE if path.exists() else MISSING_FILE if path.parent.is_dir() else MISSING_FOLDER
    return Report(called(model), metadata_of(model, dim=dim, limit=limit), files, limit)


def called(model: str) -> str:
    """A model's name in tables: as published, or the last part of its folder's path."""
    return model if known_model(model) else model.rstrip("/").rpartition("/")[2]


def metadata_of(model: str, *, dim: int | None = None, limit: int | None = None) -> dict[str, Any]:
    """What the leaderboard asks about a model; None where that is not known, to be filled in by hand."""
    known = known_model(model)
    about: dict[str, Any] = {
        "model_name": model.rstrip("/").rpartition("/")[2],
        "model_backbone": known.base if known else None,
        "model_size": round(known.parameters / 1e9, 2) if known and known.parameters else None,
        "embedding_dimension": dim or (known.dim if known else None),
        "max_length_tokens": None,
        "model_release_date": None,
        "data_source": "Self-Reported",
        "url": f"https://huggingface.co/{known.name}" if known and "/" in known.name else None,
        "report_generated_date": datetime.now().isoformat(),
    }
    return about if limit is None else {**about, "partial": f"first {limit} queries of each task"}


def write_report(report: Report, out: Path) -> list[Path]:
    """`<model>.json` for the leaderboard and `<model>.md`."""
    name = report.metadata["model_name"]
    place = out if report.limit is None else out / f"first-{report.limit}"
    place.mkdir(parents=True, exist_ok=True)
    written = [place / f"{name}.json", place / f"{name}.md"]
    write_lines(written[0], [json.dumps(report.record(), indent=4)])
    write_lines(written[1], [report.markdown()])
    return written


def plot(report: Report, path: Path) -> Path | None:
    """A PNG of bars by block, beside published models over the same tasks; None without matplotlib or scores."""
    own = report.scores
    blocks = [block for block in BLOCKS if mean_of(own, block.tasks).tasks]
    if not blocks:
        return None
    try:
        from matplotlib.figure import Figure
    except ImportError:
        log.info("no plot: matplotlib is not installed (`make install EXTRAS=train`)")
        return None
    published = published_scores()
    columns: dict[str, Scores] = {report.model: own, **{model: published[model] for model in COMPARED}}
    figure = Figure(figsize=(2 + 0.9 * len(blocks), 5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(columns)
    for place, (model, scores) in enumerate(columns.items()):
        means = [mean_of(scores, block.tasks, own).value or 0.0 for block in blocks]
        left = [number - 0.4 + width * (place + 0.5) for number in range(len(blocks))]
        colour = "tab:blue" if place == 0 else str(0.3 + 0.15 * place)
        bars = axes.bar(left, means, width, label=model, color=colour)
        if place == 0:
            axes.bar_label(bars, fmt="%.1f", fontsize="x-small")
    labels = [f"{block.words}\n({mean_of(own, block.tasks).tasks} of {len(block.tasks)})" for block in blocks]
    axes.set_xticks(range(len(blocks)), labels, rotation=30, ha="right", fontsize="small")
    axes.set_ylim(0, 100)
    axes.set_ylabel("per cent")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=len(columns), fontsize="small")
    axes.set_title("\n".join([f"MMEB-V2: {report.model}", *report.warnings()]), fontsize="medium")
    with replace_file(path, durable=False) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return path


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *rest = rows
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *("| " + " | ".join(row) + " |" for row in rest)]


def text_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns side by side; all but the first flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
