"""The development numbers: metrics against arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from mmsearch.evaluation.development import bm25_scores, known_item_metrics, mean_average_precision, ranks, scale_of


def test_ranks_count_ties_against_the_right_answer():
    scores = np.array([[0.9, 0.5, 0.1], [0.5, 0.5, 0.1]])
    assert ranks(scores, [0, 1]).tolist() == [1, 2]


def test_known_item_metrics():
    found = known_item_metrics(np.array([1, 3, 6, 11]))
    assert found["R@1"] == 0.25
    assert found["R@5"] == 0.5
    assert found["R@10"] == 0.75
    assert found["nDCG@5"] == pytest.approx((1 + 1 / np.log2(4)) / 4)
    assert found["MRR"] == pytest.approx((1 + 1 / 3 + 1 / 6 + 1 / 11) / 4)


def test_mean_average_precision_of_a_perfect_and_a_mixed_order():
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    assert mean_average_precision(vectors, ["a", "a", "b", "b"]) == 1
    # a's partner comes second to b, b has no partner
    mixed = np.array([[1, 0], [0.6, 0.8], [0.8, 0.6]], np.float32)
    assert mean_average_precision(mixed, ["a", "a", "b"]) == pytest.approx(0.5)


def test_bm25_prefers_the_page_with_the_rare_word_and_takes_any_query():
    scores = bm25_scores(['revenue "growth" OR (', "!!"], ["the revenue grew", "the sea", "the mountains the sea"])
    assert scores[0].argmax() == 0
    assert scores[1].tolist() == [0, 0, 0]


def test_a_scale_tells_where_right_answers_lie_and_how_often_they_win():
    scores = np.array([[0.9, 0.1, 0.2, 0.0], [0.1, 0.3, 0.2, 0.0], [0.5, 0.4, 0.3, 0.2]])
    scale = scale_of(scores, [0, 1, 3])
    assert scale.middle == pytest.approx(0.15) and scale.low < scale.middle
    assert scale.reliability == pytest.approx(1 - 2 * (0 + 0 + 1) / 3, abs=1e-4)
