"""How a file's type is told by its content: one function per row of `FILE_TYPES` that has no plain prefix.

All look at the same few bytes and interpret none of them: safe in the parent process, on bytes that may mean harm.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

HEAD_BYTES = 4096
TAIL_BYTES = 65_536
ZIP = b"PK\x03\x04"


class Beginning(NamedTuple):
    """What is looked at. `head`: the first `HEAD_BYTES` of a file, or all of a shorter one. `tail`: of a ZIP file its last `TAIL_BYTES`,
    where its directory lies. `suffix`: of its name, lower case with the dot."""

    head: bytes
    tail: bytes = b""
    suffix: str = ""

    @property
    def brand(self) -> bytes:
        """The brand of a file of MP4's family, which HEIC and AVIF pictures are too; b"" for any other."""
        return self.head[8:12] if self.head[4:8] == b"ftyp" else b""


Signature = Callable[[Beginning], bool]


def beginning_of(path: Path) -> Beginning:
    """Reads at most 68 KB. A pipe is not waited for. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    with os.fdopen(descriptor, "rb", buffering=0) as handle:
        head, tail = handle.read(HEAD_BYTES) or b"", b""
        if head.startswith(ZIP):
            handle.seek(max(0, os.fstat(descriptor).st_size - TAIL_BYTES))
            tail = handle.read(TAIL_BYTES) or b""
    return Beginning(head, tail, path.suffix.lower())


def begins_with(*prefixes: bytes) -> Signature:
    return lambda file: file.head.startswith(prefixes)


def is_webp(file: Beginning) -> bool:
    return file.head[:4] == b"RIFF" and file.head[8:12] == b"WEBP"


def is_bmp(file: Beginning) -> bool:
    head = file.head
    is_header = head[14:15] in {b"\x0c", b"\x28", b"\x34", b"\x38", b"\x6c", b"\x7c"}
    return head[:2] == b"BM" and head[6:10] == b"\0\0\0\0" and is_header


HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
AVIF_BRANDS = {b"avif", b"avis"}
NO_VIDEO_BRANDS = {b"M4A ", b"M4B ", b"M4P ", b"crx "} | HEIF_BRANDS | AVIF_BRANDS
"""Relatives of MP4 that hold sound, raw photos or pictures."""


def is_avif(file: Beginning) -> bool:
    if file.brand == b"mif1":  # the general picture brand; AVIF files may lead with it
        return b"avif" in file.head[16:64] and b"heic" not in file.head[16:64]
    return file.brand in AVIF_BRANDS


def is_heic(file: Beginning) -> bool:
    return file.brand in HEIF_BRANDS and not is_avif(file)


def is_video(file: Beginning) -> bool:
    head = file.head
    if head[4:8] == b"ftyp":
        return file.brand not in NO_VIDEO_BRANDS
    if head[4:8] in {b"moov", b"mdat", b"wide", b"pnot"} or head[:4] == b"\x1aE\xdf\xa3":
        return True  # old QuickTime; Matroska and WebM
    if head[:4] in {b"FLV\x01", b"\0\0\x01\xba", b"\0\0\x01\xb3"} or head[:8] == b"0&\xb2u\x8ef\xcf\x11":
        return True  # Flash, MPEG program and elementary streams, ASF (WMV)
    if (head[:4] == b"RIFF" and head[8:12] == b"AVI ") or (head[:4] == b"OggS" and b"theora" in head):
        return True
    # MPEG transport stream, Blu-ray's variant
    return any(
        len(head) > start + 4 * step and all(head[start + n * step] == 0x47 for n in range(5))
        for start, step in ((0, 188), (4, 192))
    )


def is_epub(file: Beginning) -> bool:
    return file.head.startswith(ZIP) and file.head[30:].startswith(b"mimetypeapplication/epub+zip")


def is_xps(file: Beginning) -> bool:
    return file.head.startswith(ZIP) and (b".fdseq" in file.head or b".fdseq" in file.tail)


def is_pdf(file: Beginning) -> bool:
    return b"%PDF-" in file.head[:1024] and not file.head.startswith(ZIP)


SVG_BEGINNING = re.compile(
    rb"(?:\s*(?><\?.*?\?>|<!--.*?-->|<!DOCTYPE[^>\[]*(?:\[.*?\]\s*)?>))*+\s*<(?:\w{1,20}:)?svg[\s/>]", re.DOTALL
)
"""The root is an `svg`: many a web page has one further down. What was matched is not tried otherwise: the head may mean harm."""


def is_text(file: Beginning) -> bool:
    """Text of any sort, which no signature tells from another: no NUL is in it, or a byte order mark says that it is UTF-16."""
    if file.head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return not file.head.startswith(b"\xff\xfe\0\0")  # UTF-32
    return b"\0" not in file.head


def is_svg(file: Beginning) -> bool:
    return SVG_BEGINNING.match(file.head.removeprefix(b"\xef\xbb\xbf")) is not None
