"""VLM2Vec-V1 on Phi-3.5-vision (TIGER-Lab/VLM2Vec-Full): transformers' `Phi3Model` and `CLIPVisionModel`, joined as published.

The hub's own code for this model is never run; what joins the two is written here. Takes instructions, text, several pictures, with V1's
prompts (`vlm2vec_v1`); it was not trained on video: of a clip every frame is one tile and the whole of it.

A picture is scaled so that its longer side is as many tiles as may be (four tiles in all), its shorter side filled up to whole tiles
with white, and cut; the whole, squeezed into one tile, comes last. Four neighbouring features become one, a learned vector ends every
row, another parts tiles from the whole. `max_pixels` sets the number of tiles: four, as VLM2Vec-Full was trained and evaluated
(`--num_crops 4`, though its arguments' default is 16: `max_pixels=16 * 336 * 336` gives that).

Source: microsoft/Phi-3.5-vision-instruct `image_processing_phi3_v.py`, `image_embedding_phi3_v.py`; TIGER-AI-Lab/VLM2Vec
`src/model/baseline_backbone/phi3_v`, `src/model/processor.py` (`Phi3V_process_fn`), `examples/phi3_v/run_eval.sh`. The tests hold
numbers that the published code gave.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import nn

from mmsearch.embedders.checkpoints import checkpoint as files
from mmsearch.embedders.checkpoints.adapter_merging import merge_adapter
from mmsearch.embedders.checkpoints.opening import Opened
from mmsearch.embedders.checkpoints.pretrained import NEEDLESS, quiet
from mmsearch.embedders.families.vlm2vec_v1 import v1_final_prompt
from mmsearch.embedders.forward.fixed_pictures import CLIP_MEAN, CLIP_STD
from mmsearch.embedders.forward.vlm import Layout, VlmEmbedder
from mmsearch.errors import EmbedderError
from mmsearch.items import EmbedInput

MAX_CROPS = 4
TRAINED_TEXT_TOKENS = 256
LAYER = -2
"""Of the vision tower, whose output is used."""
HEAD_DIM = 64
"""Of CLIP's vision towers, all of them; nothing in a checkpoint says it."""

TEXT_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_act",
    "max_position_embeddings", "original_max_position_embeddings", "rms_norm_eps", "rope_theta",
)  # fmt: skip


class Phi3V(nn.Module):
    """The weights of `Phi3VForCausalLM` but for the language head; see `own_name` for what they are called here."""

    def __init__(self, text: Any, vision: Any) -> None:
        from transformers.models.clip.modeling_clip import CLIPVisionModel
        from transformers.models.phi3.modeling_phi3 import Phi3Model

        super().__init__()
        joined = 4 * vision.hidden_size
        self.language_model = Phi3Model(text)
        self.vision = CLIPVisionModel(vision)
        self.row_end = nn.Parameter(torch.empty(1, 1, 1, joined))
        self.between = nn.Parameter(torch.empty(1, 1, joined))
        self.projection = nn.Sequential(
            nn.Linear(joined, text.hidden_size), nn.GELU(), nn.Linear(text.hidden_size, text.hidden_size)
        )


def own_name(key: str) -> str:
    """The name of a published tensor or module in `Phi3V`."""
    key = key.removeprefix("model.")
    for theirs, ours in (
        ("vision_embed_tokens.img_processor.vision_model.", "vision."),
        ("vision_embed_tokens.img_projection.", "projection."),
        ("vision_embed_tokens.sub_GN", "row_end"),
        ("vision_embed_tokens.glb_GN", "between"),
    ):
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return f"language_model.{key}"


