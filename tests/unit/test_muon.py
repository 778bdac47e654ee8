"""Muon: updates are orthogonal, as large as AdamW's, and the same in one process or resumed."""

import pytest
import torch

from mmsearch.training.run.muon import ADAMW_RMS, Muon, orthogonal


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (32, 32)])
def test_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    spread = torch.randn(shape) @ torch.diag(torch.logspace(-1, 1, shape[1]))
    values = torch.linalg.svdvals(orthogonal(spread))
    assert values.max() < 1.3
    assert values.median() > 0.6


def test_zeros_stay_zeros() -> None:
    assert not orthogonal(torch.zeros(4, 6)).any()


def test_update_is_as_large_as_adamw_makes_it() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(64, 64))
    weight.grad = torch.randn(64, 64)
    Muon([weight], lr=0.1).step()
    assert weight.square().mean().sqrt().item() == pytest.approx(0.1 * ADAMW_RMS, rel=0.25)


def test_fused_matrices_are_made_orthogonal_by_thirds() -> None:
    torch.manual_seed(0)
    gradient = torch.cat([torch.randn(8, 8) * scale for scale in (100.0, 1.0, 0.01)])
    whole, fused = (torch.nn.Parameter(torch.zeros(24, 8)) for _ in range(2))
    for weight in (whole, fused):
        weight.grad = gradient.clone()
    Muon([whole, fused], lr=1.0, thirds=[fused]).step()
    sizes = [part.norm().item() for part in fused.chunk(3)]
    assert max(sizes) / min(sizes) < 1.3
    parts = [part.norm().item() for part in whole.chunk(3)]
    assert max(parts) / min(parts) > 10


def test_state_resumes() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(4, 6, 5)

    def run(count: int, optimizer: Muon, weight: torch.nn.Parameter, first: int = 0) -> None:
        for gradient in gradients[first : first + count]:
            weight.grad = gradient.clone()
            optimizer.step()

    straight = torch.nn.Parameter(torch.zeros(6, 5))
    run(4, Muon([straight], lr=0.1), straight)
    half = torch.nn.Parameter(torch.zeros(6, 5))
    first = Muon([half], lr=0.1)
    run(2, first, half)
    second = Muon([half], lr=0.1)
    second.load_state_dict(first.state_dict())
    run(2, second, half, first=2)
    torch.testing.assert_close(half, straight)


def test_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3,\)"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1)
