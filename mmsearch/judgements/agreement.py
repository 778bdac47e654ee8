"""Two models on one library without judgements: how far their answers agree, and what each costs.

Agreement says nothing about which is right; `comparison` does, given judged queries.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING

from mmsearch.errors import DatasetError
from mmsearch.items import Query
from mmsearch.search import search

if TYPE_CHECKING:
    from mmsearch.library import Library

DEPTH = 10
TIMED_QUERIES = 20


@dataclass(frozen=True, slots=True)
class Agreement:
    """Over `queries`, by meaning alone and without a cut-off, both 0…1.

    Attributes:
        overlap: mean share of the first `DEPTH` hits that both found (of all that could be found, in a smaller library).
        same_first: share of queries whose first hit is the same.
    """

    queries: int
    overlap: float
    same_first: float


def agreement(first: Library, second: Library, queries: Sequence[str]) -> Agreement:
    """Ask two libraries over the same catalog (see `Library.of_model`) the same queries.

    Raises:
        DatasetError: no queries, or nothing that could be found.
    """
    overlaps, same = [], 0
    for text in queries:
        found = [
            [
                hit.item.id
                for hit in search(library, Query(text=text), k=DEPTH, min_relevance=0.0, mode="dense", all_copies=True)
            ]
            for library in (first, second)
        ]
        most = max(map(len, found))
        if not most:
            raise DatasetError("there is nothing to find: both models need vectors of the library's items")
        overlaps.append(len(set(found[0]) & set(found[1])) / most)
        same += found[0][:1] == found[1][:1]
    if not overlaps:
        raise DatasetError("no queries to compare two models by; give judged ones with --queries")
    return Agreement(len(overlaps), fmean(overlaps), same / len(overlaps))


def query_seconds(library: Library, queries: Sequence[str]) -> float:
    """Median seconds to encode a query of each of up to `TIMED_QUERIES` texts, for the library's kinds, one at a time."""
    kinds = list(library.item_counts())
    library.model.encode(Query(text="warm up"), kinds)
    took = []
    for number, text in enumerate(queries[:TIMED_QUERIES]):
        began = time.perf_counter()
        library.model.encode(Query(text=f"{text} {number}"), kinds)  # no text is asked twice: those are remembered
        took.append(time.perf_counter() - began)
    return median(took)
