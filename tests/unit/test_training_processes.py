"""Two processes compute what one does: gathering and GradCache over gloo and `DistributedDataParallel`.

What the reference does otherwise and these tests exclude (shared/REFERENCE.md §3.2, §3.3): every process must have equally
many rows; the loss is scaled by the number of processes, and so would be a learnt temperature's gradient; GradCache reduces
gradients twice per step, for queries and for targets.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from mmsearch.training.objective.gradcache import cached_backward
from mmsearch.training.objective.loss import ContrastiveBatch, ContrastiveLoss, LossSettings
from mmsearch.training.parallel.gather import average_gradients, gather_numbers, gather_rows, mean_over_processes
from tests.processes import run_processes

DIM = 8
COUNTS = [1, 3, 1, 1, 2, 1]
"""Targets of each of six queries."""
SETTINGS = {
    "defaults": LossSettings(),
    "everything": LossSettings(
        temperature=0.1, learnable_temperature=True, symmetric=True, mask_false_negatives=True,
        false_negative_margin=0.3, false_negative_teacher_cosine=0.9, matryoshka_dims=(8, 4),
        own_distillation_weight=0.5, batch_distillation_weight=0.5,
    ),
    "own source": LossSettings(negatives_from="source", learnable_temperature=True),
}  # fmt: skip
SPLITS = {"equal": (3, 3), "uneven": (5, 1)}
"""Queries of each of two processes."""
SEEDS = (11, 12)
"""Of the processes' generators: their dropout must differ."""


@functools.cache
def pairs() -> dict[str, Tensor]:
    """Inputs and facts of six pairs with negatives; the last query's target is the first one's too."""
    made = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=made)

    targets = sum(COUNTS)
    teacher = normal(targets, 3)
    teacher[2] = float("nan")
    return {
        "queries": normal(6, 5),
        "targets": normal(targets, 5),
        "target_counts": torch.tensor(COUNTS),
        "sources": torch.tensor([0, 1, 1, 0, 0, 1]),
        "target_keys": torch.tensor([7, 0, 0, 0, 9, 4, 5, 0, 7]),
        "teacher_scores": normal(targets),
        "teacher_queries": normal(6, 3),
        "teacher_targets": teacher,
    }


def share(split: Sequence[int], rank: int) -> dict[str, Tensor]:
    """One process's pairs."""
    first, last = sum(split[:rank]), sum(split[: rank + 1])
    rows = slice(sum(COUNTS[:first]), sum(COUNTS[:last]))
    per_query = ("queries", "target_counts", "sources", "teacher_queries")
    return {name: values[first:last] if name in per_query else values[rows] for name, values in pairs().items()}


