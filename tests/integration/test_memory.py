"""Memory of an ingest, the short version of what `make torture` measures with 100,000 files; and that too much of it would be noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture import memory

pytestmark = pytest.mark.slow


def test_memory_stays_bounded() -> None:
    pictures, documents = memory.runs(files=1000, documents=1)
    assert (pictures.problems, documents.problems) == ([], [])
    assert (pictures.items, documents.items) == (1000, memory.PAGES_PER_DOCUMENT)
    for peak in pictures, documents:
        assert 0 < peak.workers_bytes < peak.parent_bytes <= peak.tree_bytes, "it has looked at all of them"


def test_too_much_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LIMIT_BYTES", 10 << 20)
    monkeypatch.setattr(memory, "NOISE_BYTES", -(1 << 40))
    memory.write_pictures(tmp_path / "pictures", 20)
    peak = memory.measure("small files", tmp_path / "pictures", 20, 21, tmp_path / "library")
    assert [problem.split(";")[0].split(",")[0].split(" MB")[-1] for problem in peak.problems] == [
        "20 of 21 items", " in all", " on the way",
    ]  # fmt: skip
