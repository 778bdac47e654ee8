"""The compact vision-language model of `compact_vlm_model` as an embedder: it opens its checkpoints, tokenises, and looks at pictures.

A text is read as `query: text` between the encoder's two special tokens, as multilingual-e5-small was trained, on both sides: `passage: `
for documents measured worse here (questions to pages, nDCG@5 0.410 against 0.427). The visual tokens stand between prefix and text. Pictures are
resized to the budget of their kind, smaller ones too, in sides that are multiples of 32; frames of a clip all alike. Where a second encoder reads
English, it reads the same text as its own tokens, without a prefix.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor, nn

from mmsearch.embedders import checkpoint as files
from mmsearch.embedders.batching import batches_by_cost, single_core_threads
from mmsearch.embedders.checkpoint import load_tokenizer, read_tensors
from mmsearch.embedders.compact_vlm_model import BLOCK, STRIDE, CompactVlm, from_4_bits, in_4_bits, mean_state
from mmsearch.embedders.opened import Opened, match_scales, model_key, open_checkpoint
from mmsearch.embedders.qwen2vl_inputs import as_rgb, first_tokens, token_ids
from mmsearch.errors import EmbedderError
from mmsearch.items import KINDS, EmbedInput, Kind, MatchScale
from mmsearch.prompts import DOCUMENT_INSTRUCTIONS, split_prompt

PREFIX = "query: "
MAX_PIXELS: dict[Kind, int] = {"page": 49_152, "image": 50_176, "clip": 25_600}
PAGE_TEXT_TOKENS, QUERY_TEXT_TOKENS = 192, 128
MOST_ASPECT = 6
"""Longer pictures are squeezed to this."""
TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 65536}
CELL_COST = 12
"""What a cell costs beside a token, for batches of like cost."""
ENGLISH_TOKENIZER = "english_tokenizer.json"
SCALE = ".scale"
NIBBLES, SCALES = ".nibbles", ".scales"
TABLES = ("text.tokens.", "english.tokens.")
"""Always in 4 bits, in memory too."""
IN_8_BITS = ("text.layers.", "english.layers.", "seeing.", "projector.")
"""Parts whose matrices a checkpoint holds in 8 bits; those that came out of 4 bits (pretrained layers that nobody trained) go back to them. 8 bits cost the
convolutional network something (captions find 0.658 of their photos among ten, 0.666 with its weights in bfloat16), and 4 bits the English encoder's layers
(paraphrases to pages, nDCG@5 0.37 instead of 0.41)."""
LOSSLESS = 1e-5
"""Largest error of a weight, beside the largest weight, at which 4 bits lose nothing."""
LENGTH_STEP = 16
"""Sequences are padded to multiples of this: torch keeps compiled bfloat16 kernels for every length it meets, hundreds of megabytes in all."""


@dataclass(frozen=True)
class Ready:
    """An input as the model takes it.

    Attributes:
        ids: of the text with its special tokens; [] where there is no text.
        english_ids: of the same text for the English encoder; [] where there is none.
        pixels: uint8 [frames, height, width, 3] of each picture; a clip is one picture of several frames.
    """

    ids: list[int]
    english_ids: list[int]
    pixels: tuple[np.ndarray, ...]
    instruction: str


@dataclass(frozen=True)
class Tokens:
    """From texts to the ids that the encoders read.

    Attributes:
        around: ids before and behind a text, the prefix among them. english: the English encoder's tokenizer, and `english_around` its ids around a text.
    """

    tokenizer: Tokenizer
    around: tuple[list[int], list[int]]
    english: Tokenizer | None = None
    english_around: tuple[Sequence[int], Sequence[int]] = ((), ())

    @classmethod
    def of(cls, config: Mapping[str, Any], tokenizer: Tokenizer, english: Tokenizer | None = None) -> Self:
        """As a checkpoint's `config.json` tells. Raises: EmbedderError: it tells of an English encoder, whose tokenizer is missing."""
        prefix = tokenizer.encode(PREFIX.rstrip(), add_special_tokens=False).ids
        around = [int(config["bos_token_id"]), *prefix], [int(config["eos_token_id"])]
        second = config.get("english_config")
        if not second:
            return cls(tokenizer, around)
        if english is None:
            raise EmbedderError(f"the configuration tells of an English encoder, but there is no {ENGLISH_TOKENIZER}")
        return cls(tokenizer, around, english, ([int(second["bos_token_id"])], [int(second["eos_token_id"])]))

    def ids(self, text: str) -> list[int]:
        before, behind = self.around
        return [*before, *token_ids(self.tokenizer, text), *behind]

    def english_ids(self, text: str, most: int) -> list[int]:
        """[] without an English encoder. `most`: tokens, without those around them."""
        if self.english is None:
            return []
        before, behind = self.english_around
        return [*before, *token_ids(self.english, text)[:most], *behind]


