"""Worker processes in which untrusted bytes are decoded: one source at a time each, drafts streamed back as they come.

A worker is `python -m ingest.decode.child` with pipes for stdin and stdout: no fork (threads, CUDA), no pickle (its bytes are not
trusted), no model (it never imports torch). It has a memory limit and ends with its pipes, so with its parent.
The parent kills one that makes no progress before the deadline, names the file, and starts another.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import mmsearch.errors
from ingest.decode import Event, Limits, Task, default_jobs
from ingest.decode.messages import pack_rewording, read_message, unpack_draft, write_message
from ingest.readers import Facts
from mmsearch.errors import CorruptFile, DecodeTimeout, FileTooLarge, SourceError, WorkerFailed
from mmsearch.items import Kind

log = logging.getLogger(__name__)

CHILD = "ingest.decode.child"

START_DEADLINE_S = 60.0
START_WAITS_S = (0.5, 4.0)
"""Pauses before a worker that died while it started is started again: what took the memory may have ended by then."""
RECYCLE_BYTES = 1 << 30
"""A worker that holds more than this after a file is replaced: native decoders leak."""
ATTEMPTS = 2
"""How often a file is tried on which the worker dies; one that ran out of time is not tried again."""
TOTAL_DEADLINES = 5
"""A file that keeps making progress may take this many deadlines, plus one per `BYTES_PER_DEADLINE`."""
BYTES_PER_DEADLINE = 25 << 20


class WorkerPool:
    """`jobs` workers, started when first needed. Use as a context manager: at the end no worker is left.

    `look_ahead_bytes` bounds the decoded pixels that wait for the embedder; beyond it the workers wait.
    """

    def __init__(
        self,
        budget: Mapping[Kind, int],
        *,
        jobs: int | None = None,
        limits: Limits | None = None,
        look_ahead_bytes: int = 96 << 20,
    ) -> None:
        self.jobs = jobs or default_jobs()
        self.budget = dict(budget)
        self.limits = limits or Limits()
        self._mail = _Mailbox(look_ahead_bytes)
        self._tasks: collections.deque[tuple[int, Task]] = collections.deque()
        self._more = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._workers: set[_Worker] = set()
        self._run = 0
        self._closed = False

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, tasks: Iterable[Task], *, tick_s: float = 1.0) -> Iterator[Event | None]:
        """See `Decoder`. As long as one worker starts, the others do without those that do not. Raises WorkerFailed: not one does."""
        with self._more:
            self._run += 1
            run = self._run
            self._tasks.extend((run, task) for task in tasks)
            left = len(self._tasks)
            while len(self._threads) < min(self.jobs, left):
                name = f"decode-{len(self._threads)}"
                self._threads.append(threading.Thread(target=self._serve, name=name, daemon=True))
                self._threads[-1].start()
            self._more.notify_all()
        try:
            while left:
                mail = self._mail.take(tick_s)
                if mail is None:
                    yield None
                elif isinstance(mail.content, BaseException):
                    raise mail.content
                elif mail.run == run:
                    left -= mail.content.type != "draft"
                    yield mail.content
        finally:
            with self._more:
                self._tasks.clear()

    def close(self) -> None:
        """Kill the workers, whatever they do, and wait for their threads."""
        with self._more:
            self._closed = True
            workers, threads = list(self._workers), list(self._threads)
            self._more.notify_all()
        self._mail.close()
        for worker in workers:
            worker.kill()
        for thread in threads:
            thread.join(timeout=10)

    def _serve(self) -> None:
        """One thread per worker: hand it tasks, pass on what it sends, replace it when it dies."""
        worker: _Worker | None = None
        try:
            while True:
                with self._more:
                    while not self._tasks:
                        if self._closed:
                            return
                        self._more.wait()
                    run, task = self._tasks.popleft()
                for attempt in range(1, ATTEMPTS + 1):
                    if worker is None:
                        try:
                            worker = self._start()
                        except WorkerFailed as error:
                            if not self._leave_to_others(run, task):
                                raise
                            log.warning("%s; the other decoding processes go on", error)
                            return
                    outcome = worker.run(task, functools.partial(self._post, run))
                    if worker.is_spent:
                        self._discard(worker)
                        worker = None
                    if outcome.event is not None:
                        self._post(run, outcome.event)
                        break
                    assert outcome.died is not None
                    if attempt == ATTEMPTS:
                        self._post(run, Event("failed", task, error=outcome.died, seconds=outcome.seconds))
                    else:  # go on after the last draft that arrived
                        task = replace(task, first_ordinal=outcome.next_ordinal)
        except _Closed:
            pass
        except BaseException as error:
            with contextlib.suppress(_Closed):
                self._mail.put(Mail(0, error))
        finally:
            if worker is not None:
                self._discard(worker)
            self._forget_thread()

    def _leave_to_others(self, run: int, task: Task) -> bool:
        """Put a task back in front of the others, and leave; False where no other thread would take it."""
        with self._more:
            if len(self._threads) < 2:
                return False
            self._forget_thread()  # in the same moment: of two that give up at once the second stays
            self._tasks.appendleft((run, task))
            self._more.notify()
            return True

    def _forget_thread(self) -> None:
        """The next `read` may start another in its place."""
        with self._more, contextlib.suppress(ValueError):
            self._threads.remove(threading.current_thread())

    def _post(self, run: int, event: Event) -> None:
        self._mail.put(Mail(run, event))

    def _start(self) -> _Worker:
        """A worker that is ready. Raises WorkerFailed once it died that often, or does not answer."""
        for wait_s in (*START_WAITS_S, None):
            with self._more:
                if self._closed:
                    raise _Closed
            try:
                worker = _Worker(self.budget, self.limits)
                break
            except WorkerFailed as error:
                if wait_s is None:
                    raise
                log.info("%s; trying again", error)
                with self._more:
                    self._more.wait_for(lambda: self._closed, wait_s)
        with self._more:
            self._workers.add(worker)
            if not self._closed:
                return worker
        self._discard(worker)  # the pool was closed while it started
        raise _Closed

    def _discard(self, worker: _Worker) -> None:
        worker.kill()
        with self._more:
            self._workers.discard(worker)


class _Closed(Exception):
    """The pool was closed while a thread worked."""


@dataclass(frozen=True, slots=True)
class Mail:
    """What a thread has to say: an event of the `read` numbered `run`, or what it died of."""

    run: int
    content: Event | BaseException


class _Mailbox:
    """A queue bounded by the bytes of the drafts in it, not by their number."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._bytes = 0
        self._items: collections.deque[tuple[Mail, int]] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, mail: Mail) -> None:
        """Waits while too much is inside already. Raises _Closed once the box is closed."""
        size = 0
        if isinstance(mail.content, Event) and mail.content.draft is not None:
            size = sum(image.width * image.height * 3 for image in mail.content.draft.images)
        with self._changed:
            while self._bytes and self._bytes + size > self._limit and not self._closed:
                self._changed.wait()
            if self._closed:
                raise _Closed
            self._items.append((mail, size))
            self._bytes += size
            self._changed.notify_all()

    def take(self, timeout_s: float) -> Mail | None:
        """The next one, or None if nothing comes in time."""
        with self._changed:
            if not self._items:
                self._changed.wait(timeout_s)
            if not self._items:
                return None
            mail, size = self._items.popleft()
            self._bytes -= size
            self._changed.notify_all()
            return mail

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._items.clear()
            self._bytes = 0
            self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a task ended in a worker: with an event, or with the worker's death and what to say of it."""

    event: Event | None = None
    died: SourceError | None = None
    next_ordinal: int = 0
    seconds: float = 0.0


