"""Vision-language models as embedders on tiny random checkpoints, against transformers' own forward pass, tiles and ids."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from mmsearch.embedders import Embedder, load_embedder
from mmsearch.errors import EmbedderError
from mmsearch.items import EmbedInput
from mmsearch.prompts import DOCUMENT_INSTRUCTIONS
from tests.tiny_models import byte_tokenizer, picture, randomise, write_checkpoint

LLAMA = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 4096, "bos_token_id": None, "eos_token_id": None,
    "pad_token_id": None,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 32, "patch_size": 8,
}  # fmt: skip
IDEFICS_TOKENS = [
    "<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)),
]  # fmt: skip


def tiny_idefics3(folder: Path, model_type: str = "idefics3") -> Path:
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
    )

    tokenizer = byte_tokenizer(IDEFICS_TOKENS)
    made, of = (
        (Idefics3Config, Idefics3ForConditionalGeneration)
        if model_type == "idefics3"
        else (SmolVLMConfig, SmolVLMForConditionalGeneration)
    )
    config = made(
        text_config=LLAMA,
        vision_config=VISION,
        image_token_id=tokenizer.token_to_id("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    fields = {
        "size": {"longest_edge": 96},
        "max_image_size": {"longest_edge": 32},
        "resample": 1,
        "do_image_splitting": True,
    }
    return write_checkpoint(folder, randomise(of(config), scale=0.1), tokenizer, preprocessor=fields)


def tiny_llava_next(folder: Path, *, old_names: bool = True) -> Path:
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

    tokenizer = byte_tokenizer(["<s>", "<image>"], template="<s> $A")
    config = LlavaNextConfig(
        text_config=LLAMA | {"model_type": "mistral", "sliding_window": None},
        vision_config=VISION | {"model_type": "clip_vision_model", "projection_dim": 16},
        image_token_index=tokenizer.token_to_id("<image>"),
        image_grid_pinpoints=[[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]],
    )
    fields = {
        "size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "resample": 3,
        "image_grid_pinpoints": config.image_grid_pinpoints,
    }  # fmt: skip
    write_checkpoint(
        folder, randomise(LlavaNextForConditionalGeneration(config), scale=0.1), tokenizer, preprocessor=fields
    )
    rename_tensors(folder, llava_public_name if old_names else llava_new_name)
    return folder


def llava_new_name(key: str) -> str:
    """As transformers 4.52 and later store it."""
    if key.startswith(("model.", "lm_head.")):
        return key
    if key.startswith("language_model.lm_head"):
        return key.removeprefix("language_model.")
    return "model." + key.replace("language_model.model.", "language_model.", 1)


def llava_public_name(key: str) -> str:
    """As llava-hf/llava-v1.6-* and TIGER-Lab/VLM2Vec-LLaVa-Next store it."""
    key = llava_new_name(key)
    if key.startswith("lm_head."):
        return f"language_model.{key}"
    key = key.removeprefix("model.").replace("language_model.", "language_model.model.", 1)
    return key if "vision_model" in key else key.replace("vision_tower.", "vision_tower.vision_model.", 1)


def rename_tensors(folder: Path, name: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name(key): value for key, value in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"}
    )


PHI_TEXT = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "hidden_act": "silu", "max_position_embeddings": 512, "original_max_position_embeddings": 128,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 1024,
    "rope_scaling": {"type": "su", "short_factor": [1.0, 1.1, 1.2, 1.5], "long_factor": [1.0, 2.0, 4.0, 8.0]},
}  # fmt: skip
PHI_VISION = {"hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8}


def phi3v_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of microsoft/Phi-3.5-vision-instruct, at a tiny size."""
    wide, inner, joined = PHI_VISION["hidden_size"], PHI_VISION["intermediate_size"], 4 * PHI_VISION["hidden_size"]
    vision = "model.vision_embed_tokens."
    tower = f"{vision}img_processor.vision_model."
    shapes: dict[str, tuple[int, ...]] = {
        "lm_head.weight": (300, 32), "model.embed_tokens.weight": (300, 32), "model.norm.weight": (32,),
        f"{vision}sub_GN": (1, 1, 1, joined), f"{vision}glb_GN": (1, 1, joined),
        f"{vision}img_projection.0.weight": (32, joined), f"{vision}img_projection.0.bias": (32,),
        f"{vision}img_projection.2.weight": (32, 32), f"{vision}img_projection.2.bias": (32,),
        f"{tower}embeddings.class_embedding": (wide,), f"{tower}embeddings.patch_embedding.weight": (wide, 3, 8, 8),
        f"{tower}embeddings.position_embedding.weight": (17, wide),
    }  # fmt: skip
    for norm in (
        "pre_layrnorm",
        "post_layernorm",
        *(f"encoder.layers.{n}.layer_norm{m}" for n in range(3) for m in (1, 2)),
    ):
        shapes |= {f"{tower}{norm}.{part}": (wide,) for part in ("weight", "bias")}
    for n in range(3):
        own = f"{tower}encoder.layers.{n}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {f"{own}self_attn.{name}.weight": (wide, wide), f"{own}self_attn.{name}.bias": (wide,)}
        shapes |= {f"{own}mlp.fc1.weight": (inner, wide), f"{own}mlp.fc1.bias": (inner,)}
        shapes |= {f"{own}mlp.fc2.weight": (wide, inner), f"{own}mlp.fc2.bias": (wide,)}
    for n in range(2):
        own = f"model.layers.{n}."
        shapes |= {
            f"{own}input_layernorm.weight": (32,), f"{own}post_attention_layernorm.weight": (32,),
            f"{own}self_attn.qkv_proj.weight": (64, 32), f"{own}self_attn.o_proj.weight": (32, 32),
            f"{own}mlp.gate_up_proj.weight": (96, 32), f"{own}mlp.down_proj.weight": (32, 48),
        }  # fmt: skip
    return shapes


