"""Stage `join`: visual tokens beside text in the encoder's sequence. Only the projector, the places, and what an instruction gates are trained.

- Composed queries: a photo and "the same with a hat, without snow" are to find the photo that a caption pair leads to, among many.
- Pages: with the picture beside the text, a page is to mean what its text means; scanned ones have their own way (`Seeing`).
- Photos with their words: the sum of what is seen and what is read.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from mmsearch import prompts
from mmsearch.embedders.checkpoints.device import default_dtype
from mmsearch.embedders.forward.compact_vlm_inputs import PREFIX
from mmsearch.embedders.forward.compact_vlm_model import CompactVlm, mean_state
from mmsearch.evaluation.split import composed_queries
from mmsearch.items import KINDS
from mmsearch.training.assembly import settings as recipe
from mmsearch.training.assembly.grids import Grids
from mmsearch.training.assembly.material import Material
from mmsearch.training.assembly.pretrained_parts import BEGIN, END
from mmsearch.training.assembly.seeing import Texts
from mmsearch.training.assembly.steps import rate
from mmsearch.training.assembly.text_encoder import FULL, English

log = logging.getLogger(__name__)

INSTRUCTIONS = tuple(
    dict.fromkeys(
        table[kind]
        for table in (
            prompts.DOCUMENT_INSTRUCTIONS,
            prompts.TEXT_QUERY_INSTRUCTIONS,
            prompts.IMAGE_QUERY_INSTRUCTIONS,
            prompts.COMPOSED_QUERY_INSTRUCTIONS,
        )
        for kind in KINDS
    )
)
COMPOSED = prompts.COMPOSED_QUERY_INSTRUCTIONS["image"]
PAGE, PHOTO = prompts.DOCUMENT_INSTRUCTIONS["page"], prompts.DOCUMENT_INSTRUCTIONS["image"]
TEMPERATURE = 0.07
FURTHER_PHOTOS = 1500
PAGES, CAPTIONED = 4, 12
"""Examples a step beside its composed queries."""
PAGE_WEIGHT = 2.0
MOST_TOKENS = 192


class Sequences:
    """The encoder's sequences made from token ids and grids, as `CompactVlmEmbedder` makes them."""

    def __init__(self, model: CompactVlm, tokenizer: Tokenizer, english: English | None = None) -> None:
        self.model, self._tokenizer, self._english = model, tokenizer, english
        self._prefix = tokenizer.encode(PREFIX.rstrip()).ids

    def ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text).ids

    def one(self, ids: Sequence[int], grid: Tensor | None = None) -> Tensor:
        """Token embeddings [length, hidden]."""
        tokens = self.model.text.tokens(torch.tensor([BEGIN, *self._prefix, *ids, END]))
        if grid is None:
            return tokens
        at = 1 + len(self._prefix)
        return torch.cat([tokens[:at], self.model.visual_tokens(grid), tokens[at:]])

    def read(self, sequences: Sequence[Tensor], texts: Sequence[str]) -> Tensor:
        """float32 [n, size]: what the encoders make of them and of the texts in them."""
        lengths = torch.tensor([len(own) for own in sequences])
        padded = nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)
        mask = torch.arange(padded.shape[1]) < lengths[:, None]
        with torch.autocast("cpu", torch.bfloat16, enabled=default_dtype("cpu") == torch.bfloat16):
            state = mean_state(self.model.text(padded, mask), mask)
        own = self.model.out(state)
        if self._english is None or self.model.fusion is None:
            return own
        return self.model.fusion(state, F.normalize(own, dim=1), self._english(texts, MOST_TOKENS))

    @torch.no_grad()
    def told(self, instruction: str) -> Tensor:
        """float32 [hidden], unit length: what the encoder says of an instruction."""
        embedded = self.one(self.ids(instruction)).unsqueeze(0)
        states = self.model.text(embedded, torch.ones(embedded.shape[:2], dtype=torch.bool))
        return F.normalize(states[0].mean(0), dim=0)


