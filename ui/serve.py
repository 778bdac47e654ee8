"""The page's server: Streamlit behind the gate. `mmsearch ui` starts it through `ui.__main__`."""

from __future__ import annotations

from pathlib import Path

from starlette.middleware import Middleware
from streamlit.starlette import App

from ui import gate

app = App(Path(__file__).with_name("app.py"), middleware=[Middleware(gate.Gate, **gate.from_environment())])
