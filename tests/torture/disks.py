"""A disk without room, at every write: `make torture` runs it whole, tests/integration/test_disks.py some of it.

Two instruments. `full_disk.c`, preloaded into the real command, lets the k-th write below a folder fail, and all that follow, as a full
disk does: with k = 1, 2, 3, … until the command needs no more, every write has failed once. A small tmpfs with all but some kilobytes taken
shows that a real file system is met in the same way.

Whatever fails: one line says so and names the place, nothing is taken for damaged or for a file's fault, nothing half-written stays, what
was committed is there, and once there is room the same command ends with the answers of a library that never ran out of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import mmsearch
from mmsearch.upkeep.doctor import AGREES, LEFTOVER
from tests.torture import kills

SOURCE = Path(__file__).with_name("full_disk.c")
PATIENCE_S = 120.0
SEED = 7
"""With it there is everything among the first ten files: documents, photos, a video, a copy, and what cannot be read."""
FAILING_STEP = 9
"""Of the writes that a full disk refuses, every so many-th is also refused by a failing one."""
EXPECTED_LINE = re.compile(r"mmsearch: (no room is left|the quota is used up) on the disk of (?P<place>\S+): .*make .*")
FAILING_LINE = re.compile(
    r"mmsearch: (the disk of (?P<place>\S+) cannot be read or written|\S+ cannot be opened or written) .* sound.*"
)
Known = set[tuple[str, int, int]]


@dataclass
class Tally:
    """What a scenario went through. `writes`: so many failed, each in a run of its own."""

    name: str
    writes: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Ended:
    """A command that has ended: its exit code, what it said, and how many writes below the folder it asked for."""

    code: int
    out: str
    said: str
    writes: int

    @property
    def last(self) -> str:
        return (self.said.strip().splitlines() or [""])[-1]


@dataclass(frozen=True)
class Shim:
    """Runs commands whose writes fail. Made by `shim`."""

    library: Path

    def run(
        self,
        arguments: Sequence[str | Path],
        below: Path,
        at: int = 1 << 60,
        *,
        number: int = errno.ENOSPC,
        **environment: str,
    ) -> Ended:
        """`mmsearch arguments`; from the `at`-th write below a folder on (counted from 1) they fail."""
        counter = self.library.with_name("writes")
        counter.write_bytes(bytes(8))
        faults = {
            "FAULT_BELOW": str(below),
            "FAULT_COUNT": str(counter),
            "FAULT_AT": str(at),
            "FAULT_ERRNO": str(number),
        }
        done = subprocess.run(
            [sys.executable, "-P", "-m", "mmsearch", *map(str, arguments)],
            env=plain_environment() | faults | {"LD_PRELOAD": str(self.library)} | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE_S,
        )
        writes = int.from_bytes(counter.read_bytes(), sys.byteorder)
        return Ended(
            done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"), writes
        )

    def kinds_of_writes(self, arguments: Sequence[str | Path], below: Path) -> list[int]:
        """Numbers of the writes at which something else begins or ends: the first and the last of those that do the same to a file."""
        log = self.library.with_name("log")
        log.write_bytes(b"")
        self.run(arguments, below, FAULT_LOG=str(log))
        lines = [
            re.sub(r"[0-9a-z_]{8}\.tmp|[0-9a-f]{32}|\.\d+\.", "", line)
            for line in log.read_text("utf-8", "replace").splitlines()
        ]
        return [
            n for n, line in enumerate(lines, 1) if n in (1, len(lines)) or line != lines[n - 2] or line != lines[n]
        ]


def plain_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MMSEARCH_")}
    return kept | {"NO_COLOR": "1", "OMP_NUM_THREADS": "1"}


def shim(folder: Path) -> Shim:
    """Compile it. Raises RuntimeError where that is not possible; the message says why."""
    if sys.platform != "linux":
        raise RuntimeError("only Linux preloads libraries in this way")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("no C compiler")
    library = folder / "full_disk.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the C compiler refuses: {done.stderr[-300:]}")
    return Shim(library)


@dataclass(frozen=True)
class Scenario:
    """A command that writes, on a library that is made ready for it.

    Attributes:
        prepare: makes the library, and whatever else is needed.
        below: of which folder the disk is full, given the library.
        grows: it only adds: what a failed run has committed must be there at the end.
        is_sound: `prepare` leaves nothing for `mmsearch doctor` to find.
        keeps_answers: they are in the end those of the library that was never disturbed.
        check: what else is wrong in the end.
    """

    name: str
    command: Callable[[Path], Sequence[str | Path]]
    prepare: Callable[[Path], None]
    below: Callable[[Path], Path] = lambda library: library
    grows: bool = True
    ok: tuple[int, ...] = (0, 4)
    is_sound: bool = True
    keeps_answers: bool = True
    check: Callable[[Path], list[str]] = lambda _: []


def known(library: Path) -> Known:
    """The visible items: name of the file, ordinal, id."""
    file = library / "catalog.sqlite3"
    if not file.exists() or not file.stat().st_size:
        return set()
    with contextlib.closing(sqlite3.connect(file)) as database:
        try:
            rows = database.execute(
                "SELECT s.name, i.ordinal, i.id FROM items i JOIN sources s ON s.id = i.source_id WHERE i.visible"
            )
        except sqlite3.OperationalError:  # its tables are not made yet
            return set()
        return set(rows.fetchall())


def vectors(library: Path) -> dict[tuple[str, int], np.ndarray]:
    """Those that answer queries, by the name of the file and the ordinal."""
    with mmsearch.open(library) as opened:
        key = opened.model_key
        assert key is not None
        items = {
            item.id: item for row in opened.catalog.sources.rows() for item in opened.catalog.items.of_source(row.id)
        }
        ids, found = opened.catalog.vectors.of(list(items), key)
        return {(items[i].path.name, items[i].ordinal): vector for i, vector in zip(ids.tolist(), found, strict=True)}


def failures(library: Path) -> set[tuple[str, str]]:
    """The names of the files that count as failed, and why."""
    with mmsearch.open(library) as opened:
        return {(row.path.name, row.reason) for row in opened.catalog.sources.errors()}


def leftovers(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if LEFTOVER.search(path.name)]


@dataclass(frozen=True)
class Bed:
    """Files, their library, and one of the first half of them."""

    folder: Path
    files: Path
    library: Path
    half: Path
    expected: kills.Answers
    failures: set[tuple[str, str]]

    @classmethod
    def make(cls, folder: Path, count: int) -> Bed:
        killer = kills.Killer()
        whole = kills.Bed.make(folder, count, killer, seed=SEED)
        half = folder / "half"
        killer.run(["ingest", whole.files / "part0", whole.files / "part1", "--library", half, "--model", "toy"])
        (folder / "archives").mkdir()
        killer.run(["backup", folder / "good.zip", "--library", whole.library])
        return cls(folder, whole.files, whole.library, half, whole.expected, failures(whole.library))

    def copy_to(self, target: Path, *, of: Path | None = None) -> None:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(of or self.library, target)


def spoil(library: Path) -> None:
    """Derived files for `doctor --repair` to make again."""
    kills.lose_snapshots(library)
    for preview in sorted((library / "previews").rglob("*.webp"))[::2]:
        preview.unlink()
    with contextlib.closing(sqlite3.connect(library / "catalog.sqlite3")) as database, database:
        database.execute("INSERT INTO words(words) VALUES ('delete-all')")


def scenarios(bed: Bed) -> list[Scenario]:
    """Everything that writes."""
    archives = bed.folder / "archives"

    def ready(*steps: Callable[[Path], None], of: Path | None = None) -> Callable[[Path], None]:
        def prepare(library: Path) -> None:
            bed.copy_to(library, of=of)
            for step in steps:
                step(library)

        return prepare

    def empty(library: Path) -> None:
        shutil.rmtree(library, ignore_errors=True)

    tiny = bed.folder / "tiny"

    def make_tiny(_: Path) -> None:
        from tests.unit.test_vlm2vec import random_embedder

        if not tiny.exists():
            random_embedder(page_text_tokens=16).save(tiny)

    def switched(library: Path) -> list[str]:
        """Equal but for the rounding that comes of other batches."""
        if not (bed.folder / "switched").exists():
            bed.copy_to(bed.folder / "switched")
            kills.Killer().run(["models", "use", tiny, "--library", bed.folder / "switched"])
        found, expected = vectors(library), vectors(bed.folder / "switched")
        if found.keys() != expected.keys():
            return [f"{len(found)} vectors of the new model instead of {len(expected)}"]
        far = [place for place, vector in found.items() if float(vector @ expected[place]) < AGREES]
        return [f"other vectors than after a switch: {far}"] if far else []

    def no_archive(library: Path) -> None:
        bed.copy_to(library)
        shutil.rmtree(archives)
        archives.mkdir()

    def old_archive(library: Path) -> None:
        no_archive(library)
        shutil.copy(bed.folder / "good.zip", archives / "saved.zip")

    def whole_archive(library: Path) -> list[str]:
        from mmsearch.upkeep.backup import restore

        target = bed.folder / "restored"
        shutil.rmtree(target, ignore_errors=True)
        restore(archives / "saved.zip", target)
        return [] if kills.answers(target) == bed.expected else ["the archive gives other answers"]

    def marked(library: Path) -> list[str]:
        lines = (library / "queries.jsonl").read_text().splitlines()
        return [] if len(lines) == 1 else [f"{len(lines)} judged queries instead of one"]

    ingest = ["ingest", bed.files, "--model", "toy", "--library"]
    save = ["backup", archives / "saved.zip", "--library"]
    return [
        Scenario("first ingest", lambda library: [*ingest, library], empty),
        Scenario("ingest of more files", lambda library: [*ingest, library], ready(of=bed.half)),
        Scenario("snapshots", lambda library: [*ingest, library], ready(kills.lose_snapshots)),
        Scenario("doctor --repair", lambda library: ["doctor", "--repair", "--library", library], ready(spoil), ok=(0,), is_sound=False),
        Scenario("compact", lambda library: ["compact", "--library", library], ready(kills.bury), ok=(0,)),
        Scenario("migration", lambda library: ["status", "--library", library], ready(kills.age_schema), ok=(0,)),
        Scenario("backup", lambda library: [*save, library], no_archive, lambda _: archives, ok=(0,), check=whole_archive),
        Scenario(
            "backup over a former one", lambda library: [*save, library, "--overwrite"], old_archive, lambda _: archives, ok=(0,),
            check=whole_archive,
        ),
        Scenario("restore", lambda library: ["restore", bed.folder / "good.zip", "--library", library], empty, ok=(0,)),
        Scenario(
            "a judged query", lambda library: ["eval", "add", library / "queries.jsonl", "revenue", "--none", "--library", library],
            ready(), ok=(0,), check=marked,
        ),
        Scenario(
            "models use", lambda library: ["models", "use", tiny, "--library", library], ready(make_tiny), check=switched, keeps_answers=False
        ),
    ]  # fmt: skip


READERS: Sequence[Sequence[str]] = (
    ("query", "revenue", "--format", "json", "--min-relevance", "0"),
    ("errors", "--json"),
    ("show", "1"),
    ("status", "--json"),
)
"""What must answer as ever, whatever the disk does not take."""


def read_on_a_full_disk(bed: Bed, shim: Shim) -> Tally:
    """Who only reads answers as ever where not a byte is left: with snapshots and without, and with a log that a killed run left."""
    began, tally, library = time.monotonic(), Tally("reading"), bed.folder / "library"

    def untouched(_: Path) -> None: ...

    for prepare in (untouched, kills.lose_snapshots, lose_models_folder, leave_log):
        for reader in READERS:
            bed.copy_to(library)
            prepare(library)
            expected = shim.run([*reader, "--library", library], library)
            bed.copy_to(library)
            prepare(library)
            found = shim.run([*reader, "--library", library], library, 1)
            tally.writes += found.writes
            # Its size and its hour are the only facts that may differ.
            outs = [re.sub(r'"bytes": \d+', "", one.out) for one in (expected, found)]
            if found.code != expected.code or outs[0] != outs[1] or expected.code not in (0, 4):
                tally.problems.append(
                    f"{reader[0]} after {prepare.__name__}: exit code {found.code}, {found.said[-600:]}"
                )
            if kills.answers(library) != bed.expected:
                tally.problems.append(f"{reader[0]} after {prepare.__name__}: other answers afterwards")
            tally.problems += kills.faults(library)
    tally.seconds = time.monotonic() - began
    return tally


def lose_models_folder(library: Path) -> None:
    for folder in library.glob("toy*"):
        shutil.rmtree(folder)


def leave_log(library: Path) -> None:
    """A commit that lies in the write-ahead log only, as a killed writer leaves it, and no shared index of it."""
    file = library / "catalog.sqlite3"
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("UPDATE roots SET scanned_at = scanned_at + 1")
        log = file.with_name(f"{file.name}-wal").read_bytes()
        content = file.read_bytes()
    file.write_bytes(content)
    file.with_name(f"{file.name}-wal").write_bytes(log)


def fail_every_write(bed: Bed, shim: Shim, scenario: Scenario, *, step: int = 1, number: int = errno.ENOSPC) -> Tally:
    """Run it once for every kind of write that it does, or every `step`-th, with that one failing and all that follow."""
    began, tally, library = time.monotonic(), Tally(scenario.name), bed.folder / "library"
    scenario.prepare(library)
    for at in shim.kinds_of_writes(scenario.command(library), scenario.below(library))[::step]:
        scenario.prepare(library)
        before = known(library)
        ended = shim.run(scenario.command(library), scenario.below(library), at, number=number)
        if ended.writes < at:
            continue  # batches are not the same in each run
        tally.writes += 1
        problems = look(bed, scenario, library, before, ended, number)
        tally.problems += [f"{scenario.name}, write {at} fails: {problem}" for problem in problems]
    tally.seconds = time.monotonic() - began
    return tally


def fill_everything(bed: Bed, shim: Shim, *, say: Callable[[str], object] = lambda _: None) -> list[Tally]:
    """Every scenario on a full disk, some of their writes on a failing one, and those who only read."""
    tallies = []
    for scenario in scenarios(bed):
        tallies.append(fail_every_write(bed, shim, scenario))
        tallies.append(fail_every_write(bed, shim, scenario, step=FAILING_STEP, number=errno.EIO))
        tallies[-1].name += " on a failing disk"
        for tally in tallies[-2:]:
            say(f"{tally.name}: {tally.writes} writes failed, {len(tally.problems)} problems, {tally.seconds:.0f} s")
            for problem in tally.problems[:5]:
                say(f"  {problem}")
    tallies.append(read_on_a_full_disk(bed, shim))
    say(f"reading: {len(tallies[-1].problems)} problems, {tallies[-1].seconds:.0f} s")
    return tallies


def summary(tallies: Sequence[Tally]) -> dict[str, object]:
    """For the table in SECURITY.md."""
    return {
        "writes failed": sum(tally.writes for tally in tallies),
        "problems": sum(len(tally.problems) for tally in tallies),
        "seconds": round(sum(tally.seconds for tally in tallies)),
        "by command": {tally.name: tally.writes for tally in tallies},
    }


def look(
    bed: Bed, scenario: Scenario, library: Path, before: Known, ended: Ended, number: int = errno.ENOSPC
) -> Iterator[str]:
    """What is wrong after a run that found no room, and after the same command once there is some."""
    if ended.code in scenario.ok:
        pass  # it could do without that write
    elif ended.code != 3:
        yield f"exit code {ended.code}: {ended.said[-600:]}"
    else:
        said = (EXPECTED_LINE if number == errno.ENOSPC else FAILING_LINE).fullmatch(ended.last)
        below = scenario.below(library)
        if said is None or not Path(said["place"] or below).is_relative_to(below):
            yield f"it says {ended.last!r}"
    if "Traceback" in ended.said or "damaged" in ended.last or "fault of mmsearch" in ended.said:
        yield f"it says {ended.said[-600:]!r}"
    if left := [*leftovers(library), *leftovers(bed.folder / "archives")]:
        yield f"left behind: {left}"
    kept = known(library)
    if scenario.grows and not before <= kept:
        yield f"{len(before - kept)} items are lost"
    if scenario.is_sound:
        yield from kills.faults(library)
    again = subprocess.run(
        [sys.executable, "-P", "-m", "mmsearch", *map(str, scenario.command(library))],
        env=plain_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    if (
        again.returncode not in scenario.ok and "already" not in again.stderr
    ):  # it was whole before the last write failed
        yield f"again it ends with {again.returncode}: {again.stderr[-600:]}"
        return
    if scenario.grows and not kept <= known(library):
        yield f"{len(kept - known(library))} items that were committed are lost in the end"
    if scenario.keeps_answers and kills.answers(library) != bed.expected:
        yield "other answers than an undisturbed library's"
    if failures(library) != bed.failures:
        yield f"files that failed: {failures(library) ^ bed.failures}"
    yield from kills.faults(library)
    yield from scenario.check(library)
