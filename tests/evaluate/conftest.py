"""Tiny verification sets, and a network that tells their people apart without any training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from torch import nn

PAIRS = 20


def make_face(person: int, shot: int) -> np.ndarray:
    """A person is a coarse pattern of colours, a shot adds noise to it: (112, 112, 3) uint8."""
    pattern = np.random.default_rng(person).integers(40, 216, (4, 4, 3))
    noise = np.random.default_rng([person, shot]).integers(-12, 13, (112, 112, 3))
    return (pattern.repeat(28, axis=0).repeat(28, axis=1) + noise).astype(np.uint8)


def make_jpeg(face: np.ndarray) -> bytes:
    return simplejpeg.encode_jpeg(np.ascontiguousarray(face), quality=90)


def make_pairs(pairs: int = PAIRS) -> tuple[list[bytes], np.ndarray]:
    """2·pairs JPEGs and issame, by turns True and False; each person's first shot recurs."""
    images, issame = [], np.arange(pairs) % 2 == 0
    for pair, same in enumerate(issame):
        person = pair // 4
        images.append(make_jpeg(make_face(person, 0)))
        images.append(make_jpeg(make_face(person if same else person + 100, pair + 1)))
    return images, issame


class Averages(nn.Module):
    """An embedding of colour averages over a 4×4 grid: 48 numbers, no learned weights."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.pool(images).flatten(1)


@pytest.fixture
def averages() -> Averages:
    return Averages()


@pytest.fixture
def encode_jpeg() -> Callable[[np.ndarray], bytes]:
    return make_jpeg


@pytest.fixture
def pair_images() -> tuple[list[bytes], np.ndarray]:
    return make_pairs()


@pytest.fixture
def write_tree() -> Callable[[Path, list[bytes], np.ndarray], Path]:
    """Write a set as the MHLR project lays it out, and give its folder back."""

    def write(folder: Path, images: list[bytes], issame: np.ndarray) -> Path:
        (folder / "imgs").mkdir(parents=True)
        for i, image in enumerate(images):
            (folder / "imgs" / f"{i}.jpg").write_bytes(image)
        np.save(folder / "pair_label.npy", issame)
        return folder

    return write
