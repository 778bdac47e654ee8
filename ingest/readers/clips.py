"""Cut moving pictures into clips: at scene changes, 2 to 20 s each, still stretches joined to one.

Works on a stream of samples (about four a second) and keeps a bounded number of them, so that a film of any length costs
the memory of two clips. `ingest.readers.video` and animated pictures (`ingest.readers.image`) both cut here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from ingest.readers import MAX_TEXT_CHARS, Reading
from mmsearch import media
from mmsearch.items import ItemDraft, Source
from mmsearch.media.descriptions import without_long

if TYPE_CHECKING:
    from PIL.Image import Image

Picture = TypeVar("Picture")
"""What a sample shows: the picture itself, or the number of its frame."""

MIN_CLIP_S = 2.0
MAX_CLIP_S = 20.0
FRAMES_PER_CLIP = 8
SAMPLES_KEPT = 48
"""Per clip; beyond it every other one is dropped. Eight frames are chosen among them."""

THUMB_SIDE = 32
CUT_LEVEL = 6.0
"""A scene change differs by more than this in the mean over the thumb (levels of 255) …"""
CUT_RATIO = 3.5
"""… and by more than this many times what the last three seconds changed from sample to sample."""
STILL_MEAN = 2.0
STILL_BLOCK = 20.0
"""Two pictures are the same if the thumbs differ by no more than this in the mean, and in any one of its 1,024 blocks."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A frame shown from `time_s` on; `image` is None for the end of the stream. `index` counts the video's frames."""

    time_s: float
    image: Image | None
    index: int = -1


@dataclass(frozen=True, slots=True)
class Cue:
    """A line of subtitles."""

    start_s: float
    end_s: float
    text: str


class Samples(Generic[Picture]):
    """A clip's samples, a bounded number of them: every one, of a longer clip every second, every fourth, …

    Attributes:
        kept: (time in seconds, picture), in order.
    """

    def __init__(self) -> None:
        self.kept: list[tuple[float, Picture]] = []
        self._stride = 1
        self._seen = 0

    def add(self, time_s: float, picture: Picture) -> None:
        if self._seen % self._stride == 0:
            self.kept.append((time_s, picture))
            self._thin_out()
        self._seen += 1

    def join(self, later: Samples[Picture]) -> None:
        """Take over those of the clip that follows."""
        self.kept += later.kept
        self._thin_out()

    def _thin_out(self) -> None:
        while len(self.kept) > SAMPLES_KEPT:
            del self.kept[1::2]
            self._stride *= 2

    def chosen(self) -> tuple[Picture, ...]:
        """Up to 8 different ones, evenly spaced in time, first and last included."""
        if len(self.kept) <= FRAMES_PER_CLIP:
            return tuple(picture for _, picture in self.kept)
        times_s = np.array([time_s for time_s, _ in self.kept])
        chosen: list[int] = []
        for position, wanted_s in enumerate(np.linspace(times_s[0], times_s[-1], FRAMES_PER_CLIP)):
            nearest = int(np.abs(times_s - wanted_s).argmin())
            lowest = chosen[-1] + 1 if chosen else 0
            highest = len(times_s) - (FRAMES_PER_CLIP - position)  # leaves one for each frame still to come
            chosen.append(min(max(nearest, lowest), highest))
        return tuple(self.kept[index][1] for index in chosen)


@dataclass(slots=True)
class Clip:
    """A span of a video under construction: [`start_s`, `end_s`), some samples, and whether anything moves in it."""

    start_s: float
    end_s: float
    samples: Samples[Image] = field(default_factory=Samples)
    first_thumb: np.ndarray | None = None
    is_still: bool = True

    def add(self, time_s: float, image: Image, thumb: np.ndarray) -> None:
        if self.first_thumb is None:
            self.first_thumb = thumb
        elif self.is_still and not same_picture(self.first_thumb, thumb):
            self.is_still = False
        self.samples.add(time_s, image)

    def join(self, later: Clip) -> None:
        """Take over the clip that follows."""
        self.end_s = later.end_s
        self.is_still = self.is_still and later.is_still and self.looks_like(later)
        self.samples.join(later.samples)

    def looks_like(self, other: Clip) -> bool:
        return (
            self.first_thumb is not None
            and other.first_thumb is not None
            and same_picture(self.first_thumb, other.first_thumb)
        )


