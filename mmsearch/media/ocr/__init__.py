"""Print in pictures becomes text: lines with their boxes, from Tesseract or RapidOCR.

`TextRecogniser` is the seam: one module per engine, and `ENGINES` names them. `choose_engine` says which one reads a picture,
`has_print` whether there is something to read at all. Recognition meets untrusted pixels: call it in a child process.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image

READ_SIDE_PX = 1754
"""Pages are drawn with this long side for recognition: A4 at 150 dpi. Below 1,200 Tesseract loses small print."""
MAX_PICTURE_SIDE_PX = 2400
"""Larger pictures are scaled down to this before recognition."""
MIN_PICTURE_SIDE_PX = 1200
"""Smaller pictures are scaled up towards this, at most twofold: letters of 10 pixels are too small for both engines."""

SLIDE_SIDE_PX = 1280
"""Of a page that RapidOCR reads: its letters are large, and at 1,754 it takes twice as long for the same words."""

ENGINES: Mapping[str, str] = {"tesseract": "mmsearch.media.ocr.tesseract", "rapidocr": "mmsearch.media.ocr.rapid"}
"""The module of each engine. It has `is_installed()` and `open_recogniser(terms)`, which returns a `TextRecogniser`."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, as shares of the picture's width and height (0…1)."""


class Word(NamedTuple):
    """A word as printed, with its left and right edge as shares of the picture's width."""

    text: str
    left: float
    right: float


@dataclass(frozen=True, slots=True)
class Line:
    """A line of print. `confidence` is the engine's own, 0…1; None where the engine tells none (Tesseract through MuPDF)."""

    words: tuple[Word, ...]
    box: Box
    confidence: float | None = None

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)


@dataclass(frozen=True, slots=True)
class Terms:
    """What recognition needs to know; made in the parent process, where it can still refuse.

    Attributes:
        languages: Tesseract's codes joined by "+", as "eng+deu".
        tessdata: a folder that holds the data of all of them.
        engines: the installed engines that may be used.
    """

    languages: str
    tessdata: str
    engines: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """JSON values, for a message to a child process."""
        return {"languages": self.languages, "tessdata": self.tessdata, "engines": list(self.engines)}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Terms:
        return cls(str(record["languages"]), str(record["tessdata"]), tuple(map(str, record["engines"])))


class TextRecogniser(Protocol):
    """Reads the print in a picture.

    Attributes:
        name: of the engine, a key of `ENGINES`.
        version: names the engine's release; stored with each result.
    """

    name: str
    version: str

    def read(self, image: Image) -> list[Line]:
        """The lines in an RGB picture, in the engine's reading order; none for a picture without print."""
        ...


@dataclass(frozen=True, slots=True)
class Recognised:
    """What was read in one page or picture.

    Attributes:
        engine, version: of the recogniser. preferred: the engine that `choose_engine` wants for such a picture; another one than
            `engine` where it is not installed.
        languages: see `Terms`.
        lines: empty where no text was found.
    """

    engine: str
    version: str
    preferred: str
    languages: str
    lines: tuple[Line, ...] = ()
    seconds: float = 0.0

    @property
    def text(self) -> str:
        return "\n".join(line.text for line in self.lines)


def installed_engines() -> tuple[str, ...]:
    """The names of the engines that can be used here; looks for files only and imports no engine."""
    return tuple(name for name, module in ENGINES.items() if importlib.import_module(module).is_installed())


def find_terms(languages: str, *, folder: Path) -> Terms:
    """Find the engines and the language data. `folder` takes links to the data where no single folder holds all of it.

    Raises:
        ConfigError: a language is not installed; the message says where it was looked for.
    """
    from mmsearch.media.ocr import tesseract

    return Terms(languages, str(tesseract.find_data(languages, folder)), installed_engines())


def picture_to_read(image: Image) -> Image:
    """A picture at the size at which it is read."""
    side = max(image.size)
    scale = 1.0
    if side > MAX_PICTURE_SIDE_PX:
        scale = MAX_PICTURE_SIDE_PX / side
    elif side < MIN_PICTURE_SIDE_PX:
        scale = min(2.0, MIN_PICTURE_SIDE_PX / side)
    return image if scale == 1.0 else _scaled(image, scale)


def _scaled(image: Image, scale: float) -> Image:
    from PIL import Image as pil

    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, pil.Resampling.BICUBIC, reducing_gap=3.0)


class Reader:
    """Reads pictures with the engine that suits each; engines are loaded when first needed and kept."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self._open: dict[str, TextRecogniser] = {}

    def read(self, image: Image, *, is_page: bool = False) -> Recognised:
        """Read one RGB picture; `is_page` for a page drawn at `READ_SIDE_PX`. Raises whatever the engine raises."""
        import time

        from mmsearch.media.ocr.looks import choose_engine

        preferred = choose_engine(image)
        name = preferred if preferred in self.terms.engines else self.terms.engines[0]
        began = time.monotonic()
        recogniser = self._recogniser(name)
        if is_page and name == "rapidocr" and max(image.size) > SLIDE_SIDE_PX:
            image = _scaled(image, SLIDE_SIDE_PX / max(image.size))
        lines = legible(recogniser.read(image))
        return Recognised(
            name,
            recogniser.version,
            preferred,
            self.terms.languages,
            lines,
            round(time.monotonic() - began, 3),
        )

    def _recogniser(self, name: str) -> TextRecogniser:
        if name not in self._open:
            self._open[name] = importlib.import_module(ENGINES[name]).open_recogniser(self.terms)
        return self._open[name]


MIN_CONFIDENCE = 0.5
"""RapidOCR's own threshold."""
MIN_LETTERS_SHARE = 0.6
"""A line with fewer letters and digits among its characters is a texture, a rule or a chart's grid."""
MIN_LONGEST_WORD, MIN_LONGEST_WORD_UNSURE = 3, 5
"""A picture whose longest word is shorter holds no text. The second where the engine tells no confidence: Tesseract makes "Say ore es" of noise."""


def legible(lines: Sequence[Line]) -> tuple[Line, ...]:
    """The lines that are text: both engines also "read" textures, frames and grids."""
    kept = tuple(line for line in lines if _is_legible(line))
    least = MIN_LONGEST_WORD if all(line.confidence is not None for line in kept) else MIN_LONGEST_WORD_UNSURE
    longest = max((sum(c.isalnum() for c in word.text) for line in kept for word in line.words), default=0)
    return kept if longest >= least else ()


def _is_legible(line: Line) -> bool:
    if line.confidence is not None and line.confidence < MIN_CONFIDENCE:
        return False
    characters = line.text.replace(" ", "")
    letters = sum(c.isalnum() for c in characters)
    if letters < 2 or letters < MIN_LETTERS_SHARE * len(characters):
        return False
    return any(sum(c.isalnum() for c in word.text) >= 2 for word in line.words) or letters >= 6
