"""Promises around the command and the page: what is documented exists, and nothing shadows anything."""

from __future__ import annotations

import sys
from importlib.metadata import packages_distributions
from importlib.resources import files
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mmsearch.cli import app
from mmsearch.cli.shared import complete_kinds, complete_models

COMMANDS = typer.main.get_command(app).commands
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_option_says_what_it_does(name: str):
    command = COMMANDS[name]
    assert command.help and command.help[0].isupper()
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name}: {parameter.name} has no help"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_readme_names_every_command(name: str):
    assert f"mmsearch {name}" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("group", ["", "models", "train", "eval"])
def test_no_line_of_the_list_of_commands_is_cut_off(group: str):
    done = CliRunner().invoke(app, [*group.split(), "--help"], terminal_width=80)
    assert done.exit_code == 0 and "Commands:" in done.output
    assert [line for line in done.output.splitlines() if line.endswith("...") and "Usage:" not in line] == []


@pytest.mark.parametrize("benchmark", ["mmeb-v2", "m-beir"])
def test_a_benchmark_without_its_data_is_one_line(benchmark: str, tmp_path: Path):
    done = CliRunner().invoke(
        app, ["eval", benchmark, "--data", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 2 and "no folder '" in " ".join(done.output.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_what_the_shell_completes():
    assert complete_kinds("pho") == ["photo", "photos"]
    assert complete_kinds("pdf,cl") == ["pdf,clip", "pdf,clips"]
    assert not {"pdf,page", "pdf,slide"} & set(complete_kinds("pdf,"))
    assert complete_models("min") == ["mini"]
    assert complete_models("qwen/qwen3") == ["Qwen/Qwen3-VL-Embedding-2B", "Qwen/Qwen3-VL-Embedding-8B"]
    assert not complete_models("/home")  # the shell completes folders then


@pytest.mark.parametrize("command", ["query", "ingest", "ui"])
def test_models_are_completed_wherever_one_is_asked_for(command: str):
    (option,) = [one for one in COMMANDS[command].params if one.name == "model"]
    assert [item.value for item in option.shell_complete(None, "min")] == ["mini"]


def test_nothing_in_ui_shadows_a_module():
    """`streamlit run` puts ui/ first on the path: `ui/queue.py` would be imported for `queue`."""
    taken = set(sys.stdlib_module_names) | set(packages_distributions()) | {"mmsearch", "ingest", "ui"}
    names = {file.stem for file in (ROOT / "ui").glob("*.py")} - {"__init__"}
    assert names and not names & taken


def test_the_page_ships_what_it_needs():
    folder = files("ui")
    for name in ("app.py", "theme.toml", "page.css", "gallery.css", "gallery.js"):
        assert folder.joinpath(name).is_file()
