"""The objective against loops that anyone can check, its gradients, and its promises.

What the reference does otherwise and these tests exclude (shared/REFERENCE.md §3.2, §3.7): `MMEBModel.forward` finds the
positive of query i at i * (q // t) where there are more targets than queries; hard negatives are built and thrown away;
equal targets in a batch count as negatives of each other; the loss is scaled by the number of processes (see
test_training_processes.py).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mmsearch.errors import ConfigError
from mmsearch.training.objective.loss import (
    NO_KEY,
    ContrastiveBatch,
    ContrastiveLoss,
    LossSettings,
    Temperatures,
    hash_key,
    info_nce,
)

SOURCES = ("photos", "pages", "clips")
NAN = float("nan")


def unit(*shape: int, seed: int) -> torch.Tensor:
    vectors = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return F.normalize(vectors, dim=-1)


def batch(**changes) -> ContrastiveBatch:
    """Five queries of three sources with 1, 3, 2, 1, 1 targets; rows 0, 4 and 7 are the same target; teachers have gaps."""
    targets = unit(8, 6, seed=2)
    targets[4] = targets[7] = targets[0]
    teacher_targets = unit(8, 3, seed=5)
    teacher_targets[2] = NAN
    made = ContrastiveBatch(
        queries=F.normalize(unit(5, 6, seed=1) + 0.7 * targets[[0, 1, 4, 6, 7]], dim=-1),
        targets=targets,
        target_counts=torch.tensor([1, 3, 2, 1, 1]),
        sources=torch.tensor([0, 0, 1, 1, 2]),
        target_keys=torch.tensor([11, 12, NO_KEY, 12, 11, NO_KEY, 13, 11]),
        teacher_scores=torch.tensor([NAN, 2.0, 0.5, -1.0, 1.0, NAN, 3.0, NAN], dtype=torch.float64),
        teacher_queries=unit(5, 3, seed=4),
        teacher_targets=teacher_targets,
    )
    return replace(made, **changes)


def slow_loss(settings: LossSettings, batch: ContrastiveBatch, temperatures: list[float]) -> float:
    """The same objective, number by number."""
    q, counts = len(batch.queries), batch.target_counts.tolist()
    positives = [sum(counts[:i]) for i in range(q)]
    owners = [i for i, count in enumerate(counts) for _ in range(count)]
    t = len(owners)
    source = batch.sources.tolist()
    keys = batch.target_keys.tolist()

    def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
        dot = sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))
        return dot / math.sqrt(sum(x * x for x in a.tolist()) * sum(y * y for y in b.tolist()))

    def score(i: int, j: int, dim: int) -> float:
        return cosine(batch.queries[i][:dim], batch.targets[j][:dim])

    def in_scope(i: int, j: int) -> bool:
        return settings.negatives_from == "batch" or source[i] == source[owners[j]]

    def same_target(i: int, j: int) -> bool:
        """Whether target j is query i's positive once more."""
        if not settings.mask_false_negatives:
            return False
        if keys[j] != NO_KEY and keys[j] == keys[positives[i]]:
            return True
        threshold = settings.false_negative_teacher_cosine
        if threshold is None:
            return False
        return cosine(batch.teacher_targets[positives[i]], batch.teacher_targets[j]) >= threshold

    def too_near(value: float, own: float) -> bool:
        return settings.false_negative_margin is not None and value > own + settings.false_negative_margin

    def nats(scores: list[float], correct: int) -> float:
        return -math.log(math.exp(scores[correct]) / sum(math.exp(s) for s in scores))

    def divergence(teacher: list[float], model: list[float]) -> float:
        if len(teacher) < 2:
            return 0.0
        p = [math.exp(x) / sum(math.exp(y) for y in teacher) for x in teacher]
        m = [math.exp(x) / sum(math.exp(y) for y in model) for x in model]
        return sum(a * math.log(a / b) for a, b in zip(p, m, strict=True))

    full = batch.queries.shape[1]
    dims = settings.matryoshka_dims or (full,)
    weights = settings.matryoshka_weights or (1.0,) * len(dims)
    total = 0.0
    for dim, weight in zip(dims, weights, strict=True):
        for i in range(q):
            own, tau = positives[i], temperatures[source[i]]
            left = [
                j
                for j in range(t)
                if j == own
                or (in_scope(i, j) and not same_target(i, j) and not too_near(score(i, j, full), score(i, own, full)))
            ]
            contrast = nats([score(i, j, dim) / tau for j in left], left.index(own))
            if settings.symmetric:
                left = [
                    k
                    for k in range(q)
                    if k == i
                    or (
                        in_scope(k, own)
                        and not same_target(i, positives[k])
                        and not too_near(score(k, own, full), score(i, own, full))
                    )
                ]
                contrast = (contrast + nats([score(k, own, dim) / tau for k in left], left.index(i))) / 2
            own_rows = [j for j in range(t) if owners[j] == i and not math.isnan(batch.teacher_scores[j])]
            own_divergence = divergence(
                [float(batch.teacher_scores[j]) / settings.teacher_temperature for j in own_rows],
                [score(i, j, dim) / tau for j in own_rows],
            )
            rows = [j for j in range(t) if in_scope(i, j) and not batch.teacher_targets[j].isnan().any()]
            batch_divergence = divergence(
                [
                    cosine(batch.teacher_queries[i], batch.teacher_targets[j]) / settings.teacher_temperature
                    for j in rows
                ],
                [score(i, j, dim) / tau for j in rows],
            )
            total += (
                weight
                / sum(weights)
                / q
                * (
                    settings.contrastive_weight * contrast
                    + settings.own_distillation_weight * own_divergence
                    + settings.batch_distillation_weight * batch_divergence
                )
            )
    return total


