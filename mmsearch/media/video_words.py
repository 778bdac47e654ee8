"""What a video's container says in words, by the names that MP4, QuickTime, Matroska and ASF have for it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mmsearch.media.descriptions import Description
from mmsearch.media.xmp import split_keywords

APPLE = "com.apple.quicktime."
_LANGUAGE = re.compile(r"-[a-z]{3}$|-[a-z]{3}-[A-Z]{2}$")
_POSITION = re.compile(r"([+-]\d{2}(?:\.\d+)?)([+-]\d{3}(?:\.\d+)?)(?:[+-]\d+(?:\.\d+)?)?(?:CRS\w*)?/?")
"""ISO 6709 in degrees, as phones write it."""


def video_words(tags: Mapping[str, str]) -> Description:
    """What the tags of a container say; `tags` as PyAV gives them."""
    found: dict[str, str] = {}
    for name, value in tags.items():
        found.setdefault(_LANGUAGE.sub("", name.removeprefix(APPLE)).lower().replace(" ", "_"), value)

    def all_of(*names: str) -> list[str]:
        return [found[name] for name in names if name in found]

    maker = next(iter(all_of("make", "com.android.manufacturer")), "")
    model = next(iter(all_of("model", "com.android.model")), "")
    return Description.of(
        titles=all_of("title", "displayname"),
        captions=all_of("description", "synopsis", "comment", "summary", "subtitle", "information"),
        keywords=[word for value in all_of("keywords", "wm/category", "genre") for word in split_keywords(value)],
        people=[name for value in all_of("actor", "performer") for name in split_keywords(value)],
        places=all_of("location.name", "recording_location"),
        authors=[name for value in all_of("artist", "author", "director") for name in split_keywords(value)],
        rating=found.get("rating.user"),
        camera=model if maker and model.lower().startswith(maker.lower()) else f"{maker} {model}".strip(),
        gps=_position(*all_of("location.iso6709", "location")),
        machine=f"{maker} {model}",
    )


def _position(*values: str) -> tuple[float, float] | None:
    for value in values:
        match = _POSITION.fullmatch(value.strip())
        if match is not None and abs(float(match[1])) <= 90 and abs(float(match[2])) <= 180:
            return round(float(match[1]), 6), round(float(match[2]), 6)
    return None
