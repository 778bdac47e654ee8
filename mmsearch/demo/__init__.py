"""A small, varied folder to try mmsearch on, made by code: slide decks, reports, scans, photo-like pictures, short films.

Nothing is downloaded, and nothing but the project's own dependencies is used. The same version writes the same files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmsearch.items import Kind

IGNORE_FILE = """\
# Patterns as in .gitignore: what matches is not indexed.
.library*
drafts/
"""


@dataclass(frozen=True, slots=True)
class DemoQuery:
    """A query to show, the kind it asks for (None: all kinds), and the files of the demo that answer it."""

    text: str
    kind: Kind | None
    answers: tuple[str, ...]


DEMO_QUERIES = (
    DemoQuery("slides about revenue", None, ("talks/q3-2025.pdf",)),
    DemoQuery("invoice for a bicycle repair", None, ("household/2025-0317.pdf",)),
    DemoQuery("Rechnung für eine Fahrradreparatur", None, ("household/2025-0317.pdf",)),
    DemoQuery(
        "a sandy beach with the sea",
        "image",
        ("photos/2024 Portugal/IMG_4021.jpg", "photos/2024 Portugal/IMG_4040.jpg"),
    ),
    DemoQuery("a city at night with lit windows", "image", ("photos/town/IMG_5001.jpg",)),
    DemoQuery("a football match", "image", ("photos/IMG_5400.jpg",)),
    DemoQuery("a red car driving", "clip", ("videos/VID_0302.mp4",)),
    DemoQuery("why does a pendulum swing", "clip", ("videos/lesson.mp4",)),
    DemoQuery("asdf qwer zxcv", None, ()),
)
"""Written before the checkpoint that ships was there; what it does not find stays. Nothing answers the last one."""


def write_demo_folder(folder: Path) -> list[Path]:
    """Fill `folder` with the demo; files that are there already are left alone.

    Returns:
        The paths written by this call, in the order of writing; empty if the folder was complete.
    """
    from mmsearch.demo.documents import DOCUMENTS, write_document
    from mmsearch.demo.pictures import PICTURES, Picture, beach, write_picture
    from mmsearch.demo.videos import FILMS, subtitles, write_film

    jobs: dict[str, Callable[[Path], object]] = {
        ".mmsearchignore": lambda path: path.write_text(IGNORE_FILE, encoding="utf-8"),
        "drafts/not-indexed.jpg": lambda path: write_picture(Picture("", beach), path),
    }
    for name, make in DOCUMENTS.items():
        jobs[name] = lambda path, make=make: write_document(make, path)  # type: ignore[misc]
    for picture in PICTURES:
        jobs[picture.path] = lambda path, picture=picture: write_picture(picture, path)  # type: ignore[misc]
    for film in FILMS:
        jobs[film.path] = lambda path, film=film: write_film(film, path)  # type: ignore[misc]
        if film.subtitles:
            text = subtitles(film)
            jobs[str(Path(film.path).with_suffix(".srt"))] = lambda path, text=text: path.write_text(
                text, encoding="utf-8"
            )  # type: ignore[misc]
    return [folder / name for name, write in jobs.items() if _write_once(folder / name, write)]


def _write_once(path: Path, write: Callable[[Path], object]) -> bool:
    """Let `write` fill `path` unless it exists; an interrupted run leaves no half file behind."""
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".demo-", dir=path.parent) as scratch:
        draft = Path(scratch) / path.name
        write(draft)
        draft.replace(path)
    return True
