"""What the shipped checkpoint was to reach (issue 3), read off the tables. What was not measured is not judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mmsearch.evaluation.report import Table, Target
from mmsearch.evaluation.speed import SLOWEST

DENSE = "ours, picture + text"
FUSED = "ours + words, as the application fuses them"
RANK_FUSED = "ours + BM25, reciprocal ranks"
PICTURE = "ours, picture alone"
MINILM = "all-MiniLM-L6-v2 on the text"
BM25 = "BM25 (FTS5) on the text"
MINILM_BM25 = "MiniLM + BM25, reciprocal ranks"
OCR = "Tesseract + BM25, picture alone"
OURS = "ours"

LARGEST_BYTES = 64 * 1024 * 1024
ASKED = {"words": "words of the page", "natural": "questions by hand"}
PUBLISHED_PHOTOS = (
    "published on Flickr8k's 1,000 test photos: DeViSE 0.296, Karpathy and Fei-Fei 0.447; chance {chance:.3f}"
)

Tables = Mapping[str, Table]


def targets(tables: Tables) -> list[Target]:
    """Every target whose numbers are there, in the order of the issue."""
    found = []
    for judge in (*(_of_pages(asked) for asked in ASKED), *_JUDGES):
        try:
            found += judge(tables)
        except KeyError:  # that table, or a baseline in it, was not measured
            continue
    return found


def _of_pages(asked: str) -> Callable[[Tables], list[Target]]:
    def judge(tables: Tables) -> list[Target]:
        every, slides = (
            {system: measured["nDCG@5"] for system, measured in tables[f"pages, {asked}, {pool}"].systems.items()}
            for pool in ("all", "slides")
        )
        by = f", {ASKED[asked]}"
        rows = []
        if MINILM in every:
            dense, teacher, bm25 = every[DENSE], every[MINILM], every[BM25]
            rows.append(
                Target(
                    f"text -> page, picture + text, dense{by}: nDCG@5",
                    f"≥ {teacher:.3f} (the text teacher)",
                    f"{dense:.3f}",
                    dense >= teacher,
                    f"MiniLM {teacher:.3f}, BM25 {bm25:.3f}",
                )
            )
            better = max(dense, bm25)
            rows.append(
                Target(
                    f"the same, dense and words fused{by}: nDCG@5",
                    f"≥ {better + 0.05:.3f} (5 points above the better of the two)",
                    f"{every[FUSED]:.3f}",
                    every[FUSED] >= better + 0.05,
                    f"by reciprocal ranks {every[RANK_FUSED]:.3f}; MiniLM + BM25 by reciprocal ranks {every[MINILM_BM25]:.3f}",
                )
            )
        for pool, numbers, share in (("all pages", every, 0.6), ("slides", slides, 0.75)):
            wanted, reached = share * numbers[DENSE], numbers[PICTURE]
            rows.append(
                Target(
                    f"text -> page, picture alone, {pool}{by}: nDCG@5",
                    f"≥ {wanted:.3f} ({share:.0%} of picture + text)",
                    f"{reached:.3f}",
                    reached >= wanted,
                )
            )
            if OCR in numbers:
                rows.append(
                    Target(
                        f"the same: beat Tesseract + BM25, {pool}{by}",
                        f"> {numbers[OCR]:.3f}",
                        f"{reached:.3f}",
                        reached > numbers[OCR],
                    )
                )
        return rows

    return judge


def _caption_to_photo(tables: Tables) -> list[Target]:
    systems = tables["caption -> photo"].systems
    beside = PUBLISHED_PHOTOS.format(chance=systems["chance"]["R@10"])
    return [_at_least("caption -> photo: R@10", systems[OURS]["R@10"], 0.45, beside)]


def _photo_to_caption(tables: Tables) -> list[Target]:
    systems = tables["photo -> caption"].systems
    return [_at_least("photo -> caption: R@10", systems[OURS]["R@10"], 0.5, f"chance {systems['chance']['R@10']:.3f}")]


def _text_to_clip(tables: Tables) -> list[Target]:
    systems = tables["text -> clip"].systems
    return [_at_least("text -> clip: R@10", systems[OURS]["R@10"], 0.6, f"chance {systems['chance']['R@10']:.3f}")]


def _question_to_passage(tables: Tables) -> list[Target]:
    systems = tables["question -> passage"].systems
    teacher = systems[MINILM]["R@10"]
    beside = f"MiniLM {teacher:.3f}, BM25 {systems[BM25]['R@10']:.3f}"
    return [
        _at_least("question -> passage: R@10", systems[OURS]["R@10"], 0.95 * teacher, beside, " (95 % of the teacher)")
    ]


def _instructions(tables: Tables) -> list[Target]:
    systems = tables["instructions"].systems
    raw, *others = systems
    beside = "; ".join(f"{name}: {systems[name]['first hit of that kind']:.3f}" for name in others)
    return [_at_least("instruction obeyed, mixed pool", systems[raw]["first hit of that kind"], 0.95, beside)]


def _composed(tables: Tables) -> list[Target]:
    systems = {system: measured["R@10"] for system, measured in tables["composed"].systems.items()}
    both, *parts = systems.values()
    beside = "; ".join(f"{name} {value:.3f}" for name, value in list(systems.items())[1:])
    best = max(parts[:2])
    return [
        Target(
            'photo + "the same with / without …": R@10',
            f"> {best:.3f} (either part alone)",
            f"{both:.3f}",
            both > best,
            beside,
        )
    ]


def _speed(tables: Tables) -> list[Target]:
    systems = tables["speed"].systems
    return [
        Target(
            f"time per {kind}, beside the first version",
            f"≤ {SLOWEST} times",
            f"{systems[OURS][kind] / systems['first version'][kind]:.2f} times",
            systems[OURS][kind] <= SLOWEST * systems["first version"][kind],
            f"{systems[OURS][kind]:.1f} and {systems['first version'][kind]:.1f} ms",
        )
        for kind in ("page", "photo")
    ]


def _size(tables: Tables) -> list[Target]:
    megabytes = tables["size"].systems[OURS]["MB"]
    limit = LARGEST_BYTES / 1e6
    return [Target("size of the weights", f"≤ {limit:.1f} MB", f"{megabytes:.1f} MB", megabytes <= limit)]


def _at_least(what: str, reached: float, wanted: float, beside: str = "", why: str = "") -> Target:
    return Target(what, f"≥ {wanted:.3f}{why}", f"{reached:.3f}", reached >= wanted, beside)


_JUDGES = (
    _caption_to_photo,
    _photo_to_caption,
    _text_to_clip,
    _question_to_passage,
    _instructions,
    _composed,
    _speed,
    _size,
)
