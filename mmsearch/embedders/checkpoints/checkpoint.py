"""Checkpoint folders in the public layout of Qwen2-VL and its kin: find, read, check, write. Safetensors only; nothing is unpickled.

A folder holds `config.json` (flat as on the hub, or nested as transformers 5 writes it), `*.safetensors`, `tokenizer.json`
(or `vocab.json` and `merges.txt`), and may hold a sidecar `mmsearch.json`. An adapter folder holds `adapter_config.json` and
`adapter_model.safetensors` instead of weights, and names its base.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer

from mmsearch.disk.replace import remove_leftovers, replace_file
from mmsearch.embedders.published.known_models import known_model
from mmsearch.errors import EmbedderError, ModelNotFound

SHIPPED = Path(__file__).parents[2] / "checkpoints"
SIDECAR = "mmsearch.json"
CARD = "README.md"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
HUB_NAME = r"[\w.-]+/[\w.-]+(@[\w.-]+)?"
NAME_WITH_FAMILY = r"([a-z][a-z0-9_]{2,}):(.+)"
"""A name that says which family opens it: "gme:/home/me/model"."""

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """The files of one model.

    `base` holds the weights; `adapter` is the PEFT folder over it, or None. Where both have a file the adapter's counts.
    `family` is the one that the name asked for ("gme:FOLDER"), or "".
    """

    name: str
    base: Path
    adapter: Path | None = None
    family: str = ""

    def file(self, name: str) -> Path | None:
        """The path of a file of this model, the adapter's first; None if neither folder has it."""
        for folder in (self.adapter, self.base):
            if folder is not None and (folder / name).is_file():
                return folder / name
        return None

    def json(self, name: str) -> dict[str, Any]:
        """The content of a JSON file, {} if there is none."""
        path = self.file(name)
        return {} if path is None else read_json(path)

    def weight_files(self) -> list[Path]:
        """The safetensors files of the base, then the adapter's.

        Raises:
            ModelNotFound: none there. EmbedderError: only pickled weights.
        """
        files = sorted(path for path in self.base.glob("*.safetensors") if path.name != ADAPTER_WEIGHTS)
        if not files:
            raise _no_weights(self.base)
        if self.adapter is not None:
            if not (self.adapter / ADAPTER_WEIGHTS).is_file():
                raise _no_weights(self.adapter)
            files.append(self.adapter / ADAPTER_WEIGHTS)
        return files

    def sha256(self) -> str:
        """Hex digest over everything that decides an embedding: weights, configuration, tokenizer."""
        digest = hashlib.sha256()
        names = ("config.json", "tokenizer.json", "english_tokenizer.json", "vocab.json", "merges.txt")
        files = [*self.weight_files(), *filter(None, map(self.file, names))]
        if self.adapter is not None:
            files.append(self.adapter / ADAPTER_CONFIG)
        for path in files:
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()


def _no_weights(folder: Path) -> EmbedderError:
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickled:
        return EmbedderError(
            f"{folder} holds only pickled weights ({pickled[0]}), which could run code when opened; "
            "`mmsearch models pull` converts those of the models that it knows; convert others to safetensors yourself"
        )
    return ModelNotFound(f"no .safetensors file in {folder}")


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise EmbedderError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise EmbedderError(f"{path} should hold a JSON object")
    return content


def find_checkpoint(name_or_folder: str | Path) -> Checkpoint:
    """Resolve "mini", a folder, or a hub name in the local cache ("owner/name", or "owner/name@revision").

    Each may have its family before it, as `name_with_family` writes it. The network is never asked.

    Raises:
        ModelNotFound: nothing there; the message says what was looked for and how to get it.
    """
    family, name = split_name(str(name_or_folder))
    return replace(_find_checkpoint(name), family=family)


def split_name(name: str) -> tuple[str, str]:
    """The family that a name asks for ("" if none), and the name without it. What exists under the whole name is no family."""
    parts = re.fullmatch(NAME_WITH_FAMILY, name)
    return (parts[1], parts[2]) if parts and not Path(name).exists() else ("", name)


