"""The training of the assembled checkpoint: its draws, its losses, its closed forms. The pretrained parts are not needed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tokenizers import processors

from mmsearch.embedders.families.compact_vlm import CompactVlmEmbedder
from mmsearch.embedders.forward.compact_vlm_model import HEAD, CompactVlm, Seeing
from mmsearch.errors import ConfigError
from mmsearch.items import KINDS
from mmsearch.prompts import DOCUMENT_INSTRUCTIONS, TEXT_QUERY_INSTRUCTIONS
from mmsearch.training.assembly import join
from mmsearch.training.assembly.finish import largest_shift_error, leave_to_kinds, tell_gates, tell_kinds, turned_basis
from mmsearch.training.assembly.fuse import OWN, Read, examples, fused
from mmsearch.training.assembly.grids import SIDE, cells_of, pixels, viewed
from mmsearch.training.assembly.join import Sequences
from mmsearch.training.assembly.material import WRITTEN_LANGUAGES, Material, PairSources, first_title
from mmsearch.training.assembly.pretrained_parts import Classifier
from mmsearch.training.assembly.seeing import (
    Draws,
    Head,
    Texts,
    know_classes,
    merged,
    train_seeing,
)
from mmsearch.training.assembly.settings import RECIPES, find_assembly, load_assembly
from mmsearch.training.assembly.settings import Seeing as SeeingSettings
from mmsearch.training.assembly.steps import Averaged, loaded, rate, saved
from mmsearch.training.assembly.text_encoder import English, Reader, caption_states
from tests.tiny_models import random_compact

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not (DATA / "photos").is_dir(), reason=f"the training material is not at {DATA}")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def tiny() -> tuple[CompactVlm, Sequences]:
    embedder = random_compact()
    model = embedder.model.float()
    return model, Sequences(model, embedder.tokenizer)


class TinyEnglish(English):
    """The English encoder of a tiny model."""

    def __init__(self, embedder: CompactVlmEmbedder) -> None:
        assert embedder.model.english is not None and embedder.tokens.english is not None
        self.encoder, self.tokenizer = embedder.model.english.float(), embedder.tokens.english
        self.tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )


def tiny_reader(frozen: int = 0) -> tuple[Reader, English]:
    embedder = random_compact()
    return Reader(embedder.model.text.float(), embedder.tokenizer, frozen=frozen), TinyEnglish(embedder)


# Recipes


def test_the_recipe_that_ships_is_found_by_name_and_changed_by_path():
    file = find_assembly("mini")
    assert file == RECIPES / "mini.yaml"
    assert load_assembly(file, {"words.steps": 7}).words.steps == 7


def test_a_recipe_of_the_other_sort_is_not_taken_for_one():
    assert find_assembly("from_nothing") is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"words.stepz": 1}, "stepz"), ({"wordz.steps": 1}, "wordz"), ({"trunk.steps": -1}, "trunk.steps")],
)
def test_a_wrong_field_is_named(changes: dict, told: str):
    with pytest.raises(ConfigError, match=told):
        load_assembly(RECIPES / "mini.yaml", changes)


# Steps


def test_the_rate_rises_then_falls_in_a_straight_line():
    assert [rate(step, 100, warmup=10) for step in (1, 5)] == pytest.approx([0.1 * 0.99, 0.5 * 0.95])
    assert rate(50, 100, warmup=10) == pytest.approx(0.5)
    assert rate(100, 100, warmup=10) == pytest.approx(0.02)


def test_averaged_weights_stand_in_for_a_while():
    weight = torch.zeros(2)
    average = Averaged([weight], decay=0.5)
    weight += 4
    average.update(1000)
    with average.in_place():
        assert weight.tolist() == [2, 2]
    assert weight.tolist() == [4, 4]
    average.keep()
    assert weight.tolist() == [2, 2]


def test_what_is_saved_is_read_back(tmp_path: Path):
    saved({"weights": {"a": torch.ones(3)}, "step": 4}, tmp_path / "deep" / "state.pt")
    assert loaded(tmp_path / "deep" / "state.pt")["step"] == 4
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["state.pt"]


# Texts


def test_the_first_title_has_two_words():
    assert first_title("3\nQ3 2025\nWhere revenue comes from\nmore") == "Where revenue comes from"
    assert first_title("1 2 3") == ""


def test_a_text_alone_is_what_it_is_among_others():
    reader, english = tiny_reader()
    texts = ["a", "a dog on the beach", "the dog"]
    together = caption_states(reader, english, texts).astype(np.float32)
    alone = np.concatenate([caption_states(reader, english, [text]) for text in texts]).astype(np.float32)
    assert together.shape == (3, 32 + 64) and np.abs(together - alone).max() < 0.05


def read_of(count: int, size: int = 24) -> Read:
    """Texts whose meaning both encoders tell, each in its own turn; the last third is not English, and MiniLM says noise of it."""
    meaning = torch.randn(count, 8)
    is_english = torch.arange(count) < 2 * count // 3
    own = F.normalize(meaning @ torch.randn(8, size), dim=1)
    told = F.normalize(meaning @ torch.randn(8, size), dim=1)
    english = torch.where(is_english[:, None], told, F.normalize(torch.randn(count, size), dim=1))
    states = own + 0.2 * torch.randn(count, size)
    states[:, 0] = is_english * 3.0 + torch.randn(count)
    foreign = (~is_english).nonzero().squeeze(1)
    english = torch.cat([english, told[foreign]])  # the English twins of those
    states, own = torch.cat([states, states[foreign]]), torch.cat([own, own[foreign]])
    states[count:, 0] += 3.0
    is_english = torch.cat([is_english, torch.ones(len(foreign), dtype=torch.bool)])
    return Read(states, own, english, is_english, torch.stack([foreign, torch.arange(count, len(own))], 1))


def test_english_is_told_and_guessed_where_it_cannot_be_read():
    read = read_of(600)
    fusion = fused(read, 32)
    with torch.no_grad():
        told = fusion.is_english(read.states).squeeze(1) > 0
        assert float((told == read.is_english).float().mean()) > 0.9
        foreign, twin = read.twins.T
        guessed = F.cosine_similarity(fusion.guess(read.own[foreign]), read.english[twin])
        assert float(guessed.mean()) > 0.9


def test_the_fusion_keeps_what_both_say_of_english_texts():
    read = read_of(600)
    fusion = fused(read, 48)
    with torch.no_grad():
        fusion.is_english.weight.zero_(), fusion.is_english.bias.fill_(60.0)
        states, own, english = (part[read.is_english] for part in (read.states, read.own, read.english))
        made = fusion(states, own, english)
        whole = torch.cat([OWN**0.5 * own, (1 - OWN) ** 0.5 * english], 1)
        whole -= whole.mean(0)
    torch.testing.assert_close(made @ made.T, whole @ whole.T, atol=1e-4, rtol=1e-3)


def test_examples_name_each_text_once_and_say_which_are_english():
    class Some:
        written: ClassVar = [
            {"en": "tower height", "passage": "It is 330 m tall.", **dict.fromkeys(WRITTEN_LANGUAGES, "Turm")}
        ]
        translations: ClassVar = [{"orig": "1.jpg", "en": "a dog", "de": "ein Hund"}]

    some = examples(Some(), [("tower height", "It is 330 m tall.")], random.Random(0))  # type: ignore[arg-type]
    assert len(set(some.texts)) == len(some.texts) == len(some.is_english)
    english = dict(zip(some.texts, some.is_english, strict=True))
    assert english["tower height"] and not english["Turm"]
    assert (some.texts.index("Turm"), some.texts.index("tower height")) in some.twins


def test_only_the_upper_layers_are_trained():
    embedder = random_compact()
    count = len(embedder.model.text.layers)
    reader = Reader(embedder.model.text.float(), embedder.tokenizer, frozen=count - 1)
    reader(["a dog"], 16).sum().backward()
    trained = {name for name, weight in reader.named_parameters() if weight.grad is not None}
    assert trained and all(name.startswith((f"encoder.layers.{count - 1}.", "out.")) for name in trained)


# Seeing


def test_a_text_that_says_the_same_is_no_wrong_answer():
    same = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]]), dim=1)
    texts = Texts(same, torch.tensor([2]))
    seen, own = same[:2], torch.tensor([0, 1])
    head = Head(Seeing(2, 4))
    apart = Texts(F.normalize(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), dim=1), torch.tensor([2]))
    # With both right answers masked for each other, only the bank's far text is left to be told apart from.
    with torch.no_grad():
        assert float(texts.loss(head, seen, own)) < float(apart.loss(head, seen, own))


def test_known_classes_are_found_by_their_names_before_any_training():
    count, hidden = 6, 16
    features = torch.rand(40, HEAD).abs()
    classifier = Classifier(torch.randn(count, HEAD), torch.randn(count))
    names = torch.randn(count, hidden)
    head = Head(Seeing(hidden, 8, count))
    know_classes(head.seeing, features, classifier, names)
    pictures = features[:count] + 3 * classifier.weight  # each far out along its class's weights
    with torch.no_grad():
        head.eval()
        seen = head(head.seeing.pooled(pictures.unsqueeze(1)))
    asked = F.normalize(names - names.mean(0), dim=1)
    assert (asked @ seen.T).argmax(1).tolist() == list(range(count))
    trained = {name for name, weight in head.named_parameters() if weight.requires_grad}
    assert "seeing.linear.weight" in trained and not any("classes" in name or "names" in name for name in trained)


def test_merged_heads_say_the_mean_of_what_each_says():
    hidden, pooled = 8, torch.randn(3, HEAD)
    heads = [Head(Seeing(hidden, 6, 4)).eval() for _ in range(2)]
    for part in ("classes", "names"):
        getattr(heads[1].seeing, part).load_state_dict(getattr(heads[0].seeing, part).state_dict())
    with torch.no_grad():
        heads[0].gate.fill_(0.5)
        into = Head(Seeing(hidden, 12, 4)).eval()
        merged(heads, into)
        wanted = (heads[0].seeing(pooled) + heads[1].seeing(pooled)) / 2
        torch.testing.assert_close(into.seeing(pooled), wanted)
    assert into.gate.tolist() == [0.25] * hidden


def test_views_keep_the_side_and_the_first_is_the_photo_itself():
    from PIL import Image

    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8))
    assert np.array_equal(np.asarray(viewed(image, 0, random.Random(0))), np.asarray(image))
    other = viewed(image, 1, random.Random(0))
    assert other.size == (SIDE, SIDE) and other.tobytes() != image.tobytes()
    values = pixels([image])
    assert values.shape == (1, 3, SIDE, SIDE) and float(values.max()) <= 1


def test_cells_are_means_of_two_by_two():
    features = torch.arange(9.0).view(1, 1, 3, 3)
    assert cells_of(features).flatten().tolist() == [2, 3.5, 6.5, 8]


class _OneEach(Draws):
    """Photo n has text n."""

    def __init__(self, count: int, rng: random.Random) -> None:
        self._count, self._rng = count, rng

    def sets(self, count: int) -> list[str]:
        return ["photos"] * (count - 2) + ["clips"] * 2

    def one(self, name: str) -> tuple[int, int]:
        number = self._rng.randrange(self._count)
        return number, number


def test_the_head_learns_to_tell_photos_apart():
    count, hidden = 24, 16
    rng = random.Random(0)
    grids = np.abs(np.random.default_rng(0).normal(size=(count, 4, HEAD))).astype(np.float16)
    texts = Texts(F.normalize(torch.randn(count, hidden), dim=1), torch.arange(count))
    head = Head(Seeing(hidden, 32))
    settings = SeeingSettings(steps=60, batch=32, shares={}, cut_together=0.0, learning_rate=3e-3)
    clips = np.repeat(grids[:, None], 8, 1)

    def right() -> float:
        with torch.no_grad():
            head.eval()
            seen = head(head.seeing.pooled(torch.from_numpy(grids.astype(np.float32))))
        return float(((seen @ texts.vectors.T).argmax(1) == torch.arange(count)).float().mean())

    assert right() < 0.3
    train_seeing(head, [grids], clips, _OneEach(count, rng), texts, settings, rng)
    assert right() > 0.9


# Kinds and basis


def test_a_basis_of_their_own_keeps_what_is_compared():
    hidden = 32
    spread = torch.cat([torch.linspace(2, 0.5, hidden - len(KINDS)), torch.full((len(KINDS),), 1e-4)])
    vectors = F.normalize(torch.randn(400, hidden) * spread, dim=1)
    turned = vectors @ turned_basis(vectors).T
    assert torch.allclose(turned @ turned.T, vectors @ vectors.T, atol=1e-3)
    assert float(turned[:, : len(KINDS)].abs().max()) < 1e-5
    energy = (turned**2).mean(0)[len(KINDS) :]
    assert (energy.diff() < 1e-5).all(), "the widest first"


def test_layers_leave_the_first_coordinates_to_kinds():
    layer = torch.nn.Linear(4, 8)
    leave_to_kinds([layer])
    out = layer(torch.randn(5, 4))
    assert not out[:, : len(KINDS)].any() and out[:, len(KINDS) :].all()


def test_queries_for_pictures_get_the_gate_and_others_keep_theirs():
    model, sequences = tiny()
    before = model.gate(sequences.told(DOCUMENT_INSTRUCTIONS["page"])).detach()
    gate = torch.randn(model.gate.out_features)
    tell_gates(model, sequences, gate)
    for kind in ("image", "clip"):
        assert torch.allclose(model.gate(sequences.told(TEXT_QUERY_INSTRUCTIONS[kind])), gate, atol=0.05)
    assert torch.allclose(model.gate(sequences.told(DOCUMENT_INSTRUCTIONS["page"])), before, atol=0.05)


def test_an_instruction_shifts_by_its_kind_alone():
    model, sequences = tiny()
    with torch.no_grad():
        tell_kinds(model, sequences, 0.8)
        assert largest_shift_error(model, sequences, 0.8) < 0.05
        page = model.shift(sequences.told(TEXT_QUERY_INSTRUCTIONS["page"]))
    assert int(page.argmax()) == KINDS.index("page")


def test_sequences_are_those_of_the_embedder():
    from mmsearch.items import EmbedInput

    embedder = random_compact()
    model, text = embedder.model.float(), "a dog on the beach"
    sequences = Sequences(model, embedder.tokenizer, TinyEnglish(random_compact()))
    with torch.no_grad():
        read = sequences.read([sequences.one(sequences.ids(text))], [text])
        told = sequences.told(DOCUMENT_INSTRUCTIONS["page"]).unsqueeze(0)
        ours = model.joined(read, torch.zeros_like(read), told)
    theirs = embedder.encode_documents([EmbedInput(DOCUMENT_INSTRUCTIONS["page"], text, kind="page")])
    assert np.allclose(ours.numpy(), theirs, atol=2e-2 if join.default_dtype("cpu") == torch.bfloat16 else 1e-5)


# The material


@needs_data
def test_nothing_of_the_development_split_is_drawn(tmp_path: Path):
    pytest.importorskip("zstandard")
    material = Material(DATA, tmp_path)
    material.__dict__["clips"], material.__dict__["pages"] = [], []
    rng = random.Random(0)
    draws = Draws(material, {"flickr8k": 0.7, "labelled": 0.3}, 0.25, rng)
    drawn = [draws.one(name) for name in draws.sets(2000)]
    assert not any(material.photos[number].development for number, _ in drawn)
    held_out = {caption for photo in material.photos if photo.development for caption in photo.captions}
    pairs = PairSources(material, rng)
    for source in ("flickr8k_captions", "multi30k"):
        told = {text for pair in pairs.draw(source, 2000) for text in pair}
        assert not told & held_out
    with pytest.raises(KeyError):
        pairs.draw("nothing", 1)
