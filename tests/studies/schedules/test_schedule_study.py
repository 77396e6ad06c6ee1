"""The study of schedules: its statistics against slow twins, its sets, and its way through."""

from __future__ import annotations

import functools
import json
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import xxhash

import facepack
from facepack.convert.faces.draw import render_faces
from facepack.convert.formats.pairs.pickles import write_bin
from facepack.convert.formats.rec.recordio import RecordWriter, pack_header
from facepack.errors import ConfigError
from facepack.evaluate.protocols.pair_metrics import Roc, accuracy_by_fold
from facepack.evaluate.sets.pairs import PairSet
from facepack.train.replay import TrainingLog, read_log, replay_log
from facepack.train.schedules import build_schedule
from studies.schedules import runs, sets, shapes, study
from studies.schedules import significance as statistics

SHARED = Path(__file__).parents[3] / "../shared/data"

# Statistics ---------------------------------------------------------------------------------------


def make_pairs(seed: int, *, pairs: int = 120, people: int = 15) -> tuple[np.ndarray, ...]:
    """Distances, truths and the people of each pair, half of the pairs same ones in each fold."""
    random = np.random.default_rng(seed)
    issame = np.tile([True, False], pairs // 2)
    first = random.integers(0, people, pairs)
    second = np.where(issame, first, (first + random.integers(1, people, pairs)) % people)
    distances = np.where(issame, random.normal(1.2, 0.5, pairs), random.normal(1.9, 0.5, pairs))
    return distances.clip(0, 4), issame, np.stack([first, second], axis=1)


@pytest.mark.parametrize("seed", range(3))
def test_the_pairs_told_right_are_those_of_the_ten_fold_protocol(seed: int) -> None:
    distances, issame, _ = make_pairs(seed)
    right = statistics.right_by_pair(distances, issame)
    np.testing.assert_allclose(
        right.reshape(10, -1).mean(axis=1), accuracy_by_fold(distances, issame)
    )
    size = len(distances) // 10
    thresholds = np.arange(0, 4, 0.01)
    for i in range(0, len(distances), 17):
        others = [j for j in range(len(distances)) if j // size != i // size]
        hits = [sum((distances[j] < t) == issame[j] for j in others) for t in thresholds]
        assert right[i] == ((distances[i] < thresholds[int(np.argmax(hits))]) == issame[i])


@pytest.mark.parametrize("far", [0.0, 0.01, 0.1, 0.5, 1.0])
def test_the_same_pairs_accepted_at_a_far_are_those_of_the_roc(far: float) -> None:
    distances, issame, _ = make_pairs(3)
    distances = distances.round(1)  # many are equal
    accepted = statistics.accepted_at_far(distances, issame, far)
    assert accepted.mean() == Roc.from_pairs(distances, issame).tar_at(far)
    allowed = [
        limit
        for limit in [-1.0, *sorted(set(distances.tolist()))]
        if (distances[~issame] <= limit).mean() <= far
    ]
    assert accepted.tolist() == (distances[issame] <= max(allowed)).tolist()


def balanced_twin(
    values: np.ndarray, drawn: list[int], members: np.ndarray, issame: np.ndarray
) -> float:
    """Writes out the pairs of a sample of people, copy by copy."""
    kinds: dict[bool, list[float]] = {True: [], False: []}
    for value, (first, second), same in zip(values, members.tolist(), issame.tolist(), strict=True):
        if same:
            kinds[True] += [value for person in drawn if person == first]
        else:
            kinds[False] += [value for a, b in product(drawn, drawn) if a == first and b == second]
    return float(np.mean([np.mean(kind) for kind in kinds.values() if kind]))


def test_a_draw_counts_each_pair_as_often_as_it_is_in_the_sample_of_people() -> None:
    _, issame, members = make_pairs(1)
    random = np.random.default_rng(0)
    values = random.normal(size=len(issame))
    samples = random.integers(0, 15, (20, 15))
    counts = np.array(
        [[Counter(sample)[person] for person in range(15)] for sample in samples.tolist()]
    )
    weights = statistics.pair_weights(counts, members, issame)
    means = statistics.balanced_mean(values, weights, issame)
    twins = [balanced_twin(values, sample, members, issame) for sample in samples.tolist()]
    np.testing.assert_allclose(means, twins)
    same = statistics.balanced_mean(values[issame], weights[:, issame], issame[issame])
    np.testing.assert_allclose(
        same,
        [
            balanced_twin(values[issame], s, members[issame], issame[issame])
            for s in samples.tolist()
        ],
    )


def test_the_paired_difference_is_that_of_the_accuracies() -> None:
    issame, members = make_pairs(0)[1:]
    first, second = (
        np.stack([statistics.right_by_pair(make_pairs(seed)[0], issame) for seed in seeds])
        for seeds in ((1, 2, 3), (4, 5, 6))
    )
    found = statistics.paired_difference(first, second, members=members, issame=issame)
    assert found.mean == pytest.approx(first.mean() - second.mean())
    assert found.by_seed == pytest.approx((first.mean(axis=1) - second.mean(axis=1)).tolist())
    for low, high in (found.identities, found.both):
        assert low < found.mean < high


def test_the_bootstrap_equals_its_slow_twin() -> None:
    issame, members = make_pairs(0, pairs=40, people=6)[1:]
    random = np.random.default_rng(5)
    first, second = random.random((2, 3, 40)) < 0.8
    found = statistics.paired_difference(
        first, second, members=members, issame=issame, draws=30, seed=9
    )
    random = np.random.default_rng(9)
    counts = random.multinomial(6, np.full(6, 1 / 6), size=30)
    drawn_seeds = random.multinomial(3, np.full(3, 1 / 3), size=30)
    gain = first.astype(float) - second.astype(float)
    people, both = [], []
    for count, seeds in zip(counts.tolist(), drawn_seeds.tolist(), strict=True):
        sample = [person for person, times in enumerate(count) for _ in range(times)]
        rows = [gain[seed] for seed, times in enumerate(seeds) for _ in range(times)]
        people.append(balanced_twin(gain.mean(axis=0), sample, members, issame))
        both.append(balanced_twin(np.mean(rows, axis=0), sample, members, issame))
    assert found.identities == pytest.approx(tuple(np.quantile(people, [0.025, 0.975])))
    assert found.both == pytest.approx(tuple(np.quantile(both, [0.025, 0.975])))


def test_people_with_many_pairs_widen_the_interval() -> None:
    """100 people with 20 alike pairs each: pairs taken for independent would give a fourth."""
    members = np.repeat(np.arange(100), 20)[:, None].repeat(2, axis=1)
    issame = np.ones(len(members), bool)
    first = np.repeat(np.random.default_rng(0).random(100) < 0.5, 20)[None]
    found = statistics.paired_difference(
        first, np.zeros_like(first), members=members, issame=issame
    )
    low, high = found.identities
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(100), rel=0.1)


@pytest.mark.parametrize(
    ("mean", "both", "clear"),
    [
        (0.02, (0.01, 0.03), True),
        (0.02, (-0.01, 0.05), False),
        (0.02, (np.nan, np.nan), False),
        (0.009, (0.005, 0.012), False),
        (-0.02, (-0.03, -0.01), True),
    ],
)
def test_nothing_under_a_point_is_claimed(
    mean: float, both: tuple[float, float], clear: bool
) -> None:
    found = statistics.Difference(mean=mean, by_seed=(mean,) * 3, identities=both, both=both)
    assert found.is_clear is clear
    assert not replace(found, by_seed=(mean,) * 2).is_clear


def test_a_draw_without_pairs_of_a_kind_is_left_out() -> None:
    """Of two people that make all different pairs, a draw takes one alone every other time."""
    members = np.array([[0, 0], [1, 1], [0, 1], [0, 1]])
    issame = np.array([True, True, False, False])
    first = np.ones((3, 4), bool)
    found = statistics.paired_difference(
        first, np.zeros_like(first), members=members, issame=issame, draws=50
    )
    assert found.identities == found.both == (1.0, 1.0)
    assert found.is_clear


# Sets ---------------------------------------------------------------------------------------------


def test_held_out_identities_are_a_share_and_the_same_each_time() -> None:
    labels = np.repeat(np.arange(40) * 3, 5)
    held = sets.choose_held_out(labels, share=0.15, seed=0)
    assert len(held) == 6 and set(held) <= set(labels)
    assert held.tolist() == sets.choose_held_out(labels[::-1], share=0.15, seed=0).tolist()
    assert held.tolist() != sets.choose_held_out(labels, share=0.15, seed=1).tolist()


def test_fold_pairs_share_no_identity_between_folds() -> None:
    labels = np.repeat(np.arange(30), np.arange(30) % 7 + 2)
    pairs, issame = sets.fold_pairs(labels, per_identity=4, seed=0)
    assert ((labels[pairs[:, 0]] == labels[pairs[:, 1]]) == issame).all()
    assert issame.reshape(10, -1).mean(axis=1).tolist() == [0.5] * 10
    people = [set(labels[fold].ravel()) for fold in pairs.reshape(10, -1, 2)]
    assert sum(map(len, people)) == len(set.union(*people))
    same = Counter(labels[pairs[issame, 0]].tolist())
    assert max(same.values()) <= 4
    assert len({frozenset(pair) for pair in pairs[issame].tolist()}) == issame.sum()


def test_too_few_identities_for_ten_folds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"19 identities make no 10 folds .* at least 20"):
        sets.fold_pairs(np.repeat(np.arange(19), 3), per_identity=4, seed=0)


