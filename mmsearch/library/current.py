"""Which generation of a library, and which of its models, answers now."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmsearch.catalog import Catalog
from mmsearch.errors import CatalogError


class Current:
    """What the parts of an opened library agree on.

    Attributes:
        guard: held while stores, and what is derived from them, are read or changed.
    """

    def __init__(self, catalog: Catalog, model_key: str | None = None) -> None:
        self.catalog = catalog
        self.guard = threading.RLock()
        self._asked_key = model_key  # None: whichever model answers queries
        self._of_thread = threading.local()  # `state`: the one of `held`

    @property
    def folder(self) -> Path:
        return self.catalog.folder

    def state(self) -> tuple[int, str | None]:
        """The catalog's generation, and the model key that answers queries (None while the library is empty)."""
        if (held := getattr(self._of_thread, "state", None)) is not None:
            return held
        generation, active = self.catalog.state()
        return generation, self._asked_key or active

    @property
    def key(self) -> str | None:
        return self.state()[1]

    def needed_key(self) -> str:
        """Raises CatalogError: the library is empty."""
        if (key := self.key) is None:
            raise CatalogError(f"the library at {self.folder} is empty: `mmsearch ingest FOLDER` fills it")
        return key

    def is_held(self) -> bool:
        """Whether this thread is inside `held`."""
        return getattr(self._of_thread, "state", None) is not None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, this thread sees one generation of the catalog. Keep it short: the catalog's log grows meanwhile."""
        if self.is_held():
            yield
            return
        with self.catalog.snapshot():
            self._of_thread.state = self.state()
            try:
                yield
            finally:
                self._of_thread.state = None
