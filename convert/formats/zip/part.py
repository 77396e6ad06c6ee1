"""Members of a zip, read in sweeps over the file, decrypted, inflated and checked."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facepack import images
from facepack.convert import archive_lists, samples
from facepack.convert.formats.zip.crypto import HEADER, Keys, decrypt
from facepack.convert.formats.zip.directory import Directory, Members, read_members
from facepack.convert.formats.zip.names import NameRefusedError, folder_of, name_texts
from facepack.convert.identity_folder import folder_at, why_none
from facepack.convert.source import Entry, PartInRuns, Refusal
from facepack.convert.source_file import SourceFile, file_name, require_file
from facepack.convert.sweep import MAX_BLOCK
from facepack.store.format import NO_IDENTITY
from facepack.store.record import Buffer, RecordRun, SourceRecord

ENCRYPTED = 0x1  # the flag of an encrypted member

STORED, DEFLATED, AES = 0, 8, 99
"""Methods of compression; the last stands for encryption in WinZip's way."""

_HAS_DESCRIPTOR = 0x8  # sizes and CRC follow the data: the check byte is of the time, not the CRC
_PATCH = 0x20
_METHODS = {
    1: "shrink",
    6: "implode",
    9: "deflate64",
    12: "bzip2",
    14: "LZMA",
    93: "Zstandard",
    95: "XZ",
    98: "PPMd",
}
_LOCAL_SIZE, _LOCAL_MAGIC = 30, b"PK\x03\x04"  # of a local header, without the name
_FAULTS = (
    "",
    "no local header begins here",
    "its local header has another name",
    "it reaches beyond the end of the file",
)
_NO_HEADER, _OTHER_NAME, _BEYOND = 1, 2, 3

