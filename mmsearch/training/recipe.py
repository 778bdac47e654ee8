"""Recipes: everything that decides a training run, as checked data. A field that is not known is an error that names it.

`load_recipe("vlm2vec_v2_qwen2vl_2b")` reads `recipes/vlm2vec_v2_qwen2vl_2b.yaml`. To add a setting: a field with a default in its section
here; recipes that do not name it keep their meaning.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from mmsearch.errors import ConfigError

RECIPES = Path(__file__).parent / "recipes"
RELEASED_TARGETS = (
    "qkv_proj", "o_proj", "gate_up_proj", "down_proj", "k_proj", "q_proj", "out_proj", "v_proj", "gate_proj", "up_proj",
)  # fmt: skip
"""Layers that the released adapters change. Qwen2-VL has q, k, v, o, gate, up and down, all of them in its language model."""


class Section(BaseModel):
    """A part of a recipe: unknown fields are refused, nothing is changed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class ModelStart(Section):
    """What training starts from: a checkpoint (`from`), or a new model of the size that `text` and `vision` give.

    Attributes:
        checkpoint: YAML `from`: a folder in the public Qwen2-VL layout, a hub name in the local cache, or "mini".
        text, vision: fields of Qwen2-VL's configuration.
        initial: a new model starts from the text teacher's token vectors, or at random.
        tokenizer: a new model reads with the tokenizer of this checkpoint folder; with the teacher's WordPiece if not given.
    """

    checkpoint: str | None = Field(default=None, alias="from")
    text: dict[str, Any] = {}
    vision: dict[str, Any] = {}
    initial: Literal["teacher", "random"] = "teacher"
    tokenizer: str | None = None

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if (self.checkpoint is None) == (not self.text):
            raise ValueError("give either `from` (a checkpoint) or `text` and `vision` (the size of a new model)")
        if bool(self.text) != bool(self.vision):
            raise ValueError("a new model needs both `text` and `vision`")
        if self.initial == "teacher" and self.tokenizer is not None:
            raise ValueError(
                "`tokenizer` needs `initial: random`: the teacher's vectors belong to the teacher's tokens"
            )
        return self


class Adapter(Section):
    """LoRA, or DoRA, over the layers named `targets`; everything else of the model stays as it was."""

    rank: PositiveInt = 16
    alpha: PositiveFloat = 32
    dropout: float = Field(default=0.1, ge=0, lt=1)
    dora: bool = True
    initial: Literal["gaussian", "uniform"] = "gaussian"
    targets: tuple[str, ...] = RELEASED_TARGETS


class Loss(Section):
    """What is minimised. `teacher_temperature` and `cosine` concern teacher-vector groups, the rest of the list pairs.

    Attributes:
        temperature: divides cosines, for both sorts of sub-batch.
        cosine: weight of 1 - cosine to the teacher's vector.
        symmetric: target → query as well, both halved.
        mask_margin: no negatives: targets that score more than the positive plus this margin. None: off.
        matryoshka: the loss is the mean over the first so many dimensions, each, of every embedding. Empty: all dimensions.
        distillation: weight of the teacher's score distribution over the targets, where pairs carry such scores.
        learned_temperatures: a trained temperature per source, starting at `temperature`.
    """

    temperature: PositiveFloat = 0.02
    teacher_temperature: PositiveFloat = 0.05
    cosine: NonNegativeFloat = 0.0
    symmetric: bool = False
    mask_margin: float | None = None
    matryoshka: tuple[PositiveInt, ...] = ()
    distillation: NonNegativeFloat = 0.0
    learned_temperatures: bool = False


class OptimizerSettings(Section):
    """AdamW, or Muon for matrices and AdamW for the rest.

    Attributes:
        clip: gradients are scaled down to this norm. None: never.
    """

    name: Literal["adamw", "muon"] = "adamw"
    weight_decay: NonNegativeFloat = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    momentum: float = 0.95
    clip: PositiveFloat | None = 1.0


class GroupShare(Section):
    """A teacher-vector group's part in a step: examples, and weight of its loss."""

    batch: PositiveInt
    weight: NonNegativeFloat = 1.0


class PairBatch(Section):
    """The pairs of a step: sub-batches of `sub_batch_size`, each from one source, together `batch_size_global` over all processes.

    Attributes:
        sub_batch_size: 0: every pair is drawn from a source of its own.
        sources: names of those to draw from; all of the recipe's if empty.
        negatives: hard negatives per query at most.
    """

    batch_size_global: PositiveInt
    sub_batch_size: int = Field(ge=0)
    weight: NonNegativeFloat = 1.0
    sources: tuple[str, ...] = ()
    negatives: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _whole_sub_batches(self) -> Self:
        if self.batch_size_global % (self.sub_batch_size or 1):
            raise ValueError(
                f"batch_size_global {self.batch_size_global} is no multiple of sub_batch_size {self.sub_batch_size}"
            )
        return self


