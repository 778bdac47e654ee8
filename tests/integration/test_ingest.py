"""The whole of ingestion, with the toy model: from a folder to rows, vectors and answers, again and again."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import mmsearch.library
from ingest import pipeline
from ingest.decode import Event, Limits, Task
from ingest.pipeline import IngestReport, ingest_paths, plan_paths
from ingest.readers import READER_VERSION
from mmsearch.embedders.families.toy import ToyEmbedder
from mmsearch.library import Library
from tests import poison, samples


@pytest.fixture
def library(tmp_path) -> Library:
    with mmsearch.library.open(tmp_path / "library", create=True, model="toy", store="exact") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two photos, a document of three pages, a video of two scenes."""
    data = tmp_path / "data"
    data.mkdir()
    samples.photo(data / "red.jpg", samples.RED)
    samples.photo(data / "blue.png", samples.BLUE)
    samples.pdf(data / "report.pdf", ["revenue grew", "costs fell", "outlook"])
    samples.scenes(data / "film.mp4", [3.0, 3.0])
    return data


def indexed(library: Library) -> dict[str, list[tuple[int, int, str]]]:
    """{file name: [(item id, ordinal, kind)]} of all that can be found."""
    found: dict[str, list[tuple[int, int, str]]] = {}
    for row in library.catalog.sources.rows(states=("indexed",)):
        found[row.path.name] = [(i.id, i.ordinal, i.kind) for i in library.catalog.items.of_source(row.id)]
    return found


def top(library: Library, words: str, **terms: object) -> str:
    return library.search(words, k=1, min_relevance=0, **terms)[0].path.name


def assert_consistent(library: Library) -> None:
    """Every visible item has its vector, in the catalog and in the store; previews exist."""
    counts = library.catalog.counts()
    assert counts["items"] == counts["vectors"]
    for kind, number in counts["items"].items():
        assert len(library.stores.of(kind)) == number
    for row in library.catalog.sources.rows():
        for item in library.catalog.items.of_source(row.id):
            assert item.preview is not None and (library.folder / item.preview).read_bytes()[8:12] == b"WEBP"


# From nothing


def test_a_folder_becomes_searchable(library, folder):
    calls = []
    report = ingest_paths(library, [folder], progress=calls.append)
    assert report.items == {"image": 2, "page": 3, "clip": 2} and report.files == 4
    assert not report.failures and not report.interrupted
    assert {name: [kind for *_, kind in items] for name, items in indexed(library).items()} == {
        "blue.png": ["image"],
        "film.mp4": ["clip", "clip"],
        "red.jpg": ["image"],
        "report.pdf": ["page", "page", "page"],
    }
    assert_consistent(library)
    assert top(library, "red", kinds=["image"]) == "red.jpg"
    (hit,) = library.search("costs fell", k=1, kinds=["page"], min_relevance=0)
    assert (hit.path, hit.item.page_number) == (folder / "report.pdf", 2)
    assert set(report.seconds_by_stage) >= {"scan", "plan", "decode", "embed", "save", "sync", "wait"}
    assert sum(s for stage, s in report.seconds_by_stage.items() if stage != "decode") <= report.seconds + 0.1
    assert [stage for stage, _ in itertools.groupby(call.stage for call in calls)] == ["scan", "plan", "read", "sync"]
    (last,) = [call for call in calls if call.stage == "read"][-1:]
    assert last.items == last.expected == {"image": 2, "page": 3, "clip": 2} and last.fraction == 1.0


def test_telling_takes_little_of_the_time_however_long_it_takes(library, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "PROGRESS_INTERVAL_S", 0.0)
    data = tmp_path / "data"
    data.mkdir()
    samples.pdf(data / "long.pdf", [f"page number {n}" for n in range(60)])
    clock = SimpleNamespace(now=0.0)  # each look at it takes a millisecond, and each telling 20

    def now() -> float:
        clock.now += 0.001
        return clock.now

    monkeypatch.setattr(pipeline, "time", SimpleNamespace(monotonic=now))
    calls = []

    def slow(progress):
        calls.append(progress.stage)
        clock.now += 0.02

    ingest_paths(library, [data], progress=slow)
    seconds = clock.now
    assert calls.count("read") <= 3 + seconds / (0.02 / pipeline.PROGRESS_SHARE)
    assert calls.count("read") < 60  # as many as pages otherwise


