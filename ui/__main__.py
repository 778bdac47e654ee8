"""The process of the page's server: `streamlit`, with connections that are guarded. Started by `mmsearch ui`."""

from __future__ import annotations

from streamlit.web.cli import main

from ui import connections

connections.guard_connections()
connections.end_with_parent()
main(prog_name="streamlit")
