"""A tiny pack, and a network small enough that a step of training takes milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from torch import nn

import facepack
from facepack.train.backbones import registry
from facepack.train.config import TrainConfig

IDENTITIES, IMAGES_EACH = 5, 9


class Small(registry.Backbone):
    """Convolution, normalisation, dropout, embedding: one of each kind of state."""

    def __init__(self, embedding_size: int, dropout: float, autocast: torch.dtype | None) -> None:
        super().__init__(embedding_size, autocast)
        self.conv = nn.Conv2d(3, 4, 8, stride=8)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(4 * 14 * 14, embedding_size)

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(self.conv(images)).relu().flatten(1))

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.fc(hidden)


@pytest.fixture
def small_backbone(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name under which :class:`Small` can be built, for this test alone."""
    monkeypatch.setitem(registry._BUILDERS, "small", Small)
    return "small"


def make_jpeg(identity: int, shot: int, side: int = 112) -> bytes:
    """An identity is a pattern of colours; a shot adds noise to it."""
    pattern = np.random.default_rng(identity).integers(40, 216, (4, 4, 3))
    noise = np.random.default_rng([identity, shot]).integers(-20, 21, (side, side, 3))
    face = pattern.repeat(side // 4, axis=0).repeat(side // 4, axis=1) + noise
    return simplejpeg.encode_jpeg(face.astype(np.uint8), quality=85)


@pytest.fixture(scope="session")
def pack_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of 45 images of 5 identities."""
    path = tmp_path_factory.mktemp("data") / "faces"
    with facepack.PackWriter(path) as writer:
        for identity in range(IDENTITIES):
            for shot in range(IMAGES_EACH):
                writer.add(make_jpeg(identity, shot), identity)
    return path


@pytest.fixture(scope="session")
def pairs_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A verification set of 20 pairs, of identities that the pack does not hold."""
    path = tmp_path_factory.mktemp("data") / "pairs"
    table = [(2 * i, 2 * i + 1, int(i % 2 == 0)) for i in range(20)]
    with facepack.PackWriter(path, order="source") as writer:
        for i, (_, _, same) in enumerate(table):
            writer.add(make_jpeg(100 + i, 0), -1)
            writer.add(make_jpeg(100 + i if same else 200 + i, 1), -1)
        writer.add_table("pairs", np.array(table, np.int64))
    return path


@pytest.fixture
def small_config(pack_path: Path, small_backbone: str) -> Callable[..., TrainConfig]:
    """Settings of a run of 11 steps of 8 images, 5 an epoch, with all that keeps state."""

    def make(**changes: Any) -> TrainConfig:
        settings: dict[str, Any] = {
            "shards": str(pack_path),
            "backbone": small_backbone,
            "features": 16,
            "dropout": 0.3,
            "sample_rate": 0.6,
            "lr": 0.05,
            "schedule": "mhlr",
            "schedule_options": {"window": 2, "read_every": 3, "threshold": 50.0},
            "steps": 11,
            "batch_size": 8,
            "precision": "fp32",
            "log_every": 3,
            "threads": 1,
            "loader_threads": 1,
        }
        settings.update(changes)
        return TrainConfig(**settings)

    return make


@pytest.fixture(scope="session")
def assert_same() -> Callable[[Any, Any], None]:
    """Equality to the bit, through dicts and lists."""

    def compare(one: Any, other: Any, at: str = "") -> None:
        assert type(one) is type(other), at
        if isinstance(one, torch.Tensor):
            assert one.dtype == other.dtype and torch.equal(one, other), at
        elif isinstance(one, dict):
            assert one.keys() == other.keys(), at
            for key in one:
                compare(one[key], other[key], f"{at}/{key}")
        elif isinstance(one, list):
            assert len(one) == len(other), at
            for index, (a, b) in enumerate(zip(one, other, strict=True)):
                compare(a, b, f"{at}/{index}")
        else:
            assert one == other, at

    return compare
