"""The embedder against numbers that the reference implementation wrote (../shared/parity; see its README)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from mmsearch.embedders.checkpoints.checkpoint import public_key_of
from mmsearch.embedders.families.vlm2vec import Vlm2VecEmbedder
from mmsearch.errors import EmbedderError

ROOT = Path(__file__).parents[2]
PARITY = next((p for p in (ROOT.parent / "shared/parity", ROOT / "shared/parity") if p.is_dir()), None)
if PARITY is None:
    pytest.skip("the recorded numbers (../shared/parity) are not on this machine", allow_module_level=True)

EXPECTED: dict[str, Any] = json.loads((PARITY / "expected.json").read_text())
ITEMS: list[dict[str, Any]] = EXPECTED["items"]
MODELS = {"tiny": "embedding", "adapter": "embedding_with_adapter"}


def load(folder: str, dtype: str = "float32") -> Vlm2VecEmbedder:
    bounds = {key: EXPECTED[key] for key in ("min_pixels", "max_pixels")}
    return Vlm2VecEmbedder.load(PARITY / folder, device="cpu", dtype=dtype, **bounds)


@pytest.fixture(scope="module", params=MODELS)
def model(request) -> tuple[Vlm2VecEmbedder, str]:
    return load(request.param), MODELS[request.param]


@pytest.fixture(scope="module")
def tiny() -> Vlm2VecEmbedder:
    return load("tiny")


def images_of(item: dict[str, Any]) -> list[Image.Image] | None:
    return [Image.open(PARITY / name).convert("RGB") for name in item["images"]] or None


def inputs_of(items: list[dict[str, Any]]) -> tuple[list[str], list[list[Image.Image] | None], list[bool]]:
    return [item["text"] for item in items], [images_of(item) for item in items], [item["is_video"] for item in items]


def recorded(items: list[dict[str, Any]], key: str) -> np.ndarray:
    return np.array([item[key] for item in items], np.float32)


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item["name"])
def test_ids_grids_and_pixels(tiny, item):
    batch = tiny.prepare(*inputs_of([item]))
    assert batch.input_ids.tolist() == item["input_ids"]
    grids = [list(grid) for grid in batch.grids]
    assert grids == (item["video_grid_thw"] if item["is_video"] else item["image_grid_thw"] or [])
    if item["pixel_shape"] is not None:
        values = batch.pixel_values()
        assert list(values.shape) == item["pixel_shape"]
        first = values.flatten()[: len(item["pixel_first_row"])]
        np.testing.assert_allclose(first, item["pixel_first_row"], atol=1e-5)
        assert values.mean().item() == pytest.approx(item["pixel_mean"], abs=1e-5)
        assert values.std(correction=0).item() == pytest.approx(item["pixel_std"], abs=1e-5)


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item["name"])
def test_embedding_alone(model, item):
    embedder, key = model
    np.testing.assert_allclose(embedder.embed_prompts(*inputs_of([item])), recorded([item], key), atol=1e-5)


@pytest.mark.parametrize("order", [range(10), range(9, -1, -1), (4, 0, 6, 9, 2, 8, 1, 5, 3, 7)], ids=str)
def test_embeddings_together_in_any_order(model, order):
    embedder, key = model
    items = [ITEMS[index] for index in order]
    np.testing.assert_allclose(embedder.embed_prompts(*inputs_of(items)), recorded(items, key), atol=1e-5)
    one_batch = embedder.forward(embedder.prepare(*inputs_of(items)))
    np.testing.assert_allclose(one_batch.detach(), recorded(items, key), atol=1e-5)


def test_adapter_changes_the_embeddings():
    """Otherwise an adapter that silently stays off would pass."""
    assert np.abs(recorded(ITEMS, "embedding") - recorded(ITEMS, "embedding_with_adapter")).max() > 0.05


def test_loss_and_gradients(tiny):
    by_name = {item["name"]: item for item in ITEMS}
    loss_facts = EXPECTED["loss"]
    tiny.model.zero_grad()
    sides = [
        tiny.forward(tiny.prepare(*inputs_of([by_name[name] for name in loss_facts[side]])))
        for side in ("queries", "targets")
    ]
    scores = sides[0] @ sides[1].T / EXPECTED["temperature"]
    loss = F.cross_entropy(scores, torch.arange(len(scores)))
    loss.backward()
    assert loss.item() == pytest.approx(loss_facts["value"], rel=1e-5)
    norms = {public_key_of(name): parameter.grad.norm().item() for name, parameter in tiny.model.named_parameters()}
    assert norms == pytest.approx(loss_facts["grad_norms"], rel=1e-3, abs=1e-5)
    total = sum(norm**2 for norm in norms.values()) ** 0.5
    assert total == pytest.approx(loss_facts["grad_norm"], rel=1e-3)
    tiny.model.zero_grad()


def test_bfloat16_stays_near(record_property):
    """Measured on real weights by tests/benchmarks/bfloat16.py; here only that it works."""
    inputs = inputs_of(ITEMS)
    cosines = (load("tiny", "bfloat16").embed_prompts(*inputs) * recorded(ITEMS, "embedding")).sum(1)
    record_property("bfloat16_cosine_min", float(cosines.min()))
    assert cosines.min() > 0.998


@pytest.fixture
def adapter_copy(tmp_path) -> Path:
    """An adapter folder that may be damaged, beside its base."""
    shutil.copytree(PARITY / "tiny", tmp_path / "tiny")
    shutil.copytree(PARITY / "adapter", tmp_path / "adapter")
    for path in tmp_path.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return tmp_path / "adapter"


@pytest.mark.parametrize("part", ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"])
def test_adapter_with_a_tensor_missing(adapter_copy, part):
    weights = adapter_copy / "adapter_model.safetensors"
    tensors = load_file(weights)
    del tensors[f"base_model.model.model.layers.1.self_attn.k_proj.{part}"]
    save_file(tensors, weights)
    with pytest.raises(EmbedderError, match="missing"):
        Vlm2VecEmbedder.load(adapter_copy)


def test_adapter_with_a_whole_module_missing(adapter_copy):
    weights = adapter_copy / "adapter_model.safetensors"
    save_file({key: tensor for key, tensor in load_file(weights).items() if ".2.mlp.up_proj." not in key}, weights)
    with pytest.raises(EmbedderError, match=r"missing.*layers\.2\.mlp\.up_proj"):
        Vlm2VecEmbedder.load(adapter_copy)


def test_adapter_for_another_model(adapter_copy):
    weights = adapter_copy / "adapter_model.safetensors"
    save_file({key.replace("layers.2", "layers.7"): tensor for key, tensor in load_file(weights).items()}, weights)
    with pytest.raises(EmbedderError, match=r"missing|unexpected"):
        Vlm2VecEmbedder.load(adapter_copy)


def test_adapter_with_an_unknown_option(adapter_copy):
    config = adapter_copy / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "modules_to_save": ["norm"]}))
    with pytest.raises(EmbedderError, match="modules_to_save"):
        Vlm2VecEmbedder.load(adapter_copy)


def test_adapter_in_the_new_key_layout(adapter_copy):
    weights = adapter_copy / "adapter_model.safetensors"
    new = {
        key.replace("model.model.layers", "model.model.language_model.layers"): t
        for key, t in load_file(weights).items()
    }
    save_file(new, weights)
    bounds = {key: EXPECTED[key] for key in ("min_pixels", "max_pixels")}
    vectors = Vlm2VecEmbedder.load(adapter_copy, dtype="float32", **bounds).embed_prompts(*inputs_of(ITEMS))
    np.testing.assert_allclose(vectors, recorded(ITEMS, "embedding_with_adapter"), atol=1e-5)


def test_vocabulary_files_in_place_of_tokenizer_json(adapter_copy):
    base = adapter_copy.parent / "tiny"
    (base / "tokenizer.json").unlink()
    batch = Vlm2VecEmbedder.load(base, max_pixels=EXPECTED["max_pixels"]).prepare(*inputs_of(ITEMS))
    assert [ids.tolist() for ids in batch.input_ids.split(batch.lengths)] == [item["input_ids"] for item in ITEMS]
