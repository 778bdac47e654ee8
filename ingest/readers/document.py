"""Documents by PyMuPDF (PDF, EPUB, XPS, CBZ, SVG): a page is an item, its image at the model's pixel budget beside its text.

A page without text and without ink is no item; it is counted as `blank_pages` and leaves a gap in the ordinals, so that
an ordinal is always the page's index. Where all pages are such, the first one is an item: the document is found by its name.
One damaged page costs that page (`damaged_pages`), not the document.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.attachments import NONE, Attachments
from ingest.document_words import MAX_NOTES_CHARS, document_words, page_notes
from ingest.readers import Facts, Reading
from ingest.text_layer import clean_text, page_needs_reading
from mmsearch import media
from mmsearch.errors import CorruptFile, EncryptedFile, FileTooLarge
from mmsearch.items import ItemDraft, Kind, Source
from mmsearch.media.dates import Dated, parse_written

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

MAX_LABEL_CHARS = 100
LOOK_PIXELS = 500_000
"""Enough to see whether a page shows anything."""
INK_LEVELS = 8
"""A page whose grey levels span less than this (of 255) shows nothing."""


def load_decoders() -> None:
    media.load_pymupdf()


def read_items(source: Source, reading: Reading) -> Iterator[ItemDraft]:
    """One draft per page that has text or ink; of a document without any such page its first blank one.

    Raises:
        CorruptFile: unreadable, no pages, or no page can be drawn. EncryptedFile: a password is needed.
        FileTooLarge: more pages than allowed.
    """
    demand_unlocked(source.path)
    with media.open_document(source.path) as document:
        page_count = _page_count(document, source.path)
        if page_count > reading.max_pages:
            raise FileTooLarge(
                source.path, f"{page_count:,} pages; the limit is {reading.max_pages:,} (setting max_pages)"
            )
        said = document_words(document)
        leads = _is_first(document, reading.first_ordinal)
        attachments = Attachments(document, reading.on_progress)
        of_document = attachments.of_document() if leads and document.is_pdf else NONE
        told = _told(document)
        drawn = 0
        damage = ""
        has_items = False
        first_blank: ItemDraft | None = None
        for index in range(reading.first_ordinal, page_count):
            reading.on_progress()
            media.take_document_warnings()
            try:
                page = document[index]
                image = media.draw_page(page, max_pixels=reading.budget["page"])
                text = clean_text(page.get_text("text"))
                label = clean_text(page.get_label())[:MAX_LABEL_CHARS] if document.is_pdf else ""
                shape = (page.rect.width, page.rect.height)
                needs_reading = page_needs_reading(page, text)
                notes, are_notes_cut = page_notes(page, text) if document.is_pdf else ("", False)
            except MemoryError:
                raise FileTooLarge(source.path, f"page {index + 1} needs more memory than allowed") from None
            except Exception as error:  # MuPDF's classes, RuntimeError, ValueError (no area): this page only
                damage = f"page {index + 1}: {(str(error).strip().splitlines() or [type(error).__name__])[0]}"
                log.debug("%s: %s", source.path, damage)
                reading.notes["damaged_pages"] += 1
                continue
            pinned = attachments.of_page(page) if document.is_pdf else NONE
            is_without_content = not text and not notes and not pinned.names and is_blank(image)
            if is_without_content:
                if warning := media.take_document_warnings():  # MuPDF leaves out what it cannot draw, and says so there
                    damage = f"page {index + 1}: {warning}"
                    reading.notes["damaged_pages"] += 1
                    continue
                if has_items or first_blank is not None:
                    drawn += 1
                    reading.notes["blank_pages"] += 1
                    continue
            drawn += 1
            meta: dict[str, Any] = {"page_count": page_count}
            if label and label != str(index + 1):
                meta["page_label"] = label
            meta |= said.meta() if leads else said.short_meta()
            if attached := [*pinned.names, *(of_document.names if leads else ())]:
                meta["attachments"] = attached
            if are_notes_cut:
                meta["text_cut"] = f"notes beyond {MAX_NOTES_CHARS:,} characters of the page"
            elif attached and attachments.is_cut:
                meta["text_cut"] = "of embedded files beyond the limits"
            meta |= told
            draft = ItemDraft(
                source=source,
                kind="page",
                ordinal=index,
                page_number=index + 1,
                text=text,
                images=(image,),
                preview=media.webp_preview(_in_shape(image, *shape)),
                meta=meta,
                text_source="layer" if text else None,
                description="\n\n".join(
                    [said.text if leads else "", notes, pinned.text, of_document.text if leads else ""]
                ).rstrip(),
                has_print=False if is_without_content else needs_reading,
            )
            if is_without_content:
                first_blank = draft
                continue
            if first_blank is not None and not has_items:
                reading.notes["blank_pages"] += 1
            has_items, leads = True, False
            yield draft
        if first_blank is not None and not has_items:
            if any(_is_sound(document, index) for index in range(reading.first_ordinal)):
                reading.notes["blank_pages"] += 1
            else:
                yield first_blank
        if damage and not drawn and reading.first_ordinal == 0:
            if media.is_out_of_memory(damage):
                raise FileTooLarge(source.path, "every page needs more memory than allowed")
            raise CorruptFile(source.path, f"no page can be drawn ({damage})")


LOCKS = {"META-INF/rights.xml", "META-INF/license.lcpl", "META-INF/sinf.xml"}
"""What the shops' locks on e-books leave in them: Adobe's, Readium's, Apple's."""


def demand_unlocked(path: Path) -> None:
    """E-books and comics are archives, whose locks MuPDF does not tell from damage.

    Raises:
        EncryptedFile: members are encrypted.
    """
    try:
        with path.open("rb") as handle:
            if handle.read(4) != b"PK\x03\x04":
                return
            with zipfile.ZipFile(handle) as archive:
                members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return  # MuPDF mends some, and names the damage of others
    if any(member.flag_bits & 1 for member in members):
        raise EncryptedFile(path, "the archive needs a password")
    if any(member.filename in LOCKS for member in members):
        raise EncryptedFile(path, "the e-book is locked by its shop (DRM)")


def read_facts(path: Path) -> Facts:
    demand_unlocked(path)
    with media.open_document(path) as document:
        return Facts((document_words(document).short_meta() | _told(document),))


def _told(document: Any) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if created := parse_written((document.metadata or {}).get("creationDate")):
        told |= Dated(created, "document").meta()
    return told


def count_items(path: Path) -> tuple[Kind, int, float]:
    with media.open_document(path) as document:
        if document.is_reflowable:  # counting an e-book's pages means laying it out: guess from its size
            return "page", max(1, path.stat().st_size // 4000), 0.0
        return "page", _page_count(document, path), 0.0


def is_described(path: Path) -> bool:
    with media.open_document(path) as document:
        if document.is_pdf and (document.embfile_count() or document.has_annots()):
            return True
        return bool(document_words(document).text)


def _page_count(document: Any, path: Path) -> int:
    try:
        page_count = document.page_count
    except EncryptedFile:
        raise
    except Exception as error:
        if media.is_out_of_memory(error):
            raise FileTooLarge(path, "decoding needs more memory than allowed") from error
        raise CorruptFile(path, f"damaged document ({str(error)[:200] or type(error).__name__})") from error
    if page_count < 1:
        raise CorruptFile(path, "the document has no pages")
    return page_count


def _is_sound(document: Any, index: int) -> bool:
    """Whether a page can be drawn as a whole, blank or not: an earlier run then has an item of it or of one before."""
    media.take_document_warnings()
    try:
        page = document[index]
        if clean_text(page.get_text("text")) or not is_blank(media.draw_page(page, max_pixels=LOOK_PIXELS)):
            return True
    except Exception:  # as in `read_items`: a damaged page is no item
        return False
    return not media.take_document_warnings()


def _is_first(document: Any, first_ordinal: int) -> bool:
    """Whether the next page with content is the document's first item: no page before it has any."""
    return not any(_has_content(document, index) for index in range(first_ordinal))


def _has_content(document: Any, index: int) -> bool:
    try:
        page = document[index]
        text = clean_text(page.get_text("text"))
        return bool(text or page_notes(page, text)[0]) or not is_blank(media.draw_page(page, max_pixels=LOOK_PIXELS))
    except Exception:  # as in `read_items`: a damaged page is no item
        return False


def _in_shape(image: Image, width: float, height: float) -> Image:
    """The model's image has sides in steps of 28; people see the page in its own shape."""
    shape = min(max(width / height, 0.05), 20.0)
    if shape >= 1:
        size = (image.width, max(1, round(image.width / shape)))
    else:
        size = (max(1, round(image.height * shape)), image.height)
    scale = min(1.0, media.PREVIEW_SIDE_PX / max(size))
    return image.resize((max(1, round(size[0] * scale)), max(1, round(size[1] * scale))), reducing_gap=2.0)


def is_blank(image: Image) -> bool:
    """Whether a drawn page shows nothing: one colour all over."""
    grey = np.asarray(image.convert("L"))
    return int(grey.max()) - int(grey.min()) < INK_LEVELS
