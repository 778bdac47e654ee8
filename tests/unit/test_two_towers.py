"""CLIP, SigLIP, SigLIP 2, BLIP and X-CLIP on tiny random checkpoints, against transformers' own forward pass and picture processors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from mmsearch.embedders import Embedder, load_embedder
from mmsearch.embedders.families.siglip import patch_grid
from mmsearch.embedders.families.xclip import spread
from mmsearch.embedders.forward.batching import in_halves
from mmsearch.embedders.forward.fixed_pictures import PictureRule
from mmsearch.errors import EmbedderError, ModelNotFound
from mmsearch.items import EmbedInput
from tests.tiny_models import byte_tokenizer, picture, randomise, write_checkpoint

TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 260}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "image_size": 32,
    "patch_size": 8,
}
CROPPED = {
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 32, "width": 32},
    "do_center_crop": True,
    "resample": 3,
}
SQUEEZED = {"size": {"height": 32, "width": 32}, "resample": 3}
CLIP_TOKENS = {"specials": ["<|startoftext|>", "<|endoftext|>"], "template": "<|startoftext|> $A <|endoftext|>"}


def tiny_clip(folder: Path) -> Path:
    from transformers import CLIPConfig, CLIPModel

    ends = {"bos_token_id": 256, "eos_token_id": 257, "max_position_embeddings": 24}
    model = randomise(CLIPModel(CLIPConfig(text_config=TEXT | ends, vision_config=VISION, projection_dim=20)))
    # as openai/clip-vit-* writes it: bare numbers
    old_style = {"size": 32, "crop_size": 32, "do_center_crop": True, "resample": 3}
    return write_checkpoint(folder, model, byte_tokenizer(**CLIP_TOKENS), preprocessor=old_style)


def tiny_siglip(folder: Path) -> Path:
    from transformers import SiglipConfig, SiglipModel

    own = {"max_position_embeddings": 20, "projection_size": 32}
    model = randomise(SiglipModel(SiglipConfig(text_config=TEXT | own, vision_config=VISION)))
    return write_checkpoint(
        folder,
        model,
        byte_tokenizer(["</s>"], template="$A </s>"),
        preprocessor=SQUEEZED | {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]},
        tokenizer_config={"tokenizer_class": "SiglipTokenizer", "pad_token": "</s>"},
    )


def tiny_naflex(folder: Path) -> Path:
    from transformers import Siglip2Config, Siglip2Model

    own = {"max_position_embeddings": 20, "projection_size": 32}
    vision = {key: value for key, value in VISION.items() if key != "image_size"} | {"num_patches": 16}
    model = randomise(Siglip2Model(Siglip2Config(text_config=TEXT | own, vision_config=vision)))
    return write_checkpoint(
        folder,
        model,
        byte_tokenizer(["<pad>", "<eos>"], template="$A <eos>"),
        preprocessor={"max_num_patches": 16, "patch_size": 8, "resample": 2},
        tokenizer_config={"tokenizer_class": "GemmaTokenizer", "pad_token": {"content": "<pad>"}},
    )


def tiny_blip(folder: Path) -> Path:
    from transformers import BlipConfig, BlipForImageTextRetrieval

    text = TEXT | {"encoder_hidden_size": 32, "max_position_embeddings": 48, "is_decoder": False}
    config = BlipConfig(text_config=text, vision_config=VISION, image_text_hidden_size=20)
    tokens = byte_tokenizer(["[CLS]", "[SEP]"], template="[CLS] $A [SEP]", lower=True)
    return write_checkpoint(folder, randomise(BlipForImageTextRetrieval(config)), tokens, preprocessor=SQUEEZED)


def tiny_xclip(folder: Path) -> Path:
    from transformers import XCLIPConfig, XCLIPModel

    ends = {"bos_token_id": 256, "eos_token_id": 257, "max_position_embeddings": 24}
    vision = VISION | {
        "num_frames": 4, "mit_hidden_size": 20, "mit_intermediate_size": 24, "mit_num_hidden_layers": 1, "mit_num_attention_heads": 4,
    }  # fmt: skip
    config = XCLIPConfig(
        text_config=TEXT | ends, vision_config=vision, projection_dim=20, prompt_layers=1, prompt_num_attention_heads=4
    )
    return write_checkpoint(
        folder, randomise(XCLIPModel(config)), byte_tokenizer(**CLIP_TOKENS), preprocessor=CROPPED | {"resample": 2}
    )


def clip_oracle(model: Any, ids: torch.Tensor, images: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    output = model(input_ids=ids, **processor(images, return_tensors="pt"))
    return output.text_embeds, output.image_embeds


def siglip_oracle(model: Any, ids: torch.Tensor, images: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    ids = F.pad(ids, (0, 20 - ids.shape[1]), value=256)
    output = model(
        input_ids=ids, **SiglipImageProcessorPil(size={"height": 32, "width": 32})(images, return_tensors="pt")
    )
    return output.text_embeds, output.image_embeds


def naflex_oracle(model: Any, ids: torch.Tensor, images: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    ids = F.pad(ids, (0, 20 - ids.shape[1]), value=256)
    processor = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    output = model(input_ids=ids, **processor(images, return_tensors="pt"))
    return output.text_embeds, output.image_embeds


def blip_oracle(model: Any, ids: torch.Tensor, images: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Its forward gives the product of both unit vectors only; the vectors are read off as it computes them."""
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    pixels = BlipImageProcessorPil(size={"height": 32, "width": 32})(images, return_tensors="pt")["pixel_values"]
    output = model(input_ids=ids, pixel_values=pixels, use_itm_head=False)
    text = F.normalize(model.text_proj(output.question_embeds[:, 0]), dim=-1)
    seen = F.normalize(model.vision_proj(output.last_hidden_state[:, 0]), dim=-1)
    torch.testing.assert_close(seen @ text.T, output.itm_score)
    return text, seen


