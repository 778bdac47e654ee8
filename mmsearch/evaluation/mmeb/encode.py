"""Sides of tasks as vectors: each distinct input once, whatever task it comes from, shared out over all processes.

What decides a vector is its key: the model key, the precision, the words that the model reads, the bytes of the pictures and their
budget. Processes meet in the cache (see `mmsearch.evaluation.vector_cache`), so they need a folder that all of them see.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from mmsearch.embedders import Embedder
from mmsearch.embedders.forward.batching import made_ahead
from mmsearch.errors import DatasetError, MMSearchError
from mmsearch.evaluation.scoring import Vectors
from mmsearch.evaluation.vector_cache import VectorCache
from mmsearch.items import EmbedInput
from mmsearch.training.parallel.processes import Processes

if TYPE_CHECKING:
    from mmsearch.evaluation.mmeb.data import Side

Role = Literal["query", "document"]
Tell = Callable[[int, int], None]
"""Called with the number of inputs encoded so far (by this process) and the number it has to do."""

PICTURE_COST, CHARACTERS_PER_TOKEN = 1000, 4
"""A picture's share of the work beside a token's, before it is decoded."""
PICTURES_PER_WINDOW, TOKENS_PER_WINDOW = 64, 100_000
"""Decoded and handed to the model together; it makes its own batches of them."""
SIDES_PER_MEDIUM = 64
"""Prompts on the same pictures that are handed over together."""
WINDOWS_AHEAD = 3


@dataclass(frozen=True, slots=True)
class Input:
    """A side in its role, with its keys.

    Attributes:
        media: of its pictures alone, b"" without any: inputs of one medium can share its visual prefix.
        key: of everything that decides its vector.
    """

    side: Side
    role: Role
    media: bytes
    key: bytes

    @property
    def tokens(self) -> int:
        return len(self.side.prompt) // CHARACTERS_PER_TOKEN + 1


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors by key (empty but in the first process), and what they took.

    Attributes:
        computed, reused: distinct inputs, of all processes together.
    """

    vectors: dict[bytes, np.ndarray]
    computed: int
    reused: int

    def of(self, inputs: Sequence[Input]) -> Vectors:
        """In the order of the inputs: float32 [n, dim], or a list of float32 [tokens, dim]."""
        found = [self.vectors[one.key] for one in inputs]
        return np.stack(found) if found and found[0].ndim == 1 else found


