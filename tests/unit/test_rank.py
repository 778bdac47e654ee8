"""`mmsearch.ranking`: what evidence is worth, and the order that follows, on numbers that can be reckoned by head."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from mmsearch.items import MatchScale
from mmsearch.ranking import relevance
from mmsearch.ranking.rank import NO_MATCHES, Asked, Calibration, Near, TextMatches, rank
from mmsearch.ranking.relevance import Background, Measure
from mmsearch.ranking.terms import is_readable, terms_of, wording_of, words_to_read

ONE = Background(0.0, 1.0)
"""So that z and level are the cosine itself."""
MANY = 100
"""Words of a query, so many that nothing is lacking (`relevance.SINGLE`)."""
SEARCHED = 8
PLAIN = MatchScale(0, 1, 1, bias=relevance.chance(SEARCHED), per_z=0.0, per_level=1.0, per_gap=1.0)
"""So that among SEARCHED items an item's log-odds are its cosine."""


def near(ids: list[int], cosines: list[float]) -> Near:
    return Near(np.array(ids), np.array(cosines))


def words(*found: tuple[int, float, float, float]) -> TextMatches:
    ids, *columns = zip(*found, strict=True)
    return TextMatches(np.array(ids), *(np.array(column, np.float32) for column in columns), terms=MANY)


def calibration(*kinds: str, scale: MatchScale = PLAIN) -> Calibration:
    return Calibration(dict.fromkeys(kinds, Measure(ONE, ONE, scale)))  # type: ignore[arg-type]


def odds(values: float | list[float]) -> np.ndarray:
    return relevance.probability(np.logaddexp(values, relevance.UNSEEN))


# ---- evidence


def test_log_odds_of_a_fitted_kind_by_hand() -> None:
    """z and level of the best are 4 and 2, of the second 3 and 1.5; 8 items are searched."""
    measure = Measure(Background(0.0, 0.1), Background(0.0, 0.2), MatchScale(0, 1, 1, -1.0, 0.5, 2.0, 3.0))
    best = -1 + 0.5 * (4 - np.sqrt(2 * np.log(8))) + 2.0 * (2 - np.sqrt(2 * np.log(8)))
    found = relevance.by_meaning(np.array([0.4, 0.3]), measure, 8)
    assert found.tolist() == pytest.approx([best, best - 3.0 * 1])
    alone = relevance.by_meaning(np.array([0.4, 0.3]), measure, 8, is_each_best=True)
    assert alone.tolist() == pytest.approx([best, best - 0.5 * 1 - 2.0 * 0.5])
    assert relevance.by_meaning(np.empty(0), measure, 8).tolist() == []


def test_without_a_measured_scale_even_odds_lie_above_chance() -> None:
    z = relevance.MIDDLE_Z + relevance.chance(1000)
    measure = Measure(ONE, ONE)
    found = relevance.by_meaning(z + relevance.SLOPE_Z * np.array([0, 1, 2, 2 + np.e - 1]), measure, 1000)
    assert found.tolist() == pytest.approx([0, 1, 2, 3]), "one by one up to SURE, then by logarithm"


@pytest.mark.parametrize("scale", [None, MatchScale(0.5, 1.0, 0.9), MatchScale(0, 1, 1, -1, 0.5, 0.5, 0.5)])
def test_relevance_by_meaning_falls_as_the_chance_to_find_something_grows(scale: MatchScale | None) -> None:
    found = [float(relevance.by_meaning(np.array([3.0]), Measure(ONE, ONE, scale), n)[0]) for n in (1, 10, 1000, 10**6)]
    assert all(before > after for before, after in pairwise(found[1:])) and found[0] >= found[1]


def test_typicality_by_what_right_answers_usually_score() -> None:
    found = relevance.typicality(np.array([0.1, 0.2, 0.4, 0.9]), MatchScale(0.2, 0.4, 1.0))
    assert found[1] == pytest.approx(0.5) and found[2] == pytest.approx(1 / (1 + np.exp(-3)))
    assert found[0] < 0.2 and found[3] > 0.99


