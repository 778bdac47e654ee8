"""How text is normalised: what is stored, shown and given to the model, and what the word index and a query's words are compared by.

`readable` is what a person would read: letters instead of ligatures and presentation forms, no words cut at a line's end.
`folded` goes on to what spellings have in common ("Straße" and "strasse"); it is only compared, never shown. SQLite's tokenizer does a
part of that by itself, so `normalised` lists only those `spellings` of a text's words that the tokenizer would miss.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

_INVISIBLE = {0x200B, 0x2060, 0xFEFF, 0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
"""Zero-width spaces and marks of direction: nobody reads them. The joiners stay: emoji and Persian need them."""
_LINE_ENDS = {0x0B, 0x0C, 0x0D, 0x85, 0x2028, 0x2029}
_READ_AS_LETTERS = {"wide", "narrow", "initial", "medial", "final", "isolated", "font", "noBreak", "vertical", "small"}
"""Unicode's tags of characters that only look other than what they stand for. "super", "sub", "fraction" and "circle" are not among them:
people read x² and ½."""
_COMPATIBLE = (
    *((0x0132, 0x0133), (0x0149, 0x0149), (0x017F, 0x017F), (0x01C4, 0x01CC), (0x01F1, 0x01F3)),
    *((0x2000, 0x200A), (0x202F, 0x202F), (0x205F, 0x205F), (0x2E80, 0x2FDF), (0xFB00, 0xFB4F)),
)
"""Ranges of characters tagged "compat" that are read as others: digraphs, spaces, radicals, ligatures."""
_HYPHENS = {0x2010, 0x2011}

_SPACING_ACCENTS = {
    "\u00b4": "\u0301", "\u00a8": "\u0308", "\u02c6": "\u0302", "\u02c7": "\u030c", "\u02d8": "\u0306", "\u02d9": "\u0307",
    "\u02da": "\u030a", "\u02dc": "\u0303", "\u02dd": "\u030b",
}  # fmt: skip
"""TeX's older fonts print an accent and then its letter: "Universit´e"."""
_ACCENTED = re.compile(f"([{''.join(_SPACING_ACCENTS)}])([A-Za-z\u0131])")

_POINTS = (
    "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8"
    "\u06ea-\u06ed"
)
"""For a character class: accents and vowel points, which writers leave out."""
MARKS = (
    f"{_POINTS}\u0900-\u0963\u0971-\u0dff\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u17b4-\u17d3"
    "\u200c\u200d"
)
"""For a character class: what belongs to a word though `\\w` leaves it out (vowel signs, accents, joiners)."""
WORD = f"(?:[^\\W_]|[{MARKS}])+"
"""A regular expression: a word in any script, digits included, in possibly unsegmented text the whole run."""

_SPACELESS = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF)),
    *((0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF)),
    *((0xAC00, 0xD7AF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)),
)
"""Scripts that are written without spaces between words, and Korean, which is set one syllable a line too."""
_ALONE_FROM = 0x2E80
"""Characters of `_SPACELESS` from here on are indexed one by one, so that a word of one or two characters is found in a run."""

LONGEST_EXPANSION = 18
"""So many letters does one character stand for at most: U+FDFA, a blessing in Arabic."""
MAX_WORD_CHARS = 64
"""Two halves longer than this are no cut word."""
_HYPHEN = "-\u00ad"
_CUT = re.compile(rf"(?<![^\W_])([^\W\d_]+(?:-[^\W\d_]+)*)([{_HYPHEN}])$")
_NEXT = re.compile(r"([^\W_]+)(.*)", re.DOTALL)
_COMPOUND = re.compile(r"(?<![^\W_])[^\W\d_]++(?:-[^\W\d_]++)+")
_SUSPENDED = frozenset("and or to nor und oder bis bzw et ou y e o en of och eller og i lub".split())  # noqa: SIM905
""""vor-" at a line's end before one of these stands for itself: "vor- und nachher"."""
_KEPT_PREFIXES = frozenset({"self", "well", "quasi"})

