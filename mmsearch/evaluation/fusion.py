"""From two rankings one: as the application does it (`mmsearch.relevance`), and by ranks alone, for comparison."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmsearch.items import MatchScale
from mmsearch.ranking import relevance

RANK_OFFSET = 60
"""Source: Cormack, Clarke and Buettcher 2009, "Reciprocal rank fusion outperforms Condorcet"."""


def reciprocal_rank_fusion(*scores: np.ndarray) -> np.ndarray:
    """float64 [q, n] from score tables [q, n]; what a table holds at -inf it did not find. Equal scores share a rank."""
    fused = np.zeros(scores[0].shape)
    for table in scores:
        for row, own in zip(fused, table, strict=True):
            found = np.isfinite(own)
            places = np.searchsorted(np.sort(-own[found]), -own[found]) + 1
            row[found] += 1 / (RANK_OFFSET + places)
    return fused


def found_only(scores: np.ndarray) -> np.ndarray:
    """Scores with -inf in place of 0: what BM25 did not find."""
    return np.where(scores > 0, scores, -np.inf)


def dense_relevance(
    queries: np.ndarray,
    items: np.ndarray,
    generic: np.ndarray,
    *,
    searched: int,
    scale: MatchScale | None,
    reliability: float | np.ndarray = 1.0,
    usual: Sequence[relevance.Background] | None = None,
) -> np.ndarray:
    """What the application makes of cosines within one kind: float64 [q, n], 0…1.

    Args:
        queries: float32 [q, dim]. items: float32 [n, dim]. generic: the encoded `relevance.GENERIC_QUERIES` of this kind.
        searched: items of all kinds that are searched together.
        scale: what right answers score, if measured; `reliability` of each item, or of all.
        usual: each query's background, if it is not that of these items alone.
    """
    usual = backgrounds(queries, items, generic) if usual is None else usual
    fused = np.empty((len(queries), len(items)))
    for row, (own, about) in enumerate(zip(queries @ items.T, usual, strict=True)):
        above = own.astype(np.float64) - about.centre
        worth = relevance.dense_relevance(above / about.spread, searched, is_measured=scale is not None)
        fused[row] = worth * relevance.typicality(above, scale) * reliability
    return fused


def backgrounds(queries: np.ndarray, items: np.ndarray, generic: np.ndarray) -> list[relevance.Background]:
    """Each query's background among the items of a kind; arguments as for `dense_relevance`."""
    prior = relevance.background(generic, items)
    return [relevance.own_background(own, prior) for own in queries @ items.T]


def served(dense: np.ndarray, lexical: np.ndarray, cosines: np.ndarray, has_text: np.ndarray | bool) -> np.ndarray:
    """The application's order of items: by relevance, where that is equal by cosine. Tables [q, n]; `has_text`: bool [n]."""
    fused = [relevance.fuse(*rows, has_text) for rows in zip(dense, lexical, strict=True)]
    return np.stack(fused) + 1e-12 * cosines


def other_kind(scores: np.ndarray, is_other: Sequence[bool] | np.ndarray) -> np.ndarray:
    """Relevances [n], lowered where an item `is_other` than the kind that the query's words name."""
    return np.where(is_other, scores * relevance.OTHER_KIND, scores)