class Towers(nn.Module):
    """Words and pictures with dropout, and a buffer as Qwen2-VL has them. Even rows have pictures where `sees`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.words = nn.Linear(5, DIM, dtype=torch.float64)
        self.pictures = nn.Linear(5, DIM, dtype=torch.float64)
        self.dropout = nn.Dropout(0.4)
        self.register_buffer("shift", torch.full((DIM,), 0.1, dtype=torch.float64))

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        values, sees = inputs
        states = self.words(values) + self.shift
        if sees.any():
            states = states.index_add(0, sees.nonzero()[:, 0], self.pictures(values[sees]))
        return F.normalize(self.dropout(states), dim=-1)


def criterion(settings: LossSettings) -> ContrastiveLoss:
    return ContrastiveLoss(settings, ["a", "b"]).double()


def result(loss: Tensor, parts: dict[str, Tensor], *modules: nn.Module) -> dict[str, Any]:
    gradients = {n: p.grad.clone() for m in modules for n, p in m.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), "parts": dict(parts), "gradients": gradients}


# Each of these runs in two processes and, given one share that is everything, in this one.


def contrast(settings: LossSettings, own: dict[str, Tensor]) -> dict[str, Any]:
    """Loss and gradients of the own pairs, without GradCache, averaged as DistributedDataParallel does."""
    model, loss_of = Towers().eval(), criterion(settings)
    sees = [torch.zeros(len(own[side]), dtype=torch.bool) for side in ("queries", "targets")]
    embeddings = [model((own[side], blind)) for side, blind in zip(("queries", "targets"), sees, strict=True)]
    loss, parts = loss_of(
        ContrastiveBatch(*embeddings, **{k: v for k, v in own.items() if k not in ("queries", "targets")})
    )
    loss.backward()
    average_gradients(model.parameters())
    return result(loss, parts, model, loss_of)


def with_gaps(own: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """Teachers that only one process has."""
    missing = {0: ("teacher_scores",), 1: ("teacher_queries", "teacher_targets")}[rank]
    return {name: values for name, values in own.items() if name not in missing}


def chunked(
    own: dict[str, Tensor], rows: Sequence[Sequence[int]], *, pictures: bool
) -> list[tuple[Sequence[int], Any]]:
    """Queries and targets of one process are one matrix; of it, even rows may have pictures."""
    values = torch.cat([own["queries"], own["targets"]])
    sees = (torch.arange(len(values)) % 2 == 0) & pictures
    return [(chunk, (values[list(chunk)], sees[list(chunk)])) for chunk in rows]


def batch_of(embeddings: Tensor, own: dict[str, Tensor]) -> ContrastiveBatch:
    facts = {f.name: own[f.name] for f in fields(ContrastiveBatch) if f.name not in ("queries", "targets")}
    q = len(own["queries"])
    return ContrastiveBatch(embeddings[:q], embeddings[q:], **facts)


PLANS: dict[str, dict[str, Any]] = {
    "one row per chunk": {"split": (5, 1), "rows": ([[i] for i in range(13)], [[0], [1]]), "sees": (True, True)},
    "three": {"split": (3, 3), "rows": ([[0, 2, 4], [1, 6, 7], [3, 5]], [[6, 0, 1], [5, 2, 3], [4]]), "sees": (True, True)},
    "all": {"split": (3, 3), "rows": ([list(range(8))], [list(range(7))]), "sees": (True, True)},
    "all in one, three in the other": {"split": (3, 3), "rows": ([list(range(8))], [[6, 0, 1], [5, 2, 3], [4]]), "sees": (True, True)},
    "words alone in the last chunk": {"split": (3, 3), "rows": ([[0, 2, 4], [1, 6], [3, 5, 7]], [[0, 2, 4, 6], [1, 3, 5]]), "sees": (True, True)},
    "words alone in one process": {"split": (3, 3), "rows": ([[0, 2, 4], [1, 6], [3, 5, 7]], [[0, 2, 4, 6], [1, 3, 5]]), "sees": (True, False)},
    "no pictures": {"split": (3, 3), "rows": ([[0, 2, 4], [1, 6], [3, 5, 7]], [list(range(7))]), "sees": (False, False)},
}  # fmt: skip
"""Chunks of each process: of 8 + … rows, in an order of their own."""
STEPS = 3
"""DistributedDataParallel rebuilds its buckets in the second."""


def train_with_ddp(plan: dict[str, Any], rank: int) -> dict[str, Any]:
    """Some steps of plain gradient descent; the gradients of the last."""
    own = share(plan["split"], rank)
    model, loss_of = Towers(), criterion(SETTINGS["everything"])
    only_words = not any(plan["sees"])
    if only_words:
        model.pictures.requires_grad_(False)
    ddp = DistributedDataParallel(model, find_unused_parameters=not only_words)
    reductions: list[int] = []

    def counting(_, bucket):  # annotations must be classes for torch, not words
        reductions.append(len(bucket.parameters()))
        return default_hooks.allreduce_hook(dist.group.WORLD, bucket)

    ddp.register_comm_hook(None, counting)
    torch.manual_seed(SEEDS[rank])
    chunks = chunked(own, plan["rows"][rank], pictures=plan["sees"][rank])
    for _ in range(STEPS):
        ddp.zero_grad()
        loss_of.zero_grad()
        loss, parts = cached_backward(ddp, chunks, lambda e: loss_of(batch_of(e, own)), no_sync=ddp.no_sync)
        descend(model, loss_of)
    return {**result(loss, parts, model, loss_of), "reductions": len(reductions)}


def train_alone(plan: dict[str, Any], seeds: Sequence[int] = SEEDS) -> dict[str, Any]:
    """The same steps in one process: plain autograd, all graphs at once, each share with its own generator."""
    model, loss_of = Towers(), criterion(SETTINGS["everything"])
    whole = pairs()
    generators: list[Tensor] = []
    for seed in seeds:
        torch.manual_seed(seed)
        generators.append(torch.get_rng_state())
    for _ in range(STEPS):
        model.zero_grad()
        loss_of.zero_grad()
        sides: list[list[Tensor]] = [[], []]
        for rank in range(2):
            own = share(plan["split"], rank)
            torch.set_rng_state(generators[rank])
            chunks = chunked(own, plan["rows"][rank], pictures=plan["sees"][rank])
            embeddings = torch.cat([model(inputs) for _, inputs in chunks])
            generators[rank] = torch.get_rng_state()
            order = torch.tensor([row for rows, _ in chunks for row in rows])
            embeddings = embeddings[order.argsort()]
            q = len(own["queries"])
            sides[0].append(embeddings[:q])
            sides[1].append(embeddings[q:])
        loss, parts = loss_of(batch_of(torch.cat([*sides[0], *sides[1]]), whole))
        loss.backward()
        descend(model, loss_of)
    return result(loss, parts, model, loss_of)


@torch.no_grad()
def descend(*modules: nn.Module) -> None:
    for module in modules:
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter -= 0.05 * parameter.grad


def in_each_process() -> dict[str, Any]:
    """Everything that two processes are asked, in one go, since starting them takes seconds."""
    rank = dist.get_rank()
    own = torch.arange(3.0 - 2 * rank) + 10 * rank  # 0 1 2 | 10
    leaf = own.clone().requires_grad_()
    gathered = gather_rows(leaf)
    (gathered * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    mean_leaf = own.clone().requires_grad_()
    mean = mean_over_processes(mean_leaf**2)
    mean.backward()
    lonely = nn.Parameter(torch.zeros(2))
    if rank == 1:
        lonely.grad = torch.tensor([4.0, 6.0])
    never = nn.Parameter(torch.zeros(2))
    average_gradients([lonely, never, nn.Parameter(torch.zeros(1), requires_grad=False)])
    empty = gather_rows(torch.zeros(0, 2) if rank == 0 else torch.ones(2, 2))
    return {
        "numbers": gather_numbers(rank, 5),
        "gathered": gathered.detach(),
        "gathered_gradient": leaf.grad,
        "keys": gather_rows(torch.tensor([2**62 + rank])),
        "empty": empty,
        "mean": mean.detach(),
        "mean_gradient": mean_leaf.grad,
        "averaged": lonely.grad,
        "never": never.grad,
        "contrast": {
            (name, split): contrast(settings, share(SPLITS[split], rank))
            for name, settings in SETTINGS.items()
            for split in SPLITS
        },
        "gaps": contrast(SETTINGS["everything"], with_gaps(share(SPLITS["equal"], rank), rank)),
        "ddp": {name: train_with_ddp(plan, rank) for name, plan in PLANS.items()},
    }


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> list[dict[str, Any]]:
    return run_processes(in_each_process, 2, tmp_path_factory.mktemp("processes"))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def assert_same(found: dict[str, Any], expected: dict[str, Any], *, parts: bool = True) -> None:
    """In float64, but for the order of sums, equal."""
    torch.testing.assert_close(found["loss"], expected["loss"], rtol=1e-9, atol=0)
    assert found["gradients"].keys() == expected["gradients"].keys()
    for name, gradient in expected["gradients"].items():
        torch.testing.assert_close(found["gradients"][name], gradient, rtol=1e-6, atol=1e-10, msg=name)
    if parts:
        assert found["parts"].keys() - {"replay_error"} == expected["parts"].keys()
        for name, value in expected["parts"].items():
            assert found["parts"][name].item() == pytest.approx(value.item(), rel=1e-6, abs=1e-12), name


def test_rows_of_all_processes_in_the_order_of_ranks(answers):
    for answer in answers:
        assert answer["numbers"] == [[0, 5], [1, 5]]
        assert answer["gathered"].tolist() == [0, 1, 2, 10]
        assert answer["keys"].tolist() == [2**62, 2**62 + 1]  # no detour over floating point
        assert answer["empty"].tolist() == [[1, 1], [1, 1]]


def test_own_rows_get_the_gradient_times_the_number_of_processes(answers):
    assert [answer["gathered_gradient"].tolist() for answer in answers] == [[2, 4, 6], [8]]


def test_mean_over_processes_is_no_mean_of_means(answers):
    for answer, gradient in zip(answers, ([0, 1, 2], [10]), strict=True):
        assert answer["mean"].item() == (0 + 1 + 4 + 100) / 4
        assert answer["mean_gradient"].tolist() == gradient  # 2 x / 4 rows, times 2 processes


def test_average_of_gradients_that_only_one_process_has(answers):
    for answer in answers:
        assert answer["averaged"].tolist() == [2, 3]
        assert answer["never"] is None


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_two_processes_have_the_loss_and_gradients_of_one(answers, settings, split):
    expected = contrast(SETTINGS[settings], pairs())
    for answer in answers:
        assert_same(answer["contrast"][settings, split], expected)  # the temperatures' gradient was averaged by nobody


def test_a_teacher_that_only_one_process_has(answers):
    """The others' rows count as not judged; nobody waits for a collective that another process never enters."""
    whole = {name: values.clone() for name, values in pairs().items()}
    first_targets = sum(COUNTS[:3])
    whole["teacher_scores"][:first_targets] = float("nan")
    whole["teacher_queries"][3:] = float("nan")
    whole["teacher_targets"][first_targets:] = float("nan")
    expected = contrast(SETTINGS["everything"], whole)
    assert expected["parts"]["own_distillation"] > 0 and expected["parts"]["batch_distillation"] > 0
    for answer in answers:
        assert_same(answer["gaps"], expected)


@pytest.mark.parametrize("plan", PLANS)
def test_gradcache_over_ddp_with_dropout_equals_plain_autograd_in_one_process(answers, plan):
    expected = train_alone(PLANS[plan])
    if not any(PLANS[plan]["sees"]):
        assert "pictures.weight" not in expected["gradients"]
    for answer in answers:
        assert_same(answer["ddp"][plan], expected)
        assert answer["ddp"][plan]["parts"]["replay_error"].item() == 0


@pytest.mark.parametrize("plan", PLANS)
def test_gradients_are_reduced_once_per_step(answers, plan):
    for answer in answers:
        assert answer["ddp"][plan]["reductions"] == STEPS


def test_each_process_has_dropout_of_its_own():
    """Otherwise equality above would not show whose generator was replayed."""
    losses = {train_alone(PLANS["three"], seeds)["loss"].item() for seeds in ((11, 12), (11, 11), (12, 11))}
    assert len(losses) == 3


def test_one_process_needs_no_process_group():
    rows = torch.ones(2, 3, requires_grad=True)
    assert gather_rows(rows) is rows
    assert gather_numbers(4, 5) == [[4, 5]]
    assert mean_over_processes(torch.tensor([1.0, 3.0])).item() == 2
