"""CRC-32C of many messages at once, against a loop over bits, and known values."""

from __future__ import annotations

import numpy as np
import pytest

from facepack.convert.formats.tfrecord.crc32c import FOLDS, crc32c, crc32c_of_rows, short_crc32c

P = 0x11EDC6F41  # Castagnoli's polynomial, the highest term first


def slow_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def fast_crc32c(messages: list[bytes]) -> list[int]:
    stops = np.cumsum([len(message) for message in messages])
    starts = np.append(0, stops[:-1])
    found: list[int] = crc32c(np.frombuffer(b"".join(messages), np.uint8), starts, stops).tolist()
    return found


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # these of RFC 3720
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
)
def test_published_values(data: bytes, crc: int) -> None:
    assert fast_crc32c([data]) == [crc] == [slow_crc32c(data)] == [short_crc32c(data)]
    assert crc32c_of_rows(np.frombuffer(data, np.uint8)[None]).tolist() == [crc]


def test_messages_of_all_lengths_are_as_bit_by_bit() -> None:
    rng = np.random.default_rng(0)
    lengths = [*range(20), *range(515, 545), *range(2100, 2150), 3111, 5000, 9001]
    messages = [rng.integers(0, 256, length, np.uint8).tobytes() for length in lengths]
    expected = [slow_crc32c(message) for message in messages]
    assert fast_crc32c(messages) == expected
    assert fast_crc32c(messages[::-1]) == expected[::-1]
    assert fast_crc32c([]) == []


def test_batches_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    messages = [rng.integers(0, 256, k % 90, np.uint8).tobytes() for k in range(300)]
    expected = fast_crc32c(messages)
    monkeypatch.setattr("facepack.convert.formats.tfrecord.crc32c._BATCH", 200)
    assert fast_crc32c(messages) == expected == [slow_crc32c(message) for message in messages]


@pytest.mark.parametrize("exponents", FOLDS)
def test_folds_are_multiples_of_the_polynomial(exponents: tuple[int, ...]) -> None:
    rest = sum(1 << exponent for exponent in exponents)
    while rest.bit_length() >= P.bit_length():
        rest ^= P << (rest.bit_length() - P.bit_length())
    assert rest == 0
    assert list(exponents) == sorted(exponents, reverse=True)
