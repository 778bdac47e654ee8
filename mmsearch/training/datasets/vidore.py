"""ColPali's training set: questions about document pages, with the page and the answer.

Layout on the hub: `data/train-*.parquet` with `image {bytes, path}, query, answer` and more that is not read.
Source: TIGER-AI-Lab/VLM2Vec@6e1e1d4 `src/data/dataset/vidore_dataset.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmsearch.prompts import DOCUMENT_INSTRUCTIONS, TEXT_QUERY_INSTRUCTIONS, final_prompt
from mmsearch.training.datasets import record_fields
from mmsearch.training.datasets.dataset_folders import DatasetFolders
from mmsearch.training.datasets.pairs import Pair, Side
from mmsearch.training.datasets.row_source import RowSource
from mmsearch.training.datasets.rows import Rows
from mmsearch.training.datasets.visrag import hub_table

HUB_NAME = "vidore/colpali_train_set"
MODES = ("question_answering", "page_retrieval")


def open_vidore(spec: Mapping[str, Any], folders: DatasetFolders) -> RowSource:
    """Fields: `dataset_name` (vidore/colpali_train_set; or a folder), `dataset_split` ("train"), `dataset_path` (Parquet
    files instead, as a pattern), `data_mode`: "question_answering", as VLM2Vec-V2 was trained, has the page on the query
    side and the answer as target; "page_retrieval" has the question as query and the page as target, with the
    instructions of evaluation and search.
    """
    record_fields.check_spec(
        spec, {"dataset_name", "dataset_split", "dataset_path", "subset_name", "data_mode"} | record_fields.DECODING
    )
    mode = record_fields.choice(spec, "data_mode", MODES)
    columns = ("query", "image", "answer") if mode == MODES[0] else ("query", "image")
    return ColpaliTrain(spec, hub_table(spec, folders, HUB_NAME, columns), mode)


class ColpaliTrain(RowSource):
    """The data set's own `prompt` column is ignored, as in the reference."""

    def __init__(self, spec: Mapping[str, Any], rows: Rows, mode: str) -> None:
        super().__init__(spec, rows, default_name="colpali_train_set")
        self.mode = mode
        self.decoding = record_fields.decoding(spec)

    def read(self, row: dict[str, Any], key: str) -> Pair:
        page = (record_fields.stored_picture(row, "image", key, self.decoding),)
        query = record_fields.text(row, "query")
        if self.mode == "question_answering":
            return Pair(Side(final_prompt("", query, image_count=1), page), Side(record_fields.text(row, "answer")))
        return Pair(
            Side(final_prompt(TEXT_QUERY_INSTRUCTIONS["page"], query)),
            Side(final_prompt(DOCUMENT_INSTRUCTIONS["page"], image_count=1), page),
        )
