"""What the sources over rows have in common: caps, names in messages, picture budgets, the number of hard negatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmsearch.errors import ConfigError, DatasetError
from mmsearch.prompts import IMAGE_TOKEN, VIDEO_TOKEN
from mmsearch.training.datasets import record_fields
from mmsearch.training.datasets.pairs import Pair, Side, side_key
from mmsearch.training.datasets.rows import Rows, chosen_rows


class RowSource:
    """A `PairSource` over rows; a family adds `read`, from a record to its pair."""

    def __init__(self, spec: Mapping[str, Any], rows: Rows, *, default_name: str) -> None:
        """`spec` is checked already. Raises: ConfigError, DatasetError (nothing in it)."""
        name = spec.get("name") or default_name
        if not isinstance(name, str):
            raise ConfigError(f"the name of a source is {name!r}, not a text")
        self.name = name
        self.rows = rows
        if not len(rows):
            raise DatasetError(f"{name}: the data set has no rows")
        self.chosen = chosen_rows(
            len(rows),
            record_fields.cap(spec),
            shuffle=bool(spec.get("shuffle_before_cap", False)),
            seed=record_fields.count(spec, "seed", 0, least=0) or 0,
        )
        self.max_pixels = record_fields.count(spec, "max_pixels", None, least=28 * 28)
        self.hard_negatives = record_fields.count(spec, "hard_negatives", None, least=0)

    def __len__(self) -> int:
        return len(self.chosen)

    def pair(self, index: int) -> Pair:
        """See `PairSource.pair`."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)} in {self.name}")
        row = int(self.chosen[index])
        key = f"{self.name}: {self.rows.name_of(row)}"
        try:
            pair = self.read(self.rows[row], key)
            for side in pair.sides():
                check_side(side)
        except DatasetError as error:
            raise DatasetError(f"{key}: {error}") from error
        return replace(
            pair,
            query=self._within_budget(pair.query),
            target=self._within_budget(pair.target),
            negatives=tuple(map(self._within_budget, pair.negatives)),
            key=key,
            target_key=pair.target_key or side_key(pair.target),
        )

    def read(self, row: dict[str, Any], key: str) -> Pair:
        """The pair of a record, with at most `hard_negatives` negatives; `key` names it. Raises: DatasetError."""
        raise NotImplementedError

    def _within_budget(self, side: Side) -> Side:
        return side if self.max_pixels is None else replace(side, max_pixels=self.max_pixels)


def check_side(side: Side) -> None:
    """Raises: DatasetError: nothing to embed, or pictures that the prompt has no place for."""
    if not side.prompt.strip():
        raise DatasetError("one side is empty")
    if side.is_video:
        if side.prompt.count(VIDEO_TOKEN) != 1:
            raise DatasetError(f"a video and {side.prompt.count(VIDEO_TOKEN)} places for it in {side.prompt[:80]!r}")
    elif side.pictures and side.prompt.count(IMAGE_TOKEN) != len(side.pictures):
        places = side.prompt.count(IMAGE_TOKEN)
        raise DatasetError(f"{len(side.pictures)} pictures and {places} places for them in {side.prompt[:80]!r}")
    elif VIDEO_TOKEN in side.prompt:
        raise DatasetError(f"a place for a video and no video in {side.prompt[:80]!r}")
