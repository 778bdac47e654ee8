"""Files that mean harm, made by code: each is to end in its right row, within its deadline and memory, and stop nothing.

`POISON` names every file, how it is made, and how it must end: found with so many items, or refused with an error type and a
word of its reason. Files that cost much are marked `is_heavy`; `make torture` reads them too. What is no regular file, and names that
are odd, are made by `strange_places`.
"""

from __future__ import annotations

import base64
import io
import os
import re
import socket
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mmsearch.errors import CorruptFile, DecodeTimeout, EncryptedFile, FileTooLarge, SourceError, UnsupportedFile
from mmsearch.media import load_pymupdf
from tests import samples

Maker = Callable[[Path], object]


@dataclass(frozen=True, slots=True)
class Poison:
    """A file and its end: `items` found in it, or `error` with `word` in its reason. `items` may come with an error, too.

    `is_endless`: its drawing has no end. How fast the processor is decides whether it meets the deadline first, as `error` says, or
    the limit of memory.
    """

    name: str
    make: Maker
    items: int = 0
    error: type[SourceError] | None = None
    word: str = ""
    is_heavy: bool = False
    is_endless: bool = False

    def ends(self, items: int, error: SourceError | None) -> bool:
        """Whether this is how it has to end."""
        if items != self.items or type(error) is not (self.error or type(None)):
            return (
                self.is_endless and not items and isinstance(error, FileTooLarge) and "more memory than" in error.reason
            )
        return error is None or self.word in error.reason


# ---------------------------------------------------------------- pictures