def tiny_phi3v(folder: Path) -> Path:
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(5)
    tensors = {
        name: torch.randn(shape, generator=generator) * 0.1
        + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        for name, shape in sorted(phi3v_shapes().items())
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    embedding = {"embedding_cls": "image", "hd_transform_order": "sub_glb", "projection_cls": "mlp"}
    config = {"model_type": "phi3_v", "embd_layer": embedding, **PHI_TEXT}
    (folder / "config.json").write_text(json.dumps(config))
    byte_tokenizer(["<s>"], template="<s> $A").save(str(folder / "tokenizer.json"))
    (folder / "preprocessor_config.json").write_text(json.dumps({"num_crops": 4}))
    return folder


def tiny_llava_next_with_squares(folder: Path, square_px: int | None = 96) -> Path:
    tiny_llava_next(folder)
    (folder / "mmsearch.json").write_text(json.dumps({"square_px": square_px}))
    return folder


MAKERS = {
    "idefics3": tiny_idefics3,
    "smolvlm": lambda folder: tiny_idefics3(folder, "smolvlm"),
    "llava_next": tiny_llava_next_with_squares,
    "llava_next_any_shape": lambda folder: tiny_llava_next_with_squares(folder, None),
    "phi3v": tiny_phi3v,
}
V1 = ("llava_next", "llava_next_any_shape", "phi3v")
IMAGES = [picture(90, 41), picture(40, 95, 1), picture(64, 60, 2), picture(20, 20, 3)]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=MAKERS)
def opened(request, tmp_path_factory) -> Any:
    folder = MAKERS[request.param](tmp_path_factory.mktemp(request.param) / "model")
    embedder = load_embedder(folder, device="cpu", dtype="float32")
    embedder.folder, embedder.family = folder, request.param
    return embedder


def idefics3_inputs(embedder: Any, text: str, images: list[Image.Image], tile_only: bool) -> dict[str, torch.Tensor]:
    """What transformers' processor makes, put together from its parts (the whole of it calls for torchvision)."""
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

    if not images:
        return {"input_ids": torch.tensor([embedder.tokenizer.encode(text).ids])}
    processor = Idefics3ImageProcessorPil(
        size={"longest_edge": 32 if tile_only else 96}, max_image_size={"longest_edge": 32}, return_row_col_info=True
    )
    made = processor([images], return_tensors="pt")
    around = ("<fake_token_around_image>", "<image>", "<global-img>")
    for rows, columns in zip(made["rows"][0], made["cols"][0], strict=True):
        text = text.replace("<image>", get_image_prompt_string(rows, columns, 4, *around).replace("<image>", "¤"), 1)
    ids = embedder.tokenizer.encode(text.replace("¤", "<image>")).ids
    return {
        "input_ids": torch.tensor([ids]),
        "pixel_values": made["pixel_values"],
        "pixel_attention_mask": made["pixel_attention_mask"],
    }


