"""The command line: `app` and `main`, a file per group of commands, `terminal` (how results and progress look)."""

from mmsearch.cli.app import app, main

__all__ = ["app", "main"]
