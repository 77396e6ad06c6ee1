"""Swapped colours of a pack and of a model: each is put right by itself, whatever the other is."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import facepack
from facepack.cli import root
from facepack.evaluate.embedding.embeddings import open_embeddings
from facepack.evaluate.noise.page import Pictures
from facepack.evaluate.protocols.verification import PairVerification
from facepack.evaluate.sets.alignment import LandmarkedFaces
from facepack.evaluate.sets.named_images import ChosenImages
from facepack.evaluate.sets.pairs import PairSet, load_pair_set
from facepack.store.checks import ImageCheck
from facepack.train.backbones import build
from facepack.train.config import TrainConfig, dump_config
from facepack.train.models.export import _pack_pixels

IMAGES = 6


def faces() -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (IMAGES, 4, 4, 3))
    return coarse.repeat(28, axis=1).repeat(28, axis=2).astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG")
    return out.getvalue()


def write(path: Path, channels: str, *, pairs: bool = False) -> Path:
    """The faces, stored in an order: lossless, so that they decode to the same."""
    with facepack.PackWriter(path, order="source", check=ImageCheck(channels=channels)) as writer:
        for k, face in enumerate(faces()):
            writer.add(png(face if channels == "rgb" else face[..., ::-1]), -1 if pairs else k % 2)
        if pairs:
            writer.add_table("pairs", np.array([(0, 1, 1), (2, 3, 0), (4, 5, 1)]))
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    (tmp_path / "run").mkdir()
    torch.save(build("tiny", features=16).state_dict(), tmp_path / "run" / "model.pt")
    config = TrainConfig(shards="faces", backbone="tiny", features=16)
    (tmp_path / "run" / "config.toml").write_text(dump_config(config))
    return tmp_path / "run"


@pytest.mark.parametrize("pairs", [False, True])
def test_every_pack_with_every_model(tmp_path: Path, run: Path, pairs: bool) -> None:
    """The twin is the network on the pixels that were drawn, in the order that it takes."""
    network = build("tiny", features=16).eval()
    network.load_state_dict(torch.load(run / "model.pt", weights_only=True))
    found = {}
    for stored in ("rgb", "bgr"):
        pack = write(tmp_path / stored, stored, pairs=pairs)
        for taken in ("rgb", "bgr"):
            out = tmp_path / f"{stored}-{taken}"
            words = ["embed", pack, "--model", run, "--out", out, "--channels", taken, "--no-flip"]
            result = CliRunner().invoke(root, list(map(str, words)))
            assert result.exit_code == 0, result.output
            found[stored, taken] = open_embeddings(out).rows
    for taken in ("rgb", "bgr"):
        pixels = torch.from_numpy(faces()).permute(0, 3, 1, 2).float().sub(127.5).div(127.5)
        with torch.inference_mode():
            twin = network(pixels if taken == "rgb" else pixels.flip(1)).numpy()
        for stored in ("rgb", "bgr"):
            np.testing.assert_allclose(found[stored, taken], twin, rtol=1e-4, atol=1e-5)
    assert np.abs(found["rgb", "rgb"] - found["rgb", "bgr"]).max() > 1e-3


def test_a_verification_set(tmp_path: Path) -> None:
    found: list[PairSet] = [
        load_pair_set(write(tmp_path / channels, channels, pairs=True))
        for channels in ("rgb", "bgr")
    ]
    for pair_set in found:
        shown = PairVerification(pair_set).faces
        options = {"batch_size": 4, "image_size": (112, 112), "device": "cpu"}
        batches = list(shown.batches(0, IMAGES, **options))
        np.testing.assert_array_equal(np.concatenate(batches), faces())
        np.testing.assert_array_equal(pair_set.decoded().images, faces())
        again = PairVerification(pair_set.decoded()).faces
        np.testing.assert_array_equal(next(iter(again.batches(0, 4, **options))), faces()[:4])
    # The same bytes, taken for RGB, are other faces: embeddings of the one are not the other's.
    as_rgb = PairSet.from_images(
        "x", found[1].images, keys=found[1].keys, pairs=found[1].pairs, issame=found[1].issame
    )
    ids = [PairVerification(each).faces.content_id for each in (found[1], as_rgb)]
    assert ids[0] != ids[1]


def test_some_images_and_pictures_of_them(tmp_path: Path) -> None:
    with facepack.open(write(tmp_path / "pack", "bgr")) as pack:
        chosen = ChosenImages(pack, np.array([4, 1]))
        picture = Image.open(io.BytesIO(Pictures(chosen).of(1).jpeg)).convert("RGB")
        wanted = Image.fromarray(faces()[1]).resize(picture.size)
        difference = np.asarray(picture, int) - np.asarray(wanted, int)
        assert np.abs(difference).mean() < 8
        corners = np.array([(38, 52), (74, 52), (56, 72), (42, 92), (71, 92)], float)
        aligned = LandmarkedFaces(chosen, np.tile(corners, (2, 1, 1)), "chosen")
        options = {"batch_size": 2, "image_size": (112, 112), "device": "cpu"}
        (batch,) = aligned.batches(0, 2, **options)
        assert np.abs(np.asarray(batch, int)[1] - faces()[1]).mean() < 20


def test_an_export_is_compared_on_right_colours(tmp_path: Path) -> None:
    model = build("tiny", features=16)
    pixels = []
    for stored in ("rgb", "bgr"):
        with facepack.open(write(tmp_path / stored, stored)) as pack:
            pixels.append(_pack_pixels(model, pack, IMAGES))
    assert torch.equal(*pixels)
