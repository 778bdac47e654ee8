"""The date that a picture's metadata state: EXIF, XMP and IPTC, in the order of trust of `mmsearch.dates.DateSource`."""

from __future__ import annotations

import warnings
from contextlib import suppress
from typing import Any
from xml.etree import ElementTree

from PIL import ExifTags, Image, IptcImagePlugin

from mmsearch.dates import Dated, first_written, parse_written

MAX_XMP_BYTES = 4_000_000

_EXIF, _XMP, _PHOTOSHOP = (
    "{http://ns.adobe.com/exif/1.0/}", "{http://ns.adobe.com/xap/1.0/}", "{http://ns.adobe.com/photoshop/1.0/}",
)  # fmt: skip
XMP_DATES = (
    f"{_EXIF}DateTimeOriginal",
    f"{_PHOTOSHOP}DateCreated",
    f"{_EXIF}DateTimeDigitized",
    f"{_XMP}CreateDate",
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
    if not packet or len(packet) > MAX_XMP_BYTES:
        return None
    if isinstance(packet, bytes):
        packet = packet.strip(b"\0 \t\r\n")
    properties: dict[str, str] = {}
    for element in ElementTree.fromstring(packet).iter():
        for name, value in ((element.tag, element.text or ""), *element.attrib.items()):
            properties.setdefault(name, value)
    found = first_written(properties.get(name) for name in XMP_DATES)
    return Dated(found, "xmp") if found else None


def _of_iptc(image: Image.Image) -> Dated | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        datasets = IptcImagePlugin.getiptcinfo(image) or {}  # type: ignore[arg-type]
    for day_at, time_at in IPTC_DATES:
        day, clock = (_single(datasets.get(at)) for at in (day_at, time_at))
        if found := parse_written(f"{day}T{clock}") or parse_written(day):
            return Dated(found, "iptc")
    return None


def _single(value: Any) -> str:
    """An IPTC dataset's value; the first, where it is repeated."""
    if isinstance(value, list):
        value = value[0] if value else b""
    return value.decode("ascii", "replace").strip("\0 ") if isinstance(value, bytes) else ""


__all__ = ["Dated", "picture_date"]
