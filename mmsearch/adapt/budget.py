"""The time that an adaptation may take as a whole, shared out among its steps: each ends in time, with whatever it has done by then."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mmsearch.items import Item, Kind

DECODING_SHARE = 0.25
"""So much of the time may go into decoding what is trained on; pairs without pictures are left out."""
PROBING_SHARE = 0.4
"""By then the last step that is timed has begun."""
AFTERWARDS_SHARE = 0.45
"""So much at most is kept back for choosing and measuring. Larger libraries are measured on a sample."""
CHOOSING_SHARE = 0.4
"""Of what is left after training, for choosing the share of the new weights; measuring has the rest."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Moments are seconds of `time.monotonic`.

    Attributes:
        seconds: for everything; infinite where nothing limits it. began: when they began to run.
    """

    seconds: float = math.inf
    began: float = field(default_factory=time.monotonic)

    @property
    def ends_at(self) -> float:
        return self.began + self.seconds

    @property
    def is_limited(self) -> bool:
        return math.isfinite(self.seconds)

    def at(self, share: float) -> float:
        """The moment at which this share of the time is over."""
        return self.began + share * self.seconds

    def left_s(self) -> float:
        return self.ends_at - time.monotonic()

    def training_ends_at(self, afterwards_s: float, loading_s: float, asking_s: float = 0.0) -> float:
        """The moment at which training must stop, so that there is time for the rest.

        Args:
            afterwards_s: what choosing and measuring would like to take, `asking_s` included. loading_s: what opening and writing models
                will take. asking_s: what encoding the queries takes; all of them are asked, so nothing of this can be left out.
        """
        return self.ends_at - loading_s - max(asking_s, min(afterwards_s, AFTERWARDS_SHARE * self.seconds))


def thinned(items: Sequence[Item], costs: Mapping[Kind, float], seconds: float) -> list[Item]:
    """As many of the items, drawn alike every time and in their order, as can be embedded in so many seconds.

    Args:
        costs: seconds per item of each kind.
    """
    drawn = [*range(len(items))]
    random.Random(len(items)).shuffle(drawn)
    taken: list[int] = []
    for number in drawn:
        seconds -= costs.get(items[number].kind, 0.0)
        if seconds < 0:
            break
        taken.append(number)
    return [items[number] for number in sorted(taken)]


def by_file(items: Sequence[Item], first: set[int] | None = None) -> list[Item]:
    """The items with their files in random, always equal order, so that whatever is done of them in time stands for all; files with
    items of `first` in front."""
    files = sorted({item.source_id for item in items})
    random.Random(len(files)).shuffle(files)
    place = {source_id: number for number, source_id in enumerate(files)}
    ahead = {item.source_id for item in items if item.id in (first or ())}
    return sorted(items, key=lambda item: (item.source_id not in ahead, place[item.source_id], item.ordinal))
