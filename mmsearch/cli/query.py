"""`mmsearch query`: one question, or many from a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsearch.cli.naming import ITEM_METAVAR, item_named
from mmsearch.cli.shared import (
    NO_HIT,
    OK,
    SOME_FAILED,
    USAGE,
    DeviceOption,
    LibraryOption,
    ModelOption,
    complete_kinds,
    fail,
    note,
    opened,
)
from mmsearch.errors import (
    ConfigError,
    SourceError,
)
from mmsearch.items import KIND_ALIASES, KINDS, Kind

if TYPE_CHECKING:
    from mmsearch.library import Library
    from mmsearch.search import Hits


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
    """See `mmsearch.media.dates.parse_asked`: what is left out is the first."""
    from mmsearch.media.dates import parse_asked

    if text is None:
        return None
    try:
        return parse_asked(text)
    except ValueError:
        said = '2025, 2025-03, 2025-03-31, yesterday, "last month" or "3 days ago"'
        raise typer.BadParameter(f"{text!r} is no date; write {said}") from None


class Format(StrEnum):
    table = "table"
    json = "json"
    jsonl = "jsonl"
    paths = "paths"


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
            from mmsearch.words import count_of

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
    from mmsearch.words import count_of

    told = {"offline": library.catalog.sources.offline_count(), "back again": returned}
    return " · ".join(f"{count_of(number, 'file')} {what}" for what, number in told.items() if number)


def _print_hits(hits: Hits, *, format: Format, print0: bool, explain: bool, offline: str) -> None:
    from mmsearch.cli.terminal import hit_lines
    from mmsearch.words import count_of, printable, to_json

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
            parts = [
                f"{len(hits)} of {count_of(hits.searched, 'item')}",
                f"{hits.took_ms:.0f} ms (model {hits.model_ms:.0f} ms)",
            ]
            if hits.hidden:
                parts.append(f"{count_of(hits.hidden, 'weaker hit')} hidden")
            sys.stdout.flush()
            note(" · ".join([*parts, offline] if offline else parts))


def _say_no_hit(library: Library, hits: Hits, offline: str) -> None:
    from mmsearch.cli.terminal import short_path
    from mmsearch.words import count_of

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
    note(f"no good match in {count_of(hits.searched, 'item')}{closest}" + (f" · {offline}" if offline else ""))


QUERY_FIELDS = {"query", "kind", "image", "like", "instruction", "path", "not", "after", "before", "k"}


def _answer_many(library: Library, queries: str, wanted: dict[str, Any]) -> int:
    """Answer a query per line as it comes in; a line that cannot be answered gets an "error" and the rest goes on.

    Returns:
        The exit code: some lines failed, else whether any query had a hit.
    """
    from mmsearch.words import to_json

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
