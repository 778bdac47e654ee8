"""How much faster many questions on one video are when they share the video's part of the forward pass, with equal vectors.

`python tests/benchmarks/shared_visuals.py --help`. Both ways embed the same prompts on the same frames with the same checkpoint; one is given the
frames as one list for all prompts of a video, the other as a list each (see `mmsearch.embedders.forward.shared_prefix`). Best of three turns.
Time is the process's own on a CPU, and the clock's on a GPU.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmsearch.embedders import load_embedder
from mmsearch.embedders.families.vlm2vec import Vlm2VecEmbedder

QUESTION = (
    "<|video_pad|> Given a video and a question, select the most accurate answer from the provided candidates. Return only the exact "
    "text of your chosen answer. Question:  What happens at {} o'clock?\nOptions:\n(A) a door opens\n(B) nothing\n(C) it rains"
)


def random_embedder(like: Any, device: str, frame_pixels: int) -> Vlm2VecEmbedder:
    """27 million random weights behind the tokenizer of `like`: larger frames than the compact checkpoint takes."""
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

    ids = {f"{name}_token_id": like.tokenizer.token_to_id(f"<|{name}_pad|>") for name in ("image", "video")}
    torch.manual_seed(0)
    config = Qwen2VLConfig(
        vocab_size=like.tokenizer.get_vocab_size(),
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=2,
        rope_theta=1e6,
        rope_scaling={"type": "mrope", "mrope_section": [8, 12, 12]},
        vision_config={"depth": 4, "embed_dim": 192, "num_heads": 6, "mlp_ratio": 4, "hidden_size": 512},
        **ids,
    )
    return Vlm2VecEmbedder.from_model(Qwen2VLModel(config).eval().to(device), like.tokenizer, max_pixels=frame_pixels)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--model", default="mini", help='a VLM2Vec checkpoint, or "random": larger frames, random weights'
    )
    options.add_argument("--device", default="cpu")
    options.add_argument("--dtype", default="float32")
    options.add_argument("--questions", type=int, nargs="+", default=[1, 3, 9, 25], help="on each video")
    options.add_argument("--videos", type=int, default=2)
    options.add_argument("--frames", type=int, default=8)
    options.add_argument("--size", type=int, nargs=2, default=[448, 336], metavar=("WIDTH", "HEIGHT"))
    asked = options.parse_args()
    torch.set_num_threads(1)
    width, height = asked.size
    if asked.model == "random":
        embedder: Any = random_embedder(load_embedder("mini", device="cpu"), asked.device, width * height)
    else:
        embedder = load_embedder(asked.model, device=asked.device, dtype=asked.dtype)
    clock = time.process_time if asked.device == "cpu" else time.perf_counter
    noise = np.random.default_rng(0)

    for count in asked.questions:
        videos = [
            [Image.fromarray(noise.integers(0, 255, (height, width, 3), np.uint8)) for _ in range(asked.frames)]
            for _ in range(asked.videos)
        ]
        prompts = [QUESTION.format(number) for _ in videos for number in range(count)]
        shared = [video for video in videos for _ in range(count)]
        alone = [list(video) for video in shared]
        best = {"alone": float("inf"), "shared": float("inf")}
        vectors = {}
        for _ in range(3):
            for way, images in (("alone", alone), ("shared", shared)):
                started = clock()
                vectors[way] = embedder.embed_prompts(prompts, images, [True] * len(prompts))
                best[way] = min(best[way], clock() - started)
        apart = np.abs(vectors["alone"] - vectors["shared"]).max()
        print(
            f"{count} questions on each of {asked.videos} videos: {best['alone']:.2f} s alone, {best['shared']:.2f} s shared, "
            f"{best['alone'] / best['shared']:.1f} times less; vectors differ by {apart:.0e} at most",
            flush=True,
        )


if __name__ == "__main__":
    main()
