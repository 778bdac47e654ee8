"""Whether what the model made of items can be stored, and where an item stands in its file, for a message."""

from __future__ import annotations

import numpy as np

from mmsearch.items import ItemDraft, Vectors


def checked(vectors: Vectors, count: int) -> Vectors:
    """The model's vectors, if they can be stored. Raises ValueError where one is not finite or not of unit length."""
    if isinstance(vectors, list):  # many vectors per item
        if len(vectors) != count:
            raise ValueError(f"{count} inputs gave {len(vectors)} times vectors")
        return [checked(tokens, len(tokens)) for tokens in vectors]
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or len(vectors) != count:
        raise ValueError(f"{count} inputs gave vectors of shape {vectors.shape}")
    lengths = np.linalg.norm(vectors, axis=1)
    if not np.all(np.abs(lengths - 1.0) < 1e-3):  # NaN fails too
        raise ValueError("a vector is not finite or not of unit length")
    return vectors


def place(draft: ItemDraft) -> str:
    """Where an item stands in its file, for a message."""
    if draft.page_number is not None:
        return f"page {draft.page_number}"
    if draft.start_s is not None:
        return f"the clip at {draft.start_s:.1f} s"
    return "the picture"
