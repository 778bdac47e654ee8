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
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from mmsearch.embedders import load_embedder
from mmsearch.errors import ConfigError, MissingExtra
from mmsearch.evaluation import fusion
from mmsearch.evaluation.encoded import Encoded, TextTeacher
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
from mmsearch.evaluation.ocr import read_pages
from mmsearch.evaluation.report import Report, Table
from mmsearch.evaluation.speed import milliseconds
from mmsearch.evaluation.split import KindQuery, Split, composed_queries
from mmsearch.evaluation.targets import (
    BM25,
    DENSE,
    FUSED,
    MINILM,
    MINILM_BM25,
    OCR,
    OURS,
    PICTURE,
    RANK_FUSED,
    targets,
)
from mmsearch.evaluation.words import WordIndex, bm25_scores
from mmsearch.items import KINDS, Kind
from mmsearch.training.sources import data_folder

log = logging.getLogger(__name__)

KIND_QUERIES = 500
MATRYOSHKA_DIMS = (64, 128, 256, 384)
NAMED: dict[Kind, str] = {"page": "slide about", "image": "photo of", "clip": "video of"}
"""How a person names a kind in the query itself."""


@dataclass
class Evaluation:
    """A checkpoint, the split as it sees it, and the baselines. With `is_quick` the slow baselines are left out.

    Attributes:
        left_out: what could not be measured, and why.
    """

    checkpoint: str | Path
    encoded: Encoded
    is_quick: bool = False
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def split(self) -> Split:
        return self.encoded.split

    @cached_property
    def teacher(self) -> TextTeacher:
        return TextTeacher(self._folder)

    def teacher_scores(self, queries: Sequence[str], texts: Sequence[str]) -> np.ndarray | None:
        """Cosines [queries, texts] of the text teacher; None without it."""
        try:
            return None if self.is_quick else self.teacher.scores(queries, texts)
        except MissingExtra as error:
            self.left_out[MINILM] = str(error)
            return None

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
    return Report(tables, targets(tables), left_out, about)


# Pages


def pages(evaluation: Evaluation) -> dict[str, Table]:
    """Text to page, asked in words of the pages and as people ask; on all pages, slides only, papers only."""
    split = evaluation.split
    tables = {}
    for asked, queries, what in (
        ("words", split.page_queries, "words of the page"),
        ("natural", split.natural_queries, "questions written by hand"),
    ):
        systems = page_scores(evaluation, [query for query, _ in queries])
        for pool, kept in (
            ("all", np.ones(len(split.pages), bool)),
            ("slides", split.is_slide),
            ("papers", split.is_paper),
        ):
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
    asked = encoded.questions(queries, "page")
    dense = asked @ encoded.pages.T
    words = bm25_scores(queries, split.page_texts)
    index = WordIndex(split.page_texts)
    pool = fusion.Pool({"page": encoded.pages}, encoded.generic, encoded.match_scale, ~encoded.has_text())
    systems = {
        DENSE: dense,
        FUSED: pool.relevance({"page": asked}, list(map(index.matches, queries))),
        RANK_FUSED: fusion.reciprocal_rank_fusion(dense, fusion.found_only(words)),
        PICTURE: asked @ encoded.page_pictures.T,
        BM25: words,
    }
    teacher = evaluation.teacher_scores(queries, split.page_texts)
    if teacher is not None:
        systems[MINILM] = teacher
        systems[MINILM_BM25] = fusion.reciprocal_rank_fusion(teacher, fusion.found_only(words))
    if evaluation.read_by_tesseract is not None:
        systems[OCR] = bm25_scores(queries, evaluation.read_by_tesseract)
    return systems


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


def passages(evaluation: Evaluation) -> dict[str, Table]:
    """Questions to passages, text alone."""
    questions, texts, right = evaluation.split.questions
    systems = {OURS: evaluation.encoded.texts(questions) @ evaluation.encoded.texts(texts).T}
    teacher = evaluation.teacher_scores(questions, texts)
    if teacher is not None:
        systems[MINILM] = teacher
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
    encoded, split = evaluation.encoded, evaluation.split
    queries = split.kind_queries(KIND_QUERIES)
    vectors: dict[Kind, np.ndarray] = {"page": encoded.pages, "image": encoded.photos, "clip": encoded.clips}
    kind_of = np.repeat(KINDS, [len(vectors[kind]) for kind in KINDS])
    wanted = np.array([query.wanted for query in queries])
    asked = np.empty((len(queries), encoded.embedder.dim), np.float32)
    for kind in KINDS:
        asked[wanted == kind] = encoded.questions([query.text for query in queries if query.wanted == kind], kind)
    cosines = np.concatenate([asked @ vectors[kind].T for kind in KINDS], 1)

    named = [f"{NAMED[query.wanted]} {query.text}" for query in queries]
    index = WordIndex([*split.page_texts, *[""] * (len(kind_of) - len(split.pages))])
    pool = fusion.Pool(vectors, encoded.generic, encoded.match_scale, ~encoded.has_text())
    own_words = [index.matches(query.text) for query in queries]
    by_instruction = pool.relevance(dict.fromkeys(KINDS, asked), own_words, is_one_query=True)
    by_words = pool.relevance(
        {kind: encoded.questions(named, kind) for kind in KINDS},
        list(map(index.matches, named)),
        named=[frozenset({query.wanted}) for query in queries],
    )
    return {
        "instructions": Table(
            f"first hit of the kind asked for ({len(queries)} queries; "
            f"{len(split.pages)} pages, {len(split.photos)} photos, {len(split.clips)} clips, no filter)",
            {
                "the instruction names the kind, cosines": obeyed(cosines, kind_of, queries),
                "the same, calibrated and fused as the application does": obeyed(by_instruction, kind_of, queries),
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
    systems = {name: Measured({kind: took[kind][name] for kind in took}) for name in ("ours", "first version")}
    return {
        "speed": Table(
            "milliseconds of processor time on one core, this machine, float32 unless it has bfloat16", systems
        ),
        "size": Table("weights", {OURS: Measured({"MB": _weight_bytes(evaluation.checkpoint) / 1e6})}),
    }


def _weight_bytes(checkpoint: str | Path) -> int:
    from mmsearch.embedders.checkpoint import find_checkpoint

    return sum(file.stat().st_size for file in find_checkpoint(checkpoint).weight_files())


PARTS: dict[str, Callable[[Evaluation], dict[str, Table]]] = {
    "pages": pages,
    "photos": photos,
    "clips": clips,
    "passages": passages,
    "instructions": instructions,
    "composed": composed,
    "matryoshka": matryoshka,
    "speed": speed,
}


def _names(words: str) -> Iterator[str]:
    return filter(None, (word.strip() for word in words.split(",")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default="mini")
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--work", type=Path, default=Path("runs/work"))
    parser.add_argument("--only", default="", help=f"some of {','.join(PARTS)}, with commas between them")
    parser.add_argument("--quick", action="store_true", help="without the slow baselines (MiniLM, Tesseract)")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    split = Split(data_folder(arguments.data), arguments.work)
    encoded = Encoded(load_embedder(arguments.checkpoint), split)
    report = evaluate(Evaluation(arguments.checkpoint, encoded, arguments.quick), list(_names(arguments.only)))
    if arguments.json:
        arguments.json.write_text(json.dumps(report.record(), indent=1, ensure_ascii=False), encoding="utf-8")
    sys.stdout.write(report.markdown())


if __name__ == "__main__":
    main()
