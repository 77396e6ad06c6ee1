"""Long-tailed, noisy sets whose noise is known: real faces thinned to a tail, and drawn ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import facepack
from facepack.care.select import split
from facepack.convert.faces.synth import SynthOptions, generate
from facepack.convert.faces.tail import LongTail
from studies.noise.plant import plant, read_truth
from studies.schedules.sets import held_out_faces, read_rec, write_pack


@dataclass(frozen=True, kw_only=True)
class Noisy:
    """A noisy pack, its parts, and what is wrong in it, in one folder."""

    folder: Path

    @property
    def pack(self) -> Path:
        """All of it."""
        return self.folder / "pack"

    @property
    def head(self) -> Path:
        """Identities with many images."""
        return self.folder / "head"

    @property
    def tail(self) -> Path:
        """Identities with few."""
        return self.folder / "tail"

    @property
    def wrong(self) -> Path:
        """A list of all images that are not what their labels say."""
        return self.folder / "wrong.txt"

    def make(self, source: Path, *, permuted: float, outside: float, min_images: int) -> None:
        """Plant noise in the images of the pack ``source``; part the result by sizes."""
        plant(source, self.folder, permuted=permuted, outside=outside)
        with facepack.open(self.pack) as pack:
            truth = read_truth(self.folder, len(pack))
        split(self.pack, self.head, self.tail, min_images=min_images)
        lines = [f"{position}\n" for position in np.flatnonzero(truth).tolist()]
        self.wrong.write_text("".join(lines), encoding="ascii")  # last: the set is whole


def thin(source: Path, out: Path, *, whole: float, tail: LongTail, seed: int = 0) -> None:
    """Make a pack of images of ``source``: a share ``whole`` of its identities keeps all of them.

    Each of the others keeps as many as it draws from ``tail``.
    """
    random = np.random.default_rng(seed)
    with facepack.open(source) as pack:
        labels = pack.labels
        classes = int(labels.max()) + 1
        counts = tail.counts(seed, np.arange(classes))
        counts[random.permutation(classes)[: round(whole * classes)]] = len(labels)
        order = np.lexsort((random.permutation(len(labels)), labels))
        place = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])
        kept = order[place < counts[labels[order]]]
        write_pack(out, [bytes(pack[at].image) for at in kept.tolist()], labels[kept])


def draw(out: Path, *, identities: int, images: int | str, unseen: int) -> None:
    """Draw people for a pack, ``drawn-right``, and others, for the pairs ``unseen.npz``."""
    people = {"drawn-right": (identities, images), "unseen": (unseen, 4)}
    for seed, (name, (number, each)) in enumerate(people.items()):
        folder = out.parent / "synthetic" / name
        options = SynthOptions(identities=number, images_per_identity=each, seed=seed)
        generate(folder, options, workers=1, overwrite=True)
        faces, labels = zip(*read_rec(folder), strict=True)
        if name == "unseen":
            pairs = held_out_faces(list(faces), np.array(labels), per_identity=6)
            pairs.save(out / f"{name}.npz")
        else:
            write_pack(out / name, list(faces), np.array(labels))
