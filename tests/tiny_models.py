"""Tiny random checkpoints of public architectures in the public layout, for tests: seeded, a few thousand parameters, made in
milliseconds. What they embed means nothing; how it is computed is what is tested."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors


def byte_tokenizer(specials: Sequence[str], *, template: str | None = None, lower: bool = False) -> Tokenizer:
    """Every byte a token; the special tokens have the highest ids. `template`: what surrounds a text, "<s> $A </s>"."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if lower:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    if template is not None:
        ids = [(token, tokenizer.token_to_id(token)) for token in specials]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return tokenizer


def write_checkpoint(
    folder: Path,
    model: Any,
    tokenizer: Tokenizer,
    *,
    preprocessor: dict[str, Any],
    tokenizer_config: dict[str, Any] | None = None,
) -> Path:
    """As on the hub: config.json, model.safetensors, tokenizer.json, tokenizer_config.json, preprocessor_config.json."""
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config or {}))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def randomise(model: Any, *, seed: int = 0, scale: float = 0.15) -> Any:
    """Parameters drawn anew, so that no zero or one of an initialisation hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator) * scale
        parameter.data = noise + (1.0 if parameter.ndim == 1 and bool((parameter == 1).all()) else 0.0)
    return model.eval()


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Soft coloured noise, another for every seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)
