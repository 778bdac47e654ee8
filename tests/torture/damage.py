"""What is done to a library and its ingest from outside: bombs of text and pixels, no memory to start a decoder, a lost log, flipped bits,
another library in its place.

`make torture` runs them all, each in well under a minute. Each returns what is wrong, one sentence each.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import mmsearch
from ingest.pipeline import ingest_paths
from mmsearch.catalog.dialect.sqlite import CATALOG_NAME
from mmsearch.errors import LibraryReplaced
from mmsearch.library import Library
from mmsearch.media.limits import default_image_pixels
from mmsearch.upkeep.doctor import examine
from tests import poison, samples

BOMB_PAGES, BOMB_S, BOMB_BYTES = 50, 120.0, 15_000_000
"""What so many pages that share 100,000 characters, a file of a few kilobytes, may take of time and of the disk."""
PIXELS_S = 30.0
FLIPS = 40


def ingest(folder: Path, *options: str, **environment: str) -> tuple[int, str, float]:
    """`mmsearch ingest` of `folder/things` into `folder/library`: exit code, stderr, seconds."""
    command = [sys.executable, "-P", "-m", "mmsearch", "ingest", str(folder / "things"), "--no-ocr", *options]
    own = {"MMSEARCH_MODEL": "toy", "MMSEARCH_LIBRARY": str(folder / "library")}
    began = time.monotonic()
    done = subprocess.run(command, env=os.environ | own | environment, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stderr, time.monotonic() - began


def text_bomb(folder: Path) -> list[str]:
    """E21: pages that share one content become no library of gigabytes, and the file is named."""
    bomb = poison.pages_of_one_text(folder / "things" / "bomb.pdf", BOMB_PAGES)
    code, said, seconds = ingest(folder)
    size_bytes = sum(file.stat().st_size for file in (folder / "library").rglob("*") if file.is_file())
    problems = [] if (code, "bomb.pdf (" in said) == (0, True) else [f"text bomb: exit code {code}: {said[-300:]}"]
    if seconds > BOMB_S or size_bytes > BOMB_BYTES:
        problems.append(
            f"text bomb of {bomb.stat().st_size:,} bytes: {seconds:.0f} s, {size_bytes:,} bytes on the disk"
        )
    return problems


def vast_pictures(folder: Path) -> list[str]:
    """E21: pictures beyond what the machine's memory allows are refused by their headers."""
    side = math.isqrt(default_image_pixels()) // 8 * 8 + 8
    for name in ("a", "b"):
        poison.png_of_zeros(folder / "things" / f"{name}.png", side)
    code, said, seconds = ingest(folder)
    if code != 4 or said.count("max_image_pixels") != 2 or seconds > PIXELS_S:
        return [f"two pictures of {side} × {side}: exit code {code} in {seconds:.0f} s: {said[-300:]}"]
    return []


STARTS = """
import os, sys
if "ingest.decode.child" in sys.orig_argv:
    os.kill(os.getpid(), 9)
"""


def no_memory_for_workers(folder: Path) -> list[str]:
    """E22: decoders are killed while they start, as the system does without memory; then they are not."""
    samples.photo(folder / "things" / "a.png")
    (folder / "patch").mkdir()
    (folder / "patch" / "sitecustomize.py").write_text(STARTS)
    path = os.pathsep.join([str(folder / "patch"), str(Path(__file__).parents[2])])
    code, said, _ = ingest(folder, PYTHONPATH=path)
    problems = (
        [] if code == 70 and "lack of memory" in said else [f"no decoder starts: exit code {code}: {said[-300:]}"]
    )
    code, said, _ = ingest(folder)
    return problems + ([] if code == 0 else [f"once decoders start again: exit code {code}: {said[-300:]}"])


