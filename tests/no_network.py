"""Processes, and all that they start, without a network: every try at another machine fails and is written down.

Python's own audit events are asked, in every Python process of the environment, whatever library opens the socket.
Loopback and Unix sockets stay. What a C library does by itself is not seen: `unshare` is there for that.
"""

from __future__ import annotations

import os
from pathlib import Path

HOOK = """
import ipaddress, os, sys

def _is_here(host):
    if isinstance(host, bytes):
        host = host.decode("latin-1")
    if host in (None, "", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.split("%")[0])
        return address.is_loopback or address.is_unspecified
    except ValueError:
        return host == __import__("socket").gethostname()

def _deny(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1] if len(arguments) > 1 else None
        host = address[0] if isinstance(address, tuple) and address else None
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = arguments[0]
    else:
        return
    if not _is_here(host):
        with open(os.environ["NO_NETWORK_LOG"], "a") as log:
            log.write(f"{event} {host} by {' '.join(sys.argv[:3])}\\n")
        raise OSError(101, "Network is unreachable")

sys.addaudithook(_deny)
"""


def without_network(folder: Path) -> dict[str, str]:
    """Variables for a process that shall have none; `folder` takes the hook and the list of tries."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(HOOK)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "NO_NETWORK_LOG": str(folder / "tried")}


def tried(folder: Path) -> list[str]:
    """What was tried: "socket.connect 1.2.3.4 by …"."""
    log = folder / "tried"
    return log.read_text().splitlines() if log.exists() else []
