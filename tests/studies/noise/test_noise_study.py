"""Planted noise is where the truth says, and the figures are those of counting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import facepack
from facepack.convert.faces.draw import render_faces
from studies.noise.__main__ import Truth, area, average_precision, precision, share
from studies.noise.plant import plant, read_truth
from tests.evaluate.conftest import make_jpeg


def test_noise_is_planted_where_the_truth_says(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(20), 6)
    faces = render_faces(1, labels, np.arange(len(labels)))
    with facepack.PackWriter(tmp_path / "pack", classes=20) as writer:
        for face, label in zip(faces, labels.tolist(), strict=True):
            writer.add(make_jpeg(face), label=label)
    plant(tmp_path / "pack", tmp_path / "out", permuted=0.1, outside=0.1)
    truth = read_truth(tmp_path / "out", 120)
    with facepack.open(tmp_path / "pack") as before, facepack.open(tmp_path / "out/pack") as after:
        of_image = {bytes(record.image): record.label for record in before}
        own = np.array([of_image[bytes(record.image)] for record in after])
        assert after.classes == 18 and len(after) == 120
        np.testing.assert_array_equal(truth == 2, own >= 18)
        np.testing.assert_array_equal(truth == 1, (own < 18) & (own != after.labels))
    assert (truth == 2).sum() == 12 and 8 <= (truth == 1).sum() <= 11


def test_the_area_counts_pairs() -> None:
    low, high = np.array([0.1, 0.5, 0.7]), np.array([0.5, 0.6])
    slow = np.mean([(a < b) + (a == b) / 2 for a in low for b in high])
    assert area(low, high) == pytest.approx(slow)


def test_the_average_precision_is_that_over_all_thresholds() -> None:
    rng = np.random.default_rng(0)
    values, wanted = rng.integers(0, 12, 60) / 4, rng.random(60) < 0.3
    slow, recall = 0.0, 0.0
    for threshold in sorted(set(values), reverse=True):
        found = values >= threshold
        gained = wanted[found].sum() / wanted.sum()
        slow += (gained - recall) * wanted[found].mean()
        recall = gained
    assert average_precision(values, wanted) == pytest.approx(slow)
    assert average_precision(np.zeros(60), wanted) == pytest.approx(wanted.mean())
    assert average_precision(wanted * 1.0, wanted) == 1
    assert np.isnan(average_precision(values, np.zeros(60, bool)))


def test_precision_and_recall_count_and_are_undefined_of_nothing() -> None:
    found, wanted = np.array([1, 1, 1, 0], bool), np.array([1, 0, 0, 1], bool)
    assert (precision(found, wanted), share(found, wanted)) == (pytest.approx(1 / 3), 0.5)
    none = np.zeros(4, bool)
    assert np.isnan(precision(none, wanted)) and np.isnan(share(found, none))


def test_images_are_parted_by_the_size_of_their_identity() -> None:
    labels = np.repeat([0, 1, 2], [3, 9, 20])
    parts = Truth(labels=labels, kinds=np.zeros(32, np.int64)).by_size()
    assert [(name, np.flatnonzero(some).tolist()) for name, some in parts] == [
        ("all", list(range(32))),
        ("2–4", [0, 1, 2]),
        ("9–15", list(range(3, 12))),
        ("16 and more", list(range(12, 32))),
    ]