def train_join(
    model: CompactVlm,
    sequences: Sequences,
    material: Material,
    grids: Grids,
    texts: Texts,
    settings: recipe.Join,
    rng: random.Random,
) -> None:
    """Train `projector`, `places`, `gate` and `mix` of a model whose other weights are final."""
    model.eval().requires_grad_(False)
    cells = grids.photos(0)
    side = math.isqrt(cells.shape[1])
    seen = _seen(model, cells)
    composed = composed_of_training(material, texts, settings.least_similarity)
    log.info("join: %d composed queries", len(composed))
    trained = [model.projector, model.places, model.gate, model.mix]
    _start(model, torch.from_numpy(cells[:64].astype(np.float32)).unflatten(1, (side, side)))
    told = _Told(sequences)
    for part in trained:
        part.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        [weight for part in trained for weight in part.parameters()], lr=0.0, weight_decay=0.01
    )
    photos = [n for n, photo in enumerate(material.photos) if photo.set_name == "flickr8k" and not photo.development]
    pages = [n for n, page in enumerate(material.pages) if not page.development and len(page.text.split()) >= 8]
    words = {n: material.pages[n].text.split()[:150] for n in pages}

    def grid(number: int) -> Tensor:
        return torch.from_numpy(cells[number].astype(np.float32)).view(1, side, side, -1)

    def joined(read: Tensor, own: Tensor, instruction: str) -> Tensor:
        return model.joined(read, own, told(instruction).expand(len(read), -1))

    def composed_loss() -> Tensor:
        some = rng.sample(composed, settings.batch)
        read = sequences.read(
            [sequences.one(sequences.ids(text), grid(of)) for of, text, _ in some], [text for _, text, _ in some]
        )
        asked = joined(read, seen[[of for of, _, _ in some]], COMPOSED)
        targets = torch.tensor([target for _, _, target in some])
        rows = torch.cat([targets, torch.tensor(rng.choices(photos, k=FURTHER_PHOTOS))])
        scores = asked @ seen[rows].T / TEMPERATURE
        known = torch.arange(len(some))
        no_answer = (rows == torch.tensor([of for of, _, _ in some])[:, None]) | (rows == targets[:, None])
        no_answer[known, known] = False
        return F.cross_entropy(scores.masked_fill(no_answer, FULL), known)

    def page_loss() -> Tensor:
        some = rng.sample(pages, PAGES)
        texts = [" ".join(words[n][: rng.choice((30, 75, 140))]) for n in some]
        ids = [sequences.ids(text)[: MOST_TOKENS - 12] for text in texts]
        own = [grids.page(n) for n in some]
        with torch.no_grad():
            alone = F.normalize(sequences.read([sequences.one(row) for row in ids], texts), dim=1)
            looked = torch.cat([model.seeing(model.seeing.pooled(one.flatten(1, 2))) for one in own])
        read = sequences.read([sequences.one(row, one) for row, one in zip(ids, own, strict=True)], texts)
        return 1 - (joined(read, looked, PAGE) * alone).sum(1).mean()

    def captioned_loss() -> Tensor:
        some = rng.choices(photos, k=CAPTIONED)
        rows = [rng.choice([one.row for one in material.said.photos[n] if one.language == "en"]) for n in some]
        said = [material.said.texts[row] for row in rows]
        read = sequences.read(
            [sequences.one(sequences.ids(text), grid(n)) for text, n in zip(said, some, strict=True)], said
        )
        wanted = F.normalize(texts.vectors[rows] + seen[some], dim=1)
        return 1 - (joined(read, seen[some], PHOTO) * wanted).sum(1).mean()

    started, losses = time.monotonic(), []
    for step in range(1, settings.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate(step, settings.steps, warmup=20)
        three = composed_loss(), page_loss(), captioned_loss()
        loss = three[0] + PAGE_WEIGHT * three[1] + three[2]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append([float(one.detach()) for one in three])
        if step % 20 == 0:
            means = np.mean(losses[-20:], 0).round(3).tolist()
            took = (time.monotonic() - started) / step
            log.info("join %d of %d: composed, pages, captioned %s, %.1f s a step", step, settings.steps, means, took)
    told.fold_into(model)
    model.requires_grad_(False)


class _Told:
    """What is said of instructions, centred and spread out for training, since all of them sound alike to the encoder."""

    def __init__(self, sequences: Sequences) -> None:
        told = torch.stack([sequences.told(instruction) for instruction in INSTRUCTIONS])
        self._mean = told.mean(0)
        self._scale = 1 / (told - self._mean).norm(dim=1).mean()
        self._rows = dict(zip(INSTRUCTIONS, (told - self._mean) * self._scale, strict=True))

    def __call__(self, instruction: str) -> Tensor:
        return self._rows[instruction]

    @torch.no_grad()
    def fold_into(self, model: CompactVlm) -> None:
        """From now on `gate` and `mix` take what is said as it is."""
        for part in (model.gate, model.mix):
            part.bias.sub_(part.weight @ (self._mean * self._scale))
            part.weight.mul_(self._scale)


@torch.no_grad()
def _start(model: CompactVlm, grids: Tensor) -> None:
    """Visual tokens begin as long as words, places small, and instructions without effect."""
    nn.init.normal_(model.projector.weight, std=0.02)
    nn.init.zeros_(model.projector.bias)
    nn.init.normal_(model.places.weight, std=0.01)
    words = model.text.tokens(torch.randint(5, 60_000, (4000,))).norm(dim=1).mean()
    visual = torch.cat([model.visual_tokens(grid.unsqueeze(0)) for grid in grids]).norm(dim=1).mean()
    model.projector.weight.mul_(words / visual)
    for part in (model.gate, model.mix, model.shift):
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)


@torch.no_grad()
def _seen(model: CompactVlm, cells: np.ndarray) -> Tensor:
    """float32 [photos, hidden], unit length."""
    found = []
    for start in range(0, len(cells), 512):
        some = torch.from_numpy(cells[start : start + 512].astype(np.float32))
        found.append(F.normalize(model.seeing(model.seeing.pooled(some)), dim=1))
    return torch.cat(found)


def composed_of_training(material: Material, texts: Texts, least: float) -> list[tuple[int, str, int]]:
    """(photo, what is different, the other photo), made from captions as the development split's are."""
    photos = [n for n, photo in enumerate(material.photos) if photo.set_name == "flickr8k" and not photo.development]
    told = [(place, one.row) for place, n in enumerate(photos) for one in material.said.photos[n][:3]]
    captions = [(material.said.texts[row], place) for place, row in told]
    queries = composed_queries(
        captions, _Similarity(texts.vectors[[row for _, row in told]].numpy()), least=least, per_photo=4
    )
    return [(photos[query.reference], query.text, photos[query.target]) for query in queries]


class _Similarity:
    """Rows of a table of cosines too large to keep."""

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = vectors

    def __getitem__(self, row: int) -> np.ndarray:
        return self._vectors @ self._vectors[row]
