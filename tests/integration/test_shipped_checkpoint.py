"""The checkpoint in the package: there, small enough, described, and of use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmsearch.embedders import Embedder, load_embedder
from mmsearch.evaluation.metrics import known_item_metrics, ranks
from mmsearch.items import WITHOUT_TEXT, EmbedInput, Query
from mmsearch.prompts import DOCUMENT_INSTRUCTIONS, query_input

FOLDER = Path(__file__).parents[2] / "mmsearch" / "checkpoints" / "mini"
DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def mini() -> Embedder:
    return load_embedder("mini", device="cpu")


def test_it_is_small_enough_and_of_its_family() -> None:
    assert (FOLDER / "model.safetensors").stat().st_size <= 100_000_000
    config = json.loads((FOLDER / "config.json").read_text())
    assert (config["model_type"], config["embedding_size"]) == ("compact_vlm", 512)
    assert (FOLDER / "tokenizer.json").stat().st_size <= 10_000_000


def test_its_card_names_parts_sets_licences_and_numbers() -> None:
    card = (FOLDER / "README.md").read_text()
    for words in (
        "multilingual-e5-small",
        "EfficientNet-Lite2",
        "Flickr8k",
        "Multi30k",
        "non-commercial",
        "nDCG@5",
        "caption -> photo",
    ):
        assert words in card


def test_it_says_what_right_answers_score(mini: Embedder) -> None:
    assert set(mini.match_scale) == {"page", "image", "clip", WITHOUT_TEXT}
    assert all(scale.low < scale.middle and 0 <= scale.reliability <= 1 for scale in mini.match_scale.values())


def test_every_prefix_of_its_vectors_is_a_vector(mini: Embedder) -> None:
    """Matryoshka-ready: no leading block of dimensions is empty."""
    vectors = mini.encode_documents([EmbedInput("", text=text) for text in ("revenue grew", "a dog runs", "the sea")])
    assert vectors.shape == (3, 512)
    assert (np.linalg.norm(vectors[:, :64], axis=1) > 0.2).all()


@pytest.mark.parametrize(
    ("question", "right", "wrong"),
    [
        ("how much did sales grow", "Revenue rose by 12 % in the third quarter", "Bees pollinate apple trees in May"),
        ("insects in the orchard", "Bees pollinate apple trees in May", "Revenue rose by 12 % in the third quarter"),
        ("puppy", "a small dog lies on the sofa", "the train leaves at noon"),
        ("railway timetable", "the train leaves at noon", "a small dog lies on the sofa"),
        (
            "wie stark stieg der Umsatz",
            "Revenue rose by 12 % in the third quarter",
            "Bees pollinate apple trees in May",
        ),
        ("à quelle heure part le train", "the train leaves at noon", "a small dog lies on the sofa"),
    ],
)
def test_texts_meet_by_meaning(mini: Embedder, question: str, right: str, wrong: str) -> None:
    query = mini.encode_queries([query_input(Query(text=question), "page")])[0]
    near, far = mini.encode_documents([EmbedInput("", text=text) for text in (right, wrong)])
    assert query @ near > query @ far


@pytest.mark.skipif(not DATA.is_dir(), reason="the development material is not beside this checkout")
def test_captions_find_their_photos_far_above_chance(mini: Embedder) -> None:
    from mmsearch.training.datasets.shared_material import load_photos

    photos = [p for p in load_photos(DATA) if p.set_name == "flickr8k" and p.development][:100]
    images = mini.encode_documents(
        [EmbedInput(DOCUMENT_INSTRUCTIONS["image"], images=(p.member.image(),), kind="image") for p in photos]
    )
    captions = mini.encode_queries([query_input(Query(text=p.captions[0]), "image") for p in photos])
    found = known_item_metrics(ranks(captions @ images.T, range(len(photos))))
    assert found["R@10"] > 0.8, "chance is 0.1, the checkpoint of 0.4.0 had 0.55"
