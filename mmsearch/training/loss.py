"""What training minimises. All vectors are L2-normalised, temperatures divide cosines."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(queries: Tensor, targets: Tensor, *, temperature: float = 0.02) -> Tensor:
    """Mean cross-entropy of each query against all targets, one direction, as VLM2Vec-V2 trains.

    Args:
        queries: float [q, dim].
        targets: float [q * n, dim], n targets per query, the positive first.

    Source: TIGER-AI-Lab/VLM2Vec@6e1e1d4 `src/loss.py`.
    """
    if len(targets) % len(queries):
        raise ValueError(f"{len(targets)} targets cannot be shared out over {len(queries)} queries")
    logits = queries @ targets.T / temperature
    labels = torch.arange(len(queries), device=queries.device) * (len(targets) // len(queries))
    return F.cross_entropy(logits, labels)


def bank_distillation(
    embeddings: Tensor,
    targets: Tensor,
    bank: Tensor,
    *,
    temperature: float = 0.05,
    teacher_temperature: float = 0.05,
) -> Tensor:
    """Contrastive loss against a bank of teacher vectors, with the teacher's own similarities as soft labels.

    The first columns are the batch's own targets. A bank entry that the teacher finds close to the target is thereby no
    negative, so nothing has to be masked.

    Args:
        embeddings: float [n, dim], the student's.
        targets: float [n, dim], the teacher's vector for each.
        bank: float [m, dim], further teacher vectors of the same kind of text.
    """
    columns = torch.cat([targets, bank])
    with torch.no_grad():
        labels = (targets @ columns.T / teacher_temperature).softmax(-1)
    return F.cross_entropy(embeddings @ columns.T / temperature, labels)


def cosine_distance(embeddings: Tensor, targets: Tensor) -> Tensor:
    """Mean of 1 - cosine, float [n, dim] each."""
    return (1 - (embeddings * targets).sum(-1)).mean()
