"""Files on the move, one kind of move after the other, then many at random: after each ingest the library equals one made again, and nothing that
it holds is embedded twice. `tests.torture.moves.World` does the checking. Then disks that go away while they are read, and the real commands.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mmsearch
from ingest import pipeline, scan
from ingest.pipeline import ingest_paths
from mmsearch.disk.lock import locked
from mmsearch.errors import CorruptFile
from mmsearch.upkeep.doctor import examine
from tests.torture import moves
from tests.torture.moves import World

pytestmark = pytest.mark.usefixtures("settings_of_nobody")


@pytest.fixture
def settings_of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("MODEL", "LIBRARY", "STORE", "DEVICE"):
        monkeypatch.delenv(f"MMSEARCH_{name}", raising=False)


@pytest.fixture(scope="module", autouse=True)
def workers() -> Iterator[None]:
    with moves.warm_workers():
        yield


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Twelve files in `one`, three in `two`, indexed, and known long enough for their change times to count."""
    (tmp_path / "world").mkdir()
    made = World(tmp_path / "world")
    made.fill()
    time.sleep(scan.UNSETTLED_NS / 1e9)
    with made.opened() as library:
        ingest_paths(library, made.roots)
        made.held = {row.sha256 for row in library.catalog.sources.rows()}
    yield made
    made.close()
    assert made.problems == []


SCENARIOS: dict[str, Callable[[World], None]] = {}


def scenario(function: Callable[[World], None]) -> Callable[[World], None]:
    SCENARIOS[function.__name__] = function
    return function


# ---- names


@scenario
def a_file_is_renamed(world: World) -> None:
    one, _ = world.roots
    before = world.ids()
    (one / "f0.png").rename(one / "other.png")
    assert world.ingest().moved == 1
    (one / "other.png").rename(one / "OTHER.png")
    assert world.ingest().moved == 1 and world.ids() == before


@scenario
def a_folder_is_renamed(world: World) -> None:
    one, _ = world.roots
    before = world.ids()
    (one / "b").rename(one / "z")
    assert world.ingest().moved == 3 and world.ids() == before


@scenario
def names_move_up(world: World) -> None:
    one, _ = world.roots
    before = world.ids()
    (one / "f3.png").rename(one / "f4.png")
    (one / "f0.png").rename(one / "f3.png")
    world.ingest()
    assert world.ids() == before


@scenario
def two_files_change_places(world: World) -> None:
    one, two = world.roots
    (one / "f0.png").rename(one / "between")
    (two / "g1.png").rename(one / "f0.png")
    (one / "between").rename(two / "g1.png")
    world.ingest()


@scenario
def a_file_is_moved_over_another(world: World) -> None:
    one, two = world.roots
    (one / "f0.png").replace(two / "g0.png")
    report = world.ingest()
    assert (report.moved, report.retired) == (1, 0)


@scenario
def a_file_is_moved_and_edited(world: World) -> None:
    one, _ = world.roots
    (one / "f0.png").rename(one / "other.png")
    world.write(one / "other.png")
    report = world.ingest()
    assert (report.retired, report.files) == (1, 1)


@scenario
def a_folder_takes_a_files_name(world: World) -> None:
    one, _ = world.roots
    (one / "f0.png").rename(one / "between")
    (one / "f0.png").mkdir()
    (one / "between").rename(one / "f0.png" / "f0.png")
    assert world.ingest().moved == 1
    shutil.rmtree(one / "f0.png")
    world.write(one / "f0.png")
    world.ingest()


# ---- roots


@scenario
def files_move_to_another_root_in_one_command(world: World) -> None:
    one, two = world.roots
    before = world.ids()
    (one / "b").rename(two / "b")
    assert world.ingest(one, two).moved == 3 and world.ids() == before


@scenario
def files_move_to_another_root_old_one_first(world: World) -> None:
    one, two = world.roots
    (one / "b").rename(two / "b")
    assert world.ingest(one).offline == 3, "more than a fifth of the root"
    assert world.ingest(two).copied == 3
    assert world.ingest(one, prune=True).retired == 4, "the damaged file counts"
    assert world.states() == {"indexed": 14, "failed": 1}


