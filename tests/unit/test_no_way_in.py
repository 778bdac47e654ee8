"""What must not stand in the source, and what a checkpoint or an old package must not be able to do to us. See SECURITY.md."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from mmsearch.embedders.checkpoints.checkpoint import Checkpoint, find_checkpoint, load_tokenizer
from mmsearch.embedders.families.choice import family_of
from mmsearch.errors import EmbedderError
from mmsearch.items import EmbedInput
from tests.tiny_models import byte_tokenizer, write_checkpoint

ROOT = Path(__file__).parents[2]
SOURCES = [file for package in ("mmsearch", "ingest", "ui") for file in sorted((ROOT / package).rglob("*.py"))]

PICKLING = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
RUNS_TEXT = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "tempfile.mktemp", "pandas.read_pickle"}
UNSAFE_YAML = {"yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all", "yaml.full_load_all"}
MARKUP = {"st.markdown", "st.write", "st.latex", "st.html"}

EXCEPTIONS = {
    (
        "mmsearch/embedders/download.py",
        "import pickle",
    ): "the name of its exception; torch.load there reads tensors only",
    (
        "mmsearch/training/run/saved_state.py",
        "import pickle",
    ): "the name of its exception; torch.load there reads tensors only",
    (
        "mmsearch/media/xmp.py",
        "import xml",
    ): "what has a document type is refused before, so no entity is ever expanded",
    ("ui/app.py", "st.html with more than a constant"): "our own style sheet, a file of the package",
}


def faults(source: str) -> Iterator[str]:
    """What in a module could run what it reads, or show it as markup."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (
                f"import {name}" for module in modules if (name := module.partition(".")[0]) in PICKLING | {"xml"}
            )
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in PICKLING:
            if node.attr not in ("UnpicklingError", "PicklingError"):
                yield ast.unparse(node)
        elif isinstance(node, ast.Call):
            yield from _faults_of_call(node)


def _faults_of_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    given = {word.arg: ast.unparse(word.value) for word in call.keywords}
    if name in RUNS_TEXT | UNSAFE_YAML:
        yield name
    if name == "torch.load" and given.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if name in ("yaml.load", "yaml.load_all"):
        loader = given.get("Loader") or (ast.unparse(call.args[1]) if len(call.args) > 1 else "")
        if not re.fullmatch(r"(yaml\.C?SafeLoader|getattr\(yaml, 'CSafeLoader', yaml\.SafeLoader\))", loader):
            yield "yaml.load without a safe loader"
    for option, harmless in (
        ("allow_pickle", "False"),
        ("shell", "False"),
        ("trust_remote_code", "False"),
        ("unsafe_allow_html", "False"),
    ):
        if given.get(option, harmless) != harmless:
            yield f"{option}={given[option]}"
    if name.endswith(".from_pretrained") and not name.endswith("Embedding.from_pretrained"):
        if given.get("local_files_only") != "True":
            yield f"{name} may ask the network"
        if re.search(r"\bAuto\w+\.from_pretrained$", name) and given.get("trust_remote_code") != "False":
            yield f"{name} may ask whether to run code"
        if not name.endswith("Tokenizer.from_pretrained") and given.get("use_safetensors") != "True":
            yield f"{name} may unpickle"
    if name.endswith((".extractall", ".unpack_archive")):
        yield f"{name} writes where an archive says"
    if name.endswith("Image.open") and "formats" not in given:
        yield f"{name} with every decoder"
    if name in MARKUP and not all(isinstance(argument, ast.Constant) for argument in call.args):
        yield f"{name} with more than a constant"


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_read_is_run_or_shown_as_markup(file: Path) -> None:
    where = str(file.relative_to(ROOT))
    found = [fault for fault in faults(file.read_text("utf-8")) if (where, fault) not in EXCEPTIONS]
    assert found == []


@pytest.mark.parametrize(("where", "fault"), EXCEPTIONS)
def test_every_exception_is_still_needed(where: str, fault: str) -> None:
    assert fault in set(faults((ROOT / where).read_text("utf-8")))


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "import torch; torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=trusted)",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
        "exec(text)",
        "yaml.load(text)",
        "yaml.load(text, yaml.Loader)",
        "yaml.load(text, Loader=yaml.FullLoader)",
        "yaml.unsafe_load(text)",
        "subprocess.run(line, shell=True)",
        "os.system(line)",
        "tempfile.mktemp()",
        "Model.from_pretrained(folder, use_safetensors=True)",
        "Model.from_pretrained(folder, local_files_only=True)",
        "AutoTokenizer.from_pretrained(folder, local_files_only=True)",
        "AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, trust_remote_code=True)",
        "st.markdown(name)",
        "st.markdown('<b>', unsafe_allow_html=True)",
        "st.write(f'{name}')",
        "archive.extractall(folder)",
        "shutil.unpack_archive(file)",
        "Image.open(file)",
        "import xml.etree.ElementTree",
        "from xml.dom import minidom",
    ],
)
def test_the_search_finds(line: str) -> None:
    assert list(faults(line))


