"""FAISS: flat and exact below `ANN_ABOVE` vectors, inverted lists above. FAISS proposes candidates, `exact.ranked` ranks them.

On disk `<label>.faiss` and `<label>.json`, the manifest, written last. A snapshot is only a cache: whatever does not agree
with its manifest is set aside and refilled from the catalog.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss as faiss_typed
import numpy as np

from mmsearch.disk.replace import replace_file
from mmsearch.vectors.exact import ROUNDING, checked, checked_queries, ranked
from mmsearch.vectors.snapshot import Outdated, load, read_manifest

faiss: Any = faiss_typed  # the stubs know neither the Python side (callbacks, numpy arguments) nor the concrete indexes
log = logging.getLogger(__name__)

ANN_ABOVE = 200_000
"""From so many vectors on, inverted lists replace the flat index, when the store is saved."""
LISTS_PER_ROOT, PROBED_SHARE, LEAST_PROBES = 4, 1 / 16, 32
"""4·√n lists, a sixteenth of them (at least 32) read per query. Recall@10 on clustered data is tested to be above 0.95."""
TRAINING_PER_LIST = 64

GATHER_BELOW = 5_000
"""So few allowed vectors are gathered and compared one by one rather than picked out of a scan."""
MARGIN = 16
"""Candidates asked for beyond k, so that ties at the border can be ranked by id."""
GPU_FROM, GPU_MAX_K = 20_000, 2048
"""Fewer vectors are not worth waking a GPU for; more results than this it does not give."""
MANIFEST_SCHEMA = 1


class FaissStore:
    """A `VectorStore` over `IndexIDMap2(IndexFlatIP)`, or over `IndexIVFFlat` with a hashed direct map.

    Where FAISS reports a GPU, unfiltered flat searches run on a copy there.
    """

    def __init__(
        self,
        dim: int,
        *,
        folder: Path | None = None,
        label: str = "items",
        model_key: str = "",
        catalog_id: str = "",
        ann_above: int = ANN_ABOVE,
    ) -> None:
        self.dim = dim
        self.generation = 0
        self._folder, self._label = folder, label
        self._belongs = {"model_key": model_key, "catalog_id": catalog_id, "dim": dim}
        self._ann_above = ann_above
        self._index: Any = _flat(dim)
        self._sorted: np.ndarray | None = None
        self._gpu = _GpuCopy()

    @classmethod
    def open(
        cls,
        folder: Path,
        dim: int,
        *,
        model_key: str,
        label: str = "items",
        catalog_id: str = "",
        read_only: bool = False,
    ) -> FaissStore:
        """Load the snapshot in `folder`; an unusable one is said in the log, set aside unless `read_only`, and left out."""

        def empty() -> FaissStore:
            return cls(dim, folder=folder, label=label, model_key=model_key, catalog_id=catalog_id)

        store = empty()
        files = (store._file, store._manifest)
        return store if load(store._manifest, store._load, lambda: files, read_only=read_only) else empty()

    def __len__(self) -> int:
        return self._index.ntotal

    def ids(self) -> np.ndarray:
        if self._sorted is None:
            if self.is_flat:
                ids = faiss.vector_to_array(self._index.id_map)
            else:
                lists = self._index.invlists
                parts = [
                    faiss.rev_swig_ptr(lists.get_ids(n), lists.list_size(n)).copy()
                    for n in range(self._index.nlist)
                    if lists.list_size(n)
                ]
                ids = np.concatenate(parts) if parts else np.empty(0, np.int64)
            self._sorted = np.sort(ids)
        return self._sorted

    @property
    def is_flat(self) -> bool:
        """Whether searches are exact."""
        return isinstance(self._index, faiss.IndexIDMap2)

    def vectors(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        ids = np.ascontiguousarray(ids, np.int64)
        if not len(ids):
            return np.empty((0, self.dim), np.float32)
        unknown = ids[~np.isin(ids, self.ids())]
        if len(unknown):
            raise KeyError(int(unknown[0]))
        return self._index.reconstruct_batch(ids)

    def upsert(self, ids: Sequence[int] | np.ndarray, vectors: np.ndarray) -> None:
        ids, vectors = checked(ids, vectors, self.dim)
        if not len(ids):
            return
        if len(self):
            self.remove(ids)
        self._index.add_with_ids(vectors, ids)
        self._changed()

    def remove(self, ids: Sequence[int] | np.ndarray) -> None:
        ids = np.asarray(ids, np.int64)
        known = np.ascontiguousarray(np.unique(ids[np.isin(ids, self.ids())]))
        if len(known):
            # Inverted lists with a hashed direct map accept no other selector.
            self._index.remove_ids(faiss.IDSelectorArray(len(known), faiss.swig_ptr(known)))
            self._changed()

    def _changed(self) -> None:
        self._sorted = None
        self._gpu.drop()

    def search(
        self, queries: np.ndarray, k: int, allowed: Sequence[int] | np.ndarray | None = None
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        queries = checked_queries(queries, self.dim)
        if allowed is None:
            within = self.ids()
        else:
            wanted = np.asarray(allowed, np.int64)
            within = self.ids()[np.isin(self.ids(), wanted)]
        k = min(k, len(within))
        with _one_thread():
            found = [self._search_one(query, k, within, filtered=len(within) < len(self)) for query in queries]
        return [ids for ids, _ in found], [scores for _, scores in found]

    def _search_one(
        self, query: np.ndarray, k: int, within: np.ndarray, *, filtered: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        if k < 1:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        if filtered and len(within) <= GATHER_BELOW:
            return ranked(within, self.vectors(within), query, k)
        selector = _bitmap(within) if filtered else None
        depth, probes = min(k + MARGIN, len(within)), self._probes()
        while True:
            scores, ids = self._candidates(query, depth, probes, selector)
            if len(ids) < k and probes < self._lists():
                probes *= 2  # the lists read so far hold too few
                continue
            is_cut = depth < len(within) and len(ids) == depth
            if is_cut and scores[-1] >= scores[k - 1] - 2 * ROUNDING:
                depth = min(4 * depth, len(within))  # ties go on beyond what was asked for
                continue
            near = ids[scores >= scores[min(k, len(scores)) - 1] - 2 * ROUNDING]
            return ranked(near, self._index.reconstruct_batch(near), query, k)

    def _candidates(self, query: np.ndarray, depth: int, probes: int, selector: Any) -> tuple[np.ndarray, np.ndarray]:
        """Scores, falling, and ids; without FAISS's padding."""
        if self.is_flat:
            found = self._gpu.search(self._index, query[None], depth) if selector is None else None
            if found is None:
                parameters = faiss.SearchParameters(sel=selector) if selector is not None else None
                found = self._index.search(query[None], depth, params=parameters)
            scores, ids = found
        else:
            chosen: dict[str, Any] = {"nprobe": min(probes, self._lists())}
            if selector is not None:
                chosen["sel"] = selector
            scores, ids = self._index.search(query[None], depth, params=faiss.SearchParametersIVF(**chosen))
        real = ids[0] >= 0
        return scores[0][real], ids[0][real]

    def _lists(self) -> int:
        return 1 if self.is_flat else self._index.nlist

    def _probes(self) -> int:
        return max(LEAST_PROBES, int(self._lists() * PROBED_SHARE))

    # ---- the snapshot

    @property
    def _file(self) -> Path:
        assert self._folder is not None
        return self._folder / f"{self._label}.faiss"

    @property
    def _manifest(self) -> Path:
        return self._file.with_suffix(".json")

    def save(self) -> None:
        """Write the snapshot and then its manifest; above `ann_above` vectors, build the inverted lists first."""
        if self._folder is None:
            return
        if self.is_flat and len(self) > self._ann_above:
            self._index = _inverted(self.ids(), self.vectors(self.ids()))
            self._changed()
        self._folder.mkdir(parents=True, exist_ok=True)
        sums = _Sums()

        with replace_file(self._file) as part, part.open("wb") as target:

            def put(chunk: bytes) -> int:
                sums.add(chunk)
                return target.write(chunk)

            faiss.write_index(self._index, faiss.PyCallbackIOWriter(put, 1 << 20))

        manifest = {
            "schema": MANIFEST_SCHEMA,
            **self._belongs,
            "count": len(self),
            "max_id": int(self.ids()[-1]) if len(self) else 0,
            "generation": self.generation,
            "bytes": sums.bytes,
            "crc32": sums.crc32,
            "index": "flat" if self.is_flat else "ivf",
            "faiss": faiss.__version__,
        }
        content = json.dumps(manifest, indent=1).encode()
        with replace_file(self._manifest) as part:
            part.write_bytes(content)

    def _load(self) -> None:
        """Raises FileNotFoundError, `Outdated`, or anything else for a snapshot that contradicts its manifest."""
        manifest = read_manifest(self._manifest)
        if manifest["schema"] != MANIFEST_SCHEMA or manifest["faiss"] != faiss.__version__:
            raise Outdated(f"written by FAISS {manifest['faiss']}, schema {manifest['schema']}")
        if odd := {name: manifest[name] for name, value in self._belongs.items() if manifest[name] != value}:
            raise ValueError(f"{self._manifest.name} says {odd}, expected {self._belongs}")
        sums = _Sums()
        with self._file.open("rb") as file:
            while chunk := file.read(1 << 20):
                sums.add(chunk)
            if (sums.bytes, sums.crc32) != (manifest["bytes"], manifest["crc32"]):
                raise ValueError(
                    f"{self._file.name}, {sums.bytes} bytes with checksum {sums.crc32:08x}, contradicts its manifest"
                )
            file.seek(0)
            self._index = faiss.read_index(faiss.PyCallbackIOReader(file.read, 1 << 20))
        self._changed()
        ids = self.ids()
        if self._index.d != self.dim or len(ids) != manifest["count"] or (len(ids) and ids[-1] != manifest["max_id"]):
            raise ValueError(
                f"{self._file.name}, {len(ids)} vectors of {self._index.d} dimensions, contradicts its manifest"
            )
        self.generation = int(manifest["generation"])


