"""Loading: the same examples at any number of workers and processes, bad records replaced and counted, errors with a name, clean ends."""

from __future__ import annotations

import multiprocessing
import operator
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image

from mmsearch.errors import ConfigError, DatasetError, EmbedderError
from mmsearch.training.data import pair_loader as loader
from mmsearch.training.data.mixture import Mixture
from mmsearch.training.data.pair_loader import SkipReport, batches, check_sources, load_example
from mmsearch.training.datasets import open_sources
from mmsearch.training.datasets.dataset_folders import DatasetFolders
from mmsearch.training.datasets.pairs import Pair, Side
from tests import training_sets as made

BAD = {3, 4, 11, 19}


def prompts_and_pixels(examples) -> list[tuple[str, str, torch.Tensor]]:
    """What a model might be given: strings, and tensors of pixels."""
    return [
        (
            example.pair.query.prompt,
            example.pair.target.prompt,
            torch.tensor([made.number_of(i) for i in example.images[1]]),
        )
        for example in examples
    ]


def fail_at_seven(examples) -> None:
    if any("q7 " in example.pair.query.prompt + " " for example in examples):
        raise EmbedderError("no room for seven")


def die(examples) -> None:
    os._exit(9)


class Texts:
    """Pairs in memory; some are bad."""

    def __init__(self, name: str, size: int, bad=frozenset()) -> None:
        self.name, self.size, self.bad = name, size, bad

    def __len__(self) -> int:
        return self.size

    def pair(self, index: int) -> Pair:
        if index in self.bad:
            raise DatasetError(f"{self.name} row {index} is bad")
        return Pair(Side(f"q{index}"), Side(f"t{index}"), key=f"{self.name} {index}", target_key=str(index))


@pytest.fixture
def sources(tmp_path):
    """A table with pictures and a user's file; records 3, 4, 11 and 19 of the table are bad, each in its own way."""
    places = DatasetFolders(tmp_path / "data", tmp_path / "cache")
    rows = [{"query": f"q{n}", "image": made.stored(n), "source": "ChartQA"} for n in range(20)]
    rows[3]["query"] = ""
    rows[4]["image"] = None
    rows[11]["image"] = {"bytes": b"no picture", "path": "x"}
    rows[19]["image"] = {"bytes": made.encoded(19)[:-30], "path": "x"}
    made.visrag(places.root / "VisRAG-Ret-Train-In-domain-data", rows)
    made.json_lines(places.root / "own.jsonl", [{"query": f"own {n}", "target_text": f"t {n}"} for n in range(30)])
    specs = {"visrag": {"parser": "visrag"}, "own": {"parser": "jsonl", "dataset_path": "own.jsonl"}}
    return open_sources(specs, folders=places)


def mixture(sources, global_batch=16, sub_batch=4, **weights) -> Mixture:
    sizes = {name: len(source) for name, source in sources.items()}
    return Mixture(sizes, weights or dict.fromkeys(sizes, 1), global_batch, sub_batch, seed=1)


def content(steps) -> list:
    """What was yielded, example by example."""
    return [
        (step.step, source, row, key, query, target, pixels.tolist())
        for step in steps
        for part in step.portions
        for source, row, key, (query, target, pixels) in zip(part.sources, part.rows, part.keys, part.made, strict=True)
    ]


def test_the_same_examples_at_any_number_of_workers(sources):
    mix = mixture(sources)

    def load(**how):
        return content(batches(mix, sources, prompts_and_pixels, last_step=6, **how))

    expected = load()
    assert len(expected) == 6 * 16
    drawn = [(step, p.source, row) for step in range(6) for p in mix.draw(step) for row in p.rows]
    assert [e[:2] for e in expected] == [d[:2] for d in drawn]
    changed = {(d[1], d[2]) for d, e in zip(drawn, expected, strict=True) if d[2] != e[2]}
    assert changed and changed <= {("visrag", row) for row in BAD}
    assert all(e[6] == [e[2]] for e in expected if e[1] == "visrag")
    # In the reference, workers beyond the number of shards get nothing to do, or stop the run.
    assert load(workers=1) == expected
    assert load(workers=3, portion=3) == expected
    assert load(workers=8, threads=True, portion=1) == expected


def test_the_same_examples_for_any_number_of_processes(sources):
    mix = mixture(sources)
    whole = content(batches(mix, sources, prompts_and_pixels, last_step=4))
    for world_size in (2, 4, 8):
        shares = [
            content(batches(mix, sources, prompts_and_pixels, rank=rank, world_size=world_size, last_step=4))
            for rank in range(world_size)
        ]
        assert sorted((e for share in shares for e in share), key=operator.itemgetter(0)) == whole


def test_a_run_goes_on_at_any_step(sources):
    mix = mixture(sources)
    whole = content(batches(mix, sources, prompts_and_pixels, last_step=9))
    rest = content(
        batches(mixture(sources), sources, prompts_and_pixels, first_step=5, last_step=9, workers=2, threads=True)
    )
    assert rest == [example for example in whole if example[0] >= 5]


def test_examples_drawn_by_themselves_are_prepared_together(sources):
    mix = mixture(sources, sub_batch=0)
    step = next(batches(mix, sources, len, portion=5))
    assert [part.made for part in step.portions] == [5, 5, 5, 1]
    assert [source for part in step.portions for source in part.sources] == [part.source for part in mix.draw(0)]


