"""The table of published models, and how names and folders find their family."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest

from mmsearch.embedders import inventory
from mmsearch.embedders.checkpoints import checkpoint
from mmsearch.embedders.checkpoints.checkpoint import (
    SHIPPED,
    find_checkpoint,
    find_in_hub_cache,
    missing_weights,
    published_name,
)
from mmsearch.embedders.families import FAMILIES
from mmsearch.embedders.families.choice import choose_family, family_of, warn_of_assumption
from mmsearch.embedders.inventory import download_bytes, standing, weights_of
from mmsearch.embedders.published.known_models import KNOWN, KnownModel, known_model
from mmsearch.errors import EmbedderError, ModelNotFound

NAMED_IN_THE_ISSUE = (
    "mini", "VLM2Vec-V2.0", "VLM2Vec-Qwen2VL-2B", "VLM2Vec-Qwen2VL-7B", "VLM2Vec-Full", "VLM2Vec-LLaVa-Next",
    "Qwen2.5-VL-3B-Instruct", "SmolVLM-500M-Instruct", "gme-Qwen2-VL-2B-Instruct", "gme-Qwen2-VL-7B-Instruct", "LamRA-Ret",
    "LamRA-Ret-Qwen2.5VL-7b", "Qwen3-VL-Embedding-2B", "Qwen3-VL-Embedding-8B", "Uni-Retrieval", "colpali-v1.3-hf",
    "colqwen2-v1.0-hf", "VisRAG-Ret", "clip-vit-base-patch32", "clip-vit-large-patch14", "siglip2-base-patch16-224",
    "blip-itm-base-coco", "xclip-base-patch32",
)  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty local cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached(
    cache: Path, name: str, files: dict[str, object], *, commit: str = "a" * 40, ref: str | None = "main"
) -> Path:
    """A snapshot as a download leaves it."""
    storage = cache / f"models--{name.replace('/', '--')}"
    folder = storage / "snapshots" / commit
    folder.mkdir(parents=True)
    if ref is not None:
        (storage / "refs").mkdir(exist_ok=True)
        (storage / "refs" / ref).write_text(commit)
    for file, content in files.items():
        (folder / file).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_rows_are_sound(known: KnownModel) -> None:
    assert re.fullmatch(checkpoint.HUB_NAME, known.name) or known.name in ("mini", "Uni-Retrieval")
    assert known.summary and known.source and known.modalities
    assert known.why_not or known.family in FAMILIES
    assert known.revision is None or re.fullmatch(r"[0-9a-f]{40}", known.revision)
    assert known.paper is None or re.fullmatch(r"\d{4}\.\d{5}", known.paper)
    assert not known.is_adapter or known.base
    assert known.parameters is None or known.parameters > 1e6
    assert known_model(known.name) is known and known_model(known.short_name.upper()) is known


@pytest.mark.parametrize("name", NAMED_IN_THE_ISSUE)
def test_every_named_system_has_a_row(name: str) -> None:
    assert known_model(name) is not None


def test_names_are_told_apart() -> None:
    assert len({known.name for known in KNOWN}) == len({known.short_name.lower() for known in KNOWN}) == len(KNOWN)


def test_the_row_of_the_shipped_checkpoint_is_true() -> None:
    known, found = known_model("mini"), find_checkpoint("mini")
    assert known is not None
    size = found.json("config.json")["embedding_size"]
    assert (known.dim, known.parameters) == (size, weights_of(found).parameters)
    assert (standing("mini").state, standing("mini").family) == ("shipped", family_of(found))
    assert weights_of(found).size_bytes == (SHIPPED / "mini" / "model.safetensors").stat().st_size


def test_download_is_reckoned_where_it_is_not_stated() -> None:
    assert download_bytes(known_model("VLM2Vec-V2.0")) == 2 * 2_208_985_600
    assert download_bytes(known_model("VisRAG-Ret")) == 6_880_000_000
    assert download_bytes(known_model("Uni-Retrieval")) is None


# ---- families


def folder(place: Path, model_type: str, sidecar: dict[str, str] | None = None) -> Path:
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps({"model_type": model_type}))
    if sidecar is not None:
        (place / "mmsearch.json").write_text(json.dumps(sidecar))
    return place


@pytest.fixture
def gme(monkeypatch: pytest.MonkeyPatch) -> None:
    """A family that is told by name alone, whichever of the real ones are there."""
    monkeypatch.setitem(FAMILIES, "gme", "mmsearch.embedders.families.vlm2vec:Vlm2VecEmbedder")


@pytest.mark.parametrize(
    ("name", "sidecar", "family"),
    [
        ("something", None, "vlm2vec"),
        ("gme-Qwen2-VL-2B-Instruct", None, "gme"),
        ("GME-qwen2-vl-2b-instruct", None, "gme"),
        ("gme-Qwen2-VL-2B-Instruct", {"family": "vlm2vec"}, "vlm2vec"),
        ("something", {"family": "gme"}, "gme"),
    ],
)
@pytest.mark.usefixtures("gme")
def test_sidecar_over_name_over_model_type(
    tmp_path: Path, name: str, sidecar: dict[str, str] | None, family: str
) -> None:
    assert family_of(find_checkpoint(folder(tmp_path / name, "qwen2_vl", sidecar))) == family


@pytest.mark.usefixtures("gme")
def test_a_cached_model_is_known_by_its_hub_name(cache: Path) -> None:
    known = known_model("gme-Qwen2-VL-2B-Instruct")
    assert known is not None and known.revision is not None
    snapshot = cached(cache, known.name, {"config.json": {"model_type": "qwen2_vl"}}, commit=known.revision, ref=None)
    found = find_checkpoint(known.name)
    assert (found.name, found.base) == (known.short_name, snapshot)
    assert published_name(snapshot) == known.name
    assert find_checkpoint(known.short_name).base == snapshot
    assert family_of(found) == family_of(find_checkpoint(snapshot)) == "gme"


@pytest.mark.usefixtures("gme")
def test_an_unknown_adapter_follows_its_base(cache: Path, tmp_path: Path) -> None:
    cached(cache, "Alibaba-NLP/gme-Qwen2-VL-7B-Instruct", {"config.json": {"model_type": "qwen2_vl"}})
    (tmp_path / "mine").mkdir()
    told = {"base_model_name_or_path": "Alibaba-NLP/gme-Qwen2-VL-7B-Instruct"}
    (tmp_path / "mine" / "adapter_config.json").write_text(json.dumps(told))
    assert family_of(find_checkpoint(tmp_path / "mine")) == "gme"


def test_a_known_adapter_finds_its_base_though_it_names_its_makers_folder(cache: Path) -> None:
    base = cached(cache, "Qwen/Qwen2-VL-7B-Instruct", {"config.json": {"model_type": "qwen2_vl"}})
    told = {"base_model_name_or_path": "/home/maker/checkpoints/Qwen2-VL-7B-Instruct"}
    adapter = cached(cache, "TIGER-Lab/VLM2Vec-Qwen2VL-7B", {"adapter_config.json": told})
    found = find_checkpoint("TIGER-Lab/VLM2Vec-Qwen2VL-7B")
    assert (found.base, found.adapter) == (base, adapter)


def test_remote_code_is_named_and_not_run(tmp_path: Path) -> None:
    place = folder(tmp_path / "new-thing", "brand_new")
    (place / "config.json").write_text('{"model_type": "brand_new", "auto_map": {"AutoModel": "modeling.New"}}')
    with pytest.raises(EmbedderError, match="the code that comes with it is never run"):
        family_of(find_checkpoint(place))


# ---- what is only assumed

CARD = """---
license: apache-2.0
base_model:
- {base}
model-index:
- name: {name}
---

