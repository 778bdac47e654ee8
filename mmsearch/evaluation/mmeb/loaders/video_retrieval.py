"""Video retrieval: a description and all videos of the data set.

Source: TIGER-AI-Lab/VLM2Vec@6e1e1d4 `src/data/eval_dataset/{msrvtt,msvd,didemo,vatex,youcook2}_dataset.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mmsearch.errors import DatasetError
from mmsearch.evaluation.mmeb.data import Collector, Side, TaskData, TaskQuery
from mmsearch.evaluation.mmeb.frames import Videos
from mmsearch.evaluation.mmeb.hub import read_rows, row_files
from mmsearch.evaluation.mmeb.prompts import filled, words_of
from mmsearch.evaluation.mmeb.tasks import Task


@dataclass(frozen=True, slots=True)
class Fields:
    """Where a row says what.

    Attributes:
        text: the description; of several, the first is asked.
        video: path of the video; None: `<name>.mp4`.
        name: names the video and its folder of frames; None: the video's file name without its end.
        is_flat: the folder of videos has no folders, whatever the row's path says.
    """

    text: str
    video: str | None
    name: str | None
    is_flat: bool = False


FIELDS = {
    "msrvtt": Fields("caption", "video", "video_id"),
    "msvd": Fields("caption", "video", "video_id"),
    "didemo": Fields("caption", "video", None, is_flat=True),
    "vatex": Fields("enCap", None, "videoID"),
    "youcook2": Fields("sentence", "video_path", "id", is_flat=True),
}
"""By family."""


def described_videos(task: Task, data: Path) -> TaskData:
    """The videos of all rows are the candidates of every description."""
    rows = read_rows(row_files(task, data))
    fields, collector, videos = FIELDS[task.family], Collector(task), Videos(task, data)
    shown = words_of(task.target)

    def row_query(key: str, row: Mapping[str, Any]) -> TaskQuery:
        text = row[fields.text]
        if isinstance(text, list):
            if not text:
                raise DatasetError(f"{fields.text} is empty")
            text = text[0]
        path = row[fields.video] if fields.video else f"{row[fields.name]}.mp4"
        if fields.is_flat:
            path = PurePosixPath(path).name
        name = str(row[fields.name]) if fields.name else PurePosixPath(path).stem
        collector.candidate(
            name, lambda: Side(task.target, shown, pictures=videos.frames(name, path), is_video=True, kind="clip")
        )
        asked = Side(filled(task.query, text), words_of(task.query), text, kind="clip")
        return TaskQuery(key, asked, (name,))

    collector.read(rows, row_query)
    return collector.data()
