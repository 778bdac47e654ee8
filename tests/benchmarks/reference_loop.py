"""How much faster we encode than the reference's loop, on the same checkpoint, inputs and machine, with equal vectors.

`make bench-encoding`, or `python tests/benchmarks/reference_loop.py --help`. The loop is VLM2Vec's evaluation as shared/REFERENCE.md §1.7, §4.1
and §8.1 describe it, rebuilt on transformers' own Qwen2-VL: batches of 16 in the order of the data, padded left to the longest; every item
decoded, resized and cut into patches one after the other in the main process; the causal model with its language head over all
tokens, all hidden states and the key-value cache kept.

The inputs are a mixed set in random order: one-word texts, captions, pages (with their text, where the checkpoint reads it), photos and
8-frame clips, as JPEG bytes that both sides decode. Every turn both sides run once; the best turn of each counts.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
BATCH = 16
"""`--per_device_eval_batch_size` of the reference's published commands."""
FRAMES = 8
COUNTS = {"word": 96, "caption": 96, "page": 48, "photo": 96, "clip": 24}
BF16_PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "4090": 165.0, "3090": 71.0}
"""Dense bfloat16 products of one chip as its maker states them, by a part of the device's name."""


@dataclass(frozen=True)
class Input:
    """One input as a benchmark's data holds it: final prompt, encoded pictures, pixels of each at most."""

    kind: str
    prompt: str
    pictures: tuple[bytes, ...]
    max_pixels: int

    @property
    def is_video(self) -> bool:
        return self.kind == "clip"

    def images(self) -> list[Image.Image]:
        """Opened, not yet decoded."""
        return [Image.open(io.BytesIO(content)) for content in self.pictures]


def mixed_inputs(embedder: Any, counts: dict[str, int], *, seed: int = 0) -> list[Input]:
    """The mixed set in random order, made from the demo folder's files."""
    from mmsearch import media
    from mmsearch.cli.demo_folder import write_demo_folder
    from mmsearch.embedders.forward.qwen2vl_inputs import first_tokens
    from mmsearch.prompts import DOCUMENT_INSTRUCTIONS, TEXT_QUERY_INSTRUCTIONS, final_prompt

    folder = ROOT / "runs" / "bench" / "demo"
    write_demo_folder(folder)
    files = [path for path in sorted(folder.rglob("*")) if "drafts" not in path.parts]
    pages, captions = [], []
    for path in files:
        if path.suffix == ".pdf":
            with media.open_document(path) as document:
                for page in document:
                    words = " ".join(page.get_text().split())
                    captions += [line.strip() for line in page.get_text().split(".") if 20 < len(line.strip()) < 120]
                    pages.append((words, jpeg(media.draw_page(page, max_pixels=1_000_000))))
    photos = [path.read_bytes() for path in files if path.suffix in {".jpg", ".jpeg"}]
    clips = []
    for path in files:
        if path.suffix == ".mp4":
            times = [media.video_duration(path) * (n + 0.5) / FRAMES for n in range(FRAMES)]
            clips.append(tuple(jpeg(frame) for frame in media.sample_frames(path, times)))
    draw = random.Random(seed)
    words = sorted({word for caption in captions for word in caption.lower().split() if word.isalpha()})

    def made(kind: str) -> Input:
        if kind == "word":
            return Input(kind, draw.choice(words), (), 0)
        if kind == "caption":
            return Input(kind, final_prompt(TEXT_QUERY_INSTRUCTIONS["image"], draw.choice(captions)), (), 0)
        if kind == "page":
            text, picture = draw.choice(pages)
            text = first_tokens(embedder.tokenizer, text, embedder.page_text_tokens)
            prompt = final_prompt(DOCUMENT_INSTRUCTIONS["page"], text, image_count=1)
            return Input(kind, prompt, (picture,), embedder.max_pixels["page"])
        if kind == "photo":
            prompt = final_prompt(DOCUMENT_INSTRUCTIONS["image"], image_count=1)
            return Input(kind, prompt, (draw.choice(photos),), embedder.max_pixels["image"])
        prompt = final_prompt(DOCUMENT_INSTRUCTIONS["clip"], is_video=True)
        return Input(kind, prompt, draw.choice(clips), embedder.max_pixels["clip"])

    inputs = [made(kind) for kind, count in counts.items() for _ in range(count)]
    draw.shuffle(inputs)
    return inputs


def jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "JPEG", quality=90)
    return stream.getvalue()


