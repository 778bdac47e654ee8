"""What one training step is made of: sub-batches, each from one group of examples, each with teacher vectors as targets.

A group turns records into final prompts with pictures. To add one: a class with `name`, `bank` and `draw`, and a line in
`load_groups`.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from mmsearch.errors import DatasetError
from mmsearch.items import KINDS, Kind
from mmsearch.prompts import (
    COMPOSED_QUERY_INSTRUCTIONS,
    DOCUMENT_INSTRUCTIONS,
    IMAGE_QUERY_INSTRUCTIONS,
    TEXT_QUERY_INSTRUCTIONS,
    final_prompt,
)
from mmsearch.training.data.made_pages import render_text_page
from mmsearch.training.data.text_teacher import Teacher
from mmsearch.training.datasets.rendered_material import ClipRecord, PageRecord, load_clips, load_pages
from mmsearch.training.datasets.shared_material import PhotoRecord, data_folder, is_development, load_pairs, load_photos

PHOTO_SHARES = {"flickr8k": 0.55, "openstax": 0.13, "labelled": 0.12, "tiny_imagenet": 0.15, "charts_emoji": 0.05}
"""How often each set of photos is drawn."""
MADE_PAGES = 0.5
"""Share of pages that are rendered from passages: the pages of PDFs are few."""
LEAST_PASSAGE_WORDS = 30
SENTENCE_CHARS = 400
"""Longer captions are cut here before the teacher reads them."""


@dataclass(frozen=True, slots=True)
class SubBatch:
    """Prompts of one group with their targets.

    Attributes:
        images: pictures per prompt, already of the size that the model is to see.
        targets: float32 [n, 384], unit length.
        bank: float32 [m, 384], further targets of that group, as negatives.
        kinds: of each prompt what its instruction asks for or shows; None for a text or picture by itself. Empty: None everywhere.
    """

    group: str
    prompts: list[str]
    images: list[list[Image.Image]]
    is_video: list[bool]
    targets: np.ndarray
    bank: np.ndarray
    kinds: list[Kind | None] = field(default_factory=list)


class Group(Protocol):
    """Examples of one sort. `draw` depends on `rng` alone, so that a run can be resumed at any step."""

    name: str
    bank: np.ndarray

    def draw(self, count: int, rng: random.Random, sizes: Sequence[Sequence[int]]) -> SubBatch:
        """`count` examples; photos and frames are brought to one of `sizes` (width, height)."""
        ...


class Texts:
    """A text by itself (as a candidate) or behind an instruction (as a query) means what the teacher says it means.

    A sub-batch holds texts of two lengths, half of it each, so that little is padded; there are more of them the shorter they are.
    """

    name = "text"
    lengths_per_batch = 2
    bucket_words = (4, 8, 14, 30, 10_000)

    def __init__(self, texts: Sequence[str], teacher: Teacher, *, max_words: int = 96) -> None:
        self.texts = texts
        self.bank = teacher.vectors(texts)
        self.max_words = max_words
        words = [min(max_words, len(text.split())) for text in texts]
        edges = (0, *self.bucket_words)
        self.buckets = [
            [i for i, count in enumerate(words) if low < count <= high] for low, high in itertools.pairwise(edges)
        ]
        self.mean_words = [sum(words[i] for i in bucket) / max(1, len(bucket)) for bucket in self.buckets]

    def draw(self, count: int, rng: random.Random, sizes: Sequence[Sequence[int]]) -> SubBatch:
        shares = [len(bucket) ** 0.5 for bucket in self.buckets]
        rows: list[int] = []
        for number in rng.choices(range(len(self.buckets)), shares, k=self.lengths_per_batch):
            wanted = (
                max(count / 4, min(2 * count, count * 20 / (self.mean_words[number] + 10))) / self.lengths_per_batch
            )
            taken = set(rows)
            left = [row for row in self.buckets[number] if row not in taken] if taken else self.buckets[number]
            rows += rng.sample(left, min(max(1, int(wanted)), len(left)))
        prompts: list[str] = []
        kinds: list[Kind | None] = []
        for row in rows:
            kind: Kind | None = None
            text = " ".join(self.texts[row].split()[: self.max_words])
            dice = rng.random()
            if dice < 0.4:
                prompts.append(text)
            elif len(text) > SENTENCE_CHARS // 2:
                kind = "page"
                prompts.append(final_prompt(DOCUMENT_INSTRUCTIONS[kind], text))
            else:
                kind = rng.choices(KINDS, (5, 3, 2))[0]
                prompts.append(final_prompt(TEXT_QUERY_INSTRUCTIONS[kind], text))
            kinds.append(kind)
        return _sub_batch(self, prompts, [[] for _ in rows], rows, kinds, rng)


class Photos:
    """A photo means what its captions or its label say, in shares that are drawn again each time.

    Args:
        blended: share of photos that are blended with another one, and mean both in the same shares (mixup, Zhang et al. 2018): a tower
            that sees a few thousand photos over and over learns them by heart otherwise.
        composed: share of photos that come with the words of another one as a composed query, and mean both.
    """

    def __init__(
        self,
        photos: Sequence[PhotoRecord],
        teacher: Teacher,
        *,
        name: str = "photo",
        blended: float = 0.0,
        composed: float = 0.1,
    ) -> None:
        self.name = name
        self.composed = composed
        self.photos = [photo for photo in photos if photo_texts(photo)]
        self.blended = blended
        self.said = [teacher.vectors(photo_texts(photo)) for photo in self.photos]
        self.bank = _unit(np.stack([vectors.mean(0) for vectors in self.said]))
        self.by_set = {name: [i for i, p in enumerate(self.photos) if p.set_name == name] for name in PHOTO_SHARES}

    def draw(self, count: int, rng: random.Random, sizes: Sequence[Sequence[int]]) -> SubBatch:
        names = rng.choices(list(PHOTO_SHARES), list(PHOTO_SHARES.values()), k=count)
        rows = [rng.choice(self.by_set[name]) for name in names]
        size = _size(sizes, rng)
        images = [[augment(self.photos[row].member.image(), size, rng)] for row in rows]
        batch = _sub_batch(self, [], images, rows, [], rng)
        batch.targets[:] = [self._meaning(row, rng) for row in rows]
        self._blend(batch, rng)
        for i in range(len(rows)):
            dice = rng.random()
            kind = rng.choice(KINDS)
            if dice < 0.78:
                kind = "image"
                prompt = final_prompt(DOCUMENT_INSTRUCTIONS[kind], image_count=1)
            elif dice < 1 - self.composed:
                prompt = final_prompt(IMAGE_QUERY_INSTRUCTIONS[kind], image_count=1)
            else:
                other = rng.choice(self.by_set["flickr8k"])
                text = rng.choice(photo_texts(self.photos[other]))
                prompt = final_prompt(COMPOSED_QUERY_INSTRUCTIONS[kind], text, image_count=1)
                batch.targets[i] = _unit(batch.targets[i] + self.bank[other])
            batch.prompts.append(prompt)
            batch.kinds.append(kind)
        return batch

    def _meaning(self, row: int, rng: random.Random) -> np.ndarray:
        """float32 [384]: its texts in random shares."""
        shares = np.array([rng.expovariate(1.0) for _ in self.said[row]], np.float32)
        return _unit(shares @ self.said[row])

    def _blend(self, batch: SubBatch, rng: random.Random) -> None:
        partners = list(range(len(batch.images)))
        rng.shuffle(partners)
        before = [shown[0] for shown in batch.images]
        meant = batch.targets.copy()
        for i, partner in enumerate(partners):
            if rng.random() < self.blended:
                share = rng.uniform(0.5, 1.0)
                batch.images[i][0] = Image.blend(before[partner], before[i], share)
                batch.targets[i] = _unit(share * meant[i] + (1 - share) * meant[partner])


class Pages:
    """A page means what the teacher reads in its text layer, whether the model is given that text or only the picture."""

    name = "page"

    def __init__(
        self, pages: Sequence[PageRecord], passages: Sequence[tuple[str, str]], teacher: Teacher, *, max_pixels: int
    ) -> None:
        self.pages = pages
        self.passages = passages
        self.max_pixels = max_pixels
        texts = [page_text(page.text) for page in pages]
        texts += [f"{title}. {body}" if title else body for title, body in passages]
        self.texts = texts
        self.bank = teacher.vectors(texts)

    def draw(self, count: int, rng: random.Random, sizes: Sequence[Sequence[int]]) -> SubBatch:
        rows, images, prompts = [], [], []
        for _ in range(count):
            made = self.passages and rng.random() < MADE_PAGES
            row = len(self.pages) + rng.randrange(len(self.passages)) if made else rng.randrange(len(self.pages))
            if made:
                title, body = self.passages[row - len(self.pages)]
                image = render_text_page(title, body, rng, max_pixels=self.max_pixels)
            else:
                image = self.pages[row].member.image()
            text = "" if rng.random() < 0.15 else " ".join(self.texts[row].split()[:96])
            rows.append(row)
            images.append([image])
            prompts.append(final_prompt(DOCUMENT_INSTRUCTIONS["page"], text, image_count=1))
        return _sub_batch(self, prompts, images, rows, ["page"] * count, rng)


class Clips:
    """A clip means its caption and label; clips are also made from photos by panning and zooming."""

    name = "clip"

    def __init__(self, clips: Sequence[ClipRecord], photos: Photos, teacher: Teacher) -> None:
        self.clips = clips
        self.photos = photos
        self.bank = _unit(np.stack([teacher.vectors(clip_texts(clip)).mean(0) for clip in clips]))

    def draw(self, count: int, rng: random.Random, sizes: Sequence[Sequence[int]]) -> SubBatch:
        size = _size(sizes, rng)
        rows = [rng.randrange(len(self.clips)) for _ in range(count)]
        prompts = [final_prompt(DOCUMENT_INSTRUCTIONS["clip"], is_video=True)] * count
        images = []
        for row in rows:
            box = _crop_box(rng)
            images.append([_cut(frame, box, size) for frame in self.clips[row].frames()])
        batch = _sub_batch(self, prompts, images, rows, ["clip"] * count, rng, is_video=True)
        for i in range(count):
            if rng.random() < 0.4:
                photo = rng.choice(self.photos.by_set["flickr8k"])
                images[i][:] = camera_move(self.photos.photos[photo].member.image(), size, rng)
                batch.targets[i] = self.photos.bank[photo]
        return batch


def photo_texts(photo: PhotoRecord) -> list[str]:
    """What is said of a photo, as the teacher is to read it."""
    if photo.set_name == "flickr8k":
        return list(photo.captions)
    if photo.captions and photo.set_name == "openstax":
        return [photo.captions[0][:SENTENCE_CHARS]]
    return [text for text in (photo.label, photo.coarse) if text]


def clip_texts(clip: ClipRecord) -> list[str]:
    """What is said of a clip."""
    return [text for text in (*clip.captions, clip.label) if text]


def page_text(text: str) -> str:
    """A text layer on one line."""
    return " ".join(text.split())


def augment(image: Image.Image, size: tuple[int, int], rng: random.Random) -> Image.Image:
    """A random crop of a third of the area or more, a little stretched, mirrored half of the time, in other light; `size` is (width, height)."""
    area, stretch = rng.uniform(0.35, 1.0), math.exp(rng.uniform(-0.25, 0.25))
    width, height = min(1.0, math.sqrt(area * stretch)), min(1.0, math.sqrt(area / stretch))
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    cut = _cut(image, (left, top, left + width, top + height), size, Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    contrast, brightness = rng.uniform(0.7, 1.3), rng.uniform(-25, 25)
    shifts = [128 + brightness + rng.uniform(-12, 12) for _ in range(3)]
    table = [min(255, max(0, round((value - 128) * contrast + shift))) for shift in shifts for value in range(256)]
    return cut.point(table)


def camera_move(image: Image.Image, size: tuple[int, int], rng: random.Random, *, frames: int = 8) -> list[Image.Image]:
    """A clip from a photo: the camera pans and zooms from one random crop to another."""
    first, last = _crop_box(rng), _crop_box(rng)
    steps = [i / (frames - 1) for i in range(frames)]
    return [_cut(image, tuple(a + (b - a) * t for a, b in zip(first, last, strict=True)), size) for t in steps]


def load_groups(recipe: dict[str, Any], work: Path, teacher: Teacher, data: Path | None = None) -> dict[str, Group]:
    """The groups of a recipe's mixtures by name, over the training split of the material.

    Of a recipe's `groups`: `photo: {blended: share}`; `text: {queries: n, passages: n}`, how many of the text pairs' the teacher reads at least
    (hours for all of them; read once, kept in `work`).
    """
    data = data_folder(data)
    records = load_photos(data)
    unseen = {caption for record in records if record.development for caption in record.captions}
    blended = recipe.get("groups", {}).get("photo", {}).get("blended", 0.0)
    seen = [p for p in records if not p.development]
    photos = Photos(seen, teacher, blended=blended)
    pages = [p for p in load_pages(data, work) if not p.development and len(p.text.split()) >= 5]
    clips = [c for c in load_clips(data, work) if not c.development]
    pairs = [p for p in load_pairs(data) if not is_development(p.passage)]
    read = recipe.get("groups", {}).get("text", {})
    let_read((p.query for p in pairs), read.get("queries", 0), teacher)
    let_read((p.passage for p in pairs), read.get("passages", 0), teacher)
    known = [p for p in pairs if p.query in teacher]
    texts = {t: None for photo in photos.photos for t in photo_texts(photo)}
    texts |= {p.query: None for p in known} | {p.passage: None for p in pairs if p.passage in teacher}
    texts |= {page_text(page.text): None for page in pages}
    texts = {text: None for text in texts if text not in unseen}
    passages = [(p.query, p.passage) for p in pairs if f"{p.query}. {p.passage}" in teacher]
    long = {p.passage: None for p in pairs if len(p.passage.split()) >= LEAST_PASSAGE_WORDS and p.passage in teacher}
    passages += [("", passage) for passage in long]
    made: dict[str, Callable[[], Group]] = {
        "text": lambda: Texts(list(texts), teacher),
        "photo": lambda: photos,
        "photo_alone": lambda: Photos(seen, teacher, name="photo_alone", blended=blended, composed=0.0),
        "page": lambda: Pages(pages, passages, teacher, max_pixels=recipe["max_pixels"]["page"]),
        "clip": lambda: Clips(clips, photos, teacher),
    }
    needed = list(dict.fromkeys(name for stage in recipe["stages"] for name in stage["mixture"]))
    if unknown := set(needed) - set(made):
        raise DatasetError(f"unknown groups in the mixture: {', '.join(sorted(unknown))}; known: {', '.join(made)}")
    return {name: made[name]() for name in needed}


def let_read(texts: Iterable[str], count: int, teacher: Teacher) -> None:
    """Let the teacher read on until it knows `count` of `texts`; what it knows already counts, and which come next depends on them alone."""
    every = dict.fromkeys(texts)
    unknown = [text for text in every if text not in teacher]
    lacking = count - (len(every) - len(unknown))
    if lacking > 0:
        teacher.learn(sorted(unknown, key=lambda text: hashlib.sha1(text.encode()).digest())[:lacking])


def _sub_batch(
    group: Group,
    prompts: list[str],
    images: list[list[Image.Image]],
    rows: list[int],
    kinds: list[Kind | None],
    rng: random.Random,
    *,
    is_video: bool = False,
    bank_size: int = 6000,
) -> SubBatch:
    bank = group.bank
    if len(bank) > bank_size:
        bank = bank[rng.sample(range(len(bank)), bank_size)]
    return SubBatch(group.name, prompts, images, [is_video] * len(rows), group.bank[rows].copy(), bank, kinds)


def _size(sizes: Sequence[Sequence[int]], rng: random.Random) -> tuple[int, int]:
    width, height = rng.choice(sizes)
    return width, height


def _crop_box(rng: random.Random) -> tuple[float, float, float, float]:
    side = rng.uniform(0.78, 1.0)
    left, top = rng.uniform(0, 1 - side), rng.uniform(0, 1 - side)
    return left, top, left + side, top + side


def _cut(
    image: Image.Image,
    box: tuple[float, ...],
    size: tuple[int, int],
    filter: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """`box` is relative (left, top, right, bottom)."""
    w, h = image.size
    pixels = (box[0] * w, box[1] * h, box[2] * w, box[3] * h)
    return image.resize(size, filter, box=pixels)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
