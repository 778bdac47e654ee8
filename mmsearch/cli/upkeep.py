"""`mmsearch doctor`, `backup`, `restore` and `compact`: looking after a library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmsearch.cli.shared import OK, SOME_FAILED, JsonOption, LibraryOption, note, opened

MARKS = {"sound": "ok", "notice": "note", "fault": "FAULT"}


def doctor_command(
    library: LibraryOption = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make again what is derived and wrong; what only files hold is left alone.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what decodes files and loads the model.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check that the library is sound. Looks at the catalog, its vectors, snapshots, previews, and embeds a sample once more.

    \b
    Exit codes: 0 sound, or repaired · 3 the catalog is damaged · 4 something is wrong
    """
    from mmsearch.upkeep.doctor import examine, is_sound
    from mmsearch.words import printable, to_json

    with opened(library) as found:
        findings = examine(found, repair=repair, quick=quick, tell=lambda what: note(f"checking {what} …"))
        folder = found.folder
    if as_json:
        sound = is_sound(findings)
        print(
            to_json(
                {"schema": 1, "library": str(folder), "sound": sound, "findings": [one.record() for one in findings]},
                indent=2,
            )
        )
    else:
        for one in findings:
            what = f"{one.count:,} {one.what}" if one.count and one.state == "notice" else one.what
            print(f"{MARKS[one.state]:<6}{one.check}: {what}" + (f" → {one.repaired}" if one.repaired else ""))
            for example in one.examples:
                print(f"        {printable(example)}")
        if not is_sound(findings) and not repair:
            note("`mmsearch doctor --repair` makes again what is derived")
    raise typer.Exit(OK if is_sound(findings) else SOME_FAILED)


def backup_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The archive to write.")],
    library: LibraryOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Put it in the place of an existing FILE.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Copy the library into one file. It may be in use. Catalog, vectors, previews, adapted models; not your files."""
    from mmsearch.config import find_library_folder
    from mmsearch.upkeep.backup import backup
    from mmsearch.words import printable, size, to_json

    made = backup(find_library_folder(library), file, overwrite=overwrite)
    if as_json:
        print(
            to_json(
                {
                    "schema": 1,
                    "file": str(made.file),
                    "bytes": made.bytes,
                    "items": made.items,
                    "previews": made.previews,
                    "missing_previews": made.missing,
                }
            )
        )
        return
    lacking = f" ({made.missing:,} were missing: `mmsearch doctor --repair`)" if made.missing else ""
    print(
        f"wrote {printable(str(made.file))}: {made.items:,} items, {made.previews:,} previews{lacking}, {size(made.bytes)}"
    )


def restore_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An archive that `mmsearch backup` wrote.")],
    library: LibraryOption = None,
) -> None:
    """Make a library of a backup. An existing one is never overwritten."""
    from mmsearch.config import find_library_folder
    from mmsearch.upkeep.backup import restore
    from mmsearch.words import printable

    folder = find_library_folder(library)
    made = restore(file, folder)
    print(f"restored {made.items:,} items to {printable(str(folder))}")
    note("`mmsearch ingest FOLDER` looks for what has changed since")


def compact_command(library: LibraryOption = None) -> None:
    """Delete for good what is marked as deleted. Vectors of former models go too, and the space is given back."""
    from mmsearch.words import size

    with opened(library) as found:
        before = found.status()["bytes"]
        kept = found.compact()
        after = found.status()["bytes"]
    for copy in kept:
        print(f"deleted {copy.name}, the catalog as it was before its schema was changed")
    print(f"{size(before)} → {size(after)}")
