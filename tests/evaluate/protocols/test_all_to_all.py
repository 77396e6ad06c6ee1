"""MFR's tracks against loops, by group and across groups."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from facepack.errors import EvaluationError
from facepack.evaluate.embedding.embed import row_norms
from facepack.evaluate.faces.faces import EncodedFaces
from facepack.evaluate.protocols.all_to_all import AllToAll, Identities
from facepack.evaluate.results.result import Result
from facepack.evaluate.sets.groups import Groups

N = 120
LABELS = np.arange(N) // 4
RACES = Groups(["a", "b", "c"], LABELS % 3)
MASKS = Groups(["mask", "none"], np.arange(N) % 2)


def embeddings() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((N // 4, 6))[LABELS] * 1.2 + rng.standard_normal((N, 6))).astype(
        np.float32
    )


def measure(
    track: str, groups: Groups | None, rows: np.ndarray, labels: np.ndarray = LABELS
) -> Result:
    faces = EncodedFaces("x", np.zeros((len(rows), 1, 1, 3), np.uint8), list(map(str, range(N))))
    protocol = AllToAll("x", faces, labels, track=track, groups=groups, fars=(1e-2, 0.1))
    return protocol.measure(rows, row_norms(rows))


def slow(rows: np.ndarray, pairs: list[tuple[int, int]], far: float) -> float:
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1)[:, None]
    mates = [unit[i] @ unit[j] for i, j in pairs if LABELS[i] == LABELS[j]]
    wrong = sorted((unit[i] @ unit[j] for i, j in pairs if LABELS[i] != LABELS[j]), reverse=True)
    limit = wrong[int(far * len(wrong))]
    return float(np.mean([score > limit for score in mates]))


def test_all_pairs_and_the_pairs_within_each_group() -> None:
    rows = embeddings()
    result = measure("multiracial", RACES, rows)
    pairs = list(combinations(range(N), 2))
    for far in (0.01, 0.1):
        name = f"TAR@{far:.0e}".replace("e-0", "e-")
        assert result.figures[name].value == pytest.approx(slow(rows, pairs, far), abs=1e-12)
        for number, group in enumerate(RACES.names):
            within = [(i, j) for i, j in pairs if RACES.of[i] == RACES.of[j] == number]
            value = result.groups[group][name].value
            assert value == pytest.approx(slow(rows, within, far), abs=1e-12)
    figure = result.figures["TAR@1e-2"]
    assert figure.interval is not None and figure.interval[0] < figure.value < figure.interval[1]
    assert result.gaps["TAR@1e-2"] > 0
    assert result.counts["mates"] == 30 * 6 and result.counts["identities"] == 30
    assert {pair.kind for pair in result.hardest} == {"false accept", "false reject"}
    first = result.hardest[0]
    assert LABELS[int(first.first)] != LABELS[int(first.second)]


def test_the_mask_track_takes_pairs_across_two_groups() -> None:
    rows = embeddings()
    result = measure("mask", MASKS, rows)
    pairs = [(i, j) for i in range(0, N, 2) for j in range(1, N, 2)]
    assert result.figures["TAR@1e-2"].value == pytest.approx(slow(rows, pairs, 0.01), abs=1e-12)
    assert result.counts["mates"] + result.counts["impostors"] == len(pairs)
    assert not result.groups
    assert all(int(pair.first) % 2 != int(pair.second) % 2 for pair in result.hardest)
    for groups in (None, RACES):
        with pytest.raises(EvaluationError, match="compares the images of two groups"):
            measure("mask", groups, rows)


def test_the_tracks_have_their_own_far() -> None:
    faces = EncodedFaces("x", np.zeros((N, 1, 1, 3), np.uint8), list(map(str, range(N))))
    rows = embeddings()
    shown = {}
    for track in ("multiracial", "children", "mask"):
        protocol = AllToAll("x", faces, LABELS, track=track, groups=MASKS)
        shown[track] = list(protocol.measure(rows, row_norms(rows)).figures)
    assert shown == {"multiracial": ["TAR@1e-6"], "children": ["TAR@1e-4"], "mask": ["TAR@1e-4"]}


def test_what_is_missing_is_told() -> None:
    rows = embeddings()
    rows[:8] = np.nan
    of = np.where(LABELS < 4, -1, LABELS % 2)
    of[of == 1] = np.where(np.flatnonzero(of == 1) < 24, 1, 0)  # the second group is one person
    result = measure("multiracial", Groups(["most", "one", "empty"], of, ["Zoe"]), rows)
    told = "\n".join(result.notices)
    assert "8 of 120 images are not finite" in told
    assert "1 names in the table of groups are of no image or identity here, first Zoe" in told
    assert "16 of 120 images are in no group: they are counted among all alone" in told
    assert "one: 6 pairs of one identity and 0 of two: TAR is undefined" in told
    assert "empty: 0 pairs of one identity and 0 of two" in told
    assert result.groups["one"]["TAR@1e-2"].value is None
    assert result.groups["empty"]["TAR@1e-2"].value is None
    assert result.figures["TAR@1e-2"].value is not None
    alone = measure("children", None, embeddings(), labels=np.arange(N))
    assert alone.figures["TAR@1e-2"].value is None
    assert "0 pairs of one identity and 7,140 of two" in "\n".join(alone.notices)


def test_images_of_ones_own_are_verified_at_many_fars_and_ranked() -> None:
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(-1, 29), 8)
    rows = (rng.normal(size=(30, 12))[labels] + rng.normal(0, 1.5, (240, 12))).astype(np.float32)
    keys = [f"{i}" for i in range(240)]
    groups = Groups(["even", "odd"], labels % 2)
    protocol = Identities("own", EncodedFaces("own", keys, keys), labels, groups=groups)
    result = protocol.measure(rows, np.linalg.norm(rows.astype(np.float64), axis=1))

    def slow(of: np.ndarray) -> dict[str, float]:
        unit = rows[of] / np.linalg.norm(rows[of], axis=1, keepdims=True)
        scores, known = unit @ unit.T, labels[of]
        same = (known[:, None] == known) & (known >= 0)
        upper = np.triu(np.ones_like(same), 1)
        mates, wrong = scores[same & upper], np.sort(scores[~same & upper])[::-1]
        figures = {
            f"TAR@{name}": float(np.mean(mates > wrong[int(float(name) * len(wrong))]))
            for name in ("1e-3", "1e-2")
        }
        np.fill_diagonal(same, False)
        best = np.where(same, scores, -2).max(axis=1)
        np.fill_diagonal(same, True)
        nobody = np.eye(len(known), dtype=bool)
        hit = best > np.where(same | nobody, -2, scores).max(axis=1)
        return {**figures, "rank-1": float(hit[known >= 0].mean())}

    assert (result.protocol, result.variant) == ("identities", "exact")
    assert list(result.figures) == [*(f"TAR@1e-{n}" for n in (6, 5, 4, 3, 2)), "rank-1"]
    for found, of in (
        (result.figures, np.arange(240)),
        (result.groups["even"], np.flatnonzero(labels % 2 == 0)),
        (result.groups["odd"], np.flatnonzero(labels % 2 == 1)),
    ):
        for name, value in slow(of).items():
            assert found[name].value == pytest.approx(value), name
            assert found[name].interval is not None
    assert "rank-1" in result.gaps and any("cannot measure" in each for each in result.notices)


@pytest.mark.parametrize("labels", [np.zeros(6, int), np.arange(6)])
def test_one_person_or_none_twice_leave_all_undefined(labels: np.ndarray) -> None:
    rows = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    keys = [f"{i}" for i in range(6)]
    protocol = Identities("own", EncodedFaces("own", keys, keys), labels)
    result = protocol.measure(rows, np.linalg.norm(rows, axis=1))
    assert {figure.value for figure in result.figures.values()} == {None}
    assert any("undefined" in notice for notice in result.notices)
