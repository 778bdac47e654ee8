"""The metrics of MMEB-V2 by hand numbers, and the order that they read: scores, ties, lists, late interaction."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from mmsearch.evaluation.ranking import CUTOFFS, METRICS, Ranked, mean_values, query_values
from mmsearch.evaluation.scoring import best

LOG3 = math.log2(3)


def test_every_metric_of_one_query_by_hand():
    found = query_values(Ranked(list("xaybzc"), ["a", "b", "c"]))
    ideal = 1 + 1 / LOG3 + 1 / 2
    at_5 = 1 / LOG3 + 1 / math.log2(5)
    assert found == pytest.approx(
        {
            "hit@1": 0, "hit@5": 1, "hit@10": 1,
            "ndcg_linear@1": 0, "ndcg_linear@5": at_5 / ideal, "ndcg_linear@10": (at_5 + 1 / math.log2(7)) / ideal,
            "ndcg_exponential@1": 0, "ndcg_exponential@5": at_5 / ideal, "ndcg_exponential@10": (at_5 + 1 / math.log2(7)) / ideal,
            "precision@1": 0, "precision@5": 2 / 5, "precision@10": 3 / 10,
            "recall@1": 0, "recall@5": 2 / 3, "recall@10": 1,
            "f1@1": 0, "f1@5": 2 * (2 / 5) * (2 / 3) / (2 / 5 + 2 / 3), "f1@10": 2 * 0.3 / 1.3,
            "map@1": 0, "map@5": (1 / 2 + 2 / 4) / 3, "map@10": (1 / 2 + 2 / 4 + 3 / 6) / 3,
            "mrr@1": 0, "mrr@5": 1 / 2, "mrr@10": 1 / 2,
        }
    )  # fmt: skip


def test_map_divides_by_no_more_than_the_cutoff():
    found = query_values(Ranked(list("abc"), ["a", "b"]))
    assert (found["map@1"], found["map@5"]) == (1, 1)


def test_graded_ndcg_by_hand_and_in_every_order_of_the_labels():
    dcg = 1 + 2 / LOG3  # b, a of gains a 2, b 1, c 1
    expected = dcg / (2 + 1 / LOG3 + 1 / 2)
    powers = (1 + 3 / LOG3) / (3 + 1 / LOG3 + 1 / 2)
    pairs = [("a", 2.0), ("b", 1.0), ("c", 1.0)]
    for order in itertools.permutations(pairs):
        labels, gains = zip(*order, strict=True)
        found = query_values(Ranked(["b", "a", "x"], labels, gains))
        assert found["ndcg_linear@5"] == pytest.approx(expected)
        assert found["ndcg_exponential@5"] == pytest.approx(powers)


def test_a_label_that_comes_twice_counts_once_with_its_higher_gain():
    twice = query_values(Ranked(["b", "a"], ["a", "b", "a"], [1.0, 1.0, 3.0]))
    assert twice == query_values(Ranked(["b", "a"], ["a", "b"], [3.0, 1.0]))
    assert twice["recall@5"] == 1


def test_no_labels_are_no_hit_and_gains_must_be_as_many():
    assert set(query_values(Ranked(["a"], [])).values()) == {0.0}
    with pytest.raises(ValueError):
        query_values(Ranked(["a"], ["a", "b"], [1.0]))


def test_means_in_the_order_of_the_score_files():
    means = mean_values([Ranked(["a"], ["a"]), Ranked(["a"], ["b"])])
    assert list(means) == [f"{metric}@{k}" for metric in METRICS for k in CUTOFFS]
    assert means["hit@1"] == 0.5
    assert set(mean_values([]).values()) == {0.0}


def unit(*rows: list[float]) -> np.ndarray:
    vectors = np.array(rows, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_candidates_by_score_and_equal_ones_in_their_order():
    candidates = unit([0, 1], [1, 1], [1, 0], [1, 1], [-1, 0])
    (first, second) = best(unit([1, 0], [1, 1]), candidates, 3)
    assert (first.columns.tolist(), first.is_tied) == ([2, 1, 3], False)
    assert (second.columns.tolist(), second.is_tied) == ([1, 3, 0], True)
    assert first.scores == pytest.approx([1, 2**-0.5, 2**-0.5])
    (all_of_them,) = best(unit([1, 0]), candidates, 100)
    assert all_of_them.columns.tolist() == [2, 1, 3, 0, 4]


def test_lists_hold_only_what_they_name_and_order_equals_as_they_do():
    candidates = unit([0, 1], [1, 1], [1, 0], [1, 1])
    found = best(unit([1, 0], [1, 0], [1, 0]), candidates, 2, lists=[[3, 0, 1], [0], [3, 0, 1]])
    assert [one.columns.tolist() for one in found] == [[3, 1], [0], [3, 1]]
    assert [one.is_tied for one in found] == [True, False, True]


@pytest.mark.parametrize("dim", [7, 384])
def test_blocks_ties_and_stable_order_as_one_whole_sort(dim, monkeypatch):
    generator = np.random.default_rng(0)
    pool = generator.normal(size=(40, dim)).astype(np.float32)
    candidates = pool[generator.integers(0, 40, 300)]
    queries = generator.normal(size=(9, dim)).astype(np.float32)
    kept, which = np.unique(candidates, axis=0, return_inverse=True)
    exact = np.stack([kept @ query for query in queries])[:, which.ravel()]
    monkeypatch.setattr("mmsearch.evaluation.scoring.BLOCK_VALUES", 9 * 16)
    found = best(queries, candidates, 25)
    for row, one in zip(exact, found, strict=True):
        order = np.argsort(-row.round(4), kind="stable")[:25]
        assert one.columns.tolist() == order.tolist()
        assert one.is_tied
        assert one.scores == pytest.approx(row[order], abs=1e-4)


def test_a_tie_at_the_last_place_goes_to_the_first_candidate():
    """Scores of 1 and 0 only: topk alone would take any of the equal ones."""
    candidates = np.concatenate([np.eye(50, dtype=np.float32)[1:], np.eye(50, dtype=np.float32)[:1]])
    (found,) = best(np.eye(50, dtype=np.float32)[:1], candidates, 5)
    assert found.columns.tolist() == [49, 0, 1, 2, 3]


@pytest.mark.parametrize("lists", [None, [[0, 1, 2], [2, 0]]], ids=["all", "lists"])
def test_late_interaction_is_the_sum_of_each_query_tokens_best(lists, monkeypatch):
    monkeypatch.setattr("mmsearch.evaluation.scoring.BLOCK_VALUES", 8)
    queries = [unit([1, 0], [0, 1]), unit([0, 1])]
    candidates = [unit([1, 0]), unit([1, 0], [0.6, 0.8], [-1, 0]), unit([0, -1])]
    found = best(queries, candidates, 3, lists=lists)
    assert found[0].columns.tolist() == [1, 0, 2]
    assert found[0].scores == pytest.approx([1.8, 1, 0 - 1])
    assert found[1].columns.tolist() == ([1, 0, 2] if lists is None else [0, 2])
    assert found[1].scores == pytest.approx([0.8, 0, -1] if lists is None else [0, -1])


def test_no_queries_find_nothing():
    assert best(np.empty((0, 2), np.float32), unit([1, 0]), 3) == []
