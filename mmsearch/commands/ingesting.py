"""Ingesting, as several commands do it: run the pipeline and say what it does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.commands.shared import FAULT, INTERRUPTED, OK, SOME_FAILED, note

if TYPE_CHECKING:
    from mmsearch.library import Library


def ingested(library: Library, paths: Sequence[Path], *, as_json: bool, dry_run: bool = False, **options: Any) -> int:
    """Run the pipeline, say what it does, and return the exit code."""
    from ingest.pipeline import ingest_paths
    from mmsearch.terminal import EventLines, ProgressLines

    with EventLines() if as_json else ProgressLines() as telling:
        report = ingest_paths(library, paths, dry_run=dry_run, progress=telling.progress, **options)
    telling.report(report)
    if report.stopped:
        return FAULT
    if report.interrupted and report.print_left:
        note(report.sentence())
        return INTERRUPTED
    if report.interrupted:
        saved = sum(report.items.values())
        expected = max(saved, sum(report.plan.items.values()))
        note(f"kept {saved:,} of {expected:,} items; run the same command to continue")
        return INTERRUPTED
    if not (as_json or dry_run) and report.items:
        _what_next(library)
    return SOME_FAILED if report.failures or report.print_failures else OK


def _what_next(library: Library) -> None:
    """What to try after the first look at a library."""
    import shlex

    from mmsearch.examples import example_queries

    tries = [f"mmsearch query {shlex.quote(query)}" for query in example_queries(library.catalog)]
    for number, command in enumerate([*tries, "mmsearch ui"]):
        note(f"{'' if number else 'try':<6}{command}")
