"""F2C's data sets as a source: LMDB databases, each with a kv file of keys and labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from facepack import images
from facepack.convert.formats.kv.data import KvData
from facepack.convert.formats.kv.datum import datum_image
from facepack.convert.formats.kv.index import KvIndex, read_kv
from facepack.convert.formats.kv.pairs import find_pairs
from facepack.convert.inputs import require_once, unused_stem
from facepack.convert.source import Entry, Group, OwnPart, Refusal, Source, shard_stem
from facepack.convert.source_file import file_name
from facepack.errors import DecodeError, SourceError
from facepack.store.format import MAX_LABEL
from facepack.store.record import SourceRecord

_SAMPLE = 64  # records whose content tells two databases apart that have the same kv file
_SIZED = 1024  # records of a database that are asked for their size, at least
_SIZED_APART = 256  # a look at a size is a random access, so that more of them would take long


@dataclass(eq=False, kw_only=True)
class KvPart(OwnPart):
    """Records whose lines follow each other in a kv file.

    Attributes:
        data: the database.
        kv: the kv file's name.
        key_bytes: the keys, one behind the other.
        key_ends: (n,) where each ends in that.
        labels: (n,) label of each.
    """

    remedy = "mend the database, or go on without this record"
    data: KvData
    kv: str
    start: int
    key_bytes: bytes
    key_ends: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        self.stop = self.start + len(self.labels)

    def read(self, keep: np.ndarray | None = None) -> Iterator[SourceRecord | Refusal]:
        """Read the records in the order of their lines.

        Raises:
            SourceError: the database cannot be read on, or is no longer the one that was looked at.
        """
        rows = range(len(self.labels)) if keep is None else np.flatnonzero(keep).tolist()
        keys = self._keys()
        with self.data.open() as reader:
            done = 0
            while done < len(rows):
                for value in reader.values(keys[row] for row in rows[done:]):
                    yield self._record(rows[done], keys[rows[done]].decode(), value)
                    done += 1

    def entries(self) -> Iterator[Entry]:
        """Label and key of each, as the kv file has them."""
        for key, label in zip(self._keys(), self.labels.tolist(), strict=True):
            yield Entry(label, key.decode())

    def _keys(self) -> list[bytes]:
        ends = self.key_ends.tolist()
        return [self.key_bytes[a:b] for a, b in zip([0, *ends], ends, strict=False)]

    def _record(self, row: int, key: str, value: bytes | int | None) -> SourceRecord | Refusal:
        if value is None:
            remedy = f"correct {self.kv}, or go on without this record"
            return self._refuse(row, key, "the database has no such key", remedy)
        if isinstance(value, int):
            reason = f"its value has {value:,} bytes; at most {images.MAX_BYTES:,} are taken"
            remedy = "set the environment variable FACEPACK_MAX_IMAGE_BYTES to allow more"
            return self._refuse(row, key, reason, remedy)
        try:
            image = datum_image(value)
        except DecodeError as error:
            return self._refuse(row, key, str(error), self.remedy)
        return SourceRecord(self.start + row, image, int(self.labels[row]), key)

    def _refuse(self, row: int, name: str | None, reason: str, remedy: str) -> Refusal:
        return Refusal(self.start + row, self.data.name, None, name, reason, remedy)


@dataclass(frozen=True, kw_only=True)
class _Set:
    """One database with its kv file; its records begin at ordinal ``start``."""

    data: KvData
    kv: Path
    index: KvIndex  # labels are offset
    stem: str
    start: int

    @property
    def stop(self) -> int:
        return self.start + len(self.index)

    def sizes(self) -> np.ndarray:
        """Bytes of some values, spread evenly, each standing for those that follow it."""
        apart = min(max(len(self.index) // _SIZED, 1), _SIZED_APART)
        keys = (self.key(row) for row in range(0, len(self.index), apart))
        with self.data.open() as reader:
            sized = np.asarray([size or 0 for size in reader.sizes(keys)], np.uint32)
        return np.repeat(sized, apart)[: len(self.index)]

    def sample(self) -> str:
        """XXH3-128 of values spread evenly over the set."""
        rows = np.linspace(0, len(self.index) - 1, min(_SAMPLE, len(self.index))).astype(int)
        digest = xxhash.xxh3_128()
        with self.data.open() as reader:
            for row in rows.tolist():
                (value,) = reader.values([self.key(row)])
                digest.update(xxhash.xxh3_128_digest(value if isinstance(value, bytes) else b""))
        return digest.hexdigest()

    def key(self, row: int) -> bytes:
        return self.index.keys(row, row + 1)[0]


class KvSource(Source):
    """The records of one or several kv files, in the order of their lines.

    The label is the kv file's, whatever the Datum says; -1 means no identity. Raw pixels in a
    Caffe Datum become a PNG: nothing else is encoded anew.

    Args:
        paths: databases and kv files in pairs, or folders that hold them; see
            :func:`~facepack.convert.formats.kv.pairs.find_pairs`.
        offset_labels: count each pair's labels from where the pair before it ends, as F2C does;
            otherwise all pairs share their identities.

    Raises:
        SourceError: a pair is incomplete, a line malformed, or a database damaged.
    """

    kind = "kv"

    def __init__(self, paths: Sequence[Path], *, offset_labels: bool = True) -> None:
        self.notices: list[str] = []
        self._offset_labels = offset_labels
        self._sets: list[_Set] = []
        stems: set[str] = set()
        count = identities = 0
        pairs = find_pairs(paths)
        require_once(pair.data for pair in pairs)
        for data, kv in pairs:
            index = read_kv(kv)
            if not len(index):
                raise SourceError(f"{kv}: has no lines; leave this pair out")
            if offset_labels:
                identities = _offset(index.labels, identities, kv)
            stem = unused_stem(shard_stem(kv.stem.removesuffix("_kv")), stems)
            looked = KvData.look(data)
            self._compare(looked, kv, len(index))
            self._sets.append(_Set(data=looked, kv=kv, index=index, stem=stem, start=count))
            count += len(index)
        self._count = count

    def _compare(self, data: KvData, kv: Path, lines: int) -> None:
        """Tell of records that no line can name, there being more of them than lines."""
        with data.open() as reader:
            entries = reader.entries()
        if entries > lines:
            self.notices.append(
                f"{file_name(kv)} has {lines:,} lines for the {entries:,} records of {data.name}: "
                "those without a line were passed over"
            )

    def __len__(self) -> int:
        return self._count

    def describe(self) -> dict[str, Any]:
        """Names, sizes and counts of all files, hashes of each kv text and of a sample of values.

        Raises:
            SourceError: a database cannot be read.
        """
        return {
            "kind": self.kind,
            "images": len(self),
            "offset_labels": self._offset_labels,
            "sets": [self._describe(each) for each in self._sets],
        }

    def _describe(self, each: _Set) -> dict[str, Any]:
        with each.data.open() as reader:
            entries = reader.entries()
        return {
            "lmdb": each.data.name,
            "bytes": each.data.size,
            "entries": entries,
            "kv": file_name(each.kv),
            "kv_bytes": each.index.size,
            "lines": len(each.index),
            "kv_xxh3_128": each.index.digest,
            "sample_xxh3_128": each.sample(),
        }

    def groups(self) -> list[Group]:
        """One for each pair, called like the kv file."""
        return [Group(each.stem, each.start, each.stop) for each in self._sets]

    def sizes(self) -> np.ndarray:
        """An estimate: of many records, one in up to 256 stands for its neighbours.

        Raises:
            SourceError: a database cannot be read.
        """
        return self._sizes

    @cached_property
    def _sizes(self) -> np.ndarray:
        return np.concatenate([each.sizes() for each in self._sets])

    def part(self, start: int, stop: int) -> KvPart:
        """The records ``[start, stop)``, which lie in one pair."""
        each = next(each for each in self._sets if start < each.stop)
        first, last = start - each.start, stop - each.start
        key_bytes, key_ends = each.index.keys(first, last)
        return KvPart(
            data=each.data,
            kv=file_name(each.kv),
            start=start,
            key_bytes=key_bytes,
            key_ends=key_ends,
            labels=each.index.labels[first:last],
        )


def _offset(labels: np.ndarray, identities: int, kv: Path) -> int:
    """Count labels from ``identities`` up, in place; returns the number behind the last."""
    greatest = int(labels.max(initial=-1))
    if identities + greatest > MAX_LABEL:
        raise SourceError(
            f"{kv}: behind the {identities} identities of the pairs before it, labels reach "
            f"{identities + greatest}; at most {MAX_LABEL} are allowed: convert fewer pairs at once"
        )
    labels[labels >= 0] += identities
    return identities + greatest + 1