def noise(width: int = 160, height: int = 120, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


def picture(path: Path) -> Path:
    """Noise, in the format of the name: nothing of it compresses away, so that half a file is half a picture."""
    if path.suffix in {".heic", ".heif"}:
        import pillow_heif

        pillow_heif.register_heif_opener()
    noise().save(path)
    return path


def png(
    path: Path,
    width: int,
    height: int,
    *,
    bits: int = 8,
    colour: int = 0,
    data: bytes | None = None,
    extra: bytes = b"",
) -> Path:
    """A PNG chunk by chunk. `data`: the raw rows; none at all by default, whatever the header announces."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    rows = png_chunk(b"IDAT", zlib.compress(data or b"", 9))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + extra + rows + png_chunk(b"IEND", b""))
    return path


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def zeros(size_bytes: int, *, times: int = 1) -> bytes:
    """zlib data that unpacks to so many zeros; packed `times` times."""
    packer = zlib.compressobj(9)
    packed = (
        b"".join(packer.compress(bytes(min(1 << 20, size_bytes - at))) for at in range(0, size_bytes, 1 << 20))
        + packer.flush()
    )
    for _ in range(times - 1):
        packed = zlib.compress(packed, 9)
    return packed


def png_of_zeros(path: Path, side: int) -> Path:
    """A whole 1-bit picture: its few bytes unpack to side² pixels."""
    png(path, side, side, bits=1)
    head = path.read_bytes().split(b"\0\0\0\x08IDAT")[0]
    path.write_bytes(head + png_chunk(b"IDAT", zeros((side // 8 + 1) * side)) + png_chunk(b"IEND", b""))
    return path


def png_with_text_bomb(path: Path) -> Path:
    text = png_chunk(b"zTXt", b"Comment\0\0" + zeros(4 << 20))
    return png(path, 8, 8, data=bytes(9 * 8), extra=text)


def jpeg_with_endless_exif(path: Path) -> Path:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "M" * 30_000, "\udc80\0" * 3_000 + "x" * 20_000
    noise().save(path, exif=exif)
    return path


def jpeg_of_size(path: Path, width: int, height: int) -> Path:
    """A small JPEG whose header announces another size."""
    picture(path)
    content = bytearray(path.read_bytes())
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", height, width)
    path.write_bytes(content)
    return path


def tiff(
    path: Path, directories: Sequence[dict[int, tuple[int, int, int]]], next_of: Sequence[int], data: bytes = b""
) -> Path:
    """A TIFF directory by directory: {tag: (type, count, value)}; `next_of[n]` is the number of the one after n, -1 for none."""
    starts, at = [], 8
    for directory in directories:
        starts.append(at)
        at += 2 + 12 * len(directory) + 4
    out = struct.pack("<2sHI", b"II", 42, starts[0])
    for directory, following in zip(directories, next_of, strict=True):
        out += struct.pack("<H", len(directory))
        for tag, (kind, count, value) in sorted(directory.items()):
            out += struct.pack("<HHII", tag, kind, count, at if value == -1 else value)
        out += struct.pack("<I", 0 if following < 0 else starts[following])
    path.write_bytes(out + data)
    return path


def grey_page(width: int, height: int, *, bytes_stored: int | None = None) -> dict[int, tuple[int, int, int]]:
    """One uncompressed strip of 8-bit grey at the end of the file."""
    stored = width * height if bytes_stored is None else bytes_stored
    return {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, -1), 277: (3, 1, 1), 278: (4, 1, height), 279: (4, 1, stored)}  # fmt: skip


def circular_tiff(path: Path) -> Path:
    """Two pages, the second followed by the first."""
    return tiff(path, [grey_page(16, 16), grey_page(16, 16)], [1, 0], data=bytes(range(256)))


def tiff_with_a_bomb_behind(path: Path) -> Path:
    """A harmless first page, then one that announces 60,000 × 60,000 pixels."""
    return tiff(path, [grey_page(16, 16), grey_page(60_000, 60_000, bytes_stored=256)], [1, -1], data=bytes(range(256)))


def tiff_of_zeros(path: Path, side: int) -> Path:
    """A whole RGB picture of side² pixels, deflated."""
    packed = zeros(side * side * 3)
    page = grey_page(side, side, bytes_stored=len(packed)) | {259: (3, 1, 8), 262: (3, 1, 2), 277: (3, 1, 3)}
    return tiff(path, [page], [-1], data=packed)


def endless_animation(path: Path) -> Path:
    """An APNG of two billion frames by its word, two in truth."""
    samples.animation(path, [samples.RED, samples.BLUE])
    content = bytearray(path.read_bytes())
    at = content.index(b"acTL")
    content[at + 4 : at + 8] = struct.pack(">I", 0x7FFFFFFF)
    content[at + 12 : at + 16] = struct.pack(">I", zlib.crc32(content[at : at + 12]))
    path.write_bytes(content)
    return path


def many_paged_tiff(path: Path, count: int) -> Path:
    return tiff(path, [grey_page(16, 16)] * count, [*range(1, count), -1], data=bytes(range(256)))


def deep_grey(path: Path) -> Path:
    """16 bits per pixel."""
    Image.fromarray(np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)).save(path)
    return path


def deep_colour_png(path: Path) -> Path:
    rows = b"".join(b"\0" + np.linspace(0, 65535, 64 * 3).astype(">u2").tobytes() for _ in range(48))
    return png(path, 64, 48, bits=16, colour=2, data=rows)


def float_tiff(path: Path) -> Path:
    values = np.linspace(-1e30, 1e30, 64 * 48, dtype=np.float32).reshape(48, 64)
    values[3, 3], values[4, 4] = np.nan, np.inf
    Image.fromarray(values).save(path)
    return path


def long_animation(path: Path) -> Path:
    """Two thousand frames of 20 ms in a few kilobytes."""
    frames = [Image.new("RGB", (8, 8), (n % 7 * 36, 0, 0)) for n in range(2000)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=20)
    return path


def vast_animation(path: Path, side: int) -> Path:
    """A canvas of side² pixels on which two small frames lie."""
    samples.animation(path, [samples.RED, samples.BLUE])
    content = bytearray(path.read_bytes())
    content[6:10] = struct.pack("<HH", side, side)
    path.write_bytes(content)
    return path


# ---------------------------------------------------------------- documents


def pages_of_one_text(path: Path, pages: int, chars: int = 100_000) -> Path:
    """A PDF whose pages show the same content, which is stored once: each has a text of its own length."""
    line = b"(" + b"word alpha beta gamma delta " * 4 + b") Tj 0 -.1 Td\n"
    content = zlib.compress(b"BT /F1 .1 Tf 10 390 Td\n" + line * (chars // 112 + 1) + b"ET", 9)
    kids = b" ".join(b"%d 0 R" % (5 + n) for n in range(pages))
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 400] /Contents 4 0 R /Resources << /Font << /F1 3 0 R >> >> >>"
    return raw_pdf(
        path,
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, pages),
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
            b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(content), content),
            *[page] * pages,
        ],
    )


def raw_pdf(path: Path, objects: Iterable[bytes], trailer: bytes = b"") -> Path:
    """A PDF from its objects, numbered from 1; the first is the catalog."""
    out, starts = io.BytesIO(b"%PDF-1.7\n"), []
    out.seek(0, os.SEEK_END)
    for number, content in enumerate(objects, 1):
        starts.append(out.tell())
        out.write(b"%d 0 obj\n" % number + content + b"\nendobj\n")
    table = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(starts) + 1))
    out.write(b"".join(b"%010d 00000 n \n" % start for start in starts))
    out.write(b"trailer\n<</Root 1 0 R/Size %d" % (len(starts) + 1) + trailer + b">>\nstartxref\n%d\n%%%%EOF\n" % table)
    path.write_bytes(out.getvalue())
    return path


def stream(content: bytes, entries: bytes = b"") -> bytes:
    return b"<</Length %d" % len(content) + entries + b">>\nstream\n" + content + b"\nendstream"


CATALOG = b"<</Type/Catalog/Pages 2 0 R>>"
HELLO = b"BT /F1 24 Tf 72 100 Td (hello) Tj ET"
FONT = b"/Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>"


def one_page(path: Path, content: bytes = HELLO, *more: bytes, box: bytes = b"[0 0 300 400]", resources: bytes = FONT, entries: bytes = b"", page: bytes = b"", catalog: bytes = CATALOG) -> Path:  # fmt: skip
    """A page with `content` (object 4, its stream's `entries`) and `more` objects from 5 on."""
    leaf = (
        b"<</Type/Page/Parent 2 0 R/MediaBox" + box + b"/Contents 4 0 R/Resources<<" + resources + b">>" + page + b">>"
    )
    return raw_pdf(path, [catalog, b"<</Type/Pages/Kids[3 0 R]/Count 1>>", leaf, stream(content, entries), *more])


def many_pages(path: Path, count: int, *, text: bool = True) -> Path:
    """`count` pages that share one content."""
    kids = b" ".join(b"%d 0 R" % (4 + n) for n in range(count))
    tree = b"<</Type/Pages/Kids[" + kids + b"]/Count %d/MediaBox[0 0 300 400]/Resources<<" % count + FONT + b">>>>"
    leaf = b"<</Type/Page/Parent 2 0 R/Contents 3 0 R>>"
    return raw_pdf(path, [CATALOG, tree, stream(HELLO if text else b""), *([leaf] * count)])


def lying_count(path: Path) -> Path:
    """Two billion pages by its word, one in truth."""
    leaf = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 30 40]>>"
    return raw_pdf(path, [CATALOG, b"<</Type/Pages/Kids[3 0 R]/Count 2000000000>>", leaf])


def missing_pages(path: Path) -> Path:
    """Three hundred pages by its word, one in truth."""
    leaf = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 400]/Contents 4 0 R/Resources<<" + FONT + b">>>>"
    return raw_pdf(path, [CATALOG, b"<</Type/Pages/Kids[3 0 R]/Count 300>>", leaf, stream(HELLO)])


