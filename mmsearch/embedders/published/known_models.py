"""The published models that mmsearch knows by name: facts, as data. What is not known is None; each row names its source.

A name tells what a `config.json` cannot: GME's says "qwen2_vl" like VLM2Vec's. Any other folder runs by its `model_type`
(see `mmsearch.embedders.families.choice`), so a row here is for naming, fetching and listing, not a permission.

Sources, shortened in the rows: "mteb" = embeddings-benchmark/mteb `mteb/models/model_implementations` (name, revision,
parameters, dimensions, licence); "card" = the model's pages on huggingface.co; "paper" = the row's `paper`.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmsearch.items import KINDS, Kind

PHOTOS_AND_PAGES: tuple[Kind, ...] = ("page", "image")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A published model.

    Attributes:
        name: as on the hub ("owner/name"); the shipped checkpoint's own name.
        family: which code runs it, see `mmsearch.embedders.families.choice`; "" where none ever will.
        summary: one line for people.
        dim: length of a vector; of each token's vector if `is_multi_vector`.
        parameters: of the whole model, its base included.
        licence: of the weights, as their page states it; None where it states none.
        modalities: kinds of items it was made for. Others are embedded as well as its family can (see its docstring).
        source: where these facts were read.
        base: the hub name of the weights that an adapter lies over.
        revision: the commit that `pull` fetches by default; None for the newest.
        paper: its number on arXiv.
        download_bytes: of the files that `pull` fetches, base included; None: reckoned from `parameters`.
        is_adapter: its own weights are a PEFT adapter; the base is fetched too.
        is_backbone: a vision-language model that was not trained to embed: a start for training or the base of an adapter.
        is_multi_vector: a vector per token, compared by MaxSim.
        has_pickled_weights: weights are published as a pickle only, which `pull` turns into safetensors.
        why_not: why it cannot be run at all, whatever is on this machine.
    """

    name: str
    family: str
    summary: str
    source: str
    dim: int | None = None
    parameters: int | None = None
    licence: str | None = None
    modalities: tuple[Kind, ...] = KINDS
    base: str | None = None
    revision: str | None = None
    paper: str | None = None
    download_bytes: int | None = None
    is_adapter: bool = False
    is_backbone: bool = False
    is_multi_vector: bool = False
    has_pickled_weights: bool = False
    why_not: str | None = None

    @property
    def short_name(self) -> str:
        """Without the owner."""
        return self.name.rpartition("/")[2]


