"""XMP packets: in pictures, in PDFs, and in the sidecar files that photo managers write.

A packet is foreign XML: one with a document type, which could define entities, is not parsed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

from mmsearch.media.descriptions import NOTHING, Description

MAX_XMP_BYTES = 4_000_000
"""A larger packet is not read: it holds thumbnails, or the history of an image editor."""
MAX_VALUES = 1000
"""Values of one property that are looked at."""

_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_DC = "{http://purl.org/dc/elements/1.1/}"
_XMP = "{http://ns.adobe.com/xap/1.0/}"
_PDF = "{http://ns.adobe.com/pdf/1.3/}"
_PHOTOSHOP = "{http://ns.adobe.com/photoshop/1.0/}"
_IPTC_CORE = "{http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/}"
_IPTC_EXT = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
_TIFF = "{http://ns.adobe.com/tiff/1.0/}"
_EXIF = "{http://ns.adobe.com/exif/1.0/}"
_AUX = "{http://ns.adobe.com/exif/1.0/aux/}"
_EXIF_EX = "{http://cipa.jp/exif/1.0/}"
_REGIONS = "{http://www.metadataworkinggroup.com/schemas/regions/}"
_MP = "{http://ns.microsoft.com/photo/1.2/}"
_MP_REGION = "{http://ns.microsoft.com/photo/1.2/t/Region#}"
_LIGHTROOM = "{http://ns.adobe.com/lightroom/1.0/}"
_DIGIKAM = "{http://www.digikam.org/ns/1.0/}"
_MICROSOFT = ("{http://ns.microsoft.com/photo/1.0/}", "{http://ns.microsoft.com/photo/1.0}")
_ACDSEE = "{http://ns.acdsee.com/iptc/1.0/}"

_PEOPLE_FOLDERS = {"people", "persons", "personen", "leute", "personnes", "personas", "faces", "name", "namen"}
"""The uppermost word of a hierarchy of keywords below which the others are people."""


def description_of_packet(packet: bytes | str) -> Description:
    """What an XMP packet says; nothing where it is damaged or too large."""
    return _description(_properties(packet))


class _Properties(dict[str, list[str]]):
    """The values of each property, by its qualified name; and the people in marked regions."""

    def __init__(self) -> None:
        self.people: list[str] = []

    def all(self, *names: str) -> list[str]:
        return [value for name in names for value in self.get(name, ())]

    def first(self, *names: str) -> str:
        return next(iter(self.all(*names)), "")


def _properties(packet: bytes | str) -> _Properties:
    found = _Properties()
    if len(packet) > MAX_XMP_BYTES:
        return found
    xml = re.sub(r"\A<\?xml\s[^>]*\?>", "", _decoded(packet).strip("\0 \t\r\n\ufeff"))
    if "<!doctype" in xml.lower():
        return found
    try:
        root = ElementTree.fromstring(xml.encode("utf-8", "replace"))
    except (ElementTree.ParseError, ValueError):
        return found
    rdf = root if root.tag == f"{_RDF}RDF" else root.find(f"{_RDF}RDF")
    for description in () if rdf is None else rdf.iterfind(f"{_RDF}Description"):
        for name, value in description.attrib.items():
            found.setdefault(name, []).append(value)
        for element in description:
            found.setdefault(element.tag, []).extend(_values(element))
            if element.tag in (f"{_REGIONS}Regions", f"{_MP}RegionInfo"):
                found.people.extend(_people_in(element))
    return found


def _decoded(packet: bytes | str) -> str:
    if isinstance(packet, str):
        return packet
    if packet.startswith((b"\xff\xfe", b"\xfe\xff")):
        return packet.decode("utf-16", "replace")
    if b"\0" in packet[:4]:
        return packet.decode("utf-16-be" if packet[0] == 0 else "utf-16-le", "replace")
    return packet.decode("utf-8", "replace")


def _values(element: ElementTree.Element) -> list[str]:
    """A property's text, or those of its list; of alternatives in several languages the default first."""
    items = list(element.iterfind(f"*/{_RDF}li"))[:MAX_VALUES]
    if not items:
        return [element.text or ""] if (element.text or "").strip() else list(_inner(element))
    if element.find(f"{_RDF}Alt") is not None:
        items.sort(key=lambda item: item.get(_LANGUAGE) != "x-default")
    return [value for item in items for value in ([item.text] if (item.text or "").strip() else _inner(item)) if value]


