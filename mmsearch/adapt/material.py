"""From a plan to what the training engine takes: pairs as JSON lines, groups that keep what was known, a recipe."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmsearch.adapt.kept import Kept, everyday_queries
from mmsearch.adapt.pictures import Pictures
from mmsearch.adapt.plan import OwnPair, Plan
from mmsearch.disk.replace import replace_file
from mmsearch.embedders.forward.qwen2vl_inputs import first_tokens
from mmsearch.embedders.trainable import Trainable
from mmsearch.items import KINDS, Item, Kind
from mmsearch.prompts import DOCUMENT_INSTRUCTIONS, final_prompt
from mmsearch.training.recipe import parse_recipe
from mmsearch.training.recipe.fields import Recipe

LARGE_PARAMETERS = 200_000_000
"""From this size on an adapter is trained, not all weights."""
LEARNING_RATE = {"compact_vlm": 8e-5}
"""The rate at which the shipped checkpoint's words were trained (`mmsearch/training/assembly/mini.yaml`); not studied here."""
BATCH, SUB_BATCH = 32, 16
PASSES = 3
LEAST_STEPS = 20
LEAST_OF_SOURCE = 8
"""A source with fewer different targets than half of a sub-batch has too few negatives."""
KEPT_BATCH = {"text": 24, "page": 4, "image": 8, "clip": 2}
KEPT_ITEMS = 500


def write_pairs(
    plan: Plan,
    pictures: Pictures,
    embedder: Trainable,
    folder: Path,
    instructions: Mapping[str, str] | None = None,
) -> dict[str, Path]:
    """A file of pairs per source, as `mmsearch.training.datasets.jsonl` reads them; pairs without pictures are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    by_source: dict[str, list[OwnPair]] = defaultdict(list)
    for pair in plan.pairs:
        if pictures.path(pair.item_id, is_clip=pair.kind == "clip").exists():
            by_source[pair.source].append(pair)
    written = {}
    for source, pairs in by_source.items():
        if len({pair.key for pair in pairs}) < LEAST_OF_SOURCE:
            continue
        path = folder / f"{source.replace(' ', '-')}.jsonl"
        with replace_file(path, durable=False) as temporary, temporary.open("w", encoding="utf-8") as file:
            for pair in pairs:
                file.write(json.dumps(_line(pair, pictures, embedder)) + "\n")
        written[source] = path
    return written


def _line(pair: OwnPair, pictures: Pictures, embedder: Trainable) -> dict[str, Any]:
    place = str(pictures.path(pair.item_id, is_clip=pair.kind == "clip").absolute())
    words = " ".join(pair.target_text.split())
    line: dict[str, Any] = {
        "query": pair.query,
        "kind": pair.kind,
        "target_video" if pair.kind == "clip" else "target_image": place,
        "target_text": first_tokens(embedder.tokenizer, words, embedder.page_text_tokens),
        "target_key": pair.key,
    }
    return line if pair.instruction is None else line | {"instruction": pair.instruction}


def kept_groups(
    plan: Plan, items: Sequence[Item], vectors: Mapping[int, np.ndarray], pictures: Pictures, embedder: Trainable
) -> dict[str, Kept]:
    """Everyday queries, and items of the training side about which nothing is said, with the vectors that they have in the library."""
    groups = {"text": everyday_queries(embedder)}
    said = {pair.item_id for pair in plan.pairs}
    for kind in KINDS:
        own = [i for i in items if i.kind == kind and i.id not in said and i.id in vectors and pictures.has(i)]
        own = own[:KEPT_ITEMS]
        if len(own) < KEPT_BATCH[kind]:
            continue
        prompts, files = [], []
        for item in own:
            words = " ".join(item.text.split()) if embedder.page_text else ""
            text = first_tokens(embedder.tokenizer, words, embedder.page_text_tokens)
            is_clip = kind == "clip"
            prompts.append(
                final_prompt(DOCUMENT_INSTRUCTIONS[kind], text, image_count=0 if is_clip else 1, is_video=is_clip)
            )
            path = pictures.path(item, is_clip=is_clip)
            files.append(sorted(path.iterdir()) if is_clip else [path])
        bank = np.stack([vectors[item.id] for item in own])
        groups[kind] = Kept(kind, prompts, bank, files, is_video=kind == "clip")
    return groups


def unsaid(plan: Plan, items: Sequence[Item]) -> list[Item]:
    """Items of the training side without words, as many as `kept_groups` takes: their pictures are needed."""
    said = {pair.item_id for pair in plan.pairs}
    trains = set(plan.ids("train"))
    own: dict[Kind, list[Item]] = {kind: [] for kind in KINDS}
    for item in items:
        if item.id in trains and item.id not in said and len(own[item.kind]) < KEPT_ITEMS:
            own[item.kind].append(item)
    return [item for of_kind in own.values() for item in of_kind]


def make_recipe(
    embedder: Trainable,
    start: str,
    files: Mapping[str, Path],
    groups: Mapping[str, Kept],
    *,
    steps: int | None = None,
) -> Recipe:
    """How this model is adapted: few steps at a low rate, held to its own vectors of what is kept.

    Args:
        start: the checkpoint, as `load_embedder` takes it. steps: `PASSES` over the pairs if None.
    """
    is_large = sum(weight.numel() for weight in embedder.model.parameters()) >= LARGE_PARAMETERS
    sources, total = [], 0
    for name, path in files.items():
        with path.open(encoding="utf-8") as lines:
            count = sum(1 for _ in lines)
        total += count
        kind = name.split()[0]
        sources.append(
            {
                "name": name,
                "parser": "jsonl",
                "dataset_path": str(path.absolute()),
                "weight": math.sqrt(count),
                "max_pixels": embedder.max_pixels[kind],  # type: ignore[index]
                "licence": "the user's own files",
            }
        )
    steps = steps or max(LEAST_STEPS, math.ceil(PASSES * total / BATCH))
    stage = {
        "name": "adapt",
        "steps": steps,
        "learning_rate": 1e-4 if is_large else LEARNING_RATE.get(embedder.family, 2e-4),
        "schedule": "cosine",
        "warmup": max(2, steps // 10),
        "mixture": {name: {"batch": KEPT_BATCH[name], "weight": 0.5} for name in groups},
        "pairs": {"batch_size_global": BATCH, "sub_batch_size": SUB_BATCH},
    }
    record: dict[str, Any] = {
        "name": embedder.name,
        "model": {"from": start},
        "adapter": {} if is_large else None,
        "min_pixels": embedder.min_pixels,
        "max_pixels": dict(embedder.max_pixels),
        "page_text_tokens": embedder.page_text_tokens,
        "query_text_tokens": embedder.query_text_tokens,
        "chunk_positions": 4096,
        "workers": 0,
        "loss": {
            "temperature": 0.02 if is_large else 0.05,
            "negatives_from": "source",
            "mask_false_negatives": True,
            "false_negative_margin": 0.1,
            "cosine": 2.0,
        },
        "optimizer": {"weight_decay": 0.01, "betas": [0.9, 0.98]},
        "saving": {"every_s": 60, "keep": 1},
        "sources": sources,
        "stages": [stage],
    }
    return parse_recipe(record, "the recipe of an adaptation")