KNOWN: tuple[KnownModel, ...] = (
    KnownModel(
        name="mini",
        family="compact_vlm",
        summary="the compact checkpoint that ships with mmsearch: open parts, joined and trained by this repository",
        dim=512,
        parameters=133_817_531,
        licence="AGPL-3.0-or-later",
        source="mmsearch/checkpoints/mini",
    ),
    # ---- VLM2Vec
    KnownModel(
        name="VLM2Vec/VLM2Vec-V2.0",
        family="vlm2vec",
        summary="VLM2Vec-V2, the reference: pages, photos and video in one model (DoRA adapter over Qwen2-VL-2B)",
        dim=1536,
        parameters=2_208_985_600,
        licence="apache-2.0",
        base="Qwen/Qwen2-VL-2B-Instruct",
        revision="e39ff079b8275ef876d3656da8c0bddbff3c4dde",
        paper="2507.04590",
        is_adapter=True,
        source="mteb vlm2vec_models.py; TIGER-AI-Lab/VLM2Vec issue 125 (base)",
    ),
    KnownModel(
        name="TIGER-Lab/VLM2Vec-Qwen2VL-2B",
        family="vlm2vec_v1",
        summary="VLM2Vec-V1 on Qwen2-VL-2B (LoRA adapter)",
        dim=1536,
        parameters=2_208_985_600,
        licence="apache-2.0",
        modalities=PHOTOS_AND_PAGES,
        base="Qwen/Qwen2-VL-2B-Instruct",
        paper="2410.05160",
        is_adapter=True,
        has_pickled_weights=True,
        source="card (adapter_model.bin, 18.8 MB); parameters and dimensions of its base",
    ),
    KnownModel(
        name="TIGER-Lab/VLM2Vec-Qwen2VL-7B",
        family="vlm2vec_v1",
        summary="VLM2Vec-V1 on Qwen2-VL-7B (LoRA adapter)",
        dim=3584,
        parameters=8_290_000_000,
        licence="apache-2.0",
        modalities=PHOTOS_AND_PAGES,
        base="Qwen/Qwen2-VL-7B-Instruct",
        paper="2410.05160",
        is_adapter=True,
        has_pickled_weights=True,
        source="card (adapter_model.bin, 41.8 MB); parameters of its base rounded as in RzenEmbed's table of models",
    ),
    KnownModel(
        name="TIGER-Lab/VLM2Vec-Full",
        family="vlm2vec_phi3v",
        summary="VLM2Vec-V1 on Phi-3.5-vision, fully trained",
        dim=3072,
        parameters=4_146_621_440,
        licence="apache-2.0",
        modalities=PHOTOS_AND_PAGES,
        revision="e9afa98002097ac2471827ba23ea1f2ddd229480",
        paper="2410.05160",
        source="mteb vlm2vec_models.py",
    ),
    KnownModel(
        name="TIGER-Lab/VLM2Vec-LLaVa-Next",
        family="vlm2vec_llava_next",
        summary="VLM2Vec-V1 on LLaVA-NeXT (Mistral-7B)",
        dim=4096,
        licence="apache-2.0",
        modalities=PHOTOS_AND_PAGES,
        paper="2410.05160",
        download_bytes=15_140_000_000,
        source="card (files; base llava-hf/llava-v1.6-mistral-7b-hf); dimensions: Mistral-7B's hidden size",
    ),
    # ---- backbones
    KnownModel(
        name="Qwen/Qwen2-VL-2B-Instruct",
        family="vlm2vec",
        summary="the backbone of VLM2Vec-V2.0",
        dim=1536,
        parameters=2_208_985_600,
        licence="apache-2.0",
        is_backbone=True,
        source="mteb (as base of VLM2Vec-V2.0)",
    ),
    KnownModel(
        name="Qwen/Qwen2.5-VL-3B-Instruct",
        family="vlm2vec",
        summary="a newer backbone for VLM2Vec's recipe; any Qwen2.5-VL folder or adapter over one runs",
        dim=2048,
        parameters=3_754_622_976,
        licence="qwen-research",
        is_backbone=True,
        source="mteb gve_models.py (a model over it); card, discussion 12 (licence)",
    ),
    KnownModel(
        name="HuggingFaceTB/SmolVLM-500M-Instruct",
        family="vlm2vec_idefics3",
        summary="a small backbone (Idefics3) for VLM2Vec's recipe; any Idefics3 or SmolVLM folder runs",
        licence="apache-2.0",
        is_backbone=True,
        download_bytes=1_025_000_000,
        source="card (files)",
    ),
    # ---- other embedders of the kind
    KnownModel(
        name="Alibaba-NLP/gme-Qwen2-VL-2B-Instruct",
        family="gme",
        summary="GME: text, photos and pages, trained on fused inputs",
        dim=1536,
        parameters=2_208_985_600,
        licence="apache-2.0",
        modalities=PHOTOS_AND_PAGES,
        revision="ce765ae71b8cdb208203cd8fb64a170b1b84293a",
        paper="2412.16855",
        source="mteb gme_v_models.py",
    ),
    KnownModel(
        name="Alibaba-NLP/gme-Qwen2-VL-7B-Instruct",
        family="gme",
        summary="GME, the large one",
        dim=3584,
        parameters=7_746_378_240,
        licence="apache-2.0",
        modalities=PHOTOS_AND_PAGES,
        revision="477027a6480f8630363be77751f169cc3434b673",
        paper="2412.16855",
        source="mteb gme_v_models.py",
    ),
    KnownModel(
        name="code-kunkun/LamRA-Ret",
        family="lamra",
        summary="LamRA's retriever on Qwen2-VL-7B",
        dim=3584,
        parameters=8_290_000_000,
        licence="apache-2.0",
        modalities=PHOTOS_AND_PAGES,
        paper="2412.01720",
        source="card (licence); parameters as in RzenEmbed's table of models; dimensions: Qwen2-VL-7B's hidden size",
    ),
    KnownModel(
        name="code-kunkun/LamRA-Ret-Qwen2.5VL-7b",
        family="lamra",
        summary="LamRA's retriever on Qwen2.5-VL-7B",
        dim=3584,
        parameters=8_290_000_000,
        modalities=PHOTOS_AND_PAGES,
        paper="2412.01720",
        source="named in TIGER-AI-Lab/VLM2Vec's evaluation scripts; parameters as in RzenEmbed's table of models; its card was not readable",
    ),
    KnownModel(
        name="Qwen/Qwen3-VL-Embedding-2B",
        family="qwen3vl_embedding",
        summary="Qwen3-VL-Embedding: near the top of MMEB-V2, instructions in the system turn, vectors may be cut short",
        dim=2048,
        parameters=2_000_000_000,
        licence="apache-2.0",
        paper="2601.04720",
        source="QwenLM/Qwen3-VL-Embedding README (2B, 28 layers, 2048 dimensions); parameters by its name",
    ),
    KnownModel(
        name="Qwen/Qwen3-VL-Embedding-8B",
        family="qwen3vl_embedding",
        summary="Qwen3-VL-Embedding, the large one",
        dim=4096,
        parameters=8_000_000_000,
        licence="apache-2.0",
        paper="2601.04720",
        source="QwenLM/Qwen3-VL-Embedding README (8B, 36 layers, 4096 dimensions); parameters by its name",
    ),
    # ---- pages: late interaction, and VisRAG
    KnownModel(
        name="vidore/colpali-v1.3-hf",
        family="colpali",
        summary="ColPali: a vector per page patch, compared by MaxSim",
        dim=128,
        parameters=2_920_000_000,
        licence="gemma",
        modalities=("page",),
        paper="2407.01449",
        is_multi_vector=True,
        source="mteb colpali_models.py (v1.3); licence: card of vidore/colpali-v1.3-merged, the same weights",
    ),
    KnownModel(
        name="vidore/colqwen2-v1.0-hf",
        family="colqwen2",
        summary="ColQwen2: ColPali's idea on Qwen2-VL-2B, pages in their own shape",
        dim=128,
        parameters=2_210_000_000,
        licence="mit",
        modalities=("page",),
        paper="2407.01449",
        is_multi_vector=True,
        source="mteb colqwen_models.py; licence: card of vidore/colqwen2-v1.0 (mteb says apache-2.0)",
    ),
    KnownModel(
        name="openbmb/VisRAG-Ret",
        family="visrag",
        summary="VisRAG's retriever on MiniCPM-V 2: page images, weighted mean of all positions",
        dim=2304,
        parameters=3_434_965_792,
        licence="apache-2.0",
        modalities=("page",),
        revision="95ef596df871b606167cb7e4b7215caf1bfdf761",
        paper="2410.10594",
        download_bytes=6_880_000_000,
        source="mteb (VisRAG-Ret); card (files)",
    ),
    # ---- two towers
    KnownModel(
        name="openai/clip-vit-base-patch32",
        family="clip",
        summary="CLIP; a clip is the mean of its frames, as in VideoCoCa's line",
        dim=512,
        parameters=151_000_000,
        revision="3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
        paper="2103.00020",
        modalities=("image", "clip"),
        download_bytes=605_000_000,
        has_pickled_weights=True,
        source="mteb clip_models.py (no licence stated); float32 files",
    ),
    KnownModel(
        name="openai/clip-vit-large-patch14",
        family="clip",
        summary="CLIP, the large one; a clip is the mean of its frames",
        dim=768,
        parameters=428_000_000,
        revision="32bd64288804d66eefd0ccbe215aa642df71cc41",
        paper="2103.00020",
        modalities=("image", "clip"),
        download_bytes=1_710_000_000,
        source="mteb clip_models.py (no licence stated); float32 files",
    ),
    KnownModel(
        name="google/siglip2-base-patch16-224",
        family="siglip",
        summary="SigLIP 2: many languages, small",
        dim=768,
        licence="apache-2.0",
        paper="2502.14786",
        modalities=("image", "clip"),
        source="card (licence, dimensions)",
    ),
    KnownModel(
        name="google/siglip2-so400m-patch14-384",
        family="siglip",
        summary="SigLIP 2 in the shape-optimised size",
        dim=1152,
        licence="apache-2.0",
        paper="2502.14786",
        modalities=("image", "clip"),
        source="card (licence, dimensions)",
    ),
    KnownModel(
        name="Salesforce/blip-itm-base-coco",
        family="blip",
        summary="BLIP's image-text contrastive vectors",
        dim=256,
        parameters=247_000_000,
        licence="bsd-3-clause",
        revision="7eaa90c11850c0b17fc38c6a11e7d88bd6ac231f",
        modalities=("image",),
        download_bytes=895_000_000,
        paper="2201.12086",
        has_pickled_weights=True,
        source="mteb blip_models.py; dimensions: `image_text_hidden_size` of its layout",
    ),
    KnownModel(
        name="microsoft/xclip-base-patch32",
        family="xclip",
        summary="X-CLIP: short videos as a whole, frames exchange messages (VideoCLIP's line)",
        dim=512,
        licence="mit",
        modalities=("clip",),
        paper="2208.02816",
        source="card (licence, config.json)",
    ),
    # ---- named, and not to be had
    KnownModel(
        name="Uni-Retrieval",
        family="",
        summary="Uni-Retrieval: queries in many styles for teaching material, prompt tuning over OpenCLIP",
        modalities=("image",),
        paper="2502.05863",
        why_not="its trained weights are not public; the research code (github.com/CuriseJia/ACL25-Uni-Retrieval) comes "
        "without a licence",
        source="the listing of that repository and of the paper's pages, read in November 2026",
    ),
)


def known_model(name: str) -> KnownModel | None:
    """The row of a hub name, whatever its case; also of the name without its owner, as a downloaded folder bears it."""
    wanted = name.lower()
    return _BY_NAME.get(wanted)


_BY_NAME = {name.lower(): row for row in KNOWN for name in (row.short_name, row.name)}
