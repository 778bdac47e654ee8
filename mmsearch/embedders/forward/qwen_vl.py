"""The forward pass of Qwen2-VL, Qwen2.5-VL and Qwen3-VL over packed sequences, without padding, masks or anything computed
and thrown away.

The functions walk the modules of transformers' `Qwen2VLModel` (or its successors') by name, so they run its weights (and
adapters put over its layers, and gradient checkpointing). What differs from its own forward, with equal results (tests/parity):

- All tokens of a batch go through a linear layer as one matrix; only attention sees sequences, in buckets of like length.
- Images and frames of one size attend as one batch instead of one after the other.
- Of the last layer only the last token's output is computed, since nothing else is read.
- Positions are one-dimensional for visual tokens too, as VLM2Vec was trained, unless a family gives others.

Qwen2.5-VL's vision tower attends within windows in most of its blocks. Qwen3-VL's adds learned positions to its patches, and
gives features of several depths, which are added to the first decoder layers' outputs (DeepStack, arXiv 2406.04334).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsearch.embedders.forward.qwen2vl_inputs import MERGE, Grid
from mmsearch.errors import EmbedderError

Walked = Any
"""A module of transformers' Qwen2-VL (or one of the same shape), walked by the names it has there."""


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of [..., heads, head_dim] by angles [..., 1, head_dim / 2]; computed in float32."""
    first, second = x.float().chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


def run(function: Callable[..., Tensor], layer: Walked, *args: Any) -> Tensor:
    """function(layer, *args); its activations are computed again in the backward pass if the layer is set so.

    A layer whose weights must be fetched first (from other processes) has a method `walk(run, *args)`, which does that and then
    calls run(layer, *args). See `mmsearch.training.parallel.processes`.
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
    """Consecutive patches of all frames of one size: `count` frames of `size` patches.

    Attributes:
        order: int64 [size], which patch of a frame comes at each place, where windows make it another order; else None.
        windows: (windows, patches of each) of each shape of window in a frame, in that order; their products add up to `size`.
        positions: [size, width], learned positions to add to the patches, or None.
    """

    count: int
    size: int
    cos: Tensor
    sin: Tensor
    order: Tensor | None = None
    windows: tuple[tuple[int, int], ...] = ()
    positions: Tensor | None = None


