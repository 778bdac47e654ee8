"""The development numbers: metrics against arithmetic, and what is asked of which pool."""

from __future__ import annotations

import dataclasses
import json
import re
import sqlite3
import types
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmsearch.embedders.families.toy import ToyEmbedder
from mmsearch.errors import ConfigError, DatasetError, MissingExtra
from mmsearch.evaluation import encoded, ocr, targets
from mmsearch.evaluation.development import (
    PARTS,
    Evaluation,
    evaluate,
    obeyed,
    read_costs,
    shown_right,
    silence,
    within,
)
from mmsearch.evaluation.encoded import LITTLE_TEXT_CHARS, Encoded, MultilingualE5, scale_of
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
from mmsearch.evaluation.queries import (
    PARAPHRASES,
    UnanswerableQuery,
    load_natural_queries,
    load_translated_queries,
    load_unanswerable_queries,
)
from mmsearch.evaluation.report import Report, Table, table_markdown
from mmsearch.evaluation.split import (
    ComposedQuery,
    KindQuery,
    Split,
    change,
    composed_queries,
    kind_queries,
    moving_clips,
    translated_captions,
)
from mmsearch.evaluation.targets import (
    BM25,
    DENSE,
    E5,
    EVERY,
    FUSED,
    MINILM,
    MINILM_BM25,
    OBEYED,
    OBEYED_SERVED,
    OCR,
    OTHERS,
    OURS,
    PICTURE,
    RANK_FUSED,
    SHOWN,
    SILENT,
)
from mmsearch.ranking.terms import STOP_WORDS
from mmsearch.training.datasets.rendered_material import PageRecord
from mmsearch.training.datasets.shared_material import TarMember, is_development, load_files

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
def test_the_pages_of_queries_exist():
    rows = (json.loads(line) for line in (DATA / "pdf" / "pdf-00.jsonl").read_text("utf-8").splitlines())
    page_count = {row["file"]: row["pages"] for row in rows}
    for query in load_natural_queries() + load_natural_queries(PARAPHRASES):
        assert query.pages[-1] <= page_count[query.pdf], query


def test_paraphrases_are_well_formed_and_different():
    queries = load_natural_queries(PARAPHRASES)
    assert len(queries) == 60 == len({query.query for query in queries})
    assert {query.style for query in queries} == {"paraphrase"}
    assert len({query.pdf for query in queries}) >= 15
    assert not {query.query for query in queries} & {query.query for query in load_natural_queries()}
    for query in queries:
        assert is_development(query.pdf), f"{query.pdf} is for training"
        assert list(query.pages) == sorted(set(query.pages)) and query.pages[0] >= 1


@needs_data
def test_a_paraphrase_shares_no_content_word_with_its_pages():
    import pymupdf

    files = {record.name: record for record in load_files(DATA, "pdf")}
    for query in load_natural_queries(PARAPHRASES):
        with pymupdf.open(stream=files[query.pdf].member.read(), filetype="pdf") as document:
            for number in query.pages:
                shared = shared_words(query.query, document[number - 1].get_text())
                assert not shared, f"{query.query!r} and page {number} of {query.pdf} share {shared}"


@pytest.mark.parametrize(
    ("query", "text", "shared"),
    [
        ("counting the arguments", "It counts what is there", {"counting"}),
        ("a meteorologist", "weather for meteorologists", {"meteorologist"}),
        ("settings of the model", "Model-\nling what was set", {"settings", "model"}),
        ("what a speciﬁc case", "speci\u00adfic or specific", {"specific"}),
        ("halt when something changes", "stop on write", set()),
    ],
)
def test_words_are_shared_in_any_form(query: str, text: str, shared: set[str]):
    assert shared_words(query, text) == shared


def shared_words(query: str, text: str) -> set[str]:
    """Content words of the query that stand in the text, by Porter's stem or by their first five letters."""
    asked, there = stems_of(query), stems_of(text)
    starts = {word[:5] for word in there if len(word) >= 5}
    found = set(there.values())
    return {word for word, stem in asked.items() if stem in found or (len(word) >= 5 and word[:5] in starts)}