OPTIONS: dict[str, dict] = {
    "plain": {},
    "other-temperature": {"temperature": 0.3},
    "symmetric": {"symmetric": True},
    "own-source": {"negatives_from": "source"},
    "own-source-symmetric": {"negatives_from": "source", "symmetric": True},
    "equal-keys": {"mask_false_negatives": True},
    "equal-keys-symmetric": {"mask_false_negatives": True, "symmetric": True},
    "margin": {"mask_false_negatives": True, "false_negative_margin": -0.4, "symmetric": True},
    "teacher-cosine": {"mask_false_negatives": True, "false_negative_teacher_cosine": 0.3, "symmetric": True},
    "matryoshka": {"matryoshka_dims": (6, 4, 2)},
    "matryoshka-weights": {"matryoshka_dims": (4, 2), "matryoshka_weights": (3.0, 1.0), "symmetric": True},
    "own-distillation": {"own_distillation_weight": 0.7, "teacher_temperature": 0.9},
    "batch-distillation": {"batch_distillation_weight": 0.7, "teacher_temperature": 0.2},
    "distillation-alone": {"contrastive_weight": 0.0, "own_distillation_weight": 1.0, "teacher_temperature": 2.0},
    "learnt-temperature": {"learnable_temperature": True},
    "everything": {
        "temperature": 0.2, "learnable_temperature": True, "symmetric": True, "negatives_from": "source",
        "mask_false_negatives": True, "false_negative_margin": 0.05, "false_negative_teacher_cosine": 0.8,
        "matryoshka_dims": (6, 3), "contrastive_weight": 0.9, "own_distillation_weight": 0.4,
        "batch_distillation_weight": 0.3,
    },
}  # fmt: skip
"""Each option by itself, then all at once."""


def loss_of(options: dict) -> tuple[ContrastiveLoss, list[float]]:
    """A loss in float64, and its temperature per source; learnt ones differ."""
    settings = LossSettings(**({"temperature": 0.1} | options))
    loss = ContrastiveLoss(settings, SOURCES).double()
    temperatures = [settings.temperature] * 3
    if loss.temperatures is not None:
        temperatures = [0.05, 0.1, 0.4]
        with torch.no_grad():
            loss.temperatures.log_temperature.copy_(torch.tensor(temperatures).log())
    return loss, temperatures


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_loss_equals_the_loop(options):
    loss, temperatures = loss_of(options)
    value, _ = loss(batch())
    assert value.item() == pytest.approx(slow_loss(loss.settings, batch(), temperatures), rel=1e-7)