def test_every_same_pair_and_some_different_ones() -> None:
    labels = np.array([4, 4, 4, 9, 9, 7])
    faces = sets.all_same_and_some_different([b"x"] * 6, labels, different=50)
    assert faces.pairs[faces.issame].tolist() == [[0, 1], [0, 2], [1, 2], [3, 4]]
    first, second = labels[faces.pairs[~faces.issame]].T
    assert len(first) == 50 and (first != second).all()
    assert faces.identities.tolist() == [0, 0, 0, 2, 2, 1]


def pair_set(pairs: list[tuple[int, int, bool]], images: int) -> PairSet:
    return PairSet(
        name="faces",
        images=[b"image %d" % i for i in range(images)],
        keys=[str(i) for i in range(images)],
        pairs=np.array([pair[:2] for pair in pairs]),
        issame=np.array([pair[2] for pair in pairs]),
    )


def test_identities_of_a_pair_set_follow_from_its_pairs_and_from_labels() -> None:
    pairs = [(0, 1, True), (1, 2, True), (3, 4, True), (0, 5, False), (6, 3, False)]
    known = {xxhash.xxh3_128_digest(b"image %d" % i): 8 for i in (4, 5)}
    faces = sets.faces_of_pair_set(pair_set(pairs, 7), known)
    groups = [np.flatnonzero(faces.identities == g).tolist() for g in np.unique(faces.identities)]
    assert sorted(groups) == [[0, 1, 2], [3, 4, 5], [6]]


