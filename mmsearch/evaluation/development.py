"""Numbers on the development split of `../shared/data`: one script for our checkpoint, its text teacher and BM25.

`python -m mmsearch.evaluation.development CHECKPOINT [--work runs/work] [--json FILE]`

Every query has one right answer in its pool ("known item"), so nDCG@5 is 1/log2(1 + rank) if the rank is at most 5.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sqlite3
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmsearch.embedders import load_embedder
from mmsearch.items import WITHOUT_TEXT, EmbedInput, Kind, MatchScale
from mmsearch.prompts import (
    DOCUMENT_INSTRUCTIONS,
    IMAGE_QUERY_INSTRUCTIONS,
    TEXT_QUERY_INSTRUCTIONS,
)
from mmsearch.training.prepare import ClipRecord, PageRecord, load_clips, load_pages
from mmsearch.training.sources import PhotoRecord, data_folder, is_development, load_pairs, load_photos
from mmsearch.training.teacher import Teacher

Metrics = dict[str, float]


def ranks(scores: np.ndarray, right: Sequence[int]) -> np.ndarray:
    """For scores [q, n] and the right column of each row, its rank from 1; ties count against it."""
    own = scores[np.arange(len(right)), right][:, None]
    return (scores >= own).sum(1)


def known_item_metrics(rank: np.ndarray) -> Metrics:
    """R@1, R@5, R@10, nDCG@5 and MRR, each 0…1, from ranks [q]."""
    return {
        "R@1": float((rank <= 1).mean()),
        "R@5": float((rank <= 5).mean()),
        "R@10": float((rank <= 10).mean()),
        "nDCG@5": float(np.where(rank <= 5, 1 / np.log2(1 + rank), 0).mean()),
        "MRR": float((1 / rank).mean()),
    }


def mean_average_precision(vectors: np.ndarray, labels: Sequence[str]) -> float:
    """Each vector [n, dim] as a query for the others of its label; labels with one member are left out as queries."""
    names = np.array(labels)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    precisions = []
    for row, label in enumerate(names):
        order = np.argsort(-scores[row], kind="stable")[:-1]
        found = names[order] == label
        if found.any():
            places = np.flatnonzero(found) + 1
            precisions.append(np.mean(np.arange(1, len(places) + 1) / places))
    return float(np.mean(precisions))


def page_queries(pages: Sequence[PageRecord], *, seed: int = 5) -> list[tuple[str, int]]:
    """(query, row of its page): the title line where it is unique in the pool, and a passage of 6 to 10 words of the body."""
    rng = random.Random(seed)
    titles = [_title(page.text) for page in pages]
    counts = Counter(titles)
    queries = []
    for row, page in enumerate(pages):
        if titles[row] and counts[titles[row]] == 1:
            queries.append((titles[row], row))
        words = " ".join(page.text.split("\n")[1:]).split()
        if len(words) >= 30:
            count = rng.randint(6, 10)
            start = rng.randrange(len(words) - count)
            queries.append((" ".join(words[start : start + count]), row))
    return queries


def bm25_scores(queries: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """float32 [q, n]: SQLite's FTS5 BM25, any word may match; 0 where none does."""
    scores = np.zeros((len(queries), len(texts)), np.float32)
    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE VIRTUAL TABLE pool USING fts5(text)")
        database.executemany("INSERT INTO pool(rowid, text) VALUES (?, ?)", enumerate(texts))
        for row, query in enumerate(queries):
            words = re.findall(r"\w+", query)
            match = " OR ".join(f'"{word}"' for word in words)
            found = (
                database.execute("SELECT rowid, -bm25(pool) FROM pool WHERE pool MATCH ?", (match,)) if words else ()
            )
            for column, score in found:
                scores[row, column] = score
    return scores


