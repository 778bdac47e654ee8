"""The model types whose forward pass `qwen_vl` computes: what their checkpoints must hold, and transformers' model of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from mmsearch.embedders.checkpoints import checkpoint as files
from mmsearch.embedders.forward.qwen_vl import LanguageModel
from mmsearch.errors import EmbedderError

EMBEDDING = "language_model.embed_tokens.weight"


@dataclass(frozen=True)
class Backbone:
    """One model type.

    Attributes:
        classes: transformers' module, configuration and model.
        patch: pixels of a patch's side.
        tower: modules of the vision tower (`{block}`, `{tap}` are numbers) and what each holds: "w" weight, "b" bias.
        attention: the same for the attention of a decoder layer.
        vision_fields: of `vision_config`, as the public checkpoints write them.
    """

    classes: tuple[str, str, str]
    patch: int
    tower: Mapping[str, str]
    attention: Mapping[str, str]
    vision_fields: tuple[str, ...] = ()


_QWEN2_ATTENTION = {"q_proj": "wb", "k_proj": "wb", "v_proj": "wb", "o_proj": "w"}

BACKBONES: dict[str, Backbone] = {
    "qwen2_vl": Backbone(
        ("qwen2_vl", "Qwen2VLConfig", "Qwen2VLModel"),
        14,
        {
            "patch_embed.proj": "w",
            "blocks.{block}.norm1": "wb", "blocks.{block}.norm2": "wb",
            "blocks.{block}.attn.qkv": "wb", "blocks.{block}.attn.proj": "wb",
            "blocks.{block}.mlp.fc1": "wb", "blocks.{block}.mlp.fc2": "wb",
            "merger.ln_q": "wb", "merger.mlp.0": "wb", "merger.mlp.2": "wb",
        },
        _QWEN2_ATTENTION,
        (
            "depth", "embed_dim", "hidden_size", "hidden_act", "mlp_ratio", "num_heads", "in_channels", "patch_size",
            "spatial_merge_size", "temporal_patch_size",
        ),
    ),
    "qwen2_5_vl": Backbone(
        ("qwen2_5_vl", "Qwen2_5_VLConfig", "Qwen2_5_VLModel"),
        14,
        {
            "patch_embed.proj": "w",
            "blocks.{block}.norm1": "w", "blocks.{block}.norm2": "w",
            "blocks.{block}.attn.qkv": "wb", "blocks.{block}.attn.proj": "wb",
            "blocks.{block}.mlp.gate_proj": "wb", "blocks.{block}.mlp.up_proj": "wb", "blocks.{block}.mlp.down_proj": "wb",
            "merger.ln_q": "w", "merger.mlp.0": "wb", "merger.mlp.2": "wb",
        },
        _QWEN2_ATTENTION,
        (
            "depth", "hidden_size", "hidden_act", "intermediate_size", "num_heads", "in_channels", "patch_size",
            "spatial_merge_size", "temporal_patch_size", "tokens_per_second", "window_size", "fullatt_block_indexes",
            "out_hidden_size",
        ),
    ),
    "qwen3_vl": Backbone(
        ("qwen3_vl", "Qwen3VLConfig", "Qwen3VLModel"),
        16,
        {
            "patch_embed.proj": "wb", "pos_embed": "w",
            "blocks.{block}.norm1": "wb", "blocks.{block}.norm2": "wb",
            "blocks.{block}.attn.qkv": "wb", "blocks.{block}.attn.proj": "wb",
            "blocks.{block}.mlp.linear_fc1": "wb", "blocks.{block}.mlp.linear_fc2": "wb",
            "merger.norm": "wb", "merger.linear_fc1": "wb", "merger.linear_fc2": "wb",
            "deepstack_merger_list.{tap}.norm": "wb",
            "deepstack_merger_list.{tap}.linear_fc1": "wb", "deepstack_merger_list.{tap}.linear_fc2": "wb",
        },
        {"q_proj": "w", "k_proj": "w", "v_proj": "w", "o_proj": "w", "q_norm": "w", "k_norm": "w"},
    ),
}  # fmt: skip
"""`model_type` of a `config.json`: its backbone."""

_LAYER = {
    "input_layernorm": "w", "post_attention_layernorm": "w",
    "mlp.gate_proj": "w", "mlp.up_proj": "w", "mlp.down_proj": "w",
}  # fmt: skip
_PARAMETERS = {"w": "weight", "b": "bias"}


def backbone_of(config: Mapping[str, Any]) -> Backbone:
    """Raises: EmbedderError: another model type."""
    found = BACKBONES.get(str(config.get("model_type")))
    if found is None:
        known = ", ".join(map(repr, BACKBONES))
        raise EmbedderError(f"model type {config.get('model_type')!r} is not supported, only {known}")
    return found


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse what this forward pass does not compute, rather than compute something else.

    Raises:
        EmbedderError: another architecture, or an option of it that no published checkpoint uses.
    """
    patch = backbone_of(config).patch
    text, vision = files.text_fields(config), config.get("vision_config") or {}
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    wanted = (
        ("hidden_act", text.get("hidden_act", "silu"), "silu"),
        ("use_sliding_window", bool(text.get("use_sliding_window")), False),
        ("attention_bias", bool(text.get("attention_bias")), False),
        ("rope type", rope.get("rope_type", rope.get("type", "default")).replace("mrope", "default"), "default"),
        ("patch_size", vision.get("patch_size", patch), patch),
        ("temporal_patch_size", vision.get("temporal_patch_size", 2), 2),
        ("spatial_merge_size", vision.get("spatial_merge_size", 2), 2),
        ("in_channels", vision.get("in_channels", 3), 3),
    )
    for option, found, supported in wanted:
        if found != supported:
            raise EmbedderError(f"the model's {option} is {found!r}; only {supported!r} is supported")


