"""The only place where instructions are written. Strings and their order follow VLM2Vec-V2's evaluation code.

Source: TIGER-AI-Lab/VLM2Vec@6e1e1d4, `process_input_text` and the dataset parsers (see shared/REFERENCE.md §2).
A final prompt is `[<|video_pad|> ][<|image_pad|> ]instruction[ text]`: no chat template, no end token.
"""

from __future__ import annotations

from mmsearch.items import EmbedInput, ItemDraft, Kind, Query
from mmsearch.plain_text import described, readable

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


def split_prompt(prompt: str) -> tuple[str, str]:
    """(instruction, text) of a final prompt without its image and video tokens, for models that read the two apart.

    The instruction is the longest one of this module that the prompt begins with and that ends where a word ends. A prompt that begins
    with none of them is text as a whole: an instruction of the user's own cannot be told from the text behind it.
    """
    for token in (IMAGE_TOKEN, VIDEO_TOKEN):
        prompt = prompt.replace(token, " ")
    prompt = prompt.strip()
    for instruction in _KNOWN_INSTRUCTIONS:
        text = prompt.removeprefix(instruction)
        if len(text) < len(prompt) and (not text or text[0].isspace()):
            return instruction, text.lstrip()
    return "", prompt


def document_input(draft: ItemDraft, *, with_text: bool = True) -> EmbedInput:
    """The target side of an item: its pixels, its kind's instruction and, with `with_text`, its text and description as they are stored."""
    return EmbedInput(
        instruction=DOCUMENT_INSTRUCTIONS[draft.kind],
        text=" ".join(readable(described(draft.text, draft.description)).split()) if with_text else "",
        images=draft.images,
        is_video=draft.kind == "clip",
        kind=draft.kind,
    )


def query_input(query: Query, kind: Kind) -> EmbedInput:
    """The query side for one kind of target; V2's instructions differ by what is sought."""
    text = " ".join(readable(query.text).split())
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


# Training: the strings of the released training data, which are not always those of evaluation.

PHI_IMAGE_TOKEN = "<|image_1|>"
"""The image placeholder in MMEB's data, after the backbone that it was made for."""
LLAVA_VIDEO_TOKEN = "<video>"
"""The video placeholder in LLaVA-Hound's conversations."""

VISRAG_INSTRUCTIONS: dict[str, tuple[str, str]] = {
    "NeurIPS Papers": (
        "This query is about a research paper from NeurIPS, a leading AI/ML conference. The document contains technical discussions, methodologies, and findings. Identify relevant papers and sections that address the query: ",
        "A research paper from NeurIPS on AI and ML topics.",
    ),
    "Textbooks": (
        "This query is related to a college-level textbook, which provides structured explanations, definitions, and examples. Find the most relevant concepts or explanations that address the query: ",
        "A textbook page with structured educational content and explanations.",
    ),
    "ICML Papers": (
        "This query is about a research paper from ICML, a leading AI/ML conference. The document contains theoretical insights, experiments, and applications. Identify relevant papers and sections that best answer the query: ",
        "A research paper from ICML, covering machine learning topics.",
    ),
    "Manuallib": (
        "This query pertains to a product manual, which contains detailed technical specifications, usage instructions, and troubleshooting steps. Find the most relevant section that answers the query: ",
        "A product manual page with technical specifications and instructions.",
    ),
    "ArxivQA": (
        "This query is related to retrieving a relevant figure from an ArXiv research paper. The retrieved figure should contain scientific plots, mathematical visualizations, or experimental results that best address the query: ",
        "A figure from a research paper, including plots or experimental results.",
    ),
    "ChartQA": (
        "This query is related to retrieving a relevant chart that visually represents numerical or categorical data. The retrieved chart should contain bar graphs, line charts, or other visual elements necessary to analyze trends, compare values, or extract insights related to the query: ",
        "A statistical chart comparing values or analyzing trends.",
    ),
    "MP-DocVQA": (
        "This query is related to retrieving a relevant page from a multi-page document, such as reports, invoices, or research papers. The retrieved document should contain text, tables, or structured information necessary to answer the query: ",
        "A page from a multi-page document with text or tables.",
    ),
    "InfoVQA": (
        "This query is related to retrieving an infographic that visually presents statistical or factual information using charts, icons, and structured layouts. The retrieved image should contain the necessary visual elements to provide the best context for answering the query: ",
        "An infographic with structured data, charts, and annotations.",
    ),
    "PlotQA": (
        "This query relates to retrieving a relevant plot or chart that visually represents numerical data. The retrieved figure should contain the necessary information to analyze trends, compare values, or extract key insights related to the query: ",
        "A numerical data visualization, such as bar charts or line graphs.",
    ),
    "SlideVQA": (
        "This query is related to retrieving a relevant presentation slide that visually presents structured information. The retrieved slide should contain the necessary text, charts, or graphics to provide the best answer to the query: ",
        "A presentation slide with text, bullet points, and diagrams.",
    ),
}
"""Of the query and of the page, by the row's `source`. Source: TIGER-AI-Lab/VLM2Vec@6e1e1d4 `src/data/dataset/visrag_dataset.py`."""

