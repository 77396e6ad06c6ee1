"""The records of a pack as a list: what each is called, whose it is, how large it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from facepack.errors import ConfigError, DamageError, DecodeError, did_you_mean
from facepack.images import read_header
from facepack.store import format as fmt
from facepack.store.pack import Pack

_TOGETHER = 256  # records that are read at a time


@dataclass(frozen=True, kw_only=True)
class ListedRecord:
    """One record."""

    key: str  # shard/key
    position: int  # in the pack, from 0
    label: int  # its identity's number, -1 for none
    identity: str | None  # the identity's name in the source, if it had one
    name: str | None  # the record's name in the source, if it had one
    bytes: int  # of the encoded image
    height: int | None  # in pixels, with the width; None where the header cannot be read
    width: int | None


def find_identity(pack: Pack, words: str) -> np.ndarray:
    """The positions of the records of an identity, by name or else label: int64 (n,), ascending.

    Raises:
        ConfigError: there is none, or the label has no record.
    """
    names = pack.identity_names or []
    if words in names:
        label = names.index(words)
    elif re.fullmatch(r"-?[0-9]{1,9}", words):
        label = int(words)
    else:
        what = f"has no identity {words!r}{did_you_mean(words, names)}: give its label"
        raise ConfigError(f"{pack.path} {what if names else f'{what}, for it has no names'}")
    found = np.flatnonzero(pack.labels == label)
    if not len(found):
        raise ConfigError(
            f"{pack.path}: no record has the label {label}; labels are below {pack.classes:,}"
        )
    return found


def list_records(pack: Pack, positions: Sequence[int] | np.ndarray) -> Iterator[ListedRecord]:
    """The records at ``positions``, which ascend; each image's header is read.

    Raises:
        DamageError: a record, or the names in a shard, cannot be read.
    """
    wanted = np.asarray(positions, np.int64)
    identities = pack.identity_names or []
    stops = np.cumsum([shard["records"] for shard in pack.manifest["shards"]])
    for k, here in enumerate(np.split(wanted, np.searchsorted(wanted, stops[:-1]))):
        names = pack.read_reserved(k, fmt.NAMES) if len(here) else None
        for start in range(0, len(here), _TOGETHER):
            some = here[start : start + _TOGETHER].tolist()
            with pack.views(some) as images:
                for position, image in zip(some, images, strict=True):
                    key = pack.key(position)
                    label = int(pack.labels[position])
                    known = 0 <= label < len(identities)
                    yield ListedRecord(
                        key=key,
                        position=position,
                        label=label,
                        identity=(identities[label] or None) if known else None,
                        name=_name(pack, names, key),
                        bytes=len(image),
                        **_size(image),
                    )


def _name(pack: Pack, names: object, key: str) -> str | None:
    """The name of a record, by its key, among those of its shard."""
    if names is None:
        return None
    try:
        name = names[int(key.rpartition("/")[2])]  # type: ignore[index]
    except (LookupError, TypeError) as error:
        raise DamageError(f"{pack.path}: {key}: the names in its shard are not sound") from error
    return None if name is None else str(name)


def _size(image: memoryview) -> dict[str, int | None]:
    with suppress(DecodeError):
        header = read_header(image)
        return {"height": header.height, "width": header.width}
    return {"height": None, "width": None}