def test_each_option_changes_the_loss():
    """Otherwise the comparison above would not notice one that is ignored by both."""
    values = {name: round(loss_of(options)[0](batch())[0].item(), 9) for name, options in OPTIONS.items()}
    assert len(set(values.values())) == len(values), values


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_gradients_by_differences(options):
    loss, _ = loss_of(options)
    made = batch()
    learnt = list(loss.parameters())

    def value(queries: torch.Tensor, targets: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return loss(replace(made, queries=queries, targets=targets))[0]

    inputs = (made.queries.requires_grad_(), made.targets.requires_grad_(), *learnt)
    assert torch.autograd.gradcheck(value, inputs, eps=1e-6, atol=1e-5)


def test_without_options_it_is_info_nce():
    queries, targets = unit(4, 8, seed=0), unit(4, 8, seed=1)
    value, parts = ContrastiveLoss(LossSettings())(ContrastiveBatch(queries, targets))
    assert value.item() == pytest.approx(info_nce(queries, targets).item(), rel=1e-12)
    assert parts["contrastive"].item() == value.item() == parts["contrastive/all"].item()


def test_positive_of_each_query_is_found_where_there_are_more_targets_than_queries():
    """The reference's stride q // t takes target 0 as everyone's positive, and its training drops hard negatives."""
    queries = torch.eye(3, dtype=torch.float64)
    targets = torch.eye(3, dtype=torch.float64)[[0, 1, 1, 2, 0, 2]]
    made = ContrastiveBatch(queries, targets, target_counts=torch.tensor([2, 3, 1]))
    value, parts = ContrastiveLoss(LossSettings(temperature=1.0))(made)
    # Positives are rows 0, 2 and 5; each query sees two targets of cosine 1 and four of cosine 0.
    assert value.item() == pytest.approx(-math.log(math.e / (2 * math.e + 4)))
    assert parts["hit@1"].item() == 0  # a tie is no hit
    without = replace(made, targets=targets[[0, 2, 5]], target_counts=None)
    value, parts = ContrastiveLoss(LossSettings(temperature=1.0))(without)
    assert value.item() == pytest.approx(-math.log(math.e / (math.e + 2)))
    assert parts["hit@1"].item() == 1


def test_the_same_target_twice_is_no_negative():
    """Two queries with one target: masked, each is alone with its positive and there is nothing to learn."""
    made = ContrastiveBatch(unit(2, 4, seed=0), unit(1, 4, seed=1).repeat(2, 1), target_keys=torch.tensor([5, 5]))
    settings = LossSettings(mask_false_negatives=True, symmetric=True)
    value, parts = ContrastiveLoss(settings)(made)
    assert value.item() == 0
    assert parts["excluded"].item() == parts["hit@1"].item() == 1
    nameless = replace(made, target_keys=torch.tensor([NO_KEY, NO_KEY]))
    assert ContrastiveLoss(settings)(nameless)[0].item() > 0.5


def test_parts_tell_each_source_apart():
    loss, _ = loss_of({"learnable_temperature": True})
    value, parts = loss(batch())
    by_source = [parts[f"contrastive/{name}"].item() for name in SOURCES]
    assert (2 * by_source[0] + 2 * by_source[1] + by_source[2]) / 5 == pytest.approx(value.item())
    assert parts["temperature/clips"].item() == pytest.approx(0.4)
    assert not any(part.requires_grad for part in parts.values())
    only = replace(batch(), sources=torch.tensor([1, 1, 1, 1, 1]))
    assert [name for name in loss(only)[1] if name.startswith("contrastive/")] == ["contrastive/pages"]


def test_parts_add_up_to_the_loss():
    loss, _ = loss_of(OPTIONS["everything"])
    value, parts = loss(batch())
    weighted = 0.9 * parts["contrastive"] + 0.4 * parts["own_distillation"] + 0.3 * parts["batch_distillation"]
    assert value.item() == pytest.approx(weighted.item())
    assert parts["contrastive"].item() == pytest.approx((parts["contrastive@6"] + parts["contrastive@3"]).item() / 2)


@pytest.mark.parametrize("missing", ["teacher_scores", "teacher_queries", "teacher_targets"])
def test_a_batch_without_teacher_is_not_distilled(missing):
    loss, _ = loss_of({"own_distillation_weight": 1.0, "batch_distillation_weight": 1.0})
    value, parts = loss(replace(batch(), **{missing: None}))
    part = "own_distillation" if missing == "teacher_scores" else "batch_distillation"
    assert parts[part].item() == 0
    assert value.isfinite() and value > parts["contrastive"]  # the other teacher still counts


def test_autocast_does_not_round_the_cosines():
    """In bfloat16 they would be off by up to 0.004, divided by 0.02."""
    made = ContrastiveBatch(unit(64, 32, seed=0).float(), unit(64, 32, seed=1).float())
    loss = ContrastiveLoss(LossSettings())
    with torch.autocast("cpu", torch.bfloat16):
        inside, _ = loss(made)
    assert inside.item() == loss(made)[0].item()
    low, _ = loss(ContrastiveBatch(made.queries.bfloat16(), made.targets.bfloat16()))
    assert low.dtype == torch.float32


def test_temperatures_stay_in_their_bounds_and_come_back():
    temperatures = Temperatures(["a", "b"], 0.02, (0.01, 0.1))
    source = torch.tensor([0])
    for direction, bound in ((1, 0.01), (-1, 0.1)):
        for _ in range(60):
            (gradient,) = torch.autograd.grad(direction * temperatures(source).log().sum(), temperatures.parameters())
            with torch.no_grad():
                temperatures.log_temperature -= gradient
        assert temperatures(source).item() == pytest.approx(bound)
    assert temperatures(torch.tensor([1])).item() == pytest.approx(0.02)  # the other source's is its own


def test_temperatures_are_saved_by_name(tmp_path):
    settings = LossSettings(learnable_temperature=True)
    first = ContrastiveLoss(settings, ["a", "b"])
    with torch.no_grad():
        first.temperatures.log_temperature.copy_(torch.tensor([0.03, 0.04]).log())
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = ContrastiveLoss(settings, ["c", "b", "a"])
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.temperatures(torch.arange(3)).tolist() == pytest.approx([0.02, 0.04, 0.03])


def test_keys_of_names():
    keys = [hash_key(name) for name in ("a", "b", "", "1.jpg")]
    assert len({*keys, NO_KEY}) == 5 and all(-(2**63) <= key < 2**63 for key in keys)
    assert hash_key("a") == hash_key("a") and hash_key(None) == NO_KEY
    torch.tensor(keys, dtype=torch.int64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"teacher_temperature": -1.0}, "teacher_temperature is -1.0"),
        ({"learnable_temperature": True, "temperature": 0.9}, "temperature_bounds are 0.005, 0.5"),
        ({"negatives_from": "bank"}, "negatives_from is 'bank'"),
        ({"false_negative_margin": 0.1}, "needs mask_false_negatives"),
        ({"false_negative_teacher_cosine": 0.1}, "needs mask_false_negatives"),
        ({"matryoshka_dims": (4, 4)}, "matryoshka_dims"),
        ({"matryoshka_dims": (4, 2), "matryoshka_weights": (1.0,)}, "matryoshka_weights"),
        ({"contrastive_weight": 0.0}, "one must be above 0"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_meant(options, message):
    with pytest.raises(ConfigError, match=message):
        LossSettings(**options)


def test_a_prefix_longer_than_the_embeddings():
    with pytest.raises(ConfigError, match="names 64, the embeddings have 6"):
        loss_of({"matryoshka_dims": (6, 64)})[0](batch())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_counts": None}, "target_counts"),
        ({"target_counts": torch.tensor([1, 3, 2, 0, 2])}, "at least 1"),
        ({"target_keys": torch.tensor([1, 2])}, r"target_keys has shape \[2\], expected \[8\]"),
        ({"sources": torch.tensor([0, 1, 2, 3, 0])}, "sources must be 0 … 2"),
        ({"teacher_scores": torch.ones(5)}, "teacher_scores has shape"),
        ({"teacher_queries": torch.ones(8, 3)}, "teacher_queries has shape"),
    ],
)
def test_rows_that_do_not_fit_together(changes, message):
    with pytest.raises(ValueError, match=message):
        loss_of({})[0](batch(**changes))


def test_two_sources_of_one_name():
    with pytest.raises(ConfigError, match="two sources"):
        ContrastiveLoss(LossSettings(), ["a", "a"])


def test_an_order_of_queries_is_as_good_as_another():
    """Nothing may depend on where in the batch a pair lies."""
    made, (loss, _) = batch(), loss_of(OPTIONS["everything"])
    starts = [0, 1, 4, 6, 7, 8]
    order = [3, 0, 4, 2, 1]
    rows = list(itertools.chain.from_iterable(range(starts[i], starts[i + 1]) for i in order))
    per_query = {
        name: getattr(made, name)[order] for name in ("queries", "target_counts", "sources", "teacher_queries")
    }
    per_target = {
        name: getattr(made, name)[rows] for name in ("targets", "target_keys", "teacher_scores", "teacher_targets")
    }
    assert loss(replace(made, **per_query, **per_target))[0].item() == pytest.approx(loss(made)[0].item(), rel=1e-12)