@scenario
def a_file_moves_to_another_root_old_one_first(world: World) -> None:
    one, two = world.roots
    before = world.ids()
    (one / "f0.png").rename(two / "f0.png")
    assert world.ingest(one).retired == 1
    assert world.ingest(two).returned == 1 and world.ids() == before


@scenario
def files_move_to_another_root_new_one_first(world: World) -> None:
    one, two = world.roots
    (one / "b").rename(two / "b")
    assert world.ingest(two).copied == 3
    world.ingest(one)
    world.ingest(one, prune=True)


@scenario
def a_disk_is_mounted_elsewhere(world: World) -> None:
    one, _ = world.roots
    before = world.ids()
    elsewhere = one.with_name("elsewhere")
    one.rename(elsewhere)
    assert world.ingest(one).offline == 11
    assert world.ingest(elsewhere).moved == 11 and world.ids() == before
    assert world.ingest(one, prune=True).retired == 1, "the damaged file"
    world.compact()
    elsewhere.rename(one)
    assert world.ingest(one).moved == 11 and world.ids() == before


@scenario
def a_disk_is_mounted_elsewhere_and_both_places_are_named(world: World) -> None:
    one, _ = world.roots
    before = world.ids()
    one.rename(one.with_name("elsewhere"))
    assert world.ingest(one).offline == 11
    report = world.ingest(one, one.with_name("elsewhere"))
    assert (report.moved, report.away) == (11, 0) and world.ids() == before


@scenario
def a_folder_becomes_a_link(world: World) -> None:
    """As when a full disk is relieved: moved, and a link left behind. The link's target takes everything over."""
    one, _ = world.roots
    before = world.ids()
    one.rename(one.with_name("big-disk"))
    one.symlink_to(one.with_name("big-disk"))
    assert world.ingest(one).moved == 11 and world.ids() == before
    one.with_name("big-disk").rename(one.with_name("away"))
    assert world.ingest(one).offline == 11, "the link leads nowhere: the disk is away"
    one.with_name("away").rename(one.with_name("big-disk"))
    assert world.ingest(one).returned == 11 and world.ids() == before


@scenario
def a_folder_becomes_a_link_to_something_else(world: World) -> None:
    one, _ = world.roots
    world.take_away(one)
    one.with_name("other").mkdir()
    world.write(one.with_name("other") / "x.png")
    one.symlink_to(one.with_name("other"))
    report = world.ingest(one)
    assert (report.offline, report.retired, report.files) == (11, 0, 1)
    one.unlink()
    world.give_back(one)
    assert world.ingest(one).returned == 11


# ---- copies


@scenario
def a_copy_outlives_its_original(world: World) -> None:
    one, two = world.roots
    shutil.copy2(one / "f9.png", two / "copy.png")
    shutil.copy2(one / "f0.png", two / "second.png")
    (two / "third.png").hardlink_to(one / "f3.png")
    assert world.ingest().copied == 3
    (one / "f0.png").unlink()
    (one / "f3.png").unlink()
    assert world.ingest().retired == 2


@scenario
def a_link_and_rights_are_no_edit(world: World) -> None:
    one, _ = world.roots
    generation = _generation(world)
    (one / "f0.png").chmod(0o600)
    os.utime(one / "f3.png", ns=(1, 10**18))
    assert world.ingest().unchanged == 14
    assert _generation(world) == generation


# ---- edits


@scenario
def an_edit_hides_behind_size_and_time(world: World) -> None:
    one, _ = world.roots
    target = one / "f3.png"
    status = target.stat()
    first = world.ids()
    for number in (18, 3, 18):
        world.write(target, number)
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert target.stat().st_size == status.st_size and target.stat().st_mtime_ns == status.st_mtime_ns
        world.ingest(one)
        if number == 3:
            assert world.ids() == first, "the content that came back has its items back"


@scenario
def contents_alternate(world: World) -> None:
    one, _ = world.roots
    for number in (20, 21, 20, 0, 20):
        world.write(one / "f0.png", number)
        world.ingest(one)
    assert len(world.ids()) == 14