_DIRECTORY_BYTES = 1 << 20  # of the directory that are read at once
_BATCH = 8192  # members that are looked at together: so many are decrypted at native speed
_BATCH_BYTES = (MAX_BLOCK * 15 // 16, 48 << 20)  # of members as they are, and of encrypted ones
_RUN = MAX_BLOCK  # about the bytes that are read at once
_SLACK = 256  # for a local header without its name; where it has more, the member is reread

_REASONS = samples.REASONS | archive_lists.REASONS
_FETCH_AGAIN = "fetch the zip again, or go on without this image"
_PACK_AGAIN = "zip the images again without compression, or go on without this one"

Payload = Buffer | tuple[str, str]  # a member's bytes, or why there are none and the remedy


@dataclass(frozen=True, kw_only=True)
class KnownZip:
    """A zip as it was looked at: its path, its bytes, its directory."""

    path: Path
    size: int
    directory: Directory


@dataclass(eq=False, kw_only=True)
class ZipPart(PartInRuns):
    """Images of one zip that follow each other in its directory; each is checked by its CRC-32."""

    remedy = _FETCH_AGAIN
    zip: KnownZip  # the file, and its directory
    start: int
    entry_offsets: np.ndarray  # (n,) byte of each one's entry in the directory
    # (n,) identity of each, -1 for none, less for one that is refused for its name or label
    labels: np.ndarray
    # (n,) how many suffixes of its name a sample is not called by; None: none
    suffixes: np.ndarray | None
    level: int | None  # of the folders that are identities; None where labels are members
    identities: dict[int, str]  # the names of these identities
    keys: Keys | None  # what the password makes of the cipher's keys

    def __post_init__(self) -> None:
        self.stop = self.start + len(self.entry_offsets)

    def _sweep(
        self, rows: np.ndarray, *, once: bool
    ) -> Iterator[RecordRun | SourceRecord | Refusal]:
        with self._open() as file:
            for chosen, members in self._members(file, rows):
                if once:
                    first = int(members.offset[0]) + self.zip.directory.shift
                    file.sweep(min(max(first, 0), file.size), file.size)
                    once = False
                for start, stop in _batches(members):
                    yield from self._read_batch(file, chosen[start:stop], members[start:stop])

    def entries(self) -> Iterator[Entry]:
        """Label and name of each, from the directory; -1 where name or label are refused."""
        with self._open() as file:
            for chosen, members in self._members(file, np.arange(len(self.entry_offsets))):
                labels = np.maximum(self.labels[chosen], NO_IDENTITY).tolist()
                for label, name in zip(labels, self._names(chosen, members), strict=True):
                    yield Entry(label, name)

    def _refuse(self, row: int, name: str | None, reason: str, remedy: str) -> Refusal:
        with self._open() as file:
            ((_, member),) = self._members(file, np.array([row]))
        offset = int(member.offset[0]) + self.zip.directory.shift
        return self._refusal(self.start + row, offset, name or "", reason, remedy)

    def identity_names(self) -> dict[int, str]:
        """The folders' names of the identities of this part."""
        return self.identities

    def _open(self) -> SourceFile:
        require_file(self.zip.path)
        return SourceFile(self.zip.path, self.zip.size)

    def _members(
        self, file: SourceFile, numbers: np.ndarray
    ) -> Iterator[tuple[np.ndarray, Members]]:
        """Read the entries of records, those within a piece of the directory at once."""
        entry_offsets = self.entry_offsets[numbers].astype(np.int64)
        start = 0
        while start < len(numbers):
            stop = int(np.searchsorted(entry_offsets, entry_offsets[start] + _DIRECTORY_BYTES))
            members = read_members(file, self.zip.directory, entry_offsets[start:stop])
            yield numbers[start:stop], members
            start = stop

    def _read_batch(
        self, file: SourceFile, chosen: np.ndarray, members: Members
    ) -> Iterator[RecordRun | SourceRecord | Refusal]:
        """Read members ``chosen`` of this part: together, where they are stored in this order."""
        offsets = members.offset + self.zip.directory.shift
        suspect = _suspects(members, offsets, self.labels[chosen], file.size)
        as_is = (members.method == STORED) & (members.flags & ENCRYPTED == 0)
        if suspect.any() or not as_is.all() or (np.diff(offsets) <= 0).any():
            yield from self._read_singly(file, chosen, members, offsets, suspect)
            return
        for found in _read_ranges(file, members, offsets, np.arange(len(members))):
            some = slice(int(found.rows[0]), int(found.rows[-1]) + 1)
            run = self._run(found, chosen[some], members[some])
            if run is None:
                yield from self._read_singly(
                    file, chosen[some], members[some], offsets[some], suspect[some]
                )
            else:
                yield run

    def _run(self, found: _Range, chosen: np.ndarray, members: Members) -> RecordRun | None:
        """Stored images that lie in one range; None if one of them is not whole."""
        if found.faults.any() or (found.stops > len(found.data)).any():
            return None
        run = RecordRun(
            ordinals=chosen + self.start,
            data=found.data,
            starts=found.starts,
            stops=found.stops,
            labels=self.labels[chosen].astype(np.int64),
            names=self._names(chosen, members),
            extra={},
        )
        if list(map(zlib.crc32, run.images())) != members.crc.tolist():
            return None
        return run

    def _names(self, chosen: np.ndarray, members: Members) -> list[str]:
        """What the records ``chosen`` of this part, which are ``members``, are called."""
        names = name_texts(members.names, members.flags)
        if self.suffixes is None:
            return names
        counts = self.suffixes[chosen].tolist()
        return [
            name.rsplit(".", count)[0] if count else name
            for name, count in zip(names, counts, strict=True)
        ]

    def _read_singly(
        self,
        file: SourceFile,
        chosen: np.ndarray,
        members: Members,
        offsets: np.ndarray,
        suspect: np.ndarray,
    ) -> Iterator[SourceRecord | Refusal]:
        """Any members, each by itself; those that are ``suspect`` are not even read."""
        labels = self.labels[chosen]
        payloads: list[Payload] = [b""] * len(members)
        for row in np.flatnonzero(suspect).tolist():
            member, offset = members[row : row + 1], int(offsets[row])
            payloads[row] = _why(member, offset, labels[row], file.size, level=self.level)
        rows = np.flatnonzero(~suspect)
        rows = rows[np.argsort(offsets[rows], kind="stable")]
        for found in _read_ranges(file, members, offsets, rows):
            for row, payload in found.payloads(file):
                payloads[row] = payload
        if self.keys is not None:
            self._decrypt(payloads, members)
        crc32 = zlib.crc32
        for ordinal, label, offset, name, method, size, crc, payload in zip(
            (chosen + self.start).tolist(),
            labels.tolist(),
            offsets.tolist(),
            self._names(chosen, members),
            members.method.tolist(),
            members.size.tolist(),
            members.crc.tolist(),
            payloads,
            strict=True,
        ):
            if method == DEFLATED and not isinstance(payload, tuple):
                payload = _inflate(payload, size)
            if isinstance(payload, tuple):
                yield self._refusal(ordinal, offset, name, *payload)
            elif crc32(payload) != crc:
                reason = f"its CRC-32 is {crc32(payload):08x}, the directory says {crc:08x}"
                yield self._refusal(ordinal, offset, name, reason, _FETCH_AGAIN)
            else:
                yield SourceRecord(ordinal, payload, label, name)

    def _decrypt(self, payloads: list[Payload], members: Members) -> None:
        """Replace what is encrypted by its plain text, all of it at once."""
        assert self.keys is not None
        rows = np.flatnonzero(members.flags & ENCRYPTED).tolist()
        ciphers = [(row, p) for row in rows if not isinstance(p := payloads[row], tuple)]
        if not ciphers:
            return
        # Where the CRC was not known before the data, writers take the time's high byte instead.
        by_time = (members.flags & _HAS_DESCRIPTOR) != 0
        checks = np.where(by_time, members.time >> 8, members.crc >> 24).tolist()
        texts = decrypt([cipher for _, cipher in ciphers], self.keys)
        for (row, _), text in zip(ciphers, texts, strict=True):
            payloads[row] = text[HEADER:]
            if text[HEADER - 1] != checks[row]:
                payloads[row] = (
                    "the password does not fit this member, or its encryption header is damaged",
                    "unzip it with its own password, or go on without this image",
                )

    def _refusal(self, ordinal: int, offset: int, name: str, reason: str, remedy: str) -> Refusal:
        return Refusal(ordinal, file_name(self.zip.path), offset, name, reason, remedy)


class _Range(NamedTuple):
    """Members whose local headers lie in one range of the file that was read at once."""

    begin: int  # byte of the file at which it begins
    data: memoryview  # its bytes
    rows: np.ndarray  # which members, by increasing offset
    starts: np.ndarray  # where the data of each begin in data
    stops: np.ndarray  # where they end, perhaps behind it
    faults: np.ndarray  # what is wrong with the header of each, as in _FAULTS

    def payloads(self, file: SourceFile) -> Iterator[tuple[int, Payload]]:
        """What lies in the file for each member, or why it is refused."""
        columns = (self.rows, self.starts, self.stops, self.faults)
        for row, start, stop, fault in zip(*(c.tolist() for c in columns), strict=True):
            payload: Payload = self.data[start:stop]
            if not fault and stop > len(self.data):  # the local header has long extra fields
                fault = _BEYOND * (self.begin + stop > file.size)
                payload = b"" if fault else file.read(stop - start, self.begin + start)
            yield row, (_FAULTS[fault], _FETCH_AGAIN) if fault else payload


def _read_ranges(
    file: SourceFile, members: Members, offsets: np.ndarray, rows: np.ndarray
) -> Iterator[_Range]:
    """Read the members ``rows``, by increasing offset, and find the data of each.

    Local headers are read as arrays: each is 30 bytes, of which the lengths of name and extra
    fields matter, and the name, which must be that of the directory.
    """
    slack = _SLACK + max(map(len, members.names), default=0)
    for begin, end, group in _runs(rows, offsets, members.packed + slack, file.size):
        data = file.read_block(end - begin, begin)
        octets = np.frombuffer(data, np.uint8)
        names = [members.names[row] for row in group.tolist()]
        at = offsets[group] - begin
        heads = np.lib.stride_tricks.sliding_window_view(octets, _LOCAL_SIZE)[at]
        name_length, extra_length = (
            heads[:, k].astype(np.int64) | heads[:, k + 1].astype(np.int64) << 8 for k in (26, 28)
        )
        name_at = at + _LOCAL_SIZE
        starts = name_at + name_length + extra_length
        faults = np.zeros(len(group), np.int8)
        lengths = np.fromiter(map(len, names), np.int64, len(names))
        beyond = name_at + lengths > len(data)
        faults[(name_length != lengths) | beyond] = _OTHER_NAME
        # All letters of all names side by side: ``letters`` is where each lies in the data, those
        # that would lie behind it are held at its end, for their names are wrong already.
        ends = np.cumsum(lengths)
        letters = np.repeat(name_at - (ends - lengths), lengths) + np.arange(ends[-1])
        if beyond.any():
            letters = np.minimum(letters, len(octets) - 1)
        stated = np.frombuffer(b"".join(names), np.uint8)
        differ = octets[letters] != stated
        if differ.any():
            faults[np.searchsorted(ends, np.flatnonzero(differ), side="right")] = _OTHER_NAME
        magic = heads[:, :4] == np.frombuffer(_LOCAL_MAGIC, np.uint8)
        faults[~magic.all(axis=1)] = _NO_HEADER
        yield _Range(begin, data, group, starts, starts + members.packed[group], faults)


def _batches(members: Members) -> Iterator[tuple[int, int]]:
    """Cut members into batches of a bounded number and, but for a large one, of bytes.

    What is only copied and checked stays in the processor's cache; what is decrypted comes in
    large batches.
    """
    bound = _BATCH_BYTES[bool((members.flags & ENCRYPTED).any())]
    # What is larger than any image is not read.
    sizes = np.where(members.packed > images.MAX_BYTES, 0, members.packed)
    before = np.concatenate([[0], np.cumsum(sizes)])
    even = -(-len(members) // -(-len(members) // _BATCH))  # no small batch at the end
    start = 0
    while start < len(members):
        stop = int(np.searchsorted(before, before[start] + bound, side="right")) - 1
        stop = min(max(stop, start + 1), start + even, len(members))
        yield start, stop
        start = stop


def _suspects(
    members: Members, offsets: np.ndarray, labels: np.ndarray, file_size: int
) -> np.ndarray:
    """Which members are not even read: bool (n,); :func:`_why` says why."""
    header = np.where(members.flags & ENCRYPTED, HEADER, 0)
    stored = members.method == STORED
    return (
        (labels < NO_IDENTITY)
        | members.damaged
        | (np.maximum(members.size, members.packed) > images.MAX_BYTES)
        | ~(stored | (members.method == DEFLATED))
        | ((members.flags & _PATCH) != 0)
        | (members.packed < header)
        | (stored & (members.packed - header != members.size))
        | (offsets < 0)
        | (offsets > file_size - _LOCAL_SIZE)
    )


def _why(
    member: Members, offset: int, label: int, file_size: int, *, level: int | None
) -> tuple[str, str]:
    """Reason and remedy for a member of :func:`_suspects`, in the order of its conditions."""
    size, packed = int(member.size[0]), int(member.packed[0])
    method, flags = int(member.method[0]), int(member.flags[0])
    if label < NO_IDENTITY:
        if level is None:
            return _REASONS[label]
        try:
            folder = folder_of(member.names[0], flags)
        except NameRefusedError as error:
            return error.reason, error.remedy
        if folder_at(folder, level) is None:
            return why_none(level)
        return "a member before it has the same name", "rename one of them, or go on without it"
    if member.damaged[0]:
        return "its zip64 field is missing or too short", _FETCH_AGAIN
    if max(size, packed) > images.MAX_BYTES:
        return (
            f"{size:,} bytes, {packed:,} in the zip; at most {images.MAX_BYTES:,} are taken",
            "set the environment variable FACEPACK_MAX_IMAGE_BYTES to more, or go on without it",
        )
    if method not in (STORED, DEFLATED):
        name = _METHODS.get(method, "unknown")
        return f"it is compressed with method {method} ({name}); read are 0 and 8", _PACK_AGAIN
    if flags & _PATCH:
        return "it is a patch to another file", _PACK_AGAIN
    if offset < 0 or offset > file_size - _LOCAL_SIZE:
        return f"it should begin at byte {offset}; the file has {file_size}", _FETCH_AGAIN
    return f"{packed:,} bytes in the zip cannot hold its {size:,}", _FETCH_AGAIN


def _runs(
    rows: np.ndarray, offsets: np.ndarray, lengths: np.ndarray, file_size: int
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Join the members ``rows``, by increasing offset, into byte ranges that are read at once.

    ``offsets`` (n,) are those of all members, ``lengths`` (n,) the bytes that each may take.

    Yields:
        First byte and end of a range, and the members that begin in it.
    """
    if not len(rows):
        return
    begins = offsets[rows]
    ends = np.minimum(begins + lengths[rows], file_size)
    apart = begins[1:] > np.maximum.accumulate(ends)[:-1]
    apart |= np.diff((begins - begins[0]) // _RUN) > 0
    cuts = [0, *(np.flatnonzero(apart) + 1).tolist(), len(rows)]
    for start, stop in pairwise(cuts):
        yield int(begins[start]), int(ends[start:stop].max()), rows[start:stop]


def _inflate(data: Buffer, size: int) -> Payload:
    """Inflate to exactly ``size`` bytes; never more than one byte above is made."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        image = inflater.decompress(data, size + 1)
    except zlib.error as error:
        return f"it does not inflate: {error}", _FETCH_AGAIN
    if len(image) > size:
        return f"it inflates to more than the {size:,} bytes that it claims", _FETCH_AGAIN
    if len(image) < size or not inflater.eof:
        return f"its data end after {len(image):,} of {size:,} bytes", _FETCH_AGAIN
    return image
