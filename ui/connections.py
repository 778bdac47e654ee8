"""Connections to the page's server, below HTTP: who asks for nothing is not waited for, and cannot keep others out.

uvicorn has no time-out for a request's headers and no limit that closes idle connections; its protocol class is the place for both.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import threading
import time
from typing import Any

from uvicorn import config
from uvicorn.protocols.http.h11_impl import H11Protocol

from ui import gate

log = logging.getLogger(__name__)

HEADER_S = 10.0
"""A connection is given so long to send the headers of a request, and to send the next one."""
CONNECTIONS_AT_MOST = 512
OPEN_FILES = 4096
"""As many are asked of the system; connections take half of what it grants."""
REPEAT_S = 60.0
LIFELINE_VARIABLE = "MMSEARCH_UI_LIFELINE"
"""The number of a pipe's reading end. Its other end is held by `mmsearch ui`, and closes with it however that ends."""
ENDING_S = 5.0


class Connection(H11Protocol):
    """uvicorn's protocol with a time-out for headers, under a limit on the number of connections.

    h11 reads one request at a time; httptools would parse all that a client sends ahead, and keep them in memory.
    """

    limit = CONNECTIONS_AT_MOST

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._made = self._since = time.monotonic()
        self._deadline: asyncio.TimerHandle | None = None
        self._expect_request()
        if len(self.connections) > self.limit:
            log.warning(
                "more than %d connections at once: those that keep us waiting, then the oldest, are closed", self.limit
            )
            others = [one for one in self.connections if isinstance(one, Connection) and one is not self]
            idle = [one for one in others if one.is_idle]
            min(idle or others, key=lambda one: one._since if idle else one._made, default=self).drop()

    def data_received(self, data: bytes) -> None:
        former = self.cycle
        super().data_received(data)
        if self.cycle is not former or self.transport.get_protocol() is not self:  # a request, or a websocket
            self._since = time.monotonic()
            self._cancel_deadline()
        elif not self.is_asking:
            self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        super().connection_lost(exc)

    @property
    def is_asking(self) -> bool:
        """Whether a request has come and is not answered yet."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def is_idle(self) -> bool:
        """Whether it is the other side's turn: to ask, to send the rest of a request, or to read its answer."""
        return not self.is_asking or bool(self.cycle.more_body) or bool(self.flow.write_paused)

    def drop(self) -> None:
        """Close at once; what the other side did not read is lost."""
        self.connections.discard(self)
        self.transport.abort()

    def _expect_request(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_S, self._expire)

    def _expire(self) -> None:
        self._deadline = None
        if self.transport.get_protocol() is self and not self.is_asking:
            self.drop()

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class SaidOnce(logging.Filter):
    """Lets what anybody can cause through once in `REPEAT_S`: warnings, and asyncio's error that no file is left to open."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        key = str(record.msg)[:40]
        if record.levelno >= logging.ERROR:
            if not key.startswith("socket.accept()"):
                return True
            record.msg, record.exc_info = "no file is left to open: new connections wait", None
        if now - self._said.get(key, float("-inf")) < REPEAT_S:
            return False
        self._said[key] = now
        return True


def guard_connections() -> None:
    """Have this process' server use `Connection`; call it before the server is made."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES:
        wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    Connection.limit = min(CONNECTIONS_AT_MOST, soft // 2)
    gate.Gate.room = min(
        gate.SESSIONS_AT_MOST, soft // 8
    )  # Streamlit opens three files for each, beside its connection
    config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{Connection.__name__}"
    for logger in (log, gate.log, logging.getLogger("uvicorn.error"), logging.getLogger("asyncio")):
        logger.addFilter(SaidOnce())


def end_with_parent() -> None:
    """End this process when `mmsearch ui` ends, killed or not; nothing where it was started by hand."""
    number: Any = os.environ.pop(LIFELINE_VARIABLE, None)
    if number is None:
        return
    lifeline = int(number)
    os.set_inheritable(lifeline, False)

    def wait() -> None:
        while os.read(lifeline, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ENDING_S)
        os._exit(1)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
