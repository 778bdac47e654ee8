"""What the page shows, as the address bar says it: a result can be bookmarked, and the browser's back button works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any
from urllib.parse import parse_qsl, urlencode

from mmsearch.items import KINDS, Kind

HELD = "held"
FIRST_DAY, LAST_DAY = date(1900, 1, 1), date(2999, 12, 31)
"""Dates of the filters; others count as not given."""
MAX_NUMBER, MAX_PAGE = 2**63 - 1, 10**9


@dataclass(frozen=True)
class View:
    """One state of the page. `page` counts from 1; `item` is the opened item, `like` the item whose neighbours are sought.

    `weaker` also shows hits below the cut-off, `copies` each copy of a file by itself. `held`: another site led here, so nothing is searched or opened yet.
    """

    query: str = ""
    kinds: tuple[Kind, ...] = ()
    path: str = ""
    after: date | None = None
    before: date | None = None
    page: int = 1
    item: int | None = None
    like: int | None = None
    weaker: bool = False
    held: bool = False
    copies: bool = False

    @classmethod
    def from_url(cls, parameters: Mapping[str, str]) -> View:
        """Read the parameters of an address; what makes no sense counts as not given."""
        words = parameters.get("kinds", "").split(",")
        return cls(
            query=parameters.get("q", "").strip(),
            kinds=tuple(kind for kind in KINDS if kind in words),
            path=parameters.get("path", "").strip(),
            after=_date(parameters.get("after")),
            before=_date(parameters.get("before")),
            page=_number(parameters.get("page"), MAX_PAGE) or 1,
            item=_number(parameters.get("item")),
            like=_number(parameters.get("like")),
            weaker=parameters.get("weaker") == "1",
            held=parameters.get(HELD) == "1",
            copies=parameters.get("copies") == "1",
        )

    @classmethod
    def from_href(cls, href: str) -> View:
        """The view that a link of `href()` leads to."""
        return cls.from_url(dict(parse_qsl(href.removeprefix("?"))))

    def parameters(self) -> dict[str, str]:
        """The parameters that bring this view back; what is at its default is left out."""
        values: dict[str, Any] = {
            "q": self.query,
            "like": self.like,
            "kinds": ",".join(self.kinds),
            "path": self.path,
            "after": self.after and self.after.isoformat(),
            "before": self.before and self.before.isoformat(),
            "page": self.page if self.page > 1 else None,
            "weaker": 1 if self.weaker else None,
            "copies": 1 if self.copies else None,
            "item": self.item,
            HELD: 1 if self.held else None,
        }
        return {name: str(value) for name, value in values.items() if value}

    def href(self) -> str:
        """A link to this view, relative to the page."""
        return "?" + urlencode(self.parameters())

    def has_filters(self) -> bool:
        return bool(self.path or self.after or self.before)


def _number(text: str | None, most: int = MAX_NUMBER) -> int | None:
    """A whole number from 1 to `most` (by default what an id may be), or None."""
    if text and len(text) <= len(str(MAX_NUMBER)) and text.isascii() and text.isdigit() and 0 < int(text) <= most:
        return int(text)
    return None


def _date(text: str | None) -> date | None:
    try:
        day = date.fromisoformat(text) if text else None
    except ValueError:
        return None
    return day if day is not None and FIRST_DAY <= day <= LAST_DAY else None
