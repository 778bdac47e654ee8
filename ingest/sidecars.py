"""Sidecars: what photo managers write about a file beside it, in `IMG_1.jpg.xmp` or `IMG_1.xmp`, and Google Takeout in
`IMG_1.jpg.json` (`ingest.takeout`).

A library remembers the stamp of those that it read (`sources.sidecars`), so that one that appears, changes or goes away later is noticed
without opening the file.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from ingest import takeout
from ingest.readers import promised_type
from ingest.subtitles import fold, names_in, stamp_of
from mmsearch.media.dates import Dated
from mmsearch.media.descriptions import NOTHING, Description
from mmsearch.media.picture_dates import date_of_packet
from mmsearch.media.xmp import MAX_XMP_BYTES, description_of_packet

log = logging.getLogger(__name__)

SUFFIX = ".xmp"
MAX_FILES = 4
"""So many sidecars of one file are read: names that differ in case alone may both be there."""


class SidecarFolder:
    """The sidecars in one folder, listed once. What cannot be listed holds none."""

    def __init__(self, folder: Path) -> None:
        self._found: dict[str, list[Path]] = defaultdict(list)
        self._takeout: dict[str, list[Path]] = defaultdict(list)
        for name in names_in(folder):
            if name.lower().endswith(SUFFIX):
                self._found[fold(name[: -len(SUFFIX)])].append(folder / name)
            elif name.lower().endswith(takeout.SUFFIX):
                self._takeout[fold(takeout.described_by(name))].append(folder / name)

    def beside(self, file: Path) -> list[Path]:
        """The sidecars of a file in this folder: those of its full name, then those of its stem, which all files of one moment share, then
        Google's."""
        found = sorted(self._found.get(fold(file.name), ()))
        promised = promised_type(file.suffix.lower())
        if promised is None or promised.kind != "page":
            if file.stem != file.name:
                found += sorted(self._found.get(fold(file.stem), ()))
            if self._takeout:
                names = takeout.names_for(fold(file.name))
                found += next((sorted(self._takeout[name]) for name in names if name in self._takeout), [])
        return found[:MAX_FILES]


def stamp(files: Sequence[Path]) -> str:
    """Changes when one of the sidecars is replaced, edited, renamed or deleted; "" for none."""
    return stamp_of((file.name, file) for file in files) if files else ""


def description_beside(file: Path) -> Description:
    """What the sidecars of a file say of it; nothing where there are none, or none can be read."""
    said = NOTHING
    for sidecar, raw in _contents(file):
        said = said.over(takeout.read(raw)[0] if _is_takeout(sidecar) else description_of_packet(raw))
    return said


def date_beside(file: Path) -> Dated | None:
    """When a photo or video was taken, as its sidecars state it: `xmp` before `takeout`; None where none does."""
    for sidecar, raw in _contents(file):
        if (found := takeout.read(raw)[1] if _is_takeout(sidecar) else date_of_packet(raw)) is not None:
            return found
    return None


def _is_takeout(sidecar: Path) -> bool:
    return sidecar.suffix.lower() == takeout.SUFFIX


def _contents(file: Path) -> Iterator[tuple[Path, bytes]]:
    """The sidecars of a file that can be read."""
    for sidecar in SidecarFolder(file.parent).beside(file):
        try:
            if not sidecar.is_file():
                continue
            with sidecar.open("rb") as handle:
                yield sidecar, handle.read(MAX_XMP_BYTES + 1)
        except OSError as error:
            log.debug("%s: %s", sidecar, error)
