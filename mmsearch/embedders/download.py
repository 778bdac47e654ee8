"""Fetching a published model from the hub: the only code that asks the network, and only for `mmsearch models pull`.

What is fetched: configuration, tokenizer, safetensors; of an adapter its base too. Never code. A pickle only where `known_models`
says that the model comes in no other form: its tensors are read with `weights_only` and written as safetensors beside it.
Everything lands in the local Hugging Face cache, where `checkpoints.checkpoint.find_checkpoint` and other programs find it.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmsearch.disk.replace import remove_leftovers, replace_file
from mmsearch.embedders.checkpoints.checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    HUB_NAME,
    Checkpoint,
    find_checkpoint,
    missing_weights,
    read_json,
)
from mmsearch.embedders.families.choice import family_of
from mmsearch.embedders.published.known_models import KnownModel, known_model
from mmsearch.errors import ConfigError, EmbedderError, ModelNotFound

SMALL_FILES = ("*.json", "*.jinja", "*.model", "vocab.txt", "merges.txt", "README.md", "LICENSE*")
WEIGHTS = r"model(-\d{5}-of-\d{5})?\.safetensors"
PICKLES = r"pytorch_model(-\d{5}-of-\d{5})?\.bin"
PICKLED_ADAPTER = "adapter_model.bin"
NOT_NEEDED = ("trainer_state.json", "optimizer*", "*.bin.index.json", "training_args*", "results*.json")
SPARE_BYTES = 1 << 30
"""Left free on the disk at least."""


@dataclass(frozen=True, slots=True)
class Repository:
    """What of one repository of the hub is fetched.

    `files` are names with their sizes in bytes; `pickles` those of them that become safetensors.
    """

    name: str
    revision: str | None
    commit: str
    licence: str | None
    files: dict[str, int]
    pickles: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        return sum(self.files.values())


@dataclass(frozen=True, slots=True)
class Download:
    """What a model needs: its own repository first, then its base's if it is an adapter."""

    name: str
    repositories: tuple[Repository, ...]

    @property
    def size_bytes(self) -> int:
        return sum(repository.size_bytes for repository in self.repositories)

    @property
    def missing_bytes(self) -> int:
        """Of files that are not in the local cache yet."""
        return sum(
            size
            for repository in self.repositories
            for file, size in repository.files.items()
            if not _is_cached(repository, file)
        )


def plan_download(name: str, *, revision: str | None = None, base: str | None = None) -> Download:
    """Ask the hub what fetching a model would take. Only its small configuration files are fetched here.

    Args:
        name: "owner/name", or "owner/name@revision".
        revision: a commit, tag or branch; the one that `known_models` pins, else the newest, if None.
        base: the base of an adapter, over the one that the adapter (or `known_models`) names.

    Raises:
        ConfigError: not a name on the hub. ModelNotFound: not on the hub, or no network.
        EmbedderError: nothing here runs it, only pickled weights, or too little room on the disk.
    """
    name, _, named_revision = name.partition("@")
    known = known_model(name)
    if known is not None and known.why_not:
        raise EmbedderError(f"{known.name} cannot be fetched: {known.why_not}")
    name = known.name if known is not None else name
    if not re.fullmatch(HUB_NAME, name):
        raise ConfigError(f"{name!r} is no name on the hub (owner/name); `mmsearch models list` shows the known ones")
    revision = revision or named_revision or None
    own = _look(name, revision or (known.revision if known else None), known)
    config = _config(own)
    found: tuple[Repository, ...] = (own,)
    if ADAPTER_CONFIG not in own.files:
        _check_family(own, config)
    else:
        base = base or _base_of(own, known)
        under = _look(base, None, known_model(base))
        if ADAPTER_CONFIG in under.files:
            raise EmbedderError(f"{base}, the base of {name}, is an adapter itself; merge the two first")
        _check_family(under, _config(under))
        found = (own, under)
    plan = Download(name if revision is None else f"{name}@{revision}", found)
    _check_room(plan)
    return plan


def download(plan: Download) -> Checkpoint:
    """Fetch what is not here yet; an interrupted download goes on where it ended.

    Raises:
        ModelNotFound: no network, or the files are gone. EmbedderError: a pickle that holds more than tensors.
    """
    from huggingface_hub import snapshot_download

    for repository in plan.repositories:
        with _hub_errors(repository.name):
            folder = snapshot_download(
                repository.name,
                revision=repository.revision,
                allow_patterns=list(repository.files),
                endpoint=_endpoint(),
            )
        for pickle in repository.pickles:
            convert_pickle(Path(folder) / pickle)
    found = find_checkpoint(plan.name)
    if missing := missing_weights(found):
        raise EmbedderError(f"{plan.name} is not complete in the local cache: {missing[0]} is missing; pull it again")
    return found


