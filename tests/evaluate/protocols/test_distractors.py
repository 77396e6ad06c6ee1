"""MegaFace against loops that follow its words, and what is said where it is not whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facepack.convert.formats.benchmarks.megaface import MegaFaceSource
from facepack.convert.formats.pack.sink import PackOptions, convert_to_pack
from facepack.errors import EvaluationError
from facepack.evaluate.embedding.embed import row_norms
from facepack.evaluate.embedding.feature_files import read_features
from facepack.evaluate.protocols.distractors import FARS, MegaFace, search_among
from facepack.evaluate.results.result import Result
from facepack.evaluate.scores.intervals import NOTICE
from facepack.evaluate.sets.megaface_set import open_megaface, split_marks

MakeJpeg = Callable[..., bytes]

PERSONS, SHOTS, DISTRACTORS = 5, 4, 70


@pytest.fixture
def folder(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    """Five persons' four shots, 70 distractors; two shots and three distractors are noisy."""
    root = tmp_path / "megaface"
    probes = [f"P{p}/P{p}_{shot}.png" for p in range(PERSONS) for shot in range(SHOTS)]
    others = [f"{i % 3}/{i}@N00/{i}_0.jpg" for i in range(DISTRACTORS)]
    image = make_jpeg(0)
    for name in [f"facescrub_images/{probe}" for probe in probes] + [
        f"megaface_images/{other}" for other in others
    ]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(image)
    (root / "facescrub_lst").write_text("\n".join(probes))
    (root / "megaface_lst").write_text("\n".join(others))
    (root / "facescrub_noises.txt").write_text("# rules\nP1_0.png\nP3_2.png\n")
    (root / "megaface_noises.txt").write_text("".join(f"{other}\n" for other in others[3:6]))
    return root


def embed_names(names: list[str], spread: float = 0.9) -> np.ndarray:
    """An embedding that depends on an image's name alone: a person's centre, and something."""
    rows = []
    for name in names:
        rng = np.random.default_rng(list(name.encode()))
        rows.append(rng.standard_normal(16))
        if name.startswith("facescrub"):
            person = name.split("/")[1]
            rows[-1] *= spread
            rows[-1] += np.random.default_rng(list(person.encode())).standard_normal(16)
    return np.array(rows, np.float32) * 3


def measure(folder: Path, embeddings: np.ndarray | None = None, **options: object) -> Result:
    megaface = open_megaface(folder)
    protocol = MegaFace(megaface, target="x", **options)  # type: ignore[arg-type]
    if embeddings is None:
        embeddings = embed_names(list(megaface.names))
    return protocol.measure(embeddings, row_norms(embeddings))


def slow(probes: np.ndarray, persons: np.ndarray, distractors: np.ndarray) -> dict[str, float]:
    """Rank 1, rank 10 and TAR at 1e-4, a pair at a time."""
    ranks, mates, wrong = [], [], []
    for i, probe in enumerate(probes):
        against = [float(probe @ other) for other in distractors]
        wrong += against
        for j, mate in enumerate(probes):
            if i != j and persons[i] == persons[j]:
                mates.append(float(probe @ mate))
                ranks.append(1 + sum(score >= mates[-1] for score in against))
    wrong.sort(reverse=True)
    limit = wrong[int(1e-4 * len(wrong))]
    return {
        "rank-1": float(np.mean([rank <= 1 for rank in ranks])),
        "rank-10": float(np.mean([rank <= 10 for rank in ranks])),
        "TAR@1e-4": float(np.mean([mate > limit for mate in mates])),
    }