def name_with_family(name: str | Path, family: str | None) -> str:
    """The name that opens a model by the code of `family`; the name itself for None."""
    return f"{family}:{split_name(str(name))[1]}" if family else str(name)


def lasting_name(name: str) -> str:
    """The name that opens the same model from any working folder: the whole path of a checkpoint's folder, else the name as it is."""
    family, bare = split_name(name)
    folder = Path(bare).expanduser()
    if bare == "toy" or _shipped(bare) is not None or not _is_checkpoint(folder):
        return name
    return name_with_family(folder.resolve(), family or None)


def _find_checkpoint(name_or_folder: str) -> Checkpoint:
    folder = _find_folder(name_or_folder)
    name = published_name(folder).rpartition("/")[2]
    if not (folder / ADAPTER_CONFIG).is_file():
        return Checkpoint(name, folder)
    base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    known = known_model(published_name(folder))
    if not base:
        raise EmbedderError(f"{folder / ADAPTER_CONFIG} does not name its base model")
    beside = folder / base
    if beside.is_dir():
        return Checkpoint(name, beside.resolve(), folder)
    try:
        return Checkpoint(name, _find_folder(base), folder)
    except ModelNotFound:
        if known is None or known.base in (None, base):
            raise
        return Checkpoint(name, _find_folder(str(known.base)), folder)  # the adapter names a folder of its maker


def published_name(folder: Path) -> str:
    """What a folder is called on the hub: "owner/name" inside the hub's local cache, else the folder's own name."""
    cached = re.search(r"models--([^/]+)--([^/]+)/snapshots/[^/]+/?$", folder.as_posix())
    return f"{cached[1]}/{cached[2]}" if cached else folder.name


def _find_folder(name_or_folder: str | Path) -> Path:
    name = str(name_or_folder)
    if (shipped := _shipped(name)) is not None:
        return shipped
    folder = Path(name_or_folder).expanduser()
    if _is_checkpoint(folder):
        return folder.resolve()
    if folder.is_dir():
        raise ModelNotFound(f"{folder} is a folder without config.json: not a checkpoint")
    if name == "mini":
        raise ModelNotFound(
            f"the shipped checkpoint is missing from this installation ({shipped}); install mmsearch again"
        )
    known = known_model(name)
    name = known.name if known is not None and not known.why_not else name
    if re.fullmatch(HUB_NAME, name):
        cached = find_in_hub_cache(name)
        if cached is not None:
            return cached
        raise ModelNotFound(
            f"no folder {name!r}, and no model of that name in the local Hugging Face cache; "
            f"fetch it with `mmsearch models pull {name}` (nothing else asks the network), or give a folder"
        )
    raise ModelNotFound(
        f"no checkpoint {name!r}: give mini, a folder, or a hub name that is here; `mmsearch models list` shows them"
    )


def _shipped(name: str) -> Path | None:
    folder = SHIPPED / name
    return folder if re.fullmatch(r"[a-z0-9-]+", name) and (folder / "config.json").is_file() else None


def _is_checkpoint(folder: Path) -> bool:
    return (folder / "config.json").is_file() or (folder / ADAPTER_CONFIG).is_file()


