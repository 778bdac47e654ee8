"""Which candidates answer a query best: cosine of single vectors, late interaction of several, one contract for both.

The order is total. Equal scores stand in the order of the candidates (of the query's own list, where it has one), and candidates with equal vectors have equal scores: each
distinct vector is scored once, since a matrix product need not give two equal columns the same last bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Vectors = np.ndarray | Sequence[np.ndarray]
"""float32 [n, dim], or of each of n inputs float32 [tokens, dim] (late interaction)."""

BLOCK_VALUES = 1 << 26
"""Scores (or products, in late interaction) held at once: 256 MB."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best candidates of one query.

    Attributes:
        columns: int64 [at most k], places in the list of candidates, best first.
        scores: float32 [same].
        is_tied: whether the first is as good as the second.
    """

    columns: np.ndarray
    scores: np.ndarray
    is_tied: bool


def best(
    queries: Vectors,
    candidates: Vectors,
    k: int,
    *,
    lists: Sequence[Sequence[int]] | None = None,
    device: str = "cpu",
) -> list[Best]:
    """The k best candidates of every query.

    Args:
        queries, candidates: at least one candidate; both single vectors or both several a piece. Single ones are compared by their product (the cosine, as
            embedders give unit length), several by the sum over the query's of the best product with one of the candidate's.
        k: at least 1; where there are fewer candidates, all are given.
        lists: per query the columns that it may find, at least one, each once, equal scores in this order; None: all.
        device: where the products are computed.
    """
    if len(queries) == 0:
        return []
    place = torch.device(device)
    kept, distinct = _distinct(candidates)
    if lists is None:
        members = _members(distinct, len(kept))
        asked = _Products(queries, place)
        return [_expanded(columns, scores, members, k) for columns, scores in _best_of_all(asked, candidates, kept, k)]
    answers: list[Best | None] = [None] * len(queries)
    for columns, rows in _by_list(lists).items():
        own = np.array(columns, np.int64)
        needed, local = np.unique(distinct[own], return_inverse=True)
        scores = _Products(_taken(queries, rows), place).with_(_taken(candidates, [kept[index] for index in needed]))
        for row, of_row in zip(rows, scores.cpu().numpy(), strict=True):
            answers[row] = _ordered(own, of_row[local], k)
    return [answer for answer in answers if answer is not None]


class _Products:
    """Queries on a device, to be compared with block after block of candidates."""

    def __init__(self, queries: Vectors, place: torch.device) -> None:
        self.place = place
        self.is_late = not isinstance(queries, np.ndarray)
        self.count = len(queries)
        self.queries = _padded(queries, place)[0] if self.is_late else torch.from_numpy(np.asarray(queries)).to(place)

    def with_(self, candidates: Vectors) -> Tensor:
        """float32 [queries, candidates]."""
        if not self.is_late:
            return self.queries @ torch.from_numpy(np.ascontiguousarray(candidates)).to(self.place).T
        tokens, is_token = _padded(candidates, self.place)
        hidden = torch.where(is_token, 0.0, -torch.inf)[:, None]
        scores = torch.empty(self.count, len(tokens), device=self.place)
        for row, query in enumerate(self.queries):  # a padded row of the query is zero and adds nothing
            scores[row] = (query @ tokens.mT + hidden).amax(-1).sum(-1)
        return scores

    def block(self, candidates: Vectors) -> int:
        """Candidates that may be compared at once."""
        longest = max(len(tokens) for tokens in candidates) if self.is_late else 1
        width = self.queries.shape[1] if self.is_late else self.count
        return max(1, BLOCK_VALUES // (longest * width))


def _best_of_all(
    asked: _Products, candidates: Vectors, kept: Sequence[int], k: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Per query (columns of `kept`, scores), best first, equal scores by column; block by block of candidates."""
    size = asked.block(candidates)
    scores = torch.empty(asked.count, 0, device=asked.place)
    columns = torch.empty(asked.count, 0, dtype=torch.int64, device=asked.place)
    for start in range(0, len(kept), size):
        found = asked.with_(_taken(candidates, kept[start : start + size]))
        new = torch.arange(start, start + found.shape[1], device=asked.place).expand(asked.count, -1)
        # What is equal stays in its order: those of former blocks, then lower columns.
        scores, order = _first(torch.cat([scores, found], 1), k)
        columns = torch.cat([columns, new], 1).gather(1, order)
    yield from zip(columns.cpu().numpy(), scores.cpu().numpy(), strict=True)


