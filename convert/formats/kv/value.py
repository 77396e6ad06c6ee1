"""What a record of an LMDB database holds, whoever wrote it.

Values tell by their first bytes what they are: an encoded image; ``[image, label]`` in msgpack; a
pickle of such a pair; or a Datum of Caffe or F2C, the tags of whose fields are all below these.
"""

from __future__ import annotations

import numpy as np

from facepack.convert.formats.kv.datum import read_datum
from facepack.convert.formats.kv.msgpack_value import LabelledImage, begins_msgpack, read_msgpack
from facepack.convert.formats.pairs.pickle_stream import (
    ENCODE_IMAGES,
    PickledArray,
    PickleError,
    describe,
    unpickle,
)
from facepack.convert.whole_numbers import as_whole
from facepack.errors import DecodeError
from facepack.images import image_format
from facepack.store.format import MAX_LABEL, NO_IDENTITY

_PICKLE = b"\x80"  # begins a pickle of protocol 2 or later
_MOST_OPCODES = 256  # of the pickle of a pair, which has some 20


class PixelsError(DecodeError):
    """An array of pixels where an encoded image must be."""

    remedy = ENCODE_IMAGES


def read_value(
    value: memoryview, *, pickled: bool = False, unstated: int | None = None
) -> LabelledImage:
    """The image that a value holds, and its label if it has one of its own.

    Args:
        pickled: whether the database is known to hold pickles: those of protocols 0 and 1 do not
            begin in a way of their own.
        unstated: the label of a Datum that states none.

    Raises:
        DecodeError: it is nothing of the kind, holds no encoded image, or has a label that no
            index can hold.
    """
    if image_format(value) is not None:
        return LabelledImage(value, None)
    if pickled or value[:1] == _PICKLE:
        found = _read_pickle(bytes(value))
    elif begins_msgpack(value):
        found = read_msgpack(value)
    else:
        datum = read_datum(value)
        label = unstated if datum.label is None else datum.label
        found = LabelledImage(datum.image(), label)
    if found.label is not None and not NO_IDENTITY <= found.label <= MAX_LABEL:
        raise DecodeError(
            f"its label is {found.label}; allowed are 0 to {MAX_LABEL}, and -1 for no identity"
        )
    return found


def _read_pickle(value: bytes) -> LabelledImage:
    try:
        pair = unpickle(value, most=_MOST_OPCODES)
    except PickleError as error:
        raise (PixelsError if error.remedy == ENCODE_IMAGES else DecodeError)(error.found) from None
    if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
        raise DecodeError(f"a pickle of {describe(pair)}; expected a pair, an image and its label")
    image, label = pair
    if isinstance(image, PickledArray) and image.content is not None:
        if image.content.dtype != np.uint8:
            raise PixelsError(f"its image is {describe(image)}; expected encoded bytes")
        image = image.content.data
    if not isinstance(image, (bytes, memoryview)):
        raise DecodeError(f"its image is {describe(image)}; expected encoded bytes")
    if isinstance(label, PickledArray) and label.content is not None and label.content.size == 1:
        label = label.content.item()  # a scalar is an array of no axes to some
    whole = as_whole(label)
    if not isinstance(whole, int):
        shown = label if isinstance(label, float) else describe(label)
        raise DecodeError(f"its label is {shown}; expected a whole number")
    return LabelledImage(image, int(whole))