class Stage(Section):
    """A part of the run with its own data and learning rate.

    Attributes:
        trains: "vision" embeds pictures by the mean of their visual tokens, without the language model, and trains the tower alone;
            "language" leaves the tower as it is.
        decay: for the schedule "plateau": the share of the steps over which the rate falls to zero.
        sizes: (width, height) of photos and frames of teacher-vector groups.
        mixture: teacher-vector groups by name.
        max_pixels: by kind, over the recipe's own.
    """

    name: str
    steps: PositiveInt
    trains: Literal["all", "vision", "language"] = "all"
    learning_rate: PositiveFloat
    embedding_learning_rate: PositiveFloat | None = None
    schedule: Literal["plateau", "linear", "cosine"] = "plateau"
    warmup: int = Field(default=0, ge=0)
    decay: float = Field(default=0.0, ge=0, le=1)
    sizes: tuple[tuple[PositiveInt, PositiveInt], ...] = ()
    mixture: dict[str, GroupShare] = {}
    pairs: PairBatch | None = None
    max_pixels: dict[str, PositiveInt] = {}

    @model_validator(mode="after")
    def _has_data(self) -> Self:
        if not self.mixture and self.pairs is None:
            raise ValueError("a stage needs `mixture` (teacher-vector groups), `pairs`, or both")
        return self


class Average(Section):
    """An exponential moving average of the weights, kept beside them and exported instead of them.

    Attributes:
        decay: share of the old average that a step keeps; in the first steps (1 + step) / (10 + step) if that is less.
    """

    decay: float = Field(default=0.999, gt=0, lt=1)


class Saving(Section):
    """States are written every so many seconds or steps (whichever comes first) and at each stage's end; the newest `keep` stay."""

    every_s: NonNegativeFloat | None = 240
    every_steps: PositiveInt | None = None
    keep: PositiveInt = 2


class Evaluation(Section):
    """Held-out pairs, ranked now and then among each other's targets."""

    every_steps: PositiveInt
    sources: tuple[dict[str, Any], ...]
    pairs_per_source: PositiveInt = 256


class Recipe(Section):
    """A whole run.

    Attributes:
        adapter: None: all weights are trained (those of a frozen tower apart).
        vision_tower: a frozen tower is never trained, whatever a stage says.
        vision_cache_gb: features of a frozen tower are kept on disk up to this size; 0: computed every time.
        precision: of the arithmetic; "auto" is bfloat16 where the device computes it natively, else float32.
        chunk_positions: GradCache embeds as many examples at once as have this many visual patches and tokens together.
        parallel: several processes each hold the model ("ddp") or share it out ("fsdp").
        sources: of pairs, each with `name`, `weight`, `parser` and what that parser reads; see `mmsearch.training.datasets`.
        groups: options of teacher-vector groups by name; see `mmsearch.training.examples`.
    """

    name: str
    seed: int = 42
    model: ModelStart
    adapter: Adapter | None = None
    vision_tower: Literal["trained", "frozen"] = "trained"
    vision_cache_gb: NonNegativeFloat = 0.0
    min_pixels: PositiveInt = 56 * 56
    max_pixels: dict[Literal["page", "image", "clip"], PositiveInt]
    page_text_tokens: int = Field(default=0, ge=0)
    query_text_tokens: PositiveInt = 128
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool = False
    chunk_positions: PositiveInt = 16384
    parallel: Literal["ddp", "fsdp"] = "ddp"
    workers: int = Field(default=2, ge=0)
    loss: Loss = Loss()
    optimizer: OptimizerSettings = OptimizerSettings()
    average: Average | None = None
    saving: Saving = Saving()
    evaluation: Evaluation | None = None
    sources: tuple[dict[str, Any], ...] = ()
    groups: dict[str, dict[str, Any]] = {}
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if set(self.max_pixels) != {"page", "image", "clip"}:
            raise ValueError("max_pixels needs page, image and clip")
        names = [source.get("name", f"number {number}") for number, source in enumerate(self.sources)]
        if doubled := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two sources are called {', '.join(sorted(doubled))}")
        for stage in self.stages:
            if stage.pairs is not None:
                if not self.sources:
                    raise ValueError(f"stage {stage.name!r} trains on pairs, but the recipe has no `sources`")
                if unknown := set(stage.pairs.sources) - set(names):
                    raise ValueError(f"stage {stage.name!r} names unknown sources: {', '.join(sorted(unknown))}")
            if stage.trains == "vision" and (self.vision_tower == "frozen" or self.adapter is not None):
                raise ValueError(f"stage {stage.name!r} trains the vision tower, which this recipe keeps frozen")
            if stage.trains == "vision" and stage.pairs is not None:
                raise ValueError(f"stage {stage.name!r}: pairs need the whole model, not `trains: vision`")
        if self.vision_cache_gb and self.trains_vision:
            raise ValueError(
                "vision_cache_gb needs `vision_tower: frozen`: features of a trained tower change every step"
            )
        if self.optimizer.name == "muon" and self.parallel == "fsdp":
            raise ValueError("muon needs whole matrices, which `parallel: fsdp` shares out; use adamw or ddp")
        return self

    @property
    def trains_vision(self) -> bool:
        """Whether any weight of the vision tower can change."""
        return self.vision_tower == "trained" and self.adapter is None

    def record(self) -> dict[str, Any]:
        """Plain data, as a YAML file holds it; defaults are written out."""
        return self.model_dump(mode="json", by_alias=True)

    def with_changes(self, changes: Mapping[str, Any]) -> Recipe:
        """Another recipe with fields replaced, named by their path: `{"stages.0.steps": 10, "loss.temperature": 0.05}`.

        Raises: ConfigError for a path that leads nowhere.
        """
        record = self.record()
        for path, value in changes.items():
            *parents, last = path.split(".")
            place: Any = record
            for parent in parents:
                place = _step_into(place, parent, path)
                if place is None:
                    raise ConfigError(f"recipe field {path!r}: {parent} is not set; give it as a whole")
            if isinstance(place, list):
                _step_into(place, last, path)
                place[int(last)] = value
            else:
                place[last] = value
        return parse_recipe(record, "the changed recipe")


