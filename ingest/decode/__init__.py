"""Decoding of untrusted files, away from this process: tasks go in, events come out.

`pool` does it in worker processes of this machine (`child`), to which it talks in `messages`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

from ingest.readers import Facts, Rewording
from mmsearch.config import Settings
from mmsearch.errors import SourceError
from mmsearch.items import ItemDraft, Kind, Source
from mmsearch.media.limits import default_image_pixels
from mmsearch.media.ocr import Terms

COUNT_DEADLINE_S = 5.0
"""For counting a file's items: no plan waits longer for it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a worker may use.

    Attributes:
        deadline_s: seconds without progress after which a worker is killed.
        memory_bytes: address space of a worker; 0 for no limit.
        max_image_pixels, max_pages: see `ingest.readers.Reading`.
        ocr: how print is read; None where no task asks for it.
    """

    deadline_s: float = 120.0
    memory_bytes: int = 4 << 30
    max_image_pixels: int = 400_000_000
    max_pages: int = 5000
    ocr: Terms | None = None

    @classmethod
    def of_settings(cls, settings: Settings) -> Limits:
        """What the user allows."""
        return cls(
            deadline_s=settings.decode_timeout_s,
            memory_bytes=settings.decode_memory_bytes,
            max_image_pixels=settings.max_image_pixels or default_image_pixels(),
            max_pages=settings.max_pages,
        )


@dataclass(frozen=True, slots=True)
class Task:
    """A source to read, or only to count the items of, or with `is_facts` to read the header of. `key` comes back with every event; items before `first_ordinal` are skipped.

    With `is_print` only the print of the item at `first_ordinal` is read, see `ingest.printed.read_print`; `has_print` as there.
    With `is_look` it is only found out whether the file's metadata say anything: the note `described` is then 1.
    With `rewording` only the words of a video's clips are read again, see `ingest.readers.read_words`.
    """

    key: int
    source: Source
    first_ordinal: int = 0
    is_count: bool = False
    is_print: bool = False
    has_print: bool = False
    is_look: bool = False
    is_facts: bool = False
    rewording: Rewording | None = None

    def deadline_s(self, limits: Limits) -> float:
        return min(limits.deadline_s, COUNT_DEADLINE_S) if self.is_count or self.is_look else limits.deadline_s


@dataclass(frozen=True, slots=True)
class Event:
    """What became of a task: any number of drafts, then one "done" (with notes, for a count task with `expected`, for one of facts with
    `facts`) or "failed".

    `seconds` is the time that the worker spent on the task, without waiting for the parent to take its drafts.
    """

    type: Literal["draft", "done", "failed"]
    task: Task
    draft: ItemDraft | None = None
    error: SourceError | None = None
    notes: Mapping[str, int] = field(default_factory=dict)
    expected: tuple[Kind, int, float] | None = None
    seconds: float = 0.0
    facts: Facts | None = None


def default_jobs() -> int:
    """Half of the cores decode; the embedder needs the others."""
    return max(1, (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) // 2)


class OpenDecoder(Protocol):
    """What makes a `Decoder`, as the class `WorkerPool` does."""

    def __call__(self, budget: Mapping[Kind, int], *, jobs: int | None = None, limits: Limits | None = None) -> Decoder:
        """
        Args:
            budget: pixels of an item's picture at most; empty where no task asks for pictures.
            jobs: how many sources are decoded at once.
        """
        ...


class Decoder(Protocol):
    """What reads files for the ingest. A context manager: at the end nothing of it is left."""

    def read(self, tasks: Iterable[Task], *, tick_s: float = 1.0) -> Iterator[Event | None]:
        """Do the tasks and yield what comes of them, in the order in which it comes; None when nothing came for `tick_s`.

        One `read` at a time. Abandoning one drops the tasks that are not begun.

        Raises:
            WorkerFailed: nothing can decode; no file is to blame.
        """
        ...

    def close(self) -> None:
        """Stop at once, whatever is being read."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
