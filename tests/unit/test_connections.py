"""Below HTTP: connections that ask for nothing, and a server whose parent was killed. A real uvicorn before an app of three lines."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import uvicorn

from ui import connections
from ui.connections import Connection, SaidOnce

ROOT = Path(__file__).parents[2]
LATEST_S = 60.0


LARGE = b"hello" * 2_000_000
"""More than the system takes for a reader that does not read."""


async def hello(scope, receive, send) -> None:
    if scope["path"] == "/large":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": LARGE, "more_body": True})
        await send({"type": "http.response.body", "body": LARGE})
        return
    if scope["path"] == "/late":
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    while scope["method"] == "POST" and (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., socket.socket]]:
    """Opens a connection to a server that takes 10 of them, and sends something on it."""
    monkeypatch.setattr(Connection, "limit", 10)
    monkeypatch.setattr(connections, "HEADER_S", LATEST_S)
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    server = uvicorn.Server(uvicorn.Config(hello, http=Connection, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    with ExitStack() as opened:

        def connected(sent: bytes = b"") -> socket.socket:
            connection = opened.enter_context(socket.create_connection(listening.getsockname(), timeout=LATEST_S))
            connection.sendall(sent)
            return connection

        yield connected
    server.should_exit = True
    thread.join()


REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def answers(connection: socket.socket) -> bool:
    received = b""
    while not received.endswith(b"hello"):
        if not (more := connection.recv(4096)):
            return False
        received += more
    return received.startswith(b"HTTP/1.1 200")


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_request_is_answered_and_another_one_after_it(connect):
    connection = connect(REQUEST)
    assert answers(connection)
    connection.sendall(REQUEST)
    assert answers(connection)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET /"], ids=["nothing", "no end", "a line"])
def test_a_header_is_not_waited_for(connect, monkeypatch, sent: bytes):
    monkeypatch.setattr(connections, "HEADER_S", 0.1)
    assert is_closed(connect(sent))


def test_the_next_request_may_not_dribble_either(connect, monkeypatch):
    connection = connect(REQUEST)
    assert answers(connection)
    monkeypatch.setattr(connections, "HEADER_S", 0.1)
    connection.sendall(b"GET / HTTP")
    assert is_closed(connection)


def test_connections_that_ask_for_nothing_make_room_for_those_that_ask(connect, caplog):
    silent = [connect() for _ in range(40)]
    assert answers(connect(REQUEST))
    for connection in silent[:25]:
        assert is_closed(connection)  # the oldest first
    assert answers(connect(REQUEST))
    assert any("more than 10 connections at once" in message for message in caplog.messages)


@pytest.mark.parametrize(
    "sent",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
        b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["half a body", "half a chunked body", "an answer that is not read"],
)
def test_requests_that_wait_for_their_sender_make_room(connect, sent: bytes):
    held = [connect(sent) for _ in range(15)]
    time.sleep(0.5)  # the answers fill what the system holds for their readers
    assert answers(connect(REQUEST))
    del held


def test_requests_that_we_keep_waiting_make_room_too(connect):
    """A client that sends requests ahead, for ever, is always being answered."""
    held = [connect(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(15)]
    assert answers(connect(REQUEST))
    del held


def test_what_anybody_can_cause_is_logged_once(caplog, monkeypatch):
    log = logging.getLogger("tests.said_once")
    said = SaidOnce()
    log.addFilter(said)
    for number in range(1000):
        log.warning("wrong tokens are being tried, now from %s", f"10.0.0.{number}")
        log.error("socket.accept() out of system resource")
        log.error("a fault of ours, number %d", number)
    log.removeFilter(said)
    assert len(caplog.records) == 1002
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "wrong tokens are being tried, now from 10.0.0.0"
    ]


SERVER = "import time; from ui.connections import end_with_parent; end_with_parent(); print('up', flush=True); time.sleep(600)"


def test_a_server_ends_when_its_parent_is_killed():
    """As `mmsearch ui` starts it: the pipe's other end is nobody's but the parent's."""
    reading, writing = os.pipe()
    env = os.environ | {connections.LIFELINE_VARIABLE: str(reading), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-c", SERVER]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, pass_fds=[reading]) as server:
        os.close(reading)
        assert server.stdout is not None and server.stdout.readline() == b"up\n"
        time.sleep(0.2)
        assert server.poll() is None
        os.close(writing)  # what the kernel does for a process that is killed
        assert server.wait(timeout=LATEST_S) != 0
