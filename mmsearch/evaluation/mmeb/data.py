"""A task's queries and candidates exactly as models see them; nothing is decoded before it is embedded."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmsearch.errors import DatasetError, SourceError
from mmsearch.evaluation.mmeb.tasks import Task
from mmsearch.items import Kind
from mmsearch.media.pictures import Picture

NAMED = 3
"""Unreadable rows named in a message about all of them."""


@dataclass(frozen=True, slots=True)
class Side:
    """What is embedded, in both forms that models take.

    Attributes:
        prompt: the exact string of VLM2Vec-V2, with one image token per picture or one video token.
        instruction, text: the same for models with prompts of their own: what to do, and the row's own words.
        pictures: single images in the order of their tokens or, with `is_video`, the frames of one video.
        kind: selects the pixel budget of a product's embedder.
    """

    prompt: str
    instruction: str = ""
    text: str = ""
    pictures: tuple[Picture, ...] = ()
    is_video: bool = False
    kind: Kind = "image"


def text_side(text: str, kind: Kind = "image") -> Side:
    """A text that is embedded as it is: an answer, a class, a caption."""
    return Side(prompt=text, text=text, kind=kind)


@dataclass(frozen=True, slots=True)
class TaskQuery:
    """A query and its right answers.

    Attributes:
        key: unique in the task: where the row stands.
        labels: names of right candidates, without repetition.
        gains: how good each label is, above 0; None if all are equally right.
        candidates: the names that are ranked, in order and perhaps repeated (local scope); None for all of the task.
    """

    key: str
    side: Side
    labels: tuple[str, ...]
    gains: tuple[float, ...] | None = None
    candidates: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class TaskData:
    """A task, loaded.

    Attributes:
        candidates: by name, in order; of equal names the first has been kept.
        unread: rows that could not be read, each with the reason. They count as queries that find nothing.
    """

    task: Task
    queries: Sequence[TaskQuery]
    candidates: Mapping[str, Side]
    unread: tuple[str, ...] = ()


class Collector:
    """Gathers queries and candidates row by row; a bad row is noted and the others go on."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.queries: list[TaskQuery] = []
        self.candidates: dict[str, Side] = {}
        self.unread: list[str] = []

    def candidate(self, name: str, make: Callable[..., Side], *arguments: Any) -> str:
        """The candidate is made, `make(*arguments)`, if there is none of that name yet. Returns the name."""
        if name not in self.candidates:
            self.candidates[name] = make(*arguments)
        return name

    def read(self, rows: Iterable[tuple[str, Mapping[str, Any]]], row_query: Callable[[str, Any], TaskQuery]) -> None:
        """`row_query(key, row)` for every row; one that raises, lacks a field or holds odd values becomes an unread one."""
        for key, row in rows:
            try:
                self.queries.append(row_query(key, row))
            except KeyError as error:
                self.unread.append(f"{key}: no field {error}")
            except (DatasetError, SourceError) as error:
                self.unread.append(f"{key}: {error}")
            except (AttributeError, TypeError, ValueError) as error:
                self.unread.append(f"{key}: an odd record: {error}")

    def data(self) -> TaskData:
        """Raises: DatasetError: no query could be read."""
        if not self.queries:
            first = "; ".join(self.unread[:NAMED]) or "there are no rows"
            more = f"; {len(self.unread) - NAMED} more rows" if len(self.unread) > NAMED else ""
            raise DatasetError(f"{self.task.name}: no query can be read: {first}{more}")
        return TaskData(self.task, self.queries, self.candidates, tuple(self.unread))


def load_task(task: Task, data: Path) -> TaskData:
    """Queries and candidates of a task.

    Args:
        data: folder of data sets, each in `<owner>/<name>` as on the hub (see the README of `mmsearch.evaluation`).

    Raises:
        DatasetError: the data is not there, or nothing in it can be read; the message says how to get it.
    """
    from mmsearch.evaluation.mmeb.loaders import LOADERS

    module, function = LOADERS[task.family].split(":")
    name = module if "." in module else f"mmsearch.evaluation.mmeb.loaders.{module}"
    return getattr(importlib.import_module(name), function)(task, data)
