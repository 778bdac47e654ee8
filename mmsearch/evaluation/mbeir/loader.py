"""M-BEIR's queries and pools out of its public layout (TIGER-Lab/M-BEIR).

`query/test/mbeir_<task>_test.jsonl` (`qid, query_txt, query_img_path, query_modality, …`), `cand_pool/local/` and
`cand_pool/global/mbeir_<pool>_cand_pool.jsonl` (`did, txt, img_path, modality`), `qrels/test/mbeir_<task>_test_qrels.txt`
(query, 0, candidate, relevance, task), `instructions/query_instructions.tsv`, and pictures under `mbeir_images/`.

Of a task's four instructions the first is asked with; UniIR draws one for every query.
Source: TIGER-AI-Lab/UniIR `src/data/mbeir_dataset.py`, `src/common/mbeir_retriever.py`.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmsearch.errors import DatasetError
from mmsearch.evaluation.mbeir.tasks import INSTRUCTION, QUERY_PROMPTS, TARGET_PROMPTS, UNION, rows
from mmsearch.evaluation.mmeb.data import Collector, Side, TaskData, TaskQuery
from mmsearch.evaluation.mmeb.hub import download_command, read_rows
from mmsearch.evaluation.mmeb.prompts import filled, words_of
from mmsearch.evaluation.mmeb.tasks import Task
from mmsearch.media.pictures import FilePicture

UNPACK = "`cat mbeir_images.tar.gz.part-* | tar -xz` in its folder"


def pool_search(task: Task, data: Path) -> TaskData:
    """A task's queries over its own pool or over the union."""
    folder = Files(task, data)
    name = task.name.removesuffix("_union")
    row = rows()[name]
    right = _right_candidates(folder.file(f"qrels/test/mbeir_{name}_test_qrels.txt"))
    instruction = _instruction(
        folder.file("instructions/query_instructions.tsv"), str(row["data_set"]), row["query"], row["target"]
    )
    queries = folder.file(f"query/test/mbeir_{name}_test.jsonl")
    place = "global" if task.group == UNION else "local"
    collector = Collector(task)
    pool = folder.file(f"cand_pool/{place}/mbeir_{task.config}_cand_pool.jsonl")
    for _, entry in read_rows([pool], columns=("did", "txt", "img_path", "modality")):
        collector.candidate(str(entry["did"]), _candidate, entry, folder)

    def row_query(key: str, entry: Mapping[str, Any]) -> TaskQuery:
        query = str(entry["qid"])
        labels = tuple(name for name in right.get(query, ()) if name in collector.candidates)
        if not labels:
            raise DatasetError(f"no candidate of the pool answers query {query}")
        modality = _modality(entry["query_modality"])
        said = sentence(f"{instruction} {entry.get('query_txt') or ''}")
        text = said.removeprefix(instruction).strip()
        prompt = filled(QUERY_PROMPTS[modality].replace(INSTRUCTION, instruction), text)
        pictures = (folder.picture(entry["query_img_path"]),) if "image" in modality else ()
        return TaskQuery(query, Side(prompt, instruction, text, pictures), labels)

    collector.read(read_rows([queries]), row_query)
    return collector.data()


class Files:
    """M-BEIR's folder."""

    def __init__(self, task: Task, data: Path) -> None:
        self.task = task
        self.folder = data / task.hub
        self.get = download_command(task.hub, data)

    def file(self, path: str) -> Path:
        """Raises: DatasetError: not there."""
        found = self.folder / path
        if not found.is_file():
            raise DatasetError(f"{self.task.name}: no file {found}; get it with `{self.get}`")
        return found

    def picture(self, path: str) -> FilePicture:
        """Raises: DatasetError: not there."""
        found = self.folder / path
        if not found.is_file():
            raise DatasetError(f"no picture at {found}; get it with `{self.get}`, then unpack: {UNPACK}")
        return FilePicture(found, self.task.decoding)


def _candidate(entry: Mapping[str, Any], folder: Files) -> Side:
    modality = _modality(entry["modality"])
    text = sentence(entry.get("txt") or "") if "text" in modality else ""
    prompt = TARGET_PROMPTS[modality]
    pictures = (folder.picture(entry["img_path"]),) if "image" in modality else ()
    return Side(filled(prompt, text), words_of(prompt), text, pictures)


def _right_candidates(file: Path) -> dict[str, list[str]]:
    """Candidates by query, in the file's order, of relevance above 0."""
    right: dict[str, list[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if len(parts := line.split()) >= 4 and int(parts[3]) > 0 and parts[2] not in right.get(parts[0], ()):
            right.setdefault(parts[0], []).append(parts[2])
    return right


def _instruction(file: Path, data_set: str, query: str, target: str) -> str:
    """The first instruction of a data set and its modalities. Raises: DatasetError: there is none."""
    with file.open(encoding="utf-8", newline="") as stream:
        for row in csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE):
            if len(row) > 4 and row[3] == data_set and (_modality(row[0]), _modality(row[1])) == (query, target):
                for words in row[4:]:
                    if words.strip():
                        return sentence(words)
    raise DatasetError(f"{file} has no instruction from {query} to {target} for data set {data_set}")


def _modality(value: str) -> str:
    """ "text", "image" or "image,text", in whatever order they are given."""
    return ",".join(sorted(value.replace(" ", "").split(",")))


def sentence(text: str) -> str:
    """As M-BEIR's texts are read: stripped, without quotes around them, with a capital and a full stop."""
    text = text.replace("\r", "").strip().strip('"')
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".?!" else ".")
