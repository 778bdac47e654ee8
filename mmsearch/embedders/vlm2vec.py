"""VLM2Vec-V2: Qwen2-VL as an embedder. The last token's last hidden state, unit length.

No chat template, no end token, and plain one-dimensional positions for visual tokens too, as the reference was trained and
evaluated (shared/REFERENCE.md §0). Prompts in `mmsearch.prompts`, ids and pixels in `qwen2vl_inputs`, files in `checkpoint`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer

from mmsearch.embedders import checkpoint as files
from mmsearch.embedders.batching import batches_by_cost, made_ahead, single_core_threads
from mmsearch.embedders.encoder import LanguageModel, last_states, vision_features
from mmsearch.embedders.qwen2vl_inputs import (
    CLIP_MEAN,
    CLIP_STD,
    MAX_PIXELS,
    MERGE,
    MIN_PIXELS,
    PATCH,
    PREPROCESSING_VERSION,
    TEMPORAL,
    Batch,
    Preparation,
    first_tokens,
)
from mmsearch.errors import EmbedderError
from mmsearch.items import KINDS, EmbedInput, Kind, MatchScale
from mmsearch.prompts import DOCUMENT_INSTRUCTIONS, IMAGE_TOKEN, VIDEO_TOKEN, final_prompt

if TYPE_CHECKING:
    from transformers import Qwen2VLModel

logger = logging.getLogger(__name__)

EMBEDDING = "language_model.embed_tokens.weight"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
QUERY_TEXT_TOKENS = 128
SMALL_MODEL_PARAMETERS = 200_000_000
POSITIONS_PER_BATCH = {"small": 1024, "cpu": 4096, "cuda": 65536}
"""Patches and tokens together. Small batches stay in a CPU's cache."""


