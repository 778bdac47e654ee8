"""The VLM2Vec embedder on tiny random models: against transformers' own forward pass, and its promises."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from mmsearch.embedders import Embedder, load_embedder
from mmsearch.embedders.checkpoints.device import default_dtype, demand_device
from mmsearch.embedders.checkpoints.opening import match_scales, open_checkpoint
from mmsearch.embedders.families.vlm2vec import Vlm2VecEmbedder
from mmsearch.embedders.forward.batching import batches_by_cost, made_ahead, single_core_threads
from mmsearch.embedders.forward.qwen2vl_inputs import (
    CLIP_MEAN,
    CLIP_STD,
    Batch,
    expand,
    first_tokens,
    normalise,
    patches_of,
)
from mmsearch.errors import EmbedderError, ModelNotFound
from mmsearch.items import EmbedInput
from mmsearch.prompts import final_prompt
from tests.tiny_models import tiny_compact

SPECIAL = ["<|endoftext|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


def byte_tokenizer() -> Tokenizer:
    """One token per byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: index for index, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def random_embedder(key_value_heads: int = 2, **options) -> Vlm2VecEmbedder:
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

    tokenizer = byte_tokenizer()
    ids = {name: tokenizer.token_to_id(name) for name in SPECIAL}
    config = Qwen2VLConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=key_value_heads,
        rope_theta=10_000.0,
        rope_scaling={"type": "mrope", "mrope_section": [2, 3, 3]},
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|endoftext|>"],
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        vision_config={"depth": 2, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 2, "hidden_size": 64},
    )
    torch.manual_seed(7)
    model = Qwen2VLModel(config)
    with torch.no_grad():  # far from symmetric, so that every term of the forward pass shows
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return Vlm2VecEmbedder.from_model(model.eval(), tokenizer, max_pixels=112 * 112, **options)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small are slower on two cores, and far slower beside another busy process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def embedder() -> Vlm2VecEmbedder:
    return random_embedder()


