"""`mmsearch models`: what it prints, and that nothing but `pull` could ask the network."""

from __future__ import annotations

import ast
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mmsearch.cli import app
from mmsearch.embedders.checkpoints.checkpoint import lasting_name
from mmsearch.embedders.families import FAMILIES, compact_vlm
from mmsearch.embedders.inventory import family_notes, has_code
from mmsearch.embedders.published.known_models import KNOWN
from mmsearch.errors import EmbedderError, ModelNotFound
from tests.tiny_models import picture
from tests.unit.test_qwen_families import Tiny

ROOT = Path(__file__).parents[2]
MAY_ASK = {
    "mmsearch/embedders/download.py": "`mmsearch models pull`",
    "mmsearch/training/datasets/dataset_folders.py": "training data, where a recipe's source says `download`",
}
ASKING = {
    "from_pretrained",
    "snapshot_download",
    "hf_hub_download",
    "cached_file",
    "load_dataset",
    "urlopen",
    "urlretrieve",
}


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No library, an empty cache, and no network: whoever asks it fails the test."""

    def refuse(_: socket.socket, address: Any) -> None:
        raise AssertionError(f"the network was asked: {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("MODEL", "STORE", "DEVICE"):
        monkeypatch.delenv(f"MMSEARCH_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("MMSEARCH_LIBRARY", str(tmp_path / "nowhere"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield
    os.environ.pop("HF_HUB_OFFLINE", None)


def models(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["models", *map(str, arguments)])


def test_every_known_model_is_listed_with_a_state_that_is_true() -> None:
    done = models("list", "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert list(rows) == [known.name for known in KNOWN]
    for known in KNOWN:
        row = rows[known.name]
        runs = not known.why_not and has_code(known.family)
        expected = "shipped" if known.name == "mini" else "not here" if runs else "cannot run"
        assert (row["state"], row["dim"], row["generations"]) == (expected, known.dim, []), known.name
        assert row["state"] != "cannot run" or row["why"]
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_the_list_for_people_and_the_bare_command_are_the_same() -> None:
    done = models("list")
    assert done.exit_code == 0 and done.stdout == models().stdout
    assert "only `mmsearch models pull NAME` asks the network" in done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "shipped" in lines["mini"] and "512 dim" in lines["mini"] and "134M" in lines["mini"]
    assert "pull fetches about 4.4 GB" in lines["VLM2Vec/VLM2Vec-V2.0"]
    assert "128 dim/token" in lines["vidore/colpali-v1.3-hf"]
    assert "weights are not public" in lines["Uni-Retrieval"]
    assert "a backbone: embeds well only once trained" in lines["Qwen/Qwen2-VL-2B-Instruct"]


def test_info_of_the_shipped_model_opens_it() -> None:
    facts = json.loads(models("info", "mini", "--json").stdout)
    assert facts["opens"].startswith("yes, in ") and facts["model_key"].startswith("mmsearch-mini-")
    assert (facts["dim"], facts["parameters"], facts["family"]) == (512, 133_817_531, "compact_vlm")
    assert facts["max_pixels"]["page"] == 49_152 and facts["licence"] == "AGPL-3.0-or-later"
    assert facts["weights"] == "134M numbers in 1 safetensors files, U8, I8, BF16"
    text = models("info", "mini").stdout
    assert "page 49,152" in text and "shipped" in text
    assert str(compact_vlm.__doc__).splitlines()[0] in text, "what the family says of itself"


def test_info_of_what_is_not_here_says_how_to_get_it() -> None:
    text = models("info", "VLM2Vec-V2.0").stdout
    assert "mmsearch models pull VLM2Vec/VLM2Vec-V2.0" in text and "4.4 GB" in text and "arXiv 2507.04590" in text
    assert "apache-2.0" in text and "Qwen/Qwen2-VL-2B-Instruct" in text
    assert "not public" in models("info", "Uni-Retrieval").stdout
    done = models("info", "VLM2Vec/VLM2Vec-V2.0", "--open")
    assert isinstance(done.exception, EmbedderError) and "models pull" in str(done.exception)
    assert isinstance(models("info", "someone/unheard-of").exception, EmbedderError)


def test_a_folder_that_does_not_say_what_it_is(tmp_path: Path) -> None:
    """`models info` names what is assumed; `--family` decides, there and in the name that a library remembers."""
    import mmsearch

    tiny = Tiny("qwen2_vl", tmp_path / "tuned")
    facts = json.loads(models("info", tiny.folder, "--json").stdout)
    assert facts["family"] == "vlm2vec" and "assumed vlm2vec" in facts["why"] and "--family" in facts["why"]
    chosen = json.loads(models("info", tiny.folder, "--family", "gme", "--json").stdout)
    assert (chosen["family"], chosen["why"]) == ("gme", "") and chosen["model_key"] != facts["model_key"]
    refused = models("info", tiny.folder, "--family", "gnome")
    assert refused.exit_code == 2 and "no family 'gnome'" in refused.stderr and "gme" in refused.stderr

    library, photos = tmp_path / "library", tmp_path / "photos"
    photos.mkdir()
    picture(60, 60).save(photos / "red.png")
    ingest = ["ingest", str(photos), "-L", str(library), "--model", str(tiny.folder), "--device", "cpu", "--family"]
    assert CliRunner().invoke(app, [*ingest, "lamra"]).exit_code == 0
    with mmsearch.open(library) as found:
        assert found.model.name == f"lamra:{tiny.folder}" and type(found.embedder).__name__ == "LamraEmbedder"
    assert models("use", tiny.folder, "--family", "gme", "-L", library, "--device", "cpu").exit_code == 0
    with mmsearch.open(library) as found:
        assert found.model.name == f"gme:{tiny.folder}"
    assert CliRunner().invoke(app, ["ingest", str(photos), "-L", str(library), "--family", "gme"]).exit_code == 2


@pytest.mark.parametrize("family", [None, "gme"])
def test_a_folder_named_from_where_one_stands_is_found_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str | None
) -> None:
    import mmsearch

    tiny = Tiny("qwen2_vl", tmp_path / "tuned")
    (tmp_path / "photos").mkdir()
    picture(60, 60).save(tmp_path / "photos" / "red.png")
    monkeypatch.chdir(tmp_path)
    ingest = ["ingest", "photos", "-L", "library", "--model", "tuned", "--device", "cpu"]
    assert CliRunner().invoke(app, ingest + (["--family", family] if family else [])).exit_code == 0
    monkeypatch.chdir(tmp_path / "photos")
    with mmsearch.open(tmp_path / "library") as found:
        assert found.model.name == (f"{family}:" if family else "") + str(tiny.folder)
        assert [hit.item.path.name for hit in found.search("red")] == ["red.png"]


def test_a_shipped_name_is_no_folder_however_many_bear_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mini", "toy", "plain"):
        (tmp_path / name).mkdir()
    for name in ("mini", "toy"):
        (tmp_path / name / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for name in ("mini", "toy", "plain", "gme:mini", "owner/name"):
        assert lasting_name(name) == name


@pytest.mark.parametrize("command", ["use", "info"])
def test_no_command_but_pull_asks_the_network_for_a_missing_model(command: str, tmp_path: Path) -> None:
    if command == "use":
        import mmsearch

        with mmsearch.open(tmp_path / "nowhere", create=True, model="toy"):
            pass
    done = models(command, "someone/unheard-of")
    assert isinstance(done.exception, ModelNotFound if command == "use" else EmbedderError)
    assert "mmsearch models pull someone/unheard-of" in str(done.exception)


def test_pull_without_a_network_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(_: socket.socket, address: Any) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    done = models("pull", "someone/thing")
    assert isinstance(done.exception, ModelNotFound) and str(done.exception).startswith("no network: someone/thing")


# ---- the source: what could ask the network, and where


def calls_of(file: Path) -> Iterator[tuple[int, str, set[str]]]:
    """(line, name, keywords) of every call in a file by one of the names that ask."""
    source = file.read_text("utf-8")
    if not any(name in source for name in ASKING):
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            is_layer = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value).endswith("Embedding")
            if name in ASKING and not is_layer:
                yield node.lineno, name, {str(keyword.arg) for keyword in node.keywords}


def test_only_two_modules_may_ask_the_network() -> None:
    """Every other loading call says `local_files_only`; training's teacher comes with an installed package, as a folder."""
    found = {}
    for file in sorted([*ROOT.glob("mmsearch/**/*.py"), *ROOT.glob("ingest/*.py"), *ROOT.glob("ui/*.py")]):
        name = file.relative_to(ROOT).as_posix()
        for line, call, keywords in calls_of(file):
            if "local_files_only" not in keywords and name != "mmsearch/training/data/text_teacher.py":
                found.setdefault(name, []).append((line, call))
    assert set(found) == set(MAY_ASK), {name: calls for name, calls in found.items() if name not in MAY_ASK}


def test_every_family_of_the_table_is_a_class_that_loads() -> None:
    """The names in the table lead to a class with `load`, for those whose module is there."""
    from mmsearch.embedders.families import family_class

    for family in FAMILIES:
        if has_code(family):
            assert callable(family_class(family).load), family


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_what_is_told_of_a_family_cites_no_file_that_users_lack(family: str):
    cited = set(re.findall(r"[\w/.-]*\.md\b|\bshared/\S*|\btests/\S*", family_notes(family)))
    assert not cited


def test_the_list_fits_into_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = models_list().stdout.splitlines()
    assert max(map(len, wide)) > 80
    monkeypatch.setattr("mmsearch.cli.terminal.width_of", lambda _: 80)
    narrow = models_list().stdout.splitlines()
    assert max(map(len, narrow)) <= 80
    assert " ".join(narrow).split() == " ".join(wide).split()  # nothing is cut
    assert sum(not line.startswith("      ") for line in narrow) == len(wide)


def models_list() -> Result:
    return CliRunner().invoke(app, ["models", "list"])