def llava_inputs(embedder: Any, text: str, images: list[Image.Image], tile_only: bool) -> dict[str, torch.Tensor]:
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
    from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

    if not images:
        return {"input_ids": torch.tensor([embedder.tokenizer.encode(text).ids])}
    assert not tile_only
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_grid_pinpoints=[list(f[::-1]) for f in embedder.formats],
    )
    if embedder.square_px is not None:
        images = [image.resize((embedder.square_px,) * 2) for image in images]
    made = processor(images, return_tensors="pt")
    counter = LlavaNextProcessor.__new__(LlavaNextProcessor)
    counter.image_processor, counter.patch_size, counter.num_additional_image_tokens = processor, 8, 0
    for image in images:
        count = counter._get_number_of_features(image.height, image.width, 32, 32)
        text = text.replace("<image>", "¤" * count, 1)
    ids = embedder.tokenizer.encode(text.replace("¤", "<image>")).ids
    return {"input_ids": torch.tensor([ids]), "pixel_values": made["pixel_values"], "image_sizes": made["image_sizes"]}


@torch.no_grad()
def oracle(embedder: Any, text: str, images: list[Image.Image], *, tile_only: bool = False) -> np.ndarray:
    """transformers' whole model on one input."""
    name = type(embedder.model).__name__
    inputs = (llava_inputs if name == "LlavaNextModel" else idefics3_inputs)(embedder, text, images, tile_only)
    return F.normalize(embedder.model(**inputs).last_hidden_state[0, -1], dim=-1).numpy()


def embed(embedder: Any, prompts: list[str], images: list[list[Image.Image]], **options: Any) -> np.ndarray:
    return embedder.embed_prompts(prompts, [own or None for own in images], [False] * len(prompts), **options)


PROMPTS = ["a boat", "long " * 40, *(f"<image>\nWhat is {n}?\n" for n in range(4)), "x <image> and <image> differ"]
PICTURES = [[], [], *([image] for image in IMAGES), IMAGES[:2]]


@pytest.mark.parametrize("opened", ["idefics3", "smolvlm", "llava_next", "llava_next_any_shape"], indirect=True)
def test_as_transformers_embeds(opened):
    ours = embed(opened, PROMPTS, PICTURES)
    theirs = [oracle(opened, prompt, own) for prompt, own in zip(PROMPTS, PICTURES, strict=True)]
    np.testing.assert_allclose(ours, np.stack(theirs), atol=1e-5)
    assert isinstance(opened, Embedder) and ours.shape == (7, opened.dim)
    assert np.abs(ours[2] - ours[3]).max() > 1e-3


PUBLISHED_PHI3V = [
    [-0.241792, 0.173380, -0.336915, 0.210150],
    [-0.099045, 0.238783, -0.111337, -0.206035],  # 201 tokens: the long rotary frequencies
    [-0.013646, 0.289208, 0.086045, 0.052476],
    [0.020723, 0.102948, 0.094602, 0.083835],
    [-0.057779, 0.337301, 0.136083, -0.009145],
    [0.241246, -0.017460, -0.091838, 0.117591],
    [0.205179, -0.050239, 0.417264, 0.002836],
]
"""The first four numbers that the published code gave on 2026-11-21 for PROMPTS and PICTURES (`<|image_1|>`, `<|image_2|>` for `<image>`)
on the checkpoint of `tiny_phi3v`: TIGER-AI-Lab/VLM2Vec@1543cb4 `src/vlm_backbone/phi3_v/{image_embedding,modeling}_phi3_v.py` and
microsoft/Phi-3.5-vision-instruct's image processor, `num_crops=4`, run outside this repository with three changes: its constants (336
pixels, 24x24 patches, 1024 wide) made those of the tiny tower, torchvision's PIL calls replaced by the calls of PIL behind them,
caches and flash attention left out. All 32 numbers of every row agreed to 2e-7."""
PUBLISHED_CROPS = {
    1: [0.025599, 0.231412, 0.065248, -0.022086],
    2: [-0.013646, 0.289208, 0.086045, 0.052476],
    16: [-0.080585, 0.355925, 0.277724, 0.016427],
}
"""The same for PROMPTS[2] with so many crops."""


