"""From a pair set to its figures, and what is said of sets that leave some undefined."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from facepack.errors import DecodeError, EvaluationError
from facepack.evaluate.faces.faces import EncodedFaces
from facepack.evaluate.protocols.verification import (
    PairVerification,
    evaluate_pairs,
    measure_pairs,
)
from facepack.evaluate.results.pair_result import PairResult
from facepack.evaluate.run import evaluate
from facepack.evaluate.sets.pairs import PairSet
from facepack.images import decode
from facepack.train.backbones import Backbone, build


def pair_set_of(images: list[bytes], issame: np.ndarray) -> PairSet:
    return PairSet.from_images(
        "people",
        images,
        keys=[f"image {i}" for i in range(len(images))],
        pairs=np.arange(len(images)).reshape(-1, 2),
        issame=issame,
    )


def test_evaluation_equals_one_pair_at_a_time(
    pair_images: tuple[list[bytes], np.ndarray], averages: nn.Module
) -> None:
    images, _ = pair_images
    issame = np.random.default_rng(3).random(20) < 0.5  # truths that the network cannot tell
    distances, norms = [], []
    for first, second in zip(images[::2], images[1::2], strict=True):
        unit = []
        for image in (first, second):
            pixels = (decode(image).astype(np.float64) - 127.5) / 127.5
            both = pixels + pixels[:, ::-1]
            feature = both.reshape(4, 28, 4, 28, 3).mean(axis=(1, 3)).transpose(2, 0, 1).ravel()
            norms.append(np.linalg.norm(feature))
            unit.append(feature / norms[-1])
        distances.append(((unit[0] - unit[1]) ** 2).sum())
    pair_set = pair_set_of(images, issame)
    slow = measure_pairs(
        "people",
        np.array(distances),
        issame,
        norm=float(np.mean(norms)),
        members=pair_set.pairs,
    )
    fast = evaluate_pairs(averages, pair_set, batch_size=8)
    assert fast.norm == pytest.approx(slow.norm, rel=1e-5)
    assert fast.notices[:-1] == slow.notices and "over people" in fast.notices[-1]
    assert replace(fast, norm=0, notices=()) == replace(slow, norm=0, notices=())
    assert fast.intervals["AUC"][0] < fast.intervals["AUC"][1]
    assert fast.accuracy is not None and 0 < fast.accuracy < 1


def test_people_are_told_apart(
    pair_images: tuple[list[bytes], np.ndarray], averages: nn.Module
) -> None:
    result = evaluate_pairs(averages, pair_set_of(*pair_images))
    assert (result.accuracy, result.std, result.auc, result.eer) == (1.0, 0.0, 1.0, 0.0)
    assert result.pairs == 20 and result.val is not None


def test_a_decoded_set_gives_the_same_figures(
    pair_images: tuple[list[bytes], np.ndarray], averages: nn.Module
) -> None:
    pair_set = pair_set_of(*pair_images)
    counts: list[int] = []
    decoded = evaluate_pairs(
        averages, pair_set.decoded(), batch_size=16, on_batch=counts.append, device="cpu"
    )
    assert decoded == evaluate_pairs(averages, pair_set, batch_size=16)
    assert sum(counts) == len(pair_set.images)


def test_a_broken_image_is_named(
    pair_images: tuple[list[bytes], np.ndarray], averages: nn.Module
) -> None:
    images, issame = pair_images
    images[13] = images[13][:900]
    with pytest.raises(DecodeError, match=r"^people: image 13: "):
        evaluate_pairs(averages, pair_set_of(images, issame))


@pytest.mark.parametrize("decoded", [False, True])
def test_without_a_broken_image_the_rest_is_measured(
    pair_images: tuple[list[bytes], np.ndarray], averages: nn.Module, decoded: bool
) -> None:
    images, issame = pair_images
    images[13] = images[13][:900]
    protocol = PairVerification(pair_set_of(images, issame))
    faces = protocol.faces
    assert isinstance(faces, EncodedFaces)
    if decoded:
        protocol.faces = faces.decoded((112, 112), {})
    found = evaluate(averages, protocol, on_bad_image="skip", batch_size=8)
    kept = np.arange(20) != 6
    rest = [image for i, image in enumerate(images) if i not in (12, 13)]
    wanted = evaluate_pairs(averages, pair_set_of(rest, issame[kept]))
    assert replace(PairResult.from_result(found), notices=()) == replace(wanted, notices=())
    assert found.counts == {"pairs": 19, "bad images": 1}
    assert f"1 of {len(faces)} images cannot be decoded" in found.notices[0]
    assert "first image 13: the jpeg image does not decode" in found.notices[0]
    with pytest.raises(DecodeError, match="image 13"):
        evaluate(averages, protocol)


def test_embeddings_that_are_not_finite_are_refused(
    pair_images: tuple[list[bytes], np.ndarray],
) -> None:
    class Diverged(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=(2, 3)) * torch.nan

    pair_set = pair_set_of(*pair_images)
    total = len(pair_set.images)
    with pytest.raises(EvaluationError, match=f"people: .* of {total} of {total} .* of image 0"):
        evaluate_pairs(Diverged(), pair_set)


# --- sets that leave figures undefined ---------------------------------------------------------


def test_an_ordinary_set_needs_no_notice() -> None:
    result = measure_pairs(
        "lfw", np.array([0.2, 1.0] * 10_000), np.array([True, False] * 10_000), norm=20.0
    )
    assert result.as_dict() == {
        "target": "lfw",
        "pairs": 20_000,
        "accuracy": 1.0,
        "std": 0.0,
        "tar": {"1e-4": 1.0, "1e-3": 1.0, "1e-2": 1.0},
        "val_at_far_1e-3": {"mean": 1.0, "std": 0.0, "far": 1.0},
        "auc": 1.0,
        "eer": 0.0,
        "norm": 20.0,
        "intervals": {},
        "notices": [],
    }


@pytest.mark.parametrize(("kind", "missing"), [("same", "different"), ("different", "same")])
def test_a_set_of_one_kind_keeps_its_accuracy(kind: str, missing: str) -> None:
    result = measure_pairs("set", np.linspace(0.1, 1, 20), np.full(20, kind == "same"), norm=1.0)
    assert result.accuracy is not None and result.std is not None
    assert result.val is result.auc is result.eer is None
    assert set(result.tar.values()) == {None}
    (notice,) = result.notices
    assert notice.startswith(f"all 20 pairs are {kind} ones: without {missing} pairs TAR, ")
    assert json.loads(json.dumps(result.as_dict()))["tar"]["1e-4"] is None


def test_a_remainder_makes_the_first_folds_larger() -> None:
    result = measure_pairs("set", np.array([0.2, 1.0] * 12), np.array([True, False] * 12), norm=1.0)
    assert result.accuracy == 1.0
    assert (
        "24 pairs do not divide by 10: the first 4 folds hold 3 pairs, the others 2"
        in result.notices
    )


def test_fewer_than_ten_pairs_keep_what_needs_no_folds() -> None:
    result = measure_pairs("set", np.array([0.2, 1.0] * 3), np.array([True, False] * 3), norm=1.0)
    assert result.accuracy is result.std is result.val is None
    assert (result.tar[1e-3], result.auc, result.eer) == (1.0, 1.0, 0.0)
    assert result.notices[0] == (
        "6 pairs make no 10 folds: accuracy and validation rate are undefined"
    )


def test_different_pairs_in_one_fold_leave_the_validation_rate_undefined() -> None:
    issame = np.array([True] * 19 + [False])
    result = measure_pairs("set", np.linspace(0.1, 1, 20), issame, norm=1.0)
    assert result.val is None and result.auc == 1.0 and result.accuracy is not None
    assert "different pairs in at least two folds" in result.notices[-1]


@pytest.mark.parametrize(
    ("different", "named"), [(99, "1e-4, 1e-3, 1e-2"), (100, "1e-4, 1e-3"), (10_000, None)]
)
def test_a_far_below_one_false_accept_is_said(different: int, named: str | None) -> None:
    issame = np.arange(2 * different) % 2 == 0
    result = measure_pairs("set", np.where(issame, 0.2, 1.0), issame, norm=1.0)
    said = [notice for notice in result.notices if "cannot measure" in notice]
    assert len(said) == (named is not None)
    if named is not None:
        assert f"{different} different pairs" in said[0] and f"TAR at {named} is" in said[0]


def test_folds_of_one_kind_are_said() -> None:
    # LFW's order has both kinds in each fold; a list of all same pairs first has not.
    halves = np.arange(20_000) < 10_000
    (notice,) = measure_pairs("set", np.where(halves, 0.2, 1.0), halves, norm=1.0).notices
    assert "10 of the 10 folds hold pairs of one kind only" in notice
    alternating = np.arange(20_000) % 2 == 0
    assert not measure_pairs("set", np.where(alternating, 0.2, 1), alternating, norm=1).notices
    one = np.arange(24_000) % 2 == 0
    one[2_400:4_800] = True
    (notice,) = measure_pairs("set", np.where(one, 0.2, 1.0), one, norm=1.0).notices
    assert "1 of the 10 folds" in notice and "fold 2, counted from 1" in notice


def test_the_public_names_are_there() -> None:
    import facepack.evaluate as room

    assert set(dir(room)) == set(room.__all__)
    assert all(callable(getattr(room, name)) for name in room.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        room.nothing  # noqa: B018


def test_the_size_of_images_is_the_backbones(encode_jpeg: Callable[[np.ndarray], bytes]) -> None:
    class Wide(Backbone):
        image_size = (64, 96)

        def trunk(self, images: torch.Tensor) -> torch.Tensor:
            assert images.shape[1:] == (3, 64, 96)
            return images.mean((2, 3))

        def head(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden

    rng = np.random.default_rng(0)
    images = [encode_jpeg(rng.integers(0, 256, (64, 96, 3), np.uint8)) for _ in range(40)]
    pair_set = pair_set_of(images, np.arange(20) < 10)
    model = Wide(3, None)
    result = evaluate_pairs(model, pair_set)
    assert evaluate_pairs(nn.Sequential(model), pair_set.decoded((64, 96))) == result
    with pytest.raises(
        DecodeError, match=r"people: image 0 is 96×64 pixels; .* 112×112 are needed"
    ):
        evaluate_pairs(build("tiny", features=8), pair_set)
    with pytest.raises(EvaluationError, match=r"people: .* at 96×64 pixels, .* takes 112×112"):
        evaluate_pairs(build("tiny", features=8), pair_set.decoded((64, 96)))