def stems_of(text: str) -> dict[str, str]:
    """Content words with their stems; words that a line's end cuts in two, or that are written in camelCase, in both forms."""
    text = unicodedata.normalize("NFKC", text)
    forms = (text, re.sub(r"-\s+", "", text), re.sub(r"([a-z])([A-Z])", r"\1 \2", text))
    words = {word for form in forms for word in re.findall(r"[a-z]+", form.lower()) if len(word) > 2} - STOP_WORDS
    numbered = sorted(words)
    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE VIRTUAL TABLE words USING fts5(word, tokenize='porter unicode61')")
        database.execute("CREATE VIRTUAL TABLE stems USING fts5vocab(words, 'instance')")
        database.executemany("INSERT INTO words(rowid, word) VALUES (?, ?)", enumerate(numbered))
        return {numbered[row]: stem for stem, row in database.execute("SELECT term, doc FROM stems")}


def test_translated_queries_are_the_same_forty_questions_in_every_language():
    queries = load_translated_queries()
    pdf_of = {query.query: query.pdf for query in load_natural_queries()}
    by_language: dict[str, list[str]] = {}
    for query in queries:
        assert query.query != query.query_en
        by_language.setdefault(query.language, []).append(query.query_en)
    assert list(by_language) == ["de", "fr", "es", "it", "pt", "pl", "zh"]
    english = by_language["de"]
    assert len(english) == 40 == len(set(english)) and all(asked == english for asked in by_language.values())
    assert len({pdf_of[asked] for asked in english}) >= 15, "a spread of documents"
    assert len({query.query for query in queries}) == len(queries)
    assert all(re.search(r"[\u4e00-\u9fff]", query.query) for query in queries if query.language == "zh")


def test_unanswerable_queries_are_of_many_sorts():
    queries = load_unanswerable_queries()
    assert len(queries) == 200 == len({query.query for query in queries})
    assert Counter(query.sort for query in queries) == {
        "nonsense": 30, "characters": 25, "stop words": 20, "impossible scene": 30,
        "other topic": 45, "other language": 30, "code": 20,
    }  # fmt: skip
    for query in queries:
        if query.sort == "characters":
            assert not re.search(r"\w", query.query), query


@needs_data
def test_captions_in_other_languages_are_those_of_photos():
    name, words = next(translated_captions(DATA))
    assert name.endswith(".jpg") and set(words) == {"en", "de", "fr", "cs"} and all(words.values())


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


def test_every_photo_is_in_one_moving_clip():
    clips = moving_clips(10)
    assert [len(clip.photos) for clip in clips] == [1, 1, 2, 1, 1, 2, 1, 1]
    assert sorted(row for clip in clips for row in clip.photos) == list(range(10))
    assert clips == moving_clips(10)


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


def test_silence_and_what_is_shown():
    assert silence(np.array([True, True, True, False]))[SILENT] == 0.75
    found = shown_right(np.array([True, True, False, False]), np.array([True, False, True, True]))
    assert found.metrics == {"right one first": 0.5, SHOWN: 0.5, "something is shown": 0.75}
    assert SHOWN not in shown_right(np.array([False]), np.array([True])).metrics, "there is nothing to keep"


def test_costs_are_read_and_judged():
    assert read_costs("pages=12.5, memory_gb=1.6") == {"pages": 12.5, "memory_gb": 1.6}
    for words, message in (("pages=many", "NAME=NUMBER"), ("seconds=3", r"seconds.*known: pages")):
        with pytest.raises(ConfigError, match=message):
            read_costs(words)
    judged = targets.targets({}, {"pages": 12.5, "memory_gb": 1.6})
    assert [(target.reached, target.is_met) for target in judged] == [
        ("12.5", True), ("", None), ("", None), ("1.6", False),
    ]  # fmt: skip
    assert "| not measured |" in Report({}, judged).markdown()