def circular_tree(path: Path) -> Path:
    """A page tree that holds itself."""
    return raw_pdf(path, [CATALOG, b"<</Type/Pages/Kids[2 0 R 3 0 R]/Count 2/Parent 3 0 R>>", b"<</Type/Pages/Kids[2 0 R]/Count 1/Parent 2 0 R>>"])  # fmt: skip


def circular_form(path: Path) -> Path:
    """A drawing that draws itself, and text besides."""
    form = stream(b"/X Do /X Do", b"/Type/XObject/Subtype/Form/BBox[0 0 300 400]/Resources<</XObject<</X 5 0 R>>>>")
    return one_page(path, HELLO + b" /X Do", form, resources=FONT + b"/XObject<</X 5 0 R>>")


def branching_forms(path: Path) -> Path:
    """Forty drawings, each of which draws the next one ten times: 10^40 in all."""
    forms = [
        stream(
            b"/X Do " * 10, b"/Type/XObject/Subtype/Form/BBox[0 0 300 400]/Resources<</XObject<</X %d 0 R>>>>" % (6 + n)
        )
        for n in range(40)
    ]
    last = stream(b"0 0 10 10 re f", b"/Type/XObject/Subtype/Form/BBox[0 0 300 400]")
    return one_page(path, b"/X Do", *forms, last, resources=b"/XObject<</X 5 0 R>>")


def deep_array(path: Path) -> Path:
    """MuPDF gives the page up: it is blank then, and not without a reason."""
    return one_page(path, page=b"/Deep " + b"[" * 200_000 + b"]" * 200_000)


def deep_tree(path: Path, depth: int) -> Path:
    """A page below so many levels of page tree."""
    nodes = [
        b"<</Type/Pages/Kids[%d 0 R]/Count 1" % (3 + n) + (b"/Parent %d 0 R>>" % (1 + n) if n else b">>")
        for n in range(depth)
    ]
    leaf = (
        b"<</Type/Page/Parent %d 0 R/MediaBox[0 0 300 400]/Contents %d 0 R/Resources<<" % (depth + 1, depth + 3)
        + FONT
        + b">>>>"
    )
    return raw_pdf(path, [CATALOG, *nodes, leaf, stream(HELLO)])


def deep_state(path: Path) -> Path:
    """The graphics state is pushed half a million times, and never popped."""
    return one_page(path, zlib.compress(b"q " * 500_000 + HELLO), entries=b"/Filter/FlateDecode")


def content_bomb(path: Path) -> Path:
    """A page's content of 1 GB of nothing, packed twice into two kilobytes: read through, and blank."""
    return one_page(path, zeros(1 << 30, times=2), entries=b"/Filter[/FlateDecode/FlateDecode]")


def image_bomb(path: Path, side: int, *, stored: bytes | None = None) -> Path:
    """A page with text and an image of side² pixels in a few bytes."""
    entries = (
        b"/Type/XObject/Subtype/Image/Width %d/Height %d/BitsPerComponent 8/ColorSpace/DeviceGray/Filter/FlateDecode"
        % (side, side)
    )
    image = stream(zeros(side * side, times=1) if stored is None else stored, entries)
    return one_page(path, HELLO + b" q 200 0 0 200 50 150 cm /X Do Q", image, resources=FONT + b"/XObject<</X 5 0 R>>")


def acting_pdf(path: Path) -> Path:
    """Everything that a PDF may do when it is opened; each action would write a file beside it."""
    target = os.fsencode(path.parent / "written-by-an-action")
    launch = b"<</S/Launch/F(/bin/sh)/Unix<</F(/bin/sh)/P(-c 'touch " + target + b"')>>>>"
    script = b"<</S/JavaScript/JS(this.saveAs\\('" + target + b"'\\); app.launchURL\\('http://127.0.0.1:9/'\\);)>>"
    catalog = CATALOG[:-2] + b"/OpenAction 5 0 R/AA<</WC 6 0 R>>/Names<</JavaScript<</Names[(a) 6 0 R]>>>>>>"
    return one_page(path, HELLO, launch, script, catalog=catalog, page=b"/AA<</O 5 0 R/C 6 0 R>>")


def epub_bomb(path: Path) -> Path:
    """A chapter of 280 MB in one of 400 kB."""
    chapter = b"<html xmlns='http://www.w3.org/1999/xhtml'><body><p>" + b"whale " * (40 << 20) + b"</p></body></html>"
    return _rezip(samples.epub(path), {"a.xhtml": chapter})


def _rezip(path: Path, members: dict[str, bytes]) -> Path:
    """Replace or add members, deflated."""
    with zipfile.ZipFile(path) as old:
        kept = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as new:
        for name, content in (kept | members).items():
            new.writestr(name, content, zipfile.ZIP_STORED if name == "mimetype" else zipfile.ZIP_DEFLATED)
    return path


