"""What goes wrong while the page is drawn or a widget is used becomes a sentence on it; the trace goes into the log."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec

import streamlit as st

from mmsearch.errors import MMSearchError
from ui.plain_text import plain

Given = ParamSpec("Given")

log = logging.getLogger(__name__)

FAULT = "That went wrong by a fault of mmsearch itself; the terminal that started the page shows where. The library is as it was."
PROBLEM = "problem"
"""What a callback could not do, in the session until the page is drawn."""


@contextmanager
def guard() -> Iterator[None]:
    """Around what draws a part of the page: an error takes the place of the rest of that part."""
    try:
        yield
    except Exception as error:
        _show(_sentence(error))


def guarded(callback: Callable[Given, object]) -> Callable[Given, None]:
    """A callback of a widget: an error is shown when the page is drawn after it."""

    @functools.wraps(callback)
    def calling(*args: Given.args, **kwargs: Given.kwargs) -> None:
        try:
            callback(*args, **kwargs)
        except Exception as error:
            st.session_state[PROBLEM] = _sentence(error)

    return calling


def show_problem() -> None:
    """What the callback before this run could not do, if anything."""
    if problem := st.session_state.pop(PROBLEM, None):
        _show(problem)


def _show(sentence: str) -> None:
    st.error(plain(sentence), icon=":material/error:")


def _sentence(error: Exception) -> str:
    if isinstance(error, MMSearchError):
        return str(error)
    log.error("the page met an error that it does not know", exc_info=error)
    return FAULT
