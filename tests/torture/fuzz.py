"""Real files of every type, damaged at random, through the real readers in the real worker processes.

An input may give items or a SourceError; a worker may die of it or be stopped at the deadline, if that ends in an error
row. Nothing else: no exception in the parent, no silence past the deadline, no process or file handle left over, memory bounded.
One input in `AS_QUERY` is a picture to search with, too, decoded as `mmsearch query --image` has it decoded.

Input `n` of a seed is the same damage to the same original every time; a few originals hold an id or the time of their making. To
look at one again:

    make torture TORTURE="--only fuzz --seed 0 --first 4711 --fuzz 1 --keep DIR"

reads input 4711 alone and leaves it in DIR, where `mmsearch ingest DIR` reads it too. A whole run with `--keep` leaves the very bytes of all
of which there is something to tell.
"""

from __future__ import annotations

import random
import re
import shutil
import struct
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ingest.decode import Event, Limits, Task
from ingest.decode.pool import WorkerPool
from ingest.scan import hash_file
from mmsearch.errors import SourceError
from mmsearch.media import isolated as sandbox
from tests import poison, samples
from tests.demo.documents import DOCUMENTS, write_document
from tests.demo.pictures import PICTURES, write_picture

BUDGET = {"page": 200_704, "image": 50_176, "clip": 12_544}
LIMITS = Limits(deadline_s=20.0, memory_bytes=2 << 30)
SLACK_S = 20.0
"""What a busy machine may add to a deadline: a new worker takes seconds to start there."""
BATCH = 200
LOOK_EVERY_S = 0.2
HANDLES_OVER = 10
"""A worker may hold so many more file handles than after its first file; one that leaks them holds more soon."""
AS_QUERY = 40
"""A child process of its own for each: a hundred times the price."""
MEMORY_OVER_BYTES = 300 << 20
"""What the parent may grow by."""


# ---------------------------------------------------------------- inputs


def write_originals(folder: Path) -> list[Path]:
    """Small good files of every type that a reader takes, several of the complicated ones."""
    film = {"picture": samples.numbered, "times_ms": range(0, 1200, 60)}
    made = [
        samples.pdf(folder / "packed.pdf", ["Revenue grew", "", "The end"], deflate=True),
        poison.one_page(folder / "plain.pdf"),
        poison.circular_form(folder / "form.pdf"),
        poison.image_bomb(folder / "image.pdf", 100),
        poison.acting_pdf(folder / "acting.pdf"),
        samples.epub(folder / "a.epub"),
        samples.cbz(folder / "a.cbz"),
        samples.xps(folder / "a.xps"),
        samples.svg(folder / "a.svg"),
        *(samples.prose(folder / f"a{suffix}") for suffix in (".txt", ".md")),
        samples.camera_photo(folder / "a.jpg"),
        samples.animation(folder / "a.gif", [samples.RED, samples.GREEN, samples.BLUE]),
        samples.animation(folder / "moving.webp", [samples.RED, samples.GREEN, samples.BLUE]),
        samples.animation(folder / "moving.png", [samples.RED, samples.GREEN, samples.BLUE]),
        poison.float_tiff(folder / "float.tiff"),
        poison.circular_tiff(folder / "two.tiff"),
        poison.deep_colour_png(folder / "deep.png"),
        *(
            poison.picture(folder / f"noise.{suffix}")
            for suffix in ("jpg", "png", "webp", "bmp", "jp2", "heic", "avif")
        ),
        *(samples.video(folder / f"a.{suffix}", **film) for suffix in ("mp4", "mkv", "mov", "ts", "flv")),
        *(samples.film(folder / f"film.{suffix}", codec, seconds=1.0) for suffix, codec in poison.FILMS.items()),
        samples.film(folder / "film.3gp", "h263", seconds=1.0),
        samples.video(folder / "turned.mp4", **film, rotation=90),
        samples.scenes(folder / "scenes.mp4", [2.0, 2.0], fps=10),
    ]
    for name in ("household/2025-0317.pdf", next(iter(DOCUMENTS))):
        made.append(folder / Path(name).name)
        write_document(DOCUMENTS[name], made[-1])
    made.append(folder / "beach.jpg")
    write_picture(PICTURES[0], made[-1])
    return made


def draw_of(seed: int, number: int) -> random.Random:
    return random.Random(f"{seed}-{number}")


Mutation = Callable[[bytearray, random.Random], object]


def flip_bits(data: bytearray, draw: random.Random) -> None:
    for _ in range(2 ** draw.randrange(7)):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def flip_early_bits(data: bytearray, draw: random.Random) -> None:
    """Headers lie at the beginning."""
    for _ in range(draw.randrange(1, 5)):
        data[draw.randrange(min(len(data), 200))] ^= 1 << draw.randrange(8)


