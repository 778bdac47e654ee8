"""Dates: what files state, what names say, what people ask for, and that a filter means the clock of the place."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from PIL import Image

import mmsearch.library
from ingest import readers
from ingest.pipeline import ingest_paths
from mmsearch import media
from mmsearch.catalog import Catalog
from mmsearch.catalog.filters import Filters
from mmsearch.items import KINDS, Source
from mmsearch.library import Library
from mmsearch.media import dates
from tests import samples

CASES = Path("/work/shared/cases")
BUDGET = dict.fromkeys(KINDS, 12_544)
TODAY = date(2026, 11, 29)  # a Sunday
DAY = "2015-06-01T10:00:00"


@contextmanager
def time_zone(name: str) -> Iterator[None]:
    """This process in another time zone."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = name
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()


def dated(path: Path) -> tuple[str | None, str]:
    """What a reader makes of a file's date: (captured_at, date_source) of its first item."""
    status = path.stat()
    source = Source(path, "0", status.st_size, status.st_mtime_ns)
    draft = next(iter(readers.read_items(source, BUDGET)))
    return draft.meta.get("captured_at"), draft.meta["date_source"]


# As files write them


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2015:06:01 10:00:00", DAY),
        ("2015:06:01 10:00:00\0", DAY),
        (b"2015:06:01 10:00:00", DAY),
        ("2015-06-01 10:00:00", DAY),
        ("2015-06-01T10:00:00", DAY),
        ("2015/06/01 10:00:00", DAY),
        ("2015-06-01T10:00", DAY),
        ("2015-06-01T10:00:00.123456", DAY),
        ("2015-06-01T10:00:00+0200", DAY + "+02:00"),
        ("2015-06-01T10:00:00.00-03:30", DAY + "-03:30"),
        ("2015-06-01T10:00:00Z", DAY + "+00:00"),
        ("2015:06:01 10:00:00+02:00", DAY + "+02:00"),
        ("D:20150601100000+02'00'", DAY + "+02:00"),
        ("D:20150601100000+02'00", DAY + "+02:00"),
        ("D:20150601100000Z", DAY + "+00:00"),
        ("D:20150601100000Z00'00'", DAY + "+00:00"),
        ("D:20150601100000", DAY),
        ("D:201506011000", DAY),
        ("20150601T100000+0200", DAY + "+02:00"),
        ("20150601", "2015-06-01"),
        ("D:201506", "2015-06"),
        ("2015", "2015"),
        ("2015-06", "2015-06"),
        ("2015:06:01", "2015-06-01"),
        ("2015:06:01   :  :  ", "2015-06-01"),
        ("0000:00:00 00:00:00", None),
        ("    :  :     :  :  ", None),
        ("0001-01-01T00:00:00", None),
        ("1970:01:01 00:00:00", None),
        ("1970-01-01T01:00:00+01:00", None),
        ("1904-01-01T00:00:00Z", None),
        ("2015:13:01 10:00:00", None),
        ("2015:02:30 10:00:00", None),
        ("2015:06:01 25:00:00", None),
        ("2015:06:00 10:00:00", None),
        ("20150600", None),
        ("9999:12:31 23:59:59", None),
        ("1433145600", None),
        ("yesterday", None),
        ("", None),
        (None, None),
        (20150601, None),
        (("2015:06:01 10:00:00",), None),
    ],
)
def test_written_dates(written: object, meant: str | None) -> None:
    assert dates.parse_written(written) == meant


@pytest.mark.parametrize(
    ("offset", "meant"),
    [
        ("+09:00", "+09:00"),
        ("Z", "+00:00"),
        ("", ""),
        ("somewhere", ""),
        ("+99:00", ""),
        (None, ""),
        (b"-03:00", "-03:00"),
    ],
)
def test_an_offset_beside_the_date(offset: object, meant: str) -> None:
    assert dates.parse_written("2015:06:01 10:00:00", offset=offset) == DAY + meant


