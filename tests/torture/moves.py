"""Files on the move: hundreds of random edits, renames, copies, absences and returns, and after every ingest the library is held against one
made again: `make torture` runs it long, tests/integration/test_moves.py short, and beside it each kind of step on its own.

Real files in two folders, the real pipeline and its workers (kept warm), the toy model. What is checked after each ingest:

- what can be found under the folders ingested equals what a new library of the files as they are holds: items, texts, dates, vectors, errors;
- nothing else has changed: an ingest of one folder touches no other;
- exactly the content that the library does not hold yet was embedded, once: what was moved, copied, hidden, deleted and is back needs no model;
- `mmsearch doctor --quick` finds no fault, and a reader that was open all the time answers as the new library does.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from PIL import Image
from sqlalchemy import text

import mmsearch
from ingest import pipeline
from ingest.decode.pool import WorkerPool
from ingest.pipeline import IngestReport, ingest_paths
from mmsearch.catalog.compare import Plan
from mmsearch.embedders.families.toy import ToyEmbedder
from mmsearch.library import Library
from mmsearch.upkeep.doctor import examine
from tests import samples

QUERIES = ("red", "green picture", "words of 4", "page 2 of 8")
PADDED_BYTES = 2048
"""Photos have one size, so that an edit can keep it."""
Dump = dict[bytes, list[tuple[Any, ...]]]


@dataclass
class Tally:
    """What a run of random steps went through."""

    steps: int = 0
    ingests: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


class Contents:
    """Numbered contents: photos of a colour each, every fourth a document of one to three pages, every ninth damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def __getitem__(self, number: int) -> bytes:
        file = self.folder / str(number)
        if not file.exists():
            if number % 9 == 8:
                file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"%d" % number * 200)
            elif number % 4 == 0:
                samples.pdf(file, [f"words of {number}, page {page}" for page in range(1, 2 + number % 3)])
            else:
                colour = (number * 97 % 256, number * 57 % 256, number * 31 % 256)
                Image.new("RGB", (24, 16), colour).save(file, "PNG")
                file.write_bytes(file.read_bytes().ljust(PADDED_BYTES, b"\0"))
        return file.read_bytes()

    @staticmethod
    def item_count(number: int) -> int:
        return 0 if number % 9 == 8 else 1 + number % 3 if number % 4 == 0 else 1