@pytest.fixture(scope="module")
def saved(embedder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    embedder.save(folder, dtype=torch.float32)
    return folder


@pytest.fixture
def copy(embedder, tmp_path) -> Path:
    """A checkpoint folder of one's own to damage."""
    embedder.save(tmp_path / "copy", dtype=torch.float32)
    return tmp_path / "copy"


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


PROMPTS = [
    "<|image_pad|> Represent the given image.",
    "Find me an everyday image that matches the given caption: a dog",
    "<|video_pad|> Understand the content of the provided video.",
    "x",
    "<|image_pad|> <|image_pad|> Compare them.",
    "<|image_pad|> of the first size again",
    "a text with a stray <|image_pad|> in it",
]
IMAGES = [
    [picture(100, 60)],
    None,
    [picture(60, 60, seed) for seed in range(5)],
    None,
    [picture(60, 60, 8), picture(40, 200, 9)],
    [picture(100, 60, 10)],
    None,
]
IS_VIDEO = [False, False, True, False, False, False, False]


def stock_embeddings(embedder: Vlm2VecEmbedder, batch: Batch) -> torch.Tensor:
    """The same through transformers' own forward pass: padded, images one after the other, all layers in full."""
    model = embedder.model
    tokens = model.language_model.embed_tokens(batch.input_ids)
    if batch.grids:
        features = model.visual(batch.pixel_values(), grid_thw=torch.tensor(batch.grids)).pooler_output
        tokens = tokens.index_copy(0, batch.visual_index, features)
    padded = torch.nn.utils.rnn.pad_sequence(tokens.split(batch.lengths), batch_first=True)
    rows, longest = padded.shape[:2]
    states = model.language_model(
        inputs_embeds=padded,
        attention_mask=torch.arange(longest) < torch.tensor(batch.lengths)[:, None],
        position_ids=torch.arange(longest).expand(3, rows, longest),
        use_cache=False,
    ).last_hidden_state
    return F.normalize(states[torch.arange(rows), torch.tensor(batch.lengths) - 1], dim=-1)


class TestForward:
    @pytest.mark.parametrize("key_value_heads", [1, 2, 4])
    def test_equals_transformers(self, key_value_heads):
        embedder = random_embedder(key_value_heads)
        batch = embedder.prepare(PROMPTS, IMAGES, IS_VIDEO)
        with torch.no_grad():
            torch.testing.assert_close(embedder.forward(batch), stock_embeddings(embedder, batch), atol=1e-6, rtol=0)

    def test_gradients_equal_transformers(self, embedder):
        batch = embedder.prepare(PROMPTS, IMAGES, IS_VIDEO)
        weights = torch.randn(len(batch), embedder.dim, generator=torch.Generator().manual_seed(1))

        def gradients(embeddings: torch.Tensor) -> dict[str, torch.Tensor]:
            embedder.model.zero_grad()
            (embeddings * weights).sum().backward()
            return {name: parameter.grad.clone() for name, parameter in embedder.model.named_parameters()}

        ours, theirs = gradients(embedder.forward(batch)), gradients(stock_embeddings(embedder, batch))
        for name, gradient in theirs.items():
            torch.testing.assert_close(ours[name], gradient, atol=2e-5, rtol=1e-4, msg=name)
        embedder.model.zero_grad()

    def test_gradient_checkpointing_gives_the_same_gradients(self):
        embedder = random_embedder()
        batch = embedder.prepare(PROMPTS, IMAGES, IS_VIDEO)
        calls = []
        for layer in (embedder.model.visual.blocks[0], embedder.model.language_model.layers[-1]):
            layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1))

        def gradients() -> list[torch.Tensor]:
            embedder.model.zero_grad()
            embedder.forward(batch)[:, 0].sum().backward()
            return [parameter.grad.clone() for parameter in embedder.model.parameters()]

        plain = gradients()
        assert len(calls) == 2
        embedder.model.train().activation_checkpointing_enable()
        for again, gradient in zip(gradients(), plain, strict=True):
            torch.testing.assert_close(again, gradient)
        assert len(calls) == 2 + 4  # forward, and once more in the backward pass

    def test_alone_together_and_in_any_order(self, embedder):
        together = embedder.embed_prompts(PROMPTS, IMAGES, IS_VIDEO)
        alone = [embedder.embed_prompts([p], [i], [v])[0] for p, i, v in zip(PROMPTS, IMAGES, IS_VIDEO, strict=True)]
        np.testing.assert_allclose(together, alone, atol=1e-6)
        back = embedder.embed_prompts(PROMPTS[::-1], IMAGES[::-1], IS_VIDEO[::-1])
        np.testing.assert_allclose(together, back[::-1], atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)

    def test_many_batches_keep_their_order(self, embedder):
        prompts = [f"{index} " * (1 + index % 40) for index in range(150)]
        vectors = embedder.embed_prompts(prompts, [None] * 150, [False] * 150)
        for index in (0, 39, 77, 149):
            np.testing.assert_allclose(
                vectors[index], embedder.embed_prompts([prompts[index]], [None], [False])[0], atol=1e-6
            )

    def test_from_several_threads(self, embedder):
        expected = embedder.embed_prompts(PROMPTS, IMAGES, IS_VIDEO)
        with ThreadPoolExecutor(4) as pool:
            results = pool.map(lambda _: embedder.embed_prompts(PROMPTS, IMAGES, IS_VIDEO), range(8))
        for vectors in results:
            np.testing.assert_allclose(vectors, expected, atol=1e-6)

    def test_autocast(self, embedder):
        batch = embedder.prepare(PROMPTS, IMAGES, IS_VIDEO)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            mixed = embedder.forward(batch)
        assert mixed.dtype == torch.float32
        with torch.no_grad():
            assert F.cosine_similarity(mixed, embedder.forward(batch)).min() > 0.99

    def test_nothing_to_embed(self, embedder):
        assert embedder.embed_prompts([], [], []).shape == (0, 64)
        assert embedder.encode_queries([]).shape == (0, 64)
        assert embedder.encode_documents([]).dtype == np.float32

    def test_output_that_is_not_finite_names_the_input(self):
        embedder = random_embedder()
        with torch.no_grad():
            embedder.model.language_model.embed_tokens.weight[embedder.tokenizer.token_to_id("z")] = float("nan")
        with pytest.raises(EmbedderError, match="input 2 is not finite"):
            embedder.embed_prompts(["a", "b", "z", "c"], [None] * 4, [False] * 4)

    def test_what_does_not_fit_into_memory_is_halved(self, monkeypatch):
        embedder = random_embedder()
        expected = embedder.embed_prompts(PROMPTS, IMAGES, IS_VIDEO)
        whole, sizes = embedder.forward, []

        def forward(batch: Batch) -> torch.Tensor:
            sizes.append(len(batch))
            if len(batch) > 2:
                raise torch.OutOfMemoryError("too much")
            return whole(batch)

        monkeypatch.setattr(embedder, "forward", forward)
        np.testing.assert_allclose(embedder.embed_prompts(PROMPTS, IMAGES, IS_VIDEO), expected, atol=1e-6)
        assert max(sizes) > 2

    def test_a_large_model_gives_the_same(self, embedder, monkeypatch):
        """One batch after the other on all cores, prepared ahead."""
        prompts, images, is_video = PROMPTS * 30, IMAGES * 30, IS_VIDEO * 30
        expected = embedder.embed_prompts(prompts, images, is_video)
        monkeypatch.setattr(embedder, "_is_small", False)
        np.testing.assert_allclose(embedder.embed_prompts(prompts, images, is_video), expected, atol=1e-6)

    def test_one_input_that_does_not_fit_is_named(self, monkeypatch):
        embedder = random_embedder()

        def forward(batch: Batch) -> torch.Tensor:
            raise torch.OutOfMemoryError("too much")

        monkeypatch.setattr(embedder, "forward", forward)
        with pytest.raises(EmbedderError, match="input 0 does not fit"):
            embedder.embed_prompts(["a"], [None], [False])