@pytest.mark.parametrize("opened", ["phi3v"], indirect=True)
def test_phi3v_as_published(opened):
    vectors = embed(opened, [prompt.replace("<image>", "<|image_1|>") for prompt in PROMPTS], PICTURES)
    np.testing.assert_allclose(vectors[:, :4], PUBLISHED_PHI3V, atol=2e-6)
    for crops, expected in PUBLISHED_CROPS.items():
        vector = embed(opened, ["<|image_1|>\nWhat is 0?\n"], [[IMAGES[0]]], max_pixels=[crops * 32 * 32])[0]
        np.testing.assert_allclose(vector[:4], expected, atol=2e-6)


@pytest.mark.parametrize("opened", ["phi3v"], indirect=True)
def test_phi3v_ids_as_published(opened):
    """Pieces are tokenised apart, each begins again; a picture of 2x1 tiles has 2x2 features a tile and row ends."""
    row = opened.row("<|image_1|>\nA", [picture(60, 30)], False, 2 * 32 * 32)
    begin, newline, letter = (opened.tokenizer.token_to_id(token) for token in ("<s>", "Ċ", "A"))
    count = (2 * 1 + 1) * 4 + 1 + (1 + 1) * 2
    assert row.ids == [begin, *[0] * count, begin, newline, letter]
    assert row.places == list(range(1, 1 + count))


CANONICAL = {
    "idefics3": [-0.015068, -0.036927, -0.248605, -0.195545],
    "smolvlm": [-0.015068, -0.036927, -0.248605, -0.195545],
    "llava_next_any_shape": [0.295313, 0.185775, 0.124237, 0.108414],
    "llava_next": [0.300816, 0.206491, 0.131526, 0.114855],
    "phi3v": [-0.125362, 0.207267, 0.000356, 0.086472],
}
"""The first four numbers of IMAGES[0] as a document of the application."""


def test_canonical_numbers(opened):
    item = EmbedInput(DOCUMENT_INSTRUCTIONS["image"], "", (IMAGES[0],))
    np.testing.assert_allclose(opened.encode_documents([item])[0, :4], CANONICAL[opened.family], atol=2e-5)


def test_placeholders_of_the_benchmark_become_the_models_own(opened):
    own = opened.image_token
    exact = embed(opened, [f"{own}\nA", f"{own} {own} A"], [[IMAGES[0]], IMAGES[:2]])
    given = embed(opened, ["<|image_pad|>\nA", "<|image_pad|> <|image_pad|> A"], [[IMAGES[0]], IMAGES[:2]])
    np.testing.assert_array_equal(given, exact)


def test_a_placeholder_without_a_picture_is_a_token_like_others(opened):
    """WebQA's queries have one; the model must neither stop nor leave it out."""
    stray, without = embed(opened, ["<|image_pad|>\nWhat?", "\nWhat?"], [[], []])
    assert np.abs(stray - without).max() > 1e-3
    with pytest.raises(EmbedderError, match="2 visuals but only 1"):
        embed(opened, ["<|image_pad|> A"], [IMAGES[:2]])


def test_frames_are_one_tile_each(opened):
    clip = EmbedInput("What?", "", tuple(IMAGES[:2]), True, "clip")
    one_tile = embed(opened, [f"{opened.image_token * 2} What?"], [IMAGES[:2]], max_pixels=[opened.tile_px**2])
    np.testing.assert_allclose(opened.encode_documents([clip]), one_tile, atol=1e-6)
    as_query_for_pages = EmbedInput("What?", "", tuple(IMAGES[:2]), True, "page")
    np.testing.assert_allclose(opened.encode_queries([as_query_for_pages]), one_tile, atol=1e-6)
    assert opened.max_pixels["clip"] == opened.tile_px**2 < opened.max_pixels["page"]
    if opened.family in ("idefics3", "smolvlm"):
        theirs = oracle(opened, "<image><image> What?", IMAGES[:2], tile_only=True)
    elif opened.family != "phi3v":
        theirs = llava_single_tiles(opened, "<image><image> What?", IMAGES[:2])
    else:
        return  # PUBLISHED_CROPS[1]
    np.testing.assert_allclose(one_tile[0], theirs, atol=1e-5)


