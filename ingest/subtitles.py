"""Subtitles of a video: the files that lie beside it, under every name that players know, and the track inside it.

A library remembers which files it read and their stamps (`meta["subtitles"]` of the clips), so that one that appears or changes later
is noticed without opening the video.
"""

from __future__ import annotations

import html
import logging
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ingest.readers import clips, promised_type
from ingest.text_layer import clean_text
from mmsearch import media
from mmsearch.errors import SourceError

log = logging.getLogger(__name__)

SUFFIXES = (".srt", ".vtt", ".ass", ".ssa")
"""SubRip, WebVTT, Advanced SubStation Alpha and its predecessor; the plainer is preferred."""
FOLDERS = ("subs", "sub", "subtitles")
"""Folders beside a video in which its subtitles may lie, in lower case."""
MAX_BYTES = 10_000_000
MAX_FILES = 20
"""So many of a video's subtitle files are looked at; a season in every language has more."""

_LANGUAGE = r"[a-z]{2,3}(?:[-_][a-z0-9]{2,8}){0,2}"
_NAMED = "english|german|deutsch|french|francais|français|spanish|espanol|español|italian|italiano|portuguese|dutch|polish|russian|japanese|chinese|korean|arabic|turkish|hindi"
_SORT = "forced|foreign|default|full|sdh|cc|hi|commentary|signs|auto|original"
_TAG = re.compile(rf"(?:{_LANGUAGE}|{_NAMED}|{_SORT}|[0-9]{{1,2}})")
"""What may stand between a video's name and the suffix of its subtitles, between dots: a language, the sort of subtitles, a number."""
PARTIAL = ("forced", "foreign", "signs")
"""Subtitles of foreign passages and signs alone: any others are preferred."""


@dataclass(frozen=True, slots=True)
class SubtitleFile:
    """A file of subtitles. `name` is its path from the video's folder, for comparisons."""

    path: Path
    name: str
    is_partial: bool


class SubtitleFolder:
    """The subtitle files in and below one folder, listed once.

    Args:
        folder: in which the videos lie. What cannot be listed holds no subtitles.
    """

    def __init__(self, folder: Path) -> None:
        names = names_in(folder)
        self.videos = {fold(os.path.splitext(n)[0]) for n in names if _is_video(_suffix(n))}  # noqa: PTH122
        self._found: dict[str, list[tuple[Path, str, list[str]]]] = defaultdict(list)
        for name in names:
            self._add(folder, name, "")
            if fold(name) in FOLDERS:
                for inner in names_in(folder / name):
                    self._add(folder / name, inner, f"{name}/")

    def _add(self, folder: Path, name: str, where: str) -> None:
        if _suffix(name) not in SUFFIXES:
            return
        parts = fold(name).split(".")[:-1]
        for count in range(len(parts), 0, -1):
            self._found[".".join(parts[:count])].append((folder / name, where + name, parts[count:]))
            if not _TAG.fullmatch(parts[count - 1]) or _is_video(f".{parts[count - 1]}"):
                return  # what stands before it belongs to the video's name

    def beside(self, video: Path) -> list[SubtitleFile]:
        """The subtitle files of a video in this folder, the best first: beside it, whole, with its full name, without further tags."""
        ranked = []
        for is_stem, key in ((False, fold(video.name)), (True, fold(video.stem))):
            for path, name, tags in self._found.get(key, ()):
                if tags and any(".".join([key, *tags[:count]]) in self.videos for count in range(1, len(tags) + 1)):
                    continue  # another video's: there is talk.en.mp4, too
                is_partial = any(tag in PARTIAL for tag in tags)
                rank = ("/" in name, is_partial, len(tags), is_stem, SUFFIXES.index(_suffix(name)), name)
                ranked.append((rank, SubtitleFile(path, name, is_partial)))
        return [file for _, file in sorted(ranked, key=lambda one: one[0])][:MAX_FILES]


def names_in(folder: Path) -> list[str]:
    """What lies in a folder; nothing where it cannot be listed."""
    try:
        return os.listdir(folder)  # noqa: PTH208 (names that need not be UTF-8)
    except OSError:
        return []


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122


def _is_video(suffix: str) -> bool:
    promised = promised_type(suffix)
    return promised is not None and promised.kind == "clip"


def fold(name: str) -> str:
    """Names as people compare them: disks differ in case and in how they write accents."""
    return unicodedata.normalize("NFC", name).casefold()


# What was read, and whether it still holds


def stamp(files: Sequence[SubtitleFile]) -> str:
    """Changes when one of the files is replaced, edited, renamed or deleted."""
    return stamp_of((file.name, file.path) for file in files)


