from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from mmsearch.catalog import Catalog, Filters, Plan, left_out, tables
from mmsearch.catalog.dialect import sqlite
from mmsearch.catalog.filters import glob_pattern
from mmsearch.catalog.integrity import Integrity
from mmsearch.catalog.left_out import MAX_LISTED, LeftOuts
from mmsearch.errors import (
    CatalogError,
    ConfigError,
    CorruptFile,
    CorruptIndex,
    DimensionMismatch,
    EncryptedFile,
    LibraryMissing,
    NewerSchema,
)
from mmsearch.items import KINDS, ItemDraft, Kind, Source
from mmsearch.ranking.terms import SUBSTRING_WEIGHT, terms_of
from tests.torture import globs

DIM = 8
KEY = "model-a"


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog.open(tmp_path / "library", create=True) as opened:
        yield opened


def source(path: str, content: str = "", *, modified_ns: int = 1_700_000_000_000_000_000) -> Source:
    return Source(Path(path), hashlib.sha256((content or path).encode()).hexdigest(), 100, modified_ns)


def vector(seed: int) -> np.ndarray:
    v = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return v / np.linalg.norm(v)


def draft(of: Source, ordinal: int = 0, words: str = "", kind: Kind = "page", **more: object) -> ItemDraft:
    page = ordinal + 1 if kind == "page" else None
    return ItemDraft(of, kind, ordinal, page_number=page, text=words, **more)  # type: ignore[arg-type]


def index(catalog: Catalog, of: Source, *texts: str, key: str = KEY, kind: Kind = "page", finish: bool = True) -> int:
    """Index a source whose item n has text n; its vector is `vector(n)` for any model."""
    source_id = catalog.sources.begin(of, model_key=key)
    drafts = [draft(of, n, words, kind) for n, words in enumerate(texts)]
    catalog.items.save(source_id, drafts, np.stack([vector(n) for n in range(len(texts))]), key)
    if finish:
        catalog.sources.finish(source_id)
    return source_id


def words_found(catalog: Catalog, query: str, kinds: tuple[Kind, ...] = KINDS) -> list[int]:
    return catalog.text.match(query, 100, kinds).ids.tolist()


def all_ids(catalog: Catalog) -> list[int]:
    return sorted(i for kind in KINDS for ids, _ in catalog.vectors.blocks(KEY, kind) for i in ids.tolist())


def query_all(catalog: Catalog, statement: str, parameters: Any = ()) -> list[tuple]:
    with sqlite3.connect(catalog.folder / sqlite.CATALOG_NAME) as raw:
        rows = raw.execute(statement, parameters).fetchall()
    raw.close()
    return rows


# ---- opening


def test_a_library_is_for_its_owner_alone(tmp_path: Path) -> None:
    """It holds the text of files that others may not read."""
    Catalog.open(tmp_path / "made", create=True).close()
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700
    (tmp_path / "there").mkdir(mode=0o755)
    Catalog.open(tmp_path / "there", create=True).close()
    assert stat.S_IMODE((tmp_path / "there").stat().st_mode) == 0o755  # a folder of one's own keeps its rights


def test_errors_of_the_database_tell_no_contents(catalog: Catalog) -> None:
    with catalog.reading() as connection, pytest.raises(SQLAlchemyError) as raised:
        connection.execute(text("SELECT :words FROM nothing"), {"words": "what a page says"})
    assert "nothing" in str(raised.value) and "what a page says" not in str(raised.value)


def test_the_migrations_build_the_tables_that_the_code_describes(catalog: Catalog) -> None:
    inspector = inspect(catalog.engine)
    for table in tables.metadata.sorted_tables:
        built = {c["name"]: (str(c["type"]), c["nullable"]) for c in inspector.get_columns(table.name)}
        described = {c.name: (str(c.type.compile(catalog.engine.dialect)), bool(c.nullable)) for c in table.columns}
        assert built == described, table.name
        indexes = {i["name"]: (i["column_names"], bool(i["unique"])) for i in inspector.get_indexes(table.name)}
        assert indexes == {str(i.name): ([c.name for c in i.columns], bool(i.unique)) for i in table.indexes}, (
            table.name
        )
    plain = {t for t in inspector.get_table_names() if not t.startswith(("words", "trigrams", "alembic", "sqlite"))}
    assert plain == set(tables.metadata.tables)


def test_the_newest_migration_is_the_revision_that_the_code_names() -> None:
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(Path(sqlite.__file__).parents[1] / "migrations"))
    assert script.get_heads() == [sqlite.SCHEMA_REVISION]


def test_pragmas(catalog: Catalog) -> None:
    with catalog.engine.connect() as c:
        found = [c.execute(text(f"PRAGMA {p}")).scalar() for p in ("journal_mode", "foreign_keys", "busy_timeout")]
    assert found == ["wal", 1, 30_000]


