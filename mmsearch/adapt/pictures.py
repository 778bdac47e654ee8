"""Decoding the library's items once more, in ingestion's own worker processes, and keeping some of them as pictures of our own.

A file that has changed since it was indexed, or that cannot be read now, is passed over.
"""

from __future__ import annotations

import logging
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from ingest.workers import Event, Limits, Task, WorkerPool, default_jobs
from mmsearch.embedders import Embedder
from mmsearch.items import Item, ItemDraft, Source
from mmsearch.library import Library

log = logging.getLogger(__name__)


def decoded(library: Library, embedder: Embedder, items: Sequence[Item]) -> Iterator[tuple[Item, ItemDraft]]:
    """The items with their pixels, as ingestion gave them to the model; in no particular order, some may be missing."""
    wanted: dict[int, dict[int, Item]] = defaultdict(dict)
    for item in items:
        wanted[item.source_id][item.ordinal] = item
    rows = {row.id: row for row in library.catalog.sources(states=("indexed",)) if row.id in wanted}
    tasks = []
    for source_id, row in sorted(rows.items()):
        source = Source(row.path, row.sha256, row.size_bytes, row.modified_ns)
        if is_unchanged(source):
            tasks.append(Task(source_id, source, first_ordinal=min(wanted[source_id])))
        else:
            log.info("%s: changed since it was indexed; left out", row.path)
    settings = library.settings
    limits = Limits(
        deadline_s=settings.decode_timeout_s,
        memory_bytes=settings.decode_memory_bytes,
        max_image_pixels=settings.max_image_pixels,
        max_pages=settings.max_pages,
    )
    with WorkerPool(embedder.max_pixels, jobs=settings.jobs or default_jobs(), limits=limits) as pool:
        for event in pool.read(tasks):
            if not isinstance(event, Event):
                continue
            if event.draft is not None:
                known = wanted[event.task.key].get(event.draft.ordinal)
                if known is not None and known.kind == event.draft.kind:
                    yield known, event.draft
            elif event.error is not None:
                log.info("%s: left out: %s", event.task.source.path, event.error.reason)


def is_unchanged(source: Source) -> bool:
    try:
        stat = source.path.stat()
    except OSError:
        return False
    return (stat.st_size, stat.st_mtime_ns) == (source.size_bytes, source.modified_ns)


class Pictures:
    """Items' pictures in a folder: `<id>.png`, or `<id>/<frame>.png` of a clip; lossless, as the model is given them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, item: Item | int, *, is_clip: bool) -> Path:
        """Of a page or photo its file, of a clip its folder of frames."""
        number = item if isinstance(item, int) else item.id
        return self.folder / (str(number) if is_clip else f"{number}.png")

    def has(self, item: Item) -> bool:
        return self.path(item, is_clip=item.kind == "clip").exists()

    def images(self, item: Item) -> tuple[Image.Image, ...]:
        """RGB, decoded."""
        path = self.path(item, is_clip=item.kind == "clip")
        files = sorted(path.iterdir()) if item.kind == "clip" else [path]
        return tuple(_opened(file) for file in files)

    def fill(
        self, library: Library, embedder: Embedder, items: Sequence[Item], *, on_item: Callable[[], None] = lambda: None
    ) -> None:
        """Keep those that are not there yet; each appears whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [item for item in items if not self.has(item)]
        if not missing:
            return
        for item, draft in decoded(library, embedder, missing):
            path = self.path(item, is_clip=item.kind == "clip")
            part = path.with_name(f"{path.name}.part")
            if item.kind == "clip":
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                for number, frame in enumerate(draft.images):
                    frame.save(part / f"{number:03}.png", compress_level=1)
            else:
                draft.images[0].save(part, "PNG", compress_level=1)
            part.rename(path)
            on_item()


def _opened(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB")