class TestInputs:
    @pytest.mark.parametrize(("count", "pairs"), [(1, 1), (2, 1), (3, 2), (8, 4)])
    def test_patches_in_the_documented_order(self, count, pairs):
        """Every value against a lookup in the picture, loop by loop."""
        frames = [picture(56, 84, seed) for seed in range(count)]
        patches, grid = patches_of(frames, min_pixels=3136, max_pixels=10_000)
        assert grid == (pairs, 6, 4)
        arrays = [np.asarray(frame) for frame in frames]
        arrays += arrays[-1:] * (2 * pairs - count)
        expected = [
            [
                arrays[2 * pair + frame][14 * (2 * block_row + row) + y, 14 * (2 * block_column + column) + x, channel]
                for channel in range(3) for frame in range(2) for y in range(14) for x in range(14)
            ]
            for pair in range(pairs) for block_row in range(3) for block_column in range(2)
            for row in range(2) for column in range(2)
        ]  # fmt: skip
        np.testing.assert_array_equal(patches, expected)

    def test_normalised_like_clip(self):
        values = normalise(torch.full((1, 1176), 255, dtype=torch.uint8)).view(3, -1)
        for channel, mean, std in zip(values, CLIP_MEAN, CLIP_STD, strict=True):
            assert channel.tolist() == pytest.approx([(1 - mean) / std] * 392, abs=1e-6)

    @pytest.mark.parametrize(
        ("size", "grid"),
        [
            ((20, 300), (1, 4, 4)),
            ((27, 27), (1, 4, 4)),
            ((28, 28), (1, 4, 4)),
            ((6000, 28), (1, 8, 8)),
            ((140, 84), (1, 6, 10)),
        ],
    )
    def test_grids_of_odd_sizes(self, size, grid):
        assert patches_of([picture(*size)], min_pixels=3136, max_pixels=12_544)[1] == grid

    def test_frames_take_the_size_of_the_first(self):
        mixed = [picture(84, 56), picture(56, 112), picture(28, 28)]
        patches, grid = patches_of(mixed, min_pixels=3136, max_pixels=12_544)
        same = [frame.resize((84, 56), Image.Resampling.BICUBIC) for frame in mixed]
        np.testing.assert_array_equal(patches, patches_of(same, min_pixels=3136, max_pixels=12_544)[0])
        assert grid == (2, 4, 6)

    def test_other_modes_become_rgb(self):
        grey = Image.new("L", (56, 56), 200)
        patches, _ = patches_of([grey], min_pixels=3136, max_pixels=3136)
        assert (patches == 200).all()

    def test_expand(self):
        assert expand([1, 9, 2, 9, 3, 9], 9, [2, 3]) == ([1, 9, 9, 2, 9, 9, 9, 3, 9], [1, 2, 4, 5, 6])
        with pytest.raises(EmbedderError, match="2 visuals but only 1"):
            expand([9], 9, [1, 1])

    def test_more_images_than_tokens_is_an_error(self, embedder):
        with pytest.raises(EmbedderError, match="visual tokens"):
            embedder.embed_prompts(["no token"], [[picture(56, 56)]], [False])

    def test_empty_prompt_is_an_error(self, embedder):
        with pytest.raises(EmbedderError, match="empty"):
            embedder.embed_prompts([""], [None], [False])

    def test_text_is_cut_at_a_token(self):
        tokenizer = byte_tokenizer()
        assert first_tokens(tokenizer, "revenue by region", 7) == "revenue"
        assert first_tokens(tokenizer, "revenue by region", 8) == "revenue"
        assert first_tokens(tokenizer, "short", 100) == "short"
        assert first_tokens(tokenizer, "x", 0) == ""

    def test_batches_hold_like_costs_within_the_budget(self):
        costs = [(index % 7 * 10, index % 5 + 1) for index in range(100)] + [(5000, 1)]
        batches = batches_by_cost(costs, 200)
        assert sorted(index for batch in batches for index in batch) == list(range(101))
        assert batches[0] == [100]  # too big for any batch: alone
        assert all(sum(map(sum, (costs[index] for index in batch))) <= 200 for batch in batches[1:])
        assert len(batches) < 30


