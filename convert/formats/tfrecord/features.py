"""Which features of an ``Example`` are the image, its label and its name.

Trainers call them as they like. arcface-tf2 and its forks have ``image/encoded``,
``image/source_id`` and ``image/filename``; others are found by what the first records hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from facepack.convert.files import text
from facepack.convert.formats.tfrecord.example import Feature
from facepack.convert.whole_numbers import as_whole
from facepack.errors import DecodeError, SourceError
from facepack.images import image_format
from facepack.store.format import MAX_LABEL, NO_IDENTITY

_IMAGE = b"image/encoded"
_LABELS = (
    b"image/source_id image/class/label image/label label class identity person id target".split()
)
_NAMES = b"image/filename filename image/source_id image/name name path key id".split()
_NO_LABELS = b"width height channels size".split()  # numbers that are usual beside images
_DIGITS = 12
_SHOWN = 12  # features that a message lists

IMAGE_OPTION, LABEL_OPTION = "--image-feature", "--label-feature"


class Chosen(NamedTuple):
    """The names of the features of image, label and name; None where records have no name."""

    image: bytes
    label: bytes
    name: bytes | None


USUAL = Chosen(_IMAGE, b"image/source_id", b"image/filename")  # those of arcface-tf2

LONGEST_NAME = 4096  # bytes of a name: of any path that Linux takes


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Features that the user named; None where they are to be found."""

    image: str | None = None
    label: str | None = None
    name: str | None = None


def choose_features(examples: Sequence[dict[bytes, Feature]], wanted: Wanted) -> Chosen:
    """Choose by what the first records hold, and by what the user named.

    Raises:
        SourceError: no feature fits, or several do equally well, or one that is named is in none.
    """
    known: dict[bytes, Feature] = {}
    for example in reversed(examples):
        known |= example
    given = {
        field: name.encode("utf-8", "surrogateescape")
        for field in ("image", "label", "name")
        if (name := getattr(wanted, field)) is not None
    }
    for name in given.values():
        if name not in known:
            raise SourceError(f"no record has the feature {text(name)!r}; {_listed(known)}")
    image = given.get("image") or _image(known)
    label = given.get("label") or _label(known, image)
    others = [name for name in _NAMES if name not in (image, label)]
    found = (name for name in others if name in known and _is_name(known[name]))
    return Chosen(image, label, given.get("name") or next(found, None))


def _image(known: dict[bytes, Feature]) -> bytes:
    images = [name for name, feature in known.items() if _is_image(feature)]
    if _IMAGE in images:
        return _IMAGE
    if len(images) != 1:
        raise SourceError(
            f"{len(images)} features hold an encoded image; {_listed(known)}: "
            + (
                f"choose one with {IMAGE_OPTION}"
                if images
                else "where they name files, convert these as a tree or list (img, lst); pixels "
                "that are not encoded are not taken"
            )
        )
    return images[0]


def _label(known: dict[bytes, Feature], image: bytes) -> bytes:
    fitting = [
        name
        for name, feature in known.items()
        if name != image and name.rpartition(b"/")[2] not in _NO_LABELS and _is_label(feature)
    ]
    for name in _LABELS:
        if name in fitting:
            return name
    if len(fitting) != 1:
        raise SourceError(
            f"{len(fitting)} features may be the label; {_listed(known)}: choose one of whole "
            f"numbers with {LABEL_OPTION}"
        )
    return fitting[0]


def _is_image(feature: Feature) -> bool:
    value = feature.values[0] if feature.values else None
    return isinstance(value, memoryview) and image_format(value) is not None


def _is_label(feature: Feature) -> bool:
    try:
        read_label(feature)
    except DecodeError:
        return False
    return True


def _is_name(feature: Feature) -> bool:
    try:
        return read_name(feature) is not None
    except DecodeError:
        return False


def _listed(known: dict[bytes, Feature]) -> str:
    shown = [
        f"{text(name[:80])!r} ({feature.kind or 'empty'})"
        for name, feature in sorted(known.items())
    ]
    more = " …" if len(shown) > _SHOWN else ""
    return f"they have {', '.join(shown[:_SHOWN]) or 'no features'}{more}"


def _only(values: Iterable[object]) -> object:
    """The value of a feature, which must have one."""
    listed = list(values)
    if len(listed) != 1:
        raise DecodeError(f"{len(listed)} values where one is taken")
    return listed[0]


def read_image(feature: Feature) -> memoryview:
    """The encoded image.

    Raises:
        DecodeError: the feature has no bytes, or several.
    """
    value = _only(feature.values)
    if not isinstance(value, memoryview):
        raise DecodeError(f"values of {feature.kind} where an encoded image is taken")
    return value


def read_label(feature: Feature) -> int:
    """The label: a whole number, or the digits of one as text.

    Raises:
        DecodeError: it is no label.
    """
    value = _only(feature.values)
    if isinstance(value, memoryview):
        digits = bytes(value[: _DIGITS + 1])
        whole = digits.isdigit() and len(digits) <= _DIGITS
        value = int(digits) if whole else text(digits)
    value = as_whole(value)
    if not isinstance(value, int) or not NO_IDENTITY <= value <= MAX_LABEL:
        raise DecodeError(
            f"label {value!r}: allowed are whole numbers, 0 to {MAX_LABEL}, and -1 for no identity"
        )
    return value


def read_name(feature: Feature) -> str | None:
    """The name of the record; None where it is empty.

    Raises:
        DecodeError: it is no text, or too long.
    """
    value = _only(feature.values)
    if not isinstance(value, memoryview):
        raise DecodeError(f"values of {feature.kind} where a name is taken")
    if len(value) > LONGEST_NAME:
        raise DecodeError(f"a name of {len(value):,} bytes; at most {LONGEST_NAME} are taken")
    return text(bytes(value)) or None
