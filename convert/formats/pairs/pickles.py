"""Verification sets: ``lfw.bin``, ``cfp_fp.bin``, ``agedb_30.bin`` and their like.

A set is the pickle of a pair ``(images, issame)``: 2P encoded images, of which 2i and 2i + 1 form
pair i, and P booleans. Read are byte strings of Python 2 and 3, ``bytearray``, and uint8 arrays of
shape (n,), (n, 1) or (1, n), under any protocol and any NumPy that wrote them; flags as bools, as 0
and 1, as NumPy scalars or as one array. Nothing in the file is executed: see
:mod:`facepack.convert.formats.pairs.pickle_stream`.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import pickle
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from facepack import lfs
from facepack.convert.formats.pairs.pickle_stream import (
    PickledArray,
    describe,
    load_pickle,
)
from facepack.convert.whole_numbers import as_whole
from facepack.errors import SourceError
from facepack.limits import limit, too_large
from facepack.reading import TABLE, read_bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class BinSet:
    """A verification set: pair i is ``images[2 * i]`` and ``images[2 * i + 1]``."""

    images: list[memoryview]  # 2P encoded images, read-only bytes
    issame: np.ndarray  # (P,) bool: whether both images show one person

    def __len__(self) -> int:
        return len(self.issame)


SUFFIXES = (".bin", ".xz", ".bin.gz", ".bin.bz2")
"""What files of verification sets end with, ``lfw.bin.xz`` among them."""

_Unpacker = lzma.LZMAFile | gzip.GzipFile | bz2.BZ2File
_COMPRESSED: dict[bytes, Callable[[BytesIO], _Unpacker]] = {  # how files begin, and what opens them
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
}
_OTHERS = {b"\x28\xb5\x2f\xfd": ("zstd", "zstd -dk"), b"PK\x03\x04": ("zip", "unzip")}


def set_name(path: Path) -> str:
    """What a set is called: ``lfw`` of ``lfw.bin``, ``lfw.xz``, ``lfw.bin.gz``."""
    name = path.name
    for ending in (".xz", ".gz", ".bz2", ".bin"):
        name = name.removesuffix(ending)
    return name


def read_bin(path: Path | str, data: bytes | None = None) -> BinSet:
    """Read a verification set, which xz, gzip or bzip2 may have compressed.

    Nothing that the file names is imported or called. ``data`` is the content where it is no file
    of its own; ``path`` then only names it in errors.
    Raises :class:`~facepack.errors.SourceError` for a file that is cut short, no pickle, names
    anything beyond what a set needs or does not hold 2P images and P flags.
    """
    path = Path(path)
    try:
        data = read_bytes(path, TABLE) if data is None else data
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    if lfs.is_pointer(data):
        raise SourceError(f"{path}: is a pointer of Git LFS, not the set itself: {lfs.REMEDY}")
    pair = load_pickle(path, _decompress(path, data))
    if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
        raise SourceError(
            f"{path}: holds {describe(pair)}; expected a pair (images, issame): this is no "
            "verification set, pass one such as lfw.bin"
        )
    images = _images(path, pair[0])
    issame = _flags(path, pair[1])
    if not _counts_agree(len(images), len(issame)):
        raise SourceError(
            f"{path}: {len(images)} images and {len(issame)} flags; a set of P pairs has 2P images "
            "and P flags, P at least 1: fetch the file again, or write it again if it is yours"
        )
    return BinSet(images=images, issame=issame)


def write_bin(
    path: Path | str, images: Iterable[bytes | memoryview], issame: Iterable[bool]
) -> None:
    """Write 2P encoded images and P flags as a verification set: protocol 4, plain ``bytes``."""
    pair = ([bytes(image) for image in images], [bool(flag) for flag in issame])
    if not _counts_agree(len(pair[0]), len(pair[1])):
        raise ValueError(
            f"{len(pair[0])} images and {len(pair[1])} flags; a set of P pairs needs 2P images and "
            "P flags, P at least 1"
        )
    with Path(path).open("wb") as file:
        pickle.dump(pair, file, protocol=4)


def _counts_agree(images: int, flags: int) -> bool:
    return images == 2 * flags and flags > 0


def _decompress(path: Path, data: bytes) -> bytes:
    """The pickle in ``data``, of which no more is unpacked than may be looked at."""
    for magic, (kind_of, command) in _OTHERS.items():
        if data.startswith(magic):
            raise SourceError(
                f"{path}: is compressed by {kind_of}, which is not read: unpack it first, with "
                f"{command} {path.name}"
            )
    opened = next((opened for magic, opened in _COMPRESSED.items() if data.startswith(magic)), None)
    if opened is None:
        return data
    try:
        with opened(BytesIO(data)) as file:
            content = file.read(limit(TABLE) + 1)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise SourceError(
            f"{path}: does not unpack: {error}; the file is damaged or cut short: fetch it again"
        ) from error
    if reason := too_large(len(content), TABLE):
        raise SourceError(f"{path}: unpacks to {reason}")
    return content


def _images(path: Path, values: object) -> list[memoryview]:
    if not isinstance(values, (tuple, list)):
        raise SourceError(
            f"{path}: its images are {describe(values)}; expected a list of bytes or of uint8 "
            "arrays: write the set again so"
        )
    images = []
    for index, value in enumerate(values):
        if isinstance(value, (bytes, memoryview)):
            images.append(memoryview(value))
        elif (
            isinstance(value, PickledArray)
            and value.content is not None
            and value.content.dtype == np.uint8
        ):
            images.append(value.content.data)
        else:
            raise SourceError(
                f"{path}: image {index} is {describe(value)}; expected bytes or a uint8 array: "
                "encode each image as JPEG or PNG and write the set again"
            )
    return images


def _flags(path: Path, values: object) -> np.ndarray:
    if isinstance(values, PickledArray) and values.content is not None:
        values = values.content.tolist()
    if not isinstance(values, (tuple, list)):
        raise SourceError(
            f"{path}: its flags are {describe(values)}; expected a list or an array of P "
            "booleans: write the set again so"
        )
    values = list(map(as_whole, values))
    for pair, value in enumerate(values):
        if not isinstance(value, int) or value not in (0, 1):
            shown = value if isinstance(value, (int, float)) else describe(value)
            raise SourceError(
                f"{path}: the flag of pair {pair} is {shown}; expected True or False, or 1 or 0: "
                "write the set again so"
            )
    return np.array(values, bool)
