"""Where a model runs, and in which arithmetic."""

from __future__ import annotations

import torch

from mmsearch.errors import EmbedderError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def default_device() -> str:
    """The GPU if torch has one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def demand_device(device: str) -> None:
    """Raises EmbedderError unless torch can compute on a device of this name on this machine."""
    try:
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:  # torch raises each of them, by the kind of device
        gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        why = str(error).partition("\n")[0].partition(". ")[0].partition(" device type at start")[0][:100]
        if why.startswith("Expected one of"):
            why = "torch knows no such kind of device"
        raise EmbedderError(
            f"this machine has no usable device {device!r} ({why}); it has {', '.join(['cpu', *gpus])} "
            "(option --device, MMSEARCH_DEVICE or `device` in a config.toml)"
        ) from error


def default_dtype(device: str) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, else float32 (elsewhere it is emulated, a hundred times slower).

    Raises:
        EmbedderError: no such device here.
    """
    if device.startswith("cuda"):
        demand_device(device)
        is_native = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        is_native = device == "cpu" and any(check() for check in checks if check is not None)
    return torch.bfloat16 if is_native else torch.float32
