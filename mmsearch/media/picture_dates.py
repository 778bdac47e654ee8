"""The date that a picture's metadata state: EXIF, XMP and IPTC, in the order of trust of `mmsearch.media.dates.DateSource`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from PIL import ExifTags, Image

from mmsearch.media import iptc
from mmsearch.media.dates import Dated, first_written, parse_written

MAX_XMP_BYTES = 4_000_000

_EXIF, _XMP, _PHOTOSHOP = (
    "http://ns.adobe.com/exif/1.0/",
    "http://ns.adobe.com/xap/1.0/",
    "http://ns.adobe.com/photoshop/1.0/",
)
XMP_DATES = (
    (_EXIF, "DateTimeOriginal"),
    (_PHOTOSHOP, "DateCreated"),
    (_EXIF, "DateTimeDigitized"),
    (_XMP, "CreateDate"),
)
"""XMP properties that say when a picture was taken, the best first; when it was edited is none of them."""
IPTC_DATES = (((2, 55), (2, 60)), ((2, 62), (2, 63)))
"""IPTC datasets of date and time: created, digitized."""


def picture_date(image: Image.Image) -> Dated | None:
    """When a picture was taken. Takes an image from `media.open_header`; damage in one block costs that block's date alone."""
    for read in (_of_exif, _of_xmp, _of_iptc):
        with suppress(Exception):  # foreign formats of their own: nothing in them may cost the picture
            if (found := read(image)) is not None:
                return found
    return None


def _of_exif(image: Image.Image) -> Dated | None:
    exif = image.getexif()
    details: Any = {}
    with suppress(Exception):  # a damaged block of details leaves DateTime
        details = exif.get_ifd(ExifTags.IFD.Exif)
    base = ExifTags.Base
    routes: tuple[tuple[Any, Any, Any], ...] = (
        ("original", details.get(base.DateTimeOriginal), base.OffsetTimeOriginal),
        ("digitized", details.get(base.DateTimeDigitized), base.OffsetTimeDigitized),
        ("exif", exif.get(base.DateTime), base.OffsetTime),
    )
    for source, value, offset_tag in routes:
        if found := parse_written(value, offset=details.get(offset_tag)):
            return Dated(found, source)
    return None


def _of_xmp(image: Image.Image) -> Dated | None:
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    return date_of_packet(packet) if packet else None


def date_of_packet(packet: bytes | str) -> Dated | None:
    """When a picture was taken, as an XMP packet states it, in the picture or in a sidecar; None where it does not."""
    if len(packet) > MAX_XMP_BYTES:
        return None
    found = first_written(_property(_decoded(packet), namespace, name) for namespace, name in XMP_DATES)
    return Dated(found, "xmp") if found else None


def _decoded(packet: bytes | str) -> str:
    if isinstance(packet, str):
        return packet
    return packet.decode("utf-16" if packet.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8", "replace")


def _property(packet: str, namespace: str, name: str) -> str | None:
    """A property of an XMP packet, written as an attribute or as an element. No XML parser: nothing in a packet is expanded."""
    for prefix in dict.fromkeys(re.findall(rf"xmlns:([\w.-]+)\s*=\s*[\"']{re.escape(namespace)}[\"']", packet)):
        asked = rf"{re.escape(prefix)}:{name}"
        found = re.search(rf"\s{asked}\s*=\s*[\"']([^\"'<]*)[\"']|<{asked}(?:\s[^<>]*)?>([^<]*)<", packet)
        if found:
            return (found[1] or found[2] or "").strip()
    return None


def _of_iptc(image: Image.Image) -> Dated | None:
    datasets = iptc.datasets(image)
    for day_at, time_at in IPTC_DATES:
        day, clock = (_single(datasets.get(at, ())) for at in (day_at, time_at))
        if found := parse_written(f"{day}T{clock}") or parse_written(day):
            return Dated(found, "iptc")
    return None


def _single(values: Sequence[bytes]) -> str:
    """An IPTC dataset's value; the first, where it is repeated."""
    return values[0].decode("ascii", "replace").strip("\0 ") if values else ""


__all__ = ["Dated", "date_of_packet", "picture_date"]
