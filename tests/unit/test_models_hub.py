"""Fetching models: huggingface_hub's own client against a hub of one process, whose repositories are folders."""

from __future__ import annotations

import hashlib
import json
import pickle
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from mmsearch.cli import app
from mmsearch.embedders import load_embedder
from mmsearch.embedders.checkpoints.adapter_merging import model_tensors
from mmsearch.embedders.checkpoints.checkpoint import find_checkpoint
from mmsearch.embedders.download import convert_pickle, download, plan_download
from mmsearch.embedders.inventory import standing
from mmsearch.embedders.published.known_models import KNOWN, KnownModel
from mmsearch.errors import ConfigError, EmbedderError, ModelNotFound
from mmsearch.items import EmbedInput
from tests.unit.test_vlm2vec import random_embedder

CONFIG = {"model_type": "qwen2_vl"}
WEIGHT = {"model.layers.0.self_attn.q_proj.weight": torch.arange(12.0).reshape(3, 4)}
NOTHING_BUT_CODE = b"raise SystemExit('remote code was run')"


class Hub:
    """What the client asks of huggingface.co, answered from a folder: `<root>/<owner>/<name>/<file>`.

    Attributes:
        requests: "GET /path" of everything that was asked.
        gated: names that want a licence accepted. breaks_after: bytes after which a file's first transfer ends, once.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.requests, self.gated = root, list[str](), set[str]()
        self.breaks_after: int | None = None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def commit(self, name: str) -> str:
        return hashlib.sha1(name.encode()).hexdigest()

    def answer(self, request: Any) -> None:
        path = unquote(urlsplit(request.path).path)
        self.requests.append(f"{request.command} {path}")
        if path.startswith("/api/models/"):
            owner, name, *rest = path.removeprefix("/api/models/").split("/")
            folder = self.root / owner / name
            if not folder.is_dir():
                self.refuse(request, 404, "RepoNotFound")
            elif f"{owner}/{name}" in self.gated:
                self.refuse(request, 403, "GatedRepo")
            elif rest[:1] == ["revision"] and rest[1] not in ("main", self.commit(f"{owner}/{name}")):
                self.refuse(request, 404, "RevisionNotFound")
            elif rest[:1] == ["tree"]:
                tree = [
                    {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": f.name} for f in files(folder)
                ]
                self.send(request, json.dumps(tree).encode())
            else:
                siblings = [{"rfilename": f.name, "size": f.stat().st_size} for f in files(folder)]
                card = {"license": "apache-2.0"}
                info = {
                    "id": f"{owner}/{name}",
                    "sha": self.commit(f"{owner}/{name}"),
                    "siblings": siblings,
                    "cardData": card,
                }
                self.send(request, json.dumps(info).encode())
            return
        owner, name, _, _, file = path.strip("/").split("/", 4)
        self.send(
            request, (self.root / owner / name / file).read_bytes(), commit=self.commit(f"{owner}/{name}"), name=file
        )

    def refuse(self, request: Any, status: int, code: str) -> None:
        request.send_response(status)
        request.send_header("X-Error-Code", code)
        request.send_header("Content-Length", "0")
        request.end_headers()

    def send(self, request: Any, content: bytes, *, commit: str = "", name: str = "") -> None:
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        request.send_response(206 if start else 200)
        if commit:
            request.send_header("X-Repo-Commit", commit)
            request.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        if request.command == "HEAD":
            return
        end = len(content)
        if self.breaks_after is not None and name.endswith(".safetensors"):
            end, self.breaks_after = self.breaks_after, None
            request.close_connection = True
        request.wfile.write(content[start:end])


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub without repositories, an empty cache, and no other network."""
    served = Hub(tmp_path / "repositories")
    thread = threading.Thread(target=served.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", served.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    only_this_machine(monkeypatch)
    yield served
    served.server.shutdown()
    thread.join()
    served.server.server_close()


def only_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def local(self: socket.socket, address: Any) -> None:
        assert not isinstance(address, tuple) or address[0] == "127.0.0.1", f"the network was asked: {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local)


def repository(hub: Hub, name: str, **contents: Any) -> Path:
    """A repository of files, `__` in an argument's name standing for a dot."""
    folder = hub.root / name
    folder.mkdir(parents=True)
    for file, content in contents.items():
        path = folder / file.replace("__", ".")
        if path.suffix == ".safetensors":
            save_file(content, path)
        elif path.suffix == ".bin":
            torch.save(content, path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


def plain(hub: Hub, name: str = "someone/thing") -> Path:
    return repository(
        hub, name, config__json=CONFIG, tokenizer__json={}, README__md=b"# thing", model__safetensors=WEIGHT,
        pytorch_model__bin=WEIGHT, modeling_thing__py=NOTHING_BUT_CODE, trainer_state__json={"log": []},
    )  # fmt: skip


def test_a_model_is_fetched_without_code_and_pickles_and_then_is_here(hub: Hub) -> None:
    plain(hub)
    assert standing("someone/thing").state == "not here"
    plan = plan_download("someone/thing")
    (found,) = plan.repositories
    assert (found.licence, found.commit) == ("apache-2.0", hub.commit("someone/thing"))
    assert plan.size_bytes == sum((hub.root / "someone/thing" / file).stat().st_size for file in found.files)
    checkpoint = download(plan)
    assert sorted(path.name for path in checkpoint.base.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    assert (checkpoint.name, standing("someone/thing").state) == ("thing", "here")
    assert torch.equal(model_tensors(checkpoint)["language_model.layers.0.self_attn.q_proj.weight"], *WEIGHT.values())
    assert plan_download("someone/thing").missing_bytes == 0


def test_the_command_says_sizes_and_licence_first(hub: Hub) -> None:
    plain(hub)
    done = CliRunner().invoke(app, ["models", "pull", "someone/thing", "--dry-run"])
    assert (done.exit_code, done.stdout) == (0, "")
    assert f"someone/thing at {hub.commit('someone/thing')[:12]}: 4 files, " in done.stderr
    assert "licence apache-2.0" in done.stderr and "to fetch: " in done.stderr
    assert not [request for request in hub.requests if "model.safetensors" in request]
    done = CliRunner().invoke(app, ["models", "pull", "someone/thing"])
    assert done.stdout.strip() == str(find_checkpoint("someone/thing").base)
    assert "use it: mmsearch models use someone/thing" in done.stderr


def test_a_revision_has_its_own_name(hub: Hub) -> None:
    plain(hub)
    commit = hub.commit("someone/thing")
    checkpoint = download(plan_download("someone/thing", revision=commit))
    assert find_checkpoint(f"someone/thing@{commit}") == checkpoint
    assert standing("someone/thing").state == "not here", "the newest was not asked for"


def test_an_adapter_brings_its_base(hub: Hub) -> None:
    plain(hub, "someone/base")
    adapter = {"base_model_name_or_path": "someone/base", "peft_type": "LORA"}
    lora = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(1, 4)}
    repository(hub, "someone/lora", config__json=CONFIG, adapter_config__json=adapter, adapter_model__safetensors=lora)
    checkpoint = download(plan_download("someone/lora"))
    assert checkpoint.adapter is not None and (checkpoint.base / "model.safetensors").is_file()
    assert standing("someone/lora").state == "here"
    repository(
        hub,
        "someone/elsewhere",
        adapter_config__json={"base_model_name_or_path": "/home/me/base"},
        adapter_model__safetensors=lora,
    )
    with pytest.raises(EmbedderError, match=r"say which with --base OWNER/NAME"):
        plan_download("someone/elsewhere")
    assert [part.name for part in plan_download("someone/elsewhere", base="someone/base").repositories] == [
        "someone/elsewhere", "someone/base",
    ]  # fmt: skip


def test_pickles_of_known_models_become_safetensors(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    plain(hub, "someone/base")
    adapter = {"base_model_name_or_path": "/checkpoints/base", "peft_type": "LORA"}
    shared = torch.arange(8.0)
    lora = {
        "a.lora_A.weight": shared.reshape(2, 4),
        "a.lora_B.weight": shared.reshape(4, 2).T,
    }  # one storage, two shapes
    repository(hub, "maker/old", config__json=CONFIG, adapter_config__json=adapter, adapter_model__bin=lora)
    with pytest.raises(EmbedderError, match="as a pickle only"):
        plan_download("maker/old", base="someone/base")
    row = KnownModel(
        name="maker/old",
        family="vlm2vec",
        summary="",
        source="",
        base="someone/base",
        is_adapter=True,
        has_pickled_weights=True,
    )
    monkeypatch.setattr("mmsearch.embedders.published.known_models._BY_NAME", {"maker/old": row})
    checkpoint = download(plan_download("maker/old"))
    assert checkpoint.adapter is not None
    converted = load_file(checkpoint.adapter / "adapter_model.safetensors")
    assert all(torch.equal(converted[key], tensor) for key, tensor in lora.items()) and len(converted) == 2
    assert standing("maker/old").state == "here"


def test_what_was_pulled_embeds(hub: Hub, tmp_path: Path) -> None:
    """VLM2Vec-V1 as published (a pickled LoRA over Qwen2-VL), tiny: the same vectors as from folders put together by hand."""
    name, base = "TIGER-Lab/VLM2Vec-Qwen2VL-2B", "Qwen/Qwen2-VL-2B-Instruct"
    random_embedder().save(hub.root / base, dtype=torch.float32)
    (hub.root / base / "mmsearch.json").unlink()
    generator = torch.Generator().manual_seed(0)
    lora = {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{part}.weight": torch.randn(
            shape, generator=generator
        )
        for layer in range(3)
        for part, shape in (("A", (2, 64)), ("B", (64, 2)))
    }
    told = {"base_model_name_or_path": base, "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    config = (hub.root / base / "config.json").read_bytes()
    repository(hub, name, config__json=config, adapter_config__json=told, adapter_model__bin=lora)
    download(plan_download("VLM2Vec-Qwen2VL-2B"))

    by_hand = tmp_path / "VLM2Vec-Qwen2VL-2B"
    by_hand.mkdir()
    save_file(lora, by_hand / "adapter_model.safetensors")
    (by_hand / "adapter_config.json").write_text(json.dumps(told | {"base_model_name_or_path": str(hub.root / base)}))
    query = [EmbedInput("Find an image.", "a dog", (), False, "image")]
    pulled, expected = (load_embedder(one, dtype="float32") for one in (name, by_hand))
    assert type(pulled).__name__ == "Vlm2VecV1Embedder"
    assert np.array_equal(pulled.encode_queries(query), expected.encode_queries(query))
    plain = load_embedder(hub.root / base, dtype="float32").encode_queries(query)
    assert np.abs(pulled.encode_queries(query) - plain).max() > 0.01, "the adapter changes nothing"


def test_sharded_pickles_are_converted_one_by_one(tmp_path: Path) -> None:
    for number in (1, 2):
        path = tmp_path / f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({f"weight{number}": torch.full((2,), float(number))}, path)
        convert_pickle(path)
    assert load_file(tmp_path / "model-00002-of-00002.safetensors")["weight2"].tolist() == [2.0, 2.0]
    before = (tmp_path / "model-00001-of-00002.safetensors").stat().st_mtime_ns
    assert convert_pickle(tmp_path / "pytorch_model-00001-of-00002.bin").stat().st_mtime_ns == before


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('a pickle was run')",)


@pytest.mark.parametrize(
    "content", [Trap(), {"weights": {"a": torch.ones(1)}}, [torch.ones(1)]], ids=["code", "nested", "list"]
)
def test_a_pickle_that_is_not_tensors_by_name_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(content, path, pickle_module=pickle)
    with pytest.raises(EmbedderError, match=r"pytorch_model\.bin"):
        convert_pickle(path)
    assert not list(tmp_path.glob("*.safetensors*"))


def test_a_broken_download_goes_on_where_it_ended(hub: Hub) -> None:
    plain(hub)
    (hub.root / "someone/thing/model.safetensors").unlink()
    save_file({"weight": torch.arange(200_000.0)}, hub.root / "someone/thing/model.safetensors")
    hub.breaks_after = 300_000
    download(plan_download("someone/thing"))
    asked = [
        request for request in hub.requests if request.startswith("GET") and request.endswith("/model.safetensors")
    ]
    assert len(asked) == 2
    assert load_file(find_checkpoint("someone/thing").base / "model.safetensors")["weight"][-1] == 199_999


def test_nothing_large_is_fetched_of_what_cannot_run(hub: Hub) -> None:
    repository(
        hub, "maker/new", config__json={"model_type": "brand_new", "auto_map": {"AutoModel": "modeling_new.New"}},
        modeling_new__py=NOTHING_BUT_CODE, model__safetensors=WEIGHT,
    )  # fmt: skip
    with pytest.raises(EmbedderError, match="the code that comes with it is never run"):
        plan_download("maker/new")
    assert not [request for request in hub.requests if request.endswith((".safetensors", ".py"))]


def test_refusals_say_what_to_do(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    plain(hub, "maker/gated")
    hub.gated.add("maker/gated")
    plain(hub, "maker/thing")
    repository(hub, "maker/empty", config__json=CONFIG)
    for name, revision, words in (
        ("maker/gated", None, "wants its licence accepted"),
        ("maker/none", None, "the hub has no model maker/none"),
        ("maker/thing", "v9", "no such revision"),
        ("maker/empty", None, "no weights in safetensors"),
        ("Uni-Retrieval/x", None, "the hub has no model"),
    ):
        with pytest.raises(EmbedderError, match=words):
            plan_download(name, revision=revision)
    with pytest.raises(ConfigError, match="no name on the hub"):
        plan_download("mini")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1 << 29}))
    with pytest.raises(EmbedderError, match=r"has 536\.9 MB left; make room, or set HF_HOME"):
        plan_download("maker/thing")


def test_without_a_network_it_says_so(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(ModelNotFound, match=r"no network: someone/thing cannot be fetched"):
            plan_download("someone/thing")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFound, match=r"no network: HF_HUB_OFFLINE is set"):
        plan_download("someone/thing")


def test_what_is_known_to_be_unavailable_is_not_asked_for(hub: Hub) -> None:
    row = next(known for known in KNOWN if known.why_not)
    assert standing(row.name).state == "cannot run"
    with pytest.raises(EmbedderError):
        plan_download(row.name)
    assert not hub.requests