# In names


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("IMG-20190305-WA0001.jpg", "2019-03-05"),
        ("VID-20190305-WA0001.mp4", "2019-03-05"),
        ("WhatsApp Image 2019-03-05 at 10.11.12.jpeg", "2019-03-05T10:11:12"),
        ("WhatsApp Image 2019-03-05 at 10.11.12 PM (1).jpeg", "2019-03-05T22:11:12"),
        ("WhatsApp Video 2019-03-05 at 12.11.12 AM.mp4", "2019-03-05T00:11:12"),
        ("signal-2018-08-21-100217.jpg", "2018-08-21T10:02:17"),
        ("signal-2018-08-21-10-02-17-123.jpg", "2018-08-21T10:02:17"),
        ("IMG_20150601_100000.jpg", DAY),
        ("IMG_20150601_100000123.jpg", DAY),
        ("20150601_100000.jpg", DAY),
        ("20150601_100000(0).jpg", DAY),
        ("20150601100000.jpg", DAY),
        ("VID_20150601_100000.3gp", DAY),
        ("PXL_20210102_030405678.MP.jpg", "2021-01-02T03:04:05+00:00"),
        ("WP_20150601_10_00_00_Pro.jpg", DAY),
        ("Screenshot_20190201-212530_Maps.png", "2019-02-01T21:25:30"),
        ("Screenshot_2019-02-01-21-25-30.png", "2019-02-01T21:25:30"),
        ("Screenshot from 2019-02-01 21-25-30.png", "2019-02-01T21:25:30"),
        ("Screen Shot 2019-02-01 at 9.25.30 PM.png", "2019-02-01T21:25:30"),
        ("Screenshot 2019-02-01 at 9.25.30\u202fPM.png", "2019-02-01T21:25:30"),
        ("Bildschirmfoto 2019-02-01 um 21.25.30.png", "2019-02-01T21:25:30"),
        ("Screenshot 2023-01-02 030405.png", "2023-01-02T03:04:05"),
        ("photo_2019-02-01_21-25-30.jpg", "2019-02-01T21:25:30"),
        ("2015-06-01 10.00.00.jpg", DAY),
        ("2015-06-01 Lease.pdf", "2015-06-01"),
        ("image2015.06.01.png", "2015-06-01"),
        ("Scan_2015_06_01_0007.tif", "2015-06-01"),
        ("2015-06-01_12345.jpg", "2015-06-01"),
        ("2015-06-01_997799.jpg", "2015-06-01"),
        ("2015-06-01 to 2015-06-14.pdf", "2015-06-01"),
        ("report 20159901 20150601.pdf", "2015-06-01"),
        ("2015-06-01", "2015-06-01"),
        ("IMG_1234.jpg", None),
        ("DSC00201506011.jpg", None),
        ("201506011234567890123.jpg", None),
        ("1433145600000.jpg", None),
        ("20159901.jpg", None),
        ("2015-0601.jpg", None),
        ("01.06.2015.jpg", None),
        ("3f20150601.jpg", None),
        ("19700101_000000.jpg", None),
        ("report 2015.pdf", None),
        ("٢٠١٥-٠٦-٠١.jpg", None),
        ("", None),
    ],
)
def test_dates_in_names(name: str, meant: str | None) -> None:
    assert dates.date_in_name(name) == meant


