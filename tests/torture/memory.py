"""How much memory an ingest takes, whatever the folder: very many small files, documents of very many pages.

The real command with the toy model, so that nothing but the pipeline is measured. Every fifth of a second the resident memory of its
process and of its workers is added up. The whole must stay below the limit, and must not swell with the folder: between a quarter and
three quarters of the items the command takes little more than its list of files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests import poison

FILES_PER_FOLDER = 1000
PAGES_PER_DOCUMENT = 1000
LIMIT_BYTES = 2 << 30
"""Of all processes together; the commonest small computer has four times that."""
BYTES_PER_ITEM = 4_000
"""What the command may come to hold for an item that it has saved; the pictures of one are a hundred times that."""
NOISE_BYTES = 64 << 20


@dataclass
class Peak:
    """A run. `parent_bytes`, `workers_bytes`, `tree_bytes`: largest resident memory of the command, of its workers, of all at once.

    `grown_bytes`: by how much the command's grew between a quarter and three quarters of its items.
    """

    name: str
    files: int
    items: int = 0
    seconds: float = 0.0
    parent_bytes: int = 0
    workers_bytes: int = 0
    tree_bytes: int = 0
    grown_bytes: int = 0
    problems: list[str] = field(default_factory=list)


def write_pictures(folder: Path, count: int) -> None:
    """So many different pictures of 8 × 8 pixels, of 90 bytes each."""
    for number in range(count):
        place = folder / f"{number // FILES_PER_FOLDER:04}"
        if number % FILES_PER_FOLDER == 0:
            place.mkdir(parents=True)
        row = b"\0" + number.to_bytes(4, "big") * 2
        poison.png(place / f"{number:06}.png", 8, 8, data=row * 8)


def write_documents(folder: Path, count: int) -> None:
    """Documents of PAGES_PER_DOCUMENT pages, no two of them alike."""
    folder.mkdir(parents=True)
    for number in range(count):
        path = poison.many_pages(folder / f"{number:03}.pdf", PAGES_PER_DOCUMENT)
        with path.open("ab") as handle:
            handle.write(b"%% copy %d\n" % number)


def measure(name: str, files: Path, count: int, items: int, library: Path) -> Peak:
    """Ingest `files`, of which there are `count` with `items` in all, and look at the memory."""
    peak = Peak(name, count)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MMSEARCH_")}
    command = [
        sys.executable,
        "-P",
        "-m",
        "mmsearch",
        "ingest",
        str(files),
        "--library",
        str(library),
        "--model",
        "toy",
        "--json",
    ]
    began, at_a_quarter = time.monotonic(), 0
    told = library.with_suffix(".told")
    with told.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.DEVNULL, env=environment | {"OMP_NUM_THREADS": "1"}
        )
        while process.poll() is None:
            _look(psutil.Process(process.pid), peak)
            share = _saved(told) / items
            if share <= 0.25:
                at_a_quarter = peak.parent_bytes
            if share <= 0.75:
                peak.grown_bytes = peak.parent_bytes - at_a_quarter
            time.sleep(0.2)
    report = json.loads(told.read_bytes().splitlines()[-1])
    peak.seconds, peak.items = time.monotonic() - began, sum(report["items"].values())
    if process.returncode != 0 or peak.items != items:
        peak.problems.append(f"{peak.items} of {items} items, exit code {process.returncode}")
    if peak.tree_bytes > LIMIT_BYTES:
        peak.problems.append(f"{peak.tree_bytes >> 20} MB in all; the limit is {LIMIT_BYTES >> 20}")
    allowed_bytes = NOISE_BYTES + items // 2 * BYTES_PER_ITEM
    if peak.grown_bytes > allowed_bytes:
        peak.problems.append(f"grew by {peak.grown_bytes >> 20} MB on the way; {allowed_bytes >> 20} are allowed")
    return peak


def _look(process: psutil.Process, peak: Peak) -> None:
    try:
        parent = process.memory_info().rss
    except psutil.Error:
        return
    workers = 0
    for child in process.children(recursive=True):
        try:
            workers += child.memory_info().rss
        except psutil.Error:
            continue
    peak.parent_bytes = max(peak.parent_bytes, parent)
    peak.workers_bytes = max(peak.workers_bytes, workers)
    peak.tree_bytes = max(peak.tree_bytes, parent + workers)


def _saved(told: Path) -> int:
    """Items saved, by the last whole line of progress."""
    with told.open("rb") as handle:
        handle.seek(max(0, told.stat().st_size - 20_000))
        lines = handle.read().splitlines()[:-1]
    for line in reversed(lines):
        if line.startswith(b"{") and b'"progress"' in line:
            return sum(json.loads(line)["items"].values())
    return 0


def runs(files: int, documents: int) -> list[Peak]:
    """Both runs; nothing for a count of 0."""
    peaks = []
    with tempfile.TemporaryDirectory(prefix="mmsearch-memory-") as name:
        folder = Path(name)
        if files:
            write_pictures(folder / "pictures", files)
            peaks.append(measure("small files", folder / "pictures", files, files, folder / "library-pictures"))
        if documents:
            write_documents(folder / "documents", documents)
            pages = documents * PAGES_PER_DOCUMENT
            peaks.append(
                measure(
                    "documents of 1,000 pages", folder / "documents", documents, pages, folder / "library-documents"
                )
            )
    return peaks


def summary(peaks: list[Peak]) -> dict[str, object]:
    """For the table in SECURITY.md."""
    return {
        "problems": sum(len(peak.problems) for peak in peaks),
        **{
            peak.name: {
                "files": peak.files,
                "items": peak.items,
                "seconds": round(peak.seconds),
                "largest MB": peak.tree_bytes >> 20,
                "largest MB of the command": peak.parent_bytes >> 20,
                "largest MB of its workers": peak.workers_bytes >> 20,
                "grown by MB on the way": peak.grown_bytes >> 20,
            }
            for peak in peaks
        },
    }