class _Sums:
    def __init__(self) -> None:
        self.bytes = 0
        self.crc32 = 0

    def add(self, chunk: bytes) -> None:
        self.bytes += len(chunk)
        self.crc32 = zlib.crc32(chunk, self.crc32)


class _GpuCopy:
    """A copy of a flat index on the first GPU, made when it is first searched and dropped when the index changes."""

    def __init__(self) -> None:
        self._copy: Any = None
        self._resources: Any = None
        self._is_usable = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0

    def search(self, index: Any, queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray] | None:
        """What `index` itself would answer, or None where no GPU can, or need, be asked."""
        if not self._is_usable or depth > GPU_MAX_K or index.ntotal < GPU_FROM:
            return None
        try:
            if self._copy is None:
                if self._resources is None:
                    self._resources = faiss.StandardGpuResources()
                    self._resources.setTempMemory(64 << 20)
                self._copy = faiss.index_cpu_to_gpu(self._resources, 0, index)
            return self._copy.search(queries, depth)
        except RuntimeError as reason:
            log.warning("searching on the CPU: the GPU refused (%s)", reason)
            self._is_usable = False
            self._copy = None
            return None

    def drop(self) -> None:
        self._copy = None


@contextmanager
def _one_thread() -> Iterator[None]:
    """A single query is scanned by one thread anyway; waking the others costs milliseconds where the cores are busy."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def _flat(dim: int) -> Any:
    return faiss.IndexIDMap2(faiss.IndexFlatIP(dim))


def _inverted(ids: np.ndarray, vectors: np.ndarray) -> Any:
    lists = max(1, min(int(LISTS_PER_ROOT * np.sqrt(len(ids))), len(ids) // 4))
    sample = np.random.default_rng(0).permutation(len(ids))[: TRAINING_PER_LIST * lists]
    index = faiss.index_factory(vectors.shape[1], f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1
    index.train(vectors[np.sort(sample)])
    index.set_direct_map_type(faiss.DirectMap.Hashtable)
    index.add_with_ids(vectors, ids)
    return index


def _bitmap(ids: np.ndarray) -> Any:
    """A selector of these ids (ascending, not empty)."""
    flags = np.zeros(int(ids[-1]) + 1, bool)
    flags[ids] = True
    return faiss.IDSelectorBitmap(np.packbits(flags, bitorder="little"))
