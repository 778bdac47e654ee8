"""Two runs over the same queries: what changed, and whether that is more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmsearch.errors import DatasetError
from mmsearch.evaluation.metrics import intervals_of
from mmsearch.judgements.run import Asked, Run

FLIPS = 10_000
EXACT_UP_TO = 14
"""Differences; up to here every way to flip their signs is tried."""
SILENCE = "rightly silent"
CHANGE_BY = "nDCG@10"
"""The metric by which queries won, lost, and changed most."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric in both runs.

    Attributes:
        first, second: means. interval: of second - first, 95 %, from bootstrap over queries.
        p: how often chance alone gives a difference as large (two-sided paired randomisation test); not corrected for the number
            of metrics that are looked at.
        wins, losses, ties: queries for which the second run is better, worse, equal.
    """

    first: float
    second: float
    interval: tuple[float, float]
    p: float
    wins: int
    losses: int
    ties: int

    @property
    def difference(self) -> float:
        return self.second - self.first

    def record(self) -> dict[str, Any]:
        return {
            "first": self.first,
            "second": self.second,
            "difference": self.difference,
            "low": self.interval[0],
            "high": self.interval[1],
            "p": self.p,
            "wins": self.wins,
            "losses": self.losses,
            "ties": self.ties,
        }


@dataclass(frozen=True, slots=True)
class Change:
    """A query that the two runs answer differently: the rank of its first right answer (None: not found) and `CHANGE_BY`."""

    query: str
    first_rank: int | None
    second_rank: int | None
    first: float
    second: float


@dataclass(frozen=True)
class Comparison:
    """By mode that both runs hold.

    Attributes:
        queries: how many have an answer. unanswerable: how many have none.
        left_out: queries that only one run holds, or that were judged differently, where these were to be left out.
        differences: by mode and metric; "rightly silent" is over the queries without an answer.
        changes: by mode, the largest first.
        notes: what a reader must know: other libraries, other settings.
    """

    first: Run
    second: Run
    queries: int
    unanswerable: int
    left_out: Sequence[str]
    differences: Mapping[str, Mapping[str, Difference]]
    changes: Mapping[str, Sequence[Change]]
    notes: Sequence[str]

    def record(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "schema": 1,
            "first": dict(self.first.about),
            "second": dict(self.second.about),
            "queries": self.queries,
            "unanswerable": self.unanswerable,
            "left_out": list(self.left_out),
            "notes": list(self.notes),
            "modes": {
                mode: {
                    "metrics": {name: difference.record() for name, difference in of.items()},
                    "changes": [
                        {name: getattr(change, name) for name in Change.__slots__} for change in self.changes[mode]
                    ],
                }
                for mode, of in self.differences.items()
            },
        }


def compare_runs(first: Run, second: Run, *, common: bool = False, seed: int = 0) -> Comparison:
    """Compare the second run with the first.

    Args:
        common: compare the queries that both hold, with the same right answers, and leave out the others.

    Raises:
        DatasetError: the runs hold other queries or other right answers (the message says which), have no mode of search in common, or
            looked at other numbers of hits.
    """
    pairs, left_out = _paired(first, second)
    if left_out and not common:
        more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
        raise DatasetError(
            f"the runs do not hold the same queries: {'; '.join(left_out[:3])}{more} (--common compares what both have)"
        )
    if not pairs:
        raise DatasetError("the runs have no query in common")
    modes = [mode for mode in first.modes if mode in second.modes]
    if not modes:
        raise DatasetError(f"one run searched by {', '.join(first.modes)}, the other by {', '.join(second.modes)}")
    depths = {run.about["settings"]["depth"] for run in (first, second)}
    if len(depths) > 1:
        raise DatasetError(
            f"the runs looked at {' and '.join(map(str, sorted(depths)))} hits a query: measure one again"
        )
    before = Run(first.about, first.modes, [a for a, _ in pairs])
    after = Run(second.about, second.modes, [b for _, b in pairs])
    return Comparison(
        first=first,
        second=second,
        queries=len(before.answerable),
        unanswerable=len(before.unanswerable),
        left_out=left_out,
        differences={mode: _differences(before, after, mode, seed) for mode in modes},
        changes={mode: _changes(before, after, mode) for mode in modes},
        notes=_notes(first, second),
    )


def _paired(first: Run, second: Run) -> tuple[list[tuple[Asked, Asked]], list[str]]:
    """Queries of both runs, in the order of the first, and what stands in the way of the others."""
    others = {one.query.key: one for one in second.asked}
    known = {one.query.key for one in first.asked}
    pairs, left_out = [], []
    for one in first.asked:
        other = others.get(one.query.key)
        if other is None:
            left_out.append(f"{one.query} is only in the first")
        elif set(one.query.relevant) != set(other.query.relevant):
            left_out.append(f"{one.query} has other right answers in the second")
        else:
            pairs.append((one, other))
    left_out += [f"{one.query} is only in the second" for one in second.asked if one.query.key not in known]
    return pairs, left_out


def _differences(first: Run, second: Run, mode: str, seed: int) -> dict[str, Difference]:
    found = {}
    if first.answerable:
        found = paired_differences(first.values(mode), second.values(mode), seed=seed)
    if first.unanswerable:
        silent = [{SILENCE: run.is_silent(mode, run.unanswerable)} for run in (first, second)]
        found |= paired_differences(*silent, seed=seed)
    return found


def paired_differences(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], *, seed: int = 0
) -> dict[str, Difference]:
    """By metric, from the values [queries] of the same queries in both runs."""
    gains = {name: np.asarray(second[name] - first[name], np.float64) for name in first}
    intervals = intervals_of(gains, seed=seed)
    return {
        name: Difference(
            first=float(first[name].mean()),
            second=float(second[name].mean()),
            interval=intervals[name],
            p=randomisation_p(gain, seed=seed),
            wins=int(np.count_nonzero(gain > 0)),
            losses=int(np.count_nonzero(gain < 0)),
            ties=int(np.count_nonzero(gain == 0)),
        )
        for name, gain in gains.items()
    }


def randomisation_p(gains: np.ndarray, *, seed: int = 0) -> float:
    """How likely a mean as far from 0 as that of the gains [queries] is, if each gain had either sign with equal chance.

    Exact for few gains; else from `FLIPS` draws, the observed one counted among them, so that it is never 0.
    Source: Smucker, Allan and Carterette 2007, "A comparison of statistical significance tests for information retrieval evaluation".
    """
    gains = gains[gains != 0]  # a tie has no sign
    if not len(gains):
        return 1.0
    observed = abs(gains.sum()) - 1e-12
    if len(gains) <= EXACT_UP_TO:
        signs = 1.0 - 2.0 * (np.arange(2 ** len(gains))[:, None] >> np.arange(len(gains)) & 1)
        return float(np.mean(np.abs(signs @ gains) >= observed))
    rng = np.random.default_rng(seed)
    as_far = 0
    for _ in range(FLIPS // 1000):
        signs = 1.0 - 2.0 * rng.integers(0, 2, (1000, len(gains)), np.int8)
        as_far += int(np.count_nonzero(np.abs(signs @ gains) >= observed))
    return (as_far + 1) / (FLIPS + 1)


def _changes(first: Run, second: Run, mode: str) -> list[Change]:
    if not first.answerable:
        return []
    before, after = first.values(mode)[CHANGE_BY], second.values(mode)[CHANGE_BY]
    changes = [
        Change(str(a.query), _best(a, mode), _best(b, mode), float(old), float(new))
        for a, b, old, new in zip(first.answerable, second.answerable, before, after, strict=True)
        if a.outcomes[mode].ranks != b.outcomes[mode].ranks
    ]
    return sorted(changes, key=lambda change: -abs(change.second - change.first))


def _best(asked: Asked, mode: str) -> int | None:
    return min((rank for rank in asked.outcomes[mode].ranks if rank is not None), default=None)


def _notes(first: Run, second: Run) -> list[str]:
    notes = []
    libraries = [run.about["library"] for run in (first, second)]
    if libraries[0]["id"] != libraries[1]["id"]:
        notes.append(f"the runs asked different libraries: {libraries[0]['folder']} and {libraries[1]['folder']}")
    elif libraries[0]["items"] != libraries[1]["items"]:
        notes.append(f"the library has changed between the runs: {libraries[0]['items']}, then {libraries[1]['items']}")
    cut_offs = [run.about["settings"]["cut_off"] for run in (first, second)]
    if cut_offs[0] != cut_offs[1]:
        notes.append(f"the application's cut-off has changed: {cut_offs[0]}, then {cut_offs[1]}")
    for name, run in (("first", first), ("second", second)):
        if run.missing:
            notes.append(f"{len(run.missing)} right answers were not in the library of the {name} run")
    return notes
