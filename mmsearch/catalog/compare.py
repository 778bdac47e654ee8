"""What a scan means for the catalog: which files are new, changed, moved, copied, missing, or best left alone."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmsearch.items import Source

HOLDERS = ("indexed", "offline")
"""The states of a source that holds its path's items."""
GONE_SHARE_LIMIT = 0.2
"""If more than this share of a root's files is gone in one scan, a disk is likelier absent than its files deleted …"""
GONE_COUNT_LIMIT = 1
"""… but one deleted file is always believed."""


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What the catalog remembers of a path: enough to see, without opening it, that a file is unchanged.

    `state` is "indexed", "offline" or "failed" (then `sha256` may be ""). `ctime_ns`: see `Source`.
    """

    source_id: int
    sha256: str
    size_bytes: int
    modified_ns: int
    ctime_ns: int | None
    state: str


@dataclass
class Plan:
    """Every file of a scan stands in exactly one of the lists `new` to `failed_before`; `touched`, `returned` and `outread` are of files
    that stand there too. Numbers are source ids.

    Attributes:
        new: to be read and embedded.
        changed: (id of the source that it supersedes, the file as it is now).
        reembed: same content, but not yet embedded by this model; their items keep their ids.
        reread: same content, embedded, but with other text beside it now (subtitles): to be read again; their items keep their ids.
        outread: unchanged and embedded, but read by an older reader: its facts are to be read again.
        moved: a file that is gone there and found here, perhaps in place of another one; keeps its items.
        copied: content that the catalog holds, or in this run will hold, under another path or from before: needs no model, see
            `Catalog.find_content`.
        unchanged: nothing to do.
        failed_before: failed with exactly this content; not tried again until it changes.
        touched: unchanged in content, with another modification or change time.
        returned: were offline and are back, changed or not.
        outdated: attempts, failed or unfinished, at content that the file no longer has.
        missing: gone, to be retired.
        offline: gone in such numbers (or with their whole root) that they are kept, out of sight, until they return.
        away: have been offline before, and still are.
    """

    new: list[Source] = field(default_factory=list)
    changed: list[tuple[int, Source]] = field(default_factory=list)
    reembed: list[tuple[int, Source]] = field(default_factory=list)
    reread: list[tuple[int, Source]] = field(default_factory=list)
    outread: list[tuple[int, Source]] = field(default_factory=list)
    moved: list[tuple[int, Source]] = field(default_factory=list)
    copied: list[Source] = field(default_factory=list)
    unchanged: list[int] = field(default_factory=list)
    failed_before: list[int] = field(default_factory=list)
    touched: list[tuple[int, Source]] = field(default_factory=list)
    returned: list[int] = field(default_factory=list)
    outdated: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    offline: list[int] = field(default_factory=list)
    away: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Row:
    """A source of the catalog as the plan needs it. `is_embedded`: completely, by the model of this run."""

    id: int
    path: bytes
    sha256: str
    size_bytes: int
    modified_ns: int
    ctime_ns: int | None
    state: str
    is_embedded: bool


def make_plan(
    sources: Sequence[Source],
    rows: Iterable[Row],
    roots: Sequence[Path],
    *,
    held: Collection[str] = (),
    seen_unreadable: Collection[Path] = (),
    emptied: Collection[Path] = (),
    elsewhere: Collection[Path] = (),
    retry_failed: bool = False,
    prune: bool = False,
) -> Plan:
    """Compare a scan with the catalog. Pure.

    Args:
        sources: every readable file under the roots.
        rows: the catalog's sources under the roots and `elsewhere` ("indexed", "offline", "failed", "pending").
        roots: what was scanned, and the roots of former scans inside: each may be a disk of its own.
        held: hashes of content whose items and vectors the catalog holds anywhere, deleted ones included.
        seen_unreadable: files and folders that are there but could not be read: nothing at or under them is missing.
        emptied: folders that are there and hold nothing: mount points, perhaps, whose disks are away.
        elsewhere: folders of former scans that nobody asked for now, and where nothing is: what lay in them has moved here, or is offline.
        prune: files that are gone from the roots are retired whatever their number.
    """
    plan = Plan()
    holders: dict[bytes, Row] = {}
    attempts: dict[bytes, Row] = {}
    for row in rows:
        (holders if row.state in HOLDERS else attempts)[row.path] = row
    found = {os.fsencode(source.path): source for source in sources}
    unreadable = {os.fsencode(path) for path in seen_unreadable}
    gone = [
        row
        for row in (*holders.values(), *attempts.values())
        if row.path not in found and unreadable.isdisjoint(_with_folders(row.path))
    ]

    movable: dict[str, list[Row]] = defaultdict(list)
    for row in gone:
        if row.state in HOLDERS:
            movable[row.sha256].append(row)
    contents = {row.sha256 for row in holders.values() if row.path in found and found[row.path].sha256 == row.sha256}
    contents.update(held)
    moved: set[int] = set()

    for path, source in found.items():
        holder, attempt = holders.get(path), attempts.get(path)
        if holder is not None and holder.state == "offline":
            plan.returned.append(holder.id)
        if attempt is not None and _is_same(attempt, source) and attempt.state == "failed" and not retry_failed:
            plan.failed_before.append(attempt.id)
            if _stamps(attempt) != _stamps(source):
                plan.touched.append((attempt.id, source))
            continue
        if holder is not None and holder.sha256 == source.sha256:
            if holder.is_embedded:
                plan.unchanged.append(holder.id)
            else:
                plan.reembed.append((holder.id, source))
            if _stamps(holder) != _stamps(source):
                plan.touched.append((holder.id, source))
            if attempt is not None and not _is_same(attempt, source):
                plan.outdated.append(attempt.id)
        elif movable.get(source.sha256):
            row = movable[source.sha256].pop()
            moved.add(row.id)
            contents.add(row.sha256)
            plan.moved.append((row.id, source))
        elif source.sha256 in contents:
            plan.copied.append(source)
        elif holder is not None:
            contents.add(source.sha256)
            plan.changed.append((holder.id, source))
        else:
            contents.add(source.sha256)
            plan.new.append(source)

    gone = [row for row in gone if row.id not in moved]
    if elsewhere:
        asked = [any(is_under(row.path, root) for root in roots) for row in gone]
        plan.offline += [
            row.id for row, is_asked in zip(gone, asked, strict=True) if row.state == "indexed" and not is_asked
        ]
        gone = [row for row, is_asked in zip(gone, asked, strict=True) if is_asked]
    _judge_gone(plan, gone, [*holders.values()], found, roots, emptied, prune=prune)
    return plan


def is_under(path: bytes, folder: Path) -> bool:
    """Whether `path` is `folder` or lies below it."""
    prefix = os.fsencode(folder)
    return path == prefix or path.startswith(prefix.rstrip(b"/") + b"/")


def _with_folders(path: bytes) -> Iterator[bytes]:
    """A path, and every folder that it lies in, up to the root."""
    yield path
    while len(path) > 1:
        path = path[: path.rindex(b"/")] or b"/"
        yield path


def _is_same(row: Row, source: Source) -> bool:
    if row.sha256 and source.sha256:
        return row.sha256 == source.sha256
    return (row.size_bytes, row.modified_ns) == (source.size_bytes, source.modified_ns)


def _stamps(file: Row | Source) -> tuple[int, int, int | None]:
    return file.size_bytes, file.modified_ns, file.ctime_ns


def _judge_gone(
    plan: Plan,
    gone: list[Row],
    holders: list[Row],
    found: Collection[bytes],
    roots: Sequence[Path],
    emptied: Collection[Path],
    *,
    prune: bool,
) -> None:
    """Sort what is gone into `missing` (deleted) and `offline` (a disk is away, probably: its root is empty, missing, or lost much)."""
    if prune:
        plan.missing += [row.id for row in gone]
        return
    offline: set[int] = set()
    for root in roots:
        here = [row for row in gone if is_under(row.path, root)]
        if not here:
            continue
        present = sum(row.state == "indexed" and is_under(row.path, root) for row in holders)
        newly = [row for row in here if row.state == "indexed"]
        many = len(newly) > GONE_COUNT_LIMIT and len(newly) > GONE_SHARE_LIMIT * present
        is_empty = not any(is_under(path, root) for path in found)  # as a mount point is without its disk
        if many or is_empty:
            offline.update(row.id for row in here)
    below: dict[bytes, list[Row]] = {os.fsencode(folder): [] for folder in emptied}
    for row in gone:
        for folder in _with_folders(row.path):
            if folder in below:
                below[folder].append(row)
    for lost in below.values():
        if sum(row.state == "indexed" for row in lost) > GONE_COUNT_LIMIT:
            offline.update(row.id for row in lost)
    for row in gone:
        if row.state == "offline":
            plan.away.append(row.id)  # hidden already; it stays so until it returns or is pruned
        elif row.id not in offline:
            plan.missing.append(row.id)
        elif row.state == "indexed":
            plan.offline.append(row.id)
