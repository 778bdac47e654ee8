"""Adding a folder from the page: runs `mmsearch ingest` beside it and follows its events."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Any

import streamlit as st


def typed_path(text: str) -> Path | None:
    """The path that a person typed, `~` resolved; None if it does not lead from the root, or to nobody's home."""
    try:
        path = Path(text.strip()).expanduser()
    except RuntimeError:  # ~nobody
        return None
    return path if path.is_absolute() else None


def is_there(path: Path) -> bool:
    """Whether something lies at `path`; False for what no file system takes, such as a name of 4,096 characters."""
    return os.path.exists(path)  # noqa: PTH110 (`Path.exists` raises)


class IngestRun:
    """One `mmsearch ingest` at a time, shared by all sessions of the page; searches go on meanwhile."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._complaints: deque[str] = deque(maxlen=5)
        self.folder = ""
        self.plan: dict[str, Any] = {}
        self.progress: dict[str, Any] = {}
        self.report: dict[str, Any] | None = None
        self.exit_code: int | None = None

    def is_running(self) -> bool:
        return self._process is not None and self.exit_code is None

    def start(self, folder: str, *, library: Path) -> None:
        """Begin to ingest `folder`; does nothing while another run goes on."""
        with self._lock:
            if self.is_running():
                return
            self.folder, self.plan, self.progress, self.report, self.exit_code = folder, {}, {}, None, None
            self._complaints.clear()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "mmsearch", "ingest", "--json", "--library", str(library), "--", folder],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C in the terminal is answered by stop(), once
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
            listener = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
            listener.start()
            threading.Thread(target=self._follow, args=(self._process, listener), daemon=True).start()

    def stop(self) -> None:
        """Interrupt the run; what it has done is kept."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(signal.SIGINT)

    def forget(self) -> None:
        """Do not speak of the last run any longer."""
        with self._lock:
            if not self.is_running():
                self._process, self.exit_code = None, None

    def fraction(self) -> float:
        """How much of the run is done, 0 to 1."""
        return min(1.0, max(0.0, float(self.progress.get("fraction", 0.0))))

    def sentence(self) -> str:
        """Where the run stands, or how it ended, in a line."""
        name = Path(self.folder).name or self.folder
        if self.is_running():
            said = self.progress.get("sentence") or self.plan.get("sentence") or "looking for files"
            return f"Adding {name}: {said}"
        if self.report is None:
            reason = self._complaints[-1].removeprefix("mmsearch: ") if self._complaints else "it ended early"
            return f"{name} could not be added: {reason}"
        if self.report["interrupted"]:
            return f"{name}: stopped with {sum(self.report['items'].values()):,} items added; add it again to go on"
        return f"{name}: {self.report['sentence']}"

    def _follow(self, process: subprocess.Popen[bytes], listener: threading.Thread) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if event.get("event") == "plan":
                    self.plan = event
                elif event.get("event") == "progress":
                    self.progress = event
                elif event.get("event") == "report":
                    self.report = event
        listener.join()  # its last words are the reason, if it failed
        self.exit_code = process.wait()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                if text := line.decode("utf-8", "replace").strip():
                    self._complaints.append(text)


@st.cache_resource(show_spinner=False)
def ingest_run() -> IngestRun:
    """The page's one run."""
    import atexit

    run = IngestRun()
    atexit.register(run.stop)
    return run
