"""Walk folders and settle what is there: path, size, time and content hash of every file that a reader may take.

A file whose size and times are as the catalog remembers them is not opened. Nothing here decodes anything.
"""

# ruff: noqa: PTH100, PTH110, PTH111, PTH112, PTH114, PTH116, PTH118, PTH119, PTH120, PTH122
# A walk meets hundreds of thousands of names: strings cost a fifth of Path objects.

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

from ingest.readers import promised_type, sniff
from mmsearch.catalog.left_out import LeftOuts
from mmsearch.disk.presence import Stamped, has_stamps
from mmsearch.items import UNSETTLED, Source

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

log = logging.getLogger(__name__)

IGNORE_FILE = ".mmsearchignore"
CATALOG_FILE = "catalog.sqlite3"
JUNK_NAMES = {"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"}
JUNK_FOLDERS = {"@eadir", "$recycle.bin", "system volume information", "lost+found", "__macosx"}
"""Lower case. Hidden names (with a leading dot, so `._*`, `.DS_Store`, `.git` too) are junk as well."""
COMPANION_SUFFIXES = {".srt", ".vtt", ".ass", ".ssa", ".sub", ".xmp", ".json"}
"""Read with the video or picture beside them, of which they bear the name; alone they are of no use. Of JSON it is what Takeout writes."""
HASH_BLOCK_BYTES = 1 << 20
MAX_IGNORE_BYTES = 64_000
MAX_IGNORE_LINES = 1000
MAX_WILDCARDS = 3
"""In one line of an ignore file. Its time to match grows by the length of a name with each; it comes with the folder, and five take seconds."""
UNSETTLED_NS, UNSETTLED_COARSE_NS = 100_000_000, 2_000_000_000
"""A change time younger than this proves nothing yet: the clock behind it moves in steps, of up to 10 ms in Linux, of 2 s on FAT
(there whole seconds are kept), and a second edit within a step leaves no trace."""


class Known(Stamped, Protocol):
    """What the catalog remembers of a file (`mmsearch.catalog.KnownFile`)."""

    @property
    def sha256(self) -> str: ...


@dataclass(slots=True)
class ScanResult:
    """What a scan found.

    Attributes:
        roots: the folders and files asked for, absolute; folders with their links resolved.
        former: for roots that are reached through a link, the link's own path: before it became one, files lay under it.
        sources: files for the readers, by path; also those that broke the promise of their name or were named explicitly.
        gone_roots: roots that are not there. emptied: folders in which there is nothing at all, as in a mount point without its disk.
        unreadable: (path, reason) of files and folders that are there but could not be read.
        changing: files that changed while they were hashed; they are taken at the next run.
        left_out: what was passed over, and why.
        opened: how many files were opened and hashed.
    """

    roots: list[Path] = field(default_factory=list)
    former: list[Path] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    gone_roots: list[Path] = field(default_factory=list)
    emptied: list[Path] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    changing: list[Path] = field(default_factory=list)
    left_out: LeftOuts = field(default_factory=LeftOuts)
    opened: int = 0

    def seen_unreadable(self) -> list[Path]:
        """Paths at or below which nothing may be taken for deleted."""
        return [path for path, _ in self.unreadable] + self.changing


def find_sources(
    paths: Iterable[str | os.PathLike[str]],
    known: Mapping[bytes, Known] | None = None,
    *,
    library_folder: Path | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    on_progress: Callable[[ScanResult], None] = lambda _: None,
) -> ScanResult:
    """Find the sources at and below `paths`.

    Hidden and junk files, other files than regular ones (pipes, sockets, devices), links to folders, links to files that the
    scan meets anyway, whole libraries of mmsearch, and what `.mmsearchignore` files (gitignore syntax, nested) name are
    passed over, and named in the result; so are files whose content no reader takes. A file named in `paths` is taken whatever its name.

    Args:
        known: by `os.fsencode`d path; a file of the same size and times keeps the hash it had, unopened.
        library_folder: never entered.
        on_progress: called after each file with what is found so far.
        include: globs (gitignore syntax, from the root on); other files are left out. exclude: the other way round.

    Raises:
        Nothing for files and folders that cannot be read: they stand in the result.
    """
    walk = _Walk(known or {}, library_folder, include, exclude, on_progress)
    walk.result.roots, walk.result.former = resolve_roots(paths), former_roots(paths)
    for root in walk.result.roots:
        walk.add_root(root)
    walk.result.sources.sort(key=lambda source: os.fsencode(source.path))
    return walk.result


