"""Both ways of counting wrong entries above mates, against a count of each pair."""

from __future__ import annotations

import numpy as np
import pytest

from facepack.evaluate.scores.identification import Identification
from facepack.evaluate.scores.matching import Matching


@pytest.mark.parametrize("few", [-1.0, 0.3, 2.0])  # sort all rows; either way; none
@pytest.mark.parametrize("spread", [0.3, 5.0])
def test_counts_equal_those_of_each_pair(
    few: float, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facepack.evaluate.scores.wrong_above._FEW", few)
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(30), rng.integers(1, 9, 30))
    centres = rng.integers(-2, 3, (30, 6))
    # Small whole numbers: many scores are equal.
    probes = (centres[labels] + rng.integers(-1, 2, (len(labels), 6)) * spread).astype(np.float32)
    others = rng.integers(-2, 3, (300, 6)).astype(np.float32)
    probes[np.abs(probes).sum(1) == 0] = 1
    matching = Matching.with_distractors(probes, labels, others, block=64)
    identification = Identification(matching, each_mate=True)
    matching.scan(identification.collectors)
    found = identification.searches()
    units, wrong = matching.first.units, matching.second.units
    scores = np.full((len(probes), 300), -np.inf, np.float32)
    scores[matching.first.order] = (units @ wrong.T).numpy()[: len(probes), :300]
    wanted = [
        1 + int((scores[probe] >= score).sum())
        for probe, score in zip(found.probes, found.scores, strict=True)
    ]
    assert found.ranks.tolist() == wanted and max(wanted) > 3


def test_mates_wider_than_a_tile_are_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facepack.evaluate.scores.wrong_above._FEW", -1.0)
    rng = np.random.default_rng(1)
    probes, others = rng.standard_normal((150, 4)), rng.standard_normal((20, 4))
    matching = Matching.with_distractors(probes, np.zeros(150, int), others, block=64)
    identification = Identification(matching, each_mate=True)
    matching.scan(identification.collectors)
    found = identification.searches()
    assert len(found.ranks) == 150 * 149
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (probes, others)]
    scores = unit[0] @ unit[1].T
    for row in range(0, len(found.ranks), 997):
        above = scores[found.probes[row]] >= found.scores[row]
        assert abs(int(found.ranks[row]) - 1 - int(above.sum())) <= 1  # of rounding
