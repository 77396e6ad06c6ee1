"""What the study trains and verifies on: packs cut from data sets, and pairs with their identities.

Verification sets are kept with the identity behind each image, which the bootstrap resamples.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import simplejpeg
import xxhash
from PIL import Image

import facepack
from facepack.convert.formats.rec.source import RecSource
from facepack.convert.source import Refusal
from facepack.evaluate.sets.pairs import PairSet
from facepack.hashing import derive_seed, hash64

FOLDS = 10
_QUALITY = 93


@dataclass(frozen=True, kw_only=True, eq=False)
class Faces:
    """Encoded images and pairs of them, with the identity of each image."""

    images: list[bytes]
    """n encoded images."""
    pairs: np.ndarray
    """(P, 2) int64: positions of the images of each pair."""
    issame: np.ndarray
    """(P,) bool."""
    identities: np.ndarray
    """(n,) int64, from 0."""

    def save(self, path: Path) -> None:
        """Write all into one ``.npz``."""
        np.savez(
            path,
            joined=np.frombuffer(b"".join(self.images), np.uint8),
            ends=np.cumsum([len(image) for image in self.images]),
            pairs=self.pairs,
            issame=self.issame,
            identities=self.identities,
        )

    @classmethod
    def load(cls, path: Path) -> Faces:
        """Read what :meth:`save` wrote."""
        with np.load(path) as stored:
            joined, ends = stored["joined"].tobytes(), stored["ends"].tolist()
            starts = [0, *ends[:-1]]
            return cls(
                images=[joined[a:b] for a, b in zip(starts, ends, strict=True)],
                pairs=stored["pairs"],
                issame=stored["issame"],
                identities=stored["identities"],
            )


def read_rec(rec: Path) -> Iterator[tuple[bytes, int]]:
    """Yield each image of a ``.rec`` and its label."""
    source = RecSource(rec)
    for record in source.part(0, len(source)).read():
        if not isinstance(record, Refusal):
            yield bytes(record.image), record.label


def choose_held_out(labels: np.ndarray, *, share: float, seed: int) -> np.ndarray:
    """The identities that are held out: ``share`` of those in ``labels`` (n,), sorted."""
    present = np.unique(labels)
    order = np.argsort(hash64(derive_seed(seed), present), kind="stable")
    return np.sort(present[order[: round(share * len(present))]])


def write_pack(path: Path, images: list[bytes], labels: np.ndarray) -> None:
    """Pack ``images`` with ``labels`` (n,) renumbered from 0 without gaps."""
    classes, numbered = np.unique(labels, return_inverse=True)
    with facepack.PackWriter(path, classes=len(classes), overwrite=True) as writer:
        for image, label in zip(images, numbered.tolist(), strict=True):
            writer.add(image, label)


def fold_pairs(
    labels: np.ndarray, *, per_identity: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs in ten folds that share no identity: (P, 2) int64 positions and (P,) bool.

    Of each identity at most ``per_identity`` pairs are drawn, and as many different pairs within
    the fold as there are same ones. All folds have the size of the smallest, half of it the same
    person, so that the ten-fold accuracy is the share of all pairs told right.

    Raises:
        ValueError: a fold would hold fewer than two identities.
    """
    random = np.random.default_rng(seed)
    identities = random.permutation(np.unique(labels))
    if len(identities) < 2 * FOLDS:
        raise ValueError(
            f"{len(identities)} identities make no {FOLDS} folds with different pairs in each: "
            f"hold out at least {2 * FOLDS}"
        )
    same_of: list[list[tuple[int, int]]] = []
    members_of: list[np.ndarray] = []
    for fold in range(FOLDS):
        own = identities[fold::FOLDS]
        same: list[tuple[int, int]] = []
        for identity in own:
            choices = list(combinations(np.flatnonzero(labels == identity).tolist(), 2))
            drawn = random.permutation(len(choices))[:per_identity]
            same += [choices[i] for i in drawn]
        same_of.append([same[i] for i in random.permutation(len(same))])
        members_of.append(np.flatnonzero(np.isin(labels, own)))
    half = min(map(len, same_of))
    pairs: list[tuple[int, int]] = []
    for same, members in zip(same_of, members_of, strict=True):
        pairs += same[:half]
        pairs += draw_different(labels, members, half, random)
    issame = np.tile(np.repeat([True, False], half), FOLDS)
    return np.array(pairs, np.int64), issame


