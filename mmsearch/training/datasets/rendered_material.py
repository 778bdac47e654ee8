"""Before training: pages and frames rendered once, teacher vectors computed once. Resumable; everything lies in a work folder.

`pages.tar` holds a JPEG per PDF page and `pages.jsonl` its text; `frames.tar` holds eight frames per clip side by side.
"""

from __future__ import annotations

import io
import json
import logging
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mmsearch import media
from mmsearch.disk.replace import replace_file
from mmsearch.training.datasets.shared_material import FileRecord, TarMember, is_development, load_files

log = logging.getLogger(__name__)

PAGE_PIXELS = 336 * 448
FRAMES = 8
FRAME_SIDE = 128


@dataclass(frozen=True, slots=True)
class PageRecord:
    """A page of a PDF of the training material."""

    name: str
    page_number: int
    text: str
    title: str
    member: TarMember

    @property
    def development(self) -> bool:
        return is_development(self.name)


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """A clip of the training material: its frames lie side by side in one picture."""

    name: str
    captions: tuple[str, ...]
    label: str
    member: TarMember

    @property
    def development(self) -> bool:
        return is_development(self.name)

    def frames(self) -> list[Image.Image]:
        strip = self.member.image()
        side = strip.height
        return [strip.crop((i * side, 0, (i + 1) * side, side)) for i in range(strip.width // side)]


def load_pages(data: Path, work: Path) -> list[PageRecord]:
    """Every page of every PDF with its text layer; rendered on the first call."""
    tar, index = work / "pages.tar", work / "pages.jsonl"
    if not index.exists():
        work.mkdir(parents=True, exist_ok=True)
        with (
            replace_file(index, durable=False) as temporary,
            tarfile.open(tar, "w") as archive,
            temporary.open("w") as rows,
        ):
            for record in load_files(data, "pdf"):
                _render_pages(record, archive, rows)
    with tarfile.open(tar) as archive:
        members = {m.name: TarMember(tar, m.offset_data, m.size) for m in archive}
    return [
        PageRecord(row["name"], row["page"], row["text"], row["title"], members[row["file"]])
        for row in map(json.loads, index.read_text().splitlines())
    ]


def load_clips(data: Path, work: Path) -> list[ClipRecord]:
    """Every clip with eight frames; decoded on the first call."""
    tar, done = work / "frames.tar", work / "frames.done"
    records = load_files(data, "video")
    if not done.exists():
        work.mkdir(parents=True, exist_ok=True)
        with tarfile.open(tar, "w") as archive:
            for record in records:
                strip = Image.new("RGB", (FRAMES * FRAME_SIDE, FRAME_SIDE))
                for i, frame in enumerate(_eight_frames(record)):
                    strip.paste(frame.resize((FRAME_SIDE, FRAME_SIDE), Image.Resampling.BICUBIC), (i * FRAME_SIDE, 0))
                _add(archive, record.name, strip)
        done.touch()
    with tarfile.open(tar) as archive:
        members = {m.name: TarMember(tar, m.offset_data, m.size) for m in archive}
    return [ClipRecord(r.name, r.captions, r.label, members[r.name]) for r in records]


def _render_pages(record: FileRecord, archive: tarfile.TarFile, rows) -> None:
    import pymupdf

    with pymupdf.open(stream=record.member.read(), filetype="pdf") as document:
        for number, page in enumerate(document, 1):
            zoom = (PAGE_PIXELS / max(1.0, page.rect.width * page.rect.height)) ** 0.5
            pixmap = page.get_pixmap(matrix=pymupdf.Matrix(zoom, zoom), alpha=False, colorspace=pymupdf.csRGB)
            image = Image.frombytes("RGB", (pixmap.width, pixmap.height), pixmap.samples)
            name = f"{record.name}#{number}"
            _add(archive, name, image)
            row = {"name": record.name, "page": number, "text": page.get_text(), "title": record.title, "file": name}
            rows.write(json.dumps(row) + "\n")


def _eight_frames(record: FileRecord) -> list[Image.Image]:
    """Evenly spaced, the first and the last among them, as stored. Raises SourceError: see `media.sample_frames`."""
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(record.member.read())
        file.flush()
        shown_at = media.frame_times(file.name)
        indices = np.linspace(0, len(shown_at) - 1, FRAMES).round().astype(int)
        return media.sample_frames(file.name, indices=indices, shown_at=shown_at)


def _add(archive: tarfile.TarFile, name: str, image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    member = tarfile.TarInfo(name)
    member.size = buffer.tell()
    buffer.seek(0)
    archive.addfile(member, buffer)
