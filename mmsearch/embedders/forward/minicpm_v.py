"""MiniCPM-V 2.0: a SigLIP tower, a perceiver resampler, a MiniCPM language model; and how it cuts pictures into tiles.

The vector of an input is the position-weighted mean of all its tokens, as VisRAG trained it. The published code is never run; this one is tested
against its parts. Source: OpenBMB/VisRAG@9c0de9f `src/openmatch/modeling/{modeling_visrag_ret,modeling_minicpmv}`, timm's
`vit_so400m_patch14_siglip_384`; arXiv 2410.10594.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from mmsearch.embedders.checkpoints import checkpoint as files
from mmsearch.embedders.checkpoints.opening import Opened
from mmsearch.errors import EmbedderError

VISION_HEAD_DIM, RESAMPLER_HEAD_DIM = 72, 128

DEFAULTS: Mapping[str, Any] = {
    "query_num": 64, "patch_size": 14, "max_slice_nums": 9, "scale_resolution": 448, "slice_mode": True,
    "scale_emb": 1, "scale_depth": 1, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 2048,
}  # fmt: skip
"""Of the published `MiniCPMVConfig`, where config.json says nothing."""

Size = tuple[int, int]
"""(width, height)"""


@dataclass(frozen=True)
class PreparedInput:
    """Token ids, where in them the tiles' features belong, and the tiles: uint8 [3, height, width]."""

    ids: list[int]
    slots: list[int]
    tiles: list[np.ndarray]


