"""One contract for every store, ids and scores, against sums written out in float64."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import faiss
import numpy as np
import pytest

from mmsearch.errors import DimensionMismatch, DiskFull
from mmsearch.vectors import VectorStore, open_store
from mmsearch.vectors.exact import ExactStore
from mmsearch.vectors.faiss import FaissStore, _inverted
from mmsearch.vectors.maxsim import MaxSimStore

DIM = 48

MakeStore = Callable[[int], VectorStore]


class AllListsProbed(FaissStore):
    """Inverted lists from the first vector on; every list is read, so that the answer is exact and can be compared."""

    def upsert(self, ids: Sequence[int] | np.ndarray, vectors: np.ndarray) -> None:
        super().upsert(ids, vectors)
        if self.is_flat and len(self):
            self._index = _inverted(self.ids(), self.vectors(self.ids()))
            self._changed()

    def _probes(self) -> int:
        return self._lists()


class OneTokenEach(MaxSimStore):
    """Items and queries of one token: MaxSim is then the cosine, and the whole contract holds. See also test_maxsim_store."""

    def vectors(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:  # type: ignore[override]
        return np.concatenate([np.empty((0, self.dim), np.float32), *super().vectors(ids)])


STORES: dict[str, MakeStore] = {
    "exact": ExactStore,
    "faiss-flat": FaissStore,
    "faiss-inverted": AllListsProbed,
    "maxsim-one-token": OneTokenEach,
}


@pytest.fixture(params=STORES.values(), ids=STORES.keys())
def store(request: pytest.FixtureRequest) -> VectorStore:
    return request.param(DIM)


def unit(n: int, dim: int = DIM, seed: int = 0) -> np.ndarray:
    """Random directions, as they come back from float16, in which the catalog and one of the stores keep them."""
    vectors = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    for _ in range(3):  # until rounding changes nothing more
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def oracle(
    ids: np.ndarray, vectors: np.ndarray, query: np.ndarray, k: int, allowed: np.ndarray | None = None
) -> tuple[list[int], list[np.float32]]:
    """Every product, one by one."""
    rows = [
        (-np.float32(np.dot(vector.astype(np.float64), query.astype(np.float64))), int(i))
        for i, vector in zip(ids, vectors, strict=True)
        if allowed is None or i in allowed
    ]
    rows.sort()
    return [i for _, i in rows[:k]], [-score for score, _ in rows[:k]]


def assert_like_oracle(
    store: VectorStore, ids: np.ndarray, vectors: np.ndarray, k: int, allowed: np.ndarray | None = None
) -> None:
    queries = unit(5, seed=99)
    got_ids, got_scores = store.search(queries, k, allowed)
    for query, some_ids, some_scores in zip(queries, got_ids, got_scores, strict=True):
        want_ids, want_scores = oracle(ids, vectors, query, k, allowed)
        assert some_ids.tolist() == want_ids
        assert some_scores.tolist() == want_scores
        assert (some_ids.dtype, some_scores.dtype) == (np.int64, np.float32)


@pytest.fixture
def filled(store: VectorStore) -> tuple[VectorStore, np.ndarray, np.ndarray]:
    ids = np.random.default_rng(5).choice(100_000, 700, replace=False)
    vectors = unit(700)
    store.upsert(ids[:300], vectors[:300])
    store.upsert(ids[300:], vectors[300:])
    return store, ids, vectors


Filled = tuple[VectorStore, np.ndarray, np.ndarray]


@pytest.mark.parametrize("k", [1, 10, 699, 700, 5000])
def test_ids_and_scores(filled: Filled, k: int) -> None:
    assert_like_oracle(*filled, k)


def test_ids_are_ascending_and_vectors_come_back(filled: Filled) -> None:
    store, ids, vectors = filled
    assert store.ids().tolist() == sorted(ids)
    assert len(store) == 700
    np.testing.assert_array_equal(store.vectors(ids[[5, 600, 5]]), vectors[[5, 600, 5]])
    assert store.vectors([]).shape == (0, DIM)
    with pytest.raises(KeyError, match="123456789"):
        store.vectors([int(ids[0]), 123456789])


@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_allowed_comes_before_the_search(filled: Filled, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmsearch.vectors.faiss.GATHER_BELOW", 50)  # both ways to filter
    store, ids, vectors = filled
    allowed = np.sort(ids[: int(share * len(ids))])
    assert_like_oracle(store, ids, vectors, 10, allowed)
    unknown_too = np.concatenate([allowed, [100_001, 100_002]])
    assert_like_oracle(store, ids, vectors, 10, unknown_too)


def test_nothing_allowed_and_nothing_stored(filled: Filled) -> None:
    store, _, _ = filled
    for allowed in ([], [100_001]):
        ids, scores = store.search(unit(2), 5, allowed)
        assert [len(row) for row in (*ids, *scores)] == [0, 0, 0, 0]
    empty = type(store)(DIM)  # type: ignore[call-arg]
    ids, scores = empty.search(unit(2), 5)
    assert [len(row) for row in (*ids, *scores)] == [0, 0, 0, 0]
    assert empty.search(np.empty((0, DIM), np.float32), 5) == ([], [])
    assert len(filled[0].search(unit(1), 0)[0][0]) == 0


def test_ties_by_smaller_id(store: VectorStore) -> None:
    """A hundred copies of one vector: whichever a store meets first, the smallest ids win."""
    ids = np.random.default_rng(1).permutation(200)
    vectors = unit(200)
    vectors[50:150] = vectors[50]
    store.upsert(ids, vectors)
    got, scores = store.search(vectors[50][None], 7)
    assert got[0].tolist() == sorted(ids[50:150])[:7]
    assert len(set(scores[0].tolist())) == 1
    assert_like_oracle(store, ids, vectors, 120)


def test_upsert_replaces(filled: Filled) -> None:
    store, ids, vectors = filled
    vectors = vectors.copy()
    vectors[100:200] = unit(100, seed=7)
    store.upsert(ids[100:200], vectors[100:200])
    assert len(store) == 700
    assert_like_oracle(store, ids, vectors, 20)


def test_of_an_id_given_twice_the_last_counts(store: VectorStore) -> None:
    vectors = unit(3)
    store.upsert([4, 9, 4], vectors)
    assert store.ids().tolist() == [4, 9]
    np.testing.assert_array_equal(store.vectors([4, 9]), vectors[[2, 1]])


def test_remove(filled: Filled) -> None:
    store, ids, vectors = filled
    store.remove([*ids[:350].tolist(), 100_007])
    store.remove([100_007])
    store.remove([])
    assert store.ids().tolist() == sorted(ids[350:])
    assert_like_oracle(store, ids[350:], vectors[350:], 20)
    store.upsert(ids[:10], vectors[:10])
    keep = np.r_[0:10, 350:700]
    assert_like_oracle(store, ids[keep], vectors[keep], 20)
    store.remove(ids)
    assert len(store) == 0


def test_another_dim_is_refused_with_both_numbers(store: VectorStore) -> None:
    for act in (lambda: store.upsert([1], unit(1, 20)), lambda: store.search(unit(1, 20), 3)):
        with pytest.raises(DimensionMismatch, match="20 dimensions, the store holds 48"):
            act()


@pytest.mark.parametrize("fault", ["nan", "infinite", "zero", "long", "short"])
def test_bad_vectors_are_refused(store: VectorStore, fault: str) -> None:
    vectors = unit(3)
    vectors[1] *= {"long": 1.01, "short": 0.99, "zero": 0.0}.get(fault, 1.0)
    if fault in ("nan", "infinite"):
        vectors[1, 3] = {"nan": np.nan, "infinite": np.inf}[fault]
    with pytest.raises(ValueError, match="id 12 has length"):
        store.upsert([11, 12, 13], vectors)
    assert len(store) == 0
    store.upsert([1, 2], vectors[[0, 2]] * 1.0005)  # within the tolerance of 1e-3


def test_ids_and_vectors_must_go_together(store: VectorStore) -> None:
    with pytest.raises(ValueError, match="do not go with"):
        store.upsert([1, 2], unit(3))
    with pytest.raises(ValueError, match="-4"):
        store.upsert([-4], unit(1))


# ---- what only FAISS does: a snapshot, and inverted lists


def open_faiss(folder: Path, *, model_key: str = "m", dim: int = DIM, read_only: bool = False) -> FaissStore:
    store = open_store("faiss", folder, dim, model_key=model_key, label="page", catalog_id="c", read_only=read_only)
    assert isinstance(store, FaissStore)
    return store


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    store = open_faiss(tmp_path)
    store.upsert(np.arange(10, 60), unit(50))
    store.generation = 17
    store.save()
    return tmp_path


def test_a_snapshot_comes_back(saved: Path) -> None:
    store = open_faiss(saved)
    assert store.generation == 17
    assert_like_oracle(store, np.arange(10, 60), unit(50), 8)
    manifest = json.loads((saved / "page.json").read_text())
    assert {name: manifest[name] for name in ("model_key", "dim", "count", "max_id", "generation", "index")} == {
        "model_key": "m", "dim": DIM, "count": 50, "max_id": 59, "generation": 17, "index": "flat"
    }  # fmt: skip
    assert manifest["bytes"] == (saved / "page.faiss").stat().st_size
    assert sorted(file.name for file in saved.iterdir()) == ["page.faiss", "page.json"], "no temporary file stays"


def flip(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 0x40
    file.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped-bit": lambda folder: flip(folder / "page.faiss", 2000),
    "flipped-header": lambda folder: flip(folder / "page.faiss", 1),
    "truncated": lambda folder: (folder / "page.faiss").write_bytes((folder / "page.faiss").read_bytes()[:500]),
    "empty": lambda folder: (folder / "page.faiss").write_bytes(b""),
    "manifest-not-json": lambda folder: (folder / "page.json").write_text("{"),
    "manifest-is-a-list": lambda folder: (folder / "page.json").write_text("[]"),
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
    store = open_faiss(saved, read_only=True)
    assert (len(store), store.generation) == (0, 0)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before, "a reader leaves it where it is"

    caplog.clear()
    store = open_faiss(saved)
    assert (len(store), store.generation) == (0, 0)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "/page is unusable (page." in caplog.text
    assert len(list(saved.glob("page.faiss.corrupt-*"))) == 1
    assert not (saved / "page.faiss").exists() and not (saved / "page.json").exists()

    store.upsert([1], unit(1))
    store.save()
    assert open_faiss(saved).ids().tolist() == [1]


def test_a_snapshot_of_another_model_dim_or_catalog_is_set_aside(saved: Path) -> None:
    assert len(open_faiss(saved, model_key="n", read_only=True)) == 0
    assert len(open_faiss(saved, dim=20, read_only=True)) == 0
    other = open_store("faiss", saved, DIM, model_key="m", label="page", catalog_id="d", read_only=True)
    assert len(other) == 0
    assert len(open_faiss(saved)) == 50
    assert len(open_faiss(saved, model_key="n")) == 0
    assert len(list(saved.glob("*.corrupt-*"))) == 2


@pytest.mark.parametrize("missing", ["page.faiss", "page.json"])
def test_a_deleted_half_is_said(saved: Path, missing: str, caplog: pytest.LogCaptureFixture) -> None:
    (saved / missing).unlink()
    assert len(open_faiss(saved)) == 0
    manner = "" if missing == "page.json" else "set aside, "
    assert [record.getMessage() for record in caplog.records] == [
        f"the snapshot {saved / 'page'} is unusable ({missing} is missing); {manner}rebuilt from the catalog"
    ]
    assert len(list(saved.glob("*.corrupt-*"))) == (missing != "page.json"), "without a manifest it was never finished"


def test_a_failed_save_leaves_the_former_snapshot(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_faiss(saved)
    store.upsert([1], unit(1))

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskFull, match="no room is left on the disk of"):
        store.save()
    monkeypatch.undo()
    assert len(open_faiss(saved)) == 50
    assert sorted(file.name for file in saved.iterdir()) == ["page.faiss", "page.json"]


@pytest.fixture(scope="module")
def clustered() -> tuple[np.ndarray, np.ndarray]:
    """6,000 vectors around 150 centres, as pages of a library lie."""
    rng = np.random.default_rng(3)
    centres = unit(150, seed=4)
    vectors = centres[rng.integers(150, size=6000)] + 0.08 * rng.standard_normal((6000, DIM)).astype(np.float32)
    return np.arange(1, 6001), vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def inverted(clustered: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> FaissStore:
    store = FaissStore(DIM, folder=tmp_path, label="page", model_key="m", catalog_id="c", ann_above=5000)
    store.upsert(*clustered)
    assert store.is_flat
    store.save()
    assert not store.is_flat
    return store


def test_inverted_lists_recall(inverted: FaissStore, clustered: tuple[np.ndarray, np.ndarray]) -> None:
    ids, vectors = clustered
    rng = np.random.default_rng(8)
    queries = vectors[rng.integers(6000, size=100)] + 0.1 * rng.standard_normal((100, DIM)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    exact = ExactStore(DIM)
    exact.upsert(ids, vectors)
    want, want_scores = exact.search(queries, 10)
    got, got_scores = inverted.search(queries, 10)
    found = [len(np.intersect1d(a, b)) / 10 for a, b in zip(want, got, strict=True)]
    assert np.mean(found) > 0.95
    for a, b, sa, sb in zip(want, got, want_scores, got_scores, strict=True):
        common, at, bt = np.intersect1d(a, b, return_indices=True)
        np.testing.assert_array_equal(sa[at], sb[bt], err_msg="scores are exact even where the search is not")
        assert len(common)


def test_inverted_lists_keep_the_contract(inverted: FaissStore, clustered: tuple[np.ndarray, np.ndarray]) -> None:
    ids, vectors = clustered
    query = vectors[:1]
    assert len(inverted.search(query, 10_000)[0][0]) == 6000, "never fewer than there are"
    few = ids[::7]
    want = oracle(ids, vectors, query[0], 5, few)
    got = inverted.search(query, 5, few)
    assert (got[0][0].tolist(), got[1][0].tolist()) == want
    inverted.remove(ids[:1000])
    inverted.upsert([2000], unit(1, seed=5))
    assert inverted.ids().tolist() == ids[1000:].tolist()
    got = inverted.search(unit(1, seed=5), 1)
    assert got[0][0].tolist() == [2000]
    inverted.save()
    again = FaissStore.open(inverted._folder, DIM, model_key="m", label="page", catalog_id="c")  # type: ignore[arg-type]
    assert not again.is_flat
    assert again.ids().tolist() == ids[1000:].tolist()
    np.testing.assert_array_equal(again.vectors([2000]), unit(1, seed=5))


@pytest.mark.parametrize("is_willing", [True, False], ids=["willing", "refusing"])
def test_a_gpu_is_asked_where_there_is_one(
    is_willing: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No GPU here: its copy of the index is played by the index itself."""
    copied = []

    def copy(_resources: object, device: int, index: object) -> object:
        copied.append(device)
        if not is_willing:
            raise RuntimeError("out of memory")
        return index

    class Resources:
        def setTempMemory(self, _size: int) -> None: ...

    monkeypatch.setattr("mmsearch.vectors.faiss.GPU_FROM", 100)
    for name, fake in (("get_num_gpus", lambda: 1), ("StandardGpuResources", Resources), ("index_cpu_to_gpu", copy)):
        monkeypatch.setattr(faiss, name, fake, raising=False)
    store = FaissStore(DIM)
    ids, vectors = np.arange(300), unit(300)
    store.upsert(ids[:90], vectors[:90])
    assert_like_oracle(store, ids[:90], vectors[:90], 5)
    assert copied == [], "too few"
    store.upsert(ids[90:], vectors[90:])
    assert_like_oracle(store, ids, vectors, 5)
    assert_like_oracle(store, ids, vectors, 5, ids[::2])
    assert copied == [0], "one copy serves many queries; one refusal is enough"
    assert ("the GPU refused (out of memory)" in caplog.text) is not is_willing
    store.remove([0])
    assert_like_oracle(store, ids[1:], vectors[1:], 5)
    assert copied == ([0, 0] if is_willing else [0]), "another copy after a change"


@pytest.mark.skipif(not getattr(faiss, "get_num_gpus", int)(), reason="FAISS reports no GPU")
def test_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmsearch.vectors.faiss.GPU_FROM", 1)
    store = FaissStore(DIM)
    store.upsert(np.arange(3000), unit(3000))
    assert_like_oracle(store, np.arange(3000), unit(3000), 20)
    assert store._gpu._copy is not None


def test_an_unknown_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'chroma'; known: faiss, exact, maxsim"):
        open_store("chroma", tmp_path, DIM, model_key="m")
