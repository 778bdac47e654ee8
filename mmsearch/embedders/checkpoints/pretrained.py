"""transformers' model of a checkpoint, opened strictly: offline, from safetensors only, every tensor in its place or an error."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mmsearch.embedders.checkpoints.adapter_merging import merge_adapter
from mmsearch.embedders.checkpoints.checkpoint import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_json, read_tensors
from mmsearch.embedders.checkpoints.opening import Opened
from mmsearch.errors import EmbedderError

NEEDLESS = re.compile(r"(^|\.)(lm_head\.|position_ids$|rotary_emb\.inv_freq$)")
"""Tensors that a checkpoint may hold and an embedder never reads: the language head, and what is computed again."""


def pretrained(architecture: Any, opened: Opened) -> Any:
    """A checkpoint as a model of transformers in evaluation mode, on its device; a LoRA or DoRA adapter is merged in.

    Args:
        architecture: a class of transformers with `from_pretrained`, best one without language head.

    Raises:
        ModelNotFound: no weights. EmbedderError: a file that cannot be read, a tensor missing, unexpected or of another
            shape, no such device; the message names it.
    """
    base = opened.checkpoint.base
    for path in opened.checkpoint.weight_files():
        _check_readable(path)  # transformers would not name the file
    try:
        with quiet():
            model, report = architecture.from_pretrained(
                base, dtype=opened.dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except Exception as error:
        raise EmbedderError(f"{base} cannot be opened as {architecture.__name__}: {error}") from error
    for fault in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        odd = sorted(str(key) for key in report[fault] if not NEEDLESS.search(str(key)))
        if odd:
            more = ", …" if len(odd) > 3 else ""
            raise EmbedderError(
                f"{base}: {len(odd)} {fault.replace('_keys', '')} tensors for {architecture.__name__}: "
                + ", ".join(odd[:3])
                + more
            )
    if opened.checkpoint.adapter is not None:
        _adapt(model, opened)
    try:
        return model.eval().to(opened.device)
    except (RuntimeError, AssertionError) as error:
        raise EmbedderError(f"the model cannot be placed on device {opened.device!r}: {error}") from error


def _check_readable(path: Path) -> None:
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise EmbedderError(f"{path} cannot be read: {error}") from error


def _adapt(model: Any, opened: Opened) -> None:
    """Merge the adapter into the model's parameters, whichever release of transformers named its modules."""
    folder = opened.checkpoint.adapter
    assert folder is not None
    parameters = {name: parameter.data for name, parameter in model.named_parameters()}
    own = {_without_nesting(name.removesuffix(".weight")): name.removesuffix(".weight") for name in parameters}
    tensors = dict(parameters)
    merge_adapter(
        tensors,
        read_tensors(folder / ADAPTER_WEIGHTS),
        read_json(folder / ADAPTER_CONFIG),
        name_of=lambda module: own.get(_without_nesting(module), module),
    )
    for name, parameter in model.named_parameters():
        if tensors[name] is not parameters[name]:
            parameter.data.copy_(tensors[name])


def _without_nesting(name: str) -> str:
    """`model.language_model.layers.0` and `language_model.model.layers.0` are one module in two releases."""
    return ".".join(part for part in name.split(".") if part != "model")


def picture_fields(opened: Opened) -> Mapping[str, Any]:
    """What a checkpoint says of pictures: preprocessor_config.json, or the part of processor_config.json; {} if neither is there."""
    found = opened.checkpoint
    return found.json("preprocessor_config.json") or found.json("processor_config.json").get("image_processor") or {}


@contextmanager
def quiet() -> Iterator[None]:
    """transformers draws bars and prints tables of tensors when it loads; what they say is raised here instead."""
    from transformers.utils import logging as noise

    had_bars, level = noise.is_progress_bar_enabled(), noise.get_verbosity()
    noise.disable_progress_bar()
    noise.set_verbosity_error()
    try:
        yield
    finally:
        noise.set_verbosity(level)
        if had_bars:
            noise.enable_progress_bar()