def test_a_bad_record_is_replaced_by_the_next_row_and_counted_once(sources, caplog):
    replaced = {row: load_example(sources["visrag"], row) for row in BAD}
    assert {row: example.row for row, (example, _) in replaced.items()} == {3: 5, 4: 5, 11: 12, 19: 0}
    assert [s.row for s in replaced[3][1]] == [3, 4]
    report = SkipReport()
    mix = mixture({"visrag": sources["visrag"]})
    for _ in batches(mix, {"visrag": sources["visrag"]}, len, last_step=10, report=report):
        pass
    assert report.counts() == {"visrag": 4}
    assert report.rows == {"visrag": BAD}
    assert len(report.named["visrag"]) == len(caplog.messages) == 4
    said = "\n".join(caplog.messages)
    for words in ("query is empty", "image holds no picture", "data row 11", "data row 19"):
        assert words in said


def test_only_the_first_bad_records_are_named(caplog):
    sources = {"t": Texts("t", 40, frozenset(range(0, 40, 2)))}
    report = SkipReport()
    for _ in batches(mixture(sources), sources, len, last_step=5, report=report):
        pass
    assert report.counts() == {"t": 20}
    assert len(report.named["t"]) == len(caplog.messages) == 5
    assert "further ones are only counted" in caplog.messages[-1]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_source_of_bad_records_alone_is_an_error(workers):
    sources = {"t": Texts("t", 5, frozenset(range(5)))}
    with pytest.raises(DatasetError, match=r"nothing usable in t: 5 of its 5 records .* the first: t row"):
        next(batches(mixture(sources), sources, len, workers=workers, threads=True))
    with pytest.raises(DatasetError, match=r"nothing usable in t: 5 of its 5 records .* the first: t row 0 is bad"):
        check_sources(sources)


def test_a_long_stretch_of_bad_records_ends_the_search(monkeypatch):
    monkeypatch.setattr(loader, "BAD_IN_A_ROW", 10)
    with pytest.raises(DatasetError, match="10 of its 5000 records were tried"):
        load_example(Texts("t", 5000, frozenset(range(4000))), 100)


def test_sources_are_checked_by_a_few_examples_each(sources):
    assert check_sources(sources, sample=20).rows == {"visrag": BAD}
    assert check_sources(sources, sample=2).counts() == {}


@pytest.mark.parametrize(
    "how", [{}, {"workers": 2, "threads": True}, {"workers": 1}], ids=["here", "threads", "process"]
)
def test_an_error_in_a_worker_is_raised_with_its_rows(how):
    sources = {"t": Texts("t", 40)}
    mix = mixture(sources)
    found = batches(mix, sources, fail_at_seven, portion=4, **how)
    with pytest.raises(DatasetError, match=r"step \d+, rows t .*: EmbedderError: no room for seven") as caught:
        for _ in found:
            pass
    step = next(s for s in range(20) if any(7 in part.rows for part in mix.draw(s)))
    assert f"step {step}," in str(caught.value)
    assert isinstance(caught.value.__cause__, EmbedderError)


def test_a_worker_that_dies_is_no_endless_wait():
    sources = {"t": Texts("t", 40)}
    with pytest.raises(DatasetError, match=r"a loader process died at step 0, rows t .* use fewer workers"):
        next(batches(mixture(sources), sources, die, workers=1))


def test_closing_ends_the_workers(sources):
    before = set(threading.enumerate())
    steps = batches(mixture(sources), sources, prompts_and_pixels, workers=2)
    assert [next(steps).step for _ in range(3)] == [0, 1, 2]
    children = multiprocessing.active_children()
    assert len(children) == 2
    steps.close()
    assert not any(child.is_alive() for child in children)
    deadline = time.monotonic() + 60
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.02)
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert not {name for name in left if "resource_sharer" not in name.lower()}


KILLED = """
import multiprocessing, os, signal
from mmsearch.training.datasets import open_source
from mmsearch.training.data.pair_loader import batches
from mmsearch.training.data.mixture import Mixture
if __name__ == "__main__":
    source = open_source({"parser": "jsonl", "name": "own", "dataset_path": FILE})
    steps = batches(Mixture({"own": len(source)}, {"own": 1}, 8, 4, 0), {"own": source}, len, workers=2)
    next(steps)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_a_run_that_is_killed(tmp_path):
    file = made.json_lines(tmp_path / "own.jsonl", [{"query": f"own {n}", "target_text": f"t {n}"} for n in range(30)])
    script = tmp_path / "run.py"
    script.write_text(KILLED.replace("FILE", repr(str(file))))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert run.returncode == -signal.SIGKILL
    workers = [int(pid) for pid in run.stdout.split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 60
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, workers))


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_at_most_two_portions_a_worker_are_made_ahead():
    calls = []
    sources = {"t": Texts("t", 4000)}
    steps = batches(mixture(sources), sources, calls.append, workers=2, threads=True, portion=4)
    next(steps)
    time.sleep(0.2)
    assert 4 <= len(calls) <= 4 + 2 * 2 + 1
    steps.close()


def test_what_does_not_fit_together_is_refused(sources):
    with pytest.raises(ConfigError, match=r"the mixture was made for .*'own': 30.*the sources have"):
        batches(mixture(sources), {"own": sources["own"]}, len)
    with pytest.raises(ConfigError, match="t is called u"):
        batches(mixture({"t": Texts("t", 5)}), {"t": Texts("u", 5)}, len)
    with pytest.raises(ConfigError, match="workers is -1"):
        batches(mixture(sources), sources, len, workers=-1)


def test_an_example_carries_its_pictures_by_side(sources):
    example, skipped = load_example(sources["visrag"], 7)
    assert (skipped, example.source, example.row) == ([], "visrag", 7)
    assert example.images[0] == []
    assert [type(image) for image in example.images[1]] == [Image.Image]
    assert made.number_of(example.images[1][0]) == 7
    assert pickle.loads(pickle.dumps(example)).pair == example.pair
