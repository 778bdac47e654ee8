"""mmsearch: find pages, photos and moments on your own machine, by meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.4.0"
__all__ = ["Hit", "Item", "Library", "MMSearchError", "Query", "__version__", "open"]

if TYPE_CHECKING:
    from mmsearch.errors import MMSearchError
    from mmsearch.items import Hit, Item, Query
    from mmsearch.library import Library, open

_HOMES = {
    "Hit": "mmsearch.items",
    "Item": "mmsearch.items",
    "Query": "mmsearch.items",
    "MMSearchError": "mmsearch.errors",
    "Library": "mmsearch.library",
    "open": "mmsearch.library",
}


def __getattr__(name: str) -> Any:
    """Load public names on first use, so that `import mmsearch` stays light."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mmsearch' has no attribute {name!r}")
