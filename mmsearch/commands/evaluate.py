"""`mmsearch eval …`: benchmarks and own queries."""

from __future__ import annotations

import typer

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Measure how well a model finds things.")
