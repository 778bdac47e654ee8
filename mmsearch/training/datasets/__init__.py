"""Where training pairs come from: one module per family of data sets, each reading the layout in which it is published.

To add a family: a module with a class that has `name`, `__len__` and `pair`, its function `open_…(spec, folders)`, and a
line in `PARSERS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

from mmsearch.errors import ConfigError
from mmsearch.training.datasets.dataset_folders import DatasetFolders
from mmsearch.training.datasets.pairs import Pair

PARSERS = {
    "mmeb": "mmeb:open_mmeb",
    "mmeb_neg": "mmeb:open_mmeb",
    "vidore": "vidore:open_vidore",
    "visrag": "visrag:open_visrag",
    "llavahound_caption": "llavahound:open_captions",
    "llavahound_qa": "llavahound:open_questions",
    "ours": "ours:open_ours",
    "jsonl": "jsonl:open_jsonl",
}
"""Parser name to `module:function`; the names are those of the reference's configuration files."""


class PairSource(Protocol):
    """Pairs of one data set, in the order of the data set. It can be pickled; a copy reads the same files.

    Attributes:
        name: unique in a run; names the source in messages and in the mixture.
    """

    name: str

    def __len__(self) -> int:
        """Rows, bad ones included: at least 1."""
        ...

    def pair(self, index: int) -> Pair:
        """The pair of a row, 0 ≤ index < len. Pictures are not decoded yet and may still turn out to be bad.

        Raises:
            DatasetError: the record is bad; the message names it and what is wrong.
        """
        ...


def open_source(spec: Mapping[str, Any], *, folders: DatasetFolders | None = None) -> PairSource:
    """The source that a recipe's entry describes.

    Args:
        spec: the fields of the reference's configuration files, so that those can be read as they are. For every parser:
            `parser` (or `dataset_parser`), `name`, `num_sample_per_subset` (or `num_rows`; the first n rows are taken, as
            in the reference), `shuffle_before_cap` (n rows drawn over the whole data set instead), `weight` and
            `global_dataset_name` (not read here), `max_pixels` (per picture), `hard_negatives` (at most so many per pair;
            all by default), `download`. Published sets (all but `ours` and `jsonl`) also take `decoding` of their pictures: "plain" (as the
            reference decodes them, by default) or "upright" (as the application does); see `mmsearch.media.pictures.Decoding`. The others stand in the docstrings of the functions in `PARSERS`.
        folders: where data sets are looked for.

    Raises:
        ConfigError: an unknown parser or field, a value of the wrong sort.
        DatasetError: the data is not there, or nothing in it can be read.
    """
    parser = spec.get("parser", spec.get("dataset_parser"))
    if not isinstance(parser, str) or parser not in PARSERS:
        raise ConfigError(f"unknown parser {parser!r} of a training source; known: {', '.join(PARSERS)}")
    module, function = PARSERS[parser].split(":")
    opened = getattr(importlib.import_module(f"mmsearch.training.datasets.{module}"), function)
    return opened({**spec, "parser": parser}, folders or DatasetFolders())


def open_sources(
    specs: Mapping[str, Mapping[str, Any]], *, folders: DatasetFolders | None = None
) -> dict[str, PairSource]:
    """All sources of a recipe by the names of their entries. Errors as for `open_source`."""
    return {name: open_source({**spec, "name": name}, folders=folders) for name, spec in specs.items()}
