"""The model of an opened library: which it is, loaded on first use, and queries as it encodes them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmsearch import prompts
from mmsearch.config import Settings
from mmsearch.errors import ModelMismatch
from mmsearch.items import Kind, MatchScale, Query
from mmsearch.library.current import Current

if TYPE_CHECKING:
    from mmsearch.embedders import Embedder

QUERY_CACHE_SIZE = 256


class Model:
    """Attributes: embedder: loaded on first use. is_loaded: whether it was."""

    def __init__(self, current: Current, settings: Settings) -> None:
        self._current, self._settings = current, settings
        self._catalog = current.catalog
        self._embedder: Embedder | None = None
        self._loading = threading.Lock()
        self._queries: OrderedDict[tuple[str, str, str | None, Kind], np.ndarray] = OrderedDict()

    def close(self) -> None:
        self._embedder = None

    @property
    def name(self) -> str:
        """What `embedder` loads: the model asked for, else the one that the library remembers, else the default."""
        if self._follows_library and (key := self._current.key) is not None:
            return self._catalog.models.name(key) or self._settings.model
        return self._settings.model

    @property
    def _follows_library(self) -> bool:
        """Whether the library's own model is used, since none was asked for."""
        return "model" not in self._settings.model_fields_set

    @property
    def is_loaded(self) -> bool:
        return self._embedder is not None

    def loaded_for(self, key: str) -> bool:
        """Whether the model of that key is loaded."""
        return self._embedder is not None and self._embedder.model_key == key

    @property
    def embedder(self) -> Embedder:
        """Raises EmbedderError."""
        with self._loading:
            if self._embedder is None:
                from mmsearch.embedders import load_embedder

                self._embedder = load_embedder(self.name, device=self._settings.device, dtype=self._settings.dtype)
            return self._embedder

    def remember(self) -> None:
        """Let the catalog know the loaded model before its first vector, by the name that it was asked for by; a folder by its whole path."""
        if self._embedder is not None and not self._catalog.read_only:
            name = self.name
            if name != "toy":  # whose users are spared torch
                from mmsearch.embedders.checkpoints.checkpoint import lasting_name

                name = lasting_name(name)
            self._catalog.models.register(
                self._embedder.model_key, self._embedder.dim, name, is_multi_vector=is_multi_vector(self._embedder)
            )

    def encode(self, query: Query, kinds: Sequence[Kind]) -> dict[Kind, np.ndarray]:
        """The query as float32 [dim] (of a multi-vector model [tokens, dim]) for each kind, in one call of the model; texts are
        remembered.

        If the library was switched to another model since the last query, here or by another process, that one is loaded.

        Raises:
            ModelMismatch: the model is not the one whose vectors answer queries.
        """
        embedder = self.embedder
        while (active := self._current.key) not in (None, embedder.model_key) and self._follows_library:
            with self._current.guard, self._loading:  # nobody is in the middle of a search with the former one
                if self._embedder is embedder:
                    self._embedder = None
            former, embedder = embedder, self.embedder
            if former.model_key == embedder.model_key:
                break
        if (active := self._current.key) not in (None, embedder.model_key):
            raise ModelMismatch(
                f"the library holds vectors of model {active} ({self._catalog.models.name(active or '') or 'no name'}), not of"
                f" {self.name!r} ({embedder.model_key}): switch to it with `mmsearch models use`, or ask with the library's own"
            )
        is_text = not (query.images or query.frames)
        keys = {kind: (embedder.model_key, query.text, query.instruction, kind) for kind in kinds}
        with self._current.guard:
            known = {kind: self._queries[key] for kind, key in keys.items() if is_text and key in self._queries}
        wanted = [kind for kind in kinds if kind not in known]
        if wanted:
            encoded = embedder.encode_queries([prompts.query_input(query, kind) for kind in wanted])
            known |= dict(zip(wanted, encoded, strict=True))
            with self._current.guard:
                for kind in wanted if is_text else ():
                    self._queries[keys[kind]] = known[kind]
                while len(self._queries) > QUERY_CACHE_SIZE:
                    self._queries.popitem(last=False)
        return {kind: known[kind] for kind in kinds}

    def match_scale(self, name: str) -> MatchScale | None:
        """What the loaded model's scores are worth in a kind (or `WITHOUT_TEXT`), if that was measured."""
        return self._embedder.match_scale.get(name) if self._embedder is not None else None

    def knows_word(self, word: str) -> bool:
        """Whether the loaded model reads a word as a word; True of a model that cannot tell."""
        if self._embedder is None:
            return True
        from mmsearch.embedders.forward.vocabulary import has_word

        tokenizer = getattr(self._embedder, "tokenizer", None)
        return tokenizer is None or has_word(tokenizer, word)


def is_multi_vector(embedder: Embedder) -> bool:
    """Whether a model gives each item many vectors."""
    return bool(getattr(embedder, "is_multi_vector", False))