class SideEncoder:
    """An embedder behind a cache.

    Args:
        precision: what else decides a vector's bits: device type and dtype.
    """

    def __init__(self, embedder: Embedder, cache: VectorCache, processes: Processes, *, precision: str) -> None:
        self.embedder = embedder
        self.cache = cache
        self.processes = processes
        self.takes_prompts = hasattr(embedder, "embed_prompts")
        self._about = f"{embedder.model_key}\0{precision}"

    def inputs(self, sides: Sequence[Side], role: Role) -> list[Input]:
        """The sides with their keys. A collective: the pictures' bytes are read by all processes together, each a part.

        Raises: DatasetError, SourceError or OSError: a picture is not there.
        """
        own = range(self.processes.rank, len(sides), self.processes.count)

        def keyed(places: Sequence[int]) -> list[tuple[bytes, bytes]]:
            with ThreadPoolExecutor(4, thread_name_prefix="digest") as pool:
                return list(pool.map(lambda place: self._keys(sides[place], role), places))

        parts = self.together(lambda: keyed(own))
        found: list[tuple[bytes, bytes]] = [(b"", b"")] * len(sides)
        for rank, keys in enumerate(parts):
            found[rank :: self.processes.count] = keys
        return [Input(side, role, media, key) for side, (media, key) in zip(sides, found, strict=True)]

    def encode(self, inputs: Sequence[Input], tell: Tell | None = None) -> Encoded:
        """Vectors of all inputs, from the cache where they are known. A collective.

        Raises:
            DatasetError, SourceError: a picture cannot be read. EmbedderError: an input that the model does not take.
        """
        distinct = {one.key: one for one in inputs}
        vectors: dict[bytes, np.ndarray] = {}
        self.together(lambda: vectors.update(self.cache.get(distinct)) if self.processes.is_first else None)
        missing = self.processes.gather_objects([key for key in distinct if key not in vectors])[0]
        shares = share_by_cost(groups_of([distinct[key] for key in missing]), self.processes.count)
        self.together(lambda: self._compute(shares[self.processes.rank], tell))
        if self.processes.is_first:
            vectors |= self.cache.get(missing)
            if lost := len(distinct) - len(vectors):
                raise DatasetError(
                    f"{lost} vectors of other processes are not in {self.cache.folder}: all processes need one folder for --out"
                )
        return Encoded(vectors, len(missing), len(distinct) - len(missing))

    def together(self, work: Callable[[], Any]) -> list[Any]:
        """What `work` gives in every process; where it fails in one, all raise that error, so that none waits for it forever."""
        result: Any = None
        failure: Exception | None = None
        try:
            result = work()
        except (MMSearchError, OSError) as error:
            failure = error
        failures = self.processes.gather_objects(None if failure is None else str(failure))
        if failure is not None:
            raise failure
        if told := [words for words in failures if words is not None]:
            raise DatasetError(told[0])
        return self.processes.gather_objects(result)

    def _keys(self, side: Side, role: Role) -> tuple[bytes, bytes]:
        """Of the pictures, and of everything."""
        media = b""
        if side.pictures:
            told = [self.embedder.max_pixels[side.kind], side.is_video, *(one.content_key() for one in side.pictures)]
            media = hashlib.sha256(json.dumps(told).encode()).digest()
        words = [side.prompt] if self.takes_prompts else [role, side.instruction, side.text, side.kind]
        content = json.dumps([self._about, *words]).encode()
        return media, hashlib.sha256(content + media).digest()

    def _compute(self, groups: Sequence[list[Input]], tell: Tell | None) -> None:
        windows = list(windows_of(groups))
        done, of = 0, sum(len(group) for window in windows for group in window)

        def decoded(places: list[int]) -> tuple[list[Input], list[list[Image.Image]]]:
            """The window's inputs and the pictures of each: one list for all inputs of a medium."""
            inputs, images = [], []
            for group in windows[places[0]]:
                pictures = [picture.open() for picture in group[0].side.pictures]
                inputs += group
                images += [pictures] * len(group)
            return inputs, images

        for inputs, images in made_ahead(decoded, [[place] for place in range(len(windows))], threads=WINDOWS_AHEAD):
            vectors = self._embed(inputs, images)
            self.cache.put({one.key: vector for one, vector in zip(inputs, vectors, strict=True)})
            done += len(inputs)
            if tell is not None:
                tell(done, of)

    def _embed(self, inputs: Sequence[Input], images: Sequence[list[Image.Image]]) -> Vectors:
        embedder: Any = self.embedder
        if self.takes_prompts:
            return embedder.embed_prompts(
                [one.side.prompt for one in inputs],
                [shown or None for shown in images],
                [one.side.is_video for one in inputs],
                max_pixels=[embedder.max_pixels[one.side.kind] for one in inputs],
            )
        vectors: list[np.ndarray | None] = [None] * len(inputs)
        for role, encode in (("query", embedder.encode_queries), ("document", embedder.encode_documents)):
            rows = [row for row, one in enumerate(inputs) if one.role == role]
            asked = [
                EmbedInput(side.instruction, side.text, tuple(images[row]), side.is_video, side.kind)
                for row, side in ((row, inputs[row].side) for row in rows)
            ]
            for row, vector in zip(rows, encode(asked) if asked else (), strict=True):
                vectors[row] = vector
        return [vector for vector in vectors if vector is not None]


def groups_of(inputs: Sequence[Input]) -> list[list[Input]]:
    """Inputs of one medium together (in parts where they are many), those without pictures alone."""
    groups: list[list[Input]] = []
    of_medium: dict[bytes, list[Input]] = {}
    for one in inputs:
        group = of_medium.get(one.media) if one.media else None
        if group is None or len(group) == SIDES_PER_MEDIUM:
            group = []
            groups.append(group)
            of_medium[one.media] = group
        group.append(one)
    return groups


def cost_of(group: Sequence[Input]) -> int:
    return PICTURE_COST * len(group[0].side.pictures) + sum(one.tokens for one in group)


def share_by_cost(groups: Sequence[list[Input]], processes: int) -> list[list[list[Input]]]:
    """The groups of each process, the costliest first; the next one goes to whoever has least so far."""
    shares: list[list[list[Input]]] = [[] for _ in range(processes)]
    loads = [0] * processes
    for group in sorted(groups, key=cost_of, reverse=True):
        least = loads.index(min(loads))
        shares[least].append(group)
        loads[least] += cost_of(group)
    return shares


def windows_of(groups: Sequence[list[Input]]) -> Iterator[list[list[Input]]]:
    """Consecutive groups in windows that fit into memory when decoded."""
    window: list[list[Input]] = []
    pictures = tokens = 0
    for group in groups:
        more_pictures, more_tokens = len(group[0].side.pictures), sum(one.tokens for one in group)
        if window and (pictures + more_pictures > PICTURES_PER_WINDOW or tokens + more_tokens > TOKENS_PER_WINDOW):
            yield window
            window, pictures, tokens = [], 0, 0
        window.append(group)
        pictures, tokens = pictures + more_pictures, tokens + more_tokens
    if window:
        yield window
