"""Numbers on the development split of `../shared/data`: one command for our checkpoint and every baseline.

`python -m mmsearch.evaluation.development [CHECKPOINT] [--only pages,photos] [--quick] [--work runs/work] [--json FILE]`

What is asked lies in `split.py`, how models see it in `encoded.py`, what a number means in `metrics.py`. Baselines are slow once:
teacher vectors and what Tesseract reads are kept under the work folder.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from mmsearch.embedders import load_embedder
from mmsearch.errors import ConfigError, MissingExtra
from mmsearch.evaluation import fusion
from mmsearch.evaluation.encoded import Encoded, MultilingualE5, TextTeacher
from mmsearch.evaluation.metrics import (
    Measured,
    Metrics,
    Right,
    chance,
    intervals_of,
    mean_average_precision,
    measure,
    truncated,
)
from mmsearch.evaluation.mixed import MixedPool
from mmsearch.evaluation.ocr import read_pages
from mmsearch.evaluation.queries import LANGUAGES
from mmsearch.evaluation.report import Report, Table
from mmsearch.evaluation.speed import milliseconds
from mmsearch.evaluation.split import KindQuery, Split, composed_queries
from mmsearch.evaluation.targets import (
    BM25,
    COSTS,
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
    targets,
)
from mmsearch.evaluation.words import WordIndex, bm25_scores
from mmsearch.items import KINDS, Kind
from mmsearch.ranking import relevance
from mmsearch.training.datasets.shared_material import data_folder

log = logging.getLogger(__name__)

KIND_QUERIES = 500
WORDS_STEP = 4
"""Of the words of pages every so many are asked in the mixed pool, so that they do not outweigh the other styles."""
MATRYOSHKA_DIMS = (64, 128, 256, 384, 512)
NAMED: dict[Kind, str] = {"page": "slide about", "image": "photo of", "clip": "video of"}
"""How a person names a kind in the query itself."""


@dataclass
class Evaluation:
    """A checkpoint, the split as it sees it, and the baselines. With `is_quick` the slow baselines are left out.

    Attributes:
        costs: what a whole ingest was measured to take elsewhere: `COSTS` in `targets.py`.
        left_out: what could not be measured, and why.
    """

    checkpoint: str | Path
    encoded: Encoded
    is_quick: bool = False
    costs: Mapping[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def split(self) -> Split:
        return self.encoded.split

    @cached_property
    def teacher(self) -> TextTeacher:
        return TextTeacher(self._folder)

    @cached_property
    def e5(self) -> MultilingualE5:
        return MultilingualE5(self._folder)

    @cached_property
    def mixed(self) -> MixedPool:
        return MixedPool(self.encoded)

    def baselines(self, queries: Sequence[str], texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Per text model that is at hand its cosines [queries, texts]; a text without words is below all others."""
        if self.is_quick:
            return {}
        found = {}
        is_empty = np.array([not text.strip() for text in texts])
        for name, model in ((MINILM, self.teacher), (E5, self.e5)):
            try:
                found[name] = np.where(is_empty, -1.0, model.scores(queries, texts))
            except MissingExtra as error:
                self.left_out[name] = str(error)
        return found

    @cached_property
    def read_by_tesseract(self) -> list[str] | None:
        """The text of every page, None if Tesseract is not installed and never read them."""
        try:
            return (
                None
                if self.is_quick
                else read_pages(self.split.pages, self.split.data, self._folder / "tesseract.jsonl")
            )
        except MissingExtra as error:
            self.left_out[OCR] = str(error)
            return None

    @property
    def _folder(self) -> Path:
        return self.split.work / "evaluation"


