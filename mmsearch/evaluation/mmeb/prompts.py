"""The prompts of the task table in parts: what to do, and the row's own words."""

from __future__ import annotations

from mmsearch.evaluation.mmeb.tasks import Task
from mmsearch.prompts import IMAGE_TOKEN, VIDEO_TOKEN

PLACE = "{text}"


def words_of(prompt: str) -> str:
    """The instruction in a prompt of the table: without tokens of pictures and without the place of the row's words."""
    return prompt.replace(IMAGE_TOKEN, "").replace(VIDEO_TOKEN, "").replace(PLACE, "").strip()


def told(task: Task) -> str:
    """What models with prompts of their own are told of the task's queries."""
    return task.instruction or words_of(task.query)


def filled(prompt: str, text: str) -> str:
    """A prompt of the table with the row's words, whatever braces they hold."""
    return prompt.replace(PLACE, text)
