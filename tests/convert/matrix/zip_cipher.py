"""Encrypted zips, the slow way: PKWARE's APPNOTE 6.1, a byte at a time."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib


def crc_step(crc: int, byte: int) -> int:
    """CRC-32 of one more byte, without the inversions at both ends."""
    return zlib.crc32(bytes([byte]), crc ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def encrypt(plain: bytes, password: bytes) -> bytes:
    """APPNOTE 6.1, a byte at a time."""
    keys = [305419896, 591751049, 878082192]

    def update(byte: int) -> None:
        keys[0] = crc_step(keys[0], byte)
        keys[1] = ((keys[1] + (keys[0] & 0xFF)) * 134775813 + 1) % 2**32
        keys[2] = crc_step(keys[2], keys[1] >> 24)

    for byte in password:
        update(byte)
    cipher = bytearray()
    for byte in plain:
        word = (keys[2] | 2) & 0xFFFF
        cipher.append(byte ^ (word * (word ^ 1) >> 8 & 0xFF))
        update(byte)
    return bytes(cipher)


def encrypted(data: bytes, password: bytes, *, by_time: bool = False, every: int = 1) -> bytes:
    """A zip whose members are those of ``data``, each ``every``-th of them encrypted."""
    body, directory = b"", b""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for number, info in enumerate(archive.infolist()):
            name = info.filename.encode()
            start = info.header_offset + 30 + len(name)
            packed = data[start : start + info.compress_size]
            flags = info.flag_bits & 0x800  # names in UTF-8
            if number % every == 0:
                flags |= 1 | 8 * by_time
                check = 0x7A if by_time else info.CRC >> 24
                packed = encrypt(bytes(range(11)) + bytes([check]) + packed, password)
            facts = (20, flags, info.compress_type, 0x7A21, 33, info.CRC, len(packed))
            facts = (*facts, info.file_size, len(name), 0)
            directory += struct.pack("<4sH5H3L2H", b"PK\x01\x02", 20, *facts)
            directory += struct.pack("<3H2L", 0, 0, 0, 0, len(body)) + name
            local = (*facts[:5], 0, 0, 0, *facts[8:]) if flags & 8 else facts
            body += struct.pack("<4s5H3L2H", b"PK\x03\x04", *local) + name + packed
            count = number + 1
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(directory), len(body), 0)
    return body + directory + end
