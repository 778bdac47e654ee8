"""Choose what a checkpoint's scores are worth, by cross-validation over queries of all styles, and say how honest the result is.

`python -m mmsearch.evaluation.fit_ranking CHECKPOINT [--work runs/work] [--words] [--dry-run]`

The pool is the development split: all pages, photos and clips together, searched without a filter, as the application does it
(`fusion.Pool`). Per kind four numbers are fitted, a bias and what z, level and gap (`mmsearch.ranking.relevance`) are worth, by two aims at once:

- the right item comes first among all (softmax over the pool, each style of query counting alike);
- the relevance of a first answer says how probable it is that it is right: right first answers against the first answers to queries that
  nothing answers. A wrong first answer counts where the split knows all right ones (pages); a photo beside the one that a caption was
  written for may fit as well, so it does not.

At last all biases are moved together, so that the cut-off leaves SILENT of the queries without an answer unanswered, and no more.

The numbers go into the checkpoint's `mmsearch.json`. The constants of words stand in the code, since a library's words do not depend on
a checkpoint; `--words` fits them as well and prints what it would choose.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from mmsearch.embedders import load_embedder
from mmsearch.embedders.checkpoints.checkpoint import SIDECAR, find_checkpoint
from mmsearch.embedders.forward.vocabulary import has_word
from mmsearch.evaluation.encoded import Encoded, match_scales
from mmsearch.evaluation.fusion import Pool
from mmsearch.evaluation.metrics import measure
from mmsearch.evaluation.split import Split
from mmsearch.evaluation.words import WordIndex
from mmsearch.items import KINDS, WITHOUT_TEXT, Kind, MatchScale
from mmsearch.ranking import relevance
from mmsearch.ranking.rank import Near, TextMatches
from mmsearch.ranking.terms import is_readable, terms_of, words_to_read
from mmsearch.training.datasets.shared_material import data_folder

log = logging.getLogger(__name__)

FOLDS = 5
MOST_PER_STYLE = 300
"""Queries of a style that are looked at; the first of them in a shuffled order."""
SILENT = 0.92
"""The share of queries that nothing answers which shall end with "no good match"; a little above the 0.9 that is promised."""
FIRST_WEIGHT = 1.0
"""What the second aim counts beside the first."""
STEPS = 40
DECAY = 1e-3
NAME_WORDS, THING_PHOTOS = 2, 3
NONE = "nothing answers"
CUT_OFFS = (0.1, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Style:
    """Queries of one style.

    Attributes:
        right: per query the columns of the pool that answer it; empty where nothing does.
        kind: whose items answer; None where nothing does.
        is_strict: whether the split knows all right answers, so that any other first answer is wrong.
        by_name: whether the photos' file names are searched too.
    """

    name: str
    texts: Sequence[str]
    right: Sequence[Sequence[int]]
    kind: Kind | None
    is_strict: bool = True
    by_name: bool = False

    def shortened(self, count: int = MOST_PER_STYLE) -> Style:
        chosen = np.sort(np.random.default_rng(3).permutation(len(self.texts))[:count])
        return replace(self, texts=[self.texts[n] for n in chosen], right=[self.right[n] for n in chosen])


@dataclass
class Material:
    """A checkpoint's vectors of the split, and the queries.

    Attributes:
        picture_pages: the pages' vectors as pictures alone.
        ask: texts and a kind to float32 [q, dim]. has_word: whether the model reads a word as a word.
    """

    pool: Pool
    page_texts: Sequence[str]
    styles: Sequence[Style]
    ask: Callable[[Sequence[str], Kind], np.ndarray]
    picture_pages: np.ndarray | None = None
    photo_names: Sequence[str] = ()
    has_word: Callable[[str], bool] = field(default=lambda word: True)

    @cached_property
    def indexes(self) -> dict[bool, WordIndex]:
        """The words of the pool, without and with the photos' names."""
        texts = [*self.page_texts, *[""] * (self.pool.size - len(self.page_texts))]
        names = [""] * self.pool.size
        for column, name in zip(self.pool.columns.get("image", ()), self.photo_names, strict=False):
            names[column] = name
        return {False: WordIndex(texts), True: WordIndex(texts, names)}


