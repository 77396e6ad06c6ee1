"""The pack's format, whole: names, keys, reserved records, index lines, digests.

docs/pack-format.md describes it for those who read packs without facepack; a test follows that page
with nothing but the ``lmdb`` and ``msgpack`` modules.
"""

from __future__ import annotations

import io
import json
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgpack
import numpy as np
import xxhash

from facepack.errors import DamageError, NewerFormatError, PackError
from facepack.store.record import Buffer

FORMAT_VERSION = 1

MANIFEST = "pack.json"
PLAN = "plan.json"
LABELS = "labels.txt"
QUARANTINE = "quarantine.jsonl"
DUPLICATES = "duplicates.jsonl"  # a finding, made on request: no digest of it is kept
SETS = "sets.json"  # the user's own: no digest of it is kept
APPENDING = "append.json"  # the plan of shards that are being appended
LOCK = ".lock"

RESERVED = b"__"  # how their keys begin: they sort behind those of records
META = b"__meta__"
LABEL_COLUMN = b"__labels__"
CHECKSUMS = b"__sums__"
NAMES = b"__names__"
EXTRA = b"__extra__"
IDENTITIES = b"__identities__"
QUARANTINED = b"__quarantine__"
ALWAYS_RESERVED = (META, LABEL_COLUMN, CHECKSUMS, EXTRA)  # the others where there is need of them

SELECTION = "selection"  # in ``requires``: shards hold records that are not the pack's
# In ``requires``, and the field that says more: colours are stored in another order than RGB.
CHANNELS = "channels"
_KNOWN_FEATURES = (SELECTION, CHANNELS)

NO_IDENTITY = -1
MAX_LABEL = 99_999_999  # eight digits in the key-label index
MAX_SHARD_RECORDS = 65_536
MAX_SHARD_BYTES = 384 << 20

ORDERS = ("shuffled", "source", "identity")

KV_LINE = 20  # bytes
_COLUMN_TYPES = ("|u1", "|i1", "<u2", "<u4", "<u8", "<i2", "<i4", "<i8", "<f4", "<f8")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_MAX_SHARD_NAME = 180  # room for what is put behind it
PART = re.compile(r".*\.part-[0-9a-f]{8}")  # a file that is being written
NEXT = re.compile(r".*\.next-[0-9a-f]{8}")  # a file of a manifest that was or will be replaced
_LABEL_MAP = re.compile(r"labels-\d{3,}\.npy")


def record_key(key: int) -> bytes:
    """``key``, a record's number in its shard, as LMDB has it: ten digits."""
    return b"%010d" % key


def is_plain_name(name: str) -> bool:
    """Whether ``name`` is safe as the name of a file in a pack."""
    return _PLAIN_NAME.fullmatch(name) is not None


def check_shard_name(name: str) -> str:
    """Return ``name`` if it is safe as a file name.

    Raises:
        PackError: it could lead outside the pack's folder, or is taken for something else.
    """
    if not is_plain_name(name) or len(name) > _MAX_SHARD_NAME or ".part-" in name:
        raise PackError(
            f"name {name!r}: allowed are up to {_MAX_SHARD_NAME} letters, digits and _ . - (not "
            "first), without .part-"
        )
    return name


def check_label(label: int) -> None:
    """Make sure that a key-label index can hold ``label``.

    Raises:
        PackError: it cannot.
    """
    if not NO_IDENTITY <= label <= MAX_LABEL:
        raise PackError(f"label {label}: allowed are 0 to {MAX_LABEL}, and -1 for no identity")


def next_name(name: str, pack_id: str) -> str:
    """What a file beside the shards is called until the manifest that states it is in place."""
    return f"{name}.next-{pack_id[:8]}"


def label_map_name(number: int) -> str:
    """The file that takes the labels inside some shards to those of the pack."""
    return f"labels-{number:03d}.npy"


def is_label_map(name: str) -> bool:
    """Whether the file ``name`` is a label map, and no table of an evaluation set."""
    return _LABEL_MAP.fullmatch(name) is not None


