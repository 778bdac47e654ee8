"""The fit of what a checkpoint's scores are worth: its formula is the application's, and on a made population it finds what is there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmsearch.embedders.checkpoints.opening import match_scales
from mmsearch.evaluation import fit_ranking
from mmsearch.evaluation.fit_ranking import NONE, Material, Style, Weights
from mmsearch.evaluation.fusion import Pool
from mmsearch.items import WITHOUT_TEXT, Kind, MatchScale
from mmsearch.ranking import relevance

DIM, PAGES, PHOTOS = 32, 60, 40
WORDS = [f"w{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(PAGES)]


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def material() -> Material:
    """Pages and photos as random directions; a query "page n" or "photo n" lies near its item, "none n" near nothing."""
    rng = np.random.default_rng(0)
    items: dict[Kind, np.ndarray] = {
        "page": unit(rng.normal(size=(PAGES, DIM))),
        "image": unit(rng.normal(size=(PHOTOS, DIM))),
    }

    def ask(texts: Sequence[str], kind: Kind) -> np.ndarray:
        rows = []
        for text in texts:
            of, number = text.split()[:2]
            noise = np.random.default_rng([len(of), int(number)]).normal(size=DIM) / np.sqrt(DIM)
            near = {"page": "page", "photo": "image"}.get(of) == kind
            rows.append(noise + (1.2 * items[kind][int(number)] if near else 0))
        return unit(np.array(rows))

    generic = {kind: unit(rng.normal(size=(20, DIM))) for kind in items}
    pool = Pool(items, generic, {}, np.arange(PAGES) % 5 == 0)
    styles = [
        Style("pages", [f"page {n} {WORDS[n]}" for n in range(PAGES)], [[n] for n in range(PAGES)], "page"),
        Style("photos", [f"photo {n}" for n in range(PHOTOS)], [[PAGES + n] for n in range(PHOTOS)], "image", is_strict=False),
        Style(NONE, [f"none {n}" for n in range(50)], [[] for _ in range(50)], None),
    ]  # fmt: skip
    return Material(pool, [f"text about {word}" for word in WORDS], styles, ask, items["page"][::-1].copy())


def test_the_formula_is_the_applications(material: Material) -> None:
    weights = Weights(torch.tensor([[-1.0, 0.5, 0.2, 0.7], [-2.0, 0.3, 0.4, 0.9], [0, 0, 0, 0]]), Weights.start().words)
    named = {kind: dict(zip(MatchScale._fields[3:], row, strict=True)) for kind, row in zip(("page", "image"), weights.kinds.tolist(), strict=False)}  # fmt: skip
    scales = {kind: MatchScale(0, 1, 1, **numbers) for kind, numbers in named.items()}
    pool = replace(material.pool, scales=scales)
    said = torch.sigmoid(weights.odds(fit_ranking.features_of(material))).numpy()
    for style, rows in zip(material.styles, np.split(said, [PAGES, PAGES + PHOTOS]), strict=True):
        asked = {kind: material.ask(style.texts, kind) for kind in pool.items}
        words = list(map(material.indexes[False].matches, style.texts))
        np.testing.assert_allclose(pool.relevance(asked, words), rows, atol=1e-5)


def test_what_is_there_is_found_and_what_is_not_there_is_not(material: Material) -> None:
    measured = dict.fromkeys(("page", "image", WITHOUT_TEXT), MatchScale(0.1, 0.2, 0.9))
    scales, report = fit_ranking.fitted_scales(material, measured)
    assert scales.keys() == measured.keys() and all(
        scale.is_fitted and scale[:3] == (0.1, 0.2, 0.9) for scale in scales.values()
    )
    assert all(min(scale[4:]) >= 0 for scale in scales.values()), "what is nearer is never worth less"
    assert "| pages |" in report and "no good match" in report and "relevance said" in report
    features = fit_ranking.features_of(material)
    found = fit_ranking.found_by(features, fit_ranking.fit(features, Weights.start()))
    answerable = features.right.any(1).numpy()
    assert found.is_right[answerable].mean() > 0.95
    assert (found.first[found.is_right] >= relevance.MIN_RELEVANCE).mean() > 0.9
    assert (found.first[~answerable] < relevance.MIN_RELEVANCE).mean() >= fit_ranking.SILENT - 1e-6


def test_cross_validation_answers_each_query_once_by_weights_that_did_not_see_it(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    fit = fit_ranking.fit
    monkeypatch.setattr(fit_ranking, "fit", lambda some, *a, **o: (seen.append(len(some.style)), fit(some, *a, **o))[1])
    features = fit_ranking.features_of(material)
    found = fit_ranking.cross_validated(features, Weights.start(), folds=3)
    assert [len(features.style) - count for count in seen] == [50, 50, 50]
    assert torch.isfinite(found.odds).all() and len(found.first) == len(features.style) == 150


def test_a_reliability_curve_by_hand() -> None:
    said, is_right = np.array([0.0, 0.1, 0.55, 0.5, 1.0]), np.array([False, False, True, False, True])
    assert fit_ranking.reliability_curve(said, is_right, bins=2) == [
        (pytest.approx(0.05), 0.0, 2),
        (pytest.approx(2.05 / 3), pytest.approx(2 / 3), 3),
    ]


def test_scales_go_into_the_checkpoint_beside_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "mmsearch.json").write_text('{"name": "x", "match_scale": {"page": [1, 2, 3]}}')
    scale = MatchScale(0.1, 0.2, 0.9, -1.0, 0.5, 0.25, 0.75)
    fit_ranking.write_scales(tmp_path, {"page": scale})
    said = json.loads((tmp_path / "mmsearch.json").read_text())
    assert said["name"] == "x" and match_scales(said) == {"page": scale}


def test_names_as_people_give_them_and_one_more_word() -> None:
    captions = [
        ["A motorbike crosses the desert", "A rider in the sand"],
        ["Two dogs"],
        ["A desert motorbike", "it is dry"],
    ]
    names = fit_ranking.photo_names(captions)
    assert names == ["motorbike-crosses.jpg", "dogs-two.jpg", "motorbike-desert.jpg"]
    style = fit_ranking.name_style(captions, names, 100)
    assert style.texts == ["motorbike crosses rider", "dogs two", "motorbike desert dry"]
    assert style.right == [[100], [101], [102]] and style.by_name
