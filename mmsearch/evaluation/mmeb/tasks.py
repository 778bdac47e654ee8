"""The tasks of MMEB-V2, read from `tasks.yaml`: 78 that count, and variants that do not enter the averages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

from mmsearch.items import Kind
from mmsearch.media.pictures import Decoding

Modality = Literal["image", "video", "visdoc"]
Scope = Literal["local", "global"]

KIND_OF_MODALITY: Mapping[Modality, Kind] = {"image": "image", "video": "clip", "visdoc": "page"}

META_TASKS = {
    "I-CLS": "image classification", "I-QA": "image question answering", "I-RET": "image retrieval",
    "I-VG": "visual grounding", "V-CLS": "video classification", "V-QA": "video question answering",
    "V-RET": "video retrieval", "V-MRET": "moment retrieval", "D-V1": "ViDoRe 1", "D-V2": "ViDoRe 2",
    "D-VR": "VisRAG", "D-OOD": "documents out of distribution",
}  # fmt: skip
"""Groups in the order in which tables show them, in words."""


@dataclass(frozen=True, slots=True)
class Task:
    """One data set of the benchmark and how it is scored.

    Attributes:
        name: as in published score files.
        group: a key of `META_TASKS`, or a group of another benchmark.
        family: the loader, a key of `loaders.LOADERS`.
        scope: "local" ranks the candidates that a query lists, "global" all of the data set.
        metric: "hit@1" or "ndcg_linear@5".
        hub, config, split, revision: of the rows; the revision is None where none is known.
        query, target: prompts of both sides as VLM2Vec-V2 reads them, with `{text}` for the row's own words. Image tasks
            carry their prompts in the rows; theirs stand here to be compared.
        query_with_image, query_with_video: where queries differ by what they show (MomentSeeker).
        protocol: whose evaluation the words follow: "vlm2vec", or a key of `instructions.yaml`; see `in_protocol`.
        decoding: of its pictures, as that evaluation decodes them.
        instruction, instruction_with_image, instruction_with_video: what models with prompts of their own are told; "": the words of the
            prompt.
        media: folder of `MEDIA_HUB` that the rows' pictures and videos lie in; "" where rows hold their pictures.
        frames: of a video; None takes all that its folder holds.
        clip_frames: of a candidate that is a clip of the video that is asked about; None: as many as of a video.
        language: the only one of the queries that is asked; all if None.
        origin: whether the training sets of MMEB hold it ("IND") or not ("OOD"); None outside the image tasks.
        queries: how many there are; candidates: of each query (local) or of all (global). None: not known.
        variant_of: the task that counts instead of this one.
    """

    name: str
    group: str
    modality: Modality
    family: str
    scope: Scope
    metric: str
    hub: str
    split: str
    query: str
    target: str
    query_with_image: str = ""
    query_with_video: str = ""
    protocol: str = "vlm2vec"
    decoding: Decoding = "plain"
    instruction: str = ""
    instruction_with_image: str = ""
    instruction_with_video: str = ""
    config: str | None = None
    revision: str | None = None
    media: str = ""
    frames: int | None = None
    clip_frames: int | None = None
    language: str | None = None
    origin: Literal["IND", "OOD"] | None = None
    queries: int | None = None
    candidates: int | None = None
    variant_of: str | None = None

    @property
    def meta_task(self) -> str:
        return META_TASKS.get(self.group, self.group)

    @property
    def kind(self) -> Kind:
        """What is sought or shown: it selects the pixel budget of a product's embedder."""
        return KIND_OF_MODALITY[self.modality]

    @property
    def counts(self) -> bool:
        """Whether it is one of the 78."""
        return self.variant_of is None


def _read() -> dict[str, Task]:
    text = files(__package__).joinpath("tasks.yaml").read_text(encoding="utf-8")
    groups: dict[str, dict[str, Any]] = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    tasks = {}
    for group, shared in groups.items():
        rows = shared.pop("tasks")
        for name, own in rows.items():
            fields = {**shared, **own}
            if fields["modality"] == "image":
                fields.setdefault("config", name)
            tasks[name] = Task(name=name, group=group, **fields)
    return tasks


TASKS: Mapping[str, Task] = _read()
"""All tasks by name, variants too, in the order of the table."""


def in_protocol(task: Task, protocol: str) -> Task:
    """The task as an evaluation that `instructions.yaml` knows words it."""
    own = _instructions()[protocol]
    return replace(task, protocol=protocol, **own["every task"], **own.get(task.group, {}), **own.get(task.name, {}))


@cache
def _instructions() -> dict[str, dict[str, dict[str, Any]]]:
    return yaml.safe_load(files(__package__).joinpath("instructions.yaml").read_text(encoding="utf-8"))


COUNTED: tuple[Task, ...] = tuple(task for task in TASKS.values() if task.counts)
"""The 78 whose mean is the score."""

BEFORE_REPAIR = ("ViDoSeek-page", "MMLongBench-page")
"""Page sets whose ids collided until 2025-11; numbers published earlier rest on them."""


def counted_before_repair() -> tuple[Task, ...]:
    """The 78 of the paper: those that count, with the two page sets as they were before their repair."""
    former = {TASKS[name].variant_of: TASKS[name] for name in BEFORE_REPAIR}
    return tuple(former.get(task.name, task) for task in COUNTED)