def table_names(files: Iterable[str]) -> list[str]:
    """The tables of an evaluation set among the files of a manifest."""
    return sorted(name[:-4] for name in files if name.endswith(".npy") and not is_label_map(name))


def record_checksum(key: bytes, value: Buffer) -> int:
    """The XXH3-64 checksum of key and value together, as ``__sums__`` holds it for each record."""
    return xxhash.xxh3_64_intdigest(key + value)


def record_checksums(keys: Iterable[bytes], values: Iterable[Buffer]) -> Iterator[int]:
    """The :func:`record_checksum` of each record, in less time than by calls of it."""
    return map(xxhash.xxh3_64_intdigest, map(operator.concat, keys, values))  # type: ignore[arg-type]


def file_digest() -> Any:
    """A fresh XXH3-128 hasher, the digest of whole files in the manifest."""
    return xxhash.xxh3_128()


def require_known(stated: Mapping[str, Any], where: str, *, version: str = "format") -> None:
    """Make sure that this facepack understands what a manifest, a plan or a shard has ``stated``.

    Its format version stands under the key ``version``.

    Raises:
        NewerFormatError: it is of another version, or requires what is not known.
    """
    found = stated.get(version, FORMAT_VERSION)
    if type(found) is not int or found != FORMAT_VERSION:
        raise NewerFormatError(
            f"{where} has format {found!r}; this facepack reads {FORMAT_VERSION}: upgrade it"
        )
    requires = stated.get("requires")
    if isinstance(requires, list):
        requires = [feature for feature in requires if feature not in _KNOWN_FEATURES]
    if requires:
        needed = ", ".join(map(str, requires)) if isinstance(requires, list) else requires
        raise NewerFormatError(
            f"{where} needs {needed}, which this facepack does not know: upgrade it"
        )


def stored_channels(stated: Mapping[str, Any]) -> str:
    """The order of the colours in the images of a manifest or plan: ``rgb`` unless it says so."""
    return str(stated.get(CHANNELS, "rgb"))


def channels_field(channels: str) -> dict[str, str]:
    """What manifest and plan say of images whose colours are stored in the order ``channels``."""
    return {} if channels == "rgb" else {CHANNELS: channels}


def required_features(*, channels: str, selected: bool) -> list[str]:
    """``requires`` of a pack: whoever does not know these would show or take something else."""
    return [CHANNELS] * (channels != "rgb") + [SELECTION] * selected


# Reserved records --------------------------------------------------------------------------------


def pack_reserved(key: bytes, body: Any) -> bytes:
    """Encode a reserved record: msgpack ``[body as msgpack in a bin, XXH3-64 of key + body]``."""
    inner = msgpack.packb(body, use_bin_type=True)
    outer: bytes = msgpack.packb([inner, record_checksum(key, inner)], use_bin_type=True)
    return outer


