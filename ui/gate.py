"""What every request to the page passes before Streamlit sees it: the right host, no foreign site, and the token if there is one.

An ASGI middleware. Streamlit itself compares the `Host` of a websocket only, and its media and upload addresses ask for
nothing; here nothing at all is reached without the token but the form that asks for it.
"""

from __future__ import annotations

import asyncio
import html
import ipaddress
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from ui.view import HELD

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

TOKEN_VARIABLE = "MMSEARCH_TOKEN"
HOSTS_VARIABLE = "MMSEARCH_UI_HOSTS"
"""The address that the page listens on, and further names; with commas."""
TOKEN_CHARACTERS = 16
"""Of a token at least: the right one is never kept waiting, so that a flood of guesses can try some thousand a second."""
WRONG_TOKEN_S = 1.0
WAITING_AT_MOST = 8
"""Wrong tokens of one address that wait for their answer; more are sent away at once."""
BODY_S = 10.0
SESSIONS_AT_MOST = 100
"""Windows that have the page open, each a thread, an event loop and a websocket."""
FORM_PATH = "/token"
FORM_BYTES = 4096
LOCAL_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})

HEADERS: Headers = [
    # Nothing is fetched from elsewhere and nothing is sent there, whatever a file's name or text might contain; no other
    # site shows the page in a frame. Streamlit's own scripts and styles are inline and evaluated.
    (
        b"content-security-policy",
        b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
        b"form-action 'self'; frame-ancestors 'none'",
    ),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),  # with no-referrer, browsers send `Origin: null` with the token's form
    (b"cross-origin-resource-policy", b"same-origin"),
]


class Gate:
    """The middleware.

    Attributes:
        hosts: names by which the page may be called, beside IP addresses (a site that points its own name at this machine
            is refused: DNS rebinding).
        token: what has to be shown once per browser; None asks for nothing.
        stands: whether there is one in this process.
        room: how many windows may have the page open.
    """

    stands = False
    room = SESSIONS_AT_MOST

    def __init__(self, app: App, *, hosts: Iterable[str] = (), token: str | None = None) -> None:
        Gate.stands = True
        self._app = app
        self.hosts = LOCAL_HOSTS | {host.lower() for host in hosts}
        self.token = token
        self._passes = secrets.token_urlsafe(32)  # the cookie of those who showed the token; new with each start
        self._guessing: dict[str, tuple[int, asyncio.Lock]] = {}  # by address: how many wait, and in whose turn
        self._sessions = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if (problem := self._misdirected(scope)) is not None:
            await _refuse(scope, send, *problem)
        elif not (self.token is None or self._is_known(scope)):
            await self._ask(scope, receive, send)
        elif self._sessions >= self.room and (scope["type"] == "websocket" or scope["path"] == "/"):
            full = f"The page is full: {self.room} windows have it open. Close one, and load this again."
            await _refuse(scope, send, 503, full)
        elif scope["type"] == "websocket":
            self._sessions += 1
            try:
                await self._app(scope, receive, _with_headers(send))
            finally:
                self._sessions -= 1
        elif (query := _held_query(scope)) is not None:
            await _answer(send, 303, "", [(b"location", f"/?{query}".encode())])
        else:
            await self._app(scope, receive, _with_headers(send))

    def _misdirected(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason if the request is for another host, or comes from another site."""
        hosts, origins = _values(scope, b"host"), _values(scope, b"origin")
        name = host_name(hosts[0]) if len(hosts) == 1 else None
        if name is None or not (name in self.hosts or _is_address(name)):
            return 421, "This page is called by its IP address, or by a name given with `mmsearch ui --name NAME`."
        if any(urlsplit(origin).netloc.lower() != hosts[0].lower() for origin in origins):
            return 403, "Another site may not use this page."
        return None

    # ------------------------------------------------------------ the token

    def _is_known(self, scope: Scope) -> bool:
        shown = _cookies(scope).get(_cookie_name(scope), "")
        return secrets.compare_digest(shown.encode(), self._passes.encode())

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let in whom a token in the address or the form lets in; everybody else gets the form, and a websocket nothing."""
        if scope["type"] != "http":
            await _refuse(scope, send, 403, "")
            return
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        shown: str | None = dict(query).get("token")
        if scope["method"] == "POST" and scope["path"] == FORM_PATH:
            try:
                shown = dict(parse_qsl(await asyncio.wait_for(_body(receive), BODY_S))).get("token", "")
            except TimeoutError:
                shown = ""
            query = []
        if shown is None:
            await _answer(send, 401, _form(""))
        elif (is_right := await self._compare(shown, _address(scope))) is None:
            await _answer(send, 429, _form("Too many tokens are being tried. Wait a moment."))
        elif is_right:
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            cookie = f"{_cookie_name(scope)}={self._passes}; Path=/; HttpOnly; SameSite=Lax"
            secure = "; Secure" if scope.get("scheme") == "https" else ""
            headers = [(b"location", f"/?{rest}".rstrip("?").encode()), (b"set-cookie", (cookie + secure).encode())]
            await _answer(send, 303, "", headers)
        else:
            await _answer(send, 401, _form("That is not the token."))

    async def _compare(self, shown: str, address: str) -> bool | None:
        """Whether it is the token, in constant time; None: a wrong one from an address of which too many wait already.

        The right one is let in at once, whoever else guesses. Wrong ones of an address are answered one after another, and slowly.
        """
        if secrets.compare_digest(shown.encode(), str(self.token).encode()):
            return True
        log.warning("wrong tokens are being tried, now from %s", address or "an unknown address")
        waiting, lock = self._guessing.get(address, (0, asyncio.Lock()))
        if waiting >= WAITING_AT_MOST:
            return None
        self._guessing[address] = waiting + 1, lock
        try:
            async with lock:
                await asyncio.sleep(WRONG_TOKEN_S)
            return False
        finally:
            waiting, _ = self._guessing.pop(address)
            if waiting > 1:
                self._guessing[address] = waiting - 1, lock


def _held_query(scope: Scope) -> str | None:
    """The query under which a browser that another site led here asks again: the page fills it in, and does not run it.

    None for every other request. Browsers say where they come from in `Sec-Fetch-Site`, but over plain HTTP only to this machine;
    elsewhere a page that is asked for with a query has to come from the page itself, by its `Referer`.
    """
    if scope["type"] != "http" or scope["method"] != "GET" or not scope["query_string"]:
        return None
    sites = _values(scope, b"sec-fetch-site")
    if sites:
        is_led = _values(scope, b"sec-fetch-mode") == ["navigate"] and sites[0] not in ("same-origin", "none")
    else:
        is_page = any("text/html" in accepted for accepted in _values(scope, b"accept"))
        referers = [urlsplit(referer).netloc.lower() for referer in _values(scope, b"referer")]
        is_led = is_page and referers != [host.lower() for host in _values(scope, b"host")]
    given = scope["query_string"].decode("latin-1")
    pairs = [(name, value) for name, value in parse_qsl(given, keep_blank_values=True) if name != HELD]
    held = urlencode([*pairs, (HELD, "1")])
    return held if is_led and held != given else None


def from_environment() -> dict[str, Any]:
    """The gate's arguments as `mmsearch ui` passes them on; the token is taken out, so that no child process has it."""
    host, *names = os.environ.pop(HOSTS_VARIABLE, "127.0.0.1").split(",")
    token = os.environ.pop(TOKEN_VARIABLE, None) or None
    return {"hosts": names_of(host) | set(names), "token": token}


def names_of(host: str) -> frozenset[str]:
    """The names by which a page that listens on `host` may be called."""
    if is_local(host):
        return LOCAL_HOSTS
    machine = socket.gethostname().lower()
    return frozenset({host.lower(), machine, f"{machine}.local"})


def is_local(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def host_name(header: str) -> str | None:
    """The name in a `Host` header, without port and brackets; None if it is no host at all."""
    try:
        parts = urlsplit(f"//{header}")
        parts.port  # noqa: B018  (raises if it is none)
    except ValueError:
        return None
    is_host = parts.hostname and not (parts.path or parts.query or parts.fragment or "@" in header)
    return parts.hostname.lower().rstrip(".") if is_host and parts.hostname else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _address(scope: Scope) -> str:
    return str((scope.get("client") or ("", 0))[0])


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key.lower() == name]


def _cookies(scope: Scope) -> dict[str, str]:
    try:
        jar = SimpleCookie("; ".join(_values(scope, b"cookie")))
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in jar.items()}


