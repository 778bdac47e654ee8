"""What a picture's own metadata say in words: XMP, IPTC, EXIF, the text chunks of a PNG, the comments of a JPEG and a GIF."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import IO, Any

from PIL import ExifTags, Image

from mmsearch.media import iptc, png_chunks
from mmsearch.media.descriptions import MAX_RAW_CHARS, NOTHING, Description, decoded
from mmsearch.media.xmp import MAX_XMP_BYTES, description_of_packet, split_keywords

_IDEOGRAPHS = range(0x4E, 0xA0)
_SCRIPT_OF: dict[int, str] = {
    **dict.fromkeys((0x00, 0x01), "Latin"),
    **{0x03: "Greek", 0x04: "Cyrillic", 0x05: "Hebrew", 0x06: "Arabic", 0x0E: "Thai", 0x10: "Burmese"},
    **{page: f"of India {page}" for page in range(0x09, 0x0E)},
    **dict.fromkeys((0x30, 0xFF, *_IDEOGRAPHS), "Chinese and Japanese"),
    **dict.fromkeys(range(0xAC, 0xD8), "Korean"),
}
"""By the high bytes of their characters in UTF-16."""
LOOKED_AT_CHARS = 1000
"""Of a text whose byte order is in doubt."""
PNG_XMP = "XML:com.adobe.xmp"

_XP_TITLE, _XP_COMMENT, _XP_AUTHOR, _XP_KEYWORDS, _XP_SUBJECT = range(0x9C9B, 0x9CA0)
"""What Windows' Explorer writes, in UTF-16."""


def picture_words(image: Image.Image) -> Description:
    """What is said of a picture. Takes an image from `media.open_header`; damage in one block costs that block alone.

    The position of `image` in its file is left as it was.
    """
    texts: dict[str, str] = {}
    with suppress(Exception):
        texts = dict(_png_texts(image))
    said = NOTHING
    blocks: tuple[Callable[[Image.Image], Description], ...] = (
        partial(_of_xmp, texts=texts),
        _of_iptc,
        _of_exif,
        partial(_of_comments, texts=texts),
    )
    for read in blocks:
        with suppress(Exception):  # foreign formats of their own: nothing in them may cost the picture
            said = said.over(read(image))
    return said


def _of_xmp(image: Image.Image, *, texts: dict[str, str]) -> Description:
    packet = image.info.get("xmp") or image.info.get(PNG_XMP) or texts.get(PNG_XMP)
    return description_of_packet(packet) if packet else NOTHING


def _of_iptc(image: Image.Image) -> Description:
    datasets = iptc.datasets(image)

    def values(*numbers: int) -> list[str]:
        return [decoded(value) for number in numbers for value in datasets.get((2, number), ())]

    return Description.of(
        titles=values(5, 105),  # object name, headline
        captions=values(105, 120),  # headline, caption
        keywords=values(25),
        places=values(92, 90, 95, 101),  # sublocation, city, province, country
        authors=values(80),  # by-line
    )


def _of_exif(image: Image.Image) -> Description:
    exif = image.getexif()
    details: Any = {}
    with suppress(Exception):  # a damaged block of details leaves what stands before it
        details = exif.get_ifd(ExifTags.IFD.Exif)
    base = ExifTags.Base
    maker, model = (_of_tag(exif.get(tag)) for tag in (base.Make, base.Model))
    return Description.of(
        titles=[_utf16(exif.get(_XP_TITLE))],
        captions=[
            _of_tag(exif.get(base.ImageDescription)),
            _utf16(exif.get(_XP_SUBJECT)),
            _utf16(exif.get(_XP_COMMENT)),
            _user_comment(details.get(base.UserComment), is_big_endian=exif.endian == ">"),
        ],
        keywords=split_keywords(_utf16(exif.get(_XP_KEYWORDS))),
        authors=[*split_keywords(_of_tag(exif.get(base.Artist))), *split_keywords(_utf16(exif.get(_XP_AUTHOR)))],
        rating=exif.get(base.Rating),
        machine=f"{maker} {model}",
        lens=_of_tag(details.get(base.LensModel)),
    )


def _of_tag(value: Any) -> str:
    """An EXIF text: ASCII by the standard, UTF-8 or Windows' western encoding by what programs write."""
    if isinstance(value, bytes):
        return decoded(value)
    if not isinstance(value, str):
        return ""
    with suppress(UnicodeError):  # Pillow takes the bytes for Latin-1
        return decoded(value.encode("latin-1"))
    return value


