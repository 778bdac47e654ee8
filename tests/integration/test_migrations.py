"""A library of every released version opens with this one, whole, and a copy of it as it was is kept first."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import mmsearch
from ingest.pipeline import ingest_paths
from mmsearch.catalog import Catalog
from mmsearch.catalog.copies import former_copies
from mmsearch.catalog.dialect import sqlite
from mmsearch.catalog.dialect.sqlite import CATALOG_NAME, SCHEMA_REVISION
from mmsearch.catalog.integrity import Integrity
from mmsearch.disk.lock import LOCK_NAME
from mmsearch.errors import CatalogError, CorruptIndex, LibraryLocked, NewerSchema
from mmsearch.items import KINDS
from mmsearch.upkeep.backup import MANIFEST, restore
from mmsearch.upkeep.doctor import examine
from tests import mounts
from tests.fixtures.libraries import record

RECORDED = sorted(Path(record.__file__).parent.glob("*.zip"))
CHANGELOG = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()


@dataclass(frozen=True)
class Former:
    """A recorded library, laid out. `expected`: what its own version wrote about it."""

    folder: Path
    expected: dict[str, Any]

    @property
    def library(self) -> Path:
        return self.folder / "library"

    @property
    def catalog(self) -> Path:
        return self.library / CATALOG_NAME

    @property
    def is_older(self) -> bool:
        return self.expected["schema"] != SCHEMA_REVISION


def lay_out(archive: Path, folder: Path) -> Former:
    with zipfile.ZipFile(archive) as found:
        found.extractall(folder)
    expected = json.loads((folder / "expected.json").read_text())
    for name, modified_ns in expected["modified_ns"].items():
        os.utime(folder / "files" / name, ns=(modified_ns, modified_ns))
    record.move_root(folder / "library" / CATALOG_NAME, record.ROOT, os.fspath(folder))
    return Former(folder, expected)


@pytest.fixture(params=RECORDED, ids=lambda archive: archive.stem)
def former(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Former:
    """A library of each release in turn."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("MMSEARCH_MODEL", raising=False)
    return lay_out(request.param, tmp_path)


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Former:
    """A library of the first release."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("MMSEARCH_MODEL", raising=False)
    return lay_out(RECORDED[0], tmp_path)


def rows_of(catalog: Path, folder: Path) -> dict[str, Any]:
    """The rows with paths as they were recorded; the catalog is left as it is."""
    copy = folder / "looked-at.sqlite3"
    with closing(sqlite3.connect(catalog)) as database, closing(sqlite3.connect(copy)) as target:
        database.backup(target)
    record.move_root(copy, os.fspath(folder), record.ROOT)
    found = record.rows(copy)
    copy.unlink()
    return json.loads(json.dumps(found))


def revision_of(catalog: Path) -> str:
    with closing(sqlite3.connect(catalog)) as database:
        return database.execute("SELECT version_num FROM alembic_version").fetchone()[0]


def faults(library: mmsearch.Library) -> list[str]:
    return [f"{one.check}: {one.what}" for one in examine(library, quick=True) if one.state == "fault"]


def test_every_release_and_every_schema_of_one_is_recorded() -> None:
    released = re.findall(r"^## (\S+)$", CHANGELOG, re.M)  # "0.5.0 (unreleased)" is none
    recorded = {archive.stem: json.loads(zipfile.ZipFile(archive).read("expected.json")) for archive in RECORDED}
    assert set(released) == set(recorded), "`python -m tests.fixtures.libraries.record` records one of this version"
    assert all(expected["mmsearch"] == version for version, expected in recorded.items())
    schemas = {expected["schema"] for expected in recorded.values()}
    revisions = {file.name[:4] for file in (Path(sqlite.__file__).parents[1] / "migrations" / "versions").glob("0*.py")}
    assert schemas <= revisions, "a released migration is never taken back"
    told = re.findall(r"schema (\d{4})", CHANGELOG[CHANGELOG.index(f"## {released[0]}") :])
    assert set(told) <= schemas, "the changes name a schema that is not recorded"


def test_it_holds_what_it_held(former: Former) -> None:
    Catalog.open(former.library).close()
    assert revision_of(former.catalog) == SCHEMA_REVISION
    assert rows_of(former.catalog, former.folder) == former.expected["rows"]


def test_it_answers_as_it_did(former: Former, caplog: pytest.LogCaptureFixture) -> None:
    with mmsearch.open(former.library) as library:
        assert faults(library) == []
        for words, scores in former.expected["scores"].items():
            dense = library.search(words, k=1000, min_relevance=0, mode="dense")
            assert {str(hit.item.id): pytest.approx(hit.score, abs=2e-3) for hit in dense} == scores, words
            found = library.search(words, k=1000, min_relevance=0, mode="text")
            assert sorted(hit.item.id for hit in found) == former.expected["matched by words"][words]
        assert [(error.path.name, error.type) for error in library.catalog.sources.errors()] == [
            ("broken.pdf", "CorruptFile")
        ]
        assert library.catalog.counts()["sources"] == {"indexed": 6, "offline": 2, "failed": 1, "pending": 1}
    for name, digest in former.expected["previews"].items():
        assert hashlib.sha256((former.library / name).read_bytes()).hexdigest() == digest
    said = [record.getMessage() for record in caplog.records]
    assert [line for line in said if "before-" not in line] == [], "nothing is wrong with the snapshots either"


def test_ingestion_goes_on_in_it(former: Former) -> None:
    with mmsearch.open(former.library) as library:
        before = {item.id for row in library.catalog.sources.rows() for item in library.catalog.items.of_source(row.id)}
        report = ingest_paths(library, [former.folder / "files"])
        assert dict(report.items) == {"page": 2}, "of the document whose first page was saved"
        assert (report.unchanged, report.failed_before, report.retired, report.failures) == (6, 1, 0, [])
        after = {item.id for row in library.catalog.sources.rows() for item in library.catalog.items.of_source(row.id)}
        assert before < after and len(after) == len(before) + 3
        assert library.catalog.counts()["sources"] == {"indexed": 7, "offline": 2, "failed": 1}
        assert faults(library) == []


def test_a_copy_is_kept_first(former: Former, caplog: pytest.LogCaptureFixture) -> None:
    content = former.catalog.read_bytes()
    Catalog.open(former.library).close()
    if not former.is_older:
        assert list(former_copies(former.catalog)) == [] and caplog.records == []
        assert former.catalog.read_bytes() == content
        return
    (kept,) = former_copies(former.catalog)
    assert kept.name == f"{CATALOG_NAME}.before-{SCHEMA_REVISION}"
    assert revision_of(kept) == former.expected["schema"]
    assert rows_of(kept, former.folder) == former.expected["rows"]
    (said,) = (record.getMessage() for record in caplog.records)
    assert "\n" not in said and kept.name in said and former.expected["schema"] in said and " kB" in said


def test_the_way_back(former: Former, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older version refuses what was migrated, and opens the copy in its place."""
    if not former.is_older:
        pytest.skip("of today's schema")
    Catalog.open(former.library).close()
    content = former.catalog.read_bytes()
    with monkeypatch.context() as then:
        then.setattr(sqlite, "SCHEMA_REVISION", former.expected["schema"])
        for options in ({}, {"create": True}, {"read_only": True}):
            with pytest.raises(NewerSchema, match=SCHEMA_REVISION):
                Catalog.open(former.library, **options)
        assert former.catalog.read_bytes() == content
        next(former_copies(former.catalog)).replace(former.catalog)
        Catalog.open(former.library).close()
        assert rows_of(former.catalog, former.folder) == former.expected["rows"]
        with closing(sqlite3.connect(former.catalog)) as database:
            assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    Catalog.open(former.library).close()
    assert rows_of(former.catalog, former.folder) == former.expected["rows"], "and forward once more"


