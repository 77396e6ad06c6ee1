"""Which features of an ``Example`` are the image, its label and its name.

Trainers call them as they like. arcface-tf2 and its forks have ``image/encoded``,
``image/source_id`` and ``image/filename``; others are found by what the first records hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from facepack.convert.files import text
from facepack.convert.formats.tfrecord.example import Feature
from facepack.convert.label_names import LABEL_NAMES
from facepack.convert.list_lines import LineError
from facepack.convert.list_lines import read_name as read_identity
from facepack.convert.whole_numbers import as_whole
from facepack.errors import DecodeError, SourceError
from facepack.images import image_format
from facepack.store.format import MAX_LABEL, NO_IDENTITY

_IMAGE = b"image/encoded"
_LABEL_NAMES = [
    *(b"image/class/label", b"image/label"),
    *(name.encode() for name in LABEL_NAMES),
]
_LABELS = [b"image/source_id", *_LABEL_NAMES, b"id"]
_NAMES = b"image/filename filename image/source_id image/name name path key id".split()
# Labels that may be names of identities; image/source_id and id are often those of images.
_NAMED_LABELS = [*_LABEL_NAMES, b"image/class/text"]
_NO_LABELS = b"width height channels size".split()  # numbers that are usual beside images
_DIGITS = 12
_SHOWN = 12  # features that a message lists

IMAGE_OPTION, LABEL_OPTION = "--image-feature", "--label-feature"


class Chosen(NamedTuple):
    """The names of the features of image, label and name; None where records have no name."""

    image: bytes
    label: bytes
    name: bytes | None
    named: bool = False  # whether labels are names of identities


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
    labels = [example[label] for example in examples if label in example]
    named = sum(_fits(read_label_name, each) and not _fits(read_label, each) for each in labels)
    numbered = sum(_fits(read_label, each) for each in labels)
    others = [name for name in _NAMES if name not in (image, label)]
    found = (name for name in others if name in known and _fits(read_name, known[name]))
    return Chosen(image, label, given.get("name") or next(found, None), named > numbered)


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
        if name != image
        and name.rpartition(b"/")[2] not in _NO_LABELS
        and _fits(read_label, feature)
    ]
    for name in _LABELS:
        if name in fitting:
            return name
    for name in _NAMED_LABELS:
        if name != image and name in known and _fits(read_label_name, known[name]):
            return name
    if len(fitting) != 1:
        raise SourceError(
            f"{len(fitting)} features may be the label; {_listed(known)}: choose one of whole "
            f"numbers, or of names of identities, with {LABEL_OPTION}"
        )
    return fitting[0]


def _is_image(feature: Feature) -> bool:
    value = feature.values[0] if feature.values else None
    return isinstance(value, memoryview) and image_format(value) is not None


def _fits(read: Callable[[Feature], object], feature: Feature) -> bool:
    """Whether ``read`` takes the feature, and finds something."""
    try:
        return read(feature) is not None
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


def read_label_name(feature: Feature) -> bytes:
    """The label of a set whose labels are names of identities: by the rule of lists.

    Raises:
        DecodeError: it is no such name.
    """
    value = _only(feature.values)
    if not isinstance(value, memoryview):
        raise DecodeError(f"label {value!r}: the names of identities are taken, as most are")
    try:
        return read_identity(bytes(value[: LONGEST_NAME + 1]).strip())
    except LineError as error:
        raise DecodeError(str(error)) from None


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
