"""From what is near a query in meaning and what holds its words to one order. Pure: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mmsearch.items import WITHOUT_TEXT, Kind, MatchScale
from mmsearch.ranking.relevance import (
    DENSE_MATCH,
    OTHER_KIND,
    Background,
    Measure,
    by_meaning,
    by_words,
    measures,
    obedience,
    own_background,
    probability,
    standardised,
    together,
)


@dataclass(frozen=True, slots=True)
class Near:
    """Items of one kind with their cosines (or MaxSim scores) for a query.

    Attributes:
        ids: int64 [n], each once. cosines: [n].
        unwanted: [m, n], the cosines of each text that is to be kept away; m is 0 without any.
    """

    ids: np.ndarray
    cosines: np.ndarray
    unwanted: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))


@dataclass(frozen=True, slots=True)
class TextMatches:
    """Items by falling `share`, then falling `bm25`; arrays of one length.

    Attributes:
        ids: int64.
        share: float32 in (0, 1], the part of the query's IDF mass that the item holds.
        bm25: float32, higher is better (0 for matches inside words).
        name: float32 in [0, 1], the part of the query's IDF mass that the item's name holds.
        terms: how many words and phrases the query has.
    """

    ids: np.ndarray
    share: np.ndarray
    bm25: np.ndarray
    name: np.ndarray
    terms: int = 0

    def __len__(self) -> int:
        return len(self.ids)


_NONE = np.empty(0, np.float32)
NO_MATCHES = TextMatches(np.empty(0, np.int64), _NONE, _NONE, _NONE)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a query's scores are measured by.

    Attributes:
        kinds: for the query itself. unwanted: for each text that is to be kept away, in the order of `Near.unwanted`.
        pictures_only: takes the place of the pages' scale for the items `textless` (int64, ascending), where it is known.
    """

    kinds: Mapping[Kind, Measure]
    unwanted: tuple[Mapping[Kind, Measure], ...] = ()
    pictures_only: MatchScale | None = None
    textless: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def of(
        cls,
        query: Mapping[Kind, np.ndarray],
        generic: Mapping[Kind, Background],
        scale: Callable[[str], MatchScale | None],
        *,
        unwanted: Sequence[Mapping[Kind, np.ndarray]] = (),
        textless: Callable[[], np.ndarray],
        is_one_query: bool = False,
    ) -> Calibration:
        """From scores on random items of each kind.

        Args:
            query, unwanted: the scores of the query, and of each text that is to be kept away. generic: how generic queries score there.
            scale: what the checkpoint's maker says that scores are worth in a kind, or `WITHOUT_TEXT`. textless: see above; asked only where
                it matters.
        """

        def measured(scores: Mapping[Kind, np.ndarray]) -> dict[Kind, Measure]:
            own = {kind: own_background(np.asarray(some), generic[kind]) for kind, some in scores.items()}
            return measures(own, generic, {kind: scale(kind) for kind in own}, is_one_query=is_one_query)

        pictures_only = scale(WITHOUT_TEXT) if "page" in query else None
        kept_away = tuple(map(measured, unwanted))
        if pictures_only is None:
            return cls(measured(query), kept_away)
        return cls(measured(query), kept_away, pictures_only, textless())


