"""Mixing: shares by weight, pure sub-batches, every row once per pass, and the same examples however many processes there are."""

from __future__ import annotations

from collections import Counter
from itertools import chain, pairwise

import pytest

from mmsearch.errors import ConfigError
from mmsearch.training.data.mixture import BLOCK_STEPS, Mixture, permutation

SIZES = {"photos": 1000, "pages": 60_000, "clips": 7, "texts": 640}
WEIGHTS = {"photos": 1.0, "pages": 10, "clips": 0.5, "texts": 4}
CHI_SQUARE_60 = (31.7, 99.6)
"""0.1 % of chi-square with 60 degrees of freedom lie below, and 0.1 % above."""


def mixture(global_batch: int = 32, sub_batch: int = 8, seed: int = 3, **changes) -> Mixture:
    settings = {"sizes": SIZES, "weights": WEIGHTS, **changes}
    return Mixture(global_batch=global_batch, sub_batch=sub_batch, seed=seed, **settings)


def flat(parts) -> list[tuple[str, int]]:
    return [(part.source, row) for part in parts for row in part.rows]


@pytest.mark.parametrize("sub_batch", [0, 8, 32], ids=["each by itself", "interleaved", "one source per batch"])
def test_sources_are_drawn_by_their_weights(sub_batch):
    chi_square, steps = 0.0, 60 if sub_batch else 15
    for seed in range(20):  # of three degrees of freedom each
        mix = mixture(sub_batch=sub_batch, seed=seed)
        drawn = Counter(part.source for step in range(steps) for part in mix.draw(step))
        assert drawn.total() == steps * mix.slots
        for name, p in mix.probabilities().items():
            chi_square += (drawn[name] - drawn.total() * p) ** 2 / (drawn.total() * p)
    assert CHI_SQUARE_60[0] < chi_square < CHI_SQUARE_60[1]
    assert mix.probabilities()["pages"] == pytest.approx(10 / 15.5)


@pytest.mark.parametrize(
    ("sub_batch", "lengths"), [(0, [1] * 32), (8, [8] * 4), (32, [32])], ids=["each by itself", "interleaved", "whole"]
)
def test_a_batch_is_made_of_sub_batches_of_one_source(sub_batch, lengths):
    mix = mixture(sub_batch=sub_batch)
    for step in range(50):
        parts = mix.draw(step)
        assert [len(part) for part in parts] == lengths
        assert all(0 <= row < SIZES[part.source] for part in parts for row in part.rows)


def test_the_papers_batch_mixes_sixteen_sub_batches_each_drawn_by_itself():
    # In the reference the processes replay the same draws in lock-step: two sources, or one, in a batch of 1,024.
    mix = Mixture({f"s{i}": 5000 for i in range(20)}, {f"s{i}": 1 for i in range(20)}, 1024, 64, seed=42)
    kinds = [len({part.source for part in mix.draw(step)}) for step in range(200)]
    assert {len(mix.draw(step)) for step in range(5)} == {16}
    expected = 20 * (1 - (19 / 20) ** 16)  # distinct sources among 16 independent draws of 20
    assert sum(kinds) / len(kinds) == pytest.approx(expected, abs=0.3)
    firsts = [{part.source for rank in range(8) for part in mix.share(step, rank, 8)[:1]} for step in range(60)]
    assert sum(map(len, firsts)) / 60 == pytest.approx(20 * (1 - (19 / 20) ** 8), abs=0.3)
    in_a_row = [mix.draw(step)[0].source == mix.draw(step + 1)[0].source for step in range(400)]
    assert sum(in_a_row) / 400 == pytest.approx(1 / 20, abs=0.04)


