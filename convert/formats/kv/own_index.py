"""What a database says of its own records: ``__keys__``, ``__len__`` and ``__classnum__``.

Trainers that keep labels in the records keep these beside them, in msgpack or pickled like the
records: a list of keys, which is the order of the data set; how many there are; and the width of
the head. Others (Caffe) have none of these: all records count then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgpack
import numpy as np

from facepack.convert.formats.kv.keys import LONGEST_KEY, Keys
from facepack.convert.formats.kv.msgpack_value import begins_msgpack
from facepack.convert.formats.kv.tree import KvTree
from facepack.convert.formats.pairs.pickle_stream import PickleError, iterate_list, unpickle
from facepack.errors import SourceError
from facepack.limits import too_large
from facepack.store.format import MAX_LABEL

KEYS, LENGTH, CLASSES = b"__keys__", b"__len__", b"__classnum__"
_LIMIT = "FACEPACK_MAX_TABLE_BYTES"
_MOST_OPCODES = 64  # of the pickle of a number
_MARK = ord("_")


@dataclass(frozen=True, kw_only=True)
class OwnIndex:
    """The records of a database as it lists them itself."""

    keys: Keys  # of the records, in order; in the order of the file where the database lists none
    listed: bool = False  # whether it lists them
    pickled: bool = False  # whether that is a pickle, as the records are then
    classes: int | None = None  # the width of a head, if it is stated
    notices: list[str] = field(default_factory=list)  # for the user


def read_own_index(name: str, tree: KvTree, value: Callable[[int], bytes]) -> OwnIndex:
    """What the database ``name`` says of its records; ``value`` gives that of a row of ``tree``.

    Raises:
        SourceError: its list of keys is malformed, or in an encoding that is not read.
    """

    def own(key: bytes) -> bytes | None:
        row = tree.keys.row_of(key)
        if row is None:
            return None
        if reason := too_large(int(tree.sizes[row]), _LIMIT):
            raise SourceError(f"{name}: {key.decode()}: {reason}")
        return value(row)

    listed, length, classes = own(KEYS), own(LENGTH), own(CLASSES)
    ordinary = _ordinary(tree.keys)
    notices = []
    if listed is None:
        pickled = False
        keys = tree.keys.take(ordinary)
    else:
        pickled = not begins_msgpack(listed)
        try:
            keys = Keys.of(map(_as_key, (iterate_list if pickled else _iterate)(listed)))
        except (ValueError, PickleError) as error:
            reason = error.found if isinstance(error, PickleError) else error
            raise SourceError(
                f"{name}: {KEYS.decode()}: {reason}; expected a list of keys in msgpack or "
                "pickled by protocol 3 or later. What pyarrow.serialize wrote is not read, nor by "
                "pyarrow any more: have the program that wrote the database write it again"
            ) from None
        if len(keys) < len(ordinary):
            notices.append(
                f"{KEYS.decode()} of {name} names {len(keys):,} of its {len(ordinary):,} records: "
                "those that it does not name were passed over"
            )
    stated = None if length is None else _number(length)
    if stated is not None and stated != len(keys):
        notices.append(f"{name}: {LENGTH.decode()} is {stated:,}, but {len(keys):,} records count")
    width = None if classes is None else _number(classes)
    if width is not None and not 1 <= width <= MAX_LABEL + 1:
        width = None
    return OwnIndex(
        keys=keys, listed=listed is not None, pickled=pickled, classes=width, notices=notices
    )


def _ordinary(keys: Keys) -> np.ndarray:
    """The rows of keys that are not ``__such__``, shorter ones first: int64.

    Keys of other trainers are decimal numbers, mostly, and this is their order; so were they
    written, and a sweep in this order is one over the file.
    """
    lengths = keys.lengths()
    if not len(lengths):
        return np.zeros(0, np.int64)
    octets, starts = np.frombuffer(keys.key_bytes, np.uint8), keys.starts()
    ends = starts + lengths
    marked = lengths > 4
    for places in (starts, starts + 1, ends - 1, ends - 2):
        marked &= octets[np.clip(places, 0, len(octets) - 1)] == _MARK
    rows = np.flatnonzero(~marked)
    return rows[np.argsort(lengths[rows], kind="stable")]


def _iterate(listed: bytes) -> Iterator[object]:
    """The elements of a list in msgpack, one by one: no more is made of it than one of them."""
    unpacker = msgpack.Unpacker(
        max_buffer_size=len(listed),
        max_bin_len=LONGEST_KEY,
        max_str_len=LONGEST_KEY,
        max_array_len=len(listed),
        max_map_len=0,
        max_ext_len=0,
    )
    unpacker.feed(listed)
    try:
        count = unpacker.read_array_header()
        for _ in range(count):
            element = unpacker.unpack()
            if isinstance(element, list):
                raise ValueError("a list within the list")
            yield element
    except (msgpack.UnpackException, ValueError) as error:
        raise ValueError(str(error) or "it ends early") from error


def _as_key(element: object) -> bytes:
    """The key that an element of the list stands for, as trainers look it up."""
    if isinstance(element, int) and not isinstance(element, bool):
        element = str(element)
    key = element.encode("utf-8", "surrogateescape") if isinstance(element, str) else element
    if not isinstance(key, bytes) or not 1 <= len(key) <= LONGEST_KEY:
        raise ValueError(f"an element that is no key of 1 to {LONGEST_KEY} bytes")
    return key


def _number(value: bytes) -> int | None:
    """The whole number that a value is, in msgpack or pickled; None if it is none."""
    try:
        number = msgpack.unpackb(value, max_array_len=0, max_map_len=0, max_ext_len=0)
    except (msgpack.UnpackException, ValueError):
        try:
            number = unpickle(value, most=_MOST_OPCODES)
        except PickleError:
            return None
    return number if isinstance(number, int) and not isinstance(number, bool) else None
