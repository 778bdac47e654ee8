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
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from mmsearch.embedders.families.compact_vlm import CompactVlmEmbedder
from mmsearch.embedders.forward.compact_vlm_model import CompactVlm, Convolution


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
    """Parameters drawn again, so that no zero or one of an initialisation hides a mistake."""
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


COMPACT_WORDS = (
    "query", "a", "the", "of", "red", "boat", "dog", "revenue", "quarter", "image", "video", "document", "given", "find",
    "picture", "that", "matches", "provided", "content", "understand", "represent", "caption", "everyday", "me", "visual",
)  # fmt: skip


def unigram_tokenizer() -> Tokenizer:
    """Ids 0 `<s>`, 1 `<pad>`, 2 `</s>`, 3 unknown, then some words and every printable ASCII character: as multilingual-e5-small's."""
    specials = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    words = [(f"▁{word}", -4.0 - 0.01 * n) for n, word in enumerate(COMPACT_WORDS)]
    letters = [(chr(code), -8.0 - 0.01 * (code % 50)) for code in range(33, 127)]
    tokenizer = Tokenizer(models.Unigram([*specials, *words, ("▁", -6.0), *letters], unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def word_tokenizer() -> Tokenizer:
    """Whole words without special tokens, 0 `[PAD]`, 1 `[CLS]`, 2 `[SEP]`, 3 `[UNK]`: an English encoder's."""
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *COMPACT_WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def compact_config(tokenizer: Tokenizer, *, side: int = 1) -> dict[str, Any]:
    return {
        "model_type": "compact_vlm",
        "bos_token_id": 0,
        "eos_token_id": 2,
        "text_config": {
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
            "vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 128, "layer_norm_eps": 1e-12,
        },
        "embedding_size": 40,
        "english_config": {
            "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48,
            "vocab_size": 4 + len(COMPACT_WORDS), "max_position_embeddings": 64, "layer_norm_eps": 1e-12,
            "bos_token_id": 1, "eos_token_id": 2,
        },
        "vision_config": {"width": 0.2, "depth": 0.5, "trained_px": 260, "side": side, "inner_size": 24, "classes": 5},
    }  # fmt: skip


def random_compact(*, seed: int = 0, side: int = 1, **options: Any) -> CompactVlmEmbedder:
    """A compact model of 0.2M parameters whose gate, mix and shift say something of an instruction."""
    tokenizer = unigram_tokenizer()
    config = compact_config(tokenizer, side=side)
    model = randomise(CompactVlm(config), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for module in model.vision.modules():
        if isinstance(module, Convolution):  # else next to nothing would pass so many layers
            noise = torch.randn(module.weight.shape, generator=generator)
            module.weight.data = noise * (2 / module.weight[0].numel()) ** 0.5
    assert model.english is not None
    for table in (model.text.tokens, model.english.tokens):
        table.nibbles = torch.randint(0, 256, table.nibbles.shape, generator=generator, dtype=torch.uint8)
        table.scales = (0.02 + 0.06 * torch.rand(table.scales.shape, generator=generator)).half()
    return CompactVlmEmbedder(model, tokenizer, config, english_tokenizer=word_tokenizer(), **options)


def tiny_compact(folder: Path, **options: Any) -> Path:
    random_compact(name="tiny", **options).save(folder)
    return folder