def convert_pickle(path: Path) -> Path:
    """Write a pickle's tensors as safetensors beside it, whole or not at all; nothing else is unpickled.

    Returns:
        The new file: `adapter_model.safetensors` or `model…safetensors`. One that is there already stays.

    Raises:
        EmbedderError: it holds something else than a flat mapping of names to tensors.
    """
    import pickle

    import torch
    from safetensors.torch import save_file

    target = path.with_name(path.name.replace("pytorch_model", "model").removesuffix(".bin") + ".safetensors")
    if target.is_file():
        return target
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise EmbedderError(
            f"{path} cannot be read as tensors alone, and is opened in no other way: {first}"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
        raise EmbedderError(f"{path} holds something else than tensors by name; it is not used")
    remove_leftovers(target)
    with replace_file(target, durable=False) as temporary:
        save_file(
            {str(key): tensor.clone().contiguous() for key, tensor in content.items()}, temporary, {"format": "pt"}
        )
        temporary.chmod(0o644)  # save_file makes it private
    return target


def _endpoint() -> str:
    """The hub, or the mirror that `HF_ENDPOINT` names."""
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT") or constants.ENDPOINT


def _look(name: str, revision: str | None, known: KnownModel | None) -> Repository:
    """Which files of a repository are needed."""
    from huggingface_hub import HfApi

    with _hub_errors(name):
        info = HfApi(endpoint=_endpoint()).model_info(name, revision=revision, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or () if "/" not in file.rfilename}
    weights, pickles = _weights(name, list(sizes), may_convert=bool(known and known.has_pickled_weights))
    small = [
        file
        for file in sizes
        if any(fnmatch.fnmatch(file, pattern) for pattern in SMALL_FILES)
        and not any(fnmatch.fnmatch(file, pattern) for pattern in NOT_NEEDED)
    ]
    licence = (info.card_data.to_dict().get("license") if info.card_data else None) or (known and known.licence)
    files = {file: sizes[file] for file in sorted([*small, *weights])}
    return Repository(name, revision, str(info.sha), licence or None, files, pickles)


def _weights(name: str, files: Sequence[str], *, may_convert: bool) -> tuple[list[str], tuple[str, ...]]:
    """The files of weights that are fetched, and those of them that are pickles."""
    if ADAPTER_CONFIG in files:
        safe, pickled = [f for f in files if f == ADAPTER_WEIGHTS], [f for f in files if f == PICKLED_ADAPTER]
    else:
        safe, pickled = ([f for f in files if re.fullmatch(pattern, f)] for pattern in (WEIGHTS, PICKLES))
    if safe:
        return safe, ()
    if pickled and may_convert:
        return pickled, tuple(pickled)
    if pickled:
        raise EmbedderError(
            f"{name} publishes its weights as a pickle only ({pickled[0]}), which could run code when opened, and is none of "
            "the models whose pickles are converted; convert it to safetensors yourself, in a process without rights"
        )
    raise EmbedderError(f"{name} has no weights in safetensors; its files: {', '.join(sorted(files)[:8]) or 'none'}")


def _config(repository: Repository) -> dict[str, Any]:
    return _json(repository, "config.json") if "config.json" in repository.files else {}


def _json(repository: Repository, file: str) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download

    with _hub_errors(repository.name):
        path = hf_hub_download(repository.name, file, revision=repository.commit, endpoint=_endpoint(), etag_timeout=30)
    return read_json(Path(path))


def _base_of(adapter: Repository, known: KnownModel | None) -> str:
    """The hub name of an adapter's base: as it says, if that is one, else as known."""
    told = str(_json(adapter, ADAPTER_CONFIG).get("base_model_name_or_path") or "")
    if re.fullmatch(HUB_NAME, told):
        return told
    if known is not None and known.base:
        return known.base
    raise EmbedderError(
        f"{adapter.name} is an adapter over {told or 'a model that it does not name'}, which is no name on the hub; "
        "say which with --base OWNER/NAME"
    )


def _check_family(repository: Repository, config: dict[str, Any]) -> None:
    """Refuse, before gigabytes are fetched, what nothing here runs."""
    if not config:
        raise EmbedderError(f"{repository.name} has no config.json: not a checkpoint that mmsearch can run")
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repository.name, "config.json", revision=repository.commit)
    family_of(Checkpoint(repository.name.rpartition("/")[2], Path(str(path)).parent))


def _check_room(plan: Download) -> None:
    from huggingface_hub import constants

    from mmsearch.words import size

    place = Path(constants.HF_HUB_CACHE).expanduser()
    existing = next(folder for folder in (place, *place.parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    needed = plan.missing_bytes + SPARE_BYTES + sum(r.files[p] for r in plan.repositories for p in r.pickles)
    if needed > free:
        raise EmbedderError(
            f"{plan.name} needs {size(needed)} on the disk of {place}, which has {size(free)} left; "
            "make room, or set HF_HOME to another disk"
        )


def _is_cached(repository: Repository, file: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repository.name, file, revision=repository.commit), str)


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """The hub's, the network's and the system's errors as ours, with the way out."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise ModelNotFound(
            f"{name} wants its licence accepted: do that on https://huggingface.co/{name}, log in with `hf auth login`, "
            "and pull again"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(f"the hub has no model {name} (or it is private: `hf auth login`)") from error
    except RevisionNotFoundError as error:
        raise ModelNotFound(f"the hub's {name} has no such revision; leave --revision out for the newest") from error
    except OfflineModeIsEnabled as error:
        raise ModelNotFound(f"no network: HF_HUB_OFFLINE is set; unset it to fetch {name}") from error
    except HfHubHTTPError as error:
        raise ModelNotFound(f"the hub refuses {name}: {_first_line(error)}") from error
    except LocalEntryNotFoundError as error:
        raise ModelNotFound(
            f"no network: {name} cannot be fetched ({_first_line(error.__cause__ or error)})"
        ) from error
    except OSError as error:
        if error.errno is not None and error.filename is not None:
            raise  # the disk's, which says itself what is wrong
        raise ModelNotFound(f"no network: {name} cannot be fetched ({_first_line(error)})") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore", "requests"):
            raise
        raise ModelNotFound(f"no network: {name} cannot be fetched ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
