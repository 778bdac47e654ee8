"""`mmsearch models …`: which models there are, which are here, and which one answers queries."""

from __future__ import annotations

import typer

from mmsearch.commands.shared import JsonOption, LibraryOption, opened

app = typer.Typer(rich_markup_mode=None, help="List, fetch and switch models.")


@app.callback(invoke_without_command=True)
def models_command(library: LibraryOption = None, as_json: JsonOption = False) -> None:
    """List the models that have vectors in the library; the active one answers queries."""
    from mmsearch.terminal import to_json

    with opened(library) as found:
        active = found.catalog.active_model_key()
        models = [
            {"model_key": key, "name": found.catalog.model_name(key), "dim": dim, "active": key == active}
            for key, dim in found.catalog.model_keys().items()
        ]
    if as_json:
        print(to_json(models, indent=2))
        return
    for row in models:
        print(f"{'*' if row['active'] else ' '} {row['model_key']}  {row['name'] or ''}  {row['dim']} dimensions")