def evaluate(evaluation: Evaluation, only: Collection[str] = ()) -> Report:
    """Everything, or the parts named in `only` (see PARTS)."""
    if unknown := set(only) - set(PARTS):
        raise ConfigError(f"unknown parts: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    tables: dict[str, Table] = {}
    for name, part in PARTS.items():
        if only and name not in only:
            continue
        log.info("%s", name)
        try:
            tables |= part(evaluation)
        except MissingExtra as error:
            evaluation.left_out[name] = str(error)
    about = {"checkpoint": str(evaluation.checkpoint), "model_key": evaluation.encoded.embedder.model_key}
    left_out = [f"{what} ({why})" for what, why in evaluation.left_out.items()]
    return Report(tables, targets(tables, evaluation.costs), left_out, about)


# Pages


def pages(evaluation: Evaluation) -> dict[str, Table]:
    """Text to page, asked in words of the pages, as people ask, and without a word in common; on all pages, slides only, papers only."""
    split = evaluation.split
    tables = {}
    pools = {"all": np.ones(len(split.pages), bool), "slides": split.is_slide, "papers": split.is_paper}
    for asked, queries, what, among in (
        ("words", split.page_queries, "words of the page", tuple(pools)),
        ("natural", split.natural_queries, "questions written by hand", tuple(pools)),
        ("paraphrases", split.paraphrases, "paraphrases without a word in common", ("all",)),
    ):
        systems = page_scores(evaluation, [query for query, _ in queries])
        for pool in among:
            kept = pools[pool]
            rows, right = within(kept, [right for _, right in queries])
            if not rows:
                continue
            tables[f"pages, {asked}, {pool}"] = Table(
                f"text -> page, {what}, {pool} ({len(rows)} queries, {kept.sum()} pages)",
                {system: measure(scores[rows][:, kept], right) for system, scores in systems.items()},
            )
    return tables


def page_scores(evaluation: Evaluation, queries: Sequence[str]) -> dict[str, np.ndarray]:
    """Per system its scores [queries, pages]."""
    encoded, split = evaluation.encoded, evaluation.split
    words = bm25_scores(queries, split.page_texts)
    systems = own_page_scores(encoded, queries)
    systems[RANK_FUSED] = fusion.reciprocal_rank_fusion(systems[DENSE], fusion.found_only(words))
    systems[PICTURE] = encoded.questions(queries, "page") @ encoded.page_pictures.T
    systems[BM25] = words
    baselines = evaluation.baselines(queries, split.page_texts)
    systems |= baselines
    if MINILM in baselines:
        systems[MINILM_BM25] = fusion.reciprocal_rank_fusion(baselines[MINILM], fusion.found_only(words))
    if evaluation.read_by_tesseract is not None:
        systems[OCR] = bm25_scores(queries, evaluation.read_by_tesseract)
    return systems


def own_page_scores(encoded: Encoded, queries: Sequence[str]) -> dict[str, np.ndarray]:
    """Scores [queries, pages] by meaning alone, and as the application answers."""
    asked = encoded.questions(queries, "page")
    dense = asked @ encoded.pages.T
    index = WordIndex(encoded.split.page_texts)
    pool = fusion.Pool({"page": encoded.pages}, encoded.generic, encoded.match_scale, ~encoded.has_text())
    return {DENSE: dense, FUSED: pool.relevance({"page": asked}, list(map(index.matches, queries)))}


def translated(evaluation: Evaluation) -> dict[str, Table]:
    """The same questions to pages in several languages, beside English."""
    split = evaluation.split
    ndcg: dict[str, dict[str, float]] = {}
    for language, queries in split.translated_queries.items():
        asked = [query for query, _ in queries]
        systems = own_page_scores(evaluation.encoded, asked) | evaluation.baselines(asked, split.page_texts)
        right = [right for _, right in queries]
        ndcg[language] = {system: measure(scores, right)["nDCG@5"] for system, scores in systems.items()}
    others = [values for language, values in ndcg.items() if language != "en"]
    english = ndcg["en"]
    rows = {LANGUAGES[language]: values for language, values in ndcg.items()}
    rows[OTHERS] = {system: float(np.mean([values[system] for values in others])) for system in english}
    measured = {
        name: Measured(values | {f"{system}, of English": _share(values[system], english[system]) for system in values})
        for name, values in rows.items()
    }
    count = len(split.translated_queries["en"])
    return {
        "questions, other languages": Table(
            f"text -> page, {count} questions by hand in {len(ndcg)} languages, nDCG@5 ({len(split.pages)} pages)",
            measured,
            'Translated by hand; the pages are English. "Of English": nDCG@5 divided by that of the same questions in English.',
        )
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def within(kept: np.ndarray, right: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Of queries with the columns `right`, those with an answer among the columns `kept` (bool [n]): their numbers, and their right
    columns counted among the kept ones."""
    place = np.cumsum(kept) - 1
    found = [[int(place[column]) for column in columns if kept[column]] for columns in right]
    rows = [row for row, columns in enumerate(found) if columns]
    return rows, [found[row] for row in rows]


# Photos and clips


def photos(evaluation: Evaluation) -> dict[str, Table]:
    """Captions and photos, both ways, and photos of one class."""
    encoded, split = evaluation.encoded, evaluation.split
    captions, owner = zip(*split.captions, strict=True)
    pool = f"{len(captions)} captions, {len(split.photos)} photos"
    own: list[list[int]] = [[] for _ in split.photos]
    for column, photo in enumerate(owner):
        own[photo].append(column)
    to_photo = encoded.questions(captions, "image") @ encoded.photos.T
    to_caption = encoded.photos @ encoded.texts(captions).T
    blind = np.random.default_rng(0).normal(size=to_caption.shape)
    labelled = split.labelled_photos
    labels = [photo.label for photo in labelled]
    alike = encoded.photo_questions(labelled)
    drawn = np.random.default_rng(0).normal(size=alike.shape)
    return {
        "caption -> photo": Table(
            f"caption -> photo ({pool})",
            {OURS: measure(to_photo, owner, groups=owner), "chance": chance(len(split.photos))},
        ),
        "photo -> caption": Table(
            f"photo -> caption, any of its five ({pool})",
            {OURS: measure(to_caption, own), "chance": measure(blind, own)},
        ),
        "photo -> photo": Table(
            f"photo -> photo of its class ({len(labelled)} photos of 64 px, {len(Counter(labels))} classes)",
            {OURS: mean_average_precision(alike, labels), "chance": mean_average_precision(drawn, labels)},
        ),
    }


def classes(evaluation: Evaluation) -> dict[str, Table]:
    """Names of the split's ImageNet classes to their pictures, among those of the split and among all."""
    encoded, split = evaluation.encoded, evaluation.split
    names = split.class_names
    scores = encoded.questions([name for name, _ in names], "image") @ encoded.class_photos.T
    tables = {}
    for pool, kept in (
        ("split", np.array([photo.development for photo in split.class_photos])),
        ("all", np.ones(len(split.class_photos), bool)),
    ):
        rows, right = within(kept, [right for _, right in names])
        tables[f"class name -> picture, {pool}"] = Table(
            f"name of a class -> its picture ({len(rows)} classes of the split, {kept.sum()} pictures)",
            {OURS: measure(scores[rows][:, kept], right), "chance": chance(int(kept.sum()))},
            "The other pictures are those of the training classes." if pool == "all" else "",
        )
    return tables


def languages(evaluation: Evaluation) -> dict[str, Table]:
    """The same captions in several languages to photos."""
    encoded, split = evaluation.encoded, evaluation.split
    systems = {}
    for language, captions in split.translated_captions.items():
        texts, owner = zip(*captions, strict=True)
        scores = encoded.questions(texts, "image") @ encoded.photos.T
        systems[LANGUAGES[language]] = measure(scores, owner, groups=owner)
    count = len(next(iter(split.translated_captions.values())))
    return {
        "caption -> photo, languages": Table(
            f"caption -> photo in the languages of Multi30k ({count} captions in each, {len(split.photos)} photos)",
            systems | {"chance": chance(len(split.photos))},
        )
    }


def clips(evaluation: Evaluation) -> dict[str, Table]:
    """What is said of a clip to the clip."""
    encoded, split = evaluation.encoded, evaluation.split
    scores = encoded.questions(split.clip_texts, "clip") @ encoded.clips.T
    return {
        "text -> clip": Table(
            f"text -> clip ({len(split.clips)} clips)",
            {OURS: measure(scores, range(len(split.clips))), "chance": chance(len(split.clips))},
        )
    }


def motion(evaluation: Evaluation) -> dict[str, Table]:
    """A photo's caption to the clip that was made of the photo."""
    encoded, split = evaluation.encoded, evaluation.split
    clips = split.moving_clips
    captions = [split.photos[clip.photos[0]].captions[0] for clip in clips]
    scores = encoded.questions(captions, "clip") @ encoded.moving_clips.T
    with_cut = [row for row, clip in enumerate(clips) if len(clip.photos) > 1]
    systems = {OURS: measure(scores, range(len(clips)))}
    if with_cut:
        systems["ours, clips that cut to a second photo"] = measure(scores[with_cut], with_cut)
    return {
        "caption -> clip of photos": Table(
            f"caption -> clip made of photos in motion ({len(clips)} clips, {len(with_cut)} with a cut)",
            systems | {"chance": chance(len(clips))},
            "Pans and zooms of 8 frames; the caption is that of the first photo, which is shown for half of the clip or longer.",
        )
    }


def passages(evaluation: Evaluation) -> dict[str, Table]:
    """Questions to passages, text alone."""
    questions, texts, right = evaluation.split.questions
    systems = {OURS: evaluation.encoded.texts(questions) @ evaluation.encoded.texts(texts).T}
    systems |= evaluation.baselines(questions, texts)
    systems[BM25] = bm25_scores(questions, texts)
    return {
        "question -> passage": Table(
            f"question -> passage ({len(questions)} questions, {len(texts)} passages)",
            {system: measure(scores, right, groups=right) for system, scores in systems.items()},
        )
    }


# Instructions, composed queries


def instructions(evaluation: Evaluation) -> dict[str, Table]:
    """In a pool of all kinds, is the first hit of the kind that the instruction names?"""
    encoded, split, pool = evaluation.encoded, evaluation.split, evaluation.mixed
    queries = split.kind_queries(KIND_QUERIES)
    wanted = np.array([query.wanted for query in queries])
    asked = np.empty((len(queries), encoded.embedder.dim), np.float32)
    for kind in KINDS:
        asked[wanted == kind] = encoded.questions([query.text for query in queries if query.wanted == kind], kind)
    cosines = pool.cosines(dict.fromkeys(KINDS, asked))
    by_instruction = pool.instructed(asked, [query.text for query in queries])
    by_words = pool.relevance([f"{NAMED[query.wanted]} {query.text}" for query in queries])
    kind_of = pool.kind_of
    return {
        "instructions": Table(
            f"first hit of the kind asked for ({len(queries)} queries; "
            f"{len(split.pages)} pages, {len(split.photos)} photos, {len(split.clips)} clips, no filter)",
            {
                OBEYED: obeyed(cosines, kind_of, queries),
                OBEYED_SERVED: obeyed(by_instruction, kind_of, queries),
                "the query's words name the kind, as the application does": obeyed(by_words, kind_of, queries),
            },
            "The text belongs to an item of any kind. Calibration measures each kind against its own background, which takes out a kind's "
            "advantage: the application searches by kind, and goes by the query's words.",
        )
    }


def obeyed(scores: np.ndarray, kind_of: np.ndarray, queries: Sequence[KindQuery]) -> Measured:
    """From scores [q, n] over items of the kinds `kind_of` [n]: how often the first is of the kind wanted."""
    first = kind_of[scores.argmax(1)]
    right = np.array([hit == query.wanted for hit, query in zip(first, queries, strict=True)])
    is_own = np.array([query.of == query.wanted for query in queries])
    parts = {
        "first hit of that kind": right,
        "text of that kind": right[is_own],
        "text of another kind": right[~is_own],
    } | {f"{kind} wanted": right[[query.wanted == kind for query in queries]] for kind in KINDS}
    intervals = intervals_of({"first hit of that kind": right})
    return Measured({name: float(np.mean(values)) for name, values in parts.items()}, intervals)


def honesty(evaluation: Evaluation) -> dict[str, Table]:
    """Does the application say "no good match" where nothing answers, and only there? Over the mixed pool, at its own cut-off."""
    split, pool = evaluation.split, evaluation.mixed
    unanswerable = split.unanswerable_queries
    best = pool.relevance([query.query for query in unanswerable]).max(1)
    silent = best < relevance.MIN_RELEVANCE
    sorts = np.array([query.sort for query in unanswerable])
    rows = {f"{sort} ({(sorts == sort).sum()})": silent[sorts == sort] for sort in dict.fromkeys(sorts)}
    size = f"{len(split.pages)} pages, {len(split.photos)} photos, {len(split.clips)} clips"

    kept: dict[str, Measured] = {}
    first, shown = [], []
    for style, queries in answerable(evaluation).items():
        scores = pool.relevance([query for query, _ in queries])
        top = scores.argmax(1)
        first.append(np.array([column in right for column, (_, right) in zip(top, queries, strict=True)]))
        shown.append(scores.max(1) >= relevance.MIN_RELEVANCE)
        kept[f"{style} ({len(queries)})"] = shown_right(first[-1], shown[-1])
    together = shown_right(np.concatenate(first), np.concatenate(shown))
    return {
        "no good match": Table(
            f"queries that nothing answers ({len(unanswerable)}; {size}), cut-off {relevance.MIN_RELEVANCE:g}",
            {EVERY: silence(silent)} | {name: silence(of_sort) for name, of_sort in rows.items()},
        ),
        "right and shown": Table(
            f"queries that something answers (the same pool, no filter), cut-off {relevance.MIN_RELEVANCE:g}",
            {EVERY: together} | kept,
        ),
    }


def answerable(evaluation: Evaluation) -> dict[str, list[tuple[str, list[int]]]]:
    """By style (query, right columns of the mixed pool)."""
    split, pool = evaluation.split, evaluation.mixed
    pages = {
        "words of the page": split.page_queries[::WORDS_STEP],
        "questions by hand": split.natural_queries,
        "paraphrases": split.paraphrases,
        "questions in other languages": split.foreign_queries,
    }
    photos = [(photo.captions[0], [row]) for row, photo in enumerate(split.photos)]
    clips = [(text, [row]) for row, text in enumerate(split.clip_texts)]
    by_kind: dict[str, tuple[Kind, list[tuple[str, list[int]]]]] = {
        **{style: ("page", queries) for style, queries in pages.items()},
        "captions of photos": ("image", photos),
        "texts of clips": ("clip", clips),
    }
    return {
        style: [(query, pool.columns(kind, right)) for query, right in queries]
        for style, (kind, queries) in by_kind.items()
    }


def silence(silent: np.ndarray) -> Measured:
    """From bool [q]: whether nothing reached the cut-off."""
    values = {SILENT: silent}
    return Measured({SILENT: float(silent.mean())}, intervals_of(values))


def shown_right(first: np.ndarray, shown: np.ndarray) -> Measured:
    """From bool [q] each: whether the first hit is right, and whether it reaches the cut-off."""
    metrics = {"right one first": float(first.mean())}
    if first.any():
        metrics[SHOWN] = float(shown[first].mean())
    return Measured(metrics | {"something is shown": float(shown.mean())})


def composed(evaluation: Evaluation) -> dict[str, Table]:
    """A photo and "the same with …", against each of the two alone; the photo itself is no candidate."""
    encoded, split = evaluation.encoded, evaluation.split
    captions = evaluation.teacher.vectors([caption for caption, _ in split.captions])
    queries = composed_queries(split.captions, captions @ captions.T)
    right = [query.target for query in queries]
    references = [query.reference for query in queries]
    both = encoded.composed_questions(queries)
    photo = encoded.photo_questions([split.photos[reference] for reference in references])
    words = encoded.questions([query.text for query in queries], "image")
    systems = {
        "photo + words": both,
        "photo alone": photo,
        "words alone": words,
        "sum of the two vectors": photo + words,
    }
    tables = {}
    for system, asked in systems.items():
        scores = asked @ encoded.photos.T
        scores[np.arange(len(queries)), references] = -np.inf
        tables[system] = measure(scores, right, groups=references)
    return {
        "composed": Table(
            f"photo + what is different -> photo ({len(queries)} pairs made from captions, {len(split.photos)} photos)",
            tables,
            'As in "the same with snow, without grass". Other photos may fit too; only one counts.',
        )
    }


# Size, speed, shorter vectors


def matryoshka(evaluation: Evaluation) -> dict[str, Table]:
    """What the first dimensions alone are worth."""
    encoded, split = evaluation.encoded, evaluation.split
    captions, owner = zip(*split.captions, strict=True)
    tasks: list[tuple[str, np.ndarray, np.ndarray, Right]] = [
        (
            name,
            encoded.questions([query for query, _ in queries], "page"),
            encoded.pages,
            [right for _, right in queries],
        )
        for name, queries in (("pages, words", split.page_queries), ("pages, natural", split.natural_queries))
    ]
    tasks.append(("photos", encoded.questions(captions, "image"), encoded.photos, owner))
    rows = {}
    for dim in sorted({*(d for d in MATRYOSHKA_DIMS if d < encoded.embedder.dim), encoded.embedder.dim}):
        metrics: Metrics = {}
        for name, asked, items, right in tasks:
            found = measure(truncated(asked, dim) @ truncated(items, dim).T, right)
            metrics |= {f"{name}: {metric}": found[metric] for metric in ("nDCG@5", "R@10")}
        rows[f"{dim} dimensions"] = Measured(metrics)
    return {"matryoshka": Table("the first dimensions of every vector, brought to unit length", rows)}


def speed(evaluation: Evaluation) -> dict[str, Table]:
    """Milliseconds on one core, and megabytes."""
    took = milliseconds(evaluation.checkpoint, evaluation.split)
    systems = {name: Measured({kind: took[kind][name] for kind in took}) for name in took["page"]}
    return {
        "speed": Table(
            "milliseconds of processor time on one core, this machine, float32 unless it has bfloat16", systems
        ),
        "size": Table("weights", {OURS: Measured({"MB": _weight_bytes(evaluation.checkpoint) / 1e6})}),
    }


def _weight_bytes(checkpoint: str | Path) -> int:
    from mmsearch.embedders.checkpoints.checkpoint import find_checkpoint

    return sum(file.stat().st_size for file in find_checkpoint(checkpoint).weight_files())


PARTS: dict[str, Callable[[Evaluation], dict[str, Table]]] = {
    "pages": pages,
    "translated": translated,
    "photos": photos,
    "classes": classes,
    "languages": languages,
    "clips": clips,
    "motion": motion,
    "passages": passages,
    "instructions": instructions,
    "honesty": honesty,
    "composed": composed,
    "matryoshka": matryoshka,
    "speed": speed,
}


def _names(words: str) -> Iterator[str]:
    return filter(None, (word.strip() for word in words.split(",")))


def read_costs(words: str) -> dict[str, float]:
    """From "pages=12.5,clips=6". Raises: ConfigError for another name, or what is no number."""
    costs = {}
    for part in _names(words):
        name, _, number = part.partition("=")
        try:
            costs[name] = float(number)
        except ValueError as error:
            raise ConfigError(f"{part!r}: expected NAME=NUMBER, as in pages=12.5") from error
    if unknown := set(costs) - set(COSTS):
        raise ConfigError(f"unknown costs: {', '.join(sorted(unknown))}; known: {', '.join(COSTS)}")
    return costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default="mini")
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--work", type=Path, default=Path("runs/work"))
    parser.add_argument("--only", default="", help=f"some of {','.join(PARTS)}, with commas between them")
    parser.add_argument("--quick", action="store_true", help="without the slow baselines (MiniLM, E5, Tesseract)")
    parser.add_argument(
        "--costs",
        default="",
        help=f"what an ingest was measured to take, to be judged with the rest: some of {','.join(COSTS)}, as in pages=12.5,clips=6",
    )
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    split = Split(data_folder(arguments.data), arguments.work)
    encoded = Encoded(load_embedder(arguments.checkpoint), split)
    evaluation = Evaluation(arguments.checkpoint, encoded, arguments.quick, read_costs(arguments.costs))
    report = evaluate(evaluation, list(_names(arguments.only)))
    if arguments.json:
        arguments.json.write_text(json.dumps(report.record(), indent=1, ensure_ascii=False), encoding="utf-8")
    sys.stdout.write(report.markdown())


if __name__ == "__main__":
    main()
