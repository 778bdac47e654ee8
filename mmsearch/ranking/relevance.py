"""From raw scores to evidence in log-odds, and from evidence to one relevance in 0…1 that is comparable between kinds. Pure numbers;
every constant to tune is here, and `python -m mmsearch.evaluation.fit_ranking` chooses them.

**By meaning.** Cosines of different kinds, and of different queries, come from different populations. So a score is measured against two
backgrounds: how the same query scores on random items of the same kind (`z`), and how generic queries score there (`level`). Few items
make a poor background, therefore the first is shrunk towards the second:

    w = n / (n + PRIOR_ITEMS)
    mean = w · centre(query) + (1 - w) · centre(generic)
    sd² = w · spread(query)² + (1 - w) · spread(generic)²
    z = (score - mean) / max(sd, SD_FLOOR)          level = (score - centre(generic)) / max(spread(generic), SD_FLOOR)

The best of n irrelevant items lies around sqrt(2 ln n) standard deviations above the mean, so both are counted from there: what is far
out among ten items is not among a million. A checkpoint whose right answers were measured says for each kind what these are worth (`MatchScale`): that is what makes kinds comparable. How
probable it is that a kind answers at all, z and level of its best item say; how much less probable another item of it is, the gap to the best:

    log-odds = bias + per_z · (z of the best - sqrt(2 ln n)) + per_level · (level of the best - sqrt(2 ln n)) + per_gap · (z - z of the best)

**By words.** An item is worth the more, the more of the query's IDF mass it holds, the more surprising these words are in the library
(BM25 measures that), and the more of them stand in the file's name. A few common words of a long question are worth little, all words
of a query much: so words decide where they are concentrated in few items, and meaning decides where they are not.

**Together.** Log-odds add up. What the model says against an item is bounded (`UNSEEN`): an item that holds the query's words can be right
although the model sees nothing in it. Of an item without a vector it says nothing (`UNASKED`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from mmsearch.items import Kind, MatchScale

SAMPLE_SIZE = 2000
"""Stored vectors per kind that form a background."""
PRIOR_ITEMS = 50
"""A sample of so many items counts as much as the generic queries."""
SD_FLOOR = 0.02
"""Cosine differences below this are never taken for more than one standard deviation."""

PICTURES: tuple[Kind, ...] = ("image", "clip")

MIDDLE_Z = 0.4
SLOPE_Z = 0.45
"""For a model whose right answers were not measured: even odds at z = MIDDLE_Z + sqrt(2 ln n), n the number of items searched, and
so many standard deviations further for each unit of log-odds."""
SURE = 2.0
"""Log-odds of such a model grow only logarithmically from here on: nobody measured what a score that is far out is worth, and the words
of a query must be able to outweigh it."""
MEASURED_SHARE = 0.6
"""The middle is lowered by this factor for a checkpoint of which only the scores of right answers are known (`typicality`), since those then
keep out what is only unlikely."""
OTHER_KIND = 0.4
"""Relevance of an item of another kind than the query's words name ("slides about …") is multiplied by this: what is almost sure is still shown."""
KIND_SLACK = 2.0
"""A kind whose best item lies further than this many standard deviations below the best of all is not what an instruction of the user's
own asks for."""

UNSEEN, UNASKED = -3.0, -1.5
"""Log-odds that an item answers the query when the model sees nothing in it, and when it was not asked about it."""
SURPRISE, SURPRISE_POWER = 1.0, 3
"""What share^power · ln(1 + BM25) is worth: rare words of a query count, the less of it they are the less."""
WHOLE, WHOLE_POWER = 3.0, 3
"""What holding all words is worth; half of them are worth an eighth of it."""
SINGLE = 1 / 2
"""So much of that is lacking where the query is a single word, of two words the square of it, …: a text that holds one word need not be
about it."""
NAMED, NAMED_POWER = 6.0, 2
"""What it is worth if the file's name holds all words; half of them are worth a quarter of it."""

MIN_RELEVANCE = 0.3
"""The cut-off: below it a hit is not shown, unless asked for."""
DENSE_MATCH = 0.15
"""From this relevance by meaning alone on a hit is said to match by meaning."""

