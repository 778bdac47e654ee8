"""Kinds beside meanings: same order within a kind, the asked kind first among kinds."""

import numpy as np
import torch

from mmsearch.items import KINDS
from mmsearch.training.kind_axes import aimed, kind_axes, without_kind


def meanings(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(count, 24)) * np.linspace(1, 0.01, 24)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_axes_are_orthonormal_and_where_little_is_said() -> None:
    vectors = meanings(500)
    axes = kind_axes(vectors)
    np.testing.assert_allclose(axes @ axes.T, np.eye(len(KINDS)), atol=1e-5)
    assert np.abs(vectors @ axes.T).mean() < 0.02
    np.testing.assert_array_equal(axes, kind_axes(vectors))


def test_the_asked_kind_comes_first_and_its_order_stays() -> None:
    vectors = meanings(300)
    axes = kind_axes(vectors)
    kinds = [KINDS[i % 3] for i in range(300)]
    documents = aimed(vectors, kinds, axes, 1.0)
    for asked in range(3):
        queries = aimed(vectors[:50], [KINDS[asked]] * 50, axes, 1.0)
        scores = queries @ documents.T
        assert ((scores.argmax(1) % 3) == asked).all()
        plain = (vectors[:50] @ vectors.T)[:, asked::3]
        # What little the meanings say along the axes may move near ties, nothing more.
        best = scores[:, asked::3].argmax(1)
        assert (plain.max(1) - plain[np.arange(50), best] < 0.03).all()


def test_a_kind_is_taken_out_again() -> None:
    vectors = meanings(20)
    axes = kind_axes(meanings(500))
    aims = aimed(vectors, ["page"] * 10 + [None] * 10, axes, 0.7)
    np.testing.assert_allclose(np.linalg.norm(aims, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(aims[10:], vectors[10:], atol=1e-6)
    bare = without_kind(torch.from_numpy(aims), torch.from_numpy(axes)).numpy()
    assert (bare * vectors).sum(1).min() > 0.99
