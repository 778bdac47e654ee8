"""The only place where pixels are decoded: photos, document pages, video frames, previews.

Ingest children, the query side, training and evaluation call these functions, so the same file always gives the same
pixels. Everything comes back as RGB `PIL.Image`s. With `max_pixels` an image is already at the size that the model's own
rule (`smart_resize`) chooses for it, so that the embedder's resize is then the identity.

Decoders meet untrusted bytes here. Limits are checked on headers, before memory is allocated; what a decoder says
becomes a `SourceError`. What a decoder does to its process (memory, time, signals) is bounded by `ingest.decode`.
"""

from __future__ import annotations

import importlib
import io
import math
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from mmsearch.errors import CorruptFile, EncryptedFile, FileTooLarge, SourceError, UnsupportedFile
from mmsearch.media import apple, cut, png_chunks
from mmsearch.media.dates import Dated, parse_written
from mmsearch.media.descriptions import NOTHING, Description
from mmsearch.media.picture_dates import picture_date
from mmsearch.media.video_words import video_words

if TYPE_CHECKING:
    import av
    import pymupdf

FACTOR = 28
"""Image sides are multiples of this: 14-pixel patches, merged two by two."""
MIN_PIXELS = 56 * 56
MAX_ASPECT = 200
TINY_SIDE_PX = 56
"""What the reference makes of an image with a side below `FACTOR`: a square of this side."""

HEADER_LIMIT_PIXELS = 400_000_000
"""Images whose header announces more are refused before any pixel is decoded."""
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "AVIF")
"""Of Pillow's forty, those that are read: fewer decoders for hostile files, and no EPS, for which it starts Ghostscript."""
CUT = "mmsearch.cut"
"""In `Image.info`: which share of the file is there, where bytes are missing."""
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PREVIEW_SIDE_PX = 320
MAX_CAMERA_CHARS = 100
FRAME_BLOCK = 16
"""Frames decoded at once; bounds the memory of a video whatever its length."""

PathOrFile = str | os.PathLike[str] | IO[bytes]


# Sizes


