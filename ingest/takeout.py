"""The JSON files that Google Takeout writes beside photos and videos: their captions, people, places and dates.

Google's photo service keeps what people write apart from the pictures: it is in these files alone.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from mmsearch.media.dates import Dated, parse_written
from mmsearch.media.descriptions import NOTHING, Description

SUFFIX = ".json"
MAX_BYTES = 200_000
LONGEST_STEM = 46
"""Takeout cuts the names of its files to so many characters before `.json`."""
_KIND = "supplemental-metadata"
"""Stands between the file's name and the suffix since 2024, and may be cut anywhere."""
_MARK = "photoTakenTime"
_NUMBER = re.compile(r"\([0-9]{1,3}\)$")
_EDITED = re.compile(r"-(?:edited|bearbeitet|modifié|editado|editada|modificato|bewerkt|edytowane)(?=\.[^.]+$)")
"""What Google's editor adds to the name of a photo: its copy has no file of its own."""


def described_by(name: str) -> str:
    """The name of the photo or video that a file called `name` describes: `a(1).jpg` for `a.jpg.supplemental-metadata(1).json`."""
    stem = name[: -len(SUFFIX)]
    number = ""
    if match := _NUMBER.search(stem):
        stem, number = stem[: match.start()], match[0]
    head, dot, kind = stem.rpartition(".")
    if dot and _KIND.startswith(kind):
        stem = head
    root, suffix = os.path.splitext(stem)  # noqa: PTH122
    return f"{root}{number}{suffix}"


def names_for(name: str) -> list[str]:
    """What `described_by` says of the files that may describe a photo or video of this name, in lower case as `name` is."""
    found = [name, _EDITED.sub("", name)]
    return list(dict.fromkeys([*found, *(one[:LONGEST_STEM] for one in found if len(one) > LONGEST_STEM)]))


def is_takeout(raw: bytes) -> bool:
    """Whether the content, or its beginning, is of such a file: other programs write JSON, too."""
    return f'"{_MARK}"'.encode() in raw


def read(raw: bytes) -> tuple[Description, Dated | None]:
    """What a file says, and the moment that it states, in UTC; nothing where it is none of Takeout's, or damaged."""
    try:
        told = json.loads(raw) if len(raw) <= MAX_BYTES and is_takeout(raw) else None
    except (ValueError, RecursionError):
        return NOTHING, None
    if not isinstance(told, dict):
        return NOTHING, None
    people = told.get("people")
    said = Description.of(
        captions=[told.get("description")],
        people=[one.get("name") for one in people if isinstance(one, dict)] if isinstance(people, list) else (),
        gps=_position(told.get("geoData")) or _position(told.get("geoDataExif")),
    )
    return said, _date(told.get(_MARK))


def _position(told: Any) -> tuple[float, float] | None:
    """None for a missing position, which is written as zeros."""
    with suppress(TypeError, ValueError, KeyError):
        latitude, longitude = (float(told[name]) for name in ("latitude", "longitude"))
        if (latitude or longitude) and abs(latitude) <= 90 and abs(longitude) <= 180:
            return round(latitude, 6), round(longitude, 6)
    return None


def _date(told: Any) -> Dated | None:
    with suppress(TypeError, ValueError, KeyError, OverflowError, OSError):
        if found := parse_written(datetime.fromtimestamp(int(told["timestamp"]), UTC).isoformat()):
            return Dated(found, "takeout")
    return None
