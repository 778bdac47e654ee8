"""A library that is deleted, or replaced by another one, while it is open: it says so, and answers from neither by half."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import streamlit as st
from PIL import Image
from streamlit.testing.v1 import AppTest

import mmsearch
from ingest.pipeline import ingest_paths
from mmsearch.catalog.dialect.sqlite import CATALOG_NAME
from mmsearch.errors import LibraryReplaced
from mmsearch.library import Library
from mmsearch.library.model import Model
from ui.gate import Gate

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL", "STORE", "DEVICE"):
        monkeypatch.delenv(f"MMSEARCH_{name}", raising=False)
    monkeypatch.setenv("MMSEARCH_MODEL", "toy")
    monkeypatch.setenv("MMSEARCH_LIBRARY", str(tmp_path / "library"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(Gate, "stands", True)


def make(folder: Path, *colours: str) -> Path:
    things = folder.with_name(f"things of {folder.name}")
    things.mkdir()
    for colour in colours:
        Image.new("RGB", (64, 48), colour).save(things / f"{colour}.png")
    with mmsearch.open(folder, create=True) as library:
        ingest_paths(library, [things])
    return folder


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with mmsearch.open(make(tmp_path / "library", "red", "blue")) as opened:
        yield opened


def delete(folder: Path) -> None:
    shutil.rmtree(folder)


def delete_catalog(folder: Path) -> None:
    (folder / CATALOG_NAME).unlink()


def put_another(folder: Path) -> None:
    other = make(folder.with_name("other"), "lime", "white", "black")
    shutil.rmtree(folder)
    other.rename(folder)


def put_a_copy(folder: Path) -> None:
    """The same id and generation: as when a backup is restored."""
    shutil.copytree(folder, folder.with_name("copy"))
    shutil.rmtree(folder)
    folder.with_name("copy").rename(folder)


def copy_another_into_it(folder: Path) -> None:
    """As `cp other/catalog.sqlite3 folder/` does: the file stays, its content does not."""
    other = make(folder.with_name("other"), "lime", "white", "black")
    shutil.copyfile(other / CATALOG_NAME, folder / CATALOG_NAME)


CHANGES = [delete, delete_catalog, put_another, put_a_copy, copy_another_into_it]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("has_searched", [True, False], ids=["used", "new"])
def test_an_open_library_notices(library: Library, change: Callable[[Path], None], has_searched: bool):
    if has_searched:
        assert len(library.search("red", min_relevance=0)) == 2
    change(library.folder)
    for asking in (
        lambda: library.search("red", min_relevance=0),
        lambda: library.search("red", mode="text"),
        lambda: library.search(like=1),
        lambda: library.catalog.items.of([1]),
        lambda: library.item_counts(),
        lambda: library.catalog.models.register("another", 8),
    ):
        with pytest.raises(
            LibraryReplaced, match="was deleted, or replaced by another one, while it was open: open it"
        ):
            asking()
    assert (library.folder / CATALOG_NAME).exists() is (change not in (delete, delete_catalog))


def test_the_id_tells_where_the_inode_does_not(library: Library):
    catalog = library.catalog
    with catalog.engine.connect() as connection, connection.begin():
        connection.exec_driver_sql("UPDATE meta SET value = 'another' WHERE key = 'id'")
    with pytest.raises(LibraryReplaced):
        library.search("red", min_relevance=0)


def test_one_that_is_replaced_while_it_answers_gives_no_answer(library: Library, monkeypatch: pytest.MonkeyPatch):
    """Between the encoding of the query and the look at the vectors."""
    encode = Model.encode

    def slowly(self: Model, *given: object) -> object:
        put_another(library.folder)
        return encode(self, *given)

    monkeypatch.setattr(Model, "encode", slowly)
    with pytest.raises(LibraryReplaced):
        library.search("red", min_relevance=0)


def test_other_processes_and_upkeep_are_no_replacement(library: Library, tmp_path: Path):
    things = tmp_path / "things of library"
    Image.new("RGB", (64, 48), "lime").save(things / "lime.png")
    with mmsearch.open(library.folder) as other:
        ingest_paths(other, [things])
        other.compact()
    library.compact()
    assert len(library.search("red", min_relevance=0)) == 3


# ---------------------------------------------------------------- the page


@pytest.fixture
def page(library: Library) -> Iterator[AppTest]:
    st.cache_data.clear()
    st.cache_resource.clear()
    yield AppTest.from_file(ROOT / "ui" / "app.py", default_timeout=120)
    st.cache_data.clear()
    st.cache_resource.clear()


def said(shown: object) -> list[str]:
    return [one.value.replace("\\", "").replace("\u2060", "") for one in shown]  # type: ignore[attr-defined]


def test_the_page_shows_the_new_library_and_says_so_once(page: AppTest, tmp_path: Path):
    page.query_params.update({"q": "red", "weaker": "1"})
    page.run()
    assert any("2 photos" in text for text in said(page.caption)) and not page.warning
    page.query_params["item"] = "1"
    put_another(tmp_path / "library")
    page.run()
    assert said(page.warning) == [
        f"Another library lies at {tmp_path / 'library'} since this page was last drawn; this is the new one."
    ]
    assert any("3 photos" in text for text in said(page.caption)) and any(
        "of 3 items" in text for text in said(page.caption)
    )
    assert "item" not in page.query_params  # a number of the former one
    assert not page.error and not page.exception
    assert not page.run().warning


def test_the_page_says_that_the_library_is_gone(page: AppTest, tmp_path: Path):
    page.run()
    delete(tmp_path / "library")
    page.run()
    assert said(page.warning) == [f"The library at {tmp_path / 'library'} was deleted while this page was open."]
    assert [button for button in page.button if button.label == "Add this folder"] and not page.exception
