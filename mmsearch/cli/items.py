"""`mmsearch show` and `mmsearch remove`: one item, one file, one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmsearch.cli.naming import ITEM_METAVAR, file_of, item_named, items_named
from mmsearch.cli.shared import (
    NO_HIT,
    JsonOption,
    LibraryOption,
    fail,
    note,
    opened,
)


def show_command(
    named: Annotated[
        str,
        typer.Argument(
            metavar=ITEM_METAVAR,
            help="An item: its id, as `mmsearch query` shows it, or its file, as report.pdf:12 or film.mp4@1:15.",
        ),
    ],
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one item: where it lies, its metadata, its text. Of a file with many items the first, if none is named."""
    from mmsearch.words import printable, to_json

    with opened(library) as found:
        item = item_named(found.catalog, named)
        count = len(items_named(found.catalog, named))
        read = found.catalog.print.of(item) if item.text_source == "ocr" else None
        also_at = found.catalog.items.also_at([item]).get(item.id, ())
    record = {
        "schema": 1,
        "id": item.id,
        "kind": item.kind,
        "path": str(item.path),
        "page": item.page_number,
        "start_s": item.start_s,
        "end_s": item.end_s,
        "preview": None if item.preview is None else str(item.preview),
        "also_at": [str(path) for path in also_at],
        "meta": dict(item.meta),
        "text": item.text,
        "text_source": item.text_source,
        "description": item.description.strip(),
        "recognised": None if read is None else read.record(),
    }
    if as_json:
        print(to_json(record, indent=2))
        return
    print("  ".join(filter(None, [printable(str(item.path)), item.place, item.kind, f"id {item.id}"])))
    for path in also_at:
        print(f"also at {printable(str(path))}")
    for name, value in item.meta.items():
        if isinstance(value, dict):  # what a library remembers for itself
            continue
        told = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        print(f"{name}: {printable(' '.join(told.split()))}")
    if item.text.strip():
        print()
        if read is not None:
            print(
                f"recognised by {read.engine} ({printable(read.version)}, {printable(read.languages)}); letters may be wrong:"
            )
        for line in item.text.strip().splitlines():
            print(printable(line))
    if count > 1:
        note(
            f"the first of {count:,} items of this file: {item.path.name}{':PAGE' if item.page_number else '@TIME'} names one"
        )


def remove_command(
    named: Annotated[
        str,
        typer.Argument(
            metavar="PATH|ID",
            help="A file, or a folder with all in it. Of an item (its id, FILE:PAGE, FILE@TIME) the whole file goes.",
        ),
    ],
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a file or folder out of the index. The file itself is never touched."""
    from mmsearch.cli.terminal import short_path
    from mmsearch.words import count_of, to_json

    if not named:
        raise typer.BadParameter(
            "say what to take out: a file, a folder or an item"
        )  # an empty path is the working folder
    with opened(library) as found, found.lock():
        sources = next(filter(None, (found.catalog.sources.rows(under=path) for path in file_of(Path(named)))), [])
        if not sources:
            ids = {item.source_id for item in items_named(found.catalog, named)}
            sources = [source for source in found.catalog.sources.rows() if source.id in ids]
        found.catalog.sources.retire([source.id for source in sources])
        found.sync_vectors()
    items = sum(source.item_count for source in sources)
    if as_json:
        print(to_json({"schema": 1, "files": len(sources), "items": items}))
    if not sources:
        fail(f"{named}: nothing of it is indexed", NO_HIT)
    which = short_path(sources[0].path) if len(sources) == 1 else count_of(len(sources), "file")
    note(f"took out {count_of(items, 'item')} of {which}; an `mmsearch ingest` of that folder brings them back")