def locked_epub(path: Path) -> Path:
    """An e-book under a shop's lock."""
    rights = b'<?xml version="1.0"?><rights xmlns="http://ns.adobe.com/adept"/>'
    encryption = b'<?xml version="1.0"?><encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><EncryptedData xmlns="http://www.w3.org/2001/04/xmlenc#"><EncryptionMethod Algorithm="http://www.w3.org/2001/04/xmlenc#aes128-cbc"/><CipherData><CipherReference URI="a.xhtml"/></CipherData></EncryptedData></encryption>'  # fmt: skip
    return _rezip(samples.epub(path), {"META-INF/rights.xml": rights, "META-INF/encryption.xml": encryption})


def hollow_epub(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)
    return path


def comic_with_a_bomb(path: Path) -> Path:
    """A good page and one of 60,000 × 60,000 pixels."""
    bomb = png(path.with_suffix(".tmp"), 60_000, 60_000)
    samples.cbz(path, [samples.RED])
    content = bomb.read_bytes()
    bomb.unlink()
    return _rezip(path, {"9.png": content})


def locked_archive(path: Path, make: Maker) -> Path:
    """Members flagged as encrypted."""
    make(path)
    content = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.find(mark)
        while start >= 0:
            content[start + at] |= 1
            start = content.find(mark, start + 4)
    path.write_bytes(content)
    return path


def zip_of(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression, compresslevel=9) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def xps_with(path: Path, members: dict[str, bytes], body: str = "") -> Path:
    """An XPS with members replaced or added."""
    return _rezip(samples.xps(path, body), members)


WIDE_XPS_PAGE = b'<FixedPage xmlns="http://schemas.microsoft.com/xps/2005/06" Width="1e9" Height="1e9"/>'


def xps_with_a_bomb(path: Path) -> Path:
    """Drawn over with a picture of 60,000 × 60,000 pixels."""
    sizes = 'Viewbox="0,0,9,9" Viewport="0,0,300,400" TileMode="None" ViewboxUnits="Absolute" ViewportUnits="Absolute"'
    brush = f'<Path.Fill><ImageBrush ImageSource="/b.png" {sizes}/></Path.Fill>'
    return xps_with(path, {"b.png": bomb()}, f'<Path Data="M 0,0 L 300,0 300,400 Z">{brush}</Path>')


def epub_of(path: Path, body: str, *, before: str = "", members: dict[str, bytes] | None = None) -> Path:
    page = f'{before}<html xmlns="http://www.w3.org/1999/xhtml"><body>{body}</body></html>'
    return _rezip(samples.epub(path), {"a.xhtml": page.encode(), **(members or {})})


