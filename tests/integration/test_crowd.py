"""The short version of `make torture`'s crowd: one writer and many readers at once, and no answer that is half of anything."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.torture.crowd import Crowd, Found, page_text, problems_of


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_many_at_once(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path, seed=2)
    crowd.go(12, readers=1, threads=2, queries=1, upkeep=["compact"], has_page=False)
    assert crowd.problems() == []
    done = sum((account.done for account in crowd.accounts), Counter[str]())
    assert all(done[what] for what in ("ingest", "query", "all", "like", "opened again", "held against the catalog")), (
        done
    )


def test_what_cannot_be_in_one_answer_is_noticed() -> None:
    def pages(version: int, *numbers: int, of: int = 2) -> list[Found]:
        return [
            Found(n, 10 * version + n, "page", "/x/small1.pdf", n, page_text("small1", version, n, of), 0.5, 0.9)
            for n in numbers
        ]

    def said(hits: list[Found]) -> list[str]:
        ranked = [Found(n, h.id, h.kind, h.path, h.page, h.text, h.score, h.relevance) for n, h in enumerate(hits, 1)]
        return problems_of(ranked, ["/x/small1.pdf"])

    assert said(pages(1, 1, 2)) == []
    assert said(pages(1, 1)) == ["/x/small1.pdf: 1 pages of 2 in one answer"]
    assert said([]) == ["/x/small1.pdf: 0 pages of ? in one answer"]
    assert "/x/small1.pdf: versions ['1', '2'] in one answer" in said(pages(1, 1) + pages(2, 2))
    assert "an item twice" in said(pages(1, 1, 1))
    assert problems_of(pages(1, 2), [])[0] == "ranks [2]"
