"""All that a pack says of one record, and finding a record by what a user calls it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

from facepack.errors import DamageError, DecodeError, PackError
from facepack.images import ImageHeader, read_header
from facepack.store import format as fmt
from facepack.store.pack import Pack
from facepack.store.selection import shard_records

_LISTED = 5  # keys of equal names that an error lists


@dataclass(frozen=True, kw_only=True)
class RecordInfo:
    """What is known of one record."""

    key: str  # shard/key
    position: int  # in the pack, from 0
    label: int  # its identity's number, -1 for none
    identity: str | None  # the identity's name in the source, if it had one
    source_name: str | None  # the record's name in the source, if it had one
    source_ordinal: int  # its number among the image records of the source, from 0
    extra: dict[str, float | int]  # what else the source said of it, by name
    bytes: int  # of the encoded image
    # of the image, with height, width (pixels) and channels; None where its header cannot be read
    format: str | None
    height: int | None
    width: int | None
    channels: int | None
    orientation: int | None  # EXIF's, 1 to 8; images are decoded as stored
    sum_ok: bool  # whether key and image are those that were packed


def find_record(pack: Pack, words: str, *, by_name: bool = False) -> int:
    """The position of the record that ``words`` mean: ``shard/0000000012``, ``shard/12`` or ``12``.

    The last is a position. Or they are the source's name for it (``by_name``), which is looked for
    in every shard.

    Raises:
        PackError: no record is meant, or several of that name; says what is allowed.
        DamageError: the names in a shard cannot be read.
    """
    if by_name:
        return _find_by_name(pack, words)
    shard, slash, digits = words.rpartition("/")
    if digits.isascii() and digits.isdigit() and len(digits) <= 18:
        try:
            if slash:
                return pack.position(f"{shard}/{int(digits):010d}")
            if int(digits) < len(pack):
                return int(digits)
        except KeyError:
            pass
    example = pack.key(0) if len(pack) else "shard/0000000000"
    raise PackError(
        f"{pack.path} has no record {words!r}: give a key such as {example}, a position below "
        f"{len(pack):,}, or the source's own name with --name"
    )


def _find_by_name(pack: Pack, name: str) -> int:
    found: list[int] = []
    start = 0
    named = False
    for k, shard in enumerate(pack.manifest["shards"]):
        names = pack.read_reserved(k, fmt.NAMES)
        if isinstance(names, list):
            named = True
            numbered = enumerate(pack.shard_keys(k), start)
            found += [position for position, key in numbered if names[key] == name]
        start += shard["records"]
    if len(found) == 1:
        return found[0]
    if found:
        keys = ", ".join(pack.key(position) for position in found[:_LISTED])
        more = ", …" if len(found) > _LISTED else ""
        raise PackError(
            f"{pack.path}: {len(found):,} records have the name {name!r}: choose one by its key: "
            f"{keys}{more}"
        )
    why = "" if named else ": its source had no names of records"
    raise PackError(f"{pack.path} has no record of the name {name!r}{why}")


def describe_record(pack: Pack, position: int) -> RecordInfo:
    """Look up everything about the record at ``position``.

    Raises:
        DamageError: the record, or a reserved record of its shard, is missing or damaged.
    """
    record = pack[position]
    shard, _, digits = record.key.rpartition("/")
    number = int(digits)  # in its shard
    k = pack.shard_names.index(shard)
    count = shard_records(pack.manifest["shards"][k])
    names = pack.identity_names or []
    try:
        extra = pack.read_reserved(k, fmt.EXTRA)
        ordinal = fmt.unpack_column(extra["ordinal"], count)[number]
        columns = {
            str(name): fmt.unpack_column(column, count)[number].item()
            for name, column in extra["columns"].items()
        }
        source_ordinal = int(extra["first"]) + int(ordinal)
        stated = int(fmt.unpack_column(pack.read_reserved(k, fmt.CHECKSUMS), count)[number])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamageError(f"{pack.path}: {shard}: its reserved records are not sound") from error
    facts: dict[str, Any] = dict.fromkeys(field.name for field in fields(ImageHeader))
    with suppress(DecodeError):
        facts = vars(read_header(record.image))
    return RecordInfo(
        key=record.key,
        position=pack.position(record.key),
        label=record.label,
        identity=(names[record.label] or None) if 0 <= record.label < len(names) else None,
        source_name=pack.source_name(position),
        source_ordinal=source_ordinal,
        extra={name: value for name, value in columns.items() if value == value},
        bytes=len(record.image),
        **facts,
        sum_ok=fmt.record_checksum(fmt.record_key(number), record.image) == stated,
    )
