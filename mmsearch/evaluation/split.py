"""What is asked of what: the development split's pools, and the queries made over them. No model is asked here."""

from __future__ import annotations

import io
import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mmsearch.errors import DatasetError
from mmsearch.evaluation.queries import (
    NATURAL_QUERIES,
    PARAPHRASES,
    TRANSLATED_QUERIES,
    NaturalQuery,
    UnanswerableQuery,
    load_natural_queries,
    load_translated_queries,
    load_unanswerable_queries,
)
from mmsearch.items import KINDS, Kind
from mmsearch.ranking.terms import STOP_WORDS
from mmsearch.training.data.photos_in_motion import frames_in_motion
from mmsearch.training.datasets.rendered_material import ClipRecord, PageRecord, load_clips, load_pages
from mmsearch.training.datasets.shared_material import PhotoRecord, is_development, load_pairs, load_photos

if TYPE_CHECKING:
    from PIL.Image import Image

CAPTION_LANGUAGES = ("en", "de", "fr", "cs")
"""Of Multi30k's captions."""

SLIDE_WORDS, PAPER_WORDS = 150, 150
"""Words per page: a PDF of landscape pages with fewer is slides, one of portrait pages with more is a paper. The rest is neither."""

COMPOSED_SIMILARITY = 0.6
COMPOSED_PER_PHOTO = 2
_LITTLE_WORDS = STOP_WORDS | frozenset(
    "two one some while near next around along across area very onto toward towards wearing wears".split()  # noqa: SIM905
)


class Rows(Protocol):
    """A table by its rows: an array, or something that computes them."""

    def __getitem__(self, row: int) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class ComposedQuery:
    """Photo number `reference` with `text` about what is different; the photo sought is number `target`."""

    reference: int
    text: str
    target: int


@dataclass(frozen=True, slots=True)
class MovingClip:
    """A clip made of the photos with these numbers, one shot each."""

    photos: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class KindQuery:
    """`text` belongs to an item of kind `of`; the instruction asks for kind `wanted`."""

    text: str
    of: Kind
    wanted: Kind