def test_a_long_scan_says_how_many_files_it_found(library, folder, monkeypatch):
    monkeypatch.setattr(pipeline, "PROGRESS_INTERVAL_S", 0.0)
    sentences = []
    ingest_paths(library, [folder], progress=lambda now: sentences.append(now.sentence()))
    assert sentences[0] == "looking for files" and "looking for files: 3 found" in sentences


def test_stored_vectors_are_those_of_the_model(library, folder):
    """The oracle: decode and embed the same item here."""
    from ingest import readers
    from mmsearch import prompts

    ingest_paths(library, [folder])
    (row,) = (row for row in library.catalog.sources.rows() if row.path.name == "report.pdf")
    ids = [item.id for item in library.catalog.items.of_source(row.id)]
    source = next(iter(pipeline.find_sources([folder / "report.pdf"]).sources))
    model = ToyEmbedder()
    drafts = list(readers.read_items(source, model.max_pixels))
    expected = model.encode_documents([prompts.document_input(draft) for draft in drafts])
    found_ids, vectors = library.catalog.vectors.of(ids, "toy-1")
    assert list(found_ids) == sorted(ids)
    assert np.abs(vectors - expected).max() < 1e-3  # stored as float16


class DecoderHere:
    """Reads in this process, one file after the other."""

    def __init__(self, budget: dict, *, jobs: int | None = None, limits: Limits | None = None) -> None:
        self.budget = budget

    def read(self, tasks: Iterable[Task], *, tick_s: float = 1.0) -> Iterator[Event | None]:
        from ingest import readers

        for task in tasks:
            if task.is_count:
                yield Event("done", task, expected=readers.count_items(task.source.path))
                continue
            for draft in readers.read_items(task.source, self.budget):
                yield Event("draft", task, draft=draft)
            yield Event("done", task)

    def close(self) -> None: ...

    def __enter__(self) -> DecoderHere:
        return self

    def __exit__(self, *_: object) -> None: ...


def test_files_are_decoded_by_what_is_handed_in(library, folder, monkeypatch):
    monkeypatch.setattr(pipeline, "WorkerPool", None)
    report = ingest_paths(library, [folder], ocr=False, open_decoder=DecoderHere)
    assert report.plan.sentence().startswith("2 photos, 1 PDF (3 pages), 1 video (6 s)")
    assert sum(report.items.values()) == sum(map(len, indexed(library).values())) == 7
    assert_consistent(library)


def test_text_files_are_documents_of_pages(library, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "boats.md").write_text("# Boats\n\nA walrus rows.\n\n" + "word " * 2000)
    (tmp_path / "notes" / "empty.txt").touch()
    report = ingest_paths(library, [tmp_path / "notes"])
    assert report.plan.sentence().startswith("2 documents (5 pages)") and not report.failures
    assert {name: len(items) for name, items in indexed(library).items()} == {"boats.md": 4, "empty.txt": 1}
    (hit,) = library.search("walrus", k=1, min_relevance=0)
    assert (hit.path.name, hit.item.page_number, hit.item.text_source) == ("boats.md", 1, "layer")
    assert "nothing to do" in ingest_paths(library, [tmp_path / "notes"]).sentence()
    assert_consistent(library)


def test_a_second_run_finds_nothing_to_do(library, folder, monkeypatch):
    ingest_paths(library, [folder])
    before = indexed(library)
    generation = library.catalog.generation()
    monkeypatch.setattr(pipeline, "WorkerPool", None)  # not needed
    report = ingest_paths(library, [folder])
    assert (report.unchanged, report.files, sum(report.items.values())) == (4, 0, 0)
    assert "nothing to do" in report.sentence()
    assert indexed(library) == before and library.catalog.generation() == generation


def test_a_plan_says_what_will_be_done_and_does_nothing(library, folder):
    plan = plan_paths(library, [folder])
    assert plan.files == {"image": 2, "page": 1, "clip": 1} and plan.items["page"] == 3
    assert plan.video_s == pytest.approx(6.0, abs=0.2) and not plan.is_estimate
    assert plan.sentence().startswith("2 photos, 1 PDF (3 pages), 1 video (6 s) · about ")
    assert plan.sentence().endswith(" on cpu") and plan.seconds > 0
    assert library.catalog.counts()["sources"] == {}