# As people ask


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("2025", date(2025, 1, 1)),
        ("2024-05", date(2024, 5, 1)),
        ("2024-5", date(2024, 5, 1)),
        ("2025-03-31", date(2025, 3, 31)),
        ("2025-03-31T14:30", datetime(2025, 3, 31, 14, 30)),
        ("2025-03-31 14:30", datetime(2025, 3, 31, 14, 30)),
        ("0001-01-01", date(1, 1, 1)),
        ("today", TODAY),
        ("Yesterday", date(2026, 11, 28)),
        ("the day before yesterday", date(2026, 11, 27)),
        ("tomorrow", date(2026, 11, 30)),
        ("this week", date(2026, 11, 23)),
        ("last week", date(2026, 11, 16)),
        ("this month", date(2026, 11, 1)),
        ("last month", date(2026, 10, 1)),
        ("last-month", date(2026, 10, 1)),
        (" LAST  month ", date(2026, 10, 1)),
        ("this year", date(2026, 1, 1)),
        ("last year", date(2025, 1, 1)),
        ("3 days ago", date(2026, 11, 26)),
        ("a week ago", date(2026, 11, 22)),
        ("two months ago", date(2026, 9, 29)),
        ("9 months ago", date(2026, 2, 28)),
        ("2 years ago", date(2024, 11, 29)),
        ("sunday", TODAY),
        ("last sunday", date(2026, 11, 22)),
        ("last friday", date(2026, 11, 27)),
        ("fri", date(2026, 11, 27)),
        ("may", date(2026, 5, 1)),
        ("december", date(2025, 12, 1)),
        ("last may", date(2026, 5, 1)),
        ("May 2024", date(2024, 5, 1)),
    ],
)
def test_dates_that_people_ask_for(asked: str, meant: date) -> None:
    assert dates.parse_asked(asked, today=TODAY) == meant


@pytest.mark.parametrize(
    "asked",
    ["", "soon", "2025-13", "2025-02-30", "31.03.2025", "20250331", "last", "last blue moon", "may 24", "9999999 days ago",
     "5000 years ago", "x days ago", "3 moons ago", "2025-03-31Tx", "ago", "-", "0"],
)  # fmt: skip
def test_what_is_no_date(asked: str) -> None:
    with pytest.raises(ValueError):
        dates.parse_asked(asked, today=TODAY)


# The order


def exif(*, original: str = "", digitized: str = "", changed: str = "", offset: str = "") -> Image.Exif:
    found = Image.Exif()
    details = found.get_ifd(0x8769)
    for value, ifd, tag in (
        (original, details, 0x9003),
        (digitized, details, 0x9004),
        (changed, found, 0x0132),
        (offset, details, 0x9011),
    ):
        if value:
            ifd[tag] = value
    return found


def xmp(**properties: str) -> bytes:
    stated = " ".join(f'{name.replace("_", ":")}="{value}"' for name, value in properties.items())
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description'
        ' xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        f' xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" {stated}/></rdf:RDF></x:xmpmeta>\n  <?xpacket end="w"?>'
    ).encode()


def iptc_jpeg(path: Path, datasets: dict[tuple[int, int], bytes]) -> Path:
    """A JPEG with an IPTC block in Photoshop's segment."""
    block = b"".join(b"\x1c" + bytes(at) + len(value).to_bytes(2, "big") + value for at, value in datasets.items())
    resource = b"8BIM\x04\x04\0\0" + len(block).to_bytes(4, "big") + block + b"\0" * (len(block) % 2)
    segment = b"Photoshop 3.0\0" + resource
    samples.photo(path)
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xed" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:])
    return path


