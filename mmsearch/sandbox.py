"""Decode one untrusted file for somebody who waits: a picture to search with, a page or a clip to look at.

Ingestion has its own pool of workers; this is the single call. A child process (`python -m mmsearch.sandbox`) decodes under
a memory limit and a deadline, writes the bytes to its stdout, and dies; a file that kills it is a `SourceError` here.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mmsearch.errors
from mmsearch.errors import CorruptFile, DecodeTimeout, FileTooLarge, SourceError

if TYPE_CHECKING:
    from PIL.Image import Image

TIMEOUT_S = 60.0
MEMORY_BYTES = 4 << 30
SCREEN_PIXELS = 2_400_000
"""Pixels of a picture for people at most: a page is legible, and the bytes stay below a megabyte or so."""
WHOLE_VIDEO_BYTES = 200_000_000
"""A larger video is not handed to the browser; an excerpt is."""
EXCERPT_FPS = 12.0
EXCERPT_MAX_S = 30.0
EXCERPT_PIXELS = 640 * 360
BROWSER_CODECS: Mapping[str, frozenset[str]] = {
    ".mp4": frozenset({"h264", "av1", "vp9"}),
    ".m4v": frozenset({"h264"}),
    ".mov": frozenset({"h264"}),
    ".webm": frozenset({"vp8", "vp9", "av1"}),
}
"""What browsers play, by the file's suffix; anything else is shown as an excerpt in H.264."""


def query_image(path: str | os.PathLike[str], *, max_pixels: int) -> Image:
    """The picture in `path`, RGB, as ingestion would decode it for a model that takes `max_pixels`.

    Raises:
        SourceError: see `mmsearch.errors`; missing and unreadable files are CorruptFile.
    """
    from PIL import Image

    image = Image.open(io.BytesIO(_decode("query", path, max_pixels=max_pixels)))  # our own PNG
    image.load()
    return image


def photo(path: str | os.PathLike[str], *, max_pixels: int = SCREEN_PIXELS) -> bytes:
    """The photo as WebP for a screen, upright. Raises SourceError."""
    return _decode("photo", path, max_pixels=max_pixels)


def page(path: str | os.PathLike[str], page_number: int, *, dpi: float = 130.0) -> bytes:
    """Page `page_number` (from 1) as WebP for a screen. Raises SourceError."""
    return _decode("page", path, page_number=page_number, dpi=dpi)


def video(path: str | os.PathLike[str], start_s: float, end_s: float) -> tuple[bytes, float]:
    """A video that browsers play, and the second in it at which [`start_s`, `end_s`) begins.

    The file itself where it is not large and its codec is a browser's; else a silent excerpt made for the purpose.

    Raises:
        SourceError: it cannot be read.
    """
    excerpt = _decode("video", path, start_s=start_s, end_s=end_s)
    if excerpt:
        return excerpt, 0.0
    try:
        return Path(path).read_bytes(), start_s
    except OSError as error:
        raise CorruptFile(path, f"cannot be read: {error.strerror}") from error


def _decode(what: str, path: str | os.PathLike[str], **arguments: Any) -> bytes:
    """Run `_TASKS[what]` on `path` in a child process and return what it writes."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "mmsearch.sandbox", what, os.fspath(path), json.dumps(arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired as error:
        raise DecodeTimeout(path, f"decoding took more than {TIMEOUT_S:.0f} s") from error
    if done.returncode == 0:
        return done.stdout
    try:
        report = json.loads(done.stderr.splitlines()[-1])
        raise getattr(mmsearch.errors, report["type"])(path, report["reason"])
    except (IndexError, ValueError, TypeError, KeyError, AttributeError):
        raise CorruptFile(path, "the decoder died on it") from None


# ---------------------------------------------------------------- in the child


def _query(path: Path, max_pixels: int) -> bytes:
    from mmsearch import media

    return _encoded(media.open_image(path, max_pixels=max_pixels), "PNG", compress_level=1)


def _photo(path: Path, max_pixels: int) -> bytes:
    from mmsearch import media

    return _encoded(media.open_image(path, max_pixels=max_pixels), "WEBP", quality=86, method=2)


def _page(path: Path, page_number: int, dpi: float) -> bytes:
    from mmsearch import media

    image = media.render_page(path, page_number - 1, dpi=dpi)
    return _encoded(media.fit(image, max_pixels=SCREEN_PIXELS), "WEBP", quality=88, method=2)


def _video(path: Path, start_s: float, end_s: float) -> bytes:
    """Nothing if the file itself will do."""
    import numpy as np

    from mmsearch import media

    codec = media.probe_video(path).codec
    if codec in BROWSER_CODECS.get(path.suffix.lower(), ()) and path.stat().st_size <= WHOLE_VIDEO_BYTES:
        return b""
    import av

    times_s = np.arange(start_s, min(end_s, start_s + EXCERPT_MAX_S), 1 / EXCERPT_FPS)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as target:
        stream: Any = None
        for frame in media.sample_frames(path, times_s, max_pixels=EXCERPT_PIXELS):
            if stream is None:
                stream = target.add_stream("libx264", rate=round(EXCERPT_FPS))
                stream.width, stream.height = (side // 2 * 2 for side in frame.size)
                stream.pix_fmt = "yuv420p"
            target.mux(stream.encode(av.VideoFrame.from_image(frame)))
        if stream is not None:
            target.mux(stream.encode(None))
    return buffer.getvalue()


def _encoded(image: Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


_TASKS: Mapping[str, Callable[..., bytes]] = {"query": _query, "photo": _photo, "page": _page, "video": _video}


def _child(what: str, path: str, arguments: str) -> int:
    """Decode under limits; the bytes go to stdout, an error as one JSON line to stderr."""
    try:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except ImportError:  # Windows has no such limits; the deadline remains
        pass
    try:
        result = _TASKS[what](Path(path), **json.loads(arguments))
    except SourceError as error:
        problem = {"type": type(error).__name__, "reason": error.reason}
    except MemoryError:
        problem = {"type": FileTooLarge.__name__, "reason": f"decoding needs more than {MEMORY_BYTES >> 30} GB"}
    except IndexError:
        problem = {"type": CorruptFile.__name__, "reason": "the file no longer has that place"}
    except OSError as error:
        problem = {"type": CorruptFile.__name__, "reason": f"cannot be read: {error.strerror or error}"}
    else:
        sys.stdout.buffer.write(result)
        return 0
    print(json.dumps(problem), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(_child(*sys.argv[1:]))
