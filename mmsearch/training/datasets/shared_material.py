"""The material in `../shared/data`: photos, PDF pages, clips and text pairs, with its split for development.

Every loader yields plain records; what the model sees is decided in `mmsearch.training.data`.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmsearch.errors import DatasetError
from mmsearch.media.pictures import TarMember


def is_development(name: str) -> bool:
    """Whether a record is kept out of training (a tenth, by the SHA-1 of its name)."""
    return int(hashlib.sha1(name.encode()).hexdigest(), 16) % 10 == 0


@dataclass(frozen=True, slots=True)
class PhotoRecord:
    """A picture with what is said of it: `captions` are sentences, `label` a name or class, `coarse` a wider class."""

    name: str
    set_name: str
    member: TarMember
    captions: tuple[str, ...]
    label: str
    coarse: str
    description: str
    licence: str

    @property
    def development(self) -> bool:
        return is_development(self.name)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A PDF or a video inside a tar."""

    name: str
    member: TarMember
    title: str
    captions: tuple[str, ...]
    label: str
    source: str
    licence: str

    @property
    def development(self) -> bool:
        return is_development(self.name)


@dataclass(frozen=True, slots=True)
class PairRecord:
    """A query text and the passage, answer or paraphrase that belongs to it; `score` 0…5 where people judged it."""

    query: str
    passage: str
    type: str
    set_name: str
    score: float | None


def data_folder(folder: Path | None = None) -> Path:
    """The folder of the material: given, or `shared/data` beside the repository. Raises: DatasetError."""
    folder = folder or Path(__file__).resolve().parents[3].parent / "shared" / "data"
    if not (folder / "photos").is_dir():
        raise DatasetError(f"no training data at {folder}: expected photos/, pdf/, video/ and text/ there")
    return folder


def load_photos(folder: Path) -> list[PhotoRecord]:
    """All photo records, in file order."""
    records = []
    for jsonl in sorted((folder / "photos").glob("*.jsonl")):
        set_name = jsonl.stem.rsplit("-", 1)[0]
        members = _members(jsonl.with_suffix(".tar"))
        for row in _rows(jsonl):
            name = row.get("orig", row["file"]) if set_name in ("flickr8k", "tiny_imagenet") else row["file"]
            records.append(
                PhotoRecord(
                    name=name,
                    set_name=set_name,
                    member=members[row["file"]],
                    captions=tuple(row.get("captions") or ()),
                    label=row.get("label") or "",
                    coarse=row.get("coarse") or row.get("topic") or "",
                    description=row.get("desc") or "",
                    licence=row.get("licence", ""),
                )
            )
    return records


def load_files(folder: Path, kind: str) -> list[FileRecord]:
    """The PDFs (`kind="pdf"`) or videos (`kind="video"`)."""
    records = []
    for jsonl in sorted((folder / kind).glob("*.jsonl")):
        members = _members(jsonl.with_suffix(".tar"))
        for row in _rows(jsonl):
            records.append(
                FileRecord(
                    name=row["file"],
                    member=members[row["file"]],
                    title=row.get("title") or "",
                    captions=tuple(row.get("captions") or ()),
                    label=row.get("label") or "",
                    source=row.get("source", ""),
                    licence=row.get("licence", ""),
                )
            )
    return records


def load_pairs(folder: Path, *names: str) -> Iterator[PairRecord]:
    """Text pairs of the named sets (`squad_dev`, `arxiv`, …), all sets if none is named."""
    import zstandard

    for path in sorted((folder / "text").glob("pairs_*.jsonl.zst")):
        set_name = path.name.removeprefix("pairs_").removesuffix(".jsonl.zst")
        if names and set_name not in names:
            continue
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
            for line in io.TextIOWrapper(stream, "utf-8"):
                row = json.loads(line)
                yield PairRecord(row["q"], row["p"], row["t"], set_name, row.get("score"))


def _members(tar: Path) -> dict[str, TarMember]:
    with tarfile.open(tar) as archive:
        return {m.name.removeprefix("./"): TarMember(tar, m.offset_data, m.size) for m in archive if m.isfile()}


def _rows(jsonl: Path) -> Iterator[dict]:
    with jsonl.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
