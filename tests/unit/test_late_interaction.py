"""ColPali and ColQwen2 on tiny random checkpoints: against transformers' processor, forward pass and MaxSim; and token pooling."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from mmsearch.embedders import load_embedder
from mmsearch.embedders.forward.late_interaction import LateInteractionEmbedder
from mmsearch.embedders.forward.token_pooling import pooled, ward_clusters
from mmsearch.errors import EmbedderError
from mmsearch.items import EmbedInput
from tests.tiny_late_interaction import save_colpali, save_colqwen2

SAVE = {"colpali": save_colpali, "colqwen2": save_colqwen2}
TEXTS = ["a dog", "the revenue of the third quarter, by region", "x"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=SAVE)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SAVE[request.param](tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture(scope="module")
def embedder(folder: Path) -> LateInteractionEmbedder:
    return opened(folder)


def opened(folder: Path, **options: Any) -> LateInteractionEmbedder:
    embedder = load_embedder(folder, device="cpu", dtype="float32", **options)
    assert isinstance(embedder, LateInteractionEmbedder)
    return embedder


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


PICTURES = [picture(100, 60, 1), picture(40, 150, 2), picture(100, 60, 3), picture(28, 28, 4)]


class Stock:
    """transformers' own processor and model, one padded batch at a time."""

    def __init__(self, folder: Path) -> None:
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json"),
            padding_side="left",
            **{
                k: v for k, v in json.loads((folder / "tokenizer_config.json").read_text()).items() if "token" in k[4:9]
            },
        )
        options = json.loads((folder / "preprocessor_config.json").read_text())
        del options["image_processor_type"]
        if folder.name == "colpali":
            from transformers.models.colpali.modeling_colpali import ColPaliForRetrieval
            from transformers.models.colpali.processing_colpali import ColPaliProcessor
            from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

            image_processor = SiglipImageProcessorPil(**options)
            image_processor.image_seq_length = options["image_seq_length"]
            self.processor: Any = ColPaliProcessor(image_processor, tokenizer)
            self.model: Any = ColPaliForRetrieval.from_pretrained(folder)
        else:
            from transformers.models.colqwen2.modeling_colqwen2 import ColQwen2ForRetrieval
            from transformers.models.colqwen2.processing_colqwen2 import ColQwen2Processor
            from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

            self.processor = ColQwen2Processor(Qwen2VLImageProcessorPil(**options), tokenizer)
            self.model = ColQwen2ForRetrieval.from_pretrained(folder)
        self.is_qwen = folder.name == "colqwen2"
        self.model.eval()

    @torch.no_grad()
    def embed(self, **what: Any) -> list[torch.Tensor]:
        inputs = self.processor(**what, return_tensors="pt", padding="longest")
        inputs.pop("labels", None)
        mask = inputs["attention_mask"]
        if self.is_qwen:
            inputs.pop("token_type_ids", None)
            if "images" in what:  # what its own forward pass leaves out since transformers 5
                is_image = (inputs["input_ids"] == self.processor.image_token_id).int()
                inputs["position_ids"], _ = self.model.vlm.get_rope_index(
                    inputs["input_ids"], is_image, image_grid_thw=inputs["image_grid_thw"], attention_mask=mask
                )
        embeddings = self.model(**inputs).embeddings
        return [row[real.bool()] for row, real in zip(embeddings, mask, strict=True)]


@pytest.fixture(scope="module")
def stock(folder: Path) -> Stock:
    return Stock(folder)


def texts(*words: str) -> list[EmbedInput]:
    return [EmbedInput("dropped", text=one) for one in words]


def pages(*images: Image.Image) -> list[EmbedInput]:
    return [EmbedInput("dropped", images=(one,), kind="page") for one in images]


def assert_same(got: list[np.ndarray], want: list[torch.Tensor]) -> None:
    assert [one.shape for one in got] == [tuple(one.shape) for one in want]
    for one, other in zip(got, want, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other.numpy(), atol=1e-5)


