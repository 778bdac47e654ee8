"""What people wrote of a picture, video or document is found in its metadata, whatever wrote it; what devices write is not."""

from __future__ import annotations

import io
import struct
import time
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, PngImagePlugin

from mmsearch import media
from mmsearch.errors import SourceError
from mmsearch.media.descriptions import NOTHING, Description, decoded, told
from mmsearch.media.picture_words import picture_words
from mmsearch.media.xmp import description_of_packet

SPACES = (
    'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
    ' xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"'
    ' xmlns:Iptc4xmpCore="http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    ' xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/" xmlns:MP="http://ns.microsoft.com/photo/1.2/"'
    ' xmlns:MPRI="http://ns.microsoft.com/photo/1.2/t/RegionInfo#" xmlns:MPReg="http://ns.microsoft.com/photo/1.2/t/Region#"'
    ' xmlns:lr="http://ns.adobe.com/lightroom/1.0/" xmlns:digiKam="http://www.digikam.org/ns/1.0/"'
    ' xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:aux="http://ns.adobe.com/exif/1.0/aux/"'
    ' xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"'
)


def packet(properties: str = "", attributes: str = "") -> bytes:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" {SPACES} {attributes}>{properties}</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def bag(name: str, *values: str, kind: str = "Bag") -> str:
    return f"<{name}><rdf:{kind}>{''.join(f'<rdf:li>{value}</rdf:li>' for value in values)}</rdf:{kind}></{name}>"


def saved(suffix: str, **save: object) -> io.BytesIO:
    out = io.BytesIO()
    Image.new("RGB", (32, 24), (200, 30, 30)).save(out, suffix, **save)
    out.seek(0)
    return out


def words_of(file: io.BytesIO | Path) -> Description:
    with media.open_header(file) as header:
        return picture_words(header)


def exif_of(tags: dict[int, object], details: dict[int, object] | None = None) -> Image.Exif:
    exif = Image.Exif()
    for tag, value in tags.items():
        exif[tag] = value
    if details:
        exif.get_ifd(ExifTags.IFD.Exif).update(details)
    return exif


# XMP

FULL = packet(
    "<dc:title><rdf:Alt><rdf:li xml:lang='de'>Der Garten</rdf:li><rdf:li xml:lang='x-default'>The garden</rdf:li></rdf:Alt></dc:title>"
    "<dc:description><rdf:Alt><rdf:li xml:lang='x-default'>Grandma waters her tomatoes</rdf:li></rdf:Alt></dc:description>"
    + bag("dc:subject", "tomato", "watering can")
    + bag("dc:creator", "Jörg Müller", kind="Seq")
    + bag("Iptc4xmpExt:PersonInImage", "Hilde Braun")
    + bag("lr:hierarchicalSubject", "People|Anna Braun", "Plants|Vegetables")
    + "<mwg-rs:Regions rdf:parseType='Resource'><mwg-rs:RegionList><rdf:Bag>"
    "<rdf:li><rdf:Description mwg-rs:Name='Otto Braun' mwg-rs:Type='Face'/></rdf:li>"
    "<rdf:li rdf:parseType='Resource'><mwg-rs:Name>Rex</mwg-rs:Name><mwg-rs:Type>Pet</mwg-rs:Type></rdf:li>"
    "</rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions>"
    "<MP:RegionInfo rdf:parseType='Resource'><MPRI:Regions><rdf:Bag><rdf:li MPReg:PersonDisplayName='Ida Braun'/></rdf:Bag>"
    "</MPRI:Regions></MP:RegionInfo>"
    "<xmpMM:Pantry><rdf:Bag><rdf:li><dc:title>Of another file</dc:title></rdf:li></rdf:Bag></xmpMM:Pantry>",
    "xmp:Rating='4' photoshop:City='Lisboa' photoshop:Country='Portugal' Iptc4xmpCore:Location='Alfama'"
    " exif:GPSLatitude='38,42.75N' exif:GPSLongitude='9,7,48W' tiff:Make='Canon' tiff:Model='Canon EOS 80D' aux:Lens='EF-S18-55mm'",
)


