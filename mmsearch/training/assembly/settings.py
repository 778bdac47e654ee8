"""What the recipe of an assembled checkpoint may say; unknown fields are refused, as in other recipes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError

from mmsearch.errors import ConfigError
from mmsearch.training.recipe.fields import Section

ASSEMBLY = "assembly"
"""The field by which a recipe says that it assembles a checkpoint from parts."""
RECIPES = Path(__file__).parent
"""Where those that come with the package lie."""


class Words(Section):
    """Attributes: frozen_layers: of the encoder, counted from the tokens. weights: how often each source of pairs is drawn."""

    steps: PositiveInt
    batch: PositiveInt = 48
    frozen_layers: int = Field(default=7, ge=0)
    learning_rate: PositiveFloat = 8e-5
    map_learning_rate: PositiveFloat = 5e-4
    query_tokens: PositiveInt = 48
    passage_tokens: PositiveInt = 96
    temperature: PositiveFloat = 0.05
    teacher_weight: float = 0.5
    pull_to_origin: float = 5e-4
    evaluate_every: PositiveInt = 120
    weights: dict[str, float]


class Fuse(Section):
    """Attributes: size: of a vector. pairs: of English texts by which the fusion is fitted. weights: how often each of their sources is drawn."""

    size: PositiveInt = 512
    pairs: PositiveInt = 3000
    tokens: PositiveInt = 128
    weights: dict[str, float]


class Trunk(Section):
    """Attributes: first_block: the first of the network's blocks that is trained. warm_up: steps of the head alone before."""

    steps: int = Field(ge=0)
    batch: PositiveInt = 96
    first_block: PositiveInt = 11
    learning_rate: PositiveFloat = 3e-5
    head_learning_rate: PositiveFloat = 2e-4
    warm_up: PositiveInt = 400
    evaluate_every: PositiveInt = 100


class Seeing(Section):
    """Attributes: heads: trained one by one and merged. views: of every photo, the first one whole, the others cropped, flipped, coloured. parts: how
    often a batch shows parts of its photos. shares: how often each set is drawn."""

    steps: PositiveInt
    heads: PositiveInt = 3
    batch: PositiveInt = 512
    learning_rate: PositiveFloat = 1e-3
    views: PositiveInt = 1
    parts: float = 0.5
    cut_together: float = 0.12
    foreign: float = 0.25
    shares: dict[str, float]


class Join(Section):
    """Attributes: least_similarity: of two captions whose photos make a composed query."""

    steps: PositiveInt
    batch: PositiveInt = 64
    learning_rate: PositiveFloat = 1e-3
    least_similarity: float = 0.55


class Assembly(Section):
    """A whole run. Attributes: inner_size: of each head. kind_strength: of the direction that tells an item's kind, beside content of length 1."""

    name: str
    assembly: bool = True
    seed: int = 17
    inner_size: PositiveInt = 768
    kind_strength: PositiveFloat = 0.8
    max_pixels: dict[str, PositiveInt]
    page_text_tokens: PositiveInt = 192
    query_text_tokens: PositiveInt = 128
    words: Words
    fuse: Fuse
    trunk: Trunk
    seeing: Seeing
    join: Join


def assembly_names() -> list[str]:
    """Recipes of this sort that come with the package."""
    return sorted(file.stem for file in RECIPES.glob("*.yaml"))


def find_assembly(name_or_file: str | Path) -> Path | None:
    """The file of a recipe of this sort, by its name or path; None where it is another sort, or not there."""
    file = Path(name_or_file)
    if not file.suffix:
        own = RECIPES / f"{name_or_file}.yaml"
        return own if own.is_file() else None
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return None  # whoever reads it as a recipe of the other sort says what is wrong
    return file if isinstance(content, dict) and content.get(ASSEMBLY) else None


def load_assembly(file: Path, changes: Mapping[str, Any] | None = None) -> Assembly:
    """A recipe from its file, fields replaced by their path (`{"words.steps": 10}`).

    Raises: ConfigError: no YAML; a field that is unknown, missing or of another type.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        for path, value in (changes or {}).items():
            *parents, last = path.split(".")
            place = content
            for parent in parents:
                place = place[parent]
            place[last] = value
        return Assembly.model_validate(content)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {file} is no YAML: {error}") from error
    except (KeyError, TypeError) as error:
        raise ConfigError(f"recipe {file.name}: there is no field {error}") from error
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:4])
        raise ConfigError(f"recipe {file.name}: {told}") from error
