"""A run while it goes: stages, steps, saving, evaluating. Everything in it can be stopped between two steps and taken up again."""

from __future__ import annotations

import contextlib
import logging
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from mmsearch.embedders.trainable import Trainable
from mmsearch.errors import ConfigError
from mmsearch.training.data.step_inputs import Material, steps_of_stage
from mmsearch.training.objective.loss import ContrastiveLoss, LossSettings
from mmsearch.training.objective.step_loss import StepInputs, compute_gradients
from mmsearch.training.parallel.gather import average_gradients, gather_numbers
from mmsearch.training.parallel.processes import Processes, like, share, whole, whole_state
from mmsearch.training.recipe.fields import Recipe
from mmsearch.training.run.metrics_log import MetricsLog, ProgressBar
from mmsearch.training.run.optimizer import WeightAverage, build_optimizers, rate_of, set_rate
from mmsearch.training.run.saved_state import State, random_state, restore_random_state, save_state
from mmsearch.training.run.trainee import Qwen2VLTrainee, Trainee

log = logging.getLogger(__name__)


class Session:
    """The moving parts of a run.

    Attributes:
        objective: of pairs; None where the recipe has none.
        average: of the weights; None where the recipe keeps none.
        optimizers: of the stage at hand.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        trainee: Trainee,
        material: Material,
        processes: Processes,
        *,
        base: str,
        evaluate: Callable[[Trainable], dict[str, float]] | None = None,
        ends_at: float | None = None,
    ) -> None:
        """`ends_at`: see `train`. `trainee` is shared out already where it is to be (FSDP); `base` is the digest of the checkpoint that it came from."""
        self.recipe = recipe
        self.run_folder = run
        self.trainee = trainee
        self.material = material
        self.processes = processes
        self.base = base
        self.evaluate = evaluate
        self.ends_at = ends_at
        self.began = time.monotonic()
        self.objective: ContrastiveLoss | None = None
        if material.sources:
            self.objective = ContrastiveLoss(loss_settings(recipe), tuple(material.sources)).to(processes.device)
        self.average = None if recipe.average is None else WeightAverage(trainee.weights(), recipe.average)
        self.optimizers: list[torch.optim.Optimizer] = []
        self._stop = threading.Event()

    def run(self, state: State | None) -> None:
        """All stages, from the beginning or from `state`.

        Raises: KeyboardInterrupt after SIGINT or SIGTERM, with a state saved.
        """
        torch.manual_seed(self.recipe.seed + self.processes.rank)  # dropout: every process its own
        first = (0, 0) if state is None else (state.stage, state.step)
        stages = self.recipe.stages
        total, done = sum(stage.steps for stage in stages), sum(stage.steps for stage in stages[: first[0]]) + first[1]
        if state is not None:
            self._restore(state)
            log.info("goes on at step %d of stage %s", first[1], stages[first[0]].name)
        with contextlib.ExitStack() as stack:
            metrics = None
            if self.processes.is_first:
                metrics = stack.enter_context(MetricsLog(self.run_folder, [stage.name for stage in stages], first))
            bar = stack.enter_context(ProgressBar(total, done, silent=not self.processes.is_first))
            stack.enter_context(self._stopped_by_signals())
            for number in range(first[0], len(stages)):
                if number > first[0] and self._is_out_of_time():
                    break
                began = number == first[0] and state is not None
                self._run_stage(number, first[1] if began else 0, state if began else None, metrics, bar)

    def _run_stage(
        self, number: int, first: int, state: State | None, metrics: MetricsLog | None, bar: ProgressBar
    ) -> None:
        stage = self.recipe.stages[number]
        if state is None:
            self._prepare_stage(number)
        self.trainee.begin(stage)
        if self.average is not None and self.recipe.average is not None:
            self.average.decay = stage.average_decay or self.recipe.average.decay
        temperatures = [] if self.objective is None else list(self.objective.parameters())
        rate = self.recipe.loss.temperature_learning_rate
        self.optimizers = build_optimizers(self.trainee.model, stage, self.recipe.optimizer, temperatures, rate)
        if state is not None:
            self._restore_optimizers(state)
            restore_random_state(
                self._own_random(state)
            )  # also if the stage is over: the next one's dropout goes on from here
        if first == stage.steps:
            return
        model = share(self.trainee, self.processes, self.recipe.parallel)
        clock = _SaveClock(self.recipe.saving.every_s, self.recipe.saving.every_steps)
        steps = steps_of_stage(self.material, self.trainee.embedder.preparation, number, first, self.processes)
        with contextlib.closing(steps):
            for step, inputs in enumerate(steps, first):
                started = time.monotonic()
                row = {"stage": stage.name, "step": step, **self._step(model, inputs, number, step)}
                row["seconds"] = time.monotonic() - started
                if self._evaluates_after(number, step):
                    row["evaluation"] = self._evaluation()
                if metrics is not None:
                    metrics.write(row)
                bar.step(row)
                is_out = self._is_out_of_time()
                is_last = is_out or step + 1 == stage.steps
                # All processes must agree, whoever was asked to stop and whatever their clocks say.
                wishes = gather_numbers(int(self._stop.is_set()), int(clock.is_due(step + 1)))
                stops, saves = (any(column) for column in zip(*wishes, strict=True))
                if stops or saves or is_last:
                    self._save(number, step + 1)
                    clock.restart()
                if stops:
                    raise KeyboardInterrupt
                if is_out:
                    log.info("the time is over after step %d of %d", step + 1, stage.steps)
                    return

    def _is_out_of_time(self) -> bool:
        """Whether any process has come to the end of the time."""
        return self.ends_at is not None and any(
            is_out for (is_out,) in gather_numbers(int(time.monotonic() >= self.ends_at))
        )

    def _scheduled(self, steps: int, step: int) -> int:
        """The step at which the learning rate stands: a later one where the time will be over before the steps are."""
        if self.ends_at is None:
            return step
        share = (time.monotonic() - self.began) / max(self.ends_at - self.began, 1e-6)
        return min(max(step, max(number for (number,) in gather_numbers(int(share * steps)))), steps - 1)

    @torch.no_grad()
    def _prepare_stage(self, number: int) -> None:
        """What a stage asks to be done to the weights before its first step."""
        stage = self.recipe.stages[number]
        if stage.from_average and self.average is not None:
            _fill(self.trainee.weights(), self.average.values, "averaged weights")
            self.average.steps = 0
        if stage.level_visual_tokens:
            assert isinstance(self.trainee, Qwen2VLTrainee)  # other families are refused with such a stage
            part = self.material.groups["photo"].draw(64, random.Random(self.recipe.seed), stage.sizes)
            self.trainee.level_visual_tokens(part, {} if self.average is None else self.average.values)

    def _step(self, model: Any, inputs: StepInputs, number: int, step: int) -> dict[str, Any]:
        stage = self.recipe.stages[number]
        factor = rate_of(stage, self._scheduled(stage.steps, step))
        set_rate(self.optimizers, factor)
        numbers: dict[str, Any] = compute_gradients(
            model, self.objective, inputs, stage, self.recipe, is_sharded=self.trainee.is_sharded
        )
        if self.objective is not None:
            average_gradients(self.objective.parameters())
        # Temperatures are left out: they are no part of the model, nor shared out with it (FSDP).
        weights = [weight for weight in self.trainee.weights().values() if weight.grad is not None]
        norm = whole(torch.nn.utils.clip_grad_norm_(weights, self.recipe.optimizer.clip or float("inf"))).item()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.trainee.weights())
        numbers |= {"lr": factor, "grad_norm": norm}
        if inputs.skipped:
            numbers["skipped"] = inputs.skipped
        return numbers

    def _evaluates_after(self, number: int, step: int) -> bool:
        settings = self.recipe.evaluation
        done = sum(stage.steps for stage in self.recipe.stages[:number]) + step + 1
        total = sum(stage.steps for stage in self.recipe.stages)
        return settings is not None and (done % settings.every_steps == 0 or done == total)

    def _evaluation(self) -> dict[str, float]:
        """Scores of the model as it is; with FSDP all processes compute, else the first one."""
        from mmsearch.training.run.held_out_ranking import rank_held_out

        scores: dict[str, float] = {}
        if self.processes.is_first or self.trainee.is_sharded:
            before = random_state()
            self.trainee.eval()
            with torch.no_grad():
                if self.evaluate is not None:
                    self.trainee.embedder.weights_changed()
                    scores = self.evaluate(self.trainee.embedder)
                else:
                    scores = rank_held_out(self.trainee, self.recipe, self.material)
            self.trainee.train()
            restore_random_state(before)
        self.processes.wait()
        return scores

    def _save(self, number: int, step: int) -> None:
        keep = self.processes.is_first
        mixture = self.material.mixture(number)
        state = State(
            recipe=self.recipe.record(),
            base=self.base,
            stage=number,
            step=step,
            model=whole_state(self.trainee.weights(), keep=keep),
            average=whole_state(self.average.values, keep=keep) if self.average is not None else {},
            average_steps=self.average.steps if self.average is not None else 0,
            optimizers=[whole_state(optimizer.state_dict(), keep=keep) for optimizer in self.optimizers],
            objective=dict(self.objective.state_dict()) if self.objective is not None else {},
            mixture={} if mixture is None else mixture.state_dict(),
            random=self.processes.gather_objects(random_state()),
        )
        if keep:
            save_state(self.run_folder, state, keep=self.recipe.saving.keep)
        self.processes.wait()

    @torch.no_grad()
    def _restore(self, state: State) -> None:
        _fill(self.trainee.weights(), state.model, "weights")
        if self.average is not None:
            _fill(self.average.values, state.average, "averaged weights")
            self.average.steps = state.average_steps
        if self.objective is not None:
            self.objective.load_state_dict(state.objective)
        mixture = self.material.mixture(state.stage)
        if mixture is not None:
            mixture.load_state_dict(state.mixture)

    def _restore_optimizers(self, state: State) -> None:
        for optimizer, stored in zip(self.optimizers, state.optimizers, strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            shared = {
                number: {
                    name: like(value, parameters[number]) if isinstance(value, torch.Tensor) else value
                    for name, value in entry.items()
                }
                for number, entry in stored["state"].items()
            }
            optimizer.load_state_dict({"state": shared, "param_groups": stored["param_groups"]})

    def _own_random(self, state: State) -> dict[str, torch.Tensor]:
        if len(state.random) != self.processes.count:
            log.warning(
                "the state was saved by %d processes, now there are %d: dropout goes on with other random numbers",
                len(state.random),
                self.processes.count,
            )
            return random_state()
        return state.random[self.processes.rank]

    @contextlib.contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM ask for a stop after the step at hand; a second one ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        names = (signal.SIGINT, signal.SIGTERM)
        before = {name: signal.getsignal(name) for name in names}

        def stop(number: int, _: Any) -> None:
            log.warning("stops after this step, with a state saved")
            self._stop.set()
            signal.signal(number, before[signal.Signals(number)] or signal.SIG_DFL)

        for name in names:
            signal.signal(name, stop)
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler or signal.SIG_DFL)


class _SaveClock:
    def __init__(self, every_s: float | None, every_steps: int | None) -> None:
        self.every_s, self.every_steps = every_s, every_steps
        self.restart()

    def restart(self) -> None:
        self._saved_at = time.monotonic()

    def is_due(self, step: int) -> bool:
        by_time = self.every_s is not None and time.monotonic() - self._saved_at >= self.every_s
        return by_time or (self.every_steps is not None and step % self.every_steps == 0)


def loss_settings(recipe: Recipe) -> LossSettings:
    """The recipe's `loss` as `ContrastiveLoss` takes it. Raises: ConfigError."""
    return LossSettings(**{item.name: getattr(recipe.loss, item.name) for item in fields(LossSettings)})


def _fill(weights: dict[str, torch.Tensor], stored: dict[str, torch.Tensor], what: str) -> None:
    if set(weights) != set(stored):
        odd = sorted(set(weights) ^ set(stored))
        raise ConfigError(
            f"the state's {what} are of another model: {len(odd)} differ, as {', '.join(odd[:3])}; start again with --fresh"
        )
    for name, weight in weights.items():
        if weight.shape != stored[name].shape:
            raise ConfigError(
                f"the state's {name} has shape {tuple(stored[name].shape)}, the model's {tuple(weight.shape)}"
            )
        weight.detach().copy_(like(stored[name].to(weight.device), weight))
