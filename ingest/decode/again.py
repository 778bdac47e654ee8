"""Decoding a library's items once more, in ingestion's own worker processes. A file that has changed since, or cannot be read now, is passed over."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ingest.decode import Event, Limits, Task, default_jobs
from ingest.decode.pool import WorkerPool
from ingest.scan import has_changed
from mmsearch.embedders import Embedder
from mmsearch.items import Item, ItemDraft, Source
from mmsearch.library import Library

log = logging.getLogger(__name__)


def decoded(
    library: Library, embedder: Embedder, items: Sequence[Item], *, until: float = math.inf
) -> Iterator[tuple[Item, ItemDraft]]:
    """The items with their pixels, as ingestion gave them to the model; some may be missing.

    Files are begun in the order in which `items` names them first. What has not come by `until`, a moment of `time.monotonic`, is missing.
    """
    wanted: dict[int, dict[int, Item]] = defaultdict(dict)
    for item in items:
        wanted[item.source_id][item.ordinal] = item
    rows = {row.id: row for row in library.catalog.sources.rows(states=("indexed",)) if row.id in wanted}
    tasks = []
    for source_id in wanted:
        if (row := rows.get(source_id)) is None:
            continue
        source = Source(row.path, row.sha256, row.size_bytes, row.modified_ns, row.ctime_ns)
        if is_unchanged(source):
            tasks.append(Task(source_id, source, first_ordinal=min(wanted[source_id])))
        else:
            log.info("%s: changed since it was indexed; left out", row.path)
    settings = library.settings
    with WorkerPool(
        embedder.max_pixels, jobs=settings.jobs or default_jobs(), limits=Limits.of_settings(settings)
    ) as pool:
        for event in pool.read(tasks):
            if time.monotonic() > until:
                break
            if not isinstance(event, Event):
                continue
            if event.draft is not None:
                known = wanted[event.task.key].get(event.draft.ordinal)
                if known is not None and known.kind == event.draft.kind:
                    draft = event.draft
                    if known.text_source == "ocr":  # the reader does not know what was read later
                        draft = replace(draft, text=known.text, text_source="ocr", description="")
                    yield known, draft
            elif event.error is not None:
                log.info("%s: left out: %s", event.task.source.path, event.error.reason)


def is_unchanged(source: Source) -> bool:
    """Whether the file is there, can be read, and is the one that was hashed."""
    try:
        return not has_changed(source)
    except OSError:
        return False