@pytest.mark.parametrize("sub_batch", [0, 4, 8, 32])
@pytest.mark.parametrize("world_size", [1, 2, 4, 8, 32])
def test_the_shares_of_all_processes_are_the_batch(sub_batch, world_size):
    mix = mixture(sub_batch=sub_batch)
    for step in (0, 1, 77):
        shares = [mix.share(step, rank, world_size) for rank in range(world_size)]
        assert [sum(map(len, share)) for share in shares] == [32 // world_size] * world_size
        assert list(chain.from_iterable(map(flat, shares))) == flat(mix.draw(step))


def test_processes_get_whole_sub_batches_where_they_divide():
    mix = mixture(64, 8)
    assert [mix.share(5, rank, 4) for rank in range(4)] == [mix.draw(5)[rank * 2 : rank * 2 + 2] for rank in range(4)]


def test_no_row_comes_again_before_its_pass_is_over():
    mix = mixture()
    rows = {name: [] for name in SIZES}
    for step in range(1400):
        for source, row in flat(mix.draw(step)):
            rows[source].append(row)
    for name in ("photos", "clips", "texts"):
        size, seen = SIZES[name], rows[name]
        passes = [seen[start : start + size] for start in range(0, len(seen) - size + 1, size)]
        assert len(passes) >= {"photos": 2, "clips": 100, "texts": 10}[name]
        assert all(sorted(one) == list(range(size)) for one in passes)
        assert all(first != second for first, second in pairwise(passes))
    assert len(set(rows["pages"])) == len(rows["pages"])


def test_rows_are_shuffled_over_the_whole_source():
    # The reference takes files in their order: the first 64 rows of a set are the first batch.
    rows = [row for step in range(20) for part in mixture().draw(step) if part.source == "pages" for row in part.rows]
    assert rows != sorted(rows)
    assert max(rows) - min(rows) > 50_000


def test_a_run_goes_on_where_it_was_from_the_step_alone():
    whole = mixture()
    expected = [flat(whole.draw(step)) for step in range(2 * BLOCK_STEPS + 20)]
    for step in (0, 1, BLOCK_STEPS - 1, BLOCK_STEPS, 2 * BLOCK_STEPS + 3):
        fresh = mixture()
        fresh.load_state_dict(whole.state_dict())
        assert [flat(fresh.draw(later)) for later in range(step, step + 10)] == expected[step : step + 10]


def test_the_order_of_calls_changes_nothing():
    one, other = mixture(), mixture()
    backwards = [flat(other.draw(step)) for step in reversed(range(300))][::-1]
    assert [flat(one.draw(step)) for step in range(300)] == backwards


def test_a_seed_gives_the_same_rows_for_ever():
    # What a recipe trained on must stay what it trains on: recorded once, on 2026-11-21.
    assert permutation(0, "a", 0, 8).tolist() == RECORDED
    assert flat(mixture().draw(1)) != flat(mixture(seed=4).draw(1))
    assert permutation(0, "a", 1, 50).tolist() != permutation(0, "b", 1, 50).tolist()


RECORDED = [0, 4, 7, 2, 1, 6, 3, 5]


def test_another_mixture_does_not_go_on():
    state = mixture().state_dict()
    with pytest.raises(ConfigError, match="sub_batch: 8 then, 4 now"):
        mixture(sub_batch=4).load_state_dict(state)
    with pytest.raises(ConfigError, match="sizes"):
        mixture(sizes={**SIZES, "clips": 8}).load_state_dict(state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": {**WEIGHTS, "sounds": 1}}, "unknown sources: sounds"),
        ({"weights": {"photos": 1}}, "without a weight.*clips, pages, texts"),
        ({"weights": {**WEIGHTS, "clips": 0}}, "weight of clips is 0"),
        ({"weights": {**WEIGHTS, "clips": -1}}, "weight of clips is -1"),
        ({"weights": {**WEIGHTS, "clips": float("nan")}}, "weight of clips is nan"),
        ({"weights": {**WEIGHTS, "clips": "1"}}, "weight of clips is '1'"),
        ({"sizes": {}, "weights": {}}, "no source"),
        ({"sizes": {**SIZES, "clips": 0}}, "clips has 0 rows"),
        ({"sub_batch": 5}, "sub_batch 5 does not divide global_batch 32"),
        ({"sub_batch": 64}, "sub_batch 64 does not divide global_batch 32"),
        ({"sub_batch": -1}, "sub_batch -1"),
        ({"global_batch": 0, "sub_batch": 0}, "global_batch is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_what_cannot_be_mixed_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        mixture(**changes)


def test_processes_must_divide_the_batch():
    with pytest.raises(ConfigError, match="global_batch 32 cannot be shared out to 3 processes"):
        mixture().share(0, 0, 3)
