"""The development numbers: metrics against arithmetic, and what is asked of which pool."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmsearch.embedders.toy import ToyEmbedder
from mmsearch.errors import ConfigError, DatasetError, MissingExtra
from mmsearch.evaluation import ocr, targets
from mmsearch.evaluation.development import PARTS, Evaluation, evaluate, obeyed, within
from mmsearch.evaluation.encoded import LITTLE_TEXT_CHARS, Encoded, scale_of
from mmsearch.evaluation.metrics import (
    Measured,
    chance,
    intervals_of,
    known_item_metrics,
    mean_average_precision,
    measure,
    ranks,
    right_ranks,
    truncated,
)
from mmsearch.evaluation.report import Report, Table, table_markdown
from mmsearch.evaluation.split import (
    ComposedQuery,
    KindQuery,
    Split,
    change,
    composed_queries,
    kind_queries,
    load_natural_queries,
)
from mmsearch.evaluation.targets import BM25, DENSE, FUSED, MINILM, MINILM_BM25, OCR, OURS, PICTURE, RANK_FUSED
from mmsearch.training.prepare import PageRecord
from mmsearch.training.sources import TarMember, is_development

METRICS = ("R@1", "R@5", "R@10", "nDCG@5", "MRR")
DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the development material is not beside this checkout")


# ---- metrics


def test_ranks_count_ties_against_the_right_answer():
    scores = np.array([[0.9, 0.5, 0.1], [0.5, 0.5, 0.1]])
    assert ranks(scores, [0, 1]).tolist() == [1, 2]
    assert [found.tolist() for found in right_ranks(scores, [0, 1])] == [[1], [2]]


def test_ranks_of_several_right_answers():
    scores = np.array([[0.9, 0.5, 0.7, 0.5, 0.1]])
    assert right_ranks(scores, [[1, 2]])[0].tolist() == [2, 4], "0.7 is second; 0.5 ties with a wrong one"
    assert right_ranks(scores, [[4, 0]])[0].tolist() == [1, 5]


def test_known_item_metrics():
    found = known_item_metrics(np.array([1, 3, 6, 11]))
    assert found["R@1"] == 0.25
    assert found["R@5"] == 0.5
    assert found["R@10"] == 0.75
    assert found["nDCG@5"] == pytest.approx((1 + 1 / np.log2(4)) / 4)
    assert found["MRR"] == pytest.approx((1 + 1 / 3 + 1 / 6 + 1 / 11) / 4)


def test_ndcg_of_two_right_answers_is_one_only_if_both_lead():
    best = measure(np.array([[0.9, 0.8, 0.1]]), [[0, 1]])
    assert best["nDCG@5"] == 1
    second = measure(np.array([[0.9, 0.1, 0.8]]), [[0, 1]])
    assert second["nDCG@5"] == pytest.approx((1 + 1 / np.log2(4)) / (1 + 1 / np.log2(3)))
    assert second["R@1"] == 1, "one of them is enough"


def test_intervals_hold_the_mean_and_shrink_with_more_queries():
    few, many = (intervals_of({"x": np.tile([0.0, 1.0], n)})["x"] for n in (10, 1000))
    assert few[0] < 0.5 < few[1] and few[0] < many[0] < 0.5 < many[1] < few[1]
    assert many[1] - many[0] == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 2000), rel=0.15)


def test_intervals_of_groups_are_those_of_as_many_single_queries():
    """Five captions that stand or fall together say no more than one."""
    values = np.tile([0.0, 1.0], 50)
    single = intervals_of({"x": values})["x"]
    grouped = intervals_of({"x": np.repeat(values, 5)}, np.repeat(np.arange(100), 5))["x"]
    assert grouped == pytest.approx(single)


def test_mean_average_precision_of_a_perfect_and_a_mixed_order():
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    assert mean_average_precision(vectors, ["a", "a", "b", "b"])["mAP"] == 1
    # a's partner comes second to b, b has no partner
    mixed = np.array([[1, 0], [0.6, 0.8], [0.8, 0.6]], np.float32)
    assert mean_average_precision(mixed, ["a", "a", "b"])["mAP"] == pytest.approx(0.5)


def test_truncated_vectors_have_unit_length():
    assert truncated(np.array([[0.6, 0.0, 0.8], [0.0, 0.5, 0.5]], np.float32), 2).tolist() == [[1, 0], [0, 1]]


def test_chance_in_a_pool_of_twenty():
    assert chance(20)["R@10"] == 0.5 and chance(20)["R@1"] == 0.05


def test_a_scale_tells_where_right_answers_lie_and_how_often_they_win():
    scores = np.array([[0.9, 0.1, 0.2, 0.0], [0.1, 0.3, 0.2, 0.0], [0.5, 0.4, 0.3, 0.2]])
    scale = scale_of(scores, [0, 1, 3])
    assert scale.middle == pytest.approx(0.15) and scale.low < scale.middle
    assert scale.reliability == pytest.approx(1 - 2 * (0 + 0 + 1) / 3, abs=1e-4)


# ---- what is asked


def test_natural_queries_are_well_formed_and_different():
    queries = load_natural_queries()
    assert len(queries) >= 150 and len({query.query for query in queries}) == len(queries)
    assert {query.style for query in queries} == {"question", "topic", "figure", "table", "code"}
    for query in queries:
        assert is_development(query.pdf), f"{query.pdf} is for training"
        assert list(query.pages) == sorted(set(query.pages)) and query.pages[0] >= 1


@needs_data
def test_the_pages_of_natural_queries_exist():
    rows = (json.loads(line) for line in (DATA / "pdf" / "pdf-00.jsonl").read_text("utf-8").splitlines())
    page_count = {row["file"]: row["pages"] for row in rows}
    for query in load_natural_queries():
        assert query.pages[-1] <= page_count[query.pdf], query


def test_a_bad_natural_query_is_named(tmp_path):
    file = tmp_path / "queries.jsonl"
    good = {"query": "a", "pdf": "b.pdf", "pages": [1], "style": "topic"}
    for bad in ({**good, "pages": []}, {**good, "query": " "}, {"query": "a"}):
        file.write_text(json.dumps(good) + "\n" + json.dumps(bad) + "\n")
        with pytest.raises(DatasetError, match=r"queries\.jsonl, line 2"):
            load_natural_queries(file)


def test_a_pool_of_some_pages_keeps_the_queries_that_it_answers():
    kept = np.array([True, False, True, False])
    assert within(kept, [[0], [1], [2, 3], [2]]) == ([0, 2, 3], [[0], [1], [1]])


def test_slides_and_papers_are_told_by_shape_and_words(tmp_path):
    split: Any = Split(tmp_path, tmp_path)
    split.pages = [
        _page(tmp_path, "deck.pdf", (40, 30), 20), _page(tmp_path, "deck.pdf", (40, 30), 40),
        _page(tmp_path, "paper.pdf", (30, 40), 400), _page(tmp_path, "form.pdf", (40, 30), 300),
        _page(tmp_path, "poster.pdf", (30, 40), 10),
    ]  # fmt: skip
    assert split.is_slide.tolist() == [True, True, False, False, False]
    assert split.is_paper.tolist() == [False, False, True, False, False]


def _page(folder: Path, name: str, size: tuple[int, int], words: int) -> PageRecord:
    from PIL import Image

    file = folder / f"{name}-{words}.png"
    Image.new("RGB", size).save(file)
    return PageRecord(name, 1, "word " * words, "", TarMember(file, 0, file.stat().st_size))


def test_kind_queries_ask_for_every_kind_about_every_kind():
    texts = {
        "page": ["revenue", "staff", "risk"],
        "image": ["a dog", "a cat", "a car"],
        "clip": ["a game", "a ball", "a run"],
    }
    queries = kind_queries(texts, 26)
    assert len(queries) == len({(q.text, q.wanted) for q in queries}) == 26
    assert Counter(q.of for q in queries) == {"page": 9, "image": 9, "clip": 8}
    assert Counter(q.wanted for q in queries).most_common()[-1][1] >= 8
    assert all(q.text in texts[q.of] for q in queries)


def test_composed_queries_differ_in_one_thing():
    captions = [
        ("A brown dog runs through the grass", 0), ("A puppy outside", 0),
        ("A brown dog runs through the snow", 1), ("A girl in a red hat smiles", 2), ("A girl smiles", 3),
    ]  # fmt: skip
    alike = np.full((5, 5), 0.9)
    alike[2, 0] = 0.1  # not alike enough, in one direction
    assert composed_queries(captions, alike) == [
        ComposedQuery(0, "the same with snow, without grass", 1),
        ComposedQuery(2, "the same without red and hat", 3),
        ComposedQuery(3, "the same with red and hat", 2),
    ]


def test_words_for_a_change():
    assert change(["hat"], []) == "the same with hat"
    assert change([], ["snow", "trees"]) == "the same without snow and trees"


def test_an_instruction_is_obeyed_if_the_first_hit_is_of_its_kind():
    kind_of = np.array(["page", "image", "clip"])
    queries = [KindQuery("a", "page", "page"), KindQuery("b", "page", "image"), KindQuery("c", "clip", "clip")]
    found = obeyed(np.array([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0], [0.1, 0.2, 0.9]]), kind_of, queries)
    assert found["first hit of that kind"] == pytest.approx(2 / 3)
    assert (found["text of that kind"], found["text of another kind"]) == (1, 0)
    assert (found["page wanted"], found["image wanted"], found["clip wanted"]) == (1, 0, 1)


# ---- Tesseract


def test_what_tesseract_read_is_read_once(tmp_path, monkeypatch):
    pages = [PageRecord("a.pdf", number, "", "", TarMember(tmp_path, 0, 0)) for number in (1, 2)]
    cache = tmp_path / "tesseract.jsonl"
    cache.write_text('{"pdf": "a.pdf", "page": 1, "text": "one"}\n{"pdf": "a.pdf", "page": 2, "te')
    monkeypatch.setattr(ocr.shutil, "which", lambda name: None)
    with pytest.raises(MissingExtra, match="tesseract-ocr"):
        ocr.read_pages(pages, tmp_path, cache)
    assert ocr.read_pages(pages[:1], tmp_path, cache) == ["one"], "an interrupted line is dropped, the rest stays"

    class File:
        name = "a.pdf"
        member = TarMember(cache, 0, 0)

    monkeypatch.setattr(ocr.shutil, "which", lambda name: "/usr/bin/tesseract")
    monkeypatch.setattr(ocr, "load_files", lambda data, kind: [File])
    monkeypatch.setattr(ocr, "_page_png", lambda pdf, number: bytes([number]))
    monkeypatch.setattr(ocr, "_tesseract", lambda png: f"page {png[0]}")
    assert ocr.read_pages(pages, tmp_path, cache) == ["one", "page 2"]
    monkeypatch.setattr(ocr, "_tesseract", lambda png: pytest.fail("read again"))
    assert ocr.read_pages(pages, tmp_path, cache) == ["one", "page 2"]


# ---- tables and targets


def of(**systems: dict[str, float]) -> dict[str, Measured]:
    return {name: Measured(metrics) for name, metrics in systems.items()}


def test_a_table_shows_intervals_where_there_are_some():
    table = Table("task", {"ours": Measured({"R@1": 0.5, "R@5": 0.75}, {"R@1": (0.4, 0.6)})}, "a note")
    assert table_markdown(table).splitlines() == [
        "**task**", "", "| system | R@1 | R@5 |", "|---|---|---|", "| ours | 0.500 (0.400–0.600) | 0.750 |", "", "a note",
    ]  # fmt: skip


def test_targets_are_judged_and_what_was_not_measured_is_not():
    pages = {
        system: Measured({"nDCG@5": value})
        for system, value in {
            DENSE: 0.70, FUSED: 0.94, RANK_FUSED: 0.9, PICTURE: 0.5, MINILM: 0.69, MINILM_BM25: 0.8, BM25: 0.9, OCR: 0.6,
        }.items()
    }  # fmt: skip
    tables = {
        "pages, words, all": Table("", pages),
        "pages, words, slides": Table("", pages),
        "text -> clip": Table("", {OURS: Measured({"R@10": 0.6}), "chance": Measured({"R@10": 0.2})}),
        "question -> passage": Table("", {OURS: Measured({"R@10": 0.9})}),  # the teacher was left out
        "speed": Table("", of(**{OURS: {"page": 15.0, "photo": 8.0}, "first version": {"page": 10.0, "photo": 5.0}})),
        "composed": Table("", of(**{"photo + words": {"R@10": 0.4}, "photo": {"R@10": 0.3}, "words": {"R@10": 0.4}})),
    }
    judged = {target.what: target.is_met for target in targets.targets(tables)}
    assert judged == {
        "text -> page, picture + text, dense, words of the page: nDCG@5": True,
        "the same, dense and words fused, words of the page: nDCG@5": False,
        "text -> page, picture alone, all pages, words of the page: nDCG@5": True,
        "the same: beat Tesseract + BM25, all pages, words of the page": False,
        "text -> page, picture alone, slides, words of the page: nDCG@5": False,
        "the same: beat Tesseract + BM25, slides, words of the page": False,
        "text -> clip: R@10": True,
        'photo + "the same with / without …": R@10': False,
        "time per page, beside the first version": True,
        "time per photo, beside the first version": False,
    }
    report = Report(tables, targets.targets(tables), ["composed (no teacher)"])
    assert "| met |" in report.markdown() and "Not measured: composed (no teacher)" in report.markdown()
    assert json.loads(json.dumps(report.record()))["tables"]["text -> clip"]["systems"]["ours"]["metrics"] == {
        "R@10": 0.6
    }


def test_unknown_parts_are_refused():
    with pytest.raises(ConfigError, match=r"sound.*known: pages"):
        evaluate(Evaluation("toy", None), ["sound"])  # type: ignore[arg-type]
    assert list(PARTS) == ["pages", "photos", "clips", "passages", "instructions", "composed", "matryoshka", "speed"]


def test_pages_with_little_text_are_those_of_the_catalog():
    from mmsearch import catalog

    assert catalog.LITTLE_TEXT_CHARS == LITTLE_TEXT_CHARS


# ---- the whole, with a model so simple that the answers are known


class Words:
    """A text teacher that counts words."""

    def vectors(self, texts):
        known = sorted({word for text in COLOUR_CAPTIONS for word in text.split()})
        counts = np.array([[1e-3 + (word in text.split()) for word in known] for text in texts], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    def scores(self, queries, texts):
        return self.vectors(queries) @ self.vectors(texts).T


COLOUR_CAPTIONS = ("a red flat picture here", "a green flat picture here", "a blue flat picture here")
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture
def colour_split(tmp_path) -> Split:
    """Three photos, pages and clips in three colours; the pages say so, and the clips' frames lie side by side."""
    from PIL import Image

    from mmsearch.training.prepare import ClipRecord
    from mmsearch.training.sources import PhotoRecord

    split: Any = Split(tmp_path, tmp_path)
    split.pages, split.photos, split.labelled_photos, split.clips = [], [], [], []
    for (colour, rgb), caption in zip(COLOURS.items(), COLOUR_CAPTIONS, strict=True):
        file = tmp_path / f"{colour}.png"
        Image.new("RGB", (32, 16), rgb).save(file)
        member = TarMember(file, 0, file.stat().st_size)
        split.pages.append(PageRecord(f"{colour}.pdf", 1, f"{colour} report\n" + f"{colour} words " * 20, "", member))
        photo = PhotoRecord(colour, "flickr8k", member, (caption,), "plain", "", "", "")
        split.photos.append(photo)
        split.labelled_photos += [dataclasses.replace(photo, name=f"{colour}{n}", label=colour) for n in (1, 2)]
        split.clips.append(ClipRecord(colour, (caption,), "", member))
    split.natural_queries = [("red", [0]), ("something green or blue", [1, 2])]
    split.questions = (["is it red"], ["it is red", "it is green"], [0])
    return split


