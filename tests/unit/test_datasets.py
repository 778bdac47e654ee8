"""Every family of training sets in its public layout: exact prompts, pictures and negatives; bad records named; clear errors."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import yaml

from mmsearch.errors import ConfigError, DatasetError, SourceError
from mmsearch.prompts import DOCUMENT_INSTRUCTIONS, VISRAG_INSTRUCTIONS
from mmsearch.training.datasets import open_source, open_sources
from mmsearch.training.datasets.dataset_folders import DatasetFolders
from mmsearch.training.datasets.mmeb import SUBSETS
from mmsearch.training.datasets.shared_material import is_development
from tests import samples
from tests import training_sets as made

IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"


@pytest.fixture
def places(tmp_path):
    return DatasetFolders(root=tmp_path / "data", cache=tmp_path / "cache")


def numbers(side) -> list[int]:
    return [made.number_of(image) for image in side.images()]


def reasons(source) -> dict[int, str]:
    """What is wrong with each bad record, opened pictures included."""
    found = {}
    for index in range(len(source)):
        try:
            for side in source.pair(index).sides():
                side.images()
        except (DatasetError, SourceError, OSError) as error:
            found[index] = f"{type(error).__name__}: {error}"
    return found


# MMEB-train


def mmeb_row(qry, qry_image="", pos="", pos_image="", neg="", neg_image="") -> dict:
    return dict(zip(made.MMEB_COLUMNS, (qry, qry_image, pos, pos_image, neg, neg_image), strict=True))


def mmeb_source(places, rows, **spec):
    folder = made.mmeb(places.root / "TIGER-Lab/MMEB-train", spec.get("subset_name", "A-OKVQA"), rows)
    for number in range(4):
        made.write_picture(folder / f"images/A-OKVQA/Train/{number}.jpg", number)
    return open_source({"parser": "mmeb", "subset_name": "A-OKVQA", **spec}, folders=places)


ASK = "<|image_1|>\nRepresent the given image with the following question: What waits?\n"
AT = "images/A-OKVQA/Train/"


@pytest.mark.parametrize("subset", SUBSETS)
def test_mmeb_reads_each_of_its_twenty_subsets(places, subset):
    source = mmeb_source(places, [mmeb_row(ASK, AT + "1.jpg", "cab")], subset_name=subset)
    assert (source.name, len(source)) == (subset, 1)
    assert source.pair(0).target.prompt == "cab"


def test_mmeb_prompts_are_the_rows_with_the_models_image_token(places):
    source = mmeb_source(
        places,
        [
            mmeb_row(ASK, AT + "1.jpg", "cab", neg="train"),
            mmeb_row("Find an image: a dog\n", "", "<|image_1|>\nRepresent the given image.\n", AT + "2.jpg"),
            mmeb_row("<|image_1|>\nFind a Wikipedia image: who?\n", "", "<|image_1|>\nRepresent it: x\n", AT + "3.jpg"),
        ],
    )
    first, second, webqa = (source.pair(i) for i in range(3))
    assert first.query.prompt == f"{IMAGE}\nRepresent the given image with the following question: What waits?\n"
    assert numbers(first.query) == [1]
    assert (first.target.prompt, first.target.pictures) == ("cab", ())
    assert [side.prompt for side in first.negatives] == ["train"]
    assert (second.query.prompt, second.query.pictures) == ("Find an image: a dog\n", ())
    assert (second.target.prompt, numbers(second.target)) == (f"{IMAGE}\nRepresent the given image.\n", [2])
    # WebQA's queries hold a placeholder without a picture; the token stays, as the released model was trained.
    assert (webqa.query.prompt, webqa.query.pictures) == (f"{IMAGE}\nFind a Wikipedia image: who?\n", ())
    assert first.key == "A-OKVQA: A-OKVQA row 0"
    assert first.target_key == source.pair(0).target_key != second.target_key


def test_mmeb_keeps_hard_negatives_in_lists(places):
    # The reference builds neg_* and throws it away.
    folder = places.root / "B3"
    picture = "<|image_1|>\nRepresent the given image.\n"
    rows = [mmeb_row("a dog\n", "", picture, "p/0.png", [picture, picture, "a cat"], ["p/1.png", "p/2.png", ""])]
    made.mmeb(folder, "MSCOCO_t2i", rows, lists=True)
    for number in range(3):
        made.write_picture(folder / f"p/{number}.png", number)
    spec = {"parser": "mmeb_neg", "dataset_name": str(folder), "subset_name": "MSCOCO_t2i"}
    negatives = open_source(spec, folders=places).pair(0).negatives
    assert [(side.prompt, numbers(side)) for side in negatives] == [
        (f"{IMAGE}\nRepresent the given image.\n", [1]),
        (f"{IMAGE}\nRepresent the given image.\n", [2]),
        ("a cat", []),
    ]
    assert [len(open_source({**spec, "hard_negatives": n}, folders=places).pair(0).negatives) for n in (0, 2, 9)] == [
        0,
        2,
        3,
    ]


def test_mmebs_bad_records_are_named(places):
    source = mmeb_source(
        places,
        [
            mmeb_row(ASK, AT + "0.jpg", "cab"),
            mmeb_row(ASK, AT + "nowhere.jpg", "cab"),
            mmeb_row(ASK, AT + "0.jpg", None),
            mmeb_row("no place for the picture", AT + "0.jpg", "cab"),
            mmeb_row(ASK, AT + "broken.jpg", "cab"),
            mmeb_row(None, None, "cab"),
            mmeb_row(ASK, AT + "0.jpg", "cab", neg_image=AT + "gone.jpg", neg=ASK),
        ],
    )
    (places.root / "TIGER-Lab/MMEB-train" / AT / "broken.jpg").write_bytes(made.encoded(1, "JPEG")[:-200])
    found = reasons(source)
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    assert "A-OKVQA: A-OKVQA row 1: no picture at" in found[1]
    assert "one side is empty" in found[2]
    assert "1 pictures and 0 places" in found[3]
    assert "broken.jpg" in found[4]
    assert "one side is empty" in found[5]
    assert "gone.jpg" in found[6]


def test_a_split_and_an_image_folder_are_chosen(places):
    folder = made.mmeb(
        places.root / "MMEB-train", "NIGHTS", [mmeb_row(ASK, "1.jpg", "b")], split="diverse_instruction"
    )  # fmt: skip
    made.write_picture(places.root / "elsewhere/1.jpg", 5)
    spec = {"parser": "mmeb", "subset_name": "NIGHTS", "image_dir": "elsewhere"}
    with pytest.raises(DatasetError, match=r"no NIGHTS/original-\*.parquet in .*; subsets there: NIGHTS"):
        open_source(spec, folders=places)
    source = open_source({**spec, "dataset_split": "diverse_instruction"}, folders=places)
    assert numbers(source.pair(0).query) == [5]
    assert folder.is_dir()


def test_packed_pictures_are_said_to_be_packed(places):
    packed = places.root / "TIGER-Lab/MMEB-train/images_zip/SUN397.zip"
    packed.parent.mkdir(parents=True)
    packed.touch()
    with pytest.raises(
        DatasetError, match=r"pictures of SUN397 are still packed: run `python unzip_file.py`.* or unzip .*SUN397.zip"
    ):
        mmeb_source(places, [mmeb_row(ASK, AT + "1.jpg", "cab")], subset_name="SUN397")


# Caps


def test_a_cap_takes_the_first_rows_or_shuffled_ones(places):
    rows = [mmeb_row(f"query {n}", "", f"answer {n}") for n in range(200)]

    def read(**spec):
        source = mmeb_source(places, rows, **spec)
        return [int(source.pair(i).target.prompt.split()[1]) for i in range(len(source))]

    assert read(num_sample_per_subset=5) == [0, 1, 2, 3, 4]
    assert read(num_rows=5) == [0, 1, 2, 3, 4]  # the reference ignores this one
    assert read(num_sample_per_subset=900) == list(range(200))
    shuffled = read(num_sample_per_subset=40, shuffle_before_cap=True)
    assert shuffled == sorted(set(shuffled)) and len(shuffled) == 40 and max(shuffled) > 150
    assert shuffled == read(num_sample_per_subset=40, shuffle_before_cap=True)
    assert shuffled != read(num_sample_per_subset=40, shuffle_before_cap=True, seed=1)
    with pytest.raises(ConfigError, match="num_sample_per_subset and num_rows differ: 3, 4"):
        read(num_sample_per_subset=3, num_rows=4)


# ColPali and VisRAG


def colpali_row(query, number, answer) -> dict:
    return {
        "query": query,
        "image": None if number is None else made.stored(number),
        "answer": answer,
        "prompt": "long",
    }


def test_colpali_is_trained_as_questions_about_a_page(places):
    made.colpali(places.root / "vidore/colpali_train_set", [colpali_row(f"q{n}?", n, f"a{n}") for n in range(7)])
    source = open_source({"parser": "vidore", "dataset_name": "vidore/colpali_train_set", "weight": 10}, folders=places)
    assert len(source) == 7
    for n in (0, 3, 4, 6):  # over the border of both files, and of row groups
        pair = source.pair(n)
        assert (pair.query.prompt, numbers(pair.query)) == (f"{IMAGE} q{n}?", [n])
        assert (pair.target.prompt, pair.target.pictures) == (f"a{n}", ())


def test_colpali_as_retrieval_has_the_page_as_target(places):
    made.colpali(places.root / "colpali_train_set", [colpali_row("q?", 4, None), colpali_row("r?", 4, "")])
    source = open_source({"parser": "vidore", "data_mode": "page_retrieval"}, folders=places)
    pair = source.pair(0)
    assert pair.query.prompt == "Find a document image that matches the given query: q?"
    assert (pair.target.prompt, numbers(pair.target)) == (f"{IMAGE} {DOCUMENT_INSTRUCTIONS['page']}", [4])
    assert pair.target_key == source.pair(1).target_key  # two questions about one page


def test_colpalis_bad_records_are_named(places):
    rows = [colpali_row("q", 1, "a"), colpali_row("q", None, "a"), colpali_row(" ", 1, "a"), colpali_row("q", 1, None)]
    rows.append({**colpali_row("q", 1, "a"), "image": {"bytes": b"no picture", "path": "x"}})
    made.colpali(places.root / "vidore/colpali_train_set", rows)
    found = reasons(open_source({"parser": "vidore"}, folders=places))
    assert {index: reason.split(": ", 3)[-1] for index, reason in found.items() if index < 4} == {
        1: "image holds no picture",
        2: "query is empty",
        3: "answer is empty",
    }
    assert "colpali_train_set: data row 4" in found[4] and "not a picture" in found[4]


def test_visrag_prompts_follow_the_source_to_the_letter(places):
    rows = [{"query": "what?", "image": made.stored(n), "source": s} for n, s in enumerate(("ChartQA", "Unheard of"))]
    made.visrag(places.root / "openbmb/VisRAG-Ret-Train-In-domain-data", rows)
    source = open_source({"parser": "visrag"}, folders=places)
    chart, other = source.pair(0), source.pair(1)
    assert chart.query.prompt == VISRAG_INSTRUCTIONS["ChartQA"][0] + " what? "
    assert chart.query.prompt.endswith("related to the query:  what? ")
    assert chart.target.prompt == f"A statistical chart comparing values or analyzing trends.  {IMAGE}"
    assert (other.query.prompt, other.target.prompt) == ("what? ", f" {IMAGE}")
    assert numbers(chart.target) == [0] and numbers(other.target) == [1]
    asked = open_source({"parser": "visrag", "prompts": "evaluation"}, folders=places).pair(0)
    assert asked.query.prompt == "Find a document image that matches the given query: what?"
    assert asked.target.prompt == f"{IMAGE} Understand the content of the provided document image."


def test_visrag_reads_named_files(places):
    rows = [{"query": "what?", "image": made.stored(n), "source": "ChartQA"} for n in range(4)]
    made.visrag(places.root / "mine", rows)
    assert len(open_source({"parser": "visrag", "dataset_path": "mine/data/*.parquet"}, folders=places)) == 4
    with pytest.raises(DatasetError, match=r"no Parquet file .*mine/\*.parquet"):
        open_source({"parser": "visrag", "dataset_path": "mine/*.parquet"}, folders=places)


def test_tables_that_cannot_be_read_are_named(places):
    folder = places.root / "openbmb/VisRAG-Ret-Train-In-domain-data/data"
    folder.mkdir(parents=True)
    (folder / "train-00000-of-00001.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(DatasetError, match=r"train-00000-of-00001.parquet cannot be read as Parquet"):
        open_source({"parser": "visrag"}, folders=places)
    made.colpali(folder.parent, [colpali_row("q", 1, "a")], shards=1)
    with pytest.raises(DatasetError, match=r"has no column answer"):
        made.visrag(places.root / "v", [{"query": "q", "image": made.stored(1), "source": "s"}], shards=1)
        open_source({"parser": "vidore", "dataset_name": str(places.root / "v")}, folders=places)
    assert not list(places.cache.glob("*.tmp"))


# LLaVA-Hound


def hound(places, name, rows, frames, **spec):
    made.llava_hound(places.root / "ShareGPTVideo/train_video_and_instruction", name, rows, frames)
    return open_source({"parser": "llavahound_caption", **spec}, folders=places)


CAPTION = made.conversation("v1", "<video>\nDescribe it.", "A dog runs.")


def test_llava_hound_captions_both_ways(places):
    source = hound(places, "video_caption_300k", [CAPTION], {"v1": 20}, data_mode="caption_retrieval")
    pair = source.pair(0)
    assert (pair.query.prompt, pair.query.is_video) == (f"{VIDEO}\nDescribe it.", True)
    # Eight of twenty frames in natural order (c10 after c9), as numpy's linspace rounds down.
    assert numbers(pair.query) == np.linspace(0, 19, 8, dtype=int).tolist() == [0, 2, 5, 8, 10, 13, 16, 19]
    assert (pair.target.prompt, pair.target.is_video) == ("A dog runs.", False)
    back = hound(places, "video_caption_300k", [CAPTION], {}, data_mode="video_retrieval").pair(0)
    assert back.query.prompt == "Find a video that contains the following visual content: A dog runs."
    assert back.target.prompt == f"Understand the content of the provided video: {VIDEO}"
    assert back.target.is_video and len(back.target.pictures) == 8
    spec = {"data_mode": "video_retrieval", "prompts": "evaluation"}
    assert hound(places, "video_caption_300k", [CAPTION], {}, **spec).pair(0).target.prompt == (
        f"{VIDEO} Understand the content of the provided video."
    )


def test_published_sets_are_decoded_as_the_reference_does_and_own_pictures_as_the_application(places):
    def decodings(source) -> set[str]:
        return {picture.decoding for side in source.pair(0).sides() for picture in side.pictures}

    made.colpali(places.root / "vidore/colpali_train_set", [colpali_row("q?", 0, "a")])
    made.visrag(
        places.root / "openbmb/VisRAG-Ret-Train-In-domain-data",
        [{"query": "what?", "image": made.stored(0), "source": "x"}],
    )
    made.write_picture(places.root / "mine/boat.png", 1)
    rows = [{"query": "a boat", "target_image": "boat.png"}]
    for spec, expected in (({}, {"plain"}), ({"decoding": "upright"}, {"upright"})):
        assert decodings(mmeb_source(places, [mmeb_row(ASK, AT + "1.jpg", "cab")], **spec)) == expected
        assert (
            decodings(
                open_source({"parser": "vidore", "dataset_name": "vidore/colpali_train_set", **spec}, folders=places)
            )
            == expected
        )
        assert decodings(open_source({"parser": "visrag", **spec}, folders=places)) == expected
        assert decodings(hound(places, "video_caption_300k", [CAPTION], {"v1": 9}, **spec)) == expected
    assert decodings(own(places, rows)) == {"upright"}
    with pytest.raises(ConfigError, match="decoding is 'sideways'; it can be plain, upright, plain_on_white"):
        open_source({"parser": "visrag", "decoding": "sideways"}, folders=places)


@pytest.mark.parametrize("frames", [1, 3, 7, 8])
def test_a_clip_may_have_fewer_frames_than_asked(places, frames):
    # The reference indexes out of range below eight.
    source = hound(places, "video_caption_300k", [CAPTION], {"v1": frames})
    assert numbers(source.pair(0).query) == list(range(frames))


def test_llava_hounds_questions_are_read_without_the_captions_behind_them(places, monkeypatch):
    # The reference's configuration reads the file that has 15,000 captions behind its 240,000 questions, and ignores num_rows.
    monkeypatch.setattr("mmsearch.training.datasets.llavahound.QUESTIONS", 3)
    rows = [made.conversation("v1", f"<video>\nQ{n}?", f"A{n}") for n in range(3)]
    rows += [made.conversation("v1", "<video>\nDescribe it.", "A caption.")] * 2
    made.llava_hound(
        places.root / "ShareGPTVideo/train_video_and_instruction", "video_240k_caption_15k", rows, {"v1": 2}
    )
    spec = {"parser": "llavahound_qa", "num_frames": 8}
    path = {
        "dataset_path": "ShareGPTVideo/train_video_and_instruction/video_instruction/train/sft/video_240k_caption_15k.jsonl"
    }
    for given in ({}, path, {**path, "num_rows": 4}):
        source = open_source({**spec, **given}, folders=places)
        assert [source.pair(i).target.prompt for i in range(len(source))] == ["A0", "A1", "A2"]
    assert source.pair(1).query.prompt == f"Answer a question based on the content of a video. {VIDEO}\nQ1?"
    assert len(open_source({**spec, "num_rows": 2}, folders=places)) == 2
    made.llava_hound(places.root / "ShareGPTVideo/train_video_and_instruction", "video_qa_240k", rows[:1], {})
    assert len(open_source(spec, folders=places)) == 1


def test_llava_hounds_bad_records_are_named(places):
    good = CAPTION
    rows = [
        good,
        {**good, "video": "gone"},
        {**good, "conversations": good["conversations"][:1]},
        "{broken",
        "[1, 2]",
        made.conversation("v1", "no place for the video", "x"),
        made.conversation("v1", "<video>\nDescribe it.", ""),
        {**good, "video": 7},
        {**good, "video": "empty"},
        {**good, "video": "unreadable"},
    ]
    folder = places.root / "ShareGPTVideo/train_video_and_instruction/train_300k"
    (folder / "empty").mkdir(parents=True)
    (folder / "unreadable").mkdir()
    (folder / "unreadable/c0.jpeg").write_bytes(b"")
    found = reasons(hound(places, "video_caption_300k", rows, {"v1": 2}))
    assert sorted(found) == list(range(1, 10))
    for index, reason in {
        1: "no folder of frames at",
        2: "not a list of a question and an answer",
        3: "not JSON",
        4: "a JSON list, not an object",
        5: "a video and 0 places for it",
        6: "value is empty",
        7: "video is a int, not a text",
        8: "no frames in",
        9: "c0.jpeg",
    }.items():
        assert reason in found[index]
    assert "video_caption_300k.jsonl line 2" in found[1]


# A user's own pairs


def own(places, rows, **spec):
    made.json_lines(places.root / "mine/pairs.jsonl", rows)
    for number in range(5):
        made.write_picture(places.root / f"mine/p/{number}.png", number)
    return open_source({"parser": "jsonl", "dataset_path": "mine/pairs.jsonl", **spec}, folders=places)


@pytest.mark.parametrize(
    ("row", "query", "target", "negatives"),
    [
        (
            {"query": "a boat", "target_image": "p/1.png", "negatives": ["p/2.png", {"image": "p/3.png"}]},
            ("Find me an everyday image that matches the given caption: a boat", []),
            (f"{IMAGE} Represent the given image.", [1]),
            [(f"{IMAGE} Represent the given image.", [2]), (f"{IMAGE} Represent the given image.", [3])],
        ),
        (
            {"query": "no people", "query_image": "p/0.png", "target_image": "p/1.png"},
            (f"{IMAGE} Given an image, find a similar everyday image with the described changes: no people", [0]),
            (f"{IMAGE} Represent the given image.", [1]),
            [],
        ),
        (
            {"query_image": "p/0.png", "target_image": "p/1.png"},
            (f"{IMAGE} Find a day-to-day image that looks similar to the provided image.", [0]),
            (f"{IMAGE} Represent the given image.", [1]),
            [],
        ),
        (
            {
                "query": "tax",
                "target_image": "p/1.png",
                "target_text": "Tax  is\ndue",
                "kind": "page",
                "negatives": ["p/2.png"],
            },
            ("Find a document image that matches the given query: tax", []),
            (f"{IMAGE} Understand the content of the provided document image. Tax is due", [1]),
            [(f"{IMAGE} Understand the content of the provided document image.", [2])],
        ),
        (
            {
                "query": "tea?",
                "target_text": "Tea is …",
                "negatives": ["Coffee", {"text": "Milk"}, {"image": "p/4.png"}],
            },
            ("tea?", []),
            ("Tea is …", []),
            [("Coffee", []), ("Milk", []), (f"{IMAGE} Represent the given image.", [4])],
        ),
        (
            {"query_image": "p/0.png", "target_text": "A boat."},
            (f"{IMAGE} Find an image caption describing the given everyday image.", [0]),
            ("A boat.", []),
            [],
        ),
        (
            {"query": "dive", "target_video": "clip", "negatives": ["clip"], "instruction": "Find it:"},
            ("Find it: dive", []),
            (f"{VIDEO} Understand the content of the provided video.", [0, 1, 2]),
            [(f"{VIDEO} Understand the content of the provided video.", [0, 1, 2])],
        ),
        ({"query": "as it is", "target_text": "x", "instruction": ""}, ("as it is", []), ("x", []), []),
    ],
    ids=["text to photo", "composed", "photo to photo", "page with text", "text", "photo to text", "video", "bare"],
)
def test_own_pairs_take_the_instructions_of_search(places, row, query, target, negatives):
    for number in range(3):
        made.write_picture(places.root / f"mine/clip/{number}.png", number)
    pair = own(places, [row]).pair(0)
    assert (pair.query.prompt, numbers(pair.query)) == query
    assert (pair.target.prompt, numbers(pair.target)) == target
    assert [(side.prompt, numbers(side)) for side in pair.negatives] == negatives
    assert pair.target.is_video == ("target_video" in row)


def test_own_videos_are_sampled_evenly(places):
    source = own(places, [{"query": "q", "target_video": "v.mp4"}], num_frames=4)
    samples.video(places.root / "mine/v.mp4", samples.numbered, range(0, 1000, 100))
    target = source.pair(0).target
    assert [samples.read_number(image) for image in target.images()] == [0, 3, 6, 9]
    samples.video(places.root / "mine/v.mp4", samples.numbered, [0, 100])
    few = own(places, [{"query": "q", "target_video": "v.mp4"}], num_frames=3).pair(0).target.images()
    assert [samples.read_number(image) for image in few] == [0, 0, 1]


def test_own_teacher_scores_follow_the_negatives(places):
    row = {"query": "q", "target_text": "t", "negatives": ["a", "b"], "teacher_scores": [0.9, 0.5, 0]}
    assert own(places, [row]).pair(0).teacher_scores == (0.9, 0.5, 0.0)
    fewer = own(places, [row], hard_negatives=1).pair(0)
    assert (len(fewer.negatives), fewer.teacher_scores) == (1, (0.9, 0.5))


def test_own_bad_records_are_named(places):
    bad = [
        ({"query": "", "target_text": "t"}, "neither query nor query_image"),
        ({"query": "q"}, "none of target_text, target_image, target_video"),
        ({"query": "q", "target_txt": "t"}, "unknown field target_txt"),
        ({"query": "q", "target_image": "gone.png"}, "no picture at"),
        ({"query": "q", "target_image": "p/1.png", "target_video": "clip"}, "both target_image and target_video"),
        ({"query": "q", "target_text": "t", "negatives": "n"}, "negatives is a str"),
        ({"query": "q", "target_text": "t", "negatives": [3]}, "a negative is a int"),
        ({"query": "q", "target_text": "t", "negatives": [{"txt": "n"}]}, "unknown field txt of a negative"),
        ({"query": "q", "target_text": "t", "negatives": [""]}, "none of negative text"),
        ({"query": ["q"], "target_text": "t"}, "query is a list"),
        ({"query": "q", "target_text": "t", "kind": "page"}, "kind 'page' of a target without picture"),
        ({"query": "q", "target_image": "p/1.png", "kind": "clip"}, "kind is 'clip'; here it can be page, image"),
        ({"query": "q", "target_text": "t", "teacher_scores": [1, 2]}, "teacher_scores must be 1 numbers"),
        ({"query": "q", "target_video": "gone.mp4"}, "no video at"),
        ({"query": "q", "target_text": "t", "instruction": 3}, "instruction is a int"),
        ("not json", "not JSON"),
    ]
    source = own(places, [row for row, _ in bad] + ["", {"query": "q", "target_text": "t"}])
    found = reasons(source)
    assert sorted(found) == list(range(len(bad)))
    for index, (_, reason) in enumerate(bad):
        assert f"DatasetError: pairs: pairs.jsonl line {index + 1}: " in found[index]
        assert reason in found[index]


# Ours


@pytest.fixture
def material(tmp_path):
    """A few records in the layout of ../shared/data, of both splits."""
    data = tmp_path / "shared"
    names = [f"flickr/{n}.jpg" for n in range(12)]
    photos = {f"{n:05d}.png": made.encoded(n) for n in range(12)}
    rows = [
        {"file": file, "orig": name, "captions": [f"first of {n}", f"second of {n}"], "licence": "x"}
        for n, (file, name) in enumerate(zip(photos, names, strict=True))
    ]
    made.tar_set(data / "photos", "flickr8k-00", photos, rows)
    labelled = {f"{n}.png": made.encoded(20 + n) for n in range(3)}
    made.tar_set(
        data / "photos", "labelled-00", labelled, [{"file": file, "captions": [], "label": "rose"} for file in labelled]
    )
    pdfs = {
        f"{n}.pdf": samples.pdf(tmp_path / f"{n}.pdf", ["Revenue grew by region in 2020", None]).read_bytes()
        for n in range(2)
    }
    made.tar_set(data / "pdf", "pdf-00", pdfs, [{"file": file, "title": "t"} for file in pdfs])
    clips = {
        f"{n}.mp4": samples.video(tmp_path / f"{n}.mp4", samples.numbered, range(0, 1000, 100)).read_bytes()
        for n in range(2)
    }
    made.tar_set(data / "video", "video-00", clips, [{"file": f, "captions": ["A game."], "label": "g"} for f in clips])
    made.text_pairs(data / "text", "squad_dev", [(f"q{n}", f"p{n}") for n in range(40)])
    made.text_pairs(data / "text", "wordnet", [("w", "definition of a word")])
    return data


def ours(places, material, mode, **spec):
    given = {"parser": "ours", "data_mode": mode, "dataset_path": str(material), "work": str(material / "work"), **spec}
    return open_source(given, folders=places)


def test_photos_and_captions_of_the_training_split(places, material):
    source = ours(places, material, "caption_photo", sets=["flickr8k"])
    training = [n for n in range(12) if not is_development(f"flickr/{n}.jpg")]
    assert len(source) == 2 * len(training) < 24
    pair, second = source.pair(0), source.pair(1)
    assert pair.query.prompt == f"Find me an everyday image that matches the given caption: first of {training[0]}"
    assert (pair.target.prompt, numbers(pair.target)) == (f"{IMAGE} Represent the given image.", [training[0]])
    assert pair.target_key == second.target_key != source.pair(2).target_key
    kept_out = ours(places, material, "caption_photo", sets=["flickr8k"], dataset_split="development")
    assert len(source) + len(kept_out) == 24
    back = ours(places, material, "photo_caption", sets=["flickr8k"]).pair(1)
    assert back.query.prompt == f"{IMAGE} Find an image caption describing the given everyday image."
    assert (numbers(back.query), back.target.prompt) == ([training[0]], f"second of {training[0]}")


def test_photos_of_one_label_are_no_negatives_of_each_other(places, material):
    source = ours(places, material, "caption_photo", sets=["labelled"])
    assert len({source.pair(i).target_key for i in range(len(source))}) == 1
    assert len({tuple(numbers(source.pair(i).target)) for i in range(len(source))}) == len(source) > 1


def test_pages_and_clips_are_made_once(places, material):
    source = ours(places, material, "passage_page")
    pair = source.pair(0)
    assert pair.query.prompt == "Find a document image that matches the given query: Revenue grew by region in 2020"
    assert pair.target.prompt == f"{IMAGE} Understand the content of the provided document image."
    assert min(pair.target.images()[0].getextrema())[0] < 128  # print on the page
    clip = ours(places, material, "caption_clip").pair(0)
    assert clip.query.prompt == "Find a video that contains the following visual content: A game."
    assert clip.target.is_video
    assert [samples.read_number(image) for image in clip.target.images()] == [0, 1, 3, 4, 5, 6, 8, 9]
    assert ours(places, material, "clip_caption").pair(0).target.prompt == "A game."
    assert ours(places, material, "page_passage").pair(0).target.prompt == "Revenue grew by region in 2020"


def test_text_pairs_of_the_training_split(places, material):
    source = ours(places, material, "text_pairs", sets=["squad_dev"])
    texts = [(source.pair(i).query.prompt, source.pair(i).target.prompt) for i in range(len(source))]
    assert texts == [(f"q{n}", f"p{n}") for n in range(40) if not is_development(f"p{n}")]
    assert len(ours(places, material, "text_pairs")) == len(source) + 1


# What holds for all


def test_a_copy_for_another_process_reads_the_same(places, material):
    made.colpali(places.root / "vidore/colpali_train_set", [colpali_row(f"q{n}?", n, f"a{n}") for n in range(5)])
    specs = {
        "a": {"parser": "vidore"},
        "b": {
            "parser": "ours",
            "data_mode": "caption_clip",
            "dataset_path": str(material),
            "work": str(material / "w"),
        },
        "c": {"parser": "ours", "data_mode": "text_pairs", "dataset_path": str(material)},
    }
    for name, source in open_sources(specs, folders=places).items():
        assert source.name == name
        copy = pickle.loads(pickle.dumps(source))
        assert len(pickle.dumps(source)) < 20_000
        for index in range(len(source)):
            assert copy.pair(index) == source.pair(index)
            assert pickle.loads(pickle.dumps(source.pair(index))) == source.pair(index)


def test_a_pixel_budget_is_given_to_both_sides(places):
    made.visrag(
        places.root / "VisRAG-Ret-Train-In-domain-data", [{"query": "q", "image": made.stored(1), "source": ""}]
    )
    pair = open_source({"parser": "visrag", "max_pixels": 200_704}, folders=places).pair(0)
    assert (pair.query.max_pixels, pair.target.max_pixels) == (200_704, 200_704)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"parser": "mmeb", "subset_name": "SUN397"},
            r"no data set TIGER-Lab/MMEB-train .*looked for .*MMEB-train.*hf download",
        ),
        (
            {"parser": "vidore"},
            r"hf download vidore/colpali_train_set --repo-type dataset --local-dir .*or let `--download`",
        ),
        ({"parser": "llavahound_qa"}, r"ShareGPTVideo/train_video_and_instruction"),
        ({"parser": "jsonl", "dataset_path": "gone.jsonl"}, "no file .*gone.jsonl"),
        ({"parser": "ours", "data_mode": "text_pairs", "dataset_path": "gone"}, "no training data at"),
    ],
)
def test_what_is_not_there_is_said_with_the_way_to_get_it(places, spec, message):
    with pytest.raises(DatasetError, match=message):
        open_source(spec, folders=places)


def test_the_hub_is_asked_only_when_told_to(places, monkeypatch):
    asked = []

    def fetch(name, *, repo_type, local_dir, allow_patterns):
        asked.append((name, repo_type, allow_patterns))
        if name == "vidore/colpali_train_set":
            made.colpali(local_dir, [colpali_row("q", 1, "a")], shards=1)
        else:
            raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(DatasetError):
        open_source({"parser": "vidore"}, folders=places)
    assert asked == []
    assert len(open_source({"parser": "vidore", "download": True}, folders=places)) == 1
    assert asked == [("vidore/colpali_train_set", "dataset", ["data/train-*.parquet", "train-*.parquet"])]
    with pytest.raises(DatasetError, match="cannot be fetched from the hub: OSError: no network"):
        open_source({"parser": "visrag"}, folders=DatasetFolders(places.root, places.cache, download=True))


def test_a_subset_that_is_missing_is_fetched_beside_the_others(places, monkeypatch):
    def fetch(name, *, repo_type, local_dir, allow_patterns):
        made.mmeb(local_dir, allow_patterns[0].partition("/")[0], [mmeb_row("q", "", "a")])

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    mmeb_source(places, [mmeb_row("q", "", "a")])
    spec = {"parser": "mmeb", "subset_name": "CIRR"}
    with pytest.raises(DatasetError, match=r"no CIRR/original-\*.parquet in .*subsets there: A-OKVQA;"):
        open_source(spec, folders=places)
    assert len(open_source({**spec, "download": True}, folders=places)) == 1


REFERENCE_YAML = """
A-OKVQA:
    dataset_parser: mmeb
    dataset_name: TIGER-Lab/MMEB-train
    subset_name: A-OKVQA
    dataset_split: original
    image_dir: TIGER-Lab/MMEB-train
    num_sample_per_subset: 20000
    weight: 0.5
