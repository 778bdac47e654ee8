"""The page's state and its address."""

from __future__ import annotations

from datetime import date

import pytest

from ui.view import View

FULL = View("a & b?", ("page", "clip"), "talks/**", date(2024, 1, 2), date(2025, 3, 4), 3, 17, 5, True, True, True)


@pytest.mark.parametrize("view", [View(), View("red"), View(like=4), FULL], ids=["start", "query", "like", "all"])
def test_an_address_brings_its_view_back(view: View):
    assert View.from_url(view.parameters()) == view
    assert View.from_href(view.href()) == view


def test_defaults_stay_out_of_the_address():
    assert View().parameters() == {}
    assert View("red").parameters() == {"q": "red"}


@pytest.mark.parametrize(
    "junk",
    [
        {"page": "0"}, {"page": "-1"}, {"page": "two"}, {"item": "9" * 400}, {"item": str(2**63)}, {"like": "²"},
        {"page": "00000000000000000001" + "9" * 40}, {"page": "99999999999"}, {"after": "0001-01-01"}, {"before": "9999-12-31"},
        {"after": "yesterday"}, {"before": "2024-13-01"}, {"kinds": "sound,<b>"}, {"weaker": "yes"}, {"unknown": "1"},
    ],
    ids=str,
)  # fmt: skip
def test_nonsense_counts_as_not_given(junk: dict[str, str]):
    assert View.from_url(junk) == View()
