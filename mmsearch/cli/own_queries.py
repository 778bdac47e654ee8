"""`mmsearch eval run | compare | add`: how well the application finds what belongs to queries of one's own."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmsearch.cli.shared import (
    OK,
    SOME_FAILED,
    USAGE,
    DeviceOption,
    JsonOption,
    LibraryOption,
    ModelOption,
    fail,
    note,
    opened,
)
from mmsearch.items import KIND_ALIASES, Kind

if TYPE_CHECKING:
    from mmsearch.judgements.places import Place
    from mmsearch.judgements.queries import JudgedQuery
    from mmsearch.library import Library
    from mmsearch.search import Hits

TELL_EVERY_S = 10.0
FRAGMENT = re.compile(r"#(?:page=(?P<page>\d+)|t=(?P<start>[\d.]+)?(?:,(?P<end>[\d.]+))?)$")
"""How --path names a part of a file: RFC 8118 of a PDF, Media Fragments of a video."""


class Mode(StrEnum):
    all = "all"
    fused = "fused"
    dense = "dense"
    text = "text"

    @property
    def modes(self) -> tuple[str, ...]:
        from mmsearch.search import MODES

        return MODES if self is Mode.all else (self.value,)


QueriesArgument = Annotated[
    Path,
    typer.Argument(
        metavar="QUERIES.jsonl",
        help='A JSON object a line: {"query", "kind"?, "image"?, "instruction"?, "relevant": [{"path", "page"?, "start_s"?, "end_s"?}], '
        '"style"?}.',
        show_default=False,
    ),
]
ModeOption = Annotated[
    Mode, typer.Option("--mode", help="How to search: by meaning and words (fused), by one of them, or each way.")
]
DepthOption = Annotated[
    int, typer.Option("-k", min=10, max=10_000, help="Look at so many hits; a right answer further down is not found.")
]
SkipOption = Annotated[bool, typer.Option("--skip-bad", help="Leave out lines that cannot be used, and go on.")]
StyleOption = Annotated[
    str | None,
    typer.Option(metavar="WORD", help="What sort of query it is (keyword, question, …), for tables by style."),
]


def run_command(
    queries: QueriesArgument,
    mode: ModeOption = Mode.all,
    k: DepthOption = 100,
    out: Annotated[
        Path | None, typer.Option(metavar="RUN.json", help="Keep the run, for `mmsearch eval compare`.")
    ] = None,
    name: Annotated[str, typer.Option(metavar="TEXT", help="A name for the run, shown when it is compared.")] = "",
    skip_bad: SkipOption = False,
    library: LibraryOption = None,
    model: ModelOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask judged queries and say how well they are answered.

    Right answers that the library does not hold count as not found, and are named. Queries with "relevant": [] have no answer: what
    counts is whether nothing is shown. Exit code 4 if lines were left out.

    \b
    Examples:
      mmsearch eval run queries.jsonl
      mmsearch eval run queries.jsonl --mode dense --out dense.json
    """
    from mmsearch.judgements.run import measure_run
    from mmsearch.judgements.tables import missing_lines, run_lines
    from mmsearch.words import to_json

    asked, bad = _read(queries, skip_bad=skip_bad)
    with opened(library, model=model, device=device) as found:
        run = measure_run(found, asked, modes=mode.modes, depth=k, name=name or queries.stem, tell=_progress())
    if out is not None:
        run.save(out)
    for line in missing_lines(run):
        note(line)
    if as_json:
        print(to_json(run.record(), indent=2))
    else:
        for line in run_lines(run):
            print(line)
    if out is not None:
        sys.stdout.flush()
        note(f"kept in {out}")
    raise typer.Exit(SOME_FAILED if bad else OK)


def _read(path: Path, *, skip_bad: bool) -> tuple[list[JudgedQuery], int]:
    """The judged queries, and how many lines were left out."""
    from mmsearch.judgements.queries import read_queries

    bad: list[str] = []
    asked = read_queries(path, on_bad=bad.append if skip_bad else None)
    for line in bad:
        note(f"mmsearch: left out: {line}")
    return asked, len(bad)


