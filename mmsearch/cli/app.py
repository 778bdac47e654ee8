"""The `mmsearch` command: its groups, and the one place where errors become a line and an exit code.

Everything heavy is imported inside the commands. stdout holds results only; plans, progress, footers and errors go to stderr.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mmsearch import __version__
from mmsearch.cli import demo_folder, evaluate, ingesting, items, models, page, query, status, train, upkeep
from mmsearch.cli.shared import (
    FAULT,
    INTERRUPTED,
    NO_LIBRARY,
    OK,
    USAGE,
    fail,
    help_without_command,
)
from mmsearch.disk.faults import disk_fault
from mmsearch.errors import (
    CatalogError,
    MMSearchError,
    SourceError,
    WorkerFailed,
)

app = typer.Typer(
    name="mmsearch",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 hits or done · 1 no hit above the cut-off · 2 usage · 3 library missing, locked or newer · "
    "4 done, but some files failed (`mmsearch errors` lists them) · 70 mmsearch itself, or no process to decode with · "
    "130 interrupted, work kept.",
)


def main() -> None:
    """Run the command; the one place where errors become a line and an exit code."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # a name that is not UTF-8 leaves as it came
    try:
        code = app(prog_name="mmsearch", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # `mmsearch query … | head -1`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = OK
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SourceError as error:
        fail(f"{error.path}: {error.reason}", USAGE)
    except CatalogError as error:
        fail(str(error), NO_LIBRARY)
    except WorkerFailed as error:
        fail(str(error), FAULT)
    except MMSearchError as error:
        fail(str(error), USAGE)
    except OSError as error:
        fault = disk_fault(
            error, Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
        )
        if fault is not None:
            fail(str(fault), NO_LIBRARY)
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), USAGE)
    except Exception as error:
        if hasattr(error, "format_message"):  # Typer's own: an unknown option, a value that is none
            context = getattr(error, "ctx", None)
            fail(f"{error.format_message()} (see: {context.command_path if context else 'mmsearch'} --help)", USAGE)
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            raise
        fail(f"a fault of mmsearch itself: {type(error).__name__}: {error} (-vv before the command shows where)", FAULT)
    sys.exit(code)


def _print_version(value: bool) -> None:
    if value:
        print(f"mmsearch {__version__}")
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more on stderr; twice for all.")] = 0,
) -> None:
    """Find pages, photos and moments on your own machine, by meaning.

    \b
    Examples:
      mmsearch ingest ~/Documents ~/Pictures
      mmsearch query "slides about revenue"
      mmsearch query "a dog on a beach" --kind photo --open 1
      mmsearch ui
    """
    from mmsearch.cli.terminal import print_logs

    help_without_command(context)
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    print_logs(level)
    if context.invoked_subcommand not in ("models", "train"):  # `models pull`, and data sets that a recipe may fetch
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


COMMANDS: dict[str, Callable[..., Any]] = {
    "ingest": ingesting.ingest_command,
    "query": query.query_command,
    "status": status.status_command,
    "errors": status.errors_command,
    "show": items.show_command,
    "remove": items.remove_command,
    "doctor": upkeep.doctor_command,
    "backup": upkeep.backup_command,
    "restore": upkeep.restore_command,
    "compact": upkeep.compact_command,
    "ui": page.ui_command,
    "demo-folder": demo_folder.demo_folder_command,
}
for name, command in COMMANDS.items():
    app.command(name)(command)

for name, group in {"models": models, "train": train, "eval": evaluate}.items():
    app.add_typer(group.app, name=name)
