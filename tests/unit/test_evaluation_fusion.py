"""Words and fusion in the evaluation: held against the application's own search over the same items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmsearch
from mmsearch import prompts
from mmsearch.embedders.families.toy import ToyEmbedder
from mmsearch.evaluation import fusion
from mmsearch.evaluation.words import MATCH_DEPTH, WordIndex, bm25_scores
from mmsearch.items import WITHOUT_TEXT, ItemDraft, MatchScale, Query, Source
from mmsearch.library.view import TEXT_DEPTH_FLOOR
from mmsearch.ranking import relevance
from mmsearch.ranking.relevance import GENERIC_QUERIES
from mmsearch.ranking.terms import terms_of
from mmsearch.search import search

TEXTS = [
    "Annual revenue grew by ten percent, revenue of the north most of all",
    "Staff and offices in the north",
    "Risks in the coming year: interest rates, staff shortage",
    "The revenues of a smaller year",
    "Thank you",
    "",
    "Überschuss and naïve forecasts for the year",
    "hydroelectricity in the northern valleys",
]
QUERIES = [
    "revenue of the year",
    "staff in the north",
    "electricity",
    "slides about naive forecasts",
    "the",
    "zebra",
    "red staff",
]
SCALES = {"page": MatchScale(0.1, 0.3, 0.8), WITHOUT_TEXT: MatchScale(0.1, 0.2, 0.3)}
FITTED = {
    "page": MatchScale(0.1, 0.3, 0.8, -1.0, 0.5, 0.25, 0.75),
    WITHOUT_TEXT: MatchScale(0.1, 0.2, 0.3, -2.0, 0.5, 0.25, 0.75),
}


def test_bm25_prefers_the_page_with_the_rare_word_and_takes_any_query():
    scores = bm25_scores(['revenue "growth" OR (', "!!"], ["the revenue grew", "the sea", "the mountains the sea"])
    assert scores[0].argmax() == 0
    assert scores[1].tolist() == [0, 0, 0]


def test_reciprocal_ranks_by_hand():
    first = np.array([[0.9, 0.5, 0.1]])
    second = np.array([[0.0, 3.0, 3.0]])
    fused = fusion.reciprocal_rank_fusion(first, fusion.found_only(second))
    assert fused[0].tolist() == pytest.approx([1 / 61, 1 / 62 + 1 / 61, 1 / 63 + 1 / 61]), (
        "0 was not found, equals share a rank"
    )


@pytest.mark.parametrize("scales", [{}, SCALES, FITTED], ids=["without scales", "with scales", "with fitted ones"])
def test_relevance_and_order_are_the_applications(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scales: dict[str, MatchScale]
) -> None:
    """Every page's relevance, fused, dense alone and by words alone, equals what `search` says."""
    monkeypatch.setattr(ToyEmbedder, "match_scale", scales)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    colours = [(40 * n % 256, 90 * n % 256, 255 - 30 * n) for n in range(len(TEXTS))]
    of = Source(Path("/x/q.pdf"), "0" * 64, 1, 0)
    drafts = [
        ItemDraft(of, "page", n, page_number=n + 1, text=text, images=(Image.new("RGB", (8, 8), colour),))
        for n, (text, colour) in enumerate(zip(TEXTS, colours, strict=True))
    ]
    with mmsearch.open(tmp_path / "library", create=True, model="toy", store="exact") as library:
        model = library.embedder
        items = model.encode_documents([prompts.document_input(draft) for draft in drafts])
        with library.lock():
            source_id = library.catalog.sources.begin(of, model_key=model.model_key)
            library.catalog.items.save(source_id, drafts, items, model.model_key)
            library.catalog.sources.finish(source_id)

        asked = model.encode_queries([prompts.query_input(Query(text=text), "page") for text in QUERIES])
        generic = model.encode_queries([prompts.query_input(Query(text=text), "page") for text in GENERIC_QUERIES])
        stored = library.stores.of("page").vectors(np.sort(library.stores.of("page").ids()))  # float16 on disk
        little = np.array([len(text) < 60 for text in TEXTS])
        pool = fusion.Pool({"page": stored}, {"page": generic}, scales, little)
        words = list(map(WordIndex(TEXTS, ["x/q.pdf"] * len(TEXTS)).matches, QUERIES))
        readable = [bool(terms_of(query)) for query in QUERIES]
        served = pool.relevance({"page": asked}, words, is_readable=readable)
        dense = pool.relevance({"page": asked}, is_readable=readable)
        lexical = pool.relevance({"page": asked}, words, is_readable=[False] * len(QUERIES))

        for row, query in enumerate(QUERIES):
            for mode, ours in (("fused", served), ("dense", dense), ("text", lexical)):
                hits = search(library, Query(text=query), k=len(TEXTS), mode=mode, min_relevance=0)
                theirs = {hit.item.ordinal: hit.relevance for hit in hits}
                unseen = float(
                    relevance.probability(relevance.UNASKED)
                )  # mode "text" does not list what holds no words
                expected = [theirs.get(n, unseen) for n in range(len(TEXTS))]
                assert ours[row] == pytest.approx(expected, abs=2e-4), (query, mode)
                if mode == "fused":
                    assert np.argsort(-served[row], kind="stable").tolist() == [hit.item.ordinal for hit in hits], query


def test_only_the_best_matches_by_words_count():
    index = WordIndex([f"word {'rare ' * (n % 2)}" for n in range(3 * MATCH_DEPTH)])
    found = index.matches("rare word")
    assert len(found) == MATCH_DEPTH and (found.ids % 2 == 1).all() and (found.bm25 >= 0).all()
    assert TEXT_DEPTH_FLOOR == MATCH_DEPTH
