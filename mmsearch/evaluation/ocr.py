"""What Tesseract reads on the development pages: the baseline for pages that are given as pictures alone.

Debian's `tesseract-ocr` (Apache-2.0), English, one page after the other at 150 dpi. What it read is kept in the work folder,
so it runs once per pool.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from mmsearch.errors import MissingExtra
from mmsearch.training.datasets.rendered_material import PageRecord
from mmsearch.training.datasets.shared_material import load_files

log = logging.getLogger(__name__)

DPI = 150


def read_pages(pages: Sequence[PageRecord], data: Path, cache: Path) -> list[str]:
    """The text that Tesseract sees on each page, from `cache` (JSON lines, grown page by page) where it was read before.

    Raises:
        MissingExtra: a page is not in the cache and Tesseract is not installed.
    """
    known = _read_cache(cache)
    missing = [page for page in pages if (page.name, page.page_number) not in known]
    if missing:
        if shutil.which("tesseract") is None:
            raise MissingExtra("Tesseract is not installed: apt-get install tesseract-ocr")
        log.info("Tesseract reads %d pages, once", len(missing))
        cache.parent.mkdir(parents=True, exist_ok=True)
        files = {record.name: record for record in load_files(data, "pdf")}
        with cache.open("a", encoding="utf-8") as rows:
            for page in missing:
                text = _tesseract(_page_png(files[page.name].member.read(), page.page_number))
                known[page.name, page.page_number] = text
                rows.write(json.dumps({"pdf": page.name, "page": page.page_number, "text": text}) + "\n")
                rows.flush()
    return [known[page.name, page.page_number] for page in pages]


def _read_cache(cache: Path) -> dict[tuple[str, int], str]:
    """What is known; a line that an interrupted run left half written is dropped."""
    known: dict[tuple[str, int], str] = {}
    if not cache.exists():
        return known
    lines = cache.read_text(encoding="utf-8").split("\n")
    if lines[-1]:
        cache.write_text("".join(line + "\n" for line in lines[:-1]), encoding="utf-8")
    for line in lines[:-1]:
        row = json.loads(line)
        known[row["pdf"], row["page"]] = row["text"]
    return known


def _page_png(pdf: bytes, page_number: int) -> bytes:
    import pymupdf

    with pymupdf.open(stream=pdf, filetype="pdf") as document:
        return document[page_number - 1].get_pixmap(dpi=DPI, alpha=False).tobytes("png")


def _tesseract(png: bytes) -> str:
    command = ["tesseract", "stdin", "stdout", "--dpi", str(DPI), "-l", "eng"]
    run = subprocess.run(
        command, input=png, capture_output=True, check=True, env={**os.environ, "OMP_THREAD_LIMIT": "1"}
    )
    return run.stdout.decode("utf-8", "replace")
