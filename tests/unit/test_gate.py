"""What passes the page's gate: driven as a server would, without one; and which addresses need a token."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from ui import gate
from ui.gate import Gate, host_name, is_local

ROOT = Path(__file__).parents[2]
TOKEN = "correct horse battery"
PAGE = "what is behind it"


async def the_page(scope, receive, send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-frame-options", b"ALLOWALL")]})
    await send({"type": "http.response.body", "body": PAGE.encode()})


class Answer:
    def __init__(self, messages: list[dict[str, Any]]) -> None:
        self.types = [message["type"] for message in messages]
        self.status = messages[0].get("status")
        self.headers = [(name.decode(), value.decode()) for name, value in messages[0].get("headers", [])]
        self.body = b"".join(message.get("body", b"") for message in messages).decode()

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


async def answer(to: Gate, target: str = "/", **given: Any) -> Answer:
    """The answer to a request; `headers` beside Host, `body` for a POST, `type` for a websocket."""
    path, _, query = target.partition("?")
    host = given.get("host", "127.0.0.1:8501")
    headers = [(b"host", host.encode())] if host is not None else []
    headers += [(name.encode(), value.encode("latin-1")) for name, value in given.get("headers", {}).items()]
    scope = {
        "type": given.get("type", "http"),
        "method": "POST" if "body" in given else "GET",
        "path": path,
        "query_string": query.encode(),
        "headers": headers,
        "server": ("127.0.0.1", 8501),
        "scheme": given.get("scheme", "http"),
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": given.get("body", "").encode(), "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await to(scope, receive, send)
    return Answer(sent)


def ask(to: Gate, target: str = "/", **given: Any) -> Answer:
    return asyncio.run(answer(to, target, **given))


@pytest.fixture
def open_gate() -> Gate:
    return Gate(the_page)


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> Gate:
    monkeypatch.setattr(gate, "WRONG_TOKEN_S", 0.0)
    return Gate(the_page, token=TOKEN)


# ---------------------------------------------------------------- host and origin


@pytest.mark.parametrize("host", ["127.0.0.1:8501", "localhost", "LocalHost.:80", "[::1]:8501", "192.168.1.7:8501"])
def test_the_page_answers_to_its_own_names(open_gate: Gate, host: str):
    assert ask(open_gate, host=host).body == PAGE


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "localhost/x", "", "localhost:x", None],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_name_that_was_pointed_here_is_refused(open_gate: Gate, host: str | None, kind: str):
    got = ask(open_gate, host=host, type=kind)
    assert (got.types, got.status) == (
        (["websocket.close"], None) if kind == "websocket" else (["http.response.start", "http.response.body"], 421)
    )
    assert PAGE not in got.body


def test_two_hosts_are_none(open_gate: Gate):
    assert ask(open_gate, headers={"Host": "evil.example"}).status == 421


@pytest.mark.parametrize(
    ("origin", "passes"),
    [
        ("http://127.0.0.1:8501", True),
        ("http://127.0.0.1:9999", False),
        ("https://evil.example", False),
        ("http://localhost:8501", False),
        ("null", False),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_another_site_may_not_use_the_page(open_gate: Gate, origin: str, passes: bool, kind: str):
    got = ask(open_gate, headers={"Origin": origin}, type=kind)
    assert (got.types[0] == "websocket.accept" if kind == "websocket" else got.status == 200) is passes


def test_every_answer_forbids_frames_and_foreign_addresses(open_gate: Gate, locked: Gate):
    for got in (ask(open_gate), ask(locked), ask(open_gate, host="evil.example")):
        assert [value for name, value in got.headers if name == "x-frame-options"] == ["DENY"]
        policy = str(got.header("content-security-policy"))
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "http" not in policy


def test_the_names_of_an_address():
    assert host_name("[::1]:8501") == "::1" and host_name("EXAMPLE.com.") == "example.com" and host_name("[::1") is None
    assert is_local("127.0.0.1") and is_local("127.8.8.8") and is_local("::1") and is_local("localhost")
    assert not is_local("0.0.0.0") and not is_local("::") and not is_local("192.168.1.7") and not is_local("mine.lan")
    assert (
        "mine.lan" in gate.names_of("Mine.lan")
        and ask(Gate(the_page, hosts=["mine.lan"]), host="mine.lan").body == PAGE
    )


# ---------------------------------------------------------------- the token


PLACES = ["/", "/_stcore/health", "/_stcore/host-config", "/media/abc.png", "/component/x/y.js", "/static/js/index.js"]


@pytest.mark.parametrize("place", PLACES)
def test_without_the_token_there_is_only_the_form(locked: Gate, place: str):
    got = ask(locked, place)
    assert got.status == 401 and PAGE not in got.body and "name=token" in got.body and got.header("set-cookie") is None


def test_without_the_token_there_is_no_websocket_and_no_upload(locked: Gate):
    assert ask(locked, "/_stcore/stream", type="websocket").types == ["websocket.close"]
    assert ask(locked, "/_stcore/upload_file/a/b", body="picture").status == 401


def passed(got: Answer) -> dict[str, str]:
    """The headers of a browser after an answer that let it in."""
    assert got.status == 303
    cookie = str(got.header("set-cookie"))
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and TOKEN not in cookie
    return {"Cookie": "theme=dark; " + cookie.partition(";")[0]}


def test_the_token_in_the_address_lets_in_and_is_taken_out_of_it(locked: Gate):
    got = ask(locked, f"/?q=a+b&token={TOKEN.replace(' ', '+')}")
    assert got.header("location") == "/?q=a+b" and got.header("referrer-policy") == "same-origin"
    for place in PLACES:
        assert ask(locked, place, headers=passed(got)).body == PAGE
    assert ask(locked, "/_stcore/stream", type="websocket", headers=passed(got)).types == ["websocket.accept"]


def test_the_token_in_the_form_lets_in(locked: Gate):
    got = ask(locked, gate.FORM_PATH, body="token=correct+horse+battery")
    assert got.header("location") == "/" and ask(locked, headers=passed(got)).body == PAGE
    assert "Secure" in str(
        ask(locked, gate.FORM_PATH, body="token=correct+horse+battery", scheme="https").header("set-cookie")
    )


@pytest.mark.parametrize("shown", ["", "correct horse batter", TOKEN + "x", TOKEN.upper(), "ü", "\x00"])
def test_another_token_does_not(locked: Gate, shown: str):
    from urllib.parse import urlencode

    written = urlencode({"token": shown})
    for got in (ask(locked, "/?" + written), ask(locked, gate.FORM_PATH, body=written)):
        assert got.status == 401 and got.header("set-cookie") is None and "not the token" in got.body


def test_a_cookie_of_another_start_or_port_does_not(locked: Gate):
    headers = passed(ask(locked, "/?token=correct+horse+battery"))
    assert ask(Gate(the_page, token=TOKEN), headers=headers).status == 401
    for forged in (
        "mmsearch-8501=",
        "mmsearch-8501=ü",
        "mmsearch-8502" + headers["Cookie"][24:],
        "[]=;;",
        "mmsearch-8501",
    ):
        assert ask(locked, headers={"Cookie": forged}).status == 401


def test_a_body_that_is_too_large_is_no_token(locked: Gate):
    assert ask(locked, gate.FORM_PATH, body="token=correct+horse+battery&x=" + "x" * gate.FORM_BYTES).status == 401


def test_another_site_cannot_even_try_a_token(locked: Gate):
    got = ask(locked, gate.FORM_PATH, body="token=correct+horse+battery", headers={"Origin": "https://evil.example"})
    assert got.status == 403 and got.header("set-cookie") is None


def test_wrong_tokens_are_answered_one_after_another(monkeypatch: pytest.MonkeyPatch):
    """Many connections guess no faster than one."""
    monkeypatch.setattr(gate, "WRONG_TOKEN_S", 0.05)
    locked = Gate(the_page, token=TOKEN)

    async def guess() -> list[Answer]:
        return await asyncio.gather(*(answer(locked, f"/?token=guess{n}") for n in range(gate.WAITING_AT_MOST + 3)))

    begun = time.monotonic()
    statuses = [got.status for got in asyncio.run(guess())]
    assert statuses.count(401) == gate.WAITING_AT_MOST and statuses.count(429) == 3
    assert time.monotonic() - begun >= 0.05 * gate.WAITING_AT_MOST
    assert ask(locked, "/?token=correct+horse+battery").status == 303


def test_the_right_token_is_let_in_at_once_while_others_guess(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gate, "WRONG_TOKEN_S", 3600.0)
    locked = Gate(the_page, token=TOKEN)

    async def among_guesses() -> int | None:
        guesses = [asyncio.create_task(answer(locked, f"/?token=guess{n}")) for n in range(gate.WAITING_AT_MOST + 3)]
        await asyncio.sleep(0)
        right = await asyncio.wait_for(answer(locked, "/?token=correct+horse+battery"), 60)
        for guess in guesses:
            guess.cancel()
        await asyncio.gather(*guesses, return_exceptions=True)
        return right.status

    assert asyncio.run(among_guesses()) == 303
    assert locked._guessing == {}


def test_a_token_that_is_sent_in_bits_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gate, "BODY_S", 0.01)
    monkeypatch.setattr(gate, "WRONG_TOKEN_S", 0.0)
    sent: list[Any] = []

    async def never() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1:8501")]
    scope = {"type": "http", "method": "POST", "path": gate.FORM_PATH, "query_string": b"", "headers": headers}
    asyncio.run(asyncio.wait_for(Gate(the_page, token=TOKEN)(scope, never, send), 60))
    assert sent[0]["status"] == 401


# ---------------------------------------------------------------- another site's link, and too many windows


LED = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize(
    ("target", "held"),
    [
        ("/?q=red+car&path=**/x", "/?q=red+car&path=%2A%2A%2Fx&held=1"),
        ("/?item=7&held=0", "/?item=7&held=1"),
        ("/?held=1&q=red", "/?q=red&held=1"),
        ("/?q=red&held=1&held=0", "/?q=red&held=1"),
        ("//evil.example/?q=red", "/?q=red&held=1"),
    ],
)
def test_a_link_on_another_site_fills_the_query_in_and_no_more(open_gate: Gate, site: str, target: str, held: str):
    got = ask(open_gate, target, headers=LED | {"Sec-Fetch-Site": site})
    assert (got.status, got.header("location")) == (303, held)
    assert ask(open_gate, held, headers=LED).body == PAGE  # the same browser, sent on


@pytest.mark.parametrize(
    "headers",
    [
        LED | {"Sec-Fetch-Site": "none"},
        LED | {"Sec-Fetch-Site": "same-origin"},
        {"Accept": "text/html", "Referer": "http://127.0.0.1:8501/?q=blue"},
        {"Accept": "*/*"},
    ],
    ids=["typed or bookmarked", "from the page", "from the page, over the network", "no page is asked for"],
)
def test_other_ways_to_a_query_run_it(open_gate: Gate, headers: dict[str, str]):
    assert ask(open_gate, "/?q=red", headers=headers).body == PAGE
    assert ask(open_gate, "/", headers=LED).body == PAGE


@pytest.mark.parametrize("referer", [{}, {"Referer": "https://evil.example/"}], ids=["hidden", "shown"])
def test_over_plain_http_the_referer_must_be_the_page(open_gate: Gate, referer: dict[str, str]):
    """There browsers send no `Sec-Fetch-Site`."""
    got = ask(open_gate, "/?q=red", host="192.168.1.7:8501", headers={"Accept": "text/html,*/*"} | referer)
    assert got.header("location") == "/?q=red&held=1"


def test_a_page_that_is_full_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Gate, "room", 1)

    async def stays(scope, receive, send) -> None:
        if scope["type"] == "websocket":
            await asyncio.sleep(3600)
        else:
            await the_page(scope, receive, send)

    async def visit() -> tuple[Answer, Answer, Answer]:
        full = Gate(stays)
        first = asyncio.create_task(answer(full, "/_stcore/stream", type="websocket"))
        await asyncio.sleep(0)
        refused = await answer(full), await answer(full, "/_stcore/stream", type="websocket")
        assert (await answer(full, "/media/a.png")).body == PAGE  # those who are in go on
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        return *refused, await answer(full)

    page, websocket, later = asyncio.run(visit())
    assert page.status == 503 and "The page is full" in page.body
    assert websocket.types == ["websocket.close"] and later.body == PAGE


# ---------------------------------------------------------------- the command


def ui(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **variables}
    return subprocess.run(
        [sys.executable, "-P", "-m", "mmsearch", "ui", "--no-browser", *options],
        capture_output=True,
        text=True,
        env=env,
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "mine.lan"])
def test_another_address_needs_a_token(host: str, monkeypatch: pytest.MonkeyPatch):

    from mmsearch.cli import page
    from mmsearch.cli.shared import USAGE

    with pytest.raises(SystemExit) as ended:
        page._checked_token(host, None)
    assert ended.value.code == USAGE
    assert page._checked_token("127.0.0.1", None) is None
    made = {page._checked_token(host, "auto") for _ in range(3)}
    assert len(made) == 3 and all(len(str(one)) >= 32 for one in made)


def test_the_command_refuses_before_it_listens():
    done = ui("--host", "0.0.0.0", MMSEARCH_TOKEN="")
    assert done.returncode == 2 and "--token auto" in done.stderr and done.stdout == ""
    done = ui("--host", "0.0.0.0", MMSEARCH_TOKEN="short")
    assert done.returncode == 2 and "can be guessed" in done.stderr


def test_the_token_does_not_reach_the_processes_that_the_page_starts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(gate.TOKEN_VARIABLE, TOKEN)
    monkeypatch.setenv(gate.HOSTS_VARIABLE, "192.168.1.7,mine.lan")
    given = gate.from_environment()
    assert given["token"] == TOKEN and {"192.168.1.7", "mine.lan"} <= given["hosts"]
    assert gate.TOKEN_VARIABLE not in os.environ and gate.from_environment() == {
        "hosts": gate.LOCAL_HOSTS,
        "token": None,
    }


def test_streamlits_own_protection_stays_on():
    from mmsearch.cli.page import PAGE_OPTIONS

    on = {name for name in ("server.enableCORS", "server.enableXsrfProtection") if PAGE_OPTIONS[name] == "true"}
    off = {name for name in ("server.enableStaticServing", "server.enableAgentApi") if PAGE_OPTIONS[name] == "false"}
    assert len(on) == len(off) == 2
    known = st.config._config_options_template  # a name that Streamlit does not know would end it at the start
    assert set(PAGE_OPTIONS) <= set(known)


def test_the_page_alone_shows_nothing_on_an_open_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """`streamlit run ui/app.py` listens on every address, and has no gate."""
    monkeypatch.setenv("MMSEARCH_LIBRARY", str(tmp_path / "none"))
    monkeypatch.setattr(Gate, "stands", False)
    page = AppTest.from_file(ROOT / "ui" / "app.py").run(timeout=60)
    assert [shown.value for shown in page.error] == [
        "Anybody on the network could search here. Start the page with `mmsearch ui`."
    ]
    assert not page.text_input and not page.button
    monkeypatch.setattr(Gate, "stands", True)
    page = AppTest.from_file(ROOT / "ui" / "app.py").run(timeout=60)
    assert page.text_input and not page.error
