"""The store for items of many vectors: scores against sums written out in float64, the snapshot, recall where it is not exact."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmsearch.errors import DimensionMismatch
from mmsearch.vectors import open_store
from mmsearch.vectors.maxsim import BANDS, CONDENSED_TOKENS, LONGEST_QUERY, MaxSimStore, bands, condensed, scores, unit

DIM = 16


def tokens(count: int, seed: int, dim: int = DIM) -> np.ndarray:
    return unit(unit(np.random.default_rng(seed).standard_normal((count, dim))).astype(np.float16))


def some_items(count: int, seed: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    """Ids in no order, items of 1 to 12 tokens."""
    rng = np.random.default_rng(seed)
    ids = rng.choice(10_000, count, replace=False)
    return ids, [tokens(int(rng.integers(1, 13)), seed=100 * seed + n) for n in range(count)]


def oracle(items: list[np.ndarray], query: np.ndarray) -> list[np.float32]:
    """Every product, one by one."""
    return [
        np.float32(np.mean([max(float(np.dot(q.astype(float), t.astype(float))) for t in item) for q in query]))
        for item in items
    ]


def assert_like_oracle(store: MaxSimStore, ids: np.ndarray, k: int, allowed: np.ndarray | None = None) -> None:
    items = store.vectors(ids)
    for seed, length in ((1, 1), (2, 7)):
        query = tokens(length, seed=9000 + seed)
        rows = [
            (-score, int(i))
            for i, score in zip(ids, oracle(items, query), strict=True)
            if allowed is None or i in allowed
        ]
        (got_ids,), (got_scores,) = store.search([query], k, allowed)
        assert got_ids.tolist() == [i for _, i in sorted(rows)[:k]]
        np.testing.assert_allclose(got_scores, [-score for score, _ in sorted(rows)[:k]], rtol=0, atol=1e-7)
        assert (got_ids.dtype, got_scores.dtype) == (np.int64, np.float32)


def opened(folder: Path, *, model_key: str = "m", read_only: bool = False) -> MaxSimStore:
    store = open_store("maxsim", folder, DIM, model_key=model_key, label="page", catalog_id="c", read_only=read_only)
    assert isinstance(store, MaxSimStore)
    return store


@pytest.fixture(params=["in memory", "saved", "half saved"])
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[MaxSimStore, np.ndarray, list[np.ndarray]]:
    ids, items = some_items(80)
    store = MaxSimStore(DIM) if request.param == "in memory" else opened(tmp_path)
    store.upsert(ids[:50], items[:50])
    store.save()
    store.upsert(ids[50:], items[50:])
    if request.param == "saved":
        store.save()
        store = opened(tmp_path)
    return store, ids, items


Filled = tuple[MaxSimStore, np.ndarray, list[np.ndarray]]


@pytest.mark.parametrize("k", [1, 20, 1000])
def test_ids_and_scores(filled: Filled, k: int) -> None:
    store, ids, items = filled
    assert_like_oracle(store, ids, k)
    assert_like_oracle(store, ids, k, np.sort(ids[::3]))
    for got, given in zip(store.vectors(ids), items, strict=True):
        np.testing.assert_allclose(got, given, atol=3e-4)


def test_by_hand() -> None:
    """One query word on the item's second token, one between its tokens: (1 + 0.8) / 2."""
    store = MaxSimStore(2)
    store.upsert([1, 2], [np.float32([[1, 0], [0, 1]]), np.float32([[-1, 0]])])
    (ids,), (found,) = store.search([np.float32([[0, 1], [0.6, 0.8]])], 5)
    assert ids.tolist() == [1, 2]
    np.testing.assert_allclose(found, [0.9, -0.3], atol=1e-6)


