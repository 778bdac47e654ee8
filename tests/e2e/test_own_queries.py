"""`mmsearch eval run | compare | add` as a user types them: over one-coloured things with the toy, over the demo with the shipped model."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

import mmsearch
from ingest.pipeline import ingest_paths
from mmsearch.cli import app
from mmsearch.cli.shared import SOME_FAILED
from mmsearch.embedders.families.toy import ToyEmbedder
from mmsearch.errors import CatalogError, DatasetError, SourceError
from mmsearch.items import EmbedInput
from mmsearch.judgements.queries import JudgedQuery, read_queries
from mmsearch.judgements.run import Run, measure_run
from mmsearch.library import Library
from tests.demo.documents import DOCUMENTS, write_document
from tests.demo.pictures import PICTURES, write_picture
from tests.demo.videos import FILMS, write_film
from tests.samples import BLUE, GREEN, RED, pdf

DEMO_QUERIES = Path(__file__).parents[1] / "demo" / "queries.jsonl"


def mmsearch_eval(*arguments: object) -> int:
    return app(["eval", *map(str, arguments)], prog_name="mmsearch", standalone_mode=False) or 0


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL", "LIBRARY", "STORE", "DEVICE"):
        monkeypatch.delenv(f"MMSEARCH_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos, one of them at two paths, and a document of two pages."""
    folder = tmp_path_factory.mktemp("things")
    for name, colour in {"tomato": RED, "meadow": GREEN, "sky": BLUE}.items():
        Image.new("RGB", (120, 90), colour).save(folder / f"{name}.png")
    (folder / "copies").mkdir()
    shutil.copy(folder / "tomato.png", folder / "copies" / "love apple.png")
    pdf(folder / "report.pdf", ["quarterly revenue grew strongly", "hiring plans next winter"])
    place = tmp_path_factory.mktemp("library") / "index_data"
    with mmsearch.open(place, create=True, model="toy") as opened:
        report = ingest_paths(opened, [folder], jobs=1)
        assert opened.item_counts() == {"image": 4, "page": 2} and not report.failures
    return place


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    rows = [
        {"query": "red", "kind": "photo", "relevant": [{"path": "tomato.png"}, {"path": "love apple.png"}], "style": "colour"},
        {"query": "blue", "kind": "photo", "relevant": [{"path": "sky.png"}], "style": "colour"},
        {"query": "hiring plans", "relevant": [{"path": "report.pdf", "page": 2}], "style": "words"},
        {"query": "revenue", "relevant": [{"path": "report.pdf"}], "style": "words"},
        {"query": "revenue", "relevant": [{"path": "lost/report.pdf", "page": 1}]},
        {"query": "zebra submarine", "kind": "page", "relevant": []},
    ]  # fmt: skip
    Image.new("RGB", (60, 60), BLUE).save(tmp_path / "some blue.png")
    rows.append({"query": "", "image": "some blue.png", "kind": "photo", "relevant": [{"path": "sky.png"}]})
    file = tmp_path / "queries.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_own_queries_are_measured(library: Path, queries: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert mmsearch_eval("run", queries, "--library", library, "--out", tmp_path / "run.json", "--json") == 0
    out, err = capsys.readouterr()
    assert "1 right answer not in the library" in err and "lost/report.pdf p.1" in err
    record = json.loads(out)
    assert record == json.loads((tmp_path / "run.json").read_text())
    assert record["model"] == {"name": "toy", "key": "toy-1", "device": "cpu"} and record["origin"]["mmsearch"]
    assert record["library"]["items"] == {"image": 4, "page": 2} and record["modes"] == ["fused", "dense", "text"]
    red, blue, hiring, revenue, none, picture = record["queries"]
    assert (red["modes"]["fused"]["ranks"], blue["modes"]["dense"]["ranks"]) == ([1], [1])  # two copies are one answer
    assert red["modes"]["fused"]["top"][0]["right"] and not red["modes"]["fused"]["top"][1]["right"]  # the second copy
    assert red["modes"]["text"]["ranks"] == [None] and hiring["modes"]["text"]["ranks"] == [1]
    assert revenue["modes"]["text"]["ranks"] == [1, None] and revenue["missing"] == [
        {"path": "lost/report.pdf", "page": 1}
    ]
    assert none["modes"]["text"] == {**none["modes"]["text"], "ranks": [], "shown": 0}
    assert picture["modes"]["dense"]["ranks"] == [1] and picture["modes"]["text"]["ranks"] == [None]
    metrics = record["metrics"]["text"]
    assert metrics["answerable"] == 5 and metrics["all"]["hit@1"]["mean"] == 0.4
    assert (
        metrics["by_style"]["colour"]["hit@10"]["mean"] == 0.0 and metrics["by_style"]["words"]["hit@10"]["mean"] == 1.0
    )
    assert metrics["no_answer"]["rightly_silent"]["mean"] == 1.0
    for group in (metrics["all"], metrics["by_kind"]["page"]):
        assert all(of["low"] <= of["mean"] <= of["high"] for name, of in group.items() if name != "queries")
    assert min(one["took_ms"] for query in record["queries"][:5] for one in query["modes"].values()) > 0

    assert mmsearch_eval("run", queries, "--library", library, "--mode", "text") == 0
    out = capsys.readouterr().out
    assert "5 queries with an answer, 1 without, in 2 pages · 4 photos · toy (toy-1)" in out
    assert "hit@1" in out and "lexical" in out and "fused" not in out and "colour (2)" in out


