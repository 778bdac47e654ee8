"""The query's straight line: encode once per kind, filter, find by meaning and by words, rank, cut off.

What is ranked, and how, is decided in `mmsearch.ranking` alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from mmsearch.catalog import Filters
from mmsearch.items import KINDS, WITHOUT_TEXT, Hit, Item, Kind, Query
from mmsearch.library import dot
from mmsearch.ranking import relevance
from mmsearch.ranking.rank import NO_MATCHES, Asked, Calibration, Near, Order, TextMatches, rank
from mmsearch.ranking.relevance import Background, Measure
from mmsearch.ranking.terms import is_readable, kinds_named, wording_of, words_to_read

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from mmsearch.library import Library

__all__ = ["MODES", "Filters", "Hits", "more_like", "search"]

MODES = ("fused", "dense", "text")
_Encoded = dict[Kind, np.ndarray]
"""A query as `Library.encode` gives it."""

DEPTH_FLOOR, TEXT_DEPTH_FLOOR = 100, 50
"""Candidates looked at by meaning, per kind, and by words, at least; else twice what is asked for."""
DEEPER = 4
"""So many times more are looked at where most candidates are copies of each other."""


class Hits(list[Hit]):
    """Hits by falling relevance, and what is worth knowing beside them.

    Attributes:
        took_ms: the whole search. model_ms: the part of it spent encoding the query.
        searched: how many items passed the filters.
        total: how many candidates lie above the cut-off, this page of them included.
        hidden: how many candidates lie below it. best_below: the best of those.
    """

    def __init__(
        self,
        hits: Iterable[Hit] = (),
        *,
        took_ms: float = 0.0,
        model_ms: float = 0.0,
        searched: int = 0,
        total: int = 0,
        hidden: int = 0,
        best_below: Hit | None = None,
    ) -> None:
        super().__init__(hits)
        self.took_ms = took_ms
        self.model_ms = model_ms
        self.searched = searched
        self.total = total
        self.hidden = hidden
        self.best_below = best_below


@dataclass(frozen=True, slots=True)
class _Scope:
    """Where a search looks: `allowed` ids (int64, ascending; None for all) among `kinds`, `searched` items in all."""

    kinds: tuple[Kind, ...]
    allowed: np.ndarray | None
    searched: int


def search(
    library: Library,
    query: Query,
    *,
    k: int = 10,
    kinds: Sequence[Kind] | None = None,
    filters: Filters | None = None,
    min_relevance: float | None = None,
    offset: int = 0,
    mode: str = "fused",
    all_copies: bool = False,
) -> Hits:
    """The `k` items, over all kinds, that answer a query best, from `offset` on.

    A query with pictures is answered by meaning alone. Nothing above the cut-off is an answer too: an empty `Hits`.
    Copies of a file, and files of one moment, count as one answer: the best of them is the hit and names the others (`Hit.also_at`).

    Args:
        kinds: only these; over `filters.kinds`.
        min_relevance: the cut-off, 0…1 (default `relevance.MIN_RELEVANCE`); 0 hides nothing.
        mode: "fused"; "dense" leaves out the words, "text" the model, which then is not loaded.
        all_copies: each copy is a hit of its own.

    Raises:
        ValueError: an empty query, an unknown mode, or pictures in mode "text".
        ModelMismatch, EmbedderError, CatalogError: see `Library`.
    """
    started = time.perf_counter()
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; known: {', '.join(MODES)}")
    wording = wording_of(query.text)
    excluded = tuple(dict.fromkeys([*wording.excluded, *filter(str.strip, query.excluded)]))
    query = replace(query, text=wording.text, excluded=())
    if query.is_empty():
        raise ValueError(
            "nothing to search for: give a text or a picture" + (" beside what is to be left out" if excluded else "")
        )
    has_pictures = bool(query.images or query.frames)
    if mode == "text" and has_pictures:
        raise ValueError("pictures cannot be searched for by their words")

    depth, text_depth = max(DEPTH_FLOOR, 2 * (k + offset)), max(TEXT_DEPTH_FLOOR, 2 * (k + offset))
    named = frozenset() if has_pictures else kinds_named(query.text)
    queries: _Encoded = {}
    unwanted: list[_Encoded] = []
    model_ms = 0.0

    def look() -> tuple[_Scope, TextMatches]:
        scope = _scope(library, kinds, filters, excluded)
        if not scope.searched or mode == "dense" or has_pictures:
            return scope, NO_MATCHES
        total = sum(library.item_counts().values())
        return scope, library.catalog.text.match(query.text, text_depth, scope.kinds, scope.allowed, total=total)

    while True:
        generation, answering = library.state()
        scope, matches = look()
        if scope.searched and mode != "text":
            encoding = time.perf_counter()
            queries = library.encode(query, scope.kinds)
            unwanted = [library.encode(Query(text), scope.kinds) for text in excluded]
            model_ms += 1e3 * (time.perf_counter() - encoding)
        is_known = has_pictures or not queries or _is_readable(library, query.text)
        with library.steady(tuple(queries)):
            now, active = library.state()
            if active != answering:
                continue  # switched to another model since the query was encoded
            if now != generation:  # something was saved since: an answer is of one generation
                scope, matches = look()
                if scope.searched and mode != "text" and not queries.keys() >= set(scope.kinds):
                    continue  # the first items of a kind
            near = _near(library, scope, queries, matches, depth, unwanted)
            answers = None if all_copies else _Answers(library, near, matches)
            while answers and answers.are_few(near, matches, depth, text_depth, k + offset):
                depth, text_depth = DEEPER * depth, DEEPER * text_depth
                scope, matches = look()
                near = _near(library, scope, queries, matches, depth, unwanted)
                answers = _Answers(library, near, matches)
            encoded: _Encoded = {kind: queries[kind] for kind in near}
            away = [{kind: other[kind] for kind in near} for other in unwanted]
            is_one_query = query.instruction is not None
            calibration = _calibration(library, encoded, away, is_text=not has_pictures, is_one_query=is_one_query)
            order = rank(near, matches, calibration, Asked(scope.searched, named, is_known, is_one_query))
            hits = _hits(library, order, k, offset, min_relevance, query.text if len(matches) else "", answers)
        hits.searched, hits.model_ms = scope.searched, model_ms
        hits.took_ms = 1e3 * (time.perf_counter() - started)
        return hits


def more_like(
    library: Library,
    item_id: int,
    *,
    k: int = 10,
    kinds: Sequence[Kind] | None = None,
    filters: Filters | None = None,
    min_relevance: float | None = None,
    offset: int = 0,
    all_copies: bool = False,
) -> Hits:
    """Items like an item, itself left out: by its stored vector among its own kind, without the model.

    Other kinds are searched only where `kinds` names them; then its preview is the query picture. Copies count as in `search`;
    those of the item itself are left out, unless `all_copies` asks for them.

    Raises:
        KeyError: no visible item of that id. CatalogError: it has no vector of the active model.
    """
    started = time.perf_counter()
    depth = max(DEPTH_FLOOR, 2 * (k + offset)) + 1
    model_ms = 0.0
    while True:
        generation, answering = library.state()
        item = library.catalog.items.get(item_id)
        chosen = kinds or (filters.kinds if filters else ()) or (item.kind,)
        scope = _scope(library, chosen, filters)
        own: dict[Kind, np.ndarray] = {}
        if item.kind in scope.kinds:
            _, vectors = library.catalog.vectors.of([item_id], answering or "")
            if len(vectors):
                own[item.kind] = vectors[0]
        encoding = time.perf_counter()
        others = [kind for kind in scope.kinds if kind != item.kind]
        if others and (picture := _own_picture(item.preview)) is not None:
            own |= library.encode(Query(images=(picture,)), others)
        model_ms += 1e3 * (time.perf_counter() - encoding)
        with library.steady(tuple(own)):
            now, active = library.state()
            if active != answering:
                continue  # as in `search`
            if now != generation:
                scope = _scope(library, chosen, filters)
            scope = replace(scope, kinds=tuple(kind for kind in scope.kinds if kind in own))
            near = _near(library, scope, own, NO_MATCHES, depth)
            answers = None if all_copies else _Answers(library, near, NO_MATCHES, item_id)
            while answers and answers.are_few(near, NO_MATCHES, depth, depth, k + offset + 1):
                depth *= DEEPER
                near = _near(library, scope, own, NO_MATCHES, depth)
                answers = _Answers(library, near, NO_MATCHES, item_id)
            near = {kind: _without(item_id, found, answers) for kind, found in near.items()}
            order = rank(near, NO_MATCHES, _calibration(library, own, is_text=False), Asked(scope.searched))
            hits = _hits(library, order, k, offset, min_relevance, "", answers)
        hits.searched, hits.model_ms = max(0, scope.searched - 1), model_ms
        hits.took_ms = 1e3 * (time.perf_counter() - started)
        return hits


class _Answers:
    """Which of the items that were found count as one answer (`mmsearch.catalog.twins`)."""

    def __init__(self, library: Library, near: Mapping[Kind, Near], matches: TextMatches, *others: int) -> None:
        self._ids = np.unique(np.concatenate([*(found.ids for found in near.values()), matches.ids, others])).astype(
            np.int64
        )
        self._numbers = library.catalog.items.answers(self._ids)

    def of(self, ids: np.ndarray) -> np.ndarray:
        """int64 [n]: items of one number are one answer."""
        return self._numbers[np.searchsorted(self._ids, ids)]

    def are_few(self, near: Mapping[Kind, Near], matches: TextMatches, depth: int, text_depth: int, least: int) -> bool:
        """Whether copies fill what was looked at, to the given depths, so that fewer than `least` answers are left somewhere."""
        looked_at = [(found.ids, depth) for found in near.values()] + [(matches.ids, text_depth)]
        return any(len(ids) >= to and len(np.unique(self.of(ids))) < least for ids, to in looked_at)

    def once(self, order: Order) -> Order:
        """The best item of each answer."""
        firsts = np.sort(np.unique(self.of(order.ids), return_index=True)[1])
        return Order(*(getattr(order, column.name)[firsts] for column in fields(order)))


def _without(item_id: int, found: Near, answers: _Answers | None) -> Near:
    """What was found without an item and, where `answers` tell, its copies."""
    own = np.array([item_id])
    kept = found.ids != own if answers is None else answers.of(found.ids) != answers.of(own)
    return Near(found.ids[kept], found.cosines[kept])


def _own_picture(preview: Path | None) -> Image | None:
    """An item's preview; None if it has none, it is lost, or it was deleted for good at this moment."""
    from PIL import Image

    if preview is None:
        return None
    try:
        with Image.open(preview, formats=("WEBP",)) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        return None


