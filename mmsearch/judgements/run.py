"""A run: judged queries asked of a library as users ask them, and everything worth keeping of the answers.

A run can be stored, shown and compared later without the library.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmsearch.disk.replace import replace_file
from mmsearch.errors import ConfigError, DatasetError
from mmsearch.items import Hit, Item, Kind, Query
from mmsearch.judgements.origin import origin
from mmsearch.judgements.places import SEARCHABLE_STATES, ItemsByName, Place, parse_place
from mmsearch.judgements.queries import JudgedQuery, merge_repeated
from mmsearch.judgements.scores import Values, measured, ranks_of, values_of
from mmsearch.ranking import relevance
from mmsearch.search import MODES, Hits, search

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmsearch.library import Library

SCHEMA = 1
DEPTH = 100
"""Hits looked at per query; a right answer further down counts as not found."""
SHOWN = 10
"""Hits of an answer as users get it; so many are also kept in the run."""
ANY_KIND = "any kind"
NO_STYLE = "no style"
Content = tuple[object, int]
"""Equal for copies of a file: what it holds, and which item of it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one kind of search made of a query.

    Attributes:
        ranks: of each right answer, from 1; None where it was not among the first `DEPTH`.
        relevances, scores: of the hits at these ranks; a score (cosine) is None where only words matched.
        shown: how many hits lie above the application's own cut-off.
        took_ms: of an answer as users get it, encoding included.
        top: the first hits, whatever their relevance, as JSON records.
    """

    ranks: tuple[int | None, ...]
    relevances: tuple[float | None, ...]
    scores: tuple[float | None, ...]
    shown: int
    took_ms: float
    top: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """A query and its outcomes by mode.

    Attributes:
        kind: for the table by kind: what is sought, else the kind of all right answers, else "any kind".
        missing: right answers that the library does not hold; they count as not found.
    """

    query: JudgedQuery
    kind: str
    missing: tuple[Place, ...]
    outcomes: Mapping[str, Outcome]

    @property
    def has_answer(self) -> bool:
        return bool(self.query.relevant)


@dataclass(frozen=True)
class Run:
    """All queries of a run.

    Attributes:
        about: JSON values: when, by which code, model and library, with which settings.
        modes: of search, in the order of the tables.
    """

    about: Mapping[str, Any]
    modes: tuple[str, ...]
    asked: Sequence[Asked] = field(repr=False)

    def named(self, name: str) -> Run:
        """The same run under another name."""
        return replace(self, about={**self.about, "name": name})

    @property
    def answerable(self) -> list[Asked]:
        return [one for one in self.asked if one.has_answer]

    @property
    def unanswerable(self) -> list[Asked]:
        return [one for one in self.asked if not one.has_answer]

    def values(self, mode: str) -> Values:
        """Every metric of every query that has an answer."""
        return values_of([one.outcomes[mode].ranks for one in self.answerable])

    def is_silent(self, mode: str, asked: Sequence[Asked]) -> np.ndarray:
        """float64 [queries]: 1 where the application shows nothing, by its own cut-off."""
        return np.array([float(one.outcomes[mode].shown == 0) for one in asked])

    def metrics(self) -> dict[str, Any]:
        """JSON values by mode: means with intervals over all queries, by kind and by style, silence, latency."""
        return {mode: self._metrics_of(mode) for mode in self.modes}

    def _metrics_of(self, mode: str) -> dict[str, Any]:
        found: dict[str, Any] = {"answerable": len(self.answerable), "unanswerable": len(self.unanswerable)}
        if self.answerable:
            values = self.values(mode)
            found["all"] = _table(values, range(len(self.answerable)))
            for name, groups in self.groups().items():
                found[f"by_{name}"] = {group: _table(values, rows) for group, rows in groups.items()}
            found["wrongly_silent"] = _table({"share": self.is_silent(mode, self.answerable)})["share"]
        if self.unanswerable:
            silent = self.is_silent(mode, self.unanswerable)
            found["no_answer"] = {
                "rightly_silent": _table({"share": silent})["share"],
                "false_hits": _table({"share": 1 - silent})["share"],
                "hits_shown": float(np.mean([one.outcomes[mode].shown for one in self.unanswerable])),
            }
        took = np.array([one.outcomes[mode].took_ms for one in self.asked])
        found["latency_ms"] = {"median": float(np.median(took)), "p95": float(np.quantile(took, 0.95))}
        return found

    def groups(self) -> dict[str, dict[str, list[int]]]:
        """For "kind" and "style": which rows of `answerable` belong to each."""
        by_kind, by_style = defaultdict(list), defaultdict(list)
        for row, one in enumerate(self.answerable):
            by_kind[one.kind].append(row)
            by_style[one.query.style or NO_STYLE].append(row)
        return {"kind": dict(by_kind), "style": dict(by_style)}

    @property
    def missing(self) -> list[tuple[JudgedQuery, Place]]:
        """Right answers that the library did not hold."""
        return [(one.query, place) for one in self.asked for place in one.missing]

    # ---- on disk

    def record(self) -> dict[str, Any]:
        """JSON values; `metrics` is only for readers, `load` computes it again."""
        return {
            "schema": SCHEMA,
            **self.about,
            "modes": list(self.modes),
            "metrics": self.metrics(),
            "queries": [_asked_record(one) for one in self.asked],
        }

    def save(self, path: Path) -> None:
        """Appears whole or not at all."""
        from mmsearch.words import to_json

        with replace_file(path, durable=False) as temporary:
            temporary.write_text(to_json(self.record(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Run:
        """Raises DatasetError if `path` is no run."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["schema"] != SCHEMA:
                raise DatasetError(f"{path} is a run of schema {record['schema']}; this mmsearch reads {SCHEMA}")
            about = {
                name: value for name, value in record.items() if name not in ("schema", "modes", "metrics", "queries")
            }
            return cls(about, tuple(record["modes"]), [_asked(row) for row in record["queries"]])
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise DatasetError(
                f"{path} is no run of `mmsearch eval run --out` ({type(error).__name__}: {error})"
            ) from error


