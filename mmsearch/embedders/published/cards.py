"""What a model's card (`README.md`) says of it: names of models, in the order in which they count."""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

HEADING = r"^#\s+(?:Model Card for\s+)?\[?(.+?)(?:\]\(.*\))?\s*$"
"""The first one, without the words that the hub's template puts before the name and without a link around it."""


def names_in_card(text: str) -> Iterator[str]:
    """The model's own names (`model-index`, first heading), then those that it was trained from (`base_model`)."""
    head = re.match(r"---\r?\n(.*?)\r?\n---\s", text, re.DOTALL)
    try:
        fields = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError:
        fields = None
    fields = fields if isinstance(fields, dict) else {}
    indexed = fields.get("model-index")
    for row in indexed if isinstance(indexed, list) else ():
        if isinstance(row, dict):
            yield str(row.get("name"))
    body = text[head.end() :] if head else text
    if heading := re.search(HEADING, body, re.MULTILINE):
        yield heading[1]
    bases = fields.get("base_model")
    yield from map(str, bases if isinstance(bases, list) else [bases])
