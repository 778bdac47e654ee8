"""Embedders over a packed forward pass: what VLM2Vec, GME, LamRA and Qwen3-VL-Embedding have in common.

A vector is the last token's last hidden state, unit length. A family gives its final prompts, and how its pictures are cut.
"""

from __future__ import annotations

import logging
import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer

from mmsearch.embedders.checkpoints import checkpoint as files
from mmsearch.embedders.checkpoints.adapter_merging import model_tensors
from mmsearch.embedders.checkpoints.opening import Opened, OpensCheckpoints, match_scales, model_key
from mmsearch.embedders.forward.backbones import BACKBONES, check_config, check_names, full_model, text_model
from mmsearch.embedders.forward.batching import batches_by_cost, made_ahead, single_core_threads
from mmsearch.embedders.forward.qwen2vl_inputs import (
    MAX_PIXELS,
    MERGE,
    MIN_PIXELS,
    PREPROCESSING_VERSION,
    Batch,
    Preparation,
)
from mmsearch.embedders.forward.qwen_vl import last_states, vision_features
from mmsearch.embedders.forward.shared_prefix import BranchedBatch, branch_states, branched_batch, rows_on_same_visuals
from mmsearch.errors import EmbedderError
from mmsearch.items import EmbedInput, Kind, MatchScale
from mmsearch.prompts import IMAGE_TOKEN, VIDEO_TOKEN

logger = logging.getLogger(__name__)

SMALL_MODEL_PARAMETERS = 200_000_000
POSITIONS_PER_BATCH = {"small": 1024, "cpu": 4096, "cuda": 65536}
"""Patches and tokens together. Small batches stay in a CPU's cache."""

Side = Literal["query", "document"]
Units = Sequence[Sequence[int]]
"""Rows that are embedded together; those of one unit share their pictures."""


