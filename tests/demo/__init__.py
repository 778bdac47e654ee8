"""Makes the demo folder: slide decks, reports, scans, photo-like pictures and short films, all of them drawn by code.

`python -m tests.demo` packs them into the archive that ships, which `mmsearch demo-folder` unpacks. Nothing is downloaded, and only the
project's own dependencies are used. The same versions of them write the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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


def make_demo_folder(folder: Path) -> list[str]:
    """Write every file of the demo into `folder`; returns their names in it, in the order of writing."""
    from tests.demo.documents import DOCUMENTS, write_document
    from tests.demo.pictures import PICTURES, Picture, beach, write_picture
    from tests.demo.videos import FILMS, subtitles, write_film

    files: dict[str, Callable[[Path], object]] = {
        ".mmsearchignore": lambda path: path.write_text(IGNORE_FILE, encoding="utf-8"),
        "drafts/not-indexed.jpg": partial(write_picture, Picture("", beach)),
    }
    files |= {name: partial(write_document, make) for name, make in DOCUMENTS.items()}
    files |= {picture.path: partial(write_picture, picture) for picture in PICTURES}
    for film in FILMS:
        files[film.path] = partial(write_film, film)
        if film.subtitles:
            text = subtitles(film)
            files[str(Path(film.path).with_suffix(".srt"))] = lambda path, text=text: path.write_text(
                text, encoding="utf-8"
            )
    for name, write in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name)
    return list(files)