@scenario
def a_file_turns_bad_and_is_good_again(world: World) -> None:
    one, _ = world.roots
    before = world.ids()
    good = (one / "f0.png").read_bytes()
    world.write(one / "f0.png", 17)
    assert len(world.ingest().failures) == 1
    assert world.states() == {"indexed": 14, "failed": 2} and world.ids() == before
    assert world.ingest().failed_before == 2
    (one / "f0.png").write_bytes(good)
    world.ingest()
    assert world.states() == {"indexed": 14, "failed": 1}, "the error is gone with its content"
    assert world.ids() == before


# ---- absences


@scenario
def a_file_is_missing_once(world: World) -> None:
    one, _ = world.roots
    before = world.ids()
    world.put_aside(one / "f0.png")
    assert world.ingest().retired == 1 and world.ids() != before
    world.bring_back()
    assert world.ingest().returned == 1 and world.ids() == before
    world.put_aside(one / "f0.png")
    world.ingest()
    world.compact()
    world.bring_back()
    assert world.ingest().files == 1, "what was compacted is embedded again"


@scenario
def a_damaged_file_is_missing_once(world: World) -> None:
    one, _ = world.roots
    world.put_aside(one / "b/c/f8.png")
    world.ingest()
    assert world.states() == {"indexed": 14}
    world.bring_back()
    assert len(world.ingest().failures) == 1


@scenario
def a_disk_is_away_while_another_folder_is_read(world: World) -> None:
    one, two = world.roots
    before = world.ids()
    for leave_empty in (False, True):
        world.take_away(one, leave_empty=leave_empty)
        report = world.ingest(two)
        assert (report.offline, report.retired, report.failures) == (11, 0, [])
        assert world.states(one) == {"offline": 11, "failed": 1}
        report = world.ingest(two / "g0.png", prune=True)
        assert (report.offline, report.away, report.retired) == (0, 0, 0), (
            "told once; --prune is for what was asked for"
        )
        world.give_back(one)
        assert world.ingest().returned == 11 and world.ids() == before


@scenario
def a_search_finds_the_disk_there_again(world: World) -> None:
    one, two = world.roots
    before = world.ids()
    world.take_away(one)
    world.ingest(two)
    with world.opened() as library:
        assert library.show_returned() == 0
        world.give_back(one)
        (one / "f0.png").unlink()
        world.write(one / "f9.png", 30)
        assert library.show_returned() == 0, "it has just looked"
        library._looked_for_returned = float("-inf")
        with locked(world.library):
            assert library.show_returned() == 0, "another one writes"
        library._looked_for_returned = float("-inf")
        assert len(library.search("words of 4", k=1000, min_relevance=0)) > 0
        assert world.states(one) == {"indexed": 9, "offline": 2, "failed": 1}
        assert library.show_returned() == 0
        world.problems += [f"{fault.check}: {fault.what}" for fault in examine(library) if fault.state == "fault"]
    with mmsearch.open(world.library, model="toy", read_only=True) as library:
        assert library.show_returned() == 0
    report = world.ingest(one)
    assert (report.returned, report.files, report.retired) == (1, 1, 0), "changed, and gone"
    assert len(world.ids()) == len(before) - 1


@scenario
def a_folder_has_another_name_now(world: World) -> None:
    one, two = world.roots
    before = world.ids()
    named = one.with_name("renamed")
    one.rename(named)
    (named / "b/c/f8.png").unlink()
    world.roots[0] = named
    report = world.ingest(named)
    assert (report.moved, report.offline, report.copied) == (11, 0, 0) and world.ids() == before
    with world.opened() as library:
        assert [*library.catalog.sources.roots()] == [one, named, two], "a file that failed is still known there"
    assert world.ingest(one, prune=True).retired == 1
    with world.opened() as library:
        assert [*library.catalog.sources.roots()] == [named, two]


@scenario
def a_copy_is_read_while_the_disk_is_away(world: World) -> None:
    """The copy takes over the items; the disk has them back, by their content, once it is there again."""
    one, two = world.roots
    before = world.ids()
    shutil.copytree(one, two / "copy")
    world.take_away(one)
    report = world.ingest(two)
    assert (report.moved, report.offline, len(report.failures)) == (11, 0, 1) and world.ids() == before
    world.give_back(one)
    assert world.ingest().copied == 11


