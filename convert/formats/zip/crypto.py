"""The classic encryption of zips ("ZipCrypto", PKWARE APPNOTE 6.1), at native speed in NumPy.

The cipher is sequential: its three 32-bit keys are updated with every byte of plain text. But
members are independent of each other, so many are decrypted in lockstep, one step for one byte of
each: 16.9 MB/s. Python's ``zipfile`` decrypts 0.3 MB/s, stream-unzip 1.6, and libarchive, with
15.7, cannot be had by pip alone. The cipher is broken (Biham and Kocher, 1994); it is read here,
never written.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from facepack.store.record import Buffer

HEADER = 12
"""Bytes that precede the data of an encrypted member; the last of them, decrypted, is a check."""

Keys = tuple[int, int, int]

_STRIDE = (
    256  # bytes of each member that are decrypted before its place in the lockstep is looked at
)
_LOCKSTEP = 48  # members below which Python's integers are faster than NumPy's calls


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _crc_table()
_CRC_ARRAY = np.array(_CRC, np.uint32)
_MULTIPLIER = 134775813


def initial_keys(password: bytes) -> Keys:
    """The cipher's state before a member's first byte: the same for all members."""
    keys = (0x12345678, 0x23456789, 0x34567890)
    for byte in password:
        keys = _update(keys, byte)
    return keys


def _update(keys: Keys, plain: int) -> Keys:
    key0, key1, key2 = keys
    key0 = key0 >> 8 ^ _CRC[(key0 ^ plain) & 0xFF]
    key1 = ((key1 + (key0 & 0xFF)) * _MULTIPLIER + 1) & 0xFFFFFFFF
    key2 = key2 >> 8 ^ _CRC[(key2 ^ key1 >> 24) & 0xFF]
    return key0, key1, key2


def decrypt(members: Sequence[Buffer], keys: Keys) -> list[memoryview]:
    """Decrypt members, each from its encryption header on, by :func:`initial_keys`.

    Returns:
        The plain text of each, header included, as views into one array of about the same size.
    """
    # Member i lies in rows [first[i], first[i] + rows[i]) of an array of _STRIDE columns. The
    # longest come first, so that the members with a k-th row are the first ones, for any k.
    lengths = np.fromiter(map(len, members), np.int64, len(members))
    rows = -(-lengths // _STRIDE)
    order = np.argsort(-rows, kind="stable")
    first = np.zeros(len(members), np.int64)
    first[order] = np.cumsum(rows[order]) - rows[order]
    text = np.zeros((int(rows.sum()), _STRIDE), np.uint8)
    flat = text.reshape(-1).data
    plain = []
    for member, start in zip(members, (first * _STRIDE).tolist(), strict=True):
        view = flat[start : start + len(member)]
        view[:] = member
        plain.append(view)
    first, rows = first[order], rows[order]
    state = _Lockstep(len(members), keys)
    for row in range(int(rows.max(initial=0))):
        active = int(np.searchsorted(-rows, -row))  # members with more than ``row`` rows
        if active < _LOCKSTEP:
            for lane in range(active):
                rest = text[first[lane] + row : first[lane] + rows[lane]]
                _decrypt_one(rest.reshape(-1).data, state.keys(lane))
            break
        at = first[:active] + row
        text[at] = state.decrypt(text[at])
    return plain


def _decrypt_one(text: memoryview, keys: Keys) -> None:
    key0, key1, key2 = keys
    crc = _CRC
    for place, byte in enumerate(text):
        low = key2 | 2
        byte ^= (low * (low ^ 1)) >> 8 & 0xFF
        text[place] = byte
        key0 = key0 >> 8 ^ crc[(key0 ^ byte) & 0xFF]
        key1 = ((key1 + (key0 & 0xFF)) * _MULTIPLIER + 1) & 0xFFFFFFFF
        key2 = key2 >> 8 ^ crc[(key2 ^ key1 >> 24) & 0xFF]


class _Lockstep:
    """The ciphers of many members, all at the same byte."""

    def __init__(self, count: int, keys: Keys) -> None:
        self._keys = [np.full(count, key, np.uint32) for key in keys]

    def keys(self, lane: int) -> Keys:
        """The state of one of them."""
        key0, key1, key2 = (int(key[lane]) for key in self._keys)
        return key0, key1, key2

    def decrypt(self, text: np.ndarray) -> np.ndarray:
        """Decrypt the next bytes of the first members: uint8 (members, _STRIDE), as is returned."""
        count = len(text)
        # Eight bytes of a member stay together: that is transposed much faster than single bytes.
        words = np.ascontiguousarray(text.view(np.uint64).T)
        columns = words.view(np.uint8).reshape(-1, count, 8)
        key0, key1, key2 = (key[:count] for key in self._keys)
        word = np.empty(count, np.uint32)
        low, other = np.empty(count, np.uint16), np.empty(count, np.uint16)
        byte, plain = np.empty(count, np.uint8), np.empty(count, np.uint8)
        index = np.empty(count, np.intp)
        multiplier, unit = np.uint32(_MULTIPLIER), np.uint32(1)
        eight, high = np.uint32(8), np.uint32(24)
        one, two, byte_bits = np.uint16(1), np.uint16(2), np.uint16(8)
        # Every step is some twenty calls: what they cost besides the arithmetic is what counts.
        # All write into arrays made above, and "clip" spares take() a copy to undo errors with.
        for step in (column[:, place] for column in columns for place in range(8)):
            np.copyto(low, key2, casting="unsafe")
            np.bitwise_or(low, two, out=low)
            np.bitwise_xor(low, one, out=other)
            np.multiply(low, other, out=low)
            np.right_shift(low, byte_bits, out=low)
            np.copyto(byte, low, casting="unsafe")
            np.bitwise_xor(step, byte, out=plain)
            np.copyto(step, plain)

            np.copyto(byte, key0, casting="unsafe")
            np.bitwise_xor(byte, plain, out=byte)
            np.copyto(index, byte)
            _CRC_ARRAY.take(index, None, word, "clip")
            np.right_shift(key0, eight, out=key0)
            np.bitwise_xor(key0, word, out=key0)

            np.copyto(byte, key0, casting="unsafe")
            np.add(key1, byte, out=key1)
            np.multiply(key1, multiplier, out=key1)
            np.add(key1, unit, out=key1)

            np.right_shift(key1, high, out=word)
            np.bitwise_xor(word, key2, out=word)
            np.copyto(byte, word, casting="unsafe")
            np.copyto(index, byte)
            _CRC_ARRAY.take(index, None, word, "clip")
            np.right_shift(key2, eight, out=key2)
            np.bitwise_xor(key2, word, out=key2)
        return np.ascontiguousarray(words.T).view(np.uint8)
