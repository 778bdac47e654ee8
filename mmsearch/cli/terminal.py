"""How results and progress look in a terminal."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

from mmsearch.catalog import left_out
from mmsearch.items import Hit
from mmsearch.words import count_of, duration, items_sentence, printable, size, to_json

if TYPE_CHECKING:
    from ingest.report import IngestReport, Progress

SNIPPET_CELLS = 100
"""Width of a snippet where the output is no terminal."""
LINE_INTERVAL_S = 10.0
"""How often progress is told where stderr is no terminal."""
FAILURES_NAMED = 5
COPIES_NAMED = 3
WORTH_TELLING_S = 5.0
"""An ingest that ends sooner is not told how long it takes."""


def print_logs(level: int) -> None:
    """Log to stderr from `level` on. Messages hold names of files: each is printable."""
    form = "mmsearch: %(message)s" if level > logging.DEBUG else logging.BASIC_FORMAT
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_PrintableFormatter(form))
    logging.basicConfig(level=level, handlers=[handler])


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(printable, super().format(record).split("\n")))


def short_path(path: Path) -> str:
    """`path` relative to the working folder where it lies inside, else as it is."""
    try:
        return printable(str(path.relative_to(Path.cwd())))
    except (ValueError, OSError):
        return printable(str(path))


def has_colour(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that shows colours and the user did not decline them (`NO_COLOR`)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width_of(stream: TextIO) -> int:
    """Columns of the terminal, 0 if `stream` is none."""
    try:
        return os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 0
    except OSError:
        return 0


def hit_lines(hits: Sequence[Hit], *, explain: bool = False, stream: TextIO = sys.stdout) -> Iterable[str]:
    """A text per hit: relevance, id, path, place, snippet, in columns, and in a second line where its copies are; paths are never shortened.

    `explain` adds the raw cosine and what the hit was matched by. Colour and width follow `stream`.
    """
    from rich.cells import cell_len, set_cell_size

    paths = [short_path(hit.path) for hit in hits]
    places = [hit.item.place for hit in hits]
    path_cells = min(max(map(cell_len, paths), default=0), 60)
    place_cells = max(map(cell_len, places), default=0)
    id_cells = max((len(str(hit.item.id)) for hit in hits), default=0)
    width = width_of(stream)
    colour = has_colour(stream)
    for hit, path, place in zip(hits, paths, places, strict=True):
        columns = [f"{hit.relevance:.2f}", f"{hit.item.id:>{id_cells}}", path + " " * (path_cells - cell_len(path))]
        if place_cells:
            columns.append(place + " " * (place_cells - cell_len(place)))
        if explain:
            cosine = "  –  " if hit.score is None else f"{hit.score:.3f}"
            columns.append(f"cosine {cosine} by {'+'.join(hit.matched_by)}")
        used = sum(map(cell_len, columns)) + 2 * len(columns)
        room = max(width - used, 0) if width else SNIPPET_CELLS
        snippet = " ".join(printable(hit.snippet.replace("\n", " ")).split())
        if cell_len(snippet) > room:
            snippet = set_cell_size(snippet, room - 1).rstrip() + "…" if room > 12 else ""
        if colour:
            columns[0] = (
                f"\x1b[{'1;32' if hit.relevance >= 0.7 else '33' if hit.relevance >= 0.5 else '2'}m{columns[0]}\x1b[0m"
            )
            columns[1] = f"\x1b[2m{columns[1]}\x1b[0m"
            snippet = snippet and f"\x1b[2m{snippet}\x1b[0m"
        line = "  ".join([*columns, snippet]).rstrip()
        if hit.also_at:
            told = f"{' ' * (len('0.00') + id_cells + 4)}{also_at_sentence(hit.also_at)}"
            line += f"\n\x1b[2m{told}\x1b[0m" if colour else f"\n{told}"
        yield line


def also_at_sentence(paths: Sequence[Path]) -> str:
    """`also at a/b.jpg, c.jpg`, of many the first `COPIES_NAMED` and how many more."""
    named = [short_path(path) for path in paths[:COPIES_NAMED]]
    more = [f"and {len(paths) - COPIES_NAMED:,} more"] if len(paths) > COPIES_NAMED else []
    return f"also at {', '.join(named)}{' ' if more else ''}{''.join(more)}"


def status_lines(status: Mapping[str, Any]) -> Iterable[str]:
    """`Library.status()` for people."""
    sources = status["sources"]
    yield f"library   {printable(status['library'])} ({size(status['bytes'])})"
    yield f"items     {items_sentence(status['items'])}"
    yield f"files     {sources['indexed']:,} indexed"
    if sources["pending"]:
        yield f"          {count_of(sources['pending'], 'file')} begun; `mmsearch ingest` goes on"
    if sources["offline"]:
        yield f"          {count_of(sources['offline'], 'file')} offline: they come back with their disk, or go with `ingest FOLDER --prune`"
    if sources["failed"]:
        yield f"          {count_of(sources['failed'], 'file')} failed: `mmsearch errors` says why"
    if told := left_out.sentence(**status["left_out"]):
        yield f"left out  {printable(told)}"
        yield "          `mmsearch errors --skipped` lists them"
    for number, root in enumerate(status["roots"]):
        away = " (nothing is there now)" if root in status["roots_away"] else ""
        yield f"{'' if number else 'folders':<10}{printable(root)}{away}"
    yield f"model     {printable(str(status['model']))} ({status['model_key'] or 'nothing embedded yet'})"
    if status["sources_to_embed"]:
        yield f"          {count_of(status['sources_to_embed'], 'file')} not embedded by it yet; `mmsearch ingest` goes on"
    if status["writer_pid"] is not None:
        yield f"writing   process {status['writer_pid']}"


class ProgressLines:
    """Tells an ingest run on stderr: the plan, then a bar on a terminal or a line now and then elsewhere, then the report."""

    def __init__(self) -> None:
        self._has_told_plan = self._has_told_time = False
        self._told_at = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def progress(self, now: Progress) -> None:
        """The callback of `ingest.pipeline.ingest_paths`."""
        if now.stage == "read" and now.plan is not None and not self._has_told_plan:
            self._has_told_plan = True
            print(now.plan.sentence(), file=sys.stderr, flush=True)
        if now.stage == "read" and not self._has_told_time and (now.eta_s or 0.0) >= WORTH_TELLING_S:
            self._has_told_time = True
            on = f" on {now.plan.device}" if now.plan is not None else ""
            told = (
                f"about {duration(now.eta_s or 0.0)} more{on}, by the first {count_of(sum(now.items.values()), 'item')}"
            )
            print(told, file=sys.stderr, flush=True)
        if sys.stderr.isatty():
            self._move_bar(now)
        elif self._has_told_plan and time.monotonic() - self._told_at >= LINE_INTERVAL_S:
            self._told_at = time.monotonic()
            print(now.sentence(), file=sys.stderr, flush=True)

    def _move_bar(self, now: Progress) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        if self._bar is None:
            columns = (BarColumn(bar_width=24), TaskProgressColumn(), TextColumn("{task.description}", markup=False))
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.add_task("", total=1.0)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=now.fraction, description=now.sentence())

    def report(self, report: IngestReport) -> None:
        """What was done, and which files failed."""
        if not report.interrupted:
            print(report.sentence(), file=sys.stderr)
        if told := left_out.sentence(**report.plan.left_out.record()):
            where = "" if report.dry_run else "; `mmsearch errors --skipped` lists them"
            print(printable(f"left out: {told}{where}"), file=sys.stderr)
        libraries = [one for one in report.plan.left_out.listed if one.reason == "library"]
        for one in libraries[:FAILURES_NAMED]:  # each may hold thousands of files
            print(f"left out: {short_path(one.path)}: {left_out.REASONS['library'][2]}", file=sys.stderr)
        failures = [*report.failures, *report.print_failures]
        for failure in failures[:FAILURES_NAMED]:
            print(f"failed: {short_path(failure.path)}: {printable(failure.reason)}", file=sys.stderr)
        if failures:
            more = len(failures) - FAILURES_NAMED
            also = f"and {count_of(more, 'more file')}; " if more > 0 else ""
            print(f"{also}`mmsearch errors` lists what failed, `mmsearch errors --retry` tries again", file=sys.stderr)


class EventLines:
    """Tells an ingest run on stdout, a JSON object per line: "plan", "progress" as it goes, "report" last."""

    def __init__(self) -> None:
        self._has_told_plan = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def progress(self, now: Progress) -> None:
        if now.stage == "read" and now.plan is not None:
            self._tell_plan(now.plan.record())
        self._tell("progress", now.record())

    def report(self, report: IngestReport) -> None:
        self._tell_plan(report.plan.record())
        self._tell("report", report.record())

    def _tell_plan(self, plan: dict[str, Any]) -> None:
        if not self._has_told_plan:
            self._has_told_plan = True
            self._tell("plan", plan)

    def _tell(self, event: str, record: dict[str, Any]) -> None:
        print(to_json({"schema": 1, "event": event, **record}), flush=True)
