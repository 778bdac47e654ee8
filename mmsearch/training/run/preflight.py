"""Before a run: are all data there and readable, what will it need. Nothing is trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmsearch.embedders.checkpoints import checkpoint as files
from mmsearch.embedders.checkpoints.device import default_device
from mmsearch.embedders.forward.qwen2vl_inputs import MERGE, Preparation
from mmsearch.embedders.trainable import trainable_class
from mmsearch.errors import DatasetError, MMSearchError, SourceError
from mmsearch.prompts import IMAGE_TOKEN, VIDEO_TOKEN
from mmsearch.training.data.pair_loader import Example
from mmsearch.training.data.step_inputs import PreparePairs, open_pairs
from mmsearch.training.recipe.fields import Recipe
from mmsearch.training.run.starting_model import with_budgets
from mmsearch.training.run.vision_cache import precision_of

SAMPLE = 32


@dataclass(frozen=True)
class SourceCheck:
    """What was found of one source.

    Attributes:
        records: in the source. sampled: of them that were read, pictures too. bad: of the sampled. first_reason: of the first bad one.
        problem: why the source cannot be opened; everything else is then 0.
        patches, tokens: of one pair (all sides), mean over the sample.
    """

    name: str
    records: int = 0
    sampled: int = 0
    bad: int = 0
    first_reason: str = ""
    problem: str = ""
    patches: float = 0.0
    tokens: float = 0.0


@dataclass(frozen=True)
class Needs:
    """A rough estimate for one process.

    Attributes:
        parameters, trained: numbers of weights.
        weights_bytes: weights, gradients, optimizer's state and average. activations_bytes: of the largest chunk, at most.
        seconds_per_step: from the arithmetic of a step and what this machine multiplies in a second; None without pairs.
    """

    parameters: int
    trained: int
    weights_bytes: int
    activations_bytes: int
    seconds_per_step: float | None


def check_sources(recipe: Recipe, data: Path | None, work: Path, *, sample: int = SAMPLE) -> Iterator[SourceCheck]:
    """Open every source and read some records of it, spread over the whole, decoding their pictures."""
    preparation = _preparation(recipe)
    specs = [*recipe.sources, *(recipe.evaluation.sources if recipe.evaluation else ())]
    for spec in specs:
        try:
            source = open_pairs((spec,), data, work)[spec.get("name", "")]
        except MMSearchError as error:
            yield SourceCheck(str(spec.get("name", "?")), problem=str(error))
            continue
        count = min(sample, len(source))
        bad, reason, patches, tokens = 0, "", 0, 0
        for number in range(count):
            try:
                pair = source.pair(number * len(source) // count)
                example = Example(source.name, number, pair, tuple(side.images() for side in pair.sides()))
            except (DatasetError, SourceError, OSError) as error:
                bad += 1
                reason = reason or str(error)
                continue
            if preparation is not None:
                batch = preparation([example]).batch
                patches += batch.patches
                tokens += batch.tokens
        good = max(1, count - bad)
        yield SourceCheck(source.name, len(source), count, bad, reason, "", patches / good, tokens / good)


def estimate(recipe: Recipe, checks: list[SourceCheck], *, processes: int = 1, device: str | None = None) -> Needs:
    """What a run needs, from the model's configuration and the sampled records.

    Raises: EmbedderError: the model's configuration cannot be read.
    """
    sizes = _sizes(_configuration(recipe))
    parameters = sizes.parameters
    if recipe.adapter is not None:
        trained = recipe.adapter.rank * sizes.adapted
    else:
        trained = parameters - (0 if recipe.trains_vision else sizes.tower_parameters)
    device = device or default_device()
    narrow = precision_of(recipe, device) == torch.bfloat16
    states = 3 if recipe.optimizer.name == "adamw" else 2  # gradient, and one or two moments
    per_trained = 4 * (1 + states + (recipe.average is not None))
    weights_bytes = trained * per_trained + (parameters - trained) * (2 if narrow else 4)
    if recipe.parallel == "fsdp":
        weights_bytes //= processes
    kept = sizes.kept_checkpointed if recipe.gradient_checkpointing else sizes.kept
    activations = int(recipe.chunk_positions * kept * (2 if narrow else 4))
    seconds = _seconds(recipe, checks, sizes.language, sizes.tower, processes, device)
    return Needs(parameters, trained, weights_bytes, activations, seconds)


@dataclass(frozen=True)
class _Sizes:
    """Of a model, from its configuration.

    Attributes:
        language, tower: multiplications per token, and per patch (or cell).
        adapted: weights of an adapter of rank 1.
        kept, kept_checkpointed: numbers kept per position of a chunk for the backward pass, at most.
    """

    parameters: int
    tower_parameters: int
    language: int
    tower: int
    adapted: int
    kept: float
    kept_checkpointed: float


def _sizes(config: dict[str, Any]) -> _Sizes:
    return _compact_sizes(config) if config.get("model_type") == "compact_vlm" else _qwen2vl_sizes(config)


def _compact_sizes(config: dict[str, Any]) -> _Sizes:
    from mmsearch.embedders.forward.compact_vlm_inputs import CELL_COST
    from mmsearch.embedders.forward.compact_vlm_model import STRIDE, CompactVlm, Convolution

    with torch.device("meta"):
        model = CompactVlm(config)
    hidden, layers = config["text_config"]["hidden_size"], config["text_config"]["num_hidden_layers"]
    tower = kept = 0
    places = STRIDE**2  # of a convolution's output, per cell
    for part in model.vision.modules():
        if isinstance(part, Convolution):
            places //= part.stride**2
            tower += places * part.weight.numel()
            kept += places * len(part.weight)
    language = sum(weight.numel() for layer in model.text.layers for weight in layer.parameters())
    return _Sizes(
        parameters=sum(weight.numel() for weight in model.parameters()),
        tower_parameters=sum(weight.numel() for weight in model.vision.parameters()),
        language=language,
        tower=tower,
        adapted=0,
        kept=max(34 * layers * hidden, 2 * kept / CELL_COST),
        kept_checkpointed=0,
    )


def _qwen2vl_sizes(config: dict[str, Any]) -> _Sizes:
    text, vision = files.text_fields(config), config["vision_config"]
    layers, hidden, inner = text["num_hidden_layers"], text["hidden_size"], text["intermediate_size"]
    key_values = (
        (text.get("num_key_value_heads") or text["num_attention_heads"]) * hidden // text["num_attention_heads"]
    )
    layer = 2 * hidden * hidden + 2 * hidden * key_values + 3 * hidden * inner
    depth = vision["depth"]
    if "embed_dim" in vision:
        width = vision["embed_dim"]
        inside = 2 * vision["mlp_ratio"] * width * width
    else:  # Qwen2.5-VL: gated
        width = vision["hidden_size"]
        inside = 3 * vision["intermediate_size"] * width
    block = 4 * width * width + inside
    merger = (width * MERGE**2) ** 2 + width * MERGE**2 * hidden
    language, tower = layers * layer, int(depth * block + merger + 1176 * width)
    widest = max(hidden, width)
    return _Sizes(
        parameters=language + tower + text["vocab_size"] * hidden,
        tower_parameters=tower,
        language=language,
        tower=tower,
        adapted=layers * (4 * hidden + 2 * (hidden + key_values) + 3 * (hidden + inner)),
        kept=34 * layers * widest,  # widths of numbers that a layer keeps per token for its backward pass
        kept_checkpointed=2 * widest,
    )


def _seconds(
    recipe: Recipe, checks: list[SourceCheck], language: int, tower: int, processes: int, device: str
) -> float | None:
    """Two operations per weight and position forward; GradCache's first pass, the second, and twice that backward."""
    known = {check.name: check for check in checks if check.sampled > check.bad}
    weights = {str(source["name"]): float(source.get("weight", 1)) for source in recipe.sources}
    total = sum(weights[name] for name in known if name in weights)
    batches = [stage.pairs.batch_size_global for stage in recipe.stages if stage.pairs is not None]
    if not total or not batches:
        return None
    share = {name: weights[name] / total for name in known if name in weights}
    tokens = sum(part * known[name].tokens for name, part in share.items())
    patches = sum(part * known[name].patches for name, part in share.items())
    tower_passes = 4 if recipe.trains_vision else 2
    operations = 2 * (4 * language * tokens + tower_passes * tower * patches) * max(batches) / processes
    return operations / operations_per_second(device, precision_of(recipe, device))


