"""`mmsearch status` and `mmsearch errors`: what is indexed, what failed, what was left out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mmsearch.cli.ingesting import ingested
from mmsearch.cli.shared import (
    SOME_FAILED,
    DeviceOption,
    JsonOption,
    LibraryOption,
    ModelOption,
    note,
    opened,
)


def status_command(library: LibraryOption = None, as_json: JsonOption = False) -> None:
    """Say what is indexed, and what is wrong. Items, files, folders, model."""
    from mmsearch.cli.terminal import status_lines
    from mmsearch.words import to_json

    with opened(library) as found:
        status = found.status()
    if as_json:
        print(to_json(status, indent=2))
        return
    for line in status_lines(status):
        print(line)


def errors_command(
    retry: Annotated[bool, typer.Option("--retry", help="Try these files again now.")] = False,
    skipped: Annotated[
        bool, typer.Option("--skipped", help="List what the last ingest left out, and why; that is no error.")
    ] = False,
    library: LibraryOption = None,
    model: ModelOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what could not be indexed, and why. Files, and print that could not be read; exit code 4 if there is any."""
    from mmsearch.words import printable, to_json

    if skipped:
        _print_left_out(library, as_json=as_json)
        return
    if retry:
        with opened(library, model=model, device=device) as found:
            paths = [row.path for row in (*found.catalog.sources.errors(), *found.catalog.print.errors())]
            if paths:
                raise typer.Exit(ingested(found, paths, retry_failed=True, as_json=as_json))
    else:
        with opened(library) as found:
            rows = [*found.catalog.sources.errors(), *found.catalog.print.errors()]
        if as_json:
            records = [
                {"schema": 1, "path": str(row.path), "type": row.type, "reason": row.reason, "at": _iso(row.at)}
                for row in rows
            ]
            print(to_json(records, indent=2))
        else:
            for row in rows:
                print(f"{printable(str(row.path))}  {row.type}  {printable(row.reason)}")
        if rows:
            raise typer.Exit(SOME_FAILED)
    note("no file has failed")


def _print_left_out(folder: Path | None, *, as_json: bool) -> None:
    from mmsearch.catalog.left_out import REASONS, sentence
    from mmsearch.words import printable, to_json

    with opened(folder) as found:
        left_out = found.catalog.sources.left_out()
    why = {reason: words[2] for reason, words in REASONS.items()}
    if as_json:
        rows = [{"path": str(one.path), "reason": one.reason, "why": why[one.reason]} for one in left_out.listed]
        print(to_json({"schema": 1, **left_out.record(), "listed": rows}, indent=2))
        return
    for one in left_out.listed:
        print(f"{printable(str(one.path))}  {one.reason}  {why[one.reason]}")
    sys.stdout.flush()
    note(sentence(left_out.reasons, left_out.suffixes) or "nothing was left out")
    if (more := left_out.reasons.total() - len(left_out.listed)) > 0:
        note(f"{more:,} more are counted, but not listed")


def _iso(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
