"""What an ingest run is going to do, in numbers for people: how many photos, pages and minutes of video, and how long it takes."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.decode import Decoder, Task
from ingest.readers import known_type
from mmsearch import prompts
from mmsearch.catalog.left_out import LeftOuts
from mmsearch.errors import MMSearchError
from mmsearch.items import EmbedInput, Kind, Source

if TYPE_CHECKING:
    from mmsearch.embedders import Embedder

log = logging.getLogger(__name__)

COUNT_BUDGET_S = 3.0
"""Counting pages and clips stops here; what is left is extrapolated."""
PAGES_PER_DOCUMENT = 10
CLIPS_PER_VIDEO = 5
PROBE_BUDGET_S = 1.5
"""The model is timed for about so long."""
SAMPLE_FILES, SAMPLE_ITEMS, SAMPLE_BUDGET_S = 3, 8, 5.0
"""For a plan alone so many files of each kind are decoded, up to so many items, within that time."""
PRESUMED_S: Mapping[Kind, float] = {"image": 0.1, "page": 0.2, "clip": 0.6}
"""What an item costs before any was embedded; only the ratios count until then, see `Run.learn_costs`."""
SLOW_PROBE_S = 30.0
"""A model that takes longer for its first item is not timed a second time; a fresh installation compiles its modules in that time."""
DECODE_S: Mapping[Kind, float] = {"image": 0.03, "page": 0.015, "clip": 0.05}
"""What a worker needs for an item, roughly; it counts only where the model is faster."""
SAVE_S = 0.004
"""What an item costs beside the model: its preview, its rows."""

FILE_WORDS: Mapping[Kind, tuple[str, str]] = {
    "image": ("photo", "photos"),
    "page": ("PDF", "PDFs"),
    "clip": ("video", "videos"),
}
DOCUMENT_WORDS = ("document", "documents")
ITEM_WORDS: Mapping[Kind, tuple[str, str]] = {
    "image": ("photo", "photos"),
    "page": ("page", "pages"),
    "clip": ("clip", "clips"),
}


@dataclass(slots=True)
class IngestPlan:
    """What a run will do.

    Attributes:
        files: to be read, by the kind of items in them. items: expected of them; `is_estimate` if not all were counted.
        other_documents: how many of the files of pages are no PDFs.
        video_s: seconds of video to read.
        expected: items expected of each source, by its path.
        new, changed, reembed, moved, copied, unchanged, failed_before, returned, missing, offline: files, see `mmsearch.catalog.compare.Plan`.
        older: unchanged files that an older mmsearch read: what it did not read of them is looked at, and those of which the model is given
            more or another picture then are embedded again.
        left_out: what was passed over, and why. unreadable: files and folders. changing: files in motion.
        seconds: how long it will take, None if unknown. device: where the model runs.
    """

    files: Counter[Kind] = field(default_factory=Counter)
    items: Counter[Kind] = field(default_factory=Counter)
    is_estimate: bool = False
    other_documents: int = 0
    video_s: float = 0.0
    expected: dict[str, tuple[Kind, int]] = field(default_factory=dict)
    new: int = 0
    changed: int = 0
    reembed: int = 0
    moved: int = 0
    copied: int = 0
    unchanged: int = 0
    failed_before: int = 0
    returned: int = 0
    missing: int = 0
    offline: int = 0
    older: int = 0
    left_out: LeftOuts = field(default_factory=LeftOuts)
    unreadable: int = 0
    changing: int = 0
    seconds: float | None = None
    device: str = ""

    def is_empty(self) -> bool:
        """Whether there is nothing to do at all."""
        return not (
            self.files or self.moved or self.copied or self.returned or self.missing or self.offline or self.older
        )

    def sentence(self) -> str:
        """`3,120 photos, 41 PDFs (1,902 pages), 12 videos (1 h 20 min) · about 38 min on cpu`."""
        parts = []
        about = "about " if self.is_estimate else ""
        if self.files["image"]:
            parts.append(counted(self.files["image"], FILE_WORDS["image"]))
        if self.files["page"]:
            pages = counted(self.items["page"], ITEM_WORDS["page"])
            words = DOCUMENT_WORDS if self.other_documents else FILE_WORDS["page"]
            parts.append(f"{counted(self.files['page'], words)} ({about}{pages})")
        if self.files["clip"]:
            parts.append(f"{counted(self.files['clip'], FILE_WORDS['clip'])} ({duration(self.video_s)})")
        for number, word in (
            (self.moved, "moved"),
            (self.copied, "copied"),
            (self.returned, "back again"),
            (self.missing, "deleted"),
            (self.offline, "out of reach"),
        ):
            if number:
                parts.append(f"{number:,} {word}")
        if self.older:
            parts.append(f"{counted(self.older, ('file', 'files'))} of an older mmsearch to look at again")
        if not parts:
            return nothing_to_do(self)
        line = ", ".join(parts)
        if self.seconds is not None and self.files:
            line += f" · about {duration(self.seconds)} on {self.device}"
        return line

    def record(self) -> dict[str, Any]:
        """JSON values, for machines."""
        return {
            "files": dict(self.files),
            "items": dict(self.items),
            "is_estimate": self.is_estimate,
            "video_s": round(self.video_s, 1),
            **{
                name: getattr(self, name)
                for name in (
                    "new", "changed", "reembed", "moved", "copied", "unchanged", "failed_before", "returned", "missing",
                    "offline", "older", "unreadable", "changing", "device",
                )
            },
            "left_out": self.left_out.record(),
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "sentence": self.sentence(),
        }  # fmt: skip


def nothing_to_do(plan: IngestPlan) -> str:
    """Why a run has nothing to do: `nothing to do: 5 files unchanged`, or there are no files, or none that can be read."""
    told = []
    if plan.unchanged:
        told.append(f"{counted(plan.unchanged, ('file', 'files'))} unchanged")
    if plan.failed_before:
        failed = counted(plan.failed_before, ("file that failed before is", "files that failed before are"))
        told.append(f"{failed} unchanged too" if told else f"{failed} unchanged")
    if not told:
        told.append(
            "no file there can be indexed" if plan.left_out.reasons or plan.unreadable else "there are no files"
        )
    return f"nothing to do: {', '.join(told)}"


def counted(number: int, words: tuple[str, str]) -> str:
    """`1 photo`, `3,120 photos`."""
    return f"{number:,} {words[0] if number == 1 else words[1]}"


def duration(seconds: float) -> str:
    """`8 s`, `12 min`, `1 h 20 min`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def count_items(plan: IngestPlan, sources: Sequence[Source], decoder: Decoder) -> None:
    """Add to `files`, `items`, `video_s` and `expected`: photos by type, documents and videos by asking workers, within
    `COUNT_BUDGET_S`."""
    tasks = []
    for number, source in enumerate(sources):
        file_type = known_type(source.path)
        if file_type is None:
            continue  # it was something else when it was scanned: reading it will say what is wrong
        kind = file_type.kind
        plan.files[kind] += 1
        plan.other_documents += kind == "page" and file_type.name != "pdf"
        plan.expected[str(source.path)] = (kind, 1)
        if kind == "image":
            plan.items[kind] += 1
        else:
            tasks.append(Task(number, source, is_count=True))
    if not tasks:
        return
    # Every n-th first, so that what is left out resembles what was counted.
    tasks.sort(key=lambda task: (task.key * 2654435761) % (1 << 32))
    counts: dict[Kind, list[int]] = {"page": [], "clip": []}
    video_s: list[float] = []
    open_tasks = {task.key: plan.expected[str(task.source.path)][0] for task in tasks}
    give_up = time.monotonic() + COUNT_BUDGET_S
    for event in decoder.read(tasks, tick_s=0.2):
        if event is not None and event.type != "draft":
            kind = open_tasks.pop(event.task.key)
            number, seconds = (event.expected[1], event.expected[2]) if event.expected else (0, 0.0)
            counts[kind].append(number)
            if kind == "clip" and event.expected:
                video_s.append(seconds)
            plan.expected[str(event.task.source.path)] = (kind, number)
            plan.items[kind] += number
        if time.monotonic() > give_up:
            break
    plan.video_s += sum(video_s)
    plan.is_estimate |= bool(open_tasks)
    usual: dict[Kind, int] = {
        "page": round(float(np.mean(counts["page"]))) if counts["page"] else PAGES_PER_DOCUMENT,
        "clip": round(float(np.mean(counts["clip"]))) if counts["clip"] else CLIPS_PER_VIDEO,
    }
    for key, kind in open_tasks.items():
        plan.expected[str(sources[key].path)] = (kind, usual[kind])
        plan.items[kind] += usual[kind]
        if kind == "clip":
            plan.video_s += float(np.mean(video_s)) if video_s else usual[kind] * 7.0


