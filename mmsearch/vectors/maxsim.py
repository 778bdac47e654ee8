"""Items of many vectors each (late interaction), compared by MaxSim: exact among few, candidates by a coarse copy among many.

score(query, item) = mean over the query's tokens of the greatest cosine with any token of the item, so it lies in -1…1 as a cosine
does (ColBERT's sum divided by the number of query tokens, arXiv 2004.12832). A query of more than `LONGEST_QUERY` tokens, such as a
page searched with, is first `condensed`.

A page of ColPali has 1,030 tokens of 128 numbers: 264 kB in float16, 2.6 GB for 10,000 pages, which stay on disk and are mapped into
memory. Beside them lie the means of `BANDS` stretches of each item's tokens (16 kB a page), which propose candidates.

On disk: `<label>.tokens-<n>` is only ever appended to, `<label>.rows-<n>` says which tokens are whose, and `<label>.json`, the manifest,
names both, their lengths and checksums, and is written last. Whatever lies behind those lengths was never reached. Opening reads all
of it once, to compare the checksums: 3,500 pages take half a second of one core. A query over 1,000 pages takes 0.6 s of one core.
"""

from __future__ import annotations

import io
import json
import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmsearch.disk.replace import replace_file
from mmsearch.errors import DimensionMismatch
from mmsearch.vectors.exact import UNIT_TOLERANCE
from mmsearch.vectors.snapshot import Outdated, load, read_manifest

log = logging.getLogger(__name__)

LONGEST_QUERY, CONDENSED_TOKENS = 256, 64
"""A query with more tokens than the first, hence no sentence, is condensed to the second number of means of neighbouring tokens."""
EXACT_UP_TO = 2_000
"""Among so many items every token is compared."""
BANDS = 64
"""Stretches of an item's tokens whose means propose candidates. Patches come row by row, so a stretch is half a row of a page."""
CANDIDATES, CANDIDATES_PER_RESULT = 1024, 4
"""So many candidates, or so many for each result asked for, are compared in full. On 3,500 made-up pages of 1,030 tokens, each a dozen
blocks of random topics, that found the best page of every query and 93 % of the ten best, in 0.6 s of one core instead of 1.7 s."""
BLOCK_TOKENS = 1 << 16
WHOLE_ANEW_SHARE = 0.5
"""A tokens file of which more than this share belongs to no item is rewritten."""
MANIFEST_SCHEMA = 1

Tokens = np.ndarray
"""[tokens, dim], or [dim] for a single one."""


