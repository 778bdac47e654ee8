"""LLaVA-Hound: captions of and questions about videos that are given as folders of frames.

Layout on the hub (ShareGPTVideo/train_video_and_instruction): `video_instruction/train/sft/*.jsonl` with
`{"id", "video", "conversations": [{"from", "value"}, …]}`, and `train_300k/*.tar.gz`, to be unpacked to
`train_300k/<video>/*.jpeg`.
Source: TIGER-AI-Lab/VLM2Vec@6e1e1d4 `src/data/dataset/llavahound_dataset_{caption,qa}.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmsearch.errors import DatasetError
from mmsearch.prompts import (
    DOCUMENT_INSTRUCTIONS,
    LLAVA_HOUND_INSTRUCTIONS,
    TEXT_QUERY_INSTRUCTIONS,
    conversation_prompt,
    final_prompt,
    video_retrieval_training_prompts,
)
from mmsearch.training.datasets import record_fields
from mmsearch.training.datasets.dataset_folders import DatasetFolders
from mmsearch.training.datasets.pairs import Pair, Side
from mmsearch.training.datasets.row_source import RowSource
from mmsearch.training.datasets.rows import JsonLines

HUB_NAME = "ShareGPTVideo/train_video_and_instruction"
LINES = {
    "caption": ("video_instruction/train/sft/video_caption_300k.jsonl",),
    # The first is made from the second: its first 240,000 lines. Behind them stand 15,000 captions, which the reference's
    # configuration trains on as if they were questions.
    "question": (
        "video_instruction/train/sft/video_qa_240k.jsonl",
        "video_instruction/train/sft/video_240k_caption_15k.jsonl",
    ),
}
QUESTIONS = 240_000
FRAMES = 8
MODES = ("caption_retrieval", "video_retrieval")
OWN_FIELDS = {"dataset_name", "dataset_path", "video_frame_basedir", "num_frames", "prompts"} | record_fields.DECODING


def open_captions(spec: Mapping[str, Any], folders: DatasetFolders) -> RowSource:
    """Fields: `data_mode`: "caption_retrieval" (the video with its question as query, the caption as target) or
    "video_retrieval" (the caption as query); `dataset_path` (the `.jsonl`), `video_frame_basedir` (the folder of frame
    folders), `num_frames` (8), `prompts`: of video_retrieval, "released" or "evaluation" (as search asks).
    """
    record_fields.check_spec(spec, OWN_FIELDS | {"data_mode"})
    mode = record_fields.choice(spec, "data_mode", MODES)
    lines, frames = _files(spec, folders, "caption")
    return LlavaHound(spec, lines, frames, mode)


def open_questions(spec: Mapping[str, Any], folders: DatasetFolders) -> RowSource:
    """Fields as for `open_captions`, without a mode. Of `video_240k_caption_15k.jsonl` the 240,000 questions are read."""
    record_fields.check_spec(spec, OWN_FIELDS)
    lines, frames = _files(spec, folders, "question")
    if lines.file.name == Path(LINES["question"][1]).name:
        spec = {**spec, "num_rows": None, "num_sample_per_subset": min(record_fields.cap(spec) or QUESTIONS, QUESTIONS)}
    return LlavaHound(spec, lines, frames, "question_answering")


class LlavaHound(RowSource):
    """The first two turns of each conversation, with the frames of its video."""

    def __init__(self, spec: Mapping[str, Any], lines: JsonLines, frames: Path, mode: str) -> None:
        super().__init__(spec, lines, default_name=f"{lines.file.stem}-{mode}")
        self.frames = frames
        self.mode = mode
        self.frame_count = record_fields.count(spec, "num_frames", FRAMES) or FRAMES
        self.decoding = record_fields.decoding(spec)
        self.prompts = record_fields.choice(spec, "prompts", ("released", "evaluation"))

    def read(self, row: dict[str, Any], key: str) -> Pair:
        asked, answered = _turns(row)
        frames = record_fields.video_frames(
            self.frames / record_fields.text(row, "video"), self.frame_count, self.decoding
        )
        if self.mode == "video_retrieval":
            query, target = video_retrieval_training_prompts(answered)
            if self.prompts == "evaluation":
                query = final_prompt(TEXT_QUERY_INSTRUCTIONS["clip"], answered)
                target = final_prompt(DOCUMENT_INSTRUCTIONS["clip"], is_video=True)
            return Pair(Side(query), Side(target, frames, is_video=True))
        query = conversation_prompt(asked)
        if self.mode == "question_answering":
            query = LLAVA_HOUND_INSTRUCTIONS["question"] + query
        return Pair(Side(query, frames, is_video=True), Side(answered))


def _turns(row: dict[str, Any]) -> tuple[str, str]:
    turns = row.get("conversations")
    if not isinstance(turns, list) or len(turns) < 2 or not all(isinstance(turn, dict) for turn in turns[:2]):
        raise DatasetError("conversations is not a list of a question and an answer")
    return record_fields.text(turns[0], "value"), record_fields.text(turns[1], "value")


def _files(spec: Mapping[str, Any], folders: DatasetFolders, sort: str) -> tuple[JsonLines, Path]:
    given_lines, given_frames = spec.get("dataset_path"), spec.get("video_frame_basedir")
    if given_lines and given_frames:
        file, frames = folders.local(given_lines), folders.local(given_frames)
    else:
        # The reference's `dataset_name` is a label of these sets, not a name on the hub.
        folder = folders.dataset_folder(
            spec,
            HUB_NAME,
            needed=f"{LINES[sort][0].rpartition('/')[0]}/*.jsonl",
            patterns=[*LINES[sort], "train_300k/*"],
        )
        known = [folder / name for name in LINES[sort]]
        default = next((path for path in known if path.is_file()), known[0])
        file = folders.local(given_lines) if given_lines else default
        frames = folders.local(given_frames) if given_frames else folder / "train_300k"
    if not frames.is_dir():
        raise DatasetError(f"no folder of frames at {frames}")
    packed = sorted(path.name for path in frames.glob("*.tar.gz"))
    if packed and not any(path.is_dir() for path in frames.iterdir()):
        raise DatasetError(f"the frames are still packed: unpack {', '.join(packed[:3])}… in {frames}")
    return JsonLines(file), frames
