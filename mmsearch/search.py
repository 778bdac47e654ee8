"""The query's straight line: encode once per kind, filter, find by meaning and by words, calibrate, fuse, cut off."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from mmsearch.catalog import Filters
from mmsearch.items import KINDS, WITHOUT_TEXT, Hit, Item, Kind, MatchScale, Query
from mmsearch.lexical import NO_MATCHES, TextMatches
from mmsearch.library import dot
from mmsearch.ranking import relevance
from mmsearch.ranking.terms import kinds_named

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from mmsearch.library import Library

__all__ = ["MODES", "Filters", "Hits", "more_like", "search"]

MODES = ("fused", "dense", "text")
DEPTH_FLOOR, TEXT_DEPTH_FLOOR = 100, 50
"""Candidates looked at by meaning, per kind, and by words, at least; else twice what is asked for."""


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


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Parallel arrays; `cosine` is NaN where nothing was compared by meaning, `is_other_kind` true where the query's words name
    another kind than the item's, `has_text` where the query's words could have been found."""

    ids: np.ndarray
    cosine: np.ndarray
    dense: np.ndarray
    lexical: np.ndarray
    is_other_kind: np.ndarray
    has_text: np.ndarray


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
) -> Hits:
    """The `k` items, over all kinds, that answer a query best, from `offset` on.

    A query with pictures is answered by meaning alone. Nothing above the cut-off is an answer too: an empty `Hits`.

    Args:
        kinds: only these; over `filters.kinds`.
        min_relevance: the cut-off, 0…1 (default `relevance.MIN_RELEVANCE`); 0 hides nothing.
        mode: "fused"; "dense" leaves out the words, "text" the model, which then is not loaded.

    Raises:
        ValueError: an empty query, an unknown mode, or pictures in mode "text".
        ModelMismatch, EmbedderError, CatalogError: see `Library`.
    """
    started = time.perf_counter()
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; known: {', '.join(MODES)}")
    if query.is_empty():
        raise ValueError("nothing to search for: give a text or a picture")
    has_pictures = bool(query.images or query.frames)
    if mode == "text" and has_pictures:
        raise ValueError("pictures cannot be searched for by their words")

    depth = max(DEPTH_FLOOR, 2 * (k + offset))
    named = frozenset() if has_pictures else kinds_named(query.text)
    queries: dict[Kind, np.ndarray] = {}
    model_ms = 0.0

    def look() -> tuple[_Scope, TextMatches]:
        scope = _scope(library, kinds, filters)
        if not scope.searched or mode == "dense" or has_pictures:
            return scope, NO_MATCHES
        total, text_depth = sum(library.item_counts().values()), max(TEXT_DEPTH_FLOOR, 2 * (k + offset))
        return scope, library.catalog.match_text(query.text, text_depth, scope.kinds, scope.allowed, total=total)

    while True:
        generation, answering = library.state()
        scope, matches = look()
        if scope.searched and mode != "text":
            encoding = time.perf_counter()
            queries = library.encode(query, scope.kinds)
            model_ms += 1e3 * (time.perf_counter() - encoding)
        with library.steady(tuple(queries)):
            now, active = library.state()
            if active != answering:
                continue  # switched to another model since the query was encoded
            if now != generation:  # something was saved since: an answer is of one generation
                scope, matches = look()
                if scope.searched and mode != "text" and not queries.keys() >= set(scope.kinds):
                    continue  # the first items of a kind
            asked = {kind: queries[kind] for kind in scope.kinds if kind in queries}
            found = _candidates(library, scope, asked, matches, depth, named, is_text=not has_pictures)
            hits = _hits(library, found, k, offset, min_relevance, query.text if len(matches) else "")
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
) -> Hits:
    """Items like an item, itself left out: by its stored vector among its own kind, without the model.

    Other kinds are searched only where `kinds` names them; then its preview is the query picture.

    Raises:
        KeyError: no visible item of that id. CatalogError: it has no vector of the active model.
    """
    started = time.perf_counter()
    depth = max(DEPTH_FLOOR, 2 * (k + offset)) + 1
    model_ms = 0.0
    while True:
        generation, answering = library.state()
        item = library.catalog.item(item_id)
        chosen = kinds or (filters.kinds if filters else ()) or (item.kind,)
        scope = _scope(library, chosen, filters)
        own: dict[Kind, np.ndarray] = {}
        if item.kind in scope.kinds:
            _, vectors = library.catalog.vectors_of([item_id], answering or "")
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
            found = _candidates(library, scope, own, NO_MATCHES, depth, frozenset(), is_text=False)
            keep = found.ids != item_id
            found = _Candidates(*(getattr(found, column.name)[keep] for column in fields(found)))
            hits = _hits(library, found, k, offset, min_relevance, "")
        hits.searched, hits.model_ms = max(0, scope.searched - 1), model_ms
        hits.took_ms = 1e3 * (time.perf_counter() - started)
        return hits


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


def _scope(library: Library, kinds: Sequence[Kind] | None, filters: Filters | None) -> _Scope:
    filters = filters or Filters()
    counts = library.item_counts()
    asked = kinds or filters.kinds or KINDS
    chosen = tuple(kind for kind in KINDS if kind in asked and counts.get(kind))
    allowed = library.catalog.allowed_ids(filters, chosen) if chosen else None
    searched = sum(counts[kind] for kind in chosen) if allowed is None else len(allowed)
    return _Scope(chosen, allowed, searched)


