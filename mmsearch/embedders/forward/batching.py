"""Which inputs go through a model together, in which threads, and what is done where they do not fit."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

from mmsearch.errors import EmbedderError

logger = logging.getLogger(__name__)

Given = TypeVar("Given")
Made = TypeVar("Made")


def batches_by_cost(costs: Sequence[tuple[int, int]], budget: int) -> list[list[int]]:
    """Group indices of like (patches, tokens), the costliest first, so that a batch's sum stays within `budget`."""
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(costs)), key=costs.__getitem__, reverse=True):
        cost = sum(costs[index])
        if cost > room or not batches:
            batches.append([])
            room = budget
        batches[-1].append(index)
        room -= cost
    return batches


def made_ahead(make: Callable[[Given], Made], batches: Sequence[Given], *, threads: int = 4) -> Iterator[Made]:
    """make(batch) for all batches in order, at most `threads` of them ahead of the one in use."""
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="prepare") as pool:
        try:
            for batch in batches:
                waiting.append(pool.submit(make, batch))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def single_core_threads(count: int) -> ThreadPoolExecutor:
    """Threads in which torch computes on one core, whatever it does in others."""
    everyone = threading.Barrier(count + 1)

    def start() -> None:
        torch.get_num_threads()  # makes torch set this thread up, which would undo the next line later
        torch.set_num_threads(1)
        everyone.wait()

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, thread_name_prefix="embed", initializer=start)
    for _ in range(count):
        pool.submit(int)
    everyone.wait()
    torch.set_num_threads(before)  # the number is also the default of threads to come
    return pool


def padded(ids: Sequence[list[int]], pad_id: int, length: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids padded at the end: int64 [n, length], and which are tokens, bool [n, length]."""
    length = length or max(map(len, ids))
    rows = torch.full((len(ids), length), pad_id)
    for row, own in zip(rows, ids, strict=True):
        row[: len(own)] = torch.tensor(own)
    return rows, torch.arange(length) < torch.tensor([len(own) for own in ids])[:, None]


def in_halves(compute: Callable[[Sequence[int]], np.ndarray], rows: Sequence[int], *, device: str) -> np.ndarray:
    """compute(rows); what does not fit into the accelerator's memory is tried in halves.

    Raises: EmbedderError: a single row that does not fit.
    """
    try:
        return compute(rows)
    except torch.OutOfMemoryError as error:
        if len(rows) == 1:
            raise EmbedderError(f"input {rows[0]} does not fit into the memory of {device}") from error
    torch.cuda.empty_cache()
    logger.info("%d inputs do not fit into the memory of %s together; trying halves", len(rows), device)
    middle = len(rows) // 2
    return np.concatenate([in_halves(compute, half, device=device) for half in (rows[:middle], rows[middle:])])
