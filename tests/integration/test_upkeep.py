"""Looking after a library: every damage to what is derived is found and mended without loss, and a backup brings a library back whole."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import mmsearch
from ingest.pipeline import ingest_paths
from mmsearch.catalog.dialect.sqlite import CATALOG_NAME
from mmsearch.catalog.recorded import RECORDED_NAME
from mmsearch.errors import CatalogError, CorruptIndex, LibraryMissing, NewerSchema
from mmsearch.items import KINDS
from mmsearch.library import Library
from mmsearch.upkeep import doctor
from mmsearch.upkeep.backup import backup, restore
from mmsearch.upkeep.doctor import LEFTOVER, examine, is_sound
from tests import samples

QUESTIONS = ("revenue", "whales", "red picture", "quarter")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files, and their library beside it."""
    folder = tmp_path_factory.mktemp("made")
    files = folder / "files"
    files.mkdir()
    samples.pdf(files / "report.pdf", ["Revenue grew in the third quarter", "Staff and offices", None])
    samples.pdf(files / "whales.pdf", ["Whales sing"])
    for name, colour in (("red", samples.RED), ("blue", samples.BLUE)):
        samples.photo(files / f"{name}.jpg", colour)
    samples.scenes(files / "clip.mp4", [1.0, 1.0])
    with mmsearch.open(folder / "library", create=True, model="toy") as library:
        ingest_paths(library, [files])
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that library, its leftovers old enough to be swept."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("MMSEARCH_MODEL", raising=False)
    monkeypatch.setattr(doctor, "STALE_S", -1.0)
    shutil.copytree(made / "library", tmp_path / "library")
    return tmp_path / "library"


@pytest.fixture
def library(folder: Path) -> Iterator[Library]:
    with mmsearch.open(folder) as opened:
        yield opened


def answers(library: Library) -> dict[str, list[tuple[float, str, int]]]:
    """By falling relevance; what is equally relevant by name, whatever its id."""
    return {
        words: sorted(
            (-round(hit.relevance, 5), hit.path.name, hit.item.ordinal)
            for hit in library.search(words, min_relevance=0)
        )
        for words in QUESTIONS
    }


def faults(library: Library, **options: bool) -> list[str]:
    return [one.check for one in examine(library, **options) if one.state == "fault"]


def test_a_library_just_made_is_sound(library: Library) -> None:
    findings = examine(library)
    assert is_sound(findings)
    assert {one.check: one.state for one in findings if one.state != "sound"} == {}
    sample = next(one for one in findings if one.check == "sample")
    assert sample.what.startswith("6 items"), "pages, photos and the clip are embedded once more"


def spoil_words(folder: Path) -> None:
    with closing(sqlite3.connect(folder / CATALOG_NAME)) as database, database:
        database.execute("DELETE FROM words_data WHERE id > 10")


def lose_words(folder: Path) -> None:
    with closing(sqlite3.connect(folder / CATALOG_NAME)) as database, database:
        database.execute("INSERT INTO words(words) VALUES ('delete-all')")


def lose_vector(folder: Path) -> None:
    with closing(sqlite3.connect(folder / CATALOG_NAME)) as database, database:
        database.execute("DELETE FROM vectors WHERE item_id = (SELECT min(item_id) FROM vectors)")


def spoil_vector(folder: Path) -> None:
    with closing(sqlite3.connect(folder / CATALOG_NAME)) as database, database:
        database.execute(
            "UPDATE vectors SET data = zeroblob(length(data)) WHERE item_id = (SELECT max(item_id) FROM vectors)"
        )


def miscount(folder: Path) -> None:
    with closing(sqlite3.connect(folder / CATALOG_NAME)) as database, database:
        database.execute("UPDATE sources SET item_count = 7 WHERE name LIKE '%report.pdf'")


def lose_preview(folder: Path) -> None:
    next((folder / "previews").rglob("*.webp")).unlink()