LLAVA_HOUND_INSTRUCTIONS = {
    "video_query": "Find a video that contains the following visual content: ",
    "video_target": "Understand the content of the provided video: ",
    "question": "Answer a question based on the content of a video. ",
}
"""Source: TIGER-AI-Lab/VLM2Vec@6e1e1d4 `src/data/dataset/llavahound_dataset_{caption,qa}.py`."""

PHOTO_TO_TEXT_INSTRUCTION = "Find an image caption describing the given everyday image."
PHOTO_QUESTION_INSTRUCTION = "Represent the given image with the following question:"


def mmeb_training_prompt(text: str) -> str:
    """A text of MMEB-train as the model reads it: complete but for its image placeholder."""
    return text.replace(PHI_IMAGE_TOKEN, IMAGE_TOKEN)


def visrag_training_prompts(source: str, query: str) -> tuple[str, str]:
    """Query and page as released: two spaces before the query, one behind it, and the image token last.

    A source without instruction gives the query and the image alone.
    """
    of_query, of_page = VISRAG_INSTRUCTIONS.get(source, ("", ""))
    asked = f"{of_query} {query} " if of_query else f"{query} "
    return asked, f"{of_page}  {IMAGE_TOKEN}" if of_page else f" {IMAGE_TOKEN}"


def conversation_prompt(text: str) -> str:
    """The first turn of a LLaVA-Hound conversation with the model's video token."""
    return text.replace(LLAVA_VIDEO_TOKEN, VIDEO_TOKEN)


def video_retrieval_training_prompts(caption: str) -> tuple[str, str]:
    """Caption and video as released: the video token last."""
    return LLAVA_HOUND_INSTRUCTIONS["video_query"] + caption, LLAVA_HOUND_INSTRUCTIONS["video_target"] + VIDEO_TOKEN


def text_target_instruction(*, has_image: bool, has_text: bool) -> str:
    """The instruction of a query whose target is a text: by what the query shows, and whether it asks something of it."""
    if not has_image:
        return ""
    return PHOTO_QUESTION_INSTRUCTION if has_text else PHOTO_TO_TEXT_INSTRUCTION


_KNOWN_INSTRUCTIONS: tuple[str, ...] = tuple(
    sorted(
        {
            instruction.strip()
            for group in (
                DOCUMENT_INSTRUCTIONS.values(),
                TEXT_QUERY_INSTRUCTIONS.values(),
                IMAGE_QUERY_INSTRUCTIONS.values(),
                COMPOSED_QUERY_INSTRUCTIONS.values(),
                LLAVA_HOUND_INSTRUCTIONS.values(),
                (PHOTO_TO_TEXT_INSTRUCTION, PHOTO_QUESTION_INSTRUCTION),
                *VISRAG_INSTRUCTIONS.values(),
            )
            for instruction in group
        },
        key=lambda instruction: (-len(instruction), instruction),
    )
)
"""The longest first."""