class Vlm2VecEmbedder:
    """An embedder over transformers' `Qwen2VLModel`; implements `mmsearch.embedders.Embedder`.

    Attributes:
        tokenizer: from tokenizer.json.
        preparation: how prompts and pictures become a `Batch`; needs no model.
        min_pixels: pixels of one image or frame at least.
        page_text_tokens: tokens of a document's text that the model is given at most; 0: pixels only.
        query_text_tokens: the same for queries.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        config: Mapping[str, Any],
        model: Qwen2VLModel | None = None,
        tensors: Mapping[str, torch.Tensor] | None = None,
        name: str,
        digest: str,
        min_pixels: int,
        max_pixels: Mapping[Kind, int],
        page_text_tokens: int,
        query_text_tokens: int,
        match_scale: Mapping[str, MatchScale] | None = None,
    ) -> None:
        """Use `load` or `from_model`. Either `model` or its `tensors` (all on one device) is given."""
        self.tokenizer = tokenizer
        self.name = name
        self.min_pixels = min_pixels
        self.max_pixels: Mapping[Kind, int] = dict(max_pixels)
        self.page_text_tokens = page_text_tokens
        self.page_text = page_text_tokens > 0
        self.query_text_tokens = query_text_tokens
        self.match_scale: Mapping[str, MatchScale] = dict(match_scale or {})
        self.dim = int(files.text_fields(config)["hidden_size"])
        self.model_key = self._model_key(digest)
        self._config = config
        self.preparation = Preparation(
            tokenizer, int(config["image_token_id"]), int(config["video_token_id"]), min_pixels
        )
        self._tensors = tensors or {}
        self._model = model
        self._building = threading.Lock()
        self._language_model = model.language_model if model is not None else text_model(config, self._tensors)
        self.device = str(self._device)
        self._is_small = sum(p.numel() for p in self._language_model.parameters()) < SMALL_MODEL_PARAMETERS
        self._workers: ThreadPoolExecutor | None = None

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path,
        *,
        device: str | None = None,
        dtype: str | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
    ) -> Vlm2VecEmbedder:
        """Open a checkpoint; arguments and errors as in `mmsearch.embedders.load_embedder`."""
        device = device or default_device()
        torch_dtype = default_dtype(device) if dtype is None else DTYPES.get(dtype)
        if torch_dtype is None:
            raise EmbedderError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
        found = files.find_checkpoint(name_or_folder)
        config = found.json("config.json")
        files.check_config(config)
        stored = files.model_tensors(found)
        files.check_names(stored, config)
        try:
            tensors = {key: tensor.to(device=device, dtype=torch_dtype) for key, tensor in stored.items()}
        except (RuntimeError, AssertionError) as error:
            raise EmbedderError(f"the model cannot be placed on device {device!r}: {error}") from error
        tokenizer = files.load_tokenizer(found)
        for token, option in ((IMAGE_TOKEN, "image_token_id"), (VIDEO_TOKEN, "video_token_id")):
            if tokenizer.token_to_id(token) != config.get(option):
                known = tokenizer.token_to_id(token)
                raise EmbedderError(
                    f"the tokenizer's {token} is {known}, the configuration's {option} {config.get(option)}"
                )
        sidecar = found.json(files.SIDECAR)
        budgets = sidecar.get("max_pixels", {})
        return cls(
            tokenizer,
            config=config,
            tensors=tensors,
            name=sidecar.get("name", found.name),
            digest=found.sha256(),
            min_pixels=min_pixels or sidecar.get("min_pixels", MIN_PIXELS),
            max_pixels={kind: max_pixels or budgets.get(kind, MAX_PIXELS) for kind in KINDS},
            page_text_tokens=sidecar.get("page_text_tokens", 0),
            query_text_tokens=sidecar.get("query_text_tokens", QUERY_TEXT_TOKENS),
            match_scale=match_scales(sidecar),
        )

    @classmethod
    def from_model(
        cls,
        model: Qwen2VLModel,
        tokenizer: Tokenizer,
        *,
        name: str = "unsaved",
        min_pixels: int = MIN_PIXELS,
        max_pixels: Mapping[Kind, int] | int = MAX_PIXELS,
        page_text_tokens: int = 0,
        query_text_tokens: int = QUERY_TEXT_TOKENS,
    ) -> Vlm2VecEmbedder:
        """An embedder over a model that is in no folder yet, as training makes it.

        Its `model_key` names no weights, so its vectors are not for storing: save it and load it first.
        """
        if isinstance(max_pixels, int):
            max_pixels = dict.fromkeys(KINDS, max_pixels)
        return cls(
            tokenizer,
            config=files.flat_config(model.config),
            model=model,
            name=name,
            digest="unsaved",
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            page_text_tokens=page_text_tokens,
            query_text_tokens=query_text_tokens,
        )

    def save(self, folder: str | Path, *, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write a checkpoint in the public layout, weights last; `load` and transformers open it."""
        self.save_without_weights(folder, dtype=dtype)
        files.write_tensors(Path(folder) / "model.safetensors", dict(self.model.named_parameters()), dtype)

    def save_without_weights(self, folder: str | Path, *, dtype: torch.dtype = torch.bfloat16) -> None:
        """Everything of a checkpoint but `model.safetensors`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = files.flat_config(self.model.config)
        config["torch_dtype"] = str(dtype).removeprefix("torch.")
        files.write_json(folder / "config.json", config)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        files.write_json(
            folder / "tokenizer_config.json",
            {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "left", "model_max_length": 32768},
        )
        files.write_json(
            folder / "preprocessor_config.json",
            {
                "image_processor_type": "Qwen2VLImageProcessor",
                "processor_class": "Qwen2VLProcessor",
                "min_pixels": self.min_pixels,
                "max_pixels": max(self.max_pixels.values()),
                "patch_size": PATCH,
                "temporal_patch_size": TEMPORAL,
                "merge_size": MERGE,
                "image_mean": CLIP_MEAN,
                "image_std": CLIP_STD,
            },
        )
        files.write_json(
            folder / files.SIDECAR,
            {
                "name": self.name,
                "min_pixels": self.min_pixels,
                "max_pixels": dict(self.max_pixels),
                "page_text_tokens": self.page_text_tokens,
                "query_text_tokens": self.query_text_tokens,
                "match_scale": self.match_scale,
            },
        )

    @property
    def model(self) -> Qwen2VLModel:
        """Without language head; its parameters are what training changes.

        Built when first needed, since importing transformers takes seconds that a text query need not wait for.
        """
        with self._building:
            if self._model is None:
                self._model = full_model(self._config, self._tensors)
                self._language_model = self._model.language_model
            return self._model

    @property
    def _device(self) -> torch.device:
        return self._language_model.embed_tokens.weight.device

    def _model_key(self, digest: str) -> str:
        decisive = {
            "checkpoint": digest,
            "instructions": DOCUMENT_INSTRUCTIONS,
            "preprocessing": PREPROCESSING_VERSION,
            "min_pixels": self.min_pixels,
            "max_pixels": self.max_pixels,
            "page_text_tokens": self.page_text_tokens,
        }
        short = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]
        name = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:32]
        return f"{name}-{short}" if name else short

    def encode_queries(self, inputs: Sequence[EmbedInput]) -> np.ndarray:
        """float32 [len(inputs), dim], unit length, finite, in the order given."""
        return self._encode(inputs, self.query_text_tokens)

    def encode_documents(self, inputs: Sequence[EmbedInput]) -> np.ndarray:
        """float32 [len(inputs), dim], unit length, finite, in the order given."""
        return self._encode(inputs, self.page_text_tokens)

    def _encode(self, inputs: Sequence[EmbedInput], text_tokens: int) -> np.ndarray:
        prompts = [
            final_prompt(
                item.instruction,
                first_tokens(self.tokenizer, item.text, text_tokens) if item.text else "",
                image_count=0 if item.is_video else len(item.images),
                is_video=item.is_video,
            )
            for item in inputs
        ]
        return self.embed_prompts(
            prompts,
            [list(item.images) or None for item in inputs],
            [item.is_video for item in inputs],
            max_pixels=[self.max_pixels[item.kind] for item in inputs],
        )

    def embed_prompts(
        self,
        prompts: Sequence[str],
        images: Sequence[Sequence[Image.Image] | None],
        is_video: Sequence[bool],
        *,
        max_pixels: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Embed final strings as they are.

        Args:
            prompts: complete, with one `<|image_pad|>` per image or one `<|video_pad|>`.
            images: per prompt its images in order, or the frames of its video, or None.
            is_video: whether those images are frames.
            max_pixels: per prompt; the model's own budget for images and clips if None.

        Returns:
            float32 [len(prompts), dim], unit length, in the order given.

        Raises:
            EmbedderError: more images than visual tokens; an output that is not finite.
        """
        vectors = np.empty((len(prompts), self.dim), np.float32)
        budgets = self._budgets(is_video) if max_pixels is None else max_pixels
        costs = [
            self._cost(prompt, visuals or (), video, budget)
            for prompt, visuals, video, budget in zip(prompts, images, is_video, budgets, strict=True)
        ]

        def prepare(rows: Sequence[int]) -> Batch:
            return self.prepare(
                [prompts[row] for row in rows],
                [images[row] for row in rows],
                [is_video[row] for row in rows],
                [budgets[row] for row in rows],
            )

        place = "cuda" if self._device.type == "cuda" else "small" if self._is_small else "cpu"
        batches = batches_by_cost(costs, POSITIONS_PER_BATCH[place])
        if place == "small":
            results = self._pool().map(lambda rows: self._embed(prepare, rows, prepare(rows)), batches)
        else:
            results = map(partial(self._embed, prepare), batches, made_ahead(prepare, batches))
        for rows, embeddings in zip(batches, results, strict=True):
            vectors[rows] = embeddings
        finite = np.isfinite(vectors).all(1)
        if not finite.all():
            index = int(np.flatnonzero(~finite)[0])
            raise EmbedderError(f"the model's output for input {index} is not finite")
        return vectors

    @torch.no_grad()
    def _embed(self, prepare: Callable[[Sequence[int]], Batch], rows: Sequence[int], batch: Batch) -> np.ndarray:
        """float32 [len(rows), dim]. What does not fit into the accelerator's memory is tried in halves."""
        try:
            return self.forward(batch).cpu().numpy()
        except torch.OutOfMemoryError as error:
            if len(rows) == 1:
                raise EmbedderError(f"input {rows[0]} does not fit into the memory of {self.device}") from error
        torch.cuda.empty_cache()
        logger.info("%d inputs do not fit into the memory of %s together; trying halves", len(rows), self.device)
        middle = len(rows) // 2
        return np.concatenate([self._embed(prepare, half, prepare(half)) for half in (rows[:middle], rows[middle:])])

    def _pool(self) -> ThreadPoolExecutor:
        """One thread per core, each computing alone.

        A small model's operations are too short to share between cores: the wait at the end of each costs more than it
        saves, and many times more while other processes (decoders) keep the cores busy.
        """
        with self._building:
            if self._workers is None:
                self._workers = single_core_threads(torch.get_num_threads())
            return self._workers

    def _cost(self, prompt: str, visuals: Sequence[Image.Image], is_video: bool, budget: int) -> tuple[int, int]:
        """Estimated (patches, tokens) of one input."""
        pixels = sum(min(max(image.width * image.height, self.min_pixels), budget) for image in visuals)
        patches = pixels // PATCH**2 // (TEMPORAL if is_video else 1)
        return patches, patches // MERGE**2 + len(prompt) // 4 + 1

    def _budgets(self, is_video: Sequence[bool]) -> list[int]:
        return [self.max_pixels["clip" if video else "image"] for video in is_video]

    def prepare(
        self,
        prompts: Sequence[str],
        images: Sequence[Sequence[Image.Image] | None],
        is_video: Sequence[bool],
        max_pixels: Sequence[int] | None = None,
    ) -> Batch:
        """Tokenise and cut into patches; CPU tensors only, so it may run in another thread or process.

        Arguments as for `embed_prompts`.
        """
        budgets = self._budgets(is_video) if max_pixels is None else max_pixels
        return self.preparation.batch(prompts, images, is_video, budgets)

    def forward(self, batch: Batch, features: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings [len(batch), dim]: float32, unit length, with gradients if enabled. Follows `torch.autocast`.

        Args:
            features: [len(batch.visual_index), hidden], the visual features where they are known already; `batch.pixels` is then not
                looked at.
        """
        batch = batch.to(self._device)
        if features is None and batch.grids:
            features = vision_features(self.model.visual, batch.pixel_values(), batch.grids)
        language_model = self._language_model if features is None else self.model.language_model
        tokens = language_model.embed_tokens(batch.input_ids)
        if features is not None:
            tokens = tokens.index_copy(0, batch.visual_index, features.to(tokens.dtype))
        return F.normalize(last_states(language_model, tokens, batch.lengths).float(), dim=-1)


def text_model(config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> LanguageModel:
    """The language model alone, over the given tensors."""
    prefix = "language_model."
    with torch.device("meta"):
        model = LanguageModel(files.text_fields(config))
    own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    files.fill(model, own)
    model.rotary_emb.to(tensors[EMBEDDING].device)
    return model.eval()


def full_model(config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Qwen2VLModel:
    """transformers' model of a configuration (flat or nested), over the given tensors."""
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

    try:
        parsed = Qwen2VLConfig(**{key: value for key, value in config.items() if key != "transformers_version"})
        with torch.device("meta"):
            model = Qwen2VLModel(parsed)
    except (TypeError, ValueError, KeyError) as error:
        raise EmbedderError(f"the configuration does not describe a Qwen2-VL model: {error}") from error
    # Rotary frequencies are computed, not stored: make them again outside the meta device.
    model.visual.rotary_pos_emb = type(model.visual.rotary_pos_emb)(parsed.vision_config)
    model.language_model.rotary_emb = type(model.language_model.rotary_emb)(parsed.text_config)
    files.fill(model, tensors)
    model.language_model.rotary_emb.to(tensors[EMBEDDING].device)
    model.visual.rotary_pos_emb.to(tensors[EMBEDDING].device)
    return model.eval()


def match_scales(sidecar: Mapping[str, Any]) -> dict[str, MatchScale]:
    """From the sidecar's `match_scale`. Raises: EmbedderError naming what is odd."""
    scales: dict[str, MatchScale] = {}
    for name, numbers in sidecar.get("match_scale", {}).items():
        if not isinstance(numbers, list) or len(numbers) != len(MatchScale._fields):
            raise EmbedderError(
                f"{files.SIDECAR}: match_scale of {name!r} is {numbers!r}, not [low, middle, reliability]"
            )
        scales[name] = MatchScale(*map(float, numbers))
    return scales


def default_device() -> str:
    """The GPU if torch has one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def default_dtype(device: str) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, else float32 (elsewhere it is emulated, a hundred times slower)."""
    if device.startswith("cuda"):
        is_native = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        is_native = device == "cpu" and any(check() for check in checks if check is not None)
    return torch.bfloat16 if is_native else torch.float32
