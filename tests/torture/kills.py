"""Killed at random moments, again and again, and nothing is lost: `make torture` runs it long, tests/integration/test_torture.py short.

A folder of mixed files is indexed by the real command with the toy model (no torch: a run is short and kills are many), and its whole
process group gets SIGKILL after a random time. After every kill the library must be sound as it stands; once the command has ended by itself,
the answers to fixed queries must equal, ids aside, those of a library that was never interrupted. The same for everything else that writes.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import mmsearch
from mmsearch.upkeep.doctor import examine
from tests import samples

QUERIES = (
    "revenue",
    "red picture",
    "whales in the sea",
    "green",
    "blue scene",
    "quarter number 3",
    "page 2 of report 5",
)
WORDS = (
    "revenue grew",
    "whales sing",
    "staff and offices",
    "the third quarter",
    "a map of the harbour",
    "rules for the pool",
)
Answers = list[tuple[str, str, str, int, float]]


@dataclass
class Tally:
    """What a scenario went through. `kills`: runs that were killed before they ended by themselves."""

    name: str
    kills: int = 0
    completed: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


EXACT = "float32"
"""In bfloat16, where the processor has it, an item's vector depends a little on what else is in its batch."""


def make_files(folder: Path, count: int, *, seed: int = 0) -> None:
    """`count` files: photos of many colours, documents, a few videos, copies, and some that cannot be read."""
    draw = random.Random(seed)
    folder.mkdir(parents=True)
    for n in range(count):
        place = folder / f"part{n % 5}"
        place.mkdir(exist_ok=True)
        what = draw.choices(("photo", "pdf", "video", "copy", "broken"), (60, 22, 4, 6, 8))[0]
        if what == "photo":
            colour = (draw.randrange(256), draw.randrange(256), draw.randrange(256))
            samples.photo(place / f"photo{n}.jpg", colour, size=(160, 120))
        elif what == "pdf":
            pages = [f"{draw.choice(WORDS)}, page {page} of report {n}" for page in range(1, draw.randrange(2, 7))]
            samples.pdf(place / f"report{n}.pdf", pages)
        elif what == "video":
            samples.scenes(place / f"clip{n}.mp4", [1.0, 1.0])
        elif what == "copy" and (known := sorted(folder.rglob("*.*"))):
            original = draw.choice(known)
            shutil.copyfile(original, place / f"copy{n}{original.suffix}")
        else:
            (place / f"broken{n}.pdf").write_bytes(b"%PDF-1.7\n" + draw.randbytes(3000))


def answers(library: Path) -> Answers:
    """What the library says to QUERIES, without ids."""
    with mmsearch.open(library, dtype=EXACT) as opened:
        return [
            (query, hit.path.name, hit.item.kind, hit.item.ordinal, round(hit.relevance, 4))
            for query in QUERIES
            for hit in sorted(
                opened.search(query, k=1000, min_relevance=0),
                key=lambda hit: (-round(hit.relevance, 4), hit.path, hit.item.ordinal),
            )
        ]


def faults(library: Path) -> list[str]:
    """What `mmsearch doctor --quick` finds wrong; [] for a library that is not there yet."""
    if not (library / "catalog.sqlite3").exists():
        return []
    try:
        with mmsearch.open(library) as opened:
            return [f"{one.check}: {one.what}" for one in examine(opened, quick=True) if one.state == "fault"]
    except mmsearch.errors.LibraryMissing:  # killed before its tables were made
        return []


