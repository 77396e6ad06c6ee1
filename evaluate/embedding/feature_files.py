"""MegaFace's feature files: one image's embedding a file, as OpenCV writes a matrix.

Four little-endian int32, rows, columns, bytes of a row and OpenCV's type (5 float32, 6 float64),
then the numbers. The development kit looks for the feature of ``a/b.jpg`` in ``a/b.jpg`` + ending,
the ending being ``_ALGORITHM.bin``.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facepack.convert.formats.benchmarks.megaface import SETS
from facepack.errors import EvaluationError
from facepack.reading import read_bytes
from facepack.store.places import require_outside_packs

_FEATURE = re.compile(r"(.+?\.(?:jpe?g|png|bmp|webp))(_.+)", re.IGNORECASE)  # image, and ending
_HEADER = struct.Struct("<4i")
_TYPES: dict[int, np.dtype[np.floating]] = {5: np.dtype("<f4"), 6: np.dtype("<f8")}
_FLOAT32 = 5
_LONGEST = 1 << 16  # numbers of an embedding


def write_feature(path: Path, feature: np.ndarray) -> None:
    """Write ``feature`` (F,) as float32, the column that the kit reads."""
    values = np.asarray(feature, "<f4")
    path.write_bytes(_HEADER.pack(len(values), 1, values.itemsize, _FLOAT32) + values.tobytes())


def parse_feature(data: bytes) -> np.ndarray:
    """The embedding in a feature file: float32 (F,).

    Raises:
        ValueError: it is no column or row of float32 or float64, or cut short.
    """
    if len(data) < _HEADER.size:
        raise ValueError(f"{len(data)} bytes; the header alone has {_HEADER.size}")
    rows, columns, step, kind = _HEADER.unpack_from(data)
    dtype = _TYPES.get(kind)
    if dtype is None or min(rows, columns) != 1 or max(rows, columns) > _LONGEST:
        raise ValueError(
            f"{rows} × {columns} numbers of OpenCV's type {kind}; expected one column of type 5 "
            "(float32) or 6 (float64)"
        )
    if step != columns * dtype.itemsize:
        raise ValueError(f"rows of {step} bytes for {columns} numbers of {dtype.itemsize}")
    wanted = _HEADER.size + rows * columns * dtype.itemsize
    if len(data) != wanted:
        raise ValueError(f"{len(data):,} bytes; the header asks for {wanted:,}")
    return np.frombuffer(data, dtype, offset=_HEADER.size).astype(np.float32)


def write_features(
    folder: Path, paths: Sequence[str], features: np.ndarray, *, ending: str
) -> None:
    """Write features (n, F) to the paths (n,) of their images, as lists have them, in ``folder``.

    Folders are made as they need them; ``ending``, ``_ALGORITHM.bin``, is appended to each path.

    Raises:
        EvaluationError: a path leads out of ``folder``.
        PackError: ``folder`` lies in a pack.
    """
    require_outside_packs(folder)
    made: set[Path] = set()
    for path, feature in zip(paths, features, strict=True):
        file = folder / f"{_inside(folder, path)}{ending}"
        if file.parent not in made:
            file.parent.mkdir(parents=True, exist_ok=True)
            made.add(file.parent)
        write_feature(file, feature)


def read_features(folder: Path) -> tuple[list[str], np.ndarray]:
    """The features in the kit's folders, ``folder/facescrub`` and ``folder/megaface``.

    Returns:
        Paths of the images, (n,), as packs and lists of MegaFace have them: they begin with
        ``facescrub_images/`` or ``megaface_images/``; and float32 (n, F).

    Raises:
        EvaluationError: there are none, those of several algorithms, or one is malformed or of
            another width.
    """
    files: list[tuple[str, Path]] = []
    endings: dict[str, Path] = {}
    for which in SETS:
        root = folder / which
        for file in sorted(root.rglob("*.bin")):
            if found := _FEATURE.fullmatch(file.name):
                image = file.relative_to(root).with_name(found[1])
                files.append((f"{which}_images/{image.as_posix()}", file))
                endings.setdefault(found[2], file)
    if len(endings) != 1:
        some = ", ".join(str(file) for file in endings.values()) or "none"
        raise EvaluationError(
            f"{folder}: expected feature files of one algorithm, {SETS[0]}/PERSON/IMAGE_ALGORITHM"
            f".bin and {SETS[1]}/…, found {some}: give a folder of one model's features"
        )
    features: np.ndarray | None = None
    for row, (_, file) in enumerate(files):
        try:
            feature = parse_feature(read_bytes(file))
        except (OSError, ValueError) as error:
            raise EvaluationError(f"{file}: is no feature file: {error}: write it again") from error
        if features is None:
            features = np.empty((len(files), len(feature)), np.float32)
        if len(feature) != features.shape[1]:
            raise EvaluationError(
                f"{file}: {len(feature)} numbers, but {features.shape[1]} in {files[0][1]}: write "
                "the features with one model"
            )
        features[row] = feature
    assert features is not None
    return [image for image, _ in files], features


def is_feature_folder(folder: Path) -> bool:
    """Whether ``folder`` holds what :func:`read_features` reads."""
    return all((folder / which).is_dir() for which in SETS)


def _inside(folder: Path, path: str) -> str:
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or "\0" in path:
        raise EvaluationError(f"{path!r} leads out of {folder}: correct the list of images")
    return path
