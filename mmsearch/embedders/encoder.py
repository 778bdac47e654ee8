"""Qwen2-VL's forward pass over packed sequences, without padding, masks or anything computed and thrown away.

The functions walk the modules of transformers' `Qwen2VLModel` by name, so they run its weights (and adapters put over its
layers, and gradient checkpointing). What differs from its own forward, with equal results (tests/parity):

- All tokens of a batch go through a linear layer as one matrix; only attention sees sequences, in buckets of like length.
- Images and frames of one size attend as one batch instead of one after the other.
- Of the last layer only the last token's output is computed, since nothing else is read.
- Positions are one-dimensional for visual tokens too, as VLM2Vec was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsearch.embedders.qwen2vl_inputs import MERGE, Grid

Walked = Any
"""A module of transformers' Qwen2-VL (or one of the same shape), walked by the names it has there."""


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of [..., heads, head_dim] by angles [..., 1, head_dim / 2]; computed in float32."""
    first, second = x.float().chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


def run(function: Callable[..., Tensor], layer: Walked, *args: Any) -> Tensor:
    """function(layer, *args); its activations are computed again in the backward pass if the layer is set so.

    A layer whose weights must be fetched first (from other processes) has a method `walk(run, *args)`, which does that and then
    calls run(layer, *args). See `mmsearch.training.processes`.
    """
    walk = getattr(layer, "walk", None)
    return _run(layer, function, *args) if walk is None else walk(_run, function, *args)


def _run(layer: Walked, function: Callable[..., Tensor], *args: Any) -> Tensor:
    if getattr(layer, "gradient_checkpointing", False) and layer.training and torch.is_grad_enabled():
        return layer._gradient_checkpointing_func(function, layer, *args)
    return function(layer, *args)


# The vision tower


@dataclass(frozen=True)
class _SizeGroup:
    """Consecutive patches of all frames of one size: `count` frames of `size` patches."""

    count: int
    size: int
    cos: Tensor
    sin: Tensor


def vision_features(
    visual: Walked, pixel_values: Tensor, grids: Sequence[Grid], blocks: Sequence[Tensor] | None = None
) -> Tensor:
    """Features of all images and videos.

    Args:
        visual: the `visual` of a `Qwen2VLModel`.
        pixel_values: [patches, 1176], normalised.
        grids: (frame pairs, rows, columns) of each; their products add up to `patches`.
        blocks: for training on parts of images: of each image (one frame pair) int64 [kept], the 2x2 blocks that `pixel_values` holds.
            They stay where they were in the image.

    Returns:
        [patches / 4, hidden], one row per merged 2x2 block, in the order given.
    """
    if blocks is not None:
        return _features_of_parts(visual, pixel_values, grids, blocks)
    by_size: dict[tuple[int, int], list[int]] = {}
    for index, (_, rows, columns) in enumerate(grids):
        by_size.setdefault((rows, columns), []).append(index)
    order = [index for members in by_size.values() for index in members]
    is_sorted = order == list(range(len(grids)))
    if not is_sorted:
        spans = pixel_values.split([t * rows * columns for t, rows, columns in grids])
        pixel_values = torch.cat([spans[index] for index in order])
    inverse_frequencies = visual.rotary_pos_emb.inv_freq.float()
    groups = []
    for (rows, columns), members in by_size.items():
        angles = _patch_angles(rows, columns, inverse_frequencies)
        frames = sum(grids[index][0] for index in members)
        groups.append(_SizeGroup(frames, rows * columns, angles.cos()[:, None], angles.sin()[:, None]))

    features = _through_the_tower(visual, pixel_values, groups)
    if is_sorted:
        return features
    counts = [t * rows * columns // MERGE**2 for t, rows, columns in grids]
    sorted_spans = features.split([counts[index] for index in order])
    back = sorted(range(len(order)), key=order.__getitem__)
    return torch.cat([sorted_spans[place] for place in back])


def _features_of_parts(visual: Walked, pixel_values: Tensor, grids: Sequence[Grid], blocks: Sequence[Tensor]) -> Tensor:
    """`vision_features` of some blocks of each image."""
    inverse_frequencies = visual.rotary_pos_emb.inv_freq.float()
    groups = []
    for (_, rows, columns), kept in zip(grids, blocks, strict=True):
        angles = _patch_angles(rows, columns, inverse_frequencies).view(-1, MERGE**2, inverse_frequencies.shape[0] * 2)
        own = angles[kept].flatten(0, 1)
        groups.append((own.cos(), own.sin()))
    if len({len(kept) for kept in blocks}) == 1:  # all alike: one batch of attention
        cos, sin = (torch.stack(turns)[:, :, None] for turns in zip(*groups, strict=True))
        return _through_the_tower(visual, pixel_values, [_SizeGroup(len(blocks), cos.shape[1], cos, sin)])
    sizes = [_SizeGroup(1, len(cos), cos[:, None], sin[:, None]) for cos, sin in groups]
    return _through_the_tower(visual, pixel_values, sizes)


def _through_the_tower(visual: Walked, pixel_values: Tensor, groups: Sequence[_SizeGroup]) -> Tensor:
    kernel = visual.patch_embed.proj.weight  # a convolution whose stride is its size: a plain product
    hidden = F.linear(pixel_values.to(kernel.dtype), kernel.flatten(1))
    for block in visual.blocks:
        hidden = run(_vision_block, block, hidden, groups)
    return visual.merger(hidden)


def _patch_angles(rows: int, columns: int, inverse_frequencies: Tensor) -> Tensor:
    """Angles [rows * columns, head_dim / 2] of a frame's patches in block order: by row, then by column."""
    device = inverse_frequencies.device
    places = torch.cartesian_prod(torch.arange(rows, device=device), torch.arange(columns, device=device))
    blocks = places.view(rows // MERGE, MERGE, columns // MERGE, MERGE, 2).transpose(1, 2).reshape(-1, 2)
    return (blocks[..., None] * inverse_frequencies).flatten(1)


def _vision_block(block: Walked, hidden: Tensor, groups: Sequence[_SizeGroup]) -> Tensor:
    attention = block.attn
    heads = attention.num_heads
    mixed = attention.qkv(block.norm1(hidden))
    outputs = []
    for group, part in zip(groups, mixed.split([g.count * g.size for g in groups]), strict=True):
        query, key, value = part.view(group.count, group.size, 3, heads, -1).unbind(2)
        query, key = rotate(query, group.cos, group.sin), rotate(key, group.cos, group.sin)
        output = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        outputs.append(output.transpose(1, 2).reshape(group.count * group.size, -1))
    hidden = hidden + attention.proj(torch.cat(outputs) if len(outputs) > 1 else outputs[0])
    return hidden + block.mlp(block.norm2(hidden))


# The language model


class LanguageModel(nn.Module):
    """The weights of transformers' `Qwen2VLTextModel` under the same names, for text alone.

    It exists because importing transformers takes longer than everything else that a text query does.

    Args:
        config: the text fields of a Qwen2-VL `config.json`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        hidden, heads, eps = config["hidden_size"], config["num_attention_heads"], config.get("rms_norm_eps", 1e-6)
        head_dim = hidden // heads
        key_values = (config.get("num_key_value_heads") or heads) * head_dim
        # Not nn.Embedding(…): its random start imports torch's compiler, which takes two seconds.
        self.embed_tokens = nn.Embedding.from_pretrained(torch.empty(config["vocab_size"], hidden), freeze=False)
        self.layers = nn.ModuleList()
        for _ in range(config["num_hidden_layers"]):
            layer: Walked = nn.Module()
            layer.input_layernorm = nn.RMSNorm(hidden, eps)
            layer.self_attn = nn.Module()
            layer.self_attn.q_proj = nn.Linear(hidden, hidden)
            layer.self_attn.k_proj = nn.Linear(hidden, key_values)
            layer.self_attn.v_proj = nn.Linear(hidden, key_values)
            layer.self_attn.o_proj = nn.Linear(hidden, hidden, bias=False)
            layer.post_attention_layernorm = nn.RMSNorm(hidden, eps)
            layer.mlp = _GatedMlp(hidden, config["intermediate_size"])
            self.layers.append(layer)
        self.norm = nn.RMSNorm(hidden, eps)
        self.rotary_emb: Walked = nn.Module()
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
        self.rotary_emb.register_buffer("inv_freq", 1.0 / rope_theta(config) ** exponents, persistent=False)


class _GatedMlp(nn.Module):
    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def rope_theta(config: Mapping[str, Any]) -> float:
    """The base of the rotary frequencies, wherever this release of transformers wrote it."""
    for place in (config, config.get("rope_parameters") or {}, config.get("rope_scaling") or {}):
        if "rope_theta" in place:
            return float(place["rope_theta"])
    return 1_000_000.0


@dataclass(frozen=True)
class _LengthBucket:
    """Consecutive sequences of like length.

    `gather` [rows * longest] lays their tokens out in a padded rectangle and `real` picks the tokens out of it again;
    both are None where all have the same length. `mask` [rows, 1, 1, longest] is true on tokens, None likewise.
    """

    rows: int
    longest: int
    tokens: int
    gather: Tensor | None
    real: Tensor | None
    mask: Tensor | None

    def padded(self, x: Tensor) -> Tensor:
        """[tokens, heads, head_dim] to [rows, heads, longest, head_dim]."""
        if self.gather is not None:
            x = x.index_select(0, self.gather)
        return x.view(self.rows, self.longest, *x.shape[1:]).transpose(1, 2)

    def packed(self, x: Tensor) -> Tensor:
        """[rows, heads, longest, head_dim] to [tokens, heads * head_dim]."""
        x = x.transpose(1, 2).reshape(self.rows * self.longest, -1)
        return x if self.real is None else x.index_select(0, self.real)


def _bucket(lengths: Sequence[int], device: torch.device) -> _LengthBucket:
    rows, longest, tokens = len(lengths), max(lengths), sum(lengths)
    if rows * longest == tokens:
        return _LengthBucket(rows, longest, tokens, None, None, None)
    length = torch.tensor(lengths, device=device)
    is_token = torch.arange(longest, device=device) < length[:, None]
    gather = torch.zeros(rows, longest, dtype=torch.int64, device=device)
    gather[is_token] = torch.arange(tokens, device=device)
    return _LengthBucket(
        rows, longest, tokens, gather.flatten(), is_token.flatten().nonzero()[:, 0], is_token[:, None, None]
    )


def _buckets(lengths: Sequence[int], device: torch.device) -> list[_LengthBucket]:
    """Cut descending lengths where a sequence would be more than a quarter padding."""
    buckets: list[_LengthBucket] = []
    start = 0
    for index in range(1, len(lengths) + 1):
        if index == len(lengths) or lengths[index] < 0.75 * lengths[start] - 8:
            buckets.append(_bucket(lengths[start:index], device))
            start = index
    return buckets


def last_states(language_model: Walked, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
    """The final hidden state of each sequence's last token.

    Args:
        language_model: a `Qwen2VLModel`'s, or a `LanguageModel`.
        tokens: [sum(lengths), hidden], the input embeddings of all sequences one after the other.
        lengths: tokens of each sequence, at least 1.

    Returns:
        [len(lengths), hidden], in the order given.
    """
    device = tokens.device
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    is_sorted = order == list(range(len(lengths)))
    if not is_sorted:
        spans = tokens.split(list(lengths))
        tokens = torch.cat([spans[row] for row in order])
    lengths = [lengths[row] for row in order]
    buckets = _buckets(lengths, device)

    length = torch.tensor(lengths, device=device)
    ends = length.cumsum(0)
    position = torch.arange(len(tokens), device=device) - (ends - length).repeat_interleave(length)
    rotary = language_model.rotary_emb
    angles = position[:, None] * rotary.inv_freq.float()
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]

    *layers, final = language_model.layers
    for layer in layers:
        tokens = run(_layer, layer, tokens, cos, sin, buckets, None)
    last = run(_layer, final, tokens, cos, sin, buckets, ends - 1)
    last = language_model.norm(last)
    if is_sorted:
        return last
    return last[torch.tensor(sorted(range(len(order)), key=order.__getitem__), device=device)]


def _layer(
    layer: Walked, tokens: Tensor, cos: Tensor, sin: Tensor, buckets: Sequence[_LengthBucket], last: Tensor | None
) -> Tensor:
    """A decoder layer; with `last` (indices of the last tokens) only those rows are computed and returned."""
    attention = layer.self_attn
    head_dim = 2 * cos.shape[-1]
    x = layer.input_layernorm(tokens)
    key = rotate(attention.k_proj(x).view(len(x), -1, head_dim), cos, sin)
    value = attention.v_proj(x).view(len(x), -1, head_dim)
    if last is not None:
        tokens, x, cos, sin = tokens[last], x[last], cos[last], sin[last]
    query = rotate(attention.q_proj(x).view(len(x), -1, head_dim), cos, sin)
    is_grouped = query.shape[1] != key.shape[1]
    outputs = []
    spans = [bucket.tokens for bucket in buckets]
    query_spans = spans if last is None else [bucket.rows for bucket in buckets]
    for bucket, q, k, v in zip(buckets, query.split(query_spans), key.split(spans), value.split(spans), strict=True):
        k, v = bucket.padded(k), bucket.padded(v)
        if last is None:
            q = bucket.padded(q)
            output = bucket.packed(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=is_grouped))
        else:
            q = q[:, :, None]
            output = F.scaled_dot_product_attention(q, k, v, attn_mask=bucket.mask, enable_gqa=is_grouped).flatten(1)
        outputs.append(output)
    tokens = tokens + attention.o_proj(torch.cat(outputs) if len(outputs) > 1 else outputs[0])
    return tokens + layer.mlp(layer.post_attention_layernorm(tokens))
