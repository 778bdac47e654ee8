"""Files of a store that another process may be reading: replaced as a whole, or set aside."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

PATIENCE_S = (0.05, 0.2, 1.0)
"""After so many seconds each, a reader looks again at a snapshot that another process may be replacing at this moment."""


class Outdated(Exception):
    """A snapshot in a form that this version does not read."""


def load(manifest: Path, read: Callable[[], None], files: Callable[[], Iterable[Path]], *, read_only: bool) -> bool:
    """Whether `read`, which loads a snapshot or raises, came to its end.

    What is unusable is said in the log in one line, set aside unless `read_only`, and left out: the catalog fills it again. Without
    its manifest it was perhaps never finished: it stays until the next one takes its place.

    Args:
        read: raises FileNotFoundError, `Outdated`, or anything else for files that contradict their manifest; its words name the file.
        files: what the snapshot consists of, as far as it is there.
    """
    for wait_s in (*(PATIENCE_S if read_only else ()), None):
        try:
            read()
            return True
        except FileNotFoundError as error:
            if not any(file.exists() for file in files()):
                return False  # never written
            reason: object = f"{Path(error.filename).name} is missing"
            is_partial = not manifest.exists()
        except Outdated as outdated:
            log.info("%s: %s; it is rebuilt", manifest, outdated)
            return False
        except KeyError as lacking:
            reason, is_partial = f"{manifest.name} lacks {lacking}", False
        except Exception as odd:  # whatever odd bytes lead to
            reason, is_partial = odd, False
        if wait_s is not None:
            time.sleep(wait_s)
    manner = "" if read_only or is_partial else "set aside, "
    log.warning(
        "the snapshot %s is unusable (%s); %srebuilt from the catalog", manifest.with_suffix(""), reason, manner
    )
    if manner:
        set_aside(files())
    return False


def read_manifest(file: Path) -> dict[str, Any]:
    """Raises FileNotFoundError; ValueError for what is no manifest."""
    try:
        manifest = json.loads(file.read_bytes())
    except (ValueError, IsADirectoryError):
        manifest = None
    if not isinstance(manifest, dict) or "schema" not in manifest:
        raise ValueError(f"{file.name} is no manifest")
    return manifest


def set_aside(files: Iterable[Path]) -> None:
    """Rename files to `*.corrupt-<ns>`."""
    stamp = time.time_ns()
    for file in files:
        try:
            file.replace(file.with_name(f"{file.name}.corrupt-{stamp}"))
        except FileNotFoundError:
            continue  # another process was quicker