def tiles_of(image: Image.Image, most: int, side: int, patch: int) -> tuple[list[Image.Image], Size | None]:
    """The whole picture at about `side`² pixels and, if it has more, its tiles of about as many, row by row.

    Returns:
        The pictures, sides multiples of `patch`, and the (columns, rows) of tiles, None if there are none.
    """
    width, height = image.size
    wanted = min(math.ceil(width * height / side**2), most)
    if wanted <= 1:
        return [image.resize(fitted(image.size, side, patch), Image.Resampling.BICUBIC)], None
    whole = image.resize(fitted(image.size, side, patch, enlarge=False), Image.Resampling.BICUBIC)
    counts = [count for count in (wanted - 1, wanted, wanted + 1) if count != 1 and count <= most]
    grids = [(columns, count // columns) for count in counts for columns in range(1, count + 1) if count % columns == 0]
    columns, rows = min(grids, key=lambda grid: abs(math.log(width / height) - math.log(grid[0] / grid[1])))
    cell = (_multiple(width, columns) / columns, _multiple(height, rows) / rows)
    tile_width, tile_height = fitted(cell, side, patch)
    large = image.resize((tile_width * columns, tile_height * rows), Image.Resampling.BICUBIC)
    tiles = [
        large.crop((x * tile_width, y * tile_height, (x + 1) * tile_width, (y + 1) * tile_height))
        for y in range(rows)
        for x in range(columns)
    ]
    return [whole, *tiles], (columns, rows)


def fitted(size: tuple[float, float], side: int, patch: int, *, enlarge: bool = True) -> Size:
    """A size of the same shape with about `side`² pixels (without `enlarge` at most), in multiples of `patch`."""
    width, height = size
    if enlarge or width * height > side**2:
        shape = width / height
        height = int(side / math.sqrt(shape))
        width = int(height * shape)
    return _multiple(width, patch), _multiple(height, patch)


def _multiple(length: float, of: int) -> int:
    return max(round(length / of) * of, of)


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse what this forward pass does not compute. Raises: EmbedderError."""
    wanted = (
        ("hidden_act", config.get("hidden_act", "silu"), "silu"),
        ("rope_scaling", config.get("rope_scaling"), None),
        ("attention_bias", bool(config.get("attention_bias")), False),
        ("is_causal", bool(config.get("is_causal", True)), True),
        ("square query_num", math.isqrt(config["query_num"]) ** 2, config["query_num"]),
    )
    for option, found, supported in wanted:
        if found != supported:
            raise EmbedderError(f"the model's {option} is {found!r}; only {supported!r} is supported")
    for option in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        if option not in config:
            raise EmbedderError(f"config.json lacks {option}: it does not describe a MiniCPM-V 2.0")


class MiniCpmV:
    """The three parts with their weights on the device."""

    def __init__(self, config: Mapping[str, Any], tensors: files.Tensors, opened: Opened) -> None:
        parts = {"vpm.": {}, "resampler.": {}, "llm.model.": {}}  # type: dict[str, files.Tensors]
        for key, tensor in tensors.items():
            prefix = next((prefix for prefix in parts if key.startswith(prefix)), None)
            if prefix is not None:
                parts[prefix][key.removeprefix(prefix)] = tensor
            elif key != "llm.lm_head.weight":
                raise EmbedderError(f"unexpected tensor {key!r} in {opened.checkpoint.base}")
        scale = config["scale_depth"] / math.sqrt(config["num_hidden_layers"])
        for key, tensor in parts["llm.model."].items():
            if key.endswith(("o_proj.weight", "down_proj.weight")):  # what a layer adds, it adds on this scale
                parts["llm.model."][key] = (tensor.float() * scale).to(tensor.dtype)
        self.hidden = int(config["hidden_size"])
        self._scale_emb = float(config["scale_emb"])
        self._patch = int(config["patch_size"])
        with torch.device("meta"):
            tower = _Tower(parts["vpm."], self._patch)
            resampler = _Resampler(parts["resampler."], self.hidden, config["query_num"])
            language_model = _language_model(config)
        language_model.rotary_emb = type(language_model.rotary_emb)(language_model.config)
        for module, prefix in ((tower, "vpm."), (resampler, "resampler."), (language_model, "llm.model.")):
            files.fill(module, opened.placed(parts[prefix]))
            module.eval().requires_grad_(False)
        language_model.rotary_emb.to(opened.device)
        self.tower, self.resampler, self.language_model = tower, resampler, language_model
        self._device = opened.device

    @torch.no_grad()
    def embed(self, batch: Sequence[PreparedInput]) -> Tensor:
        """float32 [len(batch), hidden], unit length. What does not fit into the accelerator's memory is tried in halves."""
        try:
            return self._forward(batch)
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                raise EmbedderError(f"an input does not fit into the memory of {self._device}") from error
        torch.cuda.empty_cache()
        half = len(batch) // 2
        return torch.cat([self.embed(batch[:half]), self.embed(batch[half:])])

    def _forward(self, batch: Sequence[PreparedInput]) -> Tensor:
        lengths = [len(one.ids) for one in batch]
        ids = torch.tensor([token for one in batch for token in one.ids], device=self._device)
        tokens = self.language_model.embed_tokens(ids) * self._scale_emb
        starts = np.cumsum([0, *lengths])
        slots = [int(start) + slot for start, one in zip(starts, batch, strict=False) for slot in one.slots]
        if slots:
            features = self._features([tile for one in batch for tile in one.tiles])
            tokens = tokens.index_copy(0, torch.tensor(slots, device=self._device), features.to(tokens.dtype))
        # No token sees a later one, so what is padded behind the end changes nothing.
        states = self.language_model(
            inputs_embeds=nn.utils.rnn.pad_sequence(tokens.split(lengths), batch_first=True), use_cache=False
        ).last_hidden_state.float()
        position = torch.arange(1, states.shape[1] + 1, device=self._device, dtype=torch.float32)
        weights = position * (position <= torch.tensor(lengths, device=self._device)[:, None])
        return F.normalize(torch.einsum("nth,nt->nh", states, weights), dim=-1)

    def _features(self, tiles: Sequence[np.ndarray]) -> Tensor:
        """[tiles * query_num, hidden]; tiles of one size go through the tower together."""
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, tile in enumerate(tiles):
            by_size.setdefault(tile.shape, []).append(index)
        found: list[Tensor] = [torch.empty(0)] * len(tiles)
        for (_, height, width), members in by_size.items():
            pixels = torch.from_numpy(np.stack([tiles[index] for index in members])).to(self._device)
            grid = (height // self._patch, width // self._patch)
            seen = self.resampler(self.tower(pixels.float() / 127.5 - 1, grid), grid)
            for index, features in zip(members, seen, strict=True):
                found[index] = features
        return torch.cat(found)


class _Tower(nn.Module):
    """timm's SigLIP vision transformer without its pooling, under its names; depth and widths are those of the weights."""

    def __init__(self, tensors: Mapping[str, Tensor], patch: int) -> None:
        super().__init__()
        try:
            width = tensors["patch_embed.proj.weight"].shape[0]
            inner = tensors["blocks.0.mlp.fc1.weight"].shape[0]
            places = tensors["pos_embed"].shape[1]
        except KeyError as error:
            raise EmbedderError(f"the vision tower lacks the tensor vpm.{error.args[0]}") from error
        depth = len({key.split(".")[1] for key in tensors if key.startswith("blocks.")})
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.pos_embed = nn.Parameter(torch.empty(1, places, width))
        self.blocks = nn.ModuleList(_Block(width, inner) for _ in range(depth))
        self.norm = nn.LayerNorm(width, 1e-6)

    def forward(self, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
        """[n, rows * columns, width] from float32 [n, 3, height, width] in -1…1."""
        tokens = self.patch_embed["proj"](pixels.to(self.pos_embed.dtype)).flatten(2).transpose(1, 2)
        tokens = tokens + self._places(grid)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def _places(self, grid: tuple[int, int]) -> Tensor:
        """[1, rows * columns, width]: the learnt square of positions, bent to another shape."""
        old = math.isqrt(self.pos_embed.shape[1])
        if grid == (old, old):
            return self.pos_embed
        square = self.pos_embed.float().view(1, old, old, -1).permute(0, 3, 1, 2)
        bent = F.interpolate(square, size=grid, mode="bicubic", antialias=True)
        return bent.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)


class _Block(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, 1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.norm2 = nn.LayerNorm(width, 1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, inner), "fc2": nn.Linear(inner, width)})
        self._heads = width // VISION_HEAD_DIM

    def forward(self, x: Tensor) -> Tensor:
        n, count, width = x.shape
        mixed = self.attn["qkv"](self.norm1(x)).view(n, count, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(*mixed.unbind(0)).transpose(1, 2).reshape(n, count, width)
        x = x + self.attn["proj"](seen)
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class _Resampler(nn.Module):
    """Learnt queries look once at a tile's features, both with sinusoidal places."""

    def __init__(self, tensors: Mapping[str, Tensor], hidden: int, queries: int) -> None:
        super().__init__()
        if "kv_proj.weight" not in tensors:
            raise EmbedderError("the resampler lacks the tensor resampler.kv_proj.weight")
        self.query = nn.Parameter(torch.empty(queries, hidden))
        self.pos_embed = nn.Parameter(torch.empty(queries, hidden))
        self.kv_proj = nn.Linear(tensors["kv_proj.weight"].shape[1], hidden, bias=False)
        self.attn = nn.MultiheadAttention(hidden, hidden // RESAMPLER_HEAD_DIM)
        self.ln_q, self.ln_kv, self.ln_post = (nn.LayerNorm(hidden, 1e-6) for _ in range(3))
        self.proj = nn.Parameter(torch.empty(hidden, hidden))

    def forward(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        """[n, queries, hidden] from [n, rows * columns, width]."""
        values = self.ln_kv(self.kv_proj(features)).transpose(0, 1)
        keys = values + places(grid, values.shape[-1]).to(values)[:, None]
        queries = (self.ln_q(self.query) + self.pos_embed)[:, None].expand(-1, len(features), -1)
        seen, _ = self.attn(queries, keys, values, need_weights=False)
        return self.ln_post(seen.transpose(0, 1)) @ self.proj


def places(grid: tuple[int, int], hidden: int) -> Tensor:
    """float32 [rows * columns, hidden]: sine and cosine of the column, then of the row, a quarter of `hidden` frequencies each."""
    rows, columns = grid
    frequency = 10000.0 ** -(torch.arange(hidden // 4, dtype=torch.float32) / (hidden // 4))
    across = (torch.arange(columns, dtype=torch.float32)[:, None] * frequency).repeat(rows, 1)
    down = (torch.arange(rows, dtype=torch.float32)[:, None] * frequency).repeat_interleave(columns, 0)
    return torch.cat((across.sin(), across.cos(), down.sin(), down.cos()), dim=1)


def _language_model(config: Mapping[str, Any]) -> Any:
    """MiniCPM is a Llama whose embeddings and layers' outputs are scaled, so transformers' Llama runs its scaled weights."""
    from transformers.models.llama.configuration_llama import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaModel

    return LlamaModel(
        LlamaConfig(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            num_hidden_layers=config["num_hidden_layers"],
            num_attention_heads=config["num_attention_heads"],
            num_key_value_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
            rms_norm_eps=config["rms_norm_eps"],
            max_position_embeddings=config["max_position_embeddings"],
            rope_parameters={"rope_type": "default", "rope_theta": float(config["rope_theta"])},
            pad_token_id=None,
        )
    )
