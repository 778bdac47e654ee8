"""What a run tells while it is at work, and when it is done."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ingest.estimate import (
    ITEM_WORDS,
    IngestPlan,
    counted,
    duration,
    nothing_to_do,
)
from mmsearch.items import Kind

if TYPE_CHECKING:
    pass


CUT_NAMED = 3
"""So many of the files whose text was cut are named in the sentence; JSON has them all."""

Stage = Literal["scan", "plan", "read", "print", "sync"]


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that was not (wholly) indexed, and why."""

    path: Path
    type: str
    reason: str


@dataclass(slots=True)
class Progress:
    """Where a run stands; given to the `progress` callback a few times a second.

    `items` are saved so far, `expected` is what they will be at the end as far as is known now, both by kind; `fraction`
    (0…1) and `eta_s` weigh kinds by what they cost here. `rate` is items per second. `path` was worked on last.
    `print_done` of `print_total` pages and pictures were read, or looked at, in stage "print".
    """

    stage: Stage
    plan: IngestPlan | None = None
    items: dict[Kind, int] = field(default_factory=dict)
    expected: dict[Kind, int] = field(default_factory=dict)
    files: int = 0
    files_total: int = 0
    failures: int = 0
    elapsed_s: float = 0.0
    rate: float = 0.0
    eta_s: float | None = None
    fraction: float = 0.0
    path: Path | None = None
    print_done: int = 0
    print_total: int = 0

    def sentence(self) -> str:
        """`412 of 1,902 pages, 88 of 3,120 photos · 9.8 items/s · 4 min left`."""
        if self.stage == "scan":
            return f"looking for files: {self.files:,} found" if self.files else "looking for files"
        if self.stage == "plan":
            return "counting"
        if self.stage == "sync":
            return "writing the index"
        if self.stage == "print":
            line = f"reading print: {self.print_done:,} of {counted(self.print_total, ('page or picture', 'pages and pictures'))}"
            return line if self.eta_s is None else f"{line} · {duration(self.eta_s)} left"
        parts = [
            f"{self.items.get(kind, 0):,} of {counted(expected, ITEM_WORDS[kind])}"
            for kind, expected in self.expected.items()
            if expected
        ]
        line = ", ".join(parts) or "starting"
        if self.rate:
            line += f" · {self.rate:.1f} items/s"
        if self.eta_s is not None:
            line += f" · {duration(self.eta_s)} left"
        if self.failures:
            line += f" · {self.failures:,} failed"
        return line

    def record(self) -> dict[str, Any]:
        """JSON values, for machines."""
        return {
            "stage": self.stage,
            "items": dict(self.items),
            "expected": dict(self.expected),
            "files": self.files,
            "files_total": self.files_total,
            "failures": self.failures,
            "elapsed_s": round(self.elapsed_s, 2),
            "rate": round(self.rate, 3),
            "eta_s": None if self.eta_s is None else round(self.eta_s, 1),
            "fraction": round(self.fraction, 4),
            "path": None if self.path is None else os.fspath(self.path),
            "print_done": self.print_done,
            "print_total": self.print_total,
            "sentence": self.sentence(),
        }


