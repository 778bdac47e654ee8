"""Every loader of MMEB-V2 on a miniature in the published layout: queries, candidates and their order, prompts, labels."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from mmsearch.errors import DatasetError
from mmsearch.evaluation.mmeb.data import TaskData, load_task
from mmsearch.evaluation.mmeb.frames import SAVED, chosen, frames_in, save_frames, spread, stepped
from mmsearch.evaluation.mmeb.hub import MEDIA_HUB, read_rows, row_files
from mmsearch.evaluation.mmeb.tasks import TASKS, Task, in_protocol
from mmsearch.media.pictures import FilePicture, Picture
from tests import mmeb_sets, samples
from tests.mmeb_sets import CANDIDATES, FRAMES, MVBENCH, PAGES, QUERIES, question
from tests.tiny_models import picture
from tests.training_sets import number_of

IMAGE, VIDEO = "<|image_pad|>\n", "<|video_pad|> "
PAGE = "<|image_pad|> Understand the content of the provided document image."
FOLDERS = Path(MEDIA_HUB)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole miniature."""
    return mmeb_sets.build(tmp_path_factory.mktemp("mmeb"))


def numbers(pictures: Sequence[Picture]) -> list[int]:
    return [number_of(picture.open()) for picture in pictures]


def load(data: Path, name: str) -> TaskData:
    return load_task(TASKS[name], data)


QUERY_COUNTS = {"MVBench": 20} | {
    name: 2 * QUERIES for name in TASKS if re.fullmatch(r"ViDoRe_.*_v2_multilingual", name)
}
CANDIDATE_COUNTS = {
    "K700": 700, "UCF101": 101, "HMDB51": 51, "Breakfast": 10, "SmthSmthV2": 3, "MVBench": 5, "Video-MME": 4,
    "NExTQA": 5, "EgoSchema": 5, "ActivityNetQA": 2, "QVHighlight": 6, "Charades-STA": 6, "MomentSeeker": 4,
    "MomentSeeker_1k8": 4,
}  # fmt: skip


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_every_task_loads_from_its_published_layout(task: Task, data: Path) -> None:
    loaded = load_task(task, data)
    assert loaded.task is task and loaded.unread == ()
    assert len(loaded.queries) == QUERY_COUNTS.get(task.name, QUERIES)
    default = {"image": CANDIDATES, "visdoc": PAGES, "video": QUERIES}[task.modality]
    assert len(loaded.candidates) == CANDIDATE_COUNTS.get(task.name, default)
    assert len({query.key for query in loaded.queries}) == len(loaded.queries)
    for query in loaded.queries:
        assert (query.candidates is None) == (task.scope == "global")
        assert query.labels and set(query.labels) <= set(query.candidates or loaded.candidates)
        assert set(query.candidates or ()) <= set(loaded.candidates)
        assert (query.gains is not None) == (task.modality == "visdoc")
    sides = [*(query.side for query in loaded.queries), *loaded.candidates.values()]
    assert {side.kind for side in sides} == {task.kind}
    for side in sides:
        tokens = side.prompt.count("<|image_pad|>"), side.prompt.count("<|video_pad|>")
        is_stray = task.name in ("EDIS", "WebQA") and not side.pictures  # their queries carry a token without picture
        assert tokens == ((0, 1) if side.is_video else (len(side.pictures) + is_stray, 0))
        assert side.is_video == (len(side.pictures) > 1)
        assert pickle.loads(pickle.dumps(side)).prompt == side.prompt
        # what models with prompts of their own are given says the same
        words = re.sub(r"<\|(image|video)_pad\|>", "", side.prompt)
        assert " ".join(f"{side.instruction} {side.text}".split()) == " ".join(words.split())


def test_right_pictures_are_found_behind_the_labels(data: Path) -> None:
    """Query i of a miniature is answered by picture, page or video i."""
    for name in ("NIGHTS", "MSCOCO_t2i", "RefCOCO-Matching", "ViDoRe_arxivqa", "VisRAG_ChartQA", "VATEX"):
        loaded = load(data, name)
        for i, query in enumerate(loaded.queries):
            shown = numbers(loaded.candidates[query.labels[0]].pictures)
            base = {"image": i, "visdoc": 100 + i, "video": 16 * i}[loaded.task.modality]
            assert shown[0] == base, name
    assert numbers(load(data, "NIGHTS").queries[2].side.pictures) == [2]


# Image tasks: what stands where, to the letter


