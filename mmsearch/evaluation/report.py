"""Measured numbers as tables, and what was aimed at beside what was reached: for people (Markdown) and for machines (JSON)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmsearch.evaluation.metrics import Measured


@dataclass(frozen=True)
class Table:
    """Systems on one task; `title` names the task and its pool, `note` says what a reader must know."""

    title: str
    systems: Mapping[str, Measured]
    note: str = ""


@dataclass(frozen=True)
class Target:
    """A number that was aimed at; `is_met` is None where it was not measured."""

    what: str
    wanted: str
    reached: str
    is_met: bool | None
    beside: str = ""
    """The same for other systems."""


@dataclass(frozen=True)
class Report:
    """Everything measured of one checkpoint; tables by short name. `left_out` says what was not measured, and why."""

    tables: Mapping[str, Table]
    targets: Sequence[Target] = ()
    left_out: Sequence[str] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    def markdown(self) -> str:
        """The targets first, then every table; intervals stand behind their number."""
        parts = [targets_markdown(self.targets)] if self.targets else []
        parts += [table_markdown(table) for table in self.tables.values()]
        parts += [f"Not measured: {words}.\n" for words in self.left_out]
        return "\n".join(parts)

    def record(self) -> dict[str, Any]:
        """JSON values."""
        return {
            **self.about,
            "targets": [vars(target) for target in self.targets],
            "left_out": list(self.left_out),
            "tables": {
                name: {
                    "title": table.title,
                    "note": table.note,
                    "systems": {
                        system: {"metrics": measured.metrics, "intervals": dict(measured.intervals)}
                        for system, measured in table.systems.items()
                    },
                }
                for name, table in self.tables.items()
            },
        }


def targets_markdown(targets: Sequence[Target]) -> str:
    lines = ["| what | target | reached | | beside it |", "|---|---|---|---|---|"]
    for target in targets:
        verdict = {True: "met", False: "**missed**", None: "not measured"}[target.is_met]
        lines.append(f"| {target.what} | {target.wanted} | {target.reached} | {verdict} | {target.beside} |")
    return "\n".join(lines) + "\n"


def table_markdown(table: Table) -> str:
    """A row per system, a column per metric of the first system."""
    names = list(next(iter(table.systems.values())).metrics)
    lines = [f"**{table.title}**", ""]
    lines += ["| system | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for system, measured in table.systems.items():
        lines.append(f"| {system} | " + " | ".join(_cell(measured, name) for name in names) + " |")
    if table.note:
        lines += ["", table.note]
    return "\n".join(lines) + "\n"


def _cell(measured: Measured, name: str) -> str:
    if name not in measured.metrics:
        return ""
    value = measured.metrics[name]
    number = f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    if name not in measured.intervals:
        return number
    low, high = measured.intervals[name]
    return f"{number} ({low:.3f}–{high:.3f})"