class ReferenceLoop:
    """VLM2Vec's way of embedding a data set, over transformers' `Qwen2VLForConditionalGeneration`."""

    def __init__(self, folder: Path, *, min_pixels: int, device: str, dtype: torch.dtype) -> None:
        from transformers import Qwen2VLForConditionalGeneration
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        from mmsearch.embedders.checkpoints.checkpoint import find_checkpoint, load_tokenizer

        checkpoint = find_checkpoint(folder)
        opener: Any = Qwen2VLForConditionalGeneration
        self.model: Any = (
            opener.from_pretrained(checkpoint.base, dtype=dtype, attn_implementation="sdpa").eval().to(device)
        )
        self.tokenizer = load_tokenizer(checkpoint)
        self.images: Any = Qwen2VLImageProcessorPil()
        self.min_pixels, self.device = min_pixels, device

    @torch.no_grad()
    def embed(self, inputs: Sequence[Input]) -> np.ndarray:
        """float32 [len(inputs), dim], unit length."""
        return np.concatenate([self._batch(inputs[start : start + BATCH]) for start in range(0, len(inputs), BATCH)])

    def _batch(self, inputs: Sequence[Input]) -> np.ndarray:
        config = self.model.config
        rows, patches, grids = [], {"image": [], "video": []}, {"image": [], "video": []}
        for item in inputs:
            ids = self.tokenizer.encode(item.prompt, add_special_tokens=False).ids
            if item.pictures:
                kind = "video" if item.is_video else "image"
                values, grid = self._pixels(item)
                patches[kind].append(torch.from_numpy(values))
                grids[kind].append(grid)
                token = config.video_token_id if item.is_video else config.image_token_id
                place = ids.index(token)
                ids[place : place + 1] = [token] * (int(np.prod(grid)) // 4)
            rows.append(ids)
        longest = max(map(len, rows))
        padding = config.text_config.pad_token_id or 0
        ids = torch.tensor([[padding] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        visual: dict[str, torch.Tensor] = {}
        for kind, name in (("image", "pixel_values"), ("video", "pixel_values_videos")):
            if patches[kind]:
                visual[name] = torch.cat(patches[kind]).to(self.device)
                visual[f"{kind}_grid_thw"] = torch.tensor(grids[kind]).to(self.device)
        output = self.model(
            input_ids=ids.to(self.device),
            attention_mask=mask.to(self.device),
            position_ids=torch.arange(longest, device=self.device).expand(3, len(rows), longest),
            output_hidden_states=True,
            use_cache=True,
            **visual,
        )
        last = output.hidden_states[-1][:, -1].float()
        return torch.nn.functional.normalize(last, dim=-1).cpu().numpy()

    def _pixels(self, item: Input) -> tuple[np.ndarray, tuple[int, ...]]:
        size = {"shortest_edge": self.min_pixels, "longest_edge": item.max_pixels}
        if not item.is_video:
            made = self.images([image.convert("RGB") for image in item.images()], size=size, return_tensors="np")
            return made["pixel_values"], tuple(made["image_grid_thw"][0].tolist())
        # Without torchvision there is no video processor: each frame through the image processor, then two and two together.
        frames = self.images([image.convert("RGB") for image in item.images()], size=size, return_tensors="np")
        _, rows, columns = frames["image_grid_thw"][0].tolist()
        single = frames["pixel_values"].reshape(len(item.pictures), rows * columns, 3, 2, 14 * 14)[:, :, :, 0]
        if len(single) % 2:
            single = np.concatenate([single, single[-1:]])
        pairs = single.reshape(-1, 2, rows * columns, 3, 14 * 14).transpose(0, 2, 3, 1, 4)
        return pairs.reshape(-1, 3 * 2 * 14 * 14), (len(pairs), rows, columns)


def ours(embedder: Any, inputs: Sequence[Input]) -> np.ndarray:
    """The same inputs through the application's embedder: float32 [len(inputs), dim]."""
    return embedder.embed_prompts(
        [item.prompt for item in inputs],
        [item.images() or None for item in inputs],
        [item.is_video for item in inputs],
        max_pixels=[item.max_pixels or embedder.max_pixels["image"] for item in inputs],
    )


def products_flop(embedder: Any, inputs: Sequence[Input]) -> float:
    """Floating-point operations that embedding needs: two for each weight and position, and those of attention; no padding, no head."""
    model = embedder.model
    weights = {
        name: sum(p.numel() for key, p in part.named_parameters() if p.ndim > 1 and "embed_tokens" not in key)
        for name, part in (("vision", model.visual.blocks), ("language", model.language_model.layers))
    }
    hidden = model.config.text_config.hidden_size * model.config.text_config.num_hidden_layers
    width = model.config.vision_config.embed_dim * model.config.vision_config.depth
    total = 0.0
    for item in inputs:
        batch = embedder.prepare([item.prompt], [item.images() or None], [item.is_video], [item.max_pixels or 1])
        patches, tokens = len(batch.pixels), batch.lengths[0]
        frame = int(np.prod(batch.grids[0][1:])) if batch.grids else 0
        total += 2 * weights["vision"] * patches + 4 * patches * frame * width
        total += 2 * weights["language"] * tokens + 2 * tokens * tokens * hidden
    return total


def best_of(turns: int, sides: dict[str, Callable[[], np.ndarray]]) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Seconds of each side's best turn, and its vectors; the sides take turns, after one turn to warm up."""
    seconds, vectors = dict.fromkeys(sides, float("inf")), {}
    for turn in range(turns + 1):
        for name, embed in sides.items():
            began = time.perf_counter()
            vectors[name] = embed()
            if turn:
                seconds[name] = min(seconds[name], time.perf_counter() - began)
    return seconds, vectors


def random_checkpoint(folder: Path) -> Path:
    """A Qwen2-VL of the size that shipped up to 0.4.0; speed does not ask what it learnt."""
    from mmsearch.training.recipe import change_recipe, load_recipe
    from mmsearch.training.run.starting_model import start_model

    recipe = change_recipe(load_recipe("from_nothing"), {"model.initial": "random"})
    material: Any = None  # what a teacher would start from
    start_model(recipe, material, "cpu")[0].save(folder)
    return folder


def main() -> None:
    from mmsearch.embedders import load_embedder
    from mmsearch.embedders.checkpoints.checkpoint import find_checkpoint

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--model",
        help="a Qwen2-VL checkpoint without adapter: name or folder [default: random weights in the sizes of the recipe from_nothing]",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--max-pixels", type=int, help="for every picture and frame, instead of the checkpoint's budgets"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="so many times as many inputs")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the result there")
    arguments = parser.parse_args()
    if arguments.model is None:
        arguments.model = str(random_checkpoint(Path(tempfile.mkdtemp(prefix="reference-loop-"))))

    embedder: Any = load_embedder(
        arguments.model, device=arguments.device, dtype=arguments.dtype, max_pixels=arguments.max_pixels
    )
    loop = ReferenceLoop(
        find_checkpoint(arguments.model).base,
        min_pixels=embedder.min_pixels,
        device=arguments.device,
        dtype=getattr(torch, arguments.dtype),
    )
    inputs = mixed_inputs(embedder, {kind: round(count * arguments.scale) for kind, count in COUNTS.items()})
    sides = {"reference loop": lambda: loop.embed(inputs), "mmsearch": lambda: ours(embedder, inputs)}
    seconds, vectors = best_of(arguments.turns, sides)
    difference = float(np.abs(vectors["mmsearch"] - vectors["reference loop"]).max())
    result: dict[str, Any] = {
        "model": arguments.model,
        "device": torch.cuda.get_device_name() if arguments.device.startswith("cuda") else arguments.device,
        "dtype": arguments.dtype,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "inputs": len(inputs),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "items_per_s": {name: round(len(inputs) / value, 1) for name, value in seconds.items()},
        "ratio": round(seconds["reference loop"] / seconds["mmsearch"], 2),
        "largest_difference": difference,
        "load_before": [round(value, 2) for value in _load()],
    }
    flop_per_s = products_flop(embedder, inputs) / seconds["mmsearch"]
    result["tflop_per_s"] = round(flop_per_s / 1e12, 4)
    peak = next((value for name, value in BF16_PEAK_TFLOPS.items() if name in result["device"]), None)
    if peak is not None and arguments.dtype == "bfloat16":
        result["share_of_bf16_peak"] = round(flop_per_s / 1e12 / peak, 4)
    print(json.dumps(result, indent=2))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    if arguments.dtype == "float32" and difference > 1e-5:
        raise SystemExit(f"the vectors differ by {difference:.1e}, more than 1e-5")


def _load() -> tuple[float, float, float]:
    import os

    return os.getloadavg()


if __name__ == "__main__":
    main()
