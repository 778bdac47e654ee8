"""What the catalog tells of files: its answers, apart from items."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """A file that could not be indexed. `at` is in seconds since the epoch."""

    source_id: int
    path: Path
    type: str
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A file as the catalog holds it. `changed_at` is when `state` was last set, in seconds since the epoch; `ctime_ns`: see `Source`."""

    id: int
    path: Path
    sha256: str
    size_bytes: int
    modified_ns: int
    state: str
    item_count: int
    changed_at: float
    ctime_ns: int | None


@dataclass(frozen=True, slots=True)
class VideoRead:
    """An indexed video and what its clips remember of its subtitle files; see `ingest.subtitles.is_current`."""

    source_id: int
    path: Path
    sha256: str
    changed_at: float
    subtitles: dict[str, Any] | None
    has_text: bool


@dataclass(frozen=True, slots=True)
class SidecarsRead:
    """An indexed file and the stamp of its sidecars when its metadata were read (`ingest.sidecars`); None: they were not yet."""

    source_id: int
    path: Path
    sha256: str
    stamp: str | None