def test_xmp_says_title_caption_keywords_people_place_author() -> None:
    said = description_of_packet(FULL)
    assert said == Description(
        title="The garden",
        captions=("Grandma waters her tomatoes", "Der Garten"),
        keywords=("tomato", "watering can", "Plants", "Vegetables"),
        people=("Otto Braun", "Ida Braun", "Hilde Braun", "Anna Braun"),
        place="Alfama, Lisboa, Portugal",
        author="Jörg Müller",
        rating=4,
        camera="Canon EOS 80D",
        lens="EF-S18-55mm",
        gps=(38.7125, -9.13),
    )
    assert said.text.splitlines() == [
        "The garden",
        "Grandma waters her tomatoes",
        "Der Garten",
        "tomato, watering can, Plants, Vegetables",
        "Otto Braun, Ida Braun, Hilde Braun, Anna Braun",
        "Alfama, Lisboa, Portugal",
        "Jörg Müller",
    ]


def test_xmp_is_read_in_all_its_languages() -> None:
    def alternatives(name: str, **said: str) -> str:
        items = "".join(
            f"<rdf:li xml:lang='{language.replace('_', '-')}'>{words}</rdf:li>" for language, words in said.items()
        )
        return f"<{name}><rdf:Alt>{items}</rdf:Alt></{name}>"

    said = description_of_packet(
        packet(
            alternatives("dc:title", de_DE="Binnenhafen", x_default="Harbour", en_US="Harbour")
            + alternatives("dc:description", nl_NL="Boten bij zonsopgang", fr_FR="Bateaux à l’aube")
        )
    )
    assert (said.title, said.captions) == ("Harbour", ("Boten bij zonsopgang", "Binnenhafen", "Bateaux à l’aube"))


def test_the_lens_by_the_name_that_newer_cameras_have_for_it() -> None:
    attributes = "xmlns:exifEX='http://cipa.jp/exif/1.0/' exifEX:LensModel='RF50mm F1.8'"
    assert description_of_packet(packet(attributes=attributes)).lens == "RF50mm F1.8"


@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_every_format_carries_it(suffix: str) -> None:
    if suffix == "PNG":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("XML:com.adobe.xmp", FULL.decode())
        file = saved("PNG", pnginfo=chunks)
    elif suffix == "TIFF":
        file = saved("TIFF", tiffinfo={700: FULL})
    else:
        file = saved(suffix, xmp=FULL)
    assert words_of(file) == description_of_packet(FULL)


@pytest.mark.parametrize(
    "broken",
    [
        FULL[:-200],
        FULL.replace(b"<rdf:RDF", b"<rdf:RDF <", 1),
        b"<!DOCTYPE x [<!ENTITY a 'aaaa'>]>" + FULL,
        "<!DOCTYPE x>".encode("utf-16-le") + FULL,
        b"",
        b"\0" * 100,
        b"<a>" * 1000,
        b"x" * 5_000_000,
    ],
    ids=["cut", "malformed", "entities", "entities in UTF-16", "empty", "zeros", "nested", "huge"],
)
def test_a_damaged_packet_says_nothing(broken: bytes) -> None:
    assert description_of_packet(broken) == NOTHING


def test_a_packet_in_utf_16_is_read() -> None:
    assert description_of_packet(FULL.decode().encode("utf-16")) == description_of_packet(FULL)


def test_a_rejected_picture_has_no_stars() -> None:
    assert description_of_packet(packet(attributes="xmp:Rating='-1'")).rating is None


# EXIF


