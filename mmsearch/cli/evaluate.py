"""`mmsearch eval …`: benchmarks and own queries."""

from __future__ import annotations

import typer

from mmsearch.cli import benchmarks, own_queries
from mmsearch.cli.shared import help_without_command

app = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def evaluate_command(context: typer.Context) -> None:
    """Measure how well a model finds things."""
    help_without_command(context)


app.command("run")(own_queries.run_command)
app.command("compare")(own_queries.compare_command)
app.command("add")(own_queries.add_command)
app.command("mmeb-v2")(benchmarks.mmeb_v2_command)
app.command("mmeb-report")(benchmarks.mmeb_report_command)
app.command("m-beir")(benchmarks.m_beir_command)
