"""The study of unequal training: equal images, one network, sets whose noise is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import facepack
from facepack.convert.faces.draw import render_faces
from facepack.convert.faces.tail import LongTail
from facepack.store.record_list import read_record_list
from facepack.train.collect import make_config, merge_settings
from studies.noise.plant import read_truth
from studies.unequal import study
from studies.unequal.sets import Noisy, thin
from tests.evaluate.conftest import make_jpeg

PLAN = study.Plan()
SETTING = study.SETTINGS[0]


def _images_of(*layers: Mapping[str, Any]) -> int:
    config = make_config(merge_settings(*layers))
    options = config.method_options or {}
    tail = 3 * options["hard_identities"] if options.get("stage") == "tail" else 0
    assert config.steps is not None
    return config.steps * (config.batch_size + tail)


@pytest.fixture(name="pack")
def _pack(tmp_path: Path) -> Path:
    labels = np.repeat(np.arange(30), 10)
    faces = render_faces(1, labels, np.arange(len(labels)))
    with facepack.PackWriter(tmp_path / "whole", classes=30) as writer:
        for face, label in zip(faces, labels.tolist(), strict=True):
            writer.add(make_jpeg(face), label=label)
    return tmp_path / "whole"


def test_all_arms_see_the_same_images_but_for_less_than_a_step(tmp_path: Path) -> None:
    for arm in study.ARMS:
        run = study.make_run(tmp_path, PLAN, "final", SETTING, arm, rate=0.1, seed=0)
        parts = [_images_of(run.settings)]
        if isinstance(run, study.StagedRun):
            parts = [_images_of(run.settings, own) for own in run.stages]
            assert [part / PLAN.images for part in parts] == pytest.approx(PLAN.shares, abs=0.005)
        assert sum(parts) == pytest.approx(PLAN.images, abs=160)


def test_arms_differ_in_what_they_train_on_alone(tmp_path: Path) -> None:
    noisy = study.noisy_set(tmp_path, SETTING)
    runs = {
        arm: study.make_run(
            tmp_path, PLAN, "final", SETTING, arm, rate=0.1, seed=0, exclude=Path("list.txt")
        ).settings
        for arm in ("cleaned", "head_alone", "unequal")
    }
    assert (runs["cleaned"]["shards"], runs["cleaned"]["exclude"]) == (str(noisy.pack), "list.txt")
    assert runs["head_alone"]["shards"] == runs["unequal"]["shards"] == str(noisy.head)
    own = ("shards", "exclude", "method")
    rest = [{k: v for k, v in settings.items() if k not in own} for settings in runs.values()]
    assert all(settings == rest[0] for settings in rest)


def test_a_set_is_thinned_to_a_tail_of_its_own_images(tmp_path: Path, pack: Path) -> None:
    thin(pack, tmp_path / "thin", whole=0.4, tail=LongTail.parse("zipf:1:2-5"))
    with facepack.open(pack) as before, facepack.open(tmp_path / "thin") as after:
        own = {bytes(record.image): record.label for record in before}
        images = [bytes(record.image) for record in after]
        np.testing.assert_array_equal(after.labels, [own[image] for image in images])
        assert len(set(images)) == len(images)
        counts = np.bincount(after.labels)
    assert (counts == 10).sum() == 12
    assert set(counts[counts != 10]) <= {2, 3, 4, 5}


def test_the_list_of_what_is_wrong_is_that_of_the_truth(tmp_path: Path, pack: Path) -> None:
    noisy = Noisy(folder=tmp_path / "noisy")
    noisy.make(pack, permuted=0.1, outside=0.1, min_images=12)
    with facepack.open(noisy.pack) as spoiled:
        listed = read_record_list(noisy.wrong, spoiled)
        truth = read_truth(noisy.folder, len(spoiled))
        counts = np.bincount(spoiled.labels)
    np.testing.assert_array_equal(listed, np.flatnonzero(truth))
    with facepack.open(noisy.head) as head, facepack.open(noisy.tail) as tail:
        assert (head.identities, tail.identities) == ((counts >= 12).sum(), (counts < 12).sum())
