"""Rows of a data set on disk, read one by one in any order and from any process, whatever their number and size."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mmsearch.disk.replace import replace_file
from mmsearch.errors import DatasetError

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_BATCH = 64
"""Rows written at once when a table is made: with pictures in them, some tens of megabytes."""


class Rows(Protocol):
    """Records by number; picklable, without holding anything open that a copy could not open again."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises: DatasetError if that record cannot be read."""
        ...

    def name_of(self, index: int) -> str:
        """Where the record stands, for messages."""
        ...


class Table:
    """Rows of Parquet files, through an uncompressed copy that is mapped into memory and shared by all processes.

    Parquet is made to be read from one end to the other: a single row costs a whole group of rows, pictures included. The
    copy is written once into `cache`, under a name that follows from the files' names, sizes and times.
    """

    def __init__(
        self, files: Sequence[Path], cache: Path, *, columns: Sequence[str], optional: Sequence[str] = ()
    ) -> None:
        """Columns in `optional` may be missing. Raises: DatasetError for no file, an unreadable one, a missing column."""
        if not files:
            raise DatasetError("a table without files")
        self.name = files[0].parent.name
        self.copies = [arrow_copy(file, cache, columns, optional) for file in files]
        self._open()

    @classmethod
    def of_copy(cls, copy: Path, name: str) -> Table:
        """The rows that `write_arrow` wrote."""
        table = cls.__new__(cls)
        table.__setstate__({"name": name, "copies": [copy]})
        return table

    def _open(self) -> None:
        import pyarrow as pa

        self.tables = [pa.ipc.open_file(pa.memory_map(str(copy))).read_all() for copy in self.copies]
        self.ends = np.cumsum([table.num_rows for table in self.tables])

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "copies": self.copies}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        part = int(np.searchsorted(self.ends, index, side="right"))
        table: pa.Table = self.tables[part]
        row = index - (int(self.ends[part - 1]) if part else 0)
        return {name: table.column(name)[row].as_py() for name in table.column_names}

    def name_of(self, index: int) -> str:
        return f"{self.name} row {index}"


def arrow_copy(file: Path, cache: Path, columns: Sequence[str], optional: Sequence[str]) -> Path:
    """The uncompressed copy of a Parquet file's columns; written if it is not there yet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    status = file.stat()
    mark = f"{file.resolve()}|{status.st_size}|{status.st_mtime_ns}|{sorted(columns)}|{sorted(optional)}"
    copy = cache / f"{file.stem}-{hashlib.sha1(mark.encode()).hexdigest()[:16]}.arrow"
    if copy.exists():
        return copy
    try:
        with pq.ParquetFile(file) as parquet:
            schema = parquet.schema_arrow
            if missing := [name for name in columns if name not in schema.names]:
                raise DatasetError(f"{file} has no column {', '.join(missing)}; it has {', '.join(schema.names)}")
            kept = [name for name in (*columns, *optional) if name in schema.names]
            write_arrow(
                copy,
                pa.schema([schema.field(name) for name in kept]),
                (batch.select(kept) for batch in parquet.iter_batches(batch_size=ROWS_PER_BATCH, columns=kept)),
            )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise DatasetError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    return copy


def write_arrow(file: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """A complete file or none; several processes may write the same one at once."""
    import pyarrow as pa

    file.parent.mkdir(parents=True, exist_ok=True)
    with (
        replace_file(file, durable=False) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for batch in batches:
            writer.write_batch(batch)


class JsonLines:
    """A JSON object per line (UTF-8, `.jsonl`); empty lines do not count."""

    def __init__(self, file: Path) -> None:
        """Raises: DatasetError: no such file, or nothing in it."""
        if not file.is_file():
            raise DatasetError(f"no file {file}")
        self.file = file
        starts, numbers = [], []
        offset = 0
        with file.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    starts.append(offset)
                    numbers.append(number)
                offset += len(line)
        if not starts:
            raise DatasetError(f"{file} is empty")
        self.starts = np.asarray(starts, np.int64)
        self.numbers = np.asarray(numbers, np.int64)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        with self.file.open("rb") as stream:
            stream.seek(int(self.starts[index]))
            line = stream.readline()
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DatasetError(f"not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DatasetError(f"a JSON {type(row).__name__}, not an object")
        return row

    def name_of(self, index: int) -> str:
        return f"{self.file.name} line {self.numbers[index]}"


def chosen_rows(total: int, cap: int | None, *, shuffle: bool, seed: int) -> np.ndarray | range:
    """Row numbers under a cap: the first n as in the reference or, shuffled, n of them all; ascending either way."""
    if cap is None or cap >= total:
        return range(total)
    if not shuffle:
        return range(cap)
    rng = np.random.default_rng([seed, total])
    return np.sort(rng.random(total).argsort(kind="stable")[:cap])
