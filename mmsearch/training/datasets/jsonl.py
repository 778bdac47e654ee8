"""A user's own pairs: a JSON object per line, paths relative to the file.

| field | what |
|---|---|
| `query` | text of the query; may be missing or empty if there is a `query_image` |
| `query_image` | path of the query's picture |
| `target_text`, `target_image`, `target_video` | what answers the query: a text; a picture file; a video file or a folder of frames. A `target_text` beside one of the others is its text (a page's text layer) |
| `kind` | of a target with pictures: "page", "image" (default of target_image) or "clip" (default of target_video). It chooses the instructions: those that ingestion and search use for that kind |
| `negatives` | list of targets that do not answer the query. Each a text, or a path where the target is a picture or a video; or an object with `text`, `image` or `video`, as the target's fields without `target_` |
| `instruction` | of the query, instead of the built-in one; "" for none |
| `target_key` | pairs with equal keys have the same target, however it is shown: neither is the other's negative |
| `teacher_scores` | numbers: of the target, then of each negative |

    {"query": "a red boat", "target_image": "photos/boat.jpg", "negatives": ["photos/car.jpg"]}
    {"query": "without people", "query_image": "beach.jpg", "target_image": "empty_beach.jpg"}
    {"query": "revenue by region", "target_image": "q3-page7.png", "target_text": "Revenue …", "kind": "page"}
    {"query": "how is tea made?", "target_text": "Tea is made …", "negatives": ["Coffee is made …", {"text": "…"}]}
    {"query": "someone dives", "target_video": "clips/pool.mp4"}

Any other field is an error of that line, so that a misspelt one is noticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmsearch.errors import DatasetError
from mmsearch.items import Kind
from mmsearch.media import frame_times, sample_frames
from mmsearch.prompts import (
    COMPOSED_QUERY_INSTRUCTIONS,
    DOCUMENT_INSTRUCTIONS,
    IMAGE_QUERY_INSTRUCTIONS,
    TEXT_QUERY_INSTRUCTIONS,
    final_prompt,
    text_target_instruction,
)
from mmsearch.training.datasets import record_fields
from mmsearch.training.datasets.dataset_folders import DatasetFolders
from mmsearch.training.datasets.pairs import MadePicture, Pair, Picture, Side
from mmsearch.training.datasets.row_source import RowSource
from mmsearch.training.datasets.rows import JsonLines

LINE_FIELDS = {
    "query", "query_image", "target_text", "target_image", "target_video", "kind", "negatives", "instruction",
    "target_key", "teacher_scores",
}  # fmt: skip
TARGET_FIELDS = ("text", "image", "video")


def open_jsonl(spec: Mapping[str, Any], folders: DatasetFolders) -> RowSource:
    """Fields: `dataset_path` (the file), `num_frames` (8) of each video, `instruction` (of all queries without their own)."""
    record_fields.check_spec(spec, {"dataset_path", "num_frames", "instruction"}, required=("dataset_path",))
    return OwnPairs(spec, JsonLines(folders.local(spec["dataset_path"])))


class OwnPairs(RowSource):
    """See the module."""

    def __init__(self, spec: Mapping[str, Any], lines: JsonLines) -> None:
        super().__init__(spec, lines, default_name=lines.file.stem)
        self.folder = lines.file.parent
        self.frame_count = record_fields.count(spec, "num_frames", 8) or 8
        self.instruction = spec.get("instruction")

    def read(self, row: dict[str, Any], key: str) -> Pair:
        if unknown := sorted(set(row) - LINE_FIELDS):
            raise DatasetError(f"unknown field {', '.join(unknown)}; known: {', '.join(sorted(LINE_FIELDS))}")
        target = {name: row.get(f"target_{name}") for name in TARGET_FIELDS}
        kind = self._kind(row, target)
        listed = row.get("negatives")
        if listed is not None and not isinstance(listed, list):
            raise DatasetError(f"negatives is a {type(listed).__name__}, not a list")
        negatives = [self._negative(entry, kind, target) for entry in (listed or [])[: self.hard_negatives]]
        return Pair(
            self._query(row, kind),
            self._target(target, kind, "target_"),
            tuple(negatives),
            target_key=record_fields.optional_text(row, "target_key") or None,
            teacher_scores=self._scores(row, len(listed or []), len(negatives)),
        )

    def _kind(self, row: Mapping[str, Any], target: Mapping[str, Any]) -> Kind | None:
        """The kind of a target with pictures; None for a text."""
        if target["image"] and target["video"]:
            raise DatasetError("both target_image and target_video")
        given = record_fields.optional_text(row, "kind")
        if not target["image"] and not target["video"]:
            if given:
                raise DatasetError(f"kind {given!r} of a target without picture")
            return None
        known: dict[str, Kind] = {"page": "page", "image": "image"} if target["image"] else {"clip": "clip"}
        kind = known.get(given or ("image" if target["image"] else "clip"))
        if kind is None:
            raise DatasetError(f"kind is {given!r}; here it can be {', '.join(known)}")
        return kind

    def _query(self, row: Mapping[str, Any], kind: Kind | None) -> Side:
        text, path = record_fields.optional_text(row, "query").strip(), record_fields.optional_text(row, "query_image")
        if not text and not path:
            raise DatasetError("neither query nor query_image")
        instruction = row.get("instruction", self.instruction)
        if instruction is None:
            if kind is None:
                instruction = text_target_instruction(has_image=bool(path), has_text=bool(text))
            elif not path:
                instruction = TEXT_QUERY_INSTRUCTIONS[kind]
            else:
                instruction = (COMPOSED_QUERY_INSTRUCTIONS if text else IMAGE_QUERY_INSTRUCTIONS)[kind]
        if not isinstance(instruction, str):
            raise DatasetError(f"instruction is a {type(instruction).__name__}, not a text")
        pictures = (record_fields.file_picture(self.folder, path),) if path else ()
        return Side(final_prompt(instruction, text, image_count=len(pictures)), pictures)

    def _target(self, target: Mapping[str, Any], kind: Kind | None, prefix: str) -> Side:
        words = " ".join(record_fields.optional_text(target, "text").split())
        if kind is None:
            if not words:
                raise DatasetError(f"none of {', '.join(prefix + name for name in TARGET_FIELDS)}")
            return Side(words)
        pictures: tuple[Picture, ...]
        if kind == "clip":
            pictures = self._frames(record_fields.text(target, "video"))
        else:
            pictures = (record_fields.file_picture(self.folder, record_fields.text(target, "image")),)
        is_video = kind == "clip"
        prompt = final_prompt(
            DOCUMENT_INSTRUCTIONS[kind], words, image_count=0 if is_video else len(pictures), is_video=is_video
        )
        return Side(prompt, pictures, is_video)

    def _negative(self, entry: Any, kind: Kind | None, target: Mapping[str, Any]) -> Side:
        """A bare text means what the target is: a text, a picture or a video."""
        if isinstance(entry, str):
            entry = {"text" if kind is None else "video" if target["video"] else "image": entry}
        if not isinstance(entry, dict):
            raise DatasetError(f"a negative is a {type(entry).__name__}, not a text or an object")
        if unknown := sorted(set(entry) - set(TARGET_FIELDS)):
            raise DatasetError(f"unknown field {', '.join(unknown)} of a negative; known: {', '.join(TARGET_FIELDS)}")
        if entry.get("image") and entry.get("video"):
            raise DatasetError("both image and video in a negative")
        own: Kind | None = None
        if entry.get("video"):
            own = "clip"
        elif entry.get("image"):
            own = "page" if kind == "page" else "image"
        return self._target(entry, own, "negative ")

    def _frames(self, path: str) -> tuple[Picture, ...]:
        video = self.folder / path
        if video.is_dir():
            return record_fields.video_frames(video, self.frame_count)
        if not video.is_file():
            raise DatasetError(f"no video at {video}")
        count = self.frame_count
        return tuple(MadePicture(video_frame, (video, count, i), f"{video}#{i}/{count}") for i in range(count))

    def _scores(self, row: Mapping[str, Any], listed: int, kept: int) -> tuple[float, ...] | None:
        scores = row.get("teacher_scores")
        if scores is None:
            return None
        is_numbers = isinstance(scores, list) and all(
            isinstance(s, int | float) and not isinstance(s, bool) and np.isfinite(s) for s in scores
        )
        if not is_numbers or len(scores) != 1 + listed:
            raise DatasetError(f"teacher_scores must be {1 + listed} numbers: of the target, then of each negative")
        return tuple(map(float, scores[: 1 + kept]))


def video_frame(video: Path, count: int, number: int) -> Image.Image:
    """Frame `number` of `count` spread evenly over a video file; a video with fewer frames shows some of them again."""
    return _spread_frames(video, count)[number]


@lru_cache(maxsize=2)  # the frames of a clip are opened one after the other
def _spread_frames(video: Path, count: int) -> list[Image.Image]:
    shown_at = frame_times(video)
    indices = np.linspace(0, len(shown_at) - 1, count, dtype=int)
    return sample_frames(video, indices=indices, shown_at=shown_at)
