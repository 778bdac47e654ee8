"""What the words of a query ask for, and what they weigh: pure text, which lexical search and its evaluation share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from mmsearch.items import Kind

MAX_TERMS = 32
"""Of a longer query the rest is ignored."""
SUBSTRING_WEIGHT = 0.6
"""What a term is worth that is found only inside longer words."""
BM25_TEXT, BM25_NAME = 1.0, 0.5
"""Weights of the columns: a word in a file's name stands for all of its pages alike."""

STOP_WORDS = frozenset(  # a list of one word a line would fill three screens
    """a about after all also an and any are as at be been but by can could did do does for from had has have he her here
    his how i if in into is it its just me more most my no not of on only or other our out over she show so some than that
    the their them then there these they this those to up was we were what when where which while who why will with would
    you your find give get look looking search want need please containing contains""".split()  # noqa: SIM905
)
MEDIUM_WORDS = frozenset(
    """page pages slide slides pdf pdfs document documents photo photos picture pictures image images video videos clip clips
    scene moment file files""".split()  # noqa: SIM905
)
"""Words that usually name the kind of thing sought, not what is on it: they count only where nothing else is asked."""

KIND_WORDS: Mapping[str, Kind] = {
    "slide": "page", "slides": "page", "page": "page", "pages": "page", "pdf": "page", "pdfs": "page",
    "document": "page", "documents": "page", "photo": "image", "photos": "image", "picture": "image",
    "pictures": "image", "video": "clip", "videos": "clip", "clip": "clip", "clips": "clip",
}  # fmt: skip
"""Of these the words that leave no doubt which kind is meant ("image" and "scene" are on many a page)."""


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


def kinds_named(query: str) -> frozenset[Kind]:
    """The kinds that a query's own words ask for: pages for "slides about revenue"; none if it asks for nothing else."""
    words = re.findall(r"[^\W_]+", query.lower())
    if all(word in KIND_WORDS or word in STOP_WORDS for word in words):
        return frozenset()
    return frozenset(KIND_WORDS[word] for word in words if word in KIND_WORDS)


def idf(counts: Sequence[int], total: int) -> np.ndarray:
    """float64 [len(counts)]: the weight of terms that so many of `total` items hold."""
    held = np.asarray(counts)
    return np.log1p((total - held + 0.5) / (held + 0.5))


def quoted(term: str) -> str:
    """A term as FTS5 reads it literally."""
    return '"' + term.replace('"', '""') + '"'


def any_of(terms: Sequence[str]) -> str:
    """An FTS5 query: at least one of `terms`."""
    return " OR ".join(map(quoted, terms))