def test_queries_as_transformers_embeds_them(embedder: LateInteractionEmbedder, stock: Stock) -> None:
    got = embedder.encode_queries(texts(*TEXTS))
    assert_same(got, stock.embed(text=TEXTS))
    for tokens in got:
        np.testing.assert_allclose(np.linalg.norm(tokens, axis=1), 1, atol=1e-5)


def test_pictures_as_transformers_embeds_them(embedder: LateInteractionEmbedder, stock: Stock) -> None:
    assert_same(embedder.encode_documents(pages(*PICTURES)), stock.embed(images=PICTURES))


def test_maxsim_is_score_retrieval(embedder: LateInteractionEmbedder, stock: Stock) -> None:
    from mmsearch.vectors.maxsim import scores

    queries, documents = embedder.encode_queries(texts(*TEXTS)), embedder.encode_documents(pages(*PICTURES))
    want = stock.processor.score_retrieval(stock.embed(text=TEXTS), stock.embed(images=PICTURES)).numpy()
    for query, row in zip(queries, want, strict=True):
        np.testing.assert_allclose(scores(documents, query) * len(query), row, atol=1e-4)


def test_many_at_once_are_as_one_by_one(embedder: LateInteractionEmbedder) -> None:
    together = embedder.encode_documents(pages(*PICTURES, *PICTURES))
    for one, tokens in zip([*PICTURES, *PICTURES], together, strict=True):
        np.testing.assert_allclose(tokens, embedder.encode_documents(pages(one))[0], atol=1e-5)
    assert embedder.encode_queries([]) == []


def test_pictures_frames_and_words_lie_one_after_the_other(embedder: LateInteractionEmbedder) -> None:
    first, second = embedder.encode_documents(pages(*PICTURES[:2]))
    (words,) = embedder.encode_queries(texts("a dog"))
    frames = EmbedInput("", images=tuple(PICTURES[:2]), is_video=True, kind="clip")
    (clip,) = embedder.encode_documents([frames])
    np.testing.assert_allclose(clip, np.concatenate([first, second]), atol=1e-5)
    both = EmbedInput("", text="a dog", images=(PICTURES[0],))
    np.testing.assert_allclose(embedder.encode_queries([both])[0], np.concatenate([first, words]), atol=1e-5)
    np.testing.assert_allclose(embedder.encode_documents([both])[0], first, atol=1e-5)
    np.testing.assert_allclose(embedder.encode_documents(texts("a dog"))[0], words, atol=1e-5)
    with pytest.raises(EmbedderError, match="without text and picture"):
        embedder.encode_documents([EmbedInput("only an instruction")])


CANONICAL = {
    "colpali": [0.09022, -0.284416, 0.327359, -0.174053, 0.342489, 0.024845, -0.657196, 0.196643, -0.468032, -0.329366, 0.269362, -0.049733],
    "colqwen2": [-0.377079, -0.341076, 0.026574, -0.514991, 0.14315, 0.28279, -0.316648, -0.119725, 0.488651, -0.093388, -0.028645, -0.737515],
}  # fmt: skip


def test_canonical_numbers(embedder: LateInteractionEmbedder, folder: Path) -> None:
    """Of the seeded checkpoints, as first computed and then found equal to transformers'."""
    (query,), (page,) = embedder.encode_queries(texts("a dog")), embedder.encode_documents(pages(PICTURES[0]))
    found = [*query[0, :3], *query[-1, :3], *page[0, :3], *page[-1, :3]]
    np.testing.assert_allclose(found, CANONICAL[folder.name], atol=2e-5)


def test_bfloat16_says_nearly_the_same(folder: Path, embedder: LateInteractionEmbedder) -> None:
    half = load_embedder(folder, device="cpu", dtype="bfloat16")
    for got, want in (
        (half.encode_queries(texts(TEXTS[0])), embedder.encode_queries(texts(TEXTS[0]))),
        (half.encode_documents(pages(PICTURES[0])), embedder.encode_documents(pages(PICTURES[0]))),
    ):
        assert got[0].dtype == np.float32
        assert np.einsum("td,td->t", got[0], want[0]).mean() > 0.98


