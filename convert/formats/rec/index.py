"""The index of a ``.rec``: ``train.idx``, a line ``key<TAB>byte offset`` a record.

Lines are in the order of writing; keys need not be sorted. Files of tens of millions of lines are
parsed as arrays of characters, some millions of lines a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from facepack.convert.source_file import read_errors
from facepack.errors import SourceError

# Small enough for the arrays that are made of a block to stay in the cache.
_BLOCK = 512 << 10
# A line has at most 37 characters; the rest is room for its newline and for empty lines behind it.
_LONGEST_END = 64
_LINE = re.compile(rb"\d{1,18}\t\d{1,18}")


def read_index(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Keys and byte offsets of a ``.idx``, int64 of shape (n,), in the order of its lines.

    A line is ``key<TAB>offset``, both decimal; a few empty lines may end the file. Raises
    :class:`~facepack.errors.SourceError` with the number of the first line that is anything else.
    """
    path = Path(path)
    with read_errors(path), path.open("rb", buffering=0) as file:
        parsed = parse_index(path, iter(lambda: file.read(_BLOCK), b""))
    return parsed


def parse_index(path: Path, blocks: Iterable[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`read_index`, from the blocks of a file that errors call ``path``."""
    keys: list[np.ndarray] = []
    offsets: list[np.ndarray] = []
    lines = 0
    rest = b""
    for read in blocks:
        block = rest + read
        # The last line waits, with its newline and empty lines after it, for what follows.
        cut = block.rfind(b"\n", 0, len(block.rstrip(b"\r\n"))) + 1
        text, rest = block[:cut], block[cut:]
        if text:
            lines += _append(path, lines, text, keys, offsets)
        if len(rest) > _LONGEST_END:
            raise _first_malformed(path, lines, rest)
    if last := rest.rstrip(b"\r\n"):
        _append(path, lines, last + b"\n", keys, offsets)
    empty = np.empty(0, np.int64)
    return np.concatenate([empty, *keys]), np.concatenate([empty, *offsets])


def _append(
    path: Path, lines: int, text: bytes, keys: list[np.ndarray], offsets: list[np.ndarray]
) -> int:
    """Append the numbers of whole lines that follow ``lines`` others; return how many they are."""
    parsed = _parse(text.replace(b"\r\n", b"\n"))
    if parsed is None:
        raise _first_malformed(path, lines, text)
    keys.append(parsed[0])
    offsets.append(parsed[1])
    return len(parsed[0])


def _parse(text: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """Keys and offsets of whole lines, or None if a line is malformed."""
    characters = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(characters == ord("\n"))
    tabs = np.flatnonzero(characters == ord("\t"))
    if len(tabs) != len(ends):
        return None
    starts = np.concatenate(([0], ends[:-1] + 1))
    widths = np.stack((tabs - starts, ends - tabs - 1))
    # One tab a line, and all that is neither tab nor newline is a digit.
    digits = np.count_nonzero((characters >= ord("0")) & (characters <= ord("9")))
    if widths.min() < 1 or widths.max() > 18 or digits != len(text) - 2 * len(ends):
        return None
    return _numbers(characters, starts, widths[0]), _numbers(characters, tabs + 1, widths[1])


def _numbers(characters: np.ndarray, starts: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """The decimal numbers at ``starts``, Horner's rule over all of them at once."""
    values = np.zeros(len(starts), np.int64)
    shortest = int(widths.min())
    for place in range(int(widths.max())):
        # The numbers that have a digit at this place: all, up to the width of the shortest.
        rows = slice(None) if place < shortest else np.flatnonzero(widths > place)
        values[rows] = values[rows] * 10 + (characters[starts[rows] + place] - ord("0"))
    return values


def _first_malformed(path: Path, lines: int, text: bytes) -> SourceError:
    for number, line in enumerate(text.replace(b"\r\n", b"\n").split(b"\n"), start=lines + 1):
        if not _LINE.fullmatch(line):
            shown = line[:40].decode("ascii", "backslashreplace")
            return SourceError(
                f"{path}: line {number} is {shown!r}; expected a key, a tab and a byte offset, "
                "both decimal; fetch the index again, or remove it and the .rec will be scanned"
            )
    raise AssertionError("the fast parser refused lines that are well-formed")
