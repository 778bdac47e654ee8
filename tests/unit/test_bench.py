"""The benchmark's arithmetic, against torch's own count of what a forward pass computes; and that it runs."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pymupdf
import pytest
from PIL import Image

from mmsearch import media
from tests.demo.videos import Film, Scene, bouncing_ball, title_card, write_film

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("mmsearch_bench", ROOT / "tests" / "benchmarks" / "bench.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


CONFIG = {
    "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3, "intermediate_size": 96,
    "vision_config": {"embed_dim": 32, "mlp_ratio": 4, "depth": 2, "patch_size": 14, "temporal_patch_size": 2, "spatial_merge_size": 2},
}  # fmt: skip


def test_flops_of_one_token_are_mental_arithmetic(bench):
    """One token, no picture: per layer q 64·64, o 64·64, three of 64·96, k and v 64·32; attention over itself 2·64."""
    per_layer = 64 * 64 * 2 + 3 * 64 * 96 + 2 * 64 * 32 + 2 * 64
    assert bench.model_flops(CONFIG, [], [1]) == 2 * 3 * per_layer


def test_flops_of_longer_prompts_need_the_last_layer_once(bench):
    one, two = bench.model_flops(CONFIG, [], [1]), bench.model_flops(CONFIG, [], [2])
    per_query, per_key = 64 * 64 * 2 + 3 * 64 * 96, 2 * 64 * 32
    assert two - one == 2 * (2 * (per_query + per_key) + per_key + 2 * (3 - 1) * 2 * 64 + 2 * 64)


@pytest.mark.slow
def test_flops_of_pictures_agree_with_torch(bench):
    """Products of the vision tower counted by torch while it runs."""
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

    from mmsearch.embedders.forward.qwen_vl import vision_features

    grids = [(1, 4, 6), (4, 8, 8)]
    config = Qwen2VLVisionConfig(embed_dim=32, hidden_size=64, mlp_ratio=4, depth=2, num_heads=2)
    visual = Qwen2VisionTransformerPretrainedModel(config).eval()
    patches = sum(t * h * w for t, h, w in grids)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        vision_features(visual, torch.zeros(patches, 1176), grids)
    by_operation = counter.get_flop_counts()["Global"]
    counted = sum(n for operation, n in by_operation.items() if "attention" not in str(operation))
    attention = 2 * 2 * sum(t * 2 * (h * w) ** 2 * 32 for t, h, w in grids)
    assert bench.model_flops(CONFIG, grids, []) - attention == counted


def test_peak_is_a_rate(bench):
    assert 0 < bench.peak_gflops(size=256, repeats=1)["float32"] < 1e7


@pytest.mark.slow
def test_it_runs_and_writes_what_it_prints(bench, tmp_path: Path, capsys):
    folder = tmp_path / "things"
    folder.mkdir()
    for name, colour in (("meadow", (0, 255, 0)), ("sky", (0, 0, 255)), ("tomato", (255, 0, 0))):
        Image.new("RGB", (320, 240), colour).save(folder / f"{name}.png")
    with pymupdf.open() as document:
        for words in ("Revenue by region", "Outlook"):
            document.new_page().insert_text((60, 90), words, fontsize=24)
        document.save(folder / "slides.pdf")
    write_film(Film("", (Scene(title_card, 2), Scene(bouncing_ball, 3))), folder / "film.mp4")

    options = ["--quick", "--model", "toy", "--folder", str(folder), "--rescan-files", "40"]
    results = bench.main([*options, "--parts", "ingest,stages,query,rescan", "--output", str(tmp_path / "bench.json")])
    assert json.loads((tmp_path / "bench.json").read_text()) == results
    assert {name: row["items"] for name, row in results["ingest"].items()} == {"photos": 3, "pages": 2, "clips": 2}
    assert results["query"]["items"] == 7 and results["rescan"]["files"] == 40
    printed = capsys.readouterr().out
    for words in ("ingest photos", "stages clips", "query  cold", "rescan"):
        assert words in printed


@pytest.mark.slow
def test_copies_of_the_demo_are_files_of_their_own_that_still_open(bench, tmp_path: Path, monkeypatch):
    """More photos than the demo has: their bytes differ, their pixels do not."""
    original = tmp_path / "demo"
    original.mkdir()
    Image.effect_noise((64, 64), 80).convert("RGB").save(original / "a.jpg")
    monkeypatch.setattr("mmsearch.cli.demo_folder.write_demo_folder", lambda folder: None)
    monkeypatch.setattr(bench, "ROOT", tmp_path / "checkout")
    (tmp_path / "checkout" / "runs" / "bench").mkdir(parents=True)
    original.rename(tmp_path / "checkout" / "runs" / "bench" / "demo")
    target = tmp_path / "copies"
    target.mkdir()
    bench.copy_demo("image", 3, target)
    copies = sorted(target.iterdir())
    assert len({copy.read_bytes() for copy in copies}) == len(copies) == 3
    assert len({media.open_image(copy).tobytes() for copy in copies}) == 1
