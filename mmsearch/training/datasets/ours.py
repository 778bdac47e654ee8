"""The material of `../shared/data` as pairs: photos and captions, pages and their passages, texts, clips."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from mmsearch.errors import ConfigError
from mmsearch.items import Kind
from mmsearch.prompts import DOCUMENT_INSTRUCTIONS, PHOTO_TO_TEXT_INSTRUCTION, TEXT_QUERY_INSTRUCTIONS, final_prompt
from mmsearch.training.datasets import record_fields
from mmsearch.training.datasets.dataset_folders import DatasetFolders
from mmsearch.training.datasets.pairs import MadePicture, Pair, Picture, Side, TarPicture
from mmsearch.training.datasets.rendered_material import FRAMES, ClipRecord, load_clips, load_pages
from mmsearch.training.datasets.row_source import RowSource
from mmsearch.training.datasets.rows import Rows, Table, write_arrow
from mmsearch.training.datasets.shared_material import TarMember, data_folder, is_development, load_pairs, load_photos

PASSAGE_WORDS = 40
"""A page's text is cut into passages of so many words."""
LEAST_PASSAGE_WORDS = 5
ROWS_PER_ARROW_BATCH = 4096
MODES = (
    "caption_photo", "photo_caption", "passage_page", "page_passage", "caption_clip", "clip_caption", "text_pairs",
    "cloze",
)  # fmt: skip
"""Query and target: `caption_photo` finds a photo by its caption; `cloze` finds a page's or a passage's text by its title or some words of it."""
CLOZES_PER_TEXT = 4
CLOZE_TEXT_WORDS = 100
"""Of a longer text only so many are read: what a model with 128 tokens per page sees."""
LEAST_CLOZE_TEXT_WORDS = 30
CLOZE_SETS = ("arxiv", "openstax", "medquad", "squad_dev")
"""Text pairs whose passages are long enough to be looked for."""


@dataclass(frozen=True, slots=True)
class Described:
    """A text, and where the pictures lie that it is about: a photo, a page, or the frames of a clip side by side.

    Attributes:
        group: of records that are each right for the other's text.
    """

    name: str
    text: str
    group: str
    member: TarMember


def open_ours(spec: Mapping[str, Any], folders: DatasetFolders) -> RowSource:
    """Fields: `data_mode` (one of `MODES`), `dataset_path` (the folder; by default ../shared/data), `work` (rendered pages
    and frames; needed for pages and clips, made on first use), `dataset_split` ("train" or "development"), `sets` (of
    photos or of text pairs, and for clozes "pages": only these).
    """
    record_fields.check_spec(
        spec, {"data_mode", "dataset_path", "work", "dataset_split", "sets"}, required=("data_mode",)
    )
    mode = record_fields.choice(spec, "data_mode", MODES)
    split = record_fields.choice(spec, "dataset_split", ("train", "development"))
    data = data_folder(folders.local(spec["dataset_path"]) if spec.get("dataset_path") else None)
    sets = spec.get("sets") or []
    if not isinstance(sets, list) or not all(isinstance(name, str) for name in sets):
        raise ConfigError(f"sets is {sets!r}, not a list of names")
    cache = folders.cache_folder()
    if mode == "text_pairs":
        files = sorted((data / "text").glob("pairs_*.jsonl.zst"))
        return TextPairs(
            spec, _table(cache, "text_pairs", files, [*sorted(sets), split], partial(_pairs, data, sets, split))
        )
    if mode == "cloze":
        if not spec.get("work"):
            raise ConfigError("data_mode cloze needs `work`: a folder for rendered pages")
        work = folders.local(spec["work"])
        if not (work / "pages.jsonl").exists():
            load_pages(data, work)
        files = [work / "pages.jsonl", *sorted((data / "text").glob("pairs_*.jsonl.zst"))]
        return ClozePairs(
            spec, _table(cache, "cloze", files, [*sorted(sets), split], partial(_clozes, data, work, sets, split))
        )
    if "photo" in mode:
        kind, files = "photo", sorted((data / "photos").glob("*.*"))
        records = partial(_photos, data, sets)
    else:
        if not spec.get("work"):
            raise ConfigError(f"data_mode {mode} needs `work`: a folder for rendered pages and frames")
        work = folders.local(spec["work"])
        kind = "page" if "page" in mode else "clip"
        made = work / ("pages.jsonl" if kind == "page" else "frames.tar")
        load = load_pages if kind == "page" else load_clips
        if not made.exists():
            load(data, work)
        files = [made, *sorted((data / "video").glob("*.jsonl"))]
        records = partial(_pages if kind == "page" else _clips, data, work)
    rows = partial(_described, records, is_development_wanted=split == "development")
    return DescribedPairs(spec, _table(cache, f"{kind}s", files, [*sorted(sets), split], rows), mode)


