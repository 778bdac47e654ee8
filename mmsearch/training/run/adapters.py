"""LoRA and DoRA by peft: small trained matrices beside the frozen ones of a Qwen2-VL.

The layers are put into the model in place, so the forward pass of `mmsearch.embedders.forward.qwen_vl` runs them as it runs the plain ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmsearch.errors import ConfigError, MissingExtra
from mmsearch.training.recipe.fields import Adapter

_PART = re.compile(r"\.lora_(A|B|magnitude_vector)\.default(\.weight)?$")


def add_adapter(model: nn.Module, settings: Adapter, *, seed: int) -> list[str]:
    """Put an adapter into `model`, in place; its weights alone are trained from then on.

    Returns: the names of the adapted layers.

    Raises:
        MissingExtra: peft is not installed. ConfigError: no layer of the model is named as the recipe's targets.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise MissingExtra("adapters need peft: pip install peft") from None
    linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    targets = [name for name in settings.targets if name in linear]
    if not targets:
        raise ConfigError(
            f"adapter.targets: no layer is called {', '.join(settings.targets)}; layers: {', '.join(sorted(linear))}"
        )
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a fraction is fine: it is only divided by r
        lora_dropout=settings.dropout,
        use_dora=settings.dora,
        init_lora_weights="gaussian" if settings.initial == "gaussian" else True,
        target_modules=targets,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # every process must start alike
        inject_adapter_in_model(config, model)
    return sorted({_PART.sub("", name) for name, _ in model.named_parameters() if _PART.search(name)})


def adapter_config(settings: Adapter, layers: Mapping[str, Any] | list[str], base: str) -> dict[str, Any]:
    """`adapter_config.json` as peft writes it, for the tensors that `adapter_tensors` gives."""
    targets = sorted({name.rpartition(".")[2] for name in layers})
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "use_dora": settings.dora,
        "use_rslora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "target_modules": targets,
        "inference_mode": True,
    }


def adapter_tensors(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Trained weights under the names of an `adapter_model.safetensors`: `base_model.model.<layer>.lora_A.weight`.

    Raises: ValueError for a weight that belongs to no adapter.
    """
    tensors = {}
    for name, tensor in weights.items():
        if not _PART.search(name):
            raise ValueError(f"{name} is no part of an adapter")
        tensors[f"base_model.model.{_PART.sub(_stored_part, name)}"] = tensor
    return tensors


def _stored_part(found: re.Match[str]) -> str:
    return f".lora_{found[1]}" + ("" if found[1] == "magnitude_vector" else ".weight")


def adapted_layers(weights: Mapping[str, Tensor]) -> list[str]:
    """The layers that these weights adapt."""
    return sorted({_PART.sub("", name) for name in weights})
