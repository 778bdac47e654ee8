"""The short version of the fuzzing of `make torture`, and of its look at memory."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ingest import readers
from tests.torture import fuzz

pytestmark = pytest.mark.slow

pytest.importorskip("psutil")


def test_damaged_files_end_in_items_or_error_rows_and_nothing_is_left_over() -> None:
    tally = fuzz.fuzz(300, seed=5)
    assert tally.problems == []
    assert tally.inputs == 300 == tally.read + sum(tally.refused.values())
    assert tally.as_query == len(range(0, 300, fuzz.AS_QUERY))
    assert tally.read > 30 and sum(tally.refused.values()) > 30  # neither too gentle nor too rough


def test_an_input_is_the_same_whenever_it_is_made(tmp_path: Path) -> None:
    content = bytes(range(256)) * 20
    mutants = [fuzz.mutant(content, fuzz.draw_of(1, number)) for number in range(50)]
    assert mutants == [fuzz.mutant(content, fuzz.draw_of(1, number)) for number in range(50)]
    assert len(set(mutants)) == 50 and content not in mutants
    for mutate in fuzz.MUTATIONS:
        short = bytearray(b"7")
        mutate(short, random.Random(0))  # no mutation needs more than a byte


def test_the_originals_are_of_every_type_that_a_reader_takes(tmp_path: Path) -> None:
    originals = fuzz.write_originals(tmp_path)
    assert {readers.sniff(path) for path in originals} == set(readers.FILE_TYPES)
    suffixes = {path.suffix for path in originals}
    same = {".m4v": ".mp4", ".jpeg": ".jpg", ".tif": ".tiff", ".heif": ".heic", ".apng": ".png", ".oxps": ".xps"}
    same[".markdown"] = ".md"
    assert {same.get(suffix, suffix) for row in readers.FILE_TYPES for suffix in row.suffixes} - suffixes == {
        ".ogv"
    }  # nothing here writes Theora


def test_an_input_can_be_looked_at_again(tmp_path: Path) -> None:
    """By its number alone, whatever was read before it."""
    (tmp_path / "originals").mkdir()
    original = fuzz.draw_of(5, 17).choice(fuzz.write_originals(tmp_path / "originals"))
    fuzz.fuzz(1, seed=5, first=17, keep=tmp_path / "kept")
    (kept,) = (tmp_path / "kept").iterdir()
    assert kept.name == f"input-17{original.suffix}"


SICK_READERS = '''
"""Loaded by the worker's interpreter: every file costs a handle, and a BMP the worker."""
import os, signal
try:
    import ingest.readers as readers
except ImportError:
    pass
else:
    honest, kept = readers.read_items, []

    def read_items(source, *arguments, **terms):
        kept.append(open(source.path, "rb"))
        if source.path.suffix == ".bmp":
            os.kill(os.getpid(), signal.SIGSEGV)
        return honest(source, *arguments, **terms)

    readers.read_items = read_items
'''


def test_what_must_not_be_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(SICK_READERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    tally = fuzz.fuzz(150, seed=5)
    assert tally.inputs == 150 and tally.died and all(".bmp: the decoder died (signal 11)" in one for one in tally.died)
    assert any("a worker holds" in problem and "file handles" in problem for problem in tally.problems)
