"""`python -m tests.demo`: make the demo folder and write the archive that ships. Commit it once per change; it is large."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from mmsearch.cli.demo_folder import ARCHIVE
from mmsearch.disk.replace import replace_file
from tests.demo import make_demo_folder

WRITTEN_AT = (2025, 3, 1, 12, 0, 0)
"""Of every entry, so that the same files give the same archive."""


def write_archive(path: Path) -> None:
    with TemporaryDirectory() as folder, replace_file(path, durable=False) as temporary:
        names = make_demo_folder(Path(folder))
        with ZipFile(temporary, "w", ZIP_DEFLATED, compresslevel=9) as archive:
            for name in names:
                archive.writestr(ZipInfo(name, WRITTEN_AT), Path(folder, name).read_bytes(), ZIP_DEFLATED, 9)


if __name__ == "__main__":
    write_archive(ARCHIVE)
    print(f"{ARCHIVE}: {ARCHIVE.stat().st_size:,} bytes")