class Split:
    """The development split, each part loaded when first asked for.

    Attributes:
        data: the material's folder. work: what training prepared (pages, frames).
    """

    def __init__(self, data: Path, work: Path) -> None:
        self.data = data
        self.work = work

    @cached_property
    def pages(self) -> list[PageRecord]:
        return [page for page in load_pages(self.data, self.work) if page.development]

    @cached_property
    def page_texts(self) -> list[str]:
        """Text layers, each on one line; empty where there is none."""
        return [" ".join(page.text.split()) for page in self.pages]

    @cached_property
    def page_queries(self) -> list[tuple[str, list[int]]]:
        """(words of a page, [its row])."""
        return [(query, [row]) for query, row in page_queries(self.pages)]

    @cached_property
    def natural_queries(self) -> list[tuple[str, list[int]]]:
        """(question, rows of the pages that answer it)."""
        return self._with_rows(load_natural_queries(), NATURAL_QUERIES)

    @cached_property
    def paraphrases(self) -> list[tuple[str, list[int]]]:
        """(question, rows of the pages that answer it), without a content word in common."""
        return self._with_rows(load_natural_queries(PARAPHRASES), PARAPHRASES)

    def _with_rows(self, queries: Sequence[NaturalQuery], file: Path) -> list[tuple[str, list[int]]]:
        row_of = {(page.name, page.page_number): row for row, page in enumerate(self.pages)}
        try:
            return [(q.query, [row_of[q.pdf, number] for number in q.pages]) for q in queries]
        except KeyError as error:
            raise DatasetError(f"{file.name} asks for {error}, which is no development page here") from error

    @cached_property
    def translated_queries(self) -> dict[str, list[tuple[str, list[int]]]]:
        """By language (question, rows of the pages that answer it): some of the natural queries, in the same order in every language,
        English ("en") first."""
        right = dict(self.natural_queries)
        queries: dict[str, dict[str, str]] = {"en": {}}
        for asked in load_translated_queries():
            queries["en"][asked.query_en] = asked.query_en
            queries.setdefault(asked.language, {})[asked.query_en] = asked.query
        try:
            return {
                language: [(own[english], right[english]) for english in queries["en"]]
                for language, own in queries.items()
            }
        except KeyError as error:
            raise DatasetError(
                f"{TRANSLATED_QUERIES.name}: {error} is missing in a language, or in {NATURAL_QUERIES.name}"
            ) from error

    @property
    def foreign_queries(self) -> list[tuple[str, list[int]]]:
        """Those of `translated_queries` that are not English, language by language."""
        return [query for language, own in self.translated_queries.items() if language != "en" for query in own]

    @cached_property
    def unanswerable_queries(self) -> list[UnanswerableQuery]:
        return load_unanswerable_queries()

    @cached_property
    def is_slide(self) -> np.ndarray:
        """bool [pages]."""
        return self._of_shape(lambda width, height, words: width > height and words < SLIDE_WORDS)

    @cached_property
    def is_paper(self) -> np.ndarray:
        """bool [pages]."""
        return self._of_shape(lambda width, height, words: width < height and words > PAPER_WORDS)

    def _of_shape(self, belongs) -> np.ndarray:
        words: dict[str, list[int]] = {}
        for page in self.pages:
            words.setdefault(page.name, []).append(len(page.text.split()))
        first = {page.name: page for page in reversed(self.pages)}
        kept = {
            name
            for name, page in first.items()
            if belongs(*page.member.image().size, sum(words[name]) / len(words[name]))
        }
        return np.array([page.name in kept for page in self.pages])

    @cached_property
    def photos(self) -> list[PhotoRecord]:
        """Flickr8k's: everyday photos with five captions each."""
        return [p for p in self._all_photos if p.set_name == "flickr8k"]

    @cached_property
    def labelled_photos(self) -> list[PhotoRecord]:
        """Tiny-ImageNet's."""
        return [p for p in self._all_photos if p.set_name == "tiny_imagenet"]

    @cached_property
    def class_photos(self) -> list[PhotoRecord]:
        """ImageNet's samples, one picture per class, those for training too."""
        return [p for p in self._records if p.set_name == "labelled" and p.licence.startswith("ImageNet")]

    @cached_property
    def class_names(self) -> list[tuple[str, list[int]]]:
        """(name of a class of the split, numbers of its pictures among `class_photos`); two classes may share a name."""
        rows: dict[str, list[int]] = {}
        for row, photo in enumerate(self.class_photos):
            rows.setdefault(photo.label, []).append(row)
        names = dict.fromkeys(photo.label for photo in self.class_photos if photo.development)
        return [(name, rows[name]) for name in names]

    @cached_property
    def _all_photos(self) -> list[PhotoRecord]:
        return [p for p in self._records if p.development]

    @cached_property
    def _records(self) -> list[PhotoRecord]:
        return load_photos(self.data)

    @cached_property
    def captions(self) -> list[tuple[str, int]]:
        """(caption, number of its photo)."""
        return [(caption, row) for row, photo in enumerate(self.photos) for caption in photo.captions]

    @cached_property
    def translated_captions(self) -> dict[str, list[tuple[str, int]]]:
        """By language (caption, number of its photo): the same captions of the same photos in each of CAPTION_LANGUAGES."""
        row_of = {photo.name: row for row, photo in enumerate(self.photos)}
        known = [(words, row_of[name]) for name, words in translated_captions(self.data) if name in row_of]
        return {language: [(words[language], row) for words, row in known] for language in CAPTION_LANGUAGES}

    @cached_property
    def moving_clips(self) -> list[MovingClip]:
        """Clips made of `photos`; what is asked for is a caption of a clip's first photo."""
        return moving_clips(len(self.photos))

    def moving_frames(self, clip: MovingClip) -> list[Image]:
        """Eight frames, the same on every call."""
        photos = [self.photos[row] for row in clip.photos]
        rng = random.Random(f"motion {photos[0].name}")
        return frames_in_motion([photo.member.image() for photo in photos], rng)

    @cached_property
    def clips(self) -> list[ClipRecord]:
        return [clip for clip in load_clips(self.data, self.work) if clip.development]

    @cached_property
    def clip_texts(self) -> list[str]:
        """What is said of each clip."""
        return [clip.captions[0] if clip.captions else clip.label for clip in self.clips]

    @cached_property
    def questions(self) -> tuple[list[str], list[str], list[int]]:
        """(questions, passages, the row of each question's passage), of SQuAD."""
        pairs = [p for p in load_pairs(self.data, "squad_dev") if is_development(p.passage)]
        passages = list(dict.fromkeys(p.passage for p in pairs))
        row_of = {passage: row for row, passage in enumerate(passages)}
        return [p.query for p in pairs], passages, [row_of[p.passage] for p in pairs]

    def kind_queries(self, count: int) -> list[KindQuery]:
        """`count` queries, whose texts come from each kind equally often, as do the kinds wanted."""
        titles = [query for query, _ in self.page_queries if query in {_title(page.text) for page in self.pages}]
        texts: dict[Kind, list[str]] = {
            "page": list(dict.fromkeys(titles)),
            "image": [photo.captions[0] for photo in self.photos],
            "clip": list(dict.fromkeys(self.clip_texts)),
        }
        return kind_queries(texts, count)


