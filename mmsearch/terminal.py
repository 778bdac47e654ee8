"""How results and progress look in a terminal. Writes nothing by itself: the command line does the printing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from mmsearch.items import Hit

SNIPPET_CELLS = 100
"""Width of a snippet where the output is no terminal."""


def printable(text: str) -> str:
    """`text` on one line, without anything that a terminal would obey: control characters become `\\x1b`-like escapes."""
    return "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else ascii(c)[1:-1] for c in text)


def short_path(path: Path) -> str:
    """`path` relative to the working folder where it lies inside, else as it is."""
    try:
        return printable(str(path.relative_to(Path.cwd())))
    except (ValueError, OSError):
        return printable(str(path))


def to_json(record: Any, *, indent: int | None = None) -> str:
    """One JSON text. A name that is not UTF-8 is written as `\\udcXX` escapes, which Python's reader turns back into the name."""
    text = json.dumps(record, ensure_ascii=False, indent=indent, default=str)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(record, ensure_ascii=True, indent=indent, default=str)
    return text


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
    """A line per hit: relevance, path, place, snippet, in columns; paths are never shortened.

    `explain` adds the raw cosine and what the hit was matched by. Colour and width follow `stream`.
    """
    from rich.cells import cell_len, set_cell_size

    paths = [short_path(hit.path) for hit in hits]
    places = [hit.item.place for hit in hits]
    path_cells = min(max(map(cell_len, paths), default=0), 60)
    place_cells = max(map(cell_len, places), default=0)
    width = width_of(stream)
    colour = has_colour(stream)
    for hit, path, place in zip(hits, paths, places, strict=True):
        columns = [f"{hit.relevance:.2f}", path + " " * (path_cells - cell_len(path))]
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
            snippet = snippet and f"\x1b[2m{snippet}\x1b[0m"
        yield "  ".join([*columns, snippet]).rstrip()


def count_of(number: int, noun: str) -> str:
    """ "1 photo", "1,204 photos"."""
    return f"{number:,} {noun if number == 1 else noun + 's'}"


def duration(seconds: float) -> str:
    """About how long, in the words of a person: "8 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min"
