"""From an encoded image to a row of a batch: decoding in index, mirroring, normalising."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import simplejpeg

from facepack import images
from facepack.errors import DecodeError

MEAN = np.float32(127.5)
# Normalizing is one subtraction (exact) and one rounded product: what DALI's CPU operator computes.
SCALE = np.float32(1 / 127.5)
# Bytes of a machine word. The rows of images whose width is a multiple of it consist of words.
WORD = 8
_COMMON = ("Gray", "YCbCr")


# JPEGs of one encoder at one size begin with the same bytes, down to the frame header. Comparing
# them takes a fifth of the walk. (Bytes to compare, what they are, the size that they state.)
_recent: tuple[int, bytes, tuple[int, int] | None] = (1, b"", None)


def plain_jpeg_size(data: memoryview | bytes) -> tuple[int, int] | None:
    """Height and width of an 8-bit grey or three-component Huffman JPEG; None for anything else.

    Walks the markers to the frame header (1 µs) and checks nothing besides.
    """
    global _recent
    end, beginning, size = _recent
    if bytes(data[:end]) == beginning:  # a view would be compared item by item
        return size
    if bytes(data[:2]) != b"\xff\xd8":
        return None
    at = 2
    try:
        while data[at] == 0xFF:
            if 0xC0 <= data[at + 1] <= 0xC2:  # baseline, extended sequential, progressive
                if data[at + 4] != 8 or data[at + 9] not in (1, 3):
                    return None
                size = data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
                _recent = at + 10, bytes(data[: at + 10]), size
                return size
            at += 2 + (data[at + 2] << 8 | data[at + 3])
    except IndexError:
        pass
    return None


def is_common_jpeg(data: memoryview | bytes, size: tuple[int, int]) -> bool:
    """Whether every JPEG decoder makes the same of an image: an undamaged face of ``size`` pixels.

    It is (height, width), whole, grey or YCbCr by what libjpeg-turbo makes of its markers, and has
    no more about it than decoders agree on.
    """
    if plain_jpeg_size(data) != size:
        return False
    try:
        height, width, color, _ = simplejpeg.decode_jpeg_header(data)
    except (KeyError, ValueError):  # damaged, or of a rare sampling
        return False
    return (height, width) == size and color in _COMMON and images.is_whole_jpeg(data)


def decode_checked(
    data: memoryview | bytes, size: tuple[int, int], channels: str = "rgb"
) -> np.ndarray:
    """Decode an image of any format that must have ``size`` = (height, width) pixels.

    Its colours are stored in the order ``channels``, and come out as RGB.

    Raises:
        DecodeError: it does not decode, or has another size; the message has no key yet.
    """
    header = images.read_header(data)
    if (header.height, header.width) != size:
        raise DecodeError(
            f"the image has {header.width}×{header.height} pixels (width×height); "
            f"{size[1]}×{size[0]} are expected"
        )
    return images.decode(data, channels)


def decode_rows(
    data: Sequence[memoryview],
    rows: Sequence[np.ndarray],
    mirrored: Sequence[bool],
    channels: str = "rgb",
) -> tuple[np.ndarray, dict[int, DecodeError]]:
    """Decode images into ``rows``, contiguous uint8 arrays (height, width, 3) of one size.

    A row of BGR bytes read backwards is the mirrored row in RGB: images to be mirrored are left as
    BGR, and :func:`reverse_rows` completes them, many in one call. To libjpeg-turbo either order
    is the same work, so that images stored with red and blue swapped (``channels`` is ``bgr``)
    cost nothing either.

    Returns:
        Which images are to be reversed, bool, and by number those that do not decode or have
        another size (as :func:`decode_checked`); what their rows hold then says nothing.
    """
    height, width, _ = shape = rows[0].shape
    size = (height, width)
    # A loop of its own: it runs from the processor's caches, which each decoding clears.
    plain = [plain_jpeg_size(image) == size for image in data]
    reverse = np.array(mirrored, bool)
    broken: dict[int, DecodeError] = {}
    plainly, backwards = ("RGB", "BGR") if channels == "rgb" else ("BGR", "RGB")
    for index, (image, row, mirror) in enumerate(zip(data, rows, mirrored, strict=True)):
        if plain[index]:
            try:
                decoded = simplejpeg.decode_jpeg(
                    image, backwards if mirror else plainly, buffer=row, strict=True
                )
            except ValueError:
                pass  # the general decoder below has the last word, and the words for it
            else:
                if decoded.shape == shape:
                    continue
        reverse[index] = False
        try:
            pixels = decode_checked(image, size, channels)
        except DecodeError as error:
            broken[index] = error
        else:
            row[...] = pixels[:, ::-1] if mirror else pixels
    return reverse, broken


def reverse_rows(pixels: np.ndarray, reverse: np.ndarray) -> None:
    """Turn the bytes of each row around, in index, in those images that ``reverse`` marks.

    NumPy turns machine words around an order of magnitude faster than it copies single bytes
    backwards. ``pixels`` are contiguous uint8 (n, height, width, 3), ``reverse`` is bool (n,).
    """
    _, height, width, _ = pixels.shape
    word = next(size for size in (WORD, 4, 2, 1) if width * 3 % size == 0)
    for index in np.flatnonzero(reverse):
        words = pixels[index].reshape(height, -1).view(f"u{word}")
        words[...] = words[:, ::-1].byteswap()


def normalize(pixels: np.ndarray, out: np.ndarray) -> None:
    """Write (x − 127.5)/127.5 of uint8 ``pixels`` into the float32 array ``out``.

    Three passes over some images that stay in the processor's cache beat one pass through
    NumPy's casting buffer.
    """
    np.copyto(out, pixels)
    np.subtract(out, MEAN, out=out)
    np.multiply(out, SCALE, out=out)