def _inner(element: ElementTree.Element) -> Iterator[str]:
    """The texts and attributes of a structure, such as IPTC's places."""
    for count, inner in enumerate(element.iter()):
        if count > MAX_VALUES:
            return
        yield from (value for name, value in inner.attrib.items() if not name.startswith(_RDF) and name != _LANGUAGE)
        if inner is not element and (inner.text or "").strip():
            yield inner.text or ""


def _people_in(regions: ElementTree.Element) -> Iterator[str]:
    """The names of marked faces; regions that mark a pet, a bar code or the focus are no people."""
    for count, region in enumerate(regions.iter()):
        if count > MAX_VALUES:
            return
        told = {**region.attrib, **{inner.tag: inner.text or "" for inner in region}}
        if told.get(f"{_REGIONS}Type", "Face") == "Face" and (name := told.get(f"{_REGIONS}Name")):
            yield name
        if name := told.get(f"{_MP_REGION}PersonDisplayName"):
            yield name


def _description(found: _Properties) -> Description:
    if not found:
        return NOTHING
    keywords = found.all(f"{_DC}subject", *(f"{one}LastKeywordXMP" for one in _MICROSOFT))
    keywords += [part for value in found.all(f"{_PDF}Keywords") for part in split_keywords(value)]
    people = [*found.people, *found.all(f"{_IPTC_EXT}PersonInImage")]
    for path in found.all(f"{_LIGHTROOM}hierarchicalSubject", f"{_DIGIKAM}TagsList"):
        parts = [part.strip() for part in re.split(r"[|/]", path) if part.strip()]
        if len(parts) > 1 and parts[0].casefold() in _PEOPLE_FOLDERS:
            people.append(parts[-1])
        else:
            keywords += parts
    maker, model = found.first(f"{_TIFF}Make"), found.first(f"{_TIFF}Model")
    return Description.of(
        titles=found.all(f"{_DC}title", f"{_PHOTOSHOP}Headline"),
        captions=[
            *found.all(f"{_PHOTOSHOP}Headline")[:1],
            *_default(
                found, f"{_DC}description", f"{_TIFF}ImageDescription", f"{_EXIF}UserComment", f"{_ACDSEE}caption"
            ),
            *_default(found, f"{_IPTC_CORE}AltTextAccessibility", f"{_IPTC_CORE}ExtDescrAccessibility"),
            *(
                said for name in ("title", "description") for said in found.get(f"{_DC}{name}", ())[1:]
            ),  # other languages
        ],
        keywords=keywords,
        people=people,
        places=[
            found.first(f"{_IPTC_CORE}Location"),
            *found.all(f"{_PHOTOSHOP}City", f"{_PHOTOSHOP}State", f"{_PHOTOSHOP}Country")[:3],
            *(
                []
                if found.first(f"{_PHOTOSHOP}City")
                else found.all(f"{_IPTC_EXT}LocationShown", f"{_IPTC_EXT}LocationCreated")
            ),
        ],
        authors=found.all(f"{_DC}creator")[:10],
        rating=next(filter(None, found.all(f"{_XMP}Rating")), None),
        camera=model if maker and model.lower().startswith(maker.lower()) else f"{maker} {model}".strip(),
        lens=found.first(f"{_AUX}Lens", f"{_AUX}LensModel", f"{_EXIF_EX}LensModel"),
        gps=_position(found.first(f"{_EXIF}GPSLatitude"), found.first(f"{_EXIF}GPSLongitude")),
    )


def _default(found: _Properties, *names: str) -> list[str]:
    """The value of each property in its default language."""
    return [found.first(name) for name in names]


def split_keywords(value: Any) -> list[str]:
    """Keywords in one field: apart by semicolons, or else by commas or lines."""
    if not isinstance(value, str):
        return []
    return [part for part in re.split(r";" if ";" in value else r"[,\n\r\0]", value[:20_000]) if part.strip()]


def _position(*angles: str) -> tuple[float, float] | None:
    """XMP's `52,31.12N` or `52,31,7.2N`."""
    found = []
    for angle, signs in zip(angles, ("NS", "EW"), strict=True):
        match = re.fullmatch(rf"\s*(\d{{1,3}}),(\d{{1,2}}(?:\.\d+)?)(?:,(\d{{1,2}}(?:\.\d+)?))?([{signs}])\s*", angle)
        if match is None:
            return None
        degrees = float(match[1]) + float(match[2]) / 60 + float(match[3] or 0) / 3600
        found.append(round(-degrees if match[4] == signs[1] else degrees, 6))
    return (found[0], found[1]) if abs(found[0]) <= 90 and abs(found[1]) <= 180 else None