def test_no_library_there(tmp_path: Path) -> None:
    with pytest.raises(LibraryMissing, match="mmsearch ingest"):
        Catalog.open(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_newer_schema_is_refused_and_left_alone(catalog: Catalog) -> None:
    file = catalog.folder / sqlite.CATALOG_NAME
    catalog.close()
    with sqlite3.connect(file) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '0099'")
    raw.close()
    for create in (False, True):
        with pytest.raises(NewerSchema, match=rf"0099.*{sqlite.SCHEMA_REVISION}"):
            Catalog.open(catalog.folder, create=create)
    assert sqlite3.connect(file).execute("SELECT version_num FROM alembic_version").fetchone() == ("0099",)


def test_a_library_of_the_first_schema_opens_with_its_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as then:
        then.setattr(sqlite, "SCHEMA_REVISION", "0001")
        Catalog.open(tmp_path, create=True).close()
    with sqlite3.connect(tmp_path / sqlite.CATALOG_NAME) as raw:
        columns = [row[1] for row in raw.execute("PRAGMA table_info(models)")]
        assert columns == ["id", "key", "dim", "name"]
        raw.execute("INSERT INTO models VALUES (1, 'model-a', 2, 'mini')")
        raw.execute("INSERT INTO meta VALUES ('active_model', '1')")
        raw.execute(
            "INSERT INTO sources VALUES (1, x'2f61', '/a', 'ff', 1, 1, 'indexed', NULL, NULL, NULL, 1, 'model-a', 0)"
        )
        raw.execute(
            "INSERT INTO items VALUES (1, 1, 'page', 1, NULL, 0, 0, 1, NULL, NULL, 0, NULL, '{}', 'a', 'plums')"
        )
        raw.execute("INSERT INTO vectors VALUES (1, 1, 1, 0, ?)", (np.float16([0.6, 0.8]).tobytes(),))
    raw.close()
    with Catalog.open(tmp_path) as catalog:
        assert (catalog.models.dims(), catalog.models.is_multi_vector("model-a")) == ({"model-a": 2}, False)
        ids, vectors = catalog.vectors.of([1], "model-a")
        assert ids.tolist() == [1]
        np.testing.assert_allclose(vectors, [[0.6, 0.8]], atol=1e-3)
        assert catalog.text.match("plums", 5, KINDS).ids.tolist() == [1]
        catalog.models.register("model-b", 2, is_multi_vector=True)
    with Catalog.open(tmp_path) as catalog:
        assert catalog.models.is_multi_vector("model-b")


def test_items_of_many_vectors(catalog: Catalog) -> None:
    """Items of 3 and 1 vectors: read back whole, in blocks, copied with their source; a store's tail names them only."""
    of, copy = source("/a.pdf"), source("/b.pdf", "/a.pdf")
    items = [np.stack([vector(0), vector(1), vector(2)]), vector(3)[None]]
    source_id = catalog.sources.begin(of, model_key=KEY)
    catalog.items.save(source_id, [draft(of, 0, "plums"), draft(of, 1, "pears")], items, KEY)
    catalog.sources.finish(source_id)
    assert (catalog.models.is_multi_vector(KEY), catalog.models.dims()) == (True, {KEY: DIM})
    catalog.sources.copy(source_id, copy)
    ids, got = catalog.vectors.of([4, 1, 2, 3], KEY)
    assert ids.tolist() == [1, 2, 3, 4]
    for found, given in zip(got, [*items, *items], strict=True):
        assert (found.shape, found.dtype) == (given.shape, np.float32)
        np.testing.assert_allclose(found, given, atol=1e-3)
    assert [[len(one) for one in some] for _, some in catalog.vectors.blocks(KEY, "page", block=3)] == [[3, 1, 3], [1]]
    tail = catalog.vectors.tail(KEY, "page", 0)
    assert (tail.added.tolist(), tail.vectors) == ([1, 2, 3, 4], None)
    catalog.vectors.save_generic_queries(KEY, "page", "v1", items)
    kept = catalog.vectors.generic_queries(KEY, "page", "v1")
    assert kept is not None and [len(one) for one in kept] == [3, 1]
    np.testing.assert_allclose(np.concatenate(kept), np.concatenate(items), atol=1e-3)
    with pytest.raises(DimensionMismatch):
        catalog.vectors.save_generic_queries(KEY, "page", "v1", [np.eye(4, dtype=np.float32)])
    other = catalog.sources.begin(source("/c.pdf"), model_key=KEY)
    for odd, error in ((vector(1)[None], CatalogError), ([items[0][:, :4]], ValueError), ([items[0] * 2], ValueError)):
        with pytest.raises(error):
            catalog.items.save(other, [draft(source("/c.pdf"))], odd, KEY)


def test_an_existing_catalog_opens_without_alembic(catalog: Catalog) -> None:
    catalog.close()
    code = (
        "import sys; from pathlib import Path; from mmsearch.catalog import Catalog;"
        "Catalog.open(Path(sys.argv[1])).close(); print('alembic' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(catalog.folder)], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


def corrupt_middle(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[100:4096] = b"\xff" * 3996
    file.write_bytes(data)


@pytest.mark.parametrize("damage", ["garbage", "other-database", "first-page"])
def test_damage_is_named_and_never_overwritten(catalog: Catalog, damage: str) -> None:
    index(catalog, source("/a.pdf"), "x")
    file = catalog.folder / sqlite.CATALOG_NAME
    catalog.close()
    if damage == "garbage":
        file.write_bytes(b"this is no database\n" * 500)
    elif damage == "first-page":
        corrupt_middle(file)
    else:
        file.unlink()
        with sqlite3.connect(file) as raw:
            raw.execute("CREATE TABLE recipes (name TEXT)")
        raw.close()
    before = file.read_bytes()
    for create in (False, True):
        with pytest.raises(CorruptIndex, match=r"catalog\.sqlite3 is damaged"):
            Catalog.open(catalog.folder, create=create)
    assert file.read_bytes() == before


def test_damage_met_later_is_named_too(catalog: Catalog) -> None:
    index(catalog, source("/a.pdf"), *(f"word{n} " * 300 for n in range(40)))
    file = catalog.folder / sqlite.CATALOG_NAME
    catalog.close()
    data = bytearray(file.read_bytes())
    for page in range(2, len(data) // 4096):
        data[page * 4096 : page * 4096 + 64] = b"\xee" * 64
    file.write_bytes(data)
    with pytest.raises(CorruptIndex), Catalog.open(catalog.folder) as opened:
        opened.items.of(range(100))
        list(opened.vectors.blocks(KEY, "page"))
        opened.sources.compare([], [], KEY)


def test_a_file_left_empty_by_a_crash_is_filled(tmp_path: Path) -> None:
    (tmp_path / sqlite.CATALOG_NAME).touch()
    with pytest.raises(LibraryMissing):
        Catalog.open(tmp_path)
    with Catalog.open(tmp_path, create=True) as opened:
        assert opened.generation() == 0


def test_reading_only(catalog: Catalog) -> None:
    source_id = index(catalog, source("/a.pdf"), "apples")
    with Catalog.open(catalog.folder, read_only=True) as reader:
        assert words_found(reader, "apples") == [1]
        assert reader.vectors.tail(KEY, "page", 0).added.tolist() == [1]
        with pytest.raises(CatalogError, match="reading only"):
            reader.sources.retire([source_id])


@pytest.mark.parametrize("is_logged", [False, True], ids=["closed", "left open"])
def test_reading_from_a_disk_that_cannot_be_written(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_logged: bool
) -> None:
    """Without the `-shm` file and without the right to make one: what was committed is found, be it only in the log yet."""
    index(catalog, source("/a.pdf"), "apples")
    folder = tmp_path / "burnt"
    if not is_logged:
        catalog.close()
    shutil.copytree(catalog.folder, folder, ignore=shutil.ignore_patterns("*-shm"))
    names = sorted(f.name for f in folder.iterdir())
    assert len(names) == 1 + is_logged
    opened = sqlite._opened

    def refusing(file: Path, options: str, *args: object, **more: object) -> object:
        if options in ("mode=ro", "mode=rwc"):
            opened(file.with_name("absent"), "mode=ro")  # what SQLite says there: unable to open database file
        return opened(file, options, *args, **more)

    monkeypatch.setattr(sqlite, "_opened", refusing)
    monkeypatch.setattr(sqlite.os, "access", lambda *_: False)
    with Catalog.open(folder) as reader:
        assert reader.read_only
        assert words_found(reader, "apples") == [1]
        assert words_found(reader, "apples") == [1]
    assert sorted(f.name for f in folder.iterdir()) == names


# ---- a source's life


def test_items_are_found_as_soon_as_they_are_saved(catalog: Catalog) -> None:
    of = source("/talks/Q3.pdf")
    source_id = catalog.sources.begin(of, model_key=KEY)
    assert catalog.generation() == 0 and catalog.models.active_key() is None
    ids = catalog.items.save(source_id, [draft(of, 0, "revenue")], vector(0)[None], KEY, previews=["previews/1.webp"])
    assert words_found(catalog, "revenue") == ids == all_ids(catalog)
    assert catalog.models.active_key() == KEY
    assert catalog.counts()["sources"] == {"pending": 1}
    catalog.sources.finish(source_id)
    assert catalog.counts() == {"items": {"page": 1}, "vectors": {"page": 1}, "sources": {"indexed": 1}}
    item = catalog.items.get(ids[0])
    assert (item.path, item.kind, item.page_number, item.text) == (Path("/talks/Q3.pdf"), "page", 1, "revenue")
    assert item.preview == catalog.folder / "previews/1.webp"
    with pytest.raises(KeyError):
        catalog.items.get(99)
    assert [i.id for i in catalog.items.of([99, ids[0]])] == ids


def test_what_an_item_carries_comes_back(catalog: Catalog) -> None:
    odd = Path(os.fsdecode(b"/videos/\xff\xfe caf\xc3\xa9.mp4"))
    of = Source(odd, "0" * 64, 1, 2)
    meta = {"captured_at": "2024-05-06T07:08:09", "gps": [1.5, -2.25], "camera": "Kämera"}
    made = ItemDraft(of, "clip", 3, start_s=1.25, end_s=7.125, text="Ünïcode \ud800 \0 text", meta=meta)
    source_id = catalog.sources.begin(of, model_key=KEY)
    (item_id,) = catalog.items.save(source_id, [made], vector(0)[None], KEY)
    item = catalog.items.get(item_id)
    assert os.fsencode(item.path) == os.fsencode(odd)
    assert (item.kind, item.ordinal, item.page_number, item.start_s, item.end_s) == ("clip", 3, None, 1.25, 7.125)
    assert item.meta == meta
    assert item.text == "Ünïcode ? " + " " * 2 + "text"
    assert words_found(catalog, "cafe") == [item_id], "diacritics do not matter, undecodable bytes neither"


def test_vectors_are_float16_and_come_back_with_unit_length(catalog: Catalog) -> None:
    index(catalog, source("/a.pdf"), *"abcdefgh")
    wanted = np.stack([vector(n) for n in range(8)])
    ids, got = catalog.vectors.of([3, 1, 99], KEY)
    assert ids.tolist() == [1, 3]
    np.testing.assert_allclose(got, wanted[[0, 2]], atol=5e-4)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)
    blocks = list(catalog.vectors.blocks(KEY, "page", block=3))
    assert [ids.tolist() for ids, _ in blocks] == [[1, 2, 3], [4, 5, 6], [7, 8]]
    assert [len(ids) for ids, _ in catalog.vectors.blocks(KEY, "page", after_id=6)] == [2]
    assert query_all(catalog, "SELECT DISTINCT length(data) FROM vectors") == [(2 * DIM,)]


@pytest.mark.parametrize("fault", ["nan", "zero", "long", "dim", "unknown-source"])
def test_a_refused_batch_leaves_nothing_behind(catalog: Catalog, fault: str) -> None:
    of = source("/a.pdf")
    source_id = index(catalog, of, "before", finish=False)
    generation = catalog.generation()
    vectors = np.stack([vector(n) for n in range(3)])
    if fault == "dim":
        vectors = np.eye(3, DIM + 1, dtype=np.float32)
    elif fault != "unknown-source":
        vectors[2] *= {"nan": np.nan, "zero": 0, "long": 1.1}[fault]
    rows = [(source_id, draft(of, n + 5, "new"), vectors[n], None) for n in range(3)]
    if fault == "unknown-source":
        rows[2] = (77, *rows[2][1:])
    error = {"dim": DimensionMismatch, "unknown-source": CatalogError}.get(fault, ValueError)
    with pytest.raises(error):
        catalog.items.save_batch(rows, KEY)
    assert all_ids(catalog) == [1] and words_found(catalog, "new") == []
    assert catalog.generation() == generation


def test_what_is_written_together_is_kept_together_or_not_at_all(catalog: Catalog) -> None:
    with Catalog.open(catalog.folder, read_only=True) as other:
        with catalog.transaction():
            index(catalog, source("/a.pdf"), "one")
            index(catalog, source("/b.pdf"), "two")
            assert [row.path for row in catalog.sources.rows()] == [Path("/a.pdf"), Path("/b.pdf")]
            assert other.sources.rows() == []
        assert [row.path for row in other.sources.rows()] == [Path("/a.pdf"), Path("/b.pdf")]
        generation = other.generation()
        with pytest.raises(KeyError), catalog.transaction():
            index(catalog, source("/c.pdf"), "three")
            raise KeyError
        assert len(other.sources.rows()) == len(catalog.sources.rows()) == 2 and other.generation() == generation
    index(catalog, source("/d.pdf"), "four")
    assert len(catalog.sources.rows()) == 3


def test_a_changed_file_gives_way_in_one_step(catalog: Catalog) -> None:
    old = index(catalog, source("/a.pdf", "v1"), "apples", "pears")
    new = source("/a.pdf", "v2")
    new_id = catalog.sources.begin(new, model_key=KEY, replaces=old)
    catalog.items.save(new_id, [draft(new, 0, "plums")], vector(5)[None], KEY)
    assert all_ids(catalog) == [1, 2] and words_found(catalog, "plums") == []
    assert catalog.items.of([3]) == []
    assert len(catalog.vectors.of([3], KEY)[0]) == 0
    catalog.sources.finish(new_id)
    assert all_ids(catalog) == [3]
    assert (words_found(catalog, "plums"), words_found(catalog, "apples")) == ([3], [])
    assert [row.sha256 for row in catalog.sources.rows()] == [new.sha256]
    tail = catalog.vectors.tail(KEY, "page", 2)
    assert (tail.added.tolist(), tail.removed.tolist()) == ([3], [1, 2])


def test_a_changed_file_is_known_as_such_without_being_told(catalog: Catalog) -> None:
    index(catalog, source("/a.pdf", "v1"), "apples")
    new_id = catalog.sources.begin(source("/a.pdf", "v2"), model_key=KEY)
    catalog.items.save(new_id, [draft(source("/a.pdf", "v2"), 0, "plums")], vector(5)[None], KEY)
    assert words_found(catalog, "plums") == []
    catalog.sources.finish(new_id)
    assert words_found(catalog, "apples plums") == [2]


def test_no_file_costs_a_look_at_all_the_others(catalog: Catalog) -> None:
    """What a file's life asks of the catalog is answered by indexes, or a hundred thousand files would take hours."""
    statements: dict[str, object] = {}
    event.listen(catalog.engine, "before_cursor_execute", lambda *asked: statements.update({asked[2]: asked[3]}))
    old, new = source("/a.pdf", "old"), source("/a.pdf", "new")
    held = index(catalog, old, "one")
    index(catalog, new, "two")
    catalog.sources.fail(source("/b.pdf"), CorruptFile("/b.pdf", "broken"))
    catalog.sources.copy(held + 1, source("/c.pdf", "new"))
    catalog.sources.move(held + 1, source("/d.pdf", "new"))
    assert catalog.sources.find_content(new, KEY) is not None
    catalog.sources.retire([held + 1])
    plans = {
        statement: query_all(catalog, f"EXPLAIN QUERY PLAN {statement}", asked)
        for statement, asked in statements.items()
        if statement.startswith(("SELECT", "UPDATE", "DELETE", "INSERT")) and " sqlite_master" not in statement
    }
    assert len(plans) > 15
    scans = {
        statement: plan
        for statement, plan in plans.items()
        if re.search(r"SCAN (s|i|v|sources|items|vectors)\b", str(plan))
    }
    assert not scans


def test_ids_are_never_given_twice(catalog: Catalog) -> None:
    first = index(catalog, source("/a.pdf"), "a", "b", "c")
    catalog.sources.retire([first])
    catalog.compact()
    assert query_all(catalog, "SELECT count(*) FROM items") == [(0,)]
    index(catalog, source("/b.pdf"), "d")
    assert all_ids(catalog) == [4]
    assert [row.id for row in catalog.sources.rows()] == [first + 1]


def test_an_interrupted_source_is_taken_up_again(catalog: Catalog) -> None:
    of = source("/a.pdf")
    source_id = index(catalog, of, "one", "two", finish=False)
    assert catalog.sources.known_files([Path("/")]) == {}, "unfinished: the next scan reads it again"
    assert catalog.sources.begin(of, model_key=KEY) == source_id
    assert catalog.items.saved_ordinals(source_id, KEY) == ({0, 1}, 2)
    again = [draft(of, n, words) for n, words in enumerate(("one", "two", "three"))]
    ids = catalog.items.save(source_id, again, np.stack([vector(n) for n in range(3)]), KEY)
    assert ids == [1, 2, 3], "what stands there keeps its id"
    catalog.sources.finish(source_id)
    assert all_ids(catalog) == [1, 2, 3]


def test_an_interrupted_source_that_changed_meanwhile_starts_anew(catalog: Catalog) -> None:
    index(catalog, source("/a.pdf", "v1"), "one", "two", finish=False)
    new_id = index(catalog, source("/a.pdf", "v2"), "three")
    assert all_ids(catalog) == [3]
    assert [row.id for row in catalog.sources.rows(states=("pending", "indexed"))] == [new_id]


def test_a_clip_that_is_cut_in_another_way_is_another_item(catalog: Catalog) -> None:
    of = source("/a.mp4")
    source_id = catalog.sources.begin(of, model_key=KEY)
    (first,) = catalog.items.save(source_id, [ItemDraft(of, "clip", 0, start_s=0.0, end_s=5.0)], vector(0)[None], KEY)
    (same,) = catalog.items.save(source_id, [ItemDraft(of, "clip", 0, start_s=0.0, end_s=5.0)], vector(1)[None], KEY)
    (other,) = catalog.items.save(source_id, [ItemDraft(of, "clip", 0, start_s=0.0, end_s=6.0)], vector(2)[None], KEY)
    assert first == same != other
    assert all_ids(catalog) == [other]


def test_a_failure_is_kept_and_former_items_stay(catalog: Catalog) -> None:
    old = index(catalog, source("/a.pdf", "v1"), "apples")
    bad = source("/a.pdf", "v2", modified_ns=5)
    new_id = catalog.sources.begin(bad, model_key=KEY, replaces=old)
    catalog.items.save(new_id, [draft(bad, 0, "half")], vector(1)[None], KEY)
    failed = catalog.sources.fail(bad, EncryptedFile("/a.pdf", "a password is needed"), replaces=old)
    assert failed == new_id
    (row,) = catalog.sources.errors()
    assert (row.path, row.type, row.reason) == (Path("/a.pdf"), "EncryptedFile", "a password is needed")
    assert abs(row.at - time.time()) < 60
    assert words_found(catalog, "apples half") == [1]
    known = catalog.sources.known_files([Path("/")])[b"/a.pdf"]
    assert (known.state, known.modified_ns) == ("failed", 5)

    plan = catalog.sources.compare([bad], [Path("/")], KEY)
    assert plan.failed_before == [failed] and not plan.changed
    assert catalog.sources.compare([bad], [Path("/")], KEY, retry_failed=True).changed == [(old, bad)]
    repaired = source("/a.pdf", "v3")
    assert catalog.sources.compare([repaired], [Path("/")], KEY).changed == [(old, repaired)]
    new_id = catalog.sources.begin(repaired, model_key=KEY, replaces=old)
    catalog.items.save(new_id, [draft(repaired, 0, "whole")], vector(2)[None], KEY)
    catalog.sources.finish(new_id)
    assert catalog.sources.errors() == [] and words_found(catalog, "apples half whole") == [3]


def test_what_was_saved_before_a_failure_stays(catalog: Catalog) -> None:
    of = source("/a.pdf")
    source_id = index(catalog, of, "first page", finish=False)
    catalog.sources.fail(of, CorruptFile("/a.pdf", "page 2 is damaged"))
    assert words_found(catalog, "first") == [1]
    again = catalog.sources.begin(of, model_key=KEY)
    assert (
        again == source_id and catalog.items.saved_ordinals(again, KEY) == ({0}, 1) and catalog.sources.errors() == []
    )


def test_a_file_that_could_not_even_be_hashed(catalog: Catalog, tmp_path: Path) -> None:
    file = tmp_path / "x.bin"
    file.write_bytes(b"abc")
    catalog.sources.fail(file, CorruptFile(file, "no"))
    catalog.sources.fail(tmp_path / "gone", CorruptFile(tmp_path / "gone", "no"))
    known = catalog.sources.known_files([tmp_path])[os.fsencode(file)]
    assert (known.sha256, known.size_bytes, known.modified_ns) == ("", 3, file.stat().st_mtime_ns)
    same = Source(file, "", known.size_bytes, known.modified_ns)
    assert catalog.sources.compare([same], [tmp_path], KEY).failed_before == [known.source_id]
    assert len(catalog.sources.errors()) == 2
    assert catalog.sources.clear_errors([known.source_id]) == 1
    assert catalog.sources.clear_errors() == 1
    assert catalog.sources.errors() == [] and catalog.sources.known_files([tmp_path]) == {}


def test_moving_keeps_ids_and_vectors(catalog: Catalog) -> None:
    source_id = index(catalog, source("/talks/budget.pdf", "v1"), "apples")
    moved = source("/archive/Q3Report.pdf", "v1")
    plan = catalog.sources.compare([moved], [Path("/")], KEY)
    assert plan.moved == [(source_id, moved)] and not plan.new and not plan.missing
    generation = catalog.generation()
    catalog.sources.settle(plan, [Path("/")])
    assert catalog.items.get(1).path == moved.path and all_ids(catalog) == [1]
    assert [words_found(catalog, w) for w in ("budget", "talks", "q3report", "report", "archive")] == [
        [],
        [],
        *[[1]] * 3,
    ]
    assert catalog.generation() > generation, "paths are part of what a page shows"
    assert list(catalog.sources.roots()) == [Path("/")]
    catalog.sources.move(source_id, source("/c.pdf", "v1"))
    assert catalog.items.get(1).path == Path("/c.pdf")


def test_copies_are_found_both(catalog: Catalog) -> None:
    first = index(catalog, source("/a.pdf", "v1"), "apples", "pears")
    copy = source("/b.pdf", "v1")
    plan = catalog.sources.compare([source("/a.pdf", "v1"), copy], [Path("/")], KEY)
    assert plan.copied == [copy] and plan.unchanged == [first]
    assert catalog.sources.find_content(copy, KEY) == first
    copy_id = catalog.sources.copy(first, copy)
    assert words_found(catalog, "pears") == [2, 4]
    assert [i.path.name for i in catalog.items.of([2, 4])] == ["a.pdf", "b.pdf"]
    np.testing.assert_array_equal(*(catalog.vectors.of([i], KEY)[1] for i in (2, 4)))
    assert catalog.sources.compare([source("/a.pdf", "v1"), copy], [Path("/")], KEY).unchanged == [first, copy_id]
    catalog.sources.retire([first])
    assert all_ids(catalog) == [3, 4]
    with pytest.raises(CatalogError, match="does not hold the content"):
        catalog.sources.copy(first, source("/b.pdf", "v2"))


def test_what_was_removed_comes_back_with_its_ids(catalog: Catalog) -> None:
    first = index(catalog, source("/a.pdf", "v1"), "apples", "pears")
    back = source("/b.pdf", "v1")
    catalog.sources.retire([first])
    assert catalog.sources.compare([back], [Path("/")], KEY).copied == [back]
    assert catalog.sources.compare([back], [Path("/")], "model-b").new == [back], "another model has no vectors of it"
    assert catalog.sources.find_content(back, KEY) == first and catalog.sources.find_content(back, "model-b") is None
    assert catalog.sources.copy(first, back) == first
    assert words_found(catalog, "pears") == [2] and catalog.items.get(2).path == Path("/b.pdf")
    assert catalog.sources.compare([back], [Path("/")], KEY).unchanged == [first]
    assert (Integrity(catalog).lexical_faults(), Integrity(catalog).gaps(KEY).miscounted) == ([], [])
    catalog.sources.retire([first])
    catalog.compact()
    assert catalog.sources.find_content(back, KEY) is None


def test_only_what_was_whole_comes_back(catalog: Catalog) -> None:
    of = source("/a.pdf", "v1")
    begun = catalog.sources.begin(of, model_key=KEY)
    catalog.items.save(begun, [draft(of, 0, "half")], vector(0)[None], KEY)
    catalog.sources.retire([begun])
    assert catalog.sources.find_content(of, KEY) is None, "it was never finished"
    whole = index(catalog, of, "apples", "pears")
    (ids,) = (catalog.items.of_source(whole) for _ in "1")
    catalog.sources.retire([whole])
    with catalog.transaction() as c:
        c.execute(text("DELETE FROM vectors WHERE item_id = :id"), {"id": ids[0].id})
    assert catalog.sources.find_content(of, KEY) is None, "a vector is missing"


def test_offline_content_is_copied_and_stays_where_it_is(catalog: Catalog) -> None:
    first = index(catalog, source("/usb/a.pdf", "v1"), "apples", "pears")
    catalog.sources.retire([first], offline=True)
    copy = source("/home/a.pdf", "v1")
    assert catalog.sources.compare([copy], [Path("/home")], KEY).copied == [copy]
    copy_id = catalog.sources.copy(first, copy)
    assert copy_id != first and words_found(catalog, "pears") == [4]
    assert catalog.counts()["sources"] == {"indexed": 1, "offline": 1}
    catalog.sources.bring_back([first])
    assert words_found(catalog, "pears") == [2, 4]


def test_dates_follow_files_that_have_none_of_their_own(catalog: Catalog) -> None:
    def found(year: int) -> list[int]:
        ids = catalog.items.allowed_ids(Filters(after=date(year, 1, 1), before=date(year + 1, 1, 1)), ["image"])
        return [] if ids is None else ids.tolist()

    old, new = (int(datetime(year, 6, 1).timestamp() * 1e9) for year in (2001, 2011))
    own = ItemDraft(source("/own.jpg", "own", modified_ns=old), "image", 0, meta={"captured_at": "2001-05-05T10:00:00"})
    for one in (own, ItemDraft(source("/file.jpg", "file", modified_ns=old), "image", 0)):
        source_id = catalog.sources.begin(one.source, model_key=KEY)
        catalog.items.save(source_id, [one], vector(0)[None], KEY)
        catalog.sources.finish(source_id)
    assert found(2001) == [1, 2]
    sources = [source(f"/{name}.jpg", name, modified_ns=new) for name in ("own", "file")]
    catalog.sources.settle(catalog.sources.compare(sources, [Path("/")], KEY))
    assert (found(2001), found(2011)) == ([1], [2])


def test_offline_and_back(catalog: Catalog) -> None:
    source_id = index(catalog, source("/a.pdf"), "apples")
    since = catalog.generation()
    catalog.sources.retire([source_id], offline=True)
    assert all_ids(catalog) == [] == words_found(catalog, "apples")
    assert catalog.vectors.tail(KEY, "page", since).removed.tolist() == [1]
    assert catalog.counts()["sources"] == {"offline": 1}
    plan = catalog.sources.compare([source("/a.pdf")], [Path("/")], KEY)
    assert plan.unchanged == plan.returned == [source_id]
    since = catalog.generation()
    catalog.sources.bring_back([source_id])
    assert all_ids(catalog) == [1] == words_found(catalog, "apples")
    assert catalog.vectors.tail(KEY, "page", since).added.tolist() == [1]


def test_another_model_is_built_beside_the_first(catalog: Catalog) -> None:
    a, b = source("/a.pdf"), source("/b.pdf")
    ids = [index(catalog, a, "apples"), index(catalog, b, "pears")]
    plan = catalog.sources.compare([a, b], [Path("/")], "model-b")
    assert plan.reembed == [(ids[0], a), (ids[1], b)] and not plan.unchanged
    index(catalog, a, "apples", key="model-b")
    assert catalog.models.active_key() == KEY and not catalog.models.activate_if_complete("model-b")
    assert catalog.models.sources_to_embed("model-b") == 1
    assert all_ids(catalog) == [1, 2], "the same items, still answered by the first model"
    assert catalog.vectors.tail("model-b", "page", 0).added.tolist() == [1]
    catalog.sources.fail(b, CorruptFile("/b.pdf", "cannot be read any more"))
    assert catalog.models.activate_if_complete("model-b"), "what cannot be read must not hold the others up for ever"
    assert catalog.models.active_key() == "model-b" and set(catalog.models.dims()) == {KEY, "model-b"}
    assert catalog.sources.compare([a], [Path("/a.pdf")], KEY).unchanged == [ids[0]], "the way back is open"
    with pytest.raises(CatalogError, match="model-c"):
        catalog.models.activate("model-c")
    catalog.compact()
    assert catalog.models.dims() == {"model-b": DIM}
    assert query_all(catalog, "SELECT count(*) FROM vectors") == [(1,)]


def test_models_have_names_and_one_dim(catalog: Catalog) -> None:
    catalog.models.register(KEY, DIM, "mini")
    assert (catalog.models.name(KEY), catalog.models.active_key()) == ("mini", KEY)
    with pytest.raises(DimensionMismatch):
        catalog.models.register(KEY, DIM + 1)


def test_compact_names_the_previews_that_nobody_uses(catalog: Catalog) -> None:
    of = source("/a.pdf", "v1")
    source_id = catalog.sources.begin(of, model_key=KEY)
    catalog.items.save(
        source_id,
        [draft(of, n) for n in range(2)],
        np.eye(2, DIM, dtype=np.float32),
        KEY,
        previews=["previews/0", "previews/1"],
    )
    catalog.sources.finish(source_id)
    copy_id = catalog.sources.copy(source_id, source("/b.pdf", "v1"))
    catalog.sources.retire([source_id])
    assert catalog.compact() == []
    catalog.sources.retire([copy_id])
    assert catalog.compact() == ["previews/0", "previews/1"]


def test_a_store_that_follows_the_tail_holds_what_is_visible(catalog: Catalog) -> None:
    """Two hundred random steps of a library's life; a store that catches up now and then is never wrong."""
    rng = np.random.default_rng(0)
    held: dict[int, bytes] = {}
    since = 0
    versions = dict.fromkeys((f"/f{n}.pdf" for n in range(6)), 0)
    revived = 0
    for step in range(200):
        path = str(rng.choice(list(versions)))
        rows = {str(row.path): row.id for row in catalog.sources.rows()}
        match int(rng.integers(8)):
            case 0 | 1:
                versions[path] += 1
                texts = [f"v{versions[path]}"] * int(rng.integers(1, 4))
                index(catalog, source(path, f"{path}{versions[path]}"), *texts, finish=bool(rng.integers(2)))
            case 2:
                catalog.sources.retire([rows[path]] if path in rows else [])
            case 3:
                catalog.sources.retire([rows[path]] if path in rows else [], offline=True)
            case 6 if step % 5 == 0:
                catalog.compact()
            case 4:
                catalog.sources.bring_back([rows[path]] if path in rows else [])
            case 5 if path in rows and catalog.sources.rows(under=Path(path))[0].state == "indexed":
                original = catalog.sources.rows(under=Path(path))[0]
                copy = Source(Path(f"/copy{step}.pdf"), original.sha256, 100, 1)
                catalog.sources.copy(original.id, copy)
            case 7 if path not in rows:
                again = source(path, f"{path}{versions[path]}")
                original_id = catalog.sources.find_content(again, KEY)
                revived += original_id is not None and catalog.sources.copy(original_id, again) == original_id
        if rng.integers(3) == 0:
            tail = catalog.vectors.tail(KEY, "page", since)
            for item_id in set(held) - set(tail.added.tolist()) if tail.is_whole else tail.removed.tolist():
                held.pop(item_id, None)
            held |= {i: v.tobytes() for i, v in zip(tail.added.tolist(), tail.vectors, strict=True)}
            since = tail.generation
            visible = query_all(
                catalog, "SELECT items.id, data FROM items JOIN vectors ON item_id = items.id WHERE visible"
            )
            assert held == dict(visible)
            assert catalog.vectors.sums(KEY, "page", since) == (len(held), sum(held))
            indexed = query_all(catalog, "SELECT rowid FROM words ORDER BY rowid")
            assert query_all(catalog, "INSERT INTO words(words) VALUES ('integrity-check')") == []
            assert len(indexed) >= len(held)
            assert sorted(words_found(catalog, " ".join(f"v{n}" for n in range(60)))) == sorted(held)
    assert since > 50 and revived > 1


# ---- planning


def test_plan_of_an_empty_and_of_an_unchanged_library(catalog: Catalog) -> None:
    a, b, twin = source("/x/a.pdf"), source("/x/b.pdf"), source("/x/twin.pdf", "/x/a.pdf")
    plan = catalog.sources.compare([a, b, twin], [Path("/x")], KEY)
    assert plan.new == [a, b] and plan.copied == [twin]
    ids = [index(catalog, a, "1"), index(catalog, b, "2")]
    touched = source("/x/b.pdf", modified_ns=7)
    plan = catalog.sources.compare([a, touched], [Path("/x")], KEY)
    assert plan.unchanged == ids and plan.touched == [(ids[1], touched)]
    generation = catalog.generation()
    catalog.sources.settle(plan)
    assert catalog.sources.known_files([Path("/x")])[b"/x/b.pdf"].modified_ns == 7
    assert catalog.generation() == generation, "nothing that can be found has changed"


def test_roots_bound_what_can_be_missing(catalog: Catalog, tmp_path: Path) -> None:
    x, y = tmp_path / "x", tmp_path / "xy"
    x.mkdir(), y.mkdir()
    ids = [index(catalog, source(str(folder / "a.pdf")), "t") for folder in (x, y)]
    assert catalog.sources.compare([], [x], KEY).offline == [ids[0]], (
        "x is not a prefix of xy, and an empty folder may be a mount point"
    )
    assert set(catalog.sources.known_files([x])) == {os.fsencode(x / "a.pdf")}
    assert set(catalog.sources.known_files([x / "a.pdf"])) == {os.fsencode(x / "a.pdf")}
    assert catalog.sources.compare([], [x], KEY, seen_unreadable=[x]).missing == []
    assert catalog.sources.compare([], [x], KEY, seen_unreadable=[x / "a.pdf"]).missing == []
    assert catalog.sources.compare([], [x], KEY, seen_unreadable=[y]).offline == [ids[0]]


@pytest.mark.parametrize(
    ("total", "gone", "is_offline"),
    [
        (30, 6, False),  # a fifth exactly
        (30, 7, True),
        (10, 2, False),
        (10, 3, True),
        (4, 1, False),  # a quarter, but one file
        (4, 2, True),
        (1, 1, True),  # the whole root
    ],
)
def test_many_files_gone_at_once_are_offline(
    catalog: Catalog, tmp_path: Path, total: int, gone: int, is_offline: bool
) -> None:
    sources = [source(str(tmp_path / f"{n}.jpg"), f"v{n}") for n in range(total)]
    ids = [index(catalog, one, "t", kind="image") for one in sources]
    plan = catalog.sources.compare(sources[gone:], [tmp_path], KEY)
    assert (plan.offline, plan.missing) == ((ids[:gone], []) if is_offline else ([], ids[:gone]))
    assert catalog.sources.compare(sources[gone:], [tmp_path], KEY, prune=True).missing == ids[:gone]
    catalog.sources.settle(plan)
    assert len(all_ids(catalog)) == total - gone
    again = catalog.sources.compare(sources[gone:], [tmp_path], KEY)
    assert not again.offline and not again.missing and again.away == plan.offline
    back = catalog.sources.compare(sources, [tmp_path], KEY)
    catalog.sources.settle(back)
    assert len(all_ids(catalog)) == (total if is_offline else total - gone)


def test_a_root_inside_a_root_may_be_a_disk_of_its_own(catalog: Catalog, tmp_path: Path) -> None:
    inner = tmp_path / "usb"
    stays = [source(str(tmp_path / f"{n}.jpg"), f"v{n}") for n in range(30)]
    ids = [index(catalog, source(str(inner / f"{n}.jpg"), f"u{n}"), "t") for n in range(3)]
    for one in stays:
        index(catalog, one, "t")
    assert catalog.sources.compare(stays, [tmp_path], KEY).missing == ids
    assert catalog.sources.compare(stays, [tmp_path], KEY, emptied=[inner]).offline == ids, (
        "an empty folder: a mount point"
    )
    assert catalog.sources.compare(stays, [tmp_path], KEY, emptied=[tmp_path / "us"]).missing == ids
    catalog.sources.settle(catalog.sources.compare(stays, [inner], KEY, seen_unreadable=[inner]), [inner])
    assert catalog.sources.compare(stays, [tmp_path], KEY).offline == ids, "it was a root once"


def test_an_attempt_is_forgotten_with_its_file_but_not_with_its_disk(catalog: Catalog, tmp_path: Path) -> None:
    of, other = (source(str(tmp_path / name), name) for name in ("a.pdf", "b.pdf"))
    begun = catalog.sources.begin(of, model_key=KEY)
    failed = catalog.sources.fail(other, CorruptFile(other.path, "no"))
    empty = catalog.sources.compare([], [tmp_path], KEY)
    assert not empty.missing and not empty.offline
    one_left = catalog.sources.compare([source(str(tmp_path / "c.pdf"), "c")], [tmp_path], KEY)
    assert sorted(one_left.missing) == [begun, failed]
    assert sorted(catalog.sources.compare([], [tmp_path], KEY, prune=True).missing) == [begun, failed]


def test_a_file_that_is_as_before_leaves_no_attempt_behind(catalog: Catalog) -> None:
    good, bad = source("/a.pdf", "v1"), source("/a.pdf", "v2", modified_ns=9)
    first = index(catalog, good, "apples")
    failed = catalog.sources.fail(bad, CorruptFile("/a.pdf", "no"), replaces=first)
    plan = catalog.sources.compare([good], [Path("/")], KEY)
    assert (plan.unchanged, plan.outdated) == ([first], [failed])
    catalog.sources.settle(plan)
    assert catalog.sources.errors() == [] and words_found(catalog, "apples") == [1]


def test_a_file_moved_over_another_takes_its_place(catalog: Catalog) -> None:
    a, b = index(catalog, source("/a.pdf", "v1"), "apples"), index(catalog, source("/b.pdf", "v2"), "pears")
    now = source("/b.pdf", "v1")
    plan = catalog.sources.compare([now], [Path("/")], KEY)
    assert plan.moved == [(a, now)] and not (plan.changed or plan.missing or plan.offline)
    catalog.sources.settle(plan)
    assert words_found(catalog, "apples") == [1] and words_found(catalog, "pears") == []
    assert [(row.id, row.path) for row in catalog.sources.rows()] == [(a, Path("/b.pdf"))] and b != a


def test_a_root_that_is_away_is_offline_however_few_files_it_had(catalog: Catalog, tmp_path: Path) -> None:
    ids = [index(catalog, source(str(tmp_path / "usb" / f"{n}.jpg")), "t") for n in range(2)]
    plan = catalog.sources.compare([], [tmp_path / "usb"], KEY)
    assert plan.offline == ids and not plan.missing


def test_a_large_share_is_measured_per_root(catalog: Catalog, tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.mkdir(), large.mkdir()
    stays = [source(str(large / f"{n}.jpg")) for n in range(100)]
    for one in stays:
        index(catalog, one, "t")
    ids = [index(catalog, source(str(small / f"{n}.jpg")), "t") for n in range(12)]
    assert catalog.sources.compare(stays, [small, large], KEY).offline == ids


def test_ten_thousand_unchanged_files(catalog: Catalog) -> None:
    sources = [source(f"/photos/{n // 100}/{n}.jpg", f"{n:064d}") for n in range(10_000)]
    with catalog.transaction() as c:
        c.execute(text("INSERT INTO models (key, dim) VALUES (:key, 8)"), {"key": KEY})
        rows = [{"path": os.fsencode(s.path), "sha": s.sha256, "ns": s.modified_ns} for s in sources]
        c.execute(
            text(
                "INSERT INTO sources (path, name, sha256, size_bytes, modified_ns, state, item_count, changed_at)"
                " VALUES (:path, '', :sha, 100, :ns, 'indexed', 1, 0)"
            ),
            rows,
        )
        c.execute(text("INSERT INTO embedded SELECT id, 1 FROM sources"))
    started = time.process_time()
    known = catalog.sources.known_files([Path("/photos")])
    plan = catalog.sources.compare(sources, [Path("/photos")], KEY)
    seconds = time.process_time() - started
    assert len(known) == len(plan.unchanged) == 10_000 and not plan.new and not plan.missing
    assert seconds < 1.0


# ---- filters


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("*.pdf", "/a/b/c.pdf", True),
        ("*.pdf", "/a/b/c.PDF", True),
        ("*.pdf", "/a/b.pdf/c.jpg", True),
        ("*.pdf", "/a/b.pdfx", False),
        ("talks/*", "/a/talks/x.pdf", True),
        ("talks/*", "/a/talks/deep/x.pdf", True),
        ("talks/*", "/a/mytalks/x.pdf", False),
        ("talks/**", "/a/talks/deep/x.pdf", True),
        ("talks/**/x.pdf", "/a/talks/x.pdf", True),
        ("talks/**/x.pdf", "/a/talks/b/c/x.pdf", True),
        ("talks/*/x.pdf", "/a/talks/b/c/x.pdf", False),
        ("talks", "/a/talks/x.pdf", True),
        ("talks/", "/a/talks/x.pdf", True),
        ("talks", "/a/talks2/x.pdf", False),
        ("/a/talks", "/a/talks/x.pdf", True),
        ("/talks", "/a/talks/x.pdf", False),
        ("IMG_?.jpg", "/p/img_1.jpg", True),
        ("IMG_?.jpg", "/p/IMG_12.jpg", False),
        ("IMG_[12].jpg", "/p/IMG_2.jpg", True),
        ("IMG_[!12].jpg", "/p/IMG_2.jpg", False),
        ("IMG_[z-a].jpg", "/p/IMG_[z-a].jpg", True),
        ("a+(b).txt", "/p/a+(b).txt", True),
        ("*.txt", "/p/line\nbreak.txt", True),
        ("[", "/p/[", True),
        ("**", "/anything", True),
        ("a**/b", "/x/ac/d/b", True),
        ("a**/b", "/x/b", False),
        ("IMG_[!x]1.jpg", "/IMG_/1.jpg", False),
        ("[[a].txt", "/p/[.txt", True),
        ("[a&&b].txt", "/p/&.txt", True),
    ],
)
def test_globs(glob: str, path: str, matches: bool) -> None:
    assert bool(glob_pattern(glob).match(path)) is matches


def test_globs_find_what_a_search_of_all_places_finds() -> None:
    seed = globs.fuzz(5_000, seed=4)
    assert seed.problems == [] and 500 < seed.matches < 4_500


@pytest.mark.parametrize("glob", globs.SLOW, ids=lambda glob: f"{glob[:12]}, {len(glob)} characters")
def test_no_glob_is_slow(glob: str) -> None:
    assert globs.slowest_s(glob) < globs.LIMIT_S


def test_a_glob_longer_than_any_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="a path filter of 1,025 characters is too long; the limit is 1,024"):
        glob_pattern("*" * 1025)


def test_filters(catalog: Catalog) -> None:
    day_s = datetime(2024, 5, 6, 12).timestamp()
    index(catalog, source("/p/talks/a.pdf", modified_ns=int(day_s * 1e9)), "1", "2")
    index(catalog, source("/p/photos/b.jpg", modified_ns=int(day_s * 1e9)), "3", kind="image")
    of = source("/p/photos/c.jpg", modified_ns=int(day_s * 1e9))
    source_id = catalog.sources.begin(of, model_key=KEY)
    catalog.items.save(
        source_id, [draft(of, 0, "", "image", meta={"captured_at": "2020-01-01T00:00:00"})], vector(0)[None], KEY
    )
    catalog.sources.finish(source_id)
    hidden = index(catalog, source("/p/talks/d.pdf"), "5")
    catalog.sources.retire([hidden])

    def allowed(kinds: tuple[Kind, ...] = KINDS, **filters: object) -> list[int] | None:
        ids = catalog.items.allowed_ids(Filters(**filters), kinds)  # type: ignore[arg-type]
        return None if ids is None else ids.tolist()

    assert allowed() is None and allowed(("image",)) is None
    assert allowed(path_globs=("*.jpg",)) == [3, 4]
    assert allowed(path_globs=("talks/**", "c.*")) == [1, 2, 4]
    assert allowed(("page",), path_globs=("*",)) == [1, 2]
    assert allowed(path_globs=("*.png",)) == []
    assert allowed(under=Path("/p/photos")) == [3, 4]
    assert allowed(under=Path("/p/photos/b.jpg")) == [3]
    assert allowed(under=Path("/p/photo")) == []
    assert allowed(after=date(2024, 5, 6)) == [1, 2, 3]
    assert allowed(after=date(2024, 5, 7)) == []
    assert allowed(before=date(2024, 5, 6)) == [4]
    assert allowed(after=date.min) == [1, 2, 3, 4] and allowed(before=date.max) == [1, 2, 3, 4]
    assert allowed(before=date.min) == [] and allowed(after=datetime.max) == []
    assert allowed(before=datetime(2024, 5, 6, 12, 0, 1)) == [1, 2, 3, 4]
    assert allowed(after=date(2020, 1, 1), before=date(2020, 1, 2), under=Path("/p")) == [4]


# ---- words


def test_terms() -> None:
    assert terms_of("Slides about the revenue of Q3") == ["revenue", "q3"]
    assert terms_of("slides") == ["slides"]
    assert terms_of("what is this") == ["what is this"], "stop words alone are sought as the phrase that they make"
    assert terms_of("the") == terms_of("is it") == []
    assert terms_of('the "Annual  Report" 2023, report') == ["annual  report", "2023", "report"]
    assert terms_of(" -- ** ") == []


def test_share_is_the_part_of_the_idf_mass(catalog: Catalog) -> None:
    texts = ["apple pear", "apple", "apple", "plum", "cherry", "cherry"]
    index(catalog, source("/folder/d.pdf"), *texts)
    found = catalog.text.match("apple pear", 10, KINDS)
    idf = {word: np.log1p((6 - n + 0.5) / (n + 0.5)) for word, n in (("apple", 3), ("pear", 1))}
    assert found.ids[0] == 1 and sorted(found.ids[1:]) == [2, 3]
    np.testing.assert_allclose(found.share, [1, *[idf["apple"] / (idf["apple"] + idf["pear"])] * 2], rtol=1e-6)
    assert found.bm25[0] > 0
    nothing_has_it = catalog.text.match("plum unicorn", 10, KINDS)
    assert nothing_has_it.ids.tolist() == [4] and nothing_has_it.share[0] < 0.6


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("revenues", [1]),
        ("REVENUE", [1]),
        ("zurich", [2]),
        ("Zürich", [2]),
        ("rechnung", [3]),
        ("日本語", [4]),
        ("annual", [5]),
        ('"annual report"', [5]),
        ('"report annual"', []),
        ("fancy", [6]),
        ("the of and", []),
        ("x", []),
        ("", []),
        ('"', []),
        ('""', []),
        ("AND OR NOT NEAR", []),
        ("text:apple name:* ^x {a b}: (", []),
        ("';DROP TABLE items;--", []),
        ("* ) ( ^ : - + \\ \0 %", []),
        ("😀", []),
    ],
)
def test_any_query_is_only_words(catalog: Catalog, query: str, expected: list[int]) -> None:
    texts = ["Revenue grew", "Bahnhof Zürich", "Abschlagsrechnungsbetrag", "これは日本語です", "annual report"]
    index(catalog, source("/folder/d.pdf"), *texts)
    index(catalog, source("/folder/FancyTitle2023.jpg"), "", kind="image")
    assert words_found(catalog, query) == expected