def _step_into(place: Any, name: str, path: str) -> Any:
    try:
        return place[int(name)] if isinstance(place, list) else place[name]
    except (KeyError, IndexError, ValueError, TypeError):
        if isinstance(place, dict):
            close = difflib.get_close_matches(name, place, 1)
            hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(place)}"
        else:
            hint = f"; give a number below {len(place)}" if isinstance(place, list) else ""
        raise ConfigError(f"recipe field {path!r}: there is no {name!r}{hint}") from None


def parse_changes(words: Iterable[str]) -> dict[str, Any]:
    """`["loss.temperature=0.05", …]` as `{"loss.temperature": 0.05, …}`; values are YAML. Raises: ConfigError."""
    changes = {}
    for word in words:
        path, equals, value = word.partition("=")
        if not equals or not path:
            raise ConfigError(f"{word!r}: write FIELD=VALUE, as loss.temperature=0.05")
        try:
            changes[path.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"{word!r}: the value is no YAML: {error}") from error
    return changes


def recipe_names() -> list[str]:
    """Recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name_or_file: str | Path) -> Recipe:
    """A recipe by name (`mini`) or file (`my/recipe.yaml`).

    Raises:
        ConfigError: none there; it is no YAML; a field is unknown, missing or of another type, named by its path.
    """
    path = Path(name_or_file)
    if not path.suffix:
        path = RECIPES / f"{name_or_file}.yaml"
    if not path.is_file():
        raise ConfigError(f"no recipe {str(name_or_file)!r}; give a YAML file or one of: {', '.join(recipe_names())}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path} is no YAML: {error}") from error
    return parse_recipe(content, f"recipe {path.name}")


def parse_recipe(content: Any, where: str) -> Recipe:
    """A recipe from plain data; `where` begins the message of an error. Raises: ConfigError."""
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where} should hold fields, not {type(content).__name__}")
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise ConfigError("; ".join(f"{where}: {_sentence(problem)}" for problem in error.errors()[:4])) from error


def _sentence(problem: Any) -> str:
    place = ".".join(map(str, problem["loc"])) or "as a whole"
    if problem["type"] == "extra_forbidden":
        known = _section_at(problem["loc"][:-1]).model_fields
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, 1)
        return f"unknown field {place}" + (f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}")
    if problem["type"] == "missing":
        return f"{place} is missing"
    return f"{place}: {problem['msg'].removeprefix('Value error, ')}"


def _section_at(path: Iterable[str | int]) -> type[Section]:
    """The class that checks the part of a recipe at `path`."""
    sections = {
        "model": ModelStart, "adapter": Adapter, "loss": Loss, "optimizer": OptimizerSettings, "stages": Stage, "mixture": GroupShare,
        "pairs": PairBatch, "average": Average, "saving": Saving, "evaluation": Evaluation,
    }  # fmt: skip
    named = [sections[part] for part in path if part in sections]  # type: ignore[index]
    return named[-1] if named else Recipe