def test_labels_of_other_people_are_refused() -> None:
    known = {xxhash.xxh3_128_digest(b"image %d" % i): 8 for i in (0, 2)}
    with pytest.raises(ValueError, match="faces: 1 different pairs fall into one identity"):
        sets.faces_of_pair_set(pair_set([(0, 1, True), (1, 2, False)], 3), known)


def test_faces_come_back_as_they_were_saved(tmp_path: Path) -> None:
    labels = np.array([0, 0, 1, 1])
    faces = sets.all_same_and_some_different([b"a", b"", b"ccc", b"dd"], labels, different=3)
    faces.save(tmp_path / "faces.npz")
    again = sets.Faces.load(tmp_path / "faces.npz")
    assert again.images == faces.images
    for name in ("pairs", "issame", "identities"):
        assert getattr(again, name).tolist() == getattr(faces, name).tolist()


def test_coarser_faces_keep_their_size_and_lose_detail() -> None:
    image = make_jpegs([0], 1)[0][0]
    assert sets.coarsen(image, 112) == image
    deviations = []
    for side in (112, 28, 14):
        pixels = facepack.images.decode(sets.coarsen(image, side)).astype(float)
        assert pixels.shape == (112, 112, 3)
        deviations.append(np.abs(np.diff(pixels, axis=1)).mean())
    assert deviations[0] > deviations[1] > deviations[2]


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data sets are not here")
def test_the_people_of_lfw() -> None:
    from facepack.evaluate.sets.pairs import load_pair_set

    labelled = sets.digests(list(sets.read_rec(SHARED / "lfw-rec")))
    faces = sets.faces_of_pair_set(load_pair_set(SHARED / "bins/lfw.bin"), labelled)
    assert faces.identities.max() + 1 == 4281  # as LFW's own view 2 counts them