# ---------------------------------------------------------------- checkpoints that bring code


CODE = "open({!r}, 'w').close()\nclass Evil:\n    pass\n"


def checkpoint_with_code(folder: Path, config: dict) -> Checkpoint:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_evil.py").write_text(CODE.format(str(folder / "was run")))
    return Checkpoint("evil", folder)


def test_code_of_a_checkpoint_is_refused_where_no_family_of_ours_runs_it(tmp_path: Path) -> None:
    code = {"AutoModel": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Evil"}
    found = checkpoint_with_code(tmp_path / "evil", {"model_type": "brand_new", "auto_map": code})
    with pytest.raises(EmbedderError, match="the code that comes with it is never run"):
        family_of(found)
    assert not (found.base / "was run").exists()


def test_code_of_a_checkpoint_is_passed_over_where_a_family_of_ours_runs_it(tmp_path: Path) -> None:
    """A CLIP whose folder brings code as well: transformers' own class opens it, and the code is never imported."""
    from transformers import CLIPConfig, CLIPModel

    from mmsearch.embedders import load_embedder

    ends = {"bos_token_id": 256, "eos_token_id": 257, "max_position_embeddings": 24}
    part = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    text, vision = part | ends | {"vocab_size": 260}, part | {"image_size": 16, "patch_size": 8}
    tokens = ["<|startoftext|>", "<|endoftext|>"]
    folder = write_checkpoint(
        tmp_path / "clip",
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)),
        byte_tokenizer(tokens, template="<|startoftext|> $A <|endoftext|>"),
        preprocessor={"size": 16, "crop_size": 16, "do_center_crop": True, "resample": 3},
        tokenizer_config={"auto_map": {"AutoTokenizer": ["modeling_evil.Evil", None]}},
    )
    config = json.loads((folder / "config.json").read_text())
    code = {"AutoModel": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Evil"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": code}))
    (folder / "modeling_evil.py").write_text(CODE.format(str(folder / "was run")))
    embedder = load_embedder(folder, device="cpu")
    assert embedder.encode_queries([EmbedInput("", text="a dog", kind="image")]).shape == (1, 8)
    assert not (folder / "was run").exists()


def test_code_of_a_tokenizer_is_not_even_offered(tmp_path: Path) -> None:
    """transformers would ask on the terminal whether to run it."""
    folder = checkpoint_with_code(tmp_path / "evil", {"model_type": "brand_new"}).base
    (folder / "vocab.json").write_text(json.dumps({"a": 0, "b": 1}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    told = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["modeling_evil.Evil", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    with pytest.raises((EmbedderError, ValueError, OSError, ImportError)):
        load_tokenizer(find_checkpoint(folder))
    assert not (folder / "was run").exists()


# ---------------------------------------------------------------- packages with known holes


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").split())
REQUIREMENTS = [
    Requirement(line)
    for lines in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for line in lines
]
SAFE_FROM = {
    "av": "17.1",
    "pillow": "12.3",
    "pillow-heif": "1.7",
    "pyarrow": "23.0.1",
    "pydantic-settings": "2.14.2",
    "pymupdf": "1.28.2",
    "python-multipart": "0.0.31",
    "starlette": "1.3.1",
    "streamlit": "1.61",
    "torch": "2.11",
    "transformers": "5.10",
}
"""The first version without the advisories that pyproject.toml names."""


@pytest.mark.parametrize(("package", "first_safe"), SAFE_FROM.items())
def test_lower_bounds_leave_known_holes_out(package: str, first_safe: str) -> None:
    bounds = [requirement.specifier for requirement in REQUIREMENTS if canonicalize_name(requirement.name) == package]
    assert bounds
    for bound in bounds:
        lowest = max(Version(one.version) for one in bound if one.operator == ">=")
        assert lowest >= Version(first_safe), f"{package}{bound}"


def test_what_is_tested_satisfies_every_bound() -> None:
    pinned = {canonicalize_name(name): Version(version) for name, version in PINS.items()}
    for requirement in REQUIREMENTS:
        name = canonicalize_name(requirement.name)
        if name != "faiss-cpu":  # takes faiss-gpu's place on other platforms
            assert requirement.specifier.contains(pinned[name], prereleases=True), (
                f"{requirement}: pinned {pinned[name]}"
            )
