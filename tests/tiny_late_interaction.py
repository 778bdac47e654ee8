"""Tiny random ColPali and ColQwen2 checkpoints in their public layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers

COLPALI_SPECIAL = ["<pad>", "<eos>", "<bos>", "<image>"]
COLQWEN2_SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip


def byte_tokenizer(special: list[str]) -> Tokenizer:
    """One token per byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: index for index, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(special)
    return tokenizer


def save_colpali(folder: Path) -> Path:
    """8 numbers a token, pictures of 28x28 pixels in 4 patches."""
    from transformers.models.colpali.configuration_colpali import ColPaliConfig
    from transformers.models.colpali.modeling_colpali import ColPaliForRetrieval
    from transformers.models.paligemma.configuration_paligemma import PaliGemmaConfig

    tokenizer = byte_tokenizer(COLPALI_SPECIAL)
    vlm = PaliGemmaConfig(
        image_token_index=tokenizer.token_to_id("<image>"),
        projection_dim=32,
        hidden_size=32,
        vocab_size=tokenizer.get_vocab_size(),
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "projection_dim": 32, "vision_use_head": False,
        },
        text_config={
            "model_type": "gemma", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 16, "vocab_size": tokenizer.get_vocab_size(),
        },
    )  # fmt: skip
    torch.manual_seed(11)
    model = _uneven(ColPaliForRetrieval(ColPaliConfig(vlm_config=vlm, embedding_dim=8)))
    return _saved(
        folder, model, tokenizer, special={"bos_token": "<bos>", "pad_token": "<pad>"},
        picture={
            "image_processor_type": "SiglipImageProcessor", "size": {"height": 28, "width": 28}, "resample": 3,
            "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "image_seq_length": 4,
        },
    )  # fmt: skip


def save_colqwen2(folder: Path) -> Path:
    """8 numbers a token, pictures of 16 merged patches at most."""
    from transformers.models.colqwen2.configuration_colqwen2 import ColQwen2Config
    from transformers.models.colqwen2.modeling_colqwen2 import ColQwen2ForRetrieval
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLConfig

    tokenizer = byte_tokenizer(COLQWEN2_SPECIAL)
    ids = {name: tokenizer.token_to_id(name) for name in COLQWEN2_SPECIAL}
    vlm = Qwen2VLConfig(
        text_config={
            "vocab_size": tokenizer.get_vocab_size(), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|endoftext|>"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]},
        },
        vision_config={"depth": 2, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 2, "hidden_size": 32},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    torch.manual_seed(12)
    model = _uneven(ColQwen2ForRetrieval(ColQwen2Config(vlm_config=vlm, embedding_dim=8)))
    return _saved(
        folder, model, tokenizer, special={"pad_token": "<|endoftext|>"},
        picture={"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 4 * 784, "max_pixels": 16 * 784},
    )  # fmt: skip


def _uneven(model: Any) -> Any:
    """Far from symmetric, so that every term of the forward pass shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def _saved(folder: Path, model: Any, tokenizer: Tokenizer, *, special: dict[str, str], picture: dict[str, Any]) -> Path:
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(picture))
    return folder
