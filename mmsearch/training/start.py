"""What a run starts from: a checkpoint, the text teacher's token vectors, or chance."""

from __future__ import annotations

import random

import numpy as np
import torch

from mmsearch.embedders import checkpoint as files
from mmsearch.embedders.vlm2vec import Vlm2VecEmbedder
from mmsearch.errors import ConfigError
from mmsearch.training.draws import Material
from mmsearch.training.recipe_fields import Recipe


def start_model(
    recipe: Recipe, material: Material, device: str, *, will_be_filled: bool = False
) -> tuple[Vlm2VecEmbedder, str]:
    """The untrained model in float32 on `device`, and the digest of the checkpoint that it came from ("" for a new one).

    Args:
        will_be_filled: a state's weights come over it, so a new model needs no start of its own.

    A new model depends on the recipe's seed alone (and, with `initial: teacher`, on the material's words and photos).

    Raises: ModelNotFound, EmbedderError; ConfigError: no words to start from; MissingExtra: no teacher.
    """
    if recipe.model.checkpoint is not None:
        loaded = Vlm2VecEmbedder.load(recipe.model.checkpoint, device=device, dtype="float32")
        return with_budgets(loaded.model, loaded.tokenizer, recipe), files.find_checkpoint(
            recipe.model.checkpoint
        ).sha256()
    embedder = _new_model(recipe)
    if recipe.model.initial == "teacher" and not will_be_filled:
        _start_from_teacher(embedder, recipe, material)
    embedder.model.to(torch.device(device))  # type: ignore[arg-type]  # the wrapper hides the signature
    return with_budgets(embedder.model, embedder.tokenizer, recipe), ""


def with_budgets(model, tokenizer, recipe: Recipe) -> Vlm2VecEmbedder:
    """An embedder over `model` that looks and reads as the recipe says."""
    return Vlm2VecEmbedder.from_model(
        model,
        tokenizer,
        name=recipe.name,
        min_pixels=recipe.min_pixels,
        max_pixels=dict(recipe.max_pixels),
        page_text_tokens=recipe.page_text_tokens,
        query_text_tokens=recipe.query_text_tokens,
    )


def _new_model(recipe: Recipe) -> Vlm2VecEmbedder:
    from transformers import Qwen2VLConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

    from mmsearch.training.initial import build_tokenizer, model_config

    if recipe.model.tokenizer is None:
        tokenizer = build_tokenizer()
    else:
        tokenizer = files.load_tokenizer(files.find_checkpoint(recipe.model.tokenizer))
    config = Qwen2VLConfig(**model_config(tokenizer, recipe.model.text, recipe.model.vision))
    config._attn_implementation = "sdpa"
    torch.manual_seed(recipe.seed)
    return with_budgets(Qwen2VLModel(config), tokenizer, recipe)


def _start_from_teacher(embedder: Vlm2VecEmbedder, recipe: Recipe, material: Material) -> None:
    from mmsearch.training.initial import start_from_teacher, start_vision_from_patches, start_vision_locally

    words = getattr(material.groups.get("text"), "texts", None)
    if words is None or material.teacher is None:
        raise ConfigError(
            "model.initial: teacher needs the group 'text' in a stage's mixture: the model starts from its words"
        )
    start_from_teacher(embedder.model, embedder.tokenizer, material.teacher, list(words), material.basis)
    start_vision_locally(embedder.model, seed=recipe.seed)
    if photos := material.groups.get("photo"):
        sizes = next(stage.sizes for stage in recipe.stages if "photo" in stage.mixture)
        part = photos.draw(400, random.Random(recipe.seed), sizes)
        patches = embedder.prepare(part.prompts, part.images, part.is_video).pixel_values().float().numpy()
        start_vision_from_patches(embedder.model, np.asarray(patches))
