"""Search: what is found, in which order, with which relevance, and when nothing is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

import mmsearch
from mmsearch import media, prompts
from mmsearch.catalog import Filters
from mmsearch.catalog.items import Items
from mmsearch.catalog.text import Text
from mmsearch.embedders.families.toy import ToyEmbedder
from mmsearch.errors import CorruptFile, FileTooLarge, SourceError, UnsupportedFile
from mmsearch.items import KINDS, WITHOUT_TEXT, EmbedInput, ItemDraft, Kind, Query, Source
from mmsearch.library import Library
from mmsearch.library.model import Model
from mmsearch.library.stores import Stores
from mmsearch.ranking import relevance
from mmsearch.ranking.terms import kinds_named
from mmsearch.search import more_like, search
from tests import poison

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255), "black": (0, 0, 0)}


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL", "LIBRARY", "STORE", "DEVICE"):
        monkeypatch.delenv(f"MMSEARCH_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def source(path: str) -> Source:
    return Source(Path(path), path.encode().hex().ljust(64, "0")[-64:], 1, 1_700_000_000_000_000_000)


def save(
    library: Library, path: str, drafts: Sequence[ItemDraft], vectors: np.ndarray, previews: Sequence[str] = ()
) -> None:
    source_id = library.catalog.sources.begin(source(path), model_key=library.embedder.model_key)
    library.catalog.items.save(source_id, drafts, vectors, library.embedder.model_key, previews=previews)
    library.catalog.sources.finish(source_id)


def add(library: Library, path: str, *made: tuple[Kind, str, str], preview: str = "") -> None:
    drafts = [
        ItemDraft(source(path), kind, n, page_number=n + 1 if kind == "page" else None, text=words,
                  images=(Image.new("RGB", (32, 32), COLOURS[colour]),), start_s=2.0 * n if kind == "clip" else None,
                  end_s=2.0 * n + 2 if kind == "clip" else None)
        for n, (kind, colour, words) in enumerate(made)
    ]  # fmt: skip
    vectors = library.embedder.encode_documents([prompts.document_input(one) for one in drafts])
    save(library, path, drafts, vectors, [preview] * len(drafts) if preview else ())


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    """Ten items: five photos, three pages, two clips."""
    with mmsearch.open(tmp_path / "library", create=True, model="toy") as opened:
        with opened.lock():
            opened.previews.mkdir()
            for n, colour in enumerate(COLOURS):
                Image.new("RGB", (40, 30), COLOURS[colour]).save(opened.previews / f"{n}.webp")
                add(opened, f"/photos/{n}.jpg", ("image", colour, ""), preview=f"previews/{n}.webp")
            add(opened, "/docs/report.pdf", ("page", "white", "Annual revenue grew by ten percent"),
                ("page", "white", "staff and offices"), ("page", "white", "risks in the coming year"))  # fmt: skip
            add(opened, "/films/holiday.mp4", ("clip", "blue", ""), ("clip", "green", "we reach the harbour"))
        yield opened


def places(hits: Sequence[mmsearch.Hit]) -> list[tuple[str, int]]:
    return [(hit.path.name, hit.item.ordinal) for hit in hits]


# ---- what is found


def test_a_word_of_a_page(library: Library) -> None:
    (hit,) = library.search("revenue")
    assert (hit.rank, hit.path, hit.item.page_number) == (1, Path("/docs/report.pdf"), 1)
    assert "text" in hit.matched_by
    assert hit.snippet == "Annual revenue grew by ten percent"
    words = library.catalog.text.match("revenue", 1, KINDS)
    assert words.share.tolist() == [1] and words.name.tolist() == [0]
    by_words_alone = relevance.by_words(words.share, words.bm25, words.name, words.terms) + relevance.UNSEEN
    assert relevance.MIN_RELEVANCE < relevance.probability(by_words_alone)[0] <= hit.relevance <= 1
    stored = library.catalog.vectors.of([hit.item.id], "toy-1")[1][0]
    query = library.embedder.encode_queries([EmbedInput("", "revenue")])[0]
    assert hit.score == pytest.approx(float(stored @ query), abs=1e-6)
    assert hit.record() == {
        "schema": 1, "rank": 1, "id": 6, "kind": "page", "path": "/docs/report.pdf", "page": 1, "start_s": None,
        "end_s": None, "score": round(hit.score or 0, 6), "relevance": round(hit.relevance, 4),
        "matched_by": list(hit.matched_by), "snippet": "Annual revenue grew by ten percent", "also_at": [], "meta": {},
    }  # fmt: skip


def test_a_colour_meets_photo_and_clip(library: Library) -> None:
    hits = library.search("green")
    assert {("1.jpg", 0), ("holiday.mp4", 1)} <= set(places(hits))
    assert hits[0].item.kind == "image" and hits[0].score is not None and hits[0].score > 0.9
    assert all("dense" in hit.matched_by for hit in hits)
    clip = next(hit for hit in hits if hit.item.kind == "clip")
    assert (clip.item.start_s, clip.item.end_s) == (2.0, 4.0)


def test_no_good_match_is_an_answer(library: Library) -> None:
    hits = library.search("zebra")
    assert list(hits) == [] and hits.total == 0
    assert hits.searched == hits.hidden == 10
    assert hits.best_below is not None and hits.best_below.relevance < relevance.MIN_RELEVANCE
    everything = library.search("zebra", min_relevance=0, k=20)
    assert len(everything) == 10 and everything.hidden == 0 and everything.best_below is None
    assert everything[0] == hits.best_below


def test_one_item_is_library_enough(tmp_path: Path) -> None:
    with mmsearch.open(tmp_path / "one", create=True, model="toy") as library:
        add(library, "/photos/red.jpg", ("image", "red", ""))
        assert places(library.search("a red picture", mode="dense")) == [("red.jpg", 0)]
        assert places(library.search("blue", mode="dense", k=5)) == []
        assert places(library.search("zebra")) == []


def test_kinds(library: Library) -> None:
    for kinds, want in ((["photo"], {"image"}), (["PDF", "video"], {"page", "clip"}), (None, set(KINDS))):
        hits = library.search("blue revenue", kinds=kinds, min_relevance=0, k=20)
        assert {hit.item.kind for hit in hits} == want
        assert hits.searched == len(hits) == sum({"page": 3, "image": 5, "clip": 2}[kind] for kind in want)
    with pytest.raises(ValueError, match="unknown kind 'sound'; known: clip, "):
        library.search("x", kinds=["sound"])
    query = Query(text="blue")
    assert {h.item.kind for h in search(library, query, filters=Filters(kinds=("clip",)), min_relevance=0)} == {"clip"}


def test_filters_come_before_the_search(library: Library) -> None:
    """The best hit of all is outside; inside, the same number of hits is found as there are items."""
    hits = library.search("revenue", path="photos/**", min_relevance=0, k=3)
    assert len(hits) == 3 and hits.searched == 5
    assert {hit.path.parent.name for hit in hits} == {"photos"}
    assert len(library.search("red", path=["*.mp4", "/docs"], min_relevance=0, k=20)) == 5
    assert len(library.search("red", under=Path("/films"), min_relevance=0, k=20)) == 2
    assert len(library.search("red", after=date(2023, 11, 1), before=date(2023, 12, 1), min_relevance=0, k=20)) == 10
    gone = library.search("red", after=date(2024, 1, 1), min_relevance=0)
    assert (list(gone), gone.searched) == ([], 0)


def test_pages_of_an_answer_make_up_the_whole(library: Library) -> None:
    whole = library.search("blue revenue in the harbour", k=10, min_relevance=0)
    assert [hit.rank for hit in whole] == list(range(1, 11))
    assert [hit.relevance for hit in whole] == sorted((hit.relevance for hit in whole), reverse=True)
    parts = [library.search("blue revenue in the harbour", k=3, offset=n, min_relevance=0) for n in (0, 3, 6, 9, 12)]
    assert [hit for part in parts for hit in part] == list(whole)
    assert [part.total for part in parts] == [10] * 5


def test_modes(library: Library) -> None:
    words = library.search("harbour", mode="text")
    assert places(words) == [("holiday.mp4", 1)]
    assert (words[0].score, words[0].matched_by) == (None, ("text",))
    found = library.catalog.text.match("harbour", 1, KINDS)
    worth = relevance.by_words(found.share, found.bm25, found.name, found.terms)[0]
    assert words[0].relevance == pytest.approx(relevance.probability(relevance.UNASKED + worth))
    dense = library.search("harbour", mode="dense", min_relevance=0)
    assert all(hit.matched_by == ("dense",) and hit.score is not None for hit in dense)
    for kind in KINDS:
        scores = [hit.score or 0 for hit in dense if hit.item.kind == kind]
        assert scores == sorted(scores, reverse=True)
    fused = library.search("harbour")
    assert fused[0].item == words[0].item
    alone = next(hit.relevance for hit in dense if hit.item == words[0].item)
    assert fused[0].relevance == pytest.approx(relevance.probability(relevance.log_odds(alone) + worth))
    with pytest.raises(ValueError, match="unknown mode 'magic'; known: fused, dense, text"):
        library.search("x", mode="magic")


def test_a_file_name_is_found_and_words_reach_beyond_the_dense_candidates(library: Library) -> None:
    assert places(library.search("holiday", kinds=["video"], k=1, mode="text")) == [("holiday.mp4", 0)]
    assert places(library.search("holi", mode="text", k=1)) == [("holiday.mp4", 0)], "part of a word"
    assert library.search("holiday", min_relevance=0)[0].matched_by == ("text",)


def test_nothing_to_search_for(library: Library) -> None:
    for text in ("", "  \n"):
        with pytest.raises(ValueError, match="nothing to search for"):
            library.search(text)
    with pytest.raises(ValueError, match="by their words"):
        library.search(image=Image.new("RGB", (8, 8)), mode="text")
    assert list(library.search("red", k=0)) == []


# ---- pictures and items as the query


def test_a_picture_as_the_query(library: Library, tmp_path: Path) -> None:
    picture = Image.new("RGB", (50, 50), (250, 10, 10))
    hits = library.search(image=picture)
    assert places(hits)[0] == ("0.jpg", 0) and hits[0].matched_by == ("dense",)
    picture.save(tmp_path / "query.png")
    for given in (tmp_path / "query.png", str(tmp_path / "query.png")):
        assert library.search(image=given)[0].item.id == hits[0].item.id
    (tmp_path / "query.png").write_bytes(b"no picture")
    with pytest.raises(SourceError):
        library.search(image=tmp_path / "query.png")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("bomb.png", FileTooLarge),
        ("bomb.jpg", FileTooLarge),
        ("truncated.jp2", CorruptFile),
        ("magic.heic", CorruptFile),
        ("endless-text.png", None),
        ("a-document.png", UnsupportedFile),
        ("larger-by-its-word.jpg", None),
    ],
)
def test_a_picture_that_means_harm_is_decoded_elsewhere(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: type[SourceError] | None
) -> None:
    (one,) = (one for one in poison.POISON if one.name == name)
    one.make(tmp_path / name)

    def decoded_here(*_: object, **__: object) -> None:
        raise AssertionError("decoded in this process")

    for function in ("open_header", "decode_image", "open_image"):
        monkeypatch.setattr(media, function, decoded_here)
    with pytest.raises(error) if error else nullcontext():
        library.search(image=tmp_path / name)


def test_a_picture_and_a_text_are_one_query_without_words(library: Library) -> None:
    both = library.search("revenue", image=Image.new("RGB", (50, 50), COLOURS["red"]), min_relevance=0)
    assert all(hit.matched_by == ("dense",) and not hit.snippet for hit in both)
    assert places(both)[0] == ("0.jpg", 0)


def test_more_like_an_item(library: Library) -> None:
    like = library.search(like=3, min_relevance=0, k=20)
    assert 3 not in {hit.item.id for hit in like} and {hit.item.kind for hit in like} == {"image"}
    assert like.searched == len(like) == 4
    stored = dict(zip(*library.catalog.vectors.of([1, 2, 3, 4, 5], "toy-1"), strict=True))
    want = sorted((i for i in stored if i != 3), key=lambda i: (-float(stored[i] @ stored[3]), i))
    assert [hit.item.id for hit in like] == want
    assert [hit.rank for hit in more_like(library, 3, k=2, offset=2, min_relevance=0)] == [3, 4]
    with pytest.raises(KeyError):
        library.search(like=99)


def test_more_like_an_item_in_other_kinds_goes_by_its_preview(library: Library) -> None:
    hits = library.search(like=3, kinds=["video", "photo"], min_relevance=0, k=20)
    assert {hit.item.kind for hit in hits} == {"image", "clip"}
    assert places([hit for hit in hits if hit.item.kind == "clip"])[0] == ("holiday.mp4", 0), "blue is like blue"
    assert library.search(like=6, kinds=["photo"], min_relevance=0) == [], "a page without a preview"


# ---- the model is asked once, in its own words


def test_one_encoding_per_kind_in_one_call(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    library.search("warm up the calibration")
    asked: list[Sequence[EmbedInput]] = []
    encode = ToyEmbedder.encode_queries
    monkeypatch.setattr(ToyEmbedder, "encode_queries", lambda self, inputs: (asked.append(inputs), encode(self, inputs))[1])  # fmt: skip
    hits = library.search("red  flags")
    assert [[(one.kind, one.instruction, one.text) for one in inputs] for inputs in asked] == [
        [(kind, prompts.TEXT_QUERY_INSTRUCTIONS[kind], "red flags") for kind in KINDS]
    ]
    assert 0 < hits.model_ms < hits.took_ms
    library.search("red", instruction="Find it:", kinds=["photo"])
    assert [(one.kind, one.instruction) for one in asked[1]] == [("image", "Find it:")]
    library.search(image=Image.new("RGB", (9, 9)), kinds=["page"])
    assert asked[2][0].instruction == prompts.IMAGE_QUERY_INSTRUCTIONS["page"]


def test_an_item_without_a_vector_is_found_by_its_words(library: Library) -> None:
    """Half-way to another model: what that one has not embedded yet must not vanish."""
    of = source("/docs/new.pdf")
    source_id = library.catalog.sources.begin(of, model_key="next-1")
    library.catalog.items.save(source_id, [ItemDraft(of, "page", 0, page_number=1, text="kiwi")], np.eye(1, 9, dtype=np.float32), "next-1")  # fmt: skip
    library.catalog.sources.finish(source_id)
    (hit,) = library.search("kiwi")
    assert (hit.path.name, hit.score, hit.matched_by) == ("new.pdf", None, ("text",))


MOMENTS = {
    "filtered": (Items, "allowed_ids"),
    "encoded": (Model, "encode"),
    "matched": (Text, "match"),
    "near": (Stores, "nearest"),
    "loaded": (Items, "of"),
}


@pytest.mark.parametrize(("owner", "step"), MOMENTS.values(), ids=MOMENTS.keys())
@pytest.mark.parametrize("path", [None, "/docs/**"], ids=["all", "filtered"])
def test_an_answer_is_of_one_generation(
    library: Library, monkeypatch: pytest.MonkeyPatch, owner: type, step: str, path: str | None
) -> None:
    """Whenever in a search a document is replaced by its next version, and a photo deleted: nothing of both, nothing lost."""
    original, changes = getattr(owner, step), iter([1])

    def then_change(self: object, *arguments: object, **options: object) -> object:
        found = original(self, *arguments, **options)
        if next(changes, None):
            new = replace(source("/docs/report.pdf"), sha256="f" * 64)
            drafts = [ItemDraft(new, "page", n, page_number=n + 1, text=f"revenue, again {n}") for n in range(2)]
            vectors = library.embedder.encode_documents([prompts.document_input(one) for one in drafts])
            held = {row.path: row.id for row in library.catalog.sources.rows()}
            source_id = library.catalog.sources.begin(new, model_key="toy-1", replaces=held[new.path])
            library.catalog.items.save(source_id, drafts, vectors, "toy-1")
            library.catalog.sources.finish(source_id)
            library.catalog.sources.retire([held[Path("/photos/0.jpg")]])
        return found

    monkeypatch.setattr(owner, step, then_change)
    hits = library.search("revenue", min_relevance=0, k=20, path=path)
    assert not list(changes), "the moment came"
    former, new = ((3, 10), (2, 8)) if path is None else ((3, 3), (2, 2))
    pages = [hit for hit in hits if hit.item.kind == "page"]
    assert (len(pages), len(hits)) in (former, new)
    assert {"again" in hit.item.text for hit in pages} == {(len(pages), len(hits)) == new}
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1)) and hits.total == hits.searched == len(hits)
    assert all(hit.score is not None for hit in hits)
    after = library.search("revenue", min_relevance=0, k=20, path=path)
    assert len(after) == new[1]


# ---- what is kept away


@pytest.fixture
def reports(library: Library) -> Library:
    with library.lock():
        add(library, "/docs/sales.pdf", ("page", "white", "Revenue by quarter"), ("page", "white", "Revenue by region"),
            ("page", "red", "Revenue of the quarters, a longer page about staff"))  # fmt: skip
    return library


@pytest.mark.parametrize("mode", ["fused", "text", "dense"])
@pytest.mark.parametrize("as_option", [False, True], ids=["-word", "exclude"])
def test_what_holds_an_excluded_word_is_left_out(reports: Library, mode: str, as_option: bool) -> None:
    assert reports.search("revenue quarter", kinds=["page"])[0].item.text == "Revenue by quarter"
    asked = ("revenue", "quarter") if as_option else ("revenue -quarter", ())
    hits = reports.search(asked[0], exclude=asked[1], mode=mode, min_relevance=0, k=20)
    texts = [hit.item.text for hit in hits]
    assert not [text for text in texts if "uarter" in text], "by its stem, wherever it stands"
    if mode != "dense":
        assert "Revenue by region" in texts[:2]
    assert hits.searched == 11


def test_excluded_words_must_all_be_held_and_file_names_count(reports: Library) -> None:
    every = {hit.item.text for hit in reports.search("revenue", exclude="quarter staff", min_relevance=0, k=20)}
    assert "Revenue by quarter" in every and not [text for text in every if "longer page" in text]
    assert {hit.path.name for hit in reports.search("revenue -sales", mode="text")} == {"report.pdf"}
    several = reports.search("revenue", exclude=["region", "ten percent"], mode="text", min_relevance=0)
    assert {hit.item.text for hit in several} == {
        "Revenue by quarter",
        "Revenue of the quarters, a longer page about staff",
    }


def test_what_means_an_excluded_text_comes_later(library: Library) -> None:
    """No photo holds a word; the red one means "red"."""
    both = {hit.path.name: hit.relevance for hit in library.search("red blue", kinds=["photo"], min_relevance=0)}
    without = {
        hit.path.name: hit.relevance for hit in library.search("red blue -red", kinds=["photo"], min_relevance=0)
    }
    assert without["0.jpg"] < 0.2 * both["0.jpg"]
    assert places(library.search("red blue -red", kinds=["photo"], min_relevance=0))[0] == ("2.jpg", 0)


def test_something_must_be_sought_beside_what_is_left_out(library: Library) -> None:
    with pytest.raises(ValueError, match=r"nothing to search for: .* beside what is to be left out"):
        library.search("-red")
    assert places(library.search(image=Image.new("RGB", (8, 8), COLOURS["red"]), exclude="harbour"))[0] == ("0.jpg", 0)


def test_an_excluded_item_with_filters(reports: Library) -> None:
    hits = reports.search("revenue -quarter", path="/docs/**", min_relevance=0, k=20)
    assert hits.searched == len(hits) == 4


# ---- words that lead to the right file, or to none


def test_one_more_word_does_not_sink_the_right_file(library: Library) -> None:
    with library.lock():
        add(library, "/photos/japanese-shop.jpg", ("image", "black", ""))
    found = []
    for query in ("japanese shop", "japanese shop sign", "neon sign of a japanese shop"):
        hits = library.search(query, kinds=["photo"], min_relevance=0)
        assert places(hits)[0] == ("japanese-shop.jpg", 0), query
        found.append(hits[0].relevance)
    assert found[0] > 0.9 and found[0] > found[1] > relevance.MIN_RELEVANCE and found[1] > found[2]


@pytest.mark.parametrize("query", ["the", "is it", "🍕", "!!", "..", "42", "a b c"])
def test_a_query_that_means_nothing_finds_nothing(library: Library, query: str) -> None:
    hits = library.search(query)
    assert list(hits) == [] and hits.searched == 10
    assert len(library.search(query, min_relevance=0, k=20)) == 10, "0 hides nothing, here either"


def test_a_word_that_only_the_model_cannot_read_is_found_where_it_stands(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "knows_word", lambda self, word: False)
    with library.lock():
        add(library, "/docs/odd.pdf", ("page", "white", "the frobnicator of the plant"))
    assert places(library.search("frobnicator"))[0] == ("odd.pdf", 0)
    assert list(library.search("green")) == [], "no item holds the word, and the model does not know it"


# ---- calibration, on populations that resemble a real model's


class Populations:
    """Any query scores 0.6 ± 0.02 with photos, 0.1 ± 0.05 with pages: no page's raw cosine ever reaches a photo's.

    Axis 0 is common to all, the last one is filler that no query has, the 62 between carry the content.
    """

    model_key, dim, page_text, device = "populations-1", 64, True, "cpu"
    max_pixels: ClassVar = dict.fromkeys(KINDS, 1)
    match_scale: ClassVar = {}
    levels: ClassVar = {"image": (0.6, 0.02), "page": (0.1, 0.05), "clip": (0.3, 0.05)}

    def direction(self, words: str) -> np.ndarray:
        v = np.random.default_rng([ord(letter) for letter in words]).standard_normal(62)
        return v / np.linalg.norm(v)

    def encode_queries(self, inputs: Sequence[EmbedInput]) -> np.ndarray:
        return np.asarray([[0.8, *(0.6 * self.direction(one.text)), 0.0] for one in inputs], np.float32)

    def encode_documents(self, inputs: Sequence[EmbedInput]) -> np.ndarray:
        raise AssertionError("the items are made by `item`")

    def item(self, kind: Kind, seed: int, words: str = "", z: float = 0.0) -> np.ndarray:
        """A random item; with `words` one that scores exactly `z` standard deviations above its kind's mean for them."""
        mean, sd = self.levels[kind]
        content = np.random.default_rng(seed).standard_normal(62) * sd / 0.6
        if words:
            content += (z * sd / 0.6 - content @ self.direction(words)) * self.direction(words)
        v = np.array([mean / 0.8, *content, 0.0])
        v[-1] = np.sqrt(1 - v @ v)
        return v.astype(np.float32)