# ---------------------------------------------------------------- asking


def measure_run(
    library: Library,
    queries: Iterable[JudgedQuery],
    *,
    modes: Sequence[str] = MODES,
    depth: int = DEPTH,
    name: str = "",
    tell: Callable[[int, int], None] | None = None,
) -> Run:
    """Ask every query in every mode; queries that are repeated are asked once.

    Each is asked twice: as users do, for what they see and how long they wait, and without a cut-off, for the ranks. A query with a
    picture cannot be asked by words alone: in mode "text" nothing is found and nothing is shown.

    Args:
        depth: hits looked at. name: of the run, for people. tell: is told how many of how many queries are done.

    Raises:
        DatasetError: no queries. ConfigError: no such mode. SourceError: a query's picture cannot be read.
        EmbedderError, CatalogError: see `mmsearch.search.search`.
    """
    asked_for = merge_repeated(queries)
    if not asked_for:
        raise DatasetError("no judged queries: nothing to measure")
    if unknown := [mode for mode in modes if mode not in MODES]:
        raise ConfigError(f"unknown mode of search {unknown[0]!r}; known: {', '.join(MODES)}")
    asking = _Asking(library, asked_for, tuple(modes), depth)
    began = time.monotonic()
    asking.warm_up()
    asked = []
    for number, query in enumerate(asked_for, 1):
        asked.append(asking.ask(query))
        if tell is not None:
            tell(number, len(asked_for))
    about = {
        "name": name,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "took_s": round(time.monotonic() - began, 3),
        "origin": origin(),
        "model": {"name": library.model.name, "key": library.model_key, "device": asking.device},
        "library": {
            "folder": str(library.folder),
            "id": library.catalog.id,
            "generation": library.catalog.generation(),
            "items": dict(library.item_counts()),
        },
        "settings": {
            "depth": depth,
            "shown": SHOWN,
            "cut_off": relevance.MIN_RELEVANCE,
            "store": library.settings.store,
        },
    }
    return Run(about, tuple(modes), asked)


