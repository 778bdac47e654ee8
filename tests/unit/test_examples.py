"""The queries that are suggested after an ingest."""

from __future__ import annotations

import pytest

from mmsearch.library.examples import asked


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("quarterly revenue grew strongly", "quarterly revenue grew strongly"),
        ("Microsoft Word - Minutes of the board.docx", "minutes of the board"),
        ("The state of the art in solar cells and of batteries", "state of the art in solar"),
        ("Annual Report 2023: What We Learned", "annual report"),
        ("Attention Is All You Need, arXiv:1706.03762", None),
        ("https://example.org/a/long/address", None),
        ("jane.doe@example.org", None),
        ("INVOICE 2023-00417 / 12 / 900412", None),
        ("12.5 13.1 14.0 a b c d", None),
        ("x y z w v u t s r q", None),
        ("Kündigung des Mietvertrags zum", "kündigung des mietvertrags"),
        ("summer_trip_to_lisbon", "summer trip to lisbon"),
        ("def main(args): return {1: 2}", None),
    ],
)
def test_a_suggestion_is_what_a_person_would_ask(text: str, query: str | None):
    assert asked(text) == query


def test_a_folder_may_be_one_word():
    assert asked("2019 Lisbon", least=1) == "lisbon" and asked("2019-07", least=1) is None
