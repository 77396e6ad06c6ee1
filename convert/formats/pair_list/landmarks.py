"""Five landmarks an image, as lists of verification sets give them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import xxhash

from facepack.convert.formats.pair_list.pair_list import image_name
from facepack.convert.list_lines import LineError, read_face2rec2
from facepack.convert.source_file import require_file
from facepack.errors import DecodeError, SourceError
from facepack.reading import read_text

_FORM = "a path and ten numbers, x and y of five points; or face2rec2's columns"


class Landmarks:
    """Eyes, nose and corners of the mouth of images by name, in pixels.

    A line is ``path [label] x1 y1 … x5 y5`` (SphereFace's ``lfw_landmark.txt``), with blanks or
    tabs between, or face2rec2's ``aligned TAB path TAB label TAB box TAB landmarks``, five x and
    then five y.

    Raises:
        SourceError: it cannot be read, or a line is anything else.
    """

    def __init__(self, path: Path) -> None:
        require_file(path)
        try:
            content = read_text(path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise SourceError(f"{path}: cannot be read: {reason}") from error
        # XXH3-128 of its text, in hexadecimal
        self.digest = xxhash.xxh3_128_hexdigest(content.encode())
        self._points: dict[str, np.ndarray] = {}
        for number, line in enumerate(content.splitlines(), start=1):
            if not line.strip():
                continue
            points = _face2rec2(line) or _plain(line)
            if points is None:
                raise SourceError(
                    f"{path}: line {number} is {line[:80]!r}; expected {_FORM}: correct it"
                )
            self._points[points[0]] = points[1]

    def of(self, name: str) -> np.ndarray:
        """(5, 2) x and y in the image of that name.

        Raises:
            DecodeError: there are none.
        """
        if name not in self._points:
            raise DecodeError("the list of landmarks does not name it")
        return self._points[name]


def _face2rec2(line: str) -> tuple[str, np.ndarray] | None:
    try:
        image = read_face2rec2(line.encode())
    except LineError:
        return None
    landmarks = image.landmarks()
    return None if landmarks is None else (image.path.decode(), landmarks)


def _plain(line: str) -> tuple[str, np.ndarray] | None:
    fields = line.split()
    if len(fields) not in (11, 12):
        return None
    try:
        numbers = [float(field) for field in fields[-10:]]
    except ValueError:
        return None
    if not all(map(math.isfinite, numbers)):
        return None
    return image_name(fields[0]), np.array(numbers).reshape(5, 2)