def _scope(
    library: Library, kinds: Sequence[Kind] | None, filters: Filters | None, excluded: Sequence[str] = ()
) -> _Scope:
    """`excluded`: items that hold all words of one of these texts are left out."""
    filters = filters or Filters()
    counts = library.item_counts()
    asked = kinds or filters.kinds or KINDS
    chosen = tuple(kind for kind in KINDS if kind in asked and counts.get(kind))
    allowed = library.catalog.items.allowed_ids(filters, chosen) if chosen else None
    if chosen and excluded:
        every = library.catalog.items.visible_ids(chosen) if allowed is None else allowed
        allowed = np.setdiff1d(every, np.concatenate([library.catalog.text.holding(words) for words in excluded]))
    searched = sum(counts[kind] for kind in chosen) if allowed is None else len(allowed)
    return _Scope(chosen, allowed, searched)


def _near(
    library: Library,
    scope: _Scope,
    queries: _Encoded,
    matches: TextMatches,
    depth: int,
    unwanted: Sequence[_Encoded] = (),
) -> dict[Kind, Near]:
    """Per kind the nearest items, and those that match by words, with their cosines."""
    near: dict[Kind, Near] = {}
    for kind in scope.kinds if scope.searched else ():
        if kind not in queries:
            continue
        ids, scores = library.nearest(kind, queries[kind], depth, scope.allowed)
        worded, worded_scores = library.cosines(kind, queries[kind], matches.ids[~np.isin(matches.ids, ids)])
        ids, cosines = np.concatenate([ids, worded]), np.concatenate([scores, worded_scores])
        away = [_cosines_of(library, kind, other[kind], ids) for other in unwanted]
        near[kind] = Near(ids, cosines, np.array(away).reshape(len(away), len(ids)))
    return near


