"""What training minimises. All vectors are L2-normalised, temperatures divide cosines.

`ContrastiveLoss` is the objective over pairs, over the global batch of all processes. `bank_distillation` and
`cosine_distance` are for sub-batches whose targets are a teacher's fixed vectors.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsearch.errors import ConfigError
from mmsearch.training.parallel.gather import gather_numbers, gather_rows

NO_KEY = 0
"""The key of a target that equals no other."""

EXCLUDED = float("-inf")


def hash_key(key: str | None) -> int:
    """A target's name as an int64 for `ContrastiveBatch.target_keys`, alike in every process; None: `NO_KEY`.

    Names must be unique over all sources (a bare "1.jpg" is not): equal keys mean the same target.
    """
    if key is None:
        return NO_KEY
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big", signed=True) or 1


@dataclass(frozen=True)
class LossSettings:
    """How `ContrastiveLoss` judges a batch. The defaults are VLM2Vec-V2's.

    Attributes:
        temperature: divides cosines; the start value where it is learnt.
        learnable_temperature: one temperature per source is learnt, within `temperature_bounds`.
        symmetric: mean of query → target and (positive) target → query.
        negatives_from: whose targets are a query's negatives: those of the whole global batch, or of its own source in it.
        mask_false_negatives: a target with the key of the query's own positive is no negative of it.
        false_negative_margin: nor is one whose cosine to the query exceeds the positive's by more than this (0.1 in
            Qwen3-Embedding, arXiv 2506.05176), judged by the model itself, at full dimension.
        false_negative_teacher_cosine: nor is one whose teacher vector has at least this cosine to the positive's.
        matryoshka_dims: the loss is the weighted mean over these prefixes, normalised again; name the full dimension too
            if it is to be trained. Empty: the full dimension.
        matryoshka_weights: one per dimension, of any sum; empty: equal.
        contrastive_weight: of the InfoNCE term.
        own_distillation_weight: of KL(teacher ‖ model) over a query's own positive and hard negatives, from
            `teacher_scores`.
        batch_distillation_weight: of KL(teacher ‖ model) over all targets in scope, from the teacher's vectors.
        teacher_temperature: divides the teacher's scores and cosines; the model's are divided by its own temperature.
    """

    temperature: float = 0.02
    learnable_temperature: bool = False
    temperature_bounds: tuple[float, float] = (0.005, 0.5)
    symmetric: bool = False
    negatives_from: Literal["batch", "source"] = "batch"
    mask_false_negatives: bool = False
    false_negative_margin: float | None = None
    false_negative_teacher_cosine: float | None = None
    matryoshka_dims: tuple[int, ...] = ()
    matryoshka_weights: tuple[float, ...] = ()
    contrastive_weight: float = 1.0
    own_distillation_weight: float = 0.0
    batch_distillation_weight: float = 0.0
    teacher_temperature: float = 0.05

    def __post_init__(self) -> None:
        """Raises: ConfigError, naming the setting."""
        low, high = self.temperature_bounds
        weights = (self.contrastive_weight, self.own_distillation_weight, self.batch_distillation_weight)
        checks = {
            f"temperature is {self.temperature}, it must be above 0": self.temperature > 0,
            f"teacher_temperature is {self.teacher_temperature}, it must be above 0": self.teacher_temperature > 0,
            f"temperature_bounds are {low}, {high}; they must hold the temperature {self.temperature} between them": (
                not self.learnable_temperature or 0 < low <= self.temperature <= high
            ),
            f"negatives_from is {self.negatives_from!r}, not 'batch' or 'source'": (
                self.negatives_from in ("batch", "source")
            ),
            "a false_negative_ setting needs mask_false_negatives: true": self.mask_false_negatives
            or (self.false_negative_margin is None and self.false_negative_teacher_cosine is None),
            f"matryoshka_dims {list(self.matryoshka_dims)} must be different numbers above 0": (
                all(dim > 0 for dim in self.matryoshka_dims)
                and len(set(self.matryoshka_dims)) == len(self.matryoshka_dims)
            ),
            f"matryoshka_weights {list(self.matryoshka_weights)} must be as many as matryoshka_dims, all above 0": (
                len(self.matryoshka_weights) in (0, len(self.matryoshka_dims))
                and all(weight > 0 for weight in self.matryoshka_weights)
            ),
            f"the loss weights {weights} must not be negative, and one must be above 0": (
                min(weights) >= 0 and max(weights) > 0
            ),
        }
        if broken := [message for message, holds in checks.items() if not holds]:
            raise ConfigError("loss: " + "; ".join(broken))


@dataclass(frozen=True)
class ContrastiveBatch:
    """The embeddings of one process's pairs and what is known of them.

    Targets lie in the order of their queries: a query's positive first, then its hard negatives, as many as it has. So
    queries may have different numbers of them without padding, and rows of several processes are simply joined.

    Attributes:
        queries: float [q, dim], unit length, with gradients.
        targets: float [t, dim], likewise.
        target_counts: int64 [q], targets of each query, at least 1; None: one each.
        sources: int64 [q], index into `ContrastiveLoss.sources`; None: the first.
        target_keys: int64 [t], from `hash_key`; None: all `NO_KEY`.
        teacher_scores: float [t], a teacher's score of each target for its own query; NaN where there is none.
        teacher_queries: float [q, e], a teacher's vectors; rows of NaN where there are none.
        teacher_targets: float [t, e], likewise.
    """

    queries: Tensor
    targets: Tensor
    target_counts: Tensor | None = None
    sources: Tensor | None = None
    target_keys: Tensor | None = None
    teacher_scores: Tensor | None = None
    teacher_queries: Tensor | None = None
    teacher_targets: Tensor | None = None


class Temperatures(nn.Module):
    """A learnt temperature per source, as its logarithm, kept within bounds.

    The state holds the sources' names: loaded for other sources, known ones are found again and new ones keep their start.
    It belongs into an optimizer group without weight decay, which would pull every temperature to 1.

    Attributes:
        log_temperature: float [sources]; brought back into the bounds at every use, so that it cannot stay stuck outside.
    """

    def __init__(self, sources: Sequence[str], start: float, bounds: tuple[float, float]) -> None:
        super().__init__()
        self.sources = tuple(sources)
        self.bounds = bounds
        self.log_temperature = nn.Parameter(torch.full((len(sources),), math.log(start)))
        self.register_load_state_dict_pre_hook(_sort_temperatures)

    def forward(self, sources: Tensor) -> Tensor:
        """Temperatures [n] of source indices int64 [n]."""
        low, high = self.bounds
        with torch.no_grad():
            self.log_temperature.clamp_(math.log(low), math.log(high))
        return self.log_temperature[sources].exp()

    def get_extra_state(self) -> list[str]:
        return list(self.sources)

    def set_extra_state(self, state: list[str]) -> None:
        """Nothing: the names were used before the values were loaded."""


def _sort_temperatures(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Bring the temperatures of a state into the order of this module's sources."""
    assert isinstance(module, Temperatures)
    names, key = state.get(f"{prefix}_extra_state"), f"{prefix}log_temperature"
    if names is None or key not in state:
        return
    stored = dict(zip(names, state[key], strict=True))
    own = zip(module.sources, module.log_temperature.detach(), strict=True)
    state[key] = torch.stack([stored.get(name, start.to(state[key].device)) for name, start in own])


