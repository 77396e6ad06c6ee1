"""Embeddings in files: mapped, checked, and put into the order of the faces that a protocol has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facepack.errors import EvaluationError
from facepack.evaluate.embedding.feature_files import is_feature_folder, read_features
from facepack.evaluate.embedding.tensor_file import SUFFIX, map_tensors
from facepack.evaluate.faces.faces import Faces
from facepack.reading import decode_text, map_npy, read_bytes, read_json

ROWS, NORMS, KEYS, META = "embeddings.npy", "norms.npy", "keys.npy", "meta.json"
"""The files of a folder of embeddings, as ``facepack embed`` writes it."""

BAD, REASONS = "bad_images", "bad_reasons"
"""In the last of these, the keys of images that could not be decoded, whose rows are NaN, and why
each could not."""

_SHOWN = 3  # keys that an error quotes
_TAKEN = 1 << 16  # rows that are put in order at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class Embeddings:
    """Embeddings of images, and what is known of how they were made."""

    name: str  # what results call them
    # (n, F) floating point, perhaps mapped from a file; not normalised, or normalised
    rows: np.ndarray
    # (n,) bytes, UTF-8: the image of each row; None where that is not known
    keys: np.ndarray | None
    # what facepack embed stated: content_id and source_id of the images, flip, model; empty of
    # embeddings from elsewhere
    meta: dict[str, Any]
    # (n,) L2 norms of the rows, where facepack embed wrote them; else None
    norms: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or self.rows.dtype.kind != "f" or 0 in self.rows.shape:
            raise EvaluationError(
                f"{self.name} holds {self.rows.dtype} {self.rows.shape}; embeddings are floating "
                "point (images, features)"
            )
        if self.keys is not None and len(self.keys) != len(self.rows):
            raise EvaluationError(
                f"{self.name}: {len(self.keys):,} keys for {len(self.rows):,} embeddings: give the "
                "list that belongs to them, a key a row"
            )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """F, the length of an embedding."""
        return int(self.rows.shape[1])

    def of(self, faces: Faces, *, flip: bool = True) -> tuple[np.ndarray, list[str]]:
        """The embeddings of ``faces`` in their order: (n, F) float32, and notices.

        They are found by key. Without keys as many embeddings as faces are taken to be in order.
        ``flip`` says whether a mirror image's embedding is to be in the sum.

        Raises:
            EvaluationError: some faces have no embedding, or several; or these were made otherwise.
        """
        made = self.meta.get("flip", flip)
        if made != flip:
            having = ("without", "with")
            raise EvaluationError(
                f"{self.name} was made {having[made]} mirror images, and {faces.name} is evaluated "
                f"{having[flip]} them: make embeddings that suit, or change the protocol's option"
            )
        source = self.meta.get("source_id", "")
        if source and faces.source_id and source != faces.source_id:
            raise EvaluationError(
                f"{self.name} was made of other images than those of {faces.name} (source_id "
                f"{source}, not {faces.source_id}), though keys may be alike: embed these images"
            )
        if self.meta.get("content_id") == faces.content_id and len(self) == len(faces):
            return self._in_order(None), []
        if self.keys is None:
            if len(self) != len(faces):
                raise EvaluationError(
                    f"{self.name} holds {len(self):,} embeddings without keys, and {faces.name} "
                    f"has {len(faces):,} images: give a list of keys with --keys, one a row"
                )
            return self._in_order(None), [
                f"{self.name} names no images: row i is taken to be image i of {faces.name}"
            ]
        return self._in_order(self._find(self.keys, faces)), []

    def _find(self, keys: np.ndarray, faces: Faces) -> np.ndarray:
        """The row of each face, by its key."""
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        wanted = np.array([encoded_key(faces.key(i)) for i in range(len(faces))])
        first = np.searchsorted(ordered, wanted, side="left")
        counts = np.searchsorted(ordered, wanted, side="right") - first
        for bad, what in ((counts == 0, "none"), (counts > 1, "several")):
            if bad.any():
                shown = ", ".join(faces.key(int(i)) for i in np.flatnonzero(bad)[:_SHOWN])
                raise EvaluationError(
                    f"{self.name} holds {what} for {np.count_nonzero(bad):,} of {len(faces):,} "
                    f"images of {faces.name}, first for {shown}; it has {len(self):,}, the first "
                    f"of {keys[0].decode(errors='replace')!r}: keys must be those of the images, "
                    "each once"
                )
        return order[first]

    def _in_order(self, order: np.ndarray | None) -> np.ndarray:
        """The rows in an order, as they are for None: float32."""
        # Half precision overflows in norms and sums, so it is widened before anything is computed.
        if order is None:
            return self.rows.astype(np.float32, copy=False)
        taken = np.empty((len(order), self.width), np.float32)
        for start in range(0, len(order), _TAKEN):
            taken[start : start + _TAKEN] = self.rows[order[start : start + _TAKEN]]
        return taken


def open_embeddings(path: Path, keys: Path | None = None) -> Embeddings:
    """Open embeddings: a folder that ``facepack embed`` wrote, a ``.safetensors`` or a ``.npy``.

    A folder of MegaFace's feature files, ``facescrub/`` and ``megaface/``, is read as well. The
    image of each row of a file is told by ``keys``, a text with a key a line, or a ``.npy`` of
    texts; None of ``E.npy`` takes ``E.keys.txt`` or ``E.keys.npy``, where that is there.

    Raises:
        EvaluationError: it cannot be read, is something else, or has not as many keys as rows.
    """
    if is_feature_folder(path):
        images, rows = read_features(path)
        named = np.array([encoded_key(image) for image in images])
        return Embeddings(name=str(path), rows=rows, keys=named, meta={})
    if path.is_dir():
        if not (path / META).is_file():
            raise EvaluationError(
                f"{path} holds no {META}: it is no finished folder of `facepack embed`; an "
                "unfinished one is completed by the same command again"
            )
        return Embeddings(
            name=str(path),
            rows=_map(path / ROWS),
            keys=_read_keys(path / KEYS),
            meta=read_map(path / META, "embed the images again"),
            norms=_map(path / NORMS),
        )
    if path.suffix == SUFFIX:
        return _open_tensors(path, keys)
    if keys is None:
        beside = (path.with_suffix(f".keys{suffix}") for suffix in (".txt", ".npy"))
        keys = next((file for file in beside if file.is_file()), None)
    return Embeddings(
        name=str(path),
        rows=_map(path),
        keys=None if keys is None else _read_keys(keys),
        meta={},
    )


def _open_tensors(path: Path, keys: Path | None) -> Embeddings:
    tensors, meta = map_tensors(path)
    rows = tensors.get("embeddings")
    if rows is None:
        # Of another program: the one matrix of floating point that it holds.
        found = [each for each in tensors.values() if each.ndim == 2 and each.dtype.kind == "f"]
        if len(found) != 1:
            raise EvaluationError(
                f"{path} holds {len(found)} matrices of floating point that NumPy knows, of "
                f"{', '.join(tensors) or 'no tensors'}: call that of the embeddings 'embeddings'"
            )
        rows = found[0]
    known = tensors.get("keys")
    if keys is not None:
        texts: np.ndarray | None = _read_keys(keys)
    elif known is not None and known.ndim == 2 and known.dtype == np.uint8 and known.size:
        texts = np.ascontiguousarray(known).view(f"S{known.shape[1]}")[:, 0]
    else:
        texts = None
    return Embeddings(name=str(path), rows=rows, keys=texts, meta=meta, norms=tensors.get("norms"))


def _map(path: Path) -> np.ndarray:
    try:
        return map_npy(path)
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"{path} is no array of embeddings ({error}): give a .npy of floating point (images, "
            "features), or a folder that `facepack embed` wrote"
        ) from error


def _read_keys(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        keys = _map(path)
        if keys.ndim != 1 or keys.dtype.kind not in "SU":
            raise EvaluationError(
                f"{path} holds {keys.dtype} {keys.shape}; keys are texts (images,)"
            )
        return keys if keys.dtype.kind == "S" else np.char.encode(keys, "utf-8")
    try:
        lines = decode_text(read_bytes(path)).splitlines()
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} is no list of keys, one a line: {error}") from error
    return np.array([encoded_key(line) for line in lines] or [b""])[: len(lines)]


def read_map(path: Path, remedy: str) -> dict[str, Any]:
    """What a file says of embeddings, as JSON; an EvaluationError, with a remedy, if it cannot."""
    try:
        found = read_json(path)
        if not isinstance(found, dict):
            raise ValueError("it is no map")
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} cannot be read ({error}): {remedy}") from error
    return found


def encoded_key(key: str) -> bytes:
    """A key as files hold it: UTF-8, and bytes of file names that are no text as they are."""
    return key.encode("utf-8", "surrogateescape")
