"""The material of `../shared/data` as pairs: photos and captions, pages and their passages, texts, clips."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from mmsearch.errors import ConfigError
from mmsearch.items import Kind
from mmsearch.prompts import DOCUMENT_INSTRUCTIONS, PHOTO_TO_TEXT_INSTRUCTION, TEXT_QUERY_INSTRUCTIONS, final_prompt
from mmsearch.training.datasets import fields
from mmsearch.training.datasets.places import Places
from mmsearch.training.datasets.rows import ROWS_PER_BATCH, Rows, Table, write_arrow
from mmsearch.training.datasets.source import RowSource
from mmsearch.training.pairs import MadePicture, Pair, Picture, Side, TarPicture
from mmsearch.training.prepare import FRAMES, ClipRecord, load_clips, load_pages
from mmsearch.training.sources import data_folder, is_development, load_pairs, load_photos

PASSAGE_WORDS = 40
"""A page's text is cut into passages of so many words."""
LEAST_PASSAGE_WORDS = 5
MODES = (
    "caption_photo", "photo_caption", "passage_page", "page_passage", "caption_clip", "clip_caption", "text_pairs",
)  # fmt: skip
"""Query and target: `caption_photo` finds a photo by its caption."""


@dataclass(frozen=True, slots=True)
class Described:
    """Pictures and one text about them; equal groups are each right for the other's text."""

    name: str
    text: str
    pictures: tuple[Picture, ...]
    group: str


@dataclass(frozen=True)
class DescribedRows:
    """Records in memory as rows."""

    records: list[Described]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"record": self.records[index]}

    def name_of(self, index: int) -> str:
        return self.records[index].name


def open_ours(spec: Mapping[str, Any], places: Places) -> RowSource:
    """Fields: `data_mode` (one of `MODES`), `dataset_path` (the folder; by default ../shared/data), `work` (rendered pages
    and frames; needed for pages and clips, made on first use), `dataset_split` ("train" or "development"), `sets` (of
    photos or of text pairs: only these).
    """
    fields.check_spec(spec, {"data_mode", "dataset_path", "work", "dataset_split", "sets"}, required=("data_mode",))
    mode = fields.choice(spec, "data_mode", MODES)
    split = fields.choice(spec, "dataset_split", ("train", "development"))
    data = data_folder(places.local(spec["dataset_path"]) if spec.get("dataset_path") else None)
    sets = spec.get("sets") or []
    if not isinstance(sets, list) or not all(isinstance(name, str) for name in sets):
        raise ConfigError(f"sets is {sets!r}, not a list of names")
    if mode == "text_pairs":
        return TextPairs(spec, pairs_table(data, sets, split, places.cache_folder()))
    if "photo" in mode:
        records = _photos(data, sets)
    else:
        if not spec.get("work"):
            raise ConfigError(f"data_mode {mode} needs `work`: a folder for rendered pages and frames")
        records = (_pages if "page" in mode else _clips)(data, places.local(spec["work"]))
    wanted = [made for development, made in records if development == (split == "development")]
    return DescribedPairs(spec, DescribedRows(wanted), mode)


class DescribedPairs(RowSource):
    """A text and its pictures, in either direction."""

    def __init__(self, spec: Mapping[str, Any], rows: DescribedRows, mode: str) -> None:
        super().__init__(spec, rows, default_name=mode)
        self.kind: Kind = "image" if "photo" in mode else "page" if "page" in mode else "clip"
        self.text_is_query = mode in ("caption_photo", "passage_page", "caption_clip")

    def read(self, row: dict[str, Any], key: str) -> Pair:
        record: Described = row["record"]
        is_video = self.kind == "clip"
        images = 0 if is_video else len(record.pictures)
        text = fields.text({"text": record.text}, "text")
        shown = DOCUMENT_INSTRUCTIONS[self.kind]
        if self.text_is_query:
            query = Side(final_prompt(TEXT_QUERY_INSTRUCTIONS[self.kind], text))
            target = Side(final_prompt(shown, image_count=images, is_video=is_video), record.pictures, is_video)
        else:
            asks = PHOTO_TO_TEXT_INSTRUCTION if self.kind == "image" else shown
            query = Side(final_prompt(asks, image_count=images, is_video=is_video), record.pictures, is_video)
            target = Side(text)
        return Pair(query, target, target_key=record.group)


