"""Lexical search over the catalog's FTS5 tables: which items hold the words of a query, and how much of it they cover.

Words are stemmed (Porter) and stripped of diacritics by SQLite on both sides; a word that no item has is sought as a substring
(trigrams), which also serves scripts without spaces. User text never reaches FTS5's query syntax unquoted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import text
from sqlalchemy.engine import Connection

from mmsearch.filters import read_ids
from mmsearch.items import KINDS, Kind

MAX_TERMS = 32
"""Of a longer query the rest is ignored."""
COMMON_SHARE, COMMON_FLOOR = 0.2, 1000
"""A term in more items than both says nothing about any of them, and is left out where others remain."""
SUBSTRING_WEIGHT = 0.6
"""What a term is worth that is found only inside longer words."""
BM25_TEXT, BM25_NAME = 1.0, 0.5
"""Weights of the columns: a word in a file's name stands for all of its pages alike."""
SNIPPET_TOKENS = 24

STOP_WORDS = frozenset(
    [
        "a",
        "about",
        "after",
        "all",
        "also",
        "an",
        "and",
        "any",
        "are",
        "as",
        "at",
        "be",
        "been",
        "but",
        "by",
        "can",
        "could",
        "did",
        "do",
        "does",
        "for",
        "from",
        "had",
        "has",
        "have",
        "he",
        "her",
        "here",
        "his",
        "how",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "just",
        "me",
        "more",
        "most",
        "my",
        "no",
        "not",
        "of",
        "on",
        "only",
        "or",
        "other",
        "our",
        "out",
        "over",
        "she",
        "show",
        "so",
        "some",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "to",
        "up",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "while",
        "who",
        "why",
        "will",
        "with",
        "would",
        "you",
        "your",
        "find",
        "give",
        "get",
        "look",
        "looking",
        "search",
        "want",
        "need",
        "please",
        "containing",
        "contains",
    ]
)
MEDIUM_WORDS = frozenset(
    [
        "page",
        "pages",
        "slide",
        "slides",
        "pdf",
        "pdfs",
        "document",
        "documents",
        "photo",
        "photos",
        "picture",
        "pictures",
        "image",
        "images",
        "video",
        "videos",
        "clip",
        "clips",
        "scene",
        "moment",
        "file",
        "files",
    ]
)
"""Words that usually name the kind of thing sought, not what is on it: they count only where nothing else is asked."""


@dataclass(frozen=True, slots=True)
class TextMatches:
    """Items by falling `share`, then falling `bm25`; arrays of one length.

    Attributes:
        ids: int64.
        share: float32 in (0, 1], the part of the query's IDF mass that the item holds.
        bm25: float32, higher is better (0 for matches inside words).
    """

    ids: np.ndarray
    share: np.ndarray
    bm25: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


NO_MATCHES = TextMatches(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.float32))


def terms_of(query: str) -> list[str]:
    """The words and "quoted phrases" of a query that a match is looked for, in order, without repetition."""
    terms: dict[str, None] = {}
    for phrase, word in re.findall(r'"([^"]*)"|([^\W_]+)', query):
        found = phrase.strip() if phrase else word
        if re.search(r"[^\W_]", found):
            terms[found.lower()] = None
    content = [term for term in terms if term not in STOP_WORDS]
    specific = [term for term in content if term not in MEDIUM_WORDS]
    return (specific or content or list(terms))[:MAX_TERMS]


def match(connection: Connection, query: str, k: int, kinds: Sequence[Kind], allowed: np.ndarray | None) -> TextMatches:
    """At most `k` items that hold terms of `query` in their text or file name.

    Args:
        allowed: int64, ascending: only these; None for all items of `kinds`.
    """
    terms = terms_of(query)
    if not terms or k < 1 or not kinds:
        return NO_MATCHES
    if allowed is None and set(kinds) != set(KINDS):
        of_kinds = "SELECT id FROM items WHERE visible = 1 AND kind IN (SELECT value FROM json_each(:kinds))"
        allowed = read_ids(connection, of_kinds, {"kinds": json.dumps(list(kinds))})
    total = connection.execute(text("SELECT count(*) FROM items WHERE visible = 1")).scalar_one()
    common = int(max(COMMON_FLOOR, COMMON_SHARE * total))

    found = [_find(connection, term, common + 1) for term in terms]
    telling = [n for n, (ids, _) in enumerate(found) if len(ids) <= common]
    if not telling:
        return _only_common(connection, terms, k, allowed)
    weights = [_idf(len(found[n][0]), total) for n in telling]
    ids = np.concatenate([found[n][0] for n in telling])
    mass = np.concatenate(
        [
            np.full(len(found[n][0]), weight * found[n][1], np.float64)
            for n, weight in zip(telling, weights, strict=True)
        ]
    )
    ids, place = np.unique(ids, return_inverse=True)
    share = np.bincount(place, mass, len(ids)) / sum(weights)
    if allowed is not None:
        keep = np.isin(ids, allowed, assume_unique=True)
        ids, share = ids[keep], share[keep]
    if len(ids) > 2 * k:  # BM25 decides only among the best
        floor = np.partition(share, len(share) - 2 * k)[len(share) - 2 * k]
        best = np.flatnonzero(share >= floor)[: 8 * k]
        ids, share = ids[best], share[best]
    bm25 = _bm25(connection, [terms[n] for n in telling], ids)
    order = np.lexsort((ids, -bm25, -share))[:k]
    return TextMatches(ids[order], share[order].astype(np.float32), bm25[order].astype(np.float32))


