"""Training: a recipe in, a checkpoint out. `python -m mmsearch.training.train --recipe mini --run runs/mini`

The loop is short on purpose: draw sub-batches, embed, compare with the teacher's vectors, step. It may be killed at any moment:
the newest complete `state-<stage>-<step>.pt` is found again, and every example depends on the seed and the step alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import queue
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from transformers import Qwen2VLConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

from mmsearch.embedders.encoder import vision_features
from mmsearch.embedders.qwen2vl_inputs import MERGE, Batch
from mmsearch.embedders.vlm2vec import Vlm2VecEmbedder
from mmsearch.errors import ConfigError
from mmsearch.training.examples import Group, SubBatch, Texts, load_groups
from mmsearch.training.initial import (
    build_tokenizer,
    model_config,
    start_from_teacher,
    start_vision_from_patches,
)
from mmsearch.training.loss import bank_distillation, cosine_distance
from mmsearch.training.teacher import Teacher

log = logging.getLogger(__name__)

RECIPES = Path(__file__).parent / "recipes"
KEPT_STATES = 2


def load_recipe(name_or_file: str) -> dict[str, Any]:
    """A recipe by name (`mini`) or file. Raises: ConfigError."""
    path = Path(name_or_file)
    if not path.suffix:
        path = RECIPES / f"{name_or_file}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise ConfigError(f"no recipe {name_or_file!r}; give a YAML file or one of: {known}")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def new_embedder(recipe: dict[str, Any], teacher: Teacher, corpus: list[str]) -> Vlm2VecEmbedder:
    """The untrained model of a recipe; its random part depends on the recipe's seed."""
    torch.manual_seed(recipe["seed"])
    tokenizer = build_tokenizer()
    config = Qwen2VLConfig(**model_config(tokenizer, recipe["model"]["text"], recipe["model"]["vision"]))
    config._attn_implementation = "sdpa"
    model = Qwen2VLModel(config)
    start_from_teacher(model, tokenizer, teacher, corpus)
    return Vlm2VecEmbedder.from_model(
        model,
        tokenizer,
        name=recipe["name"],
        min_pixels=recipe["min_pixels"],
        max_pixels=recipe["max_pixels"],
        page_text_tokens=recipe["page_text_tokens"],
        query_text_tokens=recipe["query_text_tokens"],
    )


def learning_rate_factor(step: int, steps: int, *, warmup: int, decay: float) -> float:
    """Linear warm-up, plateau, linear decay to zero over the last `decay` share of the steps."""
    if step < warmup:
        return (step + 1) / warmup
    return min(1.0, (steps - step) / max(1.0, decay * steps)) if decay else 1.0


def build_optimizer(model: Qwen2VLModel, stage: dict[str, Any], settings: dict[str, Any]) -> torch.optim.AdamW:
    """AdamW over what the stage trains; token embeddings have a rate of their own, biases and norms no decay."""
    embeddings: list[torch.nn.Parameter] = []
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    trained = model.visual if stage["trains"] == "vision" else model
    for name, parameter in trained.named_parameters():
        if "embed_tokens" in name:
            embeddings.append(parameter)
        else:
            (matrices if parameter.ndim > 1 else others).append(parameter)
    rate = stage["learning_rate"]
    groups = [
        {"params": matrices, "base_lr": rate, "weight_decay": settings["weight_decay"]},
        {"params": others, "base_lr": rate, "weight_decay": 0.0},
        {"params": embeddings, "base_lr": stage.get("embedding_learning_rate", rate), "weight_decay": 0.0},
    ]
    filled = [group for group in groups if group["params"]]
    return torch.optim.AdamW(filled, lr=rate, betas=tuple(settings["betas"]), fused=True)


def batches(
    embedder: Vlm2VecEmbedder, groups: dict[str, Group], recipe: dict[str, Any], stage_number: int, first: int
) -> Iterator[list[tuple[SubBatch, Batch]]]:
    """The sub-batches of every step of a stage from `first` on, made ahead in a thread."""
    stage = recipe["stages"][stage_number]
    ready: queue.Queue[list[tuple[SubBatch, Batch]] | BaseException] = queue.Queue(maxsize=3)
    stopped = threading.Event()

    def put(item: list[tuple[SubBatch, Batch]] | BaseException) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put(item, timeout=0.5)

    def work() -> None:
        try:
            for step in range(first, stage["steps"]):
                drawn = []
                for name, share in stage["mixture"].items():
                    rng = random.Random(f"{recipe['seed']}:{stage['name']}:{step}:{name}")
                    part = groups[name].draw(share["batch"], rng, stage["sizes"])
                    budget = recipe["max_pixels"].get({"photo": "image"}.get(name, name))
                    bounds = None if budget is None else [budget] * len(part.prompts)
                    drawn.append((part, embedder.prepare(part.prompts, part.images, part.is_video, bounds)))
                put(drawn)
                if stopped.is_set():
                    return
        except BaseException as error:
            put(error)

    threading.Thread(target=work, name="draw", daemon=True).start()
    try:
        for _ in range(first, stage["steps"]):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()