_FOLDED_LETTERS = {
    "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ħ": "h", "ŧ": "t", "ŋ": "n", "ĸ": "k",
    "ς": "σ", "ى": "ي", "ی": "ي", "ک": "ك", "ـ": "",
}  # fmt: skip
"""Beyond what Unicode decomposes: letters that people type plainly, Persian and Arabic forms of one letter, and Arabic's stretching line."""
_LEFT_OUT = re.compile(f"[{_POINTS}\u1ab0-\u1aff\u1dc0-\u1dff\ufe00-\ufe0f\ufe20-\ufe2f]")
"""The marks of Indian and South-East Asian scripts are letters, and stay."""
_APART = "\ue000"
"""A word that nobody types, between words of the index that do not follow each other in the text."""

_QUOTES = dict.fromkeys(map(ord, "“”„‟«»〝〞〟"), '"')
_MINUS = re.compile(r"(?<!\S)[\u2212\u2010\u2011\ufe63\uff0d](?=\S)")


class Normalised(NamedTuple):
    """A text for the index. `text` is `readable`; `spellings`: its words by which it must be found too, see `spellings`."""

    text: str
    spellings: str


def normalised(text: str) -> Normalised:
    """A text of any source, and the spellings of its words that the tokenizer would miss."""
    joined, cut = _joined(_legible(text))
    return Normalised(joined, spellings(joined, cut))


def readable(text: str) -> str:
    """What a person would read, as SQLite can hold it: no lone surrogates, no NUL. Lines stay lines, but for words cut at their end."""
    return _joined(_legible(text))[0]


def described(text: str, description: str) -> str:
    """An item's whole text: the first paragraph of its description (title, caption, keywords, …), its own text, then the other
    paragraphs (notes, attachments), which may be long."""
    head, _, rest = description.partition("\n\n")
    return "\n".join(filter(None, (head, text, rest)))


def asked(query: str) -> str:
    """A query as its words, quotes and `-word` are looked for in: `readable`, with straight quotes and plain hyphens."""
    return readable(_MINUS.sub("-", query)).translate(_QUOTES)


def folded(text: str) -> str:
    """What spellings of a text have in common: lower case, no accents or vowel points, plain letters and digits; characters of
    Chinese, Japanese and Korean stand one by one. `text` is `readable`."""
    return " ".join(text.translate(_FOLD).split())


def spellings(text: str, cut: tuple[str, ...] = ()) -> str:
    """Words by which a text must be found though it does not hold them as SQLite's tokenizer sees it: those whose `folded` form is
    another, compounds without their hyphen, and `cut`. "" for most texts. `text` is `readable`."""
    found: dict[str, None] = dict.fromkeys(map(folded, cut))
    found.update((folded(compound.replace("-", "")), None) for compound in _COMPOUND.findall(text))
    runs: list[str] = []
    if not text.isascii():
        was_run = False
        for chunk in text.split():
            if chunk.isascii():
                was_run = False
                continue
            form = words_of(chunk.translate(_FOLD))
            if form == words_of(chunk.translate(_TOKENIZED)):
                was_run = False
            elif any(map(_is_alone, chunk)):  # these follow each other across spaces and lines
                runs += [] if was_run else [_APART]
                runs.append(f" {_APART} ".join(filter(None, map(folded, re.split(r"[^\w\s]+", chunk)))))
                was_run = True
            else:
                found[form] = None
                was_run = False
    return " ".join([*found, *runs]).strip(f"{_APART} ")


def other_spelling(term: str) -> str:
    """The `folded` form of a term; "" where SQLite's tokenizer sees the same in both."""
    form = folded(term)
    return "" if words_of(form) == words_of(term.translate(_TOKENIZED)) else form


def words_of(text: str) -> str:
    """The letters and digits of a text, with one space for whatever stands between them."""
    return " ".join(re.findall(r"[^\W_]+", text))


