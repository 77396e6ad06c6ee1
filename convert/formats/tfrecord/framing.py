"""The framing of TFRecord files: where records begin and end, and whether they are whole.

A record is ``u64`` length, ``u32`` masked CRC-32C of these eight bytes, so many bytes of data,
``u32`` masked CRC-32C of the data; all integers little-endian. There is no index and no magic. The
checksum of the length tells whether a record begins at a byte, so that behind a damaged length the
next record is found by looking at every byte.

Source: TensorFlow ``tensorflow/core/lib/io/record_writer.h`` and ``lib/hash/crc32c.h`` (2.20).
"""

from __future__ import annotations

import struct
from array import array
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from facepack.convert.formats.tfrecord.crc32c import crc32c, crc32c_of_rows, short_crc32c
from facepack.errors import SourceError

HEAD, TAIL = 12, 4  # bytes before the data of a record, and behind them

_FAR = 1 << 62  # a byte that no file has
_BLOCK = 1 << 20  # bytes in which records are looked for together
_WINDOWS = (
    1 << 10,
    64 << 10,
)  # bytes that are looked through together for a length, at first and later
_MASK = 0xA282EAD8  # is added to checksums, so that those of data with checksums in them differ
_MOST_DAMAGED = 10_000  # records with damaged lengths in a file; each takes a search
_head = struct.Struct("<QI")

WRONG_LENGTH = "its length does not have its checksum, so that nothing tells what these bytes are"
WRONG_DATA = "its data do not have their checksum"
CUT = "the file ends inside it"


class RecordFile(Protocol):
    """The bytes of a TFRecord file, inflated where it is compressed."""

    path: Path
    fault: str  # why nothing can be inflated behind the end; empty if all is, or not yet reached

    def read(self, count: int, offset: int) -> bytes:
        """The ``count`` bytes at ``offset``; fewer only where they end."""
        ...

    def end(self) -> int:
        """How many bytes there are."""
        ...


def mask(sums: np.ndarray) -> np.ndarray:
    """CRC-32Cs, uint32, as TFRecords hold them."""
    return (sums >> np.uint32(15) | sums << np.uint32(17)) + np.uint32(_MASK)


@lru_cache(1 << 16)
def _length_checksum(length: int) -> int:
    crc = short_crc32c(length.to_bytes(8, "little"))
    return (crc >> 15 | crc << 17 & 0xFFFFFFFF) + _MASK & 0xFFFFFFFF


def stated_length(head: bytes) -> int | None:
    """The length of the data behind the first bytes of a record; None if these are not whole."""
    if len(head) < HEAD:
        return None
    length, checksum = _head.unpack_from(head)
    return int(length) if checksum == _length_checksum(length) else None


def find_bounds(file: RecordFile) -> np.ndarray:
    """Where each record begins, and where the last one ends: int64 (n + 1,).

    What lies between two records whose lengths are whole is one record, which is damaged. So is
    what cannot be inflated, behind the last record, even if it has no bytes.

    Raises:
        SourceError: the file cannot be read on, or is damaged throughout.
    """
    bounds = array("q", [0])
    at = begin = damaged = 0
    block = b""
    while True:
        if at + HEAD > begin + len(block):
            begin, block = at, file.read(_BLOCK, at)
        head = block[at - begin : at - begin + HEAD]
        if not head:
            break
        length = stated_length(head)
        if length is None:
            damaged += 1
            if damaged > _MOST_DAMAGED:
                raise SourceError(
                    f"{file.path}: {damaged:,} records have no length with its checksum: the file "
                    "is damaged throughout; fetch it again, or leave it out"
                )
            at = find_head(file, at + 1)
        else:
            at = min(at + HEAD + length + TAIL, _FAR)
        bounds.append(at)
    end = file.end()
    if file.fault and at == end:
        bounds.append(end)
    bounds[-1] = min(bounds[-1], end)
    return np.frombuffer(bounds, np.int64)


def find_head(file: RecordFile, at: int, end: int = _FAR) -> int:
    """The first byte from ``at`` on, and before ``end``, where a length has its checksum.

    Where there is none, the end of the file, or a byte from ``end`` on.
    """
    size, largest = _WINDOWS
    while at < end and len(data := file.read(size, at)) >= HEAD:
        window = np.frombuffer(data, np.uint8)
        heads = np.lib.stride_tricks.sliding_window_view(window, HEAD)
        # The upper half of a length is zero, as a record of 4 GiB is no image.
        places = np.flatnonzero(~heads[:, 4:8].any(axis=1))
        heads = heads[places]
        whole = _are_whole(heads)
        if whole.any():
            return at + int(places[np.argmax(whole)])
        at += len(data) - HEAD + 1
        size = min(2 * size, largest)
    return at if at >= end else file.end()


def _are_whole(heads: np.ndarray) -> np.ndarray:
    """Whether each length, the first eight bytes of uint8 (n, 12), has its checksum: bool (n,)."""
    stated = np.ascontiguousarray(heads[:, 8:]).view("<u4")[:, 0]
    return mask(crc32c_of_rows(heads[:, :8])) == stated


def check_records(block: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> list[str]:
    """What is wrong with each record; empty texts for those that are whole.

    They lie in ``block``, uint8, from ``starts`` to ``stops``, integers (n,), which
    :func:`find_bounds` found.
    """
    faults = np.full(len(starts), CUT, object)
    known = np.flatnonzero(stops - starts >= HEAD)
    heads = block[starts[known, None] + np.arange(HEAD)]
    lengths = np.ascontiguousarray(heads[:, :8]).view("<u8")[:, 0]
    whole = _are_whole(heads)
    faults[known[~whole]] = WRONG_LENGTH
    spans = (stops - starts)[known]
    rows = known[whole & (lengths == (spans - HEAD - TAIL).astype(np.uint64))]
    ends = stops[rows] - TAIL
    stated = block[ends[:, None] + np.arange(TAIL)].view("<u4")[:, 0]
    sound = mask(crc32c(block, starts[rows] + HEAD, ends)) == stated
    faults[rows] = np.where(sound, "", WRONG_DATA)
    return faults.tolist()
