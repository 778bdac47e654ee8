"""Embedders: what turns inputs into vectors. To add one: a module in `families/` and a row in `families/__init__.py`.

Each wing imports those behind it only: `families` (a small module per model family: prompts, pooling), `forward` (the models' own code, packing,
batches), `checkpoints` (finding, reading and opening a checkpoint's files), `published` (the table of published models, and their cards).
What stands beside the wings uses all of them: `download`, `inventory`, `trainable`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from mmsearch.items import EmbedInput, Kind, MatchScale, Vectors

DEFAULT_MODEL = "mini"
"""The checkpoint that ships with the package (`mmsearch/checkpoints/mini`)."""


@runtime_checkable
class Embedder(Protocol):
    """What mmsearch asks of a model.

    A model may give each input a vector per token (`is_multi_vector = True`; absent: it does not): then both methods return a list
    of float32 [tokens, dim], to be compared by MaxSim (`mmsearch.vectors.maxsim`).

    Attributes:
        model_key: names everything that decides a stored vector: checkpoint hash, target instructions,
            preprocessing version, pixel budgets. Lower-case letters, digits and `-`: it names a folder.
        dim: length of every vector.
        max_pixels: pixels of one image (page, image) or one frame (clip) that the model is given at most.
        page_text: whether a page's (or clip's) text goes into the document input beside its image.
        match_scale: what its scores are worth, per kind and for "page without text", as measured by the model's maker; empty where
            nobody did. See `mmsearch.items.MatchScale`.
        device: where it runs, for people ("cpu", "cuda:0").
    """

    model_key: str
    dim: int
    max_pixels: Mapping[Kind, int]
    page_text: bool
    match_scale: Mapping[str, MatchScale]
    device: str

    def encode_queries(self, inputs: Sequence[EmbedInput]) -> Vectors:
        """float32 [len(inputs), dim], unit length, finite, in the order given."""
        ...

    def encode_documents(self, inputs: Sequence[EmbedInput]) -> Vectors:
        """float32 [len(inputs), dim], unit length, finite, in the order given."""
        ...


def load_embedder(
    name_or_folder: str | Path = DEFAULT_MODEL,
    *,
    device: str | None = None,
    dtype: str | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    family: str | None = None,
) -> Embedder:
    """Open a checkpoint.

    Args:
        name_or_folder: "mini" (shipped), "toy" (no model: a hash of colours and words, for tests), a folder in the public
            layout of its family (see `mmsearch.embedders.families.choice`; a PEFT adapter folder too), or a hub name that is in the local cache
            (`mmsearch models pull` fetches it; nothing here asks the network). "FAMILY:NAME" is the same as `family`.
        device: "cpu", "cuda", …; chosen by itself if None.
        dtype: "float32" or "bfloat16"; if None, bfloat16 where the device computes it natively, else float32.
        min_pixels, max_pixels: bounds for every image or frame, over the checkpoint's own.
        family: the code that opens it, over what the checkpoint says of itself. Where nothing says it and the `model_type` fits several
            embedders, one is assumed, and a warning logged.

    Raises:
        ModelNotFound: no checkpoint there. MissingExtra: a package is missing. EmbedderError: tensors missing or odd,
        or this machine has no such device.
    """
    if str(name_or_folder) == "toy":
        if device not in (None, "", "cpu"):  # it computes on none, but what is asked for has to be there
            from mmsearch.embedders.checkpoints.device import demand_device

            demand_device(str(device))
        from mmsearch.embedders.families.toy import ToyEmbedder

        return ToyEmbedder()
    from mmsearch.embedders.checkpoints.checkpoint import find_checkpoint, name_with_family
    from mmsearch.embedders.families import family_class
    from mmsearch.embedders.families.choice import family_of, warn_of_assumption

    name = name_with_family(name_or_folder, family)
    found = find_checkpoint(name)
    opener = family_class(family_of(found))
    warn_of_assumption(found)
    return opener.load(name, device=device, dtype=dtype, min_pixels=min_pixels, max_pixels=max_pixels)
