"""The `mmsearch` command: parse, call, print. Everything heavy is imported inside the commands.

stdout holds results only; plans, progress, footers and errors go to stderr.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import date
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsearch import __version__
from mmsearch.commands import evaluate, models, train, upkeep
from mmsearch.commands.ingesting import ingested
from mmsearch.commands.naming import ITEM_METAVAR, file_of, item_named, items_named
from mmsearch.commands.shared import (
    FAULT,
    INTERRUPTED,
    NO_HIT,
    NO_LIBRARY,
    OK,
    SOME_FAILED,
    USAGE,
    DeviceOption,
    FamilyOption,
    JsonOption,
    LibraryOption,
    ModelOption,
    complete_kinds,
    fail,
    help_without_command,
    named_model,
    note,
    opened,
)
from mmsearch.disk import disk_fault
from mmsearch.errors import (
    CatalogError,
    ConfigError,
    MMSearchError,
    SourceError,
    WorkerFailed,
)
from mmsearch.items import KIND_ALIASES, KINDS, Kind

if TYPE_CHECKING:
    from mmsearch.library import Library
    from mmsearch.search import Hits

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


# ---------------------------------------------------------------- options shared by several commands


def _kinds(words: list[str] | None) -> list[Kind] | None:
    """What the user typed after --kind, commas allowed, as kinds in their usual order; None means all."""
    chosen = set()
    for word in ",".join(words or []).lower().split(","):
        if word := word.strip():
            if word not in KIND_ALIASES:
                raise typer.BadParameter(f"{word!r} is no kind; say page, image or clip (or pdf, photo, video)")
            chosen.add(KIND_ALIASES[word])
    return [kind for kind in KINDS if kind in chosen] or None


def _date(text: str | None) -> date | None:
    """See `mmsearch.dates.parse_asked`: what is left out is the first."""
    from mmsearch.dates import parse_asked

    if text is None:
        return None
    try:
        return parse_asked(text)
    except ValueError:
        said = '2025, 2025-03, 2025-03-31, yesterday, "last month" or "3 days ago"'
        raise typer.BadParameter(f"{text!r} is no date; write {said}") from None


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
    from mmsearch.terminal import print_logs

    help_without_command(context)
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    print_logs(level)
    if context.invoked_subcommand not in ("models", "train"):  # `models pull`, and data sets that a recipe may fetch
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


# ---------------------------------------------------------------- ingest


@app.command("ingest")
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
    from mmsearch.config import find_library_folder
    from mmsearch.schema import CATALOG_NAME, is_empty, refuse_lost

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
            and not found.catalog.known_files([*resolve_roots([path]), *former_roots([path])])
        )
        code = ingested(found, paths, dry_run=dry_run, as_json=as_json, **options)
    raise typer.Exit(code)


def _refuse_missing(paths: Iterable[Path]) -> None:
    for path in paths:
        fail(f"{path}: no such file or folder", USAGE)


# ---------------------------------------------------------------- query


class Format(StrEnum):
    table = "table"
    json = "json"
    jsonl = "jsonl"
    paths = "paths"


@app.command("query")
def query_command(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT…",
            help="What you look for, in your words, with or without quotes; -word inside quotes keeps a word away.",
            show_default=False,
        ),
    ] = None,
    image: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Search with a picture, alone or with TEXT.")
    ] = None,
    like: Annotated[str | None, typer.Option(metavar=ITEM_METAVAR, help="More like this item.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="Hits at most.")] = 10,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="page, image, clip (pdf, photo, video); again or with commas for more.",
            autocompletion=complete_kinds,
        ),
    ] = None,
    path: Annotated[
        str | None, typer.Option(metavar="GLOB", help="Only files whose path matches, as 'talks/**'.")
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--not", metavar="TEXT", help="Nothing that holds these words or means this; again for more."),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(metavar="DATE", help='Only from this day on: 2025, 2025-03, 2025-03-31, yesterday, "last month".'),
    ] = None,
    before: Annotated[str | None, typer.Option(metavar="DATE", help="Only before this day.")] = None,
    instruction: Annotated[str | None, typer.Option(metavar="TEXT", help="Replaces the built-in instruction.")] = None,
    format: Annotated[Format, typer.Option(help="How hits are printed.")] = Format.table,
    print0: Annotated[bool, typer.Option("--print0", "-0", help="Paths only, each ended by a NUL byte.")] = False,
    min_relevance: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Cut off below this relevance; 0 shows all [default: by itself]."),
    ] = None,
    offset: Annotated[int, typer.Option(min=0, help="Leave out the first hits.")] = 0,
    all_copies: Annotated[
        bool,
        typer.Option(
            "--all-copies", help="Show each copy of a file, and photo and video of a Live Photo, as a hit of its own."
        ),
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the raw cosine and what each hit was matched by.")
    ] = False,
    open_rank: Annotated[
        int | None, typer.Option("--open", metavar="N", min=1, help="Open the N-th hit's file.")
    ] = None,
    queries: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help='Many queries, a line each ("-": stdin): plain text or JSON {"query", "kind"?, "image"?, "not"?, "instruction"?}. '
            "Prints a JSON object per query.",
        ),
    ] = None,
    library: LibraryOption = None,
    model: ModelOption = None,
    device: DeviceOption = None,
) -> None:
    """Find pages, photos and moments.

    \b
    Examples:
      mmsearch query slides about revenue
      mmsearch query "sunset over water" --kind photo --after 2024-06
      mmsearch query "revenue -quarter" --not "balance sheet"
      mmsearch query --image chair.jpg "the same in red"
      mmsearch query --like report.pdf:12
      mmsearch query invoice --format paths --print0 | xargs -0 ls -l
    """
    text = " ".join(words or [])
    wanted: dict[str, Any] = {
        "k": k,
        "offset": offset,
        "kinds": _kinds(kind),
        "path": path,
        "exclude": exclude or (),
        "after": _date(after),
        "before": _date(before),
        "instruction": instruction,
        "min_relevance": min_relevance,
        "all_copies": all_copies,
    }
    if queries is not None:
        if text or image or like:
            raise typer.BadParameter("--queries stands alone: leave TEXT, --image and --like out")
        with opened(library, model=model, device=device) as found:
            raise typer.Exit(_answer_many(found, queries, wanted))
    from mmsearch.ranking.terms import wording_of

    if not (wording_of(text).text.strip() or image or like):
        raise typer.BadParameter(
            "say what you look for: TEXT, --image FILE or --like ID"
            + (" beside what is to be left out" if text.strip() or exclude else "")
        )
    with opened(library, model=model, device=device) as found:
        returned = found.show_returned()
        liked = None if like is None else item_named(found.catalog, like).id
        hits = found.search(text, image=image, like=liked, **wanted)
        offline = _offline(found, returned)
        _print_hits(hits, format=Format.paths if print0 else format, print0=print0, explain=explain, offline=offline)
        if not hits:
            _say_no_hit(found, hits, offline)
            raise typer.Exit(NO_HIT)
        if open_rank is not None:
            from mmsearch.terminal import count_of

            if open_rank > len(hits):
                fail(f"--open {open_rank}: no more than {count_of(len(hits), 'hit')}", USAGE)
            _open(hits[open_rank - 1].path)


def _open(path: Path) -> None:
    """With the program that the desktop has for it."""
    if not path.exists():
        fail(f"{path} is not there now: its disk is away, or it was moved, renamed or deleted since", SOME_FAILED)
    if typer.launch(str(path)):
        fail(f"{path} cannot be opened: no desktop with `xdg-open` is here", SOME_FAILED)


def _offline(library: Library, returned: int) -> str:
    """What a query could not look at, and what it can look at again, or ""."""
    from mmsearch.terminal import count_of

    told = {"offline": library.catalog.offline_count(), "back again": returned}
    return " · ".join(f"{count_of(number, 'file')} {what}" for what, number in told.items() if number)


def _print_hits(hits: Hits, *, format: Format, print0: bool, explain: bool, offline: str) -> None:
    from mmsearch.terminal import hit_lines, printable, to_json

    if format is Format.json:
        print(to_json([hit.record() for hit in hits], indent=2))
        return
    if format is Format.jsonl:
        for hit in hits:
            print(to_json(hit.record()))
    elif format is Format.paths:
        for path in dict.fromkeys(hit.path for hit in hits):  # a file once, at its best hit
            is_seen = sys.stdout.isatty() and not print0  # `find` does so, too
            print(printable(str(path)) if is_seen else path, end="\0" if print0 else "\n")
    else:
        for line in hit_lines(hits, explain=explain):
            print(line)
        if hits:
            parts = [f"{len(hits)} of {hits.searched:,} items", f"{hits.took_ms:.0f} ms (model {hits.model_ms:.0f} ms)"]
            if hits.hidden:
                parts.append(f"{hits.hidden:,} weaker hits hidden")
            sys.stdout.flush()
            note(" · ".join([*parts, offline] if offline else parts))


def _say_no_hit(library: Library, hits: Hits, offline: str) -> None:
    from mmsearch.terminal import count_of, short_path

    if not hits.searched:
        total = sum(library.item_counts().values())
        if total:
            note(f"of {count_of(total, 'item')} none is of the kind, folder or time asked for")
        elif offline:
            note(f"nothing can be searched now: {offline}")
        else:
            note(f"the library at {library.folder} is empty: `mmsearch ingest FOLDER` fills it")
        return
    closest = ""
    if (best := hits.best_below) is not None:
        where = " ".join(filter(None, [short_path(best.path), best.item.place]))
        closest = f"; the closest is at {best.relevance:.2f}: {where} (--min-relevance 0 shows all)"
    note(f"no good match in {hits.searched:,} items{closest}" + (f" · {offline}" if offline else ""))


QUERY_FIELDS = {"query", "kind", "image", "like", "instruction", "path", "not", "after", "before", "k"}


def _answer_many(library: Library, queries: str, wanted: dict[str, Any]) -> int:
    """Answer a query per line as it comes in; a line that cannot be answered gets an "error" and the rest goes on.

    Returns:
        The exit code: some lines failed, else whether any query had a hit.
    """
    from mmsearch.terminal import to_json

    any_hit = any_failed = False
    with _lines(queries) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            answer: dict[str, Any] = {"query": line.strip()}
            try:
                fields = _parse_query(line)
                answer["query"] = fields.get("query", "")
                hits = library.search(
                    answer["query"],
                    **wanted | _search_options(fields),
                    image=Path(fields["image"]) if "image" in fields else None,
                )
            except (SourceError, ConfigError, LookupError, ValueError, TypeError, typer.BadParameter) as error:
                any_failed = True
                note(f"mmsearch: {queries}, line {number}: {error}")
                print(to_json(answer | {"hits": [], "error": str(error)}), flush=True)
            else:
                any_hit = any_hit or bool(hits)
                print(to_json(answer | {"hits": [hit.record() for hit in hits]}), flush=True)
    return SOME_FAILED if any_failed else OK if any_hit else NO_HIT


@contextmanager
def _lines(file: str) -> Iterator[Iterator[str]]:
    if file == "-":
        yield iter(sys.stdin)
        return
    with Path(file).open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        yield iter(stream)


def _parse_query(line: str) -> dict[str, Any]:
    """The fields of one line; a line that starts with "{" is JSON, any other is the text itself."""
    import json

    if not line.lstrip().startswith("{"):
        return {"query": line.strip()}
    fields = json.loads(line)
    if unknown := set(fields) - QUERY_FIELDS:
        raise ValueError(f"unknown field {', '.join(sorted(unknown))}; known: {', '.join(sorted(QUERY_FIELDS))}")
    return {name: value for name, value in fields.items() if value is not None}


def _search_options(fields: dict[str, Any]) -> dict[str, Any]:
    """What a line sets beside its text and picture, as options of `Library.search`."""
    chosen: dict[str, Any] = {name: fields[name] for name in ("like", "instruction", "path", "k") if name in fields}
    if "kind" in fields:
        chosen["kinds"] = _kinds([fields["kind"]] if isinstance(fields["kind"], str) else list(fields["kind"]))
    if "not" in fields:
        chosen["exclude"] = fields["not"]
    return chosen | {name: _date(str(fields[name])) for name in ("after", "before") if name in fields}


# ---------------------------------------------------------------- looking into the library


@app.command("status")
def status_command(library: LibraryOption = None, as_json: JsonOption = False) -> None:
    """Say what is indexed: items, files, folders, model, and what is wrong."""
    from mmsearch.terminal import status_lines, to_json

    with opened(library) as found:
        status = found.status()
    if as_json:
        print(to_json(status, indent=2))
        return
    for line in status_lines(status):
        print(line)


@app.command("errors")
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
    """List the files that could not be indexed, and the print that could not be read, and why. Exit code 4 if there is any."""
    from mmsearch.terminal import printable, to_json

    if skipped:
        _print_left_out(library, as_json=as_json)
        return
    if retry:
        with opened(library, model=model, device=device) as found:
            paths = [row.path for row in (*found.catalog.errors(), *found.catalog.print_errors())]
            if paths:
                raise typer.Exit(ingested(found, paths, retry_failed=True, as_json=as_json))
    else:
        with opened(library) as found:
            rows = [*found.catalog.errors(), *found.catalog.print_errors()]
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
    from mmsearch.left_out import REASONS, sentence
    from mmsearch.terminal import printable, to_json

    with opened(folder) as found:
        left_out = found.catalog.left_out()
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


@app.command("show")
def show_command(
    named: Annotated[
        str,
        typer.Argument(
            metavar=ITEM_METAVAR,
            help="An item: its id, as `mmsearch query` shows it, or its file, as report.pdf:12 or film.mp4@1:15.",
        ),
    ],
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one item: where it lies, its metadata, its text. Of a file with many items the first, if none is named."""
    from mmsearch.terminal import printable, to_json

    with opened(library) as found:
        item = item_named(found.catalog, named)
        count = len(items_named(found.catalog, named))
        read = found.catalog.recognised_in(item) if item.text_source == "ocr" else None
        also_at = found.catalog.also_at([item]).get(item.id, ())
    record = {
        "schema": 1,
        "id": item.id,
        "kind": item.kind,
        "path": str(item.path),
        "page": item.page_number,
        "start_s": item.start_s,
        "end_s": item.end_s,
        "preview": None if item.preview is None else str(item.preview),
        "also_at": [str(path) for path in also_at],
        "meta": dict(item.meta),
        "text": item.text,
        "text_source": item.text_source,
        "description": item.description.strip(),
        "recognised": None if read is None else read.record(),
    }
    if as_json:
        print(to_json(record, indent=2))
        return
    print("  ".join(filter(None, [printable(str(item.path)), item.place, item.kind, f"id {item.id}"])))
    for path in also_at:
        print(f"also at {printable(str(path))}")
    for name, value in item.meta.items():
        if isinstance(value, dict):  # what a library remembers for itself
            continue
        told = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        print(f"{name}: {printable(' '.join(told.split()))}")
    if item.text.strip():
        print()
        if read is not None:
            print(
                f"recognised by {read.engine} ({printable(read.version)}, {printable(read.languages)}); letters may be wrong:"
            )
        for line in item.text.strip().splitlines():
            print(printable(line))
    if count > 1:
        note(
            f"the first of {count:,} items of this file: {item.path.name}{':PAGE' if item.page_number else '@TIME'} names one"
        )


