"""What the words of a query ask for, and what they weigh: pure text, which lexical search and its evaluation share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmsearch.items import Kind
from mmsearch.plain_text import WORD, asked, other_spelling

MAX_TERMS = 32
"""Of a longer query the rest is ignored."""
SUBSTRING_WEIGHT = 0.8
"""What a term is worth that is found only inside longer words, or in a script without spaces."""
BM25_TEXT, BM25_NAME = 1.0, 0.5
"""Weights of the columns: a word in a file's name stands for all of its pages alike."""

STOP_PHRASE_WORDS = 3
"""A query of stop words alone is sought as a phrase from so many on."""
KNOWN_SHARE = 0.34
"""A query of which a smaller share of the letters belongs to known words has no meaning to a model."""
_LETTER_OR_DIGIT = re.compile(r"[^\W_]")
_WORD = re.compile(WORD)
_PHRASE_OR_WORD = re.compile(f'"([^"]*)"|({WORD})')

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


_EXCLUSION = re.compile(r'(?<!\S)-(?:"([^"]*)"|([^\W\d_]\S*))')
"""A hyphen at the beginning of a word or of a "phrase"; not one inside a word, one that stands alone, or a minus before a number."""


@dataclass(frozen=True, slots=True)
class Wording:
    """A query's text taken apart: what is sought, and what is to be kept away (`-word`, `-"some words"`)."""

    text: str
    excluded: tuple[str, ...] = ()


def wording_of(query: str) -> Wording:
    """Take `-word` and `-"some words"` out of a query, which is normalised (see `mmsearch.plain_text`)."""
    query = asked(query)
    excluded = [(phrase or word).strip() for phrase, word in _EXCLUSION.findall(query)]
    excluded = [words for words in excluded if _LETTER_OR_DIGIT.search(words)]
    return Wording(" ".join(_EXCLUSION.sub(" ", query).split()) if excluded else query, tuple(dict.fromkeys(excluded)))


def terms_of(query: str) -> list[str]:
    """The words and "quoted phrases" of a query that a match is looked for, in order, without repetition.

    Where all are stop words, they are sought as the one phrase that three or more of them make ("to be or not to be"); fewer are nothing to
    search for.
    """
    query = asked(query)
    terms: dict[str, None] = {}
    for phrase, word in _PHRASE_OR_WORD.findall(query):
        found = phrase.strip() if phrase else word
        if _LETTER_OR_DIGIT.search(found):
            terms[found.lower()] = None
    content = [term for term in terms if term not in STOP_WORDS]
    specific = [term for term in content if term not in MEDIUM_WORDS]
    if not content and len(terms) >= STOP_PHRASE_WORDS:
        return [" ".join(_WORD.findall(query.lower())[:MAX_TERMS])]
    return (specific or content)[:MAX_TERMS]


def words_to_read(query: str) -> list[str]:
    """The words that a model could make something of, lower case: of letters, no stop words, and more than a single letter in a script
    that has cases (in others one may be a whole word)."""
    words = re.findall(r"[^\W\d_]+", asked(query).lower())
    return [word for word in words if word not in STOP_WORDS and (len(word) > 1 or word == word.upper())]


def is_readable(query: str, is_known: Callable[[str], bool]) -> bool:
    """Whether a model can make anything of a query: enough of its letters belong to words that somebody knows.

    Args:
        is_known: whether the library holds a word, or the model has it in its vocabulary.
    """
    words = words_to_read(query)
    known = sum(len(word) for word in words if is_known(word))
    return bool(words) and known >= KNOWN_SHARE * sum(map(len, words))


def kinds_named(query: str) -> frozenset[Kind]:
    """The kinds that a query's own words ask for: pages for "slides about revenue"; none if it asks for nothing else."""
    words = _WORD.findall(asked(query).lower())
    if all(word in KIND_WORDS or word in STOP_WORDS for word in words):
        return frozenset()
    return frozenset(KIND_WORDS[word] for word in words if word in KIND_WORDS)


def idf(counts: Sequence[int], total: int) -> np.ndarray:
    """float64 [len(counts)]: the weight of terms that so many of `total` items hold."""
    held = np.asarray(counts)
    return np.log1p((total - held + 0.5) / (held + 0.5))


def quoted(term: str) -> str:
    """A term as FTS5 reads it literally; or in the spelling that `mmsearch.plain_text.spellings` puts into the index, where that is another."""
    spelled = [term, *filter(None, [other_spelling(term)])]
    phrases = ['"' + one.replace('"', '""') + '"' for one in spelled]
    return phrases[0] if len(phrases) == 1 else f"({' OR '.join(phrases)})"


def any_of(terms: Sequence[str]) -> str:
    """An FTS5 query: at least one of `terms`."""
    return " OR ".join(map(quoted, terms))


def all_of(terms: Sequence[str]) -> str:
    """An FTS5 query: every one of `terms`."""
    return " AND ".join(map(quoted, terms))


def in_name(*terms: str) -> str:
    """An FTS5 query: at least one of `terms` in the column `name`."""
    return f"name : ({any_of(terms)})"