def _candidates(
    library: Library,
    scope: _Scope,
    queries: Mapping[Kind, np.ndarray],
    matches: TextMatches,
    depth: int,
    named: frozenset[Kind],
    *,
    is_text: bool,
) -> _Candidates:
    """What is near by meaning in any kind, joined with what matches by words, both as relevance 0…1."""
    ids, cosine, dense = [np.empty(0, np.int64)], [np.empty(0)], [np.empty(0)]
    is_other, is_page = [np.empty(0, bool)], [np.empty(0, bool)]
    backgrounds = _backgrounds(library, queries, is_text=is_text) if scope.searched else {}
    for kind, usual in backgrounds.items():
        query = queries[kind]
        near, scores = library.nearest(kind, query, depth, scope.allowed)
        worded, worded_scores = library.cosines(kind, query, matches.ids[~np.isin(matches.ids, near)])
        scores = np.concatenate([scores, worded_scores]).astype(np.float64)
        above = scores - usual.centre
        scale = library.match_scale(kind) if is_text else None
        worth = relevance.dense_relevance(above / usual.spread, scope.searched, is_measured=scale is not None)
        ids += [near, worded]
        cosine.append(scores)
        dense.append(worth * relevance.typicality(above, scale) * _reliability(library, kind, ids[-2:], scale))
        is_other.append(np.full(len(scores), bool(named) and kind not in named))
        is_page.append(np.full(len(scores), kind == "page"))
    rest = matches.ids[~np.isin(matches.ids, np.concatenate(ids))]  # no vector of this model, or the model was left out
    ids.append(rest)
    cosine.append(np.full(len(rest), np.nan))
    dense.append(np.zeros(len(rest)))
    is_other.append(np.zeros(len(rest), bool))
    is_page.append(np.zeros(len(rest), bool))

    every = np.concatenate(ids)
    lexical = np.zeros(len(every))
    if len(matches):
        order = np.argsort(matches.ids)
        place = order[np.searchsorted(matches.ids, every, sorter=order).clip(max=len(order) - 1)]
        worth = relevance.lexical_relevance(matches.share.astype(np.float64), matches.bm25.astype(np.float64))
        lexical = np.where(matches.ids[place] == every, worth[place], 0.0)
    has_text = np.concatenate(is_page)
    if len(matches) and has_text.any():
        has_text &= ~np.isin(every, library.pages_without_text())
    return _Candidates(
        every, np.concatenate(cosine), np.concatenate(dense), lexical, np.concatenate(is_other), has_text
    )


def _backgrounds(
    library: Library, queries: Mapping[Kind, np.ndarray], *, is_text: bool
) -> dict[Kind, relevance.Background]:
    """How the query scores on random items of each kind."""
    usual: dict[Kind, relevance.Background] = {}
    for kind, query in queries.items():
        sample, prior = library.background(kind, is_text=is_text)
        usual[kind] = relevance.own_background(dot(sample, query), prior)
    measured = [kind for kind in usual if library.match_scale(kind) is not None] if is_text else []
    return relevance.pooled(usual, measured)


def _reliability(library: Library, kind: Kind, ids: Sequence[np.ndarray], scale: MatchScale | None) -> np.ndarray:
    """What the model's word is worth for each of `ids`, 0…1."""
    every = np.concatenate(ids)
    if scale is None:
        return np.ones(len(every))
    pictures_only = library.match_scale(WITHOUT_TEXT) if kind == "page" else None
    if pictures_only is None:
        return np.full(len(every), scale.reliability)
    is_textless = np.isin(every, library.pages_without_text())
    return np.where(is_textless, pictures_only.reliability, scale.reliability)


def _hits(library: Library, found: _Candidates, k: int, offset: int, min_relevance: float | None, text: str) -> Hits:
    """Rank, cut off, and load only the page that is asked for."""
    floor = relevance.MIN_RELEVANCE if min_relevance is None else min_relevance
    fused = relevance.fuse(found.dense, found.lexical, found.has_text)
    fused = np.where(found.is_other_kind, fused * relevance.OTHER_KIND, fused)
    order = np.lexsort((found.ids, -np.nan_to_num(found.cosine, nan=-2.0), -fused))
    total = int(np.count_nonzero(fused >= floor))
    page = order[:total][offset : offset + k]
    below = order[total : total + 1]
    wanted = np.concatenate([page, below])
    items = {item.id: item for item in library.catalog.items(found.ids[wanted])}
    snippets = library.catalog.snippets(text, found.ids[wanted].tolist()) if text else {}

    def hit(rank: int, n: int) -> Hit | None:
        item: Item | None = items.get(int(found.ids[n]))
        if item is None:
            return None  # deleted since it was found
        by = [
            *(["dense"] if found.dense[n] >= relevance.DENSE_MATCH else []),
            *(["text"] if found.lexical[n] > 0 else []),
        ]
        return Hit(
            rank=rank,
            score=None if np.isnan(found.cosine[n]) else float(found.cosine[n]),
            relevance=float(fused[n]),
            matched_by=tuple(by) or ("dense",),
            item=item,
            snippet=snippets.get(item.id, ""),
        )

    shown = [hit(offset + 1 + place, n) for place, n in enumerate(page)]
    return Hits(
        [one for one in shown if one is not None],
        total=total,
        hidden=len(order) - total,
        best_below=hit(total + 1, below[0]) if len(below) else None,
    )
