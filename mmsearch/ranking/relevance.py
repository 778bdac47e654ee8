"""From raw scores to one relevance in 0…1 that is comparable between kinds. Pure numbers; every constant to tune is here.

Cosines of different kinds, and of different queries, come from different populations. So a score is first measured against a
background: how the same query scores on random items of the same kind. Few items make a poor background, therefore it is
shrunk towards what generic queries score on this kind:

    w = n / (n + PRIOR_ITEMS)
    mean = w · centre(query) + (1 - w) · centre(generic)
    sd² = w · spread(query)² + (1 - w) · spread(generic)²
    z = (score - mean) / max(sd, SD_FLOOR)

Where the model's maker measured how right answers score (`MatchScale`), a score that is far out by chance but far below a right answer's
counts for little (`typicality`), and what the model says of a kind that it is bad at counts for less (its reliability): that keeps
pages out of a search for dogs, and pictures of print, which the model cannot read, out of all.

The best of n irrelevant items lies around sqrt(2 ln n) standard deviations above the mean, hence the middle of the logistic
moves with it. Lexical relevance is the part of the query's IDF mass that an item holds. The two are fused as independent
reasons to believe that the item is relevant (noisy-or); but where words are found, texts without them are believed less.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
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
MIDDLE_PER_CHANCE = 1.0
"""Dense relevance is 0.5 at z = MIDDLE_Z + MIDDLE_PER_CHANCE · sqrt(2 ln n), n the number of items searched."""
SLOPE_Z = 0.45
"""So many standard deviations above the middle the relevance is 0.73, twice as many 0.88."""

MEASURED_SHARE = 0.6
"""The middle is lowered by this factor for a model whose scores of right answers were measured (`typicality`), since those then keep
out what is only unlikely."""
OTHER_KIND = 0.5
"""Relevance of an item of another kind than the query's words name ("slides about …") is multiplied by this."""

LEXICAL_CEILING = 0.9
"""What an item is worth that holds every word of the query, best placed."""
LEXICAL_POWER = 1.5
"""Above 1, half of the words are worth less than half."""
LEXICAL_BM25_SHARE = 0.5
"""How much of the lexical relevance depends on BM25, that is on how often and in how short a text the words stand."""

MISSING_WORDS = 0.6
"""Where some text holds all of the query's words, being near in meaning is worth so much less for an item with a text: it should have
held them too. Of an item without text (a photo, a scanned page) missing words say nothing."""

MIN_RELEVANCE = 0.3
"""The cut-off: below it a hit is not shown, unless asked for."""
DENSE_MATCH = 0.15
"""From this dense relevance on a hit is said to match by meaning."""

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


def pooled(usual: Mapping[Kind, Background], measured: Container[str]) -> dict[Kind, Background]:
    """The backgrounds of a text query, that of photos and clips made one where the scores of both were `measured`.

    Both show what words describe, so a clip stands out among all of them, not among a few clips that are much alike.
    """
    both = [usual[kind] for kind in PICTURES if kind in usual and kind in measured]
    if len(both) < len(PICTURES):
        return dict(usual)
    one = Background(*np.mean([(own.centre, own.spread) for own in both], axis=0).tolist())
    return {**usual, **dict.fromkeys(PICTURES, one)}


def typicality(above: np.ndarray, scale: MatchScale | None) -> np.ndarray:
    """0…1: how usual it is for a right answer to lie `above` the query's usual score (cosine differences).

    `scale` holds the 30 % quantile and the median of right answers, where the model's maker measured them: 0.5 and 0.95 there.
    Without it everything is usual.
    """
    if scale is None:
        return np.ones(len(above))
    low, middle, _ = scale
    return 1 / (1 + np.exp(-np.clip((above - low) / max((middle - low) / 3, 1e-3), -50, 50)))


def dense_relevance(z: np.ndarray, searched: int, *, is_measured: bool = False) -> np.ndarray:
    """0…1 for standardised scores among `searched` items."""
    middle = MIDDLE_Z + MIDDLE_PER_CHANCE * np.sqrt(2 * np.log(max(searched, 2)))
    if is_measured:
        middle *= MEASURED_SHARE
    return 1 / (1 + np.exp(-np.clip((z - middle) / SLOPE_Z, -50, 50)))


def lexical_relevance(share: np.ndarray, bm25: np.ndarray) -> np.ndarray:
    """0…1 from the share of the query's IDF mass and BM25 scores, of which only the ratio to the best counts."""
    best = float(bm25.max()) if len(bm25) else 0.0
    place = bm25 / best if best > 0 else np.ones_like(bm25)
    return LEXICAL_CEILING * share**LEXICAL_POWER * (1 - LEXICAL_BM25_SHARE + LEXICAL_BM25_SHARE * place)


def fuse(dense: np.ndarray, lexical: np.ndarray, has_text: np.ndarray | bool = False) -> np.ndarray:
    """Either reason is enough, both together are more: 1 - (1 - dense)(1 - lexical).

    Args:
        dense, lexical: [n], what one query's candidates are worth by meaning and by words.
        has_text: bool [n], whose dense relevance falls with the best of `lexical` (see MISSING_WORDS).
    """
    findable = lexical.max(initial=0.0)
    dense = dense * np.where(has_text, 1 - MISSING_WORDS * findable, 1.0)
    return 1 - (1 - dense) * (1 - lexical)


def _centre_and_spread(scores: np.ndarray) -> tuple[float, float]:
    """Median, and its distance from the 16 % quantile: mean and sd of a normal population whose upper part, where the
    relevant items are, is never looked at."""
    low, middle = np.quantile(scores, (0.158655, 0.5))
    return float(middle), float(middle - low)
