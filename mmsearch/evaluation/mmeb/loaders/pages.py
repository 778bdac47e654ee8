"""The 24 document tasks: a question, and all pages of a collection to find its answer in.

Layout on the hub, as BEIR's: configurations `queries` (`query-id, query`, with several languages also `language`),
`corpus` (`corpus-id, image`) and `qrels` (`query-id, corpus-id, score`).
Source: TIGER-AI-Lab/VLM2Vec@6e1e1d4 `src/data/eval_dataset/{vidore,visrag}_dataset.py`, `src/utils/dataset_utils.py`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from mmsearch.errors import DatasetError
from mmsearch.evaluation.mmeb.data import Collector, Side, TaskData, TaskQuery
from mmsearch.evaluation.mmeb.hub import read_rows, row_files, table_cache
from mmsearch.evaluation.mmeb.prompts import filled, told, words_of
from mmsearch.evaluation.mmeb.tasks import Task
from mmsearch.media import turned_and_saved
from mmsearch.media.pictures import BytesPicture, Decoding, decoded, decoded_key
from mmsearch.training.datasets.rows import Table


@dataclass(frozen=True, slots=True)
class PagePicture:
    """A page that a table holds.

    Where it is decoded plainly it is first turned by EXIF and saved again, since the reference reads pages through `datasets`, which
    turns them, and then works on files that it has written: of VisRAG's sets in the format that the page's id ends in, often a JPEG that is
    compressed a second time; of all others as PNG, which loses nothing. Pages that it cannot save stay as they are (there it fails).

    Attributes:
        resaved: suffix of that file.
    """

    pages: Table
    row: int
    name: str
    decoding: Decoding = "upright"
    resaved: str = ".png"

    def data(self) -> bytes:
        """The encoded picture. Raises: DatasetError: there is none."""
        value = self.pages[self.row]["image"]
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes) or not data:
            raise DatasetError(f"{self.name} holds no picture")
        return data

    def open(self) -> Image.Image:
        data = self.data()
        if self.decoding != "upright":
            file = io.BytesIO(data)
            file.name = self.name  # what decoders name in their errors
            if (saved := turned_and_saved(file, self.resaved)) is not None:
                return decoded(saved, self.decoding)
        return BytesPicture(data, self.name, self.decoding).open()

    def content_key(self) -> str:
        key = hashlib.sha1(self.data()).hexdigest()
        return key if self.decoding == "upright" else decoded_key(f"{key}{self.resaved}", self.decoding)


def pages(task: Task, data: Path) -> TaskData:
    """Every page of the corpus is a candidate; first those that questions point to, as in the reference."""
    corpus = Table(row_files(task, data, "corpus"), table_cache(data), columns=("image",))
    rows: dict[str, int] = {}  # of equal ids the first counts
    for number, (_, row) in enumerate(read_rows(row_files(task, data, "corpus"), columns=("corpus-id",))):
        rows.setdefault(str(row["corpus-id"]), number)
    gains = _gains(task, data)
    instruction = words_of(task.target)
    collector = Collector(task)

    def page(name: str) -> Side:
        suffix = PurePosixPath(name).suffix if task.family == "visrag" else ".png"
        picture = PagePicture(corpus, rows[name], f"{task.hub} page {name}", task.decoding, suffix)
        return Side(prompt=task.target, instruction=instruction, pictures=(picture,), kind="page")

    def row_query(key: str, row: Mapping[str, Any]) -> TaskQuery:
        judged = gains.get(str(row["query-id"]), {})
        if not judged:
            raise DatasetError(f"no page answers query {row['query-id']}")
        if missing := [name for name in judged if name not in rows]:
            raise DatasetError(f"the corpus has no page {', '.join(missing[:3])}")
        for name in judged:
            collector.candidate(name, page, name)
        text = row["query"]
        side = Side(filled(task.query, text), told(task), text, kind="page")
        return TaskQuery(key, side, tuple(judged), tuple(judged.values()))

    asked = read_rows(row_files(task, data, "queries"))
    if task.language:
        asked = ((key, row) for key, row in asked if row.get("language") == task.language)
    collector.read(asked, row_query)
    for name in rows:
        collector.candidate(name, page, name)
    return collector.data()


def _gains(task: Task, data: Path) -> dict[str, dict[str, float]]:
    """By query and page; judgements of 0 do not count, of several the highest does."""
    gains: dict[str, dict[str, float]] = {}
    for _, row in read_rows(row_files(task, data, "qrels"), columns=("query-id", "corpus-id", "score")):
        if row["score"] > 0:
            of_query = gains.setdefault(str(row["query-id"]), {})
            page = str(row["corpus-id"])
            of_query[page] = max(of_query.get(page, 0.0), float(row["score"]))
    return gains
