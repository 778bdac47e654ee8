"""`mmsearch ingest`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsearch.cli.shared import (
    FAULT,
    INTERRUPTED,
    OK,
    SOME_FAILED,
    USAGE,
    DeviceOption,
    FamilyOption,
    LibraryOption,
    ModelOption,
    fail,
    named_model,
    note,
    opened,
)

if TYPE_CHECKING:
    from mmsearch.library import Library


def ingested(library: Library, paths: Sequence[Path], *, as_json: bool, dry_run: bool = False, **options: Any) -> int:
    """Run the pipeline, say what it does, and return the exit code."""
    from ingest.pipeline import ingest_paths
    from mmsearch.cli.terminal import EventLines, ProgressLines

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

    from mmsearch.library.examples import example_queries

    tries = [f"mmsearch query {shlex.quote(query)}" for query in example_queries(library.catalog)]
    for number, command in enumerate([*tries, "mmsearch ui"]):
        note(f"{'' if number else 'try':<6}{command}")


def ingest_command(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="Folders or files.", show_default=False)],
    library: LibraryOption = None,
    model: ModelOption = None,
    family: FamilyOption = None,
    device: DeviceOption = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Decoding processes [default: half of the cores].")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Say what would be done, and stop.")] = False,
    include: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Only files whose path matches.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Leave out what matches.")] = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Try files again that failed before, unchanged or not.")
    ] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Forget files that are offline, too.")] = False,
    no_ocr: Annotated[bool, typer.Option("--no-ocr", help="Do not read the print of scans and screenshots.")] = False,
    wait: Annotated[
        float | None,
        typer.Option(
            min=0.0, metavar="SECONDS", help="Wait so long while another process writes [default: not at all]."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object per line: the plan, progress, and the report last.")
    ] = False,
) -> None:
    """Index folders: PDF pages, photos and moments of videos.

    Unchanged files are not opened again, moved ones keep their vectors, and what was removed is taken out. Interrupting
    is safe: what is done is kept, and the same command goes on. The library can be searched meanwhile. Once everything can be
    found by sight, the print of scans, slides and screenshots is read, so that they are found by their words too.

    \b
    Examples:
      mmsearch ingest ~/Documents ~/Pictures
      mmsearch ingest talks --dry-run
      mmsearch ingest ~/Pictures --exclude '**/thumbnails/**'
      mmsearch ingest ~/Documents --wait 3600
    """
    from ingest.scan import former_roots, resolve_roots
    from mmsearch.catalog.dialect.sqlite import CATALOG_NAME, refuse_lost
    from mmsearch.config import find_library_folder
    from mmsearch.disk.presence import is_empty

    options: dict[str, Any] = {"jobs": jobs, "include": include or (), "exclude": exclude or ()}
    options |= {"retry_failed": retry, "prune": prune, "wait_s": wait or 0.0}
    options |= {"ocr": False if no_ocr else None}
    folder = find_library_folder(library)
    is_new = is_empty(folder / CATALOG_NAME)
    if is_new:
        refuse_lost(folder)
        _refuse_missing(path for path in paths if not os.path.lexists(path))
    with ExitStack() as stack:
        if dry_run and is_new:  # looking makes no library
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="mmsearch-")))
        found = stack.enter_context(opened(folder, create=True, model=named_model(model, family), device=device))
        _refuse_missing(
            path
            for path in paths
            if not os.path.lexists(path)
            and not found.catalog.sources.known_files([*resolve_roots([path]), *former_roots([path])])
        )
        code = ingested(found, paths, dry_run=dry_run, as_json=as_json, **options)
    raise typer.Exit(code)


def _refuse_missing(paths: Iterable[Path]) -> None:
    for path in paths:
        fail(f"{path}: no such file or folder", USAGE)
