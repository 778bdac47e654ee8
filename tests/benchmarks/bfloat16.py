"""How far bfloat16 takes a checkpoint's embeddings from float32: python tests/benchmarks/bfloat16.py [CHECKPOINT].

Texts, pictures and clips drawn by a seeded generator; prints a JSON object with the cosines between both per kind, and the
largest change that any score between a text and a picture sees. Slow on a CPU without bfloat16 of its own.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from PIL import Image, ImageDraw

from mmsearch.embedders import load_embedder
from mmsearch.items import EmbedInput, Kind
from mmsearch.prompts import DOCUMENT_INSTRUCTIONS, TEXT_QUERY_INSTRUCTIONS

COLOURS = ("red", "green", "blue", "orange", "purple", "black", "white", "brown")
SHAPES = ("circle", "square", "triangle")


def drawing(colour: str, shape: str, side_px: int = 112) -> Image.Image:
    image = Image.new("RGB", (side_px, side_px), "lightgrey")
    corners = {"circle": 90, "square": 4, "triangle": 3}[shape]
    ImageDraw.Draw(image).regular_polygon((side_px / 2, side_px / 2, side_px / 3), corners, fill=colour)
    return image


def inputs() -> dict[str, list[EmbedInput]]:
    pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    image: Kind = "image"
    return {
        "text": [EmbedInput(TEXT_QUERY_INSTRUCTIONS[image], f"a {colour} {shape}") for colour, shape in pairs],
        "image": [EmbedInput(DOCUMENT_INSTRUCTIONS[image], images=(drawing(*pair),)) for pair in pairs],
        "clip": [
            EmbedInput(DOCUMENT_INSTRUCTIONS["clip"], images=(drawing(*pair),) * 4, is_video=True, kind="clip")
            for pair in pairs[:6]
        ],
    }


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "mini"
    exact, rounded = load_embedder(name, dtype="float32"), load_embedder(name, dtype="bfloat16")
    report: dict[str, object] = {"checkpoint": name, "device": exact.device}
    vectors: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for kind, batch in inputs().items():
        pair = exact.encode_documents(batch), rounded.encode_documents(batch)
        cosines = (pair[0] * pair[1]).sum(1)
        report[kind] = {"cosine_min": round(float(cosines.min()), 6), "cosine_mean": round(float(cosines.mean()), 6)}
        vectors[kind] = pair
    scores = [vectors["text"][i] @ vectors["image"][i].T for i in range(2)]
    report["largest_score_change"] = round(float(np.abs(scores[0] - scores[1]).max()), 6)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
