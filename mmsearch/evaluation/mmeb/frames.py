"""Videos of a task as folders of frames: those that the benchmark publishes, or sampled from the video where they are not there."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mmsearch.disk.replace import replace_file
from mmsearch.errors import DatasetError
from mmsearch.evaluation.mmeb.hub import MEDIA_HUB, media_folder
from mmsearch.evaluation.mmeb.tasks import Task
from mmsearch.media import frame_times, iter_frames
from mmsearch.media.pictures import FilePicture
from mmsearch.training.datasets.record_fields import natural_order

log = logging.getLogger(__name__)

SAVED = 64
"""Frames of a video that are kept in its folder."""
JPEG_QUALITY = 95
SUFFIXES = (".jpg", ".jpeg", ".png")


class Videos:
    """The videos of a task under their folders of frames."""

    def __init__(self, task: Task, data: Path) -> None:
        """Raises: DatasetError: neither frames nor videos are there."""
        self.count = task.frames
        self.decoding = task.decoding
        self.raw = data / MEDIA_HUB / task.media.replace("/frames/", "/videos/")
        self.folder = data / MEDIA_HUB / task.media if self.raw.is_dir() else media_folder(task, data)

    def frames(
        self,
        name: str,
        video: str | None = None,
        *,
        sampling: Callable[[int], list[int]] | None = None,
        count: int | None = None,
    ) -> tuple[FilePicture, ...]:
        """The frames of a video that the model sees, spread evenly over those in its folder.

        Args:
            name: of the folder.
            video: path under the folder of videos, of a file or of a folder of frames; where there are no frames yet,
                they are sampled from it, once.
            sampling: see `save_frames`; `spread` by default.
            count: so many of them; as many as the task shows of a video if None.

        Raises:
            DatasetError: neither frames nor video. SourceError: the video cannot be read.
        """
        folder = self.folder / name
        found = frames_in(folder)
        if not found and video is not None and (self.raw / video).is_dir():
            folder = self.raw / video
            found = frames_in(folder)
        elif not found and video is not None and (self.raw / video).is_file():
            save_frames(self.raw / video, folder, sampling=sampling or spread)
            found = frames_in(folder)
        if not found:
            raise DatasetError(f"no frames in {folder}" + (f" and no video at {self.raw / video}" if video else ""))
        kept = chosen(found, self.count if count is None else count)
        return tuple(FilePicture(folder / frame, self.decoding) for frame in kept)


def frames_in(folder: Path) -> list[str]:
    """Names of the frames of a folder in natural order; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted((entry.name for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES), key=natural_order)


def chosen(frames: list[str], count: int | None) -> list[str]:
    """So many frames from the first to the last; all of them if there are not more, or if `count` is None.

    Source: TIGER-AI-Lab/VLM2Vec@6e1e1d4 `src/utils/vision_utils/vision_utils.py` (`process_video_frames`).
    """
    if count is None or count > len(frames):
        return frames
    return [frames[i] for i in np.linspace(0, len(frames) - 1, count, dtype=int)]


def spread(total: int) -> list[int]:
    """Frames to keep of retrieval and classification videos: all, or `SAVED` from the first on, evenly."""
    return list(range(total)) if total <= SAVED else [i * total // SAVED for i in range(SAVED)]


def stepped(total: int) -> list[int]:
    """Frames to keep of question sets: every n-th. What is left of a division is not seen: the end of the video."""
    return list(range(0, total, max(1, total // SAVED)))[:SAVED]


def save_frames(video: Path, folder: Path, *, sampling: Callable[[int], list[int]] = spread) -> None:
    """Samples a video into a folder of JPEGs, all of it or nothing; named as the reference names them.

    The frames that the benchmark publishes were compressed by other programs: pixels differ slightly.

    Raises:
        SourceError: the video cannot be read. DatasetError: the folder is there and holds something else.
    """
    shown_at = frame_times(video)
    try:
        with replace_file(folder, durable=False) as temporary:
            temporary.mkdir(parents=True)
            for number, (_, frame) in enumerate(iter_frames(video, sampling(len(shown_at)), shown_at=shown_at)):
                name = f"frame_{number + 1:04d}.jpg" if sampling is spread else f"{number:04d}.jpeg"
                frame.save(temporary / name, quality=JPEG_QUALITY)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        if not frames_in(folder):  # else another process was faster
            raise DatasetError(f"{folder} holds something else than frames: move it away") from error
    log.info("sampled the frames of %s", video)
