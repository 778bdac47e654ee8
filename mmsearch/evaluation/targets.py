"""What the shipped checkpoint is to reach (issue 12), read off the tables. A table that was not made is not judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mmsearch.evaluation.report import Table, Target

DENSE = "ours, picture + text"
FUSED = "ours + words, as the application fuses them"
RANK_FUSED = "ours + BM25, reciprocal ranks"
PICTURE = "ours, picture alone"
MINILM = "all-MiniLM-L6-v2 on the text"
E5 = "multilingual-e5-small on the text"
BM25 = "BM25 (FTS5) on the text"
MINILM_BM25 = "MiniLM + BM25, reciprocal ranks"
OCR = "Tesseract + BM25, picture alone"
OURS = "ours"

OBEYED = "the instruction names the kind, cosines"
OBEYED_SERVED = "the same, calibrated and fused as the application does"
OTHERS = "all others"
"""The row of the languages that are not English, together."""
EVERY = "all"
SILENT = "no good match"
SHOWN = "of these the first is shown"

LARGEST_BYTES = 100_000_000
LANGUAGE_SHARE = 0.85

Tables = Mapping[str, Table]


@dataclass(frozen=True, slots=True)
class Goal:
    """Metrics of one system in one table that are to reach a value; `before`: what version 0.4.0 reaches."""

    what: str
    table: str
    system: str
    wanted: Mapping[str, float]
    before: str = ""


GOALS = (
    Goal("caption -> photo", "caption -> photo", OURS, {"R@1": 0.25, "R@10": 0.68}, "0.068 / 0.276"),
    Goal("photo -> caption", "photo -> caption", OURS, {"R@10": 0.72}, "0.285"),
    Goal("name of a class -> its picture, all ImageNet samples", "class name -> picture, all", OURS, {"R@10": 0.75}),
    Goal("photo -> photo of its class", "photo -> photo", OURS, {"mAP": 0.20}, "0.038"),
    Goal("questions by hand -> page, dense", "pages, natural, all", DENSE, {"nDCG@5": 0.52}, "0.388"),
    Goal("the same, as the application answers", "pages, natural, all", FUSED, {"nDCG@5": 0.56}, "0.442"),
    Goal("words of the page, as the application answers", "pages, words, all", FUSED, {"nDCG@5": 0.93}, "0.926"),
    Goal("text -> clip by sight alone", "text -> clip", OURS, {"R@10": 0.80}, "0.737"),
    Goal("caption -> clip made of photos in motion", "caption -> clip of photos", OURS, {"R@10": 0.60}),
    Goal("instruction obeyed", "instructions", OBEYED, {"first hit of that kind": 0.95}, "0.998"),
    Goal(
        "kinds compete fairly: the same, calibrated and fused as the application does",
        "instructions",
        OBEYED_SERVED,
        {"first hit of that kind": 0.85},
        "0.64",
    ),
    Goal("queries that nothing answers", "no good match", EVERY, {SILENT: 0.90}),
    Goal("queries with the right one first", "right and shown", EVERY, {SHOWN: 0.90}),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a whole ingest on two cores may take; `is_most`: the limit is a ceiling."""

    what: str
    limit: float
    is_most: bool = False
    before: str = ""


COSTS: Mapping[str, Cost] = {
    "pages": Cost("pages a second, whole ingest, two cores", 10, before="17"),
    "photos": Cost("photos a second, whole ingest, two cores", 35, before="40"),
    "clips": Cost("clips a second, whole ingest, two cores", 5, before="7"),
    "memory_gb": Cost("memory of an ingest, GB", 1.5, is_most=True, before="0.8"),
}
"""Measured elsewhere (`make bench`) and given to the report by these names."""


def targets(tables: Tables, costs: Mapping[str, float] | None = None) -> list[Target]:
    """Every target whose table is there, then the costs; a cost that was not given stands there as not measured."""
    found = []
    for judge in (*map(_at_least, GOALS), _paraphrases, _languages, _composed, _size):
        try:
            found.append(judge(tables))
        except KeyError:  # that table, or a system in it, was not measured
            continue
    return found + [_cost(cost, (costs or {}).get(name)) for name, cost in COSTS.items()]


def _at_least(goal: Goal) -> Callable[[Tables], Target]:
    def judge(tables: Tables) -> Target:
        systems = tables[goal.table].systems
        reached = {metric: systems[goal.system][metric] for metric in goal.wanted}
        beside = [f"0.4.0: {goal.before}"] if goal.before else []
        beside += [
            f"{name}: {' / '.join(f'{systems[system][metric]:.3f}' for metric in goal.wanted)}"
            for system, name in _BESIDE.items()
            if system in systems and system != goal.system
        ]
        return Target(
            f"{goal.what}: {' / '.join(goal.wanted)}",
            "≥ " + " / ".join(f"{value:.2f}" for value in goal.wanted.values()),
            " / ".join(f"{value:.3f}" for value in reached.values()),
            all(reached[metric] >= value for metric, value in goal.wanted.items()),
            "; ".join(beside),
        )

    return judge


_BESIDE = {MINILM: "MiniLM", E5: "E5", BM25: "BM25", "chance": "chance"}


def _paraphrases(tables: Tables) -> Target:
    ndcg = {system: measured["nDCG@5"] for system, measured in tables["pages, paraphrases, all"].systems.items()}
    better = max(ndcg[DENSE], ndcg[BM25])
    beside = [f"dense {ndcg[DENSE]:.3f}"]
    beside += [f"{_BESIDE[system]} {ndcg[system]:.3f}" for system in (BM25, MINILM, E5) if system in ndcg]
    return Target(
        "paraphrases without a word in common, as the application answers: nDCG@5",
        f"≥ {better:.3f} (the better of dense and words)",
        f"{ndcg[FUSED]:.3f}",
        ndcg[FUSED] >= better,
        ", ".join(beside),
    )


def _languages(tables: Tables) -> Target:
    metric = f"{FUSED}, of English"
    shares = {name: measured[metric] for name, measured in tables["questions, other languages"].systems.items()}
    each = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if name not in (OTHERS, "English"))
    return Target(
        "the questions by hand in other languages, as the application answers: nDCG@5",
        f"≥ {LANGUAGE_SHARE:.0%} of English",
        f"{shares[OTHERS]:.0%} of English",
        shares[OTHERS] >= LANGUAGE_SHARE,
        each,
    )


def _composed(tables: Tables) -> Target:
    systems = {system: measured["R@10"] for system, measured in tables["composed"].systems.items()}
    both, *others = systems.values()
    return Target(
        'photo + "the same with / without …": R@10',
        f"> {max(others):.3f} (photo alone, words alone, the sum of the two)",
        f"{both:.3f}",
        both > max(others),
        "; ".join(f"{name} {value:.3f}" for name, value in list(systems.items())[1:]),
    )


def _size(tables: Tables) -> Target:
    megabytes = tables["size"].systems[OURS]["MB"]
    limit = LARGEST_BYTES / 1e6
    return Target("size of the weights", f"≤ {limit:.1f} MB", f"{megabytes:.1f} MB", megabytes <= limit)


def _cost(cost: Cost, reached: float | None) -> Target:
    return Target(
        cost.what,
        f"{'≤' if cost.is_most else '≥'} {cost.limit:g}",
        "" if reached is None else f"{reached:g}",
        None if reached is None else (reached <= cost.limit if cost.is_most else reached >= cost.limit),
        f"0.4.0: {cost.before}",
    )