def test_bad_lines_stop_a_run_or_are_left_out(library: Path, queries: Path, capsys: pytest.CaptureFixture[str]):
    with queries.open("a") as file:
        file.write("not json\n")
    with pytest.raises(DatasetError, match="line 8"):
        mmsearch_eval("run", queries, "--library", library, "--mode", "text")
    assert mmsearch_eval("run", queries, "--library", library, "--mode", "text", "--skip-bad") == SOME_FAILED
    out, err = capsys.readouterr()
    assert "left out" in err and "line 8" in err and "5 queries" in out
    queries.write_text("\n")
    with pytest.raises(DatasetError, match="no judged queries"):
        mmsearch_eval("run", queries, "--library", library)
    (queries.parent / "torn.png").write_bytes(b"\x89PNG")
    queries.write_text('{"query": "x", "image": "torn.png", "relevant": []}')
    with pytest.raises(SourceError, match=r"torn\.png"):
        mmsearch_eval("run", queries, "--library", library, "--mode", "dense")


def test_runs_are_compared(library: Path, queries: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for mode, name in (("all", "a"), ("all", "b"), ("text", "c")):
        mmsearch_eval(
            "run", queries, "--library", library, "--mode", mode, "--out", tmp_path / f"{name}.json", "--name", name
        )
    capsys.readouterr()
    assert mmsearch_eval("compare", tmp_path / "a.json", tmp_path / "b.json", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["modes"]) == {"fused", "dense", "text"} and found["queries"] == 5
    assert all(
        of["difference"] == 0 and of["p"] == 1 for mode in found["modes"].values() for of in mode["metrics"].values()
    )
    assert mmsearch_eval("compare", tmp_path / "a.json", tmp_path / "c.json") == 0
    out, err = capsys.readouterr()
    assert "5 queries with an answer, 1 without: a: toy (toy-1) → c: toy (toy-1)" in out and "lexical" in out
    assert "1 right answers were not in the library of the first run" in err


class Blind(ToyEmbedder):
    """Sees no pictures: every photo is the same to it."""

    model_key = "toy-blind"

    def encode_documents(self, inputs: Sequence[EmbedInput]) -> np.ndarray:
        return super().encode_documents([replace(one, images=()) for one in inputs])


def test_two_models_of_a_library_are_compared(
    library: Path, queries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    both = tmp_path / "index_data"
    shutil.copytree(library, both)
    monkeypatch.setattr(
        "mmsearch.embedders.load_embedder", lambda name, **_: Blind() if name == "blind" else ToyEmbedder()
    )
    with mmsearch.open(both, model="blind") as opened:
        ingest_paths(opened, list(opened.catalog.sources.roots()), jobs=1)
        assert opened.catalog.models.active_key() == "toy-blind"
        with pytest.raises(
            CatalogError, match=r"no vectors of model 'lost'; it holds toy \(toy-1\), blind \(toy-blind\)"
        ):
            opened.of_model("lost")
    command = ("compare", "--models", "toy-1", "blind", "--queries", queries, "--library", both)
    assert mmsearch_eval(*command, "--mode", "dense", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["first"]["model"]["key"], found["second"]["model"]["key"]) == ("toy-1", "toy-blind")
    hit = found["modes"]["dense"]["metrics"]["hit@1"]
    assert (
        hit["first"] == 1.0
        and hit["difference"] < 0
        and hit["losses"] >= 2
        and hit["wins"] == 0
        and 0 < hit["p"] <= 0.5
    )
    assert any(one["query"] == '"blue" (image)' for one in found["modes"]["dense"]["changes"])
    with mmsearch.open(both) as opened:
        assert opened.catalog.models.active_key() == "toy-blind", "looking switches nothing"
        assert opened.of_model("toy").search("blue", kinds=["photo"])[0].path.name == "sky.png"
    with pytest.raises(typer.BadParameter, match="--queries"):
        mmsearch_eval("compare", "--models", "toy-1", "blind", "--library", both)


def test_hits_are_judged(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "new.jsonl"

    def add(*arguments: object) -> str:
        assert mmsearch_eval("add", file, *arguments, "--library", library) == 0
        return capsys.readouterr().err

    assert "a new query, 2 right answers added" in add(
        "revenue plans", "--kind", "pdf", "--hit", "1", "2", "--style", "keyword"
    )
    assert "holds all of this already" in add("revenue plans", "--kind", "pdf", "--hit", "2,1")
    assert "not in the library" in add("a moment", "--path", "film.mp4#t=3,8.5")
    assert "a new query, 1 right answer" in add("a fruit", "--path", "love apple.png")
    assert "holds all of this already" in add("a fruit", "--path", "copies/love apple.png")
    assert "has no answer" in add("zebra", "--none")
    assert "says so already" in add("zebra", "--none")
    stored = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(one["page"] for one in stored[0]["relevant"]) == [1, 2]
    assert stored[0] == {
        "query": "revenue plans",
        "kind": "page",
        "relevant": stored[0]["relevant"],
        "style": "keyword",
    }
    assert {one["path"] for one in stored[0]["relevant"]} == {"report.pdf"}  # below the folder that was ingested
    assert stored[1:] == [
        {"query": "a moment", "relevant": [{"path": "film.mp4", "start_s": 3.0, "end_s": 8.5}]},
        {"query": "a fruit", "relevant": [{"path": "copies/love apple.png"}]},
        {"query": "zebra", "relevant": []},
    ]
    with pytest.raises(SystemExit):
        add("revenue", "--hit", "99")
    assert "--hit 99" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        add("revenue")  # nobody can be asked
    assert "--hit N, --path PATH, or --none" in capsys.readouterr().err

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    answers: Iterator[str] = iter(["one", "9", "1"])
    monkeypatch.setattr("typer.prompt", lambda *_, **__: next(answers))
    asked = add("red", "--kind", "photo", "-k", "3")
    assert "there are 3 hits" in asked and "a new query, 1 right answer added" in asked
    assert json.loads(file.read_text().splitlines()[-1])["relevant"] in (
        [{"path": "tomato.png"}],
        [{"path": "copies/love apple.png"}],
    )
    monkeypatch.setattr("typer.prompt", lambda *_, **__: "")
    assert "nothing was added" in add("green")
    monkeypatch.setattr("typer.prompt", lambda *_, **__: "0")
    assert "has no answer" in add("green")


# ---------------------------------------------------------------- the demo's queries, with the shipped model

SOME = (
    "talks/ml-intro.pdf", "household/2025-0317.pdf", "household/scan0012.pdf", "manuals/barista-one.pdf",
    "photos/animals/rex.jpg", "photos/2024 Alps/DSC00102.jpg", "photos/2024 Alps/DSC00188.jpg", "photos/2024 Portugal/IMG_4022.jpg",
    "photos/town/IMG_5101.jpg", "photos/2024 Portugal/IMG_4040.jpg", "videos/lesson.mp4",
)  # fmt: skip
"""Of every kind, as many as a test has time for."""


def test_the_demos_answers_exist():
    queries = read_queries(DEMO_QUERIES)
    files = [*DOCUMENTS, *(picture.path for picture in PICTURES), *(film.path for film in FILMS)]
    assert len({query.key for query in queries}) == len(queries) >= 30
    assert {query.style for query in queries} == {"keyword", "description", "question", "cross-modal", "no answer"}
    for query in queries:
        assert bool(query.relevant) == (query.style != "no answer")
        for place in query.relevant:
            assert len([file for file in files if file.endswith(place.path)]) == 1, place


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """A part of the demo, in a library of the shipped model."""
    folder = tmp_path_factory.mktemp("demo")
    for name in SOME:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    for name in DOCUMENTS.keys() & set(SOME):
        write_document(DOCUMENTS[name], folder / name)
    for picture in PICTURES:
        if picture.path in SOME:
            write_picture(picture, folder / picture.path)
    for film in FILMS:
        if film.path in SOME:
            write_film(film, folder / film.path)
    with mmsearch.open(tmp_path_factory.mktemp("library"), create=True, model="mini", device="cpu") as library:
        ingest_paths(library, [folder], jobs=1)
        yield library


@pytest.mark.slow
def test_the_demos_queries_are_answered(demo: Library, tmp_path: Path):
    def is_here(query: JudgedQuery) -> bool:
        return all(any(name.endswith(place.path) for name in SOME) for place in query.relevant)

    queries = [query for query in read_queries(DEMO_QUERIES) if is_here(query)]
    run = measure_run(demo, queries)
    assert not run.missing and len(run.answerable) >= 12 and len(run.unanswerable) >= 5
    run.save(tmp_path / "run.json")
    assert Run.load(tmp_path / "run.json") == run
    found = run.metrics()
    items = sum(demo.item_counts().values())
    for mode in run.modes:
        for name, of in found[mode]["all"].items():
            assert name == "queries" or 0 <= of["low"] <= of["mean"] <= of["high"] <= 1, (mode, name)
    for mode in ("fused", "dense"):
        assert found[mode]["all"]["hit@1"]["mean"] > 5 / items, "five times what a blind draw gets"
        assert found[mode]["all"]["nDCG@10"]["low"] > 0.25
    assert found["fused"]["all"]["nDCG@10"]["mean"] > found["text"]["all"]["nDCG@10"]["mean"], "photos hold no words"
    assert found["text"]["by_style"]["question"]["hit@5"]["mean"] > 0.4
