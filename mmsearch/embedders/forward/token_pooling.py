"""Fewer vectors for a page: its most alike tokens are joined by Ward's hierarchical clustering, and each cluster keeps its mean.

By a factor of 3 a page of ColPali takes 88 kB instead of 264, for 0.3 s of one core.

Source: arXiv 2409.14683; illuin-tech/colpali `compression/token_pooling/hierarchical_token_pooling.py`, whose clusters are those of the
rows of the tokens' similarity matrix.
"""

from __future__ import annotations

import numpy as np


def pooled(tokens: np.ndarray, factor: int) -> np.ndarray:
    """float32 [tokens, dim] of unit length to float32 [max(1, tokens // factor), dim], clusters by their first token.

    Raises:
        ValueError: a factor below 1.
    """
    if factor < 1:
        raise ValueError(f"tokens are pooled by a factor from 1 on, not {factor}")
    count = max(1, len(tokens) // factor)
    if count == len(tokens):
        return tokens
    labels = ward_clusters(1 - tokens @ tokens.T, count)
    sums = np.zeros((count, tokens.shape[1]), np.float32)
    np.add.at(sums, labels, tokens)
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


def ward_clusters(points: np.ndarray, count: int) -> np.ndarray:
    """int64 [n]: the cluster of each of float [n, m] points, `count` clusters in all, numbered by their first point.

    Clusters are merged by least growth of their inner variance, found along chains of nearest neighbours (Murtagh 1983).
    """
    n = len(points)
    squares = np.einsum("nm,nm->n", points, points, dtype=np.float64)
    distance = np.maximum(squares[:, None] + squares - 2 * (points.astype(np.float64) @ points.T), 0)
    np.fill_diagonal(distance, np.inf)
    size = np.ones(n)
    merges: list[tuple[float, int, int]] = []
    chain: list[int] = []
    while len(merges) < n - 1:
        if not chain:
            chain = [int(np.flatnonzero(size)[0])]
        while True:
            here = chain[-1]
            near = int(distance[here].argmin())
            if len(chain) > 1 and distance[here, chain[-2]] <= distance[here, near]:
                break  # they are each other's nearest
            chain.append(near)
        kept, gone = chain.pop(), chain.pop()
        between = distance[kept, gone]
        merges.append((float(between), kept, gone))
        both = size[kept] + size[gone]
        row = ((size[kept] + size) * distance[kept] + (size[gone] + size) * distance[gone] - size * between) / (
            both + size
        )
        row[[kept, gone]] = np.inf
        row[size == 0] = np.inf
        size[kept], size[gone] = both, 0
        distance[kept], distance[:, kept] = row, row
        distance[gone], distance[:, gone] = np.inf, np.inf
    parent = np.arange(n)
    for _, kept, gone in sorted(merges, key=lambda merge: merge[0])[: n - count]:
        parent[_root(parent, gone)] = _root(parent, kept)
    roots = np.array([_root(parent, index) for index in range(n)])
    _, first, labels = np.unique(roots, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[labels]


def _root(parent: np.ndarray, index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = int(parent[index])
    return index
