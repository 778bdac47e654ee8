"""The chunks of a PNG file, and a copy of one that holds texts or a colour profile for which Pillow would refuse the picture.

They are too large for its guard against bombs, or their checksum is wrong. Viewers show such a picture: these chunks are no part of it.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator
from typing import IO

from PIL import PngImagePlugin

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 100_000
"""Of a file that are looked at; pixels are skipped, not read."""
MAX_COPY_BYTES = 256 << 20
"""Larger files are not copied: the copy lies in memory."""
TEXTS = {b"tEXt": b"teXt", b"zTXt": b"zzXt", b"iTXt": b"izXt"}
"""The names of text chunks, and what those that Pillow refuses are called in a copy: private names, which decoders pass over."""
SET_ASIDE = {**TEXTS, b"iCCP": b"izCP"}
NAMES = {new: name for name, new in TEXTS.items()}


def chunks(handle: IO[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """(name, where its content begins, the content's length in bytes) of each chunk before the end; `handle` may be moved meanwhile."""
    at = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        handle.seek(at)
        head = handle.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        size = int.from_bytes(head[:4], "big")
        yield head[4:], at + 8, size
        at += 12 + size


def without_refused(handle: IO[bytes]) -> IO[bytes] | None:
    """A copy of a PNG file in which the texts and the profile that Pillow would refuse have a private name; None where there are none, and for other files.

    `handle` is at its beginning, before and after.
    """
    head = handle.read(len(SIGNATURE))
    size = handle.seek(0, os.SEEK_END)
    handle.seek(0)
    if head != SIGNATURE or size > MAX_COPY_BYTES:
        return None
    refused, total_bytes = [], 0
    for name, at, length in chunks(handle):
        if name not in SET_ASIDE or at + length + 4 > size:
            continue
        handle.seek(at)
        content, checksum = handle.read(length), int.from_bytes(handle.read(4), "big")
        text_bytes = _text_bytes(name, content)
        if (
            text_bytes is None
            or total_bytes + text_bytes > PngImagePlugin.MAX_TEXT_MEMORY
            or checksum != zlib.crc32(name + content)
        ):
            refused.append(at)
        else:
            total_bytes += text_bytes
    handle.seek(0)
    if not refused:
        return None
    copy = bytearray(handle.read())
    handle.seek(0)
    for at in refused:
        end = at + int.from_bytes(copy[at - 8 : at - 4], "big")
        copy[at - 4 : at] = SET_ASIDE[bytes(copy[at - 4 : at])]
        copy[end : end + 4] = zlib.crc32(copy[at - 4 : end]).to_bytes(4, "big")
    return io.BytesIO(bytes(copy))


def _text_bytes(name: bytes, content: bytes) -> int | None:
    """What a text or profile takes once it is inflated; 0 where it is damaged, None where Pillow refuses it."""
    _, _, rest = content.partition(b"\0")
    if name == b"tEXt":
        return len(content)
    if name == b"iTXt":
        if rest[:1] != b"\1":
            return len(content)
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    else:
        if rest[:1] not in (b"", b"\0"):  # an unknown way to compress it
            return None
        rest = rest[1:]
    inflating = zlib.decompressobj()
    try:
        text_bytes = len(inflating.decompress(rest, PngImagePlugin.MAX_TEXT_CHUNK))
    except zlib.error:
        return 0
    return None if inflating.unconsumed_tail else text_bytes
