"""Templates and their pairs' scores, against sums and products written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from facepack.evaluate.scores import pairs
from facepack.evaluate.scores.pairs import pair_scores
from facepack.evaluate.scores.pooling import Templates, pool_templates


def pooled_by_hand(
    embeddings: np.ndarray, templates: np.ndarray, media: np.ndarray, weights: np.ndarray
) -> tuple[list[int], np.ndarray]:
    """The definition: mean within media, sum over media, L2."""
    rows = []
    weighted = embeddings.astype(np.float64) * weights[:, None]
    for template in np.unique(templates):
        mine = templates == template
        means = [weighted[mine & (media == one)].mean(axis=0) for one in np.unique(media[mine])]
        total = np.sum(means, axis=0)
        rows.append(total / (np.linalg.norm(total) or 1))
    return np.unique(templates).tolist(), np.array(rows)


def images(n: int = 700) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return (
        rng.standard_normal((n, 33)).astype(np.float32) * 20,
        rng.integers(0, 90, n) * 3,
        rng.integers(0, 12, n),  # of other templates, too
        rng.uniform(0.2, 1, n),
    )


@pytest.mark.parametrize("block", [7, 1 << 15])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_templates_are_sums_of_means(
    block: int, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facepack.evaluate.scores.pooling._IMAGES", block)
    embeddings, templates, media, weights = images()
    embeddings = embeddings.astype(dtype)
    found = pool_templates(
        embeddings,
        template_ids=templates,
        media_ids=media,
        weights=weights,
        usable=np.ones(len(embeddings), bool),
    )
    ids, expected = pooled_by_hand(embeddings, templates, media, weights)
    assert found.ids.tolist() == ids
    np.testing.assert_allclose(found.units.numpy(), expected, atol=1e-6)
    assert not found.empty.any()


def test_images_without_an_embedding_are_not_there() -> None:
    embeddings, templates, media, weights = images()
    lost = np.random.default_rng(1).random(len(embeddings)) < 0.3
    lost |= templates == templates[5]
    embeddings[lost] = np.nan
    found = pool_templates(
        embeddings, template_ids=templates, media_ids=media, weights=weights, usable=~lost
    )
    kept = ~lost
    ids, expected = pooled_by_hand(embeddings[kept], templates[kept], media[kept], weights[kept])
    assert found.ids.tolist() == ids and templates[5] not in ids
    np.testing.assert_allclose(found.units.numpy(), expected, atol=1e-6)


def test_a_mapped_file_is_pooled_as_it_is(tmp_path: Path) -> None:
    embeddings, templates, media, weights = images()
    np.save(tmp_path / "e.npy", embeddings)
    mapped = np.load(tmp_path / "e.npy", mmap_mode="r")
    arguments = {
        "template_ids": templates,
        "media_ids": media,
        "weights": weights,
        "usable": np.ones(len(embeddings), bool),
    }
    found = pool_templates(mapped, **arguments)
    assert torch.equal(found.units, pool_templates(embeddings, **arguments).units)


def test_what_weighs_nothing_is_a_row_of_zeros() -> None:
    embeddings, templates, media, weights = images()
    weights[templates == 6] = 0
    found = pool_templates(
        embeddings,
        template_ids=templates,
        media_ids=media,
        weights=weights,
        usable=np.ones(len(embeddings), bool),
    )
    assert found.ids[found.empty].tolist() == [6]
    assert (found.units[found.empty] == 0).all()


def test_templates_are_found_by_id() -> None:
    found = Templates(np.array([3, 7, 9]), torch.zeros(3, 4))
    assert found.positions(np.array([9, 3, 0, 8, 1000])).tolist() == [2, 0, -1, -1, -1]
    nothing = Templates(np.empty(0, np.int64), torch.zeros(0, 4))
    assert nothing.positions(np.array([1, 2])).tolist() == [-1, -1]


@pytest.mark.parametrize("listed", [0, 1, 50, 4000, 60_000])
@pytest.mark.parametrize("tile", [64, 1 << 22])
def test_scores_of_a_list(listed: int, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "_TILE", tile)
    rng = np.random.default_rng(listed)
    units = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((300, 48)))).float()
    first, second = rng.integers(5, 260, (2, listed))
    expected = (units[first] * units[second]).sum(1)
    found = pair_scores(units, first, second)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=3e-7)


def test_a_score_does_not_depend_on_the_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    units = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((400, 512)))).float()
    first, second = rng.integers(0, 400, (2, 20_000))
    found = pair_scores(units, first, second)
    monkeypatch.setattr(pairs, "_TILE", 1)
    assert (pair_scores(units, first, second) == found).all()
    assert (pair_scores(units, second, first) == found).all()
