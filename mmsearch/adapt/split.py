"""Which files are trained on and which only asked for: by content, the same in every run, copies and near-copies on one side.

A file's side follows from a hash of its content, so that a library that is adapted again holds out the same files; what a model was
adapted to before is never held out from it.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from mmsearch.items import Item, Kind

Part = Literal["train", "validation", "held out"]

HELD_OUT_SHARE, HELD_OUT_LEAST = 0.2, 0.15
"""Of the files of a kind: as a rule, and at least."""
VALIDATION_SHARE, VALIDATION_LEAST = 0.12, 0.1
"""Of all files of a kind, out of those not held out."""
LARGEST_SHARE = 0.4
"""Near-copies that make up more than this of a kind's files are trained on."""
SHARED_SHARE = 0.25
"""Files are near-copies if this share of the shorter one's items stands in the other."""
SAME_BITS, SAME_LEVELS = 6, 12.0
"""Pictures look the same if no more of 64 bits differ, and their colours by no more than this (of 255) in the mean."""
TEXT_WORDS = 20
"""From so many words on an item is known by its text, below by its look."""
PAIRED_FILES = 50
FLAT_LEVELS = 4.0
BLOCK = 2048


@dataclass(frozen=True, slots=True)
class Look:
    """A picture for telling near-copies. `bits`: 64, where it grows brighter from left to right; `colours`: 4 × 4 pixels, RGB bytes."""

    bits: int
    colours: bytes


@dataclass(frozen=True, slots=True)
class File:
    """What the split knows of a file.

    Attributes:
        kinds: its items per kind.
        texts: hashes of the words of its items. looks: of items with few words.
    """

    id: int
    sha256: str
    kinds: Counter[Kind]
    texts: tuple[str, ...] = ()
    looks: tuple[Look, ...] = ()


def file_of(source_id: int, sha256: str, items: Sequence[Item]) -> File:
    """The facts of a file; previews are looked at."""
    texts, looks = [], []
    for item in items:
        words = item.text.lower().split()
        if len(words) >= TEXT_WORDS:
            texts.append(hashlib.sha1(" ".join(words).encode("utf-8", "replace")).hexdigest())
        elif item.preview is not None and (look := look_of(item.preview)) is not None:
            looks.append(look)
    return File(source_id, sha256, Counter(item.kind for item in items), tuple(texts), tuple(looks))


def look_of(preview: Path) -> Look | None:
    """None for a preview that is flat, or gone.

    Source: dHash (N. Krawetz, "Kind of Like That", 2013).
    """
    from PIL import Image

    try:
        with Image.open(preview, formats=("WEBP",)) as image:
            grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
            colours = image.convert("RGB").resize((4, 4), Image.Resampling.BOX).tobytes()
    except OSError:
        return None
    if grey.std() < FLAT_LEVELS:
        return None
    return Look(int("".join("01"[int(bit)] for bit in (grey[:, 1:] > grey[:, :-1]).ravel()), 2), colours)


def split_files(files: Sequence[File], *, trained: Collection[str] = ()) -> tuple[dict[int, Part], dict[int, str]]:
    """The part of every file, and the name of its group: near-copies share it.

    Args:
        trained: sha256 of files that the model was adapted to before; they and their near-copies stay on the training side.
    """
    group_of = near_copies(files)
    members: dict[str, list[File]] = defaultdict(list)
    for file in files:
        members[group_of[file.id]].append(file)
    total = Counter(kind for file in files for kind in file.kinds)
    free = [name for name, group in members.items() if not any(file.sha256 in trained for file in group)]
    part: dict[str, Part] = dict.fromkeys(members, "train")
    for wanted, share, least in (
        ("held out", HELD_OUT_SHARE, HELD_OUT_LEAST),
        ("validation", VALIDATION_SHARE, VALIDATION_LEAST),
    ):
        held: Counter[Kind] = Counter()
        order = sorted((name for name in free if part[name] == "train"), key=lambda name: _place(name, wanted))
        for name in order:
            kinds = Counter(kind for file in members[name] for kind in file.kinds)
            is_large = any(kinds[kind] > LARGEST_SHARE * total[kind] and total[kind] > 1 for kind in kinds)
            lacks = any(held[kind] < least * total[kind] for kind in kinds)
            if not is_large and (_place(name, wanted) < share or lacks):
                part[name] = "held out" if wanted == "held out" else "validation"
                held += kinds
    return {file.id: part[group_of[file.id]] for file in files}, group_of


def _place(group: str, salt: str) -> float:
    """0…1, by content alone."""
    return int(hashlib.sha256(f"{salt} {group}".encode()).hexdigest()[:12], 16) / 16**12


def near_copies(files: Sequence[File]) -> dict[int, str]:
    """By file id the smallest sha256 among the file and its near-copies, and theirs."""
    leader = {file.id: file.id for file in files}

    def find(file: int) -> int:
        while leader[file] != file:
            leader[file] = leader[leader[file]]
            file = leader[file]
        return file

    for a, b in _alike(files):
        leader[find(a)] = find(b)
    names: dict[int, str] = {}
    for file in files:
        root = find(file.id)
        names[root] = min(names.get(root, file.sha256), file.sha256)
    return {file.id: names[find(file.id)] for file in files}


def _alike(files: Sequence[File]) -> Iterable[tuple[int, int]]:
    by_content: dict[str, list[int]] = defaultdict(list)
    for file in files:
        by_content[file.sha256].append(file.id)
    for same in by_content.values():
        yield from pairwise(same)
    size = {file.id: len(set(file.texts)) + len(set(file.looks)) for file in files}
    shared: Counter[tuple[int, int]] = Counter()
    by_text: dict[str, set[int]] = defaultdict(set)
    for file in files:
        for text in file.texts:
            by_text[text].add(file.id)
    for holders in by_text.values():
        shared.update(combinations(sorted(holders), 2) if len(holders) <= PAIRED_FILES else pairwise(sorted(holders)))
    looks = [(look, file.id) for file in files for look in set(file.looks)]
    for row, later in enumerate(_same_looks([look for look, _ in looks])):
        here = looks[row][1]
        shared.update((min(here, other), max(here, other)) for other in {looks[n][1] for n in later} - {here})
    for (a, b), count in shared.items():
        if count >= SHARED_SHARE * min(size[a], size[b]):
            yield a, b


def _same_looks(looks: Sequence[Look]) -> Iterable[np.ndarray]:
    """For each look the later ones that are the same."""
    if not looks:
        return
    bits = np.array([[look.bits >> bit & 1 for bit in range(64)] for look in looks], np.float32) * 2 - 1
    colours = np.array([list(look.colours) for look in looks], np.float32)
    for start in range(0, len(bits), BLOCK):
        agreement = bits[start : start + BLOCK] @ bits.T  # 64 - 2 · (bits that differ)
        for row, found in enumerate(agreement >= 64 - 2 * SAME_BITS, start):
            same = np.flatnonzero(found)
            same = same[same > row]
            yield same[np.abs(colours[same] - colours[row]).mean(1) <= SAME_LEVELS]