def spoil_preview(folder: Path) -> None:
    file = sorted((folder / "previews").rglob("*.webp"))[-1]
    file.write_bytes(file.read_bytes()[:40])


def orphan(folder: Path) -> None:
    (folder / "previews" / "00").mkdir(exist_ok=True)
    shutil.copy(next((folder / "previews").rglob("*.webp")), folder / "previews" / "00" / "nobody-0.webp")


def leftovers(folder: Path) -> None:
    (folder / "former-model").mkdir()
    (folder / "former-model" / ".writing").touch()


def altered(*statements: str, **values: object) -> Callable[[Path], None]:
    """Damage by SQL, without the triggers' and keys' help."""

    def damage(folder: Path) -> None:
        with closing(sqlite3.connect(folder / CATALOG_NAME)) as database, database:
            for statement in statements:
                database.execute(statement, values)

    return damage


def flip_a_sign(folder: Path) -> None:
    """One bit of one vector: it stays finite and of unit length, and answers otherwise."""
    with closing(sqlite3.connect(folder / CATALOG_NAME)) as database, database:
        item, data = database.execute("SELECT item_id, data FROM vectors ORDER BY item_id LIMIT 1").fetchone()
        vector = np.frombuffer(data, "<f2").copy()
        vector[np.abs(vector).argmax()] *= -1
        database.execute("UPDATE vectors SET data = ? WHERE item_id = ?", (vector.tobytes(), item))


SOURCE = "(SELECT id FROM sources WHERE name LIKE '%report.pdf')"
ITEM = f"(SELECT min(id) FROM items WHERE source_id = {SOURCE})"
IN_SQL: dict[str, tuple[Callable[[Path], None], str]] = {
    "trigger-lost": (altered("DROP TRIGGER items_hidden"), "schema"),
    "trigger-changed": (
        altered("DROP TRIGGER items_added", "CREATE TRIGGER items_added AFTER INSERT ON items BEGIN SELECT 1; END"), "schema",
    ),
    "trigger-foreign": (altered("CREATE TRIGGER odd AFTER INSERT ON items BEGIN DELETE FROM vectors; END"), "schema"),
    "index-lost": (altered("DROP INDEX sources_holder"), "schema"),
    "id-lost": (altered("DELETE FROM meta WHERE key = 'id'"), "facts"),
    "generation-lost": (altered("DELETE FROM meta WHERE key = 'generation'"), "facts"),
    "generation-behind": (altered("UPDATE meta SET value = '0' WHERE key = 'generation'"), "facts"),
    "active-model-lost": (altered("DELETE FROM meta WHERE key = 'active_model'"), "facts"),
    "active-model-nowhere": (altered("UPDATE meta SET value = '99' WHERE key = 'active_model'"), "facts"),
    "vectors-of-nothing": (
        altered("INSERT INTO vectors (model_id, item_id, generation, data) SELECT 77, item_id, 0, data FROM vectors"), "rows",
    ),
    "items-of-nothing": (
        altered(
            "INSERT INTO items (source_id, kind, visible, generation, ordinal, date_s, meta, name, text)"
            " VALUES (999, 'page', 1, 1, 0, 0, '{}', 'x', 'revenue')"
        ), "rows",
    ),
    "shown-though-deleted": (altered(f"UPDATE sources SET state = 'offline', item_count = 1 WHERE id = {SOURCE}"), "items"),
    "hidden-though-indexed": (altered(f"UPDATE items SET visible = 0 WHERE id = {ITEM}"), "items"),
    "vector-cut": (altered(f"UPDATE vectors SET data = substr(data, 1, 11) WHERE item_id = {ITEM}"), "vectors"),
    "vector-of-another-length": (altered(f"UPDATE vectors SET data = CAST(data || data AS BLOB) WHERE item_id = {ITEM}"), "vectors"),
    "vector-infinite": (altered(f"UPDATE vectors SET data = :all WHERE item_id = {ITEM}", all=b"\x00\x7c" * 64), "vectors"),
    "vector-bit-flipped": (flip_a_sign, "vectors"),
    "vector-of-offline-file-lost": (
        altered(
            f"DELETE FROM vectors WHERE item_id = {ITEM}", f"UPDATE items SET visible = 0 WHERE source_id = {SOURCE}",
            f"UPDATE sources SET state = 'offline' WHERE id = {SOURCE}",
        ), "vectors",
    ),
    "text-not-utf8": (altered(f"UPDATE items SET text = CAST(x'52e9ff41' AS TEXT) WHERE id = {ITEM}"), "texts"),
    "facts-no-json": (altered(f"UPDATE items SET meta = '{{' WHERE id = {ITEM}"), "texts"),
    "kind-unknown": (altered(f"UPDATE items SET kind = 'pagf' WHERE id = {ITEM}"), "texts"),
    "preview-elsewhere": (altered(f"UPDATE items SET preview = 'previews/../lock' WHERE id = {ITEM}"), "previews elsewhere"),
    "calibration-cut": (altered("UPDATE calibrations SET data = substr(data, 1, 101)"), "calibration"),
    "calibration-blank": (altered("UPDATE calibrations SET data = zeroblob(length(data))"), "calibration"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "check"),
    [
        (spoil_words, "words"), (lose_words, "words"), (lose_vector, "vectors"), (spoil_vector, "vectors"), (miscount, "sources"),
        (lose_preview, "previews"), (spoil_preview, "previews"), (orphan, "previews of nothing"), (leftovers, "leftovers"),
    ],
)  # fmt: skip
def test_damage_is_found_and_repaired(made: Path, folder: Path, damage: Callable[[Path], None], check: str) -> None:
    with mmsearch.open(made / "library") as untouched:
        expected = answers(untouched)
    damage(folder)
    with mmsearch.open(folder) as library:
        assert check in faults(library)
        assert not is_sound(examine(library))
        assert is_sound(examine(library, repair=True))
    with mmsearch.open(folder) as library:
        ingest_paths(library, [made / "files"])
        assert faults(library) == []
        assert answers(library) == expected


