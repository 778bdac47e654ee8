"""Where previews lie in a library."""

from __future__ import annotations

from pathlib import PurePosixPath

PREVIEWS_NAME = "previews"


def is_preview(name: str) -> bool:
    """Whether `items.preview` names a file among the library's previews, and no other."""
    place = PurePosixPath(name)
    return len(place.parts) > 1 and place.parts[0] == PREVIEWS_NAME and not {"..", "\0"} & {*place.parts, *name}
