"""From a run's state to a checkpoint folder in its family's layout, adapter merged, with its model card."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path
from typing import Any

import torch
import yaml

from mmsearch.embedders.checkpoints import checkpoint as files
from mmsearch.embedders.checkpoints.adapter_merging import merge_adapter
from mmsearch.embedders.trainable import Trainable, trainable_class
from mmsearch.errors import ConfigError
from mmsearch.training.recipe import parse_recipe
from mmsearch.training.recipe.fields import Recipe
from mmsearch.training.run.adapters import adapted_layers, adapter_config, adapter_tensors
from mmsearch.training.run.metrics_log import read_metrics
from mmsearch.training.run.saved_state import State, find_state, load_state

FRAME = "model"
"""A run's folder of its model's configuration and tokenizer."""
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


def export_run(
    run: Path, to: Path | None = None, *, state: str = "newest", average: bool = True, dtype: str = "bfloat16"
) -> Path:
    """Write a checkpoint that `load_embedder` opens (and, of a Qwen2-VL, transformers); weights last.

    Args:
        to: the folder; `run/checkpoint` if None.
        state: "newest", or the stage and step of one that is kept: "1-500".
        average: take the moving average where the run keeps one.

    Returns: the folder.

    Raises:
        ConfigError: no such state; the base checkpoint is another than the run started from. ModelNotFound: it is gone.
    """
    path = find_state(run, state)
    found = load_state(path)
    recipe = parse_recipe(found.recipe, f"the recipe in {path}")
    family = trainable_class(files.Checkpoint(FRAME, run / FRAME))
    tensors = merged_tensors(found, recipe, family, found.weights if average else found.model)
    folder = to or run / "checkpoint"
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted((run / FRAME).iterdir()):
        shutil.copyfile(file, folder / file.name)
    config = files.read_json(folder / "config.json") | {"torch_dtype": dtype}
    files.write_json(folder / "config.json", config)
    card = model_card(recipe, found, read_metrics(run), family, is_average=average and bool(found.average))
    (folder / "README.md").write_text(card, encoding="utf-8")
    family.write_weights(folder, tensors, DTYPES[dtype])
    return folder


def merged_tensors(
    state: State, recipe: Recipe, family: type[Trainable], weights: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Every tensor of the model under its name in it: what was trained over what training started from."""
    tensors: dict[str, torch.Tensor] = {}
    if recipe.model.checkpoint is not None:
        base = files.find_checkpoint(recipe.model.checkpoint)
        if base.sha256() != state.base:
            raise ConfigError(
                f"{recipe.model.checkpoint} is not the checkpoint that this run started from (digest {state.base[:12]}); bring that back"
            )
        tensors = family.read_weights(base)
    if recipe.adapter is None:
        return tensors | weights
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    settings = adapter_config(recipe.adapter, adapted_layers(weights), recipe.model.checkpoint or "")
    merge_adapter(tensors, adapter_tensors(weights), settings)
    return tensors


def model_card(
    recipe: Recipe, state: State, rows: list[dict[str, Any]], family: type[Trainable], *, is_average: bool = False
) -> str:
    """README.md of an exported checkpoint: what it is, how it was made, from which data, what is known of it."""
    start = recipe.model.checkpoint
    front = {
        "base_model": start or "none (trained from scratch)",
        "library_name": "transformers",
        "pipeline_tag": "feature-extraction",
        "tags": list(family.about["tags"]),
    }
    stages = recipe.stages[: state.stage + 1]
    steps = sum(stage.steps for stage in stages[:-1]) + state.step
    planned = sum(stage.steps for stage in recipe.stages)
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=True).strip(),
        "---",
        f"# {recipe.name}",
        "",
        f"{family.about['what']}, trained with `mmsearch train` ({date.today().isoformat()}): "
        f"{steps:,} of {planned:,} steps{', exponential moving average of the weights' if is_average else ''}.",
        "",
        f"- Start: {start or 'a new model'}{_how_trained(recipe)}",
        f"- Embedding: {family.about['embedding']}",
        f"- Prompts: {family.about['prompts']}",
        f"- Pixels at most: {', '.join(f'{kind} {pixels:,}' for kind, pixels in recipe.max_pixels.items())} (per frame for clips).",
        "",
        "## Data",
        "",
        "The licences of the data decide what this checkpoint may be used for; they are those of the sources.",
        "",
        "| source | weight | licence |",
        "|---|---|---|",
    ]
    for source in recipe.sources:
        lines.append(
            f"| {source['name']} ({source.get('parser', '')}) | {source.get('weight', 1)} | {source.get('licence', 'as stated by its source')} |"
        )
    for name in dict.fromkeys(name for stage in recipe.stages for name in stage.mixture):
        lines.append(f"| teacher vectors: {name} | | as stated by its source |")
    lines += ["", "## Numbers", "", *_numbers(rows), "", "## Recipe", "", "```yaml"]
    lines += [
        yaml.safe_dump(
            recipe.model_dump(mode="json", by_alias=True, exclude_defaults=True), sort_keys=False, allow_unicode=True
        ).strip()
    ]
    return "\n".join([*lines, "```", ""])


def _how_trained(recipe: Recipe) -> str:
    if recipe.adapter is not None:
        kind = "DoRA" if recipe.adapter.dora else "LoRA"
        return f", {kind} of rank {recipe.adapter.rank}, alpha {recipe.adapter.alpha:g}, merged"
    return ", all weights trained" if recipe.trains_vision else ", vision tower frozen"


def _numbers(rows: list[dict[str, Any]]) -> list[str]:
    """What the run measured, the newest of each."""
    evaluated = [row for row in rows if row.get("evaluation")]
    lines = []
    if evaluated:
        newest = evaluated[-1]
        lines += [
            f"Held-out pairs after stage {newest['stage']}, step {newest['step']}:",
            "",
            "| what | value |",
            "|---|---|",
        ]
        lines += [f"| {name} | {value:.3f} |" for name, value in newest["evaluation"].items()]
    steps = [row for row in rows if row.get("loss") is not None]
    if steps:
        last = steps[-min(50, len(steps)) :]
        loss = sum(row["loss"] for row in last) / len(last)
        lines += ["", f"Loss over the last {len(last)} steps: {loss:.4f} (in training, not on held-out data)."]
    return lines or ["None were measured."]