def operations_per_second(device: str, precision: torch.dtype) -> float:
    """Measured with a matrix product; real training reaches a half to a third of it."""
    size = 512 if device == "cpu" else 4096
    matrix = torch.randn(size, size, device=device, dtype=precision)

    def seconds(run: Callable[[], Any]) -> float:
        if device != "cpu":
            torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    seconds(lambda: matrix @ matrix)
    return 2 * size**3 / min(seconds(lambda: matrix @ matrix) for _ in range(5))


def _configuration(recipe: Recipe) -> dict[str, Any]:
    if recipe.model.checkpoint is not None:
        return files.find_checkpoint(recipe.model.checkpoint).json("config.json")
    vision = {"mlp_ratio": 4, **recipe.model.vision}
    return {"num_key_value_heads": None, "vocab_size": 30522, **recipe.model.text, "vision_config": vision}


def _preparation(recipe: Recipe) -> PreparePairs | None:
    """How the recipe's model reads; None where its tokenizer is not on this machine."""
    budgets = {str(kind): pixels for kind, pixels in recipe.max_pixels.items()}
    try:
        if recipe.model.checkpoint:
            family = trainable_class(files.find_checkpoint(recipe.model.checkpoint))
            if family.family == "compact_vlm":
                compact = family.load(recipe.model.checkpoint, device="cpu", dtype="float32")
                return PreparePairs(with_budgets(compact, recipe).preparation, budgets)
        if recipe.model.checkpoint or recipe.model.tokenizer:
            tokenizer = files.load_tokenizer(
                files.find_checkpoint(recipe.model.checkpoint or recipe.model.tokenizer or "")
            )
        else:
            from mmsearch.training.run.untrained_qwen2vl import build_tokenizer

            tokenizer = build_tokenizer()
    except MMSearchError:
        return None
    image_id, video_id = (tokenizer.token_to_id(token) or 0 for token in (IMAGE_TOKEN, VIDEO_TOKEN))
    preparation = Preparation(tokenizer, image_id, video_id, recipe.min_pixels)
    return PreparePairs(preparation, budgets)
