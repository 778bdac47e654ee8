"""Which words a tokenizer reads as words."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from mmsearch.embedders.forward.vocabulary import has_word

PIECES = [
    "▁",
    "▁dog",
    "▁Um",
    "satz",
    "▁umsatz",
    "wachs",
    "tum",
    "▁q",
    "we",
    "rt",
    "z",
    "天",
    "气",
    *"abcdefghijklmnopqrstuvwxy",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    made = Tokenizer(
        models.Unigram([("<unk>", -20.0), *((piece, -float(9 - len(piece))) for piece in PIECES)], unk_id=0)
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    return made


@pytest.mark.parametrize(
    ("word", "is_known"),
    [("dog", True), ("umsatzwachstum", True), ("qwertz", False), ("zqjx", False), ("天气", True), ("雨", False)],
)
def test_a_piece_or_a_row_of_long_ones_is_a_word(tokenizer: Tokenizer, word: str, is_known: bool) -> None:
    assert has_word(tokenizer, word) == is_known