@dataclass(slots=True)
class IngestReport:
    """What a run did.

    Attributes:
        plan: what it set out to do.
        items: saved, by kind. files: sources completed. copied: sources indexed from another with the same content.
        reworded: unchanged videos whose words (subtitles, sidecars) were read again; clips that say something else were embedded again.
        refreshed: unchanged files whose facts (dates, sizes) were read again, since an older reader had read them.
        moved, returned, retired, offline, away, unchanged: sources, see `mmsearch.catalog.compare.Plan`; removed ones that came back count as
            returned, too.
        failures: of this run, files and folders that cannot be read included. failed_before: known failures left alone.
        changing: files that changed while they were read; the next run takes them.
        blank_pages, damaged_pages, merged_clips: what was not made an item. damaged_photos: files that are cut short; what is there
            of them is an item. cut_texts: files with more text than is kept of an item or a file, and of how many items it was cut.
        seconds: of the whole run; seconds_by_stage: scan, plan, embed, save, sync; `wait` for decoders; `decode`: in the workers,
            beside the rest.
        print_read: pages and pictures whose print was read in this run, by kind. without_print: looked at, and no text was found.
        print_left: not reached. print_failures: could not be read; they stay searchable by sight, and `retry_failed` tries them again.
        interrupted: stopped by KeyboardInterrupt; what was saved stays.
        stopped: why the run could not go on, "" if it did: no decoding process could be started. What was saved stays here, too.
    """

    plan: IngestPlan = field(default_factory=IngestPlan)
    items: Counter[Kind] = field(default_factory=Counter)
    files: int = 0
    copied: int = 0
    reworded: int = 0
    refreshed: int = 0
    moved: int = 0
    returned: int = 0
    retired: int = 0
    offline: int = 0
    away: int = 0
    unchanged: int = 0
    failed_before: int = 0
    failures: list[Failure] = field(default_factory=list)
    changing: list[Path] = field(default_factory=list)
    blank_pages: int = 0
    damaged_pages: int = 0
    damaged_photos: int = 0
    cut_texts: dict[Path, int] = field(default_factory=dict)
    merged_clips: int = 0
    print_read: Counter[Kind] = field(default_factory=Counter)
    without_print: int = 0
    print_left: int = 0
    print_failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0
    seconds_by_stage: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    interrupted: bool = False
    stopped: str = ""
    dry_run: bool = False

    def sentence(self) -> str:
        """`3,120 photos, 1,902 pages and 96 clips added in 37 min · 3 files failed`."""
        if self.dry_run:
            return self.plan.sentence()
        if self.stopped:
            saved, expected = sum(self.items.values()), max(sum(self.plan.items.values()), sum(self.items.values()))
            return f"stopped with {saved:,} of {expected:,} items: {self.stopped}"
        if self.interrupted and self.print_left:
            return (
                f"interrupted while reading print: everything can be found by sight, "
                f"{counted(self.print_left, ('page or picture is', 'pages and pictures are'))} still to be read; "
                "the same command goes on from there"
            )
        if self.interrupted:
            saved, expected = sum(self.items.values()), max(sum(self.plan.items.values()), sum(self.items.values()))
            return f"interrupted: kept {saved:,} of {expected:,} items; the same command goes on from there"
        parts = [counted(number, ITEM_WORDS[kind]) for kind, number in self.items.items() if number]
        did = []
        if parts:
            did.append(f"{', '.join(parts)} added in {duration(self.seconds)}")
        for number, word in (
            (self.copied, "copied"),
            (self.moved, "moved"),
            (self.returned, "back again"),
            (self.retired, "removed"),
        ):
            if number:
                did.append(f"{counted(number, ('file', 'files'))} {word}")
        if self.reworded:
            did.append(f"subtitles and words of {counted(self.reworded, ('video', 'videos'))} read again")
        if self.refreshed:
            did.append(
                f"dates and facts of {counted(self.refreshed, ('file', 'files'))} read again by the newer reader"
            )
        if told := self.print_sentence():
            did.append(told)
        if not did and not self.offline and not (self.failures or self.changing or self.damaged_pages):
            did.append(nothing_to_do(self.plan))
        if out_of_reach := self.offline + self.away:
            did.append(
                f"{counted(out_of_reach, ('file', 'files'))} offline: kept out of sight until their disk is back "
                "(`mmsearch ingest FOLDER --prune` forgets them)"
            )
        if self.damaged_photos:
            one, many = (
                "photo is cut short and shown as far as it goes",
                "photos are cut short and shown as far as they go",
            )
            did.append(counted(self.damaged_photos, (one, many)))
        if self.damaged_pages:
            did.append(f"{counted(self.damaged_pages, ('damaged page', 'damaged pages'))} left out")
        if self.cut_texts:
            named = ", ".join(
                f"{path.name} ({counted(n, ('item', 'items'))})" for path, n in [*self.cut_texts.items()][:CUT_NAMED]
            )
            more = f" and {len(self.cut_texts) - CUT_NAMED:,} more" if len(self.cut_texts) > CUT_NAMED else ""
            did.append(f"too much text: cut in {named}{more}")
        if self.failures:
            did.append(f"{counted(len(self.failures), ('file', 'files'))} failed")
        if self.changing:
            did.append(f"{counted(len(self.changing), ('file', 'files'))} changed while being read: run again")
        return " · ".join(did)

    def print_sentence(self) -> str:
        """`print of 12 pages and 3 photos read, 2 more hold none`, "" where nothing was looked at."""
        parts = [counted(number, ITEM_WORDS[kind]) for kind, number in self.print_read.items() if number]
        did = []
        if parts:
            did.append(f"print of {' and '.join(parts)} read")
        if self.without_print:
            more = (
                f"{self.without_print:,} more"
                if parts
                else counted(self.without_print, ("page or photo", "pages and photos"))
            )
            did.append(f"{more} {'holds' if self.without_print == 1 else 'hold'} no print")
        if self.print_failures:
            did.append(f"print of {counted(len(self.print_failures), ('item', 'items'))} could not be read")
        return ", ".join(did)

    def record(self) -> dict[str, Any]:
        """JSON values, for machines."""
        return {
            "items": dict(self.items),
            **{
                name: getattr(self, name)
                for name in (
                    "files", "copied", "reworded", "refreshed", "moved", "returned", "retired", "offline", "away", "unchanged", "failed_before",
                    "blank_pages", "damaged_pages", "damaged_photos", "merged_clips", "without_print", "print_left", "interrupted", "stopped",
                    "dry_run",
                )
            },
            "cut_texts": [{"path": os.fspath(path), "items": number} for path, number in self.cut_texts.items()],
            "print_read": dict(self.print_read),
            "print_failures": [{"path": os.fspath(f.path), "type": f.type, "reason": f.reason} for f in self.print_failures],
            "failures": [{"path": os.fspath(f.path), "type": f.type, "reason": f.reason} for f in self.failures],
            "changing": [os.fspath(path) for path in self.changing],
            "seconds": round(self.seconds, 3),
            "seconds_by_stage": {stage: round(s, 3) for stage, s in self.seconds_by_stage.items()},
            "plan": self.plan.record(),
            "sentence": self.sentence(),
        }  # fmt: skip