def resolve_roots(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Absolute, each once, none inside another; links are resolved, except that a file keeps its own name."""
    found: dict[Path, None] = {}
    for path in paths:
        absolute = _absolute(path)
        # A link that leads nowhere now: to a folder on a disk that is away, whose files are known by their real paths.
        if os.path.isdir(absolute) or (os.path.islink(absolute) and not os.path.exists(absolute)):
            found[Path(os.path.realpath(absolute))] = None
        else:
            found[Path(os.path.realpath(os.path.dirname(absolute))) / os.path.basename(absolute)] = None
    return [root for root in found if not any(parent in found and os.path.isdir(parent) for parent in root.parents)]


def former_roots(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The paths as they were given, where `resolve_roots` follows a link in them."""
    given = dict.fromkeys(Path(_absolute(path)) for path in paths)
    return [path for path in given if path not in set(resolve_roots([path]))]


def _absolute(path: str | os.PathLike[str]) -> str:
    return os.path.abspath(os.path.expanduser(os.fspath(path)))


class _Media(NamedTuple):
    """The files of known types in a folder, for comparisons: `names` with and without suffix; what Takeout may call them."""

    names: frozenset[str]
    described: set[str]


class _Walk:
    """One scan's state: what to pass over, where it has been, what it has found."""

    def __init__(
        self,
        known: Mapping[bytes, Known],
        library_folder: Path | None,
        include: Sequence[str],
        exclude: Sequence[str],
        on_progress: Callable[[ScanResult], None],
    ) -> None:
        self.on_progress = on_progress
        self.known = known
        self.library = os.path.realpath(library_folder) if library_folder is not None else None
        self.include, self.exclude = _spec(include), _spec(exclude)
        self.visited: set[tuple[int, int]] = set()
        self.media: dict[str, _Media] = {}
        self.result = ScanResult()

    def add_root(self, root: Path) -> None:
        try:
            status = os.stat(root)
        except (FileNotFoundError, NotADirectoryError):
            self.result.gone_roots.append(root)
            return
        except OSError as error:
            self._unreadable(root, error)
            return
        if stat.S_ISDIR(status.st_mode):
            self._add_folder(str(root), "", [])
        elif stat.S_ISREG(status.st_mode):
            self._add_file(str(root), status)
        else:
            self.result.left_out.add(root, "special")

    def _add_folder(self, folder: str, below: str, ignores: list[tuple[str, GitIgnoreSpec]]) -> None:
        """`below` is the folder relative to its root; iterative, so that depth is no limit."""
        stack = [(folder, below, ignores)]
        while stack:
            folder, below, ignores = stack.pop()
            if folder == self.library:
                self.result.left_out.add(folder, "own")
                continue
            try:
                status = os.stat(folder)
                if (status.st_dev, status.st_ino) in self.visited:
                    continue
                self.visited.add((status.st_dev, status.st_ino))
                with os.scandir(folder) as listing:
                    entries = sorted(listing, key=lambda entry: entry.name)
            except OSError as error:
                self._unreadable(Path(folder), error)
                continue
            if not entries:
                self.result.emptied.append(Path(folder))
            names = {entry.name for entry in entries}
            if CATALOG_FILE in names:
                self.result.left_out.add(folder, "library")
                continue
            if IGNORE_FILE in names and (spec := _read_ignore_file(os.path.join(folder, IGNORE_FILE))):
                ignores = [*ignores, (below, spec)]
            for entry in entries:
                relative = f"{below}/{entry.name}" if below else entry.name
                child = self._add_entry(entry, relative, ignores)
                if child is not None:
                    stack.append((child, relative, ignores))

    def _add_entry(
        self, entry: os.DirEntry[str], relative: str, ignores: list[tuple[str, GitIgnoreSpec]]
    ) -> str | None:
        """Take in a directory entry; the path of a folder to walk is returned."""
        result = self.result
        try:
            is_folder = entry.is_dir(follow_symlinks=False)
            path = relative + "/" if is_folder else relative
            if is_junk(entry.name, is_folder=is_folder):
                result.left_out.add(entry.path, "hidden")
            elif is_ignored(path, ignores) or (self.exclude is not None and self.exclude.match_file(path)):
                result.left_out.add(entry.path, "ignored")
            elif is_folder:
                return entry.path
            elif self.include is not None and not self.include.match_file(path):
                result.left_out.add(entry.path, "ignored")
            elif entry.is_symlink():
                self._add_link(entry)
            elif entry.is_file(follow_symlinks=False):
                self._add_file(entry.path, entry.stat(follow_symlinks=False))
            else:
                result.left_out.add(entry.path, "special")
        except OSError as error:
            self._unreadable(Path(entry.path), error)
        return None

    def _add_link(self, entry: os.DirEntry[str]) -> None:
        """A link to a file outside the roots is a file; any other is passed over (loops, doubles, dangling ones)."""
        target = Path(os.path.realpath(entry.path))
        is_ours = self.library is not None and target.is_relative_to(self.library)
        if is_ours or not target.is_file() or any(target.is_relative_to(root) for root in self.result.roots):
            self.result.left_out.add(entry.path, "link")
            return
        self._add_file(entry.path, os.stat(entry.path))

    def _add_file(self, path: str, status: os.stat_result) -> None:
        self.on_progress(self.result)
        known = self.known.get(os.fsencode(path))
        if known is not None and known.sha256 and has_stamps(known, status):
            stamps = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            self.result.sources.append(Source(Path(path), known.sha256, *stamps))
            return
        suffix = os.path.splitext(path)[1].lower()
        try:
            if sniff(Path(path)) is None and promised_type(suffix) is None:
                if suffix not in COMPANION_SUFFIXES or not self._has_companion(path, suffix):
                    self.result.left_out.add(path, "unsupported", suffix)
                return
            self.result.opened += 1
            source = hash_file(Path(path))
        except OSError as error:
            self._unreadable(Path(path), error)
            return
        if source is None:
            self.result.changing.append(Path(path))
        else:
            self.result.sources.append(source)

    def _has_companion(self, path: str, suffix: str) -> bool:
        """Whether the folder of `path` has a file of a known type with its name, as `talk.mp4` for `talk.en.srt`."""
        from ingest import takeout
        from ingest.subtitles import FOLDERS, fold

        folder, name = os.path.split(path)
        if suffix == takeout.SUFFIX:
            with open_regular(path) as handle:
                if not takeout.is_takeout(handle.read(takeout.MAX_BYTES)):
                    return False
            return fold(takeout.described_by(name)) in self._media_in(folder).described
        parts = fold(name).split(".")
        names = [".".join(parts[:count]) for count in range(1, len(parts))]
        is_inner = suffix != ".xmp" and fold(os.path.basename(folder)) in FOLDERS
        around = [folder, os.path.dirname(folder)] if is_inner else [folder]
        return any(not self._media_in(where).names.isdisjoint(names) for where in around)

    def _media_in(self, folder: str) -> _Media:
        from ingest.subtitles import fold, names_in
        from ingest.takeout import names_for

        if folder not in self.media:
            above = os.path.dirname(folder)
            self.media = {above: self.media[above]} if above in self.media else {}
            files = [name for name in map(fold, names_in(Path(folder))) if promised_type(os.path.splitext(name)[1])]
            stems = [os.path.splitext(name)[0] for name in files]
            described = {one for name in files for one in names_for(name)}
            self.media[folder] = _Media(frozenset(files).union(stems), described)
        return self.media[folder]

    def _unreadable(self, path: Path, error: OSError) -> None:
        self.result.unreadable.append((path, error.strerror or str(error)))


def hash_file(path: Path) -> Source | None:
    """Read a file in blocks for its SHA-256; None if it changed meanwhile. Raises OSError.

    Never more than the size that it had: one that grows faster than it is read would have no end. It is read a second time where
    only its change time moved, and counts as unchanged if it reads the same: its rights were set, or the file system knows no
    change time and makes one up.
    """
    source = _hash_once(path)
    if source is None or source.ctime_ns is not None:
        return source
    again = _hash_once(path)
    return replace(again, ctime_ns=UNSETTLED) if again is not None and again.sha256 == source.sha256 else None


def _hash_once(path: Path) -> Source | None:
    """Without `ctime_ns` where that moved meanwhile; None if the size or the time did."""
    digest = hashlib.sha256()
    began_ns = time.time_ns()
    with open_regular(path) as handle:
        before = os.fstat(handle.fileno())
        left = before.st_size
        while left > 0 and (block := handle.read(min(HASH_BLOCK_BYTES, left))):
            digest.update(block)
            left -= len(block)
        after = os.fstat(handle.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or left > 0:
        return None
    ctime_ns: int | None = after.st_ctime_ns
    if before.st_ctime_ns != after.st_ctime_ns:
        ctime_ns = None
    elif _is_unsettled(after, began_ns):
        ctime_ns = UNSETTLED
    return Source(path, digest.hexdigest(), after.st_size, after.st_mtime_ns, ctime_ns)


def _is_unsettled(status: os.stat_result, at_ns: int) -> bool:
    is_coarse = not (status.st_ctime_ns % 1_000_000_000 or status.st_mtime_ns % 1_000_000_000)
    return abs(at_ns - status.st_ctime_ns) < (UNSETTLED_COARSE_NS if is_coarse else UNSETTLED_NS)


def has_changed(source: Source, *, read: bool = False) -> bool:
    """Whether the file is another one than when it was hashed; gone counts as changed.

    Size and times tell; where only the change time differs, or with `read`, the content does. A change time alone proves nothing:
    setting rights moves it, and some file systems make it up.

    Raises:
        OSError: it is there, and cannot be read.
    """
    try:
        status = os.stat(source.path)
        if (status.st_size, status.st_mtime_ns) != (source.size_bytes, source.modified_ns):
            return True
        if not read and has_stamps(source, status):
            return False
        now = hash_file(source.path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    return now is None or now.sha256 != source.sha256


def is_junk(name: str, *, is_folder: bool) -> bool:
    """Hidden names, and what operating systems and network drives strew about."""
    if name.startswith("."):
        return True
    return name.lower() in (JUNK_FOLDERS if is_folder else JUNK_NAMES)


def is_ignored(relative: str, ignores: Sequence[tuple[str, GitIgnoreSpec]]) -> bool:
    """Whether `.mmsearchignore` files rule a path out; a folder's path ends with `/`. The nearest file has the last word."""
    for base, spec in reversed(ignores):
        verdict = spec.check_file(relative[len(base) + 1 :] if base else relative).include
        if verdict is not None:
            return verdict
    return False


def _spec(globs: Sequence[str]) -> GitIgnoreSpec | None:
    if not globs:
        return None
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec.from_lines(globs)


def _read_ignore_file(path: str) -> GitIgnoreSpec | None:
    """The patterns of an ignore file, which is as little to be trusted as the files beside it; None where there are none."""
    from pathspec import GitIgnoreSpec

    try:
        with open_regular(path) as handle:
            content = handle.read(MAX_IGNORE_BYTES + 1)
        lines = content[:MAX_IGNORE_BYTES].decode("utf-8", "replace").splitlines()
        if len(content) > MAX_IGNORE_BYTES or len(lines) > MAX_IGNORE_LINES:
            log.warning("%s: only the first %d lines or %d bytes are used", path, MAX_IGNORE_LINES, MAX_IGNORE_BYTES)
        usable = []
        for number, line in enumerate(lines[:MAX_IGNORE_LINES], 1):
            if len(re.findall(r"\*+", line)) <= MAX_WILDCARDS or line.startswith("#"):
                usable.append(line)
            else:
                log.warning("%s, line %d: more than %d wildcards; it is left out", path, number, MAX_WILDCARDS)
        return GitIgnoreSpec.from_lines(usable)
    except (OSError, ValueError) as error:
        log.warning("%s cannot be used and is left out: %s", path, error)
        return None


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file to read, without a buffer. A pipe that stands under its name is refused, not waited for.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
        return os.fdopen(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise
