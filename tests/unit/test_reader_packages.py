"""An installed package adds a file type through the entry points `mmsearch.readers`: the whole of it is `PACKAGE`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest import readers
from ingest.decode import Task
from ingest.decode.pool import WorkerPool
from ingest.scan import find_sources
from mmsearch.errors import ConfigError

PACKAGE = """
from PIL import Image
from ingest.readers import FileType
from mmsearch.items import ItemDraft

row = FileType("colour", "image", (".colour",), lambda file: file.head.startswith(b"colour "), "colour_files")
count_items = lambda path: ("image", 1, 0.0)

def read_items(source, reading):
    colour = source.path.read_text().split()[1]
    yield ItemDraft(source, "image", 0, text=colour, images=(Image.new("RGB", (28, 28), colour),), text_source="metadata")
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    def install(code: str) -> None:
        site = tmp_path / "site"
        (site / "colour_files-1.0.dist-info").mkdir(parents=True)
        (site / "colour_files-1.0.dist-info" / "METADATA").write_text("Name: colour-files\nVersion: 1.0\n")
        (site / "colour_files-1.0.dist-info" / "entry_points.txt").write_text(
            "[mmsearch.readers]\ncolour = colour_files:row\n"
        )
        (site / "colour_files.py").write_text(code)
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(__import__("sys").modules, "colour_files", raising=False)
        forget()

    def forget() -> None:
        readers.file_types.cache_clear()
        readers._by_suffix.cache_clear()

    yield install
    monkeypatch.undo()
    forget()


def test_a_package_adds_a_file_type(install, tmp_path):
    install(PACKAGE)
    (tmp_path / "sea.colour").write_text("colour blue")
    (tmp_path / "hidden.dat").write_text("colour red")
    sources = find_sources([tmp_path / "sea.colour", tmp_path / "hidden.dat"]).sources
    with WorkerPool({"image": 784, "page": 784, "clip": 784}, jobs=1) as pool:
        events = [event for event in pool.read([Task(n, one) for n, one in enumerate(sources)]) if event is not None]
    drafts = [event.draft for event in events if event.draft is not None]
    assert {(draft.text, draft.images[0].getpixel((0, 0))) for draft in drafts} == {
        ("blue", (0, 0, 255)),
        ("red", (255, 0, 0)),
    }
    assert all(draft.has_print is False for draft in drafts)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (
            PACKAGE.replace('".colour",', '".colour", ".md", ".jpg"'),
            r"colour-files wants \.jpg, which ingest\.readers\.image reads",
        ),
        (PACKAGE.replace('"colour", ', '"pdf", '), "wants the name 'pdf', which ingest.readers.document reads"),
        ("row = 7", "the reader 'colour' of the package colour-files is no FileType"),
    ],
)
def test_a_row_that_is_taken_is_refused_by_name(install, code, why):
    install(code)
    with pytest.raises(ConfigError, match=why):
        readers.file_types()


def test_no_two_rows_share_a_name_or_suffix():
    suffixes = [suffix for row in readers.FILE_TYPES for suffix in row.suffixes]
    assert len(set(suffixes)) == len(suffixes) and all(suffix == suffix.lower() for suffix in suffixes)
    assert len({row.name for row in readers.FILE_TYPES}) == len(readers.FILE_TYPES)