class DescribedPairs(RowSource):
    """A text and its pictures, in either direction."""

    def __init__(self, spec: Mapping[str, Any], rows: Rows, mode: str) -> None:
        super().__init__(spec, rows, default_name=mode)
        self.kind: Kind = "image" if "photo" in mode else "page" if "page" in mode else "clip"
        self.text_is_query = mode in ("caption_photo", "passage_page", "caption_clip")

    def read(self, row: dict[str, Any], key: str) -> Pair:
        text, member = record_fields.text(row, "text"), TarMember(Path(row["tar"]), row["offset"], row["size"])
        pictures: tuple[Picture, ...] = (TarPicture(member, row["name"]),)
        is_video = self.kind == "clip"
        if is_video:
            pictures = tuple(MadePicture(strip_frame, (member, i), f"{member}#{i}") for i in range(FRAMES))
        shown = DOCUMENT_INSTRUCTIONS[self.kind]
        if self.text_is_query:
            query = Side(final_prompt(TEXT_QUERY_INSTRUCTIONS[self.kind], text))
            target = Side(final_prompt(shown, image_count=not is_video, is_video=is_video), pictures, is_video)
        else:
            asks = PHOTO_TO_TEXT_INSTRUCTION if self.kind == "image" else shown
            query = Side(final_prompt(asks, image_count=not is_video, is_video=is_video), pictures, is_video)
            target = Side(text)
        return Pair(query, target, target_key=row["group"])


class TextPairs(RowSource):
    """Query and passage, both without instruction."""

    def __init__(self, spec: Mapping[str, Any], rows: Rows) -> None:
        super().__init__(spec, rows, default_name="text_pairs")

    def read(self, row: dict[str, Any], key: str) -> Pair:
        return Pair(Side(record_fields.text(row, "query")), Side(record_fields.text(row, "passage")))


class ClozePairs(RowSource):
    """A title or a few words as a page's query, and the text that they are of as a page's text, without its picture."""

    def __init__(self, spec: Mapping[str, Any], rows: Rows) -> None:
        super().__init__(spec, rows, default_name="cloze")

    def read(self, row: dict[str, Any], key: str) -> Pair:
        query = final_prompt(TEXT_QUERY_INSTRUCTIONS["page"], record_fields.text(row, "query"))
        passage = record_fields.text(row, "passage")
        return Pair(Side(query), Side(final_prompt(DOCUMENT_INSTRUCTIONS["page"], passage)), target_key=passage)


def _photos(data: Path, sets: list[str]) -> Iterator[tuple[bool, Described]]:
    """A record per caption; a photo without captions is described by its label, as others with that label are."""
    for photo in load_photos(data):
        if sets and photo.set_name not in sets:
            continue
        label = photo.label or photo.coarse
        for number, text in enumerate(photo.captions or ((label,) if label else ())):
            group = photo.name if photo.captions else f"label {label}"
            name = f"{photo.set_name}/{photo.name} text {number}"
            yield photo.development, Described(name, text, group, photo.member)


def _pages(data: Path, work: Path) -> Iterator[tuple[bool, Described]]:
    """A record per passage."""
    for page in load_pages(data, work):
        words, name = page.text.split(), f"{page.name} page {page.page_number}"
        for start in range(0, len(words), PASSAGE_WORDS):
            passage = words[start : start + PASSAGE_WORDS]
            if len(passage) >= LEAST_PASSAGE_WORDS:
                yield page.development, Described(f"{name} word {start}", " ".join(passage), name, page.member)


