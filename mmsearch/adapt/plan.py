"""What an adaptation trains on and what it asks, decided once from the catalog and written down, so that a run can be taken up again.

Nothing of it depends on the model: the same library gives the same plan.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmsearch.adapt.split import Part, file_of, split_files
from mmsearch.adapt.words import Rarity, Words, caption_words, names, page_words, spoken_words
from mmsearch.catalog import Catalog, SourceRow
from mmsearch.disk.replace import replace_file
from mmsearch.errors import DatasetError
from mmsearch.items import KINDS, Item, Kind
from mmsearch.judgements.places import ItemsByName
from mmsearch.judgements.queries import read_queries

ITEMS_PER_KIND = 10_000
"""More are not looked at: a sample of the files, by content."""
TRAINED_PER_KIND: Mapping[Kind, int] = {"page": 3000, "image": 3000, "clip": 1000}
"""Items that are decoded for training at most, so that a large library does not fill the disk."""
QUERIES_PER_KIND = 300
FORMAT = 1
LEAST_PAIRS = 50
LARGEST_ANSWER = 0.25
"""A query that this share of a kind's items answers says nothing."""


@dataclass(frozen=True, slots=True)
class PlannedItem:
    """An item of the library; `group` names the file and its near-copies."""

    id: int
    kind: Kind
    part: Part
    group: str


@dataclass(frozen=True, slots=True)
class OwnPair:
    """Words and the item that they should find.

    Attributes:
        source: "page", "page picture", "image", "image name", "clip", "clip name".
        target_text: the item's text as the model is given it here, whole: it is cut to the model's length later.
        key: pairs with equal keys are no negatives of each other.
    """

    source: str
    item_id: int
    kind: Kind
    query: str
    target_text: str
    key: str
    instruction: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A query whose answers are known.

    Attributes:
        relevant: items of one part. ignored: further right answers, of another part: they count neither way.
    """

    query: str
    kind: Kind
    style: str
    relevant: tuple[int, ...]
    ignored: tuple[int, ...]
    group: str
    instruction: str | None = None


@dataclass
class Plan:
    """See the module. `settings` are what the run was started with; `files` maps the sha256 of every file to its part."""

    settings: dict[str, Any]
    files: dict[str, Part] = field(default_factory=dict)
    items: list[PlannedItem] = field(default_factory=list)
    pairs: list[OwnPair] = field(default_factory=list)
    validation: list[Question] = field(default_factory=list)
    held_out: list[Question] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def ids(self, *parts: Part) -> list[int]:
        return [item.id for item in self.items if item.part in parts]

    def pair_counts(self) -> dict[str, int]:
        return dict(Counter(pair.source for pair in self.pairs))

    def save(self, path: Path) -> None:
        """Appears whole or not at all."""
        with replace_file(path, durable=False) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT, **asdict(self)}), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Plan | None:
        """None if there is none, or one of another version."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        if content.get("format") != FORMAT:
            return None
        return cls(
            settings=content["settings"],
            files=content["files"],
            items=[PlannedItem(**row) for row in content["items"]],
            pairs=[OwnPair(**row) for row in content["pairs"]],
            validation=[_question(row) for row in content["validation"]],
            held_out=[_question(row) for row in content["held_out"]],
            notes=content["notes"],
        )


def _question(row: dict[str, Any]) -> Question:
    return Question(**{**row, "relevant": tuple(row["relevant"]), "ignored": tuple(row["ignored"])})