ZERO = "0000:00:00 00:00:00"
PICTURES = {
    "original_first": ("a.jpg", {"exif": exif(original="2015:06:01 10:00:00", digitized="2016:01:01 00:00:00", changed="2017:01:01 00:00:00")}, DAY, "original"),
    "original_with_offset": ("a.jpg", {"exif": exif(original="2015:06:01 10:00:00", offset="+09:00")}, DAY + "+09:00", "original"),
    "digitized_before_changed": ("a.jpg", {"exif": exif(digitized="2015:06:01 10:00:00", changed="2024:02:02 10:00:00")}, DAY, "digitized"),
    "changed_alone": ("a.jpg", {"exif": exif(changed="2015:06:01 10:00:00")}, DAY, "exif"),
    "zero_original": ("a.jpg", {"exif": exif(original=ZERO, digitized="2015:06:01 10:00:00")}, DAY, "digitized"),
    "malformed_everywhere_but_xmp": ("a.jpg", {"exif": exif(original="yesterday", digitized=ZERO, changed="2015:99:01 10:00:00"), "xmp": xmp(exif_DateTimeOriginal="2015-06-01T10:00:00+02:00")}, DAY + "+02:00", "xmp"),
    "exif_before_xmp": ("a.jpg", {"exif": exif(changed="2015:06:01 10:00:00"), "xmp": xmp(exif_DateTimeOriginal="2011-01-01")}, DAY, "exif"),
    "xmp_created_before_digitized": ("a.jpg", {"xmp": xmp(xmp_CreateDate="2011-01-01", photoshop_DateCreated="2015-06")}, "2015-06", "xmp"),
    "xmp_edited_is_no_date": ("a.jpg", {"xmp": xmp(xmp_ModifyDate="2011-01-01")}, None, "file"),
    "xmp_in_webp": ("a.webp", {"xmp": xmp(xmp_CreateDate="2015-06-01T10:00:00")}, DAY, "xmp"),
    "xmp_that_is_no_xml": ("a.jpg", {"xmp": b"<x:xmpmeta"}, None, "file"),
    "exif_before_name": ("IMG-20190305-WA0001.jpg", {"exif": exif(changed="2015:06:01 10:00:00")}, DAY, "exif"),
    "name_after_zero": ("IMG-20190305-WA0001.jpg", {"exif": exif(original=ZERO)}, "2019-03-05", "name"),
    "name_alone": ("Screenshot_20190201-212530_Maps.png", {}, "2019-02-01T21:25:30", "name"),
    "nothing": ("a.png", {}, None, "file"),
}  # fmt: skip


@pytest.mark.parametrize("case", PICTURES)
def test_the_order_in_pictures(tmp_path: Path, case: str) -> None:
    name, blocks, captured_at, source = PICTURES[case]
    assert dated(samples.photo(tmp_path / name, **blocks)) == (captured_at, source)


def test_iptc_dates(tmp_path: Path) -> None:
    created, at = {(2, 55): b"20150601"}, {(2, 60): b"100000+0200"}
    assert dated(iptc_jpeg(tmp_path / "both.jpg", created | at)) == (DAY + "+02:00", "iptc")
    assert dated(iptc_jpeg(tmp_path / "day.jpg", created)) == ("2015-06-01", "iptc")
    assert dated(iptc_jpeg(tmp_path / "zero.jpg", {(2, 55): b"00000000", (2, 62): b"20150601"})) == (
        "2015-06-01",
        "iptc",
    )
    assert dated(iptc_jpeg(tmp_path / "2019-01-01.jpg", created)) == ("2015-06-01", "iptc")


def test_pages_of_a_tiff_keep_their_dates(tmp_path: Path) -> None:
    first, second = samples.corners(), Image.new("RGB", (64, 48), samples.BLUE)

    first.save(tmp_path / "a.tiff", save_all=True, append_images=[second], tiffinfo={306: "2015:06:01 10:00:00"})
    status = (tmp_path / "a.tiff").stat()
    source = Source(tmp_path / "a.tiff", "0", status.st_size, status.st_mtime_ns)
    assert [d.meta["captured_at"] for d in readers.read_items(source, BUDGET)] == [DAY, DAY]


def test_a_documents_date(tmp_path: Path) -> None:
    def document(name: str, created: str) -> Path:
        pdf = media.load_pymupdf().open()
        pdf.new_page().insert_text((72, 72), "lease")
        pdf.set_metadata({"creationDate": created})
        pdf.save(tmp_path / name)
        return tmp_path / name

    assert dated(document("lease.pdf", "D:20150601100000+02'00'")) == (DAY + "+02:00", "document")
    assert dated(document("2014-01-02 lease.pdf", "D:20150601100000+02'00'")) == ("2014-01-02", "name")
    assert dated(document("zero.pdf", "D:00000000000000")) == (None, "file")


