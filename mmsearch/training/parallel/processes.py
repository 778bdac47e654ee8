"""One process or many (`torchrun`): the same run, computed by PyTorch's own distributed training.

"ddp": every process holds the model. Gradients add up over all chunks of a step without any communication and are averaged by one
all-reduce at its end. "fsdp": each layer's weights, gradients and optimizer state are shared out (FSDP2, `fully_shard`) and fetched when
the layer is used, for models that one device does not hold.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from types import MethodType
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmsearch.embedders.trainable import PromptBatch
from mmsearch.errors import ConfigError

SILENCE = timedelta(hours=1)
"""How long a process waits for the others, who may be writing a state or evaluating."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: from 0; the first one writes files and talks.
    """

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier()

    def gather_objects(self, value: Any) -> list[Any]:
        """The value of every process, in the order of ranks, in each of them."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values


@contextlib.contextmanager
def started(device: str | None = None) -> Iterator[Processes]:
    """The processes that `torchrun` started (found by its environment variables), or that have met already, or this one alone.

    Args:
        device: "cpu", "cuda", …; None: a GPU for each process where there are any.

    Raises: ConfigError: more processes than GPUs.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if dist.is_available() and dist.is_initialized():
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
        return
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Processes(device=device)
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    if device == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"torchrun started more processes than the {torch.cuda.device_count()} GPUs of this machine"
            )
        device = f"cuda:{local_rank}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=SILENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


class Shared(Protocol):
    """A model over all processes."""

    def __call__(self, batch: PromptBatch) -> Tensor:
        """Embeddings of this process's rows."""
        ...

    def accumulating(self) -> AbstractContextManager[object]:
        """Entered around all backward passes of a step."""
        ...

    def reduce_gradients(self) -> None:
        """Called once per step, after all backward passes: every process then has the mean of all gradients."""
        ...


def share(model: nn.Module, processes: Processes, parallel: Literal["ddp", "fsdp"]) -> Shared:
    """The model over these processes. With "ddp" this is done again whenever other weights are trained.

    `model(batch)` gives embeddings, `model(None)` a zero that depends on every trained weight.
    """
    if processes.count == 1:
        return _Alone(model)
    if parallel == "ddp":
        return _Replicated(model)
    return _Alone(model)  # its layers were shared out by `shard`, and reduce their gradients by themselves


class _Alone:
    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, batch: PromptBatch) -> Tensor:
        return self.model(batch)

    def accumulating(self) -> AbstractContextManager[object]:
        return nullcontext()

    def reduce_gradients(self) -> None:
        pass


class _Replicated:
    """`DistributedDataParallel` reduces in the backward pass of what went through it. The step's passes do not communicate; the last
    one is that of a zero which depends on all weights, so that each is reduced with all that has accumulated, whether or not this
    process's last chunk used it (DDP's search for unused weights does not know of earlier chunks).
    """

    def __init__(self, model: nn.Module) -> None:
        # Buffers (rotary frequencies) are alike; to send them at every forward pass would ask for equally many passes everywhere.
        known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        option = (
            "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        )  # its name before torch 2.12
        self.ddp = nn.parallel.DistributedDataParallel(model, **{option: False})  # type: ignore[arg-type]

    def __call__(self, batch: PromptBatch) -> Tensor:
        return self.ddp(batch)

    def accumulating(self) -> AbstractContextManager[object]:
        return self.ddp.no_sync()

    def reduce_gradients(self) -> None:
        self.ddp(None).backward()


def shard(model: nn.Module, layers: list[nn.Module], precision: torch.dtype) -> None:
    """Share out the weights of `model` over all processes, in place: each of `layers` by itself, the rest together.

    The forward pass of `mmsearch.embedders.forward.qwen_vl` does not call layers but walks through them, so each gets a method `walk` that
    fetches its weights as a call would.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh("cuda" if dist.get_backend() == "nccl" else "cpu", (dist.get_world_size(),))
    narrow = None if precision == torch.float32 else precision
    # Inputs stay as they are: angles of the rotary embedding must not be rounded.
    policy = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in layers:
        layer.walk = MethodType(_walk, layer)  # type: ignore[assignment]
        fully_shard(layer, mesh=mesh, mp_policy=policy)
        register_fsdp_forward_method(layer, "walk")
    fully_shard(model, mesh=mesh, mp_policy=policy)


def _walk(layer: nn.Module, function: Any, *args: Any) -> Tensor:
    return function(layer, *args)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that is shared out, from all processes together (a collective); any other as it is."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def whole_state(content: Any, *, keep: bool) -> Any:
    """Plain data with every tensor in it whole, copied to the CPU; a collective. Without `keep` tensors become None."""
    if isinstance(content, Tensor):
        tensor = whole(content.detach())
        return tensor.to("cpu", copy=True) if keep else None
    if isinstance(content, Mapping):
        return {key: whole_state(value, keep=keep) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(whole_state(value, keep=keep) for value in content)
    return content


def like(tensor: Tensor, reference: Tensor) -> Tensor:
    """A whole tensor shared out as `reference` is."""
    placements = getattr(reference, "placements", None)
    if placements is None or tensor.shape != reference.shape:  # an optimizer's step counter
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(reference.device), reference.device_mesh, placements)  # type: ignore[attr-defined]
