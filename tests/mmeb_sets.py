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


def frame_folder(task: Task, data: Path) -> Path:
    return data / MEDIA_HUB / task.media


def class_set(task: Task, data: Path) -> None:
    """Video i shows class i; the first class stands in two rows."""
    folder = frame_folder(task, data)
    classes = CLASSES[task.name]
    rows: list[dict[str, Any]] = []
    for i in range(QUERIES):
        label = classes[i % len(classes)]
        if task.family == "ssv2":
            rows.append({"video_id": 1000 + i, "pos_text": label, "neg_text": list(classes)})
        else:
            rows.append({"video_id": f"v_{i}", "pos_text": label})
        write_frames(folder / str(rows[-1]["video_id"]), i)
    write_rows(data / task.hub, task.config, task.split, rows)


CLASSES = {
    "K700": ("fly_tying", "luge"),
    "HMDB51": ("wave", "dive"),
    "UCF101": ("Kayaking", "PlayingDaf"),
    "Breakfast": ("tea", "juice"),
    "SmthSmthV2": ("Closing something", "Opening something", "Folding something"),
}


def described_set(task: Task, data: Path) -> None:
    """Description i belongs to video i."""
    rows = []
    for i in range(QUERIES):
        name, text = f"clip {i}", f"A dog jumps {i} times"
        if task.family == "msrvtt":
            rows.append({"video_id": name, "video": f"{name}.mp4", "caption": text, "source": "MSR-VTT"})
        elif task.family == "msvd":
            rows.append({"video_id": name, "video": f"{name}.avi", "caption": [text, "something else"]})
        elif task.family == "didemo":
            rows.append({"video": f"videos/{name}.mp4", "caption": text})
        elif task.family == "vatex":
            rows.append({"videoID": name, "enCap": [text, "something else"], "chCap": []})
        else:
            rows.append({"id": name, "video_path": f"./val/101/{name}.mp4", "sentence": text})
        write_frames(frame_folder(task, data) / name, i)
    write_rows(data / task.hub, task.config, task.split, rows)


def moment_set(task: Task, data: Path) -> None:
    """Two videos with a right clip and two wrong ones each; the third query is about the first video again."""
    for video in range(2):
        folder = frame_folder(task, data) / f"film_{video}"
        write_frames(folder / "query", video)
        for number, clip in enumerate(("positive_7", "negative_10", "negative_9")):
            write_frames(folder / clip, 4 * video + number + 2, count=3 if number else 9)
        (folder / "notes.txt").write_text("not a clip")
    rows = [{"query": question(i), "video_path": f"videos/film_{i % 2}.mp4"} for i in range(QUERIES)]
    write_rows(data / task.hub, task.config, task.split, rows)


def momentseeker_set(task: Task, data: Path) -> None:
    """A text alone, with a picture and with a video; the first has two right clips."""
    folder = frame_folder(task, data)
    for clip in range(4):
        write_frames(folder / f"video_frames/films_film_1_{clip}", clip, count=9 + clip)
    write_frames(folder / "video_frames/asked_film", 7, count=3)
    write_picture(folder / "query_seen.jpg", 9)
    clips = [{"output_path": f"films/film_1_{k}.mp4"} for k in range(4)]
    rows = [
        {"query": question(0), "positive_frames": clips[:2], "negative_frames": clips[2:], "input_frames": ""},
        {"query": question(1), "positive_frames": clips[1:2], "negative_frames": [clips[0], clips[3]], "input_frames": "seen.jpg"},
        {"query": question(2), "positive_frames": clips[2:3], "negative_frames": clips[:2], "input_frames": "asked/film.mp4"},
    ]  # fmt: skip
    write_rows(data / task.hub, task.config, task.split, rows)


def question_set(task: Task, data: Path) -> None:
    """Option i is the answer of question i; questions 0 and 2 are about the same video."""
    rows: list[dict[str, Any]] = []
    options = ["red", "green", "blue", "white", "black"]
    lettered = [f"{'ABCDE'[k]}. {option}." for k, option in enumerate(options)]
    for i in range(QUERIES):
        video = f"film{i % 2}"
        asked = {"question": question(i)}
        if task.family == "videomme":
            more = {"domain": "d", "sub_category": "s", "question_id": f"{i}"}
            rows.append(asked | more | {"videoID": video, "options": lettered[:4], "answer": "ABC"[i]})
        elif task.family == "egoschema":
            rows.append(asked | {"video_idx": video, "question_idx": f"{i}", "option": lettered, "answer": str(i)})
        elif task.family == "nextqa":
            own = {f"a{k}": option for k, option in enumerate(options)}
            rows.append(asked | own | {"video": 4000 + i % 2, "answer": i, "qid": i, "type": "CW"})
            video = str(4000 + i % 2)
        else:
            rows.append({"video_name": video, "question": question(i)[:-1], "question_id": f"{i}", "answer": ("yes", "no")[i % 2]})  # fmt: skip
            video = f"v_{video}"
        write_frames(frame_folder(task, data) / video, i % 2, name="{:04d}.jpeg", first=0)
    write_rows(data / task.hub, task.config, task.split, rows)


def mvbench_set(task: Task, data: Path) -> None:
    """A row in each of the 20 configurations; all show the same few pictures."""
    for number, part in enumerate(MVBENCH):
        options = ["red", "green", "blue", "white", "black"][: 3 + number % 3]
        row = {"video": f"{part}.mp4", "question": question(number % 3), "candidates": options, "answer": options[1]}
        write_rows(data / task.hub, part, task.split, [row])
        write_frames(frame_folder(task, data) / part / f"{part}.mp4", number % 3, count=2, name="{:04d}.jpeg", first=0)


WRITERS = {
    **dict.fromkeys(("image_cls", "image_qa", "image_i2t", "image_t2i", "image_i2i_vg"), image_set),
    **dict.fromkeys(("video_classification", "ssv2"), class_set),
    **dict.fromkeys(("msrvtt", "msvd", "didemo", "vatex", "youcook2"), described_set),
    "moment_retrieval": moment_set,
    "momentseeker": momentseeker_set,
    **dict.fromkeys(("videomme", "nextqa", "egoschema", "activitynetqa"), question_set),
    "mvbench": mvbench_set,
    **dict.fromkeys(("vidore", "visrag"), page_set),
}
"""By loader family."""