def bomb() -> bytes:
    """A PNG of a few bytes that announces 60,000 × 60,000 pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")


def svg(path: Path, body: str = "", *, size: str = 'width="200" height="100"', before: str = "") -> Path:
    path.write_text(
        f'<?xml version="1.0"?>\n{before}<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {size}>'
        f'<text x="10" y="50">hello</text>{body}</svg>'
    )
    return path


def laughter(root: str) -> str:
    """Ten entities, each ten times the one before: a billion words."""
    lines = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    return f'<!DOCTYPE {root} [<!ENTITY l0 "ha">{lines}]>\n'


def laughing_svg(path: Path) -> Path:
    return svg(path, '<text x="10" y="90">&l9;</text>', before=laughter("svg"))


def svg_with_a_bomb(path: Path) -> Path:
    data = base64.b64encode(bomb()).decode()
    return svg(path, f'<image width="200" height="100" xlink:href="data:image/png;base64,{data}"/>')


def branching_svg(path: Path) -> Path:
    """Thirty groups, each of which uses the next ten times."""
    groups = "".join(f'<g id="g{n}">{f"""<use xlink:href="#g{n + 1}"/>""" * 10}</g>' for n in range(30))
    return svg(path, groups + '<g id="g30"><rect width="1" height="1"/></g>')


def deep_svg(path: Path) -> Path:
    return svg(path, "<g>" * 100_000 + "</g>" * 100_000)


def prying_svg(path: Path) -> Path:
    """Asks for a file beside it, for one of the system, and for one from the network."""
    samples.photo(path.with_name("secret-beside.png"), samples.GREEN)
    return svg(
        path,
        f'<image width="200" height="100" xlink:href="{path.with_name("secret-beside.png").as_uri()}"/>'
        '<image width="200" height="100" xlink:href="secret-beside.png"/><image width="9" height="9" xlink:href="http://127.0.0.1:9/a.png"/>',
    )


# ---------------------------------------------------------------- videos


def film(path: Path, **encode: object) -> Path:
    """Two seconds of numbered frames, 25 a second."""
    return samples.video(path, samples.numbered, range(0, 2000, 40), **encode)  # type: ignore[arg-type]


def sound_only(path: Path) -> Path:
    import av

    with av.open(os.fspath(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
    return path


def without_index(path: Path) -> Path:
    """The `moov` box, which lies at the end, cut off."""
    film(path)
    path.write_bytes(path.read_bytes()[: path.read_bytes().rindex(b"moov") - 4])
    return path


def with_duration(path: Path, duration: int, *, boxes: Sequence[bytes] = (b"mvhd", b"tkhd", b"mdhd")) -> Path:
    """A film whose headers claim another length, in their own units."""
    film(path)
    content = bytearray(path.read_bytes())
    for box in boxes:
        start = content.index(box) + {b"mvhd": 20, b"tkhd": 24, b"mdhd": 20, b"elst": 12}[box]
        content[start : start + 4] = struct.pack(">I", duration)
    path.write_bytes(content)
    return path


def with_slow_clock(path: Path) -> Path:
    """A film one of whose ticks lasts a second, and one of whose frames 68 years."""
    with_frame_step(path, 0x7FFFFFFF)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdhd") + 16
    content[start : start + 4] = struct.pack(">I", 1)
    path.write_bytes(content)
    return path


def with_frame_step(path: Path, step: int) -> Path:
    """A film whose table of frame times gives every frame `step` ticks."""
    film(path)
    content = bytearray(path.read_bytes())
    start = content.index(b"stts")
    entries = struct.unpack(">I", content[start + 8 : start + 12])[0]
    for n in range(entries):
        content[start + 16 + 8 * n : start + 20 + 8 * n] = struct.pack(">I", step)
    path.write_bytes(content)
    return path


def unknown_codec(path: Path) -> Path:
    film(path)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz1"))
    return path


def with_frame_size(path: Path, width: int, height: int) -> Path:
    """A film whose sample description announces other frames."""
    film(path)
    content = bytearray(path.read_bytes())
    start = content.index(b"avc1", content.index(b"stsd"))
    content[start + 28 : start + 32] = struct.pack(">HH", width, height)
    path.write_bytes(content)
    return path


def ten_hours(path: Path) -> Path:
    """36,000 s in which a small picture changes every two minutes."""

    def tint(number: int) -> np.ndarray:
        return np.full((16, 16, 3), (number * 37) % 256, np.uint8)

    return samples.video(path, tint, range(0, 36_000_000, 120_000), codec="mpeg4", options={"g": "50"})


def broken_middle(path: Path) -> Path:
    """A third of the file, in the middle of its pictures, is noise."""
    samples.video(path, lambda n: np.asarray(noise(seed=n)), range(0, 3000, 40), options={"g": "10"})
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = np.random.default_rng(0).bytes(third)
    path.write_bytes(content)
    return path


def variable_rate(path: Path) -> Path:
    times_ms = [0]
    for step in range(60):
        times_ms.append(times_ms[-1] + (20 if step % 3 else 170))
    return samples.video(path, samples.numbered, times_ms)


def wordy_film(path: Path) -> Path:
    """Six megabytes of subtitles within two seconds. Its content is no other film's: a copy's subtitles are read at the next ingest."""
    samples.video(path, samples.numbered, range(0, 2200, 40))
    cues = (f"00:00:0{n % 2},{n}00 --> 00:00:01,900\nword{n} {'x' * 1_000_000}\n\n" for n in range(6))
    path.with_suffix(".srt").write_text("".join(cues))
    return path


# ---------------------------------------------------------------- any type


def patched(make: Maker, mark: bytes, offset: int, value: bytes) -> Maker:
    """What `make` writes, with `value` so many bytes behind the beginning of each `mark`."""

    def patch(path: Path) -> None:
        make(path)
        content = bytearray(path.read_bytes())
        places = [found.start() + offset for found in re.finditer(re.escape(mark), content)]
        assert places
        for at in places:
            content[at : at + len(value)] = value
        path.write_bytes(content)

    return patch


def truncated(make: Maker, share: float = 0.5) -> Maker:
    def cut(path: Path) -> None:
        make(path)
        samples.cut_short(path, share)

    return cut


def content(data: bytes) -> Maker:
    return lambda path: path.write_bytes(data)


def random_bytes(path: Path) -> None:
    path.write_bytes(b"\xfe" + np.random.default_rng(len(path.name)).bytes(5000))  # no type's first byte


def named(make: Maker, suffix: str) -> Maker:
    """What `make` writes for a name with `suffix`, under the name asked for."""

    def rename(path: Path) -> None:
        made = path.with_name(path.name + suffix)
        make(made)
        made.rename(path)

    return rename


def then_noise(magic: bytes) -> Maker:
    """The right first bytes, then random ones."""
    return lambda path: path.write_bytes(magic + np.random.default_rng(7).bytes(5000))


def with_(make: Callable[..., object], *arguments: object, **options: object) -> Maker:
    return lambda path: make(path, *arguments, **options)


def owned_pdf(path: Path) -> Path:
    """Encrypted, with an owner's password only: anyone may read it."""
    return samples.pdf(path, encryption=load_pymupdf().PDF_ENCRYPT_AES_256, owner_pw="owner")


MAGIC = {
    "jpg": b"\xff\xd8\xff\xe0",
    "png": b"\x89PNG\r\n\x1a\n",
    "gif": b"GIF89a",
    "webp": b"RIFF\0\0\1\0WEBP",
    "tiff": b"II*\0\x08\0\0\0",
    "bmp": b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28",
    "heic": b"\0\0\0\x18ftypheic",
    "avif": b"\0\0\0\x18ftypavif",
    "jp2": b"\0\0\0\x0cjP  \r\n\x87\n",
    "mp4": b"\0\0\0\x18ftypisom",
    "mov": b"\0\0\0\x08wide",
    "3gp": b"\0\0\0\x18ftyp3gp4",
    "mkv": b"\x1aE\xdf\xa3",
    "webm": b"\x1aE\xdf\xa3",
    "avi": b"RIFF\0\0\1\0AVI ",
    "flv": b"FLV\x01",
    "mpg": b"\0\0\x01\xba",
    "wmv": b"0&\xb2u\x8ef\xcf\x11",
    "ogv": b"OggS theora",
    "pdf": b"%PDF-1.7\n",
    "epub": b"PK\x03\x04" + b"\0" * 26 + b"mimetypeapplication/epub+zip",
    "xps": b"PK\x03\x04" + b"\0" * 26 + b"a.fdseq",
    "cbz": b"PK\x03\x04",
    "svg": b"<svg ",
}

