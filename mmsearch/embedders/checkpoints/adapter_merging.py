"""A LoRA or DoRA adapter merged into the weights that it lies over."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from mmsearch.embedders.checkpoints.checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    Checkpoint,
    Tensors,
    compare,
    model_key_of,
    public_key_of,
    read_json,
    read_tensors,
)
from mmsearch.errors import EmbedderError


def model_tensors(checkpoint: Checkpoint) -> Tensors:
    """All tensors under the names of transformers' `Qwen2VLModel`, the adapter merged in, the language head left out.

    Raises:
        EmbedderError: an unreadable file, a tensor of another model, an adapter that does not fit.
    """
    tensors: Tensors = {}
    for path in checkpoint.weight_files():
        if path.name != ADAPTER_WEIGHTS:
            for key, tensor in read_tensors(path).items():
                if key not in ("lm_head.weight", "model.lm_head.weight"):
                    tensors[model_key_of(key)] = tensor
    if checkpoint.adapter is not None:
        config = read_json(checkpoint.adapter / ADAPTER_CONFIG)
        merge_adapter(tensors, read_tensors(checkpoint.adapter / ADAPTER_WEIGHTS), config)
    return tensors


UNSUPPORTED_ADAPTER_OPTIONS = (
    "alora_invocation_tokens", "exclude_modules", "fan_in_fan_out", "layer_replication", "layers_to_transform",
    "lora_bias", "modules_to_save", "target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora",
)  # fmt: skip

_ADAPTER_KEY = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<part>A|B|magnitude_vector)(?:\.default)?(?:\.weight)?"
)


def merge_adapter(
    tensors: Tensors,
    adapter: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    *,
    name_of: Callable[[str], str] = model_key_of,
) -> None:
    """Merge a LoRA or DoRA adapter into the model's weights, in place, computed in float32.

    `name_of` turns a module's name in the adapter into its name in `tensors`.

    LoRA: W + s·BA with s = alpha / r. DoRA: magnitude · (W + s·BA) / norm of each of its rows.
    Source: huggingface/peft `src/peft/tuners/lora/{layer,dora}.py` (arXiv 2402.09353).

    Raises:
        EmbedderError: a part is missing or does not belong to the model; an option that is not implemented here.
    """
    if config.get("peft_type") != "LORA":
        raise EmbedderError(
            f"adapter type {config.get('peft_type')!r} is not supported, only LORA (with or without DoRA)"
        )
    for option in UNSUPPORTED_ADAPTER_OPTIONS:
        if config.get(option):
            raise EmbedderError(f"adapter option {option}={config[option]!r} is not supported")
    if config.get("bias", "none") != "none":
        raise EmbedderError(f"adapter option bias={config['bias']!r} is not supported")
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in adapter.items():
        match = _ADAPTER_KEY.fullmatch(key)
        if match is None:
            raise EmbedderError(f"unexpected adapter tensor {key!r}")
        modules.setdefault(name_of(match["module"]), {})[match["part"]] = tensor.float()
    is_dora = bool(config.get("use_dora"))
    parts = {"A", "B", "magnitude_vector"} if is_dora else {"A", "B"}
    expected = {name for name in _linear_modules(tensors) if _is_target(name, config.get("target_modules"))}
    compare("adapter modules", modules, expected)
    for name, found in modules.items():
        compare(f"adapter tensors of {name}", found, parts)
        weight = tensors[f"{name}.weight"]
        rank, alpha = found["A"].shape[0], _pattern_value(config, "alpha_pattern", name, config["lora_alpha"])
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        try:
            merged = weight.float() + scale * (found["B"] @ found["A"])
            if is_dora:
                merged *= (found["magnitude_vector"].reshape(-1) / merged.norm(dim=1))[:, None]
        except RuntimeError as error:
            raise EmbedderError(f"the adapter's shapes do not fit {name} {tuple(weight.shape)}: {error}") from error
        tensors[f"{name}.weight"] = merged.to(weight.dtype)


def _linear_modules(tensors: Tensors) -> Iterable[str]:
    return (
        key.removesuffix(".weight")
        for key, tensor in tensors.items()
        if key.endswith(".weight") and tensor.ndim == 2 and not key.endswith("embed_tokens.weight")
    )


def _is_target(name: str, targets: Any) -> bool:
    if isinstance(targets, str):  # a pattern over the whole name, in whichever layout it was trained
        return any(re.fullmatch(targets, alias) for alias in (name, f"model.{name}", public_key_of(name)))
    return any(name == target or name.endswith(f".{target}") for target in targets or ())


def _pattern_value(config: Mapping[str, Any], option: str, name: str, default: Any) -> Any:
    for pattern, value in (config.get(option) or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", name):
            return value
    return default