def sample_patches(embedder: Vlm2VecEmbedder, photos: Group, recipe: dict[str, Any]) -> np.ndarray:
    """Normalised patches of a few hundred photos, float32 [n, 1176]."""
    part = photos.draw(400, random.Random(recipe["seed"]), recipe["stages"][0]["sizes"])
    return embedder.prepare(part.prompts, part.images, part.is_video).pixel_values().float().numpy()


def vision_embeddings(embedder: Vlm2VecEmbedder, batch: Batch) -> torch.Tensor:
    """Mean direction of each image's visual tokens, [len(batch), dim], unit length: the tower without the language model."""
    features = F.normalize(vision_features(embedder.model.visual, batch.pixel_values(), batch.grids), dim=-1)
    counts = [t * rows * columns // MERGE**2 for t, rows, columns in batch.grids]
    return F.normalize(torch.stack([part.mean(0) for part in features.split(counts)]), dim=-1)


def train(recipe: dict[str, Any], run: Path, *, work: Path, save_every_s: float = 240) -> Path:
    """Run a recipe to its end, or on from where it was interrupted.

    Args:
        run: folder for states, `metrics.jsonl` and, at the end, `checkpoint/` in the public Qwen2-VL layout.
        work: folder of rendered pages and teacher vectors, shared by runs.

    Returns: the checkpoint folder.
    """
    run.mkdir(parents=True, exist_ok=True)
    teacher = Teacher(work / "teacher", max_tokens=recipe["page_text_tokens"])
    groups = load_groups(recipe, work, teacher)
    words = groups["text"]
    if not isinstance(words, Texts):
        raise ConfigError("a recipe needs the group 'text': the model starts from its words")
    embedder = new_embedder(recipe, teacher, list(words.texts))
    model = embedder.model.train()
    if "photo" in groups:
        start_vision_from_patches(model, sample_patches(embedder, groups["photo"], recipe))
    log.info("%.1fM parameters", sum(p.numel() for p in model.parameters()) / 1e6)
    state = _newest_state(run)
    if state:
        model.load_state_dict(state["model"])
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as metrics:
        for number in range(state["stage"] if state else 0, len(recipe["stages"])):
            stage = recipe["stages"][number]
            optimizer = build_optimizer(model, stage, recipe["optimizer"])
            first = 0
            if state and state["stage"] == number:
                first = state["step"]
                optimizer.load_state_dict(state["optimizer"])
            log.info("stage %s, steps %d to %d", stage["name"], first, stage["steps"])
            saved = time.monotonic()
            for step, parts in enumerate(batches(embedder, groups, recipe, number, first), first):
                row = {"stage": stage["name"], "step": step, **_step(embedder, optimizer, stage, recipe, step, parts)}
                metrics.write(json.dumps(row) + "\n")
                metrics.flush()
                if step % 20 == 0:
                    log.info("%s", row)
                if time.monotonic() - saved > save_every_s:
                    _save_state(run, model, optimizer, number, step + 1)
                    saved = time.monotonic()
            _save_state(run, model, optimizer, number, stage["steps"])
    model.eval()
    folder = run / "checkpoint"
    embedder.save(folder)
    return folder


def _step(
    embedder: Vlm2VecEmbedder,
    optimizer: torch.optim.Optimizer,
    stage: dict[str, Any],
    recipe: dict[str, Any],
    step: int,
    parts: list[tuple[SubBatch, Batch]],
) -> dict[str, float]:
    started = time.monotonic()
    factor = learning_rate_factor(step, stage["steps"], warmup=stage["warmup"], decay=stage["decay"])
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    row: dict[str, float] = {"lr": round(factor, 4)}
    settings = recipe["loss"]
    for part, batch in parts:
        targets = torch.from_numpy(part.targets)
        embeddings = vision_embeddings(embedder, batch) if stage["trains"] == "vision" else embedder.forward(batch)
        distance = cosine_distance(embeddings, targets)
        contrast = bank_distillation(
            embeddings,
            targets,
            torch.from_numpy(part.bank),
            temperature=settings["temperature"],
            teacher_temperature=settings["teacher_temperature"],
        )
        (stage["mixture"][part.group]["weight"] * (contrast + settings["cosine"] * distance)).backward()
        row[f"{part.group}_cosine"] = round(1 - distance.item(), 4)
        row[f"{part.group}_loss"] = round(contrast.item(), 4)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, recipe["optimizer"]["clip"])
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {**row, "grad_norm": round(norm.item(), 3), "seconds": round(time.monotonic() - started, 2)}


def _save_state(run: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, stage: int, step: int) -> None:
    """Temporary file, then rename: a state file is complete or not there."""
    part = run / "state.part"
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "stage": stage, "step": step}
    torch.save(state, part)
    part.replace(run / f"state-{stage}-{step:07d}.pt")
    for old in sorted(run.glob("state-*.pt"))[:-KEPT_STATES]:
        old.unlink()


def _newest_state(run: Path) -> dict[str, Any] | None:
    states = sorted(run.glob("state-*.pt"))
    return torch.load(states[-1], weights_only=True) if states else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="mini")
    parser.add_argument("--run", type=Path, default=Path("runs/mini"))
    parser.add_argument("--work", type=Path, default=Path("runs/work"), help="rendered pages and teacher vectors")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = train(load_recipe(arguments.recipe), arguments.run, work=arguments.work)
    log.info("checkpoint in %s", folder)


if __name__ == "__main__":
    main()
