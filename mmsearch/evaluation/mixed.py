"""Pages, photos and clips of the split in one pool, ranked as the application ranks a library without a filter by kind.

`MixedPool.relevance` is the one place that repeats what the application does with a query over several kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from mmsearch import relevance
from mmsearch.evaluation import fusion
from mmsearch.evaluation.encoded import Encoded
from mmsearch.evaluation.words import WordIndex
from mmsearch.items import KINDS, Kind
from mmsearch.terms import kinds_named


class MixedPool:
    """Columns are the items of KINDS in turn, each kind in the split's order."""

    def __init__(self, encoded: Encoded) -> None:
        self.encoded = encoded
        self.vectors: dict[Kind, np.ndarray] = {
            "page": encoded.pages,
            "image": encoded.photos,
            "clip": encoded.clips,
        }
        self.kind_of = np.repeat(KINDS, [len(self.vectors[kind]) for kind in KINDS])
        has_text = encoded.has_text()
        self.has_text = np.concatenate([has_text, np.zeros(len(self.kind_of) - len(has_text), bool)])

    def columns(self, kind: Kind, rows: Sequence[int]) -> list[int]:
        """The columns of rows of one kind."""
        start = sum(len(self.vectors[before]) for before in KINDS[: KINDS.index(kind)])
        return [start + row for row in rows]

    def relevance(self, queries: Sequence[str]) -> np.ndarray:
        """float64 [q, items], 0…1: what the application makes of each item; equal values stand in the order of their cosines.

        An item is shown if its relevance reaches `relevance.MIN_RELEVANCE`.
        """
        asked = {kind: self.encoded.questions(queries, kind) for kind in KINDS}
        fused = self.fused(asked, queries)
        for row, query in zip(fused, queries, strict=True):
            if kinds := kinds_named(query):
                row[:] = fusion.other_kind(row, ~np.isin(self.kind_of, list(kinds)))
        return fused

    def fused(self, asked: Mapping[Kind, np.ndarray], queries: Sequence[str]) -> np.ndarray:
        """The same from query vectors [q, dim] by kind and from the words of `queries`, whatever kind these words name."""
        return fusion.served(self._dense(asked), self._words.relevance(queries), self.cosines(asked), self.has_text)

    def cosines(self, asked: Mapping[Kind, np.ndarray]) -> np.ndarray:
        """float32 [q, items]."""
        return np.concatenate([asked[kind] @ self.vectors[kind].T for kind in KINDS], 1)

    @cached_property
    def _words(self) -> WordIndex:
        texts = self.encoded.split.page_texts
        return WordIndex([*texts, *[""] * (len(self.kind_of) - len(texts))])

    def _dense(self, asked: Mapping[Kind, np.ndarray]) -> np.ndarray:
        encoded = self.encoded
        alone = {kind: fusion.backgrounds(asked[kind], self.vectors[kind], encoded.generic[kind]) for kind in KINDS}
        rows = [dict(zip(alone, of_query, strict=True)) for of_query in zip(*alone.values(), strict=True)]
        together = [relevance.pooled(of_query, KINDS) for of_query in rows]
        parts = []
        for kind in KINDS:
            scale = encoded.match_scale[kind]
            reliability = encoded.page_reliability() if kind == "page" else scale.reliability
            parts.append(
                fusion.dense_relevance(
                    asked[kind],
                    self.vectors[kind],
                    encoded.generic[kind],
                    searched=len(self.kind_of),
                    scale=scale,
                    reliability=reliability,
                    usual=[of_query[kind] for of_query in together],
                )
            )
        return np.concatenate(parts, 1)
