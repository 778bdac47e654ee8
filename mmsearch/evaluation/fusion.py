"""From two rankings one: as the application does it (`mmsearch.ranking`), and by ranks alone, for comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mmsearch.items import Kind, MatchScale
from mmsearch.ranking import relevance
from mmsearch.ranking.rank import NO_MATCHES, Asked, Calibration, Near, TextMatches, rank

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


@dataclass(frozen=True)
class Pool:
    """Items of all kinds, searched as the application does it; its columns are the items, kind after kind in the order of `items`.

    Attributes:
        items: per kind float32 [n, dim]. generic: the encoded `GENERIC_QUERIES` of each kind.
        scales: what the checkpoint's scores are worth. textless: bool [pages], which have next to no text.
    """

    items: Mapping[Kind, np.ndarray]
    generic: Mapping[Kind, np.ndarray]
    scales: Mapping[str, MatchScale]
    textless: np.ndarray

    @property
    def size(self) -> int:
        return sum(map(len, self.items.values()))

    @cached_property
    def columns(self) -> dict[Kind, np.ndarray]:
        """int64, of each kind."""
        ends = np.cumsum([0, *map(len, self.items.values())])
        return {kind: np.arange(*ends[n : n + 2]) for n, kind in enumerate(self.items)}

    @cached_property
    def priors(self) -> dict[Kind, relevance.Background]:
        return {kind: relevance.background(self.generic[kind], vectors) for kind, vectors in self.items.items()}

    def near(self, asked: Mapping[Kind, np.ndarray]) -> list[dict[Kind, Near]]:
        """Every item's cosine with each of q queries; `asked` per kind float32 [q, dim]."""
        tables = {kind: asked[kind] @ vectors.T for kind, vectors in self.items.items()}
        rows = len(next(iter(tables.values())))
        return [{kind: Near(self.columns[kind], table[row]) for kind, table in tables.items()} for row in range(rows)]

    def calibration(self, near: Mapping[Kind, Near], *, is_one_query: bool = False) -> Calibration:
        """Of one query, all items of a kind being the sample."""
        return Calibration.of(
            {kind: np.asarray(found.cosines) for kind, found in near.items()},
            self.priors,
            self.scales.get,
            textless=lambda: self.columns["page"][self.textless],
            is_one_query=is_one_query,
        )

    def relevance(
        self,
        asked: Mapping[Kind, np.ndarray],
        words: Sequence[TextMatches] | None = None,
        *,
        named: Sequence[frozenset[Kind]] | None = None,
        is_readable: Sequence[bool] | None = None,
        is_one_query: bool = False,
    ) -> np.ndarray:
        """float64 [q, n]: what the application says each item is worth; among equals the higher cosine a hair above.

        Args:
            words: per query, ids being columns; None: by meaning alone.
            named, is_readable, is_one_query: see `mmsearch.ranking.rank.Asked`, `mmsearch.ranking.relevance.measures`.
        """
        table = []
        for row, near in enumerate(self.near(asked)):
            order = rank(
                near,
                NO_MATCHES if words is None else words[row],
                self.calibration(near, is_one_query=is_one_query),
                Asked(
                    self.size,
                    frozenset() if named is None else named[row],
                    True if is_readable is None else is_readable[row],
                    is_one_query,
                ),
            )
            scores = np.zeros(self.size)
            scores[order.ids] = order.relevance + 1e-12 * order.cosine
            table.append(scores)
        return np.array(table)