def smart_resize(
    width: int, height: int, *, min_pixels: int = MIN_PIXELS, max_pixels: int, factor: int = FACTOR
) -> tuple[int, int]:
    """The size (width, height) at which the model sees an image: sides are multiples of `factor`, area within bounds.

    A side below `factor` or an aspect above 200 gives a square. Rounding is Python's (half to even).
    Where the reference's rule ends in a side of 0 (a strip under a small budget), the short side is one factor
    and the long side as long as the budget allows.

    Source: TIGER-AI-Lab/VLM2Vec@6e1e1d4 src/model/vlm_backbone/qwen2_vl/image_processing_qwen2_vl.py.
    """
    if min(width, height) < factor or max(width, height) / min(width, height) > MAX_ASPECT:
        width = height = max(factor, width, height)
    w = round(width / factor) * factor
    h = round(height / factor) * factor
    if w * h > max_pixels:
        shrink = math.sqrt((height * width) / max_pixels)
        w = math.floor(width / shrink / factor) * factor
        h = math.floor(height / shrink / factor) * factor
        if min(w, h) < factor:
            longest = max(factor, max_pixels // factor // factor * factor)
            w, h = min(max(w, factor), longest), min(max(h, factor), longest)
    elif w * h < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        w = math.ceil(width * grow / factor) * factor
        h = math.ceil(height * grow / factor) * factor
    return w, h


def fitted_size(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """The size that `fit` gives an image: unchanged up to `max_pixels`, else where the model's own resize ends."""
    if width * height <= max_pixels:
        return width, height
    if min(width, height) < FACTOR:  # the reference's step before smart_resize
        return TINY_SIDE_PX, TINY_SIDE_PX
    return smart_resize(width, height, max_pixels=max_pixels)


def fit(image: Image.Image, *, max_pixels: int) -> Image.Image:
    """Bring an image that is larger than `max_pixels` to the model's size (bicubic); return any other as it is."""
    size = fitted_size(image.width, image.height, max_pixels)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def page_size(width: float, height: float, max_pixels: int) -> tuple[int, int]:
    """The bitmap size for a page of `width` × `height` (any unit): its shape at the full pixel budget.

    Vector pages have no pixels of their own, so that small pages are drawn large. Never exceeds the budget.
    """
    if not (math.isfinite(width) and math.isfinite(height) and width > 0 and height > 0):
        raise ValueError(f"page size {width} × {height}")
    aspect = min(max(width / height, 2 / MAX_ASPECT), MAX_ASPECT / 2)
    short = 100 * FACTOR * math.isqrt(max(max_pixels // FACTOR**2, 1))  # far above the budget, so that it decides
    w, h = (round(short * aspect), short) if aspect >= 1 else (short, round(short / aspect))
    return smart_resize(w, h, max_pixels=max_pixels)


# Photos


class _OwnPixelLimit:
    """Pillow's process-wide limit is lifted while any picture is open: ours is per call and an error, not a warning.

    Pillow asks its own again when it decodes a TIFF or goes on to another frame.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._before: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._open:
                self._before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._open += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._open -= 1
            if not self._open:
                Image.MAX_IMAGE_PIXELS = self._before


_OWN_PIXEL_LIMIT = _OwnPixelLimit()


JPEG_RELIEF = 4
"""A JPEG may have so many times the pixels of other pictures (never more than `HEADER_LIMIT_PIXELS` by that): it is decoded at a fraction."""


def demand_size(image: Image.Image, name: str, limit_pixels: int) -> None:
    """Raises FileTooLarge for an image, or the frame of one, whose header announces more pixels than allowed."""
    if image.format in {"JPEG", "MPO"}:
        limit_pixels = max(limit_pixels, min(JPEG_RELIEF * limit_pixels, HEADER_LIMIT_PIXELS))
    if image.width * image.height > limit_pixels:
        raise FileTooLarge(
            name,
            f"{image.width} × {image.height} pixels; the limit is {limit_pixels / 1e6:.0f} million (setting max_image_pixels)",
        )


def _name(source: PathOrFile) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return str(getattr(source, "name", "<image>"))


def _is_heif(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in {
        b"heic",
        b"heix",
        b"hevc",
        b"hevx",
        b"heim",
        b"heis",
        b"mif1",
        b"msf1",
    }


def _begins_as_picture(head: bytes) -> bool:
    """Whether the first bytes promise a format that `open_header` reads."""
    return (
        head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", *TIFF_SIGNATURES))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or head[4:12] in {b"ftypavif", b"ftypavis"}
        or _is_heif(head)
    )


def _register_heif(name: str) -> None:
    try:
        import pillow_heif
    except ImportError:
        raise UnsupportedFile(name, "HEIC pictures need pillow-heif: `make install EXTRAS=heic` does it") from None
    pillow_heif.register_heif_opener()


@contextmanager
def open_header(
    source: PathOrFile, *, header_limit_pixels: int = HEADER_LIMIT_PIXELS, filling: int = cut.FILLINGS[0]
) -> Iterator[Image.Image]:
    """A Pillow image whose header is read and whose pixels are not; closed at the end if it was opened here.

    A WebP, HEIC or AVIF file that lacks its last bytes is opened as far as it goes (`mmsearch.media.cut`): `info[CUT]` is the share that is there,
    `filling` the byte that takes the place of those that are missing.
    Decoder errors inside the `with` become SourceErrors too.

    Raises:
        UnsupportedFile: not a picture. CorruptFile: a broken one. FileTooLarge: above the limit, or memory ran out.
    """
    name = _name(source)
    handle: IO[bytes] = (
        Path(source).open("rb") if isinstance(source, str | os.PathLike) else source  # noqa: SIM115 - closed below
    )
    try:
        head = handle.read(32)
        handle.seek(0)
        if _is_heif(head):
            _register_heif(name)
        try:
            with _OWN_PIXEL_LIMIT:
                copy = cut.filled(handle, filling) if handle.seekable() else None
                opened = (
                    copy[0] if copy else (png_chunks.without_refused(handle) if handle.seekable() else None) or handle
                )
                image = Image.open(opened, formats=(*FORMATS, "HEIF") if _is_heif(head) else FORMATS)
                if copy:
                    image.info[CUT] = copy[1]
                demand_size(image, name, header_limit_pixels)
                yield image
        except UnidentifiedImageError:
            if _begins_as_picture(head):
                raise CorruptFile(name, "damaged picture (its header cannot be read)") from None
            raise UnsupportedFile(name, "not a picture in a known format") from None
        except MemoryError:
            raise FileTooLarge(name, "decoding needs more memory than allowed") from None
        except SourceError:
            raise
        except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, ArithmeticError) as error:
            # Pillow's plugins let any of these through on damaged files.
            raise CorruptFile(name, f"damaged picture ({error or type(error).__name__})") from error
        except Exception as error:  # struct.error, zlib.error, …: still the file's fault
            raise CorruptFile(name, f"damaged picture ({type(error).__name__}: {error})") from error
    finally:
        if handle is not source:
            handle.close()


def decode_image(
    source: PathOrFile, *, max_pixels: int | None = None, header_limit_pixels: int = HEADER_LIMIT_PIXELS
) -> Image.Image:
    """Decode a photo upright, in RGB, at least as large as `fit(…, max_pixels)` and a preview need it.

    JPEGs are decoded at 1/2, 1/4 or 1/8 where that suffices. The first frame of an animation. Alpha lies over white.
    A file that lacks its last bytes is refused, see `decode_picture`.

    Raises:
        UnsupportedFile, CorruptFile, FileTooLarge: see `open_header`.
    """
    return _decoded(source, max_pixels, header_limit_pixels)


def _decoded(
    source: PathOrFile, max_pixels: int | None, header_limit_pixels: int, *, filling: int | None = None
) -> Image.Image:
    """Without a `filling` a file that lacks bytes is refused."""
    options = {} if filling is None else {"filling": filling}
    with open_header(source, header_limit_pixels=header_limit_pixels, **options) as image:
        if CUT in image.info and filling is None:
            raise cut.CutShort(image.info[CUT])
        if max_pixels is not None and image.format in {"JPEG", "MPO"}:
            w, h = fitted_size(image.width, image.height, max_pixels)
            long_side = max(w, h, PREVIEW_SIDE_PX)
            ratio = long_side / max(image.size)
            image.draft(image.mode, (math.ceil(image.width * ratio), math.ceil(image.height * ratio)))
        ratio = pixel_shape(image)
        ImageOps.exif_transpose(image, in_place=True)  # a large picture is copied as rarely as can be
        return in_true_shape(to_rgb(image), ratio)


def decode_plain(
    source: PathOrFile, *, alpha_over_white: bool = False, header_limit_pixels: int = HEADER_LIMIT_PIXELS
) -> Image.Image:
    """`Image.open(source).convert("RGB")`, as the code of published models decodes pictures: nothing is turned by EXIF, what is transparent
    shows the colour beneath (black as a rule), deep greys are cut to 8 bits as Pillow cuts them. `alpha_over_white`: RGBA lies over white.

    For published data sets only: the application shows and embeds pictures as `decode_image` gives them.

    Raises:
        UnsupportedFile, CorruptFile, FileTooLarge: see `open_header`.
    """
    with open_header(source, header_limit_pixels=header_limit_pixels) as image:
        if alpha_over_white and image.mode == "RGBA":
            return _over_white(image)
        return image.convert("RGB")


def turned_and_saved(
    source: PathOrFile, suffix: str, *, header_limit_pixels: int = HEADER_LIMIT_PIXELS
) -> IO[bytes] | None:
    """The file that one gets who turns a picture upright by its EXIF data and saves it as `suffix` (".jpg") with Pillow's defaults.

    Returns:
        None where Pillow does not know the suffix, or cannot write pictures of this mode in its format.

    Raises:
        UnsupportedFile, CorruptFile, FileTooLarge: see `open_header`.
    """
    with open_header(source, header_limit_pixels=header_limit_pixels) as image:
        saved = io.BytesIO()
        upright = ImageOps.exif_transpose(image)
        format_name = Image.registered_extensions().get(suffix.lower())
        if format_name is None:
            return None
        try:
            upright.save(saved, format_name)
        except (OSError, ValueError):
            return None
    saved.seek(0)
    saved.name = _name(source)  # type: ignore[misc]  # what decoders name in their errors
    return saved


def decode_tiff_page(
    image: Image.Image, index: int, name: str, *, limit_pixels: int = HEADER_LIMIT_PIXELS
) -> Image.Image:
    """Page `index` (from 0) of a TIFF from `open_header`: upright RGB in its true shape, at full size. `name` is for messages.

    Raises:
        FileTooLarge: more pixels than `limit_pixels`. EOFError: there is no such page.
    """
    image.seek(index)
    demand_size(image, name, limit_pixels)
    ratio = pixel_shape(image)
    return in_true_shape(to_rgb(image.copy()), ratio)


MAX_PIXEL_SHAPE = 4.0
"""A pixel that is more than so many times as wide as high, or as high as wide, is a mistake in the file."""
SQUARE_WITHIN = 0.01
"""A pixel this near to a square is one."""
STRETCHED_LIMIT_PIXELS = 40_000_000
"""A picture is stretched up to this size; a larger one is squeezed the other way."""


def pixel_shape(image: Image.Image) -> float:
    """The width of a TIFF's pixels by their height, as the picture lies upright: a fax has 204 × 98 dots per inch. 1.0 for other formats.

    Only TIFF viewers heed it: in JPEG and PNG unequal resolutions are mostly mistakes, and no browser shows them.
    """
    if image.format != "TIFF":
        return 1.0
    tags = getattr(image, "tag_v2", {})
    try:
        across, down = float(tags[X_RESOLUTION]), float(tags[Y_RESOLUTION])
        ratio = down / across
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return 1.0
    if tags.get(ExifTags.Base.Orientation) in {5, 6, 7, 8}:
        ratio = 1 / ratio if ratio else 0.0
    return _sane_shape(ratio)


X_RESOLUTION, Y_RESOLUTION = ExifTags.Base.XResolution, ExifTags.Base.YResolution


def _sane_shape(ratio: float) -> float:
    if not 1 / MAX_PIXEL_SHAPE <= ratio <= MAX_PIXEL_SHAPE or abs(ratio - 1) <= SQUARE_WITHIN:  # also refuses NaN
        return 1.0
    return ratio


def true_size(width: int, height: int, ratio: float) -> tuple[int, int]:
    """The size of a picture with square pixels, given how wide its pixels are by their height: one side grows."""
    if ratio >= 1:
        return round(width * ratio), height
    return width, round(height / ratio)


def in_true_shape(image: Image.Image, ratio: float) -> Image.Image:
    """A picture with square pixels; see `pixel_shape`."""
    if ratio == 1.0:
        return image
    size = true_size(*image.size, ratio)
    if size[0] * size[1] > STRETCHED_LIMIT_PIXELS:
        narrow = (image.width, max(1, round(image.height / ratio))), (max(1, round(image.width * ratio)), image.height)
        size = narrow[0] if ratio >= 1 else narrow[1]
    return image.resize(size, Image.Resampling.BICUBIC)


class Decoded(NamedTuple):
    """A picture in RGB. `is_whole` is false where the file ends early: what is missing of it shows the decoder's fill colour."""

    image: Image.Image
    is_whole: bool


MIN_SHOWN_SHARE = 0.02
"""An incomplete picture of which fewer rows are there is damaged: a decoder makes a few blocks of noise of a header alone."""
_LENIENT = threading.Lock()
"""Held while Pillow decodes whatever is there: the switch for it is one for the whole process."""


def decode_picture(
    source: PathOrFile, *, max_pixels: int | None = None, header_limit_pixels: int = HEADER_LIMIT_PIXELS
) -> Decoded:
    """Decode a photo as `decode_image`, but one that lacks its last bytes as far as it goes, as viewers show it.

    JPEG, PNG, GIF, BMP, WebP, uncompressed TIFF, and HEIC and AVIF whose index lies in front allow that; of other files nothing is shown.

    Raises:
        UnsupportedFile, CorruptFile, FileTooLarge: see `open_header`. CorruptFile also where next to nothing is there.
    """
    try:
        whole = decode_image(source, max_pixels=max_pixels, header_limit_pixels=header_limit_pixels)
        return Decoded(whole, is_whole=True)
    except CorruptFile as error:
        if "truncated" not in error.reason:  # Pillow has no class for it
            raise
        fillings = cut.FILLINGS if isinstance(error.__cause__, cut.CutShort) else cut.FILLINGS[:1]
        part = None
        for filling in fillings:
            if not isinstance(source, str | os.PathLike):
                source.seek(0)
            with suppress(CorruptFile), _LENIENT:
                ImageFile.LOAD_TRUNCATED_IMAGES = True
                try:
                    part = _decoded(source, max_pixels, header_limit_pixels, filling=filling)
                    break
                finally:
                    ImageFile.LOAD_TRUNCATED_IMAGES = False
        if part is None:
            raise
        if _shown_share(part) < MIN_SHOWN_SHARE:
            raise
        return Decoded(part, is_whole=False)


def _shown_share(image: Image.Image) -> float:
    """Which share of an incomplete RGB picture's rows is more than the colour of its last row, or (BMP begins below) of its first."""
    few = image.resize((min(image.width, 64), min(image.height, 1024)), Image.Resampling.NEAREST)
    rows = np.asarray(few)
    return 1.0 - max(float((rows == rows[at, at]).all(axis=(1, 2)).mean()) for at in (-1, 0))


def open_image(
    source: PathOrFile, *, max_pixels: int | None = None, header_limit_pixels: int = HEADER_LIMIT_PIXELS
) -> Image.Image:
    """Decode a photo as the model sees it: `decode_picture`, then `fit`. Errors as there."""
    image = decode_picture(source, max_pixels=max_pixels, header_limit_pixels=header_limit_pixels).image
    return image if max_pixels is None else fit(image, max_pixels=max_pixels)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB: deep greys scaled to 8 bits, CMYK through its profile, alpha over white."""
    image.load()
    mode = image.mode
    if mode == "RGB":
        if "transparency" in image.info:  # one colour declared transparent
            return _over_white(image.convert("RGBA"))
        return image if type(image) is Image.Image else image.copy()  # drops the open file
    if mode.startswith("I") or mode == "F":
        return _from_deep_grey(image)
    if mode == "CMYK":
        return _from_cmyk(image)
    if mode == "RGBA":
        return _over_white(image)
    if mode in {"LA", "PA", "RGBa", "La"} or "transparency" in image.info:
        return _over_white(image.convert("RGBA"))
    return image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """16-bit greys lose their low byte (12-bit content is recognised by its range); other depths span their own range."""
    values = np.asarray(image)
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind in "ui" and low >= 0 and high <= 65535:
        top = 255.0 if high <= 255 else 4095.0 if high <= 4095 else 65535.0
        low = 0.0
    else:
        top = high
    scale = 255.0 / (top - low) if top > low else 0.0
    grey = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), 1024):  # strips: no float copy of a large picture
        strip = values[start : start + 1024].astype(np.float32)
        grey[start : start + 1024] = np.clip((strip - low) * scale + 0.5, 0, 255)
    return Image.fromarray(grey).convert("RGB")


def _from_cmyk(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if profile:
        from PIL import ImageCms

        try:
            converted = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError, ValueError):
            converted = None  # a damaged or foreign profile: the plain conversion is better than no picture
        if converted is not None:
            return converted
    return image.convert("RGB")


def image_meta(image: Image.Image) -> dict[str, Any]:
    """What a photo's header tells: `width`, `height` (upright), `captured_at` (ISO 8601), `date_source`, `camera`, `gps` [lat, lon],
    `content_identifier` (Apple's, of a Live Photo).

    Takes an image from `open_header` (pixels not needed). Damaged EXIF gives fewer entries, never an error.
    """
    meta: dict[str, Any] = {"width": image.width, "height": image.height}
    if (ratio := pixel_shape(image)) != 1.0:
        meta["width"], meta["height"] = true_size(image.width, image.height, ratio)
    if (dated := picture_date(image)) is not None:
        meta |= dated.meta()
    try:
        exif = image.getexif()
        if exif.get(ExifTags.Base.Orientation) in {5, 6, 7, 8} and image.format != "TIFF":  # Pillow turns those itself
            meta["width"], meta["height"] = image.height, image.width
        maker, model = (_clean(exif.get(tag)) for tag in (ExifTags.Base.Make, ExifTags.Base.Model))
        camera = model if maker and model.lower().startswith(maker.lower()) else f"{maker} {model}".strip()
        if camera:
            meta["camera"] = camera[:MAX_CAMERA_CHARS]
        if gps := _position(exif.get_ifd(ExifTags.IFD.GPSInfo)):
            meta["gps"] = gps
        if identifier := apple.identifier_of_note(exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.MakerNote)):
            meta["content_identifier"] = identifier
    except Exception:  # EXIF is a foreign format of its own: nothing in it may cost the picture
        return meta
    return meta


def _clean(value: Any) -> str:
    return " ".join(value.replace("\0", " ").split()) if isinstance(value, str) else ""


def _position(gps: Any) -> list[float] | None:
    def degrees(parts: Any, sign: str) -> float:
        d, m, s = (float(part) for part in parts)
        return (-1 if sign in {"S", "W"} else 1) * (d + m / 60 + s / 3600)

    try:
        latitude = degrees(gps[ExifTags.GPS.GPSLatitude], gps[ExifTags.GPS.GPSLatitudeRef])
        longitude = degrees(gps[ExifTags.GPS.GPSLongitude], gps[ExifTags.GPS.GPSLongitudeRef])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):  # also refuses NaN
        return None
    return [round(latitude, 6), round(longitude, 6)]


def webp_preview(image: Image.Image, *, side_px: int = PREVIEW_SIDE_PX) -> bytes:
    """A small WebP file of an RGB image, its longer side at most `side_px`."""
    scale = side_px / max(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    out = io.BytesIO()
    image.save(out, "WEBP", quality=75, method=1)
    return out.getvalue()


# Pages


DOCUMENT_FORMATS = {"PDF", "EPUB", "XPS", "SVG", "zip"}
"""What MuPDF calls those that are read (a comic is a zip); it would read more, a web page with the files beside it among them."""


@cache
def load_pymupdf() -> ModuleType:
    """PyMuPDF without the companions that it imports where they are installed.

    They read page layouts with a neural network, which is loaded with the import: a second and 90 MB in every process,
    for what nothing here uses.
    """
    companions = [name for name in ("pymupdf.layout", "pymupdf4llm") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(companions))  # type: ignore[arg-type]  # None: importing them fails
    try:
        module = importlib.import_module("pymupdf")
    finally:
        for name in companions:
            sys.modules.pop(name, None)
    module.TOOLS.mupdf_display_errors(False)
    module.TOOLS.mupdf_display_warnings(False)
    return module


def take_document_warnings() -> str:
    """The last thing that MuPDF complained of since this was last called, "" for nothing. It keeps them until somebody asks."""
    lines = str(load_pymupdf().TOOLS.mupdf_warnings()).splitlines()
    return lines[-1].strip() if lines else ""


def is_out_of_memory(error: BaseException | str) -> bool:
    """MuPDF has no class for it: `code=2: malloc (4104 bytes) failed`."""
    return isinstance(error, MemoryError) or re.search(r"alloc \(.*\) failed", str(error)) is not None


@contextmanager
def open_document(source: str | os.PathLike[str] | pymupdf.Document) -> Iterator[pymupdf.Document]:
    """A PyMuPDF document (PDF, EPUB, XPS, CBZ, SVG), closed at the end if it was opened here.

    Scripts, launch actions and embedded files are never run or opened: only page contents are drawn.

    Raises:
        CorruptFile: unreadable. EncryptedFile: it wants a password. UnsupportedFile: another type.
    """
    pymupdf = load_pymupdf()
    if not isinstance(source, str | os.PathLike):
        yield source
        return
    name = os.fspath(source)
    try:
        if _is_utf8(name):
            document = pymupdf.open(name)  # recognised by content; only the parts in use are read
        else:  # MuPDF takes UTF-8 names only
            document = pymupdf.open(stream=Path(source).read_bytes(), filetype="pdf")
    except (OSError, MemoryError):
        raise
    except Exception as error:  # PyMuPDF raises RuntimeErrors and MuPDF's own classes
        if is_out_of_memory(error):
            raise FileTooLarge(name, "decoding needs more memory than allowed") from error
        raise CorruptFile(name, "damaged document: it cannot be opened") from error
    try:
        if document.needs_pass:
            raise EncryptedFile(name, "the document needs a password")
        form = str((document.metadata or {}).get("format"))
        if form.split(" ")[0] not in DOCUMENT_FORMATS:
            raise UnsupportedFile(name, f"no reader takes this content ({form})")
        yield document
    finally:
        document.close()


def _is_utf8(name: str) -> bool:
    """False for names with surrogate escapes: bytes on disk that are not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def render_page(
    source: str | os.PathLike[str] | pymupdf.Document,
    page_index: int,
    *,
    max_pixels: int | None = None,
    dpi: float | None = None,
) -> Image.Image:
    """Draw page `page_index` (from 0) on white.

    Args:
        max_pixels: draw at exactly the model's size for a page of this shape.
        dpi: draw at this resolution instead (for people), within 4000 pixels a side.

    Raises:
        CorruptFile: the page cannot be drawn or has no area. IndexError: there is no such page.
    """
    with open_document(source) as document:
        if not 0 <= page_index < document.page_count:
            raise IndexError(f"page {page_index} of {document.page_count}")
        name = document.name or "<document>"
        try:
            return draw_page(document[page_index], max_pixels=max_pixels, dpi=dpi)
        except ValueError as error:
            raise CorruptFile(name, f"page {page_index + 1} has no area ({error})") from error
        except Exception as error:
            raise CorruptFile(name, f"page {page_index + 1} cannot be drawn ({_first_line(error)})") from error


def draw_page(page: Any, *, max_pixels: int | None = None, dpi: float | None = None) -> Image.Image:
    """`render_page` for an open `pymupdf.Page` or a `pymupdf.DisplayList` of one; sizes are settled before any bitmap.

    Raises:
        ValueError: the page has no area.
    """
    pymupdf = load_pymupdf()
    box = page.rect
    if max_pixels is not None:
        width, height = page_size(box.width, box.height, max_pixels)
    else:
        page_size(box.width, box.height, FACTOR**2)  # refuses a page without area
        scale = min((dpi or 150.0) / 72.0, 4000 / max(box.width, box.height))
        width, height = (max(1, math.floor(side * scale)) for side in (box.width, box.height))
    # The page box is moved to the origin, then stretched to whole pixels.
    matrix = pymupdf.Matrix(1, 0, 0, 1, -box.x0, -box.y0) * pymupdf.Matrix(width / box.width, height / box.height)
    pixmap = page.get_pixmap(matrix=matrix, colorspace=pymupdf.csRGB, alpha=False)
    image = Image.frombuffer("RGB", (pixmap.width, pixmap.height), pixmap.samples_mv, "raw", "RGB", pixmap.stride, 1)
    if image.size != (width, height):  # float noise at the edge of the box
        return image.resize((width, height), Image.Resampling.BICUBIC)
    return image.copy()


# Videos


VIDEO_FORMATS = "mov,matroska,avi,asf,flv,mpeg,mpegts,mpegvideo,ogg"
"""Of FFmpeg's two hundred, those that are read: fewer for hostile files, and no playlists, which name other files and addresses."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video's container says. `width` × `height` are as shown, with square pixels, after rotation.

    `pixel_shape` is the width of a stored pixel by its height, before rotation: 64/45 for a wide PAL film; `stored_size` likewise. `frame_count` is 0 where the container does not tell; `rotation` in degrees counter-clockwise: 0, 90, 180, 270.
    `stream_codecs`: of all its streams, sound and data included; "" for one that FFmpeg does not know.
    `content_identifier`: Apple's, of a Live Photo. `said`: its tags, in words.
    """

    duration_s: float
    width: int
    height: int
    frame_count: int
    codec: str
    rotation: int
    has_video: bool
    dated: Dated | None = None
    pixel_shape: float = 1.0
    stored_size: tuple[int, int] = (0, 0)
    stream_codecs: frozenset[str] = frozenset()
    content_identifier: str | None = None
    said: Description = NOTHING


@contextmanager
def _open_video(path: str | os.PathLike[str]) -> Iterator[av.container.InputContainer]:
    """A PyAV container; FFmpeg's errors become SourceErrors."""
    import av

    name = os.fspath(path)
    # By descriptor: names that are not UTF-8 and names that look like URLs both work, and nothing else is opened.
    with Path(path).open("rb") as handle:
        try:
            only = {"format_whitelist": VIDEO_FORMATS}
            with av.open(handle, mode="r", metadata_errors="replace", container_options=only) as container:
                yield container
        except SourceError:
            raise
        except MemoryError:
            raise FileTooLarge(name, "decoding needs more memory than allowed") from None
        except (av.FFmpegError, ValueError) as error:
            said = getattr(error, "strerror", None)  # without the path
            raise CorruptFile(name, f"damaged video ({said or _first_line(error)})") from error


def _video_stream(container: av.container.InputContainer) -> av.video.stream.VideoStream | None:
    """The first real video stream; cover art does not count."""
    import av.stream

    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    return None


def _demand_stream(container: av.container.InputContainer, path: str | os.PathLike[str]) -> av.video.stream.VideoStream:
    stream = _video_stream(container)
    if stream is None:
        raise UnsupportedFile(path, "no video stream")
    return stream


def _codec_name(stream: av.stream.Stream) -> str:
    return stream.codec_context.codec.canonical_name if stream.codec_context is not None else ""


def _clock_zero(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> int:
    """The pts that counts as 0 s. Broadcast streams start anywhere on their clock; files start where they say."""
    if container.format.name in {"mpegts", "mpeg"}:
        return stream.start_time or 0
    return 0


def probe_video(path: str | os.PathLike[str]) -> VideoInfo:
    """Read a video's header and its first frame; without a video stream, `has_video` is False.

    Raises:
        CorruptFile: not a readable container, or no frame decodes.
    """
    import av

    with _open_video(path) as container:
        stream = _video_stream(container)
        if not container.streams:
            raise CorruptFile(path, "damaged video (it holds neither pictures nor sound)")
        if stream is None:
            return VideoInfo((container.duration or 0) / av.time_base, 0, 0, 0, "", 0, has_video=False)
        if stream.duration and stream.time_base:
            duration_s = float(stream.duration * stream.time_base)
        else:
            duration_s = (container.duration or 0) / av.time_base
        first = next(iter(container.decode(stream)), None)
        if first is None:
            raise CorruptFile(path, "the video has no frame that decodes")
        rotation = _rotation(first)
        shape = _video_pixel_shape(stream)
        width, height = true_size(first.width, first.height, shape)
        if rotation % 180:
            width, height = height, width
        return VideoInfo(
            duration_s=max(duration_s, 0.0),
            width=width,
            height=height,
            frame_count=stream.frames,
            codec=stream.codec_context.codec.canonical_name,
            rotation=rotation,
            has_video=True,
            dated=_video_date(container, stream),
            pixel_shape=shape,
            stored_size=(first.width, first.height),
            stream_codecs=frozenset(_codec_name(one) for one in container.streams),
            content_identifier=apple.checked_identifier(container.metadata.get(apple.VIDEO_TAG)),
            said=video_words(container.metadata),
        )


def video_duration(path: str | os.PathLike[str]) -> float:
    """Seconds, by the container's header alone. Raises as `probe_video`, UnsupportedFile for sound."""
    import av

    with _open_video(path) as container:
        stream = _demand_stream(container, path)
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        return (container.duration or 0) / av.time_base


TEXT_SUBTITLES = {"subrip", "srt", "mov_text", "webvtt", "ass", "ssa", "text"}


def text_subtitles(path: str | os.PathLike[str]) -> list[tuple[float, float, str]]:
    """The first embedded subtitle track that is text: (start_s, end_s, text) by start; empty where there is none.

    Raises:
        CorruptFile: the container cannot be read.
    """
    found: list[tuple[float, float, str]] = []
    with _open_video(path) as container:
        for stream in container.streams.subtitles:
            codec = stream.codec_context.codec.canonical_name
            if codec not in TEXT_SUBTITLES:
                continue
            for packet in container.demux(stream):
                if packet.pts is None or not packet.size or not packet.duration:
                    continue
                raw = bytes(packet)
                if codec == "mov_text":
                    raw = raw[2 : 2 + int.from_bytes(raw[:2], "big")]
                text = raw.decode("utf-8", "replace")
                if codec in {"ass", "ssa"}:  # ReadOrder, Layer, Style, Name, three margins, Effect, Text
                    text = text.split(",", 8)[-1]
                base = packet.time_base
                found.append((float(packet.pts * base), float((packet.pts + packet.duration) * base), text))
            break
    return sorted(found)


APPLE_CREATION_DATE = "com.apple.quicktime.creationdate"


def _video_date(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> Dated | None:
    """Apple's local time with its offset, else the container's time in UTC, else its free-form date."""
    tags = container.metadata
    if found := parse_written(tags.get(APPLE_CREATION_DATE)):
        return Dated(found, "creationdate")
    for value in (tags.get("creation_time"), stream.metadata.get("creation_time"), tags.get("date")):
        if found := parse_written(value):
            return Dated(found, "creation_time")
    return None


def _video_pixel_shape(stream: av.video.stream.VideoStream) -> float:
    """As the container says, else the codec; 1.0 where neither does."""
    ratio = stream.sample_aspect_ratio
    return _sane_shape(float(ratio)) if ratio else 1.0


def _rotation(frame: av.VideoFrame) -> int:
    return round(frame.rotation / 90) % 4 * 90


@dataclass(frozen=True, slots=True)
class FrameIndex:
    """A video's frames in order of time, read from its packets; nothing is decoded.

    `times_s`: float64 [n], when each is shown, exactly pts × time base. `is_key`: bool [n]. `end_s`: when the last one ends.
    """

    times_s: np.ndarray
    is_key: np.ndarray
    end_s: float

    def __len__(self) -> int:
        return len(self.times_s)


def index_frames(path: str | os.PathLike[str], *, on_progress: Callable[[], None] = lambda: None) -> FrameIndex:
    """Where a container stores no pts, frames are spaced by its average rate.

    `on_progress` is called while packets are read: all of a large file passes by.

    Raises:
        UnsupportedFile: no video stream. CorruptFile: unreadable, or no frame.
    """
    import av

    ticks: list[int | None] = []
    durations: list[int] = []
    keys: list[bool] = []
    with _open_video(path) as container:
        stream = _demand_stream(container, path)
        base, zero = stream.time_base or Fraction(1, 1), _clock_zero(container, stream)
        rate = stream.average_rate or Fraction(25)
        try:
            for packet in container.demux(stream):
                on_progress()
                if packet.size and not packet.is_discard:
                    ticks.append(packet.pts)
                    durations.append(packet.duration or 0)
                    keys.append(packet.is_keyframe)
        except av.FFmpegError:
            if not ticks:
                raise
            # The end of the file is damaged or missing; what came before it is a video still.
    if not ticks:
        raise CorruptFile(path, "the video has no frame")
    known = [tick for tick in ticks if tick is not None]
    if len(known) < len(ticks):
        times_s = np.arange(len(ticks), dtype=np.float64) / float(rate)
        return FrameIndex(times_s, np.asarray(keys), len(ticks) / float(rate))
    shown = np.asarray(known, np.int64) - zero
    order = np.argsort(shown, kind="stable")
    shown = shown[order]
    times_s = shown * base.numerator / base.denominator
    step = durations[order[-1]] or (int(np.median(np.diff(shown))) if len(shown) > 1 else 0)
    end_s = float((int(shown[-1]) + step) * base) if step else float(times_s[-1] + 1 / float(rate))
    return FrameIndex(times_s, np.asarray(keys)[order], end_s)


def frame_times(path: str | os.PathLike[str]) -> np.ndarray:
    """When each frame is shown: float64 [n], ascending seconds, exactly pts × time base. Errors as for `index_frames`."""
    return index_frames(path).times_s


def sample_frames(
    path: str | os.PathLike[str],
    times_s: Sequence[float] | np.ndarray | None = None,
    *,
    indices: Sequence[int] | np.ndarray | None = None,
    max_pixels: int | None = None,
    shown_at: np.ndarray | None = None,
    true_shape: bool = False,
) -> list[Image.Image]:
    """The frames shown at `times_s`, or those at `indices` (from 0, in order of time); upright RGB, in the order asked for.

    A time before the first frame gives the first, one after the last gives the last. All frames have one size:
    that of the video, or the model's size for it under `max_pixels`. `shown_at` is `frame_times(path)`, if known already.
    With `true_shape` the pixels of an anamorphic video are made square, as players show them; without, frames are as stored,
    which is what the reference trains and evaluates on.

    Raises:
        UnsupportedFile: no video stream. CorruptFile: unreadable. IndexError: an index that the video does not have.
    """
    if (times_s is None) == (indices is None):
        raise ValueError("give either times_s or indices")
    if shown_at is None:
        shown_at = frame_times(path)
    if indices is None:
        wanted = np.clip(np.searchsorted(shown_at, np.asarray(times_s, np.float64) + 1e-9, "right") - 1, 0, None)
    else:
        wanted = np.asarray(indices, np.int64)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(shown_at)):
            raise IndexError(f"frames {wanted.min()}…{wanted.max()} of {len(shown_at)}")
    wanted_once = sorted({int(index) for index in wanted})
    found = dict(iter_frames(path, wanted_once, max_pixels=max_pixels, shown_at=shown_at, true_shape=true_shape))
    if not found:
        raise CorruptFile(path, "none of the frames decodes")
    available = np.array(sorted(found))
    # A damaged stretch: the nearest earlier frame stands in, as a player would show it.
    return [found[int(available[max(np.searchsorted(available, i, "right") - 1, 0)])] for i in wanted]


def iter_frames(
    path: str | os.PathLike[str],
    indices: Sequence[int],
    *,
    max_pixels: int | None = None,
    shown_at: np.ndarray | None = None,
    true_shape: bool = False,
) -> Iterator[tuple[int, Image.Image]]:
    """Decode the frames at ascending `indices` one after the other: (index, upright RGB image).

    At most `FRAME_BLOCK` frames are in memory. Frames that do not decode are left out. decord decodes where it can
    and gives as many frames as the container holds; else PyAV does (AV1, rotated video, other platforms).
    `shown_at` and `true_shape`: see `sample_frames`. Errors as there.
    """
    if shown_at is None:
        shown_at = frame_times(path)
    reader = _open_decord(path, len(shown_at), max_pixels, true_shape)
    if reader is None:
        yield from _iter_frames_pyav(path, indices, shown_at, max_pixels, true_shape)
        return
    done = 0
    try:
        for start in range(0, len(indices), FRAME_BLOCK):
            block = list(indices[start : start + FRAME_BLOCK])
            pixels = reader.get_batch(block).asnumpy()
            for index, frame in zip(block, pixels, strict=True):
                yield index, Image.fromarray(frame)
                done += 1
        return
    except _decord_error():
        pass  # a damaged stretch: PyAV goes on from there and leaves out what does not decode
    finally:
        del reader  # decord frees its decoder threads only here
    yield from _iter_frames_pyav(path, indices[done:], shown_at, max_pixels, true_shape)


def _decord_error() -> type[Exception]:
    from decord import DECORDError

    return DECORDError


DECORD_SIGNATURES = re.compile(rb"\0...ftyp|\x1aE\xdf\xa3", re.DOTALL)
"""How MP4 and QuickTime, Matroska and WebM begin. decord opens by path, with every format of an FFmpeg of 2018, playlists and session
descriptions among them, which name other files and addresses. Those are text: nothing that begins with a zero byte is one."""
DECORD_CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "aac", "mp3", "opus", "vorbis"})
"""Of all streams of a file that decord gets, since opening it tries every decoder. PyAV is as fast with the older ones."""


def _open_decord(
    path: str | os.PathLike[str], frame_count: int, max_pixels: int | None, true_shape: bool = False
) -> Any | None:
    """A decord reader that scales while decoding, or None where PyAV must decode."""
    import av  # noqa: F401  (first: decord shares its old codec libraries with all that is loaded after it)

    try:
        import decord
    except ImportError:
        return None
    if not _is_utf8(os.fspath(path)) or not _has_decord_signature(path):
        return None
    info = probe_video(path)
    if not info.stream_codecs <= DECORD_CODECS or info.rotation:
        return None
    if info.frame_count > 2 * frame_count + 1000:  # a lie, for which decord would take memory, and abort without it
        return None
    stored = info.stored_size
    width, height = (info.width, info.height) if true_shape else stored
    if max_pixels is not None:
        width, height = fitted_size(width, height, max_pixels)
    if (width, height) == stored:
        width, height = -1, -1
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(os.fspath(path), ctx=decord.cpu(0), num_threads=1, width=width, height=height)
    except (decord.DECORDError, RuntimeError):
        return None
    # Two readers of one container must agree on what its frames are, or indices mean different pictures.
    return reader if len(reader) == frame_count else None


def _has_decord_signature(path: str | os.PathLike[str]) -> bool:
    with Path(path).open("rb") as file:
        return DECORD_SIGNATURES.match(file.read(16)) is not None


def _iter_frames_pyav(
    path: str | os.PathLike[str],
    indices: Sequence[int],
    shown_at: np.ndarray,
    max_pixels: int | None,
    true_shape: bool = False,
) -> Iterator[tuple[int, Image.Image]]:
    """`iter_frames` by PyAV: one pass from the keyframe before the first index."""
    import av

    if not len(indices):
        return
    with _open_video(path) as container:
        stream = _demand_stream(container, path)
        stream.codec_context.thread_count = 1
        base, zero = stream.time_base or Fraction(1, 1), _clock_zero(container, stream)
        if indices[0] > 0:
            container.seek(int(shown_at[indices[0]] / float(base)) + zero, stream=stream, backward=True)
        wanted = iter(indices)
        index: int | None = next(wanted)
        half_step = float(np.diff(shown_at).min()) / 2 if len(shown_at) > 1 else 0.0
        packets = container.demux(stream)
        size: tuple[int, int] | None = None
        while (packet := next(packets, None)) is not None:
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                continue  # a damaged packet costs its frame, not the video
            for frame in frames:
                now = float((frame.pts - zero) * base) if frame.pts is not None else math.inf
                if index is None or now < shown_at[index] - half_step:
                    continue
                while index is not None and now >= shown_at[index] + max(half_step, 1e-9):
                    index = next(wanted, None)  # that frame was lost
                if index is None:
                    return
                if now < shown_at[index] - half_step:
                    continue
                if size is None:
                    size = true_size(frame.width, frame.height, _video_pixel_shape(stream) if true_shape else 1.0)
                    if max_pixels is not None:
                        size = fitted_size(*size, max_pixels)
                yield index, _upright(frame, size)
                index = next(wanted, None)
                if index is None:
                    return


def _upright(frame: av.VideoFrame, size: tuple[int, int]) -> Image.Image:
    image = frame.reformat(width=size[0], height=size[1], format="rgb24", interpolation="BICUBIC").to_image()
    turn = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
    rotation = _rotation(frame)
    return image.transpose(turn[rotation]) if rotation else image