def evaluate(checkpoint: str | Path, data: Path, work: Path) -> dict[str, dict[str, Metrics]]:
    """All tables: {task: {system: metrics}}."""
    embedder = load_embedder(checkpoint)
    teacher = Teacher(work / "teacher")
    tables: dict[str, dict[str, Metrics]] = {}

    pages = [p for p in load_pages(data, work) if p.development and p.text.strip()]
    texts = [" ".join(page.text.split()) for page in pages]
    queries = page_queries(pages)
    right = [row for _, row in queries]
    words = [query for query, _ in queries]
    encoded = _text_queries(embedder, words, "page")
    systems = {
        "ours, image + text": encoded @ _pages(embedder, pages, texts).T,
        "ours, image only": encoded @ _pages(embedder, pages, [""] * len(pages)).T,
        "all-MiniLM-L6-v2 on text": teacher.vectors(words) @ teacher.vectors(texts).T,
        "BM25 (FTS5) on text": bm25_scores(words, texts),
    }
    name = f"text -> page ({len(queries)} queries, {len(pages)} pages)"
    tables[name] = {system: known_item_metrics(ranks(scores, right)) for system, scores in systems.items()}

    photos = [p for p in load_photos(data) if p.development]
    flickr = [p for p in photos if p.set_name == "flickr8k"]
    images = _photos(embedder, flickr)
    captions = [caption for p in flickr for caption in p.captions]
    owner = [row for row, p in enumerate(flickr) for _ in p.captions]
    scores = _text_queries(embedder, captions, "image") @ images.T
    tables[f"caption -> photo ({len(captions)} captions, {len(flickr)} photos)"] = {
        "ours": known_item_metrics(ranks(scores, owner)),
        "chance": _chance(len(flickr)),
    }
    bare = embedder.encode_documents([EmbedInput("", text=caption) for caption in captions])
    scores = images @ bare.T
    owners = np.array(owner)
    best = np.array(
        [ranks(scores[[row]], [c]).item() for row in range(len(flickr)) for c in [_best(scores[row], owners == row)]]
    )
    tables["photo -> caption (best of its five)"] = {"ours": known_item_metrics(best)}

    tiny = [p for p in photos if p.set_name == "tiny_imagenet"]
    alike = embedder.encode_queries(
        [EmbedInput(IMAGE_QUERY_INSTRUCTIONS["image"], images=(p.member.image(),), kind="image") for p in tiny]
    )
    labels = [p.label for p in tiny]
    share = Counter(labels)
    tables[f"photo -> photo of its class ({len(tiny)} photos, {len(share)} classes)"] = {
        "ours": {"mAP": mean_average_precision(alike, labels)},
        "chance": {"mAP": mean_average_precision(np.random.default_rng(0).normal(size=alike.shape), labels)},
    }

    clips = [c for c in load_clips(data, work) if c.development]
    vectors = _clips(embedder, clips)
    said = [_said(c) for c in clips]
    tables[f"text -> clip ({len(clips)} clips)"] = {
        "ours": known_item_metrics(ranks(_text_queries(embedder, said, "clip") @ vectors.T, range(len(clips)))),
        "chance": _chance(len(clips)),
    }

    pairs = [p for p in load_pairs(data, "squad_dev") if is_development(p.passage)]
    passages = list({p.passage: None for p in pairs})
    row_of = {passage: row for row, passage in enumerate(passages)}
    questions = [p.query for p in pairs]
    right = [row_of[p.passage] for p in pairs]
    ours = (
        embedder.encode_documents([EmbedInput("", text=q) for q in questions])
        @ embedder.encode_documents([EmbedInput("", text=p) for p in passages]).T
    )
    tables[f"question -> passage ({len(questions)} questions, {len(passages)} passages)"] = {
        "ours": known_item_metrics(ranks(ours, right)),
        "all-MiniLM-L6-v2": known_item_metrics(ranks(teacher.vectors(questions) @ teacher.vectors(passages).T, right)),
        "BM25 (FTS5)": known_item_metrics(ranks(bm25_scores(questions, passages), right)),
    }
    return tables