def test_a_plan_is_timed_on_the_files_themselves(library, folder, monkeypatch):
    """Made-up items are as large as the model takes them: a folder of small pictures was announced ten times too slow."""
    seen = []
    real = ToyEmbedder.encode_documents
    monkeypatch.setattr(ToyEmbedder, "encode_documents", lambda self, inputs: seen.extend(inputs) or real(self, inputs))
    assert plan_paths(library, [folder]).seconds > 0
    assert {one.kind for one in seen} == {"image", "page", "clip"}
    assert {one.text for one in seen if one.kind == "page"} <= {"revenue grew", "costs fell", "outlook"}
    spans = [high - low for one in seen if one.kind == "image" for low, high in one.images[0].getextrema()]
    assert spans and max(spans) <= 8  # photos of one colour, not noise


def test_a_run_embeds_nothing_only_to_time_it(library, folder, monkeypatch):
    seen = []
    real = ToyEmbedder.encode_documents
    monkeypatch.setattr(ToyEmbedder, "encode_documents", lambda self, inputs: seen.extend(inputs) or real(self, inputs))
    assert ingest_paths(library, [folder]).items.total() == len(seen) == 7


class TestTimeThatIsLeft:
    @pytest.fixture
    def run(self, library, monkeypatch) -> pipeline.Run:
        """A run at second 0 of a clock of its own, `run.clock.now`."""
        clock = SimpleNamespace(now=0.0)
        monkeypatch.setattr(pipeline, "time", SimpleNamespace(monotonic=lambda: clock.now))
        run = pipeline.Run(library, 1, None)
        run.clock = clock
        return run

    def test_the_first_batch_sets_the_scale(self, run):
        before = dict(run.costs)
        run.learn_costs(["image"] * 4, 8.0)
        assert run.costs["image"] == pytest.approx(2.0)
        assert run.costs["clip"] / run.costs["image"] == pytest.approx(before["clip"] / before["image"])
        run.learn_costs(["image"] * 4, 4.0)
        assert 1.0 < run.costs["image"] < 2.0

    def test_it_is_told_by_the_last_seconds(self, run):
        run.costs = {"image": 1.0}
        assert run.pace() is None
        run.clock.now = 40.0  # the model is loaded, its modules are compiled
        run.report.items["image"] += 8
        assert run.pace() == pytest.approx(0.2)
        for _ in range(60):
            run.clock.now += 1.0
            run.report.items["image"] += 8
            run.pace()
        assert run.pace() == pytest.approx(8.0, rel=0.01)

    def test_it_is_not_told_by_too_little(self, run):
        run.costs = {"image": 1.0}
        run.clock.now = 2.0
        run.report.items["image"] = 1
        assert run.pace() is None
        run.clock.now = 12.0
        assert run.pace() is not None


def test_counts_are_said_as_people_say_them():
    plan = pipeline.IngestPlan(seconds=2280.0, device="cpu")
    plan.files.update({"image": 3120, "page": 41, "clip": 12})
    plan.items.update({"image": 3120, "page": 1902, "clip": 540})
    plan.video_s = 4800.0
    assert plan.sentence() == "3,120 photos, 41 PDFs (1,902 pages), 12 videos (80 min) · about 38 min on cpu"


# Again


def test_changed_files_replace_their_items_in_one_step(library, folder):
    ingest_paths(library, [folder])
    before = indexed(library)
    samples.photo(folder / "red.jpg", samples.GREEN)
    samples.pdf(folder / "report.pdf", ["entirely different"])
    report = ingest_paths(library, [folder])
    assert (report.plan.changed, report.files, report.unchanged) == (2, 2, 2)
    after = indexed(library)
    assert len(after["report.pdf"]) == 1 and after["film.mp4"] == before["film.mp4"]
    old_ids = {id_ for items in before.values() for id_, *_ in items}
    assert not old_ids & {id_ for name in ("red.jpg", "report.pdf") for id_, *_ in after[name]}
    assert top(library, "green", kinds=["image"]) == "red.jpg"
    assert_consistent(library)


