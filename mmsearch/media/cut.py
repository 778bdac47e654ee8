"""Pictures that lack their last bytes, in formats whose decoders refuse them: WebP, HEIC and AVIF.

A copy that is filled up is decoded instead: the picture is right up to the cut, and whatever the decoder makes of the filling below.
"""

from __future__ import annotations

import io
import os
import struct
from typing import IO

FILLINGS = (0x00, 0xFF, 0x01)
"""Bytes to try for what is missing, one after the other: some end in a symbol that an AV1 decoder refuses."""
MIN_SHARE = 0.02
"""A file of which less is there is damaged."""
MAX_BYTES = 256 << 20
"""Larger files are not filled up: the copy lies in memory."""


class CutShort(OSError):
    """The share of a file that is there is not the whole of it."""

    def __init__(self, share: float) -> None:
        super().__init__(f"image file is truncated: {share:.0%} of it is there")


def filled(handle: IO[bytes], filling: int = FILLINGS[0]) -> tuple[IO[bytes], float] | None:
    """A copy of a file as long as its boxes or chunks say, and which share of it is there; None for whole files and other formats.

    `handle` is at its beginning, before and after.
    """
    head = handle.read(12)
    size = handle.seek(0, os.SEEK_END)
    handle.seek(0)
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        end = _end_of_chunks(handle, size)
    elif head[4:8] == b"ftyp":
        end = _end_of_boxes(handle, size)
    else:
        return None
    handle.seek(0)
    if not size < end <= min(MAX_BYTES, size / MIN_SHARE):
        return None
    content = bytearray(handle.read() + bytes([filling]) * (end - size))
    handle.seek(0)
    if head[:4] == b"RIFF":
        content[4:8] = struct.pack("<I", end - 8)
    return io.BytesIO(bytes(content)), size / end


def _end_of_chunks(handle: IO[bytes], size: int) -> int:
    """Where the chunk of a WebP file ends that is cut; what follows it is missing altogether, and left out."""
    at = 12
    while at + 8 <= size:
        handle.seek(at)
        (length,) = struct.unpack("<4xI", handle.read(8))
        at += 8 + length + length % 2
    return at


def _end_of_boxes(handle: IO[bytes], size: int) -> int:
    """Where the last box begun of an ISO file ends."""
    at = 0
    while at + 8 <= size:
        handle.seek(at)
        head = handle.read(16)
        (length,) = struct.unpack(">I4x", head[:8])
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack(">8xQ", head)
        if length < 8:  # 0: up to the end of the file, wherever that is
            return size
        at += length
    return at