def test_words_by_hand() -> None:
    e = np.e - 1  # ln(1 + e) = 1
    found = relevance.by_words(
        np.array([0.0, 1.0, 0.5, 1.0]), np.array([0.0, e, e, 0.0]), np.array([0, 0, 0, 1.0]), MANY
    )
    half = relevance.SURPRISE / 8 + relevance.WHOLE / 8
    whole = relevance.SURPRISE + relevance.WHOLE
    assert found.tolist() == pytest.approx([0, whole, half, relevance.WHOLE + relevance.NAMED])


def test_a_single_word_proves_less_than_several() -> None:
    one, two = (float(relevance.by_words(1, 0, 0, terms)) for terms in (1, 2))
    assert (one, two) == pytest.approx((relevance.WHOLE / 2, relevance.WHOLE * 3 / 4))


def test_all_words_are_above_the_cut_off_without_the_model_and_a_third_of_them_are_not() -> None:
    for bm25, terms in ((0.5, 1), (0.0, 2), (0.0, MANY)):
        assert (relevance.together(np.array([-np.inf]), relevance.by_words(1, bm25, 0, terms)) > cut_off())[0]
    assert relevance.together(np.array([-np.inf]), relevance.by_words(1 / 3, 10.0, 0, MANY))[0] < cut_off()


def cut_off() -> float:
    return float(relevance.log_odds(np.array(relevance.MIN_RELEVANCE)))


def test_probability_and_log_odds_undo_each_other() -> None:
    values = np.array([0.01, 0.3, 0.5, 0.99])
    np.testing.assert_allclose(relevance.probability(relevance.log_odds(values)), values)
    assert np.isfinite(relevance.log_odds(np.array([0.0, 1.0]))).all()
    assert relevance.probability(np.array([-np.inf, np.inf])).tolist() == pytest.approx([0, 1])


def test_one_query_for_all_kinds_has_one_background_and_otherwise_only_what_is_seen_has() -> None:
    own = {"page": Background(0.1, 0.1), "image": Background(0.5, 0.3), "clip": Background(0.3, 0.2)}
    scales = dict.fromkeys(own, PLAIN)
    found = relevance.measures(own, own, scales)
    assert found["page"].own == own["page"] and found["image"].own == found["clip"].own == Background(0.4, 0.25)
    every = relevance.measures(own, own, scales, is_one_query=True)
    for kind in own:
        assert (every[kind].own.centre, every[kind].own.spread) == pytest.approx((0.3, 0.2))
    unmeasured = relevance.measures(own, own, dict.fromkeys(own))
    assert {kind: measure.own for kind, measure in unmeasured.items()} == own


# ---- order


def test_order_by_relevance_then_cosine_then_id() -> None:
    found = rank(
        {"page": near([7, 3, 5], [1.0, 2.0, 1.0]), "image": near([4], [2.0])},
        NO_MATCHES,
        calibration("page", "image"),
        Asked(SEARCHED),
    )
    assert found.ids.tolist() == [3, 4, 5, 7]
    assert found.relevance.tolist() == pytest.approx(odds([2, 2, 1, 1]).tolist())
    assert found.cosine.tolist() == [2, 2, 1, 1]
    assert found.is_dense.all() and not found.is_text.any()


def test_words_add_to_meaning_and_are_enough_without_it() -> None:
    held = words((3, 1.0, 0.0, 0.0), (9, 1.0, 0.0, 0.0))
    found = rank({"page": near([3, 5], [-1.0, 1.0])}, held, calibration("page"), Asked(SEARCHED))
    of = dict(zip(found.ids.tolist(), found.relevance.tolist(), strict=True))
    assert of[3] == pytest.approx(relevance.probability(np.logaddexp(-1, relevance.UNSEEN) + relevance.WHOLE))
    assert of[9] == pytest.approx(relevance.probability(relevance.UNASKED + relevance.WHOLE))
    assert of[5] == pytest.approx(float(odds(1.0)))
    assert np.isnan(found.cosine[found.ids == 9]).all() and found.is_text.tolist() == [item != 5 for item in found.ids]


