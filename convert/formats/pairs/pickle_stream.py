"""Pickle streams of bytes, numbers and NumPy arrays: interpreted, never executed.

A pickle is a program that may call anything it can name. This module runs none of it: it interprets
the opcodes that lists, tuples, numbers, bytes and arrays need, and knows eight names (twice where
NumPy 2 or Python 3 renamed a module), none of which is looked up or called. They only tell which
bytes are an array, and of which type. Bytes and arrays are views into the stream, so that a length
in it makes nothing large. Every other opcode or name, and every malformation, is refused with its
byte offset.

Source: the opcodes as Python's ``pickletools`` documents them; what NumPy 1 and 2 write.
"""

from __future__ import annotations

import enum
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from facepack.errors import SourceError

# Tiny values cost far more memory than their bytes in the stream. Images and arrays need an opcode
# per hundred bytes or more; the limit bounds the memory at some ten times the stream.
_OPCODES_ALWAYS = 1 << 20
_BYTES_PER_OPCODE = 16
_DEEPEST_MARK = 100

_FETCH_AGAIN = "fetch the file again and compare its size and checksum with the publisher's"
_CUT_SHORT = f"the file is cut short or damaged: {_FETCH_AGAIN}"
_NOT_A_SET = "this is no verification set; pass one such as lfw.bin"
_ENCODE_IMAGES = "encode each image as JPEG or PNG and write the set again"

_OPCODE_NAMES = {operation.code: operation.name for operation in pickletools.opcodes}
_DECIMAL = re.compile(rb"-?\d{1,19}L?")
_DTYPE_CODE = re.compile(r"[<>=|]?(b1|[iu][1248])")
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_LATIN_1 = ("latin-1", "latin1")
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"\\": b"\\", b"'": b"'", b'"': b'"'}


class _Name(enum.Enum):
    NDARRAY = "numpy.ndarray"
    DTYPE = "numpy.dtype"
    RECONSTRUCT = "_reconstruct"
    SCALAR = "scalar"
    FROMBUFFER = "_frombuffer"
    # Python 3 writes bytes as text to be encoded in latin-1, under protocols 0 to 2.
    ENCODE = "_codecs.encode"
    # A call with bytes (or, by Python 2, with such text and the encoding), or with nothing.
    BYTES = "bytes or bytearray"


_NAMES = {
    ("numpy", "ndarray"): _Name.NDARRAY,
    ("numpy", "dtype"): _Name.DTYPE,
    ("numpy.core.multiarray", "_reconstruct"): _Name.RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _Name.RECONSTRUCT,
    ("numpy.core.multiarray", "scalar"): _Name.SCALAR,
    ("numpy._core.multiarray", "scalar"): _Name.SCALAR,
    ("numpy.core.numeric", "_frombuffer"): _Name.FROMBUFFER,
    ("numpy._core.numeric", "_frombuffer"): _Name.FROMBUFFER,
    ("_codecs", "encode"): _Name.ENCODE,
    **{
        (module, name): _Name.BYTES
        for module in ("builtins", "__builtin__")
        for name in ("bytes", "bytearray")
    },
}


class PickledArray:
    """An array of a stream; ``content`` is flat and read-only, None until the stream sends it."""

    def __init__(self, content: np.ndarray | None = None) -> None:
        self.content = content


class _PickledDtype:
    """An element type of a stream, which sends the byte order later."""

    def __init__(self, code: str) -> None:
        self.code = code.lstrip("<>=|")
        self.order = "="

    def numpy(self) -> np.dtype:
        return np.dtype(self.order + self.code)


def interpret(path: Path, data: bytes) -> object:
    """The value of the pickle ``data``; ``path`` names it in errors.

    Made of lists, tuples, None, bool, int, str, ``memoryview`` (for bytes) and
    :class:`PickledArray`. Raises :class:`~facepack.errors.SourceError` for anything else.
    """
    return _Machine(path, data).run()


def kind(value: object) -> str:
    """What an interpreted value is, in a few words whatever its size."""
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)} elements"
    if isinstance(value, PickledArray):
        return "an empty array" if value.content is None else f"a {value.content.dtype} array"
    if isinstance(value, _Name):
        return f"a call of {value.value}"
    names = {memoryview: "bytes", str: "text", _PickledDtype: "a dtype"}
    return names.get(type(value), type(value).__name__)