def test_a_videos_date(tmp_path: Path) -> None:
    import av

    samples.scenes(tmp_path / "plain.mp4", [1.0])

    def film(name: str, **tags: str) -> Path:
        with (
            av.open(str(tmp_path / "plain.mp4")) as one,
            av.open(str(tmp_path / name), "w", options={"movflags": "use_metadata_tags"}) as out,
        ):
            out.metadata.update({key.replace("_at_", "."): value for key, value in tags.items()})
            stream = out.add_stream_from_template(one.streams.video[0])
            for packet in one.demux(one.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    out.mux(packet)
        return tmp_path / name

    apple = {
        "com_at_apple_at_quicktime_at_creationdate": "2015-06-01T10:00:00+0200",
        "creation_time": "2026-10-01T00:00:00Z",
    }
    assert dated(film("a.mov", **apple)) == (DAY + "+02:00", "creationdate")
    assert dated(film("b.mov", creation_time="2026-10-01T00:00:00Z")) == ("2026-10-01T00:00:00+00:00", "creation_time")
    assert dated(film("VID_20150601_100000.mov", creation_time="2026-10-01T00:00:00Z")) == (DAY, "name")
    assert dated(film("zero.mov", creation_time="1970-01-01T00:00:00Z")) == (None, "file")


# What a filter means


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with mmsearch.library.open(tmp_path / "library", create=True, model="toy", store="exact") as opened:
        yield opened


def names(catalog: Catalog, after: date | datetime | None, before: date | datetime | None = None) -> set[str]:
    """The files that pass a date filter."""
    ids = catalog.items.allowed_ids(Filters(after=after, before=before), list(KINDS))
    assert ids is not None
    paths = {item.id: row.path.name for row in catalog.sources.rows() for item in catalog.items.of_source(row.id)}
    return {paths[int(item)] for item in ids}


ZONES = ("UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago", "Asia/Tokyo", "America/New_York")


@pytest.mark.parametrize("ingested_in", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_a_photos_date_is_that_of_its_own_clock(tmp_path: Path, library: Library, ingested_in: str) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, offset in (("local", ""), ("offset", "+09:00"), ("utc", "+00:00"), ("west", "-10:00")):
        samples.photo(folder / f"{name}.jpg", exif=exif(original="2015:01:01 00:30:00", offset=offset))
        samples.photo(
            folder / f"late_{name}.jpg", samples.BLUE, exif=exif(original="2014:12:31 23:30:00", offset=offset)
        )
    with time_zone(ingested_in):
        ingest_paths(library, [folder])
    early = {f"{name}.jpg" for name in ("local", "offset", "utc", "west")}
    for zone in ZONES:
        with time_zone(zone):
            assert names(library.catalog, date(2015, 1, 1), date(2015, 1, 2)) == early
            assert names(library.catalog, datetime(2015, 1, 1, 0, 30), datetime(2015, 1, 1, 0, 31)) == early
            assert names(library.catalog, date(2014, 12, 31), date(2015, 1, 1)) == {f"late_{name}" for name in early}


def test_an_instant_is_asked_by_the_askers_clock(tmp_path: Path, library: Library) -> None:
    """A file's time, and a video that states UTC only: the evening of New Year's Eve in New York."""
    moment = datetime(2015, 1, 1, 2, 0, tzinfo=UTC).timestamp()
    os.utime(samples.photo(tmp_path / "undated.jpg"), (moment, moment))
    ingest_paths(library, [tmp_path / "undated.jpg"])
    for zone, day in (("UTC", 1), ("Asia/Tokyo", 1), ("America/New_York", 31)):
        with time_zone(zone):
            asked = date(2014 if day == 31 else 2015, 12 if day == 31 else 1, day)
            assert names(library.catalog, asked, date.fromordinal(asked.toordinal() + 1)) == {"undated.jpg"}
    with time_zone("America/New_York"):
        assert names(library.catalog, date(2015, 1, 1)) == set()


@pytest.mark.parametrize("day", [date.min, date.max])
def test_no_day_is_out_of_range(tmp_path: Path, library: Library, day: date) -> None:
    ingest_paths(library, [samples.photo(tmp_path / "a.jpg")])
    for zone in ("Asia/Tokyo", "America/New_York"):
        with time_zone(zone):
            assert names(library.catalog, day) == (set() if day == date.max else {"a.jpg"})


def test_partial_dates_count_from_their_first_day(tmp_path: Path, library: Library) -> None:
    samples.photo(tmp_path / "june.jpg", xmp=xmp(photoshop_DateCreated="2015-06"))
    ingest_paths(library, [tmp_path / "june.jpg"])
    assert names(library.catalog, date(2015, 6, 1), date(2015, 6, 2)) == {"june.jpg"}


def test_a_renamed_or_copied_file_gets_the_date_in_its_new_name(tmp_path: Path, library: Library) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    samples.photo(folder / "undated.jpg")
    samples.photo(folder / "known.jpg", samples.BLUE, exif=exif(original="2015:06:01 10:00:00"))
    ingest_paths(library, [folder])
    shutil.copy(folder / "undated.jpg", folder / "IMG-20190305-WA0001.jpg")
    shutil.copy(folder / "known.jpg", folder / "IMG-20190305-WA0002.jpg")
    ingest_paths(library, [folder])
    assert names(library.catalog, date(2019, 3, 5), date(2019, 3, 6)) == {"IMG-20190305-WA0001.jpg"}
    assert names(library.catalog, date(2015, 6, 1), date(2015, 6, 2)) == {"known.jpg", "IMG-20190305-WA0002.jpg"}
    (folder / "undated.jpg").rename(folder / "2018-01-02 beach.jpg")
    ingest_paths(library, [folder])
    assert names(library.catalog, date(2018, 1, 2), date(2018, 1, 3)) == {"2018-01-02 beach.jpg"}


# The files of shared/cases

MONTHS = {
    "IMG-20190305-WA0001.jpg": date(2019, 3, 5),
    "Screenshot_20190201-212530_Maps.png": date(2019, 2, 1),
    "control.jpg": date(2015, 6, 1),
    "digitized_only.jpg": date(2015, 6, 1),
    "edited_digitized.jpg": date(2015, 6, 1),
    "iso_style.jpg": date(2015, 6, 1),
    "lease.pdf": date(2015, 6, 1),
    "newyear_local.jpg": date(2015, 1, 1),
    "newyear_offset.jpg": date(2015, 1, 1),
    "signal-2018-08-21-100217.jpg": date(2018, 8, 21),
    "xmp_only.jpg": date(2015, 6, 1),
    "zero_original.jpg": date(2015, 6, 1),
    "zero_original_datetime.jpg": date(2015, 6, 1),
    "IMG_7777.MOV": date(2015, 6, 1),
}


@pytest.mark.skipif(not (CASES / "dates").is_dir(), reason="no shared/cases on this machine")
def test_each_case_is_found_on_its_day_alone(library: Library) -> None:
    with time_zone("Asia/Tokyo"):
        ingest_paths(library, [CASES / "dates", CASES / "IMG_7777.MOV"])
    for zone in ZONES:
        with time_zone(zone):
            for day in set(MONTHS.values()):
                found = names(library.catalog, day, date.fromordinal(day.toordinal() + 1))
                assert found == {name for name, own in MONTHS.items() if own == day}, zone


@pytest.mark.skipif(not (CASES / "date_queries.jsonl").is_file(), reason="no shared/cases on this machine")
def test_the_cases_queries(tmp_path: Path, library: Library) -> None:
    """Each query's dates leave exactly the files of its range."""
    ingest_paths(library, [CASES / "dates"])
    for line in (CASES / "date_queries.jsonl").read_text().splitlines():
        query = json.loads(line)
        after, before = (dates.parse_asked(query[name]) if name in query else None for name in ("after", "before"))
        right = {
            name
            for name, day in MONTHS.items()
            if name != "IMG_7777.MOV" and day >= (after or date.min) and day < (before or date.max)  # type: ignore[operator]
        }
        assert names(library.catalog, after, before) == right, line
