"""`mmsearch ui`: start the page, and end it with the command."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from mmsearch.cli.shared import (
    FAULT,
    OK,
    USAGE,
    DeviceOption,
    LibraryOption,
    ModelOption,
    fail,
    note,
)

PAGE_OPTIONS = {
    # All that matters for safety is said here, over whatever the user's own Streamlit settings are.
    "server.headless": "true",  # this command opens the browser, or does not
    "server.enableStaticServing": "false",
    "server.enableCORS": "true",  # the protection, not the permission
    "server.enableXsrfProtection": "true",
    "server.enableAgentApi": "false",
    "server.scriptHealthCheckEnabled": "false",
    "server.baseUrlPath": "",
    "global.developmentMode": "false",
    "server.fileWatcherType": "none",
    "server.maxUploadSize": "32",
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "client.showErrorLinks": "false",  # "Ask Google", "Ask ChatGPT"
    "logger.level": "warning",
}


def ui_command(
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port [default: 8501, or the next free one].")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; another than this machine's own needs a token.")
    ] = "127.0.0.1",
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name", metavar="NAME", help="A name by which browsers call the page, say behind a proxy; repeat."
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="MMSEARCH_TOKEN",
            show_envvar=False,
            metavar="TEXT|auto",
            help="What a browser has to show first; `auto` makes one up. Better in MMSEARCH_TOKEN: others on this machine "
            "see options.",
        ),
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open a browser.")] = False,
    library: LibraryOption = None,
    model: ModelOption = None,
    device: DeviceOption = None,
) -> None:
    """Open the search page in a browser; Ctrl-C ends it. Nothing leaves this machine."""
    import signal
    import subprocess
    from importlib.resources import as_file, files

    from mmsearch.config import find_library_folder
    from ui import connections, gate

    token = _checked_token(host, token)
    port = _free_port(host, port)
    environment = dict(os.environ, MMSEARCH_LIBRARY=str(find_library_folder(library)))
    environment |= {gate.HOSTS_VARIABLE: ",".join([host, *(name or [])]), gate.TOKEN_VARIABLE: token or ""}
    if model is not None:
        environment["MMSEARCH_MODEL"] = model
    if device is not None:
        environment["MMSEARCH_DEVICE"] = device
    with as_file(files("ui")) as folder:
        settings = PAGE_OPTIONS | {
            "server.address": host,
            "server.port": str(port),
            # Without it Streamlit asks a server on the net for this machine's address there, to print it.
            "browser.serverAddress": _page_name(host),
            "theme.base": str(folder / "theme.toml"),
        }
        lifeline, held_end = os.pipe()  # closed by the kernel when this process is killed
        environment[connections.LIFELINE_VARIABLE] = str(lifeline)
        page = subprocess.Popen(
            [sys.executable, "-P", "-m", "ui", "run", str(folder / "serve.py")]
            + [f"--{name}={value}" for name, value in settings.items()],
            env=environment,
            stdout=subprocess.DEVNULL,
            pass_fds=[lifeline],
        )
        os.close(lifeline)
        url = _page_url(host, port, token)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(OK))  # the page ends with this command, however it is ended
        try:
            if not _answers(host, port, page):
                fail("the page did not start; its last words are above", FAULT)
            note(f"mmsearch is at {url} (Ctrl-C ends it)")
            if not no_browser:
                typer.launch(_page_url(host, port, None))  # others on this machine see what a browser is started with
            code = page.wait()
        except KeyboardInterrupt:
            code = OK
        finally:
            page.terminate()
            page.wait()
            os.close(held_end)
    raise typer.Exit(code)


def _checked_token(host: str, token: str | None) -> str | None:
    """The token, made up if it is `auto`; the command ends where an address needs one, or one is easy to guess."""
    import secrets

    from ui import gate

    if token == "auto":
        return secrets.token_urlsafe(24)
    if not token and not gate.is_local(host):
        fail(
            f"whoever reaches {host} could search this library and add folders of this machine: give the page a token "
            "(--token auto makes one), or leave out --host",
            USAGE,
        )
    if token and len(token) < gate.TOKEN_CHARACTERS:
        fail(f"a token of {len(token)} characters can be guessed; take {gate.TOKEN_CHARACTERS} or more, or auto", USAGE)
    return token or None


def _page_name(host: str) -> str:
    """What a browser calls a page that listens on `host`."""
    import socket

    return socket.gethostname() if host in ("0.0.0.0", "::") else host


def _page_url(host: str, port: int, token: str | None) -> str:
    """Where a browser finds the page, with the token in it."""
    from urllib.parse import urlencode

    name = _page_name(host)
    shown = f"/?{urlencode({'token': token})}" if token else ""
    return f"http://{f'[{name}]' if ':' in name else name}:{port}{shown}"


def _free_port(host: str, port: int | None) -> int:
    """The port asked for if it is free (else the command ends), or the first free one from 8501 on."""
    import errno
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in [port] if port is not None else range(8501, 8601):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except OSError as error:
                if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                    fail(f"{host} is no address of this machine ({error.strerror}); choose another with --host", USAGE)
                reason = error.strerror
            else:
                return candidate
    fail(f"port {port or '8501 to 8600'} of {host} cannot be used: {reason}; choose another with --port", USAGE)


def _answers(host: str, port: int, process: Any, *, timeout_s: float = 60.0) -> bool:
    """Wait until the page listens; false if its process ends before."""
    import socket
    import time

    deadline = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with socket.create_connection((host, port), timeout=1):
                return True
        except OSError:
            time.sleep(0.05)
    return False
