"""Which family a checkpoint belongs to: the first sign that tells, from `--family` down to the `model_type` of its `config.json`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from mmsearch.embedders.checkpoints.checkpoint import CARD, SIDECAR, Checkpoint, published_name
from mmsearch.embedders.families import FAMILIES, FAMILY_OF_TYPE, GENERAL_TYPES, family_class
from mmsearch.embedders.published.cards import names_in_card
from mmsearch.embedders.published.known_models import KnownModel, known_model
from mmsearch.errors import EmbedderError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """The family that runs a checkpoint.

    Attributes:
        told_by: what decided: "--family", the sidecar's file name, a published name, "the card …", or "the model type …".
        is_assumed: only the model type speaks for it, and models with other prompts have that type too.
    """

    family: str
    told_by: str
    is_assumed: bool = False


def choose_family(checkpoint: Checkpoint) -> Choice:
    """The first that tells: `--family` (the name's prefix), the sidecar, the name, the model's card, the `model_type`.

    A backbone's name says nothing of what was trained over it: an adapter over one, or a fine-tune whose card names one, needs another sign.

    Raises:
        EmbedderError: none of them knows it, or there is no such family.
    """
    sidecar = checkpoint.json(SIDECAR)
    config = checkpoint.json("config.json")
    model_type = str(config.get("model_type"))
    told = checkpoint.family or sidecar.get("family")
    by_type = FAMILY_OF_TYPE.get(model_type, "")
    if told:
        choice = Choice(str(told), "--family" if checkpoint.family else SIDECAR)
    elif row := _known_by_name(checkpoint):
        choice = Choice(row.family, row.name)
    elif model_type not in GENERAL_TYPES:
        choice = Choice(by_type, f"the model type {model_type}")
    elif "page_text_tokens" in sidecar:  # `mmsearch train` writes it; before 0.5 it left this family's name out
        choice = Choice("vlm2vec", SIDECAR)
    elif row := _known_by_card(checkpoint):
        choice = Choice(row.family, f"the card, which names {row.name}")
    else:
        choice = Choice(by_type, f"the model type {model_type}", is_assumed=True)
    if choice.family not in FAMILIES:
        code = "; the code that comes with it is never run" if "auto_map" in config else ""
        raise EmbedderError(
            f"{checkpoint.base}: no family of models runs it (family {told!r}, model type {config.get('model_type')!r}){code}; "
            f"known: {', '.join(sorted(FAMILIES))}"
        )
    return choice


def family_of(checkpoint: Checkpoint) -> str:
    """The family of a checkpoint; see `choose_family`."""
    return choose_family(checkpoint).family


def _known_by_name(checkpoint: Checkpoint) -> KnownModel | None:
    """By the names of the folders. The base of an adapter counts unless it is a plain backbone."""
    if checkpoint.adapter is not None and (row := known_model(published_name(checkpoint.adapter))):
        return row
    row = known_model(published_name(checkpoint.base))
    return None if row is not None and row.is_backbone and checkpoint.adapter is not None else row


def _known_by_card(checkpoint: Checkpoint) -> KnownModel | None:
    """The known embedder that the files say this is, or was trained from."""
    rows = map(known_model, _names_in_files(checkpoint))
    return next((row for row in rows if row is not None and not row.is_backbone), None)


def _names_in_files(checkpoint: Checkpoint) -> Iterator[str]:
    """Names of models: those in the cards, an adapter's before its base's, and where the configuration was first loaded from."""
    for folder in (checkpoint.adapter, checkpoint.base):
        if folder is not None and (folder / CARD).is_file():
            yield from names_in_card((folder / CARD).read_text("utf-8-sig", "replace"))
    yield str(checkpoint.json("config.json").get("_name_or_path", "")).rstrip("/").rpartition("/")[2]


def assumption(checkpoint: Checkpoint) -> str:
    """In words what is assumed of a checkpoint; "" where its family is told. Raises: EmbedderError, as `choose_family`."""
    choice = choose_family(checkpoint)
    if not choice.is_assumed:
        return ""
    folder = checkpoint.adapter or checkpoint.base
    return (
        f"{folder} does not say which embedder it is: assumed {choice.family}, from {choice.told_by}. If it was trained with other "
        f"prompts, its vectors are poor: choose with --family ({', '.join(sorted(families_of_type(checkpoint)))}), or write "
        f'{{"family": "…"}} to its {SIDECAR}'
    )


def families_of_type(checkpoint: Checkpoint) -> set[str]:
    """Families that run checkpoints of this `model_type`. Imports the code of those that share it."""
    model_type = str(checkpoint.json("config.json").get("model_type"))
    packed = {"vlm2vec", "vlm2vec_v1", "gme", "lamra", "qwen3vl_embedding"}
    able = {name for name in packed if model_type in family_class(name).model_types}
    return able | {FAMILY_OF_TYPE[model_type]} if model_type in FAMILY_OF_TYPE else able


def warn_of_assumption(checkpoint: Checkpoint) -> None:
    """Log what is assumed, once for each model."""
    if words := assumption(checkpoint):
        _warn_once(words)


@cache
def _warn_once(words: str) -> None:
    log.warning("%s", words)
