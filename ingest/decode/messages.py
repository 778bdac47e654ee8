"""Messages between the ingest and a process that decodes for it.

Both ways: two big-endian uint32 (length of the header, length of the body), a JSON header, a body of raw bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from typing import IO, Any

from ingest.readers import KnownClip, Rewording
from mmsearch.items import TEXT_SOURCES, ItemDraft, Source
from mmsearch.media.ocr import Line, Recognised, Word

LENGTHS = struct.Struct(">II")
MAX_HEADER_BYTES = 4 << 20
MAX_BODY_BYTES = 1 << 30


def write_message(stream: IO[bytes], header: Mapping[str, Any], body: Iterable[bytes] = ()) -> None:
    parts = list(body)
    head = json.dumps(header).encode("ascii")  # lone surrogates of odd file names pass as \uXXXX
    stream.write(LENGTHS.pack(len(head), sum(map(len, parts))))
    stream.write(head)
    for part in parts:
        stream.write(part)
    stream.flush()


def read_message(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """Raises EOFError at the end of the stream, ValueError for what is no message."""
    head_bytes, body_bytes = LENGTHS.unpack(_read_exactly(stream, LENGTHS.size))
    if head_bytes > MAX_HEADER_BYTES or body_bytes > MAX_BODY_BYTES:
        raise ValueError("message too long")
    try:
        header = json.loads(_read_exactly(stream, head_bytes))
    except RecursionError as error:
        raise ValueError("a header nested too deep") from error
    if not isinstance(header, dict):
        raise ValueError("no header")
    return header, _read_exactly(stream, body_bytes)


def _read_exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def pack_draft(draft: ItemDraft, seconds: float) -> tuple[dict[str, Any], list[bytes]]:
    """A draft as header and body: raw RGB of each image, then the preview."""
    preview = draft.preview or b""
    header = {
        "type": "draft",
        "seconds": seconds,
        "kind": draft.kind,
        "ordinal": draft.ordinal,
        "page_number": draft.page_number,
        "start_s": draft.start_s,
        "end_s": draft.end_s,
        "text": draft.text,
        "meta": dict(draft.meta),
        "text_source": draft.text_source,
        "description": draft.description,
        "has_print": draft.has_print,
        "recognised": None if draft.recognised is None else _pack_recognised(draft.recognised),
        "sizes": [image.size for image in draft.images],
        "preview_bytes": len(preview),
    }
    return header, [*(image.tobytes() for image in draft.images), preview]


def unpack_draft(header: Mapping[str, Any], body: bytes, source: Source) -> ItemDraft:
    """The reverse; whatever does not fit raises ValueError, KeyError, TypeError or IndexError."""
    from PIL import Image

    images = []
    at = 0
    for width, height in header["sizes"]:
        size_bytes = width * height * 3
        images.append(Image.frombytes("RGB", (width, height), body[at : at + size_bytes]))
        at += size_bytes
    if at + header["preview_bytes"] != len(body):
        raise ValueError("a draft's body has another length than its header says")
    if header["kind"] not in ("page", "image", "clip"):
        raise ValueError(f"kind {header['kind']!r}")
    return ItemDraft(
        source=source,
        kind=header["kind"],
        ordinal=int(header["ordinal"]),
        page_number=header["page_number"],
        start_s=header["start_s"],
        end_s=header["end_s"],
        text=str(header["text"]),
        images=tuple(images),
        preview=body[at:] or None,
        meta=dict(header["meta"]),
        text_source=header["text_source"] if header["text_source"] in TEXT_SOURCES else None,
        description=str(header["description"]),
        has_print=None if header["has_print"] is None else bool(header["has_print"]),
        recognised=None if header["recognised"] is None else _unpack_recognised(header["recognised"]),
    )


def pack_rewording(rewording: Rewording) -> dict[str, Any]:
    clips = [[clip.ordinal, clip.start_s, clip.end_s, clip.digest] for clip in rewording.clips]
    return {"duration_s": rewording.duration_s, "clips": clips, "with_frames": rewording.with_frames}


def unpack_rewording(record: Mapping[str, Any]) -> Rewording:
    return Rewording(record["duration_s"], tuple(KnownClip(*clip) for clip in record["clips"]), record["with_frames"])


def _pack_recognised(read: Recognised) -> dict[str, Any]:
    lines = [[line.box, line.confidence, [list(word) for word in line.words]] for line in read.lines]
    return {
        "engine": read.engine,
        "version": read.version,
        "preferred": read.preferred,
        "languages": read.languages,
        "lines": lines,
        "seconds": read.seconds,
    }


def _unpack_recognised(record: Mapping[str, Any]) -> Recognised:
    lines = []
    for box, confidence, words in record["lines"]:
        left, top, right, bottom = map(float, box)
        placed = tuple(Word(str(word), float(x0), float(x1)) for word, x0, x1 in words)
        lines.append(Line(placed, (left, top, right, bottom), None if confidence is None else float(confidence)))
    return Recognised(
        engine=str(record["engine"]),
        version=str(record["version"]),
        preferred=str(record["preferred"]),
        languages=str(record["languages"]),
        lines=tuple(lines),
        seconds=float(record["seconds"]),
    )