@app.command("remove")
def remove_command(
    named: Annotated[
        str,
        typer.Argument(
            metavar="PATH|ID",
            help="A file, or a folder with all in it. Of an item (its id, FILE:PAGE, FILE@TIME) the whole file goes.",
        ),
    ],
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a file or folder out of the index. The file itself is never touched."""
    from mmsearch.terminal import count_of, short_path, to_json

    if not named:
        raise typer.BadParameter(
            "say what to take out: a file, a folder or an item"
        )  # an empty path is the working folder
    with opened(library) as found, found.lock():
        sources = next(filter(None, (found.catalog.sources(under=path) for path in file_of(Path(named)))), [])
        if not sources:
            ids = {item.source_id for item in items_named(found.catalog, named)}
            sources = [source for source in found.catalog.sources() if source.id in ids]
        found.catalog.retire([source.id for source in sources])
        found.sync_vectors()
    items = sum(source.item_count for source in sources)
    if as_json:
        print(to_json({"schema": 1, "files": len(sources), "items": items}))
    if not sources:
        fail(f"{named}: nothing of it is indexed", NO_HIT)
    which = short_path(sources[0].path) if len(sources) == 1 else count_of(len(sources), "file")
    note(f"took out {count_of(items, 'item')} of {which}; an `mmsearch ingest` of that folder brings them back")


# ---------------------------------------------------------------- looking after the library, and groups of commands


for upkeep_name, upkeep_command in (
    ("doctor", upkeep.doctor_command),
    ("backup", upkeep.backup_command),
    ("restore", upkeep.restore_command),
    ("compact", upkeep.compact_command),
):
    app.command(upkeep_name)(upkeep_command)


for name, group in (("models", models), ("train", train), ("eval", evaluate)):
    app.add_typer(group.app, name=name)


# ---------------------------------------------------------------- the page, the demo


PAGE_OPTIONS = {
    # All that matters for safety is said here, over whatever the user's own Streamlit settings are.
    "server.headless": "true",  # this command opens the browser, or does not
    "server.enableStaticServing": "false",
    "server.enableCORS": "true",  # the protection, not the permission
    "server.enableXsrfProtection": "true",
    "server.enableAgentApi": "false",
    "server.scriptHealthCheckEnabled": "false",
    "server.baseUrlPath": "",
    "global.developmentMode": "false",
    "server.fileWatcherType": "none",
    "server.maxUploadSize": "32",
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "client.showErrorLinks": "false",  # "Ask Google", "Ask ChatGPT"
    "logger.level": "warning",
}


@app.command("ui")
def ui_command(
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port [default: 8501, or the next free one].")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; another than this machine's own needs a token.")
    ] = "127.0.0.1",
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name", metavar="NAME", help="A name by which browsers call the page, say behind a proxy; repeat."
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="MMSEARCH_TOKEN",
            show_envvar=False,
            metavar="TEXT|auto",
            help="What a browser has to show first; `auto` makes one up. Better in MMSEARCH_TOKEN: others on this machine "
            "see options.",
        ),
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open a browser.")] = False,
    library: LibraryOption = None,
    model: ModelOption = None,
    device: DeviceOption = None,
) -> None:
    """Open the search page in a browser; Ctrl-C ends it. Nothing leaves this machine."""
    import signal
    import subprocess
    from importlib.resources import as_file, files

    from mmsearch.config import find_library_folder
    from ui import connections, gate

    token = _checked_token(host, token)
    port = _free_port(host, port)
    environment = dict(os.environ, MMSEARCH_LIBRARY=str(find_library_folder(library)))
    environment |= {gate.HOSTS_VARIABLE: ",".join([host, *(name or [])]), gate.TOKEN_VARIABLE: token or ""}
    if model is not None:
        environment["MMSEARCH_MODEL"] = model
    if device is not None:
        environment["MMSEARCH_DEVICE"] = device
    with as_file(files("ui")) as folder:
        settings = PAGE_OPTIONS | {
            "server.address": host,
            "server.port": str(port),
            # Without it Streamlit asks a server on the net for this machine's address there, to print it.
            "browser.serverAddress": _page_name(host),
            "theme.base": str(folder / "theme.toml"),
        }
        lifeline, held_end = os.pipe()  # closed by the kernel when this process is killed
        environment[connections.LIFELINE_VARIABLE] = str(lifeline)
        page = subprocess.Popen(
            [sys.executable, "-P", "-m", "ui", "run", str(folder / "serve.py")]
            + [f"--{name}={value}" for name, value in settings.items()],
            env=environment,
            stdout=subprocess.DEVNULL,
            pass_fds=[lifeline],
        )
        os.close(lifeline)
        url = _page_url(host, port, token)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(OK))  # the page ends with this command, however it is ended
        try:
            if not _answers(host, port, page):
                fail("the page did not start; its last words are above", FAULT)
            note(f"mmsearch is at {url} (Ctrl-C ends it)")
            if not no_browser:
                typer.launch(_page_url(host, port, None))  # others on this machine see what a browser is started with
            code = page.wait()
        except KeyboardInterrupt:
            code = OK
        finally:
            page.terminate()
            page.wait()
            os.close(held_end)
    raise typer.Exit(code)


def _checked_token(host: str, token: str | None) -> str | None:
    """The token, made up if it is `auto`; the command ends where an address needs one, or one is easy to guess."""
    import secrets

    from ui import gate

    if token == "auto":
        return secrets.token_urlsafe(24)
    if not token and not gate.is_local(host):
        fail(
            f"whoever reaches {host} could search this library and add folders of this machine: give the page a token "
            "(--token auto makes one), or leave out --host",
            USAGE,
        )
    if token and len(token) < gate.TOKEN_CHARACTERS:
        fail(f"a token of {len(token)} characters can be guessed; take {gate.TOKEN_CHARACTERS} or more, or auto", USAGE)
    return token or None


def _page_name(host: str) -> str:
    """What a browser calls a page that listens on `host`."""
    import socket

    return socket.gethostname() if host in ("0.0.0.0", "::") else host


def _page_url(host: str, port: int, token: str | None) -> str:
    """Where a browser finds the page, with the token in it."""
    from urllib.parse import urlencode

    name = _page_name(host)
    shown = f"/?{urlencode({'token': token})}" if token else ""
    return f"http://{f'[{name}]' if ':' in name else name}:{port}{shown}"


def _free_port(host: str, port: int | None) -> int:
    """The port asked for if it is free (else the command ends), or the first free one from 8501 on."""
    import errno
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in [port] if port is not None else range(8501, 8601):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except OSError as error:
                if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                    fail(f"{host} is no address of this machine ({error.strerror}); choose another with --host", USAGE)
                reason = error.strerror
            else:
                return candidate
    fail(f"port {port or '8501 to 8600'} of {host} cannot be used: {reason}; choose another with --port", USAGE)


def _answers(host: str, port: int, process: Any, *, timeout_s: float = 60.0) -> bool:
    """Wait until the page listens; false if its process ends before."""
    import socket
    import time

    deadline = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with socket.create_connection((host, port), timeout=1):
                return True
        except OSError:
            time.sleep(0.05)
    return False


@app.command("demo-folder")
def demo_folder_command(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Is made if need be.")]) -> None:
    """Write a small folder to try things on: slides, a report, pictures, short videos."""
    from mmsearch.demo import write_demo_folder

    write_demo_folder(folder)
    note(f"wrote {folder}; now: mmsearch ingest {folder}")


if __name__ == "__main__":
    main()
