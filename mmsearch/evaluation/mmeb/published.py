"""Published numbers of MMEB-V2, to stand beside one's own; `published.yaml` says where each comes from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

Edition = Literal["before_repair", "after_repair"]
"""Of the document sets: two of them were repaired in 2025-11."""


@cache
def _published() -> dict[str, Any]:
    return yaml.safe_load(files(__package__).joinpath("published.yaml").read_text(encoding="utf-8"))


def published_scores() -> Mapping[str, Mapping[str, float]]:
    """Model → data set → score in per cent, for models whose scores are stored with the reference.

    Both page sets stand in, before (`ViDoSeek-page`, `MMLongBench-page`) and after their repair (`…-fixed`).
    """
    return {model: entry["of"] for model, entry in _published()["scores"].items()}


def published_averages(edition: Edition) -> Mapping[str, Mapping[str, Any]]:
    """Model → `{all, image?, video?, visdoc?, size?, source?, groups?: {group: mean}}`, as published, in per cent."""
    return _published()["averages"][edition]
