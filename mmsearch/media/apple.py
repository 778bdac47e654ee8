"""Apple's content identifier: the photo and the video of a Live Photo bear the same one."""

from __future__ import annotations

import re
import struct
from typing import Any

VIDEO_TAG = "com.apple.quicktime.content.identifier"
"""The key of a QuickTime file's metadata."""
MAX_CHARS = 100

_NOTE, _IDENTIFIER_TAG, _TEXT = b"Apple iOS\0", 0x0011, 2
_ORDER = {b"MM": ">", b"II": "<"}
_MAX_ENTRIES = 200


def identifier_of_note(note: Any) -> str | None:
    """The content identifier in an EXIF MakerNote of Apple's; None for any other, or a damaged one.

    The note is a TIFF directory of its own, whose offsets count from the note's first byte.

    Source: exiftool/exiftool lib/Image/ExifTool/Apple.pm (tag 0x0011).
    """
    if not isinstance(note, bytes) or not note.startswith(_NOTE) or note[12:14] not in _ORDER:
        return None
    order = _ORDER[note[12:14]]
    try:
        (count,) = struct.unpack_from(f"{order}H", note, 14)
        for at in range(16, 16 + 12 * min(count, _MAX_ENTRIES), 12):
            tag, kind, length, offset = struct.unpack_from(f"{order}HHII", note, at)
            if tag == _IDENTIFIER_TAG and kind == _TEXT:
                start = offset if length > 4 else at + 8
                return checked_identifier(note[start : start + min(length, MAX_CHARS + 1)])
    except struct.error:
        return None
    return None


def checked_identifier(value: Any) -> str | None:
    """An identifier (a UUID as a rule) in upper case, or None if it cannot be one."""
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    if not isinstance(value, str):
        return None
    value = value.strip("\0 ").upper()
    return value if re.fullmatch(rf"[0-9A-Z._-]{{8,{MAX_CHARS}}}", value) else None