@torch.no_grad()
def llava_single_tiles(embedder: Any, text: str, images: list[Image.Image]) -> np.ndarray:
    """transformers packs a picture of one tile too, but its processor makes none: its parts by hand."""
    model = embedder.model
    images = [image.resize((embedder.square_px,) * 2) if embedder.square_px else image for image in images]
    pixels = torch.stack(
        [torch.tensor(np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC))) for image in images]
    )
    mean, std = (torch.tensor(numbers) for numbers in (embedder.mean, embedder.std))
    values = ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)
    seen = model.multi_modal_projector(model.vision_tower(values, output_hidden_states=True).hidden_states[-2][:, 1:])
    packed, counts = model.pack_image_features(list(seen[:, None]), None, "default", model.image_newline)
    assert counts.tolist() == [17, 17]
    ids = torch.tensor([embedder.tokenizer.encode(text.replace("<image>", "<image>" * 17)).ids])
    states = model.get_input_embeddings()(ids)
    states[ids == embedder.image_id] = torch.cat(packed)
    return F.normalize(model.language_model(inputs_embeds=states).last_hidden_state[0, -1], dim=-1).numpy()


def test_the_budget_bounds_the_tiles(opened):
    tiles = [opened.layout((900, 700), budget * opened.tile_px**2).tiles for budget in (1, 3, 100)]
    assert tiles[0] <= tiles[1] < tiles[2]
    small = load_embedder(opened.folder, device="cpu", dtype="float32", max_pixels=opened.tile_px**2)
    assert small.model_key != opened.model_key
    assert small.layout(IMAGES[0].size, small.max_pixels["page"]).tiles == tiles[0]


def test_prompts(opened):
    """V1's models get V1's strings, the others V2's."""
    page = EmbedInput(DOCUMENT_INSTRUCTIONS["page"], "", (IMAGES[0],), kind="page")
    query = EmbedInput("Find me an everyday image that matches the given caption:", "a boat")
    if opened.family in V1:
        assert opened.prompt(page) == "<|image_pad|>\nRepresent the given image\n"
        assert opened.prompt(query) == "Find me an everyday image that matches the given caption: a boat\n"
    else:
        assert opened.prompt(page) == "<|image_pad|> Understand the content of the provided document image."
        assert opened.prompt(query) == "Find me an everyday image that matches the given caption: a boat"


def test_new_names_of_tensors_open_too(tmp_path):
    old, new = (tiny_llava_next(tmp_path / str(is_old), old_names=is_old) for is_old in (True, False))
    assert sorted(load_file(old / "model.safetensors"))[:2] != sorted(load_file(new / "model.safetensors"))[:2]
    prompt, images = ["<image> A"], [[IMAGES[0]]]
    embedders = [load_embedder(folder, device="cpu", dtype="float32") for folder in (old, new)]
    np.testing.assert_array_equal(*(embed(one, prompt, images) for one in embedders))
    assert embedders[0].square_px == 1344  # V1's `--image_resolution high`