class World:
    """Two folders, a library of them, and what must be true of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.library = folder / "library"
        self.roots = [folder / "one", folder / "two"]
        for root in self.roots:
            root.mkdir()
        self.contents = Contents(folder / "contents")
        self.numbers: dict[str, int] = {}  # SHA-256 to the number of the content
        self.held: set[str] = set()
        self.next_number = 0
        self.is_away: dict[Path, bool] = dict.fromkeys(self.roots, False)
        self.aside: dict[Path, Path] = {}
        self.reader: Library | None = None
        self.problems: list[str] = []

    # ---- files

    def write(self, path: Path, number: int | None = None) -> int:
        """A file with this content, or with one that never was."""
        if number is None:
            number, self.next_number = self.next_number, self.next_number + 1
        self.numbers[hashlib.sha256(self.contents[number]).hexdigest()] = number
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.contents[number])
        return number

    def fill(self) -> None:
        """Twelve files, and three."""
        for n in range(12):
            self.write(self.roots[0] / ("", "a", "b/c")[n % 3] / f"f{n}.png")
        for n in range(3):
            self.write(self.roots[1] / f"g{n}.png")

    def files(self, roots: Sequence[Path] | None = None) -> list[Path]:
        found = (path for root in roots or self.roots for path in root.rglob("*") if path.is_file())
        return sorted({path.resolve() for path in found})

    def take_away(self, root: Path, *, leave_empty: bool = False) -> None:
        """A disk without its folder, or with its mount point left."""
        root.rename(self.folder / f"away-{root.name}")
        self.is_away[root] = True
        if leave_empty:
            root.mkdir()

    def give_back(self, root: Path) -> None:
        if root.exists():
            root.rmdir()
        (self.folder / f"away-{root.name}").rename(root)
        self.is_away[root] = False

    def put_aside(self, path: Path) -> None:
        aside = self.folder / f"aside-{len(self.aside)}-{path.name}"
        path.rename(aside)
        self.aside[path] = aside

    def bring_back(self) -> None:
        for path, aside in self.aside.items():
            if path.exists() or not path.parent.is_dir():
                aside.unlink()
            else:
                aside.rename(path)
        self.aside.clear()

    # ---- the library

    def opened(self) -> Library:
        return mmsearch.open(self.library, create=True, model="toy")

    def ingest(self, *paths: Path, prune: bool = False, count: bool = True) -> IngestReport:
        """Ingest, then hold everything against what must be. Problems are gathered, not raised. `count`: what is embedded, too."""
        paths = paths or tuple(self.roots)
        own = {os.fsencode(path.resolve()) for path in paths} | {os.fsencode(path) for path in paths}
        with self.opened() as library:
            lost = {
                os.fsencode(root)
                for root in library.catalog.sources.roots()
                if not (root.is_dir() and any(root.iterdir()))
            }
            before = {path: rows for path, rows in dump(library).items() if not _is_in(path, own | lost)}
            expected = self._to_embed(paths)
            with counted_embedding() as embedded:
                report = ingest_paths(library, paths, prune=prune)
            if count and embedded[0] != expected:
                self.problems.append(f"{embedded[0]} items embedded, {expected} are new: {report.sentence()}")
            self.held |= {_sha256(path) for path in self.files(paths)} - self._bad()
            after = dump(library)
            if before != {path: rows for path, rows in after.items() if not _is_in(path, own)}:
                self.problems.append("files of other folders than those ingested were touched")
            self.compare(library, {path: rows for path, rows in after.items() if _is_in(path, own)}, paths)
            if prune and any(
                _is_in(os.fsencode(row.path), own) for row in library.catalog.sources.rows(states=("offline",))
            ):
                self.problems.append("offline files outlived --prune")
        return report

    def _to_embed(self, paths: Sequence[Path]) -> int:
        new = {_sha256(path) for path in self.files(paths)} - self.held
        return sum(self.contents.item_count(self.numbers[sha256]) for sha256 in new)

    def _bad(self) -> set[str]:
        return {sha256 for sha256, number in self.numbers.items() if not self.contents.item_count(number)}

    def compare(self, library: Library, found: Dump, paths: Sequence[Path]) -> None:
        """What is found under `paths` against a library made again from the files there."""
        with mmsearch.open(self.folder / "again", create=True, model="toy", store="exact") as again:
            ingest_paths(again, [path for path in paths if os.path.lexists(path)])
            again.catalog.sources.settle(
                Plan(), list(library.catalog.sources.roots())
            )  # folders above `paths`, which names are taken from
            expected, errors = dump(again), _errors(again)
            for path in {path for path, *_ in errors}:  # a file that turned bad keeps its former items
                found.pop(path, None)
            if found != expected:
                lost = sorted(set(expected) - set(found))
                more = sorted(set(found) - set(expected))
                other = sorted(path for path in set(found) & set(expected) if found[path] != expected[path])
                self.problems.append(f"lost {lost[:3]}, too much {more[:3]}, other items {other[:3]}")
            known = {
                row
                for row in _errors(library)
                if Path(os.fsdecode(row[0])).exists() and any(_is_in(row[0], {os.fsencode(p.resolve())}) for p in paths)
            }
            if known != errors:
                self.problems.append(f"errors {sorted(known ^ errors)[:3]} stand in one library only")
            self.look_for_returned(library)  # as a search would: another disk may be there again
            if dump(library).keys() == expected.keys():
                if self.reader is None:
                    self.reader = self.opened()
                for query in QUERIES:
                    if _answers(library, query) != _answers(again, query):
                        self.problems.append(f"other answers to {query!r} than a new library's")
                    # What a reader takes for background is a while old, by design: its scores are not.
                    if _answers(self.reader, query, scores=True) != _answers(again, query, scores=True):
                        self.problems.append(f"other scores for {query!r} in a reader that was open all the time")
            faults = [f"{one.check}: {one.what}" for one in examine(library, quick=True) if one.state == "fault"]
            self.problems += faults
        shutil.rmtree(self.folder / "again")

    def look_for_returned(self, library: Library) -> None:
        """What comes back without an ingest is what lies there."""
        hidden = {row.id for row in library.catalog.sources.rows(states=("offline",))}
        returned = library.show_returned()
        back = [row for row in library.catalog.sources.rows(states=("indexed",)) if row.id in hidden]
        if len(back) != returned:
            self.problems.append(f"{len(back)} files came back, {returned} are told")
        if wrong := [row.path for row in back if not row.path.is_file() or _sha256(row.path) != row.sha256]:
            self.problems.append(f"came back though they are others, or gone: {wrong[:3]}")

    def compact(self) -> None:
        with self.opened() as library, library.lock():
            library.catalog.compact()
            self.held = {row.sha256 for row in library.catalog.sources.rows()}

    def states(self, under: Path | None = None) -> dict[str, int]:
        """How many files are in which state."""
        with self.opened() as library:
            rows = library.catalog.sources.rows(under=under, states=("indexed", "offline", "failed", "pending"))
        found: dict[str, int] = {}
        for row in rows:
            found[row.state] = found.get(row.state, 0) + 1
        return found

    def ids(self) -> dict[str, list[int]]:
        """The ids of what can be found, by the SHA-256 of the file."""
        with self.opened() as library:
            rows = library.catalog.sources.rows(states=("indexed",))
            return {row.sha256: [item.id for item in library.catalog.items.of_source(row.id)] for row in rows}

    def close(self) -> None:
        if self.reader is not None:
            self.reader.close()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_in(path: bytes, folders: set[bytes]) -> bool:
    return any(path == folder or path.startswith(folder + b"/") for folder in folders)


def _errors(library: Library) -> set[tuple[bytes, str, str]]:
    return {(os.fsencode(row.path), row.type, row.reason) for row in library.catalog.sources.errors()}


def _answers(library: Library, query: str, *, scores: bool = False) -> list[tuple[Path, int, float]]:
    hits = library.search(query, k=1000, min_relevance=0, all_copies=True)  # of equals the older one stands for all
    return sorted((hit.path, hit.item.ordinal, round(hit.score if scores else hit.relevance, 4)) for hit in hits)


def dump(library: Library) -> Dump:
    """All that can be found, ids aside: by file its items in order, with their vectors."""
    rows = (
        "SELECT s.path, i.ordinal, i.kind, i.page_number, i.text, i.meta, i.preview, i.date_s, i.name, v.data, s.size_bytes, s.modified_ns"
        " FROM items i JOIN sources s ON s.id = i.source_id"
        " LEFT JOIN vectors v ON v.item_id = i.id AND v.model_id = (SELECT value FROM meta WHERE key = 'active_model')"
        " WHERE i.visible = 1 ORDER BY s.path, i.ordinal"
    )
    found: Dump = {}
    with library.catalog.reading() as c:
        for path, *rest in c.execute(text(rows)):
            found.setdefault(path, []).append(tuple(rest))
    return found


@contextmanager
def counted_embedding() -> Iterator[list[int]]:
    """How many items the model is given; the timing of made-up ones is left out."""
    count, real = [0], ToyEmbedder.encode_documents

    def counted(self: ToyEmbedder, inputs: Sequence[Any]) -> Any:
        count[0] += len(inputs)
        return real(self, inputs)

    with patch.object(ToyEmbedder, "encode_documents", counted), patch.object(pipeline, "measure_costs", lambda *_: {}):
        yield count


@contextmanager
def warm_workers() -> Iterator[None]:
    """The real workers, started once for all runs inside."""
    pools: list[WorkerPool] = []

    def kept(*arguments: Any, **terms: Any) -> WorkerPool:
        if terms["limits"].ocr is not None:  # those that read print are others
            return WorkerPool(*arguments, **terms)
        if not pools:
            pools.append(WorkerPool(*arguments, **terms))
            pools[0].close, close[0] = lambda: None, pools[0].close  # type: ignore[method-assign]
        return pools[0]

    close: list[Callable[[], None]] = [lambda: None]
    with patch.object(pipeline, "WorkerPool", kept):
        try:
            yield
        finally:
            close[0]()


# ---- random steps


def _edit(world: World, file: Path, draw: random.Random) -> None:
    world.write(file)


def _edit_unseen(world: World, file: Path, draw: random.Random) -> None:
    """Other content of the same size, and the time set back."""
    status = file.stat()
    world.write(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def _former(world: World, file: Path, draw: random.Random) -> None:
    world.write(file, draw.randrange(world.next_number))


def _touch(world: World, file: Path, draw: random.Random) -> None:
    os.utime(file, ns=(1, draw.randrange(10**18, 17 * 10**17)))


def _chmod(world: World, file: Path, draw: random.Random) -> None:
    file.chmod(draw.choice((0o600, 0o644)))


def _rename(world: World, file: Path, draw: random.Random) -> None:
    file.rename(_free(file.with_name(f"r{draw.randrange(40)}.png")))


def _recase(world: World, file: Path, draw: random.Random) -> None:
    file.rename(_free(file.with_name(file.name.swapcase())))


def _move_across(world: World, file: Path, draw: random.Random) -> None:
    root = draw.choice([root for root in world.roots if not world.is_away[root]])
    file.rename(_free(root / file.name))


def _copy(world: World, file: Path, draw: random.Random) -> None:
    root = draw.choice([root for root in world.roots if not world.is_away[root]])
    shutil.copy2(file, _free(root / f"copy{draw.randrange(1000)}.png"))


def _link(world: World, file: Path, draw: random.Random) -> None:
    _free(file.with_name(f"link{draw.randrange(1000)}.png")).hardlink_to(file)


def _delete(world: World, file: Path, draw: random.Random) -> None:
    file.unlink()


def _swap(world: World, file: Path, draw: random.Random) -> None:
    _chain(world, file, draw, is_ring=True)


def _chain(world: World, file: Path, draw: random.Random, *, is_ring: bool = False) -> None:
    """a to b, b to c, and for a ring c to a."""
    chain = draw.sample(world.files(), min(3, len(world.files())))
    between = [path.with_name(f"between{n}") for n, path in enumerate(chain)]
    for path, aside in zip(chain, between, strict=True):
        path.rename(aside)
    targets = [*chain[1:], chain[0] if is_ring else _free(chain[0].with_name(f"end{draw.randrange(1000)}.png"))]
    for aside, target in zip(between, targets, strict=True):
        aside.rename(target)


def _over(world: World, file: Path, draw: random.Random) -> None:
    file.replace(draw.choice(world.files()))


def _into_folder(world: World, file: Path, draw: random.Random) -> None:
    """A folder of the file's name, with the file in it."""
    aside = file.with_name("between")
    file.rename(aside)
    file.mkdir()
    aside.rename(file / file.name)


