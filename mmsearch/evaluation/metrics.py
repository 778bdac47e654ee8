"""How good a ranking is, and how sure one can be of it. Scores are float [q, n]: a row per query, higher is better.

A query has one or several right columns. `R@k` asks whether one of them is among the first k, `MRR` where the first of them
stands; `nDCG@5` wants all of them as far up as they fit (binary gains; Järvelin and Kekäläinen 2002).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Metrics = dict[str, float]
Right = Sequence[int] | Sequence[Sequence[int]]
"""Per query its right column, or its right columns."""

RESAMPLES = 1000


@dataclass(frozen=True)
class Measured:
    """Means over queries, and between which values each lies with 95 % probability (empty where that was not asked)."""

    metrics: Metrics
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        return self.metrics[name]


def ranks(scores: np.ndarray, right: Sequence[int]) -> np.ndarray:
    """For scores [q, n] and the right column of each row, its rank from 1; ties count against it."""
    own = scores[np.arange(len(right)), right][:, None]
    return (scores >= own).sum(1)


def right_ranks(scores: np.ndarray, right: Right) -> list[np.ndarray]:
    """Per query the ranks of its right columns, ascending from 1; ties with wrong columns count against them."""
    found = []
    for row, of_query in zip(scores, right, strict=True):
        columns = np.array([of_query], np.int64).ravel()
        own = np.sort(row[columns])[::-1]
        is_wrong = np.ones(len(row), bool)
        is_wrong[columns] = False
        above = (row[is_wrong] >= own[:, None]).sum(1)
        found.append(above + np.arange(1, len(own) + 1))
    return found


def values_of(found: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Per metric its value for every query [q], from the ranks of each query's right columns."""
    first = np.array([own[0] for own in found])
    ideal = 1 / np.log2(np.arange(2, 7))
    ndcg = [np.sum(1 / np.log2(1 + own[own <= 5])) / np.sum(ideal[: len(own)]) for own in found]
    return {
        "R@1": first <= 1,
        "R@5": first <= 5,
        "R@10": first <= 10,
        "nDCG@5": np.array(ndcg),
        "MRR": 1 / first,
    }


def measure(scores: np.ndarray, right: Right, groups: Sequence[int] | None = None) -> Measured:
    """R@1, R@5, R@10, nDCG@5 and MRR, each 0…1, with intervals; for `groups` see `intervals_of`."""
    values = values_of(right_ranks(scores, right))
    return Measured({name: float(np.mean(of)) for name, of in values.items()}, intervals_of(values, groups))


def known_item_metrics(rank: np.ndarray) -> Metrics:
    """The same metrics from ranks [q] of queries with one right column each."""
    return {name: float(np.mean(of)) for name, of in values_of(list(rank[:, None])).items()}


def intervals_of(
    values: Mapping[str, np.ndarray], groups: Sequence[int] | None = None, *, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals (95 %) of the means of values [q].

    `groups` [q]: queries of one group stand or fall together (the five captions of a photo), so groups are drawn, not queries.
    """
    table = np.stack([np.asarray(of, np.float64) for of in values.values()], 1)
    members = np.arange(len(table)) if groups is None else np.unique(groups, return_inverse=True)[1]
    size = int(members.max()) + 1
    sums = np.zeros((size, table.shape[1]))
    np.add.at(sums, members, table)
    counts = np.bincount(members, minlength=size)
    drawn = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), RESAMPLES)
    means = (drawn @ sums) / (drawn @ counts)[:, None]
    low, high = np.quantile(means, (0.025, 0.975), axis=0)
    return {name: (float(a), float(b)) for name, a, b in zip(values, low, high, strict=True)}


def chance(pool: int) -> Measured:
    """What a blind draw from a pool reaches, for queries with one right column."""
    return Measured(known_item_metrics(np.arange(1, pool + 1)))


def average_precisions(vectors: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Per vector [n, dim] the average precision of the others' order, right where the label is its own; labels with one
    member are left out as queries."""
    names = np.array(labels)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    precisions = []
    for row, label in enumerate(names):
        order = np.argsort(-scores[row], kind="stable")[:-1]
        found = names[order] == label
        if found.any():
            places = np.flatnonzero(found) + 1
            precisions.append(np.mean(np.arange(1, len(places) + 1) / places))
    return np.array(precisions)


def mean_average_precision(vectors: np.ndarray, labels: Sequence[str]) -> Measured:
    """mAP, with its interval."""
    values = {"mAP": average_precisions(vectors, labels)}
    return Measured({"mAP": float(values["mAP"].mean())}, intervals_of(values))


def truncated(vectors: np.ndarray, dim: int) -> np.ndarray:
    """The first `dim` dimensions of float32 [n, dim], brought to unit length again (Matryoshka)."""
    cut = vectors[:, :dim]
    return cut / np.linalg.norm(cut, axis=1, keepdims=True)
