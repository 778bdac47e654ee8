"""Muon in float32: momentum whose matrices are made orthogonal before they move the weights.

`torch.optim.Muon` iterates in bfloat16, which a CPU without native bfloat16 computes a hundred times slower than float32 (measured on
an AVX2 machine, see LOG.md): one step took longer than the forward and backward passes. Fused query-key-value matrices are three
matrices here, each made orthogonal by itself.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks" (the iteration and its coefficients); Liu et
al. 2025, "Muon is scalable for LLM training", arXiv 2502.16982 (updates as large as AdamW's, so both share a learning rate).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ADAMW_RMS = 0.2


class Muon(torch.optim.Optimizer):
    """For matrices inside the layers; vectors, token embeddings and convolutions belong to AdamW.

    Args:
        matrices: parameters with two dimensions.
        lr: of the size that AdamW would use. weight_decay: decoupled, as AdamW's.
        thirds: of `matrices`, those that hold query, key and value one under the other.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        thirds: Iterable[nn.Parameter] = (),
    ) -> None:
        fused = {id(parameter) for parameter in thirds}
        split: list[nn.Parameter] = []
        whole: list[nn.Parameter] = []
        for parameter in matrices:
            if parameter.ndim != 2:
                raise ValueError(f"Muon moves matrices, not a parameter of shape {tuple(parameter.shape)}")
            (split if id(parameter) in fused else whole).append(parameter)
        groups = [{"params": whole, "parts": 1}, {"params": split, "parts": 3}]
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # torch's signature is overloaded
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(matrix)
                state["momentum"].lerp_(matrix.grad, 1 - group["momentum"])
                ahead = matrix.grad.lerp(state["momentum"], group["momentum"])
                parts = [orthogonal(part) * ADAMW_RMS * max(part.shape) ** 0.5 for part in ahead.chunk(group["parts"])]
                matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(torch.cat(parts), alpha=-group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """Roughly the nearest matrix with orthonormal rows (or columns, if it is tall): singular values between about 0.7 and 1.2.

    Args:
        matrix: float [m, n]; zeros stay zeros.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).float()
    x = x / (x.norm() + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)