# {heading}

Compared with gme-Qwen2-VL-7B-Instruct and LamRA-Ret it is better.
"""


@pytest.mark.parametrize(
    ("model_type", "family"),
    [
        ("qwen2_vl", "vlm2vec"),
        ("qwen2_5_vl", "vlm2vec"),
        ("qwen3_vl", "qwen3vl_embedding"),
        ("llava_next", "vlm2vec_llava_next"),
    ],
)
def test_a_chat_models_type_tells_no_embedder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, model_type: str, family: str
) -> None:
    """The folder runs, as before, but what was assumed is named, with the way to choose."""
    found = find_checkpoint(folder(tmp_path / "fine-tuned", model_type))
    choice = choose_family(found)
    assert (choice.family, choice.is_assumed) == (family, True)
    with caplog.at_level(logging.WARNING):
        warn_of_assumption(found)
        warn_of_assumption(found)
    (record,) = caplog.records
    for part in (str(tmp_path / "fine-tuned"), f"assumed {family}", model_type, "--family", "mmsearch.json"):
        assert part in record.getMessage()


@pytest.mark.parametrize(
    ("name", "sidecar", "card"),
    [
        ("mine", {"family": "gme"}, None),
        ("gme:mine", None, None),
        ("gme-Qwen2-VL-2B-Instruct", None, None),
        ("mine", None, {"base": "Alibaba-NLP/gme-Qwen2-VL-2B-Instruct", "name": "mine", "heading": "Mine"}),
        ("mine", None, {"base": "Qwen/Qwen2-VL-2B-Instruct", "name": "gme-Qwen2-VL-2B-Instruct", "heading": "GME"}),
        ("mine", None, {"base": "Qwen/Qwen2-VL-2B-Instruct", "name": "x", "heading": "Alibaba-NLP/gme-Qwen2-VL-2B-Instruct"}),
    ],
    ids=["sidecar", "asked", "name", "card's base", "card's index", "card's heading"],
)  # fmt: skip
def test_what_tells_a_family_needs_no_warning(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    sidecar: dict[str, str] | None,
    card: dict[str, str] | None,
) -> None:
    asked, _, own = name.rpartition(":")
    place = folder(tmp_path / own, "qwen2_vl", sidecar)
    if card is not None:
        (place / "README.md").write_text(CARD.format(**card))
    found = find_checkpoint(f"{asked}:{place}" if asked else place)
    assert (choose_family(found).family, choose_family(found).is_assumed) == ("gme", False)
    with caplog.at_level(logging.WARNING):
        warn_of_assumption(found)
    assert not caplog.records


def test_a_card_that_names_backbones_and_rivals_tells_nothing(tmp_path: Path) -> None:
    place = folder(tmp_path / "mine", "qwen2_vl")
    (place / "README.md").write_text(CARD.format(base="Qwen/Qwen2-VL-2B-Instruct", name="mine", heading="Mine"))
    assert choose_family(find_checkpoint(place)).is_assumed
    (place / "README.md").write_text("---\n: : [\n---\n\\x00")
    assert choose_family(find_checkpoint(place)).is_assumed


def test_an_adapter_over_a_plain_backbone_is_assumed(cache: Path, tmp_path: Path) -> None:
    """The backbone's own row says that Qwen2-VL runs, not how the adapter was trained."""
    cached(cache, "Qwen/Qwen2-VL-2B-Instruct", {"config.json": {"model_type": "qwen2_vl"}})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen2-VL-2B-Instruct"}')
    choice = choose_family(find_checkpoint(tmp_path / "mine"))
    assert (choice.family, choice.is_assumed) == ("vlm2vec", True)
    assert not choose_family(find_checkpoint("Qwen/Qwen2-VL-2B-Instruct")).is_assumed


