"""Encoded images: telling formats apart, reading headers, decoding to RGB.

Decoding is the same everywhere in facepack: EXIF orientation is ignored, chroma is upsampled the
"fancy" way, grey becomes three equal channels. libjpeg-turbo (through simplejpeg and Pillow) and
DALI's CPU decoder then agree bit for bit.
"""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from facepack import lfs
from facepack.errors import DecodeError, PointerImageError
from facepack.limits import limit

# Far above any face, far below what a crafted header can claim.
MAX_PIXELS = limit("FACEPACK_MAX_PIXELS")
if Image.MAX_IMAGE_PIXELS is not None:  # Pillow has a limit of its own, which must not come first
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MAX_PIXELS)
MAX_BYTES = limit("FACEPACK_MAX_IMAGE_BYTES")  # of an encoded image

SKIPPED = 16  # bytes of memory that skip_to_decode leaves unused at most

_MAGICS = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
)
_END_OF_JPEG = b"\xff\xd9"
_LONGER = 64  # bytes that are put before an end marker to see whether they are wanted
_MORE_PIXELS = "the environment variable FACEPACK_MAX_PIXELS can allow more"
_ORIENTATION = 0x0112  # EXIF tag
_EXIF_WITHIN = 64  # bytes from the start in which the segment begins, if it is there
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")
SUFFIXES = {
    "jpeg": ".jpg",
    "png": ".png",
    "webp": ".webp",
    "gif": ".gif",
    "bmp": ".bmp",
    "tiff": ".tif",
}
CHANNEL_ORDERS = ("rgb", "bgr")
"""In which the values of a pixel stand: of stored images whose red and blue are swapped, or of what
a network takes."""
IMAGE_SUFFIXES = (*SUFFIXES.values(), ".jpeg", ".tiff")  # of files that are taken for images


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """What an encoded image says of itself."""

    format: str  # jpeg, png, …
    height: int  # in pixels, as stored
    width: int  # in pixels, as stored
    channels: int  # of colour and transparency; 1 for greyscale and palettes, 4 for CMYK
    orientation: int = 1  # EXIF's, 1 to 8; 1 where a JPEG states none, and for other formats


def image_format(data: bytes | bytearray | memoryview) -> str | None:
    """The format's name (``jpeg``, ``png``, ``webp``, …) by its first bytes; None if unknown."""
    head = bytes(data[:12])
    for magic, name in _MAGICS:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return None


class _Beginnings:
    """The beginnings of the last JPEGs, down to the scan, and the headers that they are.

    JPEGs of one encoder at one size begin with the same bytes. What a beginning says is known once
    one of them was read: comparing it takes a tenth of reading it.
    """

    most = 4
    longest = 2048  # bytes

    def __init__(self) -> None:
        self.known: list[tuple[int, bytes, ImageHeader]] = []

    def find(self, data: bytes | bytearray | memoryview) -> tuple[ImageHeader, int] | None:
        """The header of an image and where its scan begins, if it begins as one of them did."""
        for size, beginning, header in self.known:
            if bytes(data[:size]) == beginning:  # a view would be compared item by item
                return header, size
        return None

    def add(self, beginning: bytes, header: ImageHeader) -> None:
        if len(beginning) <= self.longest:
            # Bound anew, not changed: other threads go through it.
            self.known = [(len(beginning), beginning, header), *self.known[: self.most - 1]]


_read = _Beginnings()
_proven = _Beginnings()  # that :func:`_decodes_without_scan` found good


def read_header(data: bytes | bytearray | memoryview) -> ImageHeader:
    """Read format and size without decoding.

    Raises:
        DecodeError: the bytes are no image, or claim more than :data:`MAX_PIXELS` pixels.
    """
    return _read_beginning(data)[0]


def _read_beginning(
    data: bytes | bytearray | memoryview,
) -> tuple[ImageHeader, int | None]:
    """The header, and of a JPEG what :func:`_scan_start` gives."""
    known = _read.find(data)
    if known is not None:
        return known
    header = _read_header(data)
    start = _scan_start(data) if header.format == "jpeg" else None
    if start is not None:
        _read.add(bytes(data[:start]), header)
    return header, start


def known_headers(
    data: memoryview, starts: np.ndarray, stops: np.ndarray
) -> list[ImageHeader | None]:
    """What :func:`check_image` gives of images in one piece of memory, where it is quickly told.

    That is where an image begins as another one did and ends as JPEGs end; else None. They lie
    from ``starts`` (n,) to ``stops`` (n,).
    """
    octets = np.frombuffer(data, np.uint8)
    found: list[ImageHeader | None] = [None] * len(starts)
    left = np.flatnonzero(stops - starts >= 2)
    ends = stops[left]
    left = left[(octets[ends - 2] == 0xFF) & (octets[ends - 1] == 0xD9)]
    for size, beginning, header in _proven.known:
        if not len(left) or size > len(octets):
            continue
        long = np.flatnonzero(stops[left] - starts[left] >= size)
        # Row n of the windows are the bytes from byte n on.
        windows = np.ndarray((len(octets) - size + 1, size), np.uint8, octets, strides=(1, 1))
        same = np.zeros(len(left), bool)
        expected = np.frombuffer(beginning, np.uint8)
        same[long] = (windows[starts[left[long]]] == expected).all(axis=1)
        for row in left[same].tolist():
            found[row] = header
        left = left[~same]
    return found


