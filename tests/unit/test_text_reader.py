"""Plain text and Markdown: where pages end, encodings, limits, and the picture that the model is given."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ingest import readers
from ingest.readers import text as text_reader
from ingest.readers.text import LINE_CHARS, PAGE_CHARS, blocks_of, decode, pages_of
from mmsearch.errors import CorruptFile, FileTooLarge, SourceError, UnsupportedFile
from mmsearch.items import ItemDraft, Source

BUDGET = {"page": 200_704, "image": 50_176, "clip": 12_544}


def read(path: Path, content: str | bytes, **terms: object) -> list[ItemDraft]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    source = Source(path, "0" * 64, path.stat().st_size, 0)
    return list(readers.read_items(source, BUDGET, reading=readers.Reading(BUDGET, **terms)))


def told(markdown: str) -> list[tuple[str, bool]]:
    return [tuple(block) for block in blocks_of(markdown, with_headings=True)]


def test_a_note_is_a_page(tmp_path):
    (draft,) = read(tmp_path / "a.md", "# Boats\n\nA  red\tboat.\n\n\n- one\n- two\n")
    assert (draft.kind, draft.ordinal, draft.page_number) == ("page", 0, 1)
    assert draft.text == "Boats\nA red boat.\n- one\n- two" and draft.text_source == "layer"
    assert draft.has_print is False and draft.meta == {"page_count": 1, "date_source": "file"}
    assert draft.preview is not None and draft.preview[8:12] == b"WEBP"
    assert readers.count_items(tmp_path / "a.md") == ("page", 1, 0.0)


def test_the_picture_is_a_white_page_with_the_words_on_it_and_always_the_same(tmp_path):
    words = "Grüße, Привет, 你好, שלום, नमस्ते ✓ <b>&amp; </p>"
    (draft,), (again,) = (read(tmp_path / name, f"# Head\n\n{words}") for name in ("a.md", "b.md"))
    shown = np.asarray(draft.images[0].convert("L"))
    assert draft.images[0].size[0] % 28 == 0 and 0.6 * BUDGET["page"] < shown.size <= BUDGET["page"]
    assert (shown[:8] == 255).all() and (shown[-80:] == 255).all() and 0.002 < (shown < 200).mean() < 0.1
    assert np.array_equal(shown, np.asarray(again.images[0].convert("L")))
    (other,) = read(tmp_path / "c.md", "# Head\n\nOther words")
    assert not np.array_equal(shown, np.asarray(other.images[0].convert("L")))


def test_every_character_can_be_drawn(tmp_path):
    odd = "".join(map(chr, [*range(1, 0x250), 0x200B, 0x202E, 0xFDFA, 0xFFFE, 0x1F600])) + "e" + "\u0301" * 500
    (draft,) = read(tmp_path / "a.txt", odd)
    assert "ĀāĂă" in draft.text


@pytest.mark.parametrize(
    ("markdown", "blocks"),
    [
        ("a\nb\n\nc", [("a\nb", False), ("c", False)]),
        ("a\n## B ##\nc", [("a", False), ("B", True), ("c", False)]),
        ("# C#\n#no\n#\n", [("C#", True), ("#no", False)]),
        ("Title\n===\nx\n\nSub\n---\n\n---\ny", [("Title", True), ("x", False), ("Sub", True), ("y", False)]),
        ("```sh\n# no heading\n\n```\n# one", [("```sh\n# no heading", False), ("```", False), ("one", True)]),
        ("~~~~\n```\n~~~\n# no\n~~~~\n# H", [("~~~~\n```\n~~~\n# no\n~~~~", False), ("H", True)]),
        ("a\fb", [("a", False), ("b", False)]),
        ("\n \n", []),
    ],
)
def test_blocks_of_markdown(markdown, blocks):
    assert told(markdown) == blocks


def test_plain_text_has_no_headings():
    plain = "# a\nb\n==="
    assert [tuple(block) for block in blocks_of(plain, with_headings=False)] == [(plain, False)]


def test_pages_end_between_paragraphs_and_before_headings(tmp_path):
    paragraph = "word " * 150
    drafts = read(tmp_path / "a.txt", "\n\n".join(f"{n} {paragraph}" for n in range(9)))
    assert [draft.page_number for draft in drafts] == [1, 2, 3]
    assert [draft.text.split()[0] for draft in drafts] == ["0", "3", "6"]
    drafts = read(tmp_path / "b.md", f"# A\n\n{paragraph * 2}\n\n# B\n\n{paragraph}\n\n# C\n\n## D\n\n{paragraph * 3}")
    assert [draft.text.split()[0] for draft in drafts] == ["A", "B", "C"], "B is early; C and D stay with their words"


def test_nothing_is_lost_between_pages():
    rng = np.random.default_rng(0)
    for _ in range(100):
        lines = [("# " if rng.random() < 0.3 else "") + "xy " * int(rng.integers(0, 900)) for _ in range(30)]
        markdown = "\n\n".join(lines)
        pages = pages_of(blocks_of(markdown, with_headings=True))
        found = "".join(block.text for page in pages for block in page).replace("\n", "")
        assert found.replace(" ", "") == markdown.replace("#", "").replace("\n", "").replace(" ", "")
        assert all(page for page in pages)
        assert all(sum(len(block.text) for block in page) <= 4 * PAGE_CHARS for page in pages)


def test_long_blocks_are_cut_at_lines_sentences_and_words():
    def cut(text: str) -> list[str]:
        return [page[0].text for page in pages_of(blocks_of(text, with_headings=False))]

    assert cut(("line " * 300 + "\n") * 3)[0].endswith("\n")
    assert cut("Some words and more of them. " * 200)[0].endswith(".")
    assert all(one.endswith(" ") for one in cut("word " * 2000)[:-1])
    whole = PAGE_CHARS - LINE_CHARS
    assert [len(one) for one in cut("x" * 7000)] == [whole, whole, 7000 - 2 * whole]


def test_a_long_paragraph_begins_on_a_page_that_is_nearly_empty():
    pages = pages_of(blocks_of("# Head\n\nA line.\n\n" + "word " * 1000, with_headings=True))
    assert [len(page) for page in pages] == [3, 1] and len(pages[0][2].text) > PAGE_CHARS // 2


def test_work_grows_with_the_text_alone(tmp_path):
    import time

    for hostile in (
        "x" * 4_000_000,
        "#" * 4_000_000,
        "# " + " " * 4_000_000 + "x",
        "# a\n" * 200_000,
        "```\n" * 200_000,
    ):
        began = time.process_time()
        pages_of(blocks_of(hostile, with_headings=True))
        assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("raw", "text", "encoding", "damaged_chars"),
    [
        ("Grüße".encode(), "Grüße", None, 0),
        ("Grüße".encode("utf-8-sig"), "Grüße", None, 0),
        ("Grüße".encode("utf-16"), "Grüße", None, 0),
        (b"\xfe\xff" + "Grüße".encode("utf-16-be"), "Grüße", None, 0),
        (b"\xff\xfea\0b", "a\ufffd", None, 1),
        ("Grüße – “so”".encode("cp1252"), "Grüße – “so”", "windows-1252", 0),
        (b"caf\xe9 \x81\x8d", "café \ufffd\ufffd", "windows-1252", 2),
    ],
)
def test_encodings(raw, text, encoding, damaged_chars):
    assert decode(raw) == (text, encoding, damaged_chars)


def test_damage_is_noted(tmp_path):
    (draft,) = read(tmp_path / "a.txt", b"caf\xe9 \x81")
    assert draft.meta["encoding"] == "windows-1252" and draft.meta["damaged"] == "1 characters cannot be read"


@pytest.mark.parametrize("content", ["", "\n  \n", "\ufeff", "---\n"])
def test_a_file_without_words_is_found_by_its_name(tmp_path, content):
    (draft,) = read(tmp_path / "a.md", content)
    assert (draft.text, draft.text_source, draft.ordinal) == ("", None, 0)
    assert np.asarray(draft.images[0]).min() > 250


def test_only_names_of_text_are_text_and_no_binary_is(tmp_path):
    for name, content, error in (
        ("a.txt", b"PK\x03\x04\0", CorruptFile),
        ("b.MD", b"x" * 5000 + b"\0", CorruptFile),
        ("c.txt", b"\xff\xfe\0\0a\0\0\0", CorruptFile),
        ("d.rst", b"words", UnsupportedFile),
        ("README", b"words", UnsupportedFile),
    ):
        with pytest.raises(SourceError) as caught:
            read(tmp_path / name, content)
        assert type(caught.value) is error, name
    assert read(tmp_path / "e.Markdown", "words")[0].text == "words"


def test_limits_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileTooLarge, match=r"3 pages; the limit is 2 \(setting max_pages\)"):
        read(tmp_path / "a.txt", "x" * 7000, max_pages=2)
    small = tuple(replace(row, max_bytes=10) if row.name == "text" else row for row in readers.FILE_TYPES)
    monkeypatch.setattr(readers, "file_types", lambda: small)
    with pytest.raises(FileTooLarge, match="11 bytes; the limit for text is 10"):
        read(tmp_path / "b.txt", "x" * 11)


def test_an_interrupted_file_goes_on_where_it_was(tmp_path):
    whole = read(tmp_path / "a.txt", "x" * 7000)
    rest = read(tmp_path / "a.txt", "x" * 7000, first_ordinal=1)
    assert [draft.text for draft in rest] == [draft.text for draft in whole[1:]] and len(rest) == 2


def test_headings_at_the_end_of_a_page_move_on():
    blocks = [text_reader.Block("w " * 700), text_reader.Block("h", True), text_reader.Block("w " * 1000)]
    pages = pages_of(blocks)
    assert [[block.is_heading for block in page] for page in pages] == [[False], [True, False]]
    assert all(a and b for a, b in pairwise(pages))
