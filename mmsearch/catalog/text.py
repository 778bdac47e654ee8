"""Lexical search over the catalog's FTS5 tables: which items hold the words of a query, and how much of it they cover.

Words are stemmed (Porter) and stripped of diacritics by SQLite on both sides; a word that no item has is sought as a substring
(trigrams). What the tokenizer cannot know, such as "strasse" for "Straße" and words of scripts without spaces, stands in the column
`spellings`, see `mmsearch.plain_text`. User text never reaches FTS5's query syntax unquoted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sqlalchemy import text
from sqlalchemy.engine import Connection

from mmsearch.catalog.connections import Database
from mmsearch.catalog.dialect.sqlite import listed, members
from mmsearch.catalog.filters import read_ids
from mmsearch.items import KINDS, Kind
from mmsearch.plain_text import passage, words_of
from mmsearch.ranking.matches import Found, best, mass_of, with_insides
from mmsearch.ranking.rank import NO_MATCHES, TextMatches
from mmsearch.ranking.terms import (
    BM25_NAME,
    BM25_TEXT,
    all_of,
    any_of,
    idf,
    in_name,
    quoted,
    terms_of,
)

COMMON_SHARE, COMMON_FLOOR = 0.05, 1000
"""A term in more items than both (as a share of all, and as a number) is not enough to find an item by, unless all are such."""
LOOKED_AT = 4
"""Candidates per hit asked for that BM25 and the common terms are asked about."""
SNIPPET_TOKENS = 24
PHRASES_LOOKED_AT = 200
"""So many texts that hold all words of a phrase, but not the phrase as it is typed, are compared with it."""
NEARER = 0.8
"""What a word in the name of a folder is worth, of what it is worth in that of the folder inside it."""

_MATCHING = "FROM words WHERE words MATCH :query"
# The plus keeps SQLite from starting the full-text query again for every id.
_GIVEN = f"+rowid IN {members('ids')}"
_BM25 = f"bm25(words, {BM25_TEXT}, {BM25_NAME}, {BM25_TEXT})"


class Text:
    """`Catalog.text`: search by words."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def match(
        self, query: str, k: int, kinds: Sequence[Kind], allowed: np.ndarray | None = None, *, total: int | None = None
    ) -> TextMatches:
        """At most `k` items that hold terms of `query` in their text or file name.

        Args:
            allowed: int64, ascending: only these; None for all items of `kinds`.
            total: how many visible items there are, if the caller knows.
        """
        with self._db.reading() as c:
            terms = terms_of(query)
            if not terms or k < 1 or not kinds:
                return NO_MATCHES
            if allowed is None and set(kinds) != set(KINDS):
                of_kinds = f"SELECT id FROM items WHERE visible = 1 AND kind IN {members('kinds')}"
                allowed = read_ids(c, of_kinds, {"kinds": listed(kinds)})
            if total is None:
                total = c.execute(text("SELECT count(*) FROM items WHERE visible = 1")).scalar_one()
            found = [_look_up(c, term, int(max(COMMON_FLOOR, COMMON_SHARE * total))) for term in terms]
            weights = idf([term.count for term in found], total)
            is_common = np.array([term.is_common for term in found])
            if not any(len(term.ids) for term in found):
                common = [term for term in found if term.is_common]
                return _all_of(c, common, k, allowed, weights[is_common] / weights.sum())

            ids, share = mass_of(found, weights)
            if allowed is not None:
                keep = np.isin(ids, allowed, assume_unique=True)
                ids, share = ids[keep], share[keep]
            if len(ids) > LOOKED_AT * k:  # the rest cannot matter any more
                near = np.sort(np.argpartition(-share, LOOKED_AT * k)[: LOOKED_AT * k])
                ids, share = ids[near], share[near]
            for weight, term in zip(weights, found, strict=True):
                if term.is_common:
                    share[np.isin(ids, _among(c, term.text, ids))] += weight
            share = share / weights.sum()
            bm25 = _bm25(c, [term.text for term in found if not term.is_common], ids)
            bm25 = with_insides(bm25, ids, found, weights)
            order = best(ids, share, bm25, k)
            name = _named(c, found, weights / weights.sum(), ids[order])
            return TextMatches(
                ids[order], share[order].astype(np.float32), bm25[order].astype(np.float32), name, len(terms)
            )

    def holding(self, words: str) -> np.ndarray:
        """int64, ascending: the items whose text or file name holds all of some words."""
        with self._db.reading() as c:
            terms = terms_of(words)
            return read_ids(c, f"SELECT rowid AS id {_MATCHING}", {"query": all_of(terms)}) if terms else NO_MATCHES.ids

    def known_words(self, words: Sequence[str]) -> set[str]:
        """Those of `words` that at least one item holds as a word."""
        with self._db.reading() as c:
            return _known(c, words)

    def snippets(self, query: str, ids: Sequence[int]) -> dict[int, str]:
        """For each of `ids` the passage of its text that holds most words of `query`, if any."""
        with self._db.reading() as c:
            terms = terms_of(query)
            if not terms or not len(ids):
                return {}
            rows = c.execute(
                text(f"SELECT rowid, snippet(words, 0, '', '', '…', {SNIPPET_TOKENS}) {_MATCHING} AND {_GIVEN}"),
                {"query": f"text: ({any_of(terms)})", "ids": listed(ids)},
            )
            found = {item_id: " ".join(words.split()) for item_id, words in rows}
            return found | _spelled_otherwise(c, terms, [int(i) for i in ids if int(i) not in found])


def _known(c: Connection, words: Sequence[str]) -> set[str]:
    held = text(f"SELECT 1 {_MATCHING} LIMIT 1")
    return {word for word in words if c.execute(held, {"query": quoted(word)}).first() is not None}


