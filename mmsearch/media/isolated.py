"""Decode one untrusted file for somebody who waits: a picture to search with, a page or a clip to look at.

Ingestion has its own pool of workers; this is the single call. A child process (`python -m mmsearch.media.isolated`) decodes under
a memory limit and a deadline, writes the bytes to its stdout, and dies; a file that kills it is a `SourceError` here.
`die_with` and `limit_memory` are what both kinds of children are bound by.
"""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mmsearch.errors
from mmsearch.errors import CorruptFile, DecodeTimeout, FileTooLarge, SourceError, WorkerFailed

if TYPE_CHECKING:
    from PIL.Image import Image

TIMEOUT_S = 60.0
MEMORY_BYTES = 4 << 30
READY = b"+"
"""The first byte of a child's answer: before it the file was not touched, so that no death is its fault."""
START_WAITS_S = (0.2, 1.0)
"""Pauses before a child that died before that is started again."""
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
        WorkerFailed: no process can be started to decode it; so do the other functions here.
    """
    from PIL import Image

    image = Image.open(io.BytesIO(_decode("query", path, max_pixels=max_pixels)), formats=("PNG",))
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
    """Run `_TASKS[what]` on `path` in a child process and return what it writes. Raises SourceError, WorkerFailed."""
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):  # a pipe would be waited for until the deadline
            raise CorruptFile(path, "not a regular file")
    except (OSError, ValueError) as error:
        raise CorruptFile(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    child = [sys.executable, "-P", "-m", "mmsearch.media.isolated", str(os.getpid())]
    for wait_s in (*START_WAITS_S, None):
        try:
            done = subprocess.run(
                [*child, what, os.fspath(path), json.dumps(arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=TIMEOUT_S,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        except subprocess.TimeoutExpired as error:
            raise DecodeTimeout(path, f"decoding took more than {TIMEOUT_S:.0f} s") from error
        except OSError as error:  # no memory, or no process, is left to make one of
            why = error.strerror
        else:
            if done.stdout.startswith(READY):
                break
            why = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
        if wait_s is None:
            raise WorkerFailed(f"no decoding process can be started ({why}): close other programs, and try again")
        time.sleep(wait_s)
    answer = done.stdout[len(READY) :]
    if done.returncode == 0:
        return answer
    try:
        report = json.loads(answer)
        raise getattr(mmsearch.errors, report["type"])(path, report["reason"])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise CorruptFile(path, "the decoder died on it") from None


# ---------------------------------------------------------------- in the child


def _query(path: Path, max_pixels: int) -> bytes:
    from mmsearch import media
    from mmsearch.media.limits import default_image_pixels

    return _encoded(
        media.open_image(path, max_pixels=max_pixels, header_limit_pixels=default_image_pixels()),
        "PNG",
        compress_level=1,
    )


def _photo(path: Path, max_pixels: int) -> bytes:
    from mmsearch import media
    from mmsearch.media.limits import default_image_pixels

    return _encoded(
        media.open_image(path, max_pixels=max_pixels, header_limit_pixels=default_image_pixels()),
        "WEBP",
        quality=86,
        method=2,
    )


def _page(path: Path, page_number: int, dpi: float) -> bytes:
    from mmsearch import media

    image = _tiff_page(path, page_number - 1) or media.render_page(path, page_number - 1, dpi=dpi)
    return _encoded(media.fit(image, max_pixels=SCREEN_PIXELS), "WEBP", quality=88, method=2)


def _tiff_page(path: Path, index: int) -> Image | None:
    """None where the file is no TIFF: MuPDF draws the pages of all other documents."""
    from mmsearch import media
    from mmsearch.media.limits import default_image_pixels

    with path.open("rb") as handle:
        if handle.read(4) not in media.TIFF_SIGNATURES:
            return None
    limit = default_image_pixels()
    with media.open_header(path, header_limit_pixels=limit) as header:
        if index >= getattr(header, "n_frames", 1):
            raise CorruptFile(path, f"there is no page {index + 1} any longer")
        return media.decode_tiff_page(header, index, str(path), limit_pixels=limit)


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
        for frame in media.sample_frames(path, times_s, max_pixels=EXCERPT_PIXELS, true_shape=True):
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


def _child(parent: str, what: str, path: str, arguments: str) -> int:
    """Decode under limits; what is written to stdout is the bytes, or for exit status 1 an error as JSON."""
    with os.fdopen(os.dup(1), "wb") as answer:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)  # decoders print
        die_with(int(parent))
        limit_memory(MEMORY_BYTES)
        answer.write(READY)
        answer.flush()
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
            answer.write(result)
            return 0
        answer.write(json.dumps(problem).encode())
        return 1


def limit_memory(memory_bytes: int) -> None:
    """Limit this process's address space (0: not at all), and leave no image of its memory behind if it dies.

    Nothing happens on a platform without such limits (Windows; macOS ignores the first).
    """
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if memory_bytes:
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    except (ImportError, AttributeError, OSError, ValueError):
        pass


def die_with(parent: int) -> None:
    """End with the process `parent` even inside a decoder that hangs: by the kernel on Linux, else by a thread that looks."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(0)
        return

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(0)

    threading.Thread(target=look, daemon=True).start()


if __name__ == "__main__":
    sys.exit(_child(*sys.argv[1:]))
