"""What a recipe may say: everything that decides a training run, checked, frozen once read. Read by `mmsearch.training.recipe`.

To add a setting: a field with a default in its section; recipes that do not name it keep their meaning.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

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
        checkpoint: YAML `from`: a Qwen2-VL or a compact_vlm: a folder in its layout, a hub name in the local cache, or "mini".
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
    """What is minimised; fields and defaults of `mmsearch.training.objective.loss.LossSettings`, where each is explained, and five more.

    Teacher-vector groups use `temperature`, `teacher_temperature`, `cosine`, `kind_strength`, `kind_weight` and `principal_order` only.

    Attributes:
        kind_strength: for teacher-vector groups: how strongly an embedding says of which kind of item it speaks, beside a teacher's vector of
            length 1; see `mmsearch.training.objective.kind_axes`. 0: not at all.
        kind_weight: weight of the squared error of what an embedding says of kinds, beside its part in `cosine`, which is slow to teach it.
        principal_order: the model's coordinates are the directions of kinds (with `kind_strength`), then the principal axes of the
            teacher's vectors, the widest first. Cosines are the same in any basis, but the first coordinates alone are worth most in this one.
        cosine: for teacher-vector groups: weight of 1 - cosine to the teacher's vector, beside the contrastive part.
        temperature_learning_rate: of learnt temperatures, as logarithms.
    """

    temperature: PositiveFloat = 0.02
    learnable_temperature: bool = False
    temperature_bounds: tuple[float, float] = (0.005, 0.5)
    symmetric: bool = False
    negatives_from: Literal["batch", "source"] = "batch"
    mask_false_negatives: bool = False
    false_negative_margin: float | None = None
    false_negative_teacher_cosine: float | None = None
    matryoshka_dims: tuple[int, ...] = ()
    matryoshka_weights: tuple[float, ...] = ()
    contrastive_weight: float = 1.0
    own_distillation_weight: float = 0.0
    batch_distillation_weight: float = 0.0
    teacher_temperature: PositiveFloat = 0.05
    cosine: NonNegativeFloat = 0.0
    kind_strength: NonNegativeFloat = 0.0
    kind_weight: NonNegativeFloat = 0.0
    principal_order: bool = False
    temperature_learning_rate: PositiveFloat = 0.001


class OptimizerSettings(Section):
    """AdamW, or Muon for matrices and AdamW for the rest.

    Attributes:
        rest_rate: beside Muon, AdamW's share of the stage's learning rate.
        clip: gradients are scaled down to this norm. None: never.
    """

    name: Literal["adamw", "muon"] = "adamw"
    weight_decay: NonNegativeFloat = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    momentum: float = 0.95
    rest_rate: PositiveFloat = 1.0
    clip: PositiveFloat | None = 1.0


class GroupShare(Section):
    """A teacher-vector group's part in a step: examples, and weight of its loss.

    Attributes:
        neighbours: weight, within the group's loss, of ranking the bank as the teacher does; see `mmsearch.training.objective.loss.neighbour_distillation`.
        kinds: whether its examples are drawn to their kinds, where `loss.kind_strength` says that any are.
    """

    batch: PositiveInt
    weight: NonNegativeFloat = 1.0
    neighbours: NonNegativeFloat = 0.0
    kinds: bool = True


class PairBatch(Section):
    """The pairs of a step: sub-batches of `sub_batch_size`, each from one source, together `batch_size_global` over all processes.

    Attributes:
        sub_batch_size: 0: every pair is drawn from a source of its own.
        sources: names of those to draw from; all of the recipe's if empty.
    """

    batch_size_global: PositiveInt
    sub_batch_size: int = Field(ge=0)
    weight: NonNegativeFloat = 1.0
    sources: tuple[str, ...] = ()

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
            "language" leaves the tower as it is. Of a compact_vlm, whose pictures never need the text encoder, "vision" trains the network
            and what pools its grid, "language" the rest.
        decay: for the schedule "plateau": the share of the steps over which the rate falls to zero.
        sizes: (width, height) of photos and frames of teacher-vector groups.
        mixture: teacher-vector groups by name.
        max_pixels: by kind, over the recipe's own.
        kept_tokens: of a picture's visual tokens, in a stage that trains "vision": the share, drawn again each time, that the tower is given.
        from_average: the stage begins with the averaged weights of those before it, and the average again.
        average_decay: of the average while this stage goes on, instead of the recipe's own.
        level_visual_tokens: before the first step, visual tokens are scaled to the size of words, once: a stage that trains "vision" only
            cares for their direction.
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
    kept_tokens: float = Field(default=1.0, gt=0, le=1)
    from_average: bool = False
    average_decay: float | None = Field(default=None, gt=0, lt=1)
    level_visual_tokens: bool = False

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
        adapter: None: all weights are trained (those of a frozen tower apart). Qwen2-VL models alone have adapters, `parallel: fsdp`,
            `gradient_checkpointing`, `vision_cache_gb`, and a stage's `kept_tokens` and `level_visual_tokens`.
        vision_tower: a frozen tower is never trained, whatever a stage says. Of a compact_vlm that is the network; what pools its grid
            learns.
        vision_cache_gb: features of a frozen tower are kept on disk up to this size; 0: computed every time.
        page_text_tokens: of a page's text, that the finished model is given at most.
        teacher_text_tokens: of every text, that the teacher of teacher-vector groups is given at most; None: `page_text_tokens`.
        precision: of the arithmetic; "auto" is bfloat16 where the device computes it natively, else float32.
        chunk_positions: GradCache embeds as many examples at once as have this many visual patches and tokens together;
            `chunk_rows` examples at most, if given.
        parallel: several processes each hold the model ("ddp") or share it out ("fsdp").
        workers: make pairs ahead, per training process; 0: one thread does all.
        sources: of pairs, each with `name`, `weight`, `parser` and what that parser reads; see `mmsearch.training.datasets`.
        groups: options of teacher-vector groups by name; see `mmsearch.training.data.teacher_groups`.
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
    teacher_text_tokens: PositiveInt | None = None
    query_text_tokens: PositiveInt = 128
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool = False
    chunk_positions: PositiveInt = 16384
    chunk_rows: PositiveInt | None = None
    parallel: Literal["ddp", "fsdp"] = "ddp"
    workers: int = Field(default=2, ge=0)
    workers_are: Literal["processes", "threads"] = "processes"
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
        if self.loss.batch_distillation_weight or self.loss.false_negative_teacher_cosine is not None:
            raise ValueError(
                "loss.batch_distillation_weight and loss.false_negative_teacher_cosine need a teacher's vectors of all targets, which "
                "sources of pairs do not carry yet; ContrastiveLoss takes them from Python. A teacher's scores of a pair's own targets "
                "are read: loss.own_distillation_weight"
            )
        for stage in self.stages:
            if stage.pairs is not None:
                if not self.sources:
                    raise ValueError(f"stage {stage.name!r} trains on pairs, but the recipe has no `sources`")
                if unknown := set(stage.pairs.sources) - set(names):
                    raise ValueError(f"stage {stage.name!r} names unknown sources: {', '.join(sorted(unknown))}")
            if stage.from_average and self.average is None:
                raise ValueError(f"stage {stage.name!r} begins from an average, but the recipe has no `average`")
            if stage.level_visual_tokens and "photo" not in stage.mixture:
                raise ValueError(f"stage {stage.name!r}: level_visual_tokens needs the group 'photo' in its mixture")
            if stage.trains == "vision" and (self.vision_tower == "frozen" or self.adapter is not None):
                raise ValueError(f"stage {stage.name!r} trains the vision tower, which this recipe keeps frozen")
            if stage.kept_tokens < 1 and stage.trains != "vision":
                raise ValueError(f"stage {stage.name!r}: kept_tokens is for stages that train vision alone")
            if stage.trains == "vision" and stage.pairs is not None:
                raise ValueError(f"stage {stage.name!r}: pairs need the whole model, not `trains: vision`")
        if self.model.checkpoint is None and not self.trains_vision:
            raise ValueError(
                "a new model's vision tower must be trained: `vision_tower: frozen` and `adapter` need `model.from`"
            )
        if self.vision_cache_gb and self.parallel == "fsdp":
            raise ValueError(
                "vision_cache_gb needs `parallel: ddp`: with fsdp every process must run the tower every time"
            )
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
