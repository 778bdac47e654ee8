"""VisRAG's in-domain training set: a query and the page, slide, figure or chart that answers it.

Layout on the hub: `data/train-*.parquet` with `query, image {bytes, path}, source`.
Source: TIGER-AI-Lab/VLM2Vec@6e1e1d4 `src/data/dataset/visrag_dataset.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any

from mmsearch.errors import DatasetError
from mmsearch.prompts import DOCUMENT_INSTRUCTIONS, TEXT_QUERY_INSTRUCTIONS, final_prompt, visrag_training_prompts
from mmsearch.training.datasets import record_fields
from mmsearch.training.datasets.dataset_folders import DatasetFolders
from mmsearch.training.datasets.pairs import Pair, Side
from mmsearch.training.datasets.row_source import RowSource
from mmsearch.training.datasets.rows import Rows, Table

HUB_NAME = "openbmb/VisRAG-Ret-Train-In-domain-data"
PROMPTS = ("released", "evaluation")


def open_visrag(spec: Mapping[str, Any], folders: DatasetFolders) -> RowSource:
    """Fields: `dataset_name` (openbmb/VisRAG-Ret-Train-In-domain-data; or a folder), `dataset_split` ("train"),
    `dataset_path` (Parquet files instead, as a pattern), `prompts`: "released", an instruction for each of the sets that
    the rows come from, as VLM2Vec-V2 was trained; "evaluation", the instructions of evaluation and search.
    """
    record_fields.check_spec(
        spec, {"dataset_name", "dataset_split", "dataset_path", "subset_name", "prompts"} | record_fields.DECODING
    )
    prompts = record_fields.choice(spec, "prompts", PROMPTS)
    columns = ("query", "image", "source") if prompts == "released" else ("query", "image")
    return Visrag(spec, hub_table(spec, folders, HUB_NAME, columns), prompts)


class Visrag(RowSource):
    def __init__(self, spec: Mapping[str, Any], rows: Rows, prompts: str) -> None:
        super().__init__(spec, rows, default_name="visrag-indomain")
        self.prompts = prompts
        self.decoding = record_fields.decoding(spec)

    def read(self, row: dict[str, Any], key: str) -> Pair:
        query = record_fields.text(row, "query")
        if self.prompts == "released":
            asked, shown = visrag_training_prompts(record_fields.optional_text(row, "source"), query)
        else:
            asked = final_prompt(TEXT_QUERY_INSTRUCTIONS["page"], query)
            shown = final_prompt(DOCUMENT_INSTRUCTIONS["page"], image_count=1)
        return Pair(Side(asked), Side(shown, (record_fields.stored_picture(row, "image", key, self.decoding),)))


def hub_table(spec: Mapping[str, Any], folders: DatasetFolders, hub_name: str, columns: Sequence[str]) -> Table:
    """The table of a data set that consists of Parquet files alone. Raises: DatasetError."""
    if pattern := spec.get("dataset_path"):
        files = sorted(map(Path, glob(str(folders.local(pattern)), recursive=True)))  # noqa: PTH207 - may be absolute
        looked_for = str(folders.local(pattern))
    else:
        split = spec.get("dataset_split") or "train"
        name = spec.get("dataset_name") or hub_name
        patterns = [f"data/{split}-*.parquet", f"{split}-*.parquet"]
        folder = folders.dataset_folder(spec, name, needed=f"**/{split}-*.parquet", patterns=patterns)
        files = sorted(folder.glob(f"data/{split}-*.parquet")) or sorted(folder.glob(f"{split}-*.parquet"))
        looked_for = f"{folder}/data/{split}-*.parquet"
    if not files:
        raise DatasetError(f"no Parquet file {looked_for}")
    return Table(files, folders.cache_folder(), columns=columns)
