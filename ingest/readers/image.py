"""Photos and pictures: one item each. An animation is a clip, a TIFF of several pages is a document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.readers import Facts, Reading, clips
from ingest.sidecars import description_beside
from mmsearch import media
from mmsearch.errors import CorruptFile, FileTooLarge
from mmsearch.items import ItemDraft, Kind, Source
from mmsearch.media.descriptions import Description
from mmsearch.media.ocr.looks import has_print
from mmsearch.media.picture_dates import picture_date
from mmsearch.media.picture_words import picture_words

if TYPE_CHECKING:
    from PIL.Image import Image

ANIMATED = {"GIF", "WEBP", "PNG", "AVIF"}
DEFAULT_FRAME_S = 0.1
"""What browsers use for animation frames that state no duration."""


def read_items(source: Source, reading: Reading) -> Iterator[ItemDraft]:
    """One photo; or the clips of an animation; or the pages of a TIFF.

    Raises:
        CorruptFile, UnsupportedFile, FileTooLarge: see `media.open_header`.
    """
    with media.open_header(source.path, header_limit_pixels=reading.max_image_pixels) as header:
        said = description_beside(source.path).over(picture_words(header))
        meta = {**said.meta(), **media.image_meta(header)}
        frame_count = getattr(header, "n_frames", 1)
        if frame_count > 1 and header.format in ANIMATED:
            frames = _frames(source, header, frame_count, reading)
            yield from clips.drafts(source, frames, reading, meta=meta, description=said.text)
            return
        if frame_count > 1 and header.format == "TIFF":
            yield from _tiff_pages(source, header, frame_count, said, reading)
            return
    if reading.first_ordinal > 0:
        return
    image, is_whole = media.decode_picture(
        source.path, max_pixels=reading.budget["image"], header_limit_pixels=reading.max_image_pixels
    )
    if not is_whole:
        reading.notes["damaged_photos"] += 1
        meta["damaged"] = "the file is cut short; shown as far as it goes"
    yield ItemDraft(
        source=source,
        kind="image",
        ordinal=0,
        images=(media.fit(image, max_pixels=reading.budget["image"]),),
        preview=media.webp_preview(image),
        meta=meta,
        description=said.text,
        has_print=has_print(image),
    )


def count_items(path: Path) -> tuple[Kind, int, float]:
    with media.open_header(path):
        return "image", 1, 0.0


def read_facts(path: Path) -> Facts:
    with media.open_header(path) as header:
        is_redrawn = media.pixel_shape(header) != 1.0  # older readers took all pixels for squares
        frame_count = getattr(header, "n_frames", 1)
        if frame_count == 1 or header.format != "TIFF":
            return Facts((media.image_meta(header),), is_redrawn)
        first_date = picture_date(header)
        metas = []
        for index in range(frame_count):
            header.seek(index)
            dated = picture_date(header) or first_date
            metas.append(dated.meta() if dated else {})
        return Facts(tuple(metas), is_redrawn)


def is_described(path: Path) -> bool:
    with media.open_header(path) as header:
        return bool(picture_words(header).text)


def _frames(source: Source, animation: Image, frame_count: int, reading: Reading) -> Iterator[clips.Sample]:
    """The frames of an animation with their times; the last sample only says when it ends."""
    now_s = 0.0
    for index in range(frame_count):
        reading.on_progress()
        try:
            animation.seek(index)
            media.demand_size(animation, str(source.path), reading.max_image_pixels)
            frame = media.to_rgb(animation.copy())
        except (EOFError, OSError, SyntaxError, ValueError) as error:
            if index == 0:
                raise CorruptFile(source.path, f"damaged animation ({error})") from error
            break  # what came before the damage is an animation still
        yield clips.Sample(now_s, media.fit(frame, max_pixels=reading.budget["clip"]))
        now_s += (animation.info.get("duration") or 0) / 1000 or DEFAULT_FRAME_S
    yield clips.Sample(now_s, None)


def _tiff_pages(
    source: Source, header: Image, frame_count: int, said: Description, reading: Reading
) -> Iterator[ItemDraft]:
    if frame_count > reading.max_pages:
        raise FileTooLarge(
            source.path, f"{frame_count:,} pages; the limit is {reading.max_pages:,} (setting max_pages)"
        )
    first_date = picture_date(header)
    for index in range(reading.first_ordinal, frame_count):
        reading.on_progress()
        image = media.decode_tiff_page(header, index, str(source.path), limit_pixels=reading.max_image_pixels)
        dated = picture_date(header) or first_date
        yield ItemDraft(
            source=source,
            kind="page",
            ordinal=index,
            page_number=index + 1,
            images=(media.fit(image, max_pixels=reading.budget["page"]),),
            preview=media.webp_preview(image),
            meta={
                "page_count": frame_count,
                **(said.short_meta() if index else said.meta()),
                **(dated.meta() if dated else {}),
            },
            description="" if index else said.text,
            has_print=True,  # a scan, or a fax
        )
