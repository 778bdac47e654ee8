"""What people see in a terminal."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from mmsearch.cli.terminal import hit_lines, print_logs
from mmsearch.items import Hit, Item, clock
from mmsearch.words import count_of, duration, printable, to_json


def hit(path: str, relevance: float = 0.82, snippet: str = "", **place: object) -> Hit:
    fields = {"page_number": None, "start_s": None, "end_s": None} | place
    item = Item(id=1, source_id=1, path=Path(path), kind="page", ordinal=0, text="", meta={}, preview=None, **fields)
    return Hit(1, 0.4123, relevance, ("dense", "text"), item, snippet)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_columns_line_up_and_paths_stay_whole():
    long = "/far/" + "x" * 90 + ".pdf"
    lines = list(
        hit_lines(
            [
                hit("/talks/q3.pdf", snippet="Revenue\ngrew", page_number=12),
                hit("/demo.mp4", 0.77, start_s=724.2, end_s=738.9),
                hit(long, 0.5),
            ],
            stream=io.StringIO(),
        )
    )
    assert lines[0].startswith("0.82  1  /talks/q3.pdf  ") and lines[0].endswith("  Revenue grew")
    assert lines[1].split() == ["0.77", "1", "/demo.mp4", "00:12:04–00:12:18"]
    assert lines[0].index("p.12") == lines[1].index("00:12:04")
    assert long in lines[2]


def test_copies_stand_below_their_hit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    copies = [tmp_path / "a.pdf", *(Path(f"/far/{n}.pdf") for n in range(4))]
    one, many = hit_lines(
        [replace(hit("/q.pdf"), also_at=(copies[0],)), replace(hit("/q.pdf"), also_at=tuple(copies))],
        stream=io.StringIO(),
    )
    assert one.split("\n") == ["0.82  1  /q.pdf", "         also at a.pdf"]
    assert many.endswith("\n         also at a.pdf, /far/0.pdf, /far/1.pdf and 2 more")


def test_path_inside_the_working_folder_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (line,) = hit_lines([hit(str(tmp_path / "talks" / "q3.pdf"), page_number=1)], stream=io.StringIO())
    assert line == "0.82  1  talks/q3.pdf  p.1"


def test_explain_shows_cosine_and_channel():
    (line,) = hit_lines([hit("/a.pdf")], explain=True, stream=io.StringIO())
    assert line == "0.82  1  /a.pdf  cosine 0.412 by dense+text"


@pytest.mark.parametrize(("no_colour", "coloured"), [("", True), ("1", False)])
def test_colour_only_where_it_is_wanted(no_colour: str, coloured: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_COLOR", no_colour)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("mmsearch.cli.terminal.width_of", lambda stream: 80)
    assert ("\x1b[" in next(iter(hit_lines([hit("/a.pdf")], stream=Terminal())))) is coloured
    assert "\x1b[" not in next(iter(hit_lines([hit("/a.pdf")], stream=io.StringIO())))


def test_snippet_fits_the_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("mmsearch.cli.terminal.width_of", lambda stream: 40)
    (line,) = hit_lines([hit("/a.pdf", snippet="word " * 50)], stream=Terminal())
    assert len(line) <= 40 and line.endswith("…")


def test_control_characters_are_spelled_out():
    assert printable("a\x1b[2J\nb\x9b\u202e") == "a\\x1b[2J\\nb\\x9b\\u202e"
    assert printable("Grüße 日本 \udce9") == "Grüße 日本 \udce9"


def test_json_keeps_names_that_are_no_utf8():
    assert to_json({"path": "ü"}) == '{"path": "ü"}'
    assert json.loads(to_json({"path": "caf\udce9"})) == {"path": "caf\udce9"}
    to_json({"path": "caf\udce9"}).encode()


def test_json_holds_nothing_that_a_terminal_obeys():
    record = {"path": "a\x1b[31m\x7f\x9b31m\u202egpj\u2028\u2066 日本 é"}
    text = to_json(record)
    assert text == '{"path": "a\\u001b[31m\\u007f\\u009b31m\\u202egpj\\u2028\\u2066 日本 é"}'
    assert json.loads(text) == record


def test_what_is_logged_is_printable(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    print_logs(logging.INFO)
    logging.getLogger("mmsearch.somewhere").info("%s is left out", "a\x1b[31m\nb")
    logging.getLogger("mmsearch.somewhere").debug("not this")
    assert capsys.readouterr().err == "mmsearch: a\\x1b[31m\nb is left out\n"


def test_words_for_numbers():
    assert [count_of(n, "photo") for n in (0, 1, 1204)] == ["0 photos", "1 photo", "1,204 photos"]
    assert [duration(s) for s in (0.2, 89, 91, 720, 12_000)] == ["1 s", "89 s", "2 min", "12 min", "3 h 20 min"]
    assert clock(3723.9) == "01:02:03"
