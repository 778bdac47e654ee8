"""Which code runs which checkpoint: a family is a module here with a class whose `load` opens it.

To add one: the module, a line in `FAMILIES`, and, where its checkpoints are not known by their `config.json` alone, a line in
`mmsearch.embedders.known`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mmsearch.embedders.checkpoint import SIDECAR, Checkpoint, published_name
from mmsearch.embedders.known import known_model
from mmsearch.errors import EmbedderError

FAMILIES: dict[str, str] = {
    "compact_vlm": "mmsearch.embedders.compact_vlm:CompactVlmEmbedder",
    "vlm2vec": "mmsearch.embedders.vlm2vec:Vlm2VecEmbedder",
    "vlm2vec_v1": "mmsearch.embedders.vlm2vec_v1:Vlm2VecV1Embedder",
    "vlm2vec_llava_next": "mmsearch.embedders.vlm2vec_llava_next:LlavaNextEmbedder",
    "vlm2vec_phi3v": "mmsearch.embedders.vlm2vec_phi3v:Phi3VEmbedder",
    "vlm2vec_idefics3": "mmsearch.embedders.vlm2vec_idefics3:Idefics3Embedder",
    "gme": "mmsearch.embedders.gme:GmeEmbedder",
    "lamra": "mmsearch.embedders.lamra:LamraEmbedder",
    "qwen3vl_embedding": "mmsearch.embedders.qwen3vl_embedding:Qwen3VLEmbedder",
    "colpali": "mmsearch.embedders.colpali:ColPaliEmbedder",
    "colqwen2": "mmsearch.embedders.colqwen2:ColQwen2Embedder",
    "visrag": "mmsearch.embedders.visrag:VisragEmbedder",
    "clip": "mmsearch.embedders.clip:ClipEmbedder",
    "siglip": "mmsearch.embedders.siglip:SiglipEmbedder",
    "blip": "mmsearch.embedders.blip:BlipEmbedder",
    "xclip": "mmsearch.embedders.xclip:XClipEmbedder",
}
"""Family: "module:class". The class has `load(name_or_folder, *, device, dtype, min_pixels, max_pixels)`, which
gives an `Embedder`; arguments and errors as in `mmsearch.embedders.load_embedder`."""

FAMILY_OF_TYPE: dict[str, str] = {
    "compact_vlm": "compact_vlm",
    "qwen2_vl": "vlm2vec",
    "qwen2_5_vl": "vlm2vec",
    "qwen3_vl": "qwen3vl_embedding",
    "colpali": "colpali",
    "colqwen2": "colqwen2",
    "minicpmv": "visrag",
    "llava_next": "vlm2vec_llava_next",
    "phi3_v": "vlm2vec_phi3v",
    "idefics3": "vlm2vec_idefics3",
    "smolvlm": "vlm2vec_idefics3",
    "clip": "clip",
    "siglip": "siglip",
    "siglip2": "siglip",
    "blip": "blip",
    "xclip": "xclip",
}
"""The `model_type` of a `config.json`: the family that runs it unless the checkpoint is known to want another."""


def family_of(checkpoint: Checkpoint) -> str:
    """The family of a checkpoint: as its sidecar says, else as known by its name, else by its `model_type`.

    Raises:
        EmbedderError: none of them knows it.
    """
    told = checkpoint.json(SIDECAR).get("family")
    config = checkpoint.json("config.json")
    model_type = config.get("model_type")
    folders = (checkpoint.adapter, checkpoint.base)
    known = next((row for folder in folders if folder and (row := known_model(published_name(folder)))), None)
    family = told or (known.family if known else None) or FAMILY_OF_TYPE.get(str(model_type))
    if family not in FAMILIES:
        code = "; the code that comes with it is never run" if "auto_map" in config else ""
        raise EmbedderError(
            f"{checkpoint.base}: no family of models runs it (family {told!r}, model type {model_type!r}){code}; "
            f"known: {', '.join(sorted(FAMILIES))}"
        )
    return family


def family_class(family: str) -> Any:
    """The class that opens checkpoints of a family."""
    module, _, name = FAMILIES[family].partition(":")
    return getattr(import_module(module), name)
