"""The short version of `make torture`: every command that writes is killed at a random moment, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture import kills


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_random_moments_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("MODEL", "LIBRARY", "STORE", "DEVICE"):
        monkeypatch.delenv(f"MMSEARCH_{name}", raising=False)
    killer = kills.Killer(seed=3)
    bed = kills.Bed.make(tmp_path / "bed", 24, killer)
    assert len(bed.expected) > 100
    tallies = kills.scenarios(bed, killer, kills=4, few=1)
    assert [(tally.name, tally.problems) for tally in tallies if tally.problems] == []
    assert sum(tally.kills for tally in tallies) == 11
