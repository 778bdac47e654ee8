"""What relevance is measured by in an opened library: its own random samples, and generic queries as its model encodes them."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence

import numpy as np

from mmsearch import prompts
from mmsearch.errors import DiskFailed, LibraryLocked, ModelMismatch
from mmsearch.items import EmbedInput, Kind, Query, Vectors
from mmsearch.library.current import Current
from mmsearch.library.model import Model
from mmsearch.library.stores import Stores, dot
from mmsearch.ranking import relevance
from mmsearch.ranking.rank import Calibration
from mmsearch.ranking.relevance import Background
from mmsearch.vectors import maxsim

log = logging.getLogger(__name__)

SAMPLE_DRIFT_SHARE = 0.05
"""Backgrounds are taken again once a store has grown or shrunk by more than this."""
BACKGROUND_QUERIES = 200
MANY_SAMPLE_SIZE, BACKGROUND_QUERIES_MANY, GENERIC_STEP_MANY = 100, 8, 3
"""The same for items of many vectors, of which less must do; of the generic queries every third."""


class Calibrations:
    """Kept per model and kind, taken again when a library has changed much."""

    def __init__(self, current: Current, model: Model, stores: Stores) -> None:
        self._current, self._model, self._stores = current, model, stores
        self._catalog = current.catalog
        self._samples: dict[tuple[str, Kind], tuple[int, Vectors]] = {}
        self._backgrounds: dict[tuple[str, Kind, bool], Background] = {}
        self._generic: dict[tuple[str, Kind], Vectors] = {}
        self._textless: tuple[int, np.ndarray] | None = None

    def close(self) -> None:
        self._samples.clear()

    def of(
        self,
        queries: dict[Kind, np.ndarray],
        unwanted: Sequence[dict[Kind, np.ndarray]] = (),
        *,
        is_text: bool,
        is_one_query: bool = False,
    ) -> Calibration:
        """How each query scores on random items of each kind, and what the checkpoint's maker says that scores are worth."""
        samples, generic = {}, {}
        for kind in queries:
            samples[kind], generic[kind] = self.background(kind, is_text=is_text)

        def scores(asked: dict[Kind, np.ndarray]) -> dict[Kind, np.ndarray]:
            return {kind: dot(samples[kind], query) for kind, query in asked.items()}

        return Calibration.of(
            scores(queries),
            generic,
            self._model.match_scale if is_text else (lambda _: None),
            unwanted=[scores(other) for other in unwanted],
            textless=self._pages_without_text,
            is_one_query=is_one_query,
        )

    def background(self, kind: Kind, *, is_text: bool) -> tuple[Vectors, Background]:
        """A random sample of the stored vectors of a kind, and how irrelevant queries score on it.

        With `is_text` the irrelevant queries are generic texts (the model encodes them, unless the catalog has them); else they
        are stored vectors.
        """
        with self._current.guard:
            key, store = self._current.key, self._stores.of(kind)
            assert key is not None
            size, sample = self._samples.get((key, kind), (0, None))
            if sample is None or abs(len(store) - size) > SAMPLE_DRIFT_SHARE * size:
                is_many = self._catalog.models.is_multi_vector(key)
                size = MANY_SAMPLE_SIZE if is_many else relevance.SAMPLE_SIZE
                chosen = np.random.default_rng(0).permutation(len(store))[:size]
                sample = store.vectors(store.ids()[np.sort(chosen)])
                self._samples[key, kind] = len(store), sample
                self._backgrounds.pop((key, kind, True), None)
                self._backgrounds.pop((key, kind, False), None)
            prior = self._backgrounds.get((key, kind, is_text))
            if prior is None:
                generic = self.generic_queries(key, [kind])[kind] if is_text else None
                if isinstance(sample, list):
                    prior = _background_of_many(generic, sample)
                elif generic is not None:
                    prior = relevance.background(generic, sample)
                else:
                    some = sample[np.random.default_rng(1).permutation(len(sample))[:BACKGROUND_QUERIES]]
                    prior = relevance.background(some, sample, is_same_set=True)
                self._backgrounds[key, kind, is_text] = prior
            return sample, prior

    def generic_queries(self, key: str, kinds: Sequence[Kind]) -> dict[Kind, Vectors]:
        """The generic queries encoded for each kind: from memory, the catalog, or the model."""
        inputs = {
            kind: [prompts.query_input(Query(text=words), kind) for words in relevance.GENERIC_QUERIES]
            for kind in kinds
        }
        for kind in kinds:
            if (key, kind) not in self._generic:
                stored = self._catalog.vectors.generic_queries(key, kind, _version(inputs[kind]))
                if stored is not None:
                    self._generic[key, kind] = stored
        missing = [kind for kind in kinds if (key, kind) not in self._generic]
        if missing:
            embedder = self._model.embedder
            if embedder.model_key != key:
                raise ModelMismatch(f"{self._model.name!r} is not the model {key} that answers queries: ask again")
            encoded = embedder.encode_queries([one for kind in missing for one in inputs[kind]])
            count, is_kept = len(relevance.GENERIC_QUERIES), not self._catalog.read_only
            for place, kind in enumerate(missing):
                vectors = encoded[place * count : (place + 1) * count]
                self._generic[key, kind] = vectors
                if is_kept:
                    try:
                        self._catalog.vectors.save_generic_queries(key, kind, _version(inputs[kind]), vectors)
                    except (DiskFailed, LibraryLocked) as reason:  # a search needs them only once
                        is_kept = False
                        log.info("the generic queries of %ss are not kept: %s", kind, reason)
        return {kind: self._generic[key, kind] for kind in kinds}

    def _pages_without_text(self) -> np.ndarray:
        """int64, ascending: visible pages that have next to no text."""
        generation = self._catalog.generation()
        with self._current.guard:
            if self._textless is None or self._textless[0] != generation:
                self._textless = generation, self._catalog.items.pages_without_text()
            return self._textless[1]


def _background_of_many(generic: Vectors | None, sample: list[np.ndarray]) -> Background:
    """How irrelevant queries score on items of many vectors: some of the generic ones, else some of the items themselves."""
    if generic is not None:
        found = [maxsim.scores(sample, query) for query in generic[::GENERIC_STEP_MANY]]
    else:
        others = ((query, sample[:n] + sample[n + 1 :]) for n, query in enumerate(sample[:BACKGROUND_QUERIES_MANY]))
        found = [maxsim.scores(items, query) for query, items in others]
    return relevance.background_of(np.concatenate([*found, np.empty(0, np.float32)]))


def _version(inputs: Sequence[EmbedInput]) -> str:
    """Names the generic queries as the model reads them; vectors of another version are encoded again."""
    strings = "\n".join(prompts.final_prompt(one.instruction, one.text) for one in inputs)
    return f"{len(inputs)}-{zlib.crc32(strings.encode()):08x}"
