"""A library whose model gives each item many vectors: from files to answers, with a toy of tiles and with a tiny ColPali."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import mmsearch.embedders
import mmsearch.library
from ingest import pipeline
from ingest.pipeline import ingest_paths
from mmsearch import cli
from mmsearch.catalog.vectors import checked_items
from mmsearch.embedders.families.toy import ToyEmbedder
from mmsearch.errors import CatalogError
from mmsearch.items import EmbedInput, Hit
from mmsearch.library import Library
from mmsearch.search import Hits, more_like
from mmsearch.vectors.maxsim import MaxSimStore, exact_score
from tests import samples
from tests.tiny_late_interaction import save_colpali


class TiledToy(ToyEmbedder):
    """The toy's vector of every word, and of every quarter of every picture."""

    model_key = "tiled-toy-1"
    is_multi_vector = True

    def _encode(self, inputs: Sequence[EmbedInput]) -> list[np.ndarray]:  # type: ignore[override]
        return [super(TiledToy, self)._encode(list(map(self._part, self._parts(item)))) for item in inputs]

    def _parts(self, item: EmbedInput) -> list[str | Image.Image]:
        quarters: list[str | Image.Image] = []
        for image in item.images:
            width, height = image.size
            for left in (0, width // 2):
                for upper in (0, height // 2):
                    quarters.append(image.crop((left, upper, left + width // 2, upper + height // 2)))
        return [*quarters, *item.text.split()] or ["nothing"]

    def _part(self, part: str | Image.Image) -> EmbedInput:
        return EmbedInput("", text=part) if isinstance(part, str) else EmbedInput("", images=(part,))


def with_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make "tiled" a model."""
    load = mmsearch.embedders.load_embedder
    monkeypatch.setattr(
        mmsearch.embedders,
        "load_embedder",
        lambda name="mini", **options: TiledToy() if str(name) == "tiled" else load(name, **options),
    )


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("MODEL", "LIBRARY", "STORE", "DEVICE"):
        monkeypatch.delenv(f"MMSEARCH_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with_tiles(monkeypatch)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flags of two halves, a plain picture and a document of two pages in `data`; a library of them in `library`."""
    place = tmp_path_factory.mktemp("made")
    data = place / "data"
    data.mkdir()
    halves = {"rb": (samples.RED, samples.BLUE), "rg": (samples.RED, samples.GREEN), "rr": (samples.RED, samples.RED)}
    for name, (left, right) in halves.items():
        flag = Image.new("RGB", (320, 240), left)
        flag.paste(right, (160, 0, 320, 240))
        flag.save(data / f"{name}.png")
    samples.photo(data / "plain.png", samples.RED, (200, 200))
    samples.pdf(data / "report.pdf", ["revenue grew strongly", "costs fell"])
    with pytest.MonkeyPatch.context() as patch:
        with_tiles(patch)
        with opened(place) as library:
            report = ingest_paths(library, [data])
        assert report.items["image"] == 4 and report.items["page"] == 2 and not report.failures
    return place


@pytest.fixture
def library(made: Path) -> Iterator[Library]:
    with opened(made, read_only=True) as library:
        yield library


def opened(place: Path, model: str = "tiled", *, read_only: bool = False) -> Library:
    return mmsearch.library.open(place / "library", create=not read_only, read_only=read_only, model=model)


def names(hits: Sequence[Hit]) -> list[str]:
    return [hit.path.name for hit in hits]


def dense(library: Library, words: str, **terms: object) -> Hits:
    return library.search(words, min_relevance=0, mode="dense", **terms)  # type: ignore[arg-type]


def test_from_files_to_answers(library: Library, made: Path) -> None:
    assert library.model_key == "tiled-toy-1" and library.catalog.models.is_multi_vector("tiled-toy-1")
    assert isinstance(library.stores.of("image"), MaxSimStore)
    assert names(dense(library, "red blue", kinds=["image"]))[0] == "rb.png"
    assert names(dense(library, "green red", kinds=["image"]))[0] == "rg.png"
    (hit,) = library.search("costs", k=1, kinds=["page"], min_relevance=0)
    assert hit.item.page_number == 2 and set(hit.matched_by) == {"dense", "text"}
    by_picture = library.search(image=made / "data" / "rg.png", kinds=["image"], min_relevance=0)
    assert names(by_picture)[0] == "rg.png"
    assert all(0 <= hit.relevance <= 1 for hit in by_picture)


def test_a_score_is_maxsim_of_what_the_catalog_holds(library: Library) -> None:
    hits = dense(library, "red blue", kinds=["image"])
    assert len(hits) == 4
    (query,) = TiledToy().encode_queries([EmbedInput("", text="red blue")])
    ids, items = library.catalog.vectors.of([hit.item.id for hit in hits], "tiled-toy-1")
    assert [tokens.shape for tokens in items] == [(4, 64)] * 4
    stored = dict(zip(ids.tolist(), items, strict=True))
    scores = [float(hit.score or 0) for hit in hits]
    np.testing.assert_allclose(scores, [exact_score(stored[hit.item.id], query) for hit in hits], atol=1e-3)
    assert scores == sorted(scores, reverse=True)


def test_more_like_this(library: Library) -> None:
    plain = dense(library, "red", kinds=["image"], path="*plain.png")[0].item
    assert names(more_like(library, plain.id, min_relevance=0))[0] == "rr.png"
    page = library.search("costs", kinds=["page"], min_relevance=0)[0].item
    assert len(more_like(library, page.id, kinds=["image"], min_relevance=0)) == 4


def test_calibration_comes_from_the_catalog(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the generic queries are stored")

    monkeypatch.setattr(TiledToy, "encode_queries", refuse)
    sample, prior = library.calibration.background("image", is_text=True)
    assert isinstance(sample, list) and len(sample) == 4
    (every,) = [TiledToy()._encode([EmbedInput("", text=words)])[0] for words in ["a dog running on grass"]]
    assert -1 <= prior.centre <= float(np.max([exact_score(tokens, every) for tokens in sample]))
    _, of_items = library.calibration.background("image", is_text=False)
    assert of_items.centre > prior.centre, "flags are more like each other than like words"


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A library of one's own over the same files."""
    shutil.copytree(made / "library", tmp_path / "library")
    return tmp_path


def test_the_store_is_only_a_cache(copy: Path) -> None:
    with opened(copy, read_only=True) as library:
        want = [(hit.path.name, hit.score) for hit in library.search("red green", min_relevance=0)]
    place = copy / "library" / "tiled-toy-1"
    assert {"image.json", "image.rows-1", "image.tokens-1", "page.json"} <= {file.name for file in place.iterdir()}
    for damage in (lambda file: file.write_bytes(b"odd"), lambda file: file.unlink()):
        for file in place.glob("image.*"):
            damage(file)
        with opened(copy, read_only=True) as library:
            assert [(hit.path.name, hit.score) for hit in library.search("red green", min_relevance=0)] == want


def test_what_is_removed_is_not_found(copy: Path) -> None:
    with opened(copy) as library, library.lock():
        gone = dense(library, "red blue", kinds=["image"])[0].item
        library.catalog.sources.retire([gone.source_id])
        library.sync_vectors()
        assert gone.id not in [hit.item.id for hit in dense(library, "red blue", kinds=["image"])]
        library.compact()
        assert len(library.stores.of("image")) == 3
    with opened(copy, read_only=True) as library:
        assert len(library.stores.of("image")) == 3


def test_from_one_vector_to_many(made: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(made / "data", data)
    for model, key in (("toy", "toy-1"), ("tiled", "tiled-toy-1")):
        with opened(tmp_path, model) as library:
            assert not ingest_paths(library, [data]).failures
            assert library.model_key == key
            assert library.catalog.models.is_multi_vector(key) is (model == "tiled")
    with opened(tmp_path, read_only=True) as library:
        assert names(dense(library, "red blue", kinds=["image"]))[0] == "rb.png"
        assert set(library.catalog.models.dims()) == {"toy-1", "tiled-toy-1"}


def test_a_model_keeps_its_number_of_vectors(copy: Path) -> None:
    with opened(copy) as library, pytest.raises(CatalogError, match="have many vectors each here"):
        library.catalog.models.register("tiled-toy-1", 64)


def test_odd_outputs_are_not_stored() -> None:
    good = np.eye(2, dtype=np.float32)
    assert len(pipeline.checked([good, good[:1]], 2)) == 2
    for odd, reason in (([good], "2 inputs gave 1 times"), ([good, good * 2], "unit length")):
        with pytest.raises(ValueError, match=reason):
            pipeline.checked(odd, 2)
    for odd, reason in (([good, good[0]], "of shapes"), ([good[:0]], "of shapes"), ([good * 2], "has length 2")):
        with pytest.raises(ValueError, match=reason):
            checked_items(odd)


def test_a_tiny_colpali_by_the_command_line(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_colpali(tmp_path / "colpali")
    monkeypatch.setenv("MMSEARCH_LIBRARY", str(tmp_path / "library"))

    def run(*arguments: str) -> list[dict[str, Any]]:
        done = CliRunner().invoke(cli.app, [*arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    run("ingest", str(made / "data"), "--model", str(model), "--device", "cpu")
    found = run("query", "costs fell", "--format", "jsonl", "--min-relevance", "0")
    assert len(found) == 6 and found[0]["page"] == 2, "words and meaning together"
    assert all(-1 <= hit["score"] <= 1 for hit in found)
    with mmsearch.library.open(tmp_path / "library", read_only=True) as library:
        key = library.model_key or ""
        assert key.startswith("colpali-") and library.catalog.models.is_multi_vector(key)
        (tokens,) = library.catalog.vectors.of([found[0]["id"]], key)[1]
        assert tokens.shape == (4 + len("BDescribe the image.\n"), 8), "patches, then <bos> and the prompt"
        assert [hit.item.page_number for hit in more_like(library, found[0]["id"], min_relevance=0)] == [1]