class TextPairs(RowSource):
    """Query and passage, both without instruction."""

    def __init__(self, spec: Mapping[str, Any], rows: Rows) -> None:
        super().__init__(spec, rows, default_name="text_pairs")

    def read(self, row: dict[str, Any], key: str) -> Pair:
        return Pair(Side(fields.text(row, "query")), Side(fields.text(row, "passage")))


def _photos(data: Path, sets: list[str]) -> Iterator[tuple[bool, Described]]:
    """A record per caption; a photo without captions is described by its label, as others with that label are."""
    for photo in load_photos(data):
        if sets and photo.set_name not in sets:
            continue
        picture = (TarPicture(photo.member, photo.name),)
        label = photo.label or photo.coarse
        for number, text in enumerate(photo.captions or ((label,) if label else ())):
            group = photo.name if photo.captions else f"label {label}"
            yield photo.development, Described(f"{photo.set_name}/{photo.name} text {number}", text, picture, group)


def _pages(data: Path, work: Path) -> Iterator[tuple[bool, Described]]:
    """A record per passage."""
    for page in load_pages(data, work):
        words, name = page.text.split(), f"{page.name} page {page.page_number}"
        picture = (TarPicture(page.member, name),)
        for start in range(0, len(words), PASSAGE_WORDS):
            passage = words[start : start + PASSAGE_WORDS]
            if len(passage) >= LEAST_PASSAGE_WORDS:
                text = " ".join(passage)
                yield page.development, Described(f"{name} word {start}", text, picture, name)


def _clips(data: Path, work: Path) -> Iterator[tuple[bool, Described]]:
    """A record per caption; clips that share one are each right for it."""
    for clip in load_clips(data, work):
        identity = f"{clip.member.tar}@{clip.member.offset}"
        frames = tuple(MadePicture(strip_frame, (clip, i), f"{identity}#{i}") for i in range(FRAMES))
        for number, text in enumerate(clip.captions or ((clip.label,) if clip.label else ())):
            group = clip.name if clip.captions else f"label {clip.label}"
            yield clip.development, Described(f"{clip.name} text {number}", text, frames, group)


def strip_frame(clip: ClipRecord, number: int) -> Image.Image:
    """One of the eight frames that `prepare.load_clips` stored side by side."""
    return _strip(clip)[number]


@lru_cache(maxsize=2)  # the frames of a clip are opened one after the other
def _strip(clip: ClipRecord) -> list[Image.Image]:
    return clip.frames()


def pairs_table(data: Path, sets: list[str], split: str, cache: Path) -> Table:
    """The text pairs of a split, as a table that all processes share; written on first use."""
    import pyarrow as pa

    files = sorted((data / "text").glob("pairs_*.jsonl.zst"))
    marks = [f"{file.resolve()}|{file.stat().st_size}|{file.stat().st_mtime_ns}" for file in files]
    digest = hashlib.sha1("|".join([*marks, *sorted(sets), split]).encode()).hexdigest()[:16]
    copy = cache / f"text_pairs-{digest}.arrow"
    if not copy.exists():
        schema = pa.schema([("query", pa.string()), ("passage", pa.string())])
        write_arrow(copy, schema, _pair_batches(data, sets, split, schema))
    return Table.of_copy(copy, "text_pairs")


def _pair_batches(data: Path, sets: list[str], split: str, schema: Any) -> Iterator[Any]:
    import pyarrow as pa

    batch: dict[str, list[str]] = {"query": [], "passage": []}
    for pair in load_pairs(data, *sets):
        if is_development(pair.passage) != (split == "development"):
            continue
        batch["query"].append(pair.query)
        batch["passage"].append(pair.passage)
        if len(batch["query"]) == 64 * ROWS_PER_BATCH:
            yield pa.RecordBatch.from_pydict(batch, schema=schema)
            batch = {"query": [], "passage": []}
    if batch["query"]:
        yield pa.RecordBatch.from_pydict(batch, schema=schema)
