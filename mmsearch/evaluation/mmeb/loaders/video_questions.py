"""Questions about videos with answers to choose from.

Source: TIGER-AI-Lab/VLM2Vec@6e1e1d4 `src/data/eval_dataset/{mvbench,videomme,nextqa,egoschema,activitynetqa}_dataset.py`.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmsearch.errors import DatasetError
from mmsearch.evaluation.mmeb.data import Collector, Side, TaskData, TaskQuery, text_side
from mmsearch.evaluation.mmeb.frames import Videos, stepped
from mmsearch.evaluation.mmeb.hub import read_rows, row_files
from mmsearch.evaluation.mmeb.prompts import filled, told
from mmsearch.evaluation.mmeb.tasks import Task

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """A row, read.

    Attributes:
        text: the question with its options, as it is asked.
        frames, video: folder of frames, and path of the video that they come from.
        names: of the candidates, in order.
        texts: what is embedded of them; the names themselves if None.
        right: number of the right one.
    """

    text: str
    frames: str
    video: str
    names: Sequence[str]
    right: int
    texts: Sequence[str] | None = None


def mvbench(task: Task, data: Path) -> TaskData:
    """MVBench: 20 configurations of rows `video, question, candidates, answer`, one after the other."""
    files = {part: row_files(task, data, part) for part in MVBENCH}
    rows = ((f"{part}: {key}", {**row, "subset": part}) for part in MVBENCH for key, row in read_rows(files[part]))

    def question(row: Row) -> Question:
        text, options = with_options(row["question"], row["candidates"])
        video = f"{MVBENCH[row['subset']]}/{row['video']}"
        return Question(
            text, f"{row['subset']}/{row['video']}", video, options, _place(row["answer"], row["candidates"])
        )

    return _collect(task, data, rows, question)


def nextqa(task: Task, data: Path) -> TaskData:
    """NExT-QA: rows `video, question, a0…a4` and `answer`, a number. The answers are ranked without their letters (by Qwen's
    evaluation with them)."""

    def question(row: Row) -> Question:
        answers = [row[f"a{i}"] for i in range(5)]
        text, lettered = with_options(row["question"], answers)
        names = lettered if task.protocol == "qwen3vl_embedding" else answers
        return Question(text, str(row["video"]), f"{row['video']}.mp4", names, int(row["answer"]))

    return _collect(task, data, read_rows(row_files(task, data)), question)


def videomme(task: Task, data: Path) -> TaskData:
    """Video-MME: rows `question, videoID, options` ("A. …") and `answer`, a letter."""

    def question(row: Row) -> Question:
        options = row["options"]
        text = "\n".join([row["question"], *options])
        right = string.ascii_uppercase.index(row["answer"])
        return Question(text, row["videoID"], f"{row['videoID']}.mp4", options, right, [_bare(o) for o in options])

    return _collect(task, data, read_rows(row_files(task, data)), question)


def egoschema(task: Task, data: Path) -> TaskData:
    """EgoSchema: rows `video_idx, question, option` ("A. …") and `answer`, a number as text.

    No space stands between the question and its options; in Qwen's evaluation there is one.
    """
    gap = " " if task.protocol == "qwen3vl_embedding" else ""

    def question(row: Row) -> Question:
        options, video = row["option"], row["video_idx"]
        text = row["question"] + gap + " ".join(options)
        return Question(text, video, f"{video}.mp4", options, int(row["answer"]), [_bare(o) for o in options])

    return _collect(task, data, read_rows(row_files(task, data)), question)


def activitynetqa(task: Task, data: Path) -> TaskData:
    """ActivityNet-QA: rows `video_name, question, answer` (yes or no)."""
    answers = ("yes", "no")

    def question(row: Row) -> Question:
        video = f"v_{row['video_name']}"
        text = f"{row['question']}? (A) yes; (B) no."
        return Question(text, video, f"{video}.mp4", answers, _place(row["answer"], answers))

    return _collect(task, data, read_rows(row_files(task, data)), question)


MVBENCH = {
    "episodic_reasoning": "tvqa/frames_fps3_hq",
    "action_sequence": "star/Charades_v1_480",
    "action_prediction": "star/Charades_v1_480",
    "action_antonym": "ssv2_video",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "unexpected_action": "FunQA_test/test",
    "object_existence": "clevrer/video_validation",
    "object_interaction": "star/Charades_v1_480",
    "object_shuffle": "perception/videos",
    "moving_direction": "clevrer/video_validation",
    "action_localization": "sta/sta_video",
    "scene_transition": "scene_qa/video",
    "action_count": "perception/videos",
    "moving_count": "clevrer/video_validation",
    "moving_attribute": "clevrer/video_validation",
    "state_change": "perception/videos",
    "fine_grained_pose": "nturgbd",
    "character_order": "perception/videos",
    "egocentric_navigation": "vlnqa",
    "counterfactual_inference": "clevrer/video_validation",
}
"""Configurations in order, and where their videos lie. No start or end is cut, as in the reference."""


def with_options(question: str, options: Sequence[str]) -> tuple[str, list[str]]:
    """The question over its lettered options, and these: "(A) …"."""
    lettered = [f"({letter}) {option}" for letter, option in zip(string.ascii_uppercase, options, strict=False)]
    return "\n".join([question, "Options:", *lettered]).rstrip(), lettered


def _collect(task: Task, data: Path, rows: Iterable[tuple[str, Row]], question: Callable[[Row], Question]) -> TaskData:
    collector, videos, instruction = Collector(task), Videos(task, data), told(task)

    def row_query(key: str, row: Row) -> TaskQuery:
        asked = question(row)
        if not 0 <= asked.right < len(asked.names):
            raise DatasetError(f"answer {row['answer']!r} of {len(asked.names)}")
        frames = videos.frames(asked.frames, asked.video, sampling=stepped)
        side = Side(filled(task.query, asked.text), instruction, asked.text, frames, is_video=True, kind="clip")
        for name, text in zip(asked.names, asked.texts or asked.names, strict=True):
            collector.candidate(name, text_side, text, "clip")
        return TaskQuery(key, side, (asked.names[asked.right],), candidates=tuple(asked.names))

    collector.read(rows, row_query)
    return collector.data()


def _bare(option: str) -> str:
    """An option without its letter."""
    return option[option.find(". ") :].strip(". ") if ". " in option else option


def _place(answer: str, options: Sequence[str]) -> int:
    """Of equal options the last counts, as in the reference."""
    places = [i for i, option in enumerate(options) if option == answer]
    if not places:
        raise DatasetError(f"the answer {answer!r} is not among the options")
    return places[-1]
