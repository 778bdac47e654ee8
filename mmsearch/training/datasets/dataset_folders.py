"""Where a data set lies on disk: looked for under its name on the hub, fetched from there only when asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmsearch.errors import DatasetError


def default_cache() -> Path:
    """The user's cache folder of mmsearch for data sets."""
    from platformdirs import user_cache_path

    return user_cache_path("mmsearch") / "datasets"


@dataclass(frozen=True, slots=True)
class DatasetFolders:
    """Folders for data sets.

    Attributes:
        root: holds data sets, each in `<owner>/<name>` or `<name>`.
        cache: holds what is made from them once (tables that can be read in any order); the user's cache folder if None.
        download: fetch from the hub what is not there.
    """

    root: Path = Path("data")
    cache: Path | None = None
    download: bool = False

    def cache_folder(self) -> Path:
        return self.cache or default_cache()

    def local(self, path: str) -> Path:
        """A path of a recipe: as it is, else under `root`."""
        given = Path(path).expanduser()
        return given if given.exists() or given.is_absolute() else self.root / given

    def dataset_folder(self, spec: Mapping[str, Any], hub_name: str, *, needed: str, patterns: list[str]) -> Path:
        """The folder of a data set on the hub.

        Args:
            hub_name: `<owner>/<name>`, or a folder.
            needed: pattern of a file without which the folder is not enough, as when another subset was fetched before.
            patterns: of all files that belong to it, for the download.

        Raises:
            DatasetError: it is not there (with the folders looked at and the way to get it), or the hub cannot be reached.
        """
        looked_at = [Path(hub_name).expanduser(), self.root / hub_name, self.root / hub_name.rpartition("/")[2]]
        found = [folder for folder in looked_at if folder.is_dir()]
        complete = [folder for folder in found if any(folder.glob(needed))]
        target = self.root / hub_name
        if not complete and spec.get("download", self.download):
            return _fetch(hub_name, target, patterns)
        if found:
            return (complete or found)[0]
        folders = ", ".join(str(folder) for folder in dict.fromkeys(looked_at[1:]))
        raise DatasetError(
            f"no data set {hub_name} on this machine (looked for {folders}); "
            f"get it with `hf download {hub_name} --repo-type dataset --local-dir {target}` or let `--download` fetch it"
        )


def _fetch(hub_name: str, target: Path, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    if hub_name.count("/") != 1:
        raise DatasetError(f"{hub_name!r} is neither a folder nor a name on the hub (<owner>/<name>)")
    try:
        snapshot_download(hub_name, repo_type="dataset", local_dir=target, allow_patterns=patterns)
    except Exception as error:  # the hub's, httpx's and the system's errors alike
        first = (str(error).strip().splitlines() or [""])[0]
        raise DatasetError(f"{hub_name} cannot be fetched from the hub: {type(error).__name__}: {first}") from error
    return target