class MaxSimStore:
    """The `VectorStore` contract for items of many vectors: `vectors` are a sequence of [tokens, dim] instead of one array.

    Where the contract says vector it holds for every token, where it says cosine it is the score above. Tokens are kept in float16,
    so `vectors` gives float32 [tokens, dim] of unit length that differ from what was given by some 1e-4.
    A two-dimensional array as `vectors` or `queries` stands for items, or queries, of one token each.
    """

    def __init__(
        self,
        dim: int,
        *,
        folder: Path | None = None,
        label: str = "items",
        model_key: str = "",
        catalog_id: str = "",
        exact_up_to: int = EXACT_UP_TO,
    ) -> None:
        """Without `folder` nothing is written to disk."""
        self.dim = dim
        self.generation = 0
        self._folder, self._label = folder, label
        self._belongs = {"model_key": model_key, "catalog_id": catalog_id, "dim": dim}
        self._exact_up_to = exact_up_to
        self._ids = np.empty(0, np.int64)  # ascending; the next three go with it
        self._starts = np.empty(0, np.int64)
        self._counts = np.empty(0, np.int64)
        self._bands = np.empty((0, BANDS, dim), np.float16)
        self._saved = np.empty((0, dim), np.float16)  # the tokens on disk, mapped
        self._fresh: dict[
            int, np.ndarray
        ] = {}  # by start, from len(self._saved) on: the tokens that are not on disk yet
        self._end = 0
        self._manifest_seen: dict[str, Any] = {}

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
    ) -> MaxSimStore:
        """Load the snapshot in `folder`; an unusable one is said in the log, set aside unless `read_only`, and left out."""

        def empty() -> MaxSimStore:
            return cls(dim, folder=folder, label=label, model_key=model_key, catalog_id=catalog_id)

        store = empty()
        return store if load(store._manifest, store._load, store._files, read_only=read_only) else empty()

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self) -> np.ndarray:
        return self._ids

    def vectors(self, ids: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """float32 [tokens, dim] of unit length each, in the order of `ids`; raises KeyError for an unknown id."""
        ids = np.asarray(ids, np.int64)
        rows = np.searchsorted(self._ids, ids)
        known = rows < len(self._ids)
        known[known] = self._ids[rows[known]] == ids[known]
        if not known.all():
            raise KeyError(int(ids[~known][0]))
        return [unit(self._halves(row)) for row in rows]

    def upsert(self, ids: Sequence[int] | np.ndarray, vectors: Sequence[Tokens] | np.ndarray) -> None:
        """Store the tokens of each item under int64 ids [n]."""
        ids, items = _checked(ids, vectors, self.dim)
        if not len(ids):
            return
        self.remove(ids)
        starts = self._end + np.cumsum([0, *(len(tokens) for tokens in items)])
        self._end = int(starts[-1])
        self._fresh.update(zip(starts[:-1].tolist(), items, strict=True))
        order = np.argsort(merged := np.concatenate([self._ids, ids]))
        counts = np.array([len(tokens) for tokens in items], np.int64)
        self._ids = merged[order]
        self._starts = np.concatenate([self._starts, starts[:-1]])[order]
        self._counts = np.concatenate([self._counts, counts])[order]
        self._bands = np.concatenate([self._bands, [bands(tokens) for tokens in items]])[order]

    def remove(self, ids: Sequence[int] | np.ndarray) -> None:
        gone = np.isin(self._ids, np.asarray(ids, np.int64))
        if not gone.any():
            return
        for start in self._starts[gone].tolist():
            self._fresh.pop(start, None)
        keep = ~gone
        self._ids, self._starts, self._counts = self._ids[keep], self._starts[keep], self._counts[keep]
        self._bands = self._bands[keep]

    def search(
        self,
        queries: Sequence[Tokens] | np.ndarray,
        k: int,
        allowed: Sequence[int] | np.ndarray | None = None,
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """For float32 [tokens, dim] each, the ids (int64) and scores (float32), at most k each."""
        _, checked = _checked(np.arange(len(queries)), queries, self.dim, np.float32)
        rows = np.arange(len(self))
        if allowed is not None:
            rows = rows[np.isin(self._ids, np.asarray(allowed, np.int64))]
        found = [self._search_one(condensed(query), k, rows) for query in checked]
        return [ids for ids, _ in found], [scores for _, scores in found]

    def _search_one(self, query: np.ndarray, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if k < 1 or not len(rows):
            return np.empty(0, np.int64), np.empty(0, np.float32)
        if len(rows) > self._exact_up_to:
            depth = max(CANDIDATES, CANDIDATES_PER_RESULT * k)
            if depth < len(rows):
                rows = rows[np.argpartition(-self._band_scores(query, rows), depth)[:depth]]
        if k < len(rows):
            rough = self._token_scores(query, rows)
            kth = np.partition(rough, len(rows) - k)[len(rows) - k]
            rows = rows[rough >= kth - 2 * UNIT_TOLERANCE]
        exact = np.array([exact_score(unit(self._halves(row)), query) for row in rows], np.float32)
        order = np.lexsort((self._ids[rows], -exact))[:k]
        return self._ids[rows[order]], exact[order]

    def _band_scores(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """float32 [rows]: MaxSim over each item's bands."""
        scores = np.empty(len(rows), np.float32)
        step = max(1, BLOCK_TOKENS // BANDS)
        for start in range(0, len(rows), step):
            some = self._bands[rows[start : start + step]].astype(np.float32)
            scores[start : start + step] = (some @ query.T).max(1).mean(1)
        return scores

    def _token_scores(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """float32 [rows]: MaxSim over tokens whose lengths rounding has bent, each off by less than `UNIT_TOLERANCE`."""
        scores = np.empty(len(rows), np.float32)
        for places in self._blocks(rows):
            halves = np.concatenate([self._halves(row) for row in rows[places]])
            near = query @ halves.astype(np.float32).T
            counts = self._counts[rows[places]]
            scores[places] = np.maximum.reduceat(near, np.cumsum(counts) - counts, axis=1).mean(0)
        return scores

    def _blocks(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Places in `rows`, as they lie on disk, so many at a time that their tokens fill a block."""
        order = np.argsort(self._starts[rows])
        block = np.cumsum(self._counts[rows[order]]) // BLOCK_TOKENS
        yield from np.split(order, np.flatnonzero(np.diff(block)) + 1)

    def _halves(self, row: int) -> np.ndarray:
        """float16 [tokens, dim] of the item in a row."""
        start = int(self._starts[row])
        fresh = self._fresh.get(start)
        return self._saved[start : start + int(self._counts[row])] if fresh is None else fresh

    # ---- the snapshot

    @property
    def _manifest(self) -> Path:
        assert self._folder is not None
        return self._folder / f"{self._label}.json"

    def _files(self) -> list[Path]:
        """Every file of this label, the manifest last."""
        parts = [
            *self._manifest.parent.glob(f"{self._label}.tokens-*"),
            *self._manifest.parent.glob(f"{self._label}.rows-*"),
        ]
        return [file for file in parts if ".corrupt-" not in file.name] + [self._manifest]

    def save(self) -> None:
        """Append what is new, or write all tokens again where half of them belong to no item; then the manifest."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        seen, on_disk = self._manifest_seen, self._manifest_on_disk()
        serial = 1 + max(int(manifest.get("serial", 0)) for manifest in (seen, on_disk))
        is_ours = bool(seen) and seen == on_disk and (self._folder / seen["tokens"]).is_file()
        living = int(self._counts[self._starts < len(self._saved)].sum())
        if is_ours and living >= (1 - WHOLE_ANEW_SHARE) * len(self._saved):
            name = seen["tokens"]
            starts, end, crc32 = self._append(seen)
        else:
            name = f"{self._label}.tokens-{serial}"
            starts, end, crc32 = self._write_anew(self._folder / name)
        rows = io.BytesIO()
        np.savez(rows, ids=self._ids, starts=starts, counts=self._counts, bands=self._bands)
        rows_name, content = f"{self._label}.rows-{serial}", rows.getvalue()
        with replace_file(self._folder / rows_name) as part:
            part.write_bytes(content)
        manifest = {
            "schema": MANIFEST_SCHEMA,
            **self._belongs,
            "count": len(self),
            "max_id": int(self._ids[-1]) if len(self) else 0,
            "generation": self.generation,
            "serial": serial,
            "tokens": name,
            "token_count": end,
            "tokens_crc32": crc32,
            "rows": rows_name,
            "rows_crc32": zlib.crc32(content),
        }
        with replace_file(self._manifest) as part:
            part.write_bytes(json.dumps(manifest, indent=1).encode())
        self._manifest_seen = manifest
        self._starts, self._saved, self._fresh, self._end = starts, self._mapped(manifest), {}, end
        for file in self._files():
            if file.name not in (name, rows_name, self._manifest.name):
                file.unlink(missing_ok=True)

    def _append(self, seen: dict[str, Any]) -> tuple[np.ndarray, int, int]:
        """Write the fresh tokens behind those that the manifest tells of: where each item's start then, where all end, checksum."""
        assert self._folder is not None
        starts, end, crc32 = self._starts.copy(), int(seen["token_count"]), int(seen["tokens_crc32"])
        with (self._folder / seen["tokens"]).open("r+b") as file:
            file.truncate(end * self._token_bytes)  # what a killed run left behind
            file.seek(0, os.SEEK_END)
            for row in np.flatnonzero(self._starts >= len(self._saved)).tolist():
                data = self._halves(row).astype("<f2").tobytes()
                file.write(data)
                crc32 = zlib.crc32(data, crc32)
                starts[row] = end
                end += int(self._counts[row])
            file.flush()
            os.fsync(file.fileno())
        return starts, end, crc32

    def _write_anew(self, file: Path) -> tuple[np.ndarray, int, int]:
        """Write a tokens file that holds only what belongs to items, by id; gives the same as `_append`."""
        crc32 = 0
        with replace_file(file) as part, part.open("wb") as target:
            for row in range(len(self)):
                data = self._halves(row).astype("<f2").tobytes()
                target.write(data)
                crc32 = zlib.crc32(data, crc32)
        ends = np.cumsum(self._counts)
        return ends - self._counts, int(self._counts.sum()), crc32

    @property
    def _token_bytes(self) -> int:
        return 2 * self.dim

    def _manifest_on_disk(self) -> dict[str, Any]:
        try:
            manifest = json.loads(self._manifest.read_bytes())
            return manifest if isinstance(manifest, dict) else {}
        except (FileNotFoundError, ValueError):
            return {}

    def _mapped(self, manifest: dict[str, Any]) -> np.ndarray:
        shape = (int(manifest["token_count"]), self.dim)
        if not shape[0]:
            return np.empty(shape, np.float16)
        assert self._folder is not None
        file = self._folder / manifest["tokens"]
        if file.stat().st_size < shape[0] * self._token_bytes:
            raise ValueError(f"{file.name} is shorter than its manifest says")
        return np.memmap(file, "<f2", "r", shape=shape)

    def _load(self) -> None:
        """Raises FileNotFoundError, `Outdated`, or anything else for a snapshot that contradicts its manifest."""
        manifest = read_manifest(self._manifest)
        if manifest["schema"] != MANIFEST_SCHEMA:
            raise Outdated(f"of schema {manifest['schema']}")
        if odd := {name: manifest[name] for name, value in self._belongs.items() if manifest[name] != value}:
            raise ValueError(f"{self._manifest.name} says {odd}, expected {self._belongs}")
        assert self._folder is not None
        content = (self._folder / manifest["rows"]).read_bytes()
        if zlib.crc32(content) != manifest["rows_crc32"]:
            raise ValueError(f"{manifest['rows']} contradicts its manifest")
        saved = self._mapped(manifest)
        crc32 = 0
        for start in range(0, len(saved), BLOCK_TOKENS):
            crc32 = zlib.crc32(saved[start : start + BLOCK_TOKENS].tobytes(), crc32)
        if crc32 != manifest["tokens_crc32"]:
            raise ValueError(f"{manifest['tokens']} with checksum {crc32:08x} contradicts its manifest")
        with np.load(io.BytesIO(content)) as rows:
            ids, starts, counts, own_bands = rows["ids"], rows["starts"], rows["counts"], rows["bands"]
        if len(ids) != manifest["count"] or (len(ids) and ids[-1] != manifest["max_id"]):
            raise ValueError(f"{manifest['rows']}, {len(ids)} items, contradicts its manifest")
        self._ids, self._starts, self._counts, self._bands = ids, starts, counts, own_bands
        self._saved, self._fresh, self._end = saved, {}, len(saved)
        self.generation = int(manifest["generation"])
        self._manifest_seen = manifest


def unit(tokens: np.ndarray) -> np.ndarray:
    """float32 [tokens, dim] of unit length from float16."""
    wide = tokens.astype(np.float32)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def exact_score(tokens: np.ndarray, query: np.ndarray) -> np.float32:
    """MaxSim of float32 [tokens, dim] and [query tokens, dim], summed in float64 and rounded once."""
    return np.float32((query.astype(np.float64) @ tokens.T.astype(np.float64)).max(1).mean())


def scores(items: Sequence[np.ndarray], query: np.ndarray) -> np.ndarray:
    """float32 [items]: the score of each float32 [tokens, dim] for a query of float32 [query tokens, dim]."""
    query = condensed(query)
    return np.array([(tokens @ query.T).max(0).mean() for tokens in items], np.float32)


def condensed(query: np.ndarray) -> np.ndarray:
    """A query of `LONGEST_QUERY` tokens at most: of a longer one the means of neighbouring tokens, of unit length."""
    return query if len(query) <= LONGEST_QUERY else _means(query, CONDENSED_TOKENS)


def bands(tokens: np.ndarray) -> np.ndarray:
    """float16 [BANDS, dim]: the means of stretches of an item's tokens, of unit length; a short item's last one repeated."""
    means = _means(tokens.astype(np.float32), min(BANDS, len(tokens)))
    return np.concatenate([means, np.repeat(means[-1:], BANDS - len(means), axis=0)]).astype(np.float16)


def _means(tokens: np.ndarray, count: int) -> np.ndarray:
    """float32 [count, dim] of unit length: the directions of the means of `count` stretches of like length."""
    sums = np.add.reduceat(tokens, np.arange(count) * len(tokens) // count, axis=0)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return sums / np.maximum(lengths, 1e-12)


def _checked(
    ids: Sequence[int] | np.ndarray, vectors: Sequence[Tokens] | np.ndarray, dim: int, dtype: Any = np.float16
) -> tuple[np.ndarray, list[np.ndarray]]:
    """int64 [n] and n arrays [tokens, dim] as the contract wants them; of an id given twice the last item counts."""
    ids = np.asarray(ids, np.int64)
    if ids.ndim != 1 or len(ids) != len(vectors):
        raise ValueError(f"ids of shape {ids.shape} do not go with {len(vectors)} vectors")
    if len(ids) and ids.min() < 0:
        raise ValueError(f"ids count from 0, not {ids.min()}")
    items = {}
    for item_id, given in zip(ids.tolist(), vectors, strict=True):
        tokens = np.atleast_2d(np.asarray(given))
        if tokens.ndim != 2 or not len(tokens):
            raise ValueError(f"the vectors of id {item_id} are of shape {tokens.shape}, not [tokens, {dim}]")
        if tokens.shape[1] != dim:
            raise DimensionMismatch(dim, tokens.shape[1])
        lengths = np.linalg.norm(tokens.astype(np.float32), axis=1)
        bad = np.flatnonzero(~(np.abs(lengths - 1) <= UNIT_TOLERANCE))
        if len(bad):
            raise ValueError(f"the vector {bad[0]} of id {item_id} has length {lengths[bad[0]]:.4g}, not 1")
        items[item_id] = np.ascontiguousarray(tokens, dtype)
    return np.array(list(items), np.int64), list(items.values())