class Killer:
    """Runs commands of mmsearch, and kills them with all their children at random moments."""

    def __init__(self, seed: int = 0) -> None:
        self.draw = random.Random(seed)
        self.environment = os.environ | {
            "MMSEARCH_MODEL": "",
            "MMSEARCH_DTYPE": EXACT,
            "NO_COLOR": "1",
            "OMP_NUM_THREADS": "1",
        }
        del self.environment["MMSEARCH_MODEL"]

    def start(self, arguments: Sequence[str | Path]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "mmsearch", *map(str, arguments)]
        return subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=self.environment, start_new_session=True
        )

    def run(self, arguments: Sequence[str | Path], *, ok: Sequence[int] = (0, 4)) -> float:
        """To its end; the seconds it took."""
        began = time.monotonic()
        process = self.start(arguments)
        _, said = process.communicate()
        if process.returncode not in ok:
            raise AssertionError(f"mmsearch {arguments[0]} ended with {process.returncode}: {said.decode()[-800:]}")
        return time.monotonic() - began

    def run_or_kill(self, arguments: Sequence[str | Path], within_s: float, *, ok: Sequence[int] = (0, 4)) -> bool:
        """Whether it was killed, at a moment within the first `within_s` seconds, before it ended by itself."""
        process = self.start(arguments)
        try:
            _, said = process.communicate(timeout=self.draw.uniform(0.05, within_s))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return True
        if process.returncode not in ok:
            raise AssertionError(f"mmsearch {arguments[0]} ended with {process.returncode}: {said.decode()[-800:]}")
        return False


@dataclass(frozen=True)
class Bed:
    """Files, and a library of them that was never interrupted."""

    folder: Path
    files: Path
    library: Path
    expected: Answers
    ingest_s: float

    @classmethod
    def make(cls, folder: Path, count: int, killer: Killer, *, seed: int = 0) -> Bed:
        files, library = folder / "files", folder / "untouched"
        make_files(files, count, seed=seed)
        seconds = killer.run(["ingest", files, "--library", library, "--model", "toy"])
        return cls(folder, files, library, answers(library), seconds)

    def copy(self, name: str) -> Path:
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.library, target)
        return target


def kill_ingest(bed: Bed, killer: Killer, kills: int) -> Tally:
    """From nothing to the whole folder, over and over."""
    tally, library = Tally("ingest"), bed.folder / "killed"
    command = ["ingest", bed.files, "--library", library, "--model", "toy"]
    while tally.kills < kills:
        # Late moments too: once most is done a run is short, so it is begun again.
        if killer.run_or_kill(command, bed.ingest_s):
            tally.kills += 1
            tally.problems += [f"after kill {tally.kills}: {fault}" for fault in faults(library)]
        else:
            tally.completed += 1
            tally.problems += compare(bed, library, f"after {tally.kills} kills")
            shutil.rmtree(library)
    killer.run(command)
    tally.completed += 1
    tally.problems += compare(bed, library, "at the end")
    return tally


def kill_changes(bed: Bed, killer: Killer, kills: int) -> Tally:
    """Files edited, moved, deleted and added between the runs; at the end the folder is as it was."""
    tally, library = Tally("ingest of a changing folder"), bed.copy("changing")
    files = bed.folder / "moving"
    shutil.copytree(bed.files, files)
    command = ["ingest", files, "--library", library, "--model", "toy", "--prune"]
    while tally.kills < kills:
        _disturb(files, killer.draw)
        if killer.run_or_kill(command, bed.ingest_s):
            tally.kills += 1
            tally.problems += [f"after kill {tally.kills}: {fault}" for fault in faults(library)]
        else:
            tally.completed += 1
    fresh = bed.folder / "moved-fresh"
    killer.run(command)
    killer.run(["remove", bed.files, "--library", library], ok=(0, 1))
    killer.run(["ingest", files, "--library", fresh, "--model", "toy"])
    tally.completed += 1
    if answers(library) != answers(fresh):
        tally.problems.append("other answers than a library made again")
    tally.problems += faults(library)
    return tally


def _disturb(files: Path, draw: random.Random) -> None:
    for file in draw.sample(sorted(path for path in files.rglob("*") if path.is_file()), 4):
        what = draw.choice(("edit", "move", "delete", "add"))
        if what == "edit" and file.suffix == ".jpg":
            samples.photo(file, (draw.randrange(256), draw.randrange(256), draw.randrange(256)), size=(160, 120))
        elif what == "move":
            file.rename(file.with_name(f"moved{draw.randrange(10**6)}{file.suffix}"))
        elif what == "delete":
            file.unlink()
        elif what == "add":
            samples.photo(
                file.with_name(f"new{draw.randrange(10**6)}.jpg"), (draw.randrange(256), 10, 200), size=(160, 120)
            )