def _clips(data: Path, work: Path) -> Iterator[tuple[bool, Described]]:
    """A record per caption; a clip without captions is described by its label, as others with that label are."""
    for clip in load_clips(data, work):
        for number, text in enumerate(clip.captions or ((clip.label,) if clip.label else ())):
            group = clip.name if clip.captions else f"label {clip.label}"
            yield clip.development, Described(f"{clip.name} text {number}", text, group, clip.member)


def strip_frame(strip: TarMember, number: int) -> Image.Image:
    """One of the eight frames that `rendered_material.load_clips` stored side by side."""
    return _strip(strip)[number]


@lru_cache(maxsize=2)  # the frames of a clip are opened one after the other
def _strip(strip: TarMember) -> list[Image.Image]:
    return ClipRecord("", (), "", strip).frames()


Records = Iterator[dict[str, Any]]


def _described(records: Callable[[], Iterator[tuple[bool, Described]]], *, is_development_wanted: bool) -> Records:
    for development, record in records():
        if development == is_development_wanted:
            member = record.member
            place = {"tar": str(member.tar), "offset": member.offset, "size": member.size}
            yield {"name": record.name, "text": record.text, "group": record.group, **place}


def _pairs(data: Path, sets: list[str], split: str) -> Records:
    for pair in load_pairs(data, *sets):
        if is_development(pair.passage) == (split == "development"):
            yield {"query": pair.query, "passage": pair.passage}


def _clozes(data: Path, work: Path, sets: list[str], split: str) -> Records:
    """`CLOZES_PER_TEXT` records per page and per long passage; which words are asked for depends on the text alone."""
    for page in load_pages(data, work) if not sets or "pages" in sets else ():
        if page.development == (split == "development") and len(page.text.split()) >= LEAST_CLOZE_TEXT_WORDS:
            titles = [line for line in page.text.split("\n") if len(line.split()) >= 2]
            yield from _clozes_of(" ".join(page.text.split()), titles[0] if titles else "")
    names = [name for name in CLOZE_SETS if not sets or name in sets]
    for pair in load_pairs(data, *names) if names else ():
        is_wanted = is_development(pair.passage) == (split == "development")
        if is_wanted and len(pair.passage.split()) >= LEAST_CLOZE_TEXT_WORDS:
            yield from _clozes_of(" ".join(pair.passage.split()), pair.query)


def _clozes_of(text: str, title: str) -> Records:
    rng = random.Random(text)
    words = text.split()[:CLOZE_TEXT_WORDS]
    for number in range(CLOZES_PER_TEXT):
        if number == 0 and title:
            yield {"query": " ".join(title.split()[:12]), "passage": " ".join(words)}
            continue
        count = rng.randint(4, 11)
        start = rng.randrange(max(1, len(words) - count))
        query = " ".join(words[start : start + count])
        left = words[:start] + words[start + count :] if rng.random() < 0.15 else words
        yield {"query": query, "passage": " ".join(left)}


def _table(cache: Path, name: str, files: list[Path], options: list[str], records: Callable[[], Records]) -> Table:
    """Records as a table that all processes share; made once for these files and options.

    Hundreds of thousands of records as objects would take seconds to make and to send to every process.
    """
    import pyarrow as pa

    marks = [f"{file.resolve()}|{file.stat().st_size}|{file.stat().st_mtime_ns}" for file in files]
    copy = cache / f"{name}-{hashlib.sha1('|'.join([*marks, *options]).encode()).hexdigest()[:16]}.arrow"
    if not copy.exists():
        columns = {"query": pa.string(), "passage": pa.string()}
        if name not in ("text_pairs", "cloze"):
            columns = {
                **dict.fromkeys(("name", "text", "group", "tar"), pa.string()),
                "offset": pa.int64(),
                "size": pa.int64(),
            }
        schema = pa.schema(list(columns.items()))
        rows = records()
        batches = iter(lambda: list(islice(rows, ROWS_PER_ARROW_BATCH)), [])
        write_arrow(copy, schema, (pa.RecordBatch.from_pylist(batch, schema=schema) for batch in batches))
    return Table.of_copy(copy, name)
