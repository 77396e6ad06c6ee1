"""IJB-B and IJB-C, against the protocol written out pair by pair and probe by probe."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from facepack.convert.formats.benchmarks.ijb import IjbSource
from facepack.convert.formats.pack.sink import PackOptions, convert_to_pack
from facepack.convert.formats.tree.align import TEMPLATE
from facepack.errors import EvaluationError, PackError
from facepack.evaluate.protocols.template_verification import FARS
from facepack.evaluate.protocols.templates import IjbProtocol
from facepack.evaluate.registry import find_target
from facepack.evaluate.results.result import Result
from facepack.evaluate.run import evaluate
from facepack.evaluate.sets.ijb_set import IjbSet, open_ijb

EncodeJpeg = Callable[[np.ndarray], bytes]

PEOPLE, TEMPLATES, IMAGES = 24, 5, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 people, 5 templates each, of 4 images in 2 media; the last 6 people are in no gallery."""
    from PIL import Image

    root = tmp_path_factory.mktemp("ijb") / "IJBC"
    (root / "loose_crop").mkdir(parents=True)
    (root / "meta").mkdir()
    rng = np.random.default_rng(0)
    points, media = [], []
    all_images = itertools.product(range(PEOPLE), range(TEMPLATES), range(IMAGES))
    for number, (person, template, shot) in enumerate(all_images, start=1):
        pattern = np.random.default_rng(person).integers(70, 186, (4, 4, 3))
        noise = rng.integers(-60, 61, (4, 4, 3))
        pixels = (pattern + noise).astype(np.uint8).repeat(35, axis=0).repeat(40, axis=1)
        Image.fromarray(pixels).save(root / "loose_crop" / f"{number}.png")
        landmarks = " ".join(f"{x:.3f}" for x in (TEMPLATE * 1.2 + rng.normal(0, 1)).reshape(-1))
        points.append(f"{number}.png {landmarks} {rng.uniform(0.3, 1):.4f}\n")
        media.append(f"{number}.png {id_of(person, template)} {shot // 2}\n")
    (root / "meta/ijbc_name_5pts_score.txt").write_text("".join(points))
    (root / "meta/ijbc_face_tid_mid.txt").write_text("".join(media))
    ids = [(p, id_of(p, t)) for p in range(PEOPLE) for t in range(TEMPLATES)]
    pairs = [f"{a} {b} {int(p == q)}\n" for (p, a), (q, b) in itertools.combinations(ids, 2)]
    (root / "meta/ijbc_template_pair_label.txt").write_text("".join(pairs))
    for name, people, templates in (
        ("gallery_G1", range(9), [0]),
        ("gallery_G2", range(9, 18), [0]),
        ("probe_mixed", range(PEOPLE), [1, 2, 3]),
    ):
        rows = [f"{id_of(p, t)},{p},x.png\n" for p in people for t in templates for _ in range(2)]
        (root / f"meta/ijbc_1N_{name}.csv").write_text("TEMPLATE,SUBJECT,FILE\n" + "".join(rows))
    return root


def id_of(person: int, template: int) -> int:
    return 10 + person * 7 + template


@pytest.fixture(scope="module")
def ijb(folder: Path) -> IjbSet:
    return open_ijb(folder, "ijbc")


def drawn(ijb: IjbSet, spread: float = 2.5) -> np.ndarray:
    """Embeddings of any lengths around a centre for each person."""
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((PEOPLE, 16))
    people = (ijb.template_ids - 10) // 7
    raw = centres[people] + spread * rng.standard_normal((len(people), 16))
    return (raw * rng.uniform(1, 20, (len(people), 1))).astype(np.float32)


def measure(ijb: IjbSet, embeddings: np.ndarray, **options: object) -> Result:
    norms = np.linalg.norm(embeddings.astype(np.float64), axis=1)
    norms[~np.isfinite(norms)] = np.nan
    return IjbProtocol(ijb, **options).measure(embeddings, norms)  # type: ignore[arg-type]


