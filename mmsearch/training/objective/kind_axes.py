"""How an embedding says of which kind of item it speaks, beside what it says of it.

VLM2Vec's instructions name what is sought ("Find a document image …"), and targets say what they are; in a mixed library the first should
find the second. A teacher of texts knows nothing of kinds, so each kind is given a direction in which the teacher's vectors hardly
vary. An embedding of that kind is drawn to `teacher vector + strength x direction` (scaled to unit length): two of one kind agree by
that much, two of different kinds do not, and within a kind the order stays as it was.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from mmsearch.items import KINDS, Kind


def kind_axes(vectors: np.ndarray) -> np.ndarray:
    """float32 [kinds, dim], orthonormal, in the order of `KINDS`: where `vectors` [n, dim] have the least energy."""
    axes = np.linalg.eigh(vectors.T @ vectors)[1][:, : len(KINDS)].T
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
    return np.ascontiguousarray(axes * signs[:, None], np.float32)


def principal_basis(vectors: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    """float32 [dim, dim], orthonormal rows: `axes` [kinds, dim] if given, then where `vectors` [n, dim] have the most energy beside them, and so
    on. `vectors @ basis.T` are their coordinates in it."""
    first = np.zeros((0, vectors.shape[1]), np.float32) if axes is None else axes
    left = vectors - (vectors @ first.T) @ first
    wide = np.linalg.eigh((left.T @ left).astype(np.float64))[1].T[::-1][: vectors.shape[1] - len(first)]
    # Rounding leaves a trace of the axes in the narrowest directions.
    rows = np.linalg.qr(np.concatenate([first, wide]).T.astype(np.float64))[0].T
    signs = np.sign((rows * np.concatenate([first, wide])).sum(1))
    return np.ascontiguousarray(rows * signs[:, None], np.float32)


def aimed(targets: np.ndarray, kinds: Sequence[Kind | None], axes: np.ndarray, strength: float) -> np.ndarray:
    """Targets [n, dim] turned towards their kinds, unit length; those without a kind stay."""
    shifts = np.zeros_like(targets)
    for row, kind in enumerate(kinds):
        if kind is not None:
            shifts[row] = strength * axes[KINDS.index(kind)]
    sums = targets + shifts
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


def without_kind(embeddings: Tensor, axes: Tensor) -> Tensor:
    """Embeddings [n, dim] without what they say of kinds, unit length: to be compared with the teacher's vectors."""
    return F.normalize(embeddings - (embeddings @ axes.T) @ axes, dim=-1)