def find_in_hub_cache(name: str) -> Path | None:
    """The folder of a hub name ("owner/name", or with "@revision") in the local cache; None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    name, _, revision = name.partition("@")
    known = known_model(name)
    pinned = known.revision if known is not None and known.name == name else None
    for wanted in [revision] if revision else filter(None, [pinned, "main"]):
        for file in ("config.json", ADAPTER_CONFIG):
            try:
                found = try_to_load_from_cache(name, file, revision=wanted)
            except ValueError:  # no name of the hub's
                return None
            if isinstance(found, str):
                return Path(found).parent
    return None


def missing_weights(checkpoint: Checkpoint) -> list[str]:
    """Files of weights that an index, or the others' names, call for and that are not there, as after a broken download."""
    wanted: set[str] = set()
    index = checkpoint.base / "model.safetensors.index.json"
    if index.is_file():
        wanted.update(read_json(index).get("weight_map", {}).values())
    present = {path.name for path in checkpoint.base.glob("*.safetensors")}
    for name in present:
        if shard := re.fullmatch(r"(.+-)\d{5}-of-(\d{5})(\.safetensors)", name):
            wanted.update(f"{shard[1]}{n:05}-of-{shard[2]}{shard[3]}" for n in range(1, int(shard[2]) + 1))
    if checkpoint.adapter is not None and not (checkpoint.adapter / ADAPTER_WEIGHTS).is_file():
        wanted.add(ADAPTER_WEIGHTS)
    return sorted(wanted - present) or ([] if present else ["model.safetensors"])


def load_tokenizer(checkpoint: Checkpoint, file: str = "tokenizer.json") -> Tokenizer:
    """The fast tokenizer of a checkpoint, without truncation or padding of its own."""
    path = checkpoint.file(file)
    if path is not None:
        tokenizer = Tokenizer.from_file(str(path))
    else:
        vocabulary = checkpoint.file("vocab.json")
        if vocabulary is None or checkpoint.file("merges.txt") is None:
            raise ModelNotFound(f"no tokenizer.json (nor vocab.json and merges.txt) in {checkpoint.base}")
        from transformers import AutoTokenizer

        slow_to_load: Any = AutoTokenizer.from_pretrained(
            vocabulary.parent, local_files_only=True, trust_remote_code=False
        )
        tokenizer = slow_to_load.backend_tokenizer
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def read_tensors(path: Path) -> Tensors:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise EmbedderError(f"{path} cannot be read: {error}") from error


def model_key_of(key: str) -> str:
    """A stored tensor's name as `Qwen2VLModel` calls it, whichever release of transformers stored it.

    Old: `visual.*`, `model.layers.*`; 4.52 and later: `model.visual.*`, `model.language_model.*`; bare model: as it is.
    """
    key = key.removeprefix("model.")
    return key if key.startswith(("visual.", "language_model.")) else f"language_model.{key}"


def public_key_of(key: str) -> str:
    """The inverse: the name under which the public Qwen2-VL checkpoints store a tensor."""
    return key if key.startswith("visual.") else key.replace("language_model.", "model.", 1)


def compare(what: str, found: Iterable[str], expected: Iterable[str]) -> None:
    """Raises: EmbedderError: naming the first that are missing, or unexpected."""
    found, expected = set(found), set(expected)
    for verb, names in (("missing", expected - found), ("unexpected", found - expected)):
        if names:
            first = ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
            raise EmbedderError(f"{len(names)} {what} {verb}: {first}")


def text_fields(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a `config.json`, flat or nested."""
    return config.get("text_config") or config


def fill(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Make tensors the parameters of a model that is on the meta device; nothing is copied.

    Raises:
        EmbedderError: a key is missing, unexpected or of another shape.
    """
    expected = {name: parameter.shape for name, parameter in model.named_parameters()}
    compare("tensors", tensors, expected)
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise EmbedderError(f"{name} has shape {tuple(tensors[name].shape)}, the configuration says {tuple(shape)}")
    model.load_state_dict(tensors, strict=False, assign=True)  # strict was checked above; buffers are not stored


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> None:
    """Write tensors under their public names; the file appears whole or not at all."""
    write_stored(
        path, {public_key_of(k): t.detach().to(device="cpu", dtype=dtype).contiguous() for k, t in tensors.items()}
    )


def write_stored(path: Path, stored: Mapping[str, torch.Tensor]) -> None:
    """Write tensors as they are; the file appears whole or not at all."""
    remove_leftovers(path)
    with replace_file(path, durable=False) as temporary:
        save_file(dict(stored), temporary, metadata={"format": "pt"})
        temporary.chmod(0o644)  # save_file makes it private
