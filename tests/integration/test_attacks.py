"""The short version of `make torture`'s attacks, on the real `mmsearch ui`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.torture import attacks
from ui.connections import HEADER_S


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[attacks.Page]:
    with attacks.running(tmp_path_factory.mktemp("attacked"), files=attacks.FILES) as page:
        yield page


def test_connections_that_ask_for_nothing_keep_nobody_out(page: attacks.Page):
    assert attacks.half_open(page, attacks.FILES + 80) == []


@pytest.mark.slow
def test_requests_that_wait_for_their_sender_keep_nobody_out(page: attacks.Page):
    assert attacks.half_asked(page, attacks.FILES + 80) == []


@pytest.mark.slow
def test_a_header_without_an_end_is_cut_off(page: attacks.Page):
    assert attacks.slow_header(page, HEADER_S) == []


def test_guesses_do_not_lock_out_the_right_token(page: attacks.Page):
    assert attacks.guessed_tokens(page, 24, 2.0) == []


def test_more_sessions_than_it_takes(page: attacks.Page):
    assert attacks.crowded(page, attacks.FILES // 8 + 5) == []


@pytest.mark.skipif(find_spec("decord") is None, reason="no decord on this platform")
def test_a_film_that_names_another_is_not_followed(tmp_path: Path):
    assert attacks.lured(tmp_path) == []


@pytest.mark.slow
def test_the_server_dies_with_the_command(page: attacks.Page):
    """The last test of this file: the page is gone after it."""
    assert attacks.killed(page) == []