class _Machine:
    def __init__(self, path: Path, data: bytes) -> None:
        self._path = path
        self._bytes = data
        self._view = memoryview(data)
        self._opcode_at = 0
        self._position = 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        # Encoding copies; a stream that encodes one text again and again would multiply it.
        self._may_encode = len(data)

    def run(self) -> object:
        actions = self._actions()
        for _ in range(_OPCODES_ALWAYS + len(self._bytes) // _BYTES_PER_OPCODE):
            self._opcode_at = self._position
            code = self._unsigned(1)
            if code == pickle.STOP[0]:
                value = self._pop()
                if self._stack or self._marks:
                    self._fail("the stream ends with values left over", _FETCH_AGAIN)
                return value
            action = actions.get(code)
            if action is None:
                name = _OPCODE_NAMES.get(chr(code))
                self._fail(
                    f"opcode {name}, which no verification set has"
                    if name
                    else f"0x{code:02x} where an opcode must be",
                    _NOT_A_SET,
                )
            action()
        self._fail("more values than a file of this size should have", _NOT_A_SET)

    def _fail(self, found: str, remedy: str) -> NoReturn:
        raise SourceError(f"{self._path}: byte {self._opcode_at}: {found}; {remedy}")

    # The stream

    def _take(self, count: int) -> memoryview:
        end = self._position + count
        if end > len(self._bytes):
            self._fail(
                f"{count} bytes are announced, {len(self._bytes) - self._position} are left",
                _CUT_SHORT,
            )
        taken = self._view[self._position : end]
        self._position = end
        return taken

    def _unsigned(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _signed(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little", signed=True)

    def _line(self) -> bytes:
        end = self._bytes.find(b"\n", self._position)
        if end < 0:
            self._fail("a line has no end", _CUT_SHORT)
        line = self._bytes[self._position : end]
        self._position = end + 1
        return line

    def _decimal(self, line: bytes) -> int:
        # int() of a very long text is slow, and no number here is long.
        if not _DECIMAL.fullmatch(line):
            self._fail(f"{line[:20]!r} is no number", _FETCH_AGAIN)
        return int(line.rstrip(b"L"))

    def _text(self, data: bytes | memoryview, encoding: str = "utf-8") -> str:
        try:
            return str(data, encoding)
        except UnicodeDecodeError:
            self._fail(f"a text is not {encoding}", _FETCH_AGAIN)

    # The stack and the memo

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            self._fail("a value is missing on the stack", _FETCH_AGAIN)
        return self._stack.pop()

    def _mark(self) -> None:
        if len(self._marks) == _DEEPEST_MARK:
            self._fail(f"values nested {_DEEPEST_MARK} deep", _NOT_A_SET)
        self._marks.append(len(self._stack))

    def _pop_to_mark(self) -> list[Any]:
        if not self._marks:
            self._fail("a mark is missing on the stack", _FETCH_AGAIN)
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _put(self, index: int) -> None:
        value = self._pop()
        self._memo[index] = value
        self._push(value)

    def _get(self, index: int) -> None:
        if index not in self._memo:
            self._fail(f"refers to value {index}, which was not kept", _FETCH_AGAIN)
        self._push(self._memo[index])

    # Opcodes

    def _actions(self) -> dict[int, Callable[[], None]]:
        push, take, unsigned, text = self._push, self._take, self._unsigned, self._text
        actions: dict[bytes, Callable[[], None]] = {
            pickle.PROTO: self._protocol,
            pickle.FRAME: self._frame,
            pickle.MARK: self._mark,
            pickle.NONE: lambda: push(None),
            pickle.NEWTRUE: lambda: push(True),
            pickle.NEWFALSE: lambda: push(False),
            pickle.INT: self._int,
            pickle.LONG: lambda: push(self._decimal(self._line())),
            pickle.LONG1: lambda: push(self._signed(unsigned(1))),
            pickle.BININT: lambda: push(self._signed(4)),
            pickle.BININT1: lambda: push(unsigned(1)),
            pickle.BININT2: lambda: push(unsigned(2)),
            pickle.STRING: self._string,
            pickle.SHORT_BINSTRING: lambda: push(take(unsigned(1))),
            # Its length is signed, but no stream has two gigabytes in one image.
            pickle.BINSTRING: lambda: push(take(unsigned(4))),
            pickle.SHORT_BINBYTES: lambda: push(take(unsigned(1))),
            pickle.BINBYTES: lambda: push(take(unsigned(4))),
            pickle.BINBYTES8: lambda: push(take(unsigned(8))),
            pickle.BYTEARRAY8: lambda: push(take(unsigned(8))),
            pickle.UNICODE: lambda: push(text(self._line(), "raw-unicode-escape")),
            pickle.SHORT_BINUNICODE: lambda: push(text(take(unsigned(1)))),
            pickle.BINUNICODE: lambda: push(text(take(unsigned(4)))),
            pickle.BINUNICODE8: lambda: push(text(take(unsigned(8)))),
            pickle.EMPTY_LIST: lambda: push([]),
            pickle.LIST: lambda: push(self._pop_to_mark()),
            pickle.APPEND: lambda: self._extend([self._pop()]),
            pickle.APPENDS: lambda: self._extend(self._pop_to_mark()),
            pickle.EMPTY_TUPLE: lambda: push(()),
            pickle.TUPLE: lambda: push(tuple(self._pop_to_mark())),
            pickle.TUPLE1: lambda: self._tuple(1),
            pickle.TUPLE2: lambda: self._tuple(2),
            pickle.TUPLE3: lambda: self._tuple(3),
            pickle.PUT: lambda: self._put(self._decimal(self._line())),
            pickle.BINPUT: lambda: self._put(unsigned(1)),
            pickle.LONG_BINPUT: lambda: self._put(unsigned(4)),
            pickle.MEMOIZE: lambda: self._put(len(self._memo)),
            pickle.GET: lambda: self._get(self._decimal(self._line())),
            pickle.BINGET: lambda: self._get(unsigned(1)),
            pickle.LONG_BINGET: lambda: self._get(unsigned(4)),
            pickle.GLOBAL: lambda: push(self._name(text(self._line()), text(self._line()))),
            pickle.STACK_GLOBAL: self._stack_global,
            pickle.INST: self._instance,
            pickle.REDUCE: self._reduce,
            pickle.BUILD: self._build,
        }
        return {code[0]: action for code, action in actions.items()}

    def _protocol(self) -> None:
        protocol = self._unsigned(1)
        if protocol > 5:
            self._fail(f"pickle protocol {protocol}, 0 to 5 are read", _FETCH_AGAIN)

    def _frame(self) -> None:
        length, left = self._unsigned(8), len(self._bytes) - self._position
        if length > left:
            self._fail(f"a frame of {length} bytes, {left} are left", _CUT_SHORT)

    def _int(self) -> None:
        # Protocols 0 and 1 write the booleans so.
        line = self._line()
        self._push(line == b"01" if line in (b"00", b"01") else self._decimal(line))

    def _string(self) -> None:
        line = self._line()
        if len(line) < 2 or line[:1] not in (b"'", b'"') or line[:1] != line[-1:]:
            self._fail("a string without its quotes", _FETCH_AGAIN)

        def unescape(match: re.Match[bytes]) -> bytes:
            if match[1]:
                return bytes.fromhex(match[1].decode())
            if match[2] not in _ESCAPED:
                self._fail(f"a string with the escape {match[0]!r}", _FETCH_AGAIN)
            return _ESCAPED[match[2]]

        self._push(memoryview(_ESCAPE.sub(unescape, line[1:-1])))

    def _extend(self, values: list[Any]) -> None:
        target = self._pop()
        if not isinstance(target, list):
            self._fail(f"{kind(target)} where a list must be", _FETCH_AGAIN)
        target.extend(values)
        self._push(target)

    def _tuple(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self._push(tuple(reversed(values)))

    # Names, and what they stand for

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            self._fail("a name that is not text", _NOT_A_SET)
        self._push(self._name(module, name))

    def _instance(self) -> None:
        name = self._name(self._text(self._line()), self._text(self._line()))
        self._refuse_construction(name)

    def _name(self, module: str, name: str) -> _Name:
        meaning = _NAMES.get((module, name))
        if meaning is None:
            shown = ascii(f"{module[:100]}.{name[:100]}")[1:-1]
            self._fail(
                f"names {shown}, which could run code when loaded; nothing was run",
                "a verification set needs only bytes and NumPy arrays: fetch it from its "
                "publisher, and do not open this file with pickle.load",
            )
        return meaning

    def _reduce(self) -> None:
        arguments, name = self._pop(), self._pop()
        match name, arguments:
            case _Name.RECONSTRUCT, (_Name.NDARRAY, (0,), _):
                self._push(PickledArray())
            case (
                _Name.FROMBUFFER,
                (memoryview() as data, _PickledDtype() as dtype, tuple() as shape, _),
            ):
                self._push(PickledArray(self._content(data, dtype, shape)))
            case _Name.SCALAR, (_PickledDtype() as dtype, memoryview() as data):
                self._push(self._content(data, dtype, (1,)).tolist()[0])
            case _Name.DTYPE, (code, _, _):
                self._push(self._dtype(code))
            case _Name.ENCODE, (str() as text, str() as encoding) if encoding in _LATIN_1:
                self._push(self._encode(text))
            case _Name.BYTES, ():
                self._push(memoryview(b""))
            case _Name.BYTES, (memoryview() as data,):
                self._push(data)
            case _Name.BYTES, (str() as text, encoding) if _text_or_bytes(encoding) in _LATIN_1:
                self._push(self._encode(text))
            case _:
                self._refuse_construction(name)

    def _build(self) -> None:
        state, target = self._pop(), self._pop()
        match target, state:
            case PickledArray(), (1, tuple() as shape, _PickledDtype() as dtype, _, data) if (
                isinstance(data, memoryview)
            ):
                target.content = self._content(data, dtype, shape)
            case _PickledDtype(), (_, order, None, None, None, *_) if _text_or_bytes(order) in (
                "<",
                ">",
                "=",
                "|",
            ):
                target.order = _text_or_bytes(order)
            case _:
                self._refuse_construction(target)
        self._push(target)

    def _refuse_construction(self, target: object) -> NoReturn:
        self._fail(
            f"{kind(target)} with arguments that no verification set has; nothing was run",
            _NOT_A_SET,
        )

    def _dtype(self, value: object) -> _PickledDtype:
        code = _text_or_bytes(value)
        if not _DTYPE_CODE.fullmatch(code):
            self._fail(
                f"an array of dtype {code!a}, images are uint8 and flags bool or integer",
                _ENCODE_IMAGES,
            )
        return _PickledDtype(code)

    def _content(
        self, data: memoryview, dtype: _PickledDtype, shape: tuple[Any, ...]
    ) -> np.ndarray:
        """The elements as a flat view; one axis only may be long, so their order is plain."""
        lengths = [length for length in shape if length != 1]
        if len(shape) not in (1, 2) or len(lengths) > 1 or any(type(n) is not int for n in lengths):
            self._fail(
                f"an array of {len(shape)} axes, {len(lengths)} of them longer than 1; expected "
                "shape (n,), (n, 1) or (1, n)",
                _ENCODE_IMAGES,
            )
        element = dtype.numpy()
        count = math.prod(lengths)
        if count * element.itemsize != len(data):
            self._fail(
                f"an array of {count} elements of {element.itemsize} bytes in {len(data)} bytes",
                f"the file is damaged: {_FETCH_AGAIN}",
            )
        return np.frombuffer(data, element)

    def _encode(self, text: str) -> memoryview:
        self._may_encode -= len(text)
        if self._may_encode < 0:
            self._fail("encodes more text than the file holds", _NOT_A_SET)
        try:
            return memoryview(text.encode("latin-1"))
        except UnicodeEncodeError:
            self._fail("bytes written as text that is not latin-1", _FETCH_AGAIN)


def _text_or_bytes(value: object) -> str:
    """The start of what Python 3 wrote as text and Python 2 as bytes; "?" for anything else."""
    if isinstance(value, memoryview):
        return bytes(value[:20]).decode("latin-1")
    return value[:20] if isinstance(value, str) else "?"
