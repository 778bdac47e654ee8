"""One ingest of everything in tests/poison.py by the real command: each file ends in its right row, and the run goes on.

Files that take long are read by `make torture` only.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

import mmsearch.library
from ingest import pipeline
from ingest.decode import Event, Limits, Task
from ingest.decode.pool import WorkerPool
from ingest.pipeline import ingest_paths
from ingest.scan import hash_file
from mmsearch.errors import DecodeTimeout, FileTooLarge
from mmsearch.library import Library
from tests import poison, samples

pytestmark = pytest.mark.slow

LIGHT = [one for one in poison.POISON if not one.is_heavy]
BUDGET = {"page": 50_176, "image": 12_544, "clip": 12_544}


def environment_of_a_user() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("MMSEARCH_")}
    return own | {"MMSEARCH_MODEL": "toy", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}


def run(*arguments: object, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "mmsearch", *map(str, arguments)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        errors="surrogateescape",
        env=environment_of_a_user(),
        timeout=280,
    )


RUN_ALL = """
import json, sys
from mmsearch.cli import main
codes = []
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    try:
        main()
    except SystemExit as ended:
        codes.append(ended.code or 0)
print(json.dumps(codes))
"""


MEASURE = """
import pathlib, resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
pathlib.Path(sys.argv[1]).write_text(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""
"""A process counts the memory of the one that it was forked from as its own, so the tests, which are large, do not start what is measured."""


def run_all(commands: Iterable[Sequence[object]], library: Path) -> tuple[list[int], str]:
    """The exit codes of commands in one process, and all that they printed."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUN_ALL, json.dumps([[*map(str, words)] for words in commands])],
        capture_output=True,
        text=True,
        env=environment_of_a_user() | {"MMSEARCH_LIBRARY": str(library)},
        timeout=280,
    )
    *said, codes = done.stdout.splitlines()
    return json.loads(codes), "\n".join([*said, done.stderr])


def opened(folder: Path) -> Library:
    return mmsearch.library.open(folder, create=True, model="toy", store="exact")


@dataclass(frozen=True)
class Ending:
    """What became of a file: its items, its error."""

    items: int = 0
    error: str = ""
    reason: str = ""


def endings(library: Library) -> dict[bytes, Ending]:
    """By the file's name as bytes."""
    errors = {os.fsencode(row.path): row for row in library.catalog.sources.errors()}
    found = {}
    for row in library.catalog.sources.rows(states=("indexed", "failed")):
        error = errors.get(os.fsencode(row.path))
        items = len(library.catalog.items.of_source(row.id))
        found[os.fsencode(row.path.name)] = Ending(items, error.type, error.reason) if error else Ending(items)
    return found


@dataclass(frozen=True)
class Ingested:
    """A run of the command. `largest_bytes`: resident memory of its largest process, itself or a worker."""

    folder: Path
    library: Path
    command: subprocess.CompletedProcess[str]
    found: dict[bytes, Ending]
    strange: dict[str, int]
    largest_bytes: int


BAD_NAMES = (b"two\nbad lines.png", b"bad \xff\xfe.mp4", b"\x1b[31mbad.pdf")


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingested]:
    """The corpus, good files with odd names, bad ones too, places that are no files; one run over them."""
    base = tmp_path_factory.mktemp("poison")
    folder, library = base / "files", base / "index_data"
    folder.mkdir()
    poison.write(folder, LIGHT)
    poison.odd_names(folder)
    strange = poison.strange_places(folder)
    for name in BAD_NAMES:
        (folder / "bad").write_bytes(b"%PDF-1.7\n" + name)
        (folder / "bad").rename(Path(os.fsdecode(os.fsencode(folder) + b"/" + name)))
    (base / "tmp").mkdir()
    # No file of these needs more; those that expect DecodeTimeout are heavy.
    limits = {"MMSEARCH_DECODE_TIMEOUT_S": "30", "MMSEARCH_DECODE_MEMORY_BYTES": str(2 << 30)}
    environment = environment_of_a_user() | limits | {"TMPDIR": str(base / "tmp")}
    words = [sys.executable, "-P", "-m", "mmsearch", "ingest", str(folder), "--library", str(library), "--json"]
    measuring = [sys.executable, "-c", MEASURE, str(base / "kilobytes"), *words]
    command = subprocess.run(measuring, capture_output=True, text=True, errors="surrogateescape", env=environment)
    with opened(library) as reading:
        found = endings(reading)
    yield Ingested(folder, library, command, found, strange, int((base / "kilobytes").read_text()) << 10)
    shutil.rmtree(base)