class ContrastiveLoss(nn.Module):
    """InfoNCE with its options, over the global batch of all processes; a mean over its queries.

    Every process gives its own pairs and gets the same loss; gradients are as `mmsearch.training.parallel.gather` says. Not to be
    put inside `DistributedDataParallel`. Computed in float32 (or float64) whatever `torch.autocast` says: a bfloat16
    cosine divided by 0.02 would be off by up to 0.2.

    Attributes:
        sources: names, in the order of `ContrastiveBatch.sources`.
        temperatures: None where the temperature is fixed.
    """

    def __init__(self, settings: LossSettings, sources: Sequence[str] = ("all",)) -> None:
        super().__init__()
        if len(set(sources)) != len(sources):
            raise ConfigError(f"loss: two sources have one name: {', '.join(sources)}")
        self.settings = settings
        self.sources = tuple(sources)
        self.temperatures: Temperatures | None = None
        if settings.learnable_temperature:
            self.temperatures = Temperatures(sources, settings.temperature, settings.temperature_bounds)

    def forward(self, batch: ContrastiveBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its parts.

        Returns:
            A scalar, and detached scalars over the global batch, each before its weight: `contrastive` (with symmetric:
            both directions' mean), `own_distillation`, `batch_distillation` where they have a weight; with several
            dimensions the same as `…@<dim>`; `hit@1` (queries whose positive scores highest of what is not excluded),
            `excluded` (share of a query's other targets in scope that were taken for false negatives), and
            per source in the batch `contrastive/<source>` (query → target), `temperature/<source>` where it is learnt.

        Raises:
            ValueError: shapes that do not fit together.
            ConfigError: a Matryoshka dimension above that of the embeddings.
        """
        device = batch.queries.device.type
        with torch.autocast(device, enabled=False):
            return self._judge(_gathered(batch))

    def _judge(self, batch: _GlobalBatch) -> tuple[Tensor, dict[str, Tensor]]:
        settings, positives = self.settings, batch.positives
        if batch.sources.min() < 0 or batch.sources.max() >= len(self.sources):
            raise ValueError(f"sources must be 0 … {len(self.sources) - 1}, as many as the loss knows")
        temperature = self._temperature(batch.sources)
        in_scope = torch.ones_like(batch.is_own)
        if settings.negatives_from == "source":
            in_scope = batch.sources[:, None] == batch.sources[batch.owners]
        no_negatives = ~in_scope | self._same_targets(batch)
        full = batch.queries @ batch.targets.T
        excluded = self._excluded(full, positives, no_negatives)
        diagonal = torch.arange(len(positives), device=positives.device)
        reverse_excluded = self._excluded(full[:, positives].T, diagonal, no_negatives[:, positives].T)

        loss = full.new_zeros(())
        parts: dict[str, Tensor] = {}
        per_query = full.new_zeros(len(positives))
        for dim, share in self._dims(full, batch.queries.shape[1]).items():
            cosines = _prefix(batch.queries, dim) @ _prefix(batch.targets, dim).T
            logits = cosines / temperature
            losses = _cross_entropy(logits, positives, excluded)
            per_query = per_query + share * losses.detach()
            contrastive = losses.mean()
            if settings.symmetric:
                reverse = _cross_entropy(cosines[:, positives].T / temperature, diagonal, reverse_excluded)
                contrastive = (contrastive + reverse.mean()) / 2
            terms = {"contrastive": (settings.contrastive_weight, contrastive)}
            if settings.own_distillation_weight:
                divergence = self._own_distillation(logits, batch)
                terms["own_distillation"] = (settings.own_distillation_weight, divergence)
            if settings.batch_distillation_weight:
                divergence = self._batch_distillation(logits, batch, in_scope)
                terms["batch_distillation"] = (settings.batch_distillation_weight, divergence)
            for name, (weight, term) in terms.items():
                loss = loss + share * weight * term
                parts[name] = parts.get(name, full.new_zeros(())) + share * term.detach()
                if len(settings.matryoshka_dims) > 1:
                    parts[f"{name}@{dim}"] = term.detach()
        return loss, parts | self._facts(batch, full.detach(), excluded, in_scope, per_query)

    def _temperature(self, sources: Tensor) -> Tensor | float:
        """[q, 1] where it is learnt."""
        return self.settings.temperature if self.temperatures is None else self.temperatures(sources)[:, None]

    def _dims(self, like: Tensor, dim: int) -> dict[int, float]:
        """Dimensions and their shares of the loss."""
        dims = self.settings.matryoshka_dims or (dim,)
        if max(dims) > dim:
            raise ConfigError(f"loss: matryoshka_dims names {max(dims)}, the embeddings have {dim} dimensions")
        weights = self.settings.matryoshka_weights or (1.0,) * len(dims)
        return {size: weight / sum(weights) for size, weight in zip(dims, weights, strict=True)}

    def _same_targets(self, batch: _GlobalBatch) -> Tensor:
        """bool [q, t]: targets that are the query's positive under another row, by key or by the teacher's judgement."""
        settings = self.settings
        if not settings.mask_false_negatives:
            return torch.zeros_like(batch.is_own)
        key = batch.target_keys[batch.positives][:, None]
        same = (key == batch.target_keys) & (key != NO_KEY)
        if settings.false_negative_teacher_cosine is not None and batch.teacher_targets is not None:
            vectors = F.normalize(batch.teacher_targets, dim=-1)
            same |= vectors[batch.positives] @ vectors.T >= settings.false_negative_teacher_cosine  # NaN is not
        return same

    @torch.no_grad()
    def _excluded(self, cosines: Tensor, correct: Tensor, no_negatives: Tensor) -> Tensor:
        """bool like `cosines`: what is left out of each row's sum; never the correct column, int64 [rows]."""
        excluded = no_negatives
        if self.settings.false_negative_margin is not None:
            own = cosines.gather(1, correct[:, None])
            excluded = excluded | (cosines > own + self.settings.false_negative_margin)
        return excluded.scatter(1, correct[:, None], False)

    def _own_distillation(self, logits: Tensor, batch: _GlobalBatch) -> Tensor:
        if batch.teacher_scores is None:
            return logits.new_zeros(())
        teacher = (batch.teacher_scores / self.settings.teacher_temperature).expand_as(logits)
        return _divergence(logits, teacher, batch.is_own & batch.teacher_scores.isfinite())

    def _batch_distillation(self, logits: Tensor, batch: _GlobalBatch, in_scope: Tensor) -> Tensor:
        if batch.teacher_queries is None or batch.teacher_targets is None:
            return logits.new_zeros(())
        queries, targets = F.normalize(batch.teacher_queries, dim=-1), F.normalize(batch.teacher_targets, dim=-1)
        teacher = queries @ targets.T / self.settings.teacher_temperature
        return _divergence(logits, teacher, in_scope & teacher.isfinite())

    def _facts(
        self, batch: _GlobalBatch, cosines: Tensor, excluded: Tensor, in_scope: Tensor, per_query: Tensor
    ) -> dict[str, Tensor]:
        """What metrics tell beside the loss."""
        positives = batch.positives[:, None]
        others = cosines.masked_fill(excluded, EXCLUDED).scatter(1, positives, EXCLUDED)
        facts = {
            "hit@1": (others.amax(1) < cosines.gather(1, positives)[:, 0]).float().mean(),  # a tie is no hit
            "excluded": (excluded & in_scope).sum() / (in_scope.sum() - len(positives)).clamp(min=1),
        }
        for index in batch.sources.unique().tolist():
            name = self.sources[index]
            facts[f"contrastive/{name}"] = per_query[batch.sources == index].mean()
            if self.temperatures is not None:
                facts[f"temperature/{name}"] = self.temperatures.log_temperature[index].detach().exp()
        return facts


@dataclass(frozen=True)
class _GlobalBatch:
    """`ContrastiveBatch` over all processes, complete, on one device.

    Attributes:
        owners: int64 [t], the query that brought each target.
        positives: int64 [q], the row of each query's positive.
        is_own: bool [q, t], a query's own positive and negatives.
    """

    queries: Tensor
    targets: Tensor
    owners: Tensor
    positives: Tensor
    is_own: Tensor
    sources: Tensor
    target_keys: Tensor
    teacher_scores: Tensor | None
    teacher_queries: Tensor | None
    teacher_targets: Tensor | None


def _gathered(batch: ContrastiveBatch) -> _GlobalBatch:
    """All processes' rows. A teacher that only some processes have is NaN for the others. Raises: ValueError."""
    queries, targets = _at_least_float32(batch.queries), _at_least_float32(batch.targets)
    device, q, t = queries.device, len(queries), len(targets)

    def complete(given: Tensor | None, rows: int, default: int, name: str) -> Tensor:
        values = torch.full((rows,), default) if given is None else given
        if values.shape != (rows,):
            raise ValueError(f"{name} has shape {list(values.shape)}, expected [{rows}]")
        return values.to(device, torch.int64)

    counts = complete(batch.target_counts, q, 1, "target_counts")
    if q and (counts.min() < 1 or counts.sum() != t):
        raise ValueError(f"target_counts must be at least 1 each and {t} together; their sum is {int(counts.sum())}")
    sources = complete(batch.sources, q, 0, "sources")
    keys = complete(batch.target_keys, t, NO_KEY, "target_keys")
    scores = None if batch.teacher_scores is None else batch.teacher_scores[:, None]
    teachers = {"scores": (scores, t), "queries": (batch.teacher_queries, q), "targets": (batch.teacher_targets, t)}
    for name, (values, rows) in teachers.items():
        if values is not None and (values.ndim != 2 or len(values) != rows):
            raise ValueError(f"teacher_{name} has shape {list(values.shape)}, expected {rows} rows")

    numbers = gather_numbers(q, t, *(0 if values is None else values.shape[1] for values, _ in teachers.values()))
    q_counts, t_counts, score_widths, query_widths, target_widths = zip(*numbers, strict=True)

    def gather_teacher(
        values: Tensor | None, rows_of: Sequence[int], rows: int, widths: Sequence[int]
    ) -> Tensor | None:
        width = max(widths)
        if values is None:
            values = torch.full((rows, width), torch.nan)
        if values.shape[1] != width:
            raise ValueError(f"a teacher has {values.shape[1]} dimensions here and {width} in another process")
        return gather_rows(values.to(device, queries.dtype), rows_of) if width else None

    counts = gather_rows(counts, q_counts)
    owners = torch.arange(len(counts), device=device).repeat_interleave(counts)
    scores = gather_teacher(scores, t_counts, t, score_widths)
    return _GlobalBatch(
        queries=gather_rows(queries, q_counts),
        targets=gather_rows(targets, t_counts),
        owners=owners,
        positives=counts.cumsum(0) - counts,
        is_own=owners == torch.arange(len(counts), device=device)[:, None],
        sources=gather_rows(sources, q_counts),
        target_keys=gather_rows(keys, t_counts),
        teacher_scores=None if scores is None else scores[:, 0],
        teacher_queries=gather_teacher(batch.teacher_queries, q_counts, q, query_widths),
        teacher_targets=gather_teacher(batch.teacher_targets, t_counts, t, target_widths),
    )


def _at_least_float32(embeddings: Tensor) -> Tensor:
    return embeddings if embeddings.dtype == torch.float64 else embeddings.float()


def _prefix(embeddings: Tensor, dim: int) -> Tensor:
    """The first dimensions, unit length again."""
    return embeddings if dim == embeddings.shape[1] else F.normalize(embeddings[:, :dim], dim=-1)


def _cross_entropy(logits: Tensor, correct: Tensor, excluded: Tensor) -> Tensor:
    """float [rows]."""
    return F.cross_entropy(logits.masked_fill(excluded, EXCLUDED), correct, reduction="none")


def _divergence(logits: Tensor, teacher: Tensor, included: Tensor) -> Tensor:
    """KL(teacher ‖ model) over each row's included columns, summed and divided by all rows.

    A row with fewer than two columns says nothing and counts as zero, so that an example weighs the same whatever else is
    in the batch.
    """
    rows = included.sum(1) >= 2
    is_out = ~included[rows]
    model = logits[rows].masked_fill(is_out, EXCLUDED).log_softmax(-1)
    wanted = teacher[rows].masked_fill(is_out, EXCLUDED).log_softmax(-1)
    # Outside, both logarithms are -inf, their difference is not a number; the product there is zero.
    return (wanted.exp() * (wanted - model).masked_fill(is_out, 0)).sum() / len(logits)


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


def neighbour_distillation(
    embeddings: Tensor, targets: Tensor, bank: Tensor, *, temperature: float = 0.05, same: float = 0.98
) -> Tensor:
    """How a teacher's vectors rank the bank, to be ranked alike by the student: cross-entropy of the two softmaxes, less the teacher's entropy.

    `bank_distillation` hardly says so: its labels are all but one-hot on a text's own vector, which a student that reads text finds at
    once. Here that vector is no column, nor is any within `same` of it.

    Args: as `bank_distillation`; each temperature divides both sides' cosines.
    """
    with torch.no_grad():
        cosines = targets @ bank.T
        is_own = cosines > same
        log_labels = (cosines / temperature).masked_fill(is_own, EXCLUDED).log_softmax(-1)
        labels = log_labels.exp()
        entropy = -torch.where(is_own, 0.0, labels * log_labels).sum(-1).mean()
    logits = (embeddings @ bank.T / temperature).masked_fill(is_own, EXCLUDED).log_softmax(-1)
    return -torch.where(is_own, 0.0, labels * logits).sum(-1).mean() - entropy


def cosine_distance(embeddings: Tensor, targets: Tensor) -> Tensor:
    """Mean of 1 - cosine, float [n, dim] each."""
    return (1 - (embeddings * targets).sum(-1)).mean()