class _Asking:
    """What is the same for all queries: the library, where their right answers lie, which files are copies."""

    def __init__(self, library: Library, queries: Sequence[JudgedQuery], modes: tuple[str, ...], depth: int) -> None:
        self.library = library
        self.modes = modes
        self.depth = max(depth, SHOWN)
        self.items = ItemsByName.of_catalog(library.catalog, (place for query in queries for place in query.relevant))
        self.digests = {row.id: row.sha256 for row in library.catalog.sources.rows(states=SEARCHABLE_STATES)}

    @property
    def device(self) -> str | None:
        return self.library.embedder.device if self.library.model.is_loaded else None

    def warm_up(self) -> None:
        """Load model and stores with a query that is not among the timed ones."""
        for mode in self.modes:
            search(self.library, Query(text=relevance.GENERIC_QUERIES[0]), k=1, mode=mode)

    def ask(self, query: JudgedQuery) -> Asked:
        kinds = None if query.kind is None else (query.kind,)
        at = {place: self.items.at(place, kinds) for place in query.relevant}
        contents = {place: frozenset(map(self.content, items)) for place, items in at.items()}
        missing = tuple(place for place, found in contents.items() if not found)
        # Two places of one content (a file and its copy) are one answer.
        answers = [*dict.fromkeys(filter(None, contents.values())), *[frozenset[Content]() for _ in missing]]
        sought = query_of(self.library, query)
        outcomes = {}
        encoding_ms = 0.0
        for mode in self.modes:
            if mode == "text" and sought.images:
                outcomes[mode] = Outcome((None,) * len(answers), (None,) * len(answers), (None,) * len(answers), 0, 0.0)
                continue
            asked = search(self.library, sought, k=SHOWN, kinds=kinds, mode=mode)
            deep = search(
                self.library, sought, k=self.depth, kinds=kinds, mode=mode, min_relevance=0.0, all_copies=True
            )
            outcome = self.outcome(deep, answers)
            # A text is encoded once and remembered: modes asked later would seem to encode in no time.
            encoding_ms = max(encoding_ms, asked.model_ms)
            own_ms = asked.took_ms - asked.model_ms + (0.0 if mode == "text" else encoding_ms)
            outcomes[mode] = replace(outcome, shown=asked.total, took_ms=round(own_ms, 3))
        return Asked(query, _kind_of(query.kind, at.values()), missing, outcomes)

    def outcome(self, hits: Hits, answers: Sequence[frozenset[Content]]) -> Outcome:
        found = [self.content(hit.item) for hit in hits]
        ranks = ranks_of(found, answers)
        right = set(ranks)
        at = [None if rank is None else hits[rank - 1] for rank in ranks]
        return Outcome(
            ranks=tuple(ranks),
            relevances=tuple(None if hit is None else round(hit.relevance, 4) for hit in at),
            scores=tuple(None if hit is None or hit.score is None else round(hit.score, 6) for hit in at),
            shown=0,
            took_ms=0.0,
            top=tuple(_hit_record(hit, is_right=rank in right) for rank, hit in enumerate(hits[:SHOWN], 1)),
        )

    def content(self, item: Item) -> Content:
        return (self.digests.get(item.source_id) or item.source_id, item.ordinal)


def query_of(library: Library, judged: JudgedQuery) -> Query:
    """What is asked; the picture is decoded apart from this process, as users' are. Raises SourceError."""
    images: tuple[Image, ...] = ()
    if judged.image is not None:
        images = (library.picture(judged.image),)
    return Query(text=judged.query, images=images, instruction=judged.instruction)


def _kind_of(kind: Kind | None, right: Iterable[Sequence[Item]]) -> str:
    kinds = {item.kind for items in right for item in items}
    if kind is not None:
        return kind
    return kinds.pop() if len(kinds) == 1 else ANY_KIND


# ---------------------------------------------------------------- records


def _hit_record(hit: Hit, *, is_right: bool) -> dict[str, Any]:
    item = hit.item
    place = Place(str(item.path), item.page_number, item.start_s, item.end_s)
    score = None if hit.score is None else round(hit.score, 6)
    return {
        **place.record(),
        "kind": item.kind,
        "relevance": round(hit.relevance, 4),
        "score": score,
        "right": is_right,
    }


def _table(values: Mapping[str, np.ndarray], rows: Sequence[int] | None = None) -> dict[str, Any]:
    count = len(next(iter(values.values())))
    found = measured(values, range(count) if rows is None else rows)
    table: dict[str, Any] = {
        name: {"mean": mean, "low": found.intervals[name][0], "high": found.intervals[name][1]}
        for name, mean in found.metrics.items()
    }
    return table if rows is None else {"queries": len(rows), **table}


def _asked_record(one: Asked) -> dict[str, Any]:
    query = one.query
    return {
        "query": query.query,
        "kind": query.kind,
        "image": None if query.image is None else str(query.image),
        "instruction": query.instruction,
        "style": query.style,
        "relevant": [place.record() for place in query.relevant],
        "group": one.kind,
        "missing": [place.record() for place in one.missing],
        "modes": {mode: _outcome_record(outcome) for mode, outcome in one.outcomes.items()},
    }


def _outcome_record(outcome: Outcome) -> dict[str, Any]:
    return {
        "ranks": list(outcome.ranks),
        "relevances": list(outcome.relevances),
        "scores": list(outcome.scores),
        "shown": outcome.shown,
        "took_ms": outcome.took_ms,
        "top": [dict(hit) for hit in outcome.top],
    }


def _asked(row: Mapping[str, Any]) -> Asked:
    """The inverse of `_asked_record`."""
    query = JudgedQuery(
        query=row["query"],
        relevant=tuple(map(parse_place, row["relevant"])),
        kind=row["kind"],
        image=None if row["image"] is None else Path(row["image"]),
        instruction=row["instruction"],
        style=row["style"],
    )
    outcomes = {
        mode: Outcome(
            ranks=tuple(of["ranks"]),
            relevances=tuple(of["relevances"]),
            scores=tuple(of["scores"]),
            shown=of["shown"],
            took_ms=of["took_ms"],
            top=tuple(of["top"]),
        )
        for mode, of in row["modes"].items()
    }
    return Asked(query, row["group"], tuple(map(parse_place, row["missing"])), outcomes)
