"""Switching a library's model: built beside the old one, by the real command, searched meanwhile, killed and gone on with."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import mmsearch
from ingest.pipeline import ingest_paths
from mmsearch.cli import app, models
from mmsearch.embedders.families.toy import ToyEmbedder
from mmsearch.errors import CatalogError, EmbedderError
from mmsearch.items import EmbedInput, Kind, Query
from mmsearch.library import Library
from tests import samples
from tests.unit.test_vlm2vec import random_embedder

COLOURS = {"red": samples.RED, "green": samples.GREEN, "blue": samples.BLUE}
VARIANTS = 16


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL", "LIBRARY", "STORE", "DEVICE"):
        monkeypatch.delenv(f"MMSEARCH_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # as the commands set it, for this process too


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 photos in three colours, two pages, and a file beside the folder that was ingested by its own name."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "in").mkdir()
    for colour, (r, g, b) in COLOURS.items():
        for n in range(VARIANTS):
            Image.new("RGB", (200 + n, 150), (max(0, r - 4 * n), max(0, g - 4 * n), max(0, b - 4 * n))).save(
                folder / "in" / f"{colour}{n}.png"
            )
    samples.pdf(folder / "in" / "report.pdf", ["revenue grew strongly", "hiring plans for winter"])
    Image.new("RGB", (90, 90), "white").save(folder / "alone.png")
    return folder


@pytest.fixture(scope="module")
def template(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files embedded by the toy model, once: tests take copies."""
    place = tmp_path_factory.mktemp("template") / "library"
    with mmsearch.open(place, create=True, model="toy", store="exact") as library:
        report = ingest_paths(library, [files / "in", files / "alone.png"])
        assert sum(report.items.values()) == 51 and not report.failures
    return place


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path / "library")
    return tmp_path / "library"


def best(library: Library, query: str) -> str:
    return library.search(query, k=1, min_relevance=0, mode="dense")[0].path.name


def vectors_of(library: Library, key: str) -> int:
    return sum(library.catalog.counts(key)["vectors"].values())


class Recoloured(ToyEmbedder):
    """Another model: its axes are turned by one, so that "red" finds other colours than before. It waits where it is told to."""

    model_key = "recoloured-1"
    must_wait: Callable[[], bool] = staticmethod(lambda: False)

    def encode_documents(self, inputs: Sequence[EmbedInput]) -> np.ndarray:
        until = time.monotonic() + 60
        while self.must_wait() and time.monotonic() < until:
            time.sleep(0.01)
        return np.roll(super().encode_documents(inputs), 1, axis=1)


@pytest.fixture
def recoloured(monkeypatch: pytest.MonkeyPatch) -> type[Recoloured]:
    """The model "recoloured", for this process and those that it forks."""
    import mmsearch.embedders as embedders

    load = embedders.load_embedder

    def load_either(name: object, **options: Any) -> Any:
        return Recoloured() if name == "recoloured" else load(name, **options)

    monkeypatch.setattr(embedders, "load_embedder", load_either)
    monkeypatch.setattr(Recoloured, "must_wait", staticmethod(lambda: False))
    return Recoloured


def switch(place: Path, name: str, **options: object) -> int:
    import typer

    try:
        models.use_command(
            name, place, **{"device": None, "jobs": 1, "beside": False, "dry_run": False, "as_json": False} | options
        )
    except typer.Exit as end:
        return end.exit_code
    return 0


def test_a_killed_switch_goes_on_and_the_old_model_answers_until_it_is_done(
    place: Path, recoloured: type[Recoloured]
) -> None:
    with mmsearch.open(place, store="exact") as library:
        recoloured.must_wait = staticmethod(lambda: vectors_of(library, "recoloured-1") > 0)  # after the first batch
        child = os.fork()
        if not child:
            os._exit(switch(place, "recoloured"))
        until = time.monotonic() + 60
        while not vectors_of(library, "recoloured-1") and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        done = vectors_of(library, "recoloured-1")
        assert 0 < done < 51
        assert library.model_key == "toy-1" and best(library, "blue").startswith("blue")

        embedded: list[int] = []
        recoloured.must_wait = staticmethod(lambda: False)
        encode = recoloured.encode_documents
        recoloured.encode_documents = lambda self, inputs: embedded.append(len(inputs)) or encode(self, inputs)
        try:
            assert switch(place, "recoloured") == 0
        finally:
            recoloured.encode_documents = encode
        assert library.model_key == "recoloured-1"
        assert vectors_of(library, "recoloured-1") == 51 == vectors_of(library, "toy-1")
        assert 51 - done in embedded, "what was saved before the kill was embedded again"
        assert not best(library, "blue").startswith("blue") and library.embedder.model_key == "recoloured-1"

        library.remove_model("toy-1")
        assert set(library.catalog.models.dims()) == {"recoloured-1"} and not (place / "toy-1").exists()
        with pytest.raises(CatalogError, match="answers queries: switch to another model first"):
            library.remove_model("recoloured-1")
        with pytest.raises(CatalogError, match="no vectors of model toy-1"):
            library.remove_model("toy-1")


