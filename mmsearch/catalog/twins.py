"""Files that count as one answer: identical ones, the photo and the short video of one moment (Live Photo), a photo and its RAW file."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection

from mmsearch.catalog.dialect.sqlite import listed, members
from mmsearch.items import Item
from mmsearch.media.dates import wall_s

Key = tuple[Any, ...]
"""Names an answer: items of one key are shown once. Content, kind and place in the file."""

PHOTO_SUFFIXES = (".heic", ".heif", ".jpg", ".jpeg")
MOVING_SUFFIXES = (".mov", ".mp4", ".m4v")
RAW_SUFFIXES = (
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2",
    ".rwl", ".sr2", ".srf", ".srw", ".x3f",
)  # fmt: skip
MAX_MOMENT_S = 3.5
"""The video of a Live Photo is no longer than this."""
NEAR_S = 10.0
"""Photo and video of one moment are dated within this time."""
ZONE_STEP_S, MAX_ZONE_S = 900, 14 * 3600
"""Time zones differ from UTC by multiples of the one, up to the other."""
PATHS_AT_ONCE = 5000
"""SQLite takes a limited number of parameters."""


@dataclass(frozen=True, slots=True)
class _File:
    """A searchable file. `kind` and `meta` are of its first item; `identifier` is Apple's content identifier."""

    id: int
    path: bytes
    sha256: str
    modified_ns: int
    identifier: str | None
    kind: str
    meta: Mapping[str, Any]

    @property
    def suffix(self) -> str:
        return os.fsdecode(os.path.splitext(self.path)[1]).lower()  # noqa: PTH122

    @property
    def stem(self) -> bytes:
        """The path without its suffix."""
        return os.path.splitext(self.path)[0]  # noqa: PTH122

    @property
    def key(self) -> Key:
        """Of a photo."""
        return self.sha256, "image", None, None

    @property
    def date(self) -> str | None:
        """The date that the file or its name states."""
        stated = self.meta.get("captured_at")
        return stated if isinstance(stated, str) and self.meta.get("date_source") != "file" else None

    def is_moving(self) -> bool:
        return self.kind == "clip" and (self.identifier is not None or is_brief(self.meta))

    def is_raw(self) -> bool:
        return self.suffix in RAW_SUFFIXES

    def is_photo(self) -> bool:
        return self.kind == "image" and not self.is_raw()


def is_brief(meta: Mapping[str, Any]) -> bool:
    """Whether a video is short enough for the one of a Live Photo."""
    length_s = meta.get("duration_s")
    return isinstance(length_s, int | float) and length_s <= MAX_MOMENT_S


def is_companion(photo: _File, other: _File) -> bool:
    """Whether `other` is the video of a photo's moment, or its RAW file: then the photo stands for both."""
    if not photo.is_photo():
        return False
    if other.is_raw():
        return photo.suffix in PHOTO_SUFFIXES and photo.stem == other.stem
    if not other.is_moving():
        return False
    if photo.identifier is not None and other.identifier is not None:
        return photo.identifier == other.identifier
    return (
        photo.suffix in PHOTO_SUFFIXES
        and other.suffix in MOVING_SUFFIXES
        and is_brief(other.meta)
        and photo.stem == other.stem
        and are_near(photo, other)
    )


def are_near(photo: _File, video: _File) -> bool:
    """Whether both are dated to one moment. Where one of them states no date, the times of the files count; where neither does, no."""
    if photo.date is None and video.date is None:
        return False
    if photo.date is None or video.date is None:
        return abs(photo.modified_ns - video.modified_ns) <= NEAR_S * 1e9
    common = min(len(photo.date), len(video.date))
    if common <= len("2015-06-01"):
        return photo.date[:common] == video.date[:common]
    at_photo, at_video = wall_s(photo.date), wall_s(video.date)
    if at_photo is None or at_video is None:
        return False
    apart_s = at_photo - at_video
    if video.meta.get("date_source") in ("creation_time", "takeout"):  # in UTC
        if (offset_s := _offset_s(photo.date)) is not None:
            apart_s -= offset_s
        elif abs(apart_s) <= MAX_ZONE_S + NEAR_S:
            apart_s -= round(apart_s / ZONE_STEP_S) * ZONE_STEP_S
    return abs(apart_s) <= NEAR_S


def _offset_s(date: str) -> float | None:
    """Seconds by which a date's clock is ahead of UTC; None if it does not say."""
    try:
        offset = datetime.fromisoformat(date).utcoffset()
    except ValueError:
        return None
    return None if offset is None else offset.total_seconds()


def keys(c: Connection, ids: Iterable[int]) -> dict[int, Key]:
    """The answer to which each of the visible items among `ids` belongs."""
    rows = c.execute(
        text(
            "SELECT i.id, s.sha256, s.path, s.content_identifier, i.kind, i.page_number, i.start_s,"
            " CASE i.kind WHEN 'clip' THEN i.meta END AS meta FROM items i JOIN sources s ON s.id = i.source_id"
            f" WHERE i.visible = 1 AND i.id IN {members('ids')}"
        ),
        {"ids": listed(ids)},
    ).all()
    companions = {
        row.sha256
        for row in rows
        if (row.kind == "clip" and (row.content_identifier is not None or is_brief(_facts(row.meta))))
        or os.fsdecode(os.path.splitext(row.path)[1]).lower() in RAW_SUFFIXES  # noqa: PTH122
    }
    photos = _photos_of(c, companions)
    return {
        row.id: photos[row.sha256].key if row.sha256 in photos else (row.sha256, row.kind, row.page_number, row.start_s)
        for row in rows
    }