LEFT = (
    # as `replace_file` names them: a preview, a snapshot, a copied catalog and its journal
    "previews/aa/.aa00-0.webp.4711.tmp", ".recorded.json.4711.tmp", f".{CATALOG_NAME}.before-0003.4711.tmp",
    f".{CATALOG_NAME}.before-0003.4711.tmp-journal",
    # what holds the parts of a backup, or of a library that is restored
    ".backup.zip.abcdefgh.tmp/", ".restoring-abcdefgh/",
    # set aside
    "key/page.faiss.corrupt-1700000000",
    # of older releases: previews, former catalogs, adaptation and the training in it, runs and queries of one's own, backups
    "previews/aa/tmpabcdefgh.tmp", "previews/aa/aa00-0.partial-4711", f"{CATALOG_NAME}.before-0003.partial",
    f"{CATALOG_NAME}.before-0003.partial-wal", "adapted/plan.part", "adapted/pictures/7.png.part", "adapted/pictures/8.part/",
    "adapted/trained/state-0-0000002.pt.part", "adapted/candidate/model.partial", ".run.json.part", ".queries.jsonl.abcd_fgh",
    ".backup.zip.abcd_fgh/",
)  # fmt: skip
"""Names that killed writers leave in a library's folder; those that end in a slash are folders."""


@pytest.mark.parametrize("name", LEFT)
def test_what_any_writer_leaves_behind_is_found(name: str) -> None:
    assert LEFTOVER.search(Path(name).name)


@pytest.mark.parametrize(
    "name",
    [CATALOG_NAME, f"{CATALOG_NAME}-wal", f"{CATALOG_NAME}.before-0003", "lock", "queries.jsonl", ".hidden.jsonl", "a.partly.pt",
     "words.part.pt", "holiday.parts", "state-0-0000002.pt", "backup.zip", "README.md", "tmp", "part"],
)  # fmt: skip
def test_what_belongs_to_a_library_is_no_leftover(name: str) -> None:
    assert not LEFTOVER.search(name)