def test_only_the_latest_copy_is_kept_and_compact_deletes_it(first: Former) -> None:
    (first.library / f"{CATALOG_NAME}.before-0001").write_bytes(b"of long ago")
    kept_name = f"{CATALOG_NAME}.before-{SCHEMA_REVISION}"
    left = [
        f"{kept_name}.partial",
        f"{kept_name}.partial-wal",
        f".{kept_name}.4711.tmp",
        f".{kept_name}.4711.tmp-journal",
    ]
    for name in left:
        (first.library / name).write_bytes(b"of a process that was killed")
    with mmsearch.open(first.library) as library:
        (kept,) = former_copies(first.catalog)
        assert kept.name.endswith(SCHEMA_REVISION)
        assert not [name for name in left if (first.library / name).exists()]
        (notice,) = (one for one in examine(library, quick=True) if one.check == "former catalog")
        assert notice.state == "notice" and kept.name in notice.what and "compact" in notice.what
    said = run("compact", first.library)
    assert said.returncode == 0 and kept.name in said.stdout
    assert list(former_copies(first.catalog)) == []


def run(command: str, library: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command_line(command, library), capture_output=True, text=True, timeout=120)


def command_line(command: str, library: Path) -> list[str]:
    return [sys.executable, "-P", "-m", "mmsearch", command, "--library", str(library)]


def test_a_library_without_files_is_migrated_without_a_copy(first: Former) -> None:
    with closing(sqlite3.connect(first.catalog)) as database, database:
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("DELETE FROM sources")
    Catalog.open(first.library).close()
    assert revision_of(first.catalog) == SCHEMA_REVISION
    assert list(former_copies(first.catalog)) == []