def test_targets_are_judged_and_what_was_not_measured_is_not():
    asked = {system: {"nDCG@5": value} for system, value in {DENSE: 0.55, FUSED: 0.55, MINILM: 0.4, BM25: 0.3}.items()}
    share = f"{FUSED}, of English"
    tables = {
        "caption -> photo": Table("", of(**{OURS: {"R@1": 0.25, "R@10": 0.60}, "chance": {"R@1": 0.0, "R@10": 0.1}})),
        "pages, natural, all": Table("", of(**asked)),
        "pages, paraphrases, all": Table("", of(**(asked | {FUSED: {"nDCG@5": 0.54}}))),
        "questions, other languages": Table(
            "", of(English={share: 1.0}, German={share: 0.8}, French={share: 0.9}, **{OTHERS: {share: 0.85}})
        ),
        "text -> clip": Table("", of(**{OURS: {"R@10": 0.8}})),
        "composed": Table(
            "",
            of(
                **{
                    "photo + words": {"R@10": 0.4},
                    "photo alone": {"R@10": 0.3},
                    "words alone": {"R@10": 0.2},
                    "sum of the two vectors": {"R@10": 0.5},
                }
            ),
        ),
        "instructions": Table(
            "", of(**{OBEYED: {"first hit of that kind": 0.96}, OBEYED_SERVED: {"first hit of that kind": 0.64}})
        ),
        "no good match": Table("", of(**{EVERY: {SILENT: 0.9}})),
        "right and shown": Table("", of(**{EVERY: {"right one first": 0.0}})),  # nothing to show
    }
    judged = {target.what: target.is_met for target in targets.targets(tables) if target.is_met is not None}
    assert judged == {
        "caption -> photo: R@1 / R@10": False,
        "questions by hand -> page, dense: nDCG@5": True,
        "the same, as the application answers: nDCG@5": False,
        "text -> clip by sight alone: R@10": True,
        "instruction obeyed: first hit of that kind": True,
        "kinds compete fairly: the same, calibrated and fused as the application does: first hit of that kind": False,
        "queries that nothing answers: no good match": True,
        "paraphrases without a word in common, as the application answers: nDCG@5": False,
        "the questions by hand in other languages, as the application answers: nDCG@5": True,
        'photo + "the same with / without …": R@10': False,
    }
    report = Report(tables, targets.targets(tables), ["composed (no teacher)"])
    assert "| met |" in report.markdown() and "Not measured: composed (no teacher)" in report.markdown()
    assert json.loads(json.dumps(report.record()))["tables"]["text -> clip"]["systems"]["ours"]["metrics"] == {
        "R@10": 0.8
    }


def test_unknown_parts_are_refused():
    with pytest.raises(ConfigError, match=r"sound.*known: pages"):
        evaluate(Evaluation("toy", None), ["sound"])  # type: ignore[arg-type]
    assert list(PARTS) == [
        "pages", "translated", "photos", "classes", "languages", "clips", "motion", "passages", "instructions", "honesty",
        "composed", "matryoshka", "speed",
    ]  # fmt: skip


def test_pages_with_little_text_are_those_of_the_catalog():
    from mmsearch.catalog import items

    assert items.LITTLE_TEXT_CHARS == LITTLE_TEXT_CHARS


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

    from mmsearch.training.datasets.rendered_material import ClipRecord
    from mmsearch.training.datasets.shared_material import PhotoRecord

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
    split.class_photos = split.labelled_photos
    split.class_names = [(colour, [2 * row, 2 * row + 1]) for row, colour in enumerate(COLOURS)]
    split.natural_queries = split.paraphrases = [("red", [0]), ("something green or blue", [1, 2])]
    split.translated_queries = {"en": [("red", [0])], "de": [("rot", [0])]}
    split.translated_captions = {"en": [("a red picture", 0)], "de": [("ein rotes Bild", 0)]}
    split.unanswerable_queries = [UnanswerableQuery("zxcv", "nonsense"), UnanswerableQuery("???", "characters")]
    split.questions = (["is it red"], ["it is red", "it is green"], [0])
    return split