def lost_log(folder: Path) -> list[str]:
    """E23: the write-ahead log is taken away, or cut anywhere, before it got into the database: doctor says so."""
    made(folder, 3).close()
    samples.photo(folder / "things" / "late.png", (1, 200, 100))
    with mmsearch.open(folder / "library") as library:
        ingest_paths(library, [folder / "things"], ocr=False)
        for number in range(4):
            shutil.copytree(library.folder, folder / f"copy-{number}", ignore=shutil.ignore_patterns("lock", "*-shm"))
    problems = []
    for number in range(4):
        log = folder / f"copy-{number}" / f"{CATALOG_NAME}-wal"
        length = log.stat().st_size
        os.truncate(log, length * number // 4)
        with mmsearch.open(folder / f"copy-{number}") as library:
            if "log" not in faults(library):
                problems.append(
                    f"doctor does not see that of the log's {length:,} bytes {length * number // 4:,} are left"
                )
    return problems


def flipped_bits(folder: Path) -> list[str]:
    """E23: of bits that are flipped in stored vectors none goes unnoticed."""
    made(folder, 6).close()
    chance, unnoticed = random.Random(0), 0
    with closing(sqlite3.connect(folder / "library" / CATALOG_NAME)) as database:
        whole = database.execute("SELECT id, data FROM vectors").fetchall()
    for _ in range(FLIPS):
        number, data = chance.choice(whole)
        flipped = bytearray(data)
        flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        put(folder, number, bytes(flipped))
        with mmsearch.open(folder / "library") as library:
            unnoticed += "vectors" not in faults(library)
        put(folder, number, data)
    with mmsearch.open(folder / "library") as library:
        left = faults(library)
    return [f"{unnoticed} of {FLIPS} flipped bits go unnoticed"] * bool(unnoticed) + [f"doctor: {left}"] * bool(left)


def replaced_library(folder: Path) -> list[str]:
    """E20: an opened library whose folder is deleted, or another one put there, answers no more."""
    problems = []
    (folder / "other" / "things").mkdir(parents=True)
    made(folder / "other", 1).close()
    for what, do in {
        "deleted": lambda: None,
        "replaced": lambda: shutil.copytree(folder / "other" / "library", folder / "library"),
    }.items():
        with made(folder, 2) as library:
            library.search("red")
            shutil.rmtree(folder / "library")
            do()
            try:
                library.search("red")
                problems.append(f"a library that was {what} still answers")
            except LibraryReplaced:
                pass
        shutil.rmtree(folder / "library", ignore_errors=True)
    return problems


def made(folder: Path, count: int) -> Library:
    """A library of so many photos in `folder/library`, opened."""
    for number in range(count):
        samples.photo(folder / "things" / f"{number}.png", (40 * number, 255 - 40 * number, 90))
    library = mmsearch.open(folder / "library", create=True, model="toy")
    ingest_paths(library, [folder / "things"], ocr=False)
    return library


def put(folder: Path, number: int, data: bytes) -> None:
    with closing(sqlite3.connect(folder / "library" / CATALOG_NAME)) as database, database:
        database.execute("UPDATE vectors SET data = ? WHERE id = ?", (data, number))


def faults(library: Library) -> list[str]:
    return [finding.check for finding in examine(library, quick=True) if finding.state == "fault"]


ATTACKS: Mapping[str, Callable[[Path], list[str]]] = {
    "text bomb": text_bomb,
    "vast pictures": vast_pictures,
    "no memory for workers": no_memory_for_workers,
    "lost log": lost_log,
    "flipped bits": flipped_bits,
    "replaced library": replaced_library,
}


def attack(folder: Path, *, say: Callable[[str], object]) -> dict[str, Any]:
    """All of them, one after the other; the figures for the table in SECURITY.md."""
    problems: list[str] = []
    for name, attacking in ATTACKS.items():
        own = folder / name.replace(" ", "-")
        (own / "things").mkdir(parents=True)
        began = time.monotonic()
        found = attacking(own)
        say(f"{name}: {'; '.join(found) or 'held'} ({time.monotonic() - began:.0f} s)")
        problems += found
    return {"attacks": len(ATTACKS), "problems": len(problems)}