def make_plan(
    catalog: Catalog,
    settings: dict[str, Any],
    *,
    trained: Collection[str] = (),
    judged: Path | None = None,
    reads_text: bool = True,
    reads_print: bool = True,
) -> Plan:
    """Look through the catalog.

    Args:
        trained: sha256 of files that the model was adapted to before. judged: see `mmsearch.judgements.queries`.
        reads_text: whether the model is given an item's text beside its picture. reads_print: whether it makes anything of a page's
            picture alone; a model that does not cannot be taught to by a few hundred pages.

    Raises: DatasetError: too little to train on or to measure with.
    """
    rows = [row for row in catalog.sources.rows(states=("indexed",)) if row.item_count]
    files, items = _sample(catalog, rows)
    parts, group_of = split_files(files, trained=trained)
    plan = Plan(settings, {file.sha256: parts[file.id] for file in files})
    plan.items = [PlannedItem(i.id, i.kind, parts[i.source_id], group_of[i.source_id]) for i in items]
    asked = _asked(items, set(catalog.sources.roots()))
    judgements = _judged_questions(judged, items, plan) if judged is not None else []
    plan.pairs = _pairs(items, plan, asked, judgements, reads_text=reads_text, reads_print=reads_print)
    plan.validation = _questions(items, plan, asked, judgements, "validation")
    plan.held_out = _questions(items, plan, asked, judgements, "held out")
    if len(plan.pairs) < LEAST_PAIRS:
        raise DatasetError(
            f"the library at {catalog.folder} gives {len(plan.pairs)} pairs to train on (pages with text, photos and videos "
            f"with captions, subtitles or speaking names); at least {LEAST_PAIRS} are needed: ingest more, or give --judged FILE"
        )
    if len(plan.held_out) < 10:
        raise DatasetError(
            f"only {len(plan.held_out)} queries can be asked for files that are kept out of training; "
            "better and worse could not be told apart: ingest more files"
        )
    return plan


def _sample(catalog: Catalog, rows: Sequence[SourceRow]) -> tuple[list[Any], list[Item]]:
    """The files to look at and their items, at most `ITEMS_PER_KIND` of a kind, the same ones every time."""
    files, items = [], []
    count: Counter[Kind] = Counter()
    for row in sorted(rows, key=lambda row: row.sha256):
        own = catalog.items.of_source(row.id)
        if own and count[own[0].kind] + len(own) <= ITEMS_PER_KIND:
            count.update(item.kind for item in own)
            files.append(file_of(row.id, row.sha256, own))
            items += own
        if count.total() >= len(KINDS) * ITEMS_PER_KIND:
            break
    return files, items


def _asked(items: Sequence[Item], roots: set[Path]) -> dict[int, list[Words]]:
    """By item id what could be typed to find it."""
    rarity = Rarity(item.text for item in items if item.kind == "page")
    asked: dict[int, list[Words]] = {}
    for kind in KINDS:
        of_kind = [item for item in items if item.kind == kind]
        named = names(of_kind, roots)
        for item in of_kind:
            rng = random.Random(f"{item.ordinal} {item.text[:2000]} {item.path.name}")
            if kind == "page":
                own = page_words(item.text, rarity, rng)
                found = own or (named.get(item.id, []) if len(item.text.split()) < 5 else [])
            elif kind == "image":
                found = caption_words(item) + named.get(item.id, [])
            else:
                found = spoken_words(item.text, rng) + named.get(item.id, [])
            if found:
                asked[item.id] = found
    return asked