GENERIC_QUERIES = tuple(
    """a dog running on grass|two people talking in an office|a plate of food on a table|a red car parked in the street
the annual report of a company|a table with numbers|a chart that shows growth|a city skyline at night|a child with a toy
mountains and a lake|a person riding a bicycle|how to install the software|an invoice with a total amount|a cat on a sofa
a map of the region|a football match in a stadium|a diagram of a network|waves on a beach|a woman in a white dress|snow in a forest
a list of references|a kitchen with a sink|an aeroplane in the sky|a man playing the guitar|the results of an experiment
a train at a station|a group of friends at dinner|the terms of a contract|a bird on a branch|an old building with columns
a slide with bullet points|a computer on a desk|flowers in a vase|a boat on a river|a street market with fruit|a horse in a field
the title page of a paper|mathematical formulas|a doctor with a patient|a bridge over water|someone cooking soup|a sunset
health and safety rules|the history of the town|a lecture about biology|a wedding ceremony|children in a classroom
a bedroom with a large bed|a sign with a warning|a bus on a busy road|a bar chart by year|a timetable of events|a letter from the bank
a close-up of an insect|workers on a building site|a swimming pool|the structure of a protein|a portrait of an old man
energy and climate policy|a pizza with cheese|a screenshot of a website|a tennis player serving|budget and expenses|a waterfall""".replace(
        "\n", "|"
    ).split("|")
)
"""Sixty-odd queries on nothing in particular, used only to learn how scores of irrelevant pairs are spread."""


@dataclass(frozen=True, slots=True)
class Background:
    """How irrelevant pairs of a kind score: the prior that a single query's own background is shrunk towards."""

    centre: float
    spread: float


def background(queries: np.ndarray, sample: np.ndarray, *, is_same_set: bool = False) -> Background:
    """The background of float32 [m, dim] queries over float32 [n, dim] vectors, both of unit length.

    `is_same_set`: `queries` are rows of `sample`; pairs of a vector with itself (or its twin) are left out.
    """
    scores = queries @ sample.T
    scores = scores[scores < 0.9999] if is_same_set else scores.ravel()
    return background_of(scores)


def background_of(scores: np.ndarray) -> Background:
    """The background of scores float32 [n] of irrelevant pairs, however they were compared."""
    return Background(*_centre_and_spread(scores)) if scores.size else Background(0.0, 1.0)


def own_background(own: np.ndarray, prior: Background) -> Background:
    """The background of one query, given its cosines `own` on a random sample of its kind and the kind's prior."""
    n = len(own)
    weight = n / (n + PRIOR_ITEMS)
    centre, spread = _centre_and_spread(own) if n else (0.0, 0.0)
    mean = weight * centre + (1 - weight) * prior.centre
    sd = float(np.sqrt(weight * spread**2 + (1 - weight) * prior.spread**2))
    return Background(mean, max(sd, SD_FLOOR))


@dataclass(frozen=True, slots=True)
class Measure:
    """What cosines of one query with items of one kind are measured by.

    Attributes:
        own: how the query scores on random items of the kind. generic: how generic queries do.
        scale: what right answers score, where the checkpoint's maker measured it.
    """

    own: Background
    generic: Background
    scale: MatchScale | None = None


def measures(
    own: Mapping[Kind, Background],
    generic: Mapping[Kind, Background],
    scales: Mapping[Kind, MatchScale | None],
    *,
    is_one_query: bool = False,
) -> dict[Kind, Measure]:
    """What a query's cosines with each kind are measured by.

    With `is_one_query` the query is the same vector for all kinds, since an instruction of the user's own takes the place of the kinds'. Then
    its raw cosines are comparable, and what the instruction says of kinds is obeyed: all kinds share one background. Otherwise only photos
    and clips do, where the scores of both were measured.
    """
    alike = own.keys() if is_one_query else [kind for kind in PICTURES if scales.get(kind) is not None]
    return {kind: Measure(usual, generic[kind], scales.get(kind)) for kind, usual in pooled(own, alike).items()}


def pooled(usual: Mapping[Kind, Background], kinds: Collection[str]) -> dict[Kind, Background]:
    """The backgrounds of a query, those of `kinds` made one where there are several.

    What shows the same sort of thing stands out among all of them: a clip among photos too, not among a few clips that are much alike.
    """
    several = [kind for kind in usual if kind in kinds]
    if len(several) < 2:
        return dict(usual)
    one = Background(*np.mean([(usual[kind].centre, usual[kind].spread) for kind in several], axis=0).tolist())
    return {**usual, **dict.fromkeys(several, one)}


