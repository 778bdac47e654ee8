"""The loop that `make bench-encoding` times gives the vectors that our embedder gives: what is compared there is the same work."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmsearch.embedders import load_embedder
from tests.tiny_training import write_checkpoint

FILE = Path(__file__).parents[1] / "benchmarks" / "reference_loop.py"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("reference_loop", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def picture(benchmark: Any, width: int, height: int, seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), np.uint8)
    return benchmark.jpeg(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def test_equal_vectors_of_texts_pages_photos_and_clips_in_one_batch(benchmark: Any, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path)
    embedder: Any = load_embedder(checkpoint, device="cpu", dtype="float32")
    make = benchmark.Input
    inputs = [
        make("word", "dog", (), 0),
        make("caption", "Find me an everyday image that matches the given caption: two dogs run over wet sand", (), 0),
        make("page", "<|image_pad|> Understand the content of the provided document image. Revenue by region", (picture(benchmark, 210, 297, 1),), 31360),
        make("photo", "<|image_pad|> Represent the given image.", (picture(benchmark, 320, 200, 2),), 15680),
        make("clip", "<|video_pad|> Understand the content of the provided video.", tuple(picture(benchmark, 160, 120, n) for n in range(8)), 12544),
        make("clip", "<|video_pad|> Understand the content of the provided video.", tuple(picture(benchmark, 160, 120, n) for n in range(3)), 12544),
    ]  # fmt: skip
    loop = benchmark.ReferenceLoop(checkpoint, min_pixels=embedder.min_pixels, device="cpu", dtype=torch.float32)
    np.testing.assert_allclose(loop.embed(inputs), benchmark.ours(embedder, inputs), atol=1e-5)
    assert np.ptp(loop.embed(inputs), axis=0).max() > 0.1, "the inputs are told apart"
    assert benchmark.products_flop(embedder, inputs) == pytest.approx(
        sum(benchmark.products_flop(embedder, [one]) for one in inputs)
    )
