"""States: everything that a run needs to go on as if it had never been interrupted.

A state appears whole or not at all: written to a temporary file, flushed to the disk, renamed. It holds tensors and plain data
only, and is read with `weights_only`, so that opening it runs no code.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from mmsearch.disk.replace import SUFFIX, replace_file
from mmsearch.errors import ConfigError

log = logging.getLogger(__name__)

FORMAT = 2
PATTERN = "state-*.pt"
UNDECISIVE = (
    "saving", "evaluation", "workers", "workers_are", "parallel", "vision_cache_gb", "chunk_positions", "chunk_rows",
)  # fmt: skip
"""Fields of a recipe that may change between interruption and resumption: they do not change what is learnt."""


@dataclass
class State:
    """A moment of a run, between two steps.

    Attributes:
        recipe: the recipe as plain data.
        base: digest of the checkpoint that training started from; "" for a new model.
        stage: number of the stage. step: steps of that stage that are done.
        model: every weight that the recipe can train, under its name in the model.
        average: the moving average of the same; empty without one. average_steps: how many steps are in it.
        optimizers: `state_dict()` of each.
        objective: parameters of the loss: learned temperatures.
        mixture: what the mixture of pairs was; empty without pairs.
        random: per process, the state of its random generators.
    """

    recipe: dict[str, Any]
    base: str
    stage: int
    step: int
    model: dict[str, torch.Tensor]
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    average_steps: int = 0
    optimizers: list[dict[str, Any]] = field(default_factory=list)
    objective: dict[str, torch.Tensor] = field(default_factory=dict)
    mixture: dict[str, Any] = field(default_factory=dict)
    random: list[dict[str, torch.Tensor]] = field(default_factory=list)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """What a checkpoint is exported from: the average if there is one."""
        return self.average or self.model


def state_path(run: Path, stage: int, step: int) -> Path:
    return run / f"state-{stage}-{step:07d}.pt"


def save_state(run: Path, state: State, *, keep: int = 2) -> Path:
    """Write a state, then remove all but the newest `keep`."""
    path = state_path(run, state.stage, state.step)
    content = {"format": FORMAT, **{item.name: getattr(state, item.name) for item in fields(state)}}
    with replace_file(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)
    for old in states(run)[:-keep]:
        old.unlink()
    return path


def states(run: Path) -> list[Path]:
    """The state files of a run, the newest last."""
    return sorted(run.glob(PATTERN))


def remove_parts(run: Path) -> None:
    """What a killed process left half-written; `.part` is the suffix of older releases."""
    for part in (*run.glob(f".*{SUFFIX}"), *run.glob("*.part")):
        part.unlink(missing_ok=True)


def find_state(run: Path, which: str = "newest") -> Path:
    """A state of a run by "newest", or by its step as `status` and file names give it: `12` or `1-12` (stage and step).

    Raises: ConfigError if there is none.
    """
    found = states(run)
    if not found:
        raise ConfigError(f"no state in {run}: nothing was trained there yet")
    if which == "newest":
        return found[-1]
    stage, _, step = which.rpartition("-")
    wanted = [path for path in found if which.replace("-", "").isdigit() and _position(path)[1] == int(step)]
    wanted = [path for path in wanted if not stage or _position(path)[0] == int(stage)]
    if len(wanted) != 1:
        there = ", ".join("{}-{}".format(*_position(path)) for path in found)
        raise ConfigError(f"{'no' if not wanted else 'more than one'} state {which!r} in {run}; there: {there}")
    return wanted[0]


def _position(path: Path) -> tuple[int, int]:
    _, stage, step = path.stem.split("-")
    return int(stage), int(step)


def load_state(path: Path) -> State:
    """Read a state file; its tensors stay on disk until they are used. Raises: ConfigError."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ConfigError(
            f"{path} cannot be read ({str(error).splitlines()[0]}); remove it to go on from the one before"
        ) from error
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise ConfigError(
            f"{path} was written by another version of mmsearch; start again (--fresh) or use that version"
        )
    return State(**{item.name: content[item.name] for item in fields(State)})


def check_state(state: State, recipe: Mapping[str, Any], base: str, where: Path) -> None:
    """Refuse to go on with another recipe or model than the state was made with.

    Raises: ConfigError, which names what differs.
    """
    differences = list(_differences(state.recipe, recipe))
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise ConfigError(
            f"{where} was made with another recipe: {'; '.join(differences[:3])}{more}. "
            "Use that recipe again, another --run folder, or --fresh to start again"
        )
    if state.base != base:
        raise ConfigError(
            f"{where} was trained from another checkpoint (digest {state.base[:12] or 'none'}, now {base[:12] or 'none'}); "
            "bring that one back, or start again with --fresh"
        )


def _differences(old: Any, new: Any, place: str = "") -> Any:
    """`place: old then, new now` for every leaf that differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            if place or name not in UNDECISIVE:
                yield from _differences(old.get(name), new.get(name), f"{place}.{name}" if place else str(name))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _differences(one, other, f"{place}.{number}")
    elif old != new:
        yield f"{place} was {_short(old)}, now {_short(new)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def random_state() -> dict[str, torch.Tensor]:
    """The state of this process's random generators, on the CPU."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: Mapping[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"].clone())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].clone())
