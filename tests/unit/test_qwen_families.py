"""The families over Qwen2-VL, Qwen2.5-VL and Qwen3-VL, on tiny random checkpoints in the public layout.

The reference here is plain: literal strings, one input at a time, patches cut in a loop, transformers' own models in full.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer

from mmsearch.embedders import Embedder, load_embedder
from mmsearch.embedders.checkpoints.checkpoint import find_checkpoint
from mmsearch.embedders.families.choice import family_of
from mmsearch.embedders.families.gme import GmeEmbedder
from mmsearch.embedders.families.lamra import LamraEmbedder, tidied
from mmsearch.embedders.families.qwen3vl_embedding import Qwen3VLEmbedder, frame_budget, sampled
from mmsearch.embedders.families.vlm2vec import Vlm2VecEmbedder
from mmsearch.embedders.families.vlm2vec_v1 import Vlm2VecV1Embedder, square_side
from mmsearch.embedders.forward.packed import PackedEmbedder
from mmsearch.embedders.forward.qwen2vl_inputs import CLIP_MEAN, CLIP_STD, chat_size
from mmsearch.errors import EmbedderError
from mmsearch.items import EmbedInput, Query
from mmsearch.prompts import query_input
from mmsearch.training.recipe import parse_recipe
from mmsearch.training.run.preflight import estimate
from tests.tiny_training import recipe_over
from tests.unit.test_vlm2vec import byte_tokenizer, picture

TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1,
    "rms_norm_eps": 1e-6, "rope_theta": 10_000.0, "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 0,
    "attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02, "use_cache": True,
}  # fmt: skip
VISION = {"depth": 3, "num_heads": 2, "in_channels": 3, "spatial_merge_size": 2, "temporal_patch_size": 2}
TOP = {
    "torch_dtype": "bfloat16", "transformers_version": "4.41.2", "tie_word_embeddings": True, "use_sliding_window": False,
    "sliding_window": 32768, "max_window_layers": 28, "vision_token_id": 9,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2_vl": TOP | TEXT | {
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "vision_config": VISION | {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2, "patch_size": 14, "in_chans": 3},
    },
    "qwen2_5_vl": TOP | TEXT | {
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "vision_config": VISION | {
            "hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 24, "patch_size": 14, "window_size": 56,
            "fullatt_block_indexes": [1], "tokens_per_second": 2, "hidden_act": "silu",
            "in_chans": 3, "spatial_patch_size": 14,
        },
    },
    "qwen3_vl": {
        "tie_word_embeddings": True, "transformers_version": "4.57.0.dev0",
        "text_config": TEXT | {
            "model_type": "qwen3_vl_text", "dtype": "bfloat16", "tie_word_embeddings": True, "head_dim": 24, "attention_bias": False, "rope_theta": 5_000_000,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [4, 4, 4], "rope_type": "default"},
        },
        "vision_config": VISION | {
            "model_type": "qwen3_vl", "hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 24, "patch_size": 16,
            "num_position_embeddings": 25, "deepstack_visual_indexes": [0, 2], "hidden_act": "gelu_pytorch_tanh",
        },
    },
}  # fmt: skip
"""As the public `config.json` files are laid out, but for the token ids."""


@dataclass(frozen=True)
class Case:
    """What one input must become.

    Attributes:
        side: "query" or "document".
        prompt: the literal string.
        sizes: through which sizes (width, height) its pictures go, in order.
        count: how many pictures the model is given.
    """

    item: EmbedInput
    side: str
    prompt: str
    sizes: tuple[tuple[int, int], ...] = ()
    count: int | None = None


PHOTO, PAGE = picture(100, 60, 1), picture(70, 90, 2)
FRAMES = tuple(picture(80, 64, seed) for seed in range(3, 8))
IN_CHAT = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
IN_SYSTEM = "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n"
SEEN = "<|vision_start|><|image_pad|><|vision_end|>"
TO_ANSWER = "<|im_end|>\n<|im_start|>assistant\n"
CASES: dict[str, list[Case]] = {
    "vlm2vec": [
        Case(EmbedInput("Find me:", "a dog"), "query", "Find me: a dog"),
        Case(EmbedInput("Represent.", "", (PHOTO,)), "document", "<|image_pad|> Represent.", ((112, 56),)),
        Case(EmbedInput("Compare.", "", (PHOTO, PHOTO)), "query", "<|image_pad|> <|image_pad|> Compare.", ((112, 56),)),
        Case(EmbedInput("Watch.", "", FRAMES, True, "clip"), "document", "<|video_pad|> Watch.", ((84, 56),)),
    ],
    "vlm2vec_v1": [
        Case(
            EmbedInput("Find a document image that matches the given query:", "income", kind="page"),
            "query",
            "Find the document image that can answer the given query: income\n",
        ),
        Case(
            EmbedInput("Find me an everyday image that matches the given caption:", "a dog"),
            "query",
            "Find me an everyday image that matches the given caption: a dog\n",
        ),
        Case(
            EmbedInput("Understand the content of the provided document image.", "", (PAGE,), kind="page"),
            "document",
            "<|image_pad|>\nRepresent the given image\n",
            ((112, 112),),
        ),
        Case(
            EmbedInput("Represent the given image.", "", (PHOTO,)),
            "document",
            "<|image_pad|>\nRepresent the given image.\n",
            ((112, 112),),
        ),
        Case(EmbedInput("", "yes"), "query", "yes"),
        Case(EmbedInput("Watch.", "", FRAMES, True, "clip"), "document", "<|video_pad|> Watch.", ((112, 112),)),
    ],
    "gme": [
        Case(
            EmbedInput("Find an image that matches the given text.", "a dog"),
            "query",
            IN_SYSTEM.format("Find an image that matches the given text.") + "a dog" + TO_ANSWER + "<|endoftext|>",
        ),
        Case(
            EmbedInput("left out", "its words", (PHOTO,)),
            "document",
            IN_CHAT + SEEN + "its words" + TO_ANSWER + "<|endoftext|>",
            ((112, 56), (168, 84)),
        ),
        Case(
            EmbedInput("", "", FRAMES, True, "clip"),
            "document",
            IN_CHAT + SEEN + TO_ANSWER + "<|endoftext|>",
            ((84, 56), (140, 84)),
            count=1,
        ),
    ],
    "lamra": [
        Case(
            EmbedInput("Find a photo", "a dog"),
            "query",
            IN_CHAT + "Find a photo. a dog.\nSummarize above sentence in one word: " + TO_ANSWER,
        ),
        Case(
            EmbedInput("Find the same", "", (PHOTO,)),
            "query",
            IN_CHAT + SEEN + "Find the same.\nSummarize above image and sentence in one word: " + TO_ANSWER,
            ((112, 56),),
        ),
        Case(
            EmbedInput("left out", "", (PHOTO,)),
            "document",
            IN_CHAT + SEEN + "\nSummarize above image in one word: " + TO_ANSWER,
            ((112, 56),),
        ),
        Case(
            EmbedInput("left out", "", FRAMES, True, "clip"),
            "document",
            IN_CHAT + SEEN + "\nSummarize above image in one word: " + TO_ANSWER,
            ((84, 56),),
            count=1,
        ),
    ],
    "qwen3vl_embedding": [
        Case(
            EmbedInput("Retrieve images or text relevant to the user's query", "a dog"),
            "query",
            IN_SYSTEM.format("Retrieve images or text relevant to the user's query.")
            + "a dog"
            + TO_ANSWER
            + "<|endoftext|>",
        ),
        Case(EmbedInput("", ""), "query", IN_SYSTEM.format("Represent the user's input.") + "NULL" + TO_ANSWER + "<|endoftext|>"),
        Case(
            EmbedInput("left out", "its words", (PHOTO,)),
            "document",
            IN_SYSTEM.format("Represent the user's input.") + SEEN + "its words" + TO_ANSWER + "<|endoftext|>",
            ((96, 64),),
        ),
        Case(
            EmbedInput("Find:", "", (PAGE, PAGE)),
            "query",
            IN_SYSTEM.format("Find:") + SEEN + SEEN + TO_ANSWER + "<|endoftext|>",
            ((64, 96),),
        ),
        Case(
            EmbedInput("left out", "its words", FRAMES, True, "clip"),
            "document",
            IN_SYSTEM.format("Represent the user's input.")
            + "<0.2 seconds><|vision_start|><|video_pad|><|vision_end|>"
            + "<1.2 seconds><|vision_start|><|video_pad|><|vision_end|>"
            + "<2.2 seconds><|vision_start|><|video_pad|><|vision_end|>"
            + "its words"
            + TO_ANSWER
            + "<|endoftext|>",
            ((64, 64), (384, 384)),
        ),
    ],
}  # fmt: skip
"""Under budgets of at least 56 x 56 pixels (GME: 10,000) and at most 12,544 (Qwen3-VL-Embedding: 200,000)."""

OPENED: dict[str, tuple[str, str, type[PackedEmbedder], dict[str, int]]] = {
    "VLM2Vec on Qwen2.5-VL": ("qwen2_5_vl", "vlm2vec", Vlm2VecEmbedder, {}),
    "VLM2Vec-V1": ("qwen2_vl", "vlm2vec_v1", Vlm2VecV1Embedder, {}),
    "GME": ("qwen2_vl", "gme", GmeEmbedder, {"min_pixels": 10_000}),
    "LamRA": ("qwen2_vl", "lamra", LamraEmbedder, {}),
    "LamRA on Qwen2.5-VL": ("qwen2_5_vl", "lamra", LamraEmbedder, {}),
    "Qwen3-VL-Embedding": ("qwen3_vl", "qwen3vl_embedding", Qwen3VLEmbedder, {"max_pixels": 200_000}),
}
CANONICAL = {
    "VLM2Vec on Qwen2.5-VL": [-0.02134, 0.00423, 0.22143],
    "VLM2Vec-V1": [-0.14911, -0.52418, -0.08648],
    "GME": [-0.16801, 0.03848, 0.0424],
    "LamRA": [0.09542, -0.0689, -0.20378],
    "LamRA on Qwen2.5-VL": [0.07805, 0.21989, -0.12703],
    "Qwen3-VL-Embedding": [0.01769, -0.13149, 0.32671],
}
"""The first three numbers of each family's third case."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def chat_tokenizer() -> Tokenizer:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return tokenizer