@dataclass(frozen=True, slots=True)
class Asked:
    """What else a query says.

    Attributes:
        searched: how many items of all kinds pass the filters.
        named: the kinds that its words name; empty if none.
        is_readable: whether the model can make anything of it; if not, only words count.
        is_one_query: whether one vector asks for all kinds, by an instruction of the user's own: what it says of kinds is obeyed.
    """

    searched: int
    named: frozenset[Kind] = frozenset()
    is_readable: bool = True
    is_one_query: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """The answer, best first: by relevance, equal ones by cosine, then by id. Arrays of one length.

    Attributes:
        ids: int64. relevance: float64 in 0…1.
        cosine: float64, NaN where nothing was compared by meaning.
        is_dense, is_text: whether an item matches by meaning, and by words.
    """

    ids: np.ndarray
    relevance: np.ndarray
    cosine: np.ndarray
    is_dense: np.ndarray
    is_text: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def rank(near: Mapping[Kind, Near], words: TextMatches, calibration: Calibration, asked: Asked) -> Order:
    """Join what is near in meaning with what matches by words, and order it.

    Args:
        near: no item in two kinds; it may hold items that are far away, too. words: items in any order, of any kind.
    """
    ids = [found.ids for found in near.values()]
    cosine = [np.asarray(found.cosines, np.float64) for found in near.values()]
    meaning = [_meaning(kind, found, calibration, asked) for kind, found in near.items()]
    obeyed = _obeyed(near, calibration, asked)
    kept = [obeyed[kind] * _kept(kind, found, calibration, asked) for kind, found in near.items()]
    # Items without a vector of this model, or the model was left out.
    rest = words.ids[~np.isin(words.ids, np.concatenate([*ids, np.empty(0, np.int64)]))]
    ids, cosine, meaning = [*ids, rest], [*cosine, np.full(len(rest), np.nan)], [*meaning, np.full(len(rest), -np.inf)]
    kept.append(np.ones(len(rest)))

    every, cosines, odds = np.concatenate(ids), np.concatenate(cosine), np.concatenate(meaning)
    held = _worth_of_words(every, words)
    relevance = probability(together(odds, held)) * np.concatenate(kept)
    order = np.lexsort((every, -np.nan_to_num(cosines, nan=-2.0), -relevance))
    is_dense = probability(odds) >= DENSE_MATCH
    return Order(every[order], relevance[order], cosines[order], is_dense[order], held[order] > 0)


def _meaning(kind: Kind, found: Near, calibration: Calibration, asked: Asked) -> np.ndarray:
    if not asked.is_readable:
        return np.full(len(found.ids), -np.inf)
    return _odds(kind, found.ids, found.cosines, calibration.kinds[kind], calibration, asked.searched)


def _obeyed(near: Mapping[Kind, Near], calibration: Calibration, asked: Asked) -> dict[Kind, float]:
    """0…1 for each kind: what the relevance of its items is multiplied by."""
    if not asked.is_one_query or not asked.is_readable:
        return {kind: OTHER_KIND if asked.named and kind not in asked.named else 1.0 for kind in near}
    held = {kind: standardised(found.cosines, calibration.kinds[kind].own) for kind, found in near.items()}
    return dict.fromkeys(near, 1.0) | obedience({kind: float(z.max()) for kind, z in held.items() if len(z)})


def _kept(kind: Kind, found: Near, calibration: Calibration, asked: Asked) -> np.ndarray:
    """0…1 [n]: how probable it is that an item answers none of the unwanted texts."""
    kept = np.ones(len(found.ids))
    for cosines, measured in zip(found.unwanted, calibration.unwanted, strict=True):
        odds = _odds(kind, found.ids, cosines, measured[kind], calibration, asked.searched, is_each_best=True)
        kept *= 1 - probability(odds)
    return kept


def _odds(
    kind: Kind,
    ids: np.ndarray,
    cosines: np.ndarray,
    measure: Measure,
    calibration: Calibration,
    searched: int,
    *,
    is_each_best: bool = False,
) -> np.ndarray:
    odds = by_meaning(cosines, measure, searched, is_each_best=is_each_best)
    if kind == "page" and calibration.pictures_only is not None and len(calibration.textless):
        scale = calibration.pictures_only
        if measure.scale is not None and not scale.is_fitted:
            scale = measure.scale._replace(reliability=scale.reliability)
        # Measured against the best of their own sort: what the best page with a text is worth says nothing of a page without. And
        # no more than a page with a text is worth that is as near.
        alone = np.isin(ids, calibration.textless)
        near = np.asarray(cosines, np.float64)[alone]
        own = by_meaning(near, replace(measure, scale=scale), searched, is_each_best=is_each_best)
        odds[alone] = np.minimum(own, odds[alone])
    return odds


def _worth_of_words(ids: np.ndarray, words: TextMatches) -> np.ndarray:
    if not len(words):
        return np.zeros(len(ids))
    order = np.argsort(words.ids)
    place = order[np.searchsorted(words.ids, ids, sorter=order).clip(max=len(order) - 1)]
    return np.where(words.ids[place] == ids, by_words(words.share, words.bm25, words.name, words.terms)[place], 0.0)
