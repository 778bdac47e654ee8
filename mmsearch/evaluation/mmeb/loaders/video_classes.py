"""Video classification: a video and the classes of its data set.

Rows: `video_id, pos_text`; Something-Something also `neg_text`, the list of its classes.
Source: TIGER-AI-Lab/VLM2Vec@6e1e1d4 `src/data/eval_dataset/{video_classification_datasets,ssv2_dataset}.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from mmsearch.errors import DatasetError
from mmsearch.evaluation.mmeb.data import Collector, Side, TaskData, TaskQuery, text_side
from mmsearch.evaluation.mmeb.frames import Videos
from mmsearch.evaluation.mmeb.hub import read_rows, row_files
from mmsearch.evaluation.mmeb.prompts import told
from mmsearch.evaluation.mmeb.tasks import Task

Row = Mapping[str, Any]


@cache
def class_names() -> dict[str, list[str]]:
    """The classes of the data sets whose rows do not list them, by task."""
    return yaml.safe_load(files("mmsearch.evaluation.mmeb").joinpath("classes.yaml").read_text(encoding="utf-8"))


def classes_of_dataset(task: Task, data: Path) -> TaskData:
    """Every class is a candidate of every video: first those of the rows, then the others."""
    rows = read_rows(row_files(task, data))
    collector, videos = Collector(task), Videos(task, data)

    def row_query(key: str, row: Row) -> TaskQuery:
        side = _shown(task, videos, row)
        return TaskQuery(key, side, (collector.candidate(row["pos_text"], text_side, row["pos_text"], "clip"),))

    collector.read(rows, row_query)
    for name in class_names()[task.name]:
        collector.candidate(name, text_side, name, "clip")
    return collector.data()


def classes_of_row(task: Task, data: Path) -> TaskData:
    """The classes that a row lists are its candidates; the right one is among them."""
    rows = read_rows(row_files(task, data))
    collector, videos = Collector(task), Videos(task, data)

    def row_query(key: str, row: Row) -> TaskQuery:
        label, names = row["pos_text"], tuple(row["neg_text"])
        if label not in names:
            raise DatasetError(f"the class {label!r} is not among those of the row")
        side = _shown(task, videos, row)
        for name in names:
            collector.candidate(name, text_side, name, "clip")
        return TaskQuery(key, side, (label,), candidates=names)

    collector.read(rows, row_query)
    return collector.data()


def _shown(task: Task, videos: Videos, row: Row) -> Side:
    video = str(row["video_id"])
    frames = videos.frames(video, f"{video}.mp4")
    return Side(task.query, told(task), pictures=frames, is_video=True, kind="clip")