def test_every_part_is_measured(colour_split: Split) -> None:
    evaluation: Any = Evaluation("toy", Encoded(ToyEmbedder(), colour_split))
    evaluation.teacher, evaluation.read_by_tesseract = Words(), [page.text for page in colour_split.pages]
    report = evaluate(evaluation, [part for part in PARTS if part != "speed"])

    tables = report.tables
    assert tables["caption -> photo"].systems[OURS].metrics == pytest.approx(dict.fromkeys(METRICS, 1.0))
    assert tables["text -> clip"].systems[OURS]["R@1"] == tables["photo -> caption"].systems[OURS]["R@1"] == 1
    assert tables["photo -> photo"].systems[OURS]["mAP"] == 1
    assert tables["question -> passage"].systems[OURS]["R@1"] == 1
    everything = {DENSE, FUSED, RANK_FUSED, PICTURE, MINILM, MINILM_BM25, BM25, OCR}
    for asked in ("words", "natural"):
        assert set(tables[f"pages, {asked}, all"].systems) == everything
        assert tables[f"pages, {asked}, all"].systems[PICTURE]["nDCG@5"] == 1, "the colour is the answer"
        assert f"pages, {asked}, papers" not in tables, "there are none"
    composed = tables["composed"].systems
    assert "(6 pairs" in tables["composed"].title
    assert composed["photo + words"]["R@1"] == 1 and composed["words alone"]["R@1"] == 1
    assert set(tables["matryoshka"].systems) == {"64 dimensions"}
    assert len(report.targets) > 10 and not report.left_out


