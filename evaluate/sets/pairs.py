"""Pair sets: distinct images, the pairs over them and the truth of each pair; and their sources.

A set is read from a facepack pack, from a ``.bin`` pickle (compressed or not), or from the MHLR
project's tree (``imgs/0.jpg …`` and ``pair_label.npy``, pair i being images 2i and 2i + 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xxhash

import facepack
from facepack.care.verify import verify
from facepack.convert.files import Root
from facepack.convert.formats.pairs.pair_folder import PairFolder
from facepack.convert.formats.pairs.pickles import SUFFIXES, read_bin
from facepack.convert.source import Refusal
from facepack.errors import DamageError, EvaluationError
from facepack.evaluate.faces.decode import FACE_SIZE
from facepack.evaluate.faces.faces import EncodedFaces
from facepack.store.digests import file_digest
from facepack.store.format import MANIFEST
from facepack.store.home import data_home, is_pack
from facepack.store.record import SourceRecord
from facepack.store.sets import split_set

KNOWN_SETS = ("lfw", "cfp_fp", "agedb_30", "calfw", "cplfw", "cfp_ff", "vgg2_fp")

_READ_BATCH = 1024  # records read from a pack at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class PairSet:
    """An evaluation set: each distinct image once, and the pairs as positions among them.

    Verification sets name an image again for each pair that it is in; of the 12,000 images of
    ``lfw.bin`` 7,701 are distinct, and no other need be embedded.
    """

    name: str
    """What results and errors call the set."""
    images: Sequence[bytes | memoryview] | np.ndarray
    """The distinct images: encoded, or decoded as one uint8 RGB array (n, H, W, 3)."""
    keys: Sequence[str]
    """What errors call each image: its index in the set, and its key in the source."""
    pairs: np.ndarray
    """(P, 2) int64: the positions of each pair's two images in :attr:`images`."""
    issame: np.ndarray
    """(P,) bool: True for pairs of one person."""
    records: Sequence[str] | None = None
    """The images' keys in the source alone, by which embeddings from elsewhere know them."""
    source_id: str = ""
    """Of the pack or file whose records the keys number; empty of keys that are file names."""
    folds: np.ndarray | None = None
    """(P,) the fold of each pair; None for ten in order."""
    channels: str = "rgb"
    """The order of the colours in encoded images."""

    def __post_init__(self) -> None:
        if self.issame.ndim != 1 or self.issame.dtype != np.bool_:
            raise EvaluationError(
                f"{self.name}: issame is {self.issame.dtype} {self.issame.shape}; bool (P,) wanted"
            )
        if not len(self.issame):
            raise EvaluationError(f"{self.name}: the set holds no pairs")
        if self.pairs.shape != (len(self.issame), 2):
            raise EvaluationError(
                f"{self.name}: pairs is {self.pairs.shape} for {len(self.issame)} pairs; "
                f"({len(self.issame)}, 2) wanted"
            )
        _check_positions(self.name, self.pairs, len(self.images))
        if len(self.keys) != len(self.images):
            raise EvaluationError(
                f"{self.name}: {len(self.keys)} keys for {len(self.images)} images"
            )

    @classmethod
    def from_images(
        cls,
        name: str,
        images: Sequence[bytes | memoryview],
        *,
        keys: Sequence[str],
        pairs: np.ndarray,
        issame: np.ndarray,
        records: Sequence[str] | None = None,
        source_id: str = "",
        folds: np.ndarray | None = None,
        channels: str = "rgb",
    ) -> PairSet:
        """Make a set of encoded images among which some may be equal, byte for byte.

        Raises:
            EvaluationError: the pairs do not fit the images.
        """
        _check_positions(name, pairs, len(images))
        positions: dict[bytes, int] = {}
        seen_as = np.array(
            [
                positions.setdefault(xxhash.xxh3_128_digest(image), len(positions))
                for image in images
            ],
            np.int64,
        )
        _, first = np.unique(seen_as, return_index=True)
        return cls(
            name=name,
            images=[images[i] for i in first],
            keys=[keys[i] for i in first],
            pairs=seen_as[pairs],
            issame=issame,
            records=None if records is None else [records[i] for i in first],
            source_id=source_id,
            folds=folds,
            channels=channels,
        )

    def decoded(self, size: tuple[int, int] = FACE_SIZE) -> PairSet:
        """The same set with its images decoded, for a set that is evaluated again and again.

        It takes 37,632 bytes an image of 112×112: 290 MB for LFW. ``size`` (H, W), in pixels, is
        the model's ``image_size``.

        Raises:
            DecodeError: an image does not decode to ``size``; names the set and the image.
        """
        if isinstance(self.images, np.ndarray):
            return self
        faces = EncodedFaces(self.name, self.images, self.keys, channels=self.channels)
        return replace(self, images=faces.decoded(size).images, channels="rgb")