def vision_features(
    visual: Walked, pixel_values: Tensor, grids: Sequence[Grid], blocks: Sequence[Tensor] | None = None
) -> Tensor:
    """Features of all images and videos.

    Args:
        visual: the `visual` of a `Qwen2VLModel` or a successor of it.
        pixel_values: [patches, channels * 2 * patch * patch], normalised.
        grids: (frame pairs, rows, columns) of each; their products add up to `patches`.
        blocks: for training on parts of images: of each image (one frame pair) int64 [kept], the 2x2 blocks that `pixel_values` holds.
            They stay where they were in the image.

    Returns:
        [patches / 4, hidden], one row per merged 2x2 block, in the order given; of Qwen3-VL [patches / 4, depths * hidden], the
        last depth's features first.

    Raises:
        EmbedderError: `blocks` for another tower than Qwen2-VL's.
    """
    if blocks is not None:
        if hasattr(visual, "window_size") or hasattr(visual, "pos_embed"):
            raise EmbedderError("only Qwen2-VL's vision tower can be run on parts of images")
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
        within: Tensor | None = None
        windows: tuple[tuple[int, int], ...] = ()
        if hasattr(visual, "window_size"):
            within, windows = _windows(rows, columns, visual.window_size // visual.patch_size, angles.device)
            angles = angles[within]
        has_places = hasattr(visual, "pos_embed")
        positions = _learned_positions(visual.pos_embed.weight, rows, columns) if has_places else None
        frames = sum(grids[index][0] for index in members)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        groups.append(_SizeGroup(frames, rows * columns, cos, sin, within, windows, positions))

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
    hidden = F.linear(pixel_values.to(kernel.dtype), kernel.flatten(1), visual.patch_embed.proj.bias)
    hidden = _arranged(hidden, groups)
    whole = getattr(visual, "fullatt_block_indexes", range(len(visual.blocks)))  # the blocks without windows
    depths = list(getattr(visual, "deepstack_visual_indexes", ()))
    taken = []
    for index, block in enumerate(visual.blocks):
        hidden = run(_vision_block, block, hidden, groups, index in whole)
        if index in depths:
            taken.append(visual.deepstack_merger_list[depths.index(index)](hidden))
    features = _disarranged(visual.merger(hidden), groups)
    return torch.cat((features, *taken), -1) if taken else features


def _arranged(hidden: Tensor, groups: Sequence[_SizeGroup]) -> Tensor:
    """Patches [patches, width] with their learned positions, in the order of their windows; as they are where there are neither."""
    if all(group.order is None and group.positions is None for group in groups):
        return hidden
    parts = []
    for group, part in zip(groups, hidden.split([g.count * g.size for g in groups]), strict=True):
        frames = part.view(group.count, group.size, -1)
        if group.positions is not None:
            frames = frames + group.positions
        if group.order is not None:
            frames = frames[:, group.order]
        parts.append(frames.flatten(0, 1))
    return torch.cat(parts)


def _disarranged(merged: Tensor, groups: Sequence[_SizeGroup]) -> Tensor:
    """Merged blocks [patches / 4, hidden] back from the order of their windows."""
    if all(group.order is None for group in groups):
        return merged
    parts = []
    for group, part in zip(groups, merged.split([g.count * g.size // MERGE**2 for g in groups]), strict=True):
        assert group.order is not None
        back = group.order[:: MERGE**2].argsort()
        parts.append(part.view(group.count, group.size // MERGE**2, -1)[:, back].flatten(0, 1))
    return torch.cat(parts)


def _windows(rows: int, columns: int, side: int, device: torch.device) -> tuple[Tensor, tuple[tuple[int, int], ...]]:
    """A frame of patches (in block order) cut into windows of `side` x `side` patches, smaller at its right and lower edges.

    Windows of one shape come one after the other, so that they attend as one batch.

    Returns: `order` and `windows` as in `_SizeGroup`.
    """
    side //= MERGE  # in blocks from here on
    height, width = rows // MERGE, columns // MERGE
    blocks = torch.arange(height * width, device=device).view(height, width)
    by_shape: dict[tuple[int, int], list[Tensor]] = {}
    for top in range(0, height, side):
        for left in range(0, width, side):
            window = blocks[top : top + side, left : left + side]
            by_shape.setdefault((window.shape[0], window.shape[1]), []).append(window.flatten())
    block_order = torch.cat([window for alike in by_shape.values() for window in alike])
    order = block_order[:, None] * MERGE**2 + torch.arange(MERGE**2, device=device)
    return order.flatten(), tuple((len(alike), len(alike[0]) * MERGE**2) for alike in by_shape.values())


def _learned_positions(table: Tensor, rows: int, columns: int) -> Tensor:
    """The square table [side * side, width] resampled bilinearly to a frame's grid, corner to corner: [rows * columns, width]."""
    side = int(table.shape[0] ** 0.5)

    def taps(count: int) -> tuple[Tensor, Tensor]:
        """Of each place its two neighbours in the table [2, count] and their weights."""
        place = torch.linspace(0, side - 1, count, device=table.device)
        low = place.long()
        share = place - low
        return torch.stack((low, (low + 1).clamp(max=side - 1))), torch.stack((1 - share, share))

    (down, down_weight), (across, across_weight) = taps(rows), taps(columns)
    index = down[:, None, :, None] * side + across[None, :, None, :]
    weight = down_weight[:, None, :, None] * across_weight[None, :, None, :]
    resampled = (table[index].float() * weight[..., None]).sum((0, 1)).to(table.dtype)
    blocks = resampled.view(rows // MERGE, MERGE, columns // MERGE, MERGE, -1).transpose(1, 2)
    return blocks.reshape(rows * columns, -1)


def _patch_angles(rows: int, columns: int, inverse_frequencies: Tensor) -> Tensor:
    """Angles [rows * columns, head_dim / 2] of a frame's patches in block order: by row, then by column."""
    device = inverse_frequencies.device
    places = torch.cartesian_prod(torch.arange(rows, device=device), torch.arange(columns, device=device))
    blocks = places.view(rows // MERGE, MERGE, columns // MERGE, MERGE, 2).transpose(1, 2).reshape(-1, 2)
    return (blocks[..., None] * inverse_frequencies).flatten(1)


def _vision_block(block: Walked, hidden: Tensor, groups: Sequence[_SizeGroup], is_whole: bool = True) -> Tensor:
    """A block of the tower; attention sees the whole frame, or its windows."""
    attention = block.attn
    heads = attention.num_heads
    mixed = attention.qkv(block.norm1(hidden))
    outputs = []
    for group, part in zip(groups, mixed.split([g.count * g.size for g in groups]), strict=True):
        query, key, value = part.view(group.count, group.size, 3, heads, -1).unbind(2)
        query, key = rotate(query, group.cos, group.sin), rotate(key, group.cos, group.sin)
        if is_whole:
            output = _attend(query, key, value)
        else:
            spans = [count * size for count, size in group.windows]
            cut = zip(group.windows, query.split(spans, 1), key.split(spans, 1), value.split(spans, 1), strict=True)
            output = torch.cat([_attend(q, k, v, size) for (_, size), q, k, v in cut], 1)
        outputs.append(output.flatten(0, 1))
    hidden = hidden + attention.proj(torch.cat(outputs) if len(outputs) > 1 else outputs[0])
    return hidden + block.mlp(block.norm2(hidden))


def _attend(query: Tensor, key: Tensor, value: Tensor, size: int | None = None) -> Tensor:
    """Attention over [frames, patches, heads, head_dim], or among each `size` consecutive patches: [frames, patches, width]."""
    shape = query.shape
    if size is not None:
        query, key, value = (x.reshape(-1, size, *shape[2:]) for x in (query, key, value))
    output = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return output.transpose(1, 2).reshape(shape[0], shape[1], -1)


# The language model


class LanguageModel(nn.Module):
    """The weights of transformers' `Qwen2VLTextModel` (or its successors') under the same names, for text alone.

    It exists because importing transformers takes longer than everything else that a text query does.

    Args:
        config: the text fields of a `config.json`.
        has_norms: as Qwen3: queries and keys are normalised, and their projections have no bias.
    """

    def __init__(self, config: Mapping[str, Any], *, has_norms: bool = False) -> None:
        super().__init__()
        hidden, heads, eps = config["hidden_size"], config["num_attention_heads"], config.get("rms_norm_eps", 1e-6)
        head_dim = config.get("head_dim") or hidden // heads
        key_values = (config.get("num_key_value_heads") or heads) * head_dim
        # Not nn.Embedding(…): its random start imports torch's compiler, which takes two seconds.
        self.embed_tokens = nn.Embedding.from_pretrained(torch.empty(config["vocab_size"], hidden), freeze=False)
        self.layers = nn.ModuleList()
        for _ in range(config["num_hidden_layers"]):
            layer: Walked = nn.Module()
            layer.input_layernorm = nn.RMSNorm(hidden, eps)
            layer.self_attn = nn.Module()
            layer.self_attn.q_proj = nn.Linear(hidden, heads * head_dim, bias=not has_norms)
            layer.self_attn.k_proj = nn.Linear(hidden, key_values, bias=not has_norms)
            layer.self_attn.v_proj = nn.Linear(hidden, key_values, bias=not has_norms)
            layer.self_attn.o_proj = nn.Linear(heads * head_dim, hidden, bias=False)
            if has_norms:
                layer.self_attn.q_norm = nn.RMSNorm(head_dim, eps)
                layer.self_attn.k_norm = nn.RMSNorm(head_dim, eps)
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


class Span(Protocol):
    """Consecutive tokens that attend to each other and to no others.

    Attributes:
        tokens: how many.
        rows: how many of them are read after the last layer.
    """

    @property
    def tokens(self) -> int: ...

    @property
    def rows(self) -> int: ...

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[tokens, heads, head_dim] each (keys and values may have fewer heads) to [tokens, heads * head_dim]."""
        ...

    def attend_last(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The same of the tokens that are read: query [rows, heads, head_dim] to [rows, heads * head_dim]."""
        ...


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

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = self.padded(query), self.padded(key), self.padded(value)
        return self.packed(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1]))

    def attend_last(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = query[:, :, None], self.padded(key), self.padded(value)
        is_grouped = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, enable_gqa=is_grouped).flatten(1)

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


def last_states(
    language_model: Walked,
    tokens: Tensor,
    lengths: Sequence[int],
    *,
    angles: Tensor | None = None,
    deep: Sequence[Tensor] = (),
    visual_index: Tensor | None = None,
) -> Tensor:
    """The final hidden state of each sequence's last token.

    Args:
        language_model: a `Qwen2VLModel`'s (or a successor's), or a `LanguageModel`.
        tokens: [sum(lengths), hidden], the input embeddings of all sequences one after the other.
        lengths: tokens of each sequence, at least 1.
        angles: float32 [sum(lengths), head_dim / 2], rotary angles; those of one-dimensional positions if None.
        deep: [visual tokens, hidden] each, added to the first layers' outputs at `visual_index` (fewer than there are layers).
        visual_index: int64 [visual tokens], needed with `deep`.

    Returns:
        [len(lengths), hidden], in the order given.
    """
    device = tokens.device
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    is_sorted = order == list(range(len(lengths)))
    if not is_sorted:
        tokens = _reordered(tokens, lengths, order)
        if angles is not None:
            angles = _reordered(angles, lengths, order)
        if visual_index is not None and deep:
            places = _reordered(torch.arange(len(tokens), device=device), lengths, order)
            visual_index = places.argsort()[visual_index]
    lengths = [lengths[row] for row in order]
    buckets = _buckets(lengths, device)

    length = torch.tensor(lengths, device=device)
    ends = length.cumsum(0)
    if angles is None:
        position = torch.arange(len(tokens), device=device) - (ends - length).repeat_interleave(length)
        angles = position[:, None] * language_model.rotary_emb.inv_freq.float()
    last = states_at(language_model, tokens, angles, buckets, ends - 1, deep=deep, visual_index=visual_index)
    if is_sorted:
        return last
    return last[torch.tensor(sorted(range(len(order)), key=order.__getitem__), device=device)]


def states_at(
    language_model: Walked,
    tokens: Tensor,
    angles: Tensor,
    spans: Sequence[Span],
    ends: Tensor,
    *,
    deep: Sequence[Tensor] = (),
    visual_index: Tensor | None = None,
) -> Tensor:
    """The final hidden states [len(ends), hidden] of some tokens.

    Args:
        tokens, angles, deep, visual_index: as for `last_states`.
        spans: consecutive parts of `tokens`, together all of them: within each, attention is its own affair.
        ends: int64, indices into `tokens`: of each span those whose states it gives, in order.
    """
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    *layers, final = language_model.layers
    for index, layer in enumerate(layers):
        tokens = run(_layer, layer, tokens, cos, sin, spans, None)
        if index < len(deep):
            assert visual_index is not None
            tokens = tokens.index_add(0, visual_index, deep[index].to(tokens.dtype))
    return language_model.norm(run(_layer, final, tokens, cos, sin, spans, ends))


def _reordered(x: Tensor, lengths: Sequence[int], order: Sequence[int]) -> Tensor:
    """Rows of sequences one after the other, the sequences in another order."""
    spans = x.split(list(lengths))
    return torch.cat([spans[row] for row in order])


def _layer(
    layer: Walked, tokens: Tensor, cos: Tensor, sin: Tensor, spans: Sequence[Span], last: Tensor | None
) -> Tensor:
    """A decoder layer; with `last` (indices of the last tokens) only those rows are computed and returned."""
    attention = layer.self_attn
    head_dim = 2 * cos.shape[-1]
    x = layer.input_layernorm(tokens)
    key = rotate(_heads(attention, "k", x, head_dim), cos, sin)
    value = attention.v_proj(x).view(len(x), -1, head_dim)
    if last is not None:
        tokens, x, cos, sin = tokens[last], x[last], cos[last], sin[last]
    query = rotate(_heads(attention, "q", x, head_dim), cos, sin)
    sizes = [span.tokens for span in spans]
    if last is None:
        parts = zip(spans, query.split(sizes), key.split(sizes), value.split(sizes), strict=True)
        outputs = [span.attend(q, k, v) for span, q, k, v in parts]
    else:
        parts = zip(
            spans, query.split([span.rows for span in spans]), key.split(sizes), value.split(sizes), strict=True
        )
        outputs = [span.attend_last(q, k, v) for span, q, k, v in parts]
    tokens = tokens + attention.o_proj(torch.cat(outputs) if len(outputs) > 1 else outputs[0])
    return tokens + layer.mlp(layer.post_attention_layernorm(tokens))


def _heads(attention: Walked, which: str, x: Tensor, head_dim: int) -> Tensor:
    """Queries or keys [tokens, heads, head_dim], normalised as Qwen3 does where the attention has such a norm."""
    heads = getattr(attention, f"{which}_proj")(x).view(len(x), -1, head_dim)
    norm = getattr(attention, f"{which}_norm", None)
    return heads if norm is None else norm(heads)
