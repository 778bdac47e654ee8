"""Which inputs go through a model together, and in which threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

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