class Tiny:
    """transformers' own model of a type, with random weights, and its folder in the public layout."""

    def __init__(self, model_type: str, folder: Path, *, shards: int = 1) -> None:
        import transformers

        self.tokenizer, self.folder, self.model_type = chat_tokenizer(), folder, model_type
        ids = {
            f"{name}_token_id": self.tokenizer.token_to_id(f"<|{token}|>")
            for name, token in (
                ("image", "image_pad"), ("video", "video_pad"), ("vision_start", "vision_start"), ("vision_end", "vision_end"),
            )
        }  # fmt: skip
        config = (
            json.loads(json.dumps(CONFIGS[model_type]))
            | ids
            | {"model_type": model_type, "architectures": ["Anything"]}
        )
        config.get("text_config", config)["vocab_size"] = self.tokenizer.get_vocab_size()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
        self.tokenizer.save(str(folder / "tokenizer.json"))
        names = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
        parsed = getattr(transformers, f"{names[model_type]}Config").from_pretrained(folder)
        self.model = getattr(transformers, f"{names[model_type]}Model")(parsed).float().eval()
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, parameter in sorted(self.model.named_parameters()):
                start = 1.0 if name.endswith("weight") and parameter.ndim == 1 else 0.0
                parameter.copy_(start + 0.2 * torch.randn(parameter.shape, generator=generator))
        self.write(shards)

    def write(self, shards: int = 1) -> None:
        stored = {self.public_name(name): p.detach().clone() for name, p in self.model.named_parameters()}
        names = sorted(stored)
        if shards == 1:
            save_file(stored, self.folder / "model.safetensors")
            return
        where = {name: f"model-{at % shards + 1:05}-of-{shards:05}.safetensors" for at, name in enumerate(names)}
        for file in set(where.values()):
            save_file({name: stored[name] for name in names if where[name] == file}, self.folder / file)
        (self.folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))

    def public_name(self, name: str) -> str:
        if self.model_type == "qwen3_vl":
            return f"model.{name}"
        return name if name.startswith("visual.") else name.replace("language_model.", "model.", 1)

    @torch.no_grad()
    def vector(self, case: Case) -> torch.Tensor:
        """One case through transformers' model."""
        is_qwen3 = self.model_type == "qwen3_vl"
        images = list(case.item.images)
        if case.count is not None:
            images = [images[len(images) // 2]]
        for size in case.sizes:
            images = [image.resize(size, Image.Resampling.BICUBIC) for image in images]
        is_video = "<|video_pad|>" in case.prompt
        pairs = [images[at : at + 2] for at in range(0, len(images), 2)] if is_video else [[image] for image in images]
        patch, mean, std = (16, (0.5,) * 3, (0.5,) * 3) if is_qwen3 else (14, CLIP_MEAN, CLIP_STD)
        cut = [patches(pair[0], pair[-1], patch, mean, std) for pair in pairs]
        rows, columns = (images[0].height // patch, images[0].width // patch) if images else (0, 0)
        token = "<|video_pad|>" if is_video else "<|image_pad|>"
        together = is_video and not is_qwen3
        repeated = token * (rows * columns // 4 * (len(pairs) if together else 1))
        ids = torch.tensor([self.tokenizer.encode(case.prompt.replace(token, repeated)).ids])
        visual_id = self.tokenizer.token_to_id(token)
        options: dict[str, Any] = {}
        if pairs:
            grid = [[len(pairs), rows, columns]] if is_video else [[1, rows, columns]] * len(pairs)
            kind = ("pixel_values_videos", "video_grid_thw") if is_video else ("pixel_values", "image_grid_thw")
            options = dict(zip(kind, (torch.cat(cut), torch.tensor(grid)), strict=True))
        if is_qwen3:
            options["mm_token_type_ids"] = (ids == visual_id).int() * (2 if is_video else 1)
        else:
            options["position_ids"] = torch.arange(ids.shape[1]).expand(3, 1, -1)
        self.model.rope_deltas = None
        states = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), **options).last_hidden_state
        return F.normalize(states[0, -1], dim=-1)


def patches(first: Image.Image, second: Image.Image, patch: int, mean: Any, std: Any) -> torch.Tensor:
    """Two frames of one size, cut patch by patch: [patches, 3 * 2 * patch * patch], 2x2 blocks together."""
    frames = np.stack([np.asarray(first), np.asarray(second)]).astype(np.float32) / 255
    frames = ((frames - np.float32(mean)) / np.float32(std)).transpose(3, 0, 1, 2)  # channel, frame, y, x
    height, width = frames.shape[2:]
    found = [
        frames[:, :, y : y + patch, x : x + patch].reshape(-1)
        for top in range(0, height, 2 * patch)
        for left in range(0, width, 2 * patch)
        for y in (top, top + patch)
        for x in (left, left + patch)
    ]
    return torch.tensor(np.stack(found))


@pytest.fixture(scope="module")
def tinies(tmp_path_factory) -> dict[str, Tiny]:
    folder = tmp_path_factory.mktemp("tiny")
    return {name: Tiny(name, folder / name, shards=1 + index) for index, name in enumerate(CONFIGS)}


def opened(tiny: Tiny, family: str, **options: Any) -> PackedEmbedder:
    """Through `load_embedder`, as a user would."""
    (tiny.folder / "mmsearch.json").write_text(json.dumps({"family": family, "min_pixels": 56 * 56, "max_pixels": dict.fromkeys(("page", "image", "clip"), 112 * 112)}))  # fmt: skip
    embedder = load_embedder(tiny.folder, device="cpu", dtype="float32", **options)
    assert isinstance(embedder, PackedEmbedder)
    return embedder


class TestAgainstTransformers:
    @pytest.mark.parametrize("name", OPENED)
    def test_prompts_and_vectors(self, tinies, name):
        model_type, family, expected_class, options = OPENED[name]
        tiny, cases = tinies[model_type], CASES[family]
        embedder = opened(tiny, family, **options)
        assert type(embedder) is expected_class and isinstance(embedder, Embedder)
        for case in cases:
            assert embedder.final_input(case.item, case.side)[0] == case.prompt  # type: ignore[arg-type]
        words_alone = embedder.encode_queries([cases[0].item])[0]  # before any picture: without transformers' model
        vectors = np.empty((len(cases), embedder.dim), np.float32)
        for side, encode in (("query", embedder.encode_queries), ("document", embedder.encode_documents)):
            rows = [row for row, case in enumerate(cases) if case.side == side]
            vectors[rows] = encode([cases[row].item for row in rows])
        expected = torch.stack([tiny.vector(case) for case in cases]).numpy()
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
        np.testing.assert_allclose(words_alone, expected[0], atol=1e-5)
        np.testing.assert_allclose(vectors[2, :3], CANONICAL[name], atol=2e-5)
        spread = np.abs(expected[:, None] - expected[None]).max(2)[np.triu_indices(len(cases), 1)]
        assert spread.min() > 1e-3  # the comparison tells them apart

    @pytest.mark.parametrize("name", OPENED)
    def test_in_bfloat16(self, tinies, name):
        model_type, family, _, options = OPENED[name]
        items = [case.item for case in CASES[family]]
        exact = opened(tinies[model_type], family, **options).encode_queries(items)
        rough = load_embedder(tinies[model_type].folder, device="cpu", dtype="bfloat16", **options).encode_queries(
            items
        )
        assert (exact * rough).sum(1).min() > 0.995


class TestVlm2Vec:
    def test_a_qwen25_checkpoint_goes_by_its_type_and_survives_saving(self, tinies, tmp_path):
        tiny = tinies["qwen2_5_vl"]
        (tiny.folder / "mmsearch.json").unlink(missing_ok=True)
        assert family_of(find_checkpoint(tiny.folder)) == "vlm2vec"
        embedder = Vlm2VecEmbedder.load(tiny.folder, device="cpu", dtype="float32", max_pixels=112 * 112)
        embedder.save(tmp_path, dtype=torch.float32)
        again = load_embedder(tmp_path, device="cpu", dtype="float32")
        items = [case.item for case in CASES["vlm2vec"]]
        np.testing.assert_allclose(again.encode_documents(items), embedder.encode_documents(items), atol=1e-6)

    def test_training_can_start_from_a_qwen25_checkpoint(self, tinies):
        embedder = Vlm2VecEmbedder.load(
            tinies["qwen2_5_vl"].folder, device="cpu", dtype="float32", max_pixels=112 * 112
        )
        final = [embedder.final_input(case.item, "query") for case in CASES["vlm2vec"]]
        batch = embedder.prepare(*([part[at] or None for part in final] for at in range(3)))
        embedder.forward(batch)[:, 0].sum().backward()
        unused = [name for name, p in embedder.model.named_parameters() if p.grad is None or not p.grad.any()]
        assert unused == []
        recipe = parse_recipe(recipe_over(tinies["qwen2_5_vl"].folder, Path("pairs.jsonl")), "made here")
        counted = sum(parameter.numel() for parameter in embedder.model.parameters())
        assert abs(estimate(recipe, [], device="cpu").parameters - counted) < 0.03 * counted

    def test_v1_keeps_its_family_when_saved(self, tinies, tmp_path):
        embedder = opened(tinies["qwen2_vl"], "vlm2vec_v1")
        assert isinstance(embedder, Vlm2VecV1Embedder)
        embedder.save(tmp_path, dtype=torch.float32)
        again = load_embedder(tmp_path, device="cpu", dtype="float32")
        assert type(again) is Vlm2VecV1Embedder
        items = [case.item for case in CASES["vlm2vec_v1"]]
        np.testing.assert_array_equal(again.encode_queries(items), embedder.encode_queries(items))

    def test_v1_adapter_of_rank_8(self, tinies, tmp_path):
        """LoRA without DoRA, as V1 is published: the adapter names its base."""
        tiny = Tiny("qwen2_vl", tmp_path / "base")
        generator = torch.Generator().manual_seed(3)
        adapter: dict[str, torch.Tensor] = {}
        for layer in range(TEXT["num_hidden_layers"]):
            for part in ("q_proj", "v_proj"):
                module = tiny.model.language_model.layers[layer].self_attn.get_submodule(part)
                outputs, inputs = module.weight.shape
                up, down = (torch.randn(shape, generator=generator) * 0.2 for shape in ((outputs, 8), (8, inputs)))
                name = f"base_model.model.model.layers.{layer}.self_attn.{part}"
                adapter |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
                with torch.no_grad():
                    module.weight += 64 / 8 * up @ down
        folder = tmp_path / "adapter"
        folder.mkdir()
        save_file(adapter, folder / "adapter_model.safetensors")
        settings = {"peft_type": "LORA", "r": 8, "lora_alpha": 64, "target_modules": ["q_proj", "v_proj"]}
        (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "../base"}))
        (folder / "mmsearch.json").write_text(json.dumps({"family": "vlm2vec_v1"}))
        embedder = load_embedder(folder, device="cpu", dtype="float32", max_pixels=112 * 112)
        case = CASES["vlm2vec_v1"][3]
        np.testing.assert_allclose(embedder.encode_documents([case.item])[0], tiny.vector(case), atol=1e-5)

    def test_v1_squares(self, tinies):
        assert [square_side(pixels) for pixels in (1344 * 1344, 10**9, 980 * 980, 1000 * 1000, 10)] == [
            1344, 1344, 980, 980, 28,
        ]  # fmt: skip
        (tinies["qwen2_vl"].folder / "mmsearch.json").write_text("{}")
        embedder = Vlm2VecV1Embedder.load(tinies["qwen2_vl"].folder, device="cpu", dtype="float32")
        batch = embedder.prepare(["<|image_pad|>\nRepresent the given image.\n"], [[PHOTO]], [False])
        assert batch.grids == ((1, 96, 96),) and len(batch.visual_index) == 2304

    def test_v1_leaves_a_users_instruction(self, tinies):
        embedder = opened(tinies["qwen2_vl"], "vlm2vec_v1")
        own = query_input(Query("income", instruction="Mine:"), "page")
        assert embedder.final_input(own, "query")[0] == "Mine: income\n"


