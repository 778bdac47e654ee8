"""What a run starts from: a checkpoint, the text teacher's token vectors, or chance."""

from __future__ import annotations

import random

import numpy as np
import torch

from mmsearch.embedders.checkpoints import checkpoint as files
from mmsearch.embedders.families.vlm2vec import Vlm2VecEmbedder
from mmsearch.embedders.trainable import Trainable, trainable_class
from mmsearch.errors import ConfigError
from mmsearch.training.data.step_inputs import Material
from mmsearch.training.recipe.fields import Recipe


def start_model(
    recipe: Recipe, material: Material, device: str, *, will_be_filled: bool = False
) -> tuple[Trainable, str]:
    """The untrained model in float32 on `device`, and the digest of the checkpoint that it came from ("" for a new one).

    Args:
        will_be_filled: a state's weights come over it, so a new model needs no start of its own.

    A new model depends on the recipe's seed alone (and, with `initial: teacher`, on the material's words and photos).

    Raises: ModelNotFound, EmbedderError; ConfigError: no words to start from, or a setting that the model's family has not;
        MissingExtra: no teacher.
    """
    if recipe.model.checkpoint is not None:
        found = files.find_checkpoint(recipe.model.checkpoint)
        opener = trainable_class(found)
        if not issubclass(opener, Vlm2VecEmbedder):
            refuse_qwen2vl_settings(recipe, opener.family)
        return with_budgets(
            opener.load(recipe.model.checkpoint, device=device, dtype="float32"), recipe
        ), found.sha256()
    embedder = _new_model(recipe)
    if recipe.model.initial == "teacher" and not will_be_filled:
        _start_from_teacher(embedder, recipe, material)
    embedder.model.to(torch.device(device))  # type: ignore[arg-type]  # the wrapper hides the signature
    return with_budgets(embedder, recipe), ""


def refuse_qwen2vl_settings(recipe: Recipe, family: str) -> None:
    """Raises: ConfigError: the recipe asks for what only Qwen2-VL's engine does, which names it."""
    settings = {
        "adapter": recipe.adapter is not None,
        "parallel: fsdp": recipe.parallel == "fsdp",
        "gradient_checkpointing": recipe.gradient_checkpointing,
        "vision_cache_gb": bool(recipe.vision_cache_gb),
        "kept_tokens": any(stage.kept_tokens < 1 for stage in recipe.stages),
        "level_visual_tokens": any(stage.level_visual_tokens for stage in recipe.stages),
    }
    if wanted := [name for name, is_set in settings.items() if is_set]:
        raise ConfigError(
            f"{recipe.model.checkpoint} is a {family} model, which is trained whole on every device: take "
            f"{', '.join(wanted)} out of the recipe; Qwen2-VL models alone have that"
        )


def with_budgets(embedder: Trainable, recipe: Recipe) -> Trainable:
    """The model looks and reads as the recipe says."""
    return embedder.with_budgets(
        name=recipe.name,
        min_pixels=recipe.min_pixels,
        max_pixels=dict(recipe.max_pixels),
        page_text_tokens=recipe.page_text_tokens,
        query_text_tokens=recipe.query_text_tokens,
    )


def _new_model(recipe: Recipe) -> Vlm2VecEmbedder:
    from transformers import Qwen2VLConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

    from mmsearch.training.run.untrained_qwen2vl import build_tokenizer, model_config

    if recipe.model.tokenizer is None:
        tokenizer = build_tokenizer()
    else:
        tokenizer = files.load_tokenizer(files.find_checkpoint(recipe.model.tokenizer))
    config = Qwen2VLConfig(**model_config(tokenizer, recipe.model.text, recipe.model.vision))
    config._attn_implementation = "sdpa"
    torch.manual_seed(recipe.seed)
    embedder = with_budgets(Vlm2VecEmbedder.from_model(Qwen2VLModel(config), tokenizer), recipe)
    assert isinstance(embedder, Vlm2VecEmbedder)
    return embedder


def _start_from_teacher(embedder: Vlm2VecEmbedder, recipe: Recipe, material: Material) -> None:
    from mmsearch.training.run.untrained_qwen2vl import (
        start_from_teacher,
        start_vision_from_patches,
        start_vision_locally,
    )

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