def image_rows(data: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> TaskData:
    """A task over rows of one's own; absent fields are empty."""
    empty = {"qry_inst": "", "qry_text": "", "qry_img_path": "", "tgt_inst": "", "tgt_text": [""], "tgt_img_path": [""]}
    task = TASKS[name]
    mmeb_sets.write_rows(data / task.hub, task.config, task.split, [empty | dict(row) for row in rows])
    for k in range(CANDIDATES):
        mmeb_sets.write_picture(data / FOLDERS / f"image-tasks/pool/{k}.png", k)
    return load_task(task, data)


POOL = [f"pool/{k}.png" for k in range(CANDIDATES)]


def prompts_of(loaded: TaskData) -> tuple[str, dict[str, str]]:
    return loaded.queries[0].side.prompt, {name: side.prompt for name, side in loaded.candidates.items()}


def test_image_classification_leaves_classes_as_they_are(tmp_path: Path) -> None:
    row = {"qry_inst": "<|image_1|>\nIdentify the object shown in the image", "qry_img_path": POOL[0], "tgt_text": ["cat", "dog ", "cat"]}  # fmt: skip
    loaded = image_rows(tmp_path, "VOC2007", [row])
    assert prompts_of(loaded) == (f"{IMAGE}Identify the object shown in the image\n", {"cat": "cat", "dog ": "dog "})
    query = loaded.queries[0]
    assert (query.labels, query.candidates) == (("cat",), ("cat", "dog ", "cat"))
    assert (query.side.instruction, query.side.text) == ("Identify the object shown in the image", "")


def test_image_question_is_stripped_before_its_words(tmp_path: Path) -> None:
    row = {"qry_inst": "<|image_1|>\nRepresent the given image with the following question:\n", "qry_text": "What \nis it?", "qry_img_path": POOL[1], "tgt_text": ["yes", "no"]}  # fmt: skip
    prompt, _ = prompts_of(image_rows(tmp_path, "OK-VQA", [row]))
    assert prompt == f"{IMAGE}Represent the given image with the following question: What\nis it?\n"


def test_text_to_image_keeps_a_token_without_picture(tmp_path: Path) -> None:
    row = {"qry_inst": "<|image_1|>\nFind a Wikipedia image that answers this question:", "qry_text": "Who?", "tgt_inst": "<|image_1|>\nRepresent the given Wikipedia image with related text information:", "tgt_text": ["a", "b"], "tgt_img_path": POOL[:2]}  # fmt: skip
    loaded = image_rows(tmp_path, "WebQA", [row])
    prompt, candidates = prompts_of(loaded)
    assert prompt == f"{IMAGE}Find a Wikipedia image that answers this question: Who?\n"
    assert loaded.queries[0].side.pictures == ()
    shown = f"{IMAGE}Represent the given Wikipedia image with related text information:"
    assert candidates == {POOL[0]: f"{shown} a\n", POOL[1]: f"{shown} b\n"}


def test_a_dialogue_ends_in_two_line_breaks(tmp_path: Path) -> None:
    row = {"qry_inst": "Represent the given dialogue about an image, which is used for image retrieval:", "qry_text": "Q:a\nA:b", "tgt_inst": "<|image_1|>\nRepresent the given image", "tgt_text": ["", ""], "tgt_img_path": POOL[:2]}  # fmt: skip
    prompt, candidates = prompts_of(image_rows(tmp_path, "VisDial", [row]))
    assert prompt == "Represent the given dialogue about an image, which is used for image retrieval: Q:a\nA:b\n\n"
    assert set(candidates.values()) == {f"{IMAGE}Represent the given image\n"}


def test_bare_pictures_of_image_to_image_have_no_line_break(tmp_path: Path) -> None:
    row = {"qry_inst": "<|image_1|>\nSelect the portion of the image that answers the question", "qry_text": '"Which?"', "qry_img_path": POOL[0], "tgt_inst": "<|image_1|>\nRepresent the given cropped image of the object", "tgt_text": ["", ""], "tgt_img_path": POOL[1:3]}  # fmt: skip
    prompt, candidates = prompts_of(image_rows(tmp_path, "Visual7W-Pointing", [row]))
    assert prompt == f'{IMAGE}Select the portion of the image that answers the question "Which?"\n'
    shown = f"{IMAGE}Represent the given cropped image of the object"
    assert candidates == {"pool/1.png:": shown, "pool/2.png:": shown}


def test_one_picture_with_two_expressions_is_two_candidates_and_the_first_of_a_name_wins(tmp_path: Path) -> None:
    instruction = "<|image_1|>\nSelect the portion of the image that follows the language expressions:"
    row = {"qry_inst": instruction, "qry_text": '"left dog"', "qry_img_path": POOL[0], "tgt_inst": instruction, "tgt_text": ['"left dog"', '"right dog"'], "tgt_img_path": [POOL[0], POOL[0]]}  # fmt: skip
    other = row | {"tgt_inst": instruction + " again", "tgt_text": ['"right dog"', '"left dog"']}
    loaded = image_rows(tmp_path, "RefCOCO-Matching", [row, other])
    _, candidates = prompts_of(loaded)
    shown = f"{IMAGE}Select the portion of the image that follows the language expressions:"
    assert candidates == {
        "pool/0.png:left dog": f'{shown} "left dog"\n',
        "pool/0.png:right dog": f'{shown} "right dog"\n',
    }
    assert loaded.queries[1].labels == ("pool/0.png:right dog",)
    assert loaded.queries[1].candidates == ("pool/0.png:right dog", "pool/0.png:left dog")


def test_pictures_are_found_as_the_archive_unpacks_them(tmp_path: Path) -> None:
    mmeb_sets.build(tmp_path, ["NIGHTS"])
    folder = tmp_path / FOLDERS / "image-tasks"
    (folder / "pool").rename(tmp_path / "pool")
    (folder / "MMEB").mkdir()
    (tmp_path / "pool").rename(folder / "MMEB/pool")
    assert numbers(load(tmp_path, "NIGHTS").queries[1].side.pictures) == [1]


# Videos


def test_eight_frames_are_spread_over_a_folder(data: Path) -> None:
    side = load(data, "K700").queries[1].side
    assert [picture.path.name for picture in side.pictures if isinstance(picture, FilePicture)] == [
        f"frame_{n + 1:04d}.jpg" for n in (0, 1, 2, 3, 5, 6, 7, 9)
    ]
    assert numbers(side.pictures) == [16 + n for n in (0, 1, 2, 3, 5, 6, 7, 9)]
    assert FRAMES == 10


def test_classes_of_rows_come_first_and_all_others_follow(data: Path) -> None:
    loaded = load(data, "UCF101")
    names = list(loaded.candidates)
    assert names[:2] == ["Kayaking", "PlayingDaf"] and names[2:] == sorted(names[2:])
    assert [query.labels for query in loaded.queries] == [("Kayaking",), ("PlayingDaf",), ("Kayaking",)]
    assert {side.prompt for side in loaded.candidates.values()} == set(names)


def test_something_something_ranks_the_classes_of_its_row(data: Path) -> None:
    query = load(data, "SmthSmthV2").queries[1]
    assert query.labels == ("Opening something",)
    assert query.candidates == ("Closing something", "Opening something", "Folding something")


@pytest.mark.parametrize("name", ["MSR-VTT", "MSVD", "DiDeMo", "VATEX", "YouCook2"])
def test_descriptions_find_videos(name: str, data: Path) -> None:
    loaded = load(data, name)
    assert list(loaded.candidates) == ["clip 0", "clip 1", "clip 2"]
    query = loaded.queries[2]
    assert query.labels == ("clip 2",) and query.side.text == "A dog jumps 2 times"
    assert query.side.prompt == TASKS[name].query.replace("{text}", "A dog jumps 2 times")
    assert loaded.candidates["clip 2"].prompt == f"{VIDEO}Understand the content of the provided video."


def test_clips_of_a_video_in_natural_order_without_the_whole(data: Path) -> None:
    loaded = load(data, "Charades-STA")
    first, second, third = loaded.queries
    assert first.candidates == ("film_0/negative_9", "film_0/negative_10", "film_0/positive_7") == third.candidates
    assert (first.labels, second.labels) == (("film_0/positive_7",), ("film_1/positive_7",))
    assert numbers(second.side.pictures)[0] == 16 and len(second.side.pictures) == 8
    assert len(loaded.candidates["film_0/negative_9"].pictures) == 3  # fewer than 8: all of them
    assert first.side.prompt == f"{VIDEO}Find the clip that corresponds to the described scene in the given video: {question(0)}"  # fmt: skip


def test_moment_seeker_shows_what_a_row_names_and_takes_all_frames(data: Path) -> None:
    text, picture, video = load(data, "MomentSeeker").queries
    clips = [f"video_frames/films_film_1_{k}" for k in range(4)]
    assert text.labels == tuple(clips[:2]) and text.candidates == tuple(clips)
    assert text.side.prompt == f"Find the clip that corresponds to the given text: {question(0)}"
    assert picture.side.prompt == f"<|image_pad|> Select the video clip that aligns with the given text and image: {question(1)}"  # fmt: skip
    assert numbers(picture.side.pictures) == [9] and not picture.side.is_video
    assert picture.candidates == (clips[1], clips[0], clips[3])
    assert video.side.prompt == f"{VIDEO}Find the clip that corresponds to the given sentence and video segment: {question(2)}"  # fmt: skip
    assert len(video.side.pictures) == 3 and video.side.is_video
    loaded = load(data, "MomentSeeker")
    assert [len(side.pictures) for side in loaded.candidates.values()] == [9, 10, 11, 12]


ASKED = f"{VIDEO}Given a video and a question, select the most accurate answer from the provided candidates. Return only the exact text of your chosen answer. Question:  "


def test_video_mme_names_options_and_embeds_them_bare(data: Path) -> None:
    loaded = load(data, "Video-MME")
    query = loaded.queries[1]
    assert query.side.prompt == f"{ASKED}{question(1)}\nA. red.\nB. green.\nC. blue.\nD. white."
    assert query.candidates == ("A. red.", "B. green.", "C. blue.", "D. white.") and query.labels == ("B. green.",)
    assert loaded.candidates["B. green."].prompt == "green"


def test_egoschema_joins_options_to_the_question(data: Path) -> None:
    query = load(data, "EgoSchema").queries[2]
    assert query.side.prompt == f"{ASKED}{question(2)}A. red. B. green. C. blue. D. white. E. black."
    assert query.labels == ("C. blue.",)


def test_nextqa_letters_the_options_and_ranks_them_bare(data: Path) -> None:
    query = load(data, "NExTQA").queries[2]
    assert query.side.prompt == f"{ASKED}{question(2)}\nOptions:\n(A) red\n(B) green\n(C) blue\n(D) white\n(E) black"
    assert query.candidates == ("red", "green", "blue", "white", "black") and query.labels == ("blue",)


def test_activitynet_asks_yes_or_no(data: Path) -> None:
    query = load(data, "ActivityNetQA").queries[1]
    assert query.side.prompt == f"{ASKED}{question(1)[:-1]}? (A) yes; (B) no."
    assert query.candidates == ("yes", "no") and query.labels == ("no",)


@pytest.fixture
def of_qwen(data: Path) -> Callable[[str], TaskData]:
    """A task as Qwen3-VL-Embedding's own evaluation reads it, with 10 frames of a video."""
    return lambda name: load_task(replace(in_protocol(TASKS[name], "qwen3vl_embedding"), frames=10), data)


def test_words_of_qwens_own_evaluation(of_qwen: Callable[[str], TaskData]) -> None:
    """What models with prompts of their own read: instruction and text. Prompts of VLM2Vec are the same in both."""
    video_question = "Given a video and a question, select the most accurate answer from the provided candidates. Return only the exact text of your chosen answer."
    ego = of_qwen("EgoSchema").queries[2].side
    assert (ego.instruction, ego.text) == (
        video_question,
        f"{question(2)} A. red. B. green. C. blue. D. white. E. black.",
    )
    next_qa = of_qwen("NExTQA")
    assert next_qa.queries[2].candidates == ("(A) red", "(B) green", "(C) blue", "(D) white", "(E) black")
    assert next_qa.queries[2].labels == ("(C) blue",) and next_qa.candidates["(C) blue"].text == "(C) blue"
    assert (
        of_qwen("MSVD").queries[0].side.instruction == "Find the video snippet that corresponds to the given summary."
    )
    page = of_qwen("ViDoRe_arxivqa").queries[0].side
    assert page.instruction == "Find a document image that matches the given query." and page.text == question(0)
    text, picture, video = (query.side.instruction for query in of_qwen("MomentSeeker").queries)
    assert text == "Find the clip that corresponds to the given text."
    assert picture == "Select the video clip that aligns with the given text and image."
    assert video == "Find the clip that corresponds to the given sentence and video segment."
    assert of_qwen("K700").queries[0].side.instruction == "Recognize the category of the video content."


def test_candidate_clips_of_a_video_have_eight_frames_whatever_the_video_has(
    of_qwen: Callable[[str], TaskData],
) -> None:
    loaded = of_qwen("QVHighlight")
    assert len(loaded.queries[0].side.pictures) == 10
    assert {len(side.pictures) for side in loaded.candidates.values()} == {3, 8}  # the folders hold 3 and 9


def test_captions_of_pictures_are_stripped_in_qwens_evaluation(tmp_path: Path) -> None:
    row = {
        "qry_inst": "<|image_1|>\nFind a news image that matches the provided caption:", "qry_text": "rain",
        "tgt_inst": "<|image_1|>\nRepresent the given image with related text information:", "tgt_text": [" wet \n"], "tgt_img_path": POOL[:1],
    }  # fmt: skip
    (ours,) = image_rows(tmp_path, "EDIS", [row]).candidates.values()
    (candidate,) = load_task(in_protocol(TASKS["EDIS"], "qwen3vl_embedding"), tmp_path).candidates.values()
    assert (candidate.text, ours.text) == ("wet", " wet \n") and candidate.prompt == ours.prompt


def test_mvbench_goes_through_its_20_parts(data: Path) -> None:
    loaded = load(data, "MVBench")
    assert [query.key.split(":")[0] for query in loaded.queries] == list(MVBENCH)
    query = loaded.queries[0]
    assert query.side.prompt == f"{ASKED}{question(0)}\nOptions:\n(A) red\n(B) green\n(C) blue"
    assert query.candidates == ("(A) red", "(B) green", "(C) blue") and query.labels == ("(B) green",)
    assert [len(query.candidates or ()) for query in loaded.queries[:3]] == [3, 4, 5]


def test_frames_are_chosen_as_in_the_reference() -> None:
    names = [str(n) for n in range(64)]
    assert chosen(names, 8) == ["0", "9", "18", "27", "36", "45", "54", "63"]
    assert chosen(names[:5], 8) == names[:5] and chosen(names[:8], 8) == names[:8] and chosen(names, None) == names
    assert spread(50) == list(range(50))
    assert spread(1000) == [int(np.floor(i * 1000 / 64)) for i in range(64)]
    assert stepped(50) == list(range(50))
    assert stepped(200) == list(range(0, 192, 3)) and stepped(200)[-1] == 189  # the end is not seen
    assert len(stepped(127)) == SAVED == 64


def test_frames_are_read_in_natural_order_and_other_files_are_not_frames(tmp_path: Path) -> None:
    for name in ("f10.jpg", "f9.jpg", "f1.JPEG", "f2.png", "f3.gif", "f4.txt"):
        (tmp_path / name).touch()
    assert frames_in(tmp_path) == ["f1.JPEG", "f2.png", "f9.jpg", "f10.jpg"]
    assert frames_in(tmp_path / "none") == []


def test_of_equal_options_the_last_is_right(tmp_path: Path) -> None:
    mmeb_sets.build(tmp_path, ["MVBench"])
    task = TASKS["MVBench"]
    row = {"video": f"{MVBENCH[0]}.mp4", "question": "How?", "candidates": ["so", "no", "so"], "answer": "so"}
    mmeb_sets.write_rows(tmp_path / task.hub, MVBENCH[0], task.split, [row, row | {"answer": "yes"}])
    loaded = load_task(task, tmp_path)
    assert loaded.queries[0].labels == ("(C) so",)
    assert loaded.unread == (
        f"{MVBENCH[0]}: train-00000-of-00001.parquet row 1: the answer 'yes' is not among the options",
    )


def test_frames_are_sampled_once_from_a_video(tmp_path: Path) -> None:
    mmeb_sets.build(tmp_path, ["VATEX", "EgoSchema"])
    for kind, name in (("video_ret/VATEX", "clip 1"), ("video_qa/EgoSchema", "film1")):
        folder = tmp_path / FOLDERS / f"video-tasks/frames/{kind}/{name}"
        shutil.rmtree(folder)
        raw = tmp_path / FOLDERS / f"video-tasks/videos/{kind}"
        raw.mkdir(parents=True)
        samples.video(raw / f"{name}.mp4", samples.numbered, [50 * n for n in range(130)])
        loaded = load(tmp_path, kind.rpartition("/")[2])
        assert loaded.unread == ()
        side = loaded.candidates[name] if kind.endswith("VATEX") else loaded.queries[1].side
        kept = spread(130) if kind.endswith("VATEX") else stepped(130)
        wanted = [kept[i] for i in np.linspace(0, len(kept) - 1, 8, dtype=int)]
        assert [samples.read_number(picture.open()) for picture in side.pictures] == wanted
        assert len(frames_in(folder)) == len(kept) == 64
        first = frames_in(folder)[0]
        assert first == ("frame_0001.jpg" if kind.endswith("VATEX") else "0000.jpeg")
        (raw / f"{name}.mp4").unlink()
        assert load(tmp_path, kind.rpartition("/")[2]).unread == ()


def test_a_broken_video_leaves_no_frames(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(Exception, match=r"a\.mp4"):
        save_frames(tmp_path / "a.mp4", tmp_path / "frames")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_frames_of_a_faster_process_stay_and_other_things_are_not_removed(tmp_path: Path) -> None:
    video = samples.video(tmp_path / "a.mp4", samples.numbered, [0, 40, 80])
    save_frames(video, tmp_path / "frames")
    (tmp_path / "frames/frame_0001.jpg").write_bytes(b"the other's")
    save_frames(video, tmp_path / "frames")
    assert (tmp_path / "frames/frame_0001.jpg").read_bytes() == b"the other's"
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.txt").write_text("mine")
    with pytest.raises(DatasetError, match="holds something else than frames"):
        save_frames(video, tmp_path / "notes")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "frames", "notes"]
    (tmp_path / "empty").mkdir()
    save_frames(video, tmp_path / "empty")
    assert len(frames_in(tmp_path / "empty")) == 3


# Documents


def test_pages_are_graded_and_judgements_of_zero_do_not_count(data: Path) -> None:
    plain, graded = load(data, "ViDoRe_docvqa"), load(data, "ViDoRe_esg_reports_human_labeled_v2")
    assert (plain.queries[1].labels, plain.queries[1].gains) == (("1",), (1.0,))
    assert (graded.queries[1].labels, graded.queries[1].gains) == (("1", "2"), (2.0, 1.0))
    assert list(graded.candidates) == ["0", "1", "2", "3", "4"]
    assert graded.candidates["4"].prompt == PAGE and numbers(graded.candidates["4"].pictures) == [104]
    assert plain.queries[0].side.prompt == f"Find a document image that matches the given query: {question(0)}"


def test_one_language_or_all(data: Path) -> None:
    all_, english = load(data, "ViDoRe_economics_reports_v2_multilingual"), load(data, "ViDoRe_economics_reports_v2")
    assert len(all_.queries) == 2 * len(english.queries) == 6
    assert [query.side.prompt for query in english.queries] == [query.side.prompt for query in all_.queries[:3]]


def beir(folder: Path, name: str, judged: Sequence[tuple[Any, Any, int]], pages: Sequence[Any]) -> TaskData:
    task = TASKS[name]
    queries = list(dict.fromkeys(query for query, _, _ in judged))
    mmeb_sets.write_rows(folder / task.hub, "queries", task.split, [{"query-id": q, "query": f"query {q}"} for q in queries])  # fmt: skip
    corpus = [{"corpus-id": p, "image": {"bytes": mmeb_sets.encoded(n), "path": None}} for n, p in enumerate(pages)]
    mmeb_sets.write_rows(folder / task.hub, "corpus", task.split, corpus)
    qrels = [{"query-id": q, "corpus-id": p, "score": s} for q, p, s in judged]
    mmeb_sets.write_rows(folder / task.hub, "qrels", task.split, qrels)
    return load_task(task, folder)


def test_pages_are_decoded_from_the_file_that_the_reference_writes(tmp_path: Path) -> None:
    """It reads pages through `datasets`, which turns them by EXIF, and saves VisRAG's by the end of their ids: a JPEG once more."""
    exif = Image.Exif()
    exif[0x0112] = 6
    shown, deep = picture(40, 24), Image.fromarray(np.linspace(0, 65535, 200).astype(np.uint16).reshape(10, 20))
    photo, scan = io.BytesIO(), io.BytesIO()
    shown.save(photo, "JPEG", exif=exif, quality=95)
    deep.save(scan, "PNG")
    pages = {"turned.jpg": photo, "turned.png": photo, "deep.png": scan, "deep.jpg": scan, "none": photo}
    for name in ("VisRAG_PlotQA", "ViDoRe_docvqa"):
        task = TASKS[name]
        corpus = [
            {"corpus-id": page, "image": {"bytes": file.getvalue(), "path": None}} for page, file in pages.items()
        ]
        mmeb_sets.write_rows(tmp_path / task.hub, "corpus", task.split, corpus)
        mmeb_sets.write_rows(tmp_path / task.hub, "queries", task.split, [{"query-id": "q", "query": "which?"}])
        qrels = [{"query-id": "q", "corpus-id": page, "score": 1} for page in pages]
        mmeb_sets.write_rows(tmp_path / task.hub, "qrels", task.split, qrels)

    def seen(task: Task, page: str) -> Image.Image:
        return load_task(task, tmp_path).candidates[page].pictures[0].open()

    def reference(page: str, suffix: str) -> Image.Image:
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(pages[page].getvalue())))
        upright.save(tmp_path / f"page{suffix}")
        return Image.open(tmp_path / f"page{suffix}").convert("RGB")

    visrag, vidore = TASKS["VisRAG_PlotQA"], TASKS["ViDoRe_docvqa"]
    for page in ("turned.jpg", "turned.png", "deep.png"):
        assert seen(visrag, page).tobytes() == reference(page, page[-4:]).tobytes(), page
        assert seen(vidore, page).tobytes() == reference(page, ".png").tobytes(), page
    assert seen(visrag, "turned.jpg").size == (24, 40)
    assert seen(visrag, "turned.jpg").tobytes() != seen(visrag, "turned.png").tobytes(), "compressed a second time"
    assert seen(visrag, "none").size == (40, 24), "it cannot be saved there: as it is"
    assert seen(replace(visrag, decoding="upright"), "turned.jpg").tobytes() == seen(vidore, "turned.jpg").tobytes()
    pictures = (
        load_task(visrag, tmp_path).candidates["turned.jpg"].pictures,
        load_task(vidore, tmp_path).candidates["turned.jpg"].pictures,
    )
    assert len({one[0].content_key() for one in pictures} | {hashlib.sha1(photo.getvalue()).hexdigest()}) == 3