def test_a_read_only_opening_migrates_nothing(first: Former) -> None:
    content = first.catalog.read_bytes()
    with pytest.raises(CatalogError, match="open it once where it can be written"):
        Catalog.open(first.library, read_only=True)
    assert first.catalog.read_bytes() == content


def test_a_damaged_library_is_named_and_not_migrated(first: Former) -> None:
    content = bytearray(first.catalog.read_bytes())
    with closing(sqlite3.connect(first.catalog)) as database:
        (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'vectors'").fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    content[(page - 1) * size : page * size] = b"\x93" * size
    first.catalog.write_bytes(content)
    with pytest.raises(CorruptIndex, match="damaged"):
        Catalog.open(first.library)
    assert first.catalog.read_bytes() == bytes(content)
    assert sorted(first.library.glob(f"{CATALOG_NAME}.*")) == []


@pytest.mark.parametrize("table", ["words", "trigrams"])
def test_damaged_full_text_is_no_obstacle(first: Former, table: str) -> None:
    """The migration indexes all words again, and mends it by that."""
    with closing(sqlite3.connect(first.catalog)) as database, database:
        database.execute(f"DELETE FROM {table}_data WHERE id > 10")
    with mmsearch.open(first.library) as library:
        assert faults(library) == []


OLD_TEXTS = {
    "The scienti\ufb01c o\ufb03ce clari\ufb01ed it for all of the em-\nployees": [
        "scientific office",
        "employees",
        '"the employees"',
    ],
    "\u0627\ufee7\ufeee\u0627\u0639 \u0627\ufccb\ufec4\ufeee\u0637 \u0627\ufedf\ufecc\ufeae\ufe91\ufef4\ufe94": [
        "الخطوط العربية"
    ],
    "\uff50\uff4f\uff4c\uff59\uff53\uff41\uff43\uff43\uff48\uff41\uff52\uff49\uff44\uff45": ["polysaccharide"],
    "关\n于\n红\n军": ["红军", "关于红军"],
    "Straße am Café": ["strasse", "cafe"],
}


def test_words_of_an_older_library_are_indexed_again_without_the_model(
    former: Former, caplog: pytest.LogCaptureFixture
) -> None:
    """What lies in it is the raw text layer."""
    if former.expected["schema"] >= sqlite.WORDS_REVISION:
        pytest.skip("its words are normalised")
    with closing(sqlite3.connect(former.catalog)) as database, database:
        shown = [item_id for (item_id,) in database.execute("SELECT id FROM items WHERE visible = 1 ORDER BY id")]
        chosen = dict(zip(OLD_TEXTS, shown, strict=False))
        database.executemany("UPDATE items SET text = ? WHERE id = ?", chosen.items())
        vectors = database.execute("SELECT id, item_id, model_id, generation, data FROM vectors ORDER BY id").fetchall()
    with Catalog.open(former.library) as catalog:
        for words, item_id in chosen.items():
            for query in OLD_TEXTS[words]:
                assert catalog.text.match(query, 10, KINDS).ids.tolist() == [item_id], query
                assert catalog.text.snippets(query, [item_id]), query
        assert catalog.items.get(shown[0]).text == "The scientific office clarified it for all of the employees"
        assert Integrity(catalog).lexical_faults() == []
    with closing(sqlite3.connect(former.catalog)) as database:
        assert (
            database.execute("SELECT id, item_id, model_id, generation, data FROM vectors ORDER BY id").fetchall()
            == vectors
        )
    (said,) = (record.getMessage() for record in caplog.records)
    assert f"the words of {len(shown)} items indexed again from their stored text, without the model" in said


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 640 kB."""
    with mounts.small_disk(tmp_path / "disk", "640k") as place:
        yield place


def test_no_room_for_the_copy(first: Former, small_disk: Path) -> None:
    library = small_disk / "library"
    shutil.copytree(first.library, library)
    content = (library / CATALOG_NAME).read_bytes()
    ballast = mounts.fill(small_disk, leave_bytes=120_000)
    said = run("status", library)
    assert said.returncode == 3
    (line,) = said.stderr.splitlines()
    assert f"no room is left on the disk of {library}" in line and "a copy of it as it is is kept first" in line
    assert "free; nothing was changed" in line
    assert (library / CATALOG_NAME).read_bytes() == content
    assert list(library.glob(f"{CATALOG_NAME}.*")) == []
    ballast.unlink()
    assert run("status", library).returncode == 0
    assert revision_of(library / CATALOG_NAME) == SCHEMA_REVISION


def has_open(process: subprocess.Popen[bytes], file: Path) -> bool:
    """Whether it has got as far as opening the file."""
    psutil = pytest.importorskip("psutil")
    return process.poll() is not None or str(file) in {one.path for one in psutil.Process(process.pid).open_files()}


def test_of_two_processes_one_migrates_and_the_other_waits(first: Former) -> None:
    with closing(sqlite3.connect(first.catalog, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        both = [
            subprocess.Popen(command_line("status", first.library), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for _ in range(2)
        ]
        until = time.monotonic() + 120
        while not all(has_open(one, first.catalog) for one in both) and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.5)
        assert [one.poll() for one in both] == [None, None], "both wait for whoever writes"
        holder.execute("COMMIT")
    said = [one.communicate(timeout=120)[1].decode() for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert sorted("before-" in one for one in said) == [False, True]
    assert revision_of(next(former_copies(first.catalog))) == first.expected["schema"]


def test_an_older_version_that_writes_is_not_disturbed(first: Former) -> None:
    program = (
        "import sys, time; from pathlib import Path; from mmsearch.disk.lock import locked\n"
        "with locked(Path(sys.argv[1])): print(flush=True); time.sleep(3600)"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, first.library], stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None and writer.stdout.readline()
        with pytest.raises(LibraryLocked, match=f"process {writer.pid}, of another version"):
            Catalog.open(first.library)
        assert revision_of(first.catalog) == first.expected["schema"]
    finally:
        writer.kill()
        writer.communicate()
    Catalog.open(first.library).close()


KILLED_AT_LINE = """
import os, signal, sys
from pathlib import Path
import alembic.command, alembic.config
from mmsearch.catalog.dialect import sqlite
from mmsearch.disk.presence import is_empty, place_of
from mmsearch.catalog import copies
from mmsearch.catalog.dialect import sqlite
from mmsearch.disk.presence import is_empty, place_of
from mmsearch.catalog import tables
from mmsearch.catalog.dialect import sqlite
from mmsearch.disk.presence import is_empty, place_of
from mmsearch.catalog import Catalog

watched = (copies.__file__, str(Path(sqlite.__file__).parents[1] / "migrations" / "versions"))
for line in sys.stdin:
    library, left = line.rstrip("\\n").split("\\t")
    left = int(left)

    def trace(frame, event, _):
        global left
        if frame.f_code.co_filename.startswith(watched) or frame.f_code.co_name in ("_migrate", "_keep_former"):
            if event == "line":
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

    child = os.fork()
    if not child:
        sys.settrace(trace)
        Catalog.open(Path(library)).close()
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""


def test_killed_at_any_line_a_migration_is_done_or_not_begun(first: Former, tmp_path: Path) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", KILLED_AT_LINE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert program.stdin is not None and program.stdout is not None
    met = set()
    for line in range(1, 1000):
        shutil.rmtree(tmp_path / "killed", ignore_errors=True)
        shutil.copytree(first.library, tmp_path / "killed")
        print(tmp_path / "killed", line, sep="\t", file=program.stdin, flush=True)
        status = int(program.stdout.readline())
        catalog = tmp_path / "killed" / CATALOG_NAME
        kept = list(former_copies(catalog))
        met.add((revision := revision_of(catalog), len(kept)))
        assert revision in (first.expected["schema"], SCHEMA_REVISION), f"between two schemas at line {line}"
        for file in (catalog, *kept):
            assert rows_of(file, first.folder) == first.expected["rows"], f"{file.name} at line {line}"
        assert [revision_of(file) for file in kept] == [first.expected["schema"]] * len(kept)
        assert kept or revision == first.expected["schema"], "a copy is there before the schema changes"
        Catalog.open(tmp_path / "killed").close()
        assert revision_of(catalog) == SCHEMA_REVISION
        assert len(list(former_copies(catalog))) == 1 and list(catalog.parent.glob("*.tmp*")) == []
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    program.communicate()
    assert line > 40 and met == {("0001", 0), ("0001", 1), (SCHEMA_REVISION, 1)}


def test_a_backup_of_every_release_is_restored(former: Former, tmp_path: Path) -> None:
    content = former.catalog.read_bytes()
    manifest = {
        "format": 1,
        "mmsearch": former.expected["mmsearch"],
        "library": str(former.library),
        "items": 12,
        "files": {CATALOG_NAME: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}},
    }
    with zipfile.ZipFile(tmp_path / "saved.zip", "w") as archive:
        archive.writestr(CATALOG_NAME, content)
        archive.writestr(MANIFEST, json.dumps(manifest))
    restore(tmp_path / "saved.zip", tmp_path / "back")
    assert {file.name for file in (tmp_path / "back").iterdir()} == {CATALOG_NAME, LOCK_NAME}, (
        "the backup is the copy to go back to"
    )
    assert revision_of(tmp_path / "back" / CATALOG_NAME) == SCHEMA_REVISION
    assert rows_of(tmp_path / "back" / CATALOG_NAME, former.folder) == former.expected["rows"]
