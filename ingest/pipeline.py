"""From disk to the catalog: scan, plan, read in worker processes, embed in batches across files, save, retire what is gone.

Decoding runs ahead in other processes while the model computes here. Each batch is one transaction; a source counts as
indexed when its last item is saved. Whatever stops a run, what is committed stays, and the same call goes on from there.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.decode import Decoder, Event, Limits, OpenDecoder, Task, default_jobs
from ingest.decode.pool import WorkerPool
from ingest.estimate import (
    DECODE_S,
    FILE_WORDS,
    ITEM_WORDS,
    PRESUMED_S,
    SAVE_S,
    IngestPlan,
    count_items,
    kind_of,
    measure_costs,
    sample_inputs,
)
from ingest.printed import with_print
from ingest.readers import READER_VERSION, Facts, KnownClip, Rewording, text_digest
from ingest.report import Failure, IngestReport, Progress, Stage
from ingest.scan import ScanResult, find_sources, former_roots, has_changed, resolve_roots
from ingest.sidecars import SidecarFolder, stamp
from ingest.storable import checked, place
from ingest.subtitles import SubtitleFolder, is_current
from mmsearch import prompts
from mmsearch.catalog.compare import HOLDERS, Plan, is_under
from mmsearch.catalog.recognised import Place
from mmsearch.disk.faults import disk_faults
from mmsearch.disk.presence import look_for
from mmsearch.disk.replace import replace_file
from mmsearch.errors import CorruptFile, SourceError, WorkerFailed
from mmsearch.items import ItemDraft, Kind, Source
from mmsearch.library import is_multi_vector
from mmsearch.media.ocr import Terms, find_terms

if TYPE_CHECKING:
    from mmsearch.embedders import Embedder
    from mmsearch.library import Library

log = logging.getLogger(__name__)

BATCH_ITEMS = 32
FACTS_AT_ONCE = 200
"""Files whose facts are read again are saved together: a commit waits for the disk."""
BATCH_WAIT_S = 5.0
"""An item waits no longer than this for its batch to fill, so that a slow video does not hold back what is found."""
SYNC_INTERVAL_S = 60.0
PROGRESS_INTERVAL_S = 0.2
PROGRESS_SHARE = 0.05
"""No more of the time goes into telling: with 100,000 files in the run a sentence takes a tenth of a second to make."""

PACE_WINDOW_S, PACE_WAIT_S, PACE_ITEMS = 30.0, 10.0, 8
"""The time that is left is told by the pace of the last seconds, once so many items are done, or any after some seconds."""


ProgressCallback = Callable[[Progress], None]


def ingest_paths(
    library: Library,
    paths: Sequence[str | os.PathLike[str]],
    *,
    jobs: int | None = None,
    dry_run: bool = False,
    retry_failed: bool = False,
    prune: bool = False,
    add_new: bool = True,
    change_over: bool = True,
    wait_s: float = 0.0,
    progress: ProgressCallback | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    ocr: bool | None = None,
    open_decoder: OpenDecoder | None = None,
) -> IngestReport:
    """Bring the library up to the files at and below `paths`. Running it again changes nothing.

    Args:
        jobs: worker processes; default: the setting, else half of the cores.
        dry_run: only plan. retry_failed: try files again that failed with their present content.
        prune: files that are gone are retired even where a whole disk seems to be away.
        add_new: take in files that the library does not hold yet; false when only its own are embedded again.
        change_over: let this model answer queries once it has embedded everything.
        wait_s: so long another process that writes is given to end.
        progress: called with the plan once it is made (stage "read", nothing done), then a few times a second.
        include, exclude: globs, see `ingest.scan.find_sources`.
        ocr: read the print of what has no text, once everything is searchable; default: the setting.
        open_decoder: what decodes the files; default: worker processes of this machine.

    Raises:
        LibraryLocked, CatalogError, EmbedderError: the library or the model cannot be used.
        ConfigError: print shall be read in a language whose data are not installed.
        WorkerFailed: with `dry_run`, no decoding process can be started.
        Files that cannot be read stand in the report; KeyboardInterrupt ends in a report with `interrupted`, and a machine on which
        no decoding process can be started in one with `stopped`.
    """
    options: dict[str, Any] = {
        "retry_failed": retry_failed,
        "prune": prune,
        "add_new": add_new,
        "include": include,
        "exclude": exclude,
    }
    if dry_run:
        return Run(library, jobs, progress, open_decoder=open_decoder).plan_only(paths, **options)
    with library.lock(wait_s=wait_s):
        run = Run(library, jobs, progress, open_decoder=open_decoder, change_over=change_over)
        if add_new and (library.settings.ocr if ocr is None else ocr):
            with tempfile.TemporaryDirectory(prefix="mmsearch-") as folder:
                run.terms = find_terms(library.settings.ocr_languages, folder=Path(folder))
                return run.run(paths, **options)
        return run.run(paths, **options)


def plan_paths(
    library: Library,
    paths: Sequence[str | os.PathLike[str]],
    *,
    jobs: int | None = None,
    retry_failed: bool = False,
    prune: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> IngestPlan:
    """What `ingest_paths` would do; changes nothing. Errors as there."""
    return ingest_paths(
        library,
        paths,
        jobs=jobs,
        dry_run=True,
        retry_failed=retry_failed,
        prune=prune,
        include=include,
        exclude=exclude,
    ).plan


@dataclass(slots=True)
class _Job:
    """A source on its way: what is known of it, and what is still missing before it counts as indexed."""

    source: Source
    kind: Kind | None
    expected: int
    replaces: int | None = None
    resumes_at: int = 0
    source_id: int | None = None
    saved: set[int] = field(default_factory=set)
    unsaved: int = 0
    items: int = 0
    is_read: bool = False
    is_closed: bool = False
    error: SourceError | None = None
    sidecars: str = ""
    rewording: Rewording | None = None


class Run:
    """One call of `ingest_paths`: its steps in order, and the state that they share."""

    def __init__(
        self,
        library: Library,
        jobs: int | None,
        progress: ProgressCallback | None,
        *,
        open_decoder: OpenDecoder | None = None,
        change_over: bool = True,
    ) -> None:
        self.library = library
        self.catalog = library.catalog
        self.settings = library.settings
        self.jobs = jobs or self.settings.jobs or default_jobs()
        self.report = IngestReport()
        self.began = time.monotonic()
        self.started_reading = self.began
        self.costs: dict[Kind, float] = dict(PRESUMED_S)
        self.measured = False
        self.paces: deque[tuple[float, Counter[Kind]]] = deque()
        self.waiting: list[tuple[_Job, ItemDraft]] = []
        self.waiting_since = 0.0
        self.closing: list[_Job] = []
        self.not_reworded: list[Source] = []
        """Videos whose words alone could not be read again: they are read as a whole."""
        self.jobs_by_key: dict[int, _Job] = {}
        self.last_sync = self.began
        self.next_progress = 0.0
        self.last_path: Path | None = None
        self.change_over = change_over
        self.model_key = ""
        self.elsewhere: list[Path] = []
        self.sidecars: dict[Path, SidecarFolder] = {}
        self.terms: Terms | None = None
        self._progress = progress
        self.open_decoder: OpenDecoder = open_decoder or WorkerPool
        self._decoder: Decoder | None = None
        self.limits = Limits.of_settings(self.settings)

    # ---- the steps

    def run(self, paths: Sequence[str | os.PathLike[str]], **options: Any) -> IngestReport:
        try:
            scan, plan = self.look(paths, **options)
            self.settle(scan, plan)
            left = self.copy(plan.copied)  # before hours of reading: a file that was renamed shall be found meanwhile
            others = [source for _, source in plan.moved] + [source for source in plan.copied if source not in left]
            plan.reread += self.with_others_beside(others)
            plan.reread += self.look_again(scan.sources, plan)
            if plan.new or plan.changed or plan.reembed or plan.reread or left:
                self.read(plan)
                copies = left
                if left := self.copy(left):  # what failed, or changed, where it would have been copied from
                    self.read_jobs([self.job(source) for source in left], self.library.embedder)
                self.read_again(self.with_others_beside([source for source in copies if source not in left]))
            if self.terms is not None:
                from ingest.print_pass import PrintPass

                PrintPass(self, self.terms).read(scan.sources, retry_failed=options["retry_failed"])
        except KeyboardInterrupt:
            self.report.interrupted = True
        except WorkerFailed as error:
            self.report.stopped = str(error)
        finally:
            self.close()
        try:
            self.sync()
        except KeyboardInterrupt:  # the stores catch up when they are next opened
            self.report.interrupted = True
        return self.finished()

    def plan_only(self, paths: Sequence[str | os.PathLike[str]], **options: Any) -> IngestReport:
        self.report.dry_run = True
        try:
            _, plan = self.look(paths, **options)
            if self.report.plan.files:
                self.estimate(self.library.embedder, plan)
        finally:
            self.close()
        return self.finished()

    def finished(self) -> IngestReport:
        self.report.seconds = time.monotonic() - self.began
        self.report.seconds_by_stage = dict(self.report.seconds_by_stage)
        return self.report

    def look(
        self,
        paths: Sequence[str | os.PathLike[str]],
        *,
        retry_failed: bool,
        prune: bool,
        add_new: bool,
        include: Sequence[str],
        exclude: Sequence[str],
    ) -> tuple[ScanResult, Plan]:
        """Scan, compare with the catalog, count."""
        self.tell("scan")
        with self.timed("scan"):
            known = self.catalog.sources.known_files([*resolve_roots(paths), *former_roots(paths)])
            scan = find_sources(
                paths,
                known,
                library_folder=self.library.folder,
                include=include,
                exclude=exclude,
                on_progress=self.tell_scan,
            )
        self.note_scan(scan, known)
        self.tell("plan")
        with self.timed("plan"):
            blind = scan.seen_unreadable()
            if include or exclude:
                blind += [*scan.roots, *scan.former]  # a partial look proves nothing about what it left out
            self.elsewhere = self.lost_roots(scan)

            def compare(model_key: str) -> Plan:
                self.model_key = model_key
                plan = self.catalog.sources.compare(
                    scan.sources,
                    [*scan.roots, *scan.former],
                    model_key,
                    seen_unreadable=blind,
                    emptied=scan.emptied,
                    elsewhere=self.elsewhere,
                    retry_failed=retry_failed,
                    prune=prune,
                )
                unchanged = set(plan.unchanged)
                plan.reread = [one for one in self.with_others_beside(scan.sources) if one[0] in unchanged]
                again = {source_id for source_id, _ in plan.reread}
                plan.unchanged = [source_id for source_id in plan.unchanged if source_id not in again]
                older = self.catalog.sources.read_by_older(READER_VERSION)
                by_older = {
                    source_id: source
                    for source in (scan.sources if older else ())
                    if (source_id := older.get(os.fsencode(source.path))) is not None
                }
                plan.outread = [(one, by_older[one]) for one in plan.unchanged if one in by_older]
                if add_new:
                    return plan
                own = {row.path for row in self.catalog.sources.rows(states=(*HOLDERS, "pending"))}
                return replace(
                    plan,
                    new=[source for source in plan.new if source.path in own],
                    copied=[source for source in plan.copied if source.path in own],
                )

            key = self.planning_key()
            plan = compare(key)
            if (plan.new or plan.changed or plan.reembed or plan.reread) and (
                key_now := self.library.embedder.model_key
            ) != key:
                plan = compare(key_now)  # the checkpoint of that name is another one than when it was last used
            self.describe(scan, plan)
        return scan, plan

    def with_others_beside(self, sources: Sequence[Source]) -> list[tuple[int, Source]]:
        """The indexed files among `sources` beside which other subtitles or sidecars lie than were read: (source id, file)."""
        return list(dict([*self.with_other_subtitles(sources), *self.with_other_sidecars(sources)]).items())

    def with_other_sidecars(self, sources: Sequence[Source]) -> list[tuple[int, Source]]:
        """The indexed files among `sources` whose sidecars are not those that were read: (source id, file)."""
        found = {source.path: source for source in sources}
        again = []
        for read in self.catalog.sources.sidecars_read() if found else ():
            source = found.get(read.path)
            if source is None or source.sha256 != read.sha256 or read.stamp is None:
                continue
            if self.sidecars_of(read.path) != read.stamp:
                again.append((read.source_id, source))
        return again

    def look_again(self, sources: Sequence[Source], plan: Plan) -> list[tuple[int, Source]]:
        """Look at the files that an older mmsearch read. Returns those to be embedded again, each once: (source id, file)."""
        again = self.with_unread_words(sources, plan)
        whole = {source_id for source_id, _ in again}  # their facts are read with the rest
        again += self.refresh([(source_id, source) for source_id, source in plan.outread if source_id not in whole])
        self.report.plan.older = 0
        if again:
            count_items(self.report.plan, [source for _, source in again], self.decoder(self.library.embedder))
        return again

    def unread(self, sources: Sequence[Source], plan: Plan) -> dict[int, Source]:
        """The indexed files whose metadata nobody has looked at, and which are not read in this run anyway, by source id."""
        read = self.catalog.sources.sidecars_read(unread=True)
        planned = {source.path for source in to_read(plan)}
        found = {source.path: source for source in (sources if read else ()) if source.path not in planned}
        return {
            one.source_id: found[one.path] for one in read if one.path in found and found[one.path].sha256 == one.sha256
        }

    def with_unread_words(self, sources: Sequence[Source], plan: Plan) -> list[tuple[int, Source]]:
        """The indexed files of an older library whose metadata say something, which nobody has read: (source id, file).

        Those whose metadata say nothing are remembered, and not looked at again.
        """
        unread = self.unread(sources, plan)
        if not unread:
            return []
        stamps = {source_id: self.sidecars_of(source.path) for source_id, source in unread.items()}
        again = [source_id for source_id, told in stamps.items() if told]
        tasks = [Task(source_id, source, is_look=True) for source_id, source in unread.items() if not stamps[source_id]]
        self.tell("plan")
        with (
            self.timed("plan"),
            self.open_decoder({}, jobs=min(self.jobs, len(tasks) or 1), limits=self.limits) as decoder,
        ):
            again += [
                event.task.key for event in decoder.read(tasks) if event is not None and event.notes.get("described")
            ]
        self.catalog.sources.note_sidecars(
            {source_id: told for source_id, told in stamps.items() if source_id not in set(again)}
        )
        self.report.unchanged -= len(again)
        self.report.plan.unchanged -= len(again)
        self.report.plan.changed += len(again)
        return [(source_id, unread[source_id]) for source_id in again]

    def sidecars_of(self, path: Path) -> str:
        """The stamp of the sidecars beside a file."""
        folder = path.parent
        if folder not in self.sidecars:
            self.sidecars[folder] = SidecarFolder(folder)
        return stamp(self.sidecars[folder].beside(path))

    def with_other_subtitles(self, sources: Sequence[Source]) -> list[tuple[int, Source]]:
        """The indexed videos among `sources` whose subtitle files are not those that were read: (source id, file)."""
        found = {source.path: source for source in sources}
        folders: dict[Path, SubtitleFolder] = {}
        again: dict[int, Source] = {}
        for video in self.catalog.sources.videos_read() if found else ():
            source = found.get(video.path)
            if source is None or source.sha256 != video.sha256 or video.source_id in again:
                continue
            folder = video.path.parent
            if folder not in folders:
                folders[folder] = SubtitleFolder(folder)
            files = folders[folder].beside(video.path)
            if not is_current(video.subtitles, files, has_text=video.has_text, read_at=video.changed_at):
                again[video.source_id] = source
        return list(again.items())

    def lost_roots(self, scan: ScanResult) -> list[Path]:
        """Folders of former runs, outside this one, where nothing is: a disk is away, or they have another name now."""
        asked = {*scan.roots, *scan.former}
        others = look_for(root for root in self.catalog.sources.roots() if asked.isdisjoint([root, *root.parents]))
        return [root for root, is_there in others.items() if is_there is False]

    def planning_key(self) -> str:
        """The model key to plan with; the model is loaded for it only where the catalog does not know."""
        active = self.library.model_key
        if active is None or self.library.model.is_loaded or "model" in self.settings.model_fields_set:
            return self.library.embedder.model_key
        return active

    def describe(self, scan: ScanResult, plan: Plan) -> None:
        """Put the plan into numbers."""
        summary = self.report.plan
        summary.new, summary.reembed = len(plan.new), len(plan.reembed)
        summary.changed = len(plan.changed) + len(plan.reread)
        summary.moved, summary.copied, summary.unchanged = len(plan.moved), len(plan.copied), len(plan.unchanged)
        summary.failed_before, summary.returned = len(plan.failed_before), len(plan.returned)
        summary.missing, summary.offline, self.report.away = len(plan.missing), len(plan.offline), len(plan.away)
        outread = (source_id for source_id, _ in plan.outread)
        summary.older = len({*outread, *self.unread(scan.sources, plan)})
        summary.left_out = scan.left_out
        summary.unreadable, summary.changing = len(scan.unreadable), len(scan.changing)
        if sources := to_read(plan):
            embedder = self.library.embedder
            count_items(summary, sources, self.decoder(embedder))
            summary.device = embedder.device
        self.report.unchanged, self.report.failed_before = len(plan.unchanged), len(plan.failed_before)

    def note_scan(self, scan: ScanResult, known: dict[bytes, Any]) -> None:
        """What the scan could not read is told, but not remembered: nothing in the file says when it can be read again."""
        for path, reason in scan.unreadable:
            self.report.failures.append(Failure(path, "CorruptFile", f"cannot be read: {reason}"))
        for root in scan.gone_roots:
            names = [root, *(path for path in scan.former if path.resolve() == root)]
            if not any(is_under(path, name) for name in names for path in known):
                self.report.failures.append(Failure(root, "CorruptFile", "there is no such file or folder"))
        self.report.changing += scan.changing

    def settle(self, scan: ScanResult, plan: Plan) -> None:
        """Everything that the catalog's rows alone need: touched, moved, returned, outdated, missing and offline files."""
        with self.timed("save"):
            seen = [root for root in scan.roots if root not in scan.gone_roots and root not in scan.seen_unreadable()]
            there = [root for root in seen if os.path.isdir(root)]  # noqa: PTH112 (raises nothing)
            gone = [root for root in (*scan.gone_roots, *self.elsewhere) if not os.path.exists(root)]  # noqa: PTH110
            self.catalog.sources.settle(plan, there, gone)
            self.catalog.sources.note_left_out([*scan.roots, *scan.former], scan.left_out)
        self.report.moved, self.report.returned = len(plan.moved), len(plan.returned)
        self.report.retired, self.report.offline = len(plan.missing), len(plan.offline)

    def read(self, plan: Plan) -> None:
        """Decode, embed and save everything new, changed or not yet embedded by this model."""
        embedder = self.library.embedder
        self.catalog.models.register(
            embedder.model_key, embedder.dim, self.library.model.name, is_multi_vector=is_multi_vector(embedder)
        )
        jobs = [
            *(self.job(source) for source in plan.new),
            *(self.job(source, replaces=former) for former, source in plan.changed),
            *(self.job(source) for _, source in plan.reembed),
        ]
        self.resume(jobs, plan, embedder.model_key)
        self.read_jobs(jobs, embedder)
        self.read_again(plan.reread)

    def read_again(self, files: Sequence[tuple[int, Source]]) -> None:
        """Read files that are embedded already, and beside which other words lie now: of videos their words alone, where that will do."""
        if not files:
            return
        embedder = self.library.embedder
        older = self.catalog.sources.read_by_older(READER_VERSION)
        jobs = [self.job(source) for _, source in files]
        for job, (source_id, source) in zip(jobs, files, strict=True):
            if kind_of(source) == "clip" and os.fsencode(source.path) not in older:
                job.rewording = self.rewording(source_id, embedder)
        self.read_jobs(jobs, embedder)
        whole, self.not_reworded = self.not_reworded, []
        if whole:
            self.read_jobs([self.job(source) for source in whole], embedder)

    def rewording(self, source_id: int, embedder: Embedder) -> Rewording | None:
        """What the catalog knows of a video's clips; None where it is not all of it."""
        found = self.catalog.items.of_source(source_id)
        embedded, _ = self.catalog.items.saved_ordinals(source_id, embedder.model_key)
        duration_s = found[0].meta.get("duration_s") if found else None
        if not isinstance(duration_s, int | float) or embedded != {item.ordinal for item in found}:
            return None
        clips = tuple(
            KnownClip(item.ordinal, item.start_s, item.end_s, text_digest(item.text))
            for item in found
            if item.start_s is not None and item.end_s is not None
        )
        return Rewording(duration_s, clips, embedder.page_text) if len(clips) == len(found) else None

    def refresh(self, files: Sequence[tuple[int, Source]]) -> list[tuple[int, Source]]:
        """Read the facts again of files that an older reader read, without the model. Returns those to be embedded again, too: of
        which the model is given another picture now."""
        redrawn: list[tuple[int, Source]] = []
        waiting: list[tuple[int, Facts]] = []

        def save() -> None:
            with self.timed("save"), self.catalog.transaction():
                for source_id, facts in waiting:
                    self.catalog.sources.save_facts(source_id, facts.metas, READER_VERSION)
            self.report.refreshed += sum(bool(facts.metas) for _, facts in waiting)
            waiting.clear()

        if not files:
            return redrawn
        by_id = dict(files)
        tasks = [Task(source_id, source, is_facts=True) for source_id, source in files]
        with self.open_decoder({}, jobs=self.jobs, limits=self.limits) as decoder:
            for event in decoder.read(tasks):
                if event is None or not self.is_as_scanned(event.task.source):
                    continue
                source_id = event.task.key
                if event.facts is not None and event.facts.is_redrawn:
                    redrawn.append((source_id, by_id[source_id]))
                else:  # what cannot be read now was read before: what is known of it stays
                    waiting.append((source_id, event.facts or Facts(())))
                if len(waiting) >= FACTS_AT_ONCE:
                    save()
        save()
        is_planned_for = not redrawn or self.library.embedder.model_key == self.model_key
        return redrawn if is_planned_for else []  # else the next run embeds everything

    def job(self, source: Source, replaces: int | None = None) -> _Job:
        kind, expected = self.report.plan.expected.get(str(source.path)) or (kind_of(source), 1)
        return _Job(source, kind, expected, replaces, sidecars=self.sidecars_of(source.path))

    def resume(self, jobs: Sequence[_Job], plan: Plan, model_key: str) -> None:
        """Find out how far interrupted work on these sources got: items are saved in order."""
        pending = {row.path: row for row in self.catalog.sources.rows(states=("pending",))}
        holders = {source.path: source_id for source_id, source in plan.reembed}
        for job in jobs:
            row = pending.get(job.source.path)
            if row is not None and row.sha256 == job.source.sha256:
                job.saved, job.resumes_at = self.catalog.items.saved_ordinals(row.id, model_key)
            elif job.source.path in holders:
                job.saved, job.resumes_at = self.catalog.items.saved_ordinals(holders[job.source.path], model_key)

    def estimate(self, embedder: Embedder, plan: Plan) -> None:
        """Time the model on some of the files that a plan holds. A run needs none of this: it measures itself as it goes."""
        kinds = [kind for kind, number in self.report.plan.items.items() if number]
        sources = to_read(plan)
        samples = sample_inputs(self.report.plan, sources, self.decoder(embedder), page_text=embedder.page_text)
        self.costs = measure_costs(embedder, kinds, samples)
        if set(kinds) <= set(self.costs):
            numbers = self.report.plan.items
            decode_s = sum(DECODE_S[kind] * numbers[kind] for kind in kinds) / self.jobs
            self.report.plan.seconds = max(decode_s, sum(self.costs[kind] * numbers[kind] for kind in kinds))

    def copy(self, copies: Sequence[Source]) -> list[Source]:
        """Index without the model what is content that the catalog holds by now. Returns what is left."""
        left = []
        for source in copies:
            with self.timed("save"):
                original = self.catalog.sources.find_content(source, self.model_key)
                if original is None:
                    left.append(source)
                elif self.is_as_scanned(source):
                    is_back = self.catalog.sources.copy(original, source) == original
                    self.report.returned += is_back
                    self.report.copied += not is_back
        return left

    def is_as_scanned(self, source: Source, *, read: bool = False) -> bool:
        """Whether a file still is what it was when it was scanned; what it is instead is told, but not remembered: it is the disk
        that went away, or another program that writes, and no fault of the file."""
        try:
            if not has_changed(source, read=read):
                return True
            if source.path not in self.report.changing:  # the print of a document is asked for page by page
                self.report.changing.append(source.path)
        except OSError as error:
            self.report.failures.append(
                Failure(source.path, "CorruptFile", f"cannot be read: {error.strerror or error}")
            )
        return False

    def sync(self) -> None:
        """Let the vector stores catch up, and answer queries with this model once it has embedded everything."""
        self.tell("sync")
        with self.timed("sync"):
            is_known = self.library.model.is_loaded and self.library.embedder.model_key in self.catalog.models.dims()
            if is_known and self.change_over:
                self.catalog.models.activate_if_complete(self.library.embedder.model_key)
            self.library.sync_vectors()
        self.last_sync = time.monotonic()

    # ---- reading

    def decoder(self, embedder: Embedder) -> Decoder:
        """Opened once: it counts first and reads then."""
        if self._decoder is None:
            self._decoder = self.open_decoder(embedder.max_pixels, jobs=self.jobs, limits=self.limits)
        return self._decoder

    def close(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None

    def read_jobs(self, jobs: Sequence[_Job], embedder: Embedder) -> None:
        """The loop: take what the workers decoded, embed it in batches, save each batch, close sources that are complete."""
        offset = len(self.jobs_by_key)
        self.jobs_by_key.update(enumerate(jobs, offset))
        self.started_reading = time.monotonic() if not offset else self.started_reading
        tasks = [Task(key, job.source, job.resumes_at, rewording=job.rewording) for key, job in enumerate(jobs, offset)]
        self.tell("read", always=True)
        events = self.decoder(embedder).read(tasks, tick_s=min(1.0, BATCH_WAIT_S))
        stopped: WorkerFailed | None = None
        while True:
            try:
                with self.timed("wait"):
                    event = next(events, _END)
            except WorkerFailed as error:  # what was decoded before is saved first
                stopped, event = error, _END
            if event is _END:
                break
            if isinstance(event, Event):
                self.take(event)
            is_due = self.waiting and time.monotonic() - self.waiting_since > BATCH_WAIT_S
            if is_due or len(self.waiting) >= BATCH_ITEMS:
                self.flush(embedder)
            self.close_complete()
            if time.monotonic() - self.last_sync > SYNC_INTERVAL_S:
                self.sync()
            self.tell("read")
        self.flush(embedder)
        self.close_complete()
        self.tell("read", always=True)
        if stopped is not None:
            raise stopped

    def take(self, event: Event) -> None:
        job = self.jobs_by_key[event.task.key]
        self.last_path = job.source.path
        if event.type == "draft" and event.draft is not None:
            if event.draft.ordinal in job.saved:
                return
            if not self.waiting:
                self.waiting_since = time.monotonic()
            self.waiting.append((job, event.draft))
            job.unsaved += 1
            return
        self.report.seconds_by_stage["decode"] += event.seconds
        self.report.blank_pages += event.notes.get("blank_pages", 0)
        self.report.damaged_pages += event.notes.get("damaged_pages", 0)
        self.report.damaged_photos += event.notes.get("damaged_photos", 0)
        self.report.merged_clips += event.notes.get("merged_clips", 0)
        if number := event.notes.get("cut_texts", 0):
            self.report.cut_texts[job.source.path] = number
        job.is_read = True
        job.error = job.error or event.error
        self.closing.append(job)

    def begin(self, job: _Job) -> int:
        """The id of its source, announced to the catalog if it is not yet."""
        if job.source_id is None:
            job.source_id = self.catalog.sources.begin(
                job.source, model_key=self.library.embedder.model_key, replaces=job.replaces
            )
        return job.source_id

    def close_complete(self) -> None:
        """Sources that are read and saved to the end: indexed, failed, or, if the file changed meanwhile, left for the next run."""
        complete = [job for job in self.closing if not job.unsaved]
        if not complete:
            return
        self.closing = [job for job in self.closing if job.unsaved]
        for job in complete:
            job.is_closed = True
        # Only what can be read from end to end may be called broken: a disk that fails looks like many broken files.
        settled = [job for job in complete if self.is_as_scanned(job.source, read=job.error is not None)]
        with self.timed("save"), self.catalog.transaction():
            for job in settled:
                if job.error is not None and job.rewording is not None:
                    self.not_reworded.append(job.source)
                elif job.error is not None:
                    self.fail(job, job.error)
                else:
                    self.report.reworded += job.rewording is not None
                    read_by = None if job.resumes_at else READER_VERSION
                    self.catalog.sources.finish(self.begin(job), sidecars=job.sidecars, reader_version=read_by)
                    self.report.files += 1

    def fail(self, job: _Job, error: SourceError) -> None:
        self.catalog.sources.fail(job.source, error, replaces=job.replaces)
        self.report.failures.append(Failure(job.source.path, type(error).__name__, error.reason))
        log.info("%s", error)

    def flush(self, embedder: Embedder) -> None:
        """Embed and save what waits, in one transaction."""
        batch, self.waiting = self.with_known_print(self.waiting), []
        if not batch:
            return
        began = time.monotonic()
        shown = [(job, draft) for job, draft in batch if draft.images or job.rewording is None]
        embedded: list[tuple[_Job, ItemDraft, np.ndarray | None]]
        with self.timed("embed"):
            embedded = [*self.embed(shown, embedder)] if shown else []
        embedded += [(job, draft, None) for job, draft in batch if job.rewording is not None and not draft.images]
        with self.timed("save"):
            previews = [self.write_preview(draft) for _, draft, _ in embedded]
            with self.catalog.transaction():
                rows = [
                    (self.begin(job), draft, vector, preview)
                    for (job, draft, vector), preview in zip(embedded, previews, strict=True)
                ]
                self.catalog.items.save_batch(rows, embedder.model_key)
        for job, _ in batch:
            job.unsaved -= 1
        for job, draft, _ in embedded:
            job.items += 1
            if job.rewording is None:
                self.report.items[draft.kind] += 1
        self.learn_costs([draft.kind for _, draft in shown], time.monotonic() - began)

    def with_known_print(self, batch: list[tuple[_Job, ItemDraft]]) -> list[tuple[_Job, ItemDraft]]:
        """The batch with the text of pages and pictures that were read before: for another model, or at another place."""
        places = {Place(draft.source.sha256, draft.ordinal) for _, draft in batch if may_be_read(draft)}
        known = self.catalog.print.texts(places)
        return [
            (job, replace(draft, text=with_print(draft.text, read), text_source="ocr", has_print=True))
            if may_be_read(draft) and (read := known.get(Place(draft.source.sha256, draft.ordinal)))
            else (job, draft)
            for job, draft in batch
        ]

    def embed(
        self, batch: Sequence[tuple[_Job, ItemDraft]], embedder: Embedder
    ) -> list[tuple[_Job, ItemDraft, np.ndarray]]:
        """Vectors for a batch. If the model refuses it, its items are tried singly, and the culprit's file is to blame.

        Raises:
            Exception: the model's own, where it refuses every item: then the fault is not in the files.
        """
        inputs = [prompts.document_input(draft, with_text=embedder.page_text) for _, draft in batch]
        try:
            vectors = checked(embedder.encode_documents(inputs), len(inputs))
            return [(job, draft, vector) for (job, draft), vector in zip(batch, vectors, strict=True)]
        except Exception as error:
            log.warning("a batch of %d items failed (%s); trying them one by one", len(batch), error)
            found = []
            for (job, draft), one in zip(batch, inputs, strict=True):
                try:
                    found.append((job, draft, checked(embedder.encode_documents([one]), 1)[0]))
                except Exception as single:
                    reason = f"{place(draft)} cannot be embedded ({type(single).__name__}: {single})"
                    job.error = job.error or CorruptFile(job.source.path, reason)
            if not found and (len(batch) > 1 or not self.report.items):
                raise error
            return found

    def write_preview(self, draft: ItemDraft) -> str | None:
        """Store an item's preview under its content's hash, whole or not at all; the path relative to the library."""
        if draft.preview is None:
            return None
        name = Path(draft.source.sha256[:2]) / f"{draft.source.sha256[:32]}-{draft.ordinal}.webp"
        target = self.library.previews / name
        with disk_faults(self.library.folder):
            target.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(target, durable=False) as temporary:
                temporary.touch(0o600)  # it shows what the file holds
                temporary.write_bytes(draft.preview)
        return (Path(self.library.previews.name) / name).as_posix()

    # ---- telling

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.report.seconds_by_stage[stage] += time.monotonic() - began

    def learn_costs(self, kinds: Sequence[Kind], seconds: float) -> None:
        """Share a batch's time among its kinds as the former costs stood, and let the costs follow slowly.

        The first batch sets the scale of them all: until then they are only presumed.
        """
        numbers = Counter(kinds)
        presumed = sum(self.costs.get(kind, SAVE_S) * number for kind, number in numbers.items())
        if presumed <= 0:
            return
        if not self.measured:
            self.measured = True
            self.costs = {kind: cost * max(seconds, 1e-6) / presumed for kind, cost in self.costs.items()}
            return
        factor = min(max(seconds / presumed, 0.1), 10.0)
        for kind in numbers:
            self.costs[kind] = self.costs.get(kind, SAVE_S) * factor**0.3

    def tell(self, stage: Stage, *, always: bool = False) -> None:
        """Call back, a few times a second at most."""
        now = time.monotonic()
        if self._progress is None or (stage == "read" and not always and now < self.next_progress):
            return
        self._progress(self.progress_now(stage))
        told = time.monotonic()
        self.next_progress = told + max(PROGRESS_INTERVAL_S, (told - now) / PROGRESS_SHARE)

    def tell_progress(self, make: Callable[[], Progress]) -> float:
        """Call back, and say for how many seconds not to."""
        began = time.monotonic()
        if self._progress is not None:
            self._progress(make())
        return max(PROGRESS_INTERVAL_S, (time.monotonic() - began) / PROGRESS_SHARE)

    def tell_scan(self, scan: ScanResult) -> None:
        if self._progress is not None and time.monotonic() >= self.next_progress:
            self.next_progress = time.monotonic() + PROGRESS_INTERVAL_S
            elapsed_s = time.monotonic() - self.began
            self._progress(Progress("scan", self.report.plan, files=len(scan.sources), elapsed_s=elapsed_s))

    def progress_now(self, stage: Stage) -> Progress:
        saved: Counter[Kind] = Counter()
        expected: Counter[Kind] = Counter()
        closed = 0
        for job in self.jobs_by_key.values():
            done = job.items + len(job.saved)
            closed += job.is_closed
            if job.kind is None:
                continue
            saved[job.kind] += done
            expected[job.kind] += done if job.is_closed else max(job.expected, done + job.unsaved)
        spent = sum(self.cost(kind) * number for kind, number in saved.items())
        total = sum(self.cost(kind) * number for kind, number in expected.items())
        elapsed_s = time.monotonic() - self.started_reading
        new = sum(self.report.items.values())
        pace = self.pace()
        eta_s = max(0.0, (total - spent) / pace) if stage == "read" and pace else None
        if eta_s is not None and self.report.plan.seconds is None:
            self.report.plan.seconds = elapsed_s + eta_s
        return Progress(
            stage=stage,
            plan=self.report.plan,
            items=dict(saved),
            expected=dict(expected),
            files=closed,
            files_total=len(self.jobs_by_key),
            failures=len(self.report.failures),
            elapsed_s=time.monotonic() - self.began,
            rate=new / elapsed_s if new and elapsed_s > 0.2 else 0.0,
            eta_s=eta_s,
            fraction=min(1.0, spent / total) if total else 0.0,
            path=self.last_path,
        )

    def pace(self) -> float | None:
        """What was done lately, in the unit of `costs` per second; None before enough is done to tell.

        Lately is the last `PACE_WINDOW_S`: the first batch of a run loads the model, and compiles what it needs.
        """
        now = time.monotonic()
        if not self.paces:
            self.paces.append((self.started_reading, Counter()))
        if self.report.items != self.paces[-1][1]:
            self.paces.append((now, Counter(self.report.items)))
        while len(self.paces) > 2 and now - self.paces[1][0] > PACE_WINDOW_S:
            self.paces.popleft()
        began, before = self.paces[0]
        # What was saved since, until the last batch: the time since then belongs to a batch that is still at work.
        until, done = self.paces[-1]
        items = done - before
        if not items or until <= began or (items.total() < PACE_ITEMS and now - self.started_reading < PACE_WAIT_S):
            return None
        return sum(self.cost(kind) * number for kind, number in items.items()) / max(until - began, (now - began) / 2)

    def cost(self, kind: Kind) -> float:
        return self.costs.get(kind, SAVE_S)


_END: Any = object()


def to_read(plan: Plan) -> list[Source]:
    """The files that a plan has decoded."""
    return [*plan.new, *(source for _, source in (*plan.changed, *plan.reembed, *plan.reread))]


def may_be_read(draft: ItemDraft) -> bool:
    """Whether print of an item may have been read before: a photo, or a page whose layer lacks it."""
    return draft.kind == "image" or (draft.kind == "page" and draft.has_print is not False)


__all__ = [
    "FILE_WORDS", "ITEM_WORDS", "Failure", "IngestPlan", "IngestReport", "Progress", "ingest_paths", "plan_paths",
]  # fmt: skip