@pytest.mark.parametrize("name", ["MSCOCO_i2t", "MSR-VTT", "QVHighlight", "MomentSeeker", "ViDoRe_docvqa"])
def test_every_picture_is_decoded_as_the_task_says(name: str, data: Path) -> None:
    for task, decoding in (
        (TASKS[name], "plain"),
        (in_protocol(TASKS[name], "qwen3vl_embedding"), "plain_on_white"),
        (replace(TASKS[name], decoding="upright"), "upright"),
    ):
        loaded = load_task(task, data)
        sides = [*(query.side for query in loaded.queries), *loaded.candidates.values()]
        pictures = [picture for side in sides for picture in side.pictures]
        assert pictures and {getattr(picture, "decoding", None) for picture in pictures} == {decoding}


def test_judged_pages_come_first_the_highest_judgement_and_the_first_page_of_an_id_count(tmp_path: Path) -> None:
    judged = [("q", "c", 1), ("q", "c", 3), ("q", "b", 2), ("q", "c", 2), ("r", "a", 1)]
    loaded = beir(tmp_path, "VisRAG_PlotQA", judged, ["a", "b", "c", "a"])
    assert list(loaded.candidates) == ["c", "b", "a"]
    assert (loaded.queries[0].labels, loaded.queries[0].gains) == (("c", "b"), (3.0, 2.0))
    assert numbers(loaded.candidates["a"].pictures) == [0]


