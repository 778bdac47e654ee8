"""Prompts on the same pictures share the pictures' part of the forward pass, and get the vectors that they get alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmsearch.embedders.families.vlm2vec import Vlm2VecEmbedder
from mmsearch.embedders.forward import packed
from mmsearch.embedders.forward.packed import halved
from mmsearch.embedders.forward.shared_prefix import BranchedBatch, branched_batch, rows_on_same_visuals
from tests.unit.test_qwen_families import Tiny, opened
from tests.unit.test_vlm2vec import random_embedder

V, I = "<|video_pad|>", "<|image_pad|>"  # noqa: E741


def picture(seed: int, width: int = 70, height: int = 56) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    return Image.fromarray(noise)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def embedder() -> Vlm2VecEmbedder:
    return random_embedder()


@pytest.fixture(scope="module")
def inputs() -> tuple[list[str], list[Any], list[bool]]:
    """Two videos and a photo with several prompts each, and inputs that share nothing, in no order."""
    film, talk, photo = ([picture(10 * n + k) for k in range(count)] for n, count in enumerate((5, 8, 1)))
    other = [picture(90)]
    rows = [
        (f"{V} What is said?", film, True),
        ("a text alone", None, False),
        (f"{I}\nWhich colour has the car on the left of the house?\n", photo, False),
        (f"{V} Find the clip: a man opens a door, and then nothing else happens for a while", talk, True),
        (f"{V} q", film, True),
        (f"{I} Represent the given image.", other, False),
        (f"{I}\nq\n", photo, False),
        (f"{V} Question:  why?\n(A) yes\n(B) no", film, True),
        (f"{I} and {I}", [picture(91), picture(92)], False),
        (f"{V} Understand the content of the provided video.", talk, True),
        (f"Find this: {I}", photo, False),
        (I, photo, False),
    ]
    prompts, images, is_video = zip(*rows, strict=True)
    return list(prompts), list(images), list(is_video)


def alone(embedder: Vlm2VecEmbedder, prompts: list[str], images: list[Any], is_video: list[bool]) -> np.ndarray:
    rows = zip(prompts, images, is_video, strict=True)
    return np.concatenate([embedder.embed_prompts([prompt], [shown], [video]) for prompt, shown, video in rows])


@pytest.mark.parametrize("attending", [1024, 30, 1], ids=lambda tokens: f"{tokens} tokens at once")
@pytest.mark.parametrize("key_value_heads", [2, 4])
def test_equal_vectors_one_by_one_and_together(key_value_heads, attending, inputs, monkeypatch):
    monkeypatch.setattr("mmsearch.embedders.forward.shared_prefix.ATTENDING_TOKENS", attending)
    model = random_embedder(key_value_heads)
    np.testing.assert_allclose(model.embed_prompts(*inputs), alone(model, *inputs), atol=1e-5)


@pytest.mark.parametrize(
    ("model_type", "family"), [("qwen2_vl", "vlm2vec_v1"), ("qwen2_5_vl", "vlm2vec")], ids=["V1", "Qwen2.5-VL"]
)
def test_families_with_other_sizes_and_towers(model_type, family, inputs, tmp_path):
    model: Any = opened(Tiny(model_type, tmp_path), family)
    np.testing.assert_allclose(model.embed_prompts(*inputs), alone(model, *inputs), atol=1e-5)
    assert np.ptp(model.embed_prompts(*inputs), axis=0).max() > 0.1, "the inputs are told apart"


@pytest.mark.parametrize("place", ["small", "cpu"])
def test_in_batches_of_any_size(place, embedder, inputs, monkeypatch):
    monkeypatch.setitem(packed.POSITIONS_PER_BATCH, place, 60)
    monkeypatch.setattr(embedder, "_is_small", place == "small")
    np.testing.assert_allclose(embedder.embed_prompts(*inputs), alone(embedder, *inputs), atol=1e-5)


def test_the_pictures_go_through_the_model_once(embedder, inputs, monkeypatch):
    seen: list[Any] = []
    forward = type(embedder).forward
    monkeypatch.setattr(type(embedder), "forward", lambda self, batch: seen.append(batch) or forward(self, batch))
    embedder.embed_prompts(*inputs)
    trees = [batch for batch in seen if isinstance(batch, BranchedBatch)]
    assert sorted(len(own) for batch in trees for own in batch.branches) == [2, 2, 3]
    assert sum(len(batch.grids) for batch in seen) == 3 + 1 + 2 + 1 + 1
    first = trees[0]
    trunks = [length - sum(own) for length, own in zip(first.lengths, first.branches, strict=True)]
    assert sum(trunks) == len(first.visual_index)


def test_who_shares(inputs):
    prompts, images, is_video = inputs
    budgets = [112 * 112] * len(prompts)
    assert rows_on_same_visuals(prompts, images, is_video, budgets) == [[0, 4, 7], [2, 6], [3, 9]]
    budgets[4] = 56 * 56
    assert rows_on_same_visuals(prompts, images, is_video, budgets) == [[0, 7], [2, 6], [3, 9]]
    copies = [None if shown is None else list(shown) for shown in images]
    assert rows_on_same_visuals(prompts, copies, is_video, budgets) == []


def test_a_tree_holds_the_trunk_once_and_then_the_branches(embedder, inputs):
    prompts, images, _ = inputs
    batch = branched_batch(embedder.preparation, [[prompts[2], prompts[6]]], [images[2]], [False], [112 * 112])
    rows = [embedder.prepare([prompts[row]], [images[2]], [False], [112 * 112]) for row in (2, 6)]
    trunk = len(rows[0].visual_index)
    assert batch.input_ids.tolist() == rows[0].input_ids.tolist() + rows[1].input_ids[trunk:].tolist()
    assert batch.branches == ((len(rows[0].input_ids) - trunk, len(rows[1].input_ids) - trunk),)
    assert torch.equal(batch.pixels, rows[0].pixels) and len(batch) == 2
    assert batch.to("cpu").branches == batch.branches


def test_what_does_not_fit_into_memory_is_tried_in_halves(embedder, inputs, monkeypatch):
    forward = type(embedder).forward

    def narrow(self: Any, batch: Any) -> torch.Tensor:
        if len(batch) > 1:
            raise torch.OutOfMemoryError("too large")
        return forward(self, batch)

    expected = alone(embedder, *inputs)
    monkeypatch.setattr(type(embedder), "forward", narrow)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    np.testing.assert_allclose(embedder.embed_prompts(*inputs), expected, atol=1e-5)


def test_halves():
    assert halved([[1, 2], [3], [4]]) == ([[1, 2]], [[3], [4]])
    assert halved([[1, 2, 3]]) == ([[1]], [[2, 3]])