def test_quick_leaves_the_slow_baselines_out(colour_split: Split) -> None:
    report = evaluate(Evaluation("toy", Encoded(ToyEmbedder(), colour_split), is_quick=True), ["pages"])
    assert set(report.tables["pages, words, all"].systems) == {DENSE, FUSED, RANK_FUSED, PICTURE, BM25}


def test_a_missing_baseline_is_told(colour_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr.shutil, "which", lambda name: None)
    evaluation: Any = Evaluation("toy", Encoded(ToyEmbedder(), colour_split))
    evaluation.teacher = Words()
    report = evaluate(evaluation, ["pages"])
    assert report.left_out == [f"{OCR} (Tesseract is not installed: apt-get install tesseract-ocr)"]
    assert MINILM in report.tables["pages, words, all"].systems


def test_the_model_card_shows_targets_tables_and_licences(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmsearch.training import ship
    from mmsearch.training.recipe import load_recipe

    monkeypatch.setattr(ship, "licences", lambda data: [("photos/some", 7, "CC BY 4.0")])
    tables = {"text -> clip": Table("text -> clip (9)", of(**{OURS: {"R@10": 0.5}, "chance": {"R@10": 0.2}}))}
    card = ship.model_card(load_recipe("mini"), ToyEmbedder(), Report(tables, targets.targets(tables)), DATA)
    assert "| text -> clip: R@10 | ≥ 0.600 | 0.500 | **missed** | chance 0.200 |" in card
    assert "**text -> clip (9)**" in card and "| photos/some | 7 | CC BY 4.0 |" in card
    assert "64 dimensions" in card and "page 50,176" in card
