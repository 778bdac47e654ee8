"""Normalised text: what a reader reads, what the index and a query's words are compared by, against SQLite's own tokenizer."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from mmsearch import prompts
from mmsearch.items import ItemDraft, Query, Source
from mmsearch.plain_text import asked, folded, normalised, passage, readable, spellings
from mmsearch.ranking.terms import quoted, terms_of, wording_of, words_to_read


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        ("scienti\ufb01c o\ufb03ce, \ufb02ood, o\ufb00er, \ufb03", "scientific office, flood, offer, ffi"),
        ("\u0627\ufccb\ufec4\ufeee\u0637 \u0627\ufedf\ufecc\ufeae\ufe91\ufef4\ufe94", "الخطوط العربية"),
        ("\ufefb \ufdf2", "لا الله"),
        ("Ｂｏｘ　２０２４（１）", "Box 2024(1)"),
        ("ｶﾞｲﾄﾞ", "ガイド"),
        ("cafe\u0301 Zu\u0308rich", "café Zürich"),
        ("Universit\u00b4e M\u00a8uller a \u00b4 b", "Université Müller a ´ b"),
        ("⼀⽉ \u2f00", "一月 一"),
        ("𝐇𝐞𝐥𝐥𝐨", "Hello"),
        ("in\u00adfor\u00adma\u00adtion so\u200bft \ufeffx\u200ey", "information soft xy"),
        ("x² + ½ m³ ™ … ①", "x² + ½ m³ ™ … ①"),
        ("non\u2011breaking\u00a0space", "non-breaking space"),
        ("\ud800 a\0b", "? a b"),
        ("plain text - with a dash -\n- and a list", "plain text - with a dash -\n- and a list"),
        ("می\u200cخواهم 👨\u200d👩", "می\u200cخواهم 👨\u200d👩"),
    ],
)
def test_what_a_person_reads(raw: str, read: str) -> None:
    assert readable(raw) == read
    assert readable(read) == read


@pytest.mark.parametrize(
    ("raw", "read", "found_by"),
    [
        ("the em-\nployees met", "the employees\nmet", {"employees", "em-ployees"}),
        ("the infor\u00ad\nmation", "the information", {"information"}),
        ("infor\u2010 \r\nmation,\nso", "information,\nso", {"information"}),
        ("a -\nb", "a -\nb", set()),
        ("a state-of-the-\nart e-\nmail", "a state-of-the-art\ne-mail", {"state-of-the-art", "stateoftheart", "e-mail", "email"}),
        ("Baden-\nWürttemberg", "Baden-Württemberg", {"Baden-Württemberg", "badenwurttemberg"}),
        ("COVID-\n19 was", "COVID-19\nwas", {"covid-19", "covid"}),
        ("INFOR-\nMATION", "INFORMATION", {"information"}),
        ("self-\nmade", "self-made", {"selfmade", "self-made"}),
        ("re-entry. The re-\nentry", "re-entry. The re-entry", {"reentry", "re-entry"}),
        ("re-\nentry", "reentry", {"reentry", "re-entry"}),
        ("vor-\nund nachher", "vor-\nund nachher", {"vor"}),
        ("an em-\nploy-\nee", "an employee", {"employee"}),
        ("pages 10-\n20", "pages 10-\n20", {"10"}),
        ("(infor-\nmation), next", "(information),\nnext", {"information"}),
        ("infor-", "infor-", {"infor"}),
    ],
)  # fmt: skip
def test_words_that_are_cut_at_a_lines_end(raw: str, read: str, found_by: set[str]) -> None:
    assert readable(raw) == read
    assert {query for query in found_by if is_found(raw, query)} == found_by


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        ("关\n于\n红\n军", "关于红军"),
        ("目\n录\nabc\n红\n军\n１\n（\n一\n）", "目录\nabc\n红军1(一)"),
        ("ที่\nนี่\nไ\nท\nย", "ที่นี่ไทย"),
        ("안\n녕", "안녕"),
        ("a\nb\nc", "a\nb\nc"),
        ("红\nred\n绿", "红\nred\n绿"),
        ("标题一\n第一行", "标题一\n第一行"),
    ],
)
def test_text_of_one_character_a_line(raw: str, read: str) -> None:
    assert readable(raw) == read


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("Hauptstraße 5", "hauptstrasse"),
        ("Hauptstrasse 5", "Hauptstraße"),
        ("Hauptstraße 5", '"Hauptstraße 5"'),
        ("das Café", "cafe"),
        ("das Cafe", "CAFÉ"),
        ("Łódź, smørrebrød, œuvre", "lodz smorrebrod oeuvre"),
        ("日本 旅行.jpg", "日本旅行"),
        ("中国红军作战", "红军"),
        ("中国红军作战", '"红军作战"'),
        ("红\n军", "红军"),
        ("新しいiPhone手机", "iphone"),
        ("新しいiPhone手机", "手机"),
        ("학교에서 배우다", "학교"),
        ("السَّلام عليكم", "السلام"),
        ("أنواع الخطوط", "انواع"),
        ("فارسی کتاب", "فارسي كتاب"),
        ("יְרוּשָׁלַיִם", "ירושלים"),
        ("٢٠١٩", "2019"),
        ("Ёлка", "елка"),
        ("καφές", "ΚΑΦΕΣ"),
        ("καφές", "καφες"),
        ("25 m² Fläche", "m2"),
        ("25 m² Fläche", "m²"),
        ("हिन्दी भाषा", "हिन्दी"),
        ("an e-mail", "email"),
        ("İstanbul", "istanbul"),
        ("Straße-Einheit", "strasseeinheit"),
    ],
)
def test_spellings_of_one_word_find_each_other(text: str, query: str) -> None:
    assert is_found(text, query)


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("天很好。气", "天气"),
        ("日本 hotel 旅行", "本旅"),
        ("йод", "иод"),
        ("Straße", "strase"),
        ("strasse", "gasse"),
        ("红军", "军红"),
        ("x2", "x3"),
    ],
)
def test_other_words_do_not(text: str, query: str) -> None:
    assert not is_found(text, query)


def is_found(raw: str, query: str) -> bool:
    """By the tokenizer of the word index, all terms of the query."""
    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE VIRTUAL TABLE words USING fts5(a, b, tokenize='porter unicode61 remove_diacritics 2')")
        database.execute("INSERT INTO words VALUES (?, ?)", normalised(raw))
        sought = " AND ".join(map(quoted, terms_of(query)))
        return (
            bool(sought)
            and database.execute("SELECT 1 FROM words WHERE words MATCH ?", (sought,)).fetchone() is not None
        )


def test_most_text_has_no_other_spellings() -> None:
    assert spellings("Revenue grew in Zürich, the café's naïve “quotes” – and so on…") == ""
    assert spellings("Москва, йод; 2024") == ""


def test_what_the_tokenizer_does_by_itself_is_not_repeated() -> None:
    """Letters without another spelling fold as SQLite folds them: Latin, Greek, Cyrillic, Hebrew, Arabic."""
    ranges = (range(0xC0, 0x37F), range(0x384, 0x528), range(0x5D0, 0x700), range(0x1E00, 0x2000))
    letters = [chr(code) for codes in ranges for code in codes if chr(code).isalpha()]
    words = [f"x{readable(letter)}" for letter in letters]
    plain = {number: word for number, word in enumerate(words) if not spellings(word)}
    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE VIRTUAL TABLE words USING fts5(a, tokenize='unicode61 remove_diacritics 2')")
        database.execute("CREATE VIRTUAL TABLE seen USING fts5vocab(words, 'instance')")
        database.executemany("INSERT INTO words(rowid, a) VALUES (?, ?)", plain.items())
        seen = dict(database.execute("SELECT doc, term FROM seen"))
    assert len(plain) > 1000
    assert seen == {number: folded(word) for number, word in plain.items()}


def test_queries_are_normalised_alike() -> None:
    assert asked("“Straße” −grün ＂x＂") == '"Straße" -grün "x"'
    assert wording_of("cafe\u0301 −„rote Wand“ －Haus").excluded == ("rote Wand", "Haus")
    assert wording_of("cafe\u0301").text == "café"
    assert terms_of("ｗａｔｅｒ o\ufb03ce “annual Report” हिन्दी") == ["water", "office", "annual report", "हिन्दी"]
    assert words_to_read("ｗａｔｅｒ") == ["water"]
    assert quoted("water") == '"water"' and quoted('a"b') == '"a""b"' and quoted("café") == '"café"'
    assert quoted("straße") == '("straße" OR "strasse")'


def test_the_model_is_given_what_is_stored() -> None:
    raw = "The o\ufb03ce of all em-\nployees, ｗａｔｅｒ"
    draft = ItemDraft(Source(Path("/x.pdf"), "", 1, 1), "page", 0, text=raw)
    assert prompts.document_input(draft).text == "The office of all employees, water" == " ".join(readable(raw).split())
    assert prompts.query_input(Query(text="o\ufb03ce  ｗａｔｅｒ"), "page").text == "office water"


def test_passages_in_another_spelling() -> None:
    text = f"{'vorher ' * 40}die lange Hauptstraße am Park {'nachher ' * 40}"
    shown = passage(text, ["hauptstrasse"])
    assert "lange Hauptstraße am" in shown and shown.startswith("…vorher") and shown.endswith("nachher…")
    assert len(shown) < 250
    assert passage("关于红军作战", ["红军"]) == "关于红军作战"
    assert passage("well-known", ["wellknown"]) == "well-known"
    assert passage("nothing", ["else"]) == passage("", ["x"]) == passage("x", []) == ""


@pytest.mark.parametrize("unit", ["a", "é", "a-\n", "-\n", "a-", "红\n", "红", "é ", " -\n ", "´", "’-\n"])
def test_machine_made_text_takes_linear_time(unit: str) -> None:
    """100,000 characters, the most that a page keeps; quadratic time would be minutes."""
    began = time.process_time()
    normalised(unit * (100_000 // len(unit)))
    assert time.process_time() - began < 10
