"""What somebody could type to find an item, taken from the library itself: titles, passages and rare words of pages, captions, what is
said in a clip, names of files and folders. Nobody has labelled anything.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmsearch.items import Item
from mmsearch.library.examples import CAMERA_NAME
from mmsearch.ranking.terms import MEDIUM_WORDS, STOP_WORDS

CAPTION_FIELDS = ("caption", "title", "description", "headline", "keywords")
"""Entries of a photo's metadata that people write."""
PASSAGE_WORDS = (6, 16)
KEPT_SHARE = 0.6
"""So often a title or passage stays in the text that it is to find. Taking it out (inverse cloze task, Lee et al. 2019, who keep a tenth)
teaches what a page is about beyond its words; taken out always, the model unlearns that a page with a query's very words is the right one."""
LEAST_WORDS = 20
"""A page with fewer words has no passages."""
RARE_WORDS = 4
COMMON_SHARE = 0.5
"""Words in the names of more than this share of a kind's files say nothing."""
DULL_WORDS = frozenset("untitled copy new final scan img image images photo photos video videos pdf docs documents downloads desktop".split())  # noqa: SIM905 # fmt: skip


@dataclass(frozen=True, slots=True)
class Words:
    """A query's words.

    Attributes:
        style: "title", "passage", "rare words", "caption", "spoken", "name" or "folder".
        rest: the item's text as it is to be found by them, where that is not its whole text.
    """

    text: str
    style: str
    rest: str | None = None


class Rarity:
    """How many pages hold a word."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.counts: Counter[str] = Counter()
        self.titles: Counter[str] = Counter()
        for text in texts:
            self.counts.update(set(_letters(text)))
            self.titles[title_of(text)] += 1

    def rarest(self, text: str, count: int = RARE_WORDS) -> list[str]:
        """The page's rarest words of four letters or more that some other page has too or the page repeats, in the page's order."""
        own = Counter(_letters(text))
        candidates = [w for w in own if len(w) >= 4 and w not in STOP_WORDS and (self.counts[w] > 1 or own[w] > 1)]
        chosen = set(sorted(candidates, key=lambda word: (self.counts[word], -own[word], word))[:count])
        return [word for word in own if word in chosen]


def page_words(text: str, rarity: Rarity, rng: random.Random) -> list[Words]:
    """Title (where no other page has it), a passage, rare words; none for a page without text."""
    found = []
    title = title_of(text)
    words = text.split()
    if title and rarity.titles[title] == 1 and len(words) > len(title.split()):
        found.append(
            Words(title, "title", None if rng.random() < KEPT_SHARE else " ".join(text.replace(title, " ", 1).split()))
        )
    if (passage := passage_of(text, rng)) is not None:
        found.append(passage)
    rare = rarity.rarest(text) if len(words) >= LEAST_WORDS else []
    if len(rare) >= 2:
        found.append(Words(" ".join(rare), "rare words"))
    return found


def passage_of(text: str, rng: random.Random, *, style: str = "passage") -> Words | None:
    """Some words in a row, and the text without them (but for now and then); None for a short text."""
    words = text.split()
    if len(words) < LEAST_WORDS:
        return None
    count = rng.randint(*PASSAGE_WORDS)
    start = rng.randrange(len(words) - count + 1)
    rest = None if rng.random() < KEPT_SHARE else " ".join(words[:start] + words[start + count :])
    return Words(" ".join(words[start : start + count]), style, rest)


def title_of(text: str) -> str:
    """The first of the first three lines that reads like a title, "" if none does."""
    for line in text.split("\n")[:3]:
        words = line.split()
        if 2 <= len(words) <= 12 and len(re.findall(r"[^\W\d_]{3,}", line)) >= 2:
            return " ".join(words)
    return ""


def caption_words(item: Item) -> list[Words]:
    """What people wrote of a photo, as far as the catalog knows it."""
    found: dict[str, None] = {}
    for value in (item.text, *(item.meta.get(name) for name in CAPTION_FIELDS)):
        listed = ", ".join(map(str, value)) if isinstance(value, list) else value
        if isinstance(listed, str) and len(_letters(listed)) >= 2 and not CAMERA_NAME.match(listed.strip()):
            found[" ".join(listed.split()[:40])] = None
    return [Words(text, "caption") for text in found]


def spoken_words(text: str, rng: random.Random) -> list[Words]:
    """Of a clip: a passage of what is said in it; all of it if that is short."""
    passage = passage_of(text, rng, style="spoken")
    if passage is not None:
        return [passage]
    rest = None if rng.random() < KEPT_SHARE else ""
    return [Words(" ".join(text.split()), "spoken", rest)] if len(_letters(text)) >= 3 else []


def names(items: Sequence[Item], roots: Collection[Path]) -> dict[int, list[Words]]:
    """By item id, what the names of its file and of the nearest folder below a root say; what says nothing is left out.

    `items` are all of one kind. Items may share words: all of them are then right.
    """
    of_file: dict[Path, list[tuple[str, list[str]]]] = {}
    for path in dict.fromkeys(item.path for item in items):
        parts = [("name", _name_words(path.stem))]
        folder = _folder_below(path, roots)
        if folder is not None:
            parts.append(("folder", _name_words(folder)))
        of_file[path] = parts
    common = _common(of_file)
    found: dict[int, list[Words]] = {}
    for item in items:
        for style, words in of_file[item.path]:
            kept = [word for word in words if word not in common]
            if any(len(word) >= 3 for word in kept):
                found.setdefault(item.id, []).append(Words(" ".join(kept), style))
    return found


def _common(of_file: Mapping[Path, Sequence[tuple[str, list[str]]]]) -> set[str]:
    counts = Counter(word for parts in of_file.values() for word in {w for _, words in parts for w in words})
    limit = max(2, COMMON_SHARE * len(of_file))
    return {word for word, count in counts.items() if count > limit}


def _folder_below(path: Path, roots: Collection[Path]) -> str | None:
    """The nearest folder that a root holds and that has words in its name."""
    for folder in path.parents:
        if folder in roots or not any(root in folder.parents for root in roots):
            return None
        if _name_words(folder.name):
            return folder.name
    return None


def _name_words(name: str) -> list[str]:
    """`Q3Report_final-2` as ["report"]: opened at case changes and digits, without what cameras and offices write."""
    shown = os.fsencode(name).decode("utf-8", "replace")
    if CAMERA_NAME.match(shown):
        return []
    opened = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", shown)
    words = [word.lower() for word in re.findall(r"[^\W\d_]+", opened) if "�" not in word]
    said = [word for word in words if word not in DULL_WORDS and word not in MEDIUM_WORDS]
    return said[:10] if any(len(word) >= 3 and word not in STOP_WORDS for word in said) else []


def _letters(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]{2,}", text.lower())
