"""`mmsearch eval …`: benchmarks and own queries."""

from __future__ import annotations

import typer

from mmsearch.commands import benchmarks, own_queries

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Measure how well a model finds things.")

app.command("run")(own_queries.run_command)
app.command("compare")(own_queries.compare_command)
app.command("add")(own_queries.add_command)
app.command("mmeb-v2")(benchmarks.mmeb_v2_command)
app.command("mmeb-report")(benchmarks.mmeb_report_command)
app.command("m-beir")(benchmarks.m_beir_command)
