"""The text beside an F2C database: a line ``key label`` a record.

Files of tens of millions of lines are parsed as arrays of characters, into arrays: a record takes
its key and eight bytes.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash

from facepack.convert.formats.kv.keys import LONGEST_KEY, Keys
from facepack.convert.source_file import read_errors, require_file
from facepack.errors import SourceError
from facepack.store.format import MAX_LABEL, NO_IDENTITY

_MOST_DIGITS = 9
_LONGEST_LINE = LONGEST_KEY + 1 + _MOST_DIGITS + 2
_BLOCK = 512 << 10  # small enough for the arrays that are made of it to stay in the cache
_NEWLINE, _SPACE, _MINUS, _ZERO, _DELETE = b"\n -0\x7f"


@dataclass(frozen=True, kw_only=True)
class KvIndex(Keys):
    """Keys and labels in the order of the lines."""

    labels: np.ndarray  # int32 (n,); -1 means no identity
    size: int  # bytes of the text
    digest: str  # XXH3-128 of the text, as all of this without a byte order mark


def is_plain_key(name: str) -> bool:
    """Whether ``name`` can be a key of a kv file: printable, no spaces, 1 to 511 bytes of UTF-8."""
    return name.isprintable() and " " not in name and 1 <= len(name.encode()) <= LONGEST_KEY


def read_kv(path: Path) -> KvIndex:
    """Read a kv file. As in F2C's own reader, empty lines count for nothing.

    Raises:
        SourceError: the file cannot be read, or a line is not ``key label``; says which.
    """
    require_file(path)
    keys = bytearray()
    ends: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    digest = xxhash.xxh3_128()
    size = lines = 0
    with read_errors(path), path.open("rb", buffering=0) as file:
        for block in _whole_lines(file):
            digest.update(block)
            size += len(block)
            text = _tidy(block)
            parsed = _parse(text) if text else (b"", np.empty(0, np.int64), np.empty(0))
            if parsed is None:
                raise _first_malformed(path, lines, block)
            ends.append(parsed[1] + len(keys))
            labels.append(parsed[2].astype(np.int32))
            keys += parsed[0]
            lines += block.count(b"\n")
    narrow = np.min_scalar_type(len(keys))
    return KvIndex(
        key_bytes=keys,
        key_ends=np.concatenate([np.empty(0, narrow), *(part.astype(narrow) for part in ends)]),
        labels=np.concatenate([np.empty(0, np.int32), *labels]),
        size=size,
        digest=digest.hexdigest(),
    )


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    """Blocks of whole lines; the mark that some editors put before UTF-8 is no part of them."""
    rest = file.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8)
    while read := file.read(_BLOCK):
        block = rest + read
        cut = block.rfind(b"\n") + 1
        if len(block) - cut > _LONGEST_LINE:  # no line, however it goes on
            cut = len(block)
        if cut:
            yield block[:cut]
        rest = block[cut:]
    if rest:
        yield rest


def _tidy(block: bytes) -> bytes:
    """The block with plain line ends, one behind each line, and no empty lines."""
    text = block.replace(b"\r\n", b"\n")
    if text.startswith(b"\n") or b"\n\n" in text:
        text = b"\n".join(filter(None, text.split(b"\n")))
    return text if text.endswith(b"\n") or not text else text + b"\n"


def _parse(text: bytes) -> tuple[bytes, np.ndarray, np.ndarray] | None:
    """Joined keys, their ends and the labels of whole lines, or None if a line is malformed."""
    if not text.isascii():
        return _parse_slowly(text)
    characters = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(characters == _NEWLINE)
    spaces = np.flatnonzero(characters == _SPACE)
    if len(spaces) != len(ends):
        return None
    starts = np.concatenate([[0], ends[:-1] + 1])
    key_sizes, widths = spaces - starts, ends - spaces - 1
    if key_sizes.min() < 1 or key_sizes.max() > LONGEST_KEY:
        return None
    if widths.min() < 1 or widths.max() > _MOST_DIGITS:
        return None
    # Nothing but the lines' own spaces and ends is unprintable.
    plain = np.count_nonzero((characters > _SPACE) & (characters < _DELETE))
    labels = _labels(characters, spaces + 1, widths)
    if plain != len(text) - 2 * len(ends) or labels is None:
        return None
    edges = np.zeros(len(text) + 1, np.int8)  # up where a key begins, down where it ends
    edges[starts] += 1
    edges[spaces] -= 1
    in_key = np.cumsum(edges[:-1], dtype=np.int8).astype(bool)
    return characters[in_key].tobytes(), np.cumsum(key_sizes), labels


def _labels(characters: np.ndarray, starts: np.ndarray, widths: np.ndarray) -> np.ndarray | None:
    """The decimal numbers at ``starts``, Horner's rule over all of them at once."""
    negative = characters[starts] == _MINUS
    if (negative & (widths < 2)).any():
        return None
    values = np.zeros(len(starts), np.int64)
    for place in range(int(widths.max())):
        rows = np.flatnonzero((widths > place) & ~(negative & (place == 0)))
        digits = characters[starts[rows] + place] - np.uint8(_ZERO)  # below "0" wraps to above 9
        if (digits > 9).any():
            return None
        values[rows] = values[rows] * 10 + digits
    if (values > MAX_LABEL).any() or (negative & (values != -NO_IDENTITY)).any():
        return None
    return np.where(negative, NO_IDENTITY, values)


def _parse_slowly(text: bytes) -> tuple[bytes, np.ndarray, np.ndarray] | None:
    """As :func:`_parse`, line by line: keys with letters beyond ASCII are rare."""
    parsed = [_parse_line(line) for line in text.split(b"\n")[:-1]]
    lines = [line for line in parsed if line is not None]
    if len(lines) < len(parsed):
        return None
    keys, labels = zip(*lines, strict=True)
    return b"".join(keys), np.cumsum([len(key) for key in keys]), np.asarray(labels)


def _parse_line(line: bytes) -> tuple[bytes, int] | None:
    try:
        key, label = line.decode().split(" ")
    except ValueError:  # not UTF-8, or not two words
        return None
    digits = label.removeprefix("-")
    if not (is_plain_key(key) and digits.isascii() and digits.isdecimal()):
        return None
    if len(label) > _MOST_DIGITS or not NO_IDENTITY <= int(label) <= MAX_LABEL:
        return None
    if label.startswith("-") and not int(label):
        return None
    return key.encode(), int(label)


def _first_malformed(path: Path, lines: int, block: bytes) -> SourceError:
    for number, line in enumerate(block.replace(b"\r\n", b"\n").split(b"\n"), start=lines + 1):
        if line and _parse_line(line) is None:
            shown = line[:60].decode("utf-8", "backslashreplace")
            return SourceError(
                f"{path}: line {number} is {shown!r}; expected a key without spaces (at most "
                f"{LONGEST_KEY} bytes), one space and a label from {NO_IDENTITY} to {MAX_LABEL}: "
                "mend the line or write the file again"
            )
    raise AssertionError("the fast parser refused lines that are well-formed")