def kind_of(source: Source) -> Kind | None:
    """What a file's items will be, judged by its first bytes, else by its name; None where neither tells."""
    file_type = known_type(source.path)
    return None if file_type is None else file_type.kind


def sample_inputs(
    plan: IngestPlan, sources: Sequence[Source], decoder: Decoder, *, page_text: bool
) -> dict[Kind, list[EmbedInput]]:
    """What the model would be given of some of the files to read, by kind: few, and within `SAMPLE_BUDGET_S`."""
    by_kind: dict[Kind, list[Source]] = {}
    for source in sources:
        if (expected := plan.expected.get(str(source.path))) is not None:
            by_kind.setdefault(expected[0], []).append(source)
    chosen = [
        some[n * len(some) // SAMPLE_FILES] for some in by_kind.values() for n in range(min(SAMPLE_FILES, len(some)))
    ]
    found: dict[Kind, list[EmbedInput]] = {}
    if not chosen:
        return found
    give_up = time.monotonic() + SAMPLE_BUDGET_S
    for event in decoder.read([Task(number, source) for number, source in enumerate(chosen)], tick_s=0.2):
        if event is not None and event.draft is not None:
            items = found.setdefault(event.draft.kind, [])
            if len(items) < SAMPLE_ITEMS:
                items.append(prompts.document_input(event.draft, with_text=page_text))
        if time.monotonic() > give_up or all(len(found.get(kind, ())) >= SAMPLE_ITEMS for kind in by_kind):
            break
    return found


def _seconds(embedder: Embedder, items: Sequence[EmbedInput]) -> float:
    began = time.monotonic()
    embedder.encode_documents(items)
    return time.monotonic() - began


def measure_costs(
    embedder: Embedder, kinds: Sequence[Kind], samples: Mapping[Kind, Sequence[EmbedInput]] | None = None
) -> dict[Kind, float]:
    """Seconds per item of each kind, by timing the model for a moment on `samples`, of kinds without any on made-up items.

    Made-up ones are as large as the model takes them, so that small photos and pages of few words are quicker.

    Raises nothing: a model that cannot embed them gives no costs, and the run itself will say why.
    """
    from PIL import Image

    rng = np.random.default_rng(0)
    costs: dict[Kind, float] = {}

    def made_up(kind: Kind) -> EmbedInput:
        side = max(28, int(embedder.max_pixels[kind] ** 0.5) // 28 * 28)
        noise = rng.integers(0, 255, (side, side, 3), np.uint8)
        images = (Image.fromarray(noise),) * (8 if kind == "clip" else 1)
        words = "the quick brown fox jumps over the lazy dog " * 30 if kind == "page" and embedder.page_text else ""
        return EmbedInput(prompts.DOCUMENT_INSTRUCTIONS[kind], words, images, kind == "clip", kind)

    for kind in kinds:
        items = list((samples or {}).get(kind) or [made_up(kind)] * 8)
        try:
            first_s = _seconds(embedder, items[:1])  # may hold the time to load the model and to warm up
            count = max(1, int(min(len(items), PROBE_BUDGET_S / len(kinds) / max(first_s, 1e-3))))
            is_slow = first_s > SLOW_PROBE_S
            costs[kind] = (first_s if is_slow else _seconds(embedder, items[:count]) / count) + SAVE_S
        except (MMSearchError, RuntimeError, ValueError) as error:
            log.debug("timing of %s items failed: %s", kind, error)
    return costs
