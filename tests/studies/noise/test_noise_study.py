"""Planted noise is where the truth says, and the figures are those of counting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import facepack
from facepack.convert.faces.draw import render_faces
from studies.noise.__main__ import area
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
