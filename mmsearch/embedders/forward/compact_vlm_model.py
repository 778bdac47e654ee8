"""A compact vision-language model assembled from open parts: a convolutional network that sees and text encoders that read.

Pictures go through an EfficientNet-Lite. Its grid of features becomes visual tokens in the input space of a BERT encoder, which reads them
and the text in one sequence. What the encoder makes of both, and what the grid says by itself, are added:

    read   = fused(unit(out(mean(states))), English encoder)      where there is text
    seen   = unit(a linear and a deep map of the pooled grid      where there are pictures
                  + the names of the classes it probably shows)
    vector = unit(unit(mix[0] * (1 + gate) * read + mix[1] * seen) + shift)

The instruction is read by the same text encoder, but by itself; `gate`, `mix` and `shift` are linear in what the encoder says of it. In one
sequence with the text it drowns a short query: nDCG@5 of questions to pages 0.11 instead of 0.41 before any training
(mmsearch/training/LOG.md).

A second encoder may read beside the first: a smaller one that knows English only and knows it better. `Fusion` says how both become one vector.

Sources: EfficientNet-Lite from tensorflow/tpu `models/official/efficientnet/lite` (ReLU6, no squeeze-and-excitation, fixed stem and head);
BERT's layers from Devlin et al. 2019; gate and shift from Perez et al. 2018, "FiLM"; positions as in Vaswani et al. 2017.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 32
"""Weights that share one scale in a `TokenTable`."""
STRIDE = 32
"""Pixels per cell of the grid."""


# The text encoder


class TokenTable(nn.Module):
    """Token embeddings in 4 bits, made float32 row by row when they are looked up; never trained.

    A block of 32 weights has a scale; the low nibbles of 16 bytes come first (`in_4_bits`).
    """

    nibbles: Tensor
    scales: Tensor

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("nibbles", torch.zeros(rows, dim // 2, dtype=torch.uint8))
        self.register_buffer("scales", torch.zeros(rows, dim // BLOCK, dtype=torch.float16))

    def forward(self, ids: Tensor) -> Tensor:
        """float32 [*ids.shape, dim]."""
        return from_4_bits(self.nibbles[ids], self.scales[ids])


def from_4_bits(nibbles: Tensor, scales: Tensor) -> Tensor:
    """float32 [..., columns] of nibbles uint8 [..., columns / 2] and scales [..., columns / 32]: value = (nibble - 8) * scale."""
    raw = nibbles.unflatten(-1, (-1, BLOCK // 2))
    weights = torch.cat(((raw & 15), (raw >> 4)), -1).float() - 8
    return (weights * scales.float().unsqueeze(-1)).flatten(-2)


def in_4_bits(weights: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `from_4_bits` with the least squared error per block: nibbles uint8 and scales float16.

    Weights [..., columns] that came out of `from_4_bits` go back without any.
    """
    blocks = weights.float().unflatten(-1, (-1, BLOCK))
    extreme = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)).squeeze(-1)
    best = torch.full_like(extreme, torch.inf)
    nibbles, scales = torch.zeros_like(blocks, dtype=torch.uint8), torch.zeros_like(extreme, dtype=torch.float16)
    for level in (
        -8,
        -7.5,
        *range(-7, 0),
        *range(1, 8),
    ):  # where the scale puts the extreme weight; a scale may be negative
        scale = (extreme / level).half()
        divisor = scale.float().unsqueeze(-1)
        told = (blocks / torch.where(divisor == 0, 1, divisor)).round().clamp(-8, 7)
        error = (blocks - told * divisor).square().sum(-1)
        better = error < best
        best = torch.where(better, error, best)
        scales = torch.where(better, scale, scales)
        nibbles = torch.where(better.unsqueeze(-1), (told + 8).to(torch.uint8), nibbles)
    low, high = nibbles.unflatten(-1, (2, BLOCK // 2)).unbind(-2)
    return (low | high << 4).flatten(-2), scales


class Layer(nn.Module):
    """A BERT layer: attention over all tokens, then a feed-forward network, each added and then normalised."""

    def __init__(self, hidden: int, heads: int, inner: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.joined = nn.Linear(hidden, hidden)
        self.norm1 = nn.LayerNorm(hidden, eps)
        self.up = nn.Linear(hidden, inner)
        self.down = nn.Linear(inner, hidden)
        self.norm2 = nn.LayerNorm(hidden, eps)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """`x` [n, length, hidden]; `mask` bool [n, 1, 1, length], true where a token is, None if all are."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = self.norm1(x + self.joined(seen.transpose(1, 2).flatten(2)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class TextEncoder(nn.Module):
    """BERT without pooler: token embeddings in, states out."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        hidden, eps = int(config["hidden_size"]), float(config["layer_norm_eps"])
        self.tokens = TokenTable(int(config["vocab_size"]), hidden)
        self.positions = nn.Parameter(torch.zeros(int(config["max_position_embeddings"]), hidden))
        self.norm = nn.LayerNorm(hidden, eps)
        self.layers = nn.ModuleList(
            Layer(hidden, int(config["num_attention_heads"]), int(config["intermediate_size"]), eps)
            for _ in range(int(config["num_hidden_layers"]))
        )

    def forward(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """States [n, length, hidden] of `embedded` tokens [n, length, hidden]; `mask` bool [n, length], true where a token is."""
        x = self.norm(embedded + self.positions[: embedded.shape[1]])
        attended = None if bool(mask.all()) else mask[:, None, None, :]
        for layer in self.layers:
            x = layer(x, attended)
        return x


class Fusion(nn.Module):
    """One vector of what the multilingual encoder and the English one say of a text.

    other  = english * unit(English mean state) + (1 - english) * guess(own)
    vector = joint([unit(own); other])

    `english`, between 0 and 1, is how likely the text is English, as the multilingual encoder's state tells; `guess` is what the English encoder would say of
    a text that it cannot read, as far as the multilingual one knows.
    """

    def __init__(self, hidden: int, english: int, size: int) -> None:
        super().__init__()
        self.is_english = nn.Linear(hidden, 1)
        self.guess = nn.Linear(hidden, english)
        self.joint = nn.Linear(hidden + english, size)

    def forward(self, state: Tensor, own: Tensor, english: Tensor) -> Tensor:
        """[n, size], any length.

        Args:
            state: [n, hidden], mean states of the multilingual encoder. own: [n, hidden], unit length, what its output map makes of them.
            english: [n, hidden of the English encoder], its mean states.
        """
        share = torch.sigmoid(self.is_english(state))
        other = share * F.normalize(english, dim=-1) + (1 - share) * self.guess(own)
        return self.joint(torch.cat([own, other], -1))


def mean_state(states: Tensor, mask: Tensor) -> Tensor:
    """float32 [n, hidden]: the mean over each row's tokens."""
    weights = mask.unsqueeze(-1).float()
    return (states.float() * weights).sum(1) / weights.sum(1)


# The convolutional network

STAGES = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3),
)  # fmt: skip
"""(expansion, channels, repeats, stride, kernel) of EfficientNet-B0."""
STEM, HEAD = 32, 1280


class Convolution(nn.Module):
    """A convolution with its batch norm folded in, and ReLU6 behind it unless it projects.

    `pads`: (before, after) in pixels, the same for rows and columns.
    """

    def __init__(
        self, ins: int, outs: int, kernel: int, stride: int = 1, groups: int = 1, *, is_last: bool = False, pads=(0, 0)
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outs, ins // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outs))
        self.stride, self.groups, self.is_last, self.pads = stride, groups, is_last, pads

    def forward(self, x: Tensor) -> Tensor:
        before, after = self.pads
        if before != after:
            x, before = F.pad(x, (before, after, before, after)), 0
        x = F.conv2d(x, self.weight, self.bias, self.stride, before, 1, self.groups)
        return x if self.is_last else F.hardtanh(x, 0.0, 6.0, inplace=not torch.is_grad_enabled())


class InvertedResidual(nn.Module):
    """Expand, filter each channel by itself, project; added to the input where the shapes agree."""

    def __init__(self, ins: int, outs: int, expansion: int, kernel: int, stride: int, pads: tuple[int, int]) -> None:
        super().__init__()
        inner = ins * expansion
        self.expand = Convolution(ins, inner, 1) if expansion > 1 else None
        self.depthwise = Convolution(inner, inner, kernel, stride, inner, pads=pads)
        self.project = Convolution(inner, outs, 1, is_last=True)
        self.is_added = stride == 1 and ins == outs

    def forward(self, x: Tensor) -> Tensor:
        inner = x if self.expand is None else self.expand(x)
        inner = self.project(self.depthwise(inner))
        return x + inner if self.is_added else inner


class EfficientNetLite(nn.Module):
    """The features of EfficientNet-Lite: [n, 3, 32 h, 32 w] -> [n, 1280, h, w].

    Its strided convolutions are padded as TensorFlow's "SAME" does at the size that the weights were trained at (`trained_px`), so a cell
    looks at the same pixels at any size.
    """

    def __init__(self, width: float, depth: float, trained_px: int) -> None:
        super().__init__()
        size = trained_px

        def pads(kernel: int, stride: int) -> tuple[int, int]:
            nonlocal size
            after = math.ceil(size / stride)
            total = max(0, (after - 1) * stride + kernel - size)
            size = after
            return total // 2, total - total // 2

        self.stem = Convolution(3, STEM, 3, 2, pads=pads(3, 2))
        self.blocks = nn.ModuleList()
        ins = STEM
        for place, (expansion, channels, repeats, stride, kernel) in enumerate(STAGES):
            outs = _channels(channels, width)
            for repeat in range(repeats if place in (0, len(STAGES) - 1) else math.ceil(repeats * depth)):
                own = stride if repeat == 0 else 1
                self.blocks.append(InvertedResidual(ins, outs, expansion, kernel, own, pads(kernel, own)))
                ins = outs
        self.head = Convolution(ins, HEAD, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.stem(pixels)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def _channels(count: int, width: float) -> int:
    wanted = count * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


# Both together

PLACE_WAVES = 4
"""Frequencies by which each of a visual token's three coordinates is told."""
POOL_HEADS = 8


class Seeing(nn.Module):
    """From the cells of a picture to one vector: each of 8 groups of channels chooses the cells that it averages.

    Where the network was trained to tell `classes` apart, the vectors of their names, weighted by how probable each class is, are added: a
    picture is found by a name that no caption in training had, in every language that the text encoder reads (Norouzi et al. 2014, "ConSE").
    """

    def __init__(self, hidden: int, inner: int, classes: int = 0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(HEAD)
        self.score = nn.Linear(HEAD, POOL_HEADS)
        self.linear = nn.Linear(HEAD, hidden)
        self.inner = nn.Linear(HEAD, inner)
        self.deep = nn.Linear(inner, hidden)
        self.classes = nn.Linear(HEAD, classes) if classes else None
        self.names = nn.Linear(classes, hidden, bias=False) if classes else None

    def pooled(self, cells: Tensor) -> Tensor:
        """[n, 1280], normalised, of cells [n, count, 1280]."""
        return self.norm(self.averaged(cells))

    def averaged(self, cells: Tensor) -> Tensor:
        """[n, 1280], what `pooled` normalises."""
        weights = torch.softmax(self.score(self.norm(cells)), 1)
        groups = cells.unflatten(-1, (POOL_HEADS, -1))
        return torch.einsum("nch,nchd->nhd", weights, groups).flatten(1)

    def forward(self, pooled: Tensor) -> Tensor:
        """[n, hidden], any length, of `pooled` [n, 1280]."""
        return self.linear(pooled) + self.deep(F.gelu(self.inner(pooled))) + self.named(pooled)

    def named(self, pooled: Tensor) -> Tensor | float:
        """[n, hidden]: the names of the classes that `pooled` [n, 1280] probably shows; 0 without classes."""
        if self.classes is None or self.names is None:
            return 0.0
        return self.names(torch.softmax(self.classes(pooled).float(), -1).to(pooled.dtype))


class CompactVlm(nn.Module):
    """The whole model. `config` is the checkpoint's `config.json`.

    Attributes:
        hidden: width of the multilingual encoder's states. size: of a vector.
        english: the second text encoder, and `fusion` what joins both; None without an `english_config`.
        side: cells of the network along each side that become one cell of the grid, that is one visual token.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        text, vision = config["text_config"], config["vision_config"]
        second = config.get("english_config")
        self.hidden = hidden = int(text["hidden_size"])
        self.size = size = int(config["embedding_size"]) if second else hidden
        self.side = int(vision["side"])
        self.text = TextEncoder(text)
        self.vision = EfficientNetLite(float(vision["width"]), float(vision["depth"]), int(vision["trained_px"]))
        self.english = TextEncoder(second) if second else None
        self.fusion = Fusion(hidden, int(second["hidden_size"]), size) if second else None
        self.seeing = Seeing(size, int(vision["inner_size"]), int(vision.get("classes", 0)))
        self.projector = nn.Linear(HEAD, hidden)
        self.places = nn.Linear(PLACE_WAVES * 6, hidden, bias=False)
        self.out = nn.Linear(hidden, hidden)
        self.gate = nn.Linear(hidden, size)
        self.mix = nn.Linear(hidden, 2)
        self.shift = nn.Linear(hidden, size)

    def grid(self, pixels: Tensor) -> Tensor:
        """Cells [n, rows, columns, 1280] of pixels [n, 3, height, width], whose sides are multiples of 32."""
        cells = self.vision(pixels)
        if self.side > 1:
            cells = F.avg_pool2d(cells, self.side, self.side, ceil_mode=True, count_include_pad=False)
        return cells.permute(0, 2, 3, 1)

    def visual_tokens(self, grids: Tensor) -> Tensor:
        """Tokens [frames * rows * columns, hidden] of grids [frames, rows, columns, 1280]: a picture is one frame."""
        frames, rows, columns = grids.shape[:3]
        axes = [(torch.arange(count, device=grids.device) + 0.5) / count for count in (frames, rows, columns)]
        if frames == 1:
            axes[0] = torch.zeros(1, device=grids.device)
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        waves = places.unsqueeze(-1) * math.pi * 2.0 ** torch.arange(PLACE_WAVES, device=grids.device)
        told = torch.cat((waves.sin(), waves.cos()), -1).flatten(-2)
        cells = F.layer_norm(grids, (HEAD,))
        return (self.projector(cells) + self.places(told.to(cells.dtype))).flatten(0, 2)

    def read(self, embedded: Tensor, mask: Tensor, ids: Tensor | None = None, ids_mask: Tensor | None = None) -> Tensor:
        """What the text encoders make of texts: float32 [n, size].

        Args:
            embedded: token embeddings [n, length, hidden] of the multilingual encoder, visual tokens among them. mask: bool [n, length].
            ids: int64 [n, other length], the same texts as the English encoder's tokens, where there is one. ids_mask: bool of that shape.
        """
        state = mean_state(self.text(embedded, mask), mask)
        dtype = self.out.weight.dtype
        own = self.out(state.to(dtype)).float()
        if self.english is None or self.fusion is None or ids is None or ids_mask is None:
            return own
        said = mean_state(self.english(self.english.tokens(ids).to(dtype), ids_mask), ids_mask)
        return self.fusion(state.to(dtype), F.normalize(own, dim=-1).to(dtype), said.to(dtype)).float()

    def joined(self, read: Tensor, seen: Tensor, told: Tensor) -> Tensor:
        """Embeddings float32 [n, size], unit length.

        Args:
            read, seen: [n, size], any length; zero rows where an input has no text, no picture.
            told: [n, hidden], what the text encoder says of each input's instruction; zero rows where there is none.
        """
        told = told.to(self.gate.weight.dtype)
        mix = 1 + self.mix(told).float()
        gated = F.normalize(read, dim=-1) * (1 + self.gate(told).float())
        shift = self.shift(told).float() * (told != 0).any(-1, keepdim=True)
        content = F.normalize(mix[:, :1] * gated + mix[:, 1:] * F.normalize(seen, dim=-1), dim=-1)
        return F.normalize(content + shift, dim=-1)
