"""Sample files made by code: documents, pictures in every mode, videos, broken things. Each function writes one file and returns its path."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from mmsearch.media import load_pymupdf

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


# Documents


def pdf(path: Path, pages: Sequence[str | None] = ("Revenue grew in the third quarter",), **save: object) -> Path:
    """One page per text; "" gives a page with a drawing and no text, None a blank one. `save` goes to PyMuPDF."""
    pymupdf = load_pymupdf()

    document = pymupdf.open()
    for text in pages:
        page = document.new_page(width=595, height=842)
        if text:
            page.insert_text((72, 100), text, fontsize=24)
        elif text == "":
            page.draw_rect((100, 100, 400, 400), fill=(1, 0, 0))
    document.save(path, **save)
    document.close()
    return path


def encrypted_pdf(path: Path) -> Path:
    pymupdf = load_pymupdf()

    return pdf(path, encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="secret", owner_pw="owner")


def page_less_pdf(path: Path) -> Path:
    path.write_bytes(
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\n"
        b"trailer<</Root 1 0 R>>\n"
    )
    return path


def pdf_with_boxes(path: Path, boxes: Sequence[tuple[float, float]]) -> Path:
    """Pages of the given sizes in points, the left upper quarter red."""
    pymupdf = load_pymupdf()

    document = pymupdf.open()
    for width, height in boxes:
        page = document.new_page(width=width, height=height)
        page.draw_rect((0, 0, width / 2, height / 2), color=None, fill=(1, 0, 0))
    document.save(path)
    document.close()
    return path


def epub(path: Path, paragraphs: Sequence[str] = ("A story about whales.",)) -> Path:
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)
        book.writestr(
            "META-INF/container.xml",
            '<?xml version="1.0"?><container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
            '<rootfiles><rootfile full-path="c.opf" media-type="application/oebps-package+xml"/></rootfiles></container>',
        )
        book.writestr(
            "c.opf",
            '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="2.0" unique-identifier="i">'
            '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Whales</dc:title><dc:identifier id="i">x'
            '</dc:identifier><dc:language>en</dc:language></metadata><manifest><item id="a" href="a.xhtml" '
            'media-type="application/xhtml+xml"/></manifest><spine><itemref idref="a"/></spine></package>',
        )
        text = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
        book.writestr("a.xhtml", f'<html xmlns="http://www.w3.org/1999/xhtml"><body>{text}</body></html>')
    return path


def xps(path: Path, body: str = "") -> Path:
    """One page, drawn red, with `body` in its markup."""
    relation = (
        '<Relationship Id="r" Type="http://schemas.microsoft.com/xps/2005/06/fixedrepresentation" Target="/a.fdseq"/>'
    )
    name = 'xmlns="http://schemas.microsoft.com/xps/2005/06"'
    members = {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>',
        "_rels/.rels": f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{relation}</Relationships>',
        "a.fdseq": f'<FixedDocumentSequence {name}><DocumentReference Source="/a.fdoc"/></FixedDocumentSequence>',
        "a.fdoc": f'<FixedDocument {name}><PageContent Source="/1.fpage"/></FixedDocument>',
        "1.fpage": f'<FixedPage {name} Width="300" Height="400"><Path Data="M 50,50 L 250,50 250,350 50,350 Z" Fill="#ffff0000"/>{body}</FixedPage>',
    }
    with zipfile.ZipFile(path, "w") as package:
        for member, content in members.items():
            package.writestr(member, content)
    return path


def svg(path: Path) -> Path:
    path.write_text(
        '<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="200" height="100">'
        '<rect width="200" height="100" fill="#ff0000"/><text x="10" y="80">hello</text></svg>'
    )
    return path


def prose(path: Path) -> Path:
    """Two pages of plain text or Markdown, in UTF-8."""
    path.write_text("# Revenue\n\nGrew “again”.\n\n" + "words " * 600 + "\n\n## Costs\n\n```\n# none\n```\n", "utf-8")
    return path


def cbz(path: Path, colours: Sequence[tuple[int, int, int]] = (RED, BLUE)) -> Path:
    with zipfile.ZipFile(path, "w") as comic:
        for number, colour in enumerate(colours):
            leaf = path.with_suffix(f".{number}.png")
            picture = Image.new("RGB", (120, 180), colour)
            picture.paste(WHITE, (10, 10, 40, 40))
            picture.save(leaf)
            comic.write(leaf, f"{number}.png")
            leaf.unlink()
    return path


# Pictures


def corners(width: int = 64, height: int = 48) -> Image.Image:
    """Red, green, blue and white quarters: left upper, right upper, left lower, right lower."""
    image = Image.new("RGB", (width, height), WHITE)
    image.paste(RED, (0, 0, width // 2, height // 2))
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    return image


def corner_colours(image: Image.Image) -> list[str]:
    """The nearest named colour at the middle of each quarter, in the order of `corners`."""
    names = {"red": RED, "green": GREEN, "blue": BLUE, "white": WHITE, "black": BLACK}
    found = []
    for y in (0.25, 0.75):
        for x in (0.25, 0.75):
            pixel = np.array(image.getpixel((int(image.width * x), int(image.height * y))), int)
            found.append(min(names, key=lambda name: int(np.abs(pixel - names[name]).sum())))
    return found


def photo(path: Path, colour: tuple[int, int, int] = RED, size: tuple[int, int] = (320, 240), **save: object) -> Path:
    Image.new("RGB", size, colour).save(path, **save)
    return path


def camera_photo(path: Path, *, orientation: int = 1) -> Path:
    """A JPEG with EXIF: taken 2024-05-06 07:08:09 +02:00 by a Canon EOS R6 at 52.52 N, 13.405 E; pixels stored so that it is upright."""
    undo = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    image = corners(640, 480)
    if orientation in undo:
        image = image.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F], exif[0x0110] = "Canon\0", "Canon EOS R6"
    exif.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
    exif.get_ifd(0x8769)[0x9011] = "+02:00"
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2] = "N", (52.0, 31.0, 12.0)
    gps[3], gps[4] = "E", (13.0, 24.0, 18.0)
    image.save(path, exif=exif, quality=95)
    return path


def animation(path: Path, colours: Sequence[tuple[int, int, int]], *, frame_ms: int = 500) -> Path:
    frames = [Image.new("RGB", (64, 48), colour) for colour in colours]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=frame_ms, loop=0)
    return path


# Videos


def video(
    path: Path,
    picture: Callable[[int], np.ndarray | Image.Image],
    times_ms: Sequence[int],
    *,
    codec: str = "libx264",
    rotation: int = 0,
    options: dict[str, str] | None = None,
) -> Path:
    """Encode `picture(n)`, RGB, shown from `times_ms[n]` on (any steps: variable frame rate)."""
    import av

    first = np.asarray(picture(0))
    last_step_ms = times_ms[-1] - times_ms[-2] if len(times_ms) > 1 else 40  # encoders give the last frame 1 / rate
    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(1000, last_step_ms), options=options or {})
        stream.width, stream.height, stream.pix_fmt = first.shape[1], first.shape[0], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for number, time_ms in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(np.asarray(picture(number)), format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def film(path: Path, codec: str, *, size: tuple[int, int] = (176, 144), seconds: float = 2.0) -> Path:
    """A wandering square, 25 frames a second: for the older containers and codecs, which take no other clock."""
    import av

    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(round(25 * seconds)):
            picture = Image.fromarray(scene(BLUE, number)).resize(size)
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    return path


def numbered(number: int) -> np.ndarray:
    """uint8 [96, 160, 3]: `number` (0…255) as eight black or white bars below, red above."""
    picture = np.zeros((96, 160, 3), np.uint8)
    picture[:32] = RED
    for bit in range(8):
        if number >> bit & 1:
            picture[32:, bit * 20 : bit * 20 + 20] = 255
    return picture


def read_number(image: Image.Image) -> int:
    """The inverse of `numbered`, whatever the size."""
    grey = np.asarray(image.convert("L"))
    height, width = grey.shape
    return sum(int(grey[height * 3 // 4, int((bit + 0.5) * width / 8)] > 128) << bit for bit in range(8))


def scene(colour: tuple[int, int, int], number: int) -> np.ndarray:
    """A colour with a small bright square that wanders, so that something moves."""
    picture = np.empty((96, 160, 3), np.uint8)
    picture[:] = np.array(colour, np.uint8) // 2
    x = number * 2 % 140
    picture[40:60, x : x + 20] = 255
    return picture


def scenes(path: Path, lengths_s: Sequence[float], *, fps: int = 20, moving: bool = True, **encode: object) -> Path:
    """A video of scenes of the given lengths, each of another colour."""
    colours = [RED, BLUE, GREEN, WHITE, BLACK, (255, 255, 0)]
    of_frame = [n for n, length_s in enumerate(lengths_s) for _ in range(round(length_s * fps))]
    times_ms = [round(number * 1000 / fps) for number in range(len(of_frame))]
    return video(path, lambda number: scene(colours[of_frame[number] % 6], number if moving else 0), times_ms, **encode)


def tagged_video(path: Path, plain: Path, tags: Mapping[str, str]) -> Path:
    """The video `plain` with the tags of a container."""
    import av

    options = {"movflags": "use_metadata_tags"} if path.suffix in (".mp4", ".mov") else {}
    with av.open(os.fspath(plain)) as source, av.open(os.fspath(path), "w", options=options) as target:
        target.metadata.update(tags)
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return path


def cut_short(path: Path, share: float) -> Path:
    """Keep the first part of a file."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path
