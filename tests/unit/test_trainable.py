"""What training asks of the compact model: final prompts split, batches, gradients, checkpoints; and what is refused."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mmsearch.embedders import Embedder, load_embedder
from mmsearch.embedders.checkpoints.checkpoint import find_checkpoint
from mmsearch.embedders.families.compact_vlm import CompactVlmEmbedder
from mmsearch.embedders.families.toy import ToyEmbedder
from mmsearch.embedders.families.vlm2vec import Vlm2VecEmbedder
from mmsearch.embedders.forward.compact_vlm_inputs import ReadyBatch
from mmsearch.embedders.trainable import joined, trainable, trainable_class
from mmsearch.errors import ConfigError, EmbedderError
from mmsearch.items import KINDS, EmbedInput, Kind
from mmsearch.prompts import (
    COMPOSED_QUERY_INSTRUCTIONS,
    DOCUMENT_INSTRUCTIONS,
    IMAGE_QUERY_INSTRUCTIONS,
    TEXT_QUERY_INSTRUCTIONS,
    final_prompt,
    mmeb_training_prompt,
    split_prompt,
    video_retrieval_training_prompts,
    visrag_training_prompts,
)
from mmsearch.training.data.step_inputs import open_material
from mmsearch.training.recipe import change_recipe, parse_recipe
from mmsearch.training.recipe.fields import Recipe
from mmsearch.training.run.export import export_run
from mmsearch.training.run.preflight import check_sources, estimate
from mmsearch.training.run.saved_state import load_state, states
from mmsearch.training.run.starting_model import start_model
from mmsearch.training.run.trainee import Qwen2VLTrainee, trainee_of
from mmsearch.training.train import train
from tests.tiny_models import picture, random_compact, tiny_compact
from tests.tiny_training import recipe_over, write_checkpoint, write_pairs

FRAMES = [picture(64, 64, n) for n in range(3)]
ROWS = [
    (final_prompt(TEXT_QUERY_INSTRUCTIONS["image"], "a red boat"), None, False),
    (final_prompt(DOCUMENT_INSTRUCTIONS["image"], image_count=1), [FRAMES[0]], False),
    (final_prompt(DOCUMENT_INSTRUCTIONS["page"], "Revenue by quarter", image_count=1), [picture(90, 120, 4)], False),
    (final_prompt(DOCUMENT_INSTRUCTIONS["clip"], is_video=True), FRAMES, True),
    (final_prompt("", "a boat", image_count=2), FRAMES[:2], False),
    ("words alone", None, False),
]
PROMPTS, IMAGES, IS_VIDEO = (list(column) for column in zip(*ROWS, strict=True))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_plot(monkeypatch) -> None:
    monkeypatch.setattr("mmsearch.training.train.plot_metrics", lambda run: None)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_checkpoint(folder / "checkpoint", "compact_vlm")
    write_pairs(folder / "pairs")
    return folder


def recipe(place: Path, **changes: object) -> Recipe:
    made = parse_recipe(recipe_over(place / "checkpoint", place / "pairs/pairs.jsonl", chunk_positions=400), "tiny")
    return change_recipe(made, {name.replace("__", "."): value for name, value in changes.items()})


# Prompts


@pytest.mark.parametrize(
    "instructions",
    [DOCUMENT_INSTRUCTIONS, TEXT_QUERY_INSTRUCTIONS, IMAGE_QUERY_INSTRUCTIONS, COMPOSED_QUERY_INSTRUCTIONS],
)
@pytest.mark.parametrize("text", ["", "two dogs", "Represent the given image."])
def test_a_final_prompt_is_split_into_what_it_was_made_of(instructions, text):
    for instruction in instructions.values():
        for shown in ({}, {"image_count": 1}, {"image_count": 3}, {"is_video": True}):
            assert split_prompt(final_prompt(instruction, text, **shown)) == (instruction, text)


@pytest.mark.parametrize(
    ("prompt", "instruction", "text"),
    [
        ("", "", ""),
        ("a dog", "", "a dog"),
        ("<|image_pad|> ", "", ""),
        ("Represent the given image", "", "Represent the given image"),
        ("Represent the given image.jpg", "", "Represent the given image.jpg"),
        ("My own instruction: a dog", "", "My own instruction: a dog"),
        (
            mmeb_training_prompt("<|image_1|>\nRepresent the given image with the following question: Which?\n"),
            "Represent the given image with the following question:",
            "Which?",
        ),
        (visrag_training_prompts("", "q")[1], "", ""),
        (video_retrieval_training_prompts("c")[1], "Understand the content of the provided video:", ""),
        (video_retrieval_training_prompts("c")[0], TEXT_QUERY_INSTRUCTIONS["clip"], "c"),
    ],
)
def test_the_longest_known_instruction_is_taken(prompt, instruction, text):
    assert split_prompt(prompt) == (instruction, text)


def test_visrags_instructions_are_known():
    asked, shown = visrag_training_prompts("ChartQA", "how many?")
    assert split_prompt(asked)[1] == "how many?" and split_prompt(asked)[0].startswith("This query is related")
    assert split_prompt(shown) == ("A statistical chart comparing values or analyzing trends.", "")


# Batches and gradients


def vectors_of_rows(embedder: Embedder) -> np.ndarray:
    """As ingestion and search embed them."""
    kinds: list[Kind] = ["clip" if video else "image" for video in IS_VIDEO]
    rows = zip(PROMPTS, IMAGES, IS_VIDEO, kinds, strict=True)
    inputs = [
        EmbedInput(*split_prompt(prompt), tuple(images or ()), video, kind) for prompt, images, video, kind in rows
    ]
    return np.asarray(embedder.encode_queries(inputs))


def test_prompts_are_embedded_as_their_inputs():
    """The oracle: what ingestion and search embed."""
    embedder = random_compact()
    with torch.no_grad():
        made = embedder.forward(embedder.prepare(PROMPTS, IMAGES, IS_VIDEO))
    np.testing.assert_allclose(made, vectors_of_rows(embedder), atol=1e-5)


def test_batches_are_taken_apart_and_put_together_again():
    embedder = random_compact()
    preparation = pickle.loads(pickle.dumps(embedder.preparation))
    batch = preparation.batch(PROMPTS, IMAGES, IS_VIDEO, [4096] * len(PROMPTS))
    rows = pickle.loads(pickle.dumps(batch)).separated()
    assert [len(row) for row in rows] == [1] * len(batch) and isinstance(joined(rows), ReadyBatch)
    assert joined(rows).to("cpu").cost == sum(row.cost for row in rows) == batch.cost
    assert batch.patches == 4 + 2 * 2 + 3 * 4 + 2 * 4 and batch.tokens == sum(len(one.ids) for one in batch)
    with torch.no_grad():
        torch.testing.assert_close(embedder.forward(joined(rows)), embedder.forward(batch))


def test_every_weight_but_the_token_table_learns(place):
    chosen = recipe(place)
    embedder, _ = start_model(chosen, open_material(chosen, None, place), "cpu")
    trainee = trainee_of(embedder, chosen)
    assert set(trainee.weights()) == {name for name, _ in embedder.model.named_parameters()}
    batch = embedder.prepare(PROMPTS, IMAGES, IS_VIDEO)
    weights = torch.randn(len(PROMPTS), embedder.dim, generator=torch.Generator().manual_seed(0))
    (trainee(batch) * weights).sum().backward()
    still = {name for name, weight in trainee.weights().items() if weight.grad is None or not weight.grad.any()}
    assert still == set()
    assert all(bool(weight.grad.isfinite().all()) for weight in trainee.weights().values())
    # Numerically, along the gradient. The encoder's holds what it tells of the instructions, too.
    for weight in (
        embedder.model.projector.weight,
        embedder.model.text.layers[0].up.weight,
        embedder.model.vision.stem.weight,
    ):
        direction, step = weight.grad / weight.grad.norm(), 1e-3
        values = []
        with torch.no_grad():
            for sign in (1, -1):
                weight.add_(direction, alpha=sign * step)
                values.append((trainee(batch) * weights).sum().item())
                weight.sub_(direction, alpha=sign * step)
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(weight.grad.norm().item(), rel=0.02)


def test_instructions_are_read_with_the_weights_as_they_are(place):
    chosen = recipe(place)
    embedder, _ = start_model(chosen, open_material(chosen, None, place), "cpu")
    trainee = trainee_of(embedder, chosen)
    item = EmbedInput(TEXT_QUERY_INSTRUCTIONS["image"], "a red boat")
    embedder.encode_queries([item])
    with torch.no_grad():
        embedder.model.text.layers[0].down.bias.add_(torch.linspace(-2, 2, embedder.model.hidden))
        trained = trainee(embedder.prepare(PROMPTS[:1], IMAGES[:1], IS_VIDEO[:1])).numpy()
    same = CompactVlmEmbedder(
        embedder.model, embedder.tokenizer, embedder.config, english_tokenizer=embedder.tokens.english
    )
    np.testing.assert_allclose(trained, same.encode_queries([item]), atol=1e-5)


def test_bfloat16_arithmetic(place):
    chosen = recipe(place, precision="bfloat16", vision_tower="frozen")
    embedder, _ = start_model(chosen, open_material(chosen, None, place), "cpu")
    trainee = trainee_of(embedder, chosen)
    embeddings = trainee(embedder.prepare(PROMPTS, IMAGES, IS_VIDEO))
    assert embeddings.dtype == torch.float32
    whole = vectors_of_rows(embedder)
    assert (embeddings.detach().numpy() * whole).sum(1).min() > 0.98
    embeddings.sum().backward()
    assert embedder.model.projector.weight.grad.dtype == torch.float32


# Checkpoints


def test_an_exported_checkpoint_embeds_as_the_model_in_training(place, tmp_path):
    chosen = recipe(place, stages__0__steps=3, stages__0__learning_rate=0.01)
    folder = train(chosen, tmp_path / "run", work=tmp_path)
    embedder, _ = start_model(chosen, open_material(chosen, None, tmp_path), "cpu")
    before = vectors_of_rows(embedder)
    state = load_state(states(tmp_path / "run")[-1]).model
    assert all(tensor.dtype == torch.float32 for tensor in state.values()) and "text.tokens.nibbles" not in state
    embedder.model.load_state_dict(state, strict=False)
    embedder.weights_changed()
    trained = vectors_of_rows(embedder)
    assert np.abs(trained - before).max() > 0.01
    whole = load_embedder(export_run(tmp_path / "run", tmp_path / "whole", dtype="float32"), dtype="float32")
    np.testing.assert_allclose(vectors_of_rows(whole), trained, atol=1e-5)
    rounded = load_embedder(folder, dtype="float32")
    assert (vectors_of_rows(rounded) * trained).sum(1).min() > 0.999
    assert (rounded.name, rounded.page_text_tokens, rounded.query_text_tokens) == ("tiny", 0, 128)
    assert set(rounded.max_pixels.values()) == {4096} and not rounded.match_scale
    card = (folder / "README.md").read_text()
    assert "compact_vlm" in card and "qwen2" not in card.lower() and "all weights trained" in card
    sizes = [(path / "model.safetensors").stat().st_size for path in (folder, tmp_path / "whole")]
    assert sizes[0] < 0.6 * sizes[1]


def test_the_family_decides_who_trains(place, tmp_path):
    qwen = write_checkpoint(tmp_path / "qwen")
    assert trainable_class(find_checkpoint(place / "checkpoint")) is CompactVlmEmbedder
    assert trainable_class(find_checkpoint(qwen)) is Vlm2VecEmbedder
    assert trainable(ToyEmbedder()) is None
    for folder in (place / "checkpoint", qwen):
        embedder = load_embedder(folder)
        assert trainable(embedder) is embedder
    embedder, _ = start_model(
        recipe(place, model={"from": str(qwen)}), open_material(recipe(place), None, place), "cpu"
    )
    assert isinstance(trainee_of(embedder, recipe(place)), Qwen2VLTrainee)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"adapter": {"rank": 2}}, "adapter"),
        ({"parallel": "fsdp"}, "parallel: fsdp"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing"),
        ({"vision_cache_gb": 1, "vision_tower": "frozen"}, "vision_cache_gb"),
    ],
)
def test_what_only_qwen2vl_has_is_refused_by_name(place, tmp_path, changes, named):
    with pytest.raises(ConfigError, match=f"is a compact_vlm model.*take {named} out of the recipe"):
        train(recipe(place, **changes), tmp_path / "run", work=tmp_path)


def test_weights_of_another_model_are_not_written(place, tmp_path):
    embedder = random_compact()
    embedder.save_without_weights(tmp_path)
    tensors = dict(embedder.model.state_dict())
    del tensors["gate.bias"]
    with pytest.raises(EmbedderError, match=r"1 tensors missing: gate\.bias"):
        embedder.write_weights(tmp_path, tensors, torch.bfloat16)


def test_a_recipe_is_checked_and_its_needs_estimated(place, tmp_path):
    (found,) = check_sources(recipe(place), None, tmp_path, sample=4)
    assert not found.bad and found.patches == 4 and found.tokens > 4
    needs = estimate(recipe(place), [found], device="cpu")
    counted = sum(weight.numel() for weight in random_compact().model.parameters())
    assert needs.parameters == needs.trained == counted and needs.seconds_per_step and needs.activations_bytes > 0
    frozen = estimate(recipe(place, vision_tower="frozen"), [found], device="cpu")
    assert 0 < frozen.trained < counted


def test_other_budgets_make_another_embedder_of_the_same_model(tmp_path):
    folder = tiny_compact(tmp_path / "model", sidecar={"match_scale": {"page": [0, 1, 1]}})
    embedder = load_embedder(folder)
    other = embedder.with_budgets(
        name="other", min_pixels=1, max_pixels=dict.fromkeys(KINDS, 2048), page_text_tokens=3, query_text_tokens=2
    )
    assert other.model is embedder.model and other.model_key.startswith("other-")
    assert (other.page_text_tokens, other.query_text_tokens) == (3, 2) and not other.match_scale
    assert embedder.match_scale and embedder.page_text_tokens == 192
