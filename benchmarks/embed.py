"""Embedding a pack beside the bare forward passes, on images that were decoded before.

    python benchmarks/embed.py PACK [--backbone r50] [--images 64] [--batch-size 16] [--rounds 5]

``facepack embed`` reads the pack, decodes, embeds each image and its mirror image, and writes rows,
norms and keys, synced; the bare passes get pixels in memory, flip them and add the two. Both take
turns in rounds; a ratio is of one round. Seconds are of the clock, and beside them those of the
processors, which tell the work where others use the machine as well. Weights are random.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is first imported

import numpy as np
import torch

import facepack
from facepack.evaluate.embedding.embed_into import EmbedOptions, embed_into
from facepack.evaluate.faces.faces import SourceFaces
from facepack.evaluate.sets.named_images import ChosenImages
from facepack.train.backbones import Backbone, build
from facepack.train.precision import float32_products


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument("--backbone", default="r50")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    rounds = measure(options)
    print_shares(rounds)
    rate = options.images / statistics.median(bare["seconds"] for _, bare in rounds)
    setting = {
        "backbone": options.backbone,
        "images": options.images,
        "batch": options.batch_size,
        "bare images/s": round(rate, 1),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, "
        f"load {os.getloadavg()[0]:.1f}",
        "torch": torch.__version__,
    }
    print(", ".join(f"{key} {value}" for key, value in setting.items()))
    if options.json:
        options.json.write_text(json.dumps({"setting": setting, "rounds": rounds}, indent=1))


def measure(options: argparse.Namespace) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Seconds of embedding and of the bare passes, in rounds."""
    device = torch.device(options.device)
    model = build(options.backbone).eval().to(device, memory_format=torch.channels_last)
    with facepack.open(options.pack) as pack, tempfile.TemporaryDirectory() as folder:
        images = ChosenImages(pack, np.arange(min(options.images, len(pack))))
        options.images = len(images)
        pixels = torch.from_numpy(np.stack([pack.decode(i) for i in range(len(images))]))
        out = Path(folder) / "E"

        def whole() -> None:
            embed_into(
                out,
                model,
                SourceFaces(images, "images"),
                stated={},
                device=device,
                options=EmbedOptions(batch_size=options.batch_size, overwrite=out.exists()),
            )

        size = options.batch_size
        return take_turns(
            whole, lambda: bare(model, pixels, size, device, mirrored=True), options.rounds
        )


def take_turns(
    whole: Callable[[], None], bare: Callable[[], None], count: int
) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Seconds of both in each of ``count`` rounds, after one to warm up."""
    rounds = []
    for number in range(-1, count):
        turn = timed(whole), timed(bare)
        print(f"round {number + 1}: {turn}", file=sys.stderr)
        if number >= 0:
            rounds.append(turn)
    return rounds


def print_shares(rounds: list[tuple[dict[str, float], dict[str, float]]]) -> None:
    """Print what share of the bare passes' speed the whole has."""
    for what in ("seconds", "cpu"):
        values = sorted(bare[what] / whole[what] for whole, bare in rounds)
        print(
            f"of the bare passes' speed, by {what}: median {statistics.median(values):.3f} "
            f"({values[0]:.3f} to {values[-1]:.3f}), n = {len(values)}"
        )


@torch.inference_mode()
def bare(
    model: Backbone,
    pixels: torch.Tensor,
    batch_size: int,
    device: torch.device,
    *,
    mirrored: bool,
) -> None:
    """The forward passes of images, and those of their mirror images, added."""
    with float32_products(tf32=False):
        for start in range(0, len(pixels), batch_size):
            batch = pixels[start : start + batch_size].to(device).permute(0, 3, 1, 2).float()
            faces = batch.sub_(127.5).div_(127.5)
            embeddings = model(faces)
            (embeddings + model(faces.flip(3)) if mirrored else embeddings).cpu()


def timed(work: Callable[[], None]) -> dict[str, float]:
    clock, processors = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - clock, "cpu": time.process_time() - processors}


if __name__ == "__main__":
    main()
