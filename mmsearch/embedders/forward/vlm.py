"""Any vision-language model of transformers as an embedder, after VLM2Vec: its prompts, its pictures, the last token's last state.

What is the same for all of them is here: prompts, token ids, batches, the pass through the language model. A backbone is one
small file that says which model it is, how a picture is cut into tiles, what stands for it in the prompt, and how tiles become
features; see `families/vlm2vec_idefics3` for the example and README.md for the steps.

Rows of a batch are padded at the end and nothing is masked: attention looks back only, so no token sees the padding. No language
head, no cache; of a batch the tiles go through the vision tower together.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from mmsearch.embedders.checkpoints.checkpoint import load_tokenizer
from mmsearch.embedders.checkpoints.opening import Opened, OpensCheckpoints, match_scales, model_key
from mmsearch.embedders.checkpoints.pretrained import picture_fields, pretrained
from mmsearch.embedders.forward.batching import batches_by_cost, in_halves, made_ahead, padded
from mmsearch.embedders.forward.fixed_pictures import normalised
from mmsearch.embedders.forward.qwen2vl_inputs import first_tokens
from mmsearch.errors import EmbedderError
from mmsearch.items import EmbedInput, Kind, MatchScale
from mmsearch.prompts import IMAGE_TOKEN, VIDEO_TOKEN, final_prompt

POSITIONS_PER_BATCH = {"cpu": 4096, "cuda": 32768}
"""Patches and tokens together."""


@dataclass(frozen=True)
class Layout:
    """How a picture of some size is cut, known without its pixels.

    Attributes:
        tiles: pictures that the vision tower sees of it.
        text: what stands for it in the prompt, with the model's image token once for each of its features.
        plan: what `VlmEmbedder.tiles` and `features` of the family need to know.
    """

    tiles: int
    text: str
    plan: Any = None


@dataclass(frozen=True)
class Row:
    """A prompt ready for the model.

    Attributes:
        ids: with every picture's token repeated.
        places: where in `ids` the features of its pictures belong, in order.
        pictures: with their layouts.
    """

    ids: list[int]
    places: list[int]
    pictures: tuple[tuple[Image.Image, Layout], ...]


class VlmEmbedder(OpensCheckpoints):
    """An embedder over a vision-language model; implements `mmsearch.embedders.Embedder`.

    Attributes:
        image_token: what stands for a picture in this model's prompts.
        image_id: its id.
        text_tokens: of an input's text, that the model is given at most.
        mean, std: of pixels, by channel.
        tile_px: side of the squares that the vision tower sees.
        tile_patches: positions of a tile in the vision tower.
        most_pixels: of a picture, as far as the model can use them.
        sidecar: the content of mmsearch.json, {} if there is none.
    """

    image_token: ClassVar[str] = "<image>"
    text_tokens: ClassVar[int] = 2048
    preprocessing_version: ClassVar[int] = 1
    """Goes into the model key: raise it whenever the same input would give other ids or pixels."""

    image_id: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tile_px: int
    tile_patches: int
    most_pixels: int
    model_key: str
    max_pixels: Mapping[Kind, int]
    match_scale: Mapping[str, MatchScale]

    def __init__(self, opened: Opened, *, max_pixels: int | None) -> None:
        """Use `load`."""
        self.model = self.build(opened)
        self.tokenizer = load_tokenizer(opened.checkpoint)
        self.name = opened.name
        self.device = opened.device
        self.page_text = bool(opened.sidecar.get("page_text", False))
        self.match_scale = match_scales(opened.sidecar)
        self.sidecar = opened.sidecar
        pictures = self.set_up(picture_fields(opened))
        self.dim = int(self.language_model.config.hidden_size)
        budgets = opened.max_pixels(max_pixels, self.most_pixels)
        self.max_pixels = {**budgets, "clip": min(budgets["clip"], self.tile_px**2)}
        documents = [
            self.prompt(item) for item in (EmbedInput("I", "t"), EmbedInput("I", "t", (Image.new("RGB", (9, 9)),)))
        ]
        self.model_key = model_key(
            self.name,
            {
                "checkpoint": opened.checkpoint.sha256(),
                "family": type(self).__name__,
                "preprocessing": self.preprocessing_version,
                "documents": documents,
                "pictures": [self.mean, self.std, pictures],
                "page_text": self.page_text,
                "max_pixels": self.max_pixels,
            },
        )

    @classmethod
    def of_checkpoint(cls, opened: Opened, *, min_pixels: int | None, max_pixels: int | None) -> Self:
        """`max_pixels` bounds how many tiles a picture is cut into. Small pictures are enlarged as the model's own processor does:
        `min_pixels` has no effect.
        """
        return cls(opened, max_pixels=max_pixels)

    # What a backbone says

    def build(self, opened: Opened) -> Any:
        """The model, in evaluation mode on its device."""
        return pretrained(self.architecture(opened.config), opened)

    @staticmethod
    def architecture(config: Mapping[str, Any]) -> Any:
        """The class of transformers, without language head."""
        raise NotImplementedError

    @property
    @abstractmethod
    def language_model(self) -> Any:
        """The part of `model` that reads embedded tokens."""

    @abstractmethod
    def set_up(self, fields: Mapping[str, Any]) -> Any:
        """Set the attributes above from `model.config` and the fields of preprocessor_config.json.

        Returns what of them decides a vector, beside mean and deviation (JSON values).
        """

    @abstractmethod
    def layout(self, size: tuple[int, int], max_pixels: int) -> Layout:
        """For a picture of `size` (width, height). With a budget of `tile_px` squared it is one tile: so are frames given."""

    @abstractmethod
    def tiles(self, image: Image.Image, layout: Layout) -> np.ndarray:
        """[layout.tiles, tile_px, tile_px, 3] of 0…255, uint8 or float32. `image` is RGB."""

    @abstractmethod
    def features(self, pixels: torch.Tensor, layouts: Sequence[Layout]) -> torch.Tensor:
        """Features of all pictures one after the other, [n, hidden], from their tiles, normalised [tiles, 3, tile_px, tile_px]."""

    def prompt(self, item: EmbedInput) -> str:
        """The final string, with the placeholders of `mmsearch.prompts`. VLM2Vec-V2's, unless the model was trained with another."""
        return final_prompt(
            item.instruction,
            item.text,
            image_count=0 if item.is_video else len(item.images),
            is_video=item.is_video,
        )

    def expanded(self, prompt: str, layouts: Sequence[Layout]) -> tuple[list[int], list[int]]:
        """Ids of a prompt, its first image tokens replaced by what stands for the pictures; and the places of their features.

        Image tokens beyond that keep their own embedding, as in the reference.
        """
        before, *parts = prompt.split(self.image_token)
        stand_ins = [layout.text for layout in layouts] + [self.image_token] * (len(parts) - len(layouts))
        text = before + "".join(stand_in + part for stand_in, part in zip(stand_ins, parts, strict=True))
        ids = self.tokenizer.encode(text).ids
        count = sum(layout.text.count(self.image_token) for layout in layouts)
        return ids, [place for place, token in enumerate(ids) if token == self.image_id][:count]

    def length_class(self, length: int) -> int:
        """Prompts of different classes never share a batch, for models that compute otherwise from some length on."""
        return 0

    # What is the same for all

    def encode_queries(self, inputs: Sequence[EmbedInput]) -> np.ndarray:
        """float32 [len(inputs), dim], unit length, finite, in the order given."""
        return self._encode(inputs)

    def encode_documents(self, inputs: Sequence[EmbedInput]) -> np.ndarray:
        """float32 [len(inputs), dim], unit length, finite, in the order given. The two sides differ by their instructions only."""
        return self._encode(inputs)

    def _encode(self, inputs: Sequence[EmbedInput]) -> np.ndarray:
        return self.embed_prompts(
            [self.prompt(self._shortened(item)) for item in inputs],
            [item.images or None for item in inputs],
            [item.is_video for item in inputs],
            max_pixels=[self.max_pixels[item.kind] for item in inputs],
        )

    def _shortened(self, item: EmbedInput) -> EmbedInput:
        text = first_tokens(self.tokenizer, item.text, self.text_tokens) if item.text else ""
        return EmbedInput(item.instruction, text, item.images, item.is_video, item.kind)

    def embed_prompts(
        self,
        prompts: Sequence[str],
        images: Sequence[Sequence[Image.Image] | None],
        is_video: Sequence[bool],
        *,
        max_pixels: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Embed final strings as they are.

        Args:
            prompts: complete, with one `<|image_pad|>` (or the model's own token) per image, or one `<|video_pad|>`.
            images: per prompt its images in order, or the frames of its video, or None. A frame is always one tile.
            is_video: whether those images are frames.
            max_pixels: per prompt; the model's own budget if None.

        Returns:
            float32 [len(prompts), dim], unit length, in the order given.

        Raises:
            EmbedderError: more images than visual tokens, an empty prompt, an output that is not finite.
        """
        budgets = [self.max_pixels["image"]] * len(prompts) if max_pixels is None else max_pixels
        rows = [
            self.row(prompt, visuals or (), video, budget)
            for prompt, visuals, video, budget in zip(prompts, images, is_video, budgets, strict=True)
        ]
        vectors = np.empty((len(rows), self.dim), np.float32)
        batches = self._batches(rows)

        def pixels_of(batch: Sequence[int]) -> dict[int, np.ndarray]:
            return {row: self._pixels(rows[row]) for row in batch if rows[row].pictures}

        for batch, pixels in zip(batches, made_ahead(pixels_of, batches), strict=True):

            @torch.no_grad()
            def compute(some: Sequence[int], pixels: dict[int, np.ndarray] = pixels) -> np.ndarray:
                return (
                    self.forward([rows[row] for row in some], [pixels[row] for row in some if row in pixels])
                    .cpu()
                    .numpy()
                )

            vectors[batch] = in_halves(compute, batch, device=self.device)
        finite = np.isfinite(vectors).all(1)
        if not finite.all():
            raise EmbedderError(f"the model's output for input {int(np.flatnonzero(~finite)[0])} is not finite")
        return vectors

    def row(self, prompt: str, visuals: Sequence[Image.Image], is_video: bool, max_pixels: int) -> Row:
        """Tokenise a prompt and lay out its pictures; no pixel is looked at."""
        if is_video:
            prompt = prompt.replace(VIDEO_TOKEN, self.image_token * len(visuals), 1)
            max_pixels = min(max_pixels, self.tile_px**2)
        prompt = prompt.replace(IMAGE_TOKEN, self.image_token)
        layouts = [self.layout(image.size, max_pixels) for image in visuals]
        if (found := prompt.count(self.image_token)) < len(layouts):
            raise EmbedderError(f"a prompt has {len(layouts)} visuals but only {found} visual tokens")
        ids, places = self.expanded(prompt, layouts)
        if not ids:
            raise EmbedderError("an empty prompt cannot be embedded")
        return Row(ids, places, tuple(zip(visuals, layouts, strict=True)))

    def _batches(self, rows: Sequence[Row]) -> list[list[int]]:
        budget = POSITIONS_PER_BATCH["cuda" if self.device.startswith("cuda") else "cpu"]
        alike: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            alike.setdefault(self.length_class(len(row.ids)), []).append(index)
        batches = []
        for members in alike.values():
            tiles = [sum(layout.tiles for _, layout in rows[index].pictures) for index in members]
            # Rows of like length together: the tokens come first in the order, the vision tower needs no padding.
            costs = [
                (len(rows[index].ids), count * self.tile_patches) for index, count in zip(members, tiles, strict=True)
            ]
            batches += [[members[place] for place in batch] for batch in batches_by_cost(costs, budget)]
        return batches

    def _pixels(self, row: Row) -> np.ndarray:
        return np.concatenate([self.tiles(image.convert("RGB"), layout) for image, layout in row.pictures])

    def forward(self, rows: Sequence[Row], pixels: Sequence[np.ndarray]) -> torch.Tensor:
        """Embeddings [len(rows), dim]: float32, unit length.

        Args:
            pixels: the tiles of every row that has pictures, in order.
        """
        ids, _ = padded([row.ids for row in rows], 0)
        states = self.language_model.get_input_embeddings()(ids.to(self.device))
        if pixels:
            tiles = torch.from_numpy(np.concatenate(pixels)).to(self.device)
            seen = self.features(
                normalised(tiles, self.mean, self.std).to(states.dtype),
                [layout for row in rows for _, layout in row.pictures],
            )
            places = [place * ids.shape[1] + own for place, row in enumerate(rows) for own in row.places]
            flat = states.flatten(0, 1).index_copy(0, torch.tensor(places, device=self.device), seen.to(states.dtype))
            states = flat.view(states.shape)
        states = self.language_model(inputs_embeds=states, use_cache=False).last_hidden_state
        last = torch.tensor([len(row.ids) - 1 for row in rows], device=self.device)
        return F.normalize(states[torch.arange(len(rows), device=self.device), last].float(), dim=-1)