class _Worker:
    """A worker process as its thread in the parent sees it, once it is ready. Making one raises WorkerFailed."""

    def __init__(self, budget: Mapping[Kind, int], limits: Limits) -> None:
        self.limits = limits
        self.is_spent = False
        try:
            self._process = subprocess.Popen(
                # -P: the working folder may hold anything; -m finds this package on the parent's own path.
                [sys.executable, "-P", "-m", CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                process_group=0,  # so that what a decoder may start dies with it
            )
        except OSError as error:  # no memory, or no process, is left to make one of
            raise WorkerFailed(f"no decoding process can be started ({error.strerror}): {_WAY_OUT}") from error
        terms = {
            "budget": dict(budget),
            "memory_bytes": limits.memory_bytes,
            "max_image_pixels": limits.max_image_pixels,
            "max_pages": limits.max_pages,
            "ocr": None if limits.ocr is None else limits.ocr.record(),
            "parent": os.getpid(),
        }
        watch = _Watch(self._kill_group)
        try:
            write_message(self._stdin, terms)
            with watch.within(START_DEADLINE_S):
                read_message(self._stdout)
        except (EOFError, OSError, ValueError) as error:
            raise WorkerFailed(self._why_no_start(has_expired=watch.has_expired)) from error

    def _why_no_start(self, *, has_expired: bool) -> str:
        """One sentence on a worker that sent no word; it is gone afterwards."""
        if has_expired:
            self.kill()
            return f"a decoding process was not ready within {START_DEADLINE_S:.0f} s: {_WAY_OUT}"
        has_ended = self._has_ended(within_s=2.0)
        self.kill()
        if has_ended and self._process.returncode == -signal.SIGKILL:  # the system's last resort
            return f"a decoding process was killed while it started, mostly for lack of memory: {_WAY_OUT}"
        how = (
            f"signal {-self._process.returncode}"
            if self._process.returncode < 0
            else f"exit status {self._process.returncode}"
        )
        died = f"died while it started ({how})" if has_ended else "sent nonsense while it started"
        return f"a decoding process {died}: {_WAY_OUT}; `{sys.executable} -m {CHILD} < /dev/null` may say why"

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def run(self, task: Task, put: Callable[[Event], None]) -> _Outcome:
        """Have a task done; drafts go to `put`, which may wait: that time counts against nobody."""
        source = task.source
        next_ordinal = task.first_ordinal
        worked_s = 0.0
        deadline_s = task.deadline_s(self.limits)
        allowed_s = deadline_s * (TOTAL_DEADLINES + source.size_bytes / BYTES_PER_DEADLINE)
        watch = _Watch(self._kill_group)
        try:
            write_message(
                self._stdin,
                {
                    "path": os.fspath(source.path),
                    "sha256": source.sha256,
                    "size_bytes": source.size_bytes,
                    "modified_ns": source.modified_ns,
                    "first_ordinal": task.first_ordinal,
                    "is_count": task.is_count,
                    "is_print": task.is_print,
                    "is_look": task.is_look,
                    "has_print": task.has_print,
                    "is_facts": task.is_facts,
                    "rewording": None if task.rewording is None else pack_rewording(task.rewording),
                },
            )
            while True:
                began = time.monotonic()
                try:
                    with watch.within(min(deadline_s, max(allowed_s - worked_s, 0.01))):
                        header, body = read_message(self._stdout)
                finally:
                    worked_s += time.monotonic() - began
                match header["type"]:
                    case "progress":
                        continue
                    case "draft":
                        draft = unpack_draft(header, body, source)
                        next_ordinal = draft.ordinal + 1
                        put(Event("draft", task, draft=draft, seconds=header["seconds"]))
                    case "failed":
                        self.is_spent = header["rss"] > RECYCLE_BYTES
                        error = _error(header["error"], source.path, header["reason"])
                        return _Outcome(Event("failed", task, error=error, seconds=header["seconds"]))
                    case "done":
                        self.is_spent = header["rss"] > RECYCLE_BYTES
                        expected, facts = header["expected"], header["facts"]
                        return _Outcome(
                            Event(
                                "done",
                                task,
                                notes=header["notes"],
                                expected=None
                                if expected is None
                                else (expected[0], int(expected[1]), float(expected[2])),
                                seconds=header["seconds"],
                                facts=None if facts is None else Facts(tuple(map(dict, facts[0])), bool(facts[1])),
                            )
                        )
                    case other:
                        raise ValueError(f"message of type {other!r}")
        except (EOFError, BrokenPipeError, ValueError, KeyError, TypeError, IndexError, ArithmeticError):
            self.is_spent = True
            if watch.has_expired:
                if worked_s < allowed_s:
                    reason = f"decoding made no progress for {deadline_s:.0f} s and was stopped"
                else:
                    reason = (
                        f"decoding took more than {allowed_s:.0f} s in all and was stopped (setting decode_timeout_s)"
                    )
                error = DecodeTimeout(source.path, reason)
                return _Outcome(Event("failed", task, error=error, seconds=worked_s))
            return _Outcome(died=self._last_words(source.path), next_ordinal=next_ordinal, seconds=worked_s)

    def _last_words(self, path: Path) -> SourceError:
        """What the worker died of, as far as its exit status tells."""
        if not self._has_ended(within_s=2.0):
            self.kill()
            return CorruptFile(path, "the decoder sent nonsense and was stopped")
        self._kill_group()
        status = self._process.wait()
        if status == -signal.SIGKILL:  # the system's last resort
            return FileTooLarge(path, "decoding needs more memory than allowed")
        if status < 0:
            return CorruptFile(path, f"the decoder died (signal {-status})")
        return CorruptFile(path, f"the decoder died (exit status {status})")

    def _has_ended(self, within_s: float) -> bool:
        """Whether it ends in time. It is not reaped: its number stays its own, and that of its group."""
        if not hasattr(os, "waitid"):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=within_s)
            return self._process.returncode is not None
        until = time.monotonic() + within_s
        with contextlib.suppress(ChildProcessError):  # another thread has closed the pool
            while os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                if time.monotonic() > until:
                    return False
                time.sleep(0.01)
        return True

    def _kill_group(self) -> None:
        """Kill the process and what it started: a child of its own would hold the pipe open, and outlive it."""
        if self._process.returncode is not None:
            return
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says so of zombies
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()

    def kill(self) -> None:
        self._kill_group()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()


_WAY_OUT = "close other programs, or decode with fewer of them (`--jobs 1`), and run the same command again"


class _Watch:
    """Calls `kill` when a time limit is exceeded; the reader of the killed process's pipe then meets the end of the stream."""

    def __init__(self, kill: Callable[[], None]) -> None:
        self._kill = kill
        self.has_expired = False

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        timer = threading.Timer(seconds, self._expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _expire(self) -> None:
        self.has_expired = True
        self._kill()


def _environment() -> dict[str, str]:
    """The parent's, with its import path, and without more threads than a worker needs."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_THREAD_LIMIT": "1",  # Tesseract's own; with more it is slower
        "PYTHONWARNINGS": "ignore",
    }


ERROR_TYPES: Mapping[str, type[SourceError]] = {
    name: value
    for name, value in vars(mmsearch.errors).items()
    if isinstance(value, type) and issubclass(value, SourceError)
}


def _error(name: str, path: Path, reason: str) -> SourceError:
    return ERROR_TYPES.get(name, CorruptFile)(path, str(reason))