def test_blocks_do_not_change_an_answer(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    store, ids, _ = filled
    monkeypatch.setattr("mmsearch.vectors.maxsim.BLOCK_TOKENS", 50)
    assert_like_oracle(store, ids, 10)


def test_replacing_and_removing(filled: Filled) -> None:
    store, ids, _ = filled
    _, others = some_items(20, seed=5)
    store.upsert(ids[40:60], others)
    store.remove([*ids[:30].tolist(), 77_777])
    assert store.ids().tolist() == sorted(ids[30:])
    assert_like_oracle(store, ids[30:], 12)
    for got, given in zip(store.vectors(ids[40:60]), others, strict=True):
        np.testing.assert_allclose(got, given, atol=3e-4)
    store.save()
    assert_like_oracle(store, ids[30:], 12)
    if store._folder is not None:
        assert_like_oracle(opened(store._folder), ids[30:], 12)


def test_odd_items_are_refused() -> None:
    store = MaxSimStore(DIM)
    good = tokens(3, seed=0)
    with pytest.raises(DimensionMismatch, match="20 dimensions, the store holds 16"):
        store.upsert([1], [tokens(2, seed=1, dim=20)])
    with pytest.raises(ValueError, match="of id 8 has length 2, not 1"):
        store.upsert([7, 8], [good, good * np.float32([[1], [1], [2]])])
    with pytest.raises(ValueError, match=r"of id 3 are of shape \(0, 16\)"):
        store.upsert([3], [good[:0]])
    with pytest.raises(ValueError, match="do not go with"):
        store.upsert([3, 4], [good])
    assert len(store) == 0
    with pytest.raises(KeyError, match="5"):
        store.vectors([5])


def test_a_long_query_is_condensed(filled: Filled) -> None:
    store, ids, _ = filled
    page = tokens(300, seed=77)
    short = condensed(page)
    assert short.shape == (CONDENSED_TOKENS, DIM)
    assert len(condensed(page[:LONGEST_QUERY])) == LONGEST_QUERY
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-5)
    mean = page[: 300 // CONDENSED_TOKENS].sum(0)
    np.testing.assert_allclose(short[0], mean / np.linalg.norm(mean), atol=1e-5)
    for one, other in zip(store.search([page], 9), store.search([short], 9), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_allclose(scores(store.vectors(ids), page), oracle(store.vectors(ids), short), atol=1e-6)


def test_bands_of_a_short_item_are_its_tokens() -> None:
    item = tokens(3, seed=4)
    np.testing.assert_allclose(bands(item), np.concatenate([item, np.repeat(item[-1:], BANDS - 3, axis=0)]), atol=1e-3)


# ---- the snapshot


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    store = opened(tmp_path)
    store.upsert(np.arange(10, 60), some_items(50)[1])
    store.generation = 17
    store.save()
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_snapshot_comes_back_and_grows_by_what_is_new(saved: Path) -> None:
    store = opened(saved)
    assert store.generation == 17
    assert names(saved) == ["page.json", "page.rows-1", "page.tokens-1"]
    first = (saved / "page.tokens-1").read_bytes()
    store.upsert([5, 70], [tokens(4, seed=1), tokens(2, seed=2)])
    store.save()
    assert names(saved) == ["page.json", "page.rows-2", "page.tokens-1"]
    grown = (saved / "page.tokens-1").read_bytes()
    assert grown[: len(first)] == first and len(grown) == len(first) + 6 * DIM * 2
    assert_like_oracle(opened(saved), np.array([5, *range(10, 60), 70]), 9)


def test_tokens_of_no_item_are_left_out_when_they_are_many(saved: Path) -> None:
    store = opened(saved)
    store.remove(np.arange(10, 55))
    store.save()
    assert names(saved) == ["page.json", "page.rows-2", "page.tokens-2"]
    assert (saved / "page.tokens-2").stat().st_size == 2 * DIM * sum(map(len, store.vectors(store.ids())))
    assert_like_oracle(opened(saved), np.arange(55, 60), 3)
    store.remove(store.ids())
    store.save()
    assert len(opened(saved)) == 0


def test_what_a_killed_run_left_behind_is_not_read(saved: Path) -> None:
    with (saved / "page.tokens-1").open("ab") as file:
        file.write(b"half of a page")
    (saved / "page.rows-2").write_bytes(b"never reached")
    store = opened(saved)
    assert_like_oracle(store, np.arange(10, 60), 5)
    store.upsert([3], [tokens(2, seed=3)])
    store.save()
    assert_like_oracle(opened(saved), np.array([3, *range(10, 60)]), 5)


def test_two_writers_do_not_write_into_each_others_file(saved: Path) -> None:
    mine, other = opened(saved), opened(saved)
    other.upsert([1], [tokens(5, seed=1)])
    other.save()
    mine.upsert([2], [tokens(6, seed=2)])
    mine.save()
    assert opened(saved).ids().tolist() == [2, *range(10, 60)]
    assert_like_oracle(other, np.array([1, *range(10, 60)]), 5)  # still maps the file that mine has replaced
    assert_like_oracle(opened(saved), np.array([2, *range(10, 60)]), 5)


def test_a_failed_save_leaves_the_former_snapshot_and_the_store(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for share in (0.5, 1.0):  # appending; writing again
        monkeypatch.setattr("mmsearch.vectors.maxsim.WHOLE_ANEW_SHARE", share - 0.5)
        store = opened(saved)
        store.upsert([1], [tokens(4, seed=9)])

        def full(_descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as broken, pytest.raises(OSError, match="No space"):
            broken.setattr("os.fsync", full)
            store.save()
        assert opened(saved).ids().tolist() == list(range(10, 60))
        assert_like_oracle(store, np.array([1, *range(10, 60)]), 5)
        store.save()
        store.remove([1])
        store.save()


def flip(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 0x40
    file.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped-token": lambda folder: flip(folder / "page.tokens-1", 2000),
    "flipped-row": lambda folder: flip(folder / "page.rows-1", 700),
    "truncated": lambda folder: (folder / "page.tokens-1").write_bytes((folder / "page.tokens-1").read_bytes()[:500]),
    "no-tokens": lambda folder: (folder / "page.tokens-1").unlink(),
    "manifest-not-json": lambda folder: (folder / "page.json").write_text("{"),
    "manifest-lacks-a-key": lambda folder: (folder / "page.json").write_text('{"schema": 1}'),
    "other-count": lambda folder: (folder / "page.json").write_text(
        (folder / "page.json").read_text().replace('"count": 50', '"count": 49')
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_an_odd_snapshot_is_set_aside_and_said(
    saved: Path, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    damage(saved)
    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    store = opened(saved, read_only=True)
    assert (len(store), store.generation) == (0, 0)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before, "a reader leaves it where it is"
    caplog.clear()
    assert len(opened(saved)) == 0
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "/page is unusable (page." in caplog.text
    assert all(".corrupt-" in name for name in names(saved))
    store = opened(saved)
    store.upsert([1], [tokens(2, seed=1)])
    store.save()
    assert opened(saved).ids().tolist() == [1]


def test_a_snapshot_of_another_model_or_schema_is_not_read(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(opened(saved, model_key="n", read_only=True)) == 0
    manifest = json.loads((saved / "page.json").read_text())
    (saved / "page.json").write_text(json.dumps({**manifest, "schema": 0}))
    caplog.clear()
    assert len(opened(saved)) == 0
    assert not caplog.records, "an older form is no damage"


# ---- candidates among many


def test_recall_where_bands_propose_the_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up pages on a small scale: 60 tokens in stretches of topics, as lines of a page follow each other, 12 bands, 40 of the
    700 pages as candidates. A query asks for one of the topics."""
    monkeypatch.setattr("mmsearch.vectors.maxsim.BANDS", 12)
    monkeypatch.setattr("mmsearch.vectors.maxsim.CANDIDATES", 20)
    rng = np.random.default_rng(6)
    topics = unit(rng.standard_normal((400, DIM * 4)))
    pages = [
        unit(topics[rng.choice(400, 5)].repeat(12, axis=0) + 0.6 * unit(rng.standard_normal((60, DIM * 4))))
        for _ in range(700)
    ]
    exact, coarse = MaxSimStore(DIM * 4), MaxSimStore(DIM * 4, exact_up_to=100)
    for store in (exact, coarse):
        store.upsert(np.arange(700), pages)
    queries = [
        unit(page[(at := rng.integers(0, 50)) : at + 6] + 0.5 * unit(rng.standard_normal((6, DIM * 4))))
        for page in pages[:30]
    ]
    want, want_scores = exact.search(queries, 10)
    got, got_scores = coarse.search(queries, 10)
    found = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(want, got, strict=True)])
    assert found > 0.95
    for a, b, sa, sb in zip(want, got, want_scores, got_scores, strict=True):
        _, at, bt = np.intersect1d(a, b, return_indices=True)
        np.testing.assert_array_equal(sa[at], sb[bt], err_msg="scores are exact even where the search is not")
    assert len(coarse.search(queries[:1], 650)[0][0]) == 650, "never fewer than asked for"