def report_of(command: subprocess.CompletedProcess[str]) -> dict:
    return json.loads(command.stdout.splitlines()[-1])


@pytest.mark.parametrize("one", LIGHT, ids=lambda one: one.name)
def test_a_file_ends_in_its_row(ingested: Ingested, one: poison.Poison):
    ending = ingested.found[one.name.encode()]
    assert (ending.items, ending.error) == (one.items, one.error.__name__ if one.error else ""), ending.reason
    assert one.word in ending.reason
    assert str(ingested.folder) not in ending.reason  # the row has the path; a reason is for people


def test_the_run_goes_on_and_says_that_some_failed(ingested: Ingested):
    failed = {os.fsdecode(name) for name, ending in ingested.found.items() if ending.error}
    assert ingested.command.returncode == 4, ingested.command.stderr[-2000:]
    report = report_of(ingested.command)
    assert {os.path.basename(one["path"]) for one in report["failures"]} == failed  # noqa: PTH119 - names with line breaks
    assert len(report["failures"]) == len(failed) == sum(one.error is not None for one in LIGHT) + len(BAD_NAMES)
    assert report["changing"] == [] and not report["interrupted"]
    assert "Traceback" not in ingested.command.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nothing_is_left_over_and_memory_was_bounded(ingested: Ingested):
    assert list((ingested.folder.parent / "tmp").iterdir()) == []
    assert ingested.largest_bytes < 1 << 30
    left = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.fsencode(f"TMPDIR={ingested.folder.parent}") in (process / "environ").read_bytes():
                left.append((process / "cmdline").read_bytes())
    assert left == []
    assert not list(ingested.library.rglob("*.tmp"))


@pytest.mark.parametrize("name", poison.ODD_NAMES, ids=ascii)
def test_good_files_with_odd_names_are_found(ingested: Ingested, name: bytes):
    assert ingested.found[name] == Ending(items=1)


def test_links_pipes_sockets_and_devices_are_passed_over(ingested: Ingested):
    from ingest.scan import find_sources

    with opened(ingested.library) as library:
        names = {row.path.name for row in library.catalog.sources.rows()}
    passed_over = {"self.jpg", "nowhere.jpg", "ping.jpg", "pong.jpg", "pipe.mp4", "socket.pdf", "zeros-device.png"}
    assert not names & passed_over
    scan = find_sources([ingested.folder])
    assert {"links": scan.left_out.reasons["link"], "special": scan.left_out.reasons["special"]} == ingested.strange


def test_nothing_in_a_file_is_obeyed(ingested: Ingested):
    """Launch actions and scripts of a PDF are not run; a drawing does not get at the files beside it."""
    assert not (ingested.folder / "written-by-an-action").exists()
    from mmsearch import media

    page = media.render_page(ingested.folder / "prying.svg", 0, max_pixels=BUDGET["page"])
    red, green, blue = (channel.getextrema()[0] for channel in page.split())
    assert red == green == blue  # black letters; the picture that it asks for is green