def also_at(c: Connection, items: Sequence[Item]) -> dict[int, tuple[Path, ...]]:
    """Where else the answers of visible items lie, by item id: files in the item's own folder first. Items without any are left out."""
    of_item = keys(c, [item.id for item in items])
    groups = _files_of_answers(c, {key[0] for key in of_item.values()})
    found = {}
    for item in items:
        own = os.fsencode(item.path)
        others = {file.path for file in groups.get(of_item[item.id][0], ())} - {own} if item.id in of_item else set()
        folder = os.path.dirname(own)  # noqa: PTH120
        ordered = sorted(others, key=lambda path: (os.path.dirname(path) != folder, path))  # noqa: PTH120
        if ordered:
            found[item.id] = tuple(Path(os.fsdecode(path)) for path in ordered)
    return found


def _files_of_answers(c: Connection, contents: Collection[str]) -> dict[str, list[_File]]:
    """For each content: its files, and those of the videos and RAW files for which it stands."""
    files = _files_of(c, contents)
    photos = [file for of_one in files.values() for file in of_one if file.is_photo()]
    beside = {
        other.sha256 for of_one in _candidates(c, photos).values() for other in of_one if other.sha256 not in contents
    }
    standing = _photos_of(c, beside)
    companions = _files_of(c, standing)
    groups = {content: list(of_one) for content, of_one in files.items()}
    for content, photo in standing.items():
        if photo.sha256 in groups:
            groups[photo.sha256] += companions[content]
    return groups


def _photos_of(c: Connection, contents: Collection[str]) -> dict[str, _File]:
    """For contents of videos and RAW files the photo that stands for them, where there is one: by its identifier, then beside the file."""
    files = _files_of(c, contents)
    candidates = _candidates(c, [file for of_one in files.values() for file in of_one])
    found = {}
    for content, of_one in files.items():
        pairs = [
            (photo.identifier is None or photo.identifier != file.identifier, photo.stem != file.stem, photo.id, photo)
            for file in of_one
            for photo in candidates[file.id]
            if is_companion(photo, file)
        ]
        if pairs:
            found[content] = min(pairs)[-1]
    return found


def _candidates(c: Connection, files: Sequence[_File]) -> dict[int, list[_File]]:
    """For each file, by its id, those with the same identifier or the same path but for the suffix."""
    by_identifier: dict[str, list[_File]] = defaultdict(list)
    names = {file.identifier for file in files if file.identifier is not None}
    if names:
        same = f"s.content_identifier IN {members()}"
        for other in _read(c, same, [listed(sorted(names))]):
            by_identifier[other.identifier or ""].append(other)
    by_stem: dict[bytes, list[_File]] = defaultdict(list)
    paths = sorted({path for file in files for path in _beside(file)})
    for some in (paths[at : at + PATHS_AT_ONCE] for at in range(0, len(paths), PATHS_AT_ONCE)):
        # One after the other: for a long list SQLite looks at all files instead.
        asked = f"(SELECT column1 AS path FROM (VALUES {', '.join(['(?)'] * len(some))})) asked CROSS JOIN"
        # The condition of the index of paths, word for word.
        for other in _read(c, "s.state IN ('indexed', 'offline') AND s.path = asked.path", some, asked):
            by_stem[other.stem].append(other)
    return {
        file.id: [
            *by_identifier.get(file.identifier or "", ()),
            *(other for other in by_stem.get(file.stem, ()) if other.id != file.id),
        ]
        for file in files
    }


def _files_of(c: Connection, contents: Collection[str]) -> dict[str, list[_File]]:
    """The searchable files of each content."""
    found: dict[str, list[_File]] = defaultdict(list)
    if contents:
        same = f"s.sha256 IN {members()}"
        for file in _read(c, same, [listed(sorted(contents))]):
            found[file.sha256].append(file)
    return found


def _beside(file: _File) -> list[bytes]:
    """Where a companion of a file would lie, or the photo that it is a companion of."""
    suffixes: tuple[str, ...] = ()
    if file.is_raw() or file.suffix in MOVING_SUFFIXES:
        suffixes = PHOTO_SUFFIXES
    elif file.suffix in PHOTO_SUFFIXES:
        suffixes = (*MOVING_SUFFIXES, *RAW_SUFFIXES)
    return [file.stem + os.fsencode(one) for suffix in suffixes for one in (suffix, suffix.upper())]


def _read(c: Connection, condition: str, parameters: Sequence[Any], joined: str = "") -> Iterator[_File]:
    """The searchable files `s` that meet a condition; `+` keeps SQLite from looking at all files of that state."""
    rows = c.exec_driver_sql(
        f"SELECT s.id, s.path, s.sha256, s.modified_ns, s.content_identifier, i.kind, i.meta FROM {joined} sources s"
        " JOIN items i ON i.source_id = s.id AND i.ordinal = 0 AND i.deleted_at IS NULL AND i.visible = 1"
        f" WHERE +s.state = 'indexed' AND {condition}",
        tuple(parameters),
    )
    for row in rows.all():
        yield _File(row[0], row[1], row[2], row[3], row[4], row[5], _facts(row[6]))


def _facts(meta: str | None) -> dict[str, Any]:
    try:
        found = json.loads(meta or "{}")
    except ValueError:  # damaged, which `mmsearch doctor` finds
        return {}
    return found if isinstance(found, dict) else {}