def xclip_oracle(model: Any, ids: torch.Tensor, images: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """CLIP's picture processor does the same as VideoMAE's, with other numbers; the text without the prompt of a video."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, resample=2,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    )  # fmt: skip
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    clips = pixels[:, None].expand(-1, 4, -1, -1, -1)
    video = model.get_video_features(clips).pooler_output
    return F.normalize(model.get_text_features(ids).pooler_output, dim=-1), F.normalize(video, dim=-1)


@dataclass(frozen=True)
class Case:
    make: Callable[[Path], Path]
    oracle: Callable[[Any, torch.Tensor, list[Any]], tuple[torch.Tensor, torch.Tensor]]
    dim: int
    longest: int
    canonical: tuple[list[float], list[float]]
    """The first four numbers of the text "a red boat" and of picture(48, 40)."""


CASES = {
    "clip": Case(
        tiny_clip,
        clip_oracle,
        20,
        24,
        ([-0.076347, 0.276733, 0.029874, 0.330303], [0.171096, 0.029494, -0.658330, -0.043299]),
    ),
    "siglip": Case(
        tiny_siglip,
        siglip_oracle,
        32,
        20,
        ([0.061774, 0.288121, -0.264412, -0.252040], [0.016078, -0.217343, 0.234043, 0.295295]),
    ),
    "siglip2": Case(
        tiny_naflex,
        naflex_oracle,
        32,
        20,
        ([0.065773, 0.286978, -0.270441, -0.251157], [0.068156, -0.131296, 0.198074, 0.272239]),
    ),
    "blip": Case(
        tiny_blip,
        blip_oracle,
        20,
        35,
        ([0.127650, -0.142809, 0.089873, -0.364888], [-0.264609, 0.245610, -0.081966, -0.194970]),
    ),
    "xclip": Case(
        tiny_xclip,
        xclip_oracle,
        20,
        24,
        ([-0.352109, -0.216953, -0.013491, 0.082520], [-0.125433, -0.267365, -0.110984, -0.084395]),
    ),
}
IMAGES = [picture(48, 40), picture(30, 90, 1), picture(32, 32, 2), picture(121, 33, 3)]
TEXTS = ["a red boat", "Two dogs, asleep!", "x"]


@dataclass(frozen=True)
class Opened:
    case: Case
    folder: Path
    embedder: Any


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=CASES)
def opened(request, tmp_path_factory) -> Opened:
    case = CASES[request.param]
    folder = case.make(tmp_path_factory.mktemp(request.param) / "model")
    return Opened(case, folder, load_embedder(folder, device="cpu", dtype="float32"))


def text(words: str, instruction: str = "") -> EmbedInput:
    return EmbedInput(instruction, words)


def seen(*images: Any, words: str = "", is_video: bool = False) -> EmbedInput:
    return EmbedInput("", words, images, is_video, "clip" if is_video else "image")


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_texts_and_pictures_as_transformers_embeds_them(opened):
    embedder = opened.embedder
    ours_text = embedder.encode_queries([text(words) for words in TEXTS])
    ours_seen = embedder.encode_documents([seen(image) for image in IMAGES])
    with torch.no_grad():
        for row, words in enumerate(TEXTS):
            ids = torch.tensor([embedder.token_ids(words)])
            of_text, of_pictures = opened.case.oracle(embedder.model, ids, IMAGES)
            np.testing.assert_allclose(ours_text[row], of_text[0], atol=1e-5)
    np.testing.assert_allclose(ours_seen, of_pictures, atol=1e-5)
    assert isinstance(embedder, Embedder)
    assert ours_seen.shape == (4, opened.case.dim) and embedder.dim == opened.case.dim
    assert np.abs(ours_seen[0] - ours_seen[1]).max() > 1e-3  # the model sees something


def test_canonical_numbers(opened):
    vectors = opened.embedder.encode_documents([text("a red boat"), seen(IMAGES[0])])
    np.testing.assert_allclose(vectors[:, :4], opened.case.canonical, atol=2e-5)


def test_together_as_alone_in_any_order(opened):
    inputs = [*map(text, TEXTS), *map(seen, IMAGES), seen(*IMAGES, is_video=True), seen(IMAGES[1], words="x")]
    alone = np.concatenate([opened.embedder.encode_queries([item]) for item in inputs])
    np.testing.assert_allclose(opened.embedder.encode_queries(inputs), alone, atol=1e-5)
    np.testing.assert_allclose(opened.embedder.encode_queries(inputs[::-1])[::-1], alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-5)


def test_text_and_picture_together_are_the_sum_of_both(opened):
    both, words, image = opened.embedder.encode_queries([seen(IMAGES[0], words="x"), text("x"), seen(IMAGES[0])])
    np.testing.assert_allclose(both, unit(words + image), atol=1e-5)
    with_clip, clip = opened.embedder.encode_queries(
        [seen(*IMAGES, words="x", is_video=True), seen(*IMAGES, is_video=True)]
    )
    np.testing.assert_allclose(with_clip, unit(words + clip), atol=1e-5)


def test_the_instruction_is_dropped(opened):
    with_it, without = opened.embedder.encode_queries([text("x", "Find me an image:"), text("x")])
    np.testing.assert_array_equal(with_it, without)


def test_long_texts_are_cut_with_their_end_token(opened):
    ids = opened.embedder.token_ids("a" * 500)
    assert len(ids) == opened.case.longest
    assert ids[-1] == opened.embedder.token_ids("b")[-1]
    opened.embedder.encode_queries([text("a" * 500)])


def test_a_clip(opened):
    """X-CLIP sees its frames together; of the others it is the mean of the frames."""
    clip, *frames = opened.embedder.encode_documents([seen(*IMAGES, is_video=True), *map(seen, IMAGES)])
    if type(opened.embedder).__name__ == "XClipEmbedder":
        pixels = [
            opened.embedder.rule.normalised(torch.tensor(opened.embedder.rule.pixels(one))[None]) for one in IMAGES
        ]
        with torch.no_grad():
            expected = opened.embedder.model.get_video_features(torch.cat(pixels)[None]).pooler_output[0].numpy()
        np.testing.assert_allclose(clip, unit(expected), atol=1e-5)
        assert np.abs(clip - unit(np.mean(frames, 0))).max() > 1e-3
        other_way = opened.embedder.encode_documents([seen(*IMAGES[::-1], is_video=True)])[0]
        assert np.abs(clip - other_way).max() > 1e-4
    else:
        np.testing.assert_allclose(clip, unit(np.mean(frames, 0)), atol=1e-5)


def test_the_key_changes_with_weights_and_pictures(opened, tmp_path):
    changed = tmp_path / "changed"
    changed.mkdir()
    for path in opened.folder.iterdir():
        (changed / path.name).write_bytes(path.read_bytes())

    def key() -> str:
        return load_embedder(changed, device="cpu", dtype="float32").model_key.rpartition("-")[2]

    first = key()
    assert first == opened.embedder.model_key.rpartition("-")[2]
    fields = json.loads((changed / "preprocessor_config.json").read_text())
    (changed / "preprocessor_config.json").write_text(json.dumps(fields | {"resample": 1}))
    second = key()
    tensors = load_file(changed / "model.safetensors")
    some = sorted(tensors)[0]
    save_file({**tensors, some: tensors[some] + 1}, changed / "model.safetensors", metadata={"format": "pt"})
    assert len({first, second, key()}) == 3


def test_a_damaged_folder_is_named(opened, tmp_path):
    for path in opened.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)

    def expect(message: str, error: type[Exception] = EmbedderError) -> None:
        with pytest.raises(error, match=message):
            load_embedder(tmp_path, device="cpu", dtype="float32")

    name = next(key for key in sorted(tensors) if "layer_norm1" in key and key.endswith("bias"))
    save_file({key: value for key, value in tensors.items() if key != name}, weights, metadata={"format": "pt"})
    expect(f"missing tensors.*{name}")
    save_file({**tensors, "stranger": torch.zeros(1)}, weights, metadata={"format": "pt"})
    expect("unexpected tensors.*stranger")
    weights.write_bytes(b"not safetensors")
    expect("model.safetensors cannot be read")
    weights.unlink()
    expect("no .safetensors file", ModelNotFound)


def test_bfloat16_stays_near(opened):
    """How near on real weights is tests/benchmarks' matter; here only that every part follows the dtype."""
    half = load_embedder(opened.folder, device="cpu", dtype="bfloat16")
    inputs = [text("a boat"), seen(IMAGES[0])]
    assert (half.encode_documents(inputs) * opened.embedder.encode_documents(inputs)).sum(1).min() > 0.99


def test_what_does_not_fit_is_tried_in_halves():
    tried = []

    def compute(rows):
        tried.append(list(rows))
        if len(rows) > 2 or 7 in rows:
            raise torch.OutOfMemoryError
        return np.array(rows, np.float32)[:, None]

    assert in_halves(compute, [3, 1, 2, 5, 4], device="cuda:0").ravel().tolist() == [3, 1, 2, 5, 4]
    assert tried == [[3, 1, 2, 5, 4], [3, 1], [2, 5, 4], [2], [5, 4]]
    with pytest.raises(EmbedderError, match="input 7 does not fit into the memory of cuda:0"):
        in_halves(compute, [1, 7], device="cuda:0")


def test_the_narrowest_pictures(opened):
    inputs = [seen(picture(30_000, 1)), seen(picture(1, 30_000)), seen(picture(1, 1))]
    assert np.isfinite(opened.embedder.encode_documents(inputs)).all()


def test_picture_rules_in_all_spellings():
    default = PictureRule((224, 224), 224, 3, (0.0,), (1.0,))
    assert PictureRule.of({}, default) == default
    assert PictureRule.of({"size": 336, "crop_size": 336}, default).size == (336, 336)
    squeezed = PictureRule.of({"size": {"height": 20, "width": 30}, "do_center_crop": False}, default)
    assert (squeezed.size, squeezed.shorter_side) == ((30, 20), None)
    with pytest.raises(EmbedderError, match="do_normalize"):
        PictureRule.of({"do_normalize": False}, default)
    with pytest.raises(EmbedderError, match=r"size.*odd"):
        PictureRule.of({"size": "odd"}, default)


@pytest.mark.parametrize("size", [(640, 480), (30, 3000), (16, 16), (7, 5), (1000, 1001)])
def test_naflex_grids_as_published(size):
    from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

    height, width = get_image_size_for_max_num_patches(size[1], size[0], 16, 256)
    assert patch_grid(size, 16, 256) == (height // 16, width // 16)


def test_pictures_that_the_tower_does_not_take_are_refused(tmp_path):
    fields = {"size": {"height": 64, "width": 64}, "resample": 3}
    folder = tiny_blip(tmp_path / "model")
    (folder / "preprocessor_config.json").write_text(json.dumps(fields))
    with pytest.raises(EmbedderError, match=r"64x64.*32x32"):
        load_embedder(folder, device="cpu", dtype="float32")


def test_siglip_1_reads_neither_capitals_nor_punctuation(tmp_path):
    folder = tiny_siglip(tmp_path / "model")
    first = load_embedder(folder, device="cpu", dtype="float32")
    assert first.token_ids("Two  dogs, asleep!") == first.token_ids("two dogs asleep")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GemmaTokenizer", "pad_token": "</s>"}')
    second = load_embedder(folder, device="cpu", dtype="float32")
    assert second.token_ids("Two dogs!") == second.token_ids("two dogs!") != second.token_ids("two dogs")


def test_naflex_keeps_to_the_budget(tmp_path):
    budgeted = load_embedder(tiny_naflex(tmp_path / "model"), device="cpu", dtype="float32", max_pixels=6 * 64)
    assert budgeted.prepared((picture(300, 200),)).shape == (2, 3, 192)
    assert set(budgeted.max_pixels.values()) == {6 * 64}
    whole = load_embedder(tmp_path / "model", device="cpu", dtype="float32")
    assert whole.model_key != budgeted.model_key
    inputs = [seen(picture(300, 200))]
    assert np.abs(whole.encode_documents(inputs) - budgeted.encode_documents(inputs)).max() > 1e-3


def test_frames_are_spread_evenly():
    assert spread(8, 8) == list(range(8))
    assert spread(1, 4) == [0, 0, 0, 0]
    assert spread(16, 4) == [0, 5, 10, 15]
    assert spread(2, 4) == [0, 0, 1, 1]
