"""One step's objective: pairs against each other, teacher-vector groups against their teacher, all through one GradCache pass.

Every prompt of a step, of whichever side or sort, is a row of one matrix of embeddings. This process holds its share of the rows; losses
are over all processes' rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmsearch.embedders.trainable import PromptBatch, joined
from mmsearch.training.objective.gradcache import cached_backward, chunks_by_cost
from mmsearch.training.objective.kind_axes import without_kind
from mmsearch.training.objective.loss import (
    ContrastiveBatch,
    ContrastiveLoss,
    bank_distillation,
    cosine_distance,
    neighbour_distillation,
)
from mmsearch.training.parallel.gather import gather_numbers, gather_rows
from mmsearch.training.parallel.processes import Shared
from mmsearch.training.recipe.fields import GroupShare, Recipe, Stage


@dataclass(frozen=True)
class PairRows:
    """What is known of this process's pairs; their queries are the first rows, then their targets in the order of queries.

    Attributes:
        target_counts: targets of each query, the positive first.
        sources: index of each query's source.
        target_keys: per target, see `mmsearch.training.objective.loss.hash_key`.
        teacher_scores: per target, NaN where there is none; None: nowhere.
    """

    target_counts: Tensor
    sources: Tensor
    target_keys: Tensor
    teacher_scores: Tensor | None = None

    @property
    def count(self) -> int:
        return len(self.target_counts)

    def contrastive(self, embeddings: Tensor) -> ContrastiveBatch:
        """With `embeddings` [queries + targets, dim] of these pairs."""
        return ContrastiveBatch(
            queries=embeddings[: self.count],
            targets=embeddings[self.count :],
            target_counts=self.target_counts,
            sources=self.sources,
            target_keys=self.target_keys,
            teacher_scores=self.teacher_scores,
        )


@dataclass(frozen=True)
class GroupRows:
    """A teacher-vector sub-batch, shared out by taking every n-th example.

    Attributes:
        count: this process's examples.
        targets: float32 [all processes' examples, dim], in the order of ranks. bank: float32 [m, dim].
        aims: the same as targets, turned towards their kinds by `axes` [kinds, dim]; None where kinds play no part.
        basis: [dim, dim], in rows the teacher's directions that the model's coordinates stand for; None: the teacher's own coordinates.
    """

    name: str
    count: int
    targets: Tensor
    bank: Tensor
    aims: Tensor | None = None
    axes: Tensor | None = None
    basis: Tensor | None = None


@dataclass(frozen=True)
class StepInputs:
    """This process's share of a step.

    Attributes:
        rows: one prompt each: queries, targets, then the groups' examples.
        skipped: bad records that were left out.
    """

    rows: list[PromptBatch]
    pairs: PairRows | None = None
    groups: list[GroupRows] = field(default_factory=list)
    skipped: int = 0


def compute_gradients(
    model: Shared,
    objective: ContrastiveLoss | None,
    inputs: StepInputs,
    stage: Stage,
    recipe: Recipe,
    *,
    is_sharded: bool,
) -> dict[str, float]:
    """Add the gradients of a step's loss to the weights, averaged over processes.

    Returns: numbers for `metrics.jsonl`, alike in every process.
    """
    costs = [row.cost for row in inputs.rows]
    chunks = chunks_by_cost(costs, recipe.chunk_positions, max_rows=recipe.chunk_rows)
    if is_sharded:  # every process must run every layer equally often
        needed = max(count for (count,) in gather_numbers(len(chunks)))
        chunks = chunks_by_cost(costs, recipe.chunk_positions, max_rows=recipe.chunk_rows, at_least=needed)

    def loss_of(embeddings: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return step_loss(embeddings, inputs, objective, stage, recipe)

    with model.accumulating():
        loss, parts = cached_backward(
            lambda rows: model(joined([inputs.rows[row] for row in rows])), [(rows, rows) for rows in chunks], loss_of
        )
    model.reduce_gradients()
    return {"loss": loss.item(), **{name: part.item() for name, part in parts.items()}, "chunks": len(chunks)}


def step_loss(
    embeddings: Tensor, inputs: StepInputs, objective: ContrastiveLoss | None, stage: Stage, recipe: Recipe
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of a step's losses, and its parts by name.

    Args:
        embeddings: float [rows, dim], of this process's rows.
    """
    loss = embeddings.new_zeros(())
    parts: dict[str, Tensor] = {}
    start = 0
    if inputs.pairs is not None:
        assert objective is not None and stage.pairs is not None
        end = inputs.pairs.count + int(inputs.pairs.target_counts.sum())
        contrast, found = objective(inputs.pairs.contrastive(embeddings[:end]))
        loss = loss + stage.pairs.weight * contrast
        parts |= found
        start = end
    for group in inputs.groups:
        own = embeddings[start : start + group.count]
        distance, found = group_loss(own, group, stage.mixture[group.name], recipe)
        loss = loss + distance
        parts |= found
        start += group.count
    return loss, parts


def group_loss(own: Tensor, group: GroupRows, share: GroupShare, recipe: Recipe) -> tuple[Tensor, dict[str, Tensor]]:
    """Distance to the teacher's vectors over all processes' examples, contrastively against the bank and as it is."""
    embeddings = gather_rows(own)
    if group.basis is not None:
        embeddings = embeddings @ group.basis.to(own.device)
    targets, bank = group.targets.to(own.device), group.bank.to(own.device)
    aims = targets if group.aims is None else group.aims.to(own.device)
    distance = cosine_distance(embeddings, aims)
    parts: dict[str, Tensor] = {}
    beside = recipe.loss.cosine * distance
    if group.axes is not None:
        axes = group.axes.to(own.device)
        error = ((embeddings - aims) @ axes.T).square().sum(-1).mean()
        beside = beside + recipe.loss.kind_weight * error
        parts[f"{group.name}_kind_error"] = error.detach()
        embeddings = without_kind(embeddings, axes)
    contrast = bank_distillation(
        embeddings,
        targets,
        bank,
        temperature=recipe.loss.temperature,
        teacher_temperature=recipe.loss.teacher_temperature,
    )
    if share.neighbours:
        ranking = neighbour_distillation(embeddings, targets, bank, temperature=recipe.loss.teacher_temperature)
        beside = beside + share.neighbours * ranking
        parts[f"{group.name}_neighbours"] = ranking.detach()
    with torch.no_grad():
        scores = embeddings.detach() @ targets.T
        hits = (scores.argmax(1) == torch.arange(len(scores), device=scores.device)).float().mean()
    parts |= {
        f"{group.name}_cosine": 1 - distance.detach(),
        f"{group.name}_loss": contrast.detach(),
        f"{group.name}_hit@1": hits,
    }
    return share.weight * (contrast + beside), parts