def translated_captions(data: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(name of a Flickr8k photo, its caption by language) from Multi30k; several captions of one photo follow in file order."""
    import zstandard

    file = data / "text" / "captions_multi30k.jsonl.zst"
    with file.open("rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed) as stream:
        for line in io.TextIOWrapper(stream, "utf-8"):
            row = json.loads(line)
            if row["photo"]:
                yield row["orig"], {language: row[language] for language in CAPTION_LANGUAGES}


def moving_clips(photos: int, *, seed: int = 11) -> list[MovingClip]:
    """Clips over photos 0…`photos` - 1, each photo in one clip: two clips of a single photo, then one that cuts to a second photo."""
    rows = list(range(photos))
    random.Random(seed).shuffle(rows)
    clips: list[MovingClip] = []
    while rows:
        shots = 2 if len(clips) % 3 == 2 else 1
        clips.append(MovingClip(tuple(rows[:shots])))
        rows = rows[shots:]
    return clips


def page_queries(pages: Sequence[PageRecord], *, seed: int = 5) -> list[tuple[str, int]]:
    """(query, row of its page): the title line where it is unique in the pool, and a passage of 6 to 10 words of the body."""
    rng = random.Random(seed)
    titles = [_title(page.text) for page in pages]
    counts = Counter(titles)
    queries = []
    for row, page in enumerate(pages):
        if titles[row] and counts[titles[row]] == 1:
            queries.append((titles[row], row))
        words = " ".join(page.text.split("\n")[1:]).split()
        if len(words) >= 30:
            count = rng.randint(6, 10)
            start = rng.randrange(len(words) - count)
            queries.append((" ".join(words[start : start + count]), row))
    return queries


def kind_queries(texts: dict[Kind, list[str]], count: int, *, seed: int = 7) -> list[KindQuery]:
    """`count` different (text, kind wanted), or as many as there are, a third of them from each kind's texts (the first kinds take what is left over)."""
    rng = random.Random(seed)
    queries = []
    for place, of in enumerate(KINDS):
        both = [KindQuery(text, of, wanted) for text in texts[of] for wanted in KINDS]
        queries += rng.sample(both, min(len(both), count // len(KINDS) + (place < count % len(KINDS))))
    return queries


def composed_queries(
    captions: Sequence[tuple[str, int]],
    similarity: Rows,
    *,
    least: float = COMPOSED_SIMILARITY,
    per_photo: int = COMPOSED_PER_PHOTO,
) -> list[ComposedQuery]:
    """Pairs of photos that differ in one thing, by their captions, and the words for that difference.

    Two captions of different photos make a pair if they share at least two words, at most two are new, at most two are gone, and
    the teacher finds them alike. The photo of the first is the reference; "the same with …, without …" leads to the other.

    Args:
        captions: (caption, number of its photo). similarity: cosines [captions, captions], or what gives their rows by number.
        per_photo: pairs at most that a reference is in.
    """
    words = [
        [word for word in re.findall(r"[a-z]+", text.lower()) if word not in _LITTLE_WORDS] for text, _ in captions
    ]
    owner = np.array([photo for _, photo in captions])
    best: dict[tuple[int, int], tuple[float, str]] = {}
    for i, here in enumerate(words):
        alike = similarity[i]
        for j in np.flatnonzero((alike >= least) & (owner != owner[i])):
            there = words[j]
            new = [word for word in dict.fromkeys(there) if word not in here]
            gone = [word for word in dict.fromkeys(here) if word not in there]
            if len(set(here) & set(there)) < 2 or not 1 <= len(new) + len(gone) <= 4 or max(len(new), len(gone)) > 2:
                continue
            pair = int(owner[i]), int(owner[j])
            best[pair] = max(best.get(pair, (-1.0, "")), (float(alike[j]), change(new, gone)))
    taken: Counter[int] = Counter()
    queries = []
    for (reference, target), (_, text) in sorted(best.items(), key=lambda item: (-item[1][0], item[0])):
        if taken[reference] < per_photo:
            taken[reference] += 1
            queries.append(ComposedQuery(reference, text, target))
    return queries


def change(new: Sequence[str], gone: Sequence[str]) -> str:
    """The words of a composed query: "the same with a hat, without snow"."""
    with_, without = " and ".join(new), " and ".join(gone)
    return "the same " + ", ".join([*([f"with {with_}"] if new else []), *([f"without {without}"] if gone else [])])


def _title(text: str) -> str:
    lines = (line.strip() for line in text.split("\n"))
    first = next((line for line in lines if len(re.findall(r"[A-Za-z]{3,}", line)) >= 2), "")
    return " ".join(first.split()[:12])