WORDS = "a lighthouse in the fog"


@pytest.fixture(params=[5, 400], ids=["small", "large"])
def population(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    """As many photos as pages; the first of each is what WORDS look for."""
    model = Populations()
    monkeypatch.setattr("mmsearch.embedders.load_embedder", lambda *_args, **_options: model)
    with mmsearch.open(tmp_path / "population", create=True) as library:
        for kind in ("image", "page"):
            vectors = [model.item(kind, n + 1000 * (kind == "page"), WORDS if n == 0 else "", 7.0) for n in range(request.param)]  # fmt: skip
            save(
                library, f"/{kind}", [ItemDraft(source("/x"), kind, n) for n in range(request.param)], np.stack(vectors)
            )
        yield library


def test_kinds_become_comparable(population: Library) -> None:
    hits = population.search(WORDS)
    photo, page = sorted(hits[:2], key=lambda hit: hit.item.kind)
    assert (photo.item.kind, photo.item.ordinal, page.item.kind, page.item.ordinal) == ("image", 0, "page", 0)
    assert len(hits) <= 3 and min(photo.relevance, page.relevance) > 0.8
    every = population.search(WORDS, min_relevance=0, k=1000)
    photos = [hit.score for hit in every if hit.item.kind == "image" and hit.score is not None]
    assert page.score is not None and page.score < min(photos), "by raw cosine every photo would come first"


def test_irrelevant_queries_find_nothing(population: Library) -> None:
    """The best of chance passes the cut-off now and then, as it must where anything is to be found; not as a rule."""
    answered = [n for n in range(40) if population.search(f"something else {n}", mode="dense")]
    assert len(answered) <= 12


def _standardised(scores: np.ndarray, own: np.ndarray, prior: relevance.Background) -> np.ndarray:
    usual = relevance.own_background(own, prior)
    return (scores - usual.centre) / usual.spread


def test_a_background_is_shrunk_towards_the_generic_one() -> None:
    rng = np.random.default_rng(0)
    prior = relevance.Background(0.2, 0.1)
    assert _standardised(np.array([0.4]), np.empty(0), prior)[0] == pytest.approx(2.0)
    own = 0.5 + 0.05 * rng.standard_normal(100_000)
    assert _standardised(np.array([0.6]), own, prior)[0] == pytest.approx(2.0, abs=0.05)
    half = 0.5 + 0.05 * rng.standard_normal(relevance.PRIOR_ITEMS)
    centre, spread = np.quantile(half, 0.5), np.quantile(half, 0.5) - np.quantile(half, 0.158655)
    want = (0.6 - (centre + 0.2) / 2) / np.sqrt((spread**2 + 0.1**2) / 2)
    assert _standardised(np.array([0.6]), half, prior)[0] == pytest.approx(want)


def test_relevant_items_do_not_spoil_the_background() -> None:
    """A quarter of the library answers the query: median and lower quantile hardly move, mean and sd would."""
    rng = np.random.default_rng(0)
    own = np.concatenate([0.1 + 0.05 * rng.standard_normal(1500), 0.5 + 0.05 * rng.standard_normal(500)])
    z = _standardised(np.array([0.5]), own, relevance.Background(0.1, 0.05))[0]
    assert z > 5 > (0.5 - own.mean()) / own.std()


def test_scores_that_hardly_differ_are_not_blown_up() -> None:
    z = _standardised(np.array([0.301]), np.full(2000, 0.3), relevance.Background(0.3, 0.0))
    assert z[0] == pytest.approx(0.001 / relevance.SD_FLOOR)


def test_the_background_of_stored_vectors_leaves_out_twins() -> None:
    vectors = np.eye(6, 8, dtype=np.float32)
    twins = np.concatenate([vectors, vectors])
    assert relevance.background(twins, twins, is_same_set=True) == relevance.Background(0.0, 0.0)
    assert relevance.background(vectors[:1], vectors[:1], is_same_set=True) == relevance.Background(0.0, 1.0)


def test_generic_queries_are_many_and_different() -> None:
    assert len(set(relevance.GENERIC_QUERIES)) == len(relevance.GENERIC_QUERIES) == 64


def test_a_model_that_knows_its_right_answers_keeps_other_kinds_out(population: Library) -> None:
    """The page stands out among pages as far as the photo among photos, but not as far as right pages do with this model."""
    population.embedder.match_scale = {
        "image": relevance.MatchScale(0.05, 0.1, 1.0),
        "page": relevance.MatchScale(0.6, 0.9, 1.0),
    }
    assert {hit.item.kind for hit in population.search(WORDS)} == {"image"}


def test_pages_that_the_model_cannot_read_do_not_count(population: Library) -> None:
    """The pages of this library have no text."""
    all_right = relevance.MatchScale(0.0, 0.1, 1.0)
    population.embedder.match_scale = {
        "image": all_right,
        "page": all_right,
        WITHOUT_TEXT: relevance.MatchScale(0.0, 0.1, 0.1),
    }
    assert {hit.item.kind for hit in population.search(WORDS)} == {"image"}
    population.embedder.match_scale = {"image": all_right, "page": all_right}
    assert {hit.item.kind for hit in population.search(WORDS)} == {"image", "page"}


@pytest.mark.parametrize(
    ("query", "kinds"),
    [
        ("slides about revenue", {"page"}),
        ("photo of a red car", {"image"}),
        ("videos and photos of dogs", {"image", "clip"}),
        ("image processing", set()),
        ("photos", set()),
    ],
)
def test_kinds_named_by_a_query(query: str, kinds: set[str]) -> None:
    assert kinds_named(query) == kinds


def test_a_named_kind_comes_first(population: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {hit.item.kind: hit.relevance for hit in population.search(WORDS)[:2]}
    monkeypatch.setattr("mmsearch.library.view.kinds_named", lambda query: frozenset({"image"}))
    after = {hit.item.kind: hit.relevance for hit in population.search(WORDS)[:2]}
    assert after["image"] == before["image"]
    assert after["page"] == pytest.approx(before["page"] * relevance.OTHER_KIND)