def _first(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first k of each row as a stable descending sort gives them, with their places."""
    k = min(k, scores.shape[1])
    places = scores.topk(k, dim=1).indices.sort(dim=1).values
    found, order = scores.gather(1, places).sort(dim=1, descending=True, stable=True)
    places = places.gather(1, order)
    torn = (scores >= found[:, -1:]).sum(1) > k  # equal scores of which only some found room: topk does not say which
    if torn.any():
        of_torn, whole = scores[torn].sort(dim=1, descending=True, stable=True)
        found[torn], places[torn] = of_torn[:, :k], whole[:, :k]
    return found, places


def _expanded(columns: np.ndarray, scores: np.ndarray, members: Sequence[np.ndarray], k: int) -> Best:
    """From the best distinct vectors to all candidates that have them."""
    counts = [len(members[column]) for column in columns]
    everyone = np.concatenate([members[column] for column in columns])
    by_place = np.argsort(everyone)
    return _ordered(everyone[by_place], np.repeat(scores, counts)[by_place], k)


def _ordered(columns: np.ndarray, scores: np.ndarray, k: int) -> Best:
    """Best first; equal scores in the order given."""
    order = np.argsort(-scores, kind="stable")
    top = scores[order[:2]]
    return Best(columns[order[:k]], scores[order[:k]], len(top) > 1 and bool(top[0] == top[1]))


def _distinct(vectors: Vectors) -> tuple[list[int], np.ndarray]:
    """Where each distinct vector stands first, and for every vector which of them it is, int64 [n]."""
    known: dict[bytes, int] = {}
    kept: list[int] = []
    which = np.empty(len(vectors), np.int64)
    for place, vector in enumerate(vectors):
        content = hashlib.sha256(vector.tobytes()).digest()
        if content not in known:
            known[content] = len(kept)
            kept.append(place)
        which[place] = known[content]
    return kept, which


def _members(which: np.ndarray, count: int) -> list[np.ndarray]:
    """Per distinct vector the places that have it, ascending."""
    order = np.argsort(which, kind="stable")
    return np.split(order, np.cumsum(np.bincount(which, minlength=count))[:-1])


def _by_list(lists: Sequence[Sequence[int]]) -> dict[tuple[int, ...], list[int]]:
    """The queries of each list: often all of a task have the same."""
    rows: dict[tuple[int, ...], list[int]] = {}
    for row, columns in enumerate(lists):
        rows.setdefault(tuple(columns), []).append(row)
    return rows


def _taken(vectors: Vectors, places: Sequence[int]) -> Vectors:
    return vectors[list(places)] if isinstance(vectors, np.ndarray) else [vectors[place] for place in places]


def _padded(vectors: Vectors, place: torch.device) -> tuple[Tensor, Tensor]:
    """float32 [n, longest, dim], zero beyond each one's own, and which rows are its own, bool [n, longest]."""
    longest = max(len(tokens) for tokens in vectors)
    padded = np.zeros((len(vectors), longest, vectors[0].shape[1]), np.float32)
    is_own = np.zeros((len(vectors), longest), bool)
    for row, tokens in enumerate(vectors):
        padded[row, : len(tokens)] = tokens
        is_own[row, : len(tokens)] = True
    return torch.from_numpy(padded).to(place), torch.from_numpy(is_own).to(place)