def material_of(encoded: Encoded) -> Material:
    """Everything that the split has for a checkpoint."""
    split = encoded.split
    items: dict[Kind, np.ndarray] = {"page": encoded.pages, "image": encoded.photos, "clip": encoded.clips}
    pool = Pool(items, encoded.generic, match_scales(encoded), ~encoded.has_text())
    names = photo_names([photo.captions for photo in split.photos])
    tokenizer = getattr(encoded.embedder, "tokenizer", None)
    return Material(
        pool,
        split.page_texts,
        [style.shortened() for style in styles_of(split, pool, names)],
        encoded.questions,
        encoded.page_pictures,
        names,
        (lambda word: True) if tokenizer is None else (lambda word: has_word(tokenizer, word)),
    )


def styles_of(split: Split, pool: Pool, names: Sequence[str]) -> list[Style]:
    """The styles of queries that there are; those of kinds that the pool lacks are left out."""
    styles = [
        Style("words of the page", *_parted(split.page_queries), "page"),
        Style("questions", *_parted(split.natural_queries), "page"),
        Style("paraphrases", *_parted(split.paraphrases), "page"),
        Style("other languages", *_parted(split.foreign_queries), "page"),
    ]
    if "image" in pool.items:
        first = int(pool.columns["image"][0])
        captions = [photo.captions[n % len(photo.captions)] for n, photo in enumerate(split.photos)]
        styles.append(
            Style("captions", captions, [[first + n] for n in range(len(captions))], "image", is_strict=False)
        )
        styles.append(thing_style([photo.captions for photo in split.photos], first))
        styles.append(name_style([photo.captions for photo in split.photos], names, first))
    if "clip" in pool.items:
        first = int(pool.columns["clip"][0])
        alike = [[first + n for n, text in enumerate(split.clip_texts) if text == own] for own in split.clip_texts]
        styles.append(Style("clips", split.clip_texts, alike, "clip", is_strict=False))
    texts = [asked.query for asked in split.unanswerable_queries]
    return [*styles, Style(NONE, texts, [[] for _ in texts], None)]


def photo_names(captions: Sequence[Sequence[str]]) -> list[str]:
    """A file name for each photo, as a person might give it: the longest words of its first caption, "motorbike-desert.jpg"."""
    return ["-".join(_content(texts[0])[:NAME_WORDS]) + ".jpg" for texts in captions]


def thing_style(captions: Sequence[Sequence[str]], first: int) -> Style:
    """Single words, as "dog": those that at least half of a photo's captions hold, in a few photos or more."""
    held: dict[str, list[int]] = {}
    for n, own in enumerate(captions):
        counts = Counter(word for text in own for word in set(_content(text)))
        for word, count in counts.items():
            if 2 * count >= len(own):
                held.setdefault(word, []).append(first + n)
    words = sorted(word for word, photos in held.items() if len(photos) >= THING_PHOTOS)
    return Style("single words", words, [held[word] for word in words], "image", is_strict=False)


def name_style(captions: Sequence[Sequence[str]], names: Sequence[str], first: int) -> Style:
    """The words of a photo's name and one more that is not in it, from another of its captions."""
    texts, right = [], []
    for name, own in zip(names, captions, strict=True):
        words = name.removesuffix(".jpg").split("-")
        more = [word for text in own[1:] for word in _content(text) if word not in words]
        texts.append(" ".join([*words, *more[:1]]))
        right.append([first + n for n, other in enumerate(names) if other == name])
    return Style("names and one more word", texts, right, "image", by_name=True)


def _content(text: str) -> list[str]:
    words = [term for term in terms_of(text) if re.fullmatch("[a-z]{3,}", term)]
    return sorted(dict.fromkeys(words), key=lambda word: (-len(word), word))


def _parted(queries: Sequence[tuple[str, list[int]]]) -> tuple[list[str], list[list[int]]]:
    return [query for query, _ in queries], [right for _, right in queries]


# What is fitted


