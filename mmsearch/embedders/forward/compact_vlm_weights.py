"""The compact model and its checkpoint: matrices in 4 or 8 bits on disk, a model on a device in memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmsearch.embedders.checkpoints import checkpoint as files
from mmsearch.embedders.checkpoints.checkpoint import read_tensors
from mmsearch.embedders.checkpoints.opening import Opened
from mmsearch.embedders.forward.compact_vlm_model import BLOCK, CompactVlm, from_4_bits, in_4_bits
from mmsearch.errors import EmbedderError

SCALE = ".scale"

NIBBLES, SCALES = ".nibbles", ".scales"

TABLES = ("text.tokens.", "english.tokens.")
"""Always in 4 bits, in memory too."""

IN_8_BITS = ("text.layers.", "english.layers.", "seeing.", "projector.")
"""Parts whose matrices a checkpoint holds in 8 bits; those that came out of 4 bits (pretrained layers that nobody trained) go back to them. 8 bits cost the
convolutional network something (captions find 0.658 of their photos among ten, 0.666 with its weights in bfloat16), and 4 bits the English encoder's layers
(paraphrases to pages, nDCG@5 0.37 instead of 0.41)."""

LOSSLESS = 1e-5
"""Largest error of a weight, beside the largest weight, at which 4 bits lose nothing."""


def opened_model(opened: Opened) -> CompactVlm:
    """The model of a checkpoint, on its device and in its dtype.

    Raises: EmbedderError: tensors missing, unexpected or of another shape; an adapter; no room on the device.
    """
    if opened.checkpoint.adapter is not None:
        raise EmbedderError(f"{opened.checkpoint.adapter}: an adapter cannot be put over a compact model")
    stored = {key: tensor for file in opened.checkpoint.weight_files() for key, tensor in read_tensors(file).items()}
    tensors = restored(stored, opened.dtype)
    try:
        with torch.device("meta"):
            model = CompactVlm(opened.config)
    except (KeyError, TypeError, ValueError) as error:
        raise EmbedderError(f"{opened.checkpoint.base}/config.json is not of a compact model: {error!r}") from error
    expected = model.state_dict()
    files.compare("tensors", tensors, expected)
    for name, weight in expected.items():
        if tensors[name].shape != weight.shape:
            told = f"has shape {tuple(tensors[name].shape)}, the configuration says {tuple(weight.shape)}"
            raise EmbedderError(f"{name} {told}")
    model.load_state_dict(tensors, assign=True)
    try:
        model = model.to(opened.device)
    except (RuntimeError, AssertionError) as error:
        raise EmbedderError(f"the model cannot be placed on device {opened.device!r}: {error}") from error
    model.vision.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.requires_grad_(False)


def stored_tensors(model: CompactVlm) -> dict[str, Tensor]:
    """A model's tensors as a checkpoint holds them."""
    return stored_weights(model.state_dict())


def stored_weights(tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """Tensors as a checkpoint holds them: token tables in 4 bits, as they are; the matrices of IN_8_BITS in 8, or in 4 where these lose nothing; the
    rest in bfloat16. With float32 all but the tables is stored as it is: for weights that are still worked on."""
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        if name.startswith(TABLES):
            stored[name] = tensor
        elif dtype == torch.float32:
            stored[name] = tensor.float()
        elif name.startswith(IN_8_BITS) and tensor.ndim >= 2:
            stored |= _in_few_bits(name, tensor.float())
        else:
            stored[name] = tensor.to(torch.bfloat16)
    return {name: tensor.contiguous() for name, tensor in stored.items()}


def _in_few_bits(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A matrix in 4 bits with a scale for each 32 weights, or in 8 with a scale per row."""
    if _came_from_4_bits(tensor):
        nibbles, scales = in_4_bits(tensor)
        return {name + NIBBLES: nibbles, name + SCALES: scales}
    rows = tensor.flatten(1)
    scale = rows.abs().amax(1).clamp(min=1e-12) / 127
    values = torch.clamp((rows / scale[:, None]).round(), -127, 127).to(torch.int8)
    return {name: values.view(tensor.shape), name + SCALE: scale}


def _came_from_4_bits(tensor: Tensor) -> bool:
    if tensor.ndim != 2 or tensor.shape[1] % BLOCK:
        return False
    for some in (tensor[:8], tensor):  # a few rows tell nearly always
        if (some - from_4_bits(*in_4_bits(some))).abs().max() > LOSSLESS * some.abs().max():
            return False
    return True


def restored(stored: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The inverse: a state dict in `dtype`, token tables in 4 bits.

    Raises: EmbedderError: a part of what holds a matrix in few bits is missing.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if name.startswith(TABLES):
            tensors[name] = tensor
        elif name.endswith(NIBBLES):
            whole = name.removesuffix(NIBBLES)
            tensors[whole] = from_4_bits(tensor, _scale(stored, whole, SCALES, 4)).to(dtype)
        elif tensor.dtype == torch.int8:
            scale = _scale(stored, name, SCALE, 8)
            tensors[name] = (tensor.float().flatten(1) * scale.float()[:, None]).view(tensor.shape).to(dtype)
        elif not _is_scale(stored, name):
            tensors[name] = tensor.to(dtype)
    return tensors


def _is_scale(stored: Mapping[str, Tensor], name: str) -> bool:
    return (name.endswith(SCALE) and name.removesuffix(SCALE) in stored) or (
        name.endswith(SCALES) and name.removesuffix(SCALES) + NIBBLES in stored
    )


def _scale(stored: Mapping[str, Tensor], name: str, suffix: str, bits: int) -> Tensor:
    if (found := stored.get(name + suffix)) is None:
        raise EmbedderError(f"{name} is stored in {bits} bits, but its scale is missing")
    return found
