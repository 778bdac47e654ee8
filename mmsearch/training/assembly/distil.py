"""Stage `distil`: the text encoder learns to find as it did and as MiniLM does, both at once, in one vector.

The teacher is an ensemble of two: the encoder as the stage before left it, and all-MiniLM-L6-v2. On the development split's questions
the sum of their cosines is worth more than either (nDCG@5 0.49 and 0.50 alone, 0.56 together; LOG.md). Both vectors end to end have that sum as their dot product;
their principal axes bring them to the encoder's own width, so the ensemble is a vector of that width for every text, the student's aim. Texts in other
languages have the aim of their English twin: MiniLM knows no other language, the student learns it through the pairs.

Reimers and Gurevych 2020, "Making monolingual sentence embeddings multilingual using knowledge distillation", for the twins.
"""

from __future__ import annotations

import copy
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsearch.training.assembly.material import WRITTEN_LANGUAGES, PairSources, Twin, Twins
from mmsearch.training.assembly.settings import Distil
from mmsearch.training.assembly.steps import Averaged, loaded, rate, saved
from mmsearch.training.assembly.words import FULL, Lower, Reader, Teacher, divergence

log = logging.getLogger(__name__)

OWN = 0.6
"""The weight of the encoder's cosine in the ensemble's; MiniLM's has the rest."""
RIDGE = 1e-4
BANK_DRAW = 24
"""Pairs of one source that the bank takes at a time."""
SAME = 0.85
"""Texts of the bank that the ensemble finds that much alike are no wrong answers."""


