"""How well a model in training ranks pairs that it is not trained on: each query among all targets of its source."""

from __future__ import annotations

import torch
from torch import Tensor

from mmsearch.embedders.trainable import PromptBatch, joined
from mmsearch.training.data.pair_loader import load_example
from mmsearch.training.data.step_inputs import Material, PreparePairs
from mmsearch.training.objective.gradcache import chunks_by_cost
from mmsearch.training.recipe.fields import Recipe
from mmsearch.training.run.trainee import Trainee


def rank_held_out(trainee: Trainee, recipe: Recipe, material: Material) -> dict[str, float]:
    """`hit@1` and `mrr` (mean reciprocal rank) by source of the recipe's `evaluation`, as `<source> hit@1`.

    A target of an equal key counts as the right one. Bad records are replaced by the next. Ties count against the query.
    """
    settings = recipe.evaluation
    assert settings is not None
    prepare = PreparePairs(
        trainee.embedder.preparation, {str(kind): pixels for kind, pixels in recipe.max_pixels.items()}
    )
    scores: dict[str, float] = {}
    for name, source in material.held_out.items():
        count = min(settings.pairs_per_source, len(source))
        examples = {row: load_example(source, row * len(source) // count)[0] for row in range(count)}
        unlike = {example.row: example for example in examples.values()}
        queries: list[PromptBatch] = []
        targets: list[PromptBatch] = []
        keys: list[str | None] = []
        for example in unlike.values():
            query, target, *_ = prepare([example]).batch.separated()
            queries.append(query)
            targets.append(target)
            keys.append(example.pair.target_key)
        embeddings = embed_rows(trainee, [*queries, *targets], recipe.chunk_positions)
        ranks = _ranks(embeddings[: len(queries)] @ embeddings[len(queries) :].T, keys)
        scores[f"{name} hit@1"] = (ranks == 1).float().mean().item()
        scores[f"{name} mrr"] = (1 / ranks).mean().item()
    return scores


@torch.no_grad()
def embed_rows(trainee: Trainee, rows: list[PromptBatch], budget: int) -> Tensor:
    """float32 [len(rows), dim] on the CPU, in order, in chunks of `budget` patches and tokens."""
    chunks = chunks_by_cost([row.cost for row in rows], budget)
    pieces = torch.cat([trainee(joined([rows[row] for row in chunk])).cpu() for chunk in chunks])
    order = [row for chunk in chunks for row in chunk]
    return pieces[sorted(range(len(order)), key=order.__getitem__)]


def _ranks(scores: Tensor, keys: list[str | None]) -> Tensor:
    """float [queries]: 1 + how many other targets score at least as well as the query's own."""
    own = scores.diagonal()[:, None]
    same = torch.tensor([[a is not None and a == b for b in keys] for a in keys]) | torch.eye(
        len(keys), dtype=torch.bool
    )
    return 1.0 + ((scores >= own) & ~same).sum(1)
