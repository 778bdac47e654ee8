"""Our loss and GradCache, through our forward pass, against what the reference's training step recorded (../shared/parity).

The reference could only reach the GradCache number with several processes: on one it is silently off. Ours is the same on one.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from mmsearch.embedders.checkpoints.checkpoint import public_key_of
from mmsearch.embedders.families.vlm2vec import Vlm2VecEmbedder
from mmsearch.training.objective.gradcache import cached_backward, chunks_by_cost
from mmsearch.training.objective.loss import ContrastiveBatch, ContrastiveLoss, LossSettings
from tests.parity.test_vlm2vec_parity import EXPECTED, ITEMS, inputs_of, load

RECORDED = EXPECTED["loss"]
BY_NAME = {item["name"]: item for item in ITEMS}
SIDES = [BY_NAME[name] for side in ("queries", "targets") for name in RECORDED[side]]
"""Four queries, then their targets: texts, images, two images and a video of odd length."""
LENGTHS = [len(item["input_ids"]) for item in SIDES]
CHUNKS = {
    "whole batch": [list(range(8))],
    "2, as recorded": [[0, 1], [2, 3], [4, 5], [6, 7]],
    "1": [[row] for row in range(8)],
    "3, sides mixed": [[7, 0, 4], [2, 5, 1], [3, 6]],
    "by tokens": chunks_by_cost(LENGTHS, 128),
}


@pytest.fixture(scope="module")
def tiny() -> Vlm2VecEmbedder:
    return load("tiny")


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("rows", CHUNKS.values(), ids=CHUNKS)
def test_loss_and_every_gradient_of_the_recorded_step(tiny, rows, checkpointing):
    criterion = ContrastiveLoss(LossSettings(temperature=EXPECTED["temperature"]))
    if checkpointing:
        tiny.model.train().activation_checkpointing_enable()

    def loss_of(embeddings: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return criterion(ContrastiveBatch(embeddings[:4], embeddings[4:]))

    def chunk(members: Sequence[int]) -> tuple[Sequence[int], object]:
        return members, tiny.prepare(*inputs_of([SIDES[row] for row in members]))

    tiny.model.zero_grad()
    loss, parts = cached_backward(tiny.forward, [chunk(members) for members in rows], loss_of)
    norms = {public_key_of(name): parameter.grad.norm().item() for name, parameter in tiny.model.named_parameters()}
    tiny.model.zero_grad()
    tiny.model.eval().activation_checkpointing_disable()

    assert loss.item() == pytest.approx(RECORDED["value"], rel=1e-5)
    assert loss.item() == pytest.approx(RECORDED["value_gradcache_chunk2"], rel=1e-5)
    assert norms == pytest.approx(RECORDED["grad_norms"], rel=1e-3)
    total = torch.tensor(list(norms.values())).norm().item()
    assert total == pytest.approx(RECORDED["grad_norm"], rel=1e-3)
    assert total == pytest.approx(RECORDED["grad_norm_gradcache"], rel=1e-3)
    assert parts["replay_error"].item() == 0
