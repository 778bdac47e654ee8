"""Which of two models finds the library's items better: known-item queries, asked of both, and whether the difference is more than noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mmsearch.adapt.plan import Question
from mmsearch.evaluation.metrics import right_ranks, values_of
from mmsearch.items import Kind

METRICS = ("R@10", "nDCG@5")
LEAST_QUERIES, LEAST_FILES = 8, 3
"""A kind with fewer queries, or queries about fewer files, is shown but decides nothing."""
RESAMPLES = 2000
LARGEST_LOSS = 0.05
"""A kind that loses so much counts as worse, however few queries say so."""

Vectors = Mapping[int, np.ndarray]
"""float32 [dim] of unit length by item id."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and its encoding by both models, float32 [dim].

    Attributes:
        kind: of the row in the table: the question's kind, or "page without text".
    """

    question: Question
    kind: str
    before: np.ndarray
    after: np.ndarray


@dataclass(frozen=True, slots=True)
class KindRow:
    """Means over a kind's queries, 0…1, and the 95 % interval of what the mean of both metrics gained."""

    kind: str
    queries: int
    files: int
    pool: int
    before: Mapping[str, float]
    after: Mapping[str, float]
    gain: float
    interval: tuple[float, float]
    decides: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """Attributes:
    gain, interval: macro average over the kinds that decide, of the mean of R@10 and nDCG@5.
    reasons: why it is not better; empty if it is.
    """

    rows: tuple[KindRow, ...]
    gain: float
    interval: tuple[float, float]
    reasons: tuple[str, ...]

    @property
    def is_better(self) -> bool:
        return not self.reasons

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "is_better": self.is_better}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Verdict:
        """The inverse of `record`."""
        rows = tuple(KindRow(**{**row, "interval": tuple(row["interval"])}) for row in record["rows"])
        return cls(rows, record["gain"], tuple(record["interval"]), tuple(record["reasons"]))

    def table(self) -> list[str]:
        """Markdown."""
        lines = [
            "| kind | queries (files) | pool | R@10 before | after | nDCG@5 before | after | gain (95 %) |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            numbers = " | ".join(f"{side[metric]:.3f}" for metric in METRICS for side in (row.before, row.after))
            aside = "" if row.decides else " (too few to decide)"
            lines.append(
                f"| {row.kind}{aside} | {row.queries} ({row.files}) | {row.pool:,} | {numbers} | {_gain(row.gain, row.interval)} |"
            )
        lines.append(f"| macro average | | | | | | | {_gain(self.gain, self.interval)} |")
        return lines


def _gain(gain: float, interval: Sequence[float]) -> str:
    return f"{gain:+.3f} ({interval[0]:+.3f} … {interval[1]:+.3f})"


def judge(
    asked: Sequence[Asked], before: Mapping[str, Vectors], after: Mapping[str, Vectors], *, seed: int = 0
) -> Verdict:
    """Compare two models.

    Args:
        before, after: vectors of the pool by kind of row; items that one of them lacks are left out.
    """
    by_kind: dict[str, list[Asked]] = defaultdict(list)
    for one in asked:
        by_kind[one.kind].append(one)
    rows, resampled = [], []
    rng = np.random.default_rng(seed)
    for kind, of_kind in by_kind.items():
        pool = sorted(before[kind].keys() & after[kind].keys())
        answerable = [one for one in of_kind if set(one.question.relevant) & set(pool)]
        if not answerable:
            continue
        old = scores([one.question for one in answerable], [one.before for one in answerable], before[kind], pool)
        new = scores([one.question for one in answerable], [one.after for one in answerable], after[kind], pool)
        gains = np.mean([new[name] - old[name] for name in METRICS], axis=0)
        groups = [one.question.group for one in answerable]
        means = _resampled_means(gains, groups, rng)
        files = len(set(groups))
        decides = len(answerable) >= LEAST_QUERIES and files >= LEAST_FILES
        rows.append(
            KindRow(
                kind, len(answerable), files, len(pool),
                {name: float(old[name].mean()) for name in METRICS}, {name: float(new[name].mean()) for name in METRICS},
                float(gains.mean()), _interval(means), decides,
            )
        )  # fmt: skip
        if decides:
            resampled.append(means)
    return _verdict(rows, resampled)


def scores(
    questions: Sequence[Question], encoded: Sequence[np.ndarray], vectors: Vectors, pool: Sequence[int]
) -> dict[str, np.ndarray]:
    """R@10 (an answer is among the first ten) and nDCG@5 of every question, float [questions].

    Right answers of another part count neither way: they are taken out of that question's pool.
    """
    place = {item_id: column for column, item_id in enumerate(pool)}
    cosines = np.stack(encoded) @ np.stack([vectors[item_id] for item_id in pool]).T
    right = []
    for row, question in zip(cosines, questions, strict=True):
        row[[place[item_id] for item_id in question.ignored if item_id in place]] = -np.inf
        right.append([place[item_id] for item_id in question.relevant if item_id in place])
    values = values_of(right_ranks(cosines, right))
    return {name: np.asarray(values[name], np.float64) for name in METRICS}


def _resampled_means(gains: np.ndarray, groups: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """float [RESAMPLES]: mean gains when files, not queries, are drawn with replacement: queries about one file are alike."""
    names = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    of = np.array([names[group] for group in groups])
    sums, counts = np.bincount(of, gains, len(names)), np.bincount(of, minlength=len(names))
    drawn = rng.integers(0, len(names), (RESAMPLES, len(names)))
    return sums[drawn].sum(1) / counts[drawn].sum(1)


def _interval(means: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _verdict(rows: Sequence[KindRow], resampled: Sequence[np.ndarray]) -> Verdict:
    deciding = [row for row in rows if row.decides]
    if not deciding:
        return Verdict(tuple(rows), 0.0, (0.0, 0.0), ("too few held-out queries in every kind to tell",))
    gain = float(np.mean([row.gain for row in deciding]))
    interval = _interval(np.mean(resampled, axis=0))
    reasons = []
    if interval[0] <= 0:
        reasons.append(f"the macro average changed by {_gain(gain, interval)}: not better beyond noise")
    for row in deciding:
        if row.interval[1] < 0 or row.gain < -LARGEST_LOSS:
            reasons.append(f"{row.kind} became worse: {_gain(row.gain, row.interval)}")
    return Verdict(tuple(rows), gain, interval, tuple(reasons))


def row_kinds(question: Question, textless: Collection[int]) -> list[str]:
    """The rows of the table in which a question counts: a page is also sought by its picture alone, where that was embedded."""
    kinds: list[str] = [question.kind]
    if question.kind == "page" and any(item_id in textless for item_id in question.relevant):
        kinds.append(PICTURE_ALONE)
    return kinds


PICTURE_ALONE = "page, picture alone"


def kind_of(row: str) -> Kind:
    return "page" if row == PICTURE_ALONE else row  # type: ignore[return-value]
