"""Which files the page may read for a browser."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from mmsearch.items import Item
from ui.gallery import displayable, plain
from ui.shelf import viewable_file


def library_of(*roots: Path) -> SimpleNamespace:
    return SimpleNamespace(catalog=SimpleNamespace(roots=lambda: dict.fromkeys(roots, 0.0)))


def item_at(path: Path) -> Item:
    return Item(1, 1, path, "image", 0, None, None, None, "", {}, None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("root", "rootless", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"a")
    return tmp_path / "root"


def test_a_file_in_an_added_folder(root: Path):
    assert viewable_file(library_of(root), item_at(root / "a.png")) == root / "a.png"


def test_a_folder_that_was_added_through_a_link(root: Path, tmp_path: Path):
    (tmp_path / "link").symlink_to(root)
    assert viewable_file(library_of(tmp_path / "link"), item_at(tmp_path / "link" / "a.png")) == root / "a.png"


def test_a_file_that_was_added_by_itself(root: Path, tmp_path: Path):
    alone = tmp_path / "rootless" / "a.png"
    assert viewable_file(library_of(root), item_at(alone)) == alone


def test_a_file_that_is_gone_or_no_file(root: Path):
    assert viewable_file(library_of(root), item_at(root / "b.png")) is None
    assert viewable_file(library_of(root), item_at(root)) is None


def test_links_do_not_lead_out(root: Path, tmp_path: Path):
    """A file that was swapped for a link after it was indexed."""
    (root / "out.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "rootless" / "out.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    assert viewable_file(library_of(root), item_at(root / "out.png")) is None
    assert viewable_file(library_of(root), item_at(root / "folder" / "a.png")) is None
    assert viewable_file(library_of(root), item_at(tmp_path / "rootless" / "out.png")) is None


def test_names_cannot_steer_markdown_or_break_the_transport():
    assert plain("**a** [b](c) <d> :smile:") == r"\*\*a\*\* \[b\]\(c\) \<d\> \:smile\:"
    assert displayable("caf\udce9") == "caf\ufffd"
    displayable("\ud800").encode()


def test_the_page_says_which_model_answers_and_which_is_being_built(tmp_path: Path):
    from mmsearch.catalog import Catalog
    from ui.shelf import coverage

    with Catalog.open(tmp_path, create=True) as catalog:
        library = SimpleNamespace(catalog=catalog, model_key=None)
        assert coverage(library).model_sentence() == ""
        catalog.register_model("old-1", 4, "mini")
        library.model_key = catalog.active_model_key()
        assert coverage(library).model_sentence() == "Answered by mini."
        catalog.register_model("another-1", 4, "/models/tiny")
        expected = "Answered by mini. Being built beside it, or kept: tiny, 0 of 0 items."
        assert coverage(library).model_sentence() == expected