def test_models_of_our_own_training_are_told(tmp_path: Path) -> None:
    place = folder(tmp_path / "mine", "qwen2_vl")
    (place / "mmsearch.json").write_text('{"name": "mine", "page_text_tokens": 0, "query_text_tokens": 128}')
    assert (choose_family(find_checkpoint(place)).family, choose_family(find_checkpoint(place)).is_assumed) == (
        "vlm2vec",
        False,
    )


@pytest.mark.parametrize(
    "card",
    [
        "\ufeff---\nbase_model: {gme}\n---\n",
        "---\n# For reference on model card metadata, see the spec\nlicense: mit\n---\n\n# Model Card for {gme}\n",
        "# [{gme}](https://huggingface.co/{gme})\n",
    ],
    ids=["byte order mark", "the hub's template", "link"],
)
def test_a_card_as_the_hub_and_editors_write_it(tmp_path: Path, card: str) -> None:
    place = folder(tmp_path / "mine", "qwen2_vl")
    (place / "README.md").write_text(card.format(gme="Alibaba-NLP/gme-Qwen2-VL-2B-Instruct"), "utf-8")
    assert (choose_family(find_checkpoint(place)).family, choose_family(find_checkpoint(place)).is_assumed) == (
        "gme",
        False,
    )


def test_the_card_of_an_adapters_base_counts_too(tmp_path: Path) -> None:
    """PEFT writes a card of its own into the adapter's folder; it names the base by where it lay."""
    base = folder(tmp_path / "base", "qwen2_vl")
    (base / "README.md").write_text("---\nbase_model: Alibaba-NLP/gme-Qwen2-VL-2B-Instruct\n---\n")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "../base"}')
    (adapter / "README.md").write_text(
        "---\nbase_model: ../base\nlibrary_name: peft\n---\n\n# Model Card for Model ID\n"
    )
    assert (choose_family(find_checkpoint(adapter)).family, choose_family(find_checkpoint(adapter)).is_assumed) == (
        "gme",
        False,
    )


