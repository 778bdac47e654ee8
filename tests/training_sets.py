"""Miniature training sets made by code, each in the layout in which the real one is published. Bad records are put in by hand."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Rows = Sequence[Mapping[str, Any]]

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
MMEB_COLUMNS = ("qry", "qry_image_path", "pos_text", "pos_image_path", "neg_text", "neg_image_path")


def colour(number: int) -> tuple[int, int, int]:
    """Another colour for every number below 512, far enough apart to survive JPEG."""
    return 32 * (number % 8) + 16, 32 * (number // 8 % 8) + 16, 32 * (number // 64 % 8) + 16


def encoded(number: int, format: str = "PNG", size: tuple[int, int] = (40, 30)) -> bytes:
    """A picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", size, colour(number)).save(out, format)
    return out.getvalue()


def number_of(image: Image.Image) -> int:
    """The inverse of `colour`."""
    red, green, blue = (value // 32 for value in image.getpixel((5, 5)))
    return red + 8 * green + 64 * blue


def write_picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(number, "JPEG" if path.suffix in (".jpg", ".jpeg") else "PNG"))


def write_parquet(path: Path, rows: Rows, schema: pa.Schema, *, row_group_size: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema), path, row_group_size=row_group_size)


def mmeb(folder: Path, subset: str, rows: Rows, *, split: str = "original", lists: bool = False) -> Path:
    """`<subset>/<split>-00000-of-00001.parquet`; with `lists`, negatives in lists as B3's sets have them."""
    negative = pa.list_(pa.string()) if lists else pa.string()
    types = [pa.string()] * 4 + [negative] * 2
    schema = pa.schema(list(zip(MMEB_COLUMNS, types, strict=True)))
    write_parquet(folder / subset / f"{split}-00000-of-00001.parquet", rows, schema)
    return folder


def colpali(folder: Path, rows: Rows, *, shards: int = 2) -> Path:
    """`data/train-0000x-of-0000n.parquet`."""
    texts = ("image_filename", "query", "answer", "source", "options", "page", "model", "prompt", "answer_type")
    return _shards(folder, rows, pa.schema([("image", IMAGE), *((name, pa.string()) for name in texts)]), shards)


def visrag(folder: Path, rows: Rows, *, shards: int = 2) -> Path:
    """`data/train-0000x-of-0000n.parquet`."""
    return _shards(folder, rows, pa.schema([("query", pa.string()), ("image", IMAGE), ("source", pa.string())]), shards)


def _shards(folder: Path, rows: Rows, schema: pa.Schema, shards: int) -> Path:
    size = -(-len(rows) // shards)
    for number in range(shards):
        path = folder / f"data/train-{number:05d}-of-{shards:05d}.parquet"
        write_parquet(path, rows[number * size : (number + 1) * size], schema)
    return folder


def stored(number: int) -> dict[str, Any]:
    """A picture as the hub's data sets store it."""
    return {"bytes": encoded(number), "path": f"{number}.png"}


def llava_hound(folder: Path, name: str, rows: Sequence[Any], frames: Mapping[str, int]) -> Path:
    """`video_instruction/train/sft/<name>.jsonl` and `train_300k/<video>/…jpeg`, named so that text order is not time's."""
    file = folder / f"video_instruction/train/sft/{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    for video, count in frames.items():
        (folder / "train_300k" / video).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            write_picture(folder / "train_300k" / video / f"c{number}.jpeg", number)
    (folder / "train_300k").mkdir(exist_ok=True)
    return folder


def conversation(video: str, asked: str, answered: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": answered}]
    return {"id": video, "conversations": turns, "video": video}


def json_lines(path: Path, rows: Sequence[Any]) -> Path:
    """Texts are written as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def tar_set(folder: Path, name: str, files: Mapping[str, bytes], rows: Rows) -> None:
    """`<name>.tar` and `<name>.jsonl`, as in ../shared/data."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / f"{name}.tar", "w") as archive:
        for file, data in files.items():
            member = tarfile.TarInfo(file)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    json_lines(folder / f"{name}.jsonl", rows)


def text_pairs(folder: Path, set_name: str, pairs: Sequence[tuple[str, str]]) -> None:
    """`pairs_<set>.jsonl.zst`."""
    import zstandard

    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"q": query, "p": passage, "t": "qa"}) + "\n" for query, passage in pairs)
    (folder / f"pairs_{set_name}.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(lines.encode()))
