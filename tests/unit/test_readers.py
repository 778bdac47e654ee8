"""From a file to its drafts: every type, its text, times and metadata, and a named error for each way of being broken."""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pymupdf
import pytest
from PIL import Image

from ingest import readers, subtitles
from ingest.readers import clips, signatures, video
from ingest.readers.signatures import Beginning
from mmsearch import media
from mmsearch.errors import CorruptFile, EncryptedFile, FileTooLarge, SourceError, UnsupportedFile
from mmsearch.items import ItemDraft, Source
from mmsearch.media import limits, load_pymupdf
from mmsearch.plain_text import readable
from tests import poison, samples

BUDGET = {"page": 200_704, "image": 50_176, "clip": 12_544}


def read(path: Path, **terms: object) -> tuple[list[ItemDraft], Counter[str]]:
    reading = readers.Reading(BUDGET, **terms)
    status = path.stat()
    source = Source(path, "0" * 64, status.st_size, status.st_mtime_ns)
    return list(readers.read_items(source, BUDGET, reading=reading)), reading.notes


# Types


def type_name(path: Path) -> str | None:
    found = readers.sniff(path)
    return None if found is None else found.name


def test_types_are_found_by_content_whatever_the_name(tmp_path):
    made = {
        "pdf": samples.pdf(tmp_path / "1"),
        "epub": samples.epub(tmp_path / "2"),
        "svg": samples.svg(tmp_path / "3"),
        "cbz": samples.cbz(tmp_path / "4.cbz"),
        "jpeg": samples.photo(tmp_path / "5.jpg").rename(tmp_path / "5.txt"),
        "png": samples.photo(tmp_path / "6.png").rename(tmp_path / "6.jpg"),
        "webp": samples.photo(tmp_path / "7.webp").rename(tmp_path / "7"),
        "tiff": samples.photo(tmp_path / "8.tiff").rename(tmp_path / "8"),
        "bmp": samples.photo(tmp_path / "9.bmp").rename(tmp_path / "9"),
        "gif": samples.photo(tmp_path / "10.gif").rename(tmp_path / "10"),
        "jpeg2000": samples.photo(tmp_path / "11.jp2").rename(tmp_path / "11"),
        "video": samples.scenes(tmp_path / "12.mp4", [0.5]).rename(tmp_path / "12.pdf"),
    }
    assert {name: type_name(path) for name, path in made.items()} == {name: name for name in made}


@pytest.mark.parametrize("suffix", ["mkv", "webm", "avi", "ts", "flv", "mov"])
def test_video_containers_are_known(tmp_path, suffix):
    codec = "libvpx-vp9" if suffix == "webm" else "mpeg4" if suffix == "avi" else "libx264"
    path = samples.video(tmp_path / f"v.{suffix}", samples.numbered, range(0, 800, 40), codec=codec)
    assert type_name(path) == "video"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"BM is a word",
        b"<html><body></body></html>",
        b"PK\x03\x04" + b"\0" * 60,
        b"\0" * 4096,
        b"G" * 100,
    ],
)
def test_other_content_is_unsupported(tmp_path, content):
    (tmp_path / "a.dat").write_bytes(content)
    assert readers.sniff(tmp_path / "a.dat") is None


