"""Videos: clips cut at scene changes, with exact times, 8 frames each, and their subtitles (`ingest.subtitles`)."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.readers import Facts, KnownClip, Reading, clips
from ingest.sidecars import description_beside
from ingest.subtitles import read_subtitles
from mmsearch import media
from mmsearch.errors import CorruptFile, FileTooLarge, SourceError, UnsupportedFile
from mmsearch.items import ItemDraft, Kind, Source

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

SAMPLES_PER_S = 4.0
MIN_SAMPLES = 16
"""A short video is sampled more densely, so that its one clip still has its frames."""
LOCATE_PIXELS = 112 * 112
LOCATE_MAX_FRAMES = 300
"""A scene change is located to the frame unless more frames than this would be decoded again for it."""


def load_decoders() -> None:
    for module in ("av", "decord"):
        with contextlib.suppress(ImportError):  # decord is not made for every platform
            importlib.import_module(module)


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
    words = _read_words(path, info, round(frames.end_s, 3))

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

    yield from clips.drafts(source, samples(), reading, locate=locate, **words)


def read_words(source: Source, duration_s: float, known: Sequence[KnownClip]) -> Iterator[ItemDraft]:
    """The drafts of known clips, without pictures, with what is said in and beside the video now.

    Raises:
        CorruptFile: unreadable.
    """
    words = _read_words(source.path, media.probe_video(source.path), duration_s)
    for clip in known:
        yield clips.worded(source, clip.ordinal, (clip.start_s, clip.end_s), **words)


def frames_of(path: Path, reading: Reading, known: Sequence[KnownClip]) -> Iterator[tuple[Image, ...]]:
    """The frames that stand for each of these clips, which are in order. Nothing else is decoded where the decoder can seek.

    Raises:
        CorruptFile: unreadable, or nothing of a clip decodes.
    """
    if not known:
        return
    frames = media.index_frames(path, on_progress=reading.on_progress)
    sampled = sample_indices(frames.times_s, frames.end_s)
    times_s = [float(frames.times_s[index]) for index in sampled]
    clip_of: dict[int, int] = {}
    for clip in known:
        clip_of |= dict.fromkeys(clips.chosen_frames(times_s, sampled, (clip.start_s, clip.end_s)), clip.ordinal)
    decoded = media.iter_frames(
        path, list(clip_of), max_pixels=reading.budget["clip"], shown_at=frames.times_s, true_shape=True
    )
    by_clip = itertools.groupby(decoded, key=lambda frame: clip_of[frame[0]])
    for clip in known:
        ordinal, shown = next(by_clip, (None, ()))
        if ordinal != clip.ordinal:
            raise CorruptFile(path, f"no frame of the clip at {clip.start_s:.1f} s decodes")
        yield tuple(image for _, image in shown)
        reading.on_progress()


def _read_words(path: Path, info: media.VideoInfo, duration_s: float) -> dict[str, Any]:
    """What is said of and in a video, as `clips.worded` takes it: `meta`, `description` and `cues`."""
    said = description_beside(path).over(info.said)
    cues, remembered = read_subtitles(path)
    meta = {**said.meta(), "duration_s": duration_s, "codec": info.codec, **_told(info), **remembered}
    return {"meta": meta, "description": said.text, "cues": cues}


def read_facts(path: Path) -> Facts:
    info = media.probe_video(path)
    return Facts((_told(info),), is_redrawn=info.pixel_shape != 1.0)  # older readers took all pixels for squares


def _told(info: media.VideoInfo) -> dict[str, Any]:
    told: dict[str, Any] = {"width": info.width, "height": info.height}
    if info.dated is not None:
        told |= info.dated.meta()
    if info.content_identifier is not None:
        told["content_identifier"] = info.content_identifier
    return told


def count_items(path: Path) -> tuple[Kind, int, float]:
    duration_s = media.video_duration(path)
    return "clip", max(1, round(duration_s / 7)), duration_s


def is_described(path: Path) -> bool:
    return bool(media.probe_video(path).said.text)


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
