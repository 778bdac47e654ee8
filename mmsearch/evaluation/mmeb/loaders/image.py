"""The 36 image tasks (MMEB-V1): classification, questions, retrieval, grounding.

Layout on the hub (ziyjiang/MMEB_Test_Instruct): a configuration for each task, split `test`, with `qry_inst, qry_text,
qry_img_path, tgt_inst, tgt_text, tgt_img_path`; the last two are lists of candidates, the right one first. Pictures lie
under `image-tasks/` of TIGER-Lab/MMEB-V2.

Which line breaks and spaces stand where follows V1's evaluation, to the letter.
Source: TIGER-AI-Lab/VLM2Vec@6e1e1d4 `src/data/eval_dataset/image_{cls,qa,i2t_eval,t2i_eval,i2i_vg}_dataset.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmsearch.errors import DatasetError
from mmsearch.evaluation.mmeb.data import Collector, Side, TaskData, TaskQuery, text_side
from mmsearch.evaluation.mmeb.hub import media_folder, read_rows, row_files
from mmsearch.evaluation.mmeb.tasks import Task
from mmsearch.media.pictures import Decoding, FilePicture
from mmsearch.prompts import IMAGE_TOKEN, PHI_IMAGE_TOKEN

Row = Mapping[str, Any]


def image_to_text(task: Task, data: Path) -> TaskData:
    """A picture, sometimes with words, and the texts to choose from: classes or captions."""
    return _collect(task, data, lambda row: _shown(row["qry_inst"].replace(PHI_IMAGE_TOKEN, ""), row), _texts)


def image_question(task: Task, data: Path) -> TaskData:
    """A picture with a question, and answers to choose from."""
    return _collect(task, data, _asked_of_picture, _texts)


def text_to_image(task: Task, data: Path) -> TaskData:
    """Words, and pictures to choose from, sometimes with words of their own. The query shows no picture.

    A placeholder in the query's instruction stays as a token without picture (EDIS, WebQA), as the reference has it.
    """
    breaks = "\n\n" if task.name == "VisDial" else "\n"

    def query(row: Row) -> tuple[str, bool]:
        return f"{row['qry_inst'].replace(PHI_IMAGE_TOKEN, IMAGE_TOKEN)} {row['qry_text']}{breaks}", False

    worded = str.strip if task.protocol == "qwen3vl_embedding" else str
    return _collect(task, data, query, _pictures(bare_end="\n", name=lambda path, caption: path, worded=worded))


def image_to_image(task: Task, data: Path) -> TaskData:
    """A picture with words or without, and pictures to choose from, sometimes with words of their own."""

    def name(path: str, caption: str) -> str:
        quote = '"'
        return f"{path}:{caption.strip(quote)}"

    return _collect(task, data, _asked_of_picture, _pictures(bare_end="", name=name))


Candidates = Callable[[Collector, Row, "Pictures"], list[str]]


class Pictures:
    """The pictures of the image tasks, by the paths that rows give."""

    def __init__(self, folder: Path, decoding: Decoding) -> None:
        self.folder = folder
        self.decoding = decoding

    def __getitem__(self, path: str) -> FilePicture:
        """Raises: DatasetError: it is not there."""
        if not path:
            raise DatasetError("no path of a picture")
        found = self.folder / path
        if not found.is_file():
            raise DatasetError(f"no picture at {found}")
        return FilePicture(found, self.decoding)


def _collect(task: Task, data: Path, query: Callable[[Row], tuple[str, bool]], candidates: Candidates) -> TaskData:
    """Args: `query` gives the prompt and whether the picture is shown; `candidates` the names, the right one first."""
    files = row_files(task, data)
    pictures = Pictures(media_folder(task, data), task.decoding)
    collector = Collector(task)

    def row_query(key: str, row: Row) -> TaskQuery:
        prompt, is_shown = query(row)
        side = Side(
            prompt=prompt,
            instruction=_instruction(row["qry_inst"]),
            text=row["qry_text"] or "",
            pictures=(pictures[row["qry_img_path"]],) if is_shown else (),
        )
        names = candidates(collector, row, pictures)
        return TaskQuery(key, side, (names[0],), candidates=tuple(names))

    collector.read(read_rows(files), row_query)
    return collector.data()


def _texts(collector: Collector, row: Row, pictures: Pictures) -> list[str]:
    texts = row["tgt_text"]
    if not texts:
        raise DatasetError("tgt_text is empty")
    return [collector.candidate(text, text_side, text) for text in texts]


def _pictures(*, bare_end: str, name: Callable[[str, str], str], worded: Callable[[str], str] = str) -> Candidates:
    """Args: `bare_end` ends the prompt of a picture without words; `name` makes a candidate's name of path and words; `worded` makes of its
    words what models with prompts of their own read."""

    def candidates(collector: Collector, row: Row, pictures: Pictures) -> list[str]:
        paths, captions = row["tgt_img_path"], row["tgt_text"]
        if not paths or not captions:
            raise DatasetError("tgt_img_path or tgt_text is empty")
        bare = row["tgt_inst"].replace(PHI_IMAGE_TOKEN, "")
        has_words = bool(captions[0].strip())
        if has_words and len(captions) != len(paths):
            raise DatasetError(f"{len(paths)} tgt_img_path and {len(captions)} tgt_text")
        captions = captions if len(captions) == len(paths) else [captions[0]] * len(paths)

        def side(path: str, caption: str) -> Side:
            words = f"{bare} {caption}" if has_words else bare
            end = "\n" if has_words else bare_end
            return Side(
                prompt=f"{IMAGE_TOKEN} {words}".replace(" \n", "\n") + end,
                instruction=_instruction(row["tgt_inst"]),
                text=worded(caption) if has_words else "",
                pictures=(pictures[path],),
            )

        return [
            collector.candidate(name(path, caption), side, path, caption)
            for path, caption in zip(paths, captions, strict=True)
        ]

    return candidates


def _asked_of_picture(row: Row) -> tuple[str, bool]:
    return _shown("\n" + row["qry_inst"].replace(PHI_IMAGE_TOKEN, "").strip(), row)


def _shown(instruction: str, row: Row) -> tuple[str, bool]:
    words = f"{instruction} {row['qry_text']}" if row["qry_text"] else instruction
    return f"{IMAGE_TOKEN} {words}".replace(" \n", "\n") + "\n", True


def _instruction(raw: str) -> str:
    return raw.replace(PHI_IMAGE_TOKEN, "").strip()