class TestEncode:
    def test_is_an_embedder(self, embedder):
        assert isinstance(embedder, Embedder)

    def test_documents_and_queries_are_final_prompts(self):
        embedder = random_embedder(page_text_tokens=5, query_text_tokens=3)
        image = picture(84, 84)
        document = EmbedInput("Understand.", "revenue by region", (image,), kind="page")
        expected = embedder.embed_prompts(["<|image_pad|> Understand. reven"], [[image]], [False])
        np.testing.assert_allclose(embedder.encode_documents([document]), expected, atol=1e-6)
        clip = EmbedInput("Understand.", "", (image, image), is_video=True, kind="clip")
        expected = embedder.embed_prompts(["<|video_pad|> Understand."], [[image, image]], [True])
        np.testing.assert_allclose(embedder.encode_documents([clip]), expected, atol=1e-6)
        query = EmbedInput("Find:", "revenue by region", kind="page")
        expected = embedder.embed_prompts(["Find: rev"], [None], [False])
        np.testing.assert_allclose(embedder.encode_queries([query]), expected, atol=1e-6)

    def test_special_tokens_in_a_documents_text_are_harmless(self):
        embedder = random_embedder(page_text_tokens=50)
        odd = EmbedInput("Understand.", "see <|image_pad|> and <|video_pad|>", (picture(84, 84),), kind="page")
        assert np.isfinite(embedder.encode_documents([odd])).all()

    def test_the_kind_selects_the_budget(self):
        embedder = random_embedder()
        embedder.max_pixels = {"page": 112 * 112, "image": 56 * 56, "clip": 56 * 56}
        image = picture(200, 200)
        inputs = [EmbedInput("See.", images=(image,), kind=kind) for kind in ("page", "image")]
        prompt = final_prompt("See.", image_count=1)
        expected = embedder.embed_prompts([prompt] * 2, [[image]] * 2, [False] * 2, max_pixels=[112 * 112, 56 * 56])
        np.testing.assert_allclose(embedder.encode_documents(inputs), expected, atol=1e-6)
        assert np.abs(expected[0] - expected[1]).max() > 1e-3