def match_scales(embedder: Any, data: Path, work: Path) -> dict[str, MatchScale]:
    """What the model's scores are worth on the split: per kind, and for pages given as pictures alone."""
    pages = [p for p in load_pages(data, work) if p.development and p.text.strip()]
    asked = page_queries(pages)
    questions, right = [query for query, _ in asked], [row for _, row in asked]
    flickr = [p for p in load_photos(data) if p.development and p.set_name == "flickr8k"]
    clips = [c for c in load_clips(data, work) if c.development]
    texts = [" ".join(page.text.split()) for page in pages]
    pools: list[tuple[str, Kind, list[str], list[int], np.ndarray]] = [
        ("page", "page", questions, right, _pages(embedder, pages, texts)),
        (WITHOUT_TEXT, "page", questions, right, _pages(embedder, pages, [""] * len(pages))),
        ("image", "image", [p.captions[0] for p in flickr], list(range(len(flickr))), _photos(embedder, flickr)),
        ("clip", "clip", [_said(c) for c in clips], list(range(len(clips))), _clips(embedder, clips)),
    ]
    return {
        name: scale_of(_text_queries(embedder, queries, kind) @ vectors.T, rows)
        for name, kind, queries, rows, vectors in pools
    }


def scale_of(scores: np.ndarray, right: Sequence[int]) -> MatchScale:
    """From scores [q, n] and the right column of each row."""
    own = scores[np.arange(len(right)), right]
    low, middle = np.quantile(own - np.median(scores, 1), (0.3, 0.5))
    beaten = (ranks(scores, right) - 1) / (scores.shape[1] - 1)
    reliability = max(0.0, 1 - 2 * float(beaten.mean()))
    return MatchScale(round(float(low), 4), round(float(middle), 4), round(reliability, 4))


def table_markdown(tables: dict[str, dict[str, Metrics]]) -> str:
    """The tables for people."""
    lines = []
    for task, systems in tables.items():
        names = list(next(iter(systems.values())))
        lines += [f"\n**{task}**\n", "| system | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        for system, metrics in systems.items():
            lines.append(f"| {system} | " + " | ".join(f"{metrics[name]:.3f}" for name in names) + " |")
    return "\n".join(lines).strip() + "\n"


def _text_queries(embedder: Any, texts: Sequence[str], kind: Kind) -> np.ndarray:
    return embedder.encode_queries([EmbedInput(TEXT_QUERY_INSTRUCTIONS[kind], text=text, kind=kind) for text in texts])


def _pages(embedder: Any, pages: Sequence[PageRecord], texts: Sequence[str]) -> np.ndarray:
    instruction = DOCUMENT_INSTRUCTIONS["page"]
    return embedder.encode_documents(
        [
            EmbedInput(instruction, text=text, images=(page.member.image(),), kind="page")
            for page, text in zip(pages, texts, strict=True)
        ]
    )


def _photos(embedder: Any, photos: Sequence[PhotoRecord]) -> np.ndarray:
    instruction = DOCUMENT_INSTRUCTIONS["image"]
    return embedder.encode_documents(
        [EmbedInput(instruction, images=(p.member.image(),), kind="image") for p in photos]
    )


def _clips(embedder: Any, clips: Sequence[ClipRecord]) -> np.ndarray:
    instruction = DOCUMENT_INSTRUCTIONS["clip"]
    return embedder.encode_documents(
        [EmbedInput(instruction, images=tuple(c.frames()), is_video=True, kind="clip") for c in clips]
    )


def _said(clip: ClipRecord) -> str:
    return clip.captions[0] if clip.captions else clip.label


def _best(scores: np.ndarray, own: np.ndarray) -> int:
    return int(np.where(own, scores, -np.inf).argmax())


def _chance(pool: int) -> Metrics:
    return known_item_metrics(np.arange(1, pool + 1))


def _title(text: str) -> str:
    lines = (line.strip() for line in text.split("\n"))
    first = next((line for line in lines if len(re.findall(r"[A-Za-z]{3,}", line)) >= 2), "")
    return " ".join(first.split()[:12])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", nargs="?", default="mini")
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--work", type=Path, default=Path("runs/work"))
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    tables = evaluate(arguments.checkpoint, data_folder(arguments.data), arguments.work)
    if arguments.json:
        arguments.json.write_text(json.dumps(tables, indent=1))
    sys.stdout.write(table_markdown(tables))


if __name__ == "__main__":
    main()
