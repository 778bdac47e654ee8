"""A training example: a query, the target that answers it and targets that do not, exactly as the model will see them.

Nothing is decoded here: a `Picture` knows where its pixels lie and opens them when a batch is made.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from mmsearch.errors import DatasetError
from mmsearch.media import decode_image
from mmsearch.training.sources import TarMember


@runtime_checkable
class Picture(Protocol):
    """Pixels that are decoded on demand, in whatever process makes the batch: it must be picklable."""

    def open(self) -> Image.Image:
        """The picture, RGB, upright, in its own size.

        Raises:
            DatasetError, SourceError or OSError: it cannot be read; the record is then skipped.
        """
        ...


@dataclass(frozen=True, slots=True)
class FilePicture:
    """A picture file."""

    path: Path

    @property
    def identity(self) -> str:
        return str(self.path)

    def open(self) -> Image.Image:
        if not self.path.is_file():
            raise DatasetError(f"no picture at {self.path}")
        return decode_image(self.path)


@dataclass(frozen=True, slots=True)
class BytesPicture:
    """An encoded picture (JPEG, PNG, …) that a dataset carries in itself.

    Attributes:
        name: where it came from, for messages.
    """

    data: bytes
    name: str = "picture"

    @property
    def identity(self) -> str:
        return hashlib.sha1(self.data).hexdigest()

    def open(self) -> Image.Image:
        file = io.BytesIO(self.data)
        file.name = self.name  # what decoders name in their errors
        return decode_image(file)


@dataclass(frozen=True, slots=True)
class TarPicture:
    """A picture inside an uncompressed tar."""

    member: TarMember
    name: str

    @property
    def identity(self) -> str:
        return f"{self.member.tar}@{self.member.offset}"

    def open(self) -> Image.Image:
        return BytesPicture(self.member.read(), self.name).open()


@dataclass(frozen=True, slots=True)
class MadePicture:
    """A picture that `make(*arguments)` returns: a rendered page, a frame of a video.

    `make` is a function of a module, so that the picture can be sent to a worker process; `identity` is what tells this
    picture from others.
    """

    make: Callable[..., Image.Image]
    arguments: tuple[Any, ...]
    identity: str

    def open(self) -> Image.Image:
        return self.make(*self.arguments)


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a pair exactly as the model sees it.

    Attributes:
        prompt: final, with one image token per picture or one video token (see `mmsearch.prompts.final_prompt`).
        pictures: single images in the order of their tokens or, with `is_video`, the frames of one video.
        max_pixels: budget of each picture; the model's own if None.
    """

    prompt: str
    pictures: tuple[Picture, ...] = ()
    is_video: bool = False
    max_pixels: int | None = None

    def images(self) -> list[Image.Image]:
        """The pictures decoded, RGB, in order. Raises: see `Picture.open`."""
        return [picture.open() for picture in self.pictures]


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and its targets.

    Attributes:
        negatives: targets that do not answer the query although they look as if they did (hard negatives); may differ in
            number from pair to pair.
        key: names the record in messages: file or dataset and row.
        target_key: pairs with equal keys have the same target, so that neither is the other's negative. None: unlike
            every other.
        teacher_scores: a teacher's score of the target and then of each negative; None without a teacher.
    """

    query: Side
    target: Side
    negatives: tuple[Side, ...] = ()
    key: str = ""
    target_key: str | None = None
    teacher_scores: tuple[float, ...] | None = None

    def sides(self) -> tuple[Side, ...]:
        """Query, target, then the negatives."""
        return (self.query, self.target, *self.negatives)


def side_key(side: Side) -> str:
    """A `target_key`: equal for equal prompts over the same pictures (pictures without an identity are unlike all others)."""
    parts = [side.prompt]
    parts += [str(getattr(picture, "identity", id(picture))) for picture in side.pictures]
    return hashlib.sha1("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