def test_a_question_without_answer_is_named(tmp_path: Path) -> None:
    loaded = beir(tmp_path, "ViDoSeek-doc", [(1, 1, 1), (2, 1, 0), (3, 9, 1)], [1, 2])
    assert [query.labels for query in loaded.queries] == [("1",)]
    assert [re.sub(r"^.*?: ", "", reason) for reason in loaded.unread] == [
        "no page answers query 2",
        "the corpus has no page 9",
    ]


def test_tables_without_a_needed_column_are_named(tmp_path: Path) -> None:
    task = TASKS["ViDoSeek-doc"]
    beir(tmp_path, task.name, [(1, 1, 1)], [1, 2])
    mmeb_sets.write_rows(tmp_path / task.hub, "qrels", task.split, [{"query-id": 1, "corpus-id": 1}])
    with pytest.raises(DatasetError, match=r"has no column score; it has query-id, corpus-id"):
        load_task(task, tmp_path)
    mmeb_sets.write_rows(tmp_path / task.hub, "corpus", task.split, [{"corpus-id": 1, "page": b""}])
    with pytest.raises(DatasetError, match=r"has no column image; it has corpus-id, page"):
        load_task(task, tmp_path)


def test_pages_keep_their_bytes_and_have_their_key(data: Path) -> None:
    page = load(data, "ViDoRe_arxivqa").candidates["3"].pictures[0]
    other = load(data, "ViDoRe_docvqa").candidates["3"].pictures[0]
    assert (
        page.content_key()
        == other.content_key()
        != load(data, "ViDoRe_docvqa").candidates["2"].pictures[0].content_key()
    )
    assert number_of(pickle.loads(pickle.dumps(page)).open()) == 103