@dataclass
class Features:
    """What the relevance of every item is made of, for all queries; float32 [q, n] but where said.

    Attributes:
        best_z, best_level: of the item's kind, counted from what chance gives. gap: from the best's z down to the item's.
        surprise, whole, name: as in `mmsearch.ranking.relevance.parts_by_words`.
        readable: bool [q]. right: bool [q, n]. style: int [q], places in `names`.
        counts: bool [q], whether a wrong first answer counts as one.
        kind_of: int [n], places in KINDS.
    """

    best_z: torch.Tensor
    best_level: torch.Tensor
    gap: torch.Tensor
    surprise: torch.Tensor
    whole: torch.Tensor
    name: torch.Tensor
    readable: torch.Tensor
    right: torch.Tensor
    style: torch.Tensor
    counts: torch.Tensor
    kind_of: torch.Tensor
    names: Sequence[str]

    def of(self, rows: np.ndarray) -> Features:
        chosen = torch.from_numpy(rows)
        shared = {"kind_of", "names"}
        parts = {part.name: getattr(self, part.name)[chosen] for part in fields(self) if part.name not in shared}
        return replace(self, **parts)


def features_of(material: Material, *, is_picture_only: bool = False) -> Features:
    """`is_picture_only`: pages are given as pictures, and their words are not known."""
    pool = material.pool
    if is_picture_only:
        assert material.picture_pages is not None
        pool = replace(pool, items={**pool.items, "page": material.picture_pages})
    scales: dict[str, MatchScale] = {kind: MatchScale(0, 1, 1) for kind in pool.items}
    pool = replace(pool, scales=scales)  # whatever they are: that there are some decides what is pooled
    rows: dict[str, list] = {part: [] for part in ("best_z", "best_level", "gap", "surprise", "whole", "name")}
    readable, right, style, counts = [], [], [], []
    for number, one in enumerate(material.styles):
        index = material.indexes[one.by_name]
        asked = {kind: material.ask(one.texts, kind) for kind in pool.items}
        for text, columns, near in zip(one.texts, one.right, pool.near(asked), strict=True):
            for part, values in _parts_by_meaning(near, pool).items():
                rows[part].append(values)
            for part, values in _parts_by_words(index.matches(text), pool.size).items():
                if is_picture_only:
                    values[: len(material.page_texts)] = 0
                rows[part].append(values)
            words = {word for word in words_to_read(text) if index.knows(word) or material.has_word(word)}
            readable.append(is_readable(text, words.__contains__))
            right.append(np.isin(np.arange(pool.size), columns))
            style.append(number)
            counts.append(one.is_strict)
    tables = {part: torch.tensor(np.array(values), dtype=torch.float32) for part, values in rows.items()}
    kind_of = np.concatenate([np.full(len(pool.items[kind]), KINDS.index(kind)) for kind in pool.items])
    return Features(
        **tables,
        readable=torch.tensor(readable),
        right=torch.tensor(np.array(right)),
        style=torch.tensor(style),
        counts=torch.tensor(counts),
        kind_of=torch.tensor(kind_of),
        names=[one.name for one in material.styles],
    )


def _parts_by_meaning(near: Mapping[Kind, Near], pool: Pool) -> dict[str, np.ndarray]:
    parts: dict[str, list[np.ndarray]] = {"best_z": [], "best_level": [], "gap": []}
    for kind, measured_by in pool.calibration(near).kinds.items():
        z = relevance.standardised(near[kind].cosines, measured_by.own)
        level = relevance.standardised(near[kind].cosines, measured_by.generic)
        parts["best_z"].append(np.full(len(z), z.max() - relevance.chance(pool.size)))
        parts["best_level"].append(np.full(len(z), level.max() - relevance.chance(pool.size)))
        parts["gap"].append(z - z.max())
    return {part: np.concatenate(values) for part, values in parts.items()}


def _parts_by_words(words: TextMatches, size: int) -> dict[str, np.ndarray]:
    parts = {part: np.zeros(size) for part in ("surprise", "whole", "name")}
    for held, of_found in zip(
        parts.values(), relevance.parts_by_words(words.share, words.bm25, words.name, words.terms), strict=True
    ):
        held[words.ids] = of_found
    return parts