def test_leftovers_of_every_writer_are_deleted(folder: Path) -> None:
    for name in LEFT:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_bytes(b"half")
    with mmsearch.open(folder) as library:
        (finding,) = (one for one in examine(library, repair=True, quick=True) if one.check == "leftovers")
        assert finding.count == len(LEFT) and finding.repaired == "deleted"
    assert not [name for name in LEFT if (folder / name).exists()]


@pytest.mark.parametrize(("damage", "check"), IN_SQL.values(), ids=IN_SQL)
def test_rows_that_cannot_be_are_found_and_repaired(
    made: Path, folder: Path, damage: Callable[[Path], None], check: str
) -> None:
    with mmsearch.open(made / "library") as untouched:
        expected = answers(untouched)
    damage(folder)
    with mmsearch.open(folder) as library:
        assert check in faults(library, quick=True)
        assert is_sound(examine(library, repair=True, quick=True))
    with mmsearch.open(folder) as library:
        if check in ("vectors", "texts") or "offline" in library.catalog.counts()["sources"]:
            ingest_paths(library, [made / "files"])
        assert faults(library, quick=True) == []
        assert answers(library) == expected


def test_a_flipped_bit_answers_nothing_when_a_store_is_filled(made: Path, folder: Path, caplog) -> None:
    flip_a_sign(folder)
    for file in snapshots(folder):
        file.unlink()
    with mmsearch.open(folder) as library:
        (item,) = library.catalog.items.of([1])
        held = library.stores.of(item.kind).ids()
        assert 1 not in held and "1 stored vectors are damaged" in caplog.text
        ids, vectors = library.catalog.vectors.of([1], str(library.model_key))
        assert ids.tolist() == [1] and not vectors.any()


def with_its_log(folder: Path, to: Path, files: Path) -> Path:
    """A copy of a library, made while a writer still has it open: its last commits are in the write-ahead log alone."""
    with mmsearch.open(folder) as library:
        ingest_paths(library, [files])
        shutil.copytree(folder, to, ignore=shutil.ignore_patterns("lock", "*-shm"))
    assert (to / f"{CATALOG_NAME}-wal").stat().st_size > 0
    return to


def lose_log(library: Path) -> None:
    (library / f"{CATALOG_NAME}-wal").unlink()


