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
from facepack.convert.files import text
from facepack.convert.image_tree import TreeFiles
from facepack.errors import DecodeError, SourceError, TrainingError
from facepack.images import read_header
from facepack.loading.source import ImageSource
from facepack.reading import IMAGE, read_bytes
from facepack.store.home import absolute, data_home, is_named, is_pack, shard_sets
from facepack.store.record_list import read_record_list
from facepack.train.heads import check_labels


class TrainingData(ImageSource, Protocol):
    """What the trainer asks beside what the loader does; :class:`facepack.Pack` offers it too."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def classes(self) -> int:
        """Width of the head: labels lie below it."""

    @property
    def identities(self) -> int:
        """How many of them occur."""

    @property
    def identity_names(self) -> list[str] | None:
        """The name of each identity, by label; None where they have none."""


class ImageTree:
    """Images in folders, ``identity/image.jpg``, read in place.

    Which folders are identities, and the order of images and labels, is the same as in a pack of
    the tree: :class:`facepack.convert.image_tree.TreeFiles` lists it for both. A pack is quicker to
    open and to read: each image here is a file of its own. ``identity_level`` is that of the
    folders that are identities; None chooses.

    Attributes:
        notices: what was passed over, for the user.

    Raises:
        SourceError: there is no image in any folder of ``path``, or none that can be read; or it is
            in doubt which folders are identities.
    """

    channels = "rgb"

    def __init__(self, path: Path, identity_level: int | None = None) -> None:
        self.path = path
        self.name = path.name
        try:
            tree = TreeFiles(path, identity_level)
        except SourceError as error:
            raise SourceError(f"{error}{_instead(path)}") from error
        self.notices = tree.notices
        self.identity_names = list(map(text, tree.identity_names()))
        self.labels = tree.files.labels().astype(np.int64)
        self._names = tree.files.names
        self.classes = self.identities = len(self.identity_names)
        self.content_id = self._digest()
        self.image_size: tuple[int, int] | None = self._first_size()

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, position: int) -> str:
        """The image's path in the tree, as ``identity/image.jpg``."""
        return os.fsdecode(self._names[position])

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
        """Paths and labels of all images, and names of identities: tells one tree from another."""
        digest = xxhash.xxh3_128()
        digest.update("\n".join(self.identity_names).encode())
        digest.update(self.labels.tobytes())
        digest.update(self._names.digest())
        return digest.hexdigest()


def _instead(path: Path) -> str:
    """What to say behind the reason why a folder is no tree."""
    entries = (entry for entry in path.iterdir() if not entry.name.startswith("."))
    if packs := sorted(entry.name for entry in entries if is_pack(entry)):
        return f". It is a folder of packs, of which name one: {', '.join(packs)}"
    if next(path.glob("*.rec"), None):
        return f". It holds a .rec, which is packed by: facepack rec2lmdb {path} PACK"
    return ""


def open_training_data(
    shards: str,
    home: Path | None = None,
    identity_level: int | None = None,
    exclude: str | None = None,
) -> facepack.Pack | ImageTree:
    """Open the pack or image tree that :func:`find_training_data` finds.

    ``identity_level`` is as of :class:`ImageTree`; ``exclude`` is a list of the records of a pack
    that are left out.

    Raises:
        TrainingError: nothing is there, or several are: names them; or ``identity_level`` is given
            for a pack, which has its labels, or ``exclude`` for a tree, or for all of a pack.
        ConfigError: the list cannot be read, or is of another pack.
        PackError, SourceError: what is there cannot be used.
    """
    try:
        folder, shard_set = find_training_data(shards, home)
    except TrainingError as error:
        raise TrainingError(
            f"{error}. It is named by --shards, also to resume a run whose data moved"
        ) from error
    if not is_pack(folder):
        if exclude is not None:
            raise TrainingError(
                f"exclude = {exclude} lists records of a pack, and {shards} is an image tree: pack "
                "it first, or move its images away"
            )
        return ImageTree(folder, identity_level)
    if identity_level is not None:
        raise TrainingError(
            f"identity_level = {identity_level} is for image trees, and {shards} is a pack, which "
            "has its labels: leave it unset"
        )
    pack = facepack.open(folder, shards=shard_set)
    if exclude is None:
        return pack
    keep = np.ones(len(pack), bool)
    keep[read_record_list(Path(exclude), pack)] = False
    if not keep.any():
        raise TrainingError(f"exclude = {exclude} lists all records of {shards}: none is left")
    return pack.select(keep)


