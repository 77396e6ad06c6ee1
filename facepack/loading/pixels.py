"""From an encoded image to a row of a batch: decoding in place, mirroring, normalising."""

from __future__ import annotations

import numpy as np
import simplejpeg

from facepack import images
from facepack.errors import DecodeError

MEAN = np.float32(127.5)
# Normalizing is one subtraction (exact) and one rounded product: what DALI's CPU operator computes.
SCALE = np.float32(1 / 127.5)


def plain_jpeg_size(data: memoryview | bytes) -> tuple[int, int] | None:
    """Height and width of an 8-bit grey or three-component Huffman JPEG; None for anything else.

    Walks the markers to the frame header (1 µs) and checks nothing besides.
    """
    if bytes(data[:2]) != b"\xff\xd8":
        return None
    at = 2
    try:
        while data[at] == 0xFF:
            if 0xC0 <= data[at + 1] <= 0xC2:  # baseline, extended sequential, progressive
                if data[at + 4] != 8 or data[at + 9] not in (1, 3):
                    return None
                return data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
            at += 2 + (data[at + 2] << 8 | data[at + 3])
    except IndexError:
        pass
    return None


def decode_checked(data: memoryview | bytes, size: tuple[int, int]) -> np.ndarray:
    """Decode an image of any format that must have ``size`` = (height, width) pixels.

    Raises:
        DecodeError: it does not decode, or has another size; the message has no key yet.
    """
    header = images.read_header(data)
    if (header.height, header.width) != size:
        raise DecodeError(
            f"the image has {header.width}×{header.height} pixels (width×height); "
            f"{size[1]}×{size[0]} are expected"
        )
    return images.decode(data)


class RowDecoder:
    """Decodes images of one size into given memory, mirrored or not. One for each thread."""

    def __init__(self, size: tuple[int, int]) -> None:
        height, width = size
        self._size = size
        self._shape = (height, width, 3)
        self._scratch = np.empty(self._shape, np.uint8)
        # A row of BGR bytes read backwards is the mirrored row in RGB. NumPy turns machine
        # words around an order of magnitude faster than it copies single bytes backwards.
        word = next(size for size in (8, 4, 2, 1) if width * 3 % size == 0)
        self._words = np.dtype(f"u{word}")
        self._backwards = self._scratch.reshape(height, width * 3).view(self._words.newbyteorder())[
            :, ::-1
        ]

    def __call__(self, data: memoryview, row: np.ndarray, mirror: bool) -> None:
        """Decode ``data`` into ``row``, a contiguous uint8 array (height, width, 3), as RGB.

        Raises:
            DecodeError: as :func:`decode_checked`.
        """
        if plain_jpeg_size(data) == self._size:
            target = self._scratch if mirror else row
            try:
                decoded = simplejpeg.decode_jpeg(
                    data, "BGR" if mirror else "RGB", buffer=target, strict=True
                )
            except ValueError:
                pass  # the general decoder below has the last word, and the words for it
            else:
                if decoded.shape == self._shape:
                    if mirror:
                        words = row.reshape(self._shape[0], -1).view(self._words)
                        np.copyto(words, self._backwards, casting="equiv")
                    return
        image = decode_checked(data, self._size)
        row[...] = image[:, ::-1] if mirror else image


def normalize(pixels: np.ndarray, out: np.ndarray) -> None:
    """Write (x − 127.5)/127.5 of uint8 ``pixels`` into the float32 array ``out``.

    Three passes over some images that stay in the processor's cache beat one pass through
    NumPy's casting buffer.
    """
    np.copyto(out, pixels)
    np.subtract(out, MEAN, out=out)
    np.multiply(out, SCALE, out=out)