def cut_log(library: Path) -> None:
    log = library / f"{CATALOG_NAME}-wal"
    os.truncate(log, log.stat().st_size // 2)


def cut_the_end_of_the_log(library: Path) -> None:
    log = library / f"{CATALOG_NAME}-wal"
    os.truncate(log, log.stat().st_size - 100)


class TestALostLog:
    @pytest.fixture
    def more(self, made: Path, tmp_path: Path) -> Path:
        """The files of the library, and one that is ingested last."""
        files = tmp_path / "more"
        files.mkdir()
        samples.photo(files / "late.png", (1, 200, 100))
        return files

    def test_a_log_that_is_there_is_no_fault(self, folder: Path, more: Path, tmp_path: Path) -> None:
        with mmsearch.open(with_its_log(folder, tmp_path / "copy", more)) as library:
            assert library.search("late") and faults(library, quick=True) == []

    @pytest.mark.parametrize("lose", [lose_log, cut_log, cut_the_end_of_the_log])
    def test_it_is_found_said_and_kept_on_record(
        self, folder: Path, more: Path, tmp_path: Path, lose: Callable[[Path], None], caplog
    ) -> None:
        with mmsearch.open(folder) as before:
            generation, count = before.catalog.generation(), sum(before.item_counts().values())
        copy = with_its_log(folder, tmp_path / "copy", more)
        lose(copy)
        with mmsearch.open(copy) as library:
            (finding,) = (one for one in examine(library, quick=True) if one.check == "log")
            assert finding.state == "fault" and "was lost or cut" in finding.what
            assert f"with {count + 1} items was recorded" in finding.what
            assert library.catalog.generation() >= generation
            ingest_paths(library, [more])  # goes beyond what was recorded, and does not hide it
            assert "was lost or cut" in caplog.text
            assert library.search("late")
        with mmsearch.open(copy) as library:
            assert faults(library, quick=True) == ["log"]
            assert is_sound(examine(library, quick=True, repair=True))
            assert faults(library, quick=True) == []

    def test_an_older_backup_is_no_loss(self, folder: Path, more: Path, tmp_path: Path) -> None:
        backup(folder, tmp_path / "a.zip")
        with mmsearch.open(folder) as library:
            ingest_paths(library, [more])
        (folder / CATALOG_NAME).unlink()
        restore(tmp_path / "a.zip", folder)
        with mmsearch.open(folder) as library:
            assert "log" not in faults(library, quick=True)

    @pytest.mark.parametrize("odd", [b"", b"{", b"[]", b'{"schema": 1, "state": 3, "loss": null}', b"\xff"])
    def test_a_damaged_record_says_nothing(self, folder: Path, odd: bytes) -> None:
        (folder / RECORDED_NAME).write_bytes(odd)
        with mmsearch.open(folder) as library:
            assert faults(library, quick=True) == []

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("at", 1e30),
            ("at", float("nan")),
            ("at", -1e30),
            ("generation", float("inf")),
            ("items", -1),
            ("log_bytes", -5),
        ],
    )
    def test_a_record_with_impossible_values_says_nothing(self, folder: Path, name: str, value: float) -> None:
        """Beyond the catalog's generation, so that it would be told as a loss."""
        content = json.loads((folder / RECORDED_NAME).read_bytes())
        content["state"] |= {"generation": 10**9, name: value}
        (folder / RECORDED_NAME).write_text(json.dumps(content))
        with mmsearch.open(folder) as library:
            assert faults(library, quick=True) == []


def snapshots(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and file.parent.name.startswith("toy") and file.name != ".writing"
    )


def many_vectors(folder: Path) -> Path:
    """The library's own vectors as those of a model that gives each item three, so that its snapshots are of the other kind."""
    with closing(sqlite3.connect(folder / CATALOG_NAME)) as database, database:
        database.execute("UPDATE models SET is_multi_vector = 1")
        database.execute("UPDATE vectors SET data = CAST(data || data || data AS BLOB), checksum = NULL")
        database.execute("DELETE FROM calibrations")
    for file in snapshots(folder):
        file.unlink()
    return folder


