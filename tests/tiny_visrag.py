"""A tiny random VisRAG-Ret checkpoint in the public layout: timm's names for the tower, fused qkv, an untied language head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.tiny_late_interaction import byte_tokenizer

SPECIAL = ["<unk>", "<s>", "</s>", "<image>", "</image>", "<slice>", "</slice>"]
CONFIG: dict[str, Any] = {
    "architectures": ["VisRAG_Ret"], "model_type": "minicpmv", "vocab_size": 263, "hidden_size": 256,
    "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4,
    "hidden_act": "silu", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_scaling": None, "scale_emb": 12,
    "dim_model_base": 256, "scale_depth": 1.4, "query_num": 4, "image_size": 56, "drop_vision_last_layer": True,
    "slice_mode": True, "patch_size": 14, "max_slice_nums": 4, "scale_resolution": 56,
    "vision_encoder": "vit_so400m_patch14_siglip_384.webli",
}  # fmt: skip
VISION_WIDTH, VISION_INNER, VISION_BLOCKS, VISION_PLACES = 72, 40, 2, 9


def random_tensors() -> dict[str, torch.Tensor]:
    hidden, inner, width = CONFIG["hidden_size"], CONFIG["intermediate_size"], VISION_WIDTH
    shapes: dict[str, tuple[int, ...]] = {
        "vpm.patch_embed.proj.weight": (width, 3, 14, 14), "vpm.patch_embed.proj.bias": (width,),
        "vpm.pos_embed": (1, VISION_PLACES, width), "vpm.norm.weight": (width,), "vpm.norm.bias": (width,),
        "resampler.pos_embed": (4, hidden), "resampler.query": (4, hidden), "resampler.proj": (hidden, hidden),
        "resampler.kv_proj.weight": (hidden, width), "resampler.attn.in_proj_weight": (3 * hidden, hidden),
        "resampler.attn.in_proj_bias": (3 * hidden,), "resampler.attn.out_proj.weight": (hidden, hidden),
        "resampler.attn.out_proj.bias": (hidden,), "llm.model.norm.weight": (hidden,),
        "llm.model.embed_tokens.weight": (CONFIG["vocab_size"], hidden), "llm.lm_head.weight": (CONFIG["vocab_size"], hidden),
    }  # fmt: skip
    for norm in ("ln_q", "ln_kv", "ln_post"):
        shapes |= {f"resampler.{norm}.{part}": (hidden,) for part in ("weight", "bias")}
    for n in range(VISION_BLOCKS):
        block = {
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "mlp.fc1": (VISION_INNER, width),
            "mlp.fc2": (width, VISION_INNER),
        }
        shapes |= {f"vpm.blocks.{n}.{name}.weight": shape for name, shape in block.items()}
        shapes |= {f"vpm.blocks.{n}.{name}.bias": shape[:1] for name, shape in block.items()}
        shapes |= {
            f"vpm.blocks.{n}.{norm}.{part}": (width,) for norm in ("norm1", "norm2") for part in ("weight", "bias")
        }
    for n in range(CONFIG["num_hidden_layers"]):
        layer = f"llm.model.layers.{n}"
        shapes |= {f"{layer}.self_attn.{name}_proj.weight": (hidden, hidden) for name in "qkvo"}
        shapes |= {f"{layer}.mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")}
        shapes |= {f"{layer}.mlp.down_proj.weight": (hidden, inner)}
        shapes |= {f"{layer}.{norm}.weight": (hidden,) for norm in ("input_layernorm", "post_attention_layernorm")}
    generator = torch.Generator().manual_seed(21)
    return {
        name: torch.randn(shape, generator=generator) * (0.2 if len(shape) < 2 else shape[-1] ** -0.5)
        + (1.0 if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "layernorm.weight")) or (".ln_" in name and name.endswith("weight")) else 0.0)
        for name, shape in sorted(shapes.items())
    }  # fmt: skip


def save_visrag(folder: Path) -> Path:
    folder.mkdir(parents=True)
    save_file(random_tensors(), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    byte_tokenizer(SPECIAL).save(str(folder / "tokenizer.json"))
    return folder
