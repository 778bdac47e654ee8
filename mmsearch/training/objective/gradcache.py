"""GradCache: the gradient of a loss over a large batch, in the memory of a small one.

Every chunk is embedded without keeping activations; the loss over all embeddings gives the gradient of each embedding; then
every chunk is embedded once more, with the same dropout, and its part of that gradient goes back through it. The sum over
chunks is the gradient of the whole batch, whatever the loss is. One process and many run the same code: what other processes
contribute comes in through the loss (`mmsearch.training.parallel.gather`).

Source: Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (RepL4NLP).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor

from mmsearch.embedders.forward.batching import batches_by_cost
from mmsearch.training.parallel.gather import gather_numbers, gather_rows

Inputs = TypeVar("Inputs")
Parts = Mapping[str, Tensor]


def chunks_by_cost(
    costs: Sequence[int], budget: int, *, max_rows: int | None = None, at_least: int = 1
) -> list[list[int]]:
    """Share rows out over chunks: none empty, each within `budget` unless a single row is above it.

    Args:
        costs: per row, its text tokens and visual tokens together.
        budget: the same unit, per chunk. Rows of like cost come together, the costliest first.
        max_rows: per chunk, where the published recipes count rows instead.
        at_least: chunks. FSDP wants equally many on every process: give the largest number that a process needs.

    Raises:
        ValueError: a budget or limit below 1; fewer rows than `at_least`.
    """
    if budget < 1 or (max_rows is not None and max_rows < 1):
        raise ValueError(f"a chunk must be allowed to hold something: budget {budget}, max_rows {max_rows}")
    if len(costs) < at_least:
        raise ValueError(f"{len(costs)} rows cannot be shared out over {at_least} chunks; draw more rows per process")
    step = max_rows or max(1, len(costs))
    chunks = [
        rows[start : start + step]
        for rows in batches_by_cost([(cost, 0) for cost in costs], budget)
        for start in range(0, len(rows), step)
    ]
    while len(chunks) < at_least:
        index = max(range(len(chunks)), key=lambda number: len(chunks[number]))
        rows = chunks[index]
        chunks[index : index + 1] = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    return chunks


def cached_backward(
    encode: Callable[[Inputs], Tensor],
    chunks: Sequence[tuple[Sequence[int], Inputs]],
    loss_of_embeddings: Callable[[Tensor], tuple[Tensor, Parts]],
    *,
    no_sync: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Add the gradient of the loss over all chunks to the parameters' `.grad`, one chunk's activations at a time.

    All sides of a step (queries, targets, negatives, sub-batches with fixed teacher vectors) are rows of one matrix and go
    through one call, so that many processes reduce their gradients once. The rows of a chunk may be of any side and modality.

    Args:
        encode: inputs of a chunk to its embeddings [rows of the chunk, dim]; enters `torch.autocast` itself where wanted.
            Randomness must come from torch's generators (CPU, current CUDA device): these are replayed.
        chunks: (rows, inputs): which rows of the matrix this chunk's embeddings are. All together: each of 0 … n-1 once.
            Processes may have different numbers of chunks, but each at least one.
        loss_of_embeddings: embeddings [n, dim] to (loss, named parts for metrics), called without autocast. Its own
            parameters (temperatures) get their gradient too; they stay outside `DistributedDataParallel` (see `gather`).
        no_sync: entered around all chunks but the last: `model.no_sync` of a `DistributedDataParallel`. The last chunk may
            lack a modality that earlier ones had, so such a model needs `find_unused_parameters=True`.

    Returns:
        The loss, detached, and the parts with `replay_error`: the largest difference between an embedding's two
        computations, over all processes. Anything but rounding means that the gradient is wrong.

    Raises:
        ValueError: no chunks, rows that are not 0 … n-1, an encoder that returns another number of rows.
    """
    order = [row for rows, _ in chunks for row in rows]
    if not all(rows for rows, _ in chunks) or sorted(order) != list(range(len(order))) or not order:
        raise ValueError(f"{len(chunks)} chunks must hold the rows 0 … n-1, each once, none empty; got {order[:20]}")
    if max(count for (count,) in gather_numbers(len(chunks))) == 1:
        # Nothing to save anywhere: one forward pass does. All processes decide alike, or their collectives would cross.
        rows, inputs = chunks[0]
        embeddings = _in_order([_encoded(encode, rows, inputs)], order)
        with _no_autocast(embeddings):
            loss, parts = loss_of_embeddings(embeddings)
            loss.backward()
        return loss.detach(), {**parts, "replay_error": torch.zeros_like(loss.detach())}

    states, pieces = [], []
    with torch.no_grad():
        for rows, inputs in chunks:
            states.append(_RandomState())
            pieces.append(_encoded(encode, rows, inputs))
    # Inside a caller's autocast, weights cast without gradient must not serve again below (torch 2.13 sees to it by itself).
    torch.clear_autocast_cache()
    embeddings = _in_order(pieces, order).requires_grad_()
    with _no_autocast(embeddings):
        loss, parts = loss_of_embeddings(embeddings)
        loss.backward()
    gradient = embeddings.grad
    assert gradient is not None

    errors = []
    for number, ((rows, inputs), state, piece) in enumerate(zip(chunks, states, pieces, strict=True), start=1):
        with nullcontext() if number == len(chunks) else no_sync():
            with state.replayed():
                again = _encoded(encode, rows, inputs)
            errors.append((again.detach() - piece).abs().max())
            with _no_autocast(again):
                again.backward(gradient[list(rows)])
    return loss.detach(), {**parts, "replay_error": gather_rows(torch.stack(errors)).max()}


def _no_autocast(embeddings: Tensor) -> AbstractContextManager[object]:
    """A caller's `torch.autocast` would round the loss and, in backward passes, float32 gradients."""
    return torch.autocast(embeddings.device.type, enabled=False)


class _RandomState:
    """Where torch's generators stood at a moment: the CPU's, and the current CUDA device's where CUDA is in use."""

    def __init__(self) -> None:
        self.cpu = torch.get_rng_state()
        self.cuda: dict[int, Tensor] = {}
        if torch.cuda.is_initialized():
            device = torch.cuda.current_device()
            self.cuda[device] = torch.cuda.get_rng_state(device)

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        """Draw the same numbers once more, then go on where the generators were before."""
        with torch.random.fork_rng(list(self.cuda), device_type="cuda"):
            torch.set_rng_state(self.cpu)
            for device, state in self.cuda.items():
                torch.cuda.set_rng_state(state, device)
            yield


def _encoded(encode: Callable[[Inputs], Tensor], rows: Sequence[int], inputs: Inputs) -> Tensor:
    embeddings = encode(inputs)
    if len(embeddings) != len(rows):
        raise ValueError(f"the encoder returned {len(embeddings)} embeddings for a chunk of {len(rows)} rows")
    return embeddings


def _in_order(pieces: Sequence[Tensor], order: Sequence[int]) -> Tensor:
    """Pieces whose rows are `order` in the matrix, as that matrix."""
    back = sorted(range(len(order)), key=order.__getitem__)
    return torch.cat(list(pieces))[back]
