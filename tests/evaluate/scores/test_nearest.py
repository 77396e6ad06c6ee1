"""Rank 1 within one set: equal to one image at a time, with ties and images of nobody."""

from __future__ import annotations

import numpy as np
import pytest

from facepack.evaluate.scores.matching import Matching
from facepack.evaluate.scores.nearest import NearestImages


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block", [64, 128])
def test_rank_1_equals_one_image_at_a_time(seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 40, 300)
    centres = rng.normal(0, 1, (41, 16))
    rows = (centres[labels] + rng.normal(0, 1.2, (300, 16))).astype(np.float32)
    rows[::7] = rows[1::7][: len(rows[::7])]  # equal rows of different people: ties
    matching = Matching.all_to_all(rows, labels, block=block)
    nearest = NearestImages(matching)
    matching.scan([nearest])
    hits, whose = nearest.found()
    units = matching.first.units.numpy()
    scores = (matching.first.units @ matching.first.units.T).numpy()
    ordered = matching.first.labels
    slow = []
    for i in range(300):
        same = np.flatnonzero((ordered == ordered[i]) & (np.arange(300) != i) & (ordered >= 0))
        if len(same):
            other = np.flatnonzero((ordered != ordered[i]) | (ordered < 0))
            other = other[other != i]
            slow.append((scores[i, same].max() > scores[i, other].max(), ordered[i]))
    assert len(units) % 64 == 0 and 0 < hits.mean() < 1
    assert list(zip(hits.tolist(), whose.tolist(), strict=True)) == [
        (bool(hit), int(label)) for hit, label in slow
    ]


def test_it_is_of_one_set() -> None:
    rows = np.eye(4, dtype=np.float32)
    with pytest.raises(ValueError, match="within one set"):
        NearestImages(Matching.between(rows, np.arange(4), rows, np.arange(4)))
