"""A library as a whole: snapshots that follow the catalog, other processes, locks, models."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmsearch
from mmsearch import prompts
from mmsearch.catalog.integrity import Integrity
from mmsearch.disk import lock
from mmsearch.disk.lock import LOCK_NAME, lock_holder, locked
from mmsearch.embedders.families.toy import ToyEmbedder
from mmsearch.errors import CatalogError, DimensionMismatch, LibraryLocked, LibraryMissing, ModelMismatch
from mmsearch.items import EmbedInput, ItemDraft, Kind, Query, Source
from mmsearch.library import Library
from mmsearch.ranking import relevance
from mmsearch.upkeep.backup import backup, restore
from ui.adding import IngestRun

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255), "black": (0, 0, 0)}


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL", "LIBRARY", "STORE", "DEVICE"):
        monkeypatch.delenv(f"MMSEARCH_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with mmsearch.open(tmp_path / "library", create=True, model="toy") as opened:
        yield opened


def source(path: str) -> Source:
    return Source(Path(path), path.encode().hex().ljust(64, "0")[:64], 1, 1_700_000_000_000_000_000)


def add(library: Library, path: str, *pictures: tuple[Kind, str, str]) -> int:
    """Index a source of (kind, colour, text) items with the toy model. Returns the source's id."""
    of, catalog, embedder = source(path), library.catalog, library.embedder
    drafts = [
        ItemDraft(of, kind, n, page_number=n + 1 if kind == "page" else None, text=words,
                  images=(Image.new("RGB", (32, 32), COLOURS[colour]),))
        for n, (kind, colour, words) in enumerate(pictures)
    ]  # fmt: skip
    vectors = embedder.encode_documents([prompts.document_input(one) for one in drafts])
    source_id = catalog.sources.begin(of, model_key=embedder.model_key)
    catalog.items.save(source_id, drafts, vectors, embedder.model_key)
    catalog.sources.finish(source_id)
    return source_id


def fill(library: Library) -> None:
    with library.lock():
        for colour in COLOURS:
            add(library, f"/photos/{colour}-one.jpg", ("image", colour, ""))
        add(library, "/docs/report.pdf", ("page", "white", "annual revenue"), ("page", "white", "staff and offices"))


def names(hits: Sequence[mmsearch.Hit]) -> list[str]:
    return [hit.path.name for hit in hits]


def dense(library: Library, words: str, k: int = 1) -> list[str]:
    return names(library.search(words, k=k, mode="dense", kinds=["photo"], min_relevance=0))


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


# ---- opening, and which model


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(LibraryMissing):
        mmsearch.open(tmp_path / "none")


def test_an_empty_library_has_no_hits(library: Library) -> None:
    hits = library.search("anything")
    assert (list(hits), hits.searched, hits.hidden, hits.best_below) == ([], 0, 0, None)
    assert library.model_key is None and not library.model.is_loaded
    with pytest.raises(CatalogError, match="is empty"):
        library.stores.of("page")
    library.sync_vectors()


def test_a_library_remembers_its_model(library: Library) -> None:
    fill(library)
    library.sync_vectors()
    with mmsearch.open(library.folder) as again:
        assert (again.model.name, again.model_key, again.model.is_loaded) == ("toy", "toy-1", False)
        assert dense(again, "red") == ["red-one.jpg"]
        assert again.model.is_loaded