def test_exif_texts_of_every_encoding() -> None:
    exif = exif_of(
        {
            ExifTags.Base.ImageDescription: "Möwen über dem Hafen".encode(),
            ExifTags.Base.Artist: "Ada Lovelace",
            ExifTags.Base.Rating: 5,
            0x9C9B: "Hafen".encode("utf-16-le") + b"\0\0",
            0x9C9E: "Boot;Möwe;".encode("utf-16-le") + b"\0\0",
        },
        {
            ExifTags.Base.UserComment: b"UNICODE\0" + "日没の港".encode("utf-16-be"),
            ExifTags.Base.LensModel: "RF24-70mm F2.8",
        },
    )
    said = words_of(saved("JPEG", exif=exif))
    assert (said.title, said.captions) == ("Hafen", ("Möwen über dem Hafen", "日没の港"))
    assert (said.keywords, said.author, said.rating, said.lens) == (
        ("Boot", "Möwe"),
        "Ada Lovelace",
        5,
        "RF24-70mm F2.8",
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"ASCII\0\0\0a red lighthouse",
        b"\0\0\0\0\0\0\0\0a red lighthouse\0\0\0\0",
        b"UNICODE\0" + "a red lighthouse".encode("utf-16-le"),
        b"UNICODE\0" + "a red lighthouse".encode("utf-16"),
        b"UNICODE\0a red lighthouse",
        b"a red lighthouse",
        b"JIS\0\0\0\0\0a red lighthouse",
    ],
    ids=["ASCII", "undefined", "little endian", "with a mark", "wrongly named", "without a name", "JIS"],
)
def test_user_comments(raw: bytes) -> None:
    said = words_of(saved("JPEG", exif=exif_of({}, {ExifTags.Base.UserComment: raw})))
    assert said.captions == ("a red lighthouse",)


@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("file_order", ["<", ">"], ids=["little-endian file", "big-endian file"])
@pytest.mark.parametrize(
    "words",
    [
        "a red lighthouse",
        "lighthouse",
        "Über die Brücke",
        "外婆在厨房包饺子",
        "一个人在海边",
        "统一大厦 2019",
        "東京タワーの夜景",
        "부산 해운대 바다",
        "Хризантемы в саду",
        "Хризантемы",
        "Ηλιοβασίλεμα",
        "שקיעה בים",
        "غروب الشمس",
        "พระอาทิตย์ตก",
    ],
)
def test_user_comments_in_either_byte_order(words: str, order: str, file_order: str) -> None:
    exif = exif_of({}, {ExifTags.Base.UserComment: b"UNICODE\0" + words.encode(order)})
    exif.endian = file_order
    said = words_of(saved("JPEG", exif=exif))
    assert said.captions == (words,)


def test_exif_texts_in_windows_encoding() -> None:
    """The quotation marks and dashes that Latin-1 lacks; Pillow gives them as control characters."""
    words = "Oma’s “Café” – 5 €"
    exif = exif_of(
        {ExifTags.Base.ImageDescription: words.encode("cp1252"), ExifTags.Base.Artist: "Œuvre".encode("cp1252")}
    )
    said = words_of(saved("JPEG", exif=exif))
    assert (said.captions, said.author) == ((words,), "Œuvre")


def test_a_comment_of_blanks_says_nothing() -> None:
    raw = b"ASCII\0\0\0" + b" " * 256 + b"\0" * 8
    assert words_of(saved("JPEG", exif=exif_of({}, {ExifTags.Base.UserComment: raw}))) == NOTHING


# IPTC


def iptc_block(*datasets: tuple[int, bytes], utf8: bool = False) -> bytes:
    content = b"\x1c\x01\x5a\x00\x03\x1b%G" if utf8 else b""
    for number, value in datasets:
        content += bytes((0x1C, 2, number)) + len(value).to_bytes(2, "big") + value
    return content


def iptc_jpeg(*datasets: tuple[int, bytes], utf8: bool = False) -> io.BytesIO:
    return jpeg_with(iptc_block(*datasets, utf8=utf8))


