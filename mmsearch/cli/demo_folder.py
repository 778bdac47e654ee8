"""`mmsearch demo-folder`: unpacks the archive that lies next to this file.

`tests/demo` makes it (`python -m tests.demo`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmsearch.cli.shared import note
from mmsearch.disk.replace import replace_file

ARCHIVE = Path(__file__).with_name("demo_folder.zip")


def demo_folder_command(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Is made if need be.")]) -> None:
    """Write a small folder to try things on. Slides, a report, pictures, short videos."""
    write_demo_folder(folder)
    note(f"wrote {folder}; now: mmsearch ingest {folder}")


def write_demo_folder(folder: Path) -> list[Path]:
    """Fill `folder` with the demo. Files that exist are left alone, whatever they hold; each other one appears whole or not at all.

    Returns:
        The paths written by this call, in the order of writing; empty if the folder was complete.

    Raises:
        DiskFull, DiskFailed: the disk refuses a file.
    """
    from zipfile import ZipFile

    written = []
    with ZipFile(ARCHIVE) as archive:
        for name in archive.namelist():
            path = folder / name
            if path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(path, durable=False) as temporary:
                temporary.write_bytes(archive.read(name))
            written.append(path)
    return written