def _pairs(
    items: Sequence[Item],
    plan: Plan,
    asked: Mapping[int, Sequence[Words]],
    judgements: Sequence[Question],
    *,
    reads_text: bool,
    reads_print: bool,
) -> list[OwnPair]:
    """All pairs of the training side; of a page also with its picture alone."""
    pairs = []
    part = {item.id: item.part for item in plan.items}
    judged = defaultdict(list)
    for question in judgements:
        if all(
            part[item_id] == "train" for item_id in question.relevant
        ):  # else it is asked, and nothing of it is trained
            for item_id in question.relevant:
                judged[item_id].append(question)
    count: Counter[Kind] = Counter()
    for item in items:
        words, own = asked.get(item.id, ()), judged.get(item.id, ())
        if part[item.id] != "train" or not (words or own) or count[item.kind] >= TRAINED_PER_KIND[item.kind]:
            continue
        count[item.kind] += 1
        whole = item.text if reads_text else ""
        for one in words:
            is_name = one.style in ("name", "folder")
            source = f"{item.kind} name" if is_name else item.kind
            rest = whole if one.rest is None or not reads_text else one.rest
            key = f"name {one.text}" if is_name else f"item {item.id}"
            pairs.append(OwnPair(source, item.id, item.kind, one.text, rest, key))
        if item.kind == "page" and reads_print and whole and words:
            one = words[item.id % len(words)]
            pairs.append(OwnPair("page picture", item.id, "page", one.text, "", f"item {item.id}"))
        for question in own:
            pairs.append(
                OwnPair(item.kind, item.id, item.kind, question.query, whole, f"item {item.id}", question.instruction)
            )
    return pairs


def _questions(
    items: Sequence[Item],
    plan: Plan,
    asked: Mapping[int, Sequence[Words]],
    judgements: Sequence[Question],
    wanted: Part,
) -> list[Question]:
    """Known-item queries for a part: at most two styles per item, `QUERIES_PER_KIND` per kind, judged ones first."""
    planned = {item.id: item for item in plan.items}
    total = Counter(item.kind for item in items)
    answers: dict[tuple[Kind, str], list[int]] = defaultdict(list)
    for item in items:
        for one in asked.get(item.id, ()):
            answers[item.kind, one.text].append(item.id)
    found: dict[tuple[Kind, str], Question] = {}
    for question in judgements:
        own = [i for i in question.relevant if planned[i].part == wanted]
        if own:
            others = tuple(i for i in question.relevant if planned[i].part != wanted)
            found[question.kind, question.query] = Question(
                question.query, question.kind, "judged", tuple(own), others, planned[own[0]].group, question.instruction
            )
    for item in items:
        if planned[item.id].part != wanted:
            continue
        words = asked.get(item.id, ())
        for one in _two_of(words, item.id):
            right = answers[item.kind, one.text]
            if (item.kind, one.text) in found or len(right) > max(1, LARGEST_ANSWER * total[item.kind]):
                continue
            own = [i for i in right if planned[i].part == wanted]
            others = tuple(i for i in right if planned[i].part != wanted)
            group = planned[item.id].group
            found[item.kind, one.text] = Question(one.text, item.kind, one.style, tuple(own), others, group)
    chosen = []
    for kind in KINDS:
        of_kind = [question for question in found.values() if question.kind == kind]
        of_kind.sort(key=lambda q: (q.style != "judged", hashlib.sha1(q.query.encode("utf-8", "replace")).digest()))
        chosen += of_kind[:QUERIES_PER_KIND]
    return chosen


def _two_of(words: Sequence[Words], seed: int) -> Sequence[Words]:
    start = seed % max(1, len(words))
    return [*words[start:], *words[:start]][:2]


# Judged hits


def _judged_questions(path: Path, items: Sequence[Item], plan: Plan) -> list[Question]:
    """Judged queries with their items, one per kind; what is not in the library is noted in the plan."""
    by_name = ItemsByName(items)
    found, lost, pictured = [], 0, 0
    for judged in read_queries(path):
        if judged.image is not None or not judged.query:
            pictured += 1
            continue
        kinds = KINDS if judged.kind is None else (judged.kind,)
        right = {item.id: item for place in judged.relevant for item in by_name.at(place, kinds)}
        for kind in KINDS:
            own = tuple(sorted(item.id for item in right.values() if item.kind == kind))
            if own:
                found.append(Question(judged.query, kind, "judged", own, (), "", judged.instruction))
        lost += not right and bool(judged.relevant)
    if lost:
        plan.notes.append(f"{lost} judged queries name nothing that is in the library")
    if pictured:
        plan.notes.append(f"{pictured} judged queries with pictures were left out")
    return found