def test_a_file_name_that_holds_most_of_the_words_beats_what_is_merely_near() -> None:
    """The words of `japanese-shop.jpg` beside "japanese shop sign"; the best by meaning is at even odds."""
    share = 0.6
    named = rank(
        {"image": near([1, 2], [0.0, -4.0])}, words((2, share, 3.0, share)), calibration("image"), Asked(SEARCHED)
    )
    assert named.ids.tolist() == [2, 1] and named.relevance[0] > 0.5
    in_text = rank(
        {"image": near([1, 2], [0.0, -4.0])}, words((2, share, 3.0, 0.0)), calibration("image"), Asked(SEARCHED)
    )
    assert in_text.ids.tolist() == [1, 2]


def test_what_the_model_cannot_read_has_only_words() -> None:
    found = rank(
        {"page": near([1, 2], [5.0, 1.0])}, NO_MATCHES, calibration("page"), Asked(SEARCHED, is_readable=False)
    )
    assert found.ids.tolist() == [1, 2], "equal by relevance, so by cosine"
    assert found.relevance.tolist() == pytest.approx([float(relevance.probability(relevance.UNASKED))] * 2)
    assert found.relevance[0] < relevance.MIN_RELEVANCE and not found.is_dense.any()


def test_another_kind_than_named_counts_less() -> None:
    asked = Asked(SEARCHED, named=frozenset({"page"}))
    found = rank({"page": near([1], [0.0]), "image": near([2], [0.0])}, NO_MATCHES, calibration("page", "image"), asked)
    assert found.relevance.tolist() == pytest.approx([float(odds(0.0)), relevance.OTHER_KIND * float(odds(0.0))])


def test_an_instruction_of_the_users_own_is_obeyed_about_kinds_whatever_words_are_found() -> None:
    """The best photo lies 6 standard deviations above the best page, which holds all words; 1 above the best clip."""
    found = rank(
        {"page": near([1], [-4.0]), "image": near([2], [2.0]), "clip": near([3], [1.0])},
        words((1, 1.0, 5.0, 0.0)),
        calibration("page", "image", "clip"),
        Asked(SEARCHED, is_one_query=True),
    )
    assert found.ids.tolist() == [2, 3, 1]
    assert found.relevance[:2].tolist() == pytest.approx(odds([2.0, 1.0]).tolist()), "within the slack"
    assert found.relevance[2] < np.exp(-4 + 1e-9)
    by_kind = rank({"page": near([1], [-4.0]), "image": near([2], [2.0])}, words((1, 1.0, 5.0, 0.0)), calibration("page", "image"), Asked(SEARCHED))  # fmt: skip
    assert by_kind.ids.tolist() == [1, 2]


def test_pages_without_text_are_judged_by_their_own_scale() -> None:
    pages = near([1, 2], [1.0, 1.0])
    weak = replace(calibration("page"), pictures_only=PLAIN._replace(bias=PLAIN.bias - 2), textless=np.array([2]))
    found = rank({"page": pages}, NO_MATCHES, weak, Asked(SEARCHED))
    assert found.relevance.tolist() == pytest.approx(odds([1.0, -1.0]).tolist())
    unfitted = replace(
        calibration("page", scale=MatchScale(-9, -8, 1.0)), pictures_only=MatchScale(0, 0, 0.5), textless=np.array([2])
    )
    sure = rank({"page": near([1, 2], [9.0, 9.0])}, NO_MATCHES, unfitted, Asked(SEARCHED))
    assert sure.ids.tolist() == [1, 2] and sure.relevance[1] == pytest.approx(float(odds(0.0)), abs=0.01)


def test_what_answers_an_unwanted_text_falls_by_how_probable_that_is() -> None:
    wanted = Near(np.array([1, 2]), np.array([2.0, 1.0]), unwanted=np.array([[0.0, -40.0]]))
    away = replace(calibration("page"), unwanted=({"page": Measure(ONE, ONE, PLAIN)},))
    found = rank({"page": wanted}, NO_MATCHES, away, Asked(SEARCHED))
    of = dict(zip(found.ids.tolist(), found.relevance.tolist(), strict=True))
    assert of[1] == pytest.approx(0.5 * float(odds(2.0))) and of[2] == pytest.approx(float(odds(1.0)))
    assert found.ids.tolist() == [2, 1]


def test_nothing_near_and_no_words_is_an_empty_order() -> None:
    found = rank({}, NO_MATCHES, Calibration({}), Asked(0))
    assert len(found) == 0 and found.ids.dtype == np.int64


