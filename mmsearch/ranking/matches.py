"""From the items that hold each of a query's words to the items that match it best. Pure: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmsearch.ranking.terms import SUBSTRING_WEIGHT


@dataclass(frozen=True, slots=True)
class Found:
    """A term of a query and where it stands.

    Attributes:
        count: how many items hold it. ids: int64, those items; empty where it `is_common`: too many to find an item by.
        is_inside: they hold it only inside of words.
    """

    text: str
    count: int
    ids: np.ndarray
    is_common: bool = False
    is_inside: bool = False

    @property
    def worth(self) -> float:
        return SUBSTRING_WEIGHT if self.is_inside else 1.0


def mass_of(found: Sequence[Found], weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The items that hold terms (int64, ascending), and the sum of those terms' `weights` (float64)."""
    ids, place = np.unique(np.concatenate([term.ids for term in found]), return_inverse=True)
    masses = [np.full(len(term.ids), weight * term.worth) for weight, term in zip(weights, found, strict=True)]
    return ids, np.bincount(place, np.concatenate(masses), len(ids))


def with_insides(bm25: np.ndarray, ids: np.ndarray, found: Sequence[Found], weights: np.ndarray) -> np.ndarray:
    """BM25 scores of `ids`, with what BM25 says of a term that stands once in a text of usual length, for terms inside of words."""
    scores = bm25.astype(np.float64)
    for weight, term in zip(weights, found, strict=True):
        if term.is_inside:
            scores[np.isin(ids, term.ids)] += weight * term.worth
    return scores


def best(ids: np.ndarray, share: np.ndarray, bm25: np.ndarray, k: int) -> np.ndarray:
    """Places of the `k` best matches: by share, then BM25, then age."""
    return np.lexsort((ids, -bm25, -share))[:k]