def _progress() -> Callable[[int, int], None]:
    told_at = time.monotonic()

    def tell(done: int, of: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= TELL_EVERY_S and done < of:
            told_at = time.monotonic()
            note(f"{done:,} of {of:,} queries")

    return tell


def compare_command(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN_A RUN_B]", help="Two runs kept by `eval run --out`.", show_default=False),
    ] = None,
    models: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Measure two models whose vectors the library holds, by name or model key; needs --queries.",
        ),
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(metavar="QUERIES.jsonl", help="With --models: the judged queries.")
    ] = None,
    mode: ModeOption = Mode.all,
    k: DepthOption = 100,
    common: Annotated[
        bool, typer.Option("--common", help="Compare the queries that both runs hold, and leave out the others.")
    ] = False,
    changed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Show so many of the queries that changed most.")
    ] = 5,
    skip_bad: SkipOption = False,
    library: LibraryOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two runs over the same queries. Differences, whether they are more than chance, and which queries changed.

    The difference is the second less the first. p is from a paired randomisation test, not corrected for looking at many metrics.

    \b
    Examples:
      mmsearch eval compare before.json after.json
      mmsearch eval compare --models mini my-model --queries queries.jsonl
    """
    from mmsearch.judgements.comparison import compare_runs
    from mmsearch.judgements.run import Run, measure_run
    from mmsearch.judgements.tables import comparison_lines
    from mmsearch.words import to_json

    bad = 0
    if models is not None:
        if runs or queries is None:
            raise typer.BadParameter("--models A B measures again: give --queries FILE and no runs")
        asked, bad = _read(queries, skip_bad=skip_bad)
        with opened(library, device=device) as found:
            both = [
                measure_run(found.of_model(one), asked, modes=mode.modes, depth=k, name=one, tell=_progress())
                for one in models
            ]
    else:
        if len(runs or ()) != 2:
            raise typer.BadParameter("name two runs, or --models A B with --queries FILE")
        both = [Run.load(path) for path in runs or ()]
        both = [
            run if run.about.get("name") else run.named(path.stem) for run, path in zip(both, runs or (), strict=True)
        ]
    comparison = compare_runs(*both, common=common)
    for line in comparison.notes:
        note(line)
    if as_json:
        print(to_json(comparison.record(), indent=2))
    else:
        for line in comparison_lines(comparison, changed=changed):
            print(line)
    raise typer.Exit(SOME_FAILED if bad else OK)


def add_command(
    queries: QueriesArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The query; may be empty beside --image.")],
    numbers: Annotated[
        list[int] | None,
        typer.Argument(metavar="[N]…", help="Numbers of the right hits, as after --hit.", show_default=False),
    ] = None,
    hit: Annotated[
        list[str] | None, typer.Option("--hit", metavar="N…", help="Numbers of the right hits: 1 3, or 1,3.")
    ] = None,
    path: Annotated[
        list[str] | None,
        typer.Option(
            "--path",
            metavar="PATH",
            help="A right answer by its path, or its end; with #page=3 or #t=10,15 a part of it.",
        ),
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Nothing in the library answers the query.")] = False,
    kind: Annotated[
        str | None, typer.Option(metavar="KIND", help="What is sought: page, image, clip (pdf, photo, video).")
    ] = None,
    style: StyleOption = None,
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="A picture to search with.")] = None,
    instruction: Annotated[str | None, typer.Option(metavar="TEXT", help="Replaces the built-in instruction.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Hits to choose from.")] = 10,
    library: LibraryOption = None,
    model: ModelOption = None,
    device: DeviceOption = None,
) -> None:
    """Add a query and its right answers to a judged file.

    Shows the hits with their numbers, and asks which are right where none were named. A query that is in the file gets the answers that
    it lacks.

    \b
    Examples:
      mmsearch eval add queries.jsonl "slides about revenue"
      mmsearch eval add queries.jsonl "slides about revenue" --hit 1 3
      mmsearch eval add queries.jsonl "invoice for a bicycle" --path household/2025-0317.pdf#page=1
      mmsearch eval add queries.jsonl "a zebra crossing a river" --none
    """
    from dataclasses import replace

    from mmsearch.judgements.adding import add_query
    from mmsearch.judgements.places import ItemsByName, place_of
    from mmsearch.judgements.queries import JudgedQuery
    from mmsearch.words import count_of, printable

    chosen = [*_numbers(" ".join(hit or ())), *(numbers or ())]
    named = [_place(one) for one in path or ()]
    if none and (chosen or named):
        raise typer.BadParameter("--none says that nothing is right: no --hit, no --path")
    if image is not None and not image.is_file():
        fail(f"{image}: no such picture", USAGE)
    judged = JudgedQuery(
        " ".join(text.split()), kind=_kind(kind), image=image, instruction=instruction, style=style or ""
    )
    if not judged.query and image is None:
        raise typer.BadParameter("say what is sought: TEXT or --image FILE")
    with opened(library, model=model, device=device) as found:
        if not (named or none) or chosen:
            hits = _search(found, judged, k)
            _show(hits)
            if not (chosen or named):
                chosen, none = _asked_which(len(hits))
            if beyond := [number for number in chosen if not 1 <= number <= len(hits)]:
                fail(f"--hit {beyond[0]}: there are {len(hits)} hits", USAGE)
            named += [place_of(hits[number - 1].item, found.catalog) for number in dict.fromkeys(chosen)]
        if not (named or none):
            note("left out: nothing was added")
            return
        held = ItemsByName.of_catalog(found.catalog, named)
        for n, place in enumerate(named):
            items = held.at(place, None if judged.kind is None else (judged.kind,))
            if not items:
                note(f"mmsearch: {printable(str(place))} is not in the library; it is added all the same")
            elif (
                len({item.path for item in items}) == 1
            ):  # written as a hit of that file would be, so that neither comes twice
                named[n] = replace(place, path=place_of(items[0], found.catalog).path)
    added = add_query(queries, replace(judged, relevant=tuple(dict.fromkeys(named))))
    if none:
        note(f"{queries}: {printable(str(judged))} has no answer" if added.is_new else f"{queries} says so already")
    elif added.answers or added.is_new:
        what = "a new query" if added.is_new else "the query is there"
        note(f"{queries}: {what}, {count_of(added.answers, 'right answer')} added")
    else:
        note(f"{queries} holds all of this already")


def _search(library: Library, judged: JudgedQuery, k: int) -> Hits:
    """The hits to choose from, weak ones too: what is right may stand below the cut-off."""
    from mmsearch.judgements.run import query_of
    from mmsearch.search import search

    kinds = None if judged.kind is None else (judged.kind,)
    return search(library, query_of(library, judged), k=k, kinds=kinds, min_relevance=0.0)


def _show(hits: Hits) -> None:
    from mmsearch.cli.terminal import hit_lines

    for number, line in enumerate(hit_lines(hits, stream=sys.stdout), 1):
        print(f"{number:>3}  {line}")
    sys.stdout.flush()


def _asked_which(count: int) -> tuple[list[int], bool]:
    """What the user types: the numbers of the right hits, and whether there are none."""
    if not sys.stdin.isatty():
        fail("say which hits are right: --hit N, --path PATH, or --none", USAGE)
    while True:
        answer = typer.prompt(
            "Which are right? Numbers, 0 for none, Enter to leave it", "", show_default=False, err=True
        )
        try:
            numbers = _numbers(answer)
        except typer.BadParameter as error:
            note(str(error))
            continue
        if any(not 0 <= number <= count for number in numbers):
            note(f"there are {count} hits")
        else:
            return [number for number in numbers if number], 0 in numbers and set(numbers) == {0}


def _numbers(words: str) -> list[int]:
    try:
        return [int(word) for word in words.replace(",", " ").split()]
    except ValueError:
        raise typer.BadParameter(f"{words!r}: hits are named by their numbers, as 1 3") from None


def _kind(word: str | None) -> Kind | None:
    if word is not None and word.lower() not in KIND_ALIASES:
        raise typer.BadParameter(f"{word!r} is no kind; say page, image or clip (or pdf, photo, video)")
    return None if word is None else KIND_ALIASES[word.lower()]


def _place(path: str) -> Place:
    """What --path names."""
    from mmsearch.judgements.places import parse_place

    part = FRAGMENT.search(path)
    fields: dict[str, object] = {"path": path[: part.start()] if part else path}
    try:
        if part and part["page"]:
            fields["page"] = int(part["page"])
        elif part:
            fields |= {
                name: float(part[group]) for name, group in (("start_s", "start"), ("end_s", "end")) if part[group]
            }
        return parse_place(fields)
    except ValueError as error:
        raise typer.BadParameter(f"--path {path}: {error}") from None
