"""What a question finds in a library: one generation, one model. `Library.view` opens it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from mmsearch.catalog import Filters
from mmsearch.items import KINDS, Hit, Hits, Item, Kind, Query
from mmsearch.ranking import relevance
from mmsearch.ranking.rank import NO_MATCHES, Asked, Calibration, Near, Order, TextMatches
from mmsearch.ranking.terms import is_readable, kinds_named, wording_of, words_to_read

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from mmsearch.library import Library

MODES = ("fused", "dense", "text")
DEPTH_FLOOR, TEXT_DEPTH_FLOOR = 100, 50
"""Candidates looked at by meaning, per kind, and by words, at least; else twice what is asked for."""
DEEPER = 4
"""So many times more are looked at where most candidates are copies of each other."""

Encoded = dict[Kind, np.ndarray]
"""A query as `Model.encode` gives it."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a search asks for.

    Attributes:
        query: text and pictures, without what is to be left out. excluded: texts whose words are left out, and what is near in meaning
            comes later.
        like: the id of an item instead: others like it.
        kinds: only these; empty means all (with `like` the item's own). filters: over items of all kinds.
        mode: "fused"; "dense" leaves out the words, "text" the model.
        wanted: so many answers at most are shown, this page and those before. all_copies: each copy counts.
    """

    query: Query = field(default_factory=Query)
    excluded: tuple[str, ...] = ()
    like: int | None = None
    kinds: tuple[Kind, ...] = ()
    filters: Filters = field(default_factory=Filters)
    mode: str = "fused"
    wanted: int = 10
    all_copies: bool = False

    @classmethod
    def of(
        cls,
        query: Query | int,
        *,
        kinds: Sequence[Kind] | None = None,
        filters: Filters | None = None,
        wanted: int,
        mode: str = "fused",
        all_copies: bool = False,
    ) -> Question:
        """`query`: what to search for, or the id of an item. Raises ValueError: an empty query, an unknown mode, or pictures in mode "text"."""
        filters = filters or Filters()
        chosen = tuple(kinds or filters.kinds)
        if isinstance(query, int):
            return cls(like=query, kinds=chosen, filters=filters, wanted=wanted + 1, all_copies=all_copies)
        if mode not in MODES:
            raise ValueError(f"unknown mode {mode!r}; known: {', '.join(MODES)}")
        wording = wording_of(query.text)
        excluded = tuple(dict.fromkeys([*wording.excluded, *filter(str.strip, query.excluded)]))
        query = replace(query, text=wording.text, excluded=())
        if query.is_empty():
            beside = " beside what is to be left out" if excluded else ""
            raise ValueError(f"nothing to search for: give a text or a picture{beside}")
        question = cls(query, excluded, None, chosen, filters, mode, wanted, all_copies)
        if mode == "text" and question.has_pictures:
            raise ValueError("pictures cannot be searched for by their words")
        return question

    @property
    def has_pictures(self) -> bool:
        return bool(self.query.images or self.query.frames)

    @property
    def is_by_words(self) -> bool:
        """Whether words are looked for."""
        return self.like is None and self.mode != "dense" and not self.has_pictures


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a question looks: `allowed` ids (int64, ascending; None for all) among `kinds`, `searched` items in all."""

    kinds: tuple[Kind, ...]
    allowed: np.ndarray | None
    searched: int


class View:
    """Everything but `queries` is read inside `Library.view`.

    Attributes:
        queries: the question as vectors, for each kind that is compared by meaning.
        near: per kind the nearest items, and those that match by words, with their cosines. words: items that hold words of the question.
        model_ms: how long the model took.
    """

    def __init__(self, library: Library, question: Question) -> None:
        self._library, self._question = library, question
        self._generation, self._key = library.current.state()
        least = 2 * question.wanted
        self._depth, self._text_depth = max(DEPTH_FLOOR, least), max(TEXT_DEPTH_FLOOR, least)
        self._item: Item | None = None if question.like is None else library.catalog.items.get(question.like)
        self._answers: _Answers | None = None
        self.near: dict[Kind, Near] = {}
        self._look()
        started = time.perf_counter()
        self.queries, self._unwanted = self._encoded()
        self.model_ms = 1e3 * (time.perf_counter() - started) if self.queries else 0.0
        self._is_known = question.has_pictures or self._item is not None or not self.queries or self._is_readable()

    def is_of_now(self) -> bool:
        """Look once more if something was saved since; false if another model, or a kind that the question was not encoded for, came up.

        To be called inside the generation that is to answer.
        """
        now, active = self._library.current.state()
        if active != self._key:
            return False
        if now != self._generation:
            self._look()
            needs_all = self._question.mode != "text" and self._item is None and self.searched
            if needs_all and not self.queries.keys() >= set(self._scope.kinds):
                return False  # the first items of a kind
        found = self._found()
        while self._answers is not None and self._answers.are_few(
            found, self.words, self._depth, self._text_depth, self._question.wanted
        ):
            self._depth, self._text_depth = DEEPER * self._depth, DEEPER * self._text_depth
            self._look()
            found = self._found()
        self.near = {kind: self._without_item(one) for kind, one in found.items()}
        return True

    @property
    def searched(self) -> int:
        """How many items pass the filters."""
        return self._scope.searched

    @property
    def asked(self) -> Asked:
        """What ranking needs to know of the question."""
        if self._item is not None:
            return Asked(self.searched)
        query = self._question.query
        named: frozenset[Kind] = frozenset() if self._question.has_pictures else kinds_named(query.text)
        return Asked(self.searched, named, self._is_known, query.instruction is not None)

    @property
    def calibration(self) -> Calibration:
        queries: Encoded = {kind: self.queries[kind] for kind in self.near}
        away: list[Encoded] = [{kind: other[kind] for kind in self.near} for other in self._unwanted]
        return self._library.calibration.of(
            queries,
            away,
            is_text=not self._question.has_pictures and self._item is None,
            is_one_query=self._question.query.instruction is not None,
        )

    def hits(self, order: Order, k: int, offset: int = 0, min_relevance: float | None = None) -> Hits:
        """Cut off, and load only the page that is asked for; copies count once unless each was asked for."""
        if self._answers is not None:
            order = self._answers.once(order)
        catalog = self._library.catalog
        floor = relevance.MIN_RELEVANCE if min_relevance is None else min_relevance
        total = int(np.count_nonzero(order.relevance >= floor))
        page = range(len(order))[:total][offset : offset + k]
        below = range(len(order))[total : total + 1]
        wanted = order.ids[[*page, *below]]
        items = {item.id: item for item in catalog.items.of(wanted)}
        text = self._question.query.text if len(self.words) else ""
        snippets = catalog.text.snippets(text, wanted.tolist()) if text else {}
        also_at = catalog.items.also_at([*items.values()]) if self._answers is not None else {}

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
            searched=max(0, self.searched - (self._item is not None)),
            total=total,
            hidden=len(order) - total,
            best_below=hit(total + 1, below[0]) if len(below) else None,
            model_ms=self.model_ms,
        )

    def _look(self) -> None:
        """Where to look, and what holds the question's words."""
        question, library = self._question, self._library
        self._scope = self._scope_of_now()
        self.words: TextMatches = NO_MATCHES
        if self.searched and question.is_by_words:
            total = sum(library.item_counts().values())
            self.words = library.catalog.text.match(
                question.query.text, self._text_depth, self._scope.kinds, self._scope.allowed, total=total
            )

    def _scope_of_now(self) -> Scope:
        question, catalog = self._question, self._library.catalog
        counts = self._library.item_counts()
        asked = question.kinds or ((self._item.kind,) if self._item is not None else KINDS)
        chosen = tuple(kind for kind in KINDS if kind in asked and counts.get(kind))
        allowed = catalog.items.allowed_ids(question.filters, chosen) if chosen else None
        if chosen and question.excluded:
            every = catalog.items.visible_ids(chosen) if allowed is None else allowed
            held = [catalog.text.holding(words) for words in question.excluded]
            allowed = np.setdiff1d(every, np.concatenate(held))
        return Scope(chosen, allowed, sum(counts[kind] for kind in chosen) if allowed is None else len(allowed))

    def _encoded(self) -> tuple[Encoded, list[Encoded]]:
        question, encode = self._question, self._library.model.encode
        if self._item is not None:
            return self._vectors_of_item(self._item), []
        if not self.searched or question.mode == "text":
            return {}, []
        kinds = self._scope.kinds
        return encode(question.query, kinds), [encode(Query(text), kinds) for text in question.excluded]

    def _vectors_of_item(self, item: Item) -> Encoded:
        """Its stored vector for its own kind; its preview is the query picture for others."""
        own: Encoded = {}
        if item.kind in self._scope.kinds:
            _, vectors = self._library.catalog.vectors.of([item.id], self._key or "")
            if len(vectors):
                own[item.kind] = vectors[0]
        others = [kind for kind in self._scope.kinds if kind != item.kind]
        if others and (picture := _own_picture(item.preview)) is not None:
            own |= self._library.model.encode(Query(images=(picture,)), others)
        return own

    def _is_readable(self) -> bool:
        """Whether the model can make anything of the text: see `mmsearch.ranking.terms`."""
        text = self._question.query.text
        held = self._library.catalog.text.known_words(words_to_read(text))
        return is_readable(text, lambda word: word in held or self._library.model.knows_word(word))

    def _found(self) -> dict[Kind, Near]:
        """What is near. Says, too, which of all that was found count as one answer."""
        kinds = [kind for kind in self._scope.kinds if kind in self.queries] if self.searched else []
        found = {kind: self._near(kind, self.queries[kind]) for kind in kinds}
        others = [] if self._item is None else [self._item.id]
        if not self._question.all_copies:
            self._answers = _Answers(self._library, found, self.words, *others)
        return found

    def _near(self, kind: Kind, query: np.ndarray) -> Near:
        stores = self._library.stores
        ids, scores = stores.nearest(kind, query, self._depth, self._scope.allowed)
        worded, worded_scores = stores.cosines(kind, query, self.words.ids[~np.isin(self.words.ids, ids)])
        ids, cosines = np.concatenate([ids, worded]), np.concatenate([scores, worded_scores])
        away = [self._cosines_of(kind, other[kind], ids) for other in self._unwanted]
        return Near(ids, cosines, np.array(away).reshape(len(away), len(ids)))

    def _cosines_of(self, kind: Kind, query: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """In the order of `ids`, all of which have a vector of this kind."""
        known, scores = self._library.stores.cosines(kind, query, ids)
        order = np.argsort(known)
        return scores[order[np.searchsorted(known, ids, sorter=order)]]

    def _without_item(self, found: Near) -> Near:
        """What was found without the item that others are to be like and, where copies count once, its copies."""
        if self._item is None:
            return found
        own = np.array([self._item.id])
        kept = found.ids != own if self._answers is None else self._answers.of(found.ids) != self._answers.of(own)
        return Near(found.ids[kept], found.cosines[kept])


class _Answers:
    """Which of the items that were found count as one answer (`mmsearch.catalog.twins`)."""

    def __init__(self, library: Library, near: Mapping[Kind, Near], words: TextMatches, *others: int) -> None:
        self._ids = np.unique(np.concatenate([*(found.ids for found in near.values()), words.ids, others])).astype(
            np.int64
        )
        self._numbers = library.catalog.items.answers(self._ids)

    def of(self, ids: np.ndarray) -> np.ndarray:
        """int64 [n]: items of one number are one answer."""
        return self._numbers[np.searchsorted(self._ids, ids)]

    def are_few(self, near: Mapping[Kind, Near], words: TextMatches, depth: int, text_depth: int, least: int) -> bool:
        """Whether copies fill what was looked at, to the given depths, so that fewer than `least` answers are left somewhere."""
        looked_at = [(found.ids, depth) for found in near.values()] + [(words.ids, text_depth)]
        return any(len(ids) >= to and len(np.unique(self.of(ids))) < least for ids, to in looked_at)

    def once(self, order: Order) -> Order:
        """The best item of each answer."""
        firsts = np.sort(np.unique(self.of(order.ids), return_index=True)[1])
        return Order(*(getattr(order, column.name)[firsts] for column in fields(order)))


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