def pooled(
    ijb: IjbSet, embeddings: np.ndarray, *, detector: bool, norm: bool
) -> dict[int, np.ndarray]:
    rows = embeddings.astype(np.float64)
    if not norm:
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    if detector:
        rows = rows * ijb.scores[:, None]
    templates = {}
    for template in np.unique(ijb.template_ids):
        of = ijb.template_ids == template
        means = [rows[of & (ijb.media_ids == m)].mean(axis=0) for m in np.unique(ijb.media_ids[of])]
        total = np.sum(means, axis=0)
        templates[int(template)] = total / np.linalg.norm(total)
    return templates


@pytest.mark.parametrize("detector", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_figures_are_those_of_the_protocol_written_out(
    ijb: IjbSet, detector: bool, norm: bool
) -> None:
    embeddings = drawn(ijb)
    found = measure(ijb, embeddings, detector=detector, norm=norm)
    templates = pooled(ijb, embeddings, detector=detector, norm=norm)
    assert ijb.pairs is not None
    scores = np.array([templates[a] @ templates[b] for a, b, _ in ijb.pairs.tolist()])
    same = ijb.pairs[:, 2] == 1
    for far in FARS:
        best = max(
            (np.mean(scores[same] >= t) for t in scores if np.mean(scores[~same] >= t) <= far),
            default=0,
        )
        assert found.figures[f"TAR@1e-{round(-np.log10(far))}"].value == best
    tpir: dict[float, list[float]] = {0.01: [], 0.1: []}
    ranks = []
    for name, gallery in ijb.galleries.items():
        mated, unmated = [], []
        for probe, subject in ijb.probes.tolist():
            against = {s: templates[probe] @ templates[t] for t, s in gallery.tolist()}
            wrong = [score for s, score in against.items() if s != subject]
            if subject in against:
                rank = 1 + sum(score >= against[subject] for score in wrong)
                mated.append((rank, against[subject]))
            else:
                unmated.append(max(wrong))
        for fpir, shares in tpir.items():
            limit = sorted(unmated)[::-1][max(int(len(unmated) * fpir) - 1, 0)]
            shares.append(np.mean([rank == 1 and score > limit for rank, score in mated]))
            assert found.groups[name][f"TPIR@{fpir:g}"].value == shares[-1]
        assert found.groups[name]["rank-5"].value == np.mean([rank <= 5 for rank, _ in mated])
        ranks += [rank for rank, _ in mated]
    for fpir, shares in tpir.items():
        assert found.figures[f"TPIR@{fpir:g}"].value == pytest.approx(np.mean(shares))
    for k in (1, 5, 10):
        assert found.figures[f"rank-{k}"].value == np.mean([rank <= k for rank in ranks])
    assert found.counts == {
        "images": PEOPLE * TEMPLATES * IMAGES,
        "templates": PEOPLE * TEMPLATES,
        "pairs": len(same),
        "probes": PEOPLE * 3,
    }
    for figure in found.figures.values():
        assert figure.interval is not None and figure.value is not None
        assert figure.interval[0] <= figure.value <= figure.interval[1]


def test_variants_are_called_by_name(ijb: IjbSet) -> None:
    embeddings = drawn(ijb)
    assert measure(ijb, embeddings).variant == "exact"
    assert measure(ijb, embeddings, roc="published", norm=False).variant == "published N0"
    assert IjbProtocol(ijb, flip=False).flip is False


def test_published_takes_the_nearest_point(ijb: IjbSet) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    embeddings = drawn(ijb)
    found = measure(ijb, embeddings, roc="published")
    templates = pooled(ijb, embeddings, detector=True, norm=True)
    assert ijb.pairs is not None
    scores = [templates[a] @ templates[b] for a, b, _ in ijb.pairs.tolist()]
    far, tar, _ = metrics.roc_curve(ijb.pairs[:, 2], scores)
    for wanted in FARS:
        place = int(np.argmin(np.abs(np.flip(far) - wanted)))
        name = f"TAR@1e-{round(-np.log10(wanted))}"
        assert found.figures[name].value == pytest.approx(np.flip(tar)[place])


def test_the_hardest_pairs_are_named_by_an_image_of_each_template(ijb: IjbSet) -> None:
    embeddings = drawn(ijb)
    found = measure(ijb, embeddings)
    templates = pooled(ijb, embeddings, detector=True, norm=True)
    keys = {ijb.faces.key(i): int(t) for i, t in enumerate(ijb.template_ids)}
    for kind, choose in (("false accept", max), ("false reject", min)):
        first = next(pair for pair in found.hardest if pair.kind == kind)
        a, b = keys[first.first], keys[first.second]
        assert first.score == pytest.approx(templates[a] @ templates[b], abs=1e-6)
        assert ijb.pairs is not None
        of = ijb.pairs[ijb.pairs[:, 2] == (kind == "false reject")]
        assert first.score == pytest.approx(
            choose(templates[x] @ templates[y] for x, y, _ in of.tolist()), abs=1e-6
        )


def test_a_pack_gives_what_its_folder_gives(
    folder: Path, tmp_path: Path, averages: nn.Module
) -> None:
    convert_to_pack(IjbSource(folder), tmp_path / "pack", PackOptions())
    results = [
        evaluate(averages, IjbProtocol(open_ijb(path, "ijbc")), batch_size=32)
        for path in (folder, tmp_path / "pack")
    ]
    assert results[0].figures == results[1].figures
    rank = results[0].figures["rank-1"].value
    assert rank is not None and rank > 0.7
    protocol = find_target(str(tmp_path / "pack"), None)()
    assert protocol.name == "ijb"


def told(result: Result, words: str) -> bool:
    return any(words in notice for notice in result.notices)


def test_templates_without_an_embedding_are_left_out(ijb: IjbSet) -> None:
    embeddings = drawn(ijb)
    lost = [id_of(0, 0), id_of(1, 1)]  # a template of the gallery, and a probe
    embeddings[np.isin(ijb.template_ids, lost)] = np.nan
    embeddings[40] = np.inf  # one image of a template that has others
    found = measure(ijb, embeddings)
    assert told(found, "9 of 480 images are not finite")
    assert told(found, "2 templates have no usable image left")
    assert told(found, "237 of 7,140 pairs")
    assert told(found, "1 of 72 probes") and told(found, "1 of 9 templates of gallery G1")
    assert found.counts["pairs"] == 7140 - 237
    assert all(figure.value is not None for figure in found.figures.values())


def test_pairs_of_unknown_templates_are_left_out(ijb: IjbSet) -> None:
    assert ijb.pairs is not None
    more = np.concatenate([ijb.pairs, [[10, 9999, 1], [5, 11, 0]]])
    found = measure(replace(ijb, pairs=more), drawn(ijb))
    assert told(found, "2 of 7,142 pairs")
    assert found.figures == measure(ijb, drawn(ijb)).figures


def test_a_detector_score_of_zero_weighs_nothing(ijb: IjbSet) -> None:
    scores = ijb.scores.copy()
    scores[ijb.template_ids == id_of(2, 1)] = 0
    found = measure(replace(ijb, scores=scores), drawn(ijb))
    assert told(found, f"first template {id_of(2, 1)}")
    assert not told(measure(replace(ijb, scores=scores), drawn(ijb), detector=False), "weight 0")
    assert all(figure.value is not None for figure in found.figures.values())


def test_an_embedding_of_zeros_has_no_norm_to_divide_by(ijb: IjbSet) -> None:
    embeddings = drawn(ijb)
    embeddings[ijb.template_ids == id_of(2, 1)] = 0
    assert told(measure(ijb, embeddings, norm=False), "weight 0 only")


@pytest.mark.parametrize("same", [0, 1])
def test_pairs_of_one_kind_leave_tar_undefined(ijb: IjbSet, same: int) -> None:
    assert ijb.pairs is not None
    only = ijb.pairs[ijb.pairs[:, 2] == same]
    found = measure(replace(ijb, pairs=only), drawn(ijb))
    assert told(found, "TAR needs both")
    assert found.figures["TAR@1e-3"].value is None and found.figures["rank-1"].value is not None


def test_a_gallery_without_mates_is_told(ijb: IjbSet) -> None:
    galleries = {**ijb.galleries, "G2": ijb.galleries["G2"] + (0, 1000)}
    found = measure(replace(ijb, galleries=galleries), drawn(ijb))
    assert told(found, "no probe has a mate in gallery G2")
    assert found.groups["G2"]["rank-1"].value is found.groups["G2"]["TPIR@0.1"].value is None
    assert found.figures["TPIR@0.1"].value is None
    assert found.figures["rank-1"].value == found.groups["G1"]["rank-1"].value


def test_probes_that_all_have_mates_measure_no_false_positive(ijb: IjbSet) -> None:
    probes = ijb.probes[ijb.probes[:, 1] < 9]
    found = measure(replace(ijb, probes=probes, galleries={"G1": ijb.galleries["G1"]}), drawn(ijb))
    assert told(found, "every probe has a mate in gallery G1")
    assert found.figures["TPIR@0.1"].value is None
    assert found.figures["rank-1"].value is not None


def test_what_is_not_listed_is_left_out(ijb: IjbSet) -> None:
    embeddings = drawn(ijb)
    alone = measure(replace(ijb, galleries={}), embeddings)
    assert "rank-1" not in alone.figures and alone.figures["TAR@1e-3"].value is not None
    searched = measure(replace(ijb, pairs=None), embeddings)
    assert "TAR@1e-3" not in searched.figures and told(searched, "1:1 is left out")
    with pytest.raises(EvaluationError, match="neither"):
        measure(replace(ijb, pairs=None, galleries={}), embeddings)


def test_without_a_list_of_probes_1_to_n_is_left_out(ijb: IjbSet) -> None:
    found = measure(replace(ijb, probes=ijb.probes[:0]), drawn(ijb))
    assert told(found, "no list of probes") and "rank-1" not in found.figures
    assert told(measure(replace(ijb, galleries={}), drawn(ijb)), "no list of a gallery")


def test_pairs_that_are_listed_again_are_told(ijb: IjbSet) -> None:
    assert ijb.pairs is not None
    turned = ijb.pairs[:3, [1, 0, 2]]
    other = ijb.pairs[5:6] * (1, 1, 0) + (0, 0, 1) - ijb.pairs[5:6] * (0, 0, 1)
    found = measure(replace(ijb, pairs=np.concatenate([ijb.pairs, turned, other])), drawn(ijb))
    assert told(found, "3 pairs are listed again") and told(found, "1 pairs are listed as of one")
    assert found.counts["pairs"] == len(ijb.pairs) + 4
    assert not told(measure(ijb, drawn(ijb)), "are listed")


def test_detector_scores_that_are_no_weights_are_told(ijb: IjbSet) -> None:
    scores = ijb.scores.copy()
    scores[3], scores[7] = np.nan, -0.5
    odd = replace(ijb, scores=scores)
    found = measure(odd, drawn(ijb))
    assert told(found, f"1 images are no numbers, first of {ijb.faces.key(3)}")
    assert told(found, f"1 images are negative, first of {ijb.faces.key(7)}")
    lost = drawn(ijb)
    lost[3] = np.nan
    scores = scores.copy()
    scores[3] = 0.5
    assert found.figures == measure(replace(ijb, scores=scores), lost).figures
    without = measure(odd, drawn(ijb), detector=False)
    assert without.figures == measure(ijb, drawn(ijb), detector=False).figures
    assert not told(without, "detector")


def test_tables_of_another_shape_are_no_ijb(folder: Path, tmp_path: Path) -> None:
    source = IjbSource(folder)
    tables = source.tables

    def crooked(positions: np.ndarray) -> dict[str, np.ndarray]:
        return {**tables(positions), "landmarks": np.zeros((len(positions), 10), np.float32)}

    source.tables = crooked  # type: ignore[method-assign]
    convert_to_pack(source, tmp_path / "pack", PackOptions())
    with pytest.raises(EvaluationError, match=r"landmarks is float32 \(480, 10\)"):
        open_ijb(tmp_path / "pack", "ijbc")


def test_a_damaged_table_gives_no_figures(folder: Path, tmp_path: Path) -> None:
    convert_to_pack(IjbSource(folder), tmp_path / "pack", PackOptions())
    table = tmp_path / "pack" / "scores.npy"
    content = bytearray(table.read_bytes())
    content[-2] ^= 1
    table.write_bytes(content)
    with pytest.raises(PackError, match=r"scores\.npy"):
        open_ijb(tmp_path / "pack", "ijbc")