def _cosines_of(library: Library, kind: Kind, query: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """In the order of `ids`, all of which have a vector of this kind."""
    known, scores = library.cosines(kind, query, ids)
    order = np.argsort(known)
    return scores[order[np.searchsorted(known, ids, sorter=order)]]


def _calibration(
    library: Library, queries: _Encoded, unwanted: Sequence[_Encoded] = (), *, is_text: bool, is_one_query: bool = False
) -> Calibration:
    """How each query scores on random items of each kind, and what the checkpoint's maker says that scores are worth."""
    scale = library.match_scale if is_text else (lambda _: None)

    def measures(asked: _Encoded) -> dict[Kind, Measure]:
        own: dict[Kind, Background] = {}
        generic: dict[Kind, Background] = {}
        for kind, query in asked.items():
            sample, generic[kind] = library.background(kind, is_text=is_text)
            own[kind] = relevance.own_background(dot(sample, query), generic[kind])
        return relevance.measures(own, generic, {kind: scale(kind) for kind in own}, is_one_query=is_one_query)

    has_pages = "page" in queries and scale(WITHOUT_TEXT) is not None
    return Calibration(
        measures(queries),
        tuple(map(measures, unwanted)),
        scale(WITHOUT_TEXT) if has_pages else None,
        library.pages_without_text() if has_pages else NO_MATCHES.ids,
    )


def _is_readable(library: Library, text: str) -> bool:
    """Whether the model can make anything of a text: see `mmsearch.ranking.terms`."""
    held = library.catalog.text.known_words(words_to_read(text))
    return is_readable(text, lambda word: word in held or library.knows_word(word))


def _hits(
    library: Library,
    order: Order,
    k: int,
    offset: int,
    min_relevance: float | None,
    text: str,
    answers: _Answers | None,
) -> Hits:
    """Cut off, and load only the page that is asked for. Copies count once where `answers` tell which they are."""
    if answers is not None:
        order = answers.once(order)
    floor = relevance.MIN_RELEVANCE if min_relevance is None else min_relevance
    total = int(np.count_nonzero(order.relevance >= floor))
    page = range(len(order))[:total][offset : offset + k]
    below = range(len(order))[total : total + 1]
    wanted = order.ids[[*page, *below]]
    items = {item.id: item for item in library.catalog.items.of(wanted)}
    snippets = library.catalog.text.snippets(text, wanted.tolist()) if text else {}
    also_at = library.catalog.items.also_at([*items.values()]) if answers is not None else {}

    def hit(rank: int, n: int) -> Hit | None:
        item: Item | None = items.get(int(order.ids[n]))
        if item is None:
            return None  # deleted since it was found
        by = [*(["dense"] if order.is_dense[n] else []), *(["text"] if order.is_text[n] else [])]
        return Hit(
            rank=rank,
            score=None if np.isnan(order.cosine[n]) else float(order.cosine[n]),
            relevance=float(order.relevance[n]),
            matched_by=tuple(by) or ("dense",),
            item=item,
            snippet=snippets.get(item.id, ""),
            also_at=also_at.get(item.id, ()),
        )

    shown = [hit(n + 1, n) for n in page]
    return Hits(
        [one for one in shown if one is not None],
        total=total,
        hidden=len(order) - total,
        best_below=hit(total + 1, below[0]) if len(below) else None,
    )