@scenario
def a_disk_is_away(world: World) -> None:
    one, two = world.roots
    before = world.ids()
    for leave_empty in (False, True):
        world.take_away(one, leave_empty=leave_empty)
        report = world.ingest()
        assert (report.offline, report.retired, report.failures) == (11, 0, [])
        assert "11 files offline" in report.sentence() and "--prune" in report.sentence()
        assert world.states(one) == {"offline": 11, "failed": 1}
        again = world.ingest()
        assert (again.offline, again.away) == (0, 11) and "11 files offline" in again.sentence()
        world.compact()
        world.give_back(one)
        assert world.ingest().returned == 11 and world.ids() == before
    world.take_away(one)
    world.ingest(two, prune=True)
    assert world.states(one) == {"offline": 11, "failed": 1}, "another root's --prune"
    assert world.ingest(one, prune=True).retired == 12 and world.states(one) == {}


@scenario
def a_disk_comes_back_changed(world: World) -> None:
    one, _ = world.roots
    world.take_away(one)
    world.ingest()
    world.give_back(one)
    world.write(one / "f0.png")
    world.write(one / "f3.png", 17)
    (one / "a/f1.png").rename(one / "a/other.png")
    (one / "a/f4.png").unlink()
    report = world.ingest()
    assert (report.moved, report.away) == (1, 1), "a file that was deleted meanwhile stays offline until it is pruned"
    assert world.states(one) == {"indexed": 10, "offline": 1, "failed": 2}
    world.ingest(prune=True)
    assert world.states(one) == {"indexed": 10, "failed": 2}


@scenario
def much_of_a_folder_is_gone(world: World) -> None:
    one, _ = world.roots
    for name in ("f0.png", "f3.png"):
        world.put_aside(one / name)
    assert world.ingest().retired == 2, "less than a fifth of 11"
    world.bring_back()
    assert world.ingest().returned == 2
    for name in ("f0.png", "f3.png", "f6.png"):
        world.put_aside(one / name)
    report = world.ingest()
    assert (report.offline, report.retired) == (3, 0)
    world.bring_back()
    assert world.ingest().returned == 3


@scenario
def a_disk_inside_a_folder_is_away(world: World) -> None:
    """Two of eleven files: fewer than a fifth, but all that was below a mount point, or a root of its own."""
    one, _ = world.roots
    inner = one / "usb"
    inner.mkdir()
    for n in (30, 31):
        world.write(inner / f"{n}.png", n)
    world.ingest(one)
    before = world.ids()
    world.take_away(inner, leave_empty=True)
    assert world.ingest(one).offline == 2
    world.give_back(inner)
    world.ingest(inner)
    assert world.ids() == before
    world.take_away(inner)
    assert world.ingest(one).offline == 2, "a root once, though of another scan"
    assert world.ingest(inner).away == 2
    world.give_back(inner)
    assert world.ingest(one).returned == 2 and world.ids() == before


@scenario
def part_of_a_folder_is_named(world: World) -> None:
    one, _ = world.roots
    world.take_away(one / "b")
    assert world.ingest(one / "b").offline == 3, "four files, one of them damaged"
    assert world.states() == {"indexed": 11, "offline": 3, "failed": 1}
    world.ingest(one / "a")
    assert world.ingest(one).away == 3
    world.give_back(one / "b")
    assert world.ingest(one / "b").returned == 3


@scenario
def a_root_inside_an_absent_root(world: World) -> None:
    one, _ = world.roots
    world.take_away(one)
    world.ingest(one)
    assert world.ingest(one / "b").away == 3
    world.give_back(one)
    assert world.ingest(one / "b").returned == 3
    assert world.states(one) == {"indexed": 11, "failed": 1}, "a look was enough for the others"
    assert world.ingest(one).unchanged == 11


@scenario
def a_file_is_a_root(world: World) -> None:
    one, _ = world.roots
    world.put_aside(one / "f0.png")
    assert world.ingest(one / "f0.png").offline == 1
    assert world.ingest(one).away == 1
    world.bring_back()
    assert world.ingest(one / "f0.png").returned == 1
    (one / "f0.png").unlink()
    assert world.ingest(one / "f0.png", prune=True).retired == 1