def find_training_data(shards: str, home: Path | None = None) -> tuple[Path, str | None]:
    """The folder of the pack or image tree that ``shards`` names, and the shard set of the pack.

    A bare name is looked for in the data home (:func:`data_home`) and then, like anything with a
    folder in it, as a path; then as a shard set of the packs in the data home. ``PACK:SET`` is a
    shard set of a pack that is named or given by its path.

    Raises:
        TrainingError: nothing is there, or sets of that name are in several packs; names the
            packs.
        DamageError: the ``sets.json`` of a pack in the data home cannot be understood.
    """
    candidates = _candidates(shards, home)
    if pack := next(filter(is_pack, candidates), None):
        return pack, None
    for folder in candidates:
        if folder.is_dir():
            return folder, None
    name, colon, shard_set = shards.rpartition(":")
    if colon and (pack := next(filter(is_pack, _candidates(name, home)), None)):
        return pack, shard_set
    in_home: dict[Path, list[str]] = {}
    if candidates[-1].name == shards:
        in_home = shard_sets(data_home(home))
        having = [pack for pack, sets in in_home.items() if shards in sets]
        if len(having) == 1:
            return having[0], shards
        if having:
            raise TrainingError(
                f"{len(having)} packs have a shard set {shards!r}: say which by "
                f"{' or '.join(f'{pack.name}:{shards}' for pack in having)}"
            )
    found = next((path for path in candidates if path.exists()), None)
    if found is not None:
        raise TrainingError(
            f"{found} is a file; a pack or an image tree is needed, both folders. A .rec is "
            "packed by: facepack rec2lmdb"
        )
    looked = " and ".join(map(str, [*candidates, *(_candidates(name, home) if colon else [])]))
    have = "; ".join(f"{pack.name} has {', '.join(sets)}" for pack, sets in in_home.items() if sets)
    raise TrainingError(
        f"no pack or image tree {shards!r}: looked at {looked}. Nor is it a shard set of a pack in "
        f"{data_home(home)} ({have or 'there are none'}). Give a path, a name in the data home "
        "(--data or FACEPACK_HOME), or PACK:SET"
    )


def lasting_shards(shards: str, home: Path | None) -> str:
    """``shards`` in a form that finds the same from any current folder.

    A name in the home that the user named stays one, as each machine may have a home of its own;
    all else becomes an absolute path, ``PACK:SET`` for a set that went by its name.
    """
    folder, _ = find_training_data(shards, home)
    if Path(shards).name == shards and is_named(home) and folder.parent == data_home(home):
        return shards
    return absolute_shards(shards, home)


def absolute_shards(shards: str, home: Path | None) -> str:
    """The absolute path of what ``shards`` finds, ``PACK:SET`` for a shard set.

    Raises:
        TrainingError: as :func:`find_training_data`.
    """
    folder, shard_set = find_training_data(shards, home)
    path = absolute(str(folder))
    return path if shard_set is None else f"{path}:{shard_set}"


def _candidates(shards: str, home: Path | None) -> list[Path]:
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

    The backbone takes images of ``image_size``, (height, width). With ``skip_others`` those of
    other sizes are left out, so that some may be there; of a tree, whose images are files of their
    own, the first may be one of them.

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
    check_image_size(data, image_size, skip_others=skip_others)
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


def check_image_size(
    data: TrainingData, image_size: tuple[int, int], *, skip_others: bool = False
) -> None:
    """Make sure that the backbone takes the images, as :func:`check_training_data` does.

    Raises:
        TrainingError: they have another size, or several.
    """
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