class TestCheckpoint:
    def test_round_trip(self, embedder, saved):
        loaded = load_embedder(saved, dtype="float32", device="cpu")
        assert isinstance(loaded, Vlm2VecEmbedder)
        expected = embedder.embed_prompts(PROMPTS, IMAGES, IS_VIDEO)
        np.testing.assert_array_equal(loaded.embed_prompts(PROMPTS, IMAGES, IS_VIDEO), expected)
        assert loaded.max_pixels == embedder.max_pixels
        assert (loaded.dim, loaded.device, loaded.page_text) == (64, "cpu", False)

    def test_loaded_and_used_it_can_still_be_trained(self, saved):
        loaded = Vlm2VecEmbedder.load(saved, dtype="float32")
        loaded.embed_prompts(PROMPTS, IMAGES, IS_VIDEO)
        loaded.forward(loaded.prepare(PROMPTS, IMAGES, IS_VIDEO))[:, 0].sum().backward()
        assert all(parameter.grad is not None for parameter in loaded.model.parameters())

    def test_half_precision_file(self, embedder, tmp_path):
        embedder.save(tmp_path)
        stored = load_file(tmp_path / "model.safetensors")
        assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
        vectors = Vlm2VecEmbedder.load(tmp_path, dtype="float32").embed_prompts(PROMPTS, IMAGES, IS_VIDEO)
        assert (vectors * embedder.embed_prompts(PROMPTS, IMAGES, IS_VIDEO)).sum(1).min() > 0.999

    def test_transformers_opens_it(self, embedder, saved):
        from transformers import Qwen2VLForConditionalGeneration

        model, report = Qwen2VLForConditionalGeneration.from_pretrained(
            saved, output_loading_info=True, dtype=torch.float32, local_files_only=True
        )
        assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
        for name, parameter in embedder.model.named_parameters():
            torch.testing.assert_close(model.model.get_parameter(name), parameter)

    def test_public_layout(self, saved):
        keys = set(load_file(saved / "model.safetensors"))
        assert {"visual.patch_embed.proj.weight", "model.embed_tokens.weight", "model.norm.weight"} <= keys
        assert all(key.startswith(("visual.", "model.layers.", "model.embed_tokens.", "model.norm.")) for key in keys)
        config = json.loads((saved / "config.json").read_text())
        assert config["hidden_size"] == 64 and "text_config" not in config
        assert {path.name for path in saved.iterdir()} == {
            "config.json", "mmsearch.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json",
            "tokenizer_config.json",
        }  # fmt: skip

    @pytest.mark.parametrize("prefix", ["model.", ""], ids=["as transformers 4.52 and later", "bare model"])
    def test_other_key_layouts_and_a_nested_config(self, embedder, copy, prefix):
        tensors = {f"{prefix}{name}": p.detach().clone() for name, p in embedder.model.named_parameters()}
        save_file(tensors | {"lm_head.weight": torch.zeros(2, 2)}, copy / "model.safetensors")
        (copy / "config.json").write_text(embedder.model.config.to_json_string(use_diff=False))
        vectors = Vlm2VecEmbedder.load(copy, dtype="float32").embed_prompts(PROMPTS, IMAGES, IS_VIDEO)
        np.testing.assert_allclose(vectors, embedder.embed_prompts(PROMPTS, IMAGES, IS_VIDEO), atol=1e-6)

    def test_text_alone_equals_the_full_model(self, embedder, saved):
        texts = [prompt for prompt, images in zip(PROMPTS, IMAGES, strict=True) if images is None]
        loaded = Vlm2VecEmbedder.load(saved, dtype="float32")
        vectors = loaded.embed_prompts(texts, [None] * len(texts), [False] * len(texts))
        expected = embedder.embed_prompts(texts, [None] * len(texts), [False] * len(texts))
        np.testing.assert_allclose(vectors, expected, atol=1e-6)

    def test_a_text_query_does_not_import_transformers(self, saved):
        script = (
            "import sys; from mmsearch.embedders import load_embedder; from mmsearch.items import EmbedInput;"
            "print(load_embedder(sys.argv[1]).encode_queries([EmbedInput('Find:', 'a dog')]).shape);"
            "sys.exit('transformers' in sys.modules or 'torch._dynamo' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", script, str(saved)], capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout, done.stderr) == (0, "(1, 64)\n", "")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"), r"1 tensors missing: .*layers\.1\.mlp"),
            (lambda tensors: tensors.pop("visual.merger.ln_q.bias"), r"1 tensors missing: visual\.merger\.ln_q\.bias"),
            (lambda tensors: tensors.update({"model.extra": torch.zeros(1)}), r"1 tensors unexpected: .*extra"),
            (lambda tensors: tensors.update({"model.norm.weight": torch.zeros(3)}), r"norm\.weight has shape \(3,\)"),
        ],
        ids=["missing text", "missing vision", "unexpected", "shape"],
    )
    def test_tensors_that_do_not_fit(self, copy, change, message):
        tensors = load_file(copy / "model.safetensors")
        change(tensors)
        save_file(tensors, copy / "model.safetensors")
        with pytest.raises(EmbedderError, match=message):
            Vlm2VecEmbedder.load(copy)

    def test_vision_tensor_of_another_shape(self, copy):
        tensors = load_file(copy / "model.safetensors")
        tensors["visual.merger.ln_q.bias"] = torch.zeros(5)
        save_file(tensors, copy / "model.safetensors")
        with pytest.raises(EmbedderError, match="ln_q"):
            Vlm2VecEmbedder.load(copy).embed_prompts(PROMPTS, IMAGES, IS_VIDEO)

    def test_damaged_files(self, copy):
        (copy / "model.safetensors").write_bytes(b"not a tensor")
        with pytest.raises(EmbedderError, match="cannot be read"):
            Vlm2VecEmbedder.load(copy)
        (copy / "config.json").write_text("{")
        with pytest.raises(EmbedderError, match=r"config\.json cannot be read"):
            Vlm2VecEmbedder.load(copy)

    def test_pickled_weights_are_refused(self, copy):
        (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
        with pytest.raises(EmbedderError, match="pickled"):
            Vlm2VecEmbedder.load(copy)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"model_type": "llama"}, "'llama' is not supported"),
            ({"rope_scaling": {"type": "yarn"}}, "rope type"),
            ({"use_sliding_window": True}, "use_sliding_window"),
        ],
        ids=["type", "rope", "window"],
    )
    def test_other_architectures(self, copy, change, message):
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(EmbedderError, match=message):
            Vlm2VecEmbedder.load(copy)

    def test_tokenizer_of_another_model(self, copy):
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(config | {"image_token_id": 3}))
        with pytest.raises(EmbedderError, match="image_token_id 3"):
            Vlm2VecEmbedder.load(copy)

    def test_unknown_dtype_and_device(self, saved):
        with pytest.raises(EmbedderError, match="float32, bfloat16"):
            Vlm2VecEmbedder.load(saved, dtype="int3")
        with pytest.raises(EmbedderError, match="device 'warp'"):
            Vlm2VecEmbedder.load(saved, device="warp", dtype="float32")

    def test_not_found(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        for name, message in (
            (tmp_path, r"without config\.json"),
            (tmp_path / "nothing", "no checkpoint"),
            ("someone/some-model", "mmsearch models pull someone/some-model"),
        ):
            with pytest.raises(ModelNotFound, match=message):
                load_embedder(name)

    def test_shipped_model_missing(self, tmp_path, monkeypatch):
        monkeypatch.setattr("mmsearch.embedders.checkpoints.checkpoint.SHIPPED", tmp_path)
        with pytest.raises(ModelNotFound, match="install mmsearch again"):
            load_embedder("mini")

    def test_shipped_model(self, tmp_path, monkeypatch):
        made = load_embedder(tiny_compact(tmp_path / "mini"), device="cpu")
        monkeypatch.setattr("mmsearch.embedders.checkpoints.checkpoint.SHIPPED", tmp_path)
        assert load_embedder(device="cpu").model_key == made.model_key


class TestModelKey:
    def test_names_what_decides_a_vector(self, embedder, copy, monkeypatch):
        def key(**options) -> str:
            return Vlm2VecEmbedder.load(copy, dtype="float32", **options).model_key

        first = key()
        assert first == key() and first.startswith("unsaved-")
        assert set(first) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        others = {first, key(max_pixels=5000), key(min_pixels=6000)}

        sidecar = json.loads((copy / "mmsearch.json").read_text())
        (copy / "mmsearch.json").write_text(json.dumps(sidecar | {"page_text_tokens": 64}))
        others.add(key())
        (copy / "mmsearch.json").write_text(json.dumps(sidecar | {"query_text_tokens": 64}))
        assert key() == first  # decides queries only
        monkeypatch.setitem(__import__("mmsearch.prompts").prompts.DOCUMENT_INSTRUCTIONS, "page", "Read this page.")
        others.add(key())
        monkeypatch.undo()
        tensors = load_file(copy / "model.safetensors")
        tensors["model.norm.weight"][0] += 1e-3
        save_file(tensors, copy / "model.safetensors")
        others.add(key())
        assert len(others) == 6


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    yield before
    assert torch.get_num_threads() == before


def test_batches_are_made_ahead_in_order_but_not_all_at_once():
    made: list[int] = []
    batches = [[index] for index in range(20)]

    def make(rows: list[int]) -> list[int]:
        made.append(rows[0])
        return rows

    for step, batch in enumerate(made_ahead(make, batches, threads=3)):
        assert batch == [step]
        assert len(made) <= step + 1 + 3
    assert sorted(made) == list(range(20))


def test_pool_threads_compute_on_one_core_and_nobody_else_does(threads):
    with single_core_threads(2) as pool:
        assert {future.result() for future in [pool.submit(torch.get_num_threads) for _ in range(8)]} == {1}
        with ThreadPoolExecutor(1) as other:
            assert other.submit(torch.get_num_threads).result() == threads


def test_default_dtype_follows_the_processor(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    assert default_dtype("cpu") == torch.float32
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert default_dtype("cpu") == torch.bfloat16


@pytest.mark.parametrize("device", ["cuda:99", "cuda:-1", "gpu", "meta", "hpu:9"])
def test_a_device_that_cannot_be_used_is_named(device: str) -> None:
    for use in (
        demand_device,
        lambda name: load_embedder("toy", device=name),
        lambda name: open_checkpoint("mini", device=name),
    ):
        with pytest.raises(EmbedderError, match=rf"^this machine has no usable device '{device}' \(.*\); it has cpu"):
            use(device)
    demand_device("cpu")


def test_an_odd_match_scale_is_named() -> None:
    assert match_scales({"match_scale": {"page": [0.1, 0.2, 0.9]}})["page"].reliability == 0.9
    with pytest.raises(EmbedderError, match=r"match_scale of 'page' is \[0.1\]"):
        match_scales({"match_scale": {"page": [0.1]}})