def test_a_broken_promise_of_a_name_is_an_error(tmp_path):
    for name, content, error in (
        ("a.jpg", b"<html></html>", CorruptFile),
        ("b.pdf", b"", CorruptFile),
        ("c.docx", b"hello", UnsupportedFile),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(error) as caught:
            readers.demand_type(tmp_path / name)
        assert type(caught.value) is error


# Documents


def test_pdf_pages(tmp_path):
    path = samples.pdf(tmp_path / "a.pdf", ["Revenue grew", None, "", "The end"])
    drafts, notes = read(path)
    assert [(d.kind, d.ordinal, d.page_number) for d in drafts] == [("page", 0, 1), ("page", 2, 3), ("page", 3, 4)]
    assert [d.text for d in drafts] == ["Revenue grew", "", "The end"]
    assert notes == {"blank_pages": 1}
    for draft in drafts:
        (image,) = draft.images
        assert image.mode == "RGB" and 0.6 * 200_704 < image.width * image.height <= 200_704
        assert draft.preview is not None and draft.preview[8:12] == b"WEBP"
        assert draft.meta["page_count"] == 4


def test_pdf_labels_and_title(tmp_path):
    pymupdf = load_pymupdf()

    samples.pdf(tmp_path / "a.pdf", ["one", "two", "three"])
    document = pymupdf.open(tmp_path / "a.pdf")
    document.set_page_labels([{"startpage": 0, "style": "r", "firstpagenum": 1}, {"startpage": 2, "style": "D"}])
    document.set_metadata({"title": "  The\nreport "})
    document.save(tmp_path / "b.pdf")
    drafts, _ = read(tmp_path / "b.pdf")
    assert [d.meta.get("page_label") for d in drafts] == ["i", "ii", "1"]
    assert {d.meta["title"] for d in drafts} == {"The report"}


def test_reading_goes_on_from_an_ordinal(tmp_path):
    path = samples.pdf(tmp_path / "a.pdf", [f"page {n}" for n in range(6)])
    drafts, _ = read(path, first_ordinal=4)
    assert [d.ordinal for d in drafts] == [4, 5]


@pytest.mark.parametrize(
    ("make", "text", "pages"),
    [(samples.epub, "whales", 1), (samples.svg, "hello", 1), (samples.cbz, "", 2)],
    ids=["epub", "svg", "cbz"],
)
def test_other_documents(tmp_path, make, text, pages):
    drafts, _ = read(make(tmp_path / f"a.{make.__name__}"))
    assert len(drafts) == pages and {d.kind for d in drafts} == {"page"}
    assert text in drafts[0].text


def test_document_errors(tmp_path):
    with pytest.raises(EncryptedFile):
        read(samples.encrypted_pdf(tmp_path / "e.pdf"))
    with pytest.raises(CorruptFile, match="no pages"):
        read(samples.page_less_pdf(tmp_path / "z.pdf"))
    with pytest.raises(FileTooLarge, match="limit is 2"):
        read(samples.pdf(tmp_path / "l.pdf", ["a", "b", "c"]), max_pages=2)
    with pytest.raises(CorruptFile):
        read(samples.cut_short(samples.pdf(tmp_path / "t.pdf", ["a"] * 5), 0.2))


def test_scripts_in_a_pdf_are_not_run(tmp_path):
    pymupdf = load_pymupdf()

    document = pymupdf.open()
    document.new_page().insert_text((72, 72), "harmless")
    target = tmp_path / "written"
    action = document.get_new_xref()
    document.update_object(action, f"<</S/Launch/F(/bin/sh)/Win<</F(/bin/sh)/P(-c 'touch {target}')>>>>")
    document.xref_set_key(document.pdf_catalog(), "OpenAction", f"{action} 0 R")
    script = document.get_new_xref()
    document.update_object(script, "<</S/JavaScript/JS(app.alert\\('hi'\\);)>>")
    document.xref_set_key(document.page_xref(0), "AA", f"<</O {script} 0 R>>")
    document.save(tmp_path / "a.pdf")
    drafts, _ = read(tmp_path / "a.pdf")
    assert drafts[0].text == "harmless" and not target.exists()


# Pictures


def test_a_photo_is_one_item_with_its_metadata(tmp_path):
    (draft,), _ = read(samples.camera_photo(tmp_path / "a.jpg", orientation=6))
    assert (draft.kind, draft.ordinal, draft.page_number, draft.start_s) == ("image", 0, None, None)
    (image,) = draft.images
    assert image.width * image.height <= BUDGET["image"] and image.width > image.height
    assert samples.corner_colours(image) == ["red", "green", "blue", "white"]
    assert draft.meta["camera"] == "Canon EOS R6" and draft.meta["captured_at"].startswith("2024-05-06")


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animation_is_a_clip(tmp_path, suffix):
    path = samples.animation(tmp_path / f"a.{suffix}", [samples.RED, samples.GREEN, samples.BLUE], frame_ms=400)
    (draft,), _ = read(path)
    assert (draft.kind, draft.start_s) == ("clip", 0.0)
    assert draft.end_s == pytest.approx(1.2)
    assert [samples.corner_colours(image)[0] for image in draft.images] == ["red", "green", "blue"]


def test_a_tiff_of_several_pages_is_a_document(tmp_path):
    pages = [samples.corners(), Image.new("RGB", (64, 48), samples.BLUE)]
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    drafts, _ = read(tmp_path / "a.tiff")
    assert [(d.kind, d.page_number) for d in drafts] == [("page", 1), ("page", 2)]
    assert samples.corner_colours(drafts[1].images[0]) == ["blue"] * 4


def test_picture_limits(tmp_path):
    with pytest.raises(FileTooLarge):
        read(samples.photo(tmp_path / "a.png", size=(101, 100)), max_image_pixels=10_000)


def test_a_photo_that_is_cut_short_is_an_item_and_noted(tmp_path):
    """One of which hardly more than the header is there is none."""
    path = samples.cut_short(samples.camera_photo(tmp_path / "a.jpg"), 0.4)
    ((draft,), notes) = read(path)
    assert draft.kind == "image" and "cut short" in draft.meta["damaged"] and notes["damaged_photos"] == 1
    path.write_bytes(b"\xff\xd8\xff\xe0 nothing follows")
    with pytest.raises(CorruptFile):
        read(path)


@pytest.mark.parametrize("suffix", ["webp", "heic", "avif"])
def test_half_a_picture_of_the_newer_formats_is_an_item_too(tmp_path, suffix):
    if suffix == "heic":
        pytest.importorskip("pillow_heif")
    (half,) = (one for one in poison.POISON if one.name == f"truncated.{suffix}")
    half.make(tmp_path / half.name)
    ((draft,), notes) = read(tmp_path / half.name)
    assert draft.kind == "image" and "cut short" in draft.meta["damaged"] and notes["damaged_photos"] == 1


# Videos


def test_clips_are_cut_at_scene_changes_to_the_frame(tmp_path):
    """Scenes of 3.35, 5.15 and 2.5 s at 20 frames a second: none of the changes lies on the grid of samples."""
    drafts, _ = read(samples.scenes(tmp_path / "v.mp4", [3.35, 5.15, 2.5]))
    assert [d.start_s for d in drafts] == pytest.approx([0.0, 3.35, 8.5], abs=1e-6)
    assert [d.end_s for d in drafts] == pytest.approx([3.35, 8.5, 11.0], abs=1e-6)
    assert [d.ordinal for d in drafts] == [0, 1, 2]
    for draft, colour in zip(drafts, ["red", "blue", "green"], strict=True):
        assert draft.kind == "clip" and len(draft.images) == 8
        assert draft.images[0].width * draft.images[0].height <= BUDGET["clip"]
        for image in draft.images:
            pixel = np.array(image.getpixel((2, 2)), int)
            assert int(pixel.argmax()) == ["red", "green", "blue"].index(colour)


def test_clips_cover_the_video_and_keep_to_their_lengths(tmp_path):
    def picture(number: int) -> np.ndarray:
        return samples.scene(samples.RED, number * 7)  # one long restless scene

    drafts, _ = read(samples.video(tmp_path / "v.mp4", picture, range(0, 47_000, 100)))
    assert drafts[0].start_s == 0.0 and drafts[-1].end_s == pytest.approx(47.0)
    for earlier, later in itertools.pairwise(drafts):
        assert earlier.end_s == later.start_s
    assert all(2.0 <= d.end_s - d.start_s <= 20.3 for d in drafts)


def test_times_are_exact_at_a_variable_rate(tmp_path):
    """The second scene begins with frame 40, at a time that no constant rate would give."""
    times_ms = [0]
    for step in range(119):
        times_ms.append(times_ms[-1] + (30 if step % 3 else 110))

    def picture(number: int) -> np.ndarray:
        return samples.scene(samples.RED if number < 40 else samples.BLUE, number)

    drafts, _ = read(samples.video(tmp_path / "v.mp4", picture, times_ms))
    assert [d.start_s for d in drafts] == pytest.approx([0.0, times_ms[40] / 1000], abs=1e-9)


def test_a_short_video_is_one_clip_with_its_frames(tmp_path):
    (draft,), _ = read(samples.scenes(tmp_path / "v.mp4", [0.7, 0.7]))
    assert (draft.start_s, len(draft.images)) == (0.0, 8)
    assert draft.end_s == pytest.approx(1.4)
    (single,), _ = read(samples.video(tmp_path / "one.mp4", samples.numbered, [0]))
    assert len(single.images) == 1 and single.end_s > single.start_s


def test_still_stretches_become_one_clip_of_any_length(tmp_path):
    drafts, notes = read(samples.scenes(tmp_path / "v.mp4", [50.0, 4.0], fps=5, moving=False))
    assert [(d.start_s, d.end_s) for d in drafts] == [pytest.approx((0.0, 50.0)), pytest.approx((50.0, 54.0))]
    assert notes["merged_clips"] == 2 and [len(d.images) for d in drafts] == [8, 8]


def test_memory_of_a_long_video_is_bounded():
    """Ten thousand samples, of which never more than three clips' worth are alive."""
    import weakref

    alive: weakref.WeakValueDictionary[int, Image.Image] = weakref.WeakValueDictionary()
    most = 0

    def stream():
        nonlocal most
        rng = np.random.default_rng(0)
        for number in range(10_000):
            image = Image.fromarray(rng.integers(0, 255, (28, 28, 3), np.uint8))
            alive[number] = image
            most = max(most, len(alive))
            yield clips.Sample(number / 4, image)
        yield clips.Sample(2500.0, None)

    reading = readers.Reading(BUDGET)
    source = Source(Path("/v"), "", 0, 0)
    spans = [(d.start_s, d.end_s) for d in clips.drafts(source, stream(), reading, meta={})]
    assert spans[0][0] == 0.0 and spans[-1][1] == 2500.0
    assert most <= 4 * clips.SAMPLES_KEPT


def test_sidecar_subtitles_are_the_clips_text(tmp_path):
    path = samples.scenes(tmp_path / "talk.mp4", [3.0, 3.0])
    (tmp_path / "talk.en.srt").write_text(
        "1\r\n00:00:00,500 --> 00:00:02,000\r\n<i>Hello</i> there\r\n\r\n2\r\n00:00:02,800 --> 00:00:03,400\r\nacross the cut\r\n"
        "\r\n3\r\n00:00:04,000 --> 00:00:05,000\r\nGood bye\r\n",
        newline="",
    )
    drafts, _ = read(path)
    assert [d.text for d in drafts] == ["Hello there\nacross the cut", "across the cut\nGood bye"]


def test_subtitle_files_of_both_kinds():
    vtt = "WEBVTT\n\nNOTE comment\n\n00:01.000 --> 00:02.500 align:start\n<v Ann>Hi\nyou\n\n01:00:00.000 --> 01:00:01.000\nLate\n"
    assert subtitles.parse_subtitles(vtt) == [clips.Cue(1.0, 2.5, "Hi you"), clips.Cue(3600.0, 3601.0, "Late")]
    assert subtitles.parse_subtitles("no subtitles at all") == []
    assert subtitles.decode_text("é".encode("cp1252")) == "é" == subtitles.decode_text("é".encode("utf-16"))


def test_embedded_subtitles_are_read(tmp_path):
    import av

    path = tmp_path / "v.mkv"
    plain = samples.scenes(tmp_path / "plain.mp4", [2.5])
    (tmp_path / "s.srt").write_text("1\n00:00:00,500 --> 00:00:01,500\nEmbedded words\n")
    with av.open(str(plain)) as source, av.open(str(tmp_path / "s.srt")) as words, av.open(str(path), "w") as out:
        picture = out.add_stream_from_template(source.streams.video[0])
        text = out.add_stream_from_template(words.streams.subtitles[0])
        for packet in words.demux(words.streams.subtitles[0]):
            if packet.dts is not None:
                packet.stream = text
                out.mux(packet)
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = picture
                out.mux(packet)
    (tmp_path / "s.srt").unlink()
    (draft,), _ = read(path)
    assert draft.text == "Embedded words"


def test_video_errors(tmp_path):
    import av

    with av.open(str(tmp_path / "sound.mkv"), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
    with pytest.raises(UnsupportedFile, match="no video"):
        read(tmp_path / "sound.mkv")
    (tmp_path / "junk.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(range(256)) * 20)
    with pytest.raises(CorruptFile):
        read(tmp_path / "junk.mp4")


def test_frames_are_looked_at_in_steps_however_absurd_their_times():
    """The oracle counts by steps of time; a clock whose frames last 68 years would need 10^12 of them."""

    def by_steps(times_s: np.ndarray, end_s: float) -> list[int]:
        step_s = min(1 / video.SAMPLES_PER_S, max((end_s - times_s[0]) / video.MIN_SAMPLES, 1e-3))
        count = max(1, int(np.ceil((end_s - times_s[0]) / step_s - 1e-6)))
        shown = np.searchsorted(times_s, times_s[0] + step_s * np.arange(count) + 1e-6, "right") - 1
        return [int(index) for index in np.unique(np.clip(shown, 0, len(times_s) - 1))]

    rng = np.random.default_rng(1)
    for trial in range(300):
        count = int(rng.integers(1, 200))
        steps_s = (rng.exponential(0.1, count), np.full(count, 1 / 25), rng.choice([0, 0.02, 0.25, 9.0], count))[
            trial % 3
        ]
        times_s = rng.choice([0.0, 1.3, -0.5]) + np.append(0, np.cumsum(steps_s)[:-1])
        end_s = float(times_s[-1] + steps_s[-1])
        assert video.sample_indices(times_s, end_s) == by_steps(times_s, end_s)
    assert video.sample_indices(np.arange(50) * 2.0**31, 50 * 2.0**31) == list(range(50))


def test_long_texts_and_names_are_cut(tmp_path):
    """What a reader hands on stays small: a worker's message has a limit."""
    (draft,), _ = read(poison.wordy_film(tmp_path / "a.mp4"))
    assert len(draft.text) == readers.MAX_TEXT_CHARS and draft.text.startswith("word0 xxx")
    (draft,), _ = read(poison.jpeg_with_endless_exif(tmp_path / "a.jpg"))
    assert len(draft.meta["camera"]) == 100


class TestTextBombs:
    """What a file's items may take together, in text, number and previews."""

    def test_pages_that_share_one_text(self, tmp_path, monkeypatch):
        monkeypatch.setattr(readers, "max_file_text_chars", lambda size_bytes: 250_000 if size_bytes < 100_000 else 0)
        drafts, notes = read(poison.pages_of_one_text(tmp_path / "a.pdf", 5, chars=101_000))
        assert [len(draft.text) for draft in drafts] == [100_000, 100_000, 50_000, 0, 0]
        assert [draft.meta["text_cut"] for draft in drafts] == [
            *["beyond 100,000 characters of the item"] * 2,
            *["beyond 250,000 characters of the file"] * 3,
        ]
        assert notes["cut_texts"] == 5 and [draft.text_source for draft in drafts] == [*["layer"] * 3, None, None]

    def test_a_page_within_the_limit_is_whole(self, tmp_path):
        ((draft,), notes) = read(poison.pages_of_one_text(tmp_path / "a.pdf", 1, chars=95_000))
        assert 95_000 < len(draft.text) <= 100_000 and not notes["cut_texts"] and "text_cut" not in draft.meta

    def test_pages_that_share_their_notes(self, tmp_path, monkeypatch):
        monkeypatch.setattr(readers, "max_file_text_chars", lambda _: 25_000)
        with pymupdf.open() as document:
            page = document.new_page()
            for number in range(3):
                page.add_text_annot((10, 20 * number), f"note {number}: " + "walrus " * 500)
            notes = document.xref_get_key(page.xref, "Annots")[1]
            for _ in range(4):
                document.xref_set_key(document.new_page().xref, "Annots", notes)
            document.save(tmp_path / "a.pdf")
        drafts, noted = read(tmp_path / "a.pdf")
        sizes = [len(draft.description.strip()) for draft in drafts]
        assert len(sizes) == 5 and sizes[0] == sizes[1] > 10_000 and sum(sizes) <= 25_000 and sizes[3:] == [0, 0]
        assert noted["cut_texts"] == 3
        assert [draft.meta.get("text_cut") for draft in drafts] == [None] * 2 + [
            "beyond 25,000 characters of the file"
        ] * 3

    def test_notes_and_embedded_files_that_are_cut_are_told(self, tmp_path):
        def pdf(name: str, notes: int = 0, files: int = 0, chars: int = 10) -> Path:
            with pymupdf.open() as document:
                page = document.new_page()
                page.insert_text((72, 72), "a page")
                for number in range(notes):
                    page.add_text_annot((10, 10 + number), f"note {number}: " + "walrus " * 500)
                for number in range(files):
                    document.embfile_add(f"{number}.txt", b"x " * (chars // 2))
                document.save(tmp_path / name)
            return tmp_path / name

        for path, told in (
            (pdf("notes.pdf", notes=7), "notes beyond 20,000 characters of the page"),
            (pdf("files.pdf", files=101), "of embedded files beyond the limits"),
            (pdf("long.pdf", files=1, chars=30_000), "of embedded files beyond the limits"),
            (pdf("fine.pdf", notes=3, files=100), None),
        ):
            ((draft,), noted) = read(path)
            assert (draft.meta.get("text_cut"), noted["cut_texts"]) == (told, 0 if told is None else 1), path.name

    def test_the_limit_of_a_file_leaves_books_whole(self):
        bible, bytes_of_it = 4_300_000, 1_300_000  # as EPUB, packed
        assert readers.max_file_text_chars(bytes_of_it) > bible
        assert readers.max_file_text_chars(65_000) < 2_600_000  # of 20,000,000 in the bomb
        assert readers.max_file_text_chars(1 << 40) == 50_000_000

    def test_characters_that_stand_for_many(self, tmp_path):
        source = Source(tmp_path / "a.svg", "0" * 64, 1000, 0)
        reading = readers.Reading(BUDGET)
        cut = readers._Allowance(source, reading).cut(ItemDraft(source, "page", 0, text="\ufdfa" * 90_000))
        assert len(readable(cut.text)) <= readers.MAX_TEXT_CHARS and reading.notes["cut_texts"] == 1

    def test_more_items_than_a_file_may_have(self, tmp_path, monkeypatch):
        monkeypatch.setattr(readers, "MAX_ITEMS", 2)
        path = samples.scenes(tmp_path / "a.mp4", [3.0, 3.0, 3.0], fps=5)
        reading, found = readers.Reading(BUDGET, max_pages=1), []
        with pytest.raises(FileTooLarge, match="more than 2 items"):
            found.extend(one for one in readers.read_items(Source(path, "0" * 64, 9, 0), BUDGET, reading=reading))
        # `extend` keeps what came before the error
        assert [draft.ordinal for draft in found] == [0, 1]

    def test_previews_beyond_the_limit_are_left_out(self, tmp_path, monkeypatch):
        monkeypatch.setattr(readers, "max_file_preview_bytes", lambda size_bytes: 1)
        (draft,), _ = read(samples.photo(tmp_path / "a.png"))
        assert draft.preview is None and draft.images

    def test_subtitles_that_are_all_shown_at_once(self):
        cues = [clips.Cue(0.0, 100.0, f"line {n} " + "x" * 1000) for n in range(10_000)]
        assert len(clips.text_within(cues, 0.0, 1.0)) < 103_000


class TestPixelsByMemory:
    """How large a picture is decoded where no setting says it."""

    @pytest.mark.parametrize(
        ("gigabytes", "millions"), [(2, 100), (16, 134), (32, 268), (512, 400)], ids=["2", "16", "32", "512"]
    )
    def test_the_limit_follows_the_memory(self, monkeypatch, gigabytes: int, millions: int):
        monkeypatch.setattr(limits, "machine_memory_bytes", lambda: gigabytes << 30)
        assert limits.default_image_pixels() // 1_000_000 == millions

    def test_a_container_has_less(self, tmp_path, monkeypatch):
        whole = limits.machine_memory_bytes()
        (tmp_path / "max").write_text(f"{1 << 28}\n")
        (tmp_path / "none").write_text("max\n")
        monkeypatch.setattr(limits, "_CGROUP_LIMITS", (str(tmp_path / "none"),))
        assert limits.machine_memory_bytes() >= (whole or 0)
        monkeypatch.setattr(limits, "_CGROUP_LIMITS", (str(tmp_path / "none"), str(tmp_path / "max")))
        assert limits.machine_memory_bytes() == 1 << 28

    def test_a_jpeg_may_be_four_times_as_large(self, tmp_path):
        """It is decoded at a fraction: a phone's 200 megapixels cost little."""
        ((draft,), _) = read(samples.photo(tmp_path / "a.jpg", size=(200, 200)), max_image_pixels=10_000)
        assert draft.meta["width"] == 200
        with pytest.raises(FileTooLarge, match="setting max_image_pixels"):
            read(samples.photo(tmp_path / "b.jpg", size=(201, 200)), max_image_pixels=10_000)
        with pytest.raises(FileTooLarge):
            read(samples.photo(tmp_path / "b.png", size=(200, 200)), max_image_pixels=10_000)


def test_limits_hold_beyond_the_first_page_of_a_picture(tmp_path):
    path = poison.many_paged_tiff(tmp_path / "a.tiff", 3)
    assert len(read(path, max_pages=3)[0]) == 3
    with pytest.raises(FileTooLarge, match="3 pages; the limit is 2"):
        read(path, max_pages=2)
    with pytest.raises(FileTooLarge, match="60000 × 60000 pixels; the limit is 400 million"):
        read(poison.tiff_with_a_bomb_behind(tmp_path / "b.tiff"))


def test_progress_is_told_while_frames_are_read_that_give_no_item_yet(tmp_path):
    calls = []
    read(samples.animation(tmp_path / "a.gif", [samples.RED, samples.GREEN] * 8), on_progress=lambda: calls.append(1))
    assert len(calls) >= 16
    calls.clear()
    media.index_frames(samples.scenes(tmp_path / "v.mp4", [1.0]), on_progress=lambda: calls.append(1))
    assert len(calls) >= 20


def test_a_document_of_blank_pages_is_its_first_page(tmp_path):
    """It must be found by its name. Blank pages beside others are no items."""
    path = samples.pdf(tmp_path / "a.pdf", [None, None, None])
    (draft,), notes = read(path)
    assert (draft.ordinal, draft.page_number, draft.text, draft.has_print) == (0, 1, "", False)
    assert draft.preview and len(draft.images) == 1 and draft.meta["page_count"] == 3
    assert notes == {"blank_pages": 2}
    later = samples.pdf(tmp_path / "b.pdf", [None, None, "words"])
    drafts, notes = read(later)
    assert [one.ordinal for one in drafts] == [2] and notes == {"blank_pages": 2}
    first = samples.pdf(tmp_path / "c.pdf", ["words", None, None])
    drafts, notes = read(first, first_ordinal=1)
    assert drafts == [] and notes == {"blank_pages": 2}, "a run that goes on behind the first page"
    drafts, notes = read(path, first_ordinal=1)
    assert drafts == [] and notes == {"blank_pages": 2}, "its first page is saved already"


def test_a_page_that_cannot_be_drawn_is_not_a_blank_one(tmp_path):
    """MuPDF leaves out what it cannot draw, and only warns."""
    with pytest.raises(CorruptFile, match="no page can be drawn"):
        read(poison.deep_array(tmp_path / "a.pdf"))
    drafts, notes = read(samples.pdf(tmp_path / "b.pdf", ["words", None]))  # no complaint of the former file is left
    assert len(drafts) == 1 and notes == {"blank_pages": 1}


def test_mangled_copies_give_source_errors_or_items(tmp_path):
    """Files damaged at random never raise anything but a SourceError."""
    rng = np.random.default_rng(5)
    originals = [
        samples.pdf(tmp_path / "a.pdf", ["some words", ""]),
        samples.camera_photo(tmp_path / "a.jpg"),
        samples.photo(tmp_path / "a.png"),
        samples.photo(tmp_path / "a.tiff"),
        samples.animation(tmp_path / "a.gif", [samples.RED, samples.BLUE]),
        samples.epub(tmp_path / "a.epub"),
    ]
    outcomes = Counter()
    for original in originals:
        for trial in range(6):
            data = bytearray(original.read_bytes())
            for place in rng.integers(0, len(data), 8):
                data[place] = rng.integers(0, 256)
            path = tmp_path / f"m{trial}{original.suffix}"
            path.write_bytes(data[: rng.integers(len(data) // 2, len(data) + 1)])
            try:
                read(path)
                outcomes["read"] += 1
            except SourceError:
                outcomes["refused"] += 1
    assert outcomes["read"] + outcomes["refused"] == 36 and outcomes["refused"] > 5


def test_readers_load_no_model():
    import subprocess

    code = (
        "import sys, ingest.decode.child; ingest.decode.child.readers.load_decoders();"
        "print([m for m in ('torch', 'transformers', 'faiss', 'sqlalchemy', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("head", "is_svg"),
    [
        (b"<svg>", True),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<svg width="1">', True),
        (b'<?xml version="1.0"?><!-- made by hand --><!DOCTYPE svg PUBLIC "a" "b">\n<svg\n', True),
        (b'<!DOCTYPE svg [<!ENTITY a "b"> <!ENTITY c "d">]>\n<svg ', True),
        (b'<x:svg xmlns:x="http://www.w3.org/2000/svg">', True),
        (b"<!DOCTYPE html><html><body><svg></svg>", False),  # a web page with a drawing in it
        (b"<!-- a page --><html><svg>", False),
        (b"<svgfoo>", False),
        (b"<?" * 2048, False),
        (b"<??>" * 1024, False),
        (b"<!DOCTYPE[]>" * 340, False),
    ],
)
def test_a_drawing_is_told_by_its_root_and_quickly(head: bytes, is_svg: bool):
    began = time.process_time()
    assert signatures.is_svg(Beginning(head)) is is_svg
    assert time.process_time() - began < 0.1
