"""Stage `fuse`: from what both text encoders say to one vector, in closed form. Both are final, so each text is read once.

- Which texts are English: a logistic regression on the multilingual encoder's states.
- What MiniLM would say of a text in another language: ridge regression, on English texts and on texts whose English twin MiniLM reads.
- The vector: the principal axes of both vectors end to end.

Training the fusion on pairs by InfoNCE made it worse (LOG.md).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsearch.embedders.forward.compact_vlm_model import Fusion
from mmsearch.training.assembly.material import TRANSLATIONS, WRITTEN_LANGUAGES, Material, Pair
from mmsearch.training.assembly.text_encoder import English, Reader, in_turn
from mmsearch.training.datasets.shared_material import is_development

log = logging.getLogger(__name__)

OWN = 0.6
"""The weight of the multilingual encoder's cosine, MiniLM's has the rest. On the development split's questions the sum of both is worth more than
either (nDCG@5 0.50 and 0.50 alone, 0.56 together; LOG.md)."""
RIDGE = 1e-5
DECAY = 1e-3
"""Of the logistic regression's weights."""
CAPTIONS = 2000


@dataclass(frozen=True)
class Examples:
    """Texts, each once. Attributes: twins: numbers of a text in another language and of its English twin."""

    texts: list[str]
    is_english: list[bool]
    twins: list[tuple[int, int]]


def examples(material: Material, drawn: Sequence[Pair], rng: random.Random) -> Examples:
    """English pairs as drawn, the written queries in all languages with their passages, and captions with their translations."""
    rows: dict[str, int] = {}
    is_english: list[bool] = []

    def number(text: str, *, english: bool = True) -> int:
        if text not in rows:
            rows[text] = len(rows)
            is_english.append(english)
        return rows[text]

    for pair in drawn:
        for text in pair:
            number(text)
    twins = []
    for row in material.written:
        number(row["passage"])
        twins += [(number(row[code], english=False), number(row["en"])) for code in WRITTEN_LANGUAGES]
    captions = [row for row in material.translations if not is_development(row["orig"])]
    for row in rng.sample(captions, min(CAPTIONS, len(captions))):
        code = rng.choice([code for code in TRANSLATIONS if row.get(code)])
        twins.append((number(row[code], english=False), number(row["en"])))
    return Examples(list(rows), is_english, twins)


@dataclass(frozen=True)
class Read:
    """Texts as both encoders read them.

    Attributes:
        states: float32 [n, hidden], mean states of the multilingual encoder. own: [n, hidden], unit length, its map of them.
        english: [n, hidden of MiniLM], unit length. is_english: bool [n]. twins: int64 [t, 2], as in `Examples`.
    """

    states: Tensor
    own: Tensor
    english: Tensor
    is_english: Tensor
    twins: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, reader: Reader, english: English, some: Examples, most_tokens: int) -> Read:
        states = in_turn(lambda texts: reader.states(texts, most_tokens, parts=1), some.texts)
        told = in_turn(lambda texts: english(texts, most_tokens), some.texts)
        own = F.normalize(reader.out(states), dim=1)
        return cls(states, own, told, torch.tensor(some.is_english), torch.tensor(some.twins).view(-1, 2))


def fused(read: Read, size: int) -> Fusion:
    """The fusion of these encoders, whose vectors have `size` dimensions."""
    fusion = Fusion(read.states.shape[1], read.english.shape[1], size)
    tell_english(fusion.is_english, read)
    own, english = read.own[read.is_english], read.english[read.is_english]
    with torch.no_grad():
        mean = english.mean(0)
        foreign, twin = read.twins.T
        known = torch.cat([own, read.own[foreign]])
        wanted = torch.cat([english, read.english[twin]]) - mean
        gram = known.T @ known / len(known) + RIDGE * torch.eye(known.shape[1])
        fusion.guess.weight.copy_(torch.linalg.solve(gram, known.T @ wanted / len(known)).T)
        fusion.guess.bias.copy_(mean)
        weight = torch.tensor([OWN**0.5] * own.shape[1] + [(1 - OWN) ** 0.5] * english.shape[1])
        whole = torch.cat([own, english], 1) * weight
        middle = whole.mean(0)
        axes = torch.linalg.svd(whole - middle, full_matrices=False)[2][:size]
        fusion.joint.weight.copy_(axes * weight)
        fusion.joint.bias.copy_(-axes @ middle)
    return fusion.requires_grad_(False).eval()


def tell_english(layer: nn.Linear, read: Read, *, steps: int = 400) -> None:
    """Set `layer`, whose sigmoid says how likely a text is English, from states; both answers weigh the same."""
    mean, spread = read.states.mean(0), read.states.std(0)
    states, answers = (read.states - mean) / spread, read.is_english.float()
    share = answers.mean()
    weights = torch.where(read.is_english, 0.5 / share, 0.5 / (1 - share))
    told = nn.Linear(states.shape[1], 1)
    nn.init.zeros_(told.weight)
    nn.init.zeros_(told.bias)
    optimizer = torch.optim.AdamW(told.parameters(), lr=0.01, weight_decay=DECAY)
    for _ in range(steps):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(told(states).squeeze(1), answers, weights).backward()
        optimizer.step()
    with torch.no_grad():
        layer.weight.copy_(told.weight / spread)
        layer.bias.copy_(told.bias - layer.weight @ mean)
        right = ((layer(read.states).squeeze(1) > 0) == read.is_english).float().mean()
    log.info("fuse: English is told from other languages in %.4f of %d texts", float(right), len(answers))


def said(reader: Reader, english: English, fusion: Fusion, texts: Sequence[str], most_tokens: int) -> Tensor:
    """Unit vectors float32 [n, size] of texts."""
    states = reader.states(texts, most_tokens, parts=1)
    own = F.normalize(reader.out(states), dim=1)
    return F.normalize(fusion(states, own, english(texts, most_tokens)), dim=1)