def _spelled_otherwise(connection: Connection, terms: list[str], ids: Sequence[int]) -> dict[int, str]:
    """The `snippets` of items that hold terms only in another spelling, or terms that no item holds as a word inside of words."""
    inside = [term for term in terms if len(term) >= 3 and not _known(connection, [term])]
    found: dict[int, str] = {}
    for table, column, sought in (("words", "spellings", terms), ("trigrams", "text", inside)):
        if not sought or not ids:
            continue
        matching = f"SELECT rowid AS id FROM {table} WHERE {table} MATCH :query AND {_GIVEN}"
        parameters = {"query": f"{column}: ({any_of(sought)})", "ids": listed(ids)}
        rows = connection.execute(text(f"SELECT id, text FROM items WHERE id IN ({matching})"), parameters)
        found |= {item_id: shown for item_id, words in rows if (shown := passage(words, sought))}
    return found


def _look_up(connection: Connection, term: str, common: int) -> Found:
    parameters = {"query": quoted(term), "limit": common}
    count = connection.execute(text("SELECT count(*) FROM words WHERE words MATCH :query"), parameters).scalar_one()
    if count > common:
        return Found(term, count, np.empty(0, np.int64), is_common=True)
    if count or len(term) < 3:  # a trigram needs three characters
        return Found(term, count, read_ids(connection, f"SELECT rowid AS id {_MATCHING}", parameters))
    inside = "SELECT rowid AS id FROM trigrams WHERE trigrams MATCH :query LIMIT :limit"
    ids = read_ids(connection, inside, parameters)
    if not len(ids):
        ids = _with_phrase(connection, term)
    return Found(term, len(ids), ids, is_inside=True)


def _with_phrase(connection: Connection, phrase: str) -> np.ndarray:
    """int64, ascending: items whose text holds a phrase in other spellings of its words, which FTS5 keeps in a column of their own."""
    words = words_of(phrase).split()
    if len(words) < 2:
        return NO_MATCHES.ids
    holding_all = "SELECT rowid AS id FROM words WHERE words MATCH :query LIMIT :limit"
    rows = connection.execute(
        text(f"SELECT id, text FROM items WHERE id IN ({holding_all}) ORDER BY id"),
        {"query": all_of(words), "limit": PHRASES_LOOKED_AT},
    )
    return np.array([item_id for item_id, held in rows if passage(held, [phrase])], np.int64)


def _among(connection: Connection, term: str, ids: np.ndarray) -> np.ndarray:
    """Those of `ids` that hold a term."""
    parameters = {"query": quoted(term), "ids": listed(ids)}
    return read_ids(connection, f"SELECT rowid AS id {_MATCHING} AND {_GIVEN}", parameters)


def _named(connection: Connection, terms: Sequence[Found], shares: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """float32 [len(ids)]: how much of the terms' `shares` stands in the name of each of `ids`, and how near to it among its folders."""
    held = np.zeros(len(ids))
    for is_inside, table in ((False, "words"), (True, "trigrams")):
        among = f"SELECT rowid AS id FROM {table} WHERE {table} MATCH :query AND {_GIVEN}"

        def named(some: Sequence[str], of: np.ndarray, among: str = among) -> np.ndarray:
            return read_ids(connection, among, {"query": in_name(*some), "ids": listed(of)})

        own = [(term, share) for term, share in zip(terms, shares, strict=True) if term.is_inside == is_inside]
        with_any = named([term.text for term, _ in own], ids) if own else NO_MATCHES.ids
        if not len(with_any):  # mostly no name holds any of them
            continue
        marked = text(
            f"SELECT rowid, highlight({table}, 1, char(1), char(2)) FROM {table} WHERE {table} MATCH :query AND {_GIVEN}"
        )
        for term, share in own:
            rows = connection.execute(marked, {"query": in_name(term.text), "ids": listed(with_any)})
            for item_id, name in rows:
                folders_away = name[: max(0, name.find("\1"))].count("\n")  # see `names.lexical_name`
                held[ids == item_id] += share * term.worth * NEARER**folders_away
    return held.astype(np.float32)


def _all_of(
    connection: Connection, terms: list[Found], k: int, allowed: np.ndarray | None, shares: np.ndarray
) -> TextMatches:
    """Nothing but terms that many items hold: all of them must be there, BM25 alone decides. `shares`: of each term."""
    if not terms:
        return NO_MATCHES
    parameters: dict[str, object] = {"query": all_of([term.text for term in terms]), "k": k}
    condition = ""
    if allowed is not None:
        condition, parameters["ids"] = f" AND {_GIVEN}", listed(allowed)
    rows = connection.execute(
        text(f"SELECT rowid, {_BM25} AS score {_MATCHING}{condition} ORDER BY score, rowid LIMIT :k"), parameters
    ).all()
    ids = np.array([row[0] for row in rows], np.int64)
    bm25 = np.array([max(0.0, -row[1]) for row in rows], np.float32)
    return TextMatches(
        ids, np.full(len(ids), shares.sum(), np.float32), bm25, _named(connection, terms, shares, ids), len(terms)
    )


def _bm25(connection: Connection, terms: list[str], ids: np.ndarray) -> np.ndarray:
    """float64 [len(ids)], higher is better; `ids` ascending. FTS5's own scores are negative, the best lowest."""
    scores = np.zeros(len(ids))
    parameters = {"query": any_of(terms), "ids": listed(ids)}
    rows = connection.execute(text(f"SELECT rowid, {_BM25} {_MATCHING} AND {_GIVEN}"), parameters).all()
    if rows:
        found, raw = np.array(rows).T
        scores[np.searchsorted(ids, found.astype(np.int64))] = np.maximum(0, -raw)
    return scores