def test_bad_files_are_listed_left_alone_retried_and_taken_once_mended(
    ingested: Ingested, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    failed = {name: ending for name, ending in ingested.found.items() if ending.error}
    listed = run("errors", "--library", ingested.library)
    assert listed.returncode == 4
    lines = listed.stdout.splitlines()
    assert len(lines) == len(failed) and all("\x1b" not in line for line in lines)
    for line in lines:
        assert any(f"  {ending.error}  " in line for ending in failed.values())
    records = json.loads(run("errors", "--json", "--library", ingested.library).stdout)
    assert {os.fsencode(record["path"]).rpartition(b"/")[2]: record["type"] for record in records} == {
        name: ending.error for name, ending in failed.items()
    }

    with opened(ingested.library) as library:
        with monkeypatch.context() as without_workers:
            without_workers.setattr(pipeline, "WorkerPool", None)
            again = ingest_paths(library, [ingested.folder])
        assert (again.failed_before, again.failures, again.files) == (len(failed), [], 0)
        assert endings(library) == ingested.found

        retried = ingest_paths(library, [ingested.folder], retry_failed=True)
        assert {os.fsencode(one.path.name): one.type for one in retried.failures} == {
            name: ending.error for name, ending in failed.items()
        }
        assert endings(library) == ingested.found

        for number, name in enumerate(("truncated.jp2", "magic.png", "empty.pdf", "bomb.png")):
            samples.photo(tmp_path / "good.png", (9, 9, number)).replace(ingested.folder / name)
        mended = ingest_paths(library, [ingested.folder])
        assert (mended.files, mended.failures, mended.failed_before) == (4, [], len(failed) - 4)
        now = endings(library)
        assert {now[name] for name in (b"truncated.jp2", b"magic.png", b"empty.pdf", b"bomb.png")} == {Ending(items=1)}


ORDERS = "\x1b]0;owned\x07\x1b[31m\x9b31m\u202egpj\u2066"
"""What a terminal would obey: a title, a colour, the same in eight bits, the other direction of writing."""
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def test_no_command_prints_what_a_terminal_obeys(tmp_path: Path):
    """It stands in names of files and folders, in a page's text and title, in EXIF, in what an error names, in queries and judgements."""
    folder, library, asked = (
        tmp_path / f"files{ORDERS}",
        tmp_path / f"library{ORDERS}",
        tmp_path / f"asked{ORDERS}.jsonl",
    )
    (folder / f"sub{ORDERS}").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x010F] = f"Camera{ORDERS}"
    Image.new("RGB", (64, 48), "red").save(folder / f"sub{ORDERS}" / "photo.jpg", exif=exif)
    with poison.load_pymupdf().open(samples.pdf(tmp_path / "plain.pdf", [f"Revenue {ORDERS} grew"])) as document:
        document.set_metadata({"title": f"Revenue{ORDERS}"})
        document.save(folder / f"revenue{ORDERS}.pdf")
    (folder / f"bad{ORDERS}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + ORDERS.encode())
    (folder / f"sub{ORDERS}" / ".mmsearchignore").write_text("*a*b*c*d\n")
    right = [{"path": f"revenue{ORDERS}.pdf", "page": 1}, {"path": f"gone{ORDERS}.pdf"}]
    asked.write_text(json.dumps({"query": f"revenue{ORDERS}", "relevant": right}) + "\n")
    (tmp_path / "many").write_text(json.dumps({"query": f"x{ORDERS}", "image": f"/no{ORDERS}"}) + f"\nplain {ORDERS}\n")
    commands = {
        ("-vv", "ingest", folder): 4,
        ("ingest", folder, "--retry", "--json"): 4,
        ("query", f"revenue{ORDERS}", "--explain", "--min-relevance", "0"): 0,
        ("query", "revenue", "--format", "json"): 0,
        ("query", "--queries", tmp_path / "many"): 4,
        ("query", "--image", folder / f"bad{ORDERS}.png"): 2,
        ("errors",): 4,
        ("errors", "--json"): 4,
        ("status",): 0,
        ("doctor", "--quick"): 0,
        ("show", "1", "--json"): 0,
        ("show", "2"): 0,
        ("eval", "run", asked, "--out", tmp_path / f"run{ORDERS}.json"): 0,
        ("models", "list"): 0,
        ("backup", tmp_path / f"kept{ORDERS}.zip"): 0,
        ("remove", folder / f"none{ORDERS}"): 1,
    }
    codes, said = run_all(commands, library)
    assert codes == list(commands.values()), said
    assert OBEYED.findall(said) == []
    for shown in ("bad\\x1b", "Revenue \\x1b", "sub\\x1b", "gone\\x1b", "Camera\\x1b", "\\u009b"):
        assert shown in said  # it was printed, and as what it is
    seen, terminal = pty.openpty()
    library.rename(tmp_path / "library")
    run("query", "revenue", "--format", "paths", "--library", tmp_path / "library", stdout=terminal)
    os.close(terminal)
    assert OBEYED.findall(os.read(seen, 10_000).decode().replace("\r\n", "\n")) == []
    os.close(seen)


def test_files_that_vanish_or_grow_before_they_are_read_are_left_for_the_next_run(tmp_path: Path):
    folder = tmp_path / "files"
    folder.mkdir()
    for number, name in enumerate(("vanishes.png", "grows.png", "stays.png", "becomes-a-folder.png")):
        samples.photo(folder / name, (number * 60, 0, 0))
    samples.pdf(folder / "grows.pdf", ["before"])

    def meddle(progress: pipeline.Progress) -> None:
        if progress.stage == "read" and (folder / "vanishes.png").exists():
            (folder / "vanishes.png").unlink()
            (folder / "becomes-a-folder.png").unlink()
            (folder / "becomes-a-folder.png").mkdir()
            for name in ("grows.png", "grows.pdf"):
                with (folder / name).open("ab") as handle:
                    handle.write(bytes(100))

    with opened(tmp_path / "library") as library:
        report = ingest_paths(library, [folder], progress=meddle)
        assert {path.name for path in report.changing} == {
            "vanishes.png",
            "grows.png",
            "grows.pdf",
            "becomes-a-folder.png",
        }
        assert report.failures == [] and report.files == 1 and library.catalog.sources.errors() == []
        assert ingest_paths(library, [folder]).files == 2
        assert {row.path.name for row in library.catalog.sources.rows()} == {"stays.png", "grows.png", "grows.pdf"}


def without_roots_rights() -> None:
    """In a child, before it becomes the command: root may read what it likes by two capabilities."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            if libc.prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
                os._exit(99)


@pytest.mark.skipif(sys.platform != "linux" and os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_told_and_not_taken_for_deleted(tmp_path: Path):
    folder = tmp_path / "files"
    (folder / "closed").mkdir(parents=True)
    for path in (folder / "a.png", folder / "b.png", folder / "closed" / "c.png"):
        samples.photo(path, (len(path.name), ord(path.name[0]), 0))

    def ingest() -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-P", "-m", "mmsearch", "ingest", folder, "--library", tmp_path / "library", "--json"]
        return subprocess.run(
            words, capture_output=True, text=True, env=environment_of_a_user(), preexec_fn=without_roots_rights
        )

    first = ingest()
    if first.returncode == 99:
        pytest.skip("no right to give up rights here")
    assert report_of(first)["files"] == 3, first.stderr
    os.utime(folder / "a.png")
    (folder / "a.png").chmod(0)
    (folder / "closed").chmod(0)
    try:
        second = ingest()
    finally:
        (folder / "closed").chmod(0o755)
    assert second.returncode == 4, second.stderr
    assert {(Path(one["path"]).name, one["reason"]) for one in report_of(second)["failures"]} == {
        ("a.png", "cannot be read: Permission denied"),
        ("closed", "cannot be read: Permission denied"),
    }
    with opened(tmp_path / "library") as library:
        assert len(library.catalog.sources.rows(states=("indexed",))) == 3


def outcome(path: Path, limits: Limits) -> tuple[Event, float]:
    source = hash_file(path)
    assert source is not None
    with WorkerPool(BUDGET, jobs=1, limits=limits) as pool:
        events = [event for event in pool.read([Task(0, source)]) if event is not None]
    return events[-1], events[-1].seconds


@pytest.mark.parametrize("make", [poison.branching_svg, poison.branching_forms], ids=["svg", "pdf"])
def test_what_never_ends_is_stopped_at_the_deadline(tmp_path: Path, make: poison.Maker):
    make(tmp_path / f"a.{'svg' if make is poison.branching_svg else 'pdf'}")
    (path,) = tmp_path.iterdir()
    event, seconds = outcome(path, Limits(deadline_s=2.0))
    assert isinstance(event.error, DecodeTimeout) and seconds >= 2.0


@pytest.mark.skipif(sys.platform != "linux", reason="the memory limit needs Linux")
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.png", poison.with_(poison.png, 19_000, 19_000, colour=2)),  # 1.4 GB as RGB
        ("a.gif", poison.with_(poison.vast_animation, 19_000)),
    ],
    ids=["png", "gif"],
)
def test_what_needs_more_memory_than_allowed_is_named_so(tmp_path: Path, name: str, make: poison.Maker):
    make(tmp_path / name)
    event, _ = outcome(tmp_path / name, Limits(memory_bytes=1 << 30))
    assert isinstance(event.error, FileTooLarge) and "more memory than allowed" in event.error.reason