def thumb_of(image: Image) -> np.ndarray:
    """int16 [32, 32, 3]: what two frames are compared by."""
    from PIL.Image import Resampling

    return np.asarray(image.resize((THUMB_SIDE, THUMB_SIDE), Resampling.BOX), np.int16)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference of two thumbs, 0…255."""
    return float(np.abs(a - b).mean())


def same_picture(a: np.ndarray, b: np.ndarray) -> bool:
    blocks = np.abs(a - b).mean(axis=2)
    return bool(blocks.mean() <= STILL_MEAN and blocks.max() <= STILL_BLOCK)


Locate = Callable[[Sample, Sample], float]
"""Given the samples before and after a scene change, the time at which the new scene begins."""


def cut(samples: Iterable[Sample], *, locate: Locate | None = None) -> Iterator[Clip]:
    """Clips that cover the samples from the first to the end without gaps, each 2 to 20 s (all of it, if it is shorter)."""
    clip: Clip | None = None
    before: tuple[Sample, np.ndarray] | None = None
    changes: deque[float] = deque(maxlen=12)
    end_s = 0.0
    held: Clip | None = None  # the last finished clip: it takes over a rest that is too short
    for sample in samples:
        end_s = sample.time_s
        if sample.image is None:
            break
        thumb = thumb_of(sample.image)
        if clip is None or before is None:
            clip = Clip(sample.time_s, sample.time_s)
        else:
            change = difference(before[1], thumb)
            boundary_s = None
            if change > max(CUT_LEVEL, CUT_RATIO * median(changes or [0.0])):
                boundary_s = locate(before[0], sample) if locate else sample.time_s
                if boundary_s - clip.start_s < MIN_CLIP_S:
                    boundary_s = None
            if boundary_s is None and sample.time_s - clip.start_s >= MAX_CLIP_S:
                boundary_s = min(sample.time_s, clip.start_s + MAX_CLIP_S) if clip.is_still else sample.time_s
            changes.append(change)
            if boundary_s is not None:
                clip.end_s = boundary_s
                if held is not None:
                    yield held
                held, clip = clip, Clip(boundary_s, boundary_s)
        clip.add(sample.time_s, sample.image, thumb)
        before = (sample, thumb)
    if clip is None:
        return
    clip.end_s = max(end_s, clip.start_s)
    if held is None:
        yield clip
        return
    if clip.end_s - clip.start_s >= MIN_CLIP_S:
        yield from (held, clip)
    elif clip.end_s - held.start_s <= MAX_CLIP_S:
        held.join(clip)
        yield held
    else:
        yield from _halves(held, clip)


def _halves(a: Clip, b: Clip) -> tuple[Clip, Clip]:
    """Two clips, too long to be one, the second too short to stand alone: the same span cut in the middle."""
    middle_s = (a.start_s + b.end_s) / 2
    first, second = Clip(a.start_s, middle_s), Clip(middle_s, b.end_s)
    for time_s, image in a.samples.kept + b.samples.kept:
        (first if time_s < middle_s else second).add(time_s, image, thumb_of(image))
    if second.samples.kept:
        second.start_s = first.end_s = second.samples.kept[0][0]  # a real frame time
    return first, second


def join_still(clips: Iterable[Clip], reading: Reading) -> Iterator[Clip]:
    """Neighbours in which nothing moves and that show the same become one clip of any length."""
    held: Clip | None = None
    for clip in clips:
        if held is not None and held.is_still and clip.is_still and held.looks_like(clip):
            held.join(clip)
            reading.notes["merged_clips"] += 1
            continue
        if held is not None:
            yield held
        held = clip
    if held is not None:
        yield held


def drafts(
    source: Source,
    samples: Iterable[Sample],
    reading: Reading,
    *,
    meta: Mapping[str, Any],
    description: str = "",
    cues: Sequence[Cue] = (),
    locate: Locate | None = None,
) -> Iterator[ItemDraft]:
    """One draft per clip: up to 8 frames, the text spoken in it, a preview of its middle; see `worded`."""
    for ordinal, clip in enumerate(join_still(cut(samples, locate=locate), reading)):
        frames = clip.samples.chosen()
        if ordinal < reading.first_ordinal or not frames:
            reading.on_progress()
            continue
        draft = worded(source, ordinal, (clip.start_s, clip.end_s), meta=meta, description=description, cues=cues)
        yield replace(draft, images=frames, preview=media.webp_preview(frames[len(frames) // 2]))


def worded(
    source: Source,
    ordinal: int,
    span_s: tuple[float, float],
    *,
    meta: Mapping[str, Any],
    description: str,
    cues: Sequence[Cue],
) -> ItemDraft:
    """The draft of a clip without its pictures. The first one has the file's description."""
    said = text_within(cues, *span_s)[: MAX_TEXT_CHARS + 1]  # the one more tells that it was cut
    return ItemDraft(
        source=source,
        kind="clip",
        ordinal=ordinal,
        start_s=span_s[0],
        end_s=span_s[1],
        text=said,
        text_source="subtitle" if said else None,
        description="" if ordinal else description,
        has_print=False,  # clips are not read
        meta=without_long(meta) if ordinal else dict(meta),
    )


def chosen_frames(times_s: Sequence[float], indices: Sequence[int], span_s: tuple[float, float]) -> tuple[int, ...]:
    """Which of the frames that are sampled of a video stand for the clip that covers `span_s`: those that `drafts` gave to it.

    Where a clip was joined from two, and is so long that samples were left out, others may be chosen a moment beside them.

    Args:
        times_s, indices: when each sampled frame is shown, ascending, and its number in the video.
    """
    samples: Samples[int] = Samples()
    for position in range(bisect_left(times_s, span_s[0]), bisect_left(times_s, span_s[1])):
        samples.add(times_s[position], indices[position])
    return samples.chosen()


def text_within(cues: Sequence[Cue], start_s: float, end_s: float) -> str:
    """The subtitles shown during [`start_s`, `end_s`), in order, repeats left out."""
    lines: list[str] = []
    chars = 0
    for cue in cues:
        if chars > MAX_TEXT_CHARS:
            break
        if cue.start_s < end_s and cue.end_s > start_s and (not lines or lines[-1] != cue.text):
            lines.append(cue.text)
            chars += len(cue.text)
    return "\n".join(lines)
