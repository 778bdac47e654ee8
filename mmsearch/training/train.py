"""Training: a recipe in, a checkpoint out. `python -m mmsearch.training.train --recipe mini --run runs/mini`

The loop is short on purpose: draw sub-batches, embed, compare with the teacher's vectors, step. It may be killed at any moment:
the newest complete `state-<step>.pt` is found again, and every example depends on the seed and the step alone.
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

import torch
import yaml
from transformers import Qwen2VLConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

from mmsearch.embedders.qwen2vl_inputs import Batch
from mmsearch.embedders.vlm2vec import Vlm2VecEmbedder
from mmsearch.errors import ConfigError
from mmsearch.training.examples import Group, SubBatch, load_groups
from mmsearch.training.initial import build_tokenizer, model_config, start_from_teacher
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
    return min(1.0, (steps - step) / max(1, decay * steps))


def build_optimizer(model: torch.nn.Module, settings: dict[str, float]) -> torch.optim.AdamW:
    """AdamW; token embeddings have a rate of their own, biases and norms no decay."""
    embeddings, matrices, others = [], [], []
    for name, parameter in model.named_parameters():
        if "embed_tokens" in name:
            embeddings.append(parameter)
        else:
            (matrices if parameter.ndim > 1 else others).append(parameter)
    groups = [
        {"params": embeddings, "base_lr": settings["embedding_learning_rate"], "weight_decay": 0.0},
        {"params": matrices, "base_lr": settings["learning_rate"], "weight_decay": settings["weight_decay"]},
        {"params": others, "base_lr": settings["learning_rate"], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings["learning_rate"], betas=(0.9, 0.98), fused=True)


def batches(
    embedder: Vlm2VecEmbedder, groups: list[Group], recipe: dict[str, Any], first: int, steps: int
) -> Iterator[list[tuple[SubBatch, Batch]]]:
    """The sub-batches of every step from `first` on, made ahead in a thread."""
    ready: queue.Queue[list[tuple[SubBatch, Batch]] | BaseException] = queue.Queue(maxsize=3)
    stopped = threading.Event()

    def put(item: list[tuple[SubBatch, Batch]] | BaseException) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put(item, timeout=0.5)

    def work() -> None:
        try:
            for step in range(first, steps):
                drawn = []
                for number, group in enumerate(groups):
                    rng = random.Random(f"{recipe['seed']}:{step}:{number}")
                    count = recipe["mixture"][group.name]["batch"]
                    part = group.draw(count, rng, progress=step / steps)
                    budget = recipe["max_pixels"].get({"photo": "image"}.get(group.name, group.name))
                    bounds = None if budget is None else [budget] * len(part.prompts)
                    drawn.append((part, embedder.prepare(part.prompts, part.images, part.is_video, bounds)))
                put(drawn)
                if stopped.is_set():
                    return
        except BaseException as error:
            put(error)

    threading.Thread(target=work, name="draw", daemon=True).start()
    try:
        for _ in range(first, steps):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()


def train(
    recipe: dict[str, Any], run: Path, *, work: Path, steps: int | None = None, save_every_s: float = 240
) -> Path:
    """Run a recipe to its end, or on from where it was interrupted.

    Args:
        run: folder for states, `metrics.jsonl` and, at the end, `checkpoint/` in the public Qwen2-VL layout.
        work: folder of rendered pages and teacher vectors, shared by runs.
        steps: in place of the recipe's number.

    Returns: the checkpoint folder.
    """
    steps = steps or recipe["steps"]
    run.mkdir(parents=True, exist_ok=True)
    teacher = Teacher(work / "teacher", max_tokens=recipe["page_text_tokens"])
    groups = load_groups(recipe, work, teacher)
    corpus = next(group.texts for group in groups if group.name == "text")
    embedder = new_embedder(recipe, teacher, list(corpus))
    model = embedder.model.train()
    optimizer = build_optimizer(model, recipe["optimizer"])
    first = _resume(run, model, optimizer)
    log.info("%.1fM parameters, steps %d to %d", sum(p.numel() for p in model.parameters()) / 1e6, first, steps)
    banks: dict[str, torch.Tensor] = {}
    schedule = {key: recipe["optimizer"][key] for key in ("warmup", "decay")}
    saved = time.monotonic()
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as metrics:
        for step, parts in enumerate(batches(embedder, groups, recipe, first, steps), first):
            started = time.monotonic()
            factor = learning_rate_factor(step, steps, **schedule)
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            row: dict[str, float] = {"step": step, "lr": factor}
            for part, batch in parts:
                targets = torch.from_numpy(part.targets)
                banks[part.group] = torch.from_numpy(part.bank)
                embeddings = embedder.forward(batch)
                distance = cosine_distance(embeddings, targets)
                contrast = bank_distillation(
                    embeddings,
                    targets,
                    banks[part.group],
                    temperature=recipe["loss"]["temperature"],
                    teacher_temperature=recipe["loss"]["teacher_temperature"],
                )
                weight = recipe["mixture"][part.group]["weight"]
                (weight * (contrast + recipe["loss"]["cosine"] * distance)).backward()
                row[f"{part.group}_cosine"] = round(1 - distance.item(), 4)
                row[f"{part.group}_loss"] = round(contrast.item(), 4)
            row["grad_norm"] = round(
                torch.nn.utils.clip_grad_norm_(model.parameters(), recipe["optimizer"]["clip"]).item(), 3
            )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            row["seconds"] = round(time.monotonic() - started, 2)
            metrics.write(json.dumps(row) + "\n")
            metrics.flush()
            if step % 20 == 0:
                log.info("%s", row)
            if time.monotonic() - saved > save_every_s:
                _save_state(run, model, optimizer, step + 1)
                saved = time.monotonic()
    _save_state(run, model, optimizer, steps)
    model.eval()
    folder = run / "checkpoint"
    embedder.save(folder)
    return folder


def _save_state(run: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Temporary file, then rename: a state file is complete or not there."""
    part = run / "state.part"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, part)
    part.replace(run / f"state-{step:07d}.pt")
    for old in sorted(run.glob("state-*.pt"))[:-KEPT_STATES]:
        old.unlink()


def _resume(run: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    states = sorted(run.glob("state-*.pt"))
    if not states:
        return 0
    state = torch.load(states[-1], weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="mini")
    parser.add_argument("--run", type=Path, default=Path("runs/mini"))
    parser.add_argument("--work", type=Path, default=Path("runs/work"), help="rendered pages and teacher vectors")
    parser.add_argument("--steps", type=int, default=None)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = train(load_recipe(arguments.recipe), arguments.run, work=arguments.work, steps=arguments.steps)
    log.info("checkpoint in %s", folder)


if __name__ == "__main__":
    main()
