"""IPTC's datasets in JPEG and TIFF: what older photo managers and agencies write of a picture."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from PIL import Image, TiffImagePlugin

Datasets = dict[tuple[int, int], list[bytes]]
"""The values of each dataset, by (record, number), in the order of the file."""

MAX_BYTES, MAX_DATASETS = 1_000_000, 2000
_MARK, _RECORDS = 0x1C, range(1, 10)
_RESOURCE = 0x0404
"""Photoshop's number for the block of datasets."""


def datasets(image: Image.Image) -> Datasets:
    """What an image from `media.open_header` has; {} where it has none. A damaged record costs its own value alone."""
    found: Datasets = {}
    for count, (key, value) in enumerate(_records(_block(image)[:MAX_BYTES])):
        if count >= MAX_DATASETS:
            break
        found.setdefault(key, []).append(value)
    return found


def _block(image: Image.Image) -> bytes:
    block: Any = None
    if (
        image.format == "TIFF"
    ):  # as it stands in the file: Photoshop calls it numbers, of which Pillow would give the first
        block = getattr(image.tag_v2, "_tagdata", {}).get(TiffImagePlugin.IPTC_NAA_CHUNK)  # type: ignore[attr-defined]
    elif isinstance(resources := image.info.get("photoshop"), dict):
        block = resources.get(_RESOURCE)
    return block if isinstance(block, bytes) else b""


def _records(block: bytes) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Each dataset; what stands between two of them is passed over, and one whose size is wrong ends where the next begins."""
    at = _next(block, 0)
    while at is not None:
        record, number, size = struct.unpack_from(">BBH", block, at + 1)
        start = at + 5
        if size & 0x8000:  # of that many bytes is the true size
            count = size & 0x7FFF
            size = int.from_bytes(block[start : start + count], "big") if count <= 4 else len(block)
            start += count
        end = start + size
        if end > len(block):
            following = _next(block, at + 5)
            end = len(block) if following is None else following
        yield (record, number), block[start:end]
        at = _next(block, max(end, at + 5))


def _next(block: bytes, at: int) -> int | None:
    """Where the next dataset begins; None if none does."""
    while 0 <= (at := block.find(_MARK, at)) <= len(block) - 5:
        if block[at + 1] in _RECORDS:
            return at
        at += 1
    return None