def jpeg_with(content: bytes) -> io.BytesIO:
    block = b"8BIM\x04\x04\0\0" + len(content).to_bytes(4, "big") + content + b"\0" * (len(content) % 2)
    segment = b"Photoshop 3.0\0" + block
    plain = saved("JPEG").getvalue()
    return io.BytesIO(plain[:2] + b"\xff\xed" + (len(segment) + 2).to_bytes(2, "big") + segment + plain[2:])


BITTERN = iptc_block((5, b"Bittern"), (120, b"Booming"), (25, b"marsh"), (25, b"reed"), utf8=True)


@pytest.mark.parametrize(
    ("content", "keywords"),
    [
        (BITTERN.replace(b"\x1c\x02\x78", b"\0\x02\x78"), ("marsh", "reed")),
        (BITTERN.replace(b"\x1c\x02\x78", b"\0\0\0\x1c\x02\x78"), ("marsh", "reed")),
        (BITTERN.replace(b"\x05marsh", b"\xffmarsh"), ("marsh", "reed")),
        (BITTERN.replace(b"\x00\x05marsh", b"\x7fImarsh"), ("marsh", "reed")),
        (BITTERN.replace(b"\x00\x05marsh", b"\x80\x04\0\0\0\x05marsh"), ("marsh", "reed")),
        (BITTERN[:-2], ("marsh", "re")),
        (BITTERN + b"\x1c\x02\x19", ("marsh", "reed")),
    ],
    ids=["no mark", "bytes between", "too long", "far too long", "a size of its own", "cut short", "cut in a head"],
)
def test_a_damaged_iptc_record_costs_itself_alone(content: bytes, keywords: tuple[str, ...]) -> None:
    said = words_of(jpeg_with(content))
    assert (said.title, said.keywords) == ("Bittern", keywords)


@pytest.mark.parametrize("kind", [1, 4, 7], ids=["bytes", "numbers", "undefined"])
def test_iptc_in_a_tiff(kind: int) -> None:
    content = BITTERN + b"\0" * (-len(BITTERN) % 4)
    file = saved("TIFF", tiffinfo={700: content}).getvalue()  # the tag of XMP, of any type of bytes, made that of IPTC
    entry = file.index(struct.pack("<HH", 700, 1))
    size = len(content) // 4 if kind == 4 else len(content)
    file = file[:entry] + struct.pack("<HHI", 33723, kind, size) + file[entry + 8 :]
    assert words_of(io.BytesIO(file)).keywords == ("marsh", "reed")


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_iptc_in_either_encoding(encoding: str) -> None:
    file = iptc_jpeg(
        (5, "Café".encode(encoding)),
        (120, "Zwei Möwen im Café".encode(encoding)),
        (25, "Möwe".encode(encoding)),
        (25, b"coffee"),
        (80, b"Grace Hopper"),
        (90, b"Lisboa"),
        (101, b"Portugal"),
        utf8=encoding == "utf-8",
    )
    said = words_of(file)
    assert (said.title, said.captions, said.keywords) == ("Café", ("Zwei Möwen im Café",), ("Möwe", "coffee"))
    assert (said.place, said.author) == ("Lisboa, Portugal", "Grace Hopper")


# PNG, JPEG and GIF comments


def png_with_chunks(*chunks: tuple[bytes, bytes], behind: bool = False) -> io.BytesIO:
    plain = saved("PNG").getvalue()
    made = b"".join(
        len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")
        for name, content in chunks
    )
    at = plain.index(b"IEND") - 4 if behind else 33
    return io.BytesIO(plain[:at] + made + plain[at:])


@pytest.mark.parametrize("behind", [False, True], ids=["before the pixels", "behind the pixels"])
def test_png_texts(behind: bool) -> None:
    file = png_with_chunks(
        (b"tEXt", b"Title\0A chart of tides"),
        (b"zTXt", b"Description\0\0" + zlib.compress(b"High water at Brest")),
        (b"iTXt", b"Author\0\0\0en\0\0" + "Émilie".encode()),
        (b"tEXt", b"Software\0Adobe ImageReady"),
        behind=behind,
    )
    said = words_of(file)
    assert said == Description(title="A chart of tides", captions=("High water at Brest",), author="Émilie")
    assert media.decode_image(file).size == (32, 24)