# What is missing or odd


def test_missing_rows_are_named_with_the_way_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"VATEX: no data set VLM2Vec/VATEX at .*`hf download VLM2Vec/VATEX --repo-type dataset --local-dir"):  # fmt: skip
        load(tmp_path, "VATEX")
    task = TASKS["ViDoRe_docvqa"]
    with pytest.raises(DatasetError, match=f"--revision {task.revision} --local-dir"):
        load(tmp_path, task.name)
    mmeb_sets.write_rows(tmp_path / TASKS["NExTQA"].hub, "OE", "test", [{"a": 1}])
    mmeb_sets.write_picture(tmp_path / FOLDERS / "video-tasks/frames/video_qa/NExTQA/1/0000.jpeg", 1)
    with pytest.raises(DatasetError, match=r"NExTQA: no rows of configuration MC, split test in .*MC/test-\*"):
        load(tmp_path, "NExTQA")


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("CIRR", r"hf download TIGER-Lab/MMEB-V2 .*tar -xzf mmeb_v1\.tar\.gz"),
        ("HMDB51", r"tar -xzf video_cls\.tar\.gz -C video_cls"),
        ("VATEX", r"video_ret\.tar\.gz -C video_ret"),
        ("QVHighlight", r"video_mret\.tar\.gz"),
        ("EgoSchema", r"cat video_qa\.tar\.gz-0\*"),
    ],
)
def test_missing_media_are_named_with_the_way_to_unpack_them(name: str, way_out: str, tmp_path: Path) -> None:
    mmeb_sets.build(tmp_path, [name])
    shutil.rmtree(tmp_path / FOLDERS)
    with pytest.raises(DatasetError, match=rf"{name}: no media at .*{way_out}"):
        load(tmp_path, name)