class CompactVlmEmbedder:
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
    def load(
        cls,
        name_or_folder: str | Path,
        *,
        device: str | None = None,
        dtype: str | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
    ) -> Self:
        """Open a checkpoint; arguments and errors as in `mmsearch.embedders.load_embedder`.

        Every picture is resized to its kind's budget, which `max_pixels` replaces; `min_pixels` has no effect.
        """
        opened = open_checkpoint(name_or_folder, device=device, dtype=dtype)
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


class ReadyBatch(tuple[Ready, ...]):
    """Inputs for `CompactVlmEmbedder.forward`: a `mmsearch.embedders.trainable.PromptBatch`."""

    __slots__ = ()

    @property
    def patches(self) -> int:
        """Cells of the network."""
        return sum(pixels[..., 0].size // STRIDE**2 for one in self for pixels in one.pixels)

    @property
    def tokens(self) -> int:
        """Of text."""
        return sum(len(one.ids) for one in self)

    @property
    def cost(self) -> int:
        return self.patches * CELL_COST + self.tokens

    def to(self, device: torch.device | str) -> ReadyBatch:
        """Itself: a picture is moved when it is looked at."""
        return self

    def separated(self) -> list[ReadyBatch]:
        return [ReadyBatch((one,)) for one in self]

    @classmethod
    def joined(cls, batches: Sequence[ReadyBatch]) -> ReadyBatch:
        return cls(one for batch in batches for one in batch)


@dataclass(frozen=True)
class Preparation:
    """From final prompts and pictures to a `ReadyBatch`. It holds no model and can be sent to another process."""

    tokens: Tokens
    most_text_tokens: int

    def batch(
        self,
        prompts: Sequence[str],
        images: Sequence[Sequence[Image.Image] | None],
        is_video: Sequence[bool],
        max_pixels: Sequence[int],
    ) -> ReadyBatch:
        """Split into instruction and text, tokenise, resize; `max_pixels` is of each picture or frame, per prompt."""
        rows = zip(prompts, images, is_video, max_pixels, strict=True)
        return ReadyBatch(
            ready_input(self.tokens, prompt_input(prompt, shown, video), self.most_text_tokens, budget)
            for prompt, shown, video, budget in rows
        )


def prompt_input(prompt: str, images: Sequence[Image.Image] | None, is_video: bool) -> EmbedInput:
    """A final prompt and its pictures as an input, its instruction found by `mmsearch.prompts.split_prompt`."""
    instruction, text = split_prompt(prompt)
    return EmbedInput(instruction, text, tuple(images or ()), is_video, "clip" if is_video else "image")


def ready_input(tokens: Tokens, item: EmbedInput, most_text_tokens: int, budget: int) -> Ready:
    """Tokenise and resize. `budget`: pixels of each picture or frame."""
    text = first_tokens(tokens.tokenizer, item.text, most_text_tokens) if item.text.strip() else ""
    is_read = bool(text) or not item.images  # nothing at all: what the encoders make of an empty text
    ids = tokens.ids(text) if is_read else []
    english_ids = tokens.english_ids(text, most_text_tokens) if is_read else []
    shots = [item.images] if item.is_video else [(image,) for image in item.images]
    return Ready(ids, english_ids, tuple(_pixels(shot, budget) for shot in shots), item.instruction)


def _fewer(grid: Tensor) -> Tensor:
    """A clip's grids as visual tokens: each frame in four."""
    if len(grid) == 1:
        return grid
    return nn.functional.adaptive_avg_pool2d(grid.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def grid_size(width: int, height: int, budget: int) -> tuple[int, int]:
    """(width, height) in pixels, multiples of 32 with about `budget` pixels in the picture's own proportions, as far as these go."""
    aspect = min(MOST_ASPECT, max(1 / MOST_ASPECT, width / height))
    cells = max(1.0, budget / STRIDE**2)
    rows = max(1, round(math.sqrt(cells / aspect)))
    columns = max(1, min(round(math.sqrt(cells * aspect)), int(cells // rows) or 1))
    return columns * STRIDE, rows * STRIDE


def _pixels(frames: Sequence[Image.Image], budget: int) -> np.ndarray:
    """uint8 [frames, height, width, 3]; all frames in the size of the first."""
    size = grid_size(*frames[0].size, budget)
    return np.stack([np.asarray(as_rgb(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames])


# Files


def _english_tokenizer(opened: Opened) -> Tokenizer | None:
    path = opened.checkpoint.file(ENGLISH_TOKENIZER)
    return load_tokenizer(opened.checkpoint, ENGLISH_TOKENIZER) if path is not None else None


def opened_model(opened: Opened) -> CompactVlm:
    """The model of a checkpoint, on its device and in its dtype.

    Raises: EmbedderError: tensors missing, unexpected or of another shape; an adapter; no room on the device.
    """
    if opened.checkpoint.adapter is not None:
        raise EmbedderError(f"{opened.checkpoint.adapter}: an adapter cannot be put over a compact model")
    stored = {key: tensor for file in opened.checkpoint.weight_files() for key, tensor in read_tensors(file).items()}
    tensors = restored(stored, opened.dtype)
    try:
        with torch.device("meta"):
            model = CompactVlm(opened.config)
    except (KeyError, TypeError, ValueError) as error:
        raise EmbedderError(f"{opened.checkpoint.base}/config.json is not of a compact model: {error!r}") from error
    expected = model.state_dict()
    files.compare("tensors", tensors, expected)
    for name, weight in expected.items():
        if tensors[name].shape != weight.shape:
            told = f"has shape {tuple(tensors[name].shape)}, the configuration says {tuple(weight.shape)}"
            raise EmbedderError(f"{name} {told}")
    model.load_state_dict(tensors, assign=True)
    try:
        model = model.to(opened.device)
    except (RuntimeError, AssertionError) as error:
        raise EmbedderError(f"the model cannot be placed on device {opened.device!r}: {error}") from error
    model.vision.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.requires_grad_(False)


def stored_tensors(model: CompactVlm) -> dict[str, Tensor]:
    """A model's tensors as a checkpoint holds them."""
    return stored_weights(model.state_dict())


def stored_weights(tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """Tensors as a checkpoint holds them: token tables in 4 bits, as they are; the matrices of IN_8_BITS in 8, or in 4 where these lose nothing; the
    rest in bfloat16. With float32 all but the tables is stored as it is: for weights that are still worked on."""
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        if name.startswith(TABLES):
            stored[name] = tensor
        elif dtype == torch.float32:
            stored[name] = tensor.float()
        elif name.startswith(IN_8_BITS) and tensor.ndim >= 2:
            stored |= _in_few_bits(name, tensor.float())
        else:
            stored[name] = tensor.to(torch.bfloat16)
    return {name: tensor.contiguous() for name, tensor in stored.items()}


def _in_few_bits(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A matrix in 4 bits with a scale for each 32 weights, or in 8 with a scale per row."""
    if _came_from_4_bits(tensor):
        nibbles, scales = in_4_bits(tensor)
        return {name + NIBBLES: nibbles, name + SCALES: scales}
    rows = tensor.flatten(1)
    scale = rows.abs().amax(1).clamp(min=1e-12) / 127
    values = torch.clamp((rows / scale[:, None]).round(), -127, 127).to(torch.int8)
    return {name: values.view(tensor.shape), name + SCALE: scale}


def _came_from_4_bits(tensor: Tensor) -> bool:
    if tensor.ndim != 2 or tensor.shape[1] % BLOCK:
        return False
    for some in (tensor[:8], tensor):  # a few rows tell nearly always
        if (some - from_4_bits(*in_4_bits(some))).abs().max() > LOSSLESS * some.abs().max():
            return False
    return True


def restored(stored: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The inverse: a state dict in `dtype`, token tables in 4 bits.

    Raises: EmbedderError: a part of what holds a matrix in few bits is missing.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if name.startswith(TABLES):
            tensors[name] = tensor
        elif name.endswith(NIBBLES):
            whole = name.removesuffix(NIBBLES)
            tensors[whole] = from_4_bits(tensor, _scale(stored, whole, SCALES, 4)).to(dtype)
        elif tensor.dtype == torch.int8:
            scale = _scale(stored, name, SCALE, 8)
            tensors[name] = (tensor.float().flatten(1) * scale.float()[:, None]).view(tensor.shape).to(dtype)
        elif not _is_scale(stored, name):
            tensors[name] = tensor.to(dtype)
    return tensors


def _is_scale(stored: Mapping[str, Tensor], name: str) -> bool:
    return (name.endswith(SCALE) and name.removesuffix(SCALE) in stored) or (
        name.endswith(SCALES) and name.removesuffix(SCALES) + NIBBLES in stored
    )


def _scale(stored: Mapping[str, Tensor], name: str, suffix: str, bits: int) -> Tensor:
    if (found := stored.get(name + suffix)) is None:
        raise EmbedderError(f"{name} is stored in {bits} bits, but its scale is missing")
    return found
