"""How well a ranking answers a query, from the ranks of its right answers, and how sure one can be of the mean.

A right answer is whatever may stand for it: "any page of this file", "a clip that overlaps these seconds". It is found where the
first of these stands. An answer that is never found counts as one all the same.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence, Set

import numpy as np

from mmsearch.evaluation.metrics import Measured, intervals_of

METRICS = ("hit@1", "hit@5", "hit@10", "recall@10", "MRR", "nDCG@5", "nDCG@10")

Values = dict[str, np.ndarray]
"""By metric float64 [queries], 0…1."""


def ranks_of(found: Sequence[Hashable], answers: Sequence[Set[Hashable]]) -> list[int | None]:
    """For each answer the rank (from 1) of the hit that stands for it, None where there is none.

    Args:
        found: the contents of the hits, best first. A content that comes again (the same file at two paths) keeps its rank and
            stands for nothing.
        answers: the contents of which any one is right. A hit stands for one answer at most, for that which fewest could stand for.
    """
    ranks: list[int | None] = [None] * len(answers)
    narrow_first = sorted(range(len(answers)), key=lambda n: len(answers[n]))
    seen = set()
    for rank, content in enumerate(found, 1):
        if content in seen:
            continue
        seen.add(content)
        for n in narrow_first:
            if ranks[n] is None and content in answers[n]:
                ranks[n] = rank
                break
    return ranks


def values_of(ranks: Sequence[Sequence[int | None]]) -> Values:
    """Every metric of every query, from the ranks of its right answers (one at least; None: not found).

    hit@k: whether one of them is among the first k. recall@10: the share of them that is. MRR: 1 / rank of the first. nDCG@k: all of
    them as far up as they fit is 1 (binary gains; Järvelin and Kekäläinen 2002).
    """
    rows = [_values_of_query(np.array([rank for rank in of if rank is not None], np.float64), len(of)) for of in ranks]
    table = np.array(rows, np.float64).reshape(len(rows), len(METRICS))
    return {name: table[:, column] for column, name in enumerate(METRICS)}


def _values_of_query(found: np.ndarray, answers: int) -> list[float]:
    first = found.min(initial=np.inf)
    hits = [float(first <= k) for k in (1, 5, 10)]
    return [*hits, np.count_nonzero(found <= 10) / answers, 1 / first, _ndcg(found, answers, 5), _ndcg(found, answers, 10)]  # fmt: skip


def _ndcg(found: np.ndarray, answers: int, k: int) -> float:
    ideal = np.sum(1 / np.log2(1 + np.arange(1, min(answers, k) + 1)))
    return float(np.sum(1 / np.log2(1 + found[found <= k])) / ideal)


def measured(values: Mapping[str, np.ndarray], rows: Sequence[int] | np.ndarray) -> Measured:
    """Means over these rows (one at least), with bootstrap intervals (95 %) over queries."""
    chosen = {name: of[np.asarray(rows, np.int64)] for name, of in values.items()}
    return Measured({name: float(of.mean()) for name, of in chosen.items()}, intervals_of(chosen))
