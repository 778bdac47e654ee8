"""The page with odd values, in Streamlit's own test bench: a sentence in every case, and never a trace or a link elsewhere."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st
from PIL import Image
from streamlit.testing.v1 import AppTest

import mmsearch
from ingest.pipeline import ingest_paths
from mmsearch.library import Library
from ui import adding, guard, shelf
from ui.gate import Gate
from ui.view import View

ROOT = Path(__file__).parents[2]
RUN_S = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    things = tmp_path_factory.mktemp("things")
    for name, colour in {"tomato": "red", "meadow": "lime", "evening sky": "blue"}.items():
        Image.new("RGB", (64, 48), colour).save(things / f"{name}.png")
    with mmsearch.open(folder, create=True, model="toy") as library:
        ingest_paths(library, [things])
    return folder


@pytest.fixture
def page(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AppTest]:
    monkeypatch.setattr(Gate, "stands", True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("MMSEARCH_MODEL", "toy")
    monkeypatch.setenv("MMSEARCH_LIBRARY", str(folder))
    st.cache_data.clear()
    st.cache_resource.clear()
    yield AppTest.from_file(ROOT / "ui" / "app.py", default_timeout=RUN_S)
    st.cache_data.clear()
    st.cache_resource.clear()


def sentences(page: AppTest) -> list[str]:
    assert [shown.value for shown in page.exception] == []
    return [shown.value.replace("\\", "").replace("\u2060", "") for shown in page.error]


ODD = [
    {"page": "99999999999999"},
    {"page": "9223372036854775807"},
    {"page": "00000000000000000001" + "9" * 40},
    {"q": "red", "page": "999999999"},
    {"item": "9223372036854775807"},
    {"like": "9223372036854775807"},
    {"after": "0001-01-01"},
    {"before": "0001-01-01"},
    {"after": "9999-12-31"},
    {"after": "2999-12-31", "q": "red"},
    {"q": "\x00", "path": "\x00"},
    {"q": "a" * 100_000},
    {"q": "\ufffd\u202e\U0001f4a9 -"},
    {"q": "-red"},
    {"q": '"" NEAR( * AND'},
    {"path": "[z-a]", "q": "red"},
    {"path": "**/" * 40},
    {"kinds": "page,page,<b>"},
    {"weaker": "1", "q": "red", "kinds": "clip"},
]


@pytest.mark.parametrize("address", ODD, ids=lambda address: "&".join(f"{k}={v[:24]!r}" for k, v in address.items()))
def test_an_odd_address_is_drawn(page: AppTest, address: dict[str, str]):
    page.query_params.update(address)
    assert sentences(page.run()) == []
    assert page.text_input(key="q")


def test_a_page_behind_the_last_is_the_first(page: AppTest):
    page.query_params["page"] = "999999999"
    page.run()
    assert "Added last" in [shown.value for shown in page.caption] and sentences(page) == []


def test_a_path_filter_that_is_too_long_is_named(page: AppTest):
    page.query_params["path"] = "*" * 2000
    assert sentences(page.run()) == ["a path filter of 2,000 characters is too long; the limit is 1,024"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("~nosuchuser/pictures", "Write the whole path, from the root."),
        ("pictures", "Write the whole path, from the root."),
        ("   ", "Write the whole path, from the root."),
        ("/" + "a" * 4096, "There is no such folder."),
        ("/a" * 4096, "There is no such folder."),
        ("/\x00", "There is no such folder."),
        ("/nowhere", "There is no such folder."),
    ],
    ids=lambda text: text[:12],
)
def test_an_odd_folder_is_refused_with_a_sentence(
    page: AppTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, said: str
):
    monkeypatch.setenv("MMSEARCH_LIBRARY", str(tmp_path / "none"))
    page.run()
    page.text_input[0].input(typed)
    next(button for button in page.button if button.label == "Add this folder").click()
    assert sentences(page.run()) == [said]
    assert not adding.ingest_run().is_running()


def test_an_unknown_error_while_drawing_becomes_a_sentence(
    page: AppTest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret of the trace")

    monkeypatch.setattr(shelf, "newest", fails)
    assert sentences(page.run()) == [guard.FAULT]
    (record,) = [record for record in caplog.records if record.name == guard.log.name]
    assert record.levelno == logging.ERROR and record.exc_info and record.exc_info[0] is ZeroDivisionError


def test_an_unknown_error_in_a_callback_becomes_a_sentence_once(
    page: AppTest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    page.run()
    parameters, outcomes = View.parameters, [0]

    def fails_once(self: View) -> dict[str, str]:
        1 / (outcomes.pop() if outcomes else 1)
        return parameters(self)

    monkeypatch.setattr(View, "parameters", fails_once)
    page.button(key="home").click()
    assert sentences(page.run()) == [guard.FAULT]
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]
    assert sentences(page.run()) == []


CALLBACKS = {"on_click", "on_change", "on_submit", "on_select", "on_dismiss"}


@pytest.mark.parametrize("file", sorted((ROOT / "ui").glob("*.py")), ids=lambda file: file.name)
def test_every_callback_and_every_fragment_has_the_guard(file: Path):
    tree = ast.parse(file.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for given in node.keywords:
                if given.arg and (given.arg in CALLBACKS or given.arg.endswith("_change")):
                    assert ast.unparse(given.value).startswith("guarded("), f"line {given.value.lineno}"
        if isinstance(node, ast.FunctionDef) and any(
            ast.unparse(one).startswith(("st.dialog", "st.fragment")) for one in node.decorator_list
        ):
            assert [ast.unparse(one).split(":")[0] for one in node.body] == ["with guard()"], node.name


def test_streamlits_links_to_search_engines_are_off():
    from mmsearch.cli.page import PAGE_OPTIONS

    assert PAGE_OPTIONS["client.showErrorLinks"] == "false" and PAGE_OPTIONS["client.showErrorDetails"] == "none"


# ---------------------------------------------------------------- a link from another site


def test_a_held_query_is_filled_in_and_runs_when_the_person_asks(page: AppTest, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []
    search = Library.search

    def counted(self: Library, text: str = "", **given: object) -> object:
        asked.append(text)
        return search(self, text, **given)

    monkeypatch.setattr(Library, "search", counted)
    page.query_params.update({"q": "red", "path": "*.png", "held": "1"})
    page.run()
    assert page.text_input(key="q").value == "red" and page.text_input(key="path").value == "*.png"
    assert [shown.value for shown in page.info] == [
        "A link from elsewhere filled this in. Press Enter in the query box to run it."
    ]
    assert asked == [] and sentences(page) == []
    next(button for button in page.button if button.label == "Search").click()
    page.run()
    assert asked == ["red"] and not page.info and "held" not in page.query_params
    assert dict(page.query_params) == {"q": "red", "path": "*.png"}


@pytest.mark.parametrize("name", ["item", "like"])
def test_a_held_item_is_not_opened(page: AppTest, name: str):
    page.query_params.update({name: "1", "held": "1"})
    page.run()
    assert page.info and not page.button(key="home").disabled
    assert not [button for button in page.button if button.label in ("More like this", "Open it")]
    next(button for button in page.button if button.label == "Search").click()
    page.run()
    assert dict(page.query_params) == {name: "1"} and not page.info and sentences(page) == []
