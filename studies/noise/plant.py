"""Wrong labels and people of no class, put into a pack whose labels are right."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import facepack
from facepack.hashing import derive_seed, hash64

TRUTH = ("label_noise.tsv", "outside_noise.tsv")
"""As ``facepack synth`` writes them; a key is the position + 1."""


def plant(source: Path, out: Path, *, permuted: float, outside: float, seed: int = 0) -> None:
    """Write ``out/pack`` from the pack ``source``, and beside it what is wrong in it.

    The last identities are taken out, as many as have ``outside`` of the images, and each of their
    images goes to an identity drawn at random; of the others' images a share ``permuted`` changes
    labels among each other, by a cycle, so that identities keep their sizes.

    Args:
        source: a training pack.
        out: a new folder.
        permuted: share of the images.
        outside: share of the images.
        seed: of what is drawn.
    """
    out.mkdir(parents=True)
    with facepack.open(source) as pack:
        labels = pack.labels
        counts = np.bincount(labels)
        behind = counts[::-1].cumsum()[::-1]  # images from each identity on
        classes = max(2, int(np.searchsorted(-behind, -outside * len(pack))))
        shown = np.where(labels < classes, labels, -1)
        given = np.where(shown >= 0, labels, _draw(seed, 1, len(pack)) % classes)
        inside = np.flatnonzero(shown >= 0)
        chosen = inside[np.argsort(_draw(seed, 2, len(inside)))[: round(permuted * len(inside))]]
        given[chosen] = np.roll(given[chosen], 1)
        order = np.argsort(given, kind="stable")
        with facepack.PackWriter(out / "pack", classes=classes, order="source") as writer:
            for position in order.tolist():
                writer.add(pack[position].image, label=int(given[position]))
        wrong = given[order] != shown[order]
        strange = shown[order] < 0
        for name, of_kind in zip(TRUTH, (wrong & ~strange, strange), strict=True):
            lines = [
                f"{at + 1}\t{given[order[at]]}\t{labels[order[at]]}\n"
                for at in np.flatnonzero(of_kind)
            ]
            (out / name).write_text("key\tlabel\tidentity\n" + "".join(lines), encoding="ascii")


def _draw(seed: int, purpose: int, count: int) -> np.ndarray:
    return (hash64(derive_seed(seed, purpose), np.arange(count)) >> np.uint64(2)).astype(np.int64)


def read_truth(folder: Path, images: int) -> np.ndarray:
    """What is wrong with each image: int64 (images,), 0 nothing, 1 its label, 2 it is of nobody."""
    truth = np.zeros(images, np.int64)
    for kind, name in enumerate(TRUTH, start=1):
        if (folder / name).is_file():
            lines = (folder / name).read_text(encoding="ascii").splitlines()[1:]
            keys = [int(line.split("\t")[0]) for line in lines]
            truth[np.array(keys, np.int64) - 1] = kind
    return truth