def test_moved_files_keep_their_items_and_need_no_model(library, folder, monkeypatch):
    ingest_paths(library, [folder])
    before = indexed(library)
    (folder / "sub").mkdir()
    (folder / "report.pdf").rename(folder / "sub" / "annual.pdf")
    monkeypatch.setattr(ToyEmbedder, "encode_documents", None)
    report = ingest_paths(library, [folder])
    assert (report.moved, report.retired, report.files) == (1, 0, 0)
    assert indexed(library)["annual.pdf"] == before["report.pdf"]
    assert_consistent(library)


def test_removed_files_are_retired(library, folder):
    ingest_paths(library, [folder])
    (folder / "red.jpg").unlink()
    report = ingest_paths(library, [folder])
    assert report.retired == 1 and "red.jpg" not in indexed(library)
    assert all(hit.path.name != "red.jpg" for hit in library.search("red", min_relevance=0))
    assert_consistent(library)
    samples.photo(folder / "red.jpg", samples.RED)
    ingest_paths(library, [folder])
    assert top(library, "red", kinds=["image"]) == "red.jpg"


def test_an_absent_disk_is_no_deletion(library, folder, tmp_path, monkeypatch):
    ingest_paths(library, [folder])
    before = indexed(library)
    folder.rename(tmp_path / "away")
    report = ingest_paths(library, [folder])
    assert (report.offline, report.retired) == (4, 0) and indexed(library) == {}
    assert not report.failures  # it is known, it is only away
    folder.mkdir()  # the empty mount point
    assert ingest_paths(library, [folder]).retired == 0
    folder.rmdir()
    (tmp_path / "away").rename(folder)
    monkeypatch.setattr(ToyEmbedder, "encode_documents", None)
    report = ingest_paths(library, [folder])
    assert report.returned == 4 and indexed(library) == before
    assert_consistent(library)


def test_an_emptied_folder_is_kept_until_pruned(library, folder):
    ingest_paths(library, [folder])
    for path in folder.iterdir():
        path.unlink()
    assert ingest_paths(library, [folder]).offline == 4
    report = ingest_paths(library, [folder], prune=True)
    assert report.retired == 4 and library.catalog.counts()["sources"] == {}


def test_copies_are_found_at_both_places_and_embedded_once(library, folder, monkeypatch):
    shutil.copy(folder / "report.pdf", folder / "copy.pdf")
    seen = []
    real = ToyEmbedder.encode_documents
    monkeypatch.setattr(ToyEmbedder, "encode_documents", lambda self, inputs: seen.extend(inputs) or real(self, inputs))
    monkeypatch.setattr(pipeline, "measure_costs", lambda *_: {})
    report = ingest_paths(library, [folder])
    assert report.copied == 1 and len(seen) == 7
    assert len(indexed(library)["report.pdf"]) == len(indexed(library)["copy.pdf"]) == 3
    (folder / "report.pdf").unlink()
    ingest_paths(library, [folder])
    assert top(library, "costs fell", kinds=["page"]) == "copy.pdf"
    assert_consistent(library)


def test_part_of_a_folder_retires_nothing_outside_of_it(library, folder):
    ingest_paths(library, [folder])
    before = indexed(library)
    assert ingest_paths(library, [folder / "red.jpg"]).retired == 0
    report = ingest_paths(library, [folder], include=["*.pdf"])
    assert (report.retired, report.offline, report.unchanged) == (0, 0, 1)
    assert indexed(library) == before


