"""What a document says beside its pages' text: title, author, subject and keywords, and the notes on a page.

The values of a form are in the text of its pages: MuPDF draws them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from mmsearch.media.descriptions import NOTHING, Description, plain
from mmsearch.media.xmp import description_of_packet, split_keywords

MAX_NOTES, MAX_NOTE_CHARS = 1000, 4000
"""Of a page: notes that are looked at, and the length of one."""
MAX_NOTES_CHARS = 20_000
"""Of all notes of a page."""


def document_words(document: Any) -> Description:
    """What an open `pymupdf.Document` says of itself as a whole."""
    facts = document.metadata or {}
    said = Description.of(
        titles=[facts.get("title")],
        captions=[facts.get("subject")],
        keywords=split_keywords(facts.get("keywords")),
        authors=(facts.get("author") or "").split(";")[:20],
    )
    packet = NOTHING
    if document.is_pdf:
        with suppress(Exception):  # a damaged stream costs what it would say
            packet = description_of_packet(document.get_xml_metadata() or "")
    return said.over(packet)


def page_notes(page: Any, text: str) -> tuple[str, bool]:
    """The notes on an open `pymupdf.Page` that its text does not hold, one a line, and whether there are more than are read; damage gives
    fewer of them."""
    known = "".join(text.casefold().split())
    found: dict[str, None] = {}
    is_cut = False
    with suppress(Exception):  # foreign objects of their own: nothing in them may cost the page
        for number, value in enumerate(islice(_notes(page), MAX_NOTES + 1)):
            words = plain(value, MAX_NOTE_CHARS) if number < MAX_NOTES else ""
            is_cut |= number == MAX_NOTES
            if words and "".join(words.casefold().split()) not in known:
                found[words] = None
    notes = "\n".join(found)
    return notes[:MAX_NOTES_CHARS], is_cut or len(notes) > MAX_NOTES_CHARS


def _notes(page: Any) -> Iterator[Any]:
    for annotation in page.annots() or ():
        if annotation.type[1] != "FileAttachment":
            yield annotation.info.get("subject")
            yield annotation.info.get("content")
