"""Promises of the documents at the top: what they say exists, and nothing that exists is left out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import mmsearch
from mmsearch import cli
from mmsearch.cli import shared
from mmsearch.items import Hit, Item

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
AGPL_3_SHA256 = "0d96a4ff68ad6d4b6f1f30f713b18d5184912ba8dd389f86aa7710db079abcb0"
"""Of https://www.gnu.org/licenses/agpl-3.0.txt."""


def requirement_name(requirement: str) -> str:
    return re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def file_list() -> dict[str, str]:
    """The rows of the README's tables of files: name → what it says about it."""
    section = README.split("## Files", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| (`[^|]+) \| ([^|]+) \|$", section, re.M)
    return {name: words.strip() for names, words in rows for name in re.findall(r"`([^`]+)`", names)}


def modules() -> list[str]:
    """Every file and folder of the package."""
    found = []
    for path in sorted((ROOT / "mmsearch").iterdir()):
        if path.suffix == ".py" and path.name != "__init__.py":
            found.append(f"mmsearch/{path.name}")
        elif path.is_dir() and any(path.glob("*.py")):
            found.append(f"mmsearch/{path.name}/")
    return found


@pytest.mark.parametrize("module", modules())
def test_file_list_names_every_module(module: str):
    assert len(file_list().get(module, "")) > 10


def test_file_list_names_everything_at_the_top():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] + ("/" if "/" in line else "") for line in tracked.stdout.splitlines()}
    assert top - set(file_list()) <= {".gitignore", ".gitattributes", "README.md"}


def test_file_list_names_nothing_that_is_not_there():
    assert [name for name in file_list() if not (ROOT / name).exists()] == []


def test_readme_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#\s]+)\)", README)
    assert [t for t in targets if not re.match(r"https?:", t) and not (ROOT / t).exists()] == []


def test_readme_names_only_commands_and_options_that_exist():
    import typer

    command = typer.main.get_command(cli.app)
    shell = "\n".join(re.findall(r"^```(?:console|sh|text)\n(.*?)^```$", README, re.M | re.S))
    for line in re.findall(r"^(?:\$ )?mmsearch ((?:[^\n#]|#\S)*)", shell, re.M):
        words = re.sub(r"\"[^\"]*\"|'[^']*'", "X", line).split("|")[0].split()
        if words[0].startswith("-"):
            continue
        assert words[0] in command.commands, line
        found = command.commands[words[0]]
        if len(words) > 1 and words[1] in getattr(found, "commands", {}):
            found = found.commands[words[1]]
        known = {o for p in found.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        assert {w for w in words[1:] if w.startswith("-") and len(w) > 1} <= known, line


def test_readme_lists_the_exit_codes():
    rows = dict(re.findall(r"^\| (\d+) \| (.+?) \|$", README, re.M))
    codes = {
        str(code)
        for code in (shared.OK, shared.NO_HIT, shared.USAGE, shared.NO_LIBRARY, shared.SOME_FAILED, shared.INTERRUPTED)
    }
    assert codes <= set(rows)


def test_readme_shows_the_record_as_it_is():
    shown = json.loads(re.search(r'^\{"schema": 1.*?\}$', README, re.M | re.S)[0])
    item = Item(1, 1, Path("/x.pdf"), "page", 0, 1, None, None, "", {}, None)
    record = Hit(1, 0.5, 0.5, ("dense",), item).record()
    assert list(shown) == list(record)
    assert {field.name for field in dataclasses.fields(Hit)} >= {"rank", "score", "relevance", "matched_by"}


@pytest.mark.parametrize("target", re.findall(r"\bmake ([a-z]+)", README))
def test_make_targets_in_the_readme_exist(target: str):
    assert re.search(rf"^{target}:", MAKEFILE, re.M)


@pytest.mark.parametrize("target", re.findall(r"^([a-z]+):", MAKEFILE, re.M))
def test_make_help_explains_every_target(target: str):
    assert re.search(rf"^{target}:.*## \S", MAKEFILE, re.M)


def test_licence_is_the_whole_agpl():
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == AGPL_3_SHA256
    assert PROJECT["project"]["license"] == "AGPL-3.0-or-later"
    assert "AGPL-3.0-or-later" in README


def test_constraints_pin_every_dependency():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = {
        requirement_name(r)
        for r in (*PROJECT["project"]["dependencies"], *extras["heic"], *extras["ocr"], *extras["test"])
    }
    wanted.discard("faiss-cpu")  # takes faiss-gpu's place on other platforms; never in the same environment
    assert wanted <= {name.lower().replace("_", "-") for name in pins}
    assert re.fullmatch(r"[\d.]+", pins["torch"]), "no local build tag: the installer chooses the build"


def test_changelog_begins_with_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version, note = re.search(r"^## (\S+)(.*)$", changelog, re.M).groups()
    assert version == mmsearch.__version__ or note == " (unreleased)"


@pytest.mark.parametrize("script", sorted((ROOT / ".ci").iterdir()), ids=lambda path: path.name)
def test_scripts_are_executable_and_parse(script: Path):
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


def test_make_install_puts_the_command_on_the_path(tmp_path: Path):
    command = tmp_path / "venv" / "bin" / "mmsearch"
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\necho started\n")
    command.chmod(0o755)
    (tmp_path / "venv" / ".installed").touch()  # newer than pyproject.toml: nothing is installed
    done = subprocess.run(
        ["make", "install", f"VENV={tmp_path / 'venv'}", f"BINDIR={tmp_path / 'bin'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f'export PATH="{tmp_path / "bin"}:$PATH"' in done.stdout
    assert subprocess.run([tmp_path / "bin" / "mmsearch"], capture_output=True, text=True).stdout == "started\n"


def test_nothing_is_to_be_installed_from_an_index_where_it_is_not():
    """mmsearch is on no package index: its extras come by `make install EXTRAS=…`."""
    code = [path for package in ("mmsearch", "ingest", "ui") for path in (ROOT / package).rglob("*.py")]
    code.append(ROOT / "README.md")
    assert [str(path) for path in code if "mmsearch[" in path.read_text(encoding="utf-8")] == []
