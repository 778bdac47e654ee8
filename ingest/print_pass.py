"""The second pass of a run: the print of pages and pictures without text is read, once everything can be found by sight.

What needs it is asked of the catalog, so that a library of an older mmsearch, an interrupted pass and a new file are one case.
Each batch becomes text, vector and stored result in one transaction; whatever stops the pass, the next run goes on from there.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ingest.decode import Event, Task
from ingest.report import Failure, Progress
from ingest.storable import checked, place
from ingest.text_layer import has_enough_text
from mmsearch import prompts
from mmsearch.catalog.recognised import Place, Reading, Waiting
from mmsearch.errors import SourceError
from mmsearch.items import ItemDraft, Source
from mmsearch.media.ocr import Terms

if TYPE_CHECKING:
    from ingest.pipeline import Run

log = logging.getLogger(__name__)

BATCH_ITEMS = 8
BATCH_WAIT_S = 5.0
"""What was read waits no longer than this for its vector, so that an interruption costs little."""
ITEMS_PER_JOB = 4
"""For fewer no further process is started: loading its engine takes as long as reading them."""
UNKNOWN_S = 0.1
"""What an item is taken to cost before one of its sort was done."""


class PrintPass:
    """One pass over the scanned files of a run."""

    def __init__(self, run: Run, terms: Terms) -> None:
        self.run = run
        self.terms = terms
        self.catalog = run.catalog
        self.report = run.report
        self.items: list[Waiting] = []
        self.sources: Mapping[Path, Source] = {}
        self.drafts: dict[int, ItemDraft] = {}
        """Read, and not saved yet, by the number of the item."""
        self.with_draft: set[int] = set()
        """Numbers of the items that are being read now and gave a draft."""
        self.readings: list[Reading] = []
        """To be saved as they are: nothing there to read, or it failed."""
        self.waiting_since = 0.0
        self.done = 0
        self.next_told = 0.0
        self.took_s: dict[bool, list[float]] = {True: [], False: []}
        """What items took that show print, and such as had to be looked at."""
        self.totals: Counter[bool] = Counter()
        # The model rests most of the time, so that more cores may decode.
        self.jobs = run.jobs if run.settings.jobs else min(2 * run.jobs, os.cpu_count() or 1)

    def read(self, scanned: Sequence[Source], *, retry_failed: bool) -> None:
        """Read what waits in the scanned files.

        Raises:
            KeyboardInterrupt: after what was read is saved.
        """
        self.judge_pages()
        self.sources = {source.path: source for source in scanned}
        self.items = self.to_read(retry_failed=retry_failed)
        if not self.items:
            return
        self.totals.update(bool(item.has_print) for item in self.items)
        self.report.print_left = len(self.items)
        self.jobs = min(self.jobs, -(-len(self.items) // ITEMS_PER_JOB))
        self.run.sync()
        self.run.close()
        tasks = [
            Task(number, self.sources[item.path], item.ordinal, is_print=True, has_print=bool(item.has_print))
            for number, item in enumerate(self.items)
        ]
        limits = replace(self.run.limits, ocr=self.terms)
        self.tell(always=True)
        with (
            self.run.timed("print"),
            self.run.open_decoder(self.run.library.embedder.max_pixels, jobs=self.jobs, limits=limits) as decoder,
        ):
            try:
                for event in decoder.read(tasks):
                    if event is not None:
                        self.take(event)
                    pending = len(self.drafts) + len(self.readings)
                    if pending >= BATCH_ITEMS or (pending and time.monotonic() - self.waiting_since > BATCH_WAIT_S):
                        self.flush()
                    self.tell()
            finally:
                self.flush()
        self.tell(always=True)

    def judge_pages(self) -> None:
        """Pages of an older library with enough text need no look; the others stay unjudged until a worker has looked."""
        after_id = 0
        while pages := self.catalog.print.unjudged_pages([], after_id=after_id):
            after_id = pages[-1][0]
            enough = [item_id for item_id, text in pages if has_enough_text(text)]
            self.catalog.print.mark(enough, has_print=False)

    def to_read(self, *, retry_failed: bool) -> list[Waiting]:
        """What waits in the scanned files, each content once."""
        waiting = self.catalog.print.waiting(
            [], languages=self.terms.languages, engines=self.terms.engines, retry_failed=retry_failed
        )
        chosen: dict[Place, Waiting] = {}
        for item in waiting:
            source = self.sources.get(item.path)
            if source is not None and source.sha256 == item.sha256:
                chosen.setdefault(item.place, item)
        return list(chosen.values())

    def take(self, event: Event) -> None:
        """A draft with what was read, then the end of its task. No draft: nothing there to read."""
        number = event.task.key
        item = self.items[number]
        self.run.last_path = item.path
        if not self.drafts and not self.readings:
            self.waiting_since = time.monotonic()
        if event.type == "draft":
            if event.draft is not None and event.draft.recognised is not None:
                self.drafts[number] = event.draft
                self.with_draft.add(number)
            return
        self.done += 1
        self.took_s[bool(item.has_print)].append(event.seconds)
        gave_draft = number in self.with_draft
        self.with_draft.discard(number)
        if gave_draft:
            return
        if event.error is not None:
            if self.run.is_as_scanned(event.task.source, read=True):
                self.fail(item, event.error)
        elif self.run.is_as_scanned(event.task.source):
            self.readings.append(Reading(item.place))
            self.report.without_print += 1
            self.report.print_left -= 1

    def fail(self, item: Waiting, error: SourceError) -> None:
        """The item stays searchable by sight; why it could not be read is remembered."""
        self.readings.append(Reading(item.place, error=(type(error).__name__, error.reason)))
        where = f"page {item.ordinal + 1}: " if item.kind == "page" else ""
        self.report.print_failures.append(
            Failure(item.path, type(error).__name__, f"{where}its print was not read: {error.reason}")
        )
        self.report.print_left -= 1
        log.info("%s", error)

    def flush(self) -> None:
        """Embed what was read, and save it."""
        drafts, self.drafts = self.drafts, {}
        readings, self.readings = self.readings, []
        kept = {
            number: draft for number, draft in drafts.items() if self.run.is_as_scanned(self.sources[draft.source.path])
        }
        vectors = self.embed(
            {number: replace(draft, description=self.items[number].description) for number, draft in kept.items()}
        )
        for number, draft in kept.items():
            item, read = self.items[number], draft.recognised
            assert read is not None
            text = draft.text if read.lines else None
            readings.append(Reading(item.place, read, text, vectors.get(number)))
            if read.lines:
                self.report.print_read[item.kind] += 1
            else:
                self.report.without_print += 1
            self.report.print_left -= 1
        with self.run.timed("save"):
            self.catalog.print.save(readings, self.terms.languages, self.run.library.embedder.model_key)

    def embed(self, drafts: Mapping[int, ItemDraft]) -> dict[int, np.ndarray]:
        """Vectors of the items whose text has changed, where the model reads text. What it refuses keeps its vector of the picture."""
        embedder = self.run.library.embedder
        inputs = {number: prompts.document_input(draft) for number, draft in drafts.items() if draft.images}
        if not inputs or not embedder.page_text:
            return {}
        with self.run.timed("embed"):
            try:
                found = checked(embedder.encode_documents(list(inputs.values())), len(inputs))
                return dict(zip(inputs, found, strict=True))
            except Exception as error:
                log.warning("a batch of %d read items failed (%s); trying them one by one", len(inputs), error)
            vectors: dict[int, np.ndarray] = {}
            for number, one in inputs.items():
                try:
                    vectors[number] = checked(embedder.encode_documents([one]), 1)[0]
                except Exception as error:
                    log.warning(
                        "%s, %s: kept without its text: %s", drafts[number].source.path, place(drafts[number]), error
                    )
            return vectors

    # ---- telling

    def tell(self, *, always: bool = False) -> None:
        now = time.monotonic()
        if now >= self.next_told or always:
            self.next_told = now + self.run.tell_progress(self.progress)

    def progress(self) -> Progress:
        return Progress(
            "print",
            self.report.plan,
            failures=len(self.report.failures) + len(self.report.print_failures),
            elapsed_s=time.monotonic() - self.run.began,
            eta_s=self.eta_s(),
            fraction=self.done / max(1, len(self.items)),
            path=self.run.last_path,
            print_done=self.done,
            print_total=len(self.items),
        )

    def eta_s(self) -> float | None:
        """By what both sorts of items took so far: reading takes seconds, looking a fraction of one."""
        if self.done < 3:
            return None
        left_s = 0.0
        for has_print, took in self.took_s.items():
            left = self.totals[has_print] - len(took)
            left_s += left * (sum(took) / len(took) if took else UNKNOWN_S)
        return left_s / self.jobs