def test_inside_words_counts_less(catalog: Catalog) -> None:
    index(catalog, source("/x/d.pdf"), "overwhelming")
    np.testing.assert_allclose(catalog.text.match("whelm", 5, KINDS).share, [SUBSTRING_WEIGHT], rtol=1e-6)


def test_words_respect_kinds_limit_and_allowed(catalog: Catalog) -> None:
    index(catalog, source("/x/d.pdf"), *["apple"] * 5)
    index(catalog, source("/x/apple.jpg"), "", kind="image")
    assert words_found(catalog, "apple", ("image",)) == [6]
    assert words_found(catalog, "apple", ()) == []
    assert len(catalog.text.match("apple", 3, KINDS)) == 3
    assert catalog.text.match("apple", 9, KINDS, np.array([2, 4, 77])).ids.tolist() == [2, 4]
    assert catalog.text.match("apple", 9, KINDS, np.array([], np.int64)).ids.tolist() == []


def test_common_terms_add_but_do_not_find(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmsearch.catalog.text.COMMON_FLOOR", 3)
    index(catalog, source("/x/d.pdf"), "report apple", "report", "report", "report pear", "apple", "report plum fig")
    found = catalog.text.match("report apple", 10, KINDS)
    assert found.ids.tolist() == [1, 5] and found.share[0] == 1 > found.share[1]
    only = catalog.text.match("report", 10, KINDS)
    assert set(only.ids.tolist()) == {1, 2, 3, 4, 6} and set(only.share.tolist()) == {1.0}
    assert catalog.text.match("report", 10, KINDS, np.array([2, 5])).ids.tolist() == [2]
    absent = catalog.text.match("report unicorn", 10, KINDS)
    assert set(absent.ids.tolist()) == {1, 2, 3, 4, 6} and max(absent.share.tolist()) < 0.5


def test_snippets(catalog: Catalog) -> None:
    long = " ".join(f"w{n}" for n in range(200))
    index(catalog, source("/x/d.pdf"), f"{long} Revenue\n grew {long}", "nothing here")
    found = catalog.text.snippets("the revenue", [1, 2, 99])
    assert set(found) == {1}
    assert "Revenue grew" in found[1] and found[1].startswith("…") and len(found[1].split()) <= 26


# ---- many readers, a writer that is killed

WRITER = """
import sys, numpy as np
from pathlib import Path
from mmsearch.catalog.dialect import sqlite
from mmsearch.disk.presence import is_empty, place_of
from mmsearch.catalog import Catalog
from mmsearch.items import ItemDraft, Source
catalog = Catalog.open(Path(sys.argv[1]))
start = int(sys.argv[2])
print("ready", flush=True)
for n in range(start, start + 100000):
    of = Source(Path(f"/f{n}.pdf"), f"{n:064d}", 1, 1)
    source_id = catalog.sources.begin(of, model_key="model-a")
    drafts = [ItemDraft(of, "page", i, page_number=i + 1, text=f"common f{n}p{i}") for i in range(4)]
    catalog.items.save(source_id, drafts, np.eye(4, 8, dtype=np.float32), "model-a")
    if n % 3 == 0 and n > start:
        catalog.sources.retire([source_id - 1])
    catalog.sources.finish(source_id)
"""


def test_killing_the_writer_leaves_whole_batches(catalog: Catalog) -> None:
    folder = catalog.folder
    for turn in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(1_000_000 * turn)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        enough = len(all_ids(catalog)) + 24 + 7 * turn
        visible = []
        while len(visible) < enough:  # a reader meanwhile: whatever is visible is whole
            tail = catalog.vectors.tail(KEY, "page", 0)
            visible = tail.added
            assert len(tail.added) == len(tail.vectors) and len(tail.added) % 4 == 0
            ids = words_found(catalog, "common")[:8]
            assert len(catalog.vectors.of(ids, KEY)[0]) <= len(ids)
        process.kill()
        process.wait()
        process.stdout.close()
    visible = query_all(catalog, "SELECT id FROM items WHERE visible ORDER BY id")
    assert len(visible) > 60
    with_vectors = query_all(
        catalog, "SELECT items.id FROM items JOIN vectors ON item_id = items.id WHERE visible ORDER BY items.id"
    )
    assert visible == with_vectors
    assert query_all(catalog, "PRAGMA integrity_check") == [("ok",)]
    assert query_all(catalog, "INSERT INTO words(words) VALUES ('integrity-check')") == []
    assert sorted(catalog.text.match("common", 10**6, KINDS).ids.tolist()) == [row[0] for row in visible]


VACUUM_AND_TELL = """
import resource, sys
from pathlib import Path
from mmsearch.catalog.dialect import sqlite
from mmsearch.disk.presence import is_empty, place_of
from mmsearch.catalog import Catalog
with Catalog.open(Path(sys.argv[1])) as catalog:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    catalog.vacuum()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_giving_space_back_takes_no_memory_for_it(catalog: Catalog) -> None:
    file = catalog.folder / sqlite.CATALOG_NAME
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("CREATE TABLE ballast (data BLOB)")
        database.executemany("INSERT INTO ballast VALUES (zeroblob(1000000))", [()] * 160)
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("DELETE FROM ballast WHERE rowid > 120")
    before = sorted(path.name for path in catalog.folder.iterdir())
    said = subprocess.check_output([sys.executable, "-c", VACUUM_AND_TELL, str(catalog.folder)])
    assert int(said) << 10 < 100_000_000, "SQLite's own caches, but not the whole file"
    assert file.stat().st_size < 125_000_000
    assert sorted(path.name for path in catalog.folder.iterdir()) == before


# ---- names of folders


def named(catalog: Catalog, query: str) -> dict[int, float]:
    """The items found and what part of the query their names hold, nearer folders more."""
    found = catalog.text.match(query, 10, KINDS)
    return {int(one): round(float(part), 3) for one, part in zip(found.ids, found.name, strict=True)}


def test_all_folders_below_the_root_count_and_nearer_ones_more(catalog: Catalog) -> None:
    catalog.sources.settle(Plan(), [Path("/home/photos")])
    index(catalog, source("/home/photos/2019 Lisbon/day 1/IMG_1.jpg"), "", kind="image")
    index(catalog, source("/home/photos/2019 Lisbon/IMG_2.jpg"), "", kind="image")
    index(catalog, source("/home/photos/2019 Lisbon/day 2/morning/IMG_3.jpg"), "", kind="image")
    index(catalog, source("/home/photos/lisbon.jpg"), "", kind="image")
    assert named(catalog, "Lisbon") == {1: 0.8, 2: 1.0, 3: 0.64, 4: 1.0}
    assert named(catalog, "lisbo") == {1: 0.64, 2: 0.8, 3: 0.512, 4: 0.8}, "inside of words"
    assert set(named(catalog, "photos")) == {1, 2, 3, 4}, "the root's own name, too"
    assert named(catalog, "home") == {}, "what lies above the root is no part of the library"
    assert catalog.text.holding("lisbon morning").tolist() == [3]


def test_names_follow_when_a_folder_above_becomes_a_root(catalog: Catalog) -> None:
    catalog.sources.settle(Plan(), [Path("/p/2019 Lisbon/day 1")])
    index(catalog, source("/p/2019 Lisbon/day 1/a/IMG_1.jpg"), "", kind="image")
    assert named(catalog, "lisbon") == {}
    generation = catalog.generation()
    catalog.sources.settle(Plan(), [Path("/p")])
    assert named(catalog, "lisbon") == {1: 0.64} and catalog.generation() > generation
    generation = catalog.generation()
    catalog.sources.settle(Plan(), [Path("/p")])
    assert catalog.generation() == generation and Integrity(catalog).lexical_faults() == []


def test_a_file_that_moves_takes_the_names_of_its_new_folders(catalog: Catalog) -> None:
    catalog.sources.settle(Plan(), [Path("/p")])
    of = source("/p/lisbon/a/b/IMG_1.jpg")
    source_id = index(catalog, of, "", kind="image")
    catalog.sources.settle(Plan(moved=[(source_id, replace(of, path=Path("/p/porto/a/b/IMG_1.jpg")))]), [Path("/p")])
    assert named(catalog, "lisbon") == {} and list(named(catalog, "porto")) == [1]


def test_what_was_left_out_is_that_of_the_last_look(tmp_path: Path):
    def found(*paths: str) -> LeftOuts:
        made = LeftOuts()
        for path in paths:
            made.add(path, "unsupported", Path(path).suffix)
        return made

    with Catalog.open(tmp_path, create=True) as catalog:
        assert catalog.sources.left_out().record() == {"reasons": {}, "suffixes": {}}
        catalog.sources.note_left_out([Path("/a")], found("/a/1.doc", "/a/b/2.doc", "/a/b/caf\udce9.raw"))
        catalog.sources.note_left_out([Path("/c")], found("/c/4.doc"))
        assert catalog.sources.left_out().record() == {
            "reasons": {"unsupported": 4},
            "suffixes": {".doc": 3, ".raw": 1},
        }
        catalog.sources.note_left_out([Path("/a/b")], found("/a/b/5.doc"))
        assert {str(one.path) for one in catalog.sources.left_out().listed} == {"/a/1.doc", "/a/b/5.doc", "/c/4.doc"}
        assert catalog.sources.left_out().suffixes == {".doc": 3}
        catalog.sources.note_left_out([Path("/a"), Path("/c")], found("/a/6.doc", "/c/7.doc"))
        catalog.sources.note_left_out([Path("/a")], found("/a/8.doc"))
        assert {str(one.path) for one in catalog.sources.left_out().listed} == {"/c/7.doc", "/a/8.doc"}
        catalog.sources.note_left_out([Path("/a"), Path("/c")], found())
        assert catalog.sources.left_out().record() == {"reasons": {}, "suffixes": {}}


def test_only_so_many_of_what_was_left_out_are_listed(tmp_path: Path):
    many = LeftOuts()
    for number in range(MAX_LISTED + 5):
        many.add(f"/a/{number}", "hidden")
    with Catalog.open(tmp_path, create=True) as catalog:
        catalog.sources.note_left_out([Path("/a")], many)
        assert len(catalog.sources.left_out().listed) == MAX_LISTED and catalog.sources.left_out().reasons == {
            "hidden": MAX_LISTED + 5
        }


@pytest.mark.parametrize(
    ("suffixes", "told"),
    [
        ({".a": 1, ".b": 1, ".c": 1, ".d": 1, ".e": 1, ".f": 1}, "1 .a, 1 .b, 1 .c, 1 .d, 1 .e, 1 .f"),
        ({".a": 1, ".b": 1, ".c": 1, ".d": 1, ".e": 1, ".f": 1, ".g": 1}, "1 .a, 1 .b, 1 .c, 1 .d, 1 .e, 2 others"),
        ({"": 2}, "2 without a suffix"),
    ],
    ids=["each", "the rest together", "none"],
)
def test_types_that_are_not_read_are_named(suffixes: dict[str, int], told: str) -> None:
    number = sum(suffixes.values())
    assert left_out.sentence({"unsupported": number}, suffixes) == f"{number} files of types that are not read ({told})"