def passage(text: str, terms: list[str], around: int = 100) -> str:
    """The part of a text around the first of `terms` that it holds in any spelling, at whatever breaks; "" if it holds none.

    Args:
        around: how many characters to either side.
    """
    letters: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        for letter in _FOLD[ord(character)]:
            if letter.isalnum():
                letters.append(letter)
                places.append(place)
    squeezed = "".join(letters)
    for term in sorted(terms, key=len, reverse=True):
        sought = "".join(filter(str.isalnum, folded(term)))
        at = squeezed.find(sought) if sought else -1
        if at < 0:
            continue
        start, end = places[at], places[at + len(sought) - 1] + 1
        before, after = text[max(0, start - around) : start], text[end : end + around]
        if start > around:
            before = f"…{before.split(None, 1)[-1] if before[:20].split(None, 1)[1:] else before}"
        if end + around < len(text):
            after = f"{after.rsplit(None, 1)[0] if after[-20:].split(None, 1)[1:] else after}…"
        return " ".join(f"{before}{text[start:end]}{after}".split())
    return ""


# ---- characters


class _Readable(dict[int, str]):
    """For `str.translate`: one character as it is read."""

    def __missing__(self, code: int) -> str:
        self[code] = read = self._read(code)
        return read

    def _read(self, code: int) -> str:
        if code in _INVISIBLE:
            return ""
        if code in _LINE_ENDS:
            return "\n"
        if code in _HYPHENS:
            return "-"
        character = chr(code)
        tag, _, parts = unicodedata.decomposition(character).partition("> ")
        is_compatible = tag == "<compat" and _is_in(code, _COMPATIBLE)
        if not (tag.startswith("<") and tag[1:] in _READ_AS_LETTERS) and not is_compatible:
            return character
        codes = [int(part, 16) for part in parts.split()]
        if len(codes) > 1 and codes[0] == 0x20:  # a mark alone is shown on a space
            del codes[0]
        return "".join(self[part] for part in codes)


class _Folded(dict[int, str]):
    """For `str.translate`: a readable character as it is compared."""

    def __missing__(self, code: int) -> str:
        self[code] = form = self._fold(chr(code))
        return form

    def _fold(self, character: str) -> str:
        if _is_alone(character):
            return f" {unicodedata.normalize('NFKC', character)} "
        if (digit := unicodedata.decimal(character, None)) is not None:
            return str(digit)
        folds: list[str] = []
        is_cyrillic = "\u0400" <= character <= "\u052f" and character not in "ёЁ"  # й is no и
        plain = character if is_cyrillic else unicodedata.normalize("NFKD", character)
        for part in _LEFT_OUT.sub("", plain):
            for letter in part.casefold():
                folds.append(_FOLDED_LETTERS.get(letter, letter))
        return "" if unicodedata.category(character) == "Cf" else unicodedata.normalize("NFC", "".join(folds))


class _Tokenized(dict[int, str]):
    """For `str.translate`: a character as FTS5's `unicode61 remove_diacritics 2` sees it."""

    def __missing__(self, code: int) -> str:
        self[code] = seen = self._see(chr(code))
        return seen

    def _see(self, character: str) -> str:
        if "\u0300" <= character <= "\u0331":
            return ""
        base = (
            unicodedata.normalize("NFD", character)[0] if character not in "Ǡǡ" else character
        )  # SQLite's list lacks them
        return base.lower() if base.isascii() else character.lower().replace("ς", "σ")


_READ, _FOLD, _TOKENIZED = _Readable(), _Folded(), _Tokenized()


def _is_in(code: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= code <= last for first, last in ranges)


def _is_alone(character: str) -> bool:
    return ord(character) >= _ALONE_FROM and _is_in(ord(character), _SPACELESS)


