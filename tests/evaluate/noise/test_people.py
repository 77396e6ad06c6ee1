"""People by their embeddings, against loops over all pairs in double precision."""

from __future__ import annotations

import csv
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from facepack.evaluate.noise.people import (
    find_alike,
    find_elsewhere,
    find_mixed,
    identity_means,
)

CLASSES, EACH, FEATURES = 12, 6, 16


@pytest.fixture
def people() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings, labels and the person of each label: 7 is 2 again, and 5's second half is 1."""
    rng = np.random.default_rng(4)
    who = rng.normal(size=(CLASSES, FEATURES))
    who[7] = who[2]
    labels = np.repeat(np.arange(CLASSES), EACH)
    shown = who[labels]
    shown[5 * EACH + 3 : 6 * EACH] = who[1]
    rows = (shown + rng.normal(size=shown.shape) * 0.15) * rng.uniform(2, 9, (len(labels), 1))
    mixed = rng.permutation(len(labels))
    return rows[mixed].astype(np.float32), labels[mixed], who


def slow_means(rows: np.ndarray, labels: np.ndarray) -> dict[int, np.ndarray]:
    units = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1)[:, None]
    return {label: units[labels == label].mean(0) for label in sorted({*labels.tolist()} - {-1})}


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_likest_identities_are_those_of_all_pairs(people) -> None:
    rows, labels, _ = people
    labels[[3, 9]] = -1
    rows[11] = np.nan
    finite = np.isfinite(rows).all(1)
    means = slow_means(rows[finite], labels[finite])
    slow = sorted((-cosine(means[a], means[b]), a, b) for a, b in combinations(means, 2))
    found = find_alike(identity_means(rows, labels), 5)
    assert [pair[:2] for pair in found] == [pair[1:] for pair in slow[:5]]
    assert found[0][:2] == (2, 7)
    np.testing.assert_allclose([p.cosine for p in found], [-p[0] for p in slow[:5]], atol=1e-6)


def test_an_identity_of_two_people_comes_first_and_is_parted(people) -> None:
    rows, labels, who = people
    first, *_ = find_mixed(rows, labels, 3)
    assert first.label == 5
    parts = {tuple(sorted(part)) for part in (first.first, first.second)}
    is_one = np.array([cosine(row, who[1]) > cosine(row, who[5]) for row in rows])
    of_five = labels == 5
    assert parts == {
        tuple(np.flatnonzero(of_five & is_one)),
        tuple(np.flatnonzero(of_five & ~is_one)),
    }
    pairs = {
        same: [
            cosine(rows[a], rows[b])
            for a, b in combinations(np.flatnonzero(of_five), 2)
            if (is_one[a] == is_one[b]) == same
        ]
        for same in (True, False)
    }
    assert first.within == pytest.approx(np.mean(pairs[True]), abs=1e-6)
    assert first.between == pytest.approx(np.mean(pairs[False]), abs=1e-6)


def test_few_images_are_not_parted() -> None:
    rows = np.random.default_rng(0).normal(size=(8, 4))
    assert not find_mixed(rows, np.array([0, 0, 0, 1, 1, 1, -1, -1]), 9)


def test_people_of_another_set_find_themselves(people) -> None:
    rows, labels, who = people
    others = np.stack([who[3], -who[3], who[10] * 5])
    found = find_elsewhere(others, identity_means(rows, labels), 9)
    means = slow_means(rows, labels)
    best = [max(means, key=lambda label: cosine(other, means[label])) for other in others]
    assert {each.other: each.label for each in found} == dict(enumerate(best))
    assert {0: 3, 2: 10}.items() <= {each.other: each.label for each in found}.items()
    assert [each.cosine for each in found] == sorted((e.cosine for e in found), reverse=True)
    for each in found:
        assert each.cosine == pytest.approx(cosine(others[each.other], means[each.label]), abs=1e-6)


def test_tables_and_page_of_people(pack_path: Path, run_path: Path, run_cli, tmp_path) -> None:
    out = tmp_path / "out"
    done = run_cli(
        *("noise", pack_path, "--model", run_path, "--out", out, "--device", "cpu"),
        *("--neighbours", "--against", pack_path, "--page", tmp_path / "page.html"),
    )
    assert done.exit_code == 0, done.output
    with (out / "against.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["there"], row["label"]) for row in rows} == {(str(k), str(k)) for k in range(6)}
    assert all(float(row["cosine"]) == pytest.approx(1, abs=1e-5) for row in rows)
    assert len(json.loads((out / "alike.json").read_text())["pairs"]) == 15
    assert (out / "mixed.csv").is_file()
    page = (tmp_path / "page.html").read_text()
    assert "look like one person" in page and "who are in pack, too" in page