def test_every_part_is_measured(colour_split: Split) -> None:
    evaluation: Any = Evaluation("toy", Encoded(ToyEmbedder(), colour_split))
    evaluation.teacher = evaluation.e5 = Words()
    evaluation.read_by_tesseract = [page.text for page in colour_split.pages]
    report = evaluate(evaluation, [part for part in PARTS if part != "speed"])

    tables = report.tables
    assert tables["caption -> photo"].systems[OURS].metrics == pytest.approx(dict.fromkeys(METRICS, 1.0))
    assert tables["text -> clip"].systems[OURS]["R@1"] == tables["photo -> caption"].systems[OURS]["R@1"] == 1
    assert tables["photo -> photo"].systems[OURS]["mAP"] == 1
    assert tables["question -> passage"].systems[OURS]["R@1"] == 1
    assert tables["caption -> clip of photos"].systems[OURS]["R@1"] == 1, "the colour is in every frame"
    assert set(tables["caption -> photo, languages"].systems) == {"English", "German", "chance"}
    assert tables["class name -> picture, all"].systems[OURS]["R@1"] == 1
    assert list(tables["questions, other languages"].systems) == ["English", "German", OTHERS]
    assert list(tables["no good match"].systems) == [EVERY, "nonsense (1)", "characters (1)"]
    assert list(tables["right and shown"].systems)[:3] == [EVERY, "words of the page (2)", "questions by hand (2)"]
    everything = {DENSE, FUSED, RANK_FUSED, PICTURE, MINILM, E5, MINILM_BM25, BM25, OCR}
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
    evaluation.teacher = evaluation.e5 = Words()
    report = evaluate(evaluation, ["pages"])
    assert report.left_out == [f"{OCR} (Tesseract is not installed: apt-get install tesseract-ocr)"]
    assert MINILM in report.tables["pages, words, all"].systems


def test_e5_is_left_out_with_a_reason(colour_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(encoded.importlib, "import_module", missing)
    evaluation: Any = Evaluation("toy", Encoded(ToyEmbedder(), colour_split))
    evaluation.teacher = Words()
    found = evaluation.baselines(["red"], ["red", ""])
    assert set(found) == {MINILM} and found[MINILM][0, 0] > found[MINILM][0, 1] == -1, "no words, no match"
    assert evaluation.left_out[E5].startswith("the reader of multilingual-e5-small cannot be imported: No module named")


def test_e5_gets_its_prefixes_and_reads_a_text_once(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def e5_vectors(model: str, tokenizer: str, texts: list[str], *, prefix: str, most_tokens: int) -> np.ndarray:
        assert (model, tokenizer, prefix, most_tokens) == ("model", "tokenizer", "", 256)
        read.extend(texts)
        return np.array([[text.count("red"), text.count("blue")] for text in texts], np.float32)

    parts = types.SimpleNamespace(read_e5=lambda: ("model", "tokenizer"), e5_vectors=e5_vectors)
    monkeypatch.setattr(encoded.importlib, "import_module", lambda name: parts)
    for _ in range(2):
        assert MultilingualE5(tmp_path).scores(["red"], ["blue", "red"]).tolist() == [[0, 1]]
    assert read == ["query: red", "passage: blue", "passage: red"]


def test_the_model_card_shows_targets_tables_and_licences(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmsearch.training.assembly import package_checkpoint
    from mmsearch.training.assembly.settings import RECIPES, load_assembly

    monkeypatch.setattr(package_checkpoint, "licences", lambda data: [("photos/some", 7, "CC BY 4.0")])
    tables = {"text -> clip": Table("text -> clip (9)", of(**{OURS: {"R@10": 0.5}, "chance": {"R@10": 0.2}}))}
    card = package_checkpoint.model_card(
        load_assembly(RECIPES / "mini.yaml"), ToyEmbedder(), Report(tables, targets.targets(tables)), DATA
    )
    assert "| text -> clip by sight alone: R@10 | ≥ 0.80 | 0.500 | **missed** | 0.4.0: 0.737; chance: 0.200 |" in card
    assert "**text -> clip (9)**" in card and "| photos/some | 7 | CC BY 4.0 |" in card
    assert "64 dimensions" in card and "page 50,176" in card