def test_a_png_bomb_is_bounded() -> None:
    began = time.process_time()
    bomb = zlib.compress(b"many words " * 2_000_000)
    said = words_of(png_with_chunks((b"zTXt", b"Description\0\0" + bomb), behind=True))
    assert len(said.text) <= 4000 and said.captions[0].startswith("many words many words")
    assert time.process_time() - began < 5


@pytest.mark.parametrize("behind", [False, True], ids=["before the pixels", "behind the pixels"])
@pytest.mark.parametrize(
    "refused",
    [
        (b"zTXt", b"Comment\0\0" + zlib.compress(b"many words " * 200_000)),
        (b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(b"many words " * 200_000)),
        (b"iCCP", b"wide\0\0" + zlib.compress(bytes(3_000_000))),
        (b"zTXt", b"Comment\0\7" + zlib.compress(b"words")),
        (b"tEXt", b"Comment\0" + b"x " * 34_000_000),
    ],
    ids=["zTXt", "iTXt", "profile", "unknown compression", "68 MB"],
)
def test_a_text_that_pillow_refuses_does_not_cost_the_picture(refused: tuple[bytes, bytes], behind: bool) -> None:
    file = png_with_chunks(refused, (b"tEXt", b"Title\0A chart of tides"), behind=behind)
    assert words_of(file).title == "A chart of tides"
    file.seek(0)
    picture = media.decode_picture(file)
    assert picture.is_whole and picture.image.getpixel((3, 3)) == (200, 30, 30)


def test_a_text_with_a_wrong_checksum_does_not_cost_the_picture() -> None:
    raw = bytearray(png_with_chunks((b"tEXt", b"Title\0A chart of tides")).getvalue())
    raw[raw.index(b"tides") + 5] ^= 0xFF
    assert media.decode_image(io.BytesIO(raw)).getpixel((3, 3)) == (200, 30, 30)


def test_the_words_of_a_large_text_are_read() -> None:
    """As of a packet that an image editor has filled with its history."""
    filler = b" " * 2_000_000
    chunk = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(packet(bag("dc:title", "Lighthouse", kind="Alt")) + filler)
    assert words_of(png_with_chunks((b"iTXt", chunk))).title == "Lighthouse"


def test_comments_of_jpeg_and_gif() -> None:
    for suffix in ("JPEG", "GIF"):
        assert words_of(saved(suffix, comment=b"The last steam train")).captions == ("The last steam train",)


# What is no caption


@pytest.mark.parametrize(
    "value",
    [
        "OLYMPUS DIGITAL CAMERA         ", "SONY DSC", "SAMSUNG", "Samsung Electronics", "KONICA MINOLTA DIGITAL CAMERA",
        "DCIM\\100GOPRO\\GOPR0012.JPG",
        "<Digimax i5, Samsung #1>", "Exif_JPEG_PICTURE", "dav", "oznor", "hdr", "rptr_soft", "untitled", "Untitled-3", "(anonymous)",
        "Unbenannt",
        "Microsoft Word - x.doc", "Microsoft Word - Annual report.docx", "PowerPoint Presentation", "PowerPoint-Präsentation",
        "Slide 1", "Document1",
        "Layout 1", "report_final.indd", "x.doc", "Adobe Photoshop CS6", "Adobe InDesign 16.2", "GIMP", "Created with GIMP",
        "File written by Adobe Photoshop® 4.0",
        "CREATOR: gd-jpeg v1.0 (using IJG JPEG v62), quality = 90", "LEAD Technologies Inc. V1.01", "ImageJ=1.53t",
        "Processed with VSCO with c1 preset",
        "Lavf58.29.100", "Microsoft® PowerPoint® 2016", "charset=Ascii", "filter: 0; fileterIntensity: 0.0; filterMask: 0;",
        "User comments", "*", "12", "---",
        '{"source":"editor","effects":[1,2]}', "<?xml version='1.0'?><OME></OME>", "QWxhZGRpbjpvcGVuIHNlc2FtZQ" * 4, "",
        "\0\0\0", None, 7, b"\0\0",
    ],
)  # fmt: skip
def test_generic_values_are_no_captions(value: object) -> None:
    assert Description.of(titles=[value], captions=[value]).text == ""


