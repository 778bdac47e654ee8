"""VLM2Vec-V2: Qwen2-VL as an embedder. The last token's last hidden state, unit length.

No chat template, no end token, and plain one-dimensional positions for visual tokens too, as the reference was trained and
evaluated (shared/REFERENCE.md §0). Prompts in `mmsearch.prompts`, ids and pixels in `qwen2vl_inputs`, files in `checkpoint`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer

from mmsearch.embedders import checkpoint as files
from mmsearch.embedders.encoder import last_states, vision_features
from mmsearch.embedders.qwen2vl_inputs import (
    CLIP_MEAN,
    CLIP_STD,
    MAX_PIXELS,
    MERGE,
    MIN_PIXELS,
    PATCH,
    PATCH_VALUES,
    PREPROCESSING_VERSION,
    TEMPORAL,
    Batch,
    Grid,
    expand,
    first_tokens,
    patches_of,
    token_ids,
)  # fmt: skip
from mmsearch.errors import EmbedderError
from mmsearch.items import KINDS, EmbedInput, Kind
from mmsearch.prompts import DOCUMENT_INSTRUCTIONS, final_prompt

if TYPE_CHECKING:
    from transformers import Qwen2VLModel

logger = logging.getLogger(__name__)

QUERY_TEXT_TOKENS = 128
TOKENS_PER_BATCH = {"cpu": 4096, "cuda": 32768}


class Vlm2VecEmbedder:
    """An embedder over transformers' `Qwen2VLModel`; implements `mmsearch.embedders.Embedder`.

    Attributes:
        model: without language head; its parameters are what training changes.
        tokenizer: from tokenizer.json.
        min_pixels: pixels of one image or frame at least.
        page_text_tokens: tokens of a document's text that the model is given at most; 0: pixels only.
        query_text_tokens: the same for queries.
    """

    def __init__(
        self,
        model: Qwen2VLModel,
        tokenizer: Tokenizer,
        *,
        name: str,
        digest: str,
        min_pixels: int,
        max_pixels: Mapping[Kind, int],
        page_text_tokens: int,
        query_text_tokens: int,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.min_pixels = min_pixels
        self.max_pixels: Mapping[Kind, int] = dict(max_pixels)
        self.page_text_tokens = page_text_tokens
        self.query_text_tokens = query_text_tokens
        self.dim: int = model.config.text_config.hidden_size
        self.model_key = self._model_key(digest)

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
        torch_dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, None: default_dtype(device)}.get(dtype)
        if torch_dtype is None:
            raise EmbedderError(f"dtype {dtype!r} is not one of float32, bfloat16")
        found = files.find_checkpoint(name_or_folder)
        model = empty_model(found.json("config.json"))
        files.fill(model, files.model_tensors(found), torch_dtype, device)
        model.to(device).eval()
        sidecar = found.json(files.SIDECAR)
        budgets = sidecar.get("max_pixels", {})
        return cls(
            model,
            files.load_tokenizer(found),
            name=sidecar.get("name", found.name),
            digest=found.sha256(),
            min_pixels=min_pixels or sidecar.get("min_pixels", MIN_PIXELS),
            max_pixels={kind: max_pixels or budgets.get(kind, MAX_PIXELS) for kind in KINDS},
            page_text_tokens=sidecar.get("page_text_tokens", 0),
            query_text_tokens=sidecar.get("query_text_tokens", QUERY_TEXT_TOKENS),
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
            model,
            tokenizer,
            name=name,
            digest="unsaved",
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            page_text_tokens=page_text_tokens,
            query_text_tokens=query_text_tokens,
        )

    def save(self, folder: str | Path, *, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write a checkpoint in the public layout, weights last; `load` and transformers open it."""
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
            },
        )
        files.write_tensors(folder / "model.safetensors", dict(self.model.named_parameters()), dtype)

    @property
    def page_text(self) -> bool:
        return self.page_text_tokens > 0

    @property
    def device(self) -> str:
        return str(self.model.device)

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

    @torch.no_grad()
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
            len(prompt) // 3 + sum(min(i.width * i.height, budget) for i in visuals or ()) // 784
            for prompt, visuals, budget in zip(prompts, images, budgets, strict=True)
        ]
        for rows in batches_by_cost(costs, TOKENS_PER_BATCH["cuda" if self.device.startswith("cuda") else "cpu"]):
            batch = self.prepare(
                [prompts[i] for i in rows],
                [images[i] for i in rows],
                [is_video[i] for i in rows],
                [budgets[i] for i in rows],
            )
            vectors[rows] = self.forward(batch).cpu().numpy()
        finite = np.isfinite(vectors).all(1)
        if not finite.all():
            index = int(np.flatnonzero(~finite)[0])
            raise EmbedderError(f"the model's output for input {index} is not finite: {prompts[index][:80]!r}")
        return vectors

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
        ids: list[int] = []
        lengths: list[int] = []
        visual_index: list[int] = []
        patches: list[np.ndarray] = []
        grids: list[Grid] = []
        image_id, video_id = self.model.config.image_token_id, self.model.config.video_token_id
        for prompt, visuals, video, budget in zip(prompts, images, is_video, budgets, strict=True):
            shots = [list(visuals)] if video and visuals else [[image] for image in visuals or ()]
            counts = []
            for frames in shots:
                rows, grid = patches_of(frames, min_pixels=self.min_pixels, max_pixels=budget)
                patches.append(rows)
                grids.append(grid)
                counts.append(len(rows) // MERGE**2)
            found, positions = expand(token_ids(self.tokenizer, prompt), video_id if video else image_id, counts)
            if not found:
                raise EmbedderError("an empty prompt cannot be embedded")
            visual_index.extend(len(ids) + position for position in positions)
            ids.extend(found)
            lengths.append(len(found))
        pixels = np.concatenate(patches) if patches else np.empty((0, PATCH_VALUES), np.uint8)
        return Batch(
            torch.tensor(ids, dtype=torch.int64),
            tuple(lengths),
            torch.from_numpy(pixels),
            tuple(grids),
            torch.tensor(visual_index, dtype=torch.int64),
        )

    def forward(self, batch: Batch) -> torch.Tensor:
        """Embeddings [len(batch), dim]: float32, unit length, with gradients if enabled. Follows `torch.autocast`."""
        model = self.model
        batch = batch.to(model.device)
        tokens = model.language_model.embed_tokens(batch.input_ids)
        if batch.grids:
            features = vision_features(model.visual, batch.pixel_values(), batch.grids)
            tokens = tokens.index_copy(0, batch.visual_index, features.to(tokens.dtype))
        return F.normalize(last_states(model.language_model, tokens, batch.lengths).float(), dim=-1)


def batches_by_cost(costs: Sequence[int], budget: int) -> list[list[int]]:
    """Group indices of similar cost, so that a batch times its largest cost stays within `budget`."""
    batches: list[list[int]] = []
    for index in sorted(range(len(costs)), key=costs.__getitem__, reverse=True):
        if not batches or (len(batches[-1]) + 1) * max(1, costs[batches[-1][0]]) > budget:
            batches.append([])
        batches[-1].append(index)
    return batches


def empty_model(config: Mapping[str, Any]) -> Qwen2VLModel:
    """A `Qwen2VLModel` of that configuration (flat or nested) with its parameters on the meta device."""
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

    if config.get("model_type") != "qwen2_vl":
        raise EmbedderError(f"model type {config.get('model_type')!r} is not supported, only qwen2_vl")
    try:
        parsed = Qwen2VLConfig(**{key: value for key, value in config.items() if key != "transformers_version"})
        with torch.device("meta"):
            model = Qwen2VLModel(parsed)
    except (TypeError, ValueError, KeyError) as error:
        raise EmbedderError(f"the configuration does not describe a Qwen2-VL model: {error}") from error
    # The rotary frequencies are computed, not stored: make them again outside the meta device.
    model.visual.rotary_pos_emb = type(model.visual.rotary_pos_emb)(parsed.vision_config)
    model.language_model.rotary_emb = type(model.language_model.rotary_emb)(parsed.text_config)
    return model


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def default_dtype(device: str) -> torch.dtype:
    return torch.float32
