"""What a scan means for the catalog: which files are new, changed, moved, copied, missing, or best left alone."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmsearch.items import Source

GONE_SHARE_LIMIT = 0.2
"""If more than this share of a root's files is gone in one scan, a disk is likelier absent than its files deleted …"""
GONE_COUNT_LIMIT = 10
"""… but a few deleted files are always believed."""


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What the catalog remembers of a path: enough to see, without opening it, that a file is unchanged.

    `state` is "indexed", "offline" or "failed" (then `sha256` may be "").
    """

    source_id: int
    sha256: str
    size_bytes: int
    modified_ns: int
    state: str


@dataclass
class Plan:
    """Every file of a scan stands in exactly one of the lists `new` to `failed_before`; `touched` and `returned` are parts
    of `unchanged` and `reembed`. Numbers are source ids.

    Attributes:
        new: to be read and embedded.
        changed: (id of the source that it supersedes, the file as it is now).
        reembed: same content, but not yet embedded by this model; their items keep their ids.
        moved: a file that is gone there and found here; keeps its items.
        copied: content that is, or in this run will be, indexed under another path: `Catalog.copy_source` needs no model.
        unchanged: nothing to do.
        failed_before: failed with exactly this content; not tried again until it changes.
        touched: unchanged in content, with another modification time.
        returned: were offline and are back.
        missing: gone, to be retired.
        offline: gone in such numbers (or with their whole root) that they are kept, out of sight, until they return.
    """

    new: list[Source] = field(default_factory=list)
    changed: list[tuple[int, Source]] = field(default_factory=list)
    reembed: list[tuple[int, Source]] = field(default_factory=list)
    moved: list[tuple[int, Source]] = field(default_factory=list)
    copied: list[Source] = field(default_factory=list)
    unchanged: list[int] = field(default_factory=list)
    failed_before: list[int] = field(default_factory=list)
    touched: list[tuple[int, Source]] = field(default_factory=list)
    returned: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    offline: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Row:
    """A source of the catalog as the plan needs it. `is_embedded`: completely, by the model of this run."""

    id: int
    path: bytes
    sha256: str
    size_bytes: int
    modified_ns: int
    state: str
    is_embedded: bool


def make_plan(
    sources: Sequence[Source],
    rows: Iterable[Row],
    roots: Sequence[Path],
    *,
    elsewhere: Collection[str] = (),
    seen_unreadable: Collection[Path] = (),
    retry_failed: bool = False,
    prune: bool = False,
) -> Plan:
    """Compare a scan with the catalog. Pure, but for a look at whether the roots exist.

    Args:
        sources: every readable file under the roots.
        rows: the catalog's live sources under the roots ("indexed", "offline", "failed").
        elsewhere: hashes of indexed content outside the roots.
        seen_unreadable: files and folders that are there but could not be read: nothing at or under them is missing.
        prune: files that are gone are retired whatever their number.
    """
    plan = Plan()
    holders: dict[bytes, Row] = {}
    failures: dict[bytes, Row] = {}
    for row in rows:
        (failures if row.state == "failed" else holders)[row.path] = row
    found = {os.fsencode(source.path): source for source in sources}
    gone = [row for row in (*holders.values(), *failures.values()) if row.path not in found]
    gone = _without(gone, seen_unreadable)

    movable: dict[str, list[Row]] = defaultdict(list)
    for row in gone:
        if row.state != "failed":
            movable[row.sha256].append(row)
    kept = {row.sha256 for row in holders.values() if row.path in found and found[row.path].sha256 == row.sha256}
    contents = set(elsewhere) | kept
    moved: set[int] = set()

    for path, source in found.items():
        holder, failure = holders.get(path), failures.get(path)
        if failure is not None and _is_same(failure, source) and not retry_failed:
            plan.failed_before.append(failure.id)
        elif holder is not None and holder.sha256 == source.sha256:
            if holder.is_embedded:
                plan.unchanged.append(holder.id)
            else:
                plan.reembed.append((holder.id, source))
            if (holder.size_bytes, holder.modified_ns) != (source.size_bytes, source.modified_ns):
                plan.touched.append((holder.id, source))
            if holder.state == "offline":
                plan.returned.append(holder.id)
        elif holder is not None:
            plan.changed.append((holder.id, source))
        elif movable.get(source.sha256):
            row = movable[source.sha256].pop()
            moved.add(row.id)
            contents.add(row.sha256)
            plan.moved.append((row.id, source))
        elif source.sha256 in contents:
            plan.copied.append(source)
        else:
            contents.add(source.sha256)
            plan.new.append(source)

    gone = [row for row in gone if row.id not in moved]
    _judge_gone(plan, gone, [*holders.values()], found, roots, prune=prune)
    return plan


def is_under(path: bytes, folder: Path) -> bool:
    """Whether `path` is `folder` or lies below it."""
    prefix = os.fsencode(folder)
    return path == prefix or path.startswith(prefix.rstrip(b"/") + b"/")


def _is_same(row: Row, source: Source) -> bool:
    if row.sha256 and source.sha256:
        return row.sha256 == source.sha256
    return (row.size_bytes, row.modified_ns) == (source.size_bytes, source.modified_ns)


def _without(rows: list[Row], folders: Collection[Path]) -> list[Row]:
    return [row for row in rows if not any(is_under(row.path, folder) for folder in folders)]


def _judge_gone(
    plan: Plan, gone: list[Row], holders: list[Row], found: Collection[bytes], roots: Sequence[Path], *, prune: bool
) -> None:
    """Sort what is gone into `missing` (deleted) and `offline` (a disk is away, probably: its root is empty, missing, or lost much)."""
    if prune:
        plan.missing += [row.id for row in gone]
        return
    offline: set[int] = set()
    for root in roots:
        here = [row for row in gone if is_under(row.path, root)]
        present = sum(row.state == "indexed" and is_under(row.path, root) for row in holders)
        newly = [row for row in here if row.state == "indexed"]
        many = len(newly) > GONE_COUNT_LIMIT and len(newly) > GONE_SHARE_LIMIT * present
        is_empty = here and not any(is_under(path, root) for path in found)  # as a mount point is without its disk
        if many or is_empty:
            offline.update(row.id for row in here)
    for row in gone:
        if row.state == "offline":
            continue  # hidden already; it stays so until it returns or is pruned
        if row.id in offline and row.state == "indexed":
            plan.offline.append(row.id)
        elif row.id not in offline:
            plan.missing.append(row.id)