@scenario
def a_root_cannot_be_read(world: World) -> None:
    one, _ = world.roots
    before = world.ids()
    for number in (errno.EACCES, errno.ESTALE, errno.EIO):
        with pytest.MonkeyPatch.context() as patched:
            _fail(patched, "stat", one, number)
            with world.opened() as library:
                report = ingest_paths(library, [one])
        assert [f.reason for f in report.failures] == [f"cannot be read: {os.strerror(number)}"]
        assert world.ids() == before and world.states() == {"indexed": 14, "failed": 1}


@scenario
def a_file_cannot_be_read_once(world: World) -> None:
    one, _ = world.roots
    before = world.ids()
    (one / "f0.png").touch()
    for number in (errno.EACCES, errno.EIO):
        with pytest.MonkeyPatch.context() as patched:
            _fail(patched, "open", one / "f0.png", number)
            with world.opened() as library:
                report = ingest_paths(library, [one])
        assert [f.path.name for f in report.failures] == ["f0.png"]
        assert world.ids() == before and world.states() == {"indexed": 14, "failed": 1}
    world.ingest()
    assert world.ids() == before


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_moves(world: World, name: str) -> None:
    SCENARIOS[name](world)


def test_many_moves_at_random(tmp_path: Path) -> None:
    tally = moves.wander(tmp_path, 30, seed=7)
    assert tally.problems == [] and tally.ingests >= 10


def _fail(patched: pytest.MonkeyPatch, name: str, path: Path, number: int) -> None:
    """The system call fails for this path and below."""
    real = getattr(os, name)

    def failing(target: object, *arguments: object, **terms: object) -> object:
        if not isinstance(target, int) and Path(os.fsdecode(target)).is_relative_to(path):  # type: ignore[arg-type]
            raise OSError(number, os.strerror(number), str(target))
        return real(target, *arguments, **terms)

    patched.setattr(os, name, failing)


def _generation(world: World) -> int:
    with world.opened() as library:
        return library.catalog.generation()


# ---- in the middle of an ingest


@pytest.fixture
def disk(world: World) -> Iterator[Callable[[str], None]]:
    """The folder `one` is a mount point; "umount" and "mount" as an absent-minded user does it, whatever is being read."""
    one, _ = world.roots
    content = one.with_name("disk-of-one")
    one.rename(content)
    one.mkdir()

    def do(what: str) -> None:
        command = ["umount", "--lazy", one] if what == "umount" else ["mount", "--bind", content, one]
        subprocess.run(command, check=True, capture_output=True)

    try:
        do("mount")
    except (OSError, subprocess.CalledProcessError) as error:
        one.rmdir()
        content.rename(one)
        pytest.skip(f"mounting is not permitted here: {error}")
    world.ingest()
    yield do
    while _is_mounted(one):
        do("umount")


def _is_mounted(folder: Path) -> bool:
    """`os.path.ismount` sees no bind mounts."""
    return any(line.split()[4] == str(folder) for line in Path("/proc/self/mountinfo").read_text().splitlines())


