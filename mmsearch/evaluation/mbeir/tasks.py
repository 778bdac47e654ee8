"""The tasks of M-BEIR, read from `tasks.yaml`: each once over its own pool and once over the union of all pools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

import yaml

from mmsearch.evaluation.mmeb.prompts import PLACE
from mmsearch.evaluation.mmeb.tasks import Task
from mmsearch.prompts import IMAGE_TOKEN

HUB = "TIGER-Lab/M-BEIR"
LOCAL, UNION = "M-BEIR_local", "M-BEIR"
"""Groups: each task over its own pool, and all over one pool of 5.6 million candidates."""
UNION_POOL = "union_test"

INSTRUCTION = "{instruction}"
QUERY_PROMPTS = {
    "text": f"{INSTRUCTION} {PLACE}\n",
    "image": f"{IMAGE_TOKEN}\n{INSTRUCTION}\n",
    "image,text": f"{IMAGE_TOKEN}\n{INSTRUCTION} {PLACE}\n",
}
"""By modality, in the manner of MMEB's image tasks, which come from the same data sets; M-BEIR itself has none for VLM2Vec."""
TARGET_PROMPTS = {
    "text": PLACE,
    "image": f"{IMAGE_TOKEN}\nRepresent the given image.\n",
    "image,text": f"{IMAGE_TOKEN}\nRepresent the given image with related text information: {PLACE}\n",
}


def rows() -> Mapping[str, Mapping[str, Any]]:
    """The rows of the table by name."""
    return yaml.safe_load(files(__package__).joinpath("tasks.yaml").read_text(encoding="utf-8"))


def _tasks() -> Iterator[Task]:
    for group in (LOCAL, UNION):
        for name, row in rows().items():
            is_union = group == UNION
            yield Task(
                name=f"{name}_union" if is_union else name,
                group=group,
                modality="image",
                family="mbeir",
                scope="global",
                metric=row["metric"],
                hub=HUB,
                config=UNION_POOL if is_union else row.get("pool", name),
                split="test",
                query=QUERY_PROMPTS[row["query"]],
                target=TARGET_PROMPTS[row["target"]],
                candidates=None if is_union else row.get("candidates"),
            )


TASKS: Mapping[str, Task] = {task.name: task for task in _tasks()}
"""By name: 16 over their own pools, then the same with `_union` behind their names. `config` names the pool."""
