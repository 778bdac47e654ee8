"""What models there are and which of them can run here: found by looking at files, without loading weights."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from mmsearch.embedders.checkpoints.checkpoint import (
    SHIPPED,
    Checkpoint,
    find_checkpoint,
    missing_weights,
    split_name,
)
from mmsearch.embedders.families import FAMILIES
from mmsearch.embedders.families.choice import assumption, family_of
from mmsearch.embedders.published.known_models import KnownModel, known_model
from mmsearch.errors import EmbedderError, ModelNotFound

State = Literal["shipped", "here", "incomplete", "not here", "cannot run"]


@dataclass(frozen=True, slots=True)
class Standing:
    """How a model stands on this machine.

    Attributes:
        state: "shipped" with mmsearch; "here" in a folder or the local cache; "incomplete", as after a broken download; "not here";
            "cannot run", wherever it is.
        why: one sentence, where the state needs one, or where the family is only assumed.
        family: which code runs it; "" where that is not known before it is here.
        checkpoint: its files; None where they are not here.
    """

    state: State
    why: str = ""
    family: str = ""
    checkpoint: Checkpoint | None = None


PACKED = ".nibbles"
"""Tensors of this name hold two numbers of 4 bits in a byte."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What the headers of a checkpoint's weights say.

    `parameters` counts stored numbers (the adapter's too), `dtypes` them by type ("BF16"), largest first.
    """

    parameters: int
    dtypes: tuple[str, ...]
    size_bytes: int
    files: int


def standing(name_or_folder: str | Path) -> Standing:
    """How a known model, a hub name or a folder stands here. Raises nothing but what the system raises."""
    asked, bare = split_name(str(name_or_folder))
    known = known_model(bare)
    if known is not None and known.why_not:
        return Standing("cannot run", known.why_not, known.family)
    if not asked and known is not None and not has_code(known.family):
        return Standing("cannot run", f"this mmsearch has no code for its family, {known.family}", known.family)
    family = known.family if known is not None else ""
    try:
        found = find_checkpoint(name_or_folder)
    except ModelNotFound as error:
        return Standing("not here", str(error), family)
    except EmbedderError as error:
        return Standing("cannot run", str(error), family)
    try:
        family = family_of(found)
        if not has_code(family):
            return Standing("cannot run", f"this mmsearch has no code for its family, {family}", family, found)
        found.weight_files()
        if missing := missing_weights(found):
            return Standing("incomplete", f"files of weights are missing, {missing[0]} first", family, found)
    except ModelNotFound as error:
        return Standing("incomplete", str(error), family, found)
    except EmbedderError as error:
        return Standing("cannot run", str(error), family, found)
    return Standing("shipped" if found.base.parent == SHIPPED else "here", assumption(found), family, found)


def has_code(family: str) -> bool:
    """Whether the module of a family is there; it is not imported."""
    return family in FAMILIES and find_spec(FAMILIES[family].partition(":")[0]) is not None


def weights_of(checkpoint: Checkpoint) -> Weights:
    """Read the headers of all weights.

    Raises:
        ModelNotFound: there are none. EmbedderError: a file that cannot be read, or is shorter than its header says.
    """
    parameters = 0
    by_dtype: Counter[str] = Counter()
    files = checkpoint.weight_files()
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                keys = set(file.keys())
                for key in keys - {scale for name in keys for scale in _scales_of(name)}:
                    part = file.get_slice(key)
                    number = math.prod(part.get_shape()) * (2 if key.endswith(PACKED) else 1)
                    parameters += number
                    by_dtype[part.get_dtype()] += number
        except (SafetensorError, OSError) as error:
            raise EmbedderError(f"{path} cannot be read: {error}") from error
    size_bytes = sum(path.stat().st_size for path in files)
    return Weights(parameters, tuple(dtype for dtype, _ in by_dtype.most_common()), size_bytes, len(files))


def _scales_of(name: str) -> tuple[str, ...]:
    """Names of tensors that belong to another one's storage in few bits."""
    return (f"{name}.scale", f"{name.removesuffix(PACKED)}.scales") if name.endswith(PACKED) else (f"{name}.scale",)


def size_on_disk(checkpoint: Checkpoint) -> int:
    """Bytes of all files of a checkpoint, its base's included."""
    folders = {checkpoint.base, checkpoint.adapter or checkpoint.base}
    return sum(path.stat().st_size for folder in folders for path in folder.iterdir() if path.is_file())


def download_bytes(known: KnownModel) -> int | None:
    """About what `pull` would fetch: as stated, else two bytes a parameter (bfloat16)."""
    if known.download_bytes is not None:
        return known.download_bytes
    return 2 * known.parameters if known.parameters else None


def family_notes(family: str) -> str:
    """What the code of a family says of itself: what it takes, its instructions, its sources. Imports it.

    Raises:
        EmbedderError: there is no such code.
    """
    if not has_code(family):
        raise EmbedderError(f"this mmsearch has no code for the family {family!r}")
    return inspect.getdoc(import_module(FAMILIES[family].partition(":")[0])) or ""