def test_an_unknown_family_is_named(tmp_path: Path) -> None:
    place = folder(tmp_path / "mine", "qwen2_vl")
    with pytest.raises(EmbedderError, match=r"family 'gmee'.*known: .*gme"):
        choose_family(find_checkpoint(f"gmee:{place}"))


# ---- states


def test_revisions_and_odd_names_of_the_cache(cache: Path) -> None:
    main = cached(cache, "someone/thing", {"config.json": {}})
    other = cached(cache, "someone/thing", {"config.json": {}}, commit="b" * 40, ref="v2")
    assert find_in_hub_cache("someone/thing") == main
    assert find_in_hub_cache("someone/thing@v2") == find_in_hub_cache(f"someone/thing@{'b' * 40}") == other
    assert (
        find_in_hub_cache("someone/thing@v3") is find_in_hub_cache("someone/none") is find_in_hub_cache("a/--b") is None
    )


def test_states(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert standing("VLM2Vec/VLM2Vec-V2.0").state == "not here"
    assert "mmsearch models pull VLM2Vec/VLM2Vec-V2.0" in standing("VLM2Vec/VLM2Vec-V2.0").why
    assert standing("Uni-Retrieval").state == "cannot run" and "not public" in standing("Uni-Retrieval").why
    assert standing(folder(tmp_path / "odd", "gpt2")).state == "cannot run"

    place = folder(tmp_path / "mine", "qwen2_vl")
    assert (standing(place).state, standing(place).family) == ("incomplete", "vlm2vec")
    (place / "model.safetensors").write_bytes(b"")
    assert standing(place).state == "here"
    monkeypatch.setitem(FAMILIES, "vlm2vec", "mmsearch.embedders.not_written_yet:Nothing")
    assert (standing(place).state, standing("mini").state) == ("cannot run", "shipped")
    assert "no code for its family, vlm2vec" in standing(place).why


def test_pickles_alone_cannot_run(tmp_path: Path) -> None:
    place = folder(tmp_path / "old", "qwen2_vl")
    (place / "pytorch_model.bin").write_bytes(b"pickle")
    assert standing(place).state == "cannot run" and "could run code" in standing(place).why


def test_missing_shards_are_noticed_with_and_without_an_index(tmp_path: Path) -> None:
    place = folder(tmp_path / "big", "qwen2_vl")
    (place / "model-00002-of-00003.safetensors").write_bytes(b"")
    assert missing_weights(find_checkpoint(place)) == [
        "model-00001-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
    ]
    (place / "model-00001-of-00003.safetensors").write_bytes(b"")
    (place / "model-00003-of-00003.safetensors").write_bytes(b"")
    assert missing_weights(find_checkpoint(place)) == []
    index = {"weight_map": {"a": "model-00001-of-00003.safetensors", "b": "other.safetensors"}}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    assert missing_weights(find_checkpoint(place)) == ["other.safetensors"]
    assert standing(place).state == "incomplete"


def test_a_broken_file_of_weights_is_named(tmp_path: Path) -> None:
    place = folder(tmp_path / "broken", "qwen2_vl")
    (place / "model.safetensors").write_bytes((SHIPPED / "mini" / "model.safetensors").read_bytes()[:100_000])
    with pytest.raises(EmbedderError, match=r"broken/model\.safetensors cannot be read"):
        weights_of(find_checkpoint(place))


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="without config"):
        find_checkpoint(tmp_path)
    assert inventory.standing(tmp_path).state == "not here"