@pytest.mark.parametrize("stage", ["scan", "plan", "read", "last"])
def test_a_disk_that_goes_in_the_middle_of_an_ingest(
    world: World, disk: Callable[[str], None], stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While folders are walked; after that; when the first file is to be read; when the last one is."""
    monkeypatch.setattr(pipeline, "PROGRESS_INTERVAL_S", 0.0)
    one, two = world.roots
    before = world.ids()
    for n in range(40, 62):
        if world.contents.item_count(n):
            world.write(one / "new" / f"{n}.png", n)
    world.write(one / "f3.png", 63)
    calls = 0

    def progress(now: pipeline.Progress) -> None:
        nonlocal calls
        is_now = now.stage == stage and (stage != "scan" or now.files > 5)
        is_now |= stage == "last" and now.stage == "read" and sum(now.items.values()) > 0
        if is_now and not calls:
            calls += 1
            disk("umount")

    with world.opened() as library:
        report = ingest_paths(library, [one, two], progress=progress)
        assert calls == 1 and not _is_mounted(one)
        assert report.retired == 0 and {row.path.name for row in library.catalog.sources.errors()} == {"f8.png"}
        assert report.failures or report.changing or stage == "last"
    now = world.ids()
    assert {sha256: ids for sha256, ids in now.items() if sha256 in before}.items() >= {
        sha256: ids for sha256, ids in before.items() if world.numbers[sha256] != 3
    }.items()
    report = world.ingest(count=False)
    assert report.retired == 0 and report.offline >= 11 and world.states(one)["offline"] == report.offline
    disk("mount")
    world.ingest(count=False)
    assert world.states() == {"indexed": 34, "failed": 1}
    assert {sha256: ids for sha256, ids in world.ids().items() if sha256 in now}.items() >= {
        sha256: ids for sha256, ids in now.items() if world.numbers[sha256] != 3
    }.items()


def test_what_a_failing_disk_makes_of_a_file_is_not_recorded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder gives up, and the disk says why when the file is read once more: no row says that the file is damaged."""
    one, _ = world.roots
    world.write(one / "x.png", 40)
    time.sleep(scan.UNSETTLED_NS / 1e9)  # by its times alone it is unchanged
    real = pipeline.Run.take

    def take(run: pipeline.Run, event: pipeline.Event) -> None:
        failed = pipeline.Event("failed", event.task, error=CorruptFile(event.task.source.path, "the decoder failed"))
        _fail(monkeypatch, "open", one / "x.png", errno.EIO)
        real(run, failed if event.type != "draft" else event)

    monkeypatch.setattr(pipeline.Run, "take", take)
    with world.opened() as library:
        report = ingest_paths(library, [one])
        monkeypatch.undo()
        assert [(f.path.name, f.reason) for f in report.failures] == [("x.png", "cannot be read: Input/output error")]
        assert {row.path.name for row in library.catalog.sources.errors()} == {"f8.png"}
    world.ingest(count=False)
    assert world.states() == {"indexed": 15, "failed": 1}


# ---- the real commands


def command(world: World, *arguments: object) -> tuple[int, str, str]:
    environment = os.environ | {"NO_COLOR": "1", "MMSEARCH_MODEL": "toy", "MMSEARCH_LIBRARY": str(world.library)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "mmsearch", *map(str, arguments)],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_a_disk_that_is_away_as_a_user_meets_it(world: World, disk: Callable[[str], None]) -> None:
    from ui import shelf

    one, two = world.roots
    ids = world.ids()
    disk("umount")
    code, _, said = command(world, "ingest", one)
    assert code == 0 and "11 files offline: kept out of sight until their disk is back" in said and "--prune" in said
    code, told, _ = command(world, "status")
    assert code == 0
    (line,) = [line for line in told.splitlines() if "offline" in line]
    assert "11 files offline: they come back with their disk" in line and "ingest FOLDER --prune" in line
    code, told, _ = command(world, "query", "words of 4", "--format", "paths", "--min-relevance", "0")
    assert code == 0 and told and all(path.startswith(f"{two}/") for path in told.splitlines())
    assert "· 11 files offline" in command(world, "query", "words of 4", "--min-relevance", "0")[2]
    code, _, said = command(world, "query", "xyzzy", "--min-relevance", "1")
    assert code == 1 and "no good match" in said and said.rstrip().endswith("· 11 files offline")
    with world.opened() as library:
        assert shelf.coverage(library).offline == 11
    disk("mount")
    code, told, said = command(world, "query", "words of 4", "--format", "paths", "--min-relevance", "0")
    assert code == 0 and world.ids() == ids, "a query is enough"
    assert {str(one / "f4.png"), str(two / "g0.png")} & set(told.splitlines())
    disk("umount")
    assert "11 files offline" in command(world, "ingest", one)[2]
    disk("mount")
    assert "· 11 files back again" in command(world, "query", "words of 4", "--min-relevance", "0")[2]
    disk("umount")
    assert "11 files offline" in command(world, "ingest", one)[2]
    disk("mount")
    code, _, said = command(world, "ingest", one)
    assert code == 0 and "11 files back again" in said and world.ids() == ids
    disk("umount")
    code, _, said = command(world, "ingest", two, "--prune")
    assert code == 0 and "11 files offline" in said, "what nobody asked for is marked, not pruned"
    assert world.states(one) == {"offline": 11, "failed": 1}
    code, _, said = command(world, "ingest", one, "--prune")
    assert code == 0 and "12 files removed" in said and world.states() == {"indexed": 3}
