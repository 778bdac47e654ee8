"""Where the rows and the media of a task lie: folders as `hf download` makes them, one for each data set."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from mmsearch.errors import DatasetError
from mmsearch.evaluation.mmeb.tasks import Task
from mmsearch.training.datasets.dataset_folders import default_cache

MEDIA_HUB = "TIGER-Lab/MMEB-V2"
"""Pictures of the image tasks and frames of the video tasks, packed."""

ARCHIVES = {
    "image-tasks": "`tar -xzf mmeb_v1.tar.gz` in image-tasks",
    "video-tasks/frames/video_cls": "`mkdir -p video_cls && tar -xzf video_cls.tar.gz -C video_cls` in video-tasks/frames",
    "video-tasks/frames/video_ret": "`mkdir -p video_ret && tar -xzf video_ret.tar.gz -C video_ret` in video-tasks/frames",
    "video-tasks/frames/video_mret": "`tar -xzf video_mret.tar.gz` in video-tasks/frames",
    "video-tasks/frames/video_qa": "`cat video_qa.tar.gz-0* | tar -xz` in video-tasks/frames",
}
"""How each folder of media comes out of its archive. Source: the reference's `experiments/public/data/download_data.sh`."""

TABLE_SUFFIXES = (".parquet", ".jsonl", ".json")


def download_command(hub: str, data: Path, revision: str | None = None) -> str:
    """What fetches a data set to where it is looked for."""
    at = f" --revision {revision}" if revision else ""
    return f"hf download {hub} --repo-type dataset{at} --local-dir {data / hub}"


def row_files(task: Task, data: Path, config: str | None = None) -> list[Path]:
    """The files of a task's rows, in order.

    Which file belongs to which configuration and split is said at the top of a data set's card (`README.md`), as
    `datasets` reads it; without a card, by the names of the files.

    Args:
        config: instead of the task's own.

    Raises:
        DatasetError: not there, or no file of that configuration and split.
    """
    folder = data / task.hub
    get = download_command(task.hub, data, task.revision)
    if not folder.is_dir():
        raise DatasetError(f"{task.name}: no data set {task.hub} at {folder}; get it with `{get}`")
    config = config or task.config
    patterns = _patterns_of_card(folder, config, task.split) or _patterns_by_name(config, task.split)
    for pattern in patterns:
        if found := sorted(path for path in folder.glob(pattern) if path.suffix in TABLE_SUFFIXES):
            return found
    part = f"configuration {config}, split {task.split}" if config else f"split {task.split}"
    looked_for = ", ".join(patterns)
    raise DatasetError(
        f"{task.name}: no rows of {part} in {folder} (looked for {looked_for}); get them with `{get}`"
    )  # fmt: skip


def _patterns_of_card(folder: Path, config: str | None, split: str) -> list[str]:
    card = folder / "README.md"
    if not card.is_file():
        return []
    _, *parts = card.read_text(encoding="utf-8", errors="replace").split("---\n", 2)
    try:
        configs = (yaml.safe_load(parts[0]) or {}).get("configs") if parts else None
    except (yaml.YAMLError, AttributeError):
        configs = None
    if not isinstance(configs, list):
        return []
    entries = [entry for entry in configs if isinstance(entry, dict)]
    chosen = [e for e in entries if e.get("config_name") == (config or "default")]
    if not chosen and config is None:
        chosen = [e for e in entries if e.get("default")] or entries[:1]
    return [pattern for entry in chosen for pattern in _paths(entry.get("data_files"), split)]


def _paths(data_files: Any, split: str) -> list[str]:
    """`data_files` of a card: a path, a list of paths, or of `{split, path}`; without a split, all are `train`."""
    found: list[Any] = []
    for entry in data_files if isinstance(data_files, list) else [data_files]:
        if isinstance(entry, str) and split == "train":
            found.append(entry)
        elif isinstance(entry, dict) and entry.get("split") == split:
            path = entry.get("path")
            found += path if isinstance(path, list) else [path]
    return [path for path in found if isinstance(path, str)]


def _patterns_by_name(config: str | None, split: str) -> list[str]:
    if config is None:
        return [f"data/{split}-*", f"{split}-*", f"data/{split}.*", f"{split}.*", f"data/*_{split}.*", "*.jsonl"]
    return [
        f"{config}/{split}-*", f"data/{config}/{split}-*", f"{config}/{split}.*", f"{config}-{split}.*",
        f"{config}/*.parquet", f"json/{config}.json", f"{config}.jsonl", f"{config}.json",
    ]  # fmt: skip


def read_rows(files: Sequence[Path], *, columns: Sequence[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every record with its place ("test-00000-of-00001.parquet row 7"), in order.

    Args:
        columns: fields that every record must have; of Parquet only these are read.

    Raises:
        DatasetError: a file cannot be read at all, or a record lacks one of `columns`.
    """
    for file in files:
        records = _parquet(file, columns) if file.suffix == ".parquet" else _json(file)
        for number, record in enumerate(records):
            if missing := [name for name in columns or () if name not in record]:
                raise DatasetError(f"{file} row {number} has no field {', '.join(missing)}; it has {', '.join(record)}")
            yield f"{file.name} row {number}", record


def _parquet(file: Path, columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            if missing := [name for name in columns or () if name not in names]:
                raise DatasetError(f"{file} has no column {', '.join(missing)}; it has {', '.join(names)}")
            for batch in parquet.iter_batches(batch_size=64, columns=columns):
                yield from batch.to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise DatasetError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def _json(file: Path) -> Iterator[dict[str, Any]]:
    """A list of objects (`.json`), or an object per line."""
    try:
        with file.open(encoding="utf-8", newline="\n") as stream:  # texts may hold other separators of lines
            if file.suffix == ".json" and stream.read(1) == "[":
                stream.seek(0)
                yield from json.load(stream)
            else:
                stream.seek(0)
                yield from (json.loads(line) for line in stream if line.strip())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} cannot be read as JSON: {error}") from error


def media_folder(task: Task, data: Path) -> Path:
    """The folder that the media of a task start from. Raises: DatasetError: not there, with the way to get it."""
    folder = data / MEDIA_HUB / task.media
    if task.media == "image-tasks" and (folder / "MMEB").is_dir():
        folder /= "MMEB"  # as the archive unpacks; the reference moves its content up
    if not folder.is_dir() or not any(entry.is_dir() for entry in folder.iterdir()):
        packed = next((how for start, how in ARCHIVES.items() if task.media.startswith(start)), "its archives")
        raise DatasetError(
            f"{task.name}: no media at {folder}; get them with `{download_command(MEDIA_HUB, data)}`, then unpack: {packed}"
        )
    return folder


def table_cache(data: Path) -> Path:
    """Where copies of tables lie that can be read in any order: beside the data or, where that is read-only, the user's."""
    return data / ".cache" / "mmsearch" if os.access(data, os.W_OK) else default_cache()