class Phi3VEmbedder(VlmEmbedder):
    image_token = "<|image_1|>"
    text_tokens = TRAINED_TEXT_TOKENS

    def build(self, opened: Opened) -> Phi3V:
        config = opened.config
        published = config.get("embd_layer") or {}
        if (order := published.get("hd_transform_order", "sub_glb")) != "sub_glb":
            raise EmbedderError(f"hd_transform_order {order!r} is not supported, only 'sub_glb'")
        tensors: files.Tensors = {}
        for path in opened.checkpoint.weight_files():
            if path.name != files.ADAPTER_WEIGHTS:
                tensors |= {
                    own_name(key): value
                    for key, value in files.read_tensors(path).items()
                    if not NEEDLESS.search(key) and not key.endswith("vision_embed_tokens.wte.weight")
                }
        adapter = opened.checkpoint.adapter
        if adapter is not None:
            lora = files.read_tensors(adapter / files.ADAPTER_WEIGHTS)
            merge_adapter(tensors, lora, files.read_json(adapter / files.ADAPTER_CONFIG), name_of=own_name)
        text, vision = text_config(config), vision_config(tensors)
        with torch.device("meta"):
            model = Phi3V(text, vision)
        # Computed, not stored: made again outside the meta device.
        model.language_model.rotary_emb = type(model.language_model.rotary_emb)(text).to(opened.device)
        embeddings: Any = model.vision.embeddings
        embeddings.position_ids = torch.arange(embeddings.num_positions, device=opened.device)[None]
        files.fill(model, opened.placed(tensors))
        return model.eval()

    @property
    def language_model(self) -> Any:
        return self.model.language_model

    def set_up(self, fields: Mapping[str, Any]) -> Any:
        vision = self.model.vision.config
        self.tile_px = vision.image_size
        self.tile_patches = (vision.image_size // vision.patch_size) ** 2 + 1
        self.joined_side = vision.image_size // vision.patch_size // 2
        self.most_pixels = MAX_CROPS * self.tile_px**2
        self.mean = tuple(fields.get("image_mean", CLIP_MEAN))
        self.std = tuple(fields.get("image_std", CLIP_STD))
        return [self.tile_px, MAX_CROPS]

    def prompt(self, item: EmbedInput) -> str:
        return v1_final_prompt(item)

    def length_class(self, length: int) -> int:
        """Other rotary frequencies hold for a whole batch if any of its rows is long."""
        return int(length > self.language_model.config.original_max_position_embeddings)

    def layout(self, size: tuple[int, int], max_pixels: int) -> Layout:
        """The plan is the (rows, columns) of tiles."""
        crops = max(1, max_pixels // self.tile_px**2)
        longer, shorter = max(size), min(size)
        along = tiles_along(longer / shorter, crops)
        across = max(1, math.ceil(int(along * self.tile_px / (longer / shorter)) / self.tile_px))
        rows, columns = (along, across) if size[0] < size[1] else (across, along)
        return Layout(rows * columns + 1, "", (rows, columns))

    def feature_count(self, layout: Layout) -> int:
        rows, columns = layout.plan
        side = self.joined_side
        return (rows * columns + 1) * side**2 + 1 + (rows + 1) * side

    def tiles(self, image: Image.Image, layout: Layout) -> np.ndarray:
        rows, columns = layout.plan
        tile = self.tile_px
        is_upright = image.width < image.height
        if is_upright:
            image = image.transpose(Image.Transpose.TRANSPOSE)
        width = max(rows, columns) * tile
        height = max(1, int(width / (image.width / image.height)))
        scaled = image.resize((width, height), Image.Resampling.BILINEAR)
        above = (min(rows, columns) * tile - height) // 2
        below = min(rows, columns) * tile - height - above
        filled = ImageOps.expand(scaled, (0, above, 0, below), "white")
        if is_upright:
            filled = filled.transpose(Image.Transpose.TRANSPOSE)
        pixels = np.asarray(filled, np.float32)
        whole = F.interpolate(torch.from_numpy(pixels).permute(2, 0, 1)[None], size=(tile, tile), mode="bicubic")
        cut = pixels.reshape(rows, tile, columns, tile, 3).swapaxes(1, 2).reshape(-1, tile, tile, 3)
        return np.concatenate([whole.permute(0, 2, 3, 1).numpy(), cut])

    def features(self, pixels: torch.Tensor, layouts: Sequence[Layout]) -> torch.Tensor:
        model = self.model
        states = model.vision(pixels, output_hidden_states=True).hidden_states[LAYER][:, 1:]
        joined = []
        for layout, own in zip(layouts, states.split([layout.tiles for layout in layouts]), strict=True):
            joined += [self._in_rows(own[1:], *layout.plan), model.between[0], self._in_rows(own[:1], 1, 1)]
        return model.projection(torch.cat(joined))

    def _in_rows(self, states: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """Tiles' features [rows * columns, patches, c] as [n, 4c]: every 2x2 block one, row by row of the picture, each with its end."""
        side = self.joined_side
        blocks = states.view(rows, columns, side, 2, side, 2, -1).permute(0, 2, 1, 4, 3, 5, 6)
        grid = blocks.reshape(rows * side, columns * side, -1)
        return torch.cat([grid, self.model.row_end[0, 0].expand(len(grid), 1, -1)], 1).flatten(0, 1)

    def expanded(self, prompt: str, layouts: Sequence[Layout]) -> tuple[list[int], list[int]]:
        """What lies between pictures is tokenised piece by piece, each with the tokenizer's beginning, as published."""
        if not layouts:
            return self.tokenizer.encode(prompt).ids, []
        first, *parts = re.split(re.escape(self.image_token), prompt, maxsplit=len(layouts))
        ids: list[int] = list(self.tokenizer.encode(first).ids)
        places: list[int] = []
        for layout, part in zip(layouts, parts, strict=True):
            count = self.feature_count(layout)
            places.extend(range(len(ids), len(ids) + count))
            ids += [0] * count + self.tokenizer.encode(part).ids
        return ids, places


def tiles_along(ratio: float, crops: int) -> int:
    """Tiles along the longer side of a picture `ratio` times as long as wide, so that all of it takes at most `crops`."""
    along = 1
    while (along + 1) * math.ceil((along + 1) / ratio) <= crops:
        along += 1
    return along


def text_config(config: Mapping[str, Any]) -> Any:
    """`Phi3Config` of a published config.json. Raises: EmbedderError: an option that is not computed here."""
    from transformers.models.phi3.configuration_phi3 import Phi3Config

    scaling = config.get("rope_scaling")
    if scaling is not None and scaling.get("type") not in ("su", "longrope"):
        raise EmbedderError(f"rope_scaling {scaling.get('type')!r} is not supported, only 'su'")
    fields: dict[str, Any] = {name: config[name] for name in TEXT_FIELDS if name in config}
    fields |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    fields["rope_scaling"] = None if scaling is None else {**scaling, "type": "longrope"}
    try:
        with quiet():
            return Phi3Config(**fields)
    except (TypeError, ValueError, KeyError) as error:
        raise EmbedderError(f"the configuration does not describe a Phi-3 model: {error}") from error


def vision_config(tensors: files.Tensors) -> Any:
    """The published code has CLIP ViT-L/14 at 336 pixels written into it; here its measures are read off the tensors.

    Raises: EmbedderError: no vision tower among them.
    """
    from transformers.models.clip.configuration_clip import CLIPVisionConfig

    embeddings, layer = "vision.embeddings.", "vision.encoder.layers."
    try:
        kernel = tensors[f"{embeddings}patch_embedding.weight"]
        positions = len(tensors[f"{embeddings}position_embedding.weight"])
        inner = len(tensors[f"{layer}0.mlp.fc1.weight"])
    except KeyError as error:
        raise EmbedderError(f"the checkpoint has no vision tower: {error} is missing") from error
    hidden, patch = kernel.shape[0], kernel.shape[-1]
    layers = {key.removeprefix(layer).partition(".")[0] for key in tensors if key.startswith(layer)}
    return CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=len(layers),
        num_attention_heads=max(1, hidden // HEAD_DIM),
        image_size=math.isqrt(positions - 1) * patch,
        patch_size=patch,
        hidden_act="quick_gelu",
    )
