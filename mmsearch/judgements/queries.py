"""Files of judged queries: a JSON object a line, `{"query", "kind"?, "image"?, "instruction"?, "relevant": [{"path", "page"?,
"start_s"?, "end_s"?}], "style"?}`.

`"relevant": []` says that nothing in the library answers the query. `image` is a path, seen from the file's folder. Further fields
are not read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmsearch.errors import DatasetError
from mmsearch.items import KIND_ALIASES, Kind
from mmsearch.judgements.places import Place, parse_place


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """A query and its right answers.

    Attributes:
        query: white space made single; may be "" beside an `image`.
        relevant: none means that nothing answers it.
        kind: what is sought; None means all kinds. style: any word that sorts queries ("keyword", "question", …).
    """

    query: str
    relevant: tuple[Place, ...] = ()
    kind: Kind | None = None
    image: Path | None = None
    instruction: str | None = None
    style: str = ""

    @property
    def key(self) -> tuple[str, Kind | None, str, str | None]:
        """Queries with equal keys ask the same."""
        return (self.query, self.kind, "" if self.image is None else str(self.image), self.instruction)

    def __str__(self) -> str:
        parts = [f'"{self.query}"' if self.query else "", f"picture {self.image.name}" if self.image else ""]
        return " with ".join(filter(None, parts)) + (f" ({self.kind})" if self.kind else "")


def read_queries(path: Path, *, on_bad: Callable[[str], None] | None = None) -> list[JudgedQuery]:
    """Read a file of judged queries.

    Args:
        on_bad: is told of each line that cannot be used, which then is left out.

    Raises:
        DatasetError: the file cannot be read, or, without `on_bad`, a line cannot be used; the message names it.
    """
    found = []
    for number, line in _numbered_lines(path):
        try:
            found.append(parse_query(line, path.parent))
        except ValueError as error:
            if on_bad is None:
                raise DatasetError(f"{path}, line {number}: {error}") from error
            on_bad(f"{path}, line {number}: {error}")
    return found


def _numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1. Raises DatasetError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file of judged queries; `mmsearch eval add` begins one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def parse_query(line: str, folder: Path) -> JudgedQuery:
    """One line of a file in `folder`. Raises ValueError saying what is wrong with it."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"no JSON: {error}") from error
    if not isinstance(row, Mapping) or not isinstance(row.get("relevant"), list):
        raise ValueError('expected {"query": …, "relevant": [{"path": …}]}; "relevant": [] if nothing answers it')
    for name in ("query", "kind", "image", "instruction", "style"):
        if row.get(name) is not None and not isinstance(row[name], str):
            raise ValueError(f"{name} {json.dumps(row[name])} is no text")
    kind = row.get("kind")
    if kind is not None and kind.lower() not in KIND_ALIASES:
        raise ValueError(f"{kind!r} is no kind; say page, image or clip (or pdf, photo, video)")
    image = folder / row["image"] if row.get("image") else None
    if image is not None and not image.is_file():
        raise ValueError(f"the picture {image} is not there")
    query = " ".join((row.get("query") or "").split())
    if not query and image is None:
        raise ValueError("neither a query nor an image")
    return JudgedQuery(
        query=query,
        relevant=tuple(dict.fromkeys(parse_place(place) for place in row["relevant"])),
        kind=KIND_ALIASES[kind.lower()] if kind is not None else None,
        image=image,
        instruction=row.get("instruction"),
        style=row.get("style") or "",
    )


def merge_repeated(queries: Iterable[JudgedQuery]) -> list[JudgedQuery]:
    """Every query once, in the order of their first lines; right answers of repeated ones taken together."""
    found: dict[Any, JudgedQuery] = {}
    for query in queries:
        first = found.get(query.key)
        if first is None:
            found[query.key] = query
        else:
            both = tuple(dict.fromkeys(first.relevant + query.relevant))
            found[query.key] = replace(first, relevant=both, style=first.style or query.style)
    return list(found.values())
