"""The ranking metrics of MMEB-V2: from the names that a model ranked first and the names that are right, nothing else.

Source: TIGER-AI-Lab/VLM2Vec@6e1e1d4 `src/utils/eval_utils/metrics.py` (`RankingMetrics`), with one repair: there labels went through a
set before they were paired with their gains, so that graded NDCG depended on Python's hash seed. Here a gain belongs to its label.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CUTOFFS = (1, 5, 10)
METRICS = ("hit", "ndcg_linear", "ndcg_exponential", "precision", "recall", "f1", "map", "mrr")


@dataclass(frozen=True, slots=True)
class Ranked:
    """The answer to one query.

    Attributes:
        prediction: names of candidates, best first, each once; at least the first ten where there are as many.
        labels: names that are right. One that comes twice counts once, with the higher gain.
        gains: how right each label is; None: all alike.
    """

    prediction: Sequence[str]
    labels: Sequence[str]
    gains: Sequence[float] | None = None


def query_values(ranked: Ranked) -> dict[str, float]:
    """Every metric at every cutoff, as "ndcg_linear@5", each 0…1. A query without labels has 0 everywhere.

    Raises:
        ValueError: as many gains as labels are wanted.
    """
    gains: dict[str, float] = {}
    for label, gain in zip(ranked.labels, ranked.gains or [1.0] * len(ranked.labels), strict=True):
        gains[label] = max(gain, gains.get(label, gain))
    found = [gains.get(name, 0.0) for name in ranked.prediction[: max(CUTOFFS)]]
    is_right = [name in gains for name in ranked.prediction[: max(CUTOFFS)]]
    ideal = sorted(gains.values(), reverse=True)

    values = {}
    for k in CUTOFFS:
        right = sum(is_right[:k])
        precision, recall = right / k, right / len(gains) if gains else 0.0
        values[f"hit@{k}"] = float(right > 0)
        values[f"ndcg_linear@{k}"] = _ratio(_dcg(found[:k]), _dcg(ideal[:k]))
        values[f"ndcg_exponential@{k}"] = _ratio(_dcg(_powers(found[:k])), _dcg(_powers(ideal[:k])))
        values[f"precision@{k}"] = precision
        values[f"recall@{k}"] = recall
        values[f"f1@{k}"] = _ratio(2 * precision * recall, precision + recall)
        values[f"map@{k}"] = _ratio(_sum_of_precisions(is_right[:k]), min(len(gains), k))
        values[f"mrr@{k}"] = 1 / (is_right.index(True, 0, k) + 1) if right else 0.0
    return values


def mean_values(answers: Sequence[Ranked]) -> dict[str, float]:
    """The mean of every metric over queries; metric by metric, as the reference's score files are ordered."""
    of_queries = [query_values(answer) for answer in answers]
    names = [f"{metric}@{k}" for metric in METRICS for k in CUTOFFS]
    return {name: math.fsum(values[name] for values in of_queries) / max(1, len(of_queries)) for name in names}


def _dcg(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(place + 2) for place, gain in enumerate(gains))


def _powers(gains: Sequence[float]) -> list[float]:
    return [2**gain - 1 for gain in gains]


def _sum_of_precisions(is_right: Sequence[bool]) -> float:
    return sum(sum(is_right[: place + 1]) / (place + 1) for place, right in enumerate(is_right) if right)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
