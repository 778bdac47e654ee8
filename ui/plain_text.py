"""Text of users' files, and of errors that name them, made fit for a browser and without effect as Markdown."""

from __future__ import annotations

import re

WORD_JOINER = "\u2060"


def displayable(text: str) -> str:
    """`text` as a browser can get it: bytes that are not UTF-8 become the replacement mark."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def plain(text: str) -> str:
    """`text` in one line for a label that knows Markdown, without its having any effect.

    Backslashes hold off Markdown itself. Streamlit also reads the finished text: it makes links of addresses, arrows of "->",
    pictures of ":streamlit:"; an invisible word joiner before the decisive characters keeps it from that.
    """
    line = " ".join(displayable(text).split())
    return re.sub(
        r"[!-/:-@\[-`{-~]", lambda found: _inert(found[0]), line
    )  # before other marks a backslash would be seen


def _inert(mark: str) -> str:
    return f"{WORD_JOINER}\\{mark}" if mark in ":.@>-" else f"\\{mark}"
