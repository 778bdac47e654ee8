"""Rows of all processes together, with exact gradients: N processes compute what one would.

Each process has its own rows; numbers of rows may differ. Every process gathers all rows, in the order of ranks, and
computes the same loss over the global batch. Only its own rows lead back to its own forward pass.

The scale: `DistributedDataParallel` and FSDP average gradients over processes, while the gradient of one loss over all rows
is the sum of what each process's own rows contribute. So the backward pass here hands back the own rows' gradient times
the number of processes. The loss itself is not scaled: it is the same number everywhere, to be logged as it is, and a
parameter inside the loss (a temperature) has the same, right gradient on every process without any reduction.

Without `torch.distributed` everything here is the identity, so one process needs no code of its own.

Source: TIGER-AI-Lab/VLM2Vec@6e1e1d4 `src/loss.py` (the own slice and the factor); there the loss is scaled, all processes
must have equally many rows, and a learnt temperature's gradient would be scaled too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def process_count() -> int:
    """Processes that train together; 1 without `torch.distributed`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_numbers(*numbers: int) -> list[list[int]]:
    """These numbers of every process, in the order of ranks."""
    if process_count() == 1:
        return [list(numbers)]
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"  # NCCL moves nothing else
    own = torch.tensor(numbers, dtype=torch.int64, device=device)
    found = [torch.empty_like(own) for _ in range(process_count())]
    dist.all_gather(found, own)
    return [row.tolist() for row in found]


def gather_rows(rows: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """The rows of all processes, one after the other in the order of ranks.

    Args:
        rows: [n, ...] of any type; n may differ between processes and may be 0, the other axes may not.
        counts: n of every process, where known; asked for otherwise.

    Returns:
        [sum of counts, ...]. Its gradient reaches the own rows, times the number of processes (see above).
    """
    if process_count() == 1:
        return rows
    if counts is None:
        counts = [number for (number,) in gather_numbers(len(rows))]
    return _GatherRows.apply(rows, tuple(counts))


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of the values of all processes, float [n] each, the gradient scaled as by `gather_rows`.

    For losses whose rows need nothing from other processes. Not the mean of means: numbers of rows may differ.
    """
    return values.mean() if process_count() == 1 else _MeanOverProcesses.apply(values)


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Average `.grad` over processes, in place, for few and small parameters outside `DistributedDataParallel`.

    A parameter without gradient counts as zero where another process has one. After a loss over gathered rows the gradients
    are equal already; averaging them keeps processes on unlike machines from drifting apart.
    """
    if process_count() == 1:
        return
    for parameter in parameters:
        if not parameter.requires_grad:
            continue
        is_missing = parameter.grad is None
        if all(missing for (missing,) in gather_numbers(int(is_missing))):
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
        parameter.grad /= process_count()


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: tuple[int, ...]) -> Tensor:
        rank = dist.get_rank()
        if counts[rank] != len(rows):
            raise ValueError(f"{len(rows)} rows were given where {counts[rank]} were announced")
        ctx.start, ctx.count, ctx.processes = sum(counts[:rank]), counts[rank], len(counts)
        padded = rows.new_zeros(max(counts), *rows.shape[1:])  # collectives want equal shapes
        padded[: len(rows)] = rows
        pieces = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(pieces, padded)
        return torch.cat([piece[:count] for piece, count in zip(pieces, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.start : ctx.start + ctx.count] * ctx.processes, None


class _MeanOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        # Counts travel beside the sum; float32 holds them exactly up to 16 million rows.
        totals = torch.stack([values.sum(), values.new_tensor(float(len(values)))])
        dist.all_reduce(totals)
        ctx.values, ctx.factor = len(values), process_count() / totals[1]
        return totals[0] / totals[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return (gradients[0] * ctx.factor).expand(ctx.values)
