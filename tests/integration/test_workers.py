"""Worker processes: drafts arrive as they were made; hanging, dying and greedy decoders cost one file; nobody is left behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ingest import readers
from ingest.decode import Event, Limits, Task
from ingest.decode import pool as decode_pool
from ingest.decode.messages import read_message, write_message
from ingest.decode.pool import WorkerPool
from ingest.scan import hash_file
from mmsearch.errors import CorruptFile, DecodeTimeout, EncryptedFile, FileTooLarge, WorkerFailed
from mmsearch.media import isolated as sandbox
from tests import samples

BUDGET = {"page": 50_176, "image": 12_544, "clip": 12_544}

MISBEHAVIOUR = '''
"""Loaded by the worker's interpreter: documents whose names say so misbehave."""
import ctypes, os, signal, sys, time
try:
    import ingest.readers.document as pdf
except ImportError:
    pass
else:
    honest = pdf.read_items

    def read_items(source, reading):
        name = source.path.name
        with open(source.path.parent / "attempts.log", "a") as log:
            print(name, reading.first_ordinal, file=log)
        if name.startswith("hang"):
            ctypes.PyDLL(None).sleep(1000)  # inside native code, holding the interpreter's lock
        if name.startswith("parent"):
            if not (child := os.fork()):
                time.sleep(1000)  # holds what its parent held
            (source.path.parent / f"child-{child}").touch()
        if name.startswith("parent and dies"):
            os.kill(os.getpid(), signal.SIGABRT)
        if name.startswith("parent and hangs"):
            time.sleep(1000)
        if name.startswith("greedy"):
            bytearray(3 << 30)
        for draft in honest(source, reading):
            if name.startswith("slow"):
                time.sleep(0.7)
            yield draft
            if name.startswith("crash") and draft.ordinal == 2 or name.startswith("once") and draft.ordinal == 1:
                os.kill(os.getpid(), signal.SIGSEGV)

    pdf.read_items = read_items
