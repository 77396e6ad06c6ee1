"""F2C's probes and gallery against loops, exact and by bins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from facepack.errors import EvaluationError
from facepack.evaluate.embedding.embed import row_norms
from facepack.evaluate.protocols.probe_gallery import (
    ProbeGallery,
    ScoreBins,
    find_probes_and_gallery,
)
from facepack.evaluate.scores.intervals import NOTICE
from facepack.evaluate.sets.named_images import open_named_images

MakeJpeg = Callable[..., bytes]
PERSONS, SHOTS, OTHERS = 6, 3, 40
FARS = (0.1, 0.03, 0.01)


@pytest.fixture(autouse=True)
def larger_fars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facepack.evaluate.protocols.probe_gallery.FARS", FARS)


@pytest.fixture
def folder(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    """Six persons' three probes, which are in the gallery too beside one more; forty others."""
    names = [f"probe/P{p}/{k}.jpg" for p in range(PERSONS) for k in range(SHOTS)]
    names += [f"gallery/P{p}/{k}.jpg" for p in range(PERSONS) for k in range(SHOTS + 1)]
    names += [f"gallery/my_distractors/{i % 3}/{i}.jpg" for i in range(OTHERS)]
    for name in names:
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(make_jpeg(0))
    return tmp_path / "set"


def open_set(folder: Path, **options: bool) -> ProbeGallery:
    found = find_probes_and_gallery(open_named_images(folder), "probe", "gallery")
    return ProbeGallery(found, target="x", **options)


def embed(protocol: ProbeGallery) -> np.ndarray:
    """The same for a probe and its twin in the gallery."""
    rows = []
    for i in range(len(protocol.faces)):
        part, person, rest = protocol.faces.key(i).split("/", 2)
        rows.append(np.random.default_rng(list(f"{person}/{rest}".encode())).standard_normal(8))
        if person.startswith("P"):
            rows[-1] += np.random.default_rng(list(person.encode())).standard_normal(8)
        assert part in ("probe", "gallery")
    return np.array(rows, np.float32)


def slow(protocol: ProbeGallery, rows: np.ndarray) -> tuple[list[float], list[float]]:
    """Scores of mates, a probe's own image left out, and of impostors; a pair at a time."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    keys = [protocol.faces.key(i).split("/", 2) for i in range(len(rows))]
    mates, wrong = [], []
    for i, (part, person, shot) in enumerate(keys):
        for j, (other, its, its_shot) in enumerate(keys):
            if part == "probe" and other == "gallery":
                if person != its:
                    wrong.append(float(unit[i] @ unit[j]))
                elif shot != its_shot:
                    mates.append(float(unit[i] @ unit[j]))
    return mates, sorted(wrong, reverse=True)


def test_tar_equals_a_pair_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = open_set(folder, flip=False)
    rows = embed(protocol)
    result = protocol.measure(rows, row_norms(rows))
    mates, wrong = slow(protocol, rows)
    assert result.counts == {
        "probes": 18,
        "gallery": 64,
        "mates": len(mates),
        "impostors": len(wrong),
    }
    shown = [figure.value for figure in result.figures.values()]
    wanted = [np.mean([m > wrong[int(far * len(wrong))] for m in mates]) for far in FARS]
    assert shown == pytest.approx(wanted, abs=1e-12) and 0 < shown[-1] < shown[0] < 1
    assert protocol.flip is False and result.notices == (NOTICE,)
    low, high = next(iter(result.figures.values())).interval or (1.0, 0.0)
    assert low < shown[0] < high
    monkeypatch.setattr("facepack.evaluate.protocols.probe_gallery._BLOCK", 7)
    again = protocol.measure(rows, row_norms(rows))
    assert again.figures == result.figures and again.counts == result.counts


def test_published_bins_take_own_images_out_of_the_last(folder: Path) -> None:
    protocol = open_set(folder, published=True)
    rows = embed(protocol)
    result = protocol.measure(rows, row_norms(rows))
    for far in FARS:
        name = f"TAR@{far:.0e}".replace("e-0", "e-")
        exact, binned = result.figures[name].value, result.figures[f"{name} (F2C)"].value
        assert exact is not None and binned == pytest.approx(exact, abs=0.05)
    assert result.notices == (NOTICE,)
    (folder / "gallery/P0/0.jpg").rename(folder / "gallery/P0/other.jpg")
    protocol = open_set(folder, published=True)
    rows = embed(protocol)
    result = protocol.measure(rows, row_norms(rows))
    assert result.notices[0].startswith("1 of 18 probes are not in the gallery themselves")


def test_bins_count_each_score_once_and_none_outside() -> None:
    bins = ScoreBins()
    bins.add(torch.tensor([-1.0, -1.0001, 0.0, 0.99999, 1.0, 1.00001, -torch.inf]))
    assert bins.counts.sum() == 5 and bins.counts[0] == 1 and bins.counts[5000 - 1] == 1
    assert bins.counts[-1] == 3  # 1 and what rounding takes above it
    scores = torch.linspace(-0.9995, 0.9995, 2000, dtype=torch.float32)
    bins = ScoreBins()
    bins.add(scores)
    wanted = np.histogram(scores.numpy().astype(float), 10_000, (-1, 1 + 1e-5))[0]
    assert np.abs(bins.counts.cumsum() - wanted.cumsum()).max() <= 1


def test_what_is_missing_is_told(folder: Path) -> None:
    protocol = open_set(folder)
    rows = embed(protocol)
    keys = [protocol.faces.key(i) for i in range(len(rows))]
    rows[keys.index("probe/P0/0.jpg")] = np.nan
    result = protocol.measure(rows, row_norms(rows))
    assert result.counts["probes"] == 17 and "1 of 82 images are not finite" in result.notices[0]
    with pytest.raises(EvaluationError, match="0 probes and 0 gallery images have embeddings"):
        protocol.measure(np.full_like(rows, np.nan), np.full(len(rows), np.nan))
    with pytest.raises(EvaluationError, match=r"no images in a folder 'probes': .* with --probe"):
        find_probes_and_gallery(open_named_images(folder), "probes", "gallery")
    for person in range(PERSONS):
        (folder / f"gallery/P{person}").rename(folder / f"gallery/distractor{person}")
    protocol = open_set(folder, published=True)
    rows = np.random.default_rng(0).standard_normal((len(protocol.faces), 8)).astype(np.float32)
    result = protocol.measure(rows, row_norms(rows))
    assert all(figure.value is None for figure in result.figures.values())
    assert "0 pairs of one person and 1,152 of two: TAR is undefined" in result.notices
