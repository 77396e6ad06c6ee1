"""The one reader of text, JSON, TOML and arrays that users, packs and other programs bring.

Whoever wrote such a file may have made a slip, or may want to harm whoever reads it. So only
regular files are opened, sizes come before contents, and what is parsed holds nothing that later
code is not made for: no number beyond 64 bits, no text that UTF-8 cannot hold, no nesting that a
recursive function would not survive.

A file that cannot be read is an ``OSError`` whose ``strerror`` says why, and content that is not
as it must be is a ``ValueError``: callers add the file's name and what to do. Lists that are read
line by line, however long, do not come through here.
"""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import stat
import sys
import tokenize
import warnings
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from facepack import system
from facepack.limits import too_large

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

JSON, TEXT = "FACEPACK_MAX_JSON_BYTES", "FACEPACK_MAX_TEXT_BYTES"
IMAGE, TABLE = "FACEPACK_MAX_IMAGE_BYTES", "FACEPACK_MAX_TABLE_BYTES"

_TOML_BYTES = 1 << 16  # of settings, some 2,000 in practice
_TOML_DOTS = 1000  # in a line: the parser takes the square of a key's parts, in time and memory
_DEPTH = 200  # of containers within containers: each merging of a merged pack adds three
_DIGITS = 20  # of 2^64
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_PIECE = 1 << 20
# NumPy lets its parser's errors through, and makes room for what a header claims.
_NUMPY_ERRORS = (
    EOFError,
    MemoryError,
    OSError,
    OverflowError,
    RecursionError,
    SyntaxError,
    TypeError,
    tokenize.TokenError,
)


def open_regular(path: Path) -> FileIO:
    """Open a regular file for reading; to open a pipe would wait for its writer.

    Raises:
        OSError: it cannot be opened, or is something else; ``strerror`` says what.
    """
    file = FileIO(path, opener=_open_at_once)
    try:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISFIFO(mode) and not os.path.exists(os.path.realpath(path)):  # noqa: PTH110
            system.wait_again(file.fileno())  # a shell made it, with a writer: <(zcat list.gz)
        elif not stat.S_ISREG(mode):
            what = "a pipe" if stat.S_ISFIFO(mode) else "a device"
            raise OSError(errno.EINVAL, f"it is {what}, no regular file", os.fspath(path))
    except BaseException:
        file.close()
        raise
    return file


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | system.NO_WAIT)


def read_bytes(path: Path, variable: str | None = TEXT) -> bytes:
    """The bytes of a regular file that is no larger than ``variable`` allows.

    Raises:
        OSError: it cannot be read, is no regular file or too large; ``strerror`` says so.
    """
    with open_regular(path) as file:
        _require_small(path, os.fstat(file.fileno()).st_size, variable)
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file.readall()
        data = bytearray()
        while piece := file.read(_PIECE):
            data += piece
            _require_small(path, len(data), variable)
        return bytes(data)


def _require_small(path: Path, size: int, variable: str | None) -> None:
    reason = None if variable is None else too_large(size, variable)
    if reason is not None:
        raise OSError(errno.EFBIG, reason, os.fspath(path))


def decode_text(data: bytes) -> str:
    """``data`` as text, without the mark that some editors put before UTF-8.

    Raises:
        ValueError: it is not UTF-8; says where, and what it may be instead.
    """
    if data.startswith(_UTF16):
        raise ValueError("the text is UTF-16: save it as UTF-8")
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line}: the byte {data[error.start]:#04x} is not UTF-8 ({error.reason}): if "
            "it is a text, save it as UTF-8"
        ) from error


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        OSError: as :func:`read_bytes`.
        ValueError: as :func:`decode_text`.
    """
    return decode_text(read_bytes(path))


def parse_json(data: bytes | str) -> Any:
    """The value that ``data`` holds as JSON.

    Raises:
        ValueError: it is not JSON, or holds what is not to be met; see the module's docstring.
    """
    text = data if isinstance(data, str) else decode_text(data)
    try:
        value = json.loads(text, parse_int=_integer)
    except RecursionError:
        raise _too_deep() from None
    _check(value)
    return value


def read_json(path: Path) -> Any:
    """The value that a file holds as JSON.

    Raises:
        OSError: as :func:`read_bytes`.
        ValueError: as :func:`parse_json`.
    """
    return parse_json(read_bytes(path, JSON))


def parse_toml(text: str) -> dict[str, Any]:
    """The table that ``text`` holds as TOML.

    Raises:
        ValueError: it is not TOML, or holds what is not to be met; see the module's docstring.
    """
    if len(text) > _TOML_BYTES:
        raise ValueError(f"{len(text):,} characters; settings have at most {_TOML_BYTES:,}")
    for number, line in enumerate(text.split("\n"), start=1):
        if line.count(".") > _TOML_DOTS:
            raise ValueError(f"line {number}: more than {_TOML_DOTS:,} dots")
    try:
        value = tomllib.loads(text)
    except RecursionError:
        raise _too_deep() from None
    _check(value)
    return value


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _too_deep() -> ValueError:
    return ValueError(f"lists and maps are nested more than {_DEPTH} deep")


def _check(value: Any) -> None:
    """A ValueError if a parsed value holds what is not to be met."""
    level = [value]
    for _ in range(_DEPTH + 1):
        following: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                following += each
                following += each.values()
            elif isinstance(each, list):
                following += each
            elif isinstance(each, str):
                each.encode()  # a lone half of a surrogate pair is no text
            elif isinstance(each, int) and not -(1 << 63) <= each < 1 << 64:
                raise ValueError("a number beyond 64 bits")
        if not following:
            return
        level = following
    raise _too_deep()


def parse_npy(data: bytes) -> np.ndarray:
    """The array of a ``.npy`` file.

    Raises:
        ValueError: it is none, or one of Python objects.
    """
    array: np.ndarray = _load_npy(io.BytesIO(data))
    return array


def map_npy(path: Path) -> np.memmap:
    """The array of a ``.npy`` file, mapped for reading.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is none, one of Python objects, or cut short.
    """
    open_regular(path).close()
    array: np.memmap = _load_npy(path, mmap_mode="r")
    return array


def _load_npy(file: Path | io.BytesIO, **how: Any) -> Any:
    try:
        with warnings.catch_warnings():  # a header that Python 2 wrote is as good as another
            warnings.simplefilter("ignore", UserWarning)
            array = np.load(file, allow_pickle=False, **how)
    except _NUMPY_ERRORS as error:
        raise ValueError(f"not an array: {error}") from error
    if not isinstance(array, np.ndarray):
        raise ValueError("not an array: an archive of arrays")
    return array
