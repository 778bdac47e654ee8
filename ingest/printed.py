"""The print in a page or picture, read inside a worker process: which items need it, at which size, and what their text is then.

A text layer is never replaced. Only a broken one (mostly characters that stand for no letter) gives way, since it holds no words.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingest.readers import Reading, demand_type
from ingest.text_layer import clean_text, is_broken, page_needs_reading
from mmsearch import media
from mmsearch.errors import CorruptFile, FileTooLarge, SourceError
from mmsearch.items import ItemDraft, Source
from mmsearch.media import ocr
from mmsearch.media.ocr.looks import LOOK_SIDE_PX, has_print, print_score

if TYPE_CHECKING:
    from PIL.Image import Image

PAGE_SCORE = -2.5
"""A page without text is read from this `print_score` on: lower than for photos (0), since few documents are albums."""


def with_print(layer: str, read: str) -> str:
    """An item's whole text: the layer, then the recognised lines that it does not hold already."""
    if not layer or is_broken(layer):
        return read
    known = _bare(layer)
    return "\n".join([layer, *(line for line in read.split("\n") if _bare(line) not in known)])


def _bare(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())


def read_print(
    source: Source, ordinal: int, reader: ocr.Reader, reading: Reading, *, is_known: bool
) -> ItemDraft | None:
    """Read one page or picture.

    Args:
        is_known: somebody looked already and saw print; else a picture is looked at first.

    Returns:
        A draft with `recognised`, with `text` as it shall be, and with the picture for the model where any text was found.
        None: nothing to read there.

    Raises:
        SourceError: the page or picture cannot be decoded or read.
    """
    is_page = demand_type(source.path).drawn_by == "document"
    try:
        if is_page:
            return _read_page(source, ordinal, reader, reading)
        return _read_picture(source, ordinal, reader, reading, is_known=is_known)
    except SourceError:
        raise
    except MemoryError:
        raise FileTooLarge(source.path, "recognising its text needs more memory than allowed") from None
    except Exception as error:  # an engine's own way of saying no
        if media.is_out_of_memory(error):
            raise FileTooLarge(source.path, "recognising its text needs more memory than allowed") from None
        raise CorruptFile(
            source.path, f"text recognition failed ({type(error).__name__}: {str(error)[:200]})"
        ) from error


def _read_page(source: Source, ordinal: int, reader: ocr.Reader, reading: Reading) -> ItemDraft | None:
    with media.open_document(source.path) as document:
        if not 0 <= ordinal < document.page_count:
            raise CorruptFile(source.path, f"there is no page {ordinal + 1} any longer")
        page = document[ordinal]
        layer = clean_text(page.get_text("text"))
        if not page_needs_reading(page, layer):
            return None
        image = media.draw_page(page, max_pixels=None, dpi=72.0 * ocr.READ_SIDE_PX / _long_side(page))
        if print_score(image) < PAGE_SCORE:
            return None
        reading.on_progress()
        draft = ItemDraft(source, "page", ordinal, page_number=ordinal + 1, text=layer)
        return _read(
            draft, image, reader, lambda: media.draw_page(page, max_pixels=reading.budget["page"]), is_page=True
        )


def _long_side(page: Any) -> float:
    return max(float(page.rect.width), float(page.rect.height), 1.0)


def _read_picture(
    source: Source, ordinal: int, reader: ocr.Reader, reading: Reading, *, is_known: bool
) -> ItemDraft | None:
    if not is_known and not _shows_print(source.path, reading):
        return None
    kind, image = _decode(source.path, ordinal, reading)
    if kind == "page" and print_score(image) < PAGE_SCORE:
        return None
    reading.on_progress()
    draft = ItemDraft(source, kind, ordinal, page_number=ordinal + 1 if kind == "page" else None)
    budget = reading.budget[kind]
    return _read(draft, ocr.picture_to_read(image), reader, lambda: media.fit(image, max_pixels=budget))


def _shows_print(path: Path, reading: Reading) -> bool:
    """Look at a picture at low resolution; the pages of a TIFF are looked at one by one later."""
    with media.open_header(path, header_limit_pixels=reading.max_image_pixels) as header:
        if header.format == "TIFF" and getattr(header, "n_frames", 1) > 1:
            return True
    limit = reading.max_image_pixels
    return has_print(media.decode_picture(path, max_pixels=LOOK_SIDE_PX**2, header_limit_pixels=limit).image)


def _decode(path: Path, ordinal: int, reading: Reading) -> tuple[Any, Image]:
    """The kind, and the picture at full size (a JPEG at a fraction, if it is far larger than what is read)."""
    with media.open_header(path, header_limit_pixels=reading.max_image_pixels) as header:
        frame_count = getattr(header, "n_frames", 1)
        if header.format == "TIFF" and frame_count > 1:
            if ordinal >= frame_count:
                raise CorruptFile(path, f"there is no page {ordinal + 1} any longer")
            return "page", media.decode_tiff_page(header, ordinal, str(path), limit_pixels=reading.max_image_pixels)
    full = ocr.MAX_PICTURE_SIDE_PX**2
    return "image", media.decode_picture(path, max_pixels=full, header_limit_pixels=reading.max_image_pixels).image


def _read(draft: ItemDraft, image: Image, reader: ocr.Reader, for_model: Any, *, is_page: bool = False) -> ItemDraft:
    """The draft with what was read; with the model's picture only where its text changes."""
    recognised = reader.read(image, is_page=is_page)
    if not recognised.lines:
        return replace(draft, recognised=recognised)
    return replace(
        draft,
        text=with_print(draft.text, recognised.text),
        text_source="ocr",
        has_print=True,
        recognised=recognised,
        images=(for_model(),),
    )
