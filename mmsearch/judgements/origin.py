"""What made a run: versions, and the revision of the code where it lies in a repository."""

from __future__ import annotations

import os
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import mmsearch

PACKAGES = ("torch", "transformers", "faiss-gpu", "faiss-cpu", "numpy")


def origin() -> dict[str, Any]:
    """JSON values: the versions of mmsearch and of what it computes with, and `git_revision`."""
    return {
        "mmsearch": mmsearch.__version__,
        "git": git_revision(Path(mmsearch.__file__).parent),
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
    }


def git_revision(package: Path) -> dict[str, Any] | None:
    """{"revision", "is_changed"} of the repository that holds `package` as its own; None for an installed one, or without git."""
    if not _git(package, "ls-files", "--error-unmatch", "__init__.py"):
        return None
    revision = _git(package, "rev-parse", "HEAD")
    return {"revision": revision, "is_changed": bool(_git(package, "status", "--porcelain", ".", "../ingest"))}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says; None where it fails or is not there. It takes no lock, so that a commit beside it is not disturbed."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