def _cookie_name(scope: Scope) -> str:
    """Cookies know hosts, not ports: two pages on one machine would overwrite each other's."""
    return f"mmsearch-{(scope.get('server') or ('', 0))[1]}"


async def _body(receive: Receive) -> str:
    """The body of a small form; "" if it is larger, or breaks off."""
    content = b""
    while True:
        message = await receive()
        content += message.get("body", b"")
        if message["type"] != "http.request" or len(content) > FORM_BYTES:
            return ""
        if not message.get("more_body", False):
            return content.decode("latin-1")


async def _refuse(scope: Scope, send: Send, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": reason})
    else:
        await _answer(send, status, html.escape(reason))


async def _answer(send: Send, status: int, body: str, headers: Headers | None = None) -> None:
    own = [(b"content-type", b"text/html; charset=utf-8"), (b"cache-control", b"no-store"), *(headers or [])]
    await _with_headers(send)({"type": "http.response.start", "status": status, "headers": own})
    await send({"type": "http.response.body", "body": body.encode()})


def _with_headers(send: Send) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            ours = {name for name, _ in HEADERS}
            message["headers"] = [pair for pair in message.get("headers", []) if pair[0].lower() not in ours] + HEADERS
        await send(message)

    return sending


def _form(problem: str) -> str:
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        "<title>mmsearch</title><style>body{font:16px system-ui;display:grid;place-items:center;min-height:90vh;color:#222}"
        "form{display:grid;gap:.7rem;width:20rem}input,button{font:inherit;padding:.5rem}p{margin:0}</style>"
        f"<form method=post action={FORM_PATH}><b>mmsearch</b><label for=token>Token</label>"
        "<input id=token name=token type=password autofocus required autocomplete=current-password>"
        f"<button>Open</button><p role=alert>{html.escape(problem)}</p>"
        "<p><small>It stands in the terminal that started the page.</small></p></form></html>"
    )
