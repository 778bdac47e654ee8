"""A tiny model, made pairs and a recipe over them, for tests of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmsearch.items import KINDS
from tests import training_sets as made
from tests.tiny_models import tiny_compact
from tests.unit.test_vlm2vec import random_embedder

COLOURS = {
    "red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220), "yellow": (230, 220, 40), "black": (10, 10, 10),
    "white": (245, 245, 245), "grey": (128, 128, 128), "orange": (240, 140, 20),
}  # fmt: skip
SHAPES = ("plain", "striped", "framed")
PAIRS = len(COLOURS) * len(SHAPES)
"""24: every colour in every manner."""


FAMILIES = ("vlm2vec", "compact_vlm")
"""Those that can be trained."""


def write_checkpoint(folder: Path, family: str = "vlm2vec", **options: Any) -> Path:
    """A random model of 0.2M to 0.3M parameters."""
    if family == "compact_vlm":
        return tiny_compact(folder, sidecar=options, max_pixels=dict.fromkeys(KINDS, 4096))
    random_embedder(**options).save(folder, dtype=torch.float32)
    return folder


def write_pairs(folder: Path, *, suffix: str = ".jsonl", bad: int = 0) -> Path:
    """Words and the picture that they describe, one JSON object per line, and `bad` lines whose picture is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, colour in COLOURS.items():
        for shape in SHAPES:
            file = f"{name}-{shape}.png"
            picture(colour, shape).save(folder / file)
            lines.append({"query": f"a {shape} {name} picture", "target_image": file})
    lines += [{"query": f"nothing {number}", "target_image": f"missing-{number}.png"} for number in range(bad)]
    path = folder / f"pairs{suffix}"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def picture(colour: tuple[int, int, int], shape: str) -> Image.Image:
    pixels = np.empty((56, 56, 3), np.uint8)
    pixels[:] = colour
    if shape == "striped":
        pixels[::8] = pixels[1::8] = pixels[2::8] = 255 - pixels[::8]
    elif shape == "framed":
        inside = pixels[10:-10, 10:-10].copy()
        pixels[:] = 255 - pixels
        pixels[10:-10, 10:-10] = inside
    return Image.fromarray(pixels)


def recipe_over(checkpoint: Path, pairs: Path, **changes: Any) -> dict[str, Any]:
    """A recipe as plain data: 12 steps of 8 pairs, in two sub-batches, through several chunks."""
    return {
        "name": "tiny",
        "seed": 5,
        "model": {"from": str(checkpoint)},
        "max_pixels": {"page": 4096, "image": 4096, "clip": 4096},
        "precision": "float32",
        "workers": 0,
        "chunk_positions": 100,
        "sources": [{"name": "made", "parser": "jsonl", "dataset_path": str(pairs)}],
        "stages": [
            {
                "name": "only",
                "steps": 12,
                "learning_rate": 0.003,
                "warmup": 2,
                "schedule": "linear",
                "pairs": {"batch_size_global": 8, "sub_batch_size": 4},
            }
        ],
        **changes,
    }


PUBLISHED = (
    "A-OKVQA",
    "colpali_train_set",
    "visrag-indomain",
    "video_caption_300k",
    "video_caption_300k-video",
    "video_qa_240k",
)
"""Sources of the recipe vlm2vec_v2_qwen2vl_2b that `write_published_sets` writes: all families."""


def write_published_sets(data: Path, rows: int = 8) -> None:
    """Miniature sets in the layouts of the hub, under the names that the recipe looks for; each with a bad record."""
    mmeb, hound = data / "TIGER-Lab/MMEB-train", data / "ShareGPTVideo/train_video_and_instruction"
    ask = "<|image_1|>\nRepresent the given image with the following question: Which?\n"
    image = "images/A-OKVQA/Train/{}.jpg"
    answers = [(ask, image.format(number), f"answer {number}", "", "", "") for number in range(rows)]
    answers.append((ask, image.format("nowhere"), "lost", "", "", ""))
    made.mmeb(mmeb, "A-OKVQA", [dict(zip(made.MMEB_COLUMNS, row, strict=True)) for row in answers])
    for number in range(rows):
        made.write_picture(mmeb / image.format(number), number)
    broken = {"bytes": b"broken", "path": "broken.png"}
    pages = [*map(made.stored, range(rows)), broken]
    questions = [{"image": page, "query": f"how many {n}?", "answer": f"{n} pieces"} for n, page in enumerate(pages)]
    made.colpali(data / "vidore/colpali_train_set", questions)
    found = [{"image": page, "query": f"who made {n}?", "source": "ArxivQA"} for n, page in enumerate(pages)]
    made.visrag(data / "openbmb/VisRAG-Ret-Train-In-domain-data", found)
    clips = {f"clip{number}": 9 for number in range(rows)}
    turns = [made.conversation(clip, "<video>\nWhat happens?", f"thing {clip}") for clip in [*clips, "clip-lost"]]
    for name in ("video_caption_300k", "video_qa_240k"):
        made.llava_hound(hound, name, turns, clips)