def _utf16(value: Any) -> str:
    if isinstance(value, tuple | list):
        with suppress(TypeError, ValueError):
            value = bytes(value)
    return value[: 2 * MAX_RAW_CHARS].decode("utf-16-le", "replace").strip("\0 ") if isinstance(value, bytes) else ""


def _user_comment(value: Any, *, is_big_endian: bool) -> str:
    """EXIF's UserComment: eight bytes name its encoding. Cameras fill it with blanks and zeros, programs leave the name out."""
    if isinstance(value, str):
        value = value.encode("latin-1", "replace")
    if not isinstance(value, bytes):
        return ""
    name, content = value[:8], value[8 : 8 + 4 * MAX_RAW_CHARS]
    if name.rstrip(b"\0 ").upper() == b"UNICODE":
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return content.decode("utf-16", "replace")
        if all(byte in b"\t\n\r" or 0x20 <= byte < 0x7F for byte in content.rstrip(b"\0 ")):  # wrongly named
            return decoded(content)
        return _utf16_of_either_order(content, is_big_endian=is_big_endian).strip("\0 ")
    if name.rstrip(b"\0 ").upper() == b"JIS":
        return content.decode("iso2022_jp", "replace")
    return decoded(content if name.rstrip(b"\0 ").upper() in (b"ASCII", b"") else value)


def _utf16_of_either_order(content: bytes, *, is_big_endian: bool) -> str:
    """Not every program heeds the byte order of the file: the order in which more letters are of one script is the right one."""
    orders = ("utf-16-be", "utf-16-le") if is_big_endian else ("utf-16-le", "utf-16-be")
    return max((content.decode(order, "replace") for order in orders), key=_of_one_script)


def _of_one_script(words: str) -> int:
    """How many characters are of the script that most are of.

    Ideographs whose number ends in a zero byte count for none: in the other order they are western letters.
    """
    found: Counter[str] = Counter()
    for page, low in (divmod(ord(c), 256) for c in words[:LOOKED_AT_CHARS]):
        if page in _SCRIPT_OF and (page or low) and not (page in _IDEOGRAPHS and low == 0):
            found[_SCRIPT_OF[page]] += 1
    return max(found.values(), default=0)


def _of_comments(image: Image.Image, *, texts: dict[str, str]) -> Description:
    told = {name.casefold(): value for name, value in texts.items()}
    return Description.of(
        titles=[told.get("title")],
        captions=[told.get("description"), told.get("comment"), image.info.get("comment")],
        keywords=split_keywords(told.get("keywords")),
        authors=[told.get("author")],
    )


# The text chunks of a PNG, those behind the pixels too: Pillow reads them only when it decodes the picture.


def _png_texts(image: Image.Image) -> Iterator[tuple[str, str]]:
    """(keyword, text) of each tEXt, zTXt and iTXt chunk."""
    handle: IO[bytes] | None = getattr(image, "fp", None)
    if image.format != "PNG" or handle is None:
        return
    before = handle.tell()
    try:
        for given, at, size in png_chunks.chunks(handle):
            name = png_chunks.NAMES.get(given, given)
            if name in png_chunks.TEXTS and size <= MAX_XMP_BYTES:
                handle.seek(at)
                content = handle.read(size)
                with suppress(ValueError, zlib.error, IndexError):
                    yield _png_text(name, content)
    finally:
        handle.seek(before)


def _png_text(name: bytes, content: bytes) -> tuple[str, str]:
    keyword, _, rest = content.partition(b"\0")
    if name == b"tEXt":
        return keyword.decode("latin-1"), decoded(rest)
    if name == b"zTXt":
        return keyword.decode("latin-1"), decoded(_inflated(rest[1:]))
    is_compressed = rest[0] == 1
    _language, _, rest = rest[2:].partition(b"\0")
    _translated, _, rest = rest.partition(b"\0")
    return keyword.decode("latin-1"), (_inflated(rest) if is_compressed else rest).decode("utf-8", "replace")


def _inflated(raw: bytes) -> bytes:
    return zlib.decompressobj().decompress(raw, MAX_XMP_BYTES)


__all__ = ["picture_words"]
