"""Which words a model's tokenizer reads as words, not as a row of fragments."""

from __future__ import annotations

from tokenizers import Tokenizer

LETTERS_PER_PIECE = 2.5
"""A word that is read in longer pieces than this on average is made of known parts ("Umsatz|wachstum"), one in shorter ones is not ("q|wer|tz")."""


def has_word(tokenizer: Tokenizer, word: str) -> bool:
    """Whether a word (letters only, lower case) is a piece, or made of long ones. In scripts without cases, whose words are short, any word is
    that the tokenizer can spell."""
    encoded = tokenizer.encode(f" {word}", add_special_tokens=False)
    pieces = [piece for piece in encoded.tokens if piece.strip("\u2581\u0120#")]
    if word == word.upper():
        unknown = {tokenizer.token_to_id(token) for token in ("<unk>", "[UNK]")} - {None}
        return not unknown.intersection(encoded.ids)
    return len(pieces) == 1 or len(word) >= LETTERS_PER_PIECE * len(pieces)
