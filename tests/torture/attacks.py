"""Attacks on the running page: connections that ask for nothing, a flood of guessed tokens, more sessions than it takes, and its death.
And films that name others, which a decoder that opens by path would fetch.

`make torture` runs them in full, tests/integration/test_attacks.py in small. Each returns what is wrong, one sentence each.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from websockets.exceptions import InvalidMessage, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

import mmsearch
from tests import samples

TOKEN = "correct horse battery staple"
ANSWER_S = 30.0
FILES = 256
"""Open files that the page is allowed: fewer than a crowd of connections needs, as 1,024 are for 1,100."""


class Page:
    """`mmsearch ui` over a library in `folder`, with a token. `errors` collects what it prints."""

    def __init__(self, folder: Path, *, files: int | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        env = os.environ | {"MMSEARCH_MODEL": "toy", "MMSEARCH_LIBRARY": str(folder), "MMSEARCH_TOKEN": TOKEN}
        command = [sys.executable, "-P", "-m", "mmsearch", "ui", "--no-browser", "--port", str(self.port)]
        if files is not None:
            command = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *command]
        self.process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert re.search(rf"http://\S+:{self.port}\b", line), line
        self.errors: list[str] = []
        self._collecting = threading.Thread(target=self._collect, daemon=True)
        self._collecting.start()

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)
        self._collecting.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _collect(self) -> None:
        assert self.process.stderr is not None
        self.errors.extend(self.process.stderr)

    def status(self, target: str = "/", *, timeout_s: float = ANSWER_S, **headers: str) -> int:
        """The status of an answer; 0 if none comes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request("GET", target, headers=headers)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def cookie(self) -> str:
        """What the right token is exchanged for."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_S)
        try:
            connection.request("GET", f"/?token={quote(TOKEN)}")
            return str(connection.getresponse().getheader("set-cookie")).partition(";")[0]
        finally:
            connection.close()

    def send(self, sent: bytes = b"") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=ANSWER_S)
        connection.sendall(sent)
        return connection

    def session(self, cookie: str) -> connect:
        """A websocket as a window of a browser has it; a context manager, which raises where it is refused."""
        own = f"127.0.0.1:{self.port}"
        return connect(
            f"ws://{own}/_stcore/stream",
            origin=Origin(f"http://{own}"),
            additional_headers={"Cookie": cookie},
            open_timeout=ANSWER_S,
        )


def half_open(page: Page, count: int) -> list[str]:
    """So many connections that send nothing, or half a request; the page still asks for its token, and says it in a line."""
    problems: list[str] = []
    before = len(page.errors)
    with ExitStack() as held:
        for n in range(count):
            with suppress(OSError):
                held.callback(page.send(b"GET / HTTP/1.1\r\nHost: x" if n % 2 else b"").close)
        status = next((status for _ in range(20) if (status := page.status(timeout_s=5)) == 401), 0)
        if status != 401:  # the form that asks for the token
            problems.append(f"{count} half-open connections: the page does not answer")
    lines = page.errors[before:]
    if len(lines) > 5:
        problems.append(f"{count} half-open connections: {len(lines)} lines in the log: {' / '.join(lines[:8])}")
    return problems


NEVER_READ = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 40_000
NEVER_ENDS = b"POST /token HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\ntoken="


def half_asked(page: Page, count: int) -> list[str]:
    """So many connections that do not read their answers, or do not end their request; the page still asks for its token."""
    problems: list[str] = []
    for name, sent in {"without a reader": NEVER_READ, "without an end": NEVER_ENDS}.items():
        with ExitStack() as held:
            for _ in range(count):
                with suppress(OSError):
                    connection = held.enter_context(page.send())
                    connection.setblocking(False)
                    connection.send(sent)
            if not _comes_true(lambda: page.status(timeout_s=5) == 401):
                problems.append(f"{count} requests {name}: the page does not answer")
    return problems


def slow_header(page: Page, limit_s: float) -> list[str]:
    """A request that never ends is cut off, however it dribbles."""
    with page.send(b"GET / HTTP/1.1\r\nHost: x\r\n") as connection:
        connection.settimeout(0.5)
        began = time.monotonic()
        while time.monotonic() - began < 3 * limit_s:
            try:
                connection.sendall(b"X-A: b\r\n")
                if connection.recv(1) == b"":
                    return []
            except TimeoutError:
                continue
            except OSError:
                return []
    return [f"a header of {3 * limit_s:.0f} s is still waited for"]


def guessed_tokens(page: Page, guessers: int, seconds: float) -> list[str]:
    """While many guess, whoever has the token is let in at once."""
    stop = threading.Event()
    let_in: list[int] = []

    def guess(number: int) -> None:
        n = 0
        while not stop.is_set():
            n += 1
            if page.status(f"/?token=guess-{number}-{n}") == 303:
                let_in.append(number)

    guessing = [threading.Thread(target=guess, args=(number,), daemon=True) for number in range(guessers)]
    for thread in guessing:
        thread.start()
    until = time.monotonic() + seconds
    statuses: list[int] = []
    while not statuses or time.monotonic() < until:
        statuses.append(page.status(f"/?token={quote(TOKEN)}"))
    stop.set()
    for thread in guessing:
        thread.join()
    problems = [] if set(statuses) == {303} else [f"the right token among {guessers} guessers: {sorted(set(statuses))}"]
    return problems + [f"{len(let_in)} guesses were let in"] * bool(let_in)


def crowded(page: Page, count: int) -> list[str]:
    """So many windows at once: each has its session, or is told that the page is full; and one finds room when they are gone."""
    cookie = page.cookie()
    accepted = 0
    with ExitStack() as held:
        for _ in range(count):
            with suppress(InvalidStatus, InvalidMessage, OSError):
                held.enter_context(page.session(cookie))
                accepted += 1
        status = page.status(Cookie=cookie)
    problems = [] if accepted else [f"{count} sessions: none was accepted"]
    if status != (503 if accepted < count else 200):
        problems.append(f"{accepted} sessions of {count}: the page answers {status}")
    if not _comes_true(lambda: page.status(Cookie=cookie) == 200):
        problems.append("the page is full, though all sessions have ended")
    return problems


def killed(page: Page) -> list[str]:
    """`kill -9` of `mmsearch ui` ends its server, too. The page is gone after that."""
    page.process.send_signal(signal.SIGKILL)
    page.process.wait()
    if _comes_true(lambda: page.status(timeout_s=1) == 0):
        return []
    return ["the server has outlived `mmsearch ui`"]


LURES: dict[str, str] = {
    "concat.mp4": "ffconcat version 1.0\nfile {film}\n",
    "concat.mkv": "ffconcat version 1.0\nfile '{film}'\n",
    "hls.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{film}\n#EXT-X-ENDLIST\n",
    "hls.mov": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{url}/film.ts\n#EXT-X-ENDLIST\n",
    "dash.webm": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"'
    ' type="static"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{url}/film.mp4</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>\n",
    "sdp.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "sdp as ftyp.mp4": "aaaaftypjp2 \nv=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "dash as ftyp.mp4": "aaaaftypisom\n<MPD profiles='urn:mpeg:dash:profile:isoff-on-demand:2011'><BaseURL>{url}/film.mp4</BaseURL></MPD>\n",
    "smil.mp4": '<smil><body><video src="{url}/film.mp4"/></body></smil>\n',
}
"""Texts that FFmpeg has demuxers for, or had, under names of films."""
CONTAINERS = {
    "film.mp4": True,
    "film.mov": True,
    "film.mkv": True,
    "film.ts": False,
    "film.avi": False,
    "film.flv": False,
}
"""Films, and whether decord gets them."""


def lured(folder: Path) -> list[str]:
    """Films that name a film beside them or an address: nobody follows, and decord is given MP4 and Matroska only."""
    import av  # noqa: F401  (before decord, as in `mmsearch.media`)

    try:
        import decord
    except ImportError:
        return []
    from mmsearch import media
    from mmsearch.errors import SourceError

    problems: list[str] = []
    given: list[Path] = []
    reader = decord.VideoReader

    def noted(path: str, **options: Any) -> Any:
        given.append(Path(path))
        return reader(path, **options)

    for name in CONTAINERS:
        samples.film(folder / name, "libx264")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        named = {"film": folder / "film.ts", "url": f"http://127.0.0.1:{server.getsockname()[1]}"}
        for name, text in LURES.items():
            (folder / name).write_text(text.format(**named))
        try:
            decord.VideoReader = noted
            for name in (*LURES, *CONTAINERS):
                frames = []
                with suppress(SourceError):
                    frames = media.sample_frames(folder / name, [0.0])
                if bool(frames) is (name in LURES):
                    problems.append(f"{name}: {len(frames)} frames")
                if name in LURES and media._has_decord_signature(
                    folder / name
                ):  # it holds without what probes films before
                    problems.append(f"{name}: begins like what decord is given")
        finally:
            decord.VideoReader = reader
        with suppress(BlockingIOError):
            server.accept()[0].close()
            problems.append("an address that a film names was asked")
    expected = {name for name, is_given in CONTAINERS.items() if is_given}
    if {path.name for path in given} != expected:
        problems.append(f"decord was given {', '.join(sorted({path.name for path in given})) or 'nothing'}")
    for path in given:
        begin = path.read_bytes()[:8]
        if not ((begin[:1] == b"\0" and begin[4:] == b"ftyp") or begin[:4] == b"\x1aE\xdf\xa3"):
            problems.append(f"decord was given {path.name}, which begins {begin!r}")
    return problems


def _comes_true(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + ANSWER_S
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


@contextmanager
def running(folder: Path, *, files: int | None = None) -> Iterator[Page]:
    """The page over a library of one photo."""
    from ingest.pipeline import ingest_paths

    things = folder / "things"
    things.mkdir()
    samples.photo(things / "red.png", (255, 0, 0))
    with mmsearch.open(folder / "index_data", create=True, model="toy") as library:
        ingest_paths(library, [things])
    with Page(folder / "index_data", files=files) as page:
        yield page


def attack(folder: Path, *, say: Callable[[str], None]) -> dict[str, Any]:
    """All of it, one after another."""
    from ui.connections import HEADER_S

    films = folder / "films"
    films.mkdir()
    problems = lured(films)
    say(f"films that name others: {'; '.join(problems) or 'held'}")
    with running(folder, files=1024) as page:
        for name, attacking in {
            "1,100 half-open connections": lambda: half_open(page, 1100),
            "600 requests that wait for their sender": lambda: half_asked(page, 600),
            "a header without an end": lambda: slow_header(page, HEADER_S),
            "64 guess tokens for 10 s": lambda: guessed_tokens(page, 64, 10.0),
            "200 sessions": lambda: crowded(page, 200),
            "kill -9": lambda: killed(page),
        }.items():
            found = attacking()
            say(f"{name}: {'; '.join(found) or 'held'}")
            problems += found
    return {"attacks": 7, "lines in the log": len(page.errors), "problems": len(problems)}