def test_another_model_cannot_answer(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(library)

    class Other(ToyEmbedder):
        model_key = "other-1"

    monkeypatch.setattr("mmsearch.embedders.load_embedder", lambda *_args, **_options: Other())
    with mmsearch.open(library.folder, model="other") as again, pytest.raises(ModelMismatch, match=r"toy-1.*other-1"):
        again.search("red")
    with mmsearch.open(library.folder, model="other") as again:
        assert names(again.search("revenue", mode="text")) == ["report.pdf"], "words need no model"


def test_a_model_key_with_another_dim_is_refused(library: Library) -> None:
    fill(library)
    with pytest.raises(DimensionMismatch):
        library.catalog.vectors.save_generic_queries("toy-1", "page", "v", np.eye(2, 9, dtype=np.float32))


def test_the_model_is_loaded_only_where_it_is_needed(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(library)
    library.sync_vectors()

    def refuse(*_args: object, **_options: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("mmsearch.embedders.load_embedder", refuse)
    with mmsearch.open(library.folder) as again:
        again.status()
        assert names(again.search("revenue", mode="text")) == ["report.pdf"]
        assert len(again.search(like=1, min_relevance=0)) == 4
        again.sync_vectors()
        with pytest.raises(AssertionError, match="was loaded"):
            again.search("revenue")


# ---- snapshots


def manifest(library: Library, kind: Kind) -> dict:
    return json.loads((library.folder / "toy-1" / f"{kind}.json").read_text())


def test_snapshots_per_kind_and_model(library: Library) -> None:
    fill(library)
    library.sync_vectors()
    found = sorted(f.name for f in (library.folder / "toy-1").iterdir() if not f.name.startswith("."))
    assert found == ["image.faiss", "image.json", "page.faiss", "page.json"]
    assert (manifest(library, "image")["count"], manifest(library, "page")["count"]) == (5, 2)
    assert manifest(library, "page")["generation"] == library.catalog.generation()


def test_a_snapshot_that_is_behind_gets_the_tail(library: Library) -> None:
    fill(library)
    library.sync_vectors()
    library.catalog.sources.retire([library.catalog.items.get(1).source_id])
    add(library, "/photos/red-two.jpg", ("image", "red", ""))
    behind = manifest(library, "image")["generation"]
    assert dense(library, "red") == ["red-two.jpg"], "the same process"
    with mmsearch.open(library.folder) as again:
        assert dense(again, "red") == ["red-two.jpg"], "another one"
        assert again.stores.of("image").ids().tolist() == [2, 3, 4, 5, 8]
    library.sync_vectors()
    assert manifest(library, "image")["generation"] == library.catalog.generation() > behind


def test_a_deleted_cache_is_rebuilt_without_the_model(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(library)
    library.sync_vectors()
    shutil.rmtree(library.folder / "toy-1")
    with mmsearch.open(library.folder) as again:
        hits = again.search(like=1, min_relevance=0)
        assert len(hits) == 4 and not again.model.is_loaded
        assert manifest(again, "image")["count"] == 5, "written, so that the next process need not do it again"


def test_a_damaged_snapshot_is_set_aside_and_rebuilt(library: Library, caplog: pytest.LogCaptureFixture) -> None:
    fill(library)
    library.sync_vectors()
    file = library.folder / "toy-1" / "image.faiss"
    file.write_bytes(file.read_bytes()[:100])
    with mmsearch.open(library.folder) as again:
        assert dense(again, "blue") == ["blue-one.jpg"]
    assert "/image is unusable (image.faiss, " in caplog.text
    assert len(list(file.parent.glob("image.faiss.corrupt-*"))) == 1
    caplog.clear()
    with mmsearch.open(library.folder) as again:
        assert dense(again, "blue") == ["blue-one.jpg"]
    assert not caplog.records


def test_a_snapshot_of_another_catalog_is_not_believed(library: Library, tmp_path: Path) -> None:
    """The user deletes the catalog and ingests other files: the same ids, other vectors."""
    fill(library)
    library.sync_vectors()
    with mmsearch.open(tmp_path / "other", create=True, model="toy") as other:
        for colour in reversed(COLOURS):
            add(other, f"/photos/{colour}-two.jpg", ("image", colour, ""))
        add(other, "/docs/x.pdf", ("page", "white", "x"), ("page", "white", "y"))
        assert other.catalog.generation() == library.catalog.generation()
        shutil.copytree(library.folder / "toy-1", other.folder / "toy-1", dirs_exist_ok=True)
        assert dense(other, "red") == ["red-two.jpg"]


def test_a_restored_older_catalog_is_the_truth(library: Library, caplog: pytest.LogCaptureFixture) -> None:
    fill(library)
    backup = library.folder.with_name("backup")
    library.catalog.close()
    shutil.copytree(library.folder, backup)
    with mmsearch.open(library.folder) as newer:
        newer.catalog.sources.retire([1])
        add(newer, "/photos/red-two.jpg", ("image", "red", ""))
        newer.sync_vectors()
        newer.catalog.close()
    shutil.copytree(library.folder / "toy-1", backup / "toy-1", dirs_exist_ok=True)
    with mmsearch.open(backup) as restored:
        assert dense(restored, "red") == ["red-one.jpg"]
        assert restored.stores.of("image").ids().tolist() == [1, 2, 3, 4, 5]


def test_the_exact_store_finds_the_same(library: Library) -> None:
    fill(library)
    with mmsearch.open(library.folder, store="exact") as exact:
        for words in ("red", "blue photo", "revenue of the staff"):
            a, b = (one.search(words, min_relevance=0) for one in (library, exact))
            assert [(h.item.id, h.score, h.relevance) for h in a] == [(h.item.id, h.score, h.relevance) for h in b]
    assert not list((library.folder / "toy-1").glob("exact*"))


def test_reading_only_searches_and_writes_nothing(library: Library) -> None:
    fill(library)
    library.sync_vectors()
    file = library.folder / "toy-1" / "image.faiss"
    file.write_bytes(b"damaged")
    add(library, "/photos/red-two.jpg", ("image", "red", ""))
    library.close()
    before = files(library.folder)
    with mmsearch.open(library.folder, read_only=True, model="toy") as reader:
        assert dense(reader, "red", 2) == ["red-one.jpg", "red-two.jpg"]
        reader.sync_vectors()
        with pytest.raises(CatalogError, match="reading only"), reader.lock():
            pass
    after = {name: data for name, data in files(library.folder).items() if not name.endswith(("-shm", "-wal"))}
    assert after == before


def test_generic_queries_are_encoded_once_per_library(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []

    class Counting(ToyEmbedder):
        def encode_queries(self, inputs: Sequence[EmbedInput]) -> np.ndarray:
            encoded.append(len(inputs))
            return super().encode_queries(inputs)

    monkeypatch.setattr("mmsearch.embedders.load_embedder", lambda *_args, **_options: Counting())
    fill(library)
    library.sync_vectors()
    assert encoded == [2 * len(relevance.GENERIC_QUERIES)], "both kinds in one call, while the model is there"
    with mmsearch.open(library.folder) as again:
        again.search("red")
        again.search("red")
        again.model.encode(Query(text="red"), ["image", "clip"])
        assert encoded[1:] == [2, 1], "one input per kind in one call; a text is encoded once"


# ---- several processes and threads


def test_a_reader_notices_what_a_writer_commits(library: Library) -> None:
    fill(library)
    with mmsearch.open(library.folder) as reader:
        assert dense(reader, "red") == ["red-one.jpg"]
        first = library.catalog.items.get(1).source_id
        add(library, "/photos/red-two.jpg", ("image", "red", "extra words"))
        library.catalog.sources.retire([first])
        assert dense(reader, "red") == ["red-two.jpg"]
        assert names(reader.search("extra words", mode="text")) == ["red-two.jpg"]
        assert reader.item_counts() == {"image": 5, "page": 2}


def test_searching_while_another_thread_ingests(library: Library) -> None:
    fill(library)
    problems: list[BaseException] = []
    done = threading.Event()

    def search() -> None:
        try:
            while not done.is_set():
                hits = library.search("red revenue", k=20, min_relevance=0)
                ids = [hit.item.id for hit in hits]
                assert len(set(ids)) == len(ids) and all(hit.score is not None for hit in hits)
                assert {"red-one.jpg", "report.pdf"} <= set(names(hits))
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(25):
        source_id = add(library, f"/photos/green-{n}.jpg", ("image", "green", ""), ("image", "black", ""))
        if n % 3 == 0:
            library.catalog.sources.retire([source_id])
        if n % 8 == 0:
            library.sync_vectors()
    done.set()
    for thread in threads:
        thread.join()
    assert not problems
    library.sync_vectors()
    assert len(library.stores.of("image")) == library.item_counts()["image"] == 5 + 2 * 16


def test_the_kept_generation_inside_steady(library: Library) -> None:
    fill(library)
    with mmsearch.open(library.folder) as reader, reader.current.held():
        assert len(reader.stores.of("image")) == 5
        add(library, "/photos/red-two.jpg", ("image", "red", ""))
        assert len(reader.stores.of("image")) == 5


def test_a_search_does_not_need_to_write(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else keeps the database busy (a large `compact`), or has removed the model since."""
    monkeypatch.setattr("mmsearch.catalog.dialect.sqlite.BUSY_TIMEOUT_S", 0.1)
    fill(library)
    with closing(sqlite3.connect(library.folder / "catalog.sqlite3", isolation_level=None)) as busy:
        busy.execute("BEGIN IMMEDIATE")
        with mmsearch.open(library.folder) as reader:
            assert names(reader.search("revenue")) == ["report.pdf"]
            with pytest.raises(LibraryLocked, match="kept busy"):
                reader.catalog.sources.retire([1])
        busy.execute("ROLLBACK")
    library.catalog.vectors.save_generic_queries("gone-1", "page", "v", np.eye(2, 9, dtype=np.float32))
    assert library.catalog.models.dims() == {"toy-1": 64}


def test_readers_that_never_pause_do_not_let_the_log_grow(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite empties it only where nobody reads; here somebody always does."""
    monkeypatch.setattr("mmsearch.catalog.dialect.sqlite.LOG_BYTES", 256 << 10)
    fill(library)
    done, turns = threading.Event(), [threading.Semaphore(1), threading.Semaphore(0)]

    def read(own: int) -> None:
        with mmsearch.open(library.folder) as reader:
            while not done.is_set():
                with reader.catalog.snapshot():
                    turns[1 - own].release()  # the other one begins before this one ends
                    turns[own].acquire(timeout=0.02)
                    reader.catalog.items.counts()

    readers = [threading.Thread(target=read, args=(own,)) for own in range(2)]
    for reader in readers:
        reader.start()
    sizes = []
    with mmsearch.open(library.folder, model="toy") as writer:
        for n in range(30):
            add(writer, f"/docs/{n}.pdf", ("page", "white", f"{n} " + "revenue and costs " * 2000))
            sizes.append((library.folder / "catalog.sqlite3-wal").stat().st_size)
    done.set()
    for reader in readers:
        reader.join()
    assert max(sizes) < 2 << 20
    assert Integrity(library.catalog).faults() == []


# ---- the writer's lock

HOLD = "import sys, time; from pathlib import Path; from mmsearch.disk.lock import locked\nwith locked(Path(sys.argv[1])):\n print('held', flush=True); time.sleep(3600)"


@pytest.fixture
def other_writer(library: Library) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(library.folder)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_one_writer_at_a_time(library: Library, other_writer: subprocess.Popen) -> None:
    with pytest.raises(LibraryLocked, match=rf"process {other_writer.pid} is writing"), library.lock():
        pass
    assert library.status()["writer_pid"] == other_writer.pid
    library.search("reading goes on")
    other_writer.kill()
    other_writer.wait()
    assert library.status()["writer_pid"] is None
    with library.lock():  # what the killed one left is taken over
        assert library.status()["writer_pid"] == os.getpid()
    assert library.status()["writer_pid"] is None


def test_the_lock_may_be_nested_but_not_shared(library: Library) -> None:
    with library.lock(), library.lock(), mmsearch.open(library.folder) as second:
        with pytest.raises(LibraryLocked, match=f"process {os.getpid()} "), second.lock():
            pass
        assert lock_holder(library.folder) == os.getpid()
    with mmsearch.open(library.folder) as second, second.lock():
        pass


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def started(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


NOTES: dict[str, tuple[Callable[[], dict], bool]] = {
    "alive": (lambda: {"pid": os.getppid(), "boot": boot_id(), "host": socket.gethostname(), "started": started(os.getppid())}, True),
    "number-given-to-another": (lambda: {"pid": os.getppid(), "boot": boot_id(), "host": socket.gethostname(), "started": 1}, False),
    "before-the-last-boot": (lambda: {"pid": os.getppid(), "boot": "b", "host": socket.gethostname(), "started": 1}, False),
    "dead": (lambda: {"pid": 2**22 + 1, "boot": boot_id(), "host": socket.gethostname(), "started": 1}, False),
    "of-another-machine": (lambda: {"pid": os.getppid(), "boot": boot_id(), "host": "another", "started": started(os.getppid())}, False),
    "nonsense": (lambda: {"pid": "me"}, False),
    "empty": (dict, False),
}  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("note", "is_held"), NOTES.values(), ids=NOTES.keys())
def test_a_note_is_asked_where_the_kernels_lock_does_not_reach(
    tmp_path: Path, note: Callable[[], dict], is_held: bool
) -> None:
    (tmp_path / LOCK_NAME).write_text(json.dumps(note()))
    if is_held:
        with pytest.raises(LibraryLocked, match=str(os.getppid())), locked(tmp_path):
            pass
        assert json.loads((tmp_path / LOCK_NAME).read_text()) == note(), "not ours to change"
    else:
        with locked(tmp_path):
            assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()
    assert lock_holder(tmp_path) == (os.getppid() if is_held else None)


def test_a_dead_writer_holds_nothing_even_if_its_parent_never_asks_how_it_ended(
    library: Library, other_writer: subprocess.Popen
) -> None:
    """As in a container whose first process does not: there the dead stay in the table of processes."""
    other_writer.kill()
    stat = Path(f"/proc/{other_writer.pid}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert library.status()["writer_pid"] is None
    with library.lock():
        assert lock_holder(library.folder) == os.getpid()


def test_who_waits_for_the_writer_is_let_in(
    library: Library, other_writer: subprocess.Popen, caplog: pytest.LogCaptureFixture
) -> None:
    class EndsTheOther(logging.Handler):
        """As soon as it is said that the other one is waited for."""

        def emit(self, record: logging.LogRecord) -> None:
            if "waiting for" in record.getMessage():
                other_writer.kill()

    listener = EndsTheOther()
    logging.getLogger("mmsearch.disk.lock").addHandler(listener)
    try:
        with library.lock(wait_s=60):
            assert lock_holder(library.folder) == os.getpid()
    finally:
        logging.getLogger("mmsearch.disk.lock").removeHandler(listener)
    assert f"process {other_writer.pid} is writing to {library.folder}; waiting for 60 s" in caplog.text
    with pytest.raises(LibraryLocked), library.lock(), mmsearch.open(library.folder) as second:
        began = time.monotonic()
        try:
            with second.lock(wait_s=0.3):
                pass
        finally:
            assert time.monotonic() - began >= 0.3


def test_the_refusal_tells_how_a_suspended_writer_is_ended(library: Library, other_writer: subprocess.Popen) -> None:
    other_writer.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, other_writer.pid, os.WSTOPPED | os.WNOWAIT)
    pid = other_writer.pid
    with pytest.raises(LibraryLocked, match=rf"process {pid} .*`kill -CONT {pid}`.*`kill -KILL {pid}`"), library.lock():
        pass
    assert library.status()["writer_pid"] == pid


@pytest.mark.parametrize(
    ("note", "said"),
    [
        ({"pid": 77, "host": "another"}, r"process 77 of the machine another is writing to \S+: .* stop it there"),
        ({}, r"another process is writing to \S+: wait for it"),
    ],
    ids=["another-machine", "no-note"],
)
def test_the_kernels_lock_holds_whatever_the_note_says(
    library: Library, other_writer: subprocess.Popen, note: dict, said: str
) -> None:
    (library.folder / LOCK_NAME).write_text(json.dumps(note))
    with pytest.raises(LibraryLocked, match=said), library.lock():
        pass


def test_a_writer_that_ends_at_this_moment_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has wiped out its note and let go, and lives on, between two looks of ours."""
    file, take = tmp_path / LOCK_NAME, lock._try_lock
    file.write_text(json.dumps(NOTES["alive"][0]()))

    def let_go(descriptor: int, **options: bool) -> bool:
        file.write_text("")
        return take(descriptor, **options)

    monkeypatch.setattr(lock, "_try_lock", let_go)
    with locked(tmp_path):
        pass


def test_a_lock_that_is_no_note_or_no_file(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_bytes(os.urandom(5000))
    assert lock_holder(tmp_path) is None
    with locked(tmp_path):
        assert lock_holder(tmp_path) == os.getpid()
    (tmp_path / LOCK_NAME).unlink()
    (tmp_path / LOCK_NAME).mkdir()
    assert lock_holder(tmp_path) is None
    with pytest.raises(CatalogError, match=rf"{tmp_path}/lock, the library's lock, .*: move it away"), locked(tmp_path):
        pass


def test_threads_of_one_library_write_one_after_the_other(library: Library) -> None:
    refused: list[str] = []

    def write() -> None:
        try:
            with library.lock():
                pass
        except LibraryLocked as error:
            refused.append(str(error))

    with library.lock():
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        assert lock_holder(library.folder) == os.getpid()
    assert len(refused) == 1 and f"process {os.getpid()} is writing" in refused[0]
    write()
    assert len(refused) == 1


WRITING = {
    "ingest": ["ingest", "."],
    "remove": ["remove", "/photos"],
    "compact": ["compact"],
    "repair": ["doctor", "--repair", "--quick"],
    "models-use": ["models", "use", "toy"],
    "models-remove": ["models", "remove", "old-1"],
}


def test_every_command_that_writes_names_the_one_that_does(
    library: Library, other_writer: subprocess.Popen, tmp_path: Path
) -> None:
    add(library, "/photos/red.jpg", ("image", "red", ""))
    library.catalog.models.register("old-1", 3)
    Image.new("RGB", (9, 9)).save(tmp_path / "new.png")
    run = IngestRun()
    run.start(str(tmp_path / "new.png"), library=library.folder)  # the page's "Add a folder"
    started = {
        name: subprocess.Popen(
            [sys.executable, "-P", "-m", "mmsearch", *words, "--library", str(library.folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, words in WRITING.items()
    }
    for name, process in started.items():
        out, said = process.communicate(timeout=300)
        said = "".join(line for line in said.splitlines(keepends=True) if not line.startswith("checking "))
        assert (name, process.returncode, out) == (name, 3, "")
        assert re.fullmatch(rf"mmsearch: process {other_writer.pid} is writing to \S+: [^\n]+\n", said), (name, said)
    backup(library.folder, tmp_path / "saved.zip")
    with locked(tmp_path), pytest.raises(LibraryLocked):
        restore(tmp_path / "saved.zip", tmp_path)
    while run.is_running():
        time.sleep(0.05)
    assert run.exit_code == 3 and f"process {other_writer.pid} is writing to" in run.sentence()


# ---- upkeep


def test_compact_deletes_for_good(library: Library) -> None:
    fill(library)
    library.sync_vectors()
    library.previews.mkdir()
    (library.previews / "x.webp").touch()
    of = source("/photos/x.jpg")
    source_id = library.catalog.sources.begin(of, model_key="toy-1")
    library.catalog.items.save(source_id, [ItemDraft(of, "image", 0)], np.eye(1, 64, dtype=np.float32), "toy-1", previews=["previews/x.webp"])  # fmt: skip
    library.catalog.sources.finish(source_id)
    library.catalog.models.register("old-1", 3)
    (library.folder / "old-1").mkdir()
    library.catalog.sources.retire([source_id, 1])
    with mmsearch.open(library.folder) as reader:
        assert len(reader.stores.of("image")) == 4
        library.catalog.sources.retire([2])
        library.compact()
        assert reader.stores.of("image").ids().tolist() == [3, 4, 5], "no tombstone was left to tell it"
    assert not (library.previews / "x.webp").exists() and not (library.folder / "old-1").exists()
    assert dense(library, "blue") == ["blue-one.jpg"]
    assert manifest(library, "image")["count"] == 3


def test_status(library: Library) -> None:
    fill(library)
    status = library.status()
    assert status["items"] == status["vectors"] == {"page": 2, "image": 5, "clip": 0}
    assert status["sources"] == {"indexed": 6, "pending": 0, "offline": 0, "failed": 0}
    assert (status["model"], status["model_key"], status["sources_to_embed"]) == ("toy", "toy-1", 0)
    assert status["bytes"] > 10_000
    json.dumps(status)


def test_opening_and_searching_by_words_is_quick(library: Library) -> None:
    fill(library)
    library.sync_vectors()
    code = (
        "import sys, mmsearch; library = mmsearch.open(sys.argv[1]); library.search('revenue', mode='text');"
        "import time; print(time.process_time() < 10, sorted({'torch', 'transformers', 'streamlit', 'alembic', 'faiss', 'pymupdf'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(library.folder)], capture_output=True, text=True, check=True)
    assert run.stdout == "True []\n"