def swap_blocks(data: bytearray, draw: random.Random) -> None:
    size = draw.randrange(1, max(2, len(data) // 4))
    a, b = draw.randrange(len(data)), draw.randrange(len(data))
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


def cut(data: bytearray, draw: random.Random) -> None:
    del data[draw.randrange(1, len(data) + 1) :]


def drop_block(data: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(data))
    del data[at : at + draw.randrange(1, max(2, len(data) // 8))]


def insert_noise(data: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(data))
    data[at:at] = draw.randbytes(2 ** draw.randrange(11))


def repeat_block(data: bytearray, draw: random.Random) -> None:
    at, size = draw.randrange(len(data)), 2 ** draw.randrange(11)
    data[at:at] = data[at : at + size] * draw.choice((1, 2, 30))


def blank_block(data: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(data))
    end = min(len(data), at + 2 ** draw.randrange(12))
    data[at:end] = bytes([draw.choice((0, 255))]) * (end - at)


def set_length(data: bytearray, draw: random.Random) -> None:
    """Something that may be a length, an offset or a count becomes an extreme."""
    kind = draw.choice((">I", "<I", ">H", "<H", ">Q", "<Q"))
    top = (1 << 8 * struct.calcsize(kind)) - 1
    value = draw.choice((0, 1, 2, top, top - 1, top >> 1, (top >> 1) + 1, len(data), len(data) - 1)) & top
    at = draw.randrange(max(1, len(data) - 8))
    data[at : at + struct.calcsize(kind)] = struct.pack(kind, value)


def set_number(data: bytearray, draw: random.Random) -> None:
    """The same in formats of words: a decimal number becomes an extreme."""
    numbers = list(re.finditer(rb"\d+", data))
    if not numbers:
        return set_length(data, draw)
    chosen = draw.choice(numbers)
    extremes = (b"0", b"-1", b"1", b"99999999999", b"2147483648", b"1e38", b"0.00000001", b"nan", b"4 0 R")
    data[chosen.start() : chosen.end()] = draw.choice(extremes)
    return None


MUTATIONS: Sequence[Mutation] = (
    flip_bits, flip_early_bits, swap_blocks, cut, drop_block, insert_noise, repeat_block, blank_block, set_length, set_number,
)  # fmt: skip


def mutant(content: bytes, draw: random.Random) -> bytes:
    """`content` with one to three kinds of damage; half of the PNGs get checksums that fit, or nothing would look further."""
    data = bytearray(content)
    for mutate in draw.choices(MUTATIONS, k=draw.randrange(1, 4)):
        mutate(data, draw)
        if not data:
            data += b"\0"
    if content[:4] == b"\x89PNG" and draw.random() < 0.5:
        mend_checksums(data)
    return bytes(data)


def mend_checksums(data: bytearray) -> None:
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        end = at + 8 + length
        if end + 4 > len(data):
            return
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4


# ---------------------------------------------------------------- the run


@dataclass
class Tally:
    """What became of the inputs.

    Attributes:
        read: gave items and no error. refused: error types. died, stopped, unnamed: of those, by what ended them: the worker's death,
            the deadline, an exception that a reader did not expect; each with the input's number and name.
        worker_bytes: the largest resident memory of a worker that was seen. parent_bytes: what this process grew by.
        problems: everything that must not be. as_query: how many were decoded as pictures to search with.
    """

    inputs: int = 0
    as_query: int = 0
    seconds: float = 0.0
    read: int = 0
    items: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    died: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    workers: int = 0
    worker_bytes: int = 0
    worker_handles: int = 0
    parent_bytes: int = 0
    longest_s: float = 0.0
    problems: list[str] = field(default_factory=list)


def fuzz(
    count: int,
    *,
    seed: int = 0,
    jobs: int = 1,
    first: int = 0,
    keep: Path | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> Tally:
    """Read `count` damaged files, from input number `first` on; those of which there is something to tell go to folder `keep`."""
    tally, me = Tally(), psutil.Process()
    with tempfile.TemporaryDirectory(prefix="mmsearch-fuzz-") as folder:
        originals = write_originals(Path(folder))
        contents = {path: path.read_bytes() for path in originals}
        handles, children, memory = me.num_fds(), set(me.children(recursive=True)), me.memory_info().rss
        watch = _Workers(tally)
        began = time.monotonic()
        with WorkerPool(BUDGET, jobs=jobs, limits=LIMITS) as pool:
            for start in range(first, first + count, BATCH):
                paths = {}
                for number in range(start, min(start + BATCH, first + count)):
                    draw = draw_of(seed, number)
                    original = draw.choice(originals)
                    paths[number] = Path(folder) / f"input-{number}{original.suffix}"
                    paths[number].write_bytes(mutant(contents[original], draw))
                _read(pool, paths, tally, watch)
                for number, path in paths.items():
                    if count == 1 or number % AS_QUERY == 0:
                        _ask(number, path, tally)
                    told = (*tally.problems, *tally.died, *tally.stopped, *tally.unnamed)
                    if keep is not None and (count == 1 or any(re.match(rf"{number}\b", one) for one in told)):
                        keep.mkdir(parents=True, exist_ok=True)
                        shutil.copy(path, keep / path.name)
                    path.unlink()
                say(f"{tally.inputs:,} of {count:,} inputs, {len(tally.problems)} problems")
        tally.seconds = time.monotonic() - began
        tally.parent_bytes = max(0, me.memory_info().rss - memory)
        if tally.parent_bytes > MEMORY_OVER_BYTES:
            tally.problems.append(f"this process grew by {tally.parent_bytes >> 20} MB")
        if me.num_fds() > handles:
            tally.problems.append(f"{me.num_fds() - handles} file handles are left over")
        if left := set(me.children(recursive=True)) - children:
            tally.problems.append(f"processes are left over: {left}")
    tally.workers = len(watch.handles)
    return tally


def _read(pool: WorkerPool, paths: dict[int, Path], tally: Tally, watch: _Workers) -> None:
    tasks = []
    for number, path in paths.items():
        source = hash_file(path)
        assert source is not None
        tasks.append(Task(number, source))
    items: Counter[int] = Counter()
    ended: set[int] = set()
    last = time.monotonic()
    for event in pool.read(tasks, tick_s=1.0):
        now = time.monotonic()
        if event is None:
            if now - last > LIMITS.deadline_s + SLACK_S:
                tally.problems.append(
                    f"nothing came for {now - last:.0f} s; open: {sorted(set(paths) - ended)[: pool.jobs]}"
                )
                last = now
            continue
        last = now
        watch.look()
        number = event.task.key
        if event.type == "draft":
            items[number] += 1
            continue
        if number in ended:
            tally.problems.append(f"{number} ended twice")
        ended.add(number)
        _note(event, paths[number].suffix, items[number], tally)
    if missing := set(paths) - ended:
        tally.problems.append(f"no word of {sorted(missing)}")


def _ask(number: int, path: Path, tally: Tally) -> None:
    """Decode it as a picture to search with."""
    tally.as_query += 1
    try:
        sandbox.query_image(path, max_pixels=BUDGET["image"])
    except SourceError as error:
        if "decoder died" in error.reason:
            tally.died.append(f"{number}{path.suffix} as a query: {error.reason}")
    except Exception as error:
        tally.problems.append(f"{number}{path.suffix} as a query: {type(error).__name__}: {error}")


def _note(event: Event, suffix: str, items: int, tally: Tally) -> None:
    tally.inputs += 1
    tally.items += items
    tally.longest_s = max(tally.longest_s, event.seconds)
    if event.error is None:
        tally.read += 1
        return
    kind, reason, name = type(event.error).__name__, event.error.reason, f"{event.task.key}{suffix}"
    tally.refused[kind] += 1
    if kind == "DecodeTimeout":
        tally.stopped.append(f"{name}: {reason}")
    elif "decoder died" in reason:
        tally.died.append(f"{name}: {reason}")
    elif "decoder failed" in reason:
        tally.unnamed.append(f"{name}: {reason}")
    elif "nonsense" in reason:  # the fault of our own protocol
        tally.problems.append(f"{name}: {reason}")
    if str(event.task.source.path) in reason:
        tally.problems.append(f"{name}: the path stands in the reason ({reason})")


class _Workers:
    """Looks at the worker processes once in a while: their handles and their memory."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.handles: dict[int, int] = {}
        self.told: set[int] = set()
        self.looked = 0.0

    def look(self) -> None:
        if time.monotonic() - self.looked < LOOK_EVERY_S:
            return
        self.looked = time.monotonic()
        for child in psutil.Process().children():
            try:
                if "ingest.decode.child" not in child.cmdline():
                    continue
                handles, memory = child.num_fds(), child.memory_info().rss
            except psutil.Error:
                continue
            at_first = self.handles.setdefault(child.pid, handles)
            self.tally.worker_handles = max(self.tally.worker_handles, handles)
            self.tally.worker_bytes = max(self.tally.worker_bytes, memory)
            if handles > at_first + HANDLES_OVER and child.pid not in self.told:
                self.told.add(child.pid)
                self.tally.problems.append(f"a worker holds {handles} file handles, {at_first} at first")
            if memory > LIMITS.memory_bytes:
                self.tally.problems.append(f"a worker holds {memory >> 20} MB")


def summary(tally: Tally) -> dict[str, object]:
    """For the table in SECURITY.md."""
    return {
        "inputs": tally.inputs,
        "of them as pictures to search with, too": tally.as_query,
        "seconds": round(tally.seconds),
        "inputs per second": round(tally.inputs / max(tally.seconds, 1e-9), 1),
        "read": tally.read,
        "refused": dict(sorted(tally.refused.items())),
        "killed a worker": len(tally.died),
        "stopped at the deadline": len(tally.stopped),
        "unexpected exceptions in a reader": len(tally.unnamed),
        "longest seconds": round(tally.longest_s, 1),
        "largest worker MB": tally.worker_bytes >> 20,
        "problems": len(tally.problems),
    }
