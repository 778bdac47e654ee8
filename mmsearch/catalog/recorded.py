"""What the catalog held when a writer last ended, in a file beside it: SQLite takes up a database whose write-ahead log was lost or cut
without a word, as it was before.

The file is never ahead of the catalog, since it is written after the commits; behind it is where a writer was killed.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmsearch.catalog import Catalog
from mmsearch.catalog.dialect.sqlite import CATALOG_NAME
from mmsearch.disk.replace import replace_file
from mmsearch.errors import CatalogError

log = logging.getLogger(__name__)

RECORDED_NAME = "recorded.json"
LOG_HEADER_BYTES, SALTS = 32, slice(16, 24)
"""Of SQLite's write-ahead log: its salts change each time it is begun from the start."""
MAX_TIME_S = 253_402_300_800
"""The year 10000: no clock says so, and C's `localtime` fails some way after it."""


@dataclass(frozen=True, slots=True)
class State:
    """Of a catalog at a moment.

    Attributes:
        id: the catalog's. generation: see `Catalog.generation`. items: that can be found.
        log_salts: of the write-ahead log (hexadecimal), "" where it is empty. log_bytes: its length.
        at: in seconds since the epoch.
    """

    id: str
    generation: int
    items: int
    log_salts: str
    log_bytes: int
    at: float

    def lacks(self, found: State) -> bool:
        """Whether the catalog as it is found is not this one, nor one that came of it."""
        if self.id != found.id:
            return False
        is_log_cut = self.log_salts != "" and self.log_salts == found.log_salts and self.log_bytes > found.log_bytes
        is_other = self.generation == found.generation and self.items != found.items
        return self.generation > found.generation or is_other or is_log_cut


@dataclass(frozen=True, slots=True)
class Loss:
    """Commits that were recorded and are not there."""

    recorded: State
    found: State

    def sentence(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.recorded.at))
        was, now = self.recorded, self.found
        return (
            f"on {when} generation {was.generation:,} with {was.items:,} items was recorded, but generation {now.generation:,} with "
            f"{now.items:,} was found: its write-ahead log ({CATALOG_NAME}-wal) was lost or cut, or an older copy of it was put in its place"
        )


def state_of(catalog: Catalog) -> State:
    """Raises CatalogError."""
    file = catalog.folder / f"{CATALOG_NAME}-wal"
    with catalog.snapshot():
        generation, items = catalog.generation(), sum(catalog.items.counts().values())
        try:
            with file.open("rb") as stream:
                head = stream.read(LOG_HEADER_BYTES)
                length = stream.seek(0, 2)
        except OSError:
            head, length = b"", 0
        salts = head[SALTS].hex() if len(head) == LOG_HEADER_BYTES else ""
        return State(catalog.id, generation, items, salts, length, time.time())


def find_loss(catalog: Catalog) -> Loss | None:
    """What was lost since it was recorded, or before and not acknowledged yet. Raises CatalogError."""
    recorded, loss = _read(catalog.folder)
    found = state_of(catalog)
    if loss is not None and loss.recorded.id == found.id:
        return loss
    return Loss(recorded, found) if recorded is not None and recorded.lacks(found) else None


def record(catalog: Catalog, *, acknowledged: bool = False) -> Loss | None:
    """Write down what the catalog holds now; a loss is kept until it is `acknowledged`, and returned.

    A disk that refuses the file, and a catalog that is damaged, are only logged: an older record is no wrong one.
    """
    try:
        recorded, _ = _read(catalog.folder)
        loss, now = (None if acknowledged else find_loss(catalog)), state_of(catalog)
        if recorded is None or acknowledged or loss is not None or recorded.generation != now.generation:
            content = {"schema": 1, "state": asdict(now), "loss": None if loss is None else asdict(loss)}
            with replace_file(catalog.folder / RECORDED_NAME) as part:
                part.write_bytes(json.dumps(content).encode())
        return loss
    except (CatalogError, OSError) as error:
        log.info("%s is not written: %s", catalog.folder / RECORDED_NAME, error)
        return None


def _read(folder: Path) -> tuple[State | None, Loss | None]:
    """The last state and the loss in the file; None for what is not there, or damaged."""
    try:
        content = json.loads((folder / RECORDED_NAME).read_bytes())
        lost = content["loss"]
        loss = None if lost is None else Loss(_state(lost["recorded"]), _state(lost["found"]))
        return _state(content["state"]), loss
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None, None


def _state(record: dict[str, Any]) -> State:
    """Raises ValueError, and what Python raises of values of other types, for what `state_of` cannot have written."""
    state = State(
        id=str(record["id"]),
        generation=int(record["generation"]),
        items=int(record["items"]),
        log_salts=str(record["log_salts"]),
        log_bytes=int(record["log_bytes"]),
        at=float(record["at"]),
    )
    if not (min(state.generation, state.items, state.log_bytes) >= 0 and 0 <= state.at < MAX_TIME_S):
        raise ValueError(f"no state of a catalog: {state}")
    return state
