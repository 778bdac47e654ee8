"""Is a library sound? What is derived is held against what it was made from; `repair` makes it again, and touches nothing else.

The catalog's rows against each other (`mmsearch.catalog.integrity`), FAISS snapshots against the catalog, previews and leftovers on disk, and a sample
of items decoded and embedded once more against their stored vectors.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ingest.decode.again import decoded
from mmsearch import prompts
from mmsearch.catalog.copies import former_copies
from mmsearch.catalog.dialect.sqlite import CATALOG_NAME
from mmsearch.catalog.integrity import Gaps, Integrity
from mmsearch.catalog.previews import PREVIEWS_NAME
from mmsearch.catalog.recorded import find_loss, record
from mmsearch.catalog.vectors import unit
from mmsearch.disk.faults import disk_faults
from mmsearch.disk.presence import look_for
from mmsearch.disk.replace import replace_file
from mmsearch.errors import CorruptIndex, EmbedderError
from mmsearch.items import KINDS, Item, Kind
from mmsearch.library import Library
from mmsearch.words import size

log = logging.getLogger(__name__)

SAMPLE = 12
"""Items embedded once more, spread over the kinds."""
PREVIEWS_DECODED = 2000
"""So many previews are decoded, too; of all others only the header is read."""
AGREES = 0.999
"""Cosine of a stored vector with the one made again at least; float16 alone costs less than 1e-6."""
STALE_S = 3600.0
"""Leftovers of a write are swept once they are older: something younger may still be at work."""
NAMED = 3
LEFTOVER = re.compile(r"\.(tmp|partial)(-\w+)?$|\.part$|\.corrupt-\d+$|^\.restoring-|^\..+\.(jsonl|zip)\.[a-z0-9_]{8}$")
"""What killed writers left: `.tmp` is of `replace_file` and of a backup, `.restoring` of a restore; `.corrupt` was set aside. The other
names are of older releases."""

Tell = Callable[[str], None]


@dataclass(slots=True)
class Finding:
    """One check. `state`: "sound", "fault", or "notice" (nothing is wrong, but somebody should know); `repaired` tells what was done."""

    check: str
    state: str
    what: str
    count: int = 0
    repaired: str = ""
    examples: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        return asdict(self)


def is_sound(findings: Sequence[Finding]) -> bool:
    """Whether nothing is wrong any longer."""
    return all(finding.state != "fault" or finding.repaired for finding in findings)


def examine(
    library: Library, *, repair: bool = False, quick: bool = False, tell: Tell = lambda _: None
) -> list[Finding]:
    """Check everything; with `repair` (under the library's lock) make again what is derived and wrong.

    Args:
        quick: leave out what decodes files and loads the model.

    Raises:
        CorruptIndex: the catalog itself is damaged, so there is nothing to hold anything against. LibraryLocked, CatalogError.
    """
    if repair:
        with library.lock():
            return list(_examine(library, repair=True, quick=quick, tell=tell))
    return list(_examine(library, repair=False, quick=quick, tell=tell))


def _examine(library: Library, *, repair: bool, quick: bool, tell: Tell) -> Iterator[Finding]:
    integrity = Integrity(library.catalog)
    tell("the catalog")
    yield _catalog(library)
    if said := integrity.meta_faults():
        finding = Finding("facts", "fault", "; ".join(said), len(said))
        if repair:
            integrity.mend_meta()
            finding.repaired = "found again from the rows"
        yield finding
        if not repair:
            return  # all that follows goes by them
    yield _recorded(library, repair)
    yield from _order(library, repair)
    yield _lexical(library, repair)
    key = library.model_key
    if key is None:
        yield Finding("vectors", "notice", "the library is empty: `mmsearch ingest FOLDER` fills it")
        return
    tell("vectors and snapshots")
    gaps = integrity.gaps(key)
    yield from _rows(library, key, gaps, repair)
    odd = np.sort(np.array(gaps.odd_vectors, np.int64))
    for kind in KINDS:
        yield _snapshot(library, key, kind, repair, odd)
    tell("previews and leftovers")
    yield from _previews(library, repair, quick)
    yield _leftovers(library, repair)
    yield from _former_catalogs(library)
    yield from _sources(library, key)
    if not quick:
        tell("a sample of items, embedded once more")
        yield _sample(library)


def _catalog(library: Library) -> Finding:
    if faults := Integrity(library.catalog).faults():
        raise CorruptIndex(
            f"{library.folder}: the catalog is damaged ({'; '.join(faults)}). It was left as it is: put a backup in its place "
            "(`mmsearch restore FILE --library DIR`), or move the folder away and ingest again"
        )
    return Finding("catalog", "sound", "SQLite finds the file, its keys and its indexes whole")


def _recorded(library: Library, repair: bool) -> Finding:
    loss = find_loss(library.catalog)
    if loss is None:
        return Finding("log", "sound", "the catalog holds what was last recorded of it")
    what = f"{loss.sentence()}. `mmsearch ingest` of your folders brings back what is missing"
    finding = Finding("log", "fault", what, max(1, loss.recorded.items - loss.found.items))
    if repair:
        record(library.catalog, acknowledged=True)
        finding.repaired = "what is there now is recorded; nothing is brought back"
    return finding


def _order(library: Library, repair: bool) -> Iterator[Finding]:
    """What SQLite cannot see: rows that contradict each other, or hold what mmsearch never writes."""
    integrity = Integrity(library.catalog)
    if odd_objects := integrity.odd_objects():
        what = f"indexes or triggers are missing or not mmsearch's: {', '.join(odd_objects)}"
        finding = Finding("schema", "fault", what, len(odd_objects))
        if repair:
            integrity.mend_objects(odd_objects)
            finding.repaired = "made again"
        yield finding
    if orphans := integrity.orphans():
        what = ", ".join(f"{count:,} of {table}" for table, count in orphans.items())
        finding = Finding("rows", "fault", f"rows that belong to nothing: {what}", sum(orphans.values()))
        if repair:
            integrity.delete_orphans()
            finding.repaired = "deleted"
        yield finding
    if misplaced := integrity.misplaced():
        what = ", ".join(f"{count:,} {name}" for name, count in misplaced.items())
        finding = Finding(
            "items", "fault", f"items that their file's state says otherwise of: {what}", sum(misplaced.values())
        )
        if repair:
            integrity.place_items()
            finding.repaired = "shown and hidden as their files are"
        yield finding
    unreadable = integrity.unreadable()
    if unreadable.items:
        finding = Finding(
            "texts", "fault", f"{len(unreadable.items):,} items whose text or facts are damaged", len(unreadable.items),
            examples=_names(library, unreadable.items),
        )  # fmt: skip
        if repair:
            integrity.read_again(unreadable.sources)
            finding.repaired = f"{len(unreadable.sources):,} files wait to be read again: `mmsearch ingest` does it"
        yield finding
    if unreadable.previews:
        what = f"{len(unreadable.previews):,} items name a file as their preview that is none of the library's"
        finding = Finding("previews elsewhere", "fault", what, len(unreadable.previews))
        if repair:
            integrity.forget_previews(unreadable.previews)
            finding.repaired = "forgotten"
        yield finding
    if odd := integrity.odd_calibrations():
        finding = Finding("calibration", "fault", f"{len(odd):,} sets of encoded generic queries are damaged", len(odd))
        if repair:
            integrity.forget_calibrations(odd)
            finding.repaired = "forgotten: the model encodes them again"
        yield finding


def _lexical(library: Library, repair: bool) -> Finding:
    integrity = Integrity(library.catalog)
    if library.catalog.read_only:
        return Finding("words", "notice", "the library is read-only: its full-text tables cannot be checked")
    faults = integrity.lexical_faults()
    if not faults:
        return Finding("words", "sound", "the full-text tables hold exactly the visible items")
    finding = Finding("words", "fault", "; ".join(faults), len(faults))
    if repair:
        integrity.rebuild_lexical()
        finding.repaired = "refilled"
    return finding


def _rows(library: Library, key: str, gaps: Gaps, repair: bool) -> Iterator[Finding]:
    integrity = Integrity(library.catalog)
    bad = sorted({*gaps.without_vector, *gaps.odd_vectors})
    if not bad:
        yield Finding("vectors", "sound", "every visible item has its vector")
    else:
        what = f"{len(gaps.without_vector):,} items without a vector, {len(gaps.odd_vectors):,} with an odd one"
        finding = Finding("vectors", "fault", what, len(bad), examples=_names(library, bad))
        if repair:
            waiting = integrity.forget_embedded(bad, key)
            finding.repaired = f"{waiting:,} files wait to be embedded: `mmsearch ingest` does it"
        yield finding
    if gaps.miscounted:
        finding = Finding("sources", "fault", "files that count their items wrongly", len(gaps.miscounted))
        if repair:
            integrity.recount(gaps.miscounted)
            finding.repaired = "recounted"
        yield finding


def _snapshot(library: Library, key: str, kind: Kind, repair: bool, odd: np.ndarray) -> Finding:
    """The store as a search opens it (snapshot and what came since) against the catalog: ids, and every vector but the `odd` ones."""
    generation = library.catalog.generation()
    if not library.stores.has_snapshot(kind) and next(library.catalog.vectors.blocks(key, kind, block=1), None) is None:
        return Finding(f"snapshot of {kind}s", "sound", "no vectors, no snapshot")
    store = library.stores.of(kind)
    held = np.setdiff1d(store.ids(), odd)
    seen, differing = [np.empty(0, np.int64)], []
    for ids, vectors in library.catalog.vectors.blocks(key, kind):
        seen.append(ids[~_are_among(ids, odd)])
        compared = np.flatnonzero(_are_among(ids, held))
        own = [vectors[n] for n in compared] if isinstance(vectors, list) else vectors[compared]
        stored = store.vectors(ids[compared])
        differing += [
            int(ids[n]) for n, one, other in zip(compared, stored, own, strict=True) if not _alike(one, other)
        ]
    expected = np.concatenate(seen)
    missing, extra = np.setdiff1d(expected, held), np.setdiff1d(held, expected)
    if not (len(missing) or len(extra) or differing):
        return Finding(f"snapshot of {kind}s", "sound", f"holds the catalog's {len(expected):,} vectors")
    if library.catalog.generation() != generation:
        return Finding(f"snapshot of {kind}s", "notice", "another process is writing: ask again when it is done")
    what = f"lacks {len(missing):,} vectors, holds {len(extra):,} that are gone, {len(differing):,} differ"
    finding = Finding(f"snapshot of {kind}s", "fault", what, len(missing) + len(extra) + len(differing))
    if repair:
        library.stores.rebuild(kind)
        finding.repaired = "rebuilt from the catalog"
    return finding


def _are_among(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """bool [n]: which of `ids` are in `known`, ascending. Unlike `np.isin` it sorts nothing."""
    if not len(known):
        return np.zeros(len(ids), bool)
    return known[np.minimum(np.searchsorted(known, ids), len(known) - 1)] == ids


def _alike(stored: Any, own: Any) -> bool:
    stored, own = np.atleast_2d(np.asarray(stored, np.float32)), unit(np.atleast_2d(np.asarray(own, np.float32)))
    with np.errstate(invalid="ignore"):  # what is infinite agrees with nothing
        return stored.shape == own.shape and bool((np.sum(stored * own, axis=1) >= AGREES).all())


def _previews(library: Library, repair: bool, quick: bool) -> Iterator[Finding]:
    used = Integrity(library.catalog).used_previews()
    bad = {name for name in used if not _is_whole(library.folder / name)}
    left = sorted(used - bad)
    chosen = [] if quick else [left[n] for n in np.random.default_rng().permutation(len(left))[:PREVIEWS_DECODED]]
    bad |= {name for name in chosen if not _is_picture(library.folder / name)}
    if bad:
        what = f"{len(bad):,} of {len(used):,} are missing or damaged"
        finding = Finding("previews", "fault", what, len(bad), examples=sorted(bad)[:NAMED])
        if repair and not quick:
            made = _make_previews(library, bad.copy())
            finding.repaired = f"{made:,} made again" + (
                f"; {len(bad) - made:,} cannot be: their files are away or have changed" if made < len(bad) else ""
            )
        yield finding
    else:
        decoded_too = f", and {len(chosen):,} of them can be shown" if chosen else ""
        yield Finding("previews", "sound", f"all {len(used):,} are there{decoded_too}")
    folder = library.folder / PREVIEWS_NAME
    orphans = [
        file
        for file in (folder.rglob("*.webp") if folder.is_dir() else ())
        if file.relative_to(library.folder).as_posix() not in used and _is_stale(file)
    ]
    if orphans:
        finding = Finding("previews of nothing", "fault", f"{len(orphans):,} files that no item uses", len(orphans))
        if repair:
            for file in orphans:
                file.unlink(missing_ok=True)
            finding.repaired = "deleted"
        yield finding


def _is_whole(file: Path) -> bool:
    """Whether a WebP file is as long as its header says."""
    try:
        with file.open("rb") as stream:
            head = stream.read(12)
            length = os.fstat(stream.fileno()).st_size
    except OSError:
        return False
    return head[:4] == b"RIFF" and head[8:] == b"WEBP" and int.from_bytes(head[4:8], "little") + 8 == length


def _is_picture(file: Path) -> bool:
    try:
        with Image.open(file, formats=("WEBP",)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def _make_previews(library: Library, wanted: set[str]) -> int:
    """Previews made once more from files that are as they were when they were indexed. Returns how many."""
    made = 0
    for item, draft in decoded(library, library.embedder, library.catalog.items.with_previews(wanted)):
        name = _preview_name(library, item)
        if draft.preview is None or name not in wanted:
            continue
        target = library.folder / name
        with disk_faults(library.folder):
            target.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(target, durable=False) as temporary:
                temporary.write_bytes(draft.preview)
                if target.is_dir():
                    target.rename(target.with_name(f"{target.name}.corrupt-{time.time_ns()}"))
        wanted.discard(name)
        made += 1
    return made


def _preview_name(library: Library, item: Item) -> str:
    return item.preview.relative_to(library.folder).as_posix() if item.preview is not None else ""


def _leftovers(library: Library, repair: bool) -> Finding:
    """Half-written files, snapshots set aside, and folders of models that the catalog does not know."""
    known = set(library.catalog.models.dims())
    found = [path for path in library.folder.rglob("*") if LEFTOVER.search(path.name) and _is_stale(path)]
    found += [
        path
        for path in library.folder.iterdir()
        if path.is_dir() and path.name not in known and (path / ".writing").exists() and _is_stale(path)
    ]
    if not found:
        return Finding("leftovers", "sound", "none")
    names = [path.relative_to(library.folder).as_posix() for path in found]
    finding = Finding(
        "leftovers",
        "fault",
        "files of writes that were cut off, or of models that are gone",
        len(found),
        examples=names[:NAMED],
    )
    if repair:
        for path in found:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        finding.repaired = "deleted"
    return finding


def _former_catalogs(library: Library) -> Iterator[Finding]:
    for kept in former_copies(library.folder / CATALOG_NAME):
        what = f"{kept.name} ({size(kept.stat().st_size)}) is the catalog before its schema was changed: `mmsearch compact` deletes it"
        yield Finding("former catalog", "notice", what)


def _is_stale(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > STALE_S
    except OSError:
        return False


def _sources(library: Library, key: str) -> Iterator[Finding]:
    counts = library.catalog.counts(key)["sources"]
    gone = [root for root, is_there in look_for(library.catalog.sources.roots()).items() if is_there is False]
    if gone:
        what = f"folders that were ingested are empty, or not there now: {', '.join(map(str, gone[:NAMED]))}{' …' if len(gone) > NAMED else ''}"
        yield Finding("roots", "notice", what, len(gone))
    waiting = counts.get("pending", 0) + library.catalog.models.sources_to_embed(key)
    for number, what in (
        (waiting, "files wait to be embedded to the end: `mmsearch ingest` goes on"),
        (counts.get("failed", 0), "files could not be read: `mmsearch errors` lists them"),
        (counts.get("offline", 0), "files are offline: they are back once their disk is"),
    ):
        if number:
            yield Finding("files", "notice", what, number)


def _sample(library: Library) -> Finding:
    """A few items of each kind decoded and embedded as ingestion does, against what is stored."""
    by_kind = {kind: library.stores.of(kind).ids() for kind in library.item_counts()}
    each = SAMPLE // max(1, sum(bool(len(ids)) for ids in by_kind.values()))
    draw = np.random.default_rng(0)
    chosen = library.catalog.items.of([one for ids in by_kind.values() for one in draw.permutation(ids)[:each]])
    try:
        embedder = library.embedder
    except EmbedderError as error:
        return Finding("sample", "fault", f"the library's model cannot be loaded: {error}")
    if embedder.model_key != library.model_key:
        return Finding(
            "sample",
            "fault",
            f"{library.model.name} is not the model whose vectors are stored: `mmsearch ingest` embeds again",
        )
    checked, far = 0, []
    for item, draft in decoded(library, embedder, chosen):
        _, stored = library.catalog.vectors.of([item.id], embedder.model_key)
        made = embedder.encode_documents([prompts.document_input(draft, with_text=embedder.page_text)])[0]
        if len(stored):
            checked += 1
            if not _alike(unit(np.atleast_2d(made)), stored[0]):
                far.append(item)
    if not checked:
        return Finding("sample", "notice", "no file is as it was when it was indexed: nothing to compare")
    if far:
        names = [f"{item.path} {item.place}".strip() for item in far[:NAMED]]
        return Finding(
            "sample",
            "fault",
            f"{len(far)} of {checked} items get another vector now than is stored",
            len(far),
            examples=names,
        )
    return Finding("sample", "sound", f"{checked} items embedded once more agree with their stored vectors")


def _names(library: Library, ids: Sequence[int]) -> list[str]:
    return [f"{item.path} {item.place}".strip() for item in library.catalog.items.of(list(ids)[:NAMED])]