def kill_command(
    bed: Bed, killer: Killer, kills: int, name: str, command: Callable[[Path], Sequence[str | Path]],
    *, prepare: Callable[[Path], None] = lambda _: None, check: Callable[[Path], list[str]] | None = None,
) -> Tally:  # fmt: skip
    """A command over a copy of the library: killed, looked at, run to its end, looked at."""
    tally, within_s = Tally(name), 0.0
    while tally.kills < kills:
        library = bed.copy("copied")
        prepare(library)
        if not within_s:
            within_s = killer.run(command(library))
            continue
        if killer.run_or_kill(command(library), within_s):
            tally.kills += 1
            if check is not None:  # before anything opens the library
                tally.problems += check(library)
            tally.problems += [f"after kill {tally.kills}: {fault}" for fault in faults(library)]
            killer.run(command(library))
        tally.completed += 1
        tally.problems += compare(bed, library, f"after {tally.kills} kills")
    return tally


def compare(bed: Bed, library: Path, when: str) -> list[str]:
    found = answers(library)
    problems = [f"{when}: {fault}" for fault in faults(library)]
    if found != bed.expected:
        differing = sum(a != b for a, b in zip(found, bed.expected, strict=False)) + abs(len(found) - len(bed.expected))
        problems.append(f"{when}: {differing} of {len(bed.expected)} answers differ from an uninterrupted library's")
    return problems


def lose_snapshots(library: Path) -> None:
    """So that the next command writes them."""
    for manifest in library.glob("toy*/*.json"):
        manifest.unlink()


def age_schema(library: Path) -> None:
    """Bring a library's schema back to 0001, as an older release left it."""
    import sqlite3
    from contextlib import closing
    from importlib import import_module

    from mmsearch.catalog import integrity

    first = import_module("mmsearch.catalog.migrations.versions.0001_first")
    with closing(sqlite3.connect(library / "catalog.sqlite3")) as database, database:
        for name in first.TRIGGERS:
            database.execute(f"DROP TRIGGER {name}")
        for table in integrity.LEXICAL_TABLES:
            database.execute(f"DROP TABLE {table}")
        database.execute("DROP INDEX IF EXISTS sources_moment")
        for table, column in (
            ("models", "is_multi_vector"),
            ("sources", "ctime_ns"),
            ("items", "text_source"),
            ("items", "has_print"),
            ("items", "spellings"),
            ("items", "description"),
            ("sources", "sidecars"),
            ("sources", "content_identifier"),
            ("sources", "reader_version"),
            ("vectors", "checksum"),
        ):
            if column in {row[1] for row in database.execute(f"PRAGMA table_info({table})")}:
                database.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        database.execute("DROP TABLE IF EXISTS recognised")
        for statement in first.TABLES.split(";"):
            if "USING fts5" in statement:
                database.execute(statement)
        for table in integrity.LEXICAL_TABLES:
            row = f"INSERT INTO {table}(rowid, text, name)"
            database.execute(f"{row} SELECT id, text, name FROM items WHERE visible = 1")
        for name, (event, body) in first.TRIGGERS.items():
            both = " ".join(body.format(table=table) for table in integrity.LEXICAL_TABLES)
            database.execute(f"CREATE TRIGGER {name} {event} BEGIN {both} END")
        database.execute("UPDATE alembic_version SET version_num = '0001'")


def former_copy_is_whole(library: Path) -> list[str]:
    """The copy that a migration keeps first: of the old schema and sound, or not there."""
    import sqlite3
    from contextlib import closing

    from mmsearch.catalog import copies

    problems = []
    for kept in copies.former_copies(library / "catalog.sqlite3"):
        with closing(sqlite3.connect(kept)) as database:
            said = copies.faults(database)
            (revision,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
        if said or revision != "0001":
            problems.append(f"{kept.name} of a migration that was cut off: schema {revision}, {said}")
    return problems


def bury(library: Path) -> None:
    """Tombstones for `compact`: a file's items deleted, and the file indexed again."""
    from ingest.pipeline import ingest_paths

    with mmsearch.open(library) as opened:
        rows = opened.catalog.sources.rows(states=("indexed",))
        with opened.lock():
            opened.catalog.sources.retire([row.id for row in rows[:20]])
        ingest_paths(opened, list(opened.catalog.sources.roots()))


def scenarios(bed: Bed, killer: Killer, kills: int, few: int) -> list[Tally]:
    """Everything that writes, one after the other: `kills` for ingestion, `few` for each other command."""
    archive = bed.folder / "saved.zip"

    def whole_or_absent(_: Path) -> list[str]:
        from mmsearch.upkeep.backup import restore

        if not archive.exists():
            return []
        target = bed.folder / "restored"
        shutil.rmtree(target, ignore_errors=True)
        restore(archive, target)
        return compare(bed, target, "restored from a backup that was cut off")

    def restore_command(library: Path) -> list[str | Path]:
        return ["restore", bed.folder / "good.zip", "--library", library]

    steps: list[Callable[[], Tally]] = [
        lambda: kill_ingest(bed, killer, kills),
        lambda: kill_changes(bed, killer, few),
        lambda: kill_command(bed, killer, few, "snapshots", lambda library: ["ingest", bed.files, "--library", library], prepare=lose_snapshots),
        lambda: kill_command(bed, killer, few, "migration", lambda library: ["status", "--library", library], prepare=age_schema, check=former_copy_is_whole),
        lambda: kill_command(bed, killer, few, "compact", lambda library: ["compact", "--library", library], prepare=bury),
        lambda: kill_command(bed, killer, few, "backup", lambda library: ["backup", archive, "--overwrite", "--library", library], check=whole_or_absent),
        lambda: kill_restore(bed, killer, few, restore_command),
        lambda: kill_switch(bed, killer, few),
    ]  # fmt: skip
    tallies = []
    for step in steps:
        began = time.monotonic()
        tally = step()
        tally.seconds = time.monotonic() - began
        tallies.append(tally)
        print(
            f"{tally.name}: {tally.kills} kills, {tally.completed} runs to the end, {len(tally.problems)} problems, {tally.seconds:.0f} s",
            flush=True,
        )
        for problem in tally.problems[:5]:
            print(f"  {problem}")
    return tallies


def kill_restore(bed: Bed, killer: Killer, kills: int, command: Callable[[Path], list[str | Path]]) -> Tally:
    """A library appears whole or not at all."""
    tally, library = Tally("restore"), bed.folder / "back"
    killer.run(["backup", bed.folder / "good.zip", "--overwrite", "--library", bed.library])
    within_s = 0.0
    while tally.kills < kills:
        shutil.rmtree(library, ignore_errors=True)
        if not within_s:
            within_s = killer.run(command(library))
            continue
        if killer.run_or_kill(command(library), within_s):
            tally.kills += 1
            if not (library / "catalog.sqlite3").exists():
                killer.run(command(library))
        tally.completed += 1
        tally.problems += compare(bed, library, f"after {tally.kills} kills")
    return tally


def kill_switch(bed: Bed, killer: Killer, kills: int) -> Tally:
    """The switch to another model, a tiny random VLM2Vec: until it is done the old one answers as before, then the new one."""
    from tests.unit.test_vlm2vec import random_embedder

    tally, checkpoint = Tally("models use"), bed.folder / "tiny"
    random_embedder(page_text_tokens=16).save(checkpoint)

    def command(library: Path) -> list[str | Path]:
        return ["models", "use", checkpoint, "--library", library]

    reference = bed.copy("switched")
    within_s = killer.run(command(reference))
    expected = answers(reference)
    while tally.kills < kills:
        library = bed.copy("switching")
        if killer.run_or_kill(command(library), within_s):
            tally.kills += 1
            tally.problems += [f"after kill {tally.kills}: {fault}" for fault in faults(library)]
            if answers(library) not in (bed.expected, expected):
                tally.problems.append(f"after kill {tally.kills}: neither the old model's answers nor the new one's")
            killer.run(command(library))
        tally.completed += 1
        if answers(library) != expected:
            tally.problems.append(f"after {tally.kills} kills: other answers than after an uninterrupted switch")
    return tally


def summary(tallies: Sequence[Tally]) -> dict[str, object]:
    """For the table in SECURITY.md."""
    return {
        "kills": sum(tally.kills for tally in tallies),
        "runs to the end": sum(tally.completed for tally in tallies),
        "problems": sum(len(tally.problems) for tally in tallies),
        "seconds": round(float(np.sum([tally.seconds for tally in tallies]))),
        "by command": {tally.name: tally.kills for tally in tallies},
    }
