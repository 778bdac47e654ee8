"""Files that are embedded in a PDF: a portfolio, the XML of an invoice, what is pinned to a page. Their words are those of the page.

Nothing is written to disk, started or followed. Documents and plain text are read, to one level; other files are named.
"""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from mmsearch.media import load_pymupdf
from mmsearch.media.descriptions import decoded, plain

MAX_FILES, MAX_NAME_CHARS = 100, 200
"""Of a document: so many files are named."""
MAX_FILE_BYTES = 32 << 20
"""A larger one is named, not read."""
MAX_FILE_CHARS, MAX_CHARS = 20_000, 60_000
"""Text of one file, and of all of a document."""
MAX_PAGES = 50
BUDGET_S = 10.0
"""After so long no further file is read: a small one may hold a gigabyte of zeros."""

TEXT_SUFFIXES = (".txt", ".md", ".csv", ".tsv", ".xml", ".htm", ".html", ".json", ".ics", ".vcf", ".eml", ".log")
_MARKUP = re.compile(
    r"<(?:script|style)\b.*?</(?:script|style)\s*>|<!--.*?-->|<[^<>]{0,2000}>", re.DOTALL | re.IGNORECASE
)


class Attached(NamedTuple):
    """The words of embedded files, and their names."""

    text: str
    names: list[str]


NONE = Attached("", [])


@dataclass(slots=True)
class Attachments:
    """The embedded files of one document; what it reads in all is bounded.

    Args:
        on_progress: called between files.

    Attributes:
        is_cut: whether a limit kept a file, or part of one, from being read so far.
    """

    document: Any
    on_progress: Callable[[], None] = lambda: None
    is_cut: bool = False
    _chars: int = 0
    _files: int = 0
    _until: float = field(default_factory=lambda: time.monotonic() + BUDGET_S)

    def of_document(self) -> Attached:
        """Those of the document as a whole."""

        def files() -> Iterator[tuple[Any, Any, int, Callable[[], bytes]]]:
            for number in range(min(self.document.embfile_count(), MAX_FILES + 1)):
                facts = self.document.embfile_info(number)
                yield (
                    facts.get("ufilename") or facts.get("filename") or facts.get("name"),
                    facts.get("description"),
                    int(facts.get("size") or 0),
                    partial(self.document.embfile_get, number),
                )

        return self._read(files())

    def of_page(self, page: Any) -> Attached:
        """Those that are pinned to an open `pymupdf.Page`."""

        def files() -> Iterator[tuple[Any, Any, int, Callable[[], bytes]]]:
            for annotation in page.annots(types=[load_pymupdf().PDF_ANNOT_FILE_ATTACHMENT]) or ():
                facts = annotation.file_info
                yield facts.get("filename"), facts.get("description"), int(facts.get("size") or 0), annotation.get_file

        return self._read(files())

    def _read(self, files: Iterator[tuple[Any, Any, int, Callable[[], bytes]]]) -> Attached:
        names: list[str] = []
        texts: list[str] = []
        with suppress(Exception):  # a damaged list of files costs what follows in it
            for raw_name, raw_description, size_bytes, content in files:
                self._files += 1
                if self._files > MAX_FILES:
                    self.is_cut = True
                    break
                self.on_progress()
                name, description = plain(raw_name, MAX_NAME_CHARS), plain(raw_description, MAX_NAME_CHARS)
                if name and name not in names:
                    names.append(name)
                words = self._words(name, size_bytes, content)
                self._chars += len(words)
                texts += dict.fromkeys(filter(None, (name, description, words)))
        return Attached("\n".join(texts), names)

    def _words(self, name: str, size_bytes: int, content: Callable[[], bytes]) -> str:
        most = min(MAX_FILE_CHARS, MAX_CHARS - self._chars)
        if most <= 0 or size_bytes > MAX_FILE_BYTES or time.monotonic() > self._until:
            self.is_cut = True
            return ""
        words = ""
        try:
            raw = content()
            if b"%PDF-" in raw[:1024]:
                words = _words_of_pdf(raw, most + 1, self._until)
            elif name.lower().endswith(TEXT_SUFFIXES):
                words = _words_of_text(raw, most + 1)
        except Exception:  # MuPDF's own, and what is damaged: the file is named
            self._until = min(self._until, time.monotonic() + BUDGET_S / 4)
        self.is_cut |= len(words) > most
        return words[:most]


def _words_of_pdf(raw: bytes, most: int, until: float) -> str:
    texts: list[str] = []
    with load_pymupdf().open(stream=raw, filetype="pdf") as inner:
        if inner.needs_pass:
            return ""
        for number in range(min(inner.page_count, MAX_PAGES)):
            if sum(map(len, texts)) > most or time.monotonic() > until:
                break
            with suppress(Exception):  # this page only
                texts.append(inner[number].get_text("text"))
    return _lines("\n".join(texts), most)


def _words_of_text(raw: bytes, most: int) -> str:
    text = decoded(raw)
    if text.lstrip()[:1] == "<":
        text = html.unescape(_MARKUP.sub("\n", text))
    return _lines(text, most)


def _lines(text: str, most: int) -> str:
    lines = (" ".join(line.replace("\0", " ").split()) for line in text[: 40 * most].splitlines())
    return "\n".join(filter(None, lines))[:most]
