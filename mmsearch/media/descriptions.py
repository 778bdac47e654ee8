"""What a file's metadata say about it in words: title, captions, keywords, people, place, author; and the few facts beside them.

Readers collect raw values; `Description.of` cleans them, drops what devices and programs write by themselves, and bounds every size.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from mmsearch.plain_text import readable

MAX_NAME_CHARS = 300
"""A title, a place, an author, a camera, a lens."""
MAX_CAPTION_CHARS, MAX_CAPTIONS = 4000, 8
MAX_LISTED, MAX_LISTED_CHARS = 100, 100
"""Keywords and people: so many, and so long each. A longer one is a text, no keyword."""
MAX_RAW_CHARS = 100_000
"""Of a raw value no more is looked at."""

_PROGRAMS = r"""
    (?:adobe|photoshop|gimp|imagemagick|lavf|lavc|handbrake|ffmpeg|libreoffice|openoffice|pdftex|pdflatex|latex|tex|quarkxpress|indesign
    |illustrator|coreldraw|ghostscript|picasa|lightroom|snapseed|paint\.net|acrobat|skia|canva|capcut|vsco|inshot|imagegear|microsoft
        |apple|google)"""
_GENERIC = re.compile(
    rf"""(?xi)
      (?:\w+\ )?(?:konica\ minolta\ )?digital\ (?:still\ )?camera | kodak\ digital\ still\ camera
    | sony\ dsc | samsung(?:\ (?:electronics|camera\ ?\d*|techwin))? | dcim[\\/].* | gopro | maker(?:\ note)?:?
    | <?\ ?(?:digimax|kenox)\b.* | apple?mark | exif[_ ]jpeg[_ ]\S+ | (?:jpeg|jpg|png)\ (?:picture|image)
    | user\ ?comments? | image\ ?description | (?:x-)?default | (?:unicode|ascii|jis) | binary\ comment | charset\ ?=.*
    | (?:dav|sdr|hdr|cof|ptr|rptr|ozedf|oznor|ozcof|rhdr|fhdr|mde|btf|nor|fbt|edf|lensblur|srrg|bty|mef|bph|vtr|rbt|rpt|pmr
        |pnr)(?:_(?:soft|cuva|vivid|hdr))*+
    | (?:filter|fileterintensity|ver|vid|lp|ab):\ ?\S.*
    | \(?(?:untitled|unnamed|unknown|anonymous|none|null|undefined|n/a|no\ title|unbenannt|sans\ (?:titre|nom)|(?:ohne|kein)\ titel
        |sin\ t[ií]tulo|senza\ titolo)\)?(?:[-_ ]?\d{{1,4}})?
    | (?:document|dokument|doc|slide|folie|layout|page|seite|sheet|table|tabelle|book|mappe|presentation|pr[äa]sentation|drawing|zeichnung
        |image|picture|photo|photograph|img|screenshot|title|print|scan|scanned\ document|cover|new\ document
            |neues\ dokument)[-_ ]?\(?\d{{0,5}}\)?
    | powerpoint[- ](?:presentation|pr[äa]sentation) | pr[ée]sentation\ powerpoint | microsoft\W{{1,2}}(?:word|powerpoint|excel
        |publisher|visio)\b.*
    | (?:created|made|edited|processed|generated|exported|converted|captured|optimi[sz]ed|compressed)\ (?:with|using)\ .{{0,80}}
    | (?:created|file\ written|generated|exported|converted)\ by\ {_PROGRAMS}.{{0,80}}
    | creator:\ gd-jpeg.* | (?:lead\ technologies|handmade\ software|intel\(r\)\ jpeg|jfif\b|imagej=|acd\ systems|ulead\b).*
    | {_PROGRAMS}(?:\W*+(?:photoshop|lightroom|indesign|illustrator|acrobat|distiller|pdf|library|cc|cs|elements|express|classic|pro|dc
        |version|v?\d[\w.]*+))*+\W*
    """
)
"""Titles and captions that a device, a program or a template writes, as a whole."""
_NO_AUTHOR = re.compile(
    r"\(?(?:user|admin|administrator|owner|root|guest|author|camera|default|windows user|microsoft office user|anonymous|unknown"
    r"|none|pc|hp|dell|asus|acer|lenovo|"
    r"hewlett-packard.*)\)?\d*",
    re.IGNORECASE,
)
_FILE_NAME = re.compile(
    r"\S+\.(?:docx?|dotx?|rtf|odt|xlsx?|ods|pptx?|odp|indd|qxd|qxp|pmd|pub|cdr|ai|psd|eps|ps|dvi|tex|pdf|html?|txt|jpe?g|png"
    r"|tiff?|mp4|mov|dwg|vsdx?)",
    re.IGNORECASE,
)
_ENCODED = re.compile(r"[!-~]{60,}|\{.*\}|\[[\[{].*[\]}]\]|<(?:\?xml|OME|\w+:\w+)\b.*")
"""Data for programs: long runs without a space, JSON, XML."""


@dataclass(frozen=True, slots=True)
class Description:
    """What metadata say; `of` makes one. `rating` is 1…5 stars, `gps` [latitude, longitude] in degrees."""

    title: str = ""
    captions: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    people: tuple[str, ...] = ()
    place: str = ""
    author: str = ""
    rating: int | None = None
    camera: str = ""
    lens: str = ""
    gps: tuple[float, float] | None = None

    @classmethod
    def of(
        cls,
        *,
        titles: Iterable[Any] = (),
        captions: Iterable[Any] = (),
        keywords: Iterable[Any] = (),
        people: Iterable[Any] = (),
        places: Iterable[Any] = (),
        authors: Iterable[Any] = (),
        rating: Any = None,
        camera: Any = "",
        lens: Any = "",
        gps: tuple[float, float] | None = None,
        machine: str = "",
    ) -> Description:
        """Raw values of any type, the more trusted first; what is no text, empty, generic or data for programs is dropped.

        Args:
            titles: the first that says anything is the title. places: from the smallest to the largest. authors: all of them.
            rating: a number of stars, or text of one. machine: the device that made the file: its name is no caption.
        """
        device = frozenset(machine.casefold().split())
        said = [words for value in captions if (words := told(value, MAX_CAPTION_CHARS, device))]
        title = next((words for value in titles if (words := told(value, MAX_NAME_CHARS, device))), "")
        return cls(
            title=title,
            captions=_once((one for one in said if one.casefold() != title.casefold()), MAX_CAPTIONS),
            keywords=_listed(keywords),
            people=_listed(people),
            place=", ".join(_once(plain(value, MAX_LISTED_CHARS) for value in places))[:MAX_NAME_CHARS],
            author=", ".join(_once(filter(_is_author, _listed(authors)), 10))[:MAX_NAME_CHARS],
            rating=_stars(rating),
            camera=plain(camera, MAX_NAME_CHARS),
            lens=plain(lens, MAX_NAME_CHARS),
            gps=gps,
        )

    def over(self, other: Description) -> Description:
        """Both, where they say different things; of what there is one of, this one's."""
        values: dict[str, Any] = {
            field.name: getattr(self, field.name) or getattr(other, field.name) for field in fields(self)
        }
        values["captions"] = _once((*self.captions, *other.captions), MAX_CAPTIONS)
        for name in ("keywords", "people"):
            values[name] = _once((*getattr(self, name), *getattr(other, name)), MAX_LISTED)
        return Description(**values)

    @property
    def text(self) -> str:
        """The words to search by and to embed, a line for each sort; "" where nothing is said. At most some 60,000 characters."""
        people = {name.casefold() for name in self.people}
        keywords = [word for word in self.keywords if word.casefold() not in people]
        lines = (self.title, *self.captions, ", ".join(keywords), ", ".join(self.people), self.place, self.author)
        return "\n".join(_once(lines))

    def meta(self) -> dict[str, Any]:
        """As an item's metadata hold it: JSON values, only what is known."""
        found = {
            "title": self.title, "caption": "\n".join(self.captions), "keywords": list(self.keywords), "people": list(self.people),
            "place": self.place, "author": self.author, "rating": self.rating, "camera": self.camera, "lens": self.lens,
            "gps": None if self.gps is None else list(self.gps),
        }  # fmt: skip
        return {name: value for name, value in found.items() if value}

    def short_meta(self) -> dict[str, Any]:
        """`meta` for the further items of a file."""
        return without_long(self.meta())


