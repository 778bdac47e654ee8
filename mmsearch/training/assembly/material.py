"""What the stages learn from: pictures with everything that is said of them, and pairs of texts. Nothing of the development split."""

from __future__ import annotations

import io
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import zstandard

from mmsearch.ranking.terms import STOP_WORDS
from mmsearch.training.datasets.rendered_material import ClipRecord, PageRecord, load_clips, load_pages
from mmsearch.training.datasets.shared_material import PhotoRecord, is_development, load_pairs, load_photos

TRANSLATIONS = ("de", "fr", "cs")
WRITTEN = Path(__file__).with_name("written.jsonl.zst")
"""Queries in eight languages with the passages that answer them, written for this project (by language models, from nothing but a brief)."""
WRITTEN_LANGUAGES = ("de", "fr", "es", "it", "pt", "pl", "zh")
CAPTION_CHARS = 300
IMAGENET = "imagenet"
"""In the `source` of the records that show one picture of each of ImageNet's classes."""
Pair = tuple[str, str]


@dataclass(frozen=True)
class Said:
    """What is said of a picture: `language` is "en", "de", "fr", "cs", or "label" for a name; `row` is the text's number."""

    language: str
    row: int


class Material:
    """Every picture and pair of the training data.

    Attributes:
        data: the material's folder. work: what was prepared from it (pages, frames).
    """

    def __init__(self, data: Path, work: Path) -> None:
        self.data = data
        self.work = work

    @cached_property
    def photos(self) -> list[PhotoRecord]:
        return load_photos(self.data)

    @cached_property
    def pages(self) -> list[PageRecord]:
        return load_pages(self.data, self.work)

    @cached_property
    def clips(self) -> list[ClipRecord]:
        return load_clips(self.data, self.work)

    @cached_property
    def said(self) -> SaidOfPictures:
        return SaidOfPictures(self)

    @cached_property
    def class_labels(self) -> list[str]:
        """Names of ImageNet's classes in the order of the classifiers that know them: that of their WordNet numbers."""
        file = self.data / "photos" / "labelled-00.jsonl"
        rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
        of_class = {Path(row["orig"]).name.split("_")[0]: row["label"] for row in rows if IMAGENET in row["source"]}
        return [label_text(of_class[number]) for number in sorted(of_class)]

    @cached_property
    def translations(self) -> list[dict]:
        """Rows of Multi30k."""
        return _json_lines(self.data / "text" / "captions_multi30k.jsonl.zst")

    @cached_property
    def written(self) -> list[dict]:
        """Rows of `WRITTEN`: `passage`, `style`, and the query under each language's code."""
        return _json_lines(WRITTEN)


def _json_lines(file: Path) -> list[dict]:
    with file.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
        return [json.loads(line) for line in io.TextIOWrapper(stream, "utf-8")]


class SaidOfPictures:
    """Texts of all photos and clips, each once.

    Attributes:
        texts: by row. photos, clips: per record what is said of it, development records included (for measuring).
    """

    def __init__(self, material: Material) -> None:
        self._rows: dict[str, int] = {}
        translated: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for row in material.translations:
            own = [(language, row[language]) for language in TRANSLATIONS if row.get(language)]
            translated[row["orig"]] += own + [("de", text) for text in row.get("de_own", [])[:2]]
        self.photos = [self._of_photo(photo, translated[photo.name]) for photo in material.photos]
        self.clips = [[Said("en", self._row(text)) for text in _clip_texts(clip)] for clip in material.clips]
        self.texts = list(self._rows)

    def _of_photo(self, photo: PhotoRecord, translated: Sequence[tuple[str, str]]) -> list[Said]:
        if photo.set_name == "flickr8k":
            told = [("en", caption) for caption in photo.captions] + list(translated)
        else:
            label = label_text(photo.label)
            told = [("en", caption) for caption in photo.captions[:3]]
            told += [("label", photo_of(label)), ("label", label)] if label else []
            told += [("label", photo.description)] if photo.description else []
        return [Said(language, self._row(text)) for language, text in told]

    def _row(self, text: str) -> int:
        return self._rows.setdefault(" ".join(text.split())[:CAPTION_CHARS], len(self._rows))


def label_text(label: str) -> str:
    """A label as it is read."""
    return " ".join(label.replace("_", " ").split())


def photo_of(label: str) -> str:
    """A label as a caption."""
    return f"a photo of {label}"


def _clip_texts(clip: ClipRecord) -> list[str]:
    return [text for text in (*clip.captions[:4], clip.label.replace("_", " ")) if text]


class PairSources:
    """Pairs of texts that belong together, by source: "page" is made from pages, "multi30k" from translations, "written" was written for this, the
    rest is read."""

    def __init__(self, material: Material, rng: random.Random) -> None:
        self._rng = rng
        self._pages = [page for page in material.pages if not page.development and len(page.text.split()) >= 12]
        held_out = {caption for photo in material.photos if photo.development for caption in photo.captions}
        self._pairs: dict[str, list[Pair]] = defaultdict(list)
        for name, query, passage in _read_pairs(material.data, held_out):
            self._pairs[name].append((query, passage))
        for row in material.translations:
            if not is_development(row["orig"]):
                self._pairs["multi30k"] += [(row["en"], row[code]) for code in TRANSLATIONS if row.get(code)]

        self._pairs["written"] = [(row["en"], row["passage"]) for row in material.written]

    def draw(self, name: str, count: int) -> list[Pair]:
        """`count` pairs of one source. Raises: KeyError: no such source."""
        if name == "page":
            return [self._page_pair() for _ in range(count)]
        if name not in self._pairs:
            raise KeyError(name)
        pairs = [self._rng.choice(self._pairs[name]) for _ in range(count)]
        if name != "multi30k":
            return pairs
        return [pair if self._rng.random() < 0.5 else (pair[1], pair[0]) for pair in pairs]

    def _page_pair(self) -> Pair:
        """A page and its title, a passage of it (half of the time taken out of the page), or some of its rarer words."""
        rng, page = self._rng, self._rng.choice(self._pages)
        words = page.text.split()
        which = rng.random()
        if which < 0.3 and (title := first_title(page.text)):
            return title, " ".join(words)
        count = rng.randint(4, 12)
        start = rng.randrange(max(1, len(words) - count))
        passage = " ".join(words[start : start + count])
        if which < 0.65:
            rest = words if rng.random() < 0.5 else words[:start] + words[start + count :]
            return passage, " ".join(rest)
        content = [word for word in words if len(word) > 3 and word.lower() not in STOP_WORDS]
        chosen = rng.sample(content, min(len(content), rng.randint(2, 5)))
        return " ".join(chosen) or passage, " ".join(words)


def _read_pairs(data: Path, held_out: set[str]) -> Iterator[tuple[str, str, str]]:
    """(source, query, passage) of the text pairs, without what belongs to the development split."""
    for pair in load_pairs(data):
        if pair.set_name == "squad_dev" and is_development(pair.passage):
            continue
        if pair.set_name == "flickr8k_captions" and {pair.query, pair.passage} & held_out:
            continue
        if pair.set_name == "sts_sick" and (pair.score or 0) < 4:
            continue
        name = f"openstax/{pair.type}" if pair.set_name == "openstax" else pair.set_name
        yield name, pair.query, pair.passage


def first_title(text: str) -> str:
    """The first line with two words of three letters, twelve words of it at most; "" if there is none."""
    lines = (line.strip() for line in text.split("\n"))
    found = next((line for line in lines if len(re.findall(r"[^\W\d]{3,}", line)) >= 2), "")
    return " ".join(found.split()[:12])