@pytest.mark.parametrize(
    ("opened", "module", "inside"),
    [
        ("llava_next", "base_model.model.language_model.model.layers.{}.self_attn.{}", "language_model.layers"),
        ("llava_next", "base_model.model.model.language_model.layers.{}.self_attn.{}", "language_model.layers"),
        ("phi3v", "base_model.model.model.layers.{}.self_attn.{}", "language_model.layers"),
    ],
    indirect=["opened"],
)  # fmt: skip
def test_adapters_are_merged(opened, module, inside, tmp_path):
    """By old and new names, and against the sum by hand."""
    part = "qkv_proj" if opened.family == "phi3v" else "q_proj"
    layers = opened.model.get_submodule(inside)
    generator = torch.Generator().manual_seed(1)
    lora = {}
    for number, layer in enumerate(layers):
        out, wide = getattr(layer.self_attn, part).weight.shape
        lora[f"{module.format(number, part)}.lora_A.weight"] = torch.randn(3, wide, generator=generator)
        lora[f"{module.format(number, part)}.lora_B.weight"] = torch.randn(out, 3, generator=generator)
    save_file(lora, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    pattern = rf".*(language_model\.|model\.)layers\.\d+\.self_attn\.{part}"
    described = {
        "peft_type": "LORA",
        "lora_alpha": 6,
        "r": 3,
        "target_modules": pattern,
        "base_model_name_or_path": str(opened.folder),
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(described))
    adapted = load_embedder(tmp_path, device="cpu", dtype="float32")
    for number, (before, after) in enumerate(zip(layers, adapted.model.get_submodule(inside), strict=True)):
        down, up = (lora[f"{module.format(number, part)}.lora_{side}.weight"] for side in "AB")
        expected = getattr(before.self_attn, part).weight + 2 * up @ down
        torch.testing.assert_close(getattr(after.self_attn, part).weight, expected)
    assert adapted.model_key != opened.model_key


def test_a_damaged_folder_is_named(opened, tmp_path):
    for path in opened.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    name = next(key for key in sorted(tensors) if "layers.1." in key and "vision" not in key)

    def expect(message: str) -> None:
        with pytest.raises(EmbedderError, match=message):
            load_embedder(tmp_path, device="cpu", dtype="float32")

    save_file({key: value for key, value in tensors.items() if key != name}, weights, metadata={"format": "pt"})
    expect(r"missing.*layers\.1\.")
    save_file({**tensors, "stranger": torch.zeros(1)}, weights, metadata={"format": "pt"})
    expect("unexpected.*stranger")
    weights.write_bytes(weights.read_bytes()[:1000])
    expect("model.safetensors cannot be read")


def test_the_narrowest_pictures(opened):
    inputs = [EmbedInput("", "", (picture(*size),)) for size in ((3000, 1), (1, 3000), (1, 1))]
    assert np.isfinite(opened.encode_documents(inputs)).all()


def test_bfloat16_stays_near(opened):
    """How near on real weights is tests/benchmarks' matter; here only that every part follows the dtype."""
    half = load_embedder(opened.folder, device="cpu", dtype="bfloat16")
    inputs = [EmbedInput("", "a boat"), EmbedInput("", "", (IMAGES[0],))]
    assert (half.encode_documents(inputs) * opened.encode_documents(inputs)).sum(1).min() > 0.99


def test_idefics3_without_splitting(tmp_path):
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    folder = tiny_idefics3(tmp_path / "model")
    fields = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(fields | {"do_image_splitting": False}))
    embedder = load_embedder(folder, device="cpu", dtype="float32")
    layout = embedder.layout(IMAGES[0].size, embedder.max_pixels["page"])
    processor = Idefics3ImageProcessorPil(
        size={"longest_edge": 96}, max_image_size={"longest_edge": 32}, do_image_splitting=False, do_normalize=False
    )
    theirs = processor([[IMAGES[0]]], return_tensors="np")["pixel_values"][0] * 255
    np.testing.assert_allclose(embedder.tiles(IMAGES[0], layout), theirs.transpose(0, 2, 3, 1), atol=1e-3)


def test_the_reference_gives_v1_no_more_than_256_tokens_of_text(opened):
    texts = ["a" * 250 + "b" * 50, "a" * 250 + "b" * 6]
    first, second = opened.encode_queries([EmbedInput("", words) for words in texts])
    assert np.array_equal(first, second) == (opened.family in V1)


def test_together_as_alone_in_any_order(opened):
    inputs = [
        EmbedInput("Find:", "a boat"),
        EmbedInput("Represent the given image.", "", (IMAGES[0],)),
        EmbedInput("Two:", "of them", tuple(IMAGES[:2]), kind="page"),
        EmbedInput("Represent the video.", "", tuple(IMAGES), True, "clip"),
    ]
    alone = np.concatenate([opened.encode_documents([item]) for item in inputs])
    np.testing.assert_allclose(opened.encode_documents(inputs), alone, atol=1e-5)
    np.testing.assert_allclose(opened.encode_queries(inputs[::-1])[::-1], alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-5)
    assert len({tuple(row) for row in alone.round(3).tolist()}) == 4