LONG = frozenset({"caption", "keywords", "people"})
"""Entries of `meta` that only the first item of a file has: they may be long."""


def without_long(meta: Mapping[str, Any]) -> dict[str, Any]:
    """An item's metadata without the entries of `LONG`."""
    return {name: value for name, value in meta.items() if name not in LONG}


NOTHING = Description()


def plain(value: Any, limit: int) -> str:
    """A value as one line of readable text, at most `limit` characters; "" for what is no text."""
    if isinstance(value, bytes):
        value = decoded(value)
    if not isinstance(value, str):
        return ""
    return " ".join(readable(value[:MAX_RAW_CHARS]).split())[:limit].strip()


def told(value: Any, limit: int = MAX_CAPTION_CHARS, device: Collection[str] = ()) -> str:
    """`plain`, but "" for what no person has said: generic values, names of files and of the device (whose words are `device`, in lower
    case), data for programs."""
    words = plain(value, limit)
    if len(words) <= MAX_NAME_CHARS and (_GENERIC.fullmatch(words) or _FILE_NAME.fullmatch(words)):
        return ""
    if not _has_letters(words) or _ENCODED.fullmatch(words) or not set(words.casefold().split()).difference(device):
        return ""
    return words


def _has_letters(words: str) -> bool:
    """Two letters, or one character of a script in which one is a word."""
    return sum(map(str.isalpha, words)) >= 2 or any(ord(c) >= 0x2E80 for c in words)


def _is_author(name: str) -> bool:
    return _has_letters(name) and not _NO_AUTHOR.fullmatch(name) and not _GENERIC.fullmatch(name)


def decoded(raw: bytes) -> str:
    """Text of an unknown encoding: a byte order mark decides, else UTF-8, else Windows' western one. Of much text the beginning."""
    is_cut, raw = len(raw) > 4 * MAX_RAW_CHARS, raw[: 4 * MAX_RAW_CHARS]
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16", "replace")
    raw = raw.rstrip(b"\0")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if is_cut and error.start > len(raw) - 4:  # within a character
            return raw[: error.start].decode("utf-8-sig")
        return raw.decode("cp1252", "replace")


def _once(values: Iterable[str], most: int = MAX_LISTED) -> tuple[str, ...]:
    """Those that say anything, in order, each once whatever its case."""
    found: dict[str, str] = {}
    for value in values:
        if value and len(found) < most:
            found.setdefault(value.casefold(), value)
    return tuple(found.values())


def _listed(values: Iterable[Any]) -> tuple[str, ...]:
    found = (plain(value, MAX_LISTED_CHARS + 1) for value in values)
    return _once(words for words in found if len(words) <= MAX_LISTED_CHARS and not _ENCODED.fullmatch(words))


def _stars(value: Any) -> int | None:
    """1…5; None for no rating, and for -1, which means "rejected"."""
    try:
        stars = round(float(value))
    except (TypeError, ValueError, OverflowError):
        return None
    return stars if 1 <= stars <= 5 else None
