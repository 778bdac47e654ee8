"""A training example: a query, the target that answers it and targets that do not, exactly as the model will see them.

Nothing is decoded here: a `Picture` knows where its pixels lie and opens them when a batch is made.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from PIL import Image

from mmsearch.media.pictures import BytesPicture, FilePicture, MadePicture, Picture, TarPicture

__all__ = ["BytesPicture", "FilePicture", "MadePicture", "Pair", "Picture", "Side", "TarPicture", "side_key"]


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