@pytest.mark.parametrize("store", ["one vector", "many vectors"])
@pytest.mark.parametrize("how", ["deleted", "cut", "garbage", "emptied", "a folder", "other JSON"])
def test_every_derived_file_may_be_damaged(
    folder: Path, how: str, store: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other: said in one line that names it, made again from the catalog, and never by the model."""
    if store == "many vectors":
        many_vectors(folder)

    def found() -> dict[str, tuple[list[int], list[float]]]:
        with mmsearch.open(folder) as library:
            kinds = [kind for kind in KINDS if library.item_counts().get(kind)]
            query = np.full((1, 64) if store == "many vectors" else 64, 1 / 8, np.float32)
            near = {kind: library.stores.nearest(kind, query, 100) for kind in kinds}
            return {kind: (ids.tolist(), scores.tolist()) for kind, (ids, scores) in near.items()}

    monkeypatch.setattr("mmsearch.embedders.load_embedder", lambda *_, **__: pytest.fail("the model is loaded"))
    expected = found()
    assert found() == expected and not caplog.records
    count = len(snapshots(folder))
    assert count >= 6, "an index and a manifest for each kind"
    for number in range(count):  # of many vectors, files get another name when they are made again
        file = snapshots(folder)[number]
        name = file.relative_to(folder)
        content = file.read_bytes()
        file.unlink()
        if how == "a folder":
            file.mkdir()
        elif how != "deleted":
            file.write_bytes(
                {
                    "cut": content[: len(content) // 2],
                    "garbage": b"\x93" * len(content),
                    "emptied": b"",
                    "other JSON": b"[]",
                }[how]
            )
        caplog.clear()
        assert found() == expected
        (said,) = [record.getMessage() for record in caplog.records]
        assert str(folder / name.parent) in said and name.name in said
        caplog.clear()
        assert found() == expected and not caplog.records, "the next one finds it whole again"
        with mmsearch.open(folder) as library:
            assert is_sound(examine(library, quick=True, repair=True))


@pytest.mark.parametrize("what", ["lock of the snapshots", "folder of the model", "preview", "note of the writer"])
def test_what_is_no_file_gives_way(made: Path, folder: Path, what: str, caplog: pytest.LogCaptureFixture) -> None:
    with mmsearch.open(made / "library") as untouched:
        expected = answers(untouched)
    place = {
        "lock of the snapshots": folder / "toy-1" / ".writing",
        "folder of the model": folder / "toy-1",
        "preview": next((folder / "previews").rglob("*.webp")),
        "note of the writer": folder / "lock",
    }[what]
    if what == "folder of the model":
        shutil.rmtree(place)
        place.write_bytes(b"no folder")
    elif what == "note of the writer":
        place.write_bytes(b"\x93 no note")
    else:
        place.unlink(missing_ok=True)
        place.mkdir()
    with mmsearch.open(folder) as library:
        assert answers(library) == expected
        ingest_paths(library, [made / "files"])
        assert is_sound(examine(library, repair=True))
        assert is_sound(examine(library))
        assert answers(library) == expected
    if what in ("lock of the snapshots", "folder of the model"):
        assert len(caplog.records) == 1 and f"{place} is not what belongs there" in caplog.text


def test_a_damaged_catalog_is_named_and_left_as_it_is(folder: Path) -> None:
    file = folder / CATALOG_NAME
    content = bytearray(file.read_bytes())
    content[4096:12288] = b"\xff" * 8192
    file.write_bytes(content)
    with pytest.raises(CorruptIndex, match="damaged"), mmsearch.open(folder) as library:
        examine(library, repair=True)
    assert file.read_bytes() == bytes(content)


def test_an_empty_library_is_sound(tmp_path: Path) -> None:
    with mmsearch.open(tmp_path / "new", create=True, model="toy") as library:
        assert is_sound(examine(library))


# Backups


def test_a_backup_brings_the_library_back(made: Path, folder: Path, tmp_path: Path) -> None:
    with mmsearch.open(folder) as library:
        expected, items = answers(library), sum(library.item_counts().values())
    saved = backup(folder, tmp_path / "saved.zip")
    assert (saved.items, saved.previews, saved.missing) == (items, items, 0)
    shutil.rmtree(folder)
    assert restore(saved.file, folder).items == items
    with mmsearch.open(folder) as library:
        assert answers(library) == expected
        assert is_sound(examine(library))
        again = ingest_paths(library, [made / "files"])
        assert sum(again.items.values()) == 0, "nothing is embedded again"


def test_a_backup_while_another_writes(folder: Path, tmp_path: Path) -> None:
    samples.photo(tmp_path / "more" / "green.jpg", (0, 255, 0)) if (tmp_path / "more").mkdir() is None else None
    stop = threading.Event()

    def write() -> None:
        with mmsearch.open(folder) as library:
            while not stop.is_set():
                with library.lock():
                    library.catalog.models.register("toy-other-000000000000", 64, "other")
                    library.catalog.models.remove("toy-other-000000000000")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        saved = [backup(folder, tmp_path / f"{n}.zip") for n in range(3)]
    finally:
        stop.set()
        writer.join()
    for number, one in enumerate(saved):
        restore(one.file, tmp_path / f"restored-{number}")
        with mmsearch.open(tmp_path / f"restored-{number}") as library:
            assert is_sound(examine(library, quick=True))


def test_nothing_is_overwritten(folder: Path, tmp_path: Path) -> None:
    saved = backup(folder, tmp_path / "saved.zip")
    before = saved.file.read_bytes()
    with pytest.raises(CatalogError, match="exists already"):
        backup(folder, saved.file)
    with pytest.raises(CatalogError, match="there is a library"):
        restore(saved.file, folder)
    assert saved.file.read_bytes() == before
    assert backup(folder, saved.file, overwrite=True).items == saved.items


def test_no_library_no_backup(tmp_path: Path) -> None:
    with pytest.raises(LibraryMissing):
        backup(tmp_path / "nowhere", tmp_path / "saved.zip")
    assert list(tmp_path.glob("*.zip")) == []
    with pytest.raises(CatalogError, match="no backup at"):
        restore(tmp_path / "saved.zip", tmp_path / "library")


def rewritten(file: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The archive with its entries changed."""
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    target = file.with_name("changed.zip")
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return target


def flip(entries: dict[str, bytes]) -> None:
    name = next(name for name in entries if name.startswith("previews/"))
    entries[name] = entries[name][:-1] + bytes([entries[name][-1] ^ 1])


def drop(entries: dict[str, bytes]) -> None:
    del entries[CATALOG_NAME]


def climb(entries: dict[str, bytes]) -> None:
    manifest = json.loads(entries["manifest.json"])
    name = next(name for name in entries if name.startswith("previews/"))
    entries["../outside"] = entries[name]
    manifest["files"]["../outside"] = manifest["files"][name]
    entries["manifest.json"] = json.dumps(manifest).encode()


def adding(name: str, content: bytes = b"model = 'toy'") -> Callable[[dict[str, bytes]], None]:
    """A file more, listed as it should be."""

    def change(entries: dict[str, bytes]) -> None:
        manifest = json.loads(entries["manifest.json"])
        manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        entries[name] = content
        entries["manifest.json"] = json.dumps(manifest).encode()

    change.__name__ = name
    return change


def saying(**manifest: object) -> Callable[[dict[str, bytes]], None]:
    """A manifest with other values; `files` are added to those that are listed."""

    def change(entries: dict[str, bytes]) -> None:
        files = manifest.get("files")
        said = json.loads(entries["manifest.json"])
        entries["manifest.json"] = json.dumps(
            said | manifest | ({"files": said["files"] | files} if isinstance(files, dict) else {})
        ).encode()

    change.__name__ = f"saying-{'-'.join(manifest)}"
    return change


def no_manifest(entries: dict[str, bytes]) -> None:
    entries["manifest.json"] = b"[1, 2]"


HOSTILE = [
    flip, drop, climb, no_manifest, adding("config.toml"), adding("lock"), adding("catalog.sqlite3-wal"), adding("/tmp/outside"),
    adding("toy-1/page.faiss"), adding("toy-1/page.json"), adding("previews/../config.toml"), adding("previews/./../lock"),
    adding("adapted/model/config.json"), adding("previews"), adding("catalog.sqlite3/x"), adding("./catalog.sqlite3"), adding("previews/a\0b"),
    saying(items="many"), saying(files=[1]), saying(files={"previews/a.webp": {"bytes": 1 << 50, "sha256": ""}}),
    saying(files={"previews/a.webp": {"bytes": "1", "sha256": ""}}), saying(files={"previews/a.webp": None}),
]  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE, ids=lambda change: change.__name__)
def test_a_damaged_or_hostile_backup_restores_nothing(
    folder: Path, tmp_path: Path, change: Callable[..., None]
) -> None:
    changed = rewritten(backup(folder, tmp_path / "saved.zip").file, change)
    with pytest.raises(CorruptIndex, match="nothing was restored"):
        restore(changed, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == [] and not (tmp_path / "outside").exists()


def test_a_backup_cut_anywhere_restores_nothing(folder: Path, tmp_path: Path) -> None:
    content = backup(folder, tmp_path / "saved.zip").file.read_bytes()
    for n in range(50):
        cut = tmp_path / "cut.zip"
        cut.write_bytes(content[: len(content) * n // 50 + n])
        with pytest.raises(CorruptIndex, match="nothing was restored"):
            restore(cut, tmp_path / "new")
        assert list((tmp_path / "new").iterdir()) == []


def test_an_archive_that_grows_when_it_is_unpacked_is_refused(folder: Path, tmp_path: Path) -> None:
    saved = backup(folder, tmp_path / "saved.zip").file
    with zipfile.ZipFile(saved) as archive, zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in archive.namelist():
            bomb.writestr(name, archive.read(name))
    with pytest.raises(CorruptIndex, match="is compressed"):
        restore(tmp_path / "bomb.zip", tmp_path / "new")


def test_what_a_hostile_catalog_holds_is_taken_out(folder: Path, tmp_path: Path) -> None:
    altered(
        "CREATE TRIGGER odd AFTER UPDATE ON sources BEGIN DELETE FROM vectors; END",
        f"UPDATE items SET preview = 'previews/../../victim' WHERE id = {ITEM}",
    )(folder)
    victim = tmp_path / "victim"
    victim.write_text("kept")
    restore(backup(folder, tmp_path / "saved.zip").file, tmp_path / "new")
    with mmsearch.open(tmp_path / "new") as library:
        assert faults(library, quick=True) == []
        library.catalog.sources.retire([row.id for row in library.catalog.sources.rows()])
        library.compact()
    with mmsearch.open(folder) as library:
        assert all(
            item.preview is None or item.preview.is_relative_to(folder / "previews")
            for row in library.catalog.sources.rows()
            for item in library.catalog.items.of_source(row.id)
        )
        library.catalog.sources.retire([row.id for row in library.catalog.sources.rows()])
        library.compact()
    assert victim.read_text() == "kept"


def test_a_restored_library_is_of_its_folder_alone(made: Path, folder: Path, tmp_path: Path) -> None:
    """Files of others in the folder stay; the model inside, the log's mode and the offline file come back."""
    (folder / "adapted" / "mine").mkdir(parents=True)
    (folder / "adapted" / "mine" / "config.json").write_text("{}")
    with mmsearch.open(folder) as library:
        library.catalog.models.register("mine-1", 4, str(folder / "adapted" / "mine"))
        library.catalog.sources.retire([library.catalog.sources.rows()[0].id], offline=True)
    saved = backup(folder, tmp_path / "saved.zip").file
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "notes.txt").write_text("mine")
    restore(saved, tmp_path / "new")
    assert (tmp_path / "new" / "notes.txt").read_text() == "mine"
    with mmsearch.open(tmp_path / "new") as library:
        assert library.catalog.models.name("mine-1") == str(tmp_path / "new" / "adapted" / "mine")
        assert (tmp_path / "new" / "adapted" / "mine" / "config.json").read_text() == "{}"
        assert library.catalog.counts()["sources"]["offline"] == 1
        assert faults(library, quick=True) == []
    with closing(sqlite3.connect(tmp_path / "new" / CATALOG_NAME)) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",), "readers and a writer at once"


def test_a_cut_backup_and_one_of_a_newer_schema(folder: Path, tmp_path: Path) -> None:
    saved = backup(folder, tmp_path / "saved.zip").file
    (tmp_path / "cut.zip").write_bytes(saved.read_bytes()[:-200])
    with pytest.raises(CorruptIndex, match="nothing was restored"):
        restore(tmp_path / "cut.zip", tmp_path / "new")
    with closing(sqlite3.connect(folder / CATALOG_NAME)) as database, database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    newer = tmp_path / "newer"
    restore(saved, newer)
    with closing(sqlite3.connect(newer / CATALOG_NAME)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(NewerSchema):
        backup(newer, tmp_path / "newer.zip")
