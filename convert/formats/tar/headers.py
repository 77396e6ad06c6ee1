"""The headers of a tar: v7, ustar, pax and GNU.

A tar is a run of blocks of 512 bytes. A member has a header block and its data, padded to whole
blocks; a pax record or GNU's long name may stand before it as a member of its own. The archive ends
with blocks of zeros. Links, devices and pipes are told, never followed.

Python's ``tarfile`` takes 2.8 times as long for headers; it writes the rare ones here.
Usual headers that lie in one piece of memory are read together, in a tenth of the time.

Source: POSIX.1-2017 ``pax``, "pax Interchange Format"; the GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import re
import tarfile
import zlib
from typing import NamedTuple, Protocol

import numpy as np

from facepack.errors import SourceError

BLOCK = 512
ZEROS = bytes(BLOCK)
LONGEST_NAME = 100  # bytes of a name that fits into a header
TIMED = 3  # header blocks of a member behind a pax record of times

_MOST_PREFACE = 1 << 20  # bytes of a pax record or a long name
_MOST_BEFORE = 4 << 20  # bytes of all of them before a member
_REGULAR = b"0\x007"
_PAX = b"x"
# Lines that state their own length, as _pax reads them, which asks no more of times either.
_TIMES = re.compile(
    b"(?:%b)+" % b"|".join(b"%d [acm]time=[-.0-9]{%d}\n" % (n, n - 10) for n in range(11, 50))
)
_FEW = 16  # members that are walked at once, at first
_BARE = b"123456"  # links, devices, folders, pipes: no data follow, whatever the size says
_ADLER = 65521
_DIGITS = [*range(124, 135), *range(148, 154)]  # of the size and the checksum
_OCTAL = 8 ** np.arange(10, -1, -1)
_FETCH_AGAIN = "the archive is damaged; fetch it again, and give pieces in order"


class Reader(Protocol):
    """What headers are read from: see :class:`facepack.convert.formats.tar.stream.Stream`."""

    @property
    def position(self) -> int:
        """The offset of the next byte."""

    def read(self, count: int) -> bytes:
        """The next bytes."""

    def skip(self, count: int) -> None:
        """Pass over the next bytes."""

    def name_byte(self, position: int) -> str:
        """Where a byte lies, in words."""


class Member(NamedTuple):
    """A member of a tar."""

    name: bytes  # as the archive has it
    regular: bool  # whether it is a file; else a folder, link, device or pipe
    begin: int  # where its first header begins in the stream
    data: int  # where its data begin
    size: int  # bytes of its data

    @property
    def end(self) -> int:
        """Where the next member begins."""
        return self.data + padded(self.size)


def padded(size: int) -> int:
    """``size`` filled up to whole blocks."""
    return size + (-size & (BLOCK - 1))


def is_header(block: bytes) -> bool:
    """Whether ``block`` is the header of a member, as far as its checksum tells."""
    if len(block) != BLOCK or block == ZEROS:
        return False
    try:
        stated = int(block[148:156].split(b"\0", 1)[0].strip() or b"0", 8)
    except ValueError:
        return False
    # The sum of all bytes, those of the checksum taken as blanks. Adler-32's low half is one more
    # than the sum of the bytes modulo 65521: the same test, at a tenth of the time.
    field = sum(block[148:156])
    if (stated + field - 256 + 1) % _ADLER == zlib.adler32(block) & 0xFFFF:
        return True
    return stated in _sums(block)


def read_member(reader: Reader) -> Member | None:
    """Read the headers of the next member; None where the archive ends, by a block of zeros.

    The reader then stands at the member's data, or behind the block of zeros.

    Raises:
        SourceError: there is no header, it is damaged, or the member is sparse.
    """
    begin = reader.position
    name: bytes | None = None
    size: int | None = None
    while True:
        at = reader.position
        if at - begin > _MOST_BEFORE:
            raise _fault(reader, begin, "pax records and long names without end before a member")
        block = reader.read(BLOCK)
        if block == ZEROS and at == begin:
            return None
        if not is_header(block):
            raise _fault(reader, at, "no header of a member, or one whose checksum is wrong")
        kind = block[156:157]
        stated = _number(block[124:136])
        if stated is None:
            raise _fault(reader, at, f"the size of the member is {block[124:136]!r}")
        if kind in (b"x", b"X", b"L"):
            preface = _preface(reader, at, stated)
            if kind == b"L":
                name = preface.split(b"\0", 1)[0]
            else:
                records = _pax(reader, at, preface)
                name = records.get(b"path", name)
                if b"size" in records:
                    size = _decimal(reader, at, records[b"size"])
                if any(key.startswith(b"GNU.sparse") for key in records):
                    raise _sparse(reader, at, name or _name(block))
        elif kind in (b"g", b"K"):  # of all members, or the target of a link
            _preface(reader, at, stated)
        elif kind == b"S":
            raise _sparse(reader, at, name or _name(block))
        else:
            break
    if name is None:
        name = _name(block)
    folder = kind in (b"0", b"\0") and name.endswith(b"/")  # v7 has no other sign of one
    regular = kind in _REGULAR and not folder
    bare = folder or kind in _BARE
    data = reader.position
    return Member(name, regular, begin, data, 0 if bare else stated if size is None else size)


class Members(NamedTuple):
    """Files of a tar that follow each other in a piece of memory.

    Each has one header block, and perhaps a pax record of times before it.
    """

    names: list[bytes]  # as the archive has them
    begins: list[int]  # where the first header of each begins in the memory
    headers: list[int]  # where its own header does
    sizes: list[int]  # bytes of each one's data

    @classmethod
    def none(cls) -> Members:
        """No files."""
        return cls([], [], [], [])


def usual_members(data: bytes, start: int, stop: int) -> Members:
    """The members from byte ``start`` of ``data`` on, as far as they are usual.

    That is as long as they are files, end before ``stop``, and have one header block, whose fields
    are written as all tars of today write them. Before it may be what Python's ``tarfile`` and GNU
    tar's ``posix`` format write where times have fractions: a pax record of times alone.
    """
    found = Members.none()
    most = _FEW
    # No more are walked at once than were usual before: else each call would go to the end of the
    # memory, and where unusual members stand among the others, there are as many calls.
    while True:
        begins, headers, sizes, after = _walk(data, start, stop, most)
        if not begins:
            return found
        memory = np.frombuffer(data, np.uint8, (after - start) // BLOCK * BLOCK, start)
        blocks = memory.reshape(-1, BLOCK)
        first, own = ((np.array(at) - start) // BLOCK for at in (begins, headers))
        usual, names, _ = _files(blocks[own])
        timed = first != own
        usual[timed] &= are_times(blocks, first[timed])
        count = len(usual) if usual.all() else int(usual.argmin())
        found.names.extend(names[:count])
        found.begins.extend(begins[:count])
        found.headers.extend(headers[:count])
        found.sizes.extend(sizes[:count])
        if count < most:
            return found
        start, most = after, 4 * most


def _walk(
    data: bytes, start: int, stop: int, most: int
) -> tuple[list[int], list[int], list[int], int]:
    """Up to ``most`` members that may be usual, as their sizes and kinds tell.

    Returns:
        Where the first header of each begins, and where its own does; its size; and where the next
        one begins.
    """
    begins: list[int] = []
    headers: list[int] = []
    sizes: list[int] = []
    at = start
    try:
        while len(begins) < most and at + BLOCK <= stop:
            own = at + (TIMED - 1) * BLOCK if data[at + 156] == _PAX[0] else at
            if own + BLOCK > stop or data[own + 156] not in _REGULAR or data[own + 345]:
                break
            size = int(data[own + 124 : own + 135], 8)
            after = own + BLOCK + size + (-size & (BLOCK - 1))
            if size < 0 or after > stop:
                break
            begins.append(at)
            headers.append(own)
            sizes.append(size)
            at = after
    except ValueError:
        pass
    return begins, headers, sizes, at


def are_times(blocks: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Which of the blocks ``at`` begin a pax record that holds nothing but times: bool (n,).

    ``blocks`` is uint8 (m, 512); behind a usual header of such a record, the next one holds it.
    """
    usual, sizes = _sound(blocks[at], _PAX)
    usual &= sizes <= BLOCK
    records = blocks[at + 1].tobytes()
    ends = (np.arange(len(at)) * BLOCK + sizes).tolist()
    for k in np.flatnonzero(usual).tolist():
        usual[k] = _TIMES.fullmatch(records, k * BLOCK, ends[k]) is not None
    return usual


