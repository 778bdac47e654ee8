"""The exceptions of mmsearch. Callers catch what they mean; only `cli` and `ui` turn them into words.

MMSearchError
 ├ ConfigError                 a setting or an option that cannot be used
 ├ SourceError(path, reason)   one file cannot be indexed; becomes a persisted, retryable error row
 │  ├ UnsupportedFile
 │  ├ CorruptFile
 │  ├ EncryptedFile
 │  ├ FileTooLarge
 │  └ DecodeTimeout
 ├ WorkerFailed                no decoding process can be started; no file is to blame
 ├ EmbedderError               the model cannot be loaded or run
 │  ├ ModelNotFound
 │  └ MissingExtra
 ├ CatalogError                the library as a whole cannot be used
 │  ├ LibraryMissing
 │  ├ LibraryReplaced
 │  ├ LibraryLocked
 │  ├ NewerSchema
 │  ├ CorruptIndex
 │  ├ DiskFailed               the disk refuses to be read or written
 │  │  └ DiskFull
 │  ├ ModelMismatch
 │  └ DimensionMismatch(expected, got)
 └ DatasetError                training or evaluation data that cannot be used
"""

from __future__ import annotations

import os


class MMSearchError(Exception):
    """Base of all errors raised by mmsearch."""


class ConfigError(MMSearchError):
    """A setting or option that cannot be used."""


class SourceError(MMSearchError):
    """One file cannot be indexed.

    Attributes:
        path: the file, as given by the file system (may hold surrogate escapes).
        reason: one sentence for people, without the path.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        self.path = os.fspath(path)
        self.reason = reason
        super().__init__(self.path, reason)

    def __str__(self) -> str:
        return f"{self.path!r}: {self.reason}"


class UnsupportedFile(SourceError):
    """No reader takes this content."""


class CorruptFile(SourceError):
    """The content contradicts its own format, or a decoder died on it."""


class EncryptedFile(SourceError):
    """A password is needed."""


class FileTooLarge(SourceError):
    """Decoding would exceed a limit (pixels, pages, bytes or memory)."""


class DecodeTimeout(SourceError):
    """Decoding did not end before its deadline."""


class WorkerFailed(MMSearchError):
    """Decoding processes die while they start, for example without memory. No file is to blame."""


class EmbedderError(MMSearchError):
    """The model cannot be loaded or run."""


class ModelNotFound(EmbedderError):
    """No checkpoint under that name or folder."""


class MissingExtra(EmbedderError):
    """An optional package is needed; the message says how to install it."""


class CatalogError(MMSearchError):
    """The library as a whole cannot be used."""


class LibraryMissing(CatalogError):
    """No library at that folder yet."""


class LibraryReplaced(CatalogError):
    """The opened catalog is no longer the one at its place: that was deleted, or another one put there."""


class LibraryLocked(CatalogError):
    """Another process is writing to the library."""


class NewerSchema(CatalogError):
    """The library was written by a newer mmsearch."""


class CorruptIndex(CatalogError):
    """The catalog itself is damaged (a damaged FAISS snapshot is rebuilt, not raised)."""


class DiskFailed(CatalogError):
    """The disk under the library, or under a file that is being written, refuses to be read or written; nothing of it is damaged."""


class DiskFull(DiskFailed):
    """No room is left on that disk, or a quota is used up; the same command goes on once there is room."""


class ModelMismatch(CatalogError):
    """The vectors belong to another model key."""


class DimensionMismatch(CatalogError):
    """Vectors of one length were given where another is stored."""

    def __init__(self, expected: int, got: int) -> None:
        self.expected = expected
        self.got = got
        super().__init__(f"vectors have {got} dimensions, the store holds {expected}")

    def __reduce__(self) -> tuple[type[DimensionMismatch], tuple[int, int]]:
        return type(self), (self.expected, self.got)


class DatasetError(MMSearchError):
    """Training or evaluation data that cannot be used."""
