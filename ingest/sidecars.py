"""XMP sidecars: what photo managers write about a file beside it, in `IMG_1.jpg.xmp` or `IMG_1.xmp`.

A library remembers the stamp of those that it read (`sources.sidecars`), so that one that appears, changes or goes away later is noticed
without opening the file.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ingest.readers import READERS, SUFFIX_TYPES
from ingest.subtitles import fold, names_in, stamp_of
from mmsearch.media.descriptions import NOTHING, Description
from mmsearch.media.xmp import MAX_XMP_BYTES, description_of_packet

log = logging.getLogger(__name__)

SUFFIX = ".xmp"
MAX_FILES = 4
"""So many sidecars of one file are read: names that differ in case alone may both be there."""


class SidecarFolder:
    """The sidecars in one folder, listed once. What cannot be listed holds none."""

    def __init__(self, folder: Path) -> None:
        self._found: dict[str, list[Path]] = defaultdict(list)
        for name in names_in(folder):
            if name.lower().endswith(SUFFIX):
                self._found[fold(name[: -len(SUFFIX)])].append(folder / name)

    def beside(self, file: Path) -> list[Path]:
        """The sidecars of a file in this folder: those of its full name, then those of its stem, which all files of one moment share."""
        found = sorted(self._found.get(fold(file.name), ()))
        if READERS.get(SUFFIX_TYPES.get(file.suffix.lower(), "")) != "ingest.pdf" and file.stem != file.name:
            found += sorted(self._found.get(fold(file.stem), ()))
        return found[:MAX_FILES]


def stamp(files: Sequence[Path]) -> str:
    """Changes when one of the sidecars is replaced, edited, renamed or deleted; "" for none."""
    return stamp_of((file.name, file) for file in files) if files else ""


def description_beside(file: Path) -> Description:
    """What the sidecars of a file say of it; nothing where there are none, or none can be read."""
    said = NOTHING
    for sidecar in SidecarFolder(file.parent).beside(file):
        try:
            if not sidecar.is_file():
                continue
            with sidecar.open("rb") as handle:
                raw = handle.read(MAX_XMP_BYTES + 1)
        except OSError as error:
            log.debug("%s: %s", sidecar, error)
            continue
        said = said.over(description_of_packet(raw))
    return said
