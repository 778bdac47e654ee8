"""Stages `trunk` and `seeing`: from pictures to the vectors of what is said of them.

Texts are frozen here, so a step costs one side only and thousands of further texts serve as negatives. `seeing` trains the head alone on
grids that were computed once. `trunk` trains the network's last blocks with it, on pictures that are varied differently each time.

The network's classifier knows a thousand classes, and the text encoder their names. Both are put into the model as they are (`know_classes`):
what the head learns is added to the names of the classes that a picture probably shows.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsearch.embedders.checkpoints.device import default_dtype
from mmsearch.embedders.forward.compact_vlm_model import HEAD, EfficientNetLite, Seeing
from mmsearch.training.assembly import settings as recipe
from mmsearch.training.assembly.grids import cells_of, pixels, viewed
from mmsearch.training.assembly.material import Material, Said
from mmsearch.training.assembly.pretrained_parts import Classifier
from mmsearch.training.assembly.steps import Averaged, rate, saved
from mmsearch.training.assembly.text_encoder import FULL

log = logging.getLogger(__name__)

BANK = 3072
"""Further texts that a step's pictures are told apart from."""
SAME_TEXT = 0.9
"""Texts of this cosine say the same: neither is a wrong answer for the other's picture."""
CLIPS = "clips"
NAME_STRENGTH = 15.0
"""Length of a name's vector beside what the head learns. Chosen on the development split: with 1.5, 6 and 15 the name of a class finds its
picture (R@10 of 1,000, by a head trained on captions alone) in 0.32, 0.74 and 0.82 of cases, captions their photos in 0.648, 0.645, 0.644."""
NAME_SHARPNESS = 1.5
"""Of the classifier's logits. With 1 instead: 0.82 where 1.5 gives 0.85."""


class Head(nn.Module):
    """`Seeing` under training, with what only training needs: dropout and a temperature.

    Attributes:
        gate: [hidden], by how much more (or less) each coordinate of a text counts when pictures are sought; becomes the model's gate.
    """

    def __init__(self, seeing: Seeing) -> None:
        super().__init__()
        self.seeing = seeing
        nn.init.zeros_(seeing.score.weight)
        nn.init.zeros_(seeing.score.bias)
        self.sharpness = nn.Parameter(torch.tensor(1 / 0.06).log())
        self.gate = nn.Parameter(torch.zeros(seeing.linear.out_features))
        for part in (seeing.norm, seeing.classes, seeing.names):
            if part is not None:
                part.requires_grad_(False)

    def forward(self, pooled: Tensor) -> Tensor:
        """Unit vectors float32 [n, hidden] of pooled cells [n, 1280]."""
        own, is_training = self.seeing, self.training
        deep = F.gelu(own.inner(F.dropout(pooled, 0.2, is_training)))
        seen = own.linear(F.dropout(pooled, 0.1, is_training)) + own.deep(F.dropout(deep, 0.3, is_training))
        return F.normalize(seen + own.named(pooled), dim=1)

    def told(self, texts: Tensor) -> Tensor:
        """Unit vectors of texts as queries for pictures."""
        return F.normalize(texts * (1 + self.gate), dim=-1)


@dataclass(frozen=True)
class Texts:
    """Unit vectors float32 [texts, hidden] of all texts, and the rows that training may use."""

    vectors: Tensor
    train: Tensor

    def loss(self, head: Head, seen: Tensor, own: Tensor) -> Tensor:
        """InfoNCE both ways of `seen` [n, hidden] against texts number `own` [n] and a bank of others."""
        count = len(own)
        rows = torch.cat([own, self.train[torch.randint(len(self.train), (BANK,))]])
        candidates = self.vectors[rows]
        scores = seen @ head.told(candidates).T * head.sharpness.exp()
        target = torch.arange(count)
        alike = candidates[:count] @ candidates.T > SAME_TEXT
        alike[target, target] = False
        scores = scores.masked_fill(alike, FULL)
        return (F.cross_entropy(scores, target) + F.cross_entropy(scores[:, :count].T, target)) / 2


class Draws:
    """Which picture comes next, and which of its texts: sets by their shares, foreign captions and names now and then."""

    def __init__(self, material: Material, shares: dict[str, float], foreign: float, rng: random.Random) -> None:
        photos, said = material.photos, material.said
        self._rng, self._foreign = rng, foreign
        self._members: dict[str, list[int]] = {}
        for number, (photo, own) in enumerate(zip(photos, said.photos, strict=True)):
            if own and not photo.development:
                self._members.setdefault(photo.set_name, []).append(number)
        clips = zip(material.clips, said.clips, strict=True)
        self._members[CLIPS] = [number for number, (clip, own) in enumerate(clips) if own and not clip.development]
        self._said = said
        self._names = [name for name in shares if self._members.get(name)]
        self._shares = [shares[name] for name in self._names]

    def sets(self, count: int) -> list[str]:
        return self._rng.choices(self._names, self._shares, k=count)

    def one(self, name: str) -> tuple[int, int]:
        """A record of a set, and the row of one of its texts."""
        number = self._rng.choice(self._members[name])
        return number, self._text((self._said.clips if name == CLIPS else self._said.photos)[number])

    def _text(self, own: Sequence[Said]) -> int:
        english = [said.row for said in own if said.language == "en"]
        others = [said.row for said in own if said.language != "en"]
        is_other = others and (not english or self._rng.random() < self._foreign)
        return self._rng.choice(others if is_other else english)


