"""VisRAG-Ret: MiniCPM-V 2.0 (SigLIP tower, perceiver resampler, MiniCPM language model), the position-weighted mean of all its tokens.

A picture is seen whole and, if it is large, in up to nine tiles besides, 64 tokens each. Takes text and pictures; of several pictures
or frames the mean of their vectors. The instruction given is dropped: texts on the query side get the model's own, documents none.
The model and its tiles: `mmsearch.embedders.forward.minicpm_v`. Source: OpenBMB/VisRAG@9c0de9f `src/openmatch/modeling/modeling_visrag_ret`;
arXiv 2410.10594.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from mmsearch.embedders.checkpoints import checkpoint as files
from mmsearch.embedders.checkpoints.opening import Opened, OpensCheckpoints, match_scales, model_key
from mmsearch.embedders.forward.batching import batches_by_cost, made_ahead
from mmsearch.embedders.forward.minicpm_v import DEFAULTS, MiniCpmV, PreparedInput, check_config, fitted, tiles_of
from mmsearch.embedders.forward.packed import POSITIONS_PER_BATCH
from mmsearch.errors import EmbedderError
from mmsearch.items import EmbedInput, Kind, MatchScale

PREPROCESSING_VERSION = 1
"""Goes into the model key: raise it whenever the same input would give other ids or pixels."""
QUERY_INSTRUCTION = "Represent this query for retrieving relevant documents: "
MAX_TOKENS = 2048
SPECIAL_TOKENS = BEGIN, UNKNOWN, IMAGE, IMAGE_END, SLICE, SLICE_END = (
    "<s>", "<unk>", "<image>", "</image>", "<slice>", "</slice>",
)  # fmt: skip


class VisragEmbedder(OpensCheckpoints):
    """Implements `mmsearch.embedders.Embedder`."""

    page_text = False

    def __init__(
        self, opened: Opened, model: MiniCpmV, tokenizer: Tokenizer, *, max_pixels: Mapping[Kind, int]
    ) -> None:
        """Use `load`."""
        self.name = opened.name
        self.model = model
        self.tokenizer = tokenizer
        self.device = opened.device
        self.dim = model.hidden
        self.max_pixels: Mapping[Kind, int] = dict(max_pixels)
        self.match_scale: Mapping[str, MatchScale] = match_scales(opened.sidecar)
        self._config = {**DEFAULTS, **opened.config}
        known = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
        self._ids = {token: number for token, number in known.items() if number is not None}
        if missing := [token for token in SPECIAL_TOKENS if token not in self._ids]:
            raise EmbedderError(f"{opened.checkpoint.base}: the tokenizer does not know {', '.join(missing)}")
        decisive = {
            "checkpoint": opened.checkpoint.sha256(),
            "preprocessing": PREPROCESSING_VERSION,
            "max_pixels": self.max_pixels,
        }
        self.model_key = model_key(self.name, decisive)

    @classmethod
    def of_checkpoint(cls, opened: Opened, *, min_pixels: int | None, max_pixels: int | None) -> Self:
        """`max_pixels` bounds the number of tiles; smaller pictures are enlarged to one tile by the model's own rule."""
        config = {**DEFAULTS, **opened.config}
        check_config(config)
        if opened.checkpoint.adapter is not None:
            raise EmbedderError(f"{opened.checkpoint.adapter} is an adapter; this family opens merged checkpoints")
        tensors: files.Tensors = {}
        for path in opened.checkpoint.weight_files():
            tensors |= files.read_tensors(path)
        model = MiniCpmV(config, tensors, opened)
        whole = config["max_slice_nums"] * config["scale_resolution"] ** 2
        return cls(
            opened,
            model,
            files.load_tokenizer(opened.checkpoint),
            max_pixels=opened.max_pixels(max_pixels, whole),
        )

    def encode_queries(self, inputs: Sequence[EmbedInput]) -> np.ndarray:
        """float32 [len(inputs), dim], unit length, finite, in the order given."""
        return self._encode(inputs, QUERY_INSTRUCTION)

    def encode_documents(self, inputs: Sequence[EmbedInput]) -> np.ndarray:
        """float32 [len(inputs), dim], unit length, finite, in the order given. The text beside a picture is dropped."""
        plain = [EmbedInput("", "" if item.images else item.text, item.images, kind=item.kind) for item in inputs]
        return self._encode(plain, "")

    def _encode(self, inputs: Sequence[EmbedInput], instruction: str) -> np.ndarray:
        pieces: list[tuple[str, Image.Image | None, int]] = []
        owners: list[int] = []
        for row, item in enumerate(inputs):
            if not item.images and not item.text:
                raise EmbedderError(f"{self.name} cannot embed an input without text and picture")
            text = f"{instruction}{item.text}" if item.text else ""
            for image in item.images or (None,):
                pieces.append((text, None if image is None else image.convert("RGB"), self.max_pixels[item.kind]))
                owners.append(row)
        vectors = self._embed_pieces(pieces)
        if not np.isfinite(vectors).all():
            bad = owners[int(np.flatnonzero(~np.isfinite(vectors).all(1))[0])]
            raise EmbedderError(f"the model's output for input {bad} is not finite")
        sums = np.zeros((len(inputs), self.dim), np.float32)
        np.add.at(sums, owners, vectors)
        return sums / np.linalg.norm(sums, axis=1, keepdims=True) if len(sums) else sums

    def _embed_pieces(self, pieces: Sequence[tuple[str, Image.Image | None, int]]) -> np.ndarray:
        """One vector of unit length for each (text, picture, pixel budget)."""
        vectors = np.empty((len(pieces), self.dim), np.float32)
        tile = self._config["scale_resolution"] ** 2
        costs = []
        for text, image, budget in pieces:
            tiles = (
                0 if image is None else 1 + min(math.ceil(image.width * image.height / tile), self._max_tiles(budget))
            )
            patches = tiles * tile // self._config["patch_size"] ** 2
            costs.append((patches, tiles * self._config["query_num"] + len(text) // 4 + 2))
        batches = batches_by_cost(costs, POSITIONS_PER_BATCH["cuda" if self.device.startswith("cuda") else "cpu"])
        prepared = made_ahead(lambda rows: [self._prepare(*pieces[row]) for row in rows], batches)
        for rows, batch in zip(batches, prepared, strict=True):
            vectors[rows] = self.model.embed(batch).cpu().numpy()
        return vectors

    def _max_tiles(self, budget: int) -> int:
        if not self._config["slice_mode"]:
            return 1
        return max(1, min(self._config["max_slice_nums"], budget // self._config["scale_resolution"] ** 2))

    def _prepare(self, text: str, image: Image.Image | None, budget: int) -> PreparedInput:
        ids = [self._ids[BEGIN]]
        slots: list[int] = []
        tiles: list[np.ndarray] = []

        def picture_here() -> None:
            ids.append(self._ids[IMAGE])
            slots.extend(range(len(ids), len(ids) + self._config["query_num"]))
            ids.extend([self._ids[UNKNOWN]] * self._config["query_num"])
            ids.append(self._ids[IMAGE_END])

        if image is not None:
            side, patch = self._config["scale_resolution"], self._config["patch_size"]
            if self._config["slice_mode"]:
                pictures, grid = tiles_of(image, self._max_tiles(budget), side, patch)
            else:
                pictures, grid = [image.resize(fitted(image.size, side, patch), Image.Resampling.BICUBIC)], None
            tiles = [np.asarray(picture).transpose(2, 0, 1) for picture in pictures]
            picture_here()
            if grid is not None:
                ids.append(self._ids[SLICE])
                for row in range(grid[1]):
                    if row:
                        ids += self._words("\n")
                    for _ in range(grid[0]):
                        picture_here()
                ids.append(self._ids[SLICE_END])
            text = f"\n{text}"
        ids = [*ids, *self._words(text)][:MAX_TOKENS]
        if slots and slots[-1] >= len(ids):
            raise EmbedderError(f"the picture's {len(slots)} tokens do not fit into {MAX_TOKENS}")
        return PreparedInput(ids, slots, tiles)

    def _words(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids if text else []