'''


@pytest.fixture
def bad_decoders(tmp_path, monkeypatch) -> Path:
    """A folder for documents; those with telling names make the worker misbehave."""
    (tmp_path / "patch").mkdir()
    (tmp_path / "patch" / "sitecustomize.py").write_text(MISBEHAVIOUR)
    monkeypatch.syspath_prepend(str(tmp_path / "patch"))
    return tmp_path


def tasks(*paths: Path) -> list[Task]:
    found = []
    for key, path in enumerate(paths):
        source = hash_file(path)
        assert source is not None
        found.append(Task(key, source))
    return found


def do(todo: list[Task], **pool_terms: object) -> list[Event]:
    pool_terms.setdefault("jobs", 1)
    with WorkerPool(BUDGET, **pool_terms) as pool:
        return [event for event in pool.read(todo) if event is not None]


@pytest.fixture
def hanging_ones_are_stopped_soon(monkeypatch) -> None:
    """Two seconds for files that are meant to hang; all others have as long as a busy machine needs."""
    real = Task.deadline_s

    def deadline_s(task: Task, limits: Limits) -> float:
        is_stopped = any(word in task.source.path.name for word in ("hang", "and dies"))
        return 2.0 if is_stopped else real(task, limits)

    monkeypatch.setattr(Task, "deadline_s", deadline_s)


def children() -> set[int]:
    psutil = pytest.importorskip("psutil")
    return {child.pid for child in psutil.Process().children(recursive=True)}


def wait_until(condition, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_drafts_arrive_as_they_were_made(tmp_path):
    path = samples.pdf(tmp_path / "a.pdf", ["Grüße \u2713", None, ""])
    movie = samples.scenes(tmp_path / "v.mp4", [2.5])
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    samples.photo(tmp_path / "p.png").rename(odd)
    todo = tasks(path, movie, odd)
    events = do(todo, jobs=2)
    for task in todo:
        expected = list(readers.read_items(task.source, BUDGET))
        mine = [event for event in events if event.task.key == task.key]
        assert [event.type for event in mine] == ["draft"] * len(expected) + ["done"]
        for event, draft in zip(mine, expected, strict=False):
            assert event.draft is not None
            for field in ("source", "kind", "ordinal", "page_number", "start_s", "end_s", "text", "preview", "meta"):
                assert getattr(event.draft, field) == getattr(draft, field)
            for got, made in zip(event.draft.images, draft.images, strict=True):
                assert np.array_equal(np.asarray(got), np.asarray(made))
    (done,) = (event for event in events if event.type == "done" and event.task.key == 0)
    assert done.notes == {"blank_pages": 1} and done.seconds > 0


@pytest.mark.slow
def test_counting_reads_no_pixels(tmp_path):
    paths = [
        samples.pdf(tmp_path / "a.pdf", ["x"] * 7),
        samples.scenes(tmp_path / "v.mp4", [2.0, 12.0], fps=5),
        samples.encrypted_pdf(tmp_path / "e.pdf"),
    ]
    events = do([Task(task.key, task.source, is_count=True) for task in tasks(*paths)])
    assert events[0].expected == ("page", 7, 0.0)
    assert events[1].expected is not None
    assert events[1].expected[:2] == ("clip", 2) and events[1].expected[2] == pytest.approx(14.0, abs=0.3)
    assert events[2].type == "failed" and isinstance(events[2].error, EncryptedFile)


@pytest.mark.usefixtures("hanging_ones_are_stopped_soon")
def test_a_hanging_decoder_is_killed_and_the_file_named(bad_decoders):
    hang = samples.pdf(bad_decoders / "hang.pdf")
    good = samples.pdf(bad_decoders / "good.pdf")
    events = do(tasks(hang, good))
    assert [event.type for event in events] == ["failed", "draft", "done"]
    assert isinstance(events[0].error, DecodeTimeout) and events[0].error.path == str(hang)
    assert (bad_decoders / "attempts.log").read_text().count("hang") == 1


def test_a_dying_decoder_is_tried_twice_and_the_file_named(bad_decoders):
    crash = samples.pdf(bad_decoders / "crash.pdf", [f"page {n}" for n in range(6)])
    good = samples.pdf(bad_decoders / "good.pdf")
    events = do(tasks(crash, good))
    assert [event.draft.ordinal for event in events if event.draft and event.task.key == 0][:3] == [0, 1, 2]
    # The second attempt begins after the last draft that came, and meets no page 2 to die on.
    assert (bad_decoders / "attempts.log").read_text().split()[:4] == ["crash.pdf", "0", "crash.pdf", "3"]
    assert events[-1].type == "done" and events[-1].task.key == 1


@pytest.mark.usefixtures("hanging_ones_are_stopped_soon")
def test_what_a_decoder_starts_dies_with_it(bad_decoders):
    """It holds the worker's pipe open: without its death the end of that pipe would never come."""
    psutil = pytest.importorskip("psutil")
    dies, hangs, goes_on = (
        samples.pdf(bad_decoders / f"{name}.pdf") for name in ("parent and dies", "parent and hangs", "parent")
    )
    events = do(tasks(dies, hangs, goes_on))
    assert [event.type for event in events] == ["failed", "failed", "draft", "done"]
    assert all(isinstance(event.error, DecodeTimeout) for event in events[:2])
    started = [int(path.name[6:]) for path in bad_decoders.glob("child-*")]
    assert len(started) == 3
    assert wait_until(lambda: not any(psutil.pid_exists(pid) for pid in started)), "a decoder's child is left over"


def test_a_worker_leaves_no_image_of_its_memory(bad_decoders):
    psutil = pytest.importorskip("psutil")
    before = children()
    with WorkerPool(BUDGET, jobs=1) as pool:
        events = pool.read(tasks(samples.pdf(bad_decoders / "hang.pdf")), tick_s=0.2)
        assert next(events) is None and wait_until(lambda: (bad_decoders / "attempts.log").exists())
        (worker,) = (psutil.Process(pid) for pid in children() - before)
        assert worker.rlimit(psutil.RLIMIT_CORE) == (0, 0)


@pytest.mark.slow
def test_a_decoder_that_always_dies_is_given_up(bad_decoders):
    # The crash comes with page 2 of the second document again and again: each attempt starts on that page.
    path = samples.pdf(bad_decoders / "crash.pdf", ["a", "b", "c", "d"])
    todo = [Task(0, tasks(path)[0].source, first_ordinal=2)]
    code = (bad_decoders / "patch" / "sitecustomize.py").read_text().replace("draft.ordinal == 2", "True")
    (bad_decoders / "patch" / "sitecustomize.py").write_text(code)
    events = do(todo)
    assert [event.type for event in events] == ["draft", "draft", "failed"]
    assert isinstance(events[-1].error, CorruptFile) and "signal 11" in events[-1].error.reason
    assert (bad_decoders / "attempts.log").read_text().splitlines() == ["crash.pdf 2", "crash.pdf 3"]


@pytest.mark.slow
def test_no_page_is_lost_or_doubled_by_a_crash(bad_decoders):
    path = samples.pdf(bad_decoders / "once.pdf", [f"page {n}" for n in range(5)])
    events = do(tasks(path))
    assert [event.draft.text for event in events if event.draft] == [f"page {n}" for n in range(5)]
    assert events[-1].type == "done"


@pytest.mark.skipif(sys.platform != "linux", reason="the memory limit needs Linux")
def test_memory_is_limited(bad_decoders):
    greedy = samples.pdf(bad_decoders / "greedy.pdf")
    good = samples.pdf(bad_decoders / "good.pdf")
    events = do(tasks(greedy, good), limits=Limits(memory_bytes=2 << 30))
    assert [event.type for event in events] == ["failed", "draft", "done"]
    assert isinstance(events[0].error, FileTooLarge) and "memory" in events[0].error.reason


@pytest.fixture
def watched(monkeypatch) -> SimpleNamespace:
    """Each wait for a worker's next message: the seconds that it had (`allowed_s`), and whether one is going on (`is_waiting`)."""
    seen = SimpleNamespace(allowed_s=[], is_waiting=False)
    within = decode_pool._Watch.within

    @contextmanager
    def noted(watch, seconds: float):
        seen.allowed_s.append(seconds)
        with within(watch, seconds):
            seen.is_waiting = True
            try:
                yield
            finally:
                seen.is_waiting = False

    monkeypatch.setattr(decode_pool._Watch, "within", noted)
    return seen


def test_the_deadline_counts_from_the_last_progress(tmp_path, watched):
    path = samples.pdf(tmp_path / "a.pdf", ["a", "b", "c", "d"])
    events = do(tasks(path), limits=Limits(deadline_s=100.0))
    assert [event.type for event in events] == ["draft"] * 4 + ["done"]
    _, *of_messages = watched.allowed_s  # the first is for the worker's start
    assert len(of_messages) >= 5 and set(of_messages) == {100.0}, "each message has all of it"


@pytest.mark.slow
def test_a_file_has_a_deadline_as_a_whole_too(bad_decoders, monkeypatch):
    """However steadily it goes on: what came until then stays."""
    monkeypatch.setattr("ingest.decode.pool.TOTAL_DEADLINES", 1)
    slow = samples.pdf(bad_decoders / "slow.pdf", ["a"] * 20)  # 14 s in all
    events = do(tasks(slow), limits=Limits(deadline_s=3.0))
    assert events[0].type == "draft" and len(events) < 20
    assert isinstance(events[-1].error, DecodeTimeout) and "more than 3 s in all" in events[-1].error.reason


@pytest.mark.slow
def test_workers_wait_for_a_busy_parent_without_being_killed(tmp_path, watched):
    path = samples.pdf(tmp_path / "a.pdf", [f"page {n}" for n in range(40)])
    seen = []
    with WorkerPool(BUDGET, jobs=1, look_ahead_bytes=200_000) as pool:
        for event in pool.read(tasks(path)):
            if event is None:
                continue
            seen.append(event.type)
            if len(seen) == 3:
                assert wait_until(lambda: not watched.is_waiting and len(pool._mail._items) >= 1)
                read = len(watched.allowed_s)
                time.sleep(0.5)
                assert len(watched.allowed_s) == read and not watched.is_waiting, "no deadline runs meanwhile"
                assert len(pool._mail._items) <= 3  # 150 kB a page
    assert seen == ["draft"] * 40 + ["done"]


def test_nobody_is_left_after_closing(bad_decoders):
    before = children()
    paths = [samples.pdf(bad_decoders / f"hang{n}.pdf") for n in range(2)]
    with WorkerPool(BUDGET, jobs=2) as pool:
        events = pool.read(tasks(*paths), tick_s=0.2)
        assert wait_until(lambda: next(events) is None and len(children() - before) == 2)
    assert children() <= before


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
@pytest.mark.slow
def test_workers_die_with_their_parent(bad_decoders):
    psutil = pytest.importorskip("psutil")
    hang = samples.pdf(bad_decoders / "hang.pdf")
    script = (
        f"import sys; sys.path[:0] = {[str(bad_decoders / 'patch'), str(Path(__file__).parents[2])]!r}\n"
        "from pathlib import Path\nfrom ingest.decode import Task\nfrom ingest.decode.pool import WorkerPool\nfrom ingest.scan import hash_file\n"
        f"with WorkerPool({BUDGET!r}, jobs=1) as pool:\n"
        f"    for _ in pool.read([Task(0, hash_file(Path({str(hang)!r})))]): pass\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    try:
        process = psutil.Process(parent.pid)
        log = bad_decoders / "attempts.log"
        assert wait_until(lambda: log.exists() and process.children())
        workers = process.children()
    finally:
        parent.kill()
        parent.wait()
    assert wait_until(lambda: not any(psutil.pid_exists(worker.pid) and worker.is_running() for worker in workers), 5)


class TestWorkersThatDieWhileTheyStart:
    @pytest.fixture(autouse=True)
    def short_waits(self, monkeypatch):
        monkeypatch.setattr("ingest.decode.pool.START_WAITS_S", (0.01, 0.01))

    def test_one_that_starts_at_another_attempt_reads_everything(self, tmp_path, monkeypatch):
        starts_that_die(tmp_path, monkeypatch, 2)
        events = do(tasks(samples.photo(tmp_path / "a.png"), samples.photo(tmp_path / "b.png")))
        assert [event.type for event in events] == ["draft", "done"] * 2

    def test_the_others_do_without_it(self, tmp_path, monkeypatch):
        starts_that_die(tmp_path, monkeypatch, 10_000, but=1)
        todo = tasks(*(samples.photo(tmp_path / f"{n}.png") for n in range(8)))
        events = do(todo, jobs=2)
        assert sorted(event.task.key for event in events if event.type == "done") == list(range(8))

    @pytest.mark.parametrize(
        ("death", "said"),
        [
            ("os.kill(os.getpid(), 9)", "lack of memory"),
            ("os._exit(3)", r"exit status 3"),
            ("print('x' * 99)", "nonsense"),
        ],
        ids=["killed", "exits", "talks"],
    )
    def test_where_none_starts_no_file_is_to_blame(self, tmp_path, monkeypatch, death: str, said: str):
        starts_that_die(tmp_path, monkeypatch, 10_000, death=f"{death}; sys.stdout.flush()")
        with pytest.raises(WorkerFailed, match=f"{said}.*--jobs 1"):
            do(tasks(samples.photo(tmp_path / "a.png")))

    def test_a_machine_that_makes_no_process(self, tmp_path, monkeypatch):
        def refuse(*_: object, **__: object) -> None:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

        monkeypatch.setattr("ingest.decode.pool.subprocess.Popen", refuse)
        with pytest.raises(WorkerFailed, match="temporarily unavailable"):
            do(tasks(samples.photo(tmp_path / "a.png")))

    def test_the_next_reading_starts_afresh(self, tmp_path, monkeypatch):
        starts_that_die(tmp_path, monkeypatch, 3)
        todo = tasks(samples.photo(tmp_path / "a.png"))
        with WorkerPool(BUDGET, jobs=1) as pool:
            with pytest.raises(WorkerFailed):
                list(pool.read(todo))
            assert [event.type for event in pool.read(todo) if event] == ["draft", "done"]


def starts_that_die(folder: Path, monkeypatch, count: int, *, but: int | None = None, death="os.kill(os.getpid(), 9)"):
    """The first `count` decoding processes die before they are ready, but for that number `but` (from 0)."""
    (folder / "patch").mkdir()
    (folder / "patch" / "sitecustomize.py").write_text(
        DYING.format(folder=str(folder), count=count, but=but, death=death)
    )
    monkeypatch.syspath_prepend(str(folder / "patch"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder / "patch"), str(Path(__file__).parents[2])]))


DYING = """
import os, sys
if "ingest.decode.child" in sys.orig_argv or "mmsearch.media.isolated" in sys.orig_argv:
    log = os.open({folder!r} + "/starts", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(log, b".")
    number = os.fstat(log).st_size - 1
    if number < {count} and number != {but}:
        {death}
"""


class TestAnIngestWithoutDecodingProcesses:
    """The real command: what could be read before stays, no file is noted as bad, and the exit code is that of our fault."""

    def ingest(self, folder: Path):
        command = [sys.executable, "-P", "-m", "mmsearch", "ingest", str(folder / "things"), "--jobs", "1"]
        env = os.environ | {"MMSEARCH_MODEL": "toy", "MMSEARCH_LIBRARY": str(folder / "index_data")}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)

    @pytest.mark.parametrize("kind", ["photo", "document"])
    def test_it_says_so_and_the_same_command_goes_on(self, tmp_path, monkeypatch, kind: str):
        (tmp_path / "things").mkdir()
        make = samples.photo if kind == "photo" else samples.pdf
        make(tmp_path / "things" / f"a.{'png' if kind == 'photo' else 'pdf'}")
        starts_that_die(tmp_path, monkeypatch, 3)  # the waits are real
        stopped = self.ingest(tmp_path)
        assert stopped.returncode == 70, stopped.stderr
        assert "lack of memory" in stopped.stderr and "fault of mmsearch" not in stopped.stderr
        assert "failed" not in stopped.stderr.replace("a decoding process", "")
        done = self.ingest(tmp_path)
        assert done.returncode == 0, done.stderr


def test_a_single_decoder_that_dies_while_it_starts(tmp_path, monkeypatch):
    """The picture to search with: it is tried again, and is not called damaged."""
    monkeypatch.setattr(sandbox, "START_WAITS_S", (0.01, 0.01))
    photo = samples.photo(tmp_path / "a.png", (255, 0, 0))
    starts_that_die(tmp_path, monkeypatch, 5)
    with pytest.raises(WorkerFailed, match="signal 9"):
        sandbox.query_image(photo, max_pixels=10_000)
    assert sandbox.query_image(photo, max_pixels=10_000).getpixel((5, 5)) == (255, 0, 0)


def test_messages_from_a_worker_are_not_trusted():
    import io

    stream = io.BytesIO()
    write_message(stream, {"type": "draft", "name": "\udcff"}, [b"ab", b"c"])
    stream.seek(0)
    assert read_message(stream) == ({"type": "draft", "name": "\udcff"}, b"abc")
    for bad in (b"", b"\xff" * 8, b"\0\0\0\2\0\0\0\0[]", b"\0\0\0\2\0\0\0\0{", b"\0\1\0\0\0\0\0\0" + b"[" * 65536):
        with pytest.raises((EOFError, ValueError)):
            read_message(io.BytesIO(bad))
