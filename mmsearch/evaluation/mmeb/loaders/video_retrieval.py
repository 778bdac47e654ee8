"""Video retrieval: a description and all videos of the data set.

Source: TIGER-AI-Lab/VLM2Vec@6e1e1d4 `src/data/eval_dataset/{msrvtt,msvd,didemo,vatex,youcook2}_dataset.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mmsearch.errors import DatasetError
from mmsearch.evaluation.mmeb.data import Collector, Side, TaskData, TaskQuery
from mmsearch.evaluation.mmeb.frames import Videos
from mmsearch.evaluation.mmeb.hub import read_rows, row_files
from mmsearch.evaluation.mmeb.prompts import filled, told, words_of
from mmsearch.evaluation.mmeb.tasks import Task

Row = Mapping[str, Any]


def _named(row: Row) -> tuple[str, str]:
    return row["video_id"], row["video"]


def _by_file(row: Row) -> tuple[str, str]:
    file = PurePosixPath(row["video"])
    return file.stem, file.name


FAMILIES: Mapping[str, tuple[str, Callable[[Row], tuple[str, str]]]] = {
    "msrvtt": ("caption", _named),
    "msvd": ("caption", _named),
    "didemo": ("caption", _by_file),
    "vatex": ("enCap", lambda row: (row["videoID"], f"{row['videoID']}.mp4")),
    "youcook2": ("sentence", lambda row: (row["id"], PurePosixPath(row["video_path"]).name)),
}
"""The field of the description, of which the first is asked where there are several; and the video's name (also of its
folder of frames) and file."""


def described_videos(task: Task, data: Path) -> TaskData:
    """The videos of all rows are the candidates of every description."""
    rows = read_rows(row_files(task, data))
    collector, videos = Collector(task), Videos(task, data)
    field, place = FAMILIES[task.family]
    shown = words_of(task.target)

    def video(name: str, file: str) -> Side:
        return Side(task.target, shown, pictures=videos.frames(name, file), is_video=True, kind="clip")

    def row_query(key: str, row: Row) -> TaskQuery:
        text = row[field]
        if isinstance(text, list):
            if not text:
                raise DatasetError(f"{field} is empty")
            text = text[0]
        name, file = map(str, place(row))
        collector.candidate(name, video, name, file)
        asked = Side(filled(task.query, text), told(task), text, kind="clip")
        return TaskQuery(key, asked, (name,))

    collector.read(rows, row_query)
    return collector.data()