def snippets(connection: Connection, query: str, ids: Sequence[int]) -> dict[int, str]:
    """The passage of each item's text that holds most terms; items whose text holds none are left out."""
    terms = terms_of(query)
    if not terms or not len(ids):
        return {}
    rows = connection.execute(
        text(
            f"SELECT rowid, snippet(words, 0, '', '', '…', {SNIPPET_TOKENS}) FROM words"
            " WHERE words MATCH :query AND +rowid IN (SELECT value FROM json_each(:ids))"
        ),
        {"query": f"text: ({_any_of(terms)})", "ids": json.dumps([int(i) for i in ids])},
    )
    return {item_id: " ".join(passage.split()) for item_id, passage in rows}


def _find(connection: Connection, term: str, limit: int) -> tuple[np.ndarray, float]:
    """The ids of the items that hold a term, and the weight of such a match."""
    by_word = "SELECT rowid AS id FROM words WHERE words MATCH :query LIMIT :limit"
    parameters = {"query": _quoted(term), "limit": limit}
    ids = read_ids(connection, by_word, parameters)
    if len(ids) or len(term) < 3:  # a trigram needs three characters
        return ids, 1.0
    by_part = "SELECT rowid AS id FROM trigrams WHERE trigrams MATCH :query LIMIT :limit"
    return read_ids(connection, by_part, parameters), SUBSTRING_WEIGHT


def _only_common(connection: Connection, terms: list[str], k: int, allowed: np.ndarray | None) -> TextMatches:
    """Nothing but words that a fifth of the library has: BM25 alone decides, all of them must be there."""
    query = " AND ".join(map(_quoted, terms))
    condition = "" if allowed is None else " AND +rowid IN (SELECT value FROM json_each(:allowed))"
    rows = connection.execute(
        text(
            f"SELECT rowid, -bm25(words, {BM25_TEXT}, {BM25_NAME}) AS score FROM words WHERE words MATCH :query{condition}"
            " ORDER BY score DESC, rowid LIMIT :k"
        ),
        {"query": query, "k": k, "allowed": None if allowed is None else json.dumps(allowed.tolist())},
    ).all()
    if not rows:
        return NO_MATCHES
    ids, bm25 = np.array([row[0] for row in rows], np.int64), np.array([row[1] for row in rows], np.float32)
    return TextMatches(ids, np.ones(len(ids), np.float32), bm25)


def _bm25(connection: Connection, terms: list[str], ids: np.ndarray) -> np.ndarray:
    """float64 [len(ids)]; `ids` ascending. FTS5's own scores are negative, the best lowest."""
    scores = np.zeros(len(ids))
    rows = connection.execute(
        text(
            # The plus keeps SQLite from starting the full-text query anew for every id.
            f"SELECT rowid, bm25(words, {BM25_TEXT}, {BM25_NAME}) FROM words"
            " WHERE words MATCH :query AND +rowid IN (SELECT value FROM json_each(:ids))"
        ),
        {"query": _any_of(terms), "ids": json.dumps(ids.tolist())},
    )
    for item_id, score in rows:
        scores[np.searchsorted(ids, item_id)] = max(0.0, -score)
    return scores


def _idf(count: int, total: int) -> float:
    return float(np.log1p((total - count + 0.5) / (count + 0.5)))


def _quoted(term: str) -> str:
    return '"' + term.replace('"', '""') + '"'


def _any_of(terms: list[str]) -> str:
    return " OR ".join(map(_quoted, terms))
