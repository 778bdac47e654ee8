"""VLM2Vec-V2: Qwen2-VL (or Qwen2.5-VL) as an embedder. The last token's last hidden state, unit length.

No chat template, no end token, and plain one-dimensional positions for visual tokens too, as the reference was trained and
evaluated. It takes instructions, several images, or one video. Prompts in `mmsearch.prompts`, ids and
pixels in `qwen2vl_inputs`, files in `checkpoints`, the forward pass in `packed` and `qwen_vl`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer

from mmsearch.embedders.checkpoints import checkpoint as files
from mmsearch.embedders.checkpoints.adapter_merging import model_tensors
from mmsearch.embedders.checkpoints.opening import Opened
from mmsearch.embedders.forward.backbones import check_names, flat_config
from mmsearch.embedders.forward.packed import PackedEmbedder, Side
from mmsearch.embedders.forward.qwen2vl_inputs import (
    CLIP_MEAN,
    CLIP_STD,
    MAX_PIXELS,
    MERGE,
    MIN_PIXELS,
    PATCH,
    TEMPORAL,
    first_tokens,
)
from mmsearch.items import KINDS, EmbedInput, Kind
from mmsearch.prompts import DOCUMENT_INSTRUCTIONS, final_prompt

QUERY_TEXT_TOKENS = 128


class Vlm2VecEmbedder(PackedEmbedder):
    """See `PackedEmbedder`.

    Attributes:
        family: as in `mmsearch.embedders.families.choice`; written into the sidecar, since the model type does not tell it.
        page_text_tokens: tokens of a document's text that the model is given at most; 0: pixels only.
        query_text_tokens: the same for queries.
    """

    family: ClassVar[str] = "vlm2vec"
    shares_visuals: ClassVar[bool] = True
    vision_weights: ClassVar[tuple[str, ...]] = ("visual.",)
    tower_weights: ClassVar[tuple[str, ...]] = ("visual.",)
    about: ClassVar[Mapping[str, Any]] = {
        "tags": ["mmsearch", "vlm2vec", "qwen2_vl"],
        "what": "A Qwen2-VL embedder in the manner of VLM2Vec-V2",
        "embedding": "the last token's last hidden state, unit length; compare by cosine.",
        "prompts": "no chat template and no end token; strings as in `mmsearch/prompts.py`.",
    }

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        page_text_tokens: int = 0,
        query_text_tokens: int = QUERY_TEXT_TOKENS,
        **options: Any,
    ) -> None:
        """Use `load` or `from_model`."""
        self.page_text_tokens = page_text_tokens
        self.query_text_tokens = query_text_tokens
        super().__init__(tokenizer, page_text=page_text_tokens > 0, **options)

    @classmethod
    def options(cls, opened: Opened) -> dict[str, Any]:
        return {
            "page_text_tokens": opened.sidecar.get("page_text_tokens", 0),
            "query_text_tokens": opened.sidecar.get("query_text_tokens", QUERY_TEXT_TOKENS),
        }

    def decisive(self) -> Mapping[str, Any]:
        return {"instructions": DOCUMENT_INSTRUCTIONS, "page_text_tokens": self.page_text_tokens}

    @classmethod
    def from_model(
        cls,
        model: Any,
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
            config=flat_config(model.config),
            model=model,
            name=name,
            digest="unsaved",
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            page_text_tokens=page_text_tokens,
            query_text_tokens=query_text_tokens,
        )

    def with_budgets(
        self,
        *,
        name: str,
        min_pixels: int,
        max_pixels: Mapping[Kind, int],
        page_text_tokens: int,
        query_text_tokens: int,
    ) -> Vlm2VecEmbedder:
        """The same model under another name; it looks and reads as told."""
        return Vlm2VecEmbedder.from_model(
            self.model,
            self.tokenizer,
            name=name,
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            page_text_tokens=page_text_tokens,
            query_text_tokens=query_text_tokens,
        )

    def weights_changed(self) -> None:
        """Nothing is kept from one input to the next."""

    @staticmethod
    def read_weights(checkpoint: files.Checkpoint) -> files.Tensors:
        """All tensors of a checkpoint under their names in `model`; its adapter merged."""
        return model_tensors(checkpoint)

    @staticmethod
    def write_weights(folder: Path, tensors: files.Tensors, dtype: torch.dtype) -> None:
        """`model.safetensors` beside the configuration that `save_without_weights` wrote."""
        check_names(tensors, files.read_json(folder / "config.json"))
        files.write_tensors(folder / "model.safetensors", tensors, dtype)

    def save(self, folder: str | Path, *, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write a checkpoint in the public layout, weights last; `load` and transformers open it."""
        self.save_without_weights(folder, dtype=dtype)
        files.write_tensors(Path(folder) / "model.safetensors", dict(self.model.named_parameters()), dtype)

    def save_without_weights(self, folder: str | Path, *, dtype: torch.dtype = torch.bfloat16) -> None:
        """Everything of a checkpoint but `model.safetensors`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = flat_config(self.model.config)
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
                "family": self.family,
                "name": self.name,
                "min_pixels": self.min_pixels,
                "max_pixels": dict(self.max_pixels),
                "page_text_tokens": self.page_text_tokens,
                "query_text_tokens": self.query_text_tokens,
                "match_scale": self.match_scale,
            },
        )

    def final_input(self, item: EmbedInput, side: Side) -> tuple[str, Sequence[Image.Image], bool]:
        most = self.query_text_tokens if side == "query" else self.page_text_tokens
        text = first_tokens(self.tokenizer, item.text, most) if item.text else ""
        count = 0 if item.is_video else len(item.images)
        return (
            final_prompt(item.instruction, text, image_count=count, is_video=item.is_video),
            item.images,
            item.is_video,
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
        return self._embed_all(prompts, images, is_video, self._budgets(is_video) if max_pixels is None else max_pixels)