class Ensemble(nn.Module):
    """What the encoder as it was and MiniLM say of texts.

    Attributes:
        mean: [2 * hidden], of both vectors end to end. basis: [2 * hidden, hidden], their principal axes.
    """

    mean: Tensor
    basis: Tensor

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self.before = copy.deepcopy(reader).requires_grad_(False)
        self.other = Teacher()
        hidden = reader.out.out_features
        self.register_buffer("mean", torch.zeros(2 * hidden))
        self.register_buffer("basis", torch.eye(2 * hidden, hidden))

    @torch.no_grad()
    def forward(self, texts: Sequence[str], most_tokens: int) -> tuple[Tensor, Tensor]:
        """Unit vectors float32: the whole [n, 2 * hidden], and along the principal axes [n, hidden]."""
        return self.behind(self.before.lower(texts, most_tokens), texts, most_tokens)

    @torch.no_grad()
    def behind(self, lower: Lower, texts: Sequence[str], most_tokens: int) -> tuple[Tensor, Tensor]:
        """The same, of what the encoder's lower layers, which do not change, made of the texts."""
        return self.of(self.before.said(lower), self.other(texts, most_tokens))

    def of(self, own: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """The same of what both said."""
        whole = torch.cat([OWN**0.5 * own, (1 - OWN) ** 0.5 * others], 1) - self.mean
        return F.normalize(whole, dim=1), F.normalize(whole @ self.basis, dim=1)


def _in_turn(encode: Callable[[Sequence[str]], Tensor], texts: Sequence[str], batch: int = 48) -> Tensor:
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    found = torch.cat([encode([texts[row] for row in order[at : at + batch]]) for at in range(0, len(order), batch)])
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    return found[back]


@torch.no_grad()
def survey(reader: Reader, teacher: Ensemble, texts: Sequence[str], most_tokens: int) -> Tensor:
    """Set the teacher's mean and axes, and the reader's map to the nearest linear one, from `texts`. Returns float32 [texts, hidden], their aims."""
    states = _in_turn(lambda some: reader.states(some, most_tokens, parts=1), texts)
    own = F.normalize(reader.out(states), dim=1)
    others = _in_turn(lambda some: teacher.other(some, most_tokens), texts)
    whole = torch.cat([OWN**0.5 * own, (1 - OWN) ** 0.5 * others], 1)
    teacher.mean.copy_(whole.mean(0))
    axes = torch.linalg.svd(whole - whole.mean(0), full_matrices=False)[2]
    teacher.basis.copy_(axes[: teacher.basis.shape[1]].T)
    aims = teacher.of(own, others)[1]
    mean = states.mean(0)
    scale = float((states - mean).square().mean())
    known = torch.cat([states - mean, torch.full((len(states), 1), scale**0.5)], 1)
    gram = known.T @ known / len(known)
    found = torch.linalg.solve(gram + RIDGE * scale * torch.eye(len(gram)), known.T @ aims / len(known))
    reader.out.weight.copy_(found[:-1].T)
    reader.out.bias.copy_(found[-1] * scale**0.5 - mean @ found[:-1])
    fit = F.cosine_similarity(reader.out(states), aims).mean()
    log.info("distil: a linear map is within a cosine of %.3f of the ensemble on %d texts", fit, len(texts))
    return aims


def train_distil(
    reader: Reader,
    pairs: PairSources,
    twins: Twins,
    settings: Distil,
    state: Path,
    *,
    choose: Callable[[], str],
    evaluate: Callable[[Reader], dict[str, float]] | None = None,
) -> None:
    """Train `reader` in place, to the averaged weights; `state` holds them at every evaluation, and is gone on from.

    Args:
        twins: texts in many languages with their English twins.
        choose: the name of the next batch's source of pairs.
        evaluate: measures the averaged weights, for the log.
    """
    teacher = Ensemble(reader)
    drawn = [pair for _ in range(settings.bank // BANK_DRAW) for pair in pairs.draw(choose(), BANK_DRAW)]
    passages = list(dict.fromkeys(passage for _, passage in drawn))
    texts = passages + [query for query, _ in drawn[: len(drawn) // 2]]
    bank = survey(reader, teacher, texts, settings.passage_tokens)[: len(passages)]
    remembered = _Remembered(teacher)
    layers = [weight for layer in reader.encoder.layers[reader.frozen :] for weight in layer.parameters()]
    groups: list[dict[str, Any]] = [
        {"params": layers, "rate": settings.learning_rate},
        {"params": list(reader.out.parameters()), "rate": settings.map_learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, weight_decay=0.0, betas=(0.9, 0.98))
    first = 0
    if state.exists():
        found = loaded(state)
        reader.encoder.load_state_dict(found["encoder"])
        reader.out.load_state_dict(found["out"])
        first = found["step"]
    average = Averaged([*layers, *reader.out.parameters()])
    told: dict[str, list[float]] = defaultdict(list)
    if evaluate is not None:
        with torch.no_grad():
            log.info("distil %d: %s", first, evaluate(reader))
    started = time.monotonic()
    for step in range(first + 1, settings.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * rate(step, settings.steps, warmup=40) * min(1, (step - first) / 40)
        batch = pairs.draw(choose(), settings.batch)
        losses = _losses(reader, teacher, bank, batch, settings)
        losses |= _twin_losses(reader, remembered, bank, twins.draw(settings.twins), settings)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(layers, 1.0)
        optimizer.step()
        average.update(step - first)
        for part, value in losses.items():
            told[part].append(float(value.detach()))
        if step % 20 == 0:
            means = ", ".join(f"{part} {np.mean(values):.3f}" for part, values in told.items())
            took = (time.monotonic() - started) / (step - first)
            log.info("distil %d of %d: %s, %.1f s a step", step, settings.steps, means, took)
            told.clear()
        if step % settings.evaluate_every == 0 or step == settings.steps:
            with average.in_place():
                saved({"encoder": reader.encoder.state_dict(), "out": reader.out.state_dict(), "step": step}, state)
                if evaluate is not None:
                    with torch.no_grad():
                        log.info("distil %d: %s", step, evaluate(reader))
    average.keep()


@torch.no_grad()
def forget_languages(reader: Reader, rows: Sequence[Mapping[str, str]], most_tokens: int) -> None:
    """Take out of the reader's map the directions in which the mean of the same queries differs from language to language.

    What language a query is written in says nothing of the page it looks for (Yang et al. 2021, "A Simple and Effective Method To Eliminate the Self
    Language Bias in Multilingual Representations").

    Args:
        rows: queries under each language's code.
    """
    mean = {
        language: _in_turn(lambda some: reader(some, most_tokens), [row[language] for row in rows]).mean(0)
        for language in ("en", *WRITTEN_LANGUAGES)
    }
    offsets = torch.stack([mean[language] - mean["en"] for language in WRITTEN_LANGUAGES])
    directions = torch.linalg.qr(offsets.T)[0]
    without = torch.eye(len(directions)) - directions @ directions.T
    reader.out.weight.copy_(without @ reader.out.weight)
    reader.out.bias.copy_(without @ reader.out.bias)
    log.info("distil: languages lay %.3f from English", float(offsets.norm(dim=1).mean()))


def _losses(
    reader: Reader, teacher: Ensemble, bank: Tensor, batch: Sequence[tuple[str, str]], settings: Distil
) -> dict[str, Tensor]:
    """`aim`: how far from the ensemble's vectors. `bank`: how it ranks the bank. `batch`: how alike it finds queries and passages, and passages.
    `pairs`: which passage belongs to which query."""
    queries, passages = ([*side] for side in zip(*batch, strict=True))
    lower = reader.lower(queries, settings.query_tokens), reader.lower(passages, settings.passage_tokens)
    asked, found = reader.said(lower[0]), reader.said(lower[1])
    told, aim_asked = teacher.behind(lower[0], queries, settings.query_tokens)
    known, aim_found = teacher.behind(lower[1], passages, settings.passage_tokens)
    own = torch.eye(len(batch), dtype=torch.bool)
    return {
        "aim": settings.aim_weight * (_distance(asked, aim_asked) + _distance(found, aim_found)) / 2,
        "bank": (_ranking(asked, aim_asked, bank) + _ranking(found, aim_found, bank)) / 2,
        "batch": settings.batch_weight
        * (
            (divergence(asked @ found.T, told @ known.T, 0.05) + divergence(found @ asked.T, known @ told.T, 0.05)) / 2
            + divergence(found @ found.T, known @ known.T, 0.05, own)
        ),
        "pairs": settings.pairs_weight * _contrast(asked, found, aim_found, bank),
    }


def _twin_losses(
    reader: Reader, remembered: _Remembered, bank: Tensor, twins: Sequence[Twin], settings: Distil
) -> dict[str, Tensor]:
    """The same for texts in other languages: the aim is what the ensemble makes of their English twins."""
    told = reader([twin.text for twin in twins], settings.query_tokens)
    aim = remembered([twin.english for twin in twins], settings.query_tokens)
    passage = remembered([twin.passage for twin in twins], settings.passage_tokens)
    return {
        "twins": settings.aim_weight * _distance(told, aim),
        "twins_bank": _ranking(told, aim, bank),
        "twins_pairs": settings.pairs_weight * _contrast(told, passage, passage, bank),
    }


class _Remembered:
    """The ensemble's aims, asked once for every text."""

    def __init__(self, teacher: Ensemble) -> None:
        self._teacher = teacher
        self._known: dict[str, Tensor] = {}

    def __call__(self, texts: Sequence[str], most_tokens: int) -> Tensor:
        """float32 [n, hidden], unit length."""
        if new := [text for text in dict.fromkeys(texts) if text not in self._known]:
            self._known |= zip(new, self._teacher(new, most_tokens)[1], strict=True)
        return torch.stack([self._known[text] for text in texts])


def _distance(ours: Tensor, aims: Tensor) -> Tensor:
    return 1 - (ours * aims).sum(1).mean()


def _ranking(ours: Tensor, aims: Tensor, bank: Tensor, temperature: float = 0.05) -> Tensor:
    """Kullback-Leibler divergence of the softmax over the bank, the ensemble's from ours; the text itself is left out."""
    theirs = aims @ bank.T
    same = theirs > 0.98
    ours = (ours @ bank.T / temperature).masked_fill(same, FULL)
    theirs = (theirs / temperature).masked_fill(same, FULL)
    return F.kl_div(F.log_softmax(ours, 1), F.softmax(theirs, 1), reduction="batchmean")


def _contrast(asked: Tensor, found: Tensor, aims: Tensor, bank: Tensor, temperature: float = 0.05) -> Tensor:
    """InfoNCE of queries against their passages and the bank; what the ensemble finds alike the right passage is no wrong answer."""
    count = len(asked)
    target = torch.arange(count)
    keys = torch.cat([found, bank])
    alike = aims @ torch.cat([aims, bank]).T > SAME
    alike[target, target] = False
    return F.cross_entropy((asked @ keys.T / temperature).masked_fill(alike, FULL), target)
