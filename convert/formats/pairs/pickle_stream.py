"""Pickles of bytes, numbers and NumPy arrays, loaded without running anything that they name.

A pickle is a program that may call whatever it can name. ``pickle.Unpickler`` runs it here, behind
two fences. :func:`_check` reads it first, to no effect: only opcodes that lists, tuples, numbers,
bytes and arrays need may occur, no more of them than a file of its size should have, and no length,
number or place in the memo that would make something large. None of them makes a dictionary, so
that none can set an attribute. And what the stream names is never looked up: eight names (more
where NumPy 2 or Python 3 renamed a module) get a :class:`_StandIn`, which makes bytes and arrays
and nothing else; any other is refused.

Bytes are not copied: the unpickler gets them as buffers of protocol 5, views into the file. Of
``pickletools`` only the table is used: its ``genops`` fails at strings with bytes above 127, as
Python 2 wrote under protocol 0. Source: the opcodes as that table documents them; what NumPy 1 and
2 write.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from facepack.errors import SourceError

# Tiny values cost far more memory than their bytes in the stream. Images and arrays need an opcode
# per hundred bytes or more; the limit bounds the memory at some ten times the stream.
_OPCODES_ALWAYS = 1 << 20
_BYTES_PER_OPCODE = 16

_FETCH_AGAIN = "fetch the file again and compare its size and checksum with the publisher's"
_NOT_A_SET = "this is no verification set; pass one such as lfw.bin"
ENCODE_IMAGES = "encode each image as JPEG or PNG and write the set again"
"""What to do about images that are arrays of pixels."""

_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "BINSTRING", "SHORT_BINSTRING"}
_NUMBER_LINES = {"INT", "LONG", "FLOAT", "PUT", "GET"}
_ADMITTED = (
    _BYTES
    | _NUMBER_LINES
    | {
        *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE"),
        *("LONG1", "BININT", "BININT1", "BININT2", "BINFLOAT"),
        *("STRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *("BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"),
        *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
    }
)
_OF_LISTS = {
    *("PROTO", "FRAME", "MARK", "EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
    *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"),
}
_QUOTED = re.compile(rb"'[^'\\]*'\n|\"[^\"\\]*\"\n")
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_LENGTH_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_LONGEST_NUMBER = 24  # decimal characters; Python takes long over very long ones

_DTYPE_CODE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248])")
_LATIN_1 = ("latin-1", "latin1")

# Python 3 writes bytes as text for encode, under protocols 0 to 2; Python 2 has such text, and the
# encoding, or nothing for bytearray.
_NAMES = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
    ("builtins", "bytes"),
    ("builtins", "bytearray"),
}
_RENAMED = {  # by NumPy 2 and by Python 3
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
    "__builtin__": "builtins",
}


def load_pickle(path: Path, data: bytes) -> object:
    """The value of the pickle ``data``, which :func:`unpickle` gives; ``path`` names it in errors.

    Raises:
        SourceError: it is none, or holds what no verification set has.
    """
    try:
        return unpickle(data)
    except PickleError as error:
        raise SourceError(f"{path}: {error}") from None


def unpickle(data: bytes, *, most: int | None = None) -> object:
    """The value of the pickle ``data``.

    Made of lists, tuples, None, bool, int, float, str, bytes, ``memoryview`` (for bytes as well)
    and :class:`PickledArray`.

    It may have ``most`` opcodes; by default, as many as a file of its size should have.

    Raises:
        PickleError: it is no sound pickle, or holds anything else.
    """
    try:
        stream, buffers = _check(data, most)
        return _Unpickler(stream, buffers, may_encode=len(data)).load()
    except (PickleError, MemoryError):
        raise
    except Exception as error:  # a malformed stream may raise almost any
        reason = ascii(str(error)[:100])[1:-1]
        raise PickleError(f"is no sound pickle ({reason})", _FETCH_AGAIN) from error


def iterate_list(data: bytes) -> Iterator[bytes | str | int]:
    """The elements of the pickle of a list of strings or whole numbers, one by one.

    The list itself is never made: it may be of tens of millions.

    Raises:
        PickleError: it is another pickle, or none.
    """
    for name, offset, start, end in _opcodes(data):
        if name in _BYTES:
            yield data[start:end]
        elif name in ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"):
            yield str(data[start:end], "utf-8", "surrogateescape")
        elif name in ("BININT", "BININT1", "BININT2"):
            yield int.from_bytes(data[start:end], "little", signed=name == "BININT")
        elif name == "STRING" and _QUOTED.fullmatch(data, start, end):  # of Python 2
            yield data[start + 1 : end - 2]
        elif name == "STOP":
            return
        elif name not in _OF_LISTS:
            raise PickleError(
                f"byte {offset}: opcode {name}, which no list of strings or numbers has", _NOT_A_SET
            )


def describe(value: object) -> str:
    """What a loaded value is, in a few words whatever its size."""
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)} elements"
    if isinstance(value, PickledArray):
        return "an empty array" if value.content is None else f"a {value.content.dtype} array"
    if isinstance(value, _StandIn):
        return f"a call of {value.name}"
    return {memoryview: "bytes", str: "text", _PickledDtype: "a dtype"}.get(
        type(value), type(value).__name__
    )


class PickleError(Exception):
    """A pickle that is refused."""

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(f"{found}; {remedy}")
        self.found = found  # what is wrong with it
        self.remedy = remedy  # what the user can do, if it should be a verification set


# The first fence: opcodes


def _check(data: bytes, most: int | None) -> tuple[bytes | bytearray, list[memoryview]]:
    """Refuse what no set has; the stream with a NEXT_BUFFER for each of its bytes, and these."""
    if most is None:
        most = _OPCODES_ALWAYS + len(data) // _BYTES_PER_OPCODE
    view, stream, kept = memoryview(data), bytearray(), 0
    buffers = []
    for count, (name, offset, start, end) in enumerate(_opcodes(data)):
        if name not in _ADMITTED:
            raise PickleError(
                f"byte {offset}: opcode {name}, which no set of images has; nothing was run",
                _NOT_A_SET,
            )
        if count == most:
            raise PickleError("more values than a file of this size should have", _NOT_A_SET)
        if name in _BYTES:
            stream += view[kept:offset]
            stream += pickle.NEXT_BUFFER
            buffers.append(view[start:end])
            kept = end
        elif name == "FRAME":  # its length holds no longer
            length = int.from_bytes(data[start:end], "little")
            if length > len(data) - end:
                raise PickleError(
                    f"byte {offset}: a frame of {length} bytes, {len(data) - end} are left",
                    _FETCH_AGAIN,
                )
            stream += view[kept:offset]
            kept = end
        elif name == "STOP":
            return (stream + view[kept:end] if kept else data), buffers
        elif name in _NUMBER_LINES and end - start > _LONGEST_NUMBER:
            raise PickleError(f"byte {offset}: a number of {end - start} characters", _FETCH_AGAIN)
        elif name in ("PUT", "LONG_BINPUT"):
            argument = data[start:end]
            index = int(argument) if name == "PUT" else int.from_bytes(argument, "little")
            if index > most:  # the memo is an array as long as its greatest index
                raise PickleError(f"byte {offset}: keeps a value as number {index}", _FETCH_AGAIN)
    raise AssertionError("_opcodes ends by an error")


def _opcodes(data: bytes) -> Iterator[tuple[str, int, int, int]]:
    """Name and offset of each opcode, and where its argument (but for a length) begins and ends."""
    offset = 0
    while offset < len(data):
        opcode = _OPCODES.get(data[offset : offset + 1])
        if opcode is None:
            raise PickleError(f"byte {offset}: 0x{data[offset]:02x} is no opcode", _NOT_A_SET)
        size = opcode.arg.n if opcode.arg else 0
        start = offset + 1
        if size == pickletools.UP_TO_NEWLINE:
            end = data.find(b"\n", start) + 1 or len(data) + 1
            if opcode.name == "GLOBAL":
                end = data.find(b"\n", end) + 1 or len(data) + 1
        elif size in _LENGTH_BYTES:
            start += _LENGTH_BYTES[size]
            end = start + int.from_bytes(data[offset + 1 : start], "little")
        else:
            end = start + size
        if end > len(data):
            break
        yield opcode.name, offset, start, end
        offset = end
    raise PickleError(f"byte {offset}: the file is cut short or damaged", _FETCH_AGAIN)


# The second fence: names


class _Unpickler(pickle.Unpickler):
    def __init__(
        self, stream: bytes | bytearray, buffers: list[memoryview], may_encode: int
    ) -> None:
        # Strings of Python 2 are images, or about them: they stay bytes.
        super().__init__(io.BytesIO(stream), encoding="bytes", buffers=buffers)
        self._budget = [may_encode]

    def find_class(self, module: str, name: str) -> _StandIn:
        """Give a name of the stream its stand-in; nothing is imported or looked up."""
        if (_RENAMED.get(module, module), name) not in _NAMES:
            shown = ascii(f"{module[:100]}.{name[:100]}")[1:-1]
            raise PickleError(
                f"names {shown}, which could run code when loaded; nothing was run",
                "a verification set needs only bytes and NumPy arrays: fetch it from its "
                "publisher, and do not open this file with pickle.load",
            )
        return _StandIn(name, self._budget)


class _StandIn:
    """What a name of the stream means; a call of it makes bytes, a number, an array or a dtype."""

    __slots__ = ("_budget", "name")

    def __init__(self, name: str, budget: list[int]) -> None:
        self.name = name
        # Encoding copies; a stream that encodes one text again and again would multiply it.
        self._budget = budget

    def __call__(self, *arguments: object) -> object:
        match self.name, arguments:
            case "_reconstruct", (_StandIn(name="ndarray"), (0,), _):
                return PickledArray()
            case (
                "_frombuffer",
                (bytes() | memoryview() as data, _PickledDtype(dtype=dtype), tuple() as shape, _),
            ):
                return PickledArray(_flat_view(data, dtype, shape))
            case "scalar", (_PickledDtype(dtype=dtype), bytes() | memoryview() as data):
                return _flat_view(data, dtype, (1,)).tolist()[0]
            case "dtype", (code, _, _):
                return _PickledDtype(code)
            case "encode", (str() as text, str() as encoding) if encoding in _LATIN_1:
                return self._encode(text)
            case "bytes" | "bytearray", ():
                return b""
            case "bytes" | "bytearray", (bytes() | memoryview() as data,):
                return data
            case "bytes" | "bytearray", (str() as text, encoding) if (
                _text_or_bytes(encoding) in _LATIN_1
            ):
                return self._encode(text)
        raise _unlike_a_set(self)

    def _encode(self, text: str) -> bytes:
        self._budget[0] -= len(text)
        if self._budget[0] < 0:
            raise PickleError("encodes more text than the file holds", _NOT_A_SET)
        return text.encode("latin-1")


class PickledArray:
    """An array of a stream; ``content`` is flat and read-only, None until the stream sends it."""

    __slots__ = ("content",)

    def __init__(self, content: np.ndarray | None = None) -> None:
        self.content = content

    def __setstate__(self, state: object) -> None:
        match state:
            case (
                1,
                tuple() as shape,
                _PickledDtype(dtype=dtype),
                _,
                bytes() | memoryview() as data,
            ):
                self.content = _flat_view(data, dtype, shape)
            case _:
                raise _unlike_a_set(self)


class _PickledDtype:
    """An element type of a stream, which sends the byte order later."""

    __slots__ = ("dtype",)

    def __init__(self, code: object) -> None:
        text = _text_or_bytes(code)
        if not _DTYPE_CODE.fullmatch(text):
            raise PickleError(
                f"an array of dtype {text!a}, images are uint8 and flags bool or integer",
                ENCODE_IMAGES,
            )
        self.dtype = np.dtype(text)

    def __setstate__(self, state: object) -> None:
        match state:
            case (_, order, None, None, None, *_):
                match _text_or_bytes(order):
                    case "<" | ">" | "=" | "|" as known:
                        self.dtype = self.dtype.newbyteorder(known)
                        return
        raise _unlike_a_set(self)


def _unlike_a_set(target: object) -> PickleError:
    return PickleError(
        f"{describe(target)} with arguments that no set of images has; nothing was run",
        _NOT_A_SET,
    )


def _flat_view(
    data: bytes | memoryview, element: np.dtype, shape: tuple[object, ...]
) -> np.ndarray:
    """The elements as a flat view; one axis only may be long, so their order is plain."""
    lengths = [length for length in shape if type(length) is int and length != 1]
    if len(shape) > 2 or len(lengths) > 1 or any(type(n) is not int for n in shape):
        raise PickleError(
            f"an array of {len(shape)} axes, {len(lengths)} of them longer than 1; expected "
            "shape (n,), (n, 1) or (1, n)",
            ENCODE_IMAGES,
        )
    count = math.prod(lengths)
    if count * element.itemsize != len(data):
        raise PickleError(
            f"an array of {count} elements of {element.itemsize} bytes in {len(data)} bytes",
            f"the file is damaged: {_FETCH_AGAIN}",
        )
    return np.frombuffer(data, element)


def _text_or_bytes(value: object) -> str:
    """The start of what Python 3 wrote as text and Python 2 as bytes; "?" for anything else."""
    if isinstance(value, (bytes, memoryview)):
        return str(value[:20], "latin-1")
    return value[:20] if isinstance(value, str) else "?"
