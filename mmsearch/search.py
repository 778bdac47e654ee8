"""A query, and an item to find more like, as questions to a library; `Library.answer` is the way to the hits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmsearch.catalog import Filters
from mmsearch.items import Hits, Kind, Query
from mmsearch.library.view import MODES, Question

if TYPE_CHECKING:
    from mmsearch.library import Library

__all__ = ["MODES", "Filters", "Hits", "more_like", "search"]


def search(
    library: Library,
    query: Query,
    *,
    k: int = 10,
    kinds: Sequence[Kind] | None = None,
    filters: Filters | None = None,
    min_relevance: float | None = None,
    offset: int = 0,
    mode: str = "fused",
    all_copies: bool = False,
) -> Hits:
    """The `k` items, over all kinds, that answer a query best, from `offset` on.

    A query with pictures is answered by meaning alone. Nothing above the cut-off is an answer too: an empty `Hits`.
    Copies of a file, and files of one moment, count as one answer: the best of them is the hit and names the others (`Hit.also_at`).

    Args:
        kinds: only these; over `filters.kinds`.
        min_relevance: the cut-off, 0…1 (default `relevance.MIN_RELEVANCE`); 0 hides nothing.
        mode: "fused"; "dense" leaves out the words, "text" the model, which then is not loaded.
        all_copies: each copy is a hit of its own.

    Raises:
        ValueError: an empty query, an unknown mode, or pictures in mode "text".
        ModelMismatch, EmbedderError, CatalogError: see `Library`.
    """
    question = Question.of(query, kinds=kinds, filters=filters, wanted=k + offset, mode=mode, all_copies=all_copies)
    return library.answer(question, k=k, offset=offset, min_relevance=min_relevance)


def more_like(
    library: Library,
    item_id: int,
    *,
    k: int = 10,
    kinds: Sequence[Kind] | None = None,
    filters: Filters | None = None,
    min_relevance: float | None = None,
    offset: int = 0,
    all_copies: bool = False,
) -> Hits:
    """Items like an item, itself left out: by its stored vector among its own kind, without the model.

    Other kinds are searched only where `kinds` names them; then its preview is the query picture. Copies count as in `search`;
    those of the item itself are left out, unless `all_copies` asks for them.

    Raises:
        KeyError: no visible item of that id. CatalogError: it has no vector of the active model.
    """
    question = Question.of(item_id, kinds=kinds, filters=filters, wanted=k + offset, all_copies=all_copies)
    return library.answer(question, k=k, offset=offset, min_relevance=min_relevance)
