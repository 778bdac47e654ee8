"""Vectors that were computed before, by what they were computed from. A kill loses nothing that was put.

One SQLite file per writing process, `vectors-<rank>.sqlite3`; every process reads all of them. Nothing is ever changed or removed:
another model or another input has another key.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from mmsearch.errors import DatasetError

ASKED_AT_ONCE = 500
TABLE = "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, rows INTEGER, dim INTEGER NOT NULL, content BLOB NOT NULL)"
"""`rows` is null for a single vector; `content` is float32, little-endian."""


class VectorCache:
    """float32 [dim] or [tokens, dim] by a key of bytes.

    Args:
        folder: made if need be.
        rank: of this process among those that write here.

    Raises:
        DatasetError: a file there is none of ours or is damaged; the message says which.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._path = folder / f"vectors-{rank}.sqlite3"
        with self._named(self._path):
            self._own = sqlite3.connect(self._path, timeout=60, check_same_thread=False)
            self._own.execute("PRAGMA journal_mode = WAL")
            self._own.execute(
                "PRAGMA synchronous = NORMAL"
            )  # a kill loses nothing; a power cut may lose the last puts, whole
            with self._own:
                self._own.execute(TABLE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._own.close()

    def put(self, vectors: Mapping[bytes, np.ndarray]) -> None:
        """Keep them, all or none; a key that is there already stays as it is."""
        rows = [
            (key, None if vector.ndim == 1 else len(vector), vector.shape[-1], vector.astype("<f4").tobytes())
            for key, vector in vectors.items()
        ]
        with self._named(self._path), self._own:
            self._own.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?, ?, ?)", rows)

    def get(self, keys: Iterable[bytes]) -> dict[bytes, np.ndarray]:
        """Those of the keys that are known, to any of the processes."""
        wanted = list(dict.fromkeys(keys))
        found = self._read(self._own, self._path, wanted)
        for path in sorted(self.folder.glob("vectors-*.sqlite3")):
            left = [key for key in wanted if key not in found]
            if path == self._path or not left:
                continue
            with self._named(path), contextlib.closing(sqlite3.connect(path, timeout=60)) as other:
                found |= self._read(other, path, left)
        return found

    def _read(self, database: sqlite3.Connection, path: Path, keys: list[bytes]) -> dict[bytes, np.ndarray]:
        found = {}
        for start in range(0, len(keys), ASKED_AT_ONCE):
            some = keys[start : start + ASKED_AT_ONCE]
            query = f"SELECT key, rows, dim, content FROM vectors WHERE key IN ({', '.join('?' * len(some))})"
            with self._named(path):
                answers = database.execute(query, some).fetchall()
            for key, rows, dim, content in answers:
                vector = np.frombuffer(content, "<f4").astype(np.float32, copy=False)
                found[key] = vector if rows is None else vector.reshape(rows, dim)
        return found

    @contextlib.contextmanager
    def _named(self, path: Path) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise DatasetError(f"{path}: {error}; remove the file, and its vectors are computed again") from error