def standardised(cosines: np.ndarray, background: Background) -> np.ndarray:
    """float64: how many standard deviations of the background each of `cosines` lies above it."""
    return (np.asarray(cosines, np.float64) - background.centre) / max(background.spread, SD_FLOOR)


def chance(searched: int) -> float:
    """How many standard deviations above the mean the best of so many irrelevant items lies."""
    return float(np.sqrt(2 * np.log(max(searched, 2))))


def typicality(above: np.ndarray, scale: MatchScale) -> np.ndarray:
    """0…1: how usual it is for a right answer to lie `above` the query's usual score (cosine differences): 0.5 at the 30 % quantile of
    right answers, 0.95 at their median."""
    return 1 / (1 + np.exp(-np.clip((above - scale.low) / max((scale.middle - scale.low) / 3, 1e-3), -50, 50)))


def by_meaning(cosines: np.ndarray, measure: Measure, searched: int, *, is_each_best: bool = False) -> np.ndarray:
    """Log-odds, float64 [n], that items of a kind answer a query, by its cosines with them alone.

    Three cases: the checkpoint says what z, level and gap are worth; it says only how right answers score; it says nothing.

    Args:
        cosines: of items among which the kind's best one is; with `is_each_best` of any, each judged as if it were that.
    """
    z = standardised(cosines, measure.own)
    scale = measure.scale
    if scale is None:
        odds = (z - MIDDLE_Z - chance(searched)) / SLOPE_Z
        return np.where(odds > SURE, SURE + np.log1p(np.maximum(0, odds - SURE)), odds)
    if scale.is_fitted:
        level = standardised(cosines, measure.generic)
        best, best_level = (z, level) if is_each_best or not len(z) else (z.max(), level.max())
        of_kind = (
            scale.bias + scale.per_z * (best - chance(searched)) + scale.per_level * (best_level - chance(searched))
        )
        return of_kind + scale.per_gap * (z - best)
    worth = probability((z - MEASURED_SHARE * (MIDDLE_Z + chance(searched))) / SLOPE_Z)
    above = np.asarray(cosines, np.float64) - measure.own.centre
    return log_odds(worth * typicality(above, scale) * scale.reliability)


def obedience(best: Mapping[Kind, float]) -> dict[Kind, float]:
    """0…1 for each kind: how far one query for all kinds asks for it, from the z of its best item over one background."""
    top = max(best.values(), default=0.0)
    return {kind: float(np.exp(min(0.0, z - top + KIND_SLACK))) for kind, z in best.items()}


def by_words(share: np.ndarray, bm25: np.ndarray, name: np.ndarray, terms: int) -> np.ndarray:
    """Log-odds, float64 [n], that words add: 0 where an item holds none.

    Args:
        share: 0…1, the part of the query's IDF mass that an item holds. name: the part that its file name holds.
        bm25: 0 or more. terms: how many words and phrases the query has.
    """
    surprise, whole, named = parts_by_words(share, bm25, name, terms)
    return SURPRISE * surprise + WHOLE * whole + NAMED * named


def parts_by_words(
    share: np.ndarray, bm25: np.ndarray, name: np.ndarray, terms: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float64 [n] each: what SURPRISE, WHOLE and NAMED are multiplied by; arguments as for `by_words`."""
    share, bm25, name = (np.asarray(part, np.float64) for part in (share, bm25, name))
    return share**SURPRISE_POWER * np.log1p(bm25), (1 - SINGLE**terms) * share**WHOLE_POWER, name**NAMED_POWER


def together(meaning: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The log-odds of items, float64 [n]. `meaning` is -inf where the model was not asked."""
    return np.where(np.isneginf(meaning), UNASKED, np.logaddexp(meaning, UNSEEN)) + words


def probability(odds: np.ndarray) -> np.ndarray:
    """0…1 from log-odds."""
    return 1 / (1 + np.exp(-np.clip(odds, -50, 50)))


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Finite for 0 and 1 too."""
    inside = np.clip(probabilities, 1e-15, 1 - 1e-15)
    return np.log(inside / (1 - inside))


def _centre_and_spread(scores: np.ndarray) -> tuple[float, float]:
    """Median, and its distance from the 16 % quantile: mean and sd of a normal population whose upper part, where the
    relevant items are, is never looked at."""
    low, middle = np.quantile(scores, (0.158655, 0.5))
    return float(middle), float(middle - low)
