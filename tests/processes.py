"""Several processes that train together on this machine, for tests: gloo over CPU, met at a file, no network."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

PRELOADED = ["mmsearch.training.train", "transformers.models.qwen2_vl.modeling_qwen2_vl", "peft"]
"""Imported once for all processes, which are forked from one that does nothing else: these imports take seconds."""
PATIENCE_S = 60
"""A collective that one process never reaches ends as an error, not as a hanging test."""


def run_processes(function: Callable[..., Any], count: int, folder: Path, *arguments: Any) -> list[Any]:
    """What function(*arguments) returns in each of `count` new processes, in the order of ranks.

    Args:
        function: of a module that can be imported; its result must be such that `torch.load(weights_only=True)` reads it.
        folder: for the processes' meeting point and results, empty.
    """
    multiprocessing.set_forkserver_preload(PRELOADED)
    torch.multiprocessing.start_processes(
        _run, (function, count, folder, arguments), nprocs=count, start_method="forkserver"
    )
    return [torch.load(folder / f"result-{rank}.pt", weights_only=True) for rank in range(count)]


def _run(rank: int, function: Callable[..., Any], count: int, folder: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=(folder / "meeting").as_uri(),
        rank=rank,
        world_size=count,
        timeout=timedelta(seconds=PATIENCE_S),
    )
    try:
        torch.save(function(*arguments), folder / f"result-{rank}.pt")
    finally:
        dist.destroy_process_group()