def test_names_that_are_not_utf8_are_found_again(library, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    odd = Path(os.fsdecode(os.fsencode(data) + b"/r\xe9d \xff.png"))
    samples.photo(tmp_path / "a.png", samples.RED).rename(odd)
    ingest_paths(library, [data])
    (hit,) = library.search("red", k=1, min_relevance=0)
    assert os.fsencode(hit.path) == os.fsencode(odd) and hit.path.exists()
    assert ingest_paths(library, [data]).unchanged == 1


# Failures


def test_bad_files_are_errors_with_names_and_stop_nothing(library, folder):
    (folder / "broken.jpg").write_bytes((folder / "red.jpg").read_bytes()[:300])
    samples.encrypted_pdf(folder / "secret.pdf")
    samples.page_less_pdf(folder / "empty.pdf")
    (folder / "nothing.mp4").touch()
    report = ingest_paths(library, [folder])
    assert report.files == 4
    assert {(f.path.name, f.type) for f in report.failures} == {
        ("broken.jpg", "CorruptFile"),
        ("secret.pdf", "EncryptedFile"),
        ("empty.pdf", "CorruptFile"),
        ("nothing.mp4", "CorruptFile"),
    }
    assert {row.path.name for row in library.catalog.sources.errors()} == {
        "broken.jpg",
        "secret.pdf",
        "empty.pdf",
        "nothing.mp4",
    }
    again = ingest_paths(library, [folder])
    assert (again.failed_before, again.unchanged, again.failures) == (4, 4, [])
    retried = ingest_paths(library, [folder], retry_failed=True)
    assert len(retried.failures) == 4
    samples.photo(folder / "broken.jpg", samples.GREEN)  # repaired
    assert ingest_paths(library, [folder]).files == 1
    assert {row.path.name for row in library.catalog.sources.errors()} == {"secret.pdf", "empty.pdf", "nothing.mp4"}


def test_a_file_that_turns_bad_keeps_its_former_items(library, folder):
    ingest_paths(library, [folder])
    (folder / "red.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing follows")
    report = ingest_paths(library, [folder])
    assert [f.path.name for f in report.failures] == ["red.jpg"]
    assert top(library, "red", kinds=["image"]) == "red.jpg"


def test_a_missing_path_is_told(library, tmp_path):
    report = ingest_paths(library, [tmp_path / "nowhere"])
    assert [(f.path.name, f.reason) for f in report.failures] == [("nowhere", "there is no such file or folder")]


def test_an_item_that_the_model_refuses_costs_its_file_only(library, folder, monkeypatch):
    real = ToyEmbedder.encode_documents

    def fragile(self, inputs):
        if any("costs" in one.text for one in inputs):
            raise RuntimeError("no")
        return real(self, inputs)

    monkeypatch.setattr(ToyEmbedder, "encode_documents", fragile)
    report = ingest_paths(library, [folder])
    assert report.items == {"image": 2, "page": 2, "clip": 2} and report.files == 3
    (failure,) = report.failures
    assert failure.path.name == "report.pdf" and "page 2" in failure.reason
    monkeypatch.undo()
    assert ingest_paths(library, [folder], retry_failed=True).files == 1
    assert [ordinal for _, ordinal, _ in indexed(library)["report.pdf"]] == [0, 1, 2]
    assert_consistent(library)


def test_vectors_that_are_not_finite_are_refused(library, folder, monkeypatch):
    real = ToyEmbedder.encode_documents

    def sick(self, inputs):
        vectors = real(self, inputs)
        for row, one in zip(vectors, inputs, strict=True):
            if "outlook" in one.text:
                row[3] = np.nan
        return vectors

    monkeypatch.setattr(ToyEmbedder, "encode_documents", sick)
    report = ingest_paths(library, [folder])
    assert [f.path.name for f in report.failures] == ["report.pdf"]
    assert report.items["page"] == 2


def test_a_broken_model_is_not_the_files_fault(library, folder, monkeypatch):
    def broken(self, inputs):
        raise RuntimeError("device lost")

    monkeypatch.setattr(ToyEmbedder, "encode_documents", broken)
    with pytest.raises(RuntimeError, match="device lost"):
        ingest_paths(library, [folder])
    assert library.catalog.sources.errors() == []
    monkeypatch.undo()
    assert ingest_paths(library, [folder]).files == 4


def test_a_file_that_changes_during_decoding_is_left_for_the_next_run(library, folder, monkeypatch):
    real = ToyEmbedder.encode_documents

    def meanwhile(self, inputs):
        if any("costs" in one.text for one in inputs):
            samples.pdf(folder / "report.pdf", ["new words"])
        return real(self, inputs)

    monkeypatch.setattr(ToyEmbedder, "encode_documents", meanwhile)
    report = ingest_paths(library, [folder])
    assert report.changing == [folder / "report.pdf"] and report.files == 3 and not report.failures
    monkeypatch.undo()
    assert ingest_paths(library, [folder]).files == 1
    assert [item[1] for item in indexed(library)["report.pdf"]] == [0]
    assert top(library, "new words", kinds=["page"]) == "report.pdf"


# Interruption


def test_what_was_saved_stays_and_the_same_call_goes_on(library, tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    samples.pdf(data / "long.pdf", [f"page number {n}" for n in range(40)])
    monkeypatch.setattr(pipeline, "BATCH_ITEMS", 8)
    monkeypatch.setattr(pipeline, "measure_costs", lambda *_: {})
    real = ToyEmbedder.encode_documents
    batches = []

    def interrupted(self, inputs):
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(len(inputs))
        return real(self, inputs)

    monkeypatch.setattr(ToyEmbedder, "encode_documents", interrupted)
    report = ingest_paths(library, [data])
    assert report.interrupted and report.items["page"] == sum(batches) == 16
    assert report.sentence() == "interrupted: kept 16 of 40 items; the same command goes on from there"
    (hit,) = library.search("page number 3", k=1, kinds=["page"], min_relevance=0)  # searchable already
    assert hit.path.name == "long.pdf"

    seen = []
    monkeypatch.setattr(ToyEmbedder, "encode_documents", lambda self, inputs: seen.extend(inputs) or real(self, inputs))
    report = ingest_paths(library, [data])
    assert not report.interrupted and report.files == 1
    assert [one.text for one in seen] == [f"page number {n}" for n in range(16, 40)]
    assert [ordinal for _, ordinal, _ in indexed(library)["long.pdf"]] == list(range(40))
    assert_consistent(library)


def test_an_unfinished_file_that_is_gone_is_forgotten(library, tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    samples.photo(data / "kept.png")
    samples.pdf(data / "long.pdf", [f"page number {n}" for n in range(40)])
    real = ToyEmbedder.encode_documents
    calls = []

    def interrupted(self, inputs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, inputs)

    monkeypatch.setattr(pipeline, "BATCH_ITEMS", 8)
    monkeypatch.setattr(pipeline, "measure_costs", lambda *_: {})
    monkeypatch.setattr(ToyEmbedder, "encode_documents", interrupted)
    assert ingest_paths(library, [data]).interrupted
    monkeypatch.setattr(ToyEmbedder, "encode_documents", real)
    (data / "long.pdf").unlink()
    ingest_paths(library, [data])
    assert library.catalog.counts()["items"] == {"image": 1}
    assert_consistent(library)


RUN = """
import sys
import mmsearch.library
from ingest import pipeline
pipeline.BATCH_ITEMS = 4
with mmsearch.library.open(sys.argv[1], create=True, model="toy", store="exact") as library:
    def show(progress):
        if sum(progress.items.values()) >= 8:
            print("going", flush=True)
            sys.stdin.readline()  # the rest waits until the signal is on its way
    report = pipeline.ingest_paths(library, [sys.argv[2]], progress=show)
    print(report.sentence())
    sys.exit(130 if report.interrupted else 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_a_killed_process_loses_nothing_that_was_committed(tmp_path, how):
    psutil = pytest.importorskip("psutil")
    data = tmp_path / "data"
    data.mkdir()
    for number in range(6):
        samples.pdf(data / f"{number}.pdf", [f"words {number} {page}" for page in range(30)])
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path / "library"), str(data)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "going":
            break
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(how)
    output, _ = process.communicate(timeout=60)
    if how == signal.SIGINT:
        assert process.returncode == 130 and "interrupted: kept" in output
    end = time.monotonic() + 60
    while any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers):
        assert time.monotonic() < end, "a worker outlived its parent"
        time.sleep(0.1)
    with mmsearch.library.open(tmp_path / "library", model="toy", store="exact") as library:
        kept = library.catalog.counts()["items"]["page"]
        assert 8 <= kept < 180
        before = {item for items in indexed(library).values() for item in items}
        assert ingest_paths(library, [data]).items["page"] == 180 - kept
        assert {name: len(items) for name, items in indexed(library).items()} == {f"{n}.pdf": 30 for n in range(6)}
        assert before <= {item for items in indexed(library).values() for item in items}
        assert_consistent(library)


def test_two_writers_are_refused(library, folder, tmp_path):
    from mmsearch.errors import LibraryLocked

    with (
        library.lock(),
        mmsearch.library.open(tmp_path / "library", model="toy", store="exact") as other,
        pytest.raises(LibraryLocked),
    ):
        ingest_paths(other, [folder])


@pytest.mark.parametrize("knows_ctime", [True, False], ids=["known", "from an older library"])
def test_ten_thousand_unchanged_files_take_less_than_two_seconds(library, tmp_path, knows_ctime):
    from mmsearch.items import ItemDraft, Source

    data = tmp_path / "data"
    vector = np.zeros(64, np.float32)
    vector[0] = 1.0
    rows = []
    library.catalog.models.register("toy-1", 64, "toy")
    for number in range(10_000):
        path = data / f"{number // 500}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff\xd8\xff")
        status = path.stat()
        ctime_ns = status.st_ctime_ns if knows_ctime else None
        rows.append(Source(path, f"{number:064x}", status.st_size, status.st_mtime_ns, ctime_ns))
    _index_quickly(library, rows, ItemDraft, vector)
    began = time.process_time()  # the processor's, whoever else keeps it busy
    report = ingest_paths(library, [data])
    seconds = time.process_time() - began
    assert (report.unchanged, report.files, report.retired) == (10_000, 0, 0)
    assert seconds < 2.0


def _index_quickly(library: Library, sources: list, draft_type: type, vector: np.ndarray) -> None:
    """Rows as 10,000 ingested photos leave them, in one transaction."""
    from sqlalchemy import text

    first = library.catalog.sources.begin(sources[0], model_key="toy-1")
    library.catalog.items.save(first, [draft_type(sources[0], "image", 0)], vector[None], "toy-1")
    library.catalog.sources.finish(first, sidecars="", reader_version=READER_VERSION)
    with library.catalog.transaction() as c:
        columns = [row[1] for row in c.execute(text("PRAGMA table_info(sources)")) if row[1] != "id"]
        values = dict(c.execute(text("SELECT * FROM sources")).mappings().one())
        for source in sources[1:]:
            values |= {
                "path": os.fsencode(source.path),
                "sha256": source.sha256,
                "size_bytes": source.size_bytes,
                "modified_ns": source.modified_ns,
                "ctime_ns": source.ctime_ns,
            }
            statement = f"INSERT INTO sources ({', '.join(columns)}) VALUES ({', '.join(':' + n for n in columns)})"
            c.execute(text(statement), {name: values[name] for name in columns})
        c.execute(
            text("INSERT OR IGNORE INTO embedded SELECT id, (SELECT id FROM models WHERE key = 'toy-1') FROM sources")
        )


# A change of the model


def test_another_model_embeds_everything_anew_beside_the_old(library, folder, monkeypatch):
    ingest_paths(library, [folder])
    before = indexed(library)
    monkeypatch.setattr(ToyEmbedder, "model_key", "toy-2")
    with mmsearch.library.open(library.folder, model="toy", store="exact") as newer:
        report = ingest_paths(newer, [folder])
        assert report.plan.reembed == 4 and report.items == {"image": 2, "page": 3, "clip": 2}
        assert newer.model_key == "toy-2" and indexed(newer) == before  # ids stay
        assert_consistent(newer)
        assert isinstance(report, IngestReport)


def test_text_that_is_cut_is_told_with_the_file(library, tmp_path):
    """A page with more text than people read is found by what is kept of it."""
    (tmp_path / "bomb").mkdir()
    path = poison.pages_of_one_text(tmp_path / "bomb" / "shared.pdf", 2, chars=101_000)
    report = ingest_paths(library, [path.parent])
    assert "too much text: cut in shared.pdf (2 items)" in report.sentence() and not report.failures
    assert report.record()["cut_texts"] == [{"path": str(path), "items": 2}]
    assert [len(item.text) for item in library.catalog.items.of(library.catalog.items.visible_ids(["page"]))] == [
        100_000
    ] * 2
    assert library.catalog.items.of([1])[0].meta["text_cut"] == "beyond 100,000 characters of the item"
