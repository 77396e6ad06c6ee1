"""What a file is by its first bytes, where a command was given one that is not its own.

What the format's own reader says of it is right and of little help: that a tar has no directory of
a zip at its end, or that a page which tells of a refused download is no pickle.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from facepack.convert.source_file import file_name
from facepack.reading import open_regular


class _Format(NamedTuple):
    what: str
    magic: bytes  # in lower case
    remedy: str
    own: tuple[str, ...] = ()  # sources that read it, or tell of it themselves
    offset: int = 0  # where the magic stands


_FORMATS = (
    _Format("a web page", b"<!doctype html", "download the file itself"),
    _Format("a web page", b"<html", "download the file itself"),
    _Format("a .rec", b"\x0a\x23\xd7\xce", "pass it to a rec2… command", ("rec",)),
    _Format("a tar", b"ustar", "pass it to a tar2… command", ("tar",), 257),
    _Format("a zip", b"pk\3\4", "pass it to a zip2… command, or unpack it", ("zip", "bin")),
    _Format("a Parquet file", b"par1", "pass it to a parquet2… command", ("parquet",)),
    _Format("an LMDB", b"\xde\xc0\xef\xbe", "pass it to a kv2… command", ("kv",), 16),
    _Format("gzipped", b"\x1f\x8b", "unpack it, by gzip -dk", ("tar", "bin", "tfrecord")),
    _Format("compressed by xz", b"\xfd7zxz\0", "unpack it, by xz -dk", ("bin",)),
    _Format("compressed by bzip2", b"bzh", "unpack it, by bzip2 -dk", ("bin",)),
    _Format("compressed by zstd", b"\x28\xb5\x2f\xfd", "unpack it, by zstd -dk", ("bin",)),
    _Format("a JPEG image", b"\xff\xd8\xff", "pass the folder of images to an img2… command"),
    _Format("a PNG image", b"\x89png\r\n\x1a\n", "pass the folder of images to an img2… command"),
    _Format("a 7z archive", b"7z\xbc\xaf\x27\x1c", "unpack it"),
    _Format("a RAR archive", b"rar!\x1a\x07", "unpack it"),
)
_HEAD = max(known.offset + len(known.magic) for known in _FORMATS)


def tell_other_format(paths: Sequence[Path], source: str) -> str | None:
    """What the first of the files that is not for ``source`` is, and what to do; None: none is."""
    for path in filter(Path.is_file, paths):  # of a pipe, nothing is left
        try:
            with open_regular(path) as file:
                head = file.read(_HEAD).lower()
        except OSError:
            continue
        for known in _FORMATS:
            if head.startswith(known.magic, known.offset) and source not in known.own:
                return f"{file_name(path)} is {known.what} by its first bytes: {known.remedy}"
    return None
