"""VisRAG-Ret on a tiny random checkpoint: against transformers' SigLIP encoder and Granite (a Llama with MiniCPM's scales).

On 2026-11-21 its parts were also run beside the published ones, outside this repository: the tower equalled timm 0.9.16's
`VisionTransformer` bit for bit on these tensors at four shapes, the resampler OpenBMB/VisRAG@9c0de9f `resampler.py` to 2e-6, and the
tiles `slice_image` for 400 random sizes, pixels too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from transformers.models.granite.configuration_granite import GraniteConfig
from transformers.models.granite.modeling_granite import GraniteModel
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipVisionModel

from mmsearch.embedders import load_embedder
from mmsearch.embedders.families.visrag import QUERY_INSTRUCTION, VisragEmbedder
from mmsearch.embedders.forward.minicpm_v import places, tiles_of
from mmsearch.errors import EmbedderError
from mmsearch.items import EmbedInput
from tests.tiny_late_interaction import byte_tokenizer
from tests.tiny_visrag import CONFIG, SPECIAL, VISION_BLOCKS, VISION_INNER, VISION_WIDTH, random_tensors, save_visrag


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_visrag(tmp_path_factory.mktemp("models") / "visrag")


@pytest.fixture(scope="module")
def embedder(folder: Path) -> VisragEmbedder:
    return opened(folder)


def opened(folder: Path, **options: int) -> VisragEmbedder:
    embedder = load_embedder(folder, device="cpu", dtype="float32", **options)  # type: ignore[arg-type]
    assert isinstance(embedder, VisragEmbedder)
    return embedder


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


PICTURES = [picture(100, 60, 1), picture(110, 120, 2), picture(200, 30, 3), picture(28, 28, 4), picture(60, 55, 5)]


def page(image: Image.Image) -> EmbedInput:
    return EmbedInput("dropped", text="dropped too", images=(image,), kind="page")


class Reference:
    """One input at a time, through other people's layers, without a batch or a shortcut."""

    def __init__(self) -> None:
        tensors = random_tensors()
        self.tensors = tensors
        self.tower = SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=VISION_WIDTH,
                intermediate_size=VISION_INNER,
                num_hidden_layers=VISION_BLOCKS,
                num_attention_heads=1,
                hidden_act="gelu",
                vision_use_head=False,
            )
        )
        stored = {f"post_layernorm.{part}": tensors[f"vpm.norm.{part}"] for part in ("weight", "bias")}
        for n in range(VISION_BLOCKS):
            for part in ("weight", "bias"):
                at = f"vpm.blocks.{n}"
                q, k, v = tensors[f"{at}.attn.qkv.{part}"].chunk(3)
                to = f"encoder.layers.{n}"
                stored |= {f"{to}.self_attn.{name}_proj.{part}": one for name, one in (("q", q), ("k", k), ("v", v))}
                stored[f"{to}.self_attn.out_proj.{part}"] = tensors[f"{at}.attn.proj.{part}"]
                for own, other in (
                    ("norm1", "layer_norm1"),
                    ("norm2", "layer_norm2"),
                    ("mlp.fc1", "mlp.fc1"),
                    ("mlp.fc2", "mlp.fc2"),
                ):
                    stored[f"{to}.{other}.{part}"] = tensors[f"{at}.{own}.{part}"]
        missing, unexpected = self.tower.load_state_dict(stored, strict=False)
        assert not unexpected and all("embeddings" in name for name in missing)
        self.language_model = GraniteModel(
            GraniteConfig(
                **{
                    name: CONFIG[name]
                    for name in CONFIG
                    if name.startswith(("vocab", "hidden", "inter", "num_", "rms"))
                },
                embedding_multiplier=CONFIG["scale_emb"],
                residual_multiplier=CONFIG["scale_depth"] / math.sqrt(CONFIG["num_hidden_layers"]),
                attention_multiplier=(CONFIG["hidden_size"] // CONFIG["num_attention_heads"]) ** -0.5,
                rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            )
        )
        own = {name.removeprefix("llm.model."): one for name, one in tensors.items() if name.startswith("llm.model.")}
        self.language_model.load_state_dict(own)
        self.tower.eval()
        self.language_model.eval()

    def see(self, tile: Image.Image) -> torch.Tensor:
        """[4, hidden]"""
        t = self.tensors
        pixels = (torch.from_numpy(np.array(tile)).float() / 255 - 0.5) / 0.5
        patches = F.conv2d(
            pixels.permute(2, 0, 1)[None], t["vpm.patch_embed.proj.weight"], t["vpm.patch_embed.proj.bias"], stride=14
        )
        rows, columns = patches.shape[2:]
        square = t["vpm.pos_embed"].view(1, 3, 3, -1).permute(0, 3, 1, 2)
        placed = patches + F.interpolate(square, size=(rows, columns), mode="bicubic", antialias=True)
        features = self.tower.post_layernorm(
            self.tower.encoder(inputs_embeds=placed.flatten(2).transpose(1, 2)).last_hidden_state
        )[0]
        hidden = CONFIG["hidden_size"]

        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            return F.layer_norm(x, (hidden,), t[f"resampler.{name}.weight"], t[f"resampler.{name}.bias"], 1e-6)

        values = norm(features @ t["resampler.kv_proj.weight"].T, "ln_kv")
        frequency = [10000 ** (-i / (hidden // 4)) for i in range(hidden // 4)]
        where = torch.tensor(
            [
                [*(math.sin(x * f) for f in frequency), *(math.cos(x * f) for f in frequency), *(math.sin(y * f) for f in frequency), *(math.cos(y * f) for f in frequency)]
                for y in range(rows)
                for x in range(columns)
            ]
        )  # fmt: skip
        weights, biases = t["resampler.attn.in_proj_weight"].chunk(3), t["resampler.attn.in_proj_bias"].chunk(3)
        query = norm(t["resampler.query"], "ln_q") + t["resampler.pos_embed"]
        q, k, v = (
            (x @ weight.T + bias).view(len(x), 2, 128).transpose(0, 1)
            for x, weight, bias in zip((query, values + where, values), weights, biases, strict=True)
        )
        seen = ((q @ k.transpose(1, 2)) / math.sqrt(128)).softmax(-1) @ v
        out = (
            seen.transpose(0, 1).flatten(1) @ t["resampler.attn.out_proj.weight"].T + t["resampler.attn.out_proj.bias"]
        )
        return norm(out, "ln_post") @ t["resampler.proj"]

    @torch.no_grad()
    def embed(self, text: str, image: Image.Image | None = None) -> np.ndarray:
        tokenizer = byte_ids()
        prompt, tiles = "<s>", []
        if image is not None:
            tiles, grid = tiles_of(image, 4, 56, 14)
            one = "<image><unk><unk><unk><unk></image>"
            prompt += one
            if grid:
                prompt += "<slice>" + "\n".join([one * grid[0]] * grid[1]) + "</slice>"
            prompt += "\n"
        ids = torch.tensor(tokenizer(prompt + text))
        tokens = self.language_model.embed_tokens(ids)
        if tiles:  # Granite scales what it is given, pictures too, which MiniCPM does not
            tokens[ids == SPECIAL_IDS["<unk>"]] = torch.cat([self.see(tile) for tile in tiles]) / CONFIG["scale_emb"]
        states = self.language_model(inputs_embeds=tokens[None]).last_hidden_state[0]
        weights = torch.arange(1, len(ids) + 1).float()
        mean = (states * weights[:, None]).sum(0) / weights.sum()
        return (mean / mean.norm()).numpy()


SPECIAL_IDS = {name: 256 + n for n, name in enumerate(SPECIAL)}


def byte_ids() -> Callable[[str], list[int]]:
    tokenizer = byte_tokenizer(SPECIAL)
    assert {name: tokenizer.token_to_id(name) for name in SPECIAL} == SPECIAL_IDS
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


def test_pictures_with_and_without_tiles(embedder: VisragEmbedder, reference: Reference) -> None:
    got = embedder.encode_documents([page(image) for image in PICTURES])
    want = [reference.embed("", image) for image in PICTURES]
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert got.dtype == np.float32
    counts = [len(tiles_of(image, 4, 56, 14)[0]) for image in PICTURES]
    assert min(counts) == 1 and max(counts) == 5, "with and without tiles, in one batch"


def test_texts_and_both(embedder: VisragEmbedder, reference: Reference) -> None:
    queries = [
        EmbedInput("dropped", text="revenue by region"),
        EmbedInput("dropped", text="x"),
        EmbedInput("", text="like this", images=(PICTURES[0],)),
    ]
    want = [
        reference.embed(f"{QUERY_INSTRUCTION}revenue by region"),
        reference.embed(f"{QUERY_INSTRUCTION}x"),
        reference.embed(f"{QUERY_INSTRUCTION}like this", PICTURES[0]),
    ]
    np.testing.assert_allclose(embedder.encode_queries(queries), want, atol=1e-5)
    np.testing.assert_allclose(
        embedder.encode_documents(queries[:1]), [reference.embed("revenue by region")], atol=1e-5
    )
    assert QUERY_INSTRUCTION == "Represent this query for retrieving relevant documents: "
    with pytest.raises(EmbedderError, match="without text and picture"):
        embedder.encode_queries([EmbedInput("only an instruction")])
    assert embedder.encode_queries([]).shape == (0, 256)


def test_many_at_once_are_as_one_by_one(embedder: VisragEmbedder) -> None:
    inputs = [page(image) for image in [*PICTURES, *PICTURES[::-1]]]
    single = np.concatenate([embedder.encode_documents([one]) for one in inputs])
    np.testing.assert_allclose(embedder.encode_documents(inputs), single, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(single, axis=1), 1, atol=1e-5)


def test_bfloat16_says_nearly_the_same(folder: Path, embedder: VisragEmbedder) -> None:
    half = load_embedder(folder, device="cpu", dtype="bfloat16")
    inputs = [page(PICTURES[0]), EmbedInput("", text="a dog")]
    assert (half.encode_documents(inputs) * embedder.encode_documents(inputs)).sum(1).min() > 0.98


def test_a_clip_is_the_mean_of_its_frames(embedder: VisragEmbedder) -> None:
    frames = embedder.encode_documents([page(image) for image in PICTURES[:3]])
    (clip,) = embedder.encode_documents([EmbedInput("", images=tuple(PICTURES[:3]), is_video=True, kind="clip")])
    mean = frames.mean(0)
    np.testing.assert_allclose(clip, mean / np.linalg.norm(mean), atol=1e-5)


TILES: dict[tuple[int, int], tuple[tuple[int, int], tuple[int, int] | None, tuple[int, int] | None]] = {
    (1275, 1650): ((392, 504), (3, 3), (392, 504)),
    (1000, 1000): ((448, 448), (2, 2), (448, 448)),
    (448, 448): ((448, 448), None, None),
    (449, 448): ((448, 448), (2, 1), (322, 630)),
    (600, 300): ((630, 322), None, None),
    (2000, 400): ((994, 196), (5, 1), (448, 448)),
    (100, 60): ((574, 350), None, None),
    (1920, 1080): ((602, 336), (4, 2), (420, 476)),
    (320, 2000): ((182, 1120), (1, 5), (406, 504)),
}
"""(width, height): size of the whole, grid (columns, rows), size of a tile; at the published 448 pixels, patch 14, 9 tiles."""


@pytest.mark.parametrize("size", TILES, ids=str)
def test_tiles_are_those_of_the_published_code(size: tuple[int, int]) -> None:
    """Recorded from `slice_image` of OpenBMB/VisRAG@9c0de9f `modeling_minicpmv.py`."""
    pictures, grid = tiles_of(Image.new("RGB", size), 9, 448, 14)
    whole, want, tile = TILES[size]
    assert (pictures[0].size, grid) == (whole, want)
    assert {one.size for one in pictures[1:]} == ({tile} if tile else set())
    assert len(pictures) - 1 == (math.prod(want) if want else 0)


def test_tiles_hold_the_picture_in_order() -> None:
    colours = np.zeros((896, 896, 3), np.uint8)
    colours[:448, 448:], colours[448:, :448], colours[448:, 448:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    pictures, grid = tiles_of(Image.fromarray(colours), 9, 448, 14)
    assert grid == (2, 2)
    assert [one.getpixel((224, 224)) for one in pictures[1:]] == [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)]


CANONICAL = [-0.100787, -0.006545, 0.044016, -0.077854, -0.09605, -0.053405, 0.0179, -0.002431]
"""Of the seeded checkpoint, as first computed and found equal to the reference above."""


def test_canonical_numbers(embedder: VisragEmbedder) -> None:
    (query,), (document,) = (
        embedder.encode_queries([EmbedInput("", text="a dog")]),
        embedder.encode_documents([page(PICTURES[0])]),
    )
    np.testing.assert_allclose([*query[:4], *document[:4]], CANONICAL, atol=2e-5)


def test_places_by_hand() -> None:
    """Second column, third row; four frequencies: 1, 1/10, 1/100, 1/1000."""
    got = places((3, 2), 16)[5]
    frequency = [1, 0.1, 0.01, 0.001]
    want = [
        *np.sin(frequency),
        *np.cos(frequency),
        *np.sin(np.multiply(frequency, 2)),
        *np.cos(np.multiply(frequency, 2)),
    ]
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_fewer_pixels_are_fewer_tiles_and_another_key(
    folder: Path, embedder: VisragEmbedder, reference: Reference
) -> None:
    one_tile = opened(folder, max_pixels=56 * 56)
    assert one_tile.model_key != embedder.model_key
    assert embedder.max_pixels["page"] == 4 * 56 * 56
    large = page(PICTURES[0])
    assert np.abs(one_tile.encode_documents([large]) - embedder.encode_documents([large])).max() > 1e-3
    small = page(PICTURES[3])
    np.testing.assert_allclose(one_tile.encode_documents([small]), embedder.encode_documents([small]), atol=1e-6)


def test_broken_checkpoints_are_named(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    for name, reason in (
        ("llm.model.layers.1.mlp.up_proj.weight", "1 tensors missing: layers.1.mlp.up_proj.weight"),
        ("vpm.pos_embed", r"lacks the tensor vpm\.pos_embed"),
        ("resampler.kv_proj.weight", r"lacks the tensor resampler\.kv_proj"),
    ):
        tensors = random_tensors()
        del tensors[name]
        save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(EmbedderError, match=reason):
            opened(copy)
    save_file({**random_tensors(), "apm.odd": torch.zeros(1)}, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EmbedderError, match=r"unexpected tensor 'apm\.odd'"):
        opened(copy)
    for change, reason in (
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling"),
        ({"is_causal": False}, "is_causal"),
    ):
        (copy / "config.json").write_text(json.dumps({**CONFIG, **change}))
        with pytest.raises(EmbedderError, match=reason):
            opened(copy)
    (copy / "config.json").write_text(json.dumps({"model_type": "minicpmv"}))
    with pytest.raises(EmbedderError, match="lacks vocab_size"):
        opened(copy)
