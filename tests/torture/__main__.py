"""`make torture`: `python -m tests.torture --help`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.torture import attacks, crowd, damage, disks, fuzz, globs, heavy, kills, memory, moves


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Kill everything that writes, feed it damaged files, and look whether anything is lost, hangs or swells."
    )
    parser.add_argument(
        "--only", choices=[*PARTS], action="append", help="this part; may be given again (default: all)"
    )
    parser.add_argument("--files", type=int, default=300, help="in the folder that is ingested")
    parser.add_argument("--kills", type=int, default=100, help="of ingestion")
    parser.add_argument("--few", type=int, default=10, help="kills of each other command")
    parser.add_argument("--disk-files", type=int, default=10, metavar="N", help="in the folder that meets a full disk")
    parser.add_argument("--crowd", type=float, default=240, metavar="SECONDS", help="that many read while others write")
    parser.add_argument("--fuzz", type=int, default=10_000, metavar="N", help="damaged files to read")
    parser.add_argument(
        "--small-files", type=int, default=100_000, metavar="N", help="in the folder for the look at memory"
    )
    parser.add_argument("--documents", type=int, default=10, metavar="N", help="of 1,000 pages, for the same")
    parser.add_argument("--moves", type=int, default=400, metavar="N", help="random steps of files on the move")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the number of the first damaged file")
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="leave damaged files there: what kills a worker, is stopped, or finds a fault; a single input always",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    figures: dict[str, dict[str, Any]] = {}
    for part in [part for part in PARTS if part in (arguments.only or PARTS)]:
        say(f"-- {part}")
        began = time.monotonic()
        try:
            figures[part] = PARTS[part](arguments)
        except Exception as failure:  # the parts behind it are worth their hour
            traceback.print_exc()
            figures[part] = {"problems": 1, "did not end": repr(failure)}
        figures[part]["seconds"] = round(time.monotonic() - began)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    problems = {part: found["problems"] for part, found in figures.items() if found["problems"]}
    skipped = [part for part, found in figures.items() if "skipped" in found]
    seconds = sum(found["seconds"] for found in figures.values())
    say(f"{len(figures) - len(skipped)} parts in {seconds} s; problems: {problems or 'none'}")
    if skipped:
        say(f"not run here: {', '.join(skipped)}")
    sys.exit(1 if problems else 0)


def say(line: str) -> None:
    print(line, flush=True)


def kill(arguments: argparse.Namespace) -> dict[str, Any]:
    killer = kills.Killer(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="mmsearch-torture-") as folder:
        bed = kills.Bed.make(Path(folder), arguments.files, killer)
        say(f"{arguments.files} files are ingested in {bed.ingest_s:.1f} s when nobody interrupts")
        return kills.summary(kills.scenarios(bed, killer, arguments.kills, arguments.few))


def fill_disks(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="mmsearch-torture-") as folder:
        try:
            shim = disks.shim(Path(folder))
        except RuntimeError as reason:
            say(f"no disk is filled: {reason}")
            return {"skipped": str(reason), "problems": 0}
        tallies = disks.fill_everything(disks.Bed.make(Path(folder) / "bed", arguments.disk_files), shim, say=say)
    for problem in tallies[-1].problems:
        say(f"  {problem}")
    return disks.summary(tallies)


def move_files(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="mmsearch-torture-") as folder, moves.warm_workers():
        tally = moves.wander(Path(folder), arguments.moves, seed=arguments.seed, say=say)
    for problem in tally.problems[:20]:
        say(f"  {problem}")
    return moves.summary(tally)


def gather_crowd(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="mmsearch-torture-") as folder:
        return crowd.gather(Path(folder), arguments.crowd, seed=arguments.seed, say=say)


def attack_page(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="mmsearch-torture-") as folder:
        return attacks.attack(Path(folder), say=say)


def damage_library(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="mmsearch-torture-") as folder:
        return damage.attack(Path(folder), say=say)


def read_poison(arguments: argparse.Namespace) -> dict[str, Any]:
    return heavy.summary(heavy.read_all(say=say))


def fuzz_files(arguments: argparse.Namespace) -> dict[str, Any]:
    tally = fuzz.fuzz(arguments.fuzz, seed=arguments.seed, first=arguments.first, keep=arguments.keep, say=say)
    for name in ("problems", "died", "stopped", "unnamed"):
        for one in getattr(tally, name)[:20]:
            say(f"  {name}: {one}")
    return fuzz.summary(tally)


def match_globs(arguments: argparse.Namespace) -> dict[str, Any]:
    tally = globs.fuzz(10 * arguments.fuzz, seed=arguments.seed)
    slowest_s = {glob: globs.slowest_s(glob) for glob in globs.SLOW}
    problems = [*tally.problems, *(f"{glob}: {s:.1f} s" for glob, s in slowest_s.items() if s > globs.LIMIT_S)]
    for problem in problems[:20]:
        say(f"  {problem}")
    worst_s = round(max(slowest_s.values()), 3)
    return {"globs": 10 * arguments.fuzz, "matches": tally.matches, "slowest_s": worst_s, "problems": len(problems)}


def look_at_memory(arguments: argparse.Namespace) -> dict[str, Any]:
    peaks = memory.runs(arguments.small_files, arguments.documents)
    for peak in peaks:
        for problem in peak.problems:
            say(f"  {peak.name}: {problem}")
    return memory.summary(peaks)


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "kills": kill,
    "disks": fill_disks,
    "moves": move_files,
    "crowd": gather_crowd,
    "attacks": attack_page,
    "damage": damage_library,
    "poison": read_poison,
    "fuzz": fuzz_files,
    "globs": match_globs,
    "memory": look_at_memory,
}
"""In the order in which they run; each returns its figures, `problems` among them."""


if __name__ == "__main__":
    main()
