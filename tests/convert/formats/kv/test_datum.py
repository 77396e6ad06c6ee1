from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facepack import images
from facepack.convert.formats.kv.datum import pack_datum, read_datum
from facepack.convert.formats.kv.value import read_value
from facepack.errors import DecodeError
from facepack.images import decode, image_format

MakeJpeg = Callable[..., bytes]
Field = tuple[int, int | bytes]
Buffer = bytes | bytearray | memoryview


def varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def message(*fields: Field) -> bytes:
    """The fields as protobuf writes them: integers as varints, bytes with their length."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value % (1 << 64))
        else:
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def caffe(pixels: np.ndarray, label: int = 3, encoded: int = 0) -> bytes:
    """What Caffe's convert_imageset stores of an RGB image (H, W, 3) or a grey one (H, W)."""
    planes = pixels[None] if pixels.ndim == 2 else pixels[:, :, ::-1].transpose(2, 0, 1)
    channels, height, width = planes.shape
    shape = [(1, channels), (2, height), (3, width)]
    return message(*shape, (4, planes.tobytes()), (5, label), (7, encoded))


def png(color: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, "PNG")
    return buffer.getvalue()


def datum_image(value: Buffer) -> Buffer:
    return read_value(memoryview(value)).image


def test_an_encoded_image_comes_out_as_it_went_in(make_jpeg: MakeJpeg) -> None:
    image = make_jpeg(1)
    assert pack_datum(image) == message((4, image))
    for value in (
        image,
        png(),
        pack_datum(image),
        message((1, image)),
        message((4, image), (5, -1), (7, 1)),
        message((1, image), (2, 7)),  # a field that F2C's Datum does not know
        message((1, 3), (2, 32), (3, 32), (4, image)),  # Caffe's, without its flag
        message((4, b"an earlier one"), (4, image)),
        b"\x6dabcd\x69abcdefgh" + pack_datum(image),  # fixed 32 and 64 bits of unknown fields
    ):
        expected = png() if value == png() else image
        assert bytes(datum_image(value)) == expected
        assert bytes(datum_image(memoryview(value))) == expected


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7), (1, 1, 3)])
def test_raw_pixels_of_caffe_become_a_png_without_loss(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    image = datum_image(caffe(pixels))
    assert image_format(image) == "png"
    with Image.open(io.BytesIO(image)) as opened:
        assert opened.mode == ("L" if pixels.ndim == 2 else "RGB")
        assert np.array_equal(np.asarray(opened), pixels)
    rgb = pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=2)
    assert np.array_equal(decode(image), rgb)
    assert datum_image(caffe(pixels)) == image


def test_pixels_that_begin_like_an_image_are_pixels() -> None:
    pixels = np.zeros((2, 4, 3), np.uint8)
    pixels[0, :3, 2] = (0xFF, 0xD8, 0xFF)  # the blue plane comes first
    assert np.array_equal(decode(datum_image(caffe(pixels))), pixels)
    assert bytes(datum_image(caffe(pixels, encoded=1)))[:3] == b"\xff\xd8\xff"


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (b"", "holds no image"),
        (message((5, 3)), "holds no image"),
        (message((4, b"")), "holds no image"),
        (message((1, 3), (2, 4), (3, 5), (4, b"x" * 61)), "3×4×5 raw pixels, 60 bytes, and holds"),
        (message((1, 2), (2, 4), (3, 5), (4, b"x" * 40)), "raw pixels of 2 channels; 1 or 3"),
        (message((1, 3), (6, b"\0\0\x80\x3f")), "pixels as floats"),
        (b"\x35\0\0\x80\x3f"[:3], "not a whole Datum: field 6 claims 4 bytes, 2 are left"),
        (b"\x22\xff\x01abc", "field 4 claims 255 bytes, 3 are left"),
        (b"\x22", "the number that begins at byte 1 has no end"),
        (b"\xff" * 1_000_000, "the number that begins at byte 0 has no end"),
        (b"\x08" + b"\x80" * 10 + b"\x01", "the number that begins at byte 1 has no end"),
        (b"\x03", "byte 0 begins a field of number 0"),
        (b"\x0b", "byte 0 begins a field of type 3"),
        (b"\x10\x01" * 500_000, "more than 64 fields"),
        (message((4, b"x")) + b"\x0f", "byte 3 begins a field of type 7"),
    ],
)
def test_what_is_no_datum_is_refused_in_words(value: bytes, complaint: str) -> None:
    with pytest.raises(DecodeError, match=complaint):
        datum_image(value)


def test_raw_pixels_respect_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 30)
    with pytest.raises(DecodeError, match=r"8×4 pixels; at most 30 .* FACEPACK_MAX_PIXELS"):
        datum_image(caffe(np.zeros((4, 8, 3), np.uint8)))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([1, 2, 3, 4, 5, 7, 8, 15, 16, 5000]),
            st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=40)),
        ),
        max_size=12,
    )
)
def test_fields_are_read_as_they_were_written(fields: list[Field]) -> None:
    last = {(number, type(value)): value for number, value in fields}
    shape = tuple(last.get((number, int), 0) for number in (1, 2, 3))
    datum = read_datum(message(*fields))
    assert datum.shape == shape and datum.encoded == bool(last.get((7, int)))
    label = last.get((5, int))
    assert datum.label == (np.uint64(label).astype(np.int64) if isinstance(label, int) else None)
    assert bytes(datum.data) == (last.get((4, bytes)) or last.get((1, bytes)) or b"")


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=60).map(lambda tail: b"\x22" + tail)))
def test_garbage_is_refused_and_nothing_else(value: bytes) -> None:
    try:
        datum_image(value)
    except DecodeError:
        pass


@given(st.integers(0, 200), st.integers(0, 255), st.booleans())
def test_a_damaged_datum_is_refused_and_nothing_else(place: int, byte: int, cut: bool) -> None:
    value = bytearray(caffe(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)))
    value[place % len(value)] = byte
    try:
        datum_image(value[: place % len(value)] if cut else value)
    except DecodeError:
        pass