class PackedEmbedder(OpensCheckpoints):
    """An embedder over transformers' `Qwen2VLModel` or a successor; implements `mmsearch.embedders.Embedder`.

    A family extends it: `final_input` is its template, `preparation_of` its way with pictures, `decisive` what of the two is stored.

    Attributes:
        model_types: that a checkpoint of the family may have.
        version: of the family's way with documents; raised whenever the same document would give other tokens or pixels.
        shares_visuals: whether several prompts given the same `images` object are embedded as branches of one trunk (see `shared_prefix`), which
            calls for one-dimensional positions.
        default_min_pixels, default_max_pixels: of one image or frame, where neither the caller nor the sidecar says.
        tokenizer: from tokenizer.json.
        preparation: how prompts and pictures become a `Batch`; needs no model.
        min_pixels: pixels of one image or frame at least.
    """

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl", "qwen2_5_vl")
    version: ClassVar[int] = 1
    default_min_pixels: ClassVar[int] = MIN_PIXELS
    default_max_pixels: ClassVar[int] = MAX_PIXELS
    shares_visuals: ClassVar[bool] = False

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        config: Mapping[str, Any],
        model: Any = None,
        tensors: Mapping[str, torch.Tensor] | None = None,
        name: str,
        digest: str,
        min_pixels: int,
        max_pixels: Mapping[Kind, int],
        page_text: bool = False,
        match_scale: Mapping[str, MatchScale] | None = None,
    ) -> None:
        """Use `load`. Either `model` or its `tensors` (all on one device) is given."""
        self.tokenizer = tokenizer
        self.name = name
        self.min_pixels = min_pixels
        self.max_pixels: Mapping[Kind, int] = dict(max_pixels)
        self.page_text = page_text
        self.match_scale: Mapping[str, MatchScale] = dict(match_scale or {})
        self.dim = int(files.text_fields(config)["hidden_size"])
        self.model_key = model_key(
            name,
            {
                "checkpoint": digest,
                "preprocessing": PREPROCESSING_VERSION,
                "min_pixels": self.min_pixels,
                "max_pixels": self.max_pixels,
                **self.decisive(),
            },
        )
        self._config = config
        self.preparation = self.preparation_of(int(config["image_token_id"]), int(config["video_token_id"]))
        self._tensors = tensors or {}
        self._model = model
        self._building = threading.Lock()
        self._language_model = model.language_model if model is not None else text_model(config, self._tensors)
        self.device = str(self._device)
        self._is_small = sum(p.numel() for p in self._language_model.parameters()) < SMALL_MODEL_PARAMETERS
        self._workers: ThreadPoolExecutor | None = None

    @classmethod
    def of_checkpoint(cls, opened: Opened, *, min_pixels: int | None, max_pixels: int | None) -> Self:
        found, config, sidecar = opened.checkpoint, opened.config, opened.sidecar
        if config.get("model_type") in BACKBONES and config["model_type"] not in cls.model_types:
            raise EmbedderError(
                f"{found.base} is a {config['model_type']} model, which {cls.__name__} does not run (it runs "
                f"{', '.join(cls.model_types)}); if another family should open it, choose it with --family or in its {files.SIDECAR}"
            )
        check_config(config)
        stored = model_tensors(found)
        check_names(stored, config)
        tensors = opened.placed(stored)
        tokenizer = files.load_tokenizer(found)
        for token, option in ((IMAGE_TOKEN, "image_token_id"), (VIDEO_TOKEN, "video_token_id")):
            if tokenizer.token_to_id(token) != config.get(option):
                known = tokenizer.token_to_id(token)
                raise EmbedderError(
                    f"the tokenizer's {token} is {known}, the configuration's {option} {config.get(option)}"
                )
        return cls(
            tokenizer,
            config=config,
            tensors=tensors,
            name=opened.name,
            digest=found.sha256(),
            min_pixels=min_pixels or sidecar.get("min_pixels", cls.default_min_pixels),
            max_pixels=opened.max_pixels(max_pixels, cls.default_max_pixels),
            match_scale=match_scales(sidecar),
            **cls.options(opened),
        )

    @classmethod
    def options(cls, opened: Opened) -> dict[str, Any]:
        """What of the sidecar a family's constructor takes beyond that."""
        return {"page_text": bool(opened.sidecar.get("page_text", False))}

    def decisive(self) -> Mapping[str, Any]:
        """What else decides a stored vector, for the model key: the documents' instructions, the template. JSON values."""
        samples = (EmbedInput("", "text"), EmbedInput("", "", (Image.new("RGB", (56, 56)),)))
        documents = [self.final_input(item, "document")[0] for item in samples]
        return {"documents": documents, "page_text": self.page_text, "version": self.version}

    def preparation_of(self, image_id: int, video_id: int) -> Preparation:
        """Called once, when all other attributes but those of the model are there."""
        return Preparation(self.tokenizer, image_id, video_id, self.min_pixels)

    @abstractmethod
    def final_input(self, item: EmbedInput, side: Side) -> tuple[str, Sequence[Image.Image], bool]:
        """The exact string that the model reads, its images (or frames), and whether they are frames."""

    @property
    def model(self) -> Any:
        """transformers' model without language head; its parameters are what training changes.

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

    def encode_queries(self, inputs: Sequence[EmbedInput]) -> np.ndarray:
        """float32 [len(inputs), dim], unit length, finite, in the order given."""
        return self._encode(inputs, "query")

    def encode_documents(self, inputs: Sequence[EmbedInput]) -> np.ndarray:
        """float32 [len(inputs), dim], unit length, finite, in the order given."""
        return self._encode(inputs, "document")

    def _encode(self, inputs: Sequence[EmbedInput], side: Side) -> np.ndarray:
        final = [self.final_input(item, side) for item in inputs]
        return self._embed_all(
            [prompt for prompt, _, _ in final],
            [list(images) or None for _, images, _ in final],
            [is_video for _, _, is_video in final],
            [self.max_pixels[item.kind] for item in inputs],
        )

    def _embed_all(
        self,
        prompts: Sequence[str],
        images: Sequence[Sequence[Image.Image] | None],
        is_video: Sequence[bool],
        budgets: Sequence[int],
    ) -> np.ndarray:
        """float32 [len(prompts), dim], unit length, in the order given.

        Raises:
            EmbedderError: more images than visual tokens; an output that is not finite.
        """
        vectors = np.empty((len(prompts), self.dim), np.float32)
        can_share = self.shares_visuals and self.preparation.max_tokens is None
        shared = rows_on_same_visuals(prompts, images, is_video, budgets) if can_share else []
        branched = {row for rows in shared for row in rows}
        alone = [[row] for row in range(len(prompts)) if row not in branched]

        def cost(rows: Sequence[int]) -> tuple[int, int]:
            first = rows[0]
            patches, tokens = self._cost(prompts[first], images[first] or (), is_video[first], budgets[first])
            return patches, tokens + sum(len(prompts[row]) // 4 + 1 for row in rows[1:])

        def prepare(units: Sequence[Sequence[int]]) -> Batch:
            firsts = [rows[0] for rows in units]
            visuals = [images[row] for row in firsts]
            videos, bounds = [is_video[row] for row in firsts], [budgets[row] for row in firsts]
            if firsts[0] in branched:
                own = [[prompts[row] for row in rows] for rows in units]
                return branched_batch(self.preparation, own, visuals, videos, bounds)
            return self.prepare([prompts[row] for row in firsts], visuals, videos, bounds)

        place = "cuda" if self._device.type == "cuda" else "small" if self._is_small else "cpu"
        batches = [
            [units[index] for index in batch]
            for units in (shared, alone)
            for batch in batches_by_cost([cost(rows) for rows in units], POSITIONS_PER_BATCH[place])
        ]
        if place == "small":
            results = self._pool().map(lambda units: self._embed(prepare, units, prepare(units)), batches)
        else:
            results = map(partial(self._embed, prepare), batches, made_ahead(prepare, batches))
        for units, embeddings in zip(batches, results, strict=True):
            vectors[[row for rows in units for row in rows]] = embeddings
        finite = np.isfinite(vectors).all(1)
        if not finite.all():
            index = int(np.flatnonzero(~finite)[0])
            raise EmbedderError(f"the model's output for input {index} is not finite")
        return vectors

    @torch.no_grad()
    def _embed(self, prepare: Callable[[Units], Batch], units: Units, batch: Batch) -> np.ndarray:
        """float32 [rows of all units, dim]. What does not fit into the accelerator's memory is tried in halves."""
        try:
            return self.forward(batch).cpu().numpy()
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                raise EmbedderError(f"input {units[0][0]} does not fit into the memory of {self.device}") from error
        torch.cuda.empty_cache()
        logger.info("%d inputs do not fit into the memory of %s together; trying halves", len(batch), self.device)
        return np.concatenate([self._embed(prepare, half, prepare(half)) for half in halved(units)])

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
        patches = self.preparation.patch_count(visuals, is_video=is_video, max_pixels=budget)
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

        Args:
            prompts: complete, with one `<|image_pad|>` per image or one `<|video_pad|>`.
            images: per prompt its images in order, or the frames of its video, or None.
            is_video: whether those images are frames.
            max_pixels: per prompt; the model's own budget for images and clips if None.
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
            features = vision_features(self.model.visual, self.pixel_values(batch), batch.grids)
        language_model = self._language_model if features is None else self.model.language_model
        tokens = language_model.embed_tokens(batch.input_ids)
        deep: tuple[torch.Tensor, ...] = ()
        if features is not None:
            merged, *deep_features = features.split(self.dim, -1)
            tokens, deep = tokens.index_copy(0, batch.visual_index, merged.to(tokens.dtype)), tuple(deep_features)
        if isinstance(batch, BranchedBatch):
            return F.normalize(branch_states(language_model, tokens, batch, deep=deep).float(), dim=-1)
        angles = self.angles(batch, language_model)
        last = last_states(
            language_model, tokens, batch.lengths, angles=angles, deep=deep, visual_index=batch.visual_index
        )
        return F.normalize(last.float(), dim=-1)

    def pixel_values(self, batch: Batch) -> torch.Tensor:
        """Normalised patches, float32 [patches, values]."""
        return batch.pixel_values()

    def angles(self, batch: Batch, language_model: Any) -> torch.Tensor | None:
        """Rotary angles float32 [tokens, head_dim / 2]; None for one-dimensional positions."""
        return None


def halved(units: Units) -> tuple[Units, Units]:
    """Two halves of them, or of the only one's rows."""
    if len(units) > 1:
        middle = len(units) // 2
        return units[:middle], units[middle:]
    (rows,) = units
    middle = len(rows) // 2
    return [rows[:middle]], [rows[middle:]]