def test_a_bad_row_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    mmeb_sets.build(tmp_path, ["NIGHTS", "MSVD", "EgoSchema"])
    (tmp_path / FOLDERS / "image-tasks/pool/3.png").rename(tmp_path / FOLDERS / "image-tasks/pool/4.png")
    with pytest.raises(DatasetError, match=r"NIGHTS: no query can be read: test-00000-of-00001.parquet row 0: no picture at .*3\.png"):  # fmt: skip
        load(tmp_path, "NIGHTS")
    shutil.rmtree(tmp_path / FOLDERS / "video-tasks/frames/video_ret/MSVD/clip 1")
    loaded = load(tmp_path, "MSVD")
    assert list(loaded.candidates) == ["clip 0", "clip 2"] and len(loaded.queries) == 2
    assert len(loaded.unread) == 1
    assert re.search(r"row 1: no frames in .*clip 1 and no video at .*videos.*clip 1\.avi", loaded.unread[0])
    row = {"video_idx": "film0", "question": None, "question_idx": "1", "option": ["A. a"], "answer": "0"}
    rows = [row, row | {"question": "What?", "answer": "4"}, row | {"question": "What?"}, {"question": "What?"}]
    task = TASKS["EgoSchema"]
    shutil.rmtree(tmp_path / task.hub)
    (tmp_path / task.hub).mkdir()
    (tmp_path / task.hub / "Subset.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_task(task, tmp_path)
    assert [query.key for query in loaded.queries] == ["Subset.jsonl row 2"]
    odd, beyond, lacking = loaded.unread
    assert "row 0: an odd record" in odd and "answer '4' of 1" in beyond and "no field 'option'" in lacking


CARDS = {
    "list of splits": "- config_name: MC\n  data_files:\n  - split: train\n    path: a.jsonl\n  - split: test\n    path: [b/x-*, b/y.jsonl]\n",
    "one of two": "- config_name: OE\n  data_files: a.jsonl\n- config_name: MC\n  data_files:\n  - split: test\n    path: b/*\n",
}


@pytest.mark.parametrize("card", CARDS)
def test_a_card_says_which_files_belong_to_a_configuration(card: str, tmp_path: Path) -> None:
    task = TASKS["NExTQA"]
    folder = tmp_path / task.hub
    (folder / "b").mkdir(parents=True)
    (folder / "a.jsonl").write_text("{}")
    (folder / "b/x-1.jsonl").write_text('{"n": 1}\n')
    (folder / "b/x-0.jsonl").write_text('{"n": "0\u2028"}\n\n')
    (folder / "README.md").write_text(f"---\nlicense: mit\nconfigs:\n{CARDS[card]}---\n# A set\n---\n")
    files = row_files(task, tmp_path)
    assert [file.name for file in files] == ["x-0.jsonl", "x-1.jsonl"]
    assert [row["n"] for _, row in read_rows(files)] == ["0\u2028", 1]


def test_rows_may_be_a_list_in_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"n": 1}, {"n": 2}]')
    assert list(read_rows([tmp_path / "a.json"])) == [("a.json row 0", {"n": 1}), ("a.json row 1", {"n": 2})]
    (tmp_path / "b.jsonl").write_text("{")
    with pytest.raises(DatasetError, match="cannot be read as JSON"):
        list(read_rows([tmp_path / "b.jsonl"]))
    (tmp_path / "c.parquet").write_bytes(b"PAR")
    with pytest.raises(DatasetError, match="cannot be read as Parquet"):
        list(read_rows([tmp_path / "c.parquet"]))