# Shapes -------------------------------------------------------------------------------------------


def test_a_linear_tail_is_flat_and_then_a_line_to_zero() -> None:
    schedule = build_schedule(
        "linear_tail", base_lr=0.2, total_steps=200, steps_per_epoch=50, tail=0.25
    )
    rates = [schedule.lr_after(step) for step in range(201)]
    assert rates[:151] == [0.2] * 151
    assert rates[150:] == pytest.approx(np.linspace(0.2, 0, 51).tolist())


def make_log(steps: int) -> TrainingLog:
    """A log of every step with rates 0.8, 0.4 from step 31, 0.1 from step 71."""
    at = np.arange(1, steps + 1)
    rates = np.where(at < 31, 0.8, np.where(at < 71, 0.4, 0.1))
    return TrainingLog(at, np.linspace(9, 1, steps), rates, (at - 1) // 25)


@pytest.mark.parametrize("stretch", [1, 2, 7])
def test_a_trace_is_the_rates_of_its_log_stretched(stretch: int) -> None:
    log = make_log(100)
    schedule = build_schedule(
        "trace",
        base_lr=1.6,
        total_steps=100 * stretch,
        steps_per_epoch=100,
        **shapes.trace_of_log(log),
    )
    rates = [schedule.lr_after(step) for step in range(100 * stretch)]
    assert rates == (2 * log.lrs.repeat(stretch)).tolist()


def test_a_trace_of_a_schedules_changes_repeats_its_rates() -> None:
    log = make_log(300)
    replay = replay_log(log, "mhlr", window=5, threshold=10.0)
    assert len(replay.changes) > 3
    options = shapes.trace_of_changes(replay.changes, base_lr=log.base_lr, total_steps=300)
    again = build_schedule(
        "trace", base_lr=log.base_lr, total_steps=300, steps_per_epoch=25, **options
    )
    assert [again.lr_after(step) for step in range(300)] == replay.lrs.tolist()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("linear_tail", {"tail": 0.0}, "tail must lie between 0 and 1, got 0.0"),
        ("trace", {"starts": [0.1], "factors": [1.0]}, "the first start 0"),
        ("trace", {"starts": [0.0], "factors": []}, "must be as many"),
        ("trace", {"starts": [0.0, 0.5, 0.5], "factors": [1, 1, 1]}, "starts must ascend"),
    ],
)
def test_shapes_check_their_settings(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_schedule(name, base_lr=1.0, total_steps=9, steps_per_epoch=9, **options)


# The way through ----------------------------------------------------------------------------------


def make_jpegs(people: list[int], shots: int) -> tuple[list[bytes], np.ndarray]:
    import simplejpeg

    labels = np.repeat(people, shots)
    faces = render_faces(0, labels, np.tile(np.arange(shots), len(people)))
    encoded = [simplejpeg.encode_jpeg(face, quality=80, colorspace="RGB") for face in faces]
    return encoded, labels


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training set of 48 people, a test set of 20 pairs of others, and a log."""
    folder = tmp_path_factory.mktemp("data")
    images, labels = make_jpegs(list(range(48)), 3)
    (folder / "reds-rec").mkdir()
    with RecordWriter(folder / "reds-rec/train.rec", folder / "reds-rec/train.idx") as record:
        for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True), 1):
            record.write(number, pack_header(label, number) + image)
    (folder / "reds-rec/property").write_text("48,112,112\n")
    others, _ = make_jpegs(list(range(100, 120)), 2)
    swapped = [others[i ^ 2] if i % 4 == 3 else others[i] for i in range(40)]
    (folder / "bins").mkdir()
    write_bin(folder / "bins/blues.bin", swapped, [i % 2 == 0 for i in range(20)])
    (folder / "mhlr-log").mkdir()
    lines = [f"{s},{9 - s / 40:.3f},{0.02 if s < 120 else 0.01},{s // 100}" for s in range(1, 300)]
    text = "step,loss,lr,epoch\n" + "\n".join(lines) + "\n"
    (folder / "mhlr-log/ms1mv3_r100.csv").write_text(text)
    return folder


@pytest.fixture(scope="module")
def plan_a() -> study.PlanA:
    training = {**study.PlanA().training, "batch_size": 16, "steps": 6}
    return study.PlanA(
        settings=(("reds", "blues"),),
        held_out=0.5,
        rates=(0.02, 0.05),
        seeds=2,
        training=training,
    )


def test_part_a_from_data_to_tables_and_plots(
    data: Path, plan_a: study.PlanA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    first = runs.Study(out)
    study.part_a(first, data, plan_a)
    assert Counter(o.stage for o in first.outcomes.values()) == {"tune": 8, "final": 8}

    # No run trained on the people that its rate was tuned on.
    with facepack.open(out / "sets/reds") as pack:
        assert (pack.classes, len(pack)) == (24, 72)
    trained = {key for key, _ in _stored_images(out / "sets/reds")}
    held = set(map(xxhash.xxh3_128_digest, sets.Faces.load(out / "sets/reds-held-out.npz").images))
    assert len(held) == 72 and not held & trained

    # The same seed is the same weights and batches: arms differ from the second loss on.
    logs = {path.stem: read_log(path) for path in (out / "losses").iterdir()}
    assert len(logs) == 16
    for seed in (0, 1):
        losses = [
            log.losses
            for key, log in logs.items()
            if key.startswith("final") and key.endswith(f"-{seed}")
        ]
        assert len({row[0] for row in losses}) == 1
    assert logs["tune-reds-blues-cosine-0.05-1000"].lrs[0] == 0.05
    rates = study.tuned_rates(first.of_stage("tune"))
    assert all(rates[o.setting, o.arm] == o.rate for o in first.of_stage("final"))

    # Cut short by a kill in the midst of a line, the study does what is missing and no more.
    whole = (out / "outcomes.jsonl").read_text()
    lines = whole.splitlines(keepends=True)
    (out / "outcomes.jsonl").write_text("".join(lines[:-2]) + lines[-2][:50])
    again = runs.Study(out)
    assert len(again.outcomes) == 14
    study.part_a(again, data, plan_a)
    assert (out / "outcomes.jsonl").read_text().splitlines()[-2:] == whole.splitlines()[-2:]
    assert again.outcomes == first.outcomes == runs.Study(out).outcomes

    capsys.readouterr()
    pytest.importorskip("matplotlib")
    plots = tmp_path / "plots"
    plots.mkdir()
    figures = study.report(again, "accuracy", plots, data)
    printed = capsys.readouterr().out
    assert "| reds-blues | constant_tail |" in printed
    assert "| other people and seeds" not in printed.splitlines()[-1]
    rows = figures["results"]["reds-blues"]
    assert list(rows) == ["cosine", "linear", "constant_tail", "trace"]
    for row in list(rows.values())[1:]:
        mean = np.mean(row["scores"]) - np.mean(rows["cosine"]["scores"])
        assert row["difference"]["mean"] == pytest.approx(mean)
    json.dumps(figures)
    assert sorted(p.name for p in plots.iterdir()) == [
        "schedules-differences-a.png",
        "schedules-shapes.png",
        "schedules-tuning-a.png",
    ]

    results = study.part_c(out, data, plan_a, plots)
    assert list(results) == ["authors", "reds-blues"]
    assert set(results["authors"]) == {"mhlr", "fastface", "mhlr_guarded"}
    assert (plots / "schedules-detectors-reds-blues.png").exists()


def _stored_images(path: Path) -> list[tuple[bytes, int]]:
    with facepack.open(path) as pack:
        records = pack.batch(range(len(pack)))
        return [(xxhash.xxh3_128_digest(bytes(r.image)), r.label) for r in records]


def test_a_run_that_diverges_is_an_outcome(data: Path, plan_a: study.PlanA, tmp_path: Path) -> None:
    study.prepare_a(data, tmp_path, plan_a)
    arms = study.shapes(data)
    (run,) = study.runs_a(
        tmp_path, plan_a, {"cosine": arms["cosine"]}, "tune", [(lambda *cell: 1e30, 0)]
    )
    (outcome,) = runs.Study(tmp_path).complete([run])
    assert (outcome.score, outcome.loss, outcome.pairs) == (None, None, 0)
    assert runs.Study(tmp_path).outcomes[run.key] == outcome
    good = replace(outcome, rate=0.1, score=0.6)
    assert runs.best_rate([outcome, good]) == 0.1


def test_the_best_rate_is_the_lowest_of_equal_ones() -> None:
    blank = runs.Outcome(
        stage="tune", setting="s", arm="a", rate=0.0, seed=0, score=None, right="", pairs=0,
        steps=1, loss=None, changes=[], sigma_h=None,
    )  # fmt: skip
    scores = {0.1: (0.7, 0.8), 0.2: (0.8, 0.7), 0.4: (0.9, None)}
    outcomes = [replace(blank, rate=r, score=s) for r, pair in scores.items() for s in pair]
    assert runs.best_rate(outcomes[::-1]) == 0.1


def test_two_processes_give_the_outcomes_of_one(
    data: Path, plan_a: study.PlanA, tmp_path: Path
) -> None:
    study.prepare_a(data, tmp_path, plan_a)
    cells = [(lambda *cell: 0.05, seed) for seed in (0, 1)]
    cosine = {"cosine": study.shapes(data)["cosine"]}
    planned = study.runs_a(tmp_path, plan_a, cosine, "final", cells)
    alone = runs.Study(tmp_path).complete(planned)
    (tmp_path / "outcomes.jsonl").unlink()
    assert runs.Study(tmp_path, workers=2).complete(planned) == alone


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({112: 0.99, 56: 0.95, 28: 0.7, 14: 0.1}, (28, 0.7)),
        ({112: 0.8, 56: 0.5, 28: 0.3, 14: 0.1}, (112, 0.8)),
        ({112: 0.99, 56: 0.98, 28: 0.97, 14: 0.93}, (14, 0.93)),
        ({112: 0.55, 56: 0.5, 28: 0.3, 14: 0.1}, (112, 0.55)),
        ({112: 0.99, 56: 0.95, 28: 0.2, 14: 0.1}, (56, 0.95)),
    ],
)
def test_difficulty_is_set_where_the_cosine_is_neither_perfect_nor_lost(
    scores: dict[int, float], expected: tuple[int, float]
) -> None:
    assert study.choose_side(scores.__getitem__, (112, 56, 28, 14), (0.6, 0.9)) == expected


def test_part_b_goes_from_drawing_to_replays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study, "generate", functools.partial(study.generate, workers=1))
    training = {**study.TINY_B.training, "batch_size": 16, "epochs": 2}
    plan = replace(
        study.TINY_B, identities=24, images=4, rates=(0.05,), sides=(28,), training=training
    )
    part = runs.Study(tmp_path, device="cpu")
    study.part_b(part, plan)
    finals = part.of_stage("final")
    arms = {"cosine", "linear", "mhlr", "fastface", "mhlr_guarded", "mhlr_replayed"}
    assert Counter(o.arm for o in finals) == dict.fromkeys(arms, 2)

    # A replay has the rates of the other seed's run.
    rates = {path.stem: read_log(path).lrs for path in (tmp_path / "losses").iterdir()}
    for seed in (0, 1):
        watched = rates[f"final-synthetic-unseen-28-mhlr-0.05-{1 - seed}"]
        assert (
            rates[f"final-synthetic-unseen-28-mhlr_replayed-0.05-{seed}"].tolist()
            == watched.tolist()
        )
    assert all(o.sigma_h for o in finals if o.arm in ("mhlr", "mhlr_guarded"))

    figures = study.report(part, "tar", None, None)
    assert "σ_H at the end of each run: mhlr" in capsys.readouterr().out
    rows = figures["results"]["synthetic-unseen-28"]
    assert {arm for arm, row in rows.items() if "difference" in row} == arms - {"cosine"}