FILMS = {"mkv": "libx264", "webm": "libvpx-vp9", "avi": "mpeg4", "wmv": "wmv2", "flv": "flv", "mpg": "mpeg1video", "mpeg": "mpeg2video", "m2ts": "libx264"}  # fmt: skip
"""Containers that are written from front to end, with a codec for each."""

POISON: tuple[Poison, ...] = (
    # Every type: empty, random from the first byte on, random behind the right first bytes, cut off.
    *(Poison(f"empty.{suffix}", content(b""), error=CorruptFile, word="empty") for suffix in MAGIC),
    *(Poison(f"random.{suffix}", random_bytes, error=CorruptFile, word="promises") for suffix in MAGIC),
    *(
        Poison(f"magic.{suffix}", then_noise(magic), error=CorruptFile, word="damaged")
        for suffix, magic in MAGIC.items()
    ),
    Poison("truncated.jp2", truncated(picture), error=CorruptFile, word="damaged picture"),
    *(
        Poison(f"truncated.{suffix}", truncated(picture), items=1)
        for suffix in ("jpg", "png", "gif", "tiff", "bmp", "webp", "heic", "avif")
    ),
    Poison("truncated.pdf", truncated(samples.pdf, 0.2), error=CorruptFile, word="page"),
    Poison("truncated.epub", truncated(samples.epub), error=CorruptFile, word="cannot be opened"),
    Poison("truncated.cbz", truncated(samples.cbz), error=CorruptFile, word="cannot be opened"),
    Poison("truncated.svg", truncated(samples.svg), error=CorruptFile, word="cannot be opened"),
    Poison("truncated.xps", truncated(samples.xps), error=CorruptFile, word="cannot be opened"),
    # What lies at the end of an MP4 says where its pictures are; the others can be played up to where they were cut.
    *(
        Poison(f"truncated.{suffix}", truncated(with_(samples.film, codec)), error=CorruptFile, word="damaged video")
        for suffix, codec in (("mp4", "libx264"), ("mov", "mpeg4"), ("m4v", "libx264"), ("3gp", "h263"))
    ),
    *(Poison(f"truncated.{suffix}", truncated(with_(samples.film, codec)), items=1) for suffix, codec in FILMS.items()),
    # Other content than the name says.
    Poison("a-png.jpg", named(picture, ".png"), items=1),
    Poison("a-document.png", named(samples.pdf, ".pdf"), items=1),
    Poison("words.jpg", content(b"just words"), error=CorruptFile, word="promises"),
    Poison("a-page.pdf", content(b"<html><body>Not found</body></html>"), error=CorruptFile, word="promises"),
    Poison("a-program.mp4", content(b"\x7fELF\x02\x01" + bytes(500)), error=CorruptFile, word="promises"),
    Poison("a-film.pdf", named(film, ".mp4"), items=1),
    Poison("a-gif.mp4", named(with_(samples.animation, [samples.RED, samples.BLUE]), ".gif"), items=1),
    Poison("a-jpeg.heic", named(picture, ".jpg"), items=1),
    Poison("a-book.cbz", named(samples.epub, ".epub"), items=1),
    Poison("a-drawing.tiff", named(samples.svg, ".svg"), items=1),
    Poison("a-comic.epub", named(samples.cbz, ".cbz"), error=CorruptFile, word="promises"),
    Poison("an-archive.xps", with_(zip_of, {"word/document.xml": b"<x/>"}), error=CorruptFile, word="promises"),
    Poison("a-song.mp4", content(b"\0\0\0\x18ftypM4A " + bytes(500)), error=CorruptFile, word="promises"),
    Poison(
        "a-document-by-its-word.html", content(b"<!-- %PDF- --><html>hello</html>"), error=UnsupportedFile, word="HTML"
    ),
    # Pictures.
    *(
        Poison(
            f"bomb.{suffix}",
            patched(picture, mark, at, struct.pack(order, 60_000, 60_000)),
            error=FileTooLarge,
            word="60000 × 60000",
        )
        for suffix, mark, at, order in (
            ("bmp", b"BM", 18, "<II"),
            ("jp2", b"ihdr", 4, ">II"),
            ("heic", b"ispe", 8, ">II"),
        )
    ),
    Poison(
        "bomb.avif", patched(picture, b"ispe", 8, struct.pack(">II", 60_000, 60_000)), error=CorruptFile, word="damaged"
    ),
    Poison("bomb.gif", with_(vast_animation, 65_535), error=FileTooLarge, word="65535 × 65535 pixels"),
    Poison(
        "bomb.webp",
        patched(with_(samples.animation, [samples.RED, samples.BLUE]), b"VP8X", 12, b"\xff" * 6),
        error=CorruptFile,
        word="damaged",
    ),
    Poison(
        "bomb.tiff",
        with_(tiff, [grey_page(60_000, 60_000, bytes_stored=256)], [-1], data=bytes(256)),
        error=FileTooLarge,
        word="60000 × 60000",
    ),
    Poison("zeros.tiff", with_(tiff_of_zeros, 11_000), items=1, is_heavy=True),
    Poison("endless.apng", endless_animation, items=1),
    Poison("bomb.png", with_(png, 60_000, 60_000), error=FileTooLarge, word="60000 × 60000 pixels"),
    Poison("bomb.jpg", with_(jpeg_of_size, 65_000, 65_000), error=FileTooLarge, word="65000 × 65000 pixels"),
    Poison("larger-by-its-word.jpg", with_(jpeg_of_size, 9_000, 9_000), items=1),
    Poison("long-strip.png", with_(png, 1, 1_000_000), error=CorruptFile, word="truncated"),
    Poison("long-strip-of-zeros.png", with_(png, 1, 1_000_000, data=bytes(2_000_000)), items=1),
    Poison("endless-text.png", png_with_text_bomb, items=1),
    Poison("endless-exif.jpg", jpeg_with_endless_exif, items=1),
    Poison("circular.tiff", circular_tiff, items=2),
    Poison("bomb-behind.tiff", tiff_with_a_bomb_behind, items=1, error=FileTooLarge, word="60000 × 60000 pixels"),
    Poison("many-pages.tiff", with_(many_paged_tiff, 6000), error=FileTooLarge, word="6,000 pages", is_heavy=True),
    Poison("grey-16.png", deep_grey, items=1),
    Poison("grey-16.tiff", deep_grey, items=1),
    Poison("colour-16.png", deep_colour_png, items=1),
    Poison("float.tiff", float_tiff, items=1),
    Poison("long.gif", long_animation, items=19),
    Poison("wide.gif", with_(vast_animation, 16_000), items=1, is_heavy=True),
    Poison("zeros.png", with_(png_of_zeros, 19_000), items=1, is_heavy=True),
    # Documents.
    Poison("encrypted.pdf", samples.encrypted_pdf, error=EncryptedFile, word="password"),
    Poison("encrypted-for-the-owner.pdf", owned_pdf, items=1),
    Poison("locked.epub", locked_epub, error=EncryptedFile, word="DRM"),
    Poison("locked.cbz", with_(locked_archive, samples.cbz), error=EncryptedFile, word="password"),
    Poison("locked.xps", with_(locked_archive, samples.xps), error=EncryptedFile, word="password"),
    Poison("no-pages.pdf", samples.page_less_pdf, error=CorruptFile, word="no pages"),
    Poison("hollow.epub", hollow_epub, error=CorruptFile, word="cannot be opened"),
    Poison("wide-page.pdf", with_(one_page, box=b"[0 0 1000000000 1000000000]"), items=1),
    Poison("endless-page.pdf", with_(one_page, box=b"[0 0 1e39 1e39]"), items=1),
    Poison("flat-page.pdf", with_(one_page, box=b"[0 0 300 0]"), items=1),
    Poison("far-page.pdf", with_(one_page, box=b"[-1e9 -1e9 -999999700 -999999600]"), 1),  # blank: found by its name
    Poison("many-pages.pdf", with_(many_pages, 5001), error=FileTooLarge, word="5,001 pages"),
    Poison("many-pages-allowed.pdf", with_(many_pages, 5000), items=5000, is_heavy=True),
    Poison("lying-count.pdf", lying_count, error=CorruptFile, word="number of pages"),
    Poison("missing-pages.pdf", missing_pages, error=CorruptFile, word="number of pages"),
    Poison("circular-tree.pdf", circular_tree, error=CorruptFile, word="cycle"),
    Poison("circular-form.pdf", circular_form, items=1),
    Poison(
        "branching-forms.pdf", branching_forms, error=DecodeTimeout, word="no progress", is_heavy=True, is_endless=True
    ),
    Poison("deep-array.pdf", deep_array, error=CorruptFile, word="no page can be drawn"),
    Poison("deep-tree.pdf", with_(deep_tree, 3000), items=1),
    Poison("deep-state.pdf", deep_state, error=CorruptFile, word="graphics states"),
    Poison("content-bomb.pdf", content_bomb, is_heavy=True),
    Poison("image-bomb.pdf", with_(image_bomb, 60_000, stored=zeros(1 << 20)), items=1),
    Poison("large-image.pdf", with_(image_bomb, 4_000), items=1),
    Poison("vast-image.pdf", with_(image_bomb, 30_000), items=1, is_heavy=True),
    Poison("acting.pdf", acting_pdf, items=1),
    Poison("bomb.epub", epub_bomb, error=FileTooLarge, word="memory", is_heavy=True),
    Poison("bomb-inside.cbz", comic_with_a_bomb, items=1),
    Poison("bomb-inside.xps", xps_with_a_bomb, items=1),
    Poison("bomb-inside.epub", with_(epub_of, '<p>whales</p><img src="b.png"/>', members={"b.png": bomb()}), items=1),
    Poison("bomb-inside.svg", svg_with_a_bomb, items=1),
    Poison(
        "zeros.cbz",
        lambda path: zip_of(path, {"1.png": MAGIC["png"] + bytes(1 << 28)}),
        error=CorruptFile,
        word="no page can be drawn",
    ),
    Poison(
        "zeros.xps",
        lambda path: xps_with(path, {"1.fpage": b"<FixedPage>" + bytes(1 << 28)}),
        error=CorruptFile,
        word="no page can be drawn",
    ),
    Poison(
        "many-pages.cbz",
        with_(zip_of, {f"{n}.png": b"" for n in range(5001)}, zipfile.ZIP_STORED),
        error=FileTooLarge,
        word="5,001 pages",
    ),
    Poison("wide.xps", with_(xps_with, {"1.fpage": WIDE_XPS_PAGE}), 1),
    Poison(
        "deep.xps",
        with_(samples.xps, "<Canvas>" * 50_000 + "</Canvas>" * 50_000),
        error=CorruptFile,
        word="no page can be drawn",
    ),
    Poison(
        "deep.epub", with_(epub_of, "<div>" * 20_000 + "</div>" * 20_000), error=CorruptFile, word="damaged document"
    ),
    Poison("laughing.epub", with_(epub_of, "<p>whale &l9;</p>", before=laughter("html")), items=1),
    Poison("laughing.svg", laughing_svg, items=1),
    Poison("branching.svg", branching_svg, error=DecodeTimeout, word="no progress", is_heavy=True, is_endless=True),
    Poison("deep.svg", deep_svg, error=CorruptFile, word="cannot be opened"),
    Poison("prying.svg", prying_svg, items=1),
    Poison("endless.svg", with_(svg, size='width="1e30" height="1e30"'), items=1),
    Poison("flat.svg", with_(svg, size='width="0" height="0"'), error=CorruptFile, word="no page can be drawn"),
    # Videos.
    Poison("sound.mkv", sound_only, error=UnsupportedFile, word="sound only"),
    Poison("no-index.mp4", without_index, error=CorruptFile, word="damaged video"),
    Poison("zero-duration.mp4", with_(with_duration, 0), items=1),
    Poison("nothing-shown.mp4", with_(with_duration, 0, boxes=[b"elst"]), error=CorruptFile, word="no frame"),
    Poison("long-by-its-word.mp4", with_(with_duration, 0x7FFFFFFF), items=1),
    Poison("all-at-once.mp4", with_(with_frame_step, 0), items=1),
    Poison("slow.mp4", with_(with_frame_step, 0x7FFFFFFF), items=1),
    Poison("slower.mp4", with_slow_clock, items=1),
    Poison("unknown-codec.mp4", unknown_codec, error=CorruptFile, word="Decoder not found"),
    Poison("encrypted.mp4", patched(film, b"avc1", 0, b"encv"), error=CorruptFile, word="Decoder not found"),
    Poison(
        "many-samples.mp4",
        patched(film, b"stsz", 8, struct.pack(">II", 1, 0x7FFFFFFF)),
        error=CorruptFile,
        word="no frame",
    ),
    Poison(
        "many-sizes.mp4",
        patched(film, b"stsz", 12, struct.pack(">I", 0x7FFFFFFF)),
        error=CorruptFile,
        word="damaged video",
    ),
    Poison(
        "many-times.mp4", patched(film, b"stts", 8, struct.pack(">I", 0x7FFFFFFF)), error=FileTooLarge, word="memory"
    ),
    Poison("many-frames-by-its-word.mp4", patched(film, b"stts", 12, struct.pack(">I", 0x7FFFFFFF)), items=1),
    Poison("wide-frames.mp4", with_(with_frame_size, 65_535, 65_535), items=1),
    Poison("ten-hours.mp4", ten_hours, items=300),
    Poison("broken-middle.mp4", broken_middle, items=1),
    Poison("broken-middle.mkv", broken_middle, items=1),
    Poison("variable-rate.mp4", variable_rate, items=1),
    Poison("rotated.mp4", with_(film, rotation=90), items=1),
    Poison("wordy.mp4", wordy_film, items=1),
)