def _rename_folder(world: World, file: Path, draw: random.Random) -> None:
    if file.parent not in world.roots:
        file.parent.rename(_free(file.parent.with_name(f"folder{draw.randrange(1000)}")))


def _move_and_edit(world: World, file: Path, draw: random.Random) -> None:
    target = _free(file.with_name(f"edited{draw.randrange(1000)}.png"))
    file.rename(target)
    world.write(target)


def _vanish(world: World, file: Path, draw: random.Random) -> None:
    world.put_aside(file)


def _lose_many(world: World, file: Path, draw: random.Random) -> None:
    for path in draw.sample(world.files(), len(world.files()) // 2):
        world.put_aside(path)


def _new(world: World, file: Path, draw: random.Random) -> None:
    world.write(_free(file.with_name(f"new{world.next_number}.png")))


def _free(path: Path) -> Path:
    """The path, or one like it where nothing stands yet."""
    number = 0
    while os.path.lexists(path):
        number += 1
        path = path.with_name(f"{number}{path.name}")
    return path


STEPS: dict[str, tuple[Callable[[World, Path, random.Random], None], int]] = {
    "new": (_new, 5), "edit": (_edit, 3), "edit unseen": (_edit_unseen, 3), "former content": (_former, 4), "touch": (_touch, 1),
    "rights": (_chmod, 1), "rename": (_rename, 3), "case": (_recase, 1), "move": (_move_across, 3), "copy": (_copy, 3),
    "hard link": (_link, 1), "delete": (_delete, 2), "ring": (_swap, 2), "chain": (_chain, 2), "move over": (_over, 1),
    "folder for file": (_into_folder, 1), "rename folder": (_rename_folder, 2), "move and edit": (_move_and_edit, 1),
    "vanish": (_vanish, 3), "lose many": (_lose_many, 1),
}  # fmt: skip


def wander(folder: Path, steps: int, *, seed: int = 0, say: Callable[[str], None] = lambda _: None) -> Tally:
    """Random steps, an ingest after every few of them. A failing run is repeated by its seed."""
    draw, tally, began = random.Random(seed), Tally(), time.monotonic()
    world = World(folder)
    world.fill()
    world.ingest()
    history: list[str] = []
    while tally.steps < steps:
        for _ in range(draw.randrange(1, 4)):
            name = _step(world, draw)
            history.append(name)
            tally.steps += 1
            tally.by_kind[name] = tally.by_kind.get(name, 0) + 1
        paths = draw.choices([world.roots, world.roots[:1], world.roots[1:], world.roots[::-1]], (6, 2, 2, 2))[0]
        prune = draw.random() < 0.1
        history.append(f"ingest {' '.join(root.name for root in paths)}{' --prune' * prune}")
        world.ingest(*paths, prune=prune)
        tally.ingests += 1
        tally.problems += [
            f"seed {seed}, step {tally.steps} ({', '.join(history[-8:])}): {one}" for one in world.problems
        ]
        world.problems.clear()
        if tally.ingests % 25 == 0:
            say(f"moves: {tally.steps} steps, {tally.ingests} ingests, {len(tally.problems)} problems")
    world.close()
    tally.seconds = time.monotonic() - began
    return tally


def _step(world: World, draw: random.Random) -> str:
    """One change of the world; its name."""
    present = [root for root in world.roots if not world.is_away[root]]
    away = [root for root in world.roots if world.is_away[root]]
    chance = draw.random()
    if away and chance < 0.4:
        world.give_back(draw.choice(away))
        return "disk back"
    if len(present) > 1 and chance < 0.08:
        world.bring_back()
        leave_empty = draw.random() < 0.5
        world.take_away(draw.choice(present), leave_empty=leave_empty)
        return "disk away, mount point left" if leave_empty else "disk away"
    if world.aside and chance < 0.5:
        world.bring_back()
        return "bring back"
    if chance > 0.97:
        world.compact()
        return "compact"
    files = world.files(present)
    name = draw.choices(list(STEPS), [weight for _, weight in STEPS.values()])[0]
    if len(files) < 6:
        world.write(_free(present[0] / f"more{world.next_number}.png"))
        return "new"
    STEPS[name][0](world, draw.choice(files), draw)
    return name


def summary(tally: Tally) -> dict[str, object]:
    """For the table in SECURITY.md."""
    return {
        "steps": tally.steps,
        "ingests": tally.ingests,
        "problems": len(tally.problems),
        "seconds": round(tally.seconds),
        "by kind": dict(sorted(tally.by_kind.items())),
    }