def find_pair_set(target: str | Path, data: str | Path | None = None) -> Path:
    """The file or folder that ``target`` means: a pack's folder, a ``.bin``, or a tree's folder.

    A name is looked for in the folder ``data`` (``FACEPACK_HOME``, or the current folder, when
    None) as a pack ``data/name``, as ``data/name.bin`` and as a tree ``data/name/imgs``, and then
    in the same way as a path of its own. A target with a folder in it is a path only.

    Raises:
        EvaluationError: nothing was found; lists what was looked for.
    """
    home = data_home(data)
    as_path = Path(target)
    is_name = as_path.name == str(target)
    looked_for = []
    for base in dict.fromkeys([home / as_path, as_path] if is_name else [as_path]):
        as_bin = base if base.suffix == ".bin" else Path(f"{base}.bin")
        if base.is_file() or is_pack(split_set(base)[0]):
            return base
        for suffix in SUFFIXES:
            if (as_file := Path(f"{base}{suffix}")).is_file():
                return as_file
        if (base / "imgs").is_dir():
            return base
        looked_for += [base / MANIFEST, as_bin, base / "imgs"]
    raise EvaluationError(
        f"no verification set {str(target)!r}: looked for {', '.join(map(str, looked_for))}. Give "
        "the path of a pack, of a .bin or of a folder with imgs/ and pair_label.npy, or the name "
        f"of one in the data folder (--data; it is {home.resolve()}), such as "
        f"{', '.join(KNOWN_SETS)}"
    )


def load_pair_set(target: str | Path, data: str | Path | None = None) -> PairSet:
    """Read the verification set that :func:`find_pair_set` finds; its name is ``target``.

    Raises:
        EvaluationError: nothing was found, or it is not a verification set.
        SourceError: the ``.bin`` or the tree is damaged, or is not one.
        PackError: the pack is damaged, in whatever file.
    """
    path = find_pair_set(target, data)
    if path.is_file():
        return _load_bin(str(target), path)
    if is_pack(split_set(path)[0]):
        return _load_pack(str(target), path)
    return _load_tree(str(target), path)


def _load_pack(name: str, path: Path) -> PairSet:
    for damage in verify(path).damage:
        raise DamageError(
            f"{path}: {damage}: figures of a damaged set mislead; copy the pack again, or see all "
            f"that is wrong with: facepack verify {path}"
        )
    with facepack.open(path) as pack:
        table = pack.pairs
        if table is None:
            raise EvaluationError(
                f"{path} is a pack without pairs: it is not a verification set. "
                "`facepack bin2lmdb` makes one of a .bin. All its images among each other: "
                f"facepack eval identities {path}"
            )
        images, keys = [], []
        for start in range(0, len(pack), _READ_BATCH):
            chunk = range(start, min(start + _READ_BATCH, len(pack)))
            for record in pack.batch(chunk):
                images.append(record.image)
                keys.append(record.key)
    return PairSet.from_images(
        name,
        images,
        keys=[f"image {i} ({key})" for i, key in enumerate(keys)],
        pairs=table[:, :2],
        issame=table[:, 2].astype(bool),
        records=keys,
        source_id=pack.pack_id,
        folds=table[:, 3] if table.shape[1] == 4 else None,
        channels=pack.channels,
    )


def _load_bin(name: str, path: Path) -> PairSet:
    content = read_bin(path)
    keys = [f"bins[{i}]" for i in range(len(content.images))]
    return PairSet.from_images(
        name,
        content.images,
        keys=[f"image {i} ({key})" for i, key in enumerate(keys)],
        pairs=np.arange(2 * len(content.issame)).reshape(-1, 2),
        issame=np.asarray(content.issame, bool),
        records=keys,
        source_id=file_digest(path, cached=True)[0],
    )


def _load_tree(name: str, path: Path) -> PairSet:
    source = PairFolder(Root(path))
    images = [_read(record) for record in source.part(0, len(source)).read()]
    first = np.unique(source.uses, return_index=True)[1].tolist()
    names = list(source.names())
    return PairSet(
        name=name,
        images=images,
        keys=[f"image {i} ({file})" for i, file in zip(first, names, strict=True)],
        pairs=source.uses.reshape(-1, 2),
        issame=source.issame,
        records=names,
    )


def _read(record: SourceRecord | Refusal) -> bytes:
    if isinstance(record, Refusal):  # only if it changed since the set was looked through
        raise EvaluationError(f"{record.file}: {record.reason}; {record.remedy}")
    return bytes(record.image)


def _check_positions(name: str, pairs: np.ndarray, images: int) -> None:
    if pairs.size and (pairs.min() < 0 or pairs.max() >= images):
        raise EvaluationError(
            f"{name}: pairs name images {pairs.min()} to {pairs.max()}, but there are {images}, "
            "counted from 0"
        )