def usual_names(headers: np.ndarray, sizes: np.ndarray) -> list[bytes | None]:
    """The names of files whose only header blocks, uint8 (n, 512), state these sizes, (n,).

    None stands for one that is not written as all tars of today write it, or is another.
    """
    usual, names, stated = _files(headers)
    usual &= stated == sizes
    return [name if is_usual else None for name, is_usual in zip(names, usual, strict=True)]


def _files(headers: np.ndarray) -> tuple[np.ndarray, list[bytes], np.ndarray]:
    """Which header blocks, uint8 (n, 512), are those of files, of the usual form.

    Returns:
        Whether each is, bool (n,); and of those that are the names, and the sizes, int64 (n,).
    """
    usual, sizes = _sound(headers, _REGULAR)
    fields = np.ascontiguousarray(headers[:, :LONGEST_NAME])
    names = fields.view(f"S{LONGEST_NAME}").ravel()
    lengths = np.char.str_len(names)
    usual &= lengths == (fields != 0).sum(axis=1)  # else something stands behind the name
    # One that ends with a slash is a folder of a v7 tar; and a name there must be.
    usual &= (lengths > 0) & (fields[np.arange(len(fields)), lengths - 1] != ord("/"))
    return usual, names.tolist(), sizes


def _sound(headers: np.ndarray, kinds: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Which header blocks are of these kinds, with sums that are right: bool (n,); their sizes."""
    digits = headers[:, _DIGITS]
    sound = ((digits >= ord("0")) & (digits <= ord("7"))).all(axis=1)
    sound &= (headers[:, 135] == 0) | (headers[:, 135] == ord(" "))
    sound &= (headers[:, 154] == 0) & (headers[:, 155] == ord(" "))
    # The checksum counts its own field as blanks.
    field = headers[:, 148:156].sum(axis=1, dtype=np.uint32)
    stated = (headers[:, 148:154].astype(np.int64) - ord("0")) @ _OCTAL[-6:]
    sound &= headers.sum(axis=1, dtype=np.uint32) - field + 8 * ord(" ") == stated
    sound &= (headers[:, 156, None] == np.frombuffer(kinds, np.uint8)).any(axis=1)
    sound &= headers[:, 345] == 0
    sizes = (headers[:, 124:135].astype(np.int64) - ord("0")) @ _OCTAL
    return sound, sizes


def _sums(block: bytes) -> tuple[int, int]:
    """The sum of the bytes taken as unsigned, and as signed numbers, which some old tars sum."""
    rest = block[:148] + b" " * 8 + block[156:]
    unsigned = sum(rest)
    return unsigned, unsigned - 256 * sum(byte > 127 for byte in rest)


def _name(block: bytes) -> bytes:
    name = block[:100].split(b"\0", 1)[0]
    # GNU's own format has "ustar  " here, and times where the prefix would be.
    if block[257:263] == b"ustar\0" and block[345]:
        return block[345:500].split(b"\0", 1)[0] + b"/" + name
    return name


def _number(field: bytes) -> int | None:
    """A size: octal digits, or GNU's base 256 behind a set first bit; None if it is neither."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip()
    if not digits:
        return 0
    try:
        return int(digits, 8) if digits.isdigit() else None
    except ValueError:
        return None


def _decimal(reader: Reader, at: int, digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 20:
        raise _fault(reader, at, f"the size in the pax record is {digits[:40]!r}")
    return int(digits)


def _preface(reader: Reader, at: int, size: int) -> bytes:
    if size > _MOST_PREFACE:
        raise _fault(reader, at, f"a name or pax record of {size} bytes; allowed are 1 MiB")
    preface = reader.read(size)
    reader.skip(-size & (BLOCK - 1))
    return preface


def _pax(reader: Reader, at: int, text: bytes) -> dict[bytes, bytes]:
    """The records ``length key=value`` and a newline, length counting all of it."""
    records = {}
    start = 0
    while start < len(text):
        length, blank, _ = text[start : start + 8].partition(b" ")
        end = start + int(length) if length.isdigit() else 0
        record = text[start + len(length) + 1 : end - 1]
        key, equals, value = record.partition(b"=")
        if not (blank and equals) or end > len(text) or text[end - 1 : end] != b"\n":
            raise _fault(reader, at, f"the pax record is malformed at its byte {start}")
        records[key] = value
        start = end
    return records


def _sparse(reader: Reader, at: int, name: bytes) -> SourceError:
    shown = name.decode("utf-8", "backslashreplace")
    return SourceError(
        f"{reader.name_byte(at)}: {shown} is stored as a sparse file, which is not read: unpack "
        "the archive, and pack it again without --sparse"
    )


def _fault(reader: Reader, at: int, found: str) -> SourceError:
    return SourceError(f"{reader.name_byte(at)}: {found}; {_FETCH_AGAIN}")


def member_header(name: str, size: int) -> bytes:
    """The header of a file of ``size`` bytes: mode 644, and no owner or time.

    It is ustar's, its name in UTF-8 as GNU tar has it, so that readers see it that know neither pax
    nor prefixes; a pax record stands before it where the name or the size does not fit.
    """
    field = name.encode()
    if len(field) > LONGEST_NAME or size >= 1 << 33:
        member = tarfile.TarInfo(name)
        member.size = size
        return member.tobuf(tarfile.PAX_FORMAT)
    block = (
        b"%b0000644\x000000000\x000000000\x00%011o\x0000000000000\x00        0%bustar\x0000%b"
        % (
            field.ljust(100, b"\0"),
            size,
            bytes(100),
            bytes(247),
        )
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
