"""What all commands share: exit codes, how they speak, options of one meaning, and opening the library."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from mmsearch.library import Library

OK, NO_HIT, USAGE, NO_LIBRARY, SOME_FAILED, FAULT, INTERRUPTED = 0, 1, 2, 3, 4, 70, 130


def fail(message: str, code: int) -> NoReturn:
    """One line on stderr, then the end."""
    from mmsearch.words import printable

    print(f"mmsearch: {printable(message)}", file=sys.stderr)
    sys.exit(code)


def note(message: str) -> None:
    """A line for people, on stderr."""
    from mmsearch.words import printable

    print(printable(message), file=sys.stderr, flush=True)


def help_without_command(context: typer.Context) -> None:
    """For the callback of a group that can do nothing by itself: without a command it shows its help, and the command ends.

    Typer's own `no_args_is_help` is no alternative: it raises an error whose message is the help, of a class that moved between versions.
    """
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(USAGE)


def complete_kinds(incomplete: str) -> list[str]:
    """For the shell: what `--kind` takes; behind a comma the next one."""
    from mmsearch.items import KIND_ALIASES

    before, comma, last = incomplete.rpartition(",")
    taken = {KIND_ALIASES.get(word) for word in before.split(",")}
    return [
        f"{before}{comma}{word}"
        for word, kind in KIND_ALIASES.items()
        if word.startswith(last.lower()) and kind not in taken
    ]


def complete_models(incomplete: str) -> list[str]:
    """For the shell: the models that mmsearch knows. A folder is completed by the shell itself, where none of them fits."""
    from mmsearch.embedders.published.known_models import KNOWN

    return [known.name for known in KNOWN if known.name.lower().startswith(incomplete.lower()) and not known.why_not]


def complete_families(incomplete: str) -> list[str]:
    """For the shell: the families of models."""
    from mmsearch.embedders.families import FAMILIES

    return [family for family in FAMILIES if family.startswith(incomplete)]


def named_model(model: str | None, family: str | None) -> str | None:
    """The model's name, its family before it where one was asked for.

    Raises: typer.BadParameter: a family that is not known, or one without a model.
    """
    if family is None:
        return model
    from mmsearch.embedders.checkpoints.checkpoint import name_with_family
    from mmsearch.embedders.families import FAMILIES

    if family not in FAMILIES:
        raise typer.BadParameter(f"no family {family!r}; there are {', '.join(FAMILIES)}", param_hint="--family")
    if model is None:
        raise typer.BadParameter("it opens the model that --model names, and none is named", param_hint="--family")
    return name_with_family(model, family)


LibraryOption = Annotated[
    Path | None,
    typer.Option(
        "--library",
        "-L",
        metavar="DIR",
        help="Folder of the index. Else MMSEARCH_LIBRARY, the nearest index_data/, or the user's data folder.",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Checkpoint: a name or a folder [default: the shipped one].",
        autocompletion=complete_models,
    ),
]
FamilyOption = Annotated[
    str | None,
    typer.Option(
        "--family",
        metavar="FAMILY",
        help="Which code and prompts open the model (vlm2vec, gme, …) [default: as its files and name say].",
        autocompletion=complete_families,
    ),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, … [default: the best there is].")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@contextmanager
def opened(
    folder: Path | None, *, create: bool = False, model: str | None = None, device: str | None = None
) -> Iterator[Library]:
    """The library of this command, closed at the end."""
    import mmsearch

    with mmsearch.open(folder, create=create, model=model, device=device) as library:
        if not logging.getLogger().isEnabledFor(logging.INFO):  # --verbose leads
            logging.getLogger().setLevel(library.settings.log_level)
        yield library