# ---- properties


@pytest.mark.parametrize("seed", range(5))
def test_more_evidence_never_sinks_an_item_and_the_order_of_the_input_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids, cosines = rng.permutation(40), rng.normal(size=40).round(1)
    held = words(*((int(i), *map(float, rng.random(3).round(1))) for i in rng.permutation(60)[:25]))
    first = rank({"page": near(ids[:25].tolist(), cosines[:25].tolist()), "image": near(ids[25:].tolist(), cosines[25:].tolist())},
                 held, calibration("page", "image"), Asked(SEARCHED))  # fmt: skip
    assert (np.diff(first.relevance) <= 0).all() and len(set(first.ids.tolist())) == len(first)
    for before, after in pairwise(range(len(first))):
        if first.relevance[before] == first.relevance[after]:
            keys = [(-np.nan_to_num(first.cosine[n], nan=-2.0), first.ids[n]) for n in (before, after)]
            assert keys[0] < keys[1]

    shuffle = rng.permutation(25)
    turned = TextMatches(*(column[shuffle] for column in (held.ids, held.share, held.bm25, held.name)), terms=MANY)
    again = rank({"image": near(ids[25:][::-1].tolist(), cosines[25:][::-1].tolist()), "page": near(ids[:25][shuffle].tolist(), cosines[:25][shuffle].tolist())},
                 turned, calibration("page", "image"), Asked(SEARCHED))  # fmt: skip
    assert again.ids.tolist() == first.ids.tolist()

    for part in ("share", "bm25", "name"):
        one = int(rng.integers(25))
        more = getattr(held, part).copy()
        more[one] += 0.3
        lifted = rank({"page": near(ids[:25].tolist(), cosines[:25].tolist()), "image": near(ids[25:].tolist(), cosines[25:].tolist())},
                      replace(held, **{part: more}), calibration("page", "image"), Asked(SEARCHED))  # fmt: skip
        place = [order.ids.tolist().index(int(held.ids[one])) for order in (first, lifted)]
        assert place[1] <= place[0], part


# ---- words of a query


@pytest.mark.parametrize(
    ("query", "text", "excluded"),
    [
        ("revenue -quarter", "revenue", ("quarter",)),
        ("-quarter revenue", "revenue", ("quarter",)),
        ('dogs -"on a beach" -cats', "dogs", ("on a beach", "cats")),
        ("revenue -quarter -quarter", "revenue", ("quarter",)),
        ("-Umsatz", "", ("Umsatz",)),
        ("天气 -下雨", "天气", ("下雨",)),
        ("well-known e-mail", "well-known e-mail", ()),
        ("Q3 - results", "Q3 - results", ()),
        ("at -5 degrees, -3.5 %", "at -5 degrees, -3.5 %", ()),
        ("--flag and -- dashes", "--flag and -- dashes", ()),
        ('nothing -"" -"!"', 'nothing -"" -"!"', ()),
        ("  spaces  stay ", "  spaces  stay ", ()),
    ],
)
def test_what_a_query_excludes(query: str, text: str, excluded: tuple[str, ...]) -> None:
    found = wording_of(query)
    assert (found.text, found.excluded) == (text, excluded)


def test_words_that_a_model_could_read() -> None:
    assert words_to_read("The x-ray of a 2nd dog") == ["ray", "nd", "dog"]
    assert words_to_read("天 a 🍕 42") == ["天"]
    assert words_to_read("is it the") == []


@pytest.mark.parametrize(
    ("query", "is_read"),
    [("asdf qwer zxcv", False), ("the", False), ("🍕", False), ("2023 42", False), ("dog", True), ("dog zxcvb qwertz", False), ("big dog zxcv", True)],
)  # fmt: skip
def test_a_query_of_unknown_words_is_not_readable(query: str, is_read: bool) -> None:
    assert is_readable(query, {"dog", "big"}.__contains__) == is_read


def test_stop_words_alone_are_a_phrase_or_nothing() -> None:
    assert terms_of("to be or not to be") == ["to be or not to be"]
    assert terms_of("the") == terms_of("of and") == terms_of("?!") == []
    assert terms_of('"the who"') == ["the who"]
