"""The process that decodes: `python -m ingest.decode.child`, with pipes to `ingest.decode.pool` for stdin and stdout.

It loads no model. It has a memory limit, and ends with its pipes, so with its parent.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from ingest import readers
from ingest.decode.messages import pack_draft, read_message, unpack_rewording, write_message
from mmsearch.errors import SourceError
from mmsearch.items import KINDS, ItemDraft, Source
from mmsearch.media import isolated as sandbox
from mmsearch.media.ocr import Reader, Terms

PROGRESS_INTERVAL_S = 0.5


def main() -> None:
    """Serve tasks from stdin until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    stdin, stdout = sys.stdin.buffer, os.fdopen(os.dup(1), "wb", buffering=1 << 20)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # decoders print: neither into the protocol nor onto the user's terminal
    os.dup2(nowhere, 2)
    try:
        terms, _ = read_message(stdin)
    except EOFError:
        return
    sandbox.die_with(terms["parent"])
    # Importing is no part of any file's deadline. Workers that read print meet no videos.
    readers.load_decoders(KINDS if terms["ocr"] is None else ("page", "image"))
    sandbox.limit_memory(terms["memory_bytes"])
    write_message(stdout, {"type": "ready"})
    while True:
        try:
            task, _ = read_message(stdin)
        except EOFError:
            return
        try:
            _do(task, terms, stdout)
        except BrokenPipeError:
            os._exit(0)  # the parent is gone


def _do(task: Mapping[str, Any], terms: Mapping[str, Any], stdout: IO[bytes]) -> None:
    from ingest import printed

    source = Source(Path(task["path"]), task["sha256"], task["size_bytes"], task["modified_ns"])
    clock = _Clock(stdout)
    reading = readers.Reading(
        budget=terms["budget"],
        max_image_pixels=terms["max_image_pixels"],
        max_pages=terms["max_pages"],
        first_ordinal=task["first_ordinal"],
        on_progress=clock.progress,
    )
    expected = facts = None
    answer: dict[str, Any]
    try:
        if task["is_count"]:
            expected = readers.count_items(source.path)
        elif task["is_facts"]:
            facts = readers.read_facts(source.path)
        elif task["is_look"]:
            reading.notes["described"] += readers.is_described(source.path)
        elif task["is_print"]:
            read = printed.read_print(
                source, task["first_ordinal"], _reader(terms), reading, is_known=task["has_print"]
            )
            if read is not None:
                clock.send_draft(read)
        elif task["rewording"] is not None:
            for draft in readers.read_words(source, reading, unpack_rewording(task["rewording"])):
                clock.send_draft(draft)
        else:
            for draft in readers.read_items(source, reading.budget, reading=reading):
                clock.send_draft(draft)
        answer = {"type": "done", "notes": dict(reading.notes), "expected": expected}
        answer["facts"] = None if facts is None else [list(map(dict, facts.metas)), facts.is_redrawn]
    except SourceError as error:
        answer = {"type": "failed", "error": type(error).__name__, "reason": error.reason}
    except BrokenPipeError:
        raise
    except MemoryError:
        answer = {"type": "failed", "error": "FileTooLarge", "reason": "decoding needs more memory than allowed"}
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        answer = {"type": "failed", "error": "CorruptFile", "reason": reason}
    except Exception as error:  # a decoder's own way of saying that the file is bad
        reason = f"the decoder failed ({type(error).__name__}: {str(error)[:300]})"
        answer = {"type": "failed", "error": "CorruptFile", "reason": reason}
    write_message(stdout, {**answer, "seconds": clock.worked_s(), "rss": _resident_bytes()})


_READERS: list[Reader] = []


def _reader(terms: Mapping[str, Any]) -> Reader:
    """The worker's own, with its engines: loading them takes a second, so they are kept from task to task."""
    if not _READERS:
        _READERS.append(Reader(Terms.of_record(terms["ocr"])))
    return _READERS[0]


class _Clock:
    """Measures the worker's own time, without the time in which the parent does not take its messages."""

    def __init__(self, stdout: IO[bytes]) -> None:
        self._stdout = stdout
        self._began = time.monotonic()
        self._waited_s = 0.0
        self._last_message = self._began

    def worked_s(self) -> float:
        return time.monotonic() - self._began - self._waited_s

    def send_draft(self, draft: ItemDraft) -> None:
        header, body = pack_draft(draft, self.worked_s())
        self._send(header, body)

    def progress(self) -> None:
        if time.monotonic() - self._last_message >= PROGRESS_INTERVAL_S:
            self._send({"type": "progress"})

    def _send(self, header: Mapping[str, Any], body: Iterable[bytes] = ()) -> None:
        began = time.monotonic()
        write_message(self._stdout, header, body)
        self._last_message = time.monotonic()
        self._waited_s += self._last_message - began


def _resident_bytes() -> int:
    """Memory in use now, or 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as handle:  # noqa: PTH123
            return int(handle.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


if __name__ == "__main__":
    main()
