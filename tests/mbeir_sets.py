"""A miniature M-BEIR, made by code in its published layout: all 16 tasks, two queries each, their pools and the union."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmsearch.evaluation.mbeir.tasks import HUB, rows
from tests.mmeb_sets import write_picture

QUERIES = 2
CANDIDATES = 3
"""In each pool: one right for each query, and one that is wrong."""


def build(data: Path) -> Path:
    """Query i of every task is answered by the pool's candidate i; pictures carry numbers, see `training_sets.number_of`."""
    folder = data / HUB
    union: dict[str, dict[str, Any]] = {}
    header = "query_modality cand_modality dataset_name dataset_id prompt_1 prompt_2 prompt_3 prompt_4"
    instructions = ["\t".join(header.split())]
    for number, (name, row) in enumerate(rows().items()):
        data_set, title = row["data_set"], name.partition("_")[0]
        words = [f"find the {row['target']} in {title}", f"Show me {title}.", "", ""]
        instructions.append("\t".join([row["query"], row["target"], title, str(data_set), *words]))
        pool = [candidate(number, k, name, row) for k in range(CANDIDATES)]
        queries = [query(number, i, name, row, pool) for i in range(QUERIES)]
        lines(folder / f"cand_pool/local/mbeir_{row.get('pool', name)}_cand_pool.jsonl", pool)
        lines(folder / f"query/test/mbeir_{name}_test.jsonl", queries)
        union.update((entry["did"], entry) for entry in pool)
        judged = [f"{asked['qid']} 0 {asked['pos_cand_list'][0]} 1 {name[-1]}" for asked in queries]
        judged.append(f"{queries[0]['qid']} 0 {pool[-1]['did']} 0 {name[-1]}")
        (folder / "qrels/test").mkdir(parents=True, exist_ok=True)
        (folder / f"qrels/test/mbeir_{name}_test_qrels.txt").write_text("\n".join(judged) + "\n")
        for k in range(CANDIDATES + QUERIES):
            write_picture(folder / f"mbeir_images/{name}/{k}.jpg", 8 * number + k)
    lines(folder / "cand_pool/global/mbeir_union_test_cand_pool.jsonl", list(union.values()))
    (folder / "instructions").mkdir()
    (folder / "instructions/query_instructions.tsv").write_text("\n".join(instructions) + "\n")
    return data


def candidate(number: int, k: int, name: str, row: dict[str, Any]) -> dict[str, Any]:
    shows, says = "image" in row["target"], "text" in row["target"]
    return {
        "did": f"{row['data_set']}:{100 * number + k}",
        "txt": f'"candidate {k} of {name}"' if says else None,
        "img_path": f"mbeir_images/{name}/{k}.jpg" if shows else None,
        "modality": row["target"],
        "src_content": None,
    }


def query(number: int, i: int, name: str, row: dict[str, Any], pool: list[dict[str, Any]]) -> dict[str, Any]:
    shows, says = "image" in row["query"], "text" in row["query"]
    return {
        "qid": f"{row['data_set']}:{100 * number + i}",
        "query_txt": f"who made {i}" if says else None,
        "query_img_path": f"mbeir_images/{name}/{CANDIDATES + i}.jpg" if shows else None,
        "query_modality": row["query"],
        "query_src_content": None,
        "pos_cand_list": [pool[i]["did"]],
        "neg_cand_list": [],
        "task_id": int(name[-1]),
    }


def lines(file: Path, entries: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