def _legible(text: str) -> str:
    """Each character as it is read; words are not joined yet."""
    if text.isascii():
        return text.replace("\0", " ")
    text = text.encode("utf-8", "replace").decode().replace("\0", " ")
    text = text.replace("\r\n", "\n").translate(_READ)
    return _ACCENTED.sub(_accented, unicodedata.normalize("NFC", text))


def _accented(match: re.Match[str]) -> str:
    letter = "i" if match[2] == "\u0131" else match[2]
    letter = unicodedata.normalize("NFC", letter + _SPACING_ACCENTS[match[1]])
    return letter if len(letter) == 1 else match[0]


# ---- lines


def _joined(text: str) -> tuple[str, tuple[str, ...]]:
    """The text without words that are cut at a line's end or set one character a line, and other spellings of those that were cut."""
    cut: tuple[str, ...] = ()
    if "-" in text or "\u00ad" in text:
        text, cut = _without_cuts(text)
        text = text.replace("\u00ad", "")
    return (text if text.isascii() else _without_columns(text)), cut


def _without_cuts(text: str) -> tuple[str, tuple[str, ...]]:
    """Move the second half of each word that is cut at a line's end up to the first one.

    A hyphen that the word has anyway is kept, as far as the text itself and the word tell.
    """
    lines = text.split("\n")
    if not any(line.rstrip(" \t\r")[-1:] in (*_HYPHEN,) for line in lines[:-1]):
        return text, ()
    compounds: set[str] | None = None
    cut: dict[str, None] = {}
    kept: list[str] = []
    for line in lines:
        former = kept[-1].rstrip(" \t\r") if kept else ""
        first = _CUT.search(former[-MAX_WORD_CHARS:]) if former[-1:] in (*_HYPHEN,) and former else None
        second = _NEXT.match(line.lstrip(" \t")) if first else None
        if first is None or second is None or len(second[1]) > MAX_WORD_CHARS or second[1].lower() in _SUSPENDED:
            kept.append(line)
            continue
        if compounds is None:
            compounds = {compound.lower() for compound in _COMPOUND.findall(text)}
        is_kept = first[2] == "-" and _has_own_hyphen(first[1], second[1], compounds)
        if not is_kept and first[2] == "-":
            cut[f"{first[1]}-{second[1]}".lower()] = None
        kept[-1] = f"{former[:-1]}{'-' if is_kept else ''}{second[1]}"
        rest = second[2]
        if not rest[:1].isspace() and rest:  # punctuation, or the next cut, belongs to the word
            attached, _, rest = rest.partition(" ")
            kept[-1] += attached
        if rest.strip():
            kept.append(rest.lstrip())
    return "\n".join(kept), tuple(cut)


def _has_own_hyphen(first: str, second: str, compounds: set[str]) -> bool:
    """Whether a word that is cut after `first` is written with that hyphen within a line, too."""
    if f"{first}-{second}".lower() in compounds or len(first) == 1 or "-" in first or first.lower() in _KEPT_PREFIXES:
        return True
    return not (second[0].islower() or (first.isupper() and second.isupper()))


def _without_columns(text: str) -> str:
    """Join lines of one character each, where the script is one that can be set so."""
    lines = text.split("\n")
    joined: list[str] = []
    column: list[str] = []

    def end_column() -> None:
        if sum(map(_is_spaceless, column)) > 1:
            joined.append("".join(column))
        else:
            joined.extend(column)
        column.clear()

    for line in lines:
        bare = line.strip()
        if bare and (_is_spaceless(bare) or (column and _is_set_between(bare))):
            column.append(bare)
            continue
        end_column()
        joined.append(line)
    end_column()
    return "\n".join(joined)


def _is_spaceless(bare: str) -> bool:
    """One character of a script without spaces, with its marks."""
    return _is_in(ord(bare[0]), _SPACELESS) and all(unicodedata.category(mark)[0] == "M" for mark in bare[1:])


def _is_set_between(bare: str) -> bool:
    """A digit or a mark of punctuation, alone."""
    return len(bare) == 1 and unicodedata.category(bare)[0] in "NPS"