def test_another_layout_of_names_and_a_language_head_are_read(folder: Path, tmp_path: Path) -> None:
    """As `vidore/colqwen2-v1.0-hf` (`vlm.model.…`) and `vidore/colpali-v1.3-hf` (with `lm_head`) store them."""
    copy = copied(folder, tmp_path)
    tensors = load_file(copy / "model.safetensors")
    if folder.name == "colqwen2":
        tensors = {key.replace("vlm.", "vlm.model.", 1): tensor for key, tensor in tensors.items()}
    else:
        tensors["vlm.language_model.lm_head.weight"] = torch.zeros(260, 32)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    want = opened(folder).encode_documents(pages(PICTURES[0]))[0]
    np.testing.assert_allclose(opened(copy).encode_documents(pages(PICTURES[0]))[0], want, atol=1e-6)


def copied(folder: Path, place: Path) -> Path:
    copy = place / folder.name
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def test_broken_checkpoints_are_named(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    tensors = load_file(copy / "model.safetensors")
    del tensors["embedding_proj_layer.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EmbedderError, match=r"missing tensors for Col\w+: embedding_proj_layer\.weight"):
        opened(copy)
    (copy / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(EmbedderError, match=r"model\.safetensors cannot be read"):
        opened(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(EmbedderError, match=r"no \.safetensors file"):
        opened(copy)


def test_the_model_key_follows_what_decides_a_vector(
    folder: Path, embedder: LateInteractionEmbedder, tmp_path: Path
) -> None:
    copy = copied(folder, tmp_path)
    assert opened(copy).model_key == embedder.model_key
    keys = {embedder.model_key, opened(copy, max_pixels=8 * 784).model_key}
    (copy / "processor_config.json").write_text('{"visual_prompt_prefix": "<|image_pad|>Look."}')
    keys.add(opened(copy).model_key)
    (copy / "mmsearch.json").write_text('{"pool_factor": 3}')
    keys.add(opened(copy).model_key)
    assert len(keys) == 4
    (copy / "mmsearch.json").write_text('{"pool_factor": 0}')
    with pytest.raises(EmbedderError, match="pool_factor is 0"):
        opened(copy)


def test_pooled_documents(folder: Path, embedder: LateInteractionEmbedder, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    (copy / "mmsearch.json").write_text('{"pool_factor": 3}')
    smaller = opened(copy)
    (whole,), (fewer,) = embedder.encode_documents(pages(PICTURES[0])), smaller.encode_documents(pages(PICTURES[0]))
    np.testing.assert_allclose(fewer, pooled(whole, 3), atol=1e-5)
    assert len(fewer) == len(whole) // 3
    np.testing.assert_array_equal(smaller.encode_queries(texts("x"))[0], embedder.encode_queries(texts("x"))[0])


def test_pooling_joins_what_is_alike() -> None:
    tokens = np.float32([[1, 0], [0, 1], [0.6, 0.8], [1, 0], [0, 1], [0, 1]])
    np.testing.assert_allclose(pooled(tokens, 2), [[1, 0], [0, 1], [0.6, 0.8]])
    np.testing.assert_array_equal(pooled(tokens, 1), tokens)
    assert pooled(tokens[:2], 3).shape == (1, 2)
    with pytest.raises(ValueError, match="not 0"):
        pooled(tokens, 0)


def test_clusters_are_scipys() -> None:
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy", reason="scipy is only the oracle")
    points = np.random.default_rng(0).standard_normal((120, 6))
    for count in (1, 2, 40, 119):
        labels = hierarchy.fcluster(hierarchy.linkage(points, "ward"), count, "maxclust")
        first = {label: place for place, label in reversed(list(enumerate(labels)))}
        order = {label: rank for rank, label in enumerate(sorted(first, key=first.__getitem__))}
        assert ward_clusters(points, count).tolist() == [order[label] for label in labels]
