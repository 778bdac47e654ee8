"""RapidOCR, the extra `ocr`: PP-OCRv6 small in ONNX Runtime, its models inside the package. It reads slides, screens and signs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from mmsearch.media.ocr import Line, Terms, Word
from mmsearch.media.ocr.spaces import split_words

if TYPE_CHECKING:
    from PIL.Image import Image

PARAMETERS = {
    "Global.log_level": "critical",
    "Global.use_cls": False,  # lines upside down: not studied, and it turns some that stand upright
    "Global.return_word_box": True,
    "Global.return_single_char_box": True,
    "EngineConfig.onnxruntime.intra_op_num_threads": 1,
    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
}


def is_installed() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("rapidocr", "onnxruntime", "cv2"))


class RapidOCR:
    """Reads print of any colour on any ground: 1 to 3 seconds for a slide, 20 for a dense page."""

    name = "rapidocr"

    def __init__(self) -> None:
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # ONNX Runtime would report to Microsoft from its import on
        import rapidocr

        self.version = importlib.metadata.version("rapidocr")
        self._engine: Any = rapidocr.RapidOCR(params=PARAMETERS)

    def read(self, image: Image) -> list[Line]:
        pixels = np.asarray(image)
        found = self._engine(np.ascontiguousarray(pixels[:, :, ::-1]))  # its arrays are BGR
        if found.boxes is None or not found.txts:
            return []
        height, width = pixels.shape[:2]
        grey = np.asarray(image.convert("L"))
        lines = []
        characters = found.word_results or ((),) * len(found.txts)
        for text, corners, score, placed in zip(found.txts, found.boxes, found.scores, characters, strict=True):
            (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
            words = tuple(
                Word(word, left / width, right / width)
                for word, left, right in split_words(text, _spans(placed), grey, (x0, y0, x1, y1))
            )
            box = tuple(
                float(np.clip(value / side, 0, 1))
                for value, side in zip((x0, y0, x1, y1), (width, height, width, height), strict=True)
            )
            if words:
                lines.append(Line(words, box, round(float(score), 3)))  # type: ignore[arg-type]
        return lines


def _spans(placed: Any) -> list[tuple[str, float, float]]:
    """(character, left, right) in pixels, of a line's characters without its spaces."""
    spans = []
    for character, _, corners in placed or ():
        if character and corners is not None:
            xs = [point[0] for point in corners]
            spans.append((str(character), float(min(xs)), float(max(xs))))
    return spans


def open_recogniser(terms: Terms) -> RapidOCR:
    return RapidOCR()
