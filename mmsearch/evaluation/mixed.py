"""Pages, photos and clips of the split in one pool, ranked as the application ranks a library without a filter by kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from mmsearch.embedders.forward.vocabulary import has_word
from mmsearch.evaluation.encoded import Encoded
from mmsearch.evaluation.fusion import Pool
from mmsearch.evaluation.words import WordIndex
from mmsearch.items import KINDS, Kind
from mmsearch.ranking.terms import is_readable, kinds_named


class MixedPool:
    """Columns are the items of KINDS in turn, each kind in the split's order."""

    def __init__(self, encoded: Encoded) -> None:
        self.encoded = encoded
        vectors: dict[Kind, np.ndarray] = {"page": encoded.pages, "image": encoded.photos, "clip": encoded.clips}
        self.pool = Pool(vectors, encoded.generic, encoded.match_scale, ~encoded.has_text())
        self.kind_of = np.repeat(KINDS, [len(vectors[kind]) for kind in KINDS])

    def columns(self, kind: Kind, rows: Sequence[int]) -> list[int]:
        """The columns of rows of one kind."""
        return [int(self.pool.columns[kind][row]) for row in rows]

    def relevance(self, queries: Sequence[str]) -> np.ndarray:
        """float64 [q, items], 0…1: what the application makes of each item; equal values stand in the order of their cosines.

        An item is shown if its relevance reaches `relevance.MIN_RELEVANCE`.
        """
        return self.pool.relevance(
            {kind: self.encoded.questions(queries, kind) for kind in KINDS},
            list(map(self._words.matches, queries)),
            named=list(map(kinds_named, queries)),
            is_readable=[is_readable(query, self._is_known) for query in queries],
        )

    def instructed(self, asked: np.ndarray, queries: Sequence[str]) -> np.ndarray:
        """The same from one vector [dim] a query for all kinds, which says itself what kind it asks for; by the words of `queries` too."""
        return self.pool.relevance(
            dict.fromkeys(KINDS, asked), list(map(self._words.matches, queries)), is_one_query=True
        )

    def cosines(self, asked: Mapping[Kind, np.ndarray]) -> np.ndarray:
        """float32 [q, items]."""
        return np.concatenate([asked[kind] @ self.pool.items[kind].T for kind in KINDS], 1)

    @cached_property
    def _words(self) -> WordIndex:
        texts = self.encoded.split.page_texts
        return WordIndex([*texts, *[""] * (len(self.kind_of) - len(texts))])

    def _is_known(self, word: str) -> bool:
        tokenizer = getattr(self.encoded.embedder, "tokenizer", None)
        return self._words.knows(word) or tokenizer is None or has_word(tokenizer, word)
