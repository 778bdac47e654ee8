"""How weights move: learning rates over a stage, AdamW or Muon, and a moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from mmsearch.errors import ConfigError
from mmsearch.training.recipe.fields import Average, OptimizerSettings, Stage
from mmsearch.training.run.muon import Muon


def learning_rate_factor(step: int, steps: int, *, warmup: int, decay: float = 0.0, schedule: str = "plateau") -> float:
    """The share of a stage's learning rate at `step` (from 0): a linear warm-up, then by `schedule`.

    "plateau": all of it, then a straight fall to zero over the last `decay` share of the steps. "linear": a straight fall from the
    warm-up to zero. "cosine": the same along half a cosine.

    Source: the shapes of transformers' `get_{linear,cosine}_schedule_with_warmup`; there the first step has rate 0, here 1 / warmup.
    """
    if step < warmup:
        return (step + 1) / warmup
    left = (steps - step) / max(1, steps - warmup)
    if schedule == "linear":
        return left
    if schedule == "cosine":
        return (1 + math.cos(math.pi * (1 - left))) / 2
    return min(1.0, (steps - step) / max(1.0, decay * steps)) if decay else 1.0


def rate_of(stage: Stage, step: int) -> float:
    """`learning_rate_factor` as the stage sets it."""
    return learning_rate_factor(step, stage.steps, warmup=stage.warmup, decay=stage.decay, schedule=stage.schedule)


def build_optimizers(
    model: nn.Module,
    stage: Stage,
    settings: OptimizerSettings,
    extra: Iterable[nn.Parameter] = (),
    extra_rate: float = 0.001,
) -> list[torch.optim.Optimizer]:
    """What moves the weights that a stage trains (those that require gradients), each group with its `base_lr`.

    Matrices decay; biases, norms and token embeddings do not. Token embeddings may have a rate of their own. With "muon", matrices
    inside the layers go to Muon, at the same learning rate (its updates are scaled to AdamW's size), the rest to AdamW.

    Args:
        extra: parameters outside of the model (temperatures), at `extra_rate`, without decay.

    Raises: ConfigError: nothing to train.
    """
    embeddings: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    fused: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if "embed_tokens" in name:
            embeddings.append(parameter)
        else:
            (matrices if parameter.ndim > 1 else others).append(parameter)
        if name.endswith("qkv.weight"):
            fused.append(parameter)
    if not (embeddings or matrices or others):
        raise ConfigError(f"stage {stage.name!r} trains nothing: all of its weights are frozen")
    rate, decay = stage.learning_rate, settings.weight_decay
    token_rate = stage.embedding_learning_rate or rate
    groups = [
        {"params": matrices, "base_lr": rate, "weight_decay": decay},
        {"params": others, "base_lr": rate, "weight_decay": 0.0},
        {"params": embeddings, "base_lr": token_rate, "weight_decay": 0.0},
        {"params": list(extra), "base_lr": extra_rate, "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if settings.name == "muon":
        for group in groups[:2]:
            group["base_lr"] = rate * settings.rest_rate
        orthogonal = [parameter for parameter in matrices if parameter.ndim == 2]
        groups[0]["params"] = [
            parameter for parameter in matrices if parameter.ndim != 2
        ]  # the patch embedding's kernel
        if orthogonal:
            muon = Muon(
                orthogonal, lr=rate, momentum=settings.momentum, weight_decay=settings.weight_decay, thirds=fused
            )
            for group in muon.param_groups:
                group["base_lr"] = rate
            optimizers.append(muon)
    filled = [group for group in groups if group["params"]]
    if filled:
        optimizers.append(torch.optim.AdamW(filled, lr=rate, betas=settings.betas, eps=settings.eps, fused=True))
    return optimizers


def set_rate(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor


class WeightAverage:
    """An exponential moving average of weights, float32, on their device.

    Early on it forgets faster, min(decay, (1 + steps) / (10 + steps)), so that it does not remember the start for long.
    Source: the warm-up of TensorFlow's `ExponentialMovingAverage`.
    """

    def __init__(self, weights: Mapping[str, Tensor], settings: Average) -> None:
        self.decay = settings.decay
        self.steps = 0
        self.values = {name: weight.detach().clone().float() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Take one more step's weights in."""
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for name, value in self.values.items():
            value.lerp_(weights[name].detach().to(value.dtype), 1 - keep)
