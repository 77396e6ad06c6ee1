"""What a run trains on: a pack, or an image tree with the same interface; by path or name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import xxhash

import facepack
from facepack.errors import DecodeError, SourceError, TrainingError
from facepack.images import IMAGE_SUFFIXES, read_header
from facepack.loading.source import ImageSource
from facepack.reading import IMAGE, read_bytes
from facepack.train.heads import check_labels
from facepack.train.home import data_home, is_pack, shard_sets

_IMAGE_SUFFIXES = tuple(suffix.encode() for suffix in IMAGE_SUFFIXES)


class TrainingData(ImageSource, Protocol):
    """What the trainer asks beside what the loader does; :class:`facepack.Pack` offers it too."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def classes(self) -> int:
        """Width of the head: labels lie below it."""

    @property
    def identity_names(self) -> list[str] | None:
        """The name of each identity, by label; None where they have none."""


class ImageTree:
    """Images in folders, ``identity/image.jpg``, read in place.

    Identities are numbered by name, sorted by UTF-8 bytes, as every facepack source does; folders
    without images count for nothing. Images of an identity come in the order of their names. A
    pack is quicker to open and to read: each image here is a file of its own.

    Raises:
        SourceError: there is no image in any folder of ``path``, or none that can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.identity_names: list[str] = []
        labels: list[int] = []
        # Millions of names as Python strings would take a gigabyte; joined they take their bytes.
        joined = bytearray()
        ends: list[int] = []
        for folder in _folders(path):
            images = _image_names(folder)
            if not images:
                continue
            joined += b"".join(images)
            first = ends[-1] if ends else 0
            ends.extend((first + np.cumsum([len(image) for image in images])).tolist())
            labels.extend([len(self.identity_names)] * len(images))
            self.identity_names.append(Path(os.fsdecode(folder)).name)
        if not labels:
            raise SourceError(
                f"{path} holds no images: an image tree is identity/image.jpg (or .jpeg, .png); "
                f"{_instead(path)}"
            )
        self.labels = np.array(labels, np.int64)
        self._joined = bytes(joined)
        self._ends = np.array(ends, np.int64)
        self.classes = self.identities = len(self.identity_names)
        self.content_id = self._digest()
        self.image_size: tuple[int, int] | None = self._first_size()

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, position: int) -> str:
        """``identity/image.jpg``."""
        start = self._ends[position - 1] if position else 0
        image = os.fsdecode(self._joined[start : self._ends[position]])
        return f"{self.identity_names[self.labels[position]]}/{image}"

    @contextmanager
    def views(self, positions: Sequence[int] | np.ndarray) -> Iterator[list[memoryview]]:
        """The encoded images at ``positions``, in that order; for any thread.

        Raises:
            SourceError: a file can no longer be read.
        """
        yield [self._read(int(position)) for position in positions]

    def _read(self, position: int) -> memoryview:
        file = self.path / self.key(position)
        try:
            return memoryview(read_bytes(file, IMAGE))
        except OSError as error:
            raise SourceError(f"{file} can no longer be read: {error}") from error

    def _first_size(self) -> tuple[int, int]:
        """(height, width) of the first image that has a header; the loader compares all."""
        broken = ""
        for position in range(len(self)):
            try:
                header = read_header(self._read(position))
            except DecodeError as error:
                broken = broken or f"{self.key(position)}: {error}"
            else:
                return header.height, header.width
        raise SourceError(f"{self.path} holds no image that can be read, first {broken}")

    def _digest(self) -> str:
        """Names of all images under their identities: tells one tree from another."""
        digest = xxhash.xxh3_128()
        digest.update("\n".join(self.identity_names).encode("utf-8", "surrogateescape"))
        digest.update(self.labels.tobytes())
        digest.update(self._ends.tobytes())
        digest.update(self._joined)
        return digest.hexdigest()


def _instead(path: Path) -> str:
    """What to do about a folder that is no image tree."""
    if packs := sorted(entry.name for entry in path.iterdir() if is_pack(entry)):
        return f"it is a folder of packs, of which name one: {', '.join(packs)}"
    if next(path.glob("*.rec"), None):
        return f"it holds a .rec, which is packed by: facepack rec2lmdb {path} PACK"
    return "for anything else make a pack"


def _folders(path: Path) -> list[bytes]:
    with os.scandir(os.fsencode(path)) as entries:
        return sorted(e.path for e in entries if not e.name.startswith(b".") and e.is_dir())


def _image_names(folder: bytes) -> list[bytes]:
    with os.scandir(folder) as entries:
        return sorted(
            e.name
            for e in entries
            if not e.name.startswith(b".") and e.name.lower().endswith(_IMAGE_SUFFIXES)
        )


def open_training_data(shards: str, home: Path | None = None) -> facepack.Pack | ImageTree:
    """Open the pack or image tree that ``shards`` names.

    A bare name is looked for in the data home (:func:`data_home`) and then, like anything with a
    folder in it, as a path; then as a shard set of the packs in the data home. ``PACK:SET`` is a
    shard set of a pack that is named or given by its path.

    Raises:
        TrainingError: nothing is there, or sets of that name are in several packs; names the
            places.
        PackError, SourceError: what is there cannot be used.
    """
    places = _places(shards, home)
    if pack := next(filter(is_pack, places), None):
        return facepack.open(pack)
    for place in places:
        if place.is_dir():
            return ImageTree(place)
    name, colon, shard_set = shards.rpartition(":")
    if colon and (pack := next(filter(is_pack, _places(name, home)), None)):
        return facepack.open(pack, shards=shard_set)
    in_home: dict[Path, list[str]] = {}
    if places[-1].name == shards:
        in_home = shard_sets(data_home(home))
        having = [pack for pack, sets in in_home.items() if shards in sets]
        if len(having) == 1:
            return facepack.open(having[0], shards=shards)
        if having:
            raise TrainingError(
                f"{len(having)} packs have a shard set {shards!r}: say which with --shards "
                f"{' or '.join(f'{pack.name}:{shards}' for pack in having)}"
            )
    found = next((place for place in places if place.exists()), None)
    if found is not None:
        raise TrainingError(
            f"{found} is a file; --shards takes a pack or an image tree, both folders. A .rec is "
            "packed by: facepack rec2lmdb"
        )
    looked = " and ".join(map(str, [*places, *(_places(name, home) if colon else [])]))
    have = "; ".join(f"{pack.name} has {', '.join(sets)}" for pack, sets in in_home.items() if sets)
    raise TrainingError(
        f"no pack or image tree {shards!r}: looked at {looked}. Nor is it a shard set of a pack in "
        f"{data_home(home)} ({have or 'there are none'}). Give a path, a name in the data home "
        "(--data or FACEPACK_HOME), or PACK:SET"
    )


def _places(shards: str, home: Path | None) -> list[Path]:
    path = Path(shards)
    is_name = path.name == shards
    return list(dict.fromkeys([data_home(home) / path, path])) if is_name else [path]


def label_map_digest(data: TrainingData) -> str:
    """Tells which identity each row of a head stands for: names in the order of their labels.

    Identities without names are told by their number alone.
    """
    names = data.identity_names
    text = "" if names is None else "\n".join(names)
    digest = xxhash.xxh3_128(f"{data.classes}\n{text}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def check_training_data(
    data: TrainingData, *, batch_size: int, image_size: tuple[int, int], skip_others: bool = False
) -> None:
    """Make sure, before the first step, that ``data`` can train a classifier at all.

    Args:
        data: what is to be trained on.
        batch_size: images in a step.
        image_size: (height, width) that the backbone takes.
        skip_others: images of other sizes are left out, so that some may be there; of a tree, whose
            images are files of their own, the first may be one of them.

    Raises:
        TrainingError: no images, fewer than a batch, images of another size, labels outside the
            class count (-1, no identity, among them), or a single identity.
    """
    if not len(data):
        raise TrainingError(f"{data.path} is empty: it holds no images to train on")
    if len(data) < batch_size:
        raise TrainingError(
            f"batch_size = {batch_size} is larger than {data.path}, which holds {len(data):,} "
            f"images: an epoch would have no whole batch. Set batch_size to at most {len(data)}"
        )
    mixed_is_fine = skip_others and (data.image_size is None or isinstance(data, ImageTree))
    if data.image_size != image_size and not mixed_is_fine:
        sizes = "several sizes"
        if data.image_size is not None:
            height, width = data.image_size
            sizes = f"{width}×{height} pixels"
        raise TrainingError(
            f"{data.path} holds images of {sizes}; training takes aligned faces of "
            f"{image_size[1]}×{image_size[0]}: align and crop them first"
        )
    labels = np.asarray(data.labels)
    if labels.max() < 0:
        raise TrainingError(
            f"{data.path} holds no identities: none of its {len(data):,} images has a label. A "
            "verification set is for --val; train on a pack or an image tree of identities"
        )
    try:
        check_labels(labels, data.classes)
    except TrainingError as error:
        raise TrainingError(f"{data.path}: {error}") from None
    if labels.min() == labels.max():
        raise TrainingError(
            f"{data.path} holds one identity only (label {labels[0]}): telling identities apart "
            "needs at least two"
        )
