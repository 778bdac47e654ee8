"""Kinds beside meanings: same order within a kind, the asked kind first among kinds."""

import numpy as np
import pytest
import torch

from mmsearch.items import KINDS
from mmsearch.training.objective.kind_axes import aimed, kind_axes, principal_basis, without_kind
from mmsearch.training.objective.step_loss import GroupRows, group_loss
from mmsearch.training.recipe.fields import GroupShare, Recipe


@pytest.fixture
def tiny_recipe() -> Recipe:
    stage = {"name": "only", "steps": 1, "learning_rate": 0.1, "mixture": {"text": {"batch": 8}}}
    return Recipe.model_validate(
        {
            "name": "tiny",
            "model": {"from": "mini"},
            "max_pixels": {"page": 3136, "image": 3136, "clip": 3136},
            "loss": {
                "temperature": 0.05,
                "cosine": 2.0,
                "kind_strength": 1.0,
                "kind_weight": 3.0,
                "principal_order": True,
            },
            "stages": [stage],
        }
    )


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


def test_the_basis_has_the_kinds_first_and_then_the_widest_directions() -> None:
    vectors = meanings(500)
    axes = kind_axes(vectors)
    basis = principal_basis(vectors, axes)
    np.testing.assert_allclose(basis @ basis.T, np.eye(24), atol=1e-5)
    np.testing.assert_allclose(basis[: len(KINDS)], axes, atol=1e-5)
    energy = np.square(vectors @ basis.T).mean(0)[len(KINDS) :]
    assert (np.diff(energy) <= 1e-6).all()
    plain = principal_basis(vectors)
    assert np.square(vectors @ plain[:5].T).sum() >= np.square(vectors @ np.eye(24)[:5].T).sum()


def test_a_model_in_another_basis_has_the_same_loss(tiny_recipe: Recipe) -> None:
    vectors = meanings(40)
    axes = kind_axes(vectors)
    basis = principal_basis(vectors, axes)
    aims = aimed(vectors[:8], ["page", None] * 4, axes, 1.0)
    rows = [torch.from_numpy(part) for part in (vectors[:8], vectors[8:], aims, axes, basis)]
    embeddings = torch.from_numpy(meanings(60)[50:58])
    share = GroupShare(batch=8, neighbours=1.0)
    plain, parts = group_loss(embeddings, GroupRows("text", 8, *rows[:4]), share, tiny_recipe)
    turned, same = group_loss(embeddings @ rows[4].T, GroupRows("text", 8, *rows), share, tiny_recipe)
    torch.testing.assert_close(plain, turned)
    error = np.square((embeddings.numpy() - aims) @ axes.T).sum(1).mean()
    np.testing.assert_allclose(parts["text_kind_error"].item(), error, rtol=1e-5)
    torch.testing.assert_close(same["text_kind_error"], parts["text_kind_error"])
    without = tiny_recipe.model_copy(update={"loss": tiny_recipe.loss.model_copy(update={"kind_weight": 0.0})})
    less, _ = group_loss(embeddings, GroupRows("text", 8, *rows[:4]), share, without)
    np.testing.assert_allclose((plain - less).item(), 3.0 * error, rtol=1e-4)
