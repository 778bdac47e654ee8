"""Which examples make up a step: sources mixed by weight into sub-batches of one source each, from the seed and step alone.

A global batch of 1,024 is, for example, 16 sub-batches of 64: within a sub-batch all examples are of one source, so that an
example's negatives are of its own kind, while the batch as a whole is mixed. Every slot draws its source by weight.

Nothing here depends on processes or loader workers: `draw(step)` is the global batch, `share` cuts it up. The number of
rows that a source has given before a step follows from the sources drawn before it, so a run goes on at any step exactly
where it was, without any stored state.

Source: VLM2Vec-V2's paper (interleaved sub-batches, 3.2; 1,024 and 64 in 4.1). Its code does something else (see
shared/REFERENCE.md §3.4), which `tests/unit/test_mixture.py` excludes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import isfinite
from typing import Any

import numpy as np

from mmsearch.errors import ConfigError

BLOCK_STEPS = 256
"""Steps whose sources are drawn by one random generator; counts are kept per block, so that no step is far from one."""
EPOCHS_CACHED = 256
"""Permutations kept per process, of all sources together."""


@dataclass(frozen=True, slots=True)
class SubBatchRows:
    """Consecutive examples of one source in a batch, as row numbers of that source."""

    source: str
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Mixture:
    """Weighted, shuffled batches over several sources.

    Each source is walked in a new random order per pass; no row comes again before its pass is over, and a source that is
    through starts again whatever the others do.

    Attributes:
        sizes: rows per source. weights: how often a sub-batch is of that source, relative to the sum.
        global_batch: examples per optimizer step, over all processes.
        sub_batch: examples of one source next to each other; 0: every example is drawn by itself; `global_batch`: one
            source per step.

    Raises:
        ConfigError: nothing to mix, a weight without source or the reverse, a weight that is not positive and finite, an
            empty source, a negative seed, a sub-batch that does not divide the batch.
    """

    sizes: Mapping[str, int]
    weights: Mapping[str, float]
    global_batch: int
    sub_batch: int
    seed: int
    _before: list[np.ndarray] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.weights:
            raise ConfigError("the mixture has no source: give at least one with a weight")
        if unknown := sorted(set(self.weights) - set(self.sizes)):
            raise ConfigError(
                f"the mixture weighs unknown sources: {', '.join(unknown)}; known: {', '.join(sorted(self.sizes))}"
            )
        if unweighted := sorted(set(self.sizes) - set(self.weights)):
            raise ConfigError(f"sources without a weight in the mixture: {', '.join(unweighted)}")
        for name, weight in self.weights.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not isfinite(weight) or weight <= 0:
                raise ConfigError(f"the weight of {name} is {weight!r}; it must be a number above 0 (or leave it out)")
        for name, size in self.sizes.items():
            if size < 1:
                raise ConfigError(f"the source {name} has {size} rows; leave it out or fill it")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; it must be 0 or more")
        if self.global_batch < 1:
            raise ConfigError(f"global_batch is {self.global_batch}; it must be at least 1")
        if self.sub_batch < 0 or self.sub_batch > self.global_batch or self.global_batch % (self.sub_batch or 1):
            raise ConfigError(
                f"sub_batch {self.sub_batch} does not divide global_batch {self.global_batch}; "
                "give a divisor of it, or 0 to draw every example by itself"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The sources in the order of the weights, which is part of what a seed means."""
        return tuple(self.weights)

    @property
    def slots(self) -> int:
        """Sub-batches per global batch."""
        return self.global_batch // (self.sub_batch or 1)

    def probabilities(self) -> dict[str, float]:
        """The share of each source, summing to 1."""
        total = sum(self.weights.values())
        return {name: weight / total for name, weight in self.weights.items()}

    def draw(self, step: int) -> list[SubBatchRows]:
        """The global batch of a step (from 0): `global_batch` examples in sub-batches of one source each."""
        if step < 0:
            raise ValueError(f"step {step}")
        width = self.sub_batch or 1
        given = self.rows_before(step)
        drawn = []
        for number in self._sources(step):
            name = self.names[number]
            drawn.append(SubBatchRows(name, self._rows(number, given[name], width)))
            given[name] += width
        return drawn

    def share(self, step: int, rank: int, world_size: int) -> list[SubBatchRows]:
        """What process `rank` of `world_size` computes: its `global_batch / world_size` consecutive examples of `draw(step)`.

        Whole sub-batches where they divide among the processes; else one is cut. All shares in order are the global batch.

        Raises:
            ConfigError: the processes do not divide the batch.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size}")
        if self.global_batch % world_size:
            raise ConfigError(f"global_batch {self.global_batch} cannot be shared out to {world_size} processes")
        size = self.global_batch // world_size
        first, last = rank * size, (rank + 1) * size
        width = self.sub_batch or 1
        parts = []
        for number, whole in enumerate(self.draw(step)):
            start = number * width
            rows = whole.rows[max(first - start, 0) : max(last - start, 0)]
            if rows:
                parts.append(SubBatchRows(whole.source, rows))
        return parts

    def rows_before(self, step: int) -> dict[str, int]:
        """How many rows each source has given in the steps before `step`."""
        block, rest = divmod(step, BLOCK_STEPS)
        if not self._before:
            self._before.append(np.zeros(len(self.names), np.int64))
        while len(self._before) <= block:
            sources = self._block_sources(len(self._before) - 1)
            self._before.append(self._before[-1] + self._counts(sources))
        counts = self._before[block] + self._counts(self._block_sources(block)[:rest])
        return {name: int(count) * (self.sub_batch or 1) for name, count in zip(self.names, counts, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """What a run's state keeps to know that it goes on over the same examples; the place itself is the step."""
        return {
            "sizes": {name: self.sizes[name] for name in self.names},
            "weights": {name: float(self.weights[name]) for name in self.names},
            "order": list(self.names),
            "global_batch": self.global_batch,
            "sub_batch": self.sub_batch,
            "seed": self.seed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that a kept state is of this mixture.

        Raises:
            ConfigError: naming what differs; the run would silently go on over other examples.
        """
        own = self.state_dict()
        if different := [name for name, value in own.items() if state.get(name) != value]:
            changes = "; ".join(f"{name}: {state.get(name)!r} then, {own[name]!r} now" for name in different)
            raise ConfigError(
                f"the run was started with another mixture ({changes}); go on with that one, or start again"
            )

    def _sources(self, step: int) -> np.ndarray:
        block, rest = divmod(step, BLOCK_STEPS)
        return self._block_sources(block)[rest]

    def _block_sources(self, block: int) -> np.ndarray:
        return _block_sources(self.seed, tuple(self.probabilities().values()), self.slots, block)

    def _counts(self, sources: np.ndarray) -> np.ndarray:
        return np.bincount(sources.reshape(-1), minlength=len(self.names))

    def _rows(self, number: int, first: int, count: int) -> tuple[int, ...]:
        size = self.sizes[self.names[number]]
        rows: list[int] = []
        while count > 0:
            epoch, place = divmod(first, size)
            part = permutation(self.seed, self.names[number], epoch, size)[place : place + count]
            rows.extend(part.tolist())
            first, count = first + len(part), count - len(part)
        return tuple(rows)


@lru_cache(maxsize=8)
def _block_sources(seed: int, probabilities: tuple[float, ...], slots: int, block: int) -> np.ndarray:
    """The number of the source in every slot of a block's steps, intp [BLOCK_STEPS, slots]."""
    dice = np.random.default_rng([seed, 0, block]).random((BLOCK_STEPS, slots))
    edges = np.cumsum(probabilities)[:-1]
    return np.searchsorted(edges, dice, side="right")


@lru_cache(maxsize=EPOCHS_CACHED)
def permutation(seed: int, source: str, epoch: int, size: int) -> np.ndarray:
    """The order of a source's rows in one pass, int32 [size].

    Sorted random numbers and not `Generator.permutation`, whose order may change between versions of NumPy.
    """
    rng = np.random.default_rng([seed, 1, epoch, *source.encode()])
    return rng.random(size).argsort(kind="stable").astype(np.int32)
