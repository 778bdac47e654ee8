"""A small Qwen2-VL to start from: random where it must learn to see, sensible where the text teacher already knows.

Token embeddings start as the teacher's own vectors of single tokens; the first attention layer starts as a mean over all
tokens so far, weighted by how rare they are (smooth inverse frequency); the other layers start as the identity. Before the
first step the model therefore behaves like a bag of teacher words, and images are learnt as further words. The vision tower
starts as a small convolutional network: patches in principal components, heads that look at neighbours.

Sources: attention that starts as a convolution from d'Ascoli et al. 2021, "ConViT" (there by position terms of its own, here by the rotary
embedding that Qwen2-VL has anyway); SIF weights from Arora et al. 2017, "A simple but tough-to-beat baseline for sentence embeddings"; single-token
teacher vectors from Model2Vec (Tulkens and van Dongen 2024).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

from mmsearch.training.data.text_teacher import Teacher, teacher_folder

SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
EMBEDDING_RMS = 0.1
POOLING_GAIN = 3.0
RARITY_SPREAD = 0.25
"""Size of the component that carries a token's rarity, beside EMBEDDING_RMS."""
SIF_A = 1e-3


def build_tokenizer() -> Tokenizer:
    """The teacher's WordPiece with Qwen2-VL's special tokens behind it, and no [CLS] or [SEP] around a text."""
    layout = json.loads((teacher_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    layout["post_processor"] = None
    layout["truncation"] = None
    layout["padding"] = None
    tokenizer = Tokenizer.from_str(json.dumps(layout))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def model_config(tokenizer: Tokenizer, text: dict[str, Any], vision: dict[str, Any]) -> dict[str, Any]:
    """`config.json` in the flat layout of the public Qwen2-VL checkpoints."""
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    head_dim = text["hidden_size"] // text["num_attention_heads"]
    # The share of Qwen2-VL-2B: 16 : 24 : 24 of 64 rotary pairs.
    rows = head_dim // 2 * 3 // 8
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "rope_scaling": {"type": "mrope", "mrope_section": [head_dim // 2 - 2 * rows, rows, rows]},
        "rope_theta": 1_000_000.0,
        "sliding_window": None,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "use_cache": False,
        "vocab_size": tokenizer.get_vocab_size(),
        **text,
        "vision_config": {
            "model_type": "qwen2_vl",
            "hidden_act": "quick_gelu",
            "hidden_size": text["hidden_size"],
            "in_channels": 3,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            **vision,
        },
    }


@torch.no_grad()
def start_from_teacher(
    model: Qwen2VLModel,
    tokenizer: Tokenizer,
    teacher: Teacher,
    corpus: Iterable[str],
    basis: np.ndarray | None = None,
) -> None:
    """Set the weights that the teacher and the word counts of `corpus` decide, in place.

    Args:
        basis: [dim, dim], in rows the teacher's directions that the model's coordinates are to stand for; None: the teacher's own coordinates.
    """
    language = model.language_model
    hidden = language.config.hidden_size
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    count = len(vocabulary) - len(SPECIAL_TOKENS)
    words = teacher.vectors([token.removeprefix("##") for token, _ in vocabulary[:count]])
    words = words - words.mean(0)
    if basis is not None:
        words = words @ basis.T
    # The direction in which words differ least is given over to their rarity.
    rarity_axis = np.linalg.eigh(words.T @ words)[1][:, 0].astype(np.float32)
    words -= np.outer(words @ rarity_axis, rarity_axis)
    words *= EMBEDDING_RMS * hidden**0.5 / np.linalg.norm(words, axis=1, keepdims=True)

    counts: Counter[int] = Counter()
    for encoding in tokenizer.encode_batch(list(corpus), add_special_tokens=False):
        counts.update(encoding.ids)
    share = np.array([counts[i] for i in range(count)], np.float32) / max(1, sum(counts.values()))
    rarity = np.log(SIF_A / (SIF_A + share))
    rarity = (rarity - rarity.mean()) / rarity.std()
    step = RARITY_SPREAD * EMBEDDING_RMS * hidden**0.5
    embeddings = language.embed_tokens.weight
    embeddings[:count] = torch.from_numpy(words + np.outer(np.clip(rarity, -6, 2) * step, rarity_axis))
    embeddings[count:] = torch.randn(len(SPECIAL_TOKENS), hidden) * EMBEDDING_RMS

    attention = language.layers[0].self_attn
    heads, head_dim = attention.num_heads, attention.head_dim
    slow = head_dim // 2 - 1  # the rotary pair that hardly turns: its score does not depend on the distance
    spread = np.log(SIF_A / (SIF_A + share)).std()
    logit_per_unit = spread / (step / EMBEDDING_RMS)
    for weight in (attention.q_proj.weight, attention.k_proj.weight, attention.q_proj.bias, attention.k_proj.bias):
        weight.mul_(0.1)
    for head in range(heads):
        attention.q_proj.bias[head * head_dim + slow] = head_dim**0.5
        attention.k_proj.weight[head * head_dim + slow] = torch.from_numpy(rarity_axis) * float(logit_per_unit)
    axis = torch.from_numpy(rarity_axis)
    attention.v_proj.weight.copy_(torch.eye(hidden) - torch.outer(axis, axis))
    attention.v_proj.bias.zero_()
    attention.o_proj.weight.copy_(torch.eye(hidden) * POOLING_GAIN)
    for index, layer in enumerate(language.layers):
        layer.mlp.down_proj.weight.mul_(0.1)
        if index:
            layer.self_attn.o_proj.weight.mul_(0.1)
    # Visual tokens start about as large as words.
    model.visual.merger.mlp[2].weight.mul_(EMBEDDING_RMS / 0.03)


@torch.no_grad()
def start_vision_from_patches(model: Qwen2VLModel, patches: np.ndarray) -> None:
    """Set the patch embedding to the leading principal components of `patches` (float32 [n, 1176], normalised pixels).

    Colours, edges and their directions, each scaled to unit variance (but none by more than a tenth of the first), so that the first
    block meets what differs between patches instead of their brightness alone.
    """
    kernel = model.visual.patch_embed.proj.weight
    values, vectors = np.linalg.eigh(np.cov(patches, rowvar=False))
    order = np.argsort(-values)[: kernel.shape[0]]
    deviations = np.sqrt(np.maximum(values[order], 0))
    scales = 1 / np.maximum(deviations, deviations[0] / 10)
    kernel.copy_(torch.from_numpy((vectors[:, order] * scales).T.astype(np.float32)).view_as(kernel))


NEIGHBOURS = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0), (0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))
"""(rows, columns) from a patch to where a head looks at first; a tower with fewer heads has the first of them."""
NEIGHBOUR_SHARPNESS = 4.0
NEIGHBOUR_FREQUENCY = 0.6
"""Rotary frequency (radians per patch) that carries most of the score, so that it falls within a patch or two."""


@torch.no_grad()
def start_vision_locally(model: Qwen2VLModel, *, seed: int) -> None:
    """Let each head of the vision tower begin by looking at one neighbour of each patch, in place.

    A query and a key that are constant (biases) and turned by the rotary embedding score cos(distance x frequency): highest where they
    meet, or, with the key turned back by an offset, at that offset. Values pass through an orthogonal matrix and back, half as large, so a
    block begins as a blur over its neighbours. Content takes part from the start, through weights at 0.3 of their random size.
    """
    visual = model.visual
    width = visual.patch_embed.proj.weight.shape[0]
    frequencies = visual.rotary_pos_emb.inv_freq.float()
    shares = torch.exp(-0.5 * ((frequencies / NEIGHBOUR_FREQUENCY).log() / 1.2) ** 2)
    generator = torch.Generator().manual_seed(seed)
    for block in visual.blocks:
        attention = block.attn
        heads = attention.num_heads
        size = width // heads
        along_one_axis = (NEIGHBOUR_SHARPNESS * shares / shares.sum() * size**0.5).sqrt()
        amplitude = torch.cat([along_one_axis, along_one_axis])
        weight, bias = attention.qkv.weight, attention.qkv.bias
        weight[: 2 * width].mul_(0.3)
        for head in range(heads):
            down, right = NEIGHBOURS[head % len(NEIGHBOURS)]
            turned = torch.cat([-down * frequencies, -right * frequencies])
            rows = slice(head * size, (head + 1) * size)
            bias[:width][rows] = torch.cat([amplitude, torch.zeros_like(amplitude)])
            bias[width : 2 * width][rows] = torch.cat([amplitude * turned.cos(), amplitude * turned.sin()])
        rotation = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
        weight[2 * width :] = rotation
        attention.proj.weight.copy_(rotation.T * 0.5)


@torch.no_grad()
def visual_token_scale(model: Qwen2VLModel, features: torch.Tensor) -> float:
    """By what the merger's output must be multiplied for visual tokens [n, hidden] to be as long as words are on average."""
    words = model.language_model.embed_tokens.weight
    return float(words.norm(dim=-1).mean() / features.norm(dim=-1).mean())
