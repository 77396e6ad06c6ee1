"""TinyFace: ranks against loops, and the lists in all their forms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from facepack.errors import EvaluationError
from facepack.evaluate.embedding.embed import row_norms
from facepack.evaluate.protocols.closed_set import TinyFace
from facepack.evaluate.scores.intervals import NOTICE
from facepack.evaluate.sets.named_images import open_named_images
from facepack.evaluate.sets.tinyface_set import open_tinyface

MakeJpeg = Callable[..., bytes]
PEOPLE, DISTRACTORS = 12, 30


@pytest.fixture
def folder(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    """Two probes and two mates of each of twelve people, and thirty distractors."""
    root = tmp_path / "tinyface/Testing_Set"
    names = [f"Probe/{p}_{k}.jpg" for p in range(PEOPLE) for k in (1, 2)]
    names += [f"Gallery_Match/{p}_{k}.jpg" for p in range(PEOPLE) for k in (3, 4)]
    names += [f"Gallery_Distractor/part/{i}.jpg" for i in range(DISTRACTORS)]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(make_jpeg(0))
    return tmp_path / "tinyface"


def open_set(folder: Path, lists: Path | None = None) -> TinyFace:
    return TinyFace(open_tinyface(open_named_images(folder), lists), target="x")


def embed(protocol: TinyFace) -> np.ndarray:
    """By key: people's centres, and something of each image's own."""
    rows = []
    for i in range(len(protocol.faces)):
        key = protocol.faces.key(i)
        rows.append(np.random.default_rng(list(key.encode())).standard_normal(8))
        if "Distractor" not in key:
            person = int(Path(key).name.split("_")[0])
            rows[-1] += np.random.default_rng(person).standard_normal(8)
    return np.array(rows, np.float32)


def slow(protocol: TinyFace, rows: np.ndarray) -> dict[str, float]:
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1)[:, None]
    keys = [protocol.faces.key(i) for i in range(len(rows))]
    person = [None if "Distr" in key else Path(key).name.split("_")[0] for key in keys]
    gallery = [i for i, key in enumerate(keys) if "/Gallery_" in key]
    ranks = []
    for i in (i for i, key in enumerate(keys) if "/Probe/" in key):
        ordered = sorted(gallery, key=lambda j: -unit[i] @ unit[j])
        ranks.append(next(k for k, j in enumerate(ordered, 1) if person[j] == person[i]))
    # A mate that comes behind another mate has that many wrong entries fewer before it; the first
    # mate has only wrong ones before it.
    return {f"rank-{k}": float(np.mean(np.array(ranks) <= k)) for k in (1, 5, 20)}


def test_ranks_equal_sorting_each_probes_gallery(folder: Path) -> None:
    protocol = open_set(folder)
    rows = embed(protocol)
    result = protocol.measure(rows, row_norms(rows))
    wanted = slow(protocol, rows)
    assert {name: figure.value for name, figure in result.figures.items()} == wanted
    assert 0 < wanted["rank-1"] < wanted["rank-5"] < wanted["rank-20"] <= 1
    assert result.counts == {
        "probes": 24,
        "mates": 24,
        "distractors": DISTRACTORS,
        "identities": PEOPLE,
    }
    assert result.notices == (NOTICE,) and result.curves["cmc"].y[-1] == 1
    low, high = result.figures["rank-1"].interval or (1.0, 0.0)
    assert low < result.figures["rank-1"].value < high
    hardest = result.hardest[0]
    assert hardest.kind == "false accept" and "/Probe/" in hardest.first
    assert "/Gallery_" in hardest.second


def write_lists(folder: Path, names: dict[str, list[str]]) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    for kind, field in (("probe", "probe"), ("gallery_match", "gallery")):
        cells = np.empty((len(names[field]), 1), object)
        cells[:, 0] = names[field]
        ids = np.array([[int(name.split("_")[0])] for name in names[field]], np.uint16)
        content = {f"{field}_set": cells, f"{field}_ids": ids}
        savemat(folder / f"{kind}_img_ID_pairs.mat", content)


def stub_lists(monkeypatch: pytest.MonkeyPatch, folder: Path, names: dict[str, list[str]]) -> None:
    """Lists as :func:`read_matlab` gives them, whose own reading has its own tests."""
    content = {}
    for kind, field in (("probe", "probe"), ("gallery_match", "gallery")):
        file = folder / f"{kind}_img_ID_pairs.mat"
        file.write_bytes(b"")
        ids = np.array([[int(name.split("_")[0])] for name in names[field]], np.uint16)
        content[file] = {f"{field}_set": names[field], f"{field}_ids": ids}
    monkeypatch.setattr("facepack.evaluate.sets.tinyface_set.read_matlab", content.__getitem__)


NAMES = {
    "probe": [f"{p}_{k}.jpg" for p in range(PEOPLE) for k in (1, 2)],
    "gallery": [f"{p}_{k}.jpg" for p in range(PEOPLE) for k in (3, 4)],
}


def test_matlabs_lists_say_the_same(folder: Path) -> None:
    protocol = open_set(folder)
    rows = embed(protocol)
    wanted = protocol.measure(rows, row_norms(rows))
    write_lists(folder / "Testing_Set", NAMES)
    listed = open_set(folder)
    rows = embed(listed)
    assert listed.measure(rows, row_norms(rows)).figures == wanted.figures


def test_lists_choose_images_and_tell_identities(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = folder / "lists"
    lists.mkdir()
    some = {"probe": [*NAMES["probe"][:6], "99_9.jpg"], "gallery": NAMES["gallery"][:4]}
    stub_lists(monkeypatch, lists, some)
    protocol = open_set(folder, lists)
    rows = embed(protocol)
    result = protocol.measure(rows, row_norms(rows))
    assert result.counts == {
        "probes": 6,
        "mates": 4,
        "distractors": DISTRACTORS,
        "identities": 3,
    }
    assert result.notices[0].startswith("1 of 7 images of Probe are missing, first Probe/99_9.jpg")
    assert result.notices[1].startswith("2 of 6 probes have no mate in the gallery")


def test_cvlfaces_metadata_say_the_same(folder: Path, tmp_path: Path) -> None:
    protocol = open_set(folder)
    rows = embed(protocol)
    wanted = protocol.measure(rows, row_norms(rows))
    metadata = {
        "image_paths": [],
        "probe_paths": [f"/data/aligned/Probe/{name}" for name in NAMES["probe"]],
        "gallery_paths": [f"/data/aligned/Gallery_Match/{name}" for name in NAMES["gallery"]],
        "distractor_paths": [f"Gallery_Distractor/{i}.png" for i in range(DISTRACTORS)],
    }
    torch.save(metadata, tmp_path / "metadata.pt")
    for lists in (tmp_path, tmp_path / "metadata.pt"):
        listed = open_set(folder, lists)
        rows = embed(listed)
        result = listed.measure(rows, row_norms(rows))
        assert result.figures == wanted.figures and result.notices == (NOTICE,)
    torch.save({"probe_paths": []}, tmp_path / "metadata.pt")
    with pytest.raises(EvaluationError, match=r"holds no lists probe_paths.*KeyError"):
        open_set(folder, tmp_path)


def test_what_is_missing_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"holds neither metadata\.pt nor probe_img_ID"):
        open_set(folder, tmp_path)
    for file in (folder / "Testing_Set/Gallery_Distractor").rglob("*.jpg"):
        file.unlink()
    protocol = open_set(folder)
    rows = embed(protocol)
    rows[0] = np.nan
    result = protocol.measure(rows, row_norms(rows))
    assert "there are no distractors" in result.notices[0]
    assert "1 of 48 images are not finite" in result.notices[1]
    assert result.figures["rank-1"].value is not None
    with pytest.raises(EvaluationError, match="0 probes and 0 gallery images have"):
        protocol.measure(np.full_like(rows, np.nan), np.full(len(rows), np.nan))
    for file in (folder / "Testing_Set/Probe").rglob("*.jpg"):
        file.unlink()
    with pytest.raises(EvaluationError, match="there are no images of Probe"):
        open_set(folder)
