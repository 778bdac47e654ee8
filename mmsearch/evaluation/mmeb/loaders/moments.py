"""Moment retrieval: which clip of a video is meant.

Source: TIGER-AI-Lab/VLM2Vec@6e1e1d4 `src/data/eval_dataset/{moment_retrieval_datasets,momentseeker_dataset}.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from mmsearch.errors import DatasetError
from mmsearch.evaluation.mmeb.data import Collector, Side, TaskData, TaskQuery
from mmsearch.evaluation.mmeb.frames import Videos
from mmsearch.evaluation.mmeb.hub import read_rows, row_files
from mmsearch.evaluation.mmeb.prompts import filled, told, words_of
from mmsearch.evaluation.mmeb.tasks import Task
from mmsearch.media.pictures import FilePicture
from mmsearch.training.datasets.record_fields import natural_order

Row = Mapping[str, Any]

WHOLE = "query"
"""The folder of the whole video's frames; beside it lies a folder for each clip."""
RIGHT = "positive"
"""How the folder of a right clip begins."""


def moments_of_video(task: Task, data: Path) -> TaskData:
    """QVHighlights and Charades-STA: rows `query, video_path`; the query shows the whole video, its clips are candidates.

    Candidates are named by their folders, in natural order (the reference has them in the order of the file system).
    """
    rows = read_rows(row_files(task, data))
    collector, videos = Collector(task), Videos(task, data)

    @cache
    def clips_of(video: str) -> tuple[str, ...]:
        folder = videos.folder / video
        if not folder.is_dir():
            raise DatasetError(f"no folder of clips at {folder}")
        names = (entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name != WHOLE)
        return tuple(sorted(names, key=natural_order))

    def row_query(key: str, row: Row) -> TaskQuery:
        video = PurePosixPath(row["video_path"]).stem
        clips = clips_of(video)
        right = tuple(f"{video}/{clip}" for clip in clips if clip.startswith(RIGHT))
        if not right:
            raise DatasetError(f"no folder {RIGHT}… among the clips of {video}")
        whole = videos.frames(f"{video}/{WHOLE}")
        asked = Side(filled(task.query, row["query"]), told(task), row["query"], whole, is_video=True, kind="clip")
        names = tuple(f"{video}/{clip}" for clip in clips)
        for name in names:
            collector.candidate(name, _clip, task, videos, name)
        return TaskQuery(key, asked, right, candidates=names)

    collector.read(rows, row_query)
    return collector.data()


def momentseeker(task: Task, data: Path) -> TaskData:
    """MomentSeeker: rows `query, positive_frames, negative_frames, input_frames`; several clips may be right.

    The query is a text, alone or with a picture (`input_frames` ends in .jpg) or a video (.mp4). Of clips all frames in the
    folder are taken.
    """
    rows = read_rows(row_files(task, data))
    collector, videos = Collector(task), Videos(task, data)

    def row_query(key: str, row: Row) -> TaskQuery:
        asked = _asked(task, videos, row)
        right = [_folder(clip["output_path"]) for clip in row["positive_frames"]]
        wrong = [_folder(clip["output_path"]) for clip in row["negative_frames"]]
        if not right:
            raise DatasetError("positive_frames is empty")
        for name in (*right, *wrong):
            collector.candidate(name, _clip, task, videos, name)
        return TaskQuery(key, asked, tuple(dict.fromkeys(right)), candidates=(*right, *wrong))

    collector.read(rows, row_query)
    return collector.data()


def _asked(task: Task, videos: Videos, row: Row) -> Side:
    shown, text = row["input_frames"] or "", row["query"]
    if shown.endswith(".mp4"):
        prompt, pictures = task.query_with_video, videos.frames(_folder(shown))
        instruction = task.instruction_with_video or words_of(prompt)
    elif shown.endswith(".jpg"):
        path = videos.folder / f"query_{shown}"
        if not path.is_file():
            raise DatasetError(f"no picture at {path}")
        prompt, pictures = task.query_with_image, (FilePicture(path, task.decoding),)
        instruction = task.instruction_with_image or words_of(prompt)
    else:
        prompt, instruction, pictures = task.query, told(task), ()
    return Side(filled(prompt, text), instruction, text, pictures, is_video=shown.endswith(".mp4"), kind="clip")


def _folder(path: str) -> str:
    """The folder of frames of a clip that a row names by its file."""
    return "video_frames/" + path.replace("/", "_").split(".mp4")[0]


def _clip(task: Task, videos: Videos, folder: str) -> Side:
    pictures = videos.frames(folder, count=task.clip_frames)
    return Side(task.target, words_of(task.target), pictures=pictures, is_video=True, kind="clip")
