"""The compact vision-language model of `compact_vlm_model` as an embedder: it batches, keeps what is said of instructions, and saves.

Inputs are made in `compact_vlm_inputs`, weights are stored as in `compact_vlm_weights`.

A text is read as `query: text` between the encoder's two special tokens, as multilingual-e5-small was trained, on both sides: `passage: `
for documents measured worse here (questions to pages, nDCG@5 0.410 against 0.427). The visual tokens stand between prefix and text. Pictures are
resized to the budget of their kind, smaller ones too, in sides that are multiples of 32; frames of a clip all alike. Where a second encoder reads
English, it reads the same text as its own tokens, without a prefix.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor, nn

from mmsearch.embedders.checkpoints import checkpoint as files
from mmsearch.embedders.checkpoints.checkpoint import load_tokenizer, read_tensors
from mmsearch.embedders.checkpoints.opening import Opened, OpensCheckpoints, match_scales, model_key
from mmsearch.embedders.forward.batching import batches_by_cost, single_core_threads
from mmsearch.embedders.forward.compact_vlm_inputs import (
    CELL_COST,
    ENGLISH_TOKENIZER,
    Preparation,
    Ready,
    ReadyBatch,
    Tokens,
    ready_input,
)
from mmsearch.embedders.forward.compact_vlm_model import STRIDE, CompactVlm, mean_state
from mmsearch.embedders.forward.compact_vlm_weights import opened_model, restored, stored_weights
from mmsearch.embedders.forward.qwen2vl_inputs import token_ids
from mmsearch.errors import EmbedderError
from mmsearch.items import KINDS, EmbedInput, Kind, MatchScale
from mmsearch.prompts import DOCUMENT_INSTRUCTIONS

MAX_PIXELS: dict[Kind, int] = {"page": 49_152, "image": 50_176, "clip": 25_600}
PAGE_TEXT_TOKENS, QUERY_TEXT_TOKENS = 192, 128
TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 65536}
LENGTH_STEP = 16
"""Sequences are padded to multiples of this: torch keeps compiled bfloat16 kernels for every length it meets, hundreds of megabytes in all."""


class CompactVlmEmbedder(OpensCheckpoints):
    """Implements `mmsearch.embedders.Embedder`.

    Attributes:
        name: for people.
        sidecar: the content of mmsearch.json, {} if there is none.
    """

    family: ClassVar[str] = "compact_vlm"
    vision_weights: ClassVar[tuple[str, ...]] = ("vision.", "seeing.")
    tower_weights: ClassVar[tuple[str, ...]] = ("vision.",)
    about: ClassVar[Mapping[str, Any]] = {
        "tags": ["mmsearch", "vlm2vec", "compact_vlm"],
        "what": "A compact vision-language embedder (EfficientNet-Lite and BERT)",
        "embedding": "what is read and what is seen, mixed by the instruction, unit length; compare by cosine.",
        "prompts": "instructions as in `mmsearch/prompts.py`, read apart from the text.",
    }
    page_text = True
    min_pixels = STRIDE**2
    preprocessing_version: ClassVar[int] = 1
    """Goes into the model key: raise it whenever the same input would give other ids or pixels."""

    def __init__(
        self,
        model: CompactVlm,
        tokenizer: Tokenizer,
        config: Mapping[str, Any],
        *,
        name: str = "unsaved",
        digest: str = "unsaved",
        device: str = "cpu",
        sidecar: Mapping[str, Any] | None = None,
        max_pixels: Mapping[Kind, int] | None = None,
        english_tokenizer: Tokenizer | None = None,
    ) -> None:
        """Over a model that is in memory; `load` opens one from a folder.

        Raises: EmbedderError: the model has an English encoder, and there is no tokenizer for it.
        """
        sidecar = sidecar or {}
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.config = config
        self.name = name
        self.device = device
        self.sidecar = sidecar
        self.dim = model.size
        self.max_pixels: Mapping[Kind, int] = max_pixels or MAX_PIXELS | sidecar.get("max_pixels", {})
        self.match_scale: Mapping[str, MatchScale] = match_scales(sidecar)
        self.page_text_tokens = int(sidecar.get("page_text_tokens", PAGE_TEXT_TOKENS))
        self.query_text_tokens = int(sidecar.get("query_text_tokens", QUERY_TEXT_TOKENS))
        self.tokens = Tokens.of(config, tokenizer, english_tokenizer)
        self._most_tokens = int(config["text_config"]["max_position_embeddings"])
        self._told: dict[str, Tensor] = {"": torch.zeros(model.hidden)}
        self._workers: ThreadPoolExecutor | None = None
        self._building = threading.Lock()
        self.model_key = model_key(
            name,
            {
                "checkpoint": digest,
                "family": type(self).__name__,
                "preprocessing": self.preprocessing_version,
                "instructions": DOCUMENT_INSTRUCTIONS,
                "page_text_tokens": self.page_text_tokens,
                "max_pixels": dict(self.max_pixels),
            },
        )

    @classmethod
    def of_checkpoint(cls, opened: Opened, *, min_pixels: int | None, max_pixels: int | None) -> Self:
        """Every picture is resized to its kind's budget, which `max_pixels` replaces; `min_pixels` has no effect."""
        return cls(
            opened_model(opened),
            load_tokenizer(opened.checkpoint),
            opened.config,
            english_tokenizer=_english_tokenizer(opened),
            name=opened.name,
            digest=opened.checkpoint.sha256(),
            device=opened.device,
            sidecar=opened.sidecar,
            max_pixels=dict.fromkeys(KINDS, max_pixels) if max_pixels else None,
        )

    def save(self, folder: str | Path, *, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write a checkpoint, weights last; `load` opens it. `dtype` as in `stored_weights`."""
        self.save_without_weights(folder)
        self.write_weights(Path(folder), self.model.state_dict(), dtype)

    def save_without_weights(self, folder: str | Path) -> None:
        """Everything of a checkpoint but `model.safetensors`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(folder / "config.json", dict(self.config))
        self.tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        if self.tokens.english is not None:
            self.tokens.english.save(str(folder / ENGLISH_TOKENIZER), pretty=False)
        files.write_json(
            folder / files.SIDECAR,
            {
                **self.sidecar,
                "name": self.name,
                "max_pixels": dict(self.max_pixels),
                "page_text_tokens": self.page_text_tokens,
                "query_text_tokens": self.query_text_tokens,
                "match_scale": self.match_scale,
            },
        )

    # Training: see `mmsearch.embedders.trainable`

    @staticmethod
    def read_weights(checkpoint: files.Checkpoint) -> files.Tensors:
        """All tensors of a checkpoint under their names in `model`, in float32, the token table in 4 bits."""
        stored = {key: tensor for file in checkpoint.weight_files() for key, tensor in read_tensors(file).items()}
        return restored(stored, torch.float32)

    @staticmethod
    def write_weights(folder: Path, tensors: files.Tensors, dtype: torch.dtype) -> None:
        """`model.safetensors` beside the configuration that `save_without_weights` wrote."""
        with torch.device("meta"):
            files.compare("tensors", tensors, CompactVlm(files.read_json(folder / "config.json")).state_dict())
        files.write_stored(folder / "model.safetensors", stored_weights(tensors, dtype))

    def with_budgets(
        self,
        *,
        name: str,
        min_pixels: int,
        max_pixels: Mapping[Kind, int],
        page_text_tokens: int,
        query_text_tokens: int,
    ) -> CompactVlmEmbedder:
        """The same model under another name; it looks and reads as told. `min_pixels` has no effect."""
        told = {"page_text_tokens": page_text_tokens, "query_text_tokens": query_text_tokens, "match_scale": {}}
        return type(self)(
            self.model,
            self.tokenizer,
            self.config,
            name=name,
            device=self.device,
            sidecar={**self.sidecar, **told},
            max_pixels=dict(max_pixels),
            english_tokenizer=self.tokens.english,
        )

    @property
    def preparation(self) -> Preparation:
        return Preparation(self.tokens, max(self.page_text_tokens, self.query_text_tokens))

    def prepare(
        self,
        prompts: Sequence[str],
        images: Sequence[Sequence[Image.Image] | None],
        is_video: Sequence[bool],
        max_pixels: Sequence[int] | None = None,
    ) -> ReadyBatch:
        """Final prompts ready for `forward`; `max_pixels` is per prompt, the model's own budget for images and clips if None."""
        budgets = max_pixels or [self.max_pixels["clip" if video else "image"] for video in is_video]
        return self.preparation.batch(prompts, images, is_video, budgets)

    def weights_changed(self) -> None:
        """What the encoder said of instructions is no longer what it says."""
        self._told = {"": self._told[""]}

    # Inputs

    def ready(self, item: EmbedInput, most_text_tokens: int) -> Ready:
        """Tokenise and resize; no tensor is computed, so it may run in another thread or process."""
        return ready_input(self.tokens, item, most_text_tokens, self.max_pixels[item.kind])

    # Vectors

    def encode_queries(self, inputs: Sequence[EmbedInput]) -> np.ndarray:
        """float32 [len(inputs), dim], unit length, finite, in the order given."""
        return self._encode(inputs, self.query_text_tokens)

    def encode_documents(self, inputs: Sequence[EmbedInput]) -> np.ndarray:
        """float32 [len(inputs), dim], unit length, finite, in the order given. The two sides differ by their instructions only."""
        return self._encode(inputs, self.page_text_tokens)

    def _encode(self, inputs: Sequence[EmbedInput], most_text_tokens: int) -> np.ndarray:
        for instruction in dict.fromkeys(item.instruction for item in inputs):
            self.told(instruction)
        vectors = np.empty((len(inputs), self.dim), np.float32)
        costs = [self._cost(item, most_text_tokens) for item in inputs]
        budget = TOKENS_PER_BATCH["cuda" if self.device.startswith("cuda") else "cpu"]
        batches = batches_by_cost(costs, budget)

        @torch.inference_mode()
        def compute(rows: list[int]) -> np.ndarray:
            return self.forward([self.ready(inputs[row], most_text_tokens) for row in rows]).cpu().numpy()

        # A small model's operations are too short to share between cores: each batch has a thread of its own.
        is_one = self.device != "cpu" or len(batches) == 1
        results = map(compute, batches) if is_one else self._pool().map(compute, batches)
        for rows, embeddings in zip(batches, results, strict=True):
            vectors[rows] = embeddings
        finite = np.isfinite(vectors).all(1)
        if not finite.all():
            raise EmbedderError(f"the model's output for input {int(np.flatnonzero(~finite)[0])} is not finite")
        return vectors

    def forward(self, inputs: Sequence[Ready]) -> Tensor:
        """Embeddings [len(inputs), dim]: float32, unit length."""
        grids = [[self._grid(pixels) for pixels in one.pixels] for one in inputs]
        seen = torch.stack([self._seen(own) for own in grids])
        read = torch.zeros(len(inputs), self.dim, device=self.device)
        # A text without pictures is read once, whatever is asked of it: a query goes to each kind with another instruction.
        texts: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        for row, one in enumerate(inputs):
            if one.ids:
                texts.setdefault((row if one.pixels else -1, tuple(one.ids)), []).append(row)
        if texts:
            firsts = [rows[0] for rows in texts.values()]
            embedded, mask = self._sequences([(inputs[row].ids, grids[row]) for row in firsts])
            found = self.model.read(embedded, mask, *self._english([inputs[row].english_ids for row in firsts]))
            for place, rows in enumerate(texts.values()):
                read[rows] = found[place]
        return self.model.joined(read, seen, self._all_told([one.instruction for one in inputs]))

    def _all_told(self, instructions: Sequence[str]) -> Tensor:
        """float32 [n, hidden], as `told`. With gradients it is computed each time: an encoder that learns tells other things."""
        tell = self._read_instruction if torch.is_grad_enabled() else self.told
        told = {instruction: tell(instruction) for instruction in dict.fromkeys(instructions)}
        return torch.stack([told[instruction] for instruction in instructions])

    @torch.inference_mode()
    def told(self, instruction: str) -> Tensor:
        """float32 [hidden], unit length: what the text encoder says of an instruction; zeros for none. Kept."""
        if instruction not in self._told:
            self._told[instruction] = self._read_instruction(instruction)
        return self._told[instruction].to(self.device)

    def _read_instruction(self, instruction: str) -> Tensor:
        """As `told`, with gradients if enabled."""
        if not instruction:
            return torch.zeros(self.model.hidden, device=self.device)
        before, behind = self.tokens.around
        ids = [*before, *token_ids(self.tokenizer, instruction)[: self._most_tokens - 8], *behind]
        embedded, mask = self._sequences([(ids, [])])
        states = mean_state(self.model.text(embedded, mask), mask)[0]
        return states / states.norm()

    def _grid(self, pixels: np.ndarray) -> Tensor:
        """[frames, rows, columns, 1280] of a picture or clip."""
        values = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).to(self._dtype)
        values = ((values - 127) / 128).contiguous(memory_format=torch.channels_last)
        # One at a time its activations stay in the processor's cache: 20 ms instead of 25.
        parts = values.split(1) if self.device == "cpu" else [values]
        return torch.cat([self.model.grid(part) for part in parts])

    def _seen(self, grids: Sequence[Tensor]) -> Tensor:
        """float32 [dim]: the mean over pictures of what is seen in them, over the frames of each before that."""
        if not grids:
            return torch.zeros(self.dim, device=self.device)
        pooled = [self.model.seeing.pooled(grid.flatten(1, 2)).mean(0) for grid in grids]
        return self.model.seeing(torch.stack(pooled)).float().mean(0)

    def _sequences(self, rows: Sequence[tuple[list[int], Sequence[Tensor]]]) -> tuple[Tensor, Tensor]:
        """Token embeddings [n, longest, dim], visual tokens behind the prefix, and bool [n, longest], true where a token is.

        What is too long for the encoder loses the end of its text.
        """
        prefix = len(self.tokens.around[0])
        embedded = []
        for ids, grids in rows:
            tokens = self.model.text.tokens(torch.tensor(ids, device=self.device)).to(self._dtype)
            visual = [self.model.visual_tokens(_fewer(grid)) for grid in grids]
            room = self._most_tokens - sum(map(len, visual)) - prefix - 1
            if room < 1:
                raise EmbedderError(
                    f"the pictures of one input leave no room for a text among {self._most_tokens} tokens"
                )
            text = tokens[prefix:-1][:room]
            embedded.append(torch.cat([tokens[:prefix], *visual, text, tokens[-1:]]))
        lengths = torch.tensor([len(own) for own in embedded], device=self.device)
        padded = nn.utils.rnn.pad_sequence(embedded, batch_first=True)
        longest = min(-(-padded.shape[1] // LENGTH_STEP) * LENGTH_STEP, self._most_tokens)
        padded = nn.functional.pad(padded, (0, 0, 0, longest - padded.shape[1]))
        return padded, torch.arange(padded.shape[1], device=self.device) < lengths[:, None]

    def _english(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor] | tuple[()]:
        """Ids int64 [n, longest] for the English encoder and bool of that shape, true where a token is; () without one."""
        if self.model.english is None:
            return ()
        most = len(self.model.english.positions)
        cut = [ids if len(ids) <= most else [*ids[: most - 1], ids[-1]] for ids in rows]
        longest = min(-(-max(map(len, cut)) // LENGTH_STEP) * LENGTH_STEP, most)
        ids = torch.tensor([[*own, *[0] * (longest - len(own))] for own in cut], device=self.device)
        lengths = torch.tensor([len(own) for own in cut], device=self.device)
        return ids, torch.arange(longest, device=self.device) < lengths[:, None]

    @property
    def _dtype(self) -> torch.dtype:
        return self.model.out.weight.dtype

    def _pool(self) -> ThreadPoolExecutor:
        with self._building:
            if self._workers is None:
                self._workers = single_core_threads(torch.get_num_threads())
            return self._workers

    def _cost(self, item: EmbedInput, most_text_tokens: int) -> tuple[int, int]:
        cells = len(item.images) * self.max_pixels[item.kind] // STRIDE**2
        return cells * CELL_COST, min(len(item.text) // 4 + 2, most_text_tokens + 4)


def _fewer(grid: Tensor) -> Tensor:
    """A clip's grids as visual tokens: each frame in four."""
    if len(grid) == 1:
        return grid
    return nn.functional.adaptive_avg_pool2d(grid.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


# Files


def _english_tokenizer(opened: Opened) -> Tokenizer | None:
    path = opened.checkpoint.file(ENGLISH_TOKENIZER)
    return load_tokenizer(opened.checkpoint, ENGLISH_TOKENIZER) if path is not None else None
