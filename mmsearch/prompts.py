"""The only place where instructions are written. Strings and their order follow VLM2Vec-V2's evaluation code.

Source: TIGER-AI-Lab/VLM2Vec@6e1e1d4, `process_input_text` and the dataset parsers (see shared/REFERENCE.md §2).
A final prompt is `[<|video_pad|> ][<|image_pad|> ]instruction[ text]`: no chat template, no end token.
"""

from __future__ import annotations

from mmsearch.items import EmbedInput, ItemDraft, Kind, Query

IMAGE_TOKEN = "<|image_pad|>"
VIDEO_TOKEN = "<|video_pad|>"

DOCUMENT_INSTRUCTIONS: dict[Kind, str] = {
    "page": "Understand the content of the provided document image.",
    "image": "Represent the given image.",
    "clip": "Understand the content of the provided video.",
}

TEXT_QUERY_INSTRUCTIONS: dict[Kind, str] = {
    "page": "Find a document image that matches the given query:",
    "image": "Find me an everyday image that matches the given caption:",
    "clip": "Find a video that contains the following visual content:",
}

IMAGE_QUERY_INSTRUCTIONS: dict[Kind, str] = {
    "page": "Find a document image that matches the provided image.",
    "image": "Find a day-to-day image that looks similar to the provided image.",
    "clip": "Select the video clip that aligns with the given image.",
}

COMPOSED_QUERY_INSTRUCTIONS: dict[Kind, str] = {
    "page": "Find a document image that matches the given image and query:",
    "image": "Given an image, find a similar everyday image with the described changes:",
    "clip": "Select the video clip that aligns with the given text and image:",
}


def final_prompt(instruction: str, text: str = "", *, image_count: int = 0, is_video: bool = False) -> str:
    """The exact string that the model reads; one image token per image, or one video token."""
    prompt = f"{instruction} {text}" if text and instruction else instruction or text
    if is_video:
        return f"{VIDEO_TOKEN} {prompt}"
    return f"{IMAGE_TOKEN} " * image_count + prompt


def document_input(draft: ItemDraft, *, with_text: bool = True) -> EmbedInput:
    """The target side of an item: its pixels, its kind's instruction and, with `with_text`, its text."""
    return EmbedInput(
        instruction=DOCUMENT_INSTRUCTIONS[draft.kind],
        text=" ".join(draft.text.split()) if with_text else "",
        images=draft.images,
        is_video=draft.kind == "clip",
        kind=draft.kind,
    )


def query_input(query: Query, kind: Kind) -> EmbedInput:
    """The query side for one kind of target; V2's instructions differ by what is sought."""
    text = " ".join(query.text.split())
    images = query.frames or query.images
    if not images:
        instruction = TEXT_QUERY_INSTRUCTIONS[kind]
    elif text:
        instruction = COMPOSED_QUERY_INSTRUCTIONS[kind]
    else:
        instruction = IMAGE_QUERY_INSTRUCTIONS[kind]
    return EmbedInput(
        instruction=instruction if query.instruction is None else query.instruction,
        text=text,
        images=images,
        is_video=bool(query.frames),
        kind=kind,
    )
