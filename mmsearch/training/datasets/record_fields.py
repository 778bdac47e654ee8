"""Fields of a record and of a recipe's entry, checked: what is odd is named, nothing odd gets through."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from mmsearch.errors import ConfigError, DatasetError
from mmsearch.media.pictures import DECODINGS, Decoding
from mmsearch.training.datasets.pairs import BytesPicture, FilePicture

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
COMMON = {
    "parser", "dataset_parser", "name", "num_sample_per_subset", "num_rows", "shuffle_before_cap", "seed", "weight",
    "global_dataset_name", "max_pixels", "hard_negatives", "download",
}  # fmt: skip
"""Fields that every parser takes, see `open_source`."""


DECODING = {"decoding"}
"""The field of parsers of published sets, see `decoding`."""


def decoding(spec: Mapping[str, Any]) -> Decoding:
    """How the pictures of a published set are decoded: "plain", as the reference does, unless the recipe says otherwise."""
    return cast(Decoding, choice(spec, "decoding", ("plain", *(other for other in DECODINGS if other != "plain"))))


def check_spec(spec: Mapping[str, Any], own: set[str], *, required: Sequence[str] = ()) -> None:
    """Raises: ConfigError for a field that the parser does not have, or one that it needs and is not given."""
    parser = spec.get("parser", spec.get("dataset_parser"))
    if unknown := sorted(set(spec) - COMMON - own):
        known = ", ".join(sorted(own | COMMON))
        raise ConfigError(f"parser {parser}: unknown field {', '.join(unknown)}; known: {known}")
    if missing := [name for name in required if not spec.get(name)]:
        raise ConfigError(f"parser {parser}: {', '.join(missing)} is needed")


def choice(spec: Mapping[str, Any], name: str, choices: Sequence[str]) -> str:
    """A field that is one of `choices`, by default the first."""
    value = spec.get(name) or choices[0]
    if value not in choices:
        raise ConfigError(f"parser {spec.get('parser')}: {name} is {value!r}; it can be {', '.join(choices)}")
    return value


def count(spec: Mapping[str, Any], name: str, default: int | None, *, least: int = 1) -> int | None:
    """A whole number field of at least `least`."""
    value = spec.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"parser {spec.get('parser')}: {name} is {value!r}; it must be a whole number from {least}")
    return value


def cap(spec: Mapping[str, Any]) -> int | None:
    """How many rows at most. The reference ignores `num_rows`; here it is the same as `num_sample_per_subset`."""
    values = {count(spec, name, None) for name in ("num_sample_per_subset", "num_rows")} - {None}
    if len(values) > 1:
        raise ConfigError(f"num_sample_per_subset and num_rows differ: {', '.join(map(str, sorted(values, key=str)))}")
    return values.pop() if values else None


def text(row: Mapping[str, Any], name: str) -> str:
    """A text that is there. Raises: DatasetError."""
    if not (value := optional_text(row, name)).strip():
        raise DatasetError(f"{name} is empty")
    return value


def optional_text(row: Mapping[str, Any], name: str) -> str:
    """A text, "" if there is none. Raises: DatasetError for anything else."""
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DatasetError(f"{name} is a {type(value).__name__}, not a text")
    return value


def texts(row: Mapping[str, Any], name: str) -> list[str]:
    """A list of texts; a single text counts as a list of one, nothing as an empty list."""
    value = row.get(name)
    if isinstance(value, list):
        return [optional_text({name: entry}, name) for entry in value]
    one = optional_text(row, name)
    return [one] if one else []


def file_picture(folder: Path, relative: str, decoding: Decoding = "upright") -> FilePicture:
    """A picture file under `folder` (an absolute path stays as it is). Raises: DatasetError if it is not there."""
    path = folder / relative
    if not path.is_file():
        raise DatasetError(f"no picture at {path}")
    return FilePicture(path, decoding)


def stored_picture(row: Mapping[str, Any], name: str, where: str, decoding: Decoding) -> BytesPicture:
    """A picture that a table carries: `{"bytes", "path"}`, as the hub's data sets store them. Raises: DatasetError."""
    value = row.get(name)
    data = value.get("bytes") if isinstance(value, dict) else value
    if not data:
        raise DatasetError(f"{name} holds no picture")
    if not isinstance(data, bytes):
        raise DatasetError(f"{name} is a {type(data).__name__}, not an encoded picture")
    return BytesPicture(data, where, decoding)


def video_frames(folder: Path, frames: int, decoding: Decoding = "upright") -> tuple[FilePicture, ...]:
    """At most `frames` pictures spread evenly over a folder of frames in natural order; all of them where there are fewer.

    Raises:
        DatasetError: no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise DatasetError(f"no folder of frames at {folder}")
    names = (entry.name for entry in folder.iterdir() if entry.suffix.lower() in PICTURE_SUFFIXES)
    found = tuple(sorted(names, key=natural_order))
    if not found:
        raise DatasetError(f"no frames in {folder}")
    if len(found) > frames:
        found = tuple(found[i] for i in np.linspace(0, len(found) - 1, frames, dtype=int))
    return tuple(FilePicture(folder / name, decoding) for name in found)


def natural_order(name: str) -> tuple[tuple[int, int | str], ...]:
    """A sort key under which frame 10 comes after frame 9."""
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part)
