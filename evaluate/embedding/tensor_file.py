"""Embeddings as one safetensors file: written from the maps, read as one.

The format is eight bytes of length, a JSON header and the tensors' bytes
(https://huggingface.co/docs/safetensors). It is written and read here, because the package copies
whole tensors into memory: embeddings of millions are larger. Keys are a tensor of bytes, a row a
key with zeros behind it: the format has no texts.
"""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from facepack.atomic import replacing
from facepack.errors import EvaluationError
from facepack.reading import open_regular, parse_json
from facepack.store.files import write_errors

SUFFIX = ".safetensors"

_META = "facepack"  # under which the file's metadata hold what the embeddings are
_LARGEST_HEADER = 100_000_000  # the package's own limit
_AT_ONCE = 1 << 16  # rows
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "U8": "u1"}


def write_tensors(path: Path, tensors: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Write ``tensors`` (float64, float32, float16 or uint8), and ``meta`` as JSON beside them.

    Raises:
        PackError: the file cannot be written.
    """
    names = {np.dtype(kind): name for name, kind in _TYPES.items()}
    header: dict[str, Any] = {"__metadata__": {_META: json.dumps(meta)}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with write_errors(path), replacing(path) as part, part.open("xb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            for start in range(0, len(tensor), _AT_ONCE):
                file.write(np.ascontiguousarray(tensor[start : start + _AT_ONCE]).data)
        file.flush()
        os.fsync(file.fileno())


def map_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors of a file, mapped, and the metadata that :func:`write_tensors` wrote.

    Tensors of types that NumPy lacks (bfloat16 among them) are left out.

    Raises:
        EvaluationError: it cannot be read, or is no such file.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\xff"))
            if length > min(_LARGEST_HEADER, size - 8):
                raise ValueError(f"its header would have {length:,} bytes of {size:,}")
            header = parse_json(file.read(length))
        begin = 8 + length
        tensors = {}
        for name, stated in header.items():
            if name != "__metadata__" and stated["dtype"] in _TYPES:
                tensors[name] = _map(path, stated, begin, size)
        meta = parse_json(header.get("__metadata__", {}).get(_META, "{}"))
        if not isinstance(meta, dict):
            raise ValueError("its metadata are no map")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(f"{path} is no safetensors file that can be read: {error}") from error
    return tensors, meta


def _map(path: Path, stated: dict[str, Any], begin: int, size: int) -> np.ndarray:
    dtype, shape = np.dtype(_TYPES[stated["dtype"]]), tuple(stated["shape"])
    start, stop = stated["data_offsets"]
    if not all(isinstance(number, int) and number >= 0 for number in (*shape, start, stop)):
        raise ValueError("a shape or an offset is no count")
    if stop - start != math.prod(shape) * dtype.itemsize or begin + stop > size:
        raise ValueError(f"a tensor {shape} at [{start}, {stop}) of {size - begin} bytes")
    if not math.prod(shape):
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", begin + start, shape)
