"""The stages in order. A run may be stopped at any moment; the same command goes on with the first stage that has no result yet."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml

from mmsearch.disk.lock import locked
from mmsearch.disk.replace import remove_leftovers, replace_file
from mmsearch.embedders.families.compact_vlm import CompactVlmEmbedder
from mmsearch.embedders.forward.compact_vlm_model import CompactVlm, EfficientNetLite, Fusion, Seeing
from mmsearch.training.assembly import measure, pretrained_parts
from mmsearch.training.assembly.finish import finish, leave_to_kinds, turned_basis
from mmsearch.training.assembly.fuse import Read, examples, fused, said
from mmsearch.training.assembly.grids import POOLED, Grids
from mmsearch.training.assembly.join import Sequences, train_join
from mmsearch.training.assembly.material import Material, PairSources, photo_of
from mmsearch.training.assembly.seeing import (
    Draws,
    Head,
    Texts,
    averaged,
    know_classes,
    merged,
    train_seeing,
    train_trunk,
)
from mmsearch.training.assembly.settings import Assembly
from mmsearch.training.assembly.steps import loaded, saved
from mmsearch.training.assembly.text_encoder import English, Reader, caption_states, forget_languages, train_words
from mmsearch.training.datasets.shared_material import data_folder

log = logging.getLogger(__name__)

LANGUAGE_ROWS = 400
"""Queries by which languages are compared."""
DRAW = 20
"""Pairs of one source that are drawn together."""


def assemble(recipe: Assembly, run: Path, *, data: Path | None = None, work: Path = Path("runs/work")) -> Path:
    """Run every stage that has no result in `run` yet. Returns the checkpoint's folder.

    Delete `run/<stage>.pt` (or `grids/`) to have a stage and those behind it done again.

    Raises:
        DatasetError: no material. MissingExtra: a package of pretrained parts is missing. LibraryLocked: another run is in `run`.
    """
    run.mkdir(parents=True, exist_ok=True)
    with locked(run):
        return _Run(recipe, run, data_folder(data), work).all()


class _Run:
    def __init__(self, recipe: Assembly, run: Path, data: Path, work: Path) -> None:
        self.recipe, self.run = recipe, run
        self.material = Material(data, work)
        self.work = work
        (run / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), "utf-8")

    def all(self) -> Path:
        english = English()
        reader = self.words()
        fusion = self.fuse(reader, english)
        texts = self.captions(reader, english, fusion)
        network, classifier = pretrained_parts.read_lite2()
        config = self.config(reader)
        model = CompactVlm(config)
        head = Head(model.seeing)
        self.trunk(network, classifier, texts)
        grids = Grids(self.run / "grids", network, self.material, self.recipe.seeing.views)
        grids.compute()
        self.seeing(head, grids, classifier, texts)
        model.text.load_state_dict(reader.encoder.state_dict())
        model.out.load_state_dict(reader.out.state_dict())
        model.english, model.fusion = english.encoder, fusion
        model.vision.load_state_dict(network.state_dict())
        leave_to_kinds([fusion.joint, model.seeing.linear, model.seeing.deep, model.seeing.names])
        self.join(model, Sequences(model, reader.tokenizer, english), grids, texts)
        embedder = finish(model, reader.tokenizer, english.tokenizer, config, self.recipe, head.gate.detach())
        folder = self.run / "checkpoint"
        embedder.save(folder)
        log.info("the checkpoint is in %s", folder)
        return folder

    def config(self, reader: Reader) -> dict[str, Any]:
        """The checkpoint's `config.json`."""
        return {
            "model_type": CompactVlmEmbedder.family,
            "architectures": [CompactVlm.__name__],
            "bos_token_id": pretrained_parts.BEGIN,
            "eos_token_id": pretrained_parts.END,
            "pad_token_id": pretrained_parts.PAD,
            "embedding_size": self.recipe.fuse.size,
            "text_config": pretrained_parts.text_config(len(reader.encoder.tokens.nibbles)),
            "english_config": pretrained_parts.english_config(),
            "vision_config": {
                **pretrained_parts.LITE2,
                "side": POOLED,
                "inner_size": self.recipe.inner_size * self.recipe.seeing.heads,
                "classes": pretrained_parts.CLASSES,
            },
        }

    def words(self) -> Reader:
        encoder, tokenizer = pretrained_parts.read_e5()
        reader = Reader(encoder, tokenizer, self.recipe.words.frozen_layers)
        state, done = self.run / "words.part.pt", self.run / "words.pt"
        if not done.exists():
            rng = self._rng("words")
            pairs = PairSources(self.material, rng)
            names, weights = zip(*self.recipe.words.weights.items(), strict=True)
            train_words(
                reader,
                pairs,
                self.recipe.words,
                state,
                choose=lambda: rng.choices(names, weights)[0],
                evaluate=measure.Pages(self.material),
            )
            forget_languages(reader, rng.sample(self.material.written, LANGUAGE_ROWS), self.recipe.words.query_tokens)
            saved({"encoder": reader.encoder.state_dict(), "out": reader.out.state_dict()}, done)
        found = loaded(done)
        reader.encoder.load_state_dict(found["encoder"])
        reader.out.load_state_dict(found["out"])
        return reader.requires_grad_(False).eval()

    def fuse(self, reader: Reader, english: English) -> Fusion:
        done, settings = self.run / "fuse.pt", self.recipe.fuse
        hidden = reader.out.out_features
        if not done.exists():
            rng = self._rng("fuse")
            pairs = PairSources(self.material, rng)
            names, weights = zip(*settings.weights.items(), strict=True)
            drawn = [
                pair for _ in range(settings.pairs // DRAW) for pair in pairs.draw(rng.choices(names, weights)[0], DRAW)
            ]
            some = examples(self.material, drawn, rng)
            fusion = fused(Read.of(reader, english, some, settings.tokens), settings.size)
            pages = measure.Pages(self.material)
            told = pages(lambda texts, most: said(reader, english, fusion, texts, most))
            log.info("fuse: %s", told)
            saved(fusion.state_dict(), done)
        fusion = Fusion(hidden, english.encoder.positions.shape[1], settings.size)
        fusion.load_state_dict(loaded(done))
        return fusion.requires_grad_(False).eval()

    def captions(self, reader: Reader, english: English, fusion: Fusion) -> Texts:
        """Every text's vector; what the development split says is not drawn from. The fusion is turned into their basis."""
        texts, file = self.material.said.texts, self.run / "captions.npy"
        if not file.exists():
            remove_leftovers(file)
            with replace_file(file, durable=False) as temporary, temporary.open("wb") as stream:
                np.save(stream, caption_states(reader, english, texts))
        both = torch.from_numpy(np.load(file).astype(np.float32))
        if len(both) != len(texts):
            raise ValueError(f"{file} holds {len(both)} texts, the material {len(texts)}: delete it")
        states, told = both.split(reader.out.in_features, 1)
        own = F.normalize(reader.out(states), dim=1)
        with torch.no_grad():
            basis = turned_basis(F.normalize(fusion(states, own, told), dim=1))
            fusion.joint.weight.copy_(basis @ fusion.joint.weight)
            fusion.joint.bias.copy_(basis @ fusion.joint.bias)
            vectors = F.normalize(fusion(states, own, told), dim=1)
        said = self.material.said
        trained = [own for photo, own in zip(self.material.photos, said.photos, strict=True) if not photo.development]
        trained += [own for clip, own in zip(self.material.clips, said.clips, strict=True) if not clip.development]
        train = {one.row for own in trained for one in own}
        return Texts(vectors, torch.tensor(sorted(train)))

    def _new_head(self, texts: Texts) -> Head:
        return Head(Seeing(texts.vectors.shape[1], self.recipe.inner_size, pretrained_parts.CLASSES))

    def trunk(self, network: EfficientNetLite, classifier: pretrained_parts.Classifier, texts: Texts) -> None:
        state, done = self.run / "trunk.part.pt", self.run / "trunk.pt"
        settings = self.recipe.trunk
        if not done.exists():
            rng = self._rng("trunk")
            if settings.steps:
                first = Grids(self.run / "first", network, self.material, 1)
                first.compute()
                head = self._new_head(texts)
                self._know_classes(head, first.photos(0), classifier, texts)
                self._warm_up(head, first, texts, rng)
                shares = {name: share for name, share in self.recipe.seeing.shares.items() if name != "clips"}
                draws = Draws(self.material, shares, self.recipe.seeing.foreign, rng)
                seen = measure.photos(self.material, texts.vectors)
                train_trunk(head, network, self.material, draws, texts, settings, state, rng, evaluate=seen)
            saved({"vision": network.state_dict()}, done)
        network.load_state_dict(loaded(done)["vision"])

    def _warm_up(self, head: Head, grids: Grids, texts: Texts, rng: random.Random) -> None:
        """The head alone, on the network as it came: a random head would ruin the trunk."""
        settings = self.recipe.seeing.model_copy(update={"steps": self.recipe.trunk.warm_up, "views": 1})
        draws = Draws(self.material, settings.shares, settings.foreign, rng)
        train_seeing(head, [grids.photos(0)], grids.clips(), draws, texts, settings, rng)

    def seeing(self, head: Head, grids: Grids, classifier: pretrained_parts.Classifier, texts: Texts) -> None:
        done = self.run / "seeing.pt"
        if not done.exists():
            heads = [self._head(0, None, grids, classifier, texts)]
            heads += [self._head(n, heads[0], grids, classifier, texts) for n in range(1, self.recipe.seeing.heads)]
            merged(heads, head)
            log.info("seeing, all: %s", measure.seen(self.material, texts.vectors, grids, head.eval()))
            saved(head.state_dict(), done)
        head.load_state_dict(loaded(done))

    def _head(
        self, number: int, first: Head | None, grids: Grids, classifier: pretrained_parts.Classifier, texts: Texts
    ) -> Head:
        """Head `number`; all but the first one pool cells as the first does, so each picture's cells are pooled once for all steps."""
        done, settings = self.run / f"seeing-{number}.pt", self.recipe.seeing
        rng = self._rng(f"seeing {number}")
        head = self._new_head(texts)
        if not done.exists():
            views, clips = [grids.photos(view) for view in range(settings.views)], grids.clips()
            draws = Draws(self.material, settings.shares, settings.foreign, rng)
            self._know_classes(head, views[0], classifier, texts)
            if first is not None:
                head.seeing.score.load_state_dict(first.seeing.score.state_dict())
                head.seeing.score.requires_grad_(False)
                views, clips = [averaged(first.seeing, view) for view in views], averaged(first.seeing, clips)
            train_seeing(head, views, clips, draws, texts, settings, rng)
            log.info("seeing, head %d: %s", number, measure.seen(self.material, texts.vectors, grids, head))
            saved(head.state_dict(), done)
        head.load_state_dict(loaded(done))
        return head

    def _know_classes(
        self, head: Head, photos: np.ndarray, classifier: pretrained_parts.Classifier, texts: Texts
    ) -> None:
        """The names are those of the material's pictures of ImageNet's classes, one of each."""
        some = photos[:: max(1, len(photos) // 2000)]
        row_of = {text: row for row, text in enumerate(self.material.said.texts)}
        labels = self.material.class_labels
        rows = torch.tensor([[row_of[label], row_of[photo_of(label)]] for label in labels])
        names = texts.vectors[rows].sum(1)
        know_classes(head.seeing, torch.from_numpy(some.astype(np.float32).mean(1)), classifier, names)

    def join(self, model: CompactVlm, sequences: Sequences, grids: Grids, texts: Texts) -> None:
        done = self.run / "join.pt"
        names = ("projector", "places", "gate", "mix")
        if not done.exists():
            train_join(model, sequences, self.material, grids, texts, self.recipe.join, self._rng("join"))
            saved({name: getattr(model, name).state_dict() for name in names}, done)
        found = loaded(done)
        for name in names:
            getattr(model, name).load_state_dict(found[name])

    def _rng(self, stage: str) -> random.Random:
        """Each stage's own, so that one that is done again does not depend on those that are not."""
        seed = f"{self.recipe.seed} {stage}"
        torch.manual_seed(random.Random(seed).getrandbits(32))
        return random.Random(seed)