class TestSizes:
    @pytest.mark.parametrize("factor", [28, 32])
    def test_as_transformers_for_ordinary_pictures(self, factor):
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        generator = np.random.default_rng(1)
        for width, height in generator.integers(40, 3000, (200, 2)).tolist():
            bounds = {"min_pixels": 256 * factor**2, "max_pixels": 1280 * factor**2}
            expected = smart_resize(height, width, factor=factor, **bounds)
            assert chat_size(width, height, factor=factor, **bounds) == expected[::-1]

    def test_odd_pictures(self):
        bounds = {"min_pixels": 3136, "max_pixels": 10**7}
        assert chat_size(5, 300, **bounds) == (28, 308)
        assert chat_size(1, 9000, **bounds) == (28, 5600)  # at most 200 times as high as wide
        assert chat_size(10, 10, **bounds) == (56, 56)

    def test_frames_of_a_long_video_are_smaller(self):
        assert frame_budget(8, 1_843_200) == 768 * 32 * 32
        assert frame_budget(64, 1_843_200) == frame_budget(63, 1_843_200) == 240 * 32 * 32
        assert frame_budget(64, 100_000) == 100_000
        assert frame_budget(1000, 1_843_200) == math.floor(128 * 32 * 32 * 1.05)

    def test_at_most_64_frames(self):
        frames = [Image.new("RGB", (1, 1), (index, 0, 0)) for index in range(100)]
        chosen = [frame.getpixel((0, 0))[0] for frame in sampled(frames)]  # type: ignore[index]
        assert len(chosen) == 64 and (chosen[0], chosen[1], chosen[-1]) == (0, 1, 99) and chosen == sorted(set(chosen))
        assert sampled(frames[:5]) == frames[:5]