def draw_different(
    labels: np.ndarray, members: np.ndarray, count: int, random: np.random.Generator
) -> list[tuple[int, int]]:
    """Draw ``count`` pairs of different identities among the positions ``members``."""
    drawn: list[tuple[int, int]] = []
    while len(drawn) < count:
        tried = random.choice(members, size=(2 * count + 16, 2))
        tried = tried[labels[tried[:, 0]] != labels[tried[:, 1]]]
        drawn += [(int(a), int(b)) for a, b in tried[: count - len(drawn)]]
    return drawn


def held_out_faces(images: list[bytes], labels: np.ndarray, *, per_identity: int) -> Faces:
    """Pairs made from labelled images, in ten folds."""
    pairs, issame = fold_pairs(labels, per_identity=per_identity, seed=0)
    identities = np.unique(labels, return_inverse=True)[1]
    return Faces(images=images, pairs=pairs, issame=issame, identities=identities)


def all_same_and_some_different(
    images: list[bytes], labels: np.ndarray, *, different: int
) -> Faces:
    """Every pair of one person, and ``different`` drawn pairs of two."""
    same = [
        pair
        for identity in np.unique(labels)
        for pair in combinations(np.flatnonzero(labels == identity).tolist(), 2)
    ]
    random = np.random.default_rng(0)
    others = draw_different(labels, np.arange(len(labels)), different, random)
    return Faces(
        images=images,
        pairs=np.array(same + others, np.int64),
        issame=np.repeat([True, False], [len(same), different]),
        identities=np.unique(labels, return_inverse=True)[1],
    )


def faces_of_pair_set(pair_set: PairSet, labelled: Mapping[bytes, int]) -> Faces:
    """A published pair set with the identities that it does not tell.

    Two images are of one identity if they make a same pair, or if ``labelled`` (xxh3-128 digest of
    an image → label, from a labelled set that holds some of the images) gives them one label; and
    so on from image to image. An image that nothing joins to another is an identity of its own.

    Raises:
        ValueError: a different pair falls into one identity: the labels are not of these people.
    """
    images = [bytes(image) for image in pair_set.images]
    parent = list(range(len(images)))

    def find(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for first, second in pair_set.pairs[pair_set.issame].tolist():
        parent[find(first)] = find(second)
    first_of: dict[int, int] = {}
    for position, image in enumerate(images):
        label = labelled.get(xxhash.xxh3_128_digest(image))
        if label is not None:
            parent[find(position)] = find(first_of.setdefault(label, position))
    roots = [find(position) for position in range(len(images))]
    identities = np.unique(roots, return_inverse=True)[1]
    first, second = identities[pair_set.pairs].T
    wrong = int(np.count_nonzero((first == second) != pair_set.issame))
    if wrong:
        raise ValueError(f"{pair_set.name}: {wrong} different pairs fall into one identity")
    return Faces(images=images, pairs=pair_set.pairs, issame=pair_set.issame, identities=identities)


def digests(labelled: list[tuple[bytes, int]]) -> dict[bytes, int]:
    """xxh3-128 digest of each image → its label."""
    return {xxhash.xxh3_128_digest(image): label for image, label in labelled}


def coarsen(image: bytes, side: int) -> bytes:
    """The image as if it had been taken at ``side`` × ``side`` pixels, at its old size again."""
    with Image.open(io.BytesIO(image)) as picture:
        full = picture.size
        if full == (side, side):
            return image
        small = picture.convert("RGB").resize((side, side), Image.Resampling.BOX)
    again = np.asarray(small.resize(full, Image.Resampling.BICUBIC))
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(again), quality=_QUALITY, colorspace="RGB", colorsubsampling="420"
    )
