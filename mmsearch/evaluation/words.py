"""Finding by words, over texts in memory: plain BM25 as a baseline, and the matches that the application's index gives.

`tests/unit/test_evaluation_fusion.py` holds these matches against `mmsearch.catalog.text.Text.match`.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence

import numpy as np

from mmsearch.plain_text import normalised
from mmsearch.ranking.matches import Found, best, mass_of, with_insides
from mmsearch.ranking.rank import NO_MATCHES, TextMatches
from mmsearch.ranking.terms import BM25_NAME, BM25_TEXT, any_of, idf, in_name, quoted, terms_of

MATCH_DEPTH = 50
"""So many matches by words the application looks at for a page of ten hits (`mmsearch.library.view.TEXT_DEPTH_FLOOR`)."""
_BM25 = f"SELECT rowid, bm25(words, {BM25_TEXT}, {BM25_NAME}, {BM25_TEXT}) FROM words WHERE words MATCH ?"


def bm25_scores(queries: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """float32 [q, n]: SQLite's FTS5 BM25, any word may match; 0 where none does."""
    scores = np.zeros((len(queries), len(texts)), np.float32)
    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE VIRTUAL TABLE pool USING fts5(text)")
        database.executemany("INSERT INTO pool(rowid, text) VALUES (?, ?)", enumerate(texts))
        for row, query in enumerate(queries):
            words = re.findall(r"\w+", query)
            if not words:
                continue
            match = "SELECT rowid, -bm25(pool) FROM pool WHERE pool MATCH ?"
            for column, score in database.execute(match, (any_of(words),)):
                scores[row, column] = score
    return scores


class WordIndex:
    """The application's two full-text tables over a pool's texts, for fewer texts than make a term common.

    Args:
        names: each item's folder and file, which the application looks into as well; none by default, since the material's
            file names were not given by a user.
    """

    def __init__(self, texts: Sequence[str], names: Sequence[str] = ()) -> None:
        self.size = len(texts)
        self._database = sqlite3.connect(":memory:")
        made = [normalised(text) for text in texts]
        for table, columns, tokenize in (
            ("words", "text, name, spellings", "porter unicode61 remove_diacritics 2"),
            ("trigrams", "text, name", "trigram"),
        ):
            self._database.execute(f"CREATE VIRTUAL TABLE {table} USING fts5({columns}, tokenize='{tokenize}')")
        for row, (own, name) in enumerate(zip(made, names or [""] * self.size, strict=True)):
            self._database.execute("INSERT INTO trigrams(rowid, text, name) VALUES (?, ?, ?)", (row, own.text, name))
            values = (row, own.text, name, own.spellings)
            self._database.execute("INSERT INTO words(rowid, text, name, spellings) VALUES (?, ?, ?, ?)", values)

    def matches(self, query: str) -> TextMatches:
        """What the application's index finds: ids are the places of the texts, the best MATCH_DEPTH of them."""
        terms = terms_of(query)
        found = [self._look_up(term) for term in terms]
        if not any(len(term.ids) for term in found):
            return NO_MATCHES
        weights = idf([term.count for term in found], self.size)
        ids, mass = mass_of(found, weights)
        share = mass / weights.sum()
        scores = dict(self._database.execute(_BM25, (any_of(terms),)))
        bm25 = with_insides(np.array([max(0.0, -scores.get(int(one), 0.0)) for one in ids]), ids, found, weights)
        order = best(ids, share, bm25, MATCH_DEPTH)
        name = np.zeros(self.size)
        for term, weight in zip(found, weights / weights.sum(), strict=True):
            name[self._rows(in_name(term.text), "trigrams" if term.is_inside else "words")] += weight * term.worth
        held = np.stack([share[order], bm25[order], name[ids[order]]]).astype(np.float32)
        return TextMatches(ids[order], held[0], held[1], held[2], len(terms))

    def knows(self, word: str) -> bool:
        """Whether a text or name holds a word."""
        return len(self._rows(quoted(word))) > 0

    def _look_up(self, term: str) -> Found:
        ids = self._rows(quoted(term))
        if len(ids) or len(term) < 3:  # a trigram needs three characters
            return Found(term, len(ids), ids)
        ids = self._rows(quoted(term), "trigrams")
        return Found(term, len(ids), ids, is_inside=True)

    def _rows(self, match: str, table: str = "words") -> np.ndarray:
        found = self._database.execute(f"SELECT rowid FROM {table} WHERE {table} MATCH ?", (match,))
        return np.array([row for (row,) in found], np.int64)
