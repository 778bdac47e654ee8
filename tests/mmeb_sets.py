"""A miniature MMEB-V2, made by code in the layout in which the real one is published: every task, a few queries each.

`build(data)` writes rows to `<data>/<owner>/<name>/` and media to `<data>/TIGER-Lab/MMEB-V2/`. A picture's number can be
read back with `training_sets.number_of`; query i of an image task shows picture i, and picture i is its right answer.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from mmsearch.evaluation.mmeb.hub import MEDIA_HUB
from mmsearch.evaluation.mmeb.tasks import TASKS, Task
from tests.training_sets import colour

QUERIES = 3
CANDIDATES = 4
PAGES = 5
FRAMES = 10
"""In a folder: more than the 8 that are taken."""
MVBENCH = (
    "episodic_reasoning", "action_sequence", "action_prediction", "action_antonym", "fine_grained_action",
    "unexpected_action", "object_existence", "object_interaction", "object_shuffle", "moving_direction",
    "action_localization", "scene_transition", "action_count", "moving_count", "moving_attribute", "state_change",
    "fine_grained_pose", "character_order", "egocentric_navigation", "counterfactual_inference",
)  # fmt: skip
IMAGE_TASKS = [task.name for task in TASKS.values() if task.modality == "image"]
LABELS = {"K700": ("fly_tying", "luge"), "HMDB51": ("wave", "dive"), "UCF101": ("Kayaking", "PlayingDaf"), "Breakfast": ("tea", "juice")}  # fmt: skip


def build(data: Path, tasks: Iterable[str] | None = None) -> Path:
    """Writes the sets of the named tasks, by default of all, variants too; `data`."""
    for name in TASKS if tasks is None else tasks:
        task = TASKS[name]
        WRITERS[task.family](task, data)
    return data


@cache
def encoded(number: int, format: str = "PNG") -> bytes:
    """A picture of one colour with a shape in its middle that goes with it."""
    image = Image.new("RGB", (48, 36), colour(number))
    draw = ImageDraw.Draw(image)
    shape = (draw.ellipse, draw.rectangle, draw.pieslice)[number % 3]
    extra = {"start": 20, "end": 300} if shape == draw.pieslice else {}
    shape((14, 10, 34, 26), fill=colour(511 - number), **extra)
    out = io.BytesIO()
    image.save(out, format)
    return out.getvalue()


def write_picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(number, "PNG" if path.suffix == ".png" else "JPEG"))


def write_frames(
    folder: Path, video: int, *, count: int = FRAMES, name: str = "frame_{:04d}.jpg", first: int = 1
) -> None:
    """Frame f of video v is picture 16 v + f; names as the reference writes them."""
    for frame in range(count):
        write_picture(folder / name.format(frame + first), 16 * video + frame)


def write_rows(folder: Path, config: str | None, split: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """`<config>/<split>-00000-of-00001.parquet`, or `data/…` where there are no configurations."""
    file = folder / (config or "data") / f"{split}-00000-of-00001.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), file)


def rotated(values: Sequence[Any], first: int) -> list[Any]:
    """All values, with one of them at the front."""
    return [values[first], *(value for n, value in enumerate(values) if n != first)]


def image_set(task: Task, data: Path) -> None:
    """Rows whose instructions and texts give the prompts of the table; pictures lie in a pool that all tasks share."""
    for number in range(CANDIDATES):
        write_picture(data / MEDIA_HUB / task.media / f"pool/{number}.png", number)
    has_caption = "{text}" in task.target
    shown = raw_instruction(task.target, keeps_break=task.family == "image_i2i_vg" and not has_caption)
    rows = []
    for i in range(QUERIES):
        texts = rotated([answer(task, k) for k in range(CANDIDATES)], i)
        paths = [""]
        if not has_caption:
            texts = [""] * CANDIDATES
        if task.family in ("image_t2i", "image_i2i_vg"):
            paths = rotated([f"pool/{k}.png" for k in range(CANDIDATES)], i)
            texts = [f'"{text}"' if QUOTED in task.target else text for text in texts]
        words = question(i) if "{text}" in task.query else ""
        rows.append({
            "qry_inst": raw_instruction(task.query),
            "qry_text": f'"{words}"' if QUOTED in task.query else words,
            "qry_img_path": "" if task.family == "image_t2i" else f"pool/{i}.png",
            "tgt_inst": "" if task.target == "{text}" else shown,
            "tgt_text": texts,
            "tgt_img_path": paths,
        })  # fmt: skip
    write_rows(data / task.hub, task.config, task.split, rows)


QUOTED = '"{text}"'
TOKEN = "<|image_pad|>\n"


def raw_instruction(prompt: str, *, keeps_break: bool = False) -> str:
    """The instruction that a row must carry for its prompt to come out; with `keeps_break`, its last line break too."""
    end = "\n" if keeps_break and prompt.endswith("\n") else ""
    words = prompt.replace(QUOTED, "").replace("{text}", "").removeprefix(TOKEN).strip()
    return ("<|image_1|>\n" if prompt.startswith(TOKEN) else "") + words + end


def question(i: int) -> str:
    return ("What stands left of the box?", "Which colour has the {circle}?", "How many are there?")[i]


def answer(task: Task, k: int) -> str:
    return f"{task.name} answer {k}"


def page_set(task: Task, data: Path) -> None:
    """A corpus of pages 100…; question i is answered by page i and, in ViDoRe 2, a little by page i + 1."""
    folder = data / task.hub
    is_graded, ids = task.group == "D-V2", str if task.family == "visrag" else int
    languages = ("english", "french") if is_graded and "human" not in task.name else (None,)
    queries, judged = [], []
    for number, language in enumerate(languages):
        for i in range(QUERIES):
            key = ids(number * QUERIES + i)
            queries.append({"query-id": key, "query": question(i)} | ({"language": language} if language else {}))
            judged.append({"query-id": key, "corpus-id": ids(i), "score": 2 if is_graded else 1})
            judged.append({"query-id": key, "corpus-id": ids(i + 1), "score": 1 if is_graded else 0})
    corpus = [{"corpus-id": ids(k), "image": {"bytes": encoded(100 + k), "path": f"{k}.png"}} for k in range(PAGES)]
    for config, rows in (("queries", queries), ("corpus", corpus), ("qrels", judged)):
        write_rows(folder, config, task.split, rows)


WRITERS = {
    **dict.fromkeys(("image_cls", "image_qa", "image_i2t", "image_t2i", "image_i2i_vg"), image_set),
    **dict.fromkeys(("vidore", "visrag"), page_set),
}
"""By loader family."""