def train_seeing(
    head: Head,
    photos: Sequence[np.ndarray],
    clips: np.ndarray,
    draws: Draws,
    texts: Texts,
    settings: recipe.Seeing,
    rng: random.Random,
) -> None:
    """Train the head on grids, to its averaged weights.

    Args:
        photos: per view float16 [photos, cells, 1280]. clips: float16 [clips, frames, cells, 1280].
    """
    head.train()
    trained = [weight for weight in head.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.1)
    average = Averaged(trained)
    started, losses = time.monotonic(), []
    for step in range(1, settings.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate(step, settings.steps, warmup=30)
        pooled, rows = _drawn(head, photos, clips, draws, settings, rng)
        loss = texts.loss(head, head(pooled), rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(step)
        losses.append(float(loss.detach()))
        if step % 100 == 0:
            took = (time.monotonic() - started) / step
            log.info("seeing %d of %d: loss %.3f, %.2f s a step", step, settings.steps, np.mean(losses[-100:]), took)
    average.keep()
    head.eval()


def _drawn(
    head: Head,
    photos: Sequence[np.ndarray],
    clips: np.ndarray,
    draws: Draws,
    settings: recipe.Seeing,
    rng: random.Random,
) -> tuple[Tensor, Tensor]:
    """Pooled cells [batch, 1280] and the rows of their texts, set by set."""
    names = draws.sets(settings.batch)
    of_photos = [draws.one(name) for name in names if name != CLIPS]
    of_clips = [draws.one(CLIPS) for name in names if name == CLIPS]

    grids = np.stack([photos[rng.randrange(len(photos))][number] for number, _ in of_photos]).astype(np.float32)
    cells = _part(torch.from_numpy(grids), rng) if rng.random() < settings.parts else torch.from_numpy(grids)
    pooled = [_cut_together(head.seeing.pooled(cells + 0.05 * torch.randn_like(cells)), settings.cut_together)]
    rows = [torch.tensor([row for _, row in of_photos])]
    if of_clips:
        frames = np.sort(np.random.default_rng(rng.getrandbits(32)).choice(clips.shape[1], rng.randint(3, 8), False))
        some = np.stack([clips[number][frames] for number, _ in of_clips]).astype(np.float32)
        each = head.seeing.pooled(torch.from_numpy(some).flatten(0, 1))
        pooled.append(each.view(len(of_clips), len(frames), HEAD).mean(1))
        rows.append(torch.tensor([row for _, row in of_clips]))
    return torch.cat(pooled), torch.cat(rows)


def _part(cells: Tensor, rng: random.Random) -> Tensor:
    """A rectangle of the photos' cells [n, count, 1280], as if they were cut out: at least three fifths of each side."""
    side = math.isqrt(cells.shape[1])
    wide, high = (rng.randint(math.ceil(0.6 * side), side) for _ in range(2))
    left, top = rng.randint(0, side - wide), rng.randint(0, side - high)
    return cells.unflatten(1, (side, side))[:, top : top + high, left : left + wide].flatten(1, 2)


def _cut_together(pooled: Tensor, share: float) -> Tensor:
    """Some of the photos stand beside another for 15 to 50 % of the frames, as in a clip that is cut; a clip's frames are averaged."""
    count = len(pooled)
    weight = torch.where(torch.rand(count) < share, torch.rand(count) * 0.35 + 0.15, torch.zeros(count)).unsqueeze(1)
    return pooled * (1 - weight) + pooled[torch.randperm(count)] * weight


@torch.no_grad()
def know_classes(seeing: Seeing, features: Tensor, classifier: Classifier, names: Tensor) -> None:
    """Put the network's classifier and the names of its classes into `seeing`, whose norm is as it began.

    Args:
        features: float32 [n, 1280], the network's mean features of all sorts of pictures.
        names: float32 [classes, hidden], what the text encoder says of each class.
    """
    if seeing.classes is None or seeing.names is None:
        raise ValueError("the configuration says nothing of classes")
    spread = NAME_SHARPNESS * features.std(1).mean()
    seeing.classes.weight.copy_((classifier.weight - classifier.weight.mean(0)) * spread)
    seeing.classes.bias.copy_((classifier.bias - classifier.bias.mean()) * NAME_SHARPNESS)
    seeing.names.weight.copy_(NAME_STRENGTH * F.normalize(names - names.mean(0), dim=1).T)


@torch.no_grad()
def averaged(seeing: Seeing, grids: np.ndarray, *, batch: int = 512) -> np.ndarray:
    """float16 [..., 1, 1280]: each picture's cells float16 [..., cells, 1280] made one, as `seeing` pools them."""
    flat = grids.reshape(-1, *grids.shape[-2:])
    found = np.empty((len(flat), 1, HEAD), np.float16)
    for at in range(0, len(flat), batch):
        found[at : at + batch, 0] = seeing.averaged(torch.from_numpy(flat[at : at + batch].astype(np.float32))).numpy()
    return found.reshape(*grids.shape[:-2], 1, HEAD)


@torch.no_grad()
def merged(heads: Sequence[Head], into: Head) -> None:
    """One head that says the mean of what `heads` say, whose norm, pooling and classes are alike; its inner layer is all of theirs."""
    parts, count = [head.seeing for head in heads], len(heads)
    seeing = into.seeing
    for same in ("norm", "score", "classes", "names"):
        if (module := getattr(parts[0], same)) is not None:
            getattr(seeing, same).load_state_dict(module.state_dict())
    seeing.linear.weight.copy_(torch.stack([part.linear.weight for part in parts]).mean(0))
    seeing.linear.bias.copy_(torch.stack([part.linear.bias + part.deep.bias for part in parts]).mean(0))
    seeing.inner.weight.copy_(torch.cat([part.inner.weight for part in parts]))
    seeing.inner.bias.copy_(torch.cat([part.inner.bias for part in parts]))
    seeing.deep.weight.copy_(torch.cat([part.deep.weight for part in parts], 1) / count)
    seeing.deep.bias.zero_()
    into.gate.copy_(torch.stack([head.gate for head in heads]).mean(0))
    into.sharpness.copy_(torch.stack([head.sharpness for head in heads]).mean())


def train_trunk(
    head: Head,
    network: EfficientNetLite,
    material: Material,
    draws: Draws,
    texts: Texts,
    settings: recipe.Trunk,
    state: Path,
    rng: random.Random,
    *,
    evaluate: Callable[[Head, EfficientNetLite], str] | None = None,
) -> None:
    """Train the network's last blocks and the head on photos varied differently each time, to their averaged weights."""
    network.requires_grad_(False)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    tuned = [*network.blocks[settings.first_block :].parameters(), *network.head.parameters()]
    for weight in tuned:
        weight.requires_grad_(True)
    of_head = [weight for weight in head.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": of_head, "weight_decay": 0.1, "rate": settings.head_learning_rate},
            {"params": tuned, "weight_decay": 0.0, "rate": settings.learning_rate},
        ],
        lr=0.0,
    )
    average = Averaged([*of_head, *tuned])
    head.train()
    started, losses = time.monotonic(), []
    for step in range(1, settings.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * rate(step, settings.steps, warmup=30)
        drawn = [draws.one(name) for name in draws.sets(settings.batch)]
        images = [viewed(material.photos[number].member.image(), 1, rng) for number, _ in drawn]
        parts = range(0, len(images), 16)
        cells = torch.cat([_cells(network, pixels(images[at : at + 16]), settings.first_block) for at in parts])
        rows = torch.tensor([row for _, row in drawn])
        loss = texts.loss(head, head(head.seeing.pooled(cells)), rows)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tuned, 1.0)
        optimizer.step()
        average.update(step)
        losses.append(float(loss.detach()))
        if step % 20 == 0:
            took = (time.monotonic() - started) / step
            log.info("trunk %d of %d: loss %.3f, %.1f s a step", step, settings.steps, np.mean(losses[-20:]), took)
        if step % settings.evaluate_every == 0 or step == settings.steps:
            with average.in_place():
                saved({"vision": network.state_dict(), "head": head.state_dict(), "step": step}, state)
                if evaluate is not None:
                    log.info("trunk %d: %s", step, evaluate(head, network))
    average.keep()
    network.requires_grad_(False)
    head.eval()


def _cells(network: EfficientNetLite, values: Tensor, first_block: int) -> Tensor:
    """float32 [n, cells, 1280], with gradients from `first_block` on."""
    with torch.autocast("cpu", torch.bfloat16, enabled=default_dtype("cpu") == torch.bfloat16):
        with torch.no_grad():
            x = network.stem(values)
            for block in network.blocks[:first_block]:
                x = block(x)
        for block in network.blocks[first_block:]:
            x = block(x)
        x = network.head(x)
    return cells_of(x)