@dataclass
class Weights:
    """What is fitted: per kind (rows in the order of KINDS) bias, per_z, per_level, per_gap; and the constants of words."""

    kinds: torch.Tensor
    words: torch.Tensor
    unseen: float = relevance.UNSEEN

    @staticmethod
    def start() -> Weights:
        words = [relevance.SURPRISE, relevance.WHOLE, relevance.NAMED]
        return Weights(torch.tensor([[-2.0, 0.5, 0.3, 0.7]] * len(KINDS)), torch.tensor(words))

    def odds(self, features: Features) -> torch.Tensor:
        """float32 [q, n]: `relevance.together(by_meaning, by_words)`."""
        bias, per_z, per_level, per_gap = self.kinds[features.kind_of].T
        meaning = bias + per_z * features.best_z + per_level * features.best_level + per_gap * features.gap
        meaning = torch.where(features.readable[:, None], meaning, -torch.inf)
        surprise, whole, named = self.words
        words = surprise * features.surprise + whole * features.whole + named * features.name
        seen = torch.logaddexp(meaning, torch.tensor(self.unseen))
        return torch.where(features.readable[:, None], seen, torch.tensor(relevance.UNASKED)) + words


def fit(features: Features, start: Weights, *, only: Sequence[int] = (), with_words: bool = False) -> Weights:
    """The weights of the kinds (places in KINDS; all without `only`) and, `with_words`, of words."""
    kinds, words = start.kinds.clone().requires_grad_(), start.words.clone().requires_grad_(with_words)
    sharpness = torch.zeros((), requires_grad=True)
    answerable = features.right.any(1)
    per_query = _style_weights(features.style)
    is_fitted = torch.zeros(len(KINDS), 1)
    is_fitted[list(only) or slice(None)] = 1
    optimiser = torch.optim.LBFGS(
        [kinds, sharpness, *([words] if with_words else [])], max_iter=STEPS, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        moved = start.kinds + (kinds - start.kinds) * is_fitted
        bound = torch.cat([moved[:, :1], moved[:, 1:].clamp(min=0)], 1)  # more alike is never worth less
        odds = Weights(bound, words.clamp(min=0), start.unseen).odds(features)
        scores = odds * sharpness.exp()
        hit = torch.where(features.right, scores, -torch.inf).logsumexp(1) - scores.logsumexp(1)
        order = -(per_query * hit)[answerable].sum() / per_query[answerable].sum()
        best, place = odds.max(1)
        is_right = features.right.gather(1, place[:, None])[:, 0]
        says = is_right | features.counts
        # As many queries with an answer as without: what a cut-off is worth is judged on both alike.
        balance = torch.where(answerable, 1.0, float(answerable.sum()) / max(1.0, float((~answerable).sum())))
        balance = torch.where(answerable, per_query, per_query.mean() * balance) * says
        honest = torch.nn.functional.binary_cross_entropy_with_logits(best, is_right.float(), reduction="none")
        total = order + FIRST_WEIGHT * (balance * honest).sum() / balance.sum()
        total = total + DECAY * ((kinds - start.kinds) ** 2).sum() + DECAY * ((words - start.words) ** 2).sum()
        total.backward()
        return total

    optimiser.step(loss)
    with torch.no_grad():
        moved = start.kinds + (kinds - start.kinds) * is_fitted
        bound = torch.cat([moved[:, :1], moved[:, 1:].clamp(min=0)], 1)
        found = Weights(bound, words.detach().clamp(min=0), start.unseen)
        return found if only else settled(features, found)


def settled(features: Features, weights: Weights) -> Weights:
    """All biases moved alike, as far up as SILENT allows."""
    nothing_answers = features.of(np.flatnonzero(~features.right.any(1).numpy()))
    cut_off = float(relevance.log_odds(np.array(relevance.MIN_RELEVANCE)))
    moved = weights
    for step in np.arange(-1.5, 2.5, 0.05):
        shift = torch.tensor([float(step), 0.0, 0.0, 0.0])
        higher = replace(weights, kinds=weights.kinds + shift)
        with torch.no_grad():
            firsts = higher.odds(nothing_answers).amax(1)
        if len(firsts) and (firsts < cut_off).float().mean() < SILENT:
            break
        moved = higher
    return moved


def _style_weights(style: torch.Tensor) -> torch.Tensor:
    """float32 [q]: each style counts alike, with the square root of a few's share of a full one's."""
    counts = torch.bincount(style).float()
    return (counts.clamp(max=100) / 100).sqrt()[style] / counts[style]


# What is told


@dataclass
class Found:
    """Of every query: the scores of the items, and what the first answer says.

    Attributes:
        odds: float32 [q, n]. first: float [q], its relevance. is_right: bool [q].
    """

    odds: torch.Tensor
    first: np.ndarray
    is_right: np.ndarray


def found_by(features: Features, weights: Weights) -> Found:
    with torch.no_grad():
        odds = weights.odds(features)
        best, place = odds.max(1)
        return Found(odds, torch.sigmoid(best).numpy(), features.right.gather(1, place[:, None])[:, 0].numpy())


def cross_validated(features: Features, start: Weights, *, folds: int = FOLDS, with_words: bool = False) -> Found:
    """Every query answered by weights that were fitted on the other folds."""
    count = len(features.style)
    fold = np.random.default_rng(11).permutation(count) % folds
    odds = torch.empty(features.right.shape)
    for number in range(folds):
        held = np.flatnonzero(fold == number)
        weights = fit(features.of(np.flatnonzero(fold != number)), start, with_words=with_words)
        with torch.no_grad():
            odds[torch.from_numpy(held)] = weights.odds(features.of(held))
    best, place = odds.max(1)
    return Found(odds, torch.sigmoid(best).numpy(), features.right.gather(1, place[:, None])[:, 0].numpy())


def table_by_style(features: Features, found: Found, beside: dict[str, torch.Tensor] | None = None) -> str:
    """Markdown: per style nDCG@5 over the pool, right first answers, the kind of the first, and what stays above the cut-off."""
    beside = beside or {}
    header = [
        "style",
        "queries",
        "nDCG@5",
        *beside,
        "first right",
        "first of its kind",
        "right firsts kept",
        "answered",
    ]
    lines = [" | ".join(header), " | ".join(["---"] * len(header))]
    style, kind_of = features.style.numpy(), features.kind_of.numpy()
    for number, name in enumerate(features.names):
        rows = np.flatnonzero(style == number)
        right = [np.flatnonzero(features.right[row].numpy()).tolist() for row in rows]
        is_shown = found.first[rows] >= relevance.MIN_RELEVANCE
        cells = [name, str(len(rows))]
        if any(right):
            own = kind_of[[columns[0] for columns in right]]
            first = kind_of[found.odds[rows].argmax(1).numpy()]
            is_right = found.is_right[rows]
            tables = [found.odds, *beside.values()]
            cells += [f"{measure(table[rows].numpy(), right)['nDCG@5']:.3f}" for table in tables]
            cells += [f"{is_right.mean():.3f}", f"{(own == first).mean():.3f}"]
            cells += [f"{is_shown[is_right].mean():.3f}" if is_right.any() else "-"]
        else:
            cells += ["-"] * (4 + len(beside))
        lines.append(" | ".join([*cells, f"{is_shown.mean():.3f}"]))
    return "\n".join(f"| {line} |" for line in lines)


def cut_offs(features: Features, found: Found) -> str:
    """Markdown: what each cut-off keeps of right first answers, and lets through where nothing answers."""
    is_none = ~features.right.any(1).numpy()
    lines = ["cut-off | right first answers kept | no good match where nothing answers", "--- | --- | ---"]
    for cut in CUT_OFFS:
        kept, silent = found.first[found.is_right] >= cut, found.first[is_none] < cut
        lines.append(f"{cut} | {kept.mean():.3f} | {silent.mean() if is_none.any() else float('nan'):.3f}")
    return "\n".join(f"| {line} |" for line in lines)


def reliability_curve(said: np.ndarray, is_right: np.ndarray, *, bins: int = 5) -> list[tuple[float, float, int]]:
    """(mean of what was said, share that is right, how many) of first answers, in bins of equal width of what was said; empty ones are left out.

    Args:
        said: float [n] in 0…1. is_right: bool [n].
    """
    place = np.minimum((np.asarray(said) * bins).astype(int), bins - 1)
    return [
        (float(said[place == n].mean()), float(is_right[place == n].mean()), int((place == n).sum()))
        for n in range(bins)
        if (place == n).any()
    ]


def curve_of(features: Features, found: Found) -> str:
    """Markdown of `reliability_curve`, over the queries of which the split knows all right answers."""
    rows = features.counts.numpy()
    lines = ["relevance said | share right | first answers", "--- | --- | ---"]
    lines += [
        f"{said:.2f} | {right:.2f} | {count}"
        for said, right, count in reliability_curve(found.first[rows], found.is_right[rows])
    ]
    return "\n".join(f"| {line} |" for line in lines)


def baselines(features: Features) -> dict[str, torch.Tensor]:
    """By meaning alone (standard deviations within each kind), and by words alone with the code's constants."""
    surprise, whole, named = Weights.start().words
    words = surprise * features.surprise + whole * features.whole + named * features.name
    return {"dense": features.best_z + features.gap, "words": words}


def fitted_scales(
    material: Material, measured: dict[str, MatchScale], *, with_words: bool = False
) -> tuple[dict[str, MatchScale], str]:
    """`measured` with the fitted numbers, and the report (markdown)."""
    features = features_of(material)
    start = Weights.start()
    found = cross_validated(features, start, with_words=with_words)
    weights = fit(features, start, with_words=with_words)
    scales = dict(measured)
    for kind in material.pool.items:
        scales[kind] = measured[kind]._replace(**_named(weights.kinds[KINDS.index(kind)]))
    report = [
        f"by style, over {material.pool.size:,} items of all kinds, {FOLDS}-fold cross-validation, cut-off {relevance.MIN_RELEVANCE}",
        table_by_style(features, found, baselines(features)),
        "",
        cut_offs(features, found),
        "",
        curve_of(features, found),
        "",
    ]
    if material.picture_pages is not None:
        alone = features_of(material, is_picture_only=True)
        pictures = fit(alone, weights, only=[KINDS.index("page")])
        scales[WITHOUT_TEXT] = measured[WITHOUT_TEXT]._replace(**_named(pictures.kinds[KINDS.index("page")]))
        report += ["pages as pictures alone (fitted and asked on the same queries)"]
        report += [table_by_style(alone, found_by(alone, pictures)), ""]
    report += [f"{name}: {list(scale)}" for name, scale in scales.items()]
    if with_words:
        report.append("words: SURPRISE, WHOLE, NAMED = " + ", ".join(f"{value:.2f}" for value in weights.words))
    return scales, "\n".join(report)


def _named(numbers: torch.Tensor) -> dict[str, float]:
    return dict(
        zip(("bias", "per_z", "per_level", "per_gap"), (round(float(number), 4) for number in numbers), strict=True)
    )


def write_scales(checkpoint: Path, scales: dict[str, MatchScale]) -> None:
    """Into the checkpoint's `mmsearch.json`; what else stands there stays."""
    sidecar = checkpoint / SIDECAR
    said = json.loads(sidecar.read_text(encoding="utf-8")) if sidecar.exists() else {}
    sidecar.write_text(json.dumps(said | {"match_scale": scales}, indent=2), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default="mini")
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--work", type=Path, default=Path("runs/work"))
    parser.add_argument("--words", action="store_true", help="fit the constants of words as well, and print them")
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    encoded = Encoded(load_embedder(arguments.checkpoint), Split(data_folder(arguments.data), arguments.work))
    material = material_of(encoded)
    scales, report = fitted_scales(material, match_scales(encoded), with_words=arguments.words)
    sys.stdout.write(report + "\n")
    if not arguments.dry_run:
        write_scales(find_checkpoint(arguments.checkpoint).base, scales)


if __name__ == "__main__":
    main()
