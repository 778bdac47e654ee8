"""Who may import whom (DESIGN.md), read from the source with `ast`; and that importing mmsearch loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "faiss", "streamlit", "transformers", "alembic", "sqlalchemy", "numpy", "pymupdf", "decord", "av")

# A module may import what stands below it, and its neighbours on the same line.
LAYERS = [
    {"mmsearch.cli", "mmsearch.__main__", "ui"},
    {"mmsearch.judgements"},
    {"ingest", "mmsearch.search", "mmsearch.training", "mmsearch.evaluation", "mmsearch.adapt",
     "mmsearch.judgements.places", "mmsearch.judgements.queries", "mmsearch.upkeep"},
    {"mmsearch.training.run"},
    {"mmsearch.training.data"},
    {"mmsearch.training.datasets", "mmsearch.training.objective"},
    {"mmsearch.training.parallel", "mmsearch.training.recipe"},
    {"mmsearch.library"},
    {"mmsearch.catalog", "mmsearch.vectors", "mmsearch.embedders"},
    {"mmsearch.embedders.families"},
    {"mmsearch.embedders.forward"},
    {"mmsearch.embedders.checkpoints"},
    {"mmsearch.embedders.published"},
    {"mmsearch.ranking", "mmsearch.prompts", "mmsearch.media"},
    {"mmsearch.disk", "mmsearch.plain_text", "mmsearch.words"},
    {"mmsearch.items", "mmsearch.errors", "mmsearch.config"},
    {"mmsearch"},
]  # fmt: skip

FORBIDDEN = {
    # vectors and catalog know nothing of models
    "mmsearch.vectors": {"mmsearch.embedders", "mmsearch.prompts", "mmsearch.catalog", "torch", "transformers"},
    "mmsearch.catalog": {"mmsearch.embedders", "mmsearch.prompts", "mmsearch.vectors", "torch", "transformers", "faiss"},
    # embedders know nothing of the catalog or SQL
    "mmsearch.embedders": {"mmsearch.catalog", "mmsearch.vectors", "ingest", "sqlalchemy"},
    # training and evaluation run on a machine that has neither
    **{
        name: {"mmsearch.catalog", "mmsearch.vectors", "mmsearch.library", "mmsearch.search", "ingest", "ui"}
        | {"sqlalchemy", "faiss", "streamlit", "typer"}
        for name in ("mmsearch.training", "mmsearch.evaluation")
    },
    # ingest knows files, not models or stores
    "ingest": {"mmsearch.vectors", "torch", "transformers", "faiss", "streamlit", "typer"},
    "mmsearch.search": {"torch", "transformers", "faiss", "streamlit", "typer", "ingest"},
    "mmsearch.library": {"torch", "transformers", "faiss", "streamlit", "typer", "ingest"},
}  # fmt: skip

EXCEPTIONS = {
    ("mmsearch", "mmsearch.library"),  # the public names, loaded on first use
}


def modules() -> dict[str, Path]:
    found = {}
    for package in ("mmsearch", "ingest", "ui"):
        for file in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[name] = file
    return found


MODULES = modules()


@cache
def imports_of(name: str, file: Path) -> set[str]:
    """Every module that a file imports at run time, wherever in it; imports for type checkers do not count."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in node.body
        for inner in ast.walk(child)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative imports are not used here"
            base = node.module or ""
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names}
    return found


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def layer(name: str) -> int | None:
    """The number of a module's layer, counted from above: that of the longest name that fits."""
    fits = [(len(part), n) for n, parts in enumerate(LAYERS) for part in parts if is_within(name, part)]
    return max(fits)[1] if fits else None


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_downwards(name: str) -> None:
    here = layer(name)
    for target in imports_of(name, MODULES[name]):
        there = layer(target)
        if there is None or (name, target) in EXCEPTIONS or target == "mmsearch":
            continue
        assert here is not None and there >= here, f"{name} (layer {here}) imports {target} (layer {there})"


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_layer_of_its_own_naming(name: str) -> None:
    if name != "mmsearch":
        assert layer(name) != layer("mmsearch"), f"{name} is not in LAYERS: decide where it belongs"


@pytest.mark.parametrize("name", MODULES)
def test_forbidden_imports(name: str) -> None:
    for package, forbidden in FORBIDDEN.items():
        if is_within(name, package):
            bad = {t for t in imports_of(name, MODULES[name]) for f in forbidden if is_within(t, f)}
            assert not bad, f"{name} imports {sorted(bad)}"


def test_faiss_is_imported_in_one_place() -> None:
    assert [name for name, file in MODULES.items() if "faiss" in imports_of(name, file)] == ["mmsearch.vectors.faiss"]


def test_roots_are_imported_by_nobody() -> None:
    for name, file in MODULES.items():
        roots = {t for t in imports_of(name, file) if is_within(t, "ui") or is_within(t, "mmsearch.cli")}
        allowed = is_within(name, "ui") or is_within(name, "mmsearch.cli") or name == "mmsearch.__main__"
        assert not roots or allowed, f"{name} imports {roots}"


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return {line.partition(".")[0] for line in run.stdout.splitlines()}


def test_importing_mmsearch_loads_nothing_heavy() -> None:
    assert loaded_by("import mmsearch").isdisjoint(HEAVY)


def test_importing_the_library_loads_no_model_code_and_no_migrations() -> None:
    heavy = {"torch", "faiss", "streamlit", "transformers", "alembic", "pymupdf", "decord", "av"}
    assert loaded_by("import mmsearch.library, mmsearch.search").isdisjoint(heavy)