@pytest.mark.parametrize(
    "value",
    [
        "Samsung store in Seoul", "A digital camera on a table", "untitled poem by Anna", "Made in Japan", "Captured on the beach",
        "HDR of the old town",
        "Cover of the first edition", "Word of the day", "latex gloves in a shop", "The Google campus", "An image", "東京の桜", "猫",
        "Report 2019: final figures",
        "Photo by Ansel Adams", "日" * 80, "Preview of the new season", "Tex-Mex dinner",
    ],
)  # fmt: skip
def test_what_people_write_is_kept(value: str) -> None:
    assert told(value) == value


def test_the_camera_is_no_caption() -> None:
    exif = exif_of(
        {
            ExifTags.Base.Make: "Canon",
            ExifTags.Base.Model: "Canon EOS 80D",
            ExifTags.Base.ImageDescription: "Canon EOS 80D",
        }
    )
    assert words_of(saved("JPEG", exif=exif)) == NOTHING


def test_keywords_are_what_somebody_chose() -> None:
    assert Description.of(keywords=["drawing", "cover", "2015", "Drawing", "x" * 101]).keywords == (
        "drawing",
        "cover",
        "2015",
    )


def test_generic_values_are_told_in_linear_time() -> None:
    began = time.process_time()
    for value in (
        "photoshop " + "1" * 5000 + "!",
        "adobe " * 1000 + "!",
        "1.2.3." * 1000 + "\u2028!",
        "a" * 5000 + " digital",
        "[{" * 3000,
    ):
        told(value)
    assert time.process_time() - began < 0.5


def test_long_text_is_cut_between_characters() -> None:
    assert decoded(b"a" + "é".encode() * 400_000)[:3] == "aéé"
    assert decoded("é".encode("utf-16")) == "é" and decoded(b"Caf\xe9") == "Café"


# Bounds


def test_megabytes_of_metadata_stay_small() -> None:
    many = packet(
        bag("dc:subject", *(f"keyword {n} {'x' * 50}" for n in range(20_000))) + bag("dc:creator", *["a b" * 50] * 5000)
    )
    said = description_of_packet(many)
    assert len(said.keywords) == 100 and len(said.text) < 20_000
    long = Description.of(
        titles=["word " * 100_000], captions=["line " * 100_000, "other " * 100_000] * 10, people=["p q"] * 100_000
    )
    assert len(long.text) < 20_000
    assert set(long.short_meta()) == {"title"}


def test_damage_in_one_block_costs_that_block_alone() -> None:
    rng = np.random.default_rng(0)
    clean = saved("JPEG", exif=exif_of({ExifTags.Base.ImageDescription: "A red lighthouse"}), xmp=FULL).getvalue()
    head = clean.index(b"Exif\0\0")
    for _ in range(300):
        damaged = bytearray(clean)
        for at in rng.integers(head, head + 3000, 8):
            damaged[at] = rng.integers(0, 256)
        with suppress(SourceError):
            words_of(io.BytesIO(bytes(damaged)))


def test_both_say_it_once() -> None:
    both = Description(title="The garden", keywords=("tomato",), captions=("Red tomatoes",)).over(
        Description(title="Garden", keywords=("Tomato", "leaf"), captions=("red tomatoes", "Ripe"), rating=3)
    )
    assert both == Description(
        title="The garden", keywords=("tomato", "leaf"), captions=("Red tomatoes", "Ripe"), rating=3
    )