colpali_train_set:
    dataset_parser: vidore
    dataset_name: vidore/colpali_train_set
    weight: 10
visrag-indomain:
    dataset_parser: visrag
    dataset_name: openbmb/VisRAG-Ret-Train-In-domain-data
    global_dataset_name: VisRAG-Indomain-data
    weight: 12
video_caption_300k-video:
    dataset_parser: llavahound_caption
    dataset_name: video_caption_300k
    dataset_path: ShareGPTVideo/video_caption_300k.jsonl
    video_frame_basedir: ShareGPTVideo/train_300k
    weight: 5
    num_rows: 300_000
    num_frames: 8
    data_mode: video_retrieval
"""


def test_the_references_configuration_is_read_as_it_is(places):
    mmeb_source(places, [mmeb_row(ASK, AT + "1.jpg", "cab")])
    made.colpali(places.root / "vidore/colpali_train_set", [colpali_row("q", 1, "a"), colpali_row("r", 1, "b")])
    made.visrag(
        places.root / "VisRAG-Ret-Train-In-domain-data", [{"query": "q", "image": made.stored(1), "source": ""}]
    )
    for number in range(9):
        made.write_picture(places.root / f"ShareGPTVideo/train_300k/v1/c{number}.jpeg", number)
    made.json_lines(places.root / "ShareGPTVideo/video_caption_300k.jsonl", [CAPTION] * 3)
    sources = open_sources(yaml.safe_load(REFERENCE_YAML), folders=places)
    assert {name: len(source) for name, source in sources.items()} == {
        "A-OKVQA": 1, "colpali_train_set": 2, "visrag-indomain": 1, "video_caption_300k-video": 3,
    }  # fmt: skip
    assert all(not reasons(source) for source in sources.values())
    assert len(sources["video_caption_300k-video"].pair(2).target.pictures) == 8


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"parser": "cls"}, "unknown parser 'cls'.*known: mmeb"),
        ({}, "unknown parser None"),
        ({"parser": "visrag", "subset": "x"}, "parser visrag: unknown field subset"),
        ({"parser": "mmeb"}, "parser mmeb: subset_name is needed"),
        ({"parser": "llavahound_caption", "data_mode": "both"}, "data_mode is 'both'; it can be caption_retrieval"),
        ({"parser": "ours", "data_mode": "poems"}, "it can be caption_photo"),
    ],
)
def test_odd_entries_of_a_recipe_are_refused(places, spec, message):
    with pytest.raises(ConfigError, match=message):
        open_source(spec, folders=places)


@pytest.mark.parametrize("field", ["num_rows", "max_pixels", "hard_negatives", "seed"])
@pytest.mark.parametrize("value", [-1, 1.5, "many", True])
def test_numbers_of_an_entry_are_whole(places, field, value):
    with pytest.raises(ConfigError, match=f"{field} is"):
        mmeb_source(places, [mmeb_row("q", "", "a")], **{field: value})
