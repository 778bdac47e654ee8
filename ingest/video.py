"""Videos: clips cut at scene changes, with exact times, 8 frames each, and the subtitles that lie beside or inside the file."""

from __future__ import annotations

import itertools
import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ingest import clips
from ingest.pdf import clean_text
from ingest.readers import Reading
from mmsearch import media
from mmsearch.errors import FileTooLarge, SourceError, UnsupportedFile
from mmsearch.items import ItemDraft, Kind, Source

log = logging.getLogger(__name__)

SAMPLES_PER_S = 4.0
MIN_SAMPLES = 16
"""A short video is sampled more densely, so that its one clip still has its frames."""
LOCATE_PIXELS = 112 * 112
LOCATE_MAX_FRAMES = 300
"""A scene change is located to the frame unless more frames than this would be decoded again for it."""
SIDECAR_SUFFIXES = (".srt", ".vtt")
MAX_SIDECAR_BYTES = 10_000_000


def read_items(source: Source, reading: Reading) -> Iterator[ItemDraft]:
    """The clips of a video, in order.

    Raises:
        UnsupportedFile: sound only. CorruptFile: unreadable, or nothing decodes. FileTooLarge: the frame is too large.
    """
    path = source.path
    info = media.probe_video(path)
    if not info.has_video:
        raise UnsupportedFile(path, "no video stream (sound only)")
    if info.width * info.height > reading.max_image_pixels:
        raise FileTooLarge(path, f"frames of {info.width} × {info.height} pixels")
    frames = media.index_frames(path, on_progress=reading.on_progress)
    meta = {"width": info.width, "height": info.height, "duration_s": round(frames.end_s, 3), "codec": info.codec}
    if info.dated is not None:
        meta |= info.dated.meta()

    def samples() -> Iterator[clips.Sample]:
        indices = sample_indices(frames.times_s, frames.end_s)
        for index, image in media.iter_frames(
            path, indices, max_pixels=reading.budget["clip"], shown_at=frames.times_s, true_shape=True
        ):
            reading.on_progress()
            yield clips.Sample(float(frames.times_s[index]), image, index)
        yield clips.Sample(frames.end_s, None)

    def locate(before: clips.Sample, after: clips.Sample) -> float:
        return _locate(path, frames, before, after)

    yield from clips.drafts(source, samples(), reading, meta=meta, cues=_cues(path), locate=locate)


def count_items(path: Path) -> tuple[Kind, int, float]:
    duration_s = media.video_duration(path)
    return "clip", max(1, round(duration_s / 7)), duration_s


def sample_indices(times_s: np.ndarray, end_s: float) -> list[int]:
    """Which frames to look at: the ones shown at steps of a quarter of a second, or closer in a short video."""
    start_s = float(times_s[0])
    step_s = min(1 / SAMPLES_PER_S, max((end_s - start_s) / MIN_SAMPLES, 1e-3))
    count = max(1, math.ceil((end_s - start_s) / step_s - 1e-6))
    # A frame is looked at if a step falls into the time for which it is shown. Counted by frames, not by steps: times may be absurd.
    first_step = np.ceil((times_s - start_s - 1e-6) / step_s)
    is_shown = first_step < np.append(first_step[1:], count)
    is_shown[0] |= not is_shown.any()
    return [int(index) for index in np.flatnonzero(is_shown & (first_step < count))]


def _locate(path: Path, frames: media.FrameIndex, before: clips.Sample, after: clips.Sample) -> float:
    """The time of the first frame that differs from the frame before it the most, between two samples."""
    between = range(before.index + 1, after.index)
    fallback_s = float(frames.times_s[after.index])
    if not between or before.image is None or after.image is None:
        return fallback_s
    keys = np.flatnonzero(frames.is_key[: before.index + 2])
    if after.index - (int(keys[-1]) if len(keys) else 0) > LOCATE_MAX_FRAMES:
        return fallback_s
    try:
        images = media.sample_frames(
            path, indices=list(between), max_pixels=LOCATE_PIXELS, shown_at=frames.times_s, true_shape=True
        )
    except SourceError as error:
        log.debug("%s: scene change near %.2f s not located: %s", path, fallback_s, error.reason)
        return fallback_s
    thumbs = [clips.thumb_of(image) for image in (before.image, *images, after.image)]
    steps = [clips.difference(a, b) for a, b in itertools.pairwise(thumbs)]
    return float(frames.times_s[before.index + 1 + int(np.argmax(steps))])


# Subtitles

_TIMING = re.compile(
    r"(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{1,3})\s*-->\s*(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{1,3})[^\n]*"
)
_MARKUP = re.compile(r"<[^>]{0,200}>|\{\\[^}]{0,200}\}")


def parse_subtitles(text: str) -> list[clips.Cue]:
    """The cues of an SRT or WebVTT file, by start; markup and numbering removed, what cannot be read skipped."""
    cues = []
    for block in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n").replace("\r", "\n")):
        timing = _TIMING.search(block)
        if timing is None:
            continue
        start_s, end_s = (
            int(h or 0) * 3600 + int(m) * 60 + int(s) + int(ms.ljust(3, "0")) / 1000
            for h, m, s, ms in (timing.groups()[:4], timing.groups()[4:])
        )
        spoken = clean_text(_MARKUP.sub("", block[timing.end() :]))
        if spoken and end_s > start_s:
            cues.append(clips.Cue(start_s, end_s, spoken.replace("\n", " ")))
    return sorted(cues, key=lambda cue: cue.start_s)


def find_sidecar(path: Path) -> Path | None:
    """`talk.srt`, `talk.vtt` or `talk.en.srt` beside `talk.mp4`; the plain name first."""
    for suffix in SIDECAR_SUFFIXES:
        plain = path.with_suffix(suffix)
        if plain.is_file():
            return plain
    try:
        names = sorted(entry.name for entry in path.parent.iterdir() if entry.name.startswith(path.stem + "."))
    except OSError:
        return None
    for name in names:
        middle, suffix = Path(name).stem[len(path.stem) + 1 :], Path(name).suffix.lower()
        if suffix in SIDECAR_SUFFIXES and re.fullmatch(r"[A-Za-z]{2,3}(?:-[A-Za-z]{2,4})?", middle):
            return path.parent / name
    return None


def _cues(path: Path) -> list[clips.Cue]:
    sidecar = find_sidecar(path)
    if sidecar is not None:
        try:
            if sidecar.stat().st_size <= MAX_SIDECAR_BYTES:
                return parse_subtitles(decode_text(sidecar.read_bytes()))
        except OSError as error:
            log.debug("%s: %s", sidecar, error)
    try:
        return [
            clips.Cue(start_s, end_s, spoken.replace("\n", " "))
            for start_s, end_s, text in media.text_subtitles(path)
            if (spoken := clean_text(_MARKUP.sub("", text).replace("\\N", "\n")))
        ]
    except SourceError as error:  # subtitles are a bonus
        log.debug("%s: subtitles: %s", path, error.reason)
        return []


def decode_text(raw: bytes) -> str:
    """Text of an unknown encoding: a byte order mark decides, else UTF-8, else Windows' western one."""
    if raw[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        return raw.decode("utf-16", "replace")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace")
