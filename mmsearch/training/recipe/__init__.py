"""Recipes: read from YAML, by name or file, and changed field by field. A field that is not known is an error that names it.

`load_recipe("vlm2vec_v2_qwen2vl_2b")` reads `vlm2vec_v2_qwen2vl_2b.yaml` beside this file.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from mmsearch.errors import ConfigError
from mmsearch.training.recipe.fields import Recipe, Section

RECIPES = Path(__file__).parent


def change_recipe(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Another recipe with fields replaced, named by their path: `{"stages.0.steps": 10, "loss.temperature": 0.05}`.

    Raises: ConfigError for a path that leads nowhere, and as `parse_recipe`.
    """
    record = recipe.record()
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
        known = _known_fields(problem["loc"][:-1])
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, 1)
        return f"unknown field {place}" + (f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}")
    if problem["type"] == "missing":
        return f"{place} is missing"
    return f"{place}: {problem['msg'].removeprefix('Value error, ')}"


def _known_fields(path: Iterable[str | int]) -> list[str]:
    """The fields of the section at `path`, as YAML calls them."""
    section: Any = Recipe
    for part in path:
        if isinstance(part, str) and issubclass(section, Section) and part in section.model_fields:
            section = _section_in(section.model_fields[part].annotation) or section
    return [field.alias or name for name, field in section.model_fields.items()]


def _section_in(annotation: Any) -> type[Section] | None:
    """The section that a field's type holds: itself, in a tuple, a mapping or an alternative."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)