def _scan_start(data: bytes | bytearray | memoryview) -> int | None:
    """The byte after a JPEG's first scan header; None where one segment does not follow another.

    What a decoder reads of the image's header ends there.
    """
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF or not 0xC0 <= data[at + 1] <= 0xFE or 0xD0 <= data[at + 1] <= 0xD9:
            return None
        end = at + 2 + (data[at + 2] << 8 | data[at + 3])
        if data[at + 1] == 0xDA:
            return end if end <= len(data) else None
        at = end
    return None


def _read_header(data: bytes | bytearray | memoryview) -> ImageHeader:
    kind = image_format(data)
    if kind is None:
        if lfs.is_pointer(data):
            raise PointerImageError("it is a pointer of Git LFS, not the image: run `git lfs pull`")
        if not len(data):
            raise DecodeError("not an image: it is empty, of 0 bytes")
        raise DecodeError(f"not an image: the data begin with {bytes(data[:8]).hex(' ')}")
    try:
        height, width, channels = _jpeg_shape(data) if kind == "jpeg" else _pillow_shape(data)
    except Image.DecompressionBombError as error:
        raise DecodeError(f"{_words(error).rstrip('.')}; {_MORE_PIXELS}") from error
    except Exception as error:  # parsers of damaged bytes raise whatever they stumble over
        raise DecodeError(f"the {kind} header cannot be read: {_words(error)}") from error
    if height * width > MAX_PIXELS:
        raise DecodeError(
            f"{width}×{height} pixels are claimed; at most {MAX_PIXELS} are decoded; {_MORE_PIXELS}"
        )
    return ImageHeader(
        format=kind,
        height=height,
        width=width,
        channels=channels,
        orientation=_orientation(data) if kind == "jpeg" else 1,
    )


def _orientation(data: bytes | bytearray | memoryview) -> int:
    """EXIF's orientation of a JPEG; 1 where there is none that can be read."""
    if b"Exif\0\0" not in bytes(data[:_EXIF_WITHIN]):
        return 1
    try:
        with _open(data) as image:
            value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # parsers of damaged bytes raise whatever they stumble over
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _words(error: Exception) -> str:
    """What a decoder complains of; the same words for the same bytes, whatever lies where."""
    text = str(error)
    if isinstance(error, UnidentifiedImageError) or _ADDRESS.search(text):
        return "it is damaged, or Pillow was built without this format"
    return text or type(error).__name__


def _jpeg_shape(data: bytes | bytearray | memoryview) -> tuple[int, int, int]:
    try:
        height, width, color, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (KeyError, ValueError) as error:
        if _is_sampling(error):
            return _pillow_shape(data)
        raise
    return height, width, {"Gray": 1, "CMYK": 4, "YCCK": 4}.get(color, 3)


def _is_sampling(error: Exception) -> bool:
    """Whether an error is about a chroma sampling that simplejpeg has no name for, and Pillow needs
    none: a KeyError, or where libjpeg-turbo's interface has none either a ValueError."""
    return isinstance(error, KeyError) or "subsampling" in str(error)


def _open(data: bytes | bytearray | memoryview) -> Image.Image:
    """The image by Pillow, as the format that its first bytes say and no other."""
    return Image.open(io.BytesIO(data), formats=[str(image_format(data))])


def _pillow_shape(data: bytes | bytearray | memoryview) -> tuple[int, int, int]:
    with _open(data) as image:
        return image.height, image.width, len(image.getbands())