def check_names(names: Iterable[str], config: Mapping[str, Any]) -> None:
    """Compare tensor names with what the configuration calls for, before any model is built.

    Raises:
        EmbedderError: one is missing or unexpected.
    """
    backbone, vision, text = backbone_of(config), config["vision_config"], files.text_fields(config)
    numbers = [
        {"block": block, "tap": tap}
        for block in range(vision["depth"])
        for tap in range(len(vision.get("deepstack_visual_indexes", ())) or 1)
    ]
    modules = {f"visual.{name.format(**at)}": held for name, held in backbone.tower.items() for at in numbers}
    modules |= {"language_model.embed_tokens": "w", "language_model.norm": "w"}
    parts = _LAYER | {f"self_attn.{name}": held for name, held in backbone.attention.items()}
    for layer in range(text["num_hidden_layers"]):
        modules |= {f"language_model.layers.{layer}.{name}": held for name, held in parts.items()}
    expected = {f"{name}.{_PARAMETERS[part]}" for name, held in modules.items() for part in held}
    files.compare("tensors", names, expected)


def text_model(config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> LanguageModel:
    """The language model alone, over the given tensors."""
    prefix = "language_model."
    with torch.device("meta"):
        model = LanguageModel(files.text_fields(config), has_norms="q_norm" in backbone_of(config).attention)
    own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    files.fill(model, own)
    model.rotary_emb.to(tensors[EMBEDDING].device)
    return model.eval()


def full_model(config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Any:
    """transformers' model of a configuration (flat or nested), over the given tensors."""
    module, config_class, model_class = backbone_of(config).classes
    package = f"transformers.models.{module}"
    config_type = getattr(import_module(f"{package}.configuration_{module}"), config_class)
    model_type = getattr(import_module(f"{package}.modeling_{module}"), model_class)
    try:
        parsed = config_type(**{key: value for key, value in config.items() if key != "transformers_version"})
        with torch.device("meta"):
            model = model_type(parsed)
    except (TypeError, ValueError, KeyError) as error:
        raise EmbedderError(
            f"the configuration does not describe a {config.get('model_type')} model: {error}"
        ) from error
    # Rotary frequencies are computed, not stored: make them again outside the meta device.
    model.visual.rotary_pos_emb = type(model.visual.rotary_pos_emb)(parsed.vision_config)
    model.language_model.rotary_emb = type(model.language_model.rotary_emb)(parsed.text_config)
    files.fill(model, tensors)
    model.language_model.rotary_emb.to(tensors[EMBEDDING].device)
    model.visual.rotary_pos_emb.to(tensors[EMBEDDING].device)
    return model.eval()


def flat_config(config: Any) -> dict[str, Any]:
    """A transformers configuration as the public checkpoints write it: text fields at the top, so that older readers load it too."""
    text, vision = config.text_config, config.vision_config
    rope = text.rope_parameters
    text_fields = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps", "use_cache", "use_sliding_window",
        "sliding_window", "max_window_layers", "attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id",
    )  # fmt: skip
    top_fields = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    backbone = BACKBONES[config.model_type]
    return {
        "architectures": [backbone.classes[2].replace("Model", "ForConditionalGeneration")],
        "model_type": config.model_type,
        "tie_word_embeddings": True,
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": list(rope["mrope_section"])},
        **{name: getattr(text, name) for name in text_fields},
        **{name: getattr(config, name) for name in top_fields},
        "vision_config": {
            "model_type": config.model_type,
            **{name: getattr(vision, name) for name in backbone.vision_fields},
        },
    }
