"""Recipes: what is not known is refused by name, what is published is there."""

from __future__ import annotations

from dataclasses import fields

import pytest

from mmsearch.errors import ConfigError
from mmsearch.training.datasets import PARSERS
from mmsearch.training.objective.loss import LossSettings
from mmsearch.training.recipe import change_recipe, load_recipe, parse_changes, parse_recipe, recipe_names
from mmsearch.training.recipe.fields import Loss
from mmsearch.training.run.session import loss_settings

SMALL = {
    "name": "small",
    "model": {"text": {"hidden_size": 64}, "vision": {"depth": 1}},
    "max_pixels": {"page": 3136, "image": 3136, "clip": 3136},
    "stages": [
        {"name": "see", "trains": "vision", "steps": 1, "learning_rate": 0.1, "mixture": {"text": {"batch": 4}}},
        {"name": "join", "steps": 1, "learning_rate": 0.1, "mixture": {"text": {"batch": 4}}},
    ],
}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_read_and_reads_alike_from_its_record(name):
    recipe = load_recipe(name)
    assert parse_recipe(recipe.record(), name) == recipe
    assert {source["parser"] for source in recipe.sources} <= set(PARSERS)


def test_the_published_recipe_has_the_published_values():
    recipe = load_recipe("vlm2vec_v2_qwen2vl_2b")
    (stage,) = recipe.stages
    assert (stage.steps, stage.learning_rate, stage.warmup, stage.schedule) == (5000, 5e-5, 100, "linear")
    assert stage.pairs is not None
    assert (stage.pairs.batch_size_global, stage.pairs.sub_batch_size) == (1024, 64)
    assert recipe.adapter is not None
    assert (recipe.adapter.rank, recipe.adapter.alpha, recipe.adapter.dora, recipe.adapter.dropout) == (
        16,
        32,
        True,
        0.1,
    )
    assert loss_settings(recipe) == LossSettings()  # one direction, temperature 0.02, no mask
    assert (recipe.min_pixels, set(recipe.max_pixels.values())) == (4 * 28**2, {1280 * 28**2})
    weights = {source["name"]: source["weight"] for source in recipe.sources}
    assert len(weights) == 25 and sum(weights.values()) == 52
    assert sum(weight for name, weight in weights.items() if name.startswith("video")) == 15
    assert weights["colpali_train_set"] + weights["visrag-indomain"] == 22


def test_the_loss_of_a_recipe_is_the_loss():
    """`recipe_fields` repeats the fields, since it must not import torch."""
    own = {name: field.default for name, field in Loss.model_fields.items()}
    assert {item.name: item.default for item in fields(LossSettings)}.items() <= own.items()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages.0.stepz": 1}, r"unknown field stages\.0\.stepz; did you mean steps\?"),
        ({"learning_rate": 1}, "unknown field learning_rate"),
        ({"stages.7.steps": 2}, "no '7'; give a number below 2"),
        ({"los.temperature": 1}, "no 'los'; did you mean loss"),
        ({"stages.0.mixture.text.batch": "many"}, r"stages\.0\.mixture\.text\.batch: .*integer"),
        ({"adapter": {"rnk": 3}}, r"unknown field adapter\.rnk; did you mean rank"),
        ({"adapter.rank": 3}, "adapter is not set"),
        ({"model.from": "x"}, "either `from`"),
        ({"vision_tower": "frozen"}, "trains the vision tower, which this recipe keeps frozen"),
        ({"max_pixels": {"page": 5}}, "needs page, image and clip"),
        ({"stages.1.pairs": {"batch_size_global": 10, "sub_batch_size": 4}}, "no multiple of sub_batch_size 4"),
        ({"stages.1.pairs": {"batch_size_global": 8, "sub_batch_size": 4}}, "the recipe has no `sources`"),
        ({"stages.0.mixture": {}}, "needs `mixture`"),
        ({"loss": {"batch_distillation_weight": 0.5}}, "a teacher's vectors of all targets"),
        (
            {"stages": [{**SMALL["stages"][1], "level_visual_tokens": True}]},
            "level_visual_tokens needs the group 'photo'",
        ),
        ({"stages": [{**SMALL["stages"][1], "kept_tokens": 0.5}]}, "kept_tokens is for stages that train vision"),
        ({"stages": [{**SMALL["stages"][1], "from_average": True}]}, "the recipe has no `average`"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_by_the_name_of_its_field(change, message):
    with pytest.raises(ConfigError, match=message):
        change_recipe(parse_recipe(SMALL, "small"), change)


def test_changes_are_yaml_by_path():
    changes = parse_changes(["loss.temperature=0.05", "stages.0.pairs=null", "stages.0.steps=7", "name=a b"])
    changed = change_recipe(parse_recipe(SMALL, "small"), changes)
    assert (changed.loss.temperature, changed.stages[0].steps, changed.name) == (0.05, 7, "a b")
    with pytest.raises(ConfigError, match="FIELD=VALUE"):
        parse_changes(["loss.temperature"])


def test_an_unknown_recipe_names_those_there_are(tmp_path):
    with pytest.raises(ConfigError, match="vlm2vec_v1, vlm2vec_v2_qwen2vl_2b"):
        load_recipe("vlm2vec_v3")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(ConfigError, match="no YAML"):
        load_recipe(broken)