def write(folder: Path, poison: Iterable[Poison] = POISON) -> dict[str, Poison]:
    """Each file under its name; by name."""
    written = {}
    for one in poison:
        one.make(folder / one.name)
        written[one.name] = one
    return written


# ---------------------------------------------------------------- places

ODD_NAMES = (b"two\nlines.png", b"caf\xc3\xa9.png", b"cafe\xcc\x81.png", b"\xff\xfe.png", b"-rf.png", b"\x1b[31mred.png", b"%03d.png", b"a" * 251 + b".png")  # fmt: skip
"""File names as bytes: a line break, é composed and not, no UTF-8, an option's look, a terminal's command, a pattern, the longest."""


def odd_names(folder: Path) -> list[Path]:
    """A good picture under each, every one another."""
    made = []
    for number, name in enumerate(ODD_NAMES):
        path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
        samples.photo(folder / "new.png", (number * 25, 200, 90)).rename(path)
        made.append(path)
    return made


def strange_places(folder: Path) -> dict[str, int]:
    """Links that lead in circles or nowhere, a pipe, a socket and, where allowed, devices: how many of each kind of a scan's counts."""
    (folder / "loop").mkdir()
    (folder / "loop" / "again").symlink_to(folder)
    (folder / "self.jpg").symlink_to(folder / "self.jpg")
    (folder / "nowhere.jpg").symlink_to(folder / "no-such-file.jpg")
    (folder / "ping.jpg").symlink_to(folder / "pong.jpg")
    (folder / "pong.jpg").symlink_to(folder / "ping.jpg")
    os.mkfifo(folder / "pipe.mp4")
    special = 2
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(folder, os.O_RDONLY)
        try:
            listener.bind(f"/proc/self/fd/{here}/socket.pdf")  # a socket's path must be short
        finally:
            os.close(here)
    for name, device in (
        ("zeros-device.png", os.makedev(1, 5)),
        ("random-device.pdf", os.makedev(1, 8)),
    ):  # /dev/zero, /dev/random
        try:
            os.mknod(folder / name, 0o600 | stat.S_IFCHR, device)
        except OSError:
            continue
        special += 1
    return {"links": 5, "special": special}