def unit(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def test_figures_equal_a_pair_at_a_time(folder: Path) -> None:
    megaface = open_megaface(folder)
    rows = embed_names(list(megaface.names))
    result = measure(folder, rows, keep_noisy=True)
    of = megaface.distractor
    wanted = slow(unit(rows[~of]), megaface.persons[~of], unit(rows[of]))
    assert {name: result.figures[name].value for name in wanted} == pytest.approx(wanted, abs=1e-12)
    assert 0.1 < wanted["rank-1"] < wanted["rank-10"] < 1
    for name, share in wanted.items():
        low, high = result.figures[name].interval or (1.0, 0.0)
        assert low < share < high
    assert NOTICE in result.notices
    searches = PERSONS * SHOTS * (SHOTS - 1)
    assert result.counts == {
        "probes": 20,
        "persons": 5,
        "searches": searches,
        "distractors": DISTRACTORS,
    }
    ranks = result.curves["cmc"]
    assert ranks.y[-1] == 1 and ranks.y[ranks.x <= 10][-1] == wanted["rank-10"]
    assert result.curves["roc"].y.max() <= 1 and np.all(np.diff(result.curves["roc"].x) >= 0)


def test_noisy_probes_are_replaced_and_noisy_distractors_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published script's steps, with its noise left out."""
    monkeypatch.setattr("facepack.evaluate.protocols.distractors.NOISE", 0.0)
    megaface = open_megaface(folder)
    rows = embed_names(list(megaface.names))
    features = unit(rows)
    for position, name in enumerate(megaface.names):
        if name.endswith(("P1_0.png", "P3_2.png")):
            person = name.split("/")[1]
            clean = [
                unit(rows)[other]
                for other, its in enumerate(megaface.names)
                if its.split("/")[1] == person and not its.endswith(("P1_0.png", "P3_2.png"))
            ]
            features[position] = np.sum(clean, axis=0)
    of, noisy = megaface.distractor, megaface.noisy
    wanted = slow(unit(features[~of]), megaface.persons[~of], unit(features[of & ~noisy]))
    result = measure(folder, rows)
    assert {name: result.figures[name].value for name in wanted} == pytest.approx(wanted, abs=1e-12)
    assert result.counts["distractors"] == DISTRACTORS - 3 and result.counts["probes"] == 20
    kept = measure(folder, rows, keep_noisy=True)
    assert kept.figures["rank-1"].value != result.figures["rank-1"].value


def test_noise_is_small_seeded_and_each_images_own(folder: Path, tmp_path: Path) -> None:
    written = []
    for seed in (0, 0, 1):
        kit = tmp_path / f"kit{len(written)}"
        measure(folder, seed=seed, kit=kit)
        images, rows = read_features(kit)
        rows = rows[[images.index(f"facescrub_images/P{p}") for p in ("1/P1_0.png", "3/P3_2.png")]]
        written.append(rows[:, :-1])
    np.testing.assert_array_equal(written[0], written[1])
    assert 0 < np.abs(written[0] - written[2]).max() < 2e-3
    np.testing.assert_allclose(np.linalg.norm(written[0], axis=1), 1, rtol=1e-6)


def test_a_pack_gives_what_its_folder_gives(folder: Path, tmp_path: Path) -> None:
    convert_to_pack(MegaFaceSource(folder), tmp_path / "pack", PackOptions())
    results = [measure(path, sizes=[10, 50], seed=3) for path in (folder, tmp_path / "pack")]
    assert results[0].counts == results[1].counts
    for name, figure in results[0].figures.items():
        assert figure.value == pytest.approx(results[1].figures[name].value, abs=1e-12), name
    first, second = ({pair.first for pair in result.hardest} for result in results)
    assert first == second and all(name.startswith("facescrub_images/") for name in first)


def test_blocks_and_ties(folder: Path) -> None:
    """A distractor that scores exactly as the mate beats it, in whatever block it comes."""
    rng = np.random.default_rng(1)
    probes = unit(rng.integers(-2, 3, (30, 8)) + 0.0).astype(np.float32)
    persons = np.repeat(np.arange(6), 5)
    distractors = unit(np.concatenate([rng.integers(-2, 3, (200, 8)) + 0.25, probes[::2]]))
    distractors = distractors.astype(np.float32)
    places = rng.permutation(len(distractors))
    wanted = search_among(probes, persons, distractors, places)
    for block in (64, 100, 1000):
        found = search_among(probes, persons, distractors, places, block=block, hardest=5)
        np.testing.assert_array_equal(found.searches.ranks, wanted.searches.ranks)
        np.testing.assert_array_equal(found.highest, wanted.highest)
        assert found.hardest.scores[0] == found.highest[0]
        first, second = found.hardest.first[0], places[found.hardest.second[0]]
        assert probes[first] @ distractors[second] == pytest.approx(found.highest[0], abs=1e-6)
    # Every second probe is among the distractors, so that a person's mate of it loses to its twin.
    twins = wanted.searches.mates % 2 == 0
    assert (wanted.searches.ranks[twins] > 1).all()


def test_random_subsets_lie_in_each_other_and_lists_choose_their_own(folder: Path) -> None:
    result = measure(folder, sizes=[10, 30, 1000])
    shares = [result.figures[f"rank-1 of {size}"].value for size in (10, 30, DISTRACTORS)]
    assert shares == sorted(shares, reverse=True)  # type: ignore[type-var]
    assert shares[-1] == result.figures["rank-1"].value
    others = (folder / "megaface_lst").read_text().split()
    lists = folder / "lists"
    lists.mkdir()
    for number, paths in ((1, others[:8]), (2, [*others[20:27], "9/gone.jpg"])):
        listed = json.dumps({"path": paths})
        (lists / f"megaface_features_list.json_8_{number}").write_text(listed)
    megaface = open_megaface(folder)
    rows = unit(embed_names(list(megaface.names)))
    probes, persons = rows[~megaface.distractor], megaface.persons[~megaface.distractor]
    shares = []
    for paths in (others[:8], others[20:27]):
        chosen = [megaface.names.index(f"megaface_images/{path}") for path in paths]
        shares.append(slow(probes, persons, rows[np.array(chosen)])["rank-1"])
    result = measure(folder, lists=lists, keep_noisy=True)
    figure = result.figures["rank-1 of 8"]
    assert (figure.value, figure.std) == pytest.approx((np.mean(shares), np.std(shares)))
    assert (
        "megaface_features_list.json_8_2: 1 of 8 images are missing, first 9/gone.jpg: they are "
        "left out"
    ) in result.notices


def test_what_the_kit_reads_gives_the_same_figures(folder: Path, tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    wanted = measure(folder, sizes=[10], kit=kit, algorithm="r50")
    assert (kit / "facescrub/P0/P0_0.png_r50.bin").is_file()
    images, rows = read_features(kit)
    megaface = open_megaface(folder)
    order = [images.index(name) for name in megaface.names]
    again = measure(folder, rows[order], keep_noisy=True, lists=kit / "templatelists")
    assert again.counts == wanted.counts
    for name in ("rank-1", "TAR@1e-4", "rank-1 of 10"):
        assert again.figures[name].value == pytest.approx(wanted.figures[name].value, abs=1e-12)
    assert any("3 distractors are marked" in notice for notice in again.notices)
    probes = json.loads((kit / "templatelists/facescrub_features_list.json").read_text())
    assert probes["id"][:5] == ["P0"] * 4 + ["P1"] and probes["path"][0] == "P0/P0_0.png"


def test_ordinary_embeddings_hold_no_marks() -> None:
    rows = np.ones((4, 3), np.float32)
    distractor = np.array([False, False, True, True])
    assert split_marks(rows, distractor)[1] is None
    rows[:, -1] = [0, 0, 100, 0]
    kept, removed = split_marks(rows, distractor)
    assert kept.shape == (4, 2) and removed is not None
    assert removed.tolist() == [False, False, True, False]
    rows[1, -1] = 100  # of a probe
    assert split_marks(rows, distractor)[1] is None


def test_images_without_embeddings_and_lone_persons_are_told(folder: Path) -> None:
    megaface = open_megaface(folder)
    rows = embed_names(list(megaface.names))
    lone = [name for name in megaface.names if "/P0/" in name][1:]
    for name in [*lone, megaface.names[-1]]:
        rows[megaface.names.index(name)] = np.nan
    result = measure(folder, rows)
    assert result.counts["probes"] == 17 and result.counts["distractors"] == DISTRACTORS - 4
    assert any("4 of 90 images are not finite" in notice for notice in result.notices)
    assert any(notice.startswith("1 of 5 persons have one image") for notice in result.notices)
    assert result.figures["rank-1"].value is not None


def test_a_person_all_noisy_and_no_mates_at_all(folder: Path) -> None:
    everyone = "".join(f"P1_{shot}.png\n" for shot in range(SHOTS))
    (folder / "facescrub_noises.txt").write_text(everyone)
    result = measure(folder)
    assert result.counts["persons"] == 4
    assert any("4 noisy images show persons of whom there is no" in n for n in result.notices)
    for person in range(PERSONS):
        for shot in range(1, SHOTS):
            (folder / f"facescrub_images/P{person}/P{person}_{shot}.png").unlink()
    result = measure(folder, keep_noisy=True)
    assert result.figures["rank-1"].value is None and result.figures["TAR@1e-6"].value is None
    assert any("no person has two images" in notice for notice in result.notices)
    assert any(
        "15 of 90 images of the lists are missing, first facescrub_images/P0/P0_1.png" in n
        for n in result.notices
    )


def test_without_distractors_nothing_can_be_measured(folder: Path) -> None:
    (folder / "megaface_noises.txt").write_text((folder / "megaface_lst").read_text())
    with pytest.raises(EvaluationError, match="20 probes and 0 distractors can be used"):
        measure(folder)


def test_figures_that_the_impostors_cannot_measure_are_told(folder: Path) -> None:
    result = measure(folder)
    assert FARS[0] == 1e-6
    assert any("impostors cannot measure a FAR below 7.5e-04" in n for n in result.notices)
