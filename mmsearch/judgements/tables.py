"""Runs and comparisons as lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmsearch.judgements.comparison import CHANGE_BY, Change, Comparison, Difference
from mmsearch.judgements.run import Run
from mmsearch.judgements.scores import METRICS
from mmsearch.words import count_of, items_sentence, printable

MODE_NAMES = {"fused": "fused", "dense": "dense", "text": "lexical"}
NAMED = 5
"""Missing answers, or changed queries, that are told one by one."""


def run_lines(run: Run) -> Iterator[str]:
    """What was asked, every metric by mode, nDCG@10 by kind and style, silence, and latency."""
    about = run.about
    yield (
        f"{_queries(len(run.answerable))} with an answer, {len(run.unanswerable):,} without, "
        f"in {items_sentence(about['library']['items'])} · {model_of(run)}"
    )
    metrics = run.metrics()
    heads = [MODE_NAMES[mode] for mode in run.modes]
    if run.answerable:
        yield from _grid(
            "", heads, {name: [_cell(metrics[mode]["all"][name]) for mode in run.modes] for name in METRICS}
        )
        for group in ("kind", "style"):
            of_first = metrics[run.modes[0]][f"by_{group}"]
            rows = {
                f"{printable(name)} ({table['queries']:,})": [
                    _cell(metrics[mode][f"by_{group}"][name][CHANGE_BY]) for mode in run.modes
                ]
                for name, table in sorted(of_first.items())
            }
            yield from _grid(f"{CHANGE_BY} by {group}", heads, rows)
    cut_off = f"own cut-off ({about['settings']['cut_off']:g})"
    silence: dict[str, list[str]] = {}
    if run.unanswerable:
        of_none = {mode: metrics[mode]["no_answer"] for mode in run.modes}
        silence["no answer: shows nothing"] = [_cell(of_none[mode]["rightly_silent"]) for mode in run.modes]
        silence["no answer: shows hits"] = [_cell(of_none[mode]["false_hits"]) for mode in run.modes]
        silence["hits shown then"] = [f"{of_none[mode]['hits_shown']:.1f} a query" for mode in run.modes]
    if run.answerable:
        silence["an answer, shows nothing"] = [_cell(metrics[mode]["wrongly_silent"]) for mode in run.modes]
    yield from _grid(cut_off, heads, silence)
    took = {name: [f"{metrics[mode]['latency_ms'][name]:.1f} ms" for mode in run.modes] for name in ("median", "p95")}
    yield from _grid("time to answer", heads, took)


def missing_lines(run: Run) -> Iterator[str]:
    """Right answers that the library does not hold."""
    if run.missing:
        yield f"{count_of(len(run.missing), 'right answer')} not in the library; they count as not found:"
        for query, place in run.missing[:NAMED]:
            yield f"  {printable(str(place))}  for {printable(str(query))}"
        if len(run.missing) > NAMED:
            yield f"  and {len(run.missing) - NAMED:,} more"


def comparison_lines(comparison: Comparison, *, changed: int = NAMED) -> Iterator[str]:
    """Every metric in both runs with the difference, then the queries that changed most."""
    both = [_name(comparison.first, "first"), _name(comparison.second, "second")]
    yield f"{_queries(comparison.queries)} with an answer, {comparison.unanswerable:,} without: {' → '.join(both)}"
    if comparison.left_out:
        yield f"{_queries(len(comparison.left_out))} left out"
    for mode, differences in comparison.differences.items():
        rows = {name: _difference_cells(one) for name, one in differences.items()}
        heads = ["first", "second", "difference (95 %)", "p", "better worse equal"]
        yield from _grid(MODE_NAMES[mode], heads, rows)
        for change in comparison.changes[mode][:changed]:
            yield f"  {_rank(change.first_rank)} → {_rank(change.second_rank)}  {printable(change.query)}{_gain(change)}"


def model_of(run: Run) -> str:
    """ "mini (0123abcd-…)"."""
    model = run.about["model"]
    return f"{printable(str(model['name']))} ({model['key']})"


def _name(run: Run, otherwise: str) -> str:
    return f"{printable(run.about.get('name') or otherwise)}: {model_of(run)}"


def _queries(count: int) -> str:
    return f"{count:,} {'query' if count == 1 else 'queries'}"


def _rank(rank: int | None) -> str:
    return "not found" if rank is None else f"rank {rank}"


def _gain(change: Change) -> str:
    return f"  {CHANGE_BY} {change.second - change.first:+.2f}"


def _cell(interval: Mapping[str, Any]) -> str:
    return f"{interval['mean']:.2f} ({interval['low']:.2f} … {interval['high']:.2f})"


def _difference_cells(one: Difference) -> list[str]:
    low, high = one.interval
    return [
        f"{one.first:.3f}",
        f"{one.second:.3f}",
        f"{one.difference:+.3f} ({low:+.3f} … {high:+.3f})",
        f"{one.p:.2g}" if one.p >= 0.001 else "<0.001",
        f"{one.wins:>6} {one.losses:>5} {one.ties:>5}",
    ]


def _grid(title: str, heads: Sequence[str], rows: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Columns as wide as need be, a blank line before."""
    if not rows:
        return
    first = max(len(title), *map(len, rows))
    widths = [max(len(head), *(len(row[n]) for row in rows.values())) for n, head in enumerate(heads)]
    yield ""
    for name, cells in ((title, heads), *rows.items()):
        yield "  ".join(
            [name.ljust(first), *(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))]
        ).rstrip()
