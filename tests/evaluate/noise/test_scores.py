"""Scores against a slow softmax in double precision, formula by formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from facepack.evaluate.noise.classifier import Classifier
from facepack.evaluate.noise.scores import NO_CLASS, SCORES, score_rows
from facepack.train.backbones import build
from facepack.train.heads import build_margin
from facepack.train.heads.logits import LogitRule

CLASSES, FEATURES, IMAGES, SCALE = 37, 16, 50, 20.0


def make_classifier(margin: str, per_class: int = 1) -> Classifier:
    generator = torch.Generator().manual_seed(3)
    built = build_margin(margin)
    return Classifier(
        name="run",
        checksum="",
        backbone=build("tiny", features=FEATURES),
        centres=torch.randn(CLASSES, per_class * FEATURES, generator=generator),
        rule=LogitRule(margin=built, scale=SCALE),
        margin_state={k: torch.tensor(v) for k, v in built.initial_state(CLASSES, 1.0).items()},
        step=7,
        label_map="",
    )


@pytest.fixture
def faces() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    labels = rng.integers(-1, CLASSES, IMAGES)
    labels[:2] = -1, CLASSES - 1
    return rng.normal(size=(IMAGES, FEATURES)).astype(np.float32) * 9, labels


def lowered(margin: str, cosine: float, norm: float) -> float:
    angle = math.acos(cosine)
    if margin == "arcface":
        past = angle > math.pi - 0.5
        return cosine - 0.5 * math.sin(0.5) if past else math.cos(angle + 0.5)
    if margin == "adaface":  # of fresh statistics: mean 20, deviation 100; h 0.333, m 0.4
        at = min(1, max(-1, (min(100, max(0.001, norm)) - 20) / (100 + 1e-3) * 0.333))
        angle = min(math.pi - 1e-3, max(1e-3, angle - 0.4 * at))
        return math.cos(angle) - (0.4 + 0.4 * at)
    return cosine - 0.4


@pytest.mark.parametrize("classes", [1, 10, 1000])
@pytest.mark.parametrize("margin", ["arcface", "cosface", "adaface"])
def test_scores_are_those_of_the_plain_formulas(
    faces: tuple[np.ndarray, np.ndarray], margin: str, classes: int
) -> None:
    rows, labels = faces
    classifier = make_classifier(margin)
    found = score_rows(classifier, rows, labels, classes=classes)
    centres = classifier.centres.double().numpy()
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    for row, label, scores in zip(rows.astype(np.float64), labels, found, strict=True):
        norm = np.linalg.norm(row)
        cosines = centres @ (row / norm)
        plain = np.exp(SCALE * cosines) / np.exp(SCALE * cosines).sum()
        logits = SCALE * cosines
        if label >= 0:
            logits[label] = SCALE * lowered(margin, cosines[label], norm)
        published = np.exp(logits) / np.exp(logits).sum()
        assert scores["predicted"] == cosines.argmax()
        close = {"rel": 2e-5, "abs": 1e-12}
        assert scores["max_p"] == pytest.approx(published.max(), **close)
        assert scores["predicted_p"] == pytest.approx(plain.max(), **close)
        assert scores["predicted_cosine"] == pytest.approx(cosines.max(), abs=1e-6)
        if label >= 0:
            assert scores["own_p"] == pytest.approx(published[label], **close)
            assert scores["cosine"] == pytest.approx(cosines[label], abs=1e-6)
        else:
            assert np.isnan(scores["own_p"]) and np.isnan(scores["cosine"])


def test_the_nearest_of_several_centres_is_a_classs_cosine(
    faces: tuple[np.ndarray, np.ndarray],
) -> None:
    rows, labels = faces
    classifier = make_classifier("subcenter", 3)
    found = score_rows(classifier, rows, labels, classes=5)
    centres = classifier.centres.view(CLASSES, 3, FEATURES).double().numpy()
    centres /= np.linalg.norm(centres, axis=2, keepdims=True)
    units = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    cosines = np.einsum("nf,ckf->nck", units, centres).max(2)
    np.testing.assert_array_equal(found["predicted"], cosines.argmax(1))
    np.testing.assert_allclose(found["predicted_cosine"], cosines.max(1), atol=1e-6)


@pytest.mark.parametrize("margin", ["curricularface", "magface", "elastic", "uniface"])
def test_every_margin_can_score_in_chunks(
    faces: tuple[np.ndarray, np.ndarray], margin: str
) -> None:
    classifier = make_classifier(margin)
    whole, parts = (score_rows(classifier, *faces, classes=n) for n in (1000, 7))
    for name in whole.dtype.names:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-5, atol=1e-12)


def test_an_embedding_that_is_not_finite_has_no_score(
    faces: tuple[np.ndarray, np.ndarray],
) -> None:
    classifier = make_classifier("arcface")
    before = score_rows(classifier, *faces)
    faces[0][17, 3] = np.inf
    after = score_rows(classifier, *faces)
    assert after["predicted"][17] == NO_CLASS and np.isnan(after["max_p"][17])
    for name in SCORES.names:
        np.testing.assert_array_equal(np.delete(after[name], 17), np.delete(before[name], 17))