def test_the_command_with_a_checkpoint(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named by a relative path, from another folder than a query is asked from."""
    random_embedder(page_text_tokens=16).save(tmp_path / "tiny", dtype=torch.float32)
    with monkeypatch.context() as inside:
        inside.chdir(tmp_path)
        done = CliRunner().invoke(app, ["models", "use", "tiny", "--library", str(place), "--jobs", "1"])
    assert (done.exit_code, done.stdout) == (0, ""), done.stderr
    assert "vectors of 51 items, 20 kB beside those of toy" in done.stderr
    assert "49 photos" in done.stderr and "the old vectors stay until: mmsearch models remove toy-1" in done.stderr
    with mmsearch.open(place, store="exact") as library:
        assert library.model.name == str(tmp_path / "tiny")
        hit = library.search("red", k=1, min_relevance=0, mode="dense")[0]
        vector = library.catalog.vectors.of([hit.item.id], library.model_key or "")[1][0]
        query = library.model.encode(Query("red"), [hit.item.kind])[hit.item.kind]
        assert hit.score == pytest.approx(float(vector @ query), abs=1e-5)


def test_no_search_fails_or_mixes_models_while_it_changes_over(place: Path, recoloured: type[Recoloured]) -> None:
    gate = threading.Event()
    recoloured.must_wait = staticmethod(lambda: not gate.is_set())
    answers: list[tuple[str | None, str]] = []
    stop = threading.Event()

    def ask() -> None:
        with mmsearch.open(place, store="exact") as library:
            while not stop.is_set():
                before = library.model_key
                name = best(library, "red")
                time.sleep(0.002)
                if before == library.model_key:
                    answers.append((before, name.rstrip("0123456789.png")))

    asking = threading.Thread(target=ask)
    asking.start()
    switching = threading.Thread(target=switch, args=(place, "recoloured"))
    switching.start()
    while len(answers) < 3 and asking.is_alive():
        time.sleep(0.01)
    assert {key for key, _ in answers} == {"toy-1"}
    gate.set()
    switching.join()
    count, until = len(answers), time.monotonic() + 30
    while len(answers) < count + 5 and asking.is_alive() and time.monotonic() < until:
        time.sleep(0.01)
    stop.set()
    asking.join()
    by_key = {key: {name for other, name in answers if other == key} for key, _ in answers}
    assert by_key["toy-1"] == {"red"} and len(by_key["recoloured-1"]) == 1 and by_key["recoloured-1"] != {"red"}


def test_a_model_that_is_removed_while_it_is_asked_is_named(place: Path, recoloured: type[Recoloured]) -> None:
    assert switch(place, "recoloured") == 0
    with mmsearch.open(place, store="exact") as library:
        former = library.of_model("toy")
        with library.lock():
            library.remove_model("toy-1")
        with pytest.raises(CatalogError, match="holds no vectors of toy-1 any longer"):
            former.search("red")
        assert not (place / "toy-1").exists(), "nothing is left for it"
        assert library.search("red", min_relevance=0)


def test_it_takes_in_nothing_new_and_leaves_out_nothing(
    files: Path,
    tmp_path: Path,
    recoloured: type[Recoloured],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = tmp_path / "files"
    shutil.copytree(files, mine)
    with mmsearch.open(tmp_path / "own", create=True, model="toy", store="exact") as library:
        ingest_paths(library, [mine / "in", mine / "alone.png"], exclude=["**/green*"])
        assert sum(library.item_counts().values()) == 51 - VARIANTS
    Image.new("RGB", (50, 50), "red").save(mine / "in" / "new.png")
    (mine / "in" / "red3.png").unlink()
    samples.photo(mine / "in" / "blue0.png", samples.WHITE)  # changed since
    assert switch(tmp_path / "own", "recoloured", dry_run=True) == 0
    with mmsearch.open(tmp_path / "own") as library:
        assert library.model_key == "toy-1"
    assert switch(tmp_path / "own", "recoloured", beside=True) == 0
    assert "goes on answering" in capsys.readouterr().err
    with mmsearch.open(tmp_path / "own", store="exact") as library:
        assert (library.model_key, vectors_of(library, "recoloured-1")) == ("toy-1", 50 - VARIANTS)
        assert {row.path.name for row in library.catalog.sources.rows()} >= {"alone.png", "blue0.png", "report.pdf"}
        names = {row.path.name for row in library.catalog.sources.rows()}
        assert not names & {"new.png", "red3.png"} and not [name for name in names if name.startswith("green")]

    models.list_command(tmp_path / "own", as_json=True)
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    (old,), (new,) = rows["toy"]["generations"], rows["recoloured"]["generations"]
    assert old == {"model_key": "toy-1", "dim": 64, "active": True, "items": 49 - VARIANTS, "of": 50 - VARIANTS}
    assert (new["active"], new["items"]) == (False, 50 - VARIANTS)
    models.list_command(tmp_path / "own", as_json=False)
    out = capsys.readouterr().out
    assert "* toy" in out and "answers queries (33 of 34 items, toy-1)" in out
    assert "has vectors (34 items, recoloured-1)" in out and "VLM2Vec/VLM2Vec-V2.0" in out and "Uni-Retrieval" in out

    with pytest.raises(
        CatalogError, match=r"toy has no vectors of 1 file yet; make them: mmsearch models use toy --beside"
    ):
        models.compare_command("toy", "recoloured", None, tmp_path / "own")
    assert switch(tmp_path / "own", "toy", beside=True) == 0
    capsys.readouterr()
    compare(tmp_path, capsys)
    overtake_a_search(tmp_path / "own")

    assert switch(tmp_path / "own", "recoloured") == 0
    with mmsearch.open(tmp_path / "own") as library:
        assert library.model_key == "recoloured-1" and library.model.name == "recoloured"
    capsys.readouterr()
    monkeypatch.setenv("MMSEARCH_MODEL", "recoloured")
    assert switch(tmp_path / "own", "toy") == 0  # back, at once
    assert "says 'recoloured': take it out" in capsys.readouterr().err
    monkeypatch.delenv("MMSEARCH_MODEL")
    with mmsearch.open(tmp_path / "own") as library:
        assert library.model_key == "toy-1" and not library.catalog.models.sources_to_embed("toy-1")


def compare(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both models answer from the same library; with judged queries it shows that the turned one finds other colours."""
    relevant = [{"path": f"red{n}.png"} for n in range(VARIANTS) if n != 3]
    judged = [
        {"query": "red", "relevant": relevant},
        {"query": "revenue grew strongly", "relevant": [{"path": "report.pdf"}]},
    ]
    (place / "judged.jsonl").write_text("\n".join(map(json.dumps, judged)))
    models.compare_command("toy", "recoloured-1", place / "judged.jsonl", place / "own", as_json=True)
    record = json.loads(capsys.readouterr().out)
    first, second = record["models"]
    assert (first["model_key"], second["model_key"]) == ("toy-1", "recoloured-1")
    assert first["vector_bytes"] == first["items"] * 64 * 2 and second["items"] == 50 - VARIANTS
    assert first["query_s"] > 0 and set(first["document_s"]) == {"image", "page"}
    agreed = record["agreement"]
    assert agreed["queries"] == 2 and agreed["same_first"] < 1 and 0 <= agreed["overlap"] < 1
    models.compare_command("toy", "recoloured", place / "judged.jsonl", place / "own")
    out = capsys.readouterr().out
    assert "dimensions    64" in out and "hit@1" in out and "of the queries (2, judged)" in out
    models.compare_command("toy", "toy", None, place / "own")
    assert "of their first ten hits 100% are the same, the first hit for 100% of" in capsys.readouterr().out
    with pytest.raises(CatalogError, match=r"make them: mmsearch models use mini --beside"):
        models.compare_command("toy", "mini", None, place / "own")


def overtake_a_search(place: Path) -> None:
    """The change-over between the encoding of a query and its look-up: the query is encoded again, by the model that answers."""
    with mmsearch.open(place, store="exact") as library:
        encode, answering = library.model.encode, []

        def overtaken(query: Query, kinds: Sequence[Kind]) -> dict[Kind, np.ndarray]:
            found = encode(query, kinds)
            answering.append(library.model_key)
            library.catalog.models.activate("recoloured-1")
            return found

        library.model.encode = overtaken
        hit = library.search("red", k=1, min_relevance=0, mode="dense")[0]
        assert answering == ["toy-1", "recoloured-1"]
        vector = library.catalog.vectors.of([hit.item.id], "recoloured-1")[1][0]
        query = encode(Query(text="red"), [hit.item.kind])[hit.item.kind]
        assert hit.score == pytest.approx(float(vector @ query), abs=1e-5)

        library.catalog.models.activate("toy-1")
        (red,) = [item for item in library.catalog.items.first(["image"], limit=99) if item.path.name == "red1.png"]
        near = library.search(like=red.id, k=1, min_relevance=0)[0]
        assert near.path.name.startswith("red")
        library.catalog.models.activate("toy-1")


def test_an_empty_library_is_told_how_to_begin(tmp_path: Path) -> None:
    with mmsearch.open(tmp_path / "empty", create=True, model="toy"):
        pass
    with pytest.raises(EmbedderError, match="mmsearch ingest FOLDER --model toy"):
        switch(tmp_path / "empty", "toy")
