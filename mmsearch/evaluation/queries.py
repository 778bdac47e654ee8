"""Queries written by hand, kept as data files beside this module; every file holds one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mmsearch.errors import DatasetError

NATURAL_QUERIES = Path(__file__).with_name("page_queries.jsonl")
"""Questions as a person would ask them, written by hand with the pages in view, in few of the pages' own words: `query`, `pdf`, `pages`
(from 1; every page that answers), `style` (question, topic, figure, table, code)."""

PARAPHRASES = Path(__file__).with_name("paraphrases.jsonl")
"""The same fields, style "paraphrase": no content word of a query stands on a page that answers it, not even in another form."""

TRANSLATED_QUERIES = Path(__file__).with_name("translated_queries.jsonl")
"""Some of NATURAL_QUERIES as a native speaker would type them: `query_en` (the English original, which names the pages), `lang`, `query`."""

UNANSWERABLE_QUERIES = Path(__file__).with_name("unanswerable_queries.jsonl")
"""Queries that no page, photo or clip of the development split answers: `query`, `sort` (nonsense, characters, stop words, impossible scene,
other topic, other language, code)."""

LANGUAGES: Mapping[str, str] = {
    "de": "German", "fr": "French", "es": "Spanish", "it": "Italian", "pt": "Portuguese", "pl": "Polish", "zh": "Chinese",
    "cs": "Czech", "en": "English",
}  # fmt: skip

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class NaturalQuery:
    """A line of NATURAL_QUERIES or PARAPHRASES."""

    query: str
    pdf: str
    pages: tuple[int, ...]
    style: str


@dataclass(frozen=True, slots=True)
class TranslatedQuery:
    """A line of TRANSLATED_QUERIES."""

    query_en: str
    language: str
    query: str


@dataclass(frozen=True, slots=True)
class UnanswerableQuery:
    """A line of UNANSWERABLE_QUERIES."""

    query: str
    sort: str


def load_natural_queries(file: Path = NATURAL_QUERIES) -> list[NaturalQuery]:
    """Raises: DatasetError naming a line that is not as described."""
    return _load(file, lambda row: NaturalQuery(row["query"], row["pdf"], _pages(row["pages"]), row["style"]))


def load_translated_queries(file: Path = TRANSLATED_QUERIES) -> list[TranslatedQuery]:
    """Raises: DatasetError naming a line that is not as described."""
    return _load(file, lambda row: TranslatedQuery(row["query_en"], row["lang"], row["query"]))


def load_unanswerable_queries(file: Path = UNANSWERABLE_QUERIES) -> list[UnanswerableQuery]:
    """Raises: DatasetError naming a line that is not as described."""
    return _load(file, lambda row: UnanswerableQuery(row["query"], row["sort"]))


def _load(file: Path, read: Callable[[dict[str, Any]], Row]) -> list[Row]:
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            if not row["query"].strip():
                raise ValueError("a query without words")
            rows.append(read(row))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"{file}, line {number}: {error!r}") from error
    return rows


def _pages(numbers: list[int]) -> tuple[int, ...]:
    if not numbers:
        raise ValueError("a query without pages")
    return tuple(map(int, numbers))
