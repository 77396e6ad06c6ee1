"""Verification during training: any target of ``facepack eval``, found again from anywhere."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import facepack
from facepack.convert.formats.pairs.pickles import write_bin
from facepack.errors import ConfigError, EvaluationError
from facepack.evaluate.registry import find_target
from facepack.evaluate.run import evaluate
from facepack.evaluate.validation import Validator
from facepack.train.backbones import build
from facepack.train.loop.verification import Verification, describe_best


@pytest.fixture
def home(
    tmp_path: Path, make_jpeg: Callable[..., bytes], pair_images: tuple[list[bytes], np.ndarray]
) -> Path:
    """``lfw.bin``, and a pack ``faces`` of four people with a table ``sex.csv``."""
    write_bin(tmp_path / "lfw.bin", *pair_images)
    with facepack.PackWriter(tmp_path / "faces") as writer:
        for i in range(16):
            writer.add(make_jpeg(i, size=112), i // 4)
    (tmp_path / "sex.csv").write_text("identity,sex\n0,f\n1,f\n2,m\n3,m\n")
    return tmp_path


def make_validator(sets: dict[str, str], home: Path | None) -> Validator:
    return Validator(sets, home=home, image_size=(112, 112), batch_size=8)


def test_any_target_is_watched(home: Path) -> None:
    torch.manual_seed(0)
    model = build("tiny", features=16).train()
    sets = {"lfw": "lfw", "own": "identities faces"}
    lfw, own = make_validator(sets, home)(model)
    assert (lfw.target, lfw.figure, own.target, own.figure) == ("lfw", "accuracy", "own", "rank-1")
    assert list(lfw.values) == ["accuracy", "std", "auc", "norm"]
    wanted = evaluate(model, find_target("identities faces", home)())
    assert own.values == {
        "rank-1": own.value,
        **{name: each.value for name, each in wanted.figures.items() if name != "rank-1"},
    }
    assert own.value == wanted.figures["rank-1"].value and own.std is None
    assert model.training


def test_targets_are_found_again_from_any_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    sets = {
        "lfw": "lfw.bin",
        "own": "identities faces --group sex.csv",
        "col": "identities ./faces --group=sex.csv:sex",
    }
    lasting = make_validator(sets, None).lasting
    assert shlex.split(lasting["own"]) == [
        "identities", str(home / "faces"), "--group", str(home / "sex.csv")
    ]  # fmt: skip
    assert shlex.split(lasting["col"])[2] == f"--group={home / 'sex.csv'}:sex"
    monkeypatch.chdir("/")
    assert make_validator(lasting, None).lasting == lasting
    named = make_validator({"own": "identities faces"}, home).lasting
    assert named == {"own": "identities faces"}


def test_what_is_no_target_is_told_before_the_first_step(home: Path) -> None:
    with pytest.raises(EvaluationError, match="none"):
        make_validator({"own": "identities none"}, home)
    with pytest.raises(ConfigError, match="facepack eval identities --help"):
        make_validator({"own": "identities faces --grupp x"}, home)
    with pytest.raises(ConfigError, match="quote"):
        make_validator({"own": "identities 'faces"}, home)


def test_the_best_of_a_figure_is_kept(home: Path) -> None:
    (own,) = make_validator({"own": "identities faces"}, home)(build("tiny", features=16).eval())
    assert own.value is not None
    verification = Verification(None)
    verification.best = {"own": {"accuracy": 0.9, "step": 3}}  # of a set that was called so before
    line = verification._note_best(own, own.value, 7)
    assert verification.best == {"own": {"rank-1": own.value, "step": 7}}
    assert line == f"step 7: own rank-1 {own.value:.4f} (best {own.value:.4f}, step 7)"
    assert describe_best("own", verification.best["own"]).startswith("best own rank-1: ")
    assert describe_best("lfw", {"accuracy": 0.5, "step": 2}) == "best lfw: 0.5000 at step 2"
