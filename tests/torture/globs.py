"""Path filters: against an oracle that follows every place at once, and against paths on which expressions backtrack."""

from __future__ import annotations

import fnmatch
import random
import re
import time
from dataclasses import dataclass, field

from mmsearch.catalog.filters import glob_pattern

PARTS = ["a", "b", "c", "*", "*", "**", "**/", "/", "?", "[ab]", "[!a]"]
LIMIT_S = 0.5
"""For one path, the longest that Linux knows; the worst that was found takes 0.022 s."""
SLOW = [
    "**/" * 16,
    "**/" * 340,
    "*a" * 500 + "b",
    "**a" * 300 + "b",
    "**" + "*a" * 400 + "b",
    "?*" * 500 + "b",
    "**" + "?" * 900 + "b",
    "**a*a*a*a*a*a*b" * 60 + "c",
    "**/*a*a*a/*a*a*b",
    "[a-z]*" * 150 + "1",
    ("*" + "a" * 60) * 3 + "*" + "a" * 120 + "b",
]
PATHS = ["/" + "/".join(["a" * 255] * 16), "/a" * 2048, "/" + "/".join(["ab" * 127] * 16)]


@dataclass
class Tally:
    matches: int = 0
    problems: list[str] = field(default_factory=list)


def fuzz(count: int, *, seed: int) -> Tally:
    """Random globs and paths of few letters, so that many match."""
    draw, tally = random.Random(seed), Tally()
    for _ in range(count):
        glob = "".join(draw.choices(PARTS, k=draw.randrange(9)))
        path = "/" + "".join(draw.choices("aab/c", k=draw.randrange(12)))
        expected = matches(glob, path)
        tally.matches += expected
        if bool(glob_pattern(glob).match(path)) is not expected:
            tally.problems.append(f"{glob!r} and {path!r}: should {'' if expected else 'not '}match")
    return tally


def slowest_s(glob: str) -> float:
    """The longest that one of `PATHS` takes, the compilation included."""
    took = []
    for path in PATHS:
        began = time.process_time()
        glob_pattern(glob).match(path)
        took.append(time.process_time() - began)
    return max(took)


def matches(glob: str, path: str) -> bool:
    """`Filters.path_globs` by its definition: all places in the path that each part of the glob may lead to."""
    glob, end = glob.removeprefix("./").rstrip("/"), len(path)

    def further(places: set[int], *, across: bool) -> set[int]:
        found = set(places)
        for place in places:
            while place < end and (across or path[place] != "/"):
                place += 1
                found.add(place)
        return found

    def after_slash(places: set[int]) -> set[int]:
        return {place + 1 for place in further(places, across=True) if path[place : place + 1] == "/"}

    places = {0} if glob.startswith("/") else {0} | after_slash({0})
    is_at_folder = True
    for part in re.findall(r"\*\*+/|\*\*+|\*|\?|\[!?[^]]+\]|.", glob):
        if part.startswith("**") and part.endswith("/"):
            places = after_slash(places) | (places if is_at_folder else set())
        elif part.startswith("*"):
            places = further(places, across=part != "*")
        else:
            takes_slash = part == "/"
            here = {place for place in places if place < end and (path[place] == "/") is takes_slash}
            places = {place + 1 for place in here if fnmatch.fnmatchcase(path[place], part)}
        is_at_folder = part.endswith("/")
    return any(place == end or path[place] == "/" for place in places)
