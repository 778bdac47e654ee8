"""How long a page and a photo take on one core of a processor, beside the first version's architecture on the same core.

The yardstick is `first_version.json`: the shape and the pixel budgets of the checkpoint that was shipped first. Time does not depend on
the weights, so they are drawn at random, and both models are timed in turns on whatever machine this runs on. The file also
records what the shipped weights took when it was written, beside random ones: the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from mmsearch.embedders import Embedder, load_embedder
from mmsearch.evaluation.split import Split
from mmsearch.items import EmbedInput
from mmsearch.prompts import DOCUMENT_INSTRUCTIONS

FIRST_VERSION = Path(__file__).with_name("first_version.json")


def milliseconds(
    checkpoint: str | Path, split: Split, *, pages: int = 32, photos: int = 64, turns: int = 3
) -> dict[str, dict[str, float]]:
    """{"page" | "photo": {"ours": …, "first version": …}}: processor time of each, the best of `turns`.

    The first version stands beside checkpoints of its own family only, whose tokenizer it needs.

    Processor time, because other programs that run at the same time hardly change it.
    """
    from mmsearch.embedders.families.vlm2vec import Vlm2VecEmbedder

    step = max(1, len(split.pages) // pages)
    rows = range(0, len(split.pages), step)[:pages]
    inputs = {
        "page": [
            EmbedInput(
                DOCUMENT_INSTRUCTIONS["page"], split.page_texts[row], (split.pages[row].member.image(),), kind="page"
            )
            for row in rows
        ],
        "photo": [
            EmbedInput(DOCUMENT_INSTRUCTIONS["image"], images=(photo.member.image(),), kind="image")
            for photo in split.photos[:photos]
        ],
    }
    with _one_core():
        ours = load_embedder(checkpoint, device="cpu")
        models: dict[str, Embedder] = {"ours": ours}
        if isinstance(ours, Vlm2VecEmbedder):
            models["first version"] = first_version(ours)
        return {kind: best_times(models, items, turns) for kind, items in inputs.items()}


def best_times(models: dict[str, Embedder], items: Sequence[EmbedInput], turns: int) -> dict[str, float]:
    """Milliseconds per item of each model, timed in turns."""
    best = dict.fromkeys(models, float("inf"))
    for turn in range(turns + 1):
        for name, model in models.items():
            took = _processor_time(partial(model.encode_documents, items))
            if turn:  # the first is for warming up
                best[name] = min(best[name], took)
    return {name: 1e3 * took / len(items) for name, took in best.items()}


def first_version(like: Embedder) -> Embedder:
    """An embedder of the first version's shape with random weights, behind the tokenizer of `like`."""
    import torch
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

    from mmsearch.embedders.checkpoints.device import default_dtype
    from mmsearch.embedders.families.vlm2vec import Vlm2VecEmbedder

    assert isinstance(like, Vlm2VecEmbedder)
    recorded = json.loads(FIRST_VERSION.read_text(encoding="utf-8"))
    size = like.tokenizer.get_vocab_size()
    ids = {f"{name}_token_id": like.tokenizer.token_to_id(f"<|{name}_pad|>") for name in ("image", "video")}
    torch.manual_seed(0)
    model = Qwen2VLModel(Qwen2VLConfig(**recorded["config"] | ids | {"vocab_size": size})).eval()
    return Vlm2VecEmbedder.from_model(
        model.to(default_dtype("cpu")),
        like.tokenizer,
        name="first version",
        min_pixels=recorded["min_pixels"],
        max_pixels=recorded["max_pixels"],
        page_text_tokens=recorded["page_text_tokens"],
    )


def _processor_time(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


@contextmanager
def _one_core() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
