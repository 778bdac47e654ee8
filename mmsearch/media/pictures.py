"""Pictures that are decoded on demand: where their pixels lie, and a key that tells equal content without decoding."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal, Protocol, get_args, runtime_checkable

from PIL import Image

from mmsearch.errors import DatasetError
from mmsearch.media import FORMATS, decode_image, decode_plain

Decoding = Literal["upright", "plain", "plain_on_white"]
"""How an encoded picture becomes pixels. "upright": as in the application (`mmsearch.media.decode_image`): turned by EXIF, alpha over
white, deep greys scaled. "plain": `Image.open(…).convert("RGB")`, as the code of VLM2Vec, UniIR, GME and others reads published data sets.
"plain_on_white": the same with RGBA over white, as Qwen's code does (`qwen_vl_utils.to_rgb`)."""
DECODINGS: tuple[Decoding, ...] = get_args(Decoding)


def decoded(source: Path | IO[bytes], decoding: Decoding) -> Image.Image:
    """RGB pixels of an encoded picture. Raises: SourceError: it cannot be read."""
    if decoding == "upright":
        return decode_image(source)
    return decode_plain(source, alpha_over_white=decoding == "plain_on_white")


def decoded_key(key: str, decoding: Decoding) -> str:
    """A content key that also tells how the content is decoded."""
    return key if decoding == "upright" else f"{key}-{decoding}"


@runtime_checkable
class Picture(Protocol):
    """Pixels that are decoded on demand, in whatever process makes the batch: it must be picklable."""

    def open(self) -> Image.Image:
        """The picture, RGB, in its own size.

        Raises:
            DatasetError, SourceError or OSError: it cannot be read; the record is then skipped.
        """
        ...

    def content_key(self) -> str:
        """A hash of what the picture is made from, equal for equal bytes wherever they lie; nothing is decoded.

        Raises:
            DatasetError or OSError: it cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class FilePicture:
    """A picture file."""

    path: Path
    decoding: Decoding = "upright"

    @property
    def identity(self) -> str:
        return str(self.path)

    def open(self) -> Image.Image:
        if not self.path.is_file():
            raise DatasetError(f"no picture at {self.path}")
        return decoded(self.path, self.decoding)

    def content_key(self) -> str:
        return decoded_key(file_key(self.path), self.decoding)


@dataclass(frozen=True, slots=True)
class BytesPicture:
    """An encoded picture (JPEG, PNG, …) that a dataset carries in itself.

    Attributes:
        name: where it came from, for messages.
    """

    data: bytes
    name: str = "picture"
    decoding: Decoding = "upright"

    @property
    def identity(self) -> str:
        return self.content_key()

    def open(self) -> Image.Image:
        file = io.BytesIO(self.data)
        file.name = self.name  # what decoders name in their errors
        return decoded(file, self.decoding)

    def content_key(self) -> str:
        return decoded_key(hashlib.sha1(self.data).hexdigest(), self.decoding)


@dataclass(frozen=True, slots=True)
class TarMember:
    """Where one file's bytes lie in an uncompressed tar: read without unpacking, in any order."""

    tar: Path
    offset: int
    size: int

    def read(self) -> bytes:
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def image(self) -> Image.Image:
        return Image.open(io.BytesIO(self.read()), formats=FORMATS).convert("RGB")


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

    def content_key(self) -> str:
        return hashlib.sha1(self.member.read()).hexdigest()


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

    def content_key(self) -> str:
        """Of the identity, and of the bytes of every file among the arguments."""
        files = [file_key(argument) for argument in self.arguments if isinstance(argument, Path)]
        return hashlib.sha1("\0".join([self.identity, *files]).encode("utf-8", "surrogatepass")).hexdigest()


def file_key(path: Path) -> str:
    """SHA-1 of a file's bytes; read again only when its size or time has changed. Raises: DatasetError (not there)."""
    try:
        status = path.stat()
    except OSError as error:
        raise DatasetError(f"no file at {path}") from error
    return _hashed_file(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1 << 17)
def _hashed_file(path: Path, size: int, modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha1").hexdigest()
