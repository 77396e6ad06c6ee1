"""What the maker of a source knows of it, and what a choice leaves of that, the slow way.

Nothing here reads a source: the truth is stated by whoever drew the images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from facepack.hashing import hash64

SIDE, OTHER_SIDE = 16, 24  # pixels
PEOPLE = ("Zoë", "b c", "Zoë", "a", "b c", "Zoë", "B", "Zoë", "a", "b c")
MAGIC = (0xCED7230A).to_bytes(4, "little")  # of RecordIO, whose writers must split at it


@dataclass(frozen=True, kw_only=True)
class Shot:
    """An image of a person, with what is odd about it."""

    person: str
    image: bytes
    grey: bool = False
    side: int = SIDE
    whole: bool = True


def draw(number: int, *, side: int = SIDE, grey: bool = False, comment: bytes = b"") -> bytes:
    """A small JPEG that no other number has."""
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3)).astype(np.uint8)
    if grey:
        plane = np.ascontiguousarray(pixels[:, :, :1])
        data = simplejpeg.encode_jpeg(plane, colorspace="GRAY", quality=50)
    else:
        data = simplejpeg.encode_jpeg(pixels, quality=50)
    if comment:
        segment = b"\xff\xfe" + (2 + len(comment)).to_bytes(2, "big") + comment
        data = data[:2] + segment + data[2:]
    return data


def draw_shots(*, broken: bool = False) -> list[Shot]:
    """Ten images of four people: one grey, one larger, one twice, one with RecordIO's magic in it.

    Args:
        broken: put one more among them that was cut off.
    """
    shots = [Shot(person=person, image=draw(k)) for k, person in enumerate(PEOPLE)]
    # 24 bytes of header and 8 of the image stand before it, so that it lies where it counts.
    shots[2] = Shot(person=PEOPLE[2], image=draw(2, comment=b"??" + MAGIC))
    shots[4] = Shot(person=PEOPLE[4], image=draw(4, grey=True), grey=True)
    shots[5] = Shot(person=PEOPLE[5], image=draw(5, side=OTHER_SIDE), side=OTHER_SIDE)
    shots[8] = Shot(person=PEOPLE[8], image=shots[0].image)
    if broken:
        shots.insert(3, Shot(person="Zoë", image=draw(99)[:-40], whole=False))
    return shots


@dataclass(frozen=True, kw_only=True)
class Face:
    """A record of a source.

    Attributes:
        shot: the image.
        label: of the identity; -1 for none.
        name: what the source calls the record.
        person: what the source calls the identity.
        known_as: what a list of images to leave out calls the record.
        stem: of the file of several that it lies in.
        numbers: what else the source says of it.
    """

    shot: Shot
    label: int = -1
    name: str | None = None
    person: str | None = None
    known_as: str | None = None
    stem: str = ""
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Truth:
    """A source.

    Attributes:
        faces: in its order.
        content: as :class:`facepack.convert.source.Source` names it.
        tables: of an evaluation set; images in them are places in ``faces``, -1 for none.
    """

    faces: Sequence[Face]
    content: str = "train"
    tables: dict[str, Sequence[Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Made:
    """A source on disk.

    Attributes:
        paths: SRC, as the command takes it.
        options: of the command, which belong to this source.
        typed: what the user types.
        truth: what is in it.
    """

    paths: Sequence[Path]
    truth: Truth
    options: Sequence[str] = ()
    typed: str | None = None


# Choosing ----------------------------------------------------------------------------------------

Choose = Callable[[Sequence[Face]], list[int]]


def everything(faces: Sequence[Face]) -> list[int]:
    """All places."""
    return list(range(len(faces)))


def excluded(faces: Sequence[Face]) -> list[str]:
    """A list of one image and one identity to leave out, as far as the source names any."""
    names = [face.known_as for face in faces if face.known_as is not None]
    people = sorted({face.person for face in faces if face.person is not None})
    return [*names[1:2], *(f"{person}/" for person in people[:1])]


def without_excluded(faces: Sequence[Face]) -> list[int]:
    """What :func:`excluded` leaves."""
    names = excluded(faces)
    return [
        k for k, f in enumerate(faces) if f.known_as not in names and f"{f.person}/" not in names
    ]


def _labels(faces: Sequence[Face]) -> list[int]:
    return sorted({face.label for face in faces if face.label >= 0})


def lowest(count: int) -> Choose:
    """The identities of the lowest labels."""

    def choose(faces: Sequence[Face]) -> list[int]:
        return [k for k, f in enumerate(faces) if f.label in _labels(faces)[:count]]

    return choose


def between(low: int, high: int) -> Choose:
    """The identities with these labels."""
    return lambda faces: [k for k, face in enumerate(faces) if low <= face.label < high]


def listed(faces: Sequence[Face]) -> list[str]:
    """A list of two identities: by name, where the source has any, else by label."""
    names = {face.label: face.person for face in faces}
    return [names[label] or str(label) for label in _labels(faces)[1:3]]


def of_listed(faces: Sequence[Face]) -> list[int]:
    """The identities of :func:`listed`."""
    return [k for k, face in enumerate(faces) if face.label in _labels(faces)[1:3]]


def least(count: int) -> Choose:
    """Identities with so many images or more, and images without identity."""

    def choose(faces: Sequence[Face]) -> list[int]:
        images = Counter(face.label for face in faces)
        return [k for k, f in enumerate(faces) if f.label < 0 or images[f.label] >= count]

    return choose


def fewer(count: int) -> Choose:
    """Identities with fewer images."""

    def choose(faces: Sequence[Face]) -> list[int]:
        images = Counter(face.label for face in faces)
        return [k for k, f in enumerate(faces) if f.label >= 0 and images[f.label] < count]

    return choose


def sampled(count: int, seed: int) -> Choose:
    """So many images by chance: those of the least hashes."""

    def choose(faces: Sequence[Face]) -> list[int]:
        chance = hash64(seed, np.arange(len(faces))).tolist()
        return sorted(sorted(range(len(faces)), key=chance.__getitem__)[:count])

    return choose


def capped(most: int, seed: int) -> Choose:
    """Of each identity at most so many, by chance; all without identity."""

    def choose(faces: Sequence[Face]) -> list[int]:
        chance = hash64(seed, np.arange(len(faces))).tolist()
        taken: Counter[int] = Counter()
        kept = []
        for k in sorted(range(len(faces)), key=chance.__getitem__):
            taken[faces[k].label] += 1
            if faces[k].label < 0 or taken[faces[k].label] <= most:
                kept.append(k)
        return sorted(kept)

    return choose


def renumbered(faces: Sequence[Face], kept: Sequence[int]) -> list[int]:
    """The labels of those that were kept, without gaps."""
    present = _labels([faces[k] for k in kept])
    return [present.index(faces[k].label) if faces[k].label >= 0 else -1 for k in kept]


# Appending ---------------------------------------------------------------------------------------


def appended(files: Sequence[Sequence[Face]], known: dict[str, int]) -> list[int]:
    """The labels of files that are appended one by one to a pack.

    Args:
        files: the faces of each.
        known: the pack's people, which fill its labels; those who are new to it are added.
    """
    classes = len(known)
    labels = []
    for faces in files:
        people = {face.label: face.person for face in faces if face.person is not None}
        for _, person in sorted(people.items()):
            if person not in known:
                known[person] = classes
                classes += 1
        for face in faces:
            if face.person is not None:
                labels.append(known[face.person])
            else:  # behind those that are known by name
                before = sum(label < face.label for label in people)
                labels.append(classes + face.label - before if face.label >= 0 else -1)
    return labels
