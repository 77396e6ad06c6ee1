"""Scoring a pack for noise beside the bare forward passes, on images that were decoded before.

    python benchmarks/noise.py PACK [--backbone r18] [--images 256] [--batch-size 32] [--rounds 5]

``facepack noise`` reads the pack, decodes, embeds each image, writes the embeddings, compares them
with all class centres and writes scores and lists; the bare passes get pixels in memory. Both take
turns in rounds; a ratio is of one round. Seconds are of the clock, and beside them those of the
processors, which tell the work where others use the machine as well. Weights and centres are
random.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is first imported

import numpy as np
import torch
from embed import bare, print_shares, take_turns

import facepack
from facepack.evaluate.faces.faces import SourceFaces
from facepack.evaluate.noise.classifier import Classifier
from facepack.evaluate.noise.find import NoiseOptions, look_for_noise
from facepack.evaluate.sets.labelled import LabelledImages
from facepack.store.pack import Pack
from facepack.train.backbones import build
from facepack.train.data import label_map_digest
from facepack.train.heads import build_margin
from facepack.train.heads.logits import LogitRule


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument("--backbone", default="r18")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    rounds = measure(options)
    print_shares(rounds)
    print(
        f"{options.backbone}, {options.images} images in batches of {options.batch_size}, "
        f"{platform.machine()}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, "
        f"torch {torch.__version__}"
    )


def measure(options: argparse.Namespace) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Seconds of scoring and of the bare passes, in rounds."""
    device = torch.device(options.device)
    with facepack.open(options.pack) as whole, tempfile.TemporaryDirectory() as folder:
        keep = np.zeros(len(whole), bool)
        keep[: options.images] = True
        part = Pack(whole.path, keep=keep)
        options.images = len(part)
        classifier = random_classifier(options.backbone, part)
        model = classifier.backbone.to(device)
        pixels = torch.from_numpy(np.stack([part.decode(i) for i in range(len(part))]))
        images = LabelledImages(source=part, faces=SourceFaces(part, "images"))
        out = Path(folder) / "noise"

        def score() -> None:
            again = NoiseOptions(batch_size=options.batch_size, overwrite=out.exists())
            look_for_noise(out, images, classifier, device=device, options=again)

        size = options.batch_size
        return take_turns(
            score, lambda: bare(model, pixels, size, device, mirrored=False), options.rounds
        )


def random_classifier(backbone: str, data: Pack) -> Classifier:
    """A classifier of the pack's classes that was never trained."""
    model = build(backbone).eval()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Classifier(
        name="random",
        checksum="",
        backbone=model,
        centres=torch.randn(data.classes, 512),
        rule=LogitRule(margin=build_margin("arcface")),
        margin_state={},
        step=0,
        label_map=label_map_digest(data),
    )


if __name__ == "__main__":
    main()
