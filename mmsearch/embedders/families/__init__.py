"""Which code runs which checkpoint: a family is a module here with a class whose `load` opens it.

To add one: the module, a line in `FAMILIES`, one in `FAMILY_OF_TYPE`, and, where its checkpoints are not known by their `config.json` alone, a
row in `mmsearch.embedders.published.known_models`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

FAMILIES: dict[str, str] = {
    "compact_vlm": "mmsearch.embedders.families.compact_vlm:CompactVlmEmbedder",
    "vlm2vec": "mmsearch.embedders.families.vlm2vec:Vlm2VecEmbedder",
    "vlm2vec_v1": "mmsearch.embedders.families.vlm2vec_v1:Vlm2VecV1Embedder",
    "vlm2vec_llava_next": "mmsearch.embedders.families.vlm2vec_llava_next:LlavaNextEmbedder",
    "vlm2vec_phi3v": "mmsearch.embedders.families.vlm2vec_phi3v:Phi3VEmbedder",
    "vlm2vec_idefics3": "mmsearch.embedders.families.vlm2vec_idefics3:Idefics3Embedder",
    "gme": "mmsearch.embedders.families.gme:GmeEmbedder",
    "lamra": "mmsearch.embedders.families.lamra:LamraEmbedder",
    "qwen3vl_embedding": "mmsearch.embedders.families.qwen3vl_embedding:Qwen3VLEmbedder",
    "colpali": "mmsearch.embedders.families.colpali:ColPaliEmbedder",
    "colqwen2": "mmsearch.embedders.families.colqwen2:ColQwen2Embedder",
    "visrag": "mmsearch.embedders.families.visrag:VisragEmbedder",
    "clip": "mmsearch.embedders.families.clip:ClipEmbedder",
    "siglip": "mmsearch.embedders.families.siglip:SiglipEmbedder",
    "blip": "mmsearch.embedders.families.blip:BlipEmbedder",
    "xclip": "mmsearch.embedders.families.xclip:XClipEmbedder",
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

GENERAL_TYPES = frozenset(
    {"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "minicpmv", "llava_next", "phi3_v", "idefics3", "smolvlm"}
)
"""Model types of chat models: embedders with different prompts, and models that were never trained to embed, share them."""


def family_class(family: str) -> Any:
    """The class that opens checkpoints of a family."""
    module, _, name = FAMILIES[family].partition(":")
    return getattr(import_module(module), name)
