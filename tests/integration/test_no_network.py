"""Nothing asks the network but `models pull`: the real commands with every socket to elsewhere denied. The page's own start
and use are denied it in tests/e2e/test_page.py."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pymupdf
import pytest
from PIL import Image

from tests.no_network import tried, without_network

COMMANDS = """
import json, sys
from mmsearch.cli import app
codes = []
for words in json.loads(sys.argv[1]):
    try:
        code = app(words, prog_name="mmsearch", standalone_mode=False)
    except SystemExit as ended:
        code = ended.code
    except BaseException as error:
        code = f"{type(error).__name__}: {error}"
    codes.append(code or 0)
    print()
print(json.dumps(codes))
"""
HAS_NAMESPACES = shutil.which("unshare") is not None and (
    subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0
)


def run(commands: list[list[str]], folder: Path, *, before: tuple[str, ...] = ()) -> tuple[list[object], str]:
    """The exit codes of commands in one process without a network, and what they printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "MMSEARCH_"))}
    env |= without_network(folder / "hook") | {
        "HF_HOME": str(folder / "hf"),
        "MMSEARCH_LIBRARY": str(folder / "index_data"),
    }
    line = [*before, sys.executable, "-P", "-c", COMMANDS, json.dumps(commands)]
    done = subprocess.run(line, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=folder)
    assert done.returncode == 0, done.stderr
    *printed, codes = done.stdout.splitlines()
    return json.loads(codes), "\n".join(printed) + done.stderr


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("things")
    Image.new("RGB", (64, 48), "red").save(folder / "red.png")
    with pymupdf.open() as document:
        document.new_page(width=200, height=150).insert_text((20, 40), "Minutes of the garden club")
        document.save(folder / "minutes.pdf")
    (folder / "asked.jsonl").write_text('{"query": "garden club", "relevant": [{"path": "minutes.pdf", "page": 1}]}\n')
    return folder


def test_the_hook_catches_what_it_should(tmp_path: Path) -> None:
    code = (
        "import socket, urllib.request\n"
        "for ask in (lambda: socket.create_connection(('192.0.2.1', 80), 1), lambda: socket.getaddrinfo('example.com', 80),\n"
        "            lambda: urllib.request.urlopen('http://example.com', timeout=1)):\n"
        "    try: ask()\n"
        "    except OSError as error: pass\n"
        "    else: raise SystemExit('it was let through')\n"
        "here = socket.create_server(('127.0.0.1', 0)); socket.create_connection(here.getsockname()).close()\n"
        "socket.socketpair()\n"
    )
    env = os.environ | without_network(tmp_path)
    subprocess.run([sys.executable, "-P", "-c", code], env=env, check=True)
    assert [line.split()[1] for line in tried(tmp_path)] == ["192.0.2.1", "example.com", "example.com"]


@pytest.mark.slow
def test_ingesting_asking_measuring_and_listing_ask_nobody(things: Path, tmp_path: Path) -> None:
    codes, said = run(
        [
            ["ingest", str(things), "--jobs", "1"],
            ["query", "minutes of the garden club", "--format", "json"],
            ["query", "--image", str(things / "red.png"), "--min-relevance", "0", "--format", "json"],
            ["eval", "run", str(things / "asked.jsonl"), "--json"],
            ["models", "list"],
            ["status"],
            ["ingest", str(things), "--model", "VLM2Vec/VLM2Vec-V2.0"],
        ],
        tmp_path,
    )
    assert codes[:-1] == [0] * 6 and "models pull" in str(codes[-1]), said
    assert "minutes.pdf" in said and "red.png" in said and tried(tmp_path / "hook") == []


@pytest.mark.skipif(not HAS_NAMESPACES, reason="no right to make a network namespace here")
def test_it_goes_without_any_network(things: Path, tmp_path: Path) -> None:
    """Not even loopback: what the hook cannot see, C code that opens a socket by itself, would not find one either."""
    codes, said = run(
        [["ingest", str(things), "--model", "toy", "--jobs", "1"], ["query", "garden club", "--model", "toy"]],
        tmp_path,
        before=("unshare", "-rn"),
    )
    assert codes == [0, 0] and "minutes.pdf" in said, said


def test_reading_print_asks_nobody(tmp_path: Path) -> None:
    """Both engines, where both are installed: a scan, and light print on a dark ground."""
    from tests.integration.test_print import printed, scan

    folder = tmp_path / "printed"
    folder.mkdir()
    scan(folder / "scan.pdf", "The committee replaced the eastern lighthouse lamp")
    printed("Deployment dashboard", "rollout failed", size=(1280, 720), ground=30, ink=235).save(folder / "screen.png")
    codes, said = run([["ingest", str(folder), "--model", "toy"], ["query", "rollout", "--model", "toy"]], tmp_path)
    assert codes == [0, 0] and "print of 1 " in said and " and 1 " in said and "screen.png" in said, said
    assert tried(tmp_path / "hook") == []


def test_pull_does_ask(tmp_path: Path) -> None:
    """So the denial above is not empty."""
    (pulled,), _ = run([["models", "pull", "VLM2Vec/VLM2Vec-V2.0"]], tmp_path)
    assert "no network" in str(pulled) and any("huggingface" in line for line in tried(tmp_path / "hook"))