class TestLimits:
    def test_a_long_text_loses_its_end_but_not_the_token_that_is_pooled(self, tinies):
        embedder = opened(tinies["qwen2_vl"], "gme", min_pixels=10_000)
        prompt, images, is_video = embedder.final_input(EmbedInput("", "word " * 1000, (PHOTO,)), "document")
        batch = embedder.prepare([prompt], [images], [is_video])
        tail = embedder.tokenizer.encode(TO_ANSWER + "<|endoftext|>").ids
        assert batch.lengths == (1800,) and batch.input_ids[-len(tail) :].tolist() == tail
        whole = embedder.tokenizer.encode(prompt.replace("<|image_pad|>", "<|image_pad|>" * 18)).ids
        assert batch.input_ids[: 1800 - len(tail)].tolist() == whole[: 1800 - len(tail)]

    def test_pictures_that_leave_no_room_are_an_error(self, tinies):
        embedder = opened(tinies["qwen2_vl"], "gme", min_pixels=200_000, max_pixels=500_000)
        many = EmbedInput("", "", (PHOTO,) * 8)
        with pytest.raises(EmbedderError, match=r"of at most 1800; give fewer"):
            embedder.encode_documents([many])

    def test_a_family_does_not_run_another_type(self, tinies):
        with pytest.raises(EmbedderError, match="qwen3_vl model, which GmeEmbedder does not run"):
            GmeEmbedder.load(tinies["qwen3_vl"].folder)

    def test_the_family_that_is_asked_for_opens_it_and_stays_in_its_name(self, tmp_path, caplog):
        tiny = Tiny("qwen2_vl", tmp_path)
        as_gme = opened(tiny, "gme").model_key
        (tiny.folder / "mmsearch.json").unlink()
        assumed = load_embedder(tiny.folder, device="cpu", dtype="float32")
        assert type(assumed) is Vlm2VecEmbedder and "assumed vlm2vec" in caplog.text and "gme, lamra" in caplog.text
        caplog.clear()
        asked = load_embedder(
            tiny.folder, device="cpu", dtype="float32", family="gme", min_pixels=56 * 56, max_pixels=112 * 112
        )
        again = load_embedder(
            f"gme:{tiny.folder}", device="cpu", dtype="float32", min_pixels=56 * 56, max_pixels=112 * 112
        )
        assert (
            type(asked) is type(again) is GmeEmbedder
            and asked.model_key == again.model_key == as_gme
            and not caplog.records
        )

    def test_a_shard_is_missing(self, tmp_path):
        tiny = Tiny("qwen3_vl", tmp_path, shards=3)
        (tiny.folder / "model-00002-of-00003.safetensors").unlink()
        with pytest.raises(EmbedderError, match="tensors missing"):
            load_embedder(tiny.folder)

    def test_options_that_are_not_computed_are_refused(self, tmp_path):
        tiny = Tiny("qwen3_vl", tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        config["text_config"]["attention_bias"] = True
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(EmbedderError, match="attention_bias is True"):
            load_embedder(tiny.folder)


class TestModelKey:
    def test_names_the_family_and_what_decides_its_documents(self, tinies, monkeypatch):
        tiny = tinies["qwen2_vl"]
        keys = [opened(tiny, family).model_key for family in ("vlm2vec", "vlm2vec_v1", "gme", "lamra")]
        keys.append(opened(tiny, "gme", min_pixels=10_000).model_key)
        keys.append(opened(tiny, "gme", max_pixels=9_000).model_key)
        assert opened(tiny, "gme").model_key == keys[2]
        monkeypatch.setattr("mmsearch.embedders.families.gme.INSTRUCTION", "You help.")
        keys.append(opened(tiny, "gme").model_key)
        monkeypatch.setattr(LamraEmbedder, "version", 2)
        keys.append(opened(tiny, "lamra").model_key)
        assert len(set(keys)) == len(keys)


def test_lamra_tidies_texts():
    assert [tidied(text) for text in ("a dog", ' "Who?" ', "Stop!\r\n", "")] == ["A dog.", "Who?", "Stop!", ""]