def unpack_reserved(key: bytes, value: Buffer) -> Any:
    """Decode a reserved record after checking its checksum.

    Raises:
        DamageError: not msgpack of that shape, or the checksum does not match.
    """
    name = key.decode("ascii", "backslashreplace")
    try:
        # msgpack caps every length it meets at the buffer's own size.
        inner, stated = msgpack.unpackb(value, raw=False)
        if not isinstance(inner, bytes) or record_checksum(key, inner) != stated:
            raise DamageError(f"{name}: the checksum does not match its content")
        return msgpack.unpackb(inner, raw=False, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise DamageError(f"{name}: not a reserved record: {error}") from error


def pack_column(values: np.ndarray) -> dict[str, Any]:
    """A column of numbers as msgpack holds it: ``{"dtype", "data"}``.

    A column whose values are all the same is stored as one value.
    """
    if len(values) > 1 and (values == values[0]).all():
        values = values[:1]
    little = values.astype(values.dtype.newbyteorder("<"))
    return {"dtype": little.dtype.str, "data": little.tobytes()}


def unpack_column(column: Any, count: int) -> np.ndarray:
    """The ``count`` values of a packed column, as an array.

    Raises:
        DamageError: not a column of one or ``count`` numbers.
    """
    try:
        name = column["dtype"]
        if name not in _COLUMN_TYPES:  # np.dtype takes far more than the names of numbers
            raise ValueError(f"numbers of type {str(name)[:32]!r}")
        dtype = np.dtype(name)
        values = np.frombuffer(column["data"], dtype)
    except (KeyError, TypeError, ValueError) as error:
        raise DamageError(f"not a column: {error}") from error
    if len(values) == 1:
        return np.repeat(values, count)
    if len(values) != count:
        raise DamageError(f"a column of {len(values)} values for {count} records")
    return values


def unpack_ordinals(extra: dict[str, Any], count: int) -> np.ndarray:
    """The ordinals of ``count`` records, from ``__extra__``: int64 (count,).

    Raises:
        DamageError: not a column.
        KeyError, TypeError, ValueError: not what a shard holds.
    """
    return int(extra["first"]) + unpack_column(extra["ordinal"], count).astype(np.int64)


def unpack_identity_names(packed: dict[str, Any] | None) -> dict[int, str]:
    """The names of identities by their labels in the shard, from ``__identities__``.

    Raises:
        DamageError, KeyError, TypeError, ValueError: not what a shard holds.
    """
    if packed is None:
        return {}
    labels = unpack_column(packed["labels"], len(packed["names"])).tolist()
    return dict(zip(labels, packed["names"], strict=True))


def number_column(values: Sequence[float | int | None] | np.ndarray) -> np.ndarray:
    """The narrowest array that holds ``values``; a missing one is NaN, in an array of floats.

    An array given must be one of integers.
    """
    if isinstance(values, np.ndarray):
        ints: Any = values
        low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    elif {*map(type, values)} <= {int}:
        ints = values
        low, high = min(ints, default=0), max(ints, default=0)
    else:
        ints = None
    if ints is not None:
        kinds = "<u1 <u2 <u4 <u8" if low >= 0 else "<i1 <i2 <i4 <i8"
        for kind in kinds.split():
            info = np.iinfo(kind)
            if info.min <= low and high <= info.max:
                return np.asarray(ints, kind)
        raise PackError(f"a number beyond 64 bits: {low} to {high}")
    floats = np.asarray([np.nan if value is None else value for value in values], "<f8")
    narrow = floats.astype("<f4")
    return narrow if np.array_equal(narrow, floats, equal_nan=True) else floats


def check_pairs(pairs: np.ndarray, records: int, name: str) -> None:
    """Make sure that ``pairs`` are integers (P, 3 or 4) that point at records and say 1 or 0.

    Raises:
        DamageError: it is not, or does not.
    """
    if pairs.ndim != 2 or pairs.shape[1] not in (3, 4) or pairs.dtype.kind not in "iu":
        raise DamageError(f"{name}: {pairs.dtype} of shape {pairs.shape}, not integers (P, 3 or 4)")
    if len(pairs) and not 0 <= pairs[:, :2].min() <= pairs[:, :2].max() < records:
        raise DamageError(f"{name}: a position lies outside the {records} records")
    if not np.isin(pairs[:, 2], (0, 1)).all():
        raise DamageError(f"{name}: a pair is marked by other than 1 for the same person, or 0")


# The key-label index -----------------------------------------------------------------------------


def kv_bytes(labels: np.ndarray, keys: np.ndarray | None = None) -> bytes:
    """The lines ``0000000012 00000345`` of a shard's key-label index; no identity is -0000001.

    ``labels`` are int64 (n,), as are the ``keys`` of a selection; else these are 0 to n - 1.
    """
    count = len(labels)
    lines = np.empty((count, KV_LINE), np.uint8)
    _write_digits(lines[:, :10], np.arange(count) if keys is None else keys)
    lines[:, 10] = ord(" ")
    _write_digits(lines[:, 11:19], np.abs(labels))
    lines[labels < 0, 11] = ord("-")
    lines[:, 19] = ord("\n")
    return lines.tobytes()


def _write_digits(columns: np.ndarray, values: np.ndarray) -> None:
    rest = values.copy()
    for column in range(columns.shape[1] - 1, -1, -1):
        rest, digit = np.divmod(rest, 10)
        columns[:, column] = digit + ord("0")


def kv_labels(data: bytes, name: str, *, check_keys: bool = False) -> np.ndarray:
    """The labels (int64) of a key-label index, read as a matrix of bytes.

    To ``check_keys`` is to make sure that they run 0, 1, 2, ….

    Raises:
        DamageError: a line that is not of the fixed form, with its number.
    """
    count, rest = divmod(len(data), KV_LINE)
    if rest:
        raise DamageError(f"{name}: {len(data)} bytes are no whole number of {KV_LINE}-byte lines")
    lines = np.frombuffer(data, np.uint8).reshape(count, KV_LINE)
    negative = lines[:, 11] == ord("-")
    labels = np.zeros(count, np.int64)
    good = (lines[:, 10] == ord(" ")) & (lines[:, 19] == ord("\n"))
    for column in range(11, 19):
        digit = lines[:, column] - ord("0")  # uint8: anything below "0" wraps to a large number
        if column == 11:
            digit = np.where(negative, np.uint8(0), digit)
        good &= digit <= 9
        labels *= 10
        labels += digit
    good &= ~negative | (labels == -NO_IDENTITY)  # the only negative label
    if check_keys:
        expected = np.empty((count, 10), np.uint8)
        _write_digits(expected, np.arange(count))
        good &= (lines[:, :10] == expected).all(axis=1)
    if not good.all():
        line = int(np.argmin(good))
        text = bytes(lines[line]).decode("ascii", "backslashreplace").rstrip("\n")
        raise DamageError(
            f"{name}: line {line + 1} is {text!r}, not a key and a label; "
            "rebuild it with: facepack reindex"
        )
    labels[negative] *= -1
    return labels


def kv_keys(data: bytes, name: str) -> np.ndarray:
    """The keys (int64) of a key-label index whose lines are of the fixed form; they must ascend.

    Raises:
        DamageError: they do not, or a key is not of ten digits.
    """
    lines = np.frombuffer(data, np.uint8).reshape(-1, KV_LINE)
    digits = lines[:, :10] - np.uint8(ord("0"))
    keys = digits.astype(np.int64) @ 10 ** np.arange(9, -1, -1)
    if (digits > 9).any() or (np.diff(keys) <= 0).any():
        raise DamageError(f"{name}: its keys are not numbers of ten digits that ascend")
    return keys


def npy_bytes(array: np.ndarray) -> bytes:
    """A ``.npy`` file of ``array``."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


# Text files --------------------------------------------------------------------------------------


def labels_text(names: Mapping[int, str], classes: int) -> str:
    """``labels.txt`` of ``classes`` lines: line n is the source's name of identity n.

    Line breaks are escaped. Identities without a name have an empty line, as nearly all may be.
    """
    lines = []
    following = 0
    for label in sorted(label for label in names if 0 <= label < classes):
        lines.append("\n" * (label - following) + _escape(names[label]))
        following = label
    return "".join(lines) + "\n" * (classes - following)


def _escape(name: str) -> str:
    return name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def read_labels_text(text: str) -> list[str]:
    """The names that :func:`labels_text` wrote."""
    marks = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}

    def unescape(line: str) -> str:
        return re.sub(r"\\[\\nr]", lambda match: marks[match[0]], line)

    return [unescape(line) if "\\" in line else line for line in text.split("\n")[:-1]]


def json_text(value: Any) -> str:
    """JSON as facepack writes it: sorted keys, so that equal content is equal bytes."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def json_lines(values: Iterable[Any]) -> bytes:
    """A file of one JSON value a line, as ``quarantine.jsonl`` is."""
    lines = (json.dumps(value, sort_keys=True, ensure_ascii=False) + "\n" for value in values)
    return "".join(lines).encode()


def content_id(value: Any) -> str:
    """32 hex digits that stand for a JSON-able value: the id of a plan, so of a pack."""
    return xxhash.xxh3_128_hexdigest(json_text(value).encode())