def skip_to_decode(address: int) -> int:
    """How many bytes at the start of some memory to leave unused, so that decoding into it is fast.

    libjpeg-turbo writes a row of pixels that begins at a multiple of 16 bytes, or of 32 with AVX2,
    past the processor's cache (``movntdq``), and the others through it. A face's rows are too short
    for the former: a face of 112×112 was measured to take 66 to 71 µs instead of 51, and what is
    done with the pixels next waits for memory. After what is skipped, the memory begins 8 bytes
    behind such a multiple, as do all rows whose bytes are a multiple of 16; of other rows at most
    every other begins at one. Words of 8 bytes, which mirroring works with, stay aligned.

    Args:
        address: where the memory begins. It needs :data:`SKIPPED` bytes more than the pixels.
    """
    return (SKIPPED // 2 - address) % SKIPPED


def empty_pixels(*shape: int) -> np.ndarray:
    """A C-contiguous uint8 array of any content, in memory as :func:`skip_to_decode` wants it."""
    size = math.prod(shape)
    memory = np.empty(size + SKIPPED, np.uint8)
    skipped = skip_to_decode(memory.__array_interface__["data"][0])  # .ctypes takes 1 µs
    return memory[skipped : skipped + size].reshape(shape)


def decode(data: bytes | bytearray | memoryview, channels: str = "rgb") -> np.ndarray:
    """Decode to RGB: a uint8 array (height, width, 3), the caller's to keep and to write to.

    ``channels`` is the order of the colours in ``data``; of ``bgr``, red and blue are swapped back.

    Raises:
        DecodeError: the bytes are no image, are damaged or truncated, or claim too many pixels.
    """
    header = read_header(data)
    try:
        if header.format == "jpeg":
            pixels = _decode_jpeg(data, header, channels)
            if pixels is not None:
                return pixels
        pixels = _pillow_pixels(data)
        return pixels if channels == "rgb" else np.ascontiguousarray(pixels[..., ::-1])
    except Exception as error:
        raise DecodeError(f"the {header.format} image does not decode: {_words(error)}") from error


def _decode_jpeg(
    data: bytes | bytearray | memoryview, header: ImageHeader, channels: str
) -> np.ndarray | None:
    """The pixels of a JPEG; None where Pillow may decode it, as nothing about it is damaged.

    Pillow conceals damage, so what it is needed for, CMYK and rare samplings, is looked at first.

    Raises:
        ValueError: it is damaged.
    """
    try:
        if header.channels != 4:
            pixels = empty_pixels(header.height, header.width, 3)
            return simplejpeg.decode_jpeg(data, channels.upper(), buffer=pixels)
        _read_whole_jpeg(data)
    except (KeyError, ValueError) as error:
        if not _is_sampling(error):
            raise
        if _wants_more_data(data):
            raise ValueError("Corrupt JPEG data: it ends before the image does") from error
    return None


def _read_whole_jpeg(data: bytes | bytearray | memoryview) -> None:
    """Have libjpeg-turbo read all of a JPEG, and make as few pixels of it as it can.

    The Huffman decoder is the same as for the whole image, and so are its complaints.

    Raises:
        ValueError, KeyError: as decoding raises.
    """
    simplejpeg.decode_jpeg(data, "RGB", min_height=1, min_width=1, min_factor=8)


def _wants_more_data(data: bytes | bytearray | memoryview) -> bool:
    """Whether a JPEG was cut and closed with an end marker, as decoding alone can tell.

    What stands between the scan and the end marker changes no pixel unless pixels were missing.
    """
    data = bytes(data)
    end = data.find(_END_OF_JPEG, _scan_start(data) or 0)
    longer = data[:end] + b"\x55" * _LONGER + data[end:]
    return not np.array_equal(_pillow_pixels(data), _pillow_pixels(longer))


def _pillow_pixels(data: bytes | bytearray | memoryview) -> np.ndarray:
    with _open(data) as image:
        return np.array(image.convert("RGB"))  # a copy, which may be written to


def is_whole_jpeg(data: bytes | bytearray | memoryview) -> bool:
    """Whether libjpeg-turbo reads a JPEG to its end without an error or a warning.

    It takes about two thirds of the time of decoding: most of that is Huffman codes, which nothing
    short of decoding them can check.
    """
    try:
        _read_whole_jpeg(data)
    except (KeyError, ValueError):
        return False
    return True


def check_decodes(data: bytes | bytearray | memoryview) -> ImageHeader:
    """Read the header and make sure that the image decodes, for less than decoding takes.

    Raises:
        DecodeError: as :func:`decode`.
    """
    header = read_header(data)
    if header.format != "jpeg" or header.channels == 4 or not is_whole_jpeg(data):
        decode(data)  # it has the last word, and the words for it
    return header


def check_image(data: bytes | bytearray | memoryview) -> ImageHeader:
    """Read the header and make sure, cheaply, that the image is whole.

    A JPEG passes if decoders take what stands before its scan, and it ends with its end marker:
    the scan itself is not read (:func:`check_decodes` does that). One of another kind, CMYK
    among them, and any other image is decoded.

    Raises:
        DecodeError: as :func:`decode`.
    """
    closed = bytes(data[-2:]) == _END_OF_JPEG
    known = _proven.find(data) if closed else None
    if known is not None:
        return known[0]
    header, start = _read_beginning(data)
    if closed and start is not None and header.channels != 4:
        beginning = bytes(data[:start])
        if _decodes_without_scan(beginning):
            _proven.add(beginning, header)
            return header
    return check_decodes(data)


def _decodes_without_scan(beginning: bytes) -> bool:
    """Whether libjpeg-turbo finds all that it needs in what stands before a JPEG's scan."""
    try:
        simplejpeg.decode_jpeg_header(beginning)
        # What is missing of a scan is a mere warning, tables that are missing or bad an error.
        simplejpeg.decode_jpeg(
            beginning + _END_OF_JPEG, "GRAY", min_height=1, min_width=1, min_factor=8, strict=False
        )
    except (KeyError, ValueError):
        return False
    return True
