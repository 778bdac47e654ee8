"""Disks that are full, failing or read-only, and catalogs that are damaged or gone: one line says so, and nothing is lost.

The short version of `make torture`'s `disks`; and what needs a real file system, where mounting is permitted.
"""

from __future__ import annotations

import errno
import random
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

import mmsearch
from ingest.pipeline import ingest_paths
from mmsearch import cli
from mmsearch.catalog.dialect.sqlite import CATALOG_NAME
from mmsearch.disk import faults as disk
from mmsearch.errors import DiskFailed, DiskFull
from mmsearch.upkeep.backup import backup, restore
from tests import mounts
from tests.torture import disks, kills

PAGE_BYTES = 4096
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> disks.Bed:
    return disks.Bed.make(tmp_path_factory.mktemp("disks") / "bed", 10)


@pytest.fixture(autouse=True)
def no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("MODEL", "LIBRARY", "STORE", "DEVICE"):
        monkeypatch.delenv(f"MMSEARCH_{name}", raising=False)


@pytest.fixture
def library(bed: disks.Bed, tmp_path: Path) -> Path:
    shutil.copytree(bed.library, tmp_path / "library")
    return tmp_path / "library"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`mmsearch …` in this process: exit code, stdout, stderr."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mmsearch", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


# ---- a full disk, by the shim


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> disks.Shim:
    try:
        return disks.shim(tmp_path_factory.mktemp("shim"))
    except RuntimeError as reason:
        pytest.skip(str(reason))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "points", "number"),
    [
        ("first ingest", 2, errno.ENOSPC), ("snapshots", 1, errno.EIO), ("doctor --repair", 1, errno.ENOSPC), ("compact", 1, errno.ENOSPC),
        ("backup", 1, errno.ENOSPC), ("restore", 1, errno.ENOSPC),
    ],
)  # fmt: skip
def test_a_write_that_finds_no_room(bed: disks.Bed, shim: disks.Shim, name: str, points: int, number: int) -> None:
    (scenario,) = (one for one in disks.scenarios(bed) if one.name == name)
    scenario.prepare(library := bed.folder / "library")
    kinds = len(shim.kinds_of_writes(scenario.command(library), scenario.below(library)))
    assert kinds > 2, "the shim sees what is written"
    tally = disks.fail_every_write(bed, shim, scenario, step=kinds // points + 1, number=number)
    assert tally.problems == []
    assert tally.writes >= points


@pytest.mark.slow
def test_without_a_place_for_temporary_files(bed: disks.Bed, shim: disks.Shim, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    library = tmp_path / "library"
    arguments = ["ingest", bed.files, "--library", library, "--model", "toy"]
    ended = shim.run(arguments, tmp_path / "tmp", 1, TMPDIR=str(tmp_path / "tmp"))
    assert ended.code == 4, ended.said
    assert kills.answers(library) == bed.expected and disks.failures(library) == bed.failures


# ---- real file systems


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 4 MB."""
    with mounts.small_disk(tmp_path / "disk", "4m") as place:
        yield place


def test_a_full_disk_is_read(bed: disks.Bed, small_disk: Path, command: Command) -> None:
    library = small_disk / "library"
    for prepare in (lambda _: None, disks.lose_models_folder, disks.leave_log):
        bed.copy_to(library)
        prepare(library)
        ballast = mounts.fill(small_disk)
        assert disk.is_full(library)
        assert kills.answers(library) == bed.expected
        for arguments in disks.READERS:
            code, out, said = command(*arguments, "--library", library)
            assert code == (4 if arguments[0] == "errors" else 0) and out, said
        with mmsearch.open(library) as opened, opened.catalog.snapshot():
            assert opened.catalog.generation() > 0, "one who reads asks again within the same transaction"
            with pytest.raises(DiskFull, match=f"no room is left on the disk of {library}"):
                opened.catalog.models.register("other", 64)
        code, _, said = command("ingest", bed.files, "--library", library)
        assert (code, len(said.splitlines())) == (3, 1) and disks.EXPECTED_LINE.fullmatch(said.strip())
        ballast.unlink()
        assert kills.faults(library) == []
        assert kills.answers(library) == bed.expected
        assert command("ingest", bed.files, "--library", library)[0] == 0


def test_ever_less_room_for_a_first_ingest(bed: disks.Bed, small_disk: Path) -> None:
    library = small_disk / "library"
    for leave_bytes in (8 << 10, 150 << 10, 400 << 10):
        ballast = mounts.fill(small_disk, leave_bytes=leave_bytes)
        with pytest.raises(DiskFull), mmsearch.open(library, create=True, model="toy") as opened:
            ingest_paths(opened, [bed.files])
        kept = disks.known(library)
        ballast.unlink()
        assert kills.faults(library) == []
        with mmsearch.open(library, create=True, model="toy") as opened:
            ingest_paths(opened, [bed.files])
        assert kept <= disks.known(library) and disks.failures(library) == bed.failures
        assert kills.answers(library) == bed.expected
        shutil.rmtree(library)


@pytest.mark.parametrize("is_logged", [False, True], ids=["closed", "log left, no index of it"])
def test_a_read_only_disk(bed: disks.Bed, small_disk: Path, command: Command, is_logged: bool) -> None:
    library = small_disk / "library"
    bed.copy_to(library)
    if is_logged:
        disks.leave_log(library)
        with closing(sqlite3.connect(f"file:{library / CATALOG_NAME}?immutable=1", uri=True)) as database:
            before = database.execute("SELECT max(scanned_at) FROM roots").fetchone()[0]
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert kills.answers(library) == bed.expected
    assert kills.faults(library) == []
    for arguments in (*disks.READERS, ("doctor", "--quick")):
        code, out, said = command(*arguments, "--library", library)
        assert code == (4 if arguments[0] == "errors" else 0) and out, said
    if is_logged:
        with mmsearch.open(library) as opened:
            assert max(opened.catalog.sources.roots().values()) == pytest.approx(before + 1), (
                "what lies in the log counts"
            )
    for arguments in (
        ("ingest", bed.files), ("compact",), ("doctor", "--repair", "--quick"), ("models", "use", "toy"), ("remove", bed.files), ("errors", "--retry"),
    ):  # fmt: skip
        code, _, said = command(*arguments, "--library", library)
        assert (code, len(said.splitlines())) == (3, 1), said
        assert (
            f"the library at {library} is open for reading only, since its folder, or the disk, cannot be written"
            in said
        )
    queries = library / "queries.jsonl"
    code, _, said = command("eval", "add", queries, "revenue", "--none", "--library", library)
    assert code == 3 and f"{queries} lies on a disk that can only be read" in said.splitlines()[-1]
    code, _, said = command("ingest", bed.files, "--library", small_disk / "new", "--model", "toy")
    assert code == 3 and "lies on a disk that can only be read" in said


# ---- a catalog that is damaged, or gone


@pytest.mark.slow
@pytest.mark.parametrize("how", ["random", "zeros", "ones"])
def test_any_page_of_the_catalog_may_be_garbage(bed: disks.Bed, library: Path, command: Command, how: str) -> None:
    """Each command answers as ever, or ends in one line; what is damaged stays as it is."""
    file = library / CATALOG_NAME
    whole = file.read_bytes()
    commands = (
        ("status", "--json"), ("query", "revenue", "--format", "json", "--min-relevance", "0"), ("errors", "--json"), ("show", "1"),
        ("doctor", "--quick"), ("ingest", bed.files),
    )  # fmt: skip

    def run(arguments: tuple[str | Path, ...]) -> tuple[int, str, str]:
        code, out, said = command(*arguments, "--library", library)
        return code, re.sub(r'"bytes": \d+', "", out), said

    expected = {arguments: run(arguments)[:2] for arguments in commands}
    named = 0
    for page in range({"random": 0, "zeros": 3, "ones": 5}[how], len(whole) // PAGE_BYTES, 8):
        garbage = {
            "random": random.Random(page).randbytes(PAGE_BYTES),
            "zeros": bytes(PAGE_BYTES),
            "ones": b"\xff" * PAGE_BYTES,
        }[how]
        damaged = whole[: page * PAGE_BYTES] + garbage + whole[(page + 1) * PAGE_BYTES :]
        for arguments in commands:
            shutil.rmtree(library)
            bed.copy_to(library)
            file.write_bytes(damaged)
            code, out, said = run(arguments)
            if (code, out) == expected[arguments]:
                continue
            named += 1
            if arguments[0] == "doctor" and code == 4:
                assert "FAULT" in out
            else:
                assert code == 3 and "is damaged (" in said.splitlines()[-1], (page, arguments, code, out, said)
            if arguments[0] != "ingest":
                assert file.read_bytes() == damaged
    assert named > 5


@pytest.mark.parametrize("how", ["cut at half", "garbage", "header"])
def test_a_damaged_file_is_left_as_it_is(bed: disks.Bed, library: Path, command: Command, how: str) -> None:
    file = library / CATALOG_NAME
    whole = file.read_bytes()
    damaged = {
        "cut at half": whole[: len(whole) // 2],
        "garbage": bytes(range(256)) * 64,
        "header": b"\xff" * 100 + whole[100:],
    }[how]
    file.write_bytes(damaged)
    for arguments in (
        ("status",), ("query", "revenue"), ("doctor",), ("doctor", "--repair"), ("ingest", bed.files), ("compact",), ("backup", library.with_name("saved.zip")),
    ):  # fmt: skip
        code, _, said = command(*arguments, "--library", library)
        assert code == 3 and "is damaged (" in said.splitlines()[-1], (arguments, code, said)
        assert file.read_bytes() == damaged
    assert not library.with_name("saved.zip").exists()


@pytest.mark.parametrize("lost", ["deleted", "emptied"])
def test_a_catalog_that_is_gone_is_not_made_anew(bed: disks.Bed, library: Path, command: Command, lost: str) -> None:
    file = library / CATALOG_NAME
    saved = backup(library, library.with_name("saved.zip")).file
    file.unlink()
    if lost == "emptied":
        file.touch()
    before = sorted(library.rglob("*"))
    for arguments in (
        ("ingest", bed.files),
        ("ingest", bed.files, "-n"),
        ("query", "revenue"),
        ("status",),
        ("doctor", "--repair"),
    ):
        code, _, said = command(*arguments, "--library", library)
        assert (code, len(said.splitlines())) == (3, 1)
        assert (
            f"{file} is {'gone' if lost == 'deleted' else 'empty'}, but what belongs to it is still there (previews, toy-1)"
            in said
        )
        assert f"`mmsearch restore FILE --library {library}`" in said
    assert sorted(library.rglob("*")) == before
    restore(saved, library)
    assert kills.answers(library) == bed.expected and kills.faults(library) == []


def test_a_log_without_its_catalog_is_not_thrown_away(bed: disks.Bed, library: Path, command: Command) -> None:
    disks.leave_log(library)
    log = library / f"{CATALOG_NAME}-wal"
    content = log.read_bytes()
    shutil.rmtree(library / "previews")
    disks.lose_models_folder(library)
    (library / CATALOG_NAME).write_bytes(b"")
    code, _, said = command("ingest", bed.files, "--library", library)
    assert code == 3 and f"({CATALOG_NAME}-wal)" in said
    assert log.read_bytes() == content


@pytest.mark.parametrize("how", ["deleted", "cut", "garbage", "last byte"])
def test_a_torn_log_costs_its_last_commits_only(bed: disks.Bed, library: Path, how: str) -> None:
    file = library / CATALOG_NAME
    with closing(sqlite3.connect(f"file:{file}?immutable=1", uri=True)) as database:
        before = database.execute("SELECT max(scanned_at) FROM roots").fetchone()[0]
    disks.leave_log(library)
    log = library / f"{CATALOG_NAME}-wal"
    content = log.read_bytes()
    torn = {
        "cut": content[: len(content) // 2],
        "garbage": bytes(len(content)),
        "last byte": content[:-1] + bytes([content[-1] ^ 1]),
    }
    if how == "deleted":
        log.unlink()
    else:
        log.write_bytes(torn[how])
    assert kills.answers(library) == bed.expected and kills.faults(library) == []
    with mmsearch.open(library) as opened:
        assert max(opened.catalog.sources.roots().values()) == before


# ---- what the system says, as words


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, DiskFull, "no room is left on the disk of /somewhere: make room"),
        (errno.EDQUOT, DiskFull, "the quota is used up on the disk of /somewhere"),
        (errno.EROFS, DiskFailed, "/somewhere lies on a disk that can only be read"),
        (errno.EIO, DiskFailed, "the disk of /somewhere cannot be read or written"),
    ],
)
def test_what_a_disk_refuses(number: int, kind: type[DiskFailed], words: str) -> None:
    with pytest.raises(kind, match=re.escape(words)), disk.disk_faults(Path("/somewhere")):
        raise OSError(number, "said by the system")
    with pytest.raises(FileNotFoundError), disk.disk_faults(Path("/somewhere")):
        raise FileNotFoundError(errno.ENOENT, "another matter")


def test_output_that_finds_no_room(bed: disks.Bed) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with full.open("w") as target:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "mmsearch", "status", "--library", bed.library],
            stdout=target, stderr=subprocess.PIPE, text=True, env=disks.plain_environment(),
        )  # fmt: skip
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1 and "no room is left" in done.stderr