def stamp_of(named: Iterable[tuple[str, Path]]) -> str:
    """Changes with the names, sizes and times of files."""
    digest = sha256()
    for name, path in named:
        try:
            status = path.stat()
            told = f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0"
        except OSError:
            told = f"{name}\0"
        digest.update(told.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def is_current(
    read: Mapping[str, Any] | None, files: Sequence[SubtitleFile], *, has_text: bool, read_at: float
) -> bool:
    """Whether a video's clips hold the text of the subtitle files that lie beside it now.

    Args:
        read: `meta["subtitles"]` of its clips: how many files were read, and their stamp. None: none, or by an older mmsearch.
        files: what lies there now. has_text: whether any clip has text.
        read_at: when the video was indexed, in seconds since the epoch.
    """
    if read is not None:
        count = read.get("files")
        return isinstance(count, int) and len(files) >= count and read.get("stamp") == stamp(files[:count])
    if not files or not has_text:
        return not files
    try:
        return all(
            max(status.st_mtime, status.st_ctime) <= read_at for status in (file.path.stat() for file in files[:1])
        )
    except OSError:
        return True


def read_subtitles(video: Path) -> tuple[list[clips.Cue], dict[str, Any]]:
    """A video's cues by start, and what to remember of the files that they are from: {} where there are none.

    The first file that holds any cue counts, else the track inside the video; subtitles of foreign passages alone add to that track.
    """
    files = SubtitleFolder(video.parent).beside(video)
    for count, file in enumerate(files, 1):
        now = stamp(files[:count])
        if cues := _cues_of(file.path):
            if file.is_partial:
                cues = sorted([*_embedded(video), *cues], key=lambda cue: cue.start_s)
            return cues, {"subtitles": {"files": count, "stamp": now}}
    remembered = {"subtitles": {"files": len(files), "stamp": stamp(files)}} if files else {}
    return _embedded(video), remembered


def _cues_of(file: Path) -> list[clips.Cue]:
    try:
        with file.open("rb") as handle:
            raw = handle.read(MAX_BYTES + 1)
    except OSError as error:
        log.debug("%s: %s", file, error)
        return []
    return parse_subtitles(decode_text(raw)) if len(raw) <= MAX_BYTES else []


def _embedded(video: Path) -> list[clips.Cue]:
    try:
        return [
            clips.Cue(start_s, end_s, spoken)
            for start_s, end_s, text in media.text_subtitles(video)
            if (spoken := _spoken(text))
        ]
    except SourceError as error:  # subtitles are a bonus
        log.debug("%s: subtitles: %s", video, error.reason)
        return []


# The formats

_CLOCK = r"(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{1,3})"
_TIMING = re.compile(rf"{_CLOCK}\s*-->\s*{_CLOCK}[^\n]*")
_MARKUP = re.compile(r"<[^>]{0,200}>|\{\\[^}]{0,200}\}")
_TELEMETRY = re.compile(r"\b(?:SrtCnt|FrameCnt)\b|\[iso\s*:", re.IGNORECASE)
"""What drones write for every frame: no words that anybody speaks."""
_DRAWING = re.compile(r"\{[^}]{0,200}\\p[1-9]")
"""An ASS line that holds the points of a drawing."""
ASS_FIELDS = ("layer", "start", "end", "style", "name", "marginl", "marginr", "marginv", "effect", "text")


def parse_subtitles(text: str) -> list[clips.Cue]:
    """The cues of an SRT, WebVTT or ASS file, by start; markup and numbering removed, what cannot be read skipped."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    is_ass = "[Events]" in text or text.lstrip().startswith("[Script Info]")
    return sorted(_parse_ass(text) if is_ass else _parse_blocks(text), key=lambda cue: cue.start_s)


def _parse_blocks(text: str) -> list[clips.Cue]:
    cues = []
    for block in re.split(r"\n[ \t]*\n", text):
        timing = _TIMING.search(block)
        if timing is None:
            continue
        start_s, end_s = _seconds(timing.groups()[:4]), _seconds(timing.groups()[4:])
        spoken = "" if _TELEMETRY.search(block) else _spoken(block[timing.end() :])
        if spoken and end_s > start_s:
            cues.append(clips.Cue(start_s, end_s, spoken))
    return cues


def _parse_ass(text: str) -> list[clips.Cue]:
    cues = []
    fields: Sequence[str] = ASS_FIELDS
    is_events = False
    for line in text.split("\n"):
        name, _, content = line.partition(":")
        name = name.strip().lower()
        if line.startswith("["):
            is_events = line.strip().lower() == "[events]"
        elif is_events and name == "format":
            fields = [part.strip().lower() for part in content.split(",")]
        elif is_events and name == "dialogue" and not _DRAWING.search(content):
            row = dict(zip(fields, content.split(",", len(fields) - 1), strict=False))
            times = [re.fullmatch(_CLOCK, row.get(key, "").strip()) for key in ("start", "end")]
            spoken = _spoken(row.get("text", ""))
            if times[0] and times[1] and spoken:
                start_s, end_s = _seconds(times[0].groups()), _seconds(times[1].groups())
                if end_s > start_s:
                    cues.append(clips.Cue(start_s, end_s, spoken))
    return cues


def _seconds(clock: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = (part or "0" for part in clock)
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction.ljust(3, "0")) / 1000


def _spoken(text: str) -> str:
    """One line of plain words."""
    plain = _MARKUP.sub("", text).replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " ")
    return clean_text(html.unescape(plain)).replace("\n", " ")


def decode_text(raw: bytes) -> str:
    """Text of an unknown encoding: a byte order mark decides, else UTF-8, else Windows' western one."""
    if raw[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        return raw.decode("utf-16", "replace")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace")
